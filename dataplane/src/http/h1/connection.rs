//! An HTTP/1.1 connection: the codec of this folder driven over a stream, one request at a time.
//!
//! ```text
//!           ┌──────────── keep-alive ────────────┐
//!           ▼                                    │
//!   idle ─▶ head ─▶ exchange (handler, bodies both ways) ─▶ linger, close
//!                        └─▶ tunnel (upgrade)
//! ```
//!
//! * *Idle costs nothing*: between requests a connection holds no read buffer, no write buffer and
//!   no request state. It reads into the core's scratch and keeps only what arrived; the exchange
//!   lives in a box of its own, freed with its end.
//! * *Back-pressure*: the request body is read when the handler asks for it, the reply's body is
//!   polled when the last piece was written. One piece of each is all that is held.
//! * *Pipelining*: requests wait in the read buffer, which is bounded by one head; replies go in
//!   order because the next head is not looked at before the reply is written.
//! * *A client that goes away* while its handler runs ends the handler (the future is dropped). A
//!   half-closed client counts as gone, as with nginx and hyper.
//! * *Closing* never loses a reply: with request bytes unread the kernel would send a reset that
//!   overtakes it, so the write side is shut first and the rest is read and dropped, bounded.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use berth_runtime::{Deadline, timeout};
use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode, Version, header};
use http_body::Frame;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::response::{Afterwards, Asked, BodyFraming, BodySize, ChunkHead, ResponseFraming, Switch};
use super::{
    BodyDecoder, BodyLength, BodyLimits, Decoded, Expectation, HeadError, HeadParser, HeaderError,
    HeaderLimits, RequestHead, Upgrade, response,
};
use crate::drain::Draining;
use crate::http::body::{Body, BodyError, Demand, Piece, PipeFeeder, RequestBody, pipe};
use crate::http::message::{OnUpgrade, Peer, Problem, Reply, Request, Service, UpgradeWish};
use crate::http::prefixed::Prefixed;
use crate::http::target::{Host, Target};
use crate::http::{Core, Record};

/// Bytes that one read takes at most: what a connection adds to its buffer at a time.
const READ_BYTES: usize = 16 * 1024;
/// Request bytes that are read and dropped so that a connection can be kept or closed cleanly. A
/// client that sends more had its answer and ignores it.
const DISCARD_BYTES: usize = 256 * 1024;
/// How long a closing connection waits for the client to stop sending.
const LINGER: Duration = Duration::from_secs(2);

thread_local! {
    /// Where every connection of the core reads: bytes are copied from here to the connection that
    /// they are for, so that a waiting connection holds no buffer.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// Serves one connection until it ends. `input` is what was read of it already.
pub async fn serve<T, S>(io: T, input: BytesMut, core: &Rc<Core<S>>, peer: Rc<Peer>, draining: &Draining)
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    S: Service,
{
    core.numbers.http1_connections.add(1);
    let limits = HeaderLimits { bytes: core.limits.header_bytes, count: core.limits.header_count };
    let parser = HeadParser::default();
    let deadline = Deadline::new();
    let mut link = Link { io, input, core, peer, draining, deadline, parser, limits, ended: false };
    loop {
        let next = match link.next_head().await {
            Ok((head, began)) => Box::pin(link.exchange(head, began)).await,
            Err(Idle::Refused(error)) => Box::pin(link.refuse(error)).await,
            Err(Idle::TooSlow) => Box::pin(link.answer_unread(Problem::RequestTimeout)).await,
            Err(Idle::Ended) => return,
        };
        match next {
            Next::Request if berth_runtime::out_of_budget() => berth_runtime::yield_now().await,
            Next::Request => {}
            Next::Close(Unread::Nothing) => return link.close().await,
            Next::Close(Unread::Something) => return Box::pin(link.linger()).await,
            Next::Abort => return,
            Next::Tunnel(on_upgrade) => {
                let Link { io, input, .. } = link;
                return on_upgrade(Box::new(Prefixed { read: input.freeze(), io })).await;
            }
        }
    }
}

/// Reads once, through the core's scratch.
pub(crate) async fn read_some<T: AsyncRead + Unpin>(io: &mut T, input: &mut BytesMut) -> io::Result<usize> {
    poll_fn(|cx| poll_read_some(io, cx, input)).await
}

fn poll_read_some<T: AsyncRead + Unpin>(
    io: &mut T,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut scratch = ReadBuf::new(scratch);
        ready!(Pin::new(io).poll_read(cx, &mut scratch))?;
        input.extend_from_slice(scratch.filled());
        Poll::Ready(Ok(scratch.filled().len()))
    })
}

