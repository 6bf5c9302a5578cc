//! A connection and its streams as HTTP/3 uses them: our side of `h3::quic`.
//!
//! A handle here is a reference to the [`Link`] and, for a stream, its number. Each call borrows the state machine for
//! a moment; what it leaves to send is sent by the connection's task.
//!
//! Dropping tells the client: a send stream that was not finished is reset, a receive stream that was not read to its
//! end is stopped.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h3::quic::{ConnectionErrorIncoming, StreamErrorIncoming, WriteBuf};
use quinn_proto::{Dir, ReadError, ReadableError, StreamId, VarInt, WriteError};

use super::guard::{FrameGuard, Refusal};
use super::link::{Link, Wish};

/// Bytes that one read hands out: a slow handler holds no more of them outside of flow control.
const READ_MAX: usize = 64 * 1024;
/// H3_NO_ERROR and H3_INTERNAL_ERROR (RFC 9114, 8.1).
const NO_ERROR: u64 = 0x100;
const INTERNAL_ERROR: u64 = 0x102;

/// A connection whose handshake is over.
pub struct Connection {
    link: Rc<Link>,
}

impl Connection {
    pub(super) fn new(link: Rc<Link>) -> Self {
        Self { link }
    }

    /// Another handle of the same connection, for [`Self::settled`] and [`Self::stopped`].
    #[must_use]
    pub fn handle(&self) -> Self {
        Self { link: Rc::clone(&self.link) }
    }

    /// Waits until the client has acknowledged all that was finished, but no longer than `patience`.
    pub async fn settled(&self, patience: Duration) {
        let settled = std::future::poll_fn(|cx| {
            self.link.with(|state| {
                if state.unfinished == 0 || state.lost.is_some() {
                    return Poll::Ready(());
                }
                state.waits.settled(cx);
                Poll::Pending
            })
        });
        let _ = berth_runtime::timeout(patience, settled).await;
    }

    /// Ready when the client wants no more of this stream, or the connection is over.
    pub fn poll_stopped(&self, cx: &Context<'_>, stream: h3::quic::StreamId) -> Poll<()> {
        let id = from_h3(stream);
        self.link.with(|state| {
            let stopped = state.machine.send_stream(id).stopped();
            if state.lost.is_some() || !matches!(stopped, Ok(None)) {
                return Poll::Ready(());
            }
            state.waits.stream(id, Wish::Stopped, cx);
            Poll::Pending
        })
    }

    fn poll_accept(&self, dir: Dir, cx: &Context<'_>) -> Poll<Result<StreamId, ConnectionErrorIncoming>> {
        self.link.with(|state| {
            state.lost()?;
            match state.machine.streams().accept(dir) {
                Some(id) => Poll::Ready(Ok(id)),
                None => {
                    state.waits.accept(dir, cx);
                    Poll::Pending
                }
            }
        })
    }

    fn poll_open(&self, dir: Dir, cx: &Context<'_>) -> Poll<Result<StreamId, StreamErrorIncoming>> {
        self.link.with(|state| {
            state.lost().map_err(lost)?;
            match state.machine.streams().open(dir) {
                Some(id) => Poll::Ready(Ok(id)),
                None => {
                    state.waits.open(dir, cx);
                    Poll::Pending
                }
            }
        })
    }

    fn bidi(&self, id: StreamId) -> BidiStream {
        let limits = &self.link.endpoint.shared.limits;
        // QPACK's static table and Huffman code make fields larger than they are, so the block as sent may have all
        // that its fields may.
        let guard = FrameGuard::request(limits.header_bytes as u64);
        BidiStream { send: SendStream::new(&self.link, id), receive: RecvStream::new(&self.link, id, guard) }
    }
}

fn lost(connection_error: ConnectionErrorIncoming) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming { connection_error }
}

fn to_h3(id: StreamId) -> h3::quic::StreamId {
    let number: u64 = VarInt::from(id).into();
    number.try_into().expect("both number streams in 62 bits")
}

fn from_h3(id: h3::quic::StreamId) -> StreamId {
    let number = VarInt::from_u64(id.into_inner()).expect("both number streams in 62 bits");
    StreamId::from(number)
}

