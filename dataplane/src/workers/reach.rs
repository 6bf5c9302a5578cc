//! What guests may reach: the defaults of [`crate::enforce`], with the zones and this machine's addresses as they are.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;

use berth_protocol::addresses;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, recv, socket_with};

use crate::enforce::{AllowedOrigin, OriginAt, SafeDefaults};
use crate::zones::Zones;

/// The kernel's groups for changes of addresses: `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV6_IFADDR`.
const ADDRESSES_CHANGE: u32 = 0x10 | 0x100;

/// Calls `look_again` whenever an address of this machine came or went, until it says that nobody wants to know.
pub(super) fn watch(look_again: impl Fn() -> bool + Send + 'static) -> io::Result<()> {
    // Without a protocol it is NETLINK_ROUTE, which is 0.
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &netlink::SocketAddrNetlink::new(0, ADDRESSES_CHANGE))?;
    let follow = move || {
        let mut message = [0; 1024];
        loop {
            match recv(&socket, &mut message, RecvFlags::TRUNC) {
                // What changed is not read here; a message that did not fit, or got lost, says as much.
                Ok(_) | Err(Errno::NOBUFS) => {
                    if !look_again() {
                        return;
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "addresses.unwatched");
                    return;
                }
            }
        }
    };
    thread::Builder::new().name("addresses".into()).spawn(follow).map(drop)
}

/// As it is now.
pub(super) fn now(zones: &Zones) -> SafeDefaults {
    let origins = zones.origins().into_iter().map(|(zone, origin)| {
        let at = match origin.host().parse::<IpAddr>() {
            Ok(address) => OriginAt::Address((address, origin.port()).into()),
            Err(_) => OriginAt::Name(origin.host().into(), origin.port()),
        };
        AllowedOrigin { zone: Arc::clone(&zone), at }
    });
    SafeDefaults::new(own_addresses(), origins.collect())
}

/// The addresses of this machine, as far as the kernel shows them.
fn own_addresses() -> Vec<IpAddr> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    addresses::local(&read(addresses::V4), &read(addresses::V6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_knows_its_addresses() {
        assert!(own_addresses().iter().any(IpAddr::is_loopback));
    }
}
