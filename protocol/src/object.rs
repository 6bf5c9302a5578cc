//! Who an object is: its id, the scope that keeps tenants apart, and the numbers that fence its writers.
//!
//! ```text
//!   byte 0             version (high four bits) and kind (low four bits)
//!   bytes 1 and 2      slot, big-endian: a table in the root maps it to a group
//!   bytes 3 to 15      104 bits of entropy (kind 0), or of a keyed hash of zone, class and name (kind 1)
//! ```
//!
//! An id alone never reaches an object: the key of everything stored is the [`ObjectKey`], whose [`Scope`] is made from
//! zone and class. So ids that are equal by chance, or that a tenant has copied from another one, never cross tenants.
//! Nothing here reads a clock or draws random numbers: entropy and keys are arguments.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::{digest, hmac};
use serde::{Deserialize, Serialize};

/// The version of ids that this program makes and reads. The high four bits of the first byte.
const VERSION: u8 = 1;

/// How many bytes of entropy, or of the keyed hash, an id has: 104 bits, of which a cluster can draw 2^40 with a chance
/// of less than one in a million that two are equal.
pub const ENTROPY_LEN: usize = 13;

/// The fencing number of an ownership: of an object, or of the leadership of a group. It only rises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// The number of a committed write: in an object's epoch, or in the log of a group. The first one is 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seq(pub u64);

/// The number of a group: objects that share a leader, followers and a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Group(pub u32);

/// The part of an id by which it is routed before anything is known of the object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot(pub u16);

impl Epoch {
    /// The epoch that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl Seq {
    /// The number that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// Where an id comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdKind {
    /// Drawn at random by whoever made the object.
    Random,
    /// Derived from the names of zone, class and object.
    Named,
}

/// The id of an object: 128 bits, in text 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectId([u8; 16]);

/// Why a text or bytes are no object id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// It has another length.
    #[error("an object id has 32 hexadecimal digits, this has {found} bytes")]
    Length {
        /// How many bytes the text has.
        found: usize,
    },
    /// A character that is no lower-case hexadecimal digit.
    #[error("an object id has the digits 0 to 9 and a to f only; there is something else at {at}")]
    Digit {
        /// The first such place, from 0.
        at: usize,
    },
    /// Made by a later program.
    #[error("object ids of version {found} are not known to this program; it reads version {VERSION}")]
    Version {
        /// The version of the id.
        found: u8,
    },
    /// A kind that no program has made in this version.
    #[error("object ids of kind {found} are not known to this program")]
    Kind {
        /// The kind of the id.
        found: u8,
    },
}

impl ObjectId {
    /// An id of its own for a new object, in a slot that its creator picks so that it lives nearby.
    #[must_use]
    pub fn random(slot: Slot, entropy: [u8; ENTROPY_LEN]) -> Self {
        Self::assemble(0, slot, &entropy)
    }

    /// The id of the object of this name: the same for everybody who has the key. Slot and hash come from one HMAC, so a
    /// tenant who does not know the key cannot choose names that meet in a slot or an id.
    #[must_use]
    pub fn named(key: &[u8; 32], zone: &str, class: &str, name: &str) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let mut context = hmac::Context::with_key(&key);
        context.update(b"berth object id 1");
        for part in [zone, class, name] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let tag = context.sign();
        let tag = tag.as_ref();
        let mut slot = [0; 2];
        slot.copy_from_slice(&tag[..2]);
        let mut hash = [0; ENTROPY_LEN];
        hash.copy_from_slice(&tag[2..2 + ENTROPY_LEN]);
        Self::assemble(1, Slot(u16::from_be_bytes(slot)), &hash)
    }

    fn assemble(kind: u8, slot: Slot, rest: &[u8; ENTROPY_LEN]) -> Self {
        let mut bytes = [0; 16];
        bytes[0] = VERSION << 4 | kind;
        bytes[1..3].copy_from_slice(&slot.0.to_be_bytes());
        bytes[3..].copy_from_slice(rest);
        Self(bytes)
    }

    /// Reads the 16 bytes of an id.
    pub fn from_bytes(bytes: [u8; 16]) -> Result<Self, IdError> {
        match (bytes[0] >> 4, bytes[0] & 0x0f) {
            (VERSION, 0 | 1) => Ok(Self(bytes)),
            (VERSION, found) => Err(IdError::Kind { found }),
            (found, _) => Err(IdError::Version { found }),
        }
    }

    /// The 16 bytes of the id.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Where the id comes from.
    #[must_use]
    pub fn kind(&self) -> IdKind {
        match self.0[0] & 0x0f {
            0 => IdKind::Random,
            _ => IdKind::Named,
        }
    }

    /// By what it is routed.
    #[must_use]
    pub fn slot(&self) -> Slot {
        Slot(u16::from_be_bytes([self.0[1], self.0[2]]))
    }
}

