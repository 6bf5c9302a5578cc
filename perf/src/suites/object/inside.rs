//! What a turn, a hop, a start and a move take in process: a node of two cores without sockets, whose requests are handed to the
//! workers as they are once an HTTP connection has read them. See `dataplane/src/objects/bench.rs` for how each is taken.
//!
//! # On the back of an envelope
//!
//! A call into a guest and back is 1 µs with its storage in memory, the letter and its reply some forty small pieces of memory, 1
//! µs; a turn of the core's loop has a system call or none. With a hop two envelopes are made and read, two cache lines change
//! their owner twice (0.2 µs each), and each core's loop goes round: 2 to 4 µs more. A core that sleeps is woken by the kernel:
//! 5 µs on a machine of one's own, 50 on one that a host gives away. A start begins an epoch and reads two keys on a thread that
//! may wait: two wake-ups, 20 µs each, and an instance, 15. A move is one envelope, and the place where it lives: 5 µs.

use std::error::Error;
use std::path::Path;

use berth_dataplane::bench;

use crate::figure::{Bar, Judged, Spread};
use crate::machine::Machine;
use crate::report::bar_text;
use crate::run::Plan;

/// What these figures are called on the command line.
pub(crate) const KEY: &str = "in-process";

/// Measures, prints, and tells whether every bar was met.
pub(crate) fn measure(plan: &Plan, counter: &Path) -> Result<bool, Box<dyn Error>> {
    let component = std::fs::read(counter)
        .map_err(|error| format!("{}: {error}; `cargo xtask guests` builds it", counter.display()))?;
    let folder = std::env::temp_dir().join(format!("berth-perf-object-{}", std::process::id()));
    let machine = Machine::look(plan.cpus.server);
    println!("{}, {} CPUs, {}\n", machine.cpu, machine.cpus, machine.kernel);
    let mut rounds = Vec::new();
    for _ in 0..plan.rounds {
        let taken = bench::measure(&folder, &component, [plan.cpus.server, plan.cpus.client]);
        let _ = std::fs::remove_dir_all(&folder);
        rounds.push(taken?);
    }
    Ok(show_all(&rounds))
}

fn show_all(rounds: &[bench::Times]) -> bool {
    let show = |what: &str, of: fn(&bench::Times) -> &Vec<u64>, bar: Bar| {
        let values = |part: f64| rounds.iter().map(|times| at(of(times), part)).collect::<Vec<f64>>();
        let (Some(p50), Some(p99)) = (Spread::of(&values(0.5)), Spread::of(&values(0.99))) else {
            return false;
        };
        let met = bar.is_met_by(p50.median);
        let told = match bar {
            Bar::Told => String::new(),
            bar => format!("  bar {}{}", bar_text(Judged::Ratio, bar, ""), if met { "" } else { ": missed" }),
        };
        println!("{what:<44} {:>8.2} [{:.2}, {:.2}] {:>8.2}{told}", p50.median, p50.min, p50.max, p99.median);
        met
    };
    println!("{:<44} {:>8} {:>22}", "µs", "p50 [least, most of the rounds]", "p99");
    let met = [
        show("turn that reads, on its core", |times| &times.turn, Bar::AtMost(3.0)),
        show("the same with a hop to a core that is awake", |times| &times.awake, Bar::AtMost(8.0)),
        show("the same to a core that sleeps", |times| &times.asleep, Bar::Told),
        show("start with stored state, and a turn", |times| &times.start, Bar::AtMost(150.0)),
        show("move to another core", |times| &times.moves, Bar::AtMost(50.0)),
        show("move beside eight requests", |times| &times.busy_moves, Bar::Told),
    ];
    let (answered, failed) =
        rounds.iter().fold((0, 0), |(all, lost), times| (all + times.beside.0, lost + times.beside.1));
    println!("{answered} requests were answered beside moves, {failed} failed\n");
    met.iter().all(|met| *met) && failed == 0
}

/// In microseconds.
fn at(times: &[u64], part: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let place = ((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(place).map_or(f64::NAN, |time| *time as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_times_lies_below_what_is_told() {
        let times: Vec<u64> = (1..=100).rev().map(|us| us * 1000).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|part| at(&times, part)), [1.0, 51.0, 100.0, 100.0]);
        assert!(at(&[], 0.5).is_nan());
    }
}
