//! The receiving half of an endpoint, and the end of a pass of a core's loop.
//!
//! `drain` hands out messages in batches within a budget, so that a flood of mail cannot starve the core's
//! sockets:
//!
//! - control first, always: its lanes are short, and replies free what other cores hold;
//! - then requests and tossed datagrams, which alternate in going first, so that neither can starve the
//!   other;
//! - within a class, senders in rotation, at most [`QUANTUM`] messages each time, going on next time where
//!   this one stopped.

use std::sync::Arc;

use crate::lane::Reader;
use crate::outbox::Outbox;
use crate::wake::{Doorbell, Shared, Site, Sleep};
use crate::{Class, CoreId};

/// Where the other cores' messages arrive. Made by [`mesh`](crate::mesh), as a part of an endpoint.
pub struct Inbox<T> {
    core: CoreId,
    shared: Arc<Shared>,
    links: Vec<InLink<T>>,
    /// By class: the position in `links` of the sender to visit next.
    next: [usize; 3],
    /// Who goes first after control, next time.
    second: Class,
    /// Positions in `links` that have room again which their senders have not been told of.
    untold: Vec<usize>,
}

struct InLink<T> {
    from: CoreId,
    lanes: [Reader<T>; 3],
    /// The lanes with such room. Any of them set means that the link is in `untold`.
    drained: [bool; 3],
}

impl<T> Inbox<T> {
    pub(crate) fn new(core: CoreId, shared: Arc<Shared>) -> Self {
        let senders = shared.cores() - 1;
        Self {
            core,
            shared,
            links: Vec::with_capacity(senders),
            next: [0; 3],
            second: Class::Request,
            untold: Vec::with_capacity(senders),
        }
    }

    pub(crate) fn connect(&mut self, from: CoreId, lanes: [Reader<T>; 3]) {
        self.links.push(InLink { from, lanes, drained: [false; 3] });
    }

    /// The core that owns this inbox.
    pub fn core(&self) -> CoreId {
        self.core
    }

    /// Delivers at most `budget` messages and says how many. Fewer than the budget means that all lanes were
    /// seen empty.
    ///
    /// A panic of `deliver` loses the one message that it was given, no other.
    pub fn drain(&mut self, budget: usize, mut deliver: impl FnMut(CoreId, Class, T)) -> usize {
        let mut left = budget;
        for class in self.order() {
            left -= self.drain_class(class, left, &mut deliver);
        }
        budget - left
    }

    /// The end of a pass: tells other cores of the mail sent and the room made in it, ringing those that
    /// sleep. It costs one full fence if there is anything to tell, and nothing otherwise.
    ///
    /// Both halves of the endpoint take part, because one fence serves both.
    pub fn flush(&mut self, outbox: &mut Outbox<T>, doorbell: &impl Doorbell) {
        if outbox.has_untold() || !self.untold.is_empty() {
            self.shared.full_fence(Site::FlushFence);
            self.tell(outbox, doorbell);
        }
    }

    /// To be called before the core waits for an event. It flushes, and looks at everything once more.
    ///
    /// After [`Sleep::May`] the core may wait, and calls [`Self::woke`] when it is back, whatever woke it.
    pub fn prepare_sleep(&mut self, outbox: &mut Outbox<T>, doorbell: &impl Doorbell) -> Sleep {
        self.shared.set_asleep(self.core);
        outbox.want_room();
        self.shared.full_fence(Site::SleepFence);
        self.tell(outbox, doorbell);
        if self.has_mail() || outbox.has_space_to_take() {
            self.woke();
            return Sleep::MustNot;
        }
        Sleep::May
    }

    /// The core is awake: others need not ring.
    pub fn woke(&mut self) {
        self.shared.set_awake(self.core);
    }

    fn order(&mut self) -> [Class; 3] {
        let (second, third) = match self.second {
            Class::Toss => (Class::Toss, Class::Request),
            _ => (Class::Request, Class::Toss),
        };
        self.second = third;
        [Class::Control, second, third]
    }

    /// Goes round the senders until the budget is used, or until a whole round left no lane with more to
    /// take.
    fn drain_class(
        &mut self,
        class: Class,
        budget: usize,
        deliver: &mut impl FnMut(CoreId, Class, T),
    ) -> usize {
        let mut left = budget;
        let mut emptied = 0;
        while left > 0 && emptied < self.links.len() {
            let at = self.next[class.lane()];
            self.next[class.lane()] = if at + 1 == self.links.len() { 0 } else { at + 1 };
            let most = left.min(QUANTUM);
            let took = self.drain_lane(at, class, most, deliver);
            left -= took;
            emptied = if took < most { emptied + 1 } else { 0 };
        }
        budget - left
    }

    fn drain_lane(
        &mut self,
        at: usize,
        class: Class,
        most: usize,
        deliver: &mut impl FnMut(CoreId, Class, T),
    ) -> usize {
        let link = &mut self.links[at];
        let ready = link.lanes[class.lane()].ready(most);
        if ready == 0 {
            return 0;
        }
        // Noted before the delivery, because a panic in it gives room back as well.
        if link.drained == [false; 3] {
            self.untold.push(at);
        }
        link.drained[class.lane()] = true;
        let from = link.from;
        link.lanes[class.lane()].take(ready, |message| deliver(from, class, message));
        ready
    }

    fn has_mail(&self) -> bool {
        self.shared.keeps(Site::MailRecheck)
            && self.links.iter().any(|link| link.lanes.iter().any(Reader::has_mail))
    }

    /// Tells receivers of mail and senders of room. The caller has passed a full fence since both were
    /// published.
    fn tell(&mut self, outbox: &mut Outbox<T>, doorbell: &impl Doorbell) {
        debug_assert_eq!(self.core, outbox.core(), "the two halves are of one endpoint");
        outbox.tell(doorbell);
        for at in self.untold.drain(..) {
            let link = &mut self.links[at];
            let drained = std::mem::take(&mut link.drained);
            let shared_link = self.shared.link(link.from, self.core);
            // Every flag is looked at: `any` would stop at the first and leave the others set.
            let wanted =
                (0..drained.len()).filter(|&lane| drained[lane] && shared_link.take_wanted(lane)).count();
            if wanted > 0 {
                self.shared.tell(self.core, link.from, doorbell);
            }
        }
    }
}

/// How many messages of one lane are taken before the next sender is visited: enough to give room back in few
/// stores, few enough that at a budget of 64 four senders are heard in each drain.
const QUANTUM: usize = 16;
