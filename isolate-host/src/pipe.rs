//! Pipes: bodies between a guest and whoever feeds or reads them.
//!
//! A pipe has a writer and a reader, and a truth about its end: it is finished, with trailers or without, or it was aborted.
//! A writer that is dropped without a word has aborted, so nothing that was cut off ever looks whole. The guest is on one
//! side, in a store that must be able to change threads; so the state is behind a mutex, which nobody else ever holds.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use crate::ErrorCode;

/// Bytes that may wait in a pipe. A writer is asked to stop there; what it writes at once may go beyond by one piece.
pub(crate) const ROOM: usize = 64 * 1024;

#[derive(Debug)]
enum End {
    Open,
    Finished(Option<HeaderMap>),
    Aborted(ErrorCode),
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Bytes>,
    bytes: usize,
    end: End,
    /// The reader asked for a piece and there was none.
    wanted: bool,
    reader_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Debug)]
struct Shared(Mutex<State>);

impl Shared {
    /// A panic under this lock would be a mistake of ours that leaves a state which is still whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The end of a pipe that bytes go into.
#[derive(Debug)]
pub struct Writer(Arc<Shared>);

/// The end of a pipe that bytes come out of.
#[derive(Debug)]
pub struct Reader(Arc<Shared>);

/// The reader of a pipe has gone: nobody wants the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// A body was aborted.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the body ended early: {0:?}")]
pub struct Aborted(pub ErrorCode);

/// What a reader finds.
#[derive(Debug)]
pub(crate) enum Found {
    Data(Bytes),
    Nothing,
    /// The data is over; why, is told as often as somebody asks.
    End(Result<(), ErrorCode>),
}

/// A new pipe.
pub fn pipe() -> (Writer, Reader) {
    let state = State {
        waiting: VecDeque::new(),
        bytes: 0,
        end: End::Open,
        wanted: false,
        reader_gone: false,
        reader: None,
        writer: None,
    };
    let shared = Arc::new(Shared(Mutex::new(state)));
    (Writer(Arc::clone(&shared)), Reader(shared))
}

fn keep(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        none => *none = Some(cx.waker().clone()),
    }
}

impl Writer {
    /// How much may be written now; 0 means to wait with [`Writer::poll_room`].
    pub fn room(&self) -> Result<usize, Gone> {
        let state = self.0.lock();
        if state.reader_gone { Err(Gone) } else { Ok(ROOM.saturating_sub(state.bytes)) }
    }

    /// Waits until there is room, or nobody reads any more.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.reader_gone || state.bytes < ROOM {
            return Poll::Ready(());
        }
        keep(&mut state.writer, cx);
        Poll::Pending
    }

    /// Waits until the reader has asked for bytes and there are none, for writers that read elsewhere what they write.
    pub fn poll_wanted(&self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        let mut state = self.0.lock();
        if state.reader_gone {
            return Poll::Ready(Err(Gone));
        }
        if state.wanted && state.waiting.is_empty() {
            return Poll::Ready(Ok(()));
        }
        keep(&mut state.writer, cx);
        Poll::Pending
    }

    /// Whether somebody may still read.
    pub fn has_reader(&self) -> bool {
        !self.0.lock().reader_gone
    }

    /// Puts bytes into the pipe. What nobody will read is dropped.
    pub fn push(&self, bytes: Bytes) {
        let mut state = self.0.lock();
        if bytes.is_empty() || state.reader_gone || !matches!(state.end, End::Open) {
            return;
        }
        state.wanted = false;
        state.bytes += bytes.len();
        state.waiting.push_back(bytes);
        wake(state, |state| state.reader.take());
    }

    /// Ends the body as it should end.
    pub fn finish(self, trailers: Option<HeaderMap>) {
        self.end(End::Finished(trailers));
    }

    /// Ends the body early, for this reason.
    pub fn abort(self, reason: ErrorCode) {
        self.end(End::Aborted(reason));
    }

    fn end(&self, end: End) {
        let mut state = self.0.lock();
        if matches!(state.end, End::Open) {
            state.end = end;
        }
        wake(state, |state| state.reader.take());
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end(End::Aborted(ErrorCode::ConnectionTerminated));
    }
}

/// Wakes outside of the lock: a waker may run anything.
fn wake(mut state: MutexGuard<'_, State>, take: impl FnOnce(&mut State) -> Option<Waker>) {
    let waker = take(&mut state);
    drop(state);
    waker.into_iter().for_each(Waker::wake);
}

impl Reader {
    /// At most `count` bytes of what is there.
    pub(crate) fn read(&self, count: usize) -> Found {
        let mut state = self.0.lock();
        let Some(mut bytes) = state.waiting.pop_front() else {
            return match &state.end {
                End::Aborted(reason) => Found::End(Err(reason.clone())),
                End::Finished(_) => Found::End(Ok(())),
                End::Open => {
                    state.wanted = true;
                    wake(state, |state| state.writer.take());
                    Found::Nothing
                }
            };
        };
        if bytes.len() > count {
            let rest = bytes.split_off(count);
            state.waiting.push_front(rest);
        }
        state.bytes -= bytes.len();
        wake(state, |state| state.writer.take());
        Found::Data(bytes)
    }

