//! The admin API: status, metrics, health, deployments and explanations, on a thread of its own. `paths` has what it
//! answers, `docs/openapi.json` what that means.
//!
//! It runs on a core that is not one of the node's, so that it answers while those are busy or
//! stalled. Requests must come with a loopback `Host` and, if with an `Origin`, a loopback one:
//! web pages and guests must not reach it through somebody's browser or by a name that they bind
//! to 127.0.0.1.

mod carry;
mod deployments;
mod explain;
mod objects;
mod openapi;
mod paths;
mod refusal;

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::ArcSwap;
use http::{HeaderValue, StatusCode, header};

use crate::agent_link::SteeringView;
use crate::http::message::{Problem, Reply, Request, Service};
use crate::http::target::{Host, percent_decode};
use crate::metrics::{self, Facade};
use crate::responder::Table;
use crate::status::NodeView;
use crate::workers::Workers;
pub use carry::FILE_MAX;
use paths::{Call, Unknown};
use refusal::{Refusal, json};

/// The service behind the admin address.
pub struct Admin {
    view: Rc<NodeView>,
    facade: Facade,
    workers: Arc<Workers>,
    /// The routes of the configuration, as the cores have them.
    table: Arc<ArcSwap<Table>>,
}

impl Admin {
    /// Shows this node.
    pub fn new(view: NodeView, facade: Facade, workers: Arc<Workers>, table: Arc<ArcSwap<Table>>) -> Self {
        Self { view: Rc::new(view), facade, workers, table }
    }

    /// What a request is answered with, or who answers it.
    fn ask(&self, request: Request) -> Answer {
        if !request.host.as_ref().is_some_and(is_local) || !origin_is_local(&request) {
            return Answer::Now(Reply::problem(Problem::Forbidden));
        }
        let query = request.target.raw_query().unwrap_or_default();
        let (call, name) = match paths::find(request.method.as_str(), request.target.normal_path()) {
            Ok(found) => found,
            Err(Unknown::Path) => return Answer::Now(Reply::problem(Problem::NoRoute)),
            Err(Unknown::Method(others)) => return Answer::Now(not_allowed(&others)),
        };
        Answer::Now(match call {
            Call::OpenApi => text(openapi::DOCUMENT.to_owned(), "application/json"),
            Call::Metrics => text(metrics::render(&self.view, &self.facade), "text/plain; version=0.0.4"),
            Call::Live => self.live(),
            Call::Ready => self.ready(),
            Call::Status => json(&self.view.status()).unwrap_or_else(Refusal::reply),
            Call::ExplainRequest => explain::request(&self.workers.zones.hosts(), &self.table.load(), query)
                .unwrap_or_else(Refusal::reply),
            Call::ExplainFlow => return Answer::OfAgent(self.view.steering.clone(), query.to_vec()),
            Call::Deployments(what) => {
                let (name, query) = (name.to_owned(), query.to_vec());
                let question = deployments::Question { what, name, query, body: request.body };
                return Answer::OfDeployments(Arc::clone(&self.workers), question);
            }
        })
    }

    /// Alive: every core makes progress.
    fn live(&self) -> Reply {
        match self.view.stalled() {
            0 => text("live\n".into(), "text/plain"),
            stalled => unwell(format!("{stalled} cores are stalled\n")),
        }
    }

    /// Ready: the node takes new connections.
    fn ready(&self) -> Reply {
        match self.view.ready.load(Relaxed) {
            true => text("ready\n".into(), "text/plain"),
            false => unwell("starting or draining\n".into()),
        }
    }
}

/// A reply that is there already, or a question that somebody else answers.
enum Answer {
    Now(Reply),
    OfAgent(SteeringView, Vec<u8>),
    OfDeployments(Arc<Workers>, deployments::Question),
}

impl Service for Admin {
    fn call(&self, request: Request) -> impl Future<Output = Reply> + 'static {
        let answer = self.ask(request);
        async move {
            match answer {
                Answer::Now(reply) => reply,
                Answer::OfAgent(steering, query) => {
                    explain::flow(steering, &query).await.unwrap_or_else(Refusal::reply)
                }
                Answer::OfDeployments(workers, question) => deployments::answer(workers, question).await,
            }
        }
    }
}

/// What to say of a method that a path does not have.
fn not_allowed(methods: &str) -> Reply {
    let reply = Reply::problem(Problem::Method);
    match HeaderValue::try_from(methods) {
        Ok(methods) => reply.with_header(header::ALLOW, methods),
        Err(_) => reply,
    }
}

/// The value of a name in a query, its escapes undone.
fn query_bytes(query: &[u8], name: &str) -> Option<Vec<u8>> {
    let query = String::from_utf8_lossy(query);
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    Some(percent_decode(value).into_owned())
}

/// It as text.
fn query_value(query: &[u8], name: &str) -> Option<String> {
    query_bytes(query, name).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn nothing() -> Reply {
    Reply::new(StatusCode::NO_CONTENT, "")
}

fn text(body: String, kind: &'static str) -> Reply {
    Reply::new(StatusCode::OK, body).with_header(header::CONTENT_TYPE, HeaderValue::from_static(kind))
}

fn unwell(body: String) -> Reply {
    let mut reply = text(body, "text/plain");
    reply.status = StatusCode::SERVICE_UNAVAILABLE;
    reply
}

fn is_local(host: &Host<'_>) -> bool {
    matches!(host.as_str(), "localhost" | "127.0.0.1" | "[::1]")
}

fn origin_is_local(request: &Request) -> bool {
    let mut origins = request.headers.get_all(header::ORIGIN).iter();
    origins.all(|origin| {
        let authority =
            origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, rest)| rest);
        authority
            .and_then(|authority| Host::parse(authority.as_bytes()).ok())
            .is_some_and(|host| is_local(&host))
    })
}
