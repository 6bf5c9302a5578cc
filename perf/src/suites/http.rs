//! The `http` suite: what a small request, a handshake and an idle connection cost, beside nginx.
//!
//! Requests and handshakes are counted per CPU second of the server, idle connections in bytes. All traffic is on
//! loopback between two CPUs: no network card and no latency, but the whole TCP stack, and the same for both.
//!
//! # Back of the envelope
//!
//! *HTTP/1.1, keep-alive, 17 bytes of body.* An epoll server makes two system calls per request, read and write,
//! and shares one epoll_wait among those that wait together: 2 × ≈ 0.1 µs of entering and leaving, ≈ 1 µs to
//! receive, ≈ 3-4 µs to send, because on loopback the sender also runs the receiver's half of TCP and wakes it. A
//! ring with multishot receive has no read call and submits many sends at once, but the TCP path stays. Parsing
//! some 60 bytes and formatting 150 is ≈ 0.3-0.5 µs. So 5-6 µs is what a lean server can reach; 8.5 µs was
//! measured for nginx in separate runs, so 1.2 × is 7.1 µs: there is room for ≈ 2 µs of our own code.
//!
//! *HTTP/2 over TLS, 32 streams each.* System calls are shared by the streams that arrive in one segment, so the
//! kernel's part falls below 1 µs per request, and framing, HPACK, stream state and one AES-GCM record (≈ 0.2 µs
//! for some hundred bytes) are the cost: ≈ 5-9 µs depending on the library.
//!
//! *Full handshake.* X25519 twice ≈ 25-60 µs, P-256 signature ≈ 10-25 µs, HKDF and records ≈ 10-15 µs, two tickets
//! ≈ 5 µs, TCP open and close ≈ 20 µs: 80-150 µs, of which the cryptographic library decides most.
//!
//! *Idle connection.* Our bar is 4 KiB beside the kernel's own. A connection that keeps a read buffer of one page
//! has spent it already; one that keeps only its state machine is below 1 KiB. With TLS, the two ciphers' keys and
//! the library's state stay: 1-3 KiB in a lean one, while OpenSSL's connection objects take some 10 KiB or more.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use crate::cpu::{Cpus, SERVER_BUSY_MIN, Saturation, Standing, Tree, Window, idle_busy};
use crate::figure::{Bar, Figure, Judged};
use crate::load::{IdleHolder, Load, LoadError};
use crate::memory::Memory;
use crate::peer::Server;
use crate::run::{Plan, Run, Taken, Trial};
use crate::swarm::Secrecy;

/// Idle connections of the memory figures.
const IDLE_CONNECTIONS: u32 = 10_000;
/// Load before the measured run, so that caches, branch predictors and heaps are warm.
const WARM_UP_SECONDS: u64 = 1;
/// A server's memory has settled when it has changed by less than this, 26 bytes per connection... (Its share of the
/// common libraries moves by about as much when other programs start and end.)
const SETTLED_CHANGE: u64 = 256 * 1024;
/// ...for this long; a server that gives memory back on a timer needs at least that.
const SETTLED_FOR: Duration = Duration::from_secs(2);
/// A server that never settles is measured all the same after this long.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);

/// The figures of this suite, in the order of the report.
pub(crate) const TRIALS: [HttpTrial; 6] = [
    HttpTrial::SmallHttp1(Http1Client::Own),
    HttpTrial::SmallHttp1(Http1Client::Wrk),
    HttpTrial::SmallHttp2,
    HttpTrial::Handshakes,
    HttpTrial::Idle(Secrecy::Plain),
    HttpTrial::Idle(Secrecy::Tls),
];

/// How each figure is taken.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HttpTrial {
    SmallHttp1(Http1Client),
    SmallHttp2,
    Handshakes,
    Idle(Secrecy),
}

/// Who makes the load of the HTTP/1.1 figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Http1Client {
    /// Cheaper than any server, so that the server is the limit.
    Own,
    /// Widely known, but dearer than nginx.
    Wrk,
}

