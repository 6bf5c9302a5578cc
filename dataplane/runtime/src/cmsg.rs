//! Control messages and addresses of datagrams, as bytes: read and written without pointers.
//!
//! A datagram comes with the address that it was sent to (a node has many), its ECN bits and, when
//! the kernel merged a train (GRO), the size of one segment; it leaves with the same. The layout
//! is that of cmsg(3) on 64-bit Linux: length (8 bytes, header included), level, type, data padded
//! to eight bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Bytes of control messages that a received datagram may carry: four messages of at most 40.
pub(crate) const CONTROL_LEN: usize = 160;
/// Bytes of a socket address: `sockaddr_in6`.
pub(crate) const NAME_LEN: usize = 28;
const HEADER: usize = 16;

/// What the control messages of a datagram said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) local: Option<IpAddr>,
    pub(crate) ecn: u8,
    pub(crate) segment: Option<u16>,
}

/// Reads control messages; what is not understood is passed over. `None` when they are damaged.
pub(crate) fn read_control(mut bytes: &[u8]) -> Option<Control> {
    let mut control = Control::default();
    while bytes.len() >= HEADER {
        let len = usize::try_from(u64::from_ne_bytes(bytes[..8].try_into().ok()?)).ok()?;
        let level = i32::from_ne_bytes(bytes[8..12].try_into().ok()?);
        let kind = i32::from_ne_bytes(bytes[12..16].try_into().ok()?);
        let data = bytes.get(HEADER..len)?;
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // in_pktinfo: interface index, local address (of the route), destination address.
                let octets: [u8; 4] = data.get(8..12)?.try_into().ok()?;
                control.local = Some(Ipv4Addr::from(octets).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let octets: [u8; 16] = data.get(..16)?.try_into().ok()?;
                control.local = Some(Ipv6Addr::from(octets).to_canonical());
            }
            (libc::IPPROTO_IP, libc::IP_TOS) => control.ecn = data.first()? & 3,
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                control.ecn = (i32::from_ne_bytes(data.get(..4)?.try_into().ok()?) & 3) as u8;
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                let size = i32::from_ne_bytes(data.get(..4)?.try_into().ok()?);
                control.segment = u16::try_from(size).ok().filter(|size| *size > 0);
            }
            _ => {}
        }
        bytes = bytes.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
    Some(control)
}

/// Writes the control messages of an outgoing datagram; returns how many bytes they take.
pub(crate) fn write_control(control: &Control, family: Family, into: &mut [u8; CONTROL_LEN]) -> usize {
    let mut at = 0;
    let mut put = |level: i32, kind: i32, data: &[u8]| {
        into[at..at + 8].copy_from_slice(&((HEADER + data.len()) as u64).to_ne_bytes());
        into[at + 8..at + 12].copy_from_slice(&level.to_ne_bytes());
        into[at + 12..at + 16].copy_from_slice(&kind.to_ne_bytes());
        into[at + HEADER..at + HEADER + data.len()].copy_from_slice(data);
        at += (HEADER + data.len()).next_multiple_of(8);
    };
    match (family, control.local) {
        (Family::V4, Some(IpAddr::V4(local))) => {
            let mut info = [0u8; 12];
            info[4..8].copy_from_slice(&local.octets()); // ipi_spec_dst: the source of what we send.
            put(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        (Family::V6, Some(local)) => {
            let local = match local {
                IpAddr::V4(local) => local.to_ipv6_mapped(),
                IpAddr::V6(local) => local,
            };
            let mut info = [0u8; 20];
            info[..16].copy_from_slice(&local.octets());
            put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
        _ => {}
    }
    if control.ecn != 0 {
        let ecn = i32::from(control.ecn & 3).to_ne_bytes();
        match family {
            Family::V4 => put(libc::IPPROTO_IP, libc::IP_TOS, &ecn),
            Family::V6 => put(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &ecn),
        }
    }
    if let Some(segment) = control.segment {
        put(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    at
}

/// The address family of a socket, which decides how its control messages look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(address: SocketAddr) -> Self {
        if address.is_ipv6() { Self::V6 } else { Self::V4 }
    }
}

/// Reads a `sockaddr_in` or `sockaddr_in6`; an IPv4-mapped address becomes IPv4.
pub(crate) fn read_name(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    match i32::from(family) {
        libc::AF_INET => {
            let octets: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some(SocketAddrV4::new(octets.into(), port).into())
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            let scope = u32::from_ne_bytes(bytes.get(24..28)?.try_into().ok()?);
            let address = Ipv6Addr::from(octets);
            Some(match address.to_ipv4_mapped() {
                Some(mapped) => SocketAddrV4::new(mapped, port).into(),
                None => SocketAddrV6::new(address, port, 0, scope).into(),
            })
        }
        _ => None,
    }
}

/// Writes a socket address for a socket of `family`; returns how many bytes it takes.
pub(crate) fn write_name(address: SocketAddr, family: Family, into: &mut [u8; NAME_LEN]) -> usize {
    into[2..4].copy_from_slice(&address.port().to_be_bytes());
    match (family, address) {
        (Family::V4, SocketAddr::V4(address)) => {
            into[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            into[4..8].copy_from_slice(&address.ip().octets());
            16
        }
        (_, address) => {
            let (ip, scope) = match address {
                SocketAddr::V4(address) => (address.ip().to_ipv6_mapped(), 0),
                SocketAddr::V6(address) => (*address.ip(), address.scope_id()),
            };
            into[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            into[8..24].copy_from_slice(&ip.octets());
            into[24..28].copy_from_slice(&scope.to_ne_bytes());
            NAME_LEN
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_control(&bytes);
            let _ = read_name(&bytes);
        }

        #[test]
        fn names_come_back_as_they_went(v6: bool, ip: u128, port: u16, scope: u32) {
            let address: SocketAddr = if v6 {
                let ip = Ipv6Addr::from(ip);
                prop_assume!(ip.to_ipv4_mapped().is_none());
                SocketAddrV6::new(ip, port, 0, scope).into()
            } else {
                SocketAddrV4::new(Ipv4Addr::from(ip as u32), port).into()
            };
            let mut bytes = [0; NAME_LEN];
            let family = if v6 { Family::V6 } else { Family::V4 };
            let len = write_name(address, family, &mut bytes);
            prop_assert_eq!(read_name(&bytes[..len]), Some(address));
            let mut mapped = [0; NAME_LEN];
            let len = write_name(address, Family::V6, &mut mapped);
            prop_assert_eq!(read_name(&mapped[..len]), Some(address), "also through a dual-stack socket");
        }

        #[test]
        fn ecn_and_local_address_come_back_as_they_went(v6: bool, ip: u128, ecn in 0..4u8) {
            let local: IpAddr =
                if v6 { Ipv6Addr::from(ip).to_canonical() } else { Ipv4Addr::from(ip as u32).into() };
            let control = Control { local: Some(local), ecn, segment: None };
            let mut bytes = [0; CONTROL_LEN];
            let len = write_control(&control, Family::V6, &mut bytes);
            prop_assert_eq!(read_control(&bytes[..len]), Some(control));
        }
    }

    #[test]
    fn a_damaged_length_is_told_apart_from_an_unknown_message() {
        let mut unknown = [0u8; 24];
        unknown[..8].copy_from_slice(&20u64.to_ne_bytes());
        unknown[8..12].copy_from_slice(&77i32.to_ne_bytes());
        assert_eq!(read_control(&unknown), Some(Control::default()));
        unknown[..8].copy_from_slice(&200u64.to_ne_bytes());
        assert_eq!(read_control(&unknown), None);
    }
}
