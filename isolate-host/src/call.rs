//! A call: one request to a fresh instance, as a value that is polled by whoever wants the reply.
//!
//! The guest is a future that owns its store. The same task polls it, feeds it the request's body as it asks for it, and
//! reads the reply; nothing is spawned and nothing wakes another thread. Dropping a call ends the guest where it stands.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body::{Body, Frame};
use wasmtime::{PoolConcurrencyLimitError, Store, Trap, UpdateDeadline, WasmBacktrace};

use crate::ErrorCode;
use crate::engine::{Running, Script};
use crate::guest::{Answer, CallState, Guest, Head, LimitFell};
use crate::limits::{Limit, Limits};
use crate::pipe::{Reader, Writer, pipe};
use crate::wasi::cli::Exited;
use crate::wasi::fields::Fields;
use crate::wasi::incoming::IncomingRequest;
use crate::wasi::outgoing::ResponseOutparam;
use crate::world::{Asked, Later, Promise, WayOut, World};

/// Bytes that a guest may hand to the host in one call.
const CALL_BYTES: usize = 4 << 20;

/// How often a guest may make room for others between the head of its reply and the rest, before the head goes alone.
const HELD_MAX: u8 = 8;

/// A request for a guest.
#[derive(Debug)]
pub struct Incoming<B> {
    /// The method.
    pub method: Method,
    /// Whether it came over TLS.
    pub https: bool,
    /// The host that it is for.
    pub authority: Option<String>,
    /// Path and query.
    pub path: String,
    /// Its fields; those that belong to the connection are hidden.
    pub headers: HeaderMap,
    /// Its body; `None` is an empty one.
    pub body: Option<B>,
}

/// The head of a guest's reply.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The fields.
    pub headers: HeaderMap,
    /// The whole body, if it is there already and has no trailers; else it comes by [`Call::poll_frame`].
    pub whole: Option<Bytes>,
}

/// Why a guest gave no reply, or not the whole of it.
#[derive(Debug, Clone)]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// The engine's words, and where in the guest it was.
    pub detail: String,
}

/// The kinds of faults.
#[derive(Debug, Clone)]
pub enum FaultKind {
    /// A limit fell.
    Limit(Limit),
    /// The guest trapped, or called exit.
    Trap,
    /// It returned without an answer.
    NoAnswer,
    /// It answered with an error, or gave up its body.
    Refused(ErrorCode),
    /// All instances of the pool are in use.
    Busy,
}

impl FaultKind {
    /// A word for logs and counters.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Limit(_) => "limit",
            Self::Trap => "trap",
            Self::NoAnswer => "no answer",
            Self::Refused(_) => "refused",
            Self::Busy => "busy",
        }
    }
}

/// How a guest ended: the engine's verdict, and the limit that refused it something before.
type Ended = (wasmtime::Result<()>, Option<Limit>);

/// One request to a fresh instance.
pub struct Call<B> {
    guest: Option<Pin<Box<dyn Future<Output = Ended> + Send>>>,
    state: Arc<CallState>,
    world: Arc<dyn World>,
    wall: Duration,
    /// Made when the guest first waits.
    alarm: Option<Later<()>>,
    feed: Option<Feed<B>>,
    reply: Option<Reader>,
    way_out: Rc<dyn WayOut>,
    /// What the guest waits for from others.
    asked: Vec<(Asked, Promise)>,
    /// How often a head that is there was held back.
    held: u8,
    _running: Running,
}

/// The request's body on its way into the guest.
struct Feed<B> {
    body: B,
    writer: Writer,
}

