//! The wall clock, for what outlives a process.

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix time in seconds; 0 on a clock that stands before 1970.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Unix time in milliseconds; 0 on a clock that stands before 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
