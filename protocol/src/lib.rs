//! What two cores, two processes or two nodes must agree on: plain data, no I/O, no clocks.
#![forbid(unsafe_code)]
