//! Requests that leave the node: those of guests, and those that a zone's origin answers.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use berth_isolate_host::pipe::{self, Aborted, Reader, Writer};
use berth_isolate_host::{DnsErrorPayload, ErrorCode, Inbound, Outbound};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};

use super::CoreWorkers;
use crate::http::body::{Body, BodyError};
use crate::http::message::{Problem, Reply, Request, Security};
use crate::outgoing::{Destination, HostField, Order, ReplyBody, Retry, SendError, Times};
use crate::zones::Zone;

/// What holds where a guest gives no time, and for origins: until there is a connection; from then to the reply; between
/// two pieces of it. A minute is what servers behind a proxy are commonly made for.
const TIMES: Times = Times {
    connect: Duration::from_secs(10),
    first_byte: Duration::from_secs(60),
    between_bytes: Duration::from_secs(60),
};

/// Who speaks, as an origin behind a proxy expects to be told.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// A body that a guest sends, with the length that it announced.
struct GuestUpload {
    reader: Option<Reader>,
    announced: Option<u64>,
}

impl http_body::Body for GuestUpload {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        match &mut self.reader {
            Some(reader) => Pin::new(reader).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.reader.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.reader, self.announced) {
            (None, _) => SizeHint::with_exact(0),
            (Some(_), Some(length)) => SizeHint::with_exact(length),
            (Some(reader), None) => reader.size_hint(),
        }
    }
}

impl CoreWorkers {
    /// Sends a guest's request to a destination.
    pub(super) async fn send_over_sockets(
        &self,
        zone: &Zone,
        to: &Destination,
        host: HostField,
        request: Outbound,
    ) -> Result<Inbound, ErrorCode> {
        let times = Times {
            connect: request.connect_timeout.unwrap_or(TIMES.connect),
            first_byte: request.first_byte_timeout.unwrap_or(TIMES.first_byte),
            between_bytes: request.between_bytes_timeout.unwrap_or(TIMES.between_bytes),
        };
        let body = GuestUpload { reader: request.body, announced: request.content_length };
        let mut message = http::Request::new(body);
        *message.method_mut() = request.method;
        *message.uri_mut() = request.path.parse().map_err(|_| ErrorCode::HttpRequestUriInvalid)?;
        *message.headers_mut() = request.headers;
        let order = Order { to, who: &zone.who, times, host, retry: Retry::Safe };
        let response =
            self.client.send(&order, message).await.map_err(|error| self.error_code(zone, error))?;
        Ok(inbound(response))
    }

    /// What a guest is told; who may not go somewhere is a matter for the log, too.
    fn error_code(&self, zone: &Zone, error: SendError) -> ErrorCode {
        tracing::debug!(zone = zone.name, %error, "guest.request failed");
        error_code(error)
    }

    /// A client's request that no worker answers, by the zone's origin. The origin sees the client's `host`.
    pub(super) async fn fetch_origin(self: Rc<Self>, zone: &Zone, request: Request) -> Reply {
        let Some(to) = &zone.origin else { return Reply::problem(Problem::Gateway) };
        let Some(uri) = super::call::path(&request.target).and_then(|path| path.parse().ok()) else {
            return Reply::problem(Problem::BadRequest);
        };
        let host = request.headers.get(header::HOST).cloned();
        let host = host.or_else(|| HeaderValue::from_str(request.host.as_ref()?.as_str()).ok());
        let mut message = http::Request::new(request.body);
        *message.method_mut() = request.method;
        *message.uri_mut() = uri;
        *message.headers_mut() = request.headers;
        let scheme = if request.peer.security == Security::Tls { "https" } else { "http" };
        message.headers_mut().insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
        if let Ok(client) = HeaderValue::try_from(request.peer.client.ip().to_string()) {
            message.headers_mut().insert(FORWARDED_FOR, client);
        }
        let host = host.map_or(HostField::Destination, HostField::Given);
        let order = Order { to, who: &zone.who, times: TIMES, host, retry: Retry::Safe };
        match self.client.send(&order, message).await {
            Ok(response) => reply(response),
            Err(error) => {
                tracing::debug!(zone = zone.name, %error, "origin.request failed");
                Reply::problem(problem(&error))
            }
        }
    }
}

