//! Skeleton.

pub mod http;
pub mod router;
