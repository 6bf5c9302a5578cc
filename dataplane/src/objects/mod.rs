//! Objects: units of state with one owner each, the live instance of their class's code on one core.
//!
//! [`Objects`] is what the node has of them: the store (`berth-store`), the table of berths, and the harbour, where an
//! instance waits between two cores. [`CoreObjects`] is what one core has: the objects that live there. What happens to an
//! object is decided by `berth_protocol::ownership`; the core does what it says.
//!
//! ```text
//!   request ─▶ letter ─▶ Event::Message ─▶ Keeper ─▶ effects: look, claim, start, begin a turn, pass on …
//!                             ▲                          │
//!                             └── what came of them ─────┘
//! ```
//!
//! The store starts when the first class is deployed. One process has it at a time, which is the store's to see to.

mod alarms;
mod ask;
mod backup;
#[doc(hidden)]
pub mod bench;
mod berths;
mod by_id;
mod carry;
mod gate;
mod hold;
mod letter;
mod line;
mod live;
mod orders;
mod repeat;
mod room;
mod sockets;
mod start;
mod storage;
mod talk;
mod tally;
mod told;
mod turn;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use berth_isolate_host::object::ObjectInstance;
use berth_protocol::object::{ObjectId, ObjectKey};
use berth_protocol::waits::{self, Chain, Refused, Waits};
use berth_store::disk::RealDisk;
use berth_store::{Config, EngineError, Lead, LeadError, ListenerId, OpenError, Store, StoreId};
use tokio::sync::{Notify, mpsc};

pub use backup::{Backup, BackupError, restore};
pub(crate) use carry::{NotExported, NotImported, read};
pub(crate) use live::CoreObjects;
pub(crate) use orders::NotDone;
pub(crate) use repeat::{WINDOW_DEFAULT, WINDOW_MOST};
pub(crate) use room::Room;
pub(crate) use told::Wanted;

use berths::Berths;
use gate::Gate;
use orders::Order;
use sockets::Sockets;
use storage::{GROUP, Readers};

/// The folder of objects in a node's folder of state.
pub(crate) const FOLDER: &str = "objects";
/// The folder of the store in that.
const DATA: &str = "data";
/// The file with the key of names.
const ID_KEY: &str = "id-key";

/// Why a node has no objects.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// The folder cannot be used.
    #[error("the folder of objects {path} cannot be used")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it.
    #[error("the objects in {path} are in use by another process; they are served when it has ended")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Its log cannot be led.
    #[error(transparent)]
    Lead(#[from] LeadError),
}

/// The objects of a node.
pub(crate) struct Objects {
    folder: PathBuf,
    /// How many may live.
    room: Arc<Room>,
    opened: OnceLock<Opened>,
    opening: Mutex<()>,
    berths: Berths,
    harbour: Mutex<HashMap<ObjectKey, Traveller>>,
    /// Which objects wait for which. A lock for each call of an object or for one; requests of clients take none.
    waits: Mutex<Waits<ObjectKey>>,
    /// An alarm was set, perhaps an early one.
    alarm_set: Notify,
    sockets: Sockets,
    /// By which cores take orders.
    orders: Mutex<HashMap<u16, mpsc::Sender<Order>>>,
    /// Who waits for an object to be handed over.
    notes: Mutex<hold::Notes>,
    /// Held by who makes a snapshot.
    snapshots: Mutex<()>,
}

/// That an object waits for another. Dropped, it does not.
struct Waiting {
    node: Arc<Objects>,
    waiting: Option<waits::Waiting<ObjectKey>>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            lock(&self.node.waits).end(waiting);
        }
    }
}

/// What there is once the store is open.
struct Opened {
    store: Store,
    gate: Arc<Gate>,
    listener: ListenerId,
    readers: Readers,
    /// With it, ids are made of names.
    id_key: [u8; 32],
}

