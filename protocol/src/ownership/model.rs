//! A node in small: two or three cores, a lane of each class for each ordered pair of them, the table, the store,
//! guests that trap, a disk that fails, an operator who moves and evicts. [`Keeper::handle`] decides; all else is the
//! worst that a caller may do, at every interleaving.
//!
//! One step is an event with what a core does by itself, up to and with the first thing that others can see (a change
//! or a look at the table, a send). What comes after that is a step of its own, so that others come in between. The
//! faults at the end are mistakes planted in this caller; the explorer must find each.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use super::explorer::{Counterexample, Explored, Space, explore};
use super::*;
use crate::object::Epoch;

/// A message is a number.
type Id = u8;

/// What is let loose.
#[derive(Debug, Clone)]
struct Setup {
    cores: u8,
    /// For each connection, its core and its messages in order.
    connections: Vec<(u8, Vec<Id>)>,
    trouble: Trouble,
    limits: Limits,
    fault: Option<Fault>,
}

/// How often each may happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Trouble {
    moves: u8,
    evictions: u8,
    failed_starts: u8,
    traps: u8,
    writes: u8,
    failed_commits: u8,
}

/// A mistake in the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// A message for an object that is elsewhere stays where it is.
    NothingIsPassedOn,
    /// An object that abdicates may be claimed as if it were absent.
    StartWhileAbdicating,
    /// The end of a turn is told before it ends.
    MoveDuringATurn,
    /// A claim writes what it found free a moment ago.
    ClaimWithoutLock,
    /// What waits does not travel with the instance.
    WaitingLeftBehind,
    /// The instance is sent before the berth says so.
    InstanceBeforeBerth,
    /// What waited for a start that failed gets no answer.
    FailedStartForgets,
    /// A connection sends its next message before the outcome of the last one.
    TwoOutstanding,
    /// A turn that wrote is told as one that did not.
    WritesNotTold,
    /// The store gives an epoch twice, and the start hides it.
    EpochTwice,
    /// A message is sent on twice.
    PassedTwice,
    /// The instance is reported gone while it still stops.
    StoppedTooEarly,
    /// A hop is not counted.
    HopsNotCounted,
    /// After a failed commit the store takes what a turn writes that still runs.
    TakenAfterAFailure,
}

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fate {
    Unsent,
    Waits,
    Begun,
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Mail {
    Message(Message<Id>),
    Instance(Epoch, VecDeque<Message<Id>>),
}

/// One core, its stay and what belongs to its instance.
#[derive(Debug, Clone, Hash)]
struct Side {
    stay: Stay<Id>,
    todo: VecDeque<Effect<Id>>,
    starting: bool,
    instance: Option<Epoch>,
    turn: Option<Id>,
    stopping: Option<Epoch>,
    travel: bool,
    moving: bool,
}

#[derive(Debug, Clone, Hash)]
struct State {
    berth: Berth,
    sides: Vec<Side>,
    /// The lane of class `class` from `from` to `to` is at `(from * cores + to) * 2 + class`; class 0 is control.
    lanes: Vec<VecDeque<Mail>>,
    epochs: u64,
    /// Turns that have not settled, in order of the log: message, epoch, core.
    unsettled: VecDeque<(Id, Epoch, u8)>,
    /// The epoch of which a commit has failed: the store takes no more of it.
    failed: Option<Epoch>,
    fates: Vec<Fate>,
    /// For each connection the number of its last message that had its turn.
    order: Vec<usize>,
    left: Trouble,
}

#[derive(Clone)]
struct World {
    setup: Rc<Setup>,
    state: State,
}

impl Hash for World {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.state.hash(hasher);
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Send { connection: u8, id: Id },
    Effect { core: u8 },
    Receive { from: u8, to: u8, class: u8 },
    Start { core: u8 },
    StartFails { core: u8 },
    TurnEnds { core: u8, end: TurnEnd },
    Settle,
    CommitFails,
    Stopped { core: u8 },
    Quiet { core: u8 },
    Move { core: u8, to: u8 },
    MayTravel { core: u8 },
    MoveExpires { core: u8 },
    Evict { core: u8, how: Evict },
}

impl World {
    fn new(setup: Setup) -> Self {
        let side = Side {
            stay: Stay::Empty,
            todo: VecDeque::new(),
            starting: false,
            instance: None,
            turn: None,
            stopping: None,
            travel: false,
            moving: false,
        };
        let cores = usize::from(setup.cores);
        let messages = setup.connections.iter().map(|(_, ids)| ids.len()).sum();
        let state = State {
            berth: Berth::Absent { last: None },
            sides: vec![side; cores],
            lanes: vec![VecDeque::new(); cores * cores * 2],
            epochs: 0,
            unsettled: VecDeque::new(),
            failed: None,
            fates: vec![Fate::Unsent; messages],
            order: vec![0; setup.connections.len()],
            left: setup.trouble,
        };
        Self { setup: Rc::new(setup), state }
    }

    fn has(&self, fault: Fault) -> bool {
        self.setup.fault == Some(fault)
    }

    fn lane(&self, from: u8, to: u8, class: u8) -> usize {
        (usize::from(from) * usize::from(self.setup.cores) + usize::from(to)) * 2 + usize::from(class)
    }

    /// The next message of a connection, if it may be sent now.
    fn sendable(&self, connection: usize) -> Option<Id> {
        let ids = &self.setup.connections[connection].1;
        let at = ids.iter().position(|&id| self.state.fates[usize::from(id)] == Fate::Unsent)?;
        let before = at.checked_sub(1).map(|before| self.state.fates[usize::from(ids[before])]);
        let free = self.has(Fault::TwoOutstanding) || before.is_none_or(|fate| fate == Fate::Done);
        free.then(|| ids[at])
    }

    fn steps_of_core(&self, core: u8, steps: &mut Vec<Step>) {
        let side = &self.state.sides[usize::from(core)];
        let left = self.state.left;
        for from in 0..self.setup.cores {
            for class in 0..2 {
                if !self.state.lanes[self.lane(from, core, class)].is_empty() {
                    steps.push(Step::Receive { from, to: core, class });
                }
            }
        }
        if side.starting {
            steps.push(Step::Start { core });
            if left.failed_starts > 0 {
                steps.push(Step::StartFails { core });
            }
        }
        if side.turn.is_some() {
            steps.push(Step::TurnEnds { core, end: TurnEnd::Settled });
            if left.writes > 0 {
                steps.push(Step::TurnEnds { core, end: TurnEnd::Unsettled });
            }
            if left.traps > 0 {
                steps.push(Step::TurnEnds { core, end: TurnEnd::Trapped });
            }
        }
        if side.stopping.is_some() {
            steps.push(Step::Stopped { core });
        }
        if side.travel {
            steps.push(Step::MayTravel { core });
        }
        if side.moving {
            steps.push(Step::MoveExpires { core });
        }
        if left.moves > 0 && !matches!(side.stay, Stay::Empty) {
            let others = (0..self.setup.cores).filter(|&to| to != core);
            steps.extend(others.map(|to| Step::Move { core, to }));
        }
        if left.evictions > 0 && !matches!(side.stay, Stay::Empty) {
            steps.push(Step::Evict { core, how: Evict::AfterTurn });
            steps.push(Step::Evict { core, how: Evict::IfIdle });
            steps.push(Step::Quiet { core });
        }
    }

    fn handle(&mut self, core: u8, event: Event<Id>) -> Result<(), String> {
        let keeper = Keeper { here: Core(core), limits: self.setup.limits };
        let mut effects = Vec::new();
        let side = &mut self.state.sides[usize::from(core)];
        let stay = std::mem::replace(&mut side.stay, Stay::Empty);
        side.stay = keeper.handle(stay, event, &mut effects);
        if side.stay.waiting() > self.setup.limits.waiting_max {
            return Err("more messages wait than may".to_owned());
        }
        if self.setup.fault == Some(Fault::InstanceBeforeBerth)
            && matches!(effects[..], [Effect::Change(_), Effect::Depart { .. }])
        {
            effects.reverse();
        }
        side.todo.extend(effects);
        self.run(core, 1)
    }

    /// Does what is to be done at a core, up to and with `seen` things that others can see.
    fn run(&mut self, core: u8, mut seen: u8) -> Result<(), String> {
        while let Some(effect) = self.state.sides[usize::from(core)].todo.front() {
            let visible = matches!(
                effect,
                Effect::Look(_)
                    | Effect::Claim(_)
                    | Effect::Change(_)
                    | Effect::Pass { .. }
                    | Effect::Depart { .. }
            );
            if visible && seen == 0 {
                return Ok(());
            }
            seen -= u8::from(visible);
            if let Some(effect) = self.state.sides[usize::from(core)].todo.pop_front() {
                self.act(core, effect)?;
            }
        }
        Ok(())
    }

    fn act(&mut self, core: u8, effect: Effect<Id>) -> Result<(), String> {
        let side = &mut self.state.sides[usize::from(core)];
        match effect {
            Effect::Look(message) => self.look(core, message),
            Effect::Claim(message) => self.claim(core, message),
            Effect::Change(change) => self.change(change),
            Effect::Pass { to, message } => self.pass(core, to.0, message),
            Effect::Refuse { message, why } => self.refuse(message.body, why),
            Effect::Start { .. } => {
                side.starting = true;
                Ok(())
            }
            Effect::Begin { epoch, message } => self.begin(core, epoch, message.body),
            Effect::AwaitTravel { .. } => {
                side.travel = true;
                Ok(())
            }
            Effect::Depart { to, epoch, waiting } => self.depart(core, to.0, epoch, waiting),
            Effect::Stop { epoch } => {
                side.stopping = Some(epoch);
                Ok(())
            }
            Effect::MoveRefused { why, .. } => {
                if matches!(why, MoveRefused::Expired | MoveRefused::Ends) {
                    (side.travel, side.moving) = (false, false);
                }
                Ok(())
            }
            Effect::EvictRefused(_) => Ok(()),
            Effect::Misuse(misuse) => Err(misuse.to_string()),
        }
    }

    fn look(&mut self, core: u8, message: Message<Id>) -> Result<(), String> {
        let mut berth = self.state.berth;
        if let (Berth::Abdicating { core: at, epoch }, true) = (berth, self.has(Fault::StartWhileAbdicating))
            && at != Core(core)
        {
            berth = Berth::Absent { last: Some(epoch) };
        }
        if self.has(Fault::NothingIsPassedOn) && message.hops > 0 {
            return Ok(());
        }
        self.handle_now(core, Event::Looked { berth, message })
    }

    /// Handles an event whose effects come before those that are still to be done.
    fn handle_now(&mut self, core: u8, event: Event<Id>) -> Result<(), String> {
        let later = std::mem::take(&mut self.state.sides[usize::from(core)].todo);
        let keeper = Keeper { here: Core(core), limits: self.setup.limits };
        let mut effects = Vec::new();
        let side = &mut self.state.sides[usize::from(core)];
        let stay = std::mem::replace(&mut side.stay, Stay::Empty);
        side.stay = keeper.handle(stay, event, &mut effects);
        side.todo.extend(effects);
        side.todo.extend(later);
        Ok(())
    }

    fn claim(&mut self, core: u8, message: Message<Id>) -> Result<(), String> {
        let change = Change::Claim { core: Core(core) };
        let above = self.state.berth.epoch();
        let forced = self.has(Fault::ClaimWithoutLock)
            || (self.has(Fault::StartWhileAbdicating)
                && matches!(self.state.berth, Berth::Abdicating { .. }));
        if forced {
            self.state.berth = Berth::Starting { core: Core(core), above };
            return self.handle_now(core, Event::Claimed { above, message });
        }
        match self.state.berth.apply(change) {
            Ok(berth) => {
                self.state.berth = berth;
                self.handle_now(core, Event::Claimed { above, message })
            }
            Err(unfit) => self.handle_now(core, Event::Looked { berth: unfit.berth, message }),
        }
    }

    fn change(&mut self, change: Change) -> Result<(), String> {
        let starts_anew =
            matches!(change, Change::End { .. } | Change::Restart { .. } | Change::Depart { .. });
        if starts_anew && !self.state.unsettled.is_empty() {
            return Err("an instance goes before its turns have settled".to_owned());
        }
        self.state.berth = self.state.berth.apply(change).map_err(|unfit| unfit.to_string())?;
        Ok(())
    }

    fn pass(&mut self, core: u8, to: u8, mut message: Message<Id>) -> Result<(), String> {
        if self.has(Fault::HopsNotCounted) {
            message.hops = 0;
        }
        let lane = self.lane(core, to, 1);
        if self.has(Fault::PassedTwice) {
            self.state.lanes[lane].push_back(Mail::Message(message.clone()));
        }
        self.state.lanes[lane].push_back(Mail::Message(message));
        Ok(())
    }

    fn refuse(&mut self, id: Id, why: Refusal) -> Result<(), String> {
        if why == Refusal::StartFailed && self.has(Fault::FailedStartForgets) {
            return Ok(());
        }
        let fate = &mut self.state.fates[usize::from(id)];
        if *fate != Fate::Waits {
            return Err(format!("message {id} is refused and is {fate:?} already"));
        }
        *fate = Fate::Done;
        Ok(())
    }

    fn begin(&mut self, core: u8, epoch: Epoch, id: Id) -> Result<(), String> {
        if self.state.sides.iter().any(|side| side.turn.is_some()) {
            return Err("two turns overlap".to_owned());
        }
        if self.state.sides[usize::from(core)].instance != Some(epoch) {
            return Err("a turn begins without its instance".to_owned());
        }
        let fate = &mut self.state.fates[usize::from(id)];
        if *fate != Fate::Waits {
            return Err(format!("message {id} has its turn and is {fate:?} already"));
        }
        *fate = Fate::Begun;
        for (connection, (_, ids)) in self.setup.connections.iter().enumerate() {
            if let Some(at) = ids.iter().position(|&other| other == id) {
                if at < self.state.order[connection] {
                    return Err(format!("message {id} was overtaken by a later one of its connection"));
                }
                self.state.order[connection] = at;
            }
        }
        self.state.sides[usize::from(core)].turn = Some(id);
        Ok(())
    }

    fn depart(
        &mut self,
        core: u8,
        to: u8,
        epoch: Epoch,
        mut waiting: VecDeque<Message<Id>>,
    ) -> Result<(), String> {
        let side = &mut self.state.sides[usize::from(core)];
        if side.turn.is_some() {
            return Err("an instance leaves in the middle of a turn".to_owned());
        }
        if side.instance.take() != Some(epoch) {
            return Err("an instance leaves that is not there".to_owned());
        }
        (side.travel, side.moving) = (false, false);
        if self.has(Fault::WaitingLeftBehind) {
            waiting.clear();
        }
        let lane = self.lane(core, to, 0);
        self.state.lanes[lane].push_back(Mail::Instance(epoch, waiting));
        Ok(())
    }

    fn receive(&mut self, from: u8, to: u8, class: u8) -> Result<(), String> {
        let lane = self.lane(from, to, class);
        match self.state.lanes[lane].pop_front() {
            None => Ok(()),
            Some(Mail::Message(message)) => self.handle(to, Event::Message(message)),
            Some(Mail::Instance(epoch, waiting)) => {
                self.state.sides[usize::from(to)].instance = Some(epoch);
                self.handle(to, Event::Arrived { epoch, waiting })
            }
        }
    }

    fn start(&mut self, core: u8) -> Result<(), String> {
        if !(self.has(Fault::EpochTwice) && self.state.epochs > 0) {
            self.state.epochs += 1;
        }
        let epoch = Epoch(self.state.epochs);
        let side = &mut self.state.sides[usize::from(core)];
        side.starting = false;
        side.instance = Some(epoch);
        if self.setup.fault == Some(Fault::EpochTwice)
            && let Stay::Starting { above, .. } = &mut side.stay
        {
            *above = None;
        }
        self.handle(core, Event::Started { epoch })
    }

    fn turn_ends(&mut self, core: u8, end: TurnEnd) -> Result<(), String> {
        let early = self.has(Fault::MoveDuringATurn);
        let side = &mut self.state.sides[usize::from(core)];
        let (Some(id), Some(epoch)) = (side.turn, side.instance) else { return Ok(()) };
        let told_before = !matches!(side.stay, Stay::Running(Resident { turn: Turn::Now, .. }));
        if early && told_before {
            return Ok(());
        }
        if !early {
            side.turn = None;
        }
        let mut told = end;
        match end {
            TurnEnd::Settled => self.state.fates[usize::from(id)] = Fate::Done,
            TurnEnd::Trapped => {
                self.state.left.traps -= 1;
                self.state.fates[usize::from(id)] = Fate::Done;
            }
            TurnEnd::Unsettled => {
                self.state.left.writes -= 1;
                if self.state.failed == Some(epoch) && !self.has(Fault::TakenAfterAFailure) {
                    self.state.fates[usize::from(id)] = Fate::Done;
                } else {
                    self.state.unsettled.push_back((id, epoch, core));
                }
                if self.has(Fault::WritesNotTold) {
                    told = TurnEnd::Settled;
                }
            }
        }
        self.handle(core, Event::TurnEnded { epoch, end: told })
    }

    fn settle(&mut self) -> Result<(), String> {
        let Some((id, epoch, core)) = self.state.unsettled.pop_front() else { return Ok(()) };
        self.state.fates[usize::from(id)] = Fate::Done;
        self.handle(core, Event::Settled { epoch })
    }

    fn commit_fails(&mut self) -> Result<(), String> {
        self.state.left.failed_commits -= 1;
        let Some(&(_, epoch, core)) = self.state.unsettled.front() else { return Ok(()) };
        self.state.failed = Some(epoch);
        for (id, ..) in std::mem::take(&mut self.state.unsettled) {
            self.state.fates[usize::from(id)] = Fate::Done;
        }
        self.handle(core, Event::CommitFailed { epoch })
    }

    fn stopped(&mut self, core: u8) -> Result<(), String> {
        let side = &mut self.state.sides[usize::from(core)];
        let Some(epoch) = side.stopping.take() else { return Ok(()) };
        if self.setup.fault == Some(Fault::StoppedTooEarly) && side.turn.is_some() {
            return self.handle(core, Event::Stopped { epoch });
        }
        side.instance = None;
        if let Some(id) = side.turn.take() {
            self.state.fates[usize::from(id)] = Fate::Done;
        }
        self.handle(core, Event::Stopped { epoch })
    }

    fn asked_to_move(&mut self, core: u8, to: u8) -> Result<(), String> {
        self.state.left.moves -= 1;
        self.handle(core, Event::Move { to: Core(to) })?;
        let side = &mut self.state.sides[usize::from(core)];
        side.moving = matches!(&side.stay, Stay::Running(Resident { aim: Aim::Leave { .. }, .. }));
        Ok(())
    }

    /// What must hold after each step.
    fn check(&self) -> Result<(), String> {
        let live = |side: &Side| u8::from(side.instance.is_some()) + u8::from(side.starting);
        let travelling = self.state.lanes.iter().flatten().filter(|mail| matches!(mail, Mail::Instance(..)));
        let instances = self.state.sides.iter().map(live).sum::<u8>() + travelling.count() as u8;
        if instances > 1 {
            return Err("two cores have an instance".to_owned());
        }
        let over = |mail: &Mail| match mail {
            Mail::Message(message) => message.hops == 0 || message.hops > self.setup.limits.hops_max,
            Mail::Instance(..) => false,
        };
        if self.state.lanes.iter().flatten().any(over) {
            return Err("a message made a hop that is not counted, or too many".to_owned());
        }
        Ok(())
    }
}

impl Space for World {
    type Step = Step;

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let busy = |core: u8| !self.state.sides[usize::from(core)].todo.is_empty();
        for (connection, _) in self.setup.connections.iter().enumerate().filter(|(_, at)| !busy(at.0)) {
            let connection_id = connection as u8;
            steps.extend(self.sendable(connection).map(|id| Step::Send { connection: connection_id, id }));
        }
        for core in 0..self.setup.cores {
            if busy(core) {
                steps.push(Step::Effect { core });
            } else {
                self.steps_of_core(core, &mut steps);
            }
        }
        if let Some(&(_, _, core)) = self.state.unsettled.front()
            && !busy(core)
        {
            steps.push(Step::Settle);
            if self.state.left.failed_commits > 0 {
                steps.push(Step::CommitFails);
            }
        }
        steps
    }

    fn take(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Send { connection, id } => {
                let core = self.setup.connections[usize::from(connection)].0;
                self.state.fates[usize::from(id)] = Fate::Waits;
                self.handle(core, Event::Message(Message { hops: 0, body: id }))
            }
            Step::Effect { core } => self.run(core, 1),
            Step::Receive { from, to, class } => self.receive(from, to, class),
            Step::Start { core } => self.start(core),
            Step::StartFails { core } => {
                self.state.left.failed_starts -= 1;
                self.state.sides[usize::from(core)].starting = false;
                self.handle(core, Event::StartFailed)
            }
            Step::TurnEnds { core, end } => self.turn_ends(core, end),
            Step::Settle => self.settle(),
            Step::CommitFails => self.commit_fails(),
            Step::Stopped { core } => self.stopped(core),
            Step::Quiet { core } => self.handle(core, Event::Quiet),
            Step::Move { core, to } => self.asked_to_move(core, to),
            Step::MayTravel { core } => {
                let side = &mut self.state.sides[usize::from(core)];
                side.travel = false;
                let epoch = side.instance.unwrap_or(Epoch(0));
                self.handle(core, Event::MayTravel { epoch })
            }
            Step::MoveExpires { core } => {
                let side = &mut self.state.sides[usize::from(core)];
                side.moving = false;
                let epoch = side.instance.unwrap_or(Epoch(0));
                self.handle(core, Event::MoveExpired { epoch })
            }
            Step::Evict { core, how } => {
                self.state.left.evictions -= 1;
                self.handle(core, Event::Evict(how))
            }
        }?;
        self.check()
    }

    fn is_final(&self) -> bool {
        self.state.fates.iter().all(|&fate| fate == Fate::Done)
            && self.state.lanes.iter().all(VecDeque::is_empty)
            && self.state.sides.iter().all(|side| side.todo.is_empty())
            && !matches!(self.state.berth, Berth::Moving { .. })
    }
}

