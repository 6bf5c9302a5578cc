//! Session tickets: what lets a client come back without a full handshake, on any core and after a restart.
//!
//! A ticket is the session's state, encrypted under a key of the [keyring](crate::keyring). The server keeps nothing:
//! whoever holds the ring can read the ticket. So a ticket made on one core, or by one server of a site, or before a
//! restart, is good everywhere else.
//!
//! ```text
//! | key version, 4 | nonce, 12 | ciphertext, as long as the state | tag, 16 |
//! ```
//!
//! AES-256-GCM with a random nonce; the key version is authenticated with it. The version is the same for all clients
//! of one rotation, so it links no two connections to one client; nonce and ciphertext are fresh each time.
//!
//! Random nonces bound how much one key may encrypt: after 2^32 tickets the chance that any two nonces met is 2^-33.
//! At two tickets a handshake and six hours a key, a site reaches that at 99,000 handshakes a second. A site that is
//! larger rotates more often.
//!
//! Invariants:
//! - The hot path takes no lock: the keys sit behind an [`ArcSwap`], and [`Ticketer::install`] swaps all of them.
//! - A ticket is only made with a key that is on disk already (the keyring saves before it hands out).
//! - Any bytes are refused or decrypted, without a panic: a ticket is the first thing that a stranger sends.
//!
//! One ticketer serves one idea of who the client is. Listeners that ask for client certificates must not share it
//! with those that do not, or a ticket of the second would pass at the first.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use rustls::server::ProducesTickets;

use crate::keyring::{DerivedKey, KeyVersion, Keyring, Purpose, Schedule};

const VERSION_LEN: usize = 4;
const HEAD_LEN: usize = VERSION_LEN + NONCE_LEN;
const TAG_LEN: usize = 16;

/// Largest ticket. The state is a secret of 48 bytes, a server name of at most 255, the protocol, and times: under
/// 400 bytes without client certificates. What is longer was not made here and is refused unread; a state that would
/// be longer gets no ticket, and the client makes a full handshake next time.
pub const TICKET_BYTES_MAX: usize = 1024;

/// Makes and reads session tickets. Shared by all cores.
pub struct Ticketer {
    keys: ArcSwap<TicketKeys>,
    lifetime_s: u32,
}

impl Ticketer {
    /// A ticketer with the keys that `ring` has at `now_s`. Tickets live for the lifetime of the schedule.
    pub fn new(ring: &Keyring, schedule: &Schedule, now_s: u64) -> Self {
        let lifetime_s =
            u32::try_from(schedule.lifetime_s()).expect("a schedule's lifetime is at most seven days");
        Self { keys: ArcSwap::from_pointee(TicketKeys::derive(ring, lifetime_s, now_s)), lifetime_s }
    }

    /// Takes over the keys of `ring`. Call it after every refresh of the keyring, changed or not: a key also retires
    /// by the passing of time alone.
    pub fn install(&self, ring: &Keyring, now_s: u64) {
        self.keys.store(Arc::new(TicketKeys::derive(ring, self.lifetime_s, now_s)));
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.load();
        let versions: Vec<_> = keys.oldest_first.iter().map(|key| key.version).collect();
        f.debug_struct("Ticketer").field("versions", &versions).finish_non_exhaustive()
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.lifetime_s
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        if HEAD_LEN + plain.len() + TAG_LEN > TICKET_BYTES_MAX {
            return None;
        }
        self.keys.load().current().seal(plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let version = KeyVersion::from_bytes(*ticket.first_chunk()?);
        self.keys.load().by_version(version)?.open(ticket)
    }
}

/// The ticket keys of one moment: all that are accepted, the one that encrypts last.
struct TicketKeys {
    oldest_first: Vec<TicketKey>,
}

impl TicketKeys {
    fn derive(ring: &Keyring, lifetime_s: u32, now_s: u64) -> Self {
        let accepted = ring.accepted(now_s, lifetime_s.into());
        let keys = accepted.map(|root| TicketKey::new(root.version(), &root.key(Purpose::SessionTickets)));
        Self { oldest_first: keys.collect() }
    }

    fn current(&self) -> &TicketKey {
        self.oldest_first.last().expect("the current root of a keyring is always accepted")
    }

    fn by_version(&self, version: KeyVersion) -> Option<&TicketKey> {
        self.oldest_first.iter().rev().find(|key| key.version == version)
    }
}

struct TicketKey {
    version: KeyVersion,
    aead: RandomizedNonceKey,
}

impl TicketKey {
    fn new(version: KeyVersion, key: &DerivedKey) -> Self {
        let aead = RandomizedNonceKey::new(&AES_256_GCM, key.as_bytes())
            .expect("AES-256-GCM takes every key of 32 bytes");
        Self { version, aead }
    }

