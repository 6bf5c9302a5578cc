//! The sending half of an endpoint.
//!
//! `send` publishes at once and never waits. Who has to be told is noted here, and told by [`Inbox::flush`]
//! once per pass. Which lanes a task waits for is noted here too; [`Outbox::take_space`] says when there is
//! room.
//!
//! There is no overflow list behind a full lane: a control message that finds no room stays with the task
//! that sends it. So the memory behind a slow core is bounded by what its senders hold anyway, the task feels
//! the back-pressure, and the loop, which never waits, goes on draining.
//!
//! [`Inbox::flush`]: crate::Inbox::flush

use std::fmt;
use std::sync::Arc;

use crate::counters::Counters;
use crate::lane::Writer;
use crate::wake::{Doorbell, Shared, Site};
use crate::{Class, CoreId};

/// Where messages to the other cores leave. Made by [`mesh`](crate::mesh), as a part of an endpoint.
pub struct Outbox<T> {
    core: CoreId,
    shared: Arc<Shared>,
    /// By receiver; `None` at this core's own place.
    links: Vec<Option<OutLink<T>>>,
    /// The receivers with mail that they have not been told of.
    untold: Vec<CoreId>,
    /// The lanes for whose room somebody here waits, each once.
    waiting: Vec<(CoreId, Class)>,
}

struct OutLink<T> {
    lanes: [Writer<T>; 3],
    news: News,
}

/// Whether a link's receiver is in `untold` already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum News {
    Told,
    Untold,
}

/// The lane has no room: the message comes back, and its class says what to do with it.
///
/// [`Class::Control`]: wait for room and send again. [`Class::Request`]: shed, 503. [`Class::Toss`]: let go; the
/// mailbox has counted it as dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Full<T>(pub T);

impl<T> fmt::Debug for Full<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Full(..)")
    }
}

impl<T> fmt::Display for Full<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the lane to that core is full: it does not keep up; wait for room or shed the message")
    }
}

impl<T> std::error::Error for Full<T> {}

impl<T> Outbox<T> {
    pub(crate) fn new(core: CoreId, shared: Arc<Shared>) -> Self {
        let cores = shared.cores();
        Self {
            core,
            shared,
            links: (0..cores).map(|_| None).collect(),
            untold: Vec::with_capacity(cores),
            waiting: Vec::with_capacity(cores * Class::ALL.len()),
        }
    }

    pub(crate) fn connect(&mut self, to: CoreId, lanes: [Writer<T>; 3]) {
        self.links[to.index()] = Some(OutLink { lanes, news: News::Told });
    }

    /// The core that owns this outbox.
    pub fn core(&self) -> CoreId {
        self.core
    }

    /// The core with this index, if it is another core of this mesh: `None` means "here", or nowhere.
    pub fn peer(&self, index: usize) -> Option<CoreId> {
        self.links.get(index)?.as_ref().map(|_| CoreId::new(index))
    }

    /// The counters of the whole mesh.
    pub fn counters(&self) -> Counters {
        Counters(Arc::clone(&self.shared))
    }

    /// Puts a message into the lane of its class. A receiver that polls can see it at once; one that sleeps
    /// is rung by the next [`Inbox::flush`](crate::Inbox::flush).
    ///
    /// # Panics
    ///
    /// If `to` is not one of this outbox's [peers](Self::peer).
    #[inline]
    pub fn send(&mut self, to: CoreId, class: Class, message: T) -> Result<(), Full<T>> {
        let link = peer_link(&mut self.links, to);
        let counters = &self.shared.link(self.core, to).counters;
        if let Err(message) = link.lanes[class.lane()].push(message) {
            counters.full(class);
            return Err(Full(message));
        }
        counters.sent(class);
        if link.news == News::Told {
            link.news = News::Untold;
            self.untold.push(to);
        }
        Ok(())
    }

    /// Asks for word of room in a lane that was full: [`Self::take_space`] gives it, and this core does not
    /// sleep through it.
    ///
    /// # Panics
    ///
    /// If `to` is not one of this outbox's [peers](Self::peer).
    pub fn wait_for_space(&mut self, to: CoreId, class: Class) {
        assert!(self.peer(to.index()).is_some(), "{to} is not a peer of {}", self.core);
        if !self.waiting.contains(&(to, class)) {
            self.waiting.push((to, class));
        }
    }

    /// Asks the receivers of the lanes that are waited for to ring: the last thing before the fence of
    /// `prepare_sleep`.
    pub(crate) fn want_room(&self) {
        for &(to, class) in &self.waiting {
            self.shared.link(self.core, to).want_room(class.lane());
        }
    }

    /// Reports the lanes that were waited for and have room now, with the number of free slots, and forgets
    /// them. To be called once per pass.
    pub fn take_space(&mut self, mut each: impl FnMut(CoreId, Class, usize)) {
        let Self { links, waiting, .. } = self;
        waiting.retain(|&(to, class)| {
            let room = peer_link(links, to).lanes[class.lane()].room();
            if room > 0 {
                each(to, class, room);
            }
            room == 0
        });
    }

    /// Whether a lane that is waited for has room: the second look of the wake protocol.
    pub(crate) fn has_space_to_take(&self) -> bool {
        self.shared.keeps(Site::RoomRecheck)
            && self.waiting.iter().any(|&(to, class)| {
                self.links[to.index()].as_ref().is_some_and(|link| link.lanes[class.lane()].has_room())
            })
    }

    pub(crate) fn has_untold(&self) -> bool {
        !self.untold.is_empty()
    }

    /// Tells the receivers of new mail. The caller has passed a full fence since the last `send`.
    pub(crate) fn tell(&mut self, doorbell: &impl Doorbell) {
        for to in self.untold.drain(..) {
            peer_link(&mut self.links, to).news = News::Told;
            self.shared.tell(self.core, to, doorbell);
        }
    }
}

fn peer_link<T>(links: &mut [Option<OutLink<T>>], to: CoreId) -> &mut OutLink<T> {
    links[to.index()].as_mut().expect("a core id comes from `peer` of this outbox")
}
