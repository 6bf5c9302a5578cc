//! Our own client: many connections from one thread, for what wrk and h2load cannot do.
//!
//! Three goals. *Requests*: a closed loop of small HTTP/1.1 requests on connections that stay open, with one read
//! and one write each. *Handshakes*: a closed loop of full TLS 1.3 handshakes; each connection sends
//! `close_notify` together with its Finished and counts once the server has closed, which proves that the server
//! finished the handshake too. *Idle*: open N connections, ask once on each, read the answer, then hold them
//! open.
//!
//! This is a load generator on loopback, and it is meant to cost less than the server. Hence it does **not verify
//! certificates** (no chain, no name, no signature: the two dearest steps of a client), and discards what follows
//! the handshake undecrypted. Never use it as an example of a TLS client. It offers one group (X25519), one cipher
//! suite (TLS_AES_128_GCM_SHA256) and no resumption, so that every server does the same work.
//!
//! Sockets are closed with a reset (linger 0): a run makes more connections than there are ports, and none may
//! stay in TIME_WAIT.
//!
//! Cost of one handshake on this side: connect, epoll_ctl, write, 2-3 reads, write and close are 8 system calls
//! with the TCP work of opening and closing, ≈ 55 µs; X25519 twice ≈ 20 µs; key schedule, records and allocation
//! ≈ 40 µs. The profile agrees (half of ≈ 120 µs is the kernel's, a sixth X25519). The server has in addition one
//! P-256 signature and two tickets: so it is the limit by a small margin when both sides use equally fast
//! cryptography, and the report says so when it is not.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use crate::answer;
use crate::sys::Poller;

/// A connection that has not reached its goal after this long has failed.
const LINK_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that are being opened at the same time in the idle goal: far below any listen backlog.
const OPENING_MAX: usize = 64;
/// So many failures end the run: the server is gone or refuses us, and the numbers would mean nothing.
const FAILURES_MAX: u64 = 1000;
/// Source addresses 127.0.0.1 and following: 10,000 connections stay below limits per address and range of ports.
const SOURCES: usize = 16;

/// Whether a connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Secrecy {
    Plain,
    Tls,
}

/// What a closed loop did.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct LoopTally {
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) seconds: f64,
    /// One handshake, from connect to the server's close; or one request, from its write to the end of its answer.
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SwarmError {
    #[error("could not prepare the sockets of the client")]
    Setup(#[source] io::Error),
    #[error("could not prepare TLS for the client")]
    Tls(#[from] rustls::Error),
    #[error(
        "{failures} connections failed, the last because: {last}; is the server up, and do its limits allow this load?"
    )]
    Failing { failures: u64, last: LinkError },
}

/// Why one connection did not reach its goal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the server closed too early")]
    Closed,
    #[error("the answer was not HTTP/1.1 with status 200 and a content-length")]
    Answer,
    #[error("no progress within {} s", LINK_TIMEOUT.as_secs())]
    Late,
}

/// Does full handshakes for `span`, `concurrency` at a time, each on a fresh connection.
pub(crate) fn handshakes(
    address: SocketAddr,
    concurrency: usize,
    span: Duration,
) -> Result<LoopTally, SwarmError> {
    let swarm = Swarm::new(address, Goal::Handshake, Secrecy::Tls)?;
    closed_loop(swarm, concurrency, span, Swarm::open)
}

/// Asks over and over for `span` on `connections` that stay open, one request at a time on each.
pub(crate) fn requests(
    address: SocketAddr,
    question: Question,
    connections: usize,
    span: Duration,
) -> Result<LoopTally, SwarmError> {
    let swarm = Swarm { question, ..Swarm::new(address, Goal::Answers, Secrecy::Plain)? };
    closed_loop(swarm, connections, span, |_, _| Ok(()))
}

