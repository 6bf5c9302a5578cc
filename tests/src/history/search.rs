//! The search for an order that explains a history.
//!
//! Operations that have happened are *placed*: those with an answer, which must be, and those of unknown outcome,
//! which may be. A list of calls and answers by time holds what is not placed yet; the calls before its first answer
//! are those that can be the next, since nobody may overtake an operation that had its answer before he was invoked.
//! Open operations that are alike are placed in the order of their invocation: the earlier one may stand wherever the
//! later one may. And an open operation is placed only where what comes right after it would not be the same without
//! it: it could as well come later, or never. So most of them are never tried.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::{Fault, Model, Operation, Outcome, Unknown};

/// Placements that one search tries, some seconds of work. Histories of the size that the checker is for take a few
/// for each operation.
pub const STEPS_MAX: usize = 4_000_000;

/// What the search for an accepted history took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linearized {
    /// Operations that must have happened.
    pub operations: usize,
    /// Operations that were tried as the next.
    pub steps: usize,
}

/// An operation that must be placed.
struct Task<'a, M: Model> {
    /// Its place in the history.
    number: usize,
    input: &'a M::Input,
    output: Cow<'a, M::Output>,
    from: u64,
    until: u64,
}

/// Operations of unknown outcome that are alike.
struct Alike<I> {
    input: I,
    /// When they were invoked, the earliest first.
    from: Vec<u64>,
}

/// What can be placed next.
#[derive(Clone, Copy)]
enum Pick {
    Task(usize),
    Alike(usize),
}

/// Where the search is: what was placed last, the state, and what can be next.
struct Frame<S> {
    by: Option<Pick>,
    state: S,
    /// If an open operation was placed last, the state before it and its kind.
    open: Option<(S, usize)>,
    picks: Vec<Pick>,
    tried: usize,
}

struct Search<'a, M: Model> {
    guide: M::Guide,
    tasks: Vec<Task<'a, M>>,
    alike: Vec<Alike<M::Input>>,
    /// For each kind of alike operations, how many are placed.
    used: Vec<usize>,
    calls: Calls,
    placed: Vec<u64>,
    /// All tasks before this one are placed.
    base: usize,
    left: usize,
}

/// Whether the operations on one object can have happened one after the other.
pub fn linearizable<M: Model>(operations: &[Operation<M>]) -> Result<Linearized, Fault> {
    let mut search = Search::new(operations);
    let operations_count = search.tasks.len();
    let mut seen = HashSet::new();
    let mut stack = vec![search.frame(None, M::State::default(), None)];
    let mut steps = 0;
    // The fewest operations that were ever left, the state then, and who blocked.
    let mut deepest = (usize::MAX, String::new(), 0);
    while let Some(frame) = stack.last_mut() {
        if search.left == 0 {
            return Ok(Linearized { operations: operations_count, steps });
        }
        if search.left < deepest.0 {
            deepest = (search.left, format!("{:?}", frame.state), search.calls.first_answer());
        }
        let Some(&pick) = frame.picks.get(frame.tried) else {
            let by = frame.by;
            stack.pop();
            if let Some(pick) = by {
                search.take_back(pick);
            }
            continue;
        };
        frame.tried += 1;
        steps += 1;
        if steps > STEPS_MAX {
            return Err(Fault::GaveUp);
        }
        let Some(state) = search.step(&frame.state, pick) else { continue };
        if search.is_needless(frame, pick, &state) {
            continue;
        }
        let open = if let Pick::Alike(kind) = pick { Some((frame.state.clone(), kind)) } else { None };
        search.place(pick);
        if seen.insert((search.key(state.clone()), open.clone())) {
            stack.push(search.frame(Some(pick), state, open));
        } else {
            search.take_back(pick);
        }
    }
    let (left, state, stuck) = deepest;
    let stuck = search.tasks[stuck].number;
    let operation = format!("{:?}", operations[stuck]);
    Err(Fault::NotLinearizable { happened: operations_count - left, state, stuck, operation })
}

impl<'a, M: Model> Search<'a, M> {
    fn new(operations: &'a [Operation<M>]) -> Self {
        let guide = M::guide(operations);
        let mut tasks = Vec::new();
        let mut kinds: HashMap<M::Input, Vec<u64>> = HashMap::new();
        for (number, operation) in operations.iter().enumerate() {
            let input = &operation.input;
            let from = operation.invoked_at;
            match &operation.outcome {
                Outcome::Ok { output, at } => {
                    tasks.push(Task { number, input, output: Cow::Borrowed(output), from, until: *at });
                }
                Outcome::Failed => {}
                Outcome::Unknown => match M::unknown(&guide, input) {
                    Unknown::Idle => {}
                    Unknown::Seen { output, by } => {
                        tasks.push(Task { number, input, output: Cow::Owned(output), from, until: by });
                    }
                    Unknown::Open(alike) => kinds.entry(alike).or_default().push(from),
                },
            }
        }
        tasks.sort_by_key(|task| task.from);
        let sorted = |(input, mut from): (M::Input, Vec<u64>)| {
            from.sort_unstable();
            Alike { input, from }
        };
        let alike: Vec<_> = kinds.into_iter().map(sorted).collect();
        Self {
            guide,
            used: vec![0; alike.len()],
            alike,
            calls: Calls::new(tasks.iter().map(|task| (task.from, task.until))),
            placed: vec![0; tasks.len().div_ceil(64)],
            base: 0,
            left: tasks.len(),
            tasks,
        }
    }

