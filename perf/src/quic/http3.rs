//! The little HTTP/3 that the harness speaks itself (RFC 9114): one request, and whether its answer is what it must be.
//!
//! Pure, without I/O: bytes of a stream go in, in pieces of any size, and what is wrong comes out as a [`Fault`]. An
//! answer is *verified* when its frames are well-formed, its status is 200, and its body has exactly the expected
//! bytes; nothing else may be counted. Frames and streams of unknown types are skipped, as RFC 9114 (section 9) asks.
//!
//! QPACK (RFC 9204) without a dynamic table: our settings leave its capacity at zero, so that a section which needs
//! one is a fault. Of the fields only `:status` is read, in each of its encodings; the others are walked over, so
//! that a malformed section does not pass.
//!
//! The *bare* dialect is for the QUIC connection without HTTP/3 that ours is compared with: a stream is its body.

use crate::answer::Answer;

/// The name of HTTP/3 in the handshake.
pub(crate) const ALPN: &[u8] = b"h3";
/// The name of the bare dialect: that of HTTP/0.9 over QUIC, as the interoperability tests of QUIC use it.
pub(crate) const ALPN_BARE: &[u8] = b"hq-interop";

/// Our control stream: its type, and a SETTINGS frame without settings. Their defaults are what we want.
pub(crate) const CONTROL: &[u8] = &[0x00, FRAME_SETTINGS as u8, 0x00];
/// A request of the bare dialect.
pub(crate) const BARE_REQUEST: &[u8] = b"GET /\r\n";

/// A larger field section than this is a fault: every server here answers with some hundred bytes.
const SECTION_MAX: u64 = 16 * 1024;

const FRAME_DATA: u64 = 0x00;
const FRAME_HEADERS: u64 = 0x01;
const FRAME_SETTINGS: u64 = 0x04;
const FRAME_GOAWAY: u64 = 0x07;
/// Forbidden on a request stream: CANCEL_PUSH, SETTINGS, PUSH_PROMISE (we allow no push), GOAWAY, MAX_PUSH_ID, and
/// the types of HTTP/2 that have no equivalent.
const FORBIDDEN_ON_REQUESTS: [u64; 9] =
    [0x02, 0x03, FRAME_SETTINGS, 0x05, 0x06, FRAME_GOAWAY, 0x08, 0x09, 0x0d];
/// Forbidden on a control stream.
const FORBIDDEN_ON_CONTROL: [u64; 7] = [FRAME_DATA, FRAME_HEADERS, 0x02, 0x05, 0x06, 0x08, 0x09];

const STREAM_CONTROL: u64 = 0x00;
const STREAM_PUSH: u64 = 0x01;

/// Why an answer, or the connection under it, cannot be counted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("a frame of type {0:#x} where none may be")]
    Frame(u64),
    #[error("a field section of {0} bytes")]
    SectionTooLarge(u64),
    #[error("a field section that cannot be read")]
    Section,
    #[error("status {0}")]
    Status(u16),
    #[error("a body that is not the expected one, at byte {0}")]
    Body(u64),
    #[error("the end of the stream in the middle of an answer")]
    Truncated,
    #[error("a stream of pushed content")]
    Push,
    #[error("the server is going away")]
    GoingAway,
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Dialect {
    Http3,
    Bare,
}

/// The body that an answer must have: `piece` over and over, `length` bytes in all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) piece: &'static [u8],
    pub(crate) length: u64,
}

impl Expected {
    /// Whether `bytes` are what stands at `offset`.
    fn has(self, offset: u64, mut bytes: &[u8]) -> bool {
        if self.length - offset < bytes.len() as u64 {
            return false;
        }
        let mut start = (offset % self.piece.len() as u64) as usize;
        while !bytes.is_empty() {
            let wanted = &self.piece[start..];
            let (part, rest) = bytes.split_at(bytes.len().min(wanted.len()));
            if part != &wanted[..part.len()] {
                return false;
            }
            bytes = rest;
            start = 0;
        }
        true
    }
}

