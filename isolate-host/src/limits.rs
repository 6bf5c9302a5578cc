//! What a guest may cost, and which limit fell.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

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
#[derive(Debug)]
pub(crate) struct Meter {
    began: Instant,
    /// Nanoseconds of the polls that are over.
    spent: AtomicU64,
    /// When the poll that is under way began, in nanoseconds since `began`.
    polled: AtomicU64,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), spent: AtomicU64::new(0), polled: AtomicU64::new(0) }
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Measures one poll.
    pub(crate) fn measure<T>(&self, poll: impl FnOnce() -> T) -> T {
        self.polled.store(self.now(), Relaxed);
        let outcome = poll();
        self.spent.store(self.within().as_nanos() as u64, Relaxed);
        outcome
    }

    /// What was spent, as seen from within a poll.
    pub(crate) fn within(&self) -> Duration {
        let poll = self.now().saturating_sub(self.polled.load(Relaxed));
        Duration::from_nanos(self.spent.load(Relaxed) + poll)
    }

    /// What was spent, as seen from outside.
    pub(crate) fn spent(&self) -> Duration {
        Duration::from_nanos(self.spent.load(Relaxed))
    }
}

/// Shared by the stores of one script.
pub(crate) type SharedLimits = Arc<Limits>;

#[cfg(test)]
mod tests {
    use wasmtime::ResourceLimiter;

    use super::*;

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
