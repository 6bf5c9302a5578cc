//! Requests to objects: the whole of a request becomes a letter, and whoever asked waits for its reply.

use std::iter;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use berth_isolate_host::Outbound;
use berth_isolate_host::object::{ObjectRequest, SocketId};
use berth_protocol::object::{ObjectId, ObjectKey};
use berth_protocol::ownership;
use berth_protocol::waits::{Chain, Refused};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use super::letter::{Letter, Says};
use super::repeat;
use crate::debugging::{Trace, is_asked};
use crate::hops::HopFailed;
use crate::http::body::{BodyError, Collect, collect};
use crate::http::message::{Problem, Reply, Request, Security, UpgradeWish};
use crate::http::target::Host;
use crate::workers::{Context, CoreWorkers, path, tell_guest};
use crate::zones::{Class, Zone};

/// Bytes of a request's body: an object has the whole of it in its memory before its turn begins.
const BODY_MAX: usize = 16 << 20;

impl CoreWorkers {
    /// Answers a client's request to an object.
    pub(crate) async fn ask_object(
        self: &Rc<Self>,
        zone: &Arc<Zone>,
        class: &Arc<Class>,
        name: &str,
        request: Request,
    ) -> Reply {
        match request.upgrade {
            Some(UpgradeWish::WebSocket) => self.ask_socket(zone, class, name, request).await,
            None => self.ask_object_for(zone, class, name.into(), request, None).await,
        }
    }

    /// The same, with the socket that the request will be if the object takes it.
    pub(super) async fn ask_object_for(
        &self,
        zone: &Arc<Zone>,
        class: &Arc<Class>,
        which: Which<'_>,
        request: Request,
        upgrade: Option<SocketId>,
    ) -> Reply {
        let scheme = if request.peer.security == Security::Tls { "https" } else { "http" };
        let authority = request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let authority = authority.or(request.host.as_ref().map(Host::as_str)).unwrap_or(&zone.name);
        let Some(path) = path(&request.target) else { return Reply::problem(Problem::BadRequest) };
        let url = format!("{scheme}://{authority}{path}");
        let body = match collect(request.body, BODY_MAX).await {
            Ok(body) => body,
            Err(Collect::TooLarge) => return Reply::problem(Problem::BodyTooLarge),
            Err(Collect::Failed(error)) => return Reply::problem(body_problem(&error)),
        };
        let (client, debug) = (request.peer.client.ip(), is_asked(&request.headers));
        let asked = ObjectRequest { method: request.method, url, headers: request.headers, body, upgrade };
        let from = From { client, number: self.new_request(), chain: &Chain::outside(), debug };
        self.deliver(zone, class, which, asked, from).await
    }

    /// Answers a guest's request to an object.
    pub(crate) async fn ask_object_of(
        &self,
        zone: &Arc<Zone>,
        class: &Arc<Class>,
        which: impl Into<Which<'_>>,
        request: Outbound,
        context: &Context,
    ) -> Reply {
        let scheme = if request.https { "https" } else { "http" };
        let url = format!("{scheme}://{}{}", request.authority, request.path);
        let body = match request.body {
            None => Bytes::new(),
            Some(body) => match collect(body, BODY_MAX).await {
                Ok(body) => body,
                Err(Collect::TooLarge) => return Reply::problem(Problem::BodyTooLarge),
                Err(Collect::Failed(_)) => return Reply::problem(Problem::BadRequest),
            },
        };
        let asked =
            ObjectRequest { method: request.method, url, headers: request.headers, body, upgrade: None };
        let from =
            From { client: context.client, number: context.request, chain: &context.chain, debug: false };
        self.deliver(zone, class, which.into(), asked, from).await
    }

    async fn deliver(
        &self,
        zone: &Arc<Zone>,
        class: &Arc<Class>,
        which: Which<'_>,
        mut request: ObjectRequest,
        from: From<'_>,
    ) -> Reply {
        if let Err(problem) = repeat::key_of(&request.headers) {
            return Reply::problem(problem);
        }
        let (object, name) = match which {
            Which::Id(id, name) => (Some(ObjectKey { scope: class.scope, id }), name),
            Which::Name(name) => (self.objects.key(zone, class, name), Some(name)),
        };
        let Some(object) = object else { return Reply::problem(Problem::Overload) };
        tell_guest(&mut request.headers, from.client, from.number);
        tell_object(&mut request.headers, &object.id.to_string(), name);
        self.tell_object(zone, class, (object, name), Says::Request(request), from).await
    }

    /// Has an object told something, and waits for its reply.
    pub(super) async fn tell_object(
        &self,
        zone: &Zone,
        class: &Class,
        (object, name): (ObjectKey, Option<&str>),
        says: Says,
        from: From<'_>,
    ) -> Reply {
        let objects = &self.objects;
        let waits = objects.node.wait(from.chain, object);
        let (chain, _waiting) = match waits {
            Ok(both) => both,
            Err(refused) => {
                tracing::debug!(?object, %refused, "object.circle");
                objects.numbers.object_circles.add(1);
                return Reply::problem(match refused {
                    Refused::Cycle | Refused::TooDeep => Problem::Loop,
                    Refused::TooLong | Refused::Full => Problem::Overload,
                });
            }
        };
        let expected = objects.hops.expect();
        let letter = Letter {
            object,
            zone: zone.name.as_str().into(),
            class: class.code.name.as_str().into(),
            name: name.map(Into::into),
            asker: objects.here(),
            ticket: expected.ticket,
            says,
            chain,
            client: from.client,
            number: from.number,
            trace: Trace::new(from.debug),
        };
        objects.post(ownership::Message { hops: 0, body: Box::new(letter) });
        match expected.reply().await {
            Ok(reply) => reply,
            Err(HopFailed::Full) => Reply::problem(Problem::Overload),
            Err(HopFailed::NoSuchCore | HopFailed::Garbled) => Reply::problem(Problem::Internal),
        }
    }
}

/// Which object of a class.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which<'a> {
    /// That of this name.
    Name(&'a str),
    /// That of this id, which has this name if it is known.
    Id(ObjectId, Option<&'a str>),
}

impl<'a> std::convert::From<&'a str> for Which<'a> {
    fn from(name: &'a str) -> Self {
        Self::Name(name)
    }
}

/// Whose message it is.
pub(super) struct From<'a> {
    /// The client whose request it is, or led to it.
    pub(super) client: IpAddr,
    /// The number of that request.
    pub(super) number: u64,
    /// Who waits for the reply.
    pub(super) chain: &'a Chain<ObjectKey>,
    /// Whether the client wants to be told how it was served.
    pub(super) debug: bool,
}

/// Which object it is, for its guest.
fn tell_object(headers: &mut HeaderMap, id: &str, name: Option<&str>) {
    let name = name.map(|name| ("berth-object-name", name));
    for (field, text) in iter::once(("berth-object-id", id)).chain(name) {
        // A name that no field can hold is in the path.
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(field, value);
        }
    }
}

fn body_problem(error: &BodyError) -> Problem {
    match error {
        BodyError::TooLarge => Problem::BodyTooLarge,
        BodyError::TimedOut => Problem::RequestTimeout,
        BodyError::Malformed | BodyError::Gone => Problem::BadRequest,
    }
}
