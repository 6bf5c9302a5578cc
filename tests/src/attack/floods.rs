//! Floods: what one attacker does with one whole CPU, as fast as it can, from one address.
//!
//! Each is a loop of short rounds, so that it ends soon after it is asked to. A node that refuses
//! ends connections all the time; the attacker then opens new ones.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use super::datagrams::{Datagrams, socket};
use super::{
    CANCEL, CONTINUATION, HEADERS, Node, PING, PREFACE, RST_STREAM, SETTINGS, client_hello, field, frame,
    get, request_block,
};

/// A kind of attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// Bytes that are no HTTP.
    Garbage,
    /// Valid requests, each on one of many connections.
    Requests,
    /// Valid requests, many in one write.
    Pipelined,
    /// HTTP/2: requests that are reset at once.
    RapidReset,
    /// HTTP/2: pings.
    Pings,
    /// HTTP/2: header blocks that do not end.
    Continuations,
    /// HTTP/2: valid requests, a hundred at a time.
    Streams,
    /// A thousand heads, each a byte at a time.
    Slowloris,
    /// Large bodies, echoed.
    Uploads,
    /// Bodies in chunks of one byte, echoed.
    TinyChunks,
    /// Large replies.
    Downloads,
    /// TLS handshakes that are left after the server's flight.
    Handshakes,
    /// Connections that are closed again.
    Connects,
    /// QUIC: first packets of clients that are never heard again.
    Initials,
    /// QUIC: packets of connections that do not exist.
    Strays,
    /// Datagrams that are no QUIC.
    Noise,
}

impl Flood {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Garbage,
        Self::Requests,
        Self::Pipelined,
        Self::RapidReset,
        Self::Pings,
        Self::Continuations,
        Self::Streams,
        Self::Slowloris,
        Self::Uploads,
        Self::TinyChunks,
        Self::Downloads,
        Self::Handshakes,
        Self::Connects,
        Self::Initials,
        Self::Strays,
        Self::Noise,
    ];

    /// Attacks until told to stop; says how many rounds that were.
    pub fn run(self, node: &Node, stop: &AtomicBool) -> u64 {
        let going = || !stop.load(Relaxed);
        let mut rounds = 0;
        match self {
            Self::Garbage => rounds = bursts(node.http, &[0xfe; 32 * 1024], &going),
            Self::Requests => rounds = many_requests(node.http, 64, &going),
            Self::Pipelined => {
                rounds =
                    streams(node.http, 16, b"", &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(500), &going);
            }
            Self::RapidReset => {
                let pair = |number: u32| {
                    let reset = frame(RST_STREAM, 0, 2 * number + 1, &CANCEL.to_be_bytes());
                    [get(2 * number + 1, "/"), reset].concat()
                };
                rounds = bursts(node.http, &http2((0..500).flat_map(pair)), &going);
            }
            Self::Pings => {
                rounds = bursts(node.http, &http2(frame(PING, 0, 0, &[0; 8]).repeat(1000)), &going);
            }
            Self::Continuations => {
                let first = frame(HEADERS, 0, 1, &request_block("GET", "/", &[]));
                let more = frame(CONTINUATION, 0, 1, &field("x", "y")).repeat(1000);
                rounds = bursts(node.http, &http2([first, more].concat()), &going);
            }
            Self::Streams => {
                // The same stream numbers cannot be used twice: a connection for each ten thousand.
                let requests = http2((0..10_000).flat_map(|number| get(2 * number + 1, "/")));
                while going() {
                    rounds += pour(node.http, &requests, &going);
                }
            }
            Self::Slowloris => rounds = slowloris(node.http, 1000, &going),
            Self::Uploads => {
                let head = b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n";
                rounds = streams(node.http, 8, head, &[b'x'; 64 * 1024], &going);
            }
            Self::TinyChunks => {
                let head = b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
                rounds = streams(node.http, 8, head, &b"1\r\nx\r\n".repeat(5000), &going);
            }
            Self::Downloads => {
                rounds = streams(
                    node.http,
                    8,
                    b"",
                    &b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n".repeat(10),
                    &going,
                );
            }
            Self::Handshakes => {
                let hello = client_hello();
                while going() {
                    rounds += volley(node.https, 64, &hello);
                }
            }
            Self::Connects => {
                while going() {
                    rounds += volley(node.http, 64, b"");
                }
            }
            Self::Initials => rounds = rain(node.https, Datagrams::initial, &going),
            Self::Strays => rounds = rain(node.https, Datagrams::stray, &going),
            Self::Noise => rounds = rain(node.https, Datagrams::noise, &going),
        }
        rounds
    }
}

/// Keeps the CPU as busy with system calls as an attack does, without touching the node: what a
/// flood is compared with.
pub fn busy(stop: &AtomicBool) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let mut one = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
    let (mut other, _) = listener.accept().expect("it was connected");
    let mut bytes = [0; 16 * 1024];
    while !stop.load(Relaxed) {
        if one.write_all(&bytes).is_err() || other.read_exact(&mut bytes).is_err() {
            return;
        }
    }
}

