//! The programs in the kernel, and the maps that they look at.
//!
//! The object comes with this program: it was built from `ebpf-programs/programs` by `cargo xtask ebpf` and committed, so
//! that nobody needs LLVM to run Berth. Loading it makes the kernel's verifier read it; nothing is attached.

mod plain;

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Duration;

use aya::maps::xdp::XdpMapError;
use aya::maps::{Array, ArrayOfMaps, CpuMap, Map, MapData, MapError, PerCpuArray, ReusePortSockArray};
use aya::pin::PinError;
use aya::programs::xdp::XdpMode;
use aya::programs::{ProgramError, SkReuseport, TestRun, TestRunOptions, Xdp};
use aya::util::{nr_cpus, online_cpus};
use aya::{Ebpf, EbpfError, EbpfLoader};
use berth_steer::cid::Generation;
use berth_steer::counters::{SocketCounters, XdpCounters};
use berth_steer::table::{Table, slot};

use plain::{TABLE_WORDS, Words};

/// The object, aligned as its readers need it.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf-programs/berth.bpf.o");

/// Packets that may wait for a CPU. More are dropped, as they are when a network card's queue is full, which has
/// about as many.
const CPU_QUEUE: u32 = 2048;

/// Why programs cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The kernel or its rights stand against it.
    #[error(
        "the steering programs cannot be loaded; CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are needed, and a kernel of 6.1 \
         or newer"
    )]
    Load(#[from] EbpfError),
    /// The verifier refuses one, or it cannot be run.
    #[error("the program {name} is refused by the kernel; CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are needed")]
    Program {
        /// Its name.
        name: &'static str,
        /// Why.
        source: ProgramError,
    },
    /// A map cannot be read or written.
    #[error("the map {name} cannot be used")]
    Map {
        /// Its name.
        name: &'static str,
        /// Why.
        source: MapError,
    },
    /// A CPU takes no packets from others.
    #[error("CPU {cpu} cannot be made to take packets")]
    Cpu {
        /// Its number.
        cpu: u32,
        /// Why.
        source: XdpMapError,
    },
    /// The CPUs cannot be told.
    #[error("{file} cannot be read")]
    Cpus {
        /// The file.
        file: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The object is not the one that this program was made for.
    #[error("the object has no {0}; this is a mistake of ours, please report it")]
    Missing(&'static str),
}

/// Programs and maps, loaded.
pub struct Programs {
    object: Ebpf,
}

/// A program for network cards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Card {
    /// The one that steers, for drivers that run programs themselves.
    Steer,
    /// The same for all others.
    SteerGeneric,
}

impl Card {
    const ALL: [Self; 2] = [Self::Steer, Self::SteerGeneric];

    const fn name(self) -> &'static str {
        match self {
            Self::Steer => "berth_xdp",
            Self::SteerGeneric => "berth_xdp_generic",
        }
    }

    fn refused(self, source: ProgramError) -> Failure {
        Failure::Program { name: self.name(), source }
    }
}

/// What a program for network cards says of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It goes on where it is.
    Pass,
    /// It is sent on to another CPU.
    Redirect,
    /// Anything else, which it never says.
    Other(u32),
}

/// Where maps are kept beyond the life of the process.
#[derive(Debug, Clone, Copy)]
pub struct Pins<'a> {
    /// The folder of those that all programs share.
    pub shared: Option<&'a Path>,
    /// The sockets of one group.
    pub sockets: Option<&'a Path>,
}

/// The map of one table.
pub struct TableMap(Array<MapData, Words<TABLE_WORDS>>);

impl TableMap {
    /// Keeps it beyond the life of the process.
    pub fn pin(self, path: &Path) -> Result<(), PinError> {
        self.0.pin(path)
    }

    /// Reads the table that is pinned there, if one is.
    pub fn read(path: &Path) -> Result<Option<Box<Table>>, Failure> {
        let failed = |source| Failure::Map { name: TABLES, source };
        if !path.exists() {
            return Ok(None);
        }
        let map = Map::Array(MapData::from_pin(path).map_err(failed)?);
        let table: Array<MapData, Words<TABLE_WORDS>> = Array::try_from(map).map_err(failed)?;
        Ok(Some(plain::table_of(Box::new(table.get(&0, 0).map_err(failed)?))))
    }
}

