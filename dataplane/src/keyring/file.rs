//! The keyring on disk: `<state>/keyring`, readable by the node alone.
//!
//! A secret is on disk before anything is made with it, so that a restart knows every ticket that is out there. A
//! file that is damaged, exposed or from a newer version is an error with a way out, never a reason to start over in
//! silence: the other servers of the site hold the same ring, and the operator must know that this one does not.
//!
//! Several processes may hold one file: an old `dataplane` that drains beside its successor, or the control agent.
//! Each change is made under the folder's lock, on what the file says at that moment. Who comes second adopts what
//! the first one wrote.
//!
//! These calls block, and belong on a helper thread.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::private_file::{self, FolderLock};
use super::{
    DecodeKeyringError, KeyVersion, Keyring, NoRandomness, ReadPrivateError, RootSecret, Schedule,
    WritePrivateError,
};

/// The name of the file in the state folder.
const NAME: &str = "keyring";

/// A ring, and the file that holds it.
#[derive(Debug)]
pub struct KeyringFile {
    state: PathBuf,
    ring: Keyring,
}

/// Where the ring of a [`KeyringFile::open`] came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// From the file.
    Loaded,
    /// There was no file: this is a new one.
    Created,
}

/// What [`KeyringFile::refresh`] found or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// The ring is as it was.
    Unchanged,
    /// The ring is another: rotated here, or adopted from another process. Those who derived keys derive them anew.
    Changed {
        /// The version that is current now.
        current: KeyVersion,
    },
}

/// The keyring cannot be had at start.
#[derive(Debug, Error)]
pub enum OpenKeyringError {
    /// The file is there and cannot be used.
    #[error("the keyring cannot be used")]
    Read(#[from] ReadPrivateError),
    /// The file is there and is not what was written.
    #[error(
        "the keyring {path} is damaged or from another version: restore it from a backup, or start the version of Berth \
         that wrote it, or move it away: then the next start makes a new one, and what the old keys made (session \
         tickets, connection ids) is no longer recognised",
        path = path.display()
    )]
    Decode {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: DecodeKeyringError,
    },
    /// There is no file, and none can be made.
    #[error("the keyring does not exist yet and cannot be made")]
    Create(#[from] CreateKeyringError),
}