fn tell(what: &str, explored: Explored) {
    println!("{what}: {} states, {} steps", explored.states, explored.steps);
}

fn setup(cores: u8, connections: &[(u8, &[Id])], trouble: Trouble) -> Setup {
    let connections = connections.iter().map(|&(core, ids)| (core, ids.to_vec())).collect();
    let limits = Limits { waiting_max: 2, hops_max: 3, unsettled_max: 2 };
    Setup { cores, connections, trouble, limits, fault: None }
}

fn holds(what: &str, setup: Setup) {
    match explore(World::new(setup)) {
        Ok(explored) => tell(what, explored),
        Err(found) => panic!("{what}: {}\n{}", found.why, found.way.join("\n")),
    }
}

/// The mistake must be found; the way to it is printed.
fn found(fault: Fault, setup: &Setup) -> Counterexample {
    let faulty = Setup { fault: Some(fault), ..setup.clone() };
    let found = explore(World::new(faulty)).expect_err("the fault must be found");
    println!("{fault:?}: {} ({} steps)", found.why, found.way.len());
    found
}

#[test]
fn two_cores_and_four_messages_hold_while_the_object_moves_and_ends() {
    let trouble = Trouble { moves: 2, evictions: 1, failed_starts: 1, ..Trouble::default() };
    holds("two cores, two moves, evict, failed start", setup(2, &[(0, &[0, 1]), (1, &[2, 3])], trouble));
}

