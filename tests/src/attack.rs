//! A node under attack, and the raw clients that attack it.
//!
//! A well-behaved client library cannot send what these tests must send: halves of heads, frames
//! that lie, handshakes that never end. So the clients here are sockets and bytes, and nothing is
//! checked on the way out. All of it blocks, with a bound on each read so that a hang fails.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

pub mod datagrams;
pub mod floods;
pub mod neighbour;

/// What counts as a hang: far beyond any time limit that a test configures, and beyond what a
/// loaded machine explains.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The routes of every node here.
const ROUTES: &str = r#"
[[routes]]
path = "/"
respond = { body = "hello\n" }
[[routes]]
path = "/echo"
echo = {}
[[routes]]
path = "/stream"
stream = { bytes = "64MiB" }
[[routes]]
path = "/late"
delay = { time = "5s" }
[[routes]]
path = "/ws"
websocket = {}
[[routes]]
path = "/smuggled"
respond = { body = "smuggled\n" }
"#;

/// A node of its own process, ended with the value.
pub struct Node {
    child: Child,
    folder: PathBuf,
    /// HTTP/1.1 and h2c.
    pub http: SocketAddr,
    /// The same over TLS.
    pub https: SocketAddr,
    /// The same as `http`, for peers that begin with a PROXY header.
    pub proxied: SocketAddr,
    /// The admin API.
    pub admin: SocketAddr,
}

impl Node {
    /// Starts a node of one core on CPU 0 with these lines below `[limits]`, which may open tables of
    /// their own.
    pub fn start(limits: &str) -> Self {
        Self::start_with(limits, "")
    }

    /// The same, with more of the configuration in front.
    pub fn start_with(limits: &str, more: &str) -> Self {
        Self::launch(limits, more, "access.log")
    }

    /// With the limits of a fresh configuration and without an access log, whose writer would compete
    /// for the CPUs: for measurements.
    pub fn start_for_speed() -> Self {
        Self::launch("", "", "")
    }

