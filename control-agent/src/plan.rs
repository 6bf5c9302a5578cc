//! The planner: what should be in the kernel, what is there, and what to do about the difference. Pure.
//!
//! [`Desired`] is a value with a number. [`table`] makes the steering table of it, and [`plan`] the steps that lead from
//! what was [`Observed`] to it, in an order in which every state between two steps steers right: programs are there
//! before they are attached, and old ones go last. Whoever carries them out may stop anywhere and plan again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use berth_protocol::link::{Group, IdConfig, XdpMode};
use berth_steer::aes::{AES_TABLES, AesKey};
use berth_steer::cid::{Codepoint, Config, Generation};
use berth_steer::flow::{HashKey, mapped};
use berth_steer::maglev::Place;
use berth_steer::table::{ADDRESSES_MAX, BadAddresses, Table};

/// What should be in the kernel.
#[derive(Clone)]
pub struct Desired {
    /// Its number: higher than that of every state before it.
    pub version: u64,
    /// The number of the node in its site.
    pub server: u16,
    /// The key of the hash of flows.
    pub hash_key: HashKey,
    /// The node's own addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The CPUs of the cores of each data plane.
    pub generations: Vec<(Generation, Vec<u16>)>,
    /// The generation that takes new flows.
    pub newest: Option<Generation>,
    /// How connection ids are read.
    pub configs: Vec<IdConfig>,
    /// The network cards that should steer.
    pub cards: Vec<Card>,
    /// The groups of sockets that are steered.
    pub groups: BTreeSet<Group>,
}

/// A network card that should steer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Its name.
    pub interface: String,
    /// How.
    pub wish: Wish,
}

/// How a card should steer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// By its driver, or else by the kernel's generic way.
    Auto,
    /// By its driver, or not at all.
    Native,
    /// By the kernel's generic way.
    Generic,
}

impl Wish {
    /// The ways to try, the best one first.
    pub fn ways(self) -> &'static [XdpMode] {
        match self {
            Self::Auto => &[XdpMode::Native, XdpMode::Generic],
            Self::Native => &[XdpMode::Native],
            Self::Generic => &[XdpMode::Generic],
        }
    }
}

/// Why there can be no table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDesired {
    /// Too many addresses.
    #[error(
        "the node has {0} addresses, and {ADDRESSES_MAX} can be steered: name those that clients use in steering.addresses"
    )]
    TooManyAddresses(usize),
    /// The set of addresses cannot be made.
    #[error("the addresses cannot be told apart ({0:?}); this is a mistake of ours, please report it")]
    Addresses(BadAddresses),
}

/// The table that steers as desired.
pub fn table(desired: &Desired) -> Result<Box<Table>, BadDesired> {
    let mut table = Box::new(Table::new());
    table.version = desired.version;
    table.server = desired.server;
    table.hash_key = desired.hash_key;
    table.add_server(desired.server);
    for (generation, cpus) in &desired.generations {
        for (core, cpu) in (0..=u8::MAX).zip(cpus) {
            table.set_cpu(*generation, core, Some(*cpu));
        }
    }
    table.set_generation(taking_flows(desired));
    if desired.addresses.len() > ADDRESSES_MAX {
        return Err(BadDesired::TooManyAddresses(desired.addresses.len()));
    }
    let addresses: Vec<u128> = desired.addresses.iter().map(|address| bits(*address)).collect();
    table.addresses.set(&addresses).map_err(BadDesired::Addresses)?;
    for IdConfig { codepoint, key } in &desired.configs {
        let Some(codepoint) = Codepoint::new(*codepoint) else { continue };
        let config = match key {
            None => Config::Plaintext,
            Some(key) => Config::Encrypted(AesKey::new(*key)),
        };
        table.configs.set(codepoint, config);
    }
    table.aes = AES_TABLES.clone();
    let cores = desired.generations.iter().find(|(generation, _)| Some(*generation) == desired.newest);
    let cores = cores.map_or(1, |(_, cpus)| cpus.len().max(1));
    let places = (0..cores as u16).map(|core| Place { server: desired.server, core });
    table
        .ring
        .fill(&places.collect::<Vec<_>>())
        .expect("a node has 1 to 256 cores, and they are in their order");
    Ok(table)
}

/// The generation that takes new flows, or one that nobody has, so that the kernel does with them what it would do
/// without us.
fn taking_flows(desired: &Desired) -> Generation {
    let is_free = |generation: &Generation| desired.generations.iter().all(|(taken, _)| taken != generation);
    let free = || (0..Generation::COUNT as u8).filter_map(Generation::new).find(is_free);
    desired.newest.or_else(free).unwrap_or(Generation::FIRST)
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// What is in the kernel already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Whether our folder of pins is there.
    pub folder: bool,
    /// Other layouts that an agent before this one has pinned.
    pub other_layouts: BTreeSet<u32>,
    /// The programs for cards.
    pub programs: BTreeMap<XdpMode, Age>,
    /// What is attached to cards, by any layout.
    pub links: Vec<Link>,
    /// The numbers of the cards that are desired, for those that exist.
    pub indexes: BTreeMap<String, u32>,
    /// The programs of groups.
    pub groups: BTreeSet<Group>,
    /// The number of the table.
    pub table: Option<u64>,
}

