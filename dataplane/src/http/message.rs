//! Requests and replies as the router and the handlers see them, whatever the HTTP version.
//!
//! The bytes of path and header values are those of the client. What is checked or put into a
//! normal form (target, host) keeps the raw bytes beside it.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::{Body, RequestBody};
use super::target::{Host, Target};

/// Who speaks on a connection, and to whom.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// The client: of the socket, or as a trusted PROXY header says.
    pub client: SocketAddr,
    /// The address that the client connected to.
    pub local: SocketAddr,
    /// Whether the bytes are protected.
    pub security: Security,
}

/// Whether a connection is protected by TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Clear text.
    Plain,
    /// TLS 1.3.
    Tls,
}

/// The client's wish to leave HTTP on this connection or stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpgradeWish {
    /// WebSocket: by `Upgrade` on HTTP/1.1, by extended CONNECT (RFC 8441) on HTTP/2.
    WebSocket,
}

/// A request with its body still to come.
pub struct Request {
    /// The method.
    pub method: Method,
    /// The request target: raw bytes and normal form.
    pub target: Target,
    /// The host that the request is for, in normal form; only HTTP/1.0 comes without one.
    pub host: Option<Host<'static>>,
    /// The HTTP version that it came with.
    pub version: Version,
    /// The headers, values unchanged.
    pub headers: HeaderMap,
    /// The body.
    pub body: RequestBody,
    /// Who sent it.
    pub peer: Rc<Peer>,
    /// Set when the client asks for another protocol.
    pub upgrade: Option<UpgradeWish>,
}

/// The bytes of a connection or stream after an upgrade.
pub trait Tunnel: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Tunnel for T {}

/// What runs on a connection or stream after an upgrade.
pub type OnUpgrade = Box<dyn FnOnce(Box<dyn Tunnel>) -> Pin<Box<dyn Future<Output = ()>>>>;

/// The answer to a request.
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers; framing headers are the connection's business.
    pub headers: HeaderMap,
    /// The body.
    pub body: Body,
    /// Set when the reply accepts an upgrade: what happens then.
    pub upgrade: Option<OnUpgrade>,
}

impl Reply {
    /// A reply with a body of known bytes.
    pub fn new(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self { status, headers: HeaderMap::new(), body: Body::full(body), upgrade: None }
    }

    /// The same with one more header.
    #[must_use]
    pub fn with_header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// An error as clients see it: `application/problem+json` (RFC 9457) with a stable type and no
    /// internals.
    pub fn problem(problem: Problem) -> Self {
        let (status, name, title) = problem.parts();
        let body = format!(
            "{{\"type\":\"urn:berth:{name}\",\"title\":\"{title}\",\"status\":{}}}\n",
            status.as_u16()
        );
        let reply = Self::new(status, body)
            .with_header(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match problem {
            Problem::Overload => reply.with_header(header::RETRY_AFTER, HeaderValue::from_static("1")),
            _ => reply,
        }
    }
}

/// The errors that the node itself answers with. The type of each is stable: clients may match it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// The request is malformed or ambiguous.
    BadRequest,
    /// The client may not ask this.
    Forbidden,
    /// No route matches.
    NoRoute,
    /// There is no object with this id.
    NoObject,
    /// The route does not offer this method.
    Method,
    /// A time limit of the client's side ran out.
    RequestTimeout,
    /// The body is larger than the limit.
    BodyTooLarge,
    /// The target is longer than the limit.
    TargetTooLong,
    /// The headers are larger or more than the limit.
    HeadersTooLarge,
    /// The route wants an upgrade that the request did not ask for.
    UpgradeRequired,
    /// The request expects something other than `100-continue`.
    Expectation,
    /// The request wants something that the node does not implement.
    NotImplemented,
    /// The HTTP version is not spoken here.
    Version,
    /// Too much work is waiting.
    Overload,
    /// The handler failed.
    Internal,
    /// The origin did not answer as it should.
    Gateway,
    /// A time limit of the handler or the origin ran out.
    TimeLimit,
    /// The request came back to where it had been.
    Loop,
    /// The request has an idempotency key that is none, or two.
    IdempotencyKey,
    /// Another request had this idempotency key.
    IdempotencyKeyReused,
    /// The request was done before, and its answer was too large to be kept.
    AnswerNotKept,
}

impl Problem {
    /// The problem for a status that a parser decided on.
    pub fn from_status(status: StatusCode) -> Self {
        match status {
            StatusCode::REQUEST_TIMEOUT => Problem::RequestTimeout,
            StatusCode::PAYLOAD_TOO_LARGE => Problem::BodyTooLarge,
            StatusCode::URI_TOO_LONG => Problem::TargetTooLong,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Problem::HeadersTooLarge,
            StatusCode::UPGRADE_REQUIRED => Problem::UpgradeRequired,
            StatusCode::EXPECTATION_FAILED => Problem::Expectation,
            StatusCode::NOT_IMPLEMENTED => Problem::NotImplemented,
            StatusCode::HTTP_VERSION_NOT_SUPPORTED => Problem::Version,
            _ => Problem::BadRequest,
        }
    }

    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Problem::BadRequest => (StatusCode::BAD_REQUEST, "bad-request", "Malformed request"),
            Problem::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "Not allowed"),
            Problem::NoRoute => (StatusCode::NOT_FOUND, "no-route", "No route matches"),
            Problem::NoObject => (StatusCode::NOT_FOUND, "no-object", "No such object"),
            Problem::Method => (StatusCode::METHOD_NOT_ALLOWED, "method", "Method not allowed here"),
            Problem::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "request-timeout", "Request too slow"),
            Problem::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "Body too large"),
            Problem::TargetTooLong => (StatusCode::URI_TOO_LONG, "target-too-long", "Target too long"),
            Problem::HeadersTooLarge => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers-too-large", "Headers too large")
            }
            Problem::UpgradeRequired => {
                (StatusCode::UPGRADE_REQUIRED, "upgrade-required", "Upgrade required")
            }
            Problem::Expectation => (StatusCode::EXPECTATION_FAILED, "expectation", "Expectation not met"),
            Problem::NotImplemented => (StatusCode::NOT_IMPLEMENTED, "not-implemented", "Not implemented"),
            Problem::Version => {
                (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "version", "HTTP version not supported")
            }
            Problem::Overload => (StatusCode::SERVICE_UNAVAILABLE, "overload", "Overloaded, try again"),
            Problem::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "The handler failed"),
            Problem::Gateway => (StatusCode::BAD_GATEWAY, "origin", "The origin did not answer"),
            Problem::TimeLimit => (StatusCode::GATEWAY_TIMEOUT, "time-limit", "The handler took too long"),
            Problem::Loop => (StatusCode::LOOP_DETECTED, "loop", "The request went in a circle"),
            Problem::IdempotencyKey => (
                StatusCode::BAD_REQUEST,
                "idempotency-key",
                "An idempotency-key is one field with 1 to 255 visible ASCII characters",
            ),
            Problem::IdempotencyKeyReused => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency-key-reused",
                "Another request had this idempotency-key",
            ),
            Problem::AnswerNotKept => {
                (StatusCode::CONFLICT, "answer-not-kept", "Done before; the answer was too large to be kept")
            }
        }
    }
}

/// What answers requests. One value per core.
pub trait Service: 'static {
    /// Answers one request.
    fn call(&self, request: Request) -> impl Future<Output = Reply> + 'static;
}
