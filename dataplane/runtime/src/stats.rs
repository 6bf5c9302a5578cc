//! What a core counts, readable from any thread while the core runs.
//!
//! Each number has one writer, the core itself, so that counting is a load and a store and never
//! a locked instruction. Readers may see two numbers of one moment a moment apart; no decision
//! rests on them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One number with a single writer.
#[derive(Debug, Default)]
pub struct Stat(AtomicU64);

impl Stat {
    /// Adds `n`. Only the core that owns the number calls this.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Sets a gauge. Only the core that owns the number calls this.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The number as it stands.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Whether a number only grows or goes both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatKind {
    /// Only grows.
    Counter,
    /// Goes both ways.
    Gauge,
}

/// Declares a struct of numbers, one [`Stat`] each, whose doc comments are their help texts.
#[macro_export]
macro_rules! stats {
    ($(#[$meta:meta])* $vis:vis struct $type:ident {
        $($(#[doc = $doc:literal])+ $kind:ident $name:ident;)+
    }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        $vis struct $type { $($(#[doc = $doc])+ pub $name: $crate::stats::Stat,)+ }

        impl $type {
            /// Calls `f(name, kind, help, value)` for every number, in the order of declaration.
            pub fn each(
                &self,
                mut f: impl FnMut(&'static str, $crate::stats::StatKind, &'static str, u64),
            ) {
                $(f(stringify!($name), $crate::stats::StatKind::$kind, concat!($($doc),+).trim(), self.$name.get());)+
            }
        }
    };
}

stats! {
/// The numbers of one core's runtime.
pub struct CoreStats {
    /// Turns of the core's loop.
    Counter turns;
    /// Times that the core went to sleep in its driver.
    Counter sleeps;
    /// Task polls.
    Counter task_polls;
    /// Tasks that panicked; each ended alone.
    Counter task_panics;
    /// Tasks alive.
    Gauge tasks;
    /// Wake-ups that came from another thread.
    Counter remote_wakes;
    /// Doorbells rung at another core.
    Counter doorbells_rung;
    /// 1 when the core runs on epoll because io_uring is not available, else 0.
    Gauge epoll_fallback;
    /// io_uring_enter calls.
    Counter ring_enters;
    /// Submission entries handed to the kernel.
    Counter ring_submissions;
    /// Completion entries taken from the ring.
    Counter ring_completions;
    /// Times that the submission queue was full and entries went to the backlog first.
    Counter ring_submission_full;
    /// Times that the kernel answered EBUSY to a submission; completions were taken first.
    Counter ring_busy;
    /// Times that the completion queue overflowed; the kernel keeps such completions, none is lost.
    Counter ring_completion_overflows;
    /// Completions whose error was EFAULT. Always 0, or a buffer was freed too early.
    Counter ring_faults;
    /// Operations in flight.
    Gauge ring_operations;
    /// Descriptors that wait to be closed, because one turn closes few.
    Gauge ring_closing;
    /// Receives that ended because no buffer was provided (ENOBUFS); each was armed again.
    Counter receive_starved;
    /// Receives that were stopped because their reader was slow.
    Counter receive_paused;
    /// Receives copied to the heap because the pool of buffers was nearly used up.
    Counter receive_spilled;
    /// Receive buffers mapped, lent to the kernel or not.
    Gauge receive_buffers;
    /// Receive buffers that the kernel may fill.
    Gauge receive_buffers_lent;
    /// Times that the receive pool grew.
    Counter receive_pool_grown;
    /// Times that the receive pool shrank.
    Counter receive_pool_shrunk;
    /// Send buffers in use.
    Gauge send_buffers;
    /// Turns that put off sends which follow others of their streams, because they had started enough of them.
    Counter sends_put_off;
    /// Accepts that failed for want of descriptors or memory (EMFILE, ENFILE, ENOBUFS, ENOMEM).
    Counter accept_exhausted;
    /// Datagrams that did not fit their buffer or carried a control message that we cannot read.
    Counter datagrams_malformed;
}
}
