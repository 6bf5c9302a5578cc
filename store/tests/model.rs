//! Log, layers and engine together against maps of the standard library: whatever is submitted, flushed, applied or
//! reopened in between, reads give what the maps have.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test fail as it does")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use berth_protocol::object::Epoch;
use berth_protocol::record::{Effect, Space};
use berth_store::disk::FakeDisk;
use berth_store::{Alarm, Config, Direction, Drive, Lead, Limit, ObjectStatus, Store};
use bytes::Bytes;
use common::*;
use proptest::collection::vec;
use proptest::prelude::*;

const OBJECTS: u8 = 3;

#[derive(Debug, Clone)]
enum Step {
    Submit(u8, Vec<Effect>),
    Remove(u8),
    NewOwner(u8),
    Flush,
    Apply,
    Reopen,
    Scan { object: u8, from: Bound<u8>, until: Bound<u8>, direction: Direction, limit: Limit },
}

/// Keys of all kinds of order: short, long, with the greatest byte.
fn key() -> impl Strategy<Value = Bytes> {
    (0..20u8).prop_map(spelled)
}

fn spelled(n: u8) -> Bytes {
    match n % 4 {
        0 => Bytes::from(vec![n]),
        1 => Bytes::from(vec![n, 0]),
        2 => Bytes::from(vec![0xff; usize::from(n)]),
        _ => Bytes::from(vec![n; 40]),
    }
}

fn effect() -> impl Strategy<Value = Effect> {
    let user = Space::User;
    prop_oneof![
        6 => (key(), vec(any::<u8>(), 0..60)).prop_map(move |(key, value)| {
            Effect::Put { space: user, key, value: value.into() }
        }),
        2 => key().prop_map(move |key| Effect::Delete { space: user, key }),
        1 => Just(Effect::Clear { space: user }),
        2 => (key(), 0..50u64).prop_map(|(key, due)| Effect::alarm(key, due, b"")),
        1 => key().prop_map(|key| Effect::Delete { space: Space::Alarm, key }),
        1 => Just(Effect::Clear { space: Space::Alarm }),
    ]
}

