//! QUIC: one endpoint for each core and listener, driven by the core itself.
//!
//! ```text
//!   UdpSocket ──train──▶ Endpoint: whose datagram?             one task for each endpoint
//!      ▲                   │ another core's: tossed through the mailbox
//!      │                   │ a stranger's: retry, refuse, accept, or hand to the core of its host
//!      │                   ▼ a connection's
//!      └───train──── Link: state machine, timers, streams      one task for each connection, which also
//!                          ▲                                    runs what the connection serves
//!                          │ poll_read, poll_write, ...
//!                    Connection, SendStream, RecvStream         what HTTP/3 sees
//! ```
//!
//! The state machines are quinn-proto's; nothing outside this module names a type of it. There is no lock and no
//! thread: all is on one core, in `Rc`s. A connection's datagrams wait for its task, which is on the bill of its
//! client, so that a client that floods its connection delays its own (ADR 0001). ADR 0002 says why this driver and
//! not quinn's.
//!
//! # Invariants
//!
//! - A connection id names server, core and generation ([`keys`]). A datagram whose id names another core of this node
//!   is tossed there, once: a tossed datagram is never tossed again.
//! - No stateless reset is sent for an id that names another core, server or generation, nor for one that a connection
//!   has retired and that is still on its way ([`owners`]).
//! - Before its address is proved a client gets at most three times the bytes that it sent (`link::Allowance`), and while
//!   more than `limits.http3.retry_above` handshakes are open, a Retry and no memory.
//! - A first flight is handed to the core of its host, if `quic.hosts` or an object gives it one, and moves once: what was
//!   handed over is accepted, refused or retried where it came to. Without rules no first packet is read here ([`first_flight`]).
//! - Every queue has a bound: datagrams that wait for their connection ([`link`]), first packets ([`endpoint`]), first
//!   flights that wait for their rest, and ids that are remembered ([`first_flight`]).
//!
//! # What it leaves to others
//!
//! What is served on a connection (`http::h3`), who may connect (`connections`), keys and their rotation (`keyring`).

mod endpoint;
mod first_flight;
mod fuzz;
mod keys;
mod link;
mod owners;
mod streams;

pub use endpoint::{Endpoint, Settings, Shared};
pub use first_flight::{Homes, Hosts, HostsError, Rules};
#[doc(hidden)]
pub use fuzz::fuzz_logic;
pub use keys::QuicKeys;
pub use streams::{Connection, Lost, RecvStream, SendStream, StreamEnd};
