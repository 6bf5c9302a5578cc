//! What one core keeps of one object, and what it does when something happens: the decisions of ownership.
//!
//! [`Keeper::handle`] takes a [`Stay`] and an [`Event`] and gives the stay that follows; what has to be done is
//! appended to a list of [`Effect`]s, in the order in which it must be done (the core uses one list for all, so that
//! nothing is allocated in a turn). Nothing here waits, reads a clock or touches the table: the effects say so, and
//! their results come back as events.

use std::collections::VecDeque;

use super::{Berth, Change, Core};
use crate::object::Epoch;

/// Messages that wait for one object. At 10 µs a turn they are 2.5 ms of work, and at 1 ms 0.25 s, after which a
/// client had rather hear that it should come later; 16 KiB of pointers at most for each busy object.
pub const WAITING_MAX: usize = 256;

/// Hops of one message. One is usual, two when the object has just moved or ended; more needs a move during each hop,
/// and an object that moves faster than messages do is served by nobody.
pub const HOPS_MAX: u8 = 8;

/// Turns of one object that may run ahead of their durability. Group commit was measured with 64 waiters to reach
/// what the disk can do; beyond it, only what a failed commit takes along grows.
pub const UNSETTLED_MAX: u16 = 64;

/// The bounds of what an object may make a core keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Messages that wait; the next one is refused as [`Refusal::Full`].
    pub waiting_max: usize,
    /// Hops of a message; the next one is refused as [`Refusal::TooManyHops`].
    pub hops_max: u8,
    /// Turns whose writes are not durable yet; the next turn waits for one to settle.
    pub unsettled_max: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self { waiting_max: WAITING_MAX, hops_max: HOPS_MAX, unsettled_max: UNSETTLED_MAX }
    }
}

/// A message to an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Message<M> {
    /// How many hops it has made.
    pub hops: u8,
    /// What it says.
    pub body: M,
}

/// What one core keeps of one object. `Empty` is what it keeps of all others: no entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Stay<M> {
    /// Nothing.
    Empty,
    /// This core has claimed the object and makes its instance.
    Starting {
        /// The epoch must be above this one.
        above: Option<Epoch>,
        /// Who waits for it, the oldest first.
        waiting: VecDeque<Message<M>>,
    },
    /// The store gave an epoch that is not above the last one: the instance is being taken back before it does
    /// anything.
    Undoing {
        /// The epoch that it gave.
        epoch: Epoch,
        /// Who waited, and will be refused.
        waiting: VecDeque<Message<M>>,
    },
    /// The live instance is on its way here.
    Expecting {
        /// Who came before it.
        waiting: VecDeque<Message<M>>,
    },
    /// The object worker lives here.
    Running(Resident<M>),
    /// It lives here, and has had no turn for a while: nothing waits and all is settled.
    Idle {
        /// Its epoch.
        epoch: Epoch,
    },
    /// It ends here.
    Abdicating {
        /// The epoch that ends.
        epoch: Epoch,
        /// Turns that have not settled yet: those before a trap.
        unsettled: u16,
        /// Whether the instance is gone.
        instance: Stopping,
        /// Who waits for the start that follows.
        waiting: VecDeque<Message<M>>,
    },
}

/// An object worker that lives at this core.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Resident<M> {
    /// Its epoch.
    pub epoch: Epoch,
    /// Whether it is in a turn.
    pub turn: Turn,
    /// Turns that have ended and whose writes are not durable yet.
    pub unsettled: u16,
    /// Who waits, the oldest first.
    pub waiting: VecDeque<Message<M>>,
    /// What happens after the turn.
    pub aim: Aim,
}

impl<M> Resident<M> {
    /// Whether it has a turn, messages that wait for one, or writes that are not durable yet.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.turn == Turn::Now || self.unsettled > 0 || !self.waiting.is_empty()
    }
}

/// Whether an object worker is in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Turn {
    /// One runs.
    Now,
    /// None runs.
    Between,
}

