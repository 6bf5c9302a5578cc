//! The current state of all objects, in an embedded engine over a file of our [`Disk`]. See ADR 0013.
//!
//! It is behind the log by what is still in memory, and is brought forward in large steps: each step is one transaction of
//! redb that is durable when it returns, and that carries the number of the last flush in it. So there are two states only,
//! before a step and after it, and a step that failed leaves the one before.
//!
//! ```text
//!   data     scope, id, space, key       ->  CRC-32 of all of that and the value, value
//!   rows     scope, id                   ->  Row
//!   alarms   due time, scope, id, alarm  ->  nothing
//!   damaged  scope, id                   ->  nothing
//!   meta     name                        ->  store id, version, last flush, ends of the groups' logs
//! ```
//!
//! Invariants: a row's bytes and keys are those of its user space; each alarm in `data` has its entry in `alarms` and no
//! other has one; no value is given out whose checksum is wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use berth_protocol::object::{Epoch, Group, ObjectKey, Seq};
use berth_protocol::record::{Owner, Prev, Space, alarm_due_ms};
use bytes::Bytes;
use redb::{
    Builder, Database, ReadOnlyTable, ReadableDatabase, ReadableTable, Table, TableDefinition,
    WriteTransaction,
};

use crate::disk::{Disk, Open};
use crate::layer::{Layer, ObjectStatus};
use crate::pages::Pages;
use crate::segment::{StoreId, array};

/// The name of the engine's file.
pub(crate) const FILE: &str = "engine.redb";

/// The checksums of its pages.
const SUMS: &str = "engine.sums";

/// An engine that is being made.
const UNFINISHED: &str = "engine.new";

/// The version of what is in the engine.
const VERSION: u32 = 1;

type Def = TableDefinition<'static, &'static [u8], &'static [u8]>;
type Rows = ReadOnlyTable<&'static [u8], &'static [u8]>;

const DATA: Def = TableDefinition::new("data");
const ROWS: Def = TableDefinition::new("rows");
const ALARMS: Def = TableDefinition::new("alarms");
const DAMAGED: Def = TableDefinition::new("damaged");
const META: Def = TableDefinition::new("meta");

/// What the engine could not do.
#[derive(Debug, thiserror::Error)]
#[error("the engine failed: {what}")]
pub struct EngineError {
    what: String,
    /// Whether the disk was full.
    pub full: bool,
    /// Whether a page of its file is not what was written.
    pub damaged: bool,
}

impl<E: Into<redb::Error>> From<E> for EngineError {
    fn from(error: E) -> Self {
        let error = error.into();
        let full = matches!(&error, redb::Error::Io(error) if crate::disk::is_full(error));
        let damaged = matches!(&error, redb::Error::Corrupted(_));
        Self { what: error.to_string(), full, damaged }
    }
}

impl EngineError {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), full: false, damaged: false }
    }
}

/// What is stored of an object beside its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The last write: whoever writes next has to follow it.
    pub owner: Owner,
    /// The group in whose log that write is.
    pub group: Group,
    /// Whether it is there.
    pub status: ObjectStatus,
    /// Keys in the user space.
    pub user_keys: u64,
    /// Bytes of keys and values in the user space.
    pub user_bytes: u64,
    /// When it was first written, in milliseconds of Unix time as the writer was told.
    pub created_ms: u64,
    /// When it was last written.
    pub written_ms: u64,
}

impl Row {
    const LEN: usize = 58;

    fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = 1;
        bytes[1] = self.status as u8;
        bytes[2..6].copy_from_slice(&self.group.0.to_le_bytes());
        let numbers = [
            self.owner.epoch.0,
            self.owner.seq.0,
            self.user_keys,
            self.user_bytes,
            self.created_ms,
            self.written_ms,
        ];
        for (at, number) in numbers.iter().enumerate() {
            bytes[6 + at * 8..14 + at * 8].copy_from_slice(&number.to_le_bytes());
        }
        let sum = crc32fast::hash(&bytes[..54]);
        bytes[54..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let number = |at: usize| u64::from_le_bytes(array(&bytes[6 + at * 8..]));
        if bytes[0] != 1 || crc32fast::hash(&bytes[..54]).to_le_bytes() != bytes[54..] {
            return None;
        }
        let status = match bytes[1] {
            0 => ObjectStatus::Present,
            1 => ObjectStatus::Removed,
            2 => ObjectStatus::Damaged,
            _ => return None,
        };
        Some(Self {
            owner: Owner { epoch: Epoch(number(0)), seq: Seq(number(1)) },
            group: Group(u32::from_le_bytes(array(&bytes[2..]))),
            status,
            user_keys: number(2),
            user_bytes: number(3),
            created_ms: number(4),
            written_ms: number(5),
        })
    }
}

/// Up to where the engine has the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) flush: u64,
    pub(crate) groups: BTreeMap<Group, GroupEnd>,
}

/// The end of a group's log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct GroupEnd {
    /// The group's epoch.
    pub(crate) epoch: Epoch,
    /// Whether the log takes nothing more in this epoch.
    pub(crate) sealed: bool,
    /// The last record.
    pub(crate) last: Prev,
}

impl Applied {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.flush.to_le_bytes().to_vec();
        for (group, end) in &self.groups {
            bytes.extend_from_slice(&group.0.to_le_bytes());
            bytes.extend_from_slice(&end.epoch.0.to_le_bytes());
            bytes.push(u8::from(end.sealed));
            bytes.extend_from_slice(&end.last.epoch.0.to_le_bytes());
            bytes.extend_from_slice(&end.last.seq.0.to_le_bytes());
            bytes.extend_from_slice(&end.last.sum.to_le_bytes());
        }
        let sum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (bytes, sum) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(bytes).to_le_bytes() != *sum {
            return None;
        }
        let (flush, rest) = bytes.split_first_chunk::<8>()?;
        let groups = rest.chunks_exact(33).map(|bytes| {
            let number = |at: usize| u64::from_le_bytes(array(&bytes[at..]));
            let last = Prev {
                epoch: Epoch(number(13)),
                seq: Seq(number(21)),
                sum: u32::from_le_bytes(array(&bytes[29..])),
            };
            let end = GroupEnd { epoch: Epoch(number(4)), sealed: bytes[12] != 0, last };
            (Group(u32::from_le_bytes(array(bytes))), end)
        });
        Some(Self { flush: u64::from_le_bytes(*flush), groups: groups.collect() })
    }
}

/// The engine. It is written by one thread, and read by all through [`View`]s.
pub(crate) struct Engine {
    disk: Arc<dyn Disk>,
    cache_bytes: usize,
    database: Mutex<Option<Handle>>,
    view: Mutex<Arc<View>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// An open database. Closing it writes, and may meet a damaged page: that must not end the thread that lets it go.
struct Handle(Option<Database>);

impl Handle {
    fn database(&self) -> Result<&Database, EngineError> {
        self.0.as_ref().ok_or_else(|| EngineError::new("it is closed"))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let database = self.0.take();
        let closed = guarded(move || {
            drop(database);
            Ok(())
        });
        if let Err(error) = closed {
            tracing::error!(%error, "the engine could not be closed in good order");
        }
    }
}

fn open_database(disk: &dyn Disk, name: &str, cache_bytes: usize, how: Open) -> Result<Handle, EngineError> {
    let file = disk.open(name, how).map_err(redb::StorageError::Io)?;
    let sums = disk.open(SUMS, how).map_err(redb::StorageError::Io)?;
    let pages = Pages::new(file, sums).map_err(redb::StorageError::Io)?;
    let mut builder = Builder::new();
    builder.set_cache_size(cache_bytes);
    guarded(|| Ok(Handle(Some(builder.create_with_backend(pages)?))))
}

/// redb trusts its pages: on a damaged one it panics. Here that is an error of whoever asked.
fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(EngineError { damaged: true, ..EngineError::new("a page of its file is damaged") })
    })
}

