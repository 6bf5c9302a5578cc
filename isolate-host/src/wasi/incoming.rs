//! `wasi:http/types`, what comes in: requests and responses with their bodies and trailers.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http::{HeaderMap, Method};
use wasmtime::component::Resource;
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};
use wasmtime_wasi_io::streams::DynInputStream;

use super::fields::Fields;
use super::streams::{BodyFailed, BodyInput};
use crate::ErrorCode;
use crate::bindings::wasi::http::types::{
    self, HostFutureTrailers, HostIncomingBody, HostIncomingRequest, HostIncomingResponse, Scheme,
};
use crate::guest::Guest;
use crate::pipe::Reader;

/// A request as its guest sees it.
#[derive(Debug)]
pub struct IncomingRequest {
    pub(crate) method: Method,
    pub(crate) https: bool,
    pub(crate) authority: Option<String>,
    pub(crate) path: String,
    pub(crate) headers: Fields,
    pub(crate) body: Option<Reader>,
}

/// The reply to a request of the guest.
#[derive(Debug)]
pub struct IncomingResponse {
    status: u16,
    headers: Fields,
    body: Option<Reader>,
}

impl IncomingResponse {
    pub(crate) fn new(status: u16, headers: HeaderMap, body: Reader) -> Self {
        Self { status, headers: Fields::received(headers), body: Some(body) }
    }
}

/// A body that is read.
#[derive(Debug)]
pub struct IncomingBody {
    reader: Arc<Reader>,
    streamed: bool,
}

/// The end of a body.
#[derive(Debug)]
pub struct FutureTrailers {
    reader: Arc<Reader>,
    found: Option<Result<Option<HeaderMap>, ErrorCode>>,
    taken: bool,
}

impl FutureTrailers {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.found.is_none() {
            match self.reader.poll_trailers(cx) {
                Poll::Ready(end) => self.found = Some(end),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }
}

#[async_trait]
impl Pollable for FutureTrailers {
    async fn ready(&mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }
}

pub(super) fn name(method: &Method) -> types::Method {
    match *method {
        Method::GET => types::Method::Get,
        Method::HEAD => types::Method::Head,
        Method::POST => types::Method::Post,
        Method::PUT => types::Method::Put,
        Method::DELETE => types::Method::Delete,
        Method::CONNECT => types::Method::Connect,
        Method::OPTIONS => types::Method::Options,
        Method::TRACE => types::Method::Trace,
        Method::PATCH => types::Method::Patch,
        _ => types::Method::Other(method.as_str().to_owned()),
    }
}

impl Guest {
    /// A body is taken out of what it came with once.
    fn consume(&mut self, body: Option<Reader>) -> wasmtime::Result<Result<Resource<IncomingBody>, ()>> {
        let Some(reader) = body else { return Ok(Err(())) };
        Ok(Ok(self.push(IncomingBody { reader: Arc::new(reader), streamed: false })?))
    }
}

impl HostIncomingRequest for Guest {
    fn method(&mut self, request: Resource<IncomingRequest>) -> wasmtime::Result<types::Method> {
        Ok(name(&self.table.get(&request)?.method))
    }

    fn path_with_query(&mut self, request: Resource<IncomingRequest>) -> wasmtime::Result<Option<String>> {
        Ok(Some(self.table.get(&request)?.path.clone()))
    }

    fn scheme(&mut self, request: Resource<IncomingRequest>) -> wasmtime::Result<Option<Scheme>> {
        Ok(Some(if self.table.get(&request)?.https { Scheme::Https } else { Scheme::Http }))
    }

    fn authority(&mut self, request: Resource<IncomingRequest>) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&request)?.authority.clone())
    }

    fn headers(&mut self, request: Resource<IncomingRequest>) -> wasmtime::Result<Resource<Fields>> {
        let headers = self.table.get(&request)?.headers.clone();
        self.push(headers)
    }

    fn consume(
        &mut self,
        request: Resource<IncomingRequest>,
    ) -> wasmtime::Result<Result<Resource<IncomingBody>, ()>> {
        let body = self.table.get_mut(&request)?.body.take();
        self.consume(body)
    }

    fn drop(&mut self, request: Resource<IncomingRequest>) -> wasmtime::Result<()> {
        self.table.delete(request)?;
        Ok(())
    }
}

impl HostIncomingResponse for Guest {
    fn status(&mut self, response: Resource<IncomingResponse>) -> wasmtime::Result<u16> {
        Ok(self.table.get(&response)?.status)
    }

    fn headers(&mut self, response: Resource<IncomingResponse>) -> wasmtime::Result<Resource<Fields>> {
        let headers = self.table.get(&response)?.headers.clone();
        self.push(headers)
    }

    fn consume(
        &mut self,
        response: Resource<IncomingResponse>,
    ) -> wasmtime::Result<Result<Resource<IncomingBody>, ()>> {
        let body = self.table.get_mut(&response)?.body.take();
        self.consume(body)
    }

    fn drop(&mut self, response: Resource<IncomingResponse>) -> wasmtime::Result<()> {
        self.table.delete(response)?;
        Ok(())
    }
}

impl HostIncomingBody for Guest {
    fn stream(
        &mut self,
        body: Resource<IncomingBody>,
    ) -> wasmtime::Result<Result<Resource<DynInputStream>, ()>> {
        let inner = self.table.get_mut(&body)?;
        if std::mem::replace(&mut inner.streamed, true) {
            return Ok(Err(()));
        }
        let stream: DynInputStream = Box::new(BodyInput(Arc::clone(&inner.reader)));
        Ok(Ok(self.push(stream)?))
    }

    fn finish(&mut self, body: Resource<IncomingBody>) -> wasmtime::Result<Resource<FutureTrailers>> {
        let body = self.table.delete(body)?;
        self.push(FutureTrailers { reader: body.reader, found: None, taken: false })
    }

    fn drop(&mut self, body: Resource<IncomingBody>) -> wasmtime::Result<()> {
        self.table.delete(body)?;
        Ok(())
    }
}

type Trailers = Result<Option<Resource<Fields>>, ErrorCode>;

impl HostFutureTrailers for Guest {
    fn subscribe(&mut self, trailers: Resource<FutureTrailers>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(&mut self.table, trailers)
    }

    fn get(&mut self, trailers: Resource<FutureTrailers>) -> wasmtime::Result<Option<Result<Trailers, ()>>> {
        let future = self.table.get_mut(&trailers)?;
        if future.taken {
            return Ok(Some(Err(())));
        }
        // Looked for here, too: a guest that asks again and again without polling gets its answer.
        if future.poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            return Ok(None);
        }
        future.taken = true;
        let found = future.found.take().unwrap_or(Ok(None));
        Ok(Some(Ok(match found {
            Ok(None) => Ok(None),
            Ok(Some(fields)) => Ok(Some(self.push(Fields::received(fields))?)),
            Err(reason) => Err(reason),
        })))
    }

    fn drop(&mut self, trailers: Resource<FutureTrailers>) -> wasmtime::Result<()> {
        self.table.delete(trailers)?;
        Ok(())
    }
}

impl types::Host for Guest {
    fn http_error_code(
        &mut self,
        error: Resource<wasmtime_wasi_io::streams::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        let error = self.table.get(&error)?;
        Ok(error.downcast_ref::<BodyFailed>().map(|failed| failed.0.clone()))
    }
}
