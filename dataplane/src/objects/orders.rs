//! What operators want of objects that live: told to the core where one lives, on which alone it can be done.

use std::time::{Duration, Instant};

use berth_protocol::object::ObjectKey;
use berth_protocol::ownership::{Berth, Core};
use tokio::sync::{mpsc, oneshot};

use super::tally::Tallied;
use super::{Objects, lock};

/// Orders that wait for one core. They are few: who gives more is told to come again.
pub(super) const WAITING_MAX: usize = 64;
/// How long an object that should move may be held by a turn, a commit or an open resource.
pub(super) const MOVE_WITHIN: Duration = Duration::from_secs(5);
/// And how long its operator waits for what comes of an order.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(8);
/// How often somebody looks.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// To live on that core.
    Move(Core),
    /// To be given up after its turn.
    Evict,
    /// To have no instance, for who left the note of this number.
    Hold(u64),
    /// To know why it lives where it does, and what it does there.
    Why,
}

/// A wish on its way to a core.
pub(super) struct Order {
    pub(super) object: ObjectKey,
    pub(super) wish: Wish,
    /// Dropped, it is under way.
    pub(super) answer: oneshot::Sender<Answer>,
}

/// What a core says of a wish.
pub(super) enum Answer {
    /// It is refused.
    No(String),
    /// What was to be known.
    Here(Here),
}

/// What the core knows of an object that lives there.
pub(super) struct Here {
    /// Why it lives there, in a sentence.
    pub(super) why: String,
    /// What was counted of it.
    pub(super) tallied: Option<Tallied>,
}

/// Why something that was wanted does not happen.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotDone {
    /// The object or its core do not let it.
    #[error("{0}")]
    Refused(String),
    /// The node has no such core.
    #[error("core {core}: this node has the cores 0 to {last}")]
    NoSuchCore {
        /// Which.
        core: u16,
        /// The last one.
        last: usize,
    },
}

pub(super) fn refused(words: &str) -> NotDone {
    NotDone::Refused(words.to_owned())
}

impl Objects {
    /// A core takes orders from now on.
    pub(super) fn take_orders(&self, core: u16) -> mpsc::Receiver<Order> {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        lock(&self.orders).insert(core, sender);
        receiver
    }

    pub(super) fn order(
        &self,
        core: Core,
        object: ObjectKey,
        wish: Wish,
    ) -> Result<oneshot::Receiver<Answer>, NotDone> {
        let (answer, receiver) = oneshot::channel();
        let orders = lock(&self.orders);
        let sender = orders.get(&u16::from(core.0)).ok_or_else(|| refused("its core takes no orders"))?;
        let order = Order { object, wish, answer };
        sender.try_send(order).map_err(|_| refused("its core has too many orders; try again in a moment"))?;
        Ok(receiver)
    }

    /// Moves an object that lives to another core. Waits until it is there: not for a core.
    pub(crate) fn move_to(&self, object: ObjectKey, to: u16) -> Result<(), NotDone> {
        let last = lock(&self.orders).len().saturating_sub(1);
        let target = u8::try_from(to).ok().filter(|core| usize::from(*core) <= last).map(Core);
        let target = target.ok_or(NotDone::NoSuchCore { core: to, last })?;
        let from = self.berths.find(&object).core();
        let from = from
            .ok_or_else(|| refused("it does not live now: its next message starts it where that arrives"))?;
        let mut answer = self.order(from, object, Wish::Move(target))?;
        self.wait_for(&mut answer, || match self.berths.find(&object) {
            Berth::Held { core, .. } => core == target,
            _ => false,
        })
    }

    /// Gives up the instance of an object. Waits until it is gone: not for a core.
    pub(crate) fn evict(&self, object: ObjectKey) -> Result<(), NotDone> {
        let before = self.berths.find(&object);
        let Some(core) = before.core() else { return Ok(()) };
        let mut answer = self.order(core, object, Wish::Evict)?;
        // A message that waits starts the next one at once.
        self.wait_for(&mut answer, || {
            let now = self.berths.find(&object);
            now.core().is_none() || now.epoch() > before.epoch()
        })
    }

    /// What is known of an object that lives on that core. Waits for the core: not for a core.
    pub(super) fn here(&self, object: ObjectKey, core: Core) -> Option<Here> {
        match self.order(core, object, Wish::Why).ok()?.blocking_recv().ok()? {
            Answer::Here(here) => Some(here),
            Answer::No(_) => None,
        }
    }

    fn wait_for(
        &self,
        answer: &mut oneshot::Receiver<Answer>,
        done: impl Fn() -> bool,
    ) -> Result<(), NotDone> {
        let began = Instant::now();
        loop {
            if let Ok(Answer::No(reason)) = answer.try_recv() {
                return Err(NotDone::Refused(reason));
            }
            if done() {
                return Ok(());
            }
            if began.elapsed() >= ANSWER_WITHIN {
                return Err(refused("it was not done in time; ask again where it lives"));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}
