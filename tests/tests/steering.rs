//! The XDP program in the kernel decides as the library does in user space.
//!
//! Needs the right to load programs. Nothing is attached: the kernel runs the program on frames that it is given.

use std::collections::HashMap;

use berth_control_agent::programs::{Action, Card, Programs};
use berth_fixtures::mutants::Mutants;
use berth_fixtures::packets::PACKETS;
use berth_fixtures::site;
use berth_steer::counters::XdpCounters;
use berth_steer::decide::{Decision, Reason, Verdict, decide};
use berth_steer::table::Table;
use berth_tests::programs::load_or_skip;

/// The CPU on which the program is asked.
const CPU: u16 = 0;

/// Loaded programs with a table, asked on one CPU.
fn programs(test: &str, table: &Table) -> Option<Programs> {
    berth_tests::pin_to(CPU.into());
    load_or_skip(test, table)
}

/// What the program must do and count, if the library decides so.
fn consequence(Decision { verdict, reason }: Decision) -> (Action, XdpCounters) {
    let mut counters = XdpCounters::default();
    counters.reasons[reason as usize] = 1;
    let action = match verdict {
        Verdict::Pass => Action::Pass,
        Verdict::Elsewhere { .. } => {
            counters.elsewhere = 1;
            Action::Pass
        }
        Verdict::Here { cpu: CPU, .. } => {
            counters.kept = 1;
            Action::Pass
        }
        Verdict::Here { .. } => {
            counters.moved = 1;
            Action::Redirect
        }
    };
    (action, counters)
}

fn difference(after: &XdpCounters, before: &XdpCounters) -> XdpCounters {
    let mut reasons = after.reasons;
    reasons.iter_mut().zip(before.reasons).for_each(|(after, before)| *after -= before);
    XdpCounters {
        reasons,
        kept: after.kept - before.kept,
        moved: after.moved - before.moved,
        not_moved: after.not_moved - before.not_moved,
        elsewhere: after.elsewhere - before.elsewhere,
    }
}

/// Asks both about each frame; returns how often each reason was the library's.
fn compare(
    programs: &Programs,
    card: Card,
    table: &Table,
    frames: impl Iterator<Item = (String, Vec<u8>)>,
) -> HashMap<Reason, u32> {
    let mut seen = HashMap::new();
    let mut before = programs.xdp_counters().expect("counters can be read");
    for (name, frame) in frames {
        let decision = decide(&*frame, table);
        let (action, _) = programs.try_frame(card, &frame, 1).expect("the kernel runs it on any frame");
        let after = programs.xdp_counters().expect("counters can be read");
        let observed = (action, difference(&after, &before));
        assert_eq!(observed, consequence(decision), "{name}: {decision:?}, {frame:02x?}");
        *seen.entry(decision.reason).or_default() += 1;
        before = after;
    }
    seen
}

#[test]
fn the_kernel_decides_every_named_packet_as_the_library_does() {
    for servers in [&[7][..], &[7, 8, 300]] {
        let table = site::table_of(servers);
        let Some(programs) = programs("the_kernel_decides_every_named_packet_as_the_library_does", &table)
        else {
            return;
        };
        for card in [Card::Steer, Card::SteerGeneric] {
            let frames =
                PACKETS.iter().filter(|packet| packet.frame.len() >= berth_fixtures::mutants::FRAME_MIN);
            let frames = frames.map(|packet| (packet.name.to_owned(), packet.frame.clone()));
            compare(&programs, card, &table, frames);
        }
    }
}

#[test]
fn the_kernel_and_the_library_agree_on_ten_thousand_mutants_for_each_reason() {
    const EACH: u32 = 10_000;
    let table = site::table_of(&[7, 8, 300]);
    let Some(programs) =
        programs("the_kernel_and_the_library_agree_on_ten_thousand_mutants_for_each_reason", &table)
    else {
        return;
    };
    let mut seen: HashMap<Reason, u32> = HashMap::new();
    // One seed after the other, since the rarest reason decides how many are needed; of the frequent ones most are
    // passed over.
    let wanted = |seen: &HashMap<Reason, u32>| {
        Reason::ALL
            .iter()
            .any(|reason| *reason != Reason::NoCore && seen.get(reason).is_none_or(|count| *count < EACH))
    };
    for seed in 0.. {
        if !wanted(&seen) {
            break;
        }
        let rare =
            |frame: &Vec<u8>| seen.get(&decide(&**frame, &table).reason).is_none_or(|count| *count < EACH);
        let frames =
            Mutants::new(seed).take(20_000).filter(rare).map(|frame| (format!("seed {seed}"), frame));
        let more = compare(&programs, Card::Steer, &table, frames.collect::<Vec<_>>().into_iter());
        more.into_iter().for_each(|(reason, count)| *seen.entry(reason).or_default() += count);
    }
}

#[test]
fn a_table_is_replaced_as_a_whole() {
    let one = site::table();
    let Some(mut programs) = programs("a_table_is_replaced_as_a_whole", &one) else { return };
    let other = site::table_of(&[8]);
    let syn = PACKETS.iter().find(|packet| packet.name == "TCP SYN").unwrap();
    for table in [&other, &one, &other] {
        programs.set_table(table).unwrap();
        compare(&programs, Card::Steer, table, std::iter::once((syn.name.to_owned(), syn.frame.clone())));
    }
}
