//! Alarms: the node looks which are due, and tells their objects.
//!
//! One task for the node, on one core. What is due comes from the store, which knows committed alarms only; an alarm is
//! there until the turn that it began has committed, so that it rings at least once. A turn that fails is tried again, a few
//! times and ever later; how often is counted here and told to the guest, and begins anew after a restart. A turn that
//! could not begin, or whose writes did not become durable, does not count.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use berth_protocol::Alarm;
use berth_protocol::object::ObjectKey;
use berth_protocol::record::{Space, alarm_due_ms, alarm_payload};
use berth_protocol::waits::Chain;
use bytes::Bytes;
use http::StatusCode;

use super::ask::From;
use super::letter::Says;
use super::start::NAME_KEY;
use crate::clock;
use crate::workers::CoreWorkers;

/// Turns that an alarm may fail. With the pauses between them, which double from a second, half a minute.
pub(super) const ATTEMPTS_MAX: u32 = 6;
const PAUSE: Duration = Duration::from_secs(1);
/// Alarms that ring at a time. More wait: they are in the store.
const RINGING_MAX: usize = 256;
/// Alarms that wait for another attempt and do not keep others from ringing. Beyond, those that are due later wait for them.
const KNOWN_MAX: usize = 10_000;
/// The longest without a look: the wall clock may jump.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The shortest, while something is due that waits for its next attempt or its turn.
const LOOK_SOON: Duration = Duration::from_millis(50);

/// Which alarm, of which object.
type Which = (ObjectKey, Bytes);

/// What is known of an alarm that is due.
#[derive(Debug, Clone, Copy)]
struct Ringing {
    due_ms: u64,
    attempt: u32,
    /// When it rings again; nothing while it rings.
    again_at: Option<Instant>,
}

type Known = Rc<RefCell<HashMap<Which, Ringing>>>;

/// Rings until the core ends, or is about to.
pub(super) async fn ring(workers: Weak<CoreWorkers>) {
    let known = Known::default();
    loop {
        let Some(core) = workers.upgrade().filter(|core| !core.objects.is_silent()) else { return };
        let pause = look(&core, &known).await;
        let node = std::sync::Arc::clone(&core.objects.node);
        drop(core);
        let _ = berth_runtime::timeout(pause, node.alarm_set.notified()).await;
    }
}

/// Begins what is due. How long nothing more will be.
async fn look(core: &Rc<CoreWorkers>, known: &Known) -> Duration {
    let Some(opened) = core.objects.node.opened() else { return LOOK_EVERY };
    let (store, now_ms) = (opened.store.clone(), clock::now_ms());
    let most = RINGING_MAX + known.borrow().len().min(KNOWN_MAX);
    let read = opened.readers.run(move || Ok((store.due_alarms(now_ms, most)?, store.next_alarm()?)));
    let read: Option<Result<_, berth_store::ReadError>> = read.await;
    let (due, next) = match read {
        Some(Ok(both)) => both,
        Some(Err(error)) => {
            tracing::error!(%error, "object.alarms: unreadable");
            return LOOK_EVERY;
        }
        None => return LOOK_EVERY,
    };
    let now = Instant::now();
    // What is not due any more has rung, or was cleared.
    let still: HashSet<Which> = due.iter().map(|alarm| (alarm.object, alarm.id.clone())).collect();
    known.borrow_mut().retain(|which, ringing| ringing.again_at.is_none() || still.contains(which));
    let mut ringing = known.borrow().values().filter(|ringing| ringing.again_at.is_none()).count();
    for alarm in &due {
        let which = (alarm.object, alarm.id.clone());
        let Some(attempt) = begins(&known.borrow(), &which, alarm.due_ms, now) else { continue };
        if ringing >= RINGING_MAX {
            break;
        }
        ringing += 1;
        known.borrow_mut().insert(which.clone(), Ringing { due_ms: alarm.due_ms, attempt, again_at: None });
        berth_runtime::spawn(ring_one(Rc::clone(core), Rc::clone(known), which, alarm.due_ms, attempt));
    }
    match next {
        _ if !due.is_empty() => LOOK_SOON,
        Some(alarm) => Duration::from_millis(alarm.due_ms.saturating_sub(now_ms))
            .clamp(Duration::from_millis(1), LOOK_EVERY),
        None => LOOK_EVERY,
    }
}

