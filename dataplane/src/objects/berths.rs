//! The berths of a node: where each object lives, for all cores.
//!
//! Read without a lock on the way of every message; changed when an object starts, moves or ends. What a berth may become
//! is [`Berth::apply`]'s to say. An object that nobody has needs no row: the store remembers its epoch.

use berth_protocol::object::ObjectKey;
use berth_protocol::ownership::{Berth, Change, Unfit};
use foldhash::fast::RandomState;
use papaya::{Compute, HashMap, Operation};

const ABSENT: Berth = Berth::Absent { last: None };

/// The table.
#[derive(Debug, Default)]
pub(super) struct Berths(HashMap<ObjectKey, Berth, RandomState>);

impl Berths {
    /// Where an object lives now.
    pub(super) fn find(&self, object: &ObjectKey) -> Berth {
        self.0.pin().get(object).copied().unwrap_or(ABSENT)
    }

    /// Changes a berth, all at once: of two that want what only one may, one is told what the berth is instead.
    pub(super) fn change(&self, object: ObjectKey, change: Change) -> Result<Berth, Unfit> {
        let guard = self.0.pin();
        let outcome =
            guard.compute(object, |row| match row.map_or(ABSENT, |(_, berth)| *berth).apply(change) {
                Ok(Berth::Absent { .. }) if row.is_some() => Operation::Remove,
                Ok(Berth::Absent { .. }) => Operation::Abort(Ok(ABSENT)),
                Ok(berth) => Operation::Insert(berth),
                Err(unfit) => Operation::Abort(Err(unfit)),
            });
        match outcome {
            Compute::Inserted(_, berth) | Compute::Updated { new: (_, berth), .. } => Ok(*berth),
            Compute::Removed(..) => Ok(ABSENT),
            Compute::Aborted(outcome) => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use berth_protocol::object::{Epoch, ObjectId, Scope, Slot};
    use berth_protocol::ownership::Core;

    use super::*;

    fn object() -> ObjectKey {
        ObjectKey { scope: Scope::new("a.example", "Counter"), id: ObjectId::random(Slot(1), [7; 13]) }
    }

    #[test]
    fn one_of_many_claims_wins() {
        let berths = Berths::default();
        let won: usize = std::thread::scope(|scope| {
            let claims: Vec<_> = (0..8)
                .map(|core| {
                    let berths = &berths;
                    scope.spawn(move || berths.change(object(), Change::Claim { core: Core(core) }).is_ok())
                })
                .collect();
            claims.into_iter().map(|claim| usize::from(claim.join().unwrap())).sum()
        });
        assert_eq!(won, 1);
    }

    #[test]
    fn an_object_that_nobody_has_takes_no_row() {
        let (berths, core) = (Berths::default(), Core(3));
        berths.change(object(), Change::Claim { core }).unwrap();
        berths.change(object(), Change::Start { core, epoch: Epoch(5) }).unwrap();
        assert_eq!((berths.find(&object()).core(), berths.0.len()), (Some(core), 1));
        berths.change(object(), Change::Abdicate { core }).unwrap();
        berths.change(object(), Change::End { core }).unwrap();
        assert_eq!((berths.find(&object()), berths.0.len()), (ABSENT, 0));
    }
}
