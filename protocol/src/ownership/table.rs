//! The table of changes of a berth, every state against every change; and the stories of a stay that the model would
//! pass over.

use std::collections::VecDeque;

use super::*;
use crate::object::Epoch;

const HERE: Core = Core(0);
const THERE: Core = Core(1);

fn keeper() -> Keeper {
    Keeper { here: HERE, limits: Limits { waiting_max: 2, hops_max: 1, unsettled_max: 1 } }
}

fn message(body: u8) -> Message<u8> {
    Message { hops: 0, body }
}

/// The effects of some events, one after the other, and the stay at the end.
fn after(mut stay: Stay<u8>, events: impl IntoIterator<Item = Event<u8>>) -> (Stay<u8>, Vec<Effect<u8>>) {
    let mut effects = Vec::new();
    for event in events {
        stay = keeper().handle(stay, event, &mut effects);
    }
    (stay, effects)
}

fn running() -> Stay<u8> {
    let claimed = Event::Claimed { above: None, message: message(0) };
    let ended = Event::TurnEnded { epoch: Epoch(1), end: TurnEnd::Settled };
    after(Stay::Empty, [claimed, Event::Started { epoch: Epoch(1) }, ended]).0
}

fn refused(effects: &[Effect<u8>]) -> Vec<(u8, Refusal)> {
    let refused = |effect: &Effect<u8>| match effect {
        Effect::Refuse { message, why } => Some((message.body, *why)),
        _ => None,
    };
    effects.iter().filter_map(refused).collect()
}

fn berths() -> Vec<Berth> {
    let epoch = Epoch(5);
    let mut berths = vec![Berth::Absent { last: None }, Berth::Absent { last: Some(epoch) }];
    for core in [HERE, THERE] {
        berths.extend([
            Berth::Starting { core, above: None },
            Berth::Starting { core, above: Some(epoch) },
            Berth::Held { core, epoch },
            Berth::Abdicating { core, epoch },
        ]);
    }
    berths.extend([(HERE, THERE), (THERE, HERE)].map(|(from, to)| Berth::Moving { from, to, epoch }));
    berths
}

fn changes() -> Vec<Change> {
    let mut changes = vec![Change::Depart { from: HERE, to: HERE }];
    for (core, to) in [(HERE, THERE), (THERE, HERE)] {
        changes.extend([
            Change::Claim { core },
            Change::Fail { core },
            Change::Depart { from: core, to },
            Change::Abdicate { core },
            Change::Restart { core },
            Change::End { core },
        ]);
        for epoch in [4, 5, 6].map(Epoch) {
            changes.extend([Change::Start { core, epoch }, Change::Arrive { core, epoch }]);
        }
    }
    changes
}

fn by(change: Change) -> Core {
    match change {
        Change::Claim { core }
        | Change::Fail { core }
        | Change::Depart { from: core, .. }
        | Change::Abdicate { core }
        | Change::Restart { core }
        | Change::End { core }
        | Change::Start { core, .. }
        | Change::Arrive { core, .. } => core,
    }
}

#[test]
fn only_the_core_that_a_berth_names_changes_it_and_its_epoch_never_falls() {
    let mut fitting = 0;
    for berth in berths() {
        for change in changes() {
            match berth.apply(change) {
                Ok(next) => {
                    fitting += 1;
                    assert_ne!(next, berth);
                    assert!(next.epoch() >= berth.epoch(), "{berth:?} {change:?} {next:?}");
                    assert!(berth.core().is_none_or(|core| core == by(change)), "{berth:?} {change:?}");
                    let started = matches!(change, Change::Start { .. });
                    assert_eq!(started, next.epoch() > berth.epoch(), "only a start gives an epoch");
                }
                Err(unfit) => assert_eq!(unfit, Unfit { berth, change }),
            }
        }
    }
    assert_eq!(fitting, 26, "the arrows of the drawing, for each core and epoch");
}