/// Whether an alarm that is due rings now, and for which time.
fn begins(known: &HashMap<Which, Ringing>, which: &Which, due_ms: u64, now: Instant) -> Option<u32> {
    match known.get(which) {
        None => Some(1),
        Some(Ringing { again_at: None, .. }) => None,
        Some(ringing) if ringing.due_ms != due_ms => Some(1),
        Some(Ringing { again_at: Some(at), attempt, .. }) => (*at <= now).then_some(*attempt),
    }
}

/// How long to wait after this attempt has failed.
fn pause(attempt: u32) -> Duration {
    PAUSE * 2u32.saturating_pow(attempt.saturating_sub(1).min(ATTEMPTS_MAX))
}

async fn ring_one(core: Rc<CoreWorkers>, known: Known, which: Which, due_ms: u64, attempt: u32) {
    let status = tell(&core, &which, due_ms, attempt).await;
    let numbers = &core.objects.numbers;
    let (attempt, wait) = match status {
        Some(StatusCode::RESET_CONTENT) => (1, Duration::ZERO),
        Some(status) if status.is_success() => {
            numbers.object_alarms.add(1);
            // It is looked at again, and forgotten, or it was set anew.
            (1, Duration::ZERO)
        }
        Some(StatusCode::SERVICE_UNAVAILABLE) => (attempt, PAUSE),
        Some(_) => (attempt + 1, pause(attempt)),
        None => (attempt, LOOK_EVERY * 60),
    };
    let again_at = Some(Instant::now() + wait);
    known.borrow_mut().insert(which, Ringing { due_ms, attempt, again_at });
}

/// Tells the object. Nothing: there is no such class any more, or its data cannot be read.
async fn tell(core: &Rc<CoreWorkers>, which: &Which, due_ms: u64, attempt: u32) -> Option<StatusCode> {
    let (object, id) = which.clone();
    let (zone, class) = core.zones().hosts().class(&object.scope)?;
    let opened = core.objects.node.opened()?;
    let (store, key) = (opened.store.clone(), id.clone());
    let read = opened.readers.run(move || {
        let value = store.get(object, Space::Alarm, &key).ok()??;
        let name = store.get(object, Space::Meta, NAME_KEY).ok()?;
        Some((value, name))
    });
    let (value, name) = read.await??;
    if alarm_due_ms(&value) != Some(due_ms) {
        // It was set anew meanwhile, and is looked at again.
        return Some(StatusCode::RESET_CONTENT);
    }
    let name = name.as_deref().and_then(|name| std::str::from_utf8(name).ok());
    let alarm = Alarm { id, due_ms, attempt, payload: alarm_payload(&value) };
    let chain = Chain::outside();
    let (client, number) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), core.new_request());
    let from = From { client, number, chain: &chain, debug: false };
    Some(core.tell_object(&zone, &class, (object, name), Says::Alarm(alarm), from).await.status)
}

#[cfg(test)]
mod tests {
    use berth_protocol::object::{ObjectId, Scope, Slot};

    use super::*;

    #[test]
    fn an_alarm_rings_once_at_a_time_and_again_when_it_failed() {
        let object = ObjectKey { scope: Scope::new("a", "B"), id: ObjectId::random(Slot(1), [2; 13]) };
        let which = (object, Bytes::from_static(b"one"));
        let now = Instant::now();
        let mut known = HashMap::new();
        assert_eq!(begins(&known, &which, 7, now), Some(1));
        known.insert(which.clone(), Ringing { due_ms: 7, attempt: 1, again_at: None });
        assert_eq!(begins(&known, &which, 7, now), None, "it rings");
        known.insert(which.clone(), Ringing { due_ms: 7, attempt: 2, again_at: Some(now + pause(1)) });
        assert_eq!(begins(&known, &which, 7, now), None, "not yet");
        assert_eq!(begins(&known, &which, 7, now + pause(1)), Some(2));
        assert_eq!(begins(&known, &which, 9, now), Some(1), "set anew");
    }

    #[test]
    fn pauses_double_and_end() {
        assert_eq!([1, 2, 3].map(pause), [1, 2, 4].map(Duration::from_secs));
        let all: Duration = (1..ATTEMPTS_MAX).map(pause).sum();
        assert_eq!(all, Duration::from_secs(31));
        assert!(pause(u32::MAX) <= Duration::from_secs(64));
    }
}
