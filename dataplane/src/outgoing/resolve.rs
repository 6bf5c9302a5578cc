//! Names to addresses, without a core that waits.
//!
//! The machine's own resolver answers (`getaddrinfo`), which blocks; so a few threads of the process ask it, and an answer
//! comes back to its core as a wake-up. A name server that does not answer holds a thread for many seconds, and anybody
//! can own one: so zones take turns, none has more than half of the threads or a quarter of the queue, and whoever does
//! not wait any more is skipped.
//!
//! A core remembers answers for a few seconds, and those who ask for the same name at once ask once. It does so for each
//! zone by itself, so that no zone learns from the time of an answer what another has asked.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::{Future, ready};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{Shared, WeakShared};
use tokio::sync::oneshot;

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// There is no such name, or it has no address.
    #[error("the name does not exist or has no address")]
    NotFound,
    /// The resolver failed.
    #[error("{0}")]
    Failed(Arc<str>),
    /// Too many names wait.
    #[error("too many names wait to be resolved")]
    Busy,
}

/// Addresses, in the order in which they should be tried.
pub type Answer = Result<Arc<[IpAddr]>, ResolveError>;

/// A look-up on its way. Dropping it gives it up.
pub type Lookup = Pin<Box<dyn Future<Output = Answer>>>;

/// What resolves names for a core.
pub trait Resolve {
    /// The addresses of a host that is a name, for a zone.
    fn resolve(&self, zone: &Arc<str>, host: &str) -> Lookup;
}

/// The addresses that need no look-up: of a literal, and of names that are the machine itself (RFC 6761, 6.3).
pub(super) fn known(host: &str) -> Option<Arc<[IpAddr]>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Some(Arc::new([address]));
    }
    (host == "localhost" || host.ends_with(".localhost")).then(|| {
        Arc::new([IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]) as Arc<[IpAddr]>
    })
}

/// How many threads resolve, and how many names wait for them.
#[derive(Debug, Clone)]
pub struct ResolverOptions {
    /// Threads of the process, at least two.
    pub threads: usize,
    /// Names that wait.
    pub queue: usize,
}

impl Default for ResolverOptions {
    fn default() -> Self {
        // Threads only sleep. Four, so that two zones whose names are slow leave two for all others.
        Self { threads: 4, queue: 256 }
    }
}

/// What looks a name up, on a thread that may block.
type Ask = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// The threads of a process that resolve names. They end when this is dropped, once they have an answer.
pub struct Resolvers(Arc<Hall>);

/// Where names wait for threads.
struct Hall {
    queue: Mutex<Queue>,
    /// A name was added, a thread is free, or all is over.
    changed: Condvar,
    ask: Box<Ask>,
    queue_max: usize,
    /// Threads that one zone may have.
    zone_threads_max: usize,
}

#[derive(Default)]
struct Queue {
    zones: HashMap<Arc<str>, Line>,
    /// Zones with names that wait, in the order of their turns.
    turns: VecDeque<Arc<str>>,
    waiting: usize,
    over: bool,
}

/// What one zone has.
#[derive(Default)]
struct Line {
    waiting: VecDeque<Job>,
    running: usize,
}

struct Job {
    host: Box<str>,
    answer: oneshot::Sender<Answer>,
}

impl Resolvers {
    /// Starts the threads. Called before cores are pinned: threads inherit the CPU of who starts them.
    pub fn start(options: &ResolverOptions) -> io::Result<Self> {
        Self::with(options, ask_system)
    }

    /// The same, with something else that looks names up; it may block.
    pub fn with(
        options: &ResolverOptions,
        ask: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let threads = options.threads.max(2);
        let hall = Arc::new(Hall {
            queue: Mutex::default(),
            changed: Condvar::new(),
            ask: Box::new(ask),
            queue_max: options.queue,
            zone_threads_max: threads / 2,
        });
        // Made first: should a thread fail to start, its drop ends those that did.
        let resolvers = Self(Arc::clone(&hall));
        for index in 0..threads {
            let hall = Arc::clone(&hall);
            std::thread::Builder::new().name(format!("resolve-{index}")).spawn(move || hall.work())?;
        }
        Ok(resolvers)
    }

    fn ask(&self, zone: &Arc<str>, host: &str) -> Result<oneshot::Receiver<Answer>, ResolveError> {
        let mut queue = self.0.lock();
        let line = queue.zones.get(zone).map_or(0, |line| line.waiting.len());
        if queue.waiting >= self.0.queue_max || line >= (self.0.queue_max / 4).max(1) {
            return Err(ResolveError::Busy);
        }
        queue.waiting += 1;
        let (answer, answered) = oneshot::channel();
        let line = queue.zones.entry(Arc::clone(zone)).or_default();
        line.waiting.push_back(Job { host: host.into(), answer });
        if line.waiting.len() == 1 {
            queue.turns.push_back(Arc::clone(zone));
        }
        drop(queue);
        self.0.changed.notify_one();
        Ok(answered)
    }
}

impl Drop for Resolvers {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.changed.notify_all();
    }
}

