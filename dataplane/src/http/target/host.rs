//! The host that a request names, in one spelling.
//!
//! It comes from the `Host` header, from `:authority`, or from an absolute-form target, and is only ever compared:
//! with the hosts of routes, and with the names of certificates. So it is reduced to what those compare: lower case,
//! no port, no trailing dot, an IPv6 address in brackets and in its canonical text.
//!
//! Invariant: two hosts are the same if and only if their texts are equal.
//!
//! Left to others: whether a missing or second `Host` header is an error (the codec), and IPv4 addresses, which stay
//! the text that they are.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;

/// A host in its normal form. It borrows from the peer's bytes when they already are it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host<'a>(Cow<'a, str>);

/// Why a host is refused. The answer to the client is 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// There is no name, as in ":80" or ".".
    #[error("the host is empty; name one, for example shop.example")]
    Empty,
    /// More than [`HOST_BYTES_MAX`] bytes, or a label of more than [`LABEL_BYTES_MAX`].
    #[error("the host is too long; a name has at most 253 bytes, and each of its labels at most 63")]
    TooLong,
    /// A byte that no host name holds.
    #[error("byte {byte:#04x} at offset {at} may not stand in a host; write international names as xn--")]
    ForbiddenByte {
        /// The byte.
        byte: u8,
        /// Where it stands.
        at: usize,
    },
    /// Two dots in a row, or one at the start.
    #[error("the host has an empty label; write exactly one dot between labels")]
    EmptyLabel,
    /// What follows the colon is not a port.
    #[error("the port is not a number from 0 to 65535")]
    Port,
    /// Brackets without an IPv6 address inside, or an IPv6 address without brackets.
    #[error("the host is not an IPv6 address in brackets, such as [2001:db8::1]")]
    Ipv6,
}

/// Bytes of a host name: what the DNS can carry (RFC 1035: 255 octets on the wire, 253 as text).
pub const HOST_BYTES_MAX: usize = 253;
/// Bytes of one label, by the same document.
pub const LABEL_BYTES_MAX: usize = 63;

impl<'a> Host<'a> {
    /// Reads `host` or `host:port`.
    pub fn parse(raw: &'a [u8]) -> Result<Self, HostError> {
        if raw.first() == Some(&b'[') {
            return parse_ipv6(raw);
        }
        let name = match raw.iter().position(|&byte| byte == b':') {
            Some(colon) => {
                check_port(&raw[colon + 1..])?;
                &raw[..colon]
            }
            None => raw,
        };
        let name = name.strip_suffix(b".").unwrap_or(name);
        check_name(name)?;
        let name = std::str::from_utf8(name).expect("a checked name is ASCII");
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Ok(Self(Cow::Owned(name.to_ascii_lowercase())))
        } else {
            Ok(Self(Cow::Borrowed(name)))
        }
    }

    /// The normal form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same host, borrowing nothing.
    pub fn into_owned(self) -> Host<'static> {
        Host(Cow::Owned(self.0.into_owned()))
    }
}

impl fmt::Display for Host<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// One address has many texts; the canonical one is RFC 5952's, which the standard library prints.
fn parse_ipv6<'a>(raw: &'a [u8]) -> Result<Host<'a>, HostError> {
    let close = raw.iter().position(|&byte| byte == b']').ok_or(HostError::Ipv6)?;
    match &raw[close + 1..] {
        [] => {}
        [b':', port @ ..] => check_port(port)?,
        _ => return Err(HostError::Port),
    }
    let written: &'a str = std::str::from_utf8(&raw[..=close]).map_err(|_| HostError::Ipv6)?;
    let address: Ipv6Addr = written[1..close].parse().map_err(|_| HostError::Ipv6)?;
    let canonical = format!("[{address}]");
    Ok(Host(if canonical == written { Cow::Borrowed(written) } else { Cow::Owned(canonical) }))
}

/// RFC 3986 allows an empty port.
fn check_port(port: &[u8]) -> Result<(), HostError> {
    if port.contains(&b':') {
        return Err(HostError::Ipv6);
    }
    if !port.iter().all(u8::is_ascii_digit) {
        return Err(HostError::Port);
    }
    let number =
        port.iter().try_fold(0u16, |sum, digit| sum.checked_mul(10)?.checked_add(u16::from(digit - b'0')));
    number.map(|_| ()).ok_or(HostError::Port)
}

