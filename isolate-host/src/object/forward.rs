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
    /// Whether a piece waits to be let out.
    pub(super) fn has_piece(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(out) = &self.out else { return false };
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
        self.next.is_some()
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
