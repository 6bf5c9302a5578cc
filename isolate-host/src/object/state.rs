//! The state of an object's instance that its guest and whoever polls it share: overlays, cache, and what the current segment
//! is about to send.
//!
//! The lock is held for moments, never while anything waits, and never by two at once: guest and poller take turns.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_protocol::record::{Effect, KEY_MAX, Space, VALUE_MAX};
use bytes::Bytes;

use super::cache::Cache;
use super::message::{SocketCommand, SocketId};
use super::overlay::{Growth, Overlay, Scan, Seen};
use super::storage::{CommitError, KeyRange, ObjectStorage, Order, Page, PageMost, Read};
use super::world::{Identity, ObjectWorld};
use crate::object_bindings::berth::object::storage::Error;
use crate::world::Later;

/// Bytes of what may be written between two commit points. Half of what a record holds: the answer that is kept for a
/// repeated request goes into the same one.
const SEGMENT_BYTES: usize = berth_protocol::record::PAYLOAD_MAX / 2;
const _: () = assert!(SEGMENT_BYTES > VALUE_MAX + KEY_MAX, "the largest value can be written");

/// Entries of one page of a scan: some milliseconds of work for the slowest guest.
const SCAN_ENTRIES: usize = 1000;
/// Bytes of one page of a scan, all of which are in the host's memory and in the guest's at a time. One value may be larger.
const SCAN_BYTES: usize = 1 << 20;

/// Where the version of the schema is kept, in [`Space::Meta`]: four bytes, little-endian.
pub const SCHEMA_KEY: &[u8] = b"schema";

/// What a guest's wish to wait for durability has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sync {
    None,
    /// What was written before is with the storage.
    Wanted,
    Done,
}

/// An object with its data, as its instance sees it.
pub(crate) struct Object {
    pub(super) identity: Identity,
    pub(super) world: Arc<dyn ObjectWorld>,
    storage_bytes: u64,
    state: Mutex<State>,
}

/// What changes.
pub(super) struct State {
    pub(super) storage: Box<dyn ObjectStorage>,
    cache: Cache,
    data: Overlay,
    pub(super) alarms: Overlay,
    /// The ids of all alarms, once somebody asked; with what was written.
    pub(super) alarm_ids: Option<BTreeSet<Bytes>>,
    stored_schema: Option<u32>,
    schema: u32,
    pub(super) sync: Sync,
    /// Segments that the guest has ended since it was polled last.
    pub(super) ended: Vec<Committing>,
    pub(super) turn: TurnState,
}

/// What lasts as long as a turn.
#[derive(Default)]
pub(super) struct TurnState {
    /// What the segment sends.
    pub(super) sends: Vec<SocketCommand>,
    /// What the turn sends to the socket that it may accept.
    pub(super) greetings: Vec<SocketCommand>,
    /// How many commands the turn has given, and their bytes.
    pub(super) commands: (usize, usize),
    /// The socket that the turn may accept.
    pub(super) upgrade: Option<SocketId>,
    pub(super) closed: BTreeSet<SocketId>,
    pub(super) attachments: BTreeMap<SocketId, Bytes>,
    /// The alarm that the turn is about, unless it was set anew.
    pub(super) due: Option<Bytes>,
}

/// A segment that was handed to the storage, and what it sends when it is durable.
pub(super) struct Committing {
    pub(super) durable: Later<Result<(), CommitError>>,
    pub(super) sends: Vec<SocketCommand>,
    pub(super) has_effects: bool,
}

/// What a segment leaves.
pub(super) struct Segment {
    pub(super) effects: Vec<Effect>,
    pub(super) sends: Vec<SocketCommand>,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Object").field(&self.identity.id).finish()
    }
}