    fn seal(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let version = self.version.to_bytes();
        let mut ticket = Vec::with_capacity(HEAD_LEN + plain.len() + TAG_LEN);
        ticket.extend_from_slice(&version);
        ticket.extend_from_slice(&[0; NONCE_LEN]);
        ticket.extend_from_slice(plain);
        let (nonce, tag) =
            self.aead.seal_in_place_separate_tag(Aad::from(version), &mut ticket[HEAD_LEN..]).ok()?;
        ticket[VERSION_LEN..HEAD_LEN].copy_from_slice(nonce.as_ref());
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn open(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (version, rest) = ticket.split_first_chunk::<VERSION_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let mut state = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain_len = self.aead.open_in_place(nonce, Aad::from(version), &mut state).ok()?.len();
        state.truncate(plain_len);
        Some(state)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::keyring::private_file::testing::TestFolder;
    use crate::keyring::{KeyringFile, RootSecret};

    const HOUR: u64 = 3600;
    const NOW: u64 = 1_700_000_000;

    fn schedule() -> Schedule {
        Schedule::new(Duration::from_hours(6), Duration::from_hours(12)).unwrap()
    }

    fn ring(seed: u8) -> Keyring {
        Keyring::new(NOW, RootSecret::new([seed; 32]))
    }

    fn ticketer(ring: &Keyring, now_s: u64) -> Ticketer {
        Ticketer::new(ring, &schedule(), now_s)
    }

    #[test]
    fn a_ticket_is_read_by_another_process_with_the_same_file() {
        let state = TestFolder::new();
        let before = KeyringFile::open(&state, NOW).unwrap().0;
        let ticket = ticketer(before.ring(), NOW).encrypt(b"session").unwrap();
        drop(before);
        let after = KeyringFile::open(&state, NOW + HOUR).unwrap().0;
        assert_eq!(ticketer(after.ring(), NOW + HOUR).decrypt(&ticket).unwrap(), b"session");
    }

    #[test]
    fn a_ticket_outlives_a_rotation_and_not_its_key() {
        let mut ring = ring(1);
        let ticketer = ticketer(&ring, NOW);
        let ticket = ticketer.encrypt(b"session").unwrap();

        let rotated = NOW + 6 * HOUR;
        ring.rotate(rotated, RootSecret::new([2; 32]));
        ticketer.install(&ring, rotated);
        assert_eq!(ticketer.decrypt(&ticket).unwrap(), b"session");
        assert_eq!(ticketer.encrypt(b"session").unwrap()[..4], ring.current().version().to_bytes());

        ticketer.install(&ring, rotated + 12 * HOUR - 1);
        assert!(ticketer.decrypt(&ticket).is_some());
        ticketer.install(&ring, rotated + 12 * HOUR);
        assert!(ticketer.decrypt(&ticket).is_none(), "retired by time alone, the ring still holds the root");
    }

    #[test]
    fn a_ticket_under_another_ring_or_purpose_is_refused() {
        let ours = ticketer(&ring(1), NOW);
        assert!(ours.decrypt(&ticketer(&ring(2), NOW).encrypt(b"session").unwrap()).is_none());
        let root = ring(1);
        for purpose in Purpose::ALL {
            let key = TicketKey::new(root.current().version(), &root.current().key(purpose));
            let accepted = ours.decrypt(&key.seal(b"session").unwrap()).is_some();
            assert_eq!(accepted, purpose == Purpose::SessionTickets, "{purpose:?}");
        }
    }

    #[test]
    fn a_ticket_that_claims_another_version_is_refused() {
        let mut ring = ring(1);
        ring.rotate(NOW, RootSecret::new([2; 32]));
        let ticketer = ticketer(&ring, NOW);
        let mut ticket = ticketer.encrypt(b"session").unwrap();
        assert_eq!(ticket[3], 2);
        ticket[3] = 1;
        assert!(ticketer.decrypt(&ticket).is_none());
    }

    #[test]
    fn states_that_are_too_long_get_no_ticket() {
        let ticketer = ticketer(&ring(1), NOW);
        let longest = TICKET_BYTES_MAX - HEAD_LEN - TAG_LEN;
        let ticket = ticketer.encrypt(&vec![7; longest]).unwrap();
        assert_eq!(ticket.len(), TICKET_BYTES_MAX);
        assert_eq!(ticketer.decrypt(&ticket).unwrap(), vec![7; longest]);
        assert!(ticketer.encrypt(&vec![7; longest + 1]).is_none());
        let genuine = ticketer.keys.load().current().seal(&vec![7; longest + 1]).unwrap();
        assert!(ticketer.decrypt(&genuine).is_none(), "refused for its length alone");
    }

    #[test]
    fn two_tickets_of_one_session_share_nothing_but_the_version() {
        let ticketer = ticketer(&ring(1), NOW);
        let (one, other) = (ticketer.encrypt(&[0; 64]).unwrap(), ticketer.encrypt(&[0; 64]).unwrap());
        assert_eq!(one[..4], other[..4]);
        assert_ne!(one[4..16], other[4..16]);
        assert_ne!(one[16..80], other[16..80]);
    }

    proptest! {
        #[test]
        fn whatever_is_sealed_comes_back(plain in prop::collection::vec(any::<u8>(), 0..600)) {
            let ticketer = ticketer(&ring(1), NOW);
            let ticket = ticketer.encrypt(&plain).unwrap();
            prop_assert_eq!(ticketer.decrypt(&ticket), Some(plain));
        }

        #[test]
        fn a_changed_ticket_is_refused(
            plain in prop::collection::vec(any::<u8>(), 0..100),
            at in any::<prop::sample::Index>(),
            flip in 1..=255_u8,
        ) {
            let ticketer = ticketer(&ring(1), NOW);
            let ticket = ticketer.encrypt(&plain).unwrap();
            let mut flipped = ticket.clone();
            flipped[at.index(ticket.len())] ^= flip;
            prop_assert_eq!(ticketer.decrypt(&flipped), None);
            prop_assert_eq!(ticketer.decrypt(&ticket[..at.index(ticket.len())]), None);
            let mut longer = ticket;
            longer.push(flip);
            prop_assert_eq!(ticketer.decrypt(&longer), None);
        }

        #[test]
        fn any_bytes_are_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            known_version in any::<bool>(),
        ) {
            let mut bytes = bytes;
            if known_version && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&[0, 0, 0, 1]);
            }
            prop_assert_eq!(ticketer(&ring(1), NOW).decrypt(&bytes), None);
        }
    }
}
