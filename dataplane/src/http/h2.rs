//! An HTTP/2 connection: the `h2` library between a frame meter below and the service above.
//!
//! The library does framing, HPACK and flow control; [`super::h2_meter`] bounds what it does not.
//! Each stream's handler is polled once in place, which answers most requests without a task; one
//! that has to wait becomes a task of its own, so that a slow stream holds no other.
//!
//! The connection ends gracefully (GOAWAY, then the streams that run) on drain and when idle, and
//! abruptly (GOAWAY ENHANCE_YOUR_CALM) when the meter reports a flood.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use berth_runtime::{Deadline, spawn};
use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Version, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Core;
use super::body::{BodyError, Piece, RequestBody, Source};
use super::h2_meter::{Breach, Flood, FrameMeter, Reactions};
use super::message::{Peer, Problem, Reply, Service, UpgradeWish};
use super::prefixed::hand_out;
use super::stream::{
    Head, OpenStream, OpenStreams, body, request as request_of, response, status_has_body, told_length,
};
use crate::drain::Draining;
use crate::stats::CoreNumbers;

/// Bytes of reply data that the library may hold per stream before `poll_capacity` waits.
const SEND_BUFFER: usize = 64 * 1024;
/// Bytes that a client may send on a stream before the handler has read: a body streams at this
/// per round trip, and a connection holds at most this per stream.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all streams of a connection together.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// How long an ended connection may take to send its last frames.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(1);

/// Serves one connection until it ends.
pub async fn serve<T, S>(io: T, core: &Rc<Core<S>>, peer: Rc<Peer>, draining: &Draining)
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    S: Service,
{
    core.numbers.http2_connections.add(1);
    let shared = Rc::new(Shared::default());
    let metered = Metered {
        io,
        meter: FrameMeter::new(core.meter_limits),
        reactions: Reactions::default(),
        numbers: Arc::clone(&core.numbers),
        started: berth_runtime::now(),
        shared: Rc::clone(&shared),
    };
    let limits = &core.limits;
    let handshake = h2::server::Builder::new()
        .max_concurrent_streams(limits.http2.streams)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        // Resets that the peer provokes from us (MadeYouReset) are bounded like its own.
        .max_local_error_reset_streams(Some(limits.http2.resets as usize))
        .enable_connect_protocol()
        .handshake::<_, Bytes>(metered);
    let connection = match berth_runtime::timeout(limits.header_timeout, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return count_end(core, &shared, &error),
        Err(_) => return core.numbers.limit_header_timeout.add(1),
    };
    let mut driver = Driver {
        connection,
        core: Rc::clone(core),
        peer,
        shared,
        deadline: Deadline::new(),
        state: State::Open,
        quiet: false,
    };
    poll_fn(|cx| {
        driver.shared.streams.wake_nobody(); // Streams that end while the driver runs need not wake it.
        let outcome = driver.poll(cx, draining);
        // The library does not wake the driver while its socket is full, and then it would not see that its last
        // stream has ended.
        driver.shared.streams.wake_after_last(cx);
        outcome
    })
    .await;
}

/// What the connection, its meter and its streams share.
#[derive(Default)]
struct Shared {
    breach: Cell<Option<Breach>>,
    /// The flood for which the library sent GOAWAY by itself.
    library_calmed: Cell<Option<Flood>>,
    streams: Rc<OpenStreams>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// A GOAWAY is out; the streams that run may end.
    Leaving,
    /// The last frames are on their way.
    Ending,
}

