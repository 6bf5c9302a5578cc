//! Self-describing files of entries: snapshots, their manifests, exported objects.
//!
//! ```text
//!   8 bytes   BERTHBUN
//!   4         version
//!   1         what it holds
//!   chunks    length, entries, CRC-32 over the number of the chunk and the entries
//!   chunk     of length 0, then the number of all entries, CRC-32 over the number of the chunk and that
//! ```
//!
//! An entry is a tag, two lengths, a key and a value. A bundle without its last chunk is not whole, and is refused; so is
//! one whose chunks were changed, left out or put into another order, and one that has something behind its last chunk.

use std::io::{self, Read, Write};

use crate::disk::DiskFile;
use std::sync::Arc;

/// The version of bundles that this program writes, and the only one that it reads.
const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"BERTHBUN";
const HEADER_LEN: usize = 13;

/// A chunk is written when it has so many bytes: large enough for a disk, small enough to be held.
const CHUNK_BYTES: usize = 1 << 20;

/// No chunk is longer: the largest value, its key, and what a chunk has before it. A length beyond it is damage.
const CHUNK_BYTES_MAX: usize = CHUNK_BYTES + 17 * (1 << 20);

/// What a bundle holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Snapshot = 1,
    Manifest = 2,
    Object = 3,
}

/// Why a bundle cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It cannot be read at all.
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("it is no such file: {what}")]
    Other {
        /// What it is not.
        what: &'static str,
    },
    /// Another version.
    #[error("it has version {found}; this program reads version {VERSION}: run the newer program again")]
    Version {
        /// Its version.
        found: u32,
    },
    /// It was changed, or is not whole.
    #[error("it is damaged or not whole, from entry {after} on")]
    Damaged {
        /// How many entries are good.
        after: u64,
    },
}

/// Writes a bundle.
pub(crate) struct BundleWriter<W> {
    out: W,
    chunk: Vec<u8>,
    chunks: u32,
    entries: u64,
}

fn sum(chunk: u32, bytes: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&chunk.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize().to_le_bytes()
}

impl<W: Write> BundleWriter<W> {
    pub(crate) fn new(mut out: W, content: Content) -> io::Result<Self> {
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&[content as u8])?;
        Ok(Self { out, chunk: Vec::new(), chunks: 0, entries: 0 })
    }

    pub(crate) fn entry(&mut self, tag: u8, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.chunk.push(tag);
        self.chunk.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.chunk.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.chunk.extend_from_slice(key);
        self.chunk.extend_from_slice(value);
        self.entries += 1;
        if self.chunk.len() >= CHUNK_BYTES { self.put_chunk() } else { Ok(()) }
    }

    fn put_chunk(&mut self) -> io::Result<()> {
        if !self.chunk.is_empty() {
            self.out.write_all(&(self.chunk.len() as u32).to_le_bytes())?;
            self.out.write_all(&self.chunk)?;
            self.out.write_all(&sum(self.chunks, &self.chunk))?;
            self.chunks += 1;
            self.chunk.clear();
        }
        Ok(())
    }

    /// Ends it, and gives back what it was written to and how many entries there are.
    pub(crate) fn finish(mut self) -> io::Result<(W, u64)> {
        self.put_chunk()?;
        let entries = self.entries.to_le_bytes();
        self.out.write_all(&0u32.to_le_bytes())?;
        self.out.write_all(&entries)?;
        self.out.write_all(&sum(self.chunks, &entries))?;
        Ok((self.out, self.entries))
    }
}

/// Reads a bundle to its end, and calls `take` with each entry. Entries that were taken before an error are good; whether
/// they are all is known at the end only.
pub(crate) fn read_bundle<E: From<BundleError>>(
    mut input: impl Read,
    content: Content,
    mut take: impl FnMut(u8, &[u8], &[u8]) -> Result<(), E>,
) -> Result<u64, E> {
    let mut entries = 0;
    read_header(&mut input, content)?;
    for chunk in 0.. {
        let Some(bytes) = read_chunk(&mut input, chunk, entries)? else { break };
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (entry, after) = split_entry(rest).ok_or(BundleError::Damaged { after: entries })?;
            take(entry.0, entry.1, entry.2)?;
            entries += 1;
            rest = after;
        }
    }
    match input.read(&mut [0]).map_err(BundleError::Io)? {
        0 => Ok(entries),
        _ => Err(BundleError::Damaged { after: entries }.into()),
    }
}

