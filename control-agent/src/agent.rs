//! The agent's loop: it hears the data planes, and keeps the kernel as they need it.
//!
//! One thread, which sleeps in `poll`. What was said is first taken into [`Generations`] and a few sets; then, if
//! something has changed, one new desired state is made of it and [`Machine::reach`]ed. So a data plane that comes back
//! after the agent was away, and says everything again, changes nothing until it has said all of it ("serving").
//!
//! The end of the agent, wanted or not, leaves the kernel as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use berth_link::{Channel, Listener, Received};
use berth_protocol::link::{
    CardState, Counted, Explanation, FromAgent, FromDataplane, Group, Hello, IdConfig, Steering, VERSIONS,
    with_causes,
};
use berth_steer::cid::Generation;
use berth_steer::flow::HashKey;

use crate::addresses;
use crate::explain::explain;
use crate::generations::{Caller, Generations};
use crate::machine::{Failure as MachineFailure, Machine, indexes_of};
use crate::plan::{Card, Desired, Step, plan};

/// How often the agent looks at what nobody tells it: cards that come and go, addresses, data planes that stay away.
const LOOK: Duration = Duration::from_secs(1);
/// How long accepting pauses when it fails, for want of descriptors say.
const PAUSE: Duration = Duration::from_millis(100);
/// Groups that are steered: TCP and UDP of as many listeners as a configuration can have.
const GROUPS_MAX: usize = 128;
/// Links that may be open: sixteen generations, and some that are refused.
const LINKS_MAX: usize = 32;

/// What the configuration says to the agent.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where data planes call.
    pub socket: PathBuf,
    /// The user that the data planes run as; `None`: only root may call.
    pub user: Option<u32>,
    /// The folder of pins.
    pub pins: PathBuf,
    /// The cards that should steer.
    pub cards: Vec<Card>,
    /// The node's addresses, beside those that it listens on.
    pub addresses: Vec<IpAddr>,
}

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The kernel.
    #[error(transparent)]
    Machine(#[from] MachineFailure),
    /// The link's socket.
    #[error("the agent's socket cannot be used")]
    Link(#[from] berth_link::Failure),
    /// Something that the system should always grant was refused.
    #[error("{what}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// The answer.
        source: io::Error,
    },
}

/// The agent.
pub struct Agent {
    settings: Settings,
    machine: Machine,
    generations: Generations,
    links: BTreeMap<Caller, Link>,
    callers: u64,
    version: u64,
    hash_key: HashKey,
    /// How each generation reads ids; empty until a data plane has said it.
    configs: BTreeMap<Generation, Vec<IdConfig>>,
    /// Who has sockets where.
    groups: BTreeMap<Group, BTreeSet<Caller>>,
    /// What the last state was made of besides: a change of it makes a new one.
    seen: Seen,
    trouble: Option<String>,
    /// Sockets of those who are here that are not in their slots yet.
    unseated: Vec<Unseated>,
    /// Who serves, and since when, but has such sockets.
    held_back: BTreeMap<Caller, u64>,
    /// Number and newest generation of the table that was written last.
    written: (u64, Option<Generation>),
    counted: Counted,
    changed: bool,
}

struct Link {
    channel: Channel,
    /// The other process.
    pid: u32,
    /// Whether it was told to drain.
    retired: bool,
}

/// Sockets that a data plane has sent and the kernel has not taken. They are tried again.
struct Unseated {
    caller: Caller,
    generation: Generation,
    group: Group,
    first_core: u8,
    sockets: Vec<OwnedFd>,
    why: String,
}

impl Unseated {
    /// For people.
    fn trouble(&self) -> String {
        format!("the sockets at {} of generation {}: {}", self.group, self.generation.get(), self.why)
    }
}

/// Whether the kernel is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    All,
    NotAll,
}

/// What the agent sees of the machine by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    addresses: BTreeSet<IpAddr>,
    indexes: BTreeMap<String, u32>,
}

