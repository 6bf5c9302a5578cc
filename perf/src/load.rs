//! Load generators: a command to run on the client's CPU, and how to read what it counted.
//!
//! h2load for HTTP/2, because nobody can say that we tuned it for ourselves. Our own clients (`swarm` and
//! `quic::swarm`, as child processes of this very program) for handshakes and idle connections, which h2load cannot
//! do, for HTTP/3, which no load generator of Debian speaks, and for HTTP/1.1: wrk makes four system calls per
//! request where two suffice, and used 8.7 µs of CPU per request here against 7.2 µs of ours and 8.3 µs of nginx, so
//! that wrk was the limit and not the server. wrk stays for a cross-check by name.
//!
//! A generator counts everything from its start to its end, so that its count belongs to the CPU time between the
//! same two moments; warming up is a run of its own before.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum as _;
use clap::builder::PossibleValue;

use crate::counters::{Asking, Pace};
use crate::peer::PeerError;
use crate::swarm::{LoopTally, Secrecy};
use crate::sys;
use crate::tool::{H2LOAD, WRK};

/// Connections of the HTTP/1.1 figure: enough that a whole batch is always waiting, few enough to stay in cache.
pub(crate) const HTTP1_CONNECTIONS: u32 = 64;
/// HTTP/2: streams as a busy front end sees them, below both servers' limits, and enough connections that the two
/// sides do not wait for each other in lock-step (16 left both idle for 4 % here).
const HTTP2_CONNECTIONS: u32 = 32;
const HTTP2_STREAMS: u32 = 32;
/// HTTP/3: as HTTP/2, so that the two figures can be read beside each other.
const HTTP3_CONNECTIONS: u32 = 32;
const HTTP3_STREAMS: u32 = 32;
/// Downloads at a time. Several, so that the server has work while one client's window is on its way; few, so that
/// all of them stay in cache.
const HTTP3_DOWNLOADS: u32 = 4;
/// Handshakes in flight.
const HANDSHAKES: u32 = 32;
/// A generator that has not ended so long after its time is stuck.
const OVERTIME: Duration = Duration::from_secs(30);

/// A command that makes load for a given time.
pub(crate) struct Load {
    program: PathBuf,
    arguments: Vec<String>,
    seconds: u64,
    parse: fn(&str) -> Option<Tally>,
}

/// What requests of HTTP/1.1 ask for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) connections: u32,
    pub(crate) path: String,
    pub(crate) host: String,
    /// The address that they come from; nothing leaves it to the kernel.
    pub(crate) source: Option<Ipv4Addr>,
}

/// A generator that runs beside what is measured.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already is what we want.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a generator counted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tally {
    /// Requests or handshakes that succeeded.
    pub(crate) done: u64,
    pub(crate) failed: u64,
    /// Further numbers worth keeping in the report.
    pub(crate) detail: BTreeMap<&'static str, f64>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Tool(#[from] PeerError),
    #[error("could not run {command}")]
    Spawn { command: String, source: io::Error },
    #[error("{command} did not end in time and was stopped")]
    Stuck { command: String },
    #[error("{command} failed ({status}); it printed:\n{output}")]
    Failed { command: String, status: String, output: String },
    #[error("could not find the counts in what {command} printed; is its version unknown to us?\n{output}")]
    Parse { command: String, output: String },
}

impl Load {
    /// Keep-alive HTTP/1.1, one request at a time per connection, by our own client.
    pub(crate) fn http1(address: SocketAddr, seconds: u64) -> Result<Self, LoadError> {
        Self::own("requests", address, &[format!("--connections={HTTP1_CONNECTIONS}")], seconds)
    }

    /// The same for a path under a host name, on so many connections, from an address.
    pub(crate) fn http1_of(asked: &Asked, address: SocketAddr, seconds: u64) -> Result<Self, LoadError> {
        let mut arguments = vec![
            format!("--connections={}", asked.connections),
            format!("--path={}", asked.path),
            format!("--host={}", asked.host),
        ];
        arguments.extend(asked.source.map(|source| format!("--source={source}")));
        Self::own("requests", address, &arguments, seconds)
    }

    /// The same by wrk.
    pub(crate) fn http1_wrk(address: SocketAddr, seconds: u64) -> Result<Self, LoadError> {
        let arguments = [
            "-t1".into(),
            format!("-c{HTTP1_CONNECTIONS}"),
            format!("-d{seconds}s"),
            format!("http://{address}/"),
        ];
        Ok(Self {
            program: WRK.ensure().map_err(PeerError::from)?,
            arguments: arguments.into(),
            seconds,
            parse: parse_wrk,
        })
    }

