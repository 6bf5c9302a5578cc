//! The records of a group's log, version 1: what is on disks, and what a leader sends its followers.
//!
//! ```text
//!     0  magic, two bytes      2  version         3  kind
//!     4  group                 8  epoch of the group           16  seq in the group's log
//!    24  epoch, 32 seq and 40 checksum of the record of the group before this one
//!    44  length of the payload
//!    48  object: scope, then id                                80  object's epoch   88  object's seq
//!    96  when, in milliseconds of Unix time, by the clock of whoever wrote it
//!   104  checksum of the payload
//!   108  checksum of the 108 bytes before
//!   112  payload
//! ```
//!
//! Numbers are little-endian, checksums CRC-32. These 112 bytes and their checksum are the same in all later versions: so a
//! record of a later version is told from a damaged one, and is refused by name instead of being guessed at.
//!
//! Invariants:
//! - Each record names the one before it in its group by epoch, seq and checksum. Old bytes that happen to follow in a
//!   file, whole as they may be, do not continue the chain.
//! - Effects are physical: what is to be written where. Replaying a record needs nothing but the record.
//! - Whatever the bytes are, reading them gives a record or an error, never a panic, and allocates no more than they hold.

use bytes::Bytes;

use crate::object::{Epoch, Group, ObjectKey, Seq};

/// The version of records that this program writes, and the only one that it reads.
pub const VERSION: u8 = 1;

/// The length of a header.
pub const HEADER_LEN: usize = 112;

/// Most bytes of a key. Names are short; a key is compared at each level of a tree and is in each index entry.
pub const KEY_MAX: usize = 2 * 1024;

/// Most bytes of a value: large enough for a document, small enough that a few of them fit into every queue.
pub const VALUE_MAX: usize = 16 * 1024 * 1024;

/// Most bytes of a payload. A record is sent to followers as one message; one that no message can hold would stop a
/// group for ever.
pub const PAYLOAD_MAX: usize = 64 * 1024 * 1024;

/// How many bytes of an alarm's value are its due time. The rest is the guest's.
pub const ALARM_DUE_LEN: usize = 8;

const MAGIC: [u8; 2] = [0xb3, 0x52];
const HEADER_SUM_AT: usize = 108;
const PAYLOAD_SUM_AT: usize = 104;

/// Where in an object's state something is. A closed list: another one is a new version of the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// What the guest sees, and what its quota counts.
    User,
    /// What the node keeps of the object: names of zone, class and object, version of its schema.
    Meta,
    /// Answers that are kept for a while under the key of the request, so that a repeated request is not done twice: see
    /// [`crate::kept`].
    Reply,
    /// Alarms: id of the alarm to due time (eight bytes, big-endian, milliseconds of Unix time) and payload.
    Alarm,
}

impl Space {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 4] = [Self::User, Self::Meta, Self::Reply, Self::Alarm];

    /// Its number in records and storage keys.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The space of this number.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// One thing that a record does to its object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The key has this value from now on.
    Put {
        /// Where.
        space: Space,
        /// Under what.
        key: Bytes,
        /// What.
        value: Bytes,
    },
    /// The key has no value any more.
    Delete {
        /// Where.
        space: Space,
        /// Under what.
        key: Bytes,
    },
    /// No key of the space has a value any more.
    Clear {
        /// Where.
        space: Space,
    },
}

/// Why an effect, or a list of them, can be in no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EffectError {
    /// A key that is too long.
    #[error("a key has {found} bytes; the most is {KEY_MAX}")]
    Key {
        /// Its length.
        found: usize,
    },
    /// A value that is too long.
    #[error("a value has {found} bytes; the most is {VALUE_MAX}")]
    Value {
        /// Its length.
        found: usize,
    },
    /// An alarm without a due time.
    #[error("an alarm's value starts with a due time of {ALARM_DUE_LEN} bytes; this has {found} bytes")]
    Alarm {
        /// The length of the value.
        found: usize,
    },
    /// Too much for one record.
    #[error(
        "the effects take {found} bytes; a record has {PAYLOAD_MAX} at most: write less between two commit points"
    )]
    Batch {
        /// The length that the payload would have.
        found: usize,
    },
}