/// A connection between and during requests.
struct Link<'a, T, S> {
    io: T,
    /// What was read and not used yet: the rest of a head, a piece of a body, pipelined requests.
    input: BytesMut,
    core: &'a Rc<Core<S>>,
    peer: Rc<Peer>,
    draining: &'a Draining,
    deadline: Deadline,
    parser: HeadParser,
    limits: HeaderLimits,
    /// The client has closed its side.
    ended: bool,
}

/// What follows an exchange.
enum Next {
    Request,
    Close(Unread),
    Abort,
    Tunnel(OnUpgrade),
}

/// Whether request bytes may still be on their way when a connection closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unread {
    Nothing,
    Something,
}

/// Why no further request was read.
enum Idle {
    /// The client went away, idled for too long, or the node drains: nothing to answer.
    Ended,
    /// A head began and did not end in time.
    TooSlow,
    Refused(HeadError),
}

impl<T: AsyncRead + AsyncWrite + Unpin, S: Service> Link<'_, T, S> {
    /// Waits for the next request head: for its first byte as long as a connection may idle, then
    /// for the rest as long as a head may take.
    async fn next_head(&mut self) -> Result<(RequestHead, Instant), Idle> {
        let mut began: Option<Instant> = None;
        self.deadline.set(self.core.limits.idle_timeout);
        loop {
            if let Some(head) = self.parser.parse(&mut self.input, self.limits).map_err(Idle::Refused)? {
                self.deadline.clear();
                return Ok((head, began.unwrap_or_else(berth_runtime::now)));
            }
            if self.input.is_empty() {
                self.input = BytesMut::new(); // An idle connection holds no buffer.
            } else if began.is_none() {
                began = Some(berth_runtime::now());
                self.deadline.set(self.core.limits.header_timeout);
            }
            if self.ended {
                return Err(Idle::Ended);
            }
            self.read_for_head(began.is_some()).await?;
        }
    }

    /// Reads once, unless the time is over, the connection failed, or it idles in a drain.
    async fn read_for_head(&mut self, in_head: bool) -> Result<(), Idle> {
        let Self { io, input, deadline, draining, core, ended, .. } = self;
        poll_fn(|cx| {
            if let Poll::Ready(read) = poll_read_some(io, cx, input) {
                *ended = matches!(read, Ok(0));
                return Poll::Ready(read.map(drop).map_err(|_| Idle::Ended));
            }
            if !in_head && draining.poll_on(cx).is_ready() {
                return Poll::Ready(Err(Idle::Ended));
            }
            ready!(deadline.poll_expired(cx));
            let numbers = &core.numbers;
            let (counter, outcome) = match in_head {
                true => (&numbers.limit_header_timeout, Idle::TooSlow),
                false => (&numbers.limit_idle_timeout, Idle::Ended),
            };
            counter.add(1);
            Poll::Ready(Err(outcome))
        })
        .await
    }

    /// Answers a head that was refused, and closes.
    async fn refuse(&mut self, error: HeadError) -> Next {
        let numbers = &self.core.numbers;
        match error {
            HeadError::Headers(HeaderError::TooMany) => numbers.limit_header_count.add(1),
            HeadError::Headers(HeaderError::TooLarge) | HeadError::TargetTooLong => {
                numbers.limit_header_bytes.add(1);
            }
            _ => numbers.requests_malformed.add(1),
        }
        tracing::debug!(client = %self.peer.client, reason = error.reason(), "request.refused");
        self.answer_unread(Problem::from_status(error.status())).await
    }

    /// Answers a request whose head was not read to its end, and closes.
    async fn answer_unread(&mut self, problem: Problem) -> Next {
        let record = self.core.begin(&Method::GET, b"", Version::HTTP_11, &self.peer, berth_runtime::now());
        let mut exchange = Exchange::new(self, Asked::UNREADABLE, None, record);
        exchange.begin_reply(Reply::problem(problem));
        let never = std::pin::pin!(std::future::pending());
        match exchange.run(never).await {
            Next::Abort => Next::Abort,
            _ => Next::Close(Unread::Something),
        }
    }

    /// One request and its reply.
    async fn exchange(&mut self, head: RequestHead, began: Instant) -> Next {
        let core = Rc::clone(self.core);
        let record = core.begin(&head.method, &head.target, head.version, &self.peer, began);
        let asked = head.asked();
        let (inbound, body) = match Inbound::new(&core, &head) {
            Ok(pair) => pair,
            Err(problem) => {
                let mut exchange = Exchange::new(self, asked.closing(), None, record);
                exchange.begin_reply(Reply::problem(problem));
                return exchange.run(std::pin::pin!(std::future::pending())).await.unread();
            }
        };
        let Some(request) = to_request(head, body, &self.peer) else {
            core.numbers.requests_malformed.add(1);
            let mut exchange = Exchange::new(self, asked.closing(), inbound, record);
            exchange.begin_reply(Reply::problem(Problem::BadRequest));
            return exchange.run(std::pin::pin!(std::future::pending())).await.unread();
        };
        let handler = std::pin::pin!(core.service.call(request));
        Exchange::new(self, asked, inbound, record).run(handler).await
    }

    /// Ends the connection after its last reply, if the client takes that.
    async fn close(&mut self) {
        if timeout(self.core.limits.send_timeout, self.io.shutdown()).await.is_err() {
            self.core.numbers.limit_send_timeout.add(1);
        }
    }

    /// Ends the connection while the client may still be sending: the reply must not be overtaken
    /// by the reset that unread bytes would cause.
    async fn linger(&mut self) {
        self.close().await;
        let mut left = DISCARD_BYTES;
        let _ = timeout(LINGER, async {
            while left > 0 && !self.ended {
                self.input.clear();
                match read_some(&mut self.io, &mut self.input).await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => left = left.saturating_sub(count),
                }
            }
        })
        .await;
    }
}

