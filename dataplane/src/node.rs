//! The life of a node: start everything or say why not, run, reload, drain, end.
//!
//! Everything that can be refused is checked before the first core starts: configuration, routes,
//! certificates, keyring, addresses. Then each core runs on its own thread, and the thread that
//! called [`run`] becomes the warden: it takes signals, watches for stalled cores, tends the keyring
//! and talks to the service manager.
//!
//! Panics: a task's panic ends that task (its connection). A panic of a core's own loop or of the
//! warden ends the process, because nothing on that core would ever run again and connections
//! would hang; the service manager starts it anew.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use berth_isolate_host::compile::Budget;
use berth_mailbox::{Capacities, Endpoint, mesh};
use berth_protocol::Envelope;
use berth_protocol::link::{self, Group, Transport};
use berth_runtime::process::{self, Resource, Signal, Signals};
use berth_runtime::{
    CoreOptions, DriverChoice, Payer, Remote, RingOptions, TcpListener, UdpSocket, block_on, net, spawn,
    spawn_for, timeout,
};
use berth_steer::cid::Generation;
use tokio::sync::watch;

use crate::admin::{Admin, FILE_MAX};
use crate::agent_link::{self, AgentLink, Order};
use crate::clock::now_s;
use crate::config::{self, AccessLog as AccessConfig, Config, Cores, Driver, Protocol};
use crate::connections::{ConnectionLimits, Connections};
use crate::debugging::Debugging;
use crate::drain::{Drain, Together};
use crate::generations::{self, Caught, Others};
use crate::hops;
use crate::http::access::AccessLog;
use crate::http::message::{Security, Service};
use crate::http::{AltSvc, Core, h3};
use crate::keyring::{KeyringFile, Schedule};
use crate::listener::{self, Bound, Door, House};
use crate::metrics::Facade;
use crate::notify::Manager;
use crate::quic::{self, QuicKeys};
use crate::responder::{self, Responder, Table};
use crate::stats::{CoreNumbers, Latencies};
use crate::status::{CoreView, NodeView};
use crate::tls::{self, Alpn, CertificateStore, CertificateTable, Ticketer};
use crate::workers::{CoreWorkers, Settings as WorkerSettings, Workers, WorkersError};

/// Descriptors that the node asks for: two per connection of the default limit (a proxied request
/// has one on each side), with room for files.
const FILES_WANTED: u64 = 262_144;
/// Locked memory that the rings may need on kernels that count it.
const LOCKED_WANTED: u64 = 256 << 20;
/// How often the warden looks at signals and cores.
const WATCH: Duration = Duration::from_millis(100);
/// How long a data plane goes on as before after a newer one serves. Connections whose handshake began before are taken,
/// and clients whose handshake has just ended get to say what they came for.
const LINGER: Duration = Duration::from_secs(3);
/// How often the keyring is looked at: its own times are hours.
const KEYRING_PERIOD: Duration = Duration::from_secs(60);

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder for state cannot be made or entered.
    #[error("the state folder {path} cannot be used; make it, owned by the node's user, or set node.state")]
    State {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration asks for CPUs that this process may not use.
    #[error("node.cores: {0}")]
    Cores(String),
    /// The control agent does not want it to run.
    #[error(transparent)]
    Agent(#[from] agent_link::Refused),
    /// Another process of this node is that generation.
    #[error(
        "generation {generation} of this node runs already ({source}); start the control agent, which grants another \
         one, or stop the other process"
    )]
    Taken {
        /// The generation.
        generation: u8,
        /// How that was seen.
        source: io::Error,
    },
    /// What is kept of zones cannot be used, or the engine of their workers does not start.
    #[error(transparent)]
    Workers(#[from] WorkersError),
    /// The routes cannot be a table.
    #[error("{}", lines(.0))]
    Routes(Vec<responder::TableError>),
    /// The hosts of QUIC cannot be a table.
    #[error("{}", lines(.0))]
    Hosts(Vec<quic::HostsError>),
    /// Keys, certificates or tickets cannot be had.
    #[error("{what}: {source}")]
    Tls {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}{advice}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
        /// What to do.
        advice: &'static str,
    },
    /// Something that the system should always grant was refused.
    #[error("{what}: {source}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// The answer.
        source: io::Error,
    },
}

/// A node that was checked and bound, ready to run.
pub struct Node {
    config: Config,
    /// Where the configuration came from, to read it again on SIGHUP.
    source: Option<PathBuf>,
    signals: Signals,
    view: NodeView,
    facade: Facade,
    table: Arc<ArcSwap<Table>>,
    /// By core, by listener.
    sockets: Vec<Vec<Sockets>>,
    endpoints: Vec<Endpoint<Envelope>>,
    /// Until it is given to the admin thread: a copy that stayed open would take connections.
    admin: Option<OwnedFd>,
    secrets: Option<Secrets>,
    agent: AgentLink,
    /// What other generations toss here, by core, if there can be some.
    caught: Vec<Caught>,
    /// The cores of hosts, for QUIC.
    rules: Arc<quic::Rules>,
    /// Zones and scripts.
    workers: Arc<Workers>,
}

