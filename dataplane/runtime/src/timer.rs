//! Deadlines of one core, made for connections that move theirs at every request.
//!
//! A [`Deadline`] is a slot with an instant in it. Moving it later only writes the slot: the entry
//! in the heap stays where it is, and when it comes up the slot is looked at and the entry goes
//! back with the new instant. So a connection that pushes its time-out away at each request pays
//! a store, not a heap operation. Moving it earlier adds a second entry; the stale one is dropped
//! when it comes up, or when more than half of the heap is stale. Resolution is one millisecond, rounded up: a deadline never fires early.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use crate::core::with_core;

/// "No deadline".
const NEVER: u64 = u64::MAX;

struct Slot {
    /// Milliseconds since the timers' origin at which this deadline expires, or [`NEVER`].
    due_ms: u64,
    /// The earliest heap entry that points here, or [`NEVER`]: what tells a stale entry apart.
    queued_ms: u64,
    waker: Option<Waker>,
}

/// The deadlines of one core. Time is an argument; nothing here reads a clock.
pub(crate) struct Timers {
    origin: Instant,
    slots: Slab<Slot>,
    heap: BinaryHeap<Reverse<(u64, usize)>>,
    /// Entries that no slot points at any more.
    stale: usize,
}

/// Below so many entries a heap is left as it is.
const STALE_MIN: usize = 64;

impl Timers {
    pub(crate) fn new(origin: Instant) -> Self {
        Self { origin, slots: Slab::new(), heap: BinaryHeap::new(), stale: 0 }
    }

    fn insert(&mut self) -> usize {
        self.slots.insert(Slot { due_ms: NEVER, queued_ms: NEVER, waker: None })
    }

    fn remove(&mut self, key: usize) -> Option<Waker> {
        // Heap entries of a removed slot are told apart by `queued_ms` when they come up, also
        // when the slot has been taken again meanwhile.
        let slot = self.slots.remove(key);
        if slot.queued_ms != NEVER {
            self.outdate();
        }
        slot.waker
    }

    /// An entry became stale. When most are, they are thrown out: each costs its part of it once.
    fn outdate(&mut self) {
        self.stale += 1;
        if self.heap.len() >= STALE_MIN && self.stale > self.heap.len() / 2 {
            let slots = &self.slots;
            self.heap.retain(|Reverse((at, key))| slots.get(*key).is_some_and(|slot| slot.queued_ms == *at));
            self.stale = 0;
        }
    }

    fn set(&mut self, key: usize, at: Option<Instant>) {
        let due_ms = at.map_or(NEVER, |at| self.to_ms_up(at));
        let slot = &mut self.slots[key];
        slot.due_ms = due_ms;
        if due_ms < slot.queued_ms {
            let before = std::mem::replace(&mut slot.queued_ms, due_ms);
            self.heap.push(Reverse((due_ms, key)));
            if before != NEVER {
                self.outdate();
            }
        }
    }

    /// Whether the deadline has passed; if not, `waker` is kept for the moment when it does.
    fn poll(&mut self, key: usize, now: Instant, waker: &Waker) -> Poll<()> {
        let now_ms = self.to_ms_down(now);
        let slot = &mut self.slots[key];
        if slot.due_ms <= now_ms {
            return Poll::Ready(());
        }
        match &mut slot.waker {
            Some(kept) => kept.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        Poll::Pending
    }

    /// Takes the wakers of all deadlines that `now` has passed.
    pub(crate) fn expire(&mut self, now: Instant, woken: &mut Vec<Waker>) {
        let now_ms = self.to_ms_down(now);
        while let Some(&Reverse((queued_ms, key))) = self.heap.peek() {
            if queued_ms > now_ms {
                break;
            }
            self.heap.pop();
            let slot = self.slots.get_mut(key).filter(|slot| slot.queued_ms == queued_ms);
            let Some(slot) = slot else {
                // A later entry of this slot took over, or the slot is gone or was taken again.
                self.stale = self.stale.saturating_sub(1);
                continue;
            };
            slot.queued_ms = NEVER;
            if slot.due_ms <= now_ms {
                woken.extend(slot.waker.take());
            } else if slot.due_ms != NEVER {
                slot.queued_ms = slot.due_ms;
                self.heap.push(Reverse((slot.due_ms, key)));
            }
        }
    }

    /// Takes the wakers of all deadlines. The slots stay: each belongs to a [`Deadline`] that may
    /// live on in a task and gives its slot back when it is dropped.
    pub(crate) fn take_wakers(&mut self) -> Vec<Waker> {
        self.slots.iter_mut().filter_map(|(_, slot)| slot.waker.take()).collect()
    }

    /// When the next entry comes up: at or before the next deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((queued_ms, _))| self.origin + Duration::from_millis(*queued_ms))
    }

