//! What turns of objects cost in this process: a turn that only reads, one that writes, and the start of an instance.
//!
//! On the back of an envelope: a call into a guest and back on its own stack is 0.5 µs, a call of the host 0.2, the message and
//! the answer are some thirty small pieces of memory, 1 µs: 2 µs for a turn. A start is a fresh instance without a reply, half
//! of the 11 µs that a worker's request takes, and what the guest's allocator touches first.
//!
//!     cargo xtask guests && cargo run --release -p berth-isolate-host --example turns
//!
//! With `resident N [COMPONENT]` it says instead what N object workers take that live after a turn each, and that all of them
//! still answer: memory, page tables, and the kernel's mappings, against which their number is bounded.

#![allow(clippy::print_stdout, reason = "it is for people who measure")]

use std::collections::HashMap;
use std::error::Error;
use std::future::{Future, ready};
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use berth_isolate_host::compile::{self, Budget, Compiler};
use berth_isolate_host::library::Library;
use berth_isolate_host::object::*;
use berth_isolate_host::{
    Asked, ErrorCode, Host, Later, Limits, Outbound, Script, Settings, Stream, WayOut, World,
};
use bytes::Bytes;

/// Turns that are measured, and those before them.
const TURNS: usize = 200_000;
const WARM_UP: usize = 2_000;
/// Instances that are started.
const STARTS: usize = 5_000;

/// Data in memory that is durable at once.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<HashMap<(Space, Bytes), Bytes>>>);

impl Memory {
    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<(Space, Bytes), Bytes>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn apply(&self, effects: Vec<Effect>) {
        let mut entries = self.entries();
        for effect in effects {
            match effect {
                Effect::Put { space, key, value } => drop(entries.insert((space, key), value)),
                Effect::Delete { space, key } => drop(entries.remove(&(space, key))),
                Effect::Clear { space } => entries.retain(|(other, _), _| *other != space),
            }
        }
    }
}

impl ObjectStorage for Memory {
    fn get(&self, space: Space, key: &[u8]) -> Read<Option<Bytes>> {
        Read::Now(Ok(self.entries().get(&(space, Bytes::copy_from_slice(key))).cloned()))
    }

    fn scan(&self, _: Space, _: &KeyRange, _: Order, _: PageMost) -> Read<Page> {
        Read::Now(Ok(Page::default()))
    }

    fn commit(&self, effects: Vec<Effect>) -> Later<Result<(), CommitError>> {
        self.apply(effects);
        Box::pin(ready(Ok(())))
    }

    fn bytes_used(&self) -> u64 {
        0
    }
}

struct Nowhere;

impl World for Nowhere {
    fn sleep(&self, _time: Duration) -> Later<()> {
        Box::pin(std::future::pending())
    }

    fn log(&self, _stream: Stream, _line: &[u8]) {}

    fn log_is_cut(&self) {}

    fn variables(&self) -> &[(String, String)] {
        &[]
    }

    fn secret(&self, _name: &str) -> Option<String> {
        None
    }
}

impl ObjectWorld for Nowhere {
    fn queue_length(&self) -> u32 {
        0
    }

    fn is_open(&self, _socket: SocketId) -> bool {
        false
    }

    fn tags(&self, _socket: SocketId) -> Option<Vec<String>> {
        None
    }

    fn attachment(&self, _socket: SocketId) -> Option<Bytes> {
        None
    }

    fn sockets(&self, _tag: Option<&str>) -> Vec<SocketId> {
        Vec::new()
    }
}

impl WayOut for Nowhere {
    fn ask(&self, _request: Outbound) -> Asked {
        Box::pin(ready(Err(ErrorCode::ConnectionRefused)))
    }
}

impl Outside for Nowhere {
    fn release(&self, _sends: Vec<SocketCommand>) {}
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// What is the same for all objects here.
struct Bench {
    script: Arc<Script>,
    limits: Arc<Limits>,
    world: Arc<Nowhere>,
    outside: Rc<dyn Outside>,
    identity: Identity,
    waker: Waker,
}

impl Bench {
    fn finish(&self, turn: &mut Turn) -> Result<(ObjectInstance, Outcome), TurnError> {
        let mut cx = Context::from_waker(&self.waker);
        loop {
            if let Poll::Ready(ended) = turn.poll(&mut cx) {
                return ended.result;
            }
        }
    }

    fn start(&self, memory: &Memory) -> Result<ObjectInstance, TurnError> {
        let setup = Setup {
            limits: Arc::clone(&self.limits),
            storage_bytes: STORAGE_DEFAULT,
            identity: self.identity.clone(),
            stored_schema: None,
            world: Arc::<Nowhere>::clone(&self.world),
            storage: Box::new(memory.clone()),
            outside: Rc::clone(&self.outside),
        };
        let (instance, _) = self.finish(&mut ObjectInstance::start(&self.script, setup))?;
        Ok(instance)
    }

    fn turn(
        &self,
        memory: &Memory,
        instance: ObjectInstance,
        url: &str,
    ) -> Result<ObjectInstance, TurnError> {
        let request = ObjectRequest {
            method: http::Method::GET,
            url: url.to_owned(),
            headers: http::HeaderMap::new(),
            body: Bytes::new(),
            upgrade: None,
        };
        let mut turn = instance.begin(Message::Request(request), Rc::clone(&self.outside));
        let (instance, outcome) = self.finish(&mut turn)?;
        memory.apply(outcome.effects);
        Ok(instance)
    }

