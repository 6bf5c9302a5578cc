//! Who waits for whom: the calls between the objects of a node, so that none closes a circle.
//!
//! An object runs one turn at a time. While a turn of A waits for the reply of B, everything else that A is sent
//! waits too; so when a turn of B waits for A at the same time, neither ever ends. [`Waits`] is the graph of these
//! calls: a node of it is an object, an edge a call without its reply yet. [`Waits::begin`] adds an edge, unless it
//! would close a circle; the caller then gets 508.
//!
//! A worker is no node: nothing but its own request waits for it. What it calls is waited for by the object behind
//! it, the last one of the [`Chain`] that its request carries: when A calls B, B calls the worker W of another zone,
//! and W calls A, then it is B that waits for A. A worker without an object behind it makes no edge. The chain also
//! bounds how deep calls may go, workers among themselves included.
//!
//! # Why one lock
//!
//! To look for the path and to add the edge must be one step: else A→B and B→A, begun on two cores at once, both see
//! a free way, and wait for ever. The path goes where it goes, so that locks by shard would have to be taken along
//! it, in no order. Therefore one lock for the node. It is taken twice by a call from an object, and not at all by
//! requests of clients; under it is one look-up for each object on the path, almost always one or two, at most
//! [`SEARCH_MAX`].
//!
//! # Invariants
//!
//! - The graph has no circle, whatever the order of calls: some turn can always go on (checked at every interleaving
//!   of small cases).
//! - Of calls that would close a circle together, the last one to begin is refused, and only that one. No call is
//!   refused that closes none, up to the bounds (checked against a naive search).
//! - Memory is bounded: [`EDGES_MAX`] calls, each with two keys; nothing is left of a call that has ended.
//!
//! # What the caller promises
//!
//! - A [`Waiting`] comes back to [`Waits::end`] however the call ends: reply, error, time limit, the end of the
//!   caller's turn. Only a shell can see to that, with a guard that holds the lock's owner.
//! - All calls of an object belong to the turn that runs; they have ended before the next turn begins.
//! - A request carries the chain of who made it, made longer by [`Chain::by_object`] or [`Chain::by_worker`].
//!
//! A worker that has replied and calls on still has its object's chain, although nobody waits for it any more: such a
//! call may be refused without need. On several nodes each has a graph of its own. A circle along one request is
//! found, since its chain comes with it ([`Chain::from_peer`]); one of requests that began on two nodes at once is
//! not, and the time limit of a turn ends it.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// Calls in one another: an object or a worker that is called by another one is one deeper. Sixteen is four times
/// what a design with layers wants; each level keeps a turn and its memory waiting.
pub const DEPTH_MAX: usize = 16;

/// Calls between objects under way on one node. Each keeps a turn waiting, and a node has at most about 30,000 live
/// instances; so this is two for each of them, and 10 MiB with keys of 48 bytes.
pub const EDGES_MAX: usize = 1 << 16;

/// Objects that one search looks at, about 50 µs under the lock. A longer path is of as many turns that wait for each
/// other in a row, and the last of them would see its time limit before an answer.
pub const SEARCH_MAX: usize = 1 << 10;

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It would wait for itself.
    #[error("the call would wait for an object that waits for the caller; let one of them answer first")]
    Cycle,
    /// It is too deep.
    #[error("calls are more than {DEPTH_MAX} deep; let an object or worker on the way answer first")]
    TooDeep,
    /// So many wait in a row that the search was given up.
    #[error("more than {SEARCH_MAX} objects wait for each other in a row; try again later")]
    TooLong,
    /// The node has as many as it may have.
    #[error("more than {EDGES_MAX} calls between objects are under way; try again later")]
    Full,
}

impl Refused {
    /// The status of the reply to the caller.
    pub fn status(self) -> u16 {
        match self {
            Self::Cycle | Self::TooDeep => 508,
            Self::TooLong | Self::Full => 503,
        }
    }
}

/// The objects that wait for a request, the first one first. It travels with the request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Chain<K> {
    objects: Vec<K>,
    /// How many of them wait on other nodes, whose graphs are not ours.
    foreign: usize,
    depth: usize,
}

/// A call that is under way. It goes back to [`Waits::end`].
#[must_use = "a call that is never ended makes its caller wait for its callee for ever"]
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Waiting<K> {
    edge: Option<(K, K)>,
}

/// The calls between the objects of a node.
#[derive(Debug, Clone)]
pub struct Waits<K> {
    /// For each object that waits, for whom and in how many calls.
    calls: HashMap<K, Vec<(K, usize)>>,
    edges: usize,
}

