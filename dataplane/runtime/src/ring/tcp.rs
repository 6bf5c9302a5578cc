//! A TCP stream over the ring: one multishot receive, one send in flight.
//!
//! * *Receiving*: armed at the first read and left armed; bytes wait in provided buffers until the
//!   task reads them. A receive ends after [`RECEIVE_MAX`] bytes, and the next read arms another: or
//!   the kernel would hand over all that a peer sent, some hundred kilobytes, in one go, while everybody
//!   else on the core waits (a kernel before 6.17 does). For a client with a crowd of connections nothing is
//!   received before the task has its turn: it reads the socket itself, and the ring only tells when there
//!   is something to read. A reader that lags by [`QUEUE_MAX`] buffers has its receive cancelled, so
//!   that the peer's window closes; reading the queue empty arms it again. When the pool is nearly
//!   used up a reader may lag by one receive only.
//! * *Sending*: a write copies into a send buffer and starts one send of it; further writes fill a
//!   second buffer, which goes when the first is done, if many streams do not want the same (the ring's
//!   `follow_ups`). With both full a write waits. A flush waits
//!   until nothing waits behind the send in flight; a shutdown waits until the kernel has taken
//!   all. A stream that is dropped without a shutdown drops what the kernel has not taken.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use io_uring::types::Fd;
use io_uring::{opcode, squeue};
use tokio::io::ReadBuf;

use super::{Busy, Done, ReceivePool, Ring, STREAM_GROUP, SendBuffer, Slot, wake};
use crate::epoll::receive_bytes;
use crate::executor::{bill, is_of_a_crowd};

/// Filled buffers that a stream may hold before its receive is stopped: 64 KiB of 4 KiB buffers,
/// about what a fast peer sends in one round trip inside a data centre.
const QUEUE_MAX: usize = 16;

/// Bytes after which a receive ends: 10 to 50 µs of copying, and one more submission for as many bytes.
const RECEIVE_MAX: u32 = 32 * 1024;

/// What the kernel's receive of some bytes has cost, about: the copy.
const RECEIVE_COST_PER_KIB: Duration = Duration::from_nanos(300);
/// What the kernel's send of some bytes costs, about: the path through TCP, and the copy. Over loopback the
/// receiver's part as well.
const SEND_COST: Duration = Duration::from_micros(2);
const SEND_COST_PER_KIB: Duration = Duration::from_nanos(400);

/// Bytes that have not been read yet.
struct Filled {
    place: Place,
    start: u32,
    end: u32,
}

/// Where they lie.
enum Place {
    /// In a provided buffer, given back once read.
    Lent(u16),
    /// On the heap: copied because the pool was short.
    Spilled(Box<[u8]>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receiving {
    /// No operation; the next read arms one.
    Idle,
    /// The operation in this slot receives.
    Armed(u64),
    /// An operation tells when there is something to receive.
    Watching,
    /// A cancellation was asked for because the reader lags; the slot still completes.
    Stopping,
    /// Waits in the ring's list until a buffer is there.
    Starved,
    /// The peer closed its side, or an error ended the stream.
    Ended,
}

struct Inner {
    receiving: Receiving,
    filled: VecDeque<Filled>,
    read_error: Option<i32>,
    reader: Option<Waker>,
    /// Whether a send is in flight; its buffer is owned by its slot.
    sending: bool,
    /// Bytes that go when the send in flight is done.
    next: Option<SendBuffer>,
    write_error: Option<i32>,
    writer: Option<Waker>,
    closed: bool,
}

/// What the stream and its operations share.
pub(crate) struct State {
    fd: RawFd,
    inner: RefCell<Inner>,
}

impl State {
    pub(super) fn take_wakers(&self, into: &mut Vec<Waker>) {
        let mut inner = self.inner.borrow_mut();
        into.extend(inner.reader.take());
        into.extend(inner.writer.take());
    }
}

/// A connected TCP socket.
pub(crate) struct RingStream {
    ring: Rc<Ring>,
    state: Rc<State>,
}

impl RingStream {
    pub(crate) fn new(ring: &Rc<Ring>, socket: OwnedFd) -> Self {
        let inner = Inner {
            receiving: Receiving::Idle,
            filled: VecDeque::new(),
            read_error: None,
            reader: None,
            sending: false,
            next: None,
            write_error: None,
            writer: None,
            closed: false,
        };
        let state = State { fd: socket.into_raw_fd(), inner: RefCell::new(inner) };
        Self { ring: Rc::clone(ring), state: Rc::new(state) }
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.state.fd
    }

    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.state.inner.borrow_mut();
        if !inner.filled.is_empty() {
            self.copy_filled(&mut inner, into);
            return Poll::Ready(Ok(()));
        }
        if let Some(errno) = inner.read_error.take() {
            return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
        }
        if inner.receiving == Receiving::Ended {
            return Poll::Ready(Ok(()));
        }
        if inner.receiving == Receiving::Idle {
            inner.receiving = if is_of_a_crowd() {
                match receive_bytes(self.state.fd, into) {
                    Ok(_) => return Poll::Ready(Ok(())),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => watch(&self.ring, &self.state),
                    Err(error) => return Poll::Ready(Err(error)),
                }
            } else {
                arm(&self.ring, &self.state)
            };
        }
        keep_waker(&mut inner.reader, cx);
        Poll::Pending
    }

    fn copy_filled(&self, inner: &mut Inner, into: &mut ReadBuf<'_>) {
        let before = into.filled().len();
        let mut pool = self.ring.streams.borrow_mut();
        while let Some(front) = inner.filled.front_mut() {
            let (start, count) =
                (front.start as usize, into.remaining().min((front.end - front.start) as usize));
            if count == 0 {
                break;
            }
            match &front.place {
                Place::Lent(buffer) => into.put_slice(pool.filled(*buffer, start, count)),
                Place::Spilled(bytes) => into.put_slice(&bytes[start..start + count]),
            }
            front.start += count as u32;
            if front.start == front.end {
                give_back(&mut pool, front);
                inner.filled.pop_front();
            }
        }
        bill(RECEIVE_COST_PER_KIB * ((into.filled().len() - before) / 1024) as u32);
        if inner.filled.is_empty() && inner.filled.capacity() > QUEUE_MAX {
            inner.filled = VecDeque::new(); // A burst's queue is not kept by an idle stream.
        }
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut inner = self.state.inner.borrow_mut();
        if let Some(errno) = inner.write_error {
            return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
        }
        let total = slices.iter().map(|slice| slice.len()).sum();
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        let mut buffer = match inner.next.take() {
            Some(buffer) if buffer.space() == 0 => {
                inner.next = Some(buffer);
                keep_waker(&mut inner.writer, cx);
                return Poll::Pending;
            }
            Some(buffer) => buffer,
            None => self.ring.send_pool.take(total),
        };
        let mut written = 0;
        for slice in slices {
            written += buffer.append(slice);
        }
        if inner.sending {
            inner.next = Some(buffer);
        } else {
            inner.sending = true;
            drop(inner);
            bill(send(&self.ring, &self.state, buffer));
        }
        Poll::Ready(Ok(written))
    }

    /// Waits until no bytes wait behind a send in flight.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sent(cx, |inner| inner.next.is_none())
    }

