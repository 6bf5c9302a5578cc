//! Subjects of alarms.

use crate::world::berth::object::alarms::{self, Alarm, Error};
use crate::world::berth::object::storage;
use crate::world::exports::berth::object::events::Due;
use crate::{Text, ok};

fn name(error: &Error) -> String {
    match error {
        Error::IdLength => "id-length".to_owned(),
        Error::PayloadLength => "payload-length".to_owned(),
        Error::TooMany => "too-many".to_owned(),
        Error::Unavailable(reason) => format!("unavailable {reason}"),
    }
}

fn told<T>(outcome: Result<T, Error>, text: impl FnOnce(T) -> String) -> Text {
    match outcome {
        Ok(value) => ok(text(value)),
        Err(error) => Ok((400, name(&error))),
    }
}

fn alarm_of(id: &str, at_ms: u64) -> Alarm {
    Alarm { id: id.to_owned(), at_ms, payload: id.as_bytes().to_vec() }
}

pub(crate) fn set(id: &str, at: &str) -> Text {
    told(alarms::set(&alarm_of(id, at.parse().expect("a number"))), |()| "set".to_owned())
}

pub(crate) fn clear(id: &str) -> Text {
    told(alarms::clear(id), |()| "cleared".to_owned())
}

pub(crate) fn list() -> Text {
    told(alarms::get_all(), |all| {
        let one = |alarm: &Alarm| {
            format!("{}@{}:{}", alarm.id, alarm.at_ms, String::from_utf8_lossy(&alarm.payload))
        };
        all.iter().map(one).collect::<Vec<_>>().join(" ")
    })
}

pub(crate) fn flood(count: &str) -> Text {
    for number in 0..count.parse::<u64>().expect("a number") {
        if let Err(error) = alarms::set(&alarm_of(&format!("flood-{number}"), number)) {
            return Ok((400, format!("{} at {number}", name(&error))));
        }
    }
    ok("flooded")
}

/// Remembers what came. Its id says what else it does.
pub(crate) fn alarm(due: &Due) -> Result<(), String> {
    let Due { id, due_ms, attempt, payload } = due;
    let text = format!("{id} {due_ms} {attempt} {}", String::from_utf8_lossy(payload));
    storage::put(b"rang", text.as_bytes()).map_err(|error| error.to_string())?;
    match id.as_str() {
        "again" => alarms::set(&alarm_of(id, due_ms + 1000)).map_err(|error| name(&error)),
        "sync-trap" => {
            storage::sync().map_err(|error| error.to_string())?;
            panic!("as asked")
        }
        "fail" => Err("as asked".to_owned()),
        _ => Ok(()),
    }
}
