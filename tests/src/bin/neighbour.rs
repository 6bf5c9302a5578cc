//! The proof of protection: a paced neighbour on the same core, beside each kind of attack.
//!
//! `cargo build --release -p berth-cli -p berth-tests --bins && target/release/neighbour [SECONDS] [NAME..]`
//! prints a table. Root gives the neighbour real-time priority; see `berth_tests::attack::neighbour`.
#![allow(clippy::print_stdout, reason = "a program that talks to a terminal")]

use std::time::Duration;

use berth_tests::attack::Node;
use berth_tests::attack::floods::Flood;
use berth_tests::attack::neighbour::{measure, set_priorities};

/// The goal: a 99th percentile of at most twice the neighbour's own.
const RATIO_MAX: f64 = 2.0;

fn main() {
    let mut arguments = std::env::args().skip(1).peekable();
    let seconds = arguments.next_if(|first| first.parse::<u64>().is_ok());
    let time = Duration::from_secs(seconds.and_then(|seconds| seconds.parse().ok()).unwrap_or(4));
    let named: Vec<String> = arguments.collect();
    println!(
        "{:<14}{:>10}{:>10}{:>10}{:>10}{:>10}{:>8}{:>8}  result",
        "attack", "base p50", "base p99", "p50", "p99", "max", "errors", "ratio"
    );
    for flood in Flood::ALL {
        let name = format!("{flood:?}").to_lowercase();
        if !named.is_empty() && !named.contains(&name) {
            continue;
        }
        // A node for each, so that no attack inherits the state of another.
        let node = Node::start_for_speed();
        set_priorities(&node);
        let outcome = measure(&node, flood, time);
        let us = |time: Duration| format!("{} µs", time.as_micros());
        let met = outcome.attacked.errors == 0 && outcome.ratio() <= RATIO_MAX;
        println!(
            "{name:<14}{:>10}{:>10}{:>10}{:>10}{:>10}{:>8}{:>8.2}  {} ({} rounds)",
            us(outcome.baseline.p50),
            us(outcome.baseline.p99),
            us(outcome.attacked.p50),
            us(outcome.attacked.p99),
            us(outcome.attacked.max),
            outcome.attacked.errors,
            outcome.ratio(),
            if met { "met" } else { "missed" },
            outcome.rounds,
        );
    }
}
