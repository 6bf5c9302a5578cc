//! What the tests of the store share: objects, seeds, a listener that remembers, and the model of one object.
#![allow(dead_code, unreachable_pub, reason = "each test takes a part of it")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_protocol::object::{ENTROPY_LEN, Epoch, Group, ObjectId, ObjectKey, Scope, Seq, Slot};
use berth_protocol::record::{Effect, Space};
use berth_store::disk::Disk;
use berth_store::{
    Config, Drive, Lead, Listener, ListenerId, OpenError, Settled, Store, StoreId, Submission,
};
use bytes::Bytes;

pub const GROUP: Group = Group(3);

/// A store that tests drive by hand, with bounds so small that segments and steps come often.
pub fn config() -> Config {
    Config {
        segment_bytes: 16 << 10,
        flush_bytes_max: 3000,
        cache_bytes: 1 << 20,
        drive: Drive::ByHand,
        apply_every: Duration::from_millis(20),
        ..Config::default()
    }
}

pub fn open(disk: &(impl Disk + Clone + 'static)) -> Result<Store, OpenError> {
    open_with(disk, config())
}

pub fn open_with(disk: &(impl Disk + Clone + 'static), config: Config) -> Result<Store, OpenError> {
    Store::open(Arc::new(disk.clone()), config, StoreId([9; 16]))
}

/// Opens the store and leads its group.
pub fn start(disk: &(impl Disk + Clone + 'static)) -> Store {
    let store = open(disk).unwrap();
    store.lead(GROUP, Lead::Next).unwrap();
    store
}

pub fn scope() -> Scope {
    Scope::new("example.com", "Room")
}

pub fn object(n: u8) -> ObjectKey {
    ObjectKey { scope: scope(), id: ObjectId::random(Slot(u16::from(n)), [n; ENTROPY_LEN]) }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn put(key: &str, value: &str) -> Effect {
    Effect::Put { space: Space::User, key: bytes(key), value: bytes(value) }
}

pub fn delete(key: &str) -> Effect {
    Effect::Delete { space: Space::User, key: bytes(key) }
}

pub fn clear() -> Effect {
    Effect::Clear { space: Space::User }
}

/// Remembers what it was told.
#[derive(Debug, Default)]
pub struct Told(pub Mutex<Vec<Settled>>);

impl Listener for Told {
    fn settled(&self, settled: &[Settled]) {
        self.0.lock().unwrap().extend_from_slice(settled);
    }
}

impl Told {
    pub fn take(&self) -> Vec<Settled> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

pub fn listen(store: &Store) -> (Arc<Told>, ListenerId) {
    let told = Arc::new(Told::default());
    let id = store.register(Arc::clone(&told) as Arc<dyn Listener>);
    (told, id)
}

pub fn submission(listener: ListenerId, n: u8, epoch: Epoch, seq: u64, effects: Vec<Effect>) -> Submission {
    Submission {
        listener,
        ticket: u64::from(n) << 48 | epoch.0 << 24 | seq,
        group: GROUP,
        key: object(n),
        owner: (epoch, Seq(seq)),
        at_ms: 1000 + seq,
        effects,
    }
}

/// Writes to an object as a new owner, one batch each, and waits for the outcomes.
pub fn write(store: &Store, n: u8, batches: Vec<Vec<Effect>>) -> Vec<Settled> {
    let (told, listener) = listen(store);
    let epoch = store.begin_epoch(object(n)).unwrap();
    for (at, effects) in batches.into_iter().enumerate() {
        store.submit(submission(listener, n, epoch, at as u64 + 1, effects)).unwrap();
    }
    while store.flush() {}
    store.end_epoch(object(n), epoch);
    store.unregister(listener);
    told.take()
}

pub type Model = BTreeMap<Bytes, Bytes>;

pub fn apply_to(model: &mut Model, effects: &[Effect]) {
    for effect in effects {
        match effect {
            Effect::Put { key, value, .. } => drop(model.insert(key.clone(), value.clone())),
            Effect::Delete { key, .. } => drop(model.remove(key)),
            Effect::Clear { .. } => model.clear(),
        }
    }
}

/// All that an object has in its user space.
pub fn contents(store: &Store, n: u8) -> Model {
    use std::ops::Bound::Unbounded;
    let limit = berth_store::Limit { entries: usize::MAX, bytes: usize::MAX };
    let all = (Unbounded, Unbounded);
    let page = store.scan(object(n), Space::User, all, berth_store::Direction::Forward, limit).unwrap();
    assert!(!page.more);
    page.entries.into_iter().collect()
}

/// SplitMix64.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % n.max(1)
    }
}

/// How many seeds a test runs: more where all is to be found out.
pub fn seeds(few: u64, many: u64) -> std::ops::Range<u64> {
    match std::env::var_os("BERTH_STORE_SEED").and_then(|seed| seed.to_str()?.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None if std::env::var_os("BERTH_TEST_SCALE").is_some_and(|scale| scale == "full") => 0..many,
        None => 0..few,
    }
}
