//! Admission of connections to the node: how many in all, how many for one address, and how many
//! unfinished TLS handshakes.
//!
//! All cores share one [`Connections`]. A core asks before it spends anything on an accepted socket,
//! and holds the answer, an [`Admission`], as long as the connection lives: dropping it gives the
//! place back, however the connection ends.
//!
//! # Invariants
//!
//! - No bound is ever exceeded, not even for a moment: a count goes up only if it was below.
//! - What was admitted is given back exactly once: the proof values cannot be copied.
//! - An address without a connection has no entry, so there are never more entries than
//!   connections. The tables keep the capacity that they once needed (about 40 bytes for each
//!   connection at the peak), which the bound on connections bounds too.
//!
//! # Cost
//!
//! One atomic step and one lock for each accept, the same for each close. The lock guards one of 64
//! shards and is held for one table operation. Measured: 0.1 µs for both together, 0.2 µs while two
//! cores do nothing else; an accept costs microseconds. A lock-free table would not be noticed.
//!
//! # Addresses
//!
//! An IPv6 client owns at least a /64 and picks its addresses in it freely, so the /64 is what
//! counts. IPv4-mapped IPv6 addresses count as IPv4. Shards and tables are keyed with the standard
//! library's `RandomState` (SipHash with keys of this process): whoever holds a /48 chooses 65,536
//! prefixes, and with an open hash would choose them to fall into one bucket under one lock. A
//! faster keyed hash would bring a dependency for 10 ns per accept.
//!
//! # What it leaves to others
//!
//! Counters of refusals, and the answer to a refused socket (it is closed). Behind a proxy the
//! client's address comes later than the connection: see [`Connections::admit_proxied`].
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

/// The keys of `[limits]` that bound connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections of the whole node. Each costs kernel and user memory even when it idles.
    pub connections: u32,
    /// Connections of one IPv4 address or IPv6 /64. Many people may share one address, so this only
    /// keeps one of them from taking the whole node.
    pub connections_per_address: u32,
    /// Unfinished TLS handshakes of the whole node. Each holds buffers and will cost a signature.
    pub handshakes: u32,
}

impl Default for ConnectionLimits {
    /// The defaults of the configuration.
    fn default() -> Self {
        Self { connections: 100_000, connections_per_address: 1_024, handshakes: 4_096 }
    }
}

/// Why a connection or handshake was not admitted. Nothing was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refused {
    /// The node is full.
    #[error("the node holds {0} connections already; raise limits.connections if its memory allows")]
    Node(u32),
    /// The address, or the /64 around it, is full.
    #[error(
        "the client's address holds {0} connections already; raise limits.connections_per_address, \
         or list the proxy that they come through in proxy_protocol"
    )]
    Address(u32),
    /// Too many handshakes are under way.
    #[error("{0} TLS handshakes are unfinished already; raise limits.handshakes if the CPUs keep up")]
    Handshakes(u32),
}

impl Refused {
    /// The stable label of the counter.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Node(_) => "node",
            Self::Address(_) => "address",
            Self::Handshakes(_) => "handshakes",
        }
    }
}

/// The node-wide counts. Cheap to clone: all clones are the same counts.
#[derive(Debug, Clone)]
pub struct Connections {
    shared: Arc<Shared>,
}

/// A place for one connection, held until dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the place back"]
pub struct Admission {
    shared: Arc<Shared>,
    /// None while the client's address is not known (see [`Connections::admit_proxied`]).
    address: Option<AddressBlock>,
}

/// A place for one unfinished TLS handshake, held until dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the place back"]
pub struct Handshake {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limits: ConnectionLimits,
    connections: AtomicU32,
    handshakes: AtomicU32,
    /// Chooses the shard; each shard's table has keys of its own.
    shard_keys: RandomState,
    shards: [Shard; SHARDS],
}

/// Two cores rarely meet in one of 64 shards, even on the largest machines: an accept takes
/// microseconds, of which the lock is held for some tens of nanoseconds.
const SHARDS: usize = 64;

/// A line of the cache for each, so that neighbours do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(Mutex<HashMap<AddressBlock, u32>>);

/// The addresses that count as one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum AddressBlock {
    V4(Ipv4Addr),
    /// The upper 64 bits.
    V6(u64),
}

impl From<IpAddr> for AddressBlock {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

impl Connections {
    /// Counts at zero.
    pub fn new(limits: ConnectionLimits) -> Self {
        let shards = std::array::from_fn(|_| Shard::default());
        let [connections, handshakes] = [AtomicU32::new(0), AtomicU32::new(0)];
        let shard_keys = RandomState::new();
        Self { shared: Arc::new(Shared { limits, connections, handshakes, shard_keys, shards }) }
    }

    /// Admits a connection from `client`.
    pub fn admit(&self, client: IpAddr) -> Result<Admission, Refused> {
        let mut admission = self.admit_proxied()?;
        admission.attribute(client)?;
        Ok(admission)
    }

