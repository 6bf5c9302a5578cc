//! The library: scripts by the hash of their bytes, their code on disk, and those that are loaded.
//!
//! A script is stored once it has been compiled, so nothing that this node refuses is ever kept. Its code is loaded when
//! somebody first wants it: by one thread, once, however many wait for it. What is loaded is bounded; the code that was
//! not wanted for the longest time goes first, and calls that use it keep it until they end.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::future::poll_fn;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest;
use berth_isolate_image::{self as image, ImageError, Key};
use berth_protocol::link::with_causes;

use crate::compile::{self, CompileError, Compiler};
use crate::engine::{Host, HostError, Script};

/// How long nobody writes at one file.
const HALF_WRITTEN_FOR: Duration = Duration::from_secs(3600);

/// The SHA-256 of a component.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScriptId([u8; 32]);

impl ScriptId {
    /// Of these bytes.
    pub fn of(component: &[u8]) -> Self {
        let mut id = [0; 32];
        id.copy_from_slice(digest::digest(&digest::SHA256, component).as_ref());
        Self(id)
    }

    /// Reads 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: Option<Vec<u8>> = text.chars().map(|digit| Some(digit.to_digit(16)? as u8)).collect();
        let digits = digits.filter(|digits| digits.len() == 64)?;
        let mut id = [0; 32];
        id.iter_mut().zip(digits.chunks_exact(2)).for_each(|(byte, pair)| *byte = pair[0] << 4 | pair[1]);
        Some(Self(id))
    }
}

impl fmt::Display for ScriptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ScriptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Why a script cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// Nobody uploaded it, or it was removed.
    #[error("the script {0} is not here; upload it again")]
    Unknown(ScriptId),
    /// It cannot be compiled any more, or its code is not what this node wrote and cannot be made anew.
    #[error("the script {id} cannot be loaded: {reason}")]
    Failed {
        /// Which.
        id: ScriptId,
        /// Why.
        reason: String,
    },
}

/// Why there is no library.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its folder cannot be used.
    #[error("the folder of scripts {path} cannot be used")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no engine.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// A script that somebody may want.
pub struct Entry {
    id: ScriptId,
    loaded: ArcSwapOption<Script>,
    /// When it was last wanted: twice the number of loads that the library had done then. A load of its own is a moment
    /// between what was wanted before and after it.
    wanted: AtomicU64,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    under_way: bool,
    wakers: Vec<Waker>,
    failed: Option<LoadError>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the library has done.
#[derive(Debug, Default)]
pub struct LibraryNumbers {
    /// Scripts loaded.
    pub loads: AtomicU64,
    /// Scripts given up for others.
    pub evictions: AtomicU64,
    /// Components compiled.
    pub compiles: AtomicU64,
    /// Files of code that were not what this node wrote.
    pub forged: AtomicU64,
}

/// Scripts of one node.
pub struct Library {
    folder: PathBuf,
    key: Key,
    engine_name: String,
    host: Host,
    compiler: Compiler,
    bytes_max: usize,
    entries: Mutex<HashMap<ScriptId, Arc<Entry>>>,
    numbers: LibraryNumbers,
    loads: Sender<Arc<Entry>>,
    compiles: Sender<Arc<Entry>>,
}

impl Library {
    /// Opens the folder, and starts the threads that load. At most `bytes_max` bytes of code are loaded.
    pub fn open(
        folder: &Path,
        host: Host,
        compiler: Compiler,
        bytes_max: usize,
    ) -> Result<Arc<Self>, OpenError> {
        let unusable = |source| OpenError::Folder { path: folder.to_owned(), source };
        for part in ["components", "code"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).and_then(|()| sweep(&part)).map_err(unusable)?;
        }
        let key = open_key(&folder.join("key")).map_err(unusable)?;
        let engine_name = compile::engine_name()?;
        let (loads, to_load) = channel();
        let (compiles, to_compile) = channel();
        let library = Arc::new(Self {
            folder: folder.to_owned(),
            key,
            engine_name,
            host,
            compiler,
            bytes_max,
            entries: Mutex::default(),
            numbers: LibraryNumbers::default(),
            loads,
            compiles,
        });
        start("scripts-load", &library, to_load, |library, entry| match library.load(entry.id) {
            Err(LoadFailed::NotCompiled) => {
                let _ = library.compiles.send(entry);
            }
            outcome => library.settle(&entry, outcome),
        })
        .map_err(unusable)?;
        start("scripts-compile", &library, to_compile, |library, entry| {
            let outcome = library.compile_again(entry.id).and_then(|()| library.load(entry.id));
            library.settle(&entry, outcome);
        })
        .map_err(unusable)?;
        Ok(library)
    }

    /// The host that runs what is here.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// What was done.
    pub fn numbers(&self) -> &LibraryNumbers {
        &self.numbers
    }

