//! HTTP/3 as a client speaks it, over whatever QUIC: frames (RFC 9114) and the smallest QPACK (RFC 9204).
//!
//! Written from the RFCs and sharing no code with the node, so that a mistake of its library is not made on both
//! sides. Requests use the static table and plain strings. Of responses the form of every field is checked, and the
//! status is read; the other fields are left to clients that know Huffman's code by heart.
//!
//! A pure core: bytes in, bytes out.

/// Of a unidirectional stream: the control stream.
pub const CONTROL_STREAM: u64 = 0x00;
/// A frame of a body.
pub const DATA: u64 = 0x00;
/// A frame with a header or trailers.
pub const HEADERS: u64 = 0x01;
/// The first frame of a control stream.
pub const SETTINGS: u64 = 0x04;
/// The error code of an end without an error.
pub const NO_ERROR: u64 = 0x100;
/// A frame came where it is not allowed.
pub const FRAME_UNEXPECTED: u64 = 0x105;
/// The peer's first frame was not SETTINGS.
pub const MISSING_SETTINGS: u64 = 0x10a;

/// A number as QUIC writes it (RFC 9000, 16).
pub fn varint(number: u64) -> Vec<u8> {
    match number {
        0..=0x3f => vec![number as u8],
        0x40..=0x3fff => (number as u16 | 0x4000).to_be_bytes().to_vec(),
        0x4000..=0x3fff_ffff => (number as u32 | 0x8000_0000).to_be_bytes().to_vec(),
        _ => (number | 0xc000_0000_0000_0000).to_be_bytes().to_vec(),
    }
}

/// A frame's type and length.
pub fn frame_head(kind: u64, length: usize) -> Vec<u8> {
    [varint(kind), varint(length as u64)].concat()
}

/// A whole frame.
pub fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    [&frame_head(kind, payload.len()), payload].concat()
}

/// The beginning of a client's control stream: no dynamic table, no other wish.
pub fn control_stream() -> Vec<u8> {
    [varint(CONTROL_STREAM), frame(SETTINGS, &[])].concat()
}

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// POST.
    Post,
}

/// The HEADERS frame of a request.
pub fn request(method: Method, authority: &str, path: &str) -> Vec<u8> {
    /// Required Insert Count and Base: nothing of the dynamic table.
    const PREFIX: [u8; 2] = [0, 0];
    const INDEXED: u8 = 0b1100_0000;
    const NAMED_BY_INDEX: u8 = 0b0101_0000;
    let method = match method {
        Method::Get => 17,
        Method::Post => 20,
    };
    let (https, authority_name, path_name) = (23, 0, 1);
    let mut section = PREFIX.to_vec();
    section.extend([INDEXED | method, INDEXED | https]);
    for (name, value) in [(authority_name, authority), (path_name, path)] {
        section.push(NAMED_BY_INDEX | name);
        section.extend(prefixed(0, 7, value.len()));
        section.extend(value.as_bytes());
    }
    frame(HEADERS, &section)
}

