//! The power goes off at any call to the disk, while objects are written, while the engine is brought forward, while the
//! store is opened again. What was acknowledged is there, whole, once, in its order; nothing else is there by half.
//!
//! `BERTH_STORE_SEED=n` runs one seed; `BERTH_TEST_SCALE=full` ten thousand.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test fail as it does")]

mod common;

use std::collections::BTreeMap;

use berth_protocol::object::{Epoch, Seq};
use berth_protocol::record::{Effect, Owner};
use berth_store::disk::FakeDisk;
use berth_store::{CommitError, Lead, ObjectStatus, Refused, Store};
use common::*;

const OBJECTS: u8 = 4;

/// A batch that was submitted.
struct Sent {
    owner: Owner,
    effects: Vec<Effect>,
    /// The flush that it was in, once its fate is known to be unknown.
    flush: Option<u64>,
    work: Work,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Write,
    Remove,
}

/// What the test knows of an object.
#[derive(Default)]
struct Known {
    /// All that was acknowledged, in order.
    durable: Model,
    present: bool,
    owner: Owner,
    /// What is on its way, or whose fate is unknown: of one flush a prefix may turn out to be there.
    open: Vec<Sent>,
}

/// A run of one seed.
struct Run {
    disk: FakeDisk,
    dice: Dice,
    objects: BTreeMap<u8, Known>,
    /// Whose fate is unknown until the next flush that succeeds: then they are not there.
    unknown: Vec<(u8, Owner)>,
    cuts: u64,
    flushes: u64,
    acknowledged: u64,
    failed: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let objects = (0..OBJECTS).map(|n| (n, Known::default())).collect();
        Self {
            disk: FakeDisk::new(),
            dice: Dice(seed),
            objects,
            unknown: Vec::new(),
            cuts: 0,
            flushes: 0,
            acknowledged: 0,
            failed: 0,
        }
    }

    fn effects(&mut self) -> Vec<Effect> {
        (0..self.dice.below(4))
            .map(|_| {
                let key = format!("k{}", self.dice.below(12));
                match self.dice.below(10) {
                    0 => clear(),
                    1 | 2 => delete(&key),
                    _ => put(&key, &"v".repeat(self.dice.below(700) as usize)),
                }
            })
            .collect()
    }

    /// Works until the disk is gone, or for so many rounds.
    fn work(&mut self, store: &Store) {
        let (told, listener) = listen(store);
        let mut owners: BTreeMap<u8, (Epoch, u64)> = BTreeMap::new();
        for _ in 0..self.dice.below(30) {
            for _ in 0..self.dice.below(6) {
                let n = self.dice.below(u64::from(OBJECTS)) as u8;
                let fresh = !owners.contains_key(&n) || self.dice.below(12) == 0;
                if fresh {
                    let Ok(epoch) = store.begin_epoch(object(n)) else { continue };
                    owners.insert(n, (epoch, 0));
                }
                let Some((epoch, seq)) = owners.get(&n).copied() else { continue };
                let work = if self.dice.below(15) == 0 { Work::Remove } else { Work::Write };
                let effects = if work == Work::Remove { vec![clear()] } else { self.effects() };
                let submission = submission(listener, n, epoch, seq + 1, effects.clone());
                let taken = match work {
                    Work::Write => store.submit(submission),
                    Work::Remove => store.remove(&submission),
                };
                match taken {
                    Ok(()) => {
                        owners.insert(n, (epoch, seq + 1));
                        let owner = Owner { epoch, seq: Seq(seq + 1) };
                        self.objects.get_mut(&n).unwrap().open.push(Sent {
                            owner,
                            effects,
                            flush: None,
                            work,
                        });
                    }
                    Err(Refused::Behind | Refused::NotLed { .. } | Refused::Engine | Refused::Busy) => {
                        owners.remove(&n);
                    }
                    Err(refused) => panic!("{refused}"),
                }
            }
            self.trouble();
            store.flush();
            self.hear(&told.take());
            if self.dice.below(6) == 0 {
                let _ = store.apply();
            }
        }
    }

    /// Now and then a sync fails, or the disk is full for a while.
    fn trouble(&mut self) {
        let (sync, full) = (self.dice.below(15) == 0, self.dice.below(15) == 0);
        let write = self.dice.below(15) == 0;
        let (count, seed) = (1 + self.dice.below(3) as u32, self.dice.below(1000));
        self.disk.faults(|faults| {
            (faults.failing_syncs, faults.seed) = (if sync { count } else { 0 }, seed);
            faults.capacity = full.then_some(0);
            faults.failing_writes = u32::from(write);
        });
    }

    fn hear(&mut self, settled: &[berth_store::Settled]) {
        self.flushes += 1;
        if settled.iter().any(|settled| settled.outcome.is_ok()) {
            for (n, owner) in self.unknown.drain(..) {
                self.objects.get_mut(&n).unwrap().open.retain(|sent| sent.owner != owner);
            }
        }
        for settled in settled {
            let n = (settled.ticket >> 48) as u8;
            let known = self.objects.get_mut(&n).unwrap();
            let owner = Owner {
                epoch: Epoch(settled.ticket >> 24 & 0xff_ffff),
                seq: Seq(settled.ticket & 0xff_ffff),
            };
            let at = known.open.iter().position(|sent| sent.owner == owner);
            match settled.outcome {
                Ok(_) => {
                    assert_eq!(at, Some(0), "batches of an object settle in their order");
                    let sent = known.open.remove(0);
                    apply_to(&mut known.durable, &sent.effects);
                    known.owner = sent.owner;
                    known.present = sent.work == Work::Write;
                    self.acknowledged += 1;
                }
                // The disk is off, and this may be there. Or it was never tried, and is told to be lost: then it must not.
                Err(CommitError::Unknown) => {
                    known.open[at.unwrap()].flush = Some(self.flushes);
                    self.unknown.push((n, owner));
                    self.failed += 1;
                }
                Err(_) => {
                    drop(at.map(|at| known.open.remove(at)));
                    self.failed += 1;
                }
            }
        }
    }

    /// The power comes back; recovery may be cut as well.
    fn reopen(&mut self) -> Result<Store, String> {
        loop {
            let seed = self.dice.below(u64::MAX);
            // Sometimes it is only the process that dies: then what was read is not durable yet.
            match self.dice.below(3) {
                0 => self.disk.kill(),
                _ => self.disk.power_cut(seed),
            }
            self.cuts += 1;
            if self.dice.below(3) == 0 {
                let calls = self.dice.below(60);
                self.disk.faults(|faults| faults.calls_left = Some(calls));
                let opened = open(&self.disk);
                let off = self.disk.faults_now().calls_left == Some(0);
                match opened {
                    Ok(_) | Err(_) if off => continue,
                    Err(error) => return Err(format!("it does not open: {error:?}")),
                    Ok(store) => drop(store),
                }
                continue;
            }
            return open(&self.disk).map_err(|error| format!("it does not open: {error:?}"));
        }
    }

    /// What is there has to be what was acknowledged, and then a prefix of what was open.
    fn check(&mut self, store: &Store) -> Result<(), String> {
        if !store.damage().is_empty() || !store.damaged().is_empty() {
            return Err(format!("damage where there is none: {:?}", store.damage()));
        }
        for (n, known) in &mut self.objects {
            let row = store.row(object(*n)).map_err(|error| error.to_string())?;
            let owner = row.map(|row| row.owner).unwrap_or_default();
            let found = contents(store, *n);
            let mut expected = known.durable.clone();
            let mut last = known.owner;
            // Each flush after one that failed cuts that one off: what is there is of one flush.
            let open = std::mem::take(&mut known.open);
            if let Some(flush) = open.iter().find(|sent| sent.owner == owner).and_then(|sent| sent.flush) {
                for sent in open.iter().filter(|sent| sent.flush == Some(flush) && sent.owner <= owner) {
                    apply_to(&mut expected, &sent.effects);
                    last = sent.owner;
                    known.present = sent.work == Work::Write;
                }
            }
            if last != owner {
                return Err(format!("object {n} is at {owner:?}, and {:?} was acknowledged", known.owner));
            }
            if found != expected {
                return Err(format!("object {n} at {owner:?} has other contents"));
            }
            let size = store.size(object(*n)).map_err(|error| error.to_string())?;
            let bytes: usize = found.iter().map(|(key, value)| key.len() + value.len()).sum();
            if (size.keys, size.bytes) != (found.len() as u64, bytes as u64) {
                return Err(format!("object {n} counts {size:?}"));
            }
            if known.present != row.is_some_and(|row| row.status == ObjectStatus::Present) {
                return Err(format!("object {n} is present or removed, and it should not be"));
            }
            (known.durable, known.owner) = (found, owner);
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), String> {
        let mut store = open(&self.disk).map_err(|error| error.to_string())?;
        for _ in 0..4 {
            if store.lead(GROUP, Lead::Next).is_ok() {
                let calls = self.dice.below(400);
                self.disk.faults(|faults| faults.calls_left = Some(calls));
                self.work(&store);
            }
            drop(store);
            self.unknown.clear();
            store = self.reopen()?;
            self.check(&store)?;
        }
        Ok(())
    }
}

#[test]
fn what_was_acknowledged_survives_power_cuts() {
    let (mut acknowledged, mut cuts, mut failed) = (0, 0, 0);
    for seed in seeds(300, 10_000) {
        let mut run = Run::new(seed);
        if let Err(what) = run.run() {
            panic!("BERTH_STORE_SEED={seed}: {what}");
        }
        acknowledged += run.acknowledged;
        cuts += run.cuts;
        failed += run.failed;
    }
    assert!(
        acknowledged > cuts && failed > cuts / 3,
        "{acknowledged} writes, {failed} failures, {cuts} cuts"
    );
}

/// The checker is worth something: with syncs that do nothing it finds writes that are lost.
#[test]
fn without_syncs_acknowledged_writes_are_lost_and_that_is_seen() {
    let lost = (0..40).filter(|seed| {
        let mut run = Run::new(*seed);
        run.disk.faults(|faults| faults.forget_sync = true);
        run.run().is_err()
    });
    assert!(lost.count() > 20);
}
