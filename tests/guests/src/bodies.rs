//! Bodies: writing one, reading one, and moving one from where it comes in to where it goes out.
//!
//! Nothing here holds more than one chunk. Writers ask `check-write` how much the host will take and wait for its
//! pollable when that is nothing; readers wait for theirs when nothing is there. Streams are dropped before the body
//! that they belong to is finished, because the host traps otherwise: the order of fields in a struct sees to it.

use std::fmt::Write;

use wasip2::http::types::{
    ErrorCode, Fields, FutureTrailers, IncomingBody, IncomingRequest, OutgoingBody, OutgoingResponse,
    ResponseOutparam,
};
use wasip2::io::poll::Pollable;
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

use crate::answers;
use crate::failure::Failure;

/// What one read takes at most.
const CHUNK_BYTES: u64 = 64 * 1024;

/// A body that is being written. Dropped without `finish`, it has no proper end, which its reader can see.
pub(crate) struct Writer {
    stream: OutputStream,
    body: OutgoingBody,
}

impl Writer {
    pub(crate) fn new(body: OutgoingBody) -> Self {
        Self { stream: body.write().expect("a body has one stream, taken here"), body }
    }

    /// Writes all of it, waiting whenever the host takes no more.
    pub(crate) fn write(&self, mut bytes: &[u8]) -> Result<(), StreamError> {
        while !bytes.is_empty() {
            let room = self.stream.check_write()?;
            if room == 0 {
                self.stream.subscribe().block();
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            self.stream.write(now)?;
            bytes = later;
        }
        Ok(())
    }

    /// Waits until the host has passed on what was written.
    pub(crate) fn flush(&self) -> Result<(), StreamError> {
        self.stream.blocking_flush()
    }

    pub(crate) fn finish(self, trailers: Option<Fields>) -> Result<(), Failure> {
        drop(self.stream);
        Ok(OutgoingBody::finish(self.body, trailers)?)
    }
}

/// A body that is being read.
pub(crate) struct Reader {
    stream: InputStream,
    body: IncomingBody,
}

impl Reader {
    pub(crate) fn new(body: IncomingBody) -> Self {
        Self { stream: body.stream().expect("a body has one stream, taken here"), body }
    }