impl Agent {
    /// Looks at what is in the kernel, and brings programs and cards up to date.
    pub fn start(settings: Settings) -> Result<Self, Failure> {
        let machine = Machine::open(&settings.pins)?;
        let table = machine.table()?;
        let hash_key = match &table {
            // Flows stay where they are.
            Some(table) => table.hash_key,
            None => fresh_key()?,
        };
        let now = Instant::now();
        let generations =
            table.as_ref().map_or_else(Generations::default, |table| Generations::recover(table, now));
        let mut agent = Self {
            version: table.map_or(0, |table| table.version),
            settings,
            machine,
            generations,
            links: BTreeMap::new(),
            callers: 0,
            hash_key,
            configs: BTreeMap::new(),
            groups: BTreeMap::new(),
            seen: Seen::default(),
            trouble: None,
            unseated: Vec::new(),
            held_back: BTreeMap::new(),
            written: (0, None),
            counted: Counted::default(),
            changed: false,
        };
        agent.look()?;
        agent.changed = false;
        agent.reach();
        Ok(agent)
    }

    /// What `start` would do, without doing it.
    pub fn dry_run(settings: &Settings) -> Result<Vec<Step>, Failure> {
        let machine = Machine::open(&settings.pins)?;
        let table = machine.table()?;
        let desired = Desired {
            version: table.as_ref().map_or(1, |table| table.version),
            server: table.as_ref().map_or(0, |table| table.server),
            hash_key: HashKey::new([0; 16]),
            addresses: BTreeSet::new(),
            generations: Vec::new(),
            newest: None,
            configs: Vec::new(),
            cards: settings.cards.clone(),
            groups: machine.pinned_groups()?,
        };
        Ok(plan(&desired, &machine.observe(&desired)?))
    }

    /// What became of the cards.
    pub fn cards(&self) -> Vec<CardState> {
        self.machine.cards()
    }

    /// What went wrong at the last change, if something did.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Serves data planes until told to stop.
    pub fn run(mut self, stop: &AtomicBool) -> Result<(), Failure> {
        let listener = open_socket(&self.settings)?;
        tracing::info!(socket = %self.settings.socket.display(), "agent.ready");
        let mut next_look = Instant::now() + LOOK;
        while !stop.load(Relaxed) {
            self.wait(&listener);
            self.accept(&listener);
            for caller in self.links.keys().copied().collect::<Vec<_>>() {
                self.hear(caller);
            }
            let now = Instant::now();
            if now >= next_look {
                next_look = now + LOOK;
                // What failed is tried again.
                self.seat_again();
                self.changed |= self.generations.expire(now) || self.trouble.is_some();
                self.look_or_complain();
                self.tell_counted();
            }
            if self.changed {
                self.look_or_complain(); // New sockets may have brought new addresses.
                self.changed = false;
                let reached = self.reach();
                self.tell(reached);
            }
        }
        tracing::info!("agent.ended; what is in the kernel stays");
        Ok(())
    }

    fn wait(&self, listener: &Listener) {
        let links = self.links.values().map(|link| link.channel.as_fd());
        berth_link::wait(std::iter::once(listener.as_fd()).chain(links), LOOK);
    }

