//! What a worker costs in process: a fresh instance for each request, no socket anywhere.
//!
//! # On the back of an envelope
//!
//! A store, an instance and its call are some twenty allocations (1 µs), one `ioctl` that finds the dirty pages of the
//! memory (1 µs), a copy of the few that are (1 µs), the stack's 256 KiB cleaned (3 µs), and the guest's own work with
//! some fifteen calls of the host (2 µs). Ten, then, of which two thirds are the cleaning.
//!
//! # How it is measured
//!
//! The guest is `tests/guests/smallest`. Each round takes one thread on one CPU, then one on each of two CPUs at once;
//! a ratio is of one round. First requests are made to scripts that differ in one byte of a section that means nothing:
//! they are as many files, loaded one after another, each called once.

use std::error::Error;
use std::future::poll_fn;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::figure::{Bar, Judged, Spread};
use crate::machine::Machine;
use crate::peer::BODY;
use crate::report::bar_text;
use crate::sys;
use berth_isolate_host::compile::{Budget, Compiler};
use berth_isolate_host::library::{Library, ScriptId};
use berth_isolate_host::{
    Asked, Call, Host, Incoming, Later, Limits, Outbound, Script, Settings, Stream, WayOut, World,
};
use tokio::runtime::Runtime;

/// What these figures are called on the command line.
pub(crate) const KEY: &str = "in-process";
/// Calls of one thread before it is measured, and while it is.
const WARM_UP: usize = 2_000;
const CALLS: usize = 30_000;
/// Scripts whose first request is measured.
const SCRIPTS: usize = 100;
/// Large scripts whose loading is.
const LARGE_SCRIPTS: usize = 4;
/// Scripts that are resident at once.
const RESIDENT: usize = 1_000;

/// A world in which nothing is reached.
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

impl WayOut for Nowhere {
    fn ask(&self, _request: Outbound) -> Asked {
        Box::pin(std::future::pending())
    }
}

/// No request here has a body.
type NoBody = berth_isolate_host::pipe::Reader;

/// One request, from its making to the end of its instance.
async fn hello(script: &Script, limits: &Arc<Limits>, world: &Arc<Nowhere>) -> Result<(), String> {
    let incoming: Incoming<NoBody> = Incoming {
        method: http::Method::GET,
        https: false,
        authority: Some("a.example".to_owned()),
        path: "/".to_owned(),
        headers: http::HeaderMap::new(),
        body: None,
    };
    let mut call = Call::new(script, limits, Arc::clone(world) as Arc<dyn World>, Rc::new(Nowhere), incoming);
    let reply = poll_fn(|cx| call.poll_head(cx)).await;
    let reply = reply.map_err(|fault| format!("the guest fails: {}", fault.detail))?;
    match reply.whole {
        Some(body) if body == BODY => Ok(()),
        other => Err(format!("the guest says {other:?} instead of its greeting")),
    }
}

/// Waits on this thread; nothing here needs a reactor.
fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().build()
}

/// The times of many calls on this thread, in nanoseconds, sorted.
async fn times(script: &Script, cpu: usize, calls: usize) -> Result<Vec<u64>, String> {
    sys::pin(0, cpu).map_err(|error| error.to_string())?;
    Host::enter_thread();
    let (limits, world) = (Arc::new(Limits::default()), Arc::new(Nowhere));
    let mut times = Vec::with_capacity(calls);
    for round in 0..WARM_UP + calls {
        let began = Instant::now();
        hello(script, &limits, &world).await?;
        if round >= WARM_UP {
            times.push(began.elapsed().as_nanos() as u64);
        }
    }
    times.sort_unstable();
    Ok(times)
}

fn calls_on(script: &Script, cpu: usize) -> Result<Vec<u64>, String> {
    let runtime = runtime().map_err(|error| error.to_string())?;
    runtime.block_on(times(script, cpu, CALLS))
}

struct Round {
    p50_us: f64,
    p99_us: f64,
    one: f64,
    two: f64,
}

fn round(script: &Script) -> Result<Round, String> {
    let run = |cpus: &[usize]| -> Result<(f64, Vec<u64>), String> {
        let began = Instant::now();
        let all = thread::scope(|scope| {
            let threads: Vec<_> =
                cpus.iter().map(|&cpu| scope.spawn(move || calls_on(script, cpu))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())?)
                .collect::<Result<Vec<_>, _>>()
        })?;
        let calls = (cpus.len() * (CALLS + WARM_UP)) as f64;
        Ok((calls / began.elapsed().as_secs_f64(), all.into_iter().next().unwrap_or_default()))
    };
    let (one, times) = run(&[0])?;
    let (two, _) = run(&[0, 1])?;
    let at = |part: f64| times[(times.len() as f64 * part) as usize] as f64 / 1000.0;
    Ok(Round { p50_us: at(0.5), p99_us: at(0.99), one, two })
}

/// Measures, prints, and tells whether every bar was met.
pub(crate) fn measure(
    rounds: u32,
    program: &Path,
    smallest: &Path,
    large: Option<&Path>,
) -> Result<bool, Box<dyn Error>> {
    let component = std::fs::read(smallest)
        .map_err(|error| format!("{}: {error}; `cargo xtask guests` builds it", smallest.display()))?;
    let folder = std::env::temp_dir().join(format!("berth-perf-isolate-{}", std::process::id()));
    let outcome = in_folder(&folder, rounds, program, &component, large);
    let _ = std::fs::remove_dir_all(&folder);
    outcome
}

