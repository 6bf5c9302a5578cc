//! What HTTP/1.1 costs with hyper's server and with our own codec: the figures of ADR 0004.
//!
//! The same small reply on the same runtime (`berth-runtime`, io_uring), four ways: see [`Variant`]. Each
//! measurement starts a fresh server process (this program again) on CPU 0. The load is `wrk` on CPU 1, with 64
//! connections that each send their next request when they have their answer. What counts is the CPU time of the
//! server process for each request, so other work on the machine costs time but little truth. Variants take turns
//! within a round, and ratios are taken within the round, so that slow drift cancels.
//!
//! Memory: the growth of the server's anonymous memory and page tables from 500 connections to 2,500, each idle
//! after one request, divided by 2,000. Without transparent huge pages: with them memory grows in steps of 2 MiB, which
//! is 1 KiB for each of the 2,000.
//!
//! Back of the envelope: ADR 0001 has 5 µs for a request of a bare echo loop, nearly all of it the kernel's TCP. Parsing
//! a head of four fields takes some 0.2 µs, a header map and a reply's head as much again: whole codecs can differ by
//! some tenths of a microsecond, a tenth of the request. Memory should differ by more: hyper keeps a read buffer of
//! 8 KiB for as long as a connection lives; without it the connection's own state is left, about 1 KiB.
//!
//! ```text
//! cargo bench -p berth-dataplane --bench http1                  both tables (needs wrk and taskset)
//! cargo bench -p berth-dataplane --bench http1 -- --rounds 31   more rounds
//! cargo bench -p berth-dataplane --bench http1 -- serve own     a server for perf and strace
//! ```

#![allow(clippy::print_stdout, reason = "a bench talks to a terminal")]

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use berth_dataplane::config::Config;
use berth_dataplane::connections::{ConnectionLimits, Connections};
use berth_dataplane::drain::Drain;
use berth_dataplane::http::access::AccessLog;
use berth_dataplane::http::message::{Peer, Reply, Request, Security, Service};
use berth_dataplane::http::{Core, h1};
use berth_dataplane::listener::{self, Door, House};
use berth_runtime::process::{Resource, raise_limit};
use berth_runtime::stats::CoreStats;
use berth_runtime::{CoreOptions, DriverChoice, Remote, TcpListener, TcpStream, block_on, net, spawn};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::ReadBufCursor;
use hyper::server::conn::http1::{self, Connection};
use hyper::service::service_fn;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The allocator of the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const SERVER_CPU: usize = 0;
const CLIENT_CPU: usize = 1;
/// Descriptors of a server and of its client, with room.
const FILES: u64 = 4096;
const LOAD_CONNECTIONS: usize = 64;
/// Idle connections before the first look at the memory, so that what is made once is made by then.
const IDLE_FIRST: usize = 500;
/// Idle connections between the two looks.
const IDLE_MORE: usize = 2000;
const BODY: &[u8] = b"forty bytes of plain text, end included\n";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n";

/// Who speaks HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    /// hyper's server connection for the life of the connection, without any time-out.
    Hyper,
    /// A connection waits without buffers until bytes are there; then a fresh hyper connection takes the stream for
    /// as long as requests follow each other, and gives it back.
    Parked,
    /// Our codec: `h1::serve`, with its time-outs, limits and counters.
    Own,
    /// The same behind the node's listener: admission, telling h2c from HTTP/1.1, the drain.
    Listener,
}

impl Variant {
    const ALL: [Self; 4] = [Self::Hyper, Self::Parked, Self::Own, Self::Listener];

    fn name(self) -> &'static str {
        match self {
            Self::Hyper => "hyper",
            Self::Parked => "hyper-parked",
            Self::Own => "own",
            Self::Listener => "own-listener",
        }
    }
}

