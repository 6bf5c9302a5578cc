//! Connection ids: the 17 bytes by which every later packet of a QUIC connection names the server,
//! core and generation that hold the connection.
//!
//! A client may change its address and port in the middle of a connection, so these tell nothing
//! about where its packets belong. The id does: the endpoint that issues it writes its own
//! [`Destination`] into it, and whoever steers reads that back without any table of connections.
//!
//! ```text
//!   octet   0          1     2    3      4             5                16
//!         ┌───┬───────┬──────────┬──────┬──────┬──────┬──────────────────┐
//!         │ 3 │   5   │    16    │   8  │   4  │   4  │        96        │ bits
//!         ├───┼───────┼──────────┼──────┼──────┼──────┼──────────────────┤
//!         │cfg│length │  server  │ core │ gen. │check │      nonce       │
//!         └───┴───────┴──────────┴──────┴──────┴──────┴──────────────────┘
//!          first octet  `Plaintext`: as it stands · `Encrypted`: one AES-128 block
//! ```
//!
//! The first octet is that of draft-ietf-quic-load-balancers ("QUIC-LB"): the [`Codepoint`] of the
//! config, and the number of bytes that follow. So is the encryption of exactly 16 bytes ("Special
//! Case: Single Pass Encryption"). To the draft they are a server id and a nonce; what is inside of
//! these it leaves to us.
//!
//! # Configs
//!
//! A [`Config`] says how the ids of one codepoint are made; [`Configs`] is the table of all seven, so
//! that old and new keys are both read while they are rotated. First all decoders learn a new config,
//! then the issuers use it; the old one goes when no connection has an id of it any more, and only
//! then is its codepoint free again. All configs share one length: a short header does not tell it.
//!
//! All of the destination is inside the encrypted block. With the core outside, two cores of a server
//! that use one nonce would make the same block, and an observer would see that they belong together.
//!
//! # The check
//!
//! All 32 nibbles of the clear block, check included, xor to [`CHECK_FOLD`]. It is against chance: a
//! random block passes once in 16, and a block with one nibble changed never does. It is not against
//! malice. Under `Plaintext` anybody can write an id. Under `Encrypted` nobody without the key can
//! choose a destination, other than by sending an id again that was issued; but one in 16 guesses
//! decodes to *some* destination. So a destination proves nothing about its sender.
//!
//! # How often a random id decodes
//!
//! Clients make up the first id of a connection; the draft asks that it is rarely taken for ours.
//!
//! - Of 8 bytes, as most clients send: **never**. Its length is in the long header.
//! - Of 17 random bytes: it needs a config in use, the length bits, and the check, in any layout,
//!   since what AES makes of a random block is random:
//!
//!   ```text
//!   configs / 2³  ·  1 / 2⁵  ·  1 / 2⁴  =  configs / 4096
//!   ```
//!
//!   and then a destination that is alive, which the caller checks:
//!
//!   ```text
//!   configs / 4096  ·  servers / 2¹⁶  ·  cores / 2⁸  ·  generations / 2⁴
//!   ```
//!
//! | configs in use | servers | cores | generations alive | share of random ids |
//! |---|---|---|---|---|
//! | 1 | 64 | 16 | 1 | 2⁻³⁰ ≈ 9·10⁻¹⁰ |
//! | 2, in rotation | 64 | 16 | 2, in an upgrade | 2⁻²⁸ ≈ 4·10⁻⁹ |
//! | 7 | 65,536 | 256 | 16 | 7 / 4096 ≈ 2·10⁻³: the worst |
//!
//! In the second row, a flood of a million made-up ids of 17 bytes in a second gets one through in
//! about four and a half minutes. One that gets through goes to a core that does not know it, as any
//! first packet might.
//!
//! # Invariants
//!
//! - No bytes make [`Configs::decode`] panic; it has no loop that depends on them.
//! - Under one config, ids are equal only when destination and nonce are.
//!
//! # What it leaves to others
//!
//! - Whether the destination is **alive**: every server, core and generation decodes. The caller knows
//!   which exist, and must look before it indexes anything with them.
//! - The nonce: it is never used twice with one destination and config. Under `Plaintext` it is seen,
//!   so a counter shows which ids belong together.
//! - Where keys come from and when they are rotated. A key is for connection ids alone ([`aes`]).
//!
//! [`aes`]: crate::aes

#[cfg(test)]
mod tests;

use crate::aes::{AesKey, AesTables, BLOCK_LEN};

/// Bytes of every connection id that we issue.
pub const CID_LEN: usize = 1 + BLOCK_LEN;

