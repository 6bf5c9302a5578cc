//! What the headers of a frame say, up to the first byte that belongs to a transport protocol.
//!
//! Each function takes the place where its header begins and tells where the next one does. Nothing is believed that
//! was not read: a header that is cut, and a length that cannot be, each have their [`Odd`] reason.

use crate::flow::Addresses;
use crate::packet::Packet;

/// IP's numbers of protocols.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
}

/// VLAN tags that are read: a customer's inside of a provider's.
const TAGS_MAX: usize = 2;

/// Extension headers that are read. RFC 8200 has each kind once at most; hop-by-hop options, routing, fragment,
/// authentication, and destination options twice make six.
const EXTENSIONS_MAX: usize = 6;

/// Why headers cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    /// The frame carries neither IPv4 nor IPv6.
    NotIp,
    /// It ends before its headers do.
    Cut,
    /// A field has a value that it cannot have.
    Malformed,
}

/// The version of IP in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What IP says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// From whom, to whom.
    pub addresses: Addresses,
    /// The protocol of what it carries.
    pub protocol: u8,
    /// Where that begins.
    pub payload: usize,
    /// Whether that is all of it.
    pub part: Part,
}

/// Whether a packet is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It is.
    Whole,
    /// The first fragment, which has the transport's header.
    First,
    /// A later fragment, which has not.
    Later,
}

/// Ethernet, with VLAN tags: the version of IP, and where its header begins.
#[inline(always)]
pub fn ethernet(packet: &(impl Packet + ?Sized)) -> Result<(Version, usize), Odd> {
    const IPV4: u16 = 0x0800;
    const IPV6: u16 = 0x86dd;
    const TAGGED: u16 = 0x8100;
    const TAGGED_BY_PROVIDER: u16 = 0x88a8;
    let mut kind = u16::from_be_bytes(packet.read(12).ok_or(Odd::Cut)?);
    let mut at = 14;
    for _ in 0..TAGS_MAX {
        if kind != TAGGED && kind != TAGGED_BY_PROVIDER {
            break;
        }
        kind = u16::from_be_bytes(packet.read(at + 2).ok_or(Odd::Cut)?);
        at += 4;
    }
    match kind {
        IPV4 => Ok((Version::V4, at)),
        IPV6 => Ok((Version::V6, at)),
        _ => Err(Odd::NotIp),
    }
}

/// IP of either version.
#[inline(always)]
pub fn ip(version: Version, packet: &(impl Packet + ?Sized), at: usize) -> Result<Ip, Odd> {
    match version {
        Version::V4 => ipv4(packet, at),
        Version::V6 => ipv6(packet, at),
    }
}

/// IPv4, with options.
#[inline(always)]
fn ipv4(packet: &(impl Packet + ?Sized), at: usize) -> Result<Ip, Odd> {
    const MORE_FRAGMENTS: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;
    let header: [u8; 20] = packet.read(at).ok_or(Odd::Cut)?;
    let [version_length, _, _, _, _, _, flags, offset, _, protocol, _, _, a, b, c, d, e, f, g, h] = header;
    let length = usize::from(version_length & 0xf) * 4;
    if version_length >> 4 != 4 || length < 20 {
        return Err(Odd::Malformed);
    }
    let fragment = u16::from_be_bytes([flags, offset]);
    let part = match fragment & (MORE_FRAGMENTS | OFFSET) {
        0 => Part::Whole,
        MORE_FRAGMENTS => Part::First,
        _ => Part::Later,
    };
    let addresses = Addresses::V4 { source: [a, b, c, d], destination: [e, f, g, h] };
    Ok(Ip { addresses, protocol, payload: at + length, part })
}

/// IPv6, with extension headers.
#[inline(always)]
fn ipv6(packet: &(impl Packet + ?Sized), at: usize) -> Result<Ip, Odd> {
    let header: [u8; 40] = packet.read(at).ok_or(Odd::Cut)?;
    let [version, _, _, _, _, _, mut protocol, _, addresses @ ..] = header;
    if version >> 4 != 6 {
        return Err(Odd::Malformed);
    }
    let [source, destination] = [0, 16].map(|from| core::array::from_fn(|byte| addresses[from + byte]));
    let addresses = Addresses::V6 { source, destination };
    let mut payload = at + 40;
    let mut part = Part::Whole;
    for _ in 0..EXTENSIONS_MAX {
        let extension = match Extension::of(protocol) {
            None => return Ok(Ip { addresses, protocol, payload, part }),
            // What a later fragment carries begins in the middle of something.
            Some(_) if part == Part::Later => return Ok(Ip { addresses, protocol, payload, part }),
            Some(extension) => extension,
        };
        let [next, length, offset_high, offset_low] = packet.read(payload).ok_or(Odd::Cut)?;
        protocol = next;
        payload += match extension {
            Extension::Eights => (usize::from(length) + 1) * 8,
            Extension::Fours => (usize::from(length) + 2) * 4,
            Extension::Fragment => {
                let offset = u16::from_be_bytes([offset_high, offset_low]);
                part = match (offset >> 3, offset & 1) {
                    (0, 0) => part, // A fragment that is all ("atomic", RFC 6946).
                    (0, _) => Part::First,
                    _ => Part::Later,
                };
                8
            }
        };
    }
    match Extension::of(protocol) {
        None => Ok(Ip { addresses, protocol, payload, part }),
        Some(_) => Err(Odd::Malformed),
    }
}

/// How an extension header tells its length.
enum Extension {
    /// In units of eight bytes, less one.
    Eights,
    /// In units of four bytes, less two.
    Fours,
    /// It is always eight.
    Fragment,
}

impl Extension {
    #[inline(always)]
    fn of(protocol: u8) -> Option<Self> {
        match protocol {
            0 | 43 | 60 => Some(Self::Eights),
            51 => Some(Self::Fours),
            44 => Some(Self::Fragment),
            _ => None,
        }
    }
}

/// Whether the header of a protocol begins with ports: those protocols are steered.
#[inline(always)]
pub fn has_ports(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP)
}

/// The ports, at which both TCP's header and UDP's begin.
#[inline(always)]
pub fn ports(packet: &(impl Packet + ?Sized), at: usize) -> Option<[u16; 2]> {
    let [a, b, c, d] = packet.read(at)?;
    Some([u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])])
}

/// Bytes of UDP's header.
pub const UDP_LEN: usize = 8;

/// UDP: the ports, and how many bytes the datagram has.
#[inline(always)]
pub fn udp(packet: &(impl Packet + ?Sized), at: usize) -> Option<([u16; 2], usize)> {
    let [a, b, c, d, e, f] = packet.read(at)?;
    let length = usize::from(u16::from_be_bytes([e, f]));
    Some(([u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])], length.saturating_sub(UDP_LEN)))
}

/// Bytes of an ICMP error in front of the packet that it quotes, in both versions.
pub const ICMP_LEN: usize = 8;

/// Whether an ICMP message tells an error about a packet, and quotes it.
#[inline(always)]
pub fn is_icmp_error(version: Version, kind: u8) -> bool {
    match version {
        // Unreachable, time exceeded, parameter problem. Not source quench and redirect: nobody should heed them.
        Version::V4 => matches!(kind, 3 | 11 | 12),
        // Unreachable, too big, time exceeded, parameter problem.
        Version::V6 => matches!(kind, 1..=4),
    }
}
