//! The store: submissions in, outcomes out, reads in between.
//!
//! ```text
//!   cores ── submit ──▶ queue ──▶ committer ── one write, one sync ──▶ log
//!     │                              │ settles
//!     │                              ▼
//!     └── reads ──▶ pending ─▶ layers ─▶ view of the engine ◀── applier, in large steps
//! ```
//!
//! Two threads belong to a store, the committer and the applier. All that they do is in [`Inner::flush`] and
//! [`Inner::apply`], which tests call by hand, one after the other, so that a run can be told again.
//!
//! Invariants:
//! - A batch is acknowledged after the sync that covers it, and after reads of others see it as committed.
//! - Batches of an object settle in the order of their submission.
//! - A lock that is held during a sync is none that a submission or a read waits for.
//! - Locks are taken in this order: committer, shard, queue; the board after the committer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use berth_protocol::object::{Epoch, Group, ObjectKey, Seq};
use berth_protocol::record::{
    self, Body, Effect, EffectError, Owner, Place, Record, RecordError, check_effects,
};

use crate::alarms::Board;
use crate::disk::Disk;
use crate::engine::{self, Applied, Engine, EngineError, GroupEnd, Row, View};
use crate::layer::{Layer, Layers, ObjectStatus};
use crate::log::{AppendError, Log};
use crate::queue::{Queue, QueueError};
use crate::recover::{self, Damage, Visitor, Walk};
use crate::segment::{FRAME_LEN, StoreId};
use crate::table::{Batch, Fence, Shard, Table, follows};

/// Who runs the committer and the applier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drive {
    /// Two threads of the store.
    Threads,
    /// Whoever calls [`Store::flush`] and [`Store::apply`]: tests.
    ByHand,
}

/// How large what may become.
#[derive(Debug, Clone)]
pub struct Config {
    /// How much room a segment of the log takes. Small ones are trimmed sooner, and each new one costs a sync of the
    /// folder.
    pub segment_bytes: u64,
    /// The engine is brought forward when so many bytes are not in it: the larger, the fewer times a page is written.
    pub apply_bytes: usize,
    /// And at least so often, which bounds what is read again at a start.
    pub apply_every: Duration,
    /// With so many bytes that are not in the engine, submissions are refused.
    pub memory_bytes_max: usize,
    /// Most submissions on their way to the committer.
    pub queue_entries_max: usize,
    /// Most bytes on their way to the committer.
    pub queue_bytes_max: usize,
    /// Most bytes of one flush, but for a batch that is larger: a flush that takes long holds up all who come after it.
    pub flush_bytes_max: usize,
    /// The engine's cache.
    pub cache_bytes: usize,
    /// Who runs the threads.
    pub drive: Drive,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            apply_bytes: 64 << 20,
            apply_every: Duration::from_secs(5),
            memory_bytes_max: 256 << 20,
            queue_entries_max: 64 << 10,
            queue_bytes_max: 128 << 20,
            flush_bytes_max: 4 << 20,
            cache_bytes: 256 << 20,
            drive: Drive::Threads,
        }
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk failed.
    #[error("the store cannot read or write {what}")]
    Disk {
        /// The file, or the folder.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another version of the log.
    #[error(
        "{file} has version {found} of the log; this program reads version 1: run the newer program again"
    )]
    Version {
        /// The file.
        file: String,
        /// Its version.
        found: u32,
    },
    /// A record that this program does not take.
    #[error("{file} has a record at {offset} that this program does not take")]
    Record {
        /// The file.
        file: String,
        /// Where in it.
        offset: u64,
        /// Why.
        #[source]
        error: RecordError,
    },
    /// A file of another store.
    #[error("{file} belongs to another store: files of two stores are in one folder")]
    Foreign {
        /// The file.
        file: String,
    },
    /// A file that has to be there.
    #[error(
        "{file} is missing, and the engine does not have what was in it: restore the store from a snapshot"
    )]
    SegmentMissing {
        /// The file.
        file: String,
    },
    /// A file whose start is damaged, in both copies.
    #[error("the start of {file} is damaged in both copies: restore the store from a snapshot")]
    SegmentDamaged {
        /// The file.
        file: String,
    },
    /// A record of a follower, which this program is not yet.
    #[error(
        "the log of group {group} was truncated to {keep}, which this program cannot follow: run the newer one again"
    )]
    TailTruncated {
        /// The group.
        group: Group,
        /// The last record that counts.
        keep: Seq,
    },
    /// There is a log, and no engine.
    #[error("there is a log without the engine's file {}: restore the store from a snapshot", engine::FILE)]
    EngineMissing,
    /// The engine cannot be opened.
    #[error("the engine's file {} cannot be used", engine::FILE)]
    Engine(#[from] EngineError),
    /// A thread could not be started.
    #[error("a thread of the store could not be started")]
    Thread(#[source] io::Error),
}

impl OpenError {
    pub(crate) fn disk(what: &str) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_owned();
        move |source| Self::Disk { what, source }
    }
}