/// What an object worker does after its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Aim {
    /// The next turn.
    Serve,
    /// It moves, as soon as all is settled and it may travel. No turn begins meanwhile: each could open what it must
    /// not carry, and a busy object would never leave.
    Leave {
        /// Where to.
        to: Core,
        /// Whether the core has been asked to tell when it may travel.
        asked: Asked,
    },
    /// It ends, as soon as all is settled.
    End,
}

/// Whether a core has been asked to tell when an instance may travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asked {
    /// Not yet: a turn runs, or has not settled.
    No,
    /// It has.
    Yes,
}

/// How far the end of an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stopping {
    /// It may still be there.
    Asked,
    /// It is gone.
    Done,
}

/// What can happen to an object at a core.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event<M> {
    /// A message came, from a client of this core, from an object, or by a lane from another core.
    Message(Message<M>),
    /// The answer to [`Effect::Look`], and to an [`Effect::Claim`] that came too late.
    Looked {
        /// What the table says.
        berth: Berth,
        /// For which message it was asked.
        message: Message<M>,
    },
    /// The claim was in time: the berth is [`Berth::Starting`] at this core.
    Claimed {
        /// The epoch must be above this one.
        above: Option<Epoch>,
        /// For which message it was claimed.
        message: Message<M>,
    },
    /// The instance lives.
    Started {
        /// The epoch that the store gave.
        epoch: Epoch,
    },
    /// It could not be made, and there is none.
    StartFailed,
    /// There is no place for it: as many instances live as may, and none of them is idle.
    NoRoom,
    /// A live instance came from another core.
    Arrived {
        /// Its epoch.
        epoch: Epoch,
        /// The messages that travelled with it.
        waiting: VecDeque<Message<M>>,
    },
    /// The turn ended.
    TurnEnded {
        /// Of the instance of this epoch.
        epoch: Epoch,
        /// How.
        end: TurnEnd,
    },
    /// One turn's writes are durable.
    Settled {
        /// Of the instance of this epoch.
        epoch: Epoch,
    },
    /// A commit failed, and with it all that came after it in this epoch: no more of it will settle, and the store
    /// takes no more of it.
    CommitFailed {
        /// Of the instance of this epoch.
        epoch: Epoch,
    },
    /// There has been no turn for a while.
    Quiet,
    /// It should move.
    Move {
        /// Where to.
        to: Core,
    },
    /// The answer to [`Effect::AwaitTravel`]: the instance has no open resource, now.
    MayTravel {
        /// Which instance.
        epoch: Epoch,
    },
    /// The time for a move is over, counted by the core from [`Event::Move`].
    MoveExpired {
        /// Which instance.
        epoch: Epoch,
    },
    /// It should end.
    Evict(Evict),
    /// The answer to [`Effect::Stop`]: the instance is gone, and no turn of it runs.
    Stopped {
        /// Which instance.
        epoch: Epoch,
    },
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TurnEnd {
    /// It has written nothing.
    Settled,
    /// It has written: [`Event::Settled`] or [`Event::CommitFailed`] follows.
    Unsettled,
    /// The guest trapped, and its instance is dead. What it wrote since the last commit point is dropped.
    Trapped,
}

/// Why an object worker should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Evict {
    /// Its memory is wanted, and it is idle. Refused if it is not.
    IfIdle,
    /// A new version of its script, or an operator: after its turn.
    AfterTurn,
}

