//! Requests to objects: the whole of a request becomes a letter, and whoever asked waits for its reply.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;

use berth_isolate_host::object::ObjectRequest;
use berth_isolate_host::{Outbound, pipe};
use berth_protocol::object::ObjectKey;
use berth_protocol::ownership;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};

use super::letter::Letter;
use crate::hops::HopFailed;
use crate::http::body::BodyError;
use crate::http::message::{Problem, Reply, Request, Security};
use crate::http::target::Host;
use crate::workers::{CoreWorkers, path, tell_guest};
use crate::zones::{Class, Zone};

/// Bytes of a request's body: an object has the whole of it in its memory before its turn begins.
const BODY_MAX: usize = 16 << 20;

impl CoreWorkers {
    /// Answers a client's request to an object.
    pub(crate) async fn ask_object(
        &self,
        zone: &Arc<Zone>,
        class: &Arc<Class>,
        name: &str,
        request: Request,
    ) -> Reply {
        if request.upgrade.is_some() {
            return Reply::problem(Problem::NotImplemented);
        }
        let scheme = if request.peer.security == Security::Tls { "https" } else { "http" };
        let authority = request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let authority = authority.or(request.host.as_ref().map(Host::as_str)).unwrap_or(&zone.name);
        let Some(path) = path(&request.target) else { return Reply::problem(Problem::BadRequest) };
        let url = format!("{scheme}://{authority}{path}");
        let body = match collect(request.body).await {
            Ok(body) => body,
            Err(Collect::TooLarge) => return Reply::problem(Problem::BodyTooLarge),
            Err(Collect::Failed(error)) => return Reply::problem(body_problem(&error)),
        };
        let client = request.peer.client.ip();
        let asked =
            ObjectRequest { method: request.method, url, headers: request.headers, body, upgrade: None };
        self.deliver(zone, class, name, asked, client, self.new_request()).await
    }

    /// Answers a guest's request to an object.
    pub(crate) async fn ask_object_of(
        &self,
        zone: &Arc<Zone>,
        class: &Arc<Class>,
        name: &str,
        request: Outbound,
        client: IpAddr,
        number: u64,
    ) -> Reply {
        let scheme = if request.https { "https" } else { "http" };
        let url = format!("{scheme}://{}{}", request.authority, request.path);
        let body = match request.body {
            None => Bytes::new(),
            Some(body) => match collect::<pipe::Reader>(body).await {
                Ok(body) => body,
                Err(Collect::TooLarge) => return Reply::problem(Problem::BodyTooLarge),
                Err(Collect::Failed(_)) => return Reply::problem(Problem::BadRequest),
            },
        };
        let asked =
            ObjectRequest { method: request.method, url, headers: request.headers, body, upgrade: None };
        self.deliver(zone, class, name, asked, client, number).await
    }

    async fn deliver(
        &self,
        zone: &Arc<Zone>,
        class: &Arc<Class>,
        name: &str,
        mut request: ObjectRequest,
        client: IpAddr,
        number: u64,
    ) -> Reply {
        let objects = &self.objects;
        let Some(id) = objects.node.id(&zone.name, &class.code.name, name) else {
            return Reply::problem(Problem::Overload);
        };
        let context = self.object_context(zone, class, client, number);
        tell_guest(&mut request.headers, &context);
        tell_object(&mut request.headers, &id.to_string(), name);
        let expected = objects.hops.expect();
        let letter = Letter {
            object: ObjectKey { scope: class.scope, id },
            zone: zone.name.as_str().into(),
            class: class.code.name.as_str().into(),
            name: Some(name.into()),
            asker: objects.here(),
            ticket: expected.ticket,
            request,
            client,
            number,
        };
        objects.post(ownership::Message { hops: 0, body: Box::new(letter) });
        match expected.reply().await {
            Ok(reply) => reply,
            Err(HopFailed::Full) => Reply::problem(Problem::Overload),
            Err(HopFailed::NoSuchCore | HopFailed::Garbled) => Reply::problem(Problem::Internal),
        }
    }
}

/// Which object it is, for its guest.
fn tell_object(headers: &mut HeaderMap, id: &str, name: &str) {
    for (field, text) in [("berth-object-id", id), ("berth-object-name", name)] {
        // A name that no field can hold is in the path.
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(field, value);
        }
    }
}

/// Why a body is not whole.
enum Collect<E> {
    TooLarge,
    Failed(E),
}

async fn collect<B: http_body::Body<Data = Bytes>>(body: B) -> Result<Bytes, Collect<B::Error>> {
    let mut body = pin!(body);
    let mut whole = BytesMut::new();
    let mut first = Bytes::new();
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let Ok(data) = frame.map_err(Collect::Failed)?.into_data() else { continue };
        if whole.len() + first.len() + data.len() > BODY_MAX {
            return Err(Collect::TooLarge);
        }
        // Most bodies are one piece, which is not copied.
        if whole.is_empty() && first.is_empty() {
            first = data;
        } else {
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&data);
        }
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

fn body_problem(error: &BodyError) -> Problem {
    match error {
        BodyError::TooLarge => Problem::BodyTooLarge,
        BodyError::TimedOut => Problem::RequestTimeout,
        BodyError::Malformed | BodyError::Gone => Problem::BadRequest,
    }
}
