//! CPU time: who may run where, who used how much, and whether a measurement counts.
//!
//! A server is a *tree* of processes (nginx: a master and a worker), each with any number of threads. It is
//! confined to one CPU before it starts, and every thread is checked before and after each run, because a server
//! may pin its own threads and a helper thread elsewhere would be free work.
//!
//! Figures are per CPU second of the server, so the denominator is exact: the scheduler's books in nanoseconds
//! ([`crate::sys::process_cpu_time`]) plus the kernel's own threads of the server's CPU: `ksoftirqd`, which takes over
//! network work when there is much of it, and `kworker`, which talks to the disk. How busy the CPU as a whole was
//! comes from its idle time in `/proc/stat`, which the kernel keeps exactly (the other columns there are samples).
//!
//! What it leaves to others: what to run (`suites`), and what the numbers mean together (`figure`).

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::sys::{self, Pid};

/// A server's CPU must have been busy at least this long for a run to count: below it, waiting is measured too.
pub(crate) const SERVER_BUSY_MIN: f64 = 0.95;
/// A client above this had no time left to ask for more.
pub(crate) const CLIENT_BUSY_MAX: f64 = 0.97;
/// Other programs, and interrupts that the kernel books apart, may take this much of the server's CPU. More would
/// push the server out of the caches too often for its CPU time to be its own.
pub(crate) const FOREIGN_MAX: f64 = 0.05;
/// An unsaturated run counts only when the server is busy for at least this share...
pub(crate) const UNSATURATED_BUSY_MIN: f64 = 0.40;
/// ...and idles with at most this share: then idling adds at most 0.01 / 0.40 = 2.5 % to its CPU time.
pub(crate) const IDLE_BUSY_MAX: f64 = 0.01;

/// The two CPUs of a measurement.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cpus {
    pub(crate) server: usize,
    pub(crate) client: usize,
}

/// Whether the figure can live with a server that had time left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Saturation {
    /// The server must be the limit.
    Required,
    /// The client may be the limit, since CPU time per unit is what counts; such a run is marked.
    Preferred {
        /// Share of its CPU that the server uses when nobody asks for anything.
        idle_busy: f64,
    },
}

/// Whether a run counts.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Standing {
    Counted,
    /// Counted, but the server was busy for this share only.
    Unsaturated(f64),
    NotCounted(String),
}

/// What both CPUs did during one run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Usage {
    pub(crate) wall_s: f64,
    /// CPU time of the server's tree and of the kernel's threads that are bound to its CPU.
    pub(crate) server_cpu_s: f64,
    /// The part of `server_cpu_s` that the kernel's threads used.
    pub(crate) server_kernel_s: f64,
    /// CPU time of the load generator.
    pub(crate) client_cpu_s: f64,
    /// Shares of the wall time, of the CPU as a whole.
    pub(crate) server_busy: f64,
    pub(crate) client_busy: f64,
    /// Share of the server's CPU that went to neither the server nor the hypervisor.
    pub(crate) server_foreign: f64,
    /// Shares that the hypervisor kept for itself.
    pub(crate) server_stolen: f64,
    pub(crate) client_stolen: f64,
}

impl Usage {
    /// The rule by which a run counts. See the constants of this module.
    pub(crate) fn standing(&self, saturation: Saturation) -> Standing {
        if self.server_foreign > FOREIGN_MAX {
            return Standing::NotCounted(format!(
                "other programs or interrupts took {:.1} % of the server's CPU",
                self.server_foreign * 100.0
            ));
        }
        if self.server_busy >= SERVER_BUSY_MIN {
            return Standing::Counted;
        }
        match saturation {
            Saturation::Required if self.client_busy >= CLIENT_BUSY_MAX => Standing::NotCounted(format!(
                "the client was the limit: {:.1} % busy, the server {:.1} %",
                self.client_busy * 100.0,
                self.server_busy * 100.0
            )),
            Saturation::Required => Standing::NotCounted(format!(
                "neither side was saturated: server {:.1} % busy, client {:.1} %",
                self.server_busy * 100.0,
                self.client_busy * 100.0
            )),
            Saturation::Preferred { idle_busy } if idle_busy > IDLE_BUSY_MAX => {
                Standing::NotCounted(format!(
                    "the server was {:.1} % busy and uses {:.1} % when idle, which would count as work",
                    self.server_busy * 100.0,
                    idle_busy * 100.0
                ))
            }
            Saturation::Preferred { .. } if self.server_busy < UNSATURATED_BUSY_MIN => {
                Standing::NotCounted(format!("the server was only {:.1} % busy", self.server_busy * 100.0))
            }
            Saturation::Preferred { .. } => Standing::Unsaturated(self.server_busy),
        }
    }
}