/// What has to be done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect<M> {
    /// Read the berth without a lock and tell it with [`Event::Looked`].
    Look(Message<M>),
    /// Apply [`Change::Claim`] under the lock; [`Event::Claimed`], or else [`Event::Looked`] with what is there
    /// instead.
    Claim(Message<M>),
    /// Apply a change to the berth under the lock.
    Change(Change),
    /// Send the message to another core, by the lane of requests.
    Pass {
        /// Which core.
        to: Core,
        /// The message, this hop counted.
        message: Message<M>,
    },
    /// Answer the message with an error; its turn has not begun.
    Refuse {
        /// The message.
        message: Message<M>,
        /// Why.
        why: Refusal,
    },
    /// Get an epoch from the store and make an instance: [`Event::Started`], [`Event::StartFailed`] or [`Event::NoRoom`].
    Start {
        /// The epoch must be above this one.
        above: Option<Epoch>,
    },
    /// Begin the turn of a message: [`Event::TurnEnded`] follows, unless the instance is stopped before. From here on
    /// the outcome of the message is the turn's.
    Begin {
        /// In the instance of this epoch.
        epoch: Epoch,
        /// The message.
        message: Message<M>,
    },
    /// Tell with [`Event::MayTravel`] when the instance has no open resource.
    AwaitTravel {
        /// Which instance.
        epoch: Epoch,
    },
    /// Send the live instance to another core, as a control message: [`Event::Arrived`] there.
    Depart {
        /// Which core.
        to: Core,
        /// Its epoch.
        epoch: Epoch,
        /// The messages that travel with it.
        waiting: VecDeque<Message<M>>,
    },
    /// Drop the instance, and the turn in it if there is one, whose message gets an error: [`Event::Stopped`].
    Stop {
        /// Which instance.
        epoch: Epoch,
    },
    /// A move does not take place. The object goes on where it is.
    MoveRefused {
        /// Where it should have gone.
        to: Core,
        /// Why.
        why: MoveRefused,
    },
    /// An eviction does not take place.
    EvictRefused(EvictRefused),
    /// Something happened that cannot: to be logged as a mistake of ours. Nothing else follows from the event.
    Misuse(Misuse),
}

/// Why a message is refused. Its turn has not begun: who sent it may try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// As many wait as may.
    #[error("too many messages wait for the object; try again later")]
    Full,
    /// Its instance could not be made.
    #[error("the object could not be started; the next message tries it again")]
    StartFailed,
    /// As many instances live as may, and none of them is idle.
    #[error("as many objects live on this node as may, and all of them are busy; try again later")]
    NoRoom,
    /// The store gave an epoch that is not above the last one.
    #[error(
        "the store gave the object an epoch that it had before; its data may be of an older copy: check the store"
    )]
    StaleEpoch,
    /// It was passed on as often as may be.
    #[error("the object moved on whenever the message reached it; try again later")]
    TooManyHops,
    /// The lane to its core is full. Given by who sends.
    #[error("the core of the object is overloaded; try again later")]
    LaneFull,
    /// The table names this core, which knows nothing of it.
    #[error("the object is lost between the table and its core; please report this")]
    Astray,
}

/// Why a move is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum MoveRefused {
    /// It does not live at the core that was asked.
    #[error("the object does not live at this core; ask the one that its berth names")]
    NotHere,
    /// It is there already.
    #[error("the object is at that core already")]
    There,
    /// It is on its way already.
    #[error("the object is about to move already; try again later")]
    Busy,
    /// It ends, or is about to.
    #[error("the object worker ends; its next message may be sent where the object should start")]
    Ends,
    /// A turn, a commit or an open resource kept it for too long.
    #[error("the object could not be moved in time: a turn or an open resource held it; try again later")]
    Expired,
}

/// Why an eviction is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum EvictRefused {
    /// It does not live at this core.
    #[error("the object does not live at this core; ask the one that its berth names")]
    NotHere,
    /// It has something to do.
    #[error("the object is not idle; evict another, or evict it after its turn")]
    NotIdle,
}

/// An event that cannot happen in the state in which a stay was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("a core was told `{event}` of an object that is {stay} there; please report this")]
pub struct Misuse {
    /// The event.
    pub event: &'static str,
    /// The state.
    pub stay: &'static str,
}

/// The side of one core: which one it is, and its limits.
#[derive(Debug, Clone, Copy)]
pub struct Keeper {
    /// Which core it is.
    pub here: Core,
    /// Its limits.
    pub limits: Limits,
}

