//! io_uring of one core: what is submitted, what completes, and who owns the memory in between.
//!
//! # Ownership across cancellation
//!
//! The kernel reads and writes memory of ours from the submission of an operation to its *final*
//! completion (the one without `IORING_CQE_F_MORE`), whatever became of the future or the socket
//! that asked for it. So no future owns such memory. Every operation has a slot in `slots`; the
//! slot owns all that the kernel may touch (a [`SendBuffer`], a boxed message header) or keeps the
//! socket's state alive, and a slot is freed by the final completion and by nothing else. Dropping
//! a socket asks for the cancellation of its operations, marks its state closed and returns;
//! the slots live on until their completions arrive and then give everything back. Received bytes
//! lie in provided buffers, whose owner is tracked one by one ([`receive_pool`]).
//!
//! When the ring itself ends, it cancels everything and waits for the completions, bounded; if the
//! kernel still holds something then, its memory is leaked rather than freed.
//!
//! The key of a slot travels as `user_data`. It cannot be stale: a key is reused only after the
//! final completion of its operation was taken.
//!
//! # Bounds
//!
//! * Submission queue full: entries go to the queue by way of an enter, counted; if the kernel is
//!   busy (EBUSY: it wants completions to be taken first) they wait in `backlog`, in order.
//! * Completion queue overflow: the kernel keeps the rest (`IORING_FEAT_NODROP`, required) and we
//!   fetch it with the next enter; counted.
//! * No receive buffer (ENOBUFS): the receive ends, the pool grows if it may, and the receive is
//!   armed again when a buffer is there; counted.
//! * A receive pool that is nearly used up and may not grow: what arrives for a stream is copied to
//!   the heap and its buffer lent again at once, and the stream's receive is stopped until its task
//!   has read; counted. So readers that lag cannot take the buffers from those that do not.
//! * Time in the kernel, which everybody on the core waits for: a stream's receive ends after some
//!   bytes, sends are on the bill of the task that sends, and a turn closes few sockets.

mod accept;
mod connect;
pub(crate) mod pages;
mod receive_pool;
mod send_pool;
mod tcp;
mod udp;

#[cfg(test)]
mod attack;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use slab::Slab;

pub(crate) use accept::RingListener;
pub(crate) use connect::RingConnecting;
pub use pages::Guard;
pub(crate) use tcp::RingStream;
pub(crate) use udp::{RingDatagram, RingUdp};

use crate::driver::Park;
use crate::probe;
use crate::remote::Remote;
use crate::stats::CoreStats;
use receive_pool::{Change, ReceivePool};
use send_pool::{SendBuffer, SendPool};

/// Completions that nobody waits for: of closes, cancellations and outgoing messages.
const TOKEN_IGNORED: u64 = u64::MAX;
/// The bell (eventfd) was rung by a thread without a ring.
const TOKEN_BELL: u64 = u64::MAX - 1;
/// Another core's ring sent a message; it only wakes.
const TOKEN_MESSAGE: u64 = u64::MAX - 2;

/// Sizes of a ring and its buffers.
#[derive(Debug, Clone)]
pub struct RingOptions {
    /// Submission entries, a power of two. The completion queue has twice as many.
    pub entries: u32,
    /// Completion entries; tests make it small to see overflows. `None` means twice `entries`.
    pub completion_entries: Option<u32>,
    /// Bytes of one receive buffer of streams, rounded up to pages.
    pub receive_buffer_bytes: usize,
    /// Most receive buffers of streams, at most 32768.
    pub receive_buffers_max: usize,
    /// Most receive buffers of datagrams.
    pub datagram_buffers_max: usize,
    /// Whether unused buffers are made inaccessible; tests only.
    pub guard: Guard,
}

impl Default for RingOptions {
    fn default() -> Self {
        Self {
            entries: 4096,
            completion_entries: None,
            receive_buffer_bytes: 4096,
            receive_buffers_max: 16384,
            datagram_buffers_max: 64,
            guard: Guard::Off,
        }
    }
}