    /// Waits until the kernel has taken everything.
    pub(crate) fn poll_taken(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sent(cx, |inner| !inner.sending)
    }

    fn poll_sent(&self, cx: &mut Context<'_>, enough: impl Fn(&Inner) -> bool) -> Poll<io::Result<()>> {
        let mut inner = self.state.inner.borrow_mut();
        if let Some(errno) = inner.write_error {
            return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
        }
        if enough(&inner) {
            return Poll::Ready(Ok(()));
        }
        keep_waker(&mut inner.writer, cx);
        Poll::Pending
    }
}

impl Drop for RingStream {
    fn drop(&mut self) {
        let mut inner = self.state.inner.borrow_mut();
        inner.closed = true;
        let wakers = (inner.reader.take(), inner.writer.take());
        let next = inner.next.take();
        let mut pool = self.ring.streams.borrow_mut();
        inner.filled.drain(..).for_each(|filled| give_back(&mut pool, &filled));
        drop(pool);
        let receiving =
            matches!(inner.receiving, Receiving::Armed(_) | Receiving::Watching | Receiving::Stopping);
        let busy = if receiving || inner.sending { Busy::Yes } else { Busy::No };
        drop(inner);
        self.ring.cancel_and_close(self.state.fd, busy);
        drop(wakers);
        drop(next);
    }
}

fn give_back(pool: &mut ReceivePool, filled: &Filled) {
    if let Place::Lent(buffer) = filled.place {
        pool.give_back(buffer);
    }
}

fn keep_waker(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        none => *none = Some(cx.waker().clone()),
    }
}

fn arm(ring: &Ring, state: &Rc<State>) -> Receiving {
    let mut entry = opcode::RecvMulti::new(Fd(state.fd), STREAM_GROUP).build();
    if ring.receive_ends {
        end_after(&mut entry, RECEIVE_MAX);
    }
    Receiving::Armed(ring.start(Slot::Receive(Rc::clone(state)), entry))
}

/// Has it told when there is something to receive.
fn watch(ring: &Ring, state: &Rc<State>) -> Receiving {
    let entry = opcode::PollAdd::new(Fd(state.fd), (libc::POLLIN | libc::POLLRDHUP) as u32).build();
    ring.start(Slot::Receive(Rc::clone(state)), entry);
    Receiving::Watching
}

/// Lets a multishot receive end after so many bytes. A kernel that does not know how refuses it.
fn end_after(entry: &mut squeue::Entry, bytes: u32) {
    /// Where `optlen` lies in the kernel's `io_uring_sqe`; the crate has no setter for receives.
    const OPTLEN: usize = 44;
    const { assert!(size_of::<squeue::Entry>() == 64) };
    // SAFETY: `Entry` is `repr(C)` around the 64 bytes of the kernel's struct, in which these four
    // are an aligned integer that may have any value.
    unsafe { std::ptr::from_mut(entry).byte_add(OPTLEN).cast::<u32>().write(bytes) };
}

