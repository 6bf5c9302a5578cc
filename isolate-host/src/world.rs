//! The world of one call: what a guest reaches outside of its sandbox, given by whoever runs it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
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

/// What a call of a guest reaches inside: time, configuration, and the log.
pub trait World: Send + Sync + 'static {
    /// A future that is ready after `time`.
    fn sleep(&self, time: Duration) -> Later<()>;

    /// A line that the guest logged, without its end.
    fn log(&self, stream: Stream, line: &[u8]);

    /// The guest wrote more than it may; the rest is not logged.
    fn log_is_cut(&self);

    /// The script's configuration: what the guest may read as environment and as `wasi:config`.
    fn variables(&self) -> &[(String, String)];

    /// A secret, which only `wasi:config` gives, and only to who knows its name.
    fn secret(&self, name: &str) -> Option<String>;
}

/// The reply to a request, once its head is there. It stays on the thread of the call.
pub type Asked = Pin<Box<dyn Future<Output = Result<Inbound, ErrorCode>>>>;

/// The way out of a call: how its guest reaches others. Every request that leaves goes through here; what is allowed is
/// decided behind it.
pub trait WayOut {
    /// Asks somebody. The call goes on with it whenever it is polled itself, and drops it with its guest.
    fn ask(&self, request: Outbound) -> Asked;
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

/// The promise of a reply. Nobody is woken when it is kept: the call that keeps it polls its guest next.
#[derive(Debug)]
pub(crate) struct Promise(Arc<Mutex<State>>);

/// What the guest waits on.
#[derive(Debug)]
pub(crate) struct Promised(Arc<Mutex<State>>);

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

pub(crate) fn promise() -> (Promise, Promised) {
    let state = Arc::new(Mutex::new(State::Open));
    (Promise(Arc::clone(&state)), Promised(state))
}

impl Promise {
    pub(crate) fn keep(&self, reply: Result<Inbound, ErrorCode>) {
        let mut state = lock(&self.0);
        if matches!(*state, State::Open) {
            *state = State::Kept(reply);
        }
    }

    /// Whether nobody wants the reply any more.
    pub(crate) fn is_given_up(&self) -> bool {
        matches!(*lock(&self.0), State::GivenUp)
    }
}

impl Promised {
    pub(crate) fn poll_kept(&self) -> Poll<()> {
        if matches!(*lock(&self.0), State::Open) { Poll::Pending } else { Poll::Ready(()) }
    }

    /// The reply, once; `None` while there is none, `Some(None)` when it was taken.
    pub(crate) fn take(&self) -> Option<Option<Result<Inbound, ErrorCode>>> {
        let mut state = lock(&self.0);
        match std::mem::replace(&mut *state, State::Taken) {
            State::Kept(reply) => Some(Some(reply)),
            State::Open => {
                *state = State::Open;
                None
            }
            State::Taken | State::GivenUp => Some(None),
        }
    }
}

impl Drop for Promised {
    fn drop(&mut self) {
        *lock(&self.0) = State::GivenUp;
    }
}
