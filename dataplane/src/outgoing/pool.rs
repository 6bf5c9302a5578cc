//! Connections that are kept for the next request, and the bounds on all of them.
//!
//! A connection belongs to a destination of one zone and is never used for another. It has a [`Permit`], from before it is
//! made until it is closed; there are so many for a destination and so many for a zone. Whoever finds none for a
//! destination waits in line and is given the next permit, or the next connection, that comes free.
//!
//! Idle connections are taken newest first, since those are the least likely to be closed at their other end. Their own
//! tasks notice when they are: what comes from an idle connection, its end or bytes that nobody asked for, closes it.
//!
//! Nothing is dropped while the pool is borrowed: what a connection drops may come back here.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use berth_runtime::{Payer, Task, sleep, spawn_for, spawn_scoped};
use hyper::client::conn::http1::SendRequest;
use tokio::sync::oneshot;

use super::body::Carried;
use super::error::SendError;
use super::{ClientNumbers, Destination};

/// Bounds on the connections of one core.
#[derive(Debug, Clone)]
pub struct PoolLimits {
    /// Connections to one destination of one zone, in use or idle.
    pub destination_connections: usize,
    /// Requests that wait for one of them.
    pub destination_waiting: usize,
    /// Connections of one zone.
    pub zone_connections: usize,
    /// Idle connections to one destination of one zone.
    pub destination_idle: usize,
    /// Idle connections of the core; one more closes the one that idles longest.
    pub idle: usize,
    /// How long a connection idles before it is closed.
    pub idle_timeout: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            destination_connections: 128,
            destination_waiting: 256,
            zone_connections: 256,
            destination_idle: 32,
            idle: 512,
            // Common servers close after 60 s or more (nginx 75, Apache 5: there, retries take over).
            idle_timeout: Duration::from_secs(30),
        }
    }
}

/// Whose connection it is, and where to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) zone: Arc<str>,
    pub(super) to: Destination,
}

/// The right to have a connection.
pub(super) struct Permit {
    pool: Weak<Inner>,
    key: Rc<Key>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.release(&self.key);
        }
    }
}

/// The future that moves the bytes of a connection, until it has ended.
type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>>>>;

/// A connection. Dropped, it is closed at once.
pub(super) struct Connection {
    pub(super) sender: SendRequest<Carried>,
    driver: Rc<RefCell<Option<Driver>>>,
    /// Polls the driver.
    task: Option<Task<()>>,
    /// Bytes that came since it was last handed over.
    received: Rc<Cell<u64>>,
    pub(super) address: SocketAddr,
    permit: Permit,
}

impl Connection {
    pub(super) fn new(
        sender: SendRequest<Carried>,
        driver: impl Future<Output = hyper::Result<()>> + 'static,
        received: Rc<Cell<u64>>,
        address: SocketAddr,
        permit: Permit,
    ) -> Self {
        let driver = Rc::new(RefCell::new(Some(Box::pin(driver) as Driver)));
        Self { sender, driver, task: None, received, address, permit }
    }

    /// Before a request: from now on the connection works on the bill of the current task.
    pub(super) fn serve(&mut self) {
        self.received.set(0);
        let driver = Rc::clone(&self.driver);
        self.task = Some(spawn_scoped(poll_fn(move |cx| {
            let mut slot = driver.borrow_mut();
            let ended = slot.as_mut().is_none_or(|driver| driver.as_mut().poll(cx).is_ready());
            if !ended {
                return Poll::Pending;
            }
            // Closes the socket now; who has the connection sees that at its sender.
            let driver = slot.take();
            drop(slot);
            drop(driver);
            Poll::Ready(())
        })));
    }

    /// Whether bytes have come since the request was begun.
    pub(super) fn has_received(&self) -> bool {
        self.received.get() > 0
    }

    /// Back to the pool, after an exchange that is through.
    pub(super) fn give_back(self) {
        if let Some(pool) = self.permit.pool.upgrade() {
            pool.put(self);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task = None;
        // The task's end comes with the next turn; the socket is closed now, unless this is called from within it.
        let driver = self.driver.try_borrow_mut().ok().and_then(|mut slot| slot.take());
        drop(driver);
    }
}

/// What a request gets that asks for a connection.
pub(super) enum Grant {
    /// One that has served before.
    Connection(Connection),
    /// The right to make one.
    Permit(Permit),
}

/// Whether a connection that has served before will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Any,
    Fresh,
}

