//! The units in which people write the configuration: sizes, durations and networks.
//!
//! Why our own: a unit that can be misread is refused instead of guessed. `10MB` is ten million bytes to a disk
//! vendor and ten times 1,048,576 to most programs, so only the binary units with an `i` exist here. Durations and
//! sizes are whole numbers with one unit, so that one value has few spellings.
//!
//! Invariants: nothing here panics on any text; what [`show_size`] and [`show_duration`] write, [`parse_size`] and
//! [`parse_duration`] read back to the same value.
//!
//! Left to others: the bounds of a key (`rules`) and where the text came from (`document`).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

/// Bytes of one KiB.
pub const KIB: u64 = 1 << 10;
/// Bytes of one MiB.
pub const MIB: u64 = 1 << 20;
/// Bytes of one GiB.
pub const GIB: u64 = 1 << 30;

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// No digits in front of the unit.
    #[error("does not start with a whole number: write a number and a unit, like \"64KiB\"")]
    NoNumber,
    /// A number without a unit, in quotes.
    #[error("has no unit: write bytes as a number without quotes, or add KiB, MiB or GiB")]
    NoUnit,
    /// `KB`, `M` and the like, which some read as 1000 and some as 1024.
    #[error("has the unit `{unit}`, which some read as a power of 1000 and some of 1024: write {instead}")]
    Ambiguous {
        /// The unit as written.
        unit: String,
        /// The unit that says the power of 1024.
        instead: &'static str,
    },
    /// A unit that nobody knows.
    #[error("has an unknown unit: the units are KiB, MiB and GiB")]
    UnknownUnit,
    /// A point or comma after the number.
    #[error("is not a whole number: use a smaller unit instead of a fraction")]
    Fraction,
    /// More bytes than 64 bits can count.
    #[error("is too large to count")]
    TooLarge,
}

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// No digits in front of the unit.
    #[error("does not start with a whole number: write a number and a unit, like \"10s\"")]
    NoNumber,
    /// A number without a unit.
    #[error("has no unit: add ms, s, m or h")]
    NoUnit,
    /// A unit that does not exist here, or a second number as in `1h30m`.
    #[error("has an unknown unit: write one number and one of ms, s, m, h")]
    UnknownUnit,
    /// A point or comma after the number.
    #[error("is not a whole number: use a smaller unit instead of a fraction")]
    Fraction,
    /// Longer than can be counted.
    #[error("is too long to count")]
    TooLarge,
}

/// Why a text is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// What stands before the slash is not an IP address.
    #[error("does not start with an IP address")]
    Address,
    /// What stands behind the slash is not a prefix length of that family.
    #[error("has no prefix length from 0 to {max} behind the slash")]
    Prefix {
        /// 32 for IPv4, 128 for IPv6.
        max: u8,
    },
    /// Bits behind the prefix are set: either the address or the prefix is not what was meant.
    #[error("has bits set behind its prefix: the network is {network}")]
    HostBits {
        /// The network that the prefix cuts out.
        network: Cidr,
    },
}

/// An IP network, such as `10.0.0.0/8`.
///
/// An IPv4-mapped IPv6 network (`::ffff:10.0.0.0/104`) is the IPv4 network that it maps, and a mapped address is the
/// IPv4 address: a peer is inside or outside whichever way its socket writes its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// Whether `address` lies in the network. An IPv4 address never lies in an IPv6 network.
    pub fn contains(&self, address: IpAddr) -> bool {
        cut(address.to_canonical(), self.prefix) == Some(self.network)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    /// Reads `ADDRESS/PREFIX`; a bare address is the network of that one address.
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| CidrError::Address)?;
        let max = bits(address);
        let prefix = match prefix {
            None => max,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|prefix| *prefix <= max).ok_or(CidrError::Prefix { max })?
            }
            Some(_) => return Err(CidrError::Prefix { max }),
        };
        let network = cut(address, prefix).ok_or(CidrError::Prefix { max })?;
        let found = Self { network, prefix }.canonical();
        if network == address { Ok(found) } else { Err(CidrError::HostBits { network: found }) }
    }
}

impl Cidr {
    /// The IPv4 network behind an IPv4-mapped one; any other network as it is.
    fn canonical(self) -> Self {
        match (self.network.to_canonical(), self.prefix.checked_sub(MAPPED_BITS)) {
            (network @ IpAddr::V4(_), Some(prefix)) if self.network.is_ipv6() => Self { network, prefix },
            _ => self,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.network, self.prefix)
    }
}

