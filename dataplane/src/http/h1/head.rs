//! Request heads: request line and headers, and what they say about body, connection and host.
//!
//! The parser waits until the head is whole, remembering how far it looked, then takes it from the buffer at once.
//! Target, host and header values are slices of those bytes: nothing is copied but header names that are not
//! standard. The price: whoever keeps one of them keeps the whole read buffer, so what outlives the request is copied.
//!
//! Invariants:
//! - nothing is consumed before the head is whole, but empty lines before it;
//! - an error is final, and the same however the bytes were cut into pieces;
//! - the length of the body is certain: `None`, `Sized` and `Chunked` are each stated in one way only;
//! - `host` is valid where it is not empty, and then the one `host` header has the same bytes.
//!
//! The table of what is refused is in [`super`].

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};
use memchr::memchr;

use super::headers::{
    HeaderError, HeaderLimits, SectionScan, has_bare_carriage_return, list_members, parse_headers,
};
use super::response::Asked;
use crate::http::target::Host;

/// Empty lines that may come before a request. RFC 9112, section 2.2, asks for one; two in a row come from clients
/// that end a body with an empty line and then repair a missing one.
pub const EMPTY_LINES_MAX: u8 = 2;

/// A request, up to its body.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method. Its case matters.
    pub method: Method,
    /// The request target, byte for byte.
    pub target: Bytes,
    /// HTTP/1.1 or HTTP/1.0.
    pub version: Version,
    /// All headers, their values byte for byte without white space around them.
    pub headers: HeaderMap,
    /// What follows the head.
    pub body: BodyLength,
    /// What the client wants of the connection afterwards.
    pub persistence: Persistence,
    /// Whether the client waits before it sends the body.
    pub expects: Expectation,
    /// Another protocol that the client would go on with.
    pub upgrade: Option<Upgrade>,
    /// The host that the request is for, with its port if it has one: of the target, else of the `host` header. Empty
    /// in HTTP/1.0 without either.
    pub host: Bytes,
}

/// How the end of a request body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body. A `content-length` of 0 is the same.
    None,
    /// This many bytes, at least one.
    Sized(u64),
    /// Chunks up to an empty one.
    Chunked,
}

/// Whether the connection serves another request afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// It may.
    KeepAlive,
    /// It does not.
    Close,
}

/// Whether the client waits for `100 Continue` before it sends the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// It does not wait.
    None,
    /// It waits, though not for ever.
    Continue,
}

/// A protocol to switch to, of those that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// `websocket`, RFC 6455.
    WebSocket,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// More than [`EMPTY_LINES_MAX`] empty lines.
    #[error("too many empty lines before the request; send none")]
    EmptyLines,
    /// Not three parts with one space between them.
    #[error("the request line is not a method, a target and a version with one space between them")]
    RequestLine,
    /// The method is no token.
    #[error("the method is not a token; use letters")]
    Method,
    /// A well-formed version other than 1.0 and 1.1, such as that of the HTTP/2 preface.
    #[error("the HTTP version is not spoken here; use HTTP/1.1")]
    Version,
    /// The request line alone does not fit into [`HeaderLimits::bytes`].
    #[error("the request target is longer than the limit; send a shorter one")]
    TargetTooLong,
    /// A control character in the target.
    #[error("the request target holds a control character; escape it")]
    TargetByte,
    /// A form of target that this method does not have.
    #[error("the request target is not of a form that goes with the method; send a path")]
    TargetForm,
    /// A fault in the header lines.
    #[error(transparent)]
    Headers(#[from] HeaderError),
    /// HTTP/1.1 without `host`.
    #[error("the request has no host header; HTTP/1.1 requires one")]
    HostMissing,
    /// More than one `host`.
    #[error("the request has more than one host header; send one")]
    HostRepeated,
    /// A `host` header, or the host in the target, that names no host.
    #[error("the request names a host that is not valid; send a name or an address, and perhaps a port")]
    Host,
    /// Not a decimal number within 64 bits.
    #[error("the content-length is not a decimal number; send digits only")]
    ContentLength,
    /// More than one header line of it, even where all agree.
    #[error("the request has more than one content-length; send one")]
    ContentLengthRepeated,
    /// Not exactly one `chunked`.
    #[error("the transfer-encoding does not end with one chunked; send exactly that")]
    TransferEncoding,
    /// Both, which two readers may weigh differently.
    #[error("the request has both transfer-encoding and content-length; send one of them")]
    TransferEncodingAndLength,
    /// HTTP/1.0 has no chunks.
    #[error("an HTTP/1.0 request has a transfer-encoding; use HTTP/1.1")]
    TransferEncodingVersion,
    /// Another coding before the final `chunked`.
    #[error("the request body has a transfer coding that is not implemented; send chunked alone")]
    TransferCoding,
    /// An expectation other than `100-continue`.
    #[error("the request expects something other than 100-continue; leave it out")]
    Expectation,
    /// CONNECT with `content-length` or `transfer-encoding`.
    #[error("a CONNECT request announces a body; it has none")]
    ConnectBody,
}

