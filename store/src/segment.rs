//! What a file of the log looks like: a segment, its two equal headers, and the frames after them.
//!
//! ```text
//!   0      header: which segment of which store, and where the one before it ends
//!   512    the same header again: one bad sector does not take a segment
//!   4096   frames, one for each flush: 32 bytes, then the records that were made durable by one sync
//! ```
//!
//! A frame says which flush it is. Since the committer syncs a flush before it writes the next one, a whole frame proves
//! that everything before it in its segment was durable: a bad record before it is damage, a bad record in the last frame
//! is a flush that the power cut, and that nobody was told of.
//!
//! A header says where the segment before it ends. What an older segment holds beyond that was not acknowledged, whole as
//! it may be: so a flush whose sync failed is cut off by the segment that follows, without writing to the file that failed.
//!
//! Checksums of frames start from the store's random id. A guest who writes the bytes of a frame into a value does not
//! know it, and cannot make the search for frames find his.

use std::io;

use crate::disk::DiskFile;

/// The version of segments that this program writes, and the only one that it reads.
pub(crate) const VERSION: u32 = 1;

/// Where the frames start.
pub(crate) const FRAMES_AT: u64 = 4096;

/// The length of what stands before the records of a flush.
pub(crate) const FRAME_LEN: usize = 32;

const MAGIC: [u8; 8] = *b"BERTHLOG";
const FRAME_MAGIC: [u8; 4] = *b"FLSH";
const HEADER_LEN: usize = 64;
const SECOND_HEADER_AT: u64 = 512;

/// The random id of a store: which files belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreId(pub [u8; 16]);

/// What stands at the start of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) store: StoreId,
    pub(crate) number: u64,
    /// All flushes of the segment have this number or a greater one.
    pub(crate) first_flush: u64,
    /// The segment before it; 0 if there is none.
    pub(crate) prev: u64,
    /// Where that one ends.
    pub(crate) prev_end: u64,
}

/// Why a segment has no header that we read.
#[derive(Debug)]
pub(crate) enum HeaderError {
    /// Neither copy is whole: it was being made when the power went, or it is damaged.
    Broken,
    Version(u32),
    Io(io::Error),
}

impl SegmentHeader {
    fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..28].copy_from_slice(&self.store.0);
        bytes[28..36].copy_from_slice(&self.number.to_le_bytes());
        bytes[36..44].copy_from_slice(&self.first_flush.to_le_bytes());
        bytes[44..52].copy_from_slice(&self.prev.to_le_bytes());
        bytes[52..60].copy_from_slice(&self.prev_end.to_le_bytes());
        let sum = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, HeaderError> {
        let u64_at = |at: usize| u64::from_le_bytes(array(&bytes[at..]));
        if bytes[..8] != MAGIC || crc32fast::hash(&bytes[..60]).to_le_bytes() != bytes[60..] {
            return Err(HeaderError::Broken);
        }
        match u32::from_le_bytes(array(&bytes[8..])) {
            VERSION => Ok(Self {
                store: StoreId(array(&bytes[12..])),
                number: u64_at(28),
                first_flush: u64_at(36),
                prev: u64_at(44),
                prev_end: u64_at(52),
            }),
            other => Err(HeaderError::Version(other)),
        }
    }

    pub(crate) fn write(&self, file: &dyn DiskFile) -> io::Result<()> {
        let bytes = self.encode();
        file.write_at(0, &bytes)?;
        file.write_at(SECOND_HEADER_AT, &bytes)
    }

    pub(crate) fn read(file: &dyn DiskFile) -> Result<Self, HeaderError> {
        let mut result = Err(HeaderError::Broken);
        for at in [0, SECOND_HEADER_AT] {
            let mut bytes = [0; HEADER_LEN];
            result = match file.read_at(at, &mut bytes) {
                Ok(()) => Self::decode(&bytes),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(HeaderError::Broken),
                Err(error) => Err(HeaderError::Io(error)),
            };
            if matches!(result, Ok(_) | Err(HeaderError::Version(_))) {
                break;
            }
        }
        result
    }
}