    fn to_ms_up(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.origin).as_nanos();
        u64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(NEVER - 1)
    }

    fn to_ms_down(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_millis()).unwrap_or(NEVER - 1)
    }
}

/// A moment that a task waits for; it can be moved and cleared at the cost of a store.
#[derive(Debug)]
pub struct Deadline {
    key: usize,
}

impl Default for Deadline {
    fn default() -> Self {
        Self::new()
    }
}

impl Deadline {
    /// A deadline that never comes until it is set.
    pub fn new() -> Self {
        Self { key: with_core(|core| core.timers.borrow_mut().insert()) }
    }

    /// Sets the deadline to `after` from the beginning of this turn: cheap, and early by what the turn did before.
    pub fn set(&self, after: Duration) {
        with_core(|core| core.timers.borrow_mut().set(self.key, core.now().checked_add(after)));
    }

    /// Sets the deadline to this moment.
    pub fn set_at(&self, at: Instant) {
        with_core(|core| core.timers.borrow_mut().set(self.key, Some(at)));
    }

    /// Takes the deadline away.
    pub fn clear(&self) {
        with_core(|core| core.timers.borrow_mut().set(self.key, None));
    }

    /// Ready once the deadline has passed; else the task is woken when it does.
    pub fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<()> {
        with_core(|core| core.timers.borrow_mut().poll(self.key, core.now(), cx.waker()))
    }

    /// Waits until the deadline has passed.
    pub async fn expired(&self) {
        std::future::poll_fn(|cx| self.poll_expired(cx)).await;
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        // The waker is dropped after the timers are released: it may hold the last reference to a
        // task whose future owns deadlines of its own.
        let waker = crate::core::try_with_core(|core| core.timers.borrow_mut().remove(self.key));
        drop(waker);
    }
}

/// Waits for `duration` at least, counted from now and not from when this turn began.
pub async fn sleep(duration: Duration) {
    let deadline = Deadline::new();
    if let Some(at) = Instant::now().checked_add(duration) {
        deadline.set_at(at);
    }
    deadline.expired().await;
}

/// The time ran out before the future was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the time ran out")]
pub struct Elapsed;

/// Runs `future`, but no longer than `duration`, counted from when it is first polled.
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    Timeout { duration, deadline: None, future }
}

/// See [`timeout`]. A type of its own, because an `async fn` would keep `future` twice: as its argument and
/// where it is polled. A future that is ready at once costs no deadline.
pub struct Timeout<F> {
    duration: Duration,
    deadline: Option<Deadline>,
    future: F,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: structural pinning of the one field `future`: it is not moved, `Timeout` has no Drop of its
        // own, and is not Unpin unless `F` is. The other fields are never pinned.
        let (duration, deadline, future) = unsafe {
            let timeout = self.get_unchecked_mut();
            (timeout.duration, &mut timeout.deadline, Pin::new_unchecked(&mut timeout.future))
        };
        if let Poll::Ready(output) = future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let deadline = deadline.get_or_insert_with(|| {
            let deadline = Deadline::new();
            deadline.set(duration);
            deadline
        });
        deadline.poll_expired(cx).map(|()| Err(Elapsed))
    }
}