    /// HTTP/2 over TLS 1.3, with the group and cipher suite of our other TLS figures.
    pub(crate) fn http2(address: SocketAddr, seconds: u64) -> Result<Self, LoadError> {
        let arguments = [
            "-t1".into(),
            format!("-c{HTTP2_CONNECTIONS}"),
            format!("-m{HTTP2_STREAMS}"),
            format!("-D{seconds}"),
            "--groups=X25519".into(),
            "--tls13-ciphers=TLS_AES_128_GCM_SHA256".into(),
            format!("https://{address}/"),
        ];
        Ok(Self {
            program: H2LOAD.ensure().map_err(PeerError::from)?,
            arguments: arguments.into(),
            seconds,
            parse: parse_h2load,
        })
    }

    /// Full TLS 1.3 handshakes by our own client.
    pub(crate) fn handshakes(address: SocketAddr, seconds: u64) -> Result<Self, LoadError> {
        Self::own("handshakes", address, &[format!("--concurrency={HANDSHAKES}")], seconds)
    }

    /// Small HTTP/3 requests by our own client.
    pub(crate) fn http3(address: SocketAddr, seconds: u64) -> Result<Self, LoadError> {
        let links = [format!("--connections={HTTP3_CONNECTIONS}"), format!("--streams={HTTP3_STREAMS}")];
        Self::own("h3-requests", address, &links, seconds)
    }

    /// Large HTTP/3 downloads by our own client, in MiB.
    pub(crate) fn http3_downloads(address: SocketAddr, seconds: u64) -> Result<Self, LoadError> {
        Self::own("h3-downloads", address, &[format!("--connections={HTTP3_DOWNLOADS}")], seconds)
    }

    /// Full QUIC handshakes with one request each by our own client.
    pub(crate) fn http3_handshakes(address: SocketAddr, seconds: u64) -> Result<Self, LoadError> {
        Self::own("h3-handshakes", address, &[format!("--concurrency={HANDSHAKES}")], seconds)
    }

    fn own(goal: &str, address: SocketAddr, links: &[String], seconds: u64) -> Result<Self, LoadError> {
        let target = [format!("--address={address}"), format!("--seconds={seconds}")];
        let arguments = ["client".to_owned(), goal.to_owned()].into_iter().chain(target);
        Ok(Self {
            program: own_program()?,
            arguments: arguments.chain(links.iter().cloned()).collect(),
            seconds,
            parse: parse_own,
        })
    }

    /// Requests to counters, by our own client. The time of `Once` is as long as it takes.
    pub(crate) fn counters(asking: &Asking, address: SocketAddr) -> Result<Self, LoadError> {
        let word = |value: Option<PossibleValue>| value.map(|value| value.get_name().to_owned());
        let mut arguments = vec![
            format!("--connections={}", asking.connections),
            format!("--dialect={}", word(asking.dialect.to_possible_value()).unwrap_or_default()),
            format!("--verb={}", word(asking.verb.to_possible_value()).unwrap_or_default()),
            format!("--counters={}", asking.counters),
        ];
        let span = match asking.pace {
            Pace::Closed(span) => span,
            Pace::Rate(rate, span) => {
                arguments.push(format!("--rate={rate}"));
                span
            }
            Pace::Once => {
                arguments.push("--once".to_owned());
                Duration::ZERO
            }
        };
        Self::own("counters", address, &arguments, span.as_secs())
    }

    /// Starts it on `cpu`; it ends by itself, or when this is dropped.
    pub(crate) fn start(&self, cpu: usize) -> Result<Running, LoadError> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        sys::pin_on_spawn(&mut command, cpu);
        let spawned = command.spawn();
        spawned.map(Running).map_err(|source| LoadError::Spawn { command: self.command_line(), source })
    }

    /// The command as one would type it.
    pub(crate) fn command_line(&self) -> String {
        let name = self.program.file_name().unwrap_or_default().to_string_lossy();
        format!("{name} {}", self.arguments.join(" "))
    }

    /// Runs it to its end on `cpu`. Its CPU time is among that of reaped children afterwards.
    pub(crate) fn run(&self, cpu: usize) -> Result<Tally, LoadError> {
        let command_line = || self.command_line();
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        sys::pin_on_spawn(&mut command, cpu);
        let mut child =
            command.spawn().map_err(|source| LoadError::Spawn { command: command_line(), source })?;
        let status = wait(&mut child, Duration::from_secs(self.seconds) + OVERTIME)
            .ok_or_else(|| LoadError::Stuck { command: command_line() })?;
        // The output of one run is some hundred bytes: it fits into the pipe, so nothing waited for us to read.
        let output = printed(child);
        if !status.success() {
            return Err(LoadError::Failed { command: command_line(), status: status.to_string(), output });
        }
        (self.parse)(&output).ok_or_else(|| LoadError::Parse { command: command_line(), output })
    }
}

