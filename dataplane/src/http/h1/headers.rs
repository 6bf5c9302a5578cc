//! Lines up to an empty one: what a request head and a trailer section have in common.
//!
//! Two steps. [`SectionScan`] finds the empty line, as bytes come, and looks at each byte once; it already refuses
//! what can be seen at the ends of lines. [`parse_headers`] reads the whole section with `httparse`.
//!
//! Why the scan does not leave line ends to `httparse`: that takes a bare LF for a line end, which others do not.
//!
//! Invariant: what is refused, and why, does not depend on how the bytes were cut into pieces. The scan reports the
//! first fault by position, and never looks beyond the limit.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use memchr::{memchr, memchr_iter};

/// How large a head or a trailer section may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderLimits {
    /// All bytes of it, with request line, line ends and the empty line at the end.
    pub bytes: usize,
    /// Header lines.
    pub count: usize,
}

/// Why header lines are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// LF without CR before it.
    #[error("a line ends with LF alone; end lines with CRLF")]
    BareLineFeed,
    /// CR without LF after it.
    #[error("a CR stands without LF after it; end lines with CRLF")]
    BareCarriageReturn,
    /// A line that starts with a space or a tab: the old way to continue the line before.
    #[error("a header line starts with white space; send each header on one line")]
    Folded,
    /// No colon, or something else than a token before it, such as a space.
    #[error("a header line does not start with a name and a colon; leave no space between them")]
    Name,
    /// NUL or a control character.
    #[error("a header value holds a control character; only tabs are allowed")]
    Value,
    /// More than [`HeaderLimits::bytes`].
    #[error("the headers are larger than the limit; send fewer or shorter ones")]
    TooLarge,
    /// More than [`HeaderLimits::count`].
    #[error("there are more headers than the limit; send fewer")]
    TooMany,
}

/// A section that has been found whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// Its bytes, with the empty line.
    pub(super) bytes: usize,
    /// Its lines, without the empty one.
    pub(super) lines: usize,
}

/// Where the search for the end of a section has got to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SectionScan {
    /// Bytes that were searched.
    scanned: usize,
    /// Where the line that is being searched starts.
    line_start: usize,
    /// Lines that are complete.
    lines: usize,
}

impl SectionScan {
    /// Goes on searching. `bytes` starts where it started in the call before, and may be longer. `limits.count` counts
    /// every line.
    pub(super) fn advance(
        &mut self,
        bytes: &[u8],
        limits: HeaderLimits,
    ) -> Result<Option<Section>, HeaderError> {
        let window = &bytes[..bytes.len().min(limits.bytes)];
        while let Some(offset) = memchr(b'\n', &window[self.scanned..]) {
            let end = self.scanned + offset;
            let line = window[self.line_start..end].strip_suffix(b"\r").ok_or(HeaderError::BareLineFeed)?;
            match line.first() {
                None => return Ok(Some(Section { bytes: end + 1, lines: self.lines })),
                Some(b' ' | b'\t') => return Err(HeaderError::Folded),
                Some(_) if self.lines == limits.count => return Err(HeaderError::TooMany),
                Some(_) => self.lines += 1,
            }
            self.scanned = end + 1;
            self.line_start = end + 1;
        }
        self.scanned = window.len();
        if window.len() == limits.bytes { Err(HeaderError::TooLarge) } else { Ok(None) }
    }

    /// Whether the first line is not complete yet.
    pub(super) fn is_in_first_line(&self) -> bool {
        self.lines == 0
    }
}

/// Lines for which there is room on the stack: browsers send 10 to 20. 32 bytes each.
const FEW_LINES: usize = 32;

/// Reads a section of `lines` header lines and the empty one. `see` gets each header first, and may refuse it.
pub(super) fn parse_headers<E: From<HeaderError>>(
    section: &Bytes,
    lines: usize,
    mut see: impl FnMut(&HeaderName, &Bytes) -> Result<(), E>,
) -> Result<HeaderMap, E> {
    let mut few;
    let mut many;
    let slots = if lines <= FEW_LINES {
        few = [httparse::EMPTY_HEADER; FEW_LINES];
        &mut few[..lines]
    } else {
        many = vec![httparse::EMPTY_HEADER; lines];
        &mut many[..]
    };
    let parsed = match httparse::parse_headers(section, slots) {
        Ok(httparse::Status::Complete((bytes, parsed))) if bytes == section.len() => parsed,
        // A section that ends elsewhere than where the scan saw its end has a line that we do not understand.
        Ok(_) => return Err(HeaderError::Name.into()),
        Err(error) => return Err(classify(error, section).into()),
    };
    let mut headers = HeaderMap::try_with_capacity(lines).map_err(|_| HeaderError::TooMany)?;
    for line in parsed {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| HeaderError::Name)?;
        let value = section.slice_ref(line.value);
        see(&name, &value)?;
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| HeaderError::Value)?;
        headers.try_append(name, value).map_err(|_| HeaderError::TooMany)?;
    }
    Ok(headers)
}

