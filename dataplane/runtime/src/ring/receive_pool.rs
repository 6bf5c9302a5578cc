//! Receive buffers that the kernel picks from: one provided buffer ring, growing and shrinking.
//!
//! Sockets hold no receive buffer while they wait. The kernel takes one from the ring when bytes
//! arrive, the completion says which, and the buffer comes back once its bytes were read. So an
//! idle connection costs nothing here, and a burst costs what it needs.
//!
//! * *Who owns a buffer*: lent (in the ring: the kernel), filled (named by a completion: the
//!   socket's queue), or free (this pool). It moves lent → filled when its completion is taken,
//!   filled → lent or free in [`ReceivePool::give_back`], free → lent in `fill_up`. Nothing else.
//! * *Growing*: when fewer than a quarter of the target are lent, or a receive starved, the target
//!   doubles, up to the maximum. At the maximum receives starve (ENOBUFS), which is counted, and
//!   are armed again as soon as a buffer comes back: the peers' windows fill, nothing is lost.
//! * *Shrinking*: when over a whole calm period at least half of the target stayed lent, the
//!   target halves and the ring is rebuilt with fewer buffers. The kernel takes buffers from the
//!   ring only while this thread is inside io_uring_enter (DEFER_TASKRUN), and the caller has taken
//!   all completions before, so between unregistering and registering nothing can be in between.
//! * Buffers live in chunks; a chunk whose buffers are all free is unmapped.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use super::pages::{Guard, PAGE, Pages};

/// Buffers of one chunk: small enough to give back early, large enough that a chunk of 4 KiB
/// buffers is a quarter of a megabyte and its bookkeeping vanishes beside it.
const CHUNK: usize = 64;

/// The kernel's bound on the entries of a buffer ring.
pub(crate) const RING_ENTRIES_MAX: usize = 32768;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Free,
    Lent,
    Filled,
}

struct Chunk {
    pages: Pages,
    owners: [Owner; CHUNK],
    free: usize,
}

/// The pool behind one buffer group.
pub(crate) struct ReceivePool {
    group: u16,
    buffer_len: usize,
    /// The memory of the ring that the kernel reads: `entries` slots, the tail inside the first.
    ring: Pages,
    entries: usize,
    tail: u16,
    chunks: Vec<Option<Chunk>>,
    /// Exactly the chunks with at least one free buffer, most recently freed last, so that warm
    /// memory is used first.
    with_free: Vec<u16>,
    mapped: usize,
    lent: usize,
    /// How many buffers the pool wants lent.
    target: usize,
    target_min: usize,
    target_max: usize,
    /// The fewest lent since the last look of `calm`.
    lent_low: usize,
    guard: Guard,
}

/// What a look at the pool led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Kept,
    Grown,
    Shrunk,
}

impl ReceivePool {
    /// Registers the group with at least `min` and at most `max` buffers of `buffer_len` bytes.
    pub(crate) fn new(
        submitter: &Submitter<'_>,
        group: u16,
        buffer_len: usize,
        min: usize,
        max: usize,
        guard: Guard,
    ) -> io::Result<Self> {
        let max = max.clamp(1, RING_ENTRIES_MAX);
        let min = min.clamp(1, max);
        let entries = max.next_power_of_two();
        let ring_bytes = (entries * size_of::<BufRingEntry>()).next_multiple_of(PAGE);
        let mut pool = Self {
            group,
            buffer_len: buffer_len.next_multiple_of(PAGE),
            ring: Pages::new(ring_bytes, Guard::Off),
            entries,
            tail: 0,
            chunks: Vec::new(),
            with_free: Vec::new(),
            mapped: 0,
            lent: 0,
            target: min,
            target_min: min,
            target_max: max,
            lent_low: 0,
            guard,
        };
        pool.register(submitter)?;
        pool.fill_up();
        Ok(pool)
    }

    pub(crate) fn lent(&self) -> usize {
        self.lent
    }

    pub(crate) fn mapped(&self) -> usize {
        self.mapped
    }

    /// Whether the pool is nearly used up and may not grow: less than an eighth is lent.
    pub(crate) fn is_short(&self) -> bool {
        self.target == self.target_max && self.lent * 8 < self.target_max
    }

