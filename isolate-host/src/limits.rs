//! What a guest may cost, and which limit fell.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What one request of a script may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of linear memory, of all memories together.
    pub memory: usize,
    /// Elements of all tables together.
    pub table_elements: usize,
    /// Time on a core.
    pub cpu: Duration,
    /// Time from the request to the end of the reply, also while the guest waits.
    pub wall: Duration,
    /// Requests that it sends.
    pub outgoing: u32,
    /// Things of the host that it holds at a time: fields, bodies, streams.
    pub handles: usize,
    /// Bytes of the names and values of one set of fields.
    pub header_bytes: usize,
    /// Fields of one set.
    pub header_count: usize,
    /// Bytes of a body that it writes.
    pub body_bytes: u64,
    /// Bytes that it logs; more is cut off and counted.
    pub log_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            table_elements: 20_000,
            cpu: Duration::from_millis(50),
            wall: Duration::from_secs(30),
            outgoing: 50,
            handles: 1000,
            header_bytes: 32 << 10,
            header_count: 128,
            body_bytes: 1 << 30,
            log_bytes: 64 << 10,
        }
    }
}

impl Limits {
    /// What no script may exceed, whatever its project asks for.
    pub fn most() -> Self {
        Self {
            memory: 256 << 20,
            table_elements: 100_000,
            cpu: Duration::from_secs(30),
            wall: Duration::from_secs(600),
            outgoing: 1000,
            handles: 10_000,
            header_bytes: 256 << 10,
            header_count: 1000,
            body_bytes: 1 << 40,
            log_bytes: 1 << 20,
        }
    }
}

/// A limit that fell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Limit {
    /// `memory`: linear memory.
    #[error("memory")]
    Memory,
    /// `table_elements`.
    #[error("table_elements")]
    Tables,
    /// The stack of the engine.
    #[error("stack")]
    Stack,
    /// `cpu`.
    #[error("cpu")]
    Cpu,
    /// `wall`.
    #[error("wall")]
    Wall,
    /// `outgoing`.
    #[error("outgoing")]
    Outgoing,
    /// `handles`.
    #[error("handles")]
    Handles,
    /// `header_bytes` or `header_count`.
    #[error("header_bytes")]
    Headers,
    /// `body_bytes`.
    #[error("body_bytes")]
    BodyBytes,
    /// Bytes of one call to the host.
    #[error("call_bytes")]
    CallBytes,
}

impl Limit {
    /// Whether it is about time: the client gets 504.
    pub fn is_time(self) -> bool {
        matches!(self, Self::Cpu | Self::Wall)
    }
}

/// Memories and tables of one store, against its limits. It remembers a refusal, so that the guest's own way of failing
/// on it can be told from other traps.
#[derive(Debug)]
pub(crate) struct Growth {
    memory_left: usize,
    elements_left: usize,
    pub(crate) refused: Option<Limit>,
}

impl Growth {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { memory_left: limits.memory, elements_left: limits.table_elements, refused: None }
    }

    /// Bytes of memory that were taken.
    pub(crate) fn taken(&self, limits: &Limits) -> usize {
        limits.memory - self.memory_left
    }

    fn take(left: &mut usize, current: usize, desired: usize) -> bool {
        let Some(rest) = left.checked_sub(desired.saturating_sub(current)) else { return false };
        *left = rest;
        true
    }
}

impl wasmtime::ResourceLimiter for Growth {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let may = Self::take(&mut self.memory_left, current, desired);
        if !may {
            self.refused = Some(Limit::Memory);
        }
        Ok(may)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let may = Self::take(&mut self.elements_left, current, desired);
        if !may {
            self.refused = Some(Limit::Tables);
        }
        Ok(may)
    }
}

/// The time that a guest has spent on its core. The thread that polls it writes; its interruptions read.
///
/// It is added up in pieces: from the beginning of a poll to its interruptions and its end. A short piece costs its time.
/// In a long one the kernel may have let others run, which is not the guest's doing: it costs what the thread's own clock
/// says, which is too dear a question for each request.
#[derive(Debug)]
pub(crate) struct Meter {
    began: Instant,
    /// Nanoseconds of all pieces that are over.
    spent: AtomicU64,
    /// When the piece that is under way began, in nanoseconds since `began`.
    piece: AtomicU64,
}

/// A piece that is not short: guests are interrupted every millisecond.
const LONG_PIECE: Duration = Duration::from_millis(2);
/// How old the last look at the thread's clock may be when a piece begins. So much too dear may a long piece be.
const LOOK_EVERY: Duration = Duration::from_millis(1);

thread_local! {
    /// When this thread last looked at its own clock, and what that said.
    static LOOKED: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The CPU time of this thread since its last look.
fn look(now: Instant) -> Duration {
    let cpu = thread_time();
    let before = LOOKED.replace(Some((now, cpu)));
    before.map_or(cpu, |(_, before)| cpu.saturating_sub(before))
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), spent: AtomicU64::new(0), piece: AtomicU64::new(0) }
    }

    /// Measures one poll.
    pub(crate) fn measure<T>(&self, poll: impl FnOnce() -> T) -> T {
        let now = Instant::now();
        if LOOKED.get().is_none_or(|(looked, _)| now.duration_since(looked) > LOOK_EVERY) {
            look(now);
        }
        self.piece.store(now.duration_since(self.began).as_nanos() as u64, Relaxed);
        let outcome = poll();
        self.add_piece(Instant::now());
        outcome
    }

    /// What was spent until now, as asked within a poll.
    pub(crate) fn within(&self) -> Duration {
        let now = Instant::now();
        self.add_piece(now);
        look(now);
        Duration::from_nanos(self.spent.load(Relaxed))
    }

    /// What was spent in all polls that are over.
    pub(crate) fn spent(&self) -> Duration {
        Duration::from_nanos(self.spent.load(Relaxed))
    }

    fn add_piece(&self, now: Instant) {
        let until = now.duration_since(self.began);
        let mut time = until.saturating_sub(Duration::from_nanos(self.piece.load(Relaxed)));
        if time > LONG_PIECE {
            time = time.min(look(now));
        }
        self.piece.store(until.as_nanos() as u64, Relaxed);
        self.spent.store(self.spent.load(Relaxed) + time.as_nanos() as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::ResourceLimiter;

    use super::*;

    #[test]
    fn time_that_others_had_is_not_the_guests() {
        let meter = Meter::new();
        meter.measure(|| {
            std::thread::sleep(Duration::from_millis(60));
            assert!(meter.within() < Duration::from_millis(30), "{meter:?}");
            let start = thread_time();
            while thread_time() < start + Duration::from_millis(20) {}
        });
        assert!(meter.within() >= Duration::from_millis(20), "{meter:?}");
    }

    #[test]
    fn memories_share_one_allowance_and_a_refusal_is_remembered() {
        let mut growth = Growth::new(&Limits { memory: 100, table_elements: 10, ..Limits::default() });
        assert!(growth.memory_growing(0, 60, None).unwrap());
        assert!(growth.memory_growing(0, 40, None).unwrap(), "another memory");
        assert_eq!(growth.refused, None);
        assert!(!growth.memory_growing(60, 61, None).unwrap());
        assert_eq!(growth.refused, Some(Limit::Memory));
        assert!(growth.table_growing(0, 10, None).unwrap());
        assert!(!growth.table_growing(10, 11, None).unwrap());
        assert_eq!(growth.refused, Some(Limit::Tables));
    }
}