fn problem(error: &SendError) -> Problem {
    match error.status() {
        StatusCode::GATEWAY_TIMEOUT => Problem::TimeLimit,
        StatusCode::NOT_IMPLEMENTED => Problem::NotImplemented,
        StatusCode::BAD_REQUEST => Problem::BadRequest,
        _ => Problem::Gateway,
    }
}

/// An origin's reply as the client gets it.
fn reply(response: Response<ReplyBody>) -> Reply {
    let (head, body) = response.into_parts();
    Reply { status: head.status, headers: head.headers, body: Body::stream(OriginBody(body)), upgrade: None }
}

struct OriginBody(ReplyBody);

impl http_body::Body for OriginBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = Pin::new(&mut self.0).poll_frame(cx);
        frame.map(|frame| frame.map(|frame| frame.map_err(|_| BodyError::Gone)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// A reply as the guest gets it that asked.
fn inbound(response: Response<ReplyBody>) -> Inbound {
    let (head, body) = response.into_parts();
    let (writer, reader) = pipe::pipe();
    if body.is_end_stream() {
        writer.finish(None);
    } else {
        berth_runtime::spawn(pump(body, writer, error_code));
    }
    Inbound { status: head.status.as_u16(), headers: head.headers, body: reader }
}

/// Moves a body into a pipe as fast as it is read there, to its end, its error, or until nobody reads.
pub(super) async fn pump<B>(mut body: B, writer: Writer, reason: fn(B::Error) -> ErrorCode)
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    loop {
        let frame = std::future::poll_fn(|cx| {
            if writer.poll_room(cx).is_pending() {
                return Poll::Pending;
            }
            if !writer.has_reader() {
                return Poll::Ready(None);
            }
            // Who reads and goes away while nothing comes is noticed by this.
            let _ = writer.poll_wanted(cx);
            Pin::new(&mut body).poll_frame(cx).map(Some)
        });
        match frame.await {
            None => return,
            Some(None) => return writer.finish(None),
            Some(Some(Err(error))) => return writer.abort(reason(error)),
            Some(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => writer.push(data),
                Err(frame) => return writer.finish(frame.into_trailers().ok()),
            },
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "what makes errors of bodies gives them away")]
fn error_code(error: SendError) -> ErrorCode {
    match error {
        SendError::DnsTimeout => ErrorCode::DnsTimeout,
        SendError::DnsError(_) => ErrorCode::DnsError(DnsErrorPayload { rcode: None, info_code: None }),
        SendError::DestinationNotFound => ErrorCode::DestinationNotFound,
        SendError::DestinationUnavailable(_) => ErrorCode::DestinationUnavailable,
        SendError::DestinationIpProhibited(_) => ErrorCode::DestinationIpProhibited,
        SendError::DestinationIpUnroutable(_) => ErrorCode::DestinationIpUnroutable,
        SendError::ConnectionRefused => ErrorCode::ConnectionRefused,
        SendError::ConnectionTerminated => ErrorCode::ConnectionTerminated,
        SendError::ConnectionTimeout => ErrorCode::ConnectionTimeout,
        SendError::ConnectionReadTimeout => ErrorCode::ConnectionReadTimeout,
        SendError::ConnectionLimitReached => ErrorCode::ConnectionLimitReached,
        SendError::TlsProtocolError(_) => ErrorCode::TlsProtocolError,
        SendError::TlsCertificateError(_) => ErrorCode::TlsCertificateError,
        SendError::HttpRequestMethodInvalid(_) => ErrorCode::HttpRequestMethodInvalid,
        SendError::HttpRequestUriInvalid(_) => ErrorCode::HttpRequestUriInvalid,
        SendError::HttpRequestBody(_) => ErrorCode::HttpRequestBodySize(None),
        SendError::HttpResponseIncomplete => ErrorCode::HttpResponseIncomplete,
        SendError::HttpResponseTimeout => ErrorCode::HttpResponseTimeout,
        SendError::HttpResponseHeaderSectionSize => ErrorCode::HttpResponseHeaderSectionSize(None),
        SendError::HttpUpgradeFailed => ErrorCode::HttpUpgradeFailed,
        SendError::HttpProtocolError(_) => ErrorCode::HttpProtocolError,
        SendError::InternalError(_) => ErrorCode::InternalError(None),
    }
}
