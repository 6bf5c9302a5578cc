//! The objects that live on one core, and what happens to them.
//!
//! Everything goes through [`CoreObjects::handle`]: an event of an object is decided on by its [`Keeper`], and the effects
//! are done in their order. What takes time (a start, a turn) is a task, whose end is an event again.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use berth_isolate_host::object::ObjectInstance;
use berth_protocol::object::{ObjectId, ObjectKey, Scope};
use berth_protocol::ownership::{
    self, Aim, Change, Core, Effect, Event, Evict, Keeper, Limits, Refusal, Stay,
};
use berth_protocol::{ArrivalEnvelope, Envelope};
use foldhash::HashMap;
use tokio::sync::oneshot;

use super::letter::{self, Letter, Message, Says};
use super::orders::{self, Answer, Here, MOVE_WITHIN, Order, Wish};
use super::room::{self, Idle, Place, Search};
use super::sockets::{Done, Releases};
use super::storage::Shelf;
use super::tally::Tally;
use super::turn::{Logs, Running};
use super::{Objects, Traveller, lock};
use crate::config;
use crate::drain::Drain;
use crate::hops::Hops;
use crate::http::message::{Problem, Reply};
use crate::stats::CoreNumbers;
use crate::workers::CoreWorkers;
use crate::zones::{Class, Zone};

/// Ids that a core remembers; with more it begins anew. A name that is long is not remembered.
const IDS_MAX: usize = 4096;
const NAME_KEPT: usize = 128;
/// The core whose task looks after the alarms of all.
const ALARM_CORE: u16 = 0;
/// How often it is looked whether the last turn has ended, when the node ends.
const LOOK_AT_THE_END: Duration = Duration::from_millis(10);

/// The objects of one core.
pub(crate) struct CoreObjects {
    pub(super) node: Arc<Objects>,
    pub(super) hops: Rc<Hops>,
    pub(super) numbers: Arc<CoreNumbers>,
    pub(super) limits: Rc<config::Limits>,
    pub(super) drain: Drain,
    pub(super) search: Search,
    keeper: Keeper,
    workers: Weak<CoreWorkers>,
    homes: RefCell<HashMap<ObjectKey, Home>>,
    /// Ids of names that were asked for lately: to make one of a name takes a hash with a key.
    ids: RefCell<HashMap<Scope, HashMap<Box<str>, ObjectId>>>,
    /// The node ends: what is due rings at its next start.
    silent: Cell<bool>,
}

/// What the core keeps of an object.
struct Home {
    stay: Stay<Box<Letter>>,
    /// Between two turns.
    instance: Option<ObjectInstance>,
    resident: Option<Arc<Resident>>,
    /// What it takes of the node's room, as long as it has an instance.
    place: Option<Place>,
    running: Option<Rc<Running>>,
    since: Instant,
    /// The operator who wants something of it, and hears if it is refused.
    order: Option<oneshot::Sender<Answer>>,
}

/// What belongs to an object worker besides its instance, and travels with it.
#[derive(Clone)]
pub(super) struct Resident {
    pub(super) shelf: Arc<Shelf>,
    pub(super) zone: Arc<Zone>,
    pub(super) class: Arc<Class>,
    pub(super) why: Why,
    /// How many messages wait, for the guest to see.
    pub(super) queue: Arc<AtomicU32>,
    /// The order in which its turns let out what they send.
    pub(super) releases: Arc<Releases>,
    /// To what the lines belong that it logs.
    pub(super) logs: Arc<Logs>,
    pub(super) tally: Arc<Tally>,
}

/// Why an object lives where it does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Why {
    /// Its first message came here.
    FirstMessage,
    /// An operator moved it, from that core.
    Moved(Core),
}

impl Home {
    fn new() -> Self {
        Self {
            stay: Stay::Empty,
            instance: None,
            resident: None,
            place: None,
            running: None,
            since: Instant::now(),
            order: None,
        }
    }

    /// Since when it has had nothing to do; nothing, if it has.
    fn idle_since(&self) -> Option<Instant> {
        let is_idle = match &self.stay {
            Stay::Idle { .. } => true,
            Stay::Running(resident) => !resident.is_busy() && resident.aim == Aim::Serve,
            _ => false,
        };
        (is_idle && self.instance.is_some()).then_some(self.since)
    }
}

fn is_busy<M>(stay: &Stay<M>) -> bool {
    match stay {
        Stay::Empty | Stay::Idle { .. } => false,
        Stay::Running(resident) => resident.is_busy(),
        Stay::Starting { .. } | Stay::Undoing { .. } | Stay::Expecting { .. } | Stay::Abdicating { .. } => {
            true
        }
    }
}

