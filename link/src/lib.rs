//! The Unix socket between data plane and control agent, for both of them: messages that carry descriptors.
//!
//! It is of the kind that keeps messages apart (`SOCK_SEQPACKET`) and tells when the other one is gone. What is said is
//! in [`berth_protocol::link`]. Data planes of two generations use the same kind of socket for the datagrams that they
//! toss to each other, as plain bytes. Nothing here blocks: a socket without room is an error, since the few messages of a link
//! fill it only when the other side has stopped reading.
//!
//! Who may connect is decided by the folder of the socket and its mode; [`Channel::peer`] tells who it was.
#![forbid(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_protocol::link::{self, BadMessage, DESCRIPTORS_MAX, MESSAGE_MAX};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    listen, recvmsg, sendmsg, socket_with,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Data planes that may wait to be accepted: one starts at a time.
const BACKLOG: i32 = 16;

/// Why a link is over, or did not come about.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The socket cannot be reached or made.
    #[error("{path}")]
    Socket {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel says no.
    #[error("the link to the other process is broken")]
    Broken(#[from] io::Error),
    /// The other one has closed it, or ended.
    #[error("the other process has closed the link")]
    Closed,
    /// It said what cannot be understood.
    #[error("the other process says what is not understood; are both of versions that fit?")]
    Garbled(#[from] BadMessage),
    /// It said more at once than may be said.
    #[error("the other process sends a message above {MESSAGE_MAX} bytes or {DESCRIPTORS_MAX} descriptors")]
    TooLong,
}

/// One end of a link.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

/// Whether bytes were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// They were.
    Whole,
    /// The other side does not read fast enough.
    NoRoom,
}

/// A message and what came with it.
#[derive(Debug)]
pub struct Received<M> {
    /// What was said.
    pub message: M,
    /// The descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
}

impl Channel {
    /// Calls the agent.
    pub fn connect(path: &Path) -> Result<Self, Failure> {
        let failed = |errno: Errno| Failure::Socket { path: path.to_owned(), source: errno.into() };
        let socket = fresh().map_err(failed)?;
        let address = SocketAddrUnix::new(path).map_err(failed)?;
        connect(&socket, &address).map_err(failed)?;
        Ok(Self { socket })
    }

    /// Says something, with descriptors of which the other side gets copies.
    pub fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> Result<(), Failure> {
        let bytes = link::encode(message);
        if bytes.len() > MESSAGE_MAX || descriptors.len() > DESCRIPTORS_MAX {
            return Err(Failure::TooLong);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(Failure::TooLong);
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, flags) {
            Ok(_) => Ok(()),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(Failure::Closed),
            Err(errno) => Err(Failure::Broken(errno.into())),
        }
    }

    /// What the other side has said, if it has.
    pub fn receive<M: DeserializeOwned>(&self) -> Result<Option<Received<M>>, Failure> {
        let mut bytes = [0; MESSAGE_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let got = match recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Ok(got) => got,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(Errno::CONNRESET) => return Err(Failure::Closed),
            Err(errno) => return Err(Failure::Broken(errno.into())),
        };
        let descriptors = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        // Taken before anything is refused, so that they are closed.
        let descriptors: Vec<OwnedFd> = descriptors.flatten().collect();
        if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(Failure::TooLong);
        }
        match got.bytes {
            0 => Err(Failure::Closed),
            length => Ok(Some(Received { message: link::decode(&bytes[..length])?, descriptors })),
        }
    }

    /// Sends bytes as they are, if there is room.
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<Sent, Failure> {
        match rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(_) => Ok(Sent::Whole),
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::MSGSIZE) => Ok(Sent::NoRoom),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(Failure::Closed),
            Err(errno) => Err(Failure::Broken(errno.into())),
        }
    }

    /// The next bytes that the other side has sent, if there are some; what has no room in `into` is cut off.
    pub fn receive_bytes(&self, into: &mut [u8]) -> Result<Option<usize>, Failure> {
        match rustix::net::recv(&self.socket, into, RecvFlags::DONTWAIT) {
            Ok((0, _)) | Err(Errno::CONNRESET) => Err(Failure::Closed),
            Ok((length, _)) => Ok(Some(length)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(Failure::Broken(errno.into())),
        }
    }

    /// The user of the other process and its number, when it connected.
    pub fn peer(&self) -> io::Result<(u32, u32)> {
        let credentials = rustix::net::sockopt::socket_peercred(&self.socket)?;
        Ok((credentials.uid.as_raw(), credentials.pid.as_raw_nonzero().get().unsigned_abs()))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Where data planes call.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
}

impl Listener {
    /// Listens at `path`, in place of what an agent before this one left there. Fails if one still listens.
    pub fn bind(path: &Path) -> Result<Self, Failure> {
        let failed = |source: io::Error| Failure::Socket { path: path.to_owned(), source };
        let nobody = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
        };
        match Channel::connect(path) {
            Err(Failure::Socket { source, .. }) if nobody(&source) => {}
            _ => {
                return Err(failed(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another process listens there: stop it first",
                )));
            }
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let failed = |errno: Errno| failed(errno.into());
        let socket = fresh().map_err(failed)?;
        let address = SocketAddrUnix::new(path).map_err(failed)?;
        bind(&socket, &address).map_err(failed)?;
        listen(&socket, BACKLOG).map_err(failed)?;
        Ok(Self { socket })
    }

    /// The next one who calls, if somebody does.
    pub fn accept(&self) -> io::Result<Option<Channel>> {
        match accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => Ok(Some(Channel { socket })),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Sleeps until something can be read or accepted on one of these, or for so long. A signal ends the sleep as well.
pub fn wait<'a>(sockets: impl IntoIterator<Item = BorrowedFd<'a>>, time: Duration) {
    let polled = sockets.into_iter().map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN));
    let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
    let _ = poll(&mut polled.collect::<Vec<_>>(), Some(&time));
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn fresh() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

#[cfg(test)]
mod tests;
