//! What things cost is known here; how many there are, the zone `stock.localhost` knows.
//!
//! On a node that has both zones, the request between them is a call in the same process.

use wstd::http::{Body, Client, Error, Request, Response, StatusCode};

const CENTS: [(&str, u32); 3] = [("apples", 45), ("pears", 60), ("plums", 8)];

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    if request.uri().path() != "/" {
        return answer(StatusCode::NOT_FOUND, "nothing is here\n".to_owned());
    }
    let asked = Request::get("http://stock.localhost/").body(Body::empty())?;
    match Client::new().send(asked).await {
        Ok(mut reply) if reply.status().is_success() => {
            answer(StatusCode::OK, offers(reply.body_mut().str_contents().await?))
        }
        Ok(reply) => answer(StatusCode::BAD_GATEWAY, format!("the stock answers {}\n", reply.status())),
        Err(error) => answer(StatusCode::BAD_GATEWAY, format!("the stock cannot be asked: {error}\n")),
    }
}

/// What is for sale: known to both, and not sold out.
fn offers(stock: &str) -> String {
    let offer = |(name, cents): (&str, u32)| {
        let count: u32 = stock.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())?;
        (count > 0).then(|| format!("{name}: {count} for {cents} cents each\n"))
    };
    CENTS.into_iter().filter_map(offer).collect()
}

fn answer(status: StatusCode, text: String) -> Result<Response<Body>, Error> {
    Ok(Response::builder().status(status).body(text.into())?)
}