impl Engine {
    /// Makes the engine of a new store, with what `fill` puts into it. It has its name once it is whole.
    pub(crate) fn create(
        disk: &dyn Disk,
        cache_bytes: usize,
        store: StoreId,
        applied: &Applied,
        fill: impl FnMut(&mut Raw<'_>) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let io = |error| EngineError::from(redb::StorageError::Io(error));
        for left in disk.list().map_err(io)?.iter().filter(|name| [UNFINISHED, SUMS].contains(&name.as_str()))
        {
            disk.remove(left).map_err(io)?;
        }
        let database = open_database(disk, UNFINISHED, cache_bytes, Open::New)?;
        guarded(|| write_first(database.database()?, store, applied, fill))?;
        drop(database);
        let named = disk.sync_dir().and_then(|()| disk.rename(UNFINISHED, FILE));
        named.and_then(|()| disk.sync_dir()).map_err(io)
    }

    /// Opens the engine of a store, and says whose it is and how far it is.
    pub(crate) fn open(
        disk: &Arc<dyn Disk>,
        cache_bytes: usize,
    ) -> Result<(Self, StoreId, Applied), EngineError> {
        let database = open_database(&**disk, FILE, cache_bytes, Open::Existing)?;
        let (store, applied) = guarded(|| read_meta(database.database()?))?;
        let view = guarded(|| View::new(database.database()?, applied.clone()))?;
        let engine = Self {
            disk: Arc::clone(disk),
            cache_bytes,
            database: Mutex::new(Some(database)),
            view: Mutex::new(Arc::new(view)),
        };
        Ok((engine, store, applied))
    }

    /// What can be read, as of the last step.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Brings the engine forward, durably. After an error it is where it was.
    pub(crate) fn step<'a>(
        &self,
        applied: &Applied,
        layers: impl Iterator<Item = (&'a ObjectKey, &'a Layer)>,
    ) -> Result<(), EngineError> {
        let mut slot = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            // It has failed before, and redb does nothing more after that. What is in the file is what counts.
            *slot = Some(open_database(&*self.disk, FILE, self.cache_bytes, Open::Existing)?);
        }
        let result = match slot.as_ref() {
            Some(handle) => guarded(|| {
                let database = handle.database()?;
                write_step(database, applied, layers)?;
                View::new(database, applied.clone())
            }),
            None => Err(EngineError::new("it is closed")),
        };
        match result {
            Ok(view) => {
                *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
                Ok(())
            }
            Err(error) => {
                *slot = None;
                Err(error)
            }
        }
    }
}

fn write_first(
    database: &Database,
    store: StoreId,
    applied: &Applied,
    mut fill: impl FnMut(&mut Raw<'_>) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let mut write = database.begin_write()?;
    write.set_quick_repair(true);
    {
        let tables = Tables::open(&write)?;
        fill(&mut Raw(tables))?;
        let mut meta = write.open_table(META)?;
        meta.insert(&b"store"[..], &store.0[..])?;
        meta.insert(&b"version"[..], &VERSION.to_le_bytes()[..])?;
        meta.insert(&b"applied"[..], &applied.encode()[..])?;
    }
    write.commit()?;
    Ok(())
}

/// The tables of an engine that is being made from a snapshot.
pub(crate) struct Raw<'t>(Tables<'t>);

/// What a snapshot is made of. The other tables follow from these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RawTable {
    Data,
    Rows,
}