/// What one core has of one listener.
struct Sockets {
    stream: OwnedFd,
    /// Of HTTP/3, on the same port.
    datagrams: Option<OwnedFd>,
}

/// What the TLS listeners share.
struct Secrets {
    keyring: KeyringFile,
    schedule: Schedule,
    ticketer: Arc<Ticketer>,
    store: Arc<CertificateStore>,
    server: Arc<rustls::ServerConfig>,
    quic_keys: Arc<QuicKeys>,
    /// The same as `server`, for HTTP/3.
    quic_server: Arc<rustls::ServerConfig>,
}

impl Node {
    /// Checks everything and binds the addresses. Call it before any other thread is started: it
    /// blocks the signals that [`Node::run`] waits for.
    pub fn prepare(config: Config, source: Option<PathBuf>) -> Result<Self, StartError> {
        let signals =
            Signals::block().map_err(|source| StartError::System { what: "blocking signals", source })?;
        raise_limits();
        let cpus = choose_cpus(&config.node.cores, &berth_runtime::core::allowed_cpus())?;
        let table = responder::table(&config.routes, cpus.len()).map_err(StartError::Routes)?;
        let hosts = quic::Hosts::new(&config.quic.hosts, cpus.len()).map_err(StartError::Hosts)?;
        let secrets = match config.listeners.iter().any(|listener| listener.protocol == Protocol::Https) {
            true => Some(Secrets::open(&config)?),
            false => None,
        };
        let workers = Workers::open(worker_settings(&config))?;
        let rules = Arc::new(quic::Rules::new(hosts, Arc::clone(&workers) as _));
        let access = open_access_log(&config.log.access)
            .map_err(|source| StartError::System { what: "opening the access log", source })?;
        // Before an address is bound: a data plane that may not run takes no connection from the one that does.
        let agent = AgentLink::open(agent_settings(&config, &cpus), Instant::now())?;
        let caught = catch(&config, agent.generation(), cpus.len())?;
        let (sockets, listeners) = bind_all(&config, cpus.len())?;
        let admin = bind(config.admin.listen)?;
        let admin_address = net::bound_address(&admin)
            .map_err(|source| StartError::System { what: "reading the admin address", source })?;
        let capacities = lane_capacities(&config, cpus.len());
        let endpoints = mesh(cpus.len(), capacities).map_err(|error| StartError::Cores(error.to_string()))?;
        let mailboxes = endpoints[0].outbox.counters();
        let cores = cpus.iter().enumerate().map(|(index, cpu)| CoreView::new(index as u16, *cpu));
        let cores: Result<Vec<CoreView>, io::Error> = cores.collect();
        let view = NodeView {
            name: config.node.name.on_host(&host_name()).to_owned(),
            started: Instant::now(),
            cores: cores.map_err(|source| StartError::System { what: "making eventfds", source })?,
            connections: Connections::new(connection_limits(&config.limits)),
            listeners,
            admin: admin_address,
            mailboxes,
            access,
            certificates: secrets.as_ref().map(|secrets| Arc::clone(&secrets.store)),
            ready: Arc::new(AtomicBool::new(false)),
            steering: agent.view(),
            room: Arc::clone(workers.objects().room()),
        };
        let mut node = Self {
            config,
            source,
            signals,
            view,
            facade: Facade::default(),
            table: Arc::new(ArcSwap::from_pointee(table)),
            sockets,
            endpoints,
            admin: Some(admin),
            secrets,
            agent,
            caught,
            rules,
            workers,
        };
        node.introduce()
            .map_err(|source| StartError::System { what: "copying sockets for the agent", source })?;
        Ok(node)
    }

    /// Gives the agent copies of the sockets, and the keys.
    fn introduce(&mut self) -> io::Result<()> {
        if self.config.agent.socket.is_none() {
            return Ok(());
        }
        let mut groups = Vec::new();
        for (index, bound) in self.view.listeners.iter().enumerate() {
            let of_cores = || self.sockets.iter().map(|listeners| &listeners[index]);
            let streams: io::Result<Vec<_>> = of_cores().map(|sockets| sockets.stream.try_clone()).collect();
            let group = |transport| Group { transport, address: bound.address };
            groups.push(agent_link::Sockets { group: group(Transport::Tcp), of_cores: streams? });
            if bound.http3 {
                let datagrams = of_cores().filter_map(|sockets| sockets.datagrams.as_ref());
                let of_cores: io::Result<Vec<_>> = datagrams.map(OwnedFd::try_clone).collect();
                groups.push(agent_link::Sockets { group: group(Transport::Udp), of_cores: of_cores? });
            }
        }
        self.agent.introduce(groups, keys_for_agent(self.secrets.as_ref()));
        Ok(())
    }

    /// The node as others may look at it.
    pub fn view(&self) -> &NodeView {
        &self.view
    }

