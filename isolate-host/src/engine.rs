//! The engine: its settings, which the compiler shares, its pool of instances, and the clock that interrupts guests.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime::{
    Config, Enabled, Engine, EngineWeak, InstanceAllocationStrategy, PoolingAllocationConfig,
    WasmBacktraceDetails,
};

use crate::bindings::WorkerPre;
use crate::guest::Guest;
use crate::limits::Limits;
use crate::object_bindings::ObjectPre;
use crate::{object, wasi};

/// The version of the engine. Its own check of compiled code looks at the first number only.
pub(crate) const VERSION: &str = "48.0.8";

/// How often guests are interrupted: the longest that one stays on its core while others wait, but for single operations
/// of the engine and calls of the host.
pub(crate) const TICK: Duration = Duration::from_millis(1);
/// Ticks without a guest after which the clock stops.
const IDLE_TICKS: u32 = 200;
/// The stack of a guest's code. Cleaned and kept whole after each call: giving a part of it back to the kernel would cost
/// the other cores more than all the rest of a request (ADR 0011).
const GUEST_STACK: usize = 192 << 10;
/// What the host's functions may use beyond it.
const HOST_STACK: usize = 64 << 10;
/// Memory of an instance that is cleaned in place rather than given back. Of an object worker nothing is: it has its place
/// for long, its places are many, and to give memory back is what it is evicted for.
const MEMORY_KEPT: usize = 1 << 20;
const TABLE_KEPT: usize = 16 << 10;
/// Addresses of a memory: a 32-bit index never leaves them, and what lies behind them faults.
pub(crate) const MEMORY_RESERVED: u64 = 4 << 30;
pub(crate) const MEMORY_GUARD: u64 = 32 << 20;
/// Core modules, memories and tables that one component may be made of: an engine for JavaScript is fourteen.
const MODULES_MAX: u32 = 32;
const MEMORIES_MAX: u32 = 4;
const TABLES_MAX: u32 = 16;
/// Tables for each place of an object worker, and elements of one: four times what an engine for JavaScript has. A smaller
/// table shares pages of the kernel's own tables with others.
const PLACE_TABLES: u32 = 2;
const PLACE_TABLE_ELEMENTS: usize = 32 << 10;
/// Places of object workers below which the largest component would find none.
pub(crate) const PLACES_MIN: u32 = 8;
/// Places beyond those that are counted, for instances that end while others have their places already.
pub(crate) const PLACES_SPARE: u32 = 16;
const _: () = assert!(PLACES_MIN >= MEMORIES_MAX && PLACES_MIN * PLACE_TABLES >= TABLES_MAX);

/// What becomes of the stack of a call that has ended, before another call gets it. A guest reaches neither: its memory,
/// tables and globals are cleaned always, and what its functions keep on the stack has no address for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stacks {
    /// It is overwritten: a mistake of the engine would show nothing of others.
    Cleaned,
    /// It stays as it is, as `wasmtime serve` leaves it.
    Kept,
}

/// What a node decides.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Calls that run at a time.
    pub instances: u32,
    /// What becomes of their stacks.
    pub stacks: Stacks,
    /// Places for object workers, which live on: in a pool of their own, so that neither takes the other's.
    pub places: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { instances: 1000, stacks: Stacks::Cleaned, places: 1000 }
    }
}

/// Why there is no engine, or a component is not taken.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct HostError(pub(crate) String);

impl From<wasmtime::Error> for HostError {
    fn from(error: wasmtime::Error) -> Self {
        Self(format!("{error:#}"))
    }
}

/// What compiler and host must agree on: it is part of the code.
fn common(stacks: Stacks) -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .wasm_memory64(false)
        // What the engine puts between two components in one needs it, as JavaScript's small engine is made.
        .wasm_multi_memory(true)
        .epoch_interruption(true)
        .max_wasm_stack(GUEST_STACK)
        .async_stack_size(GUEST_STACK + HOST_STACK)
        .async_stack_zeroing(stacks == Stacks::Cleaned)
        .memory_reservation(MEMORY_RESERVED)
        .memory_guard_size(MEMORY_GUARD)
        .native_unwind_info(false)
        .generate_address_map(true)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .wasm_backtrace_max_frames(NonZeroUsize::new(20));
    config
}

