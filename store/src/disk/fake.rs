//! A disk in memory that loses at a power cut what a real one may lose, and fails when it is told to.
//!
//! It keeps of each file two images: what a reader sees, and what is surely on the platter. [`FakeDisk::power_cut`] makes
//! one of them: each 512-byte sector that was written since the last sync has one of the contents that it had since then,
//! the length is the old or the new one, and each name that was made, removed or changed since the last sync of the folder
//! is as it was or as it is. All of that by a seed, so that a test can be told again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Disk, DiskFile, Open};

const SECTOR: usize = 512;

/// What goes wrong.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// All files together have no more than this many bytes: what needs more is refused as on a full disk.
    pub capacity: Option<u64>,
    /// So many writes find the disk full when a part of them is written.
    pub failing_writes: u32,
    /// So many syncs of files fail, and what they should have made durable is lost for later ones too.
    pub failing_syncs: u32,
    /// How long a sync takes.
    pub sync_takes: Duration,
    /// A sync says that it is done and does nothing. With it, a test of power cuts has to fail.
    pub forget_sync: bool,
    /// Decides how much of a failed write is there, and what a failed sync has made durable all the same.
    pub seed: u64,
    /// After so many calls the power is off: everything fails until [`FakeDisk::power_cut`].
    pub calls_left: Option<u64>,
}

/// A disk in memory. A clone is the same disk, but only until the next power cut: what was given to a store that has not
/// noticed yet reaches nothing any more.
#[derive(Debug, Default)]
pub struct FakeDisk {
    platter: Arc<Mutex<Platter>>,
    /// The life that a clone belongs to.
    life: Option<u64>,
}

impl Clone for FakeDisk {
    fn clone(&self) -> Self {
        let life = self.life.unwrap_or(self.platter().life);
        Self { platter: Arc::clone(&self.platter), life: Some(life) }
    }
}

#[derive(Debug, Default)]
struct Platter {
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    files: Vec<Image>,
    faults: Faults,
    calls: u64,
    /// Handles of an earlier life reach nothing.
    life: u64,
}

/// A file.
#[derive(Debug, Default, Clone)]
struct Image {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors since the last good sync, with each content that they had on the way.
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Sectors that a failed sync has left: the next sync does not write them.
    lost: BTreeSet<usize>,
}

/// SplitMix64: seeds that are neighbours give streams that are not.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % n.max(1) as u64) as usize
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}

fn sector_of(bytes: &[u8], sector: usize) -> Vec<u8> {
    let start = (sector * SECTOR).min(bytes.len());
    bytes[start..(start + SECTOR).min(bytes.len())].to_vec()
}

impl Image {
    fn put_sector(bytes: &mut [u8], sector: usize, content: &[u8]) {
        let start = (sector * SECTOR).min(bytes.len());
        let len = content.len().min(bytes.len() - start);
        bytes[start..start + len].copy_from_slice(&content[..len]);
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        if self.now.len() < end {
            self.now.resize(end, 0);
        }
        self.now[offset..end].copy_from_slice(data);
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            self.lost.remove(&sector);
            let content = sector_of(&self.now, sector);
            self.unsynced.entry(sector).or_default().push(content);
        }
    }

    fn set_len(&mut self, len: usize) {
        self.now.resize(len, 0);
    }

    fn sync(&mut self) {
        let mut durable = self.now.clone();
        for sector in &self.lost {
            // The cache has them, the disk does not.
            let old = sector_of(&self.durable, *sector);
            let start = (sector * SECTOR).min(durable.len());
            let end = (start + SECTOR).min(durable.len());
            durable[start..end].fill(0);
            Self::put_sector(&mut durable, *sector, &old);
        }
        self.durable = durable;
        self.unsynced.clear();
    }

    fn fail_sync(&mut self, dice: &mut Dice) {
        let unsynced = std::mem::take(&mut self.unsynced);
        if self.durable.len() < self.now.len() {
            self.durable.resize(self.now.len(), 0);
        }
        for (sector, contents) in unsynced {
            if dice.coin() {
                Self::put_sector(&mut self.durable, sector, &contents[dice.below(contents.len())]);
            }
            self.lost.insert(sector);
        }
    }

    /// What is there after the power came back.
    fn cut(&mut self, dice: &mut Dice) {
        let mut bytes = self.durable.clone();
        if dice.coin() {
            bytes.resize(self.now.len(), 0);
        }
        for (sector, contents) in &self.unsynced {
            let pick = dice.below(contents.len() + 1);
            if let Some(content) = contents.get(pick) {
                let start = (sector * SECTOR).min(bytes.len());
                let end = (start + SECTOR).min(bytes.len());
                bytes[start..end].fill(0);
                Self::put_sector(&mut bytes, *sector, content);
            }
        }
        *self = Self { now: bytes.clone(), durable: bytes, ..Self::default() };
    }
}

fn off() -> io::Error {
    io::Error::other("the power is off")
}

impl Platter {
    fn call(&mut self, life: u64) -> io::Result<()> {
        self.calls += 1;
        match &mut self.faults.calls_left {
            _ if life != self.life => Err(off()),
            Some(0) => Err(off()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn room_for(&self, file: usize, len: u64) -> io::Result<()> {
        let grows = len.saturating_sub(self.files[file].now.len() as u64);
        let used: u64 = self.names.values().map(|file| self.files[*file].now.len() as u64).sum();
        match self.faults.capacity {
            Some(capacity) if grows > 0 && used + grows > capacity => {
                Err(io::Error::new(io::ErrorKind::StorageFull, "the fake disk is full"))
            }
            _ => Ok(()),
        }
    }
}

impl FakeDisk {
    /// An empty disk without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what goes wrong from now on.
    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.platter().faults);
    }

    /// What goes wrong now.
    #[must_use]
    pub fn faults_now(&self) -> Faults {
        self.platter().faults.clone()
    }

    /// How many calls there were.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.platter().calls
    }

