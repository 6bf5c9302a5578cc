//! `wasi:http/types` and `outgoing-handler`, what goes out: the response, and requests to others.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use wasmtime::component::Resource;
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};
use wasmtime_wasi_io::streams::{DynOutputStream, StreamError, StreamResult};

use super::fields::Fields;
use super::incoming::IncomingResponse;
use super::streams::{BodyFailed, BodyOutput};
use crate::ErrorCode;
use crate::bindings::wasi::http::outgoing_handler;
use crate::bindings::wasi::http::types::{
    self, HostFutureIncomingResponse, HostOutgoingBody, HostOutgoingRequest, HostOutgoingResponse,
    HostRequestOptions, HostResponseOutparam, Scheme,
};
use crate::guest::{Answer, Guest, Head, LimitFell};
use crate::limits::Limit;
use crate::object::Object;
use crate::pipe::{ROOM, Reader, Writer, pipe};
use crate::world::{Outbound, Promised, promise};

/// A request in the making.
#[derive(Debug)]
pub struct OutgoingRequest {
    method: Method,
    scheme: Option<Scheme>,
    authority: Option<String>,
    path: Option<String>,
    headers: Fields,
    body: Body,
}

/// Time-outs of a request.
#[derive(Debug, Default)]
pub struct RequestOptions {
    connect: Option<Duration>,
    first_byte: Option<Duration>,
    between_bytes: Option<Duration>,
}

/// A response in the making.
#[derive(Debug)]
pub struct OutgoingResponse {
    status: u16,
    headers: Fields,
    body: Body,
}

/// The body of a message in the making.
#[derive(Debug)]
enum Body {
    NotAsked,
    /// The guest has the other end.
    Piped(Reader),
}

/// A body that a guest writes.
#[derive(Debug)]
pub struct OutgoingBody {
    sending: Arc<Sending>,
    streamed: bool,
}

/// Where the response goes. There is one for each call.
#[derive(Debug)]
pub struct ResponseOutparam;

/// The reply that a guest waits for.
#[derive(Debug)]
pub struct FutureIncomingResponse(Promised);

/// Whose body it is: errors are named differently.
#[derive(Debug, Clone, Copy)]
enum Of {
    Request,
    Response,
}

impl Of {
    fn size_error(self, bytes: u64) -> ErrorCode {
        match self {
            Self::Request => ErrorCode::HttpRequestBodySize(Some(bytes)),
            Self::Response => ErrorCode::HttpResponseBodySize(Some(bytes)),
        }
    }
}

/// The way of a body out of its guest, checked against what was promised and what is allowed.
#[derive(Debug)]
pub(crate) struct Sending {
    writer: Writer,
    of: Of,
    /// What the content length says.
    announced: Option<u64>,
    /// Whether it is that of a body which stays away.
    may_be_empty: bool,
    written: AtomicU64,
    most: u64,
    /// The object that sends it out: each piece is a commit point.
    object: Option<Arc<Object>>,
}

impl Sending {
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.writer.poll_room(cx)
    }

    pub(crate) fn room(&self) -> StreamResult<usize> {
        match (self.writer.room(), &self.of) {
            (Ok(room), _) => Ok(room),
            // Who was asked may answer before it has read everything, and the answer says how it went: what is still
            // written is dropped. To guests a closed stream looks like a connection that was reset.
            (Err(_), Of::Request) => Ok(ROOM),
            (Err(_), Of::Response) => Err(StreamError::Closed),
        }
    }

    pub(crate) fn write(&self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > self.room()? {
            return Err(StreamError::trap("a write of more than check-write permits"));
        }
        let written = self.written.load(Relaxed) + bytes.len() as u64;
        if self.announced.is_some_and(|announced| written > announced) {
            // Checked before anything is queued: no byte beyond the content length ever leaves.
            return Err(StreamError::LastOperationFailed(BodyFailed(self.of.size_error(written)).into()));
        }
        if written > self.most {
            return Err(StreamError::Trap(LimitFell(Limit::BodyBytes).into()));
        }
        self.written.store(written, Relaxed);
        self.precede();
        self.writer.push(bytes);
        Ok(())
    }

    /// What was written to storage before a piece is durable before it leaves.
    fn precede(&self) {
        if let Some(object) = &self.object {
            object.commit_point_if_needed();
        }
    }

    fn finish(self, trailers: Option<http::HeaderMap>) -> Result<(), ErrorCode> {
        self.precede();
        let written = self.written.load(Relaxed);
        let is_left_out = self.may_be_empty && written == 0;
        if !is_left_out && self.announced.is_some_and(|announced| written != announced) {
            let error = self.of.size_error(written);
            self.writer.abort(error.clone());
            return Err(error);
        }
        self.writer.finish(trailers);
        Ok(())
    }
}