    /// Scripts that are loaded, and their bytes.
    pub fn loaded(&self) -> (usize, usize) {
        let entries = lock(&self.entries);
        let sizes = entries.values().filter_map(|entry| Some(entry.loaded.load().as_ref()?.bytes()));
        sizes.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size))
    }

    /// Takes a component: compiles it, unless it is here, and keeps it. Waits: not for a core.
    pub fn add(&self, component: &[u8]) -> Result<ScriptId, CompileError> {
        let id = ScriptId::of(component);
        if self.component_path(id).exists() && self.code_path(id).exists() {
            return Ok(id);
        }
        let code = self.compiler.compile(component)?;
        self.numbers.compiles.fetch_add(1, Relaxed);
        image::write(&self.code_path(id), &self.image_name(id), &code, &self.key)?;
        image::write_whole(&self.component_path(id), &[component])?;
        Ok(id)
    }

    /// Whether a script is kept here.
    pub fn has(&self, id: ScriptId) -> bool {
        self.component_path(id).exists()
    }

    /// Whether a script is loaded.
    pub fn is_loaded(&self, id: ScriptId) -> bool {
        lock(&self.entries).get(&id).is_some_and(|entry| entry.loaded.load().is_some())
    }

    /// The bytes of a component that is here.
    pub fn component(&self, id: ScriptId) -> io::Result<Vec<u8>> {
        fs::read(self.component_path(id))
    }

    /// All scripts that are kept, with their sizes.
    pub fn list(&self) -> io::Result<Vec<(ScriptId, u64)>> {
        let mut scripts = Vec::new();
        for file in fs::read_dir(self.folder.join("components"))? {
            let file = file?;
            let name = file.file_name();
            let id = name.to_str().and_then(|name| ScriptId::parse(name.strip_suffix(".wasm")?));
            if let Some(id) = id {
                scripts.push((id, file.metadata()?.len()));
            }
        }
        scripts.sort_unstable();
        Ok(scripts)
    }

    /// Forgets a script. Calls that run go on.
    pub fn remove(&self, id: ScriptId) -> io::Result<()> {
        fs::remove_file(self.component_path(id))?;
        let _ = fs::remove_file(self.code_path(id));
        lock(&self.entries).remove(&id);
        Ok(())
    }

    /// A script by its id. It is loaded when it is first wanted.
    pub fn entry(&self, id: ScriptId) -> Arc<Entry> {
        let mut entries = lock(&self.entries);
        let new = || {
            Arc::new(Entry {
                id,
                loaded: ArcSwapOption::empty(),
                wanted: AtomicU64::new(0),
                waiting: Mutex::default(),
            })
        };
        Arc::clone(entries.entry(id).or_insert_with(new))
    }

    /// The script of an entry, loaded if it must be.
    pub async fn script(&self, entry: &Arc<Entry>) -> Result<Arc<Script>, LoadError> {
        let now = 2 * self.numbers.loads.load(Relaxed);
        if entry.wanted.load(Relaxed) != now {
            entry.wanted.store(now, Relaxed);
        }
        if let Some(script) = entry.loaded.load_full() {
            return Ok(script);
        }
        let mut asked = false;
        poll_fn(|cx| self.poll_script(entry, &mut asked, cx)).await
    }

    fn poll_script(
        &self,
        entry: &Arc<Entry>,
        asked: &mut bool,
        cx: &Context<'_>,
    ) -> Poll<Result<Arc<Script>, LoadError>> {
        let mut waiting = lock(&entry.waiting);
        if let Some(script) = entry.loaded.load_full() {
            return Poll::Ready(Ok(script));
        }
        if *asked && !waiting.under_way {
            let unknown = || LoadError::Unknown(entry.id);
            return Poll::Ready(Err(waiting.failed.clone().unwrap_or_else(unknown)));
        }
        *asked = true;
        waiting.wakers.push(cx.waker().clone());
        if !std::mem::replace(&mut waiting.under_way, true) && self.loads.send(Arc::clone(entry)).is_err() {
            waiting.under_way = false;
        }
        Poll::Pending
    }

    fn settle(&self, entry: &Arc<Entry>, outcome: Result<Script, LoadFailed>) {
        let mut waiting = lock(&entry.waiting);
        waiting.under_way = false;
        match outcome {
            Ok(script) => {
                waiting.failed = None;
                entry.wanted.store(2 * self.numbers.loads.fetch_add(1, Relaxed) + 1, Relaxed);
                entry.loaded.store(Some(Arc::new(script)));
            }
            Err(LoadFailed::Unknown) => waiting.failed = Some(LoadError::Unknown(entry.id)),
            Err(LoadFailed::NotCompiled) => {}
            Err(LoadFailed::Other(reason)) => {
                tracing::error!(script = %entry.id, reason, "script.load failed");
                waiting.failed = Some(LoadError::Failed { id: entry.id, reason });
            }
        }
        let wakers = std::mem::take(&mut waiting.wakers);
        drop(waiting);
        self.make_room(entry);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Gives up what was not wanted for the longest time.
    fn make_room(&self, keep: &Arc<Entry>) {
        let entries = lock(&self.entries);
        let size = |entry: &Arc<Entry>| entry.loaded.load().as_ref().map(|script| script.bytes());
        let mut loaded: Vec<(u64, usize, &Arc<Entry>)> = entries
            .values()
            .filter_map(|entry| Some((entry.wanted.load(Relaxed), size(entry)?, entry)))
            .collect();
        let mut bytes: usize = loaded.iter().map(|(_, size, _)| size).sum();
        loaded.sort_unstable_by_key(|(wanted, ..)| *wanted);
        for (_, size, entry) in loaded {
            if bytes <= self.bytes_max {
                break;
            }
            if !Arc::ptr_eq(entry, keep) {
                entry.loaded.store(None);
                self.numbers.evictions.fetch_add(1, Relaxed);
                bytes -= size;
            }
        }
    }

    fn load(&self, id: ScriptId) -> Result<Script, LoadFailed> {
        if !self.component_path(id).exists() {
            return Err(LoadFailed::Unknown);
        }
        self.host.adopt(|engine| {
            let (path, name) = (self.code_path(id), self.image_name(id));
            image::load(engine, &path, &name, &self.key).map_err(|error| self.not_loaded(id, &error))
        })
    }

    fn not_loaded(&self, id: ScriptId, error: &ImageError) -> LoadFailed {
        match error {
            ImageError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                LoadFailed::NotCompiled
            }
            ImageError::Forged { .. } | ImageError::Engine { .. } => {
                tracing::error!(script = %id, %error, "script.code is not used; it is compiled again");
                self.numbers.forged.fetch_add(1, Relaxed);
                LoadFailed::NotCompiled
            }
            error => LoadFailed::Other(with_causes(error)),
        }
    }

    /// After a change of the engine, or of the file.
    fn compile_again(&self, id: ScriptId) -> Result<(), LoadFailed> {
        let failed = |error: &dyn std::error::Error| LoadFailed::Other(with_causes(error));
        let component = self.component(id).map_err(|error| failed(&error))?;
        if ScriptId::of(&component) != id {
            return Err(LoadFailed::Other("its component was changed on disk".to_owned()));
        }
        let code = self.compiler.compile(&component).map_err(|error| failed(&error))?;
        self.numbers.compiles.fetch_add(1, Relaxed);
        image::write(&self.code_path(id), &self.image_name(id), &code, &self.key)
            .map_err(|error| failed(&error))
    }

    fn component_path(&self, id: ScriptId) -> PathBuf {
        self.folder.join("components").join(format!("{id}.wasm"))
    }

    fn code_path(&self, id: ScriptId) -> PathBuf {
        self.folder.join("code").join(self.image_name(id))
    }

    fn image_name(&self, id: ScriptId) -> String {
        format!("{id}-{}", self.engine_name)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Entry").field(&self.id).finish()
    }
}