/// A whole request stream: one HEADERS frame. (RFC 9204, appendix A has the numbers of the static table.)
pub(crate) fn request(authority: &str, path: &str) -> Vec<u8> {
    // No dynamic table; `:method: GET`, `:scheme: https`.
    let mut section = vec![0x00, 0x00, 0xc0 | 17, 0xc0 | 23];
    put_literal(&mut section, 0, authority);
    match path {
        "/" => section.push(0xc0 | 1),
        path => put_literal(&mut section, 1, path),
    }
    let mut frame = vec![FRAME_HEADERS as u8];
    put_varint(&mut frame, section.len() as u64);
    frame.extend(section);
    frame
}

/// A literal value whose name stands in the static table, below 15, without Huffman.
fn put_literal(section: &mut Vec<u8>, name: u8, value: &str) {
    section.push(0x50 | name);
    // 7 bits; 127 means that the rest follows, which has a single byte below 128.
    let length = value.len() as u8;
    match length.checked_sub(127) {
        None => section.push(length),
        Some(rest) => section.extend([127, rest]),
    }
    section.extend(value.as_bytes());
}

/// Reads one answer.
#[derive(Debug)]
pub(crate) struct AnswerReader {
    expected: Expected,
    stage: Stage,
    /// Of the final answer, once its HEADERS have come.
    status: Option<u16>,
    head_bytes: usize,
    body_bytes: u64,
}

#[derive(Debug)]
enum Stage {
    BetweenFrames(Integers),
    Section {
        section: Vec<u8>,
        length: usize,
    },
    Body {
        left: u64,
    },
    Skipping {
        left: u64,
    },
    /// The bare dialect: everything is body.
    Bare,
}

impl AnswerReader {
    pub(crate) fn new(dialect: Dialect, expected: Expected) -> Self {
        let (stage, status) = match dialect {
            Dialect::Http3 => (Stage::BetweenFrames(Integers::default()), None),
            Dialect::Bare => (Stage::Bare, Some(200)),
        };
        Self { expected, stage, status, head_bytes: 0, body_bytes: 0 }
    }