/// A write to one object, all or nothing.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Who is told.
    pub listener: ListenerId,
    /// By what it knows this one.
    pub ticket: u64,
    /// The group in whose log it goes.
    pub group: Group,
    /// The object.
    pub key: ObjectKey,
    /// Who writes: an epoch that [`Store::begin_epoch`] gave, and the number of the write in it, from 1.
    pub owner: (Epoch, Seq),
    /// Milliseconds of Unix time, for people and backups.
    pub at_ms: u64,
    /// What is written.
    pub effects: Vec<Effect>,
}

/// Why a submission was not taken. Nothing of it was or will be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is too much on its way, or the engine is behind.
    #[error("too much is waiting to become durable; try again in a moment")]
    Busy,
    /// The store is closing.
    #[error("the store is closing")]
    Closed,
    /// Another owner has a newer epoch.
    #[error("the object has an owner of epoch {newest} by now: this owner has to stop")]
    Fenced {
        /// The newest epoch that was given or written.
        newest: Epoch,
    },
    /// A mistake of the caller.
    #[error("the write does not follow the last one, {last:?}: this is a bug, please report it")]
    OutOfOrder {
        /// The last one.
        last: Owner,
    },
    /// A write of this object has failed since this owner began.
    #[error("an earlier write of the object failed, and this owner ran ahead of it: begin a new epoch")]
    Behind,
    /// A record of the object is lost.
    #[error("the object is damaged: import it from a snapshot, or remove it")]
    Damaged,
    /// The group has no leader here.
    #[error("group {group} is not led here")]
    NotLed {
        /// The group.
        group: Group,
    },
    /// Effects that no record can hold.
    #[error("the effects cannot be written")]
    Effects(#[source] EffectError),
    /// The engine cannot say what the object's last write was.
    #[error("the engine cannot be read")]
    Engine,
}

impl From<Fence> for Refused {
    fn from(fence: Fence) -> Self {
        match fence {
            Fence::Fenced { newest } => Self::Fenced { newest },
            Fence::OutOfOrder { last } => Self::OutOfOrder { last },
            Fence::Behind => Self::Behind,
            Fence::Damaged => Self::Damaged,
        }
    }
}

/// Why a submission that was taken is not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The disk is full. It was not written, and will not be after a restart.
    #[error("the disk is full: nothing was written")]
    Full,
    /// The disk failed. It was not written, and will not be after a restart.
    #[error("the disk failed: nothing was written")]
    Failed,
    /// The disk failed, and so did taking the write back.
    #[error("the disk failed: whether it was written is known after a restart or the next commit")]
    Unknown,
    /// A write of the same object before it failed.
    #[error("an earlier write of the object failed, and this one ran ahead of it: nothing was written")]
    Behind,
    /// The group was sealed in the meantime.
    #[error("the group's log was sealed: nothing was written")]
    Sealed,
}

/// What became of a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Which one.
    pub ticket: u64,
    /// Durable, or why not.
    pub outcome: Result<Committed, CommitError>,
}

/// That a submission is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Its position in the group's log.
    pub seq: Seq,
}

/// Who is told what became of its submissions.
pub trait Listener: Send + Sync {
    /// Once for each flush that has any of them, on the committer's thread: it hands them on and returns.
    fn settled(&self, settled: &[Settled]);
}

/// A registered listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenerId(usize);

/// Which epoch a group gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lead {
    /// The one after the last: on one node that knows nobody else.
    Next,
    /// The one that was won in the root.
    At(Epoch),
}

/// Why a group is not led, or not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LeadError {
    /// The log knows a newer epoch.
    #[error("the group's log knows epoch {newest} already")]
    Fenced {
        /// It.
        newest: Epoch,
    },
    /// The group is not led.
    #[error("the group is not led here")]
    NotLed,
    /// It could not be made durable.
    #[error("the group's log could not be written")]
    Commit(#[source] CommitError),
    /// The queue is full, or the store is closing.
    #[error("the store does not take it now")]
    Refused(#[source] Refused),
}

/// Something for the committer.
#[derive(Debug)]
pub(crate) enum Work {
    Batch { listener: ListenerId, ticket: u64, object: ObjectKey, batch: Arc<Batch> },
    Control { group: Group, body: Body, at: Option<Epoch>, reply: Arc<Reply> },
}

/// Where a caller waits for the committer.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    result: Mutex<Option<Result<Epoch, LeadError>>>,
    told: Condvar,
}

