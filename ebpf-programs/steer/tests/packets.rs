//! The table of named packets, in the library as user space runs it.

use std::collections::HashMap;

use berth_fixtures::mutants::Mutants;
use berth_fixtures::packets::{Expected, PACKETS};
use berth_fixtures::site;
use berth_steer::cid::Destination;
use berth_steer::decide::{Decision, Reason, Verdict, decide};
use berth_steer::maglev::Place;
use berth_steer::table::Table;

/// What the table of the site makes of an expectation.
fn verdict(expected: Expected, table: &Table) -> Verdict {
    let Destination { server, core, generation } = match expected {
        Expected::Pass => return Verdict::Pass,
        Expected::To(destination) => destination,
        Expected::ByHash(hash) => {
            let Place { server, core } = site::place(table, hash);
            site::destination(server, core as u8, site::NEW)
        }
    };
    if server == site::SERVER {
        Verdict::Here { generation, core, cpu: site::cpu(core) }
    } else {
        Verdict::Elsewhere { server }
    }
}

#[test]
fn every_named_packet_is_decided_as_the_table_says() {
    for servers in [&[7][..], &[7, 8, 300]] {
        let table = site::table_of(servers);
        for packet in &*PACKETS {
            let expected = Decision { verdict: verdict(packet.expected, &table), reason: packet.reason };
            assert_eq!(decide(&*packet.frame, &table), expected, "{}", packet.name);
        }
    }
}

#[test]
fn names_are_different_and_every_reason_has_a_packet() {
    let mut names: Vec<_> = PACKETS.iter().map(|packet| packet.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), PACKETS.len());
    assert!(Reason::ALL.iter().enumerate().all(|(place, reason)| place == *reason as usize));
    for reason in Reason::ALL.iter().filter(|reason| **reason != Reason::NoCore) {
        assert!(PACKETS.iter().any(|packet| packet.reason == *reason), "{reason:?}");
    }
}

/// A packet that is cut is decided as before, or it passes, or its flow decides: never by an id that is not all there.
#[test]
fn a_cut_packet_is_never_steered_elsewhere_than_its_flow() {
    let table = site::table();
    for packet in &*PACKETS {
        let whole = decide(&*packet.frame, &table);
        for length in 0..packet.frame.len() {
            let cut = decide(&packet.frame[..length], &table);
            let agrees = match cut.reason {
                Reason::Cut | Reason::NotIp | Reason::Icmp => cut.verdict == Verdict::Pass,
                Reason::Udp => {
                    matches!(whole.reason, Reason::Udp | Reason::ConnectionId | Reason::DeadConnectionId)
                }
                _ => cut == whole,
            };
            assert!(agrees, "{} cut to {length}: {cut:?}, whole {whole:?}", packet.name);
        }
    }
}

#[test]
fn an_empty_table_steers_nothing() {
    let table = Box::new(Table::new());
    for packet in &*PACKETS {
        assert_eq!(decide(&*packet.frame, &table).verdict, Verdict::Pass, "{}", packet.name);
    }
    // Also when it knows its addresses: nobody runs.
    let mut table = site::table();
    for core in 0..site::CORES {
        for generation in [site::OLD, site::NEW] {
            table.set_cpu(site::destination(7, core, generation).generation, core, None);
        }
    }
    let here = |packet: &&berth_fixtures::packets::Fixture| packet.expected != Expected::Pass;
    let elsewhere = |verdict| matches!(verdict, Verdict::Elsewhere { .. });
    for packet in PACKETS.iter().filter(here) {
        let Decision { verdict, reason } = decide(&*packet.frame, &table);
        assert!(
            elsewhere(verdict) || (verdict, reason) == (Verdict::Pass, Reason::NoCore),
            "{}",
            packet.name
        );
    }
}

/// The comparison with the kernel needs ten thousand of each.
#[test]
fn mutants_reach_every_reason() {
    let table = site::table();
    let mut seen: HashMap<Reason, u32> = HashMap::new();
    for frame in Mutants::new(1).take(100_000) {
        *seen.entry(decide(&*frame, &table).reason).or_default() += 1;
    }
    for reason in Reason::ALL.iter().filter(|reason| **reason != Reason::NoCore) {
        assert!(seen.get(reason).is_some_and(|count| *count > 500), "{reason:?}: {seen:?}");
    }
}
