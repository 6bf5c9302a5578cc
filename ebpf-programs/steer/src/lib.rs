//! Steering decides, for one packet, which server, core and generation it belongs to.
//!
//! The same source runs in BPF, in the dataplane and in tests; so it is `no_std`, allocates
//! nothing, has no dependency, and knows no map, socket or clock.
//!
//! - [`packet`]: the one door to a packet's bytes.
//! - [`headers`]: Ethernet, VLAN, IPv4, IPv6, and where the transport's header begins; [`quic`]: where its id stands.
//! - [`cid`]: the connection ids that we issue, which carry the destination of their packets; [`aes`]: the one block
//!   of AES-128 that hides it.
//! - [`flow`]: who speaks with whom, and the keyed hash of it; [`maglev`]: the ring that gives a hash its place.
//! - [`table`]: all that a decision looks at.
//! - [`decide`]: the decision; [`counters`]: how often each was made.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod aes;
pub mod cid;
pub mod counters;
pub mod decide;
pub mod flow;
pub mod headers;
pub mod maglev;
pub mod packet;
pub mod quic;
pub mod table;
