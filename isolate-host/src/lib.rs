//! The isolate host runs guests: WebAssembly components, each call in a sandbox of its own.
//!
//! From the outside in: [`Host`] is the engine with its pool; a [`Script`] is a component that it has loaded; a [`Call`] is
//! one request to a fresh instance, as one value that is polled by whoever wants the reply and ends the instance when it is
//! dropped. What the guest reaches outside is its [`World`]: time, log and other hosts come as a trait, and this crate
//! knows nothing of sockets, of the directory or of how requests arrive. `wasi` has the interfaces that guests import,
//! [`pipe`] the bodies, [`Limits`] what a request may cost. [`compile`] makes components into code, in a process
//! of its own; the [`library`] keeps both. [`object`] has the instances that live on: those of objects, turn by turn.
#![forbid(unsafe_code)]

mod bindings;
mod call;
pub mod compile;
mod drive;
mod engine;
mod guest;
pub mod library;
mod limits;
mod memory;
pub mod object;
mod object_bindings;
pub mod pipe;
mod room;
#[allow(unreachable_pub, reason = "the generated bindings name the types of resources in public")]
mod wasi;
mod world;

pub use bindings::wasi::http::types::{DnsErrorPayload, ErrorCode};
pub use call::{Call, Fault, FaultKind, Incoming, Reply};
pub use engine::{Host, HostError, Script, Settings, Stacks};
pub use limits::{Limit, Limits};
pub use memory::Memory;
pub use room::{Bound, Machine, Room};
pub use world::{Asked, Inbound, Later, Outbound, Stream, WayOut, World};

#[cfg(test)]
mod tests;
