//! What all cores, restarts and servers of a site agree on: connection ids, tokens, stateless resets.
//!
//! All of it comes from the [keyring](crate::keyring). [`QuicKeys`] is shared by the cores and replaced inside, like
//! the session tickets; the QUIC library gets small views of it ([`Ids`], and the two key traits below).
//!
//! - *Connection ids* ([`berth_steer::cid`]): each root has a codepoint, its version modulo the number of codepoints.
//!   New ids are made with the current root; those of the [`CONFIGS_MAX`] newest accepted roots are read. An id is
//!   re-issued within `quic.connection_id_lifetime`, so that a connection follows a rotation.
//! - *Tokens* of Retry are sealed with the current root and opened with every accepted one.
//! - *Stateless resets* are derived with the root that made the id, so that the reset of an id is the same before and
//!   after a rotation, on every core and after a restart.
//!
//! Invariant: no two accepted roots share a codepoint, since a root's neighbours in the ring have neighbouring
//! versions and fewer configs are in use than there are codepoints.

use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{self, AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hmac, rand};
use berth_protocol::link::{self, IdConfig};
use berth_steer::aes::{AES_TABLES, AesKey};
use berth_steer::cid::{CID_LEN, Codepoint, Config, Configs, Destination, NONCE_LEN, Routable, Unroutable};
use quinn_proto::crypto::{AeadKey, CryptoError, HandshakeTokenKey, HmacKey};
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};

use super::owners::{NOBODY, Owners};
use crate::config::ConnectionIds;
use crate::keyring::{DerivedKey, Keyring, Purpose, Schedule};

/// Roots whose ids are read: one fewer than there are codepoints, so that a codepoint rests for one rotation before
/// it is used again.
const CONFIGS_MAX: usize = Codepoint::COUNT - 1;

/// The keys of QUIC, shared by all cores of the node.
pub struct QuicKeys {
    keys: ArcSwap<Keys>,
    layout: ConnectionIds,
    lifetime_s: u64,
}

/// The keys of one moment.
struct Keys {
    /// What makes ids now.
    current: Codepoint,
    configs: Configs,
    /// The same, as the agent is told.
    for_agent: Vec<IdConfig>,
    /// By codepoint, of the roots that are accepted.
    resets: [Option<hmac::Key>; Codepoint::COUNT],
    /// Oldest first; the last one seals.
    tokens: Vec<RandomizedNonceKey>,
}

impl QuicKeys {
    /// The keys that `ring` has at `now_s`.
    pub fn new(ring: &Keyring, schedule: &Schedule, layout: ConnectionIds, now_s: u64) -> Self {
        let lifetime_s = schedule.lifetime_s();
        Self {
            keys: ArcSwap::from_pointee(Keys::derive(ring, lifetime_s, layout, now_s)),
            layout,
            lifetime_s,
        }
    }

    /// Takes over the keys of `ring`. Call it after every refresh of the keyring.
    pub fn install(&self, ring: &Keyring, now_s: u64) {
        self.keys.store(Arc::new(Keys::derive(ring, self.lifetime_s, self.layout, now_s)));
    }

    /// Where the packet with this connection id belongs.
    pub fn destination(&self, id: &[u8]) -> Result<Destination, Unroutable> {
        self.read(id).map(|Routable { destination, .. }| destination)
    }

    /// What the control agent must know to read the ids.
    pub fn for_agent(&self) -> link::Keys {
        let configs = self.keys.load().for_agent.clone();
        link::Keys { configs }
    }

    /// Whether this id was made for no connection: it is that of a Retry, or of a refusal.
    pub(super) fn is_of_nobody(&self, id: &[u8]) -> bool {
        self.read(id).is_ok_and(|Routable { nonce, .. }| owner(&nonce) == NOBODY)
    }

    fn read(&self, id: &[u8]) -> Result<Routable, Unroutable> {
        self.keys.load().configs.decode(&AES_TABLES, id)
    }
}

