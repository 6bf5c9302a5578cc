//! Request bodies: by length, or in chunks with trailers behind them.
//!
//! The decoder takes what it understands from the front of the buffer and leaves what comes after the body. Data are
//! slices of the buffer. Chunk lines are read byte by byte and dropped as they come, so that only trailers ever wait
//! in the buffer, bounded by the header limits.
//!
//! Invariants:
//! - the pieces of data, put together, do not depend on how the bytes were cut, nor does the error at their end;
//! - a body never yields more bytes than its limit, and a chunk that would is refused before any of it is read;
//! - after [`Decoded::Done`] nothing more is taken, and an error is final.

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use http::header::{HeaderMap, HeaderName};

use super::head::BodyLength;
use super::headers::{HeaderError, HeaderLimits, SectionScan, parse_headers};

/// Bytes of extensions that one chunk may have, from the semicolon on. Nobody reads them; the signatures that some
/// clients put there have about 85.
pub const EXTENSION_BYTES_MAX: u16 = 256;

/// Bytes of extensions that all chunks of a body may have together. Without a bound, a client could have us read 256
/// bytes more for each byte that counts against the limit of the body.
pub const EXTENSIONS_BYTES_MAX: u32 = 16 * 1024;

/// Digits of a chunk size: those of 64 bits. More would be leading zeros, or too much.
const SIZE_DIGITS_MAX: u8 = 16;

/// How large a body may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimits {
    /// Bytes of data, without the framing of chunks.
    pub bytes: u64,
    /// What may follow the last chunk.
    pub trailers: HeaderLimits,
}

/// What [`BodyDecoder::decode`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// The next bytes of the body, at least one.
    Data(Bytes),
    /// The trailers, if there are any; then only `Done` follows.
    Trailers(HeaderMap),
    /// The body has ended. What is in the buffer belongs to the next request.
    Done,
    /// The buffer has to grow first. If the peer has no more, the body was cut off.
    NeedMore,
}

/// Why a body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// More than [`BodyLimits::bytes`].
    #[error("the body is larger than the limit; send a smaller one")]
    TooLarge,
    /// Not 1 to 16 hexadecimal digits, and then directly a semicolon or the end of the line.
    #[error("a chunk size is not a hexadecimal number of at most 16 digits; send digits only")]
    ChunkSize,
    /// A control character in a chunk extension.
    #[error("a chunk extension holds a control character; leave extensions out")]
    ExtensionByte,
    /// More than [`EXTENSION_BYTES_MAX`], or than [`EXTENSIONS_BYTES_MAX`] in all.
    #[error("the chunk extensions are longer than the limit; leave them out")]
    ExtensionTooLong,
    /// The data of a chunk are not followed by CRLF.
    #[error("a chunk is longer than its size says; end its data with CRLF")]
    ChunkEnd,
    /// LF without CR before it, in the line of a chunk size.
    #[error("a chunk size ends with LF alone; end lines with CRLF")]
    BareLineFeed,
    /// CR without LF after it, in the line of a chunk size.
    #[error("a CR stands without LF after it in a chunk size; end lines with CRLF")]
    BareCarriageReturn,
    /// A fault in the trailers.
    #[error("the trailers are not valid: {0}")]
    Trailers(HeaderError),
    /// A trailer that would change what was already decided.
    #[error(
        "a trailer concerns framing, routing, the connection, credentials or the content; send it as a header"
    )]
    ForbiddenTrailer,
}

impl BodyError {
    /// The status of the answer, if none was sent yet. The connection closes.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Trailers(HeaderError::TooLarge | HeaderError::TooMany) => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// A stable name of the reason, for counters and logs. All faults of trailers count as one.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooLarge => "body_too_large",
            Self::ChunkSize => "chunk_size",
            Self::ExtensionByte => "chunk_extension_byte",
            Self::ExtensionTooLong => "chunk_extension_too_long",
            Self::ChunkEnd => "chunk_end",
            Self::BareLineFeed => "chunk_bare_line_feed",
            Self::BareCarriageReturn => "chunk_bare_carriage_return",
            Self::Trailers(_) => "trailers",
            Self::ForbiddenTrailer => "forbidden_trailer",
        }
    }
}

