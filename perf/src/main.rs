//! `berth-perf`: Berth beside named peers, on one machine, in one run.
//!
//! Read from the outside in: `suites` say what is measured and which bar it has; `run` alternates the peers and
//! repeats what does not count; `figure` judges; `report` prints. Below them, `peer` starts those of `peers`, `load` and
//! `swarm` make load, `cpu` and `memory` read what it cost, and `sys` holds every unsafe call.
//!
//! Invariants: the server, all its processes and threads, runs on one CPU and the load on another; nothing is
//! compared across runs but ratios within a round; every number can be traced to a command, a configuration and a
//! machine in the same report; whatever was started is stopped, by its process id.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this program talks to a terminal")]

mod answer;
mod cpu;
mod figure;
mod load;
mod machine;
mod memory;
mod peer;
mod peers;
mod report;
mod run;
mod suites;
mod swarm;
mod sys;
mod tool;

use std::error::Error;
use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::cpu::Cpus;
use crate::figure::{Figure, Verdict};
use crate::peer::{OPEN_FILES, Protocol, Server};
use crate::peers::{Berth, Nginx};
use crate::run::{Comparison, Plan, Run, SuiteReport, Taken, Trial};
use crate::suites::http;
use crate::swarm::{IdleLinks, Secrecy};

/// How far from 1 the median of a peer against itself may be.
const AA_TOLERANCE: f64 = 0.03;

/// Berth beside named peers, measured in one run.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// HTTP/1.1, HTTP/2, TLS handshakes and idle connections, beside nginx
    Http {
        #[command(flatten)]
        options: Options,
        /// Berth's program [default: `berth` beside this program]
        #[arg(long, value_name = "PATH")]
        berth: Option<PathBuf>,
    },
    /// Check of the harness itself: nginx beside nginx, where every ratio must be about 1
    Aa {
        #[command(flatten)]
        options: Options,
    },
    /// The load generators of our own, as the suites start them
    #[command(hide = true, subcommand)]
    Client(Client),
}

#[derive(Args)]
struct Options {
    /// Exit with 1 when a figure misses its bar, or could not be counted
    #[arg(long)]
    gate: bool,
    /// Write the whole report, with every attempt, to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Rounds of A and B for each figure; a verdict needs 3
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Length of each measured run of load
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Take this figure only (h1, h2, handshake, idle, idle-tls; or h1-wrk, a cross-check); repeatable
    #[arg(long, value_name = "FIGURE")]
    only: Vec<String>,
    /// Put a profile of each figure that misses its bar into DIR
    #[arg(long, value_name = "DIR")]
    profile: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Client {
    /// A closed loop of full TLS handshakes
    Handshakes {
        #[arg(long)]
        address: SocketAddr,
        #[arg(long)]
        concurrency: usize,
        #[arg(long)]
        seconds: u64,
    },
    /// A closed loop of requests on connections that stay open
    Requests {
        #[arg(long)]
        address: SocketAddr,
        #[arg(long)]
        connections: usize,
        #[arg(long)]
        seconds: u64,
    },
    /// Connections that ask once and stay open until standard input ends
    Idle {
        #[arg(long)]
        address: SocketAddr,
        #[arg(long)]
        connections: usize,
        #[arg(long)]
        tls: bool,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Task::Http { options, berth } => compare_http(&options, berth),
        Task::Aa { options } => compare_nginx_with_itself(&options),
        Task::Client(client) => be_client(&client).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("berth-perf: {}", run::chain(&*error));
        ExitCode::FAILURE
    })
}

fn compare_http(options: &Options, berth: Option<PathBuf>) -> Result<ExitCode, Box<dyn Error>> {
    let program = berth
        .map_or_else(|| Ok(std::env::current_exe()?.with_file_name("berth")), Ok::<_, std::io::Error>)?;
    let berth = Berth { program };
    let trials = trials(&http::TRIALS);
    compare(
        "http",
        &[Comparison { ours: &berth, theirs: &Nginx, protocol: Protocol::Http1, trials }],
        options,
    )
}

fn compare_nginx_with_itself(options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    let itself = http::TRIALS.map(AgainstItself);
    let trials = trials(&itself);
    compare("aa", &[Comparison { ours: &Nginx, theirs: &Nginx, protocol: Protocol::Http1, trials }], options)
}

fn trials<T: Trial>(trials: &[T]) -> Vec<&dyn Trial> {
    trials.iter().map(|trial| trial as &dyn Trial).collect()
}