fn http2(frames: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    bytes.extend(frames);
    bytes
}

fn connect(to: SocketAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect(to).ok()?;
    stream.set_nodelay(true).ok()?;
    Some(stream)
}

/// One connection after the other: sends a burst, reads what comes, leaves.
fn bursts(to: SocketAddr, bytes: &[u8], going: &dyn Fn() -> bool) -> u64 {
    let mut rounds = 0;
    while going() {
        rounds += 1;
        let Some(mut stream) = connect(to) else { continue };
        let _ = stream.set_nonblocking(true);
        let _ = stream.write(bytes);
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
        let _ = stream.read(&mut [0; 4096]);
    }
    rounds
}

/// Several connections that are kept full, and read as fast as the node answers.
fn streams(to: SocketAddr, count: usize, head: &[u8], bytes: &[u8], going: &dyn Fn() -> bool) -> u64 {
    let open = || {
        let mut stream = connect(to)?;
        stream.write_all(head).ok()?;
        stream.set_nonblocking(true).ok()?;
        Some((stream, 0))
    };
    let mut all: Vec<(TcpStream, usize)> = (0..count).filter_map(|_| open()).collect();
    let mut scratch = vec![0; 64 * 1024];
    let mut rounds = 0;
    while going() {
        rounds += 1;
        for place in &mut all {
            let (stream, at) = place;
            let sent = stream.write(&bytes[*at..]);
            let read = stream.read(&mut scratch);
            let failed = |outcome: &std::io::Result<usize>| {
                outcome.as_ref().is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)
            };
            if failed(&sent) || failed(&read) || matches!(read, Ok(0)) {
                if let Some(fresh) = open() {
                    *place = fresh;
                }
            } else if let Ok(sent) = sent {
                *at = (*at + sent) % bytes.len();
            }
        }
    }
    rounds
}

/// Sends bytes once over one connection, reading what comes meanwhile.
fn pour(to: SocketAddr, bytes: &[u8], going: &dyn Fn() -> bool) -> u64 {
    let Some(mut stream) = connect(to) else { return 0 };
    let _ = stream.set_nonblocking(true);
    let mut scratch = vec![0; 64 * 1024];
    let (mut at, mut rounds) = (0, 0);
    while going() && at < bytes.len() {
        rounds += 1;
        let end = bytes.len().min(at + 16 * 1024);
        match stream.write(&bytes[at..end]) {
            Ok(count) => at += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        if matches!(stream.read(&mut scratch), Ok(0)) {
            break;
        }
    }
    rounds
}

/// A request on each of many connections, then all the answers.
fn many_requests(to: SocketAddr, count: usize, going: &dyn Fn() -> bool) -> u64 {
    let mut all: Vec<TcpStream> = (0..count).filter_map(|_| connect(to)).collect();
    let mut rounds = 0;
    let mut scratch = [0; 1024];
    while going() {
        rounds += 1;
        for stream in &mut all {
            let _ = stream.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        }
        for stream in &mut all {
            if !matches!(stream.read(&mut scratch), Ok(1..))
                && let Some(fresh) = connect(to)
            {
                *stream = fresh;
            }
        }
    }
    rounds
}

fn slowloris(to: SocketAddr, count: usize, going: &dyn Fn() -> bool) -> u64 {
    let open = || {
        let mut stream = connect(to)?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nx: ").ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(stream)
    };
    let mut all: Vec<Option<TcpStream>> = (0..count).map(|_| open()).collect();
    let mut rounds = 0;
    while going() {
        rounds += 1;
        for place in &mut all {
            if !going() {
                return rounds;
            }
            if place.as_mut().is_none_or(|stream| stream.write(b"x").is_err()) {
                *place = open();
            }
        }
    }
    rounds
}

/// Many connections at once, all with the same first bytes, then all closed after a byte each.
fn volley(to: SocketAddr, count: usize, bytes: &[u8]) -> u64 {
    let mut all: Vec<TcpStream> = (0..count).filter_map(|_| connect(to)).collect();
    for stream in &mut all {
        let _ = stream.write(bytes);
    }
    if !bytes.is_empty() {
        for stream in &mut all {
            let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
            let _ = stream.read(&mut [0; 4096]);
        }
    }
    1
}

/// Datagrams, each a new one.
fn rain(to: SocketAddr, datagram: fn(&mut Datagrams) -> Vec<u8>, going: &dyn Fn() -> bool) -> u64 {
    let (socket, mut datagrams) = (socket(to), Datagrams::new(1));
    let mut rounds = 0;
    while going() {
        rounds += 1;
        for _ in 0..16 {
            // An error tells of an earlier datagram.
            let _ = socket.send(&datagram(&mut datagrams));
        }
    }
    rounds
}
