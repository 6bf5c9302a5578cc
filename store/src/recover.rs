//! The reading end of the log: what a store finds when it is opened.
//!
//! Segments form a chain: each header names the one before it and says where that one ends. The walk goes back from the
//! newest segment with a whole header; files that it does not meet hold nothing that counts, and are litter.
//!
//! A bad record is one of two things, and the difference is the point of this file:
//! - In the last frame of the last segment it is a flush that the power cut. Nobody was told that it is durable. It and
//!   what follows in that frame is cut off.
//! - Anywhere else it was durable once, because the store syncs a flush before it writes the next. That is damage: it is
//!   told, with the object if that can be known, and everything else goes on.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use berth_protocol::object::{Group, ObjectKey, Seq};
use berth_protocol::record::{self, HEADER_LEN, Header, Owner, Prev, Record, RecordError};

use crate::disk::{Disk, Open};
use crate::log::{End, Found};
use crate::segment::{
    FRAME_LEN, FRAMES_AT, Frame, HeaderError, SegmentHeader, StoreId, file_name, file_number,
};
use crate::store::OpenError;

/// Something durable that is not there any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// Where in it.
    pub offset: u64,
    /// Whose record it was, if that can be known. This object is refused from now on.
    pub object: Option<ObjectKey>,
    /// The group and the number of the record, if they can be known.
    pub record: Option<(Group, Seq)>,
    /// What is wrong, in words for an operator.
    pub what: String,
}

/// What a walk through the log tells.
pub(crate) trait Visitor {
    /// A record, in the order of the log.
    fn record(&mut self, flush: u64, record: Record) -> Result<(), OpenError>;
    /// A record of this object is gone; who wrote it may be known.
    fn lost(&mut self, object: ObjectKey, owner: Owner);
}

/// The walk.
pub(crate) struct Walk<'a, V> {
    disk: &'a dyn Disk,
    store: StoreId,
    /// Flushes up to this one are in the engine, and are passed over.
    applied: u64,
    /// The last record of each group.
    pub(crate) chain: BTreeMap<Group, Prev>,
    pub(crate) damage: Vec<Damage>,
    visitor: &'a mut V,
    last_flush: u64,
}

/// A segment that is to be read.
struct Segment {
    number: u64,
    bytes: Vec<u8>,
    /// Where the next segment says that it ends. The newest one has none.
    bounded: bool,
}

/// Whether a bad record can be a flush that the power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Region {
    Durable,
    Tail,
}

/// The id of the store whose segments are in this folder.
pub(crate) fn store_of(disk: &dyn Disk) -> Result<Option<StoreId>, OpenError> {
    Ok(read_headers(disk)?.values().flatten().next().map(|header| header.store))
}

/// All segments, those without a whole header too.
fn read_headers(disk: &dyn Disk) -> Result<BTreeMap<u64, Option<SegmentHeader>>, OpenError> {
    let mut headers = BTreeMap::new();
    for name in disk.list().map_err(OpenError::disk("the folder"))? {
        let Some(number) = file_number(&name) else { continue };
        let file = disk.open(&name, Open::Existing).map_err(OpenError::disk(&name))?;
        let header = match SegmentHeader::read(&*file) {
            Ok(header) if header.number == number => Some(header),
            Ok(_) | Err(HeaderError::Broken) => None,
            Err(HeaderError::Version(found)) => return Err(OpenError::Version { file: name, found }),
            Err(HeaderError::Io(error)) => return Err(OpenError::disk(&name)(error)),
        };
        headers.insert(number, header);
    }
    Ok(headers)
}

impl<'a, V: Visitor> Walk<'a, V> {
    pub(crate) fn new(
        disk: &'a dyn Disk,
        store: StoreId,
        applied: u64,
        chain: BTreeMap<Group, Prev>,
        visitor: &'a mut V,
    ) -> Self {
        Self { disk, store, applied, chain, damage: Vec::new(), visitor, last_flush: applied }
    }

