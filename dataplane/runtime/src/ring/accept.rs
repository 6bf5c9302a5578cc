//! A listening socket over the ring: one multishot accept, descriptors queued until taken.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::opcode;
use io_uring::types::Fd;

use super::{Busy, Done, Ring, Slot, wake};

/// What the listener and its operation share.
pub(crate) struct State {
    queue: RefCell<VecDeque<OwnedFd>>,
    error: Cell<Option<i32>>,
    armed: Cell<bool>,
    closed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl State {
    pub(super) fn take_waker(&self) -> Option<Waker> {
        self.waker.take()
    }

    pub(super) fn accepted(&self, ring: &Ring, done: Done) {
        if done.is_final() {
            self.armed.set(false);
        }
        if done.result >= 0 {
            // SAFETY: a non-negative result of an accept is a descriptor that nobody else owns.
            let fd = unsafe { OwnedFd::from_raw_fd(done.result) };
            if self.closed.get() {
                return; // Accepted while the listener was closing: dropping it closes it.
            }
            self.queue.borrow_mut().push_back(fd);
        } else if done.result != -libc::ECANCELED {
            if matches!(-done.result, libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) {
                ring.stats.accept_exhausted.add(1);
            }
            self.error.set(Some(-done.result));
        }
        wake(self.waker.take());
    }
}

/// A listening socket.
pub(crate) struct RingListener {
    ring: Rc<Ring>,
    socket: Option<OwnedFd>,
    state: Rc<State>,
}

impl RingListener {
    pub(crate) fn new(ring: &Rc<Ring>, socket: OwnedFd) -> Self {
        let state = State {
            queue: RefCell::default(),
            error: Cell::new(None),
            armed: Cell::new(false),
            closed: Cell::new(false),
            waker: RefCell::default(),
        };
        Self { ring: Rc::clone(ring), socket: Some(socket), state: Rc::new(state) }
    }

    /// The next connection. After an error the accept is armed again by the next call, so a caller
    /// that waits first backs off.
    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<OwnedFd>> {
        if let Some(fd) = self.state.queue.borrow_mut().pop_front() {
            return Poll::Ready(Ok(fd));
        }
        if let Some(errno) = self.state.error.take() {
            return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
        }
        *self.state.waker.borrow_mut() = Some(cx.waker().clone());
        if let (Some(socket), false) = (&self.socket, self.state.armed.replace(true)) {
            let entry = opcode::AcceptMulti::new(Fd(socket.as_raw_fd())).flags(libc::SOCK_CLOEXEC).build();
            self.ring.start(Slot::Accept(Rc::clone(&self.state)), entry);
        }
        Poll::Pending
    }
}

impl Drop for RingListener {
    fn drop(&mut self) {
        self.state.closed.set(true);
        drop(self.state.take_waker());
        self.state.queue.borrow_mut().clear();
        if let Some(socket) = self.socket.take() {
            let busy = if self.state.armed.get() { Busy::Yes } else { Busy::No };
            self.ring.cancel_and_close(std::os::fd::IntoRawFd::into_raw_fd(socket), busy);
        }
    }
}
