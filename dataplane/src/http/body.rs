//! Bodies that stream: of requests, pulled by the handler, and of replies, pulled by the connection.
//!
//! Both sides pull, so back-pressure is the absence of a pull: a handler that does not read stops
//! the connection from reading, and a client that does not read stops the connection from polling
//! the reply. Only who has a bound for it collects one whole ([`collect`]).

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use berth_runtime::Deadline;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;

/// Why a body ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is larger than `limits.body_bytes`.
    #[error("the body is larger than limits.body_bytes")]
    TooLarge,
    /// No byte of it came for `limits.body_timeout`.
    #[error("no byte of the body came for limits.body_timeout")]
    TimedOut,
    /// Its framing is broken.
    #[error("the framing of the body is broken")]
    Malformed,
    /// The other side went away.
    #[error("the other side of the body went away")]
    Gone,
}

/// The body of a request.
pub enum RequestBody {
    /// There is none.
    Empty,
    /// Fed by an HTTP/1.1 connection.
    Piped(PipeReader),
    /// Of a stream of HTTP/2 or 3.
    Stream(Box<StreamBody>),
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Piped(reader) => reader.poll_frame(cx),
            RequestBody::Stream(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Piped(_) => false,
            RequestBody::Stream(body) => body.stream.is_end(),
        }
    }
}

/// A body in the making, shared by a connection that decodes it and a handler that reads it.
#[derive(Default)]
struct Pipe {
    /// What was decoded and not read yet: one frame at most, so that nothing piles up.
    frame: Option<Frame<Bytes>>,
    end: Option<Result<(), BodyError>>,
    /// The handler asked for a frame and there was none.
    wanted: bool,
    reader: Option<Waker>,
    /// The connection, when it waits for the handler to want more.
    feeder: Option<Waker>,
    reader_gone: bool,
}

/// The connection's end of a request body.
pub struct PipeFeeder(Rc<RefCell<Pipe>>);

/// The handler's end of a request body.
pub struct PipeReader(Rc<RefCell<Pipe>>);

/// What the handler does with the body that it is being fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// It waits for a frame.
    Wanted,
    /// It has not asked yet.
    NotYet,
    /// It dropped the body.
    Gone,
}

/// Makes the two ends of a request body.
pub fn pipe() -> (PipeFeeder, PipeReader) {
    let shared = Rc::<RefCell<Pipe>>::default();
    (PipeFeeder(Rc::clone(&shared)), PipeReader(shared))
}

impl PipeFeeder {
    /// What the handler wants; unless it waits, `cx` is woken when that changes.
    pub fn poll_demand(&self, cx: &mut Context<'_>) -> Demand {
        let mut pipe = self.0.borrow_mut();
        if pipe.reader_gone {
            return Demand::Gone;
        }
        if pipe.wanted && pipe.frame.is_none() {
            return Demand::Wanted;
        }
        keep(&mut pipe.feeder, cx);
        Demand::NotYet
    }

    /// Whether the handler, or the reply that it made, may still read the body.
    pub fn has_reader(&self) -> bool {
        !self.0.borrow().reader_gone
    }

    /// Hands over a frame that was wanted.
    pub fn feed(&self, frame: Frame<Bytes>) {
        let mut pipe = self.0.borrow_mut();
        pipe.wanted = false;
        pipe.frame = Some(frame);
        let reader = pipe.reader.take();
        drop(pipe);
        reader.into_iter().for_each(Waker::wake);
    }

    /// Says how the body ended.
    pub fn end(&self, end: Result<(), BodyError>) {
        let mut pipe = self.0.borrow_mut();
        pipe.end.get_or_insert(end);
        let reader = pipe.reader.take();
        drop(pipe);
        reader.into_iter().for_each(Waker::wake);
    }
}

impl Drop for PipeFeeder {
    fn drop(&mut self) {
        self.end(Err(BodyError::Gone));
    }
}

impl PipeReader {
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut pipe = self.0.borrow_mut();
        if let Some(frame) = pipe.frame.take() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match pipe.end {
            Some(Ok(())) => return Poll::Ready(None),
            Some(Err(error)) => {
                pipe.end = Some(Ok(()));
                return Poll::Ready(Some(Err(error)));
            }
            None => {}
        }
        pipe.wanted = true;
        keep(&mut pipe.reader, cx);
        let feeder = pipe.feeder.take();
        drop(pipe);
        feeder.into_iter().for_each(Waker::wake);
        Poll::Pending
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        let mut pipe = self.0.borrow_mut();
        pipe.reader_gone = true;
        pipe.frame = None;
        let wakers = (pipe.feeder.take(), pipe.reader.take());
        drop(pipe);
        wakers.0.into_iter().for_each(Waker::wake);
    }
}

fn keep(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        none => *none = Some(cx.waker().clone()),
    }
}

/// The receiving side of a stream of HTTP/2 or 3.
pub trait Source {
    /// The next bytes. The peer may send as many again once they are taken.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>>;
    /// What follows the data.
    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, BodyError>>;
    /// Whether it is known that nothing follows.
    fn is_end(&self) -> bool;
}

