//! HTTP/3 (RFC 9114) on a connection: requests in, replies out.
//!
//! ```text
//!   frames   which bytes are what, in what order and how long      pure
//!   qpack    sections of fields (huffman, static_table)            pure
//!   head     fields to the head of a request, and a reply's to it  pure
//!   parts    a request stream as its parts
//!   session  the streams that speak of the connection: settings, going away
//!   tunnel   a stream as the bytes of a WebSocket (RFC 9220)
//! ```
//!
//! It is our own for speed and for its bounds (ADR 0008). Each stream's handler is polled once in place, which
//! answers most requests without a task, and in the same poll of the connection that received the request and will
//! send the reply. One that has to wait becomes a task of its own.
//!
//! The connection ends gracefully (GOAWAY, then the streams that run) on drain and when idle.

mod frames;
mod head;
mod huffman;
mod parts;
mod qpack;
mod session;
mod static_table;
mod tunnel;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use berth_runtime::Deadline;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Version};

use super::Core;
use super::body::{Body, BodyError, Piece, RequestBody, Source};
use super::message::{OnUpgrade, Peer, Problem, Reply, Service, UpgradeWish};
use super::stream::{
    self, OpenStream, OpenStreams, body, request as request_of, response, status_has_body, told_length,
};
use super::websocket;
use crate::drain::Draining;
use crate::quic::{Connection, Lost, RecvStream, SendStream, StreamEnd};
use frames::{Code, Fault, Part};
use head::Refused;
use parts::{Cut, Parts, end_connection};
use session::Session;
use tunnel::Tunnel;

/// Bytes of a body that are written in one go: a client that takes none of them for `limits.send_timeout` is cut.
const PIECE: usize = 64 * 1024;
/// Room for the head of a reply and a small body, so that nearly none is moved as it grows.
const HEAD_ROOM: usize = 256;
/// Bytes up to this are copied behind their head. A small piece may be all that somebody still needs of a large buffer,
/// which would be kept with it until it is acknowledged.
const SMALL: usize = 4 * 1024;
/// How long a connection that is to close waits for a client that has not acknowledged its last replies and is silent. A
/// living one answers the probes that it gets meanwhile: at a second, two, four.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Longer than a connection holds back what it has to send.
const FLUSH: Duration = Duration::from_millis(2);
/// What the access log says of a request whose client went away before the reply, as others do.
const CLIENT_CLOSED: u16 = 499;

/// Serves one connection until it ends.
pub async fn serve<S: Service>(
    connection: Connection,
    core: &Rc<Core<S>>,
    peer: Rc<Peer>,
    draining: &Draining,
) {
    core.numbers.http3_connections.add(1);
    let mut session = Session::new(connection.clone(), core.limits.header_bytes as u64);
    let streams = Rc::<OpenStreams>::default();
    let stream = |(send, receive)| {
        let (alive, core, peer) = (OpenStream::new(&streams), Rc::clone(core), Rc::clone(&peer));
        Box::pin(async move {
            let _alive = alive;
            serve_stream(&core, peer, send, receive).await;
        })
    };
    let idle = Deadline::new();
    loop {
        idle.set(core.limits.idle_timeout);
        match next(&mut session, draining, &idle).await {
            Next::Request(request) => begin(stream(request)).await,
            Next::Failed(fault) => return end_connection(&connection, &core.numbers, fault),
            Next::Lost => return,
            Next::Idle if streams.count() > 0 => {}
            Next::Idle => {
                core.numbers.limit_idle_timeout.add(1);
                say_goaway(&mut session).await;
                break;
            }
            Next::Drain => {
                say_goaway(&mut session).await;
                // Streams that crossed the GOAWAY are refused; those that run may end.
                while let Some(Ok(())) = unless_none(&streams, poll_fn(|cx| session.poll_refuse(cx))).await {}
                break;
            }
        }
    }
    connection.settled(LAST_WORDS).await;
}

/// Sends a GOAWAY, and lets it go before anything else: the end of the connection would take it along.
async fn say_goaway(session: &mut Session) {
    poll_fn(|cx| {
        session.go_away(cx);
        Poll::Ready(())
    })
    .await;
    berth_runtime::sleep(FLUSH).await;
}

/// What a connection does next.
enum Next {
    Request((SendStream, RecvStream)),
    /// No request came for the idle time.
    Idle,
    Drain,
    /// The client broke the protocol.
    Failed(Fault),
    /// The connection is over.
    Lost,
}

async fn next(session: &mut Session, draining: &Draining, idle: &Deadline) -> Next {
    poll_fn(|cx| {
        if let Err(fault) = session.listen(cx) {
            return Poll::Ready(Next::Failed(fault));
        }
        match session.poll_request(cx) {
            Poll::Ready(Ok(request)) => return Poll::Ready(Next::Request(request)),
            Poll::Ready(Err(Lost)) => return Poll::Ready(Next::Lost),
            Poll::Pending => {}
        }
        if draining.poll_on(cx).is_ready() {
            return Poll::Ready(Next::Drain);
        }
        idle.poll_expired(cx).map(|()| Next::Idle)
    })
    .await
}

