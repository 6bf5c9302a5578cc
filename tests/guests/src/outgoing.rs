//! Guests that ask other servers: as a client, as a proxy in both directions at once, and as one that loses interest.

use std::fmt::Write;

use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingRequest, IncomingResponse, Method, OutgoingRequest,
    ResponseOutparam, Scheme,
};
use wasip2::io::poll;

use crate::answers;
use crate::bodies::{self, Reader, Relay, Step, Writer, begin, pass_on};
use crate::failure::{self, Failure};
use crate::rewrite::Rewriter;

/// The status for a client whose origin cannot be asked.
const BAD_GATEWAY: u16 = 502;

/// A request for the URL, which is `http` or `https`, an authority and perhaps a path.
fn request_for(method: &Method, url: &str, headers: Fields) -> OutgoingRequest {
    let (scheme, rest) = url.split_once("://").expect("a URL has a scheme");
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let request = OutgoingRequest::new(headers);
    request.set_method(method).expect("the method is valid");
    request.set_scheme(Some(&scheme)).expect("the scheme of the URL is valid");
    request.set_authority(Some(authority)).expect("the authority of the URL is valid");
    request
        .set_path_with_query(Some(if path.is_empty() { "/" } else { path }))
        .expect("the path of the URL is valid");
    request
}

/// Starts a request without a body.
fn start_get(url: &str) -> Result<FutureIncomingResponse, ErrorCode> {
    outgoing_handler::handle(request_for(&Method::Get, url, Fields::new()), None)
}

/// Asks and waits for the head of the response.
fn get(url: &str) -> Result<IncomingResponse, ErrorCode> {
    let future = start_get(url)?;
    future.subscribe().block();
    take(&future).expect("its pollable was ready")
}

/// The response, once it is there.
fn take(future: &FutureIncomingResponse) -> Option<Result<IncomingResponse, ErrorCode>> {
    Some(future.get()?.expect("nobody took it before"))
}

fn body_of(response: &IncomingResponse) -> Reader {
    Reader::new(response.consume().expect("a response has one body, taken here"))
}

/// The beginning of an answer that passes on a response: its status, and its type as `x-from`.
fn begin_from(out: ResponseOutparam, response: &IncomingResponse) -> Writer {
    let headers = Fields::new();
    pass_on("content-type", &response.headers(), "x-from", &headers);
    pass_on("trailer", &response.headers(), "trailer", &headers);
    begin(out, response.status(), headers)
}

fn bad_gateway(out: ResponseOutparam, code: &ErrorCode) -> Result<(), Failure> {
    answers::text(out, BAD_GATEWAY, &format!("{}\n", failure::name(code)))
}

/// Passes a response on.
pub(crate) fn fetch(out: ResponseOutparam, url: &str) -> Result<(), Failure> {
    match get(url) {
        Ok(response) => Relay::new(body_of(&response), begin_from(out, &response)).run(),
        Err(code) => bad_gateway(out, &code),
    }
}

/// Reads a response to its end, then answers with it.
pub(crate) fn ask_whole(out: ResponseOutparam, url: &str) -> Result<(), Failure> {
    match get(url) {
        Ok(response) => {
            let reader = body_of(&response);
            let mut text = Vec::new();
            while let Some(chunk) = reader.read()? {
                text.extend_from_slice(&chunk);
            }
            answers::whole(out, &String::from_utf8_lossy(&text))
        }
        Err(code) => bad_gateway(out, &code),
    }
}

/// The name of the error that the URL leads to, be it at the start, in the head or in the body.
pub(crate) fn fetch_error(out: ResponseOutparam, url: &str) -> Result<(), Failure> {
    let text = match ask(url) {
        Ok((status, bytes)) => format!("none: status {status} and {bytes} bytes"),
        Err(failure) => failure.to_string(),
    };
    answers::text(out, 200, &format!("{text}\n"))
}

/// So many requests one after another, and a line for what became of each.
pub(crate) fn fetch_many(out: ResponseOutparam, count: u32, url: &str) -> Result<(), Failure> {
    let mut text = String::new();
    for _ in 0..count {
        let _ = match ask(url) {
            Ok((status, bytes)) => writeln!(text, "{status} {bytes}"),
            Err(failure) => writeln!(text, "{failure}"),
        };
    }
    answers::text(out, 200, &text)
}

