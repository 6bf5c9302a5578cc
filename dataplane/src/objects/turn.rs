//! Turns: a letter becomes a message for the instance, and its outcome, once durable, a reply.
//!
//! When the guest has answered, what it wrote is handed to the store and the next turn may begin at once; the reply waits
//! at the gate. A client that has gone away ends nothing: its reply is dropped where it would have gone.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Poll, Waker, ready};
use std::time::Duration;

use berth_isolate_host::object::{
    self, Effect, Ended, ObjectAnswer, ObjectStorage as _, ObjectWorld, SocketCommand, SocketId, Space, Turn,
    TurnError,
};
use berth_isolate_host::{Asked, Later, Outbound, Stream, WayOut, World};
use berth_protocol::object::{Epoch, ObjectKey};
use berth_protocol::ownership::{Event, TurnEnd};
use bytes::Bytes;
use http::StatusCode;

use super::alarms::ATTEMPTS_MAX;
use super::letter::{Letter, Message, Says};
use super::live::{CoreObjects, Resident};
use crate::http::body::Body;
use crate::http::message::{Problem, Reply};
use crate::workers::{Context, CoreWorkers, Way, fault_problem, report_fault};
use crate::zones::{Class, Zone};

/// A turn that runs: whoever stops it takes it away from the task that polls it.
pub(super) struct Running {
    turn: RefCell<Option<Turn>>,
    waker: Cell<Option<Waker>>,
}

impl Running {
    fn new(turn: Turn) -> Rc<Self> {
        Rc::new(Self { turn: RefCell::new(Some(turn)), waker: Cell::default() })
    }

