//! A turn: one message handled by one object, as a value that is polled by whoever wants its outcome.
//!
//! ```text
//!   guest runs ── writes into the overlay ──┬── a request to others, or a sync ──┬── … ──┬── end
//!                                           │ commit point: the segment's effects │       │ outcome: the last segment's
//!                                           │ are handed to the storage           │       │ effects, answer and sends
//!                                           └ durable: its sends leave, then the  ┘       └ are the caller's to commit
//!                                             request, or the guest goes on                 and then to let out
//! ```
//!
//! Invariants: nothing leaves a turn before everything that was written until then is durable; what one segment wrote and
//! sent goes together or not at all; an error drops the segment that it happened in and no other.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::forward::{Forward, forwarded};
use super::instance::{ObjectInstance, Ran};
use super::message::{ObjectAnswer, Outcome, SocketCommand, TurnError};
use super::state::{Committing, Object, Sync};
use super::storage::CommitError;
use super::world::Outside;
use crate::drive::{Errands, Wall};
use crate::engine::Running;
use crate::guest::CallState;
use crate::world::{Outbound, Promise, WayOut};

/// How a turn ended.
pub struct Ended {
    /// The instance and what the turn leaves to be done; or why there is neither.
    pub result: Result<(ObjectInstance, Outcome), TurnError>,
    /// How many commit points it passed: what was committed there stays, whatever the result.
    pub commits: u32,
    /// The time on its core that it took.
    pub cpu: Duration,
}

/// A message that is handled. Dropping it ends the guest where it stands, and with it the instance.
pub struct Turn {
    stage: Stage,
    call: Arc<CallState>,
    object: Arc<Object>,
    outside: Rc<dyn Outside>,
    wall: Wall,
    gate: Gate,
    errands: Errands,
    /// Requests that leave when the gate opens.
    held: Vec<(Outbound, Promise)>,
    /// Bodies on their way out that were not whole when their request left.
    forwards: Vec<Forward>,
    commits: u32,
    _running: Running,
}

enum Stage {
    Running(Pin<Box<dyn Future<Output = Ran> + Send>>),
    /// The guest is gone, and its last segment. What it committed before is on its way.
    Settling(TurnError),
    Over,
}

/// Segments that are committed and not yet durable.
struct Gate {
    waiting: VecDeque<Committing>,
}

impl Gate {
    /// Lets out what has become durable, in order. Ready when it is open.
    fn poll(&mut self, outside: &dyn Outside, cx: &mut Context<'_>) -> Poll<Result<(), CommitError>> {
        while let Some(first) = self.waiting.front_mut() {
            ready!(first.durable.as_mut().poll(cx))?;
            let sends = std::mem::take(&mut first.sends);
            self.waiting.pop_front();
            if !sends.is_empty() {
                outside.release(sends);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Turn {
    pub(super) fn new(
        guest: Pin<Box<dyn Future<Output = Ran> + Send>>,
        call: Arc<CallState>,
        object: Arc<Object>,
        wall: Duration,
        outside: Rc<dyn Outside>,
        running: Running,
    ) -> Self {
        let way_out: Rc<dyn WayOut> = Rc::<dyn Outside>::clone(&outside);
        Self {
            stage: Stage::Running(guest),
            call,
            object,
            outside,
            wall: Wall::new(wall),
            gate: Gate { waiting: VecDeque::new() },
            errands: Errands::new(way_out),
            held: Vec::new(),
            forwards: Vec::new(),
            commits: 0,
            _running: running,
        }
    }

    /// Goes on with the turn as far as it goes. Not to be polled again after it has ended.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            if let Some(outcome) = self.poll_guest(cx) {
                return Poll::Ready(self.ended(Ok(outcome)));
            }
            self.collect(cx);
            match self.gate.poll(&*self.outside, cx) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Poll::Ready(self.ended(Err(error.into()))),
                Poll::Ready(Ok(())) => {}
            }
            if let Stage::Settling(error) = &self.stage {
                let error = error.clone();
                return Poll::Ready(self.ended(Err(error)));
            }
            if self.poll_outside(cx).is_pending() {
                break;
            }
        }
        if let Stage::Running(_) = self.stage
            && let Poll::Ready(fault) = self.wall.poll(&*self.object.world, cx)
        {
            self.settle(TurnError::Fault(fault));
            return self.poll(cx);
        }
        Poll::Pending
    }

