//! What a fuzzer calls: any datagrams at an endpoint's state machine, without sockets and with a clock of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use berth_steer::cid::{Destination, Generation};
use bytes::BytesMut;
use quinn_proto::{Connection, ConnectionHandle, DatagramEvent, Incoming};

use super::endpoint::{Settings, destination_id, machine};
use super::keys::QuicKeys;
use crate::config::{Config, ConnectionIds, Limits, Quic};
use crate::keyring::{Keyring, RootSecret, Schedule};

/// Everything that stays the same from input to input.
struct Site {
    settings: Settings,
    limits: Limits,
    here: Destination,
}

static SITE: LazyLock<Site> = LazyLock::new(|| {
    let ring = Keyring::new(0, RootSecret::new([1; 32]));
    let hour = Duration::from_secs(3600);
    let schedule = Schedule::new(hour, 2 * hour).expect("a root is accepted for longer than it is current");
    let keys = Arc::new(QuicKeys::new(&ring, &schedule, ConnectionIds::Encrypted, 0));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a name is given");
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .expect("the key is that of the certificate");
    let text = "[[listen]]\naddress = \"127.0.0.1:0\"\nprotocol = \"https\"\n";
    let limits = Config::parse(text).map(|config| config.limits).expect("a listener is enough");
    let config = Quic {
        server: 7,
        connection_ids: ConnectionIds::Encrypted,
        connection_id_lifetime: Duration::from_secs(600),
        hosts: Vec::new(),
    };
    let generation = Generation::new(0).expect("0 is a generation");
    let here = Destination { server: 7, core: 0, generation };
    Site { settings: Settings { keys, tls: Arc::new(tls), cores: 2, config }, limits, here }
});

/// Datagrams, each after a byte that says from which port, whether strangers are retried, and whether time passes, and
/// two that say its length. Panics if an answer to a stranger is longer than what it answers.
pub fn fuzz_logic(mut data: &[u8]) {
    let site = &*SITE;
    let mut endpoint = machine(&site.settings, site.here, &Arc::default(), &site.limits)
        .expect("the configuration is valid");
    let mut connections = HashMap::new();
    let mut now = Instant::now();
    while let Some(([how, high, low], rest)) = data.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (datagram, rest) = rest.split_at(length);
        data = rest;
        let from = SocketAddr::from(([127, 0, 0, 1], 1000 + u16::from(how & 3)));
        if let Some(id) = destination_id(datagram) {
            let _ = site.settings.keys.destination(id);
        }
        let mut reply = Vec::new();
        let event = endpoint.handle(now, from, None, None, BytesMut::from(datagram), &mut reply);
        let answer = match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(connection) = connections.get_mut(&handle) {
                    Connection::handle_event(connection, event);
                }
                0
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                meet(&mut endpoint, &mut connections, incoming, how & 4 != 0, now)
            }
            Some(DatagramEvent::Response(transmit)) => transmit.size,
            None => 0,
        };
        assert!(answer <= length, "an answer of {answer} bytes for {length}");
        if how & 8 != 0 {
            now += Duration::from_secs(1);
        }
        connections.retain(|handle, connection| drive(&mut endpoint, *handle, connection, now));
    }
}

/// Retries or accepts; says how long the answer is.
fn meet(
    endpoint: &mut quinn_proto::Endpoint,
    connections: &mut HashMap<ConnectionHandle, Connection>,
    incoming: Incoming,
    retry: bool,
    now: Instant,
) -> usize {
    let mut reply = Vec::new();
    if retry && incoming.may_retry() {
        return endpoint.retry(incoming, &mut reply).map_or(0, |transmit| transmit.size);
    }
    match endpoint.accept(incoming, now, &mut reply, None) {
        Ok((handle, connection)) => {
            connections.insert(handle, connection);
            0
        }
        Err(error) => error.response.map_or(0, |transmit| transmit.size),
    }
}

/// Does all that a connection wants done; false when it is over.
fn drive(
    endpoint: &mut quinn_proto::Endpoint,
    handle: ConnectionHandle,
    connection: &mut Connection,
    now: Instant,
) -> bool {
    if connection.poll_timeout().is_some_and(|at| at <= now) {
        connection.handle_timeout(now);
    }
    while connection.poll().is_some() {}
    let mut train = Vec::new();
    while connection.poll_transmit(now, 10, &mut train).is_some() {
        train.clear();
    }
    while let Some(event) = connection.poll_endpoint_events() {
        if let Some(event) = endpoint.handle_event(handle, event) {
            connection.handle_event(event);
        }
    }
    !connection.is_drained()
}
