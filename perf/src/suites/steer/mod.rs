//! What steering costs a packet, in the kernel: nanoseconds above a program that does nothing.
//!
//! # On the back of an envelope
//!
//! At 2.6 GHz a nanosecond is 2.6 cycles, and some 8 instructions of BPF where nothing waits. Reading the headers and one
//! look at the addresses are 60 to 80 instructions: 10 ns. An id in clear: 40 more. AES: ten rounds of sixteen look-ups
//! and as many shifts, 1,300 instructions in a chain of ten dependent steps: 80 ns. SipHash-1-3 over 13 bytes is five rounds
//! of 20 instructions (BPF has no rotate), in a chain: 10 ns; over 37 bytes eight rounds: 16 ns. The ring has 128 KiB: a
//! miss of the first cache, 4 ns. With many flows, who is asked (this server or another, this CPU or another) is a matter
//! of chance: half a wrong guess of the branch predictor for each packet, 5 ns.
//!
//! # How it is measured
//!
//! Each path has 4,096 flows: a quarter of them belong to another server, and of the rest half to another CPU, whose
//! redirect is part of the cost. On one CPU, with the empty program in turn:
//! - *hot*: `BPF_PROG_TEST_RUN` repeats each of 64 frames;
//! - *mixed*: it repeats a program that puts the next of all frames in place of the last one and goes on with the one that
//!   is measured ([`repeat`]): the program's code is in the cache, its memory and branches are those of many flows. Told by
//!   two clocks, the test run's and the kernel's own account of the program's run time (`bpf_stats_enabled`);
//! - *in bursts*: 64 frames at a time over a veth, half of them of any path, in a random order, by the kernel's account
//!   ([`cable`]). Between two frames the kernel takes the first one, and its code pushes that of the program out of the
//!   first cache. The account is one sum for each burst; since bursts differ in what they hold, the cost of each path
//!   follows ([`fit`]). It is what steering costs a server, and held against no bar: the bars are about the program.

mod cable;
mod fit;
mod paths;
mod repeat;

use std::error::Error;
use std::io;

use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;
use berth_control_agent::programs::{Card, Programs};
use berth_fixtures::dice::SplitMix64;
use berth_fixtures::site;

use self::cable::{BURST, Cable};
use self::paths::{KINDS, PATHS};
use self::repeat::{Repeater, Run};
use crate::figure::Spread;
use crate::machine::Machine;
use crate::sys;

/// Flows of each path.
const FLOWS: usize = 4096;
/// Of these, so many are asked about hot, each this often: for each the kernel changes its code and waits for all CPUs,
/// some milliseconds.
const HOT_FLOWS: usize = 64;
const REPEAT: u32 = 10_000;
const HOT_PAIRS: usize = 3;
/// How often each of all frames is drawn in one run, which begins with cold caches: the kernel has waited for all CPUs.
const DRAWS: u32 = 50;
/// Such runs with the program and without it, in turn. A neighbour on the same core makes a run up to a third longer, for
/// tens of milliseconds, and nothing makes one shorter: the shortest of each counts.
const PAIRS: usize = 15;
/// The CPU of all of it.
const CPU: usize = 0;

/// What one path cost in a round: nanoseconds above the empty program.
#[derive(Clone, Copy)]
struct Cost {
    hot: f64,
    mixed: f64,
    mixed_account: f64,
    in_bursts: f64,
}

/// The frames of each path, one of each flow.
type Flows = [Vec<Vec<u8>>; KINDS];