    /// Ends the guest where it stands.
    pub(super) fn stop(&self) {
        // The task that polls it may be what stops it.
        let turn = self.turn.try_borrow_mut().ok().and_then(|mut turn| turn.take());
        drop(turn);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// How it ended; nothing, if it was stopped.
    async fn ended(&self) -> Option<Ended> {
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
        let letter = *message.body;
        let (Some(workers), Some((instance, resident))) = (self.workers(), self.board(&object)) else {
            tracing::error!(?object, "object.turn: no instance; please report this");
            self.reply(&letter, Reply::problem(Problem::Internal));
            return Some(Event::TurnEnded { epoch, end: TurnEnd::Trapped });
        };
        let outside = Outside::new(&workers, &resident.zone, &resident.class, &letter);
        let turn = instance.begin(letter.says.message(), outside);
        self.numbers.object_turns.add(1);
        let running = Running::new(turn);
        self.set_running(&object, Some(Rc::clone(&running)));
        berth_runtime::spawn(async move {
            let trapped = Event::TurnEnded { epoch, end: TurnEnd::Trapped };
            let mut guard = OnPanic(Some((Rc::clone(&workers), object, trapped)));
            let ended = running.ended().await;
            workers.objects.set_running(&object, None);
            match ended {
                Some(ended) => end(&workers, (object, epoch), &resident, &letter, ended).await,
                None => workers.objects.reply(&letter, Reply::problem(Problem::Overload)),
            }
            guard.0 = None;
        });
        None
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
) {
    let objects = &workers.objects;
    let (instance, outcome) = match ended.result {
        Ok(both) => both,
        Err(error) => {
            objects.numbers.object_faults.add(1);
            // First the reply: it says nothing that could be taken back.
            objects.reply(letter, Reply::problem(turn_problem(&error)));
            tell_error(workers, resident, letter, &error);
            if let Some(id) = given_up(letter).filter(|_| turn_problem(&error) != Problem::Overload) {
                tracing::warn!(?object, id = &*String::from_utf8_lossy(&id), "object.alarm: given up");
                objects.numbers.object_alarms_given_up.add(1);
                let _ = resident.shelf.commit(vec![Effect::Delete { space: Space::Alarm, key: id }]).await;
            }
            return objects.handle(object, Event::TurnEnded { epoch, end: TurnEnd::Trapped });
        }
    };
    // What it wrote before a commit point may be on its way as well.
    let wrote = !outcome.effects.is_empty() || ended.commits > 0;
    // Who looks after alarms reads the store for it: not for each write.
    let sets_alarm = ended.commits > 0 || outcome.effects.iter().any(is_alarm);
    let durable = resident.shelf.commit(outcome.effects);
    objects.settle_in(object, instance, None);
    let turn_end = if wrote { TurnEnd::Unsettled } else { TurnEnd::Settled };
    objects.handle(object, Event::TurnEnded { epoch, end: turn_end });
    match durable.await {
        Ok(()) => {
            objects.reply(letter, reply(letter, outcome.answer));
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
            objects.reply(letter, Reply::problem(Problem::Overload));
            objects.handle(object, Event::CommitFailed { epoch });
        }
    }
}

fn is_alarm(effect: &Effect) -> bool {
    matches!(effect, Effect::Put { space: Space::Alarm, .. })
}

/// The alarm that is not tried again after this turn has failed.
fn given_up(letter: &Letter) -> Option<Bytes> {
    match &letter.says {
        Says::Alarm(alarm) if alarm.attempt >= ATTEMPTS_MAX => Some(alarm.id.clone()),
        Says::Alarm(_) | Says::Request(_) => None,
    }
}

fn reply(letter: &Letter, answer: ObjectAnswer) -> Reply {
    match answer {
        ObjectAnswer::None if matches!(letter.says, Says::Alarm(_)) => Reply::new(StatusCode::NO_CONTENT, ""),
        ObjectAnswer::Response(response) => Reply {
            status: response.status,
            headers: response.headers,
            body: Body::full(response.body),
            upgrade: None,
        },
        ObjectAnswer::None | ObjectAnswer::Accept(_) => Reply::problem(Problem::Internal),
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
pub(super) struct Outside(Way);

impl Outside {
    pub(super) fn new(
        workers: &Rc<CoreWorkers>,
        zone: &Arc<Zone>,
        class: &Arc<Class>,
        letter: &Letter,
    ) -> Rc<Self> {
        let context = context_of(workers, zone, class, letter);
        Rc::new(Self(Way { core: Rc::clone(workers), context }))
    }
}

impl WayOut for Outside {
    fn ask(&self, request: Outbound) -> Asked {
        self.0.ask(request)
    }
}

/// No object has a socket yet, so that none sends.
impl object::Outside for Outside {
    fn release(&self, _sends: Vec<SocketCommand>) {}
}

/// The world of an instance as long as it lives.
pub(super) struct ObjectHome {
    context: Arc<Context>,
    queue: Arc<AtomicU32>,
}

impl ObjectHome {
    pub(super) fn new(
        workers: &Rc<CoreWorkers>,
        zone: &Arc<Zone>,
        class: &Arc<Class>,
        letter: &Letter,
        queue: &Arc<AtomicU32>,
    ) -> Self {
        let context = context_of(workers, zone, class, letter);
        Self { context, queue: Arc::clone(queue) }
    }
}

impl World for ObjectHome {
    fn sleep(&self, time: Duration) -> Later<()> {
        Box::pin(berth_runtime::sleep(time))
    }

    fn log(&self, stream: Stream, line: &[u8]) {
        self.context.log(stream, line);
    }

    fn log_is_cut(&self) {
        self.context.log_is_cut();
    }

    fn variables(&self) -> &[(String, String)] {
        &self.context.worker.variables
    }

    fn secret(&self, name: &str) -> Option<String> {
        self.context.worker.secrets.get(name).cloned()
    }
}

/// No object has a socket yet.
impl ObjectWorld for ObjectHome {
    fn queue_length(&self) -> u32 {
        self.queue.load(Relaxed)
    }

    fn tags(&self, _socket: SocketId) -> Option<Vec<String>> {
        None
    }

    fn attachment(&self, _socket: SocketId) -> Option<Bytes> {
        None
    }

    fn sockets(&self, _tag: Option<&str>) -> Vec<SocketId> {
        Vec::new()
    }
}
