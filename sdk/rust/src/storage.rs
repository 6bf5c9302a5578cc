//! The object's own data: keys and values of bytes, in the order of the keys' bytes.
//!
//! Writes become durable together, at the next commit point or at the end of the turn. Reads see what the turn wrote.

use std::fmt;

use crate::Context;
use crate::world::berth::object::storage as host;

/// The object's own data.
#[derive(Debug, Clone, Copy)]
pub struct Storage<'c> {
    pub(crate) _context: &'c Context,
}

impl<'c> Storage<'c> {
    /// The value of a key, if there is one.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(host::get(key.as_ref())?)
    }

    /// The same as text.
    pub async fn get_text(&self, key: impl AsRef<[u8]>) -> Result<Option<String>, StorageError> {
        let value = host::get(key.as_ref())?;
        value.map(String::from_utf8).transpose().map_err(|_| StorageError::NotText)
    }

    /// Writes a value: bytes or text. Keys have 1 to 2,048 bytes, values at most 16 MiB.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), StorageError> {
        Ok(host::put(key.as_ref(), value.as_ref())?)
    }

    /// Deletes a key. No error if there is nothing.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<(), StorageError> {
        Ok(host::delete(key.as_ref())?)
    }

    /// The number of a key, to be read and added to.
    pub fn counter<K: AsRef<[u8]>>(&self, key: K) -> Counter<'c, K> {
        Counter { storage: *self, key }
    }

    /// Adds to a number, and tells the sum. No value counts as 0.
    pub async fn increment(&self, key: impl AsRef<[u8]>, delta: i64) -> Result<i64, StorageError> {
        Ok(host::increment(key.as_ref(), delta)?)
    }

    /// Entries of a range, a page of them: at most 1,000 and 1 MiB. [`Page::next`] is where the rest is.
    ///
    /// ```
    /// # use berth_object::{Context, Range, Result};
    /// # async fn users(ctx: &Context) -> Result<Vec<Vec<u8>>> {
    /// let mut users = Vec::new();
    /// let mut rest = Some(Range::prefix("user/"));
    /// while let Some(range) = rest {
    ///     let page = ctx.storage().scan(range).await?;
    ///     users.extend(page.entries.into_iter().map(|entry| entry.value));
    ///     rest = page.next;
    /// }
    /// # Ok(users)
    /// # }
    /// ```
    pub async fn scan(&self, range: Range) -> Result<Page, StorageError> {
        let page = host::scan(&range.0)?;
        let entry = |host::Entry { key, value }| Entry { key, value };
        let entries: Vec<Entry> = page.entries.into_iter().map(entry).collect();
        let next = if page.more { range.after(&entries) } else { None };
        Ok(Page { entries, next })
    }

    /// Deletes every key. Alarms and WebSockets stay.
    pub async fn delete_all(&self) -> Result<(), StorageError> {
        Ok(host::delete_all()?)
    }

    /// Writes `new` (nothing: deletes) if the value is `expected` (nothing: there is no value); tells whether it was.
    ///
    /// Turns do not overlap, so that reading and writing in one turn is safe without it.
    pub async fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<bool, StorageError> {
        Ok(host::compare_and_swap(key.as_ref(), expected, new)?)
    }

    /// A commit point: returns when all that was written so far is durable.
    pub async fn sync(&self) -> Result<(), StorageError> {
        Ok(host::sync()?)
    }

    /// How much the object stores, and how much it may.
    pub async fn usage(&self) -> Usage {
        let host::Usage { bytes, most } = host::get_usage();
        Usage { bytes, most }
    }
}

/// A number in storage. It is kept as decimal text, such as `-12`.
#[derive(Debug, Clone, Copy)]
pub struct Counter<'c, K> {
    storage: Storage<'c>,
    key: K,
}

impl<K: AsRef<[u8]>> Counter<'_, K> {
    /// The number; 0 if there is none.
    pub async fn get(&self) -> Result<i64, StorageError> {
        number(self.storage.get(&self.key).await?.as_deref())
    }

    /// Adds to it, and tells the sum.
    pub async fn add(&self, delta: i64) -> Result<i64, StorageError> {
        self.storage.increment(&self.key, delta).await
    }

    /// Writes it.
    pub async fn set(&self, number: i64) -> Result<(), StorageError> {
        self.storage.put(&self.key, number.to_string()).await
    }
}

/// A number as `increment` of the host reads it: without a plus.
fn number(value: Option<&[u8]>) -> Result<i64, StorageError> {
    let Some(value) = value else { return Ok(0) };
    let text = str::from_utf8(value).ok().filter(|text| !text.starts_with('+'));
    text.and_then(|text| text.parse().ok()).ok_or(StorageError::NotANumber)
}

/// Which keys a scan is about, and from which side.
#[derive(Debug, Clone)]
pub struct Range(host::Range);

impl Range {
    /// Every key.
    pub fn all() -> Self {
        Self(host::Range { start: None, end: None, reverse: false, limit: 0 })
    }

