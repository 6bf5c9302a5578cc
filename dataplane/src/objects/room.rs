//! Room for objects: how many of them live at a time, and which are given up for others.
//!
//! A node has a number of places ([`Room`]), below what the kernel could give. An object that starts takes as many as its
//! class needs, and keeps them until its instance is gone: so no start finds the engine full. Where none is free, the object
//! of this core that has had nothing to do for the longest time is given up, or else one of another core; where all are busy,
//! the start waits for a moment, and is refused.
//!
//! Which go before that is decided by [`plan`], once a second.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_isolate_host::Memory;
use berth_protocol::object::ObjectKey;
use tokio::sync::{Mutex as Line, mpsc, oneshot};

use super::live::CoreObjects;
use super::lock;
use crate::workers::CoreWorkers;

/// How often somebody looks what may be given up, and whether memory is short.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a start waits for a place while all objects are busy. Most turns are over long before.
const PLACE_WITHIN: Duration = Duration::from_millis(500);
/// How often it looks then.
const LOOK_FOR_PLACE_EVERY: Duration = Duration::from_millis(2);
/// Starts of one core that wait for a place; the next one is refused at once.
const WAITING_MAX: u32 = 256;
/// One place in so many is kept free if it can be, so that a start need not wait for another object's end.
const FREE_PART: u32 = 16;
/// One idle object in so many is given up with each look while memory is short.
const SHORT_PART: usize = 8;
/// How many of the coldest objects are remembered, so that not all are looked at for each.
const COLDEST: usize = 64;
/// Orders to give one up that wait for a core.
const ASKED_MAX: usize = 64;
/// So many are given up before others have their turn on the core.
const AT_A_TIME: usize = 8;

type Door = mpsc::Sender<oneshot::Sender<bool>>;

/// The places of a node.
pub(crate) struct Room {
    places: u32,
    idle_after: Duration,
    taken: AtomicU32,
    is_short: AtomicBool,
    /// By which cores hear that others want a place.
    doors: Mutex<Vec<(u16, Door)>>,
}

/// Places that an object has. Dropped after its instance, they are free.
pub(super) struct Place {
    room: Arc<Room>,
    places: u32,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(self.places, Relaxed);
    }
}

impl Room {
    /// So many places, for objects that are given up after such a time without a turn.
    pub(crate) fn new(places: u32, idle_after: Duration) -> Self {
        let (taken, is_short) = (AtomicU32::new(0), AtomicBool::new(false));
        Self { places, idle_after, taken, is_short, doors: Mutex::default() }
    }

    /// How many there are.
    pub(crate) fn places(&self) -> u32 {
        self.places
    }

    /// How many objects have.
    pub(crate) fn taken(&self) -> u32 {
        self.taken.load(Relaxed)
    }

    fn take(self: &Arc<Self>, places: u32) -> Option<Place> {
        let take = |taken: u32| taken.checked_add(places).filter(|sum| *sum <= self.places);
        self.taken.fetch_update(Relaxed, Relaxed, take).ok()?;
        Some(Place { room: Arc::clone(self), places })
    }

    /// How many of those that are taken should be free, for each of the cores.
    fn over(&self) -> usize {
        let over = self.taken().saturating_sub(self.places - self.places / FREE_PART);
        (over as usize).div_ceil(lock(&self.doors).len().max(1))
    }

    /// Looks whether memory is short, for as long as there is a room. It reads files: not for a core.
    pub(super) fn watch_memory(self: &Arc<Self>) -> std::io::Result<()> {
        let room = Arc::downgrade(self);
        std::thread::Builder::new().name("memory".into()).spawn(move || {
            while let Some(room) = room.upgrade() {
                let memory = Memory::look();
                if room.is_short.swap(memory.is_short(), Relaxed) != memory.is_short() {
                    let (is_short, available) = (memory.is_short(), memory.available);
                    tracing::info!(is_short, available, stalled = memory.stalled, "objects.memory");
                }
                drop(room);
                std::thread::sleep(LOOK_EVERY);
            }
        })?;
        Ok(())
    }
}

/// An object that has nothing to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Idle {
    pub(super) object: ObjectKey,
    /// Since when.
    pub(super) since: Instant,
    /// What it has of memory, if somebody asked.
    pub(super) bytes: usize,
}

/// Why an object is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It has had nothing to do for long enough.
    Idle,
    /// Others want its place, or soon will.
    Room,
    /// Memory is short.
    Memory,
}

/// What decides on objects that have nothing to do.
struct Situation {
    now: Instant,
    idle_after: Duration,
    /// Whether memory is short.
    is_short: bool,
    /// How many are more than should be.
    over: usize,
}

