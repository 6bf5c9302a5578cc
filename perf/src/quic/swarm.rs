//! Our HTTP/3 client: many connections from one thread.
//!
//! Four goals. *Requests*: a closed loop of small requests, several at a time on connections that stay open.
//! *Download*: the same with large bodies, counted in bytes. *Handshakes*: a closed loop of full handshakes with one
//! small request each, whose answer proves that the server has finished the handshake too; then the connection is
//! closed, and a fresh one takes its place. *Idle*: open N connections, ask once on each, and hold them open.
//!
//! Every answer is verified before it counts (see [`crate::quic::http3`]): its frames, its status, each byte of its body.
//! As in [`crate::swarm`], certificates are not verified, and one group and one cipher suite are offered, without
//! resumption. The server chooses what is spoken: HTTP/3, or the bare dialect.
//!
//! # What it costs
//!
//! On this side a small request opens a stream, writes some 30 bytes and reads some 60: the same stream state as the
//! server's and the same share of packets, but no task, no router and no header map. One `sendmsg` and one share of a
//! `recvmmsg` serve all requests of a connection that are answered together. So the client stays cheaper than a
//! server on the same state machine: 5.5-7.5 µs a request, where quinn with h3 took 13-18 µs. Of those a third are
//! system calls, the rest is quinn-proto in pieces below 5 %.
//!
//! Calibrated once against oha 1.16.0 (`--features http3`, on quinn and h3), each on one CPU, beside the baseline
//! server on the other, three runs of 3 s each, of which the middle one is named. 32 connections with 32 requests
//! each: oha asked 36,100 times a second with its own CPU full and the server's at 90 %, this client 55,500 times
//! with the server's full and its own at 42 %; the server spent 24.7 µs a request for oha (20.7 to 26.6) and 17.4 µs for
//! ours (14.6 to 21.3), of which more share a packet. One request at a time on one connection: 6,600 and 10,700 a
//! second, 81 µs and 55 µs of the server's, most of it waking up. Both saw nothing but status 200. oha cannot fill the
//! server's CPU, and so cannot take these figures.
//!
//! In a download the client decrypts and reassembles what the server cuts and encrypts: about the same work. Hence it
//! rests between two turns, as a network card that gathers interrupts would make it do: then one turn takes some ten
//! trains, and acknowledges them together. Its windows are large enough never to be the limit.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use quinn_proto::crypto::rustls::{HandshakeData, NoInitialCipherSuite, QuicClientConfig};
use quinn_proto::{
    ClientConfig, ConnectError, Connection, ConnectionError, Dir, Event, ReadError, StreamEvent, StreamId,
    TransportConfig, VarInt, WriteError,
};

use crate::answer::Answer;
use crate::peer::BODY;
use crate::quic::host::{Application, Fate, Host};
use crate::quic::http3::{self, AnswerReader, Dialect, Expected, Fault, UniReader};
use crate::quic::wire::Batch;
use crate::swarm::{self, LoopTally};
use crate::sys;

/// A connection that makes no progress for this long has failed.
const LINK_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that are being opened at the same time in the idle goal.
const OPENING_MAX: usize = 64;
/// So many failures end the run: the server is gone or refuses us, and the numbers would mean nothing.
const FAILURES_MAX: u64 = 1000;
/// Source addresses 127.0.0.1 and following of the idle goal, as in the other idle figures.
const SOURCES: usize = 16;
/// Windows of a download, for a stream: at 2 GB/s and a round trip of 1 ms, 2 MB are on their way.
const STREAM_WINDOW: u32 = 16 << 20;
/// The bodies that are asked for.
const SMALL: Body =
    Body { path: "/", expected: Expected { piece: BODY.as_bytes(), length: BODY.len() as u64 } };
const LARGE: Body =
    Body { path: DOWNLOAD_PATH, expected: Expected { piece: &DOWNLOAD_PIECE, length: DOWNLOAD_BYTES } };
