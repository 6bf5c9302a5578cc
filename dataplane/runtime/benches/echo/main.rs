//! What one small request costs on each kind of per-core runtime: the figures of ADR 0001.
//!
//! The same server, "read until an empty line, answer 120 bytes", on each runtime in [`Variant`].
//! Each measurement starts a fresh server process (this program again), pinned to CPU 0; the
//! client, one ring without an executor, is this process, pinned to CPU 1. What is measured is the
//! CPU time of the server process per answered request, so other work on the machine costs time but
//! little truth. Variants take turns within a round, and the ratios to the first variant are taken
//! within the round, so that slow drift cancels.
//!
//! Back of the envelope: on loopback the sender's CPU also runs the receiver's TCP input, so a
//! request costs the server one receive copy (~0.5 µs), one send with the client's input and wake-up
//! (~3 µs), and what the runtime adds: epoll two system calls for each request and one for each
//! batch, a ring one for each batch. At 0.1-0.2 µs for an empty system call, the whole difference
//! between runtimes can hardly be more than a fifth of the request, however clever they are.
//!
//! ```text
//! cargo bench -p berth-runtime --bench echo                 all variants, all loads
//! cargo bench -p berth-runtime --bench echo -- ARGUMENTS    one of:
//!   --rounds 31 --variants tokio,berth --connections 1,64   more of less
//!   probe                    does a deferred completion wake an epoll?
//!   serve berth 7070         a server for perf, strace and wrk
//!   serve-busy berth 7070    the same beside a task that is always ready
//!   load 7070 64             a second of load for such a server
//! ```

#![allow(clippy::print_stdout, reason = "a bench talks to a terminal")]

mod bare_ring;
mod client;
mod floor;
mod measure;
mod probe;
mod servers;
mod tokio_ring;

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::client::Client;
use crate::servers::{Neighbour, Variant};

/// The CPU of the server.
pub(crate) const SERVER_CPU: usize = 0;
/// The CPU of the client.
pub(crate) const CLIENT_CPU: usize = 1;

/// What a client sends.
pub(crate) const REQUEST: &[u8] = b"GET /hello HTTP/1.1\r\nhost: bench\r\n\r\n";
/// What a server answers: 120 bytes.
pub(crate) const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nserver: bench\r\ncontent-type: text/plain\r\n\
content-length: 40\r\n\r\nforty bytes of plain text, end included\n";
const _: () = assert!(RESPONSE.len() == 120);

/// Whether `bytes` ends with the empty line that ends a request.
pub(crate) fn ends_request(bytes: &[u8]) -> bool {
    bytes.ends_with(b"\r\n\r\n")
}

/// How long and what to measure.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
    pub(crate) variants: Vec<Variant>,
    pub(crate) loads: Vec<Load>,
}

/// What the client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// So many connections, each sending its next request when it has its answer.
    Closed(usize),
    /// One connection with a pause before each request, so that the server falls asleep.
    Paced,
}

fn main() -> io::Result<()> {
    // `cargo bench` adds `--bench`; without it this is a test run, which only shows that it works.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_bench = arguments.iter().any(|argument| argument == "--bench");
    let arguments: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|argument| *argument != "--bench").collect();
    match *arguments.as_slice() {
        ["probe"] => probe::run(),
        ["serve", variant] => servers::serve(parse_variant(variant)?, 0, Neighbour::Nobody),
        ["serve", variant, port] => servers::serve(parse_variant(variant)?, parse(port)?, Neighbour::Nobody),
        ["serve-busy", variant, port] => {
            servers::serve(parse_variant(variant)?, parse(port)?, Neighbour::NeverIdle)
        }
        ["load", port, connections] => load(parse(port)?, parse(connections)?),
        ref options => measure::run(&plan(options, is_bench)?),
    }
}

/// Loads a server that was started by hand, for a second.
fn load(port: u16, connections: usize) -> io::Result<()> {
    pin_to(CLIENT_CPU)?;
    let mut client = Client::connect((Ipv4Addr::LOCALHOST, port).into(), Load::Closed(connections))?;
    println!("{} answers", client.run(Duration::from_secs(1))?);
    Ok(())
}

fn plan(options: &[&str], is_bench: bool) -> io::Result<Plan> {
    let mut plan = Plan {
        rounds: if is_bench { 15 } else { 1 },
        warm_up: Duration::from_millis(if is_bench { 50 } else { 10 }),
        window: Duration::from_millis(if is_bench { 250 } else { 20 }),
        variants: Variant::ALL.to_vec(),
        loads: vec![Load::Paced, Load::Closed(1), Load::Closed(16), Load::Closed(64), Load::Closed(256)],
    };
    for pair in options.chunks(2) {
        match *pair {
            ["--rounds", rounds] => plan.rounds = parse(rounds)?,
            ["--window-ms", window] => plan.window = Duration::from_millis(parse(window)?),
            ["--variants", list] => {
                plan.variants = list.split(',').map(parse_variant).collect::<Result<_, _>>()?;
            }
            ["--connections", list] => {
                plan.loads = list.split(',').map(|n| parse(n).map(Load::Closed)).collect::<Result<_, _>>()?;
            }
            _ => return Err(invalid(format!("{pair:?} is no option; see the head of this bench"))),
        }
    }
    Ok(plan)
}

fn parse<T: std::str::FromStr>(text: &str) -> io::Result<T> {
    text.parse().map_err(|_| invalid(format!("{text:?} is no number")))
}

fn parse_variant(name: &str) -> io::Result<Variant> {
    let known = Variant::ALL.iter().map(|variant| variant.name()).collect::<Vec<_>>().join(", ");
    Variant::ALL
        .into_iter()
        .find(|variant| variant.name() == name)
        .ok_or_else(|| invalid(format!("{name:?} is no variant; there are {known}")))
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// Pins the calling thread, and with it the threads that it starts, to one CPU.
pub(crate) fn pin_to(cpu: usize) -> io::Result<()> {
    // SAFETY: `set` is a plain bit set that we own, and both CPUs lie within it.
    let done = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
