//! Which connections live, so that none of them is ended by a stateless reset.
//!
//! A client retires an id when it has another one, and packets with the old id may still be on their way: delayed,
//! or sent twice by the network. The QUIC library forgets a retired id at once, and would answer them with a stateless
//! reset, which a client takes for the end of the connection that had the id. So each id that is made carries the
//! number of its connection ([`Owner`]), in bytes of the nonce; before a reset is sent, [`Owners`] tells whether that
//! connection lives.
//!
//! Numbers are 32 bits and begin again after 4 billion connections; the worst that an old id can then do is to go
//! without the reset that would have told its client sooner.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The number that stands for no connection: that of the ids of Retry and of refusals.
pub(super) const NOBODY: u32 = 0;

/// The connections of one endpoint.
///
/// One core uses it; it is shared and locked because the QUIC library asks for that.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// The number that ids get which are made now.
    making_for: AtomicU32,
    newest: AtomicU32,
    alive: Mutex<HashSet<u32>>,
}

/// A connection's number, its own until it is dropped.
#[derive(Debug)]
pub(super) struct Owner {
    number: u32,
    owners: Arc<Owners>,
}

impl Owners {
    /// A number for a new connection.
    pub(super) fn admit(self: &Arc<Self>) -> Owner {
        let mut alive = self.alive();
        loop {
            let number = self.newest.load(Relaxed).wrapping_add(1);
            self.newest.store(number, Relaxed);
            if number != NOBODY && alive.insert(number) {
                return Owner { number, owners: Arc::clone(self) };
            }
        }
    }

    /// The number of the connection for which an id is made now.
    pub(super) fn making_for(&self) -> u32 {
        self.making_for.load(Relaxed)
    }

    /// Whether the connection with this number lives.
    pub(super) fn is_alive(&self, number: u32) -> bool {
        self.alive().contains(&number)
    }

    fn alive(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Owner {
    /// The ids that are made until the scope is dropped are this connection's.
    pub(super) fn make_ids(&self) -> Making<'_> {
        self.owners.making_for.store(self.number, Relaxed);
        Making(&self.owners)
    }
}

/// Ids are made for one connection.
#[must_use = "the scope ends when it is dropped"]
pub(super) struct Making<'a>(&'a Owners);

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.making_for.store(NOBODY, Relaxed);
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.owners.alive().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_lives_from_its_admission_until_it_is_dropped() {
        let owners = Arc::new(Owners::default());
        let (one, other) = (owners.admit(), owners.admit());
        assert_ne!(one.number, other.number);
        let making = one.make_ids();
        let number = owners.making_for();
        drop(making);
        assert_eq!((number, owners.making_for()), (one.number, NOBODY));
        assert!(owners.is_alive(number) && !owners.is_alive(NOBODY));
        drop(one);
        assert!(!owners.is_alive(number) && owners.is_alive(other.number));
    }

    #[test]
    fn numbers_that_begin_again_pass_over_those_that_live() {
        let owners = Arc::new(Owners::default());
        let old = owners.admit();
        owners.newest.store(u32::MAX - 1, Relaxed);
        let numbers = [owners.admit(), owners.admit()].map(|owner| owner.number);
        assert_eq!(numbers, [u32::MAX, old.number + 1], "neither nobody's nor the living one's");
    }
}
