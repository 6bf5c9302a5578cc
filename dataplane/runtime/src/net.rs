//! Sockets of a core, the same over io_uring and epoll.
//!
//! They belong to the core that made them and are `!Send`. Streams are tokio's `AsyncRead` and
//! `AsyncWrite`, so that rustls, h2 and tungstenite run on them.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::cmsg::Family;
use crate::core::with_core;
use crate::driver::Driver;
use crate::epoll::{EpollListener, EpollStream, EpollUdp};
use crate::ring::{RingConnecting, RingDatagram, RingListener, RingStream, RingUdp};

/// Connections that the kernel queues before a core accepts them. A burst of this size waits; the
/// kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// A listening TCP socket of this core. Several cores bind the same address (SO_REUSEPORT) and
/// the kernel spreads connections over them.
pub struct TcpListener(ListenerKind);

enum ListenerKind {
    Ring(RingListener),
    Epoll(EpollListener),
}

/// Binds a listening socket for a core to [`TcpListener::adopt`]. An IPv6 address takes IPv6 only,
/// so that dual stack is two sockets and no address is served twice.
pub fn listen(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The address that a socket is bound to: with the port that the kernel chose for port 0.
pub fn bound_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    socket_addr(&SockRef::from(socket).local_addr()?)
}

impl TcpListener {
    /// Takes over a socket that listens already.
    pub fn adopt(socket: OwnedFd) -> io::Result<Self> {
        with_core(|core| match &core.driver {
            Driver::Uring(ring) => Ok(Self(ListenerKind::Ring(RingListener::new(ring, socket)))),
            Driver::Epoll(epoll) => Ok(Self(ListenerKind::Epoll(EpollListener::new(epoll, socket)?))),
        })
    }

    /// The next connection.
    pub async fn accept(&self) -> io::Result<TcpStream> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// The next connection. After an error (no descriptors, say) the caller waits before it asks
    /// again.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        let accepted = match &self.0 {
            ListenerKind::Ring(listener) => listener.poll_accept(cx),
            ListenerKind::Epoll(listener) => listener.poll_accept(cx),
        };
        accepted.map(|accepted| TcpStream::adopt(accepted?))
    }
}

/// A connected TCP stream of this core.
///
/// A write returns when its bytes are copied. A flush waits until they are on their way, a shutdown
/// until the kernel has taken them. Dropping a stream is an abort: it drops what the kernel has not
/// taken, so a graceful end is a shutdown.
pub struct TcpStream(StreamKind);

enum StreamKind {
    Ring(RingStream),
    Epoll(EpollStream),
}

impl TcpStream {
    /// Takes over a connected socket.
    pub fn adopt(socket: OwnedFd) -> io::Result<Self> {
        with_core(|core| match &core.driver {
            Driver::Uring(ring) => Ok(Self(StreamKind::Ring(RingStream::new(ring, socket)))),
            Driver::Epoll(epoll) => Ok(Self(StreamKind::Epoll(EpollStream::new(epoll, socket)?))),
        })
    }

    /// Connects to an address. Dropping the future gives the attempt up and closes its socket.
    pub async fn connect(to: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
        let connecting = with_core(|core| match &core.driver {
            Driver::Uring(ring) => Ok(Connecting::Ring(RingConnecting::new(ring, socket.into(), to))),
            Driver::Epoll(epoll) => {
                EpollStream::connecting(epoll, socket, to).map(Some).map(Connecting::Epoll)
            }
        });
        Attempt(connecting?).await
    }

    fn fd(&self) -> RawFd {
        match &self.0 {
            StreamKind::Ring(stream) => stream.fd(),
            StreamKind::Epoll(stream) => stream.fd(),
        }
    }

    fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as the stream exists.
        unsafe { BorrowedFd::borrow_raw(self.fd()) }
    }

    /// The address of the peer.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        socket_addr(&SockRef::from(&self.socket()).peer_addr()?)
    }

    /// The address that the peer connected to.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        socket_addr(&SockRef::from(&self.socket()).local_addr()?)
    }

    /// Switches Nagle's algorithm off or on.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        SockRef::from(&self.socket()).set_tcp_nodelay(nodelay)
    }

    /// Makes the close a reset: for connections that are refused, so that they cost no TIME_WAIT.
    pub fn reset_on_close(&self) -> io::Result<()> {
        SockRef::from(&self.socket()).set_linger(Some(std::time::Duration::ZERO))
    }

    fn shutdown_write(&self) -> io::Result<()> {
        match SockRef::from(&self.socket()).shutdown(std::net::Shutdown::Write) {
            // The peer is gone already: there is nobody left to tell.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            outcome => outcome,
        }
    }
}

/// A connection in the making.
struct Attempt(Connecting);

enum Connecting {
    Ring(RingConnecting),
    /// The stream, until it is connected and handed over.
    Epoll(Option<EpollStream>),
}

impl Future for Attempt {
    type Output = io::Result<TcpStream>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        match &mut self.get_mut().0 {
            Connecting::Ring(connecting) => {
                connecting.poll_connected(cx).map_ok(|stream| TcpStream(StreamKind::Ring(stream)))
            }
            Connecting::Epoll(kept) => {
                let stream = kept.take().expect("a future is not polled after its end");
                match stream.poll_connected(cx) {
                    Poll::Ready(connected) => {
                        Poll::Ready(connected.map(|()| TcpStream(StreamKind::Epoll(stream))))
                    }
                    Poll::Pending => {
                        *kept = Some(stream);
                        Poll::Pending
                    }
                }
            }
        }
    }
}

fn socket_addr(address: &socket2::SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::Error::other("the socket has no IP address"))
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            StreamKind::Ring(stream) => stream.poll_read(cx, into),
            StreamKind::Epoll(stream) => stream.poll_read(cx, into),
        }
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &self.0 {
            StreamKind::Ring(stream) => stream.poll_write(cx, slices),
            StreamKind::Epoll(stream) => stream.poll_write(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            StreamKind::Ring(stream) => stream.poll_flush(cx),
            StreamKind::Epoll(stream) => stream.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if let StreamKind::Ring(ring) = &stream.0 {
            std::task::ready!(ring.poll_taken(cx))?;
        }
        Poll::Ready(stream.shutdown_write())
    }
}

/// A datagram to send, or a train of equal ones (GSO).
#[derive(Debug, Clone, Copy)]
pub struct Transmit<'a> {
    /// Where it goes.
    pub to: SocketAddr,
    /// The local address that it leaves from; `None` lets the kernel choose.
    pub from: Option<IpAddr>,
    /// The ECN bits.
    pub ecn: u8,
    /// The size of one datagram when `payload` is a train; the last may be shorter.
    pub segment: Option<u16>,
    /// The bytes: at most 64 KiB.
    pub payload: &'a [u8],
}

/// A received datagram, or a train of equal ones that the kernel merged (GRO).
pub struct Datagram(DatagramKind);

enum DatagramKind {
    Ring(RingDatagram),
    Epoll(crate::epoll::EpollDatagram),
}

impl Datagram {
    /// Who sent it.
    pub fn from(&self) -> SocketAddr {
        match &self.0 {
            DatagramKind::Ring(datagram) => datagram.from,
            DatagramKind::Epoll(datagram) => datagram.from,
        }
    }

    /// The local address that it was sent to.
    pub fn local(&self) -> Option<IpAddr> {
        self.control().local
    }

    /// The ECN bits.
    pub fn ecn(&self) -> u8 {
        self.control().ecn
    }

    /// The size of one datagram when the kernel merged a train.
    pub fn segment(&self) -> Option<u16> {
        self.control().segment
    }

