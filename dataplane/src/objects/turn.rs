//! Turns: a letter becomes a message for the instance, and its outcome, once durable, a reply.
//!
//! When the guest has answered, what it wrote is handed to the store and the next turn may begin at once; the reply waits
//! at the gate. A client that has gone away ends nothing: its reply is dropped where it would have gone.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker, ready};
use std::time::Duration;

use berth_isolate_host::object::{
    self, Acceptance, Effect, Ended, ObjectAnswer, ObjectInstance, ObjectStorage as _, ObjectWorld, Outcome,
    SocketCommand, SocketId, Space, Turn, TurnError,
};
use berth_isolate_host::{Asked, Later, Outbound, Stream, WayOut, World};
use berth_protocol::object::{Epoch, ObjectKey};
use berth_protocol::ownership::{Event, TurnEnd};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

use super::Objects;
use super::alarms::ATTEMPTS_MAX;
use super::letter::{Letter, Message, Says};
use super::live::{CoreObjects, Resident};
use super::repeat::{self, Whether};
use super::sockets::{Done, Rank};
use crate::http::body::Body;
use crate::http::message::{Problem, Reply};
use crate::workers::{Context, CoreWorkers, Way, fault_problem, report_fault};
use crate::zones::{Class, Zone};

/// A turn that runs: whoever stops it takes it away from the task that polls it.
pub(super) struct Running {
    turn: RefCell<Option<Turn>>,
    stopped: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Running {
    /// One that is about to begin.
    fn new() -> Rc<Self> {
        Rc::new(Self { turn: RefCell::default(), stopped: Cell::default(), waker: Cell::default() })
    }

    /// Ends the guest where it stands.
    pub(super) fn stop(&self) {
        self.stopped.set(true);
        // The task that polls it may be what stops it.
        let turn = self.turn.try_borrow_mut().ok().and_then(|mut turn| turn.take());
        drop(turn);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Has its turn, unless it was stopped. How it ended; nothing, if it was stopped.
    async fn ended(&self, begin: impl FnOnce() -> Turn) -> Option<Ended> {
        if self.stopped.get() {
            return None;
        }
        *self.turn.borrow_mut() = Some(begin());
        std::future::poll_fn(|cx| {
            let mut slot = self.turn.borrow_mut();
            let Some(turn) = &mut *slot else { return Poll::Ready(None) };
            self.waker.set(Some(cx.waker().clone()));
            let ended = ready!(turn.poll(cx));
            // With it goes what it still waited for, before the next turn begins.
            *slot = None;
            Poll::Ready(Some(ended))
        })
        .await
    }
}

impl CoreObjects {
    /// Begins the turn of a message. It has ended at once only if there is nobody to run it.
    pub(super) fn begin(
        &self,
        object: ObjectKey,
        epoch: Epoch,
        message: Message,
    ) -> Option<Event<Box<Letter>>> {
        let mut letter = message.body;
        if matches!(letter.says, Says::Hold) {
            return Some(self.begin_hold(object, epoch, letter));
        }
        let (Some(workers), Some((instance, resident))) = (self.workers(), self.board(&object)) else {
            tracing::error!(?object, "object.turn: no instance; please report this");
            self.reply(&letter, Reply::problem(Problem::Internal));
            return Some(Event::TurnEnded { epoch, end: TurnEnd::Trapped });
        };
        letter.trace.begin(message.hops, epoch);
        resident.tally.count(message.hops);
        let rank = Rc::new(resident.releases.enter());
        let running = Running::new();
        self.set_running(&object, Some(Rc::clone(&running)));
        berth_runtime::spawn(async move {
            let trapped = Event::TurnEnded { epoch, end: TurnEnd::Trapped };
            let mut guard = OnPanic(Some((Rc::clone(&workers), object, trapped)));
            match run(&workers, instance, &resident, &mut letter, (&running, &rank)).await {
                Some(ended) => {
                    letter.trace.end();
                    workers.objects.set_running(&object, None);
                    end(&workers, (object, epoch), &resident, &letter, ended, &rank).await;
                }
                None => {
                    workers.objects.node.sockets.take_back(&object);
                    workers.objects.reply(&letter, letter.says.failed(Problem::Overload));
                }
            }
            rank.over(|done| workers.objects.release(&object, done));
            guard.0 = None;
        });
        None
    }
}

/// Handles a letter: by a turn, unless it repeats one whose answer is known. How that ended; nothing, if it was
/// stopped.
async fn run(
    workers: &Rc<CoreWorkers>,
    instance: ObjectInstance,
    resident: &Resident,
    letter: &mut Letter,
    (running, rank): (&Running, &Rc<Rank>),
) -> Option<Ended> {
    let numbers = &workers.objects.numbers;
    match repeat::look(numbers, resident, letter).await {
        Whether::First(first) => {
            let message = letter.says.take_message()?;
            let begin = || {
                let rank = Some(Rc::clone(rank));
                let outside = Outside::new(workers, &resident.zone, &resident.class, letter, rank);
                resident.logs.now(&outside.way.context);
                numbers.object_turns.add(1);
                instance.begin(message, outside)
            };
            let mut ended = running.ended(begin).await?;
            if let (Some(first), Ok((_, outcome))) = (first, &mut ended.result) {
                let window = resident.class.idempotency;
                outcome.effects.extend(first.keep(numbers, &outcome.answer, window));
            }
            Some(ended)
        }
        Whether::Known(_) if running.stopped.get() => None,
        Whether::Known(response) => {
            let answer = ObjectAnswer::Response(response);
            let outcome = Outcome { answer, effects: Vec::new(), sends: Vec::new() };
            Some(Ended { result: Ok((instance, outcome)), commits: 0, cpu: Duration::ZERO })
        }
    }
}

/// Says what has become of an object if the task that cares for it panics: else it would wait for ever.
pub(super) struct OnPanic(pub(super) Option<(Rc<CoreWorkers>, ObjectKey, Event<Box<Letter>>)>);

impl Drop for OnPanic {
    fn drop(&mut self) {
        let Some((workers, object, event)) = self.0.take() else { return };
        // A task that is dropped as its core ends has nobody to tell.
        if std::thread::panicking() {
            berth_runtime::spawn(async move { workers.objects.handle(object, event) });
        }
    }
}

/// After the guest: its writes to the store, the next turn, the reply when all is durable.
async fn end(
    workers: &Rc<CoreWorkers>,
    (object, epoch): (ObjectKey, Epoch),
    resident: &Resident,
    letter: &Letter,
    ended: Ended,
    rank: &Rank,
) {
    let objects = &workers.objects;
    let sockets = &objects.node.sockets;
    let (instance, outcome) = match ended.result {
        Ok(both) => both,
        Err(error) => {
            fail(workers, object, resident, letter, &error).await;
            return objects.handle(object, Event::TurnEnded { epoch, end: TurnEnd::Trapped });
        }
    };
    // What it wrote before a commit point may be on its way as well.
    let wrote = !outcome.effects.is_empty() || ended.commits > 0;
    // Who looks after alarms reads the store for it: not for each write.
    let sets_alarm = ended.commits > 0 || outcome.effects.iter().any(is_alarm);
    let durable = resident.shelf.commit(outcome.effects);
    objects.settle_in(object, instance);
    let accepted = accepted(letter, &outcome.answer);
    if let Some((socket, how)) = accepted {
        sockets.accept(&object, socket, how);
    }
    sockets.see(&object, &outcome.sends);
    let turn_end = if wrote { TurnEnd::Unsettled } else { TurnEnd::Settled };
    objects.handle(object, Event::TurnEnded { epoch, end: turn_end });
    let of_socket = letter.says.socket();
    if of_socket.is_some() {
        // The client's next message may come: nobody outside learns anything by that.
        objects.reply(letter, Reply::new(StatusCode::NO_CONTENT, ""));
    }
    match durable.await {
        Ok(()) => {
            let opened = accepted.map(|(socket, _)| Done::Accepted(socket));
            let done = opened.into_iter().chain(outcome.sends.into_iter().map(Done::Command)).collect();
            rank.done(done, |done| objects.release(&object, done));
            if of_socket.is_none() {
                objects.reply(letter, reply(letter, outcome.answer));
            }
            if sets_alarm {
                // Perhaps an early one.
                objects.node.alarm_set.notify_one();
            }
            if wrote {
                objects.handle(object, Event::Settled { epoch });
            }
        }
        Err(error) => {
            tracing::warn!(?object, %error, "object.commit: failed");
            objects.numbers.object_commit_failures.add(1);
            sockets.take_back(&object);
            if let Some((socket, _)) = accepted {
                sockets.forget(&object, socket);
            }
            match of_socket {
                Some(socket) => sockets.break_off(&object, socket),
                None => objects.reply(letter, Reply::problem(Problem::Overload)),
            }
            objects.handle(object, Event::CommitFailed { epoch });
        }
    }
}

/// After a guest that failed: what it did is taken back, and whoever waits hears of it.
async fn fail(
    workers: &Rc<CoreWorkers>,
    object: ObjectKey,
    resident: &Resident,
    letter: &Letter,
    error: &TurnError,
) {
    let objects = &workers.objects;
    objects.numbers.object_faults.add(1);
    objects.node.sockets.take_back(&object);
    // First the reply: it says nothing that could be taken back.
    objects.reply(letter, letter.says.failed(turn_problem(error)));
    tell_error(workers, resident, letter, error);
    if let Some(id) = given_up(letter).filter(|_| turn_problem(error) != Problem::Overload) {
        tracing::warn!(?object, id = &*String::from_utf8_lossy(&id), "object.alarm: given up");
        objects.numbers.object_alarms_given_up.add(1);
        let _ = resident.shelf.commit(vec![Effect::Delete { space: Space::Alarm, key: id }]).await;
    }
}

fn is_alarm(effect: &Effect) -> bool {
    matches!(effect, Effect::Put { space: Space::Alarm, .. })
}

/// The alarm that is not tried again after this turn has failed.
fn given_up(letter: &Letter) -> Option<Bytes> {
    match &letter.says {
        Says::Alarm(alarm) if alarm.attempt >= ATTEMPTS_MAX => Some(alarm.id.clone()),
        _ => None,
    }
}

/// The socket that a turn has accepted, and how.
fn accepted<'a>(letter: &Letter, answer: &'a ObjectAnswer) -> Option<(SocketId, &'a Acceptance)> {
    match (&letter.says, answer) {
        (Says::Request(request), ObjectAnswer::Accept(how)) => Some((request.upgrade?, how)),
        _ => None,
    }
}

fn reply(letter: &Letter, answer: ObjectAnswer) -> Reply {
    match answer {
        ObjectAnswer::None if matches!(letter.says, Says::Alarm(_)) => Reply::new(StatusCode::NO_CONTENT, ""),
        // Whoever asked knows how to say that in its version of HTTP.
        ObjectAnswer::Accept(how) => {
            let reply = Reply::new(StatusCode::SWITCHING_PROTOCOLS, "");
            match how.protocol.map(HeaderValue::try_from) {
                None => reply,
                Some(Ok(protocol)) => reply.with_header(header::SEC_WEBSOCKET_PROTOCOL, protocol),
                Some(Err(_)) => Reply::problem(Problem::Internal),
            }
        }
        ObjectAnswer::Response(response) => Reply {
            status: response.status,
            headers: response.headers,
            body: Body::full(response.body),
            upgrade: None,
        },
        ObjectAnswer::None => Reply::problem(Problem::Internal),
    }
}

fn turn_problem(error: &TurnError) -> Problem {
    match error {
        TurnError::Fault(fault) => fault_problem(&fault.kind),
        TurnError::Commit(_) => Problem::Overload,
        TurnError::Failed(_) | TurnError::BadAnswer(_) => Problem::Internal,
    }
}

fn tell_error(workers: &Rc<CoreWorkers>, resident: &Resident, letter: &Letter, error: &TurnError) {
    let context = context_of(workers, &resident.zone, &resident.class, letter);
    match error {
        TurnError::Fault(fault) => report_fault(&context, fault),
        other => context.tell("fault", &other.to_string()),
    }
}

/// What the turn of a letter is known by.
fn context_of(workers: &CoreWorkers, zone: &Arc<Zone>, class: &Class, letter: &Letter) -> Arc<Context> {
    workers.object_context(zone, class, letter.client, letter.number, letter.chain.clone())
}

/// What a turn reaches on its core.
pub(super) struct Outside {
    way: Way,
    object: ObjectKey,
    /// Its rank among those that send. A start has none: it is alone.
    rank: Option<Rc<Rank>>,
}

impl Outside {
    pub(super) fn new(
        workers: &Rc<CoreWorkers>,
        zone: &Arc<Zone>,
        class: &Arc<Class>,
        letter: &Letter,
        rank: Option<Rc<Rank>>,
    ) -> Rc<Self> {
        let context = context_of(workers, zone, class, letter);
        Rc::new(Self { way: Way { core: Rc::clone(workers), context }, object: letter.object, rank })
    }
}

impl WayOut for Outside {
    fn ask(&self, request: Outbound) -> Asked {
        self.way.ask(request)
    }
}

impl object::Outside for Outside {
    fn release(&self, sends: Vec<SocketCommand>) {
        let done = sends.into_iter().map(Done::Command).collect();
        let let_out = |done| self.way.core.objects.release(&self.object, done);
        match &self.rank {
            Some(rank) => rank.done(done, let_out),
            None => let_out(done),
        }
    }
}

/// To what the lines belong that an instance logs: the turn that runs.
pub(super) struct Logs(Mutex<Arc<Context>>);

impl Logs {
    fn now(&self, context: &Arc<Context>) {
        Arc::clone_from(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), context);
    }

