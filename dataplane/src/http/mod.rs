//! HTTP on a connection: what the versions share.
//!
//! A connection of any version turns into [`message::Request`]s for a [`message::Service`] and
//! sends its [`message::Reply`]s. [`Core`] is what a connection needs of the core it lives on.

pub mod access;
pub mod body;
pub mod date;
pub mod h1;
pub mod h2;
pub mod h2_meter;
pub mod h3;
pub mod message;
pub(crate) mod prefixed;
mod stream;
pub(crate) mod talk;
pub mod target;
pub mod websocket;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, Method, StatusCode, Version};

use crate::config::Limits;
use crate::stats::{CoreNumbers, Latencies};
use access::AccessLog;
use body::BodyError;
use date::DateCache;
use h2_meter::MeterLimits;
use message::{Peer, Security};

/// What connections share with their core.
pub struct Core<S> {
    /// What the core counts.
    pub numbers: Arc<CoreNumbers>,
    /// How long its requests took.
    pub latencies: Arc<Latencies>,
    /// What a peer may cost.
    pub limits: Rc<Limits>,
    /// The same for the HTTP/2 frame meter.
    pub meter_limits: MeterLimits,
    /// What answers.
    pub service: S,
    /// Where requests leave their line.
    pub access: AccessLog,
    /// The `date` header of this second.
    pub date: DateCache,
    /// What clients of TLS are told of HTTP/3.
    pub alt_svc: AltSvc,
}

/// The `alt-svc` header (RFC 7838) of each port on which HTTP/3 is spoken.
#[derive(Default)]
pub struct AltSvc(Vec<(u16, HeaderValue)>);

impl AltSvc {
    /// For these ports. Clients may remember it for a day.
    pub fn new(ports: impl Iterator<Item = u16>) -> Self {
        let value = |port| HeaderValue::try_from(format!("h3=\":{port}\"; ma=86400"));
        Self(ports.filter_map(|port| Some((port, value(port).ok()?))).collect())
    }

    /// What a client of HTTP/1.1 or 2 is told on this connection.
    pub fn value(&self, peer: &Peer) -> Option<&HeaderValue> {
        let port = (peer.security == Security::Tls).then_some(peer.local.port())?;
        self.0.iter().find(|(other, _)| *other == port).map(|(_, value)| value)
    }
}

/// A request on its way, for counters, latencies and the access log.
pub struct Record {
    /// When its first byte was seen.
    began: Instant,
    /// The status of the reply.
    pub status: StatusCode,
    version: Version,
    line: Option<Box<access::Line>>,
}

impl<S> Core<S> {
    /// A connection's core.
    pub fn new(
        numbers: Arc<CoreNumbers>,
        latencies: Arc<Latencies>,
        limits: Limits,
        service: S,
        access: AccessLog,
    ) -> Self {
        let meter_limits = MeterLimits {
            resets: limits.http2.resets,
            settings: limits.http2.settings,
            pings: limits.http2.pings,
            priorities: limits.http2.priorities,
            window_updates: limits.http2.window_updates,
            empty_frames: limits.http2.empty_frames,
            continuations: limits.http2.continuations,
            // HPACK may make fields larger than they are, so the block as sent gets twice the room.
            header_block_bytes: u32::try_from(limits.header_bytes * 2).unwrap_or(u32::MAX),
        };
        Self {
            numbers,
            latencies,
            limits: Rc::new(limits),
            meter_limits,
            service,
            access,
            date: DateCache::default(),
            alt_svc: AltSvc::default(),
        }
    }

    /// A request began.
    pub fn begin(
        &self,
        method: &Method,
        target: &[u8],
        version: Version,
        peer: &Peer,
        began: Instant,
    ) -> Record {
        let line = self.access.is_on().then(|| Box::new(access::Line::new(method, target, version, peer)));
        Record { began, status: StatusCode::OK, version, line }
    }

    /// Its reply is on its way, or it was given up.
    pub fn finish(&self, record: Record) {
        let elapsed = record.began.elapsed();
        self.latencies.record(elapsed);
        self.numbers.requests.add(1);
        self.numbers.requests_http2.add(u64::from(record.version == Version::HTTP_2));
        self.numbers.requests_http3.add(u64::from(record.version == Version::HTTP_3));
        if record.status.is_client_error() {
            self.numbers.replies_4xx.add(1);
        } else if record.status.is_server_error() {
            self.numbers.replies_5xx.add(1);
        }
        if let Some(line) = record.line {
            self.access.write(&line, record.status, elapsed);
        }
    }

    /// A request's body ended early.
    pub fn count_body_error(&self, error: BodyError) {
        match error {
            BodyError::TooLarge => self.numbers.limit_body_bytes.add(1),
            BodyError::TimedOut => self.numbers.limit_body_timeout.add(1),
            BodyError::Malformed => self.numbers.requests_malformed.add(1),
            BodyError::Gone => {}
        }
    }
}
