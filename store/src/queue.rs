//! Submissions on their way to the committer: bounded in number and bytes, and refused beyond that.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What is queued, with its size.
#[derive(Debug)]
struct State<T> {
    entries: VecDeque<(T, usize)>,
    bytes: usize,
    open: bool,
    /// Whether the committer sleeps. Who submits wakes it only then.
    asleep: bool,
}

/// A queue with many writers and one reader.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
    entries_max: usize,
    bytes_max: usize,
}

/// Why nothing more fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueError {
    Full,
    Closed,
}

impl<T> Queue<T> {
    pub(crate) fn new(entries_max: usize, bytes_max: usize) -> Self {
        let state = State { entries: VecDeque::new(), bytes: 0, open: true, asleep: false };
        Self { state: Mutex::new(state), wake: Condvar::new(), entries_max, bytes_max }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends an entry. One that is larger than the whole bound fits into an empty queue.
    pub(crate) fn push(&self, entry: T, bytes: usize) -> Result<(), QueueError> {
        let mut state = self.state();
        if !state.open {
            return Err(QueueError::Closed);
        }
        let fits = state.entries.len() < self.entries_max
            && (state.bytes + bytes <= self.bytes_max || state.entries.is_empty());
        if !fits {
            return Err(QueueError::Full);
        }
        state.entries.push_back((entry, bytes));
        state.bytes += bytes;
        let asleep = std::mem::take(&mut state.asleep);
        drop(state);
        if asleep {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Takes entries up to so many bytes, but at least one.
    pub(crate) fn take(&self, into: &mut Vec<T>, bytes_max: usize) {
        let mut state = self.state();
        let mut taken = 0;
        while let Some((_, bytes)) = state.entries.front() {
            if taken > 0 && taken + bytes > bytes_max {
                break;
            }
            taken += bytes;
            into.extend(state.entries.pop_front().map(|(entry, _)| entry));
        }
        state.bytes -= taken;
    }

    /// Waits until there is something, and says whether there may be.
    pub(crate) fn wait(&self, at_most: Duration) -> bool {
        let mut state = self.state();
        if state.entries.is_empty() && state.open {
            state.asleep = true;
            let waited = self.wake.wait_timeout(state, at_most).unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
            state.asleep = false;
        }
        state.open || !state.entries.is_empty()
    }

    /// Takes nothing more.
    pub(crate) fn close(&self) {
        self.state().open = false;
        self.wake.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_in_entries_and_in_bytes_but_takes_a_large_one_alone() {
        let queue = Queue::new(2, 100);
        queue.push('a', 1000).unwrap();
        assert_eq!(queue.push('b', 1), Err(QueueError::Full));
        let mut taken = Vec::new();
        queue.take(&mut taken, 10);
        queue.push('c', 60).unwrap();
        assert_eq!(queue.push('d', 60), Err(QueueError::Full));
        queue.push('e', 40).unwrap();
        assert_eq!(queue.push('f', 0), Err(QueueError::Full));
        queue.take(&mut taken, 60);
        assert_eq!(taken, ['a', 'c']);
        queue.close();
        assert_eq!(queue.push('g', 1), Err(QueueError::Closed));
        assert!(queue.wait(Duration::ZERO), "what was taken is still to be done");
    }
}