impl Effect {
    /// An alarm: its due time, in milliseconds of Unix time, and the guest's payload.
    #[must_use]
    pub fn alarm(id: Bytes, due_ms: u64, payload: &[u8]) -> Self {
        let mut value = Vec::with_capacity(ALARM_DUE_LEN + payload.len());
        value.extend_from_slice(&due_ms.to_be_bytes());
        value.extend_from_slice(payload);
        Self::Put { space: Space::Alarm, key: id, value: value.into() }
    }

    /// The space that it is about.
    #[must_use]
    pub fn space(&self) -> Space {
        match self {
            Self::Put { space, .. } | Self::Delete { space, .. } | Self::Clear { space } => *space,
        }
    }

    /// How many bytes it takes in a payload.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => 2 + 2 + key.len() + 4 + value.len(),
            Self::Delete { key, .. } => 2 + 2 + key.len(),
            Self::Clear { .. } => 2,
        }
    }

    fn check(&self) -> Result<(), EffectError> {
        let key_len = match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key.len(),
            Self::Clear { .. } => 0,
        };
        if key_len > KEY_MAX {
            return Err(EffectError::Key { found: key_len });
        }
        match self {
            Self::Put { value, .. } if value.len() > VALUE_MAX => {
                Err(EffectError::Value { found: value.len() })
            }
            Self::Put { space: Space::Alarm, value, .. } if value.len() < ALARM_DUE_LEN => {
                Err(EffectError::Alarm { found: value.len() })
            }
            _ => Ok(()),
        }
    }
}

/// Whether these effects can be one record.
pub fn check_effects(effects: &[Effect]) -> Result<(), EffectError> {
    effects.iter().try_for_each(Effect::check)?;
    let found = effects_len(effects);
    if found > PAYLOAD_MAX { Err(EffectError::Batch { found }) } else { Ok(()) }
}

fn effects_len(effects: &[Effect]) -> usize {
    4 + effects.iter().map(Effect::encoded_len).sum::<usize>()
}

/// The due time of an alarm's value, which [`check_effects`] has seen.
#[must_use]
pub fn alarm_due_ms(value: &[u8]) -> Option<u64> {
    value.first_chunk::<ALARM_DUE_LEN>().map(|due| u64::from_be_bytes(*due))
}

/// What the guest gave an alarm, from its value.
#[must_use]
pub fn alarm_payload(value: &Bytes) -> Bytes {
    value.slice(ALARM_DUE_LEN.min(value.len())..)
}

/// Who wrote to an object: the epoch of its ownership, and the number of the write in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// The epoch.
    pub epoch: Epoch,
    /// The number of the write, from 1.
    pub seq: Seq,
}

/// The record of the group before this one. All zero before the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prev {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its seq.
    pub seq: Seq,
    /// The checksum of its header, which covers that of its payload.
    pub sum: u32,
}

/// Where in a group's log a record is, and when it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The group.
    pub group: Group,
    /// The group's epoch.
    pub epoch: Epoch,
    /// The position in the group's log, from 1, without gaps.
    pub seq: Seq,
    /// What it continues.
    pub prev: Prev,
    /// Milliseconds of Unix time, as the writer was told. For people and for backups: nothing is decided by it.
    pub at_ms: u64,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// These effects, all or none.
    Effects {
        /// On which object.
        object: ObjectKey,
        /// By whom.
        owner: Owner,
        /// In this order.
        effects: Vec<Effect>,
    },
    /// The object is no more: all its spaces are cleared, and who listed it does not find it. A kind of its own, since
    /// effects say only what becomes of keys, and an object without keys is still an object. Its fencing goes on.
    Remove {
        /// Which object.
        object: ObjectKey,
        /// By whom.
        owner: Owner,
    },
    /// The group has a new leader, and with it this epoch.
    EpochStart,
    /// What the group's log has after `keep` was never committed and does not count, though it may be in a file.
    TruncateTail {
        /// The last record that counts.
        keep: Seq,
    },
    /// The group's log takes nothing more in this epoch.
    Seal,
}

const KIND_EFFECTS: u8 = 1;
const KIND_PAGES: u8 = 2; // Reserved for pages of SQLite: known by name, refused.
const KIND_EPOCH_START: u8 = 3;
const KIND_TRUNCATE_TAIL: u8 = 4;
const KIND_SEAL: u8 = 5;
const KIND_REMOVE: u8 = 6;

