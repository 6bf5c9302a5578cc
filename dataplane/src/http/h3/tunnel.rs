//! A stream after an extended CONNECT (RFC 9220): the bytes of its DATA frames.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::prefixed::hand_out;
use super::frames::{self, Code, Part};
use super::parts::Parts;
use crate::quic::SendStream;

/// Bytes of one write, so of one DATA frame.
const WRITE_MAX: usize = 64 * 1024;

/// The bytes of an upgraded stream.
pub(super) struct Tunnel {
    parts: Parts,
    read: Bytes,
    send: SendStream,
    /// A frame that is not written yet: at most one.
    unsent: Bytes,
}

impl Tunnel {
    pub(super) fn new(parts: Parts, send: SendStream) -> Self {
        Self { parts, read: Bytes::new(), send, unsent: Bytes::new() }
    }

    fn poll_unsent(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let sent = self.send.poll_write(cx, std::slice::from_mut(&mut self.unsent));
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            match ready!(self.parts.poll_next(cx)) {
                Ok(Some(Part::Data(bytes))) => self.read = bytes,
                Ok(None) => return Poll::Ready(Ok(())),
                // Trailers have no meaning in a tunnel (RFC 9114, 4.4).
                Ok(Some(Part::Headers(_))) => {
                    self.parts.fail(frames::Fault::Protocol(Code::FrameUnexpected));
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                Err(_) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
        hand_out(&mut self.read, into);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_unsent(cx))?;
        let bytes = &bytes[..bytes.len().min(WRITE_MAX)];
        let mut frame = Vec::with_capacity(bytes.len() + 8);
        frames::data(&mut frame, bytes.len() as u64);
        frame.extend_from_slice(bytes);
        self.unsent = frame.into();
        // It is taken over, and goes as far as there is room.
        match self.poll_unsent(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(bytes.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_unsent(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_unsent(cx))?;
        self.send.finish();
        Poll::Ready(Ok(()))
    }
}
