//! The executor: what the planner wants, done to this machine's kernel.
//!
//! All that it makes is pinned ([`pins`](crate::pins)), so that it outlives the agent: one that starts anew finds the
//! same programs and links, with the same numbers in the kernel, and goes on with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::links::{FdLink, LinkError, LinkInfo, PinnedLink};
use aya::programs::sk_reuseport::SkReuseportAttachType;
use aya::programs::xdp::{XdpLink, XdpMode as Flag};
use aya::programs::{ProgramError, ProgramInfo, SkReuseport, Xdp};
use aya_obj::programs::XdpAttachType;
use berth_protocol::link::{CardState, Counted, Group, XdpMode};
use berth_steer::cid::Generation;
use berth_steer::counters::{SocketCounters, XdpCounters};
use berth_steer::decide::Reason;
use berth_steer::table::Table;
use rustix::net::{AddressFamily, SocketType};

use crate::pins::{self, Pins};
use crate::plan::{self, Age, BadDesired, Desired, Link, Observed, Step};
use crate::programs::{self, Card, Failure as ProgramFailure, Programs, TableMap};

/// What `statfs` says of a BPF file system.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Why a step could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The programs or maps.
    #[error(transparent)]
    Programs(#[from] ProgramFailure),
    /// There is nothing to pin to.
    #[error(
        "{0} is not on a BPF file system, where pins could outlive the agent; `mount -t bpf bpf /sys/fs/bpf`, \
         or set agent.pins"
    )]
    NoBpfFs(PathBuf),
    /// A folder or file of pins cannot be made, read or removed.
    #[error("{path} cannot be {verb}")]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried.
        verb: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A program or link cannot be pinned.
    #[error("{path} cannot be pinned")]
    Pin {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: PinError,
    },
    /// A pinned program cannot be used.
    #[error("the program that is pinned at {path} cannot be used")]
    Program {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: ProgramError,
    },
    /// A pinned link cannot be used.
    #[error("the link that is pinned at {path} cannot be used")]
    Link {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: LinkError,
    },
    /// There can be no such table.
    #[error(transparent)]
    Desired(#[from] BadDesired),
}

/// This machine, as far as steering goes.
pub struct Machine {
    pins: Pins,
    /// What this agent brings, by the kernel's tags.
    tags: Tags,
    /// The shared maps, once the folder is there.
    shared: Option<Programs>,
    groups: BTreeMap<Group, Door>,
    /// What became of the cards at the last try.
    cards: BTreeMap<String, CardState>,
}

struct Tags {
    native: u64,
    generic: u64,
    door: u64,
}

/// The program of a group and its sockets.
struct Door {
    maps: Programs,
    program: SkReuseport,
    age: DoorAge,
}

/// Sockets that could not all be put into their slots.
#[derive(Debug)]
pub struct NotSeated {
    /// How many are seated: the first ones.
    pub seated: usize,
    /// What became of the next one.
    pub why: Failure,
}

/// Whether the sockets of a group were pinned before this agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DoorAge {
    Found,
    Made,
}

impl Door {
    /// Puts sockets into their slots, one after another, and counts them.
    fn seat(
        &mut self,
        generation: Generation,
        first_core: u8,
        sockets: &[OwnedFd],
        seated: &mut usize,
    ) -> Result<(), Failure> {
        for (core, socket) in (first_core..=u8::MAX).zip(sockets) {
            match self.maps.set_socket(generation, core, &socket.as_raw_fd()) {
                Ok(()) => {}
                // A socket is in one array at most. One that an earlier agent put into this one is in its slot.
                Err(error) if is_busy(&error) && self.age == DoorAge::Found => {}
                Err(error) => {
                    // The array of another layout goes with its program, some turns of RCU after ours has taken its place.
                    if is_busy(&error) {
                        self.attach(sockets)?;
                    }
                    return Err(error.into());
                }
            }
            *seated += 1;
        }
        self.attach(sockets)
    }

    /// Has the program choose among these sockets and all that share their address.
    fn attach(&mut self, sockets: &[OwnedFd]) -> Result<(), Failure> {
        let Some(socket) = sockets.first() else { return Ok(()) };
        Ok(self.program.attach(socket).map_err(programs::door_refused)?)
    }
}