impl Next {
    /// The same, but the client may still be sending.
    fn unread(self) -> Self {
        match self {
            Next::Close(_) | Next::Request => Next::Close(Unread::Something),
            other => other,
        }
    }
}

fn to_request(head: RequestHead, body: RequestBody, peer: &Rc<Peer>) -> Option<Request> {
    let target = Target::parse(head.target).ok()?;
    let host = match head.host.as_ref() {
        b"" => None,
        named => Some(Host::parse(named).ok()?.into_owned()),
    };
    Some(Request {
        method: head.method,
        target,
        host,
        version: head.version,
        headers: head.headers,
        body,
        peer: Rc::clone(peer),
        upgrade: head.upgrade.map(|Upgrade::WebSocket| UpgradeWish::WebSocket),
    })
}

/// The body of a request on its way to the handler.
struct Inbound {
    decoder: BodyDecoder,
    feeder: PipeFeeder,
    expects: Expectation,
}

impl Inbound {
    /// Both ends of the body that a head announces, or why it is refused.
    fn new<S>(core: &Core<S>, head: &RequestHead) -> Result<(Option<Self>, RequestBody), Problem> {
        if head.body == BodyLength::None {
            return Ok((None, RequestBody::Empty));
        }
        let limits = BodyLimits {
            bytes: core.limits.body_bytes,
            trailers: HeaderLimits { bytes: core.limits.header_bytes, count: core.limits.header_count },
        };
        let decoder = BodyDecoder::new(head.body, limits).map_err(|error| {
            core.count_body_error(body_error(error));
            Problem::from_status(error.status())
        })?;
        let (feeder, reader) = pipe();
        Ok((Some(Self { decoder, feeder, expects: head.expects }), RequestBody::Piped(reader)))
    }
}

fn body_error(error: super::BodyError) -> BodyError {
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => BodyError::TooLarge,
        _ => BodyError::Malformed,
    }
}

/// Bytes on their way to the client: written in this order, refilled when all are gone.
#[derive(Default)]
struct Output {
    head: BytesMut,
    data: Bytes,
    tail: &'static [u8],
}

impl Output {
    fn is_empty(&self) -> bool {
        self.head.is_empty() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Writes as much as the stream takes; true when anything went.
    fn poll_write<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let slices = [IoSlice::new(&self.head), IoSlice::new(&self.data), IoSlice::new(self.tail)];
        let first = slices.iter().position(|slice| !slice.is_empty()).unwrap_or(0);
        let mut count = ready!(Pin::new(io).poll_write_vectored(cx, &slices[first..]))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let of_head = count.min(self.head.len());
        let _ = self.head.split_to(of_head);
        count -= of_head;
        let of_data = count.min(self.data.len());
        let _ = self.data.split_to(of_data);
        self.tail = &self.tail[count - of_data..];
        Poll::Ready(Ok(()))
    }
}