impl CoreObjects {
    /// The objects of core `index`, of which there are none.
    pub(crate) fn new(
        index: u16,
        node: Arc<Objects>,
        hops: Rc<Hops>,
        numbers: Arc<CoreNumbers>,
        (limits, drain): (Rc<config::Limits>, Drain),
        workers: Weak<CoreWorkers>,
    ) -> Self {
        // A node has at most 256 cores: connection ids have one byte for them.
        let keeper = Keeper { here: Core(index as u8), limits: Limits::default() };
        let (search, homes, ids, silent) = Default::default();
        Self { node, hops, numbers, limits, drain, search, keeper, workers, homes, ids, silent }
    }

    /// Takes what comes from other cores, and looks after what lives here. Called once, on the core.
    pub(crate) fn attend(workers: &Rc<CoreWorkers>) {
        let posted = Rc::downgrade(workers);
        workers.objects.hops.on_post(move |envelope| {
            if let Some(workers) = posted.upgrade() {
                workers.objects.take(envelope);
            }
        });
        if workers.objects.here() == ALARM_CORE {
            berth_runtime::spawn(super::alarms::ring(Rc::downgrade(workers)));
        }
        let mut orders = workers.objects.node.take_orders(workers.objects.here());
        let ordered = Rc::downgrade(workers);
        berth_runtime::spawn(async move {
            while let Some(order) = orders.recv().await {
                let Some(workers) = ordered.upgrade() else { return };
                workers.objects.follow(order);
            }
        });
        room::attend(workers);
    }

    /// No alarm begins a turn any more.
    pub(crate) fn ring_no_more(&self) {
        self.silent.set(true);
    }

    pub(super) fn is_silent(&self) -> bool {
        self.silent.get()
    }

    /// Objects that have something to do: a turn, messages or writes that wait, a start, an end.
    pub(crate) fn busy(&self) -> usize {
        self.homes.borrow().values().filter(|home| is_busy(&home.stay)).count()
    }

    /// Waits until no object has.
    pub(crate) async fn finished(&self) {
        while self.busy() > 0 {
            berth_runtime::sleep(LOOK_AT_THE_END).await;
        }
    }

    pub(super) fn here(&self) -> u16 {
        u16::from(self.keeper.here.0)
    }

    /// The object of this name.
    pub(super) fn key(&self, zone: &Zone, class: &Class, name: &str) -> Option<ObjectKey> {
        let scope = class.scope;
        let mut ids = self.ids.borrow_mut();
        if let Some(id) = ids.get(&scope).and_then(|ids| ids.get(name)) {
            return Some(ObjectKey { scope, id: *id });
        }
        let id = self.node.id(&zone.name, &class.code.name, name)?;
        if name.len() <= NAME_KEPT {
            if ids.values().map(HashMap::len).sum::<usize>() >= IDS_MAX {
                ids.clear();
            }
            ids.entry(scope).or_default().insert(name.into(), id);
        }
        Some(ObjectKey { scope, id })
    }

    /// Does what turns of an object have left for its sockets.
    pub(super) fn release(&self, object: &ObjectKey, done: Vec<Done>) {
        let cut = self.node.sockets.release(object, done);
        self.numbers.limit_object_socket_queue.add(cut);
    }

    pub(super) fn workers(&self) -> Option<Rc<CoreWorkers>> {
        self.workers.upgrade()
    }

    /// A message for an object, wherever it is.
    pub(super) fn post(&self, message: Message) {
        let object = message.body.object;
        if self.is_of_an_old_version(&object) {
            self.handle(object, Event::Evict(Evict::AfterTurn));
        }
        self.handle(object, Event::Message(message));
    }

    /// Whether another class was deployed since the instance was made. A deployment that left the class as it is makes it
    /// one of the new version.
    fn is_of_an_old_version(&self, object: &ObjectKey) -> bool {
        let Some(workers) = self.workers() else { return false };
        let mut homes = self.homes.borrow_mut();
        let Some(resident) = homes.get_mut(object).and_then(|home| home.resident.as_mut()) else {
            return false;
        };
        let hosts = workers.zones().hosts();
        let Some(zone) = hosts.named(&resident.zone.name) else { return true };
        if Arc::ptr_eq(&zone, &resident.zone) {
            return false;
        }
        let class = zone.class(&resident.class.code.name).cloned();
        match class {
            Some(class) if class.is_as(&resident.class) => {
                let resident = Arc::make_mut(resident);
                (resident.zone, resident.class) = (zone, class);
                false
            }
            // Without the class the last messages end what is there, and find nothing then.
            _ => true,
        }
    }

