//! An HTTP/3 connection: the `h3` library between QUIC below and the service above.
//!
//! The library does framing, QPACK (without its dynamic table) and the order of frames; the lengths of frames are
//! bounded below it (`quic::guard`), and streams by QUIC. Each stream's handler is polled once in place, which
//! answers most requests without a task, and in the same poll of the connection that received the request and will
//! send the reply. One that has to wait becomes a task of its own.
//!
//! The connection ends gracefully (GOAWAY, then the streams that run) on drain and when idle. WebSocket is not offered
//! here (ADR 0007).

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use berth_runtime::Deadline;
use bytes::{Buf, Bytes};
use h3::error::{Code, ConnectionError, StreamError};
use h3::server::{RequestResolver, RequestStream};
use http::{HeaderMap, HeaderName, Method, StatusCode, Version, header, request};

use super::Core;
use super::body::{Body, BodyError, Piece, RequestBody, Source};
use super::message::{Peer, Problem, Reply, Service};
use super::stream::{body, declared_length, request as request_of, response, status_has_body};
use crate::drain::Draining;
use crate::quic::{Connection, RecvStream, SendStream};

type Requests = h3::server::Connection<Connection, Bytes>;

/// Bytes of a body that are written in one go: a client that takes none of them for `limits.send_timeout` is cut.
const PIECE: usize = 16 * 1024;
/// How long the last replies of a connection may take to be acknowledged before it closes.
const LAST_WORDS: Duration = Duration::from_secs(3);
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
    let handle = Rc::new(connection.handle());
    let mut builder = h3::server::builder();
    // The library's answer to fields beyond this is a reset; ours, below it, is a 431.
    builder.max_field_section_size(2 * core.limits.header_bytes as u64).send_grease(false);
    let mut requests: Requests = match builder.build(connection).await {
        Ok(requests) => requests,
        Err(error) => return count_end(core, &error),
    };
    let streams = Rc::<Streams>::default();
    let stream = |resolver| {
        let (alive, core, peer) = (Alive::new(&streams), Rc::clone(core), Rc::clone(&peer));
        let handle = Rc::clone(&handle);
        Box::pin(async move {
            let _alive = alive;
            serve_stream(&core, peer, resolver, &handle).await;
        })
    };
    let idle = Deadline::new();
    loop {
        idle.set(core.limits.idle_timeout);
        match next(&mut requests, draining, &idle).await {
            Next::Request(resolver) => begin(stream(resolver)).await,
            Next::Failed(error) => return count_end(core, &error),
            Next::Idle if streams.count.get() > 0 => {}
            Next::Idle => {
                core.numbers.limit_idle_timeout.add(1);
                say_goaway(&mut requests).await;
                break;
            }
            Next::Drain => {
                say_goaway(&mut requests).await;
                // Streams that crossed the GOAWAY are refused by the library; those that run may end.
                while let Some(Ok(Some(resolver))) = streams.unless_none(requests.accept()).await {
                    begin(stream(resolver)).await;
                }
                break;
            }
            Next::End => break,
        }
    }
    handle.settled(LAST_WORDS).await;
}

/// Sends a GOAWAY, and lets it go before anything else: the end of the connection would take it along.
async fn say_goaway(requests: &mut Requests) {
    if let Err(error) = requests.shutdown(0).await {
        tracing::debug!(%error, "http3.goaway");
    }
    berth_runtime::sleep(FLUSH).await;
}

/// What a connection does next.
#[allow(clippy::large_enum_variant, reason = "nearly every value is the large one, and is used at once")]
enum Next {
    Request(RequestResolver<Connection, Bytes>),
    /// No request came for the idle time.
    Idle,
    Drain,
    /// The client said that it is done.
    End,
    Failed(ConnectionError),
}