    /// A completion named this buffer: the kernel is done with it.
    pub(crate) fn take_filled(&mut self, buffer: u16) {
        self.set_owner(buffer, Owner::Lent, Owner::Filled);
        self.lent -= 1;
        self.lent_low = self.lent_low.min(self.lent);
    }

    /// The first `len` bytes of a filled buffer.
    pub(crate) fn filled(&self, buffer: u16, offset: usize, len: usize) -> &[u8] {
        let (chunk, index) = self.locate(buffer);
        assert!(chunk.owners[index] == Owner::Filled && offset + len <= self.buffer_len);
        // SAFETY: the buffer is `Filled`: the kernel gave it up with its completion and gets it
        // back only through `give_back(&mut self)`, which the returned borrow forbids meanwhile.
        // The range lies within the buffer by the assertion, and all bytes are initialised.
        unsafe { std::slice::from_raw_parts(chunk.pages.as_ptr().add(index * self.buffer_len + offset), len) }
    }

    /// The bytes of a filled buffer were read; it is lent again or kept free.
    pub(crate) fn give_back(&mut self, buffer: u16) {
        if self.lent < self.target {
            self.set_owner(buffer, Owner::Filled, Owner::Lent);
            self.lend(buffer);
            self.publish();
        } else {
            self.free(buffer, Owner::Filled);
        }
    }

    /// Grows the pool when it runs low. `starved` says that a receive found no buffer.
    pub(crate) fn grow_if_low(&mut self, starved: bool) -> Change {
        let low = self.lent * 4 < self.target || (starved && self.lent == 0);
        if !low || self.target == self.target_max {
            return Change::Kept;
        }
        self.target = (self.target * 2).min(self.target_max);
        self.fill_up();
        Change::Grown
    }

    /// Looks back at a period; the caller has taken all completions. Shrinks after a calm one.
    pub(crate) fn calm(&mut self, submitter: &Submitter<'_>) -> io::Result<Change> {
        let low = std::mem::replace(&mut self.lent_low, self.lent);
        if low * 2 < self.target || self.target == self.target_min {
            return Ok(Change::Kept);
        }
        self.target = (self.target / 2).max(self.target_min);
        submitter.unregister_buf_ring(self.group)?;
        self.take_all_back();
        self.register(submitter)?;
        self.fill_up();
        self.lent_low = self.lent;
        Ok(Change::Shrunk)
    }

    fn register(&mut self, submitter: &Submitter<'_>) -> io::Result<()> {
        self.tail = 0;
        self.tail_cell().store(0, Ordering::Release);
        // SAFETY: `self.ring` is page-aligned, holds `entries` entries, and lives until the ring
        // is gone or the group is unregistered: the pool is dropped only after the kernel let go
        // (see `Ring::drop`).
        unsafe {
            submitter.register_buf_ring_with_flags(
                self.ring.as_ptr() as u64,
                self.entries as u16,
                self.group,
                0,
            )
        }
    }

    /// Lends free buffers, mapping new ones, until the target is reached.
    fn fill_up(&mut self) {
        while self.lent < self.target {
            let Some(buffer) = self.any_free() else { break };
            let (chunk, index) = self.locate(buffer);
            chunk.pages.open(index * self.buffer_len, self.buffer_len);
            self.set_owner(buffer, Owner::Free, Owner::Lent);
            self.lend(buffer);
            // `any_free` takes from the last of `with_free`; a chunk without a free one leaves it.
            if self.locate(buffer).0.free == 0 {
                self.with_free.pop();
            }
        }
        self.publish();
    }

    /// A free buffer, from a chunk that has one or a new chunk; `None` at the bound of ids.
    fn any_free(&mut self) -> Option<u16> {
        if let Some(&number) = self.with_free.last() {
            let chunk = self.chunks[usize::from(number)].as_ref();
            let index =
                chunk.and_then(|chunk| chunk.owners.iter().position(|owner| *owner == Owner::Free))?;
            return Some(number * CHUNK as u16 + index as u16);
        }
        let number = match self.chunks.iter().position(Option::is_none) {
            Some(number) => number,
            None if (self.chunks.len() + 1) * CHUNK <= 1 << 16 => {
                self.chunks.push(None);
                self.chunks.len() - 1
            }
            None => return None,
        };
        let pages = Pages::new(CHUNK * self.buffer_len, self.guard);
        pages.shut(0, CHUNK * self.buffer_len);
        self.chunks[number] = Some(Chunk { pages, owners: [Owner::Free; CHUNK], free: CHUNK });
        self.mapped += CHUNK;
        self.with_free.push(number as u16);
        Some((number * CHUNK) as u16)
    }