/// A number behind some bits (RFC 7541, 5.1).
fn prefixed(bits: u8, prefix: u32, mut number: usize) -> Vec<u8> {
    let max = (1 << prefix) - 1;
    if number < max {
        return vec![bits | number as u8];
    }
    let mut bytes = vec![bits | max as u8];
    number -= max;
    while number >= 0x80 {
        bytes.push(0x80 | number as u8);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A response that is whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    /// Of its last header: informational ones come before it.
    pub status: u16,
    /// All DATA together.
    pub body: Vec<u8>,
}

/// What the peer did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the response is malformed: {0}")]
pub struct Malformed(pub &'static str);

/// Reads a response from the bytes of its stream, in pieces of any size.
#[derive(Debug, Default)]
pub struct Reader {
    /// Bytes of a frame that is not whole yet.
    pending: Vec<u8>,
    /// Bytes that are missing of a DATA frame.
    data_left: usize,
    status: Option<u16>,
    body: Vec<u8>,
}

impl Reader {
    /// Sees the next bytes.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let mut all = std::mem::take(&mut self.pending);
        all.extend_from_slice(bytes);
        let mut rest = all.as_slice();
        while !rest.is_empty() {
            if self.data_left > 0 {
                let (data, after) = rest.split_at(self.data_left.min(rest.len()));
                self.body.extend_from_slice(data);
                self.data_left -= data.len();
                rest = after;
                continue;
            }
            let Some((kind, length, after)) = read_head(rest) else { break };
            if kind == DATA {
                let is_late = self.status.is_some();
                is_late.then_some(()).ok_or(Malformed("DATA before HEADERS"))?;
                (self.data_left, rest) = (length, after);
                continue;
            }
            let Some((payload, after)) = after.split_at_checked(length) else { break };
            if kind == HEADERS {
                let status = status(payload)?;
                self.status = status.or(self.status);
            }
            rest = after;
        }
        self.pending = rest.to_vec();
        Ok(())
    }

    /// The stream is over.
    pub fn finish(self) -> Result<Response, Malformed> {
        if self.data_left > 0 || !self.pending.is_empty() {
            return Err(Malformed("it ends within a frame"));
        }
        let status = self.status.ok_or(Malformed("it has no status"))?;
        Ok(Response { status, body: self.body })
    }
}

fn read_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let length = 1 << (bytes.first()? >> 6);
    let (number, rest) = bytes.split_at_checked(length)?;
    let number = number.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    Some((number & (u64::MAX >> (66 - 8 * length)), rest))
}

fn read_head(bytes: &[u8]) -> Option<(u64, usize, &[u8])> {
    let (kind, rest) = read_varint(bytes)?;
    let (length, rest) = read_varint(rest)?;
    Some((kind, usize::try_from(length).ok()?, rest))
}

/// The status in a field section whose form is right; trailers have none.
fn status(section: &[u8]) -> Result<Option<u16>, Malformed> {
    let mut status = None;
    let mut rest = section.strip_prefix(&[0, 0]).ok_or(Malformed("it needs a dynamic table"))?;
    while let Some(&first) = rest.first() {
        let (found, after) = read_field(first, rest).ok_or(Malformed("a field is cut or not static"))?;
        if found.is_some() && status.is_some() {
            return Err(Malformed("it has two statuses"));
        }
        status = status.or(found);
        rest = after;
    }
    Ok(status)
}

/// One field line (RFC 9204, 4.5): the status, if it is that.
fn read_field(first: u8, bytes: &[u8]) -> Option<(Option<u16>, &[u8])> {
    match first {
        // Indexed, of the static table.
        0b1100_0000.. => {
            let (index, rest) = read_prefixed(bytes, 6)?;
            Some((status_of_index(index), rest))
        }
        // A value, with a name of the static table.
        0b0101_0000..=0b0101_1111 | 0b0111_0000..=0b0111_1111 => {
            let (index, rest) = read_prefixed(bytes, 4)?;
            let (value, is_huffman, rest) = read_string(rest, 7)?;
            let is_status = status_of_index(index).is_some();
            let status = if is_status { Some(digits(value, is_huffman)?) } else { None };
            Some((status, rest))
        }
        // A name and a value.
        0b0010_0000..=0b0011_1111 => {
            let (_, _, rest) = read_string(bytes, 3)?;
            let (_, _, rest) = read_string(rest, 7)?;
            Some((None, rest))
        }
        _ => None,
    }
}

fn read_prefixed(bytes: &[u8], prefix: u32) -> Option<(usize, &[u8])> {
    let (first, mut rest) = bytes.split_first()?;
    let max = (1 << prefix) - 1;
    let mut number = usize::from(*first) & max;
    if number < max {
        return Some((number, rest));
    }
    for shift in [0, 7, 14] {
        let (byte, after) = rest.split_first()?;
        number += usize::from(byte & 0x7f) << shift;
        rest = after;
        if byte & 0x80 == 0 {
            return Some((number, rest));
        }
    }
    None // Longer than any field section.
}

/// A string, and whether it is in Huffman's code: the bit above the prefix.
fn read_string(bytes: &[u8], prefix: u32) -> Option<(&[u8], bool, &[u8])> {
    let is_huffman = bytes.first()? & (1 << prefix) != 0;
    let (length, rest) = read_prefixed(bytes, prefix)?;
    let (string, rest) = rest.split_at_checked(length)?;
    Some((string, is_huffman, rest))
}