/// The pool of one core.
pub(super) struct Pool(Rc<Inner>);

struct Inner {
    limits: PoolLimits,
    numbers: Arc<ClientNumbers>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    places: HashMap<Rc<Key>, Place>,
    /// Permits of each zone.
    zones: HashMap<Arc<str>, usize>,
    /// Idle connections in the order of their coming, and when they are to be closed.
    idle: BTreeMap<u64, (Rc<Key>, Instant)>,
    next_turn: u64,
    permits: usize,
    /// Whether a task closes what idles for too long.
    sweeping: bool,
}

/// What there is for one destination.
#[derive(Default)]
struct Place {
    permits: usize,
    /// With their turn, the newest last.
    idle: Vec<(u64, Connection)>,
    waiting: VecDeque<oneshot::Sender<Grant>>,
}

/// What became of an attempt.
enum Attempt {
    Granted(Grant),
    Waits(oneshot::Receiver<Grant>),
    Full,
}

impl Pool {
    pub(super) fn new(limits: PoolLimits, numbers: Arc<ClientNumbers>) -> Self {
        Self(Rc::new(Inner { limits, numbers, state: RefCell::default() }))
    }

    /// A connection, or the right to make one. Waits if all are in use.
    pub(super) async fn acquire(&self, key: &Key, wish: Wish) -> Result<Grant, SendError> {
        match self.0.attempt(key, wish) {
            Attempt::Granted(grant) => Ok(grant),
            Attempt::Full => Err(SendError::ConnectionLimitReached),
            Attempt::Waits(granted) => granted.await.map_err(|_| SendError::ConnectionLimitReached),
        }
    }
}

impl Inner {
    fn attempt(self: &Rc<Self>, key: &Key, wish: Wish) -> Attempt {
        if wish == Wish::Any
            && let Some(connection) = self.take_idle(key)
        {
            return Attempt::Granted(Grant::Connection(connection));
        }
        let place_is_full = |state: &State| {
            state.places.get(key).is_some_and(|place| place.permits >= self.limits.destination_connections)
        };
        // What idles makes room for what is wanted now.
        if place_is_full(&self.state.borrow()) {
            self.close_idle(|other| other == key);
        }
        if place_is_full(&self.state.borrow()) {
            return self.wait(key);
        }
        let zone_is_full = |state: &State| {
            state.zones.get(&key.zone).is_some_and(|permits| *permits >= self.limits.zone_connections)
        };
        if zone_is_full(&self.state.borrow()) {
            self.close_idle(|other| other.zone == key.zone);
        }
        if zone_is_full(&self.state.borrow()) {
            return Attempt::Full;
        }
        Attempt::Granted(Grant::Permit(self.permit(key)))
    }

    fn wait(&self, key: &Key) -> Attempt {
        let mut state = self.state.borrow_mut();
        let Some(place) = state.places.get_mut(key) else { return Attempt::Full };
        place.waiting.retain(|waiting| !waiting.is_closed());
        if place.waiting.len() >= self.limits.destination_waiting {
            return Attempt::Full;
        }
        let (grant, granted) = oneshot::channel();
        place.waiting.push_back(grant);
        Attempt::Waits(granted)
    }

    fn permit(self: &Rc<Self>, key: &Key) -> Permit {
        let mut state = self.state.borrow_mut();
        let key = match state.places.get_key_value(key) {
            Some((key, _)) => Rc::clone(key),
            None => Rc::new(key.clone()),
        };
        state.places.entry(Rc::clone(&key)).or_default().permits += 1;
        *state.zones.entry(Arc::clone(&key.zone)).or_default() += 1;
        state.permits += 1;
        self.numbers.outgoing_connections_open.set(state.permits as u64);
        Permit { pool: Rc::downgrade(self), key }
    }

    /// A permit is free: the next in line has it, or nobody.
    fn release(self: &Rc<Self>, key: &Rc<Key>) {
        if let Some(waiting) = self.next_in_line(key) {
            // If nobody waits there any more after all, it comes back here.
            let _ = waiting.send(Grant::Permit(Permit { pool: Rc::downgrade(self), key: Rc::clone(key) }));
            return;
        }
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if let Some(place) = state.places.get_mut(key) {
            place.permits -= 1;
            if place.permits == 0 {
                state.places.remove(key);
            }
        }
        if let Some(permits) = state.zones.get_mut(&key.zone) {
            *permits -= 1;
            if *permits == 0 {
                state.zones.remove(&key.zone);
            }
        }
        state.permits -= 1;
        self.numbers.outgoing_connections_open.set(state.permits as u64);
    }

