//! Random interleavings of everything that cores can do, beside a plain model of the mesh.
//!
//! One thread plays all cores, so each step has one right outcome and the model states it: queues that are
//! `VecDeque`s, flags that are fields. What only real parallelism can break is in the stress test and the
//! loom models.
#![cfg(all(not(loom), not(miri)))]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use berth_mailbox::{Capacities, Class, CoreId, Doorbell, Endpoint, Full, LaneCounts, Sleep, mesh};
use proptest::prelude::*;

const CORES: usize = 3;

/// A lane: sender, receiver, class.
type Lane = (usize, usize, Class);

#[derive(Clone, Debug)]
enum Step {
    Send { from: usize, to: usize, class: Class, burst: usize },
    Drain { core: usize, budget: usize },
    TakeSpace { core: usize },
    Flush { core: usize },
    PrepareSleep { core: usize },
    Woke { core: usize },
}

impl Step {
    fn actor(&self) -> usize {
        match *self {
            Self::Send { from: core, .. }
            | Self::Drain { core, .. }
            | Self::TakeSpace { core }
            | Self::Flush { core }
            | Self::PrepareSleep { core }
            | Self::Woke { core } => core,
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let core = 0..CORES;
    let class = prop::sample::select(Class::ALL.to_vec());
    let step = prop_oneof![
        4 => (core.clone(), 1..CORES, class, 1..40_usize).prop_map(|(from, away, class, burst)| {
            Step::Send { from, to: (from + away) % CORES, class, burst }
        }),
        3 => (core.clone(), 0..50_usize).prop_map(|(core, budget)| Step::Drain { core, budget }),
        1 => core.clone().prop_map(|core| Step::TakeSpace { core }),
        2 => core.clone().prop_map(|core| Step::Flush { core }),
        2 => core.clone().prop_map(|core| Step::PrepareSleep { core }),
        1 => core.prop_map(|core| Step::Woke { core }),
    ];
    prop::collection::vec(step, 1..200)
}

#[derive(Default)]
struct Rings(RefCell<Vec<usize>>);

impl Doorbell for Rings {
    fn ring(&self, core: CoreId) {
        self.0.borrow_mut().push(core.index());
    }
}

/// What the mesh should be, told as plainly as possible.
#[derive(Default)]
struct Model {
    queues: BTreeMap<Lane, VecDeque<u64>>,
    counts: BTreeMap<Lane, LaneCounts>,
    asleep: [bool; CORES],
    /// Who has to be told of mail, by sender.
    mail_untold: [BTreeSet<usize>; CORES],
    /// Lanes that a core drained since its last flush.
    room_untold: [BTreeSet<Lane>; CORES],
    /// Lanes that their sender waits for.
    waiting: BTreeSet<Lane>,
    /// Lanes whose sender went to sleep with that wish.
    wanted: BTreeSet<Lane>,
    rung: u64,
    saved: u64,
}

impl Model {
    fn pending(&self, core: usize) -> usize {
        self.queues.iter().filter(|((_, to, _), _)| *to == core).map(|(_, queue)| queue.len()).sum()
    }

    fn has_room(&self, lane: Lane, capacities: Capacities) -> bool {
        self.queues.get(&lane).is_none_or(|queue| queue.len() < capacity(capacities, lane.2))
    }

    /// Tells the core's news; returns whom it should ring, in order of index.
    fn flush(&mut self, core: usize) -> Vec<usize> {
        let mail = std::mem::take(&mut self.mail_untold[core]);
        let room: BTreeSet<usize> = std::mem::take(&mut self.room_untold[core])
            .into_iter()
            .filter(|lane| self.wanted.remove(lane))
            .map(|(sender, _, _)| sender)
            .collect();
        let mut rung = Vec::new();
        for told in mail.into_iter().chain(room) {
            if std::mem::take(&mut self.asleep[told]) {
                rung.push(told);
                self.rung += 1;
            } else {
                self.saved += 1;
            }
        }
        rung.sort_unstable();
        rung
    }

    /// No core sleeps on mail, or on room that it waits for, that it has been told of.
    fn assert_nobody_sleeps_on_news(&self, capacities: Capacities) {
        for core in (0..CORES).filter(|&core| self.asleep[core]) {
            for (&(from, to, _), queue) in &self.queues {
                let told = !self.mail_untold[from].contains(&to);
                assert!(to != core || queue.is_empty() || !told, "core {core} sleeps on mail from {from}");
            }
            for &lane in self.waiting.iter().filter(|lane| lane.0 == core) {
                let told = !self.room_untold[lane.1].contains(&lane);
                assert!(!self.has_room(lane, capacities) || !told, "core {core} sleeps on room in {lane:?}");
            }
        }
    }
}

fn capacity(capacities: Capacities, class: Class) -> usize {
    match class {
        Class::Control => capacities.control,
        Class::Request => capacities.request,
        Class::Toss => capacities.toss,
    }
}

/// The mesh and its model, taking each step together.
struct Pair {
    capacities: Capacities,
    cores: Vec<Endpoint<u64>>,
    rings: Rings,
    model: Model,
    next: u64,
}

impl Pair {
    fn step(&mut self, step: &Step) {
        // Whatever a core does, it is awake.
        self.cores[step.actor()].inbox.woke();
        self.model.asleep[step.actor()] = false;
        match *step {
            Step::Send { from, to, class, burst } => (0..burst).for_each(|_| self.send((from, to, class))),
            Step::Drain { core, budget } => self.drain(core, budget),
            Step::TakeSpace { core } => self.take_space(core),
            Step::Flush { core } => {
                let Endpoint { inbox, outbox } = &mut self.cores[core];
                inbox.flush(outbox, &self.rings);
                let expected = self.model.flush(core);
                self.assert_rings(&expected);
            }
            Step::PrepareSleep { core } => self.prepare_sleep(core),
            Step::Woke { .. } => {}
        }
        self.model.assert_nobody_sleeps_on_news(self.capacities);
    }

    fn send(&mut self, lane: Lane) {
        let (from, to, class) = lane;
        self.next += 1;
        let outbox = &mut self.cores[from].outbox;
        let peer = outbox.peer(to).expect("another core");
        let counts = self.model.counts.entry(lane).or_default();
        let queue = self.model.queues.entry(lane).or_default();
        match outbox.send(peer, class, self.next) {
            Ok(()) => {
                queue.push_back(self.next);
                assert!(queue.len() <= capacity(self.capacities, class), "a lane is bounded");
                counts.sent += 1;
                self.model.mail_untold[from].insert(to);
            }
            Err(Full(message)) => {
                assert_eq!(message, self.next, "the message comes back");
                assert_eq!(queue.len(), capacity(self.capacities, class), "refused only when full");
                counts.full += 1;
                if class == Class::Control {
                    outbox.wait_for_space(peer, class);
                    self.model.waiting.insert(lane);
                }
            }
        }
    }

    fn drain(&mut self, core: usize, budget: usize) {
        let expected = budget.min(self.model.pending(core));
        let mut seen = Vec::new();
        let model = &mut self.model;
        let count = self.cores[core].inbox.drain(budget, |from, class, message| {
            let lane = (from.index(), core, class);
            let head = model.queues.get_mut(&lane).and_then(VecDeque::pop_front);
            assert_eq!(head, Some(message), "in order, nothing lost, nothing twice");
            model.room_untold[core].insert(lane);
            seen.push(class);
        });
        assert_eq!(
            (count, seen.len()),
            (expected, expected),
            "a drain takes what there is, up to its budget"
        );
        let first_other = seen.iter().position(|&class| class != Class::Control).unwrap_or(seen.len());
        assert!(!seen[first_other..].contains(&Class::Control), "control goes first");
    }

    fn take_space(&mut self, core: usize) {
        let mut told = BTreeSet::new();
        self.cores[core].outbox.take_space(|to, class, slots| {
            assert!(slots > 0);
            told.insert((core, to.index(), class));
        });
        let expected: BTreeSet<Lane> = (self.model.waiting.iter().copied())
            .filter(|&lane| lane.0 == core && self.model.has_room(lane, self.capacities))
            .collect();
        assert_eq!(told, expected);
        self.model.waiting.retain(|lane| !told.contains(lane));
    }

    fn prepare_sleep(&mut self, core: usize) {
        let Endpoint { inbox, outbox } = &mut self.cores[core];
        let sleep = inbox.prepare_sleep(outbox, &self.rings);
        let wishes: Vec<Lane> = self.model.waiting.iter().copied().filter(|lane| lane.0 == core).collect();
        self.model.wanted.extend(&wishes);
        let expected = self.model.flush(core);
        self.assert_rings(&expected);
        let news = self.model.pending(core) > 0
            || wishes.iter().any(|&lane| self.model.has_room(lane, self.capacities));
        assert_eq!(sleep, if news { Sleep::MustNot } else { Sleep::May });
        self.model.asleep[core] = !news;
    }

    fn assert_rings(&mut self, expected: &[usize]) {
        let mut rung = self.rings.0.take();
        rung.sort_unstable();
        assert_eq!(rung, expected, "rings");
    }

    fn assert_counters(&self) {
        let counters = self.cores[0].outbox.counters();
        for (from, to, counts) in counters.links() {
            for class in Class::ALL {
                let expected = self.model.counts.get(&(from.index(), to.index(), class)).copied();
                assert_eq!(counts.of(class), expected.unwrap_or_default(), "{from} to {to}, {class}");
            }
        }
        let total = counters.total();
        assert_eq!((total.rung, total.saved), (self.model.rung, self.model.saved));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_mesh_does_what_the_model_does(
        (control, request, toss) in (1..20_usize, 1..40_usize, 1..40_usize),
        steps in steps(),
    ) {
        let capacities = Capacities { control, request, toss };
        let mut pair = Pair {
            capacities,
            cores: mesh(CORES, capacities).unwrap(),
            rings: Rings::default(),
            model: Model::default(),
            next: 0,
        };
        for step in &steps {
            pair.step(step);
        }
        for core in 0..CORES {
            pair.drain(core, usize::MAX);
        }
        prop_assert!(pair.model.queues.values().all(VecDeque::is_empty), "everything that was sent has arrived");
        pair.assert_counters();
    }
}