impl Machine {
    /// Has the kernel check the programs. Nothing is changed.
    pub fn open(pins: &Path) -> Result<Self, Failure> {
        let mut own = Programs::load()?;
        let tags = Tags {
            native: own.card_tag(Card::Steer)?,
            generic: own.card_tag(Card::SteerGeneric)?,
            door: own.door_tag()?,
        };
        let pins = Pins::new(pins);
        let mut machine = Self { pins, tags, shared: None, groups: BTreeMap::new(), cards: BTreeMap::new() };
        if machine.is_there() {
            machine.open_shared()?;
        }
        Ok(machine)
    }

    fn is_there(&self) -> bool {
        self.pins.folders().iter().all(|folder| folder.is_dir())
    }

    fn open_shared(&mut self) -> Result<&mut Programs, Failure> {
        let maps = self.pins.maps();
        let shared = Programs::open_pinned(programs::Pins { shared: Some(&maps), sockets: None })?;
        Ok(self.shared.insert(shared))
    }

    fn shared(&mut self) -> Result<&mut Programs, Failure> {
        if self.shared.is_none() {
            self.open_shared()?;
        }
        self.shared.as_mut().ok_or(Failure::Programs(ProgramFailure::Missing("shared maps")))
    }

    /// What is in the kernel.
    pub fn observe(&self, desired: &Desired) -> Result<Observed, Failure> {
        let indexes = indexes_of(&desired.cards);
        let mut observed = Observed { folder: self.is_there(), indexes, ..Observed::default() };
        for other in self.other_layouts()? {
            observed.links.extend(links_in(&self.pins.of_layout(other))?.into_values());
            observed.other_layouts.insert(other);
        }
        if !observed.folder {
            return Ok(observed);
        }
        observed.table = self.table()?.map(|table| table.version);
        let mut ids = BTreeMap::new();
        for mode in [XdpMode::Native, XdpMode::Generic] {
            let Ok(info) = ProgramInfo::from_pin(self.pins.program(mode)) else { continue };
            let age = if info.tag() == self.tag(mode) { Age::Current } else { Age::Outdated };
            observed.programs.insert(mode, age);
            ids.insert(mode, info.id());
        }
        for (name, link) in links_in(&self.pins)? {
            let runs_pinned = ids.get(&link.mode) == Some(&self.link_info(&name)?.program_id());
            observed.links.push(Link { runs_pinned, ..link });
        }
        observed.links.sort();
        observed.groups = self.pinned_groups()?;
        Ok(observed)
    }

    /// Layouts whose folders lie beside ours.
    fn other_layouts(&self) -> Result<Vec<u32>, Failure> {
        let Some(above) = self.pins.folder.parent() else { return Ok(Vec::new()) };
        Ok(names_in(above)?.iter().filter_map(|name| pins::parse_other_layout(name)).collect())
    }

    /// What the kernel says of the link that is pinned by this name.
    fn link_info(&self, name: &str) -> Result<LinkInfo, Failure> {
        let path = self.pins.links().join(name);
        let info = PinnedLink::from_pin(&path).map(FdLink::from).and_then(|link| link.info());
        info.map_err(|source| Failure::Link { path, source })
    }

    fn tag(&self, mode: XdpMode) -> u64 {
        match mode {
            XdpMode::Native => self.tags.native,
            _ => self.tags.generic,
        }
    }

    /// The groups that are pinned, by this agent or one before it.
    pub fn pinned_groups(&self) -> Result<BTreeSet<Group>, Failure> {
        if !self.is_there() {
            return Ok(BTreeSet::new());
        }
        groups_in(&self.pins)
    }

    /// The table in the kernel.
    pub fn table(&self) -> Result<Option<Box<Table>>, Failure> {
        Ok(TableMap::read(&self.pins.table())?)
    }

