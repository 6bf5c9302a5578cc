//! The access log: a line for each request, written by a thread of its own.
//!
//! A core never waits for a disk: it hands the line to a bounded queue, and when the writer lags
//! the line is dropped and counted.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Method, StatusCode, Version};

use super::message::{Peer, Security};

/// Lines that may wait for the writer: about a megabyte, a fraction of a second at full speed.
const QUEUE_MAX: usize = 8192;

/// What a line says of its request.
pub struct Line {
    method: Method,
    target: Vec<u8>,
    version: Version,
    peer: Peer,
}

impl Line {
    /// A line for a request that just came.
    pub fn new(method: &Method, target: &[u8], version: Version, peer: &Peer) -> Self {
        Self { method: method.clone(), target: target.to_vec(), version, peer: *peer }
    }
}

/// A core's end of the access log.
#[derive(Clone, Default)]
pub struct AccessLog {
    sender: Option<SyncSender<Vec<u8>>>,
    dropped: Arc<AtomicU64>,
}

impl AccessLog {
    /// A log that is off.
    pub fn off() -> Self {
        Self::default()
    }

    /// A log into a file, appended to.
    pub fn to_file(path: &Path) -> io::Result<Self> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        Self::start(file)
    }

    /// A log to standard error.
    pub fn to_stderr() -> io::Result<Self> {
        Self::start(io::stderr())
    }

    fn start(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE_MAX);
        std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(&receiver, sink))?;
        Ok(Self { sender: Some(sender), dropped: Arc::default() })
    }

    /// Whether lines are written at all.
    pub fn is_on(&self) -> bool {
        self.sender.is_some()
    }

    /// Lines dropped because the writer lagged.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Hands a line to the writer.
    pub fn write(&self, line: &Line, status: StatusCode, elapsed: Duration) {
        if let Some(sender) = &self.sender
            && sender.try_send(format(line, status, elapsed)).is_err()
        {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// Lines are written in batches: one write for all that wait.
fn write_all(lines: &Receiver<Vec<u8>>, mut sink: impl Write) {
    while let Ok(mut batch) = lines.recv() {
        while let (true, Ok(line)) = (batch.len() < 1 << 16, lines.try_recv()) {
            batch.extend_from_slice(&line);
        }
        if let Err(error) = sink.write_all(&batch).and_then(|()| sink.flush()) {
            tracing::warn!(%error, "access_log.write failed; the lines of this batch are lost");
        }
    }
}

/// One JSON object. The target is shown with everything but plain ASCII escaped, so that a client
/// cannot forge lines or terminal sequences.
fn format(line: &Line, status: StatusCode, elapsed: Duration) -> Vec<u8> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut out = Vec::with_capacity(192 + line.target.len());
    let _ = write!(
        out,
        "{{\"time\":{}.{:03},\"client\":\"{}\",\"method\":\"{}\",\"target\":\"",
        time.as_secs(),
        time.subsec_millis(),
        line.peer.client.ip(),
        line.method,
    );
    for byte in &line.target {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            0x20..0x7f => out.push(*byte),
            _ => {
                let _ = write!(out, "\\u00{byte:02x}");
            }
        }
    }
    let tls = line.peer.security == Security::Tls;
    let _ = writeln!(
        out,
        "\",\"version\":\"{:?}\",\"tls\":{tls},\"status\":{},\"us\":{}}}",
        line.version,
        status.as_u16(),
        elapsed.as_micros()
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_target_stays_inside_its_string() {
        let local = ([127, 0, 0, 1], 80).into();
        let peer = Peer { client: local, local, security: Security::Plain };
        let line = Line::new(&Method::GET, b"/a\"\\\x1b[2J\n\xff", Version::HTTP_11, &peer);
        let text = String::from_utf8(format(&line, StatusCode::OK, Duration::from_micros(7))).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["target"], "/a\"\\\u{1b}[2J\n\u{ff}");
        assert_eq!(value["us"], 7);
        assert_eq!(text.lines().count(), 1);
    }
}