impl Entry {
    /// Which script it is.
    pub fn id(&self) -> ScriptId {
        self.id
    }
}

enum LoadFailed {
    Unknown,
    NotCompiled,
    Other(String),
}

impl From<HostError> for LoadFailed {
    fn from(error: HostError) -> Self {
        Self::Other(error.to_string())
    }
}

/// Removes what somebody who was ended in the middle left half written. Another process may be writing now.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_old = |modified: SystemTime| modified.elapsed().is_ok_and(|age| age > HALF_WRITTEN_FOR);
        let half_written = entry.path().extension().is_some_and(|extension| extension == "new");
        if half_written && entry.metadata().and_then(|data| data.modified()).is_ok_and(is_old) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// A thread that works through a queue as long as the library lives.
fn start(
    name: &str,
    library: &Arc<Library>,
    queue: Receiver<Arc<Entry>>,
    work: fn(&Library, Arc<Entry>),
) -> io::Result<()> {
    let library: Weak<Library> = Arc::downgrade(library);
    let run = move || {
        for entry in queue {
            let Some(library) = library.upgrade() else { return };
            work(&library, entry);
        }
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

/// The key of the code's seals, made when there is none. It never leaves the folder.
fn open_key(path: &Path) -> io::Result<Key> {
    let mut bytes = [0; 32];
    match fs::File::open(path) {
        Ok(mut file) => file.read_exact(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("no random bytes"))?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
        }
        Err(error) => return Err(error),
    }
    Ok(Key::new(&bytes))
}

#[cfg(test)]
mod tests;