    /// The kernel's numbers of the programs and links that are pinned, by the names of their pins.
    pub fn numbers(&self) -> Result<BTreeMap<String, u32>, Failure> {
        let mut numbers = BTreeMap::new();
        if !self.is_there() {
            return Ok(numbers);
        }
        for name in names_in(&self.pins.links())? {
            let id = self.link_info(&name)?.id();
            numbers.insert(name, id);
        }
        let groups = names_in(&self.pins.groups())?.into_iter().map(|name| {
            let path = self.pins.groups().join(&name).join("program");
            (name, path)
        });
        let modes = [XdpMode::Native, XdpMode::Generic];
        let cards = modes.map(|mode| (mode.word().to_owned(), self.pins.program(mode)));
        for (name, path) in cards.into_iter().chain(groups).filter(|(_, path)| path.exists()) {
            let info = ProgramInfo::from_pin(&path);
            numbers.insert(name, info.map_err(|source| Failure::Program { path, source })?.id());
        }
        Ok(numbers)
    }

    /// What the programs have counted, on all CPUs together.
    pub fn counters(&self) -> Result<(XdpCounters, SocketCounters), Failure> {
        match &self.shared {
            Some(shared) => Ok((shared.xdp_counters()?, shared.socket_counters()?)),
            None => Ok(Default::default()),
        }
    }

    /// The same by the names of the counters.
    pub fn counted(&self) -> Result<Counted, Failure> {
        let (cards, sockets) = self.counters()?;
        let named = |reasons: &[u64], outcomes: &[(&str, u64)]| {
            let reasons = Reason::ALL.iter().zip(reasons).map(|(reason, count)| (reason.word(), *count));
            reasons.chain(outcomes.iter().copied()).map(|(name, count)| (name.to_owned(), count)).collect()
        };
        let XdpCounters { reasons, kept, moved, not_moved, elsewhere } = cards;
        let outcomes = [("kept", kept), ("moved", moved), ("not_moved", not_moved), ("elsewhere", elsewhere)];
        let cards = named(&reasons, &outcomes);
        let SocketCounters { reasons, chosen, empty, left } = sockets;
        let sockets = named(&reasons, &[("chosen", chosen), ("empty", empty), ("left", left)]);
        Ok(Counted { cards, sockets })
    }

    /// Makes the kernel as desired. On an error it is somewhere between, and steers right all the same.
    pub fn reach(&mut self, desired: &Desired) -> Result<Vec<Step>, Failure> {
        let observed = self.observe(desired)?;
        self.note_cards(desired, &observed);
        let steps = plan::plan(desired, &observed);
        for step in &steps {
            self.execute(step, desired)?;
            tracing::info!(%step, "steering.step");
        }
        Ok(steps)
    }

    fn execute(&mut self, step: &Step, desired: &Desired) -> Result<(), Failure> {
        match step {
            Step::MakeFolder => self.make_folder(),
            Step::TakeOver(layout) => self.take_over(*layout),
            Step::PinProgram(mode) => self.pin_program(*mode),
            Step::WriteTable(_) => {
                let written = self.shared()?.set_table(&*plan::table(desired)?)?;
                pin_in_place(&self.pins.table(), |at| written.pin(at))
            }
            Step::UpdateLink(link) => self.update_link(link),
            Step::Attach { interface, index, ways } => self.attach(interface, *index, ways),
            Step::Detach(link) => remove(&self.pins.link(link.mode, link.index, &link.interface)),
            Step::RemoveGroup(group) => self.remove_group(group),
        }
    }

    fn make_folder(&mut self) -> Result<(), Failure> {
        for folder in self.pins.folders() {
            let made = fs::create_dir_all(&folder);
            made.map_err(|source| Failure::File { path: folder.clone(), verb: "made", source })?;
            let kind = rustix::fs::statfs(&folder).map(|stat| stat.f_type);
            if !kind.is_ok_and(|kind| kind == BPF_FS_MAGIC) {
                let _ = fs::remove_dir(&folder);
                return Err(Failure::NoBpfFs(folder));
            }
        }
        self.open_shared()?;
        Ok(())
    }

