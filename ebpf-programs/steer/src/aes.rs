//! AES-128 of a single block, for connection ids and for nothing else.
//!
//! # Why our own
//!
//! The decoder runs in BPF, on every QUIC packet. BPF has no AES instruction, and the kernel's own
//! AES is behind kfuncs, which programs written with aya cannot call yet. Without the instruction,
//! crates use a bitsliced form, which works on several blocks at once and wants a larger stack than
//! the 512 bytes of BPF. What remains are tables, 4.3 KiB of them. User space could do better, and
//! runs the same source all the same: one truth about what an id means is worth more than some
//! nanoseconds.
//!
//! # What tables give away
//!
//! The time of a look-up tells which cache line was touched, and so, to somebody who measures enough
//! decodes closely enough, the key. Therefore a key of this module must be good for nothing but
//! connection ids, which protect no data: payloads and their authenticity belong to TLS. Who learns
//! the key can link the ids of one connection across networks, count servers and cores, and make ids
//! that aim at one core, until the key is rotated ([`cid`](crate::cid)).
//!
//! # Invariants
//!
//! - No branch, no loop and no panic depends on key or data; indexes are bytes into tables of 256.
//! - Decrypting reads no static: its tables are an argument ([`AesTables`]), in BPF a map's value.
//! - Tables are computed from the definitions of FIPS 197, at compile time. None was typed in.
//!
//! Encrypting happens only where ids are issued, in user space. It is the plain form, byte by byte
//! as the standard tells it, and so the decoder's tables are checked against something readable.

#[cfg(test)]
mod tests;

use core::fmt;

/// Bytes of a block.
pub const BLOCK_LEN: usize = 16;

const ROUNDS: usize = 10;

/// One column of the state for each word, row 0 in its highest byte.
type Words = [u32; 4];

/// A key, expanded for both directions.
#[derive(Clone)]
#[repr(C)] // A part of `cid::Configs`, which user space writes and BPF reads.
pub struct AesKey {
    encrypt: [Words; ROUNDS + 1],
    decrypt: [Words; ROUNDS + 1],
}

impl AesKey {
    /// What stands where no key is: all bytes zero.
    pub(crate) const NONE: Self = Self { encrypt: [[0; 4]; ROUNDS + 1], decrypt: [[0; 4]; ROUNDS + 1] };

    /// Expands a key.
    pub const fn new(key: [u8; 16]) -> Self {
        let encrypt = expand(key);
        Self { encrypt, decrypt: invert(&encrypt) }
    }

    /// Encrypts one block.
    pub fn encrypt(&self, block: [u8; BLOCK_LEN]) -> [u8; BLOCK_LEN] {
        let [first, middle @ .., last] = &self.encrypt;
        let mut state = add(words(block), first);
        for key in middle {
            state = add(shift_rows(state.map(substitute)).map(mix), key);
        }
        bytes(add(shift_rows(state.map(substitute)), last))
    }

    /// Decrypts one block: the "equivalent inverse cipher" of FIPS 197, section 5.3.5.
    #[inline(always)]
    pub fn decrypt(&self, tables: &AesTables, block: [u8; BLOCK_LEN]) -> [u8; BLOCK_LEN] {
        // Line by line: a loop over keys in a map ends at a pointer, which no verifier can follow.
        let [k0, k1, k2, k3, k4, k5, k6, k7, k8, k9, k10] = &self.decrypt;
        let state = tables.round(add(words(block), k0), k1);
        let state = tables.round(tables.round(state, k2), k3);
        let state = tables.round(tables.round(state, k4), k5);
        let state = tables.round(tables.round(state, k6), k7);
        let state = tables.round(tables.round(state, k8), k9);
        bytes(tables.last_round(state, k10))
    }
}

/// Says that there is a key, not which.
impl fmt::Debug for AesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AesKey").finish_non_exhaustive()
    }
}

/// What decrypting looks up. In user space use [`AES_TABLES`].
#[derive(Clone)]
#[repr(C)] // A part of `table::Table`.
pub struct AesTables {
    /// For each row: what a byte there adds to its column, substituted and mixed.
    columns: [[u32; 256]; 4],
    inverse_sbox: [u8; 256],
}

/// The tables, once for the process.
pub static AES_TABLES: AesTables = AesTables::new();

// Four tables and not one with rotations: BPF has no rotate, and 4 KiB still fit into any L1 cache.
const _: () = assert!(size_of::<AesTables>() == 4 * 1024 + 256);

impl AesTables {
    /// Computes the tables.
    pub const fn new() -> Self {
        let mut tables = Self { columns: [[0; 256]; 4], inverse_sbox: [0; 256] };
        let mut byte = 0;
        while byte < 256 {
            tables.inverse_sbox[SBOX[byte] as usize] = byte as u8;
            let column = unmix_first((byte as u32) << 24);
            let mut row = 0;
            while row < 4 {
                tables.columns[row][SBOX[byte] as usize] = column.rotate_right(8 * row as u32);
                row += 1;
            }
            byte += 1;
        }
        tables
    }

    #[inline(always)]
    fn round(&self, state: Words, key: &Words) -> Words {
        let [rows_0, rows_1, rows_2, rows_3] = &self.columns;
        let columns = unshift_rows(state, |[a, b, c, d]| rows_0[a] ^ rows_1[b] ^ rows_2[c] ^ rows_3[d]);
        add(columns, key)
    }

    /// The last round mixes no columns.
    #[inline(always)]
    fn last_round(&self, state: Words, key: &Words) -> Words {
        let inverse = |byte: usize| self.inverse_sbox[byte];
        add(unshift_rows(state, |bytes| u32::from_be_bytes(bytes.map(inverse))), key)
    }
}

