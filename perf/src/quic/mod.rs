//! QUIC for the harness, without an async runtime: quinn-proto's state machines, driven by one thread.
//!
//! `wire` is one UDP socket; `host` is an endpoint with its connections, and the loop that drives them; `swarm` is
//! our client, which makes the load of the HTTP/3 figures; `bare` is the server without HTTP/3 whose connections are
//! the measure for the memory of ours; `http3` is what is said on the streams.

pub(crate) mod bare;
mod host;
pub(crate) mod http3;
pub(crate) mod swarm;
mod wire;
