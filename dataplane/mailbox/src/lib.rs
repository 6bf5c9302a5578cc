//! The mailbox: bounded lock-free queues between the cores of one node.
//!
//! A core owns its sockets, tasks and objects and shares nothing. When work that arrived on one core belongs
//! to another, a message crosses through here: that is a *hop*. [`mesh`] makes one [`Endpoint`] per core.
//!
//! ```text
//!   core 0                                        core 1
//!   Outbox --control lane--> |||||||| ----------> Inbox     one link = three lanes, and one link
//!          --request lane--> |||||||| ---------->           for each ordered pair of cores; each
//!          --toss lane-----> |||||||| ---------->           lane is one ring with one writer and
//!   Inbox  <---------------- |||||||| <---------- Outbox    one reader
//! ```
//!
//! Three [`Class`]es differ in what a full lane means: control messages wait, requests are shed, tossed
//! datagrams are dropped. Each class has lanes of its own, so that a flood of one cannot take the room of
//! another.
//!
//! # One pass of a core's loop
//!
//! ```
//! use berth_mailbox::{Capacities, Class, CoreId, Doorbell, Sleep, mesh};
//!
//! struct Bell;
//! impl Doorbell for Bell {
//!     fn ring(&self, _core: CoreId) { /* MSG_RING, eventfd or futex: the runtime's choice */ }
//! }
//!
//! let mut cores = mesh::<String>(2, Capacities::for_cores(2)).unwrap();
//! let mut one = cores.pop().unwrap();
//! let mut zero = cores.pop().unwrap();
//!
//! // Core 0: send, and tell the others once, at the end of the pass.
//! let to = zero.outbox.peer(1).unwrap();
//! zero.outbox.send(to, Class::Request, "GET /".to_owned()).unwrap();
//! zero.inbox.flush(&mut zero.outbox, &Bell);
//!
//! // Core 1: take what came, see which lanes have room again, tell the others, and sleep if there is nothing.
//! one.inbox.drain(64, |from, class, message| println!("{from} {class}: {message}"));
//! one.outbox.take_space(|_to, _class, _slots| { /* wake the tasks that wait for this lane */ });
//! one.inbox.flush(&mut one.outbox, &Bell);
//! if one.inbox.prepare_sleep(&mut one.outbox, &Bell) == Sleep::May { /* wait for a completion */ }
//! one.inbox.woke();
//! ```
//!
//! # Invariants
//!
//! - **Order**: messages of one sender and one class arrive in the order in which they were sent.
//! - **Nothing is lost**: a message that `send` took is delivered once; one that it did not take comes back
//!   in [`Full`].
//! - **No lost wake-up**: a core sleeps only while nothing waits for it, neither mail nor room that it asked
//!   for.
//! - **One ring per sleep**, however many cores have mail for the sleeper.
//! - **Nobody waits inside**: no call blocks or spins. A core whose control message finds no room goes on
//!   draining its own inbox, therefore two cores that are full towards each other both get on.
//! - **Nothing allocates after [`mesh`]**, and every queue has a bound.
//!
//! # What it leaves to others
//!
//! How a core sleeps and is rung ([`Doorbell`]); the async wrapper that parks a task until there is room; the
//! 503 for a shed request; what a message is (`T: Send`, nothing else). The end of a core is not a state
//! here: the runtime stops all cores of a node together. A core that is gone looks like one that no longer
//! drains.
//!
//! # How it is checked
//!
//! | what | command |
//! |---|---|
//! | units, properties against a plain model, stress | `cargo test -p berth-mailbox` |
//! | every interleaving of the wake protocol | `RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test -p berth-mailbox --release loom` |
//! | undefined behaviour | `CARGO_TARGET_DIR=target/miri MIRIFLAGS=-Zmiri-many-seeds=0..4 cargo +nightly miri test -p berth-mailbox --test stress` |
//! | data races | `RUSTFLAGS=-Zsanitizer=thread CARGO_TARGET_DIR=target/tsan cargo +nightly test -Zbuild-std --target x86_64-unknown-linux-gnu -p berth-mailbox --test stress` |
//! | throughput, latency, wake-ups beside their peers | `cargo bench -p berth-mailbox` |
//!
//! The sanitizers need `rustup component add --toolchain nightly miri rust-src`. ADR 0003 has the reasons for
//! the shape, and the figures.
#![cfg_attr(not(loom), forbid(unsafe_code))]

mod counters;
mod inbox;
mod lane;
mod outbox;
mod wake;

