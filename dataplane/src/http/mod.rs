//! HTTP on a connection.

pub mod h2_meter;
pub mod websocket;
