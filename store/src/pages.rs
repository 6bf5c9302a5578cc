//! A checksum for each page of the engine's file.
//!
//! redb believes the pages that it reads: a changed byte in a branch sends a look-up the wrong way, and a key that is there
//! is not found. So each page of 4096 bytes has a checksum in a file beside it, and one that does not match is given to
//! redb as zeros, together with all that was read with it: no page of redb's is zeros, so it stops where it meets one, and
//! whoever asked hears of damage (`guarded` in the engine).
//!
//! A power cut may leave a page and its checksum of different ages. That is no harm: redb never changes a page that its
//! durable state has, so such a page is one that nothing refers to. A sector of checksums has those of other pages too, but
//! it is written whole, and theirs are the same in the old one and the new one. The first page is redb's header, which is
//! changed in place and has checksums of its own.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use crate::disk::DiskFile;

const PAGE: u64 = 4096;
const SUM_LEN: u64 = 4;

/// How many checksums are written at once: a sector of them.
const SUMS_PER_SECTOR: u64 = 512 / SUM_LEN;

/// The engine's file, and the checksums of its pages.
#[derive(Debug)]
pub(crate) struct Pages {
    data: Arc<dyn DiskFile>,
    sums: Arc<dyn DiskFile>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The checksum of each page; 0 for one that was never written.
    sums: Vec<u32>,
    /// Sectors of checksums that are not in their file.
    dirty: BTreeSet<u64>,
}

/// The number of the page is part of it: a page in another's place is as bad as a changed one.
fn page_sum(page: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&page.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize().max(1)
}

impl Pages {
    /// Opens a file with its checksums.
    pub(crate) fn new(data: Arc<dyn DiskFile>, sums: Arc<dyn DiskFile>) -> io::Result<Self> {
        let mut bytes = vec![0; sums.len()? as usize];
        sums.read_at(0, &mut bytes)?;
        let sums_of = bytes.chunks_exact(SUM_LEN as usize);
        let known = sums_of.map(|sum| u32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]])).collect();
        Ok(Self { data, sums, known: Mutex::new(Known { sums: known, dirty: BTreeSet::new() }) })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pages that a range lies in, as a range of whole pages.
    fn around(offset: u64, len: usize) -> (u64, u64) {
        (offset / PAGE * PAGE, (offset + len as u64).div_ceil(PAGE) * PAGE)
    }

    /// Reads whole pages; the file may end inside of the last one, which then has zeros behind.
    fn read_pages(&self, start: u64, end: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; (end - start) as usize];
        let there = end.min(self.data.len()?).saturating_sub(start) as usize;
        self.data.read_at(start, &mut bytes[..there])?;
        Ok(bytes)
    }

    fn first_bad(&self, start: u64, bytes: &[u8]) -> Option<u64> {
        let known = self.known();
        (start / PAGE..).zip(bytes.chunks(PAGE as usize)).find_map(|(page, bytes)| {
            let sum = known.sums.get(page as usize).copied().unwrap_or_default();
            let good = page == 0
                || match sum {
                    0 => bytes.iter().all(|byte| *byte == 0),
                    sum => page_sum(page, bytes) == sum,
                };
            (!good).then_some(page)
        })
    }

    fn write_sums(&self) -> io::Result<()> {
        let mut known = self.known();
        for sector in std::mem::take(&mut known.dirty) {
            let first = (sector * SUMS_PER_SECTOR) as usize;
            let last = (first + SUMS_PER_SECTOR as usize).min(known.sums.len());
            let sums = known.sums.get(first..last).unwrap_or_default();
            let bytes: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
            self.sums.write_at(sector * SUMS_PER_SECTOR * SUM_LEN, &bytes)?;
        }
        Ok(())
    }
}

impl Known {
    fn set(&mut self, page: u64, sum: u32) {
        if self.sums.len() <= page as usize {
            self.sums.resize(page as usize + 1, 0);
        }
        self.sums[page as usize] = sum;
        self.dirty.insert(page / SUMS_PER_SECTOR);
    }
}

impl StorageBackend for Pages {
    fn len(&self) -> Result<u64, io::Error> {
        self.data.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let (start, end) = Self::around(offset, out.len());
        let bad = if (start, end) == (offset, offset + out.len() as u64) {
            self.data.read_at(offset, out)?;
            self.first_bad(start, out)
        } else {
            let bytes = self.read_pages(start, end)?;
            let from = (offset - start) as usize;
            out.copy_from_slice(&bytes[from..from + out.len()]);
            self.first_bad(start, &bytes)
        };
        if let Some(page) = bad {
            tracing::error!(page, "a page of the engine's file is damaged");
            out.fill(0);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        // Room is taken when the file grows, where redb can still say no, and not in the middle of a commit.
        if len > self.data.len()? {
            return self.data.reserve(len);
        }
        self.data.set_len(len)?;
        let mut known = self.known();
        for page in len.div_ceil(PAGE)..known.sums.len() as u64 {
            known.set(page, 0);
        }
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.write_sums()?;
        self.sums.sync_data()?;
        self.data.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.data.write_at(offset, data)?;
        let (start, end) = Self::around(offset, data.len());
        let whole = (start, end) == (offset, offset + data.len() as u64);
        let read = if whole { Vec::new() } else { self.read_pages(start, end)? };
        let bytes = if whole { data } else { &read };
        let mut known = self.known();
        for (page, bytes) in (start / PAGE..).zip(bytes.chunks(PAGE as usize)) {
            if page > 0 {
                known.set(page, page_sum(page, bytes));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, FakeDisk, Open};

    fn pages(disk: &FakeDisk, how: Open) -> Pages {
        Pages::new(disk.open("data", how).unwrap(), disk.open("sums", how).unwrap()).unwrap()
    }

    #[test]
    fn a_changed_page_is_given_as_zeros_and_others_as_they_are() {
        let disk = FakeDisk::new();
        let file = pages(&disk, Open::New);
        file.set_len(5 * PAGE).unwrap();
        for page in 0..4u8 {
            file.write(u64::from(page) * PAGE, &[page + 1; PAGE as usize]).unwrap();
        }
        file.write(3 * PAGE + 100, b"in the middle").unwrap();
        file.sync_data().unwrap();
        disk.flip("data", 2 * PAGE + 7, 1);
        let file = pages(&disk, Open::Existing);
        let read = |page: u64, len: u64| {
            let mut out = vec![9; len as usize];
            file.read(page * PAGE, &mut out).unwrap();
            out
        };
        assert_eq!(read(1, PAGE), [2; PAGE as usize]);
        assert_eq!(read(2, PAGE), [0; PAGE as usize]);
        assert_eq!(read(2, 10), [0; 10], "a part of it");
        assert_eq!(read(1, 2 * PAGE), [0; 2 * PAGE as usize], "what was read with it");
        assert_eq!(&read(3, PAGE)[98..104], b"\x04\x04in t");
        assert_eq!(read(4, PAGE), [0; PAGE as usize], "never written");
        disk.flip("data", 4 * PAGE, 1);
        assert_eq!(read(4, PAGE)[0], 0);
    }
}