struct Driver<T: AsyncRead + AsyncWrite + Unpin, S: Service> {
    connection: Connection<Metered<T>, Bytes>,
    core: Rc<Core<S>>,
    peer: Rc<Peer>,
    shared: Rc<Shared>,
    deadline: Deadline,
    state: State,
    /// Whether the deadline counts the idle time: no stream is open.
    quiet: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin + 'static, S: Service> Driver<T, S> {
    fn poll(&mut self, cx: &mut Context<'_>, draining: &Draining) -> Poll<()> {
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.start_stream(cx, request, respond);
                    if berth_runtime::out_of_budget() {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    continue;
                }
                Poll::Ready(Some(Err(error))) => {
                    count_end(&self.core, &self.shared, &error);
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => {}
            }
            if self.state != State::Ending
                && let Some(breach) = self.shared.breach.get()
            {
                count_flood(&self.core, breach.flood);
                self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                self.state = State::Ending;
                self.deadline.set(LAST_WORDS);
                continue;
            }
            if self.state == State::Open && draining.poll_on(cx).is_ready() {
                self.leave();
                continue;
            }
            self.watch_idle();
            ready!(self.deadline.poll_expired(cx));
            match self.state {
                State::Open => {
                    self.core.numbers.limit_idle_timeout.add(1);
                    self.leave();
                    self.deadline.set(LAST_WORDS);
                }
                State::Leaving | State::Ending => return Poll::Ready(()),
            }
        }
    }

    fn leave(&mut self) {
        self.connection.graceful_shutdown();
        self.state = State::Leaving;
        self.quiet = false;
        self.deadline.clear();
    }

    /// Starts and stops the idle time as streams come and go.
    fn watch_idle(&mut self) {
        let quiet = self.shared.streams.count() == 0;
        if self.state != State::Open || quiet == self.quiet {
            return;
        }
        self.quiet = quiet;
        if quiet {
            self.deadline.set(self.core.limits.idle_timeout);
        } else {
            self.deadline.clear();
        }
    }

    fn start_stream(
        &mut self,
        cx: &mut Context<'_>,
        request: http::Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) {
        let alive = OpenStream::new(&self.shared.streams);
        let core = Rc::clone(&self.core);
        let peer = Rc::clone(&self.peer);
        let mut stream = Box::pin(async move {
            let _alive = alive;
            handle(&core, peer, request, respond).await;
        });
        if stream.as_mut().poll(cx).is_pending() {
            spawn(stream);
        }
    }
}

fn count_end<S: Service>(core: &Core<S>, shared: &Shared, error: &h2::Error) {
    if let Some(breach) = shared.breach.get() {
        count_flood(core, breach.flood);
    } else if let Some(flood) = shared.library_calmed.get() {
        count_flood(core, flood);
    } else if !error.is_io() {
        core.numbers.http2_protocol_errors.add(1);
        tracing::debug!(%error, "http2.ended");
    }
}

fn count_flood<S: Service>(core: &Core<S>, flood: Flood) {
    let numbers = &core.numbers;
    match flood {
        Flood::Reset => &numbers.limit_http2_resets,
        Flood::Settings => &numbers.limit_http2_settings,
        Flood::Ping => &numbers.limit_http2_pings,
        Flood::Priority | Flood::Other => &numbers.limit_http2_priorities,
        Flood::WindowUpdate => &numbers.limit_http2_window_updates,
        Flood::Empty => &numbers.limit_http2_empty_frames,
        Flood::Continuation | Flood::HeaderBlock => &numbers.limit_http2_continuations,
    }
    .add(1);
    tracing::debug!(flood = flood.label(), key = flood.key(), "http2.flood");
}

/// One stream: request in, reply out.
async fn handle<S: Service>(
    core: &Rc<Core<S>>,
    peer: Rc<Peer>,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let began = berth_runtime::now();
    let head_only = request.method() == Method::HEAD;
    let target = request.uri().path_and_query().map_or("*", http::uri::PathAndQuery::as_str);
    let mut record = core.begin(request.method(), target.as_bytes(), Version::HTTP_2, &peer, began);
    let (mut reply, tunnel_in) = answer(core, Rc::clone(&peer), request).await;
    record.status = reply.status;
    if let (Some(on_upgrade), Some(receive)) = (reply.upgrade.take(), tunnel_in) {
        let response = response(core, core.alt_svc.value(&peer), reply.status, reply.headers, None);
        if let Ok(send) = respond.send_response(response, false) {
            core.finish(record);
            on_upgrade(Box::new(Tunnel::new(receive, send))).await;
        }
        return;
    }
    let _ = send_reply(core, &peer, &mut respond, reply, head_only).await;
    core.finish(record);
}