impl Body {
    fn kind(&self) -> u8 {
        match self {
            Self::Effects { .. } => KIND_EFFECTS,
            Self::Remove { .. } => KIND_REMOVE,
            Self::EpochStart => KIND_EPOCH_START,
            Self::TruncateTail { .. } => KIND_TRUNCATE_TAIL,
            Self::Seal => KIND_SEAL,
        }
    }

    /// The object that it is about, and by whom it was written, if it is about one.
    #[must_use]
    pub fn object(&self) -> Option<(ObjectKey, Owner)> {
        match self {
            Self::Effects { object, owner, .. } | Self::Remove { object, owner } => Some((*object, *owner)),
            Self::EpochStart | Self::TruncateTail { .. } | Self::Seal => None,
        }
    }

    /// The length of its payload.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        match self {
            Self::Effects { effects, .. } => effects_len(effects),
            Self::TruncateTail { .. } => 8,
            Self::Remove { .. } | Self::EpochStart | Self::Seal => 0,
        }
    }
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it is.
    pub place: Place,
    /// What it says.
    pub body: Body,
}

/// Why bytes are no record that this program takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// They end too early.
    #[error("a record needs {need} bytes, and there are {have}")]
    Short {
        /// How many it takes.
        need: usize,
        /// How many there are.
        have: usize,
    },
    /// No record starts here.
    #[error("no record starts here: its first two bytes are others")]
    Magic,
    /// The header was changed after it was written.
    #[error("the header of a record is damaged: its checksum differs")]
    Header,
    /// The payload was changed after it was written.
    #[error("the payload of a record is damaged: its checksum differs")]
    Payload {
        /// The object that the header names, if its kind has one.
        object: Option<ObjectKey>,
    },
    /// Written by a later program.
    #[error(
        "a record has version {found}; this program reads version {VERSION}: run the newer program again"
    )]
    Version {
        /// Its version.
        found: u8,
    },
    /// A kind that this program does not take.
    #[error("a record is of kind {found}, which this program does not take: run the newer program again")]
    Kind {
        /// Its kind.
        found: u8,
    },
    /// The checksums are right and the contents are not: a mistake of whoever wrote it.
    #[error("a record is whole and makes no sense: {what}; this is a bug of its writer, please report it")]
    Nonsense {
        /// What is wrong.
        what: &'static str,
    },
}

/// Appends the record to `out` and gives what the next record of the group says of this one. The effects have passed
/// [`check_effects`].
pub fn encode(place: &Place, body: &Body, out: &mut Vec<u8>) -> Prev {
    let start = out.len();
    out.reserve(HEADER_LEN + body.payload_len());
    out.resize(start + HEADER_LEN, 0);
    put_payload(body, out);
    let (header, payload) = out[start..].split_at_mut(HEADER_LEN);
    let payload_sum = crc32fast::hash(payload);
    header[..2].copy_from_slice(&MAGIC);
    header[2] = VERSION;
    header[3] = body.kind();
    header[4..8].copy_from_slice(&place.group.0.to_le_bytes());
    header[8..16].copy_from_slice(&place.epoch.0.to_le_bytes());
    header[16..24].copy_from_slice(&place.seq.0.to_le_bytes());
    header[24..32].copy_from_slice(&place.prev.epoch.0.to_le_bytes());
    header[32..40].copy_from_slice(&place.prev.seq.0.to_le_bytes());
    header[40..44].copy_from_slice(&place.prev.sum.to_le_bytes());
    header[44..48].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    if let Some((object, owner)) = body.object() {
        header[48..80].copy_from_slice(&object.to_bytes());
        header[80..88].copy_from_slice(&owner.epoch.0.to_le_bytes());
        header[88..96].copy_from_slice(&owner.seq.0.to_le_bytes());
    }
    header[96..104].copy_from_slice(&place.at_ms.to_le_bytes());
    header[PAYLOAD_SUM_AT..HEADER_SUM_AT].copy_from_slice(&payload_sum.to_le_bytes());
    let sum = crc32fast::hash(&header[..HEADER_SUM_AT]);
    header[HEADER_SUM_AT..].copy_from_slice(&sum.to_le_bytes());
    Prev { epoch: place.epoch, seq: place.seq, sum }
}

