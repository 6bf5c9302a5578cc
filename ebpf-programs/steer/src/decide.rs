//! The decision: where a packet belongs, and by which rule.
//!
//! ```text
//!   frame ─► headers ─► to one of our addresses? ─► fragment: by addresses and protocol ──────────────┐
//!                                                   TCP: by flow ─────────────────────────────────────┤
//!                                                   UDP: by connection id, if it names somebody alive │
//!                                                        else by flow ────────────────────────────────┤
//!                                                   ICMP error: by the flow that it quotes ───────────┤
//!                                                                                              key, ring, core
//! ```
//!
//! Everything else passes: the kernel does with it what it would do without us. So does every packet that cannot be
//! read; a decision refuses nothing.
//!
//! Each decision has one [`Reason`], which is counted.

use crate::cid::{Destination, Generation};
use crate::flow::Flow;
use crate::headers::{self, Ip, Odd, Part, Version, protocol};
use crate::packet::Packet;
use crate::quic::{DestinationId, destination_id};
use crate::table::Table;

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: it is not for us to steer.
    Pass,
    /// It is ours: this core's of this generation, which runs on this CPU.
    Here {
        /// The generation.
        generation: Generation,
        /// The core.
        core: u8,
        /// The CPU of the core.
        cpu: u16,
    },
    /// It is another server's of the site.
    Elsewhere {
        /// Its number.
        server: u16,
    },
}

/// By which rule a packet was decided. Its number is the place of its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// It carries neither IPv4 nor IPv6: ARP, say.
    NotIp,
    /// It ends before its headers do.
    Cut,
    /// A header has a value that it cannot have.
    Malformed,
    /// It is for an address that is not the node's.
    NotOurs,
    /// It is for us, of a protocol that is not steered.
    OtherProtocol,
    /// An ICMP message that is no error, or an error that quotes nothing of ours.
    Icmp,
    /// There is no core to give it to: no data plane runs.
    NoCore,
    /// A connection id named its destination.
    ConnectionId,
    /// A connection id named a core, generation or server that is not there; steered by its flow.
    DeadConnectionId,
    /// UDP without a connection id of ours, a client's first packets above all; steered by its flow.
    Udp,
    /// TCP; steered by its flow.
    Tcp,
    /// An ICMP error; steered by the flow that it quotes.
    IcmpError,
    /// A fragment; steered by its addresses and protocol, which all fragments of a packet share.
    Fragment,
}

impl Reason {
    /// All, in the order of their counters.
    pub const ALL: [Self; 13] = [
        Self::NotIp,
        Self::Cut,
        Self::Malformed,
        Self::NotOurs,
        Self::OtherProtocol,
        Self::Icmp,
        Self::NoCore,
        Self::ConnectionId,
        Self::DeadConnectionId,
        Self::Udp,
        Self::Tcp,
        Self::IcmpError,
        Self::Fragment,
    ];

    /// Its word, in metrics and where a decision is explained.
    pub const fn word(self) -> &'static str {
        match self {
            Self::NotIp => "not_ip",
            Self::Cut => "cut",
            Self::Malformed => "malformed",
            Self::NotOurs => "not_ours",
            Self::OtherProtocol => "other_protocol",
            Self::Icmp => "icmp",
            Self::NoCore => "no_core",
            Self::ConnectionId => "connection_id",
            Self::DeadConnectionId => "dead_connection_id",
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::IcmpError => "icmp_error",
            Self::Fragment => "fragment",
        }
    }
}

// The last one's counter is the last one.
const _: () = assert!(Reason::Fragment as usize + 1 == Reason::ALL.len());

/// What was decided, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What to do.
    pub verdict: Verdict,
    /// By which rule.
    pub reason: Reason,
}

/// Decides for a frame of Ethernet.
#[inline(always)]
pub fn decide(packet: &(impl Packet + ?Sized), table: &Table) -> Decision {
    match aim_frame(packet, table) {
        Ok(aim) => follow(aim, table),
        Err(reason) => Decision { verdict: Verdict::Pass, reason },
    }
}

/// Decides for a datagram or a new connection that reached its socket's door: `id` is what [`destination_id`] says of
/// a datagram, and `None` for TCP.
#[inline(always)]
pub fn decide_flow(flow: Flow, id: DestinationId, table: &Table) -> Decision {
    let aim = match flow.protocol {
        protocol::TCP => Aim::Flow(flow, Reason::Tcp),
        _ => aim_datagram(flow, id, table),
    };
    follow(aim, table)
}

