//! A connection in the making over the ring: one connect, whose address is owned by its slot.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::opcode;
use io_uring::types::Fd;
use socket2::SockAddr;

use super::{Busy, Done, Ring, RingStream, Slot, wake};

/// What the future and its operation share. The slot keeps it alive while the kernel may read the address.
pub(crate) struct State {
    to: SockAddr,
    result: Cell<Option<i32>>,
    waker: RefCell<Option<Waker>>,
}

impl State {
    pub(super) fn take_waker(&self) -> Option<Waker> {
        self.waker.take()
    }

    pub(super) fn connected(&self, done: Done) {
        self.result.set(Some(done.result));
        wake(self.waker.take());
    }
}

/// A socket that is being connected.
pub(crate) struct RingConnecting {
    ring: Rc<Ring>,
    /// Until the stream takes it over.
    socket: Option<OwnedFd>,
    state: Rc<State>,
}

impl RingConnecting {
    pub(crate) fn new(ring: &Rc<Ring>, socket: OwnedFd, to: SocketAddr) -> Self {
        let state = Rc::new(State { to: to.into(), result: Cell::new(None), waker: RefCell::default() });
        let address = state.to.as_ptr().cast();
        let entry = opcode::Connect::new(Fd(socket.as_raw_fd()), address, state.to.len()).build();
        ring.start(Slot::Connect(Rc::clone(&state)), entry);
        Self { ring: Rc::clone(ring), socket: Some(socket), state }
    }

    /// The stream, once the connection is made. Not polled again after that.
    pub(crate) fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<RingStream>> {
        let Some(result) = self.state.result.get() else {
            *self.state.waker.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        };
        if result < 0 {
            return Poll::Ready(Err(io::Error::from_raw_os_error(-result)));
        }
        let socket = self.socket.take().expect("a future is not polled after its end");
        Poll::Ready(Ok(RingStream::new(&self.ring, socket)))
    }
}

impl Drop for RingConnecting {
    fn drop(&mut self) {
        drop(self.state.take_waker());
        if let Some(socket) = self.socket.take() {
            let busy = if self.state.result.get().is_none() { Busy::Yes } else { Busy::No };
            self.ring.cancel_and_close(socket.into_raw_fd(), busy);
        }
    }
}
