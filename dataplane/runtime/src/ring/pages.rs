//! Memory that the kernel reads and writes: whole pages, lent and taken back.
//!
//! Every buffer that an operation uses comes from here and is one or more whole pages. With
//! [`Guard::Pages`] a buffer that is not lent is made inaccessible, so that a use after its
//! release, by us or by the kernel, is a fault at once and not a corruption: the attack test of
//! the ring runs this way. Production runs with [`Guard::Off`].

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// The page size that buffers are multiples of.
pub(crate) const PAGE: usize = 4096;

/// Whether buffers that are not in use are inaccessible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Guard {
    /// Buffers stay mapped; the cost-free choice.
    #[default]
    Off,
    /// A buffer that is not in use is `PROT_NONE`: every touch of it faults.
    Pages,
}

/// A run of pages with one owner.
#[derive(Debug)]
pub(crate) struct Pages {
    start: NonNull<u8>,
    len: usize,
    guard: Guard,
}

impl Pages {
    /// Allocates `len` bytes, a multiple of the page size, accessible and zeroed only by chance.
    pub(crate) fn new(len: usize, guard: Guard) -> Self {
        let layout = Self::layout(len);
        // SAFETY: the layout has a size above zero (asserted in `layout`).
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        // A buffer is handed out as `&mut [u8]`, so its bytes must be initialised once.
        // SAFETY: `start` is valid for `len` writes.
        unsafe { start.as_ptr().write_bytes(0, len) };
        Self { start, len, guard }
    }

    #[allow(clippy::expect_used, reason = "sizes come from checked options")]
    fn layout(len: usize) -> Layout {
        assert!(len > 0 && len.is_multiple_of(PAGE), "buffers are whole pages");
        Layout::from_size_align(len, PAGE).expect("a buffer size fits the address space")
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Makes `len` bytes at `offset` accessible before they are used.
    pub(crate) fn open(&self, offset: usize, len: usize) {
        self.protect(offset, len, libc::PROT_READ | libc::PROT_WRITE);
    }

    /// Makes `len` bytes at `offset` inaccessible (with guards on) once nobody uses them.
    pub(crate) fn shut(&self, offset: usize, len: usize) {
        self.protect(offset, len, libc::PROT_NONE);
    }

    fn protect(&self, offset: usize, len: usize, protection: i32) {
        if self.guard == Guard::Off {
            return;
        }
        assert!(offset.is_multiple_of(PAGE) && len.is_multiple_of(PAGE) && offset + len <= self.len);
        // SAFETY: the range lies within pages that we allocated and solely own; changing their
        // protection breaks no reference because callers hold none to a shut range.
        let done = unsafe { libc::mprotect(self.start.as_ptr().add(offset).cast(), len, protection) };
        assert_eq!(done, 0, "mprotect of our own pages: {}", std::io::Error::last_os_error());
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.open(0, self.len);
        // SAFETY: allocated by `new` with the same layout, and owned by `self` alone.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.len)) };
    }
}