/// Whether a program is the one that this agent brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// It is.
    Current,
    /// Another agent brought it.
    Outdated,
}

/// A program that is attached to a card.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// The card's name when it was attached.
    pub interface: String,
    /// The card's number then.
    pub index: u32,
    /// Who runs it.
    pub mode: XdpMode,
    /// Whether it runs the program of its mode that is pinned now.
    pub runs_pinned: bool,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make our folder of pins, with maps and the table that steers nothing yet.
    MakeFolder,
    /// Move what is attached out of the folder of another layout, to be updated, and let go of the rest that is there.
    TakeOver(u32),
    /// Load the program for cards of this kind, and pin it in place of an older one.
    PinProgram(XdpMode),
    /// Put the table of this number in place of the one that is there.
    WriteTable(u64),
    /// Have an attached card run the pinned program, without a gap.
    UpdateLink(Link),
    /// Have a card run our program, in the first of these ways that it can.
    Attach {
        /// The card.
        interface: String,
        /// Its number.
        index: u32,
        /// The ways.
        ways: &'static [XdpMode],
    },
    /// Take our program off a card.
    Detach(Link),
    /// Let go of a group that is no more.
    RemoveGroup(Group),
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MakeFolder => write!(out, "make the folder of pins, with maps that steer nothing"),
            Self::TakeOver(layout) => write!(out, "take over the cards of an agent of layout {layout}"),
            Self::PinProgram(mode) => write!(out, "load and pin the program for {} mode", mode.word()),
            Self::WriteTable(version) => write!(out, "write table {version}"),
            Self::UpdateLink(link) => {
                write!(out, "have {} run the new program ({})", link.interface, link.mode.word())
            }
            Self::Attach { interface, ways, .. } => {
                let ways: Vec<_> = ways.iter().map(|mode| mode.word()).collect();
                write!(out, "attach to {interface} ({})", ways.join(", or else "))
            }
            Self::Detach(link) => write!(out, "detach from {} ({})", link.interface, link.mode.word()),
            Self::RemoveGroup(group) => write!(out, "let go of the sockets at {group}"),
        }
    }
}

/// What leads from `observed` to `desired`.
pub fn plan(desired: &Desired, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    if !observed.folder {
        steps.push(Step::MakeFolder);
    }
    steps.extend(observed.other_layouts.iter().map(|layout| Step::TakeOver(*layout)));
    let (kept, dropped): (Vec<&Link>, Vec<&Link>) =
        observed.links.iter().partition(|link| is_wanted(link, desired, observed));
    let fresh: Vec<&Card> = desired
        .cards
        .iter()
        .filter(|card| kept.iter().all(|link| link.interface != card.interface))
        .filter(|card| observed.indexes.contains_key(&card.interface))
        .collect();
    let mut needed: BTreeSet<XdpMode> = kept.iter().map(|link| link.mode).collect();
    needed.extend(fresh.iter().flat_map(|card| card.wish.ways()));
    let is_current = |mode: &XdpMode| observed.programs.get(mode) == Some(&Age::Current);
    steps.extend(needed.iter().filter(|mode| !is_current(mode)).map(|mode| Step::PinProgram(*mode)));
    if observed.table != Some(desired.version) {
        steps.push(Step::WriteTable(desired.version));
    }
    let outdated = kept.iter().filter(|link| !link.runs_pinned || !is_current(&link.mode));
    steps.extend(outdated.map(|link| Step::UpdateLink((*link).clone())));
    // Before others are attached: a card takes one program.
    steps.extend(dropped.into_iter().map(|link| Step::Detach(link.clone())));
    steps.extend(fresh.into_iter().map(|card| Step::Attach {
        interface: card.interface.clone(),
        index: observed.indexes[&card.interface],
        ways: card.wish.ways(),
    }));
    let stale = observed.groups.difference(&desired.groups);
    steps.extend(stale.map(|group| Step::RemoveGroup(*group)));
    steps
}

/// Whether a link is one that the desired state would make.
fn is_wanted(link: &Link, desired: &Desired, observed: &Observed) -> bool {
    // A card that was taken out and put in again has another number, and the old link runs nowhere.
    observed.indexes.get(&link.interface) == Some(&link.index)
        && desired
            .cards
            .iter()
            .any(|card| card.interface == link.interface && card.wish.ways().contains(&link.mode))
}

#[cfg(test)]
mod tests;