impl Object {
    pub(super) fn new(
        identity: Identity,
        world: Arc<dyn ObjectWorld>,
        storage: Box<dyn ObjectStorage>,
        storage_bytes: u64,
        stored_schema: Option<u32>,
    ) -> Self {
        let state = State {
            storage,
            cache: Cache::default(),
            data: Overlay::default(),
            alarms: Overlay::default(),
            alarm_ids: None,
            stored_schema,
            schema: identity.schema_version,
            sync: Sync::None,
            ended: Vec::new(),
            turn: TurnState::default(),
        };
        Self { identity, world, storage_bytes, state: Mutex::new(state) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value of a key, as the turn sees it.
    pub(super) async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        check_key(key)?;
        let looked = self.lock().look(key);
        let read = match looked {
            Ok(value) => return Ok(value),
            Err(read) => read,
        };
        let value = read.wait().await?;
        self.lock().cache.put(Bytes::copy_from_slice(key), value.clone());
        Ok(value)
    }

    /// Writes a value, or deletes it. `known` is what is there now, if the caller has looked.
    pub(super) async fn put(
        &self,
        key: Bytes,
        value: Bytes,
        known: Option<Option<&Bytes>>,
    ) -> Result<(), Error> {
        check_key(&key)?;
        if value.len() > VALUE_MAX {
            return Err(Error::ValueLength);
        }
        if !self.lock().has_room(&key, &value, self.storage_bytes)? {
            self.find_room(&key, &value).await?;
        }
        self.lock().write(key, Some(value), known);
        Ok(())
    }

    pub(super) fn delete(&self, key: Bytes, known: Option<Option<&Bytes>>) -> Result<(), Error> {
        check_key(&key)?;
        let mut state = self.lock();
        if state.data.record_bytes_with(&key, &[]) > SEGMENT_BYTES {
            return Err(Error::TooMuchAtOnce);
        }
        state.write(key, None, known);
        Ok(())
    }

    pub(super) fn delete_all(&self) {
        self.lock().data.clear();
    }

    /// The slow way to see whether there is room: counts what is written over, too, which takes reading it once.
    async fn find_room(&self, key: &Bytes, value: &Bytes) -> Result<(), Error> {
        let old = self.get(key).await?;
        let old = old.map_or(0, |old| (key.len() + old.len()) as u64);
        loop {
            let (growth, used) = {
                let state = self.lock();
                (state.data.growth(), state.storage.bytes_used())
            };
            match growth {
                Growth::Known(growth) => {
                    let after = used as i64 + growth + (key.len() + value.len()) as i64 - old as i64;
                    return if after > self.storage_bytes as i64 { Err(Error::Quota) } else { Ok(()) };
                }
                Growth::Unknown(key) => {
                    let read = self.lock().storage.get(Space::User, &key);
                    let below = read.wait().await?;
                    self.lock().data.learn(&key, below.as_ref());
                }
            }
        }
    }

    /// A commit point, where the guest is now: what it wrote so far is handed to the storage as one. What comes after it is
    /// another segment, also if the guest runs on.
    pub(crate) fn commit_point(&self) {
        let mut state = self.lock();
        let Segment { effects, sends } = state.end_segment();
        let has_effects = !effects.is_empty();
        let durable = state.storage.commit(effects);
        state.ended.push(Committing { durable, sends, has_effects });
    }

    /// A commit point, if there is anything to commit since the last one.
    pub(crate) fn commit_point_if_needed(&self) {
        let state = self.lock();
        let is_needed = !state.data.is_empty() || !state.alarms.is_empty() || !state.turn.sends.is_empty();
        drop(state);
        if is_needed {
            self.commit_point();
        }
    }

    /// Bytes that the object has with what was written, and what it may have.
    pub(super) fn usage(&self) -> (u64, u64) {
        (self.lock().bytes(), self.storage_bytes)
    }

    /// A page of a range of keys, as the turn sees it.
    pub(super) async fn scan(&self, range: KeyRange, order: Order, entries: usize) -> Result<Page, Error> {
        let entries = if entries == 0 { SCAN_ENTRIES } else { entries.min(SCAN_ENTRIES) };
        self.scan_space(Space::User, range, order, PageMost { entries, bytes: SCAN_BYTES }).await
    }

    pub(super) async fn scan_space(
        &self,
        space: Space,
        range: KeyRange,
        order: Order,
        most: PageMost,
    ) -> Result<Page, Error> {
        let mut scan = Scan::new(range, order, most);
        loop {
            let read = self.lock().read_page(space, &scan);
            let below = read.wait().await?;
            if scan.add(below, self.lock().overlay(space)) {
                return Ok(scan.finish());
            }
        }
    }
}

fn check_key(key: &[u8]) -> Result<(), Error> {
    if key.is_empty() || key.len() > KEY_MAX { Err(Error::KeyLength) } else { Ok(()) }
}

impl From<super::storage::StorageError> for Error {
    fn from(error: super::storage::StorageError) -> Self {
        Self::Unavailable(error.0)
    }
}

impl State {
    /// The value of a key if it is here, or how to read it.
    fn look(&mut self, key: &[u8]) -> Result<Option<Bytes>, Read<Option<Bytes>>> {
        if let Seen::Here(value) = self.data.look(key) {
            return Ok(value);
        }
        if let Some(value) = self.cache.get(key) {
            return Ok(value);
        }
        Err(self.storage.get(Space::User, key))
    }

