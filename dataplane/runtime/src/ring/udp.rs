//! A UDP socket over the ring: one multishot recvmsg, several sendmsg in flight.
//!
//! A received datagram (or a train of equal ones, merged by GRO) stays in its provided buffer until
//! the reader drops it. A sent one is copied into a send buffer; the message header, the address
//! and the control messages live in a box beside it, owned by the operation's slot.
//!
//! Bounds: a reader that lags by [`QUEUE_MAX`] trains loses further ones here, counted by the
//! socket as `dropped`, as a socket buffer would; a writer waits when [`SENDING_MAX`] sends are in flight.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use io_uring::opcode;
use io_uring::types::{Fd, RecvMsgOut};

use super::{Busy, DATAGRAM_BUFFERS_MIN, DATAGRAM_GROUP, Done, ReceivePool, Ring, SendBuffer, Slot, wake};
use crate::cmsg::{self, CONTROL_LEN, Control, Family, NAME_LEN};
use crate::executor::bill;
use crate::net::Transmit;

/// A GRO train of 64 KiB, its address and control messages, in whole pages.
const DATAGRAM_BUFFER: usize = 68 * 1024;
/// Trains that wait for the reader: from many peers each is one datagram, and a burst of first packets is that long.
/// At 64 KiB each this would be 16 MiB.
const QUEUE_MAX: usize = 256;
/// Sends in flight per socket; each holds at most a train of 64 KiB.
const SENDING_MAX: usize = 64;

/// What the kernel's send of a train costs, about: the path through UDP and IP, and each datagram's part.
const SEND_COST: Duration = Duration::from_micros(2);
const SEND_COST_PER_KIB: Duration = Duration::from_nanos(300);

struct Inner {
    receiving: bool,
    starved: bool,
    filled: VecDeque<(u16, u32)>,
    error: Option<i32>,
    reader: Option<Waker>,
    sending: usize,
    send_error: Option<i32>,
    writer: Option<Waker>,
    closed: bool,
}

/// What the socket and its operations share.
pub(crate) struct State {
    fd: RawFd,
    family: Family,
    /// Only its two lengths are read by the kernel; it lives as long as the operation's slot.
    template: Box<libc::msghdr>,
    inner: RefCell<Inner>,
    dropped: Cell<u64>,
}

impl State {
    pub(super) fn take_wakers(&self, into: &mut Vec<Waker>) {
        let mut inner = self.inner.borrow_mut();
        into.extend(inner.reader.take());
        into.extend(inner.writer.take());
    }
}

/// Everything that a sendmsg in flight points to.
pub(crate) struct Outgoing {
    header: libc::msghdr,
    vector: libc::iovec,
    name: [u8; NAME_LEN],
    control: Aligned,
    payload: SendBuffer,
}

#[repr(align(8))]
struct Aligned([u8; CONTROL_LEN]);

/// A received train in its provided buffer.
pub(crate) struct RingDatagram {
    ring: Rc<Ring>,
    buffer: u16,
    payload: (usize, usize),
    pub(crate) from: SocketAddr,
    pub(crate) control: Control,
}

impl RingDatagram {
    /// Calls `f` with the bytes of the train.
    pub(crate) fn with_payload<T>(&self, f: impl FnOnce(&[u8]) -> T) -> T {
        let pool = self.ring.datagrams.borrow();
        let (start, len) = self.payload;
        f(pool.as_ref().map_or(&[], |pool| pool.filled(self.buffer, start, len)))
    }
}

impl Drop for RingDatagram {
    fn drop(&mut self) {
        if let Some(pool) = self.ring.datagrams.borrow_mut().as_mut() {
            pool.give_back(self.buffer);
        }
    }
}

/// A bound UDP socket.
pub(crate) struct RingUdp {
    ring: Rc<Ring>,
    state: Rc<State>,
}