/// What can go wrong while CPU time is taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CpuError {
    #[error("could not read {path}; the harness needs Linux with /proc mounted")]
    Proc { path: String, source: std::io::Error },
    #[error("CPU {0} is not in /proc/stat; the harness needs two CPUs online")]
    NoSuchCpu(usize),
    #[error("could not read the CPU time of process {pid}; did the server crash?")]
    Gone { pid: Pid, source: std::io::Error },
    #[error("the server's processes changed during the run (before: {before:?}, after: {after:?})")]
    TreeChanged { before: BTreeSet<Pid>, after: BTreeSet<Pid> },
    #[error(
        "thread {tid} of process {pid} may run on CPUs {allowed}, and could not be confined to CPU {cpu}"
    )]
    Stray { pid: Pid, tid: Pid, allowed: String, cpu: usize },
}

/// A process and all its descendants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree {
    root: Pid,
}

impl Tree {
    pub(crate) fn of(root: Pid) -> Self {
        Self { root }
    }

    /// The root and all its descendants alive now.
    pub(crate) fn pids(self) -> Result<BTreeSet<Pid>, CpuError> {
        let parents: Vec<(Pid, Pid)> = numbers_in("/proc")?
            .into_iter()
            // A process may end between the listing and the reading: then it is simply not there.
            .filter_map(|pid| {
                Some((pid, parse_parent(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))
            })
            .collect();
        Ok(descendants(self.root, &parents))
    }

    /// Confines every thread that is not confined to `cpu` yet, and says how many those were.
    pub(crate) fn confine(self, cpu: usize) -> Result<usize, CpuError> {
        let mut moved = 0;
        for (pid, tid, allowed) in self.strays(cpu)? {
            sys::pin(tid, cpu).map_err(|_| CpuError::Stray { pid, tid, allowed, cpu })?;
            moved += 1;
        }
        self.check_confined(cpu)?;
        Ok(moved)
    }

    /// Fails when any thread may run on another CPU than `cpu`.
    pub(crate) fn check_confined(self, cpu: usize) -> Result<(), CpuError> {
        match self.strays(cpu)?.into_iter().next() {
            Some((pid, tid, allowed)) => Err(CpuError::Stray { pid, tid, allowed, cpu }),
            None => Ok(()),
        }
    }

    fn strays(self, cpu: usize) -> Result<Vec<(Pid, Pid, String)>, CpuError> {
        let confined = cpu.to_string();
        let mut strays = Vec::new();
        for pid in self.pids()? {
            for tid in numbers_in(&format!("/proc/{pid}/task"))? {
                // A thread that has ended in between uses no CPU any more.
                let Ok(status) = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")) else {
                    continue;
                };
                let allowed = parse_allowed_cpus(&status).unwrap_or("unknown");
                if allowed != confined {
                    strays.push((pid, tid, allowed.to_owned()));
                }
            }
        }
        Ok(strays)
    }
}

/// A measurement that has begun.
pub(crate) struct Window {
    tree: Tree,
    cpus: Cpus,
    begin: Reading,
}

impl Window {
    pub(crate) fn open(tree: Tree, cpus: Cpus) -> Result<Self, CpuError> {
        Ok(Self { tree, cpus, begin: Reading::take(tree, cpus)? })
    }

