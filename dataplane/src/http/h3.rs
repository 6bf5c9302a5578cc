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
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h3::error::{ConnectionError, StreamError};
use h3::server::{RequestResolver, RequestStream};
use http::{HeaderMap, Method, StatusCode, Version, request};

use super::Core;
use super::body::{Body, Gone, Piece, Source};
use super::message::{Peer, Problem, Reply, Service};
use super::stream::{body, request as request_of, response, status_has_body};
use crate::drain::Draining;
use crate::quic::{Connection, RecvStream, SendStream};

type Requests = h3::server::Connection<Connection, Bytes>;

/// Bytes of a body that are written in one go: a client that takes none of them for `limits.send_timeout` is cut.
const PIECE: usize = 16 * 1024;
/// How long the last replies of a connection may take to be acknowledged before it closes.
const LAST_WORDS: Duration = Duration::from_secs(3);
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
    let streams = Rc::new(Cell::new(0));
    let stream = |resolver| {
        let (alive, core, peer) = (Alive::new(&streams), Rc::clone(core), Rc::clone(&peer));
        let handle = Rc::clone(&handle);
        async move {
            let _alive = alive;
            serve_stream(&core, peer, resolver, &handle).await;
        }
    };
    loop {
        let accepted = berth_runtime::timeout(core.limits.idle_timeout, requests.accept());
        match draining.or(accepted).await {
            Some(Ok(Ok(Some(resolver)))) => begin(stream(resolver)).await,
            Some(Ok(Ok(None))) => break,
            Some(Ok(Err(error))) => return count_end(core, &error),
            Some(Err(_)) if streams.get() > 0 => {}
            Some(Err(_)) => {
                core.numbers.limit_idle_timeout.add(1);
                let _ = requests.shutdown(0).await;
                break;
            }
            None => {
                // The streams that run may end, and those that crossed the GOAWAY are refused by the library.
                let _ = requests.shutdown(0).await;
                while let Ok(Some(resolver)) = requests.accept().await {
                    begin(stream(resolver)).await;
                }
                break;
            }
        }
    }
    handle.settled(LAST_WORDS).await;
}

/// Polls a stream's handler once in place; one that has to wait becomes a task.
async fn begin(stream: impl Future<Output = ()> + 'static) {
    let mut stream = Box::pin(stream);
    if poll_fn(|cx| Poll::Ready(stream.as_mut().poll(cx).is_pending())).await {
        berth_runtime::spawn(stream);
    }
    if berth_runtime::out_of_budget() {
        berth_runtime::yield_now().await;
    }
}

/// Counts a stream as long as it lives.
struct Alive(Rc<Cell<u32>>);

impl Alive {
    fn new(streams: &Rc<Cell<u32>>) -> Self {
        streams.set(streams.get() + 1);
        Self(Rc::clone(streams))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
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
    let mut answering = std::pin::pin!(answer(core, Rc::clone(&peer), request.into_parts().0, receive));
    let reply = poll_fn(|cx| match answering.as_mut().poll(cx) {
        Poll::Ready(reply) => Poll::Ready(Some(reply)),
        Poll::Pending => connection.poll_stopped(cx, id).map(|()| None),
    });
    let Some(reply) = reply.await else {
        record.status = StatusCode::from_u16(CLIENT_CLOSED).unwrap_or(StatusCode::BAD_REQUEST);
        return core.finish(record);
    };
    record.status = reply.status;
    let stopped = |cx: &mut Context<'_>| connection.poll_stopped(cx, id);
    let _ = send_reply(core, &peer, &mut send, reply, head_only, stopped).await;
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

/// Checks the request and calls the service.
async fn answer<S: Service>(
    core: &Rc<Core<S>>,
    peer: Rc<Peer>,
    parts: request::Parts,
    receive: RequestStream<RecvStream, Bytes>,
) -> Reply {
    if parts.method == Method::CONNECT {
        return Reply::problem(Problem::NotImplemented);
    }
    let fields: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if fields > core.limits.header_bytes {
        core.numbers.limit_header_bytes.add(1);
        return Reply::problem(Problem::HeadersTooLarge);
    }
    match request_of(core, peer, parts, None, || body(core, Received(receive))) {
        Ok(request) => core.service.call(request).await,
        Err(problem) => Reply::problem(problem),
    }
}

/// The receiving side of a stream.
struct Received(RequestStream<RecvStream, Bytes>);

impl Source for Received {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Gone>>> {
        Poll::Ready(match ready!(self.0.poll_recv_data(cx)) {
            Ok(Some(mut data)) => Some(Ok(data.copy_to_bytes(data.remaining()))),
            Ok(None) => None,
            Err(_) => Some(Err(Gone)),
        })
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, Gone>> {
        self.0.poll_recv_trailers(cx).map_err(|_| Gone)
    }

    fn is_end(&self) -> bool {
        false // The library does not say before it is read.
    }
}

/// Why a reply was not sent to its end.
enum Cut {
    /// The client wants no more of it, or is gone.
    Gone,
    /// It took no byte for too long.
    TooSlow,
}

impl From<StreamError> for Cut {
    fn from(_: StreamError) -> Self {
        Self::Gone
    }
}

/// Sends the reply. Returning early drops the stream, which resets it.
async fn send_reply<S: Service>(
    core: &Rc<Core<S>>,
    peer: &Peer,
    send: &mut RequestStream<SendStream, Bytes>,
    reply: Reply,
    head_only: bool,
    stopped: impl Fn(&mut Context<'_>) -> Poll<()>,
) -> Result<(), Cut> {
    let Reply { status, headers, mut body, .. } = reply;
    let size = body.exact_size();
    let bodiless = head_only || size == Some(0) || !status_has_body(status);
    send.send_response(response(core, peer, status, headers, size.filter(|_| status_has_body(status))))
        .await?;
    while !bodiless {
        match next_piece(&mut body, &stopped).await? {
            Some(Piece::Data(bytes)) => {
                let sent = send_bytes(core, send, bytes).await;
                if let Err(Cut::TooSlow) = sent {
                    core.numbers.limit_send_timeout.add(1);
                }
                sent?;
            }
            Some(Piece::Trailers(trailers)) => {
                send.send_trailers(trailers).await?;
                break;
            }
            None => break,
        }
    }
    Ok(send.finish().await?)
}

/// The next piece of a body; a client that stops the stream ends the body with it.
async fn next_piece(
    body: &mut Body,
    stopped: impl Fn(&mut Context<'_>) -> Poll<()>,
) -> Result<Option<Piece>, Cut> {
    loop {
        let frame = poll_fn(|cx| match body.poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Ok(frame)),
            Poll::Pending => stopped(cx).map(|()| Err(Cut::Gone)),
        });
        match frame.await? {
            Some(Ok(frame)) => match Piece::open(frame) {
                None => {}
                piece => return Ok(piece),
            },
            Some(Err(_)) => return Err(Cut::Gone),
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
        sent.map_err(|_| Cut::TooSlow)??;
        if berth_runtime::out_of_budget() {
            berth_runtime::yield_now().await;
        }
    }
    Ok(())
}