impl From<HeaderError> for BodyError {
    fn from(error: HeaderError) -> Self {
        Self::Trailers(error)
    }
}

/// Decodes the body of one request.
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    state: State,
    /// Bytes of data that chunks may still announce.
    allowance: u64,
    /// Bytes of extensions that chunks may still have.
    extensions_left: u32,
    trailer_limits: HeaderLimits,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Sized {
        left: u64,
    },
    ChunkLine(ChunkLine),
    ChunkData {
        left: u64,
    },
    /// The CRLF behind the data of a chunk.
    ChunkEnd(LineEnd),
    Trailers(SectionScan),
    Done,
    Failed(BodyError),
}

#[derive(Clone, Copy, Debug)]
enum LineEnd {
    CarriageReturn,
    LineFeed,
}

/// The line of a chunk size, as far as it was read.
#[derive(Clone, Copy, Debug)]
struct ChunkLine {
    size: u64,
    part: LinePart,
}

#[derive(Clone, Copy, Debug)]
enum LinePart {
    Size { digits: u8 },
    Extension { bytes: u16 },
    LineFeed,
}

impl ChunkLine {
    const START: Self = Self { size: 0, part: LinePart::Size { digits: 0 } };
}

impl BodyDecoder {
    /// A decoder for a body as the head announced it. Refuses at once a length that is above the limit.
    pub fn new(length: BodyLength, limits: BodyLimits) -> Result<Self, BodyError> {
        let state = match length {
            BodyLength::None | BodyLength::Sized(0) => State::Done,
            BodyLength::Sized(bytes) if bytes > limits.bytes => return Err(BodyError::TooLarge),
            BodyLength::Sized(bytes) => State::Sized { left: bytes },
            BodyLength::Chunked => State::ChunkLine(ChunkLine::START),
        };
        Ok(Self {
            state,
            allowance: limits.bytes,
            extensions_left: EXTENSIONS_BYTES_MAX,
            trailer_limits: limits.trailers,
        })
    }