impl RingUdp {
    pub(crate) fn new(ring: &Rc<Ring>, socket: OwnedFd, family: Family) -> io::Result<Self> {
        {
            let mut pool = ring.datagrams.borrow_mut();
            if pool.is_none() {
                **pool = Some(ReceivePool::new(
                    &ring.uring.borrow().submitter(),
                    DATAGRAM_GROUP,
                    DATAGRAM_BUFFER,
                    DATAGRAM_BUFFERS_MIN,
                    ring.options.datagram_buffers_max,
                    ring.options.guard,
                )?);
            }
        }
        // SAFETY: msghdr is plain data for which all zeroes is a value.
        let mut template: libc::msghdr = unsafe { std::mem::zeroed() };
        template.msg_namelen = NAME_LEN as u32;
        template.msg_controllen = CONTROL_LEN;
        let inner = Inner {
            receiving: false,
            starved: false,
            filled: VecDeque::new(),
            error: None,
            reader: None,
            sending: 0,
            send_error: None,
            writer: None,
            closed: false,
        };
        let state = State {
            fd: socket.into_raw_fd(),
            family,
            template: Box::new(template),
            inner: RefCell::new(inner),
            dropped: Cell::new(0),
        };
        Ok(Self { ring: Rc::clone(ring), state: Rc::new(state) })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.state.fd
    }

    /// Trains that were dropped because the reader lagged.
    pub(crate) fn dropped(&self) -> u64 {
        self.state.dropped.get()
    }

    pub(crate) fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<RingDatagram>> {
        loop {
            let mut inner = self.state.inner.borrow_mut();
            if let Some((buffer, len)) = inner.filled.pop_front() {
                drop(inner);
                match self.parse(buffer, len as usize) {
                    Some(datagram) => return Poll::Ready(Ok(datagram)),
                    None => {
                        self.ring.stats.datagrams_malformed.add(1);
                        continue;
                    }
                }
            }
            if let Some(errno) = inner.error.take() {
                return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
            }
            inner.reader = Some(cx.waker().clone());
            if !inner.receiving && !inner.starved {
                inner.receiving = true;
                drop(inner);
                arm(&self.ring, &self.state);
            }
            return Poll::Pending;
        }
    }

    fn parse(&self, buffer: u16, len: usize) -> Option<RingDatagram> {
        let mut datagram = RingDatagram {
            ring: Rc::clone(&self.ring),
            buffer,
            payload: (0, 0),
            from: SocketAddr::from(([0, 0, 0, 0], 0)),
            control: Control::default(),
        };
        let pool = self.ring.datagrams.borrow();
        let bytes = pool.as_ref()?.filled(buffer, 0, len);
        let parsed = RecvMsgOut::parse(bytes, &self.state.template).ok();
        let parsed = parsed.filter(|out| !out.is_payload_truncated() && !out.is_control_data_truncated());
        let read = parsed.and_then(|out| {
            let start = out.payload_data().as_ptr() as usize - bytes.as_ptr() as usize;
            let from = cmsg::read_name(out.name_data())?;
            let control = cmsg::read_control(out.control_data())?;
            Some(((start, out.payload_data().len()), from, control))
        });
        drop(pool);
        // Dropping the datagram on failure gives its buffer back.
        (datagram.payload, datagram.from, datagram.control) = read?;
        Some(datagram)
    }

    /// Starts a send; waits when too many are in flight. Errors of earlier sends show up here.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<()>> {
        {
            let mut inner = self.state.inner.borrow_mut();
            if let Some(errno) = inner.send_error.take() {
                return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
            }
            if inner.sending >= SENDING_MAX {
                inner.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            inner.sending += 1;
        }
        bill(SEND_COST + SEND_COST_PER_KIB * (transmit.payload.len() / 1024) as u32);
        let mut payload = self.ring.send_pool.take(transmit.payload.len());
        payload.append(transmit.payload);
        let outgoing = Outgoing::new(transmit, self.state.family, payload);
        let entry = opcode::SendMsg::new(Fd(self.state.fd), &raw const outgoing.header).build();
        self.ring.start(Slot::SendMessage(Rc::clone(&self.state), outgoing), entry);
        Poll::Ready(Ok(()))
    }
}