    /// `access_log` names a file in the node's folder, or nothing.
    fn launch(limits: &str, more: &str, access_log: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("berth-attack-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
        let text = format!(
            "{more}\n[node]\nname = \"attacked\"\nstate = \"{}\"\ncores = [0]\n\
             [admin]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\naccess = \"{}\"\n\
             [shutdown]\ndrain = \"0s\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
             [[listen]]\naddress = \"127.0.0.1:0\"\nprotocol = \"https\"\n\
             [[listen]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = [\"127.0.0.0/8\"]\n\
             {ROUTES}\n[limits]\n{limits}\n",
            folder.join("state").display(),
            if access_log.is_empty() { "off".into() } else { folder.join(access_log).display().to_string() },
        );
        let file = folder.join("berth.toml");
        std::fs::write(&file, text).expect("the configuration can be written");
        let mut command = Command::new(berth());
        command.args(["dataplane", "--config"]).arg(&file).stderr(Stdio::piped()).stdout(Stdio::null());
        // SAFETY: setsid is safe between fork and exec. A session of its own lets the scheduler tell the
        // node from its attackers.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                Ok(())
            })
        };
        let mut child = command.spawn().expect("the node starts");
        let admin = wait_for_ready(&mut child);
        let status = status_of(admin).expect("a ready node answers");
        let listener = |index: usize| {
            let address = status["listeners"][index]["address"].as_str();
            address.and_then(|address| address.parse().ok()).expect("the status names each listener")
        };
        let (http, https, proxied) = (listener(0), listener(1), listener(2));
        Self { child, folder, http, https, proxied, admin }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A number of the core, by its name in the status.
    pub fn count(&self, name: &str) -> u64 {
        let status = status_of(self.admin).expect("the admin API answers");
        status["cores"][0]["numbers"][name].as_u64().expect("the status has this number")
    }

    /// The value of a line of `/metrics`, by its name without `berth_`.
    pub fn metric(&self, name: &str) -> u64 {
        let mut wire = Wire::connect(self.admin);
        wire.send(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .and_then(|()| wire.answer())
            .ok()
            .and_then(|answer| {
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                let value = |line: &str| line.strip_prefix("berth_")?.strip_prefix(name)?.trim().parse().ok();
                text.lines().find_map(value)
            })
            .unwrap_or_else(|| panic!("the metrics have {name}"))
    }

    /// Waits until nothing of any client is left: no connection, no handshake, no place taken.
    pub fn wait_for_nobody(&self) {
        self.wait_for("connections_open", 0);
        let began = Instant::now();
        loop {
            let left =
                ["node_connections", "node_handshakes", "node_addresses"].map(|name| self.metric(name));
            if left == [0, 0, 0] {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "connections, handshakes, addresses left: {left:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a number is `expected`; that it stays there is for the caller to see.
    ///
    /// # Panics
    ///
    /// If it is above, or does not get there in time.
    pub fn wait_for(&self, name: &str, expected: u64) {
        let began = Instant::now();
        loop {
            let now = self.count(name);
            if now == expected {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{name} is {now} and should be {expected}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Bytes of memory that the node has resident now.
    pub fn resident_bytes(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the node runs");
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel says so");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
        kib * 1024
    }

    /// Whether the process still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The targets in the access log, once it has `count` lines.
    pub fn logged_targets(&self, count: usize) -> Vec<String> {
        let began = Instant::now();
        loop {
            let text = std::fs::read_to_string(self.folder.join("access.log")).unwrap_or_default();
            if text.lines().count() >= count {
                let target = |line: &str| {
                    let value: Value = serde_json::from_str(line).expect("each line is JSON");
                    value["target"].as_str().expect("each line has a target").to_owned()
                };
                return text.lines().map(target).collect();
            }
            assert!(began.elapsed() < PATIENCE, "the access log has not {count} lines:\n{text}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The program under test: beside the running one, or named by `BERTH_BIN`.
fn berth() -> PathBuf {
    if let Some(named) = std::env::var_os("BERTH_BIN") {
        return named.into();
    }
    let exe = std::env::current_exe().expect("this program has a path");
    let folders = exe.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join("berth")).find(|path| path.exists());
    found.expect("there is no `berth` beside the tests: `cargo build -p berth-cli` makes it")
}

/// Reads the log until the node is ready; the rest of it goes to the test's output.
fn wait_for_ready(child: &mut Child) -> SocketAddr {
    let stderr = child.stderr.take().expect("stderr is piped");
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let value: Value = serde_json::from_str(&line).unwrap_or_default();
            let fields = if value["fields"].is_object() { &value["fields"] } else { &value };
            let admin = fields["admin"].as_str().and_then(|admin| admin.parse::<SocketAddr>().ok());
            if let (Some("node.ready"), Some(admin)) = (fields["message"].as_str(), admin) {
                let _ = sender.send(admin);
            } else {
                let _ = writeln!(io::stderr(), "{line}");
            }
        }
    });
    receiver.recv_timeout(PATIENCE).expect("the node is ready in time; its log is above")
}

fn status_of(admin: SocketAddr) -> io::Result<Value> {
    let mut wire = Wire::connect(admin);
    wire.send(b"GET /v1/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let answer = wire.answer()?;
    serde_json::from_slice(&answer.body).map_err(io::Error::other)
}

/// A client that sends what it is told.
pub struct Wire {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// An answer of HTTP/1.1.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its head, in small letters.
    pub head: String,
    /// Its body, without chunks.
    pub body: Vec<u8>,
}

impl Wire {
    /// Connects from the usual address.
    pub fn connect(to: SocketAddr) -> Self {
        Self::over(TcpStream::connect_timeout(&to, PATIENCE).expect("the node accepts connections"))
    }

    /// Connects as another client: from 127.0.0.`host`.
    pub fn connect_as(host: u8, to: SocketAddr) -> Self {
        Self::try_connect_as(host, to).expect("the node accepts connections")
    }

    /// The same, for floods that expect to be refused.
    pub fn try_connect_as(host: u8, to: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), Some(Protocol::TCP))?;
        let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)), 0);
        socket.bind(&from.into())?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        Ok(Self::over(socket.into()))
    }

    /// Connects with a small receive buffer, so that what is not read soon stops the sender.
    pub fn connect_narrow(to: SocketAddr) -> Self {
        let socket =
            Socket::new(Domain::IPV4, Type::STREAM.cloexec(), Some(Protocol::TCP)).expect("a socket");
        socket.set_recv_buffer_size(4096).expect("the kernel takes a buffer size");
        socket.connect_timeout(&to.into(), PATIENCE).expect("the node accepts connections");
        Self::over(socket.into())
    }

    fn over(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = stream.set_write_timeout(Some(PATIENCE));
        Self { stream, unread: Vec::new() }
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends byte by byte, with a pause after each, until the node has had enough.
    pub fn dribble(&mut self, bytes: &[u8], pause: Duration) {
        for byte in bytes {
            if self.send(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(pause);
        }
    }

    /// The socket, to shut one side or read without a bound.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Reads more into what is not read yet; 0 is the end.
    fn read_more(&mut self) -> io::Result<usize> {
        let mut piece = [0; 16 * 1024];
        let count = self.stream.read(&mut piece)?;
        self.unread.extend_from_slice(&piece[..count]);
        Ok(count)
    }

    fn need(&mut self, count: usize) -> io::Result<()> {
        while self.unread.len() < count {
            if self.read_more()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        self.need(count)?;
        Ok(self.unread.drain(..count).collect())
    }

    /// Reads one answer of HTTP/1.1.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let head_end = loop {
            if let Some(at) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if self.read_more()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let head = String::from_utf8_lossy(&self.take(head_end)?).to_lowercase();
        let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name).map(str::trim));
        let body = if let Some(length) = field("content-length:") {
            self.take(length.parse().map_err(io::Error::other)?)?
        } else if field("transfer-encoding:").is_some() {
            self.chunks()?
        } else {
            Vec::new()
        };
        Ok(Answer { status, head, body })
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line_end = loop {
                match self.unread.windows(2).position(|window| window == b"\r\n") {
                    Some(at) => break at,
                    None => self.need(self.unread.len() + 1)?,
                }
            };
            let line = self.take(line_end + 2)?;
            let size = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16);
            let size = size.map_err(io::Error::other)?;
            body.extend_from_slice(&self.take(size + 2)?[..size]);
            if size == 0 {
                return Ok(body);
            }
        }
    }

    /// Everything up to the end of the connection. A reset is an end too.
    pub fn rest(&mut self) -> Vec<u8> {
        loop {
            match self.read_more() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if is_timeout(&error) => {
                    assert!(!is_timeout(&error), "the connection stays open");
                }
                Err(_) => break,
            }
        }
        std::mem::take(&mut self.unread)
    }

    /// Whether the node closed or reset the connection without a further byte.
    pub fn is_closed(&mut self) -> bool {
        self.rest().is_empty()
    }

    /// Reads one HTTP/2 frame; `None` at the end of the connection.
    pub fn frame(&mut self) -> Option<Frame> {
        let head = self.take(9).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let payload = self.take(length).ok()?;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads frames until one fits.
    pub fn frame_where(&mut self, fits: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.frame()?;
            if fits(&frame) {
                return Some(frame);
            }
        }
    }

    /// Reads frames until the end; says the reason of the GOAWAY among them.
    pub fn goaway(&mut self) -> Option<u32> {
        self.frame_where(|frame| frame.kind == GOAWAY).map(|frame| frame.word(4))
    }

    /// Begins HTTP/2: preface and empty settings, and waits for the node's.
    pub fn begin_http2(mut self) -> Self {
        self.send(PREFACE).expect("a fresh connection takes bytes");
        self.send(&frame(SETTINGS, 0, 0, &[])).expect("a fresh connection takes bytes");
        let settings = self.frame_where(|frame| frame.kind == SETTINGS);
        assert!(settings.is_some(), "the node speaks HTTP/2");
        self.send(&frame(SETTINGS, ACK, 0, &[])).expect("a fresh connection takes bytes");
        self
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// How an HTTP/2 connection begins.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Frame type.
pub const DATA: u8 = 0x0;
/// Frame type.
pub const HEADERS: u8 = 0x1;
/// Frame type.
pub const PRIORITY: u8 = 0x2;
/// Frame type.
pub const RST_STREAM: u8 = 0x3;
/// Frame type.
pub const SETTINGS: u8 = 0x4;
/// Frame type.
pub const PING: u8 = 0x6;
/// Frame type.
pub const GOAWAY: u8 = 0x7;
/// Frame type.
pub const WINDOW_UPDATE: u8 = 0x8;
/// Frame type.
pub const CONTINUATION: u8 = 0x9;
/// Flag of SETTINGS and PING.
pub const ACK: u8 = 0x1;
/// Flag of DATA and HEADERS.
pub const END_STREAM: u8 = 0x1;
/// Flag of HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 0x4;
/// Error code.
pub const REFUSED_STREAM: u32 = 0x7;
/// Error code.
pub const CANCEL: u32 = 0x8;
/// Error code.
pub const ENHANCE_YOUR_CALM: u32 = 0xb;

/// An HTTP/2 frame that was read.
#[derive(Debug)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The 32 bits of the payload at `at`.
    pub fn word(&self, at: usize) -> u32 {
        let bytes = self.payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        u32::from_be_bytes(bytes.expect("the payload is long enough"))
    }
}

/// An HTTP/2 frame to send.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is small").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header field for HPACK: literal, not indexed, not compressed.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        let length = u8::try_from(text.len()).ok().filter(|length| *length < 127);
        bytes.push(length.expect("fields of the tests are short"));
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// The header block of a request.
pub fn request_block(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = field(":method", method);
    block.extend(field(":scheme", "http"));
    block.extend(field(":authority", "localhost"));
    block.extend(field(":path", path));
    more.iter().for_each(|(name, value)| block.extend(field(name, value)));
    block
}

/// A whole GET request on a stream.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &request_block("GET", path, &[]))
}

/// The head of a POST request on a stream, its body to follow.
pub fn post(stream: u32, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request_block("POST", path, more))
}

/// The first flight of a TLS client: a ClientHello that any server of TLS 1.3 takes.
pub fn client_hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "localhost".try_into().expect("a valid name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("a vector takes bytes");
    hello
}
