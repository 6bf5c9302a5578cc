//! What objects cost in a node, beside workerd's Durable Objects and beside Redis: durable increments and reads of counters, one
//! request at a time on each of 64 connections.
//!
//! The latency against offered load is in [`curve`], what a turn, a hop, a start and a move take without sockets in [`inside`].
//!
//! # On the back of an envelope
//!
//! A small HTTP/1.1 request takes the node some 8 µs ([`super::http`]), a turn 3, the letter there and back 2, a record in the log
//! and its settling 2: 15 µs of CPU, and a sync of 100 µs or more that all share who wait for it. With 64 clients that is up to
//! 40,000 a second on one core, and what the disk has in between. Redis has 4 µs of parsing and TCP for each and no HTTP; it syncs
//! once a round of its loop. workerd writes SQLite's log and syncs it for each increment that does not share one.
//!
//! # How syncs are counted
//!
//! `perf stat` counts the system calls `fsync`, `fdatasync`, `sync_file_range` and `msync` of the server in the very run that is
//! measured: a counter in the kernel at that call and nowhere else. Without it (it takes root) they are not told.

pub(crate) mod curve;
pub(crate) mod inside;
mod plot;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::counters::{Asking, Dialect, Pace, Verb};
use crate::cpu::{CLIENT_BUSY_MAX, FOREIGN_MAX, Standing, Window};
use crate::figure::{Bar, Figure, Judged};
use crate::load::Load;
use crate::memory::Memory;
use crate::peer::{Protocol, Server};
use crate::run::{Plan, Run, Trial};
use crate::suites::measure::{Limit, rate};
use crate::sys::{self, End};
use crate::tool::PERF;

/// Clients: each has one connection and one request at a time.
const CONNECTIONS: usize = 64;
/// Objects of the figures over many.
const SPREAD: usize = 1_000;
/// Load before each measured run.
const WARM_UP: Duration = Duration::from_secs(1);
/// Objects that are resident for the figure of memory, and those that live before.
const RESIDENT: usize = 2_000;
const RESIDENT_BEFORE: usize = 50;
/// Between the last answer and the look at memory. Both give up objects that are idle for ten seconds.
const CALM: Duration = Duration::from_secs(2);
/// The share of workerd's most increments at which waiting is compared.
const SHARE: f64 = 0.8;

/// How each figure is taken.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ObjectTrial {
    /// Durable increments over so many objects.
    Add(usize, Beside),
    Read,
    /// p99 at so many increments a second.
    Wait(u32),
    Resident,
}

/// Which peer, as it decides the bar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Beside {
    Workerd,
    Redis,
}

/// Beside workerd. `most` is how many increments a second it does at most.
pub(crate) fn beside_workerd(most: f64) -> [ObjectTrial; 5] {
    [
        ObjectTrial::Add(1, Beside::Workerd),
        ObjectTrial::Add(SPREAD, Beside::Workerd),
        ObjectTrial::Read,
        ObjectTrial::Wait((most * SHARE) as u32),
        ObjectTrial::Resident,
    ]
}

/// Beside Redis.
pub(crate) const BESIDE_REDIS: [ObjectTrial; 2] =
    [ObjectTrial::Add(1, Beside::Redis), ObjectTrial::Add(SPREAD, Beside::Redis)];

/// What the figure of waiting is called on the command line.
pub(crate) const WAIT_KEY: &str = "p99";

impl Trial for ObjectTrial {
    fn figure(&self) -> Figure {
        let per_second = "increments per second";
        let (key, title, unit, bar, aim) = match self {
            Self::Add(1, Beside::Workerd) => {
                ("hot", "durable increments of one object", per_second, Bar::AtLeast(10.0), None)
            }
            Self::Add(_, Beside::Workerd) => {
                ("spread", "durable increments over 1,000 objects", per_second, Bar::AtLeast(20.0), None)
            }
            Self::Add(1, Beside::Redis) => {
                ("hot-redis", "durable increments of one object", per_second, Bar::AtLeast(0.5), Some(1.0))
            }
            Self::Add(_, Beside::Redis) => {
                let title = "durable increments over 1,000 objects";
                ("spread-redis", title, per_second, Bar::AtLeast(0.5), Some(1.0))
            }
            Self::Read => {
                ("reads", "reads of one object", "reads per CPU second", Bar::AtLeast(6.0), Some(8.0))
            }
            Self::Wait(_) => {
                (WAIT_KEY, "p99 at 80 % of workerd's most increments", "µs", Bar::AtMost(0.5), None)
            }
            Self::Resident => {
                let title = "memory of a resident object, page tables and stacks included";
                ("resident", title, "bytes", Bar::AtMost(56.0 * 1024.0), None)
            }
        };
        let judged = if matches!(self, Self::Resident) { Judged::Ours } else { Judged::Ratio };
        Figure { key, title, unit, judged, bar, aim }
    }