impl Hall {
    /// A panic under this lock would be a mistake of ours that leaves a queue which is still whole.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of a thread.
    fn work(&self) {
        let mut queue = self.lock();
        while !queue.over {
            let Some((zone, job)) = queue.take(self.zone_threads_max) else {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(queue);
            if !job.answer.is_closed() {
                let _ = job.answer.send((self.ask)(&job.host).map(Arc::from).map_err(|error| sort(&error)));
            }
            queue = self.lock();
            queue.done(&zone);
            // A name of this zone may have waited for its bound.
            self.changed.notify_one();
        }
    }
}

impl Queue {
    /// The next name, of the next zone that may have another thread.
    fn take(&mut self, zone_threads_max: usize) -> Option<(Arc<str>, Job)> {
        for _ in 0..self.turns.len() {
            let zone = self.turns.pop_front()?;
            let line = self.zones.get_mut(&zone)?;
            if line.running >= zone_threads_max {
                self.turns.push_back(zone);
                continue;
            }
            let job = line.waiting.pop_front()?;
            line.running += 1;
            self.waiting -= 1;
            if !line.waiting.is_empty() {
                self.turns.push_back(Arc::clone(&zone));
            }
            return Some((zone, job));
        }
        None
    }

    fn done(&mut self, zone: &str) {
        let Some(line) = self.zones.get_mut(zone) else { return };
        line.running -= 1;
        if line.running == 0 && line.waiting.is_empty() {
            self.zones.remove(zone);
        }
    }
}

/// Asks the resolver of the machine.
fn ask_system(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

/// Tells names that do not exist from resolvers that fail. The standard library keeps the text of the error only; a text
/// that is not known is a failure.
fn sort(error: &io::Error) -> ResolveError {
    let text = error.to_string();
    // The words of glibc, and of musl.
    let words =
        ["Name or service not known", "No address associated", "Name does not resolve", "Name has no usable"];
    if words.iter().any(|words| text.contains(words)) {
        return ResolveError::NotFound;
    }
    ResolveError::Failed(text.into())
}

/// How long a core remembers that a name has these addresses. Short, because the time that its owner asks for is not told.
const FOUND_FOR: Duration = Duration::from_secs(5);
/// How long it remembers that it has none.
const MISSED_FOR: Duration = Duration::from_secs(1);
/// Names that a core remembers, at some 200 bytes each. One more, and the one that would go first is forgotten.
const REMEMBERED_MAX: usize = 1024;

/// The resolver of one core: the threads of the process, and what the core remembers.
pub struct CoreResolver {
    resolvers: Arc<Resolvers>,
    memory: Rc<RefCell<Memory>>,
}

type Key = (Arc<str>, Box<str>);

#[derive(Default)]
struct Memory(HashMap<Key, Remembered>);

enum Remembered {
    /// It is being asked for; nobody waits any more when it cannot be upgraded.
    Asking(WeakShared<Lookup>),
    /// The answer, and until when.
    Known(Answer, Instant),
}

impl Remembered {
    /// When it may be forgotten.
    fn until(&self, now: Instant) -> Instant {
        match self {
            Remembered::Known(_, until) => *until,
            Remembered::Asking(asking) if asking.upgrade().is_none() => now,
            Remembered::Asking(_) => now + FOUND_FOR,
        }
    }
}

impl CoreResolver {
    /// The resolver of a core.
    pub fn new(resolvers: Arc<Resolvers>) -> Self {
        Self { resolvers, memory: Rc::default() }
    }
}

impl Resolve for CoreResolver {
    fn resolve(&self, zone: &Arc<str>, host: &str) -> Lookup {
        let now = berth_runtime::now();
        let key: Key = (Arc::clone(zone), host.into());
        match self.memory.borrow().0.get(&key) {
            Some(Remembered::Known(answer, until)) if now < *until => return Box::pin(ready(answer.clone())),
            Some(Remembered::Asking(asking)) => {
                if let Some(shared) = asking.upgrade() {
                    return Box::pin(shared);
                }
            }
            _ => {}
        }
        let answered = match self.resolvers.ask(zone, host) {
            Ok(answered) => answered,
            Err(error) => return Box::pin(ready(Err(error))),
        };
        let shared = ask_once(Rc::clone(&self.memory), key.clone(), answered);
        if let Some(weak) = shared.downgrade() {
            self.memory.borrow_mut().keep(key, Remembered::Asking(weak), now);
        }
        Box::pin(shared)
    }
}

/// Waits for an answer and remembers it.
fn ask_once(memory: Rc<RefCell<Memory>>, key: Key, answered: oneshot::Receiver<Answer>) -> Shared<Lookup> {
    let lookup = async move {
        let gone = Err(ResolveError::Failed("the resolver of this node has ended".into()));
        let answer = answered.await.unwrap_or(gone);
        let now = berth_runtime::now();
        let time = if answer.is_ok() { FOUND_FOR } else { MISSED_FOR };
        memory.borrow_mut().keep(key, Remembered::Known(answer.clone(), now + time), now);
        answer
    };
    (Box::pin(lookup) as Lookup).shared()
}

impl Memory {
    fn keep(&mut self, key: Key, remembered: Remembered, now: Instant) {
        if self.0.len() >= REMEMBERED_MAX && !self.0.contains_key(&key) {
            self.0.retain(|_, one| one.until(now) > now);
        }
        if self.0.len() >= REMEMBERED_MAX && !self.0.contains_key(&key) {
            let first = self.0.iter().min_by_key(|(_, one)| one.until(now)).map(|(key, _)| key.clone());
            first.and_then(|key| self.0.remove(&key));
        }
        self.0.insert(key, remembered);
    }
}
