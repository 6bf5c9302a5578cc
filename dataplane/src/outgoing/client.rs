//! One request on its way out and its reply on the way back.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use berth_runtime::timeout;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;

use super::body::{Carried, ReplyBody, Upload};
use super::dial::{Dialer, Tls};
use super::error::{Began, SendError};
use super::fields::{prepare_reply, prepare_request};
use super::pool::{Connection, Grant, Key, Pool, PoolLimits, Wish};
use super::resolve::Resolve;
use super::{ClientNumbers, Destination, Times};
use crate::enforce::{Admitted, Connect, Enforce, SendOut, Who, admit};

/// Bounds of a client.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Its connections.
    pub pool: PoolLimits,
    /// Bytes of the head of a reply, and of its trailers.
    pub header_bytes: usize,
    /// Fields of the head of a reply, and of its trailers.
    pub header_count: usize,
    /// How long a request waits for a connection to come free, if its time to connect is not less.
    pub pool_wait: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            pool: PoolLimits::default(),
            header_bytes: 64 * 1024,
            header_count: 128,
            pool_wait: Duration::from_secs(5),
        }
    }
}

/// What a request is sent with.
#[derive(Debug, Clone)]
pub struct Order<'a> {
    /// Where to.
    pub to: &'a Destination,
    /// For whom.
    pub who: &'a Who,
    /// How long it may take.
    pub times: Times,
    /// What its `host` field says.
    pub host: HostField,
    /// Whether it may be sent again.
    pub retry: Retry,
}

/// What the `host` field of a request says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostField {
    /// The destination's host, and its port if it is not the usual one.
    Destination,
    /// This: a proxy passes on what its client sent.
    Given(HeaderValue),
}

/// Whether a request may be sent a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Once, over a fresh connection, if that changes nothing at the other end: its method is idempotent, nothing of its
    /// body was read, and the connection had served before and closed without a byte of a reply.
    Safe,
    /// Never, once any of it was written.
    Never,
}

/// The client of one core.
#[derive(Clone)]
pub struct Client(Rc<Shared>);

struct Shared {
    pool: Pool,
    resolver: Box<dyn Resolve>,
    enforce: Arc<dyn Enforce>,
    tls: Tls,
    options: ClientOptions,
    numbers: Arc<ClientNumbers>,
}

/// Why an exchange failed.
struct Failed {
    error: SendError,
    next: Next,
}

/// What can be done about it.
enum Next {
    /// Nothing of the request was written; here it is.
    Unsent(Box<Request<Carried>>),
    /// The connection ended without a byte of a reply.
    Silent,
    /// It may have been acted upon.
    Nothing,
}

impl Client {
    /// A client of the core that this is called on.
    pub fn new(
        resolver: impl Resolve + 'static,
        enforce: Arc<dyn Enforce>,
        tls: Tls,
        options: ClientOptions,
        numbers: Arc<ClientNumbers>,
    ) -> Self {
        let pool = Pool::new(options.pool.clone(), Arc::clone(&numbers));
        let resolver = Box::new(resolver);
        Self(Rc::new(Shared { pool, resolver, enforce, tls, options, numbers }))
    }

    /// Sends a request and waits for the head of its reply. Dropping the future, or the body of the reply before its
    /// end, closes the connection.
    ///
    /// The request's target is the path and query of its URI; `host` and what frames the body are set here, and what
    /// belongs to a connection is taken out. Its trailers are sent if a `trailer` field names them.
    pub async fn send<B>(
        &self,
        order: &Order<'_>,
        request: Request<B>,
    ) -> Result<Response<ReplyBody>, SendError>
    where
        B: Body<Data = Bytes> + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let upload = Upload::new(body);
        let sent = match prepare(order, head) {
            Ok(head) => {
                self.0.numbers.outgoing_requests.add(1);
                let request = Request::from_parts(head, upload.carry());
                Box::pin(self.0.send(order, request, &upload)).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &sent {
            self.0.count(error);
        }
        sent
    }
}

/// The head as it is written.
fn prepare(order: &Order<'_>, mut head: http::request::Parts) -> Result<http::request::Parts, SendError> {
    if head.method == Method::CONNECT {
        return Err(SendError::HttpRequestMethodInvalid(head.method));
    }
    head.uri = match head.uri.path_and_query() {
        Some(target) => Uri::from(target.clone()),
        None => Uri::from_static("/"),
    };
    head.version = Version::HTTP_11;
    head.extensions.clear();
    let host = match &order.host {
        HostField::Destination => order.to.authority().clone(),
        HostField::Given(host) => host.clone(),
    };
    prepare_request(&mut head.headers, host);
    Ok(head)
}

/// The head alone, to be sent again.
struct Spare {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Spare {
    fn of(request: &Request<Carried>) -> Self {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        Self { method, uri, headers: request.headers().clone() }
    }