/// What both pools bound alike.
fn bounded_pool(pagemap: Enabled) -> PoolingAllocationConfig {
    let most = Limits::most();
    let mut pool = PoolingAllocationConfig::new();
    pool.max_memory_size(most.memory)
        .table_elements(most.table_elements)
        .max_core_instances_per_component(MODULES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .pagemap_scan(pagemap)
        .decommit_batch_size(1);
    pool
}

/// Memories for so many calls: most components have one, and the room for those that have more is shared.
pub(crate) fn memories(instances: u32) -> u32 {
    instances.saturating_add(instances / 2)
}

/// Where calls of workers run.
fn worker_pool(instances: u32, pagemap: Enabled) -> PoolingAllocationConfig {
    let mut pool = bounded_pool(pagemap);
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(8).max(MODULES_MAX))
        .total_memories(memories(instances))
        .total_tables(instances.saturating_mul(2).max(TABLES_MAX))
        .total_stacks(instances)
        .linear_memory_keep_resident(MEMORY_KEPT)
        .table_keep_resident(TABLE_KEPT)
        .async_stack_keep_resident(GUEST_STACK + HOST_STACK);
    pool
}

/// Where object workers live. A component has as many places as [`Script::places`] says, so that whoever has places has
/// everything else.
fn object_pool(places: u32, pagemap: Enabled) -> PoolingAllocationConfig {
    let places = places.max(PLACES_MIN).saturating_add(PLACES_SPARE);
    let mut pool = bounded_pool(pagemap);
    pool.total_component_instances(places)
        .total_core_instances(places.saturating_mul(MODULES_MAX))
        .total_memories(places)
        .total_tables(places.saturating_mul(PLACE_TABLES))
        .total_stacks(places)
        .table_elements(PLACE_TABLE_ELEMENTS.min(Limits::most().table_elements))
        .linear_memory_keep_resident(0)
        .table_keep_resident(0)
        .async_stack_keep_resident(0);
    pool
}

/// An engine that compiles, with the limits of one that runs.
pub(crate) fn compiler() -> Result<Engine, HostError> {
    let mut config = common(Stacks::Cleaned);
    config
        .cranelift_opt_level(wasmtime::OptLevel::Speed)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(worker_pool(1, Enabled::No)));
    Ok(Engine::new(&config)?)
}

/// The engines of a node, for all its cores: one for calls of workers, and one for object workers as soon as there is a class.
pub struct Host {
    workers: Side,
    objects: OnceLock<Side>,
    opening: Mutex<()>,
    places: u32,
}

/// An engine with its pool, what its guests may import, and its clock.
struct Side {
    engine: Engine,
    linker: Linker<Guest>,
    clock: Arc<Clock>,
}

/// A component that is ready to be called.
pub struct Script {
    pub(crate) code: Code,
    component: Component,
    pub(crate) clock: Arc<Clock>,
}

/// What a script is, ready to be instantiated.
#[derive(Clone)]
pub(crate) enum Code {
    Worker(WorkerPre<Guest>),
    Class(ObjectPre<Guest>),
}

impl Side {
    fn new(
        stacks: Stacks,
        pool: impl Fn(Enabled) -> PoolingAllocationConfig,
        linker: fn(&Engine) -> wasmtime::Result<Linker<Guest>>,
    ) -> Result<Self, HostError> {
        let mut config = common(stacks);
        config.enable_compiler(false);
        // Without it two cores do less than one: an instance that ends would stop the other core. Kernels before 6.7
        // lack it, and so does a process that may not look at its own pages.
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(Enabled::Yes)));
        let engine = Engine::new(&config).or_else(|error| {
            tracing::warn!(%error, "isolates.pagemap_scan: instances are cleaned the slow way; Linux 6.7 is needed");
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(Enabled::No)));
            Engine::new(&config)
        })?;
        let linker = linker(&engine)?;
        let clock = Clock::start(engine.weak())?;
        Ok(Self { engine, linker, clock })
    }

    fn adopt(
        &self,
        component: Component,
        code: impl FnOnce(InstancePre<Guest>) -> wasmtime::Result<Code>,
    ) -> Result<Script, HostError> {
        let code = code(self.linker.instantiate_pre(&component)?)?;
        component.initialize_copy_on_write_image()?;
        Ok(Script { code, component, clock: Arc::clone(&self.clock) })
    }
}