    /// Bytes of the body that have come, each of which was as expected.
    pub(crate) fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// The next bytes of the stream, in order.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            match &mut self.stage {
                Stage::BetweenFrames(head) => {
                    if let Some([kind, length]) = head.take(&mut bytes) {
                        self.begin_frame(kind, length)?;
                    }
                }
                Stage::Section { section, length } => {
                    let part = split_off(&mut bytes, (*length - section.len()) as u64);
                    // Nearly always the whole section is there, and need not be copied.
                    if part.len() == *length {
                        self.end_section(part)?;
                    } else {
                        section.extend_from_slice(part);
                        if section.len() == *length {
                            let section = std::mem::take(section);
                            self.end_section(&section)?;
                        }
                    }
                }
                Stage::Body { left } => {
                    let part = split_off(&mut bytes, *left);
                    *left -= part.len() as u64;
                    if *left == 0 {
                        self.stage = Stage::BetweenFrames(Integers::default());
                    }
                    self.take_body(part)?;
                }
                Stage::Skipping { left } => {
                    *left -= split_off(&mut bytes, *left).len() as u64;
                    if *left == 0 {
                        self.stage = Stage::BetweenFrames(Integers::default());
                    }
                }
                Stage::Bare => self.take_body(std::mem::take(&mut bytes))?,
            }
        }
        Ok(())
    }

    /// The stream has ended. The answer counts only when this is `Ok`.
    pub(crate) fn end(&self) -> Result<Answer, Fault> {
        let between = match &self.stage {
            Stage::BetweenFrames(head) => head.is_empty(),
            Stage::Bare => true,
            Stage::Section { .. } | Stage::Body { .. } | Stage::Skipping { .. } => false,
        };
        let Some(status) = self.status.filter(|_| between) else { return Err(Fault::Truncated) };
        if self.body_bytes != self.expected.length {
            return Err(Fault::Body(self.body_bytes));
        }
        Ok(Answer { status, head_bytes: self.head_bytes, body_bytes: self.body_bytes as usize })
    }

    fn begin_frame(&mut self, kind: u64, length: u64) -> Result<(), Fault> {
        self.stage = match kind {
            FRAME_DATA if self.status.is_none() => return Err(Fault::Frame(kind)),
            _ if FORBIDDEN_ON_REQUESTS.contains(&kind) => return Err(Fault::Frame(kind)),
            FRAME_HEADERS if length > SECTION_MAX => return Err(Fault::SectionTooLarge(length)),
            FRAME_HEADERS if length == 0 => return Err(Fault::Section),
            FRAME_HEADERS => Stage::Section { section: Vec::new(), length: length as usize },
            _ if length == 0 => Stage::BetweenFrames(Integers::default()),
            FRAME_DATA => Stage::Body { left: length },
            _ => Stage::Skipping { left: length },
        };
        Ok(())
    }

    fn end_section(&mut self, section: &[u8]) -> Result<(), Fault> {
        self.stage = Stage::BetweenFrames(Integers::default());
        if self.status.is_some() {
            // Trailers.
            return Ok(());
        }
        match status_of(section).ok_or(Fault::Section)? {
            // An interim answer: the final one follows.
            100..=199 => Ok(()),
            200 => {
                self.status = Some(200);
                self.head_bytes = section.len();
                Ok(())
            }
            status => Err(Fault::Status(status)),
        }
    }

    fn take_body(&mut self, part: &[u8]) -> Result<(), Fault> {
        if !self.expected.has(self.body_bytes, part) {
            return Err(Fault::Body(self.body_bytes));
        }
        self.body_bytes += part.len() as u64;
        Ok(())
    }
}

/// Reads a unidirectional stream of the server.
#[derive(Debug)]
pub(crate) enum UniReader {
    /// Its type is not known yet.
    New(Integers),
    /// The control stream.
    Control { head: Integers, settings: Settings, left: u64 },
    /// QPACK's own, which have nothing to say to us, and those of unknown types.
    Ignored,
}

/// Whether the SETTINGS frame, which must be the first, has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Settings {
    Due,
    Seen,
}

impl UniReader {
    pub(crate) fn new() -> Self {
        Self::New(Integers::default())
    }

    /// The next bytes of the stream, in order.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            match self {
                Self::New(kind) => match kind.take(&mut bytes) {
                    None => {}
                    Some([STREAM_CONTROL]) => {
                        *self = Self::Control { head: Integers::default(), settings: Settings::Due, left: 0 };
                    }
                    Some([STREAM_PUSH]) => return Err(Fault::Push),
                    Some(_) => *self = Self::Ignored,
                },
                Self::Control { head, settings, left } => {
                    *left -= split_off(&mut bytes, *left).len() as u64;
                    let Some([kind, length]) = head.take(&mut bytes) else { continue };
                    let first = *settings == Settings::Due;
                    match kind {
                        FRAME_SETTINGS if first => *settings = Settings::Seen,
                        FRAME_GOAWAY if !first => return Err(Fault::GoingAway),
                        _ if first || kind == FRAME_SETTINGS => return Err(Fault::Frame(kind)),
                        _ if FORBIDDEN_ON_CONTROL.contains(&kind) => return Err(Fault::Frame(kind)),
                        _ => {}
                    }
                    *left = length;
                }
                Self::Ignored => return Ok(()),
            }
        }
        Ok(())
    }
}

/// Integers of QUIC's variable length (RFC 9000, section 16), which may arrive in pieces.
#[derive(Debug, Default)]
pub(crate) struct Integers {
    /// Room for two of the longest, a frame's type and length.
    bytes: [u8; 16],
    count: usize,
}

