//! `berth-perf`: Berth beside named peers, on one machine, in one run.
//!
//! Read from the outside in: `suites` say what is measured and which bar it has; `run` alternates the peers and
//! repeats what does not count; `figure` judges; `report` prints. Below them, `peer` starts servers, those that
//! `peers` describes (`baseline` are two of our own); `load` starts what makes load, `swarm` over TCP and `quic` over
//! QUIC, by the commands of `client`; `cpu` and `memory` read what it cost, and `sys` holds every unsafe call.
//!
//! Invariants: the server, all its processes and threads, runs on one CPU and the load on another; nothing is
//! compared across runs but ratios within a round; every number can be traced to a command, a configuration and a
//! machine in the same report; whatever was started is stopped, by its process id.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this program talks to a terminal")]

mod answer;
mod baseline;
mod client;
mod counters;
mod cpu;
mod figure;
mod hosts;
mod load;
mod machine;
mod memory;
mod object_hosts;
mod peer;
mod peers;
mod quic;
mod report;
mod run;
mod suites;
mod swarm;
mod sys;
mod tool;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::client::Client;
use crate::cpu::Cpus;
use crate::figure::{Figure, Verdict};
use crate::hosts::{BerthWorkers, Component, Tuned, WasmtimeServe, Workerd};
use crate::object_hosts::{BerthCounters, Redis, WorkerdCounters};
use crate::peer::{OPEN_FILES, Protocol, Server};
use crate::peers::{Baseline, Berth, Caddy, Nginx};
use crate::run::{Comparison, Plan, Run, SuiteReport, Taken, Trial};
use crate::suites::{http, http3, instance, isolate, object, steer};

/// The node's allocator, for the servers of our own that it is measured beside.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    /// HTTP/1.1, HTTP/2 and HTTP/3, handshakes and idle connections, beside nginx, Caddy and quinn
    Http {
        #[command(flatten)]
        options: Options,
        /// Berth's program [default: `berth` beside this program]
        #[arg(long, value_name = "PATH")]
        berth: Option<PathBuf>,
    },
    /// Nanoseconds that steering costs a packet in the kernel (as root)
    Steer {
        /// Rounds of every path
        #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
        /// Exit with 1 when a path misses its bar
        #[arg(long)]
        gate: bool,
    },
    /// Workers beside `wasmtime serve` and workerd, and what an instance costs in process
    Isolate {
        #[command(flatten)]
        options: Options,
        #[command(flatten)]
        workers: Workers,
    },
    /// Objects beside workerd's and beside Redis, and what a turn costs in process
    Object {
        #[command(flatten)]
        options: Options,
        #[command(flatten)]
        objects: Objects,
    },
    /// Check of the harness itself: nginx beside nginx, quinn beside quinn, where every ratio must be about 1
    Aa {
        #[command(flatten)]
        options: Options,
    },
    /// The load generators of our own, as the suites start them
    #[command(hide = true, subcommand)]
    Client(Client),
    /// For the figures in process: compile the component on standard input, within limits
    #[command(hide = true)]
    CompileScript {
        #[arg(required = true)]
        budget: Vec<u64>,
    },
    /// The servers of our own that Berth is measured beside, as the suites start them
    #[command(hide = true)]
    Serve {
        kind: baseline::Kind,
        #[command(flatten)]
        options: baseline::Options,
    },
}

#[derive(Clone, Args)]
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
    /// Take this figure only (h1, h2, handshake, idle, idle-tls, h3, h3-quinn, h3-bulk, h3-handshake, h3-idle, or
    /// h1-wrk, a cross-check; of isolate: in-process, hello, hello-tuned, hello-workerd, ask, delay, delay-same; of object:
    /// in-process, load, hot, spread, reads, p99, resident, hot-redis, spread-redis); repeatable
    #[arg(long, value_name = "FIGURE")]
    only: Vec<String>,
    /// Put a profile of each figure that misses its bar into DIR
    #[arg(long, value_name = "DIR")]
    profile: Option<PathBuf>,
}

