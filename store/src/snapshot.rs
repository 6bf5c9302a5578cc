//! Snapshots of a whole store while it runs, restoring them, and single objects as files.
//!
//! A snapshot is the engine as of one of its steps: a data file, and a manifest that names it with its length and
//! checksum. Both are made under new numbers and never changed; a snapshot counts once its manifest is whole. One that was
//! killed on its way leaves files that nothing names, and the next one takes the next number.
//!
//! A restored store is a store of its own, with an id of its own: what was committed after the snapshot is not in it, and
//! whoever had its epochs must not come back. It goes on where the snapshot's groups ended.

use std::io;
use std::sync::Arc;

use berth_protocol::object::{ObjectKey, Scope};
use berth_protocol::record::{Effect, EffectError, Space, check_effects};
use bytes::Bytes;

use crate::bundle::{BundleError, BundleWriter, Content, Stream, read_bundle};
use crate::disk::{Disk, Open};
use crate::engine::{self, Applied, Engine, EngineError, RawTable};
use crate::segment::StoreId;
use crate::store::Store;

const TAG_DATA: u8 = 1;
const TAG_ROW: u8 = 2;
const TAG_KEY: u8 = 3;
const TAG_VALUE: u8 = 4;
const TAG_ZONE: u8 = 5;
const TAG_CLASS: u8 = 6;

/// Why there is no snapshot, or why it cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The engine.
    #[error("the engine cannot be read or written")]
    Engine(#[from] EngineError),
    /// The folder of the snapshots.
    #[error("the folder of the snapshot cannot be read or written")]
    Disk(#[from] io::Error),
    /// A file of the snapshot.
    #[error("{file} of the snapshot cannot be used; take an older one")]
    File {
        /// Which one.
        file: String,
        /// Why.
        #[source]
        source: BundleError,
    },
    /// Where it should go there is a store.
    #[error("there is a store in the folder already: restore into an empty one")]
    Occupied,
    /// The snapshots in the folder are of another store.
    #[error("the folder has snapshots of another store: take another folder")]
    Foreign,
}

impl From<BundleError> for SnapshotError {
    fn from(source: BundleError) -> Self {
        Self::File { file: "a file".to_owned(), source }
    }
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its number in its folder.
    pub number: u64,
    /// Which store it is of.
    pub store: StoreId,
    /// The last record of each group that is in it.
    pub groups: Vec<(berth_protocol::object::Group, berth_protocol::object::Seq)>,
    /// How many bytes its data file has.
    pub bytes: u64,
    /// What was given to be kept with it.
    pub beside: Vec<u8>,
    applied: Applied,
    entries: u64,
}

fn data_name(number: u64) -> String {
    format!("snapshot-{number:016x}")
}

fn manifest_name(number: u64) -> String {
    format!("manifest-{number:016x}")
}

fn number_of(name: &str, prefix: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_prefix(prefix)?, 16).ok()
}

/// The numbers of the manifests in a folder, whole or not, from the oldest.
fn manifests(folder: &dyn Disk) -> io::Result<Vec<u64>> {
    let names = folder.list()?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name, "manifest-")).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The newest snapshot of a folder that is whole.
