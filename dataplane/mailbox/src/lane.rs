//! A lane: one bounded ring with one writer and one reader.
//!
//! Why not our own ring: `rtrb` is small, kept up, padded, and caches the other side's position; ADR 0003 has
//! the figures. This file is the only one that names it.
//!
//! What the wake protocol needs of a lane, and all it needs:
//!
//! - `push` makes a message visible with a release store of the tail, `take` gives room back with a release
//!   store of the head;
//! - `ready` reads the tail with an acquire load, `has_room` the head, unless what this side read before
//!   already says yes.
//!
//! # The stand-in for loom
//!
//! Loom sees only operations on its own atomics, so under `cfg(loom)` a ring of the same kind takes the place
//! of `rtrb`. It is faithful for what is modelled: the same two shared positions, written by the same sides,
//! with the same orderings, at the same moments (the tail at each push, the head once at the end of a batch),
//! and the same cached copies, so that it may believe "full" or "empty" as long as `rtrb` may. Its slots are
//! loom cells, so that a missing ordering shows as a data race. It differs in what the protocol cannot see:
//! positions count up and wrap at `usize::MAX` instead of twice the capacity, and slots are options instead
//! of raw memory. What is inside `rtrb` (pointers, drops) is the business of its own tests and of the stress
//! test under Miri.

pub(crate) use ring::{Reader, Writer, lane};

#[cfg(not(loom))]
mod ring {
    use rtrb::chunks::ChunkError;
    use rtrb::{Consumer, Producer, PushError, RingBuffer};

    /// The sending end of a lane.
    pub(crate) struct Writer<T>(Producer<T>);

    /// The receiving end of a lane.
    pub(crate) struct Reader<T>(Consumer<T>);

    pub(crate) fn lane<T: Send>(capacity: usize) -> (Writer<T>, Reader<T>) {
        let (writer, reader) = RingBuffer::new(capacity);
        (Writer(writer), Reader(reader))
    }

    impl<T> Writer<T> {
        #[inline]
        pub(crate) fn push(&mut self, message: T) -> Result<(), T> {
            self.0.push(message).map_err(|PushError::Full(message)| message)
        }

        pub(crate) fn has_room(&self) -> bool {
            !self.0.is_full()
        }

        pub(crate) fn room(&self) -> usize {
            self.0.slots()
        }
    }

    impl<T> Reader<T> {
        /// How many messages can be taken now, at most `most`.
        #[inline]
        pub(crate) fn ready(&mut self, most: usize) -> usize {
            match self.0.read_chunk(most) {
                Ok(_) => most,
                Err(ChunkError::TooFewSlots(fewer)) => fewer,
            }
        }

        /// Takes `count` messages, as many as [`Self::ready`] promised, and gives their room back in one go,
        /// also when `each` panics.
        #[inline]
        pub(crate) fn take(&mut self, count: usize, each: impl FnMut(T)) {
            self.0
                .read_chunk(count)
                .expect("`ready` has seen them, and nobody else takes")
                .into_iter()
                .for_each(each);
        }

        pub(crate) fn has_mail(&self) -> bool {
            !self.0.is_empty()
        }
    }
}

#[cfg(loom)]
mod ring {
    use std::cell::Cell;
    use std::sync::Arc;

    use loom::cell::UnsafeCell;
    use loom::sync::atomic::{AtomicUsize, Ordering};

    struct Ring<T> {
        head: AtomicUsize,
        tail: AtomicUsize,
        slots: Vec<UnsafeCell<Option<T>>>,
    }

    // SAFETY: A slot is touched by the writer only while it is outside head..tail, and by the reader only
    // inside; loom checks exactly that claim in every execution.
    unsafe impl<T: Send> Sync for Ring<T> {}

    impl<T> Ring<T> {
        fn slot<R>(&self, position: usize, act: impl FnOnce(&mut Option<T>) -> R) -> R {
            self.slots[position % self.slots.len()].with_mut(|slot| {
                // SAFETY: See `Sync` above; the pointer does not leave this closure.
                act(unsafe { &mut *slot })
            })
        }
    }

    pub(crate) struct Writer<T> {
        ring: Arc<Ring<T>>,
        tail: usize,
        seen_head: Cell<usize>,
    }

    pub(crate) struct Reader<T> {
        ring: Arc<Ring<T>>,
        head: usize,
        seen_tail: Cell<usize>,
    }

    pub(crate) fn lane<T: Send>(capacity: usize) -> (Writer<T>, Reader<T>) {
        let ring = Arc::new(Ring {
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
            slots: (0..capacity).map(|_| UnsafeCell::new(None)).collect(),
        });
        let writer = Writer { ring: Arc::clone(&ring), tail: 0, seen_head: Cell::new(0) };
        (writer, Reader { ring, head: 0, seen_tail: Cell::new(0) })
    }

    impl<T> Writer<T> {
        pub(crate) fn push(&mut self, message: T) -> Result<(), T> {
            if !self.has_room() {
                return Err(message);
            }
            self.ring.slot(self.tail, |slot| *slot = Some(message));
            self.tail += 1;
            self.ring.tail.store(self.tail, Ordering::Release);
            Ok(())
        }

        pub(crate) fn has_room(&self) -> bool {
            self.tail - self.seen_head.get() < self.ring.slots.len() || self.room() > 0
        }

        pub(crate) fn room(&self) -> usize {
            self.seen_head.set(self.ring.head.load(Ordering::Acquire));
            self.ring.slots.len() - (self.tail - self.seen_head.get())
        }
    }

    impl<T> Reader<T> {
        pub(crate) fn ready(&mut self, most: usize) -> usize {
            if self.seen_tail.get() - self.head < most {
                self.look();
            }
            most.min(self.seen_tail.get() - self.head)
        }

        pub(crate) fn take(&mut self, count: usize, mut each: impl FnMut(T)) {
            for _ in 0..count {
                each(self.ring.slot(self.head, Option::take).expect("a slot below the tail is filled"));
                self.head += 1;
            }
            self.ring.head.store(self.head, Ordering::Release);
        }

        pub(crate) fn has_mail(&self) -> bool {
            if self.seen_tail.get() == self.head {
                self.look();
            }
            self.seen_tail.get() != self.head
        }

        fn look(&self) {
            self.seen_tail.set(self.ring.tail.load(Ordering::Acquire));
        }
    }
}