/// An object worker between two cores.
struct Traveller {
    instance: ObjectInstance,
    resident: Arc<live::Resident>,
    place: room::Place,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Objects {
    /// Those that are kept in this folder. Nothing is opened yet.
    pub(crate) fn new(folder: PathBuf, room: Arc<Room>) -> Self {
        Self {
            folder,
            room,
            opened: OnceLock::new(),
            opening: Mutex::new(()),
            berths: Berths::default(),
            harbour: Mutex::default(),
            waits: Mutex::default(),
            alarm_set: Notify::new(),
            sockets: Sockets::new(anywhere()),
            orders: Mutex::default(),
            notes: Mutex::default(),
            snapshots: Mutex::default(),
        }
    }

    /// Opens the store, if it is not open. It reads what is not in the engine yet: not for a core.
    pub(crate) fn open(&self) -> Result<(), ObjectsError> {
        let _one = lock(&self.opening);
        if self.opened.get().is_none() {
            let opened = Opened::open(&self.folder)?;
            if let Err(error) = self.room.watch_memory() {
                tracing::error!(%error, "objects.memory: no thread looks whether it is short");
            }
            let _ = self.opened.set(opened);
        }
        Ok(())
    }

    /// How many may live, and do.
    pub(crate) fn room(&self) -> &Arc<Room> {
        &self.room
    }

    fn opened(&self) -> Option<&Opened> {
        self.opened.get()
    }

    /// Brings everything into the engine, so that the next start reads nothing again. Called when no core runs any more.
    pub(crate) fn close(&self) -> Result<(), EngineError> {
        match self.opened.get() {
            Some(opened) => opened.store.clone().close(),
            None => Ok(()),
        }
    }

    /// Whoever this chain ends with begins to wait for an object, unless that waits for it already. The chain is the longer
    /// one, which ends with the object.
    fn wait(
        self: &Arc<Self>,
        chain: &Chain<ObjectKey>,
        object: ObjectKey,
    ) -> Result<(Chain<ObjectKey>, Option<Waiting>), Refused> {
        let longer = chain.by_object(object)?;
        if chain.objects().is_empty() {
            return Ok((longer, None));
        }
        let waiting = lock(&self.waits).begin(chain, &object)?;
        Ok((longer, Some(Waiting { node: Arc::clone(self), waiting: Some(waiting) })))
    }

    /// The id of the object of this name.
    pub(crate) fn id(&self, zone: &str, class: &str, name: &str) -> Option<ObjectId> {
        Some(ObjectId::named(&self.opened()?.id_key, zone, class, name))
    }

    /// The core where an object lives, or is about to.
    pub(crate) fn core(&self, object: &ObjectKey) -> Option<u16> {
        self.berths.find(object).core().map(|core| u16::from(core.0))
    }
}

impl Opened {
    fn open(folder: &Path) -> Result<Self, ObjectsError> {
        let unusable = |source| ObjectsError::Folder { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(unusable)?;
        let disk = RealDisk::open(folder.join(DATA)).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => ObjectsError::InUse { path: folder.to_owned() },
            _ => unusable(source),
        })?;
        let id_key = keep_random(&folder.join(ID_KEY)).map_err(unusable)?;
        let mut store_id = [0; 16];
        fill(&mut store_id).map_err(unusable)?;
        let store = Store::open(Arc::new(disk), Config::default(), StoreId(store_id))?;
        for damage in store.damage() {
            tracing::error!(?damage, "objects.damaged");
        }
        store.lead(GROUP, Lead::Next)?;
        let gate = Arc::new(Gate::default());
        let listener = store.register(Arc::clone(&gate) as _);
        let readers = Readers::start().map_err(unusable)?;
        Ok(Self { store, gate, listener, readers, id_key })
    }
}

fn fill(bytes: &mut [u8]) -> io::Result<()> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| io::Error::other("the system gives no random bytes"))
}

/// A number to begin with. Without random bytes it is 1.
fn anywhere() -> u64 {
    let mut bytes = [0; 8];
    match fill(&mut bytes) {
        // Far from the end, and small enough for languages whose numbers have 53 bits.
        Ok(()) => u64::from_le_bytes(bytes) >> 12,
        Err(_) => 1,
    }
}

/// Random bytes that are made once and kept.
fn keep_random(path: &Path) -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    match File::open(path) {
        Ok(mut file) => {
            file.read_exact(&mut bytes)?;
            return Ok(bytes);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    fill(&mut bytes)?;
    keep(path, &bytes)?;
    Ok(bytes)
}

/// Keeps bytes under a name, wholly or not at all.
fn keep(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    // Without the name, objects that have a name would be others after a power cut.
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
