//! Requests that carry an `idempotency-key`: the first is done, and its answer kept; who repeats it gets that answer.
//!
//! The answer is among the object's own data ([`kept`]), in the batch with which the turn ends: what was acknowledged and
//! that it was done are durable together or not at all. Since turns of an object never overlap, a request that comes
//! while the first one runs waits for its turn, and finds the answer then. What was found may still be on its way to the
//! disk: it goes out by the gate, like all that a turn could have read.

use std::ops::Bound;
use std::time::Duration;

use aws_lc_rs::digest;
use berth_isolate_host::object::{Effect, ObjectAnswer, ObjectRequest, ObjectResponse, Read, Space};
use berth_protocol::kept::{self, Answer, BadKept, Fingerprint, Found, Kept, Old, Seen};
use berth_protocol::object::ObjectKey;
use berth_store::{Direction, Limit, ReadError, Store};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::letter::{Letter, Says};
use super::live::Resident;
use crate::clock;
use crate::hops::{header_bytes, header_map};
use crate::http::body::Body;
use crate::http::message::{Problem, Reply};
use crate::stats::CoreNumbers;

/// The field with the key.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The field that tells that an answer was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// How long an answer is kept when nothing is said.
pub(crate) const WINDOW_DEFAULT: Duration = Duration::from_secs(24 * 3600);
/// The longest that an answer may be kept.
pub(crate) const WINDOW_MOST: Duration = Duration::from_secs(7 * 24 * 3600);

/// The key of a request, if it has one.
pub(super) fn key_of(headers: &HeaderMap) -> Result<Option<Bytes>, Problem> {
    let mut keys = headers.get_all(KEY).iter();
    match (keys.next(), keys.next()) {
        (None, _) => Ok(None),
        (Some(key), None) if kept::is_key(key.as_bytes()) => Ok(Some(Bytes::copy_from_slice(key.as_bytes()))),
        (Some(_), _) => Err(Problem::IdempotencyKey),
    }
}

/// Whether a letter is to be done.
pub(super) enum Whether {
    /// It is. With a key, its answer is to be kept.
    First(Option<First>),
    /// It is not; this is the answer.
    Known(ObjectResponse),
}

/// A request that is the first with its key.
pub(super) struct First {
    key: Bytes,
    fingerprint: Fingerprint,
    found: Found,
}

/// Looks whether a letter has had its turn already.
pub(super) async fn look(numbers: &CoreNumbers, resident: &Resident, letter: &Letter) -> Whether {
    let Says::Request(request) = &letter.says else { return Whether::First(None) };
    let key = match key_of(&request.headers) {
        Ok(Some(key)) => key,
        Ok(None) => return Whether::First(None),
        Err(problem) => return Whether::Known(response(problem)),
    };
    let (asked, wanted) = (request.clone(), key.clone());
    let read = resident.shelf.read(move |store, object| {
        // With the body, the hash is more than a core should do at once.
        Ok((fingerprint(&asked), find(store, object, &wanted)?))
    });
    let read = match read {
        Read::Now(read) => read,
        Read::Later(read) => read.await,
    };
    let (fingerprint, found) = match read {
        Ok((fingerprint, Ok(found))) => (fingerprint, found),
        Ok((_, Err(bad))) => {
            tracing::error!(object = ?letter.object, error = %bad, "object.unreadable");
            return Whether::Known(response(Problem::Internal));
        }
        // The shelf has told of it.
        Err(_) => return Whether::Known(response(Problem::Internal)),
    };
    let (response, number) = match found.see(&fingerprint, clock::now_ms()) {
        Seen::First => return Whether::First(Some(First { key, fingerprint, found })),
        Seen::Again(answer @ Answer::Whole { .. }) => (again(answer), &numbers.object_repeats),
        Seen::Again(answer) => (again(answer), &numbers.object_repeats_refused),
        Seen::Other => (response(Problem::IdempotencyKeyReused), &numbers.object_repeats_refused),
    };
    number.add(1);
    Whether::Known(response)
}

impl First {
    /// What keeps the answer of the turn, which has ended well. A WebSocket is no answer that could be given again.
    pub(super) fn keep(&self, numbers: &CoreNumbers, answer: &ObjectAnswer, window: Duration) -> Vec<Effect> {
        let ObjectAnswer::Response(response) = answer else { return Vec::new() };
        let status = response.status.as_u16();
        let answer = Answer::new(status, header_bytes(&response.headers), response.body.clone());
        if matches!(answer, Answer::TooLarge { .. }) {
            numbers.limit_object_answer_bytes.add(1);
        }
        let now_ms = clock::now_ms();
        let until_ms = now_ms.saturating_add(window.as_millis() as u64);
        let (effects, early) = self.found.keep(&self.key, self.fingerprint, answer, (now_ms, until_ms));
        numbers.limit_object_answers.add(early);
        effects
    }
}

