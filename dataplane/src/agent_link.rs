//! The data plane's side of its link to the control agent.
//!
//! The agent grants a generation and steers packets to the sockets that it is given; the data plane needs neither to
//! serve. Without an answer it starts all the same, as the first generation, with sockets among which the kernel chooses
//! by a hash of its own, which spreads flows as evenly as any; requests then hop and datagrams are tossed. It calls again
//! every second, and what the agent has put into the kernel stays there while the agent is away.
//!
//! The warden calls [`AgentLink::tend`] ten times a second; nothing here blocks but [`AgentLink::open`], for at most
//! [`PATIENCE`]. What others may see of it is in [`SteeringView`].

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use berth_link::{Channel, Failure};
use berth_protocol::link::{
    CardState, Counted, DESCRIPTORS_MAX, Explanation, FromAgent, FromDataplane, Group, Hello, Keys, Question,
    Running, Steering, VERSIONS, with_causes,
};
use berth_steer::cid::Generation;
use serde::Serialize;
use tokio::sync::oneshot;

/// How long a start waits for the agent's word.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often an agent that is away is called.
const CALL_PERIOD: Duration = Duration::from_secs(1);
/// Questions that may wait for the agent. Somebody who asks more is told to come again.
const QUESTIONS_MAX: usize = 64;

/// What an agent must know of this data plane.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the agent listens; `None`: there is none.
    pub socket: Option<PathBuf>,
    /// The number of the node in its site.
    pub server: u16,
    /// The CPU of each core.
    pub cpus: Vec<u16>,
}

/// The sockets of one group, by core.
pub struct Sockets {
    /// Where they are bound.
    pub group: Group,
    /// A copy of each core's.
    pub of_cores: Vec<OwnedFd>,
}

/// What the agent wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// A newer generation serves: end your connections gracefully, and yourself.
    Retire {
        /// Which one.
        newer: u8,
    },
}

/// The link, or the wish for one.
pub struct AgentLink {
    settings: Settings,
    generation: Generation,
    phase: Phase,
    state: State,
    /// What is said again to an agent that starts anew.
    sockets: Vec<Sockets>,
    keys: Keys,
    view: SteeringView,
    questions: Receiver<Ask>,
    asked: HashMap<u64, oneshot::Sender<Explanation>>,
    next_ticket: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Serving {
        since_ms: u64,
    },
    /// New connections are for others, or nobody takes them any more.
    Draining,
}

enum State {
    /// Nobody is to be called.
    Alone,
    /// Nobody answers. Calls again then.
    Away { next_call: Instant },
    /// It has been told who calls.
    Calling(Channel),
    /// It has granted the generation.
    Linked(Channel),
}

/// Where an explanation is asked for, and the status of steering is kept.
#[derive(Clone)]
pub struct SteeringView {
    status: Arc<ArcSwap<SteeringStatus>>,
    questions: SyncSender<Ask>,
}

struct Ask {
    question: Question,
    answer: oneshot::Sender<Explanation>,
}

/// How packets come to their cores, for `berth status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SteeringStatus {
    /// Who chooses among the sockets of an address.
    pub sockets: ChosenBy,
    /// Why not our program, if it is the kernel.
    pub why: Option<String>,
    /// Whether the agent is there.
    pub agent: AgentStatus,
    /// The generation that this data plane is.
    pub generation: u8,
    /// The generation that takes new flows, as the agent last said.
    pub newest: Option<u8>,
    /// The number of the table in the kernel, as the agent last said.
    pub table: Option<u64>,
    /// The network cards, as the agent last said.
    pub cards: Vec<CardState>,
    /// What the agent could not do.
    pub trouble: Option<String>,
    /// What the programs have counted, as the agent last said.
    pub counted: Counted,
}

/// Who chooses among the sockets of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChosenBy {
    /// Our program, by connection id or flow, under the agent's table.
    Programs,
    /// The kernel, by a hash of the flow.
    KernelHash,
}

/// Whether the agent is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentStatus {
    /// None is configured.
    None,
    /// It does not answer.
    Away,
    /// It does.
    Linked,
}

/// The agent does not want this data plane to run.
#[derive(Debug, thiserror::Error)]
#[error("the control agent refuses: {0}")]
pub struct Refused(pub String);

/// Nobody can answer now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NobodyAnswers;

impl SteeringView {
    /// The status as it stands.
    pub fn status(&self) -> Arc<SteeringStatus> {
        self.status.load_full()
    }

    /// Asks the agent where something would go.
    pub async fn explain(self, question: Question) -> Result<Explanation, NobodyAnswers> {
        let (answer, answered) = oneshot::channel();
        match self.questions.try_send(Ask { question, answer }) {
            Ok(()) => answered.await.map_err(|_| NobodyAnswers),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(NobodyAnswers),
        }
    }
}

