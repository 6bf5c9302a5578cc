//! Listener, stream and UDP socket on epoll.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll};

use socket2::{SockRef, Socket};
use tokio::io::ReadBuf;

use super::{Epoll, Side, Watched};
use crate::cmsg::{self, CONTROL_LEN, Control, Family, NAME_LEN};
use crate::net::Transmit;

/// Bytes of a received train: the largest that GRO merges.
const TRAIN: usize = 65536;

/// A listening socket.
pub(crate) struct EpollListener(Watched);

impl EpollListener {
    pub(crate) fn new(epoll: &Rc<Epoll>, socket: OwnedFd) -> io::Result<Self> {
        Watched::new(epoll, socket).map(Self)
    }

    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<OwnedFd>> {
        let accepted = self.0.attempt(Side::Read, cx, |fd| {
            // SAFETY: accept4 with null pointers stores no address.
            checked(unsafe {
                libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC)
            } as isize)
        });
        accepted.map(|accepted| match accepted {
            // SAFETY: a non-negative result of accept4 is a descriptor that nobody else owns.
            Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }),
            Err(error) => {
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
                ) {
                    self.0.epoll.stats.accept_exhausted.add(1);
                }
                Err(error)
            }
        })
    }
}

/// A connected TCP socket.
pub(crate) struct EpollStream(Watched);

impl EpollStream {
    pub(crate) fn new(epoll: &Rc<Epoll>, socket: OwnedFd) -> io::Result<Self> {
        Watched::new(epoll, socket).map(Self)
    }

    /// A stream whose connection is on its way. It is watched from then on only: epoll reports a socket that has never
    /// been connected as hung up.
    pub(crate) fn connecting(epoll: &Rc<Epoll>, socket: Socket, to: SocketAddr) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Self::new(epoll, socket.into()),
        }
    }

    /// Ready once the connection is made, or has failed.
    pub(crate) fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.attempt(Side::Write, cx, |_| {
            let socket = SockRef::from(&self.0.fd);
            if let Some(error) = socket.take_error()? {
                return Err(error);
            }
            match socket.peer_addr() {
                Ok(_) => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                    Err(io::ErrorKind::WouldBlock.into())
                }
                Err(error) => Err(error),
            }
        })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.0.fd()
    }

    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.0.is_drained() {
            self.0.wait(Side::Read, cx);
            return Poll::Pending;
        }
        let asked = into.remaining();
        self.0.attempt(Side::Read, cx, |fd| {
            let count = receive_bytes(fd, into)?;
            if (1..asked).contains(&count) {
                self.0.short_read();
            }
            Ok(())
        })
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.0.attempt(Side::Write, cx, |fd| {
            // SAFETY: IoSlice has the layout of iovec; the message points to slices that outlive
            // the call; all other fields of the zeroed header mean "absent".
            unsafe {
                let mut message: libc::msghdr = std::mem::zeroed();
                message.msg_iov = slices.as_ptr().cast_mut().cast();
                message.msg_iovlen = slices.len();
                checked(libc::sendmsg(fd, &raw const message, libc::MSG_NOSIGNAL))
            }
        })
    }

    #[allow(clippy::unused_self, reason = "the same door as the ring's stream")]
    pub(crate) fn poll_flush(&self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // A write has handed its bytes to the kernel.
    }
}

/// A received datagram or train.
pub(crate) struct EpollDatagram {
    pub(crate) from: SocketAddr,
    pub(crate) control: Control,
    pub(crate) payload: Vec<u8>,
}

/// A bound UDP socket.
pub(crate) struct EpollUdp {
    watched: Watched,
    family: Family,
}

#[repr(align(8))]
struct Aligned([u8; CONTROL_LEN]);

impl EpollUdp {
    pub(crate) fn new(epoll: &Rc<Epoll>, socket: OwnedFd, family: Family) -> io::Result<Self> {
        Ok(Self { watched: Watched::new(epoll, socket)?, family })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.watched.fd()
    }

    pub(crate) fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<EpollDatagram>> {
        loop {
            match std::task::ready!(self.watched.attempt(Side::Read, cx, receive))? {
                Some(datagram) => return Poll::Ready(Ok(datagram)),
                None => self.watched.epoll.stats.datagrams_malformed.add(1),
            }
        }
    }

    pub(crate) fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<()>> {
        let sent = self.watched.attempt(Side::Write, cx, |fd| {
            let mut name = [0; NAME_LEN];
            let name_len = cmsg::write_name(transmit.to, self.family, &mut name);
            let mut control = Aligned([0; CONTROL_LEN]);
            let meta = Control { local: transmit.from, ecn: transmit.ecn, segment: transmit.segment };
            let control_len = cmsg::write_control(&meta, self.family, &mut control.0);
            let mut vector = libc::iovec {
                iov_base: transmit.payload.as_ptr().cast_mut().cast(),
                iov_len: transmit.payload.len(),
            };
            // SAFETY: every pointer of the message is to a local or to the payload, all alive
            // until the call returns; sendmsg only reads them.
            unsafe {
                let mut message: libc::msghdr = std::mem::zeroed();
                message.msg_name = name.as_mut_ptr().cast();
                message.msg_namelen = name_len as u32;
                message.msg_iov = &raw mut vector;
                message.msg_iovlen = 1;
                if control_len > 0 {
                    message.msg_control = control.0.as_mut_ptr().cast();
                    message.msg_controllen = control_len;
                }
                checked(libc::sendmsg(fd, &raw const message, libc::MSG_NOSIGNAL))
            }
        });
        sent.map_ok(|_| ())
    }
}

/// One recvmsg. `None` when the datagram cannot be understood.
fn receive(fd: RawFd) -> io::Result<Option<EpollDatagram>> {
    let mut payload = vec![0u8; TRAIN];
    let mut name = [0u8; NAME_LEN];
    let mut control = Aligned([0; CONTROL_LEN]);
    let mut vector = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    // SAFETY: every pointer of the message is to a local of the stated length, alive until the
    // call returns.
    let (count, message) = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_name = name.as_mut_ptr().cast();
        message.msg_namelen = NAME_LEN as u32;
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = CONTROL_LEN;
        (checked(libc::recvmsg(fd, &raw mut message, 0))?, message)
    };
    payload.truncate(count);
    let truncated = message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
    let from = cmsg::read_name(&name[..(message.msg_namelen as usize).min(NAME_LEN)]);
    let meta = cmsg::read_control(&control.0[..message.msg_controllen.min(CONTROL_LEN)]);
    Ok(match (truncated, from, meta) {
        (false, Some(from), Some(control)) => Some(EpollDatagram { from, control, payload }),
        _ => None,
    })
}

/// Receives what a stream's socket has, without waiting.
pub(crate) fn receive_bytes(fd: RawFd, into: &mut ReadBuf<'_>) -> io::Result<usize> {
    // SAFETY: the kernel writes at most the unfilled length into the unfilled part.
    let count = checked(unsafe {
        let unfilled = into.unfilled_mut();
        libc::recv(fd, unfilled.as_mut_ptr().cast(), unfilled.len(), libc::MSG_DONTWAIT)
    })?;
    // SAFETY: the kernel just initialised `count` bytes of the unfilled part.
    unsafe { into.assume_init(count) };
    into.advance(count);
    Ok(count)
}

fn checked(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
