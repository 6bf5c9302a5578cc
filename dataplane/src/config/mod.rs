//! The configuration of `berth dataplane --config FILE`: text in, a checked [`Config`] or all [`Mistakes`] out.
//!
//! Why two stages: an operator writes text with defaults left out, units in words and slips; the node wants typed,
//! bounded values that are all there. `document` turns text into tables, `check` turns tables into a `Config`, and
//! in between every mistake is collected, so that one run shows all of them.
//!
//! ```text
//! text --document--> tables with places --check--> Config
//!                         |       rules   |
//!                         +---> mistakes <+        keys ----> reference (docs/CONFIG.md)
//! ```
//!
//! Invariants:
//! - Each key is declared once, in `keys`: the parser, the reference and the tests read the same declaration.
//! - No `Option` in a [`Config`] means "the default": defaults are filled in before it exists.
//! - Parsing is pure: no file, clock, environment or host name is looked at. So the same text always gives the same.
//! - No text makes it panic, and no text makes it report without bound.
//!
//! Left to others: reading the file and showing the mistakes (the program), the syntax of route patterns (the
//! router), whether files exist and CPUs are there (the start of the node).

mod check;
mod document;
mod keys;
mod mistakes;
mod reference;
mod rules;
#[cfg(test)]
mod tests;
pub mod units;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use berth_isolate_host::Stacks;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};

pub use self::document::TEXT_BYTES_MAX;
pub use self::mistakes::{MISTAKES_MAX, Mistake, Mistakes};
pub use self::reference::reference;
pub use self::units::Cidr;

/// A checked configuration. Outside this crate the only way to one is [`Config::parse`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Who this node is.
    pub node: Node,
    /// The per-core runtime.
    pub runtime: Runtime,
    /// Where connections are accepted: at least one, no address twice.
    pub listeners: Vec<Listener>,
    /// TLS of the https listeners.
    pub tls: Tls,
    /// QUIC of the https listeners.
    pub quic: Quic,
    /// The control agent.
    pub agent: Agent,
    /// How packets come to their cores.
    pub steering: Steering,
    /// What a peer may cost.
    pub limits: Limits,
    /// The admin API.
    pub admin: Admin,
    /// What is written about the node and its requests.
    pub log: Log,
    /// What clients may learn of how they are served.
    pub debug: Debugging,
    /// How the node stops.
    pub shutdown: Shutdown,
    /// What guests may cost the node.
    pub workers: Workers,
    /// How many objects live, and for how long.
    pub objects: Objects,
    /// What answers which requests, in the order of the file.
    pub routes: Vec<RouteRule>,
}

impl Config {
    /// Reads a configuration, or says everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Mistakes> {
        check::parse(text)
    }
}

/// Who the node is and which CPUs it uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name in logs and metrics.
    pub name: NodeName,
    /// Folder for what outlives a restart.
    pub state: PathBuf,
    /// The CPUs that run a core.
    pub cores: Cores,
}

/// Where the name of a node comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeName {
    /// It is the name of the host.
    OfHost,
    /// It stands in the file.
    Given(String),
}

impl NodeName {
    /// The name, on a host of this name.
    pub fn on_host<'n>(&'n self, host: &'n str) -> &'n str {
        match self {
            Self::OfHost => host,
            Self::Given(name) => name,
        }
    }
}

/// Which CPUs run a core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cores {
    /// Every CPU of the cpuset.
    Auto,
    /// The first so many CPUs of the cpuset.
    Count(u16),
    /// These CPUs, all different, at least one.
    Cpus(Vec<u16>),
}

impl Cores {
    /// How many cores that is, if it does not depend on the machine.
    pub fn count(&self) -> Option<u16> {
        match self {
            Self::Auto => None,
            Self::Count(count) => Some(*count),
            Self::Cpus(cpus) => u16::try_from(cpus.len()).ok(),
        }
    }
}

/// The per-core runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// The kernel interface.
    pub driver: Driver,
    /// Submission entries of a ring; a power of two.
    pub ring_entries: u32,
    /// Bytes of one receive buffer.
    pub receive_buffer_bytes: u32,
    /// Most receive buffers of one core; a power of two.
    pub receive_buffers_max: u32,
    /// Envelopes that may wait for each ordered pair of cores and class.
    pub mailbox_capacity: usize,
    /// A core that runs one task for longer is stalled.
    pub stall_after: Duration,
}