impl HeadError {
    /// All reasons, for registering their counters.
    pub const ALL: [Self; 25] = [
        Self::EmptyLines,
        Self::RequestLine,
        Self::Method,
        Self::Version,
        Self::TargetTooLong,
        Self::TargetByte,
        Self::TargetForm,
        Self::Headers(HeaderError::BareLineFeed),
        Self::Headers(HeaderError::BareCarriageReturn),
        Self::Headers(HeaderError::Folded),
        Self::Headers(HeaderError::Name),
        Self::Headers(HeaderError::Value),
        Self::Headers(HeaderError::TooLarge),
        Self::Headers(HeaderError::TooMany),
        Self::HostMissing,
        Self::HostRepeated,
        Self::Host,
        Self::ContentLength,
        Self::ContentLengthRepeated,
        Self::TransferEncoding,
        Self::TransferEncodingAndLength,
        Self::TransferEncodingVersion,
        Self::TransferCoding,
        Self::Expectation,
        Self::ConnectBody,
    ];

    /// The status of the answer. The connection closes after it.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::Headers(HeaderError::TooLarge | HeaderError::TooMany) => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// A stable name of the reason, for counters and logs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::EmptyLines => "empty_lines",
            Self::RequestLine => "request_line",
            Self::Method => "method",
            Self::Version => "version",
            Self::TargetTooLong => "target_too_long",
            Self::TargetByte => "target_byte",
            Self::TargetForm => "target_form",
            Self::Headers(HeaderError::BareLineFeed) => "bare_line_feed",
            Self::Headers(HeaderError::BareCarriageReturn) => "bare_carriage_return",
            Self::Headers(HeaderError::Folded) => "header_folded",
            Self::Headers(HeaderError::Name) => "header_name",
            Self::Headers(HeaderError::Value) => "header_value",
            Self::Headers(HeaderError::TooLarge) => "headers_too_large",
            Self::Headers(HeaderError::TooMany) => "headers_too_many",
            Self::HostMissing => "host_missing",
            Self::HostRepeated => "host_repeated",
            Self::Host => "host",
            Self::ContentLength => "content_length",
            Self::ContentLengthRepeated => "content_length_repeated",
            Self::TransferEncoding => "transfer_encoding",
            Self::TransferEncodingAndLength => "transfer_encoding_and_length",
            Self::TransferEncodingVersion => "transfer_encoding_version",
            Self::TransferCoding => "transfer_coding",
            Self::Expectation => "expectation",
            Self::ConnectBody => "connect_body",
        }
    }
}

/// Takes request heads from the front of a buffer, one after the other.
#[derive(Clone, Debug, Default)]
pub struct HeadParser {
    empty_lines: u8,
    scan: SectionScan,
    failed: Option<HeadError>,
}

impl HeadParser {
    /// Takes a head if the buffer starts with a whole one. `None` asks for more bytes behind those that are there, of
    /// which there are then fewer than `limits.bytes`; an empty buffer then tells that no request has begun.
    ///
    /// After an error nothing more can be read from this connection, and each further call repeats the error.
    pub fn parse(
        &mut self,
        buffer: &mut BytesMut,
        limits: HeaderLimits,
    ) -> Result<Option<RequestHead>, HeadError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let outcome = self.take(buffer, limits);
        self.failed = outcome.as_ref().err().copied();
        outcome
    }

    fn take(
        &mut self,
        buffer: &mut BytesMut,
        limits: HeaderLimits,
    ) -> Result<Option<RequestHead>, HeadError> {
        self.skip_empty_lines(buffer)?;
        match buffer.first() {
            None | Some(b'\r') => return Ok(None),
            // Told at once, so that a client that speaks TLS to a clear port does not wait for a time-out.
            Some(&byte) if byte != b'\n' && !is_token(byte) => return Err(HeadError::Method),
            Some(_) => {}
        }
        // The scan counts the request line too.
        let scan_limits = HeaderLimits { bytes: limits.bytes, count: limits.count.saturating_add(1) };
        let section = match self.scan.advance(buffer, scan_limits) {
            Ok(None) => return Ok(None),
            Ok(Some(section)) => section,
            Err(HeaderError::TooLarge) if self.scan.is_in_first_line() => {
                return Err(HeadError::TargetTooLong);
            }
            Err(error) => return Err(error.into()),
        };
        *self = Self::default();
        let head = buffer.split_to(section.bytes).freeze();
        read_head(&head, section.lines - 1).map(Some)
    }

    fn skip_empty_lines(&mut self, buffer: &mut BytesMut) -> Result<(), HeadError> {
        while let [b'\r', next, ..] = **buffer {
            if next != b'\n' {
                return Err(HeaderError::BareCarriageReturn.into());
            }
            if self.empty_lines == EMPTY_LINES_MAX {
                return Err(HeadError::EmptyLines);
            }
            self.empty_lines += 1;
            buffer.advance(b"\r\n".len());
        }
        Ok(())
    }
}

