//! Responses: how the end of a body is marked, and the bytes of heads, chunks and trailers.
//!
//! The connection, and not the handler, owns the framing: `content-length`, `transfer-encoding` and `connection` of
//! the handler are read as wishes and never copied, so that no handler can make a client see another end of the
//! response than the real one (RFC 9112, section 6.3). Names and values cannot hold line ends, by their types.
//!
//! All responses say `HTTP/1.1`, also to HTTP/1.0 clients: the version is ours, and what such a client does not
//! understand is left out (RFC 9110, section 6.2).
//!
//! Left to others: that a `Sized` body really has that many bytes (the connection must close when it ends early, and
//! cut what is too much), and interim responses other than [`CONTINUE`].

use std::num::NonZeroUsize;

use bytes::{BufMut, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};

use super::body::is_forbidden_trailer;
use super::head::{Persistence, read_decimal};
use super::headers::list_members;

/// The interim response that tells a client to send its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What stands behind the data of each chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// The end of a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What of a request decides how its response is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    method: AskedMethod,
    version: Version,
    persistence: Persistence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AskedMethod {
    Head,
    Connect,
    Other,
}

/// What is known of the size of a response body before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodySize {
    /// This many bytes.
    Exact(u64),
    /// Nothing.
    Unknown,
}

/// What the handler wants of the connection behind the response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// It stays HTTP.
    Stay,
    /// The handler takes it over: an accepted upgrade or CONNECT.
    Tunnel,
}

/// How the end of a response body is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is no body, and nothing says so: the status does.
    NoBody,
    /// No body is sent, but the length that it would have had may be told: HEAD, 304, 205.
    Omitted(Option<u64>),
    /// This many bytes are sent.
    Sized(u64),
    /// Chunks are sent, each with [`ChunkHead`] and [`CHUNK_END`] around it, and then [`LAST_CHUNK`] or [`end_chunks`].
    Chunked,
    /// Bytes are sent until the connection closes.
    UntilClose,
}

/// What becomes of the connection after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// The next request.
    KeepAlive,
    /// It closes.
    Close,
    /// Its bytes belong to the handler.
    Tunnel,
}

/// How a response is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseFraming {
    /// How its end is marked.
    pub body: BodyFraming,
    /// What comes then.
    pub afterwards: Afterwards,
    /// Of the request: an HTTP/1.0 client must be told when the connection stays open.
    version: Version,
}

impl Asked {
    /// For the answer to a head that could not be read: any client understands it, and the connection closes.
    pub const UNREADABLE: Self =
        Self { method: AskedMethod::Other, version: Version::HTTP_10, persistence: Persistence::Close };

    pub(super) fn new(method: &Method, version: Version, persistence: Persistence) -> Self {
        let method = match *method {
            Method::HEAD => AskedMethod::Head,
            Method::CONNECT => AskedMethod::Connect,
            _ => AskedMethod::Other,
        };
        Self { method, version, persistence }
    }

    /// The same, for a connection that must not go on: it drains, or the body of the request was not read.
    #[must_use]
    pub fn closing(self) -> Self {
        Self { persistence: Persistence::Close, ..self }
    }
}

impl ResponseFraming {
    /// Decides how a response is framed (RFC 9112, section 6). `headers` are those of the handler.
    ///
    /// A final response with a 1xx status is a mistake of the handler, as are a 101 and a CONNECT accepted without
    /// anybody to take the connection over: the client would wait for ever, so the connection closes behind them.
    pub fn decide(
        asked: Asked,
        status: StatusCode,
        headers: &HeaderMap,
        size: BodySize,
        switch: Switch,
    ) -> Self {
        let body = frame_body(asked, status, headers, size);
        let switches = status == StatusCode::SWITCHING_PROTOCOLS || asked.accepts_connect(status);
        let afterwards = if switches && switch == Switch::Tunnel {
            Afterwards::Tunnel
        } else if switches
            || status.is_informational()
            || body == BodyFraming::UntilClose
            || asked.persistence == Persistence::Close
            || wants_close(headers)
        {
            Afterwards::Close
        } else {
            Afterwards::KeepAlive
        };
        Self { body, afterwards, version: asked.version }
    }
}

