//! Both bodies of an exchange: the one that goes out with a request, the one that comes back.

use std::cell::{Cell, RefCell};
use std::error::Error as StdError;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use berth_runtime::Deadline;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::ClientNumbers;
use super::error::SendError;
use super::fields::prepare_trailers;
use super::pool::Connection;

type BoxError = Box<dyn StdError + Send + Sync>;
type AnyBody = Pin<Box<dyn Body<Data = Bytes, Error = BoxError>>>;

/// The body of a request, whatever its type, with its error as hyper takes it.
struct Erased<B>(Pin<Box<B>>);

impl<B> Body for Erased<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.get_mut().0.as_mut().poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// How far the body of a request has come.
enum Stage {
    /// There is none.
    Empty,
    /// Nobody has asked for any of it: it could be sent over another connection.
    Untouched(AnyBody),
    Flowing(AnyBody),
    /// All of it was handed over.
    Done,
    /// It failed at its other end.
    Failed(Rc<str>),
}

/// The body of a request on its way, kept by who sends; hyper gets a [`Carried`] of it.
pub(super) struct Upload {
    stage: RefCell<Stage>,
    /// What is left of the length that was announced.
    left: Cell<Option<u64>>,
    /// When the head of the reply is due.
    due: Deadline,
    /// How far each piece that goes moves it, until the head has come.
    patience: Cell<Option<Duration>>,
}

/// What hyper sends.
pub(super) struct Carried(Rc<Upload>);

impl Upload {
    pub(super) fn new<B>(body: B) -> Rc<Self>
    where
        B: Body<Data = Bytes> + 'static,
        B::Error: Into<BoxError>,
    {
        let (left, stage) = if body.is_end_stream() {
            (Some(0), Stage::Empty)
        } else {
            (body.size_hint().exact(), Stage::Untouched(Box::pin(Erased(Box::pin(body)))))
        };
        Rc::new(Self {
            stage: RefCell::new(stage),
            left: Cell::new(left),
            due: Deadline::new(),
            patience: Cell::new(None),
        })
    }

    pub(super) fn carry(self: &Rc<Self>) -> Carried {
        Carried(Rc::clone(self))
    }

    /// Whether it can be sent from its beginning.
    pub(super) fn is_whole(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Empty | Stage::Untouched(_))
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Empty | Stage::Done)
    }

    /// Why it failed at its other end, if it did.
    pub(super) fn failure(&self) -> Option<SendError> {
        match &*self.stage.borrow() {
            Stage::Failed(why) => Some(SendError::HttpRequestBody(why.to_string())),
            _ => None,
        }
    }

    /// The head of the reply is due within `patience`, counted anew from each piece of the body that goes.
    pub(super) fn expect_reply(&self, patience: Duration) {
        self.patience.set(Some(patience));
        self.due.set(patience);
    }

    pub(super) fn poll_overdue(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.due.poll_expired(cx)
    }

    /// The head of the reply has come.
    pub(super) fn replied(&self) {
        self.patience.set(None);
        self.due.clear();
    }

    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        // Taken out while it is polled: whatever it does there, it does not find itself borrowed.
        let mut body = match self.stage.replace(Stage::Done) {
            Stage::Untouched(body) | Stage::Flowing(body) => body,
            over => {
                self.stage.replace(over);
                return Poll::Ready(None);
            }
        };
        let polled = body.as_mut().poll_frame(cx);
        let next = match &polled {
            Poll::Pending => Stage::Flowing(body),
            Poll::Ready(Some(Ok(_))) if !body.is_end_stream() => Stage::Flowing(body),
            Poll::Ready(Some(Err(error))) => Stage::Failed(error.to_string().into()),
            Poll::Ready(_) => Stage::Done,
        };
        self.stage.replace(next);
        polled.map(|frame| frame.transpose().and_then(|frame| self.pass(frame)).transpose())
    }

    /// Holds a piece, or the end, against the length that was announced.
    fn pass(&self, frame: Option<Frame<Bytes>>) -> Result<Option<Frame<Bytes>>, BoxError> {
        if let Some(patience) = self.patience.get() {
            self.due.set(patience);
        }
        let Some(mut frame) = frame else {
            return match self.left.get() {
                Some(1..) => Err(self.fail("it is shorter than its announced length")),
                _ => Ok(None),
            };
        };
        if let (Some(data), Some(left)) = (frame.data_ref(), self.left.get()) {
            let Some(left) = left.checked_sub(data.len() as u64) else {
                return Err(self.fail("it is longer than its announced length"));
            };
            self.left.set(Some(left));
            if left == 0 {
                self.stage.replace(Stage::Done); // hyper asks no further.
            } else if self.is_done() {
                return Err(self.fail("it is shorter than its announced length"));
            }
        }
        if let Some(trailers) = frame.trailers_mut() {
            prepare_trailers(trailers);
        }
        Ok(Some(frame))
    }

    fn fail(&self, why: &str) -> BoxError {
        self.stage.replace(Stage::Failed(why.into()));
        why.into()
    }
}

