//! A line: what waits to be sent on one WebSocket of an object, from the object's core to the task that has the connection.
//!
//! What a turn sends is put here in the order in which turns end, whichever core they end on, so that a client gets it in
//! that order also while its object moves. A line holds a bounded number of messages and bytes, and all lines of a node
//! a bounded number of bytes together: who is too slow for that is cut off, and nobody waits for it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio_tungstenite::tungstenite::Message;

/// Messages that wait on one line: a few turns' of as many as one may send.
const MESSAGES_MAX: usize = 4096;
/// Bytes that wait on one line: as many as one turn may send.
const BYTES_MAX: usize = 16 << 20;
/// Bytes that wait on all lines of a node. A message to many counts for each of them, although they share it.
const NODE_BYTES_MAX: usize = 256 << 20;

/// What is to be done on a WebSocket.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Out {
    /// To send this.
    Message(Message),
    /// To close it, and nothing more.
    Close {
        /// The code.
        code: u16,
        /// The reason.
        reason: String,
    },
}

/// The bytes that wait on the lines of a node.
#[derive(Default)]
pub(super) struct Waiting(AtomicUsize);

/// The line was full, and has been cut: the socket closes, and what waited is gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cut;

/// See the module.
pub(super) struct Line {
    state: Mutex<State>,
    node: Arc<Waiting>,
}

#[derive(Default)]
struct State {
    outs: VecDeque<Out>,
    bytes: usize,
    /// A close is among them: nothing comes after it.
    is_closing: bool,
    waker: Option<Waker>,
}

impl Line {
    pub(super) fn new(node: &Arc<Waiting>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), node: Arc::clone(node) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something on the line, unless it closes already.
    pub(super) fn put(&self, out: Out) -> Result<(), Cut> {
        let mut state = self.lock();
        if state.is_closing {
            return Ok(());
        }
        let bytes = bytes(&out);
        let is_full = state.outs.len() >= MESSAGES_MAX
            || state.bytes + bytes > BYTES_MAX
            || self.node.0.load(Relaxed) + bytes > NODE_BYTES_MAX;
        if is_full && matches!(out, Out::Message(_)) {
            self.empty(&mut state);
            state.is_closing = true;
            let reason = "the client is too slow".to_owned();
            state.outs.push_back(Out::Close { code: TOO_SLOW, reason });
        } else {
            state.is_closing = matches!(out, Out::Close { .. });
            state.bytes += bytes;
            self.node.0.fetch_add(bytes, Relaxed);
            state.outs.push_back(out);
        }
        let cut = is_full && state.is_closing;
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        if cut { Err(Cut) } else { Ok(()) }
    }

    /// What is next; the task is woken when something comes.
    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Out> {
        let mut state = self.lock();
        let Some(out) = state.outs.pop_front() else {
            match &mut state.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        };
        let bytes = bytes(&out);
        state.bytes -= bytes;
        self.node.0.fetch_sub(bytes, Relaxed);
        Poll::Ready(out)
    }

    fn empty(&self, state: &mut State) {
        state.outs.clear();
        self.node.0.fetch_sub(std::mem::take(&mut state.bytes), Relaxed);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut state = std::mem::take(&mut *self.lock());
        self.empty(&mut state);
    }
}

/// The code of a socket that was cut off: try again later.
pub(super) const TOO_SLOW: u16 = 1013;

fn bytes(out: &Out) -> usize {
    match out {
        Out::Message(message) => message.len(),
        Out::Close { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(line: &Line) -> Option<Out> {
        match line.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(out) => Some(out),
            Poll::Pending => None,
        }
    }

    fn text(text: &str) -> Out {
        Out::Message(Message::text(text))
    }

    fn slow() -> Option<Out> {
        Some(Out::Close { code: TOO_SLOW, reason: "the client is too slow".to_owned() })
    }

    #[test]
    fn what_is_put_comes_in_order_and_nothing_after_a_close() {
        let line = Line::new(&Arc::default());
        let close = Out::Close { code: 1000, reason: "bye".to_owned() };
        for out in [text("a"), text("b"), close.clone(), text("c")] {
            assert_eq!(line.put(out), Ok(()));
        }
        assert_eq!([next(&line), next(&line), next(&line)], [Some(text("a")), Some(text("b")), Some(close)]);
        assert_eq!((next(&line), line.put(text("d")), next(&line)), (None, Ok(()), None));
    }

    #[test]
    fn a_line_has_at_most_so_many_messages_and_bytes() {
        let line = Line::new(&Arc::default());
        for _ in 0..MESSAGES_MAX {
            assert_eq!(line.put(text("x")), Ok(()));
        }
        assert_eq!(line.put(text("one more")), Err(Cut));
        assert_eq!((next(&line), next(&line)), (slow(), None), "what waited is gone");

        let node = Arc::<Waiting>::default();
        let line = Line::new(&node);
        let large = Out::Message(Message::binary(vec![0; BYTES_MAX]));
        assert_eq!(
            (line.put(large.clone()), next(&line), line.put(large)),
            (Ok(()), next_of_bytes(), Ok(()))
        );
        assert_eq!(line.put(text("one more")), Err(Cut));
        assert_eq!(node.0.load(Relaxed), 0);
    }

    fn next_of_bytes() -> Option<Out> {
        Some(Out::Message(Message::binary(vec![0; BYTES_MAX])))
    }

    #[test]
    fn all_lines_of_a_node_have_at_most_so_many_bytes() {
        let node = Arc::<Waiting>::default();
        let large = Out::Message(Message::binary(vec![0; BYTES_MAX]));
        let lines: Vec<_> = (0..NODE_BYTES_MAX / BYTES_MAX).map(|_| Line::new(&node)).collect();
        assert!(lines.iter().all(|line| line.put(large.clone()) == Ok(())));
        let last = Line::new(&node);
        assert_eq!((last.put(text("x")), next(&last)), (Err(Cut), slow()));
        drop(lines);
        assert_eq!(node.0.load(Relaxed), 0, "whoever goes takes its bytes along");
    }
}
