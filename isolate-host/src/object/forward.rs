//! A body on its way out of an object that was not whole when its request left (`wasi:http` lets a guest write on).
//!
//! Each piece is something that leaves the turn: it waits here until what was written before is durable. The pipe behind is
//! another one than the guest's, so that nobody outside reads ahead of the gate.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame};

use crate::pipe::{Aborted, Reader, Writer, pipe};

/// A body that is let out piece by piece.
pub(super) struct Forward {
    guest: Reader,
    next: Option<Next>,
    out: Option<Writer>,
}

enum Next {
    Piece(Bytes),
    End(Result<Option<http::HeaderMap>, Aborted>),
}

/// The body as it may leave: itself if it is whole already, else what a [`Forward`] lets out.
pub(super) fn forwarded(guest: Reader) -> (Reader, Option<Forward>) {
    if guest.exact_size().is_some() {
        return (guest, None);
    }
    let (out, reader) = pipe();
    (reader, Some(Forward { guest, next: None, out: Some(out) }))
}

impl Forward {
    /// Takes a piece that is there and may be let out; else whoever polls is woken when there is one.
    pub(super) fn look(&mut self, cx: &mut Context<'_>) {
        let Some(out) = &self.out else { return };
        if self.next.is_none()
            && out.poll_room(cx).is_ready()
            && let Poll::Ready(frame) = Pin::new(&mut self.guest).poll_frame(cx)
        {
            self.next = Some(match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(piece))) => Next::Piece(piece),
                Some(Ok(Err(frame))) => Next::End(Ok(frame.into_trailers().ok())),
                Some(Err(aborted)) => Next::End(Err(aborted)),
                None => Next::End(Ok(None)),
            });
        }
    }

    /// Lets out the piece that waits. Tells whether there was one, and whether there may be more.
    pub(super) fn let_out(&mut self, cx: &mut Context<'_>) -> (bool, bool) {
        let is_open = self.out.as_ref().is_some_and(Writer::has_reader);
        match self.next.take() {
            Some(Next::Piece(piece)) => {
                if let Some(out) = &self.out {
                    out.push(piece);
                }
                (true, is_open)
            }
            Some(Next::End(end)) => {
                match (self.out.take(), end) {
                    (Some(out), Ok(trailers)) => out.finish(trailers),
                    (Some(out), Err(aborted)) => out.abort(aborted.0),
                    (None, _) => {}
                }
                (true, false)
            }
            None => {
                // Registers whom to wake.
                let waits = self.out.as_ref().is_some_and(|out| out.poll_room(cx).is_pending());
                (false, is_open || waits)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::ErrorCode;
    use crate::pipe::Found;

    #[test]
    fn nobody_outside_reads_ahead_of_what_was_let_out() {
        let cx = &mut Context::from_waker(Waker::noop());
        let (guest, reader) = pipe();
        guest.push(Bytes::from_static(b"one"));
        let (outside, forward) = forwarded(reader);
        let mut forward = forward.expect("it is not whole");
        forward.look(cx);
        guest.push(Bytes::from_static(b"two"));
        assert!(matches!(outside.read(9), Found::Nothing), "the gate is closed");
        assert_eq!(forward.let_out(cx), (true, true));
        assert!(matches!(outside.read(9), Found::Data(bytes) if bytes == "one"));
        assert!(matches!(outside.read(9), Found::Nothing), "one piece at a time");
        forward.look(cx);
        forward.let_out(cx);
        assert!(matches!(outside.read(9), Found::Data(bytes) if bytes == "two"));
        guest.abort(ErrorCode::ConnectionTerminated);
        forward.look(cx);
        assert!(matches!(outside.read(9), Found::Nothing));
        assert_eq!(forward.let_out(cx), (true, false));
        assert!(matches!(outside.read(9), Found::End(Err(_))), "what was cut off does not look whole");
    }

    #[test]
    fn a_whole_body_leaves_as_it_is() {
        let (guest, reader) = pipe();
        guest.push(Bytes::from_static(b"one"));
        guest.finish(None);
        let (outside, forward) = forwarded(reader);
        assert!(forward.is_none());
        assert!(matches!(outside.read(9), Found::Data(bytes) if bytes == "one"));
    }
}
