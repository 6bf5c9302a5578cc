//! First flights: whose core is a new connection's, and what is kept until that is known.
//!
//! A new QUIC connection comes to whatever core its addresses lead to. Where a rule gives its host a core
//! ([`Rules`]), what its client sent so far, its *first flight*, is handed to that core, which accepts it and issues ids
//! that name itself: all that follows arrives there directly, and requests need not hop.
//!
//! ```text
//!   stranger's datagram ──▶ known id? ── handed over before ──▶ forward to that core
//!                              │ no
//!                              ▼
//!                 initial: open a copy, read its frames
//!                              │
//!                              ▼
//!                 hello: put the ClientHello together ── not whole ──▶ hold, and wait for more
//!                              │ whole                                    │ a bound is reached,
//!                              ▼                                          ▼ or the time is over
//!                 hosts: a core for its name? ── no, or this one ──▶ accept here, as if nothing had been
//!                              │ yes
//!                              ▼
//!                 hand over, and remember
//! ```
//!
//! A ClientHello with post-quantum key shares takes two Initials, which come in any order, and some clients scatter theirs
//! over more. All of them carry the id that the client made up (its *original id*), and so does whatever it sends until it
//! has heard from the server. That is why flights are held, and why the core of an original id is remembered: by the
//! address of its client as well, for two clients may make up the same id.
//!
//! # Invariants
//!
//! - Nothing is lost: a datagram is held, handed over, or accepted here, and those of a flight in the order in which they
//!   came. Whatever is odd is accepted here, where the protocol's own state machine judges it.
//! - What is decided for an original id stays so for as long as it is remembered: its datagrams go to one core.
//! - Flights, their datagrams and bytes, the time that they are held, and the ids that are remembered all have a bound.
//!   At each of them a connection is accepted where it came, which costs hops and nothing else.
//!
//! It is pure: the time is an argument, and what is to be done is returned. Left to others: sending, counting, accepting,
//! and whether a client must prove its address first (`endpoint`).

mod hello;
mod hosts;
mod initial;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::ConnectionId;
use rustls::quic::DirectionalKeys;

use self::hello::{Hello, Said};
pub(super) use self::hosts::NoHomes;
pub use self::hosts::{Homes, Hosts, HostsError, Rules};
use self::initial::ID_BYTES_MAX;
use super::endpoint::{Arrived, destination_id};

/// Datagrams of a flight. A post-quantum ClientHello has two, and a client that misses an answer sends both again.
pub(super) const DATAGRAMS_MAX: usize = 4;
/// Bytes of a flight's datagrams: four of the largest that an Ethernet carries, and some that a loopback does. What is
/// read of them cannot be more.
pub(super) const BYTES_MAX: usize = 16 * 1024;
/// Flights that are held at the same time. Two Initials of a client follow each other within a millisecond: at 10,000 new
/// connections in a second that is ten flights, and the rest is for those of which a datagram was lost.
pub(super) const HELD_MAX: usize = 256;
/// How long a flight is held. A client that gets no answer sends its first flight again after a second (RFC 9002, 6.2.2),
/// or sooner: a lost datagram then costs it that second, as it does where a ClientHello has one datagram.
pub(super) const HOLD: Duration = Duration::from_millis(1500);
/// Original ids that are remembered, about 100 bytes each. A core finishes some thousand handshakes in a second, and the
/// default `limits.handshake_timeout` is ten.
pub(super) const REMEMBERED_MAX: usize = 32 * 1024;
/// Fewer bytes than this are no first datagram of a connection (RFC 9000, 14.1); who accepts drops them.
const DATAGRAM_BYTES_MIN: usize = 1200;

/// A client's connection, before it has an id of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    client: SocketAddr,
    original: ConnectionId,
}

impl Key {
    /// Nothing if version 1 knows no id of this length.
    fn of(arrived: &Arrived) -> Option<Self> {
        let id = destination_id(&arrived.bytes).filter(|id| id.len() <= ID_BYTES_MAX)?;
        Some(Self { client: arrived.from, original: ConnectionId::new(id) })
    }
}

