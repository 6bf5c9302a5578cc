//! The gate: what was written becomes durable, and whoever waits for that goes on.
//!
//! The store tells outcomes on a thread of its own, those of one object in the order in which they were written. Each
//! object that lives has a [`Ledger`]: how much of it was written, and how much of that is durable. Waiting is for a place
//! in that order, so that a reply that only read waits for the newest write that it could have seen.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use berth_isolate_host::object::CommitError;
use berth_store::{Listener, Settled};
use foldhash::HashMap;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The ledgers of the objects that live, by a number that is given once.
#[derive(Default)]
pub(super) struct Gate {
    ledgers: Mutex<HashMap<u64, Arc<Ledger>>>,
    next: AtomicU64,
}

impl Gate {
    /// A ledger for an object that starts.
    pub(super) fn open(self: &Arc<Self>) -> Entry {
        let number = self.next.fetch_add(1, Relaxed);
        let ledger = Arc::new(Ledger::default());
        lock(&self.ledgers).insert(number, Arc::clone(&ledger));
        Entry { gate: Arc::clone(self), number, ledger }
    }
}

impl Listener for Gate {
    fn settled(&self, settled: &[Settled]) {
        let mut wakers = Vec::new();
        {
            let ledgers = lock(&self.ledgers);
            for one in settled {
                let Some(ledger) = ledgers.get(&one.ticket) else { continue };
                ledger.settle(one, &mut wakers);
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// One object's place at the gate. Dropped when nobody waits for its writes any more.
pub(super) struct Entry {
    gate: Arc<Gate>,
    /// The ticket of its submissions.
    pub(super) number: u64,
    ledger: Arc<Ledger>,
}

impl Entry {
    /// Counts a write that the store has taken, and waits until it and all before are durable.
    pub(super) fn written(&self) -> Durable {
        let mut state = lock(&self.ledger.0);
        state.written += 1;
        Durable { ledger: Arc::clone(&self.ledger), until: state.written }
    }

    /// Waits until all that was written is durable.
    pub(super) fn barrier(&self) -> Durable {
        Durable { ledger: Arc::clone(&self.ledger), until: lock(&self.ledger.0).written }
    }

    /// Nobody hears any more what becomes of what was written.
    fn close(&self, reason: CommitError) {
        let mut wakers = Vec::new();
        lock(&self.ledger.0).fail(reason, &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.gate.ledgers).remove(&self.number);
        // Nobody will tell the outcome of what is under way.
        self.close(CommitError("its instance has ended, and nobody waited for it".to_owned()));
    }
}

#[derive(Default)]
struct Ledger(Mutex<State>);

#[derive(Default)]
struct State {
    written: u64,
    durable: u64,
    failed: Option<CommitError>,
    waiting: Vec<(u64, Waker)>,
}

impl State {
    fn fail(&mut self, reason: CommitError, wakers: &mut Vec<Waker>) {
        self.failed.get_or_insert(reason);
        wakers.extend(self.waiting.drain(..).map(|(_, waker)| waker));
    }
}

impl Ledger {
    fn settle(&self, outcome: &Settled, wakers: &mut Vec<Waker>) {
        let mut state = lock(&self.0);
        match &outcome.outcome {
            Ok(_) => {
                state.durable += 1;
                let durable = state.durable;
                let ready = state.waiting.extract_if(.., |(until, _)| *until <= durable);
                wakers.extend(ready.map(|(_, waker)| waker));
            }
            Err(error) => state.fail(CommitError(error.to_string()), wakers),
        }
    }
}

/// Ready when something and all before it is durable, or will not be.
pub(super) struct Durable {
    ledger: Arc<Ledger>,
    until: u64,
}

impl Future for Durable {
    type Output = Result<(), CommitError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = lock(&self.ledger.0);
        if state.durable >= self.until {
            return Poll::Ready(Ok(()));
        }
        if let Some(reason) = &state.failed {
            return Poll::Ready(Err(reason.clone()));
        }
        let place = (self.until, cx.waker().clone());
        match state.waiting.iter_mut().find(|(until, waker)| *until == place.0 && waker.will_wake(&place.1)) {
            Some(_) => {}
            None => state.waiting.push(place),
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use berth_protocol::object::Seq;
    use berth_store::Committed;

    use super::*;

    fn poll(future: &mut Durable) -> Poll<Result<(), CommitError>> {
        Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    fn good(ticket: u64) -> Settled {
        Settled { ticket, outcome: Ok(Committed { seq: Seq(1) }) }
    }

    #[test]
    fn a_reply_that_read_waits_for_the_newest_write_that_it_could_have_seen() {
        let gate = Arc::new(Gate::default());
        let (entry, other) = (gate.open(), gate.open());
        assert!(poll(&mut entry.barrier()).is_ready(), "nothing was written");
        let (mut first, mut second) = (entry.written(), entry.written());
        let mut read = entry.barrier();
        gate.settled(&[good(other.number)]);
        assert!(poll(&mut first).is_pending(), "another object's outcome");
        gate.settled(&[good(entry.number)]);
        assert!(
            poll(&mut first).is_ready() && poll(&mut second).is_pending() && poll(&mut read).is_pending()
        );
        gate.settled(&[good(entry.number)]);
        assert_eq!((poll(&mut second), poll(&mut read)), (Poll::Ready(Ok(())), Poll::Ready(Ok(()))));
    }

    #[test]
    fn a_write_that_fails_takes_all_later_ones_along() {
        let gate = Arc::new(Gate::default());
        let entry = gate.open();
        let (mut first, mut second) = (entry.written(), entry.written());
        gate.settled(&[
            good(entry.number),
            Settled { ticket: entry.number, outcome: Err(berth_store::CommitError::Full) },
        ]);
        assert_eq!(poll(&mut first), Poll::Ready(Ok(())));
        assert!(matches!(poll(&mut second), Poll::Ready(Err(_))));
        assert!(matches!(poll(&mut entry.written()), Poll::Ready(Err(_))));
    }
}
