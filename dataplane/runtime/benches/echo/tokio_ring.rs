//! tokio's current-thread runtime with a ring of our own in its reactor.
//!
//! A hook of the runtime submits before the thread parks, and takes the completions that are there
//! already. For those that come while the thread sleeps in epoll, a driver task waits on a descriptor
//! in tokio's reactor. Which one depends on the ring: with COOP_TASKRUN it is the ring itself; a
//! completion deferred by DEFER_TASKRUN does not wake an epoll on the ring (the probe shows it), so
//! there it is an eventfd registered with the ring. What a real runtime must do beside that (bounds,
//! starvation, cancellation) is left out.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use slab::Slab;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::runtime::{Builder, LocalOptions};

use crate::bare_ring::{BareRing, Completion, Enter, Kind, TaskRun};
use crate::servers::{Neighbour, answer};

thread_local! {
    static RING: RefCell<Option<Ring>> = const { RefCell::new(None) };
    static WOKEN: Cell<Vec<Waker>> = const { Cell::new(Vec::new()) };
}

struct Ring {
    bare: BareRing,
    accepted: VecDeque<OwnedFd>,
    acceptor: Option<Waker>,
    sockets: Slab<Socket>,
}

struct Socket {
    fd: OwnedFd,
    filled: VecDeque<Filled>,
    ended: bool,
    reader: Option<Waker>,
    /// Owned by the send in flight, if `sending`.
    outgoing: Vec<u8>,
    sending: bool,
    writer: Option<Waker>,
    /// Operations that the kernel has not ended.
    operations: u8,
    closed: bool,
}

struct Filled {
    buffer: u16,
    start: usize,
    end: usize,
}

pub(crate) fn serve(listener: &TcpListener, task_run: TaskRun, neighbour: Neighbour) -> io::Result<()> {
    let mut bare = BareRing::new(task_run)?;
    let watched = match task_run {
        TaskRun::Cooperative => bare.fd(),
        TaskRun::Deferred => {
            // SAFETY: takes no pointers; a failure is told by the registration.
            let eventfd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
            bare.tell(eventfd)?;
            eventfd
        }
    };
    bare.accept(listener.as_raw_fd());
    RING.set(Some(Ring { bare, accepted: VecDeque::new(), acceptor: None, sockets: Slab::new() }));
    let runtime = Builder::new_current_thread()
        .enable_io()
        .on_thread_park(|| {
            if with_ring(|ring| ring.bare.has_work()) {
                reap();
            }
        })
        .build_local(LocalOptions::default())?;
    runtime.block_on(async {
        tokio::task::spawn_local(drive(watched));
        tokio::task::spawn_local(neighbour.run());
        loop {
            tokio::task::spawn_local(answer(accept().await));
        }
    })
}

/// Takes completions whenever epoll says that there are some. The eventfd's count is never read:
/// each completion is an edge of its own.
async fn drive(fd: RawFd) -> io::Result<()> {
    // SAFETY: the descriptor stays open until the process ends.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
    loop {
        // Cleared first: what arrives from here on is a new edge.
        watched.readable().await?.clear_ready();
        if with_ring(|ring| ring.bare.has_work()) {
            reap();
        }
    }
}

fn with_ring<T>(f: impl FnOnce(&mut Ring) -> T) -> T {
    RING.with_borrow_mut(|ring| f(ring.as_mut().expect("the ring is made before the runtime")))
}

/// Submits, runs deferred completions and wakes who waited for them, outside the borrow.
fn reap() {
    let mut woken = WOKEN.take();
    with_ring(|ring| {
        ring.bare.enter(Enter::Reap);
        while let Some(completion) = ring.bare.next() {
            woken.extend(ring.complete(completion));
        }
    });
    woken.drain(..).for_each(Waker::wake);
    WOKEN.set(woken);
}

impl Ring {
    fn complete(&mut self, completion: Completion) -> Option<Waker> {
        if completion.kind == Kind::Accept {
            // SAFETY: a descriptor that an accept returned has no other owner.
            self.accepted.push_back(unsafe { OwnedFd::from_raw_fd(completion.result) });
            return self.acceptor.take();
        }
        let socket = &mut self.sockets[completion.connection];
        socket.operations -= u8::from(completion.is_final);
        let woken = match completion.kind {
            Kind::Send => {
                socket.sending = false;
                socket.writer.take()
            }
            _ => {
                socket.ended |= completion.is_final;
                if let (Some(buffer), 1..) = (completion.buffer, completion.result) {
                    socket.filled.push_back(Filled { buffer, start: 0, end: completion.result as usize });
                }
                socket.reader.take()
            }
        };
        if socket.closed && socket.operations == 0 {
            self.sockets.remove(completion.connection);
        }
        woken
    }
}

async fn accept() -> Stream {
    poll_fn(|cx| {
        with_ring(|ring| match ring.accepted.pop_front() {
            Some(fd) => Poll::Ready(Stream::new(ring, fd)),
            None => {
                ring.acceptor = Some(cx.waker().clone());
                Poll::Pending
            }
        })
    })
    .await
}

/// A connection: its key in the ring.
struct Stream(usize);

impl Stream {
    fn new(ring: &mut Ring, fd: OwnedFd) -> Self {
        let raw = fd.as_raw_fd();
        let key = ring.sockets.insert(Socket {
            fd,
            filled: VecDeque::new(),
            ended: false,
            reader: None,
            outgoing: Vec::new(),
            sending: false,
            writer: None,
            operations: 1,
            closed: false,
        });
        ring.bare.receive(raw, key);
        Self(key)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        with_ring(|ring| {
            let socket = &mut ring.sockets[self.0];
            let Some(front) = socket.filled.front_mut() else {
                if socket.ended {
                    return Poll::Ready(Ok(()));
                }
                socket.reader = Some(cx.waker().clone());
                return Poll::Pending;
            };
            let count = into.remaining().min(front.end - front.start);
            into.put_slice(&ring.bare.bytes(front.buffer, front.end)[front.start..front.start + count]);
            front.start += count;
            if front.start == front.end {
                ring.bare.give_back(front.buffer);
                socket.filled.pop_front();
            }
            Poll::Ready(Ok(()))
        })
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        with_ring(|ring| {
            let socket = &mut ring.sockets[self.0];
            if socket.sending {
                socket.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            socket.outgoing.clear();
            socket.outgoing.extend_from_slice(bytes);
            socket.sending = true;
            socket.operations += 1;
            ring.bare.send(socket.fd.as_raw_fd(), self.0, &socket.outgoing);
            Poll::Ready(Ok(bytes.len()))
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        with_ring(|ring| {
            let socket = &mut ring.sockets[self.0];
            socket.closed = true;
            for filled in socket.filled.drain(..) {
                ring.bare.give_back(filled.buffer);
            }
            if socket.operations == 0 {
                ring.sockets.remove(self.0);
            } else {
                // SAFETY: takes no pointers. It ends the receive, whose completion frees the slot.
                unsafe { libc::shutdown(socket.fd.as_raw_fd(), libc::SHUT_RDWR) };
            }
        });
    }
}
