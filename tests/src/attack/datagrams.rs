//! Datagrams that an attacker of QUIC sends: first packets of clients that do not exist, packets of connections that do
//! not exist, and noise.
//!
//! A first packet is whole and valid, or a node would not spend more than a look on it: a ClientHello, encrypted with
//! the keys that follow from the connection id (RFC 9001, 5.2), a fresh one each time.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::quic::{ClientConnection, Suite, Version};

/// Bytes of a datagram with a client's first packet, by RFC 9000, 14.1.
const INITIAL_BYTES: usize = 1200;
/// Bytes of the ids that the attacker makes up for the node and for itself.
const ID_LEN: usize = 8;
/// The attacker's own id.
const OWN_ID: [u8; ID_LEN] = *b"attacker";
/// Bytes of a sealed packet's tag.
const TAG_LEN: usize = 16;
/// Bytes of the packet number, the most that there can be, so that what is sampled begins right after it.
const NUMBER_LEN: usize = 4;

/// A source of such datagrams, the same each time.
pub struct Datagrams {
    hello: Vec<u8>,
    suite: Suite,
    state: u64,
}

impl Datagrams {
    /// They begin with the seed.
    ///
    /// # Panics
    ///
    /// If the TLS library makes no ClientHello.
    pub fn new(seed: u64) -> Self {
        let suite = TLS13_AES_128_GCM_SHA256.tls13().and_then(rustls::Tls13CipherSuite::quic_suite);
        Self { hello: hello(), suite: suite.expect("the suite is one of QUIC"), state: seed | 1 }
    }

    /// The next random number (xorshift).
    pub fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn random_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend(self.random().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }

    /// The first packet of another client.
    ///
    /// # Panics
    ///
    /// If the TLS library encrypts nothing.
    pub fn initial(&mut self) -> Vec<u8> {
        let id = self.random().to_le_bytes();
        let keys = self.suite.keys(&id, rustls::Side::Client, Version::V1).local;
        // Initial with four bytes of packet number; version 1; both ids; no token; length of what follows.
        let mut packet = vec![0xc3, 0, 0, 0, 1, ID_LEN as u8];
        packet.extend(id);
        packet.push(ID_LEN as u8);
        packet.extend(OWN_ID);
        packet.push(0);
        let length = INITIAL_BYTES - packet.len() - 2;
        packet.extend(varint(length));
        let number_at = packet.len();
        packet.extend([0; NUMBER_LEN]);
        // CRYPTO at offset 0, then PADDING.
        let mut payload = vec![0x06, 0];
        payload.extend(varint(self.hello.len()));
        payload.extend(&self.hello);
        payload.resize(INITIAL_BYTES - packet.len() - TAG_LEN, 0);
        let tag = keys.packet.encrypt_in_place(0, &packet, &mut payload).expect("the keys encrypt");
        packet.extend(payload);
        packet.extend(tag.as_ref());
        let (head, sealed) = packet.split_at_mut(number_at + NUMBER_LEN);
        let (first, number) = head.split_at_mut(number_at);
        let sample = &sealed[..keys.header.sample_len()];
        keys.header.encrypt_in_place(sample, &mut first[0], number).expect("the sample has its length");
        packet
    }

    /// A packet of a connection that never was: a short header, a random id, and what could be a payload.
    pub fn stray(&mut self) -> Vec<u8> {
        let mut packet = self.random_bytes(60);
        packet[0] = 0x40 | packet[0] & 0x3f;
        packet
    }

    /// Random bytes, as many as fit, or fewer.
    pub fn noise(&mut self) -> Vec<u8> {
        let count = self.random() as usize % 1473;
        self.random_bytes(count)
    }
}

/// The first bytes of a TLS client that wants HTTP/3.
fn hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h3".to_vec()];
    let name = "localhost".try_into().expect("a valid name");
    // The transport parameter that no client may leave out: its id. All others have a default.
    let parameters = [&[0x0f, ID_LEN as u8], OWN_ID.as_slice()].concat();
    let client = ClientConnection::new(Arc::new(config), Version::V1, name, parameters);
    let mut hello = Vec::new();
    let _ = client.expect("a client").write_hs(&mut hello);
    assert!(!hello.is_empty() && hello.len() < INITIAL_BYTES - 100, "the ClientHello fits: {}", hello.len());
    hello
}

/// A number below 2^14 as QUIC writes it, in two bytes.
fn varint(number: usize) -> [u8; 2] {
    let number = u16::try_from(number).ok().filter(|number| *number < 1 << 14);
    (number.expect("lengths in a datagram are small") | 1 << 14).to_be_bytes()
}

/// A socket towards the node, whose answers are thrown away by the kernel once its buffer is full.
///
/// # Panics
///
/// If there is no free port.
pub fn socket(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    socket.connect(to).expect("the address is of the same family");
    socket
}
