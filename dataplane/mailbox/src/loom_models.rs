//! The wake protocol, in every interleaving and with every value that a weak memory may return.
//!
//! Loom runs a model again and again. A core that sleeps and is never rung is a deadlock to it, and fails the
//! model. A model that cannot fail proves nothing, therefore each step of the protocol is also left out once
//! ([`Planted`]), and the same model must then fail.

use std::sync::Arc;

use loom::sync::{Condvar, Mutex};
use loom::thread;

use crate::wake::{Planted, Shared, Site};
use crate::{Capacities, Class, CoreId, Doorbell, Endpoint, Full, Sleep, mesh_over};

/// One place to sleep for each core, and how often each was rung.
struct Bells(Vec<Bell>);

#[derive(Default)]
struct Bell {
    state: Mutex<BellState>,
    changed: Condvar,
}

#[derive(Default)]
struct BellState {
    pending: u32,
    rings: u32,
}

impl Bells {
    fn new(cores: usize) -> Arc<Self> {
        Arc::new(Self((0..cores).map(|_| Bell::default()).collect()))
    }

    fn wait(&self, core: CoreId) {
        let bell = &self.0[core.index()];
        let mut state = bell.state.lock().unwrap();
        while state.pending == 0 {
            state = bell.changed.wait(state).unwrap();
        }
        state.pending = 0;
    }

    fn rings(&self, core: CoreId) -> u32 {
        self.0[core.index()].state.lock().unwrap().rings
    }
}

impl Doorbell for Arc<Bells> {
    fn ring(&self, core: CoreId) {
        let bell = &self.0[core.index()];
        let mut state = bell.state.lock().unwrap();
        state.pending += 1;
        state.rings += 1;
        bell.changed.notify_one();
    }
}

fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn cores_with(planted: Planted, cores: usize) -> Vec<Endpoint<u32>> {
    let tiny = Capacities { control: 1, request: 2, toss: 1 };
    mesh_over(Shared::with_planted(cores, planted), tiny).unwrap()
}

/// Sends one message to each other core and flushes, as a core at the end of its pass.
fn send_once(mut core: Endpoint<u32>, to: usize, bells: &Arc<Bells>) {
    let to = core.outbox.peer(to).unwrap();
    core.outbox.send(to, Class::Request, 7).unwrap();
    core.inbox.flush(&mut core.outbox, bells);
}

/// Takes `count` messages, sleeping whenever there are none. Returns how often it prepared to sleep.
fn receive(core: &mut Endpoint<u32>, count: usize, bells: &Arc<Bells>) -> u32 {
    let mut sleeps = 0;
    let mut got = 0;
    while got < count {
        got += core.inbox.drain(8, |_, class, message| assert_eq!((class, message), (Class::Request, 7)));
        if got < count {
            sleeps += 1;
            if core.inbox.prepare_sleep(&mut core.outbox, bells) == Sleep::May {
                bells.wait(core.inbox.core());
            }
            core.inbox.woke();
        }
    }
    sleeps
}

/// (a) A sender and a receiver that sleeps: the message arrives.
fn one_sender_and_a_sleeper(planted: Planted) {
    explore(4, move || {
        let bells = Bells::new(2);
        let mut cores = cores_with(planted, 2);
        let sender = cores.pop().unwrap();
        let mut receiver = cores.pop().unwrap();
        let sending = thread::spawn({
            let bells = Arc::clone(&bells);
            move || send_once(sender, 0, &bells)
        });
        let sleeps = receive(&mut receiver, 1, &bells);
        sending.join().unwrap();
        assert!(bells.rings(receiver.inbox.core()) <= sleeps, "one ring per sleep");
    });
}