impl Default for AesTables {
    fn default() -> Self {
        Self::new()
    }
}

const SBOX: [u8; 256] = {
    let mut sbox = [0x63; 256];
    // The powers of 3 are all bytes but 0, and those of 0xf6, its inverse, are their inverses.
    let (mut byte, mut inverse) = (1_u8, 1_u8);
    let mut power = 0;
    while power < 255 {
        sbox[byte as usize] ^= inverse
            ^ inverse.rotate_left(1)
            ^ inverse.rotate_left(2)
            ^ inverse.rotate_left(3)
            ^ inverse.rotate_left(4);
        (byte, inverse) = (product(byte, 3), product(inverse, 0xf6));
        power += 1;
    }
    sbox
};

/// Twice a byte in GF(2⁸), that is modulo x⁸ + x⁴ + x³ + x + 1.
const fn double(byte: u8) -> u8 {
    (byte << 1) ^ ((byte >> 7) * 0x1b)
}

/// The product in GF(2⁸).
const fn product(mut a: u8, b: u8) -> u8 {
    let mut product = 0;
    let mut bit = 0;
    while bit < 8 {
        product ^= a * ((b >> bit) & 1);
        a = double(a);
        bit += 1;
    }
    product
}

/// One column of MixColumns: each byte becomes 2·itself + 3·the next + the other two.
fn mix(column: u32) -> u32 {
    let [a, b, c, d] = column.to_be_bytes();
    let all = a ^ b ^ c ^ d;
    column ^ u32::from_be_bytes([a ^ b, b ^ c, c ^ d, d ^ a].map(|pair| all ^ double(pair)))
}

/// One column of InvMixColumns: each byte becomes 14·itself + 11·the next + 13·the one after that +
/// 9·the last.
const fn unmix(column: u32) -> u32 {
    unmix_first(column)
        ^ unmix_first(column.rotate_left(8)).rotate_right(8)
        ^ unmix_first(column.rotate_left(16)).rotate_right(16)
        ^ unmix_first(column.rotate_left(24)).rotate_right(24)
}

/// What the highest byte of a column adds to the column that [`unmix`] makes.
const fn unmix_first(column: u32) -> u32 {
    let byte = (column >> 24) as u8;
    u32::from_be_bytes([product(byte, 14), product(byte, 9), product(byte, 13), product(byte, 11)])
}

const fn substitute(word: u32) -> u32 {
    let [a, b, c, d] = word.to_be_bytes();
    u32::from_be_bytes([SBOX[a as usize], SBOX[b as usize], SBOX[c as usize], SBOX[d as usize]])
}

fn shift_rows(state: Words) -> Words {
    let [a, b, c, d] = state.map(u32::to_be_bytes);
    [[a, b, c, d], [b, c, d, a], [c, d, a, b], [d, a, b, c]]
        .map(|[a, b, c, d]| u32::from_be_bytes([a[0], b[1], c[2], d[3]]))
}

/// Shifts the rows back, and makes each column with `column`.
#[inline(always)]
fn unshift_rows(state: Words, column: impl Fn([usize; 4]) -> u32) -> Words {
    let [a, b, c, d] = state;
    let row = |word: u32, row: u32| usize::from((word >> (24 - 8 * row)) as u8);
    [
        column([row(a, 0), row(d, 1), row(c, 2), row(b, 3)]),
        column([row(b, 0), row(a, 1), row(d, 2), row(c, 3)]),
        column([row(c, 0), row(b, 1), row(a, 2), row(d, 3)]),
        column([row(d, 0), row(c, 1), row(b, 2), row(a, 3)]),
    ]
}

#[inline(always)]
fn add([a, b, c, d]: Words, key: &Words) -> Words {
    [a ^ key[0], b ^ key[1], c ^ key[2], d ^ key[3]]
}

/// The key schedule of FIPS 197, section 5.2.
const fn expand(key: [u8; 16]) -> [Words; ROUNDS + 1] {
    let mut keys = [[0; 4]; ROUNDS + 1];
    keys[0] = words(key);
    let mut constant = 1;
    let mut round = 1;
    while round <= ROUNDS {
        let [a, b, c, d] = keys[round - 1];
        let a = a ^ substitute(d.rotate_left(8)) ^ ((constant as u32) << 24);
        let b = a ^ b;
        let c = b ^ c;
        keys[round] = [a, b, c, c ^ d];
        constant = product(constant, 2);
        round += 1;
    }
    keys
}

/// The schedule of the equivalent inverse cipher: from the end, unmixed but for the outer two.
const fn invert(encrypt: &[Words; ROUNDS + 1]) -> [Words; ROUNDS + 1] {
    let mut keys = *encrypt;
    keys.reverse();
    let mut round = 1;
    while round < ROUNDS {
        let [a, b, c, d] = keys[round];
        keys[round] = [unmix(a), unmix(b), unmix(c), unmix(d)];
        round += 1;
    }
    keys
}

#[inline(always)]
const fn words(block: [u8; BLOCK_LEN]) -> Words {
    let block = u128::from_be_bytes(block);
    [(block >> 96) as u32, (block >> 64) as u32, (block >> 32) as u32, block as u32]
}

#[inline(always)]
fn bytes(state: Words) -> [u8; BLOCK_LEN] {
    let [a, b, c, d] = state.map(u128::from);
    ((a << 96) | (b << 64) | (c << 32) | d).to_be_bytes()
}
