//! The storage of one object, as its host wants it from whoever keeps the data.

use bytes::Bytes;

pub use berth_protocol::record::{Effect, Space};

use crate::world::Later;

/// An answer of the storage: there at once, which costs nothing, or later.
pub enum Read<T> {
    /// It was in memory.
    Now(Result<T, StorageError>),
    /// It has to be fetched.
    Later(Later<Result<T, StorageError>>),
}

impl<T> Read<T> {
    pub(super) async fn wait(self) -> Result<T, StorageError> {
        match self {
            Self::Now(answer) => answer,
            Self::Later(answer) => answer.await,
        }
    }
}

/// Why something cannot be read: a damaged page, a disk that fails. The guest learns it by name, and may go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the object's storage cannot be read: {0}")]
pub struct StorageError(pub String);

/// Why effects are not durable. Nobody knows whether they ever will be: the instance ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the object's writes are not durable: {0}")]
pub struct CommitError(pub String);

/// Keys from `start` up to, and without, `end`. What is not said is not bounded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key.
    pub start: Option<Bytes>,
    /// The first key that does not belong to it any more.
    pub end: Option<Bytes>,
}

/// In which direction keys are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// From the first to the last.
    Up,
    /// From the last to the first.
    Down,
}

/// How much a page may have. One entry is always allowed, however large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageMost {
    /// Entries, at least one.
    pub entries: usize,
    /// Bytes of keys and values, beyond which no other entry is added.
    pub bytes: usize,
}

/// Entries in the order that was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys with their values.
    pub entries: Vec<(Bytes, Bytes)>,
    /// Whether there may be more in the range after the last of them. A page without entries has none.
    pub more: bool,
}

/// The data of one object, which nobody else reads or writes while its instance lives.
///
/// Reads see everything that was given to [`ObjectStorage::commit`] before, durable or not. A read never waits for a commit.
pub trait ObjectStorage: Send + 'static {
    /// The value of a key.
    fn get(&self, space: Space, key: &[u8]) -> Read<Option<Bytes>>;

    /// What is in a range, as far as a page goes.
    fn scan(&self, space: Space, range: &KeyRange, order: Order, most: PageMost) -> Read<Page>;

    /// Takes effects, all or none, in this order after those that it was given before; they are taken when this returns.
    /// The future is ready when they and all before them are durable. Without effects, it takes nothing and only waits
    /// for those before. A future that is dropped takes nothing back.
    fn commit(&self, effects: Vec<Effect>) -> Later<Result<(), CommitError>>;

    /// The bytes of keys and values in [`Space::User`], with all that it was given.
    fn bytes_used(&self) -> u64;
}