impl Integers {
    fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes bytes until there are `N` integers; the next call begins anew.
    fn take<const N: usize>(&mut self, bytes: &mut &[u8]) -> Option<[u64; N]> {
        const { assert!(N <= 2) };
        while let Some((&byte, rest)) = bytes.split_first() {
            *bytes = rest;
            self.bytes[self.count] = byte;
            self.count += 1;
            if let Some(values) = parse_integers(&self.bytes[..self.count]) {
                self.count = 0;
                return Some(values);
            }
        }
        None
    }
}

fn parse_integers<const N: usize>(mut bytes: &[u8]) -> Option<[u64; N]> {
    let mut values = [0; N];
    for value in &mut values {
        let (&first, behind) = bytes.split_first()?;
        let (tail, rest) = behind.split_at_checked((1 << (first >> 6)) - 1)?;
        *value = tail.iter().fold(u64::from(first & 0x3f), |value, &byte| value << 8 | u64::from(byte));
        bytes = rest;
    }
    Some(values)
}

/// An integer in its shortest form. Ours are all below 2^14.
fn put_varint(bytes: &mut Vec<u8>, value: u64) {
    match value {
        0..64 => bytes.push(value as u8),
        _ => bytes.extend((0x4000 | value as u16).to_be_bytes()),
    }
}

/// Takes up to `count` bytes from the front.
fn split_off<'a>(bytes: &mut &'a [u8], count: u64) -> &'a [u8] {
    let count = usize::try_from(count).map_or(bytes.len(), |count| count.min(bytes.len()));
    let (part, rest) = bytes.split_at(count);
    *bytes = rest;
    part
}

/// The value of `:status`, in a section that is well-formed to its end. It is the only pseudo-header of an answer,
/// and pseudo-headers come first.
fn status_of(section: &[u8]) -> Option<u16> {
    // The prefix: an insert count of zero (no dynamic table), and a base that then means nothing.
    let (_, fields) = prefixed(section.strip_prefix(&[0])?, 7)?;
    let (status, mut rest) = field_line(fields)?;
    while !rest.is_empty() {
        let (again, behind) = field_line(rest)?;
        if again.is_some() {
            return None;
        }
        rest = behind;
    }
    status
}

/// One field line (RFC 9204, section 4.5): its status, if it is one, and what follows.
fn field_line(bytes: &[u8]) -> Option<(Option<u16>, &[u8])> {
    match *bytes.first()? {
        // Name and value from the static table.
        0b1100_0000.. => {
            let (index, rest) = prefixed(bytes, 6)?;
            (index < STATIC_TABLE_LENGTH).then(|| (static_status(index), rest))
        }
        // Name from the static table, and a literal value.
        first @ 0b0100_0000..0b1000_0000 if first & 0b0001_0000 != 0 => {
            let (index, rest) = prefixed(bytes, 4)?;
            let (value, rest) = string(rest, 7)?;
            match static_status(index) {
                None => (index < STATIC_TABLE_LENGTH).then_some((None, rest)),
                Some(_) => Some((Some(value.status()?), rest)),
            }
        }
        // Both literal.
        0b0010_0000..0b0100_0000 => {
            let (name, rest) = string(bytes, 3)?;
            let (value, rest) = string(rest, 7)?;
            let status = if name.is_status_name() { Some(value.status()?) } else { None };
            Some((status, rest))
        }
        // The dynamic table, which is empty.
        _ => None,
    }
}

const STATIC_TABLE_LENGTH: u64 = 99;

/// The value of the entries of the static table that are called `:status`.
fn static_status(index: u64) -> Option<u16> {
    const LOW: [u16; 5] = [103, 200, 304, 404, 503];
    const HIGH: [u16; 9] = [100, 204, 206, 302, 400, 403, 421, 425, 500];
    match index {
        24..=28 => Some(LOW[index as usize - 24]),
        63..=71 => Some(HIGH[index as usize - 63]),
        _ => None,
    }
}

