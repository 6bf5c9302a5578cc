//! Snapshots of all objects of a node while it runs, and a node's folder of objects made of one.
//!
//! With a snapshot goes the key with which ids are made of names: without it, names would lead to other objects on the node
//! that is made of it. What a node has beside objects (zones, scripts) is not in it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::TryLockError;

use berth_store::disk::RealDisk;
use berth_store::{Snapshot, SnapshotError, StoreId, newest_snapshot, read_snapshot};
use serde::Serialize;

use super::{DATA, FOLDER, ID_KEY, Objects, fill, keep};

/// Under which a folder is made, until it is whole.
const UNFINISHED: &str = "objects.restoring";

/// A snapshot that was made, or that a node's objects were made of.
#[derive(Debug, Serialize)]
pub struct Backup {
    /// The folder of the snapshot.
    pub folder: PathBuf,
    /// Its number there.
    pub number: u64,
    /// How many bytes of data it has.
    pub bytes: u64,
}

/// Why there is no snapshot, or why nothing is made of it.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is nothing to make one of.
    #[error(
        "the objects of this node are not open: nothing is deployed that has objects, or its log says why"
    )]
    Closed,
    /// One is being made.
    #[error("a snapshot is being made already; this one can be made when it is done")]
    Busy,
    /// Somebody works on the folder.
    #[error("{path} is in use by a node, or by another snapshot: end that first, or take another folder")]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// The folder cannot be used.
    #[error("{path} cannot be used")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no snapshot in the folder.
    #[error("{path} has no such snapshot, or none that is whole")]
    Nothing {
        /// Which.
        path: PathBuf,
    },
    /// There are objects where it should go.
    #[error("{path} has something in it already: move it away, or take another folder of state")]
    Occupied {
        /// Where.
        path: PathBuf,
    },
    /// The snapshot was made by something else.
    #[error("the snapshot has no key for names with it: names would lead to other objects")]
    NoKey,
    /// The store.
    #[error(transparent)]
    Store(#[from] SnapshotError),
}

impl BackupError {
    /// Whether a disk is full.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Folder { source, .. } | Self::Store(SnapshotError::Disk(source)) => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}

fn unusable(path: &Path) -> impl Fn(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::WouldBlock => BackupError::InUse { path: path.clone() },
        _ => BackupError::Folder { path: path.clone(), source },
    }
}

/// Makes a folder that is for nobody else, if it is not there.
fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl Objects {
    /// Writes what is durable now into a folder, while everything goes on. It waits for disks: not for a core.
    pub(crate) fn snapshot(&self, folder: &Path) -> Result<Backup, BackupError> {
        let opened = self.opened().ok_or(BackupError::Closed)?;
        let _one = match self.snapshots.try_lock() {
            Ok(one) => one,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(BackupError::Busy),
        };
        make(folder).map_err(unusable(folder))?;
        let disk = RealDisk::open(folder).map_err(unusable(folder))?;
        let Snapshot { number, bytes, .. } = opened.store.snapshot(&disk, &opened.id_key)?;
        Ok(Backup { folder: folder.to_owned(), number, bytes })
    }
}

