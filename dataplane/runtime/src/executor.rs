//! Tasks of one core: spawned, woken, polled and ended on its thread only.
//!
//! A task is `!Send`. Its waker may go anywhere: woken on its own thread it joins the core's
//! queue, woken elsewhere it travels through [`Remote`]. A turn polls the tasks that are ready
//! and those that they make ready, so that a message and its answer on one core are one turn; not again
//! who wakes itself, which cannot keep the core from its sockets, and at most for [`TURN`], so that many
//! tasks cannot either.
//!
//! # Fairness
//!
//! Each task has a [`Payer`]: who has its CPU time on the bill, such as a client's address. Each payer
//! has a ready queue of its own, and those with ready tasks take turns of one [`QUANTUM`]. So whoever
//! has a thousand connections, or work that is dear to us, waits behind its own tasks. Who was not
//! busy lately comes before those who were, for one quantum (the queues of fq_codel, RFC 8290), and
//! what it has to send goes out before they go on: so a client that asks now and then waits for what
//! runs already, and not for each payer that is busy. A task that has much to do asks
//! [`out_of_budget`] in its loop and yields; how far it overshoots bounds how long others wait.
//! Of the tasks of one payer those that run long in one piece, and want to go on at once, wait apart ([`Line`]): the
//! others wait for one of them, not for all. So a guest that spins delays its neighbour of the same address by one tick.
//! What the kernel will do for a task when the core enters it next takes time as well: the sockets
//! put an estimate on the same bill ([`bill`]), and those of a payer with many tasks have nothing done
//! for them before the task that wants it had its turn ([`is_of_a_crowd`]).
//!
//! Panics: a task that panics ends alone. Its future is dropped (a connection's future closes its
//! socket), the panic is counted and logged, and the core goes on.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use slab::Slab;

use crate::core::with_core;
use crate::remote::Remote;
use crate::stats::CoreStats;

/// How long the tasks of one payer run before the next has its turn, if nothing longer than this is
/// done in one piece: a dozen small requests. A neighbour waits that long for each busy payer.
const QUANTUM: Duration = Duration::from_micros(50);
/// How long tasks run before the core looks at its sockets again, if there are more: two quanta, so
/// that one payer which is busy and one that is not both had their turn. The look costs some
/// microseconds.
const TURN: Duration = Duration::from_micros(100);

/// Who runs so long in one piece is one of those who wait apart.
const LONG: Duration = Duration::from_micros(500);

/// So many tasks of one payer are a crowd, if there are others: what the kernel does for all of them at once takes
/// several quanta.
const CROWD_MIN: usize = 64;

/// Who has the CPU time of a task on the bill: tasks of the same payer wait for each other, those of
/// others take turns with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Payer(pub u64);

impl Payer {
    /// The core itself: for tasks that no peer can make busy by itself.
    pub const CORE: Self = Self(u64::MAX);
}

/// A task that is ready, with its payer's place in [`Ready`].
pub(crate) type Runnable = async_task::Runnable<usize>;

thread_local! {
    /// The queue of this thread's core, and the identity of its remote to tell own wakes apart.
    static LOCAL: RefCell<Option<(Rc<Queue>, *const Remote)>> = const { RefCell::new(None) };
    /// When the task that runs now should yield.
    static YIELD_AT: Cell<Option<Instant>> = const { Cell::new(None) };
    /// What the kernel will do for the task that runs now.
    static BILLED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// The payer of the task that runs now, whose children have the same.
    static PAYER: Cell<Payer> = const { Cell::new(Payer::CORE) };
    /// Whether it has a crowd of tasks.
    static CROWD: Cell<bool> = const { Cell::new(false) };
}

type Queue = RefCell<Ready>;

/// A spawned task whose end can be awaited. Dropping it cancels the task.
pub type Task<T> = async_task::Task<T, usize>;

/// The tasks that are ready, by payer.
#[derive(Default)]
struct Ready {
    accounts: Slab<Account>,
    places: HashMap<Payer, usize>,
    /// Accounts that were not busy lately. They come first, for one quantum each.
    fresh: VecDeque<usize>,
    /// Accounts that take turns. One without ready tasks stays until its turn, so that it is fresh no earlier.
    rotation: VecDeque<usize>,
    /// The account whose task runs, which stays first in its list meanwhile.
    current: Option<usize>,
    /// Accounts with ready tasks.
    busy: usize,
    len: usize,
}