impl Keeper {
    /// What follows from an event. Effects are appended in the order in which they must be done.
    pub fn handle<M>(&self, stay: Stay<M>, event: Event<M>, effects: &mut Vec<Effect<M>>) -> Stay<M> {
        match event {
            Event::Message(message) => self.message(stay, message, effects),
            Event::Looked { berth, message } => self.looked(stay, berth, message, effects),
            Event::Claimed { above, message } => claimed(stay, above, message, effects),
            Event::Started { epoch } => self.started(stay, epoch, effects),
            Event::StartFailed => self.start_failed(stay, Refusal::StartFailed, effects),
            Event::NoRoom => self.start_failed(stay, Refusal::NoRoom, effects),
            Event::Arrived { epoch, waiting } => self.arrived(stay, epoch, waiting, effects),
            Event::TurnEnded { epoch, end } => self.turn_ended(stay, epoch, end, effects),
            Event::Settled { epoch } => self.settled(stay, epoch, effects),
            Event::CommitFailed { epoch } => self.commit_failed(stay, epoch, effects),
            Event::Quiet => quiet(stay),
            Event::Move { to } => self.asked_to_move(stay, to, effects),
            Event::MayTravel { epoch } => self.may_travel(stay, epoch, effects),
            Event::MoveExpired { epoch } => self.move_expired(stay, epoch, effects),
            Event::Evict(how) => self.asked_to_end(stay, how, effects),
            Event::Stopped { epoch } => self.stopped(stay, epoch, effects),
        }
    }

    fn message<M>(&self, mut stay: Stay<M>, message: Message<M>, effects: &mut Vec<Effect<M>>) -> Stay<M> {
        match stay {
            Stay::Empty => {
                effects.push(Effect::Look(message));
                Stay::Empty
            }
            Stay::Idle { epoch } => {
                effects.push(Effect::Begin { epoch, message });
                Stay::Running(Resident { turn: Turn::Now, ..Resident::new(epoch, VecDeque::new()) })
            }
            Stay::Running(mut resident) => {
                self.enqueue(&mut resident.waiting, message, effects);
                self.proceed(resident, effects)
            }
            Stay::Starting { ref mut waiting, .. }
            | Stay::Undoing { ref mut waiting, .. }
            | Stay::Expecting { ref mut waiting }
            | Stay::Abdicating { ref mut waiting, .. } => {
                self.enqueue(waiting, message, effects);
                stay
            }
        }
    }

    fn enqueue<M>(
        &self,
        waiting: &mut VecDeque<Message<M>>,
        message: Message<M>,
        effects: &mut Vec<Effect<M>>,
    ) {
        if waiting.len() < self.limits.waiting_max {
            waiting.push_back(message);
        } else {
            effects.push(Effect::Refuse { message, why: Refusal::Full });
        }
    }

    fn looked<M>(
        &self,
        stay: Stay<M>,
        berth: Berth,
        message: Message<M>,
        effects: &mut Vec<Effect<M>>,
    ) -> Stay<M> {
        if !matches!(stay, Stay::Empty) {
            // Another message was faster in making it live here.
            return self.message(stay, message, effects);
        }
        match berth.core() {
            None => effects.push(Effect::Claim(message)),
            Some(to) if to != self.here => self.pass(to, message, effects),
            Some(_) if matches!(berth, Berth::Moving { .. }) => {
                return Stay::Expecting { waiting: VecDeque::from([message]) };
            }
            Some(_) => {
                effects.push(Effect::Misuse(Misuse { event: "it is here", stay: stay.name() }));
                effects.push(Effect::Refuse { message, why: Refusal::Astray });
            }
        }
        Stay::Empty
    }

    fn pass<M>(&self, to: Core, message: Message<M>, effects: &mut Vec<Effect<M>>) {
        if message.hops < self.limits.hops_max {
            let message = Message { hops: message.hops + 1, ..message };
            effects.push(Effect::Pass { to, message });
        } else {
            effects.push(Effect::Refuse { message, why: Refusal::TooManyHops });
        }
    }

    fn started<M>(&self, stay: Stay<M>, epoch: Epoch, effects: &mut Vec<Effect<M>>) -> Stay<M> {
        let Stay::Starting { above, waiting } = stay else {
            return misuse(stay, "started", effects);
        };
        if Some(epoch) <= above {
            effects.push(Effect::Stop { epoch });
            return Stay::Undoing { epoch, waiting };
        }
        effects.push(Effect::Change(Change::Start { core: self.here, epoch }));
        self.proceed(Resident::new(epoch, waiting), effects)
    }

    fn start_failed<M>(&self, stay: Stay<M>, why: Refusal, effects: &mut Vec<Effect<M>>) -> Stay<M> {
        let Stay::Starting { waiting, .. } = stay else {
            return misuse(stay, "start failed", effects);
        };
        self.give_up(waiting, why, effects)
    }

