//! What files look like from outside, to see that they have changed.
//!
//! Asked for three times a second: sources are few, and a look at each of them costs less than telling the kernel of
//! each folder, following renames and mending lost events.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Most files that are looked at. A project with more watches what its build writes, by mistake.
const FILES_MAX: usize = 10_000;

/// Files with their time and length. Two that are equal were most likely made of the same bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Snapshot(BTreeMap<PathBuf, (Option<SystemTime>, u64)>);

impl Snapshot {
    /// Looks at these files, and at everything in these folders. What is not there is left out.
    pub(super) fn of(paths: &[PathBuf]) -> Self {
        let mut snapshot = Self::default();
        for path in paths {
            snapshot.add(path);
        }
        snapshot
    }

    fn add(&mut self, path: &Path) {
        let Ok(metadata) = std::fs::metadata(path) else { return };
        if metadata.is_file() {
            return self.add_file(path.to_owned(), &metadata);
        }
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            // Links to folders are not followed: they may lead back.
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && !is_left_out(&entry.path()) {
                self.add(&entry.path());
            } else if let (false, Ok(metadata)) = (kind.is_dir(), entry.metadata()) {
                self.add_file(entry.path(), &metadata);
            }
        }
    }

    fn add_file(&mut self, path: PathBuf, metadata: &Metadata) {
        if self.0.len() < FILES_MAX {
            self.0.insert(path, (metadata.modified().ok(), metadata.len()));
        }
    }
}

/// Folders that tools write to, and hidden ones.
fn is_left_out(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    name == "target" || name == "node_modules" || name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_seen_and_outputs_are_not() {
        let folder = std::env::temp_dir().join(format!("berth-snapshot-{}", std::process::id()));
        for inner in ["src/deep", "target", ".git"] {
            std::fs::create_dir_all(folder.join(inner)).unwrap();
        }
        let look = || Snapshot::of(&[folder.clone(), folder.join("absent")]);
        let empty = look();
        std::fs::write(folder.join("target/a"), "a").unwrap();
        std::fs::write(folder.join(".git/a"), "a").unwrap();
        assert_eq!(look(), empty);
        std::fs::write(folder.join("src/deep/a"), "a").unwrap();
        let first = look();
        assert_ne!(first, empty);
        std::fs::write(folder.join("src/deep/a"), "aa").unwrap();
        assert_ne!(look(), first);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
