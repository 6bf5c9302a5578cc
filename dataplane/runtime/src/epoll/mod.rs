//! The same sockets on epoll, for machines where io_uring is forbidden.
//!
//! Readiness instead of completion: a socket tries the call and, when it would block, keeps its
//! waker until epoll (edge-triggered) says that it is worth trying again. The kernel never holds
//! memory of ours between calls, so there is nothing to argue about ownership. The calls read into
//! the caller's own buffer and write from it.

mod net;

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use slab::Slab;

pub(crate) use net::{EpollDatagram, EpollListener, EpollStream, EpollUdp, receive_bytes};

use crate::driver::Park;
use crate::remote::Remote;
use crate::stats::CoreStats;

/// The key of the bell.
const BELL: u64 = u64::MAX;
/// Events taken with one call.
const EVENTS: usize = 256;

#[derive(Default)]
struct Waiting {
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// A short read took all that was there; the next edge says that there is more.
    drained: bool,
    /// The peer closed its side, or the socket failed: no further edge is certain to come.
    ended: bool,
}

/// Which side of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Read,
    Write,
}

/// The epoll instance of one core.
pub(crate) struct Epoll {
    fd: OwnedFd,
    waiting: RefCell<Slab<Waiting>>,
    remote: Arc<Remote>,
    stats: Arc<CoreStats>,
}

impl Epoll {
    pub(crate) fn new(remote: &Arc<Remote>, stats: &Arc<CoreStats>) -> io::Result<Self> {
        // SAFETY: epoll_create1 takes no pointers; a non-negative result is a descriptor of ours.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let epoll =
            Self { fd, waiting: RefCell::default(), remote: Arc::clone(remote), stats: Arc::clone(stats) };
        epoll.add(remote.bell_fd(), BELL, libc::EPOLLIN)?;
        Ok(epoll)
    }

    pub(crate) fn turn(&self, park: Park) {
        let timeout_ms = match park {
            Park::Poll => 0,
            Park::Sleep(None) => -1,
            // Rounded up: waking early would spin until the deadline.
            Park::Sleep(Some(time)) => i32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX),
        };
        if timeout_ms != 0 {
            self.stats.sleeps.add(1);
        }
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        // SAFETY: the kernel writes at most EVENTS entries into the array that we own.
        let count =
            unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events.as_mut_ptr(), EVENTS as i32, timeout_ms) };
        // A negative count is EINTR: the next turn comes anyway.
        for event in &events[..usize::try_from(count).unwrap_or(0)] {
            self.ready(event.u64, event.events);
        }
    }

    fn ready(&self, key: u64, events: u32) {
        if key == BELL {
            let mut count = 0u64;
            // SAFETY: reads eight bytes into a local; the bell lives with the remote.
            unsafe { libc::read(self.remote.bell_fd(), (&raw mut count).cast(), 8) };
            return;
        }
        let failed = events & (libc::EPOLLERR | libc::EPOLLHUP) as u32 != 0;
        let (mut reader, mut writer) = (None, None);
        if let Some(waiting) = self.waiting.borrow_mut().get_mut(key as usize) {
            waiting.drained = false;
            waiting.ended |= failed || events & libc::EPOLLRDHUP as u32 != 0;
            if failed || events & (libc::EPOLLIN | libc::EPOLLRDHUP) as u32 != 0 {
                reader = waiting.reader.take();
            }
            if failed || events & libc::EPOLLOUT as u32 != 0 {
                writer = waiting.writer.take();
            }
        }
        reader.into_iter().chain(writer).for_each(Waker::wake);
    }

    pub(crate) fn forget_wakers(&self) {
        let mut wakers = Vec::new();
        for (_, waiting) in &mut *self.waiting.borrow_mut() {
            wakers.extend(waiting.reader.take());
            wakers.extend(waiting.writer.take());
        }
        drop(wakers);
    }

    fn add(&self, fd: RawFd, key: u64, events: i32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: (events | libc::EPOLLET) as u32, u64: key };
        // SAFETY: passes a pointer to a local event; the kernel copies it.
        let done = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// A descriptor watched by the epoll instance; dropping it closes the descriptor, which ends the
/// watch.
struct Watched {
    epoll: Rc<Epoll>,
    fd: OwnedFd,
    key: usize,
}

impl Watched {
    fn new(epoll: &Rc<Epoll>, fd: OwnedFd) -> io::Result<Self> {
        set_nonblocking(fd.as_raw_fd())?;
        let key = epoll.waiting.borrow_mut().insert(Waiting::default());
        let watched = Self { epoll: Rc::clone(epoll), fd, key };
        epoll.add(watched.fd.as_raw_fd(), key as u64, libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP)?;
        Ok(watched)
    }

    fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Tries `call`; keeps the waker when it would block. No edge is lost in between: edges are
    /// taken by [`Epoll::turn`], on this thread and after this.
    fn attempt<T>(
        &self,
        side: Side,
        cx: &mut Context<'_>,
        mut call: impl FnMut(RawFd) -> io::Result<T>,
    ) -> std::task::Poll<io::Result<T>> {
        loop {
            match call(self.fd()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(side, cx);
                    return std::task::Poll::Pending;
                }
                outcome => return std::task::Poll::Ready(outcome),
            }
        }
    }

    fn wait(&self, side: Side, cx: &Context<'_>) {
        let mut waiting = self.epoll.waiting.borrow_mut();
        let waiting = &mut waiting[self.key];
        let slot = match side {
            Side::Read => &mut waiting.reader,
            Side::Write => &mut waiting.writer,
        };
        *slot = Some(cx.waker().clone());
    }

    /// Whether a read is pointless until the next edge.
    fn is_drained(&self) -> bool {
        self.epoll.waiting.borrow()[self.key].drained
    }

    /// A read of a stream returned less than it asked for.
    fn short_read(&self) {
        let waiting = &mut self.epoll.waiting.borrow_mut()[self.key];
        waiting.drained = !waiting.ended;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let waiting = self.epoll.waiting.borrow_mut().try_remove(self.key);
        drop(waiting);
    }
}

fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: fcntl with these commands takes no pointers.
    let done = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
