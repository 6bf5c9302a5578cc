//! The PROXY protocol, version 2: the header in which a trusted proxy tells whom it speaks for.
//!
//! It stands before the first byte of the connection (before TLS too). The parser takes what was
//! received so far and says how many bytes the header takes, and which addresses it names, or that
//! it needs more. Specification: `proxy-protocol.txt` of HAProxy, section 2.2.
//!
//! # Invariants
//!
//! - The verdict depends on the bytes alone: more bytes never change a verdict other than
//!   [`Parsed::Incomplete`], and a wrong byte is refused as soon as it is seen.
//! - At most [`HEADER_BYTES_MAX`] are ever asked for, and no input makes it panic.
//!
//! # Decisions
//!
//! - Version 1 (text) is refused by name: its end is found by searching, its addresses are text, and
//!   every proxy in use can speak version 2.
//! - `LOCAL` (the proxy's own health checks), and `PROXY` with an unspecified family, name nobody:
//!   the addresses of the socket hold.
//! - UDP and UNIX addresses are refused. Taken as "nobody", they would charge all clients of a badly
//!   configured proxy to the proxy's own address, in limits and logs alike.
//! - TLVs are stepped over unread, by the length in the header. None is used, so none is judged: a
//!   parser that is not there has no fault.
//! - Own code. `ppp` (last change February 2025) parses both versions and hands out borrowed models;
//!   `proxy-header` (last change July 2024) is small, too, but neither bounds the length nor refuses
//!   early. A hundred lines cost less than the care for a dependency on the first bytes of peers.
//!
//! # What it leaves to others
//!
//! Whom to trust: the listener parses only what comes from the networks of its `proxy_protocol` key,
//! and there a connection without the header is refused. The time until the header is complete.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

/// The longest header that is accepted, TLVs included: one receive buffer. Addresses need 52 bytes,
/// the identifiers that clouds add some 100; only a proxy that passes on the whole TLS certificate
/// of its client comes near the 64 KiB that the format allows.
pub const HEADER_BYTES_MAX: usize = 4_096;

/// What stands at the beginning of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// The bytes may become a header, but more are needed.
    Incomplete,
    /// A whole header.
    Complete {
        /// Bytes of the header; the client's own bytes begin behind it.
        consumed: usize,
        /// Whom the proxy speaks for; `None` when for nobody but itself.
        forwarded: Option<Forwarded>,
    },
}

/// The connection between client and proxy, as the proxy tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded {
    /// The client.
    pub source: SocketAddr,
    /// The address of the proxy that the client called.
    pub destination: SocketAddr,
}

/// Why the bytes are no header that we accept. The connection is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProxyError {
    /// Something else than a PROXY header.
    #[error(
        "the connection does not begin with a PROXY protocol header; \
         let the proxy send version 2, or take its network out of proxy_protocol"
    )]
    NotProxy,
    /// The text form.
    #[error("the proxy speaks version 1 (text) of the PROXY protocol; let it send version 2")]
    Version1,
    /// A version that does not exist yet.
    #[error("PROXY protocol version {0} is unknown; let the proxy send version 2")]
    Version(u8),
    /// A command other than LOCAL and PROXY.
    #[error("PROXY protocol command {0:#x} is unknown; this is a fault of the proxy")]
    Command(u8),
    /// A family or transport that cannot be of a TCP client.
    #[error("the PROXY header carries addresses of kind {0:#04x}; only TCP over IPv4 and IPv6 is accepted")]
    Family(u8),
    /// The header ends within the addresses.
    #[error("the PROXY header leaves {length} bytes for addresses that take {needed}; a fault of the proxy")]
    TooShort {
        /// Bytes that the header announces.
        length: usize,
        /// Bytes that the addresses take.
        needed: usize,
    },
    /// The header is longer than we are willing to hold.
    #[error("the PROXY header has {0} bytes, more than {HEADER_BYTES_MAX}; let the proxy send fewer TLVs")]
    TooLong(usize),
}

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const VERSION_1: &[u8] = b"PROXY ";

/// Signature, version and command, family and transport, length.
const FIXED_BYTES: usize = 16;

const COMMAND_LOCAL: u8 = 0x0;
const COMMAND_PROXY: u8 = 0x1;

const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const TCP4_BYTES: usize = 12;
const TCP6_BYTES: usize = 36;

/// Reads the header at the beginning of `bytes`, all that was received so far.
pub fn parse(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    check_signature(bytes)?;
    let Some(&version_command) = bytes.get(12) else { return Ok(Parsed::Incomplete) };
    let command = check_version(version_command)?;
    let Some(&family) = bytes.get(13) else { return Ok(Parsed::Incomplete) };
    let address_bytes = check_family(command, family)?;
    let Some(&length) = bytes.get(14..).and_then(|rest| rest.first_chunk()) else {
        return Ok(Parsed::Incomplete);
    };

    let length = usize::from(u16::from_be_bytes(length));
    let consumed = FIXED_BYTES + length;
    if length < address_bytes {
        return Err(ProxyError::TooShort { length, needed: address_bytes });
    }
    if consumed > HEADER_BYTES_MAX {
        return Err(ProxyError::TooLong(consumed));
    }
    let Some(header) = bytes.get(..consumed) else { return Ok(Parsed::Incomplete) };
    let forwarded = match address_bytes {
        TCP4_BYTES => header[FIXED_BYTES..].first_chunk().map(read_tcp4),
        TCP6_BYTES => header[FIXED_BYTES..].first_chunk().map(read_tcp6),
        _ => None,
    };
    Ok(Parsed::Complete { consumed, forwarded })
}