/// What is to be done with a stranger's datagram.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Nothing yet: its flight is held.
    Held,
    /// These are accepted here, in this order.
    Here(Vec<Arrived>, Because),
    /// These are a whole first flight of that core, in this order.
    HandOver(u16, Vec<Arrived>),
    /// It follows a flight that was handed to that core.
    Forward(u16, Arrived),
}

/// Why something is accepted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Because {
    /// Its host has this core, or no rule.
    OfHost,
    /// It follows a flight that was accepted here.
    Follows,
    /// No host could be read: what came is not of this version, is damaged, or no ClientHello.
    Unreadable,
    /// [`HELD_MAX`].
    HeldMax,
    /// [`DATAGRAMS_MAX`] or [`BYTES_MAX`].
    FlightMax,
    /// [`HOLD`].
    TimeIsOver,
    /// [`REMEMBERED_MAX`].
    RememberedMax,
}

/// What one core knows of first flights at one listener.
pub(super) struct FirstFlights {
    rules: Arc<Rules>,
    here: u16,
    held: HashMap<Key, Flight>,
    remembered: Remembered,
}

/// A flight whose host is not known yet.
struct Flight {
    keys: DirectionalKeys,
    hello: Hello,
    datagrams: Vec<Arrived>,
    until: Instant,
}

impl FirstFlights {
    /// For the core `here`. A handshake is over after `handshake_timeout`: then the core that has the connection gives it
    /// up, and an id that comes later begins another.
    pub(super) fn new(rules: Arc<Rules>, here: u16, handshake_timeout: Duration) -> Self {
        Self { rules, here, held: HashMap::new(), remembered: Remembered::new(handshake_timeout) }
    }