async fn next(requests: &mut Requests, draining: &Draining, idle: &Deadline) -> Next {
    let mut accepted = std::pin::pin!(requests.accept());
    poll_fn(|cx| {
        if let Poll::Ready(accepted) = accepted.as_mut().poll(cx) {
            return Poll::Ready(match accepted {
                Ok(Some(resolver)) => Next::Request(resolver),
                Ok(None) => Next::End,
                Err(error) => Next::Failed(error),
            });
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

/// The streams of a connection that are being served.
#[derive(Default)]
struct Streams {
    count: Cell<u32>,
    /// Who waits for the last one to end.
    waiting: Cell<Option<Waker>>,
}

impl Streams {
    /// Runs a future until it is done, or until no stream is left: then `None`.
    async fn unless_none<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            if self.count.get() == 0 {
                return Poll::Ready(None);
            }
            self.waiting.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await
    }
}

/// Counts a stream as long as it lives.
struct Alive(Rc<Streams>);

impl Alive {
    fn new(streams: &Rc<Streams>) -> Self {
        streams.count.set(streams.count.get() + 1);
        Self(Rc::clone(streams))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        if self.0.count.get() == 0
            && let Some(waiting) = self.0.waiting.take()
        {
            waiting.wake();
        }
    }
}

fn count_end<S>(core: &Core<S>, error: &ConnectionError) {
    if let ConnectionError::Local { error, .. } = error {
        core.numbers.http3_protocol_errors.add(1);
        tracing::debug!(?error, "http3.ended");
    }
}

/// One stream: request in, reply out.
async fn serve_stream<S: Service>(
    core: &Rc<Core<S>>,
    peer: Rc<Peer>,
    resolver: RequestResolver<Connection, Bytes>,
    connection: &Connection,
) {
    let began = berth_runtime::now();
    let resolved = berth_runtime::timeout(core.limits.header_timeout, resolver.resolve_request()).await;
    let (request, stream) = match resolved {
        Ok(Ok(resolved)) => resolved,
        Ok(Err(error)) => return count_refused(core, &error),
        // The stream was dropped with the future, which resets it.
        Err(_) => return core.numbers.limit_header_timeout.add(1),
    };
    let id = stream.id();
    let (mut send, receive) = stream.split();
    let head_only = request.method() == Method::HEAD;
    let target = request.uri().path_and_query().map_or("*", http::uri::PathAndQuery::as_str);
    let mut record = core.begin(request.method(), target.as_bytes(), Version::HTTP_3, &peer, began);
    let reply = {
        let mut answering = std::pin::pin!(answer(core, Rc::clone(&peer), request.into_parts().0, receive));
        let reply = poll_fn(|cx| match answering.as_mut().poll(cx) {
            Poll::Ready(reply) => Poll::Ready(Some(reply)),
            Poll::Pending => connection.poll_stopped(cx, id).map(|()| None),
        });
        reply.await
    };
    match reply {
        Some(Ok(reply)) => {
            record.status = reply.status;
            let stopped = |cx: &mut Context<'_>| connection.poll_stopped(cx, id);
            let _ = send_reply(core, &mut send, reply, head_only, stopped).await;
        }
        Some(Err(Malformed)) => {
            core.numbers.requests_malformed.add(1);
            record.status = StatusCode::BAD_REQUEST;
            send.stop_stream(Code::H3_MESSAGE_ERROR);
        }
        None => record.status = StatusCode::from_u16(CLIENT_CLOSED).unwrap_or(StatusCode::BAD_REQUEST),
    }
    core.finish(record);
}

fn count_refused<S>(core: &Core<S>, error: &StreamError) {
    match error {
        StreamError::HeaderTooBig { .. } => core.numbers.limit_header_bytes.add(1),
        StreamError::StreamError { .. } => core.numbers.requests_malformed.add(1),
        // Of the client's doing, or counted with the connection.
        _ => {}
    }
    tracing::debug!(%error, "http3.refused");
}

/// Why a request gets no reply: it is malformed, and its stream ends with H3_MESSAGE_ERROR.
struct Malformed;

/// Checks the request and calls the service.
async fn answer<S: Service>(
    core: &Rc<Core<S>>,
    peer: Rc<Peer>,
    parts: request::Parts,
    receive: RequestStream<RecvStream, Bytes>,
) -> Result<Reply, Malformed> {
    if CONNECTION_FIELDS.iter().any(|name| parts.headers.contains_key(name)) {
        return Err(Malformed);
    }
    if parts.method == Method::CONNECT {
        return Ok(Reply::problem(Problem::NotImplemented));
    }
    let fields: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if fields > core.limits.header_bytes {
        core.numbers.limit_header_bytes.add(1);
        return Ok(Reply::problem(Problem::HeadersTooLarge));
    }
    let mut received = Received { declared: declared_length(&parts.headers), stream: receive, first: None };
    let extent = received.look()?;
    let request = request_of(core, peer, parts, None, || match extent {
        Extent::Nothing => RequestBody::Empty,
        Extent::Something => body(core, received),
    });
    Ok(match request {
        Ok(request) => core.service.call(request).await,
        Err(problem) => Reply::problem(problem),
    })
}

/// Fields that speak of a connection and must not be in a request (RFC 9114, 4.2). The library leaves that to us.
const CONNECTION_FIELDS: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// The receiving side of a stream. A body that is not as long as declared is malformed (RFC 9114, 4.1.2).
struct Received {
    stream: RequestStream<RecvStream, Bytes>,
    /// What is still to come by the request's own word.
    declared: Option<u64>,
    /// What came while it was found out whether anything comes.
    first: Option<Bytes>,
}

/// What is known of a request's body before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// There is none.
    Nothing,
    /// There may be one.
    Something,
}

impl Received {
    /// Looks whether the stream ended with the request's head, as nearly every stream does.
    fn look(&mut self) -> Result<Extent, Malformed> {
        match self.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(None)) if self.declared.is_none_or(|left| left == 0) => Ok(Extent::Nothing),
            Poll::Ready(Ok(None)) => Err(Malformed),
            Poll::Ready(Ok(Some(bytes))) => {
                self.first = Some(bytes);
                Ok(Extent::Something)
            }
            // Whoever reads the body finds out again.
            Poll::Ready(Err(_)) | Poll::Pending => Ok(Extent::Something),
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        let data = ready!(self.stream.poll_recv_data(cx))?;
        Poll::Ready(Ok(data.map(|mut data| data.copy_to_bytes(data.remaining()))))
    }

    fn malformed(&mut self) -> BodyError {
        self.stream.stop_sending(Code::H3_MESSAGE_ERROR);
        BodyError::Malformed
    }
}

impl Source for Received {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let bytes = match self.first.take() {
            Some(bytes) => Some(bytes),
            None => match ready!(self.poll_next(cx)) {
                Ok(bytes) => bytes,
                Err(_) => return Poll::Ready(Some(Err(BodyError::Gone))),
            },
        };
        let Some(bytes) = bytes else {
            let short = self.declared.take().is_some_and(|left| left > 0);
            return Poll::Ready(short.then(|| Err(self.malformed())));
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
        self.stream.poll_recv_trailers(cx).map_err(|_| BodyError::Gone)
    }

    fn is_end(&self) -> bool {
        false // The library does not say before it is read.
    }
}

/// A reply was not sent to its end: the client wants no more of it, took no byte for too long, or is gone.
struct Cut;

impl From<StreamError> for Cut {
    fn from(_: StreamError) -> Self {
        Self
    }
}

/// Sends the reply. Returning early drops the stream, which resets it.
async fn send_reply<S: Service>(
    core: &Rc<Core<S>>,
    send: &mut RequestStream<SendStream, Bytes>,
    reply: Reply,
    head_only: bool,
    stopped: impl Fn(&mut Context<'_>) -> Poll<()>,
) -> Result<(), Cut> {
    let Reply { status, headers, mut body, .. } = reply;
    let size = body.exact_size();
    let bodiless = head_only || size == Some(0) || !status_has_body(status);
    send.send_response(response(core, None, status, headers, size.filter(|_| status_has_body(status))))
        .await?;
    if !bodiless {
        send_body(core, send, &mut body, stopped).await?;
    }
    Ok(send.finish().await?)
}

async fn send_body<S>(
    core: &Core<S>,
    send: &mut RequestStream<SendStream, Bytes>,
    body: &mut Body,
    stopped: impl Fn(&mut Context<'_>) -> Poll<()>,
) -> Result<(), Cut> {
    loop {
        match next_piece(body, &stopped).await? {
            Some(Piece::Data(bytes)) => send_bytes(core, send, bytes).await?,
            Some(Piece::Trailers(trailers)) => return Ok(send.send_trailers(trailers).await?),
            None => return Ok(()),
        }
    }
}

/// The next piece of a body; a client that stops the stream ends the body with it.
async fn next_piece(
    body: &mut Body,
    stopped: impl Fn(&mut Context<'_>) -> Poll<()>,
) -> Result<Option<Piece>, Cut> {
    loop {
        let frame = poll_fn(|cx| match body.poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Ok(frame)),
            Poll::Pending => stopped(cx).map(|()| Err(Cut)),
        });
        match frame.await? {
            Some(Ok(frame)) => match Piece::open(frame) {
                None => {}
                piece => return Ok(piece),
            },
            Some(Err(_)) => return Err(Cut),
            None => return Ok(None),
        }
    }
}

async fn send_bytes<S>(
    core: &Core<S>,
    send: &mut RequestStream<SendStream, Bytes>,
    mut bytes: Bytes,
) -> Result<(), Cut> {
    while !bytes.is_empty() {
        let piece = bytes.split_to(bytes.len().min(PIECE));
        let sent = berth_runtime::timeout(core.limits.send_timeout, send.send_data(piece)).await;
        let Ok(sent) = sent else {
            core.numbers.limit_send_timeout.add(1);
            return Err(Cut);
        };
        sent?;
        if berth_runtime::out_of_budget() {
            berth_runtime::yield_now().await;
        }
    }
    Ok(())
}
