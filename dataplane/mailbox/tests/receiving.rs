//! The order in which an inbox hands out messages, and what its small print promises.
#![cfg(not(loom))]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use berth_mailbox::{Capacities, Class, CoreId, Doorbell, Endpoint, Full, mesh};

struct NoBell;

impl Doorbell for NoBell {
    fn ring(&self, _core: CoreId) {}
}

const ROOMY: Capacities = Capacities { control: 64, request: 64, toss: 64 };

fn send_many<T: Clone>(from: &mut Endpoint<T>, to: usize, class: Class, count: usize, message: &T) {
    let to = from.outbox.peer(to).expect("another core");
    for _ in 0..count {
        from.outbox.send(to, class, message.clone()).expect("there is room");
    }
}

/// How many messages of each sender a drain delivered.
fn drained_by_sender(core: &mut Endpoint<u8>, budget: usize) -> [usize; 3] {
    let mut by_sender = [0; 3];
    core.inbox.drain(budget, |from, _, _| by_sender[from.index()] += 1);
    by_sender
}

#[test]
fn senders_share_a_budget_that_is_too_small_for_all() {
    let mut cores = mesh::<u8>(3, ROOMY).unwrap();
    send_many(&mut cores[1], 0, Class::Request, 64, &0);
    send_many(&mut cores[2], 0, Class::Request, 64, &0);
    assert_eq!(drained_by_sender(&mut cores[0], 32), [0, 16, 16]);
    assert_eq!(drained_by_sender(&mut cores[0], 16), [0, 16, 0]);
    assert_eq!(
        drained_by_sender(&mut cores[0], 16),
        [0, 0, 16],
        "the next drain goes on where this one stopped"
    );
    assert_eq!(drained_by_sender(&mut cores[0], 1000), [0, 32, 32]);
}

#[test]
fn control_goes_first_and_the_others_take_turns() {
    let mut cores = mesh::<u8>(2, ROOMY).unwrap();
    let mut first_after_control = Vec::new();
    for _ in 0..4 {
        send_many(&mut cores[1], 0, Class::Toss, 1, &0);
        send_many(&mut cores[1], 0, Class::Request, 1, &0);
        send_many(&mut cores[1], 0, Class::Control, 1, &0);
        let mut order = Vec::new();
        cores[0].inbox.drain(10, |_, class, _| order.push(class));
        assert_eq!(order[0], Class::Control);
        first_after_control.push(order[1]);
    }
    assert_eq!(first_after_control, [Class::Request, Class::Toss, Class::Request, Class::Toss]);
}

#[test]
fn a_full_class_leaves_the_room_of_the_others_alone() {
    let mut cores = mesh::<u8>(2, Capacities { control: 1, request: 2, toss: 3 }).unwrap();
    let to = cores[0].outbox.peer(1).unwrap();
    for (class, room) in [(Class::Toss, 3), (Class::Request, 2), (Class::Control, 1)] {
        for attempt in 0..5 {
            let sent = cores[0].outbox.send(to, class, attempt);
            assert_eq!(sent, if attempt < room { Ok(()) } else { Err(Full(attempt)) });
        }
    }
}

#[test]
fn the_counters_are_readable_by_anyone() {
    let mut cores = mesh::<u8>(2, Capacities { control: 1, request: 2, toss: 3 }).unwrap();
    let counters = cores[1].outbox.counters();
    let to = cores[0].outbox.peer(1).unwrap();
    for message in 0..5 {
        let _counted = cores[0].outbox.send(to, Class::Toss, message);
    }
    let Endpoint { inbox, outbox } = &mut cores[0];
    inbox.flush(outbox, &NoBell);
    let total = std::thread::spawn(move || counters.total()).join().unwrap();
    assert_eq!((total.of(Class::Toss).sent, total.of(Class::Toss).full), (3, 2));
    assert_eq!((total.rung, total.saved), (0, 1), "the receiver was awake");
}

#[test]
fn a_panic_in_the_handler_loses_one_message_only() {
    let mut cores = mesh::<u8>(2, ROOMY).unwrap();
    let to = cores[1].outbox.peer(0).unwrap();
    for message in 0..4 {
        cores[1].outbox.send(to, Class::Control, message).unwrap();
    }
    let inbox = &mut cores[0].inbox;
    let panicked = catch_unwind(AssertUnwindSafe(|| inbox.drain(10, |_, _, message| assert_ne!(message, 1))));
    assert!(panicked.is_err());
    let mut rest = Vec::new();
    inbox.drain(10, |_, _, message| rest.push(message));
    assert_eq!(rest, [2, 3]);
}

#[test]
fn messages_on_their_way_are_dropped_with_the_mesh() {
    let message = Arc::new(());
    let mut cores = mesh::<Arc<()>>(2, ROOMY).unwrap();
    send_many(&mut cores[0], 1, Class::Request, 5, &message);
    assert_eq!(Arc::strong_count(&message), 6);
    drop(cores);
    assert_eq!(Arc::strong_count(&message), 1);
}

#[test]
#[should_panic(expected = "comes from `peer`")]
fn a_core_does_not_send_to_itself() {
    let mut cores = mesh::<u8>(2, ROOMY).unwrap();
    let myself = cores[0].outbox.core();
    let _ = cores[0].outbox.send(myself, Class::Control, 0);
}

#[test]
fn a_lone_core_has_an_empty_inbox() {
    let mut cores = mesh::<u8>(1, ROOMY).unwrap();
    let calls = Rc::new(());
    assert_eq!(cores[0].inbox.drain(10, |_, _, _| drop(Rc::clone(&calls))), 0);
    assert_eq!(cores[0].outbox.peer(0), None);
}
