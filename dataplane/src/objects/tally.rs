//! What is counted of an object while its instance lives, wherever that moves.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The counters of one object worker. One core at a time writes them.
#[derive(Debug, Default)]
pub(super) struct Tally {
    messages: AtomicU64,
    hops: AtomicU64,
}

/// What they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tallied {
    /// Messages whose turns have begun.
    pub(super) messages: u64,
    /// Hops that these made until then.
    pub(super) hops: u64,
}

impl Tally {
    /// A turn begins, of a message that has made so many hops.
    pub(super) fn count(&self, hops: u8) {
        self.messages.fetch_add(1, Relaxed);
        self.hops.fetch_add(hops.into(), Relaxed);
    }

    pub(super) fn read(&self) -> Tallied {
        Tallied { messages: self.messages.load(Relaxed), hops: self.hops.load(Relaxed) }
    }
}
