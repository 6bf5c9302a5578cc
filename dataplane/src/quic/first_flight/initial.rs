//! Initial packets of QUIC version 1, as far as a ClientHello is concerned.
//!
//! What a client sends before it knows the server's keys is sealed with keys that anybody can derive from the id that it
//! made up (RFC 9001, 5.2). So a core can read a first flight before it decides who accepts it. Everything is read from
//! a copy: the datagram stays as it came, for the one that accepts it.
//!
//! # Invariants
//!
//! - No bytes panic, and no number in them makes the work longer than they are.
//! - A packet counts only if its seal holds: a damaged one changes nothing of what was read.
//!
//! Left to others: whether the packets are those that the protocol allows; the one that accepts judges them.

use rustls::Side;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::quic::{DirectionalKeys, Version};

use super::hello::Hello;

/// QUIC version 1 (RFC 9000).
const VERSION: u32 = 1;
/// Longest connection id of this version.
pub(super) const ID_BYTES_MAX: usize = 20;
/// Bytes from the start of the packet number to the sample of header protection (RFC 9001, 5.4.2), and of the sample.
const TO_SAMPLE: usize = 4;
const SAMPLE: usize = 16;

/// Why a datagram says nothing about its connection's host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// There is no whole Initial of version 1 in it.
    NoInitial,
    /// No Initial in it has a seal that holds.
    Sealed,
    /// A frame that does not belong here, or is cut, or reaches too far.
    Frame,
    /// The client gives up.
    Closed,
}

/// The keys that the client of this original id seals with.
pub(super) fn client_keys(original: &[u8]) -> DirectionalKeys {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().and_then(rustls::Tls13CipherSuite::quic_suite);
    let suite = suite.expect("the suite of Initials is one of TLS 1.3 and of QUIC");
    suite.keys(original, Side::Server, Version::V1).remote
}

/// Reads the Initials of a datagram that carry this id, and adds their pieces of the ClientHello.
pub(super) fn read(
    datagram: &[u8],
    original: &[u8],
    keys: &DirectionalKeys,
    hello: &mut Hello,
) -> Result<(), Unreadable> {
    let (mut rest, mut outcome) = (datagram, Err(Unreadable::NoInitial));
    while let Some((packet, next)) = next_packet(rest) {
        rest = next;
        if packet.kind != Kind::Initial || packet.id != original {
            continue;
        }
        match open(&packet, keys) {
            Some(payload) => {
                read_frames(&payload, hello)?;
                outcome = Ok(());
            }
            None => outcome = outcome.or(Err(Unreadable::Sealed)),
        }
    }
    outcome
}

/// What a packet with a long header is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Initial,
    /// 0-RTT or Handshake.
    Other,
}

/// One packet of a datagram.
#[derive(Debug, PartialEq, Eq)]
struct Packet<'d> {
    kind: Kind,
    /// The destination id.
    id: &'d [u8],
    /// From its first byte to its last.
    bytes: &'d [u8],
    /// Where the packet number begins.
    number: usize,
}

/// The first packet and what follows it; nothing if it has no long header of version 1 with a length.
fn next_packet(datagram: &[u8]) -> Option<(Packet<'_>, &[u8])> {
    let mut reader = Reader(datagram);
    let [first] = reader.array()?;
    if first & 0x80 == 0 || reader.array().map(u32::from_be_bytes)? != VERSION {
        return None;
    }
    let id = reader.short_bytes(ID_BYTES_MAX)?;
    reader.short_bytes(ID_BYTES_MAX)?;
    let kind = match first >> 4 & 3 {
        0 => {
            let token = reader.varint()?;
            reader.bytes(token)?;
            Kind::Initial
        }
        3 => return None, // A Retry, which no client sends.
        _ => Kind::Other,
    };
    let length = reader.varint()?;
    let number = datagram.len() - reader.0.len();
    reader.bytes(length)?;
    let end = datagram.len() - reader.0.len();
    Some((Packet { kind, id, bytes: &datagram[..end], number }, reader.0))
}

/// The frames of a packet; nothing if its seal does not hold.
fn open(packet: &Packet<'_>, keys: &DirectionalKeys) -> Option<Vec<u8>> {
    let sample_at = packet.number + TO_SAMPLE;
    let sample = packet.bytes.get(sample_at..sample_at + SAMPLE)?;
    let mut bytes = packet.bytes.to_vec();
    let (&mut mut first, rest) = bytes.split_first_mut()?;
    let number = rest.get_mut(packet.number - 1..sample_at - 1)?;
    keys.header.decrypt_in_place(sample, &mut first, number).ok()?;
    bytes[0] = first;
    let number_bytes = usize::from(first & 3) + 1;
    let (header, payload) = bytes.split_at_mut_checked(packet.number + number_bytes)?;
    let number = header[packet.number..].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    // A client's first packets have small numbers: what is written is the whole number.
    let length = keys.packet.decrypt_in_place(number, header, payload).ok()?.len();
    let start = header.len();
    bytes.truncate(start + length);
    bytes.drain(..start);
    Some(bytes)
}

/// Reads the frames of an Initial.
pub(super) fn read_frames(payload: &[u8], hello: &mut Hello) -> Result<(), Unreadable> {
    let mut reader = Reader(payload);
    while !reader.0.is_empty() {
        read_frame(&mut reader, hello)?;
    }
    Ok(())
}

fn read_frame(reader: &mut Reader<'_>, hello: &mut Hello) -> Result<(), Unreadable> {
    const CUT: Unreadable = Unreadable::Frame;
    match reader.varint().ok_or(CUT)? {
        0x00 | 0x01 => {} // PADDING, PING
        kind @ (0x02 | 0x03) => skip_ack(reader, kind).ok_or(CUT)?,
        0x06 => {
            let (offset, length) = (reader.varint().ok_or(CUT)?, reader.varint().ok_or(CUT)?);
            let piece = reader.bytes(length).ok_or(CUT)?;
            hello.add(offset, piece).map_err(|_| Unreadable::Frame)?;
        }
        0x1c => return Err(Unreadable::Closed),
        _ => return Err(Unreadable::Frame),
    }
    Ok(())
}

/// Skips an ACK: largest, delay, number of ranges, first range, then two numbers for each range, and three counts of ECN.
fn skip_ack(reader: &mut Reader<'_>, kind: u64) -> Option<()> {
    reader.varint()?;
    reader.varint()?;
    let ranges = reader.varint()?;
    reader.varint()?;
    // Each takes bytes, so that a large number ends with them.
    for _ in 0..ranges {
        reader.varint()?;
        reader.varint()?;
    }
    if kind == 0x03 {
        reader.varint()?;
        reader.varint()?;
        reader.varint()?;
    }
    Some(())
}

/// Bytes that are still to be read.
struct Reader<'d>(&'d [u8]);

impl<'d> Reader<'d> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn bytes(&mut self, length: u64) -> Option<&'d [u8]> {
        let (bytes, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Bytes behind one that says how many they are.
    fn short_bytes(&mut self, max: usize) -> Option<&'d [u8]> {
        let [length] = self.array()?;
        (usize::from(length) <= max).then(|| self.bytes(length.into()))?
    }

    /// A number whose first two bits say how long it is (RFC 9000, 16).
    fn varint(&mut self) -> Option<u64> {
        let first = *self.0.first()?;
        let bytes = self.bytes(1 << (first >> 6))?;
        let rest =
            bytes[1..].iter().fold(u64::from(first & 0x3f), |number, byte| number << 8 | u64::from(*byte));
        Some(rest)
    }
}