    /// Runs until a signal to stop, drains, and returns.
    pub fn run(mut self) -> Result<(), StartError> {
        // A second node in this process (tests) keeps the first recorder; nothing hot depends on it.
        let _ = metrics::set_global_recorder(self.facade.clone());
        let (phase, phase_seen) = watch::channel(Phase::Serving);
        let (started, ready) = std::sync::mpsc::channel();
        let together = Together::new(self.endpoints.len());
        let mut threads = Vec::new();
        let mut caught = std::mem::take(&mut self.caught).into_iter();
        for (index, (endpoint, sockets)) in
            std::mem::take(&mut self.endpoints).into_iter().zip(std::mem::take(&mut self.sockets)).enumerate()
        {
            let core = self.core_start(
                index,
                endpoint,
                sockets,
                caught.next(),
                (phase_seen.clone(), together.clone()),
            );
            threads.push(start_thread(format!("core-{index}"), core, started.clone())?);
        }
        let admin = AdminStart {
            view: self.view.clone(),
            facade: self.facade.clone(),
            socket: self.admin.take().expect("a node runs once"),
            limits: self.config.limits.clone(),
            phase: phase_seen,
            workers: Arc::clone(&self.workers),
            table: Arc::clone(&self.table),
        };
        let admin = start_admin(admin)?;
        drop(started);
        for _ in &threads {
            match ready.recv() {
                Ok(Ok(())) => {}
                Ok(Err(source)) => return Err(StartError::System { what: "starting a core", source }),
                Err(_) => {
                    let source = io::Error::other("a core ended before it began");
                    return Err(StartError::System { what: "starting a core", source });
                }
            }
        }
        self.view.ready.store(true, Relaxed);
        self.agent.serving();
        let generation = self.agent.generation().get();
        tracing::info!(node = %self.view.name, cores = threads.len(), admin = %self.view.admin, generation, "node.ready");
        Warden::new(&mut self).run(&phase);
        for thread in threads {
            let _ = thread.join();
        }
        self.workers.close();
        let _ = phase.send(Phase::Over);
        let _ = admin.join();
        if self.config.agent.socket.is_some() {
            generations::forget(&self.config.node.state, self.agent.generation());
        }
        tracing::info!("node.ended");
        Ok(())
    }

    fn core_start(
        &self,
        index: usize,
        endpoint: Endpoint<Envelope>,
        sockets: Vec<Sockets>,
        caught: Option<Caught>,
        (phase, together): (watch::Receiver<Phase>, Together),
    ) -> CoreStart {
        let doors = self.config.listeners.iter().map(|listener| DoorPlan {
            tls: match listener.protocol {
                Protocol::Https => self.secrets.as_ref().map(|secrets| Arc::clone(&secrets.server)),
                Protocol::Http => None,
            },
            proxy_from: listener.proxy_from.clone(),
        });
        CoreStart {
            view: self.view.clone(),
            index,
            options: core_options(&self.config, &self.view.cores[index]),
            table: Arc::clone(&self.table),
            limits: self.config.limits.clone(),
            debug_clients: self.config.debug.clients.clone(),
            drain: self.config.shutdown.drain,
            endpoint,
            doors: sockets.into_iter().zip(doors).collect(),
            quic: self.secrets.as_ref().map(|secrets| self.quic_settings(secrets)),
            caught,
            state: self.config.node.state.clone(),
            workers: Arc::clone(&self.workers),
            phase,
            together,
        }
    }
}

impl Node {
    fn quic_settings(&self, secrets: &Secrets) -> quic::Settings {
        quic::Settings {
            keys: Arc::clone(&secrets.quic_keys),
            tls: Arc::clone(&secrets.quic_server),
            cores: self.view.cores.len(),
            generation: self.agent.generation(),
            config: self.config.quic.clone(),
            rules: Arc::clone(&self.rules),
        }
    }
}

fn worker_settings(config: &Config) -> WorkerSettings {
    WorkerSettings {
        state: config.node.state.clone(),
        instances: config.workers.instances,
        stacks: config.workers.stacks,
        resident: config.objects.resident,
        idle_after: config.objects.idle,
        code_bytes: config.workers.code_bytes,
        budget: Budget {
            memory: config.workers.compile_memory,
            time: config.workers.compile_time,
            ..Budget::default()
        },
    }
}

/// What the warden tells the cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Take connections.
    Serving,
    /// End connections gracefully, by the deadline.
    Draining,
    /// The same, while a newer generation of the node serves: the admin address is its from now on.
    Retiring,
    /// End now.
    Over,
}

/// Everything that a core's thread takes with it.
struct CoreStart {
    view: NodeView,
    index: usize,
    options: CoreOptions,
    table: Arc<ArcSwap<Table>>,
    limits: config::Limits,
    debug_clients: Vec<config::Cidr>,
    drain: Duration,
    endpoint: Endpoint<Envelope>,
    doors: Vec<(Sockets, DoorPlan)>,
    quic: Option<quic::Settings>,
    /// What other generations toss to this core, if there can be some.
    caught: Option<Caught>,
    state: PathBuf,
    workers: Arc<Workers>,
    phase: watch::Receiver<Phase>,
    together: Together,
}

struct DoorPlan {
    tls: Option<Arc<rustls::ServerConfig>>,
    proxy_from: Vec<config::Cidr>,
}

type Started = std::sync::mpsc::Sender<io::Result<()>>;

