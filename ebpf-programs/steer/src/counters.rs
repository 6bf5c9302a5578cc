//! What the programs count: one value of these for each CPU, in a map.
//!
//! A packet adds one to the counter of its [`Reason`], and one to that of what became of it.

use crate::decide::Reason;

/// Reasons that are counted.
pub const REASONS: usize = Reason::ALL.len();

/// What the XDP program counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)] // BPF writes it, user space reads it.
pub struct XdpCounters {
    /// Packets by reason.
    pub reasons: [u64; REASONS],
    /// Packets of ours that came in on the CPU of their core.
    pub kept: u64,
    /// Packets of ours that were sent on to the CPU of their core.
    pub moved: u64,
    /// Packets of ours whose CPU takes none: they went on where they were.
    pub not_moved: u64,
    /// Packets of another server.
    pub elsewhere: u64,
}

/// What the reuseport programs count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)] // BPF writes it, user space reads it.
pub struct SocketCounters {
    /// Datagrams (or trains of them) and new connections by reason.
    pub reasons: [u64; REASONS],
    /// Those that got the socket of their core.
    pub chosen: u64,
    /// Those whose core has no socket here: they got that of their flow's.
    pub empty: u64,
    /// Those for which no socket was found: the kernel chose one.
    pub left: u64,
}
