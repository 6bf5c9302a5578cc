//! Send buffers: bytes copied from a task, owned by the operation until the kernel is done.
//!
//! Two sizes: a page, which holds nearly every response, and sixteen, for bodies. A stream takes
//! one when it writes and gives it back when the send completed, so an idle stream holds none. A
//! bounded number of free ones is kept warm; the rest returns to the allocator. The number in use
//! is bounded by two per stream.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use super::pages::{Guard, PAGE, Pages};
use crate::stats::CoreStats;

/// The large size: what one send carries at most.
pub(crate) const LARGE: usize = 16 * PAGE;

/// Free buffers kept of each size: 1 MiB of pages and 2 MiB of large ones on a busy core.
const KEEP: [usize; 2] = [256, 32];

/// The pool of one core.
#[derive(Clone)]
pub(crate) struct SendPool {
    free: Rc<RefCell<[VecDeque<Pages>; 2]>>,
    guard: Guard,
    stats: Arc<CoreStats>,
}

impl SendPool {
    pub(crate) fn new(guard: Guard, stats: Arc<CoreStats>) -> Self {
        Self { free: Rc::default(), guard, stats }
    }

    /// A buffer that holds at least `len` bytes if that is possible, else the largest.
    pub(crate) fn take(&self, len: usize) -> SendBuffer {
        let (class, size) = if len <= PAGE { (0, PAGE) } else { (1, LARGE) };
        let pages = self.free.borrow_mut()[class].pop_back();
        let pages = match pages {
            Some(pages) => {
                pages.open(0, size);
                pages
            }
            None => Pages::new(size, self.guard),
        };
        self.stats.send_buffers.add(1);
        SendBuffer { pages: Some(pages), start: 0, end: 0, pool: self.clone() }
    }

    fn give_back(&self, pages: Pages) {
        self.stats.send_buffers.set(self.stats.send_buffers.get().saturating_sub(1));
        let class = usize::from(pages.len() > PAGE);
        pages.shut(0, pages.len());
        let mut free = self.free.borrow_mut();
        // With guards on, the buffer freed first is reused last: it stays inaccessible for long.
        match self.guard {
            Guard::Off => free[class].push_back(pages),
            Guard::Pages => free[class].push_front(pages),
        }
        if free[class].len() > KEEP[class] {
            free[class].pop_back();
        }
    }
}

/// Bytes on their way out. Returns its pages to the pool when dropped.
pub(crate) struct SendBuffer {
    /// Always `Some` until the drop.
    pages: Option<Pages>,
    start: usize,
    end: usize,
    pool: SendPool,
}

impl SendBuffer {
    #[allow(clippy::expect_used, reason = "the field is taken in Drop only")]
    fn pages(&self) -> &Pages {
        self.pages.as_ref().expect("the pages are taken in Drop only")
    }

    /// How many more bytes fit.
    pub(crate) fn space(&self) -> usize {
        self.pages().len() - self.end
    }

    /// Copies as much of `bytes` as fits; returns how much.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.space());
        // SAFETY: `end + count` lies within the pages by `space`; the source is a shared slice of
        // other memory; `&mut self` means that no operation uses the buffer (operations own it).
        unsafe { self.pages().as_ptr().add(self.end).copy_from_nonoverlapping(bytes.as_ptr(), count) };
        self.end += count;
        count
    }

    /// The bytes not sent yet: address and length for the kernel.
    pub(crate) fn pending(&self) -> (*const u8, usize) {
        // SAFETY: `start <= end <= len` keeps the pointer within the pages.
        (unsafe { self.pages().as_ptr().add(self.start) }.cast_const(), self.end - self.start)
    }

    /// The kernel took `count` bytes; true when none are left.
    pub(crate) fn advance(&mut self, count: usize) -> bool {
        self.start = (self.start + count).min(self.end);
        self.start == self.end
    }
}

impl Drop for SendBuffer {
    fn drop(&mut self) {
        if let Some(pages) = self.pages.take() {
            self.pool.give_back(pages);
        }
    }
}
