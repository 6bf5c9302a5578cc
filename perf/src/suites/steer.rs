//! What steering costs a packet, in the kernel: nanoseconds above a program that does nothing.
//!
//! # On the back of an envelope
//!
//! At 2.6 GHz a nanosecond is 2.6 cycles, and some 8 instructions of BPF where nothing waits. Reading the headers and one
//! look at the addresses are 60 to 80 instructions: 10 ns. An id in clear: 40 more. AES: ten rounds of sixteen look-ups
//! and as many shifts, 1,300 instructions in a chain of ten dependent steps: 80 ns. SipHash-2-4 over 13 bytes is eight
//! rounds of 20 instructions (BPF has no rotate), in a chain: 15 ns; over 37 bytes fourteen rounds: 27 ns. The ring has
//! 256 KiB: a miss of the first cache, 4 ns.
//!
//! # How it is measured
//!
//! Each path has 4,096 flows. Twice, side by side:
//! - *hot*: `BPF_PROG_TEST_RUN` repeats each of 64 frames, and tells how long one took;
//! - *mixed*: each frame once, in blocks of one path in a shuffled order, and the kernel's own account of each program's
//!   run time (`bpf_stats_enabled`). Between two frames lies a system call with its allocations, so that caches and
//!   branch predictors have seen something else: it is what a packet costs that comes alone.
//!
//! Both on one CPU, with the empty program in turn. A quarter of the packets belong to another server, and of the rest
//! half to another CPU: their redirect is part of the cost.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use berth_control_agent::programs::{Card, Programs};
use berth_fixtures::dice::SplitMix64;
use berth_fixtures::frames::{self, IPV4, IPV6, WHOLE, ethernet, protocol};
use berth_fixtures::site::{self, NEW, SERVER, V4, V6};
use berth_steer::cid::Codepoint;

use crate::machine::Machine;
use crate::sys;

/// Flows of each path.
const FLOWS: usize = 4096;
/// Of these, so many are asked about hot, each this often: for each the kernel changes its code and waits for all CPUs,
/// some milliseconds.
const HOT_FLOWS: usize = 64;
const REPEAT: u32 = 10_000;
/// Frames between two looks at the kernel's account, which cost more than the program does.
const BLOCK: usize = 16;
/// The CPU of all of it.
const CPU: usize = 0;

