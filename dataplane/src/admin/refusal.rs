//! What the admin API answers: JSON, or why not, as `application/problem+json` with a detail for people.

use std::fmt;

use http::StatusCode;
use serde::Serialize;

use super::text;
use crate::http::message::Reply;

/// A reply, or why there is none.
pub(super) type Outcome = Result<Reply, Refusal>;

/// Why an API call failed, for people.
pub(super) struct Refusal {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    detail: String,
}

impl Refusal {
    pub(super) fn new(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: &dyn fmt::Display,
    ) -> Self {
        Self { status, kind, title, detail: detail.to_string() }
    }

    pub(super) fn bad_request(detail: &dyn fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", "Malformed request", detail)
    }

    pub(super) fn unknown(detail: &dyn fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown", "There is no such thing", detail)
    }

    pub(super) fn overload(detail: &dyn fmt::Display) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overload", "Overloaded, try again", detail)
    }

    pub(super) fn internal(detail: &dyn fmt::Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The node failed", detail)
    }

    pub(super) fn reply(self) -> Reply {
        let body = serde_json::json!({
            "type": format!("urn:berth:{}", self.kind),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut reply = text(format!("{body}\n"), "application/problem+json");
        reply.status = self.status;
        reply
    }
}

/// A value as the API shows it.
pub(super) fn json(value: &impl Serialize) -> Outcome {
    let json = serde_json::to_string(value).map_err(|error| Refusal::internal(&error))?;
    Ok(text(json + "\n", "application/json"))
}