#[test]
fn a_message_for_an_absent_object_starts_it_where_it_arrived() {
    let berth = Berth::Absent { last: Some(Epoch(3)) };
    let (stay, effects) = after(Stay::Empty, [Event::Message(message(7))]);
    assert_eq!(effects, [Effect::Look(message(7))]);
    let (stay, effects) = after(stay, [Event::Looked { berth, message: message(7) }]);
    assert_eq!(effects, [Effect::Claim(message(7))]);
    let above = Some(Epoch(3));
    let (stay, effects) = after(stay, [Event::Claimed { above, message: message(7) }]);
    assert_eq!(effects, [Effect::Start { above }]);
    let epoch = Epoch(4);
    let (_, effects) = after(stay, [Event::Started { epoch }]);
    let start = Effect::Change(Change::Start { core: HERE, epoch });
    assert_eq!(effects, [start, Effect::Begin { epoch, message: message(7) }]);
}

#[test]
fn a_failed_start_answers_all_that_waited_and_the_next_message_tries_again() {
    for (failed, why) in [(Event::StartFailed, Refusal::StartFailed), (Event::NoRoom, Refusal::NoRoom)] {
        let claimed = Event::Claimed { above: None, message: message(1) };
        let events = [claimed, Event::Message(message(2)), failed, Event::Message(message(3))];
        let (stay, effects) = after(Stay::Empty, events);
        assert_eq!(stay, Stay::Empty);
        assert_eq!(refused(&effects), [(1, why), (2, why)]);
        assert_eq!(effects.last(), Some(&Effect::Look(message(3))));
    }
}

#[test]
fn a_start_with_an_epoch_that_was_there_before_is_taken_back_and_serves_nobody() {
    let claimed = Event::Claimed { above: Some(Epoch(4)), message: message(1) };
    let (stay, effects) = after(Stay::Empty, [claimed, Event::Started { epoch: Epoch(4) }]);
    assert_eq!(effects.last(), Some(&Effect::Stop { epoch: Epoch(4) }));
    let (stay, effects) = after(stay, [Event::Message(message(2)), Event::Stopped { epoch: Epoch(4) }]);
    assert_eq!(stay, Stay::Empty);
    assert_eq!(effects[0], Effect::Change(Change::Fail { core: HERE }));
    assert_eq!(refused(&effects), [(1, Refusal::StaleEpoch), (2, Refusal::StaleEpoch)]);
}

#[test]
fn more_messages_than_may_wait_are_refused_and_the_others_keep_their_place() {
    let (stay, effects) = after(running(), (1..=4).map(|body| Event::Message(message(body))));
    assert_eq!(stay.waiting(), 2, "one has its turn");
    assert_eq!(refused(&effects), [(4, Refusal::Full)]);
}

#[test]
fn a_message_that_was_passed_on_too_often_is_refused() {
    let berth = Berth::Held { core: THERE, epoch: Epoch(1) };
    let once = Message { hops: 1, body: 9 };
    let looked = [message(8), once.clone()].map(|message| Event::Looked { berth, message });
    let (_, effects) = after(Stay::Empty, looked);
    let passed = Effect::Pass { to: THERE, message: Message { hops: 1, body: 8 } };
    assert_eq!(effects, [passed, Effect::Refuse { message: once, why: Refusal::TooManyHops }]);
}

#[test]
fn turns_run_ahead_of_their_durability_only_so_far() {
    let ended = Event::TurnEnded { epoch: Epoch(1), end: TurnEnd::Unsettled };
    let (stay, _) = after(running(), [Event::Message(message(1)), ended, Event::Message(message(2))]);
    assert_eq!(stay.waiting(), 1);
    let (stay, effects) = after(stay, [Event::Settled { epoch: Epoch(1) }]);
    assert_eq!(effects, [Effect::Begin { epoch: Epoch(1), message: message(2) }]);
    assert_eq!(stay.waiting(), 0);
}