/// How many receive buffers of streams a core starts with and shrinks back to: 256 KiB.
const STREAM_BUFFERS_MIN: usize = 64;
/// The same for datagrams, whose buffers hold a whole GRO train of 64 KiB.
const DATAGRAM_BUFFERS_MIN: usize = 8;
/// How long a pool must be calm before it shrinks by half.
const CALM_PERIOD: Duration = Duration::from_secs(1);
/// How long the end of a ring waits for the kernel to let go of cancelled operations.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Sockets that one turn closes, if more are to be closed. The close of a socket whose peer has sent 300 KB
/// that nobody read takes the kernel 50 to 100 µs; of an idle one, 3 µs.
const CLOSES_PER_TURN: usize = 4;
/// How long the kernel sends what follows other sends, in one turn. A stream that is written faster than its peer reads
/// has its next bytes ready whenever the kernel has taken some, and no task has to run for that: with many such streams
/// everybody else would wait until all have sent.
const FOLLOW_UPS: Duration = Duration::from_micros(50);
/// How long a turn looks at what has happened, if it does not end before: as long as tasks may run then.
const GATHER: Duration = Duration::from_micros(100);

const STREAM_GROUP: u16 = 0;
const DATAGRAM_GROUP: u16 = 1;

/// What an operation in flight belongs to, and the memory that the kernel may touch meanwhile.
enum Slot {
    Accept(Rc<accept::State>),
    Connect(Rc<connect::State>),
    Receive(Rc<tcp::State>),
    Send(Rc<tcp::State>, SendBuffer),
    ReceiveMessage(Rc<udp::State>),
    SendMessage(Rc<udp::State>, Box<udp::Outgoing>),
}

/// The ring of one core. Everything is on one thread; each cell is borrowed for moments only, and
/// never while a waker or a destructor of others runs.
pub(crate) struct Ring {
    uring: RefCell<IoUring>,
    backlog: RefCell<VecDeque<squeue::Entry>>,
    // Memory that the kernel may touch: dropped by `Drop` below, once the kernel has let go.
    slots: RefCell<ManuallyDrop<Slab<Slot>>>,
    streams: RefCell<ManuallyDrop<ReceivePool>>,
    /// Made when the first UDP socket is bound.
    datagrams: RefCell<ManuallyDrop<Option<ReceivePool>>>,
    starved: RefCell<Starved>,
    /// Sends that follow another of their stream, in the order in which those were done.
    follow_ups: RefCell<VecDeque<(Rc<tcp::State>, SendBuffer)>>,
    /// Descriptors to be closed, whose operations are ended first, in the order of their coming.
    closing: RefCell<VecDeque<(RawFd, Busy)>>,
    /// Whether the kernel ends a receive after some bytes when asked to.
    receive_ends: bool,
    send_pool: SendPool,
    stats: Arc<CoreStats>,
    remote: Arc<Remote>,
    options: RingOptions,
    next_calm: Cell<Instant>,
}

/// Sockets whose receive ended for want of a buffer.
#[derive(Default)]
struct Starved {
    streams: Vec<Rc<tcp::State>>,
    datagrams: Vec<Rc<udp::State>>,
}

/// A completion without the ring's borrow.
#[derive(Debug, Clone, Copy)]
struct Done {
    result: i32,
    flags: u32,
}

impl Done {
    fn buffer(self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }

    fn is_final(self) -> bool {
        !cqueue::more(self.flags)
    }

    fn error(self) -> Option<io::Error> {
        (self.result < 0).then(|| io::Error::from_raw_os_error(-self.result))
    }
}

