//! What objects take in a node without sockets, for those who measure: two cores that ask objects of themselves and of each
//! other, by the very code that requests take once they are read.
//!
//! Core 0 measures. Core 1 answers, and does what its [`Wish`] says meanwhile: sleep, stay awake, or send the object that comes
//! back. A time is from before a request is handed to the workers until its reply is there, all on one thread; the end of a move
//! is the time at which the other core sees that the object is its own, by the same clock.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use berth_isolate_host::Stacks;
use berth_isolate_host::compile::Budget;
use berth_mailbox::{Capacities, Endpoint, mesh};
use berth_protocol::Envelope;
use berth_protocol::object::ObjectKey;
use berth_protocol::ownership::{Core, Event, Evict};
use berth_runtime::{CoreOptions, Remote, block_on, spawn_scoped, yield_now};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Version};

use crate::config::Config;
use crate::drain::Drain;
use crate::hops;
use crate::http::body::RequestBody;
use crate::http::message::{Peer, Problem, Reply, Request, Security, Service};
use crate::http::target::Target;
use crate::workers::{CoreWorkers, Settings, Workers};
use crate::zones::{Class, Zone};

/// Requests of each kind that are measured, and those before.
const ASKED: usize = 20_000;
const WARM_UP: usize = 2_000;
/// Requests to a core that sleeps: each waits until it does.
const ASKED_ASLEEP: usize = 500;
const FALLS_ASLEEP: Duration = Duration::from_millis(2);
/// Objects that are started.
const STARTED: usize = 1_000;
/// Longer than the store keeps to itself what is not in its engine.
const APPLIED: Duration = Duration::from_secs(6);
/// Moves to the other core, with nothing else to do, and beside requests.
const MOVES: usize = 200;
/// Requests under way beside moves.
const BESIDE: usize = 8;
/// A move that takes longer is none: it was refused.
const MOVES_WITHIN: Duration = Duration::from_secs(10);
/// How long an object stays before it is sent back.
const STAY: Duration = Duration::from_micros(50);

/// No object is given up but by what is measured.
const NEVER: Duration = Duration::from_secs(3600);
/// For the limits that a node has when nothing is said.
const CONFIG: &str = "[[listen]]\naddress = \"127.0.0.1:0\"\n";

const ZONE: &str = "bench";
const CLASS: &str = "Counter";

/// Nanoseconds of each, in the order in which they were taken.
#[derive(Debug, Default)]
pub struct Times {
    /// A request that reads, to an object of the same core.
    pub turn: Vec<u64>,
    /// The same to an object of another core, which is awake.
    pub awake: Vec<u64>,
    /// The same to a core that sleeps.
    pub asleep: Vec<u64>,
    /// A request that reads, to an object that has stored something and has no instance.
    pub start: Vec<u64>,
    /// A move to another core that is awake, of an object with nothing to do.
    pub moves: Vec<u64>,
    /// The same while others ask the object.
    pub busy_moves: Vec<u64>,
    /// How many were answered beside those moves, and how many failed.
    pub beside: (u64, u64),
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BenchError(String);

fn wrong(what: impl std::fmt::Display) -> BenchError {
    BenchError(what.to_string())
}

/// What core 1 does beside answering.
#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
enum Wish {
    Sleep,
    StayAwake,
    SendBack,
    End,
}

/// What both cores see.
struct Between {
    began: Instant,
    wish: AtomicU8,
    /// How often the object came to core 1, and when last, in nanoseconds since `began`.
    arrivals: AtomicU64,
    arrived: AtomicU64,
}

impl Between {
    fn want(&self, wish: Wish) {
        self.wish.store(wish as u8, Relaxed);
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }
}

/// Measures with the class of `examples/counter`, on two CPUs. The folder is this bench's alone, and is made.
pub fn measure(state: &Path, component: &[u8], cpus: [usize; 2]) -> Result<Times, BenchError> {
    let workers = Workers::open(settings(state.to_owned())).map_err(wrong)?;
    let id = workers.upload(component).map_err(wrong)?;
    let document = serde_json::json!({
        "hosts": ["bench.example"],
        "objects": { CLASS: { "script": id.to_string(), "routes": ["/counter/:name"] } },
    });
    workers.deploy(ZONE, serde_json::from_value(document).map_err(wrong)?).map_err(wrong)?;
    let mut remotes = Vec::new();
    for _ in cpus {
        remotes.push(Arc::new(Remote::new().map_err(wrong)?));
    }
    let between = Arc::new(Between {
        began: Instant::now(),
        wish: AtomicU8::new(Wish::Sleep as u8),
        arrivals: AtomicU64::new(0),
        arrived: AtomicU64::new(0),
    });
    let endpoints = mesh(cpus.len(), Capacities::for_cores(cpus.len())).map_err(wrong)?;
    let times = std::thread::scope(|scope| {
        let cores = endpoints.into_iter().zip(cpus).enumerate().map(|(index, (endpoint, cpu))| {
            let (workers, remotes, between) = (&workers, &remotes, &between);
            scope.spawn(move || core(index, cpu, endpoint, workers, remotes, between))
        });
        let cores: Vec<_> = cores.collect();
        let mut times = Times::default();
        for core in cores {
            let told = core.join().map_err(|_| wrong("a core panicked"))??;
            times = told.unwrap_or(times);
        }
        Ok(times)
    });
    workers.close();
    times
}

fn settings(state: PathBuf) -> Settings {
    Settings {
        state,
        instances: STARTED as u32 + 100,
        stacks: Stacks::Cleaned,
        resident: None,
        idle_after: NEVER,
        code_bytes: 1 << 30,
        budget: Budget::default(),
    }
}

/// Runs a core to its end. Core 0 has the times.
fn core(
    index: usize,
    cpu: usize,
    endpoint: Endpoint<Envelope>,
    workers: &Arc<Workers>,
    remotes: &[Arc<Remote>],
    between: &Arc<Between>,
) -> Result<Option<Times>, BenchError> {
    let options = CoreOptions { index: index as u16, cpu: Some(cpu), ..CoreOptions::default() };
    let limits = Config::parse(CONFIG).map_err(wrong)?.limits;
    let main = async {
        let numbers = Arc::default();
        let (hops, inbox) = hops::split(endpoint, Arc::clone(&numbers));
        let workers = CoreWorkers::start(
            index as u16,
            workers,
            &numbers,
            &Arc::default(),
            &hops,
            (&limits, &Drain::default()),
        );
        hops::connect(inbox, hops, remotes.to_vec(), Rc::new(Nobody));
        let bench = Bench::new(workers, Arc::clone(between))?;
        if index > 0 {
            return bench.answer().await.map(|()| None);
        }
        let times = bench.take().await;
        between.want(Wish::End);
        remotes.iter().for_each(|remote| remote.ring_bell());
        times.map(Some)
    };
    let ended = block_on(&options, &remotes[index], &Arc::default(), main).map_err(wrong)?;
    if ended.is_err() {
        between.want(Wish::End);
    }
    ended
}

/// Requests between cores are letters here.
struct Nobody;

impl Service for Nobody {
    fn call(&self, _request: Request) -> impl Future<Output = Reply> + 'static {
        std::future::ready(Reply::problem(Problem::NoRoute))
    }
}