    /// Ends the measurement. Fails when what was measured was not one set of processes on one CPU. The load
    /// generator must have been waited for, so that its CPU time is in the books.
    pub(crate) fn close(self) -> Result<Usage, CpuError> {
        let end = Reading::take(self.tree, self.cpus)?;
        self.tree.check_confined(self.cpus.server)?;
        if self.begin.pids != end.pids {
            return Err(CpuError::TreeChanged { before: self.begin.pids, after: end.pids });
        }
        Ok(usage_between(&self.begin, &end))
    }
}

/// Share of a CPU that the server uses by itself during `span`: its timers and housekeeping.
pub(crate) fn idle_busy(tree: Tree, cpus: Cpus, span: Duration) -> Result<f64, CpuError> {
    let begin = Reading::take(tree, cpus)?;
    std::thread::sleep(span);
    let end = Reading::take(tree, cpus)?;
    Ok(end.tree_cpu.saturating_sub(begin.tree_cpu).as_secs_f64() / (end.at - begin.at).as_secs_f64())
}

/// Waits until both CPUs have been idle for most of half a second, or until `limit` has passed.
pub(crate) fn wait_until_quiet(cpus: Cpus, limit: Duration) -> Result<(), CpuError> {
    let begin = Instant::now();
    loop {
        let before = clocks(cpus)?;
        let at = Instant::now();
        std::thread::sleep(Duration::from_millis(500));
        let after = clocks(cpus)?;
        let wall = at.elapsed().as_secs_f64();
        let busy =
            |index: usize| 1.0 - (after[index].idle.saturating_sub(before[index].idle)).as_secs_f64() / wall;
        if busy(0).max(busy(1)) <= FOREIGN_MAX || begin.elapsed() >= limit {
            return Ok(());
        }
    }
}

/// The CPU list of a `/proc/PID/status`, as the kernel prints it ("0", "0-1,4").
pub(crate) fn parse_allowed_cpus(status: &str) -> Option<&str> {
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).map(str::trim)
}

/// Everything read at one moment. Cumulative, so that two of them make a window.
struct Reading {
    at: Instant,
    pids: BTreeSet<Pid>,
    tree_cpu: Duration,
    kernel_cpu: Duration,
    reaped_cpu: Duration,
    server: CpuClock,
    client: CpuClock,
}

impl Reading {
    fn take(tree: Tree, cpus: Cpus) -> Result<Self, CpuError> {
        let pids = tree.pids()?;
        let kernel_cpu = kernel_threads_time(cpus.server)?;
        let [server, client] = clocks(cpus)?;
        let mut tree_cpu = Duration::ZERO;
        for &pid in &pids {
            tree_cpu += sys::process_cpu_time(pid).map_err(|source| CpuError::Gone { pid, source })?;
        }
        Ok(Self {
            at: Instant::now(),
            pids,
            tree_cpu,
            kernel_cpu,
            reaped_cpu: sys::reaped_cpu_time(),
            server,
            client,
        })
    }
}

/// Idle and stolen time of one CPU since the machine started.
#[derive(Clone, Copy, Debug, PartialEq)]
struct CpuClock {
    idle: Duration,
    stolen: Duration,
}

/// `/proc/stat` counts in hundredths of a second on every architecture that we run on (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

fn parse_cpu_clock(stat: &str, cpu: usize) -> Option<CpuClock> {
    let name = format!("cpu{cpu}");
    let mut columns = stat.lines().map(str::split_ascii_whitespace).find_map(|mut line| {
        let first = line.next()?;
        (first == name).then_some(line)
    })?;
    // user nice system IDLE IOWAIT irq softirq STEAL
    let mut column = |skip: usize| columns.nth(skip)?.parse::<u32>().ok();
    let idle = column(3)? + column(0)?;
    let stolen = column(2)?;
    Some(CpuClock { idle: TICK * idle, stolen: TICK * stolen })
}