fn main() -> io::Result<()> {
    // `cargo bench` adds `--bench`; without it this is a test run, which only shows that each variant answers.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_bench = arguments.iter().any(|argument| argument == "--bench");
    let arguments: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|argument| *argument != "--bench").collect();
    raise_limit(Resource::Files, FILES)?;
    match *arguments.as_slice() {
        ["serve", name] => match Variant::ALL.into_iter().find(|variant| variant.name() == name) {
            Some(variant) => serve(variant),
            None => Err(io::Error::other(format!("there is no variant {name}"))),
        },
        ["--rounds", rounds] => measure(rounds.parse().map_err(io::Error::other)?),
        _ if is_bench => measure(15),
        _ => Variant::ALL.into_iter().try_for_each(|variant| Server::start(variant)?.idle(2).map(drop)),
    }
}

/// Serves until the process is ended; the first line of the output is the port.
fn serve(variant: Variant) -> io::Result<()> {
    // SAFETY: this call takes numbers only, and changes how the kernel backs the memory of this process.
    if unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let socket = net::listen(LOCAL)?;
    println!("{}", net::bound_address(&socket)?.port());
    let options =
        CoreOptions { cpu: Some(SERVER_CPU), driver: DriverChoice::Uring, ..CoreOptions::default() };
    let (remote, stats) = (Arc::new(Remote::new()?), Arc::new(CoreStats::default()));
    block_on(&options, &remote, &stats, async {
        let listener = TcpListener::adopt(socket)?;
        let core = Rc::new(core()?);
        if variant == Variant::Listener {
            let limits = ConnectionLimits { connections_per_address: 100_000, ..ConnectionLimits::default() };
            let (connections, drain) = (Connections::new(limits), Drain::default());
            let door = Rc::new(Door { tls: None, proxy_from: Vec::new() });
            listener::run(listener, door, Rc::new(House { core, connections, drain })).await;
            return Ok(());
        }
        let drain = Drain::default();
        loop {
            let stream = listener.accept().await?;
            stream.set_nodelay(true)?;
            match variant {
                Variant::Hyper => spawn(async move {
                    let io = Adapter { stream, watch: Rc::default() };
                    let _ = http1::Builder::new().serve_connection(io, service_fn(hello)).await;
                }),
                Variant::Parked => spawn(parked(stream)),
                Variant::Own | Variant::Listener => {
                    let (core, draining) = (Rc::clone(&core), drain.listen());
                    let peer = Peer { client: LOCAL, local: LOCAL, security: Security::Plain };
                    spawn(async move {
                        h1::serve(stream, BytesMut::new(), &core, Rc::new(peer), &draining).await;
                    });
                }
            }
        }
    })?
}

/// What `h1::serve` needs of a core, with the limits of the defaults.
fn core() -> io::Result<Core<Hello>> {
    let config = Config::parse("[[listen]]\naddress = \"127.0.0.1:0\"\n");
    let limits = config.map_err(|mistakes| io::Error::other(mistakes.to_string()))?.limits;
    Ok(Core::new(Arc::default(), Arc::default(), limits, Hello, AccessLog::off()))
}

/// The handler for our codec.
struct Hello;

impl Service for Hello {
    fn call(&self, _: Request) -> impl Future<Output = Reply> + 'static {
        let reply = Reply::new(StatusCode::OK, Bytes::from_static(BODY));
        ready(reply.with_header(header::CONTENT_TYPE, HeaderValue::from_static("text/plain")))
    }
}