    /// The berth is free again before anybody hears that the start failed: who tries at once finds it absent.
    fn give_up<M>(
        &self,
        waiting: VecDeque<Message<M>>,
        why: Refusal,
        effects: &mut Vec<Effect<M>>,
    ) -> Stay<M> {
        effects.push(Effect::Change(Change::Fail { core: self.here }));
        effects.extend(waiting.into_iter().map(|message| Effect::Refuse { message, why }));
        Stay::Empty
    }

    /// What waited at the source is older than what waited here, and comes first. Of both together no more may wait
    /// than anywhere.
    fn arrived<M>(
        &self,
        stay: Stay<M>,
        epoch: Epoch,
        mut waiting: VecDeque<Message<M>>,
        effects: &mut Vec<Effect<M>>,
    ) -> Stay<M> {
        match stay {
            Stay::Empty => {}
            Stay::Expecting { waiting: here } => waiting.extend(here),
            stay => {
                // The core drops what came, and nobody is left without an answer.
                effects.extend(
                    waiting.into_iter().map(|message| Effect::Refuse { message, why: Refusal::Astray }),
                );
                return misuse(stay, "arrived", effects);
            }
        }
        effects.push(Effect::Change(Change::Arrive { core: self.here, epoch }));
        // The first one gets its turn at once, so that as many as may may wait behind it.
        let kept = waiting.len().min(self.limits.waiting_max.saturating_add(1));
        let refused = waiting.split_off(kept);
        let stay = self.proceed(Resident::new(epoch, waiting), effects);
        effects.extend(refused.into_iter().map(|message| Effect::Refuse { message, why: Refusal::Full }));
        stay
    }

    fn turn_ended<M>(
        &self,
        stay: Stay<M>,
        epoch: Epoch,
        end: TurnEnd,
        effects: &mut Vec<Effect<M>>,
    ) -> Stay<M> {
        match stay {
            Stay::Running(mut resident) if resident.epoch == epoch && resident.turn == Turn::Now => {
                resident.turn = Turn::Between;
                match end {
                    TurnEnd::Settled => self.proceed(resident, effects),
                    TurnEnd::Unsettled => {
                        resident.unsettled += 1;
                        self.proceed(resident, effects)
                    }
                    TurnEnd::Trapped => self.abdicate(resident, effects),
                }
            }
            // It ended while its instance was being stopped for a failed commit, with which it fails too.
            Stay::Abdicating { epoch: ending, .. } if ending == epoch => stay,
            _ => misuse(stay, "turn ended", effects),
        }
    }

    fn settled<M>(&self, stay: Stay<M>, epoch: Epoch, effects: &mut Vec<Effect<M>>) -> Stay<M> {
        match stay {
            Stay::Running(mut resident) if resident.epoch == epoch && resident.unsettled > 0 => {
                resident.unsettled -= 1;
                self.proceed(resident, effects)
            }
            Stay::Abdicating { epoch: ending, unsettled, instance, waiting }
                if ending == epoch && unsettled > 0 =>
            {
                self.end_or_wait(epoch, unsettled - 1, instance, waiting, effects)
            }
            // A notice that was under way when the commit before it failed.
            stay => stay,
        }
    }

    fn commit_failed<M>(&self, stay: Stay<M>, epoch: Epoch, effects: &mut Vec<Effect<M>>) -> Stay<M> {
        match stay {
            Stay::Running(mut resident) if resident.epoch == epoch => {
                resident.unsettled = 0;
                self.abdicate(resident, effects)
            }
            Stay::Abdicating { epoch: ending, instance, waiting, .. } if ending == epoch => {
                self.end_or_wait(epoch, 0, instance, waiting, effects)
            }
            stay => stay,
        }
    }