/// Polls a stream's handler once in place; one that has to wait becomes a task.
async fn begin(mut stream: Pin<Box<impl Future<Output = ()> + 'static>>) {
    if poll_fn(|cx| Poll::Ready(stream.as_mut().poll(cx).is_pending())).await {
        berth_runtime::spawn(stream);
    }
    if berth_runtime::out_of_budget() {
        berth_runtime::yield_now().await;
    }
}

/// Runs a future until it is done, or until no stream is left: then `None`.
async fn unless_none<F: Future>(streams: &OpenStreams, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        if streams.count() == 0 {
            return Poll::Ready(None);
        }
        streams.wake_after_last(cx);
        Poll::Pending
    })
    .await
}

/// One stream: request in, reply out.
async fn serve_stream<S: Service>(
    core: &Rc<Core<S>>,
    peer: Rc<Peer>,
    mut send: SendStream,
    receive: RecvStream,
) {
    let began = berth_runtime::now();
    let limit = core.limits.header_bytes;
    // The static table and the Huffman code make fields larger than they are, so that a section as sent may have all
    // that its fields may.
    let mut parts = Parts::new(receive, limit as u64, &core.numbers);
    let first = berth_runtime::timeout(core.limits.header_timeout, poll_fn(|cx| parts.poll_next(cx))).await;
    let head = match first {
        Ok(Ok(Some(Part::Headers(section)))) => head::request(&section, limit),
        Ok(Ok(_)) => {
            core.numbers.requests_malformed.add(1);
            return send.reset(Code::RequestIncomplete as u64);
        }
        Ok(Err(Cut::Refused(code))) => return send.reset(code as u64),
        Ok(Err(Cut::Gone)) => return,
        // The stream is dropped, which resets it.
        Err(_) => return core.numbers.limit_header_timeout.add(1),
    };
    let head = match head {
        Ok(head) => head,
        Err(Refused::TooLarge) => return answer_too_large(core, &peer, send, began).await,
        Err(why) => {
            core.numbers.requests_malformed.add(u64::from(why == Refused::Malformed));
            return send.reset(parts.refuse(why) as u64);
        }
    };
    let head_only = head.method == Method::HEAD;
    let mut record = core.begin(&head.method, &head.target, Version::HTTP_3, &peer, began);
    let reply = {
        let mut answering = std::pin::pin!(answer(core, peer, head, parts));
        poll_fn(|cx| match answering.as_mut().poll(cx) {
            Poll::Ready(reply) => Poll::Ready(Some(reply)),
            Poll::Pending => send.poll_stopped(cx).map(|()| None),
        })
        .await
    };
    match reply {
        Some(Ok((mut reply, tunnel))) => {
            record.status = reply.status;
            if let (Some(on_upgrade), Some(parts)) = (reply.upgrade.take(), tunnel) {
                core.finish(record);
                return upgrade(core, send, parts, reply, on_upgrade).await;
            }
            // Returning early drops the stream, which resets it.
            let _ = send_reply(core, send, reply, head_only).await;
        }
        Some(Err(Malformed)) => {
            core.numbers.requests_malformed.add(1);
            record.status = StatusCode::BAD_REQUEST;
            send.reset(Code::MessageError as u64);
        }
        None => record.status = StatusCode::from_u16(CLIENT_CLOSED).unwrap_or(StatusCode::BAD_REQUEST),
    }
    core.finish(record);
}

/// Answers a request whose head was not kept.
async fn answer_too_large<S: Service>(core: &Rc<Core<S>>, peer: &Peer, send: SendStream, began: Instant) {
    core.numbers.limit_header_bytes.add(1);
    let mut record = core.begin(&Method::GET, b"", Version::HTTP_3, peer, began);
    let reply = Reply::problem(Problem::HeadersTooLarge);
    record.status = reply.status;
    let _ = send_reply(core, send, reply, false).await;
    core.finish(record);
}

/// Why a request gets no reply: it is malformed, and its stream ends with H3_MESSAGE_ERROR.
struct Malformed;