impl Ring {
    pub(crate) fn new(
        options: &RingOptions,
        remote: &Arc<Remote>,
        stats: &Arc<CoreStats>,
    ) -> io::Result<Rc<Self>> {
        let uring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(options.completion_entries.unwrap_or(options.entries * 2))
            .dontfork()
            .build(options.entries)?;
        if !uring.params().is_feature_nodrop() || !uring.params().is_feature_ext_arg() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the ring may drop completions; Linux 6.1 is needed",
            ));
        }
        let streams = ReceivePool::new(
            &uring.submitter(),
            STREAM_GROUP,
            options.receive_buffer_bytes,
            STREAM_BUFFERS_MIN,
            options.receive_buffers_max,
            options.guard,
        )?;
        let ring_fd = uring.as_raw_fd();
        let ring = Rc::new(Self {
            uring: RefCell::new(uring),
            backlog: RefCell::default(),
            slots: RefCell::default(),
            streams: RefCell::new(ManuallyDrop::new(streams)),
            datagrams: RefCell::default(),
            starved: RefCell::default(),
            follow_ups: RefCell::default(),
            closing: RefCell::default(),
            receive_ends: probe::ends_receives(&probe::kernel_release()),
            send_pool: SendPool::new(options.guard, Arc::clone(stats)),
            stats: Arc::clone(stats),
            remote: Arc::clone(remote),
            options: options.clone(),
            next_calm: Cell::new(Instant::now() + CALM_PERIOD),
        });
        ring.watch_bell();
        remote.set_ring_fd(ring_fd);
        Ok(ring)
    }

    /// One round with the kernel: submit, wait if asked to, take what is done.
    pub(crate) fn turn(&self, park: Park) {
        // Before sleeping: buffers that tasks gave back may be what a starved receive waits for.
        self.arm_starved();
        let closes_left = self.close_some();
        let sends_left = self.send_some();
        match park {
            Park::Sleep(time) if !closes_left && !sends_left => {
                self.stats.sleeps.add(1);
                self.enter(1, time);
            }
            _ => {
                if self.wants_enter() {
                    self.enter(0, None);
                }
            }
        }
        self.reap();
        self.gather();
        self.tend_pools();
    }

    /// Starts sends that follow others; true when some are left.
    fn send_some(&self) -> bool {
        let mut cost = Duration::ZERO;
        while cost < FOLLOW_UPS {
            let Some((state, buffer)) = self.follow_ups.borrow_mut().pop_front() else { return false };
            cost += tcp::send(self, &state, buffer);
        }
        let left = !self.follow_ups.borrow().is_empty();
        self.stats.sends_put_off.add(u64::from(left));
        left
    }

    /// Fetches more of what has happened. The kernel tells it in the order of arrival and some twenty at a time, so that
    /// one peer with a thousand sockets would stand before all others; told at once, each goes to its payer's queue.
    fn gather(&self) {
        let mut until = None;
        while self.uring.borrow_mut().submission().taskrun() {
            let now = Instant::now();
            if now >= *until.get_or_insert(now + GATHER) {
                break;
            }
            self.enter(0, None);
            self.reap();
        }
    }

    /// Hands over what is in the submission queue. What the kernel does not take stays for the next turn.
    pub(crate) fn submit(&self) {
        let mut uring = self.uring.borrow_mut();
        if uring.submission().is_empty() {
            return;
        }
        self.stats.ring_enters.add(1);
        if let Ok(submitted) = uring.submit() {
            self.stats.ring_submissions.add(submitted as u64);
        }
    }

    /// Wakes another ring; false when the entry could not be handed over at once.
    pub(crate) fn message(&self, target: RawFd) -> bool {
        let entry = opcode::MsgRingData::new(Fd(target), 0, TOKEN_MESSAGE, None).build();
        self.push(entry.user_data(TOKEN_IGNORED).flags(squeue::Flags::SKIP_SUCCESS));
        true
    }

    /// Drops every waker that an operation or a waiting socket holds, and with them the tasks.
    pub(crate) fn forget_wakers(&self) {
        let mut wakers = Vec::new();
        for (_, slot) in self.slots.borrow().iter() {
            match slot {
                Slot::Accept(state) => wakers.extend(state.take_waker()),
                Slot::Connect(state) => wakers.extend(state.take_waker()),
                Slot::Receive(state) | Slot::Send(state, _) => state.take_wakers(&mut wakers),
                Slot::ReceiveMessage(state) | Slot::SendMessage(state, _) => state.take_wakers(&mut wakers),
            }
        }
        let starved = std::mem::take(&mut *self.starved.borrow_mut());
        starved.streams.iter().for_each(|state| state.take_wakers(&mut wakers));
        starved.datagrams.iter().for_each(|state| state.take_wakers(&mut wakers));
        self.follow_ups.borrow().iter().for_each(|(state, _)| state.take_wakers(&mut wakers));
        drop(wakers);
    }

    /// Puts an operation into a slot and submits it. `build` gets nothing but must not keep
    /// pointers to memory outside the slot.
    fn start(&self, slot: Slot, entry: squeue::Entry) -> u64 {
        let key = self.slots.borrow_mut().insert(slot) as u64;
        self.push(entry.user_data(key));
        key
    }

    fn push(&self, entry: squeue::Entry) {
        let mut backlog = self.backlog.borrow_mut();
        if backlog.is_empty() {
            let mut uring = self.uring.borrow_mut();
            // SAFETY: what the entry points to is owned by its slot (see the module docs) or it
            // points to nothing (closes, cancellations, polls, messages).
            if unsafe { uring.submission().push(&entry) }.is_ok() {
                return;
            }
        }
        self.stats.ring_submission_full.add(1);
        backlog.push_back(entry);
        drop(backlog);
        // Makes room; what does not fit now goes with a later enter, in order.
        self.enter(0, None);
    }

    fn wants_enter(&self) -> bool {
        let mut uring = self.uring.borrow_mut();
        let submission = uring.submission();
        !submission.is_empty()
            || submission.taskrun()
            || submission.cq_overflow()
            || !self.backlog.borrow().is_empty()
    }

    /// Moves waiting entries into the submission queue; true when some are still waiting.
    fn refill(&self, uring: &mut IoUring) -> bool {
        let mut backlog = self.backlog.borrow_mut();
        let mut submission = uring.submission();
        while let Some(entry) = backlog.front() {
            // SAFETY: as in `push`.
            if unsafe { submission.push(entry) }.is_err() {
                break;
            }
            backlog.pop_front();
        }
        !backlog.is_empty()
    }

    /// Enters the kernel: hands over submissions, runs deferred completions, waits for `want`.
    fn enter(&self, want: usize, time: Option<Duration>) {
        let mut uring = self.uring.borrow_mut();
        loop {
            let waiting = self.refill(&mut uring);
            if uring.submission().cq_overflow() {
                self.stats.ring_completion_overflows.add(1);
            }
            let want = if waiting || !uring.completion().is_empty() { 0 } else { want };
            let queued = uring.submission().len();
            self.stats.ring_enters.add(1);
            let outcome = Self::enter_once(&uring, queued, want, time);
            match outcome {
                Ok(submitted) => self.stats.ring_submissions.add(submitted as u64),
                Err(error) => match error.raw_os_error() {
                    // Nothing came in time, or a signal: both are a normal end of a sleep.
                    Some(libc::ETIME | libc::EINTR) => {}
                    // The kernel wants its completions taken before it accepts more. They are
                    // taken after this; what was not accepted stays queued.
                    Some(libc::EBUSY | libc::EAGAIN) => {
                        self.stats.ring_busy.add(1);
                        return;
                    }
                    _ => {
                        tracing::error!(%error, "ring.enter failed; please report this");
                        return;
                    }
                },
            }
            if !waiting || uring.submission().is_full() {
                return;
            }
        }
    }

    fn enter_once(uring: &IoUring, queued: usize, want: usize, time: Option<Duration>) -> io::Result<usize> {
        let submitter = uring.submitter();
        match (want, time) {
            (0, _) => {
                const GETEVENTS: u32 = 1; // IORING_ENTER_GETEVENTS: run deferred work, wait for nothing.
                // SAFETY: no argument is passed, so nothing is read through a pointer.
                unsafe { submitter.enter::<libc::sigset_t>(queued as u32, 0, GETEVENTS, None) }
            }
            (want, None) => submitter.submit_and_wait(want),
            (want, Some(time)) => {
                let time = Timespec::new().sec(time.as_secs()).nsec(time.subsec_nanos());
                submitter.submit_with_args(want, &SubmitArgs::new().timespec(&time))
            }
        }
    }

    /// Takes all completions and tells their owners.
    fn reap(&self) {
        loop {
            // A batch is copied out so that owners may submit while they are told.
            let mut batch = [const { std::mem::MaybeUninit::<cqueue::Entry>::uninit() }; 128];
            let mut uring = self.uring.borrow_mut();
            let taken = uring.completion().fill(&mut batch).len();
            drop(uring);
            if taken == 0 {
                break;
            }
            self.stats.ring_completions.add(taken as u64);
            for entry in &batch[..taken] {
                // SAFETY: `fill` initialised the first `taken` entries.
                let entry = unsafe { entry.assume_init_ref() };
                let done = Done { result: entry.result(), flags: entry.flags() };
                self.complete(entry.user_data(), done);
            }
        }
        self.stats.ring_operations.set(self.slots.borrow().len() as u64);
    }

    fn complete(&self, token: u64, done: Done) {
        if done.result == -libc::EFAULT {
            self.stats.ring_faults.add(1);
        }
        match token {
            TOKEN_IGNORED | TOKEN_MESSAGE => {}
            TOKEN_BELL => {
                if done.is_final() {
                    self.watch_bell();
                }
            }
            key => self.complete_slot(key as usize, done),
        }
    }

    fn complete_slot(&self, key: usize, done: Done) {
        let slot = if done.is_final() {
            self.slots.borrow_mut().try_remove(key)
        } else {
            // A multishot operation goes on: its owner is told, the slot stays.
            self.slots.borrow().get(key).and_then(Slot::shared)
        };
        match slot {
            Some(Slot::Accept(state)) => state.accepted(self, done),
            Some(Slot::Connect(state)) => state.connected(done),
            Some(Slot::Receive(state)) => tcp::received(self, &state, done),
            Some(Slot::Send(state, buffer)) => tcp::sent(self, &state, buffer, done),
            Some(Slot::ReceiveMessage(state)) => udp::received(self, &state, done),
            Some(Slot::SendMessage(state, outgoing)) => udp::sent(&state, outgoing, done),
            None => {
                tracing::error!(key, "ring.complete: a completion without an operation; please report this");
            }
        }
    }

    fn watch_bell(&self) {
        let entry = opcode::PollAdd::new(Fd(self.remote.bell_fd()), libc::POLLIN as u32).multi(true).build();
        self.push(entry.user_data(TOKEN_BELL));
    }

    /// Asks the kernel to end the operation in slot `key`; its completion tells when it has.
    fn cancel(&self, key: u64) {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(key)).build();
        self.push(entry.user_data(TOKEN_IGNORED).flags(squeue::Flags::SKIP_SUCCESS));
    }

    /// Ends all operations on a descriptor and closes it, in this order, in this turn or a later one.
    fn cancel_and_close(&self, fd: RawFd, busy: Busy) {
        self.closing.borrow_mut().push_back((fd, busy));
    }

    /// Submits the closes that this turn may; true when some are left.
    fn close_some(&self) -> bool {
        for _ in 0..CLOSES_PER_TURN {
            let Some((fd, busy)) = self.closing.borrow_mut().pop_front() else { return false };
            self.submit_close(fd, busy);
        }
        let left = self.closing.borrow().len();
        self.stats.ring_closing.set(left as u64);
        left > 0
    }

    fn submit_close(&self, fd: RawFd, busy: Busy) {
        if busy == Busy::Yes {
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::fd(Fd(fd)).all()).build();
            self.push(cancel.user_data(TOKEN_IGNORED).flags(squeue::Flags::SKIP_SUCCESS));
        }
        let close = opcode::Close::new(Fd(fd)).build();
        self.push(close.user_data(TOKEN_IGNORED).flags(squeue::Flags::SKIP_SUCCESS));
    }

    /// Arms the receives that ended for want of a buffer, if there are buffers now.
    fn arm_starved(&self) {
        if !self.starved.borrow().streams.is_empty() && self.streams.borrow().lent() > 0 {
            let starved = std::mem::take(&mut self.starved.borrow_mut().streams);
            starved.into_iter().for_each(|state| tcp::arm_again(self, &state));
        }
        let lent = self.datagrams.borrow().as_ref().map_or(0, ReceivePool::lent);
        if lent > 0 && !self.starved.borrow().datagrams.is_empty() {
            let starved = std::mem::take(&mut self.starved.borrow_mut().datagrams);
            starved.into_iter().for_each(|state| udp::arm_again(self, &state));
        }
    }

    /// After the completions: grows pools that run low and shrinks calm ones.
    fn tend_pools(&self) {
        let (streams_starved, datagrams_starved) = {
            let starved = self.starved.borrow();
            (!starved.streams.is_empty(), !starved.datagrams.is_empty())
        };
        self.count(self.streams.borrow_mut().grow_if_low(streams_starved));
        if let Some(pool) = self.datagrams.borrow_mut().as_mut() {
            self.count(pool.grow_if_low(datagrams_starved));
        }
        let now = crate::core::try_with_core(|core| core.now());
        if now.is_some_and(|now| now >= self.next_calm.get()) {
            self.calm_pools();
        }
        let streams = self.streams.borrow();
        self.stats.receive_buffers.set(streams.mapped() as u64);
        self.stats.receive_buffers_lent.set(streams.lent() as u64);
    }

    fn calm_pools(&self) {
        self.next_calm.set(Instant::now() + CALM_PERIOD);
        let uring = self.uring.borrow();
        let streams = self.streams.borrow_mut().calm(&uring.submitter());
        let datagrams = self.datagrams.borrow_mut().as_mut().map(|pool| pool.calm(&uring.submitter()));
        for outcome in std::iter::once(streams).chain(datagrams) {
            match outcome {
                Ok(change) => self.count(change),
                Err(error) => tracing::error!(%error, "ring.shrink failed; please report this"),
            }
        }
    }

    fn count(&self, change: Change) {
        match change {
            Change::Kept => {}
            Change::Grown => self.stats.receive_pool_grown.add(1),
            Change::Shrunk => self.stats.receive_pool_shrunk.add(1),
        }
    }

    /// Cancels everything and waits until the kernel has let go; false when time ran out.
    fn quiesce(&self) -> bool {
        let cancel = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
        self.push(cancel.user_data(TOKEN_IGNORED).flags(squeue::Flags::SKIP_SUCCESS));
        let patience = Instant::now() + CLOSE_PATIENCE;
        while self.close_some() {}
        while !self.slots.borrow().is_empty() || !self.backlog.borrow().is_empty() {
            if Instant::now() > patience {
                return false;
            }
            self.enter(1, Some(Duration::from_millis(10)));
            self.reap();
        }
        self.enter(0, None);
        true
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.remote.set_ring_fd(-1);
        if !self.quiesce() {
            let operations = self.slots.borrow().len();
            tracing::error!(operations, "ring.close: operations did not end; their memory is leaked");
            return;
        }
        // SAFETY: each is dropped once, here, and not used again: `self` is being dropped. The
        // kernel touches none of it any more: no operation is in flight.
        unsafe {
            ManuallyDrop::drop(self.slots.get_mut());
            ManuallyDrop::drop(self.streams.get_mut());
            ManuallyDrop::drop(self.datagrams.get_mut());
        }
    }
}

/// Whether a descriptor has operations in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Busy {
    Yes,
    No,
}

impl Slot {
    /// The owner of a multishot operation, for a completion that is not its last.
    fn shared(&self) -> Option<Slot> {
        match self {
            Slot::Accept(state) => Some(Slot::Accept(Rc::clone(state))),
            Slot::Receive(state) => Some(Slot::Receive(Rc::clone(state))),
            Slot::ReceiveMessage(state) => Some(Slot::ReceiveMessage(Rc::clone(state))),
            Slot::Connect(_) | Slot::Send(..) | Slot::SendMessage(..) => None,
        }
    }
}

/// Wakes after every borrow of the ring has ended: a waker may run destructors.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
impl Ring {
    /// Plants the mistake that the attack test looks for.
    fn shut_lent_buffers_for_test(&self) {
        self.streams.borrow().shut_lent_for_test();
    }
}