impl Outgoing {
    fn new(transmit: &Transmit<'_>, family: Family, payload: SendBuffer) -> Box<Self> {
        // SAFETY: msghdr and iovec are plain data for which all zeroes is a value.
        let (header, vector) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let mut outgoing = Box::new(Self {
            header,
            vector,
            name: [0; NAME_LEN],
            control: Aligned([0; CONTROL_LEN]),
            payload,
        });
        let name_len = cmsg::write_name(transmit.to, family, &mut outgoing.name);
        let control = Control { local: transmit.from, ecn: transmit.ecn, segment: transmit.segment };
        let control_len = cmsg::write_control(&control, family, &mut outgoing.control.0);
        let (start, len) = outgoing.payload.pending();
        outgoing.vector = libc::iovec { iov_base: start.cast_mut().cast(), iov_len: len };
        // The box does not move from here on: it goes into the slot as it is.
        outgoing.header.msg_name = outgoing.name.as_mut_ptr().cast();
        outgoing.header.msg_namelen = name_len as u32;
        outgoing.header.msg_iov = &raw mut outgoing.vector;
        outgoing.header.msg_iovlen = 1;
        if control_len > 0 {
            outgoing.header.msg_control = outgoing.control.0.as_mut_ptr().cast();
            outgoing.header.msg_controllen = control_len;
        }
        outgoing
    }
}

impl Drop for RingUdp {
    fn drop(&mut self) {
        let mut inner = self.state.inner.borrow_mut();
        inner.closed = true;
        let wakers = (inner.reader.take(), inner.writer.take());
        if let Some(pool) = self.ring.datagrams.borrow_mut().as_mut() {
            inner.filled.drain(..).for_each(|(buffer, _)| pool.give_back(buffer));
        }
        let busy = if inner.receiving || inner.sending > 0 { Busy::Yes } else { Busy::No };
        drop(inner);
        self.ring.cancel_and_close(self.state.fd, busy);
        drop(wakers);
    }
}

fn arm(ring: &Ring, state: &Rc<State>) {
    let entry = opcode::RecvMsgMulti::new(Fd(state.fd), &raw const *state.template, DATAGRAM_GROUP).build();
    ring.start(Slot::ReceiveMessage(Rc::clone(state)), entry);
}

/// A buffer is there again for a socket that starved.
pub(super) fn arm_again(ring: &Ring, state: &Rc<State>) {
    let mut inner = state.inner.borrow_mut();
    inner.starved = false;
    if !inner.closed && !inner.receiving {
        inner.receiving = true;
        drop(inner);
        arm(ring, state);
    }
}

/// A completion of the receive.
pub(super) fn received(ring: &Ring, state: &Rc<State>, done: Done) {
    let mut inner = state.inner.borrow_mut();
    inner.receiving = !done.is_final();
    if let Some(buffer) = done.buffer() {
        let mut datagrams = ring.datagrams.borrow_mut();
        if let Some(pool) = datagrams.as_mut() {
            pool.take_filled(buffer);
            if done.result >= 0 && !inner.closed && inner.filled.len() < QUEUE_MAX {
                inner.filled.push_back((buffer, done.result as u32));
            } else {
                pool.give_back(buffer);
                state.dropped.set(state.dropped.get() + 1);
            }
        }
    }
    if inner.closed {
        return;
    }
    if done.result == -libc::ENOBUFS {
        ring.stats.receive_starved.add(1);
        inner.starved = true;
        ring.starved.borrow_mut().datagrams.push(Rc::clone(state));
        return;
    }
    if let Some(error) = done.error().filter(|_| done.result != -libc::ECANCELED) {
        inner.error = error.raw_os_error();
    } else if done.is_final() && inner.filled.is_empty() {
        inner.receiving = true; // The kernel ended the multishot on its own: go on.
        drop(inner);
        arm(ring, state);
        return;
    }
    let reader = inner.reader.take();
    drop(inner);
    wake(reader);
}

/// The completion of a send: its memory is ours again.
pub(super) fn sent(state: &Rc<State>, outgoing: Box<Outgoing>, done: Done) {
    drop(outgoing);
    let mut inner = state.inner.borrow_mut();
    inner.sending -= 1;
    if inner.closed {
        return;
    }
    if let Some(error) = done.error() {
        inner.send_error = error.raw_os_error();
    }
    let writer = inner.writer.take();
    drop(inner);
    wake(writer);
}
