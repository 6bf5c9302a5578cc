//! `berth deploy`: uploads the components of a project, then replaces its zone in one step.
//!
//! Scripts are named by their bytes, so that uploading one again changes nothing. Only the last request, which puts the
//! zone, makes anything visible; when it is refused, the version that was there goes on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::Failure;
use crate::admin_client::Admin;
use crate::build::{build, no_component};
use crate::output::show;
use crate::progress::Progress;
use crate::project::{Owner, Project, Scripts};
use crate::table::{cell, entries};

/// The flags of `berth deploy`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A folder with `berth.toml`, or a component.
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Take the components as they are.
    #[arg(long)]
    no_build: bool,
    #[command(flatten)]
    admin: Admin,
    /// Print what is there now as JSON: project, zone, version, scripts by worker and by class, URLs.
    #[arg(long)]
    json: bool,
}

/// What is in place after a deployment.
pub(crate) struct Deployed {
    /// The name of the zone.
    pub(crate) zone: String,
    /// Its version, as the node counts.
    pub(crate) version: u64,
    /// Their ids.
    pub(crate) scripts: Scripts,
}

/// Builds, uploads, deploys, and shows what is there now.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let project = Project::open(&arguments.path)?;
    let mut progress = Progress::on_terminal();
    if !arguments.no_build && project.build.command.is_some() {
        progress.phase("building", &project.name);
        progress.keep();
        build(&project)?;
    }
    let deployed = deploy(&project, &arguments.admin, &mut progress)?;
    drop(progress);
    // The zone is in place, whether or not its addresses can be told.
    let urls = match arguments.admin.read("/v1/status") {
        Ok(status) => urls(&project.hosts, &status),
        Err(failure) => {
            eprintln!("berth: the zone is deployed, but its URLs are not known: {failure}");
            Vec::new()
        }
    };
    show(&match arguments.json {
        true => render_json(&project.name, &deployed, &urls).to_string(),
        false => render(&deployed, &urls),
    })
}

fn render(deployed: &Deployed, urls: &[String]) -> String {
    let scripts = deployed.scripts.iter().map(|(owner, script)| format!("script {script}  {owner}\n"));
    let zone = format!("zone {} version {}\n", deployed.zone, deployed.version);
    scripts.chain([zone]).chain(urls.iter().map(|url| format!("{url}\n"))).collect()
}

/// For scripts of others: the names stay.
fn render_json(project: &str, deployed: &Deployed, urls: &[String]) -> Value {
    let (mut workers, mut classes) = (BTreeMap::new(), BTreeMap::new());
    for (owner, script) in &deployed.scripts {
        let scripts = match owner {
            Owner::Worker(_) => &mut workers,
            Owner::Class(_) => &mut classes,
        };
        scripts.insert(owner.name(), script);
    }
    json!({
        "project": project,
        "zone": deployed.zone,
        "version": deployed.version,
        "scripts": workers,
        "objects": classes,
        "urls": urls,
    })
}

/// Uploads and deploys.
pub(crate) fn deploy(project: &Project, admin: &Admin, progress: &mut Progress) -> Result<Deployed, Failure> {
    let secrets = project.secrets(|name| std::env::var(name).ok())?;
    let mut scripts = Scripts::new();
    let mut by_file: BTreeMap<PathBuf, String> = BTreeMap::new();
    for (owner, code) in project.codes() {
        let file = project.folder.join(&code.component);
        let id = match by_file.get(&file) {
            Some(id) => id.clone(),
            None => upload(&owner, &file, admin, progress)?,
        };
        by_file.insert(file, id.clone());
        scripts.insert(owner, id);
    }
    progress.phase("deploying", &project.name);
    let answer = admin
        .put(&format!("/v1/zones/{}", project.name), &project.zone(&scripts, &secrets))
        .map_err(|failure| format!("zone {}: {failure}", project.name))?;
    let version = answer["version"].as_u64().ok_or("the node's answer to the zone has no version")?;
    Ok(Deployed { zone: project.name.clone(), version, scripts })
}

/// Uploads a component, and gives its id.
fn upload(owner: &Owner, file: &Path, admin: &Admin, progress: &mut Progress) -> Result<String, Failure> {
    let component = std::fs::read(file).map_err(|error| no_component(owner, file, &error))?;
    let all = component.len() as u64;
    let sent = |sent| match sent < all {
        true => progress.bytes("uploading", owner.name(), sent, all),
        // All that is left is the node's work, and it takes the longest.
        false => progress.phase("the node compiles", owner.name()),
    };
    let answer = admin
        .upload("/v1/scripts", &component, sent)
        .map_err(|failure| format!("{} {}: {}: {failure}", owner.kind(), owner.name(), file.display()))?;
    Ok(answer["id"].as_str().ok_or("the node's answer to the script has no id")?.to_owned())
}

/// Where the hosts of a zone are served, as far as that is known: hosts with a suffix have no single name.
pub(crate) fn urls(hosts: &[String], status: &Value) -> Vec<String> {
    let mut urls = Vec::new();
    for listener in entries(status, "listeners") {
        let (protocol, address) = (cell(&listener["protocol"]), cell(&listener["address"]));
        let port = address.rsplit(':').next().unwrap_or_default();
        let usual = matches!((protocol.as_str(), port), ("http", "80") | ("https", "443"));
        for host in hosts {
            match host.as_str() {
                "*" => urls.push(format!("{protocol}://{address}/")),
                suffix if suffix.starts_with("*.") => {}
                host if usual => urls.push(format!("{protocol}://{host}/")),
                host => urls.push(format!("{protocol}://{host}:{port}/")),
            }
        }
    }
    urls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_now_is_lines_or_json() {
        let [front, counter] = [Owner::Worker("front".to_owned()), Owner::Class("Counter".to_owned())];
        let scripts = Scripts::from([(front, "0a".to_owned()), (counter, "0b".to_owned())]);
        let deployed = Deployed { zone: "shop".to_owned(), version: 3, scripts };
        let urls = ["http://shop.localhost:8080/".to_owned()];
        let text = "script 0a  front\nscript 0b  objects.Counter\nzone shop version 3\nhttp://shop.localhost:8080/\n";
        assert_eq!(render(&deployed, &urls), text);
        let json = serde_json::json!({
            "project": "shop", "zone": "shop", "version": 3, "scripts": {"front": "0a"},
            "objects": {"Counter": "0b"}, "urls": urls,
        });
        assert_eq!(render_json("shop", &deployed, &urls), json);
    }

    #[test]
    fn urls_are_hosts_at_listeners() {
        let status = serde_json::json!({"listeners": [
            {"protocol": "http", "address": "127.0.0.1:8080"}, {"protocol": "https", "address": "[::]:443"},
        ]});
        let hosts = ["a.localhost", "*", "*.b.example"].map(str::to_owned);
        let expected = [
            "http://a.localhost:8080/",
            "http://127.0.0.1:8080/",
            "https://a.localhost/",
            "https://[::]:443/",
        ];
        assert_eq!(urls(&hosts, &status), expected);
    }
}