/// Method, path and query, and body. Scheme and host are left out: the same request may come by another way.
fn fingerprint(request: &ObjectRequest) -> Fingerprint {
    let after_scheme = request.url.split_once("://").map_or(&*request.url, |(_, rest)| rest);
    let path = after_scheme.find(['/', '?']).map_or("", |at| &after_scheme[at..]);
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in [request.method.as_str(), path] {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.update(&request.body);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hash.finish().as_ref());
    Fingerprint(bytes)
}

/// Reads what the object keeps that matters for a key. On a thread that may wait.
fn find(store: &Store, object: ObjectKey, key: &[u8]) -> Result<Result<Found, BadKept>, ReadError> {
    let known = store.get(object, Space::Reply, &kept::answer_at(key))?;
    let (start, end) = kept::NUMBERS;
    let numbers = |direction, entries| {
        let range = (Bound::Included(start), Bound::Excluded(end));
        let page =
            store.scan(object, Space::Reply, range, direction, Limit { entries, bytes: usize::MAX })?;
        Ok::<_, ReadError>(page.entries.into_iter().map(|(at, value)| Old::decode(at, value)))
    };
    let oldest: Result<_, _> = numbers(Direction::Forward, kept::LOOKED_AT)?.collect();
    let newest = numbers(Direction::Backward, 1)?.next().transpose();
    let known = known.map(Kept::decode).transpose();
    let all = || Ok(Found { known: known?, oldest: oldest?, newest: newest? });
    Ok(all())
}

/// The first answer, for who asks again.
fn again(answer: &Answer) -> ObjectResponse {
    let Answer::Whole { status, headers, body } = answer else {
        return response(Problem::AnswerNotKept);
    };
    let (Ok(status), Some(mut headers)) = (StatusCode::from_u16(*status), header_map(headers)) else {
        tracing::error!("object.kept: an answer is none; please report this");
        return response(Problem::Internal);
    };
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    ObjectResponse { status, headers, body: body.clone() }
}

fn response(problem: Problem) -> ObjectResponse {
    let Reply { status, headers, body, .. } = Reply::problem(problem);
    let body = match body {
        Body::Full(body) => body,
        Body::Stream(_) => Bytes::new(),
    };
    ObjectResponse { status, headers, body }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn asked(method: Method, url: &str, body: &'static str) -> Fingerprint {
        let body = Bytes::from_static(body.as_bytes());
        let url = url.to_owned();
        fingerprint(&ObjectRequest { method, url, headers: HeaderMap::new(), body, upgrade: None })
    }

    #[test]
    fn a_request_is_the_same_by_method_path_query_and_body() {
        let first = asked(Method::POST, "https://a.example/b?c=d", "body");
        assert_eq!(asked(Method::POST, "http://c.b.object.internal/b?c=d", "body"), first);
        for other in [
            asked(Method::PUT, "https://a.example/b?c=d", "body"),
            asked(Method::POST, "https://a.example/b?c", "=dbody"),
            asked(Method::POST, "https://a.example/b", "body"),
            asked(Method::POST, "https://a.example/b?c=d", "bodY"),
            asked(Method::POST, "https://a.example?/b?c=d", "body"),
        ] {
            assert_ne!(other, first);
        }
    }

    #[test]
    fn a_request_has_one_key_or_none() {
        let with = |keys: &[&'static str]| {
            let mut headers = HeaderMap::new();
            headers.extend(keys.iter().map(|key| (KEY, HeaderValue::from_static(key))));
            key_of(&headers)
        };
        assert_eq!(with(&[]), Ok(None));
        assert_eq!(with(&["\"a\""]), Ok(Some(Bytes::from_static(b"\"a\""))));
        for bad in [&[""][..], &["a b"], &["a", "a"]] {
            assert_eq!(with(bad), Err(Problem::IdempotencyKey), "{bad:?}");
        }
    }

    #[test]
    fn an_answer_that_was_kept_is_given_again_as_it_was_and_says_so() {
        let mut headers = HeaderMap::new();
        headers.append("a", HeaderValue::from_static("1"));
        headers.append("a", HeaderValue::from_bytes(b"\xe4").unwrap());
        let answer = Answer::new(201, header_bytes(&headers), Bytes::from_static(b"made"));
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
        let body = Bytes::from_static(b"made");
        assert_eq!(again(&answer), ObjectResponse { status: StatusCode::CREATED, headers, body });
        assert_eq!(again(&Answer::TooLarge { status: 200 }).status, StatusCode::CONFLICT);
        let garbled = Answer::Whole { status: 7, headers: Vec::new(), body: Bytes::new() };
        assert_eq!(again(&garbled).status, StatusCode::INTERNAL_SERVER_ERROR);
    }
}
