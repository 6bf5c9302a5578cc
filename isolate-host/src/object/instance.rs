//! The instance: the one live copy of a class's code together with its object, between two turns.
//!
//! A turn takes the instance and gives it back with its outcome. A turn that ends in an error, or that is dropped, gives
//! nothing back: so there is no instance that trapped, none that runs two turns at once, and none whose memory is ahead of
//! its storage.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use wasmtime::Store;
use wasmtime_wasi_io::poll::DynPollable;

use super::imports::ATTACHMENT_MAX;
use super::keyvalue::{Bucket, Cas};
use super::message::{Acceptance, Message, ObjectAnswer, ObjectRequest, ObjectResponse, SocketId, TurnError};
use super::state::Object;
use super::turn::Turn;
use super::world::{Outside, Setup};
use crate::drive::{fault, prepare};
use crate::engine::{Clock, Code, Script};
use crate::guest::{CallState, Guest, LimitFell};
use crate::limits::{Limit, Limits};
use crate::object_bindings as bindings;
use crate::object_bindings::exports::berth::object::events;
use crate::wasi::fields::{Built, Fields};

/// Bytes that a guest may hand to the host in one call: the largest value with its key, and as much again for what is beside
/// the body of an answer.
const CALL_BYTES: usize = 17 << 20;
const _: () = assert!(CALL_BYTES > berth_protocol::record::VALUE_MAX + berth_protocol::record::KEY_MAX);

/// Tags of a socket, and the bytes of one.
const TAGS_MAX: usize = 8;
const TAG_MAX: usize = 128;

/// An object's code and memory, between two turns. It may change threads if [`ObjectInstance::may_travel`]. It changes hands
/// several times in a turn, and is large.
pub struct ObjectInstance(Box<Parts>);

struct Parts {
    store: Store<Guest>,
    bindings: bindings::Object,
    object: Arc<Object>,
    clock: Arc<Clock>,
}

// Moves between cores rest on it.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<ObjectInstance>();
};

/// How a turn's guest ended.
pub(super) type Ran = Result<(ObjectInstance, ObjectAnswer), TurnError>;

impl ObjectInstance {
    /// Starts an instance, and brings what is stored to the schema of the class. This is a turn, too.
    pub fn start(script: &Script, setup: Setup) -> Turn {
        let Setup { limits, storage_bytes, identity, stored_schema, world, storage, outside } = setup;
        let schema = identity.schema_version;
        let object = Object::new(identity, Arc::clone(&world), storage, storage_bytes, stored_schema);
        let object = Arc::new(object);
        let call = Arc::new(CallState::new(false));
        let mut data = Guest::new(Arc::clone(&limits), world, Arc::clone(&call));
        data.object = Some(Arc::clone(&object));
        let upgrade_from = stored_schema.filter(|stored| *stored != schema);
        let (engine, code, clock) = (script.engine().clone(), script.code.clone(), Arc::clone(&script.clock));
        let running = clock.run();
        let kept = Arc::clone(&object);
        let guest = async move {
            let mut store = Store::new(&engine, data);
            prepare(&mut store, CALL_BYTES);
            match begin(&code, &mut store, upgrade_from).await {
                Ok((bindings, Ok(()))) => {
                    let instance = Self(Box::new(Parts { store, bindings, object: kept, clock }));
                    Ok((instance.rest(), ObjectAnswer::None))
                }
                Ok((_, Err(reason))) => Err(TurnError::Failed(reason)),
                Err(error) => Err(TurnError::Fault(fault(&error, store.data().growth.refused))),
            }
        };
        Turn::new(Box::pin(guest), call, object, limits.wall, outside, running)
    }