fn start_thread(name: String, core: CoreStart, started: Started) -> Result<JoinHandle<()>, StartError> {
    let spawned = std::thread::Builder::new().name(name).spawn(move || {
        let _fatal = EndProcessOnPanic;
        let view = core.view.cores[core.index].clone();
        let options = core.options.clone();
        let failed = started.clone();
        if let Err(error) = block_on(&options, &view.remote, &view.runtime, serve(core, started)) {
            let _ = failed.send(Err(error));
        }
    });
    spawned.map_err(|source| StartError::System { what: "starting a thread", source })
}

/// The main task of a core: opens the doors, waits for the end, sees the guests out.
async fn serve(start: CoreStart, started: Started) {
    let view = &start.view.cores[start.index];
    let drain = Drain::default();
    let (hops, inbox) = hops::split(start.endpoint, Arc::clone(&view.numbers));
    let manner = (&start.limits, &drain);
    let workers =
        CoreWorkers::start(view.index, &start.workers, &view.numbers, &view.outgoing, &hops, manner);
    let responder = || {
        let (table, numbers) = (Arc::clone(&start.table), Arc::clone(&view.numbers));
        let (hops, workers) = (Rc::clone(&hops), Rc::clone(&workers));
        Responder::new(view.index, table, hops, workers, numbers, start.limits.clone(), drain.clone())
    };
    let remotes = start.view.cores.iter().map(|core| Arc::clone(&core.remote)).collect();
    hops::connect(inbox, Rc::clone(&hops), remotes, Rc::new(responder()));
    let (numbers, latencies) = (Arc::clone(&view.numbers), Arc::clone(&view.latencies));
    let access = start.view.access.clone();
    let debugging = Debugging::new(&start.view.name, start.debug_clients);
    let answers = responder().for_clients(debugging);
    let mut core = Core::new(numbers, latencies, start.limits.clone(), answers, access);
    core.alt_svc = AltSvc::new(
        start.view.listeners.iter().filter(|bound| bound.http3).map(|bound| bound.address.port()),
    );
    let house = Rc::new(House {
        core: Rc::new(core),
        connections: start.view.connections.clone(),
        drain: drain.clone(),
    });
    if let Some(mut caught) = start.caught {
        let hops = Rc::clone(&hops);
        spawn(async move {
            while let Some(datagram) = caught.recv().await {
                hops.catch(datagram);
            }
        });
    }
    let endpoints = start.quic.map(|settings| {
        let shared = quic_shared(&house, &hops, Others::new(&start.state));
        move |socket, listener| {
            quic::Endpoint::new(
                UdpSocket::adopt(socket)?,
                listener,
                view.index,
                &settings,
                Rc::clone(&shared),
            )
        }
    });
    let mut opened_endpoints = Vec::new();
    for (listener, (sockets, plan)) in (0..).zip(start.doors) {
        let door = Door { tls: plan.tls, proxy_from: plan.proxy_from };
        let opened = open_door(sockets, door, &house, |socket| {
            endpoints.as_ref().map(|endpoints| endpoints(socket, listener)).transpose()
        });
        match opened {
            Ok(endpoint) => opened_endpoints.extend(endpoint),
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        }
    }
    let _ = started.send(Ok(()));
    drop(started);
    see_out((start.phase, start.together), &drain, &workers, start.drain).await;
    opened_endpoints.iter().for_each(|endpoint: &Rc<quic::Endpoint>| endpoint.cut_all());
    berth_runtime::yield_now().await; // What they said goes out with the turn.
}

/// The payers of strangers: accepting and sorting is billed apart from the core's own work, since they cause it.
const ACCEPTING: Payer = Payer(u64::MAX - 1);
const SORTING: Payer = Payer(u64::MAX - 2);

/// Begins to accept on a listener's sockets.
fn open_door<S: Service>(
    sockets: Sockets,
    door: Door,
    house: &Rc<House<S>>,
    endpoint: impl Fn(OwnedFd) -> io::Result<Option<Rc<quic::Endpoint>>>,
) -> io::Result<Option<Rc<quic::Endpoint>>> {
    let listener = TcpListener::adopt(sockets.stream)?;
    spawn_for(ACCEPTING, listener::run(listener, Rc::new(door), Rc::clone(house)));
    let Some(socket) = sockets.datagrams else { return Ok(None) };
    let endpoint = endpoint(socket)?;
    if let Some(endpoint) = &endpoint {
        spawn_for(SORTING, Rc::clone(endpoint).run());
    }
    Ok(endpoint)
}

/// What the QUIC endpoints of a core need of it.
fn quic_shared<S: Service>(house: &Rc<House<S>>, hops: &Rc<hops::Hops>, others: Others) -> Rc<quic::Shared> {
    let serving = Rc::clone(house);
    Rc::new(quic::Shared {
        numbers: Arc::clone(&house.core.numbers),
        limits: (*house.core.limits).clone(),
        connections: house.connections.clone(),
        drain: house.drain.clone(),
        hops: Rc::clone(hops),
        others,
        on_connection: Box::new(move |connection, peer| {
            let (house, draining) = (Rc::clone(&serving), serving.drain.listen());
            Box::pin(async move { h3::serve(connection, &house.core, Rc::new(peer), &draining).await })
        }),
    })
}