/// Checks the request and calls the service. The receive side comes back for an upgrade.
async fn answer<S: Service>(
    core: &Rc<Core<S>>,
    peer: Rc<Peer>,
    request: http::Request<RecvStream>,
) -> (Reply, Option<RecvStream>) {
    let (parts, stream) = request.into_parts();
    let wish = match parts.extensions.get::<h2::ext::Protocol>() {
        Some(protocol) if protocol.as_str() == "websocket" => Some(UpgradeWish::WebSocket),
        Some(_) => return (Reply::problem(Problem::NotImplemented), None),
        None if parts.method == Method::CONNECT => return (Reply::problem(Problem::NotImplemented), None),
        None => None,
    };
    let mut tunnel = None;
    let target = parts.uri.path_and_query().map_or("*", http::uri::PathAndQuery::as_str);
    let head = Head {
        method: parts.method,
        target: Bytes::copy_from_slice(target.as_bytes()),
        authority: parts.uri.authority().map(|name| Bytes::copy_from_slice(name.as_str().as_bytes())),
        version: parts.version,
        length: declared_length(&parts.headers),
        headers: parts.headers,
        upgrade: wish,
    };
    let request = request_of(core, peer, head, || match wish {
        Some(_) => {
            tunnel = Some(stream);
            RequestBody::Empty
        }
        None if stream.is_end_stream() => RequestBody::Empty,
        None => body(core, Received(stream)),
    });
    match request {
        Ok(request) => (core.service.call(request).await, tunnel),
        Err(problem) => (Reply::problem(problem), None),
    }
}

/// The length that a request declares. The library has seen that there is one at most, and that it is kept.
fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The receiving side of a stream.
struct Received(RecvStream);

impl Source for Received {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        Poll::Ready(match ready!(self.0.poll_data(cx)) {
            Some(Ok(bytes)) => {
                // It fails only for more than was received.
                let _ = self.0.flow_control().release_capacity(bytes.len());
                Some(Ok(bytes))
            }
            Some(Err(_)) => Some(Err(BodyError::Gone)),
            None => None,
        })
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, BodyError>> {
        self.0.poll_trailers(cx).map_err(|_| BodyError::Gone)
    }

    fn is_end(&self) -> bool {
        self.0.is_end_stream()
    }
}

async fn send_reply<S: Service>(
    core: &Rc<Core<S>>,
    peer: &Peer,
    respond: &mut SendResponse<Bytes>,
    reply: Reply,
    head_only: bool,
) -> Result<(), h2::Error> {
    let Reply { status, headers, mut body, .. } = reply;
    let size = body.exact_size();
    let bodiless = head_only || size == Some(0) || !status_has_body(status);
    let length = told_length(size, status, head_only);
    let response = response(core, core.alt_svc.value(peer), status, headers, length);
    let mut stream = respond.send_response(response, bodiless)?;
    if bodiless {
        return Ok(());
    }
    let mut last_known = size;
    loop {
        let frame = poll_fn(|cx| {
            // A client that reset the stream ends the reply's body with it.
            if let Poll::Ready(Ok(reason)) = stream.poll_reset(cx) {
                return Poll::Ready(Err(reason));
            }
            body.poll_frame(cx).map(Ok)
        });
        match frame.await.map_err(h2::Error::from)? {
            Some(Ok(frame)) => match Piece::open(frame) {
                Some(Piece::Data(bytes)) => {
                    last_known = last_known.map(|left| left.saturating_sub(bytes.len() as u64));
                    let end = last_known == Some(0);
                    send_bytes(core, &mut stream, bytes, end).await?;
                    if end {
                        return Ok(());
                    }
                }
                Some(Piece::Trailers(trailers)) => return stream.send_trailers(trailers),
                None => {}
            },
            Some(Err(_)) => {
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Ok(());
            }
            None => return stream.send_data(Bytes::new(), true),
        }
    }
}