impl<K: Clone + Eq> Chain<K> {
    /// That of a request from outside: nobody's.
    pub fn outside() -> Self {
        Self { objects: Vec::new(), foreign: 0, depth: 0 }
    }

    /// That of a request from another node, with the depth that it had there.
    pub fn from_peer(objects: Vec<K>, depth: usize) -> Result<Self, Refused> {
        let depth = depth.max(objects.len());
        if depth > DEPTH_MAX {
            Err(Refused::TooDeep)
        } else {
            Ok(Self { foreign: objects.len(), objects, depth })
        }
    }

    /// That of what an object calls while it handles a request with this chain.
    pub fn by_object(&self, object: K) -> Result<Self, Refused> {
        let mut longer = self.by_worker()?;
        longer.objects.push(object);
        Ok(longer)
    }

    /// That of what a worker calls while it handles a request with this chain.
    pub fn by_worker(&self) -> Result<Self, Refused> {
        if self.depth == DEPTH_MAX {
            return Err(Refused::TooDeep);
        }
        Ok(Self { depth: self.depth + 1, ..self.clone() })
    }

    /// The objects, for a request that goes to another node.
    pub fn objects(&self) -> &[K] {
        &self.objects
    }

    /// How deep it is.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Those whose circle the next call could close: the last object, and all that wait where our graph does not
    /// reach.
    fn ends(&self) -> impl Iterator<Item = &K> {
        let last = if self.foreign < self.objects.len() { self.objects.last() } else { None };
        self.objects[..self.foreign].iter().chain(last)
    }
}

impl<K: Clone + Eq + Hash> Waits<K> {
    /// Without any call.
    pub fn new() -> Self {
        Self { calls: HashMap::new(), edges: 0 }
    }

    /// A call from whom the chain ends with, to an object. To be called under the lock, before the message leaves.
    pub fn begin(&mut self, chain: &Chain<K>, callee: &K) -> Result<Waiting<K>, Refused> {
        let Some(caller) = chain.objects.last() else { return Ok(Waiting { edge: None }) };
        self.search(chain, callee)?;
        if self.edges == EDGES_MAX {
            return Err(Refused::Full);
        }
        Ok(self.add(caller, callee))
    }

    /// The call has ended, however.
    pub fn end(&mut self, waiting: Waiting<K>) {
        let Some((caller, callee)) = waiting.edge else { return };
        let Some(calls) = self.calls.get_mut(&caller) else { return };
        let Some(at) = calls.iter().position(|(to, _)| *to == callee) else { return };
        self.edges -= 1;
        calls[at].1 -= 1;
        if calls[at].1 == 0 {
            calls.swap_remove(at);
        }
        if calls.is_empty() {
            self.calls.remove(&caller);
        }
    }

    /// How many calls are under way.
    pub fn len(&self) -> usize {
        self.edges
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.edges == 0
    }

    fn add(&mut self, caller: &K, callee: &K) -> Waiting<K> {
        self.edges += 1;
        let calls = self.calls.entry(caller.clone()).or_default();
        match calls.iter_mut().find(|(to, _)| to == callee) {
            Some((_, count)) => *count += 1,
            None => calls.push((callee.clone(), 1)),
        }
        Waiting { edge: Some((caller.clone(), callee.clone())) }
    }

    /// Follows the calls of the callee; who waits for the caller must not be among them.
    fn search(&self, chain: &Chain<K>, callee: &K) -> Result<(), Refused> {
        let mut seen = HashSet::from([callee]);
        let mut open = vec![callee];
        while let Some(object) = open.pop() {
            if chain.ends().any(|end| end == object) {
                return Err(Refused::Cycle);
            }
            for (next, _) in self.calls.get(object).into_iter().flatten() {
                if seen.insert(next) {
                    open.push(next);
                }
            }
            if seen.len() > SEARCH_MAX {
                return Err(Refused::TooLong);
            }
        }
        Ok(())
    }
}