impl Reply {
    fn tell(&self, result: Result<Epoch, LeadError>) {
        *self.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        self.told.notify_all();
    }

    fn wait(&self) -> Result<Epoch, LeadError> {
        let mut result = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match result.take() {
                Some(result) => return result,
                None => result = self.told.wait(result).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// What others see of a group.
#[derive(Debug, Default)]
struct GroupView {
    committed: AtomicU64,
    led: AtomicBool,
}

/// What the committer works with.
#[derive(Debug)]
struct Committer {
    log: Log,
    groups: BTreeMap<Group, GroupEnd>,
    work: Vec<Work>,
    outcomes: Vec<Result<Committed, CommitError>>,
    buffer: Vec<u8>,
    settled: Vec<Vec<Settled>>,
}

/// What goes into the engine at once. It stays until it is there.
#[derive(Debug)]
struct Step {
    applied: Applied,
    layers: Vec<Arc<Layers>>,
    board: u64,
    weight: usize,
}

#[derive(Debug, Default)]
struct Signal {
    /// Somebody waits for a step.
    asked: bool,
    closing: bool,
}

/// All of a store but its threads.
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) id: StoreId,
    pub(crate) table: Table,
    pub(crate) engine: Engine,
    pub(crate) board: Mutex<Board>,
    pub(crate) damaged: RwLock<HashSet<ObjectKey>>,
    damage: Vec<Damage>,
    queue: Queue<Work>,
    committer: Mutex<Committer>,
    step: Mutex<Option<Step>>,
    listeners: RwLock<Vec<Option<Arc<dyn Listener>>>>,
    groups: RwLock<HashMap<Group, Arc<GroupView>>>,
    /// Bytes on their way or in layers, as far as they are not in the engine.
    memory: AtomicUsize,
    /// Bytes in layers that no step has taken.
    unapplied: AtomicUsize,
    signal: Mutex<Signal>,
    signalled: Condvar,
    counts: Counts,
}

/// What a store has done since it was opened.
#[derive(Debug, Default)]
struct Counts {
    flushes: AtomicU64,
    commits: AtomicU64,
    failures: AtomicU64,
    steps: AtomicU64,
}

/// What a store has done since it was opened, and how far it is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Flushes: writes with one sync each.
    pub flushes: u64,
    /// Batches that are durable.
    pub commits: u64,
    /// Batches that failed.
    pub failures: u64,
    /// Steps of the engine.
    pub steps: u64,
    /// Bytes that are not in the engine.
    pub memory_bytes: usize,
}