fn put_payload(body: &Body, out: &mut Vec<u8>) {
    match body {
        Body::Effects { effects, .. } => {
            out.extend_from_slice(&(effects.len() as u32).to_le_bytes());
            effects.iter().for_each(|effect| put_effect(effect, out));
        }
        Body::TruncateTail { keep } => out.extend_from_slice(&keep.0.to_le_bytes()),
        Body::Remove { .. } | Body::EpochStart | Body::Seal => {}
    }
}

const OP_PUT: u8 = 1;
const OP_DELETE: u8 = 2;
const OP_CLEAR: u8 = 3;

fn put_effect(effect: &Effect, out: &mut Vec<u8>) {
    let key_len = |key: &Bytes| (key.len() as u16).to_le_bytes();
    match effect {
        Effect::Put { space, key, value } => {
            out.extend_from_slice(&[OP_PUT, space.code()]);
            out.extend_from_slice(&key_len(key));
            out.extend_from_slice(key);
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
            out.extend_from_slice(value);
        }
        Effect::Delete { space, key } => {
            out.extend_from_slice(&[OP_DELETE, space.code()]);
            out.extend_from_slice(&key_len(key));
            out.extend_from_slice(key);
        }
        Effect::Clear { space } => out.extend_from_slice(&[OP_CLEAR, space.code()]),
    }
}

/// Bytes that are being read; nothing of it panics.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], RecordError> {
        let (head, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(RecordError::Nonsense { what: "its payload ends inside of an effect" })?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, RecordError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, RecordError> {
        self.array().map(u64::from_le_bytes)
    }

    fn key(&mut self) -> Result<Bytes, RecordError> {
        let len = u16::from_le_bytes(self.array()?);
        self.take(usize::from(len)).map(Bytes::copy_from_slice)
    }

    fn effect(&mut self) -> Result<Effect, RecordError> {
        let [op, space] = self.array()?;
        let space = Space::from_code(space).ok_or(RecordError::Nonsense { what: "an unknown space" })?;
        let effect = match op {
            OP_PUT => {
                let key = self.key()?;
                let len = self.u32()?;
                let value = self.take(len as usize).map(Bytes::copy_from_slice)?;
                Effect::Put { space, key, value }
            }
            OP_DELETE => Effect::Delete { space, key: self.key()? },
            OP_CLEAR => Effect::Clear { space },
            _ => return Err(RecordError::Nonsense { what: "an unknown effect" }),
        };
        let too_long = |_| RecordError::Nonsense { what: "an effect beyond its limits" };
        effect.check().map_err(too_long).map(|()| effect)
    }
}

/// A header whose checksum is right, and whose payload is yet to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    kind: u8,
    /// Where it is.
    pub place: Place,
    /// The object that it names, if its kind has one, and who wrote it.
    pub object: Option<(ObjectKey, Owner)>,
    /// The length of the payload that follows.
    pub payload_len: usize,
    payload_sum: u32,
    sum: u32,
}