/// What idle connections speak.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum IdleKind {
    Tcp(Secrecy),
    Quic,
}

impl IdleKind {
    /// The command of our own client that opens them.
    pub(crate) fn command(self, address: SocketAddr, connections: u32) -> Vec<String> {
        let (goal, tls) = match self {
            Self::Tcp(Secrecy::Plain) => ("idle", None),
            Self::Tcp(Secrecy::Tls) => ("idle", Some("--tls".to_owned())),
            Self::Quic => ("h3-idle", None),
        };
        let target = [format!("--address={address}"), format!("--connections={connections}")];
        ["client".to_owned(), goal.to_owned()].into_iter().chain(target).chain(tls).collect()
    }
}

/// Idle connections held by a child process, until this is dropped.
pub(crate) struct IdleHolder {
    child: Child,
    /// Closing it tells the child to count what is still open, and to leave.
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl IdleHolder {
    /// Opens the connections, each with one request and its answer, on `cpu`.
    pub(crate) fn open(
        kind: IdleKind,
        address: SocketAddr,
        connections: u32,
        cpu: usize,
    ) -> Result<Self, LoadError> {
        let arguments = kind.command(address, connections);
        let name = || format!("berth-perf {}", arguments.join(" "));
        let spawn = |source| LoadError::Spawn { command: name(), source };
        let mut command = Command::new(own_program()?);
        command.args(&arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        sys::pin_on_spawn(&mut command, cpu);
        let mut child = command.spawn().map_err(spawn)?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("stdout was asked to be a pipe"));
        let mut holder = Self { child, stdin, stdout };
        // Bounded: the child gives up by itself, connection by connection.
        if holder.line() == "open" {
            return Ok(holder);
        }
        let status = holder.child.wait().map_err(spawn)?.to_string();
        Err(LoadError::Failed { command: name(), status, output: "(above)".to_owned() })
    }

    /// Ends the child; returns how many connections were still open.
    pub(crate) fn close(mut self) -> Option<u32> {
        drop(self.stdin.take());
        self.line().parse().ok()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        // An unreadable line is an empty one: the caller takes both as a failure.
        let _ = self.stdout.read_line(&mut line);
        line.trim().to_owned()
    }
}

impl Drop for IdleHolder {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

fn own_program() -> Result<PathBuf, LoadError> {
    std::env::current_exe().map_err(|source| LoadError::Spawn { command: "ourselves".to_owned(), source })
}

fn wait(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            _ if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
            // The window closes this much late at most: 0.1 % of a run of 2 s.
            _ => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn printed(child: Child) -> String {
    let mut text = String::new();
    // Both streams are ours and the child is gone: a read error can only shorten the text, and parsing will say so.
    if let Some(mut stdout) = child.stdout {
        let _ = stdout.read_to_string(&mut text);
    }
    if let Some(mut stderr) = child.stderr {
        let _ = stderr.read_to_string(&mut text);
    }
    text
}

/// `428332 requests in 4.02s, 67.40MB read`, and two lines that appear only after failures.
fn parse_wrk(output: &str) -> Option<Tally> {
    let (count, _) = output.lines().find_map(|line| line.trim().split_once(" requests in "))?;
    let refused = number_after(output, "Non-2xx or 3xx responses: ").unwrap_or(0.0);
    let errors = output.lines().find_map(|line| line.trim().strip_prefix("Socket errors: ")).unwrap_or("");
    let broken: u64 =
        errors.split(',').filter_map(|part| part.split_whitespace().last()?.parse::<u64>().ok()).sum();
    let answered: u64 = count.parse().ok()?;
    Some(Tally {
        done: answered.saturating_sub(refused as u64),
        failed: refused as u64 + broken,
        detail: BTreeMap::new(),
    })
}

/// `requests: 7 total, 9 started, 7 done, 7 succeeded, 0 failed, 0 errored, 0 timeout`, and the bytes per part.
fn parse_h2load(output: &str) -> Option<Tally> {
    let requests = output.lines().find_map(|line| line.strip_prefix("requests: "))?;
    let count = |name: &str| -> Option<u64> {
        requests.split(", ").find_map(|part| part.strip_suffix(name)?.trim().parse().ok())
    };
    let done = count("done")?;
    let succeeded = count("succeeded")?;
    let traffic = output.lines().find_map(|line| line.strip_prefix("traffic: ")).unwrap_or("");
    let bytes = |name: &str| -> Option<f64> {
        let part = traffic.split(", ").find(|part| part.contains(name))?;
        part.split_once('(')?.1.split_once(')')?.0.parse().ok()
    };
    let per_request = |total: Option<f64>| total.map(|total| total / done.max(1) as f64);
    let detail = [("head_bytes", per_request(bytes("headers"))), ("body_bytes", per_request(bytes("data")))];
    // An answer of 4xx or 5xx is done but did not succeed; a request on a broken connection is failed but not done.
    let failed = done.saturating_sub(succeeded).max(count("failed")?);
    Some(Tally {
        done: succeeded,
        failed,
        detail: detail.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
    })
}

fn parse_own(output: &str) -> Option<Tally> {
    let tally: LoopTally = serde_json::from_str(output.lines().next()?).ok()?;
    Some(Tally {
        done: tally.done,
        failed: tally.failed,
        detail: BTreeMap::from([("p50_us", tally.p50_us as f64), ("p99_us", tally.p99_us as f64)]),
    })
}

fn number_after(text: &str, label: &str) -> Option<f64> {
    text.lines().find_map(|line| line.trim().strip_prefix(label)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK_OUTPUT: &str = "Running 4s test @ http://127.0.0.1:18080/\n  1 threads and 64 connections\n  \
        Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency   761.26us    1.52ms  12.74ms   91.05%\n    \
        Req/Sec   107.40k    38.26k  159.85k    65.00%\n  428332 requests in 4.02s, 67.40MB read\n\
        Requests/sec: 106596.65\nTransfer/sec:     16.77MB\n";

    const H2LOAD_OUTPUT: &str = "starting benchmark...\nfinished in 3.00s, 117259.67 req/s, 18.45MB/s\n\
        requests: 400 total, 464 started, 400 done, 400 succeeded, 0 failed, 0 errored, 0 timeout\n\
        status codes: 400 2xx, 0 3xx, 0 4xx, 0 5xx\n\
        traffic: 55.35MB (58043) total, 36.57MB (4000) headers (space savings 90.00%), 5.70MB (6800) data\n";

    #[test]
    fn wrk_without_failures() {
        let tally = parse_wrk(WRK_OUTPUT).unwrap();
        assert_eq!((tally.done, tally.failed), (428_332, 0));
    }

    #[test]
    fn wrk_with_refusals_and_broken_sockets() {
        let output = format!(
            "{WRK_OUTPUT}  Socket errors: connect 1, read 20, write 300, timeout 4000\n  Non-2xx or 3xx responses: 332\n"
        );
        let tally = parse_wrk(&output).unwrap();
        assert_eq!((tally.done, tally.failed), (428_000, 4321 + 332));
    }

    #[test]
    fn h2load_counts_and_weighs() {
        let tally = parse_h2load(H2LOAD_OUTPUT).unwrap();
        assert_eq!((tally.done, tally.failed), (400, 0));
        assert_eq!(tally.detail, BTreeMap::from([("head_bytes", 10.0), ("body_bytes", 17.0)]));
    }

    #[test]
    fn h2load_with_refusals_and_broken_connections() {
        let output = H2LOAD_OUTPUT
            .replace("400 succeeded, 0 failed, 0 errored", "390 succeeded, 15 failed, 5 errored");
        let tally = parse_h2load(&output).unwrap();
        assert_eq!((tally.done, tally.failed), (390, 15));
    }

    #[test]
    fn what_a_generator_did_not_print_is_no_number() {
        for parse in [parse_wrk, parse_h2load, parse_own] {
            assert_eq!(parse(""), None);
            assert_eq!(parse("requests: many\nx requests in y\n"), None);
        }
    }

    #[test]
    fn our_own_client_is_read_back() {
        let line = r#"{"done":12,"failed":1,"seconds":1.0,"p50_us":7,"p99_us":9}"#;
        let tally = parse_own(line).unwrap();
        assert_eq!((tally.done, tally.failed, tally.detail["p99_us"]), (12, 1, 9.0));
    }
}