    fn take(&self, envelope: Envelope) {
        match envelope {
            Envelope::Letter(envelope) => {
                let (asker, ticket) = (envelope.asker, envelope.ticket);
                match letter::open(*envelope) {
                    Some(message) => self.post(message),
                    None => {
                        self.hops.send_reply(asker, ticket, Reply::problem(Problem::Internal));
                    }
                }
            }
            Envelope::Arrival(arrival) => self.arrive(*arrival),
            Envelope::Request(_) | Envelope::Reply(_) | Envelope::Datagram(_) => {}
        }
    }

    /// An object worker has come from another core.
    fn arrive(&self, arrival: ArrivalEnvelope) {
        let Some(traveller) = lock(&self.node.harbour).remove(&arrival.object) else {
            tracing::error!(object = ?arrival.object, "object.harbour: nobody is there; please report this");
            return;
        };
        {
            let mut homes = self.homes.borrow_mut();
            let home = homes.entry(arrival.object).or_insert_with(Home::new);
            home.instance = Some(traveller.instance);
            home.resident = Some(traveller.resident);
            home.place = Some(traveller.place);
        }
        let waiting = arrival.waiting.into_iter().filter_map(letter::open).collect();
        self.handle(arrival.object, Event::Arrived { epoch: arrival.epoch, waiting });
    }

    /// Does what an operator wants.
    fn follow(&self, order: Order) {
        let Order { object, wish, answer } = order;
        if wish == Wish::Why {
            let _ = answer.send(Answer::Here(self.why(&object)));
            return;
        }
        if let Wish::Hold(number) = wish {
            return self.ring(object, number, answer);
        }
        match self.homes.borrow_mut().get_mut(&object) {
            Some(home) => home.order = Some(answer),
            None => {
                let _ = answer.send(Answer::No("it has just left this core; ask again".to_owned()));
                return;
            }
        }
        match wish {
            Wish::Move(to) => {
                self.handle(object, Event::Move { to });
                self.watch_move(object);
            }
            Wish::Evict => self.handle(object, Event::Evict(Evict::AfterTurn)),
            Wish::Hold(_) | Wish::Why => {}
        }
    }

    fn why(&self, object: &ObjectKey) -> Here {
        let homes = self.homes.borrow();
        let resident = homes.get(object).and_then(|home| home.resident.as_ref());
        let why = match resident.map(|resident| resident.why) {
            Some(Why::FirstMessage) => {
                "its first message, since it was given up or the node started, came here".to_owned()
            }
            Some(Why::Moved(from)) => format!("an operator moved it here from core {}", from.0),
            None => "it is starting here, or ending, or on its way here".to_owned(),
        };
        Here { why, tallied: resident.map(|resident| resident.tally.read()) }
    }

    /// Looks whether an object that should move may, until it has, or it is too late.
    pub(super) fn watch_move(&self, object: ObjectKey) {
        let (Some(workers), Some(epoch)) = (self.workers(), self.node.berths.find(&object).epoch()) else {
            return;
        };
        berth_runtime::spawn(async move {
            let until = Instant::now() + MOVE_WITHIN;
            let objects = &workers.objects;
            while Instant::now() < until {
                berth_runtime::sleep(orders::LOOK_EVERY).await;
                if !objects.wants_to_leave(&object) {
                    return;
                }
                if objects.may_travel(&object) {
                    objects.handle(object, Event::MayTravel { epoch });
                }
            }
            objects.handle(object, Event::MoveExpired { epoch });
        });
    }

    fn wants_to_leave(&self, object: &ObjectKey) -> bool {
        match self.homes.borrow().get(object).map(|home| &home.stay) {
            Some(Stay::Running(resident)) => matches!(resident.aim, Aim::Leave { .. }),
            _ => false,
        }
    }

    /// Whether its instance is on this core.
    pub(super) fn lives_here(&self, object: &ObjectKey) -> bool {
        let homes = self.homes.borrow();
        homes.get(object).is_some_and(|home| matches!(home.stay, Stay::Running(_) | Stay::Idle { .. }))
    }

    fn may_travel(&self, object: &ObjectKey) -> bool {
        let mut homes = self.homes.borrow_mut();
        let instance = homes.get_mut(object).and_then(|home| home.instance.as_mut());
        instance.is_some_and(ObjectInstance::may_travel)
    }

