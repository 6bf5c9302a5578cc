//! The control agent keeps steering tables, directory and policies in step with desired state.
//!
//! A pure planner turns desired state into table writes; an executor makes them real. It never
//! runs guest code and never sees a request.
//!
//! - [`programs`]: the steering programs and their maps, in the kernel.
#![deny(unsafe_code)] // But in `programs::plain`, which says why.

pub mod programs;