impl Body for Carried {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_done()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.left.get().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The body of a reply. Read to its end, it gives its connection back to the pool; dropped before, it closes it. A body
/// that is cut off ends with an error.
pub struct ReplyBody {
    incoming: Incoming,
    /// Until it is given back, or closed.
    connection: Option<Connection>,
    upload: Rc<Upload>,
    between_bytes: Duration,
    /// Made when the reader first has to wait.
    due: Option<Deadline>,
    state: State,
    numbers: Arc<ClientNumbers>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Flowing,
    Ended,
    Cut,
}

impl ReplyBody {
    pub(super) fn new(
        incoming: Incoming,
        connection: Connection,
        upload: Rc<Upload>,
        between_bytes: Duration,
        numbers: Arc<ClientNumbers>,
    ) -> Self {
        let (connection, state) = (Some(connection), State::Flowing);
        let mut body = Self { incoming, connection, upload, between_bytes, due: None, state, numbers };
        body.settle_at_end();
        body
    }

    /// Gives the connection back once both bodies are through. A request whose body still goes keeps it, until this is
    /// dropped.
    fn settle_at_end(&mut self) {
        if self.state == State::Flowing && self.incoming.is_end_stream() {
            self.state = State::Ended;
        }
        if self.state == State::Ended && self.upload.is_done() {
            self.connection.take().into_iter().for_each(Connection::give_back);
        }
    }

    fn cut(&mut self, error: SendError) -> SendError {
        self.state = State::Cut;
        self.connection = None;
        self.numbers.outgoing_bodies_cut.add(1);
        error
    }

    /// What took the time, when there is nothing to read.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let time = self.between_bytes;
        let due = self.due.get_or_insert_with(|| {
            let due = Deadline::new();
            due.set(time);
            due
        });
        due.poll_expired(cx)
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = SendError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, SendError>>> {
        let body = self.get_mut();
        if body.state == State::Cut {
            return Poll::Ready(None);
        }
        let frame = match Pin::new(&mut body.incoming).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                std::task::ready!(body.poll_overdue(cx));
                return Poll::Ready(Some(Err(body.cut(SendError::ConnectionReadTimeout))));
            }
        };
        body.due = None;
        Poll::Ready(match frame {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    prepare_trailers(trailers);
                }
                body.settle_at_end();
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                let error = body.upload.failure().unwrap_or_else(|| SendError::from_body(&error));
                Some(Err(body.cut(error)))
            }
            None => {
                body.state = State::Ended;
                body.settle_at_end();
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.state != State::Flowing || self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.state {
            State::Flowing => self.incoming.size_hint(),
            State::Ended | State::Cut => SizeHint::with_exact(0),
        }
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        self.settle_at_end();
    }
}
