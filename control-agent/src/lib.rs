//! The control agent keeps steering tables, directory and policies in step with desired state.
//!
//! A pure planner turns desired state into steps; an executor makes them real. It never runs guest code and never sees a
//! request.
//!
//! - [`agent`]: the loop that hears the data planes. It may die at any time: the kernel goes on without it.
//! - [`generations`], [`plan`], [`pins`], [`explain`]: pure. Who runs, what should be in the kernel, where it is kept,
//!   where a packet would go.
//! - [`machine`]: the executor. [`detach`] undoes all of it.
//! - [`programs`]: the steering programs and their maps, in the kernel.
#![deny(unsafe_code)] // But in `programs::plain`, which says why.

mod addresses;
pub mod agent;
pub mod detach;
pub mod explain;
pub mod generations;
pub mod machine;
pub mod pins;
pub mod plan;
pub mod programs;
