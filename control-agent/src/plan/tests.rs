//! States and what leads to them, by hand.

use berth_protocol::link::Transport;
use berth_steer::cid::{Candidate, Destination, NONCE_LEN};
use berth_steer::decide::{Reason, Verdict, decide_flow};
use berth_steer::flow::{Addresses, Flow};
use berth_steer::quic::DestinationId;

use super::*;

fn generation(number: u8) -> Generation {
    Generation::new(number).unwrap()
}

fn card(interface: &str, wish: Wish) -> Card {
    Card { interface: interface.into(), wish }
}

fn desired() -> Desired {
    Desired {
        version: 5,
        server: 7,
        hash_key: HashKey::new(*b"a key of a test."),
        addresses: ["192.0.2.1", "2001:db8::1"].map(|address| address.parse().unwrap()).into(),
        generations: vec![(generation(2), vec![3, 4, 5]), (generation(3), vec![3, 4])],
        newest: Some(generation(3)),
        configs: vec![
            IdConfig { codepoint: 1, key: None },
            IdConfig { codepoint: 2, key: Some([9; 16]) },
            IdConfig { codepoint: 9, key: None },
        ],
        cards: vec![card("eth0", Wish::Auto), card("eth1", Wish::Generic)],
        groups: [group(443)].into(),
    }
}

fn group(port: u16) -> Group {
    Group { transport: Transport::Udp, address: ([192, 0, 2, 1], port).into() }
}

fn link(interface: &str, index: u32, mode: XdpMode) -> Link {
    Link { interface: interface.into(), index, mode, runs_pinned: true }
}

/// The kernel as it is when all was done.
fn reached() -> Observed {
    Observed {
        folder: true,
        other_layouts: BTreeSet::new(),
        programs: [(XdpMode::Native, Age::Current), (XdpMode::Generic, Age::Current)].into(),
        links: vec![link("eth0", 2, XdpMode::Native), link("eth1", 3, XdpMode::Generic)],
        indexes: [("eth0".into(), 2), ("eth1".into(), 3)].into(),
        groups: [group(443)].into(),
        table: Some(5),
    }
}

fn flow(source_port: u16) -> Flow {
    let addresses = Addresses::V4 { source: [198, 51, 100, 9], destination: [192, 0, 2, 1] };
    Flow { addresses, source_port, destination_port: 443, protocol: 17 }
}

#[test]
fn the_table_gives_new_flows_to_the_newest_and_ids_to_their_own() {
    let desired = desired();
    let table = table(&desired).unwrap();
    assert_eq!((table.version, table.server, table.knows_server(7)), (5, 7, true));
    let mut cores = [0; 2];
    for port in 1..=1000 {
        let decision = decide_flow(flow(port), DestinationId::None, &table);
        let Verdict::Here { generation, core, cpu } = decision.verdict else { panic!("{decision:?}") };
        assert_eq!((generation.get(), cpu), (3, u16::from(core) + 3));
        cores[usize::from(core)] += 1;
    }
    assert!(cores.iter().all(|flows| (400..600).contains(flows)), "{cores:?}");
    for codepoint in [1, 2].map(|number| Codepoint::new(number).unwrap()) {
        let there = Destination { server: 7, core: 2, generation: generation(2) };
        let id = table.configs.encode(codepoint, there, [1; NONCE_LEN]).unwrap();
        let decision = decide_flow(flow(1), DestinationId::Ours(Candidate::new(*id.as_bytes())), &table);
        assert_eq!(decision.verdict, Verdict::Here { generation: generation(2), core: 2, cpu: 5 });
        assert_eq!(decision.reason, Reason::ConnectionId);
    }
    for address in &desired.addresses {
        assert!(table.addresses.contains(bits(*address)));
    }
}

#[test]
fn without_a_data_plane_nothing_is_steered() {
    for generations in [vec![], desired().generations] {
        let table = table(&Desired { newest: None, generations, ..desired() }).unwrap();
        let decision = decide_flow(flow(1), DestinationId::None, &table);
        assert_eq!((decision.verdict, decision.reason), (Verdict::Pass, Reason::NoCore));
    }
}

