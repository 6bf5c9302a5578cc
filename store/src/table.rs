//! The objects that somebody is working on: who may write next, what is on its way, and what is not in the engine yet.
//!
//! Fencing is decided here, under the lock of the object's shard, before a batch is queued:
//! - A batch of an older epoch than the last one, or than the last one that [`Live::begin`] gave, is refused.
//! - Within an epoch numbers have no gaps: the next one is the last one plus 1; a new epoch starts with 1.
//! - When a batch fails, everything of its object that stands behind it fails with it, and so does every epoch that was
//!   given until then: its owner may have read what is not there any more. The next epoch goes on from what is durable.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_protocol::object::{Epoch, Group, ObjectKey, Seq};
use berth_protocol::record::{Body, Owner, Space};

use crate::engine::{EngineError, View};
use crate::layer::{Known, Layer, Layers, known_in};
use crate::read::Size;

/// How many locks the objects share: so many that cores seldom meet, and few enough to walk over.
const SHARDS: usize = 64;

/// Up to so many effects of a batch are walked through by each read: cheaper than an index that is read once.
const WALKED_MAX: usize = 16;

/// A write of one object, from its submission until it is in a layer.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) body: Body,
    pub(crate) group: Group,
    pub(crate) at_ms: u64,
    pub(crate) weight: usize,
    /// It stands behind one that failed.
    dead: AtomicBool,
    /// What a large batch does to each key, so that the next turn's reads do not walk through all of it.
    index: Option<Layer>,
}

impl Batch {
    pub(crate) fn new(body: Body, group: Group, at_ms: u64) -> Self {
        let weight = crate::layer::weight(&body);
        let large = matches!(&body, Body::Effects { effects, .. } if effects.len() > WALKED_MAX);
        let index = large.then(|| {
            let mut layer = Layer::new(group, at_ms);
            layer.apply(&body, at_ms);
            layer
        });
        Self { body, group, at_ms, weight, dead: AtomicBool::new(false), index }
    }

    /// What the batch knows of a key.
    pub(crate) fn known(&self, space: Space, key: &[u8]) -> Option<Known> {
        match &self.index {
            Some(index) => index.get(space, key),
            None => known_in(&self.body, space, key),
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }
}

/// Why a batch may not follow what its object has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fence {
    Fenced { newest: Epoch },
    OutOfOrder { last: Owner },
    Behind,
    Damaged,
}

/// An object with an owner, or with batches on their way.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// The last batch, submitted or committed.
    last: Owner,
    pub(crate) pending: VecDeque<Arc<Batch>>,
    /// The last epoch that was given to an owner who has not ended it.
    granted: Option<Epoch>,
    /// Up to this epoch nobody can go on.
    failed: Option<Epoch>,
    pub(crate) damaged: bool,
    /// Its size with all that was submitted, once somebody has asked.
    pub(crate) size: Option<Size>,
}

impl Live {
    /// Gives a new epoch to a new owner. It is durable with its first batch, and that is enough: whoever holds an epoch
    /// without a batch lives in this process, and so does this table.
    pub(crate) fn begin(&mut self) -> Epoch {
        let epoch = self.newest().next();
        self.granted = Some(epoch);
        epoch
    }

    fn newest(&self) -> Epoch {
        let given = self.granted.unwrap_or_default();
        self.last.epoch.max(given).max(self.failed.unwrap_or_default())
    }

    pub(crate) fn end(&mut self, epoch: Epoch) {
        if self.granted == Some(epoch) {
            self.granted = None;
        }
        if self.failed.is_some_and(|failed| failed <= epoch) {
            self.failed = None;
        }
    }

    pub(crate) fn check(&self, owner: Owner, body: &Body) -> Result<(), Fence> {
        let newest = self.last.epoch.max(self.granted.unwrap_or_default());
        if owner.epoch < newest {
            return Err(Fence::Fenced { newest });
        }
        if self.failed.is_some_and(|failed| owner.epoch <= failed) {
            return Err(Fence::Behind);
        }
        if !follows(self.last, owner) {
            return Err(Fence::OutOfOrder { last: self.last });
        }
        match body {
            Body::Remove { .. } => Ok(()),
            _ if self.damaged => Err(Fence::Damaged),
            _ => Ok(()),
        }
    }