/// The handler for hyper.
fn hello(_: http::Request<Incoming>) -> Ready<Result<http::Response<Once>, Infallible>> {
    let mut response = http::Response::new(Once(Some(Bytes::from_static(BODY))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    ready(Ok(response))
}

/// A body of known bytes.
struct Once(Option<Bytes>);

impl Body for Once {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// A connection that is hyper's only while requests come.
async fn parked(mut stream: TcpStream) {
    // On a ring, a read of nothing is ready once bytes (or the end) are there.
    while poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut ReadBuf::new(&mut []))).await.is_ok() {
        // Boxed, so that a parked connection does not hold the room for it.
        match Box::pin(burst(stream)).await {
            Some(back) => stream = back,
            None => return,
        }
    }
}

/// One hyper connection from the first bytes to the next silence; `None` when the client has gone.
///
/// hyper does not tell when a connection idles. It is inferred from outside: the last read found nothing, all that was
/// written is flushed, and the handler here never waits. `into_parts` asks for a finished connection, so this rests
/// on what hyper does today. A part of a head, which only `read_buf` would show, is refused here; a server would
/// have to feed it to the next hyper connection, and bound how often.
async fn burst(stream: TcpStream) -> Option<TcpStream> {
    let watch = Rc::<Watch>::default();
    let io = Adapter { stream, watch: Rc::clone(&watch) };
    let mut connection = Some(http1::Builder::new().serve_connection(io, service_fn(hello)));
    poll_fn(|cx| {
        let Some(live) = &mut connection else { return Poll::Ready(None) };
        if live.poll_without_shutdown(cx).is_ready() {
            return Poll::Ready(None);
        }
        if !watch.is_idle() {
            return Poll::Pending;
        }
        Poll::Ready(connection.take().map(Connection::into_parts))
    })
    .await
    .filter(|parts| parts.read_buf.is_empty())
    .map(|parts| parts.io.stream)
}

/// What the adapter saw last.
#[derive(Default)]
struct Watch {
    read_waits: Cell<bool>,
    unflushed: Cell<bool>,
}

impl Watch {
    fn is_idle(&self) -> bool {
        self.read_waits.get() && !self.unflushed.get()
    }
}

/// A stream of ours as hyper's I/O traits.
struct Adapter {
    stream: TcpStream,
    watch: Rc<Watch>,
}

impl hyper::rt::Read for Adapter {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // SAFETY: the bytes are lent to a `ReadBuf`, which never makes initialised ones uninitialised.
        let mut buffer = ReadBuf::uninit(unsafe { into.as_mut() });
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut buffer);
        let filled = buffer.filled().len();
        self.watch.read_waits.set(read.is_pending());
        // SAFETY: the stream has filled so many bytes of the cursor's buffer.
        unsafe { into.advance(filled) };
        read
    }
}

impl hyper::rt::Write for Adapter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.watch.unflushed.set(true);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.watch.unflushed.set(true);
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch.unflushed.set(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// One variant in one round.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// CPU time of the server per request.
    cpu_us: f64,
    /// Bytes of user memory per idle connection.
    idle_bytes: f64,
}

fn measure(rounds: usize) -> io::Result<()> {
    let mut samples: Vec<Vec<Sample>> = vec![Vec::with_capacity(rounds); Variant::ALL.len()];
    for _ in 0..rounds {
        for (variant, of_variant) in Variant::ALL.into_iter().zip(&mut samples) {
            let cpu_us = Server::start(variant)?.load()?;
            let idle_bytes = Server::start(variant)?.idle(IDLE_MORE)?;
            of_variant.push(Sample { cpu_us, idle_bytes });
        }
    }
    println!("medians of {rounds} rounds, [quartiles]; ratios to the first row, within a round");
    println!("{:14} {:>21} {:>22} {:>24}", "", "CPU us per request", "ratio", "bytes per idle conn.");
    for (variant, own) in Variant::ALL.into_iter().zip(&samples) {
        let cpu = Spread::of(own.iter().map(|sample| sample.cpu_us));
        let ratio = own.iter().zip(&samples[0]).map(|(own, first)| own.cpu_us / first.cpu_us);
        let (ratio, idle) = (Spread::of(ratio), Spread::of(own.iter().map(|sample| sample.idle_bytes)));
        println!("{:14} {cpu:>21.2} {ratio:>22.3} {idle:>24.0}", variant.name());
    }
    Ok(())
}

