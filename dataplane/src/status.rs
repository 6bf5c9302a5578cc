//! The node as others may look at it: shared, read-only, from any thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use berth_mailbox::Counters;
use berth_runtime::Remote;
use berth_runtime::stats::CoreStats;
use serde::Serialize;

use crate::agent_link::{SteeringStatus, SteeringView};
use crate::connections::Connections;
use crate::http::access::AccessLog;
use crate::http::message::Security;
use crate::listener::Bound;
use crate::objects::Room;
use crate::outgoing::ClientNumbers;
use crate::stats::{CoreNumbers, Latencies};
use crate::tls::CertificateStore;

/// One core, seen from outside.
#[derive(Clone)]
pub struct CoreView {
    /// Its number.
    pub index: u16,
    /// The CPU that it is pinned to.
    pub cpu: usize,
    /// Its side for other threads.
    pub remote: Arc<Remote>,
    /// What its runtime counts.
    pub runtime: Arc<CoreStats>,
    /// What it counts above.
    pub numbers: Arc<CoreNumbers>,
    /// What its client counts, which sends requests to others.
    pub outgoing: Arc<ClientNumbers>,
    /// How long its requests took.
    pub latencies: Arc<Latencies>,
    /// Whether it runs one task for longer than `runtime.stall_after`.
    pub stalled: Arc<AtomicBool>,
    /// How often that happened.
    pub stalls: Arc<AtomicU64>,
}

/// The node, seen from outside.
#[derive(Clone)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// When it started.
    pub started: Instant,
    /// Its cores.
    pub cores: Vec<CoreView>,
    /// Its admission.
    pub connections: Connections,
    /// Where it listens.
    pub listeners: Vec<Bound>,
    /// Where its admin API listens.
    pub admin: std::net::SocketAddr,
    /// The counters of its mailboxes.
    pub mailboxes: Counters,
    /// Its access log.
    pub access: AccessLog,
    /// Its certificates, if it speaks TLS.
    pub certificates: Option<Arc<CertificateStore>>,
    /// Whether it takes new work: false before the start is done and while it drains.
    pub ready: Arc<AtomicBool>,
    /// How packets come to its cores.
    pub steering: SteeringView,
    /// How many objects may live, and do.
    pub(crate) room: Arc<Room>,
}

/// What `berth status` shows.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The node's name.
    pub node: String,
    /// The version that runs.
    pub version: &'static str,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// Whether it takes new work.
    pub ready: bool,
    /// Where it listens.
    pub listeners: Vec<ListenerStatus>,
    /// How packets come to the cores.
    pub steering: SteeringStatus,
    /// Connections open.
    pub connections: u32,
    /// Certificates and their end.
    pub certificates: Vec<CertificateStatus>,
    /// Its cores.
    pub cores: Vec<CoreStatus>,
}

/// One listener.
#[derive(Debug, Serialize)]
pub struct ListenerStatus {
    /// Its address.
    pub address: String,
    /// "http" or "https".
    pub protocol: &'static str,
}

/// One certificate.
#[derive(Debug, Serialize)]
pub struct CertificateStatus {
    /// The names that it is for.
    pub names: Vec<String>,
    /// Unix time of its end.
    pub not_after_s: u64,
}

/// One core.
#[derive(Debug, Serialize)]
pub struct CoreStatus {
    /// Its number.
    pub core: u16,
    /// The CPU that it is pinned to.
    pub cpu: usize,
    /// "io_uring" or "epoll".
    pub driver: &'static str,
    /// Whether it is stalled now.
    pub stalled: bool,
    /// How often it was.
    pub stalls: u64,
    /// Everything that it counts, by name.
    pub numbers: serde_json::Map<String, serde_json::Value>,
}

impl NodeView {
    /// The status as it stands.
    pub fn status(&self) -> Status {
        let listener = |bound: &Bound| ListenerStatus {
            address: bound.address.to_string(),
            protocol: if bound.security == Security::Tls { "https" } else { "http" },
        };
        Status {
            node: self.name.clone(),
            version: env!("CARGO_PKG_VERSION"),
            uptime_s: self.started.elapsed().as_secs(),
            ready: self.ready.load(Relaxed),
            listeners: self.listeners.iter().map(listener).collect(),
            steering: (*self.steering.status()).clone(),
            connections: self.connections.connections(),
            certificates: self.certificate_status(),
            cores: self.cores.iter().map(CoreView::status).collect(),
        }
    }

    /// How many cores are stalled now.
    pub fn stalled(&self) -> u64 {
        self.cores.iter().filter(|core| core.stalled.load(Relaxed)).count() as u64
    }

    /// When the first certificate expires; 0 without TLS.
    pub fn first_expiry_s(&self) -> u64 {
        self.certificate_status().iter().map(|certificate| certificate.not_after_s).min().unwrap_or(0)
    }

    fn certificate_status(&self) -> Vec<CertificateStatus> {
        let Some(store) = &self.certificates else { return Vec::new() };
        let show = |certificate: &crate::tls::Certificate| CertificateStatus {
            names: certificate.names().to_vec(),
            not_after_s: certificate.not_after_s(),
        };
        store.table().certificates().iter().map(show).collect()
    }
}

impl CoreView {
    fn status(&self) -> CoreStatus {
        let mut numbers = serde_json::Map::new();
        self.runtime.each(|name, _, _, value| {
            numbers.insert(name.to_owned(), value.into());
        });
        self.numbers.each(|name, _, _, value| {
            numbers.insert(name.to_owned(), value.into());
        });
        self.outgoing.each(|name, _, _, value| {
            numbers.insert(name.to_owned(), value.into());
        });
        let epoll = self.runtime.epoll_fallback.get() == 1;
        CoreStatus {
            core: self.index,
            cpu: self.cpu,
            driver: if epoll { "epoll" } else { "io_uring" },
            stalled: self.stalled.load(Relaxed),
            stalls: self.stalls.load(Relaxed),
            numbers,
        }
    }
}
