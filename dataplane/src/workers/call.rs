//! Calls: a request to a zone becomes a call of a guest, and its reply a reply of the node.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use berth_isolate_host::{Call, ErrorCode, Fault, FaultKind, Incoming, Limit, Script};
use berth_protocol::object::ObjectKey;
use berth_protocol::waits::Chain;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_body::{Frame, SizeHint};

use super::CoreWorkers;
use super::send::Way;
use super::world::{CallWorld, Context, show_request};
use crate::enforce::{Admitted, Instantiate, admit};
use crate::http::body::{Body, BodyError};
use crate::http::message::{Problem, Reply, Request, Security};
use crate::zones::{Class, Handler, Worker, Zone};

/// What guests are told of a request, and nobody else may tell them.
const CLIENT_IP: HeaderName = HeaderName::from_static("berth-client-ip");
const REQUEST_ID: HeaderName = HeaderName::from_static("berth-request-id");
const OURS: &str = "berth-";

impl CoreWorkers {
    /// Answers a client's request to a zone, by who was found there.
    pub async fn answer(self: Rc<Self>, zone: Arc<Zone>, handler: Handler, request: Request) -> Reply {
        match handler {
            Handler::Nothing => Reply::problem(Problem::NoRoute),
            Handler::Origin => self.fetch_origin(&zone, request).await,
            Handler::Object(class, name) => self.ask_object(&zone, &class, &name, request).await,
            Handler::Worker(worker) => {
                let client = request.peer.client.ip();
                let context = self.context(zone, worker, client, None);
                let Some(incoming) = incoming(request) else { return Reply::problem(Problem::BadRequest) };
                self.call(context, incoming).await
            }
        }
    }

    pub(super) fn context(
        &self,
        zone: Arc<Zone>,
        worker: Arc<Worker>,
        client: std::net::IpAddr,
        parent: Option<Arc<Context>>,
    ) -> Arc<Context> {
        // The parts of one client's request have one id.
        let request = parent.as_ref().map_or_else(|| self.new_request(), |parent| parent.request);
        let depth = parent.as_ref().map_or(0, |parent| parent.depth + 1);
        let chain = parent.as_ref().map_or_else(Chain::outside, |parent| parent.chain.clone());
        Arc::new(Context {
            zone,
            worker,
            request,
            client,
            parent,
            depth,
            chain,
            core: Arc::clone(&self.links),
        })
    }

    /// What a turn of an object is known by, for this request of this client.
    pub(crate) fn object_context(
        &self,
        zone: &Arc<Zone>,
        class: &Class,
        client: std::net::IpAddr,
        request: u64,
        chain: Chain<ObjectKey>,
    ) -> Arc<Context> {
        let (zone, worker, core) = (Arc::clone(zone), Arc::clone(&class.code), Arc::clone(&self.links));
        Arc::new(Context { zone, worker, request, client, parent: None, depth: 0, chain, core })
    }

    /// Calls a worker.
    pub(super) async fn call<B>(self: Rc<Self>, context: Arc<Context>, mut incoming: Incoming<B>) -> Reply
    where
        B: http_body::Body<Data = Bytes> + Unpin + 'static,
    {
        self.links.numbers.worker_calls.add(1);
        let script = match self.script(&context.worker).await {
            Ok(script) => script,
            Err(error) => {
                tracing::error!(zone = context.zone.name, worker = context.worker.name, %error, "worker.script");
                return Reply::problem(Problem::Internal);
            }
        };
        let act = Instantiate { who: &context.zone.who, script: context.worker.script };
        let admitted = match admit(&*self.workers.reach, act) {
            Ok(admitted) => admitted,
            Err(denied) => {
                tracing::warn!(target: "guest", zone = context.zone.name, worker = context.worker.name, %denied, "worker.denied");
                return Reply::problem(Problem::Forbidden);
            }
        };
        tell_guest(&mut incoming.headers, context.client, context.request);
        let way_out = Rc::new(Way { core: Rc::clone(&self), context: Arc::clone(&context) });
        let mut call = begin(&admitted, &script, &context, way_out, incoming);
        match std::future::poll_fn(|cx| call.poll_head(cx)).await {
            Ok(head) => {
                let body = match head.whole {
                    Some(bytes) => {
                        see_off(call, context);
                        Body::full(bytes)
                    }
                    None => Body::stream(GuestBody { call: Some(call), context }),
                };
                let mut reply = Reply { status: head.status, headers: head.headers, body, upgrade: None };
                clean(&mut reply);
                reply
            }
            Err(fault) => {
                report_fault(&context, &fault);
                Reply::problem(fault_problem(&fault.kind))
            }
        }
    }
}

/// Makes an instance, for who was admitted to it.
fn begin<B: http_body::Body<Data = Bytes> + Unpin>(
    _admitted: &Admitted<Instantiate<'_>>,
    script: &Script,
    context: &Arc<Context>,
    way_out: Rc<Way>,
    incoming: Incoming<B>,
) -> Call<B> {
    let world = Arc::new(CallWorld(Arc::clone(context)));
    Call::new(script, &context.worker.limits, world, way_out, incoming)
}

/// The connection frames the reply, and it alone knows how. What is said of a body that stays away is left.
fn clean(reply: &mut Reply) {
    if reply.body.exact_size().is_some_and(|bytes| bytes > 0) {
        reply.headers.remove(header::CONTENT_LENGTH);
    }
}