    fn into_request(self, upload: &Rc<Upload>) -> Request<Carried> {
        let mut request = Request::new(upload.carry());
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        request
    }
}

impl Shared {
    async fn send(
        &self,
        order: &Order<'_>,
        request: Request<Carried>,
        upload: &Rc<Upload>,
    ) -> Result<Response<ReplyBody>, SendError> {
        let act = SendOut { who: order.who, host: order.to.host(), port: order.to.port() };
        let admitted = admit(&*self.enforce, act);
        let admitted = admitted?;
        let (connection, used) = self.connection(&admitted, order, Wish::Any).await?;
        let spare = (used == Used::Before && order.retry == Retry::Safe && request.method().is_idempotent())
            .then(|| Spare::of(&request));
        let failed = match self.exchange(connection, order, request, upload).await {
            Ok(reply) => return Ok(reply),
            Err(failed) => failed,
        };
        let request = match (failed.next, spare) {
            // Found closed before it was used: that is no second time.
            (Next::Unsent(request), _) if used == Used::Before => *request,
            (Next::Silent, Some(spare)) if upload.is_whole() => {
                self.numbers.outgoing_retried.add(1);
                spare.into_request(upload)
            }
            _ => return Err(failed.error),
        };
        let (connection, _) = self.connection(&admitted, order, Wish::Fresh).await?;
        self.exchange(connection, order, request, upload).await.map_err(|failed| failed.error)
    }

    /// A connection, for a request that was admitted, to an address that is admitted.
    async fn connection(
        &self,
        _admitted: &Admitted<SendOut<'_>>,
        order: &Order<'_>,
        wish: Wish,
    ) -> Result<(Connection, Used), SendError> {
        let until = berth_runtime::now() + order.times.connect.min(LONGEST);
        let key = Key { zone: Arc::clone(&order.who.zone), to: order.to.clone() };
        let wait = order.times.connect.min(self.options.pool_wait);
        let granted = timeout(wait, self.pool.acquire(&key, wish)).await;
        match granted.map_err(|_| SendError::ConnectionLimitReached)?? {
            Grant::Connection(connection) => {
                let act = Connect { who: order.who, host: order.to.host(), address: connection.address };
                let _ = admit(&*self.enforce, act)?;
                self.numbers.outgoing_reused.add(1);
                Ok((connection, Used::Before))
            }
            Grant::Permit(permit) => {
                let (resolver, options) = (&*self.resolver, &self.options);
                let dialer = Dialer { resolver, enforce: &*self.enforce, tls: &self.tls, options };
                let connection = Box::pin(dialer.dial(order, permit, until)).await?;
                self.numbers.outgoing_connections.add(1);
                Ok((connection, Used::Never))
            }
        }
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        order: &Order<'_>,
        request: Request<Carried>,
        upload: &Rc<Upload>,
    ) -> Result<Response<ReplyBody>, Failed> {
        connection.serve();
        upload.expect_reply(order.times.first_byte);
        let reply = {
            let mut reply = std::pin::pin!(write(&mut connection, request));
            poll_fn(|cx| match reply.as_mut().poll(cx) {
                Poll::Ready(reply) => Poll::Ready(Some(reply)),
                Poll::Pending => upload.poll_overdue(cx).map(|()| None),
            })
            .await
        };
        upload.replied();
        let nothing = |error| Failed { error, next: Next::Nothing };
        let reply = match reply {
            Some(Ok(reply)) => reply,
            Some(Err(mut unsent)) => return Err(explain(&mut unsent, &connection, upload)),
            None => return Err(nothing(SendError::HttpResponseTimeout)),
        };
        if reply.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(nothing(SendError::HttpUpgradeFailed));
        }
        let (mut head, incoming) = reply.into_parts();
        prepare_reply(&mut head.headers);
        head.extensions.clear();
        let (upload, numbers) = (Rc::clone(upload), Arc::clone(&self.numbers));
        let body = ReplyBody::new(incoming, connection, upload, order.times.between_bytes, numbers);
        Ok(Response::from_parts(head, body))
    }

    fn count(&self, error: &SendError) {
        let number = match error {
            SendError::DestinationIpProhibited(_) => &self.numbers.outgoing_refused,
            SendError::ConnectionLimitReached => &self.numbers.limit_outgoing_connections,
            error if error.is_timeout() => &self.numbers.outgoing_timeouts,
            _ => &self.numbers.outgoing_errors,
        };
        number.add(1);
    }
}

/// No time to connect is longer: a moment beyond is none that a clock reaches.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether a connection has served before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Used {
    Before,
    Never,
}

/// What hyper says of a request that failed, with the request if it was not written.
type Unsent = hyper::client::conn::TrySendError<Request<Carried>>;

async fn write(
    connection: &mut Connection,
    request: Request<Carried>,
) -> Result<Response<hyper::body::Incoming>, Unsent> {
    // If it has been closed, sending says so and gives the request back.
    let _ = connection.sender.ready().await;
    connection.sender.try_send_request(request).await
}

fn explain(unsent: &mut Unsent, connection: &Connection, upload: &Upload) -> Failed {
    if let Some(error) = upload.failure() {
        return Failed { error, next: Next::Nothing };
    }
    let began = if connection.has_received() { Began::Yes } else { Began::No };
    let next = match unsent.take_message() {
        Some(request) => Next::Unsent(Box::new(request)),
        None if began == Began::No => Next::Silent,
        None => Next::Nothing,
    };
    Failed { error: SendError::from_exchange(unsent.error(), began), next }
}
