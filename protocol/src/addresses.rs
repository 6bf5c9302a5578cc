//! The addresses of a machine, out of the kernel's own lists. Who reads the files is for the caller.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where the kernel lists its IPv4 addresses, for the network namespace of who reads it.
pub const V4: &str = "/proc/net/fib_trie";
/// Where it lists those of IPv6; without IPv6 there is no such file.
pub const V6: &str = "/proc/net/if_inet6";

/// All of them, each once, from the texts of both files.
pub fn local(trie: &str, list: &str) -> Vec<IpAddr> {
    parse_v4(trie).into_iter().map(IpAddr::V4).chain(parse_v6(list).map(IpAddr::V6)).collect()
}

/// Those that clients elsewhere can have sent to: all but loopback and link-local ones.
pub fn reachable(trie: &str, list: &str) -> Vec<IpAddr> {
    let mut found = local(trie, list);
    found.retain(|address| match address {
        IpAddr::V4(address) => !address.is_loopback(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    });
    found
}

/// Each address stands in front of a line that calls it a host of its own, which is local.
fn parse_v4(trie: &str) -> Vec<Ipv4Addr> {
    let mut last = None;
    let mut found = Vec::new();
    for line in trie.lines() {
        if let Some(address) = line.trim_start().strip_prefix("|-- ") {
            last = address.trim().parse::<Ipv4Addr>().ok();
        } else if line.contains("/32 host LOCAL") {
            found.extend(last.filter(|address| !found.contains(address)));
        }
    }
    found
}

/// A line each: the address in 32 digits, then the card's number, the length of its net, its scope, flags and name.
fn parse_v6(list: &str) -> impl Iterator<Item = Ipv6Addr> {
    let parse = |line: &str| {
        let address = u128::from_str_radix(line.split_whitespace().next()?, 16).ok()?;
        Some(Ipv6Addr::from(address))
    };
    list.lines().filter_map(parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIE: &str = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     |-- 192.0.2.0
        /24 link UNICAST
Local:
  +-- 0.0.0.0/0 2 0 2
     +-- 127.0.0.0/8 2 0 2
           |-- 127.0.0.1
              /32 host LOCAL
     |-- 192.0.2.1
        /32 host LOCAL
     |-- 192.0.2.255
        /32 link BROADCAST
     |-- 192.0.2.1
        /32 host LOCAL
";
    const LIST: &str = "\
fe80000000000000c8f5c0fffe0a5b01 02 40 20 80     eth0
20010db8000000000000000000000001 02 40 00 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
nonsense
";

    #[test]
    fn all_addresses_are_found_once() {
        let found = local(TRIE, LIST);
        let wanted = ["127.0.0.1", "192.0.2.1", "fe80::c8f5:c0ff:fe0a:5b01", "2001:db8::1", "::1"];
        assert_eq!(found, wanted.map(|text| text.parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn addresses_that_clients_elsewhere_can_reach_are_found_once() {
        assert_eq!(
            reachable(TRIE, LIST),
            ["192.0.2.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap())
        );
    }
}
