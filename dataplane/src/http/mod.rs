//! Skeleton.

pub mod target;