/// Makes the objects of a node's folder of state of a snapshot: of the newest one that is whole, or of the one with this
/// number. The node does not run, and has no objects yet. It is done wholly, or nothing counts.
pub fn restore(folder: &Path, number: Option<u64>, state: &Path) -> Result<Backup, BackupError> {
    let from = || fs::metadata(folder).and_then(|_| RealDisk::open(folder));
    let from = from().map_err(unusable(folder))?;
    let snapshot = match number {
        Some(number) => match read_snapshot(&from, number) {
            Err(SnapshotError::Disk(error)) if error.kind() == io::ErrorKind::NotFound => None,
            read => Some(read?),
        },
        None => newest_snapshot(&from)?,
    };
    let snapshot = snapshot.ok_or_else(|| BackupError::Nothing { path: folder.to_owned() })?;
    let id_key = <[u8; 32]>::try_from(&*snapshot.beside).map_err(|_| BackupError::NoKey)?;
    let (target, unfinished) = (state.join(FOLDER), state.join(UNFINISHED));
    is_free(&target)?;
    let failed = unusable(&unfinished);
    clear(&unfinished)?;
    make(&unfinished).map_err(&failed)?;
    let to = RealDisk::open(unfinished.join(DATA)).map_err(&failed)?;
    keep(&unfinished.join(ID_KEY), &id_key).map_err(&failed)?;
    let mut fresh = [0; 16];
    fill(&mut fresh).map_err(&failed)?;
    berth_store::restore(&from, &snapshot, &to, StoreId(fresh))?;
    // Over a folder that is empty, or none: whoever made objects there meanwhile keeps them.
    fs::rename(&unfinished, &target).map_err(unusable(&target))?;
    File::open(state).and_then(|state| state.sync_all()).map_err(unusable(state))?;
    Ok(Backup { folder: folder.to_owned(), number: snapshot.number, bytes: snapshot.bytes })
}

/// Whether there are no objects where some should go. Those that a node has open are told from those that lie there.
fn is_free(target: &Path) -> Result<(), BackupError> {
    let mut entries = match fs::read_dir(target) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unusable(target)(error)),
    };
    if entries.next().is_none() {
        return Ok(());
    }
    let data = target.join(DATA);
    if data.is_dir() {
        RealDisk::open(&data).map_err(unusable(target))?;
    }
    Err(BackupError::Occupied { path: target.to_owned() })
}

