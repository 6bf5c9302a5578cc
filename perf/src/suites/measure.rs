//! How the suites measure: units of load per CPU second, and memory per idle connection.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::cpu::{Cpus, SERVER_BUSY_MIN, Saturation, Standing, Tree, Window, idle_busy};
use crate::load::{IdleHolder, IdleKind, Load, LoadError};
use crate::memory::Memory;
use crate::peer::Server;
use crate::run::{Plan, Run};

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

/// Who may be the limit of a run that counts.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Limit {
    Server,
    /// Both sides do about the same work, so that a fast server may outrun our one client CPU. CPU time per unit
    /// is then taken at lower load, and marked: it contains the server's idle work (bounded, see `cpu`) and less
    /// batching, both of which make the server look worse, never better.
    Either,
}

/// Units of load per CPU second of the server.
pub(crate) fn rate(
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
pub(crate) fn idle(
    server: &mut Server,
    plan: &Plan,
    kind: IdleKind,
    address: SocketAddr,
) -> Result<Run, Box<dyn Error>> {
    // The first connection of its kind pays for what is allocated once: it is not growth per connection.
    let client = plan.cpus.client;
    IdleHolder::open(kind, address, 1, client)?.close();
    let before = settled(server.tree())?;
    let holder = IdleHolder::open(kind, address, IDLE_CONNECTIONS, client)?;
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
    let command = format!("berth-perf {}", kind.command(address, IDLE_CONNECTIONS).join(" "));
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
    fn memory_that_does_not_change_settles() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let sample = settled(Tree::of(child.id() as i32)).unwrap();
        assert!(sample.settled && sample.memory.own() > 0);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
