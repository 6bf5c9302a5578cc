//! `berth dev`: a whole node in one process, with a self-made certificate. Given a project or a component, it deploys
//! that, and again after each change; without one it has a few routes to try.

mod deployer;
mod snapshot;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use berth_dataplane::config::Config;
use berth_dataplane::http::message::Security;
use berth_dataplane::node::Node;

use crate::admin_client::Admin;
use crate::project::Project;
use crate::{Failure, logging, with_causes};
use deployer::Deployer;

/// The flags of `berth dev`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A folder with `berth.toml`, or a component (.wasm): deployed now and after each change.
    path: Option<PathBuf>,
    /// HTTP/1.1 and h2c.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// HTTP/1.1 and HTTP/2 over TLS, with a self-made certificate.
    #[arg(long, default_value = "127.0.0.1:8443", value_name = "ADDRESS")]
    tls_listen: SocketAddr,
    /// The admin API.
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "ADDRESS")]
    admin: SocketAddr,
    /// Folder for what outlives a restart. Without it `.berth` beside the project, or `.berth-NAME` beside a component.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Cores to run; all CPUs of the cpuset without it.
    #[arg(long, value_name = "N")]
    cores: Option<u16>,
    /// No TLS listener.
    #[arg(long)]
    no_tls: bool,
}

/// What a fresh node answers, so that there is something to try.
const ROUTES: &str = r#"
[[routes]]
path = "/"
respond = { body = "hello from berth\n", headers = { content-type = "text/plain" } }
[[routes]]
path = "/echo"
echo = {}
[[routes]]
path = "/stream/1MiB"
stream = { bytes = "1MiB" }
[[routes]]
path = "/delay/100ms"
delay = { time = "100ms", body = "late\n" }
[[routes]]
path = "/ws"
websocket = {}
[[routes]]
path = "/on/0"
respond = { body = "answered by core 0\n" }
core = 0
"#;

/// Runs until Ctrl-C.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let project = arguments.path.as_deref().map(deployer::open).transpose()?;
    let text = configuration(arguments, project.as_ref())?;
    let config = Config::parse(&text).map_err(|mistakes| mistakes.to_string())?;
    logging::start(&config.log)?;
    let node = Node::prepare(config, None).map_err(with_causes)?;
    announce(&node, project.as_ref());
    let admin = Admin { url: format!("http://{}", node.view().admin) };
    // After `prepare`, which blocks the signals that only the node takes.
    let deployer = match (&arguments.path, project) {
        (Some(path), Some(project)) => Some(Deployer::start(path.clone(), project, admin)?),
        _ => None,
    };
    let ended = node.run().map_err(with_causes);
    if let Some(deployer) = deployer {
        deployer.stop();
    }
    ended
}

fn configuration(arguments: &Arguments, project: Option<&Project>) -> Result<String, Failure> {
    let state = arguments.state.clone().unwrap_or_else(|| state(arguments.path.as_deref(), project));
    let state = std::path::absolute(state)?;
    let quoted = |path: &Path| serde_json::to_string(&path.to_string_lossy());
    let cores = arguments.cores.map_or_else(|| "\"auto\"".to_owned(), |cores| cores.to_string());
    let mut text = format!("[node]\nstate = {}\ncores = {cores}\n", quoted(&state)?);
    text += &format!("[admin]\nlisten = \"{}\"\n[shutdown]\ndrain = \"2s\"\n", arguments.admin);
    text += "[debug]\nclients = [\"127.0.0.0/8\", \"::1/128\"]\n";
    text += &format!("[[listen]]\naddress = \"{}\"\nprotocol = \"http\"\n", arguments.listen);
    if !arguments.no_tls {
        text += &format!("[[listen]]\naddress = \"{}\"\nprotocol = \"https\"\n", arguments.tls_listen);
    }
    Ok(if project.is_none() { text + ROUTES } else { text })
}

/// The state folder when nobody names one. Each project has its own: every one of them takes all hosts here, and two of
/// them cannot.
fn state(path: Option<&Path>, project: Option<&Project>) -> PathBuf {
    match (path, project) {
        (Some(path), Some(project)) if path.extension().is_some_and(|extension| extension == "wasm") => {
            project.folder.join(format!(".berth-{}", project.name))
        }
        (_, Some(project)) => project.folder.join(".berth"),
        _ => PathBuf::from(".berth"),
    }
}

/// The URLs and ready-made lines to try them with.
fn announce(node: &Node, project: Option<&Project>) {
    let view = node.view();
    for bound in &view.listeners {
        let (scheme, flags) = match bound.security {
            Security::Plain => ("http", ""),
            Security::Tls => ("https", " --insecure"),
        };
        println!("{scheme}://{}", bound.address);
        println!("  curl{flags} {scheme}://{}/", bound.address);
        if project.is_none() {
            println!("  curl{flags} --data-binary hello {scheme}://{}/echo", bound.address);
        }
    }
    println!("admin http://{}\n  curl http://{}/metrics", view.admin, view.admin);
    println!("  berth status --admin http://{}", view.admin);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_project_has_its_own_state() {
        let folder = std::env::temp_dir().join(format!("berth-dev-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("berth.toml");
        std::fs::write(&file, "name = \"a\"\nzone = \"a.localhost\"\n[origin]\nurl = \"http://o\"\n")
            .unwrap();
        let project = deployer::open(&folder).unwrap();
        assert_eq!(project.hosts, ["a.localhost", "*"]);
        assert_eq!(state(Some(&folder), Some(&project)), folder.join(".berth"));
        assert_eq!(state(Some(&file), Some(&project)), folder.join(".berth"));
        std::fs::remove_dir_all(&folder).unwrap();

        let component = Path::new("x/Hello.wasm");
        let project = deployer::open(component).unwrap();
        assert_eq!(project.hosts, ["*"]);
        assert_eq!(state(Some(component), Some(&project)), Path::new("x/.berth-hello"));
        assert_eq!(state(None, None), Path::new(".berth"));
    }
}