/// The ready tasks of one payer. Those that ran long and are ready again wait apart: whoever is not one of them goes
/// first for one turn, and then one of them has its own.
#[derive(Default)]
struct Line {
    short: VecDeque<Runnable>,
    long: VecDeque<Runnable>,
    /// Whether the others had their turn.
    long_is_next: bool,
}

impl Line {
    fn is_empty(&self) -> bool {
        self.short.is_empty() && self.long.is_empty()
    }

    fn push(&mut self, runnable: Runnable) {
        self.short.push_back(runnable);
    }

    fn pop(&mut self) -> Option<Runnable> {
        let long = if self.long_is_next { self.long.pop_front() } else { None };
        long.or_else(|| self.short.pop_front()).or_else(|| self.long.pop_front())
    }

    /// The task that ran last was woken meanwhile, and waits as the last of all.
    fn set_last_apart(&mut self) {
        self.long.extend(self.short.pop_back());
    }
}

struct Account {
    payer: Payer,
    ready: Line,
    /// Tasks that were ready beside the one that runs.
    beside: usize,
    /// Tasks that are alive; with the last one the account ends, once it is in no list.
    tasks: usize,
    /// What the current turn has used of its quantum.
    used: Duration,
    listed: Option<List>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    Fresh,
    Rotation,
}

/// Who is left after a task has run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// The last fresh account is done, and others are busy.
    OnlyBusy,
    /// Anything else.
    Any,
}

impl Ready {
    fn open(&mut self, payer: Payer) -> usize {
        let accounts = &mut self.accounts;
        let place = *self.places.entry(payer).or_insert_with(|| {
            let (ready, used) = (Line::default(), Duration::ZERO);
            accounts.insert(Account { payer, ready, beside: 0, tasks: 0, used, listed: None })
        });
        self.accounts[place].tasks += 1;
        place
    }

    /// A task of this account is gone, and was not ready.
    fn close(&mut self, place: usize) {
        self.accounts[place].tasks -= 1;
        self.forget_if_over(place);
    }

    fn forget_if_over(&mut self, place: usize) {
        let account = &self.accounts[place];
        if account.tasks == 0 && account.ready.is_empty() && account.listed.is_none() {
            self.places.remove(&account.payer);
            self.accounts.remove(place);
        }
    }

    fn push(&mut self, runnable: Runnable) {
        let place = *runnable.metadata();
        let account = &mut self.accounts[place];
        self.busy += usize::from(account.ready.is_empty());
        self.len += 1;
        account.ready.push(runnable);
        if account.listed.is_none() {
            account.listed = Some(List::Fresh);
            self.fresh.push_back(place);
        }
    }

    /// Whether a payer other than that of the task that was taken last has ready tasks.
    fn has_others(&self) -> bool {
        let own = self.current.is_some_and(|place| !self.accounts[place].ready.is_empty());
        self.busy > usize::from(own)
    }

    /// Whether the payer of the task that was taken last has a crowd of tasks, and there are others than it and the core.
    fn has_crowd(&self) -> bool {
        let tasks = self.current.map_or(0, |place| self.accounts[place].tasks);
        tasks >= CROWD_MIN && self.places.len() > 2
    }

    /// The next task; its account stays first until [`Ready::charge`].
    fn pop(&mut self) -> Option<(Runnable, Payer)> {
        loop {
            let place = *self.fresh.front().or(self.rotation.front())?;
            let account = &mut self.accounts[place];
            let Some(runnable) = account.ready.pop() else {
                self.unlist(place);
                self.forget_if_over(place);
                continue;
            };
            let payer = account.payer;
            account.beside = account.ready.short.len();
            self.busy -= usize::from(account.ready.is_empty());
            self.len -= 1;
            self.current = Some(place);
            return Some((runnable, payer));
        }
    }

    /// When nobody is busy all have had their turn.
    fn calm(&mut self) {
        if self.busy == 0 {
            while let Some(&place) = self.rotation.front() {
                self.unlist(place);
                self.forget_if_over(place);
            }
        }
    }

    /// Takes the first account of a list out of it.
    fn unlist(&mut self, place: usize) {
        match self.accounts[place].listed.take() {
            Some(List::Fresh) => self.fresh.pop_front(),
            Some(List::Rotation) => self.rotation.pop_front(),
            None => None,
        };
    }