fn read_header(input: &mut impl Read, content: Content) -> Result<(), BundleError> {
    let mut header = [0; HEADER_LEN];
    input.read_exact(&mut header).map_err(|_| BundleError::Other { what: "it is too short" })?;
    if header[..8] != MAGIC {
        return Err(BundleError::Other { what: "it does not start as one" });
    }
    let found = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    if found != VERSION {
        return Err(BundleError::Version { found });
    }
    match header[12] == content as u8 {
        true => Ok(()),
        false => Err(BundleError::Other { what: "it holds something else" }),
    }
}

fn read_chunk(input: &mut impl Read, chunk: u32, entries: u64) -> Result<Option<Vec<u8>>, BundleError> {
    let damaged = |_| BundleError::Damaged { after: entries };
    let mut number = [0; 4];
    input.read_exact(&mut number).map_err(damaged)?;
    let len = u32::from_le_bytes(number) as usize;
    if len > CHUNK_BYTES_MAX {
        return Err(BundleError::Damaged { after: entries });
    }
    let mut bytes = vec![0; if len == 0 { 8 } else { len }];
    input.read_exact(&mut bytes).map_err(damaged)?;
    input.read_exact(&mut number).map_err(damaged)?;
    if sum(chunk, &bytes) != number || (len == 0 && bytes != entries.to_le_bytes()) {
        return Err(BundleError::Damaged { after: entries });
    }
    Ok((len > 0).then_some(bytes))
}

type Entry<'a> = (u8, &'a [u8], &'a [u8]);

fn split_entry(bytes: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<9>()?;
    let key_len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let value_len = u32::from_le_bytes([head[5], head[6], head[7], head[8]]) as usize;
    let (key, rest) = rest.split_at_checked(key_len)?;
    let (value, rest) = rest.split_at_checked(value_len)?;
    Some(((head[0], key, value), rest))
}

/// A file of a disk, read or written from its start to its end.
pub(crate) struct Stream {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) at: u64,
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(self.at, bytes)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.file.len()?.saturating_sub(self.at);
        let len = out.len().min(left as usize);
        self.file.read_at(self.at, &mut out[..len])?;
        self.at += len as u64;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(count: u32) -> Vec<u8> {
        let mut writer = BundleWriter::new(Vec::new(), Content::Object).unwrap();
        for n in 0..count {
            writer.entry(7, &n.to_le_bytes(), &[b'x'; 9000]).unwrap();
        }
        let (bytes, entries) = writer.finish().unwrap();
        assert_eq!(entries, u64::from(count));
        bytes
    }

    fn read(bytes: &[u8]) -> Result<u64, BundleError> {
        read_bundle(bytes, Content::Object, |tag, _, value| {
            assert_eq!((tag, value.len()), (7, 9000));
            Ok(())
        })
    }

    #[test]
    fn it_is_read_whole_or_refused() {
        let bytes = made(300);
        assert!(bytes.len() > 2 * CHUNK_BYTES);
        assert_eq!(read(&bytes).unwrap(), 300);
        assert_eq!(read(&made(0)).unwrap(), 0);
        for len in [0, 12, 13, 17, 5000, CHUNK_BYTES + 20_000, bytes.len() - 1] {
            assert!(read(&bytes[..len]).is_err(), "cut off at {len}");
        }
        for at in [0, 9, 12, 14, 400, bytes.len() / 2, bytes.len() - 1, bytes.len() - 10] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(read(&changed).is_err(), "changed at {at}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert!(matches!(read(&longer), Err(BundleError::Damaged { after: 300 })));
    }
}