/// The program at the sockets' door.
const DOOR: &str = "berth_socket";
const SOCKETS: &str = "SOCKETS";
const TABLES: &str = "TABLES";
/// One for each program that sends packets on.
const CPUS: [&str; 2] = ["CPUS", "CPUS_GENERIC"];
/// All but the sockets, which each group has for itself.
pub(crate) const SHARED: [&str; 5] = [TABLES, "CPUS", "CPUS_GENERIC", "XDP_COUNTERS", "SOCKET_COUNTERS"];

impl Programs {
    /// Loads all; every CPU that is online takes packets.
    pub fn load() -> Result<Self, Failure> {
        Self::load_object(OBJECT)
    }

    /// The same of another object, which was built from the same source.
    pub fn load_object(object: &[u8]) -> Result<Self, Failure> {
        let mut programs = Self::open(object, Pins { shared: None, sockets: None })?;
        for card in Card::ALL {
            programs.load_card(card)?;
        }
        programs.load_door()?;
        programs.open_cpus()?;
        Ok(programs)
    }

    /// Opens the maps that are pinned, and makes those that are not; no program is loaded yet.
    pub fn open_pinned(pins: Pins<'_>) -> Result<Self, Failure> {
        let mut programs = Self::open(OBJECT, pins)?;
        programs.open_cpus()?;
        Ok(programs)
    }

    fn open(object: &[u8], pins: Pins<'_>) -> Result<Self, Failure> {
        let cpus = nr_cpus().map_err(|(file, source)| Failure::Cpus { file, source })?;
        let mut loader = EbpfLoader::new();
        for map in CPUS {
            loader.map_max_entries(map, cpus as u32);
        }
        if let Some(folder) = pins.shared {
            for map in SHARED {
                loader.map_pin_path(map, folder.join(map));
            }
        }
        if let Some(path) = pins.sockets {
            loader.map_pin_path(SOCKETS, path);
        }
        Ok(Self { object: loader.load(object)? })
    }

    /// Has the kernel check and take a program for cards.
    pub fn load_card(&mut self, card: Card) -> Result<&mut Xdp, Failure> {
        let program = self.card_mut(card)?;
        program.load().map_err(|source| card.refused(source))?;
        Ok(program)
    }

    /// The same of the program for sockets.
    pub fn load_door(&mut self) -> Result<&mut SkReuseport, Failure> {
        let program = self.door()?;
        program.load().map_err(door_refused)?;
        Ok(program)
    }

    /// What the kernel makes of a program's instructions, by which one is told from another.
    pub fn card_tag(&self, card: Card) -> Result<u64, Failure> {
        Ok(self.card(card)?.info().map_err(|source| card.refused(source))?.tag())
    }

    /// The same of the program for sockets.
    pub fn door_tag(&mut self) -> Result<u64, Failure> {
        Ok(self.door()?.info().map_err(door_refused)?.tag())
    }

    /// Every CPU that is online takes packets. One that does already is let alone: a new queue would lose the old one's.
    fn open_cpus(&mut self) -> Result<(), Failure> {
        let online = online_cpus().map_err(|(file, source)| Failure::Cpus { file, source })?;
        for name in CPUS {
            let map = self.object.map_mut(name).ok_or(Failure::Missing(name))?;
            let failed = |source| Failure::Map { name, source };
            let mut cpus = CpuMap::try_from(map).map_err(failed)?;
            for cpu in &online {
                if cpus.get(*cpu, 0).is_ok_and(|value| value.queue_size > 0) {
                    continue;
                }
                let set = cpus.set(*cpu, CPU_QUEUE, None, 0);
                set.map_err(|source| Failure::Cpu { cpu: *cpu, source })?;
            }
        }
        Ok(())
    }

