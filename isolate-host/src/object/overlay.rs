//! The overlay: what a segment has written so far, above what is stored.
//!
//! Pure: it knows neither storage nor guests. Invariants: a key has one fate, the last one; what an overlay hides, no read
//! finds; [`Overlay::take`] tells effects that lead from what is stored to exactly what was read through the overlay.

use std::collections::BTreeMap;
use std::ops::Bound;

use berth_protocol::record::{Effect, Space};
use bytes::Bytes;

use super::storage::{KeyRange, Order, Page, PageMost};

/// What became of a key.
#[derive(Debug)]
struct Written {
    /// Its value; nothing, if it was deleted.
    value: Option<Bytes>,
    /// The bytes of its entry below, once somebody has looked.
    was: Option<u64>,
}

/// What a segment has written in one space.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    /// Whether everything below is gone.
    cleared: bool,
    written: BTreeMap<Bytes, Written>,
    /// Bytes of the keys and values that were put.
    put_bytes: u64,
    /// Bytes of everything as a record will have it, or a little more.
    record_bytes: usize,
}

/// What an overlay says of a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// This is its value, or that it has none.
    Here(Option<Bytes>),
    /// What is stored counts.
    Below,
}

/// By how much the object grows when the overlay is committed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Growth {
    /// By so many bytes.
    Known(i64),
    /// It depends on what is below this key.
    Unknown(Bytes),
}

/// What an effect takes in a record beside its key and value.
const EFFECT_BYTES: usize = 8;

fn entry_bytes(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64
}

impl Overlay {
    pub(super) fn is_empty(&self) -> bool {
        !self.cleared && self.written.is_empty()
    }

    /// Whether nothing below counts any more.
    pub(super) fn is_cleared(&self) -> bool {
        self.cleared
    }

    pub(super) fn put_bytes(&self) -> u64 {
        self.put_bytes
    }

    pub(super) fn record_bytes(&self) -> usize {
        self.record_bytes
    }

    pub(super) fn look(&self, key: &[u8]) -> Seen {
        match self.written.get(key) {
            Some(written) => Seen::Here(written.value.clone()),
            None if self.cleared => Seen::Here(None),
            None => Seen::Below,
        }
    }

    /// Bytes that the overlay would have put if this were written, too.
    pub(super) fn put_bytes_with(&self, key: &[u8], value: &[u8]) -> u64 {
        let replaced = self.written.get(key).and_then(|written| written.value.as_ref());
        self.put_bytes - replaced.map_or(0, |old| entry_bytes(key, old)) + entry_bytes(key, value)
    }

    /// Bytes of a record if this were written, too.
    pub(super) fn record_bytes_with(&self, key: &[u8], value: &[u8]) -> usize {
        self.record_bytes + EFFECT_BYTES + key.len() + value.len()
    }

    /// Writes a value, or deletes it. `was` are the bytes of the entry below, if they are known.
    pub(super) fn write(&mut self, key: Bytes, value: Option<Bytes>, was: Option<u64>) {
        let (bytes, len) = match &value {
            Some(value) => (entry_bytes(&key, value), key.len() + value.len()),
            None => (0, key.len()),
        };
        let before = self.written.remove(&key);
        if let Some(before) = &before {
            let old = before.value.as_ref();
            self.put_bytes -= old.map_or(0, |old| entry_bytes(&key, old));
            self.record_bytes -= EFFECT_BYTES + key.len() + old.map_or(0, Bytes::len);
        }
        if self.cleared && value.is_none() {
            return;
        }
        self.put_bytes += bytes;
        self.record_bytes += EFFECT_BYTES + len;
        let was = was.or(before.and_then(|before| before.was)).or(self.cleared.then_some(0));
        self.written.insert(key, Written { value, was });
    }

    /// Deletes everything.
    pub(super) fn clear(&mut self) {
        *self = Self { cleared: true, record_bytes: EFFECT_BYTES, ..Self::default() };
    }

    /// By how much the object grows, exactly.
    pub(super) fn growth(&self) -> Growth {
        let mut old = 0;
        for (key, written) in &self.written {
            match written.was {
                Some(bytes) => old += bytes,
                None => return Growth::Unknown(key.clone()),
            }
        }
        Growth::Known(self.put_bytes as i64 - old as i64)
    }

    /// Says what is below a key that was written.
    pub(super) fn learn(&mut self, key: &[u8], below: Option<&Bytes>) {
        if let Some(written) = self.written.get_mut(key) {
            written.was = Some(below.map_or(0, |value| entry_bytes(key, value)));
        }
    }

