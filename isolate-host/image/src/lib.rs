//! Images: compiled components on disk, as the host takes them into its memory.
//!
//! What a compiler made is machine code, and whoever can forge it owns the process. So an image is written with a seal (a
//! MAC under a key of this node), and read in one pass: its bytes go into a memory file while they are checked, the memory
//! file is closed against every change, and only then is it mapped. What was checked is what runs, and nobody can cut it
//! off under the mapping. This crate holds the one unsafe call that this needs.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use blake3::Hasher;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use wasmtime::Engine;
use wasmtime::component::Component;

/// What a file begins with: what it is, and the version of this layout.
const MAGIC: [u8; 16] = *b"berth image 2\n\0\0";
/// The bytes of the MAC, at the end of the file.
const MAC_BYTES: usize = blake3::OUT_LEN;
/// Read at once: large enough that system calls do not matter, small enough to stay in the second cache.
const PIECE: usize = 128 * 1024;

/// The key that images are sealed with. Whoever knows it can make images that the node runs.
pub struct Key([u8; blake3::KEY_LEN]);

impl Key {
    /// A key of these bytes.
    pub fn new(bytes: &[u8; blake3::KEY_LEN]) -> Self {
        Self(*bytes)
    }
}

/// Why an image is not mapped.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It was not sealed with this key for this name, or was changed since.
    #[error("{path} is not what this node wrote: it was changed, cut off, or made with another key")]
    Forged {
        /// The file.
        path: PathBuf,
    },
    /// There is no memory for it.
    #[error("no memory file for a compiled component")]
    Memory(#[source] io::Error),
    /// The engine does not take it: another version or other settings made it.
    #[error("the engine refuses the compiled component {path}: {reason}")]
    Engine {
        /// The file.
        path: PathBuf,
        /// Its words.
        reason: String,
    },
}

/// Writes an image for `name` to `path`.
pub fn write(path: &Path, name: &str, compiled: &[u8], key: &Key) -> io::Result<()> {
    let mut mac = begin(name, key);
    mac.update(compiled);
    write_whole(path, &[&MAGIC, compiled, mac.finalize().as_bytes()])
}

/// Writes a file whole or not at all: first beside its place, synced, then renamed. Of several writers at a time the last
/// one wins.
pub fn write_whole(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let beside = path.with_extension(format!("{}-{}.new", std::process::id(), WRITES.fetch_add(1, Relaxed)));
    let written = (|| {
        let mut file = File::create(&beside)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        file.sync_data()?;
        std::fs::rename(&beside, path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

/// The MAC covers the name, so that nobody can exchange the files of two components.
fn begin(name: &str, key: &Key) -> Hasher {
    let mut mac = Hasher::new_keyed(&key.0);
    mac.update(&MAGIC);
    mac.update(&(name.len() as u64).to_le_bytes());
    mac.update(name.as_bytes());
    mac
}

/// Checks the image that was written for `name`, and maps it.
pub fn load(engine: &Engine, path: &Path, name: &str, key: &Key) -> Result<Component, ImageError> {
    let memory = check(path, name, key)?;
    let mapped = format!("/proc/self/fd/{}", memory.as_raw_fd());
    // SAFETY: the engine trusts these bytes. They are those of `write`, by the MAC, under a key that only this node's
    // compiler results are sealed with; and the seals of the memory file keep anybody from changing or shortening it.
    let component = unsafe { Component::deserialize_file(engine, mapped) };
    component
        .map_err(|error| ImageError::Engine { path: path.to_owned(), reason: error.root_cause().to_string() })
}

/// Copies the compiled bytes into a sealed memory file, if they are what was written.
fn check(path: &Path, name: &str, key: &Key) -> Result<File, ImageError> {
    let unreadable = |source| ImageError::Read { path: path.to_owned(), source };
    let forged = || ImageError::Forged { path: path.to_owned() };
    let mut file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    let mut left = length.checked_sub((MAGIC.len() + MAC_BYTES) as u64).ok_or_else(forged)?;
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic).map_err(unreadable)?;
    if magic != MAGIC {
        return Err(forged());
    }
    let mut memory = memory_file().map_err(ImageError::Memory)?;
    let mut mac = begin(name, key);
    let mut piece = vec![0; PIECE.min(left as usize)];
    while left > 0 {
        let wanted = left.min(PIECE as u64) as usize;
        file.read_exact(&mut piece[..wanted]).map_err(unreadable)?;
        mac.update(&piece[..wanted]);
        memory.write_all(&piece[..wanted]).map_err(ImageError::Memory)?;
        left -= wanted as u64;
    }
    let mut seal = [0; MAC_BYTES];
    file.read_exact(&mut seal).map_err(unreadable)?;
    // In constant time, as hashes of this type are compared.
    if mac.finalize() != seal {
        return Err(forged());
    }
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&memory, seals).map_err(|error| ImageError::Memory(error.into()))?;
    Ok(memory)
}

fn memory_file() -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(memfd_create("berth-image", flags)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Removed on drop.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("berth-image-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_was_written_is_checked_into_memory_that_nobody_can_change() {
        let folder = Folder::new("whole");
        let path = folder.0.join("one");
        let compiled: Vec<u8> = (0..300_000u32).map(|index| index as u8).collect();
        let key = Key::new(&[7; 32]);
        write(&path, "a name", &compiled, &key).unwrap();
        let memory = check(&path, "a name", &key).unwrap();
        let copied = std::fs::read(format!("/proc/self/fd/{}", memory.as_raw_fd())).unwrap();
        assert_eq!(copied, compiled);
        assert!((&memory).write_all(b"x").is_err(), "the memory file is sealed");
        assert!(memory.set_len(10).is_err(), "and keeps its length");
    }

    #[test]
    fn whatever_was_changed_is_refused() {
        let folder = Folder::new("changed");
        let path = folder.0.join("one");
        let key = Key::new(&[7; 32]);
        write(&path, "a name", &[1; 1000], &key).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let refused = |what: &str, bytes: &[u8], name: &str, key: &Key| {
            std::fs::write(&path, bytes).unwrap();
            assert!(matches!(check(&path, name, key), Err(ImageError::Forged { .. })), "{what}");
        };
        for place in [0, MAGIC.len(), 500, whole.len() - MAC_BYTES, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[place] ^= 1;
            refused("a bit turned", &bytes, "a name", &key);
        }
        for length in [0, MAGIC.len(), MAGIC.len() + MAC_BYTES - 1, whole.len() - 1] {
            refused("cut off", &whole[..length], "a name", &key);
        }
        refused("too long", &[whole.as_slice(), b"x"].concat(), "a name", &key);
        refused("of another name", &whole, "another", &key);
        refused("of another key", &whole, "a name", &Key::new(&[8; 32]));
    }

    #[test]
    fn a_write_that_fails_leaves_nothing_behind() {
        let folder = Folder::new("fails");
        let path = folder.0.join("a folder stands here");
        std::fs::create_dir_all(path.join("not empty")).unwrap();
        assert!(write(&path, "a name", b"bytes", &Key::new(&[7; 32])).is_err());
        assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1, "no half file");
    }

    #[test]
    fn several_may_write_the_same_file_at_a_time() {
        let folder = Folder::new("several");
        let path = folder.0.join("one");
        let barrier = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    barrier.wait();
                    for _ in 0..20 {
                        write_whole(&path, &[&[7; 100_000]]).unwrap();
                        assert_eq!(std::fs::read(&path).unwrap(), [7; 100_000]);
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1, "nothing is left beside it");
    }
}
