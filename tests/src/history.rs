//! Whether what clients saw can have happened one after the other: a checker of histories for linearizability.
//!
//! A test lets clients work on objects, breaks the node or cluster meanwhile, and writes down each [`Operation`]:
//! when it was invoked, and what came of it and when. [`linearizable`] then looks for an order of the operations of
//! one object that explains all answers: each operation happens at one moment between its invocation and its answer.
//! If there is none, an object was not what it promises, wherever the fault is.
//!
//! An operation that failed has certainly not happened. One whose outcome is unknown (no answer, an answer that
//! leaves it open) may have happened at any time since its invocation, or never.
//!
//! Objects are checked one by one, which is no loss: a history of all is linearizable if and only if each object's is
//! (Herlihy and Wing, "locality"). [`checks`] has what needs no search, for histories of any length.
//!
//! # How, and at what cost
//!
//! The search is Wing and Gong's with Lowe's memory of what was tried: depth first over (which operations have
//! happened, state). With `n` operations, of which `c` are under way at a time, there are at most `n · 2^c` sets for
//! each state, so the cost is linear in the length, and grows with the number of clients: thousands of operations of
//! ten clients take milliseconds. Operations of unknown outcome stay open for ever and would double it each; so each
//! model says what it can of them ([`Unknown`]): one that somebody saw has happened before that; ones that nobody can
//! tell apart happen in the order of their invocation; one that nothing depends on is left out. What remains is
//! bounded by [`STEPS_MAX`], and then the answer is that there is none ([`Fault::GaveUp`]), never a wrong one.
//!
//! # Invariants, checked in `history/stories.rs`
//!
//! - For small histories of every kind the answer is that of trying all orders.
//! - What a correct object answers is always accepted, however calls overlap and clients crash.
//! - Planted faults are found: acknowledged writes that are lost, stale reads, effects that happen twice, appends in
//!   another order.

pub mod checks;
pub mod models;
mod search;

#[cfg(test)]
mod stories;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;

pub use search::{Linearized, STEPS_MAX, linearizable};

/// One operation of a client on an object. Times are of one clock for all clients, in any unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation<M: Model> {
    /// What was asked.
    pub input: M::Input,
    /// When.
    pub invoked_at: u64,
    /// What came of it.
    pub outcome: Outcome<M::Output>,
}

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<O> {
    /// It has happened.
    Ok {
        /// The answer.
        output: O,
        /// When the answer came.
        at: u64,
    },
    /// It has certainly not happened, and never will.
    Failed,
    /// It may have happened, may happen later, or never.
    Unknown,
}

/// What a correct object does.
pub trait Model: Clone + Debug + PartialEq {
    /// What can be asked of it.
    type Input: Clone + Eq + Hash + Debug;
    /// What it answers.
    type Output: Clone + Eq + Debug;
    /// What it is in.
    type State: Clone + Eq + Hash + Debug + Default;
    /// What the model has learnt of a whole history, so that the search need not guess.
    type Guide;

    /// Looks at a whole history.
    fn guide(operations: &[Operation<Self>]) -> Self::Guide;

    /// What is known of an operation of unknown outcome.
    fn unknown(guide: &Self::Guide, input: &Self::Input) -> Unknown<Self>;

    /// The state after an operation, if it can happen in this state with this answer, or with any.
    fn step(
        guide: &Self::Guide,
        state: &Self::State,
        input: &Self::Input,
        output: Option<&Self::Output>,
    ) -> Option<Self::State>;
}

/// What is known of an operation of unknown outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unknown<M: Model> {
    /// No answer depends on it: it is left out.
    Idle,
    /// Its effect was seen, and is nobody else's: it has happened.
    Seen {
        /// What the answer would have been.
        output: M::Output,
        /// When who saw it first had his answer.
        by: u64,
    },
    /// It may have happened, and is not told from others like this one.
    Open(M::Input),
}

/// Why a history is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No order explains the answers.
    #[error(
        "no order of the operations explains their answers: after {happened} of them, in state {state}, \
         none can be the next; the answer of operation {stuck} was there by then ({operation})"
    )]
    NotLinearizable {
        /// How many happened at most.
        happened: usize,
        /// The state then.
        state: String,
        /// The operation that had to happen next at the latest, by its place in the history.
        stuck: usize,
        /// What it is.
        operation: String,
    },
    /// The search took too long.
    #[error(
        "given up after {STEPS_MAX} steps: too many operations at once, or of unknown outcome; \
         use fewer clients or shorter rounds"
    )]
    GaveUp,
}

/// Checks the histories of many objects, each by itself; the error names the object.
pub fn each_linearizable<K: Ord + Clone, M: Model>(
    operations: impl IntoIterator<Item = (K, Operation<M>)>,
) -> Result<BTreeMap<K, Linearized>, (K, Fault)> {
    let mut objects: BTreeMap<K, Vec<Operation<M>>> = BTreeMap::new();
    for (object, operation) in operations {
        objects.entry(object).or_default().push(operation);
    }
    let check = |(object, history): (K, Vec<Operation<M>>)| match linearizable(&history) {
        Ok(linearized) => Ok((object, linearized)),
        Err(fault) => Err((object, fault)),
    };
    objects.into_iter().map(check).collect()
}
