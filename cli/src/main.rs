//! `berth`: one program, every role a subcommand. No logic lives here: it reads the command line,
//! calls the crate that does the work, and shows what it says.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this program talks to a terminal")]

mod admin_client;
mod agent;
mod build;
mod carry;
mod create;
mod deploy;
mod dev;
mod doctor;
mod explain;
mod logging;
mod objects;
mod output;
mod progress;
mod project;
mod status;
mod table;
mod tail;
mod zones;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use berth_dataplane::config::{self, Config};
use berth_dataplane::metrics;
use berth_dataplane::node::Node;
use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Berth: an edge node with per-core io_uring runtimes.
#[derive(Parser)]
#[command(name = "berth", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a whole node in one process, for development.
    Dev(dev::Arguments),
    /// Make a project from a template.
    New(create::Arguments),
    /// Make the components of a project by its own command.
    Build(build::Arguments),
    /// Build a project, upload its scripts, and replace its zone.
    Deploy(deploy::Arguments),
    /// Run the dataplane in production.
    Dataplane {
        /// The configuration file (`berth config reference` lists its keys).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Check the configuration and exit.
        #[arg(long)]
        check: bool,
    },
    /// Run the control agent, which steers packets to the cores of the dataplane.
    Agent(agent::Arguments),
    /// Say what this machine allows a node, what bounds it, and how to raise that.
    Doctor(doctor::Arguments),
    /// Show node, cores, rings and counters of a running node.
    Status(status::Arguments),
    /// Zones: their hosts, workers and versions.
    #[command(subcommand)]
    Zones(zones::Zones),
    /// Scripts: the components that were uploaded.
    #[command(subcommand)]
    Scripts(zones::Scripts),
    /// Routes: which requests go to which worker.
    #[command(subcommand)]
    Routes(zones::Routes),
    /// Objects: what they store, and where they are.
    #[command(subcommand)]
    Objects(objects::Objects),
    /// Show what guests log, as it happens.
    Tail(tail::Arguments),
    /// Say where something would go, and why.
    #[command(subcommand)]
    Explain(explain::Command),
    /// About the configuration.
    #[command(subcommand)]
    Config(ReferenceCommand),
    /// About the metrics.
    #[command(subcommand)]
    Metrics(ReferenceCommand),
    /// For the node itself: compile the component on standard input, within limits.
    #[command(hide = true)]
    CompileScript {
        /// Bytes of memory, seconds, and bytes of code.
        #[arg(required = true)]
        budget: Vec<u64>,
    },
    /// Not built yet.
    #[command(external_subcommand)]
    Later(Vec<String>),
}

#[derive(Subcommand)]
enum ReferenceCommand {
    /// Print the reference page: every key or metric with its meaning.
    Reference,
}

/// Commands of the contract that later changes bring.
const LATER: &[&str] = &["policy", "top"];

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        // First, and without a thread, a file or a log of its own: what comes in is foreign.
        Command::CompileScript { budget } => {
            berth_isolate_host::compile::serve(&budget).map_err(io_failure("compiling a script"))
        }
        Command::Dev(arguments) => dev::run(&arguments),
        Command::New(arguments) => create::run(&arguments),
        Command::Build(arguments) => build::run(&arguments),
        Command::Deploy(arguments) => deploy::run(&arguments),
        Command::Zones(command) => zones::zones(&command),
        Command::Scripts(command) => zones::scripts(&command),
        Command::Routes(command) => zones::routes(&command),
        Command::Objects(command) => objects::run(&command),
        Command::Tail(arguments) => tail::run(&arguments),
        Command::Dataplane { config, check } => dataplane(config, check),
        Command::Agent(arguments) => agent::run(arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Explain(command) => explain::run(&command),
        Command::Status(arguments) => status::run(&arguments),
        Command::Config(ReferenceCommand::Reference) => output::show(&config::reference()),
        Command::Metrics(ReferenceCommand::Reference) => output::show(&metrics::reference()),
        Command::Later(words) => return later(&words),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("berth: {failure}");
            ExitCode::from(1)
        }
    }
}

/// Why a command failed, ready to be shown.
type Failure = Box<dyn std::error::Error>;

fn dataplane(path: PathBuf, check: bool) -> Result<(), Failure> {
    let config = read_config(&path)?;
    if check {
        println!("{}: good", path.display());
        return Ok(());
    }
    logging::start(&config.log)?;
    Node::prepare(config, Some(path)).map_err(with_causes)?.run().map_err(with_causes)
}

fn read_config(path: &Path) -> Result<Config, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Config::parse(&text).map_err(|mistakes| format!("{}:\n{mistakes}", path.display()))?)
}

/// What was tried, before what the system says.
fn io_failure(what: &'static str) -> impl Fn(std::io::Error) -> Failure {
    move |error| format!("{what}: {error}").into()
}

/// An error with its causes, ready to be shown.
fn with_causes(error: impl std::error::Error) -> Failure {
    berth_protocol::link::with_causes(&error).into()
}

fn later(words: &[String]) -> ExitCode {
    let name = words.first().map_or("", String::as_str);
    if LATER.contains(&name) {
        eprintln!("berth: `{name}` is not built yet");
        return ExitCode::from(1);
    }
    eprintln!("berth: there is no command `{name}`; `berth --help` lists them");
    ExitCode::from(2)
}