#[test]
fn more_addresses_than_fit_are_refused_with_advice() {
    let addresses = (0..129u8).map(|last| IpAddr::from([192, 0, 2, last])).collect();
    let error = table(&Desired { addresses, ..desired() }).err().unwrap();
    assert_eq!(error, BadDesired::TooManyAddresses(129));
    assert!(error.to_string().contains("steering.addresses"));
}

#[test]
fn from_nothing_programs_and_table_come_before_cards() {
    let indexes = reached().indexes;
    let steps = plan(&desired(), &Observed { indexes, ..Observed::default() });
    let both: &[XdpMode] = &[XdpMode::Native, XdpMode::Generic];
    assert_eq!(
        steps,
        [
            Step::MakeFolder,
            Step::PinProgram(XdpMode::Native),
            Step::PinProgram(XdpMode::Generic),
            Step::WriteTable(5),
            Step::Attach { interface: "eth0".into(), index: 2, ways: both },
            Step::Attach { interface: "eth1".into(), index: 3, ways: &both[1..] },
        ]
    );
    let words: Vec<_> = steps.iter().map(ToString::to_string).collect();
    assert_eq!(words[4], "attach to eth0 (native, or else generic)");
}

#[test]
fn cards_of_another_layout_are_taken_over_and_never_without_a_program() {
    let left = |link: Link| Link { runs_pinned: false, ..link };
    let links: Vec<_> = reached().links.into_iter().map(left).collect();
    let observed = Observed {
        other_layouts: [1].into(),
        links: links.clone(),
        indexes: reached().indexes,
        ..Observed::default()
    };
    let steps = plan(&desired(), &observed);
    assert_eq!(
        steps,
        [
            Step::MakeFolder,
            Step::TakeOver(1),
            Step::PinProgram(XdpMode::Native),
            Step::PinProgram(XdpMode::Generic),
            Step::WriteTable(5),
            Step::UpdateLink(links[0].clone()),
            Step::UpdateLink(links[1].clone()),
        ]
    );
}

#[test]
fn what_is_reached_needs_nothing() {
    assert_eq!(plan(&desired(), &reached()), []);
}

#[test]
fn another_state_is_one_write() {
    let next = Desired { version: 6, newest: Some(generation(2)), ..desired() };
    assert_eq!(plan(&next, &reached()), [Step::WriteTable(6)]);
}

#[test]
fn a_newer_agent_replaces_programs_in_place() {
    let mut observed = reached();
    observed.programs.insert(XdpMode::Native, Age::Outdated);
    assert_eq!(
        plan(&desired(), &observed),
        [Step::PinProgram(XdpMode::Native), Step::UpdateLink(link("eth0", 2, XdpMode::Native))]
    );
    // It was interrupted between the two.
    let mut observed = reached();
    observed.links[0].runs_pinned = false;
    assert_eq!(plan(&desired(), &observed), [Step::UpdateLink(observed.links[0].clone())]);
}

#[test]
fn a_card_that_was_put_in_again_is_attached_again() {
    let mut observed = reached();
    observed.indexes.insert("eth1".into(), 9);
    assert_eq!(
        plan(&desired(), &observed),
        [
            Step::Detach(link("eth1", 3, XdpMode::Generic)),
            Step::Attach { interface: "eth1".into(), index: 9, ways: &[XdpMode::Generic] },
        ]
    );
    observed.indexes.remove("eth1");
    assert_eq!(plan(&desired(), &observed), [Step::Detach(link("eth1", 3, XdpMode::Generic))]);
}

#[test]
fn a_card_or_way_that_is_not_desired_any_more_is_left() {
    let wishes = Desired { cards: vec![card("eth0", Wish::Generic)], ..desired() };
    assert_eq!(
        plan(&wishes, &reached()),
        [
            Step::Detach(link("eth0", 2, XdpMode::Native)),
            Step::Detach(link("eth1", 3, XdpMode::Generic)),
            Step::Attach { interface: "eth0".into(), index: 2, ways: &[XdpMode::Generic] },
        ]
    );
}

#[test]
fn groups_that_are_no_more_are_let_go() {
    let observed = Observed { groups: [group(443), group(8443)].into(), ..reached() };
    assert_eq!(plan(&desired(), &observed), [Step::RemoveGroup(group(8443))]);
}
