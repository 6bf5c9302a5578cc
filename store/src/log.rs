//! The writing end of the log: one flush after the other, each durable before the next one.
//!
//! Invariants:
//! - Everything up to `end` of the current segment is durable, and no flush is written behind one that is not.
//! - A flush that failed is cut off before anybody is told that it failed for sure: in place where the file can be cut
//!   (a full disk), else by the header of the next segment (a sync that failed). Where that fails too, its fate is
//!   unknown, and said to be. In each case nothing is acknowledged that would stand behind it.
//! - After a sync has failed, the file is not written again: the kernel may have dropped what it did not write and call
//!   it clean, so that a second sync would lie.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use crate::disk::{self, Disk, DiskFile, Open};
use crate::segment::{FRAME_LEN, FRAMES_AT, Frame, SegmentHeader, StoreId, file_name};

/// The end of what is durable: a segment and a place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) segment: u64,
    pub(crate) at: u64,
}

#[derive(Debug)]
struct Current {
    file: Arc<dyn DiskFile>,
    number: u64,
    first_flush: u64,
    /// Where the next flush goes: behind all that is durable.
    at: u64,
    /// How far room was reserved.
    reserved: u64,
}

/// Why a flush is not in the log.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// The disk is full. Nothing of the flush is in the log, now or after a restart.
    Full,
    /// A write or a sync failed. Nothing of the flush is in the log, now or after a restart.
    Failed,
    /// A write or a sync failed, and so did cutting it off. It may be there after a restart, unless another flush
    /// succeeds first.
    Unknown,
}

/// The writing end of the log.
#[derive(Debug)]
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    store: StoreId,
    segment_bytes: u64,
    current: Option<Current>,
    end: End,
    next_segment: u64,
    next_flush: u64,
    /// Segments from the oldest to the newest one that holds something, with the first flush that each may have.
    segments: VecDeque<(u64, u64)>,
    /// Files that are of no use any more.
    litter: Vec<u64>,
}

impl Log {
    /// Goes on after what was found: the next flush begins a new segment.
    pub(crate) fn new(disk: Arc<dyn Disk>, store: StoreId, segment_bytes: u64, found: Found) -> Self {
        Self {
            disk,
            store,
            segment_bytes,
            current: None,
            end: found.end,
            next_segment: found.next_segment,
            next_flush: found.next_flush,
            segments: found.segments,
            litter: found.litter,
        }
    }

    /// The number of the last flush that was written, or tried.
    pub(crate) fn last_flush(&self) -> u64 {
        self.next_flush - 1
    }

    /// Makes a flush durable. `buffer` has [`FRAME_LEN`] bytes for the frame, and then the records.
    pub(crate) fn append(&mut self, buffer: &mut [u8]) -> Result<u64, AppendError> {
        let len = buffer.len() as u64;
        let flush = self.next_flush;
        self.next_flush += 1;
        if self.current.as_ref().is_none_or(|current| current.at + len > current.reserved) {
            match self.begin_segment(flush, len) {
                Ok(begun) => self.current = Some(begun),
                // Nothing of the flush was written anywhere.
                Err(error) if disk::is_full(&error) => return Err(AppendError::Full),
                Err(error) => {
                    tracing::error!(%error, "a segment of the log could not be begun");
                    return Err(AppendError::Failed);
                }
            }
        }
        let Some(current) = &self.current else {
            return Err(AppendError::Failed);
        };
        let frame = Frame { flush, len: buffer.len() - FRAME_LEN };
        buffer[..FRAME_LEN].copy_from_slice(&frame.encode(self.store, current.number));
        if let Err(error) = current.file.write_at(current.at, buffer) {
            tracing::error!(%error, "a flush could not be written");
            return Err(self.cut_in_place(&error));
        }
        if let Err(error) = current.file.sync_data() {
            tracing::error!(%error, "a flush could not be synced");
            return Err(self.cut_by_next_segment());
        }
        self.synced(len);
        Ok(flush)
    }