impl<K: Clone + Eq + Hash> Default for Waits<K> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(object: u8) -> Chain<u8> {
        Chain::outside().by_object(object).unwrap()
    }

    #[test]
    fn an_object_that_calls_itself_is_refused() {
        let mut waits = Waits::new();
        assert_eq!(waits.begin(&by(1), &1), Err(Refused::Cycle));
        assert!(waits.is_empty());
    }

    #[test]
    fn the_call_that_would_close_a_circle_is_refused_and_after_the_end_of_another_it_is_not() {
        let mut waits = Waits::new();
        let first = waits.begin(&by(1), &2).unwrap();
        let second = waits.begin(&by(2), &3).unwrap();
        assert_eq!(waits.begin(&by(3), &1), Err(Refused::Cycle));
        waits.end(second);
        let third = waits.begin(&by(3), &1).unwrap();
        assert_eq!(waits.begin(&by(2), &3), Err(Refused::Cycle));
        waits.end(first);
        waits.end(third);
        assert!(waits.is_empty() && waits.calls.is_empty());
    }

    #[test]
    fn two_calls_to_one_object_are_two_and_must_both_end() {
        let mut waits = Waits::new();
        let [one, two] = [(); 2].map(|()| waits.begin(&by(1), &2).unwrap());
        waits.end(one);
        assert_eq!(waits.begin(&by(2), &1), Err(Refused::Cycle));
        waits.end(two);
        let back = waits.begin(&by(2), &1).unwrap();
        assert_eq!(waits.len(), 1);
        waits.end(back);
    }

    #[test]
    fn what_a_worker_calls_is_waited_for_by_the_object_behind_it() {
        let mut waits = Waits::new();
        let from_one = by(1);
        let _called = waits.begin(&from_one, &2).unwrap();
        let from_two = from_one.by_object(2).unwrap();
        let from_worker = from_two.by_worker().unwrap();
        assert_eq!(waits.begin(&from_worker, &1), Err(Refused::Cycle));
        let outside = Chain::outside().by_worker().unwrap();
        let free = waits.begin(&outside, &1).unwrap();
        assert_eq!(free, Waiting { edge: None });
    }

    #[test]
    fn an_object_that_waits_on_another_node_is_known_from_the_chain() {
        let mut waits = Waits::new();
        let chain = Chain::from_peer(vec![1, 2], 2).unwrap();
        assert_eq!(waits.begin(&chain, &1), Err(Refused::Cycle));
        let _other = waits.begin(&by(3), &1).unwrap();
        assert_eq!(waits.begin(&chain.by_object(4).unwrap(), &3), Err(Refused::Cycle));
        assert_eq!(Chain::from_peer(vec![0; DEPTH_MAX + 1], 0), Err(Refused::TooDeep));
    }

    #[test]
    fn calls_go_only_so_deep() {
        let mut chain = Chain::outside();
        for depth in 0..DEPTH_MAX {
            assert_eq!(chain.depth(), depth);
            chain = if depth % 2 == 0 { chain.by_worker() } else { chain.by_object(depth) }.unwrap();
        }
        assert_eq!(chain.by_worker(), Err(Refused::TooDeep));
        assert_eq!(chain.by_object(0), Err(Refused::TooDeep));
        assert_eq!(chain.objects().len(), DEPTH_MAX / 2);
    }

    #[test]
    fn the_graph_takes_only_so_many_calls_and_searches_only_so_far() {
        let mut waits = Waits::new();
        let by = |object: usize| Chain::outside().by_object(object).unwrap();
        let row: Vec<_> = (0..SEARCH_MAX).map(|at| waits.begin(&by(at + 1), &at).unwrap()).collect();
        assert_eq!(waits.begin(&by(SEARCH_MAX + 1), &SEARCH_MAX), Err(Refused::TooLong));
        row.into_iter().for_each(|waiting| waits.end(waiting));
        let full: Vec<_> = (0..EDGES_MAX).map(|at| waits.begin(&by(at + 1), &0).unwrap()).collect();
        assert_eq!(waits.begin(&by(EDGES_MAX + 1), &0), Err(Refused::Full));
        assert_eq!(Refused::Full.status(), 503);
        full.into_iter().for_each(|waiting| waits.end(waiting));
        assert!(waits.is_empty() && waits.calls.is_empty());
    }

    /// Whether `to` can be reached from `from`, by trying every edge again and again.
    fn reaches(edges: &[(u8, u8)], from: u8, to: u8) -> bool {
        let mut reached = vec![from];
        while let Some(&(_, next)) = edges.iter().find(|(a, b)| reached.contains(a) && !reached.contains(b)) {
            reached.push(next);
        }
        reached.contains(&to)
    }

    #[test]
    fn it_refuses_exactly_what_a_naive_search_refuses() {
        let mut dice = 0x2545_F491_4F6C_DD1D_u64;
        let mut roll = |sides: u64| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            dice % sides
        };
        let (mut refused, mut taken) = (0, 0);
        for _ in 0..300 {
            let objects = 2 + roll(7);
            let mut waits = Waits::new();
            let mut under_way: Vec<Waiting<u8>> = Vec::new();
            for _ in 0..60 {
                if roll(3) == 0 && !under_way.is_empty() {
                    let at = roll(under_way.len() as u64) as usize;
                    waits.end(under_way.swap_remove(at));
                }
                let (caller, callee) = (roll(objects) as u8, roll(objects) as u8);
                let edges: Vec<_> = under_way.iter().filter_map(|waiting| waiting.edge).collect();
                let circle = reaches(&edges, callee, caller);
                match waits.begin(&by(caller), &callee) {
                    Ok(waiting) => {
                        assert!(!circle);
                        taken += 1;
                        under_way.push(waiting);
                    }
                    Err(why) => {
                        assert!(circle && why == Refused::Cycle);
                        refused += 1;
                    }
                }
                assert_eq!(waits.len(), under_way.len());
            }
            under_way.drain(..).for_each(|waiting| waits.end(waiting));
            assert!(waits.is_empty() && waits.calls.is_empty());
        }
        assert!(refused > 1000 && taken > 1000, "both happen often: {refused} and {taken}");
    }
}