/// What a guest may still do after its reply is whole, it does on the core's own account.
fn see_off<B>(mut call: Call<B>, context: Arc<Context>)
where
    B: http_body::Body<Data = Bytes> + Unpin + 'static,
{
    if !call.is_running() {
        return;
    }
    berth_runtime::spawn(async move {
        if let Err(fault) = std::future::poll_fn(|cx| call.poll_guest(cx)).await {
            report_fault(&context, &fault);
        }
    });
}

/// A client's request as its guest gets it. `None`: it cannot be said in the guest's words.
fn incoming(request: Request) -> Option<Incoming<crate::http::body::RequestBody>> {
    let path = path(&request.target)?;
    let authority = request.headers.get(header::HOST).and_then(|host| host.to_str().ok().map(str::to_owned));
    let authority = authority.or_else(|| request.host.as_ref().map(|host| host.as_str().to_owned()));
    let body = match request.body {
        crate::http::body::RequestBody::Empty => None,
        body => Some(body),
    };
    Some(Incoming {
        method: request.method,
        https: request.peer.security == Security::Tls,
        authority,
        path,
        headers: request.headers,
        body,
    })
}

/// Path and query as they came, without what an absolute target has before them.
pub(crate) fn path(target: &crate::http::target::Target) -> Option<String> {
    let mut path = String::from_utf8(target.raw_path().to_vec()).ok()?;
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    if let Some(query) = target.raw_query() {
        path.push('?');
        path.push_str(std::str::from_utf8(query).ok()?);
    }
    Some(path)
}

/// Takes out what only the node may say, and says it.
pub(crate) fn tell_guest(headers: &mut HeaderMap, client: std::net::IpAddr, request: u64) {
    let forged: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(OURS)).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
    for (name, text) in [(CLIENT_IP, client.to_string()), (REQUEST_ID, show_request(request))] {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    }
}

/// A guest's body on its way to the client. Dropped before its end, it ends the guest: the client has gone.
struct GuestBody<B> {
    call: Option<Call<B>>,
    context: Arc<Context>,
}

impl<B: http_body::Body<Data = Bytes> + Unpin + 'static> http_body::Body for GuestBody<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(call) = &mut this.call else { return Poll::Ready(None) };
        Poll::Ready(match ready!(call.poll_frame(cx)) {
            Some(Ok(frame)) => Some(Ok(frame)),
            None => {
                if let Some(call) = this.call.take() {
                    see_off(call, Arc::clone(&this.context));
                }
                None
            }
            Some(Err(fault)) => {
                report_fault(&this.context, &fault);
                this.call = None;
                Some(Err(BodyError::Gone))
            }
        })
    }

    fn size_hint(&self) -> SizeHint {
        let exact = self.call.as_ref().and_then(Call::exact_size);
        exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// What the client is told: that it failed, and whether it was about time.
pub(crate) fn fault_problem(kind: &FaultKind) -> Problem {
    match kind {
        FaultKind::Limit(limit) if limit.is_time() => Problem::TimeLimit,
        FaultKind::Busy => Problem::Overload,
        FaultKind::Refused(ErrorCode::LoopDetected) => Problem::Loop,
        FaultKind::Limit(_) | FaultKind::Trap | FaultKind::NoAnswer | FaultKind::Refused(_) => {
            Problem::Internal
        }
    }
}

/// Everything that is known goes into the log and the counters.
pub(crate) fn report_fault(context: &Context, fault: &Fault) {
    let word = fault.kind.word();
    let limit = match &fault.kind {
        FaultKind::Limit(limit) => limit.to_string(),
        _ => String::new(),
    };
    let numbers = &context.core.numbers;
    match fault.kind {
        FaultKind::Limit(Limit::Cpu) => numbers.limit_worker_cpu.add(1),
        FaultKind::Limit(Limit::Wall) => numbers.limit_worker_wall.add(1),
        FaultKind::Limit(Limit::Memory) => numbers.limit_worker_memory.add(1),
        FaultKind::Limit(Limit::Tables) => numbers.limit_worker_tables.add(1),
        FaultKind::Limit(Limit::Stack) => numbers.limit_worker_stack.add(1),
        FaultKind::Limit(Limit::Outgoing) => numbers.limit_worker_outgoing.add(1),
        FaultKind::Limit(Limit::Handles) => numbers.limit_worker_handles.add(1),
        FaultKind::Limit(Limit::Headers) => numbers.limit_worker_headers.add(1),
        FaultKind::Limit(Limit::BodyBytes) => numbers.limit_worker_body.add(1),
        FaultKind::Limit(Limit::CallBytes) => numbers.limit_worker_call_bytes.add(1),
        FaultKind::Busy => numbers.limit_worker_instances.add(1),
        FaultKind::Trap | FaultKind::NoAnswer | FaultKind::Refused(_) => numbers.worker_faults.add(1),
    }
    let Context { zone, worker, .. } = context;
    tracing::warn!(target: "guest", zone = zone.name, worker = worker.name, script = %worker.script,
        request = context.request_id(), limit, detail = fault.detail, "worker.failed: {word}");
    context.tell("fault", &format!("{word} {limit}: {}", fault.detail));
}
