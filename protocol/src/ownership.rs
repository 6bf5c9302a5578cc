//! Who owns an object on one node of several cores: at most one object worker of it, ever.
//!
//! Two pure values decide everything. The [`Berth`] of an object is its row in the table that all cores of a node
//! share: small and `Copy`, read without a lock, changed under the short lock of its shard by [`Berth::apply`]. The
//! [`Stay`] is what one core keeps of the object, and no other core sees: the messages that wait, and how far the
//! object worker is.
//!
//! ```text
//!              Claim            Start             Depart            Arrive
//!   Absent ------------> Starting ------> Held ------------> Moving ------> Held (at another core)
//!     ^  ^       Fail       |   ^          |
//!     |  +------------------+   | Restart  | Abdicate
//!     |              End        |          v
//!     +----------------------------- Abdicating
//! ```
//!
//! Only [`Change::Claim`] can be lost in a race. Every other change belongs to one core, the one that the berth names
//! (the target while it moves), so that a change that is refused is a mistake of ours.
//!
//! Running and idle are states of the stay and not of the berth: another core sends its message to the same place
//! either way, and a write to the shared table in each turn would cost more than a hop saves.
//!
//! # Where a message waits
//!
//! Always at the core that the berth names: at the one that starts, that runs, that abdicates, and while it moves at
//! the target. What waits when the instance departs travels with it, and comes first there. A core that gets a
//! message of an object that it does not have looks into the table and passes the message on, with one more in its
//! count of hops; at [`Limits::hops_max`] it is refused. So nothing remembers where an object has been.
//!
//! # Invariants, each checked at every interleaving of the model in `ownership/model.rs`
//!
//! - At most one instance exists: being started, live, being stopped, or on its way.
//! - Turns of one object never overlap, and none runs in an instance that is on its way or stopped.
//! - A message gets one outcome: its turn begins once, or it is refused with a reason.
//! - Each start has an epoch above all before it; a move keeps the epoch, since nothing else can have written.
//! - An instance departs, and an object becomes absent or starts anew, only when every turn before has settled.
//! - From every reachable state all messages can still get their outcomes, and where nothing can happen any more
//!   they have them.
//!
//! # What the caller promises
//!
//! - **Effects are done in their order**, those of one event before the next event of the same object at the same
//!   core. The change of a berth comes before the instance leaves, for instance.
//! - **One message of an ordered connection at a time**: the core of the connection delivers the next one after the
//!   outcome of the one before. This is what keeps the order, wherever the object moves. Without it a message that is
//!   passed on can be overtaken by a later one that went straight to the new core (the model finds that too). A
//!   sender that wants several under way would have to fence: ask the old core to confirm that it has passed on all
//!   that came before, on the same lane, and send to the new core only then; or number the messages, and the target
//!   sorts them again.
//! - **Nothing is lost on the way**: a lane of requests that is full refuses the message ([`Refusal::LaneFull`]); an
//!   instance travels as a control message, which waits for room.
//! - **The store gives each start a higher epoch** than it ever gave for the object. A start with another one is
//!   taken back.
//! - **After a failed commit the store takes nothing more of that epoch**: a turn that ends while its instance is
//!   being stopped fails with it. Otherwise the next instance could start without what the last turn of this one
//!   still writes.
//! - **[`Event::MayTravel`] is true when it is handled**: the core checks that the instance has no open resource, and
//!   then tells.
//! - **A client that goes away is no event here.** Its message is handled like any other, and nobody gets the reply.
//!
//! # With several nodes
//!
//! A row gains one more state, "held by another node", to which messages are passed in the same way and with the same
//! count of hops; the claim then needs the group's leader, and gives the epoch. Nothing in the stay changes.

mod stay;

#[cfg(test)]
pub(crate) mod explorer;
#[cfg(test)]
mod model;
#[cfg(test)]
mod table;

pub use stay::{
    Aim, Asked, Effect, Event, Evict, EvictRefused, HOPS_MAX, Keeper, Limits, Message, Misuse, MoveRefused,
    Refusal, Resident, Stay, Stopping, Turn, TurnEnd, UNSETTLED_MAX, WAITING_MAX,
};

use crate::object::Epoch;

/// A core of this node, by its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Core(pub u8);

