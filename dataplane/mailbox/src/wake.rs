//! The wake protocol: how a core sleeps without missing anything, and is rung at most once for it.
//!
//! Two facts wake a core: mail in its inbox, and room in a lane that it asked for. Both are written to a
//! ring's position by one core and looked for by another, and both follow the same pattern (Dekker's):
//!
//! ```text
//!   the one who has news                      the one who wants to sleep
//!   1  publish: tail (mail) or head (room)    1  asleep = true
//!   2  full fence                             2  full fence
//!   3  asleep?  claim it (CAS), and ring      3  look again at all tails (mail) and wanted heads (room)
//!                                             4  nothing there: sleep; else asleep = false
//! ```
//!
//! The two fences have an order. If the sleeper's is first, step 3 on the left sees `asleep`, and rings. If
//! the other is first, step 3 on the right sees the news, and does not sleep. Without either fence both may
//! read old values, and the wake-up is lost; without the second look it is lost without any reordering. The
//! models in `loom_models.rs` show all of these.
//!
//! - **One ring per sleep**: only `prepare_sleep` sets `asleep`, and of all who find it set, only the one
//!   whose compare-and-swap to `false` succeeds rings.
//! - **One fence per pass**: step 1 happens at once (a receiver that polls sees a message immediately); steps
//!   2 and 3 happen once for all news of a pass of the core's loop, in `flush`. `prepare_sleep` does them
//!   too, under the fence that it needs anyway, so that a core never sleeps on untold news.
//! - **`wanted`** only saves rings: a core that drained a lane tells its sender only if that one waits for
//!   room in it. While the sender is awake it looks by itself, each pass; it sets the flags in
//!   `prepare_sleep`, each time anew, between `asleep` and the fence.
//! - A ring may come late, when the core is awake again: it is harmless. A ring that gets lost is not.

use std::sync::atomic::Ordering;

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, fence};

use crate::CoreId;
use crate::counters::LinkCounters;

/// How the runtime wakes a core that sleeps. The mailbox decides when; this is how.
///
/// It gets the core as an argument because a ring usually goes through something of the *ringing* core (its
/// own io_uring for MSG_RING): one doorbell per core reaches all others, and need not be shared between
/// threads.
pub trait Doorbell {
    /// Makes `core` return from its wait, or from the next one if it is still on the way there.
    ///
    /// It must not get lost: nobody rings again before that core has woken. If it may be queued (an entry in
    /// a submission queue), the runtime submits it before this core waits, and tries again if the kernel
    /// refuses.
    fn ring(&self, core: CoreId);
}

/// Whether a core may wait for an event now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a core that sleeps on mail does not wake"]
pub enum Sleep {
    /// Nothing waits for this core. Whoever has news from now on rings.
    May,
    /// There is mail, or room that was asked for. The core counts as awake again.
    MustNot,
}

/// What all cores of a mesh share beside the lanes: a flag for each core, and a block for each link.
pub(crate) struct Shared {
    asleep: Vec<Padded<AtomicBool>>,
    links: Vec<SharedLink>,
    #[cfg(loom)]
    planted: Planted,
}

/// What one link shares: `counters` are the sender's; `wanted` is set by the sender and taken by the
/// receiver. The two are on different lines, because counters change with each message.
pub(crate) struct SharedLink {
    pub(crate) counters: Padded<LinkCounters>,
    wanted: Padded<[AtomicBool; 3]>,
}

/// Cache lines of its own for a value that one core writes and others read. Two lines, because the hardware
/// prefetches them in pairs.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(T);

impl<T> std::ops::Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl Shared {
    pub(crate) fn new(cores: usize) -> Self {
        Self {
            asleep: (0..cores).map(|_| Padded(AtomicBool::new(false))).collect(),
            links: (0..cores * cores).map(|_| SharedLink::new()).collect(),
            #[cfg(loom)]
            planted: Planted::Nothing,
        }
    }

    pub(crate) fn cores(&self) -> usize {
        self.asleep.len()
    }