    /// Takes the next piece of the body from the front of the buffer.
    ///
    /// After an error nothing more can be read from this connection, and each further call repeats the error.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, BodyError> {
        let outcome = self.advance(buffer);
        if let Err(error) = outcome {
            self.state = State::Failed(error);
        }
        outcome
    }

    fn advance(&mut self, buffer: &mut BytesMut) -> Result<Decoded, BodyError> {
        loop {
            self.state = match self.state {
                State::Done => return Ok(Decoded::Done),
                State::Failed(error) => return Err(error),
                State::Sized { left: 0 } => State::Done,
                State::ChunkData { left: 0 } => State::ChunkEnd(LineEnd::CarriageReturn),
                _ if buffer.is_empty() => return Ok(Decoded::NeedMore),
                State::Sized { left } => {
                    let data = take_data(buffer, left);
                    self.state = State::Sized { left: left - data.len() as u64 };
                    return Ok(Decoded::Data(data));
                }
                State::ChunkData { left } => {
                    let data = take_data(buffer, left);
                    self.state = State::ChunkData { left: left - data.len() as u64 };
                    return Ok(Decoded::Data(data));
                }
                State::ChunkLine(line) => self.read_chunk_line(line, buffer)?,
                State::ChunkEnd(end) => read_chunk_end(end, buffer.get_u8())?,
                State::Trailers(mut scan) => {
                    let Some(section) = scan.advance(buffer, self.trailer_limits)? else {
                        self.state = State::Trailers(scan);
                        return Ok(Decoded::NeedMore);
                    };
                    self.state = State::Done;
                    let section_bytes = buffer.split_to(section.bytes).freeze();
                    if section.lines == 0 {
                        return Ok(Decoded::Done);
                    }
                    return read_trailers(&section_bytes, section.lines).map(Decoded::Trailers);
                }
            }
        }
    }

    /// Reads on in the line of a chunk size, to its end or to that of the buffer.
    fn read_chunk_line(&mut self, mut line: ChunkLine, buffer: &mut BytesMut) -> Result<State, BodyError> {
        for (at, &byte) in buffer.iter().enumerate() {
            line.part = match (line.part, byte) {
                (LinePart::LineFeed, b'\n') => {
                    buffer.advance(at + 1);
                    return self.begin_chunk(line.size);
                }
                (LinePart::LineFeed, _) => return Err(BodyError::BareCarriageReturn),
                (_, b'\n') => return Err(BodyError::BareLineFeed),
                (LinePart::Size { digits: 0 }, b'\r' | b';') => return Err(BodyError::ChunkSize),
                (_, b'\r') => LinePart::LineFeed,
                (LinePart::Size { .. }, b';') => self.count_extension_byte(0)?,
                (LinePart::Size { digits }, _) => {
                    let digit = char::from(byte).to_digit(16).filter(|_| digits < SIZE_DIGITS_MAX);
                    // Sixteen digits fill 64 bits, so nothing is shifted out.
                    line.size = line.size << 4 | u64::from(digit.ok_or(BodyError::ChunkSize)?);
                    LinePart::Size { digits: digits + 1 }
                }
                (LinePart::Extension { .. }, 0..=8 | 11..=31 | 127) => return Err(BodyError::ExtensionByte),
                (LinePart::Extension { bytes }, _) => self.count_extension_byte(bytes)?,
            };
        }
        buffer.clear();
        Ok(State::ChunkLine(line))
    }

    /// One more byte of an extension of which `before` came already.
    fn count_extension_byte(&mut self, before: u16) -> Result<LinePart, BodyError> {
        if before == EXTENSION_BYTES_MAX || self.extensions_left == 0 {
            return Err(BodyError::ExtensionTooLong);
        }
        self.extensions_left -= 1;
        Ok(LinePart::Extension { bytes: before + 1 })
    }

    fn begin_chunk(&mut self, size: u64) -> Result<State, BodyError> {
        if size == 0 {
            return Ok(State::Trailers(SectionScan::default()));
        }
        self.allowance = self.allowance.checked_sub(size).ok_or(BodyError::TooLarge)?;
        Ok(State::ChunkData { left: size })
    }
}

/// Whether a field may not come behind a body (RFC 9110, section 6.5.1): what would change framing, routing, the
/// connection, credentials, or how the content is read. By then all of that is decided, and a server behind us
/// might still act on it.
pub fn is_forbidden_trailer(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "authorization"
            | "connection"
            | "content-encoding"
            | "content-length"
            | "content-range"
            | "content-type"
            | "cookie"
            | "expect"
            | "host"
            | "keep-alive"
            | "max-forwards"
            | "proxy-authorization"
            | "proxy-connection"
            | "range"
            | "set-cookie"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

fn take_data(buffer: &mut BytesMut, left: u64) -> Bytes {
    let length = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
    buffer.split_to(length).freeze()
}

fn read_chunk_end(end: LineEnd, byte: u8) -> Result<State, BodyError> {
    match (end, byte) {
        (LineEnd::CarriageReturn, b'\r') => Ok(State::ChunkEnd(LineEnd::LineFeed)),
        (LineEnd::LineFeed, b'\n') => Ok(State::ChunkLine(ChunkLine::START)),
        _ => Err(BodyError::ChunkEnd),
    }
}

fn read_trailers(section: &Bytes, lines: usize) -> Result<HeaderMap, BodyError> {
    parse_headers(section, lines, |name, _| {
        if is_forbidden_trailer(name) { Err(BodyError::ForbiddenTrailer) } else { Ok(()) }
    })
}

#[cfg(test)]
mod tests;
