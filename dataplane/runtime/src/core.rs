//! A core: one thread, one turn after the other, and one place to sleep.
//!
//! A turn polls the tasks that are ready, fires timers, drains the inbox (messages from other
//! cores) and then enters the driver. The driver submits what the tasks asked for and reaps what
//! is done; with nothing ready it is also where the core sleeps, so that submitting, waiting and
//! reaping are one system call. A core that is never idle still enters the driver once a turn: a
//! turn is bounded (in time, and a task that wakes itself has one poll), so sockets and timers are never
//! starved by tasks that wake themselves.
//!
//! No wake-up is lost: see [`crate::remote`] for the protocol with other threads. Completions need
//! no protocol: the core waits for them inside the kernel, on the ring itself.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use crate::driver::{Driver, DriverChoice, DriverKind, Park};
use crate::executor::Executor;
use crate::remote::Remote;
use crate::ring::RingOptions;
use crate::stats::CoreStats;
use crate::timer::{Timers, TimersCell};

/// How a core is made.
#[derive(Debug, Clone)]
pub struct CoreOptions {
    /// The number of the core within the node, for logs and metrics.
    pub index: u16,
    /// The CPU to pin the calling thread to; `None` leaves it where the scheduler puts it.
    pub cpu: Option<usize>,
    /// Which driver to use.
    pub driver: DriverChoice,
    /// Sizes of the ring and its buffers.
    pub ring: RingOptions,
}

impl Default for CoreOptions {
    fn default() -> Self {
        Self { index: 0, cpu: None, driver: DriverChoice::Auto, ring: RingOptions::default() }
    }
}

/// Messages from other cores, drained once a turn. The mailbox implements this.
pub trait Inbox {
    /// Handles what has arrived, up to a bound of its own; true when more may be there, or in a moment.
    fn drain(&mut self) -> bool;
    /// Makes what was sent during this turn visible and rings the bells that need it.
    fn flush(&mut self);
    /// Says that the core is about to sleep; false means that something arrived and it must not.
    fn prepare_sleep(&mut self) -> bool;
    /// Says that the core is awake again.
    fn woke(&mut self);
}

/// What the tasks of a core reach through the thread-local: its parts.
pub(crate) struct CoreContext {
    pub(crate) index: u16,
    pub(crate) executor: Executor,
    pub(crate) timers: TimersCell,
    pub(crate) driver: Driver,
    pub(crate) stats: Arc<CoreStats>,
    inbox: RefCell<Option<Box<dyn Inbox>>>,
    /// The time at the start of this turn; tasks use it instead of asking the clock each.
    now: Cell<Instant>,
}

impl CoreContext {
    pub(crate) fn now(&self) -> Instant {
        self.now.get()
    }
}

thread_local! {
    static CORE: RefCell<Option<Rc<CoreContext>>> = const { RefCell::new(None) };
}

/// Runs `f` with the core of this thread.
///
/// # Panics
///
/// When the thread runs no core: sockets, tasks and timers exist on cores only.
#[allow(clippy::panic, reason = "misuse by our own code, as tokio does outside a runtime")]
pub(crate) fn with_core<T>(f: impl FnOnce(&Rc<CoreContext>) -> T) -> T {
    try_with_core(f)
        .unwrap_or_else(|| panic!("this thread runs no core; call it inside berth_runtime::block_on"))
}

pub(crate) fn try_with_core<T>(f: impl FnOnce(&Rc<CoreContext>) -> T) -> Option<T> {
    CORE.try_with(|core| core.borrow().as_ref().map(f)).ok().flatten()
}

/// Sends a wake-up to another ring through this thread's ring; false when it has none.
pub(crate) fn message_ring(target: RawFd) -> bool {
    try_with_core(|core| {
        let sent = core.driver.message_ring(target);
        core.stats.doorbells_rung.add(u64::from(sent));
        sent
    })
    .unwrap_or(false)
}

/// The number of the core that runs on this thread.
pub fn core_index() -> u16 {
    with_core(|core| core.index)
}

/// Whether this thread runs a core.
pub fn has_core() -> bool {
    try_with_core(|_| ()).is_some()
}

/// The time at the start of this turn. Cheap, and late by at most the turn.
pub fn now() -> Instant {
    with_core(|core| core.now())
}

/// Connects this core to the messages of other cores.
pub fn set_inbox(inbox: Box<dyn Inbox>) {
    with_core(|core| *core.inbox.borrow_mut() = Some(inbox));
}