/// Asks and reads all of the response: its status, and the length of its body.
fn ask(url: &str) -> Result<(u16, usize), Failure> {
    let response = get(url)?;
    let reader = body_of(&response);
    let mut bytes = 0;
    while let Some(chunk) = reader.read()? {
        bytes += chunk.len();
    }
    Ok((response.status(), bytes))
}

/// Starts a request and forgets it.
pub(crate) fn fetch_abandon(out: ResponseOutparam, url: &str) -> Result<(), Failure> {
    match start_get(url) {
        Ok(future) => {
            drop(future);
            answers::text(out, 200, "abandoned\n")
        }
        Err(code) => bad_gateway(out, &code),
    }
}

/// Passes a response on with a word of it replaced, and so with another length.
pub(crate) fn rewrite(out: ResponseOutparam, url: &str) -> Result<(), Failure> {
    let response = match get(url) {
        Ok(response) => response,
        Err(code) => return bad_gateway(out, &code),
    };
    let writer = begin(out, response.status(), answers::fields(&[("content-type", "text/html")]));
    let reader = body_of(&response);
    let mut rewriter = Rewriter::default();
    while let Some(chunk) = reader.read()? {
        writer.write(&rewriter.push(&chunk))?;
    }
    writer.write(&rewriter.finish())?;
    writer.finish(None)
}

/// Passes the request on as it comes, and the response while the request is still coming.
pub(crate) fn proxy_post(request: &IncomingRequest, out: ResponseOutparam, url: &str) -> Result<(), Failure> {
    let headers = Fields::new();
    pass_on("content-type", &request.headers(), "content-type", &headers);
    pass_on("trailer", &request.headers(), "trailer", &headers);
    let asked = request_for(&Method::Post, url, headers);
    let writer = Writer::new(asked.body().expect("a request has one body, taken here"));
    let future = match outgoing_handler::handle(asked, None) {
        Ok(future) => future,
        Err(code) => return bad_gateway(out, &code),
    };
    let mut up = Relay::new(bodies::of(request), writer);
    let mut down = Download::Head { future, out };
    loop {
        let mut waits = Vec::new();
        // An origin may answer without reading to the end: what happens to the upload does not end the download.
        let sent = up.step().unwrap_or_else(|failure| {
            eprintln!("/proxy-post: upload: {failure}");
            up = Relay::Done;
            Step::Done
        });
        let received = down.step()?;
        match (sent, received) {
            (_, Step::Done) => return Ok(()),
            (Step::Moved, _) | (_, Step::Moved) => continue,
            (Step::WaitFor(sent), Step::WaitFor(received)) => waits.extend([sent, received]),
            (Step::Done, Step::WaitFor(received)) => waits.push(received),
        }
        poll::poll(&waits.iter().collect::<Vec<_>>());
    }
}

/// The way back of a proxy.
enum Download {
    Head { future: FutureIncomingResponse, out: ResponseOutparam },
    Body { relay: Relay, response: IncomingResponse },
    Done,
}

impl Download {
    fn step(&mut self) -> Result<Step, Failure> {
        match std::mem::replace(self, Self::Done) {
            Self::Head { future, out } => {
                let pollable = future.subscribe();
                if !pollable.ready() {
                    *self = Self::Head { future, out };
                    return Ok(Step::WaitFor(pollable));
                }
                drop(pollable);
                match take(&future).expect("its pollable was ready") {
                    Ok(response) => {
                        let relay = Relay::new(body_of(&response), begin_from(out, &response));
                        *self = Self::Body { relay, response };
                        Ok(Step::Moved)
                    }
                    Err(code) => {
                        bad_gateway(out, &code)?;
                        Ok(Step::Done)
                    }
                }
            }
            Self::Body { mut relay, response } => {
                let step = relay.step()?;
                *self = Self::Body { relay, response };
                Ok(step)
            }
            Self::Done => Ok(Step::Done),
        }
    }
}