impl Trial for HttpTrial {
    fn figure(&self) -> Figure {
        match self {
            Self::SmallHttp1(client) => Figure {
                key: match client {
                    Http1Client::Own => "h1",
                    Http1Client::Wrk => "h1-wrk",
                },
                title: match client {
                    Http1Client::Own => "small HTTP/1.1 requests, keep-alive",
                    Http1Client::Wrk => "small HTTP/1.1 requests, keep-alive, by wrk",
                },
                unit: "requests per CPU second",
                judged: Judged::Ratio,
                bar: Bar::AtLeast(0.8),
                aim: Some(1.2),
            },
            Self::SmallHttp2 => Figure {
                key: "h2",
                title: "small HTTP/2 requests over TLS 1.3",
                unit: "requests per CPU second",
                judged: Judged::Ratio,
                bar: Bar::AtLeast(0.8),
                aim: Some(1.0),
            },
            Self::Handshakes => Figure {
                key: "handshake",
                title: "full TLS 1.3 handshakes, X25519 and ECDSA P-256",
                unit: "handshakes per CPU second",
                judged: Judged::Ratio,
                bar: Bar::AtLeast(0.9),
                aim: None,
            },
            Self::Idle(Secrecy::Plain) => Figure {
                key: "idle",
                title: "memory of an idle connection, plain",
                unit: "bytes per connection",
                judged: Judged::Ours,
                bar: Bar::AtMost(4096.0),
                aim: Some(2048.0),
            },
            Self::Idle(Secrecy::Tls) => Figure {
                key: "idle-tls",
                title: "memory of an idle connection, TLS",
                unit: "bytes per connection",
                judged: Judged::Ratio,
                bar: Bar::AtMost(0.7),
                aim: None,
            },
        }
    }

    fn taken(&self) -> Taken {
        match self {
            Self::SmallHttp1(Http1Client::Wrk) => Taken::ByName,
            _ => Taken::Always,
        }
    }

    fn run(&self, server: &mut Server, plan: &Plan) -> Result<Run, Box<dyn Error>> {
        let (http, https) = (server.site.http, server.site.https);
        match self {
            Self::SmallHttp1(Http1Client::Own) => {
                rate(server, plan, |seconds| Load::http1(http, seconds), Limit::Server)
            }
            Self::SmallHttp1(Http1Client::Wrk) => {
                rate(server, plan, |seconds| Load::http1_wrk(http, seconds), Limit::Either)
            }
            Self::SmallHttp2 => rate(server, plan, |seconds| Load::http2(https, seconds), Limit::Server),
            Self::Handshakes => rate(server, plan, |seconds| Load::handshakes(https, seconds), Limit::Either),
            Self::Idle(secrecy) => idle(server, plan, *secrecy),
        }
    }
}

/// Who may be the limit of a run that counts.
#[derive(Clone, Copy, PartialEq)]
enum Limit {
    Server,
    /// Both sides do about the same work, so that a fast server may outrun our one client CPU. CPU time per unit
    /// is then taken at lower load, and marked: it contains the server's idle work (bounded, see `cpu`) and less
    /// batching, both of which make the server look worse, never better.
    Either,
}

/// Units of load per CPU second of the server.
fn rate(
    server: &mut Server,
    plan: &Plan,
    load: impl Fn(u64) -> Result<Load, LoadError>,
    limit: Limit,
) -> Result<Run, Box<dyn Error>> {
    load(WARM_UP_SECONDS)?.run(plan.cpus.client)?;
    server.confine()?;
    let load = load(plan.seconds)?;
    let window = Window::open(server.tree(), plan.cpus)?;
    let tally = load.run(plan.cpus.client)?;
    let usage = window.close()?;

    let standing = if tally.failed > 0 {
        Standing::NotCounted(format!("{} of {} failed", tally.failed, tally.done + tally.failed))
    } else {
        usage.standing(saturation(server.tree(), plan.cpus, limit, usage.server_busy)?)
    };
    let mut detail = tally.detail;
    detail.insert("done", tally.done as f64);
    detail.insert("server_us_each", usage.server_cpu_s * 1e6 / tally.done.max(1) as f64);
    detail.insert("client_us_each", usage.client_cpu_s * 1e6 / tally.done.max(1) as f64);
    let value = tally.done as f64 / usage.server_cpu_s;
    Ok(Run { value, standing, usage: Some(usage), command: load.command_line(), detail })
}

