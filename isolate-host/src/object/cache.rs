//! What an object read or wrote last, so that a hot key is found without asking the storage.
//!
//! It is never wrong, since nobody else writes to the object. It is in two generations: when the young one is full, it
//! becomes the old one, and what nobody wanted since goes. So it costs one look to read, and has no list to keep in order.

use std::collections::HashMap;

use bytes::Bytes;

/// Most bytes of keys and values of one generation. There are many objects on a core; a few small values make the difference
/// for each.
const BYTES_MAX: usize = 16 << 10;
/// Most entries of one generation: each costs some 100 bytes beside its own.
const ENTRIES_MAX: usize = 64;
/// Most bytes of one entry: a large value is copied for longer than it is looked up.
const ENTRY_MAX: usize = 4 << 10;

type Entries = HashMap<Bytes, Option<Bytes>>;

/// Keys with their values, or that they have none.
#[derive(Debug, Default)]
pub(super) struct Cache {
    young: Entries,
    young_bytes: usize,
    old: Entries,
}

impl Cache {
    /// What is stored of a key, if that is known here.
    pub(super) fn get(&mut self, key: &[u8]) -> Option<Option<Bytes>> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.add(key, value.clone());
        Some(value)
    }

    /// Keeps what is stored of a key.
    pub(super) fn put(&mut self, key: Bytes, value: Option<Bytes>) {
        self.forget(&key);
        if key.len() + value.as_ref().map_or(0, Bytes::len) <= ENTRY_MAX {
            self.add(key, value);
        }
    }

    fn add(&mut self, key: Bytes, value: Option<Bytes>) {
        let bytes = key.len() + value.as_ref().map_or(0, Bytes::len);
        if self.young.len() >= ENTRIES_MAX || self.young_bytes + bytes > BYTES_MAX {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes;
        self.young.insert(key, value);
    }

    fn forget(&mut self, key: &[u8]) {
        if let Some(value) = self.young.remove(key) {
            self.young_bytes -= key.len() + value.map_or(0, |value| value.len());
        }
        self.old.remove(key);
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    #[cfg(test)]
    fn bytes(&self) -> usize {
        let bytes = |(key, value): (&Bytes, &Option<Bytes>)| key.len() + value.as_ref().map_or(0, Bytes::len);
        self.young.iter().map(bytes).sum::<usize>() + self.old.iter().map(bytes).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Bytes {
        format!("key-{number}").into()
    }

    #[test]
    fn it_is_bounded_and_what_is_wanted_stays() {
        let mut cache = Cache::default();
        cache.put(key(0), Some(Bytes::from_static(b"hot")));
        for number in 1..10_000 {
            cache.put(key(number), Some(Bytes::from(vec![0; 300])));
            assert_eq!(cache.get(&key(0)), Some(Some(Bytes::from_static(b"hot"))), "after {number}");
        }
        assert!(cache.bytes() <= 2 * BYTES_MAX, "{}", cache.bytes());
        assert!(cache.young.len() + cache.old.len() <= 2 * ENTRIES_MAX);
        assert_eq!(cache.get(&key(1)), None);
    }

    #[test]
    fn what_is_written_replaces_what_was_known_in_both_generations() {
        let mut cache = Cache::default();
        cache.put(key(0), Some(Bytes::from_static(b"before")));
        for number in 1..=ENTRIES_MAX {
            cache.put(key(number), None);
        }
        cache.put(key(0), Some(Bytes::from(vec![0; ENTRY_MAX])));
        assert_eq!(cache.get(&key(0)), None, "too large to be kept, and the old value is not there any more");
        assert_eq!(cache.get(&key(1)), Some(None), "that there is nothing is known, too");
        cache.put(key(1), Some(Bytes::from_static(b"now")));
        assert_eq!(cache.get(&key(1)), Some(Some(Bytes::from_static(b"now"))));
        cache.clear();
        assert_eq!((cache.get(&key(1)), cache.bytes()), (None, 0));
    }
}