    /// The power goes off and comes back: what was not synced is there or not, as the seed says. Files that are still open
    /// reach nothing any more, and nothing goes wrong until it is told again.
    pub fn power_cut(&self, seed: u64) {
        let mut platter = self.platter();
        let mut dice = Dice(seed);
        let forget = platter.faults.forget_sync;
        platter.life += 1;
        platter.faults = Faults { forget_sync: forget, ..Faults::default() };
        let all: BTreeSet<String> =
            platter.names.keys().chain(platter.synced_names.keys()).cloned().collect();
        for name in all {
            let (now, durable) =
                (platter.names.get(&name).copied(), platter.synced_names.get(&name).copied());
            let kept = if now == durable || dice.coin() { durable } else { now };
            match kept {
                Some(file) => platter.names.insert(name, file),
                None => platter.names.remove(&name),
            };
        }
        platter.synced_names = platter.names.clone();
        let mut files = std::mem::take(&mut platter.files);
        files.iter_mut().for_each(|file| file.cut(&mut dice));
        platter.files = files;
    }

    /// The process dies, and the kernel lives: what was written is there, synced or not, and can still be lost.
    pub fn kill(&self) {
        let mut platter = self.platter();
        platter.life += 1;
        platter.faults = Faults { forget_sync: platter.faults.forget_sync, ..Faults::default() };
    }

    /// Changes a byte of a file, as a bad sector does: durably, and without a word.
    pub fn flip(&self, name: &str, offset: u64, with: u8) {
        let mut platter = self.platter();
        let Some(file) = platter.names.get(name).copied() else { return };
        let image = &mut platter.files[file];
        for bytes in [&mut image.now, &mut image.durable] {
            if let Some(byte) = bytes.get_mut(offset as usize) {
                *byte ^= with;
            }
        }
    }

    /// What a reader of the file would see.
    #[must_use]
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let platter = self.platter();
        platter.names.get(name).map(|file| platter.files[*file].now.clone())
    }

    fn sync_file(&self, life: u64, file: usize) -> io::Result<()> {
        let takes = self.platter().faults.sync_takes;
        if !takes.is_zero() {
            std::thread::sleep(takes);
        }
        let mut platter = self.platter();
        platter.call(life)?;
        if platter.faults.failing_syncs > 0 {
            platter.faults.failing_syncs -= 1;
            let mut dice = Dice(platter.faults.seed.wrapping_add(platter.calls));
            platter.files[file].fail_sync(&mut dice);
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        if !platter.faults.forget_sync {
            platter.files[file].sync();
        }
        Ok(())
    }
}

impl Disk for FakeDisk {
    fn open(&self, name: &str, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut platter = self.platter();
        let life = self.life.unwrap_or(platter.life);
        platter.call(life)?;
        let file = match (platter.names.get(name).copied(), how) {
            (Some(file), Open::Existing) => {
                let image = &mut platter.files[file];
                for sector in std::mem::take(&mut image.lost) {
                    let content = sector_of(&image.durable, sector);
                    Image::put_sector(&mut image.now, sector, &content);
                }
                file
            }
            (None, Open::New) => {
                platter.files.push(Image::default());
                let file = platter.files.len() - 1;
                platter.names.insert(name.to_owned(), file);
                file
            }
            (Some(_), Open::New) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, Open::Existing) => return Err(io::ErrorKind::NotFound.into()),
        };
        let disk = Self { platter: Arc::clone(&self.platter), life: Some(life) };
        Ok(Arc::new(FakeFile { disk, file, life }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut platter = self.platter();
        let life = self.life.unwrap_or(platter.life);
        platter.call(life)?;
        platter.names.remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut platter = self.platter();
        let life = self.life.unwrap_or(platter.life);
        platter.call(life)?;
        let file = platter.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        platter.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut platter = self.platter();
        let life = self.life.unwrap_or(platter.life);
        platter.call(life)?;
        Ok(platter.names.keys().cloned().collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut platter = self.platter();
        let life = self.life.unwrap_or(platter.life);
        platter.call(life)?;
        if !platter.faults.forget_sync {
            platter.synced_names = platter.names.clone();
        }
        Ok(())
    }
}

#[derive(Debug)]
struct FakeFile {
    disk: FakeDisk,
    file: usize,
    life: u64,
}

impl DiskFile for FakeFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut platter = self.disk.platter();
        platter.call(self.life)?;
        let start = offset as usize;
        let bytes = platter.files[self.file].now.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut platter = self.disk.platter();
        platter.call(self.life)?;
        platter.room_for(self.file, offset + data.len() as u64)?;
        if platter.faults.failing_writes > 0 {
            platter.faults.failing_writes -= 1;
            let part = Dice(platter.faults.seed.wrapping_add(platter.calls)).below(data.len() + 1);
            platter.files[self.file].write(offset as usize, &data[..part]);
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the fake disk is full"));
        }
        platter.files[self.file].write(offset as usize, data);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut platter = self.disk.platter();
        platter.call(self.life)?;
        Ok(platter.files[self.file].now.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut platter = self.disk.platter();
        platter.call(self.life)?;
        platter.room_for(self.file, len)?;
        platter.files[self.file].set_len(len as usize);
        Ok(())
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.sync_file(self.life, self.file)
    }
}
