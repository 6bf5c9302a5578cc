//! Starting an object: its class, an epoch from the store, an instance.

use std::sync::Arc;

use berth_isolate_host::object::{
    Effect, Identity, ObjectInstance, ObjectStorage as _, SCHEMA_KEY, Setup, Space,
};
use berth_protocol::object::{Epoch, ObjectKey};
use berth_protocol::ownership::Event;
use bytes::Bytes;

use super::by_id::may_start_without_a_name;
use super::letter::Letter;
use super::live::{CoreObjects, Resident, Why};
use super::room::Place;
use super::sockets::Done;
use super::storage::{Shared, Shelf};
use super::turn::{ObjectHome, OnPanic, Outside};
use crate::enforce::{Instantiate, admit};
use crate::workers::CoreWorkers;

/// Under which an object's name is kept, if its id comes from one.
pub(super) const NAME_KEY: &[u8] = b"name";

/// What the store knows of an object that starts.
struct Found {
    epoch: Epoch,
    bytes: u64,
    schema: Option<u32>,
}

/// Why an object does not start.
enum NotMade {
    /// There is no place for it.
    NoRoom,
    /// Something else, which is told in the log.
    Failed(String),
}

impl From<String> for NotMade {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

impl From<&str> for NotMade {
    fn from(reason: &str) -> Self {
        Self::Failed(reason.to_owned())
    }
}

impl CoreObjects {
    /// Starts an object, for who waits for it.
    pub(super) fn start(&self, object: ObjectKey) {
        let (Some(workers), Some(letter)) = (self.workers(), self.first_waiting(&object)) else { return };
        berth_runtime::spawn(async move {
            let mut guard = OnPanic(Some((std::rc::Rc::clone(&workers), object, Event::StartFailed)));
            let objects = &workers.objects;
            objects.node.hand_over(object).await;
            if objects.starts_for_nobody(&object) {
                guard.0 = None;
                return objects.handle(object, Event::StartFailed);
            }
            let started = make(&workers, object, &letter).await;
            guard.0 = None;
            match started {
                Ok((epoch, instance, belongings)) => {
                    objects.numbers.objects_started.add(1);
                    objects.move_in(object, instance, belongings);
                    objects.handle(object, Event::Started { epoch });
                }
                Err(NotMade::NoRoom) => objects.handle(object, Event::NoRoom),
                Err(NotMade::Failed(reason)) => {
                    objects.numbers.object_start_failures.add(1);
                    tracing::warn!(target: "guest", zone = &*letter.zone, class = &*letter.class, ?object, reason, "object.start: failed");
                    objects.handle(object, Event::StartFailed);
                }
            }
        });
    }
}

async fn make(
    workers: &std::rc::Rc<CoreWorkers>,
    object: ObjectKey,
    letter: &Letter,
) -> Result<(Epoch, ObjectInstance, (Arc<Resident>, Place)), NotMade> {
    let zone = workers.zones().hosts().named(&letter.zone).ok_or("its zone is gone")?;
    let class = Arc::clone(zone.class(&letter.class).ok_or("its class is gone")?);
    let script = workers.script(&class.code).await?;
    let act = Instantiate { who: &zone.who, script: class.code.script };
    let admitted = admit(workers.enforce(), act).map_err(|denied| denied.to_string())?;
    let objects = &workers.objects;
    let place = objects.find_place(script.places()).await.ok_or(NotMade::NoRoom)?;
    let opened = objects.node.opened().ok_or("the node's objects are not open")?;
    let store = opened.store.clone();
    let found = opened.readers.run(move || look(&store, object)).await.ok_or("the node ends")??;
    if letter.name.is_none() && !may_start_without_a_name(object.id, found.schema.is_some()) {
        return Err("it was asked for by its id, and nobody knows its name".into());
    }
    let shelf = Arc::new(Shelf::new(
        opened.store.clone(),
        opened.readers.clone(),
        opened.listener,
        (object, found.epoch),
        opened.gate.open(),
        found.bytes,
    ));
    if found.schema.is_none()
        && let Some(name) = &letter.name
    {
        let value = Bytes::copy_from_slice(name.as_bytes());
        shelf.with_first(Effect::Put { space: Space::Meta, key: NAME_KEY.into(), value });
    }
    let queue = Arc::default();
    let (home, logs) = ObjectHome::new(workers, &zone, &class, letter, &queue);
    let setup = Setup {
        limits: Arc::clone(&class.code.limits),
        storage_bytes: class.storage,
        identity: Identity {
            id: object.id.to_string(),
            name: letter.name.as_ref().map(ToString::to_string),
            class: class.code.name.clone(),
            zone: zone.name.clone(),
            epoch: found.epoch.0,
            schema_version: class.version,
        },
        stored_schema: found.schema,
        world: Arc::new(home),
        storage: Box::new(Shared(Arc::clone(&shelf))),
        outside: Outside::new(workers, &zone, &class, letter, None),
    };
    drop(admitted);
    let mut turn = ObjectInstance::start(&script, setup);
    let ended = std::future::poll_fn(|cx| turn.poll(cx)).await;
    let (instance, outcome) = ended.result.map_err(|error| error.to_string())?;
    // Only an upgrade writes.
    if !outcome.effects.is_empty() {
        shelf.commit(outcome.effects).await.map_err(|error| error.to_string())?;
    }
    objects.release(&object, outcome.sends.into_iter().map(Done::Command).collect());
    let (releases, tally) = (Arc::default(), Arc::default());
    let resident = Resident { shelf, zone, class, why: Why::FirstMessage, queue, releases, logs, tally };
    Ok((found.epoch, instance, (Arc::new(resident), place)))
}

/// Begins an epoch, and reads what is known. On a thread that may wait.
fn look(store: &berth_store::Store, object: ObjectKey) -> Result<Found, String> {
    let epoch = store.begin_epoch(object).map_err(|refused| refused.to_string())?;
    let size = store.size(object).map_err(|error| error.to_string())?;
    let schema = store.get(object, Space::Meta, SCHEMA_KEY).map_err(|error| error.to_string())?;
    let schema = schema.and_then(|bytes| Some(u32::from_le_bytes(bytes.as_ref().try_into().ok()?)));
    Ok(Found { epoch, bytes: size.bytes, schema })
}