/// A buffer is there again for a stream that starved.
pub(super) fn arm_again(ring: &Ring, state: &Rc<State>) {
    let mut inner = state.inner.borrow_mut();
    if inner.receiving == Receiving::Starved && !inner.closed {
        inner.receiving = arm(ring, state);
    }
}

/// A completion of the receive.
pub(super) fn received(ring: &Ring, state: &Rc<State>, done: Done) {
    let mut inner = state.inner.borrow_mut();
    if let Some(buffer) = done.buffer() {
        keep_or_return(ring, &mut inner, buffer, done.result);
    }
    if inner.closed {
        return;
    }
    if inner.receiving == Receiving::Watching {
        // Whatever it is, the reader finds out.
        inner.receiving = Receiving::Idle;
        let reader = inner.reader.take();
        drop(inner);
        return wake(reader);
    }
    match done.result {
        0 => inner.receiving = Receiving::Ended,
        result if result < 0 => receive_failed(ring, state, &mut inner, -result),
        _ if done.is_final() => inner.receiving = Receiving::Idle,
        _ => stop_if_lagging(ring, &mut inner),
    }
    // The operation ended while the reader waits (it was stopped, or the kernel ended it): go on.
    if inner.receiving == Receiving::Idle && inner.filled.is_empty() && inner.reader.is_some() {
        inner.receiving = arm(ring, state);
        return;
    }
    let reader = if inner.receiving == Receiving::Starved { None } else { inner.reader.take() };
    drop(inner);
    wake(reader);
}

/// Queues the bytes of a filled buffer, or returns the buffer when nobody will read it.
fn keep_or_return(ring: &Ring, inner: &mut Inner, buffer: u16, result: i32) {
    let mut pool = ring.streams.borrow_mut();
    pool.take_filled(buffer);
    if result <= 0 || inner.closed {
        pool.give_back(buffer);
        return;
    }
    let end = result as u32;
    let place = if pool.is_short() {
        ring.stats.receive_spilled.add(1);
        let bytes = pool.filled(buffer, 0, end as usize).into();
        pool.give_back(buffer);
        Place::Spilled(bytes)
    } else {
        Place::Lent(buffer)
    };
    inner.filled.push_back(Filled { place, start: 0, end });
}

fn receive_failed(ring: &Ring, state: &Rc<State>, inner: &mut Inner, errno: i32) {
    match errno {
        libc::ENOBUFS => {
            ring.stats.receive_starved.add(1);
            inner.receiving = Receiving::Starved;
            ring.starved.borrow_mut().streams.push(Rc::clone(state));
        }
        // Stopped because the reader lagged.
        libc::ECANCELED => inner.receiving = Receiving::Idle,
        errno => {
            inner.receiving = Receiving::Ended;
            inner.read_error = Some(errno);
        }
    }
}

fn stop_if_lagging(ring: &Ring, inner: &mut Inner) {
    let spilled = matches!(inner.filled.back(), Some(Filled { place: Place::Spilled(_), .. }));
    let lags = spilled || inner.filled.len() >= QUEUE_MAX;
    if let (Receiving::Armed(key), true) = (inner.receiving, lags) {
        ring.stats.receive_paused.add(1);
        inner.receiving = Receiving::Stopping;
        ring.cancel(key);
    }
}

/// Has the kernel send what is pending in a buffer; tells about how long that takes.
pub(super) fn send(ring: &Ring, state: &Rc<State>, buffer: SendBuffer) -> Duration {
    if state.inner.borrow().closed {
        return Duration::ZERO;
    }
    let (start, len) = buffer.pending();
    // MSG_WAITALL lets the kernel go on by itself after a partial send.
    let entry = opcode::Send::new(Fd(state.fd), start, len as u32)
        .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
        .build();
    ring.start(Slot::Send(Rc::clone(state), buffer), entry);
    SEND_COST + SEND_COST_PER_KIB * (len / 1024) as u32
}

/// The completion of a send: the buffer is ours again.
pub(super) fn sent(ring: &Ring, state: &Rc<State>, mut buffer: SendBuffer, done: Done) {
    let mut inner = state.inner.borrow_mut();
    if inner.closed {
        return;
    }
    let follow = if done.result < 0 {
        inner.write_error = Some(-done.result);
        inner.next = None;
        None
    } else if buffer.advance(done.result as usize) {
        inner.next.take()
    } else {
        Some(buffer)
    };
    inner.sending = follow.is_some();
    // Room for the next bytes, or all flushed: either way a waiting writer looks again.
    let writer = inner.writer.take();
    drop(inner);
    if let Some(follow) = follow {
        ring.follow_ups.borrow_mut().push_back((Rc::clone(state), follow));
    }
    wake(writer);
}
