//! What guests may reach: the defaults of [`crate::enforce`], kept current with the zones and this machine's addresses.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::enforce::{AllowedOrigin, Connect, Denied, Enforce, Instantiate, OriginAt, SafeDefaults, SendOut};
use crate::zones::Zones;

/// The decisions of a node. All cores ask the same one.
#[derive(Debug, Default)]
pub(super) struct Reach(ArcSwap<SafeDefaults>);

impl Reach {
    /// Looks at zones and addresses again: at the start, and with each deployment.
    pub(super) fn renew(&self, zones: &Zones) {
        let origins = zones.origins().into_iter().map(|(zone, origin)| {
            let bare = origin.host.trim_start_matches('[').trim_end_matches(']');
            let at = match bare.parse::<IpAddr>() {
                Ok(address) => OriginAt::Address((address, origin.port).into()),
                Err(_) => OriginAt::Name(origin.host.trim_end_matches('.').into(), origin.port),
            };
            AllowedOrigin { zone: zone.into(), at }
        });
        self.0.store(Arc::new(SafeDefaults::new(own_addresses(), origins.collect())));
    }
}

impl Enforce for Reach {
    fn may_instantiate(&self, act: &Instantiate<'_>) -> Result<(), Denied> {
        self.0.load().may_instantiate(act)
    }

    fn may_send(&self, act: &SendOut<'_>) -> Result<(), Denied> {
        self.0.load().may_send(act)
    }

    fn may_connect(&self, act: &Connect<'_>) -> Result<(), Denied> {
        self.0.load().may_connect(act)
    }
}

/// The addresses of this machine, as far as the kernel shows them.
fn own_addresses() -> Vec<IpAddr> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut addresses = local_v4(&read("/proc/net/fib_trie"));
    addresses.extend(local_v6(&read("/proc/net/if_inet6")));
    addresses
}

/// Addresses that the table calls `host LOCAL`: that line follows the one with the address.
fn local_v4(table: &str) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    let mut last = None;
    for line in table.lines() {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line.ends_with("host LOCAL")
            && let Some(address) = last
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    addresses
}

/// The first column of each line: 32 hexadecimal digits.
fn local_v6(table: &str) -> Vec<IpAddr> {
    let first = table.lines().filter_map(|line| line.split(' ').next());
    let number =
        first.filter(|digits| digits.len() == 32).filter_map(|digits| u128::from_str_radix(digits, 16).ok());
    number.map(|number| IpAddr::V6(number.into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_a_machine_are_read() {
        let table = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 192.0.2.7\n        \
                     /32 host LOCAL\n     |-- 192.0.2.255\n        /32 link BROADCAST\n";
        assert_eq!(local_v4(table), ["192.0.2.7".parse::<IpAddr>().unwrap()]);
        let table = "20010db8000000000000000000000001 02 40 00 80     eth0\n00000000000000000000000000000001 01 80 10 80       lo\n";
        assert_eq!(local_v6(table), ["2001:db8::1".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
        assert!(own_addresses().iter().any(IpAddr::is_loopback));
    }
}