    /// Begins the turn of a message. Nothing of the guest runs before it is polled.
    pub fn begin(mut self, message: Message, outside: Rc<dyn Outside>) -> Turn {
        let call = Arc::new(CallState::new(is_head(&message)));
        let parts = &mut *self.0;
        let object = Arc::clone(&parts.object);
        object.lock().begin(upgrade_of(&message), due(&message), closed(&message));
        let guest = parts.store.data_mut();
        guest.call = Arc::clone(&call);
        guest.outgoing_left = guest.limits.outgoing;
        let wall = guest.limits.wall;
        // Between turns, others may have moved the epoch on.
        parts.store.set_epoch_deadline(1);
        let running = parts.clock.run();
        let own = Arc::clone(&object);
        let guest = async move {
            if let Message::Alarm { id, due_ms, .. } = &message
                && !own.is_still_due(id, *due_ms).await?
            {
                return Ok((self.rest(), ObjectAnswer::None));
            }
            let parts = &mut *self.0;
            match run(&parts.bindings, &mut parts.store, message).await {
                Ok(answer) => Ok((self.rest(), answer)),
                Err(Wrong::Engine(error)) => {
                    Err(TurnError::Fault(fault(&error, self.0.store.data().growth.refused)))
                }
                Err(Wrong::Turn(error)) => Err(error),
            }
        };
        Turn::new(Box::pin(guest), call, object, wall, outside, running)
    }

    /// Whether the instance holds nothing that belongs to its core, such as a timer or a body that is read.
    pub fn may_travel(&mut self) -> bool {
        let guest = self.0.store.data_mut();
        // Streams of the log lead to the same log from everywhere, and whoever printed once keeps them. What can be waited
        // for belongs to something that is in the table itself. The object's data comes along.
        let logs = guest.log.as_ref().map_or(0, |log| Arc::strong_count(log) - 1);
        let stays = |thing: &&mut (dyn Any + Send)| {
            !thing.is::<DynPollable>() && !thing.is::<Bucket>() && !thing.is::<Cas>()
        };
        guest.table.iter_mut().filter(stays).count() <= logs
    }

    /// Bytes of linear memory that the instance has taken.
    pub fn memory_bytes(&self) -> usize {
        let guest = self.0.store.data();
        guest.growth.taken(&guest.limits)
    }

    /// Ends a turn: what belonged to it is given back.
    fn rest(mut self) -> Self {
        let guest = self.0.store.data_mut();
        if let Some(log) = &guest.log {
            log.renew(guest.limits.log_bytes);
        }
        self
    }
}

fn is_head(message: &Message) -> bool {
    matches!(message, Message::Request(request) if request.method == http::Method::HEAD)
}

fn upgrade_of(message: &Message) -> Option<SocketId> {
    match message {
        Message::Request(request) => request.upgrade,
        _ => None,
    }
}

fn due(message: &Message) -> Option<Bytes> {
    match message {
        Message::Alarm { id, .. } => Some(id.clone().into()),
        _ => None,
    }
}

fn closed(message: &Message) -> Option<SocketId> {
    match message {
        Message::Closed { socket, .. } => Some(*socket),
        _ => None,
    }
}

/// Makes the instance, and runs its upgrade if there is something to upgrade.
async fn begin(
    code: &Code,
    store: &mut Store<Guest>,
    upgrade_from: Option<u32>,
) -> wasmtime::Result<(bindings::Object, Result<(), String>)> {
    let Code::Class(pre) = code else {
        return Err(wasmtime::format_err!("this is a worker: it exports no events, and has no objects"));
    };
    let bindings = pre.instantiate_async(&mut *store).await?;
    let upgraded = match upgrade_from {
        Some(version) => bindings.berth_object_events().call_upgrade(store, version).await?,
        None => Ok(()),
    };
    Ok((bindings, upgraded))
}

/// Why a turn went wrong.
enum Wrong {
    Engine(wasmtime::Error),
    Turn(TurnError),
}

impl From<wasmtime::Error> for Wrong {
    fn from(error: wasmtime::Error) -> Self {
        Self::Engine(error)
    }
}