    /// Walks from the oldest segment to the newest, and says where the log goes on.
    pub(crate) fn run(&mut self) -> Result<Found, OpenError> {
        let headers = read_headers(self.disk)?;
        let chain = self.chain_of(&headers)?;
        let mut end = End { segment: 0, at: 0 };
        for (at, (number, _)) in chain.iter().enumerate() {
            let next = chain.get(at + 1).and_then(|(next, _)| headers.get(next).copied().flatten());
            if next.is_some_and(|next| next.first_flush <= self.applied + 1) {
                continue; // All of it is in the engine.
            }
            let segment = self.read_segment(*number, next.map(|next| next.prev_end))?;
            end = End { segment: *number, at: self.scan(&segment)? };
        }
        if let Some((number, first_flush)) = chain.back() {
            self.last_flush = self.last_flush.max(first_flush.saturating_sub(1));
            self.sync_tail(*number)?;
        }
        let litter = headers.keys().filter(|number| chain.iter().all(|(kept, _)| kept != *number));
        Ok(Found {
            end,
            next_segment: headers.keys().max().map_or(1, |number| number + 1),
            next_flush: self.last_flush + 1,
            litter: litter.copied().collect(),
            segments: chain,
        })
    }

    /// What was read may be in the kernel's cache only, when a process died and not the machine.
    fn sync_tail(&self, number: u64) -> Result<(), OpenError> {
        let name = file_name(number);
        let file = self.disk.open(&name, Open::Existing).map_err(OpenError::disk(&name))?;
        let synced = file.sync_data().and_then(|()| self.disk.sync_dir());
        synced.map_err(OpenError::disk(&name))
    }

    /// The segments that count, with their first flushes, from the oldest.
    fn chain_of(
        &mut self,
        headers: &BTreeMap<u64, Option<SegmentHeader>>,
    ) -> Result<VecDeque<(u64, u64)>, OpenError> {
        let mut chain = VecDeque::new();
        let tip = headers.iter().rev().find_map(|(_, header)| *header);
        self.refuse_headless(headers, tip.map_or(0, |tip| tip.number))?;
        let Some(mut header) = tip else { return Ok(chain) };
        if header.store != self.store {
            return Err(OpenError::Foreign { file: file_name(header.number) });
        }
        loop {
            chain.push_front((header.number, header.first_flush));
            let covered = header.first_flush <= self.applied + 1;
            match headers.get(&header.prev) {
                _ if header.prev == 0 => break,
                Some(Some(prev)) => header = *prev,
                // What is in front of it is in the engine: it was trimmed, or is about to be.
                _ if covered => break,
                Some(None) => {
                    return Err(OpenError::SegmentDamaged { file: file_name(header.prev) });
                }
                None => return Err(OpenError::SegmentMissing { file: file_name(header.prev) }),
            }
        }
        Ok(chain)
    }

    /// A newest segment without a header was being made when the power went. But not if two flushes are in it: the first
    /// one was durable then, and so was the header.
    fn refuse_headless(
        &self,
        headers: &BTreeMap<u64, Option<SegmentHeader>>,
        tip: u64,
    ) -> Result<(), OpenError> {
        for (number, _) in headers.range(tip + 1..) {
            let bytes = self.read_segment(*number, None)?.bytes;
            let mut at = FRAMES_AT as usize;
            let mut frames = 0;
            while let Some(found) = bytes.get(at..).and_then(|rest| Frame::find(rest, self.store, *number)) {
                frames += 1;
                at += found + FRAME_LEN;
            }
            if frames > 1 {
                return Err(OpenError::SegmentDamaged { file: file_name(*number) });
            }
        }
        Ok(())
    }