    /// Ends the segment with a frame without records: it says that the flush before it was durable, so that a bad record
    /// in that one is damage at the next start, and not a flush that the power cut.
    pub(crate) fn close(&mut self) {
        if self.current.as_ref().is_some_and(|current| current.at > FRAMES_AT) {
            let _ = self.append(&mut [0; FRAME_LEN]);
        }
    }

    /// So many more bytes of the current segment are durable.
    fn synced(&mut self, len: u64) {
        let Some(current) = &mut self.current else { return };
        current.at += len;
        if self.end.segment != current.number {
            self.segments.push_back((current.number, current.first_flush));
        }
        self.end = End { segment: current.number, at: current.at };
    }

    /// Takes back a write that the disk did not take whole, typically because it is full.
    fn cut_in_place(&mut self, error: &io::Error) -> AppendError {
        let Some(current) = &mut self.current else { return AppendError::Failed };
        match current.file.set_len(current.at).and_then(|()| current.file.sync_data()) {
            Ok(()) => {
                // The room behind is gone with it, and what is behind the end is zero when it is written again: the
                // next flush begins a segment.
                current.reserved = current.at;
                self.synced(0);
                if disk::is_full(error) { AppendError::Full } else { AppendError::Failed }
            }
            Err(second) => {
                tracing::warn!(error = %second, "a failed flush could not be cut off in place");
                self.cut_by_next_segment()
            }
        }
    }

    /// Leaves the file alone for good, and says in a new segment where it ends.
    fn cut_by_next_segment(&mut self) -> AppendError {
        if let Some(left) = self.current.take()
            && self.end.segment != left.number
        {
            self.litter.push(left.number); // Nothing of it was ever durable: no segment will name it.
        }
        let begun = self.begin_segment(self.next_flush, 0).and_then(|begun| match begun.file.sync_data() {
            Ok(()) => Ok(begun),
            Err(error) => {
                self.litter.push(begun.number);
                Err(error)
            }
        });
        match begun {
            Ok(begun) => {
                self.current = Some(begun);
                self.synced(0);
                AppendError::Failed
            }
            Err(second) => {
                tracing::warn!(error = %second, "a failed flush could not be cut off by a new segment");
                AppendError::Unknown
            }
        }
    }

    /// Makes a segment that continues what is durable. It counts once something in it is.
    fn begin_segment(&mut self, first_flush: u64, least: u64) -> io::Result<Current> {
        let number = self.next_segment;
        self.next_segment += 1;
        let reserved = self.segment_bytes.max(FRAMES_AT + least);
        self.make_segment(number, first_flush, reserved).inspect_err(|_| {
            // Whether its name is there is not known. It holds no flush in any case, and no segment will name it.
            let _ = self.disk.remove(&file_name(number));
        })
    }

    fn make_segment(&self, number: u64, first_flush: u64, reserved: u64) -> io::Result<Current> {
        let file = self.disk.open(&file_name(number), Open::New)?;
        file.reserve(reserved)?;
        let End { segment: prev, at: prev_end } = self.end;
        SegmentHeader { store: self.store, number, first_flush, prev, prev_end }.write(&*file)?;
        // Its name is durable before anything in it is acknowledged. Its header is with its first sync.
        self.disk.sync_dir()?;
        Ok(Current { file, number, first_flush, at: FRAMES_AT, reserved })
    }

    /// The files that nobody needs any more once all flushes up to `flush` are durable in the engine.
    pub(crate) fn trim(&mut self, flush: u64) -> Vec<String> {
        let mut names: Vec<String> = self.litter.drain(..).map(file_name).collect();
        // A segment ends where the next one begins. The newest one stays: the next one will say where it ends.
        while let Some((_, next_first)) = self.segments.get(1).copied() {
            if next_first > flush + 1 {
                break;
            }
            names.extend(self.segments.pop_front().map(|(number, _)| file_name(number)));
        }
        names
    }
}

/// Where an opened log goes on.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) end: End,
    pub(crate) next_segment: u64,
    pub(crate) next_flush: u64,
    pub(crate) segments: VecDeque<(u64, u64)>,
    pub(crate) litter: Vec<u64>,
}
