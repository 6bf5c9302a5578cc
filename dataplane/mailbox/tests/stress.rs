//! Real threads that sleep and ring, on lanes so short that everything is full all the time.
//!
//! Miri and ThreadSanitizer run this one (the commands are in the crate's documentation); under Miri with
//! counts that end within a minute. A lost wake-up shows as a thread that does not come back within
//! [`PATIENCE`].
#![cfg(not(loom))]

use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use berth_mailbox::{Capacities, Class, CoreId, Doorbell, Endpoint, Full, Sleep, mesh};

const CORES: usize = 3;
const MESSAGES: u64 = if cfg!(miri) { 40 } else { 100_000 };
const PATIENCE: Duration = Duration::from_secs(if cfg!(miri) { 600 } else { 30 });

/// A message with memory of its own, so that a double drop or a torn read is seen.
struct Message {
    sequence: Box<u64>,
}

#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

#[derive(Clone)]
struct Bells(Arc<[Bell]>);

impl Doorbell for Bells {
    fn ring(&self, core: CoreId) {
        let bell = &self.0[core.index()];
        *bell.rung.lock().expect("no thread panics with it") = true;
        bell.changed.notify_one();
    }
}

impl Bells {
    fn wait(&self, core: CoreId) {
        let bell = &self.0[core.index()];
        let rung = bell.rung.lock().expect("no thread panics with it");
        let (mut rung, waited) =
            bell.changed.wait_timeout_while(rung, PATIENCE, |rung| !*rung).expect("no thread panics with it");
        assert!(!waited.timed_out(), "{core} was never rung");
        *rung = false;
    }
}

/// What one core sends to one other, and has from it, by class. Of the two classes that may be refused, a
/// refused number is skipped, so gaps are fine there and steps back are not.
#[derive(Default)]
struct Traffic {
    next: [u64; 3],
    shed: [u64; 3],
    seen: [Option<u64>; 3],
    got: [u64; 3],
}

struct Core {
    endpoint: Endpoint<Message>,
    bells: Bells,
    traffic: Vec<Traffic>,
}

impl Core {
    /// Sends a few messages; a control message that finds no room waits, others are shed.
    fn send_some(&mut self, to: usize, class: Class) {
        let outbox = &mut self.endpoint.outbox;
        let peer = outbox.peer(to).expect("another core");
        let traffic = &mut self.traffic[to];
        for _ in 0..4 {
            let sequence = traffic.next[class as usize];
            if sequence == MESSAGES {
                return;
            }
            match outbox.send(peer, class, Message { sequence: Box::new(sequence) }) {
                Ok(()) => traffic.next[class as usize] += 1,
                Err(Full(_)) if class == Class::Control => return outbox.wait_for_space(peer, class),
                Err(Full(_)) => {
                    traffic.shed[class as usize] += 1;
                    traffic.next[class as usize] += 1;
                }
            }
        }
    }

    fn receive(&mut self) {
        let traffic = &mut self.traffic;
        self.endpoint.inbox.drain(8, |from, class, message| {
            let traffic = &mut traffic[from.index()];
            let seen = traffic.seen[class as usize].replace(*message.sequence);
            match class {
                Class::Control => assert_eq!(seen.map_or(0, |seen| seen + 1), *message.sequence, "no gap"),
                _ => assert!(seen.is_none_or(|seen| seen < *message.sequence), "in order"),
            }
            traffic.got[class as usize] += 1;
        });
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.endpoint.inbox.core().index();
        (0..CORES).filter(move |&other| other != me)
    }

    fn has_sent_all(&self) -> bool {
        self.others().all(|to| self.traffic[to].next == [MESSAGES; 3])
    }

    fn has_all_control(&self) -> bool {
        self.others().all(|from| self.traffic[from].got[Class::Control as usize] == MESSAGES)
    }

    /// Loops until every message of this core is sent or shed, and all control messages of the others are
    /// here.
    fn run(&mut self) {
        while !(self.has_sent_all() && self.has_all_control()) {
            for to in self.others() {
                Class::ALL.into_iter().for_each(|class| self.send_some(to, class));
            }
            self.receive();
            self.endpoint.outbox.take_space(|_, _, slots| assert!(slots > 0));
            let Endpoint { inbox, outbox } = &mut self.endpoint;
            inbox.flush(outbox, &self.bells);
            // Only control messages are left to wait for, in either direction: others are sent or shed at
            // once.
            let waits = self.others().all(|to| {
                let [_, request, toss] = self.traffic[to].next;
                request == MESSAGES && toss == MESSAGES
            });
            if waits && !(self.has_sent_all() && self.has_all_control()) {
                self.sleep();
            }
        }
    }

    fn sleep(&mut self) {
        let Endpoint { inbox, outbox } = &mut self.endpoint;
        // `take_space` may have said that there is room, in which case the second look finds it: try again,
        // not sleep.
        for (to, traffic) in self.traffic.iter().enumerate() {
            if let (Some(to), true) = (outbox.peer(to), traffic.next[Class::Control as usize] < MESSAGES) {
                outbox.wait_for_space(to, Class::Control);
            }
        }
        if inbox.prepare_sleep(outbox, &self.bells) == Sleep::May {
            self.bells.wait(inbox.core());
        }
        inbox.woke();
    }
}

#[test]
fn three_cores_that_are_always_full_lose_nothing_and_all_finish() {
    let bells = Bells((0..CORES).map(|_| Bell::default()).collect());
    let everyone_is_done = Arc::new(Barrier::new(CORES));
    let endpoints = mesh(CORES, Capacities { control: 2, request: 4, toss: 4 }).unwrap();
    let counters = endpoints[0].outbox.counters();
    let threads: Vec<_> = endpoints
        .into_iter()
        .map(|endpoint| {
            let (bells, done) = (bells.clone(), Arc::clone(&everyone_is_done));
            let traffic = (0..CORES).map(|_| Traffic::default()).collect();
            thread::spawn(move || {
                let mut core = Core { endpoint, bells, traffic };
                core.run();
                done.wait();
                // What was sent after this core had all that it waited for.
                (0..64).for_each(|_| core.receive());
                core.traffic
            })
        })
        .collect();
    let traffic: Vec<Vec<Traffic>> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    for (from, to, counts) in counters.links() {
        let (sent, got) = (&traffic[from.index()][to.index()], &traffic[to.index()][from.index()]);
        for class in Class::ALL {
            let at = class as usize;
            assert_eq!(counts.of(class).sent + sent.shed[at], MESSAGES, "{from} to {to}, {class}");
            assert_eq!(got.got[at], counts.of(class).sent, "{from} to {to}, {class}");
        }
        assert_eq!(sent.shed[Class::Control as usize], 0);
    }
    assert!(counters.total().rung > 0, "the test is about sleeping");
}
