//! Messages of the object to itself, later. They are durable with the turn's writes.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::Context;
use crate::world::berth::object::alarms as host;
use crate::world::exports::berth::object::events;

/// The object's alarms: at most 100.
#[derive(Debug, Clone, Copy)]
pub struct Alarms<'c> {
    pub(crate) _context: &'c Context,
}

impl Alarms<'_> {
    /// Sets an alarm, with up to 4,096 bytes that come with it; one of the same id is replaced. What has passed is due at
    /// once.
    pub async fn set(
        &self,
        id: impl Into<String>,
        at: SystemTime,
        payload: impl AsRef<[u8]>,
    ) -> Result<(), AlarmError> {
        let payload = payload.as_ref().to_vec();
        Ok(host::set(&host::Alarm { id: id.into(), at_ms: ms_of(at), payload })?)
    }

    /// Sets an alarm that is due after this time.
    pub async fn set_in(
        &self,
        id: impl Into<String>,
        after: Duration,
        payload: impl AsRef<[u8]>,
    ) -> Result<(), AlarmError> {
        self.set(id, later(SystemTime::now(), after), payload).await
    }

    /// No error if there is none.
    pub async fn clear(&self, id: &str) -> Result<(), AlarmError> {
        Ok(host::clear(id)?)
    }

    /// All that are set, by id.
    pub async fn get_all(&self) -> Result<Vec<Alarm>, AlarmError> {
        let alarm = |host::Alarm { id, at_ms, payload }| Alarm { id, at: time_of(at_ms), payload };
        Ok(host::get_all()?.into_iter().map(alarm).collect())
    }
}

/// An alarm that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// Its name among those of the object.
    pub id: String,
    /// When it is due.
    pub at: SystemTime,
    /// What comes with it.
    pub payload: Vec<u8>,
}

/// An alarm that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Its name among those of the object.
    pub id: String,
    /// When it should have been.
    pub at: SystemTime,
    /// 1 for the first. An alarm whose turn fails comes again, a bounded number of times.
    pub attempt: u32,
    /// What was set with it.
    pub payload: Vec<u8>,
}

impl From<events::Due> for Due {
    fn from(events::Due { id, due_ms, attempt, payload }: events::Due) -> Self {
        Self { id, at: time_of(due_ms), attempt, payload }
    }
}

/// The last moment that is told: the year 9999. Later ones are cut to it, so that no arithmetic of times overflows.
const MOST_MS: u64 = 253_402_300_799_999;

/// Milliseconds of Unix time. What is before has passed in any case.
fn ms_of(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(MOST_MS).min(MOST_MS)
}

fn time_of(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms.min(MOST_MS))
}

fn later(now: SystemTime, after: Duration) -> SystemTime {
    now.checked_add(after).unwrap_or_else(|| time_of(MOST_MS))
}

/// Why an alarm was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlarmError {
    /// The id is empty, or has more than 256 bytes.
    IdLength,
    /// The payload has more than 4,096 bytes.
    PayloadLength,
    /// The object has 100 alarms.
    TooMany,
    /// They cannot be read, for this reason.
    Unavailable(String),
}

impl From<host::Error> for AlarmError {
    fn from(error: host::Error) -> Self {
        match error {
            host::Error::IdLength => Self::IdLength,
            host::Error::PayloadLength => Self::PayloadLength,
            host::Error::TooMany => Self::TooMany,
            host::Error::Unavailable(reason) => Self::Unavailable(reason),
        }
    }
}

impl fmt::Display for AlarmError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::IdLength => "an alarm's id is empty, or has more than 256 bytes",
            Self::PayloadLength => "an alarm's payload has more than 4,096 bytes",
            Self::TooMany => "the object has 100 alarms: clear one first",
            Self::Unavailable(reason) => return write!(out, "the alarms cannot be read: {reason}"),
        })
    }
}

impl std::error::Error for AlarmError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_milliseconds_and_never_overflow() {
        assert_eq!(ms_of(time_of(1_700_000_000_123)), 1_700_000_000_123);
        assert_eq!(ms_of(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), 0);
        assert_eq!(ms_of(time_of(u64::MAX)), MOST_MS);
        assert_eq!(ms_of(later(SystemTime::now(), Duration::MAX)), MOST_MS);
        let due = events::Due { id: "a".to_owned(), due_ms: 5, attempt: 2, payload: vec![1] };
        let expected = Due { id: "a".to_owned(), at: time_of(5), attempt: 2, payload: vec![1] };
        assert_eq!(Due::from(due), expected);
    }
}