#[test]
fn two_cores_hold_while_turns_write_and_trap_and_commits_fail() {
    let trouble = Trouble { moves: 1, traps: 1, writes: 2, failed_commits: 1, ..Trouble::default() };
    holds("two cores, move, trap, failed commit", setup(2, &[(0, &[0, 1]), (1, &[2, 3])], trouble));
}

#[test]
fn three_cores_hold_while_the_object_moves_on_before_the_messages_reach_it() {
    let trouble = Trouble { moves: 3, ..Trouble::default() };
    holds("three cores, three moves", setup(3, &[(0, &[0, 1]), (2, &[2, 3])], trouble));
}

#[test]
fn three_cores_hold_while_the_object_moves_and_ends_and_traps() {
    let trouble = Trouble { moves: 1, evictions: 1, traps: 1, failed_starts: 1, ..Trouble::default() };
    holds("three cores, move, evict, trap, failed start", setup(3, &[(0, &[0, 1]), (1, &[2])], trouble));
}

#[test]
fn three_cores_hold_while_everything_goes_wrong_once() {
    let trouble =
        Trouble { moves: 2, evictions: 1, failed_starts: 1, traps: 1, writes: 2, failed_commits: 1 };
    holds("three cores, everything", setup(3, &[(0, &[0, 1]), (1, &[2, 3])], trouble));
}