/// Waits for the drain and then, bounded, for the connections, the turns of objects, and the other cores, which may need
/// what lives on this one.
async fn see_out(
    (mut phase, together): (watch::Receiver<Phase>, Together),
    drain: &Drain,
    workers: &CoreWorkers,
    patience: Duration,
) {
    let _ = phase.wait_for(|phase| *phase != Phase::Serving).await;
    drain.start();
    workers.objects.ring_no_more();
    let over = async {
        let _ = phase.wait_for(|phase| *phase == Phase::Over).await;
    };
    let finished = timeout(patience, async {
        drain.finished().await;
        workers.objects.finished().await;
        together.finished().await;
    });
    let (mut over, mut finished) = (std::pin::pin!(over), std::pin::pin!(finished));
    let outcome = std::future::poll_fn(|cx| match finished.as_mut().poll(cx) {
        std::task::Poll::Ready(outcome) => std::task::Poll::Ready(outcome.is_ok()),
        std::task::Poll::Pending => over.as_mut().poll(cx).map(|()| false),
    });
    if !outcome.await {
        let (connections, objects) = (drain.alive(), workers.objects.busy());
        tracing::warn!(connections, objects, "drain.deadline: what is left on this core is cut");
    }
}

/// A panic that reaches the end of a core's thread ends the process.
struct EndProcessOnPanic;

impl Drop for EndProcessOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("core.panicked: the node ends, because this core can serve nobody any more");
            std::process::abort();
        }
    }
}

/// What the admin thread takes with it.
struct AdminStart {
    view: NodeView,
    facade: Facade,
    socket: OwnedFd,
    limits: config::Limits,
    workers: Arc<Workers>,
    table: Arc<ArcSwap<Table>>,
    phase: watch::Receiver<Phase>,
}

fn start_admin(start: AdminStart) -> Result<JoinHandle<()>, StartError> {
    let system = |source| StartError::System { what: "starting the admin thread", source };
    let AdminStart { view, facade, socket, mut limits, workers, table, mut phase } = start;
    // Components come here, and objects.
    limits.body_bytes = Budget::default().component_bytes.max(FILE_MAX as u64);
    let remote = Arc::new(Remote::new().map_err(system)?);
    // epoll: the admin thread is not on anybody's hot path, and a second kind of driver that always
    // runs keeps the fallback honest.
    let options = CoreOptions { index: u16::MAX, driver: DriverChoice::Epoll, ..CoreOptions::default() };
    let main = move || async move {
        let connections = Connections::new(connection_limits(&limits));
        let admin = Admin::new(view, facade, workers, table);
        let core = Core::new(Arc::default(), Arc::default(), limits, admin, AccessLog::off());
        let drain = Drain::default();
        serve_admin(socket, core, connections, drain.clone());
        let _ = phase.wait_for(|phase| matches!(phase, Phase::Retiring | Phase::Over)).await;
        // A newer generation listens on the same address, and is the one to be asked.
        drain.start();
        let _ = phase.wait_for(|phase| *phase == Phase::Over).await;
    };
    let thread = std::thread::Builder::new().name("admin".into());
    thread
        .spawn(move || {
            if let Err(error) = block_on(&options, &remote, &Arc::default(), main()) {
                tracing::error!(%error, "admin.start failed");
            }
        })
        .map_err(system)
}

fn serve_admin<S: Service>(socket: OwnedFd, core: Core<S>, connections: Connections, drain: Drain) {
    let house = Rc::new(House { core: Rc::new(core), connections, drain });
    match TcpListener::adopt(socket) {
        Ok(listener) => {
            let door = Rc::new(Door { tls: None, proxy_from: Vec::new() });
            spawn(listener::run(listener, door, house));
        }
        Err(error) => tracing::error!(%error, "admin.listen failed"),
    }
}

/// Signals, stalls, keys and the service manager, on the thread that started the node.
struct Warden<'a> {
    node: &'a mut Node,
    manager: Manager,
    /// The pulse of each core at the last look, and since when it has not moved.
    pulses: Vec<(u64, Instant)>,
    next_keyring: Instant,
    next_alive: Instant,
}

impl<'a> Warden<'a> {
    fn new(node: &'a mut Node) -> Self {
        let now = Instant::now();
        let pulses = vec![(0, now); node.view.cores.len()];
        Self {
            node,
            manager: Manager::from_env(),
            pulses,
            next_keyring: now + KEYRING_PERIOD,
            next_alive: now,
        }
    }

