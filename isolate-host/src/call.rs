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

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body::{Body, Frame};
use wasmtime::Store;

use crate::ErrorCode;
use crate::drive::{Errands, Wall, fault, prepare};
use crate::engine::{Code, Running, Script};
use crate::guest::{Answer, CallState, Guest, Head};
use crate::limits::{Limit, Limits};
use crate::pipe::{Reader, Writer, pipe};
use crate::wasi::fields::Fields;
use crate::wasi::incoming::IncomingRequest;
use crate::wasi::outgoing::ResponseOutparam;
use crate::world::{WayOut, World};

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
    wall: Wall,
    feed: Option<Feed<B>>,
    reply: Option<Reader>,
    errands: Errands,
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
        let (engine, code) = (script.engine().clone(), script.code.clone());
        let guest = async move {
            let mut store = Store::new(&engine, data);
            prepare(&mut store, CALL_BYTES);
            let outcome = run(&code, &mut store, request).await;
            (outcome, store.data().growth.refused)
        };
        Self {
            guest: Some(Box::pin(guest)),
            state,
            world,
            wall: Wall::new(limits.wall),
            feed,
            reply: None,
            errands: Errands::new(way_out),
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
            let sent = std::mem::take(&mut *self.state.sent());
            self.errands.send(sent);
            if self.errands.poll(cx).is_pending() && !is_fed {
                break;
            }
        }
        let fault = ready!(self.wall.poll(&*self.world, cx));
        self.end();
        Poll::Ready(Err(fault))
    }

    /// With the guest ends what was on its way to it.
    fn end(&mut self) {
        self.guest = None;
        self.feed = None;
        self.errands.clear();
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

async fn run(code: &Code, store: &mut Store<Guest>, request: IncomingRequest) -> wasmtime::Result<()> {
    let Code::Worker(pre) = code else {
        return Err(wasmtime::format_err!(
            "this is a class of objects, which no request reaches but through an object"
        ));
    };
    let worker = pre.instantiate_async(&mut *store).await?;
    let request = store.data_mut().push(request)?;
    let outparam = store.data_mut().push(ResponseOutparam)?;
    worker.wasi_http_incoming_handler().call_handle(store, request, outparam).await
}

fn refused(reason: ErrorCode) -> Fault {
    let detail = format!("it gave up with {reason:?}");
    Fault { kind: FaultKind::Refused(reason), detail }
}