fn write_hex(bytes: &[u8], out: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}

impl fmt::Display for ObjectId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, out)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ObjectId({self})")
    }
}

impl FromStr for ObjectId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let text = text.as_bytes();
        if text.len() != 32 {
            return Err(IdError::Length { found: text.len() });
        }
        let mut bytes = [0; 16];
        for (at, digit) in text.iter().enumerate() {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return Err(IdError::Digit { at }),
            };
            bytes[at / 2] = bytes[at / 2] << 4 | value;
        }
        Self::from_bytes(bytes)
    }
}

impl TryFrom<String> for ObjectId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<ObjectId> for String {
    fn from(id: ObjectId) -> Self {
        id.to_string()
    }
}

/// A zone and a class, as the part of a storage key that no id can leave: the first 16 bytes of a SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope([u8; 16]);

impl Scope {
    /// The scope of a class of a zone. Each name has its length before it: ("ab", "c") is not ("a", "bc").
    #[must_use]
    pub fn new(zone: &str, class: &str) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"berth scope 1");
        for part in [zone, class] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&context.finish().as_ref()[..16]);
        Self(bytes)
    }

    /// A scope that was stored or sent.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its 16 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, out)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Scope({self})")
    }
}

/// What everything of an object is stored under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Zone and class.
    pub scope: Scope,
    /// The object.
    pub id: ObjectId,
}

impl ObjectKey {
    /// How many bytes a key has.
    pub const LEN: usize = 32;

    /// Scope, then id: keys of a class are neighbours.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..16].copy_from_slice(&self.scope.0);
        bytes[16..].copy_from_slice(&self.id.0);
        bytes
    }

    /// Reads what [`Self::to_bytes`] made.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Result<Self, IdError> {
        let (mut scope, mut id) = ([0; 16], [0; 16]);
        scope.copy_from_slice(&bytes[..16]);
        id.copy_from_slice(&bytes[16..]);
        Ok(Self { scope: Scope(scope), id: ObjectId::from_bytes(id)? })
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.scope, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    #[test]
    fn an_id_says_its_slot_and_kind_and_survives_its_text() {
        let random = ObjectId::random(Slot(0xabcd), [0x5a; ENTROPY_LEN]);
        assert_eq!(random.to_string(), "10abcd5a5a5a5a5a5a5a5a5a5a5a5a5a");
        assert_eq!((random.slot(), random.kind()), (Slot(0xabcd), IdKind::Random));
        assert_eq!(random.to_string().parse(), Ok(random));
        let named = ObjectId::named(&KEY, "zone", "class", "name");
        assert_eq!(named.kind(), IdKind::Named);
        assert_eq!(named.to_string().parse(), Ok(named));
    }

    #[test]
    fn each_name_and_each_key_counts_and_borders_between_names_do_too() {
        let id = ObjectId::named(&KEY, "ab", "c", "d");
        assert_eq!(id, ObjectId::named(&KEY, "ab", "c", "d"));
        assert_ne!(id, ObjectId::named(&[8; 32], "ab", "c", "d"));
        assert_ne!(id, ObjectId::named(&KEY, "a", "bc", "d"));
        assert_ne!(id, ObjectId::named(&KEY, "ab", "cd", ""));
        assert_ne!(Scope::new("ab", "c"), Scope::new("a", "bc"));
    }

    /// What is derived here is on disks and in URLs: a change of it loses objects.
    #[test]
    fn derived_ids_and_scopes_stay_as_they_are() {
        let id = ObjectId::named(&KEY, "example.com", "Room", "lobby");
        assert_eq!(id.to_string(), "11af84604df124178dacb755063774ea");
        assert_eq!(Scope::new("example.com", "Room").to_string(), "f5a20d8b51d05d5b8b91458788adcf21");
    }

    #[test]
    fn a_text_that_is_no_id_is_refused_with_its_reason() {
        let good = "10abcd5a5a5a5a5a5a5a5a5a5a5a5a5a";
        assert_eq!("10".parse::<ObjectId>(), Err(IdError::Length { found: 2 }));
        assert_eq!(good.to_uppercase().parse::<ObjectId>(), Err(IdError::Digit { at: 2 }));
        assert_eq!(good.replacen('1', "2", 1).parse::<ObjectId>(), Err(IdError::Version { found: 2 }));
        assert_eq!(good.replacen("10", "12", 1).parse::<ObjectId>(), Err(IdError::Kind { found: 2 }));
        assert_eq!(format!(" {}", &good[1..]).parse::<ObjectId>(), Err(IdError::Digit { at: 0 }));
    }

    #[test]
    fn a_key_survives_its_bytes() {
        let key = ObjectKey { scope: Scope::new("z", "c"), id: ObjectId::named(&KEY, "z", "c", "n") };
        assert_eq!(ObjectKey::from_bytes(&key.to_bytes()), Ok(key));
    }
}
