//! Workers: guests that answer requests, on the core that has the connection.
//!
//! [`Workers`] is what the node has of them: the zones, and the library of scripts with its engine, which starts when the
//! first zone is there. [`CoreWorkers`] is what one core has: it runs calls (`call`), gives each its world (`world`), and
//! sends what guests send (`send`): to a zone of this node in process, to others over sockets.

mod call;
mod homes;
mod out;
mod reach;
mod send;
mod world;

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use berth_isolate_host::compile::{Budget, CompileError, Compiler};
use berth_isolate_host::library::{Entry, Library, OpenError, ScriptId};
use berth_isolate_host::{Host, HostError, Machine, Script, Settings as HostSettings, Stacks};
use berth_protocol::link::with_causes;
use tokio::sync::broadcast;

use crate::clock;
use crate::config::Limits;
use crate::drain::Drain;
use crate::enforce::{Enforce, SafeDefaults};
use crate::hops::Hops;
use crate::objects::{CoreObjects, Objects, ObjectsError, Room};
use crate::outgoing::{Client, ClientNumbers, ClientOptions, CoreResolver, ResolverOptions, Resolvers, Tls};
use crate::stats::CoreNumbers;
use crate::zones::{DeployError, Document, StoreError, Worker, Wrong, Zones};
pub(crate) use call::{fault_problem, path, report_fault, tell_guest};
pub(crate) use send::Way;
pub(crate) use world::Context;
use world::CoreLinks;
pub use world::GuestLine;

/// Lines that wait for those who follow the log of guests; who falls further behind misses some, and is told.
const TAIL_LINES: usize = 1024;

/// How often it is tried to open the objects that another process has.
const OPEN_AGAIN: Duration = Duration::from_millis(200);

/// What the node decides of its workers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node's folder of state.
    pub state: PathBuf,
    /// Calls that run at a time.
    pub instances: u32,
    /// What becomes of their stacks.
    pub stacks: Stacks,
    /// Objects that live at a time. None: as many as there is room for.
    pub resident: Option<u32>,
    /// Time without a turn after which one is given up.
    pub idle_after: Duration,
    /// Bytes of code that are loaded.
    pub code_bytes: usize,
    /// What compiling one component may cost.
    pub budget: Budget,
}

