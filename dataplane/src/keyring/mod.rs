//! The keyring: one ring of secrets for everything that this node hands out and must recognise later.
//!
//! Session tickets are the first use. Connection ids, the steering hash, QUIC tokens and stateless resets are the
//! next. All have the same needs: the same key on every core, after a restart, and on each server of a site; a new
//! key every few hours; the old ones still good for a while. So there is one ring, one file and one rotation.
//!
//! The ring holds *roots*: random secrets with a version number. A root is never used itself. Each [`Purpose`] gets
//! its own key from it by HKDF-SHA256, so that what leaks through one use tells nothing about the others.
//!
//! Invariants:
//! - The ring is never empty. Its newest root is *current*, and the current root never retires.
//! - Versions only grow. A number is never given to two secrets, so that it can name a key on the wire.
//! - A root is superseded at the earliest creation time of any newer root, and retires one lifetime later. With the
//!   earliest, a clock that was wrong for a while cannot keep a root alive for years.
//!
//! This module is pure: time is an argument (Unix seconds) and so is each fresh secret. [`KeyringFile`] keeps a ring
//! on disk. Handing the ring to the other servers of a site is the control agent's work: it replaces the file, and
//! [`KeyringFile::refresh`] adopts it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use aws_lc_rs::{digest, hkdf, rand};
use thiserror::Error;
use zeroize::Zeroizing;

mod file;
pub(crate) mod private_file;

pub use file::{CreateKeyringError, KeyringFile, OpenKeyringError, Opened, Refresh, RefreshKeyringError};
pub use private_file::{ReadPrivateError, WritePrivateError, WriteStep};

/// Most roots that a ring holds. The default schedule (6 h rotation, 12 h lifetime) needs three. 32 leave room for
/// rotations by hand while the file stays under 4 KiB and a search by version stays a short scan.
/// At the bound, [`Keyring::rotate`] drops the oldest root early: its holders fall back to a full handshake.
pub const ROOTS_MAX: usize = 32;

/// Shortest time between two rotations. Each one writes the file and rebuilds the keys of every purpose;
/// more than one a minute protects nobody better.
pub const ROTATION_MIN: Duration = Duration::from_mins(1);

/// Longest lifetime: RFC 8446 (4.6.1) forbids tickets that live longer than seven days.
pub const LIFETIME_MAX: Duration = Duration::from_hours(7 * 24);

/// Largest accepted version. At one rotation a minute it is reached after four thousand years, so a larger one in a
/// file is damage. It leaves the increment in `rotate` far from overflow.
const VERSION_MAX: u32 = 1 << 31;

/// First line of the file. The number is the version of the format.
const HEADER: &str = "berth keyring 1";

/// Separates our keys from those of other programs. It stays when the file's format changes: another salt is another
/// set of keys for every purpose.
const SALT: &[u8] = b"berth keyring 1";

/// What a key is for. Each purpose has its own label, and so its own keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Encrypts TLS session tickets.
    SessionTickets,
    /// Encrypts server-chosen QUIC connection ids.
    ConnectionIds,
    /// Keys the hash that steers flows without a connection id of ours.
    SteeringHash,
    /// Encrypts QUIC address validation tokens.
    QuicTokens,
    /// Derives QUIC stateless reset tokens.
    StatelessResets,
}

impl Purpose {
    /// All purposes, for tables and tests.
    pub const ALL: [Self; 5] = [
        Self::SessionTickets,
        Self::ConnectionIds,
        Self::SteeringHash,
        Self::QuicTokens,
        Self::StatelessResets,
    ];

    /// The HKDF `info` of this purpose. A changed label invalidates everything that was handed out under it.
    fn label(self) -> &'static [u8] {
        match self {
            Self::SessionTickets => b"session tickets",
            Self::ConnectionIds => b"connection ids",
            Self::SteeringHash => b"steering hash",
            Self::QuicTokens => b"quic tokens",
            Self::StatelessResets => b"stateless resets",
        }
    }
}

/// Names one root of the ring, on the wire too. It tells how often the site has rotated and nothing about a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyVersion(u32);

impl KeyVersion {
    const FIRST: Self = Self(1);

    /// The four bytes that stand for this version in tickets and ids.
    pub fn to_bytes(self) -> [u8; 4] {
        self.0.to_be_bytes()
    }

