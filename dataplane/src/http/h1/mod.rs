//! The HTTP/1.1 server codec: bytes of a peer to request heads and bodies, responses to bytes.
//!
//! It owns no socket, task or clock. The connection above it reads into one buffer and lends it: [`HeadParser`] takes
//! a head from its front, a [`BodyDecoder`] takes the body, and whatever is left is the next request. For the
//! response, [`ResponseFraming`] decides how its end is marked, and [`response`] writes the bytes.
//!
//! The order of a request: [`HeadParser::parse`], [`BodyDecoder::new`] (which refuses a body that is announced too
//! large), [`response::CONTINUE`] when the head [expects](Expectation) it and the handler reads,
//! [`BodyDecoder::decode`] until [`Decoded::Done`], and the next head. An error of either is final: the answer is its
//! `status()`, and then the connection closes, because where the next request starts is not known any more.
//!
//! # What is accepted, and what is refused
//!
//! Two servers in a row that disagree where a request ends let a client smuggle one into another's connection. So
//! wherever readers are known to differ, this one refuses instead of guessing, also where the RFC allows leniency.
//! RFC 9112 is the syntax of HTTP/1.1, RFC 9110 the meaning.
//!
//! | what | here | why |
//! |---|---|---|
//! | line ends | CRLF only; a bare LF or CR is 400 | 9112 2.2 allows a server to accept LF; smuggling lives on it |
//! | empty lines before a request | up to [`EMPTY_LINES_MAX`] | 9112 2.2: some clients send one after a body |
//! | request line | one space between its parts, none around | 9112 3: lenient parsing is allowed, and a risk |
//! | version | `HTTP/1.1`, `HTTP/1.0`; other `HTTP/x.y` is 505, the rest 400 | 9112 2.3: the name is case-sensitive |
//! | target bytes | any but NUL, control characters, space | bytes from 0x80 pass unchanged |
//! | target form | path; `http(s)://host...`; `*` for OPTIONS; `host:port` for CONNECT and nothing else | 9112 3.2 |
//! | `host` | exactly one in 1.1, at most one in 1.0, and valid; else 400 | 9112 3.2 |
//! | host in the target | wins over `host`, and replaces it in the headers | 9112 3.2.2: so nobody behind us sees two |
//! | header name | a token directly before the colon | 9112 5.1: a space there must be 400 |
//! | header value | spaces and tabs around it are cut; inside any byte but NUL and control characters, tab allowed | 9110 5.5 |
//! | folded headers | 400 | 9112 5.2 |
//! | `content-length` | once, digits only, within 64 bits; twice is 400, even with equal values | 9112 6.3 would allow merging equal ones |
//! | `transfer-encoding` | exactly `chunked`, once, in 1.1, and without `content-length`; else 400 | 9112 6.1, 6.3 |
//! | another coding before one final `chunked` | 501 | 9112 6.1 |
//! | `expect` | `100-continue`; anything else is 417; ignored in 1.0 and without a body | 9110 10.1.1 |
//! | `upgrade` | seen when `connection` names it, in 1.1; only WebSocket, all else (`h2c` too) is ignored | 9110 7.8 |
//! | CONNECT with a body | 400 | 9110 9.3.6 gives it no meaning |
//! | chunk size | 1 to 16 hexadecimal digits, nothing around them | 9112 7.1 |
//! | chunk extensions | dropped; at most [`EXTENSION_BYTES_MAX`] a chunk, [`EXTENSIONS_BYTES_MAX`] a body | 9112 7.1.1 |
//! | trailers | within the header limits, never those of [`is_forbidden_trailer`] | 9110 6.5.1 |
//!
//! # Bounds
//!
//! A head never needs more than [`HeaderLimits::bytes`] in the buffer, nor do trailers; chunk lines and data leave it
//! as they come. No byte of a head is searched twice for its end, however it is cut into pieces.
//!
//! A chunk of one byte costs its sender six bytes and us one [`Decoded::Data`]. Nothing here bounds their number but
//! the limit of the body. It needs no other bound: they hold no memory of their own, a connection decodes only when
//! the handler wants more, and the executor's budget makes it yield like any other task. What would be free for the
//! sender, long extensions on tiny chunks, is bounded for the whole body.
//!
//! # What it leaves to others
//!
//! Time-outs, and when to read and write (the connection). The meaning of the path ([`super::target`]). Whether a
//! WebSocket handshake is right ([`super::websocket`]). Headers that name other headers in `connection`: they pass
//! to the handler, and whoever forwards the request must remove them.

mod body;
mod connection;
mod head;
mod headers;
mod replay;
pub mod response;

pub use body::{
    BodyDecoder, BodyError, BodyLimits, Decoded, EXTENSION_BYTES_MAX, EXTENSIONS_BYTES_MAX,
    is_forbidden_trailer,
};
pub(crate) use connection::read_some;
pub use connection::serve;
pub use head::{
    BodyLength, EMPTY_LINES_MAX, Expectation, HeadError, HeadParser, Persistence, RequestHead, Upgrade,
};
pub use headers::{HeaderError, HeaderLimits};
#[doc(hidden)]
pub use replay::fuzz_logic;
pub use response::ResponseFraming;