    pub(crate) fn link(&self, from: CoreId, to: CoreId) -> &SharedLink {
        &self.links[from.index() * self.cores() + to.index()]
    }

    pub(crate) fn links(&self) -> impl Iterator<Item = (CoreId, CoreId, &SharedLink)> {
        let cores = self.cores();
        self.links
            .iter()
            .enumerate()
            .map(move |(at, link)| (CoreId::new(at / cores), CoreId::new(at % cores), link))
            .filter(|(from, to, _)| from != to)
    }

    /// Step 1 of going to sleep. Relaxed, because the fence that follows is what orders it.
    pub(crate) fn set_asleep(&self, core: CoreId) {
        self.asleep[core.index()].store(true, Ordering::Relaxed);
    }

    /// No fence is needed here: a core that is awake looks at its lanes before it sleeps again.
    pub(crate) fn set_awake(&self, core: CoreId) {
        self.asleep[core.index()].store(false, Ordering::Relaxed);
    }

    pub(crate) fn full_fence(&self, site: Site) {
        if self.keeps(site) {
            fence(Ordering::SeqCst);
        }
    }

    /// Step 3 of the one who has news, after its fence: rings `to` if it sleeps and nobody else has rung.
    ///
    /// The load before the claim keeps the line shared while the receiver is awake, which is the common case.
    pub(crate) fn tell(&self, from: CoreId, to: CoreId, doorbell: &impl Doorbell) {
        let asleep = &self.asleep[to.index()];
        let counters = &self.link(from, to).counters;
        if asleep.load(Ordering::Relaxed) && self.claims(asleep) {
            counters.rung();
            doorbell.ring(to);
        } else {
            counters.saved();
        }
    }
}

impl SharedLink {
    fn new() -> Self {
        Self { counters: Padded::default(), wanted: Padded([(); 3].map(|()| AtomicBool::new(false))) }
    }

    /// The sender, on its way to sleep, asks to be told of room in lane `lane`.
    ///
    /// Release, after `asleep`: whoever takes this request also sees that the sender sleeps.
    pub(crate) fn want_room(&self, lane: usize) {
        self.wanted[lane].store(true, Ordering::Release);
    }

    /// The receiver has made room, and its fence is done: does the sender want to know?
    ///
    /// It may take a request that is newer than the room it tells of. The sender is then rung for nothing,
    /// finds its lane full, and asks again when it goes back to sleep.
    pub(crate) fn take_wanted(&self, lane: usize) -> bool {
        self.wanted[lane].load(Ordering::Relaxed) && self.wanted[lane].swap(false, Ordering::Acquire)
    }
}

/// Of all who find a core asleep, one gets `true`: that one rings. Nothing is written when the core is awake.
fn claim(asleep: &AtomicBool) -> bool {
    asleep.compare_exchange(true, false, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// The places of the protocol that a model can leave out, to prove that it would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Site {
    /// Between publishing and the look at `asleep`.
    FlushFence,
    /// Between `asleep = true` and the second look.
    SleepFence,
    /// The second look, for mail.
    MailRecheck,
    /// The second look, for room.
    RoomRecheck,
}

#[cfg(not(loom))]
impl Shared {
    /// Every step is kept: this is the real thing.
    #[inline]
    pub(crate) fn keeps(&self, _site: Site) -> bool {
        true
    }

    #[inline]
    fn claims(&self, asleep: &AtomicBool) -> bool {
        claim(asleep)
    }
}

/// A mistake in the protocol, for the models alone.
#[cfg(loom)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Planted {
    Nothing,
    Without(Site),
    /// Rings whenever the receiver sleeps, without claiming the ring.
    RingWithoutClaim,
}

#[cfg(loom)]
impl Shared {
    #[cfg(test)]
    pub(crate) fn with_planted(cores: usize, planted: Planted) -> Self {
        Self { planted, ..Self::new(cores) }
    }

    pub(crate) fn keeps(&self, site: Site) -> bool {
        self.planted != Planted::Without(site)
    }

    fn claims(&self, asleep: &AtomicBool) -> bool {
        self.planted == Planted::RingWithoutClaim || claim(asleep)
    }
}
