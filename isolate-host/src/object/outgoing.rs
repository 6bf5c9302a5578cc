//! `berth:object/outgoing`: requests to others with whole bodies. The commit point that each of them is, is the turn's doing
//! (`turn.rs`): here a request is handed over, and its reply is waited for.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Uri};
use http_body::Body as _;

use crate::guest::{Guest, LimitFell};
use crate::limits::Limit;
use crate::object_bindings::berth::object::outgoing::{self, Error, Request, Response};
use crate::pipe::{Reader, pipe};
use crate::wasi::fields::{Built, Fields};
use crate::world::{Inbound, Later, Outbound, Promised, promise};

/// Bytes of the body of a reply, which is in the host's memory and in the guest's at a time.
const REPLY_BYTES: usize = 16 << 20;

impl outgoing::Host for Guest {
    async fn fetch(
        &mut self,
        request: Request,
        timeout_ms: Option<u32>,
    ) -> wasmtime::Result<Result<Response, Error>> {
        let time = timeout_ms.map(|time| Duration::from_millis(u64::from(time)));
        let outbound = match self.seal(request, time)? {
            Ok(outbound) => outbound,
            Err(reason) => return Ok(Err(Error::Invalid(reason))),
        };
        let Some(left) = self.outgoing_left.checked_sub(1) else {
            return Err(LimitFell(Limit::Outgoing).into());
        };
        self.outgoing_left = left;
        self.object()?.commit_point();
        let (promise, promised) = promise();
        self.call.sent().push((outbound, promise));
        let mut fetching =
            Fetching { promised, reply: None, time, world: self.world.clone(), deadline: None };
        Ok(poll_fn(|cx| fetching.poll(cx)).await)
    }

    fn send(&mut self, _request: Request) -> wasmtime::Result<Result<u64, Error>> {
        Ok(Err(Error::NotBuiltYet))
    }
}

impl Guest {
    /// A request as it leaves, or what is wrong with it.
    fn seal(&self, request: Request, time: Option<Duration>) -> wasmtime::Result<Result<Outbound, String>> {
        let headers = match Fields::build(request.headers, &self.limits) {
            Built::Fields(headers) => headers,
            Built::Wrong(name) => {
                return Ok(Err(format!("the field {name:?} is none that a request may have")));
            }
            Built::Limit => return Err(LimitFell(Limit::Headers).into()),
        };
        Ok(seal(&request.method, &request.url, headers, request.body, time))
    }
}

fn seal(
    method: &str,
    url: &str,
    mut headers: HeaderMap,
    body: Vec<u8>,
    time: Option<Duration>,
) -> Result<Outbound, String> {
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| format!("the method {method:?}"))?;
    let target: Uri = url.parse().map_err(|error| format!("the URL {url:?}: {error}"))?;
    let https = match target.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(format!("the URL {url:?}: it begins with http:// or https://")),
    };
    let authority = target.authority().filter(|authority| !authority.as_str().contains('@'));
    let authority = authority.ok_or_else(|| format!("the URL {url:?}: it has no host, or a user"))?;
    let path = target.path_and_query().map_or("/", |path| path.as_str());
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    // The body says how long it is.
    headers.remove(http::header::CONTENT_LENGTH);
    let bytes = body.len() as u64;
    let has_body = bytes > 0 || matches!(method, Method::POST | Method::PUT | Method::PATCH);
    Ok(Outbound {
        method,
        https,
        authority: authority.to_string(),
        path,
        headers,
        body: has_body.then(|| whole(body.into())),
        content_length: has_body.then_some(bytes),
        connect_timeout: time,
        first_byte_timeout: time,
        between_bytes_timeout: time,
    })
}

/// A body that is there already.
fn whole(bytes: Bytes) -> Reader {
    let (writer, reader) = pipe();
    writer.push(bytes);
    writer.finish(None);
    reader
}

/// A reply on its way.
struct Fetching {
    promised: Promised,
    reply: Option<Receiving>,
    time: Option<Duration>,
    world: std::sync::Arc<dyn crate::World>,
    /// Made when there is something to wait for.
    deadline: Option<Later<()>>,
}

/// A reply whose head is there.
struct Receiving {
    status: u16,
    headers: HeaderMap,
    body: Reader,
    received: BytesMut,
}

impl Fetching {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response, Error>> {
        if let Poll::Ready(reply) = self.poll_reply(cx) {
            return Poll::Ready(reply);
        }
        let Some(time) = self.time else { return Poll::Pending };
        let deadline = self.deadline.get_or_insert_with(|| self.world.sleep(time));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(Error::Timeout))
    }

    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response, Error>> {
        if self.reply.is_none() {
            // Nobody is woken when it is kept: who polls the turn polls its guest next.
            ready!(self.promised.poll_kept());
            match self.promised.take().flatten() {
                Some(Ok(Inbound { status, headers, body })) => {
                    self.reply = Some(Receiving { status, headers, body, received: BytesMut::new() });
                }
                Some(Err(code)) => return Poll::Ready(Err(Error::Failed(format!("{code:?}")))),
                None => return Poll::Ready(Err(Error::Failed("the reply was taken".to_owned()))),
            }
        }
        match &mut self.reply {
            Some(reply) => reply.poll(cx),
            None => Poll::Pending,
        }
    }
}

impl Receiving {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response, Error>> {
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if self.received.len() + data.len() > REPLY_BYTES {
                        return Poll::Ready(Err(Error::TooLarge));
                    }
                    self.received.extend_from_slice(&data);
                }
                Some(Err(aborted)) => return Poll::Ready(Err(Error::Failed(format!("{:?}", aborted.0)))),
                None => {
                    let body = std::mem::take(&mut self.received).into();
                    let headers = Fields::received(std::mem::take(&mut self.headers)).entries();
                    return Poll::Ready(Ok(Response { status: self.status, headers, body }));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(method: &str, url: &str) -> Result<Outbound, String> {
        seal(method, url, HeaderMap::new(), Vec::new(), None)
    }

    #[test]
    fn a_request_that_means_something_else_is_refused_with_what_is_wrong() {
        for (method, url) in [
            ("GET", "ftp://a.example/"),
            ("GET", "/only/a/path"),
            ("GET", "a.example"),
            ("GET", "http://user@a.example/"),
            ("GET", "http://a.example/a b"),
            ("GET", "http://a.example/\r\nx: y"),
            ("G T", "http://a.example/"),
            ("", "http://a.example/"),
        ] {
            let wrong = sealed(method, url).expect_err(url);
            assert!(wrong.contains(if method == "GET" { "URL" } else { "method" }), "{wrong}");
        }
        let good = sealed("POST", "https://a.example:8443?q=1").unwrap();
        assert_eq!(
            (good.https, good.authority.as_str(), good.path.as_str()),
            (true, "a.example:8443", "/?q=1")
        );
        assert_eq!(good.content_length, Some(0), "a POST says that it has nothing");
        assert!(sealed("GET", "http://a.example/").unwrap().body.is_none());
    }
}