impl fmt::Debug for Inner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Store").field("id", &self.id).finish_non_exhaustive()
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub(crate) fn live<'s>(
        &self,
        shard: &'s mut Shard,
        object: ObjectKey,
    ) -> Result<&'s mut crate::table::Live, EngineError> {
        shard.live(object, || self.engine.view(), || self.is_damaged(&object))
    }

    pub(crate) fn is_damaged(&self, object: &ObjectKey) -> bool {
        self.damaged.read().unwrap_or_else(PoisonError::into_inner).contains(object)
    }

    fn group(&self, group: Group) -> Option<Arc<GroupView>> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }

    fn group_or_new(&self, group: Group) -> Arc<GroupView> {
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(groups.entry(group).or_default())
    }

    fn submit(&self, submission: Submission) -> Result<(), Refused> {
        let Submission { listener, ticket, group, key, owner: (epoch, seq), at_ms, effects } = submission;
        check_effects(&effects).map_err(Refused::Effects)?;
        let owner = Owner { epoch, seq };
        let body = Body::Effects { object: key, owner, effects };
        self.enqueue(listener, ticket, key, owner, Batch::new(body, group, at_ms))
    }

    fn enqueue(
        &self,
        listener: ListenerId,
        ticket: u64,
        object: ObjectKey,
        owner: Owner,
        batch: Batch,
    ) -> Result<(), Refused> {
        let led = self.group(batch.group).is_some_and(|group| group.led.load(Ordering::Acquire));
        if !led {
            return Err(Refused::NotLed { group: batch.group });
        }
        let weight = batch.weight;
        if self.memory.load(Ordering::Relaxed) + weight > self.config.memory_bytes_max.max(weight) {
            self.ask_for_step();
            return Err(Refused::Busy);
        }
        let batch = Arc::new(batch);
        let mut shard = self.table.shard(&object);
        let live = self.live(&mut shard, object).map_err(|_| Refused::Engine)?;
        if let Err(fence) = live.check(owner, &batch.body) {
            shard.forget(object);
            return Err(fence.into());
        }
        // Counted before the committer can see it, which takes it off again.
        self.memory.fetch_add(weight, Ordering::Relaxed);
        let work = Work::Batch { listener, ticket, object, batch: Arc::clone(&batch) };
        // The shard stays locked: batches of an object are queued in the order in which they were checked.
        if let Err(error) = self.queue.push(work, batch.body.payload_len() + record::HEADER_LEN) {
            self.memory.fetch_sub(weight, Ordering::Relaxed);
            shard.forget(object);
            return Err(match error {
                QueueError::Full => Refused::Busy,
                QueueError::Closed => Refused::Closed,
            });
        }
        let size = self.size_after(&shard, object, &batch.body);
        if let Some(live) = shard.lives.get_mut(&object) {
            live.push(owner, batch, size);
        }
        Ok(())
    }

    /// Makes durable what is queued, up to the bound of a flush. Says whether there was anything.
    pub(crate) fn flush(&self) -> bool {
        let mut committer = lock(&self.committer);
        let committer = &mut *committer;
        committer.work.clear();
        self.queue.take(&mut committer.work, self.config.flush_bytes_max);
        if committer.work.is_empty() {
            return false;
        }
        let before = committer.groups.clone();
        committer.encode();
        let appended = match committer.buffer.len() > FRAME_LEN {
            true => committer.log.append(&mut committer.buffer).map(drop),
            false => Ok(()),
        };
        self.counts.flushes.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = appended {
            committer.groups.clone_from(&before);
            let error = match error {
                AppendError::Full => CommitError::Full,
                AppendError::Failed => CommitError::Failed,
                AppendError::Unknown => CommitError::Unknown,
            };
            committer
                .outcomes
                .iter_mut()
                .filter(|outcome| outcome.is_ok())
                .for_each(|outcome| *outcome = Err(error));
        }
        self.settle(committer, &before);
        self.tell(committer);
        true
    }

    /// Takes what is durable into the layers, and what failed out of the way.
    fn settle(&self, committer: &mut Committer, before: &BTreeMap<Group, GroupEnd>) {
        let mut layered = 0;
        for (work, outcome) in committer.work.iter().zip(&mut committer.outcomes) {
            let Work::Batch { object, batch, .. } = work else { continue };
            match outcome {
                Ok(_) => {
                    layered += batch.weight;
                    self.take(*object, batch);
                }
                Err(_) => {
                    self.memory.fetch_sub(batch.weight, Ordering::Relaxed);
                    if !batch.is_dead() {
                        self.fail(*object);
                    }
                }
            }
        }
        for (group, end) in committer.groups.iter().filter(|(group, end)| before.get(group) != Some(end)) {
            let view = self.group(*group).unwrap_or_else(|| self.group_or_new(*group));
            view.committed.store(end.last.seq.0, Ordering::Release);
            view.led.store(!end.sealed, Ordering::Release);
        }
        let unapplied = self.unapplied.fetch_add(layered, Ordering::Relaxed) + layered;
        if unapplied >= self.config.apply_bytes {
            self.ask_for_step();
        }
    }

    fn take(&self, object: ObjectKey, batch: &Arc<Batch>) {
        let mut shard = self.table.shard(&object);
        if let Body::Remove { .. } = batch.body {
            self.damaged.write().unwrap_or_else(PoisonError::into_inner).remove(&object);
        }
        shard.settle(object, batch);
        drop(shard);
        if Board::concerns(&batch.body) {
            lock(&self.board).take(&batch.body);
        }
    }

    fn fail(&self, object: ObjectKey) {
        let durable = || match self.engine.view().row(object) {
            Ok(row) => row.map(|row| row.owner).unwrap_or_default(),
            Err(_) => Owner::default(),
        };
        self.table.shard(&object).fail(object, durable);
    }

    /// Tells each listener once.
    fn tell(&self, committer: &mut Committer) {
        for (work, outcome) in committer.work.drain(..).zip(committer.outcomes.drain(..)) {
            let count = if outcome.is_ok() { &self.counts.commits } else { &self.counts.failures };
            count.fetch_add(1, Ordering::Relaxed);
            match work {
                Work::Batch { listener, ticket, .. } => {
                    if committer.settled.len() <= listener.0 {
                        committer.settled.resize_with(listener.0 + 1, Vec::new);
                    }
                    committer.settled[listener.0].push(Settled { ticket, outcome });
                }
                Work::Control { group, reply, .. } => {
                    let epoch = committer.groups.get(&group).map(|end| end.epoch).unwrap_or_default();
                    reply.tell(match outcome {
                        Ok(_) => Ok(epoch),
                        Err(CommitError::Behind) => Err(LeadError::Fenced { newest: epoch }),
                        Err(CommitError::Sealed) => Err(LeadError::NotLed),
                        Err(error) => Err(LeadError::Commit(error)),
                    });
                }
            }
        }
        let listeners = self.listeners.read().unwrap_or_else(PoisonError::into_inner);
        for (listener, settled) in listeners.iter().zip(&mut committer.settled) {
            if let (Some(listener), false) = (listener, settled.is_empty()) {
                listener.settled(settled);
            }
            settled.clear();
        }
    }

    fn ask_for_step(&self) {
        lock(&self.signal).asked = true;
        self.signalled.notify_all();
    }

    /// Brings the engine forward to what is durable now, and trims the log. After an error the next call tries again.
    pub(crate) fn apply(&self) -> Result<(), EngineError> {
        let mut slot = lock(&self.step);
        if slot.is_none() {
            *slot = Some(self.freeze());
        }
        let Some(step) = slot.as_ref() else { return Ok(()) };
        let mut objects: Vec<(&ObjectKey, &Layer)> =
            step.layers.iter().flat_map(|layers| layers.iter()).collect();
        // Neighbours in the order of their keys are neighbours in pages.
        objects.sort_unstable_by_key(|(object, _)| **object);
        self.engine.step(&step.applied, objects.into_iter())?;
        self.table.thaw();
        lock(&self.board).applied(step.board);
        self.memory.fetch_sub(step.weight, Ordering::Relaxed);
        self.counts.steps.fetch_add(1, Ordering::Relaxed);
        let names = lock(&self.committer).log.trim(step.applied.flush);
        *slot = None;
        drop(slot);
        for name in names {
            // That it stays is a loss of room only: the next start finds it to be litter.
            if let Err(error) = self.disk.remove(&name) {
                tracing::warn!(file = name, %error, "a segment that is not needed any more stays");
            }
        }
        Ok(())
    }

    /// Whether a step has failed and is to be tried again.
    pub(crate) fn step_waits(&self) -> bool {
        lock(&self.step).is_some()
    }

    fn freeze(&self) -> Step {
        let committer = lock(&self.committer);
        let applied = Applied { flush: committer.log.last_flush(), groups: committer.groups.clone() };
        let layers = self.table.freeze();
        let board = lock(&self.board).freeze();
        let weight = self.unapplied.swap(0, Ordering::Relaxed);
        Step { applied, layers, board, weight }
    }

    fn control(&self, group: Group, body: Body, at: Option<Epoch>) -> Result<Epoch, LeadError> {
        let reply = Arc::new(Reply::default());
        let work = Work::Control { group, body, at, reply: Arc::clone(&reply) };
        self.queue.push(work, record::HEADER_LEN).map_err(|error| {
            LeadError::Refused(match error {
                QueueError::Full => Refused::Busy,
                QueueError::Closed => Refused::Closed,
            })
        })?;
        if self.config.drive == Drive::ByHand {
            while self.flush() {}
        }
        reply.wait()
    }
}