/// Why a node has no workers.
#[derive(Debug, thiserror::Error)]
pub enum WorkersError {
    /// The zones that are kept cannot be read.
    #[error(transparent)]
    Zones(#[from] StoreError),
    /// The library cannot be opened.
    #[error(transparent)]
    Library(#[from] OpenError),
    /// The engine does not start.
    #[error("the engine of workers does not start: {0}")]
    Engine(#[from] HostError),
    /// Names cannot be resolved.
    #[error("no threads to resolve names")]
    Resolvers(#[source] std::io::Error),
    /// TLS to others cannot be set up.
    #[error("TLS to other servers")]
    Tls(#[from] rustls::Error),
}

/// The zones and scripts of a node.
pub struct Workers {
    settings: Settings,
    /// The zones.
    pub zones: Zones,
    library: OnceLock<Arc<Library>>,
    opening: Mutex<()>,
    lines: broadcast::Sender<Arc<GuestLine>>,
    /// What guests may reach.
    reach: Arc<ArcSwap<SafeDefaults>>,
    /// Held by who looks what that is now.
    looking: Mutex<()>,
    resolvers: Arc<Resolvers>,
    tls: Tls,
    /// The objects of the node.
    objects: Arc<Objects>,
}

impl Workers {
    /// Reads what is kept. The engine starts only if there is a zone.
    pub fn open(settings: Settings) -> Result<Arc<Self>, WorkersError> {
        let zones = Zones::open(&settings.state.join("zones"))?;
        let lines = broadcast::Sender::new(TAIL_LINES);
        let resolvers = Resolvers::start(&ResolverOptions::default()).map_err(WorkersError::Resolvers)?;
        let tls = Tls::of_this_machine()?;
        let objects = Arc::new(Objects::new(settings.state.join(crate::objects::FOLDER), room(&settings)));
        let workers = Self {
            settings,
            zones,
            library: OnceLock::new(),
            opening: Mutex::new(()),
            lines,
            reach: Arc::default(),
            looking: Mutex::new(()),
            resolvers: Arc::new(resolvers),
            tls,
            objects,
        };
        if !workers.zones.is_empty() {
            workers.library()?;
        }
        let workers = Arc::new(workers);
        if workers.zones.has_classes() {
            workers.open_objects();
        }
        let watching = Arc::downgrade(&workers);
        let watched = reach::watch(move || watching.upgrade().map(|workers| workers.look_again()).is_some());
        if let Err(error) = watched {
            tracing::warn!(%error, "addresses.unwatched");
        }
        // Watched first: what changes meanwhile is seen.
        workers.look_again();
        Ok(workers)
    }

    /// Judges requests of guests by the zones and addresses that there are now.
    fn look_again(&self) {
        let _one = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        self.reach.store(Arc::new(reach::now(&self.zones)));
    }

    /// The library, opened if it is not.
    pub fn library(&self) -> Result<&Arc<Library>, WorkersError> {
        let _one = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = self.library.get() {
            return Ok(library);
        }
        let host = Host::new(&HostSettings {
            instances: self.settings.instances,
            stacks: self.settings.stacks,
            places: self.objects.room().places(),
        })?;
        // The program that runs, also when another one was installed in its place meanwhile.
        let program = PathBuf::from("/proc/self/exe");
        let arguments = vec!["compile-script".to_owned()];
        let compiler = Compiler { program, arguments, budget: self.settings.budget.clone() };
        let library =
            Library::open(&self.settings.state.join("scripts"), host, compiler, self.settings.code_bytes)?;
        Ok(self.library.get_or_init(|| library))
    }

    /// The library, if it was opened.
    pub fn opened_library(&self) -> Option<&Arc<Library>> {
        self.library.get()
    }

    /// The entry of a worker's script.
    fn entry<'w>(&self, worker: &'w Worker) -> Option<&'w Arc<Entry>> {
        let library = self.library.get()?;
        Some(worker.entry.get_or_init(|| library.entry(worker.script)))
    }

    /// Opens the objects. A node whose objects cannot be had serves everything else; those of a process that still ends it
    /// has as soon as that is over.
    fn open_objects(&self) {
        let waits = match self.objects.open() {
            Ok(()) => return,
            Err(error) => {
                tracing::error!(error = with_causes(&error), "objects.closed");
                matches!(error, ObjectsError::InUse { .. })
            }
        };
        if waits {
            let objects = Arc::downgrade(&self.objects);
            let waiting = std::thread::Builder::new().name("objects-open".into()).spawn(move || {
                while let Some(objects) = objects.upgrade() {
                    match objects.open() {
                        Ok(()) => return tracing::info!("objects.opened"),
                        Err(ObjectsError::InUse { .. }) => {}
                        Err(error) => return tracing::error!(error = with_causes(&error), "objects.closed"),
                    }
                    drop(objects);
                    std::thread::sleep(OPEN_AGAIN);
                }
            });
            if let Err(error) = waiting {
                tracing::error!(%error, "objects.closed: no thread waits for them; deploy again when they are free");
            }
        }
    }

    /// The objects.
    pub(crate) fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Brings the objects' state into order for the next start. Called when no core runs any more.
    pub(crate) fn close(&self) {
        if let Err(error) = self.objects.close() {
            tracing::error!(error = with_causes(&error), "objects.close");
        }
    }

    /// Takes a component. It waits for the compiler: not for a core.
    pub fn upload(&self, component: &[u8]) -> Result<ScriptId, UploadError> {
        Ok(self.library()?.add(component)?)
    }

    /// Deploys a zone.
    pub fn deploy(&self, name: &str, document: Document) -> Result<u64, DeployError> {
        let library = self.library.get();
        let is_here = |id| library.is_some_and(|library| library.has(id));
        document.check()?;
        self.check_kinds(&document)?;
        if !document.objects.is_empty() {
            self.objects.open()?;
        }
        let version = self.zones.deploy(name, document, &is_here, clock::now_s())?;
        self.look_again();
        Ok(version)
    }

    /// Whether workers are workers and classes are classes. What is not here is somebody else's to say.
    fn check_kinds(&self, document: &Document) -> Result<(), DeployError> {
        let Some(library) = self.library.get() else { return Ok(()) };
        let workers = document.workers.iter().map(|(name, worker)| ("workers", name, &worker.script, false));
        let classes = document.objects.iter().map(|(name, class)| ("objects", name, &class.script, true));
        let mut wrong = Vec::new();
        for (kind, name, script, is_class) in workers.chain(classes) {
            let Some(id) = ScriptId::parse(script).filter(|id| library.has(*id)) else { continue };
            let words = match wait(library.script(&library.entry(id))) {
                Ok(script) if script.is_class() == is_class => continue,
                Ok(_) if is_class => {
                    "it answers requests, but exports no berth:object/events: it is a worker".to_owned()
                }
                Ok(_) => "it exports berth:object/events: it is a class of objects".to_owned(),
                Err(error) => error.to_string(),
            };
            wrong.push(format!("{kind}.{name}.script: {words}"));
        }
        if wrong.is_empty() { Ok(()) } else { Err(Wrong(wrong).into()) }
    }

    /// Lets a version that was deployed before answer again.
    pub fn roll_back(&self, name: &str, to: Option<u64>) -> Result<u64, DeployError> {
        let version = self.zones.roll_back(name, to)?;
        if self.zones.has_classes() {
            self.objects.open()?;
        }
        self.look_again();
        Ok(version)
    }

    /// Forgets a zone.
    pub fn remove(&self, name: &str) -> Result<(), DeployError> {
        self.zones.remove(name)?;
        self.look_again();
        Ok(())
    }

    /// What guests log from now on.
    pub fn follow(&self) -> broadcast::Receiver<Arc<GuestLine>> {
        self.lines.subscribe()
    }
}

/// The room that objects have, which the log tells.
fn room(settings: &Settings) -> Arc<Room> {
    let room = Machine::look().room(settings.instances, settings.resident);
    tracing::info!(places = room.places, bound = %room.bound, "objects.room");
    if let Some(wish) = settings.resident.filter(|wish| *wish > room.places) {
        tracing::warn!(wish, places = room.places, bound = %room.bound, "objects.room: less than objects.resident; `berth doctor` says how to raise it");
    }
    Arc::new(Room::new(room.places, settings.idle_after))
}

/// Waits for a future on a thread that may.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(value) => return value,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

/// Why an upload is refused.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The component is.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The node has no engine.
    #[error(transparent)]
    Workers(#[from] WorkersError),
}

/// The workers of one core.
pub struct CoreWorkers {
    workers: Arc<Workers>,
    links: Arc<CoreLinks>,
    /// What sends requests to other servers.
    client: Client,
    /// Of the next request: the first half is this core's alone.
    next_request: Cell<u64>,
    /// The objects that live here.
    pub(crate) objects: CoreObjects,
}

impl CoreWorkers {
    /// Starts the workers of the core that calls this.
    pub fn start(
        index: u16,
        workers: &Arc<Workers>,
        numbers: &Arc<CoreNumbers>,
        outgoing: &Arc<ClientNumbers>,
        hops: &Rc<Hops>,
        (limits, drain): (&Limits, &Drain),
    ) -> Rc<Self> {
        Host::enter_thread();
        let client = Client::new(
            CoreResolver::new(Arc::clone(&workers.resolvers)),
            Arc::clone(&workers.reach) as Arc<dyn Enforce>,
            workers.tls.clone(),
            ClientOptions::default(),
            Arc::clone(outgoing),
        );
        let objects = |core: &Weak<Self>| {
            let (node, numbers) = (Arc::clone(&workers.objects), Arc::clone(numbers));
            let manner = (Rc::new(limits.clone()), drain.clone());
            CoreObjects::new(index, node, Rc::clone(hops), numbers, manner, Weak::clone(core))
        };
        let core = Rc::new_cyclic(|core| Self {
            client,
            workers: Arc::clone(workers),
            links: Arc::new(CoreLinks { lines: workers.lines.clone(), numbers: Arc::clone(numbers) }),
            next_request: Cell::new(first_request(index)),
            objects: objects(core),
        });
        CoreObjects::attend(&core);
        core
    }

    /// The script of a worker or class, loaded if it is not.
    pub(crate) async fn script(&self, worker: &Worker) -> Result<Arc<Script>, String> {
        let (Some(entry), Some(library)) = (self.workers.entry(worker), self.workers.opened_library()) else {
            return Err("the node has no engine".to_owned());
        };
        library.script(entry).await.map_err(|error| error.to_string())
    }

    /// Who decides what is allowed.
    pub(crate) fn enforce(&self) -> &dyn Enforce {
        &*self.workers.reach
    }

    /// The zones.
    pub fn zones(&self) -> &Zones {
        &self.workers.zones
    }

    pub(crate) fn new_request(&self) -> u64 {
        self.next_request.replace(self.next_request.get().wrapping_add(1))
    }
}

/// Ids are told apart between cores, and in all likelihood between starts and nodes.
fn first_request(index: u16) -> u64 {
    let mut random = [0; 4];
    // Without random bytes they are told apart between cores only.
    let _ = aws_lc_rs::rand::fill(&mut random);
    (u64::from(u32::from_le_bytes(random)) << 32) ^ (u64::from(index) << 24)
}