    /// Admits a connection from a trusted proxy, which counts for the node only. Once the PROXY
    /// header has come, [`Admission::attribute`] counts it for the client that it names.
    pub fn admit_proxied(&self) -> Result<Admission, Refused> {
        let limit = self.shared.limits.connections;
        raise(&self.shared.connections, limit).map_err(|Full| Refused::Node(limit))?;
        Ok(Admission { shared: Arc::clone(&self.shared), address: None })
    }

    /// Admits a TLS handshake. Drop the place when the handshake is done, or has failed.
    pub fn handshake(&self) -> Result<Handshake, Refused> {
        let limit = self.shared.limits.handshakes;
        raise(&self.shared.handshakes, limit).map_err(|Full| Refused::Handshakes(limit))?;
        Ok(Handshake { shared: Arc::clone(&self.shared) })
    }

    /// Connections now.
    pub fn connections(&self) -> u32 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Unfinished handshakes now.
    pub fn handshakes(&self) -> u32 {
        self.shared.handshakes.load(Ordering::Relaxed)
    }

    /// Addresses that have a connection now. Locks one shard after the other: for gauges.
    pub fn addresses(&self) -> usize {
        self.shared.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

impl Admission {
    /// Counts the connection for `client` from now on. The first address stays: one connection has
    /// one PROXY header. After a refusal the connection is to be closed.
    pub fn attribute(&mut self, client: IpAddr) -> Result<(), Refused> {
        if self.address.is_none() {
            let address = AddressBlock::from(client);
            let limit = self.shared.limits.connections_per_address;
            self.shared.shard(address).enter(address, limit).map_err(|Full| Refused::Address(limit))?;
            self.address = Some(address);
        }
        Ok(())
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(address) = self.address {
            self.shared.shard(address).leave(address);
        }
        self.shared.connections.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.shared.handshakes.fetch_sub(1, Ordering::Release);
    }
}

/// The count stands at its bound.
struct Full;

/// Adds one unless the count has reached `limit`. Acquire here and release in the drops: whoever
/// takes a place comes after all that its last holder did.
fn raise(count: &AtomicU32, limit: u32) -> Result<(), Full> {
    let raised = |now| if now < limit { Some(now + 1) } else { None };
    count.fetch_update(Ordering::Acquire, Ordering::Relaxed, raised).map(drop).map_err(|_| Full)
}

impl Shared {
    fn shard(&self, address: AddressBlock) -> &Shard {
        &self.shards[self.shard_keys.hash_one(address) as usize % SHARDS]
    }
}

impl Shard {
    fn enter(&self, address: AddressBlock, limit: u32) -> Result<(), Full> {
        let mut table = self.lock();
        // Only a limit of zero refuses an address without an entry; it must not leave one behind.
        match table.entry(address) {
            Entry::Occupied(count) if *count.get() >= limit => return Err(Full),
            Entry::Occupied(mut count) => *count.get_mut() += 1,
            Entry::Vacant(_) if limit == 0 => return Err(Full),
            Entry::Vacant(place) => _ = place.insert(1),
        }
        Ok(())
    }

    fn leave(&self, address: AddressBlock) {
        if let Entry::Occupied(mut count) = self.lock().entry(address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// A panic elsewhere must not turn each later accept and drop into one: no code panics while
    /// it holds the lock, so a poisoned table is whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<AddressBlock, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use proptest::prelude::*;

    use super::*;

    const LIMITS: ConnectionLimits =
        ConnectionLimits { connections: 5, connections_per_address: 2, handshakes: 3 };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_node_fills_up_and_a_closed_connection_makes_room() {
        let node = Connections::new(LIMITS);
        let mut held: Vec<_> =
            (0..5).map(|host| node.admit(IpAddr::from([192, 0, 2, host])).unwrap()).collect();
        assert_eq!(node.admit(ip("192.0.2.9")).unwrap_err(), Refused::Node(5));
        assert_eq!((node.connections(), node.addresses()), (5, 5));
        held.pop();
        held.push(node.admit(ip("192.0.2.9")).unwrap());
        drop(held);
        assert_eq!((node.connections(), node.addresses()), (0, 0));
    }

    #[test]
    fn an_address_fills_up_without_harm_to_others_and_without_taking_a_place() {
        let node = Connections::new(LIMITS);
        let _held = [node.admit(ip("192.0.2.1")).unwrap(), node.admit(ip("192.0.2.1")).unwrap()];
        assert_eq!(node.admit(ip("192.0.2.1")).unwrap_err(), Refused::Address(2));
        assert_eq!(node.connections(), 2);
        let _other = node.admit(ip("192.0.2.2")).unwrap();
    }

    #[test]
    fn what_counts_as_one_address() {
        let table = [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", false),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
            ("::1", "0.0.0.1", false),
        ];
        for (one, two, same) in table {
            assert_eq!(AddressBlock::from(ip(one)) == AddressBlock::from(ip(two)), same, "{one} {two}");
        }
    }

    #[test]
    fn a_proxied_connection_counts_for_its_client_once_that_is_known() {
        let node = Connections::new(LIMITS);
        let mut proxied: Vec<_> = (0..4).map(|_| node.admit_proxied().unwrap()).collect();
        assert_eq!((node.connections(), node.addresses()), (4, 0));
        proxied[0].attribute(ip("192.0.2.1")).unwrap();
        proxied[0].attribute(ip("192.0.2.2")).unwrap();
        proxied[1].attribute(ip("192.0.2.1")).unwrap();
        assert_eq!(proxied[2].attribute(ip("192.0.2.1")), Err(Refused::Address(2)));
        assert_eq!(node.addresses(), 1);
        drop(proxied);
        assert_eq!((node.connections(), node.addresses()), (0, 0));
    }

    #[test]
    fn handshakes_are_counted_apart() {
        let node = Connections::new(LIMITS);
        let held = [node.handshake().unwrap(), node.handshake().unwrap(), node.handshake().unwrap()];
        assert_eq!(node.handshake().unwrap_err(), Refused::Handshakes(3));
        assert_eq!((node.handshakes(), node.connections()), (3, 0));
        drop(held);
        assert_eq!(node.handshakes(), 0);
    }

    #[test]
    fn limits_of_zero_refuse_all_and_leave_nothing_behind() {
        let none = ConnectionLimits { connections: 1, connections_per_address: 0, handshakes: 0 };
        let node = Connections::new(none);
        assert_eq!(node.admit(ip("192.0.2.1")).unwrap_err(), Refused::Address(0));
        assert_eq!(node.handshake().unwrap_err(), Refused::Handshakes(0));
        assert_eq!((node.connections(), node.addresses()), (0, 0));
    }

    proptest! {
        /// Any order of opens and closes gives what a plain list of the open connections gives.
        #[test]
        fn admission_agrees_with_a_list_of_open_connections(
            steps in proptest::collection::vec((any::<bool>(), 0..4_u8, any::<prop::sample::Index>()), 0..200),
        ) {
            let node = Connections::new(LIMITS);
            let mut open: Vec<(u8, Admission)> = vec![];
            for (opens, host, pick) in steps {
                if opens {
                    let same = open.iter().filter(|(other, _)| *other == host).count();
                    let expected = match (open.len(), same) {
                        (5, _) => Err(Refused::Node(5)),
                        (_, 2) => Err(Refused::Address(2)),
                        _ => Ok(()),
                    };
                    let got = node.admit(IpAddr::from([192, 0, 2, host]));
                    prop_assert_eq!(got.as_ref().map(|_| ()).map_err(|refused| *refused), expected);
                    open.extend(got.ok().map(|admission| (host, admission)));
                } else if !open.is_empty() {
                    _ = open.swap_remove(pick.index(open.len()));
                }
                let hosts: std::collections::HashSet<_> = open.iter().map(|(host, _)| host).collect();
                prop_assert_eq!((node.connections() as usize, node.addresses()), (open.len(), hosts.len()));
            }
        }
    }

    /// Cores that open and close as fast as they can, at bounds so low that most attempts race for
    /// the last place. A watcher reads all the while; each core counts for itself what it holds.
    #[test]
    fn no_bound_is_exceeded_while_cores_race_and_all_counts_return_to_zero() {
        const CORES: usize = 4;
        const ROUNDS: usize = 20_000;
        // Below the number of cores, since each holds one at a time.
        const LIMITS: ConnectionLimits =
            ConnectionLimits { connections: 3, connections_per_address: 2, handshakes: 1 };
        let node = Connections::new(LIMITS);
        let held_in_all = AtomicU32::new(0);
        let held_by_address = [const { AtomicU32::new(0) }; 2];
        let done = AtomicBool::new(false);
        let one_core = |core: usize| {
            let mut admitted = 0_usize;
            for round in 0..ROUNDS {
                let host = (core + round) % held_by_address.len();
                let Ok(admission) = node.admit(IpAddr::from([192, 0, 2, host as u8])) else { continue };
                // These go up after and down before the node's own counts, so they never overstate.
                assert!(held_in_all.fetch_add(1, Ordering::SeqCst) < LIMITS.connections);
                assert!(
                    held_by_address[host].fetch_add(1, Ordering::SeqCst) < LIMITS.connections_per_address
                );
                let handshake = node.handshake();
                std::thread::yield_now();
                held_by_address[host].fetch_sub(1, Ordering::SeqCst);
                held_in_all.fetch_sub(1, Ordering::SeqCst);
                drop((handshake, admission));
                admitted += 1;
            }
            admitted
        };
        let admitted: Vec<usize> = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(node.connections() <= LIMITS.connections);
                    assert!(node.handshakes() <= LIMITS.handshakes);
                    std::thread::yield_now();
                }
            });
            let one_core = &one_core;
            let cores: Vec<_> = (0..CORES).map(|core| scope.spawn(move || one_core(core))).collect();
            let admitted: Vec<_> = cores.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            done.store(true, Ordering::Relaxed);
            admitted.into_iter().map(|core| core.expect("a core saw a bound exceeded")).collect()
        });
        let admitted: usize = admitted.into_iter().sum();
        assert!((1..CORES * ROUNDS).contains(&admitted), "some got in, some did not: {admitted}");
        assert_eq!((node.connections(), node.handshakes(), node.addresses()), (0, 0, 0));
    }
}