/// Removes what a restore that was killed has left.
fn clear(unfinished: &Path) -> Result<(), BackupError> {
    if !unfinished.exists() {
        return Ok(());
    }
    let lock = RealDisk::open(unfinished.join(DATA)).map_err(unusable(unfinished))?;
    fs::remove_dir_all(unfinished).map_err(unusable(unfinished))?;
    drop(lock);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use berth_protocol::object::{ObjectKey, Scope, Seq};
    use berth_protocol::record::{Effect, Space};
    use berth_store::Submission;
    use berth_store::disk::Disk;
    use bytes::Bytes;

    use super::super::storage::GROUP;
    use super::super::{Room, lock};
    use super::*;
    use crate::workers::wait;

    fn room() -> Arc<Room> {
        Arc::new(Room::new(1, std::time::Duration::from_secs(1)))
    }

    /// A folder that goes with its test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("berth-backup-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        fn objects(&self, state: &str) -> Objects {
            let objects = Objects::new(self.path(state).join(FOLDER), room());
            objects.open().unwrap();
            objects
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn ada(objects: &Objects) -> ObjectKey {
        ObjectKey { scope: Scope::new("shop", "Cart"), id: objects.id("shop", "Cart", "ada").unwrap() }
    }

    fn write(objects: &Objects, value: &'static str) {
        let (opened, key) = (objects.opened().unwrap(), ada(objects));
        let entry = opened.gate.open();
        let epoch = opened.store.begin_epoch(key).unwrap();
        let put = Effect::Put { space: Space::User, key: "k".into(), value: value.into() };
        let submission = Submission {
            listener: opened.listener,
            ticket: entry.number,
            group: GROUP,
            key,
            owner: (epoch, Seq(1)),
            at_ms: 0,
            effects: vec![put],
        };
        opened.store.submit(submission).unwrap();
        wait(entry.written()).unwrap();
        opened.store.end_epoch(key, epoch);
    }

    fn value(objects: &Objects) -> Option<Bytes> {
        objects.opened().unwrap().store.get(ada(objects), Space::User, b"k").unwrap()
    }

    #[test]
    fn names_lead_to_the_same_objects_in_what_is_made_of_a_snapshot() {
        let folder = Folder::new("names");
        let (objects, backup) = (folder.objects("one"), folder.path("backup"));
        write(&objects, "first");
        assert_eq!(objects.snapshot(&backup).unwrap().number, 1);
        write(&objects, "second");
        assert_eq!(objects.snapshot(&backup).unwrap().number, 2);
        write(&objects, "third");
        // What a restore has left that was killed.
        make(&folder.path("two").join(UNFINISHED).join(DATA)).unwrap();
        assert_eq!(restore(&backup, None, &folder.path("two")).unwrap().number, 2);
        restore(&backup, Some(1), &folder.path("three")).unwrap();
        let (two, three) = (folder.objects("two"), folder.objects("three"));
        assert_eq!((ada(&two), ada(&three)), (ada(&objects), ada(&objects)));
        assert_eq!((value(&two).unwrap(), value(&three).unwrap()), ("second".into(), "first".into()));
        write(&two, "goes on");
        let foreign = two.snapshot(&backup).unwrap_err();
        assert!(matches!(foreign, BackupError::Store(SnapshotError::Foreign)), "{foreign}");
        assert_ne!(ada(&folder.objects("four")), ada(&objects), "another node has another key");
    }

    #[test]
    fn a_snapshot_is_made_alone_and_into_a_folder_that_nobody_uses() {
        let folder = Folder::new("alone");
        let (objects, backup) = (folder.objects("one"), folder.path("backup"));
        let closed = Objects::new(folder.path("closed"), room()).snapshot(&backup).unwrap_err();
        assert!(matches!(closed, BackupError::Closed), "{closed}");
        let other = lock(&objects.snapshots);
        assert!(matches!(objects.snapshot(&backup), Err(BackupError::Busy)));
        drop(other);
        make(&backup).unwrap();
        let used = RealDisk::open(&backup).unwrap();
        assert!(matches!(objects.snapshot(&backup), Err(BackupError::InUse { .. })));
        drop(used);
        let own = objects.snapshot(&folder.path("one").join(FOLDER).join(DATA)).unwrap_err();
        assert!(matches!(own, BackupError::InUse { .. }), "{own}");
        fs::write(folder.path("file"), b"").unwrap();
        let file = objects.snapshot(&folder.path("file")).unwrap_err();
        assert!(matches!(file, BackupError::Folder { .. }), "{file}");
        objects.snapshot(&backup).unwrap();
    }

    #[test]
    fn a_restore_that_cannot_be_right_is_refused_and_changes_nothing() {
        let folder = Folder::new("refused");
        let (objects, backup) = (folder.objects("one"), folder.path("backup"));
        write(&objects, "here");
        let to = |state: &str| restore(&backup, None, &folder.path(state)).unwrap_err();
        assert!(matches!(to("two"), BackupError::Folder { .. }), "there is no such folder");
        assert!(!backup.exists());
        make(&backup).unwrap();
        assert!(matches!(to("two"), BackupError::Nothing { .. }));
        objects.snapshot(&backup).unwrap();
        let other = restore(&backup, Some(7), &folder.path("two")).unwrap_err();
        assert!(matches!(other, BackupError::Nothing { .. }), "{other}");
        assert!(matches!(to("one"), BackupError::InUse { .. }), "its node runs");
        assert_eq!(value(&objects).unwrap(), "here");
        objects.close().unwrap();
        drop(objects);
        assert!(matches!(to("one"), BackupError::Occupied { .. }), "its node has ended");
        assert_eq!(value(&folder.objects("one")).unwrap(), "here");
        // A store without a node.
        let (plain, disk) = (folder.path("plain"), RealDisk::open(folder.path("store")).unwrap());
        let config = berth_store::Config::default();
        let store = berth_store::Store::open(Arc::new(disk), config, StoreId([7; 16])).unwrap();
        store.snapshot(&RealDisk::open(&plain).unwrap(), b"").unwrap();
        let no_key = restore(&plain, None, &folder.path("two")).unwrap_err();
        assert!(matches!(no_key, BackupError::NoKey), "{no_key}");
        assert!(!folder.path("two").join(FOLDER).exists());
        assert!(RealDisk::open(&plain).unwrap().list().unwrap().len() == 2, "a snapshot and its manifest");
    }
}
