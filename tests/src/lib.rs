//! End-to-end tests: the harness. [`node`] starts the program and looks at it from outside,
//! [`clients`] runs the programs that talk to it, which are not ours; [`aioquic`] is the one for HTTP/3,
//! [`s2n`] another, [`relay`] the bad network before it, and [`network`] a good one in namespaces of its own;
//! [`programs`] loads those of steering, [`steered`] is a node with its agent, [`workers`] has guests to deploy, and [`bombs`]
//! some that nobody should; [`objects`] are clients of objects, and [`history`] judges what they saw. The stories are in `tests/`.
#![allow(clippy::panic, reason = "a test that cannot go on ends with the reason")]

pub mod aioquic;
pub mod attack;
pub mod bombs;
pub mod chromium;
pub mod clients;
mod cpu;
pub mod dice;
pub mod history;
pub mod http3;
pub mod network;
pub mod node;
pub mod objects;
pub mod programs;
pub mod relay;
mod rights;
pub mod s2n;
mod skip;
pub mod sockets;
pub mod steered;
pub mod told;
pub mod workers;

pub use cpu::pin_to;
pub use rights::is_root_or_skip;
pub use skip::skip;