    fn run(&mut self, phase: &watch::Sender<Phase>) {
        self.manager.ready();
        let end = loop {
            match self.node.signals.wait(WATCH) {
                Some(Signal::Stop) => break Phase::Draining,
                Some(Signal::Reload) => self.reload(),
                None => {}
            }
            if let Some(Order::Retire { newer }) = self.tend(Instant::now()) {
                tracing::info!(newer, "node.retired");
                self.linger();
                break Phase::Retiring;
            }
        };
        self.manager.stopping();
        self.node.view.ready.store(false, Relaxed);
        tracing::info!(deadline_s = self.node.config.shutdown.drain.as_secs(), "node.draining");
        self.node.agent.draining();
        let _ = phase.send(end);
        // The cores end by themselves, at the latest at the deadline; a second signal ends them now.
        let patience = Instant::now() + self.node.config.shutdown.drain + Duration::from_secs(2);
        while phase.receiver_count() > 1 && Instant::now() < patience {
            if self.node.signals.wait(WATCH) == Some(Signal::Stop) {
                let _ = phase.send(Phase::Over);
            }
            self.tend(Instant::now());
        }
    }

    /// Takes the connections that were on their way when the newer generation began to serve.
    fn linger(&mut self) {
        let until = Instant::now() + LINGER;
        while Instant::now() < until && self.node.signals.wait(WATCH) != Some(Signal::Stop) {
            self.tend(Instant::now());
        }
    }

    fn tend(&mut self, now: Instant) -> Option<Order> {
        self.watch_cores(now);
        if now >= self.next_keyring {
            self.next_keyring = now + KEYRING_PERIOD;
            if let Some(secrets) = &mut self.node.secrets {
                secrets.tend();
            }
            self.node.agent.set_keys(keys_for_agent(self.node.secrets.as_ref()));
        }
        if let Some(interval) = self.manager.watchdog()
            && now >= self.next_alive
            && self.node.view.stalled() == 0
        {
            self.next_alive = now + interval / 2;
            self.manager.alive();
        }
        self.node.agent.tend(now)
    }

    /// A core that neither sleeps nor turns for `runtime.stall_after` runs one task for too long.
    fn watch_cores(&mut self, now: Instant) {
        for (core, seen) in self.node.view.cores.iter().zip(&mut self.pulses) {
            let pulse = core.remote.pulse();
            if pulse.asleep || pulse.turns != seen.0 {
                *seen = (pulse.turns, now);
                if core.stalled.swap(false, Relaxed) {
                    tracing::warn!(core = core.index, "core.recovered");
                }
            } else if now.duration_since(seen.1) >= self.node.config.runtime.stall_after
                && !core.stalled.swap(true, Relaxed)
            {
                core.stalls.fetch_add(1, Relaxed);
                tracing::error!(core = core.index, "core.stalled: one task runs for too long");
            }
        }
    }

    /// Reads the configuration and the certificates again. What cannot be read leaves the old in
    /// place. Routes and certificates change; everything else needs a restart, and says so.
    fn reload(&mut self) {
        self.manager.reloading();
        let outcome = match self.node.reload() {
            Ok(()) => {
                tracing::info!("node.reloaded");
                "done"
            }
            Err(error) => {
                tracing::error!(error, "node.reload refused; the old configuration stays");
                "refused"
            }
        };
        metrics::counter!("berth_reloads_total", "outcome" => outcome).increment(1);
        self.manager.ready();
    }
}

impl Node {
    fn reload(&mut self) -> Result<(), String> {
        let fresh = match &self.source {
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
                Config::parse(&text).map_err(|mistakes| mistakes.to_string())?
            }
            None => self.config.clone(),
        };
        let table =
            responder::table(&fresh.routes, self.view.cores.len()).map_err(|errors| lines(&errors))?;
        if let Some(secrets) = &mut self.secrets {
            let files = certificate_files(&fresh).map_err(|error| error.to_string())?;
            let warnings = secrets.store.reload(&files, now_s()).map_err(|mistakes| mistakes.to_string())?;
            warnings.iter().for_each(|warning| tracing::warn!(%warning, "certificate.warning"));
        }
        self.table.store(Arc::new(table));
        let mut comparable = fresh.clone();
        comparable.routes.clone_from(&self.config.routes);
        comparable.tls.certificates.clone_from(&self.config.tls.certificates);
        if comparable != self.config {
            tracing::warn!(
                "node.reload: keys other than routes and tls.certificates changed; they take a restart"
            );
        }
        self.config.routes = fresh.routes;
        self.config.tls.certificates = fresh.tls.certificates;
        Ok(())
    }
}

