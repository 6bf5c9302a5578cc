//! The data of one object, as its instance reads and writes it: the store behind the isolate host's trait.
//!
//! A write is handed to the store at once and settles later ([`super::gate`]). A read may want the disk, for which no core
//! waits: it is done by a few threads of their own ([`Readers`]).

use std::ops::Bound;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_isolate_host::Later;
use berth_isolate_host::object::{
    CommitError, Effect, KeyRange, ObjectStorage, Order, Page, PageMost, Read, Space, StorageError,
};
use berth_protocol::object::{Epoch, Group, ObjectKey, Seq};
use berth_store::{Direction, Limit, ListenerId, ReadError, Store, Submission};
use bytes::Bytes;
use tokio::sync::oneshot;

use super::gate::Entry;
use crate::clock;

/// The one group of a node that is alone.
pub(super) const GROUP: Group = Group(0);

type Job = Box<dyn FnOnce() + Send>;

/// Threads that read for the cores. What waits for them is bounded by the turns that run: each waits for one read.
#[derive(Clone)]
pub(super) struct Readers(Sender<Job>);

/// Threads that read. A read that misses the cache waits for a disk, not for a CPU.
const READERS: usize = 4;

impl Readers {
    pub(super) fn start() -> std::io::Result<Self> {
        let (sender, receiver) = channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..READERS {
            let receiver = Arc::clone(&receiver);
            std::thread::Builder::new().name("objects-read".into()).spawn(move || {
                loop {
                    let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    match next {
                        Ok(job) => job(),
                        Err(_) => return, // The node has ended.
                    }
                }
            })?;
        }
        Ok(Self(sender))
    }

    /// Does something that waits, elsewhere. `None`: the node ends.
    pub(super) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Later<Option<T>> {
        let (sender, receiver) = oneshot::channel();
        let _ = self.0.send(Box::new(move || drop(sender.send(job()))));
        Box::pin(async move { receiver.await.ok() })
    }
}

/// The storage of one instance.
pub(super) struct Shelf {
    store: Store,
    readers: Readers,
    listener: ListenerId,
    object: ObjectKey,
    epoch: Epoch,
    entry: Entry,
    /// What the next write needs.
    next: Arc<Mutex<Next>>,
}

struct Next {
    seq: Seq,
    /// The store refused a write: what follows would have a hole before it, and is refused, too.
    refused: Option<CommitError>,
    /// What goes with the first write.
    first: Vec<Effect>,
    /// Bytes that were stored when somebody looked.
    known: u64,
    /// Bytes that were put since. What they replaced is not taken off, so the sum is the most that there can be.
    put: u64,
    /// Whether somebody looks.
    looking: bool,
}

/// So many bytes are put before somebody looks what is stored. An object that fills its quota is refused at most so much
/// too early, and until that look only.
const LOOK_AFTER: u64 = 1 << 20;

fn lock(next: &Mutex<Next>) -> MutexGuard<'_, Next> {
    next.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shelf {
    /// For an owner that has just begun its epoch. `bytes` are stored.
    pub(super) fn new(
        store: Store,
        readers: Readers,
        listener: ListenerId,
        (object, epoch): (ObjectKey, Epoch),
        entry: Entry,
        bytes: u64,
    ) -> Self {
        let next =
            Next { seq: Seq(1), refused: None, first: Vec::new(), known: bytes, put: 0, looking: false };
        let next = Arc::new(Mutex::new(next));
        Self { store, readers, listener, object, epoch, entry, next }
    }

    /// Has something written with the first write, whatever that is.
    pub(super) fn with_first(&self, effect: Effect) {
        lock(&self.next).first.push(effect);
    }

    /// Reads on a thread that may wait.
    pub(super) fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store, ObjectKey) -> Result<T, ReadError> + Send + 'static,
    ) -> Read<T> {
        let (store, object) = (self.store.clone(), self.object);
        let answer = self.readers.run(move || read(&store, object));
        Read::Later(Box::pin(async move {
            match answer.await {
                Some(Ok(value)) => Ok(value),
                Some(Err(error)) => {
                    tracing::error!(object = ?object, %error, "object.unreadable");
                    Err(StorageError(error.to_string()))
                }
                None => Err(StorageError("the node ends".to_owned())),
            }
        }))
    }

    /// Hands effects to the store, after all before them.
    fn submit(&self, mut effects: Vec<Effect>) -> Result<(), CommitError> {
        let mut next = lock(&self.next);
        if let Some(reason) = &next.refused {
            return Err(reason.clone());
        }
        effects.append(&mut next.first);
        let put: usize = effects.iter().map(put_bytes).sum();
        let submission = Submission {
            listener: self.listener,
            ticket: self.entry.number,
            group: GROUP,
            key: self.object,
            owner: (self.epoch, next.seq),
            at_ms: clock::now_ms(),
            effects,
        };
        if let Err(refused) = self.store.submit(submission) {
            let reason = CommitError(refused.to_string());
            next.refused = Some(reason.clone());
            return Err(reason);
        }
        next.seq = next.seq.next();
        next.put += put as u64;
        if next.put > LOOK_AFTER && !next.looking {
            next.looking = true;
            self.look(next.put);
        }
        Ok(())
    }

    /// Looks what is stored, elsewhere. `put` is what the sum counts so far, and what the answer has for certain.
    fn look(&self, put: u64) {
        let (store, object, next) = (self.store.clone(), self.object, Arc::clone(&self.next));
        drop(self.readers.run(move || {
            let size = store.size(object);
            let mut next = lock(&next);
            next.looking = false;
            // An object that cannot be read keeps the sum: too much is refused rather than stored.
            if let Ok(size) = size {
                next.known = size.bytes;
                next.put -= put;
            }
        }));
    }
}