fn compare(
    suite: &'static str,
    comparisons: &[Comparison<'_>],
    options: &Options,
) -> Result<ExitCode, Box<dyn Error>> {
    let comparisons = chosen(comparisons, &options.only)?;
    let plan = Plan {
        rounds: options.rounds as usize,
        seconds: options.seconds,
        cpus: Cpus { server: 0, client: 1 },
        profiles: options.profile.clone(),
    };
    prepare(plan.cpus)?;
    let report = run::run_suite(suite, &comparisons, &plan)?;
    println!("{}", report::text(&report));
    if let Some(file) = &options.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(file, json).map_err(|error| format!("could not write {}: {error}", file.display()))?;
    }
    Ok(if options.gate && !passes(&report) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A figure within the noise passes: it is no miss. One that could not be counted does not: nothing was shown.
fn passes(report: &SuiteReport) -> bool {
    report.figures.iter().all(|figure| matches!(figure.verdict, Verdict::Met | Verdict::WithinNoise))
}

/// The comparisons with the wanted figures; one of which none is wanted needs no peer.
fn chosen<'a>(comparisons: &[Comparison<'a>], only: &[String]) -> Result<Vec<Comparison<'a>>, String> {
    let keys: Vec<_> = comparisons
        .iter()
        .flat_map(|comparison| &comparison.trials)
        .map(|trial| trial.figure().key)
        .collect();
    if let Some(unknown) = only.iter().find(|name| !keys.contains(&name.as_str())) {
        return Err(format!("no figure is called {unknown}; there are: {}", keys.join(", ")));
    }
    let wanted = |trial: &&dyn Trial| match only {
        [] => trial.taken() == Taken::Always,
        names => names.iter().any(|name| name == trial.figure().key),
    };
    let mut chosen = comparisons.to_vec();
    for comparison in &mut chosen {
        comparison.trials.retain(wanted);
    }
    chosen.retain(|comparison| !comparison.trials.is_empty());
    Ok(chosen)
}

/// The harness itself stays on the client's CPU; descriptors are raised here, since every child inherits them.
fn prepare(cpus: Cpus) -> Result<(), String> {
    sys::pin(0, cpus.client).map_err(|error| {
        format!(
            "could not use CPU {}: {error}; two CPUs are needed, 0 for the server and 1 for the client",
            cpus.client
        )
    })?;
    sys::raise_open_files(OPEN_FILES).map_err(|error| {
        format!(
            "could not raise the limit on open files to {OPEN_FILES}: {error}; \
             run as root, or raise the hard limit (ulimit -Hn)"
        )
    })
}

fn be_client(client: &Client) -> Result<(), Box<dyn Error>> {
    match *client {
        Client::Handshakes { address, concurrency, seconds } => {
            let tally = swarm::handshakes(address, concurrency, Duration::from_secs(seconds))?;
            println!("{}", serde_json::to_string(&tally)?);
        }
        Client::Requests { address, connections, seconds } => {
            let tally = swarm::requests(address, connections, Duration::from_secs(seconds))?;
            println!("{}", serde_json::to_string(&tally)?);
        }
        Client::Idle { address, connections, tls } => {
            let secrecy = if tls { Secrecy::Tls } else { Secrecy::Plain };
            let mut links = IdleLinks::open(address, secrecy, connections)?;
            println!("open");
            std::io::stdin().read_to_end(&mut Vec::new())?;
            println!("{}", links.still_open());
        }
    }
    Ok(())
}

/// A trial of a suite, asked of a peer against itself.
struct AgainstItself<T>(T);

impl<T: Trial> Trial for AgainstItself<T> {
    fn figure(&self) -> Figure {
        self.0.figure().against_itself(AA_TOLERANCE)
    }

    fn taken(&self) -> Taken {
        self.0.taken()
    }

    fn run(&self, server: &mut Server, plan: &Plan) -> Result<Run, Box<dyn Error>> {
        self.0.run(server, plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Bar;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    fn all() -> [Comparison<'static>; 1] {
        let trials = trials(&http::TRIALS);
        [Comparison { ours: &Nginx, theirs: &Nginx, protocol: Protocol::Http1, trials }]
    }

    fn keys(comparisons: &[Comparison<'_>]) -> Vec<&'static str> {
        let trials = comparisons.iter().flat_map(|comparison| &comparison.trials);
        trials.map(|trial| trial.figure().key).collect()
    }

    #[test]
    fn figures_are_chosen_by_name_and_unknown_names_are_told_the_known_ones() {
        assert_eq!(keys(&chosen(&all(), &[]).unwrap()), ["h1", "h2", "handshake", "idle", "idle-tls"]);
        assert_eq!(keys(&chosen(&all(), &["h1-wrk".to_owned()]).unwrap()), ["h1-wrk"]);
        assert!(chosen(&all(), &["h4".to_owned()]).err().unwrap().contains("idle-tls"));
    }

    #[test]
    fn every_figure_has_a_name_of_its_own_and_its_aim_lies_beyond_its_bar() {
        let figures = http::TRIALS.map(|trial| trial.figure());
        let keys: std::collections::BTreeSet<_> = figures.iter().map(|figure| figure.key).collect();
        assert_eq!(keys.len(), figures.len());
        for figure in figures {
            match (figure.bar, figure.aim) {
                (Bar::AtLeast(bar), Some(aim)) => assert!(aim > bar, "{}", figure.key),
                (Bar::AtMost(bar), Some(aim)) => assert!(aim < bar, "{}", figure.key),
                _ => {}
            }
        }
    }
}