    fn read_segment(&self, number: u64, bound: Option<u64>) -> Result<Segment, OpenError> {
        let name = file_name(number);
        let read = || -> io::Result<Vec<u8>> {
            let file = self.disk.open(&name, Open::Existing)?;
            let len = file.len()?;
            let mut bytes = vec![0; bound.map_or(len, |bound| bound.min(len)) as usize];
            file.read_at(0, &mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(OpenError::disk(&name))?;
        Ok(Segment { number, bytes, bounded: bound.is_some() })
    }

    /// Reads a segment, and says where it ends.
    fn scan(&mut self, segment: &Segment) -> Result<u64, OpenError> {
        let mut at = FRAMES_AT as usize;
        loop {
            let rest = segment.bytes.get(at..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(at as u64);
            }
            let frame = Frame::decode(rest, self.store, segment.number);
            let records = at + FRAME_LEN;
            let claimed = frame.map(|frame| records.saturating_add(frame.len));
            let next = self.next_frame(segment, claimed.unwrap_or(at + 1));
            let region = match segment.bounded || next.is_some() {
                true => Region::Durable,
                false => Region::Tail,
            };
            let until = claimed.or(next).unwrap_or(segment.bytes.len()).min(segment.bytes.len());
            match frame {
                None if region == Region::Tail => return Ok(at as u64),
                None => self.report(segment, at, None, None, "the start of a flush is damaged"),
                Some(frame) => self.last_flush = self.last_flush.max(frame.flush),
            }
            if frame.is_some_and(|frame| frame.flush <= self.applied) {
                at = until;
                continue;
            }
            let good = self.records(segment, records.min(until)..until, region)?;
            if region == Region::Tail {
                return Ok(if good == records { at } else { good } as u64);
            }
            at = until;
        }
    }

    fn next_frame(&self, segment: &Segment, from: usize) -> Option<usize> {
        let rest = segment.bytes.get(from..)?;
        Frame::find(rest, self.store, segment.number).map(|found| from + found)
    }

    /// Reads the records of a flush, and says where the good ones end.
    fn records(
        &mut self,
        segment: &Segment,
        range: std::ops::Range<usize>,
        region: Region,
    ) -> Result<usize, OpenError> {
        let mut at = range.start;
        while at < range.end {
            let bytes = &segment.bytes[at..range.end];
            match record::decode(bytes) {
                Ok((record, len)) => {
                    if !self.continues(segment, at, &record, region) {
                        return Ok(at);
                    }
                    self.visitor.record(self.last_flush, record)?;
                    at += len;
                }
                Err(
                    error @ (RecordError::Version { .. }
                    | RecordError::Kind { .. }
                    | RecordError::Nonsense { .. }),
                ) => {
                    return Err(OpenError::Record {
                        file: file_name(segment.number),
                        offset: at as u64,
                        error,
                    });
                }
                Err(_) if region == Region::Tail => return Ok(at),
                Err(error) => at += self.damaged(segment, at, bytes, &error),
            }
        }
        Ok(at)
    }

    /// Whether the record follows the last one of its group. If not, it is none in the tail, and tells of a loss elsewhere.
    fn continues(&mut self, segment: &Segment, at: usize, record: &Record, region: Region) -> bool {
        let place = &record.place;
        let last = self.chain.get(&place.group).copied().unwrap_or_default();
        if last != place.prev {
            if region == Region::Tail {
                return false;
            }
            let what = "records before this one are missing";
            self.report(segment, at, None, Some((place.group, place.seq)), what);
        }
        if let Ok(header) = Header::parse(&segment.bytes[at..]) {
            self.chain.insert(place.group, header.as_prev());
        }
        true
    }

    /// Tells of a damaged record, and how many bytes to pass over.
    fn damaged(&mut self, segment: &Segment, at: usize, bytes: &[u8], error: &RecordError) -> usize {
        let header = Header::parse(bytes).ok().or_else(|| record::whose(bytes));
        let object = header.and_then(|header| header.object);
        let record = header.map(|header| (header.place.group, header.place.seq));
        self.report(segment, at, object.map(|(object, _)| object), record, &error.to_string());
        if let Some((object, owner)) = object {
            self.visitor.lost(object, owner);
        }
        if let Some(header) = header {
            self.chain.insert(header.place.group, header.as_prev());
            return header.record_len().min(bytes.len());
        }
        let next =
            (1..bytes.len().saturating_sub(HEADER_LEN)).find(|at| Header::parse(&bytes[*at..]).is_ok());
        next.unwrap_or(bytes.len())
    }

    fn report(
        &mut self,
        segment: &Segment,
        at: usize,
        object: Option<ObjectKey>,
        record: Option<(Group, Seq)>,
        what: &str,
    ) {
        let file = file_name(segment.number);
        tracing::error!(file, offset = at, ?object, what, "the log is damaged");
        self.damage.push(Damage { file, offset: at as u64, object, record, what: what.to_owned() });
    }
}