impl Committer {
    /// Gives each piece of work its place in its group's log and writes it into the buffer, or says why not.
    fn encode(&mut self) {
        self.buffer.clear();
        self.buffer.resize(FRAME_LEN, 0);
        for work in &self.work {
            let outcome = match work {
                Work::Batch { batch, .. } => encode_batch(&mut self.groups, batch, &mut self.buffer),
                Work::Control { group, body, at, .. } => {
                    encode_control(&mut self.groups, *group, body, *at, &mut self.buffer)
                }
            };
            self.outcomes.push(outcome);
        }
    }
}

fn encode_batch(
    groups: &mut BTreeMap<Group, GroupEnd>,
    batch: &Batch,
    out: &mut Vec<u8>,
) -> Result<Committed, CommitError> {
    if batch.is_dead() {
        return Err(CommitError::Behind);
    }
    let end = groups.get_mut(&batch.group).filter(|end| !end.sealed).ok_or(CommitError::Sealed)?;
    Ok(append_record(batch.group, end, &batch.body, batch.at_ms, out))
}

fn append_record(group: Group, end: &mut GroupEnd, body: &Body, at_ms: u64, out: &mut Vec<u8>) -> Committed {
    let seq = end.last.seq.next();
    let place = Place { group, epoch: end.epoch, seq, prev: end.last, at_ms };
    end.last = record::encode(&place, body, out);
    Committed { seq }
}

