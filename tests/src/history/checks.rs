//! What must hold of a history whatever the order: checks without a search, for rounds of any length.
//!
//! They find less than [`super::linearizable`], and say more plainly what is wrong.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;

use super::models::{Counter, CounterInput};
use super::{Operation, Outcome};

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Fewer increments than were acknowledged.
    #[error("the counter is {value} after {acknowledged} acknowledged increments: some were lost")]
    Lost {
        /// The counter at the end.
        value: u64,
        /// How many were acknowledged.
        acknowledged: u64,
    },
    /// More increments than were asked for.
    #[error(
        "the counter is {value} although at most {possible} increments can have happened: some happened twice"
    )]
    Twice {
        /// The counter at the end.
        value: u64,
        /// How many were acknowledged or are of unknown outcome.
        possible: u64,
    },
    /// Two increments answered with the same value.
    #[error("two increments made the counter {0}: they were done by two owners, or one was lost")]
    SameValue(u64),
    /// Two entries of the owners' log have the same number.
    #[error("object {object} has two entries of epoch {epoch} and seq {seq}")]
    SameEntry {
        /// The object.
        object: String,
        /// The epoch.
        epoch: u64,
        /// The seq.
        seq: u64,
    },
    /// An entry of the owners' log is older than the one before it.
    #[error(
        "object {object} has epoch {}, seq {} in the log after epoch {}, seq {}: an old owner wrote",
        .now.0, .now.1, .before.0, .before.1
    )]
    Backwards {
        /// The object.
        object: String,
        /// The epoch and seq of the entry before.
        before: (u64, u64),
        /// Those of this one.
        now: (u64, u64),
    },
    /// An alarm that was due was never seen.
    #[error("the alarm of object {object}, set at {set_at} for {due}, was not seen until {until}")]
    LostAlarm {
        /// The object.
        object: String,
        /// When it was set.
        set_at: u64,
        /// When it was due.
        due: u64,
        /// Until when it had to be seen.
        until: u64,
    },
    /// An alarm was seen that nobody had set, or before its time.
    #[error("object {object} had an alarm at {at} that was not due")]
    EarlyAlarm {
        /// The object.
        object: String,
        /// When it was seen.
        at: u64,
    },
}

/// No acknowledged increment is lost, and none happened twice: the value at the end, read when nothing was under way
/// any more, lies between the increments that were acknowledged and those that may have happened.
pub fn increments_add_up(operations: &[Operation<Counter>], value: u64) -> Result<(), Wrong> {
    let of = |wanted: fn(&Outcome<u64>) -> bool| {
        let increments = operations.iter().filter(|operation| operation.input == CounterInput::Increment);
        increments.filter(|operation| wanted(&operation.outcome)).count() as u64
    };
    let acknowledged = of(|outcome| matches!(outcome, Outcome::Ok { .. }));
    let possible = acknowledged + of(|outcome| *outcome == Outcome::Unknown);
    if value < acknowledged {
        return Err(Wrong::Lost { value, acknowledged });
    }
    if value > possible { Err(Wrong::Twice { value, possible }) } else { Ok(()) }
}

/// No two increments made the same value.
pub fn increments_differ(operations: &[Operation<Counter>]) -> Result<(), Wrong> {
    let mut seen = HashSet::new();
    for operation in operations.iter().filter(|operation| operation.input == CounterInput::Increment) {
        if let Outcome::Ok { output, .. } = operation.outcome
            && !seen.insert(output)
        {
            return Err(Wrong::SameValue(output));
        }
    }
    Ok(())
}

/// One write of an owner, as the store has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owned<K> {
    /// The object.
    pub object: K,
    /// The epoch of its owner.
    pub epoch: u64,
    /// The number of the write in that epoch.
    pub seq: u64,
}

/// In the order of the store's log, (epoch, seq) of an object only rises: no number is there twice, and an old owner
/// writes nothing after a new one has.
pub fn owners_take_turns<K: Hash + Eq + Debug>(log: &[Owned<K>]) -> Result<(), Wrong> {
    let mut last: HashMap<&K, (u64, u64)> = HashMap::new();
    for entry in log {
        let now = (entry.epoch, entry.seq);
        let Some(before) = last.insert(&entry.object, now) else { continue };
        let object = || format!("{:?}", entry.object);
        if now == before {
            return Err(Wrong::SameEntry { object: object(), epoch: now.0, seq: now.1 });
        }
        if now < before {
            return Err(Wrong::Backwards { object: object(), before, now });
        }
    }
    Ok(())
}

/// One thing that happened to the alarm of an object. An object has at most one: each that is set takes the place of
/// the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// A turn has set it, or taken it away.
    Set {
        /// When the turn was asked for.
        invoked_at: u64,
        /// When its answer came; `None` if its outcome is unknown.
        answered_at: Option<u64>,
        /// When it is due; `None` takes it away.
        due: Option<u64>,
    },
    /// It was seen.
    Fired {
        /// When.
        at: u64,
    },
}

/// Every alarm whose setting was acknowledged is seen between the time that it is due and `grace` later, unless
/// another one may have taken its place before; and none is seen that is not due. `until` is the end of the watch:
/// what is due later than `grace` before it is not asked for.
///
/// Any setting that was not over before this one began may have taken its place; so may the turn of an alarm itself,
/// which has to be noted as any other.
pub fn alarms_fire<K: Ord + Debug + Clone>(
    events: &[(K, Alarm)],
    grace: u64,
    until: u64,
) -> Result<(), Wrong> {
    let mut objects: BTreeMap<K, Vec<Alarm>> = BTreeMap::new();
    for (object, alarm) in events {
        objects.entry(object.clone()).or_default().push(*alarm);
    }
    for (object, alarms) in &objects {
        let object = || format!("{object:?}");
        if let Some(&(set_at, due)) = lost_alarms(alarms, grace, until).first() {
            return Err(Wrong::LostAlarm { object: object(), set_at, due, until: due.max(set_at) + grace });
        }
        let fired = alarms.iter().filter_map(|alarm| match alarm {
            Alarm::Fired { at } => Some(*at),
            Alarm::Set { .. } => None,
        });
        let set_for = |at: u64| {
            alarms.iter().any(|alarm| {
                matches!(alarm, Alarm::Set { invoked_at, due: Some(due), .. } if *invoked_at <= at && *due <= at)
            })
        };
        if let Some(at) = fired.into_iter().find(|&at| !set_for(at)) {
            return Err(Wrong::EarlyAlarm { object: object(), at });
        }
    }
    Ok(())
}

/// The alarms of one object that had to be seen and were not: when each was set, and when it was due.
fn lost_alarms(alarms: &[Alarm], grace: u64, until: u64) -> Vec<(u64, u64)> {
    let mut lost = Vec::new();
    for (number, alarm) in alarms.iter().enumerate() {
        let Alarm::Set { invoked_at, answered_at: Some(answered_at), due: Some(due) } = *alarm else {
            continue;
        };
        // One that is set for the past is due when it is set.
        let latest = due.max(answered_at) + grace;
        let replaced = alarms.iter().enumerate().any(|(other, alarm)| {
            let Alarm::Set { invoked_at: began, answered_at: ended, .. } = *alarm else { return false };
            other != number && began <= latest && ended.is_none_or(|ended| ended >= invoked_at)
        });
        let from = due.max(invoked_at);
        let fired =
            alarms.iter().any(|alarm| matches!(alarm, Alarm::Fired { at } if (from..=latest).contains(at)));
        if latest <= until && !replaced && !fired {
            lost.push((answered_at, due));
        }
    }
    lost
}
