//! What an instance is given: who its object is, what it may have, and the way to its WebSockets.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::message::{SocketCommand, SocketId};
use super::storage::ObjectStorage;
use crate::limits::Limits;
use crate::world::{WayOut, World};

/// Bytes of data that an object may have when nothing is said.
pub const STORAGE_DEFAULT: u64 = 1 << 30;
/// Bytes of data that no object may exceed: more could not be moved to another node while somebody waits.
pub const STORAGE_MOST: u64 = 10 << 30;

/// Who an object is, as its guest is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its id, in text.
    pub id: String,
    /// Its name, if the id comes from one.
    pub name: Option<String>,
    /// Its class.
    pub class: String,
    /// Its zone.
    pub zone: String,
    /// The number of its ownership.
    pub epoch: u64,
    /// The version of the schema of its class.
    pub schema_version: u32,
}

/// What an instance reaches as long as it lives, on whichever core: the world of every guest, its queue, its WebSockets.
pub trait ObjectWorld: World {
    /// How many messages wait for the object.
    fn queue_length(&self) -> u32;

    /// Whether something may be sent on a socket.
    fn is_open(&self, socket: SocketId) -> bool;

    /// The tags of a socket that is open, or whose close the object has not heard of yet.
    fn tags(&self, socket: SocketId) -> Option<Vec<String>>;

    /// What is kept beside it.
    fn attachment(&self, socket: SocketId) -> Option<Bytes>;

    /// The open sockets that have a tag; without one, all.
    fn sockets(&self, tag: Option<&str>) -> Vec<SocketId>;
}

/// What a turn reaches on the core that runs it: the way out, and the way of what a commit point has released.
pub trait Outside: WayOut {
    /// What was sent before a commit point may leave: everything that it could have seen is durable. In this order, and
    /// before what the outcome has.
    fn release(&self, sends: Vec<SocketCommand>);
}

/// What an instance is started with.
pub struct Setup {
    /// Limits: of each turn, but for memory and tables, which are the instance's.
    pub limits: Arc<Limits>,
    /// Bytes of data that the object may have.
    pub storage_bytes: u64,
    /// Who it is.
    pub identity: Identity,
    /// The version of the schema that the stored data has; nothing, if nothing was ever stored.
    pub stored_schema: Option<u32>,
    /// What it reaches.
    pub world: Arc<dyn ObjectWorld>,
    /// Its data.
    pub storage: Box<dyn ObjectStorage>,
    /// What its first turn, the start, reaches.
    pub outside: Rc<dyn Outside>,
}
