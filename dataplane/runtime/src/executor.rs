//! Tasks of one core: spawned, woken, polled and ended on its thread only.
//!
//! A task is `!Send`. Its waker may go anywhere: woken on its own thread it joins the core's
//! queue, woken elsewhere it travels through [`Remote`]. A turn polls the tasks that were ready
//! when it began, so that a task that wakes itself cannot keep the core from its sockets.
//!
//! Panics: a task that panics ends alone. Its future is dropped (a connection's future closes its
//! socket), the panic is counted and logged, and the core goes on.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_task::Runnable;

use crate::core::with_core;
use crate::remote::Remote;
use crate::stats::CoreStats;

thread_local! {
    /// The queue of this thread's core, and the identity of its remote to tell own wakes apart.
    static LOCAL: RefCell<Option<(Rc<Queue>, *const Remote)>> = const { RefCell::new(None) };
}

type Queue = RefCell<VecDeque<Runnable>>;

/// A spawned task whose end can be awaited. Dropping it cancels the task.
pub type Task<T> = async_task::Task<T>;

/// The ready queue of one core.
pub(crate) struct Executor {
    queue: Rc<Queue>,
    remote: Arc<Remote>,
    stats: Arc<CoreStats>,
    alive: Rc<Cell<u64>>,
}

impl Executor {
    /// Makes the executor of this thread.
    pub(crate) fn new(remote: Arc<Remote>, stats: Arc<CoreStats>) -> Self {
        let queue: Rc<Queue> = Rc::default();
        LOCAL.set(Some((Rc::clone(&queue), Arc::as_ptr(&remote))));
        Self { queue, remote, stats, alive: Rc::default() }
    }

    pub(crate) fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        let remote = Arc::clone(&self.remote);
        let counted = Counted { future, _alive: Alive::new(&self.alive) };
        let (runnable, task) = async_task::spawn_local(counted, move |runnable| wake(&remote, runnable));
        runnable.schedule();
        task
    }

    /// Polls the tasks that are ready now, not those that become ready meanwhile.
    pub(crate) fn run_ready(&self) {
        let woken = self.remote.take_woken(&mut self.queue.borrow_mut());
        self.stats.remote_wakes.add(woken as u64);
        let ready = self.queue.borrow().len();
        for _ in 0..ready {
            let Some(runnable) = self.queue.borrow_mut().pop_front() else { break };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| runnable.run())) {
                self.stats.task_panics.add(1);
                tracing::error!(panic = panic_text(&*panic), "task.panicked");
            }
        }
        self.stats.task_polls.add(ready as u64);
        self.stats.tasks.set(self.alive.get());
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.queue.borrow().is_empty()
    }

    /// Drops every task that is ready, and with it what its future holds; used when the core ends.
    pub(crate) fn clear(&self) {
        loop {
            let Some(runnable) = self.queue.borrow_mut().pop_front() else { return };
            drop(runnable);
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.clear();
        LOCAL.set(None);
    }
}

fn wake(remote: &Arc<Remote>, runnable: Runnable) {
    let foreign = LOCAL.try_with(|local| match &*local.borrow() {
        Some((queue, here)) if *here == Arc::as_ptr(remote) => {
            queue.borrow_mut().push_back(runnable);
            None
        }
        _ => Some(runnable),
    });
    if let Ok(Some(runnable)) = foreign {
        remote.push(runnable);
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is not text")
}

/// Counts a task from its birth to the drop of its future.
struct Alive(Rc<Cell<u64>>);

impl Alive {
    fn new(count: &Rc<Cell<u64>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

struct Counted<F> {
    future: F,
    _alive: Alive,
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: structural pinning of the one field `future`; it is never moved out, and
        // `Counted` has no Drop of its own and is not Unpin unless `F` is.
        unsafe { self.map_unchecked_mut(|counted| &mut counted.future) }.poll(cx)
    }
}

/// Spawns a task on this core and lets it run on its own.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    with_core(|core| core.executor.spawn(future)).detach();
}

/// Spawns a task on this core; dropping the handle cancels it.
pub fn spawn_scoped<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    with_core(|core| core.executor.spawn(future))
}

/// Lets the other ready tasks, the timers and the sockets have their turn.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