fn classify(error: httparse::Error, section: &[u8]) -> HeaderError {
    if has_bare_carriage_return(section) {
        return HeaderError::BareCarriageReturn;
    }
    match error {
        httparse::Error::HeaderValue => HeaderError::Value,
        _ => HeaderError::Name,
    }
}

/// Whether a CR stands elsewhere than before a LF.
pub(super) fn has_bare_carriage_return(bytes: &[u8]) -> bool {
    memchr_iter(b'\r', bytes).any(|at| bytes.get(at + 1) != Some(&b'\n'))
}

/// The members of a header value that is a list, without the white space around them; empty ones too.
pub(super) fn list_members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim)
}

/// Without spaces and tabs at both ends.
fn trim(value: &[u8]) -> &[u8] {
    // `trim_ascii` also cuts line ends and form feeds, none of which a parsed value holds.
    value.trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeaderLimits = HeaderLimits { bytes: 64, count: 3 };

    /// Gives the scan one byte more each time, as a slow client does, and checks that it never looks back.
    fn scan_bytewise(bytes: &[u8]) -> Result<Option<Section>, HeaderError> {
        let mut scan = SectionScan::default();
        for end in 0..=bytes.len() {
            match scan.advance(&bytes[..end], LIMITS) {
                Ok(None) => assert_eq!(scan.scanned, end),
                outcome => return outcome,
            }
        }
        Ok(None)
    }

    #[test]
    fn the_first_fault_by_position_is_reported_however_the_bytes_come() {
        let full = [b"a: ", [b'x'; 57].as_slice(), b"\r\n\r\n"].concat();
        assert_eq!(full.len(), LIMITS.bytes);
        let over = [b"a: ", [b'x'; 58].as_slice(), b"\r\n\r\n"].concat();
        let lf_beyond_limit = [[b'x'; 64].as_slice(), b"\n"].concat();
        let table: [(&[u8], _); 13] = [
            (b"", Ok(None)),
            (b"\r", Ok(None)),
            (b"\r\n", Ok(Some(Section { bytes: 2, lines: 0 }))),
            (b"\r\nrest\n", Ok(Some(Section { bytes: 2, lines: 0 }))),
            (b"a: 1\r\nb: 2\r\nc: 3\r\n\r\n", Ok(Some(Section { bytes: 20, lines: 3 }))),
            (b"a: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\n", Err(HeaderError::TooMany)),
            (b"\n", Err(HeaderError::BareLineFeed)),
            (b"a: 1\r\n\nb\n c", Err(HeaderError::BareLineFeed)),
            (b"a: 1\r\n b\r\nc\n", Err(HeaderError::Folded)),
            (b"a: 1\r\n\tb\r\n\r\n", Err(HeaderError::Folded)),
            (&full, Ok(Some(Section { bytes: 64, lines: 1 }))),
            (&over, Err(HeaderError::TooLarge)),
            (&lf_beyond_limit, Err(HeaderError::TooLarge)),
        ];
        for (bytes, expected) in table {
            let told = String::from_utf8_lossy(bytes);
            assert_eq!(SectionScan::default().advance(bytes, LIMITS), expected, "{told:?} whole");
            assert_eq!(scan_bytewise(bytes), expected, "{told:?} byte by byte");
        }
    }

    /// All 256 bytes, in each place of a line, against the grammar of RFC 9110 (5.6.2 and 5.5) written out.
    #[test]
    fn every_byte_in_every_place_of_a_line() {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let is_value = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        let accepts = |line: &[u8]| {
            let section = Bytes::from([line, b"\r\n\r\n"].concat());
            parse_headers::<HeaderError>(&section, 1, |_, _| Ok(())).is_ok()
        };
        for byte in 0..=u8::MAX {
            for line in [[byte, b'a', b':', b'v'], [b'a', byte, b':', b'v']] {
                assert_eq!(accepts(&line), is_token(byte) || (byte == b':' && line[0] == b'a'), "{line:?}");
            }
            for line in [[b'a', b':', byte, b'v'], [b'a', b':', b'v', byte]] {
                assert_eq!(accepts(&line), is_value(byte), "{line:?}");
            }
        }
    }

    #[test]
    fn many_headers_are_read_like_few() {
        for lines in [0, 1, FEW_LINES, FEW_LINES + 1, 1000] {
            let text: String = (0..lines).map(|n| format!("x-{n}: {n}\r\n")).collect();
            let section = Bytes::from(text + "\r\n");
            let headers = parse_headers::<HeaderError>(&section, lines, |_, _| Ok(())).unwrap();
            assert_eq!(headers.len(), lines);
            for n in 0..lines {
                assert_eq!(headers[format!("x-{n}")], n.to_string());
            }
        }
    }
}