/// Bytes of the nonce.
pub const NONCE_LEN: usize = 12;

/// What all nibbles of a clear block xor to.
///
/// Not 0, which is the fold of every block whose halves are equal, above all of bytes that are all
/// zero or all the same; and of the other values the one that a counter in such bytes reaches last.
pub const CHECK_FOLD: u8 = 0xf;

/// The first octet's length bits: the bytes that follow it.
const LENGTH_BITS: u8 = BLOCK_LEN as u8;
const LENGTH_MASK: u8 = 0b1_1111;
const _: () = assert!(LENGTH_BITS & !LENGTH_MASK == 0, "the length fits into its bits");

/// Where the packets of a connection belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The number of the node in its site.
    pub server: u16,
    /// The core of the node.
    pub core: u8,
    /// The sockets that the connection came in on.
    pub generation: Generation,
}

/// One set of sockets of the data plane: 0 to 15.
///
/// Four bits, since generations overlap only while connections of the older one live: two in an
/// upgrade, some more when upgrades come faster than connections end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u8);

impl Generation {
    /// How many there are.
    pub const COUNT: usize = 16;

    /// The one that a node begins with.
    pub const FIRST: Self = Self(0);

    /// `None` beyond 15.
    pub const fn new(number: u8) -> Option<Self> {
        if (number as usize) < Self::COUNT { Some(Self(number)) } else { None }
    }

    /// Its number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// Which config made an id: its three highest bits, 0 to 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Codepoint(u8);

impl Codepoint {
    /// How many there are. The eighth value, `0b111`, is the draft's mark of ids that are to be
    /// steered as if they were random.
    pub const COUNT: usize = 7;

    /// `None` beyond 6.
    pub const fn new(number: u8) -> Option<Self> {
        if (number as usize) < Self::COUNT { Some(Self(number)) } else { None }
    }

    /// Its number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// How the ids of one codepoint are made.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is no heap to put keys on")]
pub enum Config {
    /// Not at all: the codepoint is not in use.
    Absent,
    /// In clear. For debugging: it shows which ids belong together, and lets clients choose a core.
    Plaintext,
    /// Encrypted as one block.
    Encrypted(AesKey),
}

/// The config of each codepoint.
#[derive(Clone, Debug)]
#[repr(C)] // A part of `table::Table`: user space writes it, BPF reads it.
pub struct Configs {
    configs: [Stored; Codepoint::COUNT],
}

/// A [`Config`] in which every byte is written: an enum leaves some out.
#[derive(Clone, Debug)]
#[repr(C)]
struct Stored {
    /// [`ABSENT`](Self::ABSENT), as all that was never written, or one of the others.
    kind: u32,
    /// Zero unless encrypted.
    key: AesKey,
}

impl Stored {
    const ABSENT: Self = Self { kind: 0, key: AesKey::NONE };
    const PLAINTEXT: u32 = 1;
    const ENCRYPTED: u32 = 2;
}

// A kind and two schedules of 11 round keys each, without padding.
const _: () = assert!(size_of::<Configs>() == Codepoint::COUNT * (4 + 2 * 11 * BLOCK_LEN));

impl Configs {
    /// No codepoint is in use, and so every id is unroutable.
    pub const fn new() -> Self {
        Self { configs: [Stored::ABSENT; Codepoint::COUNT] }
    }

    /// Puts the config of a codepoint in place of the one that was there.
    pub fn set(&mut self, codepoint: Codepoint, config: Config) {
        self.configs[usize::from(codepoint.0)] = match config {
            Config::Absent => Stored::ABSENT,
            Config::Plaintext => Stored { kind: Stored::PLAINTEXT, ..Stored::ABSENT },
            Config::Encrypted(key) => Stored { kind: Stored::ENCRYPTED, key },
        };
    }

    /// Makes the id of a destination; `None` when the codepoint is not in use.
    ///
    /// A nonce is used once with one destination and config.
    pub fn encode(
        &self,
        codepoint: Codepoint,
        destination: Destination,
        nonce: [u8; NONCE_LEN],
    ) -> Option<ConnectionId> {
        let clear = write(destination, nonce);
        let config = &self.configs[usize::from(codepoint.0)];
        let block = match config.kind {
            Stored::PLAINTEXT => clear,
            Stored::ENCRYPTED => config.key.encrypt(clear),
            _ => return None,
        };
        let mut id = [(codepoint.0 << 5) | LENGTH_BITS; CID_LEN];
        id[1..].copy_from_slice(&block);
        Some(ConnectionId(id))
    }

