//! Object workers: the one live instance of a class's code together with its object, which handles one message at a time.
//!
//! From the outside in: [`ObjectInstance::start`] makes an instance of a [`Script`](crate::Script) that is a class; a
//! [`Turn`] takes it and a [`Message`], is polled as a call of a worker is, and gives it back with an [`Outcome`]. Whoever runs it
//! commits the outcome's effects and lets out the rest when they are durable. `docs/OBJECTS.md` has what guests see.
//!
//! Inside: `state` is what guest and poller share; `overlay` what the segment wrote, and `cache` what is known of what is
//! stored; `imports`, `outgoing` and `keyvalue` are the interfaces; `turn` has the rules of segments, commit points and the
//! gate. What is stored, and where, is behind [`ObjectStorage`]; this crate knows nothing of disks, logs or other nodes.

mod cache;
mod forward;
mod imports;
mod instance;
#[allow(unreachable_pub, reason = "the generated bindings name the types of resources in public")]
pub(crate) mod keyvalue;
mod message;
mod outgoing;
mod overlay;
mod state;
mod storage;
mod turn;
mod world;

use wasmtime::Engine;
use wasmtime::component::{Component, HasSelf, Linker};

use crate::guest::Guest;
use crate::{object_bindings, wasi};

pub use imports::{ALARM_ID_MAX, ALARM_PAYLOAD_MAX, ALARMS_MAX};
pub use instance::ObjectInstance;
pub use message::{
    Acceptance, Message, ObjectAnswer, ObjectRequest, ObjectResponse, Outcome, SocketCommand, SocketData,
    SocketId, TurnError,
};
pub(crate) use state::Object;
pub use state::SCHEMA_KEY;
pub use storage::{
    CommitError, Effect, KeyRange, ObjectStorage, Order, Page, PageMost, Read, Space, StorageError,
};
pub use turn::{Ended, Turn};
pub use world::{Identity, ObjectWorld, Outside, STORAGE_DEFAULT, STORAGE_MOST, Setup};

/// What makes a component a class: it exports this, in any 0.1.x.
pub(crate) const EVENTS: &str = "berth:object/events@0.1.";

/// What only classes may import: of `berth:object`, in any 0.1.x, and of another package in this very version.
const INTERFACES: [&str; 6] = ["types", "storage", "alarms", "identity", "sockets", "outgoing"];
const KEYVALUE: [&str; 3] = [
    "wasi:keyvalue/store@0.2.0-draft2",
    "wasi:keyvalue/atomics@0.2.0-draft2",
    "wasi:keyvalue/batch@0.2.0-draft2",
];

/// A linker with everything that a class may import.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = wasi::linker(engine)?;
    object_bindings::Object::add_to_linker::<_, HasSelf<Guest>>(&mut linker, |guest| guest)?;
    object_bindings::keyvalue::Imports::add_to_linker::<_, HasSelf<Guest>>(&mut linker, |guest| guest)?;
    Ok(linker)
}

/// Whether a component is a class of objects.
pub(crate) fn is_class(engine: &Engine, component: &Component) -> bool {
    component.component_type().exports(engine).any(|(name, _)| name.starts_with(EVENTS))
}

/// Whether an import of this name is one that only classes have.
pub(crate) fn is_offered(import: &str) -> bool {
    let name = import.strip_prefix("berth:object/").and_then(|name| name.split_once("@0.1."));
    let is_ours =
        name.is_some_and(|(name, patch)| INTERFACES.contains(&name) && patch.parse::<u32>().is_ok());
    is_ours || KEYVALUE.contains(&import)
}

#[cfg(test)]
mod tests;