/// By what a packet is steered.
#[derive(Clone, Copy)]
enum Aim {
    /// By its connection id, whose destination is alive.
    Destination(Destination),
    /// By a flow.
    Flow(Flow, Reason),
}

/// How a packet of ours is steered, or why it is not.
#[inline(always)]
fn aim_frame(packet: &(impl Packet + ?Sized), table: &Table) -> Result<Aim, Reason> {
    let (version, at) = headers::ethernet(packet)?;
    let ip = headers::ip(version, packet, at)?;
    if !table.addresses.contains(ip.addresses.destination()) {
        return Err(Reason::NotOurs);
    }
    let Ip { addresses, protocol, payload, part } = ip;
    let flow = |[source_port, destination_port]: [u16; 2]| Flow {
        addresses,
        source_port,
        destination_port,
        protocol,
    };
    if part != Part::Whole {
        return if headers::has_ports(protocol) {
            Ok(Aim::Flow(flow([0, 0]), Reason::Fragment))
        } else {
            Err(Reason::OtherProtocol)
        };
    }
    match (version, protocol) {
        (_, protocol::TCP) => {
            let ports = headers::ports(packet, payload).ok_or(Reason::Cut)?;
            Ok(Aim::Flow(flow(ports), Reason::Tcp))
        }
        (_, protocol::UDP) => {
            let (ports, length) = headers::udp(packet, payload).ok_or(Reason::Cut)?;
            Ok(aim_datagram(flow(ports), destination_id(packet, payload + headers::UDP_LEN, length), table))
        }
        (Version::V4, protocol::ICMP) | (Version::V6, protocol::ICMPV6) => {
            let quoted = quoted_flow(version, packet, payload, table).ok_or(Reason::Icmp)?;
            Ok(Aim::Flow(quoted, Reason::IcmpError))
        }
        _ => Err(Reason::OtherProtocol),
    }
}

/// The flow of a packet of *ours* that an ICMP error quotes, turned around: as our client's packets have it.
#[inline(always)]
fn quoted_flow(version: Version, packet: &(impl Packet + ?Sized), at: usize, table: &Table) -> Option<Flow> {
    let [kind, _code] = packet.read(at)?;
    if !headers::is_icmp_error(version, kind) {
        return None;
    }
    let quoted = headers::ip(version, packet, at + headers::ICMP_LEN).ok()?;
    let addresses = quoted.addresses.reversed();
    let is_ours = table.addresses.contains(addresses.destination());
    if !is_ours || !headers::has_ports(quoted.protocol) || quoted.part == Part::Later {
        return None;
    }
    let [destination_port, source_port] = headers::ports(packet, quoted.payload)?;
    Some(Flow { addresses, source_port, destination_port, protocol: quoted.protocol })
}

#[inline(always)]
fn aim_datagram(flow: Flow, id: DestinationId, table: &Table) -> Aim {
    let DestinationId::Ours(id) = id else { return Aim::Flow(flow, Reason::Udp) };
    let Ok(routable) = table.configs.decode_candidate(&table.aes, id) else {
        return Aim::Flow(flow, Reason::Udp);
    };
    let Destination { server, core, generation } = routable.destination;
    let alive = if server == table.server {
        table.cpu(generation, core).is_some()
    } else {
        table.knows_server(server)
    };
    if alive { Aim::Destination(routable.destination) } else { Aim::Flow(flow, Reason::DeadConnectionId) }
}

#[inline(always)]
fn follow(aim: Aim, table: &Table) -> Decision {
    let (Destination { server, core, generation }, reason) = match aim {
        Aim::Destination(destination) => (destination, Reason::ConnectionId),
        Aim::Flow(flow, reason) => {
            let Some(place) = table.ring.place(flow.hash(&table.hash_key)) else { return NO_CORE };
            // A core of the ring is below 256, since its members were destinations.
            let core = place.core as u8;
            (Destination { server: place.server, core, generation: table.generation() }, reason)
        }
    };
    if server != table.server {
        return Decision { verdict: Verdict::Elsewhere { server }, reason };
    }
    match table.cpu(generation, core) {
        Some(cpu) => Decision { verdict: Verdict::Here { generation, core, cpu }, reason },
        None => NO_CORE,
    }
}

const NO_CORE: Decision = Decision { verdict: Verdict::Pass, reason: Reason::NoCore };

impl From<Odd> for Reason {
    #[inline(always)]
    fn from(odd: Odd) -> Self {
        match odd {
            Odd::NotIp => Self::NotIp,
            Odd::Cut => Self::Cut,
            Odd::Malformed => Self::Malformed,
        }
    }
}
