//! The world of a guest's call: time of its core, its configuration, and the log.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_isolate_host::{Later, Stream, World};
use berth_protocol::object::ObjectKey;
use berth_protocol::waits::Chain;
use serde::Serialize;
use tokio::sync::broadcast;

use crate::stats::CoreNumbers;
use crate::zones::{Worker, Zone};

/// A line that a guest logged, or what is said of it.
#[derive(Debug, Serialize)]
pub struct GuestLine {
    /// Unix time in milliseconds.
    pub time_ms: u64,
    /// The zone.
    pub zone: String,
    /// The worker.
    pub worker: String,
    /// The request that it served.
    pub request: String,
    /// `out`, `err`, or `fault` for what the node says of its end.
    pub stream: &'static str,
    /// The line.
    pub text: String,
}

/// Who asked whom: a call, and the calls that led to it.
pub(crate) struct Context {
    pub(crate) zone: Arc<Zone>,
    pub(crate) worker: Arc<Worker>,
    pub(crate) request: u64,
    pub(crate) client: IpAddr,
    /// The call whose guest asked for this one.
    pub(super) parent: Option<Arc<Context>>,
    /// Calls above it.
    pub(super) depth: u8,
    /// The objects that wait for it, and for whom those wait.
    pub(crate) chain: Chain<ObjectKey>,
    /// Of the core that it runs on.
    pub(super) core: Arc<CoreLinks>,
}

/// What calls reach of their core. One for each core, so that no call touches a count that other cores share.
pub(crate) struct CoreLinks {
    pub(crate) lines: broadcast::Sender<Arc<GuestLine>>,
    pub(crate) numbers: Arc<CoreNumbers>,
}

impl Context {
    /// Whether this call, or one that led to it, is of that zone.
    pub(super) fn has_zone(&self, name: &str) -> bool {
        let mut context = Some(self);
        while let Some(one) = context {
            if one.zone.name == name {
                return true;
            }
            context = one.parent.as_deref();
        }
        false
    }

    /// The id of the request as people see it.
    pub(super) fn request_id(&self) -> String {
        show_request(self.request)
    }

    /// Tells those who follow the log.
    pub(crate) fn tell(&self, stream: &'static str, text: &str) {
        if self.core.lines.receiver_count() == 0 {
            return;
        }
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let _ = self.core.lines.send(Arc::new(GuestLine {
            time_ms: time.as_millis() as u64,
            zone: self.zone.name.clone(),
            worker: self.worker.name.clone(),
            request: self.request_id(),
            stream,
            text: text.to_owned(),
        }));
    }
}

impl Context {
    /// A line of the guest.
    pub(crate) fn log(&self, stream: Stream, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let stream = match stream {
            Stream::Out => "out",
            Stream::Err => "err",
        };
        let Context { zone, worker, .. } = self;
        tracing::info!(target: "guest", zone = zone.name, worker = worker.name, request = self.request_id(), stream, text = &*text, "guest.line");
        self.tell(stream, &text);
    }

    /// More than may be logged.
    pub(crate) fn log_is_cut(&self) {
        self.core.numbers.limit_worker_log.add(1);
        self.tell("fault", "the log of this request is cut: limits.log_bytes");
    }
}

/// The number of a request as people see it.
pub(super) fn show_request(request: u64) -> String {
    format!("{request:016x}")
}

/// What the isolate host gets: the context as a world. A type of its own, since the trait is not ours.
pub(super) struct CallWorld(pub(super) Arc<Context>);

impl World for CallWorld {
    fn sleep(&self, time: Duration) -> Later<()> {
        Box::pin(berth_runtime::sleep(time))
    }

    fn log(&self, stream: Stream, line: &[u8]) {
        self.0.log(stream, line);
    }

    fn log_is_cut(&self) {
        self.0.log_is_cut();
    }

    fn variables(&self) -> &[(String, String)] {
        &self.0.worker.variables
    }

    fn secret(&self, name: &str) -> Option<String> {
        self.0.worker.secrets.get(name).cloned()
    }
}