    fn run(&self, server: &mut Server, plan: &Plan) -> Result<Run, Box<dyn Error>> {
        match self {
            Self::Add(counters, _) => per_second(server, plan, *counters),
            Self::Read => {
                let (address, dialect) = (server.site.http, dialect(server));
                let load = |seconds| {
                    let pace = Pace::Closed(Duration::from_secs(seconds));
                    Load::counters(&asking(dialect, Verb::Read, 1, pace), address)
                };
                rate(server, plan, load, Limit::Server)
            }
            Self::Wait(rate) => wait(server, plan, *rate),
            Self::Resident => resident(server, plan),
        }
    }
}

/// What the server speaks.
fn dialect(server: &Server) -> Dialect {
    if server.speaks == Protocol::Redis { Dialect::Redis } else { Dialect::Http }
}

fn asking(dialect: Dialect, verb: Verb, counters: usize, pace: Pace) -> Asking {
    Asking { dialect, verb, connections: CONNECTIONS, counters, pace }
}

/// Increments per second, with the CPU time and the syncs of each. The disk may be the limit: the server need not be busy.
fn per_second(server: &mut Server, plan: &Plan, counters: usize) -> Result<Run, Box<dyn Error>> {
    let (address, dialect) = (server.site.http, dialect(server));
    let load = |pace| Load::counters(&asking(dialect, Verb::Add, counters, pace), address);
    load(Pace::Once)?.run(plan.cpus.client)?;
    load(Pace::Closed(WARM_UP))?.run(plan.cpus.client)?;
    server.confine()?;
    let load = load(Pace::Closed(Duration::from_secs(plan.seconds)))?;
    let syncs = Syncs::count(server, plan);
    let window = Window::open(server.tree(), plan.cpus)?;
    let tally = load.run(plan.cpus.client)?;
    let usage = window.close()?;
    let syncs = syncs.and_then(Syncs::end);
    let standing = match tally.failed {
        0 if usage.server_foreign > FOREIGN_MAX => Standing::NotCounted(format!(
            "other programs took {:.1} % of the CPU",
            usage.server_foreign * 100.0
        )),
        0 if usage.client_busy >= CLIENT_BUSY_MAX => {
            Standing::NotCounted("the client was the limit".to_owned())
        }
        0 => Standing::Counted,
        failed => Standing::NotCounted(format!("{failed} requests failed")),
    };
    let each = |all: f64| all / tally.done.max(1) as f64;
    let mut detail = tally.detail.clone();
    detail.insert("done", tally.done as f64);
    detail.insert("server_us_each", each(usage.server_cpu_s * 1e6));
    detail.insert("client_us_each", each(usage.client_cpu_s * 1e6));
    detail.extend(syncs.map(|syncs| ("syncs_each", each(syncs as f64))));
    detail.extend(syncs.map(|syncs| ("syncs_per_second", syncs as f64 / usage.wall_s)));
    let value = tally.done as f64 / usage.wall_s;
    Ok(Run { value, standing, usage: Some(usage), command: load.command_line(), detail })
}

/// p99 of increments of one object that come at even times.
fn wait(server: &mut Server, plan: &Plan, rate: u32) -> Result<Run, Box<dyn Error>> {
    let (address, dialect) = (server.site.http, dialect(server));
    let load = |span| Load::counters(&asking(dialect, Verb::Add, 1, Pace::Rate(rate, span)), address);
    let _awake = Awake::keep(plan.cpus.server);
    load(WARM_UP)?.run(plan.cpus.client)?;
    server.confine()?;
    let load = load(Duration::from_secs(plan.seconds))?;
    let tally = load.run(plan.cpus.client)?;
    let standing = match tally.failed {
        0 => Standing::Counted,
        failed => Standing::NotCounted(format!("{failed} requests failed")),
    };
    let value = tally.detail.get("p99_us").copied().unwrap_or(f64::NAN);
    let mut detail = tally.detail.clone();
    detail.insert("done", tally.done as f64);
    detail.insert("rate", f64::from(rate));
    Ok(Run { value, standing, usage: None, command: load.command_line(), detail })
}