    /// Reads the four bytes of [`KeyVersion::to_bytes`]. Any bytes are a version; most name no root.
    pub fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(u32::from_be_bytes(bytes))
    }

    /// The number, for logs and gauges.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The 32 random bytes of one root. Wiped on drop, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct RootSecret(Zeroizing<[u8; 32]>);

impl RootSecret {
    /// Wraps 32 bytes that nobody can guess.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Draws a secret from the system's random generator.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut bytes = Zeroizing::new([0; 32]);
        rand::fill(bytes.as_mut()).map_err(|_| NoRandomness)?;
        Ok(Self(bytes))
    }
}

impl fmt::Debug for RootSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootSecret(..)")
    }
}

/// The system gave no random bytes.
#[derive(Debug, Error)]
#[error("the system's random generator failed: check that getrandom(2) is allowed in this sandbox")]
pub struct NoRandomness;

/// A key for one purpose, derived from one root. Wiped on drop, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct DerivedKey(Zeroizing<[u8; 32]>);

impl DerivedKey {
    /// The key itself.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for DerivedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DerivedKey(..)")
    }
}

/// One versioned secret of the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    version: KeyVersion,
    created_s: u64,
    secret: RootSecret,
}

impl Root {
    /// The number that names this root.
    pub fn version(&self) -> KeyVersion {
        self.version
    }

    /// When it became current, in Unix seconds.
    pub fn created_s(&self) -> u64 {
        self.created_s
    }

    /// The key of this root for one purpose.
    pub fn key(&self, purpose: Purpose) -> DerivedKey {
        let mut key = Zeroizing::new([0; 32]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, SALT)
            .extract(self.secret.0.as_ref())
            .expand(&[purpose.label()], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(key.as_mut()))
            .expect("HKDF-SHA256 always yields one block of 32 bytes");
        DerivedKey(key)
    }
}

/// How often the ring rotates, and how long a superseded root is still accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    rotation_s: u64,
    lifetime_s: u64,
}

impl Schedule {
    /// Checks both times against their bounds. `lifetime` is the longest that any purpose needs.
    pub fn new(rotation: Duration, lifetime: Duration) -> Result<Self, ScheduleError> {
        if rotation < ROTATION_MIN {
            return Err(ScheduleError::RotationTooShort { rotation });
        }
        if lifetime > LIFETIME_MAX || lifetime < Duration::from_secs(1) {
            return Err(ScheduleError::LifetimeOutOfBounds { lifetime });
        }
        let schedule = Self { rotation_s: rotation.as_secs(), lifetime_s: lifetime.as_secs() };
        // At any moment: the current root, those superseded within the lifetime, and one that is about to go.
        let roots = schedule.lifetime_s / schedule.rotation_s + 2;
        if roots > ROOTS_MAX as u64 {
            return Err(ScheduleError::TooManyRoots { roots });
        }
        Ok(schedule)
    }

    /// How long a superseded root is still accepted, in seconds.
    pub fn lifetime_s(&self) -> u64 {
        self.lifetime_s
    }
}

/// Why a schedule is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ScheduleError {
    /// Rotation under [`ROTATION_MIN`].
    #[error("a rotation every {rotation:?} is too often: the shortest is {ROTATION_MIN:?}")]
    RotationTooShort {
        /// What was asked for.
        rotation: Duration,
    },
    /// Lifetime of zero or over [`LIFETIME_MAX`].
    #[error("a lifetime of {lifetime:?} is out of bounds: it must be between 1 s and {LIFETIME_MAX:?}")]
    LifetimeOutOfBounds {
        /// What was asked for.
        lifetime: Duration,
    },
    /// The two times together need more than [`ROOTS_MAX`] roots.
    #[error(
        "this rotation and lifetime keep {roots} keys at a time, at most {ROOTS_MAX} are possible: rotate less often"
    )]
    TooManyRoots {
        /// How many it would take.
        roots: u64,
    },
}

/// The ring itself: roots in ascending order of version, the last one current.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyring {
    roots: Vec<Root>,
}

impl Keyring {
    /// A ring with one root.
    pub fn new(now_s: u64, secret: RootSecret) -> Self {
        Self { roots: vec![Root { version: KeyVersion::FIRST, created_s: now_s, secret }] }
    }

