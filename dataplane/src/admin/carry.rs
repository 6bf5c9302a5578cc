//! Objects as files, and snapshots of all of them. What waits for an object or a disk does so beside the admin thread.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use berth_protocol::link::with_causes;
use berth_protocol::record::PAYLOAD_MAX;
use berth_store::ExportError;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use super::deployments::{apart_in, collect, place};
use super::objects::parse_id;
use super::query_value;
use super::refusal::{Outcome, Refusal, json};
use crate::http::body::{Body, BodyError, Handed, RequestBody};
use crate::http::message::Reply;
use crate::objects::{self, BackupError, NotDone, NotExported, NotImported};
use crate::workers::Workers;

/// Bytes of the file of one object: what one record holds, and what a file has around it.
pub const FILE_MAX: usize = PAYLOAD_MAX + (1 << 20);
/// Bytes of a piece of a file on its way, and how many pieces wait for the client.
const PIECE_BYTES: usize = 256 << 10;
const PIECES: usize = 4;

impl From<NotExported> for Refusal {
    fn from(error: NotExported) -> Self {
        match &error {
            NotExported::Unknown(_) => Self::unknown(&error),
            NotExported::Export(ExportError::Damaged { .. }) => {
                Self::new(StatusCode::CONFLICT, "object-damaged", "The object is damaged", &error)
            }
            NotExported::Read(_) | NotExported::Export(_) => Self::internal(&with_causes(&error)),
        }
    }
}

impl From<NotImported> for Refusal {
    fn from(error: NotImported) -> Self {
        let refused =
            |status| Self::new(status, "import-refused", "The object is not imported", &with_causes(&error));
        match &error {
            NotImported::File(ExportError::Effects(_)) | NotImported::Quota { .. } => {
                refused(StatusCode::PAYLOAD_TOO_LARGE)
            }
            NotImported::File(_) | NotImported::Contents(_) => refused(StatusCode::BAD_REQUEST),
            NotImported::NoClass { .. } => refused(StatusCode::NOT_FOUND),
            NotImported::Exists(_) | NotImported::Held(NotDone::Refused(_)) => refused(StatusCode::CONFLICT),
            NotImported::Refused(berth_store::Refused::Busy) | NotImported::Closed => {
                Self::overload(&with_causes(&error))
            }
            NotImported::Held(_)
            | NotImported::Read(_)
            | NotImported::Refused(_)
            | NotImported::Commit(_) => Self::internal(&with_causes(&error)),
        }
    }
}

impl From<BackupError> for Refusal {
    fn from(error: BackupError) -> Self {
        let detail = with_causes(&error);
        let refused = |status| Self::new(status, "snapshot-refused", "There is no snapshot", &detail);
        match &error {
            error if error.is_full() => refused(StatusCode::INSUFFICIENT_STORAGE),
            BackupError::Closed
            | BackupError::Busy
            | BackupError::InUse { .. }
            | BackupError::Folder { .. }
            | BackupError::Store(berth_store::SnapshotError::Foreign) => refused(StatusCode::CONFLICT),
            _ => Self::internal(&detail),
        }
    }
}

/// The file of one object.
pub(super) async fn export(workers: Arc<Workers>, id: String) -> Outcome {
    let place = place()?;
    let (begun, begins) = oneshot::channel();
    let (to, pieces) = mpsc::channel(PIECES);
    let work = move || {
        let _place = place;
        let mut out = BufWriter::with_capacity(PIECE_BYTES, Pieces { begun: Some(begun), to });
        let written = write(&workers, &id, &mut out);
        let written = written.and_then(|()| out.flush().map_err(|error| Refusal::internal(&error)));
        // What is in it is not for the client if this is not the end.
        let (mut out, _) = out.into_parts();
        match (written, out.begun.take()) {
            (Ok(()), _) => {}
            (Err(refusal), Some(begun)) => drop(begun.send(Err(refusal))),
            // The client learns by a body that breaks off, and its file is not whole.
            (Err(_), None) => drop(out.to.blocking_send(Err(BodyError::Gone))),
        }
    };
    let spawned = std::thread::Builder::new().name("export".into()).spawn(work);
    spawned.map_err(|error| Refusal::internal(&error))?;
    begins.await.map_err(|_| Refusal::internal(&"the work ended early"))??;
    let mut reply = Reply::new(StatusCode::OK, "");
    reply.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    reply.body = Body::stream(Handed(pieces));
    Ok(reply)
}

fn write(workers: &Workers, id: &str, out: &mut dyn Write) -> Result<(), Refusal> {
    let id = parse_id(id)?;
    let exported = workers.objects().export(&workers.zones.hosts(), id, out);
    // Who has the beginning of the file already is told nothing else.
    exported.inspect_err(
        |error| tracing::warn!(object = %id, error = with_causes(error), "object.export: failed"),
    )?;
    tracing::info!(object = %id, "object.exported");
    Ok(())
}

/// Where the pieces of a file go.
struct Pieces {
    /// Told with the first piece: until then the answer may still be another.
    begun: Option<oneshot::Sender<Result<(), Refusal>>>,
    to: mpsc::Sender<Result<Bytes, BodyError>>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(begun) = self.begun.take() {
            let _ = begun.send(Ok(()));
        }
        let sent = self.to.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An object from its file.
pub(super) async fn import(workers: Arc<Workers>, query: Vec<u8>, body: RequestBody) -> Outcome {
    let replace = match query_value(&query, "replace").as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            return Err(Refusal::bad_request(&format!("replace={other}: write true or false")));
        }
    };
    // Before the file comes: files are large.
    let place = place()?;
    let file = collect(body, FILE_MAX).await?;
    let work = move || {
        let import = objects::read(&file)?;
        drop(file);
        let imported = workers.objects().import(&workers.zones.hosts(), import, replace)?;
        tracing::info!(?imported, "object.imported");
        let mut reply = json(&imported)?;
        reply.status = StatusCode::CREATED;
        Ok(reply)
    };
    apart_in(place, work).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Snapshot {
    folder: PathBuf,
}

/// A snapshot of all objects.
pub(super) fn snapshot(workers: &Workers, body: &[u8]) -> Outcome {
    let wrong = |error| format!("where it should go: {error}; write {{\"folder\": \"/a/folder\"}}");
    let wish: Snapshot = serde_json::from_slice(body).map_err(|error| Refusal::bad_request(&wrong(error)))?;
    if !wish.folder.is_absolute() {
        let detail = "the folder is one of the machine of the node: write its whole path, from / on";
        return Err(Refusal::bad_request(&detail));
    }
    let backup = workers.objects().snapshot(&wish.folder)?;
    tracing::info!(?backup, "objects.snapshot");
    json(&backup)
}
