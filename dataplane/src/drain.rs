//! The end of a core's connections: told once, heard by all.
//!
//! A graceful stop tells every connection of a core to end when it can: idle ones at once, busy
//! ones after the request in hand. What still runs at the deadline is cut by dropping its task.
//! A core that has seen out its own waits for the others: what theirs wait for may be on it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use slab::Slab;
use tokio::sync::watch;

#[derive(Default)]
struct Shared {
    draining: Cell<bool>,
    waiting: RefCell<Slab<Option<Waker>>>,
    /// Connections that still run, and who waits for their end.
    alive: Cell<usize>,
    all_done: RefCell<Option<Waker>>,
}

/// The side that tells.
#[derive(Clone, Default)]
pub struct Drain(Rc<Shared>);

/// The side of one connection: hears of the drain, and counts as alive until it is dropped.
pub struct Draining {
    shared: Rc<Shared>,
    key: usize,
}

impl Drain {
    /// Tells all connections to end when they can.
    pub fn start(&self) {
        self.0.draining.set(true);
        let wakers: Vec<Waker> =
            self.0.waiting.borrow_mut().iter_mut().filter_map(|(_, waker)| waker.take()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// A new connection's ear.
    pub fn listen(&self) -> Draining {
        self.0.alive.set(self.0.alive.get() + 1);
        let key = self.0.waiting.borrow_mut().insert(None);
        Draining { shared: Rc::clone(&self.0), key }
    }

    /// Whether the drain has begun.
    pub fn is_on(&self) -> bool {
        self.0.draining.get()
    }

    /// Connections that still run.
    pub fn alive(&self) -> usize {
        self.0.alive.get()
    }

    /// Waits until no connection runs any more.
    pub async fn finished(&self) {
        std::future::poll_fn(|cx| {
            if self.0.alive.get() == 0 {
                return Poll::Ready(());
            }
            *self.0.all_done.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// The cores of a node at its end: none goes before each has seen out what it has.
#[derive(Clone)]
pub struct Together(Arc<watch::Sender<usize>>);

impl Together {
    /// So many cores, none of which has ended.
    pub fn new(cores: usize) -> Self {
        Self(Arc::new(watch::Sender::new(cores)))
    }

    /// A core has nothing left. Waits until no core has. Called once by each.
    pub async fn finished(&self) {
        let mut left = self.0.subscribe();
        self.0.send_modify(|left| *left = left.saturating_sub(1));
        let _ = left.wait_for(|left| *left == 0).await;
    }
}

impl Draining {
    /// Whether the drain has begun.
    pub fn is_on(&self) -> bool {
        self.shared.draining.get()
    }

    /// Runs a future until it is done, or until the drain begins: then `None`.
    pub async fn or<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            self.poll_on(cx).map(|()| None)
        })
        .await
    }

    /// Ready once the drain has begun; else the task is woken when it does.
    pub fn poll_on(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_on() {
            return Poll::Ready(());
        }
        let mut waiting = self.shared.waiting.borrow_mut();
        match &mut waiting[self.key] {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        let waker = self.shared.waiting.borrow_mut().remove(self.key);
        drop(waker);
        self.shared.alive.set(self.shared.alive.get() - 1);
        if self.shared.alive.get() == 0 {
            let waker = self.shared.all_done.borrow_mut().take();
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn all_hear_of_the_drain_and_it_ends_with_the_last() {
        let woken = Arc::<Count>::default();
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        let drain = Drain::default();
        let (waits, busy) = (drain.listen(), drain.listen());
        assert!(waits.poll_on(&mut cx).is_pending());
        let mut finished = pin!(drain.finished());
        assert!(finished.as_mut().poll(&mut cx).is_pending());

        drain.start();
        assert_eq!(woken.0.load(Relaxed), 1, "who waits is woken");
        assert!(waits.poll_on(&mut cx).is_ready() && busy.is_on());
        assert!(drain.listen().is_on(), "who comes later hears of it too");

        drop(waits);
        assert!(finished.as_mut().poll(&mut cx).is_pending(), "the busy one still runs");
        drop(busy);
        assert_eq!(woken.0.load(Relaxed), 2, "the last one wakes who waits for the end");
        assert!(finished.as_mut().poll(&mut cx).is_ready() && drain.alive() == 0);
    }

    #[test]
    fn no_core_ends_before_all_have_nothing_left() {
        let mut cx = Context::from_waker(Waker::noop());
        let cores = Together::new(2);
        let (mine, others) = (cores.clone(), cores);
        let mut first = pin!(mine.finished());
        assert!(first.as_mut().poll(&mut cx).is_pending(), "the other one has something yet");
        assert!(pin!(others.finished()).poll(&mut cx).is_ready());
        assert!(first.as_mut().poll(&mut cx).is_ready());
    }
}
