//! One UDP socket: trains of datagrams in (GRO, many at a time) and out (GSO).

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

use bytes::BytesMut;
use quinn_proto::EcnCodepoint;
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};

use crate::sys;

/// What one buffer must hold: the largest train that the kernel hands over.
const TRAIN_MAX: usize = 64 * 1024;
/// Asked of the kernel for each direction; it grants what its limits allow. A client that loses datagrams in its own
/// socket would make the server repeat them.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

pub(crate) struct Wire {
    socket: UdpSocket,
    state: UdpSocketState,
    /// One for each train of a batch, in one piece.
    buffers: Box<[u8]>,
}

impl Wire {
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(address)?;
        let state = UdpSocketState::new((&socket).into())?;
        state.set_recv_buffer_size((&socket).into(), SOCKET_BUFFER)?;
        state.set_send_buffer_size((&socket).into(), SOCKET_BUFFER)?;
        // Not zeroes: those would be mapped page by page later, while somebody measures our memory.
        Ok(Self { socket, state, buffers: vec![0xff; BATCH_SIZE * TRAIN_MAX].into() })
    }

    #[cfg(test)]
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// How many datagrams one train may have.
    pub(crate) fn segments_max(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Sends a train. A full socket is waited for; a datagram that cannot be sent at all is lost, as on any network.
    pub(crate) fn send(&self, transmit: &quinn_proto::Transmit, contents: &[u8]) -> io::Result<()> {
        let transmit = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8)),
            contents: &contents[..transmit.size],
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        };
        loop {
            match self.state.send((&self.socket).into(), &transmit) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => sys::wait_writable(self.as_raw_fd())?,
                done => return done,
            }
        }
    }

    /// Adds one batch of trains to `arrived`, and says whether more may wait behind it.
    pub(crate) fn receive(&mut self, arrived: &mut Vec<Datagram>) -> io::Result<Batch> {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut buffers = self.buffers.chunks_exact_mut(TRAIN_MAX);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(buffers.next().unwrap_or_default()));
        let trains = match self.state.recv((&self.socket).into(), &mut slices, &mut metas) {
            Ok(trains) => trains,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Batch::Last),
            // What the kernel was told about an earlier datagram of ours: QUIC finds out by itself.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(Batch::Full),
            Err(error) => return Err(error),
        };
        for (meta, buffer) in metas.iter().zip(&slices).take(trains) {
            let ecn = meta.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
            // One allocation for a whole train, of which each datagram takes its part.
            let mut train = BytesMut::from(&buffer[..meta.len]);
            while !train.is_empty() {
                let bytes = train.split_to(meta.stride.min(train.len()));
                arrived.push(Datagram { from: meta.addr, ecn, bytes });
            }
        }
        Ok(if trains == BATCH_SIZE { Batch::Full } else { Batch::Last })
    }
}

impl AsRawFd for Wire {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) ecn: Option<EcnCodepoint>,
    pub(crate) bytes: BytesMut,
}

/// Whether more may wait behind a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Batch {
    Full,
    Last,
}
