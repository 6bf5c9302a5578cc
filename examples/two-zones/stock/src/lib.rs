//! How much there is of everything: a line for each thing, with its name and count.

use wstd::http::{Body, Error, Request, Response};

const STOCK: &str = "apples 12\npears 0\nplums 140\n";

#[wstd::http_server]
async fn main(_request: Request<Body>) -> Result<Response<Body>, Error> {
    Ok(Response::new(STOCK.into()))
}