impl Keys {
    fn derive(ring: &Keyring, lifetime_s: u64, layout: ConnectionIds, now_s: u64) -> Self {
        let accepted: Vec<_> = ring.accepted(now_s, lifetime_s).collect();
        let newest = &accepted[accepted.len().saturating_sub(CONFIGS_MAX)..];
        let mut keys = Self {
            current: codepoint(ring.current().version().get()),
            configs: Configs::new(),
            for_agent: Vec::new(),
            resets: [const { None }; Codepoint::COUNT],
            tokens: accepted.iter().map(|root| token_key(&root.key(Purpose::QuicTokens))).collect(),
        };
        for root in newest {
            let place = codepoint(root.version().get());
            let key = match layout {
                ConnectionIds::Plaintext => None,
                ConnectionIds::Encrypted => Some(id_key(&root.key(Purpose::ConnectionIds))),
            };
            let config = key.map_or(Config::Plaintext, |key| Config::Encrypted(AesKey::new(key)));
            keys.configs.set(place, config);
            keys.for_agent.push(IdConfig { codepoint: place.get(), key });
            let reset = root.key(Purpose::StatelessResets);
            keys.resets[usize::from(place.get())] = Some(hmac::Key::new(hmac::HMAC_SHA256, reset.as_bytes()));
        }
        keys
    }
}

/// The codepoint of a root's version.
fn codepoint(version: u32) -> Codepoint {
    Codepoint::new((version % Codepoint::COUNT as u32) as u8)
        .expect("a remainder is below the number of codepoints")
}

fn id_key(key: &DerivedKey) -> [u8; 16] {
    let (half, _) = key.as_bytes().split_first_chunk().expect("a derived key has 32 bytes");
    *half
}

fn token_key(key: &DerivedKey) -> RandomizedNonceKey {
    RandomizedNonceKey::new(&AES_256_GCM, key.as_bytes()).expect("a derived key has the cipher's length")
}

/// Makes the connection ids of one core, and knows its own.
pub(super) struct Ids {
    pub(super) keys: Arc<QuicKeys>,
    pub(super) here: Destination,
    pub(super) owners: Arc<Owners>,
    pub(super) lifetime: std::time::Duration,
}

/// Bytes of the nonce that tell whose id it is. The eight others are random: among a million ids of one connection two
/// are the same once in 33 million.
const OWNER_LEN: usize = 4;

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut nonce = [0; NONCE_LEN];
        nonce[..OWNER_LEN].copy_from_slice(&self.owners.making_for().to_be_bytes());
        rand::fill(&mut nonce[OWNER_LEN..])
            .expect("the random generator of the process works, or TLS would not");
        let keys = self.keys.keys.load();
        let id = keys.configs.encode(keys.current, self.here, nonce);
        ConnectionId::new(id.expect("the current root has a config").as_bytes())
    }

    /// Whether the library may answer an id that it does not know with a stateless reset. It may not when another
    /// core, server or generation made the id, or when it was made for a connection that lives here, which has retired
    /// it: the reset would kill that connection.
    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        let Routable { destination, nonce, .. } = self.keys.read(id).map_err(|_| InvalidCid)?;
        let is_dead = !self.owners.is_alive(owner(&nonce));
        if destination == self.here && is_dead { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        CID_LEN
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        Some(self.lifetime)
    }
}

/// Whose an id with this nonce is.
fn owner(nonce: &[u8; NONCE_LEN]) -> u32 {
    let [a, b, c, d, ..] = *nonce;
    u32::from_be_bytes([a, b, c, d])
}

/// Derives the reset token of an id.
pub(super) struct Resets(pub(super) Arc<QuicKeys>);

impl HmacKey for Resets {
    fn sign(&self, data: &[u8], signature: &mut [u8]) {
        let keys = self.0.keys.load();
        let place = data.first().map_or(0, |first| usize::from(first >> 5));
        // An id of a root that has retired meanwhile gets the current root's reset: a wrong one, which its client
        // does not believe.
        let key = keys.resets.get(place).and_then(Option::as_ref);
        if let Some(key) = key.or(keys.resets[usize::from(keys.current.get())].as_ref()) {
            signature.copy_from_slice(&hmac::sign(key, data).as_ref()[..signature.len()]);
        }
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let mut own = [0; 32];
        self.sign(data, &mut own);
        aws_lc_rs::constant_time::verify_slices_are_equal(&own, signature).map_err(|_| CryptoError)
    }
}

/// Seals and opens the tokens of Retry.
#[derive(Clone)]
pub(super) struct Tokens(pub(super) Arc<QuicKeys>);

