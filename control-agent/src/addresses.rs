//! The addresses of this machine that clients elsewhere can have sent to, as the kernel lists them for the agent's
//! network namespace.

use std::fs;
use std::io;
use std::net::IpAddr;

use berth_protocol::addresses::{self, V4, V6};

/// All but loopback and link-local ones.
pub(crate) fn local() -> io::Result<Vec<IpAddr>> {
    let read = |path: &str| {
        fs::read_to_string(path).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
    };
    Ok(reachable(&read(V4)?, &read(V6).unwrap_or_default()))
}

fn reachable(trie: &str, list: &str) -> Vec<IpAddr> {
    let mut found = addresses::local(trie, list);
    found.retain(|address| match address {
        IpAddr::V4(address) => !address.is_loopback(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    });
    found
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
        assert_eq!(
            reachable(TRIE, LIST),
            ["192.0.2.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap())
        );
    }

    #[test]
    fn this_machines_files_can_be_read() {
        local().unwrap();
    }
}
