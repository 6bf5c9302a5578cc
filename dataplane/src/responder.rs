//! The responder: routes of the configuration that answer by themselves.
//!
//! It answers a fixed body, echoes the request's, streams bytes, waits, or talks WebSocket; it is
//! how a node is tried, measured and tested before any guest code runs, and it stands under the
//! router that workers use.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};

use crate::config::{Action, Limits, RouteRule};
use crate::debugging::{Answered, Debugging};
use crate::drain::Drain;
use crate::hops::{HopFailed, Hops};
use crate::http::body::{Body, Repeated};
use crate::http::message::{OnUpgrade, Problem, Reply, Request, Service, Tunnel};
use crate::http::talk::{self, Socket};
use crate::http::target::{Host, Target};
use crate::http::websocket;
use crate::router::{Match, Pattern, PatternError, Router, RouterError};
use crate::stats::CoreNumbers;
use crate::workers::CoreWorkers;
use crate::zones::{Handler, HostedObject, Hosts, Zone};

/// A route's answer.
#[derive(Debug)]
pub struct Answer {
    action: Action,
    /// The core that gives it; `None` is the one that has the connection.
    core: Option<u16>,
}

impl Answer {
    /// What it does, by its key in the configuration.
    pub fn word(&self) -> &'static str {
        match self.action {
            Action::Respond { .. } => "respond",
            Action::Echo => "echo",
            Action::Stream { .. } => "stream",
            Action::Delay { .. } => "delay",
            Action::WebSocket => "websocket",
        }
    }

    /// The core that gives it; `None` is the one that has the connection.
    pub fn core(&self) -> Option<u16> {
        self.core
    }
}

/// The routes of one configuration.
pub type Table = Router<Answer>;

/// Who answers a request.
#[derive(Debug)]
pub enum Found<'a> {
    /// The object that the host names.
    Object(HostedObject),
    /// The zone that has the host, and nobody else.
    Zone(Arc<Zone>),
    /// A route of the configuration.
    Route(Match<'a, Answer>),
    /// Nobody: it is a 404.
    Nothing,
}

/// The one look-up of requests, which `berth explain request` asks too: hosts of objects and of zones are theirs alone; all
/// others have the routes of the configuration.
pub fn look_up<'a>(
    hosts: &Hosts,
    table: &'a Table,
    host: Option<&Host<'_>>,
    target: &'a Target,
) -> Found<'a> {
    if let Some(object) = hosts.object_for(host, target) {
        return Found::Object(object);
    }
    match hosts.find(host, target) {
        Some(zone) => Found::Zone(zone),
        None => table.find(host, target).map_or(Found::Nothing, Found::Route),
    }
}

/// Why routes cannot be a table. Numbers count from 1, in the order of the file.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A pattern cannot be read.
    #[error("routes[{number}]: {source}")]
    Pattern {
        /// Which route.
        number: usize,
        /// What is wrong with it.
        source: PatternError,
    },
    /// The routes do not fit together.
    #[error("routes: {0}")]
    Routes(RouterError),
    /// A route names a core that the node does not have.
    #[error("routes[{number}].core = {core}: this node has the cores 0 to {last}; name one of them")]
    Core {
        /// Which route.
        number: usize,
        /// The core that it names.
        core: u16,
        /// The last core of the node.
        last: usize,
    },
}

/// Builds the table for a node of `cores` cores, or says everything that is wrong.
pub fn table(rules: &[RouteRule], cores: usize) -> Result<Table, Vec<TableError>> {
    let mut errors = Vec::new();
    let mut routes = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let number = index + 1;
        if let Some(core) = rule.core.filter(|core| usize::from(*core) >= cores) {
            errors.push(TableError::Core { number, core, last: cores - 1 });
        }
        match Pattern::parse(&rule.host, &rule.path) {
            Ok(pattern) => routes.push((pattern, Answer { action: rule.action.clone(), core: rule.core })),
            Err(source) => errors.push(TableError::Pattern { number, source }),
        }
    }
    match Router::new(routes) {
        Ok(table) if errors.is_empty() => Ok(table),
        Ok(_) => Err(errors),
        Err(more) => {
            errors.extend(more.into_iter().map(TableError::Routes));
            Err(errors)
        }
    }
}

