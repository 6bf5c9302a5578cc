//! Requests to others. Each is a commit point.

use std::fmt;
use std::time::Duration;

use crate::world::berth::object::outgoing as host;
use crate::{Request, Response};

pub(crate) fn fetch(request: Request, most: Option<Duration>) -> Result<Response, FetchError> {
    let most_ms = most.map(|most| u32::try_from(most.as_millis()).unwrap_or(u32::MAX));
    Ok(host::fetch(&request.into(), most_ms)?.into())
}

/// Why a request to somebody else has no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchError {
    /// The request is none: its URL, its method or a field of it.
    Invalid(String),
    /// There was no reply, or half of one. The words are those of `wasi:http`.
    Failed(String),
    /// The reply has more than 16 MiB.
    TooLarge,
    /// It took longer than the time given.
    Timeout,
    /// The node is older than what was asked of it.
    NotBuiltYet,
}

impl From<host::Error> for FetchError {
    fn from(error: host::Error) -> Self {
        match error {
            host::Error::Invalid(reason) => Self::Invalid(reason),
            host::Error::Failed(reason) => Self::Failed(reason),
            host::Error::TooLarge => Self::TooLarge,
            host::Error::Timeout => Self::Timeout,
            host::Error::NotBuiltYet => Self::NotBuiltYet,
        }
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(reason) => write!(out, "the request cannot be sent: {reason}"),
            Self::Failed(reason) => write!(out, "the request has no whole reply: {reason}"),
            Self::TooLarge => out.write_str("the reply has more than 16 MiB"),
            Self::Timeout => out.write_str("the reply took longer than the time given"),
            Self::NotBuiltYet => out.write_str("the node does not have this yet"),
        }
    }
}

impl std::error::Error for FetchError {}