/// The body of a stream: bounded in size and in silence.
pub struct StreamBody {
    stream: Box<dyn Source>,
    /// How many more bytes may come.
    allowance: u64,
    timeout: Duration,
    /// Made when the handler first has to wait.
    deadline: Option<Deadline>,
    phase: Phase,
    on_error: Box<dyn Fn(BodyError)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Data,
    Trailers,
    Done,
}

impl StreamBody {
    /// A body of at most `limit_bytes` whose pieces follow each other within `timeout`. `on_error`
    /// is told what ended it early, for the counters.
    pub fn new(
        stream: impl Source + 'static,
        limit_bytes: u64,
        timeout: Duration,
        on_error: impl Fn(BodyError) + 'static,
    ) -> Self {
        let (stream, on_error) = (Box::new(stream), Box::new(on_error));
        Self { stream, allowance: limit_bytes, timeout, deadline: None, phase: Phase::Data, on_error }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let outcome = match self.poll_inner(cx) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => {
                let timeout = self.timeout;
                let deadline = self.deadline.get_or_insert_with(|| {
                    let deadline = Deadline::new();
                    deadline.set(timeout);
                    deadline
                });
                ready!(deadline.poll_expired(cx));
                Some(Err(BodyError::TimedOut))
            }
        };
        self.deadline = None;
        if let Some(Err(error)) = outcome {
            self.phase = Phase::Done;
            (self.on_error)(error);
        }
        Poll::Ready(outcome)
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.phase == Phase::Data {
            match ready!(self.stream.poll_data(cx)) {
                Some(bytes) => return Poll::Ready(Some(bytes.and_then(|bytes| self.take(bytes)))),
                None => self.phase = Phase::Trailers,
            }
        }
        if self.phase == Phase::Trailers {
            let trailers = ready!(self.stream.poll_trailers(cx));
            self.phase = Phase::Done;
            return Poll::Ready(match trailers {
                Ok(None) => None,
                Ok(Some(trailers)) => Some(Ok(Frame::trailers(trailers))),
                Err(error) => Some(Err(error)),
            });
        }
        Poll::Ready(None)
    }

    fn take(&mut self, bytes: Bytes) -> Result<Frame<Bytes>, BodyError> {
        self.allowance = self.allowance.checked_sub(bytes.len() as u64).ok_or(BodyError::TooLarge)?;
        Ok(Frame::data(bytes))
    }
}

/// Why a body is not whole.
pub enum Collect<E> {
    /// It has more bytes than are taken.
    TooLarge,
    /// It did not come.
    Failed(E),
}

/// The whole of a body, of at most so many bytes.
pub async fn collect<B: http_body::Body<Data = Bytes>>(
    body: B,
    most: usize,
) -> Result<Bytes, Collect<B::Error>> {
    let mut body = pin!(body);
    let mut whole = BytesMut::new();
    let mut first = Bytes::new();
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let Ok(data) = frame.map_err(Collect::Failed)?.into_data() else { continue };
        if whole.len() + first.len() + data.len() > most {
            return Err(Collect::TooLarge);
        }
        // Most bodies are one piece, which is not copied.
        if whole.is_empty() && first.is_empty() {
            first = data;
        } else {
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&data);
        }
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

/// The body of a reply.
pub enum Body {
    /// Known bytes, perhaps none.
    Full(Bytes),
    /// Anything that streams.
    Stream(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyError>>>),
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Body::Full(Bytes::new())
    }

    /// Known bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Body::Full(bytes.into())
    }

    /// A body that streams.
    pub fn stream(body: impl http_body::Body<Data = Bytes, Error = BodyError> + 'static) -> Self {
        Body::Stream(Box::pin(body))
    }

    /// The exact size, when it is known.
    pub fn exact_size(&self) -> Option<u64> {
        match self {
            Body::Full(bytes) => Some(bytes.len() as u64),
            Body::Stream(body) => body.size_hint().exact(),
        }
    }

    /// The next piece.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Body::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Body::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Body::Stream(body) => body.as_mut().poll_frame(cx),
        }
    }
}

/// A body whose pieces somebody else hands over, one by one.
pub(crate) struct Handed(pub(crate) mpsc::Receiver<Result<Bytes, BodyError>>);

impl http_body::Body for Handed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// A body of a stated number of equal bytes, made piece by piece.
pub struct Repeated {
    left: u64,
}

/// The piece that [`Repeated`] hands out again and again.
static PIECE: [u8; 65536] = [b'b'; 65536];

impl Repeated {
    /// `bytes` bytes.
    pub fn new(bytes: u64) -> Self {
        Self { left: bytes }
    }
}

impl http_body::Body for Repeated {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let count = self.left.min(PIECE.len() as u64);
        if count == 0 {
            return Poll::Ready(None);
        }
        self.left -= count;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&PIECE[..count as usize])))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The trailers or the data of a frame.
pub enum Piece {
    /// Bytes.
    Data(Bytes),
    /// The end, with fields.
    Trailers(HeaderMap),
}

impl Piece {
    /// Opens a frame; `None` for kinds that are not known.
    pub fn open(frame: Frame<Bytes>) -> Option<Self> {
        match frame.into_data() {
            Ok(data) => Some(Piece::Data(data)),
            Err(frame) => frame.into_trailers().ok().map(Piece::Trailers),
        }
    }
}