fn check_signature(bytes: &[u8]) -> Result<(), ProxyError> {
    let seen = &bytes[..bytes.len().min(SIGNATURE.len())];
    if SIGNATURE.starts_with(seen) {
        return Ok(());
    }
    // As long as it may still become version 1, wait: the operator shall read the true reason.
    let seen = &bytes[..bytes.len().min(VERSION_1.len())];
    match VERSION_1.starts_with(seen) {
        true if seen.len() == VERSION_1.len() => Err(ProxyError::Version1),
        true => Ok(()),
        false => Err(ProxyError::NotProxy),
    }
}

#[derive(Debug, Clone, Copy)]
enum Command {
    Local,
    Proxy,
}

fn check_version(version_command: u8) -> Result<Command, ProxyError> {
    match (version_command >> 4, version_command & 0xf) {
        (2, COMMAND_LOCAL) => Ok(Command::Local),
        (2, COMMAND_PROXY) => Ok(Command::Proxy),
        (2, command) => Err(ProxyError::Command(command)),
        (version, _) => Err(ProxyError::Version(version)),
    }
}

/// How many bytes of addresses are to be read. With LOCAL the rest is discarded, whatever it is.
fn check_family(command: Command, family: u8) -> Result<usize, ProxyError> {
    match (command, family) {
        (Command::Local, _) | (Command::Proxy, UNSPECIFIED) => Ok(0),
        (Command::Proxy, TCP4) => Ok(TCP4_BYTES),
        (Command::Proxy, TCP6) => Ok(TCP6_BYTES),
        (Command::Proxy, family) => Err(ProxyError::Family(family)),
    }
}

fn read_tcp4(bytes: &[u8; TCP4_BYTES]) -> Forwarded {
    let [a, b, c, d, e, f, g, h, ports @ ..] = *bytes;
    forwarded([a, b, c, d].into(), [e, f, g, h].into(), ports)
}

fn read_tcp6(bytes: &[u8; TCP6_BYTES]) -> Forwarded {
    let mut addresses = [[0_u8; 16]; 2];
    addresses.as_flattened_mut().copy_from_slice(&bytes[..32]);
    let [source, destination] = addresses.map(IpAddr::from);
    forwarded(source, destination, [bytes[32], bytes[33], bytes[34], bytes[35]])
}

fn forwarded(source: IpAddr, destination: IpAddr, [a, b, c, d]: [u8; 4]) -> Forwarded {
    Forwarded {
        source: SocketAddr::new(source, u16::from_be_bytes([a, b])),
        destination: SocketAddr::new(destination, u16::from_be_bytes([c, d])),
    }
}

