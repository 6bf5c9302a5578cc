//! What the mailbox did, readable by anyone at any time.
//!
//! Each link (an ordered pair of cores) has one block of counters. Only the sending core writes it, so that
//! counting is a load and a store without a lock prefix, and the block has cache lines of its own. A reader
//! sees each number as it was a moment ago; two numbers of one link need not be of the same moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::wake::Shared;
use crate::{Class, CoreId};

/// A handle to all counters of a mesh.
#[derive(Clone)]
pub struct Counters(pub(crate) Arc<Shared>);

impl Counters {
    /// The counts of every link: sender, receiver, counts.
    pub fn links(&self) -> impl Iterator<Item = (CoreId, CoreId, LinkCounts)> {
        self.0.links().map(|(from, to, link)| (from, to, link.counters.read()))
    }

    /// The sums over all links of the node.
    pub fn total(&self) -> LinkCounts {
        self.links().fold(LinkCounts::default(), |sum, (_, _, link)| sum.plus(link))
    }
}

/// The counts of one link since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounts {
    /// By class, in the order of [`Class::ALL`].
    pub lanes: [LaneCounts; 3],
    /// How often the receiver slept and was rung, for mail or for room.
    pub rung: u64,
    /// How often the receiver had to be told of mail or room, and was awake: a ring saved.
    pub saved: u64,
}

impl LinkCounts {
    /// The counts of one class.
    pub fn of(&self, class: Class) -> LaneCounts {
        self.lanes[class.lane()]
    }

    fn plus(self, other: Self) -> Self {
        let lane = |at: usize| LaneCounts {
            sent: self.lanes[at].sent + other.lanes[at].sent,
            full: self.lanes[at].full + other.lanes[at].full,
        };
        Self {
            lanes: [lane(0), lane(1), lane(2)],
            rung: self.rung + other.rung,
            saved: self.saved + other.saved,
        }
    }
}

/// The counts of one lane since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneCounts {
    /// Messages that the lane took.
    pub sent: u64,
    /// Messages that it refused because it was full. A control message is counted at each attempt; a request
    /// once, and it was shed; a tossed datagram once, and it was dropped.
    pub full: u64,
}

/// The counters of one link, as its sender writes them.
///
/// They are std atomics under loom too: nothing is decided by them, so the models need not explore them.
#[derive(Default)]
pub(crate) struct LinkCounters {
    sent: [AtomicU64; 3],
    full: [AtomicU64; 3],
    rung: AtomicU64,
    saved: AtomicU64,
}

impl LinkCounters {
    #[inline]
    pub(crate) fn sent(&self, class: Class) {
        add_one(&self.sent[class.lane()]);
    }

    pub(crate) fn full(&self, class: Class) {
        add_one(&self.full[class.lane()]);
    }

    pub(crate) fn rung(&self) {
        add_one(&self.rung);
    }

    pub(crate) fn saved(&self) {
        add_one(&self.saved);
    }

    fn read(&self) -> LinkCounts {
        let lane = |at: usize| LaneCounts {
            sent: self.sent[at].load(Ordering::Relaxed),
            full: self.full[at].load(Ordering::Relaxed),
        };
        LinkCounts {
            lanes: [lane(0), lane(1), lane(2)],
            rung: self.rung.load(Ordering::Relaxed),
            saved: self.saved.load(Ordering::Relaxed),
        }
    }
}

/// There is one writer, so nothing can come between the load and the store.
#[inline]
fn add_one(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}