/// Growth of the server's own memory with each object that has had one turn.
fn resident(server: &mut Server, plan: &Plan) -> Result<Run, Box<dyn Error>> {
    let (address, dialect) = (server.site.http, dialect(server));
    let touch = |counters| Load::counters(&asking(dialect, Verb::Add, counters, Pace::Once), address);
    touch(RESIDENT_BEFORE)?.run(plan.cpus.client)?;
    std::thread::sleep(CALM);
    let before = Memory::of(server.tree())?;
    let load = touch(RESIDENT_BEFORE + RESIDENT)?;
    let tally = load.run(plan.cpus.client)?;
    std::thread::sleep(CALM);
    let after = Memory::of(server.tree())?;
    let each = |before: u64, after: u64| (after as f64 - before as f64) / RESIDENT as f64;
    let detail = BTreeMap::from([
        ("pss", each(before.pss, after.pss)),
        ("page_tables", each(before.page_tables, after.page_tables)),
        ("kernel_slab", each(before.slab, after.slab)),
        ("baseline_mib", before.own() as f64 / 1024.0 / 1024.0),
    ]);
    let standing = match tally.failed {
        0 => Standing::Counted,
        failed => Standing::NotCounted(format!("{failed} requests failed")),
    };
    let value = each(before.own(), after.own());
    Ok(Run { value, standing, usage: None, command: load.command_line(), detail })
}

/// Counts the syncs of a server, until it is ended.
struct Syncs {
    perf: Child,
    file: PathBuf,
}

impl Syncs {
    const CALLS: &'static str = "syscalls:sys_enter_fdatasync,syscalls:sys_enter_fsync,\
                                 syscalls:sys_enter_sync_file_range,syscalls:sys_enter_msync";

    fn count(server: &Server, plan: &Plan) -> Option<Self> {
        let pids = server.tree().pids().ok()?.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let file = server.site.folder.join("syncs");
        let mut perf = Command::new(PERF.ensure().ok()?);
        perf.args(["stat", "-x,", "-e", Self::CALLS, "-p", &pids, "-o"]).arg(&file);
        perf.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        sys::pin_on_spawn(&mut perf, plan.cpus.client);
        let perf = perf.spawn().ok()?;
        // It looks at the threads of the server and opens a counter for each.
        std::thread::sleep(Duration::from_millis(300));
        Some(Self { perf, file })
    }

    fn end(mut self) -> Option<u64> {
        sys::signal(self.perf.id() as sys::Pid, End::Interrupted).ok()?;
        self.perf.wait().ok()?;
        counted(&fs::read_to_string(&self.file).ok()?)
    }
}

/// The sum of the counts: `17,,syscalls:sys_enter_fsync,…` is a line. Nothing, if one of them was not counted.
fn counted(lines: &str) -> Option<u64> {
    let counts = lines.lines().filter(|line| line.contains("sys_enter_"));
    let counts: Vec<u64> = counts.map(|line| line.split(',').next()?.parse().ok()).collect::<Option<_>>()?;
    (!counts.is_empty()).then(|| counts.iter().sum())
}

/// Keeps a CPU from sleeping, with a thread that runs only when nothing else does there: on a virtual machine the host gives a
/// sleeping CPU away, and a wake-up then takes up to 8 ms, which says nothing about the server.
struct Awake {
    over: Arc<AtomicBool>,
    spinner: Option<JoinHandle<()>>,
}

impl Awake {
    fn keep(cpu: usize) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        let spinner = std::thread::spawn(move || {
            if sys::pin(0, cpu).and_then(|()| sys::run_when_idle()).is_err() {
                return;
            }
            while !until.load(Relaxed) {
                std::hint::spin_loop();
            }
        });
        Self { over, spinner: Some(spinner) }
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(spinner) = self.spinner.take() {
            let _ = spinner.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_are_added_up_and_what_was_not_counted_is_no_number() {
        let lines = "# started\n\n17,,syscalls:sys_enter_fdatasync,1,100.00,,\n2,,syscalls:sys_enter_fsync,1,100.00,,\n";
        assert_eq!(counted(lines), Some(19));
        assert_eq!(counted("<not counted>,,syscalls:sys_enter_fsync,0,0.00,,\n"), None);
        assert_eq!(counted(""), None);
    }
}