fn closed_loop(
    mut swarm: Swarm,
    links: usize,
    span: Duration,
    mut again: impl FnMut(&mut Swarm, usize) -> Result<(), SwarmError>,
) -> Result<LoopTally, SwarmError> {
    let mut times = Histogram::<u64>::new_with_max(LINK_TIMEOUT.as_micros() as u64 * 2, 3)
        .expect("two bounds that differ make a histogram");
    let begin = Instant::now();
    for slot in 0..links {
        swarm.open(slot)?;
    }
    while begin.elapsed() < span {
        swarm.turn(|swarm, slot, age| {
            times.saturating_record(age.as_micros() as u64);
            again(swarm, slot)
        })?;
    }
    Ok(LoopTally {
        done: times.len(),
        failed: swarm.failures,
        seconds: begin.elapsed().as_secs_f64(),
        p50_us: times.value_at_quantile(0.5),
        p99_us: times.value_at_quantile(0.99),
    })
}

/// Connections that have had their answer and stay open until they are dropped.
pub(crate) struct IdleLinks {
    swarm: Swarm,
}

impl IdleLinks {
    /// Opens `count` connections and waits until each has its answer.
    pub(crate) fn open(address: SocketAddr, secrecy: Secrecy, count: usize) -> Result<Self, SwarmError> {
        let mut swarm = Swarm::new(address, Goal::OneAnswer, secrecy)?;
        let mut opened = 0;
        let mut done = 0;
        while done < count {
            while opened < count && opened - done < OPENING_MAX {
                swarm.open(opened)?;
                opened += 1;
            }
            swarm.turn(|_, _, _| {
                done += 1;
                Ok(())
            })?;
        }
        Ok(Self { swarm })
    }

    /// How many of them the server has not closed meanwhile.
    pub(crate) fn still_open(&mut self) -> usize {
        self.swarm.links.iter_mut().flatten().filter_map(|link| link.is_open().then_some(())).count()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Goal {
    /// A full handshake, then the end of the connection.
    Handshake,
    /// One answer, then silence.
    OneAnswer,
    /// One answer after the other.
    Answers,
}

/// What connections ask, and from where.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) request: Vec<u8>,
    /// Nothing leaves the choice to the kernel.
    pub(crate) source: Option<Ipv4Addr>,
}

struct Swarm {
    address: SocketAddr,
    question: Question,
    goal: Goal,
    tls: Option<Arc<ClientConfig>>,
    poller: Poller,
    ready: Vec<usize>,
    links: Vec<Option<Link>>,
    failures: u64,
    next_timeout_check: Instant,
}

impl Swarm {
    fn new(address: SocketAddr, goal: Goal, secrecy: Secrecy) -> Result<Self, SwarmError> {
        Ok(Self {
            address,
            question: Question { request: answer::request(&address.to_string(), "/"), source: None },
            goal,
            tls: match secrecy {
                Secrecy::Plain => None,
                Secrecy::Tls => Some(Arc::new(client_config(&[b"http/1.1"])?)),
            },
            poller: Poller::new().map_err(SwarmError::Setup)?,
            ready: Vec::new(),
            links: Vec::new(),
            failures: 0,
            next_timeout_check: Instant::now() + LINK_TIMEOUT,
        })
    }

    /// Puts a fresh connection into the slot.
    fn open(&mut self, slot: usize) -> Result<(), SwarmError> {
        let source = match self.goal {
            // Few at a time: the kernel's choice of port is cheaper than a bind.
            Goal::Handshake | Goal::Answers => self.question.source,
            Goal::OneAnswer => Some(Ipv4Addr::new(127, 0, 0, 1 + (slot % SOURCES) as u8)),
        };
        let socket = connect(self.address, source).map_err(SwarmError::Setup)?;
        self.poller.watch(socket.as_raw_fd(), slot).map_err(SwarmError::Setup)?;
        let tls = match &self.tls {
            Some(config) => Some(Box::new(ClientConnection::new(Arc::clone(config), server_name())?)),
            None => None,
        };
        if self.links.len() <= slot {
            self.links.resize_with(slot + 1, || None);
        }
        self.links[slot] = Some(Link::new(socket, tls, self.goal, self.question.request.clone()));
        Ok(())
    }