/// The kernel interface of the cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// io_uring where the kernel allows it, else epoll.
    Auto,
    /// io_uring, or no start.
    IoUring,
    /// epoll.
    Epoll,
}

/// An address that connections are accepted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The address; IPv6 addresses take IPv6 only. Port 0 takes a free one.
    pub address: SocketAddr,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Peers that must begin with a PROXY v2 header. Empty: nobody may.
    pub proxy_from: Vec<Cidr>,
    /// Whether an https listener speaks HTTP/3 too. Ask [`Self::speaks_http3`].
    pub http3: Http3,
}

impl Listener {
    /// Whether HTTP/3 is spoken there: over TLS, and to clients themselves.
    pub fn speaks_http3(&self) -> bool {
        self.protocol == Protocol::Https && self.http3 == Http3::On && self.proxy_from.is_empty()
    }
}

/// Whether a listener may speak HTTP/3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http3 {
    /// On the UDP port of the same number.
    On,
    /// Not at all.
    Off,
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, and HTTP/2 by prior knowledge.
    Http,
    /// TLS with HTTP/2 or HTTP/1.1 by ALPN.
    Https,
}

/// TLS of the https listeners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The first serves clients that name no known host. Empty: the node makes its own.
    pub certificates: Vec<CertificateFiles>,
    /// How long a session ticket is good for.
    pub ticket_lifetime: Duration,
    /// How often a new ticket key is made; at most 30 times in one lifetime.
    pub ticket_rotation: Duration,
}

/// The two PEM files of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Certificate and intermediates.
    pub chain: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// What a peer may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// Fields of a request's head.
    pub header_count: usize,
    /// Bytes of a request's body.
    pub body_bytes: u64,
    /// First byte of a request to the end of its head.
    pub header_timeout: Duration,
    /// Without any byte of a body that is due.
    pub body_timeout: Duration,
    /// Without any progress in sending a response.
    pub send_timeout: Duration,
    /// Without a request.
    pub idle_timeout: Duration,
    /// Open connections of the node.
    pub connections: usize,
    /// Open connections of one IPv4 address or IPv6 /64.
    pub connections_per_address: usize,
    /// Unfinished TLS handshakes of the node.
    pub handshakes: usize,
    /// Accept to the end of the handshake.
    pub handshake_timeout: Duration,
    /// On one HTTP/2 connection.
    pub http2: Http2Limits,
    /// Over QUIC.
    pub http3: Http3Limits,
    /// On one WebSocket.
    pub websocket: WebSocketLimits,
}

/// What a peer may do on one HTTP/2 connection. Frames are counted in windows of 10 s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http2Limits {
    /// Concurrent streams.
    pub streams: u32,
    /// RST_STREAM frames in a window.
    pub resets: u32,
    /// SETTINGS frames in a window.
    pub settings: u32,
    /// PING frames in a window.
    pub pings: u32,
    /// PRIORITY frames in a window.
    pub priorities: u32,
    /// WINDOW_UPDATE frames in a window.
    pub window_updates: u32,
    /// Frames that carry nothing, in a window.
    pub empty_frames: u32,
    /// CONTINUATION frames of one header block.
    pub continuations: u32,
}

/// What a peer may do over QUIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http3Limits {
    /// Concurrent request streams of a connection.
    pub streams: u32,
    /// Request streams of a connection that its client resets in 10 s.
    pub resets: u32,
    /// Unfinished handshakes of the node above which clients prove their address first.
    pub retry_above: u32,
}

/// QUIC of the https listeners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quic {
    /// The node's number within its site.
    pub server: u16,
    /// How connection ids carry server and core.
    pub connection_ids: ConnectionIds,
    /// When a connection's ids are replaced.
    pub connection_id_lifetime: Duration,
    /// Which cores have the connections of which hosts.
    pub hosts: Vec<HostRule>,
}

/// Which core has the connections of a host. The pattern is still text: the router reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRule {
    /// Pattern of the host.
    pub host: String,
    /// Its core.
    pub core: u16,
}

/// How connection ids carry server and core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionIds {
    /// As one block of AES.
    Encrypted,
    /// In clear, for debugging.
    Plaintext,
}