#[cfg(all(test, loom))]
mod loom_models;

use std::fmt;
use std::sync::Arc;

pub use crate::counters::{Counters, LaneCounts, LinkCounts};
pub use crate::inbox::Inbox;
pub use crate::outbox::{Full, Outbox};
pub use crate::wake::{Doorbell, Sleep};

use crate::lane::{Reader, Writer};
use crate::wake::Shared;

/// Makes the endpoints of `cores` cores, each with lanes from and to all others; index `i` is core `i`'s.
///
/// All memory is taken here. It is about `cores² × (control + request + toss) × size_of::<T>()` bytes, of
/// which only the pages of lanes that are used become resident.
pub fn mesh<T: Send>(cores: usize, capacities: Capacities) -> Result<Vec<Endpoint<T>>, MeshError> {
    mesh_over(Shared::new(checked_cores(cores)?), capacities)
}

/// One core's side of the mesh. It is `Send`: made in one place, moved to its core, and not shared from then
/// on.
///
/// The two halves are separate so that the loop can own the inbox while tasks share the outbox.
pub struct Endpoint<T> {
    /// Where the other cores' messages arrive.
    pub inbox: Inbox<T>,
    /// Where messages to the other cores leave.
    pub outbox: Outbox<T>,
}

/// A core of this mesh. There is no way to make one up: [`Outbox::peer`] checks the index, so that a number
/// from a peer's bytes cannot name a core that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreId(u8);

impl CoreId {
    /// The position of this core's endpoint in what [`mesh`] returned.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    pub(crate) fn new(index: usize) -> Self {
        Self(u8::try_from(index).expect("a mesh has at most MAX_CORES cores"))
    }
}

impl fmt::Display for CoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "core {}", self.0)
    }
}

/// What a message is for, which decides what happens when its lane is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Replies, cancellations, moves of objects: must arrive. When the lane is full, the sender waits
    /// ([`Outbox::wait_for_space`]). Delivered before the other classes.
    Control,
    /// New work. When the lane is full, the receiver is overloaded, and the sender sheds it: a 503 for the
    /// client.
    Request,
    /// A datagram that arrived on the wrong core. When the lane is full it is dropped and counted, as a full
    /// socket buffer would do: the transport above repairs it.
    Toss,
}

impl Class {
    /// All classes, in the order of the lanes of a link.
    pub const ALL: [Self; 3] = [Self::Control, Self::Request, Self::Toss];

    pub(crate) fn lane(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Control => "control",
            Self::Request => "request",
            Self::Toss => "toss",
        })
    }
}

/// How many messages one lane holds, by class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Control messages: this room is theirs alone.
    pub control: usize,
    /// Requests, before they are shed.
    pub request: usize,
    /// Tossed datagrams, before they are dropped.
    pub toss: usize,
}

impl Capacities {
    /// Sensible lanes for a node of this many cores.
    ///
    /// What a client feels is the work that waits before one core, whoever sent it. So each class has a
    /// budget per inbox, shared among its senders: 1024 requests are about 10 ms of work at 10 µs each; 2048
    /// datagrams are about 4 ms at 2 µs each; 512 control messages cost less than either. The floors let one
    /// sender's pass (a batch of 32 completions) through on nodes with many cores.
    pub fn for_cores(cores: usize) -> Self {
        let senders = cores.saturating_sub(1).max(1);
        let share = |budget: usize, floor: usize, ceiling: usize| (budget / senders).clamp(floor, ceiling);
        Self { control: share(512, 16, 128), request: share(1024, 32, 256), toss: share(2048, 32, 512) }
    }

    fn of(self, class: Class) -> usize {
        match class {
            Class::Control => self.control,
            Class::Request => self.request,
            Class::Toss => self.toss,
        }
    }

