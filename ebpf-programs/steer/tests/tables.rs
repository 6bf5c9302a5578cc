//! Hash, ring and addresses, each beside something simpler.

use std::collections::HashMap;

use berth_fixtures::dice::SplitMix64;
use berth_fixtures::packets;
use berth_steer::flow::{Addresses, Flow, HashKey, mapped};
use berth_steer::maglev::{BadMembers, MEMBERS_MAX, Place, RING_LEN, Ring};
use berth_steer::table::{ADDRESSES_MAX, AddressSet, BadAddresses, Table};
use proptest::prelude::*;

fn places(servers: std::ops::Range<u16>, cores: u16) -> Vec<Place> {
    servers.flat_map(|server| (0..cores).map(move |core| Place { server, core })).collect()
}

fn ring(members: &[Place]) -> Box<Ring> {
    let mut ring = Box::new(Ring::new());
    ring.fill(members).expect("the members are sorted");
    ring
}

fn shares(ring: &Ring) -> HashMap<Place, usize> {
    let mut shares = HashMap::new();
    ring.slots().for_each(|place| *shares.entry(place).or_default() += 1);
    shares
}

proptest! {
    /// The hash is what another implementation makes of the documented bytes.
    #[test]
    fn the_hash_is_siphash_of_the_documented_bytes(
        source: [u8; 16],
        destination: [u8; 16],
        source_port: u16,
        destination_port: u16,
        protocol: u8,
        is_v6: bool,
    ) {
        let (addresses, [from, to]) = if is_v6 {
            (Addresses::V6 { source, destination }, [source.to_vec(), destination.to_vec()])
        } else {
            let [source, destination] = [&source, &destination].map(|long| *long.first_chunk::<4>().unwrap());
            (Addresses::V4 { source, destination }, [source.to_vec(), destination.to_vec()])
        };
        let flow = Flow { addresses, source_port, destination_port, protocol };
        let key = HashKey::new(berth_fixtures::site::HASH_KEY);
        prop_assert_eq!(flow.hash(&key), packets::hash(&from, &to, [source_port, destination_port], protocol));
    }

    #[test]
    fn a_set_holds_its_addresses_and_no_others(addresses in prop::collection::hash_set(1..u128::MAX, 0..ADDRESSES_MAX), other: u128) {
        let all: Vec<u128> = addresses.iter().copied().collect();
        let mut set = Box::new(AddressSet::new());
        set.set(&all).unwrap();
        prop_assert!(all.iter().all(|address| set.contains(*address)));
        prop_assert_eq!(set.contains(other), addresses.contains(&other));
    }
}

/// Neighbours, the addresses that people really have, must not be harder than random ones.
#[test]
fn a_set_holds_a_whole_network() {
    let hosts = (0..ADDRESSES_MAX as u8).map(|host| mapped([192, 0, 2, host]));
    let networks = (0..ADDRESSES_MAX as u128).map(|network| 0x2001_0db8_u128 << 96 | network << 64 | 1);
    for all in [hosts.collect::<Vec<_>>(), networks.collect()] {
        let mut set = Box::new(AddressSet::new());
        set.set(&all).unwrap();
        assert!(all.iter().all(|address| set.contains(*address) && !set.contains(address ^ 1 << 40)));
    }
}

#[test]
fn a_set_refuses_what_it_cannot_hold_and_is_empty_then() {
    let mut set = Box::new(AddressSet::new());
    set.set(&[5, 6]).unwrap();
    let many: Vec<u128> = (1..=ADDRESSES_MAX as u128 + 1).collect();
    for (addresses, refusal) in [
        (&many[..], BadAddresses::TooMany),
        (&[7, 8, 7], BadAddresses::Unusable),
        (&[7, 0], BadAddresses::Unusable),
    ] {
        assert_eq!(set.set(addresses), Err(refusal));
        assert!(!set.contains(5) && !set.contains(7) && !set.contains(0));
    }
}

#[test]
fn members_have_the_same_share_within_one_slot() {
    for members in [places(0..1, 1), places(0..1, 2), places(3..67, 8), places(0..MEMBERS_MAX as u16, 1)] {
        let ring = ring(&members);
        let shares = shares(&ring);
        let [least, most] = [shares.values().min().unwrap(), shares.values().max().unwrap()];
        assert!(shares.len() == members.len() && most - least <= 1, "{least} to {most} of {}", members.len());
        assert!((most - least) * 100 <= *least, "even within one in a hundred");
    }
}

#[test]
fn a_member_that_leaves_moves_little_but_its_own_slots() {
    for (count, cores) in [(2, 2), (16, 4), (64, 8)] {
        let all = places(0..count, cores);
        let left = places(1..count, cores);
        let [before, after] = [ring(&all), ring(&left)];
        let moved =
            before.slots().zip(after.slots()).filter(|(old, new)| old != new && old.server != 0).count();
        let share = moved as f64 / RING_LEN as f64;
        assert!(
            share < 0.02 + 1.0 / f64::from(count),
            "{share:.3} of the others' slots moved, of {count} servers"
        );
    }
}

#[test]
fn a_ring_is_not_filled_with_members_that_cannot_be() {
    let mut ring = Box::new(Ring::new());
    let too_many = places(0..MEMBERS_MAX as u16 + 1, 1);
    let [a, b] = [Place { server: 1, core: 0 }, Place { server: 1, core: 1 }];
    for (members, refusal) in [
        (&[][..], BadMembers::None),
        (&too_many, BadMembers::TooMany),
        (&[a, a], BadMembers::Unsorted),
        (&[b, a], BadMembers::Unsorted),
    ] {
        assert_eq!(ring.fill(members), Err(refusal));
    }
}

/// Five standard deviations: chance alone breaks it once in two million keys, and the key is fixed.
#[test]
fn flows_fall_evenly_on_the_cores() {
    const FLOWS: u32 = 100_000;
    let members = places(0..1, 4);
    let ring = ring(&members);
    let key = HashKey::new(*b"sixteen bytes ok");
    let mut dice = SplitMix64(1);
    let mut seen = [0_u32; 4];
    for number in 0..FLOWS {
        let [a, b, ..] = dice.number().to_be_bytes();
        // One network of clients, to one port: what differs is little.
        let flow = Flow {
            addresses: Addresses::V4 { source: [10, 0, a, b], destination: [192, 0, 2, 1] },
            source_port: (number % 60_000) as u16 + 1024,
            destination_port: 443,
            protocol: 17,
        };
        seen[usize::from(ring.place(flow.hash(&key)).unwrap().core)] += 1;
    }
    let (expected, deviation) = (f64::from(FLOWS) / 4.0, (f64::from(FLOWS) * 0.25 * 0.75).sqrt());
    for count in seen {
        assert!((f64::from(count) - expected).abs() < 5.0 * deviation, "{seen:?}");
    }
}

/// What both sides of a map rely on.
#[test]
fn the_layout_is_the_one_of_its_version() {
    use std::mem::offset_of;
    assert_eq!(berth_steer::table::LAYOUT, 2);
    assert_eq!(size_of::<Table>(), 173_352);
    assert_eq!(
        [offset_of!(Table, version), offset_of!(Table, hash_key), offset_of!(Table, server)],
        [0, 8, 24]
    );
    assert_eq!([offset_of!(Table, addresses), offset_of!(Table, configs)], [32, 32_808]);
    assert_eq!([offset_of!(Table, aes), offset_of!(Table, ring)], [35_300, 39_652]);
}
