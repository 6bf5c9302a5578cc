//! The streams of a connection that go one way: what the client says of the connection, and what we do.

use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::frames::{self, Code, Fault, Interest, Told, UniReader};
use crate::quic::{Connection, Lost, RecvStream, SendStream, StreamEnd};

/// What a connection is besides its requests.
pub(super) struct Session {
    connection: Connection,
    /// Our control stream, once the client allows it.
    control: Option<SendStream>,
    /// What is still to be written there.
    unsaid: Bytes,
    told: Told,
    listening: Vec<(RecvStream, UniReader)>,
    /// The number of the first request stream that has not come.
    next_stream: u64,
}

impl Session {
    /// Fields of a request may have so many bytes, which is what the client is told.
    pub(super) fn new(connection: Connection, field_section_max: u64) -> Self {
        Self {
            connection,
            control: None,
            unsaid: frames::preface(field_section_max).into(),
            told: Told::default(),
            listening: Vec::new(),
            next_stream: 0,
        }
    }

    /// Reads what came on the streams that go one way, and says what is to be said.
    pub(super) fn listen(&mut self, cx: &Context<'_>) -> Result<(), Fault> {
        self.speak(cx);
        if !self.connection.take_unidirectional_news() {
            return Ok(());
        }
        while let Poll::Ready(Ok(stream)) = self.connection.poll_accept_unidirectional(cx) {
            self.listening.push((stream, UniReader::new()));
        }
        let mut fault = Ok(());
        self.listening.retain_mut(|(stream, reader)| match hear(stream, reader, &mut self.told, cx) {
            Ok(interest) => interest == Interest::Some,
            Err(why) => {
                fault = fault.and(Err(why));
                false
            }
        });
        fault
    }

    /// The next request.
    pub(super) fn poll_request(&mut self, cx: &Context<'_>) -> Poll<Result<(SendStream, RecvStream), Lost>> {
        let (send, receive) = ready!(self.connection.poll_accept(cx))?;
        self.next_stream = send.number() + 4;
        Poll::Ready(Ok((send, receive)))
    }

    /// Refuses the next request: it crossed our GOAWAY, and may be sent again elsewhere.
    pub(super) fn poll_refuse(&self, cx: &Context<'_>) -> Poll<Result<(), Lost>> {
        let (mut send, mut receive) = ready!(self.connection.poll_accept(cx))?;
        send.reset(Code::RequestRejected as u64);
        receive.stop(Code::RequestRejected as u64);
        Poll::Ready(Ok(()))
    }

    /// Tells the client that requests that have not come will not be served.
    pub(super) fn go_away(&mut self, cx: &Context<'_>) {
        self.unsaid = [&self.unsaid[..], &frames::goaway(self.next_stream)].concat().into();
        self.speak(cx);
    }

    fn speak(&mut self, cx: &Context<'_>) {
        if self.unsaid.is_empty() {
            return;
        }
        if self.control.is_none()
            && let Poll::Ready(Ok(stream)) = self.connection.poll_open(cx)
        {
            self.control = Some(stream);
        }
        if let Some(control) = &self.control {
            // What has no room waits; that the connection is over is seen elsewhere.
            let _ = control.poll_write(cx, std::slice::from_mut(&mut self.unsaid));
        }
    }
}

/// Reads all that a stream has.
fn hear(
    stream: &mut RecvStream,
    reader: &mut UniReader,
    told: &mut Told,
    cx: &Context<'_>,
) -> Result<Interest, Fault> {
    loop {
        match stream.poll_read(cx) {
            Poll::Ready(Ok(Some(bytes))) => {
                if reader.read(bytes, told)? == Interest::None {
                    stream.stop(Code::StreamCreationError as u64);
                    return Ok(Interest::None);
                }
            }
            Poll::Ready(Ok(None) | Err(StreamEnd::Client)) => {
                reader.end()?;
                return Ok(Interest::None);
            }
            Poll::Ready(Err(StreamEnd::Lost)) | Poll::Pending => return Ok(Interest::Some),
        }
    }
}