/// A median between its quartiles.
struct Spread([f64; 3]);

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        Self([0.25, 0.5, 0.75].map(|at| sorted[((sorted.len() - 1) as f64 * at).round() as usize]))
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self([low, middle, high]), digits) = (self, f.precision().unwrap_or(2));
        let text = format!("{middle:.digits$} [{low:.digits$}, {high:.digits$}]");
        write!(f, "{text:>width$}", width = f.width().unwrap_or(0))
    }
}

/// A server process; it ends when this is dropped.
struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start(variant: Variant) -> io::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["serve", variant.name()])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(stdout) = process.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let port = line.trim().parse().map_err(|_| io::Error::other(format!("{variant:?} did not start")))?;
        Ok(Self { process, address: (Ipv4Addr::LOCALHOST, port).into() })
    }

    /// Loads the server for two seconds after a short warm-up; CPU time per request in µs.
    fn load(&self) -> io::Result<f64> {
        let before_warm_up = self.wrk(1)?;
        assert!(before_warm_up > 0, "the server answers");
        let before = self.cpu_ns()?;
        let requests = self.wrk(2)?;
        Ok((self.cpu_ns()? - before) as f64 / requests as f64 / 1000.0)
    }

    /// How many requests wrk got answered.
    fn wrk(&self, seconds: u32) -> io::Result<u64> {
        let output = Command::new("taskset")
            .args(["-c", &CLIENT_CPU.to_string(), "wrk", "-t", "1", "-c", &LOAD_CONNECTIONS.to_string()])
            .args(["-d", &format!("{seconds}s"), &format!("http://{}/", self.address)])
            .output()
            .map_err(|error| io::Error::other(format!("taskset and wrk are needed: {error}")))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let count = text.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
        match count {
            Some(count) if !text.contains("Socket errors") && !text.contains("Non-2xx") => Ok(count),
            _ => Err(io::Error::other(format!("wrk: {text}{}", String::from_utf8_lossy(&output.stderr)))),
        }
    }

    /// Opens connections that idle after one request; bytes of the server's memory for each of the last `more`.
    fn idle(&self, more: usize) -> io::Result<f64> {
        let mut connections = Vec::new();
        self.open(&mut connections, IDLE_FIRST)?;
        let before = self.memory_bytes()?;
        self.open(&mut connections, more)?;
        Ok((self.memory_bytes()? as f64 - before as f64) / more as f64)
    }

    fn open(&self, connections: &mut Vec<std::net::TcpStream>, count: usize) -> io::Result<()> {
        for _ in 0..count {
            let mut stream = std::net::TcpStream::connect(self.address)?;
            stream.write_all(REQUEST)?;
            let mut reply = [0; 512];
            let mut filled = 0;
            while !reply[..filled].ends_with(BODY) {
                let read = stream.read(&mut reply[filled..])?;
                if read == 0 {
                    return Err(io::Error::other("the reply is not whole"));
                }
                filled += read;
            }
            connections.push(stream);
        }
        // What was freed meanwhile goes back: mimalloc does that some milliseconds later.
        std::thread::sleep(Duration::from_millis(200));
        Ok(())
    }

    /// Anonymous memory and page tables.
    fn memory_bytes(&self) -> io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let kib = |name: &str| {
            let rest = status.lines().find_map(|line| line.strip_prefix(name));
            number(rest.and_then(|rest| rest.split_whitespace().next()))
        };
        Ok((kib("RssAnon:")? + kib("VmPTE:")?) * 1024)
    }

    fn cpu_ns(&self) -> io::Result<u64> {
        let mut sum = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let schedstat = std::fs::read_to_string(task?.path().join("schedstat"))?;
            sum += number(schedstat.split_whitespace().next())?;
        }
        Ok(sum)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only when it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn number(text: Option<&str>) -> io::Result<u64> {
    text.and_then(|text| text.parse().ok()).ok_or_else(|| io::Error::other("/proc has another format"))
}