    /// Waits for events and steps the connections that have some; `done` is told of each that reaches its goal.
    fn turn(
        &mut self,
        mut done: impl FnMut(&mut Self, usize, Duration) -> Result<(), SwarmError>,
    ) -> Result<(), SwarmError> {
        let mut ready = std::mem::take(&mut self.ready);
        self.poller.wait(Duration::from_millis(50), &mut ready).map_err(SwarmError::Setup)?;
        for slot in ready.drain(..) {
            // An event of a connection that was closed in this very batch reaches its successor: a step too many
            // finds nothing to do.
            let Some(link) = self.links.get_mut(slot).and_then(Option::as_mut) else { continue };
            match link.step() {
                Ok(Progress::Pending) => {}
                Ok(Progress::Reached(age)) => done(self, slot, age)?,
                Err(error) => self.failed(slot, error)?,
            }
        }
        self.ready = ready;
        self.drop_late_links()
    }

    fn failed(&mut self, slot: usize, error: LinkError) -> Result<(), SwarmError> {
        self.failures += 1;
        if self.failures >= FAILURES_MAX {
            return Err(SwarmError::Failing { failures: self.failures, last: error });
        }
        self.open(slot)
    }

    fn drop_late_links(&mut self) -> Result<(), SwarmError> {
        if Instant::now() < self.next_timeout_check {
            return Ok(());
        }
        self.next_timeout_check = Instant::now() + Duration::from_secs(1);
        for slot in 0..self.links.len() {
            if self.links[slot].as_ref().is_some_and(Link::is_late) {
                self.failed(slot, LinkError::Late)?;
            }
        }
        Ok(())
    }
}

enum Progress {
    Pending,
    /// The connection has done what it was opened for, after this long.
    Reached(Duration),
}

struct Link {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    goal: Goal,
    request: Vec<u8>,
    stage: Stage,
    /// When what is being waited for was begun.
    since: Instant,
}

enum Stage {
    /// TLS only: until the handshake ends.
    Handshaking,
    /// The request has not been taken by the socket yet.
    Asking,
    /// The answer so far.
    Answering { answer: Vec<u8> },
    /// Later answers of [`Goal::Answers`]: they are as long as the first, so that counting bytes is enough, and
    /// the client stays cheaper than the server.
    AnsweringAgain { length: usize, got: usize },
    /// Our `close_notify` is sent; the server's end of the connection proves that it has read it.
    Closing,
    /// Answered; nothing is expected any more.
    Idle,
}

impl Link {
    fn new(socket: TcpStream, tls: Option<Box<ClientConnection>>, goal: Goal, request: Vec<u8>) -> Self {
        let stage = if tls.is_some() { Stage::Handshaking } else { Stage::Asking };
        Self { socket, tls, goal, request, stage, since: Instant::now() }
    }

    fn is_late(&self) -> bool {
        !matches!(self.stage, Stage::Idle) && self.since.elapsed() > LINK_TIMEOUT
    }

