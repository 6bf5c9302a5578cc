//! One core of Berth: a pinned thread with its own io_uring, executor, timers and sockets.
//!
//! Everything that a core runs lives on its thread: tasks are `!Send`, sockets belong to the ring
//! of the core that made them, and nothing here takes a lock on the way of a request. What crosses
//! threads is plain: a waker (see [`remote`]) or a message of the mailbox (another crate), which
//! plugs in through [`Inbox`].
//!
//! ```text
//!            ┌──────────────── one turn ────────────────┐
//!            │ run ready tasks ─▶ fire timers ─▶ drain  │
//!   spawn ──▶│ inbox ─▶ submit and reap the ring, which │──▶ sleeps in the ring
//!            │ wakes tasks                              │    when nothing is ready
//!            └──────────────────────────────────────────┘
//! ```
//!
//! * [`core`]: the thread, its turn, and where it sleeps.
//! * [`executor`]: tasks and their panics.
//! * [`timer`]: deadlines that are cheap to move.
//! * [`ring`]: io_uring: operations, buffers and who owns them while the kernel writes.
//! * [`epoll`]: the same sockets where io_uring is forbidden.
//! * [`net`]: the sockets that the rest of the node sees, over either driver.
//! * [`process`]: signals and limits of the whole process.
//!
//! This crate holds the unsafe code of the dataplane; the crates above it forbid it. The choice of
//! an own executor on an own ring, and its figures, are in ADR 0001.

mod cmsg;
pub mod core;
mod driver;
mod epoll;
pub mod executor;
pub mod net;
pub mod probe;
pub mod process;
pub mod remote;
mod ring;
pub mod stats;
pub mod timer;

#[cfg(test)]
mod tests;

pub use crate::core::{CoreOptions, Inbox, block_on, core_index, has_core, now, set_inbox};
pub use crate::driver::{DriverChoice, DriverKind};
pub use crate::executor::{Payer, Task, out_of_budget, spawn, spawn_for, spawn_scoped, yield_now};
pub use crate::net::{Datagram, TcpListener, TcpStream, Transmit, UdpSocket};
pub use crate::remote::Remote;
pub use crate::ring::{Guard, RingOptions};
pub use crate::timer::{Deadline, Timeout, sleep, timeout};