    /// What can be next: those that must be placed first, so that open ones happen only where something needs them.
    fn frame(&self, by: Option<Pick>, state: M::State, open: Option<(M::State, usize)>) -> Frame<M::State> {
        let mut picks = Vec::new();
        let mut until = u64::MAX;
        for (task, is_answer) in self.calls.iter() {
            if is_answer {
                until = self.tasks[task].until;
                break;
            }
            picks.push(Pick::Task(task));
        }
        for (kind, alike) in self.alike.iter().enumerate() {
            if alike.from.get(self.used[kind]).is_some_and(|&from| from <= until) {
                picks.push(Pick::Alike(kind));
            }
        }
        Frame { by, state, open, picks, tried: 0 }
    }

    fn step(&self, state: &M::State, pick: Pick) -> Option<M::State> {
        match pick {
            Pick::Task(task) => {
                let task = &self.tasks[task];
                M::step(&self.guide, state, task.input, Some(&task.output))
            }
            // One that changes nothing need not have happened.
            Pick::Alike(kind) => {
                M::step(&self.guide, state, &self.alike[kind].input, None).filter(|after| after != state)
            }
        }
    }

    /// Whether the open operation before this pick could as well come after it, or never. Of two open ones in a row
    /// that is not asked: each could wait for the other.
    fn is_needless(&self, frame: &Frame<M::State>, pick: Pick, after: &M::State) -> bool {
        let (Some((before, kind)), Pick::Task(_)) = (&frame.open, pick) else { return false };
        self.step(before, pick).is_some_and(|without| {
            without == *after || self.step(&without, Pick::Alike(*kind)).as_ref() == Some(after)
        })
    }

    fn place(&mut self, pick: Pick) {
        match pick {
            Pick::Alike(kind) => self.used[kind] += 1,
            Pick::Task(task) => {
                self.placed[task / 64] |= 1 << (task % 64);
                self.calls.lift(task);
                self.left -= 1;
                while self.base < self.tasks.len() && self.is_placed(self.base) {
                    self.base += 1;
                }
            }
        }
    }

    fn take_back(&mut self, pick: Pick) {
        match pick {
            Pick::Alike(kind) => self.used[kind] -= 1,
            Pick::Task(task) => {
                self.placed[task / 64] &= !(1 << (task % 64));
                self.calls.put_back(task);
                self.left += 1;
                self.base = self.base.min(task);
            }
        }
    }

    fn is_placed(&self, task: usize) -> bool {
        self.placed[task / 64] & (1 << (task % 64)) != 0
    }

    /// Which operations have happened, and the state: all on which the rest depends. Before `base` all are placed;
    /// the words from there on end with the last that has any, so that a key is short.
    fn key(&self, state: M::State) -> (usize, Vec<u64>, Vec<usize>, M::State) {
        let mut words = Vec::new();
        let mut happened = self.tasks.len() - self.left - self.base;
        for &word in &self.placed[(self.base / 64).min(self.placed.len())..] {
            let word = if words.is_empty() { word & (u64::MAX << (self.base % 64)) } else { word };
            if happened == 0 {
                break;
            }
            happened -= word.count_ones() as usize;
            words.push(word);
        }
        (self.base, words, self.used.clone(), state)
    }
}

/// Calls and answers of the tasks that are not placed, by time: a list in which an entry can be lifted out and put
/// back where it was, the last lifted first. Task `t` has its call at `2t` and its answer at `2t + 1`.
struct Calls {
    next: Vec<usize>,
    before: Vec<usize>,
    head: usize,
}

impl Calls {
    fn new(tasks: impl ExactSizeIterator<Item = (u64, u64)>) -> Self {
        let head = tasks.len() * 2;
        // At equal times the call comes first: the two may have overlapped.
        let mut order: Vec<(u64, bool, usize)> = tasks
            .enumerate()
            .flat_map(|(task, (from, until))| [(from, false, 2 * task), (until, true, 2 * task + 1)])
            .collect();
        order.sort_unstable();
        let mut calls = Self { next: vec![head; head + 1], before: vec![head; head + 1], head };
        let mut last = head;
        for (.., entry) in order {
            calls.next[last] = entry;
            calls.before[entry] = last;
            last = entry;
        }
        calls.before[head] = last;
        calls
    }

    /// The tasks by time, and whether it is the answer.
    fn iter(&self) -> impl Iterator<Item = (usize, bool)> {
        let entries = std::iter::successors(Some(self.next[self.head]), |&entry| Some(self.next[entry]));
        entries.take_while(|&entry| entry != self.head).map(|entry| (entry / 2, entry % 2 == 1))
    }

    /// The task whose answer is the first. There is one as long as any task is left.
    fn first_answer(&self) -> usize {
        self.iter().find(|&(_, is_answer)| is_answer).map_or(0, |(task, _)| task)
    }

    fn lift(&mut self, task: usize) {
        for entry in [2 * task, 2 * task + 1] {
            let (before, next) = (self.before[entry], self.next[entry]);
            self.next[before] = next;
            self.before[next] = before;
        }
    }

    fn put_back(&mut self, task: usize) {
        for entry in [2 * task + 1, 2 * task] {
            let (before, next) = (self.before[entry], self.next[entry]);
            self.next[before] = entry;
            self.before[next] = entry;
        }
    }
}