impl Asked {
    fn accepts_connect(self, status: StatusCode) -> bool {
        self.method == AskedMethod::Connect && status.is_success()
    }
}

fn frame_body(asked: Asked, status: StatusCode, headers: &HeaderMap, size: BodySize) -> BodyFraming {
    if status.is_informational() || status == StatusCode::NO_CONTENT || asked.accepts_connect(status) {
        return BodyFraming::NoBody;
    }
    if status == StatusCode::RESET_CONTENT {
        return BodyFraming::Omitted(Some(0));
    }
    if status == StatusCode::NOT_MODIFIED {
        return BodyFraming::Omitted(announced_length(headers));
    }
    match size {
        // An empty body of a HEAD response says nothing about that of GET: handlers leave it out.
        BodySize::Exact(bytes) if asked.method == AskedMethod::Head && bytes > 0 => {
            BodyFraming::Omitted(Some(bytes))
        }
        _ if asked.method == AskedMethod::Head => BodyFraming::Omitted(announced_length(headers)),
        BodySize::Exact(bytes) => BodyFraming::Sized(bytes),
        BodySize::Unknown if asked.version == Version::HTTP_11 => BodyFraming::Chunked,
        BodySize::Unknown => BodyFraming::UntilClose,
    }
}

/// The one length that the handler announced, if it is a number.
fn announced_length(headers: &HeaderMap) -> Option<u64> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next()?;
    if lengths.next().is_some() { None } else { read_decimal(length.as_bytes()) }
}

fn wants_close(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION);
    values
        .iter()
        .flat_map(|value| list_members(value.as_bytes()))
        .any(|option| option.eq_ignore_ascii_case(b"close"))
}

/// Appends the head of a response: status line, our framing headers, the handler's other headers, and `date` unless
/// the handler has set one.
pub fn encode_head(
    out: &mut BytesMut,
    status: StatusCode,
    headers: &HeaderMap,
    framing: &ResponseFraming,
    date: &[u8; 29],
) {
    out.reserve(OWN_BYTES + headers.iter().map(line_length).sum::<usize>());
    put_status_line(out, status);
    match framing.body {
        BodyFraming::Sized(bytes) | BodyFraming::Omitted(Some(bytes)) => {
            out.put_slice(b"content-length: ");
            put_decimal(out, bytes);
            out.put_slice(b"\r\n");
        }
        BodyFraming::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
        BodyFraming::NoBody | BodyFraming::Omitted(None) | BodyFraming::UntilClose => {}
    }
    let mut seen = Seen { date: false, upgrade: false };
    for (name, value) in headers {
        if is_ours(name) {
            continue;
        }
        seen.date |= *name == header::DATE;
        seen.upgrade |= *name == header::UPGRADE;
        put_line(out, name, value);
    }
    put_connection(out, framing, &seen);
    if !seen.date {
        out.put_slice(b"date: ");
        out.put_slice(date);
        out.put_slice(b"\r\n");
    }
    out.put_slice(b"\r\n");
}

/// Bytes of a head beside the handler's headers, at most: a status line with the longest reason, a length of 20
/// digits, `connection: close, upgrade`, the date. The buffer grows if a reason should be longer.
const OWN_BYTES: usize = 192;

/// Headers of the handler that were seen on the way.
struct Seen {
    date: bool,
    upgrade: bool,
}

