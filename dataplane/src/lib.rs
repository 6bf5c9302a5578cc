//! Listeners, HTTP, TLS, router, responder and the life of a node.
//!
//! This crate turns the bytes of connections into requests and brings them to the core, and there
//! to the code, that answers them. The unsafe parts (rings, sockets) live below it, in
//! `berth-runtime` and `berth-mailbox`.
//!
//! From the outside in: [`node`] starts cores and ends them; [`listener`] accepts, admits
//! ([`connections`]), unwraps ([`proxy_protocol`], [`tls`]) and hands a connection to [`http`]; for
//! HTTP/3, [`quic`] does all that;
//! a request is matched by the [`router`] and answered by the [`responder`]. [`admin`], [`metrics`]
//! and [`stats`] let others see it. The control agent, if there is one, is told of it by [`agent_link`].
#![forbid(unsafe_code)]

pub mod admin;
pub mod agent_link;
mod clock;
pub mod config;
pub mod connections;
mod debugging;
pub mod drain;
pub mod enforce;
pub mod generations;
pub mod hops;
pub mod http;
pub mod keyring;
pub mod listener;
pub mod metrics;
pub mod node;
pub mod notify;
mod objects;
pub mod outgoing;
pub mod proxy_protocol;
pub mod quic;
pub mod responder;
pub mod router;
pub mod stats;
pub mod status;
pub mod tls;
pub mod workers;
pub mod zones;

#[doc(hidden)]
pub use objects::bench;
pub use objects::{Backup, BackupError, restore};