    /// Puts a table in place of the one that was there: packets are decided by either, never by halves of both. What is
    /// returned may be pinned, to be read again: asking the kernel for the map in use takes rights that nothing else here
    /// needs.
    pub fn set_table(&mut self, table: &Table) -> Result<TableMap, Failure> {
        let failed = |source| Failure::Map { name: TABLES, source };
        let map = self.object.map_mut(TABLES).ok_or(Failure::Missing(TABLES))?;
        let mut tables: ArrayOfMaps<_, Array<MapData, Words<TABLE_WORDS>>> =
            ArrayOfMaps::try_from(map).map_err(failed)?;
        let mut fresh = Array::create(1, 0).map_err(failed)?;
        fresh.set(0, plain::words_of(table), 0).map_err(failed)?;
        tables.set(0, &fresh, 0).map_err(failed)?;
        Ok(TableMap(fresh))
    }

    /// Has a network card run a program, until this value is gone.
    pub fn attach_to_card(&mut self, interface: &str, card: Card) -> Result<(), Failure> {
        let mode = match card {
            Card::Steer => XdpMode::Driver,
            Card::SteerGeneric => XdpMode::Skb,
        };
        self.card_mut(card)?.attach(interface, mode).map_err(|source| card.refused(source))?;
        Ok(())
    }

    /// Has the reuseport program choose among the sockets that share an address with this one.
    ///
    /// It stays there when this value is gone, for as long as one of the sockets is open.
    pub fn attach_to_group(&mut self, socket: impl AsFd) -> Result<(), Failure> {
        self.door()?.attach(socket).map_err(door_refused)
    }

    /// Puts a socket of that group into the slot of its core. The kernel empties the slot when the socket is closed.
    pub fn set_socket(
        &mut self,
        generation: Generation,
        core: u8,
        socket: &impl AsRawFd,
    ) -> Result<(), Failure> {
        let failed = |source| Failure::Map { name: SOCKETS, source };
        let map = self.object.map_mut(SOCKETS).ok_or(Failure::Missing(SOCKETS))?;
        let mut sockets = ReusePortSockArray::try_from(map).map_err(failed)?;
        sockets.set(slot(generation, core), socket, 0).map_err(failed)
    }

    fn door(&mut self) -> Result<&mut SkReuseport, Failure> {
        let program = self.object.program_mut(DOOR).ok_or(Failure::Missing(DOOR))?;
        program.try_into().map_err(door_refused)
    }

    /// What the XDP program has counted, on all CPUs together.
    pub fn xdp_counters(&self) -> Result<XdpCounters, Failure> {
        self.counters("XDP_COUNTERS").map(plain::xdp_counters)
    }

    /// What the reuseport program has counted.
    pub fn socket_counters(&self) -> Result<SocketCounters, Failure> {
        self.counters("SOCKET_COUNTERS").map(plain::socket_counters)
    }

    fn counters<const N: usize>(&self, name: &'static str) -> Result<Words<N>, Failure> {
        let failed = |source| Failure::Map { name, source };
        let map = self.object.map(name).ok_or(Failure::Missing(name))?;
        let counters: PerCpuArray<_, Words<N>> = PerCpuArray::try_from(map).map_err(failed)?;
        let of_cpus = counters.get(&0, 0).map_err(failed)?;
        let mut sum = [0; N];
        for words in of_cpus.iter() {
            sum.iter_mut().zip(words).for_each(|(sum, word)| *sum += word);
        }
        Ok(sum)
    }

    /// Asks a program about a frame, on this CPU, as often as told; the time is that of one.
    pub fn try_frame(&self, card: Card, frame: &[u8], repeat: u32) -> Result<(Action, Duration), Failure> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = repeat;
        let result = self.card(card)?.test_run(options).map_err(|source| card.refused(source))?;
        let action = match result.return_value {
            2 => Action::Pass,
            4 => Action::Redirect,
            other => Action::Other(other),
        };
        Ok((action, result.duration))
    }

    /// A program that was loaded.
    pub fn card(&self, card: Card) -> Result<&Xdp, Failure> {
        let program = self.object.program(card.name()).ok_or(Failure::Missing(card.name()))?;
        program.try_into().map_err(|source| card.refused(source))
    }

    fn card_mut(&mut self, card: Card) -> Result<&mut Xdp, Failure> {
        let program = self.object.program_mut(card.name()).ok_or(Failure::Missing(card.name()))?;
        program.try_into().map_err(|source| card.refused(source))
    }
}

pub(crate) fn door_refused(source: ProgramError) -> Failure {
    Failure::Program { name: DOOR, source }
}