impl Header {
    /// Reads a header. Magic first, then the checksum, then the version and the kind: see the head of this file.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let header = bytes
            .first_chunk::<HEADER_LEN>()
            .ok_or(RecordError::Short { need: HEADER_LEN, have: bytes.len() })?;
        if header[..2] != MAGIC {
            return Err(RecordError::Magic);
        }
        let (covered, sum) = header.split_at(HEADER_SUM_AT);
        let sum = Reader(sum).u32()?;
        if crc32fast::hash(covered) != sum {
            return Err(RecordError::Header);
        }
        if header[2] != VERSION {
            return Err(RecordError::Version { found: header[2] });
        }
        let kind = header[3];
        let names_object = match kind {
            KIND_PAGES => return Err(RecordError::Kind { found: kind }),
            KIND_EFFECTS | KIND_REMOVE => true,
            KIND_EPOCH_START | KIND_TRUNCATE_TAIL | KIND_SEAL => false,
            _ => return Err(RecordError::Kind { found: kind }),
        };
        let mut fields = Reader(&covered[4..]);
        let group = Group(fields.u32()?);
        let (epoch, seq) = (Epoch(fields.u64()?), Seq(fields.u64()?));
        let prev = Prev { epoch: Epoch(fields.u64()?), seq: Seq(fields.u64()?), sum: fields.u32()? };
        let payload_len = fields.u32()? as usize;
        if payload_len > PAYLOAD_MAX {
            return Err(RecordError::Nonsense { what: "its payload is longer than any may be" });
        }
        let object = fields.array::<{ ObjectKey::LEN }>()?;
        let owner = Owner { epoch: Epoch(fields.u64()?), seq: Seq(fields.u64()?) };
        let at_ms = fields.u64()?;
        let payload_sum = fields.u32()?;
        let object = match names_object {
            false => None,
            true => {
                let nameless = |_| RecordError::Nonsense { what: "it names no object" };
                Some((ObjectKey::from_bytes(&object).map_err(nameless)?, owner))
            }
        };
        let place = Place { group, epoch, seq, prev, at_ms };
        Ok(Self { kind, place, object, payload_len, payload_sum, sum })
    }

    /// What the next record of the group says of this one.
    #[must_use]
    pub fn as_prev(&self) -> Prev {
        Prev { epoch: self.place.epoch, seq: self.place.seq, sum: self.sum }
    }

    /// How many bytes the whole record has.
    #[must_use]
    pub fn record_len(&self) -> usize {
        HEADER_LEN + self.payload_len
    }

    /// Reads the payload that follows the header.
    pub fn open(&self, payload: &[u8]) -> Result<Record, RecordError> {
        let payload = payload
            .get(..self.payload_len)
            .ok_or(RecordError::Short { need: self.record_len(), have: HEADER_LEN + payload.len() })?;
        if crc32fast::hash(payload) != self.payload_sum {
            return Err(RecordError::Payload { object: self.object.map(|(object, _)| object) });
        }
        let mut payload = Reader(payload);
        let body = match (self.kind, self.object) {
            (KIND_EFFECTS, Some((object, owner))) => {
                Body::Effects { object, owner, effects: read_effects(&mut payload)? }
            }
            (KIND_REMOVE, Some((object, owner))) => Body::Remove { object, owner },
            (KIND_EPOCH_START, None) => Body::EpochStart,
            (KIND_TRUNCATE_TAIL, None) => Body::TruncateTail { keep: Seq(payload.u64()?) },
            (KIND_SEAL, None) => Body::Seal,
            (found, _) => return Err(RecordError::Kind { found }),
        };
        match payload.0.is_empty() {
            true => Ok(Record { place: self.place, body }),
            false => Err(RecordError::Nonsense { what: "there is more in its payload than it says" }),
        }
    }
}

fn read_effects(payload: &mut Reader<'_>) -> Result<Vec<Effect>, RecordError> {
    let count = payload.u32()? as usize;
    // An effect has two bytes at least: the count alone cannot make us allocate.
    let mut effects = Vec::with_capacity(count.min(payload.0.len() / 2));
    for _ in 0..count {
        effects.push(payload.effect()?);
    }
    Ok(effects)
}

/// Reads the record at the start of `bytes`, and says how many of them it takes.
pub fn decode(bytes: &[u8]) -> Result<(Record, usize), RecordError> {
    let header = Header::parse(bytes)?;
    let record = header.open(&bytes[HEADER_LEN..])?;
    Ok((record, header.record_len()))
}

/// The object that a damaged header named, if changing one single byte of it makes its checksum right again. It is for
/// telling whose record was lost: 28,000 tries leave a chance of one in 150,000 that it is wrong, too much to go on with
/// its contents.
#[must_use]
pub fn whose(bytes: &[u8]) -> Option<Header> {
    let damaged = bytes.first_chunk::<HEADER_LEN>()?;
    (0..HEADER_LEN).find_map(|at| {
        let mut header = *damaged;
        (0..=u8::MAX).find_map(|byte| {
            header[at] = byte;
            Header::parse(&header).ok()
        })
    })
}