/// The responder of one core.
pub struct Responder {
    index: u16,
    /// Swapped as a whole when the configuration is read again.
    table: Arc<ArcSwap<Table>>,
    hops: Rc<Hops>,
    workers: Rc<CoreWorkers>,
    shared: Rc<Shared>,
    /// Where clients come in.
    debugging: Option<Rc<Debugging>>,
}

/// What an answer needs of its core while it runs.
struct Shared {
    numbers: Arc<CoreNumbers>,
    limits: Limits,
    drain: Drain,
}

impl Responder {
    /// The responder of core `index`.
    pub fn new(
        index: u16,
        table: Arc<ArcSwap<Table>>,
        hops: Rc<Hops>,
        workers: Rc<CoreWorkers>,
        numbers: Arc<CoreNumbers>,
        limits: Limits,
        drain: Drain,
    ) -> Self {
        let shared = Rc::new(Shared { numbers, limits, drain });
        Self { index, table, hops, workers, shared, debugging: None }
    }

    /// The same, which tells clients who answered, if they ask and may. Where other cores ask, theirs does so.
    #[must_use]
    pub fn for_clients(mut self, debugging: Debugging) -> Self {
        self.debugging = Some(Rc::new(debugging));
        self
    }

    fn plan(&self, request: Request) -> Plan {
        let (hosts, table) = (self.workers.zones().hosts(), self.table.load());
        let answer = match look_up(&hosts, &table, request.host.as_ref(), &request.target) {
            Found::Object(HostedObject { zone, class, name, .. }) => {
                return Plan::Zone(zone, Handler::Object(class, name), request);
            }
            Found::Zone(zone) => {
                let handler = zone.handler(&request.target);
                return Plan::Zone(zone, handler, request);
            }
            Found::Route(found) => found.value(),
            Found::Nothing => return Plan::Ready(Reply::problem(Problem::NoRoute)),
        };
        if let Some(core) = answer.core.filter(|core| *core != self.index) {
            return Plan::Hop(core, request);
        }
        match &answer.action {
            Action::Respond { status, body, headers } => Plan::Ready(fixed(*status, body.clone(), headers)),
            Action::Echo => Plan::Ready(echo(request)),
            Action::Stream { bytes } => Plan::Ready(streamed(*bytes)),
            Action::Delay { time, body } => Plan::Later(*time, body.clone()),
            Action::WebSocket => Plan::Ready(self.shake_hands(&request)),
        }
    }

    /// Accepts a WebSocket.
    fn shake_hands(&self, request: &Request) -> Reply {
        let mut reply = match websocket::answer(request) {
            Ok(reply) => reply,
            Err(reply) => return *reply,
        };
        self.shared.numbers.websockets.add(1);
        let shared = Rc::clone(&self.shared);
        let upgrade: OnUpgrade = Box::new(move |tunnel| Box::pin(talk(tunnel, shared)));
        reply.upgrade = Some(upgrade);
        reply
    }
}

enum Plan {
    Ready(Reply),
    Later(Duration, Bytes),
    Hop(u16, Request),
    Zone(Arc<Zone>, Handler, Request),
}