pub fn newest_snapshot(folder: &dyn Disk) -> Result<Option<Snapshot>, SnapshotError> {
    for number in manifests(folder)?.into_iter().rev() {
        match read_snapshot(folder, number) {
            Ok(snapshot) => return Ok(Some(snapshot)),
            Err(SnapshotError::File {
                file,
                source: BundleError::Damaged { .. } | BundleError::Other { .. },
            }) => {
                tracing::warn!(file, "a snapshot is not whole, and is passed over");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Reads the manifest of a snapshot.
pub fn read_snapshot(folder: &dyn Disk, number: u64) -> Result<Snapshot, SnapshotError> {
    let name = manifest_name(number);
    let failed = |source| SnapshotError::File { file: name.clone(), source };
    let file = folder.open(&name, Open::Existing)?;
    let (mut store, mut applied, mut lengths, mut beside) = (None, None, None, Vec::new());
    let read = read_bundle::<BundleError>(Stream { file, at: 0 }, Content::Manifest, |_, key, value| {
        match key {
            b"store" => store = <[u8; 16]>::try_from(value).ok().map(StoreId),
            b"applied" => applied = Applied::decode(value),
            b"lengths" => lengths = <[u8; 16]>::try_from(value).ok(),
            b"beside" => beside = value.to_vec(),
            _ => {}
        }
        Ok(())
    });
    read.map_err(failed)?;
    let (Some(store), Some(applied), Some(lengths)) = (store, applied, lengths) else {
        return Err(failed(BundleError::Other { what: "something is missing in it" }));
    };
    let number_at = |at: usize| u64::from_le_bytes(crate::segment::array(&lengths[at..]));
    Ok(Snapshot {
        number,
        store,
        groups: applied.groups.iter().map(|(group, end)| (*group, end.last.seq)).collect(),
        bytes: number_at(0),
        beside,
        entries: number_at(8),
        applied,
    })
}

/// Makes a store of a snapshot, in a folder that has none. It is opened as any other then.
pub fn restore(
    from: &dyn Disk,
    snapshot: &Snapshot,
    to: &dyn Disk,
    fresh: StoreId,
) -> Result<(), SnapshotError> {
    /// What redb may hold while a snapshot is loaded.
    const CACHE_BYTES: usize = 64 << 20;
    if engine::exists(to)? || crate::recover::store_of(to).ok().flatten().is_some() {
        return Err(SnapshotError::Occupied);
    }
    let name = data_name(snapshot.number);
    let file = from.open(&name, Open::Existing)?;
    let mut failure = None;
    let filled = Engine::create(to, CACHE_BYTES, fresh, &snapshot.applied, |raw| {
        let stream = Stream { file: Arc::clone(&file), at: 0 };
        let read = read_bundle::<SnapshotError>(stream, Content::Snapshot, |tag, key, value| {
            let table = if tag == TAG_ROW { RawTable::Rows } else { RawTable::Data };
            Ok(raw.insert(table, key, value)?)
        });
        let whole = match read {
            Ok(entries) if entries == snapshot.entries => Ok(()),
            Ok(entries) => Err(BundleError::Damaged { after: entries }.into()),
            Err(error) => Err(error),
        };
        whole.map_err(|error| {
            failure = Some(error);
            EngineError::new("the snapshot could not be read")
        })
    });
    match (failure, filled) {
        (Some(SnapshotError::File { source, .. }), _) => Err(SnapshotError::File { file: name, source }),
        (Some(other), _) => Err(other),
        (None, filled) => Ok(filled?),
    }
}

impl Store {
    /// Writes a snapshot of what is committed now into a folder, while the store goes on. `beside` is kept with it, for
    /// whoever restores it. Where there is no room for it, it leaves nothing.
    pub fn snapshot(&self, folder: &dyn Disk, beside: &[u8]) -> Result<Snapshot, SnapshotError> {
        if newest_snapshot(folder)?.is_some_and(|newest| newest.store != self.id()) {
            return Err(SnapshotError::Foreign);
        }
        let names = folder.list()?;
        let used =
            names.iter().filter_map(|name| number_of(name, "manifest-").or(number_of(name, "snapshot-")));
        let number = used.max().map_or(1, |number| number + 1);
        let made = self.write_snapshot(folder, number, beside);
        if made.is_err() {
            // The disk may be full, and somebody else's too. What stays is passed over by all who look for snapshots.
            let _ = folder.remove(&manifest_name(number));
            let _ = folder.remove(&data_name(number));
        }
        made
    }

    fn write_snapshot(
        &self,
        folder: &dyn Disk,
        number: u64,
        beside: &[u8],
    ) -> Result<Snapshot, SnapshotError> {
        self.apply_all()?;
        let view = self.inner.engine.view();
        let file = folder.open(&data_name(number), Open::New)?;
        let mut writer = BundleWriter::new(Stream { file, at: 0 }, Content::Snapshot)?;
        for (table, tag) in [(RawTable::Data, TAG_DATA), (RawTable::Rows, TAG_ROW)] {
            let mut written = Ok(());
            view.raw(table, |key, value| {
                written = writer.entry(tag, key, value);
                written.is_ok()
            })?;
            written?;
        }
        let (stream, entries) = writer.finish()?;
        stream.file.sync_data()?;
        let bytes = stream.at;
        let applied = view.applied.clone();
        let groups = applied.groups.iter().map(|(group, end)| (*group, end.last.seq)).collect();
        let beside = beside.to_vec();
        let snapshot = Snapshot { number, store: self.id(), groups, bytes, beside, applied, entries };
        write_manifest(folder, &snapshot)?;
        Ok(snapshot)
    }

    /// Brings the engine forward to what is committed now, also if an earlier step had failed.
    fn apply_all(&self) -> Result<(), EngineError> {
        let retried = self.inner.step_waits();
        self.apply()?;
        if retried { self.apply() } else { Ok(()) }
    }

    /// Writes an object as it is committed now, as a file that says what it is. An error that comes before anything was
    /// written says that there is nothing to write.
    pub fn export(
        &self,
        object: ObjectKey,
        label: &Label,
        out: &mut dyn io::Write,
    ) -> Result<(), ExportError> {
        self.apply_all()?;
        let view = self.inner.engine.view();
        if self.inner.is_damaged(&object) {
            return Err(ExportError::Damaged { object });
        }
        if view.row(object)?.is_none_or(|row| row.status != crate::layer::ObjectStatus::Present) {
            return Err(ExportError::Missing { object });
        }
        let mut writer = BundleWriter::new(out, Content::Object)?;
        writer.entry(TAG_KEY, &object.to_bytes(), &[])?;
        writer.entry(TAG_ZONE, label.zone.as_bytes(), &[])?;
        writer.entry(TAG_CLASS, label.class.as_bytes(), &[])?;
        for space in Space::ALL {
            let (mut written, mut damaged) = (Ok(()), false);
            let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
            view.scan(object, space, all, engine::Direction::Forward, |key, stored| match stored {
                engine::Stored::Value(value) => {
                    let mut spaced = vec![space.code()];
                    spaced.extend_from_slice(&key);
                    written = writer.entry(TAG_VALUE, &spaced, &value);
                    written.is_ok()
                }
                engine::Stored::Nothing | engine::Stored::Damaged => {
                    damaged = true;
                    false
                }
            })?;
            written?;
            if damaged {
                return Err(ExportError::Damaged { object });
            }
        }
        writer.finish()?;
        Ok(())
    }
}

fn write_manifest(folder: &dyn Disk, snapshot: &Snapshot) -> Result<(), SnapshotError> {
    // The data file has its name for good before anything names it.
    folder.sync_dir()?;
    let file = folder.open(&manifest_name(snapshot.number), Open::New)?;
    let mut writer = BundleWriter::new(Stream { file, at: 0 }, Content::Manifest)?;
    let mut lengths = [0; 16];
    lengths[..8].copy_from_slice(&snapshot.bytes.to_le_bytes());
    lengths[8..].copy_from_slice(&snapshot.entries.to_le_bytes());
    writer.entry(0, b"store", &snapshot.store.0)?;
    writer.entry(0, b"applied", &snapshot.applied.encode())?;
    writer.entry(0, b"lengths", &lengths)?;
    writer.entry(0, b"beside", &snapshot.beside)?;
    let (stream, _) = writer.finish()?;
    stream.file.sync_data()?;
    Ok(folder.sync_dir()?)
}

/// Why an object was not exported or cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The engine.
    #[error("the engine cannot be read or written")]
    Engine(#[from] EngineError),
    /// Where it is written to.
    #[error("the export cannot be written")]
    Io(#[from] io::Error),
    /// There is no such object.
    #[error("there is no object {object}")]
    Missing {
        /// Which one.
        object: ObjectKey,
    },
    /// Something of it is lost.
    #[error("object {object} is damaged")]
    Damaged {
        /// Which one.
        object: ObjectKey,
    },
    /// The file.
    #[error("the file of the object cannot be used")]
    File(#[from] BundleError),
    /// It is larger than what can be written at once.
    #[error("the object is too large to be imported at once")]
    Effects(#[source] EffectError),
}

/// Whose object it is, in words: its key has a hash of them only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The zone.
    pub zone: String,
    /// The class.
    pub class: String,
}

/// An exported object, as the effects that make it what it was: all spaces cleared, then filled. They go into one
/// submission of a new owner; a damaged object is removed before, by the same owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Which object it was. It may become another one.
    pub key: ObjectKey,
    /// Whose.
    pub label: Label,
    /// What makes it.
    pub effects: Vec<Effect>,
}

/// Reads an exported object.
pub fn import(input: impl io::Read) -> Result<Import, ExportError> {
    let nonsense = || BundleError::Other { what: "an entry of it makes no sense" };
    let (mut key, mut zone, mut class) = (None, None, None);
    let words = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| nonsense());
    let mut effects: Vec<Effect> = Space::ALL.map(|space| Effect::Clear { space }).to_vec();
    read_bundle::<ExportError>(input, Content::Object, |tag, name, value| {
        match (tag, name.split_first()) {
            (TAG_KEY, _) => {
                let bytes = name.try_into().map_err(|_| nonsense())?;
                key = Some(ObjectKey::from_bytes(bytes).map_err(|_| nonsense())?);
            }
            (TAG_ZONE, _) => zone = Some(words(name)?),
            (TAG_CLASS, _) => class = Some(words(name)?),
            (TAG_VALUE, Some((space, name))) => {
                let space = Space::from_code(*space).ok_or_else(nonsense)?;
                let key = Bytes::copy_from_slice(name);
                effects.push(Effect::Put { space, key, value: Bytes::copy_from_slice(value) });
            }
            _ => return Err(nonsense().into()),
        }
        Ok(())
    })?;
    check_effects(&effects).map_err(ExportError::Effects)?;
    let (Some(key), Some(zone), Some(class)) = (key, zone, class) else {
        return Err(BundleError::Other { what: "it names no object" }.into());
    };
    if Scope::new(&zone, &class) != key.scope {
        return Err(nonsense().into());
    }
    Ok(Import { key, label: Label { zone, class }, effects })
}
