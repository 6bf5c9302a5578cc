//! What the three benches share: pinned threads, a clock, medians, and a line for each bar.
#![allow(dead_code, reason = "each bench uses its own part of this")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{mem, thread};

/// What crosses: 64 bytes, one cache line, about the size of an envelope's head.
pub(crate) type Message = [u64; 8];

/// The CPUs of the two ends. The machines that this runs on have at least two.
pub(crate) const SENDER_CPU: usize = 0;
pub(crate) const RECEIVER_CPU: usize = 1;

/// Confines the calling thread to one CPU.
pub(crate) fn pin(cpu: usize) {
    // SAFETY: A `cpu_set_t` is plain bits, for which zero is a value; both calls get a pointer to this one,
    // which lives through them.
    let refused = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    assert_eq!(refused, 0, "cannot pin to CPU {cpu}: the benches need CPUs {SENDER_CPU} and {RECEIVER_CPU}");
}

/// Asks for real-time priority for the calling thread, so that other programs leave it the CPU. Who may not have it
/// measures all the same, and throws away more runs.
pub(crate) fn insist() {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: The call reads the parameter, which lives through it, and changes nothing but this thread's priority.
    let _refused = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const lowest) };
}

/// How often the threads of the current run lost their CPU to others.
static PREEMPTIONS: AtomicU64 = AtomicU64::new(0);

/// To be called by each end of a run, on its own thread, when it is done.
pub(crate) fn note_preemptions() {
    // SAFETY: An `rusage` is plain numbers, for which zero is a value; the call fills this one.
    let usage = unsafe {
        let mut usage: libc::rusage = mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        usage
    };
    PREEMPTIONS.fetch_add(u64::try_from(usage.ru_nivcsw).unwrap_or(0), Ordering::Relaxed);
}

/// Runs until neither end lost its CPU: what another program did to one queue says nothing about that queue.
/// The rule is the same for all. Gives up on a machine that is never quiet; the second value says how many
/// runs were thrown away.
pub(crate) fn undisturbed<R>(mut run: impl FnMut() -> R) -> (R, u32) {
    const TRIES: u32 = 50;
    for thrown_away in 0.. {
        // Whoever else is on this machine gets its share between the runs rather than during one.
        thread::sleep(Duration::from_millis(100));
        PREEMPTIONS.store(0, Ordering::Relaxed);
        let result = run();
        if PREEMPTIONS.load(Ordering::Relaxed) == 0 || thrown_away == TRIES {
            return (result, thrown_away);
        }
    }
    unreachable!("the last try returns");
}

/// The time-stamp counter: the same on all CPUs (`constant_tsc`), a few nanoseconds to read.
#[inline]
pub(crate) fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: Every x86-64 has the instruction, and nothing forbids it to user space here.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        use std::sync::LazyLock;
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed().as_nanos() as u64
    }
}

/// How many ticks a nanosecond has.
pub(crate) fn ticks_per_ns() -> f64 {
    let (start, first) = (Instant::now(), ticks());
    while start.elapsed() < Duration::from_millis(100) {
        std::hint::spin_loop();
    }
    (ticks() - first) as f64 / start.elapsed().as_nanos() as f64
}

/// The value below which `share` of the sorted values lie.
pub(crate) fn quantile(sorted: &[u64], share: f64) -> u64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

/// The median and the quartiles around it: what a figure is, and how far rounds differ.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
        Self { low: at(0.25), median: at(0.5), high: at(0.75) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(f, "{:.digits$} [{:.digits$}, {:.digits$}]", self.median, self.low, self.high)
    }
}

/// Whether a figure is where it should be; inside the quartiles of its own rounds the machine cannot tell.
pub(crate) fn verdict(figure: Spread, meets: impl Fn(f64) -> bool) -> &'static str {
    match (meets(figure.median), meets(figure.low) == meets(figure.high)) {
        (true, true) => "met",
        (true, false) => "met, within the noise",
        (false, true) => "missed",
        (false, false) => "missed, within the noise",
    }
}