/// One core's side.
#[derive(Clone)]
struct Bench {
    workers: Rc<CoreWorkers>,
    zone: Arc<Zone>,
    class: Arc<Class>,
    between: Arc<Between>,
}

impl Bench {
    fn new(workers: Rc<CoreWorkers>, between: Arc<Between>) -> Result<Self, BenchError> {
        let zone = workers.zones().hosts().named(ZONE).ok_or_else(|| wrong("the zone is not there"))?;
        let class = zone.class(CLASS).cloned().ok_or_else(|| wrong("the class is not there"))?;
        Ok(Self { workers, zone, class, between })
    }

    fn object(&self, name: &str) -> Result<ObjectKey, BenchError> {
        let id = self.workers.objects.node.id(ZONE, &self.class.code.name, name);
        Ok(ObjectKey { scope: self.class.scope, id: id.ok_or_else(|| wrong("the store is not open"))? })
    }

    /// What core 1 does.
    async fn answer(&self) -> Result<(), BenchError> {
        let object = self.object("moving")?;
        loop {
            match self.between.wish.load(Relaxed) {
                wish if wish == Wish::End as u8 => return Ok(()),
                wish if wish == Wish::Sleep as u8 => berth_runtime::sleep(FALLS_ASLEEP * 20).await,
                wish if wish == Wish::SendBack as u8 && self.lives_here(&object) => {
                    self.between.arrived.store(self.between.now(), Relaxed);
                    self.between.arrivals.fetch_add(1, Relaxed);
                    let came = Instant::now();
                    while came.elapsed() < STAY {
                        yield_now().await;
                    }
                    self.send(object, 0).await?;
                }
                _ => yield_now().await,
            }
        }
    }

    /// Not only by the table of berths, which may name this core while the object is on its way.
    fn lives_here(&self, object: &ObjectKey) -> bool {
        self.workers.objects.lives_here(object)
    }

    /// Sends the object to another core, and waits until it has left: it may be back before that is seen.
    async fn send(&self, object: ObjectKey, to: u8) -> Result<(), BenchError> {
        let left = || self.workers.objects.numbers.object_moves.get();
        let before = left();
        self.workers.objects.handle(object, Event::Move { to: Core(to) });
        self.workers.objects.watch_move(object);
        self.until(|| left() > before).await
    }