    fn asked_to_move<M>(&self, stay: Stay<M>, to: Core, effects: &mut Vec<Effect<M>>) -> Stay<M> {
        let why = match stay {
            Stay::Running(_) | Stay::Idle { .. } if to == self.here => MoveRefused::There,
            Stay::Idle { epoch } => {
                let resident = Resident::new(epoch, VecDeque::new());
                return self
                    .proceed(Resident { aim: Aim::Leave { to, asked: Asked::No }, ..resident }, effects);
            }
            Stay::Running(resident) if resident.aim == Aim::Serve => {
                return self
                    .proceed(Resident { aim: Aim::Leave { to, asked: Asked::No }, ..resident }, effects);
            }
            Stay::Running(Resident { aim: Aim::End, .. })
            | Stay::Undoing { .. }
            | Stay::Abdicating { .. } => MoveRefused::Ends,
            Stay::Running(_) => MoveRefused::Busy,
            Stay::Empty | Stay::Starting { .. } | Stay::Expecting { .. } => MoveRefused::NotHere,
        };
        effects.push(Effect::MoveRefused { to, why });
        stay
    }

    fn may_travel<M>(&self, stay: Stay<M>, epoch: Epoch, effects: &mut Vec<Effect<M>>) -> Stay<M> {
        match stay {
            Stay::Running(Resident {
                epoch: held,
                turn: Turn::Between,
                unsettled: 0,
                waiting,
                aim: Aim::Leave { to, asked: Asked::Yes },
            }) if held == epoch => {
                effects.push(Effect::Change(Change::Depart { from: self.here, to }));
                effects.push(Effect::Depart { to, epoch, waiting });
                Stay::Empty
            }
            // The move was given up meanwhile.
            stay => stay,
        }
    }

    fn move_expired<M>(&self, stay: Stay<M>, epoch: Epoch, effects: &mut Vec<Effect<M>>) -> Stay<M> {
        match stay {
            Stay::Running(mut resident) if resident.epoch == epoch => {
                if let Aim::Leave { to, .. } = resident.aim {
                    effects.push(Effect::MoveRefused { to, why: MoveRefused::Expired });
                    resident.aim = Aim::Serve;
                }
                self.proceed(resident, effects)
            }
            stay => stay,
        }
    }

    fn asked_to_end<M>(&self, stay: Stay<M>, how: Evict, effects: &mut Vec<Effect<M>>) -> Stay<M> {
        match (stay, how) {
            (Stay::Idle { epoch }, _) => self.abdicate(Resident::new(epoch, VecDeque::new()), effects),
            (Stay::Running(mut resident), Evict::AfterTurn) => {
                if let Aim::Leave { to, .. } = resident.aim {
                    effects.push(Effect::MoveRefused { to, why: MoveRefused::Ends });
                }
                resident.aim = Aim::End;
                self.proceed(resident, effects)
            }
            (stay @ Stay::Running(_), Evict::IfIdle) => {
                effects.push(Effect::EvictRefused(EvictRefused::NotIdle));
                stay
            }
            // It ends already.
            (stay @ (Stay::Undoing { .. } | Stay::Abdicating { .. }), _) => stay,
            (stay @ (Stay::Empty | Stay::Starting { .. } | Stay::Expecting { .. }), _) => {
                effects.push(Effect::EvictRefused(EvictRefused::NotHere));
                stay
            }
        }
    }

    fn stopped<M>(&self, stay: Stay<M>, epoch: Epoch, effects: &mut Vec<Effect<M>>) -> Stay<M> {
        match stay {
            Stay::Undoing { epoch: ending, waiting } if ending == epoch => {
                self.give_up(waiting, Refusal::StaleEpoch, effects)
            }
            Stay::Abdicating { epoch: ending, unsettled, waiting, .. } if ending == epoch => {
                self.end_or_wait(epoch, unsettled, Stopping::Done, waiting, effects)
            }
            stay => misuse(stay, "stopped", effects),
        }
    }

    /// What an object worker does between two turns; nothing while one runs.
    fn proceed<M>(&self, mut resident: Resident<M>, effects: &mut Vec<Effect<M>>) -> Stay<M> {
        if resident.turn == Turn::Now {
            return Stay::Running(resident);
        }
        match resident.aim {
            Aim::Serve if resident.unsettled < self.limits.unsettled_max => {
                if let Some(message) = resident.waiting.pop_front() {
                    effects.push(Effect::Begin { epoch: resident.epoch, message });
                    resident.turn = Turn::Now;
                }
            }
            Aim::Leave { to, asked: Asked::No } if resident.unsettled == 0 => {
                effects.push(Effect::AwaitTravel { epoch: resident.epoch });
                resident.aim = Aim::Leave { to, asked: Asked::Yes };
            }
            Aim::End if resident.unsettled == 0 => return self.abdicate(resident, effects),
            Aim::Serve | Aim::Leave { .. } | Aim::End => {}
        }
        Stay::Running(resident)
    }