/// Bits in front of the IPv4 address in an IPv4-mapped IPv6 address.
const MAPPED_BITS: u8 = 96;

fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The first `prefix` bits of `address`, the others zero. None when the address has fewer bits than that.
fn cut(address: IpAddr, prefix: u8) -> Option<IpAddr> {
    let host_bits = u32::from(bits(address).checked_sub(prefix)?);
    Some(match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    })
}

/// Reads a size with a unit: `64KiB`, `1MiB`, `1GiB`. Plain bytes are TOML integers and do not come here.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let (digits, unit) = split_number(text);
    if digits.is_empty() {
        return Err(SizeError::NoNumber);
    }
    let factor = match unit {
        "KiB" => KIB,
        "MiB" => MIB,
        "GiB" => GIB,
        "" | "B" => return Err(SizeError::NoUnit),
        "K" | "k" | "KB" | "kB" | "kb" | "Kb" => return Err(ambiguous(unit, "KiB")),
        "M" | "m" | "MB" | "mB" | "mb" | "Mb" => return Err(ambiguous(unit, "MiB")),
        "G" | "g" | "GB" | "gB" | "gb" | "Gb" => return Err(ambiguous(unit, "GiB")),
        fraction if fraction.starts_with(['.', ',']) => return Err(SizeError::Fraction),
        _ => return Err(SizeError::UnknownUnit),
    };
    let number: u64 = digits.parse().map_err(|_| SizeError::TooLarge)?;
    number.checked_mul(factor).ok_or(SizeError::TooLarge)
}

fn ambiguous(unit: &str, instead: &'static str) -> SizeError {
    SizeError::Ambiguous { unit: unit.to_owned(), instead }
}

/// Reads a duration: `250ms`, `10s`, `5m`, `12h`.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let (digits, unit) = split_number(text);
    if digits.is_empty() {
        return Err(DurationError::NoNumber);
    }
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" => return Err(DurationError::NoUnit),
        fraction if fraction.starts_with(['.', ',']) => return Err(DurationError::Fraction),
        _ => return Err(DurationError::UnknownUnit),
    };
    let number: u64 = digits.parse().map_err(|_| DurationError::TooLarge)?;
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or(DurationError::TooLarge)
}

/// The leading decimal digits of `text`, and the rest.
fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// A size as one would write it: in the largest unit that holds it whole, else in plain bytes.
pub fn show_size(bytes: u64) -> String {
    match bytes {
        0 => "0".to_owned(),
        _ if bytes.is_multiple_of(GIB) => format!("{}GiB", bytes / GIB),
        _ if bytes.is_multiple_of(MIB) => format!("{}MiB", bytes / MIB),
        _ if bytes.is_multiple_of(KIB) => format!("{}KiB", bytes / KIB),
        _ => bytes.to_string(),
    }
}