#[test]
fn loom_no_wake_up_is_lost() {
    one_sender_and_a_sleeper(Planted::Nothing);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_without_the_senders_fence_a_wake_up_is_lost() {
    one_sender_and_a_sleeper(Planted::Without(Site::FlushFence));
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_without_the_sleepers_fence_a_wake_up_is_lost() {
    one_sender_and_a_sleeper(Planted::Without(Site::SleepFence));
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_without_the_second_look_a_wake_up_is_lost() {
    one_sender_and_a_sleeper(Planted::Without(Site::MailRecheck));
}

/// Sends `count` control messages to the other core and takes as many from it: the loop of a core, with a
/// task that waits for room.
fn exchange(mut core: Endpoint<u32>, count: u32, bells: &Arc<Bells>) {
    let other = core.outbox.peer(1 - core.outbox.core().index()).unwrap();
    let (mut next, mut expected, mut task_waits) = (0, 0, false);
    while next < count || expected < count {
        while next < count && !task_waits {
            match core.outbox.send(other, Class::Control, next) {
                Ok(()) => next += 1,
                Err(Full(message)) => {
                    assert_eq!(message, next, "the message comes back");
                    core.outbox.wait_for_space(other, Class::Control);
                    task_waits = true;
                }
            }
        }
        core.inbox.drain(8, |_, _, message| {
            assert_eq!(message, expected, "in order, nothing lost, nothing twice");
            expected += 1;
        });
        core.outbox.take_space(|_, _, _| task_waits = false);
        core.inbox.flush(&mut core.outbox, bells);
        let idle = next == count || task_waits;
        if idle && (next < count || expected < count) {
            if core.inbox.prepare_sleep(&mut core.outbox, bells) == Sleep::May {
                bells.wait(core.inbox.core());
            }
            core.inbox.woke();
        }
    }
}

/// (b) Two cores whose lanes hold one control message send several to each other: both finish.
fn two_full_cores(planted: Planted, count: u32, preemptions: usize) {
    explore(preemptions, move || {
        let bells = Bells::new(2);
        let mut cores = cores_with(planted, 2);
        let one = cores.pop().unwrap();
        let zero = cores.pop().unwrap();
        let running = thread::spawn({
            let bells = Arc::clone(&bells);
            move || exchange(one, count, &bells)
        });
        exchange(zero, count, &bells);
        running.join().unwrap();
    });
}

#[test]
fn loom_two_cores_full_towards_each_other_both_finish() {
    two_full_cores(Planted::Nothing, 2, 3);
}

#[test]
fn loom_two_cores_full_again_and_again_both_finish() {
    two_full_cores(Planted::Nothing, 3, 2);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_without_the_look_for_room_a_core_sleeps_for_ever() {
    two_full_cores(Planted::Without(Site::RoomRecheck), 2, 3);
}

#[test]
#[should_panic(expected = "deadlock")]
fn loom_without_the_fence_two_full_cores_sleep_for_ever() {
    two_full_cores(Planted::Without(Site::FlushFence), 2, 3);
}

/// (c) Two senders and one sleep of the receiver: it is rung once at most, and gets both messages.
fn two_senders_and_a_sleeper(planted: Planted) {
    explore(3, move || {
        let bells = Bells::new(3);
        let mut cores = cores_with(planted, 3);
        let senders = [cores.pop().unwrap(), cores.pop().unwrap()];
        let mut receiver = cores.pop().unwrap();
        let sending = senders.map(|sender| {
            let bells = Arc::clone(&bells);
            thread::spawn(move || send_once(sender, 0, &bells))
        });
        let sleeps = receive(&mut receiver, 2, &bells);
        for sender in sending {
            sender.join().unwrap();
        }
        assert!(bells.rings(receiver.inbox.core()) <= sleeps, "one ring per sleep");
    });
}

#[test]
fn loom_two_senders_ring_once_per_sleep() {
    two_senders_and_a_sleeper(Planted::Nothing);
}

#[test]
#[should_panic(expected = "one ring per sleep")]
fn loom_without_the_claim_both_senders_ring() {
    two_senders_and_a_sleeper(Planted::RingWithoutClaim);
}
