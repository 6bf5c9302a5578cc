//! A small breadth-first explorer for models: every state that any order of steps can reach, each once.
//!
//! It stops at the first step that a model calls wrong and tells a shortest way there. When all states are seen it
//! looks for those that are stuck: without a step and not final, or with steps of which none ever leads to a final
//! state. States are told apart by 128 bits of hash; among 10⁶ of them a mix-up has a chance of 10⁻²⁷.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::hash::{Hash, Hasher};

/// A model: a state, and the steps that are possible in it.
pub(crate) trait Space: Clone + Hash {
    /// One step, as it is told in a counterexample.
    type Step: Copy + Debug;
    /// What can happen next.
    fn steps(&self) -> Vec<Self::Step>;
    /// Lets it happen; the error says which invariant it breaks.
    fn take(&mut self, step: Self::Step) -> Result<(), String>;
    /// Whether all that was wanted is done.
    fn is_final(&self) -> bool;
}

/// What was seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Explored {
    pub(crate) states: usize,
    pub(crate) steps: usize,
}

/// What is wrong, and a shortest way there.
#[derive(Debug)]
pub(crate) struct Counterexample {
    pub(crate) why: String,
    pub(crate) way: Vec<String>,
}

struct Search<S: Space> {
    seen: HashMap<u128, u32>,
    came_by: Vec<Option<(u32, S::Step)>>,
    finals: Vec<u32>,
    steps: Vec<(u32, u32)>,
    next: VecDeque<(u32, S)>,
}

/// Looks at everything that can follow from `start`.
pub(crate) fn explore<S: Space>(start: S) -> Result<Explored, Counterexample> {
    let mut search = Search {
        seen: HashMap::new(),
        came_by: Vec::new(),
        finals: Vec::new(),
        steps: Vec::new(),
        next: VecDeque::new(),
    };
    search.add(start, None);
    while let Some((at, state)) = search.next.pop_front() {
        let steps = state.steps();
        if state.is_final() {
            search.finals.push(at);
        } else if steps.is_empty() {
            return Err(search.counterexample(
                "nothing can happen, and not all is done".to_owned(),
                at,
                None,
            ));
        }
        for step in steps {
            let mut after = state.clone();
            if let Err(why) = after.take(step) {
                return Err(search.counterexample(why, at, Some(step)));
            }
            let to = search.add(after, Some((at, step)));
            search.steps.push((at, to));
        }
    }
    match search.hopeless() {
        Some(at) => Err(search.counterexample("from here no way leads to an end".to_owned(), at, None)),
        None => Ok(Explored { states: search.came_by.len(), steps: search.steps.len() }),
    }
}

impl<S: Space> Search<S> {
    fn add(&mut self, state: S, by: Option<(u32, S::Step)>) -> u32 {
        let mut print = Print::default();
        state.hash(&mut print);
        let new = self.came_by.len() as u32;
        let number = *self.seen.entry(print.whole()).or_insert(new);
        if number == new {
            self.came_by.push(by);
            self.next.push_back((new, state));
        }
        number
    }

    /// A state from which no final one can be reached.
    fn hopeless(&self) -> Option<u32> {
        let mut before: Vec<Vec<u32>> = vec![Vec::new(); self.came_by.len()];
        for &(from, to) in &self.steps {
            before[to as usize].push(from);
        }
        let mut hopeful = vec![false; self.came_by.len()];
        let mut open = self.finals.clone();
        while let Some(at) = open.pop() {
            if !std::mem::replace(&mut hopeful[at as usize], true) {
                open.append(&mut before[at as usize]);
            }
        }
        hopeful.iter().position(|hopeful| !hopeful).map(|at| at as u32)
    }

    fn counterexample(&self, why: String, mut at: u32, last: Option<S::Step>) -> Counterexample {
        let mut way: Vec<String> = last.iter().map(|step| format!("{step:?}")).collect();
        while let Some((from, step)) = self.came_by[at as usize] {
            way.push(format!("{step:?}"));
            at = from;
        }
        way.reverse();
        Counterexample { why, way }
    }
}

/// Two independent 64-bit hashes: the standard hasher is too slow for unoptimised tests.
struct Print(u64, u64);

impl Default for Print {
    fn default() -> Self {
        Self(0x9E37_79B9_7F4A_7C15, 0xC2B2_AE3D_27D4_EB4F)
    }
}

impl Print {
    fn whole(&self) -> u128 {
        u128::from(self.0) << 64 | u128::from(self.1)
    }

    fn fold(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0xFF51_AFD7_ED55_8CCD).rotate_left(29);
        self.1 = (self.1.rotate_left(23) ^ word).wrapping_mul(0x9FB2_1C65_1E98_DF25) ^ (self.1 >> 31);
    }
}

impl Hasher for Print {
    fn finish(&self) -> u64 {
        self.0 ^ self.1
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.fold(u64::from(byte));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.fold(u64::from(word));
    }

    fn write_u16(&mut self, word: u16) {
        self.fold(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.fold(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.fold(word as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.fold(word as u64);
    }
}