#[derive(Args)]
struct Objects {
    /// Berth's program [default: `berth` beside this program]
    #[arg(long, value_name = "PATH")]
    berth: Option<PathBuf>,
    /// The class of counters, which `cargo xtask guests` builds
    #[arg(long, value_name = "PATH", default_value = "target/guests/wasm32-wasip2/release/counter.wasm")]
    counter: PathBuf,
    /// Put the plot of waiting against offered load into FILE
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

#[derive(Args)]
struct Workers {
    /// Berth's program [default: `berth` beside this program]
    #[arg(long, value_name = "PATH")]
    berth: Option<PathBuf>,
    /// The smallest worker, which `cargo xtask guests` builds
    #[arg(long, value_name = "PATH", default_value = "target/guests/wasm32-wasip2/release/smallest.wasm")]
    smallest: PathBuf,
    /// The guests of the tests
    #[arg(long, value_name = "PATH", default_value = "target/guests/wasm32-wasip2/release/guests.wasm")]
    guests: PathBuf,
    /// Another component, whose code is large, for the figure of checking it
    #[arg(long, value_name = "PATH")]
    large: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Task::Http { options, berth } => compare_http(&options, berth),
        Task::Steer { rounds, gate } => steer::measure(rounds).map(|met| match (gate, met) {
            (true, steer::Met::NotAll) => ExitCode::FAILURE,
            _ => ExitCode::SUCCESS,
        }),
        Task::Isolate { options, workers } => compare_workers(&options, workers),
        Task::Object { options, objects } => compare_objects(&options, objects),
        Task::Aa { options } => compare_peers_with_themselves(&options),
        Task::Client(client) => client::run(&client).map(|()| ExitCode::SUCCESS),
        Task::CompileScript { budget } => {
            berth_isolate_host::compile::serve(&budget).map(|()| ExitCode::SUCCESS).map_err(Into::into)
        }
        Task::Serve { kind, options } => {
            baseline::serve(kind, &options).map(|()| ExitCode::SUCCESS).map_err(Into::into)
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("berth-perf: {}", run::chain(&*error));
        ExitCode::FAILURE
    })
}

fn compare_http(options: &Options, berth: Option<PathBuf>) -> Result<ExitCode, Box<dyn Error>> {
    let berth = Berth { program: program_of(berth)? };
    let beside = |theirs, protocol, trials| Comparison { ours: &berth, theirs, protocol, trials };
    let comparisons = [
        beside(&Nginx, Protocol::Http1, trials(&http::TRIALS)),
        beside(&Caddy, Protocol::Http3, trials(&http3::BESIDE_CADDY)),
        beside(&Baseline::QuinnH3, Protocol::Http3, trials(&http3::BESIDE_QUINN)),
        beside(&Baseline::QuinnProto, Protocol::Http3, trials(&http3::BESIDE_BARE)),
    ];
    compare("http", &comparisons, options)
}