    /// Writes one entry of the ring; the kernel sees it after `publish`.
    fn lend(&mut self, buffer: u16) {
        let (chunk, index) = self.locate(buffer);
        // SAFETY: the offset stays within the chunk's pages.
        let address = unsafe { chunk.pages.as_ptr().add(index * self.buffer_len) } as u64;
        let slot = usize::from(self.tail) & (self.entries - 1);
        // SAFETY: `slot < entries` and the ring's memory holds `entries` entries. The kernel does
        // not read an entry at or behind the tail, so this write races with nothing. The tail
        // itself shares memory with the first entry's reserved field, which the setters below do
        // not touch.
        let entry = unsafe { &mut *self.ring.as_ptr().cast::<BufRingEntry>().add(slot) };
        entry.set_addr(address);
        entry.set_len(self.buffer_len as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        self.lent += 1;
    }

    fn publish(&self) {
        self.tail_cell().store(self.tail, Ordering::Release);
    }

    fn tail_cell(&self) -> &AtomicU16 {
        // SAFETY: the base is the first entry of the ring's memory, aligned and alive with `self`;
        // the field is two bytes, aligned to two, and written through this cell only.
        unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.ring.as_ptr().cast()).cast_mut()) }
    }

    fn take_all_back(&mut self) {
        for number in 0..self.chunks.len() {
            for index in 0..CHUNK {
                let lent =
                    self.chunks[number].as_ref().is_some_and(|chunk| chunk.owners[index] == Owner::Lent);
                if lent {
                    self.lent -= 1;
                    self.free((number * CHUNK + index) as u16, Owner::Lent);
                }
            }
        }
    }

    fn free(&mut self, buffer: u16, from: Owner) {
        self.set_owner(buffer, from, Owner::Free);
        let number = usize::from(buffer) / CHUNK;
        let offset = usize::from(buffer) % CHUNK * self.buffer_len;
        let Some(chunk) = self.chunks[number].as_mut() else { return };
        chunk.pages.shut(offset, self.buffer_len);
        if chunk.free == CHUNK {
            self.chunks[number] = None;
            self.mapped -= CHUNK;
            self.with_free.retain(|other| usize::from(*other) != number);
        } else if chunk.free == 1 {
            self.with_free.push(number as u16);
        }
    }

    fn set_owner(&mut self, buffer: u16, from: Owner, to: Owner) {
        let number = usize::from(buffer) / CHUNK;
        let chunk = self.chunks[number].as_mut();
        #[allow(clippy::expect_used, reason = "the invariant of buffer ownership")]
        let chunk = chunk.expect("a buffer that is lent or filled keeps its chunk mapped");
        let owner = &mut chunk.owners[usize::from(buffer) % CHUNK];
        assert_eq!(*owner, from, "buffer {buffer} changes hands out of turn");
        *owner = to;
        chunk.free = chunk.free + usize::from(to == Owner::Free) - usize::from(from == Owner::Free);
    }

    fn locate(&self, buffer: u16) -> (&Chunk, usize) {
        #[allow(clippy::expect_used, reason = "the invariant of buffer ownership")]
        let chunk = self.chunks[usize::from(buffer) / CHUNK]
            .as_ref()
            .expect("a buffer in use keeps its chunk mapped");
        (chunk, usize::from(buffer) % CHUNK)
    }
}

#[cfg(test)]
impl ReceivePool {
    pub(crate) fn shut_lent_for_test(&self) {
        for chunk in self.chunks.iter().flatten() {
            for (index, owner) in chunk.owners.iter().enumerate() {
                if *owner == Owner::Lent {
                    chunk.pages.shut(index * self.buffer_len, self.buffer_len);
                }
            }
        }
    }
}