/// `Behind` stands for an epoch that is not newer, `Sealed` for a group that is not led.
fn encode_control(
    groups: &mut BTreeMap<Group, GroupEnd>,
    group: Group,
    body: &Body,
    at: Option<Epoch>,
    out: &mut Vec<u8>,
) -> Result<Committed, CommitError> {
    let end = groups.entry(group).or_insert(GroupEnd { sealed: true, ..GroupEnd::default() });
    match body {
        Body::EpochStart => {
            let epoch = at.unwrap_or(end.epoch.next());
            if epoch <= end.epoch {
                return Err(CommitError::Behind);
            }
            (end.epoch, end.sealed) = (epoch, false);
        }
        _ if end.sealed => return Err(CommitError::Sealed),
        _ => {}
    }
    let committed = append_record(group, end, body, 0, out);
    end.sealed = matches!(body, Body::Seal);
    Ok(committed)
}

/// Takes the records of the log that the engine does not have.
struct Replay<'a> {
    table: &'a Table,
    view: &'a View,
    board: &'a mut Board,
    groups: BTreeMap<Group, GroupEnd>,
    damaged: HashSet<ObjectKey>,
    weight: usize,
}

impl Replay<'_> {
    fn last(&self, shard: &Shard, object: ObjectKey) -> Result<Owner, EngineError> {
        match shard.active.get(&object) {
            Some(layer) => Ok(layer.owner),
            None => Ok(self.view.row(object)?.map(|row| row.owner).unwrap_or_default()),
        }
    }

    fn batch(&mut self, object: ObjectKey, owner: Owner, batch: Batch) -> Result<(), OpenError> {
        let mut shard = self.table.shard(&object);
        if !follows(self.last(&shard, object)?, owner) {
            drop(shard);
            tracing::error!(%object, ?owner, "a write of this object is missing in the log");
            self.mark(object, owner);
            shard = self.table.shard(&object);
        }
        if matches!(batch.body, Body::Remove { .. }) {
            self.damaged.remove(&object);
        }
        self.weight += batch.weight;
        self.board.take(&batch.body);
        shard.settle(object, &Arc::new(batch));
        Ok(())
    }

    fn mark(&mut self, object: ObjectKey, owner: Owner) {
        self.damaged.insert(object);
        let mut shard = self.table.shard(&object);
        let layer = shard.active.entry(object).or_insert_with(|| Layer::new(Group(0), 0));
        layer.owner = layer.owner.max(owner);
        layer.status = Some(ObjectStatus::Damaged);
    }
}

impl Visitor for Replay<'_> {
    fn record(&mut self, _flush: u64, record: Record) -> Result<(), OpenError> {
        let Place { group, epoch, at_ms, .. } = record.place;
        let end = self.groups.entry(group).or_default();
        end.epoch = end.epoch.max(epoch);
        match &record.body {
            Body::EpochStart => end.sealed = false,
            Body::Seal => end.sealed = true,
            // Followers will write it. Until a walk can take back what it has passed, it may only say what is so anyway.
            Body::TruncateTail { keep } if *keep < record.place.prev.seq => {
                return Err(OpenError::TailTruncated { group, keep: *keep });
            }
            Body::Effects { .. } | Body::Remove { .. } | Body::TruncateTail { .. } => {}
        }
        match record.body.object() {
            Some((object, owner)) => self.batch(object, owner, Batch::new(record.body, group, at_ms)),
            None => Ok(()),
        }
    }

    fn lost(&mut self, object: ObjectKey, owner: Owner) {
        self.mark(object, owner);
    }
}

/// The durable state of the objects of a node. A clone is the same store.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
    threads: Arc<Threads>,
}

