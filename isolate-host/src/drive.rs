//! What calls of workers and turns of objects have in common: how a guest's store is prepared, what goes on in the same poll
//! beside the guest, and what the engine's errors mean.
//!
//! Whoever polls a guest polls its [`Errands`] and its [`Wall`] next, in the same task: nothing is spawned, and nothing wakes
//! another thread.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use wasmtime::{PoolConcurrencyLimitError, Store, Trap, UpdateDeadline, WasmBacktrace};

use crate::call::{Fault, FaultKind};
use crate::guest::{Guest, LimitFell};
use crate::limits::Limit;
use crate::wasi::cli::Exited;
use crate::world::{Asked, Later, Outbound, Promise, WayOut, World};

/// Sets the limits of a new store. `call_bytes` is what a guest may hand to the host in one call.
pub(crate) fn prepare(store: &mut Store<Guest>, call_bytes: usize) {
    store.limiter(|guest| &mut guest.growth);
    store.set_hostcall_fuel(call_bytes);
    store.set_max_component_handles(store.data().limits.handles);
    store.epoch_deadline_callback(|context| {
        if context.data().cpu_is_spent() {
            return Err(LimitFell(Limit::Cpu).into());
        }
        context.data().call.made_room.store(true, Relaxed);
        Ok(UpdateDeadline::Yield(1))
    });
    store.set_epoch_deadline(1);
}

/// What a guest asked of others, and waits for.
pub(crate) struct Errands {
    way_out: Rc<dyn WayOut>,
    asked: Vec<(Asked, Promise)>,
}

impl Errands {
    pub(crate) fn new(way_out: Rc<dyn WayOut>) -> Self {
        Self { way_out, asked: Vec::new() }
    }

    /// Sends them on their way.
    pub(crate) fn send(&mut self, sent: Vec<(Outbound, Promise)>) {
        self.asked.extend(sent.into_iter().map(|(request, promise)| (self.way_out.ask(request), promise)));
    }

    /// Goes on with them, at once: a reply that is made in this process needs no turn of its own. Ready when there is one.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let before = self.asked.len();
        self.asked.retain_mut(|(reply, promise)| {
            if promise.is_given_up() {
                return false;
            }
            match reply.as_mut().poll(cx) {
                Poll::Pending => true,
                Poll::Ready(reply) => {
                    promise.keep(reply);
                    false
                }
            }
        });
        if self.asked.len() < before { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Gives all of them up.
    pub(crate) fn clear(&mut self) {
        self.asked.clear();
    }
}

/// The time that may pass, also while the guest waits.
pub(crate) struct Wall {
    most: Duration,
    /// Made when the guest first waits.
    alarm: Option<Later<()>>,
}

impl Wall {
    pub(crate) fn new(most: Duration) -> Self {
        Self { most, alarm: None }
    }

    /// Ready when it is over.
    pub(crate) fn poll(&mut self, world: &dyn World, cx: &mut Context<'_>) -> Poll<Fault> {
        let alarm = self.alarm.get_or_insert_with(|| world.sleep(self.most));
        alarm.as_mut().poll(cx).map(|()| {
            let detail = format!("it ran for {:?}", self.most);
            Fault { kind: FaultKind::Limit(Limit::Wall), detail }
        })
    }
}

/// Bounds of the engine that fell. It has no types for them, but words; tests tell when they change.
const WORDS: [(&str, Limit); 2] = [
    ("fuel allocated for hostcalls has been exhausted", Limit::CallBytes),
    ("store handle limit exceeded", Limit::Handles),
];

/// What the engine's error means. A guest that was refused memory fails in its own way a moment later: what refused it is
/// the reason.
pub(crate) fn fault(error: &wasmtime::Error, refusal: Option<Limit>) -> Fault {
    let kind = if let Some(LimitFell(limit)) = error.downcast_ref() {
        FaultKind::Limit(*limit)
    } else if error.is::<PoolConcurrencyLimitError>() {
        FaultKind::Busy
    } else if error.is::<Exited>() {
        FaultKind::Trap
    } else if let Some(Trap::StackOverflow) = error.downcast_ref() {
        FaultKind::Limit(Limit::Stack)
    } else {
        let reason = error.root_cause().to_string();
        let told = WORDS.iter().find(|(words, _)| reason.contains(words)).map(|(_, limit)| *limit);
        told.or(refusal).map_or(FaultKind::Trap, FaultKind::Limit)
    };
    Fault { kind, detail: describe(error) }
}

/// The engine's words, and the functions of the guest that were running, innermost first.
fn describe(error: &wasmtime::Error) -> String {
    let reason = error.root_cause();
    match error.downcast_ref::<WasmBacktrace>() {
        Some(trace) => format!("{reason}; {trace}"),
        None => reason.to_string(),
    }
}