impl RequestHead {
    /// What must be remembered of the request to frame its response, when the rest has gone to a handler.
    pub fn asked(&self) -> Asked {
        Asked::new(&self.method, self.version, self.persistence)
    }
}

/// What the headers say that concerns the codec, noted as they are read.
#[derive(Default)]
struct Noted {
    host: Option<Bytes>,
    content_length: Option<u64>,
    transfer_encoding: Option<TransferEncoding>,
    /// `connection` has `close`, `keep-alive`, `upgrade`.
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    /// `upgrade` has `websocket`.
    websocket: bool,
    expects_continue: bool,
    expects_other: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TransferEncoding {
    Chunked,
    /// Others, and one `chunked` at the end.
    NotImplemented,
}

/// Reads a head that is whole and has `lines` header lines.
fn read_head(head: &Bytes, lines: usize) -> Result<RequestHead, HeadError> {
    let line_end = memchr(b'\n', head).map_or(head.len(), |at| at + 1);
    let (method, target, version) = read_request_line(&head[..line_end])?;
    let target = head.slice_ref(target);

    let mut noted = Noted::default();
    let mut headers = parse_headers(&head.slice(line_end..), lines, |name, value| noted.see(name, value))?;
    let body = noted.body(&method, version)?;
    if let Some(host) = noted.host.as_deref() {
        Host::parse(host).map_err(|_| HeadError::Host)?;
    } else if version == Version::HTTP_11 {
        return Err(HeadError::HostMissing);
    }
    let host = match host_in_target(&method, &target)? {
        Some(host) => {
            let value = HeaderValue::from_maybe_shared(host.clone()).map_err(|_| HeadError::Host)?;
            headers.insert(header::HOST, value);
            host
        }
        None => noted.host.take().unwrap_or_default(),
    };
    Ok(RequestHead {
        expects: noted.expects(version, body)?,
        persistence: noted.persistence(version),
        upgrade: noted.upgrade(version),
        method,
        target,
        version,
        headers,
        body,
        host,
    })
}

/// Splits the request line. It ends with CRLF, which the scan has seen.
fn read_request_line(line: &[u8]) -> Result<(Method, &[u8], Version), HeadError> {
    if has_bare_carriage_return(line) {
        return Err(HeaderError::BareCarriageReturn.into());
    }
    let line = line.strip_suffix(b"\r\n").unwrap_or(line);
    let method_end = memchr(b' ', line).ok_or(HeadError::RequestLine)?;
    let method = Method::from_bytes(&line[..method_end]).map_err(|_| HeadError::Method)?;
    let rest = &line[method_end + 1..];
    let target_end = memchr(b' ', rest).ok_or(HeadError::RequestLine)?;
    let (target, version) = (&rest[..target_end], &rest[target_end + 1..]);
    if target.is_empty() {
        return Err(HeadError::RequestLine);
    }
    if target.iter().any(u8::is_ascii_control) {
        return Err(HeadError::TargetByte);
    }
    let version = match version {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Err(HeadError::Version),
        _ => return Err(HeadError::RequestLine),
    };
    Ok((method, target, version))
}

/// The host that the target names, if it is of a form that names one (RFC 9112, section 3.2).
fn host_in_target(method: &Method, target: &Bytes) -> Result<Option<Bytes>, HeadError> {
    if *method == Method::CONNECT {
        return check_authority(target).map(|()| Some(target.clone()));
    }
    match &target[..] {
        [b'/', ..] => Ok(None),
        b"*" if *method == Method::OPTIONS => Ok(None),
        _ => {
            let start = authority_start(target).ok_or(HeadError::TargetForm)?;
            let rest = &target[start..];
            let length = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
            let host = target.slice(start..start + length);
            Host::parse(&host).map_err(|_| HeadError::Host)?;
            Ok(Some(host))
        }
    }
}

/// Where the authority of an absolute target starts; `None` for what is no `http` or `https` URL.
fn authority_start(target: &[u8]) -> Option<usize> {
    let is_scheme = |scheme: &&str| {
        target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
    };
    ["http://", "https://"].into_iter().find(is_scheme).map(str::len)
}

/// `host:port`, neither of them empty: all that CONNECT takes.
fn check_authority(target: &[u8]) -> Result<(), HeadError> {
    let port = target.iter().rposition(|&byte| byte == b':').ok_or(HeadError::TargetForm)? + 1;
    if port == target.len() || !target[port..].iter().all(u8::is_ascii_digit) {
        return Err(HeadError::TargetForm);
    }
    Host::parse(target).map(|_| ()).map_err(|_| HeadError::Host)
}

impl Noted {
    fn see(&mut self, name: &HeaderName, value: &Bytes) -> Result<(), HeadError> {
        if *name == header::HOST {
            if self.host.replace(value.clone()).is_some() {
                return Err(HeadError::HostRepeated);
            }
        } else if *name == header::CONTENT_LENGTH {
            if self.content_length.is_some() {
                return Err(HeadError::ContentLengthRepeated);
            }
            self.content_length = Some(read_decimal(value).ok_or(HeadError::ContentLength)?);
        } else if *name == header::TRANSFER_ENCODING {
            if self.transfer_encoding.is_some() {
                return Err(HeadError::TransferEncoding);
            }
            self.transfer_encoding = Some(read_transfer_encoding(value)?);
        } else if *name == header::CONNECTION {
            for option in list_members(value) {
                self.close |= option.eq_ignore_ascii_case(b"close");
                self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                self.upgrade |= option.eq_ignore_ascii_case(b"upgrade");
            }
        } else if *name == header::UPGRADE {
            self.websocket |= list_members(value).any(|token| token.eq_ignore_ascii_case(b"websocket"));
        } else if *name == header::EXPECT {
            for expectation in list_members(value) {
                let known = expectation.eq_ignore_ascii_case(b"100-continue");
                self.expects_continue |= known;
                self.expects_other |= !known;
            }
        }
        Ok(())
    }