    /// Goes on until the socket would block or the goal is reached.
    fn step(&mut self) -> Result<Progress, LinkError> {
        loop {
            match &mut self.stage {
                Stage::Handshaking => {
                    let tls = self.tls.as_mut().expect("only connections with TLS start in this stage");
                    flush(tls, &mut self.socket)?;
                    if tls.is_handshaking() {
                        if receive(tls, &mut self.socket)? == Received::Nothing {
                            return Ok(Progress::Pending);
                        }
                    } else if self.goal == Goal::Handshake {
                        tls.send_close_notify();
                        flush(tls, &mut self.socket)?;
                        self.stage = Stage::Closing;
                    } else {
                        self.stage = Stage::Asking;
                    }
                }
                Stage::Asking => {
                    if self.ask()? == Sent::Later {
                        return Ok(Progress::Pending);
                    }
                    self.stage = Stage::Answering { answer: Vec::new() };
                }
                Stage::Answering { answer } => {
                    if read_some(self.tls.as_deref_mut(), &mut self.socket, answer)? == Received::Nothing {
                        return Ok(Progress::Pending);
                    }
                    let length = answer.len();
                    match answer::parse(answer) {
                        Ok(None) => {}
                        Ok(Some(complete)) if complete.status == 200 => return self.answered(length),
                        _ => return Err(LinkError::Answer),
                    }
                }
                Stage::AnsweringAgain { length, got } => {
                    let length = *length;
                    let mut chunk = [0; 4096];
                    match self.socket.read(&mut chunk) {
                        Ok(0) => return Err(LinkError::Closed),
                        Ok(count) if *got == 0 && !chunk[..count].starts_with(b"HTTP/1.1 200") => {
                            return Err(LinkError::Answer);
                        }
                        Ok(count) => *got += count,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Progress::Pending),
                        Err(error) => return Err(error.into()),
                    }
                    match (*got).cmp(&length) {
                        std::cmp::Ordering::Less => {}
                        std::cmp::Ordering::Equal => return self.answered(length),
                        std::cmp::Ordering::Greater => return Err(LinkError::Answer),
                    }
                }
                Stage::Closing => {
                    let mut waste = [0; 4096];
                    match self.socket.read(&mut waste) {
                        Ok(0) => return Ok(Progress::Reached(self.since.elapsed())),
                        Ok(_) => {}
                        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Progress::Pending),
                        // The server closed with bytes of ours unread: it was done with us all the same.
                        Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                            return Ok(Progress::Reached(self.since.elapsed()));
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
                Stage::Idle => return Ok(Progress::Pending),
            }
        }
    }

    /// After a complete answer of `length` bytes. The next one cannot have begun, so that there is nothing to read
    /// before the next event: one read and one write per request.
    fn answered(&mut self, length: usize) -> Result<Progress, LinkError> {
        let now = Instant::now();
        let took = now - self.since;
        if self.goal == Goal::Answers {
            self.since = now;
            if self.ask()? == Sent::Later {
                // Our one small request does not fit into an empty socket: that does not happen on loopback.
                return Err(LinkError::Closed);
            }
            self.stage = Stage::AnsweringAgain { length, got: 0 };
        } else {
            self.stage = Stage::Idle;
        }
        Ok(Progress::Reached(took))
    }

    /// A request is some forty bytes: it fits into any socket that is connected, whole or not at all.
    fn ask(&mut self) -> Result<Sent, LinkError> {
        if let Some(tls) = &mut self.tls {
            tls.writer().write_all(&self.request)?;
            flush(tls, &mut self.socket)?;
            return Ok(Sent::All);
        }
        match self.socket.write(&self.request) {
            Ok(count) if count == self.request.len() => Ok(Sent::All),
            Ok(_) => Err(LinkError::Closed),
            // Not connected yet: the event of the connection brings us back.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Sent::Later),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the server has left the connection open: nothing to read, or only session tickets.
    fn is_open(&mut self) -> bool {
        let mut waste = [0; 4096];
        loop {
            match self.socket.read(&mut waste) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }
}

#[derive(PartialEq)]
enum Received {
    Nothing,
    Something,
}

#[derive(PartialEq)]
enum Sent {
    All,
    Later,
}

fn flush(tls: &mut ClientConnection, socket: &mut TcpStream) -> Result<(), LinkError> {
    while tls.wants_write() {
        match tls.write_tls(socket) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn receive(tls: &mut ClientConnection, socket: &mut TcpStream) -> Result<Received, LinkError> {
    match tls.read_tls(socket) {
        Ok(0) => Err(LinkError::Closed),
        Ok(_) => {
            tls.process_new_packets()?;
            Ok(Received::Something)
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Received::Nothing),
        Err(error) => Err(error.into()),
    }
}

fn read_some(
    tls: Option<&mut ClientConnection>,
    socket: &mut TcpStream,
    into: &mut Vec<u8>,
) -> Result<Received, LinkError> {
    let mut chunk = [0; 4096];
    let read = match tls {
        None => socket.read(&mut chunk),
        Some(tls) => {
            flush(tls, socket)?;
            match tls.reader().read(&mut chunk) {
                // Nothing decrypted is left: fetch more, and let the caller look again.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return receive(tls, socket),
                other => other,
            }
        }
    };
    match read {
        Ok(0) => Err(LinkError::Closed),
        Ok(count) => {
            into.extend_from_slice(&chunk[..count]);
            Ok(Received::Something)
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Received::Nothing),
        Err(error) => Err(error.into()),
    }
}

fn connect(address: SocketAddr, source: Option<Ipv4Addr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

fn server_name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("localhost is a valid name")
}

/// What all our clients offer in the handshake; `protocols` are the names that they speak.
pub(crate) fn client_config(protocols: &[&[u8]]) -> Result<ClientConfig, rustls::Error> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustsEverybody))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Verifies nothing. See the head of this file for why that is right here and nowhere else.
#[derive(Debug)]
struct TrustsEverybody;

impl ServerCertVerifier for TrustsEverybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("this client offers TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use rustls::{ServerConfig, ServerConnection, Stream};

    use super::*;

    /// Answers one request on each of `count` connections, then holds them until `hold` returns.
    fn plain_server(count: usize, answer: &'static [u8]) -> (SocketAddr, thread::JoinHandle<Vec<TcpStream>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let mut held = Vec::new();
            for _ in 0..count {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1024];
                assert!(stream.read(&mut request).unwrap() > 0);
                stream.write_all(answer).unwrap();
                held.push(stream);
            }
            held
        });
        (address, server)
    }