/// Which of a core's idle objects are given up now: all that have been idle for long; while memory is short a part of the
/// rest, those first that hold most for the longest time; and the coldest, while there are too many.
fn plan(mut idle: Vec<Idle>, situation: &Situation) -> Vec<(Idle, Why)> {
    let age = |one: &Idle| situation.now.saturating_duration_since(one.since);
    let mut plan = Vec::new();
    idle.retain(|one| {
        let is_old = age(one) >= situation.idle_after;
        if is_old {
            plan.push((*one, Why::Idle));
        }
        !is_old
    });
    if situation.is_short {
        idle.sort_by_cached_key(|one| Reverse(one.bytes as u128 * age(one).as_millis()));
        let most = idle.len().div_ceil(SHORT_PART);
        plan.extend(idle.drain(..most).map(|one| (one, Why::Memory)));
    }
    let more = situation.over.saturating_sub(plan.len());
    plan.extend(coldest(idle, more).into_iter().map(|one| (one, Why::Room)));
    plan
}

/// The so many that have been idle for the longest time, these first.
fn coldest(mut idle: Vec<Idle>, most: usize) -> VecDeque<Idle> {
    if most == 0 {
        return VecDeque::new();
    }
    if idle.len() > most {
        idle.select_nth_unstable_by_key(most, |one| one.since);
        idle.truncate(most);
    }
    idle.sort_unstable_by_key(|one| one.since);
    idle.into()
}

/// What a core remembers of the places.
#[derive(Default)]
pub(super) struct Search {
    /// Objects that were the coldest a moment ago.
    coldest: RefCell<VecDeque<Idle>>,
    /// Who waits for a place, one after the other.
    line: Line<()>,
    waiting: Cell<u32>,
}

/// One waits, until this is dropped.
struct InLine<'a>(&'a Cell<u32>);

