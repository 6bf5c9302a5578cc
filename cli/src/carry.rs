//! `berth objects export`, `import`, `snapshot` and `restore`: objects as files, one by one or all of a node.
//!
//! A file that is written counts when it has its name: until then it has another, and is gone if anything fails.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use berth_dataplane::admin::FILE_MAX;
use serde_json::{Value, json};

use crate::admin_client::Admin;
use crate::objects::parse_id;
use crate::output::{show, size};
use crate::table::cell;
use crate::{Failure, with_causes};

/// Standard input or output.
const STANDARD: &str = "-";

/// The flags of `berth objects export`.
#[derive(clap::Args)]
pub(crate) struct Export {
    /// The id.
    #[arg(value_parser = parse_id)]
    id: String,
    /// The file; - is standard output. Without it, `ID.object` in the current folder.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    admin: Admin,
    /// Print what was written as JSON.
    #[arg(long)]
    json: bool,
}

/// The flags of `berth objects import`.
#[derive(clap::Args)]
pub(crate) struct Import {
    /// The file; - is standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Put it in the place of the object that is here already. What that one stores is gone.
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    admin: Admin,
    /// Print the answer of the node as it came.
    #[arg(long)]
    json: bool,
}

/// The flags of `berth objects snapshot`.
#[derive(clap::Args)]
pub(crate) struct Snapshot {
    /// The folder. It is made if it is not there, and may have older snapshots of the same node.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    admin: Admin,
    /// Print the answer of the node as it came.
    #[arg(long)]
    json: bool,
}

/// The flags of `berth objects restore`.
#[derive(clap::Args)]
pub(crate) struct Restore {
    /// The folder of the snapshot.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The node's folder of state (`node.state`). It must have no objects yet, and no node that runs.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Which snapshot of the folder; the newest one without it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    number: Option<u64>,
    /// Print what was restored as JSON.
    #[arg(long)]
    json: bool,
}

/// Writes an object into a file.
pub(crate) fn export(command: &Export) -> Result<(), Failure> {
    let Export { id, output, admin, json } = command;
    let path = format!("/v1/objects/{id}/export");
    let file = output.clone().unwrap_or_else(|| format!("{id}.object").into());
    if file == Path::new(STANDARD) {
        let mut out = io::stdout().lock();
        admin.fetch_file(&path, &mut out)?;
        return Ok(out.flush()?);
    }
    let bytes = write_whole(&file, |out| admin.fetch_file(&path, out))?;
    match json {
        true => show(&json!({"id": id, "file": file, "bytes": bytes}).to_string()),
        false => show(&format!("object {id} is in {}: {}", file.display(), size(bytes))),
    }
}

/// Writes a file under another name, and gives it its own when it is whole and durable.
fn write_whole(
    file: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<u64, Failure>,
) -> Result<u64, Failure> {
    let name = file.file_name().ok_or_else(|| format!("{}: this is no name of a file", file.display()))?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unfinished = folder.join(format!(".{}.{}.unfinished", name.to_string_lossy(), std::process::id()));
    let failed = |error: io::Error| -> Failure { format!("{}: {error}", file.display()).into() };
    let mut out =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished).map_err(failed)?;
    let written = write(&mut out)
        .and_then(|bytes| out.sync_all().map(|()| bytes).map_err(failed))
        .and_then(|bytes| fs::rename(&unfinished, file).map(|()| bytes).map_err(failed));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    let bytes = written?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    Ok(bytes)
}

/// Makes an object of a file.
pub(crate) fn import(command: &Import) -> Result<(), Failure> {
    let Import { file, replace, admin, json } = command;
    let bytes = match file == Path::new(STANDARD) {
        true => read_bounded(io::stdin().lock()),
        false => File::open(file).and_then(read_bounded),
    };
    let bytes = bytes.map_err(|error| format!("{}: {error}", file.display()))?;
    let query = if *replace { "?replace=true" } else { "" };
    let answer = admin.send_file(&format!("/v1/objects{query}"), &bytes)?;
    match json {
        true => show(&answer.to_string()),
        false => show(&render_import(&answer)),
    }
}