    fn check(self) -> Result<(), MeshError> {
        for class in Class::ALL {
            match self.of(class) {
                0 => return Err(MeshError::NoCapacity { class }),
                asked if asked > MAX_LANE_CAPACITY => return Err(MeshError::LaneTooLong { class, asked }),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Why [`mesh`] refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeshError {
    /// The number of cores is out of bounds.
    #[error("cannot make mailboxes for {asked} cores: a node has 1 to {MAX_CORES}; list fewer CPUs")]
    Cores {
        /// The number given.
        asked: usize,
    },
    /// A lane without room would refuse every message.
    #[error("the {class} lanes of the mailbox have no room: set their capacity to at least 1")]
    NoCapacity {
        /// The class with capacity 0.
        class: Class,
    },
    /// A longer queue only hides overload, and its memory is taken once for each pair of cores.
    #[error("the {class} lanes of the mailbox cannot hold {asked} messages: the most is {MAX_LANE_CAPACITY}")]
    LaneTooLong {
        /// The class.
        class: Class,
        /// Its capacity as given.
        asked: usize,
    },
}

/// The most cores of a node: the connection id carries the core in one byte.
pub const MAX_CORES: usize = 256;

/// The most messages in one lane. At 1 µs each it is 65 ms of queue, longer than anybody should wait.
pub const MAX_LANE_CAPACITY: usize = 1 << 16;

fn checked_cores(cores: usize) -> Result<usize, MeshError> {
    if (1..=MAX_CORES).contains(&cores) { Ok(cores) } else { Err(MeshError::Cores { asked: cores }) }
}

/// [`mesh`] over flags that exist already: the models plant their mistakes in them.
fn mesh_over<T: Send>(shared: Shared, capacities: Capacities) -> Result<Vec<Endpoint<T>>, MeshError> {
    capacities.check()?;
    let cores = shared.cores();
    let shared = Arc::new(shared);
    let mut endpoints: Vec<Endpoint<T>> = (0..cores)
        .map(|core| Endpoint {
            inbox: Inbox::new(CoreId::new(core), Arc::clone(&shared)),
            outbox: Outbox::new(CoreId::new(core), Arc::clone(&shared)),
        })
        .collect();
    for from in 0..cores {
        for to in (0..cores).filter(|&to| to != from) {
            let (writers, readers) = link(capacities);
            endpoints[from].outbox.connect(CoreId::new(to), writers);
            endpoints[to].inbox.connect(CoreId::new(from), readers);
        }
    }
    Ok(endpoints)
}

/// The two ends of one link, a lane for each class.
fn link<T: Send>(capacities: Capacities) -> ([Writer<T>; 3], [Reader<T>; 3]) {
    let [(w0, r0), (w1, r1), (w2, r2)] = Class::ALL.map(|class| lane::lane(capacities.of(class)));
    ([w0, w1, w2], [r0, r1, r2])
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_mesh_out_of_bounds_is_refused_with_the_bound() {
        let fine = Capacities::for_cores(2);
        assert_eq!(mesh::<u8>(0, fine).err(), Some(MeshError::Cores { asked: 0 }));
        assert_eq!(mesh::<u8>(MAX_CORES + 1, fine).err(), Some(MeshError::Cores { asked: MAX_CORES + 1 }));
        let none = Capacities { toss: 0, ..fine };
        assert_eq!(mesh::<u8>(2, none).err(), Some(MeshError::NoCapacity { class: Class::Toss }));
        let long = Capacities { request: MAX_LANE_CAPACITY + 1, ..fine };
        let refused = mesh::<u8>(2, long).err().unwrap();
        assert_eq!(
            refused.to_string(),
            "the request lanes of the mailbox cannot hold 65537 messages: the most is 65536"
        );
    }

    #[test]
    fn the_largest_mesh_can_be_made_and_its_cores_named() {
        let tiny = Capacities { control: 1, request: 1, toss: 1 };
        // 65,280 links are a blink for the machine and hours for Miri.
        let count = if cfg!(miri) { 12 } else { MAX_CORES };
        let cores = mesh::<u8>(count, tiny).unwrap();
        assert_eq!(cores.len(), count);
        assert_eq!(cores[7].outbox.peer(count - 1).map(CoreId::index), Some(count - 1));
    }

    #[test]
    fn only_other_cores_of_the_mesh_are_peers() {
        let cores = mesh::<u8>(3, Capacities::for_cores(3)).unwrap();
        let peers: Vec<Option<usize>> =
            (0..4).map(|index| cores[1].outbox.peer(index).map(CoreId::index)).collect();
        assert_eq!(peers, [Some(0), None, Some(2), None]);
    }

    #[test]
    fn capacities_share_a_budget_among_the_senders() {
        assert_eq!(Capacities::for_cores(1), Capacities { control: 128, request: 256, toss: 512 });
        assert_eq!(Capacities::for_cores(9), Capacities { control: 64, request: 128, toss: 256 });
        assert_eq!(Capacities::for_cores(256), Capacities { control: 16, request: 32, toss: 32 });
    }

    #[test]
    fn endpoints_move_between_threads() {
        fn assert_send<T: Send>() {}
        assert_send::<Endpoint<String>>();
    }
}
