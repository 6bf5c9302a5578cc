//! A request stream, read as its parts.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::frames::{Code, Fault, Part, PartReader};
use super::head::Refused;
use crate::quic::{Connection, RecvStream, StreamEnd};
use crate::stats::CoreNumbers;

/// Why nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// It was refused, and reading stopped, with this code.
    Refused(Code),
    /// The client reset the stream, or the connection is over.
    Gone,
}

/// The receiving side of a request stream. What breaks the protocol is counted and ends the stream or the connection
/// here, whoever reads.
pub(super) struct Parts {
    stream: RecvStream,
    reader: PartReader,
    numbers: Arc<CoreNumbers>,
}

impl Parts {
    /// A head, or trailers, may have so many bytes as sent.
    pub(super) fn new(stream: RecvStream, headers_max: u64, numbers: &Arc<CoreNumbers>) -> Self {
        Self { stream, reader: PartReader::new(headers_max), numbers: Arc::clone(numbers) }
    }

    /// The next part, or `None` at the end.
    pub(super) fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Result<Option<Part>, Cut>> {
        loop {
            match self.reader.next() {
                Ok(None) => {}
                Ok(part) => return Poll::Ready(Ok(part)),
                Err(fault) => return Poll::Ready(Err(Cut::Refused(self.fail(fault)))),
            }
            match ready!(self.stream.poll_read(cx)) {
                Ok(Some(bytes)) => self.reader.push(bytes),
                Ok(None) if self.reader.is_between_frames() => return Poll::Ready(Ok(None)),
                Ok(None) => {
                    let cut_short = Fault::Protocol(Code::FrameError);
                    return Poll::Ready(Err(Cut::Refused(self.fail(cut_short))));
                }
                Err(StreamEnd::Client | StreamEnd::Lost) => return Poll::Ready(Err(Cut::Gone)),
            }
        }
    }

    /// Whether it is known that no part follows.
    pub(super) fn is_ended(&self) -> bool {
        self.stream.is_ended() && self.reader.is_between_frames()
    }

    /// Tells the client to send no more.
    pub(super) fn stop(&mut self, code: Code) {
        self.stream.stop(code as u64);
    }

    /// Ends the stream, or the connection, because a section is refused; says with which code.
    pub(super) fn refuse(&mut self, why: Refused) -> Code {
        match why {
            Refused::Undecodable => self.fail(Fault::Protocol(Code::QpackDecompressionFailed)),
            Refused::TooLarge => self.fail(Fault::LongHeaders),
            Refused::Malformed => {
                self.stop(Code::MessageError);
                Code::MessageError
            }
        }
    }

    /// Ends the stream, or the connection, because of a fault; says with which code.
    pub(super) fn fail(&mut self, fault: Fault) -> Code {
        match fault {
            Fault::Protocol(code) => {
                end_connection(&self.stream.connection(), &self.numbers, fault);
                return code;
            }
            Fault::LongHeaders => self.numbers.limit_header_bytes.add(1),
            Fault::LongFrame => self.numbers.limit_http3_frames.add(1),
        }
        self.stop(Code::ExcessiveLoad);
        Code::ExcessiveLoad
    }
}

/// Ends a connection whose client broke the protocol, and counts that.
pub(super) fn end_connection(connection: &Connection, numbers: &CoreNumbers, fault: Fault) {
    let code = match fault {
        Fault::Protocol(code) => {
            numbers.http3_protocol_errors.add(1);
            code
        }
        Fault::LongHeaders | Fault::LongFrame => {
            numbers.limit_http3_frames.add(1);
            Code::ExcessiveLoad
        }
    };
    tracing::debug!(?code, "http3.ended");
    connection.close(code as u64);
}