#[test]
fn the_smallest_limits_refuse_and_lose_nothing() {
    let trouble = Trouble { moves: 2, evictions: 1, writes: 1, ..Trouble::default() };
    let limits = Limits { waiting_max: 1, hops_max: 1, unsettled_max: 1 };
    let connections: [(u8, &[Id]); 4] = [(0, &[0]), (0, &[1]), (1, &[2]), (1, &[3])];
    holds("limits of one", Setup { limits, ..setup(2, &connections, trouble) });
}

#[test]
fn every_planted_fault_is_found() {
    let trouble =
        Trouble { moves: 2, evictions: 1, failed_starts: 1, traps: 0, writes: 1, failed_commits: 0 };
    let two = setup(2, &[(0, &[0, 1]), (1, &[2])], trouble);
    let crash = Trouble { writes: 2, failed_commits: 1, ..Trouble::default() };
    let crash = setup(2, &[(0, &[0]), (0, &[1]), (1, &[2])], crash);
    let alone = setup(2, &[(0, &[0])], trouble);
    let expected = [
        (Fault::NothingIsPassedOn, &two, "nothing can happen"),
        (Fault::StartWhileAbdicating, &two, "two cores have an instance"),
        (Fault::MoveDuringATurn, &alone, "in the middle of a turn"),
        (Fault::ClaimWithoutLock, &two, "two cores have an instance"),
        (Fault::WaitingLeftBehind, &two, "nothing can happen"),
        (Fault::InstanceBeforeBerth, &two, "does not fit a berth"),
        (Fault::FailedStartForgets, &two, "nothing can happen"),
        (Fault::WritesNotTold, &two, "before its turns have settled"),
        (Fault::EpochTwice, &two, "does not fit a berth"),
        (Fault::PassedTwice, &two, "already"),
        (Fault::TakenAfterAFailure, &crash, "before its turns have settled"),
        (Fault::StoppedTooEarly, &crash, "`turn ended` of an object that is absent"),
        (Fault::HopsNotCounted, &two, "not counted"),
    ];
    for (fault, setup, why) in expected {
        let found = found(fault, setup);
        assert!(found.why.contains(why), "{fault:?}: {}\n{}", found.why, found.way.join("\n"));
    }
}

#[test]
fn without_the_promise_of_the_sender_a_message_that_is_passed_on_is_overtaken() {
    let moves = Trouble { moves: 1, ..Trouble::default() };
    let setup = setup(3, &[(0, &[0, 1]), (1, &[2])], moves);
    let found = found(Fault::TwoOutstanding, &setup);
    assert!(found.why.contains("overtaken"), "{}\n{}", found.why, found.way.join("\n"));
}