    /// A link keeps its program, and that its maps, until it is updated; so does a group of sockets, until they are seated.
    fn take_over(&self, layout: u32) -> Result<(), Failure> {
        let other = self.pins.of_layout(layout);
        for name in links_in(&other)?.into_keys() {
            let from = other.links().join(&name);
            let moved = fs::rename(&from, self.pins.links().join(&name));
            moved.map_err(|source| Failure::File { path: from, verb: "moved", source })?;
        }
        clear(&other).map(drop)
    }

    fn pin_program(&mut self, mode: XdpMode) -> Result<(), Failure> {
        let path = self.pins.program(mode);
        let card = match mode {
            XdpMode::Native => Card::Steer,
            _ => Card::SteerGeneric,
        };
        // A fresh set of programs: those of `shared` may be loaded already, and are not loaded twice.
        let maps = self.pins.maps();
        let mut fresh = Programs::open_pinned(programs::Pins { shared: Some(&maps), sockets: None })?;
        let program = fresh.load_card(card)?;
        pin_in_place(&path, |at| program.pin(at))
    }

    fn update_link(&self, link: &Link) -> Result<(), Failure> {
        let path = self.pins.link(link.mode, link.index, &link.interface);
        let attached = PinnedLink::from_pin(&path).map(FdLink::from);
        let attached = attached.map_err(|source| Failure::Link { path: path.clone(), source })?;
        let attached = XdpLink::try_from(attached).map_err(|source| Failure::Link { path, source })?;
        let program = self.pins.program(link.mode);
        let updated = Xdp::from_pin(&program, XdpAttachType::Interface)
            .and_then(|mut xdp| xdp.attach_to_link(attached));
        updated.map(drop).map_err(|source| Failure::Program { path: program, source })
    }

    /// Attaches in the first way that works. That none does is a state of the card, and no failure of the agent's.
    fn attach(&mut self, interface: &str, index: u32, ways: &[XdpMode]) -> Result<(), Failure> {
        let mut reasons = Vec::new();
        for mode in ways {
            match self.try_attach(interface, index, *mode)? {
                Ok(()) => {
                    self.note_card(interface, *mode, &reasons);
                    return Ok(());
                }
                Err(why) => reasons.push(format!("{}: {why}", mode.word())),
            }
        }
        self.note_card(interface, XdpMode::Absent, &reasons);
        Ok(())
    }

    fn try_attach(&self, interface: &str, index: u32, mode: XdpMode) -> Result<Result<(), String>, Failure> {
        let program = self.pins.program(mode);
        let flag = match mode {
            XdpMode::Native => Flag::Driver,
            _ => Flag::Skb,
        };
        let xdp = Xdp::from_pin(&program, XdpAttachType::Interface);
        let mut xdp = xdp.map_err(|source| Failure::Program { path: program.clone(), source })?;
        let link = match xdp.attach_to_if_index(index, flag) {
            Ok(id) => xdp.take_link(id).map_err(|source| Failure::Program { path: program, source })?,
            Err(error) => return Ok(Err(why_not(interface, &error))),
        };
        // Without a link of its own the attachment would end with the agent.
        let Ok(link) = FdLink::try_from(link) else {
            return Ok(Err(
                "the kernel gives no link for it, without which it would end with the agent".to_owned()
            ));
        };
        let path = self.pins.link(mode, index, interface);
        link.pin(&path).map_err(|source| Failure::Pin { path, source })?;
        Ok(Ok(()))
    }

    fn note_card(&mut self, interface: &str, xdp: XdpMode, reasons: &[String]) {
        let why = (!reasons.is_empty()).then(|| reasons.join("; "));
        if let Some(why) = &why {
            tracing::warn!(interface, xdp = xdp.word(), why, "xdp.attached less well than it could be");
        }
        self.cards.insert(interface.to_owned(), CardState { interface: interface.to_owned(), xdp, why });
    }