    /// Takes everything, as effects.
    pub(super) fn take(&mut self, space: Space, effects: &mut Vec<Effect>) {
        let Self { cleared, written, .. } = std::mem::take(self);
        if cleared {
            effects.push(Effect::Clear { space });
        }
        effects.extend(written.into_iter().map(|(key, written)| match written.value {
            Some(value) => Effect::Put { space, key, value },
            None => Effect::Delete { space, key },
        }));
    }

    /// What was written in a range, in the order asked for.
    fn within(
        &self,
        range: &KeyRange,
        order: Order,
    ) -> Box<dyn Iterator<Item = (&Bytes, Option<&Bytes>)> + '_> {
        if is_void(range) {
            return Box::new(std::iter::empty());
        }
        let start = range.start.as_deref().map_or(Bound::Unbounded, Bound::Included);
        let end = range.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let found = self.written.range::<[u8], _>((start, end));
        let found = found.map(|(key, written)| (key, written.value.as_ref()));
        match order {
            Order::Up => Box::new(found),
            Order::Down => Box::new(found.rev()),
        }
    }
}

/// Whether no key can be in a range.
fn is_void(range: &KeyRange) -> bool {
    matches!((&range.start, &range.end), (Some(start), Some(end)) if start >= end)
}

/// A scan under way: pages of what is stored, merged with the overlay, until the limit is reached or nothing is left.
#[derive(Debug)]
pub(super) struct Scan {
    rest: KeyRange,
    order: Order,
    most: PageMost,
    bytes: usize,
    page: Page,
}

impl Scan {
    pub(super) fn new(range: KeyRange, order: Order, most: PageMost) -> Self {
        Self { rest: range, order, most, bytes: 0, page: Page::default() }
    }

    /// The range that is not told yet.
    pub(super) fn rest(&self) -> &KeyRange {
        &self.rest
    }

    pub(super) fn order(&self) -> Order {
        self.order
    }

    /// What may still be added.
    pub(super) fn most(&self) -> PageMost {
        let Self { most, page, bytes, .. } = self;
        let entries = most.entries.saturating_sub(page.entries.len()).max(1);
        PageMost { entries, bytes: most.bytes.saturating_sub(*bytes) }
    }

    /// Whether nothing of what is stored matters.
    pub(super) fn is_void(&self) -> bool {
        is_void(&self.rest)
    }

    /// Adds the next page of what is stored in [`Scan::rest`], with what the overlay has in the same part. True when the scan
    /// is done.
    pub(super) fn add(&mut self, below: Page, overlay: &Overlay) -> bool {
        let covered = self.cover(&below);
        let mut stored = below.entries.into_iter().peekable();
        let mut written = overlay.within(&covered, self.order).peekable();
        loop {
            let key = match (stored.peek(), written.peek()) {
                (None, None) => break,
                (Some((stored, _)), None) => stored,
                (None, Some((written, _))) => *written,
                (Some((stored, _)), Some((written, _))) => match self.order {
                    Order::Up => stored.min(*written),
                    Order::Down => stored.max(*written),
                },
            }
            .clone();
            let stored = stored.next_if(|(stored, _)| *stored == key).map(|(_, value)| value);
            let value = match written.next_if(|(written, _)| **written == key) {
                Some((_, value)) => value.cloned(),
                None => stored,
            };
            let Some(value) = value else { continue };
            if self.is_full(key.len() + value.len()) {
                self.page.more = true;
                return true;
            }
            self.bytes += key.len() + value.len();
            self.page.entries.push((key, value));
        }
        !below.more
    }

    pub(super) fn finish(self) -> Page {
        self.page
    }

    fn is_full(&self, next: usize) -> bool {
        let count = self.page.entries.len();
        count > 0 && (count >= self.most.entries || self.bytes + next > self.most.bytes)
    }

    /// The part of the range that a page of what is stored tells all about; the rest is what is after it.
    fn cover(&mut self, below: &Page) -> KeyRange {
        let last = below.entries.last().filter(|_| below.more).map(|(key, _)| key);
        let Some(last) = last else { return std::mem::take(&mut self.rest) };
        let mut covered = self.rest.clone();
        match self.order {
            Order::Up => {
                let after: Bytes = [last, [0].as_slice()].concat().into();
                covered.end = Some(after.clone());
                self.rest.start = Some(after);
            }
            Order::Down => {
                covered.start = Some(last.clone());
                self.rest.end = Some(last.clone());
            }
        }
        covered
    }
}