/// Checks the request and calls the service. The parts come back for an upgrade.
async fn answer<S: Service>(
    core: &Rc<Core<S>>,
    peer: Rc<Peer>,
    head: head::Head,
    parts: Parts,
) -> Result<(Reply, Option<Parts>), Malformed> {
    let upgrade = match &head.protocol {
        Some(protocol) if protocol == websocket::PROTOCOL => Some(UpgradeWish::WebSocket),
        None if head.method != Method::CONNECT => None,
        _ => return Ok((Reply::problem(Problem::NotImplemented), None)),
    };
    let head::Head { method, target, authority, headers, length, .. } = head;
    let head = stream::Head { method, target, authority, version: Version::HTTP_3, headers, length, upgrade };
    let ended = parts.is_ended();
    if ended && length.is_some_and(|length| length > 0) {
        return Err(Malformed);
    }
    let mut tunnel = None;
    let request = request_of(core, peer, head, || match upgrade {
        Some(_) => {
            tunnel = Some(parts);
            RequestBody::Empty
        }
        None if ended => RequestBody::Empty,
        None => {
            body(core, Received { parts, declared: length, trailers: None, limit: core.limits.header_bytes })
        }
    });
    Ok(match request {
        Ok(request) => (core.service.call(request).await, tunnel),
        Err(problem) => (Reply::problem(problem), None),
    })
}

/// The body of a request. One that is not as long as declared is malformed (RFC 9114, 4.1.2).
struct Received {
    parts: Parts,
    /// What is still to come by the request's own word.
    declared: Option<u64>,
    /// The section of the trailers, which end the data.
    trailers: Option<Bytes>,
    limit: usize,
}

impl Received {
    fn malformed(&mut self) -> BodyError {
        self.parts.stop(Code::MessageError);
        BodyError::Malformed
    }
}

impl Source for Received {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let Ok(part) = ready!(self.parts.poll_next(cx)) else {
            return Poll::Ready(Some(Err(BodyError::Gone)));
        };
        let bytes = match part {
            Some(Part::Data(bytes)) => bytes,
            end => {
                if let Some(Part::Headers(section)) = end {
                    self.trailers = Some(section);
                }
                let short = self.declared.take().is_some_and(|left| left > 0);
                return Poll::Ready(short.then(|| Err(self.malformed())));
            }
        };
        if let Some(left) = &mut self.declared {
            match left.checked_sub(bytes.len() as u64) {
                Some(rest) => *left = rest,
                None => return Poll::Ready(Some(Err(self.malformed()))),
            }
        }
        Poll::Ready(Some(Ok(bytes)))
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, BodyError>> {
        let Some(section) = &self.trailers else { return Poll::Ready(Ok(None)) };
        // Only the end may follow them.
        if ready!(self.parts.poll_next(cx)).is_err() {
            return Poll::Ready(Err(BodyError::Gone));
        }
        Poll::Ready(match head::trailers(section, self.limit) {
            Ok(trailers) => Ok(Some(trailers)),
            Err(why) => {
                self.parts.refuse(why);
                Err(if why == Refused::Malformed { BodyError::Malformed } else { BodyError::Gone })
            }
        })
    }

    fn is_end(&self) -> bool {
        self.parts.is_ended() && self.trailers.is_none()
    }
}

/// A reply was not sent to its end: the client wants no more of it, took no byte for too long, or is gone.
struct Unsent;

impl From<StreamEnd> for Unsent {
    fn from(_: StreamEnd) -> Self {
        Self
    }
}

/// Accepts an upgrade: the head of the reply, and then what the two sides say to each other.
async fn upgrade<S>(core: &Core<S>, send: SendStream, parts: Parts, reply: Reply, on_upgrade: OnUpgrade) {
    let response = response(core, None, reply.status, reply.headers, None);
    let mut out = Vec::new();
    head::reply(&mut out, response.status(), response.headers());
    if write(core, &send, &mut [out.into()]).await.is_ok() {
        on_upgrade(Box::new(Tunnel::new(parts, send))).await;
    }
}

/// Sends the reply.
async fn send_reply<S>(
    core: &Core<S>,
    mut send: SendStream,
    reply: Reply,
    head_only: bool,
) -> Result<(), Unsent> {
    let Reply { status, headers, mut body, .. } = reply;
    let size = body.exact_size();
    let bodiless = head_only || size == Some(0) || !status_has_body(status);
    let response = response(core, None, status, headers, told_length(size, status, head_only));
    let mut out = Vec::with_capacity(HEAD_ROOM);
    head::reply(&mut out, status, response.headers());
    match (&mut body, size) {
        _ if bodiless => write(core, &send, &mut [out.into()]).await?,
        (Body::Full(bytes), _) => {
            frames::data(&mut out, bytes.len() as u64);
            write_bytes(core, &send, out, std::mem::take(bytes)).await?;
        }
        (Body::Stream(_), Some(size)) => {
            frames::data(&mut out, size);
            write(core, &send, &mut [out.into()]).await?;
            send_sized_body(core, &send, &mut body, size).await?;
        }
        (Body::Stream(_), None) => {
            write(core, &send, &mut [out.into()]).await?;
            send_body(core, &send, &mut body).await?;
        }
    }
    send.finish();
    Ok(())
}

