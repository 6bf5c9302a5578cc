//! Small files that only the node may read, replaced as a whole or not at all.
//!
//! The keyring and the self-made certificate live in such files. What they need is the same: nobody else may read
//! them, a crash or a full disk at any moment leaves the old file or the new one, and two processes of one node
//! (an old one that drains, a new one that starts) never write at once.
//!
//! Invariants:
//! - A file at its final name is complete and was synced before it got that name.
//! - Writers hold the [`FolderLock`], so that the one temporary name is theirs.
//!
//! These calls block. They run at start and on a helper thread, never on a core.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

/// Largest file that is read. The keyring is under 4 KiB, a key under 2 KiB. Whatever is larger is not ours.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Why a private file cannot be used.
#[derive(Debug, Error)]
pub enum ReadPrivateError {
    /// There is no such file.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The system refused to open or read it.
    #[error("cannot read {}: check that it is a file that the node's user may read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Other users may read or change it.
    #[error(
        "{path} is open to other users (mode {mode:03o}): if none of them can have read it, run `chmod 600 {path}`; \
         if one can, move it away, so that the next start makes a new one",
        path = path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Larger than anything that the node writes.
    #[error("{} is larger than {FILE_BYTES_MAX} bytes: it is not a file that Berth wrote", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// What was being done when a write failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteStep {
    /// Opening and locking the folder.
    Lock,
    /// Creating the temporary file beside the real one.
    Create,
    /// Writing its bytes: where a full disk shows.
    Write,
    /// Bringing its bytes to the disk.
    Sync,
    /// Giving it the final name.
    Rename,
    /// Bringing the name to the disk.
    SyncFolder,
}

impl fmt::Display for WriteStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lock => "locking its folder",
            Self::Create => "creating a file beside it",
            Self::Write => "writing",
            Self::Sync => "syncing",
            Self::Rename => "renaming",
            Self::SyncFolder => "syncing its folder",
        })
    }
}

/// A private file could not be replaced. What stood under its name before stands there still, unless the failure was
/// in [`WriteStep::SyncFolder`]: then the new contents stand there, and a power cut may bring the old ones back.
#[derive(Debug, Error)]
#[error(
    "cannot save {}: {step} failed; check free space and that the node's user may write in that folder",
    path.display()
)]
pub struct WritePrivateError {
    /// The file.
    pub path: PathBuf,
    /// How far it came.
    pub step: WriteStep,
    /// What the system said.
    pub source: io::Error,
}

/// Makes the folder if it is missing, closed to other users.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Reads a whole private file, after checking that it is one.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, ReadPrivateError> {
    let unreadable = |source| ReadPrivateError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ReadPrivateError::Missing { path: path.to_owned() },
        _ => unreadable(source),
    })?;
    // The open file is asked, not the name: what is checked is what is read.
    let metadata = file.metadata().map_err(unreadable)?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(ReadPrivateError::Exposed { path: path.to_owned(), mode });
    }
    // Room for all of it at once, so that no outgrown buffer keeps a part of a secret.
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX as usize + 1));
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(ReadPrivateError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

/// The right to write files in one folder, among all processes. Given back on drop.
///
/// The lock is on the folder itself: there is no lock file that could be left behind.
#[derive(Debug)]
pub(crate) struct FolderLock {
    folder: File,
    path: PathBuf,
}

impl FolderLock {
    /// Waits until no other process holds the lock: the time of one small write.
    pub(crate) fn acquire(path: &Path) -> Result<Self, WritePrivateError> {
        let folder = File::open(path).and_then(|folder| folder.lock().map(|()| folder));
        match folder {
            Ok(folder) => Ok(Self { folder, path: path.to_owned() }),
            Err(source) => Err(WritePrivateError { path: path.to_owned(), step: WriteStep::Lock, source }),
        }
    }

    /// Replaces `name` in this folder by `bytes`, readable by the owner only.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), WritePrivateError> {
        self.replace_with(name, bytes, |_| Ok(()))
    }

    /// As [`FolderLock::replace`]; `before` is asked ahead of each step and can make it fail.
    fn replace_with(
        &self,
        name: &str,
        bytes: &[u8],
        mut before: impl FnMut(WriteStep) -> io::Result<()>,
    ) -> Result<(), WritePrivateError> {
        let path = self.path.join(name);
        let temporary = self.path.join(format!(".{name}.new"));
        let mut step = WriteStep::Create;
        let mut enter = |next| {
            step = next;
            before(next)
        };
        let outcome = (|| {
            enter(WriteStep::Create)?;
            let mut file = create_private(&temporary)?;
            // Half before the question and half after it, as a disk that fills up would have it.
            let (first, second) = bytes.split_at(bytes.len() / 2);
            file.write_all(first)?;
            enter(WriteStep::Write)?;
            file.write_all(second)?;
            enter(WriteStep::Sync)?;
            file.sync_all()?;
            enter(WriteStep::Rename)?;
            fs::rename(&temporary, &path)?;
            enter(WriteStep::SyncFolder)?;
            self.folder.sync_all()
        })();
        outcome.map_err(|source| {
            // The temporary file is worthless now. If it cannot be removed either, the next writer removes it.
            let _ = fs::remove_file(&temporary);
            WritePrivateError { path, step, source }
        })
    }
}

