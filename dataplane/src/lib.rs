//! Listeners, HTTP, TLS, router, responder and the life of a node.

pub mod connections;
pub mod http;
pub mod proxy_protocol;
