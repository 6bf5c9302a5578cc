//! Answers who has a key, as often as the limiter of that key lets it; 429 says when to come again.

use wstd::http::{Body, Client, Error, Request, Response, StatusCode};

/// Keys are labels of host names, so that each can be the name of an object.
const KEY_MOST: usize = 63;

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let key = request.headers().get("x-api-key").map(|key| key.to_str().unwrap_or_default().to_owned());
    let Some(key) = key else { return answer(StatusCode::UNAUTHORIZED, "send your key as x-api-key\n") };
    if !is_key(&key) {
        return answer(StatusCode::BAD_REQUEST, "a key has 1 to 63 of a-z, 0-9 and -\n");
    }
    let asked = Request::post(format!("http://{key}.limiter.object.internal/")).body(Body::empty())?;
    let reply = Client::new().send(asked).await?;
    match reply.status() {
        StatusCode::NO_CONTENT => answer(StatusCode::OK, "welcome\n"),
        StatusCode::TOO_MANY_REQUESTS => {
            let mut refused = answer(StatusCode::TOO_MANY_REQUESTS, "too many requests\n")?;
            if let Some(after) = reply.headers().get("retry-after") {
                refused.headers_mut().insert("retry-after", after.clone());
            }
            Ok(refused)
        }
        _ => answer(StatusCode::SERVICE_UNAVAILABLE, "the limiter does not answer\n"),
    }
}

fn is_key(key: &str) -> bool {
    let is_inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=KEY_MOST).contains(&key.len())
        && key.bytes().all(is_inner)
        && !key.starts_with('-')
        && !key.ends_with('-')
}

fn answer(status: StatusCode, text: &'static str) -> Result<Response<Body>, Error> {
    Ok(Response::builder().status(status).body(text.into())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_labels_of_hosts() {
        for key in ["a", "ada-2", &"k".repeat(63)] {
            assert!(is_key(key), "{key}");
        }
        for key in ["", "-a", "a-", "a.b", "A", "ä", &"k".repeat(64)] {
            assert!(!is_key(key), "{key}");
        }
    }
}
