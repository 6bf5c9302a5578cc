//! Field sections of QPACK (RFC 9204) without the dynamic table: what we offer has no room, and we use none of others.
//!
//! So nothing is kept between sections, no section waits for another stream, and of the instruction streams the client's
//! may say one thing only (see `frames`), and ours are not opened (RFC 9204, 4.2).

use super::huffman;
use super::static_table::{self, FIELDS, Found};

/// A name or a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text<'a> {
    /// Of the static table's field with this number.
    Static(usize),
    /// As it was sent.
    Sent(&'a [u8]),
}

/// The section cannot be read: QPACK_DECOMPRESSION_FAILED, an error of the whole connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Undecodable;

impl From<huffman::Broken> for Undecodable {
    fn from(_: huffman::Broken) -> Self {
        Self
    }
}

/// Why reading ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended<E> {
    /// The section cannot be read.
    Undecodable,
    /// Who looks at the fields wants no more.
    By(E),
}

impl<E> From<Undecodable> for Ended<E> {
    fn from(_: Undecodable) -> Self {
        Self::Undecodable
    }
}

/// Reads a section; `each` sees its fields in order, and may end it.
pub(super) fn decode<E>(
    section: &[u8],
    mut each: impl FnMut(Text<'_>, Text<'_>) -> Result<(), E>,
) -> Result<(), Ended<E>> {
    let mut input = Input(section);
    // Of the prefix: an insert count beyond 0 speaks of a table that we do not have, and so does a base below 0.
    let (_, inserts) = input.integer(8)?;
    let (sign, _) = input.integer(7)?;
    if inserts != 0 || sign & 1 != 0 {
        return Err(Ended::Undecodable);
    }
    let (mut name_space, mut value_space) = (Vec::new(), Vec::new());
    while let Some(first) = input.0.first() {
        let (name, value) = match first >> 4 {
            // Indexed, static.
            0b1100.. => {
                let index = input.index(6)?;
                (Text::Static(index), Text::Static(index))
            }
            // A literal with the name of a static field.
            0b0101 | 0b0111 => (Text::Static(input.index(4)?), input.string(7, &mut value_space)?),
            // A literal.
            0b0010 | 0b0011 => (input.string(3, &mut name_space)?, input.string(7, &mut value_space)?),
            // All others refer to the dynamic table.
            _ => return Err(Ended::Undecodable),
        };
        each(name, value).map_err(Ended::By)?;
    }
    Ok(())
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// An integer whose first byte has so many bits of it (RFC 7541, 5.1), and the bits above these.
    fn integer(&mut self, bits: u32) -> Result<(u8, usize), Undecodable> {
        let mask = ((1_u32 << bits) - 1) as u8;
        let first = self.byte()?;
        let above = if bits == 8 { 0 } else { first >> bits };
        let mut value = usize::from(first & mask);
        if value < usize::from(mask) {
            return Ok((above, value));
        }
        // Four more bytes are room for all that fits into a section.
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((above, value));
            }
        }
        Err(Undecodable)
    }

    fn byte(&mut self) -> Result<u8, Undecodable> {
        let (first, rest) = self.0.split_first().ok_or(Undecodable)?;
        self.0 = rest;
        Ok(*first)
    }

    /// The number of a field of the static table.
    fn index(&mut self, bits: u32) -> Result<usize, Undecodable> {
        let (_, index) = self.integer(bits)?;
        if index < FIELDS.len() { Ok(index) } else { Err(Undecodable) }
    }

    /// A string whose length has so many bits in the first byte, below the bit that says Huffman.
    fn string<'s>(&mut self, bits: u32, space: &'s mut Vec<u8>) -> Result<Text<'s>, Undecodable>
    where
        'a: 's,
    {
        let (above, length) = self.integer(bits)?;
        let (string, rest) = self.0.split_at_checked(length).ok_or(Undecodable)?;
        self.0 = rest;
        if above & 1 == 0 {
            return Ok(Text::Sent(string));
        }
        space.clear();
        huffman::decode(string, space)?;
        Ok(Text::Sent(space))
    }
}

/// Begins a section.
pub(super) fn begin(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, 0]);
}

/// Adds a field. One that is `sensitive` must not enter a table on its way either.
pub(super) fn field(out: &mut Vec<u8>, name: &str, value: &[u8], sensitive: bool) {
    let never = u8::from(sensitive);
    match static_table::find(name, value) {
        Found::Field(number) if !sensitive => integer(out, 0b1100_0000, 6, number.into()),
        Found::Field(number) | Found::Name(number) => {
            integer(out, 0b0101_0000 | never << 5, 4, number.into());
            integer(out, 0, 7, value.len());
            out.extend_from_slice(value);
        }
        Found::Nothing => {
            integer(out, 0b0010_0000 | never << 4, 3, name.len());
            out.extend_from_slice(name.as_bytes());
            integer(out, 0, 7, value.len());
            out.extend_from_slice(value);
        }
    }
}