/// Sends bytes as the client's window allows; a client that takes none for too long is cut off.
async fn send_bytes<S: Service>(
    core: &Core<S>,
    stream: &mut SendStream<Bytes>,
    mut bytes: Bytes,
    end: bool,
) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        if stream.capacity() == 0 {
            let capacity =
                berth_runtime::timeout(core.limits.send_timeout, poll_fn(|cx| stream.poll_capacity(cx)));
            match capacity.await {
                Ok(Some(capacity)) => capacity?,
                Ok(None) => return Err(Reason::CANCEL.into()),
                Err(_) => {
                    core.numbers.limit_send_timeout.add(1);
                    stream.send_reset(Reason::CANCEL);
                    return Err(Reason::CANCEL.into());
                }
            };
        }
        let part = bytes.split_to(stream.capacity().min(bytes.len()));
        stream.send_data(part, end && bytes.is_empty())?;
    }
    Ok(())
}

/// Feeds the meter with what the peer sends, below the library.
///
/// The library reads until the stream is dry, so a peer that sends without pause would hold the
/// core: nothing is read or written when the task's budget is used up.
struct Metered<T> {
    io: T,
    meter: FrameMeter,
    reactions: Reactions,
    numbers: Arc<CoreNumbers>,
    started: Instant,
    shared: Rc<Shared>,
}

/// Bytes that the library gets before it is asked again whether the task's budget is used up: it works
/// off all that it has in one go, and this may be 40 small requests.
const READ_AT_ONCE: usize = 2 * 1024;

impl<T: AsyncRead + Unpin> AsyncRead for Metered<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.shared.breach.get().is_some() {
            return Poll::Pending; // What a flooding peer sends is not read any more.
        }
        if berth_runtime::out_of_budget() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = into.filled().len();
        let room = into.remaining().min(READ_AT_ONCE);
        let mut piece = ReadBuf::new(into.initialize_unfilled_to(room));
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut piece))?;
        let count = piece.filled().len();
        into.advance(count);
        let now_ms = berth_runtime::now().saturating_duration_since(self.started).as_millis() as u64;
        if let Err(breach) = self.meter.observe(now_ms, &into.filled()[before..]) {
            self.shared.breach.set(Some(breach));
            // The library never sees these bytes; the driver looks at the breach next.
            into.set_filled(before);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // The library encodes replies for as long as the stream takes them: thousands of small ones.
        if berth_runtime::out_of_budget() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let sent = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
        self.meter.note_sent(sent); // Who is sent more may answer with more window updates.
        let mut left = sent;
        for slice in slices {
            let part = &slice[..slice.len().min(left)];
            left -= part.len();
            self.reactions.observe(part);
        }
        let refused = self.reactions.take_refused();
        self.numbers.limit_http2_streams.add(refused);
        self.shared.library_calmed.set(self.reactions.goaway());
        Poll::Ready(Ok(sent))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The bytes of an upgraded stream (RFC 8441).
struct Tunnel {
    receive: RecvStream,
    read: Bytes,
    send: SendStream<Bytes>,
}

impl Tunnel {
    fn new(receive: RecvStream, send: SendStream<Bytes>) -> Self {
        Self { receive, read: Bytes::new(), send }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(bytes)) => {
                    let _ = self.receive.flow_control().release_capacity(bytes.len());
                    self.read = bytes;
                }
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        hand_out(&mut self.read, into);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(bytes.len());
        if self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let count = bytes.len().min(self.send.capacity());
        self.send.send_data(Bytes::copy_from_slice(&bytes[..count]), false).map_err(io::Error::other)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = self.send.send_data(Bytes::new(), true);
        Poll::Ready(Ok(()))
    }
}