/// The cell in which a core keeps its timers.
pub(crate) type TimersCell = RefCell<Timers>;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::task::Wake;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU64);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn stale_entries_never_outnumber_the_others_by_much() {
        let origin = Instant::now();
        let mut timers = Timers::new(origin);
        let at = |ms| Some(origin + Duration::from_millis(ms));
        let keys: Vec<usize> = (0..50).map(|_| timers.insert()).collect();
        for round in 0..1000u64 {
            for key in &keys {
                timers.set(*key, at(100_000 - round)); // Earlier each time: one entry becomes stale.
            }
            let short_lived = timers.insert();
            timers.set(short_lived, at(50_000 + round));
            timers.remove(short_lived);
            assert!(
                timers.heap.len() <= 2 * (keys.len() + 1) + STALE_MIN,
                "{} in round {round}",
                timers.heap.len()
            );
        }
        let mut woken = Vec::new();
        timers.expire(origin + Duration::from_secs(200), &mut woken);
        assert_eq!((timers.heap.len(), timers.stale), (0, 0));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert,
        Set(usize, u64),
        Clear(usize),
        Remove(usize),
        Advance(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Insert),
            (0..8usize, 0..50u64).prop_map(|(k, ms)| Step::Set(k, ms)),
            (0..8usize).prop_map(Step::Clear),
            (0..8usize).prop_map(Step::Remove),
            (0..30u64).prop_map(Step::Advance),
        ]
    }

    proptest! {
        /// A deadline fires when its last setting has passed, never before, and never after it was
        /// cleared or removed: the plain model is a map from key to instant.
        #[test]
        fn deadlines_fire_exactly_when_due(steps in prop::collection::vec(step(), 1..120)) {
            let origin = Instant::now();
            let mut now = origin;
            let mut timers = Timers::new(origin);
            let mut model: HashMap<usize, (Option<Instant>, Arc<Count>, u64)> = HashMap::new();
            let mut woken = Vec::new();
            for step in steps {
                match step {
                    Step::Insert => {
                        let key = timers.insert();
                        model.insert(key, (None, Arc::default(), 0));
                    }
                    Step::Set(key, ms) => if let Some(entry) = model.get_mut(&key) {
                        let at = now + Duration::from_millis(ms);
                        timers.set(key, Some(at));
                        entry.0 = Some(at);
                        let waker = Waker::from(Arc::clone(&entry.1));
                        let ready = timers.poll(key, now, &waker).is_ready();
                        prop_assert_eq!(ready, ms == 0);
                    },
                    Step::Clear(key) => if let Some(entry) = model.get_mut(&key) {
                        timers.set(key, None);
                        entry.0 = None;
                    },
                    Step::Remove(key) => if model.remove(&key).is_some() {
                        drop(timers.remove(key));
                    },
                    Step::Advance(ms) => {
                        now += Duration::from_millis(ms);
                        timers.expire(now, &mut woken);
                        woken.drain(..).for_each(Waker::wake);
                        for (key, entry) in &mut model {
                            if entry.0.is_some_and(|at| at <= now) {
                                let waker = Waker::from(Arc::clone(&entry.1));
                                prop_assert!(timers.poll(*key, now, &waker).is_ready());
                                entry.0 = None;
                                entry.2 += 1;
                                timers.set(*key, None);
                            }
                            prop_assert!(entry.1.0.load(Relaxed) <= entry.2, "woken early");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_waiting_task_is_woken_once_when_its_moved_deadline_comes() {
        let origin = Instant::now();
        let mut timers = Timers::new(origin);
        let key = timers.insert();
        let count = Arc::<Count>::default();
        timers.set(key, Some(origin + Duration::from_millis(10)));
        assert!(timers.poll(key, origin, &Waker::from(Arc::clone(&count))).is_pending());
        timers.set(key, Some(origin + Duration::from_millis(30)));
        let mut woken = Vec::new();
        timers.expire(origin + Duration::from_millis(20), &mut woken);
        assert!(woken.is_empty(), "moved away");
        timers.expire(origin + Duration::from_millis(30), &mut woken);
        assert_eq!(woken.len(), 1);
        assert!(timers.next().is_none());
    }
}