    fn tell_operator(&self, object: &ObjectKey, why: &dyn std::fmt::Display) {
        let order = self.homes.borrow_mut().get_mut(object).and_then(|home| home.order.take());
        if let Some(order) = order {
            let _ = order.send(Answer::No(why.to_string()));
        }
    }

    /// Decides on an event and does what follows, and what follows from that.
    pub(super) fn handle(&self, object: ObjectKey, event: Event<Box<Letter>>) {
        let mut events = VecDeque::from([event]);
        let mut effects = Vec::new();
        while let Some(event) = events.pop_front() {
            {
                let mut homes = self.homes.borrow_mut();
                let home = homes.entry(object).or_insert_with(Home::new);
                let stay = std::mem::replace(&mut home.stay, Stay::Empty);
                home.stay = self.keeper.handle(stay, event, &mut effects);
                home.since = Instant::now();
            }
            for effect in effects.drain(..) {
                events.extend(self.act(object, effect));
            }
        }
        let mut homes = self.homes.borrow_mut();
        let Some(home) = homes.get(&object) else { return };
        match (&home.stay, &home.resident) {
            (Stay::Empty, _) => drop(homes.remove(&object)),
            (Stay::Running(running), Some(resident)) => {
                resident.queue.store(running.waiting.len() as u32, Relaxed);
            }
            _ => {}
        }
    }

    /// Does one thing. What comes of it at once is an event.
    fn act(&self, object: ObjectKey, effect: Effect<Box<Letter>>) -> Option<Event<Box<Letter>>> {
        match effect {
            Effect::Look(message) => {
                return Some(Event::Looked { berth: self.node.berths.find(&object), message });
            }
            Effect::Claim(message) => return Some(self.claim(object, message)),
            Effect::Change(change) => self.change(object, change),
            Effect::Pass { to, message } => self.pass(to, message),
            Effect::Refuse { message, why } => self.refuse(&message, why),
            Effect::Start { above: _ } => self.start(object),
            Effect::Begin { epoch, message } => return self.begin(object, epoch, message),
            // What cannot travel yet is looked at again by who watches the move.
            Effect::AwaitTravel { epoch } => {
                return self.may_travel(&object).then_some(Event::MayTravel { epoch });
            }
            Effect::Depart { to, epoch, waiting } => self.depart(object, to, epoch, waiting),
            Effect::Stop { epoch } => {
                self.stop(object);
                return Some(Event::Stopped { epoch });
            }
            Effect::MoveRefused { to: _, why } => self.tell_operator(&object, &why),
            Effect::EvictRefused(why) => self.tell_operator(&object, &why),
            Effect::Misuse(misuse) => tracing::error!(?object, %misuse, "object.misuse"),
        }
        None
    }

    fn claim(&self, object: ObjectKey, message: Message) -> Event<Box<Letter>> {
        let claim = Change::Claim { core: self.keeper.here };
        match self.node.berths.change(object, claim) {
            Ok(berth) => Event::Claimed { above: berth.epoch(), message },
            Err(unfit) => Event::Looked { berth: unfit.berth, message },
        }
    }

    fn change(&self, object: ObjectKey, change: Change) {
        if let Err(unfit) = self.node.berths.change(object, change) {
            tracing::error!(?object, %unfit, "object.berth");
        }
    }

    fn pass(&self, to: Core, message: Message) {
        if let Err(envelope) = self.hops.pass(u16::from(to.0), letter::seal(message)) {
            let reply = Reply::problem(letter::problem(Refusal::LaneFull));
            self.hops.send_reply(envelope.asker, envelope.ticket, reply);
        }
    }

    fn refuse(&self, message: &Message, why: Refusal) {
        tracing::debug!(object = ?message.body.object, %why, "object.refused");
        if why == Refusal::NoRoom {
            self.numbers.limit_objects_resident.add(1);
        } else if letter::problem(why) == Problem::Overload {
            self.numbers.limit_object_messages.add(1);
        }
        // An alarm whose turn has not begun rings again, as if it had not rung; a socket's message is told again.
        let problem = match message.body.says {
            Says::Request(_) | Says::Hold => letter::problem(why),
            _ => Problem::Overload,
        };
        self.reply(&message.body, Reply::problem(problem));
    }

    /// Answers whoever sent a letter, on whichever core it waits.
    pub(super) fn reply(&self, letter: &Letter, mut reply: Reply) {
        letter.trace.tell(self.here(), &mut reply.headers);
        self.hops.send_reply(letter.asker, letter.ticket, reply);
    }

