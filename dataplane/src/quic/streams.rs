//! A connection and its streams as HTTP/3 uses them.
//!
//! A handle here is a reference to the [`Link`] and, for a stream, its number. Each call borrows the state machine for
//! a moment; what it leaves to send is sent by the connection's task.
//!
//! Dropping tells the client: a send stream that was not finished is reset, a receive stream that was not read to its
//! end is stopped.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use quinn_proto::{Dir, ReadError, ReadableError, StreamId, VarInt, WriteError};

use super::link::{Link, State, Wish};

/// How often it is looked whether a client is silent.
const LISTEN: Duration = Duration::from_secs(1);

/// Bytes that one read hands out: a slow handler holds no more of them outside of flow control.
const READ_MAX: usize = 64 * 1024;
/// H3_NO_ERROR and H3_INTERNAL_ERROR (RFC 9114, 8.1).
const NO_ERROR: u64 = 0x100;
const INTERNAL_ERROR: u64 = 0x102;

/// The connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost;

/// Why nothing more is read from a stream, or taken by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// The client reset it, or wants no more of it.
    Client,
    /// The connection is over.
    Lost,
}

impl From<Lost> for StreamEnd {
    fn from(_: Lost) -> Self {
        Self::Lost
    }
}

/// A connection whose handshake is over.
#[derive(Clone)]
pub struct Connection {
    link: Rc<Link>,
}

impl Connection {
    pub(super) fn new(link: Rc<Link>) -> Self {
        Self { link }
    }

    /// The next stream of a client that goes both ways.
    pub fn poll_accept(&self, cx: &Context<'_>) -> Poll<Result<(SendStream, RecvStream), Lost>> {
        self.poll_accept_id(Dir::Bi, cx).map_ok(|id| {
            let receive = RecvStream::new(&self.link, id);
            (SendStream::new(&self.link, id), receive)
        })
    }

    /// The next stream of a client that goes one way.
    pub fn poll_accept_unidirectional(&self, cx: &Context<'_>) -> Poll<Result<RecvStream, Lost>> {
        self.poll_accept_id(Dir::Uni, cx).map_ok(|id| RecvStream::new(&self.link, id))
    }

    fn poll_accept_id(&self, dir: Dir, cx: &Context<'_>) -> Poll<Result<StreamId, Lost>> {
        self.link.with(|state| {
            alive(state)?;
            match state.machine.streams().accept(dir) {
                Some(id) => Poll::Ready(Ok(id)),
                None => {
                    state.waits.accept(dir, cx);
                    Poll::Pending
                }
            }
        })
    }

    /// A new stream that goes one way; `Pending` until the client allows it.
    pub fn poll_open(&self, cx: &Context<'_>) -> Poll<Result<SendStream, Lost>> {
        self.link.with(|state| {
            alive(state)?;
            match state.machine.streams().open(Dir::Uni) {
                Some(id) => Poll::Ready(Ok(SendStream::new(&self.link, id))),
                None => {
                    state.waits.open(cx);
                    Poll::Pending
                }
            }
        })
    }

    /// Whether anything came on a stream of the client that goes one way, or a new one did, since it was last asked.
    #[must_use]
    pub fn take_unidirectional_news(&self) -> bool {
        self.link.with(|state| std::mem::take(&mut state.unidirectional_news))
    }

    /// Waits until the client has acknowledged all that was finished, for as long as it lets hear of itself: one that has
    /// been silent for `patience` is waited for no longer.
    pub async fn settled(&self, patience: Duration) {
        let heard = || self.link.with(|state| state.machine.stats().udp_rx.datagrams);
        let mut silence = Duration::ZERO;
        while silence < patience {
            let before = heard();
            let settled = std::future::poll_fn(|cx| {
                self.link.with(|state| {
                    if state.unfinished == 0 || state.lost.is_some() {
                        return Poll::Ready(());
                    }
                    state.waits.settled(cx);
                    Poll::Pending
                })
            });
            if berth_runtime::timeout(LISTEN, settled).await.is_ok() {
                return;
            }
            silence = if heard() == before { silence + LISTEN } else { Duration::ZERO };
        }
    }

    /// Ends the connection with an error of the application.
    pub fn close(&self, error: u64) {
        self.link.close(code(error), b"");
    }
}

fn alive(state: &State) -> Result<(), Lost> {
    if state.lost.is_some() { Err(Lost) } else { Ok(()) }
}