    /// Keys that begin so.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        let prefix = prefix.as_ref();
        let mut range = Self::all().from(prefix);
        range.0.end = after_prefix(prefix);
        range
    }

    /// Begins with this key. Of an empty one, the beginning.
    pub fn from(mut self, key: impl AsRef<[u8]>) -> Self {
        self.0.start = Some(key.as_ref().to_vec()).filter(|key| !key.is_empty());
        self
    }

    /// Ends before this key.
    pub fn to(mut self, key: impl AsRef<[u8]>) -> Self {
        self.0.end = Some(key.as_ref().to_vec());
        self
    }

    /// From the last key to the first.
    pub fn reverse(mut self) -> Self {
        self.0.reverse = true;
        self
    }

    /// At most so many entries in a page; 0, and more than 1,000, mean 1,000.
    pub fn limit(mut self, limit: u32) -> Self {
        self.0.limit = limit;
        self
    }

    /// What is left of it after a page.
    fn after(mut self, entries: &[Entry]) -> Option<Self> {
        let last = &entries.last()?.key;
        if self.0.reverse {
            return Some(self.to(last));
        }
        // The first key that is greater.
        self.0.start = Some([last, &[0][..]].concat());
        Some(self)
    }
}

/// The first key behind all that begin so; nothing if there is none.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut after = prefix[..=last].to_vec();
    after[last] += 1;
    Some(after)
}

/// A part of what a scan finds.
#[derive(Debug, Clone)]
pub struct Page {
    /// In order.
    pub entries: Vec<Entry>,
    /// Where there may be more.
    pub next: Option<Range>,
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

/// How much an object stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all keys and values; what the turn wrote over may be counted, too.
    pub bytes: u64,
    /// What it may have.
    pub most: u64,
}

/// Why the storage refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageError {
    /// A key is empty, or has more than 2,048 bytes.
    KeyLength,
    /// A value has more than 16 MiB.
    ValueLength,
    /// The object would have more bytes than it may. Nothing was written.
    Quota,
    /// What the turn wrote since its last commit point is more than fits into one commit.
    TooMuchAtOnce,
    /// The value is no number. It is as it was.
    NotANumber,
    /// The number would leave the range of 64 bits. It is as it was.
    Overflow,
    /// The value is no text.
    NotText,
    /// The storage cannot be read, for this reason.
    Unavailable(String),
}

impl From<host::Error> for StorageError {
    fn from(error: host::Error) -> Self {
        match error {
            host::Error::KeyLength => Self::KeyLength,
            host::Error::ValueLength => Self::ValueLength,
            host::Error::Quota => Self::Quota,
            host::Error::TooMuchAtOnce => Self::TooMuchAtOnce,
            host::Error::NotANumber => Self::NotANumber,
            host::Error::Overflow => Self::Overflow,
            host::Error::Unavailable(reason) => Self::Unavailable(reason),
        }
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::KeyLength => "a key is empty, or has more than 2,048 bytes",
            Self::ValueLength => "a value has more than 16 MiB",
            Self::Quota => {
                "the object would store more than it may: delete something, or raise limits.storage"
            }
            Self::TooMuchAtOnce => "the turn writes more than fits into one commit: call sync in between",
            Self::NotANumber => "the value is no number",
            Self::Overflow => "the number would leave the range of 64 bits",
            Self::NotText => "the value is no text",
            Self::Unavailable(reason) => return write!(out, "the storage cannot be read: {reason}"),
        })
    }
}

impl std::error::Error for StorageError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &[u8]) -> Entry {
        Entry { key: key.to_vec(), value: Vec::new() }
    }

    fn bounds(range: Range) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        (range.0.start, range.0.end)
    }

    #[test]
    fn a_prefix_has_the_keys_that_begin_so() {
        assert_eq!(bounds(Range::prefix("a/")), (Some(b"a/".to_vec()), Some(b"a0".to_vec())));
        assert_eq!(after_prefix(&[1, 255, 255]), Some(vec![2]));
        assert_eq!(bounds(Range::prefix([255, 255])), (Some(vec![255, 255]), None));
        assert_eq!(bounds(Range::prefix("")), (None, None));
    }

    #[test]
    fn the_rest_begins_behind_the_last_key() {
        let range = Range::all().from("a").to("z").limit(2);
        let rest = range.clone().after(&[entry(b"b"), entry(b"c")]).unwrap();
        assert_eq!(rest.0.limit, 2);
        assert_eq!(bounds(rest), (Some(b"c\0".to_vec()), Some(b"z".to_vec())));
        let rest = range.clone().reverse().after(&[entry(b"y"), entry(b"x")]).unwrap();
        assert_eq!(bounds(rest), (Some(b"a".to_vec()), Some(b"x".to_vec())));
        assert!(range.after(&[]).is_none(), "a page without a key says nothing about where to go on");
    }

    #[test]
    fn numbers_are_decimal_text() {
        assert_eq!(number(None), Ok(0));
        assert_eq!(number(Some(b"-12")), Ok(-12));
        for wrong in [&b"x"[..], b"", b"+5", b"9223372036854775808", &[255]] {
            assert_eq!(number(Some(wrong)), Err(StorageError::NotANumber));
        }
    }
}