#[derive(Debug)]
struct Threads {
    inner: Arc<Inner>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Store {
    /// Opens the store of a folder, or makes a new one in a folder that has none. `fresh` is the random id of a new one.
    pub fn open(disk: Arc<dyn Disk>, config: Config, fresh: StoreId) -> Result<Self, OpenError> {
        if !engine::exists(&*disk).map_err(OpenError::disk("the folder"))? {
            if recover::store_of(&*disk)?.is_some() {
                return Err(OpenError::EngineMissing);
            }
            Engine::create(&*disk, config.cache_bytes, fresh, &Applied::default(), |_| Ok(()))?;
        }
        let (engine, id, applied) = Engine::open(&disk, config.cache_bytes)?;
        let inner = Arc::new(recover_inner(disk, config, engine, id, applied)?);
        let threads = Threads { inner: Arc::clone(&inner), handles: Mutex::default() };
        let store = Self { inner, threads: Arc::new(threads) };
        if store.inner.config.drive == Drive::Threads {
            store.start("store-commit", run_committer)?;
            store.start("store-apply", run_applier)?;
        }
        Ok(store)
    }

    fn start(&self, name: &str, run: fn(&Inner)) -> Result<(), OpenError> {
        let inner = Arc::clone(&self.inner);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&inner));
        lock(&self.threads.handles).push(thread.map_err(OpenError::Thread)?);
        Ok(())
    }

    /// Registers who is to be told.
    #[must_use]
    pub fn register(&self, listener: Arc<dyn Listener>) -> ListenerId {
        let mut listeners = self.inner.listeners.write().unwrap_or_else(PoisonError::into_inner);
        listeners.push(Some(listener));
        ListenerId(listeners.len() - 1)
    }

    /// Takes a listener out: what settles afterwards is told to nobody.
    pub fn unregister(&self, listener: ListenerId) {
        let mut listeners = self.inner.listeners.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = listeners.get_mut(listener.0) {
            *slot = None;
        }
    }

    /// Begins an epoch of a group's log, durably: from then on it takes submissions.
    pub fn lead(&self, group: Group, lead: Lead) -> Result<Epoch, LeadError> {
        let at = match lead {
            Lead::Next => None,
            Lead::At(epoch) => Some(epoch),
        };
        self.inner.control(group, Body::EpochStart, at)
    }

    /// Ends the epoch of a group's log, durably: it takes no submissions until it is led again.
    pub fn seal(&self, group: Group) -> Result<Epoch, LeadError> {
        self.inner.control(group, Body::Seal, None)
    }

    /// Gives the next epoch of an object to a new owner. From then on all older ones are refused. It becomes durable with
    /// the owner's first batch: one that wrote nothing leaves nothing, and after a restart its number may be given again,
    /// when nobody is left who could hold it.
    pub fn begin_epoch(&self, object: ObjectKey) -> Result<Epoch, Refused> {
        let mut shard = self.inner.table.shard(&object);
        Ok(self.inner.live(&mut shard, object).map_err(|_| Refused::Engine)?.begin())
    }

    /// The owner of this epoch writes no more. Its object costs no memory from then on.
    pub fn end_epoch(&self, object: ObjectKey, epoch: Epoch) {
        self.inner.table.shard(&object).end(object, epoch);
    }

    /// Takes a write, which is told to its listener when it is durable, or has failed. Reads of the object see it at once.
    pub fn submit(&self, submission: Submission) -> Result<(), Refused> {
        self.inner.submit(submission)
    }

    /// As [`Self::submit`], with effects that are ignored: removes the object with all that it has. Its row stays, so that
    /// an owner of old is still refused. This is how a damaged object is given up.
    pub fn remove(&self, submission: &Submission) -> Result<(), Refused> {
        let Submission { listener, ticket, group, key, owner: (epoch, seq), at_ms, .. } = *submission;
        let owner = Owner { epoch, seq };
        let batch = Batch::new(Body::Remove { object: key, owner }, group, at_ms);
        self.inner.enqueue(listener, ticket, key, owner, batch)
    }

    /// The last durable record of a group.
    #[must_use]
    pub fn committed(&self, group: Group) -> Seq {
        Seq(self.inner.group(group).map_or(0, |group| group.committed.load(Ordering::Acquire)))
    }

    /// What was found damaged in the log when the store was opened.
    #[must_use]
    pub fn damage(&self) -> &[Damage] {
        &self.inner.damage
    }

    /// The random id of the store.
    #[must_use]
    pub fn id(&self) -> StoreId {
        self.inner.id
    }

    /// Makes durable what is queued, up to the bound of one flush, and says whether there was anything. The committer's
    /// thread does it by itself.
    pub fn flush(&self) -> bool {
        self.inner.flush()
    }

    /// Brings the engine forward to what is durable, and trims the log. The applier's thread does it by itself.
    pub fn apply(&self) -> Result<(), EngineError> {
        self.inner.apply()
    }

    /// What the store has done, and how far its engine is behind.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let counts = &self.inner.counts;
        Figures {
            flushes: counts.flushes.load(Ordering::Relaxed),
            commits: counts.commits.load(Ordering::Relaxed),
            failures: counts.failures.load(Ordering::Relaxed),
            steps: counts.steps.load(Ordering::Relaxed),
            memory_bytes: self.inner.memory.load(Ordering::Relaxed),
        }
    }

    /// Takes nothing more, makes durable what was taken, and brings the engine forward. Dropping the last clone does the
    /// same, without saying what went wrong.
    pub fn close(self) -> Result<(), EngineError> {
        self.threads.stop();
        self.inner.apply()
    }
}