fn saturation(tree: Tree, cpus: Cpus, limit: Limit, server_busy: f64) -> Result<Saturation, Box<dyn Error>> {
    if limit == Limit::Server || server_busy >= SERVER_BUSY_MIN {
        return Ok(Saturation::Required);
    }
    Ok(Saturation::Preferred { idle_busy: idle_busy(tree, cpus, Duration::from_secs(1))? })
}

/// Growth of the server's own memory per idle connection.
fn idle(server: &mut Server, plan: &Plan, secrecy: Secrecy) -> Result<Run, Box<dyn Error>> {
    let address = match secrecy {
        Secrecy::Plain => server.site.http,
        Secrecy::Tls => server.site.https,
    };
    // The first connection of its kind pays for what is allocated once: it is not growth per connection.
    let client = plan.cpus.client;
    IdleHolder::open(address, secrecy, 1, client)?.close();
    let before = settled(server.tree())?;
    let holder = IdleHolder::open(address, secrecy, IDLE_CONNECTIONS, client)?;
    let after = settled(server.tree())?;
    let still_open = holder.close();

    let per_connection =
        |before: u64, after: u64| (after as f64 - before as f64) / f64::from(IDLE_CONNECTIONS);
    let value = per_connection(before.memory.own(), after.memory.own());
    let standing = if still_open != Some(IDLE_CONNECTIONS) {
        Standing::NotCounted(format!(
            "{} of {IDLE_CONNECTIONS} connections were still open",
            still_open.unwrap_or(0)
        ))
    } else if !after.settled {
        Standing::NotCounted(format!("the server's memory was still changing after {SETTLE_LIMIT:?}"))
    } else {
        Standing::Counted
    };
    let (before, after) = (before.memory, after.memory);
    let detail = BTreeMap::from([
        ("pss", per_connection(before.pss, after.pss)),
        ("page_tables", per_connection(before.page_tables, after.page_tables)),
        ("kernel_slab_both_ends", per_connection(before.slab, after.slab)),
        ("kernel_tcp_buffers_both_ends", per_connection(before.tcp_buffers, after.tcp_buffers)),
        ("baseline_mib", before.own() as f64 / 1024.0 / 1024.0),
    ]);
    let tls = if secrecy == Secrecy::Tls { " --tls" } else { "" };
    let command = format!("berth-perf client idle --address={address} --connections={IDLE_CONNECTIONS}{tls}");
    Ok(Run { value, standing, usage: None, command, detail })
}

/// A sample of memory, and whether it had stopped changing.
struct Sample {
    memory: Memory,
    settled: bool,
}

/// Waits until the server's own memory has settled. Idle means idle: a server may give buffers back on a timer.
fn settled(tree: Tree) -> Result<Sample, Box<dyn Error>> {
    let begin = Instant::now();
    let mut reference = Memory::of(tree)?;
    let mut since = Instant::now();
    loop {
        std::thread::sleep(Duration::from_millis(250));
        let memory = Memory::of(tree)?;
        if memory.own().abs_diff(reference.own()) > SETTLED_CHANGE {
            reference = memory;
            since = Instant::now();
        }
        let settled = since.elapsed() >= SETTLED_FOR;
        if settled || begin.elapsed() >= SETTLE_LIMIT {
            return Ok(Sample { memory, settled });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_has_its_own_name_and_a_title_for_the_report() {
        let mut keys: Vec<_> = TRIALS.iter().map(|trial| trial.figure().key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), TRIALS.len());
    }

    #[test]
    fn aims_lie_beyond_their_bars() {
        for figure in TRIALS.iter().map(Trial::figure) {
            match (figure.bar, figure.aim) {
                (Bar::AtLeast(bar), Some(aim)) => assert!(aim > bar, "{}", figure.key),
                (Bar::AtMost(bar), Some(aim)) => assert!(aim < bar, "{}", figure.key),
                _ => {}
            }
        }
    }

    #[test]
    fn memory_that_does_not_change_settles() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let sample = settled(Tree::of(child.id() as i32)).unwrap();
        assert!(sample.settled && sample.memory.own() > 0);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