    /// The task that was taken last has run for `time`.
    fn charge(&mut self, time: Duration) -> Left {
        let Some(place) = self.current.take() else { return Left::Any };
        let account = &mut self.accounts[place];
        account.used += time;
        if time >= LONG && account.ready.short.len() > account.beside {
            account.ready.set_last_apart();
        }
        let (fresh, done) = (account.listed == Some(List::Fresh), account.ready.is_empty());
        if account.used < QUANTUM && !done {
            return Left::Any;
        }
        account.used = Duration::ZERO;
        account.ready.long_is_next = time < LONG;
        self.unlist(place);
        // Fresh again only when all who are busy had their turn.
        if fresh || !done {
            self.accounts[place].listed = Some(List::Rotation);
            self.rotation.push_back(place);
        } else {
            self.forget_if_over(place);
        }
        if fresh && self.fresh.is_empty() && self.busy > 0 { Left::OnlyBusy } else { Left::Any }
    }
}

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

    pub(crate) fn spawn<T: 'static>(
        &self,
        payer: Payer,
        future: impl Future<Output = T> + 'static,
    ) -> Task<T> {
        let remote = Arc::clone(&self.remote);
        let place = self.queue.borrow_mut().open(payer);
        let alive = Alive::new(&self.alive, &self.queue, place);
        let counted = Counted { future, _alive: alive };
        let builder = async_task::Builder::new().metadata(place);
        let schedule = move |runnable| wake(&remote, runnable);
        let (runnable, task) = builder.spawn_local(|_| counted, schedule);
        runnable.schedule();
        task
    }

    /// Polls the tasks that are ready, and those that they make ready, within a bound; who makes itself ready again is polled
    /// in the next turn. `submit` lets go what they have given the kernel to do; it is called in between, before those who
    /// are busy go on.
    pub(crate) fn run_ready(&self, submit: impl Fn()) {
        let woken = self.remote.take_woken();
        self.stats.remote_wakes.add(woken.len() as u64);
        woken.into_iter().for_each(|runnable| self.queue.borrow_mut().push(runnable));
        // Tasks that yielded in this turn.
        let mut yielded = 0;
        let mut polled = 0;
        if !self.is_idle() {
            let mut now = Instant::now();
            let mut used = Duration::ZERO;
            while used < TURN && self.queue.borrow().len > yielded {
                let Some((runnable, payer)) = self.queue.borrow_mut().pop() else { break };
                // With nobody to yield to, the turn's end is early enough.
                let share = if self.queue.borrow().has_others() {
                    QUANTUM
                } else {
                    TURN.saturating_sub(used).max(QUANTUM)
                };
                YIELD_AT.set(Some(now + share));
                PAYER.set(payer);
                CROWD.set(self.queue.borrow().has_crowd());
                match catch_unwind(AssertUnwindSafe(|| runnable.run())) {
                    Ok(woken_meanwhile) => yielded += usize::from(woken_meanwhile),
                    Err(panic) => {
                        self.stats.task_panics.add(1);
                        tracing::error!(panic = panic_text(&*panic), "task.panicked");
                    }
                }
                polled += 1;
                let after = Instant::now();
                let cost = after.duration_since(now) + BILLED.take();
                used += cost;
                now = after;
                if self.queue.borrow_mut().charge(cost) == Left::OnlyBusy {
                    submit();
                    now = Instant::now();
                }
            }
            YIELD_AT.set(None);
            PAYER.set(Payer::CORE);
            CROWD.set(false);
            self.queue.borrow_mut().calm();
        }
        self.stats.task_polls.add(polled as u64);
        self.stats.tasks.set(self.alive.get());
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.queue.borrow().len == 0
    }

    /// Drops every task that is ready, and with it what its future holds; used when the core ends.
    pub(crate) fn clear(&self) {
        loop {
            let Some((runnable, _)) = self.queue.borrow_mut().pop() else { return };
            drop(runnable);
            self.queue.borrow_mut().charge(QUANTUM);
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
            queue.borrow_mut().push(runnable);
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

/// Counts a task, and keeps its payer's account, from its birth to the drop of its future.
struct Alive {
    count: Rc<Cell<u64>>,
    queue: Rc<Queue>,
    place: usize,
}

impl Alive {
    fn new(count: &Rc<Cell<u64>>, queue: &Rc<Queue>, place: usize) -> Self {
        count.set(count.get() + 1);
        Self { count: Rc::clone(count), queue: Rc::clone(queue), place }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
        self.queue.borrow_mut().close(self.place);
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

/// Spawns a task on this core and lets it run on its own. Its payer is that of the current task.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    spawn_for(PAYER.get(), future);
}

/// Spawns a task on this core for a payer of its own.
pub fn spawn_for(payer: Payer, future: impl Future<Output = ()> + 'static) {
    with_core(|core| core.executor.spawn(payer, future)).detach();
}

/// Spawns a task on this core; dropping the handle cancels it.
pub fn spawn_scoped<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    with_core(|core| core.executor.spawn(PAYER.get(), future))
}

/// Whether the current task has run for long enough and should yield: it then wakes itself and
/// returns `Pending`. Asked in each loop that a peer can keep going.
pub fn out_of_budget() -> bool {
    YIELD_AT.get().is_some_and(|at| Instant::now() >= at)
}

/// Whether the payer of the current task has so many that the kernel should do nothing for them before it is their turn.
pub(crate) fn is_of_a_crowd() -> bool {
    CROWD.get()
}

/// Puts work that the kernel will do for the current task on its payer's bill, as if the task did it
/// now: the task's budget, its payer's quantum and the core's turn all get shorter by it.
pub(crate) fn bill(cost: Duration) {
    if let Some(at) = YIELD_AT.get() {
        YIELD_AT.set(at.checked_sub(cost));
        BILLED.set(BILLED.get() + cost);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{CoreOptions, block_on};
    use crate::driver::DriverChoice;

    fn on_a_core<T>(main: impl Future<Output = T>) -> T {
        let options = CoreOptions { driver: DriverChoice::Epoll, ..CoreOptions::default() };
        let remote = Arc::new(Remote::new().unwrap());
        block_on(&options, &remote, &Arc::default(), main).unwrap()
    }

    /// Runs for `time`, as a handshake does that cannot be cut into pieces.
    fn work(time: Duration) {
        let began = Instant::now();
        while began.elapsed() < time {}
    }

    #[test]
    fn a_payer_with_a_thousand_tasks_makes_another_wait_for_a_few_of_them() {
        let order = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&order);
        on_a_core(async move {
            for _ in 0..1000 {
                let order = Rc::clone(&seen);
                spawn_for(Payer(1), async move {
                    work(QUANTUM);
                    order.borrow_mut().push(1);
                });
            }
            let order = Rc::clone(&seen);
            spawn_for(Payer(2), async move { order.borrow_mut().push(2) });
            while seen.borrow().len() < 1001 {
                crate::timer::sleep(Duration::from_millis(1)).await;
            }
        });
        let waited = order.borrow().iter().position(|payer| *payer == 2).unwrap();
        assert_eq!(waited, 1, "one quantum of the other payer is one of its tasks");
    }

    #[test]
    fn who_was_not_busy_lately_comes_before_all_who_were() {
        let order = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&order);
        on_a_core(async move {
            let left = Rc::new(Cell::new(3));
            for payer in [1, 2, 3] {
                let (order, left) = (Rc::clone(&seen), Rc::clone(&left));
                spawn_for(Payer(payer), async move {
                    for round in 0..4 {
                        work(QUANTUM);
                        order.borrow_mut().push(payer);
                        if (payer, round) == (1, 2) {
                            // Twice, and the second time it was busy a moment ago.
                            for _ in 0..2 {
                                let order = Rc::clone(&order);
                                spawn_for(Payer(9), async move {
                                    order.borrow_mut().push(9);
                                    work(QUANTUM);
                                });
                            }
                        }
                        yield_now().await;
                    }
                    left.set(left.get() - 1);
                });
            }
            while left.get() > 0 {
                crate::timer::sleep(Duration::from_millis(1)).await;
            }
        });
        assert_eq!(*order.borrow(), [1, 2, 3, 1, 2, 3, 1, 9, 2, 3, 1, 9, 2, 3]);
    }

    #[test]
    fn a_task_that_another_makes_ready_runs_in_the_same_turn_and_one_that_yields_in_the_next() {
        fn chain(left: u32, done: Rc<Cell<bool>>) {
            spawn(async move {
                match left {
                    0 => done.set(true),
                    left => chain(left - 1, done),
                }
            });
        }
        let turns_until = |begin: fn(u32, Rc<Cell<bool>>)| {
            on_a_core(async move {
                let done = Rc::new(Cell::new(false));
                begin(20, Rc::clone(&done));
                let mut turns = 0;
                while !done.get() {
                    yield_now().await;
                    turns += 1;
                }
                turns
            })
        };
        // The kernel may take the thread's CPU away for longer than a turn lasts, but not twenty times.
        assert!(turns_until(chain) < 10);
        let yields = |left: u32, done: Rc<Cell<bool>>| {
            spawn(async move {
                for _ in 0..left {
                    yield_now().await;
                }
                done.set(true);
            });
        };
        assert!(turns_until(yields) >= 20);
    }

    #[test]
    fn of_one_payer_others_wait_for_one_long_task_and_not_for_all() {
        let order = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&order);
        on_a_core(async move {
            let left = Rc::new(Cell::new(3));
            for task in [1, 2, 3] {
                let (order, left) = (Rc::clone(&seen), Rc::clone(&left));
                spawn_for(Payer(7), async move {
                    for round in 0..3 {
                        work(LONG);
                        order.borrow_mut().push(task);
                        if (task, round) == (1, 1) {
                            let order = Rc::clone(&order);
                            spawn(async move {
                                for _ in 0..2 {
                                    work(QUANTUM);
                                    order.borrow_mut().push(9);
                                    yield_now().await;
                                }
                            });
                        }
                        yield_now().await;
                    }
                    left.set(left.get() - 1);
                });
            }
            while left.get() > 0 {
                crate::timer::sleep(Duration::from_millis(1)).await;
            }
        });
        assert_eq!(*order.borrow(), [1, 2, 3, 1, 9, 2, 9, 3, 1, 2, 3]);
    }

    #[test]
    fn what_a_fresh_payer_has_to_send_goes_out_before_the_busy_go_on() {
        on_a_core(async {
            let core = with_core(Rc::clone);
            let order = Rc::new(RefCell::new(Vec::new()));
            for payer in [1, 1, 2] {
                let order = Rc::clone(&order);
                spawn_for(Payer(payer), async move {
                    work(if payer == 1 { QUANTUM } else { Duration::ZERO });
                    order.borrow_mut().push(payer);
                });
            }
            let submitted = || order.borrow_mut().push(0);
            while order.borrow().iter().filter(|&&step| step > 0).count() < 3 {
                core.executor.run_ready(submitted);
            }
            assert_eq!(*order.borrow(), [1, 2, 0, 1]);
        });
    }

    #[test]
    fn what_the_kernel_will_do_for_a_task_is_on_its_bill() {
        let order = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&order);
        on_a_core(async move {
            for payer in [1, 1, 1, 2] {
                let order = Rc::clone(&seen);
                spawn_for(Payer(payer), async move {
                    assert!(!out_of_budget());
                    bill(TURN);
                    assert!(out_of_budget());
                    order.borrow_mut().push(payer);
                });
            }
            while seen.borrow().len() < 4 {
                crate::timer::sleep(Duration::from_millis(1)).await;
            }
        });
        assert_eq!(*order.borrow(), [1, 2, 1, 1], "the other payer waits for one quantum, not for three");
    }

    #[test]
    fn children_are_on_the_bill_of_their_parent() {
        on_a_core(async {
            let done = Rc::new(Cell::new(None));
            let inner = Rc::clone(&done);
            spawn_for(Payer(7), async move {
                spawn(async move { inner.set(Some(PAYER.get())) });
            });
            while done.get().is_none() {
                crate::timer::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(done.get(), Some(Payer(7)));
        });
    }

    #[test]
    fn a_task_that_asks_is_told_to_yield_and_a_new_turn_is_a_new_budget() {
        on_a_core(async {
            let task = spawn_scoped(async {
                work(TURN);
                let out = out_of_budget();
                yield_now().await;
                (out, YIELD_AT.get().is_some_and(|at| at > Instant::now() - QUANTUM))
            });
            assert!(matches!(task.await, (true, true)));
        });
    }

    #[test]
    fn an_account_ends_with_its_last_task() {
        on_a_core(async {
            for payer in 0..100 {
                spawn_for(Payer(payer), async {});
            }
            let count = || {
                with_core(|core| {
                    let ready = core.executor.queue.borrow();
                    let listed = ready.fresh.len() + ready.rotation.len();
                    (ready.accounts.len(), ready.places.len(), listed, ready.len)
                })
            };
            assert_eq!(count(), (100, 100, 100, 100));
            while count() != (0, 0, 0, 0) {
                crate::timer::sleep(Duration::from_millis(1)).await;
            }
        });
    }
}