fn check_name(name: &[u8]) -> Result<(), HostError> {
    if name.is_empty() {
        return Err(HostError::Empty);
    }
    let forbidden = |&byte: &u8| !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if let Some(at) = name.iter().position(forbidden) {
        return Err(HostError::ForbiddenByte { byte: name[at], at });
    }
    if name.len() > HOST_BYTES_MAX {
        return Err(HostError::TooLong);
    }
    for label in name.split(|&byte| byte == b'.') {
        if label.is_empty() {
            return Err(HostError::EmptyLabel);
        }
        if label.len() > LABEL_BYTES_MAX {
            return Err(HostError::TooLong);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(raw: &str) -> Result<String, HostError> {
        Host::parse(raw.as_bytes()).map(|host| host.to_string())
    }

    #[test]
    fn one_host_has_one_spelling() {
        for (raw, expected) in [
            ("shop.example", "shop.example"),
            ("Shop.EXAMPLE", "shop.example"),
            ("shop.example.", "shop.example"),
            ("shop.example:8080", "shop.example"),
            ("shop.example.:", "shop.example"),
            ("a_b-c.xn--bcher-kva.example", "a_b-c.xn--bcher-kva.example"),
            ("localhost", "localhost"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[0:0::0:1]:443", "[::1]"),
            ("[2001:DB8::A]", "[2001:db8::a]"),
        ] {
            assert_eq!(normal(raw).as_deref(), Ok(expected), "{raw}");
        }
    }

    #[test]
    fn a_normal_host_is_borrowed() {
        for raw in ["shop.example", "shop.example:80", "[::1]:80"] {
            assert!(matches!(Host::parse(raw.as_bytes()).unwrap().0, Cow::Borrowed(_)), "{raw}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused_with_its_reason() {
        let long_label = "a".repeat(LABEL_BYTES_MAX + 1);
        let long_name = vec!["a"; HOST_BYTES_MAX / 2 + 2].join(".");
        for (raw, expected) in [
            ("", HostError::Empty),
            (".", HostError::Empty),
            (":80", HostError::Empty),
            ("a..b", HostError::EmptyLabel),
            (".a", HostError::EmptyLabel),
            ("a..", HostError::EmptyLabel),
            ("a b", HostError::ForbiddenByte { byte: b' ', at: 1 }),
            ("a/b", HostError::ForbiddenByte { byte: b'/', at: 1 }),
            ("u@a", HostError::ForbiddenByte { byte: b'@', at: 1 }),
            ("a%41", HostError::ForbiddenByte { byte: b'%', at: 1 }),
            ("a,b", HostError::ForbiddenByte { byte: b',', at: 1 }),
            ("b\u{fc}cher", HostError::ForbiddenByte { byte: 0xc3, at: 1 }),
            ("a:65536", HostError::Port),
            ("a:+1", HostError::Port),
            ("a:99999999999999", HostError::Port),
            ("[::1]x", HostError::Port),
            ("::1", HostError::Ipv6),
            ("[::1", HostError::Ipv6),
            ("[::1%25eth0]", HostError::Ipv6),
            ("[v1.x]", HostError::Ipv6),
            ("[127.0.0.1]", HostError::Ipv6),
            (&long_label, HostError::TooLong),
            (&long_name, HostError::TooLong),
        ] {
            assert_eq!(normal(raw), Err(expected), "{raw}");
        }
    }

    #[test]
    fn the_longest_name_passes() {
        let label = "a".repeat(LABEL_BYTES_MAX);
        let name =
            [label.as_str(), &label, &label, &label[..HOST_BYTES_MAX - 3 * (LABEL_BYTES_MAX + 1)]].join(".");
        assert_eq!(name.len(), HOST_BYTES_MAX);
        assert_eq!(normal(&name), Ok(name.clone()));
        assert_eq!(normal(&format!("{name}.:80")), Ok(name));
    }

    proptest! {
        #[test]
        fn normalising_twice_is_normalising_once(raw in r"[aA0._:\[\]-]{0,12}|\[[0-9aF:]{2,12}\](:[0-9]{0,6})?") {
            if let Ok(host) = normal(&raw) {
                prop_assert_eq!(normal(&host), Ok(host.clone()));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(raw in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(host) = Host::parse(&raw) {
                prop_assert!(host.as_str().is_ascii());
            }
        }
    }
}