impl Raw<'_> {
    /// Takes an entry of a snapshot as it was in the engine, with its checksum, good or bad.
    pub(crate) fn insert(&mut self, table: RawTable, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        match table {
            RawTable::Data => {
                self.0.data.insert(key, value)?;
                let Some((object, rest)) = key.split_first_chunk::<{ ObjectKey::LEN }>() else {
                    return Err(EngineError::new("a key of the snapshot is too short"));
                };
                if let Some((space, id)) = rest.split_first()
                    && *space == Space::Alarm.code()
                {
                    self.0.move_alarm(object, id, None, old_due(Space::Alarm, value))?;
                }
            }
            RawTable::Rows => {
                self.0.rows.insert(key, value)?;
                if Row::decode(value).is_none_or(|row| row.status == ObjectStatus::Damaged) {
                    self.0.damaged.insert(key, &[][..])?;
                }
            }
        }
        Ok(())
    }
}

fn read_meta(database: &Database) -> Result<(StoreId, Applied), EngineError> {
    let meta = database.begin_read()?.open_table(META)?;
    let get = |name: &str| -> Result<Vec<u8>, EngineError> {
        let value = meta.get(name.as_bytes())?;
        value.map(|value| value.value().to_vec()).ok_or_else(|| EngineError::new(format!("it has no {name}")))
    };
    let version = get("version")?;
    if version != VERSION.to_le_bytes() {
        return Err(EngineError::new(format!(
            "its contents have version {version:?}, and this program reads version {VERSION}: run the newer program again"
        )));
    }
    let store = get("store")?;
    let store = <[u8; 16]>::try_from(&store[..]).map_err(|_| EngineError::new("its id is damaged"))?;
    let applied =
        Applied::decode(&get("applied")?).ok_or_else(|| EngineError::new("its position is damaged"))?;
    Ok((StoreId(store), applied))
}

fn write_step<'a>(
    database: &Database,
    applied: &Applied,
    layers: impl Iterator<Item = (&'a ObjectKey, &'a Layer)>,
) -> Result<(), EngineError> {
    let mut write = database.begin_write()?;
    // With the allocator's state in the file a start after a crash does not walk through all of it.
    write.set_quick_repair(true);
    {
        let mut tables = Tables::open(&write)?;
        for (object, layer) in layers {
            tables.object(*object, layer)?;
        }
        write.open_table(META)?.insert(&b"applied"[..], &applied.encode()[..])?;
    }
    write.commit()?;
    Ok(())
}

/// The key of a value: scope, id, space, and the key that the guest knows.
fn data_key(object: &[u8; ObjectKey::LEN], space: Space, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ObjectKey::LEN + 1 + key.len());
    bytes.extend_from_slice(object);
    bytes.push(space.code());
    bytes.extend_from_slice(key);
    bytes
}

fn alarm_key(due_ms: u64, object: &[u8; ObjectKey::LEN], id: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + ObjectKey::LEN + id.len());
    bytes.extend_from_slice(&due_ms.to_be_bytes());
    bytes.extend_from_slice(object);
    bytes.extend_from_slice(id);
    bytes
}

fn value_sum(data_key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(data_key);
    hasher.update(value);
    hasher.finalize()
}

const SUM_LEN: usize = 4;

/// The value that was stored under a key, if it is still that.
fn checked<'v>(data_key: &[u8], stored: &'v [u8]) -> Option<&'v [u8]> {
    let (sum, value) = stored.split_first_chunk::<SUM_LEN>()?;
    (value_sum(data_key, value).to_le_bytes() == *sum).then_some(value)
}

struct Tables<'t> {
    data: Table<'t, &'static [u8], &'static [u8]>,
    rows: Table<'t, &'static [u8], &'static [u8]>,
    alarms: Table<'t, &'static [u8], &'static [u8]>,
    damaged: Table<'t, &'static [u8], &'static [u8]>,
}

impl<'t> Tables<'t> {
    fn open(write: &'t WriteTransaction) -> Result<Self, EngineError> {
        Ok(Self {
            data: write.open_table(DATA)?,
            rows: write.open_table(ROWS)?,
            alarms: write.open_table(ALARMS)?,
            damaged: write.open_table(DAMAGED)?,
        })
    }

