//! `berth agent`: the process that steers, and what an operator does to the machine with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use berth_control_agent::agent::{Agent, Settings};
use berth_control_agent::detach;
use berth_control_agent::plan::{Card, Wish};
use berth_dataplane::config::{Config, Xdp};

use crate::{Failure, logging, read_config, with_causes};

/// The flags of `berth agent`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    /// The configuration file of the node, the same as the data plane's.
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Load and pin the programs, and attach them to the cards, without staying.
    Attach {
        /// The configuration file of the node.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Take everything of ours out of the kernel; data planes go on without it.
    Detach {
        /// The configuration file of the node.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

/// Runs the agent, or one of its errands.
pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    match (arguments.command, arguments.config) {
        (Some(Command::Attach { config, dry_run: true }), _) => {
            let settings = settings(&read_config(&config)?)?;
            for step in Agent::dry_run(&settings).map_err(with_causes)? {
                println!("would {step}");
            }
            Ok(())
        }
        (Some(Command::Attach { config, dry_run: false }), _) => {
            let agent = Agent::start(settings(&read_config(&config)?)?).map_err(with_causes)?;
            if let Some(trouble) = agent.trouble() {
                return Err(trouble.to_owned().into());
            }
            for card in agent.cards() {
                let why = card.why.map(|why| format!(" ({why})")).unwrap_or_default();
                println!("{}: {}{why}", card.interface, card.xdp.word());
            }
            Ok(())
        }
        (Some(Command::Detach { config }), _) => {
            for line in detach::run(&settings(&read_config(&config)?)?).map_err(with_causes)? {
                println!("{line}");
            }
            Ok(())
        }
        (None, Some(config)) => serve(&config),
        (None, None) => Err("--config FILE is needed".into()),
    }
}

fn serve(path: &Path) -> Result<(), Failure> {
    let config = read_config(path)?;
    logging::start(&config.log)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Agent::start(settings(&config)?).map_err(with_causes)?.run(&stop).map_err(with_causes)
}

fn settings(config: &Config) -> Result<Settings, Failure> {
    let missing =
        "agent.socket is not set: write where the data plane calls, such as \"/run/berth/agent.sock\"";
    let wish = match config.steering.xdp {
        Xdp::Auto => Some(Wish::Auto),
        Xdp::Native => Some(Wish::Native),
        Xdp::Generic => Some(Wish::Generic),
        Xdp::Off => None,
    };
    let card = |interface: &String| wish.map(|wish| Card { interface: interface.clone(), wish });
    Ok(Settings {
        socket: config.agent.socket.clone().ok_or(missing)?,
        user: config.agent.user.as_deref().map(user_number).transpose()?,
        pins: config.agent.pins.clone(),
        cards: config.steering.interfaces.iter().filter_map(card).collect(),
        addresses: config.steering.addresses.clone(),
    })
}

/// The number of a user, by the file that every system has.
fn user_number(name: &str) -> Result<u32, Failure> {
    let users = std::fs::read_to_string("/etc/passwd").map_err(|error| format!("/etc/passwd: {error}"))?;
    let number = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1).and_then(|number| number.parse().ok())).flatten()
    });
    number
        .ok_or_else(|| format!("agent.user: /etc/passwd has no user {name}; make it, or name another").into())
}