impl Service for Responder {
    fn call(&self, mut request: Request) -> impl Future<Output = Reply> + 'static {
        let debugging = self.debugging.as_ref().filter(|debugging| debugging.admits(&mut request)).cloned();
        let plan = self.plan(request);
        let here = Answered { core: self.index, hops: 0 };
        let (answered, by_object) = match &plan {
            Plan::Hop(core, _) => (Answered { core: *core, hops: 1 }, false),
            Plan::Zone(_, Handler::Object(..), _) => (here, true),
            Plan::Zone(..) | Plan::Ready(_) | Plan::Later(..) => (here, false),
        };
        let (hops, workers) = (Rc::clone(&self.hops), Rc::clone(&self.workers));
        async move {
            let mut reply = match plan {
                Plan::Ready(reply) => reply,
                // Boxed: what a call needs while it runs is not kept for connections that make none.
                Plan::Zone(zone, handler, request) => Box::pin(workers.answer(zone, handler, request)).await,
                Plan::Later(time, body) => {
                    berth_runtime::sleep(time).await;
                    Reply::new(StatusCode::OK, body)
                }
                Plan::Hop(core, request) => match hops.ask(core, &request).await {
                    Ok(reply) => reply,
                    Err(HopFailed::Full) => Reply::problem(Problem::Overload),
                    Err(HopFailed::NoSuchCore | HopFailed::Garbled) => Reply::problem(Problem::Internal),
                },
            };
            if let Some(debugging) = debugging {
                debugging.tell(&mut reply, answered, by_object);
            }
            reply
        }
    }
}

fn fixed(status: StatusCode, body: Bytes, headers: &HeaderMap) -> Reply {
    let mut reply = Reply::new(status, body);
    reply.headers = headers.clone();
    reply
}

fn echo(request: Request) -> Reply {
    let mut reply = Reply::new(StatusCode::OK, "");
    if let Some(kind) = request.headers.get(header::CONTENT_TYPE) {
        reply.headers.insert(header::CONTENT_TYPE, kind.clone());
    }
    if request.method != Method::HEAD {
        reply.body = Body::stream(request.body);
    }
    reply
}

fn streamed(bytes: u64) -> Reply {
    let mut reply = Reply::new(StatusCode::OK, "");
    reply.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    reply.body = Body::stream(Repeated::new(bytes));
    reply
}

/// A WebSocket from its handshake to its end.
async fn talk(tunnel: Box<dyn Tunnel>, shared: Rc<Shared>) {
    let limits = &shared.limits.websocket;
    let mut socket = talk::open(tunnel, limits).await;
    echo_messages(&mut socket, &shared).await;
    talk::see_off(&mut socket, limits.message_bytes).await;
}

/// Echoes messages until the client closes, breaks a limit, falls silent or the node drains.
async fn echo_messages(socket: &mut Socket, shared: &Shared) {
    let draining = shared.drain.listen();
    let mut silence = Silence::None;
    loop {
        let next = berth_runtime::timeout(shared.limits.idle_timeout, draining.or(socket.next()));
        let outcome = match next.await {
            Ok(Some(Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))))) => {
                silence = Silence::None;
                socket.send(message).await
            }
            Ok(Some(Some(Ok(_)))) => {
                silence = Silence::None; // Pings and closes are answered by the library.
                socket.flush().await
            }
            Ok(Some(Some(Err(error)))) => {
                if matches!(error, WebSocketError::Capacity(_)) {
                    shared.numbers.limit_websocket_bytes.add(1);
                    close(socket, CloseCode::Size, shared).await;
                }
                return;
            }
            Ok(Some(None)) => return,
            Ok(None) => return close(socket, CloseCode::Away, shared).await,
            Err(_) if silence == Silence::Pinged => {
                shared.numbers.limit_idle_timeout.add(1);
                return close(socket, CloseCode::Away, shared).await;
            }
            Err(_) => {
                silence = Silence::Pinged;
                socket.send(Message::Ping(Bytes::new())).await
            }
        };
        if outcome.is_err() {
            return;
        }
    }
}

/// Whether a silent client has been asked if it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Silence {
    None,
    Pinged,
}

async fn close(socket: &mut Socket, code: CloseCode, shared: &Shared) {
    let frame = CloseFrame { code, reason: "".into() };
    let _ = talk::close(socket, frame, shared.limits.send_timeout).await;
}