/// Where an object lives: its row in the table of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Berth {
    /// Nobody has it. Without a row in the table it is this with `last: None`; rows may be forgotten, since the store
    /// remembers the epochs.
    Absent {
        /// The highest epoch that is known here.
        last: Option<Epoch>,
    },
    /// A core has claimed it and makes an instance. The epoch comes with the instance, from the store.
    Starting {
        /// Which core.
        core: Core,
        /// The epoch must be above this one.
        above: Option<Epoch>,
    },
    /// Its object worker lives, whether in a turn or idle.
    Held {
        /// At this core.
        core: Core,
        /// Since this start.
        epoch: Epoch,
    },
    /// The live instance is on its way between two cores.
    Moving {
        /// It has left this one.
        from: Core,
        /// This one will have it, and messages wait there.
        to: Core,
        /// The epoch that it keeps.
        epoch: Epoch,
    },
    /// Its object worker ends: it is being stopped, or turns of it have still to settle.
    Abdicating {
        /// At this core, where messages wait.
        core: Core,
        /// The epoch that ends.
        epoch: Epoch,
    },
}

/// One change of a berth, and the core that makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// Nobody has the object: this core will start it.
    Claim {
        /// Who claims.
        core: Core,
    },
    /// Its instance lives.
    Start {
        /// Who has started it.
        core: Core,
        /// What the store gave.
        epoch: Epoch,
    },
    /// The start has failed.
    Fail {
        /// Who has tried.
        core: Core,
    },
    /// The instance leaves.
    Depart {
        /// Who lets it go.
        from: Core,
        /// Who will have it.
        to: Core,
    },
    /// The instance has come.
    Arrive {
        /// Where.
        core: Core,
        /// The epoch that it brings.
        epoch: Epoch,
    },
    /// The instance ends.
    Abdicate {
        /// Where.
        core: Core,
    },
    /// The instance has ended, and messages wait: the same core starts it anew, with no gap for another to claim it.
    Restart {
        /// Where.
        core: Core,
    },
    /// The instance has ended, and nothing waits.
    End {
        /// Where.
        core: Core,
    },
}

/// A change that does not fit the berth, which stays as it was.
///
/// For a claim it says that somebody else was faster. For every other change it is a mistake of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{change:?} does not fit a berth that is {berth:?}; unless it is a claim, please report this")]
pub struct Unfit {
    /// What the berth is.
    pub berth: Berth,
    /// What was asked.
    pub change: Change,
}

impl Berth {
    /// The berth after a change. Called under the lock of its shard; it is all that happens there.
    pub fn apply(self, change: Change) -> Result<Self, Unfit> {
        let unfit = Unfit { berth: self, change };
        match (self, change) {
            (Self::Absent { last }, Change::Claim { core }) => Ok(Self::Starting { core, above: last }),
            (Self::Starting { core, above }, Change::Start { core: by, epoch }) if core == by => {
                if Some(epoch) > above { Ok(Self::Held { core, epoch }) } else { Err(unfit) }
            }
            (Self::Starting { core, above }, Change::Fail { core: by }) if core == by => {
                Ok(Self::Absent { last: above })
            }
            (Self::Held { core, epoch }, Change::Depart { from, to }) if core == from && from != to => {
                Ok(Self::Moving { from, to, epoch })
            }
            (Self::Moving { to, epoch, .. }, Change::Arrive { core, epoch: brought })
                if to == core && epoch == brought =>
            {
                Ok(Self::Held { core, epoch })
            }
            (Self::Held { core, epoch }, Change::Abdicate { core: by }) if core == by => {
                Ok(Self::Abdicating { core, epoch })
            }
            (Self::Abdicating { core, epoch }, Change::Restart { core: by }) if core == by => {
                Ok(Self::Starting { core, above: Some(epoch) })
            }
            (Self::Abdicating { core, epoch }, Change::End { core: by }) if core == by => {
                Ok(Self::Absent { last: Some(epoch) })
            }
            _ => Err(unfit),
        }
    }

    /// The core at which messages of the object wait or are handled; none while it is absent.
    pub fn core(self) -> Option<Core> {
        match self {
            Self::Absent { .. } => None,
            Self::Starting { core, .. } | Self::Held { core, .. } | Self::Abdicating { core, .. } => {
                Some(core)
            }
            Self::Moving { to, .. } => Some(to),
        }
    }

    /// The highest epoch that the row knows of. It never falls.
    pub fn epoch(self) -> Option<Epoch> {
        match self {
            Self::Absent { last: known } | Self::Starting { above: known, .. } => known,
            Self::Held { epoch, .. } | Self::Moving { epoch, .. } | Self::Abdicating { epoch, .. } => {
                Some(epoch)
            }
        }
    }
}