async fn run(
    bindings: &bindings::Object,
    store: &mut Store<Guest>,
    message: Message,
) -> Result<ObjectAnswer, Wrong> {
    let events = bindings.berth_object_events();
    let done = match message {
        Message::Request(request) => {
            let is_head = store.data().call.of_head;
            let offered = offered(&request.headers);
            let upgrade = request.upgrade;
            let (request, socket) = (lower(request), upgrade.map(|socket| socket.0));
            let answer = events.call_handle(&mut *store, &request, socket).await?;
            let answer = answer.map_err(|reason| Wrong::Turn(TurnError::Failed(reason)))?;
            return take_answer(answer, upgrade, (is_head, &offered), &store.data().limits);
        }
        Message::Alarm { id, due_ms, attempt, payload } => {
            let due = events::Due { id, due_ms, attempt, payload: payload.into() };
            events.call_alarm(store, &due).await?
        }
        Message::Socket { socket, data } => events.call_message(store, socket.0, &data.into()).await?,
        Message::Closed { socket, code, reason } => {
            events.call_closed(store, socket.0, code, &reason).await?
        }
    };
    done.map(|()| ObjectAnswer::None).map_err(|reason| Wrong::Turn(TurnError::Failed(reason)))
}

/// A request as its guest sees it.
fn lower(request: ObjectRequest) -> events::Request {
    events::Request {
        method: request.method.as_str().to_owned(),
        url: request.url,
        headers: Fields::received(request.headers).entries(),
        body: request.body.into(),
    }
}

fn take_answer(
    answer: events::Answer,
    upgrade: Option<SocketId>,
    (is_head, offered): (bool, &[String]),
    limits: &Limits,
) -> Result<ObjectAnswer, Wrong> {
    let bad = |reason: String| Err(Wrong::Turn(TurnError::BadAnswer(reason)));
    match answer {
        events::Answer::Response(response) => {
            let status = match StatusCode::from_u16(response.status) {
                Ok(status) if response.status >= 200 => status,
                _ => return bad(format!("the status {}", response.status)),
            };
            let headers = match Fields::build(response.headers, limits) {
                Built::Fields(headers) => headers,
                Built::Wrong(name) => return bad(format!("the field {name:?}")),
                Built::Limit => return Err(wasmtime::Error::from(LimitFell(Limit::Headers)).into()),
            };
            let may_stay_away = is_head || status == StatusCode::NOT_MODIFIED;
            if !may_stay_away && announced(&headers).is_some_and(|length| length != response.body.len()) {
                return bad("a content length that its body has not".to_owned());
            }
            if response.body.len() as u64 > limits.body_bytes {
                return Err(wasmtime::Error::from(LimitFell(Limit::BodyBytes)).into());
            }
            Ok(ObjectAnswer::Response(ObjectResponse { status, headers, body: response.body.into() }))
        }
        events::Answer::Accept(_) if upgrade.is_none() => {
            bad("a socket was accepted that nobody asked for".to_owned())
        }
        events::Answer::Accept(accept) => {
            if accept.tags.len() > TAGS_MAX || accept.tags.iter().any(|tag| tag.len() > TAG_MAX) {
                return bad(format!("a socket has at most {TAGS_MAX} tags of {TAG_MAX} bytes"));
            }
            if accept.attachment.len() > ATTACHMENT_MAX {
                return bad(format!("an attachment has at most {ATTACHMENT_MAX} bytes"));
            }
            if let Some(protocol) = accept.protocol.as_ref().filter(|protocol| !offered.contains(*protocol)) {
                return bad(format!("the subprotocol {protocol:?}, which the client has not offered"));
            }
            let attachment = accept.attachment.into();
            Ok(ObjectAnswer::Accept(Acceptance { tags: accept.tags, attachment, protocol: accept.protocol }))
        }
    }
}

/// The subprotocols that a client offers.
fn offered(headers: &HeaderMap) -> Vec<String> {
    let lists = headers.get_all(http::header::SEC_WEBSOCKET_PROTOCOL).iter();
    let names = lists.filter_map(|list| list.to_str().ok()).flat_map(|list| list.split(','));
    names.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