    /// Ends the instance. A turn that runs in it ends with it.
    fn abdicate<M>(&self, resident: Resident<M>, effects: &mut Vec<Effect<M>>) -> Stay<M> {
        let Resident { epoch, unsettled, waiting, aim, .. } = resident;
        if let Aim::Leave { to, .. } = aim {
            effects.push(Effect::MoveRefused { to, why: MoveRefused::Ends });
        }
        effects.push(Effect::Change(Change::Abdicate { core: self.here }));
        effects.push(Effect::Stop { epoch });
        Stay::Abdicating { epoch, unsettled, instance: Stopping::Asked, waiting }
    }

    /// The object is free only when its instance is gone and its turns have settled: the next instance must read what
    /// they wrote.
    fn end_or_wait<M>(
        &self,
        epoch: Epoch,
        unsettled: u16,
        instance: Stopping,
        waiting: VecDeque<Message<M>>,
        effects: &mut Vec<Effect<M>>,
    ) -> Stay<M> {
        if unsettled > 0 || instance == Stopping::Asked {
            return Stay::Abdicating { epoch, unsettled, instance, waiting };
        }
        if waiting.is_empty() {
            effects.push(Effect::Change(Change::End { core: self.here }));
            return Stay::Empty;
        }
        effects.push(Effect::Change(Change::Restart { core: self.here }));
        effects.push(Effect::Start { above: Some(epoch) });
        Stay::Starting { above: Some(epoch), waiting }
    }
}

impl<M> Stay<M> {
    /// The state in a word, for logs and `berth objects show`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Empty => "absent",
            Self::Starting { .. } => "starting",
            Self::Undoing { .. } | Self::Abdicating { .. } => "abdicating",
            Self::Expecting { .. } => "expected",
            Self::Running(Resident { aim: Aim::Leave { .. }, .. }) => "about to move",
            Self::Running(_) => "running",
            Self::Idle { .. } => "idle",
        }
    }

    /// How many messages wait here.
    pub fn waiting(&self) -> usize {
        match self {
            Self::Empty | Self::Idle { .. } => 0,
            Self::Starting { waiting, .. }
            | Self::Undoing { waiting, .. }
            | Self::Expecting { waiting }
            | Self::Abdicating { waiting, .. }
            | Self::Running(Resident { waiting, .. }) => waiting.len(),
        }
    }
}

impl<M> Resident<M> {
    fn new(epoch: Epoch, waiting: VecDeque<Message<M>>) -> Self {
        Self { epoch, turn: Turn::Between, unsettled: 0, waiting, aim: Aim::Serve }
    }
}

fn claimed<M>(
    stay: Stay<M>,
    above: Option<Epoch>,
    message: Message<M>,
    effects: &mut Vec<Effect<M>>,
) -> Stay<M> {
    if !matches!(stay, Stay::Empty) {
        effects.push(Effect::Refuse { message, why: Refusal::Astray });
        return misuse(stay, "claimed", effects);
    }
    effects.push(Effect::Start { above });
    Stay::Starting { above, waiting: VecDeque::from([message]) }
}

fn quiet<M>(stay: Stay<M>) -> Stay<M> {
    match stay {
        Stay::Running(Resident { epoch, turn: Turn::Between, unsettled: 0, waiting, aim: Aim::Serve })
            if waiting.is_empty() =>
        {
            Stay::Idle { epoch }
        }
        // It has had something to do since.
        stay => stay,
    }
}

fn misuse<M>(stay: Stay<M>, event: &'static str, effects: &mut Vec<Effect<M>>) -> Stay<M> {
    effects.push(Effect::Misuse(Misuse { event, stay: stay.name() }));
    stay
}