/// Where the reply is.
enum Stage {
    /// The handler runs.
    Handling,
    /// The body follows; `left` is what a sized body still owes.
    Sending { body: Body, framing: BodyFraming, left: u64 },
    /// Everything is in the output.
    Written,
}

/// What an exchange without progress waits for, and so which time limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// The handler, or a reply's body: no limit of the connection's.
    Handler,
    /// Bytes of the request's body.
    Body,
    /// The client to take bytes of the reply.
    Client,
}

/// One request and its reply under way.
struct Exchange<'l, 'a, T, S> {
    link: &'l mut Link<'a, T, S>,
    asked: Asked,
    /// `None` once the request's body was read whole, or if there was none.
    inbound: Option<Inbound>,
    output: Output,
    stage: Stage,
    waiting: Waiting,
    /// What follows the reply; decided with its framing.
    afterwards: Afterwards,
    upgrade: Option<OnUpgrade>,
    /// Bytes of the request's body that were dropped after the reply.
    discarded: usize,
    record: Option<Record>,
}

/// The connection is of no further use.
struct Broken;

impl<'l, 'a, T: AsyncRead + AsyncWrite + Unpin, S: Service> Exchange<'l, 'a, T, S> {
    fn new(link: &'l mut Link<'a, T, S>, asked: Asked, inbound: Option<Inbound>, record: Record) -> Self {
        Self {
            link,
            asked,
            inbound,
            output: Output::default(),
            stage: Stage::Handling,
            waiting: Waiting::Handler,
            afterwards: Afterwards::KeepAlive,
            upgrade: None,
            discarded: 0,
            record: Some(record),
        }
    }

    /// Drives the exchange to its end.
    async fn run<H: Future<Output = Reply>>(mut self, mut handler: Pin<&mut H>) -> Next {
        let outcome = poll_fn(|cx| self.poll(cx, handler.as_mut())).await;
        if let Some(record) = self.record.take() {
            self.link.core.finish(record);
        }
        if outcome.is_err() {
            return Next::Abort;
        }
        if let Some(on_upgrade) = self.upgrade.take() {
            return Next::Tunnel(on_upgrade);
        }
        match (self.afterwards, self.inbound.take()) {
            (Afterwards::KeepAlive, None) => Next::Request,
            (_, None) => Next::Close(Unread::Nothing),
            (_, Some(_)) => Next::Close(Unread::Something),
        }
    }