/// One kind of packet.
struct Path {
    name: &'static str,
    /// Nanoseconds above the empty program, at most.
    bar_ns: Option<f64>,
    /// What Katran's program costs for the same, above its empty one, and the name of that path. Measured on a machine
    /// like this one; half of it is a bar too.
    katran: Option<(&'static str, f64)>,
    frame: fn(&mut SplitMix64) -> Vec<u8>,
}

#[rustfmt::skip] // A table reads best with one path on each line.
const PATHS: &[Path] = &[
    Path { name: "id in clear, IPv4", bar_ns: Some(25.0), katran: Some(("QUIC routed by id", 172.0)), frame: |dice| v4_udp(&with_id(dice, site::clear()), dice) },
    Path { name: "id in clear, IPv6", bar_ns: Some(25.0), katran: None, frame: |dice| v6_udp(&with_id(dice, site::clear()), dice) },
    Path { name: "encrypted id, IPv4", bar_ns: Some(110.0), katran: None, frame: |dice| v4_udp(&with_id(dice, site::encrypted()), dice) },
    Path { name: "encrypted id, IPv6", bar_ns: Some(110.0), katran: None, frame: |dice| v6_udp(&with_id(dice, site::encrypted()), dice) },
    Path { name: "Initial, IPv4", bar_ns: Some(40.0), katran: Some(("new flow", 556.0)), frame: |dice| v4_udp(&initial(dice), dice) },
    Path { name: "Initial, IPv6", bar_ns: Some(65.0), katran: None, frame: |dice| v6_udp(&initial(dice), dice) },
    Path { name: "UDP, IPv4", bar_ns: Some(40.0), katran: Some(("known UDP flow", 197.0)), frame: |dice| v4_udp(b"sixteen bytes ok", dice) },
    Path { name: "TCP, IPv4", bar_ns: Some(40.0), katran: Some(("known TCP flow", 173.0)), frame: v4_tcp },
    Path { name: "TCP, IPv6", bar_ns: Some(65.0), katran: None, frame: v6_tcp },
    Path { name: "ICMP error, IPv4", bar_ns: None, katran: None, frame: icmp },
    Path { name: "not ours, IPv4", bar_ns: None, katran: None, frame: not_ours },
];

/// Client addresses, ports.
fn client_v4(dice: &mut SplitMix64) -> [u8; 4] {
    let [a, b, ..] = dice.number().to_be_bytes();
    [198, 18, a, b]
}

fn client_v6(dice: &mut SplitMix64) -> [u8; 16] {
    let mut address = V6[0];
    address[4..12].copy_from_slice(&dice.number().to_be_bytes());
    address
}

fn port(dice: &mut SplitMix64) -> u16 {
    1024 + dice.below(60_000) as u16
}

fn v4_udp(payload: &[u8], dice: &mut SplitMix64) -> Vec<u8> {
    let datagram = frames::udp(port(dice), 443, payload);
    ethernet(IPV4, &frames::ipv4(client_v4(dice), V4[0], protocol::UDP, WHOLE, &[], &datagram))
}

fn v6_udp(payload: &[u8], dice: &mut SplitMix64) -> Vec<u8> {
    ethernet(
        IPV6,
        &frames::ipv6(client_v6(dice), V6[0], protocol::UDP, &frames::udp(port(dice), 443, payload)),
    )
}

fn v4_tcp(dice: &mut SplitMix64) -> Vec<u8> {
    let segment = frames::tcp(port(dice), 443, 0x10, &[0; 40]);
    ethernet(IPV4, &frames::ipv4(client_v4(dice), V4[0], protocol::TCP, WHOLE, &[], &segment))
}

fn v6_tcp(dice: &mut SplitMix64) -> Vec<u8> {
    let segment = frames::tcp(port(dice), 443, 0x10, &[0; 40]);
    ethernet(IPV6, &frames::ipv6(client_v6(dice), V6[0], protocol::TCP, &segment))
}

fn icmp(dice: &mut SplitMix64) -> Vec<u8> {
    let client = client_v4(dice);
    let quoted =
        frames::ipv4(V4[0], client, protocol::UDP, WHOLE, &[], &frames::udp(443, port(dice), &[0; 40]));
    ethernet(IPV4, &frames::ipv4(client, V4[0], protocol::ICMP, WHOLE, &[], &frames::icmp(3, 4, &quoted)))
}

fn not_ours(dice: &mut SplitMix64) -> Vec<u8> {
    let segment = frames::tcp(port(dice), 443, 0x10, &[0; 40]);
    ethernet(IPV4, &frames::ipv4(client_v4(dice), client_v4(dice), protocol::TCP, WHOLE, &[], &segment))
}

fn initial(dice: &mut SplitMix64) -> Vec<u8> {
    frames::quic_long(0x40, 1, &dice.number().to_be_bytes(), b"client", &[0; 60])
}

/// A datagram of a connection here, or at another server of the site.
fn with_id(dice: &mut SplitMix64, codepoint: Codepoint) -> Vec<u8> {
    let server = [SERVER, SERVER, SERVER, site::OTHERS[0]][dice.below(4)];
    let destination = site::destination(server, dice.below(usize::from(site::CORES)) as u8, NEW);
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&dice.number().to_be_bytes());
    frames::quic_short(0x40, &site::id_with(codepoint, destination, nonce), &[0; 40])
}

/// What one path cost, in each round.
#[derive(Default)]
struct Cost {
    hot_ns: Vec<f64>,
    mixed_ns: Vec<f64>,
}

/// Measures, prints, and tells whether every bar was met.
pub(crate) fn measure(rounds: u32) -> Result<Met, Box<dyn Error>> {
    sys::pin(0, CPU)?;
    // Another object, to be measured beside: that of an older version, say.
    let mut programs = match std::env::var_os("BERTH_BPF_OBJECT") {
        Some(path) => Programs::load_object(&std::fs::read(path)?)?,
        None => Programs::load()?,
    };
    programs.set_table(&site::table_of(&[7, 8, 300]))?;
    let _account = KernelAccount::open()?;
    let flows = PATHS.iter().map(|path| {
        let mut dice = SplitMix64(7);
        (0..FLOWS).map(|_| (path.frame)(&mut dice)).collect::<Vec<_>>()
    });
    let flows: Vec<Vec<Vec<u8>>> = flows.collect();
    let mut costs: Vec<Cost> = PATHS.iter().map(|_| Cost::default()).collect();
    for round in 0..rounds {
        for (cost, frames) in costs.iter_mut().zip(&flows) {
            cost.hot_ns.push(hot(&programs, Card::Steer, frames)? - hot(&programs, Card::Empty, frames)?);
        }
        for (cost, mixed) in costs.iter_mut().zip(mixed(&programs, &flows, round)?) {
            cost.mixed_ns.push(mixed);
        }
        eprintln!("steer          round {}/{rounds}", round + 1);
    }
    let met = print(&costs);
    let Machine { cpu, kernel, system, .. } = Machine::look(CPU);
    println!("\n{FLOWS} flows each, {rounds} rounds, on CPU {CPU} of {cpu}; {system}, Linux {kernel}.");
    Ok(met)
}