/// Headers that only the connection may write. `keep-alive` and `proxy-connection` are not registered, and would say
/// something about a connection that the handler does not know.
fn is_ours(name: &HeaderName) -> bool {
    *name == header::CONTENT_LENGTH
        || *name == header::TRANSFER_ENCODING
        || *name == header::CONNECTION
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// `upgrade` must be named in `connection` wherever it stands: in a 101, and in a 426 that offers it (RFC 9110,
/// section 7.8).
fn put_connection(out: &mut BytesMut, framing: &ResponseFraming, seen: &Seen) {
    let stays_open_in_1_0 =
        framing.afterwards == Afterwards::KeepAlive && framing.version == Version::HTTP_10;
    let line: &[u8] = match (framing.afterwards == Afterwards::Close, seen.upgrade) {
        (true, true) => b"connection: close, upgrade\r\n",
        (true, false) => b"connection: close\r\n",
        (false, true) if stays_open_in_1_0 => b"connection: keep-alive, upgrade\r\n",
        (false, true) => b"connection: upgrade\r\n",
        (false, false) if stays_open_in_1_0 => b"connection: keep-alive\r\n",
        (false, false) => b"",
    };
    out.put_slice(line);
}

fn line_length((name, value): (&HeaderName, &HeaderValue)) -> usize {
    name.as_str().len() + b": ".len() + value.len() + b"\r\n".len()
}

fn put_line(out: &mut BytesMut, name: &HeaderName, value: &HeaderValue) {
    out.put_slice(name.as_str().as_bytes());
    out.put_slice(b": ");
    out.put_slice(value.as_bytes());
    out.put_slice(b"\r\n");
}

/// The lines of the commonest statuses stand whole, the others are put together.
fn put_status_line(out: &mut BytesMut, status: StatusCode) {
    let line: &[u8] = match status.as_u16() {
        101 => b"HTTP/1.1 101 Switching Protocols\r\n",
        200 => b"HTTP/1.1 200 OK\r\n",
        204 => b"HTTP/1.1 204 No Content\r\n",
        206 => b"HTTP/1.1 206 Partial Content\r\n",
        302 => b"HTTP/1.1 302 Found\r\n",
        304 => b"HTTP/1.1 304 Not Modified\r\n",
        400 => b"HTTP/1.1 400 Bad Request\r\n",
        403 => b"HTTP/1.1 403 Forbidden\r\n",
        404 => b"HTTP/1.1 404 Not Found\r\n",
        500 => b"HTTP/1.1 500 Internal Server Error\r\n",
        503 => b"HTTP/1.1 503 Service Unavailable\r\n",
        _ => {
            out.put_slice(b"HTTP/1.1 ");
            out.put_slice(status.as_str().as_bytes());
            // The space is required, the reason behind it is not (RFC 9112, section 4).
            out.put_slice(b" ");
            out.put_slice(status.canonical_reason().unwrap_or("").as_bytes());
            b"\r\n"
        }
    };
    out.put_slice(line);
}

fn put_decimal(out: &mut BytesMut, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.put_slice(&digits[start..]);
}

/// What stands before the data of a chunk. A chunk of no bytes would be the last one, so there is none.
#[derive(Clone, Copy, Debug)]
pub struct ChunkHead {
    bytes: [u8; Self::BYTES_MAX],
    start: u8,
}

impl ChunkHead {
    /// Sixteen digits and CRLF.
    const BYTES_MAX: usize = 18;

    /// For a chunk of `length` bytes.
    pub fn new(length: NonZeroUsize) -> Self {
        let mut bytes = [0; Self::BYTES_MAX];
        let mut start = Self::BYTES_MAX - CHUNK_END.len();
        bytes[start..].copy_from_slice(CHUNK_END);
        let mut left = length.get();
        while left > 0 {
            start -= 1;
            bytes[start] = b"0123456789abcdef"[left % 16];
            left /= 16;
        }
        Self { bytes, start: start as u8 }
    }
}

impl AsRef<[u8]> for ChunkHead {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[usize::from(self.start)..]
    }
}

/// Appends the end of a chunked body with trailers. Those that may not be sent there are left out.
pub fn end_chunks(out: &mut BytesMut, trailers: &HeaderMap) {
    out.put_slice(b"0\r\n");
    for (name, value) in trailers {
        if !is_forbidden_trailer(name) {
            put_line(out, name, value);
        }
    }
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
