//! What guests send: to a zone of this node in process, to everybody else over a socket.
//!
//! A guest's request to another zone has an outside client's rights: it goes through the routes of that zone like any
//! other, and its guest gets nothing of the one that asked. A request to the guest's own zone goes to the zone's origin;
//! the zone's workers do not answer their own. Its objects do, by their hosts as by the names that only guests know.
//!
//! The call that asked goes on with what it asked in its own task: on the bill of the same client, before the core turns
//! to others, and no longer than its guest lives.

use std::rc::Rc;
use std::sync::Arc;

use berth_isolate_host::pipe;
use berth_isolate_host::{Asked, ErrorCode, Inbound, Incoming, Outbound, WayOut};
use bytes::Bytes;
use http::{HeaderValue, Uri};

use super::CoreWorkers;
use super::out::pump;
use super::world::Context;
use crate::http::body::Body;
use crate::http::message::{Problem, Reply};
use crate::http::target::{Host, Target};
use crate::outgoing::{Destination, HostField};
use crate::zones::{BY_ID, Handler, HostedObject, Zone};

/// Calls that may stand above one another. Each holds an instance.
const DEPTH_MAX: u8 = 8;

/// What the host names of objects end in.
const OBJECTS: &str = ".object.internal";

/// The way out of a call.
pub(crate) struct Way {
    pub(crate) core: Rc<CoreWorkers>,
    pub(crate) context: Arc<Context>,
}

impl WayOut for Way {
    fn ask(&self, request: Outbound) -> Asked {
        Box::pin(Rc::clone(&self.core).send(request, Arc::clone(&self.context)))
    }
}

impl CoreWorkers {
    async fn send(self: Rc<Self>, request: Outbound, context: Arc<Context>) -> Result<Inbound, ErrorCode> {
        let uri: Uri = request.authority.parse().map_err(|_| ErrorCode::HttpRequestUriInvalid)?;
        let host = uri.host().unwrap_or_default();
        let host = Host::parse(host.as_bytes()).map_err(|_| ErrorCode::HttpRequestUriInvalid)?.into_owned();
        let target = Target::parse(Bytes::from(request.path.clone()));
        let target = target.map_err(|_| ErrorCode::HttpRequestUriInvalid)?;
        if let Some(object) = host.as_str().strip_suffix(OBJECTS) {
            return self.send_to_object(object, request, &context).await;
        }
        let object = self.zones().hosts().object_for(Some(&host), &target);
        if let Some(HostedObject { zone, class, name, .. }) = object {
            return match zone.name == context.zone.name {
                true => {
                    Ok(inbound(self.ask_object_of(&zone, &class, name.as_str(), request, &context).await))
                }
                false => self.send_to_zone(zone, Handler::Object(class, name), request, context).await,
            };
        }
        let zone = self.zones().hosts().find(Some(&host), &target);
        match zone {
            Some(zone) if zone.name != context.zone.name => {
                let handler = zone.handler(&target);
                self.send_to_zone(zone, handler, request, context).await
            }
            Some(zone) => self.send_to_origin(&zone, request).await,
            None => self.send_out(request, &context).await,
        }
    }

    /// To an object of the guest's own zone: `NAME.CLASS` or `ID.id`, before the suffix that all of them have.
    async fn send_to_object(
        &self,
        object: &str,
        request: Outbound,
        context: &Arc<Context>,
    ) -> Result<Inbound, ErrorCode> {
        let (name, class) = object.rsplit_once('.').ok_or(ErrorCode::DestinationNotFound)?;
        if class == BY_ID {
            return Ok(inbound(self.ask_object_by_id(name, request, context).await));
        }
        let class = context.zone.class(class).ok_or(ErrorCode::DestinationNotFound)?;
        Ok(inbound(self.ask_object_of(&context.zone, class, name, request, context).await))
    }

    async fn send_to_zone(
        self: Rc<Self>,
        zone: Arc<Zone>,
        handler: Handler,
        request: Outbound,
        context: Arc<Context>,
    ) -> Result<Inbound, ErrorCode> {
        self.links.numbers.zone_requests.add(1);
        let reply = match handler {
            _ if context.depth + 1 >= DEPTH_MAX || context.has_zone(&zone.name) => {
                self.links.numbers.zone_loops.add(1);
                tracing::debug!(
                    zone = zone.name,
                    from = context.zone.name,
                    request = context.request_id(),
                    "zone.loop"
                );
                Reply::problem(Problem::Loop)
            }
            Handler::Nothing => Reply::problem(Problem::NoRoute),
            Handler::Origin => return self.send_to_origin(&zone, request).await,
            Handler::Object(class, name) => {
                self.ask_object_of(&zone, &class, name.as_str(), request, &context).await
            }
            Handler::Worker(worker) => {
                tracing::debug!(
                    zone = zone.name,
                    worker = worker.name,
                    from = context.zone.name,
                    request = context.request_id(),
                    "zone.request"
                );
                let client = context.client;
                let inner = self.context(zone, worker, client, Some(context));
                let incoming = Incoming {
                    method: request.method,
                    https: request.https,
                    authority: Some(request.authority),
                    path: request.path,
                    headers: request.headers,
                    body: request.body,
                };
                self.call(inner, incoming).await
            }
        };
        Ok(inbound(reply))
    }

    /// To a zone's own content. The origin sees the host that was asked for.
    async fn send_to_origin(&self, zone: &Zone, request: Outbound) -> Result<Inbound, ErrorCode> {
        let Some(origin) = &zone.origin else { return Err(ErrorCode::DestinationNotFound) };
        let host = HeaderValue::try_from(&request.authority).map_err(|_| ErrorCode::HttpRequestUriInvalid)?;
        self.send_over_sockets(zone, origin, HostField::Given(host), request).await
    }

    async fn send_out(&self, request: Outbound, context: &Context) -> Result<Inbound, ErrorCode> {
        let to = Destination::parse(request.https, &request.authority);
        let to = to.map_err(|_| ErrorCode::HttpRequestUriInvalid)?;
        self.send_over_sockets(&context.zone, &to, HostField::Destination, request).await
    }
}

/// A reply of this node as a guest gets it.
fn inbound(reply: Reply) -> Inbound {
    let (writer, reader) = pipe::pipe();
    match reply.body {
        Body::Full(bytes) => {
            writer.push(bytes);
            writer.finish(None);
        }
        Body::Stream(body) => berth_runtime::spawn(pump(body, writer, |_| ErrorCode::HttpResponseIncomplete)),
    }
    Inbound { status: reply.status.as_u16(), headers: reply.headers, body: reader }
}