impl AgentLink {
    /// Calls the agent, and says what its word is: the generation that this data plane runs as.
    pub fn open(settings: Settings, now: Instant) -> Result<Self, Refused> {
        let (sender, questions) = sync_channel(QUESTIONS_MAX);
        let status = SteeringStatus {
            sockets: ChosenBy::KernelHash,
            why: Some("agent.socket is not set".to_owned()),
            agent: AgentStatus::None,
            generation: Generation::FIRST.get(),
            newest: None,
            table: None,
            cards: Vec::new(),
            trouble: None,
            counted: Counted::default(),
        };
        let view = SteeringView { status: Arc::new(ArcSwap::from_pointee(status)), questions: sender };
        let mut link = Self {
            settings,
            generation: Generation::FIRST,
            phase: Phase::Starting,
            state: State::Alone,
            sockets: Vec::new(),
            keys: Keys { configs: Vec::new() },
            view,
            questions,
            asked: HashMap::new(),
            next_ticket: 0,
        };
        let Some(path) = link.settings.socket.clone() else { return Ok(link) };
        match link.greet(&path, None).and_then(|channel| wait_for_word(channel, now)) {
            Ok((channel, FromAgent::Granted { generation, build, .. })) => {
                link.generation = Generation::new(generation).unwrap_or(Generation::FIRST);
                tracing::info!(generation, agent = build, "agent.linked");
                link.state = State::Linked(channel);
                link.note(|status| {
                    status.agent = AgentStatus::Linked;
                    status.generation = generation;
                    status.why = Some("the agent has not steered yet".to_owned());
                });
            }
            Ok((_, FromAgent::Refused { why })) => return Err(Refused(why)),
            Ok(_) => link.miss("the agent says something else than a word on the start".to_owned()),
            Err(error) => link.miss(with_causes(&error)),
        }
        Ok(link)
    }

    /// The generation that this data plane runs as.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// What others may see.
    pub fn view(&self) -> SteeringView {
        self.view.clone()
    }

    /// Tells which sockets there are. Call it once, before [`Self::serving`].
    pub fn introduce(&mut self, sockets: Vec<Sockets>, keys: Keys) {
        (self.sockets, self.keys) = (sockets, keys);
        self.say_with(Self::introduce_on);
    }

    /// Tells how ids are read from now on.
    pub fn set_keys(&mut self, keys: Keys) {
        if keys != self.keys {
            self.keys = keys;
            self.say_with(|link, channel| channel.send(&FromDataplane::Keys(link.keys.clone()), &[]));
        }
    }

    /// New connections are taken.
    pub fn serving(&mut self) {
        let since_ms = machine_uptime_ms();
        self.phase = Phase::Serving { since_ms };
        self.say_with(|_, channel| channel.send(&FromDataplane::Serving { since_ms }, &[]));
    }

    /// None is taken any more. The copies of the sockets are closed: one that is open takes connections.
    pub fn draining(&mut self) {
        self.phase = Phase::Draining;
        self.sockets.clear();
        self.say_with(|_, channel| channel.send(&FromDataplane::Draining, &[]));
    }

    /// Hears the agent, calls it if it is away, and passes questions on.
    pub fn tend(&mut self, now: Instant) -> Option<Order> {
        if let State::Away { next_call } = self.state
            && now >= next_call
        {
            self.call(now);
        }
        let order = self.hear();
        self.pass_questions_on();
        order
    }

    fn call(&mut self, now: Instant) {
        let Some(path) = self.settings.socket.clone() else { return };
        let serving_since_ms = match self.phase {
            Phase::Serving { since_ms } => Some(since_ms),
            Phase::Starting | Phase::Draining => None,
        };
        let running = Running { generation: self.generation.get(), serving_since_ms };
        self.state = match self.greet(&path, Some(running)) {
            Ok(channel) => State::Calling(channel),
            Err(_) => State::Away { next_call: now + CALL_PERIOD },
        };
    }

    fn greet(&self, path: &Path, running: Option<Running>) -> Result<Channel, Failure> {
        let channel = Channel::connect(path)?;
        let hello = Hello {
            versions: VERSIONS,
            build: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            server: self.settings.server,
            cpus: self.settings.cpus.clone(),
            running,
        };
        channel.send(&FromDataplane::Hello(hello), &[])?;
        Ok(channel)
    }

    fn hear(&mut self) -> Option<Order> {
        loop {
            let (State::Calling(channel) | State::Linked(channel)) = &self.state else { return None };
            match channel.receive::<FromAgent>() {
                Ok(Some(received)) => {
                    if let Some(order) = self.handle(received.message) {
                        return Some(order);
                    }
                }
                Ok(None) => return None,
                Err(error) => self.miss(with_causes(&error)),
            }
        }
    }