impl Guest {
    /// Gives the guest its end of a body, once.
    fn open_body(
        &mut self,
        body: impl FnOnce(&mut Self) -> wasmtime::Result<(&mut Body, Option<u64>)>,
        of: Of,
    ) -> wasmtime::Result<Result<Resource<OutgoingBody>, ()>> {
        let most = self.limits.body_bytes;
        let may_be_empty = matches!(of, Of::Response) && self.call.of_head;
        let object = self.object.clone();
        let (body, announced) = body(self)?;
        if matches!(body, Body::Piped(_)) {
            return Ok(Err(()));
        }
        let (writer, reader) = pipe();
        *body = Body::Piped(reader);
        let written = AtomicU64::new(0);
        let sending = Sending { writer, of, announced, may_be_empty, written, most, object };
        Ok(Ok(self.push(OutgoingBody { sending: Arc::new(sending), streamed: false })?))
    }
}

/// The body as it leaves, unless it is shorter than announced.
fn close(body: Body, announced: Option<u64>, of: Of) -> Result<Option<Reader>, ErrorCode> {
    match body {
        Body::Piped(reader) => Ok(Some(reader)),
        Body::NotAsked if announced.unwrap_or(0) > 0 => Err(of.size_error(0)),
        Body::NotAsked => Ok(None),
    }
}

impl HostOutgoingRequest for Guest {
    fn new(&mut self, headers: Resource<Fields>) -> wasmtime::Result<Resource<OutgoingRequest>> {
        let headers = self.table.delete(headers)?.frozen();
        self.push(OutgoingRequest {
            method: Method::GET,
            scheme: None,
            authority: None,
            path: None,
            headers,
            body: Body::NotAsked,
        })
    }

    fn body(
        &mut self,
        request: Resource<OutgoingRequest>,
    ) -> wasmtime::Result<Result<Resource<OutgoingBody>, ()>> {
        self.open_body(
            |guest| {
                let request = guest.table.get_mut(&request)?;
                Ok((&mut request.body, request.headers.content_length()))
            },
            Of::Request,
        )
    }

