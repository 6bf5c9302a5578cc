//! The one door to a packet's bytes.
//!
//! What reads a packet is written once and runs in three places. In BPF the bytes lie between two pointers that the
//! verifier watches, and reading past the end must be a comparison that it understands; elsewhere they are a slice.

/// Bytes that came from the network. Numbers in them are big-endian.
pub trait Packet {
    /// The `N` bytes from `at` on; `None` if the packet is shorter, or the part of it that can be read here.
    ///
    /// Never a single byte: the compiler makes `at + 1 > end` into `at >= end`, from which the verifier learns nothing.
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]>;
}

impl Packet for [u8] {
    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        const { assert!(N > 1) }
        self.get(at..)?.first_chunk().copied()
    }
}
