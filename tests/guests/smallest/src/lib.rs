//! The smallest worker: the same answer to everybody. Hosts of workers are measured by it.

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

const ANSWER: &[u8] = b"hello from berth\n";

struct Smallest;

wasip2::http::proxy::export!(Smallest);

impl Guest for Smallest {
    fn handle(_request: IncomingRequest, out: ResponseOutparam) {
        let headers =
            [("content-type", "text/plain".to_owned()), ("content-length", ANSWER.len().to_string())]
                .map(|(name, value)| (name.to_owned(), value.into_bytes()));
        let headers = Fields::from_list(&headers).expect("both are valid");
        let response = OutgoingResponse::new(headers);
        let body = response.body().expect("nobody took it");
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().expect("nobody took it");
        stream.blocking_write_and_flush(ANSWER).expect("the client waits");
        drop(stream);
        OutgoingBody::finish(body, None).expect("it is as long as was said");
    }
}