/// Figures of instances in process come first, and are one to those who choose.
fn compare_workers(options: &Options, workers: Workers) -> Result<ExitCode, Box<dyn Error>> {
    let program = program_of(workers.berth)?;
    let mut only = options.only.clone();
    let named = only.iter().position(|name| name == instance::KEY).map(|place| only.swap_remove(place));
    let mut met = true;
    if named.is_some() || only.is_empty() {
        met = instance::measure(options.rounds, &program, &workers.smallest, workers.large.as_deref())?;
    }
    let inside = if options.gate && !met { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    if named.is_some() && only.is_empty() {
        return Ok(inside);
    }
    let (smallest, guests) = (Component::Smallest(workers.smallest), Component::Guests(workers.guests));
    let ours =
        |component: &Component| BerthWorkers { program: program.clone(), component: component.clone() };
    let wasmtime = |component: &Component, tuned| WasmtimeServe { component: component.clone(), tuned };
    let (berth, berth_guests) = (ours(&smallest), ours(&guests));
    let (shipped, tuned) = (wasmtime(&smallest, Tuned::AsShipped), wasmtime(&smallest, Tuned::Alike));
    let (askers, spinners) = (wasmtime(&guests, Tuned::AsShipped), wasmtime(&guests, Tuned::Alike));
    let beside = |ours, theirs, trials| Comparison { ours, theirs, protocol: Protocol::Http1, trials };
    let comparisons = [
        beside(&berth, &shipped, trials(&isolate::BESIDE_WASMTIME)),
        beside(&berth, &tuned, trials(&isolate::BESIDE_TUNED)),
        beside(&berth, &Workerd, trials(&isolate::BESIDE_WORKERD)),
        beside(&berth_guests, &askers, trials(&isolate::OF_ASKERS)),
        beside(&berth_guests, &spinners, trials(&isolate::OF_SPINNERS)),
    ];
    let outside = compare("isolate", &comparisons, &Options { only, ..options.clone() })?;
    Ok(if inside == ExitCode::SUCCESS { outside } else { inside })
}

/// The figures in process and the plot come first, each one to those who choose.
fn compare_objects(options: &Options, objects: Objects) -> Result<ExitCode, Box<dyn Error>> {
    let berth = BerthCounters { program: program_of(objects.berth)?, counter: objects.counter };
    let mut only = options.only.clone();
    let mut wants = |key: &str| {
        let named = only.iter().position(|name| name == key).map(|place| only.swap_remove(place));
        named.is_some() || options.only.is_empty()
    };
    let (inside, curve) = (wants(object::inside::KEY), wants(object::curve::KEY));
    let plan = plan(options);
    let mut met = true;
    if inside {
        met = object::inside::measure(&plan, &berth.counter)?;
    }
    if curve {
        prepare(plan.cpus)?;
        object::curve::measure(&[&berth, &WorkerdCounters, &Redis], &plan, objects.plot.as_deref())?;
    }
    let inside = if options.gate && !met { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    if only.is_empty() && !options.only.is_empty() {
        return Ok(inside);
    }
    let waits = only.is_empty() || only.iter().any(|name| name == object::WAIT_KEY);
    let most = if waits {
        prepare(plan.cpus)?;
        object::curve::most(&WorkerdCounters, &plan)?
    } else {
        0.0
    };
    let beside_workerd = object::beside_workerd(most);
    let beside = |theirs, trials| Comparison { ours: &berth, theirs, protocol: Protocol::Http1, trials };
    let comparisons =
        [beside(&WorkerdCounters, trials(&beside_workerd)), beside(&Redis, trials(&object::BESIDE_REDIS))];
    let outside = compare("object", &comparisons, &Options { only, ..options.clone() })?;
    Ok(if inside == ExitCode::SUCCESS { outside } else { inside })
}

fn program_of(berth: Option<PathBuf>) -> Result<PathBuf, std::io::Error> {
    berth.map_or_else(|| Ok(std::env::current_exe()?.with_file_name("berth")), Ok)
}

fn compare_peers_with_themselves(options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    let tcp = http::TRIALS.map(AgainstItself);
    let quic = http3::BESIDE_QUINN.map(AgainstItself);
    let itself = |peer, protocol, trials| Comparison { ours: peer, theirs: peer, protocol, trials };
    let comparisons = [
        itself(&Nginx, Protocol::Http1, trials(&tcp)),
        itself(&Baseline::QuinnH3, Protocol::Http3, trials(&quic)),
    ];
    compare("aa", &comparisons, options)
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
    let plan = plan(options);
    prepare(plan.cpus)?;
    let report = run::run_suite(suite, &comparisons, &plan)?;
    println!("{}", report::text(&report));
    if let Some(file) = &options.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(file, json).map_err(|error| format!("could not write {}: {error}", file.display()))?;
    }
    Ok(if options.gate && !passes(&report) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn plan(options: &Options) -> Plan {
    Plan {
        rounds: options.rounds as usize,
        seconds: options.seconds,
        cpus: Cpus { server: 0, client: 1 },
        profiles: options.profile.clone(),
    }
}

/// A figure within the noise passes: it is no miss. One that could not be counted does not: nothing was shown.
fn passes(report: &SuiteReport) -> bool {
    let passed = |verdict: &Verdict| matches!(verdict, Verdict::Met | Verdict::WithinNoise | Verdict::Told);
    report.figures.iter().all(|figure| passed(&figure.verdict))
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

    fn all() -> [Comparison<'static>; 2] {
        let beside = |theirs, protocol, trials| Comparison { ours: &Nginx, theirs, protocol, trials };
        [
            beside(&Nginx, Protocol::Http1, trials(&http::TRIALS)),
            beside(&Baseline::QuinnH3, Protocol::Http3, trials(&http3::BESIDE_QUINN)),
        ]
    }

    fn keys(comparisons: &[Comparison<'_>]) -> Vec<&'static str> {
        let trials = comparisons.iter().flat_map(|comparison| &comparison.trials);
        trials.map(|trial| trial.figure().key).collect()
    }

    #[test]
    fn figures_are_chosen_by_name_and_unknown_names_are_told_the_known_ones() {
        let names = ["h1", "h2", "handshake", "idle", "idle-tls", "h3-quinn", "h3-bulk", "h3-handshake"];
        assert_eq!(keys(&chosen(&all(), &[]).unwrap()), names);
        assert_eq!(keys(&chosen(&all(), &["h1-wrk".to_owned()]).unwrap()), ["h1-wrk"]);
        assert!(chosen(&all(), &["h4".to_owned()]).err().unwrap().contains("idle-tls"));
    }

    #[test]
    fn a_comparison_without_a_wanted_figure_is_left_out() {
        let chosen = chosen(&all(), &["h3-bulk".to_owned()]).unwrap();
        assert_eq!((chosen.len(), chosen[0].theirs.name()), (1, "quinn-h3"));
    }

    #[test]
    fn every_figure_has_a_name_of_its_own_and_its_aim_lies_beyond_its_bar() {
        let h3 = [&http3::BESIDE_CADDY[..], &http3::BESIDE_QUINN, &http3::BESIDE_BARE].concat();
        let workers = [
            &isolate::BESIDE_WASMTIME[..],
            &isolate::BESIDE_TUNED,
            &isolate::BESIDE_WORKERD,
            &isolate::OF_ASKERS,
            &isolate::OF_SPINNERS,
        ]
        .concat();
        let http = http::TRIALS.iter().map(Trial::figure).chain(h3.iter().map(Trial::figure));
        let figures: Vec<_> = http.chain(workers.iter().map(Trial::figure)).collect();
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