    /// Reads the destination out of an id that a peer sent. It may be one that is not alive.
    #[inline(always)]
    pub fn decode(&self, tables: &AesTables, id: &[u8]) -> Result<Routable, Unroutable> {
        match <[u8; CID_LEN]>::try_from(id) {
            Ok(id) => self.decode_candidate(tables, Candidate::new(id)),
            Err(_) => Err(Unroutable::Length),
        }
    }

    /// The same of bytes that have the length of an id.
    #[inline(always)]
    pub fn decode_candidate(&self, tables: &AesTables, id: Candidate) -> Result<Routable, Unroutable> {
        let Candidate { first, block } = id;
        let block = block.to_ne_bytes();
        let Some(codepoint) = Codepoint::new(first >> 5) else { return Err(Unroutable::Reserved) };
        // Before the config, so that an unknown one tells of ids that look like ours: a key that some
        // of our servers have and this one lacks.
        if first & LENGTH_MASK != LENGTH_BITS {
            return Err(Unroutable::LengthBits);
        }
        // `get`, although the codepoint is in bounds: no panic may be left for the verifier to see.
        let config = self.configs.get(usize::from(codepoint.0)).ok_or(Unroutable::UnknownConfig)?;
        let clear = match config.kind {
            Stored::PLAINTEXT => block,
            Stored::ENCRYPTED => config.key.decrypt(tables, block),
            _ => return Err(Unroutable::UnknownConfig),
        };
        let destination = read(clear).ok_or(Unroutable::Check)?;
        let [_, _, _, _, nonce @ ..] = clear;
        Ok(Routable { destination, codepoint, nonce })
    }
}

impl Default for Configs {
    fn default() -> Self {
        Self::new()
    }
}

/// Bytes of a packet that have the length of an id.
///
/// They are kept as numbers: a compiler that puts 17 bytes on the stack reads them from there in words, at addresses
/// that the verifier refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    first: u8,
    block: u128,
}

impl Candidate {
    /// These bytes.
    #[inline(always)]
    pub const fn new([first, block @ ..]: [u8; CID_LEN]) -> Self {
        Self { first, block: u128::from_ne_bytes(block) }
    }
}

/// An id that we made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId([u8; CID_LEN]);

impl ConnectionId {
    /// The bytes as they are sent.
    pub const fn as_bytes(&self) -> &[u8; CID_LEN] {
        &self.0
    }
}

/// What an id says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routable {
    /// Where its packet belongs, if that is alive.
    pub destination: Destination,
    /// The config that made it.
    pub codepoint: Codepoint,
    /// What its maker put there.
    pub nonce: [u8; NONCE_LEN],
}

/// Why an id says nothing, in the order in which it is found out.
///
/// It is a reason to count, and no error to report: the first packet of every connection has an id
/// that its client made up, and is steered by its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unroutable {
    /// It has not [`CID_LEN`] bytes.
    Length,
    /// Its config bits are `0b111`.
    Reserved,
    /// It has [`CID_LEN`] bytes, and its first octet tells another number.
    LengthBits,
    /// Its codepoint is not in use.
    UnknownConfig,
    /// The check fails: it was made up, damaged, or made with another key.
    Check,
}

fn write(destination: Destination, nonce: [u8; NONCE_LEN]) -> [u8; BLOCK_LEN] {
    let mut clear = [0; BLOCK_LEN];
    clear[..2].copy_from_slice(&destination.server.to_be_bytes());
    clear[2] = destination.core;
    clear[3] = destination.generation.0 << 4;
    clear[4..].copy_from_slice(&nonce);
    clear[3] |= fold(clear) ^ CHECK_FOLD;
    clear
}

#[inline(always)]
fn read(clear: [u8; BLOCK_LEN]) -> Option<Destination> {
    if fold(clear) != CHECK_FOLD {
        return None;
    }
    let [server_high, server_low, core, generation_check, ..] = clear;
    Some(Destination {
        server: u16::from_be_bytes([server_high, server_low]),
        core,
        generation: Generation(generation_check >> 4),
    })
}

/// The xor of all nibbles: the order of the bytes does not matter.
#[inline(always)]
fn fold(block: [u8; BLOCK_LEN]) -> u8 {
    let block = u128::from_ne_bytes(block);
    let mut fold = ((block >> 64) as u64) ^ (block as u64);
    fold ^= fold >> 32;
    fold ^= fold >> 16;
    fold ^= fold >> 8;
    fold ^= fold >> 4;
    fold as u8 & 0xf
}
