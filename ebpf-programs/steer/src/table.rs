//! The table: all that a decision looks at, one value of one map.
//!
//! The planner makes a whole new table for every change, and the executor puts it in place of the old one with one
//! write; so a packet is decided by the old table or by the new one, and never by halves of both.
//!
//! Its bytes are the agreement between who writes it and the programs that read it: [`LAYOUT`] is their version, and
//! all bytes zero is a table that steers nothing.

use crate::aes::AesTables;
use crate::cid::{Configs, Generation};
use crate::flow::HashKey;
use crate::maglev::Ring;

/// The version of the table's bytes. Whoever changes them adds one: pinned maps of another layout are not used.
pub const LAYOUT: u32 = 2;

/// Cores of a node that can be named.
pub const CORES_MAX: usize = 256;

/// Servers of a site that can be named.
pub const SERVERS_MAX: usize = 1 << 16;

/// Addresses of a node.
pub const ADDRESSES_MAX: usize = 128;

/// Slots for the addresses: eight for each, so that a seed without collisions is found soon (about one in 3,000 fits
/// for 128 random addresses).
const ADDRESS_SLOTS: usize = 1 << ADDRESS_BITS;
const ADDRESS_BITS: u32 = 10;

/// What a decision looks at.
#[derive(Clone)]
#[repr(C)] // User space writes it, BPF reads it.
pub struct Table {
    /// The number of the desired state that this was made from.
    pub version: u64,
    /// The key of the hash of flows.
    pub hash_key: HashKey,
    /// The number of this node in its site.
    pub server: u16,
    /// The generation that takes new flows.
    generation: u8,
    unused: [u8; 5],
    /// The node's own addresses.
    pub addresses: AddressSet,
    /// The servers of the site: a bit for each.
    servers: [u64; SERVERS_MAX / 64],
    /// The CPU of each core of each generation, plus one; zero: there is no such core.
    cpus: [[u16; CORES_MAX]; Generation::COUNT],
    /// How connection ids are read.
    pub configs: Configs,
    /// What reading them looks up.
    pub aes: AesTables,
    /// Where flows go that no id places.
    pub ring: Ring,
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

impl Table {
    /// A table that steers nothing. It has 175 KB: put it into a box at once.
    pub const fn new() -> Self {
        Self {
            version: 0,
            hash_key: HashKey::new([0; 16]),
            server: 0,
            generation: 0,
            unused: [0; 5],
            addresses: AddressSet::new(),
            servers: [0; SERVERS_MAX / 64],
            cpus: [[0; CORES_MAX]; Generation::COUNT],
            configs: Configs::new(),
            aes: AesTables::new(),
            ring: Ring::new(),
        }
    }

    /// The generation that takes new flows.
    #[inline(always)]
    pub fn generation(&self) -> Generation {
        Generation::new(self.generation & 0xf).unwrap_or(Generation::FIRST)
    }

    /// From now on `generation` takes new flows.
    pub fn set_generation(&mut self, generation: Generation) {
        self.generation = generation.get();
    }

    /// The CPU of a core, if there is one.
    #[inline(always)]
    pub fn cpu(&self, generation: Generation, core: u8) -> Option<u16> {
        let cpus = self.cpus.get(usize::from(generation.get()))?;
        cpus.get(usize::from(core))?.checked_sub(1)
    }

    /// Says on which CPU a core runs, or that there is no such core.
    pub fn set_cpu(&mut self, generation: Generation, core: u8, cpu: Option<u16>) {
        let place = &mut self.cpus[usize::from(generation.get())][usize::from(core)];
        *place = cpu.map_or(0, |cpu| cpu + 1);
    }

    /// Whether a server is one of the site.
    #[inline(always)]
    pub fn knows_server(&self, server: u16) -> bool {
        let word = self.servers.get(usize::from(server / 64)).copied().unwrap_or(0);
        word >> (server % 64) & 1 == 1
    }

