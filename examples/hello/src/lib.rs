//! The smallest worker, and a body that is sent while it is made.

use std::time::Duration;

use futures_lite::stream;
use wstd::http::{Body, Error, Request, Response, StatusCode};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    match request.uri().path() {
        "/" => Ok(Response::new(greeting().into())),
        "/count" => Ok(Response::new(count())),
        _ => Ok(Response::builder().status(StatusCode::NOT_FOUND).body("nothing is here\n".into())?),
    }
}

/// The environment is what `env` in berth.toml says.
fn greeting() -> String {
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "hi".to_owned());
    format!("{greeting} from a worker\n")
}

/// A line every half second, each sent as soon as it is there.
fn count() -> Body {
    Body::from_stream(stream::unfold(3_u32, |left| async move {
        wstd::task::sleep(Duration::from_millis(500).into()).await;
        (left > 0).then(|| (format!("{left}\n"), left - 1))
    }))
}