    /// Whether nothing is held or remembered: then only rules make a stranger's datagram worth a look.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.remembered.len() == 0
    }

    /// Whether something came with this original id from this client before. Such a datagram goes where those did,
    /// whatever is asked of newcomers.
    pub(super) fn knows(&mut self, now: Instant, arrived: &Arrived) -> bool {
        self.remembered.forget_old(now);
        Key::of(arrived)
            .is_some_and(|key| self.held.contains_key(&key) || self.remembered.core(&key).is_some())
    }

    /// Takes a stranger's datagram.
    pub(super) fn handle(&mut self, now: Instant, arrived: Arrived) -> Verdict {
        self.remembered.forget_old(now);
        let Some(key) = Key::of(&arrived) else { return Verdict::Here(vec![arrived], Because::Unreadable) };
        if let Some(core) = self.remembered.core(&key) {
            return match core == self.here {
                true => Verdict::Here(vec![arrived], Because::Follows),
                false => Verdict::Forward(core, arrived),
            };
        }
        match self.held.remove(&key) {
            Some(flight) => self.go_on(now, key, flight, arrived),
            None => self.begin(now, key, arrived),
        }
    }

    /// The first datagram with an id.
    fn begin(&mut self, now: Instant, key: Key, arrived: Arrived) -> Verdict {
        if arrived.bytes.len() < DATAGRAM_BYTES_MIN {
            return Verdict::Here(vec![arrived], Because::Unreadable);
        }
        // Flights that are held will want to be remembered too.
        if self.remembered.len() + self.held.len() >= REMEMBERED_MAX {
            return Verdict::Here(vec![arrived], Because::RememberedMax);
        }
        let keys = initial::client_keys(&key.original);
        let mut hello = Hello::default();
        let read = initial::read(&arrived.bytes, &key.original, &keys, &mut hello);
        if read.is_err() {
            return Verdict::Here(vec![arrived], Because::Unreadable);
        }
        let flight = Flight { keys, hello, datagrams: vec![arrived], until: now + HOLD };
        self.judge(now, key, flight)
    }

    /// One more datagram of a flight. One that cannot be read stays in its place: it may be one that nobody reads yet.
    fn go_on(&mut self, now: Instant, key: Key, mut flight: Flight, arrived: Arrived) -> Verdict {
        use initial::Unreadable::{Closed, Frame, NoInitial, Sealed};
        let read = initial::read(&arrived.bytes, &key.original, &flight.keys, &mut flight.hello);
        flight.datagrams.push(arrived);
        match read {
            Ok(()) | Err(NoInitial | Sealed) => self.judge(now, key, flight),
            Err(Closed | Frame) => self.settle_here(now, key, flight, Because::Unreadable),
        }
    }

    /// Decides, as far as the pieces allow it.
    fn judge(&mut self, now: Instant, key: Key, flight: Flight) -> Verdict {
        let name = match flight.hello.read() {
            Said::Name(name) => name,
            Said::Nonsense => return self.settle_here(now, key, flight, Because::Unreadable),
            Said::Incomplete => return self.hold(now, key, flight),
        };
        match self.rules.core(name.as_deref()) {
            Some(core) if core != self.here => {
                self.remembered.insert(now, key, core);
                Verdict::HandOver(core, flight.datagrams)
            }
            _ => self.settle_here(now, key, flight, Because::OfHost),
        }
    }

    fn hold(&mut self, now: Instant, key: Key, flight: Flight) -> Verdict {
        let bytes: usize = flight.datagrams.iter().map(|arrived| arrived.bytes.len()).sum();
        if flight.datagrams.len() >= DATAGRAMS_MAX || bytes >= BYTES_MAX {
            return self.settle_here(now, key, flight, Because::FlightMax);
        }
        if self.held.len() >= HELD_MAX {
            return self.settle_here(now, key, flight, Because::HeldMax);
        }
        self.held.insert(key, flight);
        Verdict::Held
    }

    fn settle_here(&mut self, now: Instant, key: Key, flight: Flight, because: Because) -> Verdict {
        self.remembered.insert(now, key, self.here);
        Verdict::Here(flight.datagrams, because)
    }

    /// The flight of this datagram stays here after all: nothing of it reached the other core.
    pub(super) fn stays(&mut self, first: &Arrived) {
        if let Some(key) = Key::of(first) {
            self.remembered.change(&key, self.here);
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.held.values().map(|flight| flight.until).min()
    }

    /// The next flight that was held for long enough. Call it until there is none.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Verdict> {
        let key = *self.held.iter().find(|(_, flight)| flight.until <= now)?.0;
        let flight = self.held.remove(&key)?;
        Some(self.settle_here(now, key, flight, Because::TimeIsOver))
    }
}

/// What a fuzzer calls: reads bytes as the frames of an Initial.
pub(super) fn read_unsealed(frames: &[u8]) {
    let mut hello = Hello::default();
    let _ = initial::read_frames(frames, &mut hello);
    let _ = hello.read();
}

/// The cores of original ids, each for the time of a handshake from the moment on at which it was decided.
struct Remembered {
    time: Duration,
    cores: HashMap<Key, u16>,
    /// When each is forgotten: oldest first, for all have the same time.
    order: VecDeque<(Instant, Key)>,
}

impl Remembered {
    fn new(time: Duration) -> Self {
        Self { time, cores: HashMap::new(), order: VecDeque::new() }
    }

    fn len(&self) -> usize {
        self.cores.len()
    }

    fn core(&self, key: &Key) -> Option<u16> {
        self.cores.get(key).copied()
    }

    fn insert(&mut self, now: Instant, key: Key, core: u16) {
        if self.cores.insert(key, core).is_none() {
            self.order.push_back((now + self.time, key));
        }
    }

    fn change(&mut self, key: &Key, core: u16) {
        if let Some(place) = self.cores.get_mut(key) {
            *place = core;
        }
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((_, key)) = self.order.pop_front_if(|(until, _)| *until <= now) {
            self.cores.remove(&key);
        }
    }
}