/// Checks that the verdict on `data` is reached once and for all, byte by byte.
#[doc(hidden)]
pub fn fuzz_logic(data: &[u8]) {
    let verdict = parse(data);
    if let Ok(Parsed::Complete { consumed, .. }) = verdict {
        assert!(consumed <= data.len().min(HEADER_BYTES_MAX), "a header lies within the bytes");
    }
    let first = (0..=data.len().min(HEADER_BYTES_MAX))
        .map(|length| parse(&data[..length]))
        .find(|verdict| *verdict != Ok(Parsed::Incomplete));
    assert_eq!(first.unwrap_or(Ok(Parsed::Incomplete)), verdict, "more bytes do not change a verdict");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The writer of the tests: any header, right or wrong.
    fn header(version_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([version_command, family]);
        bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    fn addresses(source: SocketAddr, destination: SocketAddr) -> (u8, Vec<u8>) {
        let mut bytes = vec![];
        let family = match (source.ip(), destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                0x11
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                0x21
            }
            _ => panic!("one family"),
        };
        bytes.extend(source.port().to_be_bytes());
        bytes.extend(destination.port().to_be_bytes());
        (family, bytes)
    }

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_header_as_haproxy_sends_it() {
        let bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\xdd\xd5\x01\xbbGET /";
        let forwarded =
            Forwarded { source: socket("192.0.2.1:56789"), destination: socket("198.51.100.2:443") };
        assert_eq!(parse(bytes), Ok(Parsed::Complete { consumed: 28, forwarded: Some(forwarded) }));
    }

    #[test]
    fn headers_that_name_nobody() {
        let table = [
            ("local, unspecified", header(0x20, 0x00, &[])),
            ("local, with addresses", header(0x20, 0x11, &[7; 12])),
            ("local, with addresses too short", header(0x20, 0x21, &[7; 3])),
            ("local, of a family that does not exist", header(0x20, 0xff, &[7; 3])),
            ("proxy, unspecified", header(0x21, 0x00, &[])),
            ("proxy, unspecified, with TLVs", header(0x21, 0x00, &[4, 0, 1, 0])),
        ];
        for (what, bytes) in table {
            let consumed = bytes.len();
            assert_eq!(parse(&bytes), Ok(Parsed::Complete { consumed, forwarded: None }), "{what}");
        }
    }

    #[test]
    fn what_is_refused() {
        use ProxyError::*;
        let table = [
            ("HTTP", b"GET / HTTP/1.1\r\n".to_vec(), NotProxy),
            ("one wrong byte", b"G".to_vec(), NotProxy),
            ("HTTP with a method that begins alike", b"PUT / HTTP/1.1\r\n".to_vec(), NotProxy),
            ("the last byte of the signature", b"\r\n\r\n\0\r\nQUIT\r".to_vec(), NotProxy),
            ("version 1", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(), Version1),
            ("version 3", header(0x31, 0x11, &[0; 12]), Version(3)),
            ("version 0", header(0x01, 0x11, &[0; 12]), Version(0)),
            ("command 2", header(0x22, 0x11, &[0; 12]), Command(2)),
            ("UDP over IPv4", header(0x21, 0x12, &[0; 12]), Family(0x12)),
            ("UDP over IPv6", header(0x21, 0x22, &[0; 36]), Family(0x22)),
            ("UNIX stream", header(0x21, 0x31, &[0; 216]), Family(0x31)),
            ("unspecified stream", header(0x21, 0x01, &[0; 12]), Family(0x01)),
            ("IPv4, one byte short", header(0x21, 0x11, &[0; 11]), TooShort { length: 11, needed: 12 }),
            ("IPv6, one byte short", header(0x21, 0x21, &[0; 35]), TooShort { length: 35, needed: 36 }),
            ("one byte too long", header(0x21, 0x11, &[0; 4_081]), TooLong(4_097)),
            ("local, too long", header(0x20, 0x00, &[0; 65_535]), TooLong(65_551)),
        ];
        for (what, bytes, expected) in table {
            assert_eq!(parse(&bytes), Err(expected), "{what}");
            fuzz_logic(&bytes);
        }
    }

    #[test]
    fn the_longest_header_is_accepted() {
        let bytes = header(0x21, 0x11, &[0; HEADER_BYTES_MAX - FIXED_BYTES]);
        assert!(matches!(parse(&bytes), Ok(Parsed::Complete { consumed: HEADER_BYTES_MAX, .. })));
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_its_bytes_arrive() {
        let bytes = header(0x21, 0x11, &[0; 5_000]);
        assert_eq!(parse(&bytes[..15]), Ok(Parsed::Incomplete));
        assert_eq!(parse(&bytes[..16]), Err(ProxyError::TooLong(5_016)));
    }

    #[test]
    fn each_beginning_of_a_header_is_incomplete() {
        let (family, mut rest) = addresses(socket("[2001:db8::1]:1"), socket("[2001:db8::2]:2"));
        rest.extend([0xea, 0, 4, 1, 2, 3, 4]);
        let bytes = header(0x21, family, &rest);
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length]), Ok(Parsed::Incomplete), "{length} bytes");
        }
        assert!(matches!(parse(&bytes), Ok(Parsed::Complete { consumed: 59, forwarded: Some(_) })));
    }

    #[test]
    fn errors_say_what_to_do() {
        assert!(ProxyError::Version1.to_string().contains("let it send version 2"));
        assert!(ProxyError::TooLong(5_000).to_string().contains("5000 bytes, more than 4096"));
    }

    fn any_pair() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
        let ports = any::<(u16, u16)>();
        let v4 = any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
        let v6 = any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
        (prop_oneof![v4, v6], ports)
            .prop_map(|((a, b), (c, d))| (SocketAddr::new(a, c), SocketAddr::new(b, d)))
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(
            (source, destination) in any_pair(),
            tlvs in proptest::collection::vec(any::<u8>(), 0..300),
            client in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let (family, mut rest) = addresses(source, destination);
            rest.extend(tlvs);
            let mut bytes = header(0x21, family, &rest);
            let consumed = bytes.len();
            bytes.extend(client);
            let forwarded = Some(Forwarded { source, destination });
            prop_assert_eq!(parse(&bytes), Ok(Parsed::Complete { consumed, forwarded }));
        }

        #[test]
        fn verdicts_on_any_bytes_are_final(
            version_command in any::<u8>(),
            family in any::<u8>(),
            rest in proptest::collection::vec(any::<u8>(), 0..60),
            damage in any::<Option<(prop::sample::Index, u8)>>(),
        ) {
            let mut bytes = header(version_command, family, &rest);
            if let Some((place, byte)) = damage {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            fuzz_logic(&bytes);
        }
    }
}