    /// The root that new things are made with.
    pub fn current(&self) -> &Root {
        self.roots
            .last()
            .expect("a ring is never empty: `new` and `decode` put a root in, `retire` keeps the last")
    }

    /// The root with this number, if the ring still holds it.
    pub fn by_version(&self, version: KeyVersion) -> Option<&Root> {
        self.roots.iter().rev().find(|root| root.version == version)
    }

    /// The roots that a purpose with this lifetime still accepts, oldest first, the current one last.
    pub fn accepted(&self, now_s: u64, lifetime_s: u64) -> impl Iterator<Item = &Root> {
        let live = move |&(index, _): &(usize, &Root)| !self.is_retired(index, now_s, lifetime_s);
        self.roots.iter().enumerate().filter(live).map(|(_, root)| root)
    }

    /// Whether the current root has served its time.
    ///
    /// A creation time more than one rotation ahead can only come from a clock that was wrong. It is due as well:
    /// otherwise one start with a clock in the next century would end all rotations.
    pub fn is_due(&self, now_s: u64, schedule: &Schedule) -> bool {
        let created_s = self.current().created_s;
        now_s >= created_s.saturating_add(schedule.rotation_s)
            || now_s.saturating_add(schedule.rotation_s) < created_s
    }

    /// Makes `secret` the current root, superseding the one before it.
    pub fn rotate(&mut self, now_s: u64, secret: RootSecret) -> KeyVersion {
        let version = KeyVersion(self.current().version.0 + 1);
        if self.roots.len() == ROOTS_MAX {
            self.roots.remove(0);
        }
        self.roots.push(Root { version, created_s: now_s, secret });
        version
    }

    /// Erases the roots that have retired, and says how many.
    pub fn retire(&mut self, now_s: u64, schedule: &Schedule) -> usize {
        let before = self.roots.len();
        self.roots = self.accepted(now_s, schedule.lifetime_s).cloned().collect();
        before - self.roots.len()
    }

    /// The text that [`Keyring::decode`] reads: a header, a line for each root, and the SHA-256 of all that.
    pub fn encode(&self) -> Zeroizing<String> {
        // A line takes at most 4 + 10 + 1 + 20 + 1 + 64 + 1 bytes. Reserving it all keeps secrets out of outgrown buffers.
        let mut text = Zeroizing::new(String::with_capacity(128 * (self.roots.len() + 2)));
        text.push_str(HEADER);
        text.push('\n');
        for root in &self.roots {
            text.push_str("key ");
            text.push_str(&root.version.to_string());
            text.push(' ');
            text.push_str(&root.created_s.to_string());
            text.push(' ');
            push_hex(&mut text, root.secret.0.as_ref());
            text.push('\n');
        }
        let sum = digest::digest(&digest::SHA256, text.as_bytes());
        text.push_str("sum ");
        push_hex(&mut text, sum.as_ref());
        text.push('\n');
        text
    }

    /// Reads what [`Keyring::encode`] wrote, byte for byte: any other text is refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeKeyringError> {
        let text = str::from_utf8(bytes).map_err(|_| DecodeKeyringError::NotAKeyring)?;
        let body = checked_body(text)?;
        let mut lines = body.lines();
        match lines.next() {
            Some(HEADER) => {}
            Some(header) => return Err(DecodeKeyringError::UnknownFormat { header: header.to_owned() }),
            None => return Err(DecodeKeyringError::NotAKeyring),
        }
        let roots = lines
            .enumerate()
            .map(|(i, line)| decode_root(line).ok_or(DecodeKeyringError::BadLine { line: i + 2 }));
        let ring = Self { roots: roots.collect::<Result<_, _>>()? };
        let ascending = ring.roots.is_sorted_by(|a, b| a.version < b.version);
        if ring.roots.is_empty() || ring.roots.len() > ROOTS_MAX || !ascending {
            return Err(DecodeKeyringError::BadRoots);
        }
        // Numbers can be spelled in more than one way ("+7", "007"). Only ours is taken.
        if ring.encode().as_bytes() != bytes {
            return Err(DecodeKeyringError::BadRoots);
        }
        Ok(ring)
    }

    fn is_retired(&self, index: usize, now_s: u64, lifetime_s: u64) -> bool {
        let superseded_s = self.roots[index + 1..].iter().map(|newer| newer.created_s).min();
        superseded_s.is_some_and(|superseded_s| now_s >= superseded_s.saturating_add(lifetime_s))
    }
}

