//! The admin API: status, metrics and health, on a thread of its own.
//!
//! It runs on a core that is not one of the node's, so that it answers while those are busy or
//! stalled. Requests must come with a loopback `Host` and, if with an `Origin`, a loopback one:
//! web pages and guests must not reach it through somebody's browser or by a name that they bind
//! to 127.0.0.1.

use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use http::{HeaderValue, Method, StatusCode, header};

use crate::http::message::{Problem, Reply, Request, Service};
use crate::http::target::Host;
use crate::metrics::{self, Facade};
use crate::status::NodeView;

/// The service behind the admin address.
pub struct Admin {
    view: Rc<NodeView>,
    facade: Facade,
}

impl Admin {
    /// Shows this node.
    pub fn new(view: NodeView, facade: Facade) -> Self {
        Self { view: Rc::new(view), facade }
    }

    fn answer(&self, request: &Request) -> Reply {
        if !request.host.as_ref().is_some_and(is_local) || !origin_is_local(request) {
            return Reply::problem(Problem::Forbidden);
        }
        if request.method != Method::GET && request.method != Method::HEAD {
            return Reply::problem(Problem::Method)
                .with_header(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        match request.target.normal_path() {
            "/metrics" => text(metrics::render(&self.view, &self.facade), "text/plain; version=0.0.4"),
            "/v1/status" => match serde_json::to_string(&self.view.status()) {
                Ok(json) => text(json + "\n", "application/json"),
                Err(_) => Reply::problem(Problem::Internal),
            },
            "/health/live" => self.live(),
            "/health/ready" => self.ready(),
            _ => Reply::problem(Problem::NoRoute),
        }
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

impl Service for Admin {
    fn call(&self, request: Request) -> impl Future<Output = Reply> + 'static {
        std::future::ready(self.answer(&request))
    }
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