/// A body whose size is known, and said already: one DATA frame. It fails if it has another size.
async fn send_sized_body<S>(
    core: &Core<S>,
    send: &SendStream,
    body: &mut Body,
    size: u64,
) -> Result<(), Unsent> {
    let mut left = size;
    loop {
        match next_piece(body, send).await? {
            Some(Piece::Data(bytes)) => {
                left = left.checked_sub(bytes.len() as u64).ok_or(Unsent)?;
                write_bytes(core, send, Vec::new(), bytes).await?;
            }
            _ if left > 0 => return Err(Unsent),
            Some(Piece::Trailers(trailers)) => return send_trailers(core, send, &trailers).await,
            None => return Ok(()),
        }
    }
}

/// Any other body: a DATA frame for each piece.
async fn send_body<S>(core: &Core<S>, send: &SendStream, body: &mut Body) -> Result<(), Unsent> {
    loop {
        match next_piece(body, send).await? {
            Some(Piece::Data(bytes)) if bytes.is_empty() => {}
            Some(Piece::Data(bytes)) => {
                let mut head = Vec::with_capacity(HEAD_ROOM);
                frames::data(&mut head, bytes.len() as u64);
                write_bytes(core, send, head, bytes).await?;
            }
            Some(Piece::Trailers(trailers)) => return send_trailers(core, send, &trailers).await,
            None => return Ok(()),
        }
    }
}

async fn send_trailers<S>(core: &Core<S>, send: &SendStream, trailers: &HeaderMap) -> Result<(), Unsent> {
    let mut out = Vec::new();
    head::trailing(&mut out, trailers);
    write(core, send, &mut [out.into()]).await
}

/// The next piece of a body; a client that stops the stream ends the body with it.
async fn next_piece(body: &mut Body, send: &SendStream) -> Result<Option<Piece>, Unsent> {
    loop {
        let frame = poll_fn(|cx| match body.poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Ok(frame)),
            Poll::Pending => send.poll_stopped(cx).map(|()| Err(Unsent)),
        });
        match frame.await? {
            Some(Ok(frame)) => match Piece::open(frame) {
                None => {}
                piece => return Ok(piece),
            },
            Some(Err(_)) => return Err(Unsent),
            None => return Ok(None),
        }
    }
}

/// Writes bytes of a body behind `out`, piece by piece.
async fn write_bytes<S>(
    core: &Core<S>,
    send: &SendStream,
    mut out: Vec<u8>,
    mut bytes: Bytes,
) -> Result<(), Unsent> {
    if bytes.len() <= SMALL {
        out.extend_from_slice(&bytes);
        return write(core, send, &mut [out.into()]).await;
    }
    let mut head = Bytes::from(out);
    while !bytes.is_empty() {
        let piece = bytes.split_to(bytes.len().min(PIECE));
        write(core, send, &mut [std::mem::take(&mut head), piece]).await?;
        if berth_runtime::out_of_budget() {
            berth_runtime::yield_now().await;
        }
    }
    Ok(())
}

/// Writes all of it; a client that takes none of it for `limits.send_timeout` is cut.
async fn write<S>(core: &Core<S>, send: &SendStream, data: &mut [Bytes]) -> Result<(), Unsent> {
    let written = berth_runtime::timeout(core.limits.send_timeout, poll_fn(|cx| send.poll_write(cx, data)));
    let Ok(written) = written.await else {
        core.numbers.limit_send_timeout.add(1);
        return Err(Unsent);
    };
    Ok(written?)
}

/// What a fuzzer calls: a byte that says what follows, one that says how it is cut, and the bytes of a stream or of a
/// section. Panics if what is read depends on the cut.
#[doc(hidden)]
pub fn fuzz_logic(data: &[u8]) {
    /// As sent, and as fields.
    const HEADERS_MAX: usize = 2000;
    let Some(([kind, cut], bytes)) = data.split_first_chunk() else { return };
    let piece = usize::from(*cut).max(1);
    match kind % 3 {
        0 => {
            let whole = frames::read_parts([bytes].into_iter(), HEADERS_MAX as u64);
            let pieces = frames::read_parts(bytes.chunks(piece), HEADERS_MAX as u64);
            assert_eq!(whole, pieces, "parts do not depend on the cut");
            for part in &whole.0 {
                if let Part::Headers(section) = part {
                    let _ = head::request(section, HEADERS_MAX);
                    let _ = head::trailers(section, HEADERS_MAX);
                }
            }
        }
        1 => {
            let whole = frames::read_unidirectional([bytes].into_iter());
            assert_eq!(
                whole,
                frames::read_unidirectional(bytes.chunks(piece)),
                "nor does what a stream tells"
            );
        }
        _ => {
            let _ = head::request(bytes, HEADERS_MAX);
            let _ = head::trailers(bytes, HEADERS_MAX);
        }
    }
}