/// An integer with a prefix of `bits` (RFC 7541, section 5.1), and what follows. Lengths and indices here are small:
/// a third byte is a fault.
fn prefixed(bytes: &[u8], bits: u32) -> Option<(u64, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let largest = (1_u64 << bits) - 1;
    let value = u64::from(first) & largest;
    if value < largest {
        return Some((value, rest));
    }
    let (&next, behind) = rest.split_first()?;
    if next < 0x80 {
        return Some((largest + u64::from(next), behind));
    }
    let (&last, behind) = behind.split_first()?;
    (last < 0x80).then(|| (largest + u64::from(next & 0x7f) + (u64::from(last) << 7), behind))
}

/// A string whose length has a prefix of `bits`, with the mark of Huffman's code before it, and what follows.
fn string(bytes: &[u8], bits: u32) -> Option<(Text<'_>, &[u8])> {
    let is_coded = bytes.first()? & (1 << bits) != 0;
    let (length, rest) = prefixed(bytes, bits)?;
    let (text, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some((if is_coded { Text::Huffman(text) } else { Text::Plain(text) }, rest))
}

/// A string as it stands in a field section.
#[derive(Clone, Copy)]
enum Text<'a> {
    Plain(&'a [u8]),
    Huffman(&'a [u8]),
}

impl Text<'_> {
    fn is_status_name(self) -> bool {
        match self {
            Self::Plain(text) => text == b":status",
            Self::Huffman(text) => text == [0xb8, 0x84, 0x8d, 0x36, 0xa3],
        }
    }

    /// The three digits of a status.
    fn status(self) -> Option<u16> {
        let digits = match self {
            Self::Plain(text) => <[u8; 3]>::try_from(text).ok()?.map(|digit| digit.wrapping_sub(b'0')),
            Self::Huffman(text) => huffman_digits(text)?,
        };
        let valid = digits.iter().all(|&digit| digit < 10) && digits[0] != 0;
        valid.then(|| digits.iter().fold(0, |status, &digit| status * 10 + u16::from(digit)))
    }
}

/// Three digits in Huffman's code (RFC 7541, appendix B): 0 to 2 have the five bits of their value, 3 to 9 the six
/// bits from 0x19 on. Ones fill the last byte.
fn huffman_digits(text: &[u8]) -> Option<[u8; 3]> {
    let length = text.len() as u32;
    if length > 3 {
        return None;
    }
    let mut bits = text.iter().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte));
    // To the top of the word, followed by the ones that fill it.
    bits = if length == 0 { u32::MAX } else { bits << (32 - 8 * length) | (u32::MAX >> (8 * length)) };
    let mut used = 0;
    let mut digits = [0; 3];
    for digit in &mut digits {
        let (value, width) = match (bits >> 27, bits >> 26) {
            (five @ 0..3, _) => (five, 5),
            (_, six @ 0x19..0x20) => (six - 0x19 + 3, 6),
            _ => return None,
        };
        *digit = value as u8;
        bits = (bits << width) | ((1 << width) - 1);
        used += width;
    }
    (bits == u32::MAX && used <= 8 * length && used + 8 > 8 * length).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: Expected = Expected { piece: b"hello", length: 12 };
    const BODY: &[u8] = b"hellohellohe";

    /// `:status: 200`, `content-type: text/plain`, `content-length: 12`, `x: y` with both literal.
    const SECTION: &[u8] = &[0, 0, 0xd9, 0xc0 | 53, 0x54, 2, b'1', b'2', 0x21, b'x', 1, b'y'];

    fn frame(kind: u64, content: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        put_varint(&mut frame, kind);
        put_varint(&mut frame, content.len() as u64);
        frame.extend(content);
        frame
    }

    /// An answer with an interim one before it, unknown frames around, the body in two frames, and trailers.
    fn answer() -> Vec<u8> {
        [
            frame(0x21, b"grease"),
            frame(FRAME_HEADERS, &[0, 0, 0xc0 | 24]),
            frame(FRAME_HEADERS, SECTION),
            frame(0x1f * 9 + 0x21, b""),
            frame(FRAME_DATA, &BODY[..7]),
            frame(FRAME_DATA, b""),
            frame(FRAME_DATA, &BODY[7..]),
            frame(FRAME_HEADERS, &[0, 0, 0x21, b'x', 1, b'y']),
            frame(0x40, &[7; 100]),
        ]
        .concat()
    }

    fn read(bytes: &[u8]) -> Result<Answer, Fault> {
        let mut reader = AnswerReader::new(Dialect::Http3, EXPECTED);
        reader.take(bytes)?;
        reader.end()
    }

    #[test]
    fn an_answer_reads_the_same_in_pieces_of_any_size() {
        let answer = answer();
        let whole = read(&answer).unwrap();
        assert_eq!(whole, Answer { status: 200, head_bytes: SECTION.len(), body_bytes: BODY.len() });
        for size in 1..answer.len() {
            let mut reader = AnswerReader::new(Dialect::Http3, EXPECTED);
            for piece in answer.chunks(size) {
                reader.take(piece).unwrap();
            }
            assert_eq!(reader.end(), Ok(whole), "pieces of {size}");
        }
    }

    #[test]
    fn an_answer_that_is_cut_anywhere_counts_only_where_a_frame_and_the_body_end() {
        let answer = answer();
        let tail = [frame(FRAME_HEADERS, &[0, 0, 0x21, b'x', 1, b'y']), frame(0x40, &[7; 100])];
        let complete = [answer.len(), answer.len() - tail[1].len(), answer.len() - tail.concat().len()];
        for cut in 0..=answer.len() {
            let end = read(&answer[..cut]);
            assert_eq!(end.is_ok(), complete.contains(&cut), "cut at {cut}: {end:?}");
        }
    }

    #[test]
    fn what_is_not_the_expected_answer_is_a_fault() {
        let ok = frame(FRAME_HEADERS, SECTION);
        let cases: [(&[u8], Fault); 9] = [
            (&frame(FRAME_DATA, BODY), Fault::Frame(FRAME_DATA)),
            (&frame(FRAME_SETTINGS, b""), Fault::Frame(FRAME_SETTINGS)),
            (&frame(0x02, b""), Fault::Frame(0x02)),
            (&frame(FRAME_HEADERS, &[0, 0, 0xc0 | 27]), Fault::Status(404)),
            (&frame(FRAME_HEADERS, &[0, 0, 0xc0 | 53]), Fault::Section),
            (&frame(FRAME_HEADERS, b""), Fault::Section),
            (&[ok.clone(), frame(FRAME_DATA, b"hellO")].concat(), Fault::Body(0)),
            (&[ok.clone(), frame(FRAME_DATA, BODY), frame(FRAME_DATA, b"l")].concat(), Fault::Body(12)),
            (&[FRAME_HEADERS as u8, 0x80, 0x00, 0x40, 0x01], Fault::SectionTooLarge(16385)),
        ];
        for (bytes, fault) in cases {
            assert_eq!(read(bytes), Err(fault), "{bytes:?}");
        }
        assert_eq!(read(&ok), Err(Fault::Body(0)), "a body that never came");
    }

    #[test]
    fn a_bare_answer_is_its_body() {
        let mut reader = AnswerReader::new(Dialect::Bare, EXPECTED);
        reader.take(&BODY[..5]).unwrap();
        assert_eq!(reader.end(), Err(Fault::Body(5)));
        reader.take(&BODY[5..]).unwrap();
        assert!(reader.end().is_ok());
    }

    #[test]
    fn a_status_is_read_in_each_of_its_encodings() {
        let with = |line: &[u8]| status_of(&[&[0, 0], line, &[0xc0 | 53]].concat());
        for (index, status) in [(24, 103), (25, 200), (28, 503), (71, 500)] {
            let line = if index < 63 { vec![0xc0 | index] } else { vec![0xff, index - 63] };
            assert_eq!(with(&line), Some(status), "static entry {index}");
        }
        assert_eq!(with(&[0x5f, 24 - 15, 3, b'2', b'0', b'0']), Some(200), "name from the table");
        assert_eq!(with(&[0x5f, 24 - 15, 0x80 | 2, 0x10, 0x01]), Some(200), "and the value coded");
        assert_eq!(with(b"\x27\x00:status\x03418"), Some(418), "both literal");
        assert_eq!(
            with(&[0x2d, 0xb8, 0x84, 0x8d, 0x36, 0xa3, 0x80 | 2, 0x10, 0x01]),
            Some(200),
            "both coded"
        );
    }

    #[test]
    fn digits_are_decoded_from_the_code_of_the_rfc_and_nothing_else_is() {
        // 302 is the example of RFC 7541, appendix C.6.1; 307 that of C.6.2.
        assert_eq!(huffman_digits(&[0x64, 0x02]), Some([3, 0, 2]));
        assert_eq!(huffman_digits(&[0x64, 0x0e, 0xff]), Some([3, 0, 7]));
        for text in [&[][..], &[0x64], &[0x64, 0x02, 0xff], &[0x64, 0x0e], &[0xff, 0xff, 0xff], &[0; 4]] {
            assert_eq!(huffman_digits(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_section_that_is_cut_or_names_the_dynamic_table_is_refused() {
        // Behind each complete field line it is a section of its own.
        let ends = [3, 4, 8, 12];
        for cut in 0..=SECTION.len() {
            assert_eq!(status_of(&SECTION[..cut]).is_some(), ends.contains(&cut), "cut at {cut}");
        }
        for line in [&[0x80][..], &[0x10], &[0x00, 0], &[0x40, 1, b'x'], &[0xff, 36]] {
            assert_eq!(status_of(&[&[0, 0, 0xd9], line].concat()), None, "{line:?}");
        }
        assert_eq!(status_of(&[0, 0, 0xd9, 0xd9]), None, "two statuses");
        assert_eq!(status_of(&[1, 0, 0xd9]), None, "an insert count");
    }

    #[test]
    fn a_request_is_a_frame_of_the_length_that_it_says() {
        for (authority, path) in [("127.0.0.1:443", "/"), ("localhost", "/stream"), (&"a".repeat(150), "/")] {
            let request = request(authority, path);
            let mut rest = &request[..];
            let [kind, length] = Integers::default().take(&mut rest).unwrap();
            assert_eq!((kind, length as usize), (FRAME_HEADERS, rest.len()));
            let mut lines = &rest[2..];
            for _ in 0..4 {
                lines = field_line(lines).unwrap().1;
            }
            assert!(lines.is_empty());
        }
    }

    #[test]
    fn streams_of_the_server_are_read_as_far_as_they_concern_us() {
        let control =
            [vec![0], frame(FRAME_SETTINGS, &[6, 0x40, 0x64]), frame(0x21, b"grease"), frame(0x0d, &[1])]
                .concat();
        for size in 1..=control.len() {
            let mut reader = UniReader::new();
            for piece in control.chunks(size) {
                reader.take(piece).unwrap();
            }
            assert_eq!(reader.take(&frame(FRAME_GOAWAY, &[0])), Err(Fault::GoingAway));
        }
        for ignored in [&[0x02, 1, 2][..], &[0x03], &[0x40, 0x61, 0, 0, 0]] {
            assert_eq!(UniReader::new().take(ignored), Ok(()));
        }
        assert_eq!(UniReader::new().take(&[1]), Err(Fault::Push));
        assert_eq!(UniReader::new().take(&[0, 0x21, 0]), Err(Fault::Frame(0x21)), "no SETTINGS first");
        assert_eq!(UniReader::new().take(&[0, 4, 0, 4, 0]), Err(Fault::Frame(4)), "two SETTINGS");
        assert_eq!(UniReader::new().take(&[0, 4, 0, 0, 0]), Err(Fault::Frame(FRAME_DATA)));
    }
}