    fn object(&mut self, object: ObjectKey, layer: &Layer) -> Result<(), EngineError> {
        let prefix = object.to_bytes();
        let stored = self.rows.get(&prefix[..])?.map(|row| Row::decode(row.value()));
        let old = match stored {
            Some(None) => {
                return Err(EngineError::new(format!("the row of object {object} is damaged")));
            }
            Some(Some(row)) => Some(row),
            None => None,
        };
        let mut row = old.unwrap_or(Row {
            owner: layer.owner,
            group: layer.group,
            status: ObjectStatus::Removed,
            user_keys: 0,
            user_bytes: 0,
            created_ms: layer.first_ms,
            written_ms: layer.last_ms,
        });
        for space in Space::ALL {
            self.space(&prefix, space, layer, &mut row)?;
        }
        merge(&mut row, layer);
        self.rows.insert(&prefix[..], &row.encode()[..])?;
        match row.status {
            ObjectStatus::Damaged => drop(self.damaged.insert(&prefix[..], &[][..])?),
            _ => drop(self.damaged.remove(&prefix[..])?),
        }
        Ok(())
    }

    fn space(
        &mut self,
        prefix: &[u8; ObjectKey::LEN],
        space: Space,
        layer: &Layer,
        row: &mut Row,
    ) -> Result<(), EngineError> {
        let layer = layer.space(space);
        if layer.cleared {
            self.clear(prefix, space, row)?;
        }
        let mut stored = Vec::new();
        for (key, value) in &layer.writes {
            let full = data_key(prefix, space, key);
            let old = match value {
                Some(value) => {
                    stored.clear();
                    stored.extend_from_slice(&value_sum(&full, value).to_le_bytes());
                    stored.extend_from_slice(value);
                    self.data.insert(&full[..], &stored[..])?
                }
                None => self.data.remove(&full[..])?,
            };
            let old = old.map(|old| (old.value().len() - SUM_LEN, old_due(space, old.value())));
            self.account(space, key, old.map(|(len, _)| len), value.as_ref().map(Bytes::len), row);
            if space == Space::Alarm {
                let new = value.as_ref().and_then(|value| alarm_due_ms(value));
                self.move_alarm(prefix, key, old.and_then(|(_, due)| due), new)?;
            }
        }
        Ok(())
    }

    fn account(&self, space: Space, key: &[u8], old: Option<usize>, new: Option<usize>, row: &mut Row) {
        if space != Space::User {
            return;
        }
        if let Some(old) = old {
            row.user_keys = row.user_keys.saturating_sub(1);
            row.user_bytes = row.user_bytes.saturating_sub((key.len() + old) as u64);
        }
        if let Some(new) = new {
            row.user_keys += 1;
            row.user_bytes += (key.len() + new) as u64;
        }
    }

    fn move_alarm(
        &mut self,
        prefix: &[u8; ObjectKey::LEN],
        id: &[u8],
        old: Option<u64>,
        new: Option<u64>,
    ) -> Result<(), EngineError> {
        if let Some(old) = old {
            self.alarms.remove(&alarm_key(old, prefix, id)[..])?;
        }
        if let Some(new) = new {
            self.alarms.insert(&alarm_key(new, prefix, id)[..], &[][..])?;
        }
        Ok(())
    }

    fn clear(
        &mut self,
        prefix: &[u8; ObjectKey::LEN],
        space: Space,
        row: &mut Row,
    ) -> Result<(), EngineError> {
        let from = data_key(prefix, space, &[]);
        let mut until = from.clone();
        until[ObjectKey::LEN] += 1;
        if space == Space::Alarm {
            let mut gone = Vec::new();
            for entry in self.data.range::<&[u8]>(&from[..]..&until[..])? {
                let (key, value) = entry?;
                let id = key.value()[ObjectKey::LEN + 1..].to_vec();
                gone.push((id, old_due(space, value.value())));
            }
            for (id, due) in gone {
                self.move_alarm(prefix, &id, due, None)?;
            }
        }
        self.data.retain_in::<&[u8], _>(&from[..]..&until[..], |_, _| false)?;
        if space == Space::User {
            (row.user_keys, row.user_bytes) = (0, 0);
        }
        Ok(())
    }
}