    fn handle(&mut self, message: FromAgent) -> Option<Order> {
        match message {
            FromAgent::Granted { build, .. } => self.be_linked(&build),
            FromAgent::Refused { why } => {
                tracing::error!(why, "agent.refused: the data plane goes on without it");
                self.miss(format!("the agent refuses: {why}"));
            }
            FromAgent::Steered(steering) => self.note_steering(&steering),
            FromAgent::Counted(counted) => self.note(|status| status.counted = counted),
            FromAgent::Retire { newer } => {
                // An agent that starts anew must not think that new flows are for this one.
                self.phase = Phase::Draining;
                return Some(Order::Retire { newer });
            }
            FromAgent::Explained { ticket, answer } => {
                if let Some(asker) = self.asked.remove(&ticket) {
                    let _ = asker.send(answer); // Who asked may have gone.
                }
            }
        }
        None
    }

    /// An agent that started later, or anew, has taken this data plane as what it is.
    fn be_linked(&mut self, build: &str) {
        let State::Calling(channel) = std::mem::replace(&mut self.state, State::Alone) else { return };
        tracing::info!(generation = self.generation.get(), agent = build, "agent.linked");
        self.state = State::Linked(channel);
        self.note(|status| status.agent = AgentStatus::Linked);
        self.say_with(|link, channel| {
            link.introduce_on(channel)?;
            match link.phase {
                Phase::Starting => Ok(()),
                Phase::Serving { since_ms } => channel.send(&FromDataplane::Serving { since_ms }, &[]),
                Phase::Draining => channel.send(&FromDataplane::Draining, &[]),
            }
        });
    }

    fn introduce_on(&self, channel: &Channel) -> Result<(), Failure> {
        channel.send(&FromDataplane::Keys(self.keys.clone()), &[])?;
        for Sockets { group, of_cores } in &self.sockets {
            let descriptors: Vec<BorrowedFd<'_>> = of_cores.iter().map(AsFd::as_fd).collect();
            for (part, some) in descriptors.chunks(DESCRIPTORS_MAX).enumerate() {
                let first_core = u8::try_from(part * DESCRIPTORS_MAX).unwrap_or(u8::MAX);
                channel.send(&FromDataplane::Sockets { group: *group, first_core }, some)?;
            }
        }
        Ok(())
    }

    fn note_steering(&mut self, steering: &Steering) {
        let missing = self.sockets.iter().find(|sockets| !steering.groups.contains(&sockets.group));
        let why = missing.map(|sockets| format!("the agent does not steer {}", sockets.group));
        let by = if missing.is_none() { ChosenBy::Programs } else { ChosenBy::KernelHash };
        self.note(|status| {
            (status.sockets, status.why) = (by, why.clone());
            (status.newest, status.table) = (steering.generation, Some(steering.version));
            status.cards.clone_from(&steering.cards);
            status.trouble.clone_from(&steering.trouble);
        });
    }

    /// The agent is gone, or was never there. What it has put into the kernel stays.
    fn miss(&mut self, why: String) {
        if matches!(self.state, State::Linked(_)) {
            tracing::warn!(why, "agent.lost: what it has put into the kernel stays; calling again");
        } else if self.view.status().agent != AgentStatus::Away {
            tracing::warn!(why, "agent.away: the kernel spreads flows by a hash of its own; calling again");
        }
        self.state = State::Away { next_call: Instant::now() + CALL_PERIOD };
        self.asked.clear();
        self.note(|status| {
            status.agent = AgentStatus::Away;
            if status.sockets == ChosenBy::KernelHash {
                status.why = Some(why);
            }
        });
    }

    fn pass_questions_on(&mut self) {
        self.asked.retain(|_, asker| !asker.is_closed());
        while let Ok(Ask { question, answer }) = self.questions.try_recv() {
            let State::Linked(_) = self.state else { continue };
            let ticket = self.next_ticket;
            self.next_ticket += 1;
            self.asked.insert(ticket, answer);
            self.say_with(|_, channel| channel.send(&FromDataplane::Explain { ticket, question }, &[]));
        }
    }

    /// Says something, if somebody listens; one who cannot be told anything is missed.
    fn say_with(&mut self, say: impl FnOnce(&Self, &Channel) -> Result<(), Failure>) {
        let State::Linked(channel) = &self.state else { return };
        if let Err(error) = say(self, channel) {
            self.miss(with_causes(&error));
        }
    }

    fn note(&self, change: impl FnOnce(&mut SteeringStatus)) {
        let mut status = (*self.view.status()).clone();
        change(&mut status);
        self.view.status.store(Arc::new(status));
    }
}

/// What the agent says to a start.
fn wait_for_word(channel: Channel, since: Instant) -> Result<(Channel, FromAgent), Failure> {
    loop {
        if let Some(received) = channel.receive::<FromAgent>()? {
            return Ok((channel, received.message));
        }
        if since.elapsed() >= PATIENCE {
            return Err(Failure::Broken(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                "it listens, but says nothing",
            )));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Milliseconds since the machine started, the same for all processes; 0 where the kernel does not tell.
fn machine_uptime_ms() -> u64 {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: f64 = uptime.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
    (seconds * 1000.0) as u64
}