    pub(crate) fn push(&mut self, owner: Owner, batch: Arc<Batch>, size: Option<Size>) {
        self.last = owner;
        self.size = size;
        if matches!(batch.body, Body::Remove { .. }) {
            self.damaged = false;
        }
        self.pending.push_back(batch);
    }
}

/// Whether a write is the next one after another.
pub(crate) fn follows(last: Owner, next: Owner) -> bool {
    match next.epoch == last.epoch {
        true => next.seq == last.seq.next(),
        false => next.epoch > last.epoch && next.seq == Seq(1),
    }
}

/// A part of the objects.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    pub(crate) lives: HashMap<ObjectKey, Live>,
    /// What is committed since the last step of the engine began.
    pub(crate) active: Layers,
    /// What the engine takes in its step.
    pub(crate) frozen: Arc<Layers>,
}

impl Shard {
    /// The last committed write, as far as memory knows.
    fn layered(&self, object: &ObjectKey) -> Option<&Layer> {
        self.active.get(object).or_else(|| self.frozen.get(object))
    }

    /// The object as somebody works on it; what it was is looked up when nobody did.
    pub(crate) fn live(
        &mut self,
        object: ObjectKey,
        view: impl FnOnce() -> Arc<View>,
        damaged: impl FnOnce() -> bool,
    ) -> Result<&mut Live, EngineError> {
        if !self.lives.contains_key(&object) {
            let last = match self.layered(&object) {
                Some(layer) => layer.owner,
                None => view().row(object)?.map(|row| row.owner).unwrap_or_default(),
            };
            self.lives.insert(object, Live { last, damaged: damaged(), ..Live::default() });
        }
        Ok(self.lives.entry(object).or_default())
    }

    /// Takes a batch that is durable into the layer.
    pub(crate) fn settle(&mut self, object: ObjectKey, batch: &Arc<Batch>) {
        let layer = self.active.entry(object).or_insert_with(|| Layer::new(batch.group, batch.at_ms));
        layer.group = batch.group;
        layer.apply(&batch.body, batch.at_ms);
        if let Some(live) = self.lives.get_mut(&object) {
            let first = live.pending.pop_front();
            debug_assert!(
                first.is_some_and(|first| Arc::ptr_eq(&first, batch)),
                "batches settle in their order"
            );
            let epoch = batch.body.object().map(|(_, owner)| owner.epoch);
            if live.failed < epoch {
                live.failed = None; // Who committed is no one who ran ahead of what failed.
            }
        }
        self.forget(object);
    }

    /// A batch is not in the log: nor is what stands behind it, whoever wrote that. Gives the weight of all of it.
    pub(crate) fn fail(&mut self, object: ObjectKey, durable: impl FnOnce() -> Owner) {
        let committed = self.layered(&object).map(|layer| layer.owner);
        let Some(live) = self.lives.get_mut(&object) else { return };
        for behind in live.pending.drain(..) {
            behind.dead.store(true, Ordering::Release);
        }
        live.failed = Some(live.newest());
        live.size = None;
        live.last = committed.unwrap_or_else(durable);
        self.forget(object);
    }

    pub(crate) fn end(&mut self, object: ObjectKey, epoch: Epoch) {
        if let Some(live) = self.lives.get_mut(&object) {
            live.end(epoch);
            self.forget(object);
        }
    }

    /// An object that nobody owns and that has nothing on its way is in the engine and the layers, and needs no entry.
    pub(crate) fn forget(&mut self, object: ObjectKey) {
        let idle = self
            .lives
            .get(&object)
            .is_some_and(|live| live.pending.is_empty() && live.granted.is_none() && live.failed.is_none());
        if idle {
            self.lives.remove(&object);
        }
    }
}

/// All objects.
#[derive(Debug)]
pub(crate) struct Table {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }

    pub(crate) fn shard(&self, object: &ObjectKey) -> MutexGuard<'_, Shard> {
        let at = self.hasher.hash_one(object) as usize % SHARDS;
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn shards(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins a step: what is in the layers now is for the engine, and what comes is for the next step.
    pub(crate) fn freeze(&self) -> Vec<Arc<Layers>> {
        self.shards()
            .map(|mut shard| {
                shard.frozen = Arc::new(std::mem::take(&mut shard.active));
                Arc::clone(&shard.frozen)
            })
            .collect()
    }

    /// The step is in the engine, and readers see that.
    pub(crate) fn thaw(&self) {
        for mut shard in self.shards() {
            shard.frozen = Arc::default();
        }
    }
}