/// Measures, prints, and tells whether every bar was met.
pub(crate) fn measure(rounds: u32) -> Result<Met, Box<dyn Error>> {
    // Another object, to be measured beside: that of an older version, say.
    let object = std::env::var_os("BERTH_BPF_OBJECT").map(std::fs::read).transpose()?;
    let _account = KernelAccount::open()?;
    let flows: Flows = PATHS.each_ref().map(|path| {
        let mut dice = SplitMix64(7);
        (0..FLOWS).map(|_| (path.frame)(&mut dice)).collect()
    });
    let mut costs = Vec::new();
    for number in 0..rounds {
        // Where programs, tables and stacks lie in memory may make a difference: each round has its own.
        let of_round = || round(object.as_deref(), &flows, number).map_err(|error| error.to_string());
        let of_round = std::thread::scope(|scope| scope.spawn(of_round).join());
        costs.push(of_round.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        eprintln!("steer          round {}/{rounds}", number + 1);
    }
    let met = print(&costs)?;
    let Machine { cpu, kernel, system, .. } = Machine::look(CPU);
    println!("\n{FLOWS} flows each, {rounds} rounds, on CPU {CPU} of {cpu}; {system}, Linux {kernel}.");
    Ok(met)
}

/// One round, on a thread of its own, which it changes.
fn round(object: Option<&[u8]>, flows: &Flows, seed: u32) -> Result<[Cost; KINDS], Box<dyn Error>> {
    sys::pin(0, CPU)?;
    let mut programs = object.map_or_else(Programs::load, Programs::load_object)?;
    programs.set_table(&site::table_of(&[7, 8, 300]))?;
    let mut repeater = Repeater::load()?;
    cable::leave_network()?;
    let steer = Cable::lay("steer", CPU, |card| Ok(programs.attach_to_card(card, Card::Steer)?))?;
    let empty = Cable::lay("empty", CPU, |card| {
        repeater.empty()?.attach(card, XdpMode::Driver)?;
        Ok(())
    })?;
    let program = programs.card(Card::Steer)?;
    sys::run_in_real_time()?;
    let mut dice = SplitMix64(seed.into());
    let with = in_bursts(&steer, program, flows, &mut dice)?;
    let without = in_bursts(&empty, repeater.empty()?, flows, &mut dice)?;
    let mut costs = [Cost { hot: 0.0, mixed: 0.0, mixed_account: 0.0, in_bursts: 0.0 }; KINDS];
    for (kind, (cost, frames)) in costs.iter_mut().zip(flows).enumerate() {
        cost.in_bursts = with[kind] - without[kind];
        let [mut with, mut without] = [f64::INFINITY; 2];
        for _ in 0..HOT_PAIRS {
            with = with.min(hot(program, frames)?);
            without = without.min(hot(repeater.empty()?, frames)?);
        }
        cost.hot = with - without;
        repeater.lay_out(frames)?;
        let [mut with, mut without] = [Run::ENDLESS; 2];
        for _ in 0..PAIRS {
            with = with.or_shorter(repeater.draw(Some(program), DRAWS * FLOWS as u32)?);
            without = without.or_shorter(repeater.draw(None, DRAWS * FLOWS as u32)?);
        }
        cost.mixed = with.tested_ns - without.tested_ns;
        cost.mixed_account = with.account_ns - without.account_ns;
    }
    Ok(costs)
}

fn hot(program: &Xdp, frames: &[Vec<u8>]) -> Result<f64, Box<dyn Error>> {
    let mut sum = 0.0;
    for frame in &frames[..HOT_FLOWS] {
        sum += repeat::run(program, frame, REPEAT)?.tested_ns;
    }
    Ok(sum / HOT_FLOWS as f64)
}

/// Nanoseconds of each path, in bursts that mix them.
fn in_bursts(
    cable: &Cable,
    program: &Xdp,
    flows: &Flows,
    dice: &mut SplitMix64,
) -> Result<[f64; KINDS], Box<dyn Error>> {
    let mut decks: [Deck<'_>; KINDS] = flows.each_ref().map(|frames| Deck::of(frames));
    let mut bursts = Vec::new();
    for _ in 0..FLOWS / (BURST / 2) {
        for most in 0..KINDS {
            let kinds = (0..BURST).map(|place| if place % 2 == 0 { most } else { dice.below(KINDS) });
            let mut kinds: Vec<usize> = kinds.collect();
            shuffle(&mut kinds, dice);
            let frames: Vec<&[u8]> = kinds.iter().map(|kind| decks[*kind].draw(dice)).collect();
            let mut counts = [0.0; KINDS];
            kinds.iter().for_each(|kind| counts[*kind] += 1.0);
            bursts.push((counts, cable.burst(program, &frames)?.as_nanos() as f64));
        }
    }
    fit::costs(&bursts).ok_or_else(|| "the bursts do not tell the paths apart".into())
}

/// The frames of a path, drawn in a random order, and all of them before the first comes again.
struct Deck<'a> {
    frames: Vec<&'a [u8]>,
    drawn: usize,
}

impl<'a> Deck<'a> {
    fn of(frames: &'a [Vec<u8>]) -> Self {
        Self { frames: frames.iter().map(Vec::as_slice).collect(), drawn: frames.len() }
    }

    fn draw(&mut self, dice: &mut SplitMix64) -> &'a [u8] {
        if self.drawn == self.frames.len() {
            shuffle(&mut self.frames, dice);
            self.drawn = 0;
        }
        self.drawn += 1;
        self.frames[self.drawn - 1]
    }
}

fn shuffle<T>(all: &mut [T], dice: &mut SplitMix64) {
    for place in (1..all.len()).rev() {
        all.swap(place, dice.below(place + 1));
    }
}

/// Whether every bar was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    /// All.
    All,
    /// Some were not.
    NotAll,
}

/// What the middle round says of each bar.
fn print(rounds: &[[Cost; KINDS]]) -> Result<Met, Box<dyn Error>> {
    let mut met = Met::All;
    println!(
        "| path | hot, ns above an empty program (min to max) | mixed (min to max) | mixed, by the kernel's account (min to \
         max) | in bursts (min to max) | bar | half of Katran's | verdict |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|---|");
    for (kind, path) in PATHS.iter().enumerate() {
        let costs: [fn(&Cost) -> f64; 4] =
            [|cost| cost.hot, |cost| cost.mixed, |cost| cost.mixed_account, |cost| cost.in_bursts];
        let spread = |of: fn(&Cost) -> f64| {
            Spread::of(&rounds.iter().map(|round| of(&round[kind])).collect::<Vec<f64>>())
        };
        let [Some(hot), Some(mixed), Some(account), Some(burst)] = costs.map(spread) else {
            return Err(format!("{}: no round has a figure", path.name).into());
        };
        let bar = path.bar_ns.map_or_else(String::new, |bar| format!("≤ {bar}"));
        let half = path.katran.map(|(name, whole)| (name, whole / 2.0));
        let katran = half.map_or_else(String::new, |(name, half)| format!("≤ {half} ({name})"));
        let strictest = [path.bar_ns, half.map(|(_, half)| half)].into_iter().flatten().reduce(f64::min);
        let mixed_median = mixed.median.max(account.median);
        let verdict = strictest.map_or("no bar", |bar| match (hot.median <= bar, mixed_median <= bar) {
            (true, true) => "met",
            (true, false) => "met hot, **missed** mixed",
            _ => "**missed**",
        });
        if verdict.contains("missed") {
            met = Met::NotAll;
        }
        let [hot, mixed, account, burst] = [hot, mixed, account, burst].map(cell);
        println!("| {} | {hot} | {mixed} | {account} | {burst} | {bar} | {katran} | {verdict} |", path.name);
    }
    Ok(met)
}

fn cell(Spread { median, min, max }: Spread) -> String {
    format!("{median:.1} ({min:.1} to {max:.1})")
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