/// Turns that call each other, at every interleaving: none may wait for ever.
#[cfg(test)]
mod model {
    use std::collections::VecDeque;
    use std::hash::Hasher;
    use std::rc::Rc;

    use super::*;
    use crate::ownership::explorer::{Explored, Space, explore};

    /// A mistake in the caller.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Fault {
        NothingIsChecked,
        CheckedBeforeTheLock,
        WorkerForgetsItsChain,
    }

    /// A request goes along objects: the turn at each calls the next, itself or through a worker.
    #[derive(Debug, Clone, Copy)]
    struct Hop {
        object: u8,
        by_worker: bool,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    enum Phase {
        Runs,
        /// Checked, and not yet begun: only with a fault.
        Checked,
        Waits,
        Ends,
    }

    /// A turn: the request's number, how far along, and what it does.
    type Turn = (usize, usize, Phase);

    /// A call under way: the request's number, how far along, and the edge.
    type Call = (usize, usize, Option<(u8, u8)>);

    #[derive(Clone)]
    struct World {
        paths: Rc<[Vec<Hop>]>,
        fault: Option<Fault>,
        waits: Waits<u8>,
        under_way: Vec<Call>,
        queues: Vec<VecDeque<(usize, usize)>>,
        turns: Vec<Option<Turn>>,
        sent: Vec<bool>,
        answered: Vec<bool>,
        refused: Vec<bool>,
    }

    impl Hash for World {
        fn hash<H: Hasher>(&self, hasher: &mut H) {
            let mut under_way = self.under_way.clone();
            under_way.sort_unstable();
            (under_way, &self.queues, &self.turns, &self.sent, &self.answered, &self.refused).hash(hasher);
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Send(usize),
        Begin(usize),
        GoOn(usize),
    }

    impl World {
        fn new(paths: &[&str], fault: Option<Fault>) -> Self {
            // "a b w c": the turn at b calls c through a worker.
            let parse = |path: &&str| {
                let mut hops = Vec::new();
                let mut by_worker = false;
                for word in path.split(' ') {
                    if word == "w" {
                        by_worker = true;
                    } else {
                        hops.push(Hop { object: word.as_bytes()[0] - b'a', by_worker });
                        by_worker = false;
                    }
                }
                hops
            };
            let count = paths.len();
            Self {
                paths: paths.iter().map(parse).collect(),
                fault,
                waits: Waits::new(),
                under_way: Vec::new(),
                queues: vec![VecDeque::new(); 4],
                turns: vec![None; 4],
                sent: vec![false; count],
                answered: vec![false; count],
                refused: vec![false; count],
            }
        }

        fn chain(&self, request: usize, at: usize) -> Chain<u8> {
            let path = &self.paths[request];
            let by_worker = path[at + 1].by_worker;
            if by_worker && self.fault == Some(Fault::WorkerForgetsItsChain) {
                return Chain::outside();
            }
            let chain =
                path[..=at].iter().fold(Chain::outside(), |chain, hop| chain.by_object(hop.object).unwrap());
            if by_worker { chain.by_worker().unwrap() } else { chain }
        }

        fn call(&mut self, request: usize, at: usize, phase: Phase) -> Phase {
            let chain = self.chain(request, at);
            let callee = self.paths[request][at + 1].object;
            let begun = match (self.fault, phase) {
                (Some(Fault::CheckedBeforeTheLock), Phase::Runs) => {
                    match self.waits.search(&chain, &callee) {
                        Ok(()) => return Phase::Checked,
                        Err(why) => Err(why),
                    }
                }
                (Some(Fault::NothingIsChecked), _) => Ok(Waiting { edge: None }),
                (_, Phase::Checked) => Ok(self.waits.add(&self.paths[request][at].object, &callee)),
                _ => self.waits.begin(&chain, &callee),
            };
            match begun {
                Ok(waiting) => {
                    self.under_way.push((request, at, waiting.edge));
                    self.queues[usize::from(callee)].push_back((request, at + 1));
                    Phase::Waits
                }
                Err(_) => {
                    self.refused[request] = true;
                    Phase::Ends
                }
            }
        }

        /// The turn has ended: who called goes on.
        fn reply(&mut self, request: usize, at: usize) {
            let Some(caller) = at.checked_sub(1) else {
                self.answered[request] = true;
                return;
            };
            let ended = self.under_way.iter().position(|&(r, p, _)| (r, p) == (request, caller)).unwrap();
            let (.., edge) = self.under_way.swap_remove(ended);
            self.waits.end(Waiting { edge });
            let object = usize::from(self.paths[request][caller].object);
            self.turns[object] = Some((request, caller, Phase::Ends));
        }
    }

    impl Space for World {
        type Step = Step;

        fn steps(&self) -> Vec<Step> {
            let unsent = (0..self.sent.len()).filter(|&request| !self.sent[request]);
            let mut steps: Vec<Step> = unsent.map(Step::Send).collect();
            for object in 0..self.turns.len() {
                match self.turns[object] {
                    None if !self.queues[object].is_empty() => steps.push(Step::Begin(object)),
                    None | Some((.., Phase::Waits)) => {}
                    Some(_) => steps.push(Step::GoOn(object)),
                }
            }
            steps
        }

        fn take(&mut self, step: Step) -> Result<(), String> {
            match step {
                Step::Send(request) => {
                    self.sent[request] = true;
                    let object = self.paths[request][0].object;
                    self.queues[usize::from(object)].push_back((request, 0));
                }
                Step::Begin(object) => {
                    let next = self.queues[object].pop_front();
                    self.turns[object] = next.map(|(request, at)| (request, at, Phase::Runs));
                }
                Step::GoOn(object) => {
                    let Some((request, at, phase)) = self.turns[object] else { return Ok(()) };
                    if phase == Phase::Ends || at + 1 == self.paths[request].len() {
                        self.turns[object] = None;
                        self.reply(request, at);
                    } else {
                        let phase = self.call(request, at, phase);
                        self.turns[object] = Some((request, at, phase));
                    }
                }
            }
            // Of calls that close a circle together, only the last is refused.
            let mut callers = self.paths.iter().zip(&self.refused).filter(|(path, _)| path.len() > 1);
            if self.paths.len() > 1 && callers.clone().count() > 1 && callers.all(|(_, &refused)| refused) {
                return Err("every call of the circle was refused".to_owned());
            }
            Ok(())
        }

        fn is_final(&self) -> bool {
            self.answered.iter().all(|&answered| answered) && self.waits.is_empty()
        }
    }

    /// Calls both ways between two objects; a circle of three; circles that share an object; a circle through a
    /// worker, by one request and by two; and a request with nothing to do with them.
    const CASES: [&[&str]; 7] = [
        &["a b", "b a"],
        &["a b", "b c", "c a", "b"],
        &["a b", "b a", "a c", "c a"],
        &["a b w a", "b"],
        &["a w b", "b w a", "a"],
        &["a b c", "c b a", "b"],
        &["a b", "b c", "c d", "d a"],
    ];

    #[test]
    fn whatever_the_order_of_calls_every_turn_ends() {
        let explored: Vec<Explored> = CASES
            .iter()
            .map(|paths| {
                explore(World::new(paths, None)).unwrap_or_else(|found| panic!("{paths:?}: {found:#?}"))
            })
            .collect();
        let states: usize = explored.iter().map(|explored| explored.states).sum();
        println!("{} cases, {states} states", explored.len());
    }

    #[test]
    fn every_planted_fault_lets_turns_wait_for_ever() {
        for (fault, case) in [
            (Fault::NothingIsChecked, 0),
            (Fault::CheckedBeforeTheLock, 0),
            (Fault::CheckedBeforeTheLock, 1),
            (Fault::WorkerForgetsItsChain, 3),
            (Fault::WorkerForgetsItsChain, 4),
        ] {
            let found = explore(World::new(CASES[case], Some(fault))).expect_err("the fault must be found");
            assert!(found.why.contains("nothing can happen"), "{fault:?}: {found:#?}");
            println!("{fault:?}: {} steps", found.way.len());
        }
    }
}