/// What stands before the records of a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) flush: u64,
    /// How many bytes of records follow.
    pub(crate) len: usize,
}

impl Frame {
    fn sum(store: StoreId, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&store.0);
        hasher.update(bytes);
        hasher.finalize()
    }

    pub(crate) fn encode(&self, store: StoreId, segment: u64) -> [u8; FRAME_LEN] {
        let mut bytes = [0; FRAME_LEN];
        bytes[..4].copy_from_slice(&FRAME_MAGIC);
        bytes[4..12].copy_from_slice(&segment.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.flush.to_le_bytes());
        bytes[20..28].copy_from_slice(&(self.len as u64).to_le_bytes());
        let sum = Self::sum(store, &bytes[..28]);
        bytes[28..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The frame at the start of `bytes`, if one of this segment is there whole.
    pub(crate) fn decode(bytes: &[u8], store: StoreId, segment: u64) -> Option<Self> {
        let bytes = bytes.first_chunk::<FRAME_LEN>()?;
        let whole = bytes[..4] == FRAME_MAGIC
            && bytes[4..12] == segment.to_le_bytes()
            && bytes[28..] == Self::sum(store, &bytes[..28]).to_le_bytes();
        whole.then(|| Self {
            flush: u64::from_le_bytes(array(&bytes[12..])),
            len: u64::from_le_bytes(array(&bytes[20..])) as usize,
        })
    }

    /// Where the next whole frame of this segment is.
    pub(crate) fn find(bytes: &[u8], store: StoreId, segment: u64) -> Option<usize> {
        let last = bytes.len().checked_sub(FRAME_LEN)?;
        (0..=last).find(|at| {
            bytes[*at..].starts_with(&FRAME_MAGIC) && Self::decode(&bytes[*at..], store, segment).is_some()
        })
    }
}

/// The first bytes of a slice that has so many.
pub(crate) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[..N]);
    array
}

/// The name of a segment's file. Names sort as numbers do.
pub(crate) fn file_name(number: u64) -> String {
    format!("log-{number:016x}")
}

/// The number in a segment's name.
pub(crate) fn file_number(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name.strip_prefix("log-")?, 16).ok()?;
    (file_name(number) == name).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, FakeDisk, Open};

    const STORE: StoreId = StoreId([3; 16]);

    #[test]
    fn one_bad_sector_does_not_take_a_header() {
        let disk = FakeDisk::new();
        let file = disk.open("s", Open::New).unwrap();
        let header = SegmentHeader { store: STORE, number: 4, first_flush: 9, prev: 3, prev_end: 5000 };
        header.write(&*file).unwrap();
        disk.flip("s", 30, 1);
        assert_eq!(SegmentHeader::read(&*file).unwrap(), header);
        disk.flip("s", 512 + 30, 1);
        assert!(matches!(SegmentHeader::read(&*file), Err(HeaderError::Broken)));
    }

    #[test]
    fn a_frame_of_another_store_or_segment_is_none() {
        let bytes = Frame { flush: 7, len: 100 }.encode(STORE, 4);
        assert_eq!(Frame::decode(&bytes, STORE, 4), Some(Frame { flush: 7, len: 100 }));
        assert_eq!(Frame::decode(&bytes, STORE, 5), None);
        assert_eq!(Frame::decode(&bytes, StoreId([4; 16]), 4), None);
        let mut hidden = b"FLSHFLSH".to_vec();
        hidden.extend_from_slice(&bytes);
        assert_eq!(Frame::find(&hidden, STORE, 4), Some(8));
    }

    #[test]
    fn names_are_numbers_in_order() {
        assert_eq!(file_number(&file_name(255)), Some(255));
        assert_eq!(file_number("log-ff"), None);
        assert!(file_name(9) < file_name(10));
    }
}
