//! The addresses of this machine, as the kernel lists them for the agent's network namespace.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const V4: &str = "/proc/net/fib_trie";
const V6: &str = "/proc/net/if_inet6";

/// All but loopback and link-local ones: those that a client elsewhere can have sent to.
pub(crate) fn local() -> io::Result<Vec<IpAddr>> {
    let read = |path: &str| {
        fs::read_to_string(path).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
    };
    let v4 = parse_v4(&read(V4)?).into_iter().map(IpAddr::V4);
    // Without IPv6 the kernel has no such file.
    let v6 = parse_v6(&read(V6).unwrap_or_default()).into_iter().map(IpAddr::V6);
    Ok(v4.chain(v6).collect())
}

/// Each address stands in front of a line that calls it a host of its own, which is local.
fn parse_v4(trie: &str) -> Vec<Ipv4Addr> {
    let mut last = None;
    let mut found = Vec::new();
    for line in trie.lines() {
        if let Some(address) = line.trim_start().strip_prefix("|-- ") {
            last = address.trim().parse::<Ipv4Addr>().ok();
        } else if line.contains("/32 host LOCAL") {
            found.extend(last.filter(|address| !address.is_loopback() && !found.contains(address)));
        }
    }
    found
}

/// A line each: the address in 32 digits, then the card's number, the length of its net, its scope, flags and name.
fn parse_v6(list: &str) -> Vec<Ipv6Addr> {
    let parse = |line: &str| {
        let address = u128::from_str_radix(line.split_whitespace().next()?, 16).ok()?;
        Some(Ipv6Addr::from(address))
    };
    let usable = |address: &Ipv6Addr| !address.is_loopback() && !address.is_unicast_link_local();
    list.lines().filter_map(parse).filter(usable).collect()
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
    fn addresses_that_clients_elsewhere_can_reach_are_found_once() {
        assert_eq!(parse_v4(TRIE), [Ipv4Addr::new(192, 0, 2, 1)]);
        assert_eq!(parse_v6(LIST), ["2001:db8::1".parse::<Ipv6Addr>().unwrap()]);
    }

    #[test]
    fn this_machines_files_can_be_read() {
        local().unwrap();
    }
}
