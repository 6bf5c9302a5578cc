//! Zones on disk: one file for each, with its last versions, replaced as a whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::document::{Document, is_name};
use crate::keyring::WritePrivateError;
use crate::keyring::private_file::{FolderLock, make_folder};

/// Versions of a zone that are kept.
const VERSIONS_KEPT: usize = 10;

/// A zone could not be kept, or what was kept cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or the folder cannot be used.
    #[error("{path}: {source}; check free space and that the node's user may write there", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be replaced.
    #[error("{}: {}", .0, .0.source)]
    Write(#[from] WritePrivateError),
    /// A file is not what the node wrote.
    #[error("{path} is not a zone that this node wrote: {reason}; move it away to start without it", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What is kept does not fit together.
    #[error("the zones that are kept are not right: {reason}")]
    Kept {
        /// Why.
        reason: String,
    },
}

/// One deployment of a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its number, counted from 1.
    pub version: u64,
    /// Unix time of its deployment.
    pub deployed_s: u64,
    /// What was deployed.
    pub document: Document,
}

/// The versions of a zone, and which one answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    current: u64,
    /// The number that the next one gets: none is given twice.
    next: u64,
    versions: Vec<Version>,
}

impl Record {
    pub(super) fn current(&self) -> Option<&Version> {
        self.versions.iter().find(|one| one.version == self.current)
    }

    pub(super) fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// Adds a version, which answers from now on. The oldest ones go.
    pub(super) fn add(&mut self, document: Document, now_s: u64) -> u64 {
        let version = self.next.max(1);
        self.next = version + 1;
        self.current = version;
        self.versions.push(Version { version, deployed_s: now_s, document });
        let surplus = self.versions.len().saturating_sub(VERSIONS_KEPT);
        self.versions.drain(..surplus);
        version
    }

    pub(super) fn roll_back(&mut self, to: Option<u64>) -> Result<u64, String> {
        let before =
            self.versions.iter().map(|one| one.version).filter(|version| *version < self.current).max();
        let version = to.or(before).ok_or("there is no version before the one that answers")?;
        if !self.versions.iter().any(|one| one.version == version) {
            let kept: Vec<String> = self.versions.iter().map(|one| one.version.to_string()).collect();
            return Err(format!("version {version} is not kept; these are: {}", kept.join(", ")));
        }
        self.current = version;
        Ok(version)
    }
}

/// The folder of zones.
pub(super) struct Store {
    folder: PathBuf,
}

impl Store {
    pub(super) fn open(folder: &Path) -> Result<Self, StoreError> {
        make_folder(folder).map_err(|source| failed(folder, source))?;
        Ok(Self { folder: folder.to_owned() })
    }

    pub(super) fn read_all(&self) -> Result<BTreeMap<String, Record>, StoreError> {
        let mut records = BTreeMap::new();
        let files = fs::read_dir(&self.folder).map_err(|source| failed(&self.folder, source))?;
        for file in files {
            let path = file.map_err(|source| failed(&self.folder, source))?.path();
            let name =
                path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json"));
            let Some(name) = name.filter(|name| is_name(name)) else { continue };
            let bytes = fs::read(&path).map_err(|source| failed(&path, source))?;
            let record = serde_json::from_slice(&bytes)
                .map_err(|error| StoreError::Damaged { path: path.clone(), reason: error.to_string() })?;
            records.insert(name.to_owned(), record);
        }
        Ok(records)
    }

    /// Only the node may read it: it holds secrets.
    pub(super) fn write(&self, name: &str, record: &Record) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(record).map_err(|error| failed(&self.path(name), error.into()))?;
        Ok(FolderLock::acquire(&self.folder)?.replace(&format!("{name}.json"), &bytes)?)
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path(name);
        fs::remove_file(&path)
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .map_err(|source| failed(&path, source))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }
}

fn failed(path: &Path, source: io::Error) -> StoreError {
    StoreError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(host: &str) -> Document {
        Document {
            tenant: "default".into(),
            hosts: vec![host.into()],
            origin: None,
            workers: BTreeMap::new(),
            objects: BTreeMap::new(),
        }
    }

    #[test]
    fn versions_are_numbered_once_and_the_oldest_go() {
        let mut record = Record::default();
        for round in 1..=12 {
            assert_eq!(record.add(document("a"), round), round);
        }
        assert_eq!(record.versions().len(), VERSIONS_KEPT);
        assert_eq!(record.roll_back(None), Ok(11));
        assert_eq!(record.roll_back(None), Ok(10), "and further back");
        assert_eq!(record.roll_back(Some(12)), Ok(12), "and forth");
        assert!(record.roll_back(Some(2)).unwrap_err().contains("3, 4"), "it is gone");
        record.roll_back(Some(5)).unwrap();
        assert_eq!(record.add(document("b"), 1), 13, "no number is given twice");
    }

    #[test]
    fn what_is_written_is_read_and_damage_is_told_by_file() {
        let folder = std::env::temp_dir().join(format!("berth-zones-{}", std::process::id()));
        let store = Store::open(&folder).unwrap();
        let mut record = Record::default();
        record.add(document("a.example"), 7);
        store.write("one", &record).unwrap();
        assert_eq!(store.read_all().unwrap()["one"], record);
        fs::write(folder.join("two.json"), b"{").unwrap();
        let error = store.read_all().unwrap_err().to_string();
        assert!(error.contains("two.json"), "{error}");
        fs::remove_file(folder.join("two.json")).unwrap();
        store.remove("one").unwrap();
        assert!(store.read_all().unwrap().is_empty());
        fs::remove_dir_all(&folder).unwrap();
    }
}