/// An error code that came from our own HTTP/3 layer.
fn code(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

impl h3::quic::OpenStreams<Bytes> for Connection {
    type BidiStream = BidiStream;
    type SendStream = SendStream;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<BidiStream, StreamErrorIncoming>> {
        self.poll_open(Dir::Bi, cx).map_ok(|id| self.bidi(id))
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendStream, StreamErrorIncoming>> {
        self.poll_open(Dir::Uni, cx).map_ok(|id| SendStream::new(&self.link, id))
    }

    fn close(&mut self, error: h3::error::Code, reason: &[u8]) {
        self.link.close(code(error.value()), reason);
    }
}

impl h3::quic::Connection<Bytes> for Connection {
    type RecvStream = RecvStream;
    type OpenStreams = Self;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<RecvStream, ConnectionErrorIncoming>> {
        let id = self.poll_accept(Dir::Uni, cx);
        id.map_ok(|id| RecvStream::new(&self.link, id, FrameGuard::unidirectional()))
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BidiStream, ConnectionErrorIncoming>> {
        self.poll_accept(Dir::Bi, cx).map_ok(|id| self.bidi(id))
    }

    fn opener(&self) -> Self {
        self.handle()
    }
}

/// A stream in both directions.
pub struct BidiStream {
    send: SendStream,
    receive: RecvStream,
}

impl h3::quic::BidiStream<Bytes> for BidiStream {
    type SendStream = SendStream;
    type RecvStream = RecvStream;

    fn split(self) -> (SendStream, RecvStream) {
        (self.send, self.receive)
    }
}

impl h3::quic::RecvStream for BidiStream {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.receive.poll_data(cx)
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.receive.stop_sending(error_code);
    }

    fn recv_id(&self) -> h3::quic::StreamId {
        self.receive.recv_id()
    }
}

impl h3::quic::SendStream<Bytes> for BidiStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, reset_code: u64) {
        self.send.reset(reset_code);
    }

    fn send_id(&self) -> h3::quic::StreamId {
        self.send.send_id()
    }
}

/// The sending side of a stream.
pub struct SendStream {
    link: Rc<Link>,
    id: StreamId,
    writing: Option<WriteBuf<Bytes>>,
    /// Finished or reset.
    over: bool,
}

impl SendStream {
    fn new(link: &Rc<Link>, id: StreamId) -> Self {
        Self { link: Rc::clone(link), id, writing: None, over: false }
    }
}

fn write_error(error: &WriteError) -> StreamErrorIncoming {
    match error {
        WriteError::Stopped(code) => StreamErrorIncoming::StreamTerminated { error_code: (*code).into() },
        error => StreamErrorIncoming::Unknown(Box::new(error.clone())),
    }
}

impl h3::quic::SendStream<Bytes> for SendStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        let Some(data) = &mut self.writing else { return Poll::Ready(Ok(())) };
        let id = self.id;
        let outcome = self.link.with(|state| {
            state.lost().map_err(lost)?;
            while data.has_remaining() {
                match state.machine.send_stream(id).write(data.chunk()) {
                    Ok(count) => data.advance(count),
                    Err(WriteError::Blocked) => {
                        state.waits.stream(id, Wish::Write, cx);
                        return Poll::Pending;
                    }
                    Err(error) => return Poll::Ready(Err(write_error(&error))),
                }
            }
            Poll::Ready(Ok(()))
        });
        if outcome.is_ready() {
            self.writing = None;
        }
        self.link.wake();
        outcome
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if self.writing.is_some() {
            let connection_error =
                ConnectionErrorIncoming::InternalError("a write before the last was done".into());
            return Err(lost(connection_error));
        }
        self.writing = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        let id = self.id;
        let finished = self.link.with(|state| {
            let finished = state.machine.send_stream(id).finish();
            state.unfinished += usize::from(finished.is_ok());
            finished
        });
        self.over = true;
        self.link.wake();
        Poll::Ready(finished.map_err(|error| StreamErrorIncoming::Unknown(Box::new(error))))
    }

    fn reset(&mut self, reset_code: u64) {
        let id = self.id;
        self.over = true;
        self.link.with(|state| {
            // It fails for a stream that is over already.
            let _ = state.machine.send_stream(id).reset(code(reset_code));
        });
        self.link.wake();
    }

    fn send_id(&self) -> h3::quic::StreamId {
        to_h3(self.id)
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        let id = self.id;
        self.link.with(|state| {
            state.waits.forget(id, Wish::Write);
            state.waits.forget(id, Wish::Stopped);
        });
        if !self.over {
            h3::quic::SendStream::reset(self, INTERNAL_ERROR);
        }
    }
}