impl Secrets {
    fn open(config: &Config) -> Result<Self, StartError> {
        fn tls<E: std::error::Error + Send + Sync + 'static>(
            what: &'static str,
        ) -> impl FnOnce(E) -> StartError {
            move |source| StartError::Tls { what, source: Box::new(source) }
        }
        make_state(&config.node.state)?;
        let now_s = now_s();
        let files = certificate_files(config)?;
        let (table, warnings) = CertificateTable::load(&files, now_s).map_err(tls("loading certificates"))?;
        warnings.iter().for_each(|warning| tracing::warn!(%warning, "certificate.warning"));
        let schedule = Schedule::new(config.tls.ticket_rotation, config.tls.ticket_lifetime)
            .map_err(tls("tls.ticket_rotation and tls.ticket_lifetime"))?;
        let (mut keyring, _) =
            KeyringFile::open(&config.node.state, now_s).map_err(tls("opening the keyring"))?;
        keyring.refresh(&schedule, now_s).map_err(tls("refreshing the keyring"))?;
        let ticketer = Arc::new(Ticketer::new(keyring.ring(), &schedule, now_s));
        let store = Arc::new(CertificateStore::new(table));
        let server = |alpn| tls::server_config(Arc::clone(&store), Arc::clone(&ticketer), alpn);
        let (server, quic_server) = (server(Alpn::Http2AndHttp1), server(Alpn::Http3));
        let quic_keys = QuicKeys::new(keyring.ring(), &schedule, config.quic.connection_ids, now_s);
        Ok(Self { keyring, schedule, ticketer, store, server, quic_keys: Arc::new(quic_keys), quic_server })
    }

    /// Rotates when it is time; keys retire by time alone, so the ticketer is told in any case.
    fn tend(&mut self) {
        let now_s = now_s();
        if let Err(error) = self.keyring.refresh(&self.schedule, now_s) {
            tracing::error!(%error, "keyring.refresh failed; the keys that are there stay in use");
        }
        self.ticketer.install(self.keyring.ring(), now_s);
        self.quic_keys.install(self.keyring.ring(), now_s);
    }
}

/// Begins to take what other generations toss. Only an agent lets there be others; and where one is configured and away,
/// whoever is that generation already is found out here.
fn catch(config: &Config, generation: Generation, cores: usize) -> Result<Vec<Caught>, StartError> {
    if config.agent.socket.is_none() {
        return Ok(Vec::new());
    }
    make_state(&config.node.state)?;
    generations::catch(&config.node.state, generation, cores).map_err(|failure| match failure {
        berth_link::Failure::Socket { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
            StartError::Taken { generation: generation.get(), source }
        }
        other => StartError::System {
            what: "listening for datagrams of other generations",
            source: io::Error::other(other),
        },
    })
}

fn agent_settings(config: &Config, cpus: &[usize]) -> agent_link::Settings {
    agent_link::Settings {
        socket: config.agent.socket.clone(),
        server: config.quic.server,
        cpus: cpus.iter().map(|cpu| *cpu as u16).collect(),
    }
}

fn keys_for_agent(secrets: Option<&Secrets>) -> link::Keys {
    secrets.map_or(link::Keys { configs: Vec::new() }, |secrets| secrets.quic_keys.for_agent())
}

impl CoreView {
    fn new(index: u16, cpu: usize) -> io::Result<Self> {
        Ok(Self {
            index,
            cpu,
            remote: Arc::new(Remote::new()?),
            runtime: Arc::default(),
            numbers: Arc::<CoreNumbers>::default(),
            outgoing: Arc::default(),
            latencies: Arc::<Latencies>::default(),
            stalled: Arc::default(),
            stalls: Arc::new(AtomicU64::new(0)),
        })
    }
}

/// The certificates of the configuration, or the self-made one for the names that routes mention.
fn certificate_files(config: &Config) -> Result<Vec<tls::CertificateFiles>, StartError> {
    if !config.tls.certificates.is_empty() {
        let files = config.tls.certificates.iter();
        return Ok(files
            .map(|pair| tls::CertificateFiles { chain: pair.chain.clone(), key: pair.key.clone() })
            .collect());
    }
    make_state(&config.node.state)?;
    let host = host_name();
    let mut names = vec![config.node.name.on_host(&host)];
    names.extend(config.routes.iter().map(|route| route.host.as_str()).filter(|host| !host.contains('*')));
    let (files, made) = tls::self_made(&config.node.state, &names, now_s())
        .map_err(|source| StartError::Tls { what: "making a certificate", source: Box::new(source) })?;
    tracing::info!(chain = %files.chain.display(), ?made, "certificate.self_made");
    Ok(vec![files])
}

fn make_state(path: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| StartError::State { path: path.to_owned(), source })
}