fn old_due(space: Space, stored: &[u8]) -> Option<u64> {
    (space == Space::Alarm).then(|| stored.get(SUM_LEN..).and_then(alarm_due_ms)).flatten()
}

/// What a row becomes by a layer, but for its bytes and keys.
pub(crate) fn merge(row: &mut Row, layer: &Layer) {
    row.owner = layer.owner;
    row.group = layer.group;
    row.written_ms = layer.last_ms;
    let was = row.status;
    row.status = match layer.status {
        Some(status) => status,
        None if was == ObjectStatus::Damaged => ObjectStatus::Damaged,
        None => ObjectStatus::Present,
    };
    if was == ObjectStatus::Removed {
        row.created_ms = layer.first_ms;
    }
    if let Some(remade_ms) = layer.remade_ms {
        row.created_ms = remade_ms;
    }
}

/// The engine as of one step, for readers. It does not change.
pub(crate) struct View {
    pub(crate) applied: Applied,
    data: Rows,
    rows: Rows,
    alarms: Rows,
    damaged: Rows,
}

/// What was found under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stored {
    Value(Bytes),
    Nothing,
    /// Something is there, and it is not what was stored.
    Damaged,
}

/// In which order keys come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the least to the greatest.
    Forward,
    /// From the greatest to the least.
    Backward,
}

impl View {
    fn new(database: &Database, applied: Applied) -> Result<Self, EngineError> {
        let read = database.begin_read()?;
        Ok(Self {
            applied,
            data: read.open_table(DATA)?,
            rows: read.open_table(ROWS)?,
            alarms: read.open_table(ALARMS)?,
            damaged: read.open_table(DAMAGED)?,
        })
    }

    pub(crate) fn get(&self, object: ObjectKey, space: Space, key: &[u8]) -> Result<Stored, EngineError> {
        let full = data_key(&object.to_bytes(), space, key);
        guarded(|| {
            Ok(match self.data.get(&full[..])? {
                None => Stored::Nothing,
                Some(stored) => match checked(&full, stored.value()) {
                    Some(value) => Stored::Value(Bytes::copy_from_slice(value)),
                    None => Stored::Damaged,
                },
            })
        })
    }

    /// Entries of a space in order, until `take` says that it has enough.
    pub(crate) fn scan(
        &self,
        object: ObjectKey,
        space: Space,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        direction: Direction,
        mut take: impl FnMut(Bytes, Stored) -> bool,
    ) -> Result<(), EngineError> {
        let prefix = object.to_bytes();
        let full = |key: &[u8]| data_key(&prefix, space, key);
        let start = match range.0 {
            Bound::Included(key) => Bound::Included(full(key)),
            Bound::Excluded(key) => Bound::Excluded(full(key)),
            Bound::Unbounded => Bound::Included(full(&[])),
        };
        let end = match range.1 {
            Bound::Included(key) => Bound::Included(full(key)),
            Bound::Excluded(key) => Bound::Excluded(full(key)),
            Bound::Unbounded => {
                let mut end = full(&[]);
                end[ObjectKey::LEN] += 1;
                Bound::Excluded(end)
            }
        };
        let range = (as_slice(&start), as_slice(&end));
        guarded(|| {
            let mut entries = self.data.range::<&[u8]>(range)?;
            loop {
                let entry = match direction {
                    Direction::Forward => entries.next(),
                    Direction::Backward => entries.next_back(),
                };
                let Some(entry) = entry else { return Ok(()) };
                let (full, stored) = entry?;
                let key = Bytes::copy_from_slice(&full.value()[ObjectKey::LEN + 1..]);
                let stored = match checked(full.value(), stored.value()) {
                    Some(value) => Stored::Value(Bytes::copy_from_slice(value)),
                    None => Stored::Damaged,
                };
                if !take(key, stored) {
                    return Ok(());
                }
            }
        })
    }

