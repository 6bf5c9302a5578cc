//! Objects, asked for and told what to do. Everything here may wait for a disk or a core, and does so beside the admin thread.

use berth_protocol::object::ObjectId;
use http::StatusCode;
use serde::Deserialize;

use super::refusal::{Outcome, Refusal, json};
use super::{nothing, query_value};
use crate::objects::{NotDone, Wanted};
use crate::workers::Workers;

/// Objects of a list that nobody bounds, and of any.
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;

fn unreadable(error: &berth_store::ReadError) -> Refusal {
    Refusal::internal(&berth_protocol::link::with_causes(error))
}

pub(super) fn parse_id(text: &str) -> Result<ObjectId, Refusal> {
    text.parse::<ObjectId>()
        .map_err(|error| Refusal::bad_request(&format!("{text} is no id of an object: {error}")))
}

fn unknown(id: ObjectId) -> Refusal {
    Refusal::unknown(&format!(
        "there is no object {id}; `berth objects list` shows those that have stored something"
    ))
}

/// A list.
pub(super) fn list(workers: &Workers, query: &[u8]) -> Outcome {
    let (zone, class) = (query_value(query, "zone"), query_value(query, "class"));
    let after = query_value(query, "after").map(|text| parse_id(&text)).transpose()?;
    if after.is_some() && (zone.is_none() || class.is_none()) {
        return Err(Refusal::bad_request(
            &"after= goes with zone= and class=: ids are ordered within a class",
        ));
    }
    let limit = match query_value(query, "limit").map(|text| (text.parse(), text)) {
        None => LIMIT_DEFAULT,
        Some((Ok(limit), _)) if (1..=LIMIT_MAX).contains(&limit) => limit,
        Some((_, text)) => {
            return Err(Refusal::bad_request(&format!("limit={text}: write 1 to {LIMIT_MAX}")));
        }
    };
    let wanted = Wanted { zone, class, after, limit };
    let (objects, more) =
        workers.objects().list(&workers.zones.hosts(), &wanted).map_err(|error| unreadable(&error))?;
    json(&serde_json::json!({"objects": objects, "more": more}))
}

/// One object.
pub(super) fn show(workers: &Workers, id: &str) -> Outcome {
    let id = parse_id(id)?;
    match workers.objects().show(&workers.zones.hosts(), id).map_err(|error| unreadable(&error))? {
        Some(shown) => json(&shown),
        None => Err(unknown(id)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Move {
    core: u16,
}

/// Moves one to another core.
pub(super) fn move_to(workers: &Workers, id: &str, body: &[u8]) -> Outcome {
    let id = parse_id(id)?;
    let wrong = |error| format!("where it should live: {error}; write {{\"core\": N}}");
    let wish: Move = serde_json::from_slice(body).map_err(|error| Refusal::bad_request(&wrong(error)))?;
    let object = workers
        .objects()
        .find(&workers.zones.hosts(), id)
        .map_err(|error| unreadable(&error))?
        .ok_or_else(|| unknown(id))?;
    workers.objects().move_to(object, wish.core).map_err(|error| not_done(&error))?;
    tracing::info!(object = %id, core = wish.core, "object.moved");
    json(&serde_json::json!({"id": id.to_string(), "core": wish.core}))
}

/// Gives up the instance of one.
pub(super) fn evict(workers: &Workers, id: &str) -> Outcome {
    let id = parse_id(id)?;
    let object = workers
        .objects()
        .find(&workers.zones.hosts(), id)
        .map_err(|error| unreadable(&error))?
        .ok_or_else(|| unknown(id))?;
    workers.objects().evict(object).map_err(|error| not_done(&error))?;
    Ok(nothing())
}

fn not_done(error: &NotDone) -> Refusal {
    match error {
        NotDone::NoSuchCore { .. } => Refusal::bad_request(error),
        NotDone::Refused(_) => {
            Refusal::new(StatusCode::CONFLICT, "object-stays", "The object stays as it is", error)
        }
    }
}