fn integer(out: &mut Vec<u8>, above: u8, bits: u32, value: usize) {
    let mask = (1 << bits) - 1;
    if value < mask {
        return out.push(above | value as u8);
    }
    out.push(above | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(text: Text<'_>, which: impl Fn((&'static str, &'static str)) -> &'static str) -> Vec<u8> {
        match text {
            Text::Static(number) => which(FIELDS[number]).as_bytes().to_vec(),
            Text::Sent(bytes) => bytes.to_vec(),
        }
    }

    type Fields = Vec<(Vec<u8>, Vec<u8>)>;

    fn read(section: &[u8]) -> Result<Fields, Ended<()>> {
        let mut fields = Vec::new();
        decode(section, |name, value| {
            fields.push((bytes(name, |field| field.0), bytes(value, |field| field.1)));
            Ok(())
        })?;
        Ok(fields)
    }

    fn write(fields: &[(&str, &[u8], bool)]) -> Vec<u8> {
        let mut out = Vec::new();
        begin(&mut out);
        fields.iter().for_each(|(name, value, sensitive)| field(&mut out, name, value, *sensitive));
        out
    }

    /// RFC 9204, appendix B.1.
    #[test]
    fn the_example_of_the_rfc() {
        let section = [&[0x00, 0x00, 0x51, 0x0b], b"/index.html".as_slice()].concat();
        assert_eq!(read(&section), Ok(vec![(b":path".to_vec(), b"/index.html".to_vec())]));
        assert_eq!(write(&[(":path", b"/index.html", false)]), section);
    }

    #[test]
    fn each_representation_is_written_as_short_as_the_table_allows() {
        assert_eq!(write(&[(":status", b"200", false)]), [0, 0, 0xc0 | 25]);
        assert_eq!(write(&[("x-frame-options", b"sameorigin", false)]), [0, 0, 0xff, 98 - 63]);
        assert_eq!(write(&[("server", b"b", false)]), [0, 0, 0x5f, 92 - 15, 1, b'b']);
        assert_eq!(write(&[("ab", b"c", false)]), [0, 0, 0x22, b'a', b'b', 1, b'c']);
        assert_eq!(write(&[("authorization", b"", true)]), [0, 0, 0x7f, 84 - 15, 0], "never indexed");
        assert_eq!(write(&[("ab", b"c", true)]), [0, 0, 0x32, b'a', b'b', 1, b'c']);
    }

    #[test]
    fn huffman_is_read_in_names_and_values() {
        // "custom-key: custom-value" (RFC 7541, C.4.3).
        let name = [0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f];
        let value = [0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf];
        let section = [&[0, 0, 0x2f, 0x01], name.as_slice(), &[0x89], value.as_slice()].concat();
        assert_eq!(read(&section), Ok(vec![(b"custom-key".to_vec(), b"custom-value".to_vec())]));
    }

    #[test]
    fn what_needs_a_table_or_is_cut_is_undecodable() {
        for (why, section) in [
            ("nothing", &[][..]),
            ("half a prefix", &[0]),
            ("an insert count", &[1, 0]),
            ("a base below 0", &[0, 0x80]),
            ("indexed, dynamic", &[0, 0, 0x80]),
            ("indexed, after the base", &[0, 0, 0x10]),
            ("a dynamic name", &[0, 0, 0x40, 0]),
            ("a dynamic name after the base", &[0, 0, 0x00, 0]),
            ("field 99 of 99", &[0, 0, 0xff, 99 - 63]),
            ("a name cut", &[0, 0, 0x22, b'a']),
            ("a value cut", &[0, 0, 0x21, b'a', 2, b'b']),
            ("a number without end", &[0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            ("broken Huffman", &[0, 0, 0x51, 0x81, 0xff]),
        ] {
            assert_eq!(read(section), Err(Ended::Undecodable), "{why}");
        }
    }

    #[test]
    fn who_looks_may_end_it() {
        let section = write(&[("a", b"1", false), ("b", b"2", false)]);
        let mut seen = 0;
        let ended = decode(&section, |_, _| {
            seen += 1;
            Err("enough")
        });
        assert_eq!((ended, seen), (Err(Ended::By("enough")), 1));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            fields in prop::collection::vec(("[a-z:-]{0,300}", prop::collection::vec(any::<u8>(), 0..300), any::<bool>()), 0..20),
            known in prop::collection::vec(0..FIELDS.len(), 0..20),
        ) {
            let known = known.iter().map(|&number| (FIELDS[number].0, FIELDS[number].1.as_bytes(), false));
            let fields: Vec<_> =
                fields.iter().map(|(name, value, hide)| (name.as_str(), value.as_slice(), *hide)).chain(known).collect();
            let expected = fields.iter().map(|(name, value, _)| (name.as_bytes().to_vec(), value.to_vec())).collect();
            prop_assert_eq!(read(&write(&fields)), Ok(expected));
        }

        #[test]
        fn any_bytes_are_read_without_panic(section in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&section);
            let _ = read(&[&[0, 0], section.as_slice()].concat());
        }
    }
}
