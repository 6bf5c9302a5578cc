//! Steering decides, for one packet, which server, core and generation it belongs to.
//!
//! The same source will run in BPF, in the dataplane and in tests; so it is `no_std`, allocates
//! nothing, has no dependency, and knows no map, socket or clock.
//!
//! - [`cid`]: the connection ids that we issue, which carry the destination of their packets.
//! - [`aes`]: the one block of AES-128 that hides it.
//!
//! Parsing and the decision function arrive with XDP.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod aes;
pub mod cid;
