//! Classes of objects for Berth, written in Rust.
//!
//! A class is a type that implements [`Object`], exported once with [`export!`]. This is a whole one, a counter:
//!
//! ```
//! use berth_object::{Context, Object, Request, Response, Result};
//!
//! #[derive(Default)]
//! struct Counter;
//!
//! impl Object for Counter {
//!     async fn handle(&mut self, ctx: &Context, request: Request) -> Result<Response> {
//!         let count = ctx.storage().counter("count");
//!         Ok(Response::text(if request.method == "POST" { count.add(1).await? } else { count.get().await? }))
//!     }
//! }
//!
//! berth_object::export!(Counter);
//! # fn main() {}
//! ```
//!
//! Each call of a method is a *turn*, alone in its object. What it writes, sends and sets becomes durable together when
//! it ends, and only then does its answer leave; a commit point in the middle ([`Storage::sync`], [`Context::fetch`]) makes
//! durable what came before it. A turn that returns an error, or panics, loses what it did since its last commit point,
//! and ends the instance. Fields of the type last from turn to turn as long as the instance does, which nobody promises:
//! what must last belongs into [`Storage`].
//!
//! Methods are asynchronous in form. What they await is ready at once today, since the host waits in place; engines that
//! let a turn wait otherwise will need no other code. Futures of other crates that wait for something (timers, sockets)
//! have nobody here to wake them: such a turn ends with an error.

mod alarms;
mod context;
mod error;
mod identity;
mod message;
mod object;
mod outgoing;
#[doc(hidden)]
pub mod run;
mod sockets;
mod storage;

/// What the WIT says, as Rust. For [`export!`]; everybody else has the types above.
#[doc(hidden)]
#[allow(unsafe_code, reason = "generated: calls of the host are foreign functions")]
#[allow(missing_docs, unused_qualifications, reason = "generated from the WIT")]
#[allow(clippy::all, reason = "generated from the WIT")]
pub mod world {
    wit_bindgen::generate!({
        path: "wit",
        world: "object",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_events",
        default_bindings_module: "berth_object::world",
    });
}

pub use alarms::{Alarm, AlarmError, Alarms, Due};
pub use context::Context;
pub use error::{Error, Result};
pub use identity::Identity;
pub use message::{Accept, Headers, Request, Response};
pub use object::Object;
pub use outgoing::FetchError;
pub use sockets::{Data, Socket, SocketError, Sockets};
pub use storage::{Counter, Entry, Page, Range, Storage, StorageError, Usage};

/// Makes a type the class that this component is. Once in a component, and the type implements [`Object`].
#[macro_export]
macro_rules! export {
    ($object:ty) => {
        const _: () = {
            ::std::thread_local! {
                static OBJECT: $crate::run::Place<$object> = const { $crate::run::Place::new(::std::option::Option::None) };
            }

            struct Exported;

            impl $crate::world::exports::berth::object::events::Guest for Exported {
                fn handle(
                    request: $crate::run::events::Request,
                    upgrade: ::std::option::Option<u64>,
                ) -> $crate::run::Turn<$crate::run::events::Answer> {
                    $crate::run::handle(&OBJECT, request, upgrade)
                }

                fn alarm(alarm: $crate::run::events::Due) -> $crate::run::Turn<()> {
                    $crate::run::alarm(&OBJECT, alarm)
                }

                fn message(socket: u64, data: $crate::run::events::Data) -> $crate::run::Turn<()> {
                    $crate::run::message(&OBJECT, socket, data)
                }

                fn closed(socket: u64, code: u16, reason: ::std::string::String) -> $crate::run::Turn<()> {
                    $crate::run::closed(&OBJECT, socket, code, &reason)
                }

                fn reply(_token: u64, _reply: $crate::run::Reply) -> $crate::run::Turn<()> {
                    $crate::run::reply()
                }

                fn upgrade(from_version: u32) -> $crate::run::Turn<()> {
                    $crate::run::upgrade(&OBJECT, from_version)
                }
            }

            $crate::world::export_events!(Exported with_types_in $crate::world);
        };
    };
}