/// Runs a core on the calling thread until `main` is done; tasks that still run are dropped.
///
/// `remote` is how other threads reach the core and `stats` what it counts; both may be shared
/// before the core starts. Returns what `main` returned and the driver that was used.
pub fn block_on<T>(
    options: &CoreOptions,
    remote: &Arc<Remote>,
    stats: &Arc<CoreStats>,
    main: impl Future<Output = T>,
) -> io::Result<T> {
    if let Some(cpu) = options.cpu {
        pin_to(cpu)?;
    }
    let driver = Driver::new(options, remote, stats)?;
    stats.epoll_fallback.set(u64::from(driver.kind() == DriverKind::Epoll));
    let now = Instant::now();
    let core = Rc::new(CoreContext {
        index: options.index,
        executor: Executor::new(Arc::clone(remote), Arc::clone(stats)),
        timers: RefCell::new(Timers::new(now)),
        driver,
        stats: Arc::clone(stats),
        inbox: RefCell::new(None),
        now: Cell::new(now),
    });
    let _scope = Scope::enter(&core, remote);
    Ok(run(&core, remote, main))
}

fn run<T>(core: &CoreContext, remote: &Arc<Remote>, main: impl Future<Output = T>) -> T {
    let mut main = std::pin::pin!(main);
    let main_wake = Arc::new(MainWake { ready: AtomicBool::new(true), remote: Arc::clone(remote) });
    let waker = Waker::from(Arc::clone(&main_wake));
    let mut expired = Vec::new();
    loop {
        core.now.set(Instant::now());
        core.stats.turns.add(1);
        remote.count_turn();
        if main_wake.ready.swap(false, Ordering::Acquire)
            && let Poll::Ready(output) = main.as_mut().poll(&mut Context::from_waker(&waker))
        {
            return output;
        }
        core.executor.run_ready(|| core.driver.submit());
        core.timers.borrow_mut().expire(core.now(), &mut expired);
        expired.drain(..).for_each(Waker::wake);
        let more = with_inbox(core, |inbox| {
            let more = inbox.drain();
            inbox.flush();
            more
        });
        let busy = more == Some(true) || !core.executor.is_idle() || main_wake.ready.load(Ordering::Acquire);
        core.driver.turn(park(core, remote, &main_wake, busy));
        remote.woke();
        with_inbox(core, |inbox| inbox.woke());
    }
}

/// Decides whether the core may sleep, and says so to others before it does.
fn park(core: &CoreContext, remote: &Remote, main_wake: &MainWake, busy: bool) -> Park {
    if busy || !remote.prepare_sleep() || main_wake.ready.load(Ordering::Acquire) {
        return Park::Poll;
    }
    if with_inbox(core, |inbox| inbox.prepare_sleep()) == Some(false) {
        return Park::Poll;
    }
    match core.timers.borrow().next() {
        // The turn's time is a little old; a deadline that came meanwhile means a zero wait.
        Some(at) => Park::Sleep(Some(at.saturating_duration_since(Instant::now()))),
        None => Park::Sleep(None),
    }
}

fn with_inbox<T>(core: &CoreContext, f: impl FnOnce(&mut dyn Inbox) -> T) -> Option<T> {
    core.inbox.borrow_mut().as_mut().map(|inbox| f(&mut **inbox))
}

struct MainWake {
    ready: AtomicBool,
    remote: Arc<Remote>,
}

impl Wake for MainWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.store(true, Ordering::Release);
        self.remote.notify();
    }
}

/// The thread-local set for as long as the core lives; its end drops what the tasks still hold.
struct Scope {
    core: Rc<CoreContext>,
    remote: Arc<Remote>,
}

impl Scope {
    #[allow(clippy::panic, reason = "misuse by our own code")]
    fn enter(core: &Rc<CoreContext>, remote: &Arc<Remote>) -> Self {
        CORE.with(|slot| {
            let mut slot = slot.borrow_mut();
            if slot.is_some() {
                panic!("this thread already runs a core");
            }
            *slot = Some(Rc::clone(core));
        });
        Self { core: Rc::clone(core), remote: Arc::clone(remote) }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.remote.set_ring_fd(-1);
        // Ends the tasks: first those that are ready, then those that wait for a socket or a time,
        // whose wakers the driver and the timers hold. Each drop may make others ready.
        *self.core.inbox.borrow_mut() = None;
        self.core.executor.clear();
        self.core.driver.forget_wakers();
        self.core.executor.clear();
        let wakers = self.core.timers.borrow_mut().take_wakers();
        drop(wakers);
        self.core.executor.clear();
        CORE.set(None);
    }
}

/// Pins the calling thread to one CPU.
fn pin_to(cpu: usize) -> io::Result<()> {
    // SAFETY: `set` is a plain bit set that we own; CPU_SET bounds-checks against its size by our
    // comparison, and sched_setaffinity only reads it.
    let done = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if cpu >= 8 * size_of::<libc::cpu_set_t>() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("there is no CPU {cpu}")));
        }
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if done == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(io::Error::new(
        error.kind(),
        format!("pinning to CPU {cpu} failed (is it in the cgroup's cpuset?): {error}"),
    ))
}

/// The CPUs that this process may run on: the cgroup's cpuset, or what taskset left.
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: sched_getaffinity fills the set that we own; CPU_ISSET reads within it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return vec![0];
        }
        (0..8 * size_of::<libc::cpu_set_t>()).filter(|cpu| libc::CPU_ISSET(*cpu, &set)).collect()
    }
}