    fn poll<H: Future<Output = Reply>>(
        &mut self,
        cx: &mut Context<'_>,
        mut handler: Pin<&mut H>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            let mut progress = self.feed(cx)?;
            if matches!(self.stage, Stage::Handling)
                && let Poll::Ready(reply) = handler.as_mut().poll(cx)
            {
                self.begin_reply(reply);
                progress = true;
            }
            progress |= self.next_piece(cx)?;
            progress |= self.write(cx)?;
            if matches!(self.stage, Stage::Written) && self.output.is_empty() {
                progress |= self.discard(cx)?;
                let over = self.inbound.is_none() || self.afterwards != Afterwards::KeepAlive;
                if over && let Poll::Ready(flushed) = Pin::new(&mut self.link.io).poll_flush(cx) {
                    return Poll::Ready(flushed.map_err(|_| Broken));
                }
            }
            if progress {
                self.waiting = Waiting::Handler;
                if berth_runtime::out_of_budget() {
                    cx.waker().wake_by_ref(); // A client that is as fast as we are must not keep the core.
                    return Poll::Pending;
                }
                continue;
            }
            self.watch_client(cx)?;
            return self.poll_time(cx);
        }
    }

    /// Hands the handler a piece of the request's body if it wants one.
    fn feed(&mut self, cx: &mut Context<'_>) -> Result<bool, Broken> {
        let Some(inbound) = &mut self.inbound else { return Ok(false) };
        if inbound.feeder.poll_demand(cx) != Demand::Wanted {
            return Ok(false);
        }
        let unanswered = matches!(self.stage, Stage::Handling);
        if inbound.expects == Expectation::Continue && unanswered {
            self.ask_for_body();
            return Ok(true);
        }
        match self.decode(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(_)) => Ok(true),
            Poll::Ready(Err(error)) => self.end_body(error),
        }
    }

    /// Decodes one piece of the request's body, reading as needed; says how many bytes it has.
    fn decode(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, BodyError>> {
        let mut count = 0;
        loop {
            let Some(inbound) = &mut self.inbound else { return Poll::Ready(Ok(0)) };
            match inbound.decoder.decode(&mut self.link.input) {
                Ok(Decoded::Data(bytes)) => {
                    count = bytes.len();
                    inbound.feeder.feed(Frame::data(bytes));
                }
                Ok(Decoded::Trailers(trailers)) => inbound.feeder.feed(Frame::trailers(trailers)),
                Ok(Decoded::Done) => {
                    inbound.feeder.end(Ok(()));
                    self.inbound = None;
                }
                Ok(Decoded::NeedMore) => {
                    match ready!(poll_read_some(&mut self.link.io, cx, &mut self.link.input)) {
                        Ok(0) | Err(_) => return Poll::Ready(Err(BodyError::Gone)),
                        Ok(_) => continue,
                    }
                }
                Err(error) => return Poll::Ready(Err(body_error(error))),
            }
            return Poll::Ready(Ok(count));
        }
    }

    /// The request's body ends with an error: the client hears of it if the reply has not begun.
    fn end_body(&mut self, error: BodyError) -> Result<bool, Broken> {
        self.link.core.count_body_error(error);
        let problem = match error {
            BodyError::TooLarge => Problem::BodyTooLarge,
            BodyError::TimedOut => Problem::RequestTimeout,
            BodyError::Malformed => Problem::BadRequest,
            BodyError::Gone => return Err(Broken),
        };
        if let Some(inbound) = &self.inbound {
            inbound.feeder.end(Err(error));
        }
        if !matches!(self.stage, Stage::Handling) {
            return Err(Broken);
        }
        self.asked = self.asked.closing();
        self.begin_reply(Reply::problem(problem));
        Ok(true)
    }

    /// Tells a client that waits for it to send the body.
    fn ask_for_body(&mut self) {
        if let Some(inbound) = &mut self.inbound
            && inbound.expects == Expectation::Continue
        {
            inbound.expects = Expectation::None;
            self.output.head.extend_from_slice(response::CONTINUE);
        }
    }

    /// Decides how the reply is framed and encodes its head.
    fn begin_reply(&mut self, mut reply: Reply) {
        let core = self.link.core;
        if let Some(value) = core.alt_svc.value(&self.link.peer) {
            reply.headers.entry(header::ALT_SVC).or_insert_with(|| value.clone());
        }
        // A reply that still holds the request's body reads it while it is sent (an echo does),
        // and after the reply's head it would be too late to ask for it.
        if self.inbound.as_ref().is_some_and(|inbound| inbound.feeder.has_reader()) {
            self.ask_for_body();
        }
        // A client that waits for "100 Continue" may or may not send the body now, so where the
        // next request begins would not be known.
        let unasked = self.inbound.as_ref().is_some_and(|inbound| inbound.expects == Expectation::Continue);
        if self.link.draining.is_on() || unasked {
            self.asked = self.asked.closing();
        }
        if let Some(record) = &mut self.record {
            record.status = reply.status;
        }
        let size = reply.body.exact_size().map_or(BodySize::Unknown, BodySize::Exact);
        let switch = if reply.upgrade.is_some() { Switch::Tunnel } else { Switch::Stay };
        let framing = ResponseFraming::decide(self.asked, reply.status, &reply.headers, size, switch);
        let date = core.date.get(berth_runtime::now());
        response::encode_head(&mut self.output.head, reply.status, &reply.headers, &framing, &date);
        self.afterwards = framing.afterwards;
        self.upgrade = reply.upgrade.filter(|_| framing.afterwards == Afterwards::Tunnel);
        self.stage = match (framing.body, reply.body) {
            (BodyFraming::NoBody | BodyFraming::Omitted(_), _) => Stage::Written,
            (BodyFraming::Sized(_), Body::Full(bytes)) => {
                self.output.data = bytes;
                Stage::Written
            }
            (BodyFraming::Sized(left), body) => Stage::Sending { body, framing: framing.body, left },
            (_, body) => Stage::Sending { body, framing: framing.body, left: 0 },
        };
    }

    /// Puts the next piece of the reply's body into the output, once that is empty.
    fn next_piece(&mut self, cx: &mut Context<'_>) -> Result<bool, Broken> {
        let Stage::Sending { body, framing, left } = &mut self.stage else { return Ok(false) };
        if !self.output.data.is_empty() || !self.output.tail.is_empty() {
            return Ok(false);
        }
        let Poll::Ready(frame) = body.poll_frame(cx) else { return Ok(false) };
        let chunked = *framing == BodyFraming::Chunked;
        match frame.map(|frame| frame.map(Piece::open)) {
            // Cut off: the client sees a body without its end, not a whole one.
            Some(Err(_)) => return Err(Broken),
            Some(Ok(Some(Piece::Data(bytes)))) => {
                let Some(length) = NonZeroUsize::new(bytes.len()) else { return Ok(true) };
                if chunked {
                    self.output.head.extend_from_slice(ChunkHead::new(length).as_ref());
                    self.output.tail = response::CHUNK_END;
                } else if let BodyFraming::Sized(_) = framing {
                    // More than the body itself announced would be read as the next reply.
                    *left = left.checked_sub(bytes.len() as u64).ok_or(Broken)?;
                }
                self.output.data = bytes;
            }
            Some(Ok(Some(Piece::Trailers(trailers)))) => {
                if chunked {
                    response::end_chunks(&mut self.output.head, &trailers);
                    self.stage = Stage::Written;
                }
            }
            Some(Ok(None)) => {}
            None if *left > 0 => return Err(Broken),
            None => {
                if chunked {
                    self.output.head.extend_from_slice(response::LAST_CHUNK);
                }
                self.stage = Stage::Written;
            }
        }
        Ok(true)
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, Broken> {
        if self.output.is_empty() {
            return Ok(false);
        }
        match self.output.poll_write(&mut self.link.io, cx) {
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(_)) => Err(Broken),
            Poll::Pending => Ok(false),
        }
    }

    /// After the reply: reads the rest of a body that the handler did not want, so that the
    /// connection can be kept, if it is not too much.
    fn discard(&mut self, cx: &mut Context<'_>) -> Result<bool, Broken> {
        if self.afterwards != Afterwards::KeepAlive || self.inbound.is_none() {
            return Ok(false);
        }
        if self.discarded > DISCARD_BYTES {
            self.afterwards = Afterwards::Close;
            return Ok(true);
        }
        match self.decode(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(count)) => {
                self.discarded += count;
                Ok(true)
            }
            Poll::Ready(Err(_)) => Err(Broken),
        }
    }

    /// While the handler or the reply's body makes the client wait: notices if it goes away, and
    /// takes in pipelined requests, bounded.
    fn watch_client(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        let link = &mut *self.link;
        if self.inbound.is_some() || link.ended || link.input.len() >= READ_BYTES {
            return Ok(());
        }
        match poll_read_some(&mut link.io, cx, &mut link.input) {
            Poll::Ready(Ok(0)) if link.input.is_empty() && matches!(self.stage, Stage::Handling) => {
                Err(Broken)
            }
            Poll::Ready(Ok(0)) => {
                link.ended = true;
                Ok(())
            }
            Poll::Ready(Ok(_)) => {
                cx.waker().wake_by_ref(); // More may be there; a read that is ready leaves no waker.
                Ok(())
            }
            Poll::Ready(Err(_)) => Err(Broken),
            Poll::Pending => Ok(()),
        }
    }

    /// Nothing moves: which time limit counts, and is it over?
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let limits = &self.link.core.limits;
        let written = matches!(self.stage, Stage::Written);
        let wants_body =
            self.inbound.as_ref().is_some_and(|inbound| inbound.feeder.poll_demand(cx) == Demand::Wanted);
        let waiting = match () {
            () if !self.output.is_empty() => Waiting::Client,
            () if wants_body => Waiting::Body,
            // What is left of the body is dropped, so that the connection can be kept.
            () if written && self.inbound.is_some() && self.afterwards == Afterwards::KeepAlive => {
                Waiting::Body
            }
            // The reply waits behind a send in flight.
            () if written => Waiting::Client,
            () => Waiting::Handler,
        };
        if waiting != self.waiting {
            self.waiting = waiting;
            match waiting {
                Waiting::Handler => self.link.deadline.clear(),
                Waiting::Body => self.link.deadline.set(limits.body_timeout),
                Waiting::Client => self.link.deadline.set(limits.send_timeout),
            }
        }
        if waiting == Waiting::Handler {
            return Poll::Pending;
        }
        ready!(self.link.deadline.poll_expired(cx));
        if waiting == Waiting::Client {
            self.link.core.numbers.limit_send_timeout.add(1);
            return Poll::Ready(Err(Broken));
        }
        let outcome = self.end_body(BodyError::TimedOut);
        cx.waker().wake_by_ref();
        match outcome {
            Ok(_) => Poll::Pending,
            Err(broken) => Poll::Ready(Err(broken)),
        }
    }
}