    fn body(&self, method: &Method, version: Version) -> Result<BodyLength, HeadError> {
        let announced = self.content_length.is_some() || self.transfer_encoding.is_some();
        if announced && *method == Method::CONNECT {
            return Err(HeadError::ConnectBody);
        }
        match (self.transfer_encoding, self.content_length) {
            (Some(_), Some(_)) => Err(HeadError::TransferEncodingAndLength),
            (Some(_), None) if version == Version::HTTP_10 => Err(HeadError::TransferEncodingVersion),
            (Some(TransferEncoding::NotImplemented), None) => Err(HeadError::TransferCoding),
            (Some(TransferEncoding::Chunked), None) => Ok(BodyLength::Chunked),
            (None, None | Some(0)) => Ok(BodyLength::None),
            (None, Some(bytes)) => Ok(BodyLength::Sized(bytes)),
        }
    }

    /// A client that sends no body waits for nothing, so its expectation is dropped.
    fn expects(&self, version: Version, body: BodyLength) -> Result<Expectation, HeadError> {
        if version == Version::HTTP_10 {
            Ok(Expectation::None)
        } else if self.expects_other {
            Err(HeadError::Expectation)
        } else if self.expects_continue && body != BodyLength::None {
            Ok(Expectation::Continue)
        } else {
            Ok(Expectation::None)
        }
    }

    fn persistence(&self, version: Version) -> Persistence {
        if self.close || (version == Version::HTTP_10 && !self.keep_alive) {
            Persistence::Close
        } else {
            Persistence::KeepAlive
        }
    }

    fn upgrade(&self, version: Version) -> Option<Upgrade> {
        (version == Version::HTTP_11 && self.upgrade && self.websocket).then_some(Upgrade::WebSocket)
    }
}

/// Digits only, at least one, within 64 bits. `str::parse` would also take a plus sign.
pub(super) fn read_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, &digit| {
        let digit = char::from(digit).to_digit(10)?;
        sum.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Reads the one `transfer-encoding` line. Empty members, which the RFC would have us skip, are refused with all else
/// that is not plain.
fn read_transfer_encoding(value: &[u8]) -> Result<TransferEncoding, HeadError> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(TransferEncoding::Chunked);
    }
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let codings = list_members(value).count();
    let only_the_last_is_chunked =
        list_members(value).enumerate().all(|(n, coding)| is_chunked(coding) == (n + 1 == codings));
    let any_is_empty = list_members(value).any(<[u8]>::is_empty);
    if only_the_last_is_chunked && !any_is_empty {
        Ok(TransferEncoding::NotImplemented)
    } else {
        Err(HeadError::TransferEncoding)
    }
}

/// A character of a token (RFC 9110, section 5.6.2), of which methods are made.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
