//! `berth deploy`: uploads the components of a project, then replaces its zone in one step.
//!
//! Scripts are named by their bytes, so that uploading one again changes nothing. Only the last request, which puts the
//! zone, makes anything visible; when it is refused, the version that was there goes on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::Failure;
use crate::admin_client::Admin;
use crate::build::{build, no_component};
use crate::project::Project;
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
}

/// What is in place after a deployment.
pub(crate) struct Deployed {
    /// The name of the zone.
    pub(crate) zone: String,
    /// Its version, as the node counts.
    pub(crate) version: u64,
    /// Ids, by worker.
    pub(crate) scripts: BTreeMap<String, String>,
}

/// Builds, uploads, deploys, and shows what is there now.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let project = Project::open(&arguments.path)?;
    if !arguments.no_build {
        build(&project)?;
    }
    let deployed = deploy(&project, &arguments.admin)?;
    for (worker, script) in &deployed.scripts {
        println!("script {script}  {worker}");
    }
    println!("zone {} version {}", deployed.zone, deployed.version);
    // The zone is in place, whether or not its addresses can be told.
    let status: Value = serde_json::from_str(&arguments.admin.get("/v1/status")?)?;
    for url in urls(&project.hosts, &status) {
        println!("{url}");
    }
    Ok(())
}

/// Uploads and deploys.
pub(crate) fn deploy(project: &Project, admin: &Admin) -> Result<Deployed, Failure> {
    let secrets = project.secrets(|name| std::env::var(name).ok())?;
    let mut scripts = BTreeMap::new();
    let mut by_file: BTreeMap<PathBuf, String> = BTreeMap::new();
    for (name, worker) in &project.workers {
        let file = project.folder.join(&worker.component);
        let id = match by_file.get(&file) {
            Some(id) => id.clone(),
            None => {
                let component = std::fs::read(&file).map_err(|error| no_component(name, &file, &error))?;
                let answer = admin
                    .upload("/v1/scripts", &component)
                    .map_err(|failure| format!("worker {name}: {}: {failure}", file.display()))?;
                answer["id"].as_str().ok_or("the node's answer to the script has no id")?.to_owned()
            }
        };
        by_file.insert(file, id.clone());
        scripts.insert(name.clone(), id);
    }
    let answer = admin
        .put(&format!("/v1/zones/{}", project.name), &project.zone(&scripts, &secrets))
        .map_err(|failure| format!("zone {}: {failure}", project.name))?;
    let version = answer["version"].as_u64().ok_or("the node's answer to the zone has no version")?;
    Ok(Deployed { zone: project.name.clone(), version, scripts })
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