/// An error code that came from our own HTTP/3 layer.
fn code(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

/// The sending side of a stream.
pub struct SendStream {
    link: Rc<Link>,
    id: StreamId,
    /// Finished or reset.
    over: bool,
}

impl SendStream {
    fn new(link: &Rc<Link>, id: StreamId) -> Self {
        Self { link: Rc::clone(link), id, over: false }
    }

    /// The number of the stream.
    pub fn number(&self) -> u64 {
        VarInt::from(self.id).into()
    }

    /// Writes all of it; what was written is taken out of `data`.
    pub fn poll_write(&self, cx: &Context<'_>, data: &mut [Bytes]) -> Poll<Result<(), StreamEnd>> {
        let id = self.id;
        let outcome = self.link.with(|state| {
            alive(state)?;
            let mut stream = state.machine.send_stream(id);
            while data.iter().any(|piece| !piece.is_empty()) {
                match stream.write_chunks(data) {
                    Ok(_) => {}
                    Err(WriteError::Blocked) => {
                        state.waits.stream(id, Wish::Write, cx);
                        return Poll::Pending;
                    }
                    Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                        return Poll::Ready(Err(StreamEnd::Client));
                    }
                }
            }
            Poll::Ready(Ok(()))
        });
        self.link.wake();
        outcome
    }

    /// Ready when the client wants no more of it, or the connection is over.
    pub fn poll_stopped(&self, cx: &Context<'_>) -> Poll<()> {
        let id = self.id;
        self.link.with(|state| {
            let stopped = state.machine.send_stream(id).stopped();
            if state.lost.is_some() || !matches!(stopped, Ok(None)) {
                return Poll::Ready(());
            }
            state.waits.stream(id, Wish::Stopped, cx);
            Poll::Pending
        })
    }

    /// Nothing more follows.
    pub fn finish(&mut self) {
        let id = self.id;
        self.over = true;
        self.link.with(|state| {
            // It fails for a stream that the client stopped.
            let finished = state.machine.send_stream(id).finish();
            state.unfinished += usize::from(finished.is_ok());
        });
        self.link.wake();
    }

    /// Ends it with an error.
    pub fn reset(&mut self, error: u64) {
        let id = self.id;
        self.over = true;
        self.link.with(|state| {
            // It fails for a stream that is over already.
            let _ = state.machine.send_stream(id).reset(code(error));
        });
        self.link.wake();
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        let id = self.id;
        self.link.with(|state| state.waits.forget(id, &[Wish::Write, Wish::Stopped]));
        if !self.over {
            self.reset(INTERNAL_ERROR);
        }
    }
}

/// The receiving side of a stream.
pub struct RecvStream {
    link: Rc<Link>,
    id: StreamId,
    /// What was read together with the end, or with what was handed out last.
    ahead: Option<Bytes>,
    /// Nothing more comes from the state machine: the end was read, or the stream reset or stopped.
    over: bool,
}

impl RecvStream {
    fn new(link: &Rc<Link>, id: StreamId) -> Self {
        Self { link: Rc::clone(link), id, ahead: None, over: false }
    }

    /// The connection that it belongs to.
    pub fn connection(&self) -> Connection {
        Connection::new(Rc::clone(&self.link))
    }

    /// The next bytes, or `None` at the end.
    pub fn poll_read(&mut self, cx: &Context<'_>) -> Poll<Result<Option<Bytes>, StreamEnd>> {
        if let Some(bytes) = self.ahead.take() {
            return Poll::Ready(Ok(Some(bytes)));
        }
        if self.over {
            return Poll::Ready(Ok(None));
        }
        let id = self.id;
        let (first, second, more_credit) = self.link.with(|state| {
            if alive(state).is_err() {
                return (Found::Lost, None, false);
            }
            let mut stream = state.machine.recv_stream(id);
            let mut chunks = match stream.read(true) {
                Ok(chunks) => chunks,
                Err(ReadableError::ClosedStream | ReadableError::IllegalOrderedRead) => {
                    return (Found::End, None, false);
                }
            };
            let first = Found::of(chunks.next(READ_MAX));
            // Most requests end with their first bytes, and it is good to know at once.
            let second = matches!(first, Found::Bytes(_)).then(|| Found::of(chunks.next(READ_MAX)));
            let more_credit = chunks.finalize().should_transmit();
            if matches!(first, Found::Nothing) {
                state.waits.stream(id, Wish::Read, cx);
            }
            (first, second, more_credit)
        });
        if more_credit {
            self.link.wake();
        }
        match second {
            Some(Found::Bytes(bytes)) => self.ahead = Some(bytes),
            Some(Found::End) => self.over = true,
            // What it is will be found again.
            Some(Found::Nothing | Found::Reset | Found::Lost) | None => {}
        }
        Poll::Ready(match first {
            Found::Bytes(bytes) => Ok(Some(bytes)),
            Found::Nothing => return Poll::Pending,
            Found::End => {
                self.over = true;
                Ok(None)
            }
            Found::Reset => {
                self.over = true;
                self.link.count_reset();
                Err(StreamEnd::Client)
            }
            Found::Lost => Err(StreamEnd::Lost),
        })
    }

    /// Whether it is known that no bytes follow.
    pub fn is_ended(&self) -> bool {
        self.over && self.ahead.is_none()
    }

    /// Tells the client to send no more.
    pub fn stop(&mut self, error: u64) {
        let id = self.id;
        self.ahead = None;
        self.over = true;
        self.link.with(|state| {
            // It fails for a stream that is over already.
            let _ = state.machine.recv_stream(id).stop(code(error));
        });
        self.link.wake();
    }
}

/// What a read found.
enum Found {
    Bytes(Bytes),
    Nothing,
    End,
    Reset,
    Lost,
}

impl Found {
    fn of(next: Result<Option<quinn_proto::Chunk>, ReadError>) -> Self {
        match next {
            Ok(Some(chunk)) => Self::Bytes(chunk.bytes),
            Ok(None) => Self::End,
            Err(ReadError::Blocked) => Self::Nothing,
            Err(ReadError::Reset(_)) => Self::Reset,
        }
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        let id = self.id;
        self.link.with(|state| state.waits.forget(id, &[Wish::Read]));
        if !self.over {
            self.stop(NO_ERROR);
        }
    }
}