    /// Learns of cards that an earlier agent attached, and of those that are not there. What is attached now says so
    /// itself.
    fn note_cards(&mut self, desired: &Desired, observed: &Observed) {
        for card in &desired.cards {
            let interface = &card.interface;
            let known = self.cards.get(interface).map(|card| card.xdp);
            if !observed.indexes.contains_key(interface) {
                let why = format!("there is no network card {interface}");
                let (interface, why) = (interface.clone(), Some(why));
                self.cards.insert(interface.clone(), CardState { interface, xdp: XdpMode::Absent, why });
            } else if let Some(link) = observed.links.iter().find(|link| link.interface == *interface)
                && known != Some(link.mode)
            {
                self.note_card(interface, link.mode, &[]);
            }
        }
        self.cards.retain(|interface, _| desired.cards.iter().any(|card| card.interface == *interface));
    }

    /// What became of the cards.
    pub fn cards(&self) -> Vec<CardState> {
        self.cards.values().cloned().collect()
    }

    /// Puts sockets into the slots of their cores, and has our program choose among their group. Those before the one
    /// that failed are seated: the rest can be tried again.
    pub fn seat(
        &mut self,
        group: Group,
        generation: Generation,
        first_core: u8,
        sockets: &[OwnedFd],
    ) -> Result<(), NotSeated> {
        let mut seated = 0;
        let outcome =
            self.door(group).and_then(|door| door.seat(generation, first_core, sockets, &mut seated));
        outcome.map_err(|why| NotSeated { seated, why })
    }

    fn door(&mut self, group: Group) -> Result<&mut Door, Failure> {
        if !self.groups.contains_key(&group) {
            let door = self.open_door(group)?;
            self.groups.insert(group, door);
        }
        let missing = || Failure::Programs(ProgramFailure::Missing("group"));
        self.groups.get_mut(&group).ok_or_else(missing)
    }

    fn open_door(&self, group: Group) -> Result<Door, Failure> {
        let folder = self.pins.group(&group);
        let made = fs::create_dir_all(&folder);
        made.map_err(|source| Failure::File { path: folder.clone(), verb: "made", source })?;
        let (shared, sockets, path) = (self.pins.maps(), folder.join("sockets"), folder.join("program"));
        let age = if sockets.exists() { DoorAge::Found } else { DoorAge::Made };
        let pins = programs::Pins { shared: Some(&shared), sockets: Some(&sockets) };
        let mut maps = Programs::open_pinned(pins)?;
        if !ProgramInfo::from_pin(&path).is_ok_and(|info| info.tag() == self.tags.door) {
            let program = maps.load_door()?;
            pin_in_place(&path, |at| program.pin(at))?;
        }
        let program = SkReuseport::from_pin(&path, SkReuseportAttachType::SelectOrMigrate);
        let program = program.map_err(|source| Failure::Program { path, source })?;
        Ok(Door { maps, program, age })
    }

    fn remove_group(&mut self, group: &Group) -> Result<(), Failure> {
        self.groups.remove(group);
        clear_group(&self.pins, group)
    }

    /// Takes everything of ours out of the kernel.
    pub fn remove_all(&mut self) -> Result<Vec<String>, Failure> {
        self.groups.clear();
        self.shared = None;
        let mut removed = clear(&self.pins)?;
        for other in self.other_layouts()? {
            removed.extend(clear(&self.pins.of_layout(other))?);
        }
        // The folder above is ours if nothing else is in it.
        if let (false, Some(above)) = (removed.is_empty(), self.pins.folder.parent()) {
            let _ = fs::remove_dir(above);
        }
        Ok(removed)
    }
}

fn clear_group(pins: &Pins, group: &Group) -> Result<(), Failure> {
    let folder = pins.group(group);
    for name in ["program", "program-new", "sockets"] {
        remove(&folder.join(name))?;
    }
    remove_folder(&folder)
}

/// Removes what we know of a folder of pins, and says what that was: cards first, so that no packet is steered by half of
/// it.
fn clear(pins: &Pins) -> Result<Vec<String>, Failure> {
    let mut removed = Vec::new();
    if !pins.folder.is_dir() {
        return Ok(removed);
    }
    for (name, Link { interface, mode, .. }) in links_in(pins)? {
        remove(&pins.links().join(&name))?;
        removed.push(format!("detached from {interface} ({})", mode.word()));
    }
    for group in groups_in(pins)? {
        clear_group(pins, &group)?;
        removed.push(format!("let go of the sockets at {group}"));
    }
    let programs = [XdpMode::Native, XdpMode::Generic].map(|mode| pins.program(mode));
    for path in programs.into_iter().chain([pins.table()]) {
        remove(&path)?;
        remove(&unfinished(&path))?;
    }
    for map in programs::SHARED {
        remove(&pins.maps().join(map))?;
    }
    for folder in pins.folders().iter().rev() {
        remove_folder(folder)?;
    }
    removed.push(format!("removed {}", pins.folder.display()));
    Ok(removed)
}