    /// Waits until [`Reader::read`] finds something.
    pub(crate) fn poll_found(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if !state.waiting.is_empty() || !matches!(state.end, End::Open) {
            return Poll::Ready(());
        }
        state.wanted = true;
        keep(&mut state.reader, cx);
        wake(state, |state| state.writer.take());
        Poll::Pending
    }

    /// Waits for the end, drops what comes before it, and takes the trailers.
    pub(crate) fn poll_trailers(&self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, ErrorCode>> {
        loop {
            match self.read(usize::MAX) {
                Found::Data(_) => {}
                Found::Nothing => match self.poll_found(cx) {
                    Poll::Ready(()) => {}
                    Poll::Pending => return Poll::Pending,
                },
                Found::End(Err(reason)) => return Poll::Ready(Err(reason)),
                Found::End(Ok(())) => return Poll::Ready(Ok(self.take_trailers())),
            }
        }
    }

    fn take_trailers(&self) -> Option<HeaderMap> {
        match &mut self.0.lock().end {
            End::Finished(trailers) => trailers.take(),
            End::Open | End::Aborted(_) => None,
        }
    }

    /// The exact number of bytes that will come, once the writer has finished.
    pub fn exact_size(&self) -> Option<u64> {
        let state = self.0.lock();
        matches!(state.end, End::Finished(None)).then_some(state.bytes as u64)
    }

    /// The whole of a body that is finished, if it has no trailers.
    pub(crate) fn take_whole(&self) -> Option<Bytes> {
        let mut state = self.0.lock();
        if !matches!(state.end, End::Finished(None)) || state.waiting.len() > 1 {
            return None;
        }
        state.bytes = 0;
        Some(state.waiting.pop_front().unwrap_or_default())
    }

    /// Forgets who waits: whoever polls next looks for itself.
    pub(crate) fn forget_waker(&self) {
        self.0.lock().reader = None;
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.reader_gone = true;
        state.waiting.clear();
        state.bytes = 0;
        wake(state, |state| state.writer.take());
    }
}

impl http_body::Body for Reader {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        loop {
            match self.read(usize::MAX) {
                Found::Data(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Found::End(Ok(())) => {
                    return Poll::Ready(self.take_trailers().map(|fields| Ok(Frame::trailers(fields))));
                }
                Found::End(Err(reason)) => return Poll::Ready(Some(Err(Aborted(reason)))),
                Found::Nothing => {
                    if self.poll_found(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.exact_size().map_or_else(http_body::SizeHint::default, http_body::SizeHint::with_exact)
    }

    fn is_end_stream(&self) -> bool {
        self.exact_size() == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn bytes_come_in_order_and_in_the_pieces_that_are_asked_for() {
        let (writer, reader) = pipe();
        assert!(matches!(reader.read(10), Found::Nothing));
        assert!(writer.poll_wanted(&mut cx()).is_ready(), "the reader asked");
        writer.push(Bytes::from_static(b"hello"));
        assert!(writer.poll_wanted(&mut cx()).is_pending(), "it has something to read");
        assert!(matches!(reader.read(2), Found::Data(bytes) if bytes == "he"));
        assert!(matches!(reader.read(9), Found::Data(bytes) if bytes == "llo"));
        writer.finish(Some(HeaderMap::new()));
        assert!(matches!(reader.read(1), Found::End(Ok(()))));
        assert!(matches!(reader.poll_trailers(&mut cx()), Poll::Ready(Ok(Some(_)))));
        assert!(matches!(reader.poll_trailers(&mut cx()), Poll::Ready(Ok(None))), "trailers are taken once");
    }

    #[test]
    fn a_writer_that_says_nothing_has_aborted() {
        let (writer, reader) = pipe();
        writer.push(Bytes::from_static(b"part"));
        drop(writer);
        assert!(matches!(reader.read(9), Found::Data(_)), "what was written comes first");
        for _ in 0..2 {
            assert!(matches!(reader.read(9), Found::End(Err(ErrorCode::ConnectionTerminated))));
        }
    }

    #[test]
    fn a_full_pipe_makes_its_writer_wait_until_it_is_read_or_given_up() {
        let (writer, reader) = pipe();
        writer.push(Bytes::from(vec![0; ROOM]));
        assert_eq!(writer.room(), Ok(0));
        assert!(writer.poll_room(&mut cx()).is_pending());
        assert!(matches!(reader.read(1), Found::Data(_)));
        assert_eq!(writer.room(), Ok(1));
        drop(reader);
        assert!(writer.poll_room(&mut cx()).is_ready());
        assert_eq!(writer.room(), Err(Gone));
    }
}
