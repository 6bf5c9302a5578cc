//! What correct objects do: a register, a counter, a list that grows.
//!
//! Each model also says what can be known of operations of unknown outcome, which is what keeps the search short (see
//! [`Unknown`]). For the register that asks for writes of distinct values; where they are not distinct the answer is
//! the same, and takes longer.

use std::collections::{HashMap, HashSet};

use super::{Model, Operation, Outcome, Unknown};

/// A value that can be read, written, and written if it is what one thinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register;

/// What can be asked of a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RegisterInput {
    /// What is it?
    Read,
    /// It shall be this.
    Write(u64),
    /// If it is one thing, it shall be another.
    Cas {
        /// What it must be; `None` is never written.
        expected: Option<u64>,
        /// What it shall be.
        new: u64,
    },
}

/// What a register answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegisterOutput {
    /// It is this; `None` is never written.
    Value(Option<u64>),
    /// It was written.
    Written,
    /// Whether it was what the client thought, and was written.
    Swapped(bool),
}

/// What is known of a register's history.
#[derive(Debug)]
pub struct RegisterGuide {
    /// The values by which somebody could tell states apart. All others are alike.
    told_apart: HashSet<u64>,
    /// When a value was first known to be there.
    seen: HashMap<u64, u64>,
    /// How many operations may have written a value.
    writers: HashMap<u64, usize>,
    /// Whether an answer was that the value is another: then a write that nobody read may explain it.
    refused_swaps: bool,
}

/// A register's value, for all that the history can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RegisterState {
    /// Never written.
    #[default]
    Empty,
    /// This.
    Is(u64),
    /// One that nobody read or expected.
    Other,
}

impl RegisterGuide {
    fn state(&self, value: Option<u64>) -> RegisterState {
        match value {
            None => RegisterState::Empty,
            Some(value) if self.told_apart.contains(&value) => RegisterState::Is(value),
            Some(_) => RegisterState::Other,
        }
    }

    /// Somebody had an answer by which the value was there. Whether there is news in it.
    fn see(&mut self, value: u64, at: u64) -> bool {
        let news = self.seen.get(&value).is_none_or(|&first| at < first);
        if news {
            self.seen.insert(value, at);
        }
        news
    }

    /// What a swap without an answer expected was there too, if what it wrote was seen and can be of nobody else.
    fn follow_swaps(&mut self, operations: &[Operation<Register>]) {
        let unknown = operations.iter().filter(|operation| operation.outcome == Outcome::Unknown);
        let swaps: Vec<(u64, u64)> = unknown
            .filter_map(|operation| match operation.input {
                RegisterInput::Cas { expected: Some(expected), new } => Some((expected, new)),
                _ => None,
            })
            .filter(|(_, new)| self.writers.get(new) == Some(&1))
            .collect();
        let mut news = true;
        while news {
            news = false;
            for (expected, new) in &swaps {
                if let Some(&at) = self.seen.get(new) {
                    news |= self.see(*expected, at);
                }
            }
        }
    }
}

/// What an input would write.
fn written(input: &RegisterInput) -> Option<u64> {
    match *input {
        RegisterInput::Read => None,
        RegisterInput::Write(new) | RegisterInput::Cas { new, .. } => Some(new),
    }
}

impl Model for Register {
    type Input = RegisterInput;
    type Output = RegisterOutput;
    type State = RegisterState;
    type Guide = RegisterGuide;

    fn guide(operations: &[Operation<Self>]) -> RegisterGuide {
        let mut guide = RegisterGuide {
            told_apart: HashSet::new(),
            seen: HashMap::new(),
            writers: HashMap::new(),
            refused_swaps: false,
        };
        for operation in operations.iter().filter(|operation| operation.outcome != Outcome::Failed) {
            if let Some(value) = written(&operation.input) {
                *guide.writers.entry(value).or_default() += 1;
            }
            if let RegisterInput::Cas { expected: Some(expected), .. } = operation.input {
                guide.told_apart.insert(expected);
            }
            let Outcome::Ok { output, at } = operation.outcome else { continue };
            let seen = match (operation.input, output) {
                (RegisterInput::Read, RegisterOutput::Value(value)) => value,
                (RegisterInput::Cas { expected, .. }, RegisterOutput::Swapped(true)) => expected,
                (RegisterInput::Cas { .. }, RegisterOutput::Swapped(false)) => {
                    guide.refused_swaps = true;
                    None
                }
                _ => None,
            };
            if let Some(value) = seen {
                guide.told_apart.insert(value);
                guide.see(value, at);
            }
        }
        guide.follow_swaps(operations);
        guide
    }

    fn unknown(guide: &RegisterGuide, input: &RegisterInput) -> Unknown<Self> {
        let Some(value) = written(input) else { return Unknown::Idle };
        match (guide.seen.get(&value), guide.writers.get(&value)) {
            (Some(&by), Some(1)) => {
                let swap = matches!(input, RegisterInput::Cas { .. });
                let output = if swap { RegisterOutput::Swapped(true) } else { RegisterOutput::Written };
                Unknown::Seen { output, by }
            }
            _ if !guide.refused_swaps && !guide.told_apart.contains(&value) => Unknown::Idle,
            _ if guide.told_apart.contains(&value) => Unknown::Open(*input),
            // Values that nobody can tell apart are one value: the smallest that is none of those.
            _ => {
                let alike = (0..).find(|value| !guide.told_apart.contains(value)).unwrap_or(value);
                Unknown::Open(match *input {
                    RegisterInput::Cas { expected, .. } => RegisterInput::Cas { expected, new: alike },
                    _ => RegisterInput::Write(alike),
                })
            }
        }
    }

