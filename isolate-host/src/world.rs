//! The world of one call: what a guest reaches outside of its sandbox, given by whoever runs it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{HeaderMap, Method};

use crate::ErrorCode;
use crate::pipe::Reader;

/// A future that may change threads, as everything in a store must.
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Which of its two streams a guest wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// What a call of a guest reaches: time, configuration, the log, and others by requests. Every request that leaves goes
/// through here; what is allowed is decided behind it.
pub trait World: Send + Sync + 'static {
    /// A future that is ready after `time`.
    fn sleep(&self, time: Duration) -> Later<()>;

    /// Sends a request on its way, and keeps the promise when the reply's head comes.
    fn send(&self, request: Outbound, promise: Promise);

    /// A line that the guest logged, without its end.
    fn log(&self, stream: Stream, line: &[u8]);

    /// The guest wrote more than it may; the rest is not logged.
    fn log_is_cut(&self);

    /// The script's configuration: what the guest may read as environment and as `wasi:config`.
    fn variables(&self) -> &[(String, String)];

    /// A secret, which only `wasi:config` gives, and only to who knows its name.
    fn secret(&self, name: &str) -> Option<String>;
}

/// A request that a guest sends.
#[derive(Debug)]
pub struct Outbound {
    /// The method.
    pub method: Method,
    /// Whether it goes over TLS.
    pub https: bool,
    /// Host and port, as the guest wrote them.
    pub authority: String,
    /// The path, with the query; it begins with a slash.
    pub path: String,
    /// Fields, without any that belong to a connection.
    pub headers: HeaderMap,
    /// The body.
    pub body: Option<Reader>,
    /// What the guest said of its length.
    pub content_length: Option<u64>,
    /// Until there is a connection.
    pub connect_timeout: Option<Duration>,
    /// From then to the head of the reply.
    pub first_byte_timeout: Option<Duration>,
    /// Between two pieces of the reply's body.
    pub between_bytes_timeout: Option<Duration>,
}

/// The reply to a request that a guest sent.
#[derive(Debug)]
pub struct Inbound {
    /// The status.
    pub status: u16,
    /// The fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Reader,
}

#[derive(Debug)]
enum State {
    Open,
    Kept(Result<Inbound, ErrorCode>),
    Taken,
    GivenUp,
}

#[derive(Debug)]
struct Shared {
    state: State,
    waits: Option<Waker>,
    works: Option<Waker>,
}

/// The promise of a reply. Dropped, it is broken: the guest sees an internal error.
#[derive(Debug)]
pub struct Promise(Arc<Mutex<Shared>>);

/// What the guest waits on.
#[derive(Debug)]
pub(crate) struct Promised(Arc<Mutex<Shared>>);

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

pub(crate) fn promise() -> (Promise, Promised) {
    let shared = Arc::new(Mutex::new(Shared { state: State::Open, waits: None, works: None }));
    (Promise(Arc::clone(&shared)), Promised(shared))
}

impl Promise {
    /// Keeps it.
    pub fn keep(self, reply: Result<Inbound, ErrorCode>) {
        self.settle(reply);
    }

    fn settle(&self, reply: Result<Inbound, ErrorCode>) {
        let mut shared = lock(&self.0);
        if matches!(shared.state, State::Open) {
            shared.state = State::Kept(reply);
        }
        let waker = shared.waits.take();
        drop(shared);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Waits until nobody wants the reply any more.
    pub fn poll_given_up(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut shared = lock(&self.0);
        if matches!(shared.state, State::GivenUp) {
            return Poll::Ready(());
        }
        shared.works = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.settle(Err(ErrorCode::InternalError(None)));
    }
}

impl Promised {
    pub(crate) fn poll_kept(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut shared = lock(&self.0);
        if !matches!(shared.state, State::Open) {
            return Poll::Ready(());
        }
        shared.waits = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The reply, once; `None` while there is none, `Some(None)` when it was taken.
    pub(crate) fn take(&self) -> Option<Option<Result<Inbound, ErrorCode>>> {
        let mut shared = lock(&self.0);
        match std::mem::replace(&mut shared.state, State::Taken) {
            State::Kept(reply) => Some(Some(reply)),
            State::Open => {
                shared.state = State::Open;
                None
            }
            State::Taken | State::GivenUp => Some(None),
        }
    }
}

impl Drop for Promised {
    fn drop(&mut self) {
        let mut shared = lock(&self.0);
        shared.state = State::GivenUp;
        let waker = shared.works.take();
        drop(shared);
        waker.into_iter().for_each(Waker::wake);
    }
}
