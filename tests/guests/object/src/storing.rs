//! Subjects of the object's storage.

use crate::world::berth::object::storage::{self, Error, Range};
use crate::{Text, ok};

/// The name of an error, as the answer has it.
fn name(error: &Error) -> String {
    match error {
        Error::KeyLength => "key-length".to_owned(),
        Error::ValueLength => "value-length".to_owned(),
        Error::Quota => "quota".to_owned(),
        Error::TooMuchAtOnce => "too-much-at-once".to_owned(),
        Error::NotANumber => "not-a-number".to_owned(),
        Error::Overflow => "overflow".to_owned(),
        Error::Unavailable(reason) => format!("unavailable {reason}"),
    }
}

fn told<T>(outcome: Result<T, Error>, text: impl FnOnce(T) -> String) -> Text {
    match outcome {
        Ok(value) => ok(text(value)),
        Err(error) => Ok((400, name(&error))),
    }
}

fn text(value: Option<Vec<u8>>) -> String {
    value.map_or_else(|| "nothing".to_owned(), |value| String::from_utf8_lossy(&value).into_owned())
}

pub(crate) fn get(key: &str) -> Text {
    told(storage::get(key.as_bytes()), text)
}

pub(crate) fn put(key: &str, value: &[u8]) -> Text {
    told(storage::put(key.as_bytes(), value), |()| "put".to_owned())
}

pub(crate) fn delete(key: &str) -> Text {
    told(storage::delete(key.as_bytes()), |()| "deleted".to_owned())
}

pub(crate) fn clear() -> Text {
    told(storage::delete_all(), |()| "cleared".to_owned())
}

pub(crate) fn increment(key: &str, by: i64) -> Text {
    told(storage::increment(key.as_bytes(), by), |sum| sum.to_string())
}

/// `-` stands for no value.
pub(crate) fn swap(key: &str, expected: &str, new: &str) -> Text {
    let value = |text: &str| (text != "-").then(|| text.as_bytes().to_vec());
    let (expected, new) = (value(expected), value(new));
    let outcome = storage::compare_and_swap(key.as_bytes(), expected.as_deref(), new.as_deref());
    told(outcome, |swapped| swapped.to_string())
}

/// Puts a word behind those that are there.
pub(crate) fn append(key: &str, value: &str) -> Text {
    let found = match storage::get(key.as_bytes()) {
        Ok(found) => found.unwrap_or_default(),
        Err(error) => return Ok((400, name(&error))),
    };
    let all = if found.is_empty() { value.into() } else { [&found, &b" "[..], value.as_bytes()].concat() };
    told(storage::put(key.as_bytes(), &all), |()| "appended".to_owned())
}

/// Writes and makes durable until something ends it.
pub(crate) fn write_on(key: &str) -> Text {
    loop {
        storage::increment(key.as_bytes(), 1).map_err(|error| error.to_string())?;
        storage::sync().map_err(|error| error.to_string())?;
    }
}

/// `-` stands for no bound.
pub(crate) fn scan(start: &str, end: &str, direction: &str, limit: &str) -> Text {
    let bound = |text: &str| (text != "-").then(|| text.as_bytes().to_vec());
    let range = Range {
        start: bound(start),
        end: bound(end),
        reverse: direction == "down",
        limit: limit.parse().expect("a number"),
    };
    told(storage::scan(&range), |page| {
        let entry = |entry: &storage::Entry| {
            format!("{}={}", String::from_utf8_lossy(&entry.key), text(Some(entry.value.clone())))
        };
        let entries: Vec<String> = page.entries.iter().map(entry).collect();
        format!("{}{}", entries.join(" "), if page.more { " more" } else { "" })
    })
}

/// Several operations in one turn, one on each line; the answer has a line for each.
pub(crate) fn script(lines: &[u8]) -> Text {
    let mut answers = Vec::new();
    for line in String::from_utf8_lossy(lines).lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (_, answer) = match words[..] {
            ["get", key] => get(key)?,
            ["put", key, value] => put(key, value.as_bytes())?,
            ["delete", key] => delete(key)?,
            ["clear"] => clear()?,
            ["increment", key, by] => increment(key, by.parse().expect("a number"))?,
            ["swap", key, expected, new] => swap(key, expected, new)?,
            ["scan", start, end, direction, limit] => scan(start, end, direction, limit)?,
            ["fill", prefix, count, bytes] => fill(prefix, count, bytes)?,
            ["usage"] => usage()?,
            ["sync"] => told(storage::sync(), |()| "durable".to_owned())?,
            _ => panic!("no such operation: {line}"),
        };
        answers.push(answer);
    }
    ok(answers.join("\n"))
}

pub(crate) fn fill(prefix: &str, count: &str, bytes: &str) -> Text {
    let value = vec![b'v'; bytes.parse().expect("a number")];
    for number in 0..count.parse::<u32>().expect("a number") {
        if let Err(error) = storage::put(format!("{prefix}{number:06}").as_bytes(), &value) {
            return Ok((400, format!("{} at {number}", name(&error))));
        }
    }
    ok("filled")
}

/// Deletes many keys of the greatest length, of which there is none.
pub(crate) fn delete_many(count: &str) -> Text {
    for number in 0..count.parse::<u32>().expect("a number") {
        if let Err(error) = storage::delete(format!("{number:02048}").as_bytes()) {
            return Ok((400, format!("{} at {number}", name(&error))));
        }
    }
    ok("deleted")
}

pub(crate) fn usage() -> Text {
    let usage = storage::get_usage();
    ok(format!("{} of {}", usage.bytes, usage.most))
}

pub(crate) fn put_then(key: &str, value: &str, then: impl FnOnce() -> Text) -> Text {
    put(key, value.as_bytes())?;
    then()
}

pub(crate) fn two_segments(first: &str, second: &str) -> Text {
    put(first, b"first")?;
    let (status, answer) = told(storage::sync(), |()| "durable".to_owned())?;
    if status != 200 {
        return Ok((status, answer));
    }
    put(second, b"second")
}