    #[test]
    fn idle_links_are_answered_and_a_close_by_the_server_is_noticed() {
        let (address, server) = plain_server(100, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        let mut links = IdleLinks::open(address, Secrecy::Plain, 100).unwrap();
        let mut held = server.join().unwrap();
        assert_eq!(links.still_open(), 100);
        held.truncate(60);
        assert_eq!(links.still_open(), 60);
    }

    #[test]
    fn a_closed_loop_asks_again_after_each_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, from) = listener.accept().unwrap();
            assert_eq!(from.ip(), Ipv4Addr::new(127, 0, 0, 9));
            let mut answered = 0;
            let mut request = [0; 1024];
            while let Ok(count) = stream.read(&mut request)
                && count > 0
            {
                assert_eq!(&request[..count], b"GET /a?b HTTP/1.1\r\nHost: c.example\r\n\r\n");
                // The client resets its connection at the end, perhaps with a request on its way.
                if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_err() {
                    break;
                }
                answered += 1;
            }
            answered
        });
        let source = Some(Ipv4Addr::new(127, 0, 0, 9));
        let question = Question { request: answer::request("c.example", "/a?b"), source };
        let tally = requests(address, question, 1, Duration::from_millis(200)).unwrap();
        let answered = server.join().unwrap();
        assert_eq!(tally.failed, 0);
        assert!(tally.done > 10, "{tally:?}");
        assert!(answered - tally.done <= 1, "one answer may be on its way at the end: {answered}, {tally:?}");
    }

    #[test]
    fn a_server_that_refuses_everybody_ends_the_run_with_its_reason() {
        // It never accepts all, and ends with the test process: nobody may be reset because it has left.
        let (address, _server) = plain_server(10_000, b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n");
        let error = IdleLinks::open(address, Secrecy::Plain, 5000).err().unwrap();
        assert!(matches!(error, SwarmError::Failing { last: LinkError::Answer, .. }), "{error}");
    }

    #[test]
    fn handshakes_are_full_and_count_when_the_server_has_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let config = Arc::new(server_config());
        // The server ends with its listener's thread, which the test process outlives.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut end = Vec::new();
                let _ = Stream::new(&mut tls, &mut stream).read_to_end(&mut end);
                assert_eq!(tls.handshake_kind(), Some(rustls::HandshakeKind::Full));
            }
        });
        let tally = handshakes(address, 4, Duration::from_millis(300)).unwrap();
        assert!(tally.done > 0, "{tally:?}");
        assert_eq!(tally.failed, 0);
        assert!(tally.p50_us <= tally.p99_us);
    }

    fn server_config() -> ServerConfig {
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key =
            rustls::pki_types::PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
        ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.cert.der().clone()], key)
            .unwrap()
    }
}