    fn method(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<types::Method> {
        Ok(super::incoming::name(&self.table.get(&request)?.method))
    }

    fn set_method(
        &mut self,
        request: Resource<OutgoingRequest>,
        method: types::Method,
    ) -> wasmtime::Result<Result<(), ()>> {
        let Some(method) = read_method(&method) else { return Ok(Err(())) };
        self.table.get_mut(&request)?.method = method;
        Ok(Ok(()))
    }

    fn path_with_query(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&request)?.path.clone())
    }

    fn set_path_with_query(
        &mut self,
        request: Resource<OutgoingRequest>,
        path: Option<String>,
    ) -> wasmtime::Result<Result<(), ()>> {
        if path.as_deref().is_some_and(|path| !is_path(path)) {
            return Ok(Err(()));
        }
        self.table.get_mut(&request)?.path = path;
        Ok(Ok(()))
    }

    fn scheme(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<Option<Scheme>> {
        Ok(self.table.get(&request)?.scheme.clone())
    }

    fn set_scheme(
        &mut self,
        request: Resource<OutgoingRequest>,
        scheme: Option<Scheme>,
    ) -> wasmtime::Result<Result<(), ()>> {
        if let Some(Scheme::Other(name)) = &scheme
            && name.parse::<http::uri::Scheme>().is_err()
        {
            return Ok(Err(()));
        }
        self.table.get_mut(&request)?.scheme = scheme;
        Ok(Ok(()))
    }

    fn authority(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&request)?.authority.clone())
    }

    fn set_authority(
        &mut self,
        request: Resource<OutgoingRequest>,
        authority: Option<String>,
    ) -> wasmtime::Result<Result<(), ()>> {
        if authority.as_deref().is_some_and(|text| !is_authority(text)) {
            return Ok(Err(()));
        }
        self.table.get_mut(&request)?.authority = authority;
        Ok(Ok(()))
    }

    fn headers(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<Resource<Fields>> {
        let headers = self.table.get(&request)?.headers.clone();
        self.push(headers)
    }

    fn drop(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<()> {
        self.table.delete(request)?;
        Ok(())
    }
}

fn read_method(method: &types::Method) -> Option<Method> {
    Some(match method {
        types::Method::Get => Method::GET,
        types::Method::Head => Method::HEAD,
        types::Method::Post => Method::POST,
        types::Method::Put => Method::PUT,
        types::Method::Delete => Method::DELETE,
        types::Method::Connect => Method::CONNECT,
        types::Method::Options => Method::OPTIONS,
        types::Method::Trace => Method::TRACE,
        types::Method::Patch => Method::PATCH,
        types::Method::Other(name) => Method::from_bytes(name.as_bytes()).ok()?,
    })
}

/// A path with a query, in origin form. Nothing that ends a line, and no other host's name in front.
fn is_path(text: &str) -> bool {
    (text.is_empty() || text.starts_with(['/', '?']))
        && text.bytes().all(|byte| byte > b' ' && byte != 0x7f && byte != b'#')
}

/// A host and a port. No user information: it would be a name that looks like another.
fn is_authority(text: &str) -> bool {
    !text.contains('@') && text.parse::<http::uri::Authority>().is_ok()
}

impl HostRequestOptions for Guest {
    fn new(&mut self) -> wasmtime::Result<Resource<RequestOptions>> {
        self.push(RequestOptions::default())
    }

    fn connect_timeout(&mut self, options: Resource<RequestOptions>) -> wasmtime::Result<Option<u64>> {
        Ok(self.table.get(&options)?.connect.map(count))
    }

    fn set_connect_timeout(
        &mut self,
        options: Resource<RequestOptions>,
        time: Option<u64>,
    ) -> wasmtime::Result<Result<(), ()>> {
        self.table.get_mut(&options)?.connect = time.map(Duration::from_nanos);
        Ok(Ok(()))
    }

    fn first_byte_timeout(&mut self, options: Resource<RequestOptions>) -> wasmtime::Result<Option<u64>> {
        Ok(self.table.get(&options)?.first_byte.map(count))
    }

    fn set_first_byte_timeout(
        &mut self,
        options: Resource<RequestOptions>,
        time: Option<u64>,
    ) -> wasmtime::Result<Result<(), ()>> {
        self.table.get_mut(&options)?.first_byte = time.map(Duration::from_nanos);
        Ok(Ok(()))
    }

    fn between_bytes_timeout(&mut self, options: Resource<RequestOptions>) -> wasmtime::Result<Option<u64>> {
        Ok(self.table.get(&options)?.between_bytes.map(count))
    }

    fn set_between_bytes_timeout(
        &mut self,
        options: Resource<RequestOptions>,
        time: Option<u64>,
    ) -> wasmtime::Result<Result<(), ()>> {
        self.table.get_mut(&options)?.between_bytes = time.map(Duration::from_nanos);
        Ok(Ok(()))
    }

    fn drop(&mut self, options: Resource<RequestOptions>) -> wasmtime::Result<()> {
        self.table.delete(options)?;
        Ok(())
    }
}

/// It was given in nanoseconds of 64 bits.
fn count(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl HostOutgoingResponse for Guest {
    fn new(&mut self, headers: Resource<Fields>) -> wasmtime::Result<Resource<OutgoingResponse>> {
        let headers = self.table.delete(headers)?.frozen();
        self.push(OutgoingResponse { status: 200, headers, body: Body::NotAsked })
    }

    fn status_code(&mut self, response: Resource<OutgoingResponse>) -> wasmtime::Result<u16> {
        Ok(self.table.get(&response)?.status)
    }

    /// An interim status cannot be the last word.
    fn set_status_code(
        &mut self,
        response: Resource<OutgoingResponse>,
        status: u16,
    ) -> wasmtime::Result<Result<(), ()>> {
        if status < 200 || StatusCode::from_u16(status).is_err() {
            return Ok(Err(()));
        }
        self.table.get_mut(&response)?.status = status;
        Ok(Ok(()))
    }

    fn headers(&mut self, response: Resource<OutgoingResponse>) -> wasmtime::Result<Resource<Fields>> {
        let headers = self.table.get(&response)?.headers.clone();
        self.push(headers)
    }

    fn body(
        &mut self,
        response: Resource<OutgoingResponse>,
    ) -> wasmtime::Result<Result<Resource<OutgoingBody>, ()>> {
        self.open_body(
            |guest| {
                let response = guest.table.get_mut(&response)?;
                Ok((&mut response.body, response.headers.content_length()))
            },
            Of::Response,
        )
    }

    fn drop(&mut self, response: Resource<OutgoingResponse>) -> wasmtime::Result<()> {
        self.table.delete(response)?;
        Ok(())
    }
}

impl HostOutgoingBody for Guest {
    fn write(
        &mut self,
        body: Resource<OutgoingBody>,
    ) -> wasmtime::Result<Result<Resource<DynOutputStream>, ()>> {
        let inner = self.table.get_mut(&body)?;
        if std::mem::replace(&mut inner.streamed, true) {
            return Ok(Err(()));
        }
        let stream: DynOutputStream = Box::new(BodyOutput(Arc::clone(&inner.sending)));
        Ok(Ok(self.push(stream)?))
    }

    fn finish(
        &mut self,
        body: Resource<OutgoingBody>,
        trailers: Option<Resource<Fields>>,
    ) -> wasmtime::Result<Result<(), ErrorCode>> {
        let body = self.table.delete(body)?;
        let trailers = match trailers {
            Some(fields) => Some(self.table.delete(fields)?.into_map()),
            None => None,
        };
        match Arc::into_inner(body.sending) {
            Some(sending) => Ok(sending.finish(trailers)),
            // The interface says that this ends the guest.
            None => Err(wasmtime::format_err!("a body was finished while its stream was open")),
        }
    }

    /// Without a finish, it is aborted.
    fn drop(&mut self, body: Resource<OutgoingBody>) -> wasmtime::Result<()> {
        self.table.delete(body)?;
        Ok(())
    }
}

impl HostResponseOutparam for Guest {
    fn set(
        &mut self,
        outparam: Resource<ResponseOutparam>,
        response: Result<Resource<OutgoingResponse>, ErrorCode>,
    ) -> wasmtime::Result<()> {
        self.table.delete(outparam)?;
        let given = match response {
            Err(reason) => Err(reason),
            Ok(response) => {
                let response = self.table.delete(response)?;
                // The length of what stays away may be told.
                let without_body = self.call.of_head || response.status == StatusCode::NOT_MODIFIED.as_u16();
                let announced = response.headers.content_length().filter(|_| !without_body);
                close(response.body, announced, Of::Response).map(|body| Head {
                    status: response.status,
                    headers: response.headers.into_map(),
                    body,
                })
            }
        };
        *self.call.answer() = Answer::Given(given);
        Ok(())
    }

    /// Part of an unstable feature that is not linked.
    fn send_informational(
        &mut self,
        _outparam: Resource<ResponseOutparam>,
        _status: u16,
        _headers: Resource<Fields>,
    ) -> wasmtime::Result<Result<(), ErrorCode>> {
        Err(wasmtime::format_err!("send-informational is not offered"))
    }

    fn drop(&mut self, outparam: Resource<ResponseOutparam>) -> wasmtime::Result<()> {
        self.table.delete(outparam)?;
        Ok(())
    }
}

impl outgoing_handler::Host for Guest {
    fn handle(
        &mut self,
        request: Resource<OutgoingRequest>,
        options: Option<Resource<RequestOptions>>,
    ) -> wasmtime::Result<Result<Resource<FutureIncomingResponse>, ErrorCode>> {
        let request = self.table.delete(request)?;
        let options = match options {
            Some(options) => self.table.delete(options)?,
            None => RequestOptions::default(),
        };
        let outbound = match seal(request, &options) {
            Ok(outbound) => outbound,
            Err(reason) => return Ok(Err(reason)),
        };
        let Some(left) = self.outgoing_left.checked_sub(1) else {
            return Err(LimitFell(Limit::Outgoing).into());
        };
        self.outgoing_left = left;
        if let Some(object) = &self.object {
            object.commit_point();
        }
        let (promise, promised) = promise();
        self.call.sent().push((outbound, promise));
        Ok(Ok(self.push(FutureIncomingResponse(promised))?))
    }
}

fn seal(request: OutgoingRequest, options: &RequestOptions) -> Result<Outbound, ErrorCode> {
    let https = match request.scheme {
        Some(Scheme::Http) => false,
        Some(Scheme::Https) | None => true,
        Some(Scheme::Other(_)) => return Err(ErrorCode::HttpProtocolError),
    };
    let mut path = request.path.ok_or(ErrorCode::HttpRequestUriInvalid)?;
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    let content_length = request.headers.content_length();
    Ok(Outbound {
        method: request.method,
        https,
        authority: request.authority.ok_or(ErrorCode::HttpRequestUriInvalid)?,
        path,
        body: close(request.body, content_length, Of::Request)?,
        headers: request.headers.into_map(),
        content_length,
        connect_timeout: options.connect,
        first_byte_timeout: options.first_byte,
        between_bytes_timeout: options.between_bytes,
    })
}

#[async_trait]
impl Pollable for FutureIncomingResponse {
    async fn ready(&mut self) {
        poll_fn(|_| self.0.poll_kept()).await;
    }
}

type Reply = Result<Resource<IncomingResponse>, ErrorCode>;

impl HostFutureIncomingResponse for Guest {
    fn subscribe(
        &mut self,
        future: Resource<FutureIncomingResponse>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(&mut self.table, future)
    }

    fn get(
        &mut self,
        future: Resource<FutureIncomingResponse>,
    ) -> wasmtime::Result<Option<Result<Reply, ()>>> {
        let Some(kept) = self.table.get(&future)?.0.take() else { return Ok(None) };
        Ok(Some(match kept {
            None => Err(()),
            Some(Err(reason)) => Ok(Err(reason)),
            Some(Ok(reply)) => {
                Ok(Ok(self.push(IncomingResponse::new(reply.status, reply.headers, reply.body))?))
            }
        }))
    }

    fn drop(&mut self, future: Resource<FutureIncomingResponse>) -> wasmtime::Result<()> {
        self.table.delete(future)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_to_who_has_answered_already_is_dropped_and_what_goes_to_a_client_that_left_is_not() {
        let sending = |of| {
            let (writer, reader) = pipe();
            let (announced, written) = (None, AtomicU64::new(0));
            drop(reader);
            Sending { writer, of, announced, may_be_empty: false, written, most: 100, object: None }
        };
        let request = sending(Of::Request);
        assert!(request.write(Bytes::from_static(b"abc")).is_ok() && request.room().is_ok());
        assert!(
            matches!(request.write(Bytes::from(vec![0; 98])), Err(StreamError::Trap(_))),
            "the limit counts it"
        );
        assert!(request.finish(None).is_ok());
        assert!(matches!(sending(Of::Response).write(Bytes::from_static(b"abc")), Err(StreamError::Closed)));
    }

    #[test]
    fn paths_and_authorities_that_mean_something_else_are_refused() {
        for good in ["", "/", "/a?b=c", "?q", "/%0d"] {
            assert!(is_path(good), "{good:?}");
        }
        for bad in ["http://other/", "a", "/a b", "/a\r\nx: y", "/a#b", "/\u{7f}"] {
            assert!(!is_path(bad), "{bad:?}");
        }
        for good in ["a.example", "a.example:80", "[::1]:8080", "127.0.0.1"] {
            assert!(is_authority(good), "{good:?}");
        }
        for bad in ["", "user@a.example", "a/b", "a b", "a\r\nb", "a:b:c"] {
            assert!(!is_authority(bad), "{bad:?}");
        }
    }

    #[test]
    fn no_byte_beyond_the_content_length_leaves_and_a_short_body_is_aborted() {
        let sending = |announced, most, may_be_empty| {
            let (writer, reader) = pipe();
            let (of, written) = (Of::Response, AtomicU64::new(0));
            (Sending { writer, of, announced, may_be_empty, written, most, object: None }, reader)
        };
        let (body, reader) = sending(Some(3), 100, false);
        assert!(matches!(body.write(Bytes::from_static(b"abcd")), Err(StreamError::LastOperationFailed(_))));
        assert!(body.write(Bytes::from_static(b"ab")).is_ok());
        assert!(matches!(body.finish(None), Err(ErrorCode::HttpResponseBodySize(Some(2)))));
        assert!(matches!(reader.read(9), crate::pipe::Found::Data(bytes) if bytes == "ab"));
        assert!(matches!(reader.read(9), crate::pipe::Found::End(Err(_))));
        let (body, reader) = sending(Some(3), 100, true);
        assert!(body.finish(None).is_ok(), "a request for the head is answered without a body");
        assert!(matches!(reader.read(9), crate::pipe::Found::End(Ok(_))));
        let (body, _reader) = sending(Some(3), 100, true);
        assert!(body.write(Bytes::from_static(b"ab")).is_ok());
        assert!(body.finish(None).is_err(), "half a body is none");
        let (body, _reader) = sending(None, 3, false);
        assert!(matches!(body.write(Bytes::from_static(b"abcd")), Err(StreamError::Trap(_))));
    }
}