impl<B: Body<Data = Bytes> + Unpin> Call<B> {
    /// Begins a call. Nothing of the guest runs before the first poll.
    pub fn new(
        script: &Script,
        limits: &Arc<Limits>,
        world: Arc<dyn World>,
        way_out: Rc<dyn WayOut>,
        request: Incoming<B>,
    ) -> Self {
        let (writer, reader) = pipe();
        let feed = match request.body {
            Some(body) => Some(Feed { body, writer }),
            None => {
                writer.finish(None);
                None
            }
        };
        let state = Arc::new(CallState::new(request.method == Method::HEAD));
        let data = Guest::new(Arc::clone(limits), Arc::clone(&world), Arc::clone(&state));
        let request = IncomingRequest {
            method: request.method,
            https: request.https,
            authority: request.authority,
            path: request.path,
            headers: Fields::received(request.headers),
            body: Some(reader),
        };
        let pre = script.pre.clone();
        let guest = async move {
            let mut store = Store::new(pre.engine(), data);
            prepare(&mut store);
            let outcome = run(&pre, &mut store, request).await;
            (outcome, store.data().growth.refused)
        };
        Self {
            guest: Some(Box::pin(guest)),
            state,
            world,
            wall: limits.wall,
            alarm: None,
            feed,
            reply: None,
            way_out,
            asked: Vec::new(),
            held: 0,
            _running: script.clock.run(),
        }
    }

    /// Waits for the head of the reply.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, Fault>> {
        let ended = self.poll_guest(cx)?;
        let is_given = matches!(*self.state.answer(), Answer::Given(_));
        if is_given && ended.is_pending() && self.state.made_room.load(Relaxed) && self.held < HELD_MAX {
            // It will be polled again at once, and what it says next may make the reply whole.
            self.held += 1;
            return Poll::Pending;
        }
        let answer = std::mem::replace(&mut *self.state.answer(), Answer::Taken);
        match answer {
            Answer::Given(Ok(head)) => Poll::Ready(self.begin_reply(head)),
            Answer::Given(Err(reason)) => Poll::Ready(Err(refused(reason))),
            Answer::None | Answer::Taken => {
                *self.state.answer() = Answer::None;
                ready!(ended);
                Poll::Ready(Err(Fault {
                    kind: FaultKind::NoAnswer,
                    detail: "it returned without an answer".into(),
                }))
            }
        }
    }

    fn begin_reply(&mut self, head: Head) -> Result<Reply, Fault> {
        let status = StatusCode::from_u16(head.status).map_err(|_| refused(ErrorCode::HttpProtocolError))?;
        let whole = match &head.body {
            None => Some(Bytes::new()),
            Some(reader) => reader.take_whole(),
        };
        if whole.is_none() {
            self.reply = head.body;
        }
        Ok(Reply { status, headers: head.headers, whole })
    }

    /// Waits for the next piece of the reply's body.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if let Some(reply) = &self.reply {
            reply.forget_waker();
        }
        if let Poll::Ready(Err(fault)) = self.poll_guest(cx) {
            return Poll::Ready(Some(Err(fault)));
        }
        let Some(reply) = &mut self.reply else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(reply).poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(|aborted| refused(aborted.0))))
    }

    /// The size of the body that comes by [`Call::poll_frame`], once it is known.
    pub fn exact_size(&self) -> Option<u64> {
        self.reply.as_ref().and_then(Reader::exact_size)
    }

    /// Whether the guest still runs: it may, after its reply is whole.
    pub fn is_running(&self) -> bool {
        self.guest.is_some()
    }

    /// Runs the guest as far as it goes. Ready when it has ended well.
    pub fn poll_guest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            let Some(guest) = &mut self.guest else { return Poll::Ready(Ok(())) };
            self.state.made_room.store(false, Relaxed);
            if let Poll::Ready((outcome, refusal)) = self.state.meter.measure(|| guest.as_mut().poll(cx)) {
                self.end();
                return Poll::Ready(outcome.map_err(|error| fault(&error, refusal)));
            }
            let is_fed = self.feed(cx).is_ready();
            if self.ask(cx).is_pending() && !is_fed {
                break;
            }
        }
        let alarm = self.alarm.get_or_insert_with(|| self.world.sleep(self.wall));
        ready!(alarm.as_mut().poll(cx));
        self.end();
        let detail = format!("it ran for {:?}", self.wall);
        Poll::Ready(Err(Fault { kind: FaultKind::Limit(Limit::Wall), detail }))
    }

    /// With the guest ends what was on its way to it.
    fn end(&mut self) {
        self.guest = None;
        self.feed = None;
        self.asked.clear();
    }

    /// Goes on with what the guest asked of others, at once: a reply that is made in this process needs no turn of its own.
    /// Ready when there is one.
    fn ask(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let sent = std::mem::take(&mut *self.state.sent());
        self.asked.extend(sent.into_iter().map(|(request, promise)| (self.way_out.ask(request), promise)));
        let before = self.asked.len();
        self.asked.retain_mut(|(reply, promise)| {
            if promise.is_given_up() {
                return false;
            }
            match reply.as_mut().poll(cx) {
                Poll::Pending => true,
                Poll::Ready(reply) => {
                    promise.keep(reply);
                    false
                }
            }
        });
        if self.asked.len() < before { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Moves a piece of the request's body towards the guest, if it wants one. Ready when one was moved.
    fn feed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(feed) = &mut self.feed else { return Poll::Pending };
        if ready!(feed.writer.poll_wanted(cx)).is_err() {
            self.feed = None;
            return Poll::Pending;
        }
        let frame = ready!(Pin::new(&mut feed.body).poll_frame(cx));
        let end = match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    feed.writer.push(data);
                    return Poll::Ready(());
                }
                Err(frame) => Ok(frame.into_trailers().ok()),
            },
            None => Ok(None),
            Some(Err(_)) => Err(ErrorCode::ConnectionTerminated),
        };
        if let Some(feed) = self.feed.take() {
            match end {
                Ok(trailers) => feed.writer.finish(trailers),
                Err(reason) => feed.writer.abort(reason),
            }
        }
        Poll::Ready(())
    }
}