/// The receiving side of a stream.
pub struct RecvStream {
    link: Rc<Link>,
    id: StreamId,
    guard: FrameGuard,
    /// Read to the end, reset or stopped.
    over: bool,
}

/// What a read found.
enum Found {
    Bytes(Bytes),
    End,
    Reset(VarInt),
}

impl RecvStream {
    fn new(link: &Rc<Link>, id: StreamId, guard: FrameGuard) -> Self {
        Self { link: Rc::clone(link), id, guard, over: false }
    }

    fn poll_read(&self, cx: &Context<'_>) -> Poll<Result<Found, StreamErrorIncoming>> {
        let id = self.id;
        let (outcome, more_credit) = self.link.with(|state| {
            if let Err(error) = state.lost() {
                return (Poll::Ready(Err(lost(error))), false);
            }
            let mut stream = state.machine.recv_stream(id);
            let mut chunks = match stream.read(true) {
                Ok(chunks) => chunks,
                Err(ReadableError::ClosedStream | ReadableError::IllegalOrderedRead) => {
                    return (Poll::Ready(Ok(Found::End)), false);
                }
            };
            let next = chunks.next(READ_MAX);
            let more_credit = chunks.finalize().should_transmit();
            let outcome = match next {
                Ok(Some(chunk)) => Poll::Ready(Ok(Found::Bytes(chunk.bytes))),
                Ok(None) => Poll::Ready(Ok(Found::End)),
                Err(ReadError::Reset(code)) => Poll::Ready(Ok(Found::Reset(code))),
                Err(ReadError::Blocked) => {
                    state.waits.stream(id, Wish::Read, cx);
                    Poll::Pending
                }
            };
            (outcome, more_credit)
        });
        if more_credit {
            self.link.wake();
        }
        outcome
    }

    fn stop(&mut self, error_code: u64) {
        let id = self.id;
        self.over = true;
        self.link.with(|state| {
            // It fails for a stream that is over already.
            let _ = state.machine.recv_stream(id).stop(code(error_code));
        });
        self.link.wake();
    }

    /// Ends what the guard refused: a request alone, in both directions; of another stream the whole connection.
    fn refuse(&mut self, why: Refusal) -> StreamErrorIncoming {
        let numbers = &self.link.endpoint.shared.numbers;
        match why {
            Refusal::LongHeaders => numbers.limit_header_bytes.add(1),
            Refusal::LongFrame => numbers.limit_http3_frames.add(1),
            Refusal::PushStream | Refusal::TableUse => numbers.http3_protocol_errors.add(1),
        }
        self.stop(why.code());
        match self.id.dir() {
            Dir::Bi => self.link.with(|state| {
                // It fails for a reply that was finished before.
                let _ = state.machine.send_stream(self.id).reset(code(why.code()));
            }),
            Dir::Uni => self.link.close(code(why.code()), b"refused by the guard of frames"),
        }
        StreamErrorIncoming::StreamTerminated { error_code: why.code() }
    }
}

impl h3::quic::RecvStream for RecvStream {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        if self.over {
            return Poll::Ready(Ok(None));
        }
        Poll::Ready(match std::task::ready!(self.poll_read(cx))? {
            Found::Bytes(bytes) => match self.guard.observe(&bytes) {
                Ok(()) => Ok(Some(bytes)),
                Err(why) => Err(self.refuse(why)),
            },
            Found::End => {
                self.over = true;
                Ok(None)
            }
            Found::Reset(code) => {
                self.over = true;
                self.link.count_reset();
                Err(StreamErrorIncoming::StreamTerminated { error_code: code.into() })
            }
        })
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.stop(error_code);
    }

    fn recv_id(&self) -> h3::quic::StreamId {
        to_h3(self.id)
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        let id = self.id;
        self.link.with(|state| state.waits.forget(id, Wish::Read));
        if !self.over {
            self.stop(NO_ERROR);
        }
    }
}