/// The numbers of network cards, of those that are there.
pub(crate) fn indexes_of(cards: &[plan::Card]) -> BTreeMap<String, u32> {
    // Any socket will do to ask by.
    let Ok(socket) = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None) else {
        return BTreeMap::new();
    };
    let index = |interface: &str| rustix::net::netdevice::name_to_index(&socket, interface).ok();
    let indexes = cards.iter().filter_map(|card| Some((card.interface.clone(), index(&card.interface)?)));
    indexes.collect()
}

/// Why a card does not take a program, for operators.
fn why_not(interface: &str, error: &ProgramError) -> String {
    let ProgramError::SyscallError(syscall) = error else { return error.to_string() };
    let advice = match syscall.io_error.raw_os_error() {
        Some(16) => " (another program runs there, which is left alone)",
        Some(22 | 34 | 95) => {
            " (its driver runs no programs, or none at its MTU or with its offloads; a smaller MTU or `ethtool -K \
             ... lro off` may help)"
        }
        _ => "",
    };
    format!("{interface} refuses: {}{advice}", syscall.io_error)
}

fn is_busy(error: &ProgramFailure) -> bool {
    let ProgramFailure::Map { source: MapError::SyscallError(syscall), .. } = error else { return false };
    syscall.io_error.kind() == io::ErrorKind::ResourceBusy
}

/// Where something is pinned before it takes its place.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push("-new");
    path.with_file_name(name)
}

/// Pins something in place of what was there, so that at no time there is nothing.
fn pin_in_place(path: &Path, pin: impl FnOnce(&Path) -> Result<(), PinError>) -> Result<(), Failure> {
    let fresh = unfinished(path);
    remove(&fresh)?;
    pin(&fresh).map_err(|source| Failure::Pin { path: fresh.clone(), source })?;
    fs::rename(&fresh, path).map_err(|source| Failure::File {
        path: path.to_owned(),
        verb: "replaced",
        source,
    })
}

/// The links that are pinned there, by the names of their pins. What they run is not asked.
fn links_in(pins: &Pins) -> Result<BTreeMap<String, Link>, Failure> {
    let link = |name: String| {
        let (mode, index, interface) = pins::parse_link(&name)?;
        Some((name, Link { interface, index, mode, runs_pinned: false }))
    };
    Ok(names_in(&pins.links())?.into_iter().filter_map(link).collect())
}

/// The groups that are pinned there.
fn groups_in(pins: &Pins) -> Result<BTreeSet<Group>, Failure> {
    Ok(names_in(&pins.groups())?.iter().filter_map(|name| pins::parse_group(name)).collect())
}

fn names_in(folder: &Path) -> Result<Vec<String>, Failure> {
    let failed = |source| Failure::File { path: folder.to_owned(), verb: "read", source };
    let mut names = Vec::new();
    if !folder.exists() {
        return Ok(names); // Somebody has taken it away, or it was never made.
    }
    for entry in fs::read_dir(folder).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Failure::File { path: path.to_owned(), verb: "removed", source })
        }
        _ => Ok(()),
    }
}

/// Removes a folder of ours, but not what somebody else has put into it.
fn remove_folder(path: &Path) -> Result<(), Failure> {
    match fs::remove_dir(path) {
        Err(source) if source.kind() == io::ErrorKind::DirectoryNotEmpty => {
            tracing::warn!(path = %path.display(), "pins.left: somebody else's are in there");
            Ok(())
        }
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Failure::File { path: path.to_owned(), verb: "removed", source })
        }
        _ => Ok(()),
    }
}
