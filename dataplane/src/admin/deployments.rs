//! `/v1/scripts`, `/v1/zones`, `/v1/routes`, `/v1/tail`: what is deployed, and what its guests say. The door to `objects` as well.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use berth_isolate_host::compile::{Budget, CompileError};
use berth_isolate_host::library::ScriptId;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use tokio::sync::{broadcast, oneshot};

use super::refusal::{Outcome, Refusal, json};
use super::{carry, nothing, objects, query_value};
use crate::http::body::{self, Body, BodyError, Collect, Handed, RequestBody};
use crate::http::message::Reply;
use crate::workers::{GuestLine, UploadError, Workers};
use crate::zones::{DeployError, Document};

/// Uploads, deployments and the like that are worked on at a time; each may wait for a compiler.
const AT_A_TIME: usize = 4;
/// Bytes of a zone's document.
const DOCUMENT_MAX: usize = 1 << 20;

/// What is asked of deployments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deployments {
    Scripts,
    Upload,
    RemoveScript,
    Zones,
    Zone,
    Deploy,
    RemoveZone,
    RollBack,
    Routes,
    Tail,
    Objects,
    Object,
    MoveObject,
    EvictObject,
    ExportObject,
    ImportObject,
    Snapshot,
}

/// It, with what it is asked about.
pub(super) struct Question {
    pub(super) what: Deployments,
    /// The zone, script or object that the path names; empty if it names none.
    pub(super) name: String,
    /// What is said behind the path.
    pub(super) query: Vec<u8>,
    pub(super) body: RequestBody,
}

impl From<DeployError> for Refusal {
    fn from(error: DeployError) -> Self {
        match error {
            DeployError::Wrong(_) => {
                Self::new(StatusCode::BAD_REQUEST, "zone-refused", "The zone is not right", &error)
            }
            DeployError::Unknown(_) => Self::unknown(&error),
            DeployError::Store(_) | DeployError::Objects(_) => Self::internal(&error),
        }
    }
}

impl From<UploadError> for Refusal {
    fn from(error: UploadError) -> Self {
        let refused = |status| Self::new(status, "script-refused", "The component is not taken", &error);
        match &error {
            UploadError::Compile(CompileError::Refused(_) | CompileError::Budget(_)) => {
                refused(StatusCode::BAD_REQUEST)
            }
            UploadError::Compile(CompileError::TooLarge { .. }) => refused(StatusCode::PAYLOAD_TOO_LARGE),
            UploadError::Compile(CompileError::System(source)) => {
                Self::internal(&format!("{error}: {source}"))
            }
            UploadError::Workers(source) => Self::internal(&berth_protocol::link::with_causes(source)),
        }
    }
}

/// Answers. What waits for a disk or a compiler does so on a thread of its own.
pub(super) async fn answer(workers: Arc<Workers>, question: Question) -> Reply {
    let Question { what, name, query, body } = question;
    let outcome = match what {
        Deployments::Tail => return tail(&workers, query_value(&query, "zone")),
        Deployments::Zones => json(&serde_json::json!({ "zones": workers.zones.list() })),
        Deployments::Routes => json(&serde_json::json!({ "routes": workers.zones.routes() })),
        Deployments::Zone => match workers.zones.show(&name) {
            Some(zone) => json(&zone),
            None => Err(DeployError::no_zone(&name).into()),
        },
        Deployments::Scripts => apart(move || scripts(&workers)).await,
        Deployments::RemoveScript => apart(move || remove_script(&workers, &name)).await,
        Deployments::RemoveZone => apart(move || Ok(workers.remove(&name).map(|()| nothing())?)).await,
        Deployments::Upload => match collect(body, Budget::default().component_bytes as usize).await {
            Ok(component) => apart(move || upload(&workers, &component)).await,
            Err(refusal) => Err(refusal),
        },
        Deployments::Deploy => match collect(body, DOCUMENT_MAX).await {
            Ok(document) => apart(move || deploy(&workers, &name, &document)).await,
            Err(refusal) => Err(refusal),
        },
        Deployments::Objects => apart(move || objects::list(&workers, &query)).await,
        Deployments::Object => apart(move || objects::show(&workers, &name)).await,
        Deployments::EvictObject => apart(move || objects::evict(&workers, &name)).await,
        Deployments::MoveObject => match collect(body, DOCUMENT_MAX).await {
            Ok(body) => apart(move || objects::move_to(&workers, &name, &body)).await,
            Err(refusal) => Err(refusal),
        },
        Deployments::ExportObject => carry::export(workers, name).await,
        Deployments::ImportObject => carry::import(workers, query, body).await,
        Deployments::Snapshot => match collect(body, DOCUMENT_MAX).await {
            Ok(body) => apart(move || carry::snapshot(&workers, &body)).await,
            Err(refusal) => Err(refusal),
        },
        Deployments::RollBack => match collect(body, DOCUMENT_MAX).await {
            Ok(body) => apart(move || roll_back(&workers, &name, &body)).await,
            Err(refusal) => Err(refusal),
        },
    };
    outcome.unwrap_or_else(Refusal::reply)
}

/// A place beside the admin thread. Dropped, it is another's.
pub(super) struct Place(());

static RUNNING: AtomicUsize = AtomicUsize::new(0);

impl Drop for Place {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Relaxed);
    }
}

/// Takes a place, of which there are a few.
pub(super) fn place() -> Result<Place, Refusal> {
    let place = Place(());
    if RUNNING.fetch_add(1, Relaxed) >= AT_A_TIME {
        let detail = "the node works on other uploads and deployments; try again in a moment";
        return Err(Refusal::overload(&detail));
    }
    Ok(place)
}