impl Threads {
    fn stop(&self) {
        self.inner.queue.close();
        lock(&self.inner.signal).closing = true;
        self.inner.signalled.notify_all();
        for handle in lock(&self.handles).drain(..) {
            // A listener may hold the last clone of its store, and let it go on the committer's thread.
            if handle.thread().id() != std::thread::current().id() {
                let _ = handle.join();
            }
        }
        if let Ok(mut committer) = self.inner.committer.try_lock() {
            committer.log.close();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How long the committer sleeps at most: it is woken, and this only bounds what a lost wake-up would cost.
const COMMITTER_SLEEP_MAX: Duration = Duration::from_secs(1);

fn run_committer(inner: &Inner) {
    while inner.queue.wait(COMMITTER_SLEEP_MAX) {
        while inner.flush() {}
    }
}

/// How long the applier waits after a failure: the disk may be full until somebody makes room.
const APPLIER_PAUSE: Duration = Duration::from_secs(1);

fn run_applier(inner: &Inner) {
    loop {
        let mut signal = lock(&inner.signal);
        if !signal.asked && !signal.closing {
            let waited = inner.signalled.wait_timeout(signal, inner.config.apply_every);
            signal = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        signal.asked = false;
        let closing = signal.closing;
        drop(signal);
        let anything = inner.step_waits() || inner.unapplied.load(Ordering::Relaxed) > 0;
        if anything && let Err(error) = inner.apply() {
            tracing::error!(%error, "the engine could not be brought forward; it is tried again");
            if !closing {
                std::thread::sleep(APPLIER_PAUSE);
            }
        }
        if closing {
            return;
        }
    }
}

fn recover_inner(
    disk: Arc<dyn Disk>,
    config: Config,
    engine: Engine,
    id: StoreId,
    applied: Applied,
) -> Result<Inner, OpenError> {
    let table = Table::new();
    let view = engine.view();
    let mut board = Board::default();
    let chain = applied.groups.iter().map(|(group, end)| (*group, end.last)).collect();
    let mut replay = Replay {
        table: &table,
        view: &view,
        board: &mut board,
        damaged: view.damaged()?.into_iter().collect(),
        groups: applied.groups,
        weight: 0,
    };
    let mut walk = Walk::new(&*disk, id, applied.flush, chain, &mut replay);
    let found = walk.run()?;
    let (chain, damage) = (walk.chain, walk.damage);
    let Replay { mut groups, damaged, weight, .. } = replay;
    for (group, last) in chain {
        groups.entry(group).or_default().last = last;
    }
    let views = groups.iter().map(|(group, end)| {
        // Nobody leads after a restart until it is said again.
        let view = GroupView { committed: AtomicU64::new(end.last.seq.0), led: AtomicBool::new(false) };
        (*group, Arc::new(view))
    });
    let views = views.collect();
    groups.values_mut().for_each(|end| end.sealed = true);
    let log = Log::new(Arc::clone(&disk), id, config.segment_bytes, found);
    let committer = Committer {
        log,
        groups,
        work: Vec::new(),
        outcomes: Vec::new(),
        buffer: Vec::new(),
        settled: Vec::new(),
    };
    Ok(Inner {
        queue: Queue::new(config.queue_entries_max, config.queue_bytes_max),
        config,
        disk,
        id,
        table,
        engine,
        board: Mutex::new(board),
        damaged: RwLock::new(damaged),
        damage,
        committer: Mutex::new(committer),
        step: Mutex::new(None),
        listeners: RwLock::default(),
        groups: RwLock::new(views),
        memory: AtomicUsize::new(weight),
        unapplied: AtomicUsize::new(weight),
        signal: Mutex::default(),
        signalled: Condvar::new(),
        counts: Counts::default(),
    })
}

/// The row of an object as its layers make it of what the engine has.
pub(crate) fn layered_row(stored: Option<Row>, layers: [Option<&Layer>; 2]) -> Option<Row> {
    layers.into_iter().flatten().fold(stored, |row, layer| {
        let mut row = row.unwrap_or(Row {
            owner: layer.owner,
            group: layer.group,
            status: ObjectStatus::Removed,
            user_keys: 0,
            user_bytes: 0,
            created_ms: layer.first_ms,
            written_ms: layer.last_ms,
        });
        engine::merge(&mut row, layer);
        Some(row)
    })
}
