//! The load generators of our own as commands: the suites start this very program with them, on the client's CPU.
//!
//! Each prints its tally as one line of JSON; those that hold idle connections print `open`, wait for the end of
//! standard input, and print how many are still open.

use std::error::Error;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::answer;
use crate::counters::{self, Asking, Dialect, Pace, Verb};
use crate::quic;
use crate::swarm::{self, IdleLinks, LoopTally, Question, Secrecy};

#[derive(Subcommand)]
pub(crate) enum Client {
    /// A closed loop of full TLS handshakes
    Handshakes {
        #[command(flatten)]
        target: Target,
        #[arg(long)]
        concurrency: usize,
    },
    /// A closed loop of requests on connections that stay open
    Requests {
        #[command(flatten)]
        target: Target,
        #[arg(long)]
        connections: usize,
        /// Path and query
        #[arg(long, default_value = "/")]
        path: String,
        /// Host, if it is not the address
        #[arg(long)]
        host: Option<String>,
        /// Address to come from
        #[arg(long)]
        source: Option<Ipv4Addr>,
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
    /// Requests to counters, one at a time on each of the connections
    Counters {
        #[command(flatten)]
        target: Target,
        #[arg(long)]
        connections: usize,
        #[arg(long)]
        dialect: Dialect,
        #[arg(long)]
        verb: Verb,
        #[arg(long)]
        counters: usize,
        /// Requests a second that are due at even times; without it each connection asks as soon as it has its answer
        #[arg(long)]
        rate: Option<u32>,
        /// Each counter once, however long that takes
        #[arg(long)]
        once: bool,
    },
    /// A closed loop of HTTP/3 requests, several at a time on connections that stay open
    H3Requests {
        #[command(flatten)]
        target: Target,
        #[arg(long)]
        connections: usize,
        /// Requests at a time on each connection
        #[arg(long)]
        streams: usize,
    },
    /// A closed loop of large HTTP/3 downloads, one at a time on each connection, counted in MiB
    H3Downloads {
        #[command(flatten)]
        target: Target,
        #[arg(long)]
        connections: usize,
    },
    /// A closed loop of full QUIC handshakes with one HTTP/3 request each
    H3Handshakes {
        #[command(flatten)]
        target: Target,
        #[arg(long)]
        concurrency: usize,
    },
    /// HTTP/3 connections that ask once and stay open until standard input ends
    H3Idle {
        #[arg(long)]
        address: SocketAddr,
        #[arg(long)]
        connections: usize,
    },
}

/// What a closed loop runs against, and for how long.
#[derive(Args)]
pub(crate) struct Target {
    #[arg(long)]
    address: SocketAddr,
    #[arg(long)]
    seconds: u64,
}

impl Target {
    fn span(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

pub(crate) fn run(client: &Client) -> Result<(), Box<dyn Error>> {
    match client {
        Client::Handshakes { target, concurrency } => {
            print_tally(&swarm::handshakes(target.address, *concurrency, target.span())?)
        }
        Client::Requests { target, connections, path, host, source } => {
            let host = host.clone().unwrap_or_else(|| target.address.to_string());
            let question = Question { request: answer::request(&host, path), source: *source };
            print_tally(&swarm::requests(target.address, question, *connections, target.span())?)
        }
        Client::Counters { target, connections, dialect, verb, counters, rate, once } => {
            let pace = match rate {
                _ if *once => Pace::Once,
                Some(rate) => Pace::Rate(*rate, target.span()),
                None => Pace::Closed(target.span()),
            };
            let (dialect, verb, connections, counters) = (*dialect, *verb, *connections, *counters);
            let asking = Asking { dialect, verb, connections, counters, pace };
            print_tally(&counters::ask(target.address, &asking)?)
        }
        Client::Idle { address, connections, tls } => {
            let secrecy = if *tls { Secrecy::Tls } else { Secrecy::Plain };
            let mut links = IdleLinks::open(*address, secrecy, *connections)?;
            println!("open");
            std::io::stdin().read_to_end(&mut Vec::new())?;
            println!("{}", links.still_open());
            Ok(())
        }
        Client::H3Requests { target, connections, streams } => {
            print_tally(&quic::swarm::requests(target.address, *connections, *streams, target.span())?)
        }
        Client::H3Downloads { target, connections } => {
            print_tally(&quic::swarm::downloads(target.address, *connections, target.span())?)
        }
        Client::H3Handshakes { target, concurrency } => {
            print_tally(&quic::swarm::handshakes(target.address, *concurrency, target.span())?)
        }
        Client::H3Idle { address, connections } => {
            let mut links = quic::swarm::IdleLinks::open(*address, *connections)?;
            println!("open");
            // Nothing is ever written to our standard input: what can be read is its end.
            links.hold(std::io::stdin().as_raw_fd())?;
            println!("{}", links.still_open());
            Ok(())
        }
    }
}

fn print_tally(tally: &LoopTally) -> Result<(), Box<dyn Error>> {
    println!("{}", serde_json::to_string(tally)?);
    Ok(())
}
