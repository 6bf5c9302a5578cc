//! End-to-end tests.

mod skip;

pub use skip::skip;