    fn context(&self) -> Arc<Context> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The world of an instance as long as it lives.
pub(super) struct ObjectHome {
    context: Arc<Context>,
    logs: Arc<Logs>,
    queue: Arc<AtomicU32>,
    node: Arc<Objects>,
    object: ObjectKey,
}

impl ObjectHome {
    pub(super) fn new(
        workers: &Rc<CoreWorkers>,
        zone: &Arc<Zone>,
        class: &Arc<Class>,
        letter: &Letter,
        queue: &Arc<AtomicU32>,
    ) -> (Self, Arc<Logs>) {
        let context = context_of(workers, zone, class, letter);
        let logs = Arc::new(Logs(Mutex::new(Arc::clone(&context))));
        let node = Arc::clone(&workers.objects.node);
        let home =
            Self { context, logs: Arc::clone(&logs), queue: Arc::clone(queue), node, object: letter.object };
        (home, logs)
    }
}

impl World for ObjectHome {
    fn sleep(&self, time: Duration) -> Later<()> {
        Box::pin(berth_runtime::sleep(time))
    }

    fn log(&self, stream: Stream, line: &[u8]) {
        self.logs.context().log(stream, line);
    }

    fn log_is_cut(&self) {
        self.logs.context().log_is_cut();
    }

    fn variables(&self) -> &[(String, String)] {
        &self.context.worker.variables
    }

    fn secret(&self, name: &str) -> Option<String> {
        self.context.worker.secrets.get(name).cloned()
    }
}

impl ObjectWorld for ObjectHome {
    fn queue_length(&self) -> u32 {
        self.queue.load(Relaxed)
    }

    fn is_open(&self, socket: SocketId) -> bool {
        self.node.sockets.is_open(&self.object, socket)
    }

    fn tags(&self, socket: SocketId) -> Option<Vec<String>> {
        self.node.sockets.tags(&self.object, socket)
    }

    fn attachment(&self, socket: SocketId) -> Option<Bytes> {
        self.node.sockets.attachment(&self.object, socket)
    }

    fn sockets(&self, tag: Option<&str>) -> Vec<SocketId> {
        self.node.sockets.tagged(&self.object, tag)
    }
}
