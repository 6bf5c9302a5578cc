//! What HTTP/2 and HTTP/3 share: requests from pseudo-headers, the heads of replies, the count of open streams.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header};

use super::Core;
use super::body::{RequestBody, Source, StreamBody};
use super::message::{Peer, Problem, Request, UpgradeWish};
use super::target::{Host, Target};

/// The head of a request, as its version has read it.
pub(super) struct Head {
    pub(super) method: Method,
    pub(super) target: Bytes,
    pub(super) authority: Option<Bytes>,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
    /// The length that is declared.
    pub(super) length: Option<u64>,
    pub(super) upgrade: Option<UpgradeWish>,
}

/// Makes a request out of its head. `body` is called for a request that may have one.
pub(super) fn request<S>(
    core: &Core<S>,
    peer: Rc<Peer>,
    head: Head,
    body: impl FnOnce() -> RequestBody,
) -> Result<Request, Problem> {
    let Head { method, target, authority, version, headers, length, upgrade } = head;
    if headers.len() > core.limits.header_count {
        core.numbers.limit_header_count.add(1);
        return Err(Problem::HeadersTooLarge);
    }
    let host = match &authority {
        Some(authority) => Host::parse(authority),
        None => Host::parse(headers.get(header::HOST).map_or(b"".as_slice(), HeaderValue::as_bytes)),
    };
    let (Ok(target), Ok(host)) = (Target::parse(target), host) else {
        core.numbers.requests_malformed.add(1);
        return Err(Problem::BadRequest);
    };
    if length.is_some_and(|length| length > core.limits.body_bytes) {
        core.numbers.limit_body_bytes.add(1);
        return Err(Problem::BodyTooLarge);
    }
    let host = Some(host.into_owned());
    Ok(Request { method, target, host, version, headers, body: body(), peer, upgrade })
}

/// The body of a stream, under the limits of its core.
pub(super) fn body<S: 'static>(core: &Rc<Core<S>>, stream: impl Source + 'static) -> RequestBody {
    let limits = (core.limits.body_bytes, core.limits.body_timeout);
    let core = Rc::clone(core);
    let body = StreamBody::new(stream, limits.0, limits.1, move |error| core.count_body_error(error));
    RequestBody::Stream(Box::new(body))
}

/// The head of a reply.
pub(super) fn response<S>(
    core: &Core<S>,
    alt_svc: Option<&HeaderValue>,
    status: StatusCode,
    headers: HeaderMap,
    length: Option<u64>,
) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    let headers = response.headers_mut();
    // Connection-specific fields have no meaning here (RFC 9113, 8.2.2; RFC 9114, 4.2).
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        headers.remove(name);
    }
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if let Some(value) = alt_svc {
        headers.entry(header::ALT_SVC).or_insert_with(|| value.clone());
    }
    headers.entry(header::DATE).or_insert_with(|| core.date.value(berth_runtime::now()));
    response
}

/// The length to tell of a body of this size. An empty one of a reply to HEAD says nothing about that of GET: handlers
/// leave it out, and may tell the length themselves.
pub(super) fn told_length(size: Option<u64>, status: StatusCode, head_only: bool) -> Option<u64> {
    size.filter(|&bytes| status_has_body(status) && !(head_only && bytes == 0))
}

/// Whether a reply with this status may have a body.
pub(super) fn status_has_body(status: StatusCode) -> bool {
    !(status.is_informational() || matches!(status.as_u16(), 204 | 304))
}

/// The streams of a connection that are being served.
#[derive(Default)]
pub(super) struct OpenStreams {
    count: Cell<u32>,
    /// Who waits for the last one to end.
    waiting: Cell<Option<Waker>>,
}

impl OpenStreams {
    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        self.count.get()
    }

    /// Has the current task woken when the last one ends.
    pub(super) fn wake_after_last(&self, cx: &Context<'_>) {
        self.waiting.set(Some(cx.waker().clone()));
    }

    /// Nobody is to be woken any more.
    pub(super) fn wake_nobody(&self) {
        drop(self.waiting.take());
    }
}

/// Counts a stream as long as it lives.
pub(super) struct OpenStream(Rc<OpenStreams>);

impl OpenStream {
    pub(super) fn new(streams: &Rc<OpenStreams>) -> Self {
        streams.count.set(streams.count.get() + 1);
        Self(Rc::clone(streams))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        if self.0.count.get() == 0
            && let Some(waiting) = self.0.waiting.take()
        {
            waiting.wake();
        }
    }
}