    fn next_in_line(&self, key: &Key) -> Option<oneshot::Sender<Grant>> {
        let mut state = self.state.borrow_mut();
        let waiting = &mut state.places.get_mut(key)?.waiting;
        std::iter::from_fn(|| waiting.pop_front()).find(|waiting| !waiting.is_closed())
    }

    /// The newest idle connection that is ready; those that were closed are forgotten on the way.
    fn take_idle(&self, key: &Key) -> Option<Connection> {
        let mut state = self.state.borrow_mut();
        let State { places, idle, .. } = &mut *state;
        let place = places.get_mut(key)?;
        let mut closed = Vec::new();
        let mut found = None;
        let mut at = place.idle.len();
        while at > 0 && found.is_none() {
            at -= 1;
            let sender = &place.idle[at].1.sender;
            // Neither closed nor ready: it has something to do before it can be used, and stays.
            if sender.is_closed() || sender.is_ready() {
                let (turn, connection) = place.idle.remove(at);
                idle.remove(&turn);
                if connection.sender.is_closed() { closed.push(connection) } else { found = Some(connection) }
            }
        }
        self.numbers.outgoing_connections_idle.set(idle.len() as u64);
        drop(state);
        drop(closed);
        found
    }

    /// Closes the connection that idles longest of those that fit.
    fn close_idle(&self, fits: impl Fn(&Key) -> bool) {
        let mut state = self.state.borrow_mut();
        let turn = state.idle.iter().find(|(_, (key, _))| fits(key)).map(|(turn, _)| *turn);
        let connection = turn.and_then(|turn| state.forget_idle(turn));
        self.numbers.outgoing_connections_idle.set(state.idle.len() as u64);
        drop(state);
        drop(connection);
    }

    fn put(self: &Rc<Self>, connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        let key = Rc::clone(&connection.permit.key);
        if let Some(waiting) = self.next_in_line(&key) {
            let _ = waiting.send(Grant::Connection(connection));
            return;
        }
        let mut state = self.state.borrow_mut();
        let turn = state.next_turn;
        state.next_turn += 1;
        let Some(place) = state.places.get_mut(&key) else { return };
        place.idle.push((turn, connection));
        let crowded = place.idle.len() > self.limits.destination_idle;
        state.idle.insert(turn, (Rc::clone(&key), berth_runtime::now() + self.limits.idle_timeout));
        let full = state.idle.len() > self.limits.idle;
        let starts_sweeping = !std::mem::replace(&mut state.sweeping, true);
        self.numbers.outgoing_connections_idle.set(state.idle.len() as u64);
        drop(state);
        if crowded {
            self.close_idle(|other| *other == *key);
        } else if full {
            self.close_idle(|_| true);
        }
        if starts_sweeping {
            spawn_for(Payer::CORE, sweep(Rc::downgrade(self)));
        }
    }

    /// Closes what has idled for too long; tells how long it is until there is more to do.
    fn sweep(&self) -> Option<Duration> {
        let now = berth_runtime::now();
        let mut closed = Vec::new();
        let mut state = self.state.borrow_mut();
        let next = loop {
            let Some((&turn, (_, until))) = state.idle.first_key_value() else {
                state.sweeping = false;
                break None;
            };
            if *until > now {
                break Some(*until - now);
            }
            closed.extend(state.forget_idle(turn));
        };
        self.numbers.outgoing_connections_idle.set(state.idle.len() as u64);
        drop(state);
        drop(closed);
        next
    }
}

impl State {
    fn forget_idle(&mut self, turn: u64) -> Option<Connection> {
        let (key, _) = self.idle.remove(&turn)?;
        let place = self.places.get_mut(&key)?;
        let at = place.idle.iter().position(|(other, _)| *other == turn)?;
        Some(place.idle.remove(at).1)
    }
}

/// The task that closes what idles for too long. It ends when nothing idles.
async fn sweep(pool: Weak<Inner>) {
    while let Some(wait) = pool.upgrade().and_then(|pool| pool.sweep()) {
        sleep(wait).await;
    }
}
