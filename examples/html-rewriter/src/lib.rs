//! A worker in the middle: asks the zone's origin for what the client asked, and changes pages while they pass.
//!
//! No page is ever held as a whole. What is found may be cut across chunks: see [`Rewriter`].

mod rewriter;

use futures_lite::{StreamExt, stream};
use wstd::http::body::util::{BodyExt, StreamBody};
use wstd::http::body::{Body, Bytes, Frame};
use wstd::http::{Client, Error, HeaderMap, Request, Response};

use rewriter::Rewriter;

#[wstd::http_server]
async fn main(mut request: Request<Body>) -> Result<Response<Body>, Error> {
    // What is packed cannot be searched.
    request.headers_mut().remove("accept-encoding");
    // A worker's request to its own zone goes to the origin.
    let (mut head, body) = Client::new().send(request).await?.into_parts();
    if !is_page(&head.headers) {
        return Ok(Response::from_parts(head, body));
    }
    // They describe the bytes before the change.
    for changed in ["content-length", "etag", "accept-ranges"] {
        head.headers.remove(changed);
    }
    Ok(Response::from_parts(head, rewrite(body, Rewriter::new(&env("FIND"), &env("REPLACE")))))
}

fn is_page(headers: &HeaderMap) -> bool {
    let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.starts_with("text/html") && !headers.contains_key("content-encoding")
}

/// The body, rewritten piece by piece as it comes.
fn rewrite(body: Body, rewriter: Rewriter) -> Body {
    let begin = Some((body.into_boxed_body().into_data_stream(), rewriter));
    let pieces = stream::unfold(begin, |state| async {
        let (mut chunks, mut rewriter) = state?;
        match chunks.next().await {
            Some(Ok(chunk)) => Some((Ok(rewriter.push(&chunk)), Some((chunks, rewriter)))),
            Some(Err(error)) => Some((Err(error), None)),
            None => Some((Ok(rewriter.finish()), None)),
        }
    });
    let frames = pieces.map(|piece: Result<_, Error>| Ok::<_, Error>(Frame::data(Bytes::from(piece?))));
    Body::from_http_body(StreamBody::new(frames))
}

fn env(name: &str) -> Vec<u8> {
    std::env::var(name).unwrap_or_default().into_bytes()
}