#[test]
fn a_move_waits_for_the_turn_and_the_disk_and_the_resources_and_takes_along_who_waits() {
    let epoch = Epoch(1);
    let busy = [Event::Message(message(1)), Event::Message(message(2)), Event::Move { to: THERE }];
    let (stay, effects) = after(running(), busy);
    assert_eq!(effects, [Effect::Begin { epoch, message: message(1) }]);
    let ended = Event::TurnEnded { epoch, end: TurnEnd::Unsettled };
    let (stay, effects) = after(stay, [Event::MayTravel { epoch }, ended, Event::MayTravel { epoch }]);
    assert_eq!(effects, [], "asked too early it stays");
    let (stay, effects) = after(stay, [Event::Settled { epoch }]);
    assert_eq!(effects, [Effect::AwaitTravel { epoch }]);
    let (stay, effects) = after(stay, [Event::MayTravel { epoch }]);
    assert_eq!(stay, Stay::Empty);
    let waiting = VecDeque::from([message(2)]);
    let depart = Effect::Change(Change::Depart { from: HERE, to: THERE });
    assert_eq!(effects, [depart, Effect::Depart { to: THERE, epoch, waiting }]);
}

#[test]
fn a_move_that_takes_too_long_is_refused_and_the_object_serves_on() {
    let epoch = Epoch(1);
    let events = [Event::Move { to: THERE }, Event::Message(message(1)), Event::MoveExpired { epoch }];
    let (_, effects) = after(running(), events);
    let refused = Effect::MoveRefused { to: THERE, why: MoveRefused::Expired };
    assert_eq!(
        effects,
        [Effect::AwaitTravel { epoch }, refused, Effect::Begin { epoch, message: message(1) }]
    );
}

#[test]
fn a_move_is_refused_where_it_makes_no_sense() {
    let why = |stay: Stay<u8>, to: Core| {
        let (kept, effects) = after(stay.clone(), [Event::Move { to }]);
        assert_eq!(kept, stay);
        match effects[..] {
            [Effect::MoveRefused { to: refused, why }] if refused == to => Some(why),
            _ => None,
        }
    };
    let moving = after(running(), [Event::Message(message(1)), Event::Move { to: THERE }]).0;
    let ending = after(running(), [Event::Evict(Evict::AfterTurn)]).0;
    let starting = after(Stay::Empty, [Event::Claimed { above: None, message: message(1) }]).0;
    assert_eq!(why(running(), HERE), Some(MoveRefused::There));
    assert_eq!(why(moving, THERE), Some(MoveRefused::Busy));
    assert_eq!(why(ending, THERE), Some(MoveRefused::Ends));
    assert_eq!(why(starting, THERE), Some(MoveRefused::NotHere));
    assert_eq!(why(Stay::Empty, THERE), Some(MoveRefused::NotHere));
}

#[test]
fn what_travelled_comes_before_what_waited_at_the_target_and_the_youngest_are_refused() {
    let epoch = Epoch(1);
    let moving = Berth::Moving { from: THERE, to: HERE, epoch };
    let events = [
        Event::Looked { berth: moving, message: message(10) },
        Event::Message(message(11)),
        Event::Arrived { epoch, waiting: [1, 2].map(message).into() },
    ];
    let (stay, effects) = after(Stay::Empty, events);
    assert_eq!(effects[0], Effect::Change(Change::Arrive { core: HERE, epoch }));
    assert_eq!(effects[1], Effect::Begin { epoch, message: message(1) });
    assert_eq!(refused(&effects), [(11, Refusal::Full)]);
    assert_eq!(stay.waiting(), 2);
}

#[test]
fn an_idle_object_is_evicted_and_a_busy_one_is_not() {
    let epoch = Epoch(1);
    let (idle, _) = after(running(), [Event::Quiet]);
    assert_eq!(idle, Stay::Idle { epoch });
    let (stay, effects) = after(idle, [Event::Evict(Evict::IfIdle), Event::Stopped { epoch }]);
    assert_eq!(stay, Stay::Empty);
    let [abdicate, end] = [Change::Abdicate { core: HERE }, Change::End { core: HERE }].map(Effect::Change);
    assert_eq!(effects, [abdicate, Effect::Stop { epoch }, end]);

    let ended = Event::TurnEnded { epoch, end: TurnEnd::Unsettled };
    let unsettled = [Event::Message(message(1)), ended, Event::Quiet, Event::Evict(Evict::IfIdle)];
    let (stay, effects) = after(running(), unsettled);
    assert_eq!(effects.last(), Some(&Effect::EvictRefused(EvictRefused::NotIdle)));
    assert_eq!(stay.name(), "running");
}