/// What a fuzzer calls: any bytes as a record, and then with checksums that are right, which it would not guess. What can
/// be read is the same after it was written again.
#[doc(hidden)]
pub fn fuzz_logic(data: &[u8]) {
    check_again(data);
    let mut mended = data.to_vec();
    let Some((header, payload)) = mended.split_first_chunk_mut::<HEADER_LEN>() else { return };
    header[..2].copy_from_slice(&MAGIC);
    let len = (payload.len() as u32).to_le_bytes();
    header[44..48].copy_from_slice(&len);
    header[PAYLOAD_SUM_AT..HEADER_SUM_AT].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    let sum = crc32fast::hash(&header[..HEADER_SUM_AT]);
    header[HEADER_SUM_AT..].copy_from_slice(&sum.to_le_bytes());
    check_again(&mended);
}

fn check_again(data: &[u8]) {
    let Ok((record, len)) = decode(data) else { return };
    assert!(len <= data.len(), "a record has no more bytes than there are");
    let mut again = Vec::new();
    let _ = encode(&record.place, &record.body, &mut again);
    let (second, second_len) = decode(&again).expect("what was written can be read");
    assert_eq!((&record, again.len()), (&second, second_len));
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::object::{ENTROPY_LEN, ObjectId, Scope, Slot};

    fn object(n: u8) -> ObjectKey {
        ObjectKey { scope: Scope::new("z", "c"), id: ObjectId::random(Slot(1), [n; ENTROPY_LEN]) }
    }

    fn effect() -> impl Strategy<Value = Effect> {
        let space = (0..4u8).prop_map(|code| Space::from_code(code).unwrap());
        let bytes = |most| vec(any::<u8>(), 0..most).prop_map(Bytes::from);
        prop_oneof![
            (space.clone(), bytes(40), bytes(300)).prop_map(|(space, key, value)| match space {
                Space::Alarm => Effect::alarm(key, 77, &value),
                _ => Effect::Put { space, key, value },
            }),
            (space.clone(), bytes(40)).prop_map(|(space, key)| Effect::Delete { space, key }),
            space.prop_map(|space| Effect::Clear { space }),
        ]
    }

    fn body() -> impl Strategy<Value = Body> {
        let who = (any::<u8>(), any::<u64>(), any::<u64>())
            .prop_map(|(n, epoch, seq)| (object(n), Owner { epoch: Epoch(epoch), seq: Seq(seq) }));
        prop_oneof![
            (who.clone(), vec(effect(), 0..8)).prop_map(|((object, owner), effects)| Body::Effects {
                object,
                owner,
                effects
            }),
            who.prop_map(|(object, owner)| Body::Remove { object, owner }),
            Just(Body::EpochStart),
            any::<u64>().prop_map(|keep| Body::TruncateTail { keep: Seq(keep) }),
            Just(Body::Seal),
        ]
    }

    fn place(n: u64) -> Place {
        let prev = Prev { epoch: Epoch(n / 2), seq: Seq(n), sum: n as u32 };
        Place { group: Group(n as u32), epoch: Epoch(n), seq: Seq(n + 1), prev, at_ms: n }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(body in body(), n in any::<u64>().prop_map(|n| n / 2)) {
            let mut bytes = vec![9; 3];
            let prev = encode(&place(n), &body, &mut bytes);
            prop_assert_eq!(bytes.len(), 3 + HEADER_LEN + body.payload_len());
            prop_assert_eq!(Header::parse(&bytes[3..]).unwrap().as_prev(), prev);
            let (record, len) = decode(&bytes[3..]).unwrap();
            prop_assert_eq!(record, Record { place: place(n), body });
            prop_assert_eq!(len, bytes.len() - 3);
        }

        #[test]
        fn a_changed_byte_is_seen_and_the_object_told(
            body in body(), at in any::<prop::sample::Index>(), with in 1u8..,
        ) {
            let mut bytes = Vec::new();
            let _ = encode(&place(5), &body, &mut bytes);
            let at = at.index(bytes.len());
            bytes[at] ^= with;
            let object = body.object().map(|(object, _)| object);
            match decode(&bytes) {
                Err(RecordError::Payload { object: told }) => prop_assert_eq!(told, object),
                Err(RecordError::Header) => {
                    prop_assert_eq!(whose(&bytes).unwrap().object, body.object());
                }
                Err(RecordError::Magic) => prop_assert!(at < 2),
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..400)) {
            fuzz_logic(&bytes);
        }

        #[test]
        fn a_record_that_is_cut_off_is_short(body in body(), at in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            let _ = encode(&place(5), &body, &mut bytes);
            bytes.truncate(at.index(bytes.len()));
            let short = matches!(decode(&bytes), Err(RecordError::Short { .. }));
            prop_assert!(short);
        }
    }

    /// A header as a program of another version or with other kinds would write it.
    fn with_byte(at: usize, byte: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = encode(&place(5), &Body::Seal, &mut bytes);
        bytes[at] = byte;
        let sum = crc32fast::hash(&bytes[..HEADER_SUM_AT]);
        bytes[HEADER_SUM_AT..HEADER_LEN].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn other_versions_and_kinds_are_refused_by_name() {
        assert_eq!(decode(&with_byte(2, 2)), Err(RecordError::Version { found: 2 }));
        assert_eq!(decode(&with_byte(3, KIND_PAGES)), Err(RecordError::Kind { found: KIND_PAGES }));
        assert_eq!(decode(&with_byte(3, 7)), Err(RecordError::Kind { found: 7 }));
        assert_eq!(decode(&with_byte(3, 0)), Err(RecordError::Kind { found: 0 }));
    }

    #[test]
    fn effects_beyond_their_limits_are_refused_before_they_are_written() {
        let put = |key: usize, value: usize| Effect::Put {
            space: Space::User,
            key: vec![0; key].into(),
            value: vec![0; value].into(),
        };
        assert_eq!(check_effects(&[put(KEY_MAX, VALUE_MAX)]), Ok(()));
        assert_eq!(check_effects(&[put(KEY_MAX + 1, 0)]), Err(EffectError::Key { found: KEY_MAX + 1 }));
        assert_eq!(check_effects(&[put(0, VALUE_MAX + 1)]), Err(EffectError::Value { found: VALUE_MAX + 1 }));
        let five = [const { VALUE_MAX }; 5].map(|value| put(1, value));
        assert!(matches!(check_effects(&five), Err(EffectError::Batch { .. })));
        let early = Effect::Put { space: Space::Alarm, key: Bytes::new(), value: Bytes::from_static(b"7") };
        assert_eq!(check_effects(&[early]), Err(EffectError::Alarm { found: 1 }));
    }

    /// The fuzzer starts from these; they were written by another program than this one.
    #[test]
    fn the_fuzzers_seeds_are_what_their_names_say() {
        let read = |name: &str| {
            let path = format!("{}/../fuzz/seeds/record/{name}", env!("CARGO_MANIFEST_DIR"));
            let bytes = std::fs::read(path).unwrap();
            fuzz_logic(&bytes);
            decode(&bytes).map(|(record, _)| record.body)
        };
        assert!(matches!(read("effects"), Ok(Body::Effects { effects, .. }) if effects.len() == 4));
        assert!(matches!(read("remove"), Ok(Body::Remove { .. })));
        assert_eq!(read("epoch-start"), Ok(Body::EpochStart));
        assert_eq!(read("truncate-tail"), Ok(Body::TruncateTail { keep: Seq(3) }));
        assert_eq!(read("seal"), Ok(Body::Seal));
        assert_eq!(read("pages-reserved"), Err(RecordError::Kind { found: KIND_PAGES }));
        for name in ["count-beyond-payload", "value-beyond-payload", "alarm-without-due"] {
            assert!(matches!(read(name), Err(RecordError::Nonsense { .. })), "{name}");
        }
        assert_eq!(read("wrong-sum"), Err(RecordError::Header));
        assert!(matches!(read("cut-off"), Err(RecordError::Short { .. })));
    }

    /// These bytes are on disks: a change of them is a new version.
    #[test]
    fn version_1_stays_as_it_is() {
        let effects = vec![Effect::Put {
            space: Space::User,
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(b"value"),
        }];
        let owner = Owner { epoch: Epoch(3), seq: Seq(4) };
        let mut bytes = Vec::new();
        let _ = encode(&place(5), &Body::Effects { object: object(1), owner, effects }, &mut bytes);
        assert_eq!(bytes.len(), 130);
        assert_eq!(crc32fast::hash(&bytes), 4_178_886_649);
    }
}