    fn depart(
        &self,
        object: ObjectKey,
        to: Core,
        epoch: berth_protocol::object::Epoch,
        waiting: VecDeque<ownership::Message<Box<Letter>>>,
    ) {
        let mut homes = self.homes.borrow_mut();
        let Some(home) = homes.get_mut(&object) else { return };
        let all = (home.instance.take(), home.resident.take(), home.place.take());
        let (Some(instance), Some(mut resident), Some(place)) = all else {
            tracing::error!(?object, "object.depart: no instance; please report this");
            return;
        };
        Arc::make_mut(&mut resident).why = Why::Moved(self.keeper.here);
        self.numbers.object_moves.add(1);
        lock(&self.node.harbour).insert(object, Traveller { instance, resident, place });
        let waiting = waiting.into_iter().map(|message| *letter::seal(message)).collect();
        self.hops.depart(u16::from(to.0), Box::new(ArrivalEnvelope { object, epoch, waiting }));
    }

    /// Drops the instance, or the turn that has it.
    fn stop(&self, object: ObjectKey) {
        self.numbers.objects_ended.add(1);
        let (instance, running, place) = {
            let mut homes = self.homes.borrow_mut();
            let Some(home) = homes.get_mut(&object) else { return };
            home.resident = None;
            (home.instance.take(), home.running.take(), home.place.take())
        };
        drop(instance);
        if let Some(running) = running {
            running.stop();
        }
        drop(place);
    }

    /// Who waits first for an object that starts: it says which class that is.
    pub(super) fn first_waiting(&self, object: &ObjectKey) -> Option<Letter> {
        match &self.homes.borrow().get(object)?.stay {
            Stay::Starting { waiting, .. } => Some((*waiting.front()?.body).clone()),
            _ => None,
        }
    }

    /// Whether nobody waits for an object that starts but who wants it to have no instance.
    pub(super) fn starts_for_nobody(&self, object: &ObjectKey) -> bool {
        match self.homes.borrow().get(object).map(|home| &home.stay) {
            Some(Stay::Starting { waiting, .. }) => {
                waiting.iter().all(|message| matches!(message.body.says, Says::Hold))
            }
            _ => false,
        }
    }

    /// The instance for a turn.
    pub(super) fn board(&self, object: &ObjectKey) -> Option<(ObjectInstance, Arc<Resident>)> {
        let mut homes = self.homes.borrow_mut();
        let home = homes.get_mut(object)?;
        Some((home.instance.take()?, home.resident.clone()?))
    }

    /// A turn runs.
    pub(super) fn set_running(&self, object: &ObjectKey, running: Option<Rc<Running>>) {
        if let Some(home) = self.homes.borrow_mut().get_mut(object) {
            home.running = running;
        }
    }

    /// The instance is new, with what belongs to it.
    pub(super) fn move_in(
        &self,
        object: ObjectKey,
        instance: ObjectInstance,
        (resident, place): (Arc<Resident>, Place),
    ) {
        let mut homes = self.homes.borrow_mut();
        let Some(home) = homes.get_mut(&object) else { return };
        (home.instance, home.resident, home.place) = (Some(instance), Some(resident), Some(place));
    }

    /// The instance has come back from a turn.
    pub(super) fn settle_in(&self, object: ObjectKey, instance: ObjectInstance) {
        if let Some(home) = self.homes.borrow_mut().get_mut(&object) {
            home.instance = Some(instance);
        }
    }

    /// The objects that have nothing to do, and what they have of memory, if that is wanted: it is a look at each.
    pub(super) fn idle(&self, with_bytes: bool) -> Vec<Idle> {
        let homes = self.homes.borrow();
        let idle = homes.iter().filter_map(|(object, home)| {
            let instance = home.instance.as_ref().filter(|_| with_bytes);
            let bytes = instance.map_or(0, ObjectInstance::memory_bytes);
            Some(Idle { object: *object, since: home.idle_since()?, bytes })
        });
        idle.collect()
    }

    /// Gives up the instance of an object that has had nothing to do since then. Whether it has one no more.
    pub(super) fn give_up(&self, object: ObjectKey, since: Instant) -> bool {
        if self.homes.borrow().get(&object).and_then(Home::idle_since) != Some(since) {
            return false;
        }
        self.handle(object, Event::Quiet);
        self.handle(object, Event::Evict(Evict::IfIdle));
        self.homes.borrow().get(&object).is_none_or(|home| home.instance.is_none())
    }
}
