//! End-to-end tests.

pub mod attack;
mod skip;

pub use skip::skip;