fn clocks(cpus: Cpus) -> Result<[CpuClock; 2], CpuError> {
    let stat = read("/proc/stat")?;
    let clock = |cpu| parse_cpu_clock(&stat, cpu).ok_or(CpuError::NoSuchCpu(cpu));
    Ok([clock(cpus.server)?, clock(cpus.client)?])
}

fn usage_between(begin: &Reading, end: &Reading) -> Usage {
    let wall_s = (end.at - begin.at).as_secs_f64();
    let seconds = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64();
    let share = |from: Duration, to: Duration| (seconds(from, to) / wall_s).min(1.0);
    let server_kernel_s = seconds(begin.kernel_cpu, end.kernel_cpu);
    let server_cpu_s = seconds(begin.tree_cpu, end.tree_cpu) + server_kernel_s;
    let server_busy = 1.0 - share(begin.server.idle, end.server.idle);
    let server_stolen = share(begin.server.stolen, end.server.stolen);
    Usage {
        wall_s,
        server_cpu_s,
        server_kernel_s,
        client_cpu_s: seconds(begin.reaped_cpu, end.reaped_cpu),
        server_busy,
        client_busy: 1.0 - share(begin.client.idle, end.client.idle),
        server_foreign: (server_busy - server_stolen - server_cpu_s / wall_s).max(0.0),
        server_stolen,
        client_stolen: share(begin.client.stolen, end.client.stolen),
    }
}

/// Kernels in containers may hide their threads; then their time shows up as foreign, and the run says so.
fn kernel_threads_time(cpu: usize) -> Result<Duration, CpuError> {
    let (softirqs, workers) = (format!("ksoftirqd/{cpu}"), format!("kworker/{cpu}:"));
    let is_of_cpu = |comm: String| comm.trim_end() == softirqs || comm.starts_with(&workers);
    let threads = numbers_in("/proc")?
        .into_iter()
        .filter(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(is_of_cpu));
    Ok(threads.map(|pid| sys::process_cpu_time(pid).unwrap_or_default()).sum())
}

/// The parent's id in a `/proc/PID/stat`. The name before it is in parentheses and may contain anything, a
/// closing parenthesis too: the last one ends it.
fn parse_parent(stat: &str) -> Option<Pid> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn descendants(root: Pid, parents: &[(Pid, Pid)]) -> BTreeSet<Pid> {
    let mut found = BTreeSet::from([root]);
    loop {
        let before = found.len();
        found.extend(
            parents
                .iter()
                .filter(|(_, parent)| found.contains(parent))
                .map(|(pid, _)| *pid)
                .collect::<Vec<_>>(),
        );
        if found.len() == before {
            return found;
        }
    }
}