fn put_bytes(effect: &Effect) -> usize {
    match effect {
        Effect::Put { space: Space::User, key, value } => key.len() + value.len(),
        _ => 0,
    }
}

impl ObjectStorage for Shelf {
    fn get(&self, space: Space, key: &[u8]) -> Read<Option<Bytes>> {
        let key = key.to_vec();
        self.read(move |store, object| store.get(object, space, &key))
    }

    fn scan(&self, space: Space, range: &KeyRange, order: Order, most: PageMost) -> Read<Page> {
        let range = range.clone();
        self.read(move |store, object| {
            let start = range.start.as_deref().map_or(Bound::Unbounded, Bound::Included);
            let end = range.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let direction = match order {
                Order::Up => Direction::Forward,
                Order::Down => Direction::Backward,
            };
            let limit = Limit { entries: most.entries, bytes: most.bytes };
            let page = store.scan(object, space, (start, end), direction, limit)?;
            Ok(Page { entries: page.entries, more: page.more })
        })
    }

    fn commit(&self, effects: Vec<Effect>) -> Later<Result<(), CommitError>> {
        if effects.is_empty() {
            return Box::pin(self.entry.barrier());
        }
        match self.submit(effects) {
            Ok(()) => Box::pin(self.entry.written()),
            // Told when all before has settled: the next instance must not answer from what is still on its way.
            Err(reason) => {
                let before = self.entry.barrier();
                Box::pin(async move { before.await.and(Err(reason)) })
            }
        }
    }

    fn bytes_used(&self) -> u64 {
        let next = lock(&self.next);
        next.known + next.put
    }
}

/// The shelf as its instance has it.
pub(super) struct Shared(pub(super) Arc<Shelf>);

impl ObjectStorage for Shared {
    fn get(&self, space: Space, key: &[u8]) -> Read<Option<Bytes>> {
        self.0.get(space, key)
    }

    fn scan(&self, space: Space, range: &KeyRange, order: Order, most: PageMost) -> Read<Page> {
        self.0.scan(space, range, order, most)
    }

    fn commit(&self, effects: Vec<Effect>) -> Later<Result<(), CommitError>> {
        self.0.commit(effects)
    }

    fn bytes_used(&self) -> u64 {
        self.0.bytes_used()
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        self.store.end_epoch(self.object, self.epoch);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use berth_protocol::object::{ObjectId, Scope, Slot};
    use berth_store::disk::FakeDisk;
    use berth_store::{Config, Drive, Lead, StoreId};

    use super::super::gate::Gate;
    use super::*;

    #[test]
    fn after_a_refused_write_nothing_more_is_written_and_it_is_told_when_all_before_has_settled() {
        let config = Config { queue_entries_max: 1, drive: Drive::ByHand, ..Config::default() };
        let store = Store::open(Arc::new(FakeDisk::new()), config, StoreId([7; 16])).unwrap();
        store.lead(GROUP, Lead::Next).unwrap();
        let gate = Arc::new(Gate::default());
        let listener = store.register(Arc::clone(&gate) as _);
        let object = ObjectKey { scope: Scope::new("a", "B"), id: ObjectId::random(Slot(0), [1; 13]) };
        let epoch = store.begin_epoch(object).unwrap();
        let owner = (object, epoch);
        let shelf = Shelf::new(store.clone(), Readers::start().unwrap(), listener, owner, gate.open(), 0);
        let put = |key: &'static str| {
            vec![Effect::Put { space: Space::User, key: key.into(), value: Bytes::from_static(b"v") }]
        };
        let poll = |future: &mut Later<Result<(), CommitError>>| {
            Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
        };
        let (mut first, mut second) = (shelf.commit(put("one")), shelf.commit(put("two")));
        assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending(), "nothing was synced");
        assert!(store.flush());
        assert_eq!(poll(&mut first), Poll::Ready(Ok(())));
        assert!(matches!(poll(&mut second), Poll::Ready(Err(_))), "the queue was full");
        // There is room again, and a hole.
        assert!(matches!(poll(&mut shelf.commit(put("three"))), Poll::Ready(Err(_))));
        store.flush();
        let stored = |key: &str| store.get(object, Space::User, key.as_bytes()).unwrap().is_some();
        assert_eq!([stored("one"), stored("two"), stored("three")], [true, false, false]);
    }
}