/// What has no end is not sent anywhere.
fn read_bounded(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(FILE_MAX as u64 + 1).read_to_end(&mut bytes)?;
    match bytes.len() > FILE_MAX {
        true => Err(io::Error::other(format!("more than {}, which no node takes", size(FILE_MAX as u64)))),
        false => Ok(bytes),
    }
}

fn render_import(answer: &Value) -> String {
    let field = |name: &str| cell(&answer[name]);
    let name = if answer["name"].is_null() { String::new() } else { format!(", name {}", field("name")) };
    let replaced = if answer["replaced"] == true { ", in the place of what was there" } else { "" };
    let stored = size(answer["bytes"].as_u64().unwrap_or(0));
    format!(
        "object {} is here{replaced}: zone {}, class {}{name}, {stored}, keys {}\n",
        field("id"),
        field("zone"),
        field("class"),
        field("keys")
    )
}

/// Has the node write a snapshot.
pub(crate) fn snapshot(command: &Snapshot) -> Result<(), Failure> {
    let Snapshot { folder, admin, json } = command;
    // The node is somewhere else in the tree of folders.
    let folder = std::path::absolute(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let text = folder.to_str().ok_or_else(|| format!("{}: this is no text", folder.display()))?;
    let answer = admin.post_long("/v1/objects/snapshot", &json!({"folder": text}))?;
    match json {
        true => show(&answer.to_string()),
        false => show(&format!(
            "snapshot {} of all objects is in {}: {}",
            cell(&answer["number"]),
            cell(&answer["folder"]),
            size(answer["bytes"].as_u64().unwrap_or(0))
        )),
    }
}

/// Makes a node's objects of a snapshot.
pub(crate) fn restore(command: &Restore) -> Result<(), Failure> {
    let Restore { folder, state, number, json } = command;
    let backup = berth_dataplane::restore(folder, *number, state).map_err(with_causes)?;
    match json {
        true => show(
            &json!({"folder": backup.folder, "number": backup.number, "bytes": backup.bytes, "state": state})
                .to_string(),
        ),
        false => show(&format!(
            "snapshot {} of {} is in {} now: {}",
            backup.number,
            folder.display(),
            state.display(),
            size(backup.bytes)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_wholly_or_as_it_was() {
        let folder = std::env::temp_dir().join(format!("berth-carry-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("a.object");
        let write = |bytes: &'static [u8]| {
            move |out: &mut dyn Write| {
                out.write_all(bytes)?;
                Ok(bytes.len() as u64)
            }
        };
        assert_eq!(write_whole(&file, write(b"one")).unwrap(), 3);
        let failed = write_whole(&file, |out| {
            out.write_all(b"half")?;
            Err("it breaks off".into())
        });
        assert_eq!(failed.unwrap_err().to_string(), "it breaks off");
        assert_eq!(fs::read(&file).unwrap(), b"one");
        assert_eq!(write_whole(&file, write(b"another")).unwrap(), 7);
        assert_eq!(fs::read(&file).unwrap(), b"another");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left");
        assert!(write_whole(&folder.join(".."), write(b"")).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_file_that_no_node_takes_is_not_sent() {
        assert!(read_bounded(io::repeat(0)).is_err());
        assert_eq!(read_bounded(&b"small"[..]).unwrap(), b"small");
    }

    #[test]
    fn what_was_imported_is_told() {
        let mut answer = json!({
            "id": "1000aa", "zone": "shop", "class": "Cart", "name": "ada", "bytes": 1536, "keys": 5, "epoch": 3,
            "replaced": true,
        });
        assert_eq!(
            render_import(&answer),
            "object 1000aa is here, in the place of what was there: zone shop, class Cart, name ada, 1.5 KiB, keys 5\n"
        );
        (answer["name"], answer["replaced"]) = (Value::Null, false.into());
        let text = render_import(&answer);
        assert_eq!(text, "object 1000aa is here: zone shop, class Cart, 1.5 KiB, keys 5\n");
    }
}