    /// Goes round this core's loop until something is so.
    async fn until(&self, is_so: impl Fn() -> bool) -> Result<(), BenchError> {
        let since = Instant::now();
        while !is_so() {
            if since.elapsed() > MOVES_WITHIN || self.between.wish.load(Relaxed) == Wish::End as u8 {
                return Err(wrong("an object did not move"));
            }
            yield_now().await;
        }
        Ok(())
    }

    /// One request, and how long it took.
    async fn ask(&self, name: &str, method: Method) -> Result<u64, BenchError> {
        let nobody = ([127, 0, 0, 1], 0).into();
        let target = Target::parse(Bytes::from(format!("/counter/{name}"))).map_err(wrong)?;
        let request = Request {
            method,
            target,
            host: None,
            version: Version::HTTP_11,
            headers: HeaderMap::new(),
            body: RequestBody::Empty,
            peer: Rc::new(Peer { client: nobody, local: nobody, security: Security::Plain }),
            upgrade: None,
        };
        let began = Instant::now();
        let reply = self.workers.ask_object(&self.zone, &self.class, name, request).await;
        let took = began.elapsed().as_nanos() as u64;
        match reply.status {
            StatusCode::OK => Ok(took),
            status => Err(wrong(format!("an object answered with {status}"))),
        }
    }

    async fn asked(&self, name: &str) -> Result<Vec<u64>, BenchError> {
        let mut times = Vec::with_capacity(ASKED);
        for round in 0..WARM_UP + ASKED {
            let took = self.ask(name, Method::GET).await?;
            if round >= WARM_UP {
                times.push(took);
            }
        }
        Ok(times)
    }

    /// Starts objects that have stored something. What they wrote is in the engine, and in no memory of the store's own.
    async fn started(&self) -> Result<Vec<u64>, BenchError> {
        let names: Vec<String> = (0..STARTED).map(|number| format!("s{number}")).collect();
        for name in &names {
            self.ask(name, Method::POST).await?;
        }
        self.evict(&names)?;
        berth_runtime::sleep(APPLIED).await;
        let mut times = Vec::with_capacity(STARTED);
        for name in &names {
            times.push(self.ask(name, Method::GET).await?);
        }
        self.evict(&names)?;
        Ok(times)
    }

    fn evict(&self, names: &[String]) -> Result<(), BenchError> {
        for name in names {
            self.workers.objects.handle(self.object(name)?, Event::Evict(Evict::AfterTurn));
        }
        Ok(())
    }

    async fn take(&self) -> Result<Times, BenchError> {
        let (start, turn) = (self.started().await?, self.asked("here").await?);
        let mut times = Times { start, turn, ..Times::default() };
        self.ask("there", Method::POST).await?;
        self.between.want(Wish::StayAwake);
        self.send(self.object("there")?, 1).await?;
        times.awake = self.asked("there").await?;
        self.between.want(Wish::Sleep);
        for _ in 0..ASKED_ASLEEP {
            let since = Instant::now();
            while since.elapsed() < FALLS_ASLEEP {
                std::hint::spin_loop();
            }
            times.asleep.push(self.ask("there", Method::GET).await?);
        }
        self.between.want(Wish::SendBack);
        self.ask("moving", Method::POST).await?;
        times.moves = self.moves().await?;
        (times.busy_moves, times.beside) = self.moves_beside_requests().await?;
        Ok(times)
    }

    /// There and back, many times: how long each way there took.
    async fn moves(&self) -> Result<Vec<u64>, BenchError> {
        let object = self.object("moving")?;
        let mut times = Vec::with_capacity(MOVES);
        for _ in 0..MOVES {
            self.until(|| self.lives_here(&object)).await?;
            let (arrivals, began) = (self.between.arrivals.load(Relaxed), self.between.now());
            self.send(object, 1).await?;
            self.until(|| self.between.arrivals.load(Relaxed) > arrivals).await?;
            times.push(self.between.arrived.load(Relaxed).saturating_sub(began));
        }
        Ok(times)
    }

    /// The same while eight requests are under way. Also how many were answered meanwhile, and how many failed.
    async fn moves_beside_requests(&self) -> Result<(Vec<u64>, (u64, u64)), BenchError> {
        let (over, counts) = (Rc::new(Cell::new(false)), Rc::new(Cell::new((0, 0))));
        let asking: Vec<_> = (0..BESIDE)
            .map(|_| {
                let (bench, over, counts) = (self.clone(), Rc::clone(&over), Rc::clone(&counts));
                spawn_scoped(async move {
                    while !over.get() {
                        let failed = bench.ask("moving", Method::GET).await.is_err();
                        let (answered, lost) = counts.get();
                        counts.set(if failed { (answered, lost + 1) } else { (answered + 1, lost) });
                    }
                })
            })
            .collect();
        let times = self.moves().await;
        over.set(true);
        // An object that is lost answers nobody.
        let times = times?;
        for task in asking {
            task.await;
        }
        Ok((times, counts.get()))
    }
}