/// A duration as one would write it: in the largest unit that holds it whole. What is below a millisecond is cut.
pub fn show_duration(time: Duration) -> String {
    let ms = time.as_millis();
    match ms {
        0 => "0s".to_owned(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_have_binary_units_only() {
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert_eq!(parse_size("1MiB"), Ok(1 << 20));
        assert_eq!(parse_size("3GiB"), Ok(3 << 30));
        assert_eq!(parse_size("0KiB"), Ok(0));
        assert_eq!(parse_size("10MB"), Err(ambiguous("MB", "MiB")));
        assert_eq!(parse_size("10k"), Err(ambiguous("k", "KiB")));
        assert_eq!(parse_size("4096"), Err(SizeError::NoUnit));
        assert_eq!(parse_size("4096B"), Err(SizeError::NoUnit));
        assert_eq!(parse_size("1.5MiB"), Err(SizeError::Fraction));
        assert_eq!(parse_size("10 MiB"), Err(SizeError::UnknownUnit));
        assert_eq!(parse_size("kib"), Err(SizeError::NoNumber));
        assert_eq!(parse_size("-1KiB"), Err(SizeError::NoNumber));
        assert_eq!(parse_size(""), Err(SizeError::NoNumber));
        assert_eq!(parse_size("17179869184GiB"), Err(SizeError::TooLarge));
        assert_eq!(parse_size("99999999999999999999KiB"), Err(SizeError::TooLarge));
    }

    #[test]
    fn durations_have_one_number_and_one_unit() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration("12h"), Ok(Duration::from_secs(43_200)));
        assert_eq!(parse_duration("10"), Err(DurationError::NoUnit));
        assert_eq!(parse_duration("1h30m"), Err(DurationError::UnknownUnit));
        assert_eq!(parse_duration("1d"), Err(DurationError::UnknownUnit));
        assert_eq!(parse_duration("1.5s"), Err(DurationError::Fraction));
        assert_eq!(parse_duration("soon"), Err(DurationError::NoNumber));
        assert_eq!(parse_duration("18446744073709551615h"), Err(DurationError::TooLarge));
    }

    #[test]
    fn a_network_with_bits_behind_its_prefix_names_the_one_that_was_meant() {
        let problem = "10.1.2.3/8".parse::<Cidr>().unwrap_err();
        assert_eq!(problem.to_string(), "has bits set behind its prefix: the network is 10.0.0.0/8");
    }

    #[test]
    fn networks_that_are_none() {
        for (text, error) in [
            ("", CidrError::Address),
            ("10.0.0/8", CidrError::Address),
            ("example.com/8", CidrError::Address),
            ("10.0.0.0/", CidrError::Prefix { max: 32 }),
            ("10.0.0.0/33", CidrError::Prefix { max: 32 }),
            ("10.0.0.0/+8", CidrError::Prefix { max: 32 }),
            ("10.0.0.0/8/8", CidrError::Prefix { max: 32 }),
            ("::/129", CidrError::Prefix { max: 128 }),
            ("::/256", CidrError::Prefix { max: 128 }),
        ] {
            assert_eq!(text.parse::<Cidr>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        let plain: Cidr = "10.0.0.0/8".parse().unwrap();
        let mapped: Cidr = "::ffff:10.0.0.0/104".parse().unwrap();
        assert_eq!(plain, mapped);
        for inside in ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"] {
            assert!(plain.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["9.255.255.255", "11.0.0.0", "::ffff:11.0.0.0", "::a00:1", "::1"] {
            assert!(!plain.contains(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn the_two_families_never_mix() {
        let all_v4: Cidr = "0.0.0.0/0".parse().unwrap();
        let all_v6: Cidr = "::/0".parse().unwrap();
        assert!(all_v4.contains("192.0.2.1".parse().unwrap()));
        assert!(!all_v4.contains("2001:db8::1".parse().unwrap()));
        assert!(all_v6.contains("2001:db8::1".parse().unwrap()));
        assert!(!all_v6.contains("192.0.2.1".parse().unwrap()));
        assert!(!all_v6.contains("::ffff:192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn a_bare_address_is_the_network_of_one() {
        let one: Cidr = "192.0.2.1".parse().unwrap();
        assert_eq!(one.to_string(), "192.0.2.1/32");
        assert!(one.contains("192.0.2.1".parse().unwrap()));
        assert!(!one.contains("192.0.2.0".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn a_shown_size_reads_back(bytes: u64) {
            let shown = show_size(bytes);
            prop_assert_eq!(shown.parse::<u64>().ok().or_else(|| parse_size(&shown).ok()), Some(bytes));
        }

        #[test]
        fn a_shown_duration_reads_back(ms in 0..u64::MAX / 3_600_000) {
            for time in [Duration::from_millis(ms), Duration::from_secs(ms / 1_000), Duration::from_hours(ms / 3_600_000)] {
                prop_assert_eq!(parse_duration(&show_duration(time)), Ok(time));
            }
        }

        /// The model: two addresses share a network when their first bits agree, compared one bit at a time.
        #[test]
        fn contains_agrees_with_a_comparison_bit_by_bit(address: u32, other: u32, prefix in 0u8..=32) {
            let network = cut(IpAddr::V4(Ipv4Addr::from_bits(address)), prefix).unwrap();
            let cidr: Cidr = format!("{network}/{prefix}").parse().unwrap();
            let same = (0..u32::from(prefix)).all(|bit| (address ^ other) & (1 << (31 - bit)) == 0);
            prop_assert_eq!(cidr.contains(IpAddr::V4(Ipv4Addr::from_bits(other))), same);
            prop_assert!(cidr.contains(IpAddr::V4(Ipv4Addr::from_bits(address))));
        }

        #[test]
        fn a_shown_network_reads_back(address: u128, prefix in 0u8..=128) {
            let network = cut(IpAddr::V6(Ipv6Addr::from_bits(address)), prefix).unwrap();
            let cidr: Cidr = format!("{network}/{prefix}").parse().unwrap();
            prop_assert_eq!(cidr.to_string().parse::<Cidr>(), Ok(cidr));
            prop_assert!(cidr.contains(IpAddr::V6(Ipv6Addr::from_bits(address))));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = (parse_size(&text), parse_duration(&text), text.parse::<Cidr>());
        }
    }
}