impl HandshakeTokenKey for Tokens {
    /// The library would like a fresh key for each token, made from these random bytes. A fresh nonce under one key
    /// does the same, and lets the token name no key.
    fn aead_from_hkdf(&self, _random_bytes: &[u8]) -> Box<dyn AeadKey> {
        Box::new(self.clone())
    }
}

impl AeadKey for Tokens {
    fn seal(&self, data: &mut Vec<u8>, additional_data: &[u8]) -> Result<(), CryptoError> {
        let keys = self.0.keys.load();
        let key = keys.tokens.last().ok_or(CryptoError)?;
        let nonce =
            key.seal_in_place_append_tag(Aad::from(additional_data), data).map_err(|_| CryptoError)?;
        data.extend_from_slice(nonce.as_ref());
        Ok(())
    }

    fn open<'a>(&self, data: &'a mut [u8], additional_data: &[u8]) -> Result<&'a mut [u8], CryptoError> {
        let length = data.len().checked_sub(aead::NONCE_LEN).ok_or(CryptoError)?;
        let (sealed, nonce) = data.split_at_mut(length);
        let nonce: [u8; aead::NONCE_LEN] = (&*nonce).try_into().map_err(|_| CryptoError)?;
        let keys = self.0.keys.load();
        // A failed attempt spoils its bytes, so each key gets a copy. A token has some hundred.
        for key in keys.tokens.iter().rev() {
            let mut copy = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(nonce);
            if let Ok(plain) = key.open_in_place(nonce, Aad::from(additional_data), &mut copy) {
                let into = &mut sealed[..plain.len()];
                into.copy_from_slice(plain);
                return Ok(into);
            }
        }
        Err(CryptoError)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use berth_steer::cid::Generation;

    use super::*;
    use crate::keyring::RootSecret;

    const HOUR: u64 = 3600;

    fn schedule() -> Schedule {
        Schedule::new(Duration::from_secs(HOUR), Duration::from_secs(2 * HOUR)).unwrap()
    }

    fn here(core: u8) -> Destination {
        Destination { server: 7, core, generation: Generation::new(0).unwrap() }
    }

    fn ids(keys: &Arc<QuicKeys>, core: u8) -> Ids {
        let owners = Arc::default();
        Ids { keys: Arc::clone(keys), here: here(core), owners, lifetime: Duration::from_secs(600) }
    }

    fn fresh(layout: ConnectionIds) -> (Keyring, Arc<QuicKeys>) {
        let ring = Keyring::new(0, RootSecret::new([1; 32]));
        let keys = Arc::new(QuicKeys::new(&ring, &schedule(), layout, 0));
        (ring, keys)
    }

    #[test]
    fn an_id_names_its_core_and_no_other_core_takes_it_for_its_own() {
        for layout in [ConnectionIds::Encrypted, ConnectionIds::Plaintext] {
            let (_, keys) = fresh(layout);
            let id = ids(&keys, 3).generate_cid();
            assert_eq!(keys.destination(&id), Ok(here(3)));
            assert!(ids(&keys, 3).validate(&id).is_ok());
            assert!(ids(&keys, 4).validate(&id).is_err(), "no reset may be sent for it");
            assert!(ids(&keys, 3).validate(&ConnectionId::new(&[0; CID_LEN])).is_err());
        }
    }

    #[test]
    fn an_id_that_a_living_connection_retired_is_not_answered_with_a_reset() {
        let (_, keys) = fresh(ConnectionIds::Encrypted);
        let mut ids = ids(&keys, 3);
        let owners = Arc::clone(&ids.owners);
        let connection = owners.admit();
        let making = connection.make_ids();
        let id = ids.generate_cid();
        drop(making);
        assert!(ids.validate(&id).is_err(), "whether it is retired or not");
        drop(connection);
        assert!(ids.validate(&id).is_ok(), "now its client may be told");
    }

    #[test]
    fn the_id_of_a_retry_is_told_from_those_of_connections() {
        for layout in [ConnectionIds::Encrypted, ConnectionIds::Plaintext] {
            let (_, keys) = fresh(layout);
            let mut ids = ids(&keys, 3);
            let owners = Arc::clone(&ids.owners);
            let connection = owners.admit();
            let making = connection.make_ids();
            assert!(!keys.is_of_nobody(&ids.generate_cid()));
            drop(making);
            assert!(keys.is_of_nobody(&ids.generate_cid()));
            assert!(!keys.is_of_nobody(&[0; CID_LEN]) && !keys.is_of_nobody(b""), "and from all others");
        }
    }

    #[test]
    fn a_rotation_changes_new_ids_at_once_and_old_ones_are_read_until_their_root_retires() {
        let (mut ring, keys) = fresh(ConnectionIds::Encrypted);
        let old = ids(&keys, 1).generate_cid();
        ring.rotate(HOUR, RootSecret::new([2; 32]));
        keys.install(&ring, HOUR);
        let new = ids(&keys, 1).generate_cid();
        assert_ne!(old[0] >> 5, new[0] >> 5, "another codepoint");
        assert_eq!((keys.destination(&old), keys.destination(&new)), (Ok(here(1)), Ok(here(1))));
        keys.install(&ring, 4 * HOUR);
        assert_eq!(keys.destination(&old), Err(Unroutable::UnknownConfig));
        assert_eq!(keys.destination(&new), Ok(here(1)));
    }

    #[test]
    fn accepted_roots_never_share_a_codepoint() {
        let (mut ring, _) = fresh(ConnectionIds::Encrypted);
        let schedule = Schedule::new(Duration::from_secs(60), Duration::from_secs(600)).unwrap();
        let keys = Arc::new(QuicKeys::new(&ring, &schedule, ConnectionIds::Encrypted, 0));
        let mut made = Vec::new();
        for minute in 1..40u8 {
            made.push(ids(&keys, 2).generate_cid());
            ring.rotate(u64::from(minute) * 60, RootSecret::new([minute; 32]));
            keys.install(&ring, u64::from(minute) * 60);
            for id in made.iter().rev().take(CONFIGS_MAX - 1) {
                assert_eq!(keys.destination(id), Ok(here(2)), "minute {minute}");
            }
        }
    }

    #[test]
    fn the_reset_of_an_id_is_the_same_after_a_rotation_and_on_another_core() {
        let (mut ring, keys) = fresh(ConnectionIds::Encrypted);
        let id = ids(&keys, 1).generate_cid();
        let token = |keys: &Arc<QuicKeys>| {
            let mut token = [0; 32];
            Resets(Arc::clone(keys)).sign(&id, &mut token);
            token
        };
        let before = token(&keys);
        let restarted = Arc::new(QuicKeys::new(&ring, &schedule(), ConnectionIds::Encrypted, 0));
        assert_eq!(before, token(&restarted));
        ring.rotate(HOUR, RootSecret::new([2; 32]));
        keys.install(&ring, HOUR);
        assert_eq!(before, token(&keys));
        assert!(Resets(Arc::clone(&keys)).verify(&id, &before).is_ok());
        assert!(Resets(keys).verify(&id, &[0; 32]).is_err());
    }

    #[test]
    fn a_token_is_opened_after_a_rotation_and_by_nobody_without_the_ring() {
        let (mut ring, keys) = fresh(ConnectionIds::Encrypted);
        let mut token = b"address and time".to_vec();
        Tokens(Arc::clone(&keys)).seal(&mut token, b"more").unwrap();
        ring.rotate(HOUR, RootSecret::new([2; 32]));
        keys.install(&ring, HOUR);
        let opened = |keys: &Arc<QuicKeys>, more: &[u8]| {
            let mut copy = token.clone();
            Tokens(Arc::clone(keys)).open(&mut copy, more).map(|plain| plain.to_vec()).ok()
        };
        assert_eq!(opened(&keys, b"more").as_deref(), Some(b"address and time".as_slice()));
        assert_eq!(opened(&keys, b"less"), None);
        let stranger = Keyring::new(0, RootSecret::new([9; 32]));
        let stranger = Arc::new(QuicKeys::new(&stranger, &schedule(), ConnectionIds::Encrypted, 0));
        assert_eq!(opened(&stranger, b"more"), None);
    }

    #[test]
    fn any_bytes_are_no_token() {
        let (_, keys) = fresh(ConnectionIds::Encrypted);
        for length in 0..100 {
            assert!(Tokens(Arc::clone(&keys)).open(&mut vec![0x5a; length], b"").is_err());
        }
    }
}