    fn control(&self) -> &crate::cmsg::Control {
        match &self.0 {
            DatagramKind::Ring(datagram) => &datagram.control,
            DatagramKind::Epoll(datagram) => &datagram.control,
        }
    }

    /// Calls `f` with the bytes.
    pub fn with_payload<T>(&self, f: impl FnOnce(&[u8]) -> T) -> T {
        match &self.0 {
            DatagramKind::Ring(datagram) => datagram.with_payload(f),
            DatagramKind::Epoll(datagram) => f(&datagram.payload),
        }
    }
}

/// A bound UDP socket of this core, with GRO, ECN and packet information switched on.
pub struct UdpSocket(UdpKind);

enum UdpKind {
    Ring(RingUdp),
    Epoll(EpollUdp),
}

/// Binds a UDP socket for a core to [`UdpSocket::adopt`]. Several cores may bind the same address; an IPv6 address
/// takes IPv6 only.
///
/// Datagrams leave unfragmented: those that are larger than the path allows are dropped, which is how QUIC finds out
/// what the path allows.
pub fn bind_datagrams(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.cloexec(), Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    let on: &[(i32, i32, i32)] = match Family::of(address) {
        Family::V4 => &[
            (libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
            (libc::IPPROTO_IP, libc::IP_RECVTOS, 1),
            (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
        ],
        Family::V6 => &[
            (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
            (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1),
            (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
        ],
    };
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1)?;
    for (level, name, value) in on {
        set_option(&socket, *level, *name, *value)?;
    }
    // As much as the kernel gives (net.core.rmem_max): what arrives while the core does something else waits here.
    let _ = socket.set_recv_buffer_size(DATAGRAM_BACKLOG);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Bytes of datagrams that may wait in the kernel: 4 ms at 8 Gbit/s.
const DATAGRAM_BACKLOG: usize = 4 << 20;

impl UdpSocket {
    /// Binds; several cores may bind the same address.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        Self::adopt(bind_datagrams(address)?)
    }

    /// Takes over a socket of [`bind_datagrams`].
    pub fn adopt(socket: OwnedFd) -> io::Result<Self> {
        let family = Family::of(bound_address(&socket)?);
        with_core(|core| match &core.driver {
            Driver::Uring(ring) => Ok(Self(UdpKind::Ring(RingUdp::new(ring, socket, family)?))),
            Driver::Epoll(epoll) => Ok(Self(UdpKind::Epoll(EpollUdp::new(epoll, socket, family)?))),
        })
    }

    /// The bound address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let fd = match &self.0 {
            UdpKind::Ring(socket) => socket.fd(),
            UdpKind::Epoll(socket) => socket.fd(),
        };
        // SAFETY: the descriptor is open for as long as the socket exists.
        let socket = unsafe { BorrowedFd::borrow_raw(fd) };
        socket_addr(&SockRef::from(&socket).local_addr()?)
    }

    /// The next datagram or train.
    pub fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<io::Result<Datagram>> {
        match &self.0 {
            UdpKind::Ring(socket) => socket.poll_receive(cx).map_ok(|d| Datagram(DatagramKind::Ring(d))),
            UdpKind::Epoll(socket) => socket.poll_receive(cx).map_ok(|d| Datagram(DatagramKind::Epoll(d))),
        }
    }

    /// Sends, or waits until the socket takes more. The error may be that of an earlier send.
    pub fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            UdpKind::Ring(socket) => socket.poll_send(cx, transmit),
            UdpKind::Epoll(socket) => socket.poll_send(cx, transmit),
        }
    }

    /// Datagrams or trains dropped because the reader lagged.
    pub fn dropped(&self) -> u64 {
        match &self.0 {
            UdpKind::Ring(socket) => socket.dropped(),
            UdpKind::Epoll(_) => 0, // The kernel's own socket buffer drops there.
        }
    }
}

fn set_option(socket: &Socket, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: passes a pointer to an i32 that we own, with its size; the socket is open.
    let done = unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(socket),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as u32,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
