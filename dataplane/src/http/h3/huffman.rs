//! The Huffman code of HPACK and QPACK (RFC 7541, appendix B), read only: what we send goes as it is, for it is little,
//! and coding it would cost more than its bytes.
//!
//! The code is canonical: among codes of one length, and from one length to the next, they count upwards in the order of
//! the symbols. So the lengths say it all, and a code is found by comparing it with the first one of its length.

/// The length of each symbol's code, in bits.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];
/// The longest code. The end of string is one: thirty ones.
const LENGTH_MAX: usize = 30;
/// Codes up to this length are looked up at once: those of all letters, digits and most of what else URLs have.
const SHORT: usize = 8;

/// Of each length: its first code, and where its symbols begin in the order of the codes.
const FIRST: [(u32, u16); LENGTH_MAX + 2] = {
    let mut first = [(0, 0); LENGTH_MAX + 2];
    let (mut length, mut code, mut at) = (1, 0, 0);
    while length <= LENGTH_MAX {
        first[length] = (code, at);
        let count = count(length);
        code = (code + count as u32) << 1;
        at += count;
        length += 1;
    }
    first[LENGTH_MAX + 1] = (0, at);
    first
};

/// The symbols in the order of their codes.
const SYMBOLS: [u8; 256] = {
    let mut symbols = [0; 256];
    let (mut at, mut length) = (0, 0);
    while length <= LENGTH_MAX {
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                symbols[at] = symbol as u8;
                at += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    symbols
};

/// What the next eight bits begin with: a symbol and the length of its code, which is 0 where that is longer.
const BY_PREFIX: [(u8, u8); 1 << SHORT] = {
    let mut table = [(0, 0); 1 << SHORT];
    let mut prefix = 0;
    while prefix < table.len() {
        let mut length = 1;
        while length <= SHORT {
            if let Some(symbol) = symbol((prefix >> (SHORT - length)) as u32, length) {
                table[prefix] = (symbol, length as u8);
                break;
            }
            length += 1;
        }
        prefix += 1;
    }
    table
};

const fn count(length: usize) -> u16 {
    let (mut count, mut symbol) = (0, 0);
    while symbol < LENGTHS.len() {
        count += (LENGTHS[symbol] as usize == length) as u16;
        symbol += 1;
    }
    count
}

/// The symbol with this code of this length.
const fn symbol(code: u32, length: usize) -> Option<u8> {
    let ((first, at), (_, end)) = (FIRST[length], FIRST[length + 1]);
    if code >= first && code - first < (end - at) as u32 {
        Some(SYMBOLS[at as usize + (code - first) as usize])
    } else {
        None
    }
}

/// The bits are no string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken;

/// Reads a string and appends it. It becomes at most 8/5 as long as its code.
pub(super) fn decode(mut code: &[u8], into: &mut Vec<u8>) -> Result<(), Broken> {
    // The bits that come next, from the highest on, and how many of them are of the string.
    let (mut bits, mut held) = (0_u64, 0_usize);
    into.reserve(code.len() * 8 / 5);
    loop {
        while held <= 56
            && let Some((byte, rest)) = code.split_first()
        {
            bits |= u64::from(*byte) << (56 - held);
            held += 8;
            code = rest;
        }
        let (symbol, length) = match BY_PREFIX[(bits >> (64 - SHORT)) as usize] {
            (symbol, length) if length > 0 => (symbol, usize::from(length)),
            _ => match (SHORT + 1..=LENGTH_MAX.min(held))
                .find_map(|length| Some((symbol_at(bits, length)?, length)))
            {
                Some(found) => found,
                None => break,
            },
        };
        if length > held {
            break;
        }
        into.push(symbol);
        bits <<= length;
        held -= length;
    }
    // What is left is the beginning of the end of string: fewer than eight ones (RFC 7541, 5.2).
    let padding = held < 8 && code.is_empty() && bits.leading_ones() as usize >= held;
    if padding { Ok(()) } else { Err(Broken) }
}

fn symbol_at(bits: u64, length: usize) -> Option<u8> {
    symbol((bits >> (64 - length)) as u32, length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(code: &[u8]) -> Result<Vec<u8>, Broken> {
        let mut string = Vec::new();
        decode(code, &mut string).map(|()| string)
    }

    /// A writer, bit by bit.
    fn write(string: &[u8]) -> Vec<u8> {
        let mut bits = Vec::new();
        for &byte in string {
            let length = usize::from(LENGTHS[usize::from(byte)]);
            let at = SYMBOLS.iter().position(|&symbol| symbol == byte).expect("all symbols have a code");
            let code = FIRST[length].0 + (at - usize::from(FIRST[length].1)) as u32;
            bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
        }
        bits.resize(bits.len().next_multiple_of(8), true);
        bits.chunks(8).map(|byte| byte.iter().fold(0, |byte, &bit| byte << 1 | u8::from(bit))).collect()
    }

    /// RFC 7541, appendix C.4 and C.6.
    #[test]
    fn the_examples_of_the_rfc() {
        let examples: [(&str, &[u8]); 5] = [
            ("www.example.com", &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff]),
            ("no-cache", &[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]),
            ("custom-value", &[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf]),
            ("302", &[0x64, 0x02]),
            (
                "https://www.example.com",
                &[
                    0x9d, 0x29, 0xad, 0x17, 0x18, 0x63, 0xc7, 0x8f, 0x0b, 0x97, 0xc8, 0xe9, 0xae, 0x82, 0xae,
                    0x43, 0xd3,
                ],
            ),
        ];
        for (string, code) in examples {
            assert_eq!(read(code).as_deref(), Ok(string.as_bytes()));
            assert_eq!(write(string.as_bytes()), code);
        }
    }

    #[test]
    fn codes_of_the_longest_length_are_those_of_the_rfc() {
        // 0x0a is 0x3ffffffc, 0x0d is 0x3ffffffd, 0x16 is 0x3ffffffe; the end of string is 0x3fffffff.
        assert_eq!(
            [0x3fff_fffc, 0x3fff_fffd, 0x3fff_fffe].map(|code| symbol(code, 30)),
            [Some(10), Some(13), Some(22)]
        );
        assert_eq!(symbol(0x3fff_ffff, 30), None);
    }

    #[test]
    fn the_end_of_string_and_bad_padding_are_no_strings() {
        assert_eq!(read(&[0xff; 4]), Err(Broken), "the end of string itself");
        assert_eq!(read(&[0xff]), Err(Broken), "eight bits of padding");
        assert_eq!(read(&[0b0000_0000]), Err(Broken), "0, and padding of zeros");
        assert_eq!(read(&[0b0000_0111]), Ok(b"0".to_vec()));
        assert_eq!(read(&[]), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(string in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(read(&write(&string)), Ok(string));
        }

        #[test]
        fn any_bits_are_read_without_panic(code in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(string) = read(&code) {
                prop_assert!(string.len() <= code.len() * 8 / 5);
                prop_assert_eq!(write(&string), code);
            }
        }
    }
}