/// The statuses of the static table (RFC 9204, appendix A).
fn status_of_index(index: usize) -> Option<u16> {
    const FIRST: [u16; 5] = [103, 200, 304, 404, 503];
    const SECOND: [u16; 9] = [100, 204, 206, 302, 400, 403, 421, 425, 500];
    let place = |base| index.checked_sub(base);
    let first = place(24).and_then(|place| FIRST.get(place));
    first.or_else(|| place(63).and_then(|place| SECOND.get(place))).copied()
}

/// A number in digits. In Huffman's code 0 to 2 have 5 bits, the others 6 (RFC 7541, appendix B).
fn digits(value: &[u8], is_huffman: bool) -> Option<u16> {
    if !is_huffman {
        return std::str::from_utf8(value).ok()?.parse().ok();
    }
    let bits: Vec<u8> = value.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let number = |bits: &[u8]| bits.iter().fold(0u16, |number, bit| number << 1 | u16::from(*bit));
    let mut rest = bits.as_slice();
    let mut digits = 0;
    while rest.len() >= 8 || rest.contains(&0) {
        let short = number(rest.get(..5)?);
        let (digit, length) =
            if short < 3 { (short, 5) } else { (number(rest.get(..6)?).checked_sub(22)?, 6) };
        digits = u16::checked_add(u16::checked_mul(digits, 10)?, (digit < 10).then_some(digit)?)?;
        rest = &rest[length..];
    }
    Some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], piece: usize) -> Result<Response, Malformed> {
        let mut reader = Reader::default();
        bytes.chunks(piece).try_for_each(|piece| reader.take(piece))?;
        reader.finish()
    }

    #[test]
    fn a_response_is_read_however_it_is_cut() {
        // 103; then 200, a field with a name of the table and one without, both in Huffman's code.
        let early = frame(HEADERS, &[0, 0, 0xc0 | 24]);
        let head = frame(HEADERS, &[0, 0, 0xc0 | 25, 0x54, 0x82, 0x08, 0x5f, 0x2a, 0x25, 0xff, 0x81, 0xff]);
        let unknown = frame(0x21, b"ignored");
        let trailers = frame(HEADERS, &[0, 0, 0x21, b'a', 0x01, b'b']);
        let bytes =
            [early, head, frame(DATA, b"he"), unknown, frame(DATA, b"llo"), frame(DATA, b""), trailers]
                .concat();
        for piece in [1, 2, 3, 7, bytes.len()] {
            assert_eq!(read(&bytes, piece), Ok(Response { status: 200, body: b"hello".to_vec() }));
        }
        assert!(read(&bytes[..bytes.len() - 1], 9).is_err());
        assert!(read(&frame(DATA, b"x"), 9).is_err());
    }

    #[test]
    fn a_status_beyond_the_static_table_is_read() {
        let section = |value: &[u8], huffman| [&[0, 0, 0x5f, 9, huffman | value.len() as u8], value].concat();
        assert_eq!(status(&section(b"431", 0)), Ok(Some(431)));
        // 4, 3, 1: 011010 011001 00001, and ones to the end of the byte.
        assert_eq!(status(&section(&[0b0110_1001, 0b1001_0000, 0b1111_1111], 0x80)), Ok(Some(431)));
        // 5, 0, 2: 011011 00000 00010.
        assert_eq!(status(&section(&[0b0110_1100, 0b0000_0010], 0x80)), Ok(Some(502)));
        assert_eq!(status(&[0, 0]), Ok(None), "trailers have none");
        assert!(status(&[1, 0, 0xc0 | 25]).is_err(), "the dynamic table was not offered");
        assert!(status(&[0, 0, 0x80 | 25]).is_err(), "nor may it be named");
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for number in [0, 63, 64, 16_383, 16_384, (1 << 30) - 1, 1 << 30, (1 << 62) - 1] {
            assert_eq!(read_varint(&varint(number)), Some((number, [].as_slice())));
        }
        for number in [0, 6, 7, 126, 127, 128, 300, 20_000] {
            for prefix in [3, 7] {
                assert_eq!(
                    read_prefixed(&prefixed(0, prefix, number), prefix),
                    Some((number, [].as_slice()))
                );
            }
        }
    }
}
