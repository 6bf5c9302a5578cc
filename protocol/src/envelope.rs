//! Messages between cores, and later between processes and nodes.
//!
//! An envelope is plain data: no reference count of one core, no closure, no descriptor. So the one
//! type can cross a lane between two cores today and a socket between two nodes tomorrow.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use crate::object::{Epoch, ObjectKey};
use crate::waits::Chain;

/// Names a question of one core, so that its reply finds who asked. Chosen by the asker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// What travels between cores.
#[derive(Debug)]
pub enum Envelope {
    /// Answer this request and send the reply back.
    Request(Box<RequestEnvelope>),
    /// The reply to an earlier request of the receiver.
    Reply(Box<ReplyEnvelope>),
    /// A datagram that came to the wrong core.
    Datagram(Box<DatagramEnvelope>),
    /// A message for an object. Its reply is a [`Envelope::Reply`], straight to who asked.
    Letter(Box<LetterEnvelope>),
    /// An object worker that moves to the receiver.
    Arrival(Box<ArrivalEnvelope>),
}

/// A message for an object, on its way to the core that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterEnvelope {
    /// Which object.
    pub object: ObjectKey,
    /// Its zone.
    pub zone: Box<str>,
    /// Its class.
    pub class: Box<str>,
    /// Its name, if the id comes from one.
    pub name: Option<Box<str>>,
    /// The core that waits for the reply.
    pub asker: u16,
    /// What the reply must carry: a ticket of that core.
    pub ticket: Ticket,
    /// What it says.
    pub says: LetterSays,
    /// Who waits for it, and for whom those wait: the object itself is the last.
    pub chain: Chain<ObjectKey>,
    /// The client whose request it is, or led to it.
    pub client: IpAddr,
    /// The number of that request.
    pub request: u64,
    /// Whether the client wants to be told how it was served.
    pub debug: bool,
    /// How many hops it has made, this one included.
    pub hops: u8,
}

/// What a [`LetterEnvelope`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LetterSays {
    /// A request.
    Request {
        /// The method.
        method: Bytes,
        /// The whole URL.
        url: Box<str>,
        /// Header names and values.
        headers: Vec<(Bytes, Bytes)>,
        /// The whole body.
        body: Bytes,
        /// The WebSocket that it will be if the object takes it, if it asks for one.
        upgrade: Option<u64>,
    },
    /// An alarm of the object is due.
    Alarm(Alarm),
    /// A text came on a WebSocket.
    Text {
        /// Which.
        socket: u64,
        /// UTF-8.
        text: Bytes,
    },
    /// Bytes came on a WebSocket.
    Binary {
        /// Which.
        socket: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// A WebSocket has closed.
    Closed {
        /// Which.
        socket: u64,
        /// The code.
        code: u16,
        /// The reason.
        reason: Box<str>,
    },
    /// Somebody waits for the object to have no instance.
    Hold,
}

/// An alarm that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// Which one of the object's.
    pub id: Bytes,
    /// When it should have rung, in milliseconds of Unix time.
    pub due_ms: u64,
    /// 1 for the first time.
    pub attempt: u32,
    /// What the object gave it.
    pub payload: Bytes,
}

/// An object worker on its way to another core of the node. Its instance is no plain data: it waits in the node's harbour
/// for who gets this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArrivalEnvelope {
    /// Which object.
    pub object: ObjectKey,
    /// The epoch that it keeps.
    pub epoch: Epoch,
    /// The messages that waited for it, the oldest first.
    pub waiting: Vec<LetterEnvelope>,
}

/// A request for another core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestEnvelope {
    /// What the reply must carry.
    pub ticket: Ticket,
    /// The method.
    pub method: Bytes,
    /// The host in normal form, if the request named one.
    pub host: Option<Bytes>,
    /// The request target, unchanged.
    pub target: Bytes,
    /// Header names and values, unchanged.
    pub headers: Vec<(Bytes, Bytes)>,
    /// How many hops the request has made, this one included.
    pub hops: u8,
}

/// The answer to a [`RequestEnvelope`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyEnvelope {
    /// The ticket of the request.
    pub ticket: Ticket,
    /// The status.
    pub status: u16,
    /// Header names and values.
    pub headers: Vec<(Bytes, Bytes)>,
    /// The whole body: only replies with a known, bounded body cross cores so far.
    pub body: Bytes,
}

/// Why a datagram crosses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crossing {
    /// Its connection id names the receiver.
    Toss,
    /// It is of a first flight whose host is the receiver's. A stranger's, then, and it goes no further.
    HandOver,
}

/// A datagram for a connection of another core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatagramEnvelope {
    /// The listener whose socket received it; listeners have the same numbers on all cores.
    pub listener: u16,
    /// Why it comes.
    pub crossing: Crossing,
    /// Who sent it.
    pub from: SocketAddr,
    /// The address that it was sent to.
    pub local: Option<IpAddr>,
    /// Its ECN bits.
    pub ecn: u8,
    /// Its bytes, a single datagram's.
    pub payload: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crosses_threads<T: Send + 'static>() {}

    #[test]
    fn an_envelope_may_cross_threads_and_fits_a_lane_slot() {
        crosses_threads::<Envelope>();
        // A lane holds thousands of slots; the payload of an envelope is boxed to keep them small.
        assert!(size_of::<Envelope>() <= 16);
    }
}