/// What clients may learn of how they are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debugging {
    /// Who is told.
    pub clients: Vec<Cidr>,
}

/// The control agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Where it listens. `None`: there is none.
    pub socket: Option<PathBuf>,
    /// The user that may call it. `None`: only root.
    pub user: Option<String>,
    /// The folder of its pins.
    pub pins: PathBuf,
}

/// How packets come to their cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steering {
    /// The network cards that run our program.
    pub interfaces: Vec<String>,
    /// How they do.
    pub xdp: Xdp,
    /// Addresses beside those of the listeners.
    pub addresses: Vec<IpAddr>,
}

/// How network cards run our program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Xdp {
    /// In the driver if it can, else behind it.
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel, behind the driver.
    Generic,
    /// Not at all.
    Off,
}

/// What a WebSocket peer may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocketLimits {
    /// Bytes of one message.
    pub message_bytes: usize,
    /// Bytes of one frame.
    pub frame_bytes: usize,
}

/// The admin API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Its address: loopback, and no listener's.
    pub listen: SocketAddr,
}

/// What is written about the node and its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Least levels that are written.
    pub level: LogFilter,
    /// Form of a line.
    pub format: LogFormat,
    /// Where requests leave their line.
    pub access: AccessLog,
}

/// Levels, for all or for each target, in the syntax of tracing's filters: every one of these is a valid one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The filter as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For collectors.
    Json,
}

/// Where requests leave their line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// On standard error.
    Stderr,
    /// Appended to this file.
    File(PathBuf),
}

/// How the node stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shutdown {
    /// Time that open requests have. Zero: none.
    pub drain: Duration,
}

/// What guests may cost the node. What one request may cost is said where its worker is deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workers {
    /// Calls that run at a time.
    pub instances: u32,
    /// What becomes of their stacks.
    pub stacks: Stacks,
    /// Bytes of code that are loaded.
    pub code_bytes: usize,
    /// Bytes of memory of the process that compiles.
    pub compile_memory: u64,
    /// Time of that process.
    pub compile_time: Duration,
}

/// How many objects live at a time, and for how long without a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objects {
    /// At most so many. None: as many as there is room for.
    pub resident: Option<u32>,
    /// For so long without a turn.
    pub idle: Duration,
}

/// What answers which requests. The patterns are still text: the router reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRule {
    /// Pattern of the host.
    pub host: String,
    /// Pattern of the path.
    pub path: String,
    /// What answers.
    pub action: Action,
    /// The core that answers. None: the one that has the connection.
    pub core: Option<u16>,
}

/// What a route does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Answers with a fixed response.
    Respond {
        /// Its status, from 200 to 599.
        status: StatusCode,
        /// Its body; empty for a status that has none.
        body: Bytes,
        /// Its fields, none of which frames a message.
        headers: HeaderMap,
    },
    /// Streams the request's body back.
    Echo,
    /// Streams a body of this length.
    Stream {
        /// Its length.
        bytes: u64,
    },
    /// Answers 200 after a while.
    Delay {
        /// From request to response.
        time: Duration,
        /// Body of the response.
        body: Bytes,
    },
    /// Sends WebSocket messages back.
    WebSocket,
}

/// What a fuzzer calls: reads `data` as a configuration, and panics if a promise of this module does not hold.
#[doc(hidden)]
pub fn fuzz_logic(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::parse(text) {
        Ok(config) => {
            assert!(!config.listeners.is_empty(), "a configuration has a listener");
            assert!(config.admin.listen.ip().is_loopback(), "the admin API stays on loopback");
            assert!(config.runtime.ring_entries.is_power_of_two(), "rings are powers of two");
        }
        Err(mistakes) => {
            assert!(
                (1..=MISTAKES_MAX).contains(&mistakes.kept().len()),
                "a refusal has reasons, and not without end"
            );
            let lines = text.split('\n').count();
            for mistake in mistakes.kept() {
                assert!((1..=lines).contains(&mistake.line), "{mistake} is outside the file");
                let says_what_instead = !mistake.allowed.is_empty() || mistake.path.is_empty();
                assert!(!mistake.problem.is_empty() && says_what_instead, "{mistake} helps nobody");
            }
            assert!(!mistakes.to_string().contains('\u{1b}'), "no text of the file reaches the terminal raw");
        }
    }
}
