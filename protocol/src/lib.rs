//! What two cores, two processes or two nodes must agree on: plain data, no I/O, no clocks.
//!
//! Today that is the [`Envelope`], which travels through the mailbox between cores, and the messages
//! of the [`link`] between data plane and control agent; a datagram that belongs to another generation
//! crosses between processes in the form of [`toss`]; both read the machine's [`addresses`] alike. Ids, directory records, ownership,
//! replication and policies join them as they are built.
#![forbid(unsafe_code)]

pub mod addresses;
mod envelope;
pub mod kept;
pub mod link;
pub mod object;
pub mod ownership;
pub mod record;
pub mod toss;
pub mod waits;

pub use envelope::{
    Alarm, ArrivalEnvelope, Crossing, DatagramEnvelope, Envelope, LetterEnvelope, LetterSays, ReplyEnvelope,
    RequestEnvelope, Ticket,
};