/// Between two turns of a download. At 1 GB/s 0.2 MB arrive meanwhile: a twentieth of the socket's buffer.
const DOWNLOAD_REST: Duration = Duration::from_micros(200);
/// H3_NO_ERROR.
const NO_ERROR: u32 = 0x100;
/// The path that every peer answers with a large body, and what that is.
pub(crate) const DOWNLOAD_PATH: &str = "/download";
pub(crate) const DOWNLOAD_BYTES: u64 = 64 << 20;
/// Berth's stream of equal bytes.
pub(crate) static DOWNLOAD_PIECE: [u8; 64 * 1024] = [b'b'; 64 * 1024];

#[derive(Debug, thiserror::Error)]
pub(crate) enum SwarmError {
    #[error("could not use the sockets of the client")]
    Socket(#[from] io::Error),
    #[error("could not prepare TLS for the client")]
    Tls(#[from] rustls::Error),
    #[error("could not prepare QUIC for the client")]
    Quic(#[from] NoInitialCipherSuite),
    #[error("could not begin a connection")]
    Connect(#[from] ConnectError),
    #[error(
        "{failures} connections failed, the last because: {last}; is the server up, and do its limits allow this load?"
    )]
    Failing { failures: u64, last: LinkError },
}

/// Why one connection did not reach its goal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("connection: {0}")]
    Lost(#[from] ConnectionError),
    #[error("the answer had {0}")]
    Fault(#[from] Fault),
    #[error("the server reset a stream with code {0}")]
    Reset(VarInt),
    #[error("the server's window leaves no room for a request")]
    NoWindow,
    #[error("no progress in time")]
    Late,
}

/// Asks over and over for `span`, `streams` requests at a time on each of `connections`.
pub(crate) fn requests(
    address: SocketAddr,
    connections: usize,
    streams: usize,
    span: Duration,
) -> Result<LoopTally, SwarmError> {
    Swarm::new(address, Goal::Answers { streams }, SMALL)?.closed_loop(connections, span)
}

/// Downloads over and over for `span`, one body at a time on each connection. What is counted are whole MiB.
pub(crate) fn downloads(
    address: SocketAddr,
    connections: usize,
    span: Duration,
) -> Result<LoopTally, SwarmError> {
    let mut swarm = Swarm::new(address, Goal::Answers { streams: 1 }, LARGE)?;
    swarm.rest = DOWNLOAD_REST;
    let tally = swarm.closed_loop(connections, span)?;
    Ok(LoopTally { done: swarm.client.body_bytes >> 20, ..tally })
}

/// Does full handshakes with one request each for `span`, `concurrency` at a time.
pub(crate) fn handshakes(
    address: SocketAddr,
    concurrency: usize,
    span: Duration,
) -> Result<LoopTally, SwarmError> {
    Swarm::new(address, Goal::Handshake, SMALL)?.closed_loop(concurrency, span)
}

/// Asks once over a fresh connection, and closes it.
pub(crate) fn probe(address: SocketAddr, limit: Duration) -> Result<Answer, SwarmError> {
    let mut swarm = Swarm::new(address, Goal::Handshake, SMALL)?;
    let deadline = Instant::now() + limit;
    swarm.connect(0)?;
    while Instant::now() < deadline {
        swarm.turn(Some(deadline), None)?;
        if let Some(answer) = swarm.client.last_answer {
            return Ok(answer);
        }
        if let Some(last) = swarm.client.last_error.take() {
            return Err(SwarmError::Failing { failures: 1, last });
        }
    }
    Err(SwarmError::Failing { failures: 1, last: LinkError::Late })
}

/// Connections that have had their answer and stay open until they are dropped.
pub(crate) struct IdleLinks {
    swarm: Swarm,
}

impl IdleLinks {
    /// Opens `count` connections and waits until each has its answer.
    pub(crate) fn open(address: SocketAddr, count: usize) -> Result<Self, SwarmError> {
        let mut swarm = Swarm::new(address, Goal::OneAnswer, SMALL)?;
        let mut begun = 0;
        loop {
            let answered = swarm.client.times.len() as usize;
            if answered >= count {
                break;
            }
            // One that failed is open no more, and another takes its place.
            while swarm.open() < count.min(answered + OPENING_MAX) {
                swarm.connect(begun % SOURCES)?;
                begun += 1;
            }
            swarm.turn(None, None)?;
        }
        Ok(Self { swarm })
    }

    /// Answers what the server still has to say, until `stop` can be read.
    pub(crate) fn hold(&mut self, stop: RawFd) -> Result<(), SwarmError> {
        while !sys::is_readable(stop)? {
            self.swarm.turn(None, Some(stop))?;
        }
        Ok(())
    }

    /// How many of them the server has not closed meanwhile.
    pub(crate) fn still_open(&self) -> usize {
        self.swarm.open()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Goal {
    /// A full handshake and one answer, then the end of the connection.
    Handshake,
    /// One answer, then silence.
    OneAnswer,
    /// One answer after the other, several at a time.
    Answers { streams: usize },
}

/// What is asked for, and what must come.
#[derive(Clone, Copy)]
struct Body {
    path: &'static str,
    expected: Expected,
}

struct Swarm {
    address: SocketAddr,
    config: ClientConfig,
    /// One for each source address.
    hosts: Vec<Host<Link>>,
    client: Client,
    /// How long arrivals are left to gather.
    rest: Duration,
    /// Connections may be late then.
    next_late_check: Instant,
    /// Whether the last turn left something behind that has arrived.
    batch: Batch,
}

impl Swarm {
    fn new(address: SocketAddr, goal: Goal, body: Body) -> Result<Self, SwarmError> {
        Ok(Self {
            address,
            config: client_config()?,
            hosts: Vec::new(),
            client: Client::new(goal, body, address),
            rest: Duration::ZERO,
            next_late_check: Instant::now(),
            batch: Batch::Last,
        })
    }

    fn open(&self) -> usize {
        self.hosts.iter().map(Host::open).sum()
    }

    /// Opens a connection from the source address of that number.
    fn connect(&mut self, source: usize) -> Result<(), SwarmError> {
        while self.hosts.len() <= source {
            let source = Ipv4Addr::new(127, 0, 0, 1 + self.hosts.len() as u8);
            self.hosts.push(Host::bind((source, 0).into(), None)?);
        }
        let config = self.config.clone();
        Ok(self.hosts[source].connect(config, self.address, "localhost", &mut self.client)?)
    }

    fn closed_loop(&mut self, connections: usize, span: Duration) -> Result<LoopTally, SwarmError> {
        let begin = Instant::now();
        while begin.elapsed() < span {
            while self.open() < connections {
                self.connect(0)?;
            }
            self.turn(Some(begin + span), None)?;
        }
        let times = &self.client.times;
        Ok(LoopTally {
            done: times.len(),
            failed: self.client.failures,
            seconds: begin.elapsed().as_secs_f64(),
            p50_us: times.value_at_quantile(0.5),
            p99_us: times.value_at_quantile(0.99),
        })
    }

    /// Waits until a socket, or `also`, can be read, or something is due; then one turn of every host.
    fn turn(&mut self, deadline: Option<Instant>, also: Option<RawFd>) -> Result<(), SwarmError> {
        let now = Instant::now();
        let due = self.hosts.iter().filter_map(|host| host.due(now));
        let due = due.chain(deadline).chain([self.next_late_check]).min().unwrap_or(now);
        if self.batch == Batch::Last && due > now {
            let sockets = self.hosts.iter().map(AsRawFd::as_raw_fd);
            sys::wait_readable(&sockets.chain(also).collect::<Vec<_>>(), Some(due - now))?;
            std::thread::sleep(self.rest);
        }
        self.batch = Batch::Last;
        for host in &mut self.hosts {
            if host.turn(&mut self.client)? == Batch::Full {
                self.batch = Batch::Full;
            }
        }
        self.forget_late_links();
        self.client.give_up()
    }

    fn forget_late_links(&mut self) {
        let now = Instant::now();
        if now < self.next_late_check {
            return;
        }
        self.next_late_check = now + Duration::from_secs(1);
        for host in &mut self.hosts {
            for _ in 0..host.forget(|link| link.is_late(now)) {
                self.client.failed(LinkError::Late);
            }
        }
    }
}

/// What all connections share: what is asked, and what was counted.
struct Client {
    goal: Goal,
    request: Bytes,
    expected: Expected,
    /// Of whole answers, from the request's write or, for handshakes, from the connection's first packet.
    times: Histogram<u64>,
    /// Of all answers, verified byte by byte, those under way too.
    body_bytes: u64,
    last_answer: Option<Answer>,
    failures: u64,
    last_error: Option<LinkError>,
}

impl Client {
    fn new(goal: Goal, body: Body, address: SocketAddr) -> Self {
        Self {
            goal,
            request: http3::request(&address.to_string(), body.path).into(),
            expected: body.expected,
            times: Histogram::new_with_max(LINK_TIMEOUT.as_micros() as u64 * 2, 3)
                .expect("two bounds that differ make a histogram"),
            body_bytes: 0,
            last_answer: None,
            failures: 0,
            last_error: None,
        }
    }

    fn failed(&mut self, error: LinkError) {
        self.failures += 1;
        self.last_error = Some(error);
    }

    /// Ends the run after too many failures.
    fn give_up(&mut self) -> Result<(), SwarmError> {
        match self.last_error.take_if(|_| self.failures >= FAILURES_MAX) {
            Some(last) => Err(SwarmError::Failing { failures: self.failures, last }),
            None => Ok(()),
        }
    }

    fn take_events(
        &mut self,
        now: Instant,
        connection: &mut Connection,
        link: &mut Link,
    ) -> Result<Fate, LinkError> {
        while let Some(event) = connection.poll() {
            match event {
                Event::Connected => {
                    link.dialect = begin(connection)?;
                    link.owed = match self.goal {
                        Goal::Handshake | Goal::OneAnswer => 1,
                        Goal::Answers { streams } => streams,
                    };
                }
                Event::ConnectionLost { reason } => return Err(reason.into()),
                Event::Stream(StreamEvent::Opened { dir: Dir::Uni }) => {
                    while let Some(stream) = connection.streams().accept(Dir::Uni) {
                        link.control.push((stream, UniReader::new()));
                        link.read_control(connection, stream)?;
                    }
                }
                Event::Stream(StreamEvent::Readable { id }) if id.dir() == Dir::Uni => {
                    link.read_control(connection, id)?;
                }
                Event::Stream(StreamEvent::Readable { id }) => self.read_answer(now, connection, link, id)?,
                // Among them that streams are available again, which is tried below in any case.
                _ => {}
            }
        }
        if self.goal == Goal::Handshake && link.answered {
            connection.close(now, NO_ERROR.into(), Bytes::new());
            return Ok(Fate::Forget);
        }
        self.ask(now, connection, link)?;
        Ok(Fate::Keep)
    }

    /// Sends the requests that the connection owes, as far as the server allows more streams.
    fn ask(&self, now: Instant, connection: &mut Connection, link: &mut Link) -> Result<(), LinkError> {
        while link.owed > 0
            && let Some(stream) = connection.streams().open(Dir::Bi)
        {
            let request = match link.dialect {
                Dialect::Http3 => self.request.clone(),
                Dialect::Bare => Bytes::from_static(http3::BARE_REQUEST),
            };
            send_all(connection, stream, request)?;
            // A stream that was opened this moment can be finished.
            connection.send_stream(stream).finish().map_err(|_| LinkError::NoWindow)?;
            let since = if self.goal == Goal::Handshake { link.since } else { now };
            let reader = AnswerReader::new(link.dialect, self.expected);
            link.exchanges.push(Exchange { stream, reader, since });
            link.owed -= 1;
        }
        Ok(())
    }

    fn read_answer(
        &mut self,
        now: Instant,
        connection: &mut Connection,
        link: &mut Link,
        stream: StreamId,
    ) -> Result<(), LinkError> {
        let Some(index) = link.exchanges.iter().position(|exchange| exchange.stream == stream) else {
            return Ok(());
        };
        let exchange = &mut link.exchanges[index];
        let before = exchange.reader.body_bytes();
        let end = read(connection, stream, |bytes| exchange.reader.take(bytes))?;
        self.body_bytes += exchange.reader.body_bytes() - before;
        link.progress = now;
        if end == StreamEnd::Later {
            return Ok(());
        }
        let exchange = link.exchanges.swap_remove(index);
        self.last_answer = Some(exchange.reader.end()?);
        self.times.saturating_record((now - exchange.since).as_micros() as u64);
        link.answered = true;
        if matches!(self.goal, Goal::Answers { .. }) {
            link.owed += 1;
        }
        Ok(())
    }
}

impl Application for Client {
    type Link = Link;

    fn link(&mut self, now: Instant) -> Link {
        Link {
            dialect: Dialect::Http3,
            since: now,
            progress: now,
            answered: false,
            owed: 0,
            exchanges: Vec::new(),
            control: Vec::new(),
        }
    }

    fn step(&mut self, now: Instant, connection: &mut Connection, link: &mut Link) -> Fate {
        self.take_events(now, connection, link).unwrap_or_else(|error| {
            self.failed(error);
            connection.close(now, NO_ERROR.into(), Bytes::new());
            Fate::Forget
        })
    }
}

/// What the client knows of one connection.
struct Link {
    dialect: Dialect,
    /// When it was begun.
    since: Instant,
    /// When something that is waited for came last.
    progress: Instant,
    /// Whether an answer has come.
    answered: bool,
    /// Requests that could not be sent yet.
    owed: usize,
    exchanges: Vec<Exchange>,
    /// The server's control stream, and what else it opened.
    control: Vec<(StreamId, UniReader)>,
}

/// A request whose answer has not ended.
struct Exchange {
    stream: StreamId,
    reader: AnswerReader,
    since: Instant,
}

impl Link {
    fn is_late(&self, now: Instant) -> bool {
        let waits = !self.answered || self.owed > 0 || !self.exchanges.is_empty();
        waits && now - self.progress > LINK_TIMEOUT
    }

    fn read_control(&mut self, connection: &mut Connection, stream: StreamId) -> Result<(), LinkError> {
        if let Some((_, reader)) = self.control.iter_mut().find(|(id, _)| *id == stream) {
            read(connection, stream, |bytes| reader.take(bytes))?;
        }
        Ok(())
    }
}

/// After the handshake: what the server chose to speak, and our side's control stream.
fn begin(connection: &mut Connection) -> Result<Dialect, LinkError> {
    let data = connection.crypto_session().handshake_data();
    let protocol = data.and_then(|data| data.downcast::<HandshakeData>().ok()?.protocol);
    if protocol.as_deref() == Some(http3::ALPN_BARE) {
        return Ok(Dialect::Bare);
    }
    let stream = connection.streams().open(Dir::Uni).ok_or(LinkError::NoWindow)?;
    send_all(connection, stream, Bytes::from_static(http3::CONTROL))?;
    Ok(Dialect::Http3)
}

/// Our messages are some ten bytes: they fit into any window, whole or not at all.
fn send_all(connection: &mut Connection, stream: StreamId, bytes: Bytes) -> Result<(), LinkError> {
    let length = bytes.len();
    match connection.send_stream(stream).write_chunks(&mut [bytes]) {
        Ok(written) if written.bytes == length => Ok(()),
        Ok(_) | Err(WriteError::Blocked | WriteError::ClosedStream) => Err(LinkError::NoWindow),
        Err(WriteError::Stopped(code)) => Err(LinkError::Reset(code)),
    }
}

#[derive(Debug, PartialEq)]
enum StreamEnd {
    Reached,
    Later,
}

/// Hands over what has arrived on a stream.
fn read(
    connection: &mut Connection,
    stream: StreamId,
    mut take: impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<StreamEnd, LinkError> {
    let mut stream = connection.recv_stream(stream);
    // An event may tell of what was read already.
    let Ok(mut chunks) = stream.read(true) else { return Ok(StreamEnd::Later) };
    let end = loop {
        match chunks.next(usize::MAX) {
            Ok(Some(chunk)) => take(&chunk.bytes)?,
            Ok(None) => break StreamEnd::Reached,
            Err(ReadError::Blocked) => break StreamEnd::Later,
            Err(ReadError::Reset(code)) => return Err(LinkError::Reset(code)),
        }
    };
    // What must be sent now goes out with the turn in any case.
    let _ = chunks.finalize();
    Ok(end)
}

fn client_config() -> Result<ClientConfig, SwarmError> {
    let tls = swarm::client_config(&[http3::ALPN, http3::ALPN_BARE])?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(0_u32.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .max_idle_timeout(None);
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::testing;

    const SPAN: Duration = Duration::from_millis(300);

    #[test]
    fn answers_of_a_server_that_we_did_not_write_are_verified_and_counted() {
        let address = testing::quinn_h3();
        let tally = requests(address, 4, 8, SPAN).unwrap();
        assert!(tally.done > 0 && tally.failed == 0 && tally.p50_us <= tally.p99_us, "{tally:?}");
        let tally = handshakes(address, 4, SPAN).unwrap();
        assert!(tally.done > 0 && tally.failed == 0, "{tally:?}");
        let tally = downloads(address, 2, SPAN).unwrap();
        assert!(tally.done > 0 && tally.failed == 0, "{tally:?}");
        let answer = probe(address, SPAN).unwrap();
        assert_eq!((answer.status, answer.body_bytes), (200, BODY.len()));
        assert!(answer.head_bytes > 10, "{answer:?}");
    }

    #[test]
    fn bare_connections_are_asked_held_and_counted() {
        let address = testing::quinn_proto();
        let tally = requests(address, 2, 4, SPAN).unwrap();
        assert!(tally.done > 0 && tally.failed == 0, "{tally:?}");
        let mut links = IdleLinks::open(address, 100).unwrap();
        let (stop, write) = io::pipe().unwrap();
        let waiting = std::thread::spawn(move || {
            std::thread::sleep(SPAN);
            drop(write);
        });
        links.hold(stop.as_raw_fd()).unwrap();
        waiting.join().unwrap();
        assert_eq!(links.still_open(), 100);
    }

    fn refused(address: SocketAddr, body: Body) -> LinkError {
        let mut swarm = Swarm::new(address, Goal::Handshake, body).unwrap();
        let error = match swarm.closed_loop(1, SPAN) {
            Ok(tally) => {
                assert!(tally.done == 0 && tally.failed > 0, "{tally:?}");
                swarm.client.last_error.take().unwrap()
            }
            Err(SwarmError::Failing { last, .. }) => last,
            Err(other) => panic!("{other}"),
        };
        assert_eq!(swarm.client.times.len(), 0);
        error
    }

    #[test]
    fn another_status_or_another_body_is_a_failure_and_never_counted() {
        let address = testing::quinn_h3();
        let status = refused(address, Body { path: "/none", ..SMALL });
        assert!(matches!(status, LinkError::Fault(Fault::Status(404))), "{status}");
        let expected = Expected { piece: b"hello from others", ..SMALL.expected };
        let body = refused(address, Body { expected, ..SMALL });
        assert!(matches!(body, LinkError::Fault(Fault::Body(0))), "{body}");
    }

    #[test]
    fn a_connection_that_waits_is_late_and_one_that_idles_is_not() {
        let now = Instant::now();
        let later = now + LINK_TIMEOUT + Duration::from_millis(1);
        let mut link = Client::new(Goal::OneAnswer, SMALL, ([127, 0, 0, 1], 1).into()).link(now);
        assert!(!link.is_late(now) && link.is_late(later), "it was never answered");
        link.answered = true;
        assert!(!link.is_late(later));
        link.owed = 1;
        assert!(link.is_late(later));
        link.progress = later;
        assert!(!link.is_late(later));
    }

    #[test]
    fn nobody_at_the_address_is_an_error_in_time() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = probe(socket.local_addr().unwrap(), SPAN).err().unwrap();
        assert!(matches!(error, SwarmError::Failing { last: LinkError::Late, .. }), "{error}");
    }
}
