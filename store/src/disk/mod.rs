//! The one door to files: everything that the store keeps goes through a [`Disk`], a flat folder of files.
//!
//! A real one is [`RealDisk`]. [`FakeDisk`] keeps files in memory, and loses at a power cut what was not synced: the
//! order of writes and syncs in this crate is tested by it, and by nothing else.
//!
//! What the store may rely on, and the fake disk gives no more than that:
//! - What was written is durable after [`DiskFile::sync_data`], with the length that it needs. Until then any part of it
//!   may reach the disk, in any order, in pieces of 512 bytes.
//! - That a name was made, removed or changed is durable after [`Disk::sync_dir`].
//! - After a failed sync, what was written since the last good one is lost or not; a second sync does not mend that.

mod fake;
mod real;

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

pub use fake::{FakeDisk, Faults};
pub use real::RealDisk;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// It is there.
    Existing,
    /// It is not there yet: that it is, is an error.
    New,
}

/// A flat folder of files.
pub trait Disk: Debug + Send + Sync {
    /// Opens a file for reading and writing. What is read of it afterwards is what the disk has, not what a cache still
    /// holds after a sync that failed.
    fn open(&self, name: &str, how: Open) -> io::Result<Arc<dyn DiskFile>>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Gives a file another name, and replaces what had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes durable which names there are.
    fn sync_dir(&self) -> io::Result<()>;
}

/// An open file. It can be used from several threads.
pub trait DiskFile: Debug + Send + Sync {
    /// Fills `out` from `offset` on; that the file ends before is an error.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes all of `data` at `offset`.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// The length.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }
    /// Cuts the file, or lengthens it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Lengthens the file to `len` with zeros and takes the room for them now, so that later writes find it.
    fn reserve(&self, len: u64) -> io::Result<()>;
    /// Makes durable what was written.
    fn sync_data(&self) -> io::Result<()>;
}

/// Whether a disk refused something because it, or its owner's share of it, is full.
#[must_use]
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
