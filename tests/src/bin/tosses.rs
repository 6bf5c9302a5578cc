//! What steering is for, end to end: how many datagrams have to cross cores, with the agent and without it.
//!
//! `cargo build --release -p berth-cli -p berth-tests --bins && target/release/tosses [ROUNDS]`, as root, or at the end of
//! `cargo xtask perf steer`. Two nodes in turn, each behind a veth in a namespace of its own, with threaded NAPI. Clients
//! (aioquic) download on many connections, whose addresses a NAT changes in mid-transfer: the kernel's hash then sends
//! half of their datagrams to the wrong one of two cores. How many is the figure; the node's own time is told beside it.
#![allow(clippy::print_stdout, reason = "a program that talks to a terminal")]

use berth_tests::aioquic::h3_command;
use berth_tests::clients::{finish, start};
use berth_tests::network::{CLIENTS, NODE_ADDRESS};
use berth_tests::node::{Driver, Node, route};
use berth_tests::steered::{HTTPS_PORT, Steered};

/// Connections of each of two clients, and moves of each connection.
const CONNECTIONS: u64 = 24;
const MOVES: u64 = 6;
/// A move in the first eighth is likely.
const PATH: &str = "/stream/256KiB";

/// What a round saw.
struct Round {
    requests: u64,
    datagrams: u64,
    tossed: u64,
    /// The node's time on the CPU, in ticks of the kernel.
    ticks: u64,
    /// Threads of the card that were pinned: its work is then nobody else's.
    threaded: usize,
}

fn main() {
    let rounds = std::env::args().nth(1).and_then(|rounds| rounds.parse().ok()).unwrap_or(3);
    println!(
        "{:<18}{:>10}{:>12}{:>10}{:>14}{:>14}{:>12}  NAPI threads",
        "", "requests", "datagrams", "tossed", "per datagram", "per request", "ms/request"
    );
    let mut sums = [(0, 0), (0, 0)];
    for _ in 0..rounds {
        for (place, name) in ["the kernel's hash", "steered"].into_iter().enumerate() {
            let round = measure(place == 1);
            let per = |of: u64| round.tossed as f64 / of as f64;
            println!(
                "{name:<18}{:>10}{:>12}{:>10}{:>14.3}{:>14.2}{:>12.2}{:>14}",
                round.requests,
                round.datagrams,
                round.tossed,
                per(round.datagrams),
                per(round.requests),
                round.ticks as f64 * 10.0 / round.requests as f64,
                round.threaded,
            );
            sums[place].0 += round.tossed;
            sums[place].1 += round.requests;
        }
    }
    let [hash, steered] = sums.map(|(tossed, requests)| tossed as f64 / requests as f64);
    println!("tosses per request: {hash:.2} by the kernel's hash, {steered:.2} steered (bar: 0)");
    if steered > 0.0 {
        std::process::exit(1);
    }
}

fn measure(is_steered: bool) -> Round {
    let place = Steered::build("native");
    let agent = is_steered.then(|| place.agent());
    let answer = route(PATH, "stream = { bytes = \"256KiB\" }");
    let node = place.start(place.plan(Driver::Auto, &answer));
    if is_steered {
        place.wait_until_steered(&node);
    }
    let threaded = place.network.thread_napi(0);
    let there = std::net::SocketAddr::new(NODE_ADDRESS.parse().expect("it is an address"), HTTPS_PORT);
    let before = ticks(&node);
    let (connections, moves) = (CONNECTIONS.to_string(), MOVES.to_string());
    let clients: Vec<_> = CLIENTS[..2]
        .iter()
        .enumerate()
        .map(|(seed, home)| {
            let mut command = h3_command("many", there);
            command.args([
                "--local", home, "--places", home, "--path", PATH, "--bodies", "1", "--kinds", "rebind",
            ]);
            command.args(["--connections", &connections, "--moves", &moves, "--seed", &seed.to_string()]);
            place.network.at_client(|| start(&mut command))
        })
        .collect();
    for client in clients {
        finish(client).ok();
    }
    let number = |name: &str| place.network.at_node(|| node.number(name));
    let round = Round {
        requests: number("requests_http3"),
        datagrams: number("quic_datagrams"),
        tossed: number("quic_tossed"),
        ticks: ticks(&node) - before,
        threaded,
    };
    place.network.at_node(|| node.finish());
    drop(agent);
    round
}

/// Time of all threads of a node, in user space and in the kernel.
fn ticks(node: &Node) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.pid())).unwrap_or_default();
    // The name in front may hold spaces, but not behind its bracket; the times are the 14th and 15th field.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    field(11) + field(12)
}