    fn accept(&mut self, listener: &Listener) {
        loop {
            match listener.accept() {
                Ok(Some(channel)) if self.links.len() < LINKS_MAX => {
                    let Some(pid) = self.pid_of_one_who_may_call(&channel) else { continue };
                    self.callers += 1;
                    self.links.insert(Caller(self.callers), Link { channel, pid, retired: false });
                }
                Ok(Some(_)) => tracing::warn!(links = LINKS_MAX, "link.refused: too many are open"),
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "link.accept failed");
                    return std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// The mode of the socket lets nobody else call; this says so once more.
    fn pid_of_one_who_may_call(&self, channel: &Channel) -> Option<u32> {
        let (user, pid) = channel.peer().ok()?;
        if user == 0 || Some(user) == self.settings.user {
            return Some(pid);
        }
        tracing::warn!(user, pid, "link.refused: it is not the data plane's user");
        None
    }

    /// Takes what a data plane has said.
    fn hear(&mut self, caller: Caller) {
        while let Some(link) = self.links.get(&caller) {
            match link.channel.receive::<FromDataplane>() {
                Ok(Some(received)) => self.handle(caller, received),
                Ok(None) => return,
                Err(error) => {
                    if !matches!(error, berth_link::Failure::Closed) {
                        tracing::warn!(%error, "link.broken");
                    }
                    return self.hang_up(caller);
                }
            }
        }
    }

    fn handle(&mut self, caller: Caller, Received { message, descriptors }: Received<FromDataplane>) {
        let known = self.generations.generation(caller);
        match (message, known) {
            (FromDataplane::Hello(hello), None) => self.meet(caller, &hello),
            (FromDataplane::Hello(_), Some(_)) | (_, None) => {
                tracing::warn!("link.garbled: a hello comes first, and once");
                self.hang_up(caller);
            }
            (FromDataplane::Keys(keys), Some(generation)) => {
                let before = self.configs.insert(generation, keys.configs.clone());
                self.changed |= before.is_some_and(|before| before != keys.configs);
            }
            (FromDataplane::Sockets { group, first_core }, Some(generation)) => {
                let (sockets, why) = (descriptors, String::new());
                self.seat(Unseated { caller, generation, group, first_core, sockets, why });
            }
            (FromDataplane::Serving { since_ms }, Some(generation)) => {
                self.serve(caller, generation, since_ms);
            }
            (FromDataplane::Draining, Some(generation)) => {
                tracing::info!(generation = generation.get(), "generation.draining");
                self.held_back.remove(&caller);
                self.generations.drain(caller);
                self.changed = true;
            }
            (FromDataplane::Explain { ticket, question }, Some(_)) => {
                let answer = match self.machine.table() {
                    Ok(Some(table)) => explain(&table, &question),
                    Ok(None) => no_table("there is no table yet".to_owned()),
                    Err(error) => no_table(with_causes(&error)),
                };
                self.say(caller, &FromAgent::Explained { ticket, answer });
            }
        }
    }

    fn seat(&mut self, mut wanted: Unseated) {
        let Unseated { caller, generation, group, first_core, .. } = wanted;
        let is_known = self.groups.contains_key(&group);
        let seated = if wanted.sockets.is_empty() {
            Err("it sends none".to_owned())
        } else if !is_known && self.groups.len() >= GROUPS_MAX {
            Err(format!("there are {GROUPS_MAX} groups already"))
        } else {
            self.machine.seat(group, generation, first_core, &wanted.sockets).map_err(|rest| {
                wanted.sockets.drain(..rest.seated);
                wanted.first_core += rest.seated as u8;
                with_causes(&rest.why)
            })
        };
        match seated {
            Ok(()) => {
                self.groups.entry(group).or_default().insert(caller);
                self.changed |= !wanted.why.is_empty();
            }
            Err(why) => {
                if why != wanted.why {
                    tracing::warn!(%group, generation = generation.get(), why, "sockets.refused: they are tried again");
                    wanted.why = why;
                }
                self.unseated.push(wanted);
            }
        }
    }

    /// Tries again what the kernel did not take, and lets those serve who are complete now.
    fn seat_again(&mut self) {
        for wanted in std::mem::take(&mut self.unseated) {
            self.seat(wanted);
        }
        for (caller, since_ms) in self.held_back.clone() {
            if let Some(generation) = self.generations.generation(caller) {
                self.serve(caller, generation, since_ms);
            }
        }
    }

    fn serve(&mut self, caller: Caller, generation: Generation, since_ms: u64) {
        let number = generation.get();
        if self.unseated.iter().any(|wanted| wanted.caller == caller)
            && self.generations.newest().is_some_and(|newest| newest != generation)
        {
            // New flows would find its slots empty, while another one can take them.
            if self.held_back.insert(caller, since_ms).is_none() {
                tracing::error!(
                    generation = number,
                    "generation.held back: its sockets are not all in their slots; they are tried again"
                );
            }
            return;
        }
        self.held_back.remove(&caller);
        tracing::info!(generation = number, "generation.serving");
        self.generations.serve(caller, since_ms);
        self.changed = true;
    }

    fn meet(&mut self, caller: Caller, hello: &Hello) {
        let build = env!("CARGO_PKG_VERSION").to_owned();
        let Some(version) = VERSIONS.common(hello.versions) else {
            let why = format!(
                "the agent ({build}) speaks link version {VERSIONS}, the data plane ({}) {}: run two that fit",
                hello.build, hello.versions
            );
            return self.refuse(caller, why);
        };
        // As this side of the link numbers it.
        let pid = self.links.get(&caller).map_or(hello.pid, |link| link.pid);
        let hello = &Hello { pid, ..hello.clone() };
        match self.generations.admit(caller, hello, lives) {
            Ok(generation) => {
                let generation = generation.get();
                tracing::info!(generation, pid = hello.pid, build = hello.build, "generation.granted");
                self.say(caller, &FromAgent::Granted { version, build, generation });
            }
            Err(refusal) => self.refuse(caller, refusal.to_string()),
        }
    }

    fn refuse(&mut self, caller: Caller, why: String) {
        tracing::warn!(why, "generation.refused");
        self.say(caller, &FromAgent::Refused { why });
        self.hang_up(caller);
    }

    fn say(&mut self, caller: Caller, message: &FromAgent) {
        let Some(link) = self.links.get(&caller) else { return };
        if let Err(error) = link.channel.send(message, &[]) {
            tracing::debug!(%error, "link.send");
            self.hang_up(caller);
        }
    }

    fn hang_up(&mut self, caller: Caller) {
        self.links.remove(&caller);
        self.unseated.retain(|wanted| wanted.caller != caller);
        self.held_back.remove(&caller);
        if let Some(generation) = self.generations.generation(caller) {
            tracing::info!(generation = generation.get(), "generation.link_closed");
            self.generations.gone(caller, Instant::now());
            self.changed = true;
        }
        self.groups.retain(|_, callers| {
            callers.remove(&caller);
            !callers.is_empty()
        });
    }

    fn complain(&mut self, error: &dyn Error) {
        let text = with_causes(error);
        if self.trouble.as_ref() != Some(&text) {
            tracing::error!(error = text, "steering.change failed; what is in the kernel stays");
        }
        self.trouble = Some(text);
    }

    fn look_or_complain(&mut self) {
        if let Err(error) = self.look() {
            self.complain(&error);
        }
    }

    /// Looks at what nobody tells.
    fn look(&mut self) -> Result<(), Failure> {
        let mut seen =
            Seen { addresses: self.settings.addresses.iter().copied().collect(), ..Seen::default() };
        let groups = self.all_groups()?;
        seen.addresses
            .extend(groups.iter().map(|group| group.address.ip()).filter(|ip| !ip.is_unspecified()));
        let any = |v4: bool| {
            groups.iter().any(|group| group.address.ip().is_unspecified() && group.address.is_ipv4() == v4)
        };
        if any(true) || any(false) {
            let local = addresses::local()
                .map_err(|source| Failure::System { what: "reading the machine's addresses", source })?;
            seen.addresses.extend(local.into_iter().filter(|address| any(address.is_ipv4())));
        }
        seen.indexes = indexes_of(&self.settings.cards);
        self.changed |= seen != self.seen;
        self.seen = seen;
        Ok(())
    }

    /// The groups that have sockets, as far as the agent knows: of data planes that have not called yet, by their pins.
    fn all_groups(&self) -> Result<BTreeSet<Group>, MachineFailure> {
        let mut groups: BTreeSet<Group> = self.groups.keys().copied().collect();
        if self.generations.waits() {
            groups.extend(self.machine.pinned_groups()?);
        }
        Ok(groups)
    }

    /// Makes one new state of all that is known, and the kernel as it says.
    fn reach(&mut self) -> Reached {
        match self.try_reach() {
            Ok(()) => {
                self.trouble = None;
                Reached::All
            }
            Err(error) => {
                self.complain(&error);
                Reached::NotAll
            }
        }
    }

    fn try_reach(&mut self) -> Result<(), MachineFailure> {
        let groups = self.all_groups()?;
        // Until a data plane that was there before the agent has called, its table stays: the agent does not know the keys.
        self.configs
            .retain(|generation, _| self.generations.cpus().iter().any(|(alive, _)| alive == generation));
        if !self.configs.is_empty() || !self.generations.waits() {
            self.version += 1;
        }
        let desired = Desired {
            version: self.version,
            server: self.generations.server().unwrap_or(0),
            hash_key: self.hash_key,
            addresses: self.seen.addresses.clone(),
            generations: self.generations.cpus(),
            newest: self.generations.newest(),
            configs: self.merged_configs(),
            cards: self.settings.cards.clone(),
            groups,
        };
        self.machine.reach(&desired)?;
        self.written = (desired.version, desired.newest);
        Ok(())
    }

    /// How ids are read: as the newest generation does, and as others do where it says nothing.
    fn merged_configs(&self) -> Vec<IdConfig> {
        let newest = self.generations.newest();
        let first = newest.and_then(|newest| self.configs.get(&newest));
        let mut merged: Vec<IdConfig> = Vec::new();
        for config in first.into_iter().chain(self.configs.values()).flatten() {
            if merged.iter().all(|known| known.codepoint != config.codepoint) {
                merged.push(config.clone());
            }
        }
        merged
    }

    /// Tells all data planes what the programs have counted, if it is more than they know.
    fn tell_counted(&mut self) {
        match self.machine.counted() {
            Ok(counted) if counted != self.counted => {
                self.counted = counted;
                self.say_to_all(&FromAgent::Counted(self.counted.clone()));
            }
            Ok(_) => {}
            Err(error) => self.complain(&error),
        }
    }

    fn say_to_all(&mut self, message: &FromAgent) {
        for caller in self.links.keys().copied().collect::<Vec<_>>() {
            if self.generations.generation(caller).is_some() {
                self.say(caller, message);
            }
        }
    }

    /// Tells all data planes how it stands, and those that are outdated to drain, once the table says so too.
    fn tell(&mut self, reached: Reached) {
        let (version, newest) = self.written;
        let unseated = self.unseated.iter().map(Unseated::trouble);
        let troubles: Vec<String> = self.trouble.iter().cloned().chain(unseated).collect();
        let steering = Steering {
            version,
            generation: newest.map(Generation::get),
            groups: self.groups.keys().copied().collect(),
            cards: self.machine.cards(),
            trouble: (!troubles.is_empty()).then(|| troubles.join("; ")),
        };
        self.say_to_all(&FromAgent::Steered(steering));
        self.say_to_all(&FromAgent::Counted(self.counted.clone()));
        let (Some(newer), Reached::All) = (newest.map(Generation::get), reached) else { return };
        for caller in self.generations.outdated() {
            if let Some(link) = self.links.get_mut(&caller)
                && !std::mem::replace(&mut link.retired, true)
            {
                self.say(caller, &FromAgent::Retire { newer });
            }
        }
    }
}

/// Whether a process runs: one that has ended and was not waited for yet does not.
fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state stands behind the name, which is in brackets and may hold some of its own.
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

fn no_table(because: String) -> Explanation {
    Explanation { table: 0, place: None, rule: "no_table".to_owned(), because }
}

fn fresh_key() -> Result<HashKey, Failure> {
    let mut bytes = [0; 16];
    let failed =
        |errno: rustix::io::Errno| Failure::System { what: "asking for random bytes", source: errno.into() };
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(failed)? {
        16 => Ok(HashKey::new(bytes)),
        _ => {
            Err(Failure::System { what: "asking for random bytes", source: io::Error::other("too few came") })
        }
    }
}

/// Listens where data planes call: only their user may, and root, whom no mode stops.
pub(crate) fn open_socket(settings: &Settings) -> Result<Listener, Failure> {
    let path = &settings.socket;
    let listener = Listener::bind(path)?;
    let given = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| settings.user.map_or(Ok(()), |user| std::os::unix::fs::chown(path, Some(user), None)));
    given.map_err(|source| Failure::System { what: "giving the socket to the data plane's user", source })?;
    Ok(listener)
}