fn hot(programs: &Programs, card: Card, frames: &[Vec<u8>]) -> Result<f64, Box<dyn Error>> {
    let mut sum = Duration::ZERO;
    for frame in &frames[..HOT_FLOWS] {
        sum += programs.try_frame(card, frame, REPEAT)?.1;
    }
    Ok(sum.as_nanos() as f64 / HOT_FLOWS as f64)
}

/// All frames once, in blocks of one path in an order that mixes them; by path, nanoseconds above the empty program.
fn mixed(programs: &Programs, flows: &[Vec<Vec<u8>>], seed: u32) -> Result<Vec<f64>, Box<dyn Error>> {
    let blocks = flows.iter().enumerate();
    let mut order: Vec<(usize, &[Vec<u8>])> =
        blocks.flat_map(|(path, frames)| frames.chunks(BLOCK).map(move |block| (path, block))).collect();
    let mut dice = SplitMix64(seed.into());
    for place in (1..order.len()).rev() {
        order.swap(place, dice.below(place + 1));
    }
    let mut sums = vec![[0.0; 2]; flows.len()];
    for (card, column) in [(Card::Steer, 0), (Card::Empty, 1)] {
        for (path, block) in &order {
            let (runs, time) = programs.run_time(card)?;
            for frame in *block {
                programs.try_frame(card, frame, 1)?;
            }
            let (runs_after, time_after) = programs.run_time(card)?;
            if runs_after != runs + block.len() as u64 {
                return Err(
                    "the kernel keeps no account of run times, or somebody else runs the program".into()
                );
            }
            sums[*path][column] += (time_after - time).as_nanos() as f64;
        }
    }
    Ok(sums.iter().map(|[steer, empty]| (steer - empty) / FLOWS as f64).collect())
}

/// Whether every bar was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    /// All.
    All,
    /// Some were not.
    NotAll,
}

fn print(costs: &[Cost]) -> Met {
    let mut all = Met::All;
    println!(
        "| path | hot, ns above an empty program (min to max) | mixed (min to max) | bar | half of Katran's | verdict |"
    );
    println!("|---|--:|--:|--:|--:|---|");
    for (path, cost) in PATHS.iter().zip(costs) {
        let [hot, mixed] = [Spread::of(&cost.hot_ns), Spread::of(&cost.mixed_ns)];
        let bar = path.bar_ns.map_or_else(String::new, |bar| format!("≤ {bar}"));
        let half = path.katran.map(|(_, whole)| whole / 2.0);
        let katran =
            path.katran.map_or_else(String::new, |(name, whole)| format!("≤ {} ({name})", whole / 2.0));
        let strictest = [path.bar_ns, half].into_iter().flatten().reduce(f64::min);
        let verdict = strictest.map_or("no bar", |bar| match (hot.median <= bar, mixed.median <= bar) {
            (true, true) => "met",
            (true, false) => "met hot, **missed** mixed",
            _ => "**missed**",
        });
        if verdict.contains("missed") {
            all = Met::NotAll;
        }
        println!("| {} | {hot} | {mixed} | {bar} | {katran} | {verdict} |", path.name);
    }
    all
}

/// The middle of some rounds, and their ends.
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let at = |place: usize| sorted.get(place).copied().unwrap_or(f64::NAN);
        Self { median: at(sorted.len() / 2), min: at(0), max: at(sorted.len().saturating_sub(1)) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ({:.1} to {:.1})", self.median, self.min, self.max)
    }
}

/// The kernel keeps account of how long programs run, until this is dropped. It costs every program some nanoseconds.
struct KernelAccount {
    before: String,
}

impl KernelAccount {
    const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

    fn open() -> io::Result<Self> {
        let before = std::fs::read_to_string(Self::SWITCH)?;
        std::fs::write(Self::SWITCH, "1")?;
        Ok(Self { before })
    }
}

impl Drop for KernelAccount {
    fn drop(&mut self) {
        // It was written a moment ago; nobody could do anything about a failure here.
        let _ = std::fs::write(Self::SWITCH, &self.before);
    }
}
