//! Flows: who speaks with whom, and the keyed hash by which a flow without a connection id is steered.
//!
//! The hash is SipHash-1-3 under a key of the site: whoever does not know the key cannot aim at one server or core by
//! choosing addresses and ports. It is a hash of bytes in the order in which the packet of a client carries them, so
//! that anybody with the key can compute it: other nodes, and those that look for a source port whose replies come
//! back to them.
//!
//! ```text
//!   IPv4   source 4 · destination 4  · source port 2 · destination port 2 · protocol 1     13 bytes
//!   IPv6   source 16 · destination 16 · source port 2 · destination port 2 · protocol 1    37 bytes
//! ```
//!
//! Fragments carry no ports but in the first one; all of them are hashed with both ports zero, and so reach one place.

/// The key of the hash, two words as SipHash defines them.
#[derive(Clone, Copy)]
#[repr(C)] // A part of `table::Table`.
pub struct HashKey([u64; 2]);

impl HashKey {
    /// The key with these bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        let both = u128::from_le_bytes(bytes);
        Self([both as u64, (both >> 64) as u64])
    }
}

/// Two addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Addresses {
    /// IPv4.
    V4 {
        /// Who sent it.
        source: [u8; 4],
        /// To whom.
        destination: [u8; 4],
    },
    /// IPv6.
    V6 {
        /// Who sent it.
        source: [u8; 16],
        /// To whom.
        destination: [u8; 16],
    },
}

/// A flow, as its client's packets carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// From the client to us.
    pub addresses: Addresses,
    /// The client's port.
    pub source_port: u16,
    /// Ours.
    pub destination_port: u16,
    /// IP's number of the protocol.
    pub protocol: u8,
}

impl Addresses {
    /// The addresses of the answer.
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        match self {
            Self::V4 { source, destination } => Self::V4 { source: destination, destination: source },
            Self::V6 { source, destination } => Self::V6 { source: destination, destination: source },
        }
    }

    /// The destination as one word, IPv4 in IPv6's form for it.
    #[inline(always)]
    pub const fn destination(self) -> u128 {
        match self {
            Self::V4 { destination, .. } => mapped(destination),
            Self::V6 { destination, .. } => u128::from_be_bytes(destination),
        }
    }
}

/// An IPv4 address as IPv6 writes it: `::ffff:a.b.c.d`.
#[inline(always)]
pub const fn mapped(address: [u8; 4]) -> u128 {
    0xffff_0000_0000 | u32::from_be_bytes(address) as u128
}

impl Flow {
    /// The hash of the flow.
    #[inline(always)]
    pub fn hash(&self, key: &HashKey) -> u64 {
        // SipHash reads words with their first byte lowest.
        let ports =
            u64::from(self.source_port.swap_bytes()) | u64::from(self.destination_port.swap_bytes()) << 16;
        let tail = ports | u64::from(self.protocol) << 32;
        let mut state = Sip::new(key);
        let length = match self.addresses {
            Addresses::V4 { source, destination } => {
                let [source, destination] = [source, destination].map(u32::from_le_bytes).map(u64::from);
                state.take(source | destination << 32);
                13
            }
            Addresses::V6 { source, destination } => {
                let [source, destination] = [source, destination].map(u128::from_le_bytes);
                state.take(source as u64);
                state.take((source >> 64) as u64);
                state.take(destination as u64);
                state.take((destination >> 64) as u64);
                37
            }
        };
        state.finish(tail, length)
    }
}

/// SipHash-1-3: SipHash (Aumasson and Bernstein, 2012) with one round a word and three at the end, as the hash tables of
/// Rust, Python and Ruby have it.
struct Sip([u64; 4]);

impl Sip {
    #[inline(always)]
    fn new(HashKey([k0, k1]): &HashKey) -> Self {
        Self([
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ])
    }

    #[inline(always)]
    fn take(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.0[0] ^= word;
    }

    /// Takes the last bytes, fewer than eight, and the length of all; gives the hash.
    #[inline(always)]
    fn finish(mut self, tail: u64, length: u8) -> u64 {
        self.take(tail | u64::from(length) << 56);
        self.0[2] ^= 0xff;
        self.round();
        self.round();
        self.round();
        let [v0, v1, v2, v3] = self.0;
        v0 ^ v1 ^ v2 ^ v3
    }

    #[inline(always)]
    fn round(&mut self) {
        let [mut v0, mut v1, mut v2, mut v3] = self.0;
        v0 = v0.wrapping_add(v1);
        v2 = v2.wrapping_add(v3);
        v1 = v1.rotate_left(13) ^ v0;
        v3 = v3.rotate_left(16) ^ v2;
        v0 = v0.rotate_left(32).wrapping_add(v3);
        v2 = v2.wrapping_add(v1);
        v3 = v3.rotate_left(21) ^ v0;
        v1 = v1.rotate_left(17) ^ v2;
        v2 = v2.rotate_left(32);
        self.0 = [v0, v1, v2, v3];
    }
}