/// Prints a figure, and tells whether its median meets the bar.
fn show(what: &str, values: &[f64], bar: Bar) -> bool {
    let Some(Spread { min, median, max }) = Spread::of(values) else { return false };
    let met = bar.is_met_by(median);
    let verdict = match bar {
        Bar::Told => String::new(),
        bar => format!("  bar {}{}", bar_text(Judged::Ratio, bar, ""), if met { "" } else { ": missed" }),
    };
    println!("{what:<50} {median:>10.2} [{min:.2}, {max:.2}]{verdict}");
    met
}

fn in_folder(
    folder: &Path,
    rounds: u32,
    program: &Path,
    component: &[u8],
    large: Option<&Path>,
) -> Result<bool, Box<dyn Error>> {
    let machine = Machine::look(0);
    println!("{}, {} CPUs, {}\n", machine.cpu, machine.cpus, machine.kernel);
    let arguments = vec!["compile-script".to_owned()];
    let compiler = Compiler { program: program.to_owned(), arguments, budget: Budget::default() };
    let bench = Bench {
        library: Library::open(folder, Host::new(&Settings::default())?, compiler, 1 << 30)?,
        runtime: runtime()?,
    };
    let script = bench.load(bench.library.add(component)?)?;
    let mut taken = Vec::new();
    for _ in 0..rounds {
        taken.push(round(&script)?);
    }
    let spread = |of: fn(&Round) -> f64| taken.iter().map(of).collect::<Vec<f64>>();
    let mut met =
        show("fresh instance, call, reply, drop; p50, µs", &spread(|round| round.p50_us), Bar::AtMost(25.0));
    show("the same, p99, µs", &spread(|round| round.p99_us), Bar::Told);
    show("calls a second on one CPU", &spread(|round| round.one), Bar::Told);
    show("calls a second on two CPUs", &spread(|round| round.two), Bar::Told);
    met &= show("two CPUs over one", &spread(|round| round.two / round.one), Bar::AtLeast(1.8));
    let first = bench.first_requests(component)?;
    met &= show("first request of a compiled script, µs", &first, Bar::AtMost(1000.0));
    bench.resident(component)?;
    if let Some(large) = large {
        let speeds = bench.checking(&std::fs::read(large)?)?;
        met &= show("first load of a large script, GB/s", &speeds, Bar::AtLeast(1.0));
    }
    Ok(met)
}

/// The component with bytes behind it that mean nothing: another script, as far as the library can tell.
fn variant(component: &[u8], number: usize) -> Vec<u8> {
    let name = format!("v{number:06}");
    let mut bytes = component.to_vec();
    bytes.extend_from_slice(&[0, name.len() as u8 + 1, name.len() as u8]);
    bytes.extend_from_slice(name.as_bytes());
    bytes
}

struct Bench {
    library: Arc<Library>,
    runtime: Runtime,
}

impl Bench {
    fn load(&self, id: ScriptId) -> Result<Arc<Script>, Box<dyn Error>> {
        Ok(self.runtime.block_on(self.library.script(&self.library.entry(id)))?)
    }

    /// So many scripts, compiled and not loaded.
    fn add(&self, component: &[u8], count: usize) -> Result<Vec<ScriptId>, Box<dyn Error>> {
        let ids = (0..count).map(|number| self.library.add(&variant(component, number)));
        Ok(ids.collect::<Result<_, _>>()?)
    }

    fn call(&self, script: &Script) -> Result<(), Box<dyn Error>> {
        let (limits, world) = (Arc::new(Limits::default()), Arc::new(Nowhere));
        Ok(self.runtime.block_on(hello(script, &limits, &world))?)
    }

    fn first_requests(&self, component: &[u8]) -> Result<Vec<f64>, Box<dyn Error>> {
        let mut times = Vec::new();
        for id in self.add(component, SCRIPTS)? {
            let began = Instant::now();
            self.call(&*self.load(id)?)?;
            times.push(began.elapsed().as_nanos() as f64 / 1000.0);
        }
        Ok(times)
    }

    /// Memory with many scripts loaded and called.
    fn resident(&self, component: &[u8]) -> Result<(), Box<dyn Error>> {
        let before = memory_kib();
        for id in self.add(component, RESIDENT)? {
            self.call(&*self.load(id)?)?;
        }
        let (count, bytes) = self.library.loaded();
        let grown = memory_kib().saturating_sub(before);
        println!(
            "{count} scripts loaded: {} MiB of code, the process grew by {} MiB",
            bytes >> 20,
            grown >> 10
        );
        Ok(())
    }

    /// Bytes of code per second, from the file to the mapping.
    fn checking(&self, component: &[u8]) -> Result<Vec<f64>, Box<dyn Error>> {
        let mut speeds = Vec::new();
        for id in self.add(component, LARGE_SCRIPTS)? {
            let (_, before) = self.library.loaded();
            let began = Instant::now();
            self.load(id)?;
            let time = began.elapsed();
            speeds.push((self.library.loaded().1 - before) as f64 / 1e9 / time.as_secs_f64());
        }
        Ok(speeds)
    }
}

fn memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}
