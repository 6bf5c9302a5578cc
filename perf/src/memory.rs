//! Memory of a server and of the kernel for it, at one moment.
//!
//! What one idle connection costs is the growth between two samples divided by the connections. The server's part
//! is proportional set size (pages that several of its processes share count once) plus page tables: 10,000
//! scattered buffers cost tables too, and RSS alone hides them. Sockets are not in RSS; the kernel's slab and TCP
//! buffers are reported apart, for the whole machine and so for both ends of each loopback connection. They also
//! hold what a ring keeps per armed operation, so a server cannot hide memory there unseen.

use std::fs;

use crate::cpu::{CpuError, Tree};
use crate::sys::Pid;

/// Bytes at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Proportional set size of the tree.
    pub(crate) pss: u64,
    /// Lowest-level page tables of the tree.
    pub(crate) page_tables: u64,
    /// Slab of the whole machine.
    pub(crate) slab: u64,
    /// TCP buffer memory of the whole machine.
    pub(crate) tcp_buffers: u64,
}

impl Memory {
    pub(crate) fn of(tree: Tree) -> Result<Self, CpuError> {
        let mut memory = Self {
            slab: kib(&read("/proc/meminfo")?, "Slab:"),
            tcp_buffers: parse_tcp_pages(&read("/proc/net/sockstat")?) * PAGE,
            ..Self::default()
        };
        for pid in tree.pids()? {
            memory.add_process(pid)?;
        }
        Ok(memory)
    }

    fn add_process(&mut self, pid: Pid) -> Result<(), CpuError> {
        self.pss += kib(&read(&format!("/proc/{pid}/smaps_rollup"))?, "Pss:");
        self.page_tables += kib(&read(&format!("/proc/{pid}/status"))?, "VmPTE:");
        Ok(())
    }

    /// The server's own: what the figures judge.
    pub(crate) fn own(&self) -> u64 {
        self.pss + self.page_tables
    }
}

/// `/proc/net/sockstat` counts in pages of this size on the machines that we run on (x86-64, arm64 with 4 KiB pages).
const PAGE: u64 = 4096;

/// The value of a `Name:   123 kB` line in bytes; 0 when the kernel does not have it.
fn kib(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.split_ascii_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

fn parse_tcp_pages(sockstat: &str) -> u64 {
    sockstat
        .lines()
        .find_map(|line| line.strip_prefix("TCP:")?.split_once(" mem ")?.1.trim().parse().ok())
        .unwrap_or(0)
}

fn read(path: &str) -> Result<String, CpuError> {
    fs::read_to_string(path).map_err(|source| CpuError::Proc { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_in_kib_become_bytes_and_names_match_whole() {
        let rollup =
            "55d0-7ff0 ---p 00000000 00:00 0 [rollup]\nRss:     1200 kB\nPss:      700 kB\nPss_Anon: 5 kB\n";
        assert_eq!(kib(rollup, "Pss:"), 700 * 1024);
        assert_eq!(kib(rollup, "Rss:"), 1200 * 1024);
        assert_eq!(kib(rollup, "VmPTE:"), 0);
    }

    #[test]
    fn tcp_pages_are_the_last_column_of_the_tcp_line() {
        let sockstat = "sockets: used 12\nTCP: inuse 4 orphan 0 tw 1 alloc 5 mem 17\nUDP: inuse 0 mem 3\n";
        assert_eq!(parse_tcp_pages(sockstat), 17);
    }

    #[test]
    fn touched_memory_shows_up() {
        let sample = || {
            let mut memory = Memory::default();
            memory.add_process(std::process::id() as Pid).unwrap();
            memory
        };
        let before = sample();
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = sample();
        // Other tests fork this process meanwhile, which shares the pages: so not the whole of it.
        assert!(after.own() - before.own() > 8 << 20, "{before:?} {after:?}");
        drop(block);
    }
}
