//! QUIC by the facts that hold for every version of it (RFC 8999), and by nothing else.
//!
//! A long header tells the length of its destination id, a short one does not: ours all have [`CID_LEN`] bytes. The
//! type of a packet, its version and the "fixed bit" say nothing here: other versions number types otherwise, and both
//! sides may set that bit as they like (RFC 9287).

use crate::cid::{CID_LEN, Candidate};
use crate::packet::Packet;

/// The destination connection id, where it has the length of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationId {
    /// It may be one of ours.
    Ours(Candidate),
    /// A long header with an id of another length: one that a client made up.
    Made,
    /// No id can be read: the datagram is too short for one, or not of QUIC.
    None,
}

/// Reads the id of the datagram that begins at `at` and has `length` bytes.
#[inline(always)]
pub fn destination_id(packet: &(impl Packet + ?Sized), at: usize, length: usize) -> DestinationId {
    const LONG: u8 = 0x80;
    /// In front of the id: first octet, version, length of the id.
    const LONG_PREFIX: usize = 6;
    if length <= CID_LEN {
        return DestinationId::None;
    }
    // One read for both: a short header is one octet, the id follows.
    let Some([first, id @ ..]) = packet.read::<{ 1 + CID_LEN }>(at) else { return DestinationId::None };
    if first & LONG == 0 {
        return DestinationId::Ours(Candidate::new(id));
    }
    if usize::from(id[LONG_PREFIX - 2]) != CID_LEN {
        return DestinationId::Made;
    }
    if length < LONG_PREFIX + CID_LEN {
        return DestinationId::None;
    }
    match packet.read(at + LONG_PREFIX) {
        Some(id) => DestinationId::Ours(Candidate::new(id)),
        None => DestinationId::None,
    }
}