    /// The next bytes, at least one, or `None` at the end.
    pub(crate) fn read(&self) -> Result<Option<Vec<u8>>, StreamError> {
        loop {
            match self.stream.read(CHUNK_BYTES) {
                Ok(bytes) if bytes.is_empty() => self.stream.subscribe().block(),
                Ok(bytes) => return Ok(Some(bytes)),
                Err(StreamError::Closed) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// What follows the end.
    pub(crate) fn trailers(self) -> Result<Option<Fields>, Failure> {
        drop(self.stream);
        let trailers = IncomingBody::finish(self.body);
        trailers.subscribe().block();
        Ok(take(&trailers)?)
    }
}

/// The trailers, once their pollable is ready.
fn take(trailers: &FutureTrailers) -> Result<Option<Fields>, ErrorCode> {
    trailers.get().expect("the pollable was ready").expect("nobody took them before")
}

/// One body on its way from a reader to a writer, its trailers included. It never waits by itself, so that several
/// can be moved at once.
pub(crate) enum Relay {
    Body { reader: Reader, writer: Writer, is_flushed: bool },
    Trailers { trailers: FutureTrailers, writer: Writer },
    Done,
}

/// What a relay did with its turn.
pub(crate) enum Step {
    /// Something; there may be more to do.
    Moved,
    /// Nothing before this is ready. To be dropped before the next turn: it belongs to a stream of the relay.
    WaitFor(Pollable),
    /// Nothing, now and later.
    Done,
}

impl Relay {
    pub(crate) fn new(reader: Reader, writer: Writer) -> Self {
        Self::Body { reader, writer, is_flushed: true }
    }

    /// Moves one chunk, or a step further at the end of the body.
    pub(crate) fn step(&mut self) -> Result<Step, Failure> {
        match self {
            Self::Body { reader, writer, is_flushed } => {
                if let Some(step) = move_chunk(reader, writer, is_flushed)? {
                    return Ok(step);
                }
                if let Self::Body { reader, writer, .. } = std::mem::replace(self, Self::Done) {
                    drop(reader.stream);
                    *self = Self::Trailers { trailers: IncomingBody::finish(reader.body), writer };
                }
                Ok(Step::Moved)
            }
            Self::Trailers { trailers, .. } => {
                let pollable = trailers.subscribe();
                if !pollable.ready() {
                    return Ok(Step::WaitFor(pollable));
                }
                drop(pollable);
                if let Self::Trailers { trailers, writer } = std::mem::replace(self, Self::Done) {
                    writer.finish(take(&trailers)?)?;
                }
                Ok(Step::Done)
            }
            Self::Done => Ok(Step::Done),
        }
    }

    /// Moves all of it, waiting where it has to.
    pub(crate) fn run(mut self) -> Result<(), Failure> {
        loop {
            match self.step()? {
                Step::Moved => {}
                Step::WaitFor(pollable) => pollable.block(),
                Step::Done => return Ok(()),
            }
        }
    }
}

/// Moves one chunk; `None` at the end of the body. What was written is flushed before a wait for more: it must not
/// wait for what is still to come.
fn move_chunk(reader: &Reader, writer: &Writer, is_flushed: &mut bool) -> Result<Option<Step>, StreamError> {
    let room = writer.stream.check_write()?;
    if room == 0 {
        return Ok(Some(Step::WaitFor(writer.stream.subscribe())));
    }
    match reader.stream.read(room.min(CHUNK_BYTES)) {
        Ok(bytes) if bytes.is_empty() && *is_flushed => Ok(Some(Step::WaitFor(reader.stream.subscribe()))),
        Ok(bytes) if bytes.is_empty() => {
            writer.stream.flush()?;
            *is_flushed = true;
            Ok(Some(Step::Moved))
        }
        Ok(bytes) => {
            writer.stream.write(&bytes)?;
            *is_flushed = false;
            Ok(Some(Step::Moved))
        }
        Err(StreamError::Closed) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets a head and returns the body that follows it.
pub(crate) fn begin(out: ResponseOutparam, status: u16, headers: Fields) -> Writer {
    let response = OutgoingResponse::new(headers);
    response.set_status_code(status).expect("subjects use valid statuses");
    let body = response.body().expect("a response has one body, taken here");
    ResponseOutparam::set(out, Ok(response));
    Writer::new(body)
}

/// The body of the request.
pub(crate) fn of(request: &IncomingRequest) -> Reader {
    Reader::new(request.consume().expect("a request has one body, taken here"))
}

/// Copies what is there of one header to another. Trailers that no `trailer` names are dropped by some hosts.
pub(crate) fn pass_on(name: &str, from: &Fields, other_name: &str, to: &Fields) {
    for value in from.get(name) {
        to.append(other_name, &value).expect("what came in as a header can go out as one");
    }
}

/// The body of the request as that of the answer, trailers included.
pub(crate) fn echo(request: &IncomingRequest, out: ResponseOutparam) -> Result<(), Failure> {
    let headers = answers::fields(&[("content-type", "application/octet-stream")]);
    pass_on("trailer", &request.headers(), "trailer", &headers);
    Relay::new(of(request), begin(out, 200, headers)).run()
}

/// Reads the body to its end, then tells its length and the trailers behind it.
pub(crate) fn upload(request: &IncomingRequest, out: ResponseOutparam) -> Result<(), Failure> {
    let reader = of(request);
    let mut length = 0;
    while let Some(bytes) = reader.read()? {
        length += bytes.len();
    }
    let mut text = format!("length {length}\n");
    if let Some(trailers) = reader.trailers()? {
        answers::list(&trailers, |line| {
            let _ = writeln!(text, "trailer {line}");
        });
    }
    answers::text(out, 200, &text)
}