    fn step(
        guide: &RegisterGuide,
        state: &RegisterState,
        input: &RegisterInput,
        output: Option<&RegisterOutput>,
    ) -> Option<RegisterState> {
        let (after, answer) = match *input {
            RegisterInput::Read => {
                let right = match output {
                    None => true,
                    Some(RegisterOutput::Value(value)) => guide.state(*value) == *state,
                    Some(_) => false,
                };
                return right.then_some(*state);
            }
            RegisterInput::Write(value) => (guide.state(Some(value)), RegisterOutput::Written),
            RegisterInput::Cas { expected, new } if guide.state(expected) == *state => {
                (guide.state(Some(new)), RegisterOutput::Swapped(true))
            }
            RegisterInput::Cas { .. } => (*state, RegisterOutput::Swapped(false)),
        };
        output.is_none_or(|output| *output == answer).then_some(after)
    }
}

/// A number that grows by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter;

/// What can be asked of a counter. It answers with its value, after an increment the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CounterInput {
    /// One more.
    Increment,
    /// How many?
    Read,
}

impl Model for Counter {
    type Input = CounterInput;
    type Output = u64;
    type State = u64;
    type Guide = ();

    fn guide(_operations: &[Operation<Self>]) {}

    fn unknown((): &(), input: &CounterInput) -> Unknown<Self> {
        match input {
            CounterInput::Increment => Unknown::Open(*input),
            CounterInput::Read => Unknown::Idle,
        }
    }

    fn step((): &(), state: &u64, input: &CounterInput, output: Option<&u64>) -> Option<u64> {
        let after = match input {
            CounterInput::Increment => state + 1,
            CounterInput::Read => *state,
        };
        output.is_none_or(|output| *output == after).then_some(after)
    }
}

/// A list to which is appended, and that is read as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendList;

/// What can be asked of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListInput {
    /// Put this at the end.
    Append(u64),
    /// What is in it?
    Read,
}

/// What a list answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListOutput {
    /// It was appended.
    Appended,
    /// This is in it.
    All(Vec<u64>),
}

/// What is known of a list's history: the longest that was read. All that were read before must be how it begins, so
/// that it tells the order of the appends.
#[derive(Debug)]
pub struct ListGuide {
    longest: Vec<u64>,
    /// When a value was first read.
    seen: HashMap<u64, u64>,
    /// How many operations may have appended a value.
    writers: HashMap<u64, usize>,
}

/// A list, for all that the history can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ListState {
    /// How much it has of the longest that was read.
    length: usize,
    /// Whether it has more than that: in which order nobody has read.
    beyond: bool,
}

impl Model for AppendList {
    type Input = ListInput;
    type Output = ListOutput;
    type State = ListState;
    type Guide = ListGuide;

    fn guide(operations: &[Operation<Self>]) -> ListGuide {
        let mut guide = ListGuide { longest: Vec::new(), seen: HashMap::new(), writers: HashMap::new() };
        for operation in operations.iter().filter(|operation| operation.outcome != Outcome::Failed) {
            if let ListInput::Append(value) = operation.input {
                *guide.writers.entry(value).or_default() += 1;
            }
            let Outcome::Ok { output: ListOutput::All(read), at } = &operation.outcome else { continue };
            if read.len() > guide.longest.len() {
                guide.longest.clone_from(read);
            }
            for value in read {
                let first = guide.seen.entry(*value).or_insert(*at);
                *first = (*at).min(*first);
            }
        }
        guide
    }

    fn unknown(guide: &ListGuide, input: &ListInput) -> Unknown<Self> {
        let ListInput::Append(value) = input else { return Unknown::Idle };
        match (guide.seen.get(value), guide.writers.get(value)) {
            (None, _) => Unknown::Idle,
            (Some(&by), Some(1)) => Unknown::Seen { output: ListOutput::Appended, by },
            _ => Unknown::Open(*input),
        }
    }

    fn step(
        guide: &ListGuide,
        state: &ListState,
        input: &ListInput,
        output: Option<&ListOutput>,
    ) -> Option<ListState> {
        match (input, output) {
            (ListInput::Append(value), None | Some(ListOutput::Appended)) => {
                match guide.longest.get(state.length) {
                    None => Some(ListState { beyond: true, ..*state }),
                    Some(next) => (next == value).then_some(ListState { length: state.length + 1, ..*state }),
                }
            }
            (ListInput::Read, None) => Some(*state),
            (ListInput::Read, Some(ListOutput::All(read))) => {
                let right = !state.beyond && read[..] == guide.longest[..state.length];
                right.then_some(*state)
            }
            _ => None,
        }
    }
}
