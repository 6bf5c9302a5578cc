//! The neighbour: a client of another address that sends one small request every few milliseconds on
//! a connection of its own, and feels how busy its core is.
//!
//! Attacker and neighbour share CPU 1, for CPU 0 is the node's. So the neighbour gets real-time
//! priority if it may (root), or it would measure how long it waits for the attacker. Its own
//! baseline is taken right before, with a CPU 1 that is as busy with system calls, but not with the
//! node's. The kernel's own threads for packets that come faster than they are worked off (ksoftirqd)
//! must wait for neither attacker nor node, or the neighbour's packets lie there for some ticks of 4 ms:
//! they get real-time priority for as long as is measured. The attacker gets the lowest: it has what the
//! others leave of CPU 1, nearly all. The node gets the highest, so that whatever else the machine
//! does is left out. Where the kernel groups sessions (`sched_autogroup_enabled`), priorities count
//! within a session only, so the node has a session of its own, and both sessions get theirs.
//!
//! On a virtual machine an idle CPU is its host's to give away, and comes back milliseconds later: so CPU 0
//! is kept busy by a thread that runs only when nobody else wants to, which costs the node nothing.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::floods::{self, Flood};
use super::{Node, PATIENCE, Wire};
use crate::pin_to;

/// The CPU of the node.
const NODES_CPU: usize = 0;
/// The CPU of attacker and neighbour.
const THEIR_CPU: usize = 1;
/// Time between two requests of the neighbour.
const PACE: Duration = Duration::from_millis(5);
/// What an attack needs to be in full swing: a thousand connections, say.
const WARM_UP: Duration = Duration::from_millis(500);

/// What the neighbour felt.
#[derive(Debug, Clone, Copy)]
pub struct Felt {
    /// Requests that were sent.
    pub requests: usize,
    /// Requests that failed.
    pub errors: usize,
    /// The median.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
    /// The slowest.
    pub max: Duration,
}

/// The neighbour without and with an attack.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Beside a CPU that is busy with something else.
    pub baseline: Felt,
    /// Beside the attack.
    pub attacked: Felt,
    /// Rounds of the attack.
    pub rounds: u64,
}

impl Outcome {
    /// How many times slower the 99th percentile became.
    pub fn ratio(&self) -> f64 {
        self.attacked.p99.as_secs_f64() / self.baseline.p99.as_secs_f64()
    }
}

/// Measures the neighbour beside nothing and beside `flood`, each for `time`.
pub fn measure(node: &Node, flood: Flood, time: Duration) -> Outcome {
    let (baseline, _) = beside(node, time, |stop| {
        floods::busy(stop);
        0
    });
    let (attacked, rounds) = beside(node, time, |stop| flood.run(node, stop));
    Outcome { baseline, attacked, rounds }
}

fn beside(node: &Node, time: Duration, other: impl FnOnce(&AtomicBool) -> u64 + Send) -> (Felt, u64) {
    let stop = AtomicBool::new(false);
    let _packets = PacketsFirst::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin_to(NODES_CPU);
            schedule(0, libc::SCHED_IDLE, 0);
            while !stop.load(Relaxed) {
                std::hint::spin_loop();
            }
        });
        let other = scope.spawn(|| {
            pin_to(THEIR_CPU);
            other(&stop)
        });
        let neighbour = scope.spawn(|| {
            pin_to(THEIR_CPU);
            real_time();
            std::thread::sleep(WARM_UP);
            let felt = live(node, time);
            stop.store(true, Relaxed);
            felt
        });
        let felt = neighbour.join().expect("the neighbour does not panic");
        (felt, other.join().expect("the attacker does not panic"))
    })
}

/// The neighbour's day.
fn live(node: &Node, time: Duration) -> Felt {
    let mut wire = Wire::connect_as(2, node.http);
    let mut took = Vec::new();
    let mut errors = 0;
    let mut answer = [0; 1024];
    let began = Instant::now();
    let mut next = began;
    while began.elapsed() < time {
        next += PACE;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let sent = Instant::now();
        let _ = wire.stream().set_read_timeout(Some(PATIENCE));
        let mut stream = wire.stream();
        let outcome =
            stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").and_then(|()| stream.read(&mut answer));
        match outcome {
            Ok(count) if answer[..count].ends_with(b"hello\n") => took.push(sent.elapsed()),
            _ => {
                errors += 1;
                wire = Wire::connect_as(2, node.http);
            }
        }
        // A late answer does not make the next requests a burst.
        next = next.max(Instant::now());
    }
    took.sort_unstable();
    let at = |share: f64| took.get((took.len() as f64 * share) as usize).copied().unwrap_or_default();
    Felt {
        requests: took.len() + errors,
        errors,
        p50: at(0.5),
        p99: at(0.99),
        max: took.last().copied().unwrap_or_default(),
    }
}

/// Real-time priority for the calling thread.
fn real_time() {
    schedule(0, libc::SCHED_FIFO, 10);
}

/// Without the right to it, the thread stays as it is.
fn schedule(thread: i32, policy: i32, priority: i32) {
    let parameter = libc::sched_param { sched_priority: priority };
    // SAFETY: the kernel reads a struct of ours.
    unsafe { libc::sched_setscheduler(thread, policy, &raw const parameter) };
}

/// The kernel's threads for packets have real-time priority until this is dropped.
struct PacketsFirst(Vec<i32>);

impl PacketsFirst {
    fn new() -> Self {
        let is_one = |number: &i32| {
            let comm = std::fs::read_to_string(format!("/proc/{number}/comm"));
            comm.is_ok_and(|comm| comm.starts_with("ksoftirqd/"))
        };
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let threads: Vec<i32> = numbers.filter(is_one).collect();
        threads.iter().for_each(|thread| schedule(*thread, libc::SCHED_FIFO, 11));
        Self(threads)
    }
}

impl Drop for PacketsFirst {
    fn drop(&mut self) {
        self.0.iter().for_each(|thread| schedule(*thread, libc::SCHED_OTHER, 0));
    }
}

/// Puts the node above everything else on the machine, and this program's attacks below. Without the
/// right to it nothing changes.
pub fn set_priorities(node: &Node) {
    let set = |process: u32, nice: i32| {
        let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
        for thread in threads.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
            // SAFETY: takes numbers only.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, thread, nice) };
        }
        let _ = std::fs::write(format!("/proc/{process}/autogroup"), nice.to_string());
    };
    set(node.pid(), -20);
    set(std::process::id(), 19);
}