    /// What is stored of a key counts for the quota, unless the key was written in this segment already.
    fn write(&mut self, key: Bytes, value: Option<Bytes>, known: Option<Option<&Bytes>>) {
        let is_below = self.data.look(&key) == Seen::Below;
        let was = known.filter(|_| is_below).map(|old| old.map_or(0, |old| (key.len() + old.len()) as u64));
        self.data.write(key, value, was);
    }

    /// Whether a value may be written without looking at what it is written over.
    fn has_room(&self, key: &[u8], value: &[u8], most: u64) -> Result<bool, Error> {
        if self.data.record_bytes_with(key, value) + self.alarms.record_bytes() > SEGMENT_BYTES {
            return Err(Error::TooMuchAtOnce);
        }
        let below = if self.data.is_cleared() { 0 } else { self.storage.bytes_used() };
        let fits = below + self.data.put_bytes_with(key, value) <= most;
        if !fits && self.data.is_cleared() {
            return Err(Error::Quota);
        }
        Ok(fits)
    }

    fn bytes(&self) -> u64 {
        let below = if self.data.is_cleared() { 0 } else { self.storage.bytes_used() };
        match self.data.growth() {
            Growth::Known(growth) => below.saturating_add_signed(growth),
            Growth::Unknown(_) => below + self.data.put_bytes(),
        }
    }

    fn overlay(&self, space: Space) -> &Overlay {
        if space == Space::Alarm { &self.alarms } else { &self.data }
    }

    fn read_page(&self, space: Space, scan: &Scan) -> Read<Page> {
        if self.overlay(space).is_cleared() || scan.is_void() {
            return Read::Now(Ok(Page::default()));
        }
        self.storage.scan(space, scan.rest(), scan.order(), scan.most())
    }

    /// Begins a turn.
    pub(super) fn begin(&mut self, upgrade: Option<SocketId>, due: Option<Bytes>, closed: Option<SocketId>) {
        let closed = BTreeSet::from_iter(closed);
        self.turn = TurnState { upgrade, due, closed, ..TurnState::default() };
        self.sync = Sync::None;
    }

    /// Ends a segment: takes what it wrote and what it sends. From now on it counts as stored.
    pub(super) fn end_segment(&mut self) -> Segment {
        let mut effects = Vec::new();
        if self.data.is_cleared() {
            self.cache.clear();
        }
        self.data.take(Space::User, &mut effects);
        for effect in &effects {
            match effect {
                Effect::Put { key, value, .. } => self.cache.put(key.clone(), Some(value.clone())),
                Effect::Delete { key, .. } => self.cache.put(key.clone(), None),
                Effect::Clear { .. } => {}
            }
        }
        self.alarms.take(Space::Alarm, &mut effects);
        if !effects.is_empty() && self.stored_schema.is_none() {
            self.stored_schema = Some(self.schema);
            effects.push(schema_effect(self.schema));
        }
        Segment { effects, sends: std::mem::take(&mut self.turn.sends) }
    }

    /// Ends a turn that ended well, and with it its last segment. The first turn of an instance, its start, has brought what is
    /// stored to the schema of the class, if that was another one.
    pub(super) fn end_turn(&mut self) -> Segment {
        if let Some(due) = self.turn.due.take() {
            self.clear_alarm(&due);
        }
        let mut segment = self.end_segment();
        if self.stored_schema.is_some_and(|stored| stored != self.schema) {
            self.stored_schema = Some(self.schema);
            segment.effects.push(schema_effect(self.schema));
        }
        segment
    }
}

fn schema_effect(version: u32) -> Effect {
    let (key, value) = (Bytes::from_static(SCHEMA_KEY), Bytes::copy_from_slice(&version.to_le_bytes()));
    Effect::Put { space: Space::Meta, key, value }
}