fn raise_limits() {
    for (resource, wanted) in [(Resource::Files, FILES_WANTED), (Resource::LockedMemory, LOCKED_WANTED)] {
        match process::raise_limit(resource, wanted) {
            Ok(raised) if raised.now < wanted => {
                tracing::warn!(?resource, now = raised.now, wanted, "limit.low: raise the hard limit");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(?resource, %error, "limit.raise failed"),
        }
    }
}

fn choose_cpus(cores: &Cores, allowed: &[usize]) -> Result<Vec<usize>, StartError> {
    match cores {
        Cores::Auto => Ok(allowed.to_vec()),
        Cores::Count(count) if usize::from(*count) <= allowed.len() => {
            Ok(allowed[..usize::from(*count)].to_vec())
        }
        Cores::Count(count) => Err(StartError::Cores(format!(
            "{count} cores are asked for, but the cpuset allows the {} CPUs {allowed:?}",
            allowed.len()
        ))),
        Cores::Cpus(cpus) => {
            let cpus: Vec<usize> = cpus.iter().map(|cpu| usize::from(*cpu)).collect();
            match cpus.iter().find(|cpu| !allowed.contains(cpu)) {
                None => Ok(cpus),
                Some(cpu) => Err(StartError::Cores(format!(
                    "CPU {cpu} is not in the cpuset, which allows {allowed:?}"
                ))),
            }
        }
    }
}

/// How often a free port is looked for when the configuration leaves it open: TCP's may be taken in UDP.
const FREE_PORT_TRIES: usize = 32;

/// By core, and what others see of each listener.
type AllSockets = (Vec<Vec<Sockets>>, Vec<Bound>);

fn bind_all(config: &Config, cores: usize) -> Result<AllSockets, StartError> {
    let mut sockets: Vec<Vec<Sockets>> = (0..cores).map(|_| Vec::new()).collect();
    let mut listeners = Vec::new();
    for listener in &config.listeners {
        let tries = if listener.address.port() == 0 { FREE_PORT_TRIES } else { 1 };
        let mut bound = bind_listener(listener, cores);
        for _ in 1..tries {
            if bound.is_err() {
                bound = bind_listener(listener, cores);
            }
        }
        let (of_cores, address) = bound?;
        sockets.iter_mut().zip(of_cores).for_each(|(of_core, bound)| of_core.push(bound));
        let security = match listener.protocol {
            Protocol::Http => Security::Plain,
            Protocol::Https => Security::Tls,
        };
        listeners.push(Bound { address, security, http3: listener.speaks_http3() });
    }
    Ok((sockets, listeners))
}

/// One socket for each core, or two with HTTP/3, all on the same port.
fn bind_listener(
    listener: &config::Listener,
    cores: usize,
) -> Result<(Vec<Sockets>, SocketAddr), StartError> {
    let mut address = listener.address;
    let mut sockets = Vec::with_capacity(cores);
    for _ in 0..cores {
        let stream = bind(address)?;
        // The first core's socket decides the port when the configuration leaves it open.
        address = net::bound_address(&stream)
            .map_err(|source| StartError::System { what: "reading a bound address", source })?;
        let datagrams = listener.speaks_http3().then(|| net::bind_datagrams(address));
        let datagrams = datagrams.transpose().map_err(|source| refused(address, source))?;
        sockets.push(Sockets { stream, datagrams });
    }
    Ok((sockets, address))
}

fn bind(address: SocketAddr) -> Result<OwnedFd, StartError> {
    net::listen(address).map_err(|source| refused(address, source))
}

/// Why an address could not be bound, and what to do.
fn refused(address: SocketAddr, source: io::Error) -> StartError {
    let advice = match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE (AmbientCapabilities= in the unit, or \
                 setcap cap_net_bind_service=+ep on the binary) or a lower sysctl \
                 net.ipv4.ip_unprivileged_port_start"
        }
        io::ErrorKind::AddrInUse => "; another process listens there: stop it or choose another port",
        io::ErrorKind::AddrNotAvailable => "; no interface has this address",
        _ => "",
    };
    StartError::Bind { address, source, advice }
}

fn lane_capacities(config: &Config, cores: usize) -> Capacities {
    Capacities { request: config.runtime.mailbox_capacity, ..Capacities::for_cores(cores) }
}

fn connection_limits(limits: &config::Limits) -> ConnectionLimits {
    let bounded = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    ConnectionLimits {
        connections: bounded(limits.connections),
        connections_per_address: bounded(limits.connections_per_address),
        handshakes: bounded(limits.handshakes),
    }
}

fn core_options(config: &Config, view: &CoreView) -> CoreOptions {
    let runtime = &config.runtime;
    CoreOptions {
        index: view.index,
        cpu: Some(view.cpu),
        driver: match runtime.driver {
            Driver::Auto => DriverChoice::Auto,
            Driver::IoUring => DriverChoice::Uring,
            Driver::Epoll => DriverChoice::Epoll,
        },
        ring: RingOptions {
            entries: runtime.ring_entries,
            receive_buffer_bytes: runtime.receive_buffer_bytes as usize,
            receive_buffers_max: runtime.receive_buffers_max as usize,
            ..RingOptions::default()
        },
    }
}

fn open_access_log(config: &AccessConfig) -> io::Result<AccessLog> {
    match config {
        AccessConfig::Off => Ok(AccessLog::off()),
        AccessConfig::Stderr => AccessLog::to_stderr(),
        AccessConfig::File(path) => AccessLog::to_file(path),
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "berth".into(), |name| name.trim().to_owned())
}

/// Several errors, one a line.
fn lines<E: fmt::Display>(errors: &[E]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_come_from_the_cpuset_and_nowhere_else() {
        let allowed = [2, 3, 5];
        assert_eq!(choose_cpus(&Cores::Auto, &allowed).unwrap(), [2, 3, 5]);
        assert_eq!(choose_cpus(&Cores::Count(2), &allowed).unwrap(), [2, 3]);
        assert_eq!(choose_cpus(&Cores::Cpus(vec![5, 2]), &allowed).unwrap(), [5, 2]);
        let error = choose_cpus(&Cores::Count(4), &allowed).err().unwrap().to_string();
        assert!(error.contains("4 cores are asked for") && error.contains("[2, 3, 5]"), "{error}");
        assert!(choose_cpus(&Cores::Cpus(vec![0]), &allowed).is_err());
    }
}