    /// Runs the guest as far as it goes.
    fn poll_guest(&mut self, cx: &mut Context<'_>) -> Option<(ObjectInstance, Outcome)> {
        let Stage::Running(guest) = &mut self.stage else { return None };
        self.call.made_room.store(false, Relaxed);
        let Poll::Ready(ran) = self.call.meter.measure(|| guest.as_mut().poll(cx)) else { return None };
        match ran {
            Ok((instance, answer)) => Some((instance, self.outcome(answer))),
            Err(error) => {
                self.settle(error);
                None
            }
        }
    }

    /// The guest has come to its end: its last segment is for the caller to commit.
    fn outcome(&mut self, answer: ObjectAnswer) -> Outcome {
        self.take_ended();
        let mut state = self.object.lock();
        let mut segment = state.end_turn();
        let greetings = std::mem::take(&mut state.turn.greetings);
        drop(state);
        // What earlier segments sent and is not out yet leaves with the last one, which is durable after them.
        let mut sends: Vec<SocketCommand> =
            self.gate.waiting.drain(..).flat_map(|segment| segment.sends).collect();
        sends.append(&mut segment.sends);
        if matches!(answer, ObjectAnswer::Accept(_)) {
            sends.extend(greetings);
        }
        Outcome { answer, effects: segment.effects, sends }
    }

    /// Ends the guest and everything that it waits for. What it committed is not taken back.
    fn settle(&mut self, error: TurnError) {
        self.stage = Stage::Settling(error);
        self.errands.clear();
        self.held.clear();
        self.forwards.clear();
    }

    fn ended(&mut self, result: Result<(ObjectInstance, Outcome), TurnError>) -> Ended {
        self.stage = Stage::Over;
        Ended { result, commits: self.commits, cpu: self.call.meter.spent() }
    }

    /// Puts the segments that the guest has ended behind the gate.
    fn take_ended(&mut self) {
        let ended = std::mem::take(&mut self.object.lock().ended);
        self.commits += ended.iter().filter(|segment| segment.has_effects).count() as u32;
        self.gate.waiting.extend(ended);
    }

    /// Collects what the guest left since it was polled last: segments that are now behind the gate, requests and pieces of
    /// bodies that leave when it opens. Each was preceded by its own commit point, where the guest was.
    fn collect(&mut self, cx: &mut Context<'_>) {
        self.take_ended();
        if !matches!(self.stage, Stage::Running(_)) {
            return;
        }
        for (mut request, promise) in std::mem::take(&mut *self.call.sent()) {
            if let Some((body, forward)) = request.body.take().map(forwarded) {
                request.body = Some(body);
                self.forwards.extend(forward);
            }
            self.held.push((request, promise));
        }
        self.forwards.iter_mut().for_each(|forward| forward.look(cx));
    }

    /// The gate is open: lets out what waits behind it, and goes on with what is out. Ready when the guest may go on.
    fn poll_outside(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.object.lock();
        let mut may_go_on = false;
        if state.sync == Sync::Wanted {
            state.sync = Sync::Done;
            may_go_on = true;
        }
        drop(state);
        self.errands.send(std::mem::take(&mut self.held));
        self.forwards.retain_mut(|forward| {
            let (moved, is_open) = forward.let_out(cx);
            may_go_on |= moved;
            is_open
        });
        may_go_on |= self.errands.poll(cx).is_ready();
        if may_go_on { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Future for Turn {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        Self::poll(&mut self, cx)
    }
}
