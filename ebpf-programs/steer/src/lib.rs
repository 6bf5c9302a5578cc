//! Steering decides, for one packet, which server, core and generation it belongs to.
//!
//! The same source will run in BPF, in the dataplane and in tests; so it is `no_std`, allocates
//! nothing and knows no map, socket or clock. The connection-id codec arrives with QUIC, parsing
//! and the decision function with XDP. Until then this crate holds the place, so that the
//! dependency direction of the workspace is fixed from the first day.
#![no_std]
#![forbid(unsafe_code)]
