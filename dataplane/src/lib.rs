//! Listeners, HTTP, TLS, router, responder and the life of a node.
//!
//! This crate turns the bytes of connections into requests and brings them to the core, and there to the code,
//! that answers them. The unsafe parts (rings, sockets) live below it, in `berth-runtime` and `berth-mailbox`.
#![forbid(unsafe_code)]

pub mod config;