/// Why a text is not a keyring. The file's name and what to do stand in the error around it.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DecodeKeyringError {
    /// Not the text of a keyring at all.
    #[error("it does not look like a keyring")]
    NotAKeyring,
    /// The checksum line is missing: the end was cut off.
    #[error("its end is missing")]
    Truncated,
    /// The text is complete and differs from what was written.
    #[error("its checksum does not fit its contents")]
    BadChecksum,
    /// Intact, and written in a format that this version does not know.
    #[error("its format is {header:?}, this version of Berth knows only {HEADER:?}")]
    UnknownFormat {
        /// The first line of the file.
        header: String,
    },
    /// A line is not a root.
    #[error("line {line} is not a key")]
    BadLine {
        /// Counted from one.
        line: usize,
    },
    /// No root, too many, out of order, or oddly spelled.
    #[error("its keys are not in the order and form that Berth writes")]
    BadRoots,
}

/// The text before the checksum line, if the checksum fits. Every format ends with this line, so that damage is told
/// apart from a newer version.
fn checked_body(text: &str) -> Result<&str, DecodeKeyringError> {
    let sum_at = text.rfind("\nsum ").ok_or(match text.starts_with("berth keyring ") {
        true => DecodeKeyringError::Truncated,
        false => DecodeKeyringError::NotAKeyring,
    })? + 1;
    let (body, sum) = text.split_at(sum_at);
    let mut expected = String::with_capacity(72);
    expected.push_str("sum ");
    push_hex(&mut expected, digest::digest(&digest::SHA256, body.as_bytes()).as_ref());
    expected.push('\n');
    match sum {
        _ if sum == expected => Ok(body),
        _ if sum.len() < expected.len() => Err(DecodeKeyringError::Truncated),
        _ => Err(DecodeKeyringError::BadChecksum),
    }
}

fn decode_root(line: &str) -> Option<Root> {
    let mut words = line.strip_prefix("key ")?.split(' ');
    let version = u32::from_str(words.next()?).ok().filter(|version| (1..=VERSION_MAX).contains(version))?;
    let created_s = u64::from_str(words.next()?).ok()?;
    let secret = RootSecret(decode_hex(words.next()?)?);
    words.next().is_none().then_some(Root { version: KeyVersion(version), created_s, secret })
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).expect("four bits are a hexadecimal digit"));
        }
    }
}