impl Host {
    /// Engines that run what was compiled, and compile nothing.
    pub fn new(settings: &Settings) -> Result<Self, HostError> {
        let pool = |pagemap| worker_pool(settings.instances, pagemap);
        let workers = Side::new(settings.stacks, pool, wasi::linker)?;
        let (objects, opening) = (OnceLock::new(), Mutex::new(()));
        Ok(Self { workers, objects, opening, places: settings.places })
    }

    fn objects(&self) -> Result<&Side, HostError> {
        let _one = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(objects) = self.objects.get() {
            return Ok(objects);
        }
        // Their stacks go back to the kernel, whatever becomes of those of calls.
        let objects =
            Side::new(Stacks::Cleaned, |pagemap| object_pool(self.places, pagemap), object::linker)?;
        Ok(self.objects.get_or_init(|| objects))
    }

    /// Makes a component ready, loaded by `load` into the engine in which it will run. Its limits are checked here, before
    /// any call.
    pub(crate) fn adopt<E: From<HostError>>(
        &self,
        load: impl Fn(&Engine) -> Result<Component, E>,
    ) -> Result<Script, E> {
        let component = load(&self.workers.engine)?;
        if !object::is_class(&self.workers.engine, &component) {
            return Ok(self.workers.adopt(component, |pre| Ok(Code::Worker(WorkerPre::new(pre)?)))?);
        }
        // A class is rare, and which engine it is for stands in it.
        drop(component);
        let objects = self.objects()?;
        Ok(objects.adopt(load(&objects.engine)?, |pre| Ok(Code::Class(ObjectPre::new(pre)?)))?)
    }

    /// Makes a thread ready for calls, so that its first one is not slower.
    pub fn enter_thread() {
        Engine::tls_eager_initialize();
    }
}

impl Script {
    /// Whether it is the code of a class of objects; else it is a worker.
    pub fn is_class(&self) -> bool {
        matches!(self.code, Code::Class(_))
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.component.engine()
    }

    /// Places of the pool that one instance takes, if it is a class.
    pub fn places(&self) -> u32 {
        // What does not say what it needs may need all that one component may.
        let needs = self.component.resources_required();
        let (memories, tables) =
            needs.map_or((MEMORIES_MAX, TABLES_MAX), |it| (it.num_memories, it.num_tables));
        memories.max(tables.div_ceil(PLACE_TABLES)).max(1)
    }

    /// Bytes that its code and data take in memory.
    pub fn bytes(&self) -> usize {
        let range = self.component.image_range();
        range.end as usize - range.start as usize
    }
}

/// Counts the engine's epochs as long as guests run, on a thread of its own.
pub(crate) struct Clock {
    running: AtomicUsize,
    thread: OnceLock<Thread>,
}

impl Clock {
    fn start(engine: EngineWeak) -> Result<Arc<Self>, HostError> {
        let clock = Arc::new(Self { running: AtomicUsize::new(0), thread: OnceLock::new() });
        let ticking = Arc::downgrade(&clock);
        let thread = std::thread::Builder::new().name("epochs".into()).spawn(move || {
            let mut idle = 0;
            // The engine and the clock end with the host.
            while let (Some(clock), Some(engine)) = (ticking.upgrade(), engine.upgrade()) {
                let running = clock.running.load(Ordering::Acquire);
                drop(clock);
                idle = if running == 0 { idle + 1 } else { 0 };
                if idle < IDLE_TICKS {
                    engine.increment_epoch();
                    drop(engine);
                    std::thread::sleep(TICK);
                } else {
                    drop(engine);
                    // A guest that begins wakes this thread; the token of an early wake-up is kept.
                    std::thread::park_timeout(Duration::from_secs(1));
                }
            }
        });
        let thread = thread.map_err(|error| HostError(format!("no thread for the epochs: {error}")))?;
        let _ = clock.thread.set(thread.thread().clone());
        Ok(clock)
    }

    /// A guest runs until this is dropped.
    pub(crate) fn run(self: &Arc<Self>) -> Running {
        if self.running.fetch_add(1, Ordering::AcqRel) == 0
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
        Running(Arc::clone(self))
    }
}

pub(crate) struct Running(Arc<Clock>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_lock_file() {
        let lock = include_str!("../../Cargo.lock");
        let wanted = format!("name = \"wasmtime\"\nversion = \"{VERSION}\"");
        assert!(
            lock.contains(&wanted),
            "engine::VERSION is not what is built; code on disk would be taken for current"
        );
    }
}
