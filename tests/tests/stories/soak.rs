//! Clients come and go in every way, politely and not, and the node forgets them all.
//!
//! After each round of churn the node must be as it was: no connection, the same tasks, operations
//! and descriptors, every receive buffer back in its pool. Its memory at rest may not grow with the
//! number of connections that it has seen: see [`GROWTH_PER_CONNECTION_MAX`].

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use berth_tests::clients::{call, connect, curl, curl_command, finish, python, run, start};
use berth_tests::node::{Driver, Node, Plan, at_full_scale, wait_until};
use berth_tests::on_both_drivers;

use crate::common;
use crate::websocket::CLIENT;

on_both_drivers!(["curl", "h2load", "websockets"]; a_node_forgets_its_clients);

/// Bytes of memory at rest for each connection served, above which something is kept of each. The
/// smallest thing that could leak with a connection is its task with its state, some kilobytes.
const GROWTH_PER_CONNECTION_MAX: f64 = 64.0;
/// Between two rests the memory differs by up to 8 MiB, without a trend over 25,000 connections: the
/// allocator gives pages back when it likes. So the least of some rests is looked at, which differs
/// by less than this.
const NOISE: f64 = 4.0 * 1024.0 * 1024.0;
/// How many clients are there at a time.
const CLIENTS: u64 = 4;

fn a_node_forgets_its_clients(driver: Driver) {
    let limits = "[limits]\nconnections_per_address = 100000\n";
    let node = Plan::new(driver, common() + limits).start();
    let (rounds, round) =
        if at_full_scale() { (20, Duration::from_secs(10)) } else { (8, Duration::from_secs(2)) };
    // Visits until each core had one and has armed what it keeps armed.
    wait_until("every core had a visitor", || {
        curl(&["--insecure", &node.http("/"), &node.https("/")]).ok();
        node.numbers("connections_accepted").iter().all(|core| *core > 0)
    });
    wait_until("the visitors are gone", || node.number("connections_open") == 0);
    let fresh = Rest::of(&node);
    // The first round fills caches and pools: the allocator's, the ticketer's, the rings'.
    churn(&node, round, 0);
    let mut rests = Vec::new();
    for number in 1..=rounds {
        settle(&node, &fresh);
        rests.push((node.number("connections_accepted") as f64, node.memory() as f64));
        churn(&node, round, number);
    }
    settle(&node, &fresh);
    rests.push((node.number("connections_accepted") as f64, node.memory() as f64));
    println!("connections and bytes at rest: {rests:?}");
    let (early, late) = rests.split_at(rests.len() / 2);
    let least = |rests: &[(f64, f64)]| rests.iter().map(|rest| rest.1).fold(f64::INFINITY, f64::min);
    let connections = late[0].0 - early[0].0;
    let growth = least(late) - least(early);
    assert!(growth < NOISE + GROWTH_PER_CONNECTION_MAX * connections, "connections and bytes: {rests:?}");
    assert!(connections > 500.0, "the soak soaks: {rests:?}");
    assert_eq!((node.number("replies_5xx"), node.number("ring_completion_overflows")), (0, 0));
    node.finish();
}

/// What must be the same whenever nobody is there.
#[derive(Debug, PartialEq, Eq)]
struct Rest {
    tasks: Vec<u64>,
    ring_operations: Vec<u64>,
    descriptors: usize,
}

impl Rest {
    fn of(node: &Node) -> Self {
        let numbers = |name| node.numbers(name);
        let (tasks, ring_operations) = (numbers("tasks"), numbers("ring_operations"));
        // The connection that asked for the numbers may still be open: it is not for long.
        let mut descriptors = node.descriptors();
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(5));
            descriptors = descriptors.min(node.descriptors());
        }
        Self { tasks, ring_operations, descriptors }
    }
}

