//! Waiting against offered load: p50 and p99 of durable increments of one object that come at even times, rate by rate, up to the
//! first rate that a server does not keep up with.
//!
//! A rate is not kept up with when fewer than 95 % of what was due in the run was answered in it: what is waited then only says
//! how long the run was. Its point is still in the table, and not in the plot.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use super::plot::{self, Line};
use super::{Awake, WARM_UP, asking, dialect};
use crate::counters::{Pace, Verb};
use crate::cpu;
use crate::load::Load;
use crate::peer::{Peer, Server, Workshop};
use crate::run::Plan;

/// What it is called on the command line.
pub(crate) const KEY: &str = "load";
/// Increments a second that are offered, one run after the other.
const RATES: [u32; 14] =
    [250, 500, 1_000, 1_500, 2_000, 3_000, 5_000, 8_000, 12_000, 18_000, 25_000, 35_000, 50_000, 70_000];
const KEPT_UP: f64 = 0.95;
const COLOURS: [&str; 3] = ["#0a58a6", "#b35900", "#a11d33"];
/// Seconds of quiet that each server gets at most before its runs.
const QUIET_LIMIT: Duration = Duration::from_secs(10);

/// Measures, prints a table, and writes the plot to `file`.
pub(crate) fn measure(peers: &[&dyn Peer], plan: &Plan, file: Option<&Path>) -> Result<(), Box<dyn Error>> {
    println!("| server | offered per second | answered per second | p50, ms | p99, ms |");
    println!("|---|--:|--:|--:|--:|");
    let mut workshop = Workshop::open()?;
    let mut lines = Vec::new();
    for (peer, colour) in peers.iter().zip(COLOURS) {
        peer.ensure()?;
        cpu::wait_until_quiet(plan.cpus, QUIET_LIMIT)?;
        let mut server = Server::start(*peer, workshop.site(plan.cpus.server)?)?;
        let points = points(peer.name(), &mut server, plan)?;
        lines.push(Line { name: peer.name(), colour, points });
    }
    println!();
    if let Some(file) = file {
        let title = "Durable increments of one object, 64 connections, one CPU";
        std::fs::write(file, plot::svg(title, &lines))
            .map_err(|error| format!("could not write {}: {error}", file.display()))?;
    }
    Ok(())
}

fn points(name: &str, server: &mut Server, plan: &Plan) -> Result<Vec<(f64, f64)>, Box<dyn Error>> {
    let (address, dialect) = (server.site.http, dialect(server));
    let load = |pace| Load::counters(&asking(dialect, Verb::Add, 1, pace), address);
    load(Pace::Closed(WARM_UP))?.run(plan.cpus.client)?;
    server.confine()?;
    let _awake = Awake::keep(plan.cpus.server);
    let mut points = Vec::new();
    for rate in RATES {
        let tally = load(Pace::Rate(rate, Duration::from_secs(plan.seconds)))?.run(plan.cpus.client)?;
        let ms = |name| tally.detail.get(name).copied().unwrap_or(f64::NAN) / 1e3;
        let answered = tally.done as f64 / plan.seconds as f64;
        println!("| {name} | {rate} | {answered:.0} | {:.2} | {:.2} |", ms("p50_us"), ms("p99_us"));
        if answered < f64::from(rate) * KEPT_UP || tally.failed > 0 {
            break;
        }
        points.push((f64::from(rate), ms("p99_us")));
    }
    Ok(points)
}

/// The most increments a second that a server does for all clients at once.
pub(crate) fn most(peer: &dyn Peer, plan: &Plan) -> Result<f64, Box<dyn Error>> {
    peer.ensure()?;
    let mut workshop = Workshop::open()?;
    let mut server = Server::start(peer, workshop.site(plan.cpus.server)?)?;
    let (address, dialect) = (server.site.http, dialect(&server));
    let load = |pace| Load::counters(&asking(dialect, Verb::Add, 1, pace), address);
    load(Pace::Closed(WARM_UP))?.run(plan.cpus.client)?;
    server.confine()?;
    let _awake = Awake::keep(plan.cpus.server);
    let tally = load(Pace::Closed(Duration::from_secs(plan.seconds)))?.run(plan.cpus.client)?;
    Ok(tally.done as f64 / plan.seconds as f64)
}