fn bound() -> impl Strategy<Value = Bound<u8>> {
    prop_oneof![
        Just(Bound::Unbounded),
        (0..20u8).prop_map(Bound::Included),
        (0..20u8).prop_map(Bound::Excluded)
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let direction = prop_oneof![Just(Direction::Forward), Just(Direction::Backward)];
    let limit = (0..6usize, 0..200usize).prop_map(|(entries, bytes)| Limit { entries, bytes });
    prop_oneof![
        8 => (0..OBJECTS, vec(effect(), 0..6)).prop_map(|(n, effects)| Step::Submit(n, effects)),
        1 => (0..OBJECTS).prop_map(Step::Remove),
        1 => (0..OBJECTS).prop_map(Step::NewOwner),
        3 => Just(Step::Flush),
        2 => Just(Step::Apply),
        1 => Just(Step::Reopen),
        6 => (0..OBJECTS, bound(), bound(), direction, limit).prop_map(|(object, from, until, direction, limit)| {
            Step::Scan { object, from, until, direction, limit }
        }),
    ]
}

#[derive(Default)]
struct Object {
    user: Model,
    alarms: BTreeMap<Bytes, u64>,
    owner: (Epoch, u64),
    present: bool,
}

struct Run {
    disk: FakeDisk,
    store: Option<Store>,
    objects: Vec<Object>,
}

impl Run {
    fn new() -> Self {
        let disk = FakeDisk::new();
        let store = Some(start(&disk));
        Self { disk, store, objects: (0..OBJECTS).map(|_| Object::default()).collect() }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn own(&mut self, n: u8) {
        let epoch = self.store().begin_epoch(object(n)).unwrap();
        self.objects[usize::from(n)].owner = (epoch, 0);
    }

    fn submit(&mut self, n: u8, effects: Vec<Effect>) {
        let (_, listener) = listen(self.store());
        if self.objects[usize::from(n)].owner.0 == Epoch(0) {
            self.own(n);
        }
        let known = &mut self.objects[usize::from(n)];
        known.owner.1 += 1;
        known.present = true;
        for effect in &effects {
            match (effect.space(), effect) {
                (Space::User, effect) => apply_to(&mut known.user, std::slice::from_ref(effect)),
                (_, Effect::Put { key, value, .. }) => {
                    let due = u64::from_be_bytes(value[..8].try_into().unwrap());
                    known.alarms.insert(key.clone(), due);
                }
                (_, Effect::Delete { key, .. }) => drop(known.alarms.remove(key)),
                (_, Effect::Clear { .. }) => known.alarms.clear(),
            }
        }
        let (epoch, seq) = known.owner;
        self.store().submit(submission(listener, n, epoch, seq, effects)).unwrap();
    }

    fn remove(&mut self, n: u8) {
        let (_, listener) = listen(self.store());
        if self.objects[usize::from(n)].owner.0 == Epoch(0) {
            self.own(n);
        }
        let known = &mut self.objects[usize::from(n)];
        known.owner.1 += 1;
        (known.user, known.alarms, known.present) = (Model::new(), BTreeMap::new(), false);
        let (epoch, seq) = known.owner;
        self.store().remove(&submission(listener, n, epoch, seq, vec![])).unwrap();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Submit(n, effects) => self.submit(n, effects),
            Step::Remove(n) => self.remove(n),
            Step::NewOwner(n) => self.own(n),
            Step::Flush => while self.store().flush() {},
            Step::Apply => self.store().apply().unwrap(),
            Step::Reopen => {
                while self.store().flush() {}
                self.store = None;
                self.store = Some(start(&self.disk));
                self.objects.iter_mut().for_each(|object| object.owner = (Epoch(0), 0));
            }
            Step::Scan { object, from, until, direction, limit } => {
                self.scan(object, &from.map(spelled), &until.map(spelled), direction, limit);
            }
        }
    }

    fn scan(&self, n: u8, from: &Bound<Bytes>, until: &Bound<Bytes>, direction: Direction, limit: Limit) {
        let inside = |key: &Bytes| {
            let after = match from {
                Bound::Included(from) => key >= from,
                Bound::Excluded(from) => key > from,
                Bound::Unbounded => true,
            };
            after
                && match until {
                    Bound::Included(until) => key <= until,
                    Bound::Excluded(until) => key < until,
                    Bound::Unbounded => true,
                }
        };
        let model = &self.objects[usize::from(n)].user;
        let mut all: Vec<_> = model.iter().filter(|(key, _)| inside(key)).collect();
        if direction == Direction::Backward {
            all.reverse();
        }
        let (mut expected, mut size) = (Vec::new(), 0);
        for (key, value) in &all {
            if expected.len() == limit.entries || size >= limit.bytes {
                break;
            }
            size += key.len() + value.len();
            expected.push(((*key).clone(), (*value).clone()));
        }
        let range = (from.as_ref().map(|key| &key[..]), until.as_ref().map(|key| &key[..]));
        let page = self.store().scan(object(n), Space::User, range, direction, limit).unwrap();
        assert_eq!(page.more, expected.len() < all.len());
        assert_eq!(page.entries, expected);
    }

    /// What is read at once, and what is read of what is committed.
    fn check(&self) {
        for (n, known) in (0..).zip(&self.objects) {
            assert_eq!(contents(self.store(), n), known.user);
            let size = self.store().size(object(n)).unwrap();
            let bytes: usize = known.user.iter().map(|(key, value)| key.len() + value.len()).sum();
            assert_eq!((size.keys, size.bytes), (known.user.len() as u64, bytes as u64));
            for key in (0..20).map(spelled) {
                let value = self.store().get(object(n), Space::User, &key).unwrap();
                assert_eq!(value, known.user.get(&key).cloned());
            }
        }
    }

    fn check_committed(&self) {
        while self.store().flush() {}
        let mut alarms = BTreeSet::new();
        let mut listed = Vec::new();
        for (n, known) in (0..).zip(&self.objects) {
            let alarm = |(id, due): (&Bytes, &u64)| Alarm { due_ms: *due, object: object(n), id: id.clone() };
            alarms.extend(known.alarms.iter().map(alarm));
            if known.present {
                listed.push(object(n));
            }
        }
        for limit in [1, 3, 100] {
            let due = self.store().due_alarms(25, limit).unwrap();
            let expected: Vec<_> =
                alarms.iter().filter(|alarm| alarm.due_ms <= 25).take(limit).cloned().collect();
            assert_eq!(due, expected);
        }
        assert_eq!(self.store().next_alarm().unwrap(), alarms.first().cloned());
        let mut found = Vec::new();
        loop {
            let page = self.store().list(scope(), found.last().copied(), 1).unwrap();
            assert!(page.entries.iter().all(|(_, row)| row.status == ObjectStatus::Present));
            found.extend(page.entries.into_iter().map(|(key, _)| key));
            if !page.more {
                break;
            }
        }
        assert_eq!(found, listed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(match std::env::var_os("BERTH_TEST_SCALE") {
        Some(scale) if scale == "full" => 3000,
        _ => 150,
    }))]

    #[test]
    fn reads_give_what_a_map_has(steps in vec(step(), 1..50)) {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
            run.check();
        }
        run.check_committed();
        run.step(Step::Apply);
        run.check();
        run.check_committed();
        for (n, known) in (0..).zip(&run.objects) {
            if let Some(row) = run.store().row(object(n)).unwrap() {
                prop_assert_eq!(row.user_keys, known.user.len() as u64);
            }
        }
    }
}

/// The same with the store's own threads: what is read does not depend on when they run.
#[test]
fn reads_give_what_a_map_has_while_threads_run() {
    let disk = FakeDisk::new();
    let config =
        Config { drive: Drive::Threads, apply_every: std::time::Duration::from_millis(1), ..config() };
    let store = open_with(&disk, config).unwrap();
    store.lead(GROUP, Lead::Next).unwrap();
    let mut run =
        Run { disk, store: Some(store), objects: (0..OBJECTS).map(|_| Object::default()).collect() };
    let mut dice = Dice(1);
    for round in 0..2000u64 {
        let n = dice.below(u64::from(OBJECTS)) as u8;
        let key = spelled(dice.below(20) as u8);
        let effect = match dice.below(12) {
            0 => Effect::Clear { space: Space::User },
            1 | 2 => Effect::Delete { space: Space::User, key },
            _ => Effect::Put { space: Space::User, key, value: Bytes::from(round.to_be_bytes().to_vec()) },
        };
        run.submit(n, vec![effect]);
        if round % 7 == 0 {
            run.check();
        }
    }
    run.check();
    assert!(run.store().figures().steps > 3, "{:?}", run.store().figures());
}