    /// How many bytes a value has, whatever they are.
    pub(crate) fn len_of(
        &self,
        object: ObjectKey,
        space: Space,
        key: &[u8],
    ) -> Result<Option<usize>, EngineError> {
        let full = data_key(&object.to_bytes(), space, key);
        guarded(|| Ok(self.data.get(&full[..])?.map(|stored| stored.value().len().saturating_sub(SUM_LEN))))
    }

    pub(crate) fn row(&self, object: ObjectKey) -> Result<Option<Row>, EngineError> {
        guarded(|| match self.rows.get(&object.to_bytes()[..])? {
            None => Ok(None),
            Some(row) => Row::decode(row.value())
                .map(Some)
                .ok_or_else(|| EngineError::new(format!("the row of object {object} is damaged"))),
        })
    }

    /// Rows in the order of their keys, from `from` on, until `take` says that it has enough.
    pub(crate) fn rows(
        &self,
        from: Bound<[u8; ObjectKey::LEN]>,
        mut take: impl FnMut(ObjectKey, Option<Row>) -> bool,
    ) -> Result<(), EngineError> {
        let start = match &from {
            Bound::Included(key) => Bound::Included(&key[..]),
            Bound::Excluded(key) => Bound::Excluded(&key[..]),
            Bound::Unbounded => Bound::Unbounded,
        };
        guarded(|| {
            for entry in self.rows.range::<&[u8]>((start, Bound::Unbounded))? {
                let (key, row) = entry?;
                let key: Option<&[u8; ObjectKey::LEN]> = key.value().try_into().ok();
                let Some(Ok(key)) = key.map(ObjectKey::from_bytes) else { continue };
                if !take(key, Row::decode(row.value())) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// All entries of a table as they are, until `take` has had enough.
    pub(crate) fn raw(
        &self,
        table: RawTable,
        mut take: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        let table = match table {
            RawTable::Data => &self.data,
            RawTable::Rows => &self.rows,
        };
        guarded(|| {
            for entry in table.range::<&[u8]>(..)? {
                let (key, value) = entry?;
                if !take(key.value(), value.value()) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// The objects that are refused, since something of them is lost.
    pub(crate) fn damaged(&self) -> Result<Vec<ObjectKey>, EngineError> {
        guarded(|| {
            let mut objects = Vec::new();
            for entry in self.damaged.range::<&[u8]>(..)? {
                let (key, _) = entry?;
                let key: Option<&[u8; ObjectKey::LEN]> = key.value().try_into().ok();
                objects.extend(key.and_then(|key| ObjectKey::from_bytes(key).ok()));
            }
            Ok(objects)
        })
    }

    /// Alarms by due time, until `take` says that it has enough.
    pub(crate) fn alarms(
        &self,
        mut take: impl FnMut(u64, ObjectKey, Bytes) -> bool,
    ) -> Result<(), EngineError> {
        guarded(|| {
            for entry in self.alarms.range::<&[u8]>(..)? {
                let (key, _) = entry?;
                let Some((due, rest)) = key.value().split_first_chunk::<8>() else { continue };
                let Some((object, id)) = rest.split_first_chunk::<{ ObjectKey::LEN }>() else { continue };
                let Ok(object) = ObjectKey::from_bytes(object) else { continue };
                if !take(u64::from_be_bytes(*due), object, Bytes::copy_from_slice(id)) {
                    break;
                }
            }
            Ok(())
        })
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

/// Whether the engine's file is there.
pub(crate) fn exists(disk: &dyn Disk) -> io::Result<bool> {
    Ok(disk.list()?.iter().any(|name| name == FILE))
}