/// Runs what blocks beside the admin thread.
async fn apart(work: impl FnOnce() -> Outcome + Send + 'static) -> Outcome {
    apart_in(place()?, work).await
}

/// Runs it in a place that was taken.
pub(super) async fn apart_in(place: Place, work: impl FnOnce() -> Outcome + Send + 'static) -> Outcome {
    // A reply is of one thread; what makes it is sent over instead.
    let (sender, receiver) = oneshot::channel();
    let spawned = std::thread::Builder::new().name("deployment".into()).spawn(move || {
        let _place = place;
        let parts = work().map(|reply| (reply.status, reply.headers, whole(reply.body)));
        let _ = sender.send(parts);
    });
    spawned.map_err(|error| Refusal::internal(&error))?;
    let (status, headers, body) =
        receiver.await.map_err(|_| Refusal::internal(&"the work ended early"))??;
    let mut reply = Reply::new(status, body);
    reply.headers = headers;
    Ok(reply)
}

fn whole(body: Body) -> Bytes {
    match body {
        Body::Full(bytes) => bytes,
        Body::Stream(_) => Bytes::new(),
    }
}

pub(super) async fn collect(body: RequestBody, most: usize) -> Result<Bytes, Refusal> {
    body::collect(body, most).await.map_err(|error| match error {
        Collect::TooLarge => {
            let detail = format!("at most {most} bytes are taken here");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "Body too large", &detail)
        }
        Collect::Failed(error) => {
            let status = match error {
                BodyError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                BodyError::TimedOut | BodyError::Malformed | BodyError::Gone => StatusCode::BAD_REQUEST,
            };
            Refusal::new(status, "body", "The body did not come", &error)
        }
    })
}

fn scripts(workers: &Workers) -> Outcome {
    let Some(library) = workers.opened_library() else { return json(&serde_json::json!({ "scripts": [] })) };
    let mut users = workers.zones.users();
    let scripts: Vec<serde_json::Value> = library
        .list()
        .map_err(|error| Refusal::internal(&error))?
        .into_iter()
        .map(|(id, bytes)| {
            let zones = users.remove(&id.to_string()).unwrap_or_default();
            serde_json::json!({"id": id.to_string(), "bytes": bytes, "loaded": library.is_loaded(id), "zones": zones})
        })
        .collect();
    json(&serde_json::json!({ "scripts": scripts }))
}

fn upload(workers: &Workers, component: &[u8]) -> Outcome {
    let id = workers.upload(component)?;
    tracing::info!(script = %id, bytes = component.len(), "script.uploaded");
    let mut reply = json(&serde_json::json!({"id": id.to_string(), "bytes": component.len()}))?;
    reply.status = StatusCode::CREATED;
    Ok(reply)
}

fn remove_script(workers: &Workers, text: &str) -> Outcome {
    let unknown = || {
        Refusal::unknown(&format!("there is no script {text}; `berth scripts list` shows those of this node"))
    };
    let id = ScriptId::parse(text).ok_or_else(unknown)?;
    let library = workers.opened_library().filter(|library| library.has(id)).ok_or_else(unknown)?;
    if let Some(zones) = workers.zones.users().get(&id.to_string()) {
        let zones = zones.join(", ");
        let detail = format!(
            "versions that are kept of these zones use it: {zones}; it can go when they have newer ones, or are gone"
        );
        return Err(Refusal::new(StatusCode::CONFLICT, "script-used", "The script is in use", &detail));
    }
    library.remove(id).map_err(|error| Refusal::internal(&error))?;
    Ok(nothing())
}

fn deploy(workers: &Workers, name: &str, document: &[u8]) -> Outcome {
    let document = Document::parse(document).map_err(DeployError::from)?;
    let version = workers.deploy(name, document)?;
    tracing::info!(zone = name, version, "zone.deployed");
    json(&serde_json::json!({"zone": name, "version": version}))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RollBack {
    #[serde(default)]
    version: Option<u64>,
}

fn roll_back(workers: &Workers, name: &str, body: &[u8]) -> Outcome {
    let wish: RollBack = if body.is_empty() {
        RollBack::default()
    } else {
        let wrong =
            |error| format!("the version to go back to: {error}; write {{\"version\": N}}, or nothing");
        serde_json::from_slice(body).map_err(|error| Refusal::bad_request(&wrong(error)))?
    };
    let version = workers.roll_back(name, wish.version)?;
    tracing::info!(zone = name, version, "zone.rolled_back");
    json(&serde_json::json!({"zone": name, "version": version}))
}

fn tail(workers: &Workers, zone: Option<String>) -> Reply {
    let mut reply = Reply::new(StatusCode::OK, "");
    reply.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    let (sender, lines) = tokio::sync::mpsc::channel(16);
    berth_runtime::spawn(follow(workers.follow(), zone, sender));
    reply.body = Body::stream(Handed(lines));
    reply
}

async fn follow(
    mut lines: broadcast::Receiver<Arc<GuestLine>>,
    zone: Option<String>,
    to: tokio::sync::mpsc::Sender<Result<Bytes, BodyError>>,
) {
    loop {
        let text = match lines.recv().await {
            Ok(line) if zone.as_ref().is_some_and(|zone| *zone != line.zone) => continue,
            Ok(line) => serde_json::to_string(&*line).unwrap_or_default(),
            Err(broadcast::error::RecvError::Lagged(missed)) => format!("{{\"missed\":{missed}}}"),
            Err(broadcast::error::RecvError::Closed) => return,
        };
        // A follower that went away is noticed when there is something to tell.
        if to.send(Ok(Bytes::from(text + "\n"))).await.is_err() {
            return;
        }
    }
}
