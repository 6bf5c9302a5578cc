//! `berth zones`, `berth scripts`, `berth routes`: what a node has, shown, taken away and rolled back.

use serde_json::{Value, json};

use crate::Failure;
use crate::admin_client::Admin;
use crate::output::show as say;
use crate::project::parse_name;
use crate::table::{cell, entries, table};

/// What can be done with zones.
#[derive(clap::Subcommand)]
pub(crate) enum Zones {
    /// All zones of the node.
    List(List),
    /// One zone: its document and the versions that are kept. Secrets are not shown.
    Show(ShowZone),
    /// Take a zone away. Its scripts stay.
    Remove {
        /// The zone.
        #[arg(value_parser = parse_name)]
        name: String,
        #[command(flatten)]
        admin: Admin,
    },
    /// Bring an older version of a zone back.
    Rollback {
        /// The zone.
        #[arg(value_parser = parse_name)]
        name: String,
        /// The version to bring back; the one before without it.
        #[arg(long, value_name = "VERSION")]
        to: Option<u64>,
        #[command(flatten)]
        admin: Admin,
    },
}

/// What can be done with scripts.
#[derive(clap::Subcommand)]
pub(crate) enum Scripts {
    /// All scripts of the node.
    List(List),
    /// One script, and who uses it.
    Show(ShowScript),
    /// Take a script away that no zone uses.
    Remove {
        /// The id, or as much of its beginning as no other has.
        #[arg(value_parser = parse_id)]
        id: String,
        #[command(flatten)]
        admin: Admin,
    },
}

/// What can be done with routes.
#[derive(clap::Subcommand)]
pub(crate) enum Routes {
    /// All routes of the node.
    List(List),
}

/// The flags of all lists.
#[derive(clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    admin: Admin,
    /// Print the answer of the node as it came.
    #[arg(long)]
    json: bool,
}

/// The flags of `berth zones show`.
#[derive(clap::Args)]
pub(crate) struct ShowZone {
    /// The zone.
    #[arg(value_parser = parse_name)]
    name: String,
    #[command(flatten)]
    of: List,
}

/// The flags of `berth scripts show`.
#[derive(clap::Args)]
pub(crate) struct ShowScript {
    /// The id, or as much of its beginning as no other has.
    #[arg(value_parser = parse_id)]
    id: String,
    #[command(flatten)]
    of: List,
}

/// Runs a command about zones.
pub(crate) fn zones(command: &Zones) -> Result<(), Failure> {
    match command {
        Zones::List(list) => show(list, "/v1/zones", render_zones),
        Zones::Show(ShowZone { name, of }) => show(of, &format!("/v1/zones/{name}"), render_zone),
        Zones::Remove { name, admin } => {
            admin.delete(&format!("/v1/zones/{name}"))?;
            say(&format!("zone {name} removed"))
        }
        Zones::Rollback { name, to, admin } => {
            let version = to.map_or_else(|| json!({}), |version| json!({"version": version}));
            let answer = admin.post(&format!("/v1/zones/{name}/rollback"), &version)?;
            say(&format!("zone {name} version {}", answer["version"]))
        }
    }
}

/// Runs a command about scripts.
pub(crate) fn scripts(command: &Scripts) -> Result<(), Failure> {
    match command {
        Scripts::List(list) => show(list, "/v1/scripts", render_scripts),
        Scripts::Show(ShowScript { id, of }) => {
            let script = find_script(&of.admin, id)?;
            match of.json {
                true => say(&script.to_string()),
                false => say(&render_scripts(&json!({"scripts": [script]}))),
            }
        }
        Scripts::Remove { id, admin } => {
            let id = cell(&find_script(admin, id)?["id"]);
            admin.delete(&format!("/v1/scripts/{id}"))?;
            say(&format!("script {id} removed"))
        }
    }
}

/// Runs a command about routes.
pub(crate) fn routes(command: &Routes) -> Result<(), Failure> {
    let Routes::List(list) = command;
    show(list, "/v1/routes", render_routes)
}

fn show(list: &List, path: &str, render: impl Fn(&Value) -> String) -> Result<(), Failure> {
    match list.json {
        true => say(&list.admin.get(path)?),
        false => say(&render(&list.admin.read(path)?)),
    }
}

/// The one script whose id begins so.
fn find_script(admin: &Admin, id: &str) -> Result<Value, Failure> {
    let answer = admin.read("/v1/scripts")?;
    let mut found = entries(&answer, "scripts").filter(|script| cell(&script["id"]).starts_with(id));
    match (found.next(), found.next()) {
        (Some(script), None) => Ok(script.clone()),
        (None, _) => Err(format!("no script's id begins with {id}; `berth scripts list` shows them").into()),
        (Some(_), Some(_)) => {
            Err(format!("more than one script's id begins with {id}; write more of it").into())
        }
    }
}

