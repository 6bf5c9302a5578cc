//! A datagram on its way to another generation of the node, as bytes.
//!
//! ```text
//!   version 1 · core 1 · listener 2 · ECN 1 · from: address 16, port 2 · local: there 1, address 16 · datagram
//! ```
//!
//! Numbers are big-endian; IPv4 addresses are written as IPv6 has them. Both ends are Berth, of versions that an upgrade
//! brings together: another version of this form is refused, and the datagram is lost like any that the network loses.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bytes::Bytes;

use crate::{Crossing, DatagramEnvelope};

/// The version of the form.
const VERSION: u8 = 1;
/// Bytes in front of the datagram.
const HEAD: usize = 40;
/// Most bytes of the whole: the largest datagram of UDP behind the head.
pub const TOSS_MAX: usize = HEAD + 65_535;

/// Bytes that are not a datagram on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadToss {
    /// They end before the head does.
    #[error("it has {0} bytes, and its head alone has {HEAD}")]
    Short(usize),
    /// They have another form.
    #[error("it is of version {0}, and this program knows {VERSION}")]
    Version(u8),
}

/// Writes a datagram for a core of another generation.
pub fn encode(core: u8, datagram: &DatagramEnvelope) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + datagram.payload.len());
    bytes.extend([VERSION, core]);
    bytes.extend(datagram.listener.to_be_bytes());
    bytes.push(datagram.ecn);
    bytes.extend(octets(datagram.from.ip()));
    bytes.extend(datagram.from.port().to_be_bytes());
    bytes.push(u8::from(datagram.local.is_some()));
    bytes.extend(datagram.local.map_or([0; 16], octets));
    bytes.extend(&datagram.payload);
    bytes
}

/// Reads what [`encode`] has written: for which core, and the datagram.
pub fn decode(bytes: &[u8]) -> Result<(u8, DatagramEnvelope), BadToss> {
    let Some((head, payload)) = bytes.split_first_chunk::<HEAD>() else {
        return Err(BadToss::Short(bytes.len()));
    };
    let [version, core, ..] = *head;
    if version != VERSION {
        return Err(BadToss::Version(version));
    }
    let number = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let datagram = DatagramEnvelope {
        listener: number(2),
        ecn: head[4],
        from: SocketAddr::new(address(&head[5..21]), number(21)),
        local: (head[23] == 1).then(|| address(&head[24..40])),
        payload: Bytes::copy_from_slice(payload),
        crossing: Crossing::Toss,
    };
    Ok((core, datagram))
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn address(octets: &[u8]) -> IpAddr {
    let octets = <[u8; 16]>::try_from(octets).unwrap_or_default();
    Ipv6Addr::from(octets).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(from: &str, local: Option<&str>) -> DatagramEnvelope {
        DatagramEnvelope {
            listener: 258,
            from: from.parse().unwrap(),
            local: local.map(|address| address.parse().unwrap()),
            ecn: 2,
            payload: Bytes::from_static(b"payload"),
            crossing: Crossing::Toss,
        }
    }

    #[test]
    fn what_was_written_is_read() {
        for datagram in [
            datagram("192.0.2.9:5000", Some("192.0.2.1")),
            datagram("[2001:db8::9]:65535", Some("2001:db8::1")),
            datagram("[2001:db8::9]:1", None),
        ] {
            assert_eq!(decode(&encode(255, &datagram)), Ok((255, datagram)));
        }
    }

    #[test]
    fn other_bytes_are_refused_or_some_datagram_and_never_a_panic() {
        let whole = encode(0, &datagram("192.0.2.9:5000", None));
        for length in 0..HEAD {
            assert_eq!(decode(&whole[..length]), Err(BadToss::Short(length)));
        }
        assert_eq!(decode(&[2; HEAD]), Err(BadToss::Version(2)));
        assert!(decode(&[1; HEAD]).is_ok(), "an empty datagram");
        assert!(encode(0, &datagram("192.0.2.9:5000", None)).len() <= TOSS_MAX);
    }
}