    /// Adds a server of the site.
    pub fn add_server(&mut self, server: u16) {
        self.servers[usize::from(server / 64)] |= 1 << (server % 64);
    }
}

/// The place of a socket in the array that the reuseport program picks from. The stride never changes, so that cores
/// can come and go without moving anybody.
#[inline(always)]
pub const fn slot(generation: Generation, core: u8) -> u32 {
    generation.get() as u32 * CORES_MAX as u32 + core as u32
}

/// Sockets that one array can hold.
pub const SLOTS: u32 = (Generation::COUNT * CORES_MAX) as u32;

/// A set of addresses, in which one look tells whether an address is there.
///
/// Each address has a slot of its own: the seed was searched for.
#[derive(Clone)]
#[repr(C)]
pub struct AddressSet {
    seed: u64,
    slots: [[u64; 2]; ADDRESS_SLOTS],
}

/// Why a set of addresses cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadAddresses {
    /// More than [`ADDRESSES_MAX`].
    TooMany,
    /// One stands twice, or is the unspecified address.
    Unusable,
    /// No seed was found. It does not happen by chance.
    NoSeed,
}

/// Seeds that are tried: with 128 addresses, all fail once in e³⁰⁰.
const SEEDS: u64 = 1_000_000;

impl Default for AddressSet {
    fn default() -> Self {
        Self::new()
    }
}

impl AddressSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self { seed: 0, slots: [[0; 2]; ADDRESS_SLOTS] }
    }

    /// Whether it holds an address, IPv4 in IPv6's form ([`mapped`](crate::flow::mapped)).
    #[inline(always)]
    pub fn contains(&self, address: u128) -> bool {
        let words = halves(address);
        self.slots.get(slot_of(words, self.seed)).is_some_and(|slot| *slot == words) && address != 0
    }

    /// Holds these addresses and no others. On an error the set is empty.
    pub fn set(&mut self, addresses: &[u128]) -> Result<(), BadAddresses> {
        self.slots = [[0; 2]; ADDRESS_SLOTS];
        if addresses.len() > ADDRESSES_MAX {
            return Err(BadAddresses::TooMany);
        }
        let stands_twice = |at: usize| addresses[..at].contains(&addresses[at]);
        if addresses.contains(&0) || (0..addresses.len()).any(stands_twice) {
            return Err(BadAddresses::Unusable);
        }
        for try_ in 1..=SEEDS {
            // Odd multiples of the golden ratio: spread over all words, and the same on every run.
            let seed = try_.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            self.slots = [[0; 2]; ADDRESS_SLOTS];
            let fits = addresses.iter().all(|address| {
                let words = halves(*address);
                let slot = &mut self.slots[slot_of(words, seed)];
                let free = *slot == [0; 2];
                *slot = words;
                free
            });
            if fits {
                self.seed = seed;
                return Ok(());
            }
        }
        self.slots = [[0; 2]; ADDRESS_SLOTS];
        Err(BadAddresses::NoSeed)
    }
}

#[inline(always)]
const fn halves(address: u128) -> [u64; 2] {
    [(address >> 64) as u64, address as u64]
}

/// The high bits of a product depend on all bits of its factors. The high half of an address comes in rotated, or two
/// networks with the same hosts would collide under every seed.
#[inline(always)]
const fn slot_of([high, low]: [u64; 2], seed: u64) -> usize {
    ((low ^ high.wrapping_mul(seed) >> 7).wrapping_mul(seed) >> (64 - ADDRESS_BITS)) as usize
}

// Bytes that nobody named would be left to the compiler: there are none.
const _: () = assert!(
    size_of::<Table>()
        == 32
            + size_of::<AddressSet>()
            + SERVERS_MAX / 8
            + 2 * CORES_MAX * Generation::COUNT
            + size_of::<Configs>()
            + size_of::<AesTables>()
            + size_of::<Ring>()
);
