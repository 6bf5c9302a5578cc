//! What two cores, two processes or two nodes must agree on: plain data, no I/O, no clocks.
//!
//! Today that is the [`Envelope`]: what travels through the mailbox between cores. Ids, directory
//! records, ownership, replication and policies join it as they are built.
#![forbid(unsafe_code)]

mod envelope;

pub use envelope::{Crossing, DatagramEnvelope, Envelope, ReplyEnvelope, RequestEnvelope, Ticket};