impl<'a> InLine<'a> {
    fn new(waiting: &'a Cell<u32>) -> Self {
        waiting.set(waiting.get() + 1);
        Self(waiting)
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Gives up what may be, and what other cores ask for. Called once, on the core.
pub(super) fn attend(workers: &Rc<CoreWorkers>) {
    let (door, mut asked) = mpsc::channel::<oneshot::Sender<bool>>(ASKED_MAX);
    lock(&workers.objects.node.room.doors).push((workers.objects.here(), door));
    let giving = Rc::downgrade(workers);
    berth_runtime::spawn(async move {
        while let Some(answer) = asked.recv().await {
            let Some(workers) = giving.upgrade() else { return };
            let _ = answer.send(workers.objects.give_up_coldest());
        }
    });
    let looking = Rc::downgrade(workers);
    berth_runtime::spawn(async move {
        loop {
            berth_runtime::sleep(LOOK_EVERY).await;
            let Some(workers) = looking.upgrade() else { return };
            workers.objects.look_after_room().await;
        }
    });
}

impl CoreObjects {
    /// Places for an object that starts; none, if all objects stay busy.
    pub(super) async fn find_place(&self, places: u32) -> Option<Place> {
        let search = &self.search;
        if search.waiting.get() == 0
            && let Some(place) = self.node.room.take(places)
        {
            return Some(place);
        }
        if search.waiting.get() >= WAITING_MAX {
            return None;
        }
        let _in_line = InLine::new(&search.waiting);
        berth_runtime::timeout(PLACE_WITHIN, self.wait_for_place(places)).await.ok()
    }

    async fn wait_for_place(&self, places: u32) -> Place {
        let _first = self.search.line.lock().await;
        loop {
            if let Some(place) = self.node.room.take(places) {
                return place;
            }
            if !self.give_up_coldest() && !self.ask_others().await {
                berth_runtime::sleep(LOOK_FOR_PLACE_EVERY).await;
            }
        }
    }

    /// Gives up the object of this core that has had nothing to do for the longest time. Whether there was one.
    fn give_up_coldest(&self) -> bool {
        loop {
            let next = self.search.coldest.borrow_mut().pop_front();
            let Some(one) = next else {
                let found = coldest(self.idle(false), COLDEST);
                if found.is_empty() {
                    return false;
                }
                *self.search.coldest.borrow_mut() = found;
                continue;
            };
            // It may have had something to do since it was found.
            if self.give_up(one.object, one.since) {
                self.count(Why::Room);
                return true;
            }
        }
    }

    /// Has another core give one up. Whether one did.
    async fn ask_others(&self) -> bool {
        let doors: Vec<(u16, Door)> = lock(&self.node.room.doors).clone();
        for (core, door) in doors {
            let (answer, told) = oneshot::channel();
            if core != self.here() && door.try_send(answer).is_ok() && told.await == Ok(true) {
                return true;
            }
        }
        false
    }

    /// Gives up what is to be given up now.
    async fn look_after_room(&self) {
        let room = &self.node.room;
        let is_short = room.is_short.load(Relaxed);
        let situation =
            Situation { now: Instant::now(), idle_after: room.idle_after, is_short, over: room.over() };
        let plan = plan(self.idle(is_short), &situation);
        for (number, (one, why)) in plan.into_iter().enumerate() {
            if number % AT_A_TIME == AT_A_TIME - 1 {
                berth_runtime::yield_now().await;
            }
            if self.give_up(one.object, one.since) {
                self.count(why);
            }
        }
    }

    fn count(&self, why: Why) {
        match why {
            Why::Idle => self.numbers.objects_given_up_idle.add(1),
            Why::Room => self.numbers.objects_given_up_for_room.add(1),
            Why::Memory => self.numbers.objects_given_up_for_memory.add(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use berth_protocol::object::{ObjectId, Scope, Slot};

    use super::*;

    const IDLE_AFTER: Duration = Duration::from_secs(60);

    /// Idle objects by the seconds that they have been so and their bytes; each is known by its place.
    fn idle(now: Instant, ages: &[(u64, usize)]) -> Vec<Idle> {
        let one = |(number, (age, bytes)): (usize, &(u64, usize))| Idle {
            object: ObjectKey {
                scope: Scope::new("zone", "Class"),
                id: ObjectId::random(Slot(0), [number as u8; 13]),
            },
            since: now - Duration::from_secs(*age),
            bytes: *bytes,
        };
        ages.iter().enumerate().map(one).collect()
    }

    /// What is planned for them, by their places.
    fn planned(ages: &[(u64, usize)], is_short: bool, over: usize) -> Vec<(usize, Why)> {
        let now = Instant::now() + Duration::from_secs(3600);
        let idle = idle(now, ages);
        let plan = plan(idle.clone(), &Situation { now, idle_after: IDLE_AFTER, is_short, over });
        let place = |one: &Idle| idle.iter().position(|other| other.object == one.object).unwrap();
        plan.iter().map(|(one, why)| (place(one), *why)).collect()
    }

    #[test]
    fn what_is_idle_stays_until_its_time_while_there_is_room() {
        let ages = [(59, 1), (60, 1), (0, 1 << 30), (3000, 1)];
        assert_eq!(planned(&ages, false, 0), [(1, Why::Idle), (3, Why::Idle)]);
        assert_eq!(planned(&[], true, 9), []);
    }

    #[test]
    fn the_coldest_go_where_there_are_too_many() {
        let ages = [(5, 9), (30, 1), (1, 1), (20, 1), (70, 1)];
        let expected = [(4, Why::Idle), (1, Why::Room), (3, Why::Room)];
        assert_eq!(planned(&ages, false, 3), expected, "what goes anyway counts");
        assert_eq!(planned(&ages, false, 99).len(), ages.len(), "not more than there are");
    }

    #[test]
    fn a_part_goes_while_memory_is_short_and_first_what_holds_most_for_longest() {
        let mut ages = vec![(10, 100); 9];
        ages[3] = (10, 1000);
        ages[7] = (50, 100);
        assert_eq!(planned(&ages, true, 0), [(3, Why::Memory), (7, Why::Memory)], "an eighth, rounded up");
        assert_eq!(planned(&ages, true, 2).len(), 2, "they make room as well");
    }

    #[test]
    fn no_more_places_are_taken_than_there_are() {
        let room = Arc::new(Room::new(8, IDLE_AFTER));
        let first: Vec<Place> = (0..7).filter_map(|_| room.take(1)).collect();
        assert!(first.len() == 7 && room.take(2).is_none() && room.taken() == 7);
        let last = room.take(1).unwrap();
        assert!(room.take(1).is_none() && room.take(u32::MAX).is_none());
        drop(first);
        assert_eq!(room.taken(), 1);
        assert!(room.take(7).is_some());
        drop(last);
        assert_eq!(room.taken(), 0);
    }

    #[test]
    fn a_sixteenth_is_kept_free_if_it_can_be() {
        let room = Arc::new(Room::new(160, IDLE_AFTER));
        let _taken: Vec<Place> = (0..155).filter_map(|_| room.take(1)).collect();
        assert_eq!(room.over(), 5);
        let (door, _asked) = mpsc::channel(1);
        lock(&room.doors).extend([(0, door.clone()), (1, door)]);
        assert_eq!(room.over(), 3, "each core gives its part");
        let small = Arc::new(Room::new(8, IDLE_AFTER));
        let _all: Vec<Place> = (0..8).filter_map(|_| small.take(1)).collect();
        assert_eq!(small.over(), 0, "of a few none is");
    }
}
