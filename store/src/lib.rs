//! The durable state of the objects of one node.
//!
//! The log is the truth: a batch of effects on one object is committed when the segment that it is in was synced, together
//! with all others that came in the meantime. What the objects are now is in memory as long as it is new, and in an
//! embedded engine beside the log, which is brought forward in large steps; the log is trimmed behind it.
//!
//! - [`Store`]: submissions, outcomes, epochs, and reads.
//! - [`disk`]: the one door to files, real or fake.
//!
//! No async, no clock, no random numbers: time and ids are arguments. The store's two threads are short loops around
//! functions that tests call by hand. See ADR 0013.
#![forbid(unsafe_code)]

mod alarms;
mod bundle;
pub mod disk;
mod engine;
mod layer;
mod log;
mod pages;
mod queue;
mod read;
mod recover;
mod segment;
mod snapshot;
mod store;
mod table;

pub use alarms::Alarm;
pub use bundle::BundleError;
pub use engine::{Direction, EngineError, Row};
pub use layer::ObjectStatus;
pub use read::{Limit, Page, ReadError, Size};
pub use recover::Damage;
pub use segment::StoreId;
pub use snapshot::{
    ExportError, Import, Label, Snapshot, SnapshotError, import, newest_snapshot, read_snapshot, restore,
};
pub use store::{
    CommitError, Committed, Config, Drive, Figures, Lead, LeadError, Listener, ListenerId, OpenError,
    Refused, Settled, Store, Submission,
};