fn prepare(store: &mut Store<Guest>) {
    store.limiter(|guest| &mut guest.growth);
    store.set_hostcall_fuel(CALL_BYTES);
    store.set_max_component_handles(store.data().limits.handles);
    store.epoch_deadline_callback(|context| {
        if context.data().cpu_is_spent() {
            return Err(LimitFell(Limit::Cpu).into());
        }
        context.data().call.made_room.store(true, Relaxed);
        Ok(UpdateDeadline::Yield(1))
    });
    store.set_epoch_deadline(1);
}

async fn run(
    pre: &crate::bindings::WorkerPre<Guest>,
    store: &mut Store<Guest>,
    request: IncomingRequest,
) -> wasmtime::Result<()> {
    let worker = pre.instantiate_async(&mut *store).await?;
    let request = store.data_mut().push(request)?;
    let outparam = store.data_mut().push(ResponseOutparam)?;
    worker.wasi_http_incoming_handler().call_handle(store, request, outparam).await
}

fn refused(reason: ErrorCode) -> Fault {
    let detail = format!("it gave up with {reason:?}");
    Fault { kind: FaultKind::Refused(reason), detail }
}

/// Bounds of the engine that fell. It has no types for them, but words; tests tell when they change.
const WORDS: [(&str, Limit); 2] = [
    ("fuel allocated for hostcalls has been exhausted", Limit::CallBytes),
    ("store handle limit exceeded", Limit::Handles),
];

/// What the engine's error means. A guest that was refused memory fails in its own way a moment later: what refused it is
/// the reason.
fn fault(error: &wasmtime::Error, refusal: Option<Limit>) -> Fault {
    let kind = if let Some(LimitFell(limit)) = error.downcast_ref() {
        FaultKind::Limit(*limit)
    } else if error.is::<PoolConcurrencyLimitError>() {
        FaultKind::Busy
    } else if error.is::<Exited>() {
        FaultKind::Trap
    } else if let Some(Trap::StackOverflow) = error.downcast_ref() {
        FaultKind::Limit(Limit::Stack)
    } else {
        let reason = error.root_cause().to_string();
        let told = WORDS.iter().find(|(words, _)| reason.contains(words)).map(|(_, limit)| *limit);
        told.or(refusal).map_or(FaultKind::Trap, FaultKind::Limit)
    };
    Fault { kind, detail: describe(error) }
}

/// The engine's words, and the functions of the guest that were running, innermost first.
fn describe(error: &wasmtime::Error) -> String {
    let reason = error.root_cause();
    match error.downcast_ref::<WasmBacktrace>() {
        Some(trace) => format!("{reason}; {trace}"),
        None => reason.to_string(),
    }
}