/// A new file with nobody else's rights. What a crashed writer left under this name is removed, never reused:
/// its rights could be others'.
fn create_private(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// A folder for one test, removed at its end.
#[cfg(test)]
pub(crate) mod testing {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    pub(crate) struct TestFolder(PathBuf);

    impl TestFolder {
        pub(crate) fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("berth-test-{}-{n}", std::process::id()));
            make_folder(&path).unwrap();
            Self(path)
        }
    }

    impl std::ops::Deref for TestFolder {
        type Target = Path;

        fn deref(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for TestFolder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::TestFolder;
    use super::*;

    const STEPS: [WriteStep; 5] =
        [WriteStep::Create, WriteStep::Write, WriteStep::Sync, WriteStep::Rename, WriteStep::SyncFolder];

    #[test]
    fn a_file_is_replaced_and_closed_to_others() {
        let folder = TestFolder::new();
        let lock = FolderLock::acquire(&folder).unwrap();
        lock.replace("file", b"one").unwrap();
        lock.replace("file", b"two").unwrap();
        assert_eq!(**read(&folder.join("file")).unwrap(), *b"two");
        assert_eq!(fs::metadata(folder.join("file")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_write_that_fails_at_any_step_leaves_a_whole_file() {
        for failing in STEPS {
            let folder = TestFolder::new();
            let lock = FolderLock::acquire(&folder).unwrap();
            lock.replace("file", b"old contents").unwrap();
            let error = lock
                .replace_with("file", b"new contents", |step| {
                    if step == failing { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
                })
                .unwrap_err();
            assert_eq!(error.step, failing);
            let renamed = failing == WriteStep::SyncFolder;
            let expected: &[u8] = if renamed { b"new contents" } else { b"old contents" };
            assert_eq!(**read(&folder.join("file")).unwrap(), *expected, "{failing:?}");
            let names: Vec<_> =
                fs::read_dir(&*folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names, ["file"], "nothing else is left behind after {failing:?}");
        }
    }

    #[test]
    fn what_a_crashed_writer_left_is_in_nobodys_way() {
        let folder = TestFolder::new();
        fs::write(folder.join(".file.new"), b"half a fi").unwrap();
        FolderLock::acquire(&folder).unwrap().replace("file", b"whole").unwrap();
        assert_eq!(**read(&folder.join("file")).unwrap(), *b"whole");
        assert!(!folder.join(".file.new").exists());
    }

    #[test]
    fn two_writers_take_turns() {
        let folder = TestFolder::new();
        let first = FolderLock::acquire(&folder).unwrap();
        let second = File::open(&*folder).unwrap();
        assert!(matches!(second.try_lock(), Err(fs::TryLockError::WouldBlock)));
        drop(first);
        second.try_lock().unwrap();
    }

    #[test]
    fn files_that_others_may_read_are_refused_with_the_way_out() {
        let folder = TestFolder::new();
        let path = folder.join("file");
        FolderLock::acquire(&folder).unwrap().replace("file", b"secret").unwrap();
        for mode in [0o644, 0o640, 0o620, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = read(&path).unwrap_err();
            assert!(matches!(error, ReadPrivateError::Exposed { mode: seen, .. } if seen == mode));
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn odd_files_are_refused() {
        let folder = TestFolder::new();
        assert!(matches!(read(&folder.join("file")), Err(ReadPrivateError::Missing { .. })));
        make_folder(&folder.join("folder")).unwrap();
        assert!(matches!(read(&folder.join("folder")), Err(ReadPrivateError::Unreadable { .. })));
        FolderLock::acquire(&folder).unwrap().replace("large", &[0; 64 * 1024 + 1]).unwrap();
        assert!(matches!(read(&folder.join("large")), Err(ReadPrivateError::TooLarge { .. })));
    }
}
