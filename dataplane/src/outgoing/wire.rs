//! A connection's bytes as hyper wants them.
//!
//! Without unsafe code: bytes are read into a buffer on the stack and copied from there. The buffer is not cleared, and an
//! idle connection keeps none. hyper reads and writes for as long as a peer keeps up; a task that has run for long enough is
//! told to wait here.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of one read: what a TLS record holds. hyper asks for 8 KiB at first.
const READ_BYTES: usize = 16 * 1024;

/// A stream, and a count of the bytes that came.
pub(super) struct Wire<T> {
    stream: T,
    received: Rc<Cell<u64>>,
}

impl<T> Wire<T> {
    pub(super) fn new(stream: T, received: Rc<Cell<u64>>) -> Self {
        Self { stream, received }
    }
}

/// Ready while the current task may go on; otherwise it comes again when others had their turn.
fn poll_budget(cx: &Context<'_>) -> Poll<()> {
    if !berth_runtime::out_of_budget() {
        return Poll::Ready(());
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

impl<T: AsyncRead + Unpin> hyper::rt::Read for Wire<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(poll_budget(cx));
        let mut room = [MaybeUninit::uninit(); READ_BYTES];
        let most = into.remaining().min(READ_BYTES);
        let mut read = ReadBuf::uninit(&mut room[..most]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        self.received.set(self.received.get() + read.filled().len() as u64);
        into.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> hyper::rt::Write for Wire<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(poll_budget(cx));
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(poll_budget(cx));
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