    /// Times of turns, in nanoseconds.
    fn turns(&self, url: &str) -> Result<Vec<u64>, TurnError> {
        let memory = Memory::default();
        let mut instance = self.start(&memory)?;
        let mut times = Vec::with_capacity(TURNS);
        for round in 0..WARM_UP + TURNS {
            let began = Instant::now();
            instance = self.turn(&memory, instance, url)?;
            if round >= WARM_UP {
                times.push(began.elapsed().as_nanos() as u64);
            }
        }
        Ok(times)
    }

    /// Times of starts, of starts with a first turn, and of drops.
    fn starts(&self) -> Result<[Vec<u64>; 3], TurnError> {
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..STARTS {
            let memory = Memory::default();
            let began = Instant::now();
            let instance = self.start(&memory)?;
            let started = began.elapsed();
            let instance = self.turn(&memory, instance, "http://o.example/get/n")?;
            let answered = began.elapsed();
            drop(instance);
            let dropped = began.elapsed() - answered;
            for (times, time) in times.iter_mut().zip([started, answered, dropped]) {
                times.push(time.as_nanos() as u64);
            }
        }
        Ok(times)
    }
}

fn show(what: &str, mut times: Vec<u64>) {
    times.sort_unstable();
    let at = |part: f64| times[(times.len() as f64 * part) as usize] as f64 / 1000.0;
    println!("{what:<46} p50 {:>8.2} µs   p99 {:>8.2} µs", at(0.5), at(0.99));
}

/// What this process takes: KiB of memory and of page tables, and mappings.
fn taken() -> [u64; 3] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |of: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(of)).unwrap_or("0");
        line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
    };
    let mappings = std::fs::read_to_string("/proc/self/maps").unwrap_or_default().lines().count();
    [kib("VmRSS:"), kib("VmPTE:"), mappings as u64]
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match &words[..] {
        ["compile", numbers @ ..] => {
            let numbers: Result<Vec<u64>, _> = numbers.iter().map(|number| number.parse()).collect();
            Ok(compile::serve(&numbers?)?)
        }
        ["resident", count, component @ ..] => {
            let count = count.parse()?;
            Ok(measure_resident(&bench(component.first(), count)?, count)?)
        }
        component => Ok(measure(&bench(component.first(), 1000)?)?),
    }
}

/// The class, in an engine with so many places.
fn bench(component: Option<&&str>, places: u32) -> Result<Bench, Box<dyn Error>> {
    let path = *component.unwrap_or(&"target/guests/wasm32-wasip2/release/object.wasm");
    let component = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    let folder = std::env::temp_dir().join(format!("berth-turns-{}", std::process::id()));
    let compiler = Compiler {
        program: std::env::current_exe()?,
        arguments: vec!["compile".to_owned()],
        budget: Budget::default(),
    };
    let host = Host::new(&Settings { places, ..Settings::default() })?;
    let library = Library::open(&folder, host, compiler, 1 << 30)?;
    let script = block_on(library.script(&library.entry(library.add(&component)?)))?;
    std::fs::remove_dir_all(&folder)?;
    let identity = Identity {
        id: "10".repeat(16),
        name: None,
        class: "counter".to_owned(),
        zone: "turns".to_owned(),
        epoch: 1,
        schema_version: 1,
    };
    Ok(Bench {
        script,
        limits: Arc::new(Limits::default()),
        world: Arc::new(Nowhere),
        outside: Rc::new(Nowhere),
        identity,
        waker: Waker::noop().clone(),
    })
}

fn measure(bench: &Bench) -> Result<(), TurnError> {
    Host::enter_thread();
    show("turn that answers (no storage)", bench.turns("http://o.example/turns")?);
    show("turn that reads (get)", bench.turns("http://o.example/get/n")?);
    show("turn that writes (increment)", bench.turns("http://o.example/increment/n")?);
    let [starts, first_turns, drops] = bench.starts()?;
    show("start of an instance", starts);
    show("start and first turn", first_turns);
    show("drop", drops);
    Ok(())
}

/// As many as the second time around: places that others had before may keep something of them.
fn measure_resident(bench: &Bench, count: u32) -> Result<(), TurnError> {
    Host::enter_thread();
    let start = |data: &Memory| bench.turn(data, bench.start(data)?, "http://o.example/increment/n");
    let empty = taken();
    for round in ["first", "second"] {
        let began = Instant::now();
        let mut resident = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let data = Memory::default();
            resident.push((start(&data)?, data));
        }
        let ready = began.elapsed();
        let full = taken();
        let each = |which: usize| full[which].saturating_sub(empty[which]) as f64 / f64::from(count);
        println!(
            "{round} time: {count} object workers in {ready:.1?}: {:.1} KiB each, and {:.1} of page tables; {:.2} mappings",
            each(0),
            each(1),
            each(2)
        );
        for (instance, data) in resident {
            bench.turn(&data, instance, "http://o.example/get/n")?;
        }
        let [memory, tables, mappings] = taken();
        println!("  gone: {memory} KiB, {tables} of page tables, {mappings} mappings (of {})", full[2]);
    }
    Ok(())
}