fn parse_id(text: &str) -> Result<String, String> {
    if (1..=64).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(text.to_owned());
    }
    Err("an id has 64 digits of 0-9 and a-f; its beginning is enough".to_owned())
}

fn render_zones(answer: &Value) -> String {
    let row = |zone: &Value| ["name", "version", "workers", "hosts"].map(|name| cell(&zone[name]));
    table(["ZONE", "VERSION", "WORKERS", "HOSTS"], &entries(answer, "zones").map(row).collect::<Vec<_>>())
}

fn render_zone(zone: &Value) -> String {
    let document = &zone["document"];
    let mut out = format!("zone {} version {}\n", cell(&zone["name"]), zone["version"]);
    out += &format!("tenant {}\nhosts {}\n", cell(&document["tenant"]), cell(&document["hosts"]));
    if let Some(origin) = document["origin"].as_str() {
        out += &format!("origin {}\n", cell(&origin.into()));
    }
    let of_kind = |kind, key: &str| {
        let tables = document[key].as_object().into_iter().flatten();
        tables.map(move |(name, code)| (kind, name, code))
    };
    for (kind, name, code) in of_kind("worker", "workers").chain(of_kind("class", "objects")) {
        out += &format!("{kind} {name} {}\n", cell(&code["script"]));
        for (what, value) in code.as_object().into_iter().flatten() {
            let value = settings(value);
            if what != "script" && !value.is_empty() {
                out += &format!("  {what} {value}\n");
            }
        }
    }
    let row = |version: &Value| ["version", "deployed_s"].map(|name| cell(&version[name]));
    out + &table(["VERSION", "DEPLOYED (unix)"], &entries(zone, "versions").map(row).collect::<Vec<_>>())
}

/// A table of a worker on one line. Secrets have no values here.
fn settings(value: &Value) -> String {
    let Some(table) = value.as_object() else { return cell(value) };
    let setting = |(name, value): (&String, &Value)| match value {
        Value::Null => name.clone(),
        value => format!("{name}={}", cell(value)),
    };
    table.iter().map(setting).collect::<Vec<_>>().join(" ")
}

fn render_scripts(answer: &Value) -> String {
    let row = |script: &Value| ["id", "bytes", "loaded", "zones"].map(|name| cell(&script[name]));
    table(["SCRIPT", "BYTES", "LOADED", "ZONES"], &entries(answer, "scripts").map(row).collect::<Vec<_>>())
}

/// A route without a worker goes to the zone's origin.
fn render_routes(answer: &Value) -> String {
    let row = |route: &Value| {
        let worker = if route["worker"].is_null() { "(origin)".to_owned() } else { cell(&route["worker"]) };
        [cell(&route["host"]), cell(&route["path"]), cell(&route["zone"]), worker]
    };
    table(["HOST", "PATH", "ZONE", "WORKER"], &entries(answer, "routes").map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_fits_a_screen_and_keeps_its_secrets() {
        let zone = json!({
            "name": "shop", "version": 2, "versions": [{"version": 1, "deployed_s": 5}, {"version": 2, "deployed_s": 9}],
            "document": {"tenant": "default", "hosts": ["a", "*.b"], "origin": "http://o", "workers": {"front": {
                "script": "abc", "routes": ["/", "/x/*"], "env": {"K": "V"}, "secrets": {"S": null}, "limits": {},
            }}, "objects": {"Cart": {"script": "def", "routes": [], "hosts": [":name.b"], "env": {}}}},
        });
        let text = render_zone(&zone);
        let begin = "zone shop version 2\ntenant default\nhosts a, *.b\norigin http://o\nworker front abc\n";
        assert!(text.starts_with(begin), "{text}");
        assert!(text.contains("  routes /, /x/*\n") && text.contains("  env K=V\n"), "{text}");
        assert!(text.contains("  secrets S\n") && !text.contains("limits"), "{text}");
        assert!(text.contains("class Cart def\n  hosts :name.b\nVERSION"), "{text}");
        assert!(text.ends_with("1        5\n2        9\n"), "{text}");
    }

    #[test]
    fn lists_have_a_row_for_each() {
        let zones = json!({"zones": [{"name": "shop", "version": 2, "hosts": ["a", "b"], "workers": 1}]});
        assert_eq!(render_zones(&zones).lines().nth(1), Some("shop  2        1        a, b"));
        let routes = json!({"routes": [{"host": "a", "path": "/*", "zone": "shop", "worker": null}]});
        assert!(render_routes(&routes).ends_with("a     /*    shop  (origin)\n"));
        let scripts = json!({"scripts": [{"id": "ab", "bytes": 5, "loaded": true, "zones": ["shop"]}]});
        assert!(render_scripts(&scripts).ends_with("ab      5      true    shop\n"));
    }

    #[test]
    fn an_id_is_hexadecimal() {
        assert!(parse_id("0af").is_ok());
        assert!(["", "../zones", "AF", &"a".repeat(65)].iter().all(|text| parse_id(text).is_err()));
    }
}