fn decode_hex(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = Zeroizing::new([0; 32]);
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3600;

    fn secret(seed: u8) -> RootSecret {
        RootSecret::new([seed; 32])
    }

    fn schedule() -> Schedule {
        Schedule::new(Duration::from_hours(6), Duration::from_hours(12)).unwrap()
    }

    fn three_roots() -> Keyring {
        let mut ring = Keyring::new(1_000_000, secret(1));
        ring.rotate(1_000_000 + 6 * HOUR, secret(2));
        ring.rotate(1_000_000 + 12 * HOUR, secret(3));
        ring
    }

    #[test]
    fn a_root_is_accepted_for_one_lifetime_after_its_successor_came() {
        let ring = three_roots();
        let superseded = 1_000_000 + 6 * HOUR;
        let first = ring.roots[0].version();
        let accepts = |now| ring.accepted(now, 12 * HOUR).any(|root| root.version() == first);
        assert!(accepts(superseded + 12 * HOUR - 1));
        assert!(!accepts(superseded + 12 * HOUR));
    }

    #[test]
    fn the_current_root_never_retires() {
        let mut ring = three_roots();
        assert_eq!(ring.retire(u64::MAX, &schedule()), 2);
        assert_eq!(ring.current().version(), KeyVersion(3));
        assert_eq!(ring.retire(u64::MAX, &schedule()), 0);
    }

    #[test]
    fn rotation_is_due_after_its_time_and_not_before() {
        let ring = Keyring::new(1_000_000, secret(1));
        assert!(!ring.is_due(1_000_000, &schedule()));
        assert!(!ring.is_due(1_000_000 + 6 * HOUR - 1, &schedule()));
        assert!(ring.is_due(1_000_000 + 6 * HOUR, &schedule()));
        assert!(!ring.is_due(1_000_000 - 60, &schedule()), "a clock set back by a minute changes nothing");
    }

    #[test]
    fn a_clock_that_was_in_the_next_century_does_no_lasting_harm() {
        let mut ring = Keyring::new(1_000_000, secret(1));
        ring.rotate(4_000_000_000, secret(2));
        assert!(ring.is_due(1_000_100, &schedule()), "the root from the future must not stop rotation");
        ring.rotate(1_000_100, secret(3));
        ring.retire(1_000_100 + 12 * HOUR, &schedule());
        assert_eq!(ring.roots.len(), 1, "both older roots count as superseded when the clock came back");
    }

    #[test]
    fn a_full_ring_gives_up_its_oldest_root() {
        let mut ring = Keyring::new(0, secret(0));
        for n in 1..=ROOTS_MAX as u64 {
            ring.rotate(n, secret(n as u8));
        }
        assert_eq!(ring.roots.len(), ROOTS_MAX);
        assert!(ring.by_version(KeyVersion(1)).is_none());
        assert_eq!(ring.by_version(KeyVersion(2)).unwrap().created_s(), 1);
    }

    #[test]
    fn schedules_out_of_bounds_are_refused() {
        let hours = Duration::from_hours;
        assert!(matches!(
            Schedule::new(Duration::from_secs(59), hours(1)),
            Err(ScheduleError::RotationTooShort { .. })
        ));
        for lifetime in [Duration::ZERO, LIFETIME_MAX + Duration::from_secs(1)] {
            assert!(matches!(
                Schedule::new(hours(6), lifetime),
                Err(ScheduleError::LifetimeOutOfBounds { .. })
            ));
        }
        assert_eq!(Schedule::new(hours(1), hours(31)), Err(ScheduleError::TooManyRoots { roots: 33 }));
        assert!(Schedule::new(hours(1), hours(30)).is_ok());
    }

    #[test]
    fn every_purpose_and_every_root_has_its_own_key() {
        let ring = three_roots();
        let keys: Vec<_> =
            ring.roots.iter().flat_map(|root| Purpose::ALL.map(|purpose| root.key(purpose))).collect();
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(key));
        }
    }

    /// Other servers of the site, and later versions, must derive the same keys. The value was computed with a second
    /// implementation of RFC 5869.
    #[test]
    fn derivation_is_pinned() {
        let key = Keyring::new(0, secret(7)).current().key(Purpose::SessionTickets);
        let mut hex = String::new();
        push_hex(&mut hex, key.as_bytes());
        assert_eq!(hex, "cda31fdabc38340387bdead618ce5efd1dfcd2f4f62778f19b848c29e04cf677");
    }

    #[test]
    fn secrets_are_not_printed() {
        let ring = three_roots();
        let printed = format!("{ring:?} {:?}", ring.current().key(Purpose::QuicTokens));
        assert!(printed.contains("RootSecret(..)") && printed.contains("DerivedKey(..)"));
        assert!(!printed.contains("3, 3, 3"));
    }

    #[test]
    fn the_text_form_is_pinned_and_comes_back() {
        let ring = Keyring::new(1_700_000_000, secret(0xab));
        let text = ring.encode();
        let expected = format!("berth keyring 1\nkey 1 1700000000 {}\nsum ", "ab".repeat(32));
        assert!(text.starts_with(&expected), "{}", *text);
        assert_eq!(Keyring::decode(text.as_bytes()), Ok(ring));
    }

    #[test]
    fn a_text_cut_at_any_byte_is_refused() {
        let text = three_roots().encode();
        for end in 0..text.len() {
            let error = Keyring::decode(&text.as_bytes()[..end]).unwrap_err();
            let expected = if end < "berth keyring ".len() {
                DecodeKeyringError::NotAKeyring
            } else {
                DecodeKeyringError::Truncated
            };
            assert_eq!(error, expected, "cut at byte {end}");
        }
    }

    #[test]
    fn a_text_with_any_flipped_bit_is_refused() {
        let text = three_roots().encode();
        for bit in 0..text.len() * 8 {
            let mut bytes = text.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Keyring::decode(&bytes).is_err(), "bit {} of byte {}", bit % 8, bit / 8);
        }
    }

    fn sealed(body: &str) -> String {
        let mut text = format!("{body}sum ");
        push_hex(&mut text, digest::digest(&digest::SHA256, body.as_bytes()).as_ref());
        text + "\n"
    }

    #[test]
    fn a_newer_format_is_told_apart_from_damage() {
        let text = sealed("berth keyring 2\nsomething new\n");
        assert_eq!(
            Keyring::decode(text.as_bytes()),
            Err(DecodeKeyringError::UnknownFormat { header: "berth keyring 2".to_owned() })
        );
    }

    #[test]
    fn only_our_own_spelling_is_read() {
        let hex = "ab".repeat(32);
        for body in [
            "berth keyring 1\n".to_owned(),
            format!("berth keyring 1\nkey +1 0 {hex}\n"),
            format!("berth keyring 1\nkey 01 0 {hex}\n"),
            format!("berth keyring 1\nkey 1 0 {}\n", hex.to_uppercase()),
            format!("berth keyring 1\nkey 1 0 {hex} \n"),
            format!("berth keyring 1\nkey 0 0 {hex}\n"),
            format!("berth keyring 1\nkey 4294967295 0 {hex}\n"),
            format!("berth keyring 1\nkey 1 0 {}\n", &hex[2..]),
            format!("berth keyring 1\r\nkey 1 0 {hex}\n"),
            format!("berth keyring 1\nkey 2 0 {hex}\nkey 1 0 {hex}\n"),
            format!("berth keyring 1\nkey 1 0 {hex}\nkey 1 0 {hex}\n"),
            format!("berth keyring 1\nkey 1 0 {hex}\n\n"),
            "berth keyring 1\n".to_owned()
                + &(1..=33).map(|n| format!("key {n} 0 {hex}\n")).collect::<String>(),
        ] {
            assert!(Keyring::decode(sealed(&body).as_bytes()).is_err(), "{body}");
        }
        assert!(Keyring::decode(sealed(&format!("berth keyring 1\nkey 1 0 {hex}\n")).as_bytes()).is_ok());
    }

    proptest! {
        /// The promise of a schedule: what was made with the ring is good for a lifetime, and for no longer than a
        /// lifetime, a rotation and the time between two ticks.
        #[test]
        fn what_is_made_lives_for_a_lifetime_and_not_much_longer(
            rotation_s in 60..600_u64,
            lifetimes in 0.1..20.0_f64,
            tick_s in 1..60_u64,
            made_at in 0..2_000_u64,
            age in 0..15_000_u64,
        ) {
            let lifetime_s = ((rotation_s as f64 * lifetimes) as u64).max(1);
            let schedule = Schedule::new(Duration::from_secs(rotation_s), Duration::from_secs(lifetime_s)).unwrap();
            let mut ring = Keyring::new(0, secret(0));
            let mut made_with = ring.current().version();
            let end = made_at + age;
            for now in (0..=end).step_by(tick_s as usize) {
                if ring.is_due(now, &schedule) {
                    ring.rotate(now, secret(0));
                }
                ring.retire(now, &schedule);
                if now <= made_at {
                    made_with = ring.current().version();
                }
            }
            let accepted = ring.accepted(end, lifetime_s).any(|root| root.version() == made_with);
            if age < lifetime_s {
                prop_assert!(accepted);
            }
            if age > lifetime_s + rotation_s + tick_s {
                prop_assert!(!accepted);
            }
            if age > lifetime_s + rotation_s + 2 * tick_s {
                prop_assert!(ring.by_version(made_with).is_none(), "erased, not only refused");
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Keyring::decode(&bytes).is_err());
        }

        #[test]
        fn any_ring_comes_back(created in prop::collection::vec(any::<u64>(), 1..ROOTS_MAX)) {
            let mut ring = Keyring::new(created[0], secret(0));
            for (n, created_s) in created[1..].iter().enumerate() {
                ring.rotate(*created_s, secret(n as u8));
            }
            prop_assert_eq!(Keyring::decode(ring.encode().as_bytes()), Ok(ring));
        }
    }
}