fn settle(node: &Node, fresh: &Rest) {
    wait_until("every connection is closed", || node.number("connections_open") == 0);
    let mut last = None;
    wait_until(&format!("the node is at rest as it was, {fresh:?}"), || {
        let now = Rest::of(node);
        let same = now == *fresh;
        if last.as_ref() != Some(&now) {
            println!("at rest: {now:?}");
            last = Some(now);
        }
        same
    });
    wait_until("all buffers are back", || {
        let all = node.numbers("receive_buffers") == node.numbers("receive_buffers_lent");
        all && node.number("send_buffers") == 0
    });
    assert_eq!(node.metric("berth_node_connections"), 0.0);
    assert_eq!((node.metric("berth_node_handshakes"), node.metric("berth_node_addresses")), (0.0, 0.0));
}

fn churn(node: &Node, time: Duration, round: u64) {
    let until = Instant::now() + time;
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || {
                let mut dice = Dice(0x5851_f42d_4c95_7f2d ^ (round * CLIENTS + client + 1));
                while Instant::now() < until {
                    visit(node, &mut dice);
                }
            });
        }
    });
}

/// One client of a random kind that costs the machine a process, and many that do not.
fn visit(node: &Node, dice: &mut Dice) {
    let (plain, secure) = (node.listener(0), node.listener(1));
    for _ in 0..50 {
        visit_bare(plain, secure, dice);
    }
    visit_well(node, plain, dice);
}

/// A client with a bare socket and bad manners: it leaves in the middle of something.
fn visit_bare(plain: SocketAddr, secure: SocketAddr, dice: &mut Dice) {
    match dice.throw(9) {
        0..3 => {
            let mut stream = connect(plain);
            let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(1 + dice.throw(20) as usize);
            stream.write_all(&request).unwrap();
            let _ = stream.read(&mut [0; 4096]);
        }
        3 => drop(connect(plain).write_all(b"GET / HTT")),
        4 => drop(
            connect(plain).write_all(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 9999\r\n\r\nhalf"),
        ),
        5 => {
            let mut stream = connect(plain);
            stream.write_all(b"GET /stream/100MiB HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
            let _ = stream.read_exact(&mut vec![0; 1 + dice.throw(1 << 18) as usize]);
        }
        6 => drop(connect(plain).write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0")),
        7 => drop(connect(secure).write_all(b"this is no ClientHello")),
        _ => drop(connect(secure)),
    }
}

/// A program that speaks the protocol as it should, except for those that are killed.
fn visit_well(node: &Node, plain: SocketAddr, dice: &mut Dice) {
    match dice.throw(7) {
        0 => {
            let urls = [node.http("/"), node.http("/stream/1MiB"), node.http("/lost")];
            run(curl_command().args(["--http1.1", "--output", "/dev/null"]).args(urls)).ok();
        }
        1 => drop(curl(&["--insecure", "--http2", "--data-binary", "a body", &node.https("/echo")]).ok()),
        2 => drop(curl(&["--insecure", "--http1.1", &node.https("/"), &node.https("/")]).ok()),
        3 => {
            // Killed in the middle of a download over HTTP/2 and TLS.
            let mut client = start(curl_command().args([
                "--insecure",
                "--output",
                "/dev/null",
                &node.https("/stream/100MiB"),
            ]));
            std::thread::sleep(Duration::from_millis(dice.throw(100)));
            let _ = client.kill();
            finish(client);
        }
        4 => {
            let version = if dice.throw(2) == 0 { "--h1" } else { "--max-concurrent-streams=5" };
            let url = if dice.throw(2) == 0 { node.http("/") } else { node.https("/") };
            let said = call("h2load", &[version, "--requests=300", "--clients=30", &url]).ok();
            assert!(said.contains("300 succeeded, 0 failed"), "{said}");
        }
        5 => {
            let said = call("h2load", &["--requests=20", "--clients=4", &node.http("/stream/1MiB")]).ok();
            assert!(said.contains("20 succeeded, 0 failed"), "{said}");
        }
        _ => {
            let url = format!("ws://{plain}/ws");
            run(Command::new(python()).args([CLIENT, "churn", &url])).ok();
        }
    }
}

/// Random enough to mix clients, and the same in each run.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}
