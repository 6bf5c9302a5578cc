//! Reads a stream of bytes as a connection would, and compares what comes of it when it arrives whole, byte by byte,
//! and in pieces: the one call of the fuzz target, and the ground of the property tests.

use std::fmt::Write as _;

use bytes::BytesMut;

use super::body::{BodyDecoder, BodyLimits, Decoded};
use super::head::{BodyLength, HeadParser, Persistence};
use super::headers::HeaderLimits;

/// Small, so that a fuzzer reaches them.
pub(super) const LIMITS: BodyLimits =
    BodyLimits { bytes: 200, trailers: HeaderLimits { bytes: 512, count: 8 } };

/// Bytes that may wait in the buffer when the codec asks for more: a head or trailers, not quite whole.
const WAITING_BYTES_MAX: usize = LIMITS.trailers.bytes;

/// Parses the bytes whole and cut, and panics if that makes a difference or if a bound is broken. The first byte
/// decides the size of the pieces.
#[doc(hidden)]
pub fn fuzz_logic(data: &[u8]) {
    let Some((&seed, stream)) = data.split_first() else { return };
    let whole = replay(stream.chunks(stream.len().max(1)));
    assert_eq!(whole, replay(stream.chunks(1)), "byte by byte it reads differently");
    assert_eq!(whole, replay(stream.chunks(2 + usize::from(seed))), "in pieces it reads differently");
}

/// What a connection makes of the pieces, as text: heads, bodies, trailers, and the error at its end.
pub(super) fn replay<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> String {
    let mut reader = Reader::default();
    let mut buffer = BytesMut::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while reader.step(&mut buffer) == Step::Again {}
        if reader.state == State::Ended {
            break;
        }
        assert!(buffer.len() <= WAITING_BYTES_MAX, "{} bytes wait", buffer.len());
    }
    reader.told
}

#[derive(Default)]
struct Reader {
    heads: HeadParser,
    body: Option<BodyDecoder>,
    /// Of the body that is being read.
    body_bytes: u64,
    persistence: Option<Persistence>,
    state: State,
    told: String,
}

#[derive(Default, PartialEq, Eq)]
enum State {
    #[default]
    Reading,
    Ended,
}

#[derive(PartialEq, Eq)]
enum Step {
    Again,
    Wait,
}

impl Reader {
    fn step(&mut self, buffer: &mut BytesMut) -> Step {
        if self.state == State::Ended {
            return Step::Wait;
        }
        match self.body.is_some() {
            true => self.step_body(buffer),
            false => self.step_head(buffer),
        }
    }

    fn step_head(&mut self, buffer: &mut BytesMut) -> Step {
        if self.persistence == Some(Persistence::Close) {
            return self.end("closed");
        }
        let head = match self.heads.parse(buffer, LIMITS.trailers) {
            Ok(Some(head)) => head,
            Ok(None) => return Step::Wait,
            Err(error) => {
                assert_eq!(self.heads.parse(buffer, LIMITS.trailers).err(), Some(error), "an error is final");
                return self.end(error.reason());
            }
        };
        assert!(head.headers.len() <= LIMITS.trailers.count + 1, "one more at most: the host of the target");
        if !head.host.is_empty() {
            assert_eq!(head.headers[http::header::HOST].as_bytes(), head.host, "there is one host");
        }
        self.persistence = Some(head.persistence);
        self.tell(format_args!("{head:?}"));
        self.body_bytes = 0;
        match BodyDecoder::new(head.body, LIMITS) {
            Ok(_) if head.body == BodyLength::None => {}
            Ok(body) => self.body = Some(body),
            Err(error) => return self.end(error.reason()),
        }
        Step::Again
    }

    fn step_body(&mut self, buffer: &mut BytesMut) -> Step {
        let Some(body) = &mut self.body else { return Step::Again };
        match body.decode(buffer) {
            Ok(Decoded::NeedMore) => return Step::Wait,
            Ok(Decoded::Data(data)) => {
                assert!(!data.is_empty());
                self.body_bytes += data.len() as u64;
                assert!(self.body_bytes <= LIMITS.bytes);
                // Not a line of its own: how data are cut is not part of the result.
                self.told.push_str(&data.escape_ascii().to_string());
            }
            Ok(Decoded::Trailers(trailers)) => self.tell(format_args!("{trailers:?}")),
            Ok(Decoded::Done) => {
                self.body = None;
                self.tell(format_args!("done"));
            }
            Err(error) => {
                assert_eq!(body.decode(buffer), Err(error), "an error is final");
                return self.end(error.reason());
            }
        }
        Step::Again
    }

    fn end(&mut self, why: &str) -> Step {
        self.state = State::Ended;
        self.tell(format_args!("{why}"));
        Step::Wait
    }

    fn tell(&mut self, what: std::fmt::Arguments<'_>) {
        writeln!(self.told, "\n{what}").expect("writing to a string succeeds");
    }
}

#[cfg(test)]
mod tests;