#[test]
fn a_message_during_abdication_waits_and_starts_it_anew_with_a_higher_epoch() {
    let epoch = Epoch(1);
    let events = [Event::Evict(Evict::AfterTurn), Event::Message(message(1)), Event::Stopped { epoch }];
    let (stay, effects) = after(running(), events);
    let above = Some(epoch);
    assert_eq!(effects[2..], [Effect::Change(Change::Restart { core: HERE }), Effect::Start { above }]);
    assert_eq!(stay, Stay::Starting { above, waiting: [message(1)].into() });
}

#[test]
fn after_a_trap_the_next_instance_waits_for_what_the_turns_before_it_wrote() {
    let epoch = Epoch(1);
    let mut keeper = keeper();
    keeper.limits.unsettled_max = 2;
    let wrote = Event::TurnEnded { epoch, end: TurnEnd::Unsettled };
    let trapped = Event::TurnEnded { epoch, end: TurnEnd::Trapped };
    let mut effects = Vec::new();
    let [one, two, three] = [1, 2, 3].map(|body| Event::Message(message(body)));
    let events = [one, wrote, two, three, trapped, Event::Stopped { epoch }];
    let stay = events.into_iter().fold(running(), |stay, event| keeper.handle(stay, event, &mut effects));
    assert_eq!(stay.name(), "abdicating");
    let stay = keeper.handle(stay, Event::Settled { epoch }, &mut effects);
    assert_eq!(stay.name(), "starting");
}

#[test]
fn a_failed_commit_ends_the_instance_in_the_middle_of_a_turn() {
    let epoch = Epoch(1);
    let wrote = Event::TurnEnded { epoch, end: TurnEnd::Unsettled };
    let mut keeper = keeper();
    keeper.limits.unsettled_max = 2;
    let mut effects = Vec::new();
    let events = [
        Event::Message(message(1)),
        wrote.clone(),
        Event::Message(message(2)),
        Event::CommitFailed { epoch },
        wrote,
        Event::Stopped { epoch },
    ];
    let stay = events.into_iter().fold(running(), |stay, event| keeper.handle(stay, event, &mut effects));
    assert_eq!(stay, Stay::Empty);
    assert_eq!(effects.last(), Some(&Effect::Change(Change::End { core: HERE })));
}

#[test]
fn what_cannot_happen_is_told_and_changes_nothing() {
    let epoch = Epoch(9);
    let impossible = [
        (running(), Event::Started { epoch }),
        (running(), Event::StartFailed),
        (running(), Event::NoRoom),
        (running(), Event::Arrived { epoch, waiting: VecDeque::new() }),
        (running(), Event::Claimed { above: None, message: message(1) }),
        (running(), Event::TurnEnded { epoch: Epoch(1), end: TurnEnd::Settled }),
        (running(), Event::Stopped { epoch: Epoch(1) }),
        (Stay::Empty, Event::Looked { berth: Berth::Held { core: HERE, epoch }, message: message(1) }),
    ];
    for (stay, event) in impossible {
        let (kept, effects) = after(stay.clone(), [event.clone()]);
        assert_eq!(kept, stay, "{event:?}");
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Misuse(_))), "{event:?}");
    }
}

#[test]
fn late_notices_of_an_instance_that_has_ended_change_nothing() {
    let epoch = Epoch(0);
    for event in [
        Event::Settled { epoch },
        Event::CommitFailed { epoch },
        Event::MayTravel { epoch },
        Event::MoveExpired { epoch },
    ] {
        assert_eq!(after(running(), [event.clone()]), (running(), vec![]), "{event:?}");
    }
}