/// A first keyring could not be made.
#[derive(Debug, Error)]
pub enum CreateKeyringError {
    /// The state folder could not be made.
    #[error("cannot make the state folder {}: check `node.state` and the rights of the folder above it", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] WritePrivateError),
    /// No secret could be drawn.
    #[error(transparent)]
    Random(#[from] NoRandomness),
}

/// The keyring could not be brought up to date. The ring in memory is as before and stays in use.
#[derive(Debug, Error)]
pub enum RefreshKeyringError {
    /// The file can no longer be used.
    #[error("the keyring file became unusable while the node runs; the node goes on with the keys it has")]
    Read(#[from] OpenKeyringError),
    /// The rotated ring could not be saved.
    #[error("the keyring could not be rotated; the node goes on with the keys it has and tries again")]
    Write(#[from] WritePrivateError),
    /// No secret could be drawn.
    #[error("the keyring could not be rotated; the node goes on with the keys it has and tries again")]
    Random(#[from] NoRandomness),
}

impl KeyringFile {
    /// Loads the ring in the folder `state`, or makes the folder and a first ring if there is none.
    pub fn open(state: &Path, now_s: u64) -> Result<(Self, Opened), OpenKeyringError> {
        let (ring, opened) = match load(state) {
            Err(OpenKeyringError::Read(ReadPrivateError::Missing { .. })) => create(state, now_s)?,
            loaded => (loaded?, Opened::Loaded),
        };
        Ok((Self { state: state.to_owned(), ring }, opened))
    }

    /// The ring as of the last open or refresh.
    pub fn ring(&self) -> &Keyring {
        &self.ring
    }

    /// Adopts what others wrote, rotates if it is time, and erases what has retired. Call it every minute or so.
    ///
    /// On an error nothing has changed in memory, and on disk nothing that the next call would not adopt.
    pub fn refresh(&mut self, schedule: &Schedule, now_s: u64) -> Result<Refresh, RefreshKeyringError> {
        let lock = FolderLock::acquire(&self.state)?;
        let on_disk = load(&self.state)?;
        let mut ring = on_disk.clone();
        if ring.is_due(now_s, schedule) {
            ring.rotate(now_s, RootSecret::generate()?);
        }
        ring.retire(now_s, schedule);
        if ring != on_disk {
            lock.replace(NAME, ring.encode().as_bytes())?;
        }
        if ring == self.ring {
            return Ok(Refresh::Unchanged);
        }
        self.ring = ring;
        Ok(Refresh::Changed { current: self.ring.current().version() })
    }
}

fn load(state: &Path) -> Result<Keyring, OpenKeyringError> {
    let path = state.join(NAME);
    let bytes = private_file::read(&path)?;
    Keyring::decode(&bytes).map_err(|source| OpenKeyringError::Decode { path, source })
}

fn create(state: &Path, now_s: u64) -> Result<(Keyring, Opened), OpenKeyringError> {
    private_file::make_folder(state)
        .map_err(|source| CreateKeyringError::Folder { path: state.to_owned(), source })?;
    let lock = FolderLock::acquire(state).map_err(CreateKeyringError::from)?;
    // Another process may have been faster: then its ring is ours.
    match load(state) {
        Err(OpenKeyringError::Read(ReadPrivateError::Missing { .. })) => {}
        loaded => return Ok((loaded?, Opened::Loaded)),
    }
    let secret = RootSecret::generate().map_err(CreateKeyringError::from)?;
    let ring = Keyring::new(now_s, secret);
    lock.replace(NAME, ring.encode().as_bytes()).map_err(CreateKeyringError::from)?;
    Ok((ring, Opened::Created))
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::super::private_file::testing::TestFolder;
    use super::*;

    const HOUR: u64 = 3600;
    const NOW: u64 = 1_700_000_000;

    fn schedule() -> Schedule {
        Schedule::new(Duration::from_hours(6), Duration::from_hours(12)).unwrap()
    }

    fn open(state: &Path) -> KeyringFile {
        KeyringFile::open(state, NOW).unwrap().0
    }

    #[test]
    fn the_first_start_makes_a_ring_and_the_second_finds_it() {
        let folder = TestFolder::new();
        let state = folder.join("deep").join("state");
        let (first, opened) = KeyringFile::open(&state, NOW).unwrap();
        assert_eq!(opened, Opened::Created);
        let (second, opened) = KeyringFile::open(&state, NOW + HOUR).unwrap();
        assert_eq!(opened, Opened::Loaded);
        assert_eq!(first.ring(), second.ring());
        assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(state.join(NAME)).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn rings_of_two_nodes_differ() {
        let (one, other) = (TestFolder::new(), TestFolder::new());
        assert_ne!(open(&one).ring(), open(&other).ring());
    }

    #[test]
    fn refresh_rotates_on_time_and_erases_the_retired_from_the_disk() {
        let state = TestFolder::new();
        let mut keyring = open(&state);
        assert_eq!(keyring.refresh(&schedule(), NOW + HOUR).unwrap(), Refresh::Unchanged);
        for rotation in 1..=4 {
            let refreshed = keyring.refresh(&schedule(), NOW + rotation * 6 * HOUR).unwrap();
            assert!(
                matches!(refreshed, Refresh::Changed { current } if u64::from(current.get()) == rotation + 1)
            );
            assert_eq!(open(&state).ring(), keyring.ring(), "the disk knows the ring that is in use");
        }
        let text = fs::read_to_string(state.join(NAME)).unwrap();
        assert!(
            !text.contains("\nkey 1 ") && !text.contains("\nkey 2 ") && text.contains("\nkey 3 "),
            "{text}"
        );
    }

    #[test]
    fn two_processes_agree_on_one_rotation() {
        let state = TestFolder::new();
        let (mut old, mut new) = (open(&state), open(&state));
        old.refresh(&schedule(), NOW + 6 * HOUR).unwrap();
        let adopted = new.refresh(&schedule(), NOW + 6 * HOUR).unwrap();
        assert!(matches!(adopted, Refresh::Changed { current } if current.get() == 2));
        assert_eq!(old.ring(), new.ring());
    }

    #[test]
    fn two_first_starts_at_once_make_one_ring() {
        let folder = TestFolder::new();
        let state = folder.join("state");
        let rings: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| open(&state).ring().clone())).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert!(rings.iter().all(|ring| *ring == rings[0]));
    }

    #[test]
    fn a_file_cut_at_any_byte_is_refused_and_left_alone() {
        let state = TestFolder::new();
        open(&state);
        let whole = fs::read(state.join(NAME)).unwrap();
        for end in 0..whole.len() {
            fs::write(state.join(NAME), &whole[..end]).unwrap();
            let error = KeyringFile::open(&state, NOW).unwrap_err();
            assert!(matches!(error, OpenKeyringError::Decode { .. }), "cut at {end}: {error}");
            assert!(error.to_string().contains("move it away"), "{error}");
            assert!(error.source().is_some());
            assert_eq!(fs::read(state.join(NAME)).unwrap(), &whole[..end], "never regenerated in silence");
        }
    }

    #[test]
    fn an_exposed_file_is_refused() {
        let state = TestFolder::new();
        open(&state);
        fs::set_permissions(state.join(NAME), fs::Permissions::from_mode(0o644)).unwrap();
        let error = KeyringFile::open(&state, NOW).unwrap_err();
        assert!(matches!(error, OpenKeyringError::Read(ReadPrivateError::Exposed { .. })));
    }

    /// The tests often run as root, whom permission bits do not stop; the kernel's own tree refuses even root.
    #[test]
    fn a_folder_that_cannot_be_written_is_told() {
        let error = KeyringFile::open(Path::new("/sys/kernel"), NOW).unwrap_err();
        let OpenKeyringError::Create(CreateKeyringError::Write(write)) = error else {
            panic!("{error}");
        };
        assert_eq!(write.step, super::super::WriteStep::Create);
        assert!(write.to_string().contains("/sys/kernel/keyring"), "{write}");

        let error = KeyringFile::open(Path::new("/dev/null/state"), NOW).unwrap_err();
        assert!(matches!(error, OpenKeyringError::Read(ReadPrivateError::Unreadable { .. })), "{error:?}");
        let error = KeyringFile::open(Path::new("/proc/state"), NOW).unwrap_err();
        assert!(matches!(error, OpenKeyringError::Create(CreateKeyringError::Folder { .. })), "{error:?}");
    }

    #[test]
    fn a_running_node_keeps_its_keys_when_the_file_goes_bad() {
        let state = TestFolder::new();
        let mut keyring = open(&state);
        let before = keyring.ring().clone();
        let whole = fs::read(state.join(NAME)).unwrap();
        fs::write(state.join(NAME), b"nonsense").unwrap();
        assert!(matches!(keyring.refresh(&schedule(), NOW + 7 * HOUR), Err(RefreshKeyringError::Read(_))));
        fs::remove_file(state.join(NAME)).unwrap();
        assert!(matches!(keyring.refresh(&schedule(), NOW + 7 * HOUR), Err(RefreshKeyringError::Read(_))));
        assert_eq!(keyring.ring(), &before);
        assert!(!state.join(NAME).exists(), "a lost file is not replaced behind the operator's back");

        FolderLock::acquire(&state).unwrap().replace(NAME, &whole).unwrap();
        assert!(matches!(keyring.refresh(&schedule(), NOW + 7 * HOUR), Ok(Refresh::Changed { .. })));
    }
}