fn numbers_in(folder: &str) -> Result<Vec<Pid>, CpuError> {
    let entries =
        fs::read_dir(folder).map_err(|source| CpuError::Proc { path: folder.to_owned(), source })?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

fn read(path: &str) -> Result<String, CpuError> {
    fs::read_to_string(path).map_err(|source| CpuError::Proc { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  38868 101961 33095 338662 6723 0 209 106 0 0\n\
                        cpu0 18581 46791 14123 179588 544 0 41 54 0 0\n\
                        cpu10 1 2 3 4 5 6 7 8 9 10\n\
                        intr 1274964 0 0\n";

    #[test]
    fn idle_and_stolen_time_are_read_from_the_right_line_and_columns() {
        let cpu0 = parse_cpu_clock(STAT, 0).unwrap();
        assert_eq!(cpu0.idle, Duration::from_millis((179_588 + 544) * 10));
        assert_eq!(cpu0.stolen, Duration::from_millis(540));
        let cpu10 = parse_cpu_clock(STAT, 10).unwrap();
        assert_eq!((cpu10.idle, cpu10.stolen), (Duration::from_millis(90), Duration::from_millis(80)));
        assert_eq!(parse_cpu_clock(STAT, 1), None, "cpu1 must not match cpu10");
    }

    #[test]
    fn a_process_name_cannot_forge_its_parent() {
        assert_eq!(parse_parent("7 (nginx) S 3 7 7 0"), Some(3));
        assert_eq!(parse_parent("7 (x) S 1 (y) S 3 7 7 0"), Some(3));
        assert_eq!(parse_parent("7 nonsense"), None);
    }

    #[test]
    fn descendants_include_grandchildren_in_any_order_and_nobody_else() {
        let parents = [(5, 4), (4, 2), (3, 1), (2, 1), (9, 8)];
        assert_eq!(descendants(2, &parents), BTreeSet::from([2, 4, 5]));
    }

    #[test]
    fn the_affinity_list_is_found_among_the_other_lines() {
        let status = "Name:\tx\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1\nMems_allowed:\t1\n";
        assert_eq!(parse_allowed_cpus(status), Some("0-1"));
        assert_eq!(parse_allowed_cpus("Name:\tx\n"), None);
    }

    #[test]
    fn a_child_that_may_run_anywhere_is_confined() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let tree = Tree::of(child.id() as Pid);
        tree.confine(0).unwrap();
        assert!(tree.check_confined(0).is_ok());
        assert!(matches!(tree.check_confined(1), Err(CpuError::Stray { cpu: 1, .. })));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn usage(server_busy: f64, client_busy: f64) -> Usage {
        Usage {
            wall_s: 1.0,
            server_cpu_s: server_busy,
            server_kernel_s: 0.0,
            client_cpu_s: client_busy,
            server_busy,
            client_busy,
            server_foreign: 0.0,
            server_stolen: 0.0,
            client_stolen: 0.0,
        }
    }

    #[test]
    fn a_saturated_server_counts_however_busy_the_client_was() {
        assert_eq!(usage(0.95, 1.0).standing(Saturation::Required), Standing::Counted);
        assert_eq!(usage(1.0, 0.3).standing(Saturation::Required), Standing::Counted);
    }

    #[test]
    fn a_run_that_does_not_count_names_who_was_the_limit() {
        let reason = |usage: Usage| match usage.standing(Saturation::Required) {
            Standing::NotCounted(reason) => reason,
            other => panic!("counted: {other:?}"),
        };
        assert!(reason(usage(0.94, 0.98)).contains("the client was the limit"));
        assert!(reason(usage(0.94, 0.5)).contains("neither side"));
        let disturbed = Usage { server_foreign: 0.06, ..usage(1.0, 0.5) };
        assert!(reason(disturbed).contains("other programs"));
    }

    #[test]
    fn an_unsaturated_run_counts_only_where_allowed_and_only_with_little_idle_work() {
        let run = usage(0.7, 1.0);
        let allowed = |idle_busy| Saturation::Preferred { idle_busy };
        assert_eq!(run.standing(allowed(0.001)), Standing::Unsaturated(0.7));
        assert!(matches!(run.standing(allowed(0.02)), Standing::NotCounted(_)));
        assert!(matches!(usage(0.39, 1.0).standing(allowed(0.001)), Standing::NotCounted(_)));
        assert_eq!(usage(0.96, 1.0).standing(allowed(0.02)), Standing::Counted);
    }

    #[test]
    fn shares_come_out_of_two_readings() {
        let at = Instant::now();
        let reading = |at, cpu_ms, idle_ms| Reading {
            at,
            pids: BTreeSet::new(),
            tree_cpu: Duration::from_millis(cpu_ms),
            kernel_cpu: Duration::from_millis(10),
            reaped_cpu: Duration::ZERO,
            server: CpuClock { idle: Duration::from_millis(idle_ms), stolen: Duration::ZERO },
            client: CpuClock { idle: Duration::ZERO, stolen: Duration::ZERO },
        };
        let usage = usage_between(&reading(at, 100, 50), &reading(at + Duration::from_secs(1), 1000, 80));
        assert!((usage.server_cpu_s - 0.9).abs() < 1e-9);
        assert!((usage.server_busy - 0.97).abs() < 1e-9);
        assert!((usage.server_foreign - 0.07).abs() < 1e-9);
        assert!((usage.client_busy - 1.0).abs() < 1e-9);
    }
}
