//! `berth dev`: a whole node in one process, with a self-made certificate and the demo routes.

use std::net::SocketAddr;
use std::path::PathBuf;

use berth_dataplane::config::Config;
use berth_dataplane::http::message::Security;
use berth_dataplane::node::Node;

use crate::{Failure, logging, with_causes};

/// The flags of `berth dev`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A project with `berth.toml`, or a component. Guests are not built yet: leave it out.
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
    /// Folder for what outlives a restart.
    #[arg(long, default_value = ".berth", value_name = "DIR")]
    state: PathBuf,
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
    if let Some(path) = &arguments.path {
        return Err(
            format!("{}: guests are not built yet; run `berth dev` without a path", path.display()).into()
        );
    }
    let text = configuration(arguments)?;
    let config = Config::parse(&text).map_err(|mistakes| mistakes.to_string())?;
    logging::start(&config.log)?;
    let node = Node::prepare(config, None).map_err(with_causes)?;
    announce(&node);
    node.run().map_err(with_causes)
}

fn configuration(arguments: &Arguments) -> Result<String, Failure> {
    let state = std::path::absolute(&arguments.state)?;
    let quoted = |path: &std::path::Path| serde_json::to_string(&path.to_string_lossy());
    let cores = arguments.cores.map_or_else(|| "\"auto\"".to_owned(), |cores| cores.to_string());
    let mut text = format!("[node]\nstate = {}\ncores = {cores}\n", quoted(&state)?);
    text += &format!("[admin]\nlisten = \"{}\"\n[shutdown]\ndrain = \"2s\"\n", arguments.admin);
    text += &format!("[[listen]]\naddress = \"{}\"\nprotocol = \"http\"\n", arguments.listen);
    if !arguments.no_tls {
        text += &format!("[[listen]]\naddress = \"{}\"\nprotocol = \"https\"\n", arguments.tls_listen);
    }
    Ok(text + ROUTES)
}

/// The URLs and ready-made lines to try them with.
fn announce(node: &Node) {
    let view = node.view();
    for bound in &view.listeners {
        let (scheme, flags) = match bound.security {
            Security::Plain => ("http", ""),
            Security::Tls => ("https", " --insecure"),
        };
        println!("{scheme}://{}", bound.address);
        println!("  curl{flags} {scheme}://{}/", bound.address);
        println!("  curl{flags} --data-binary hello {scheme}://{}/echo", bound.address);
    }
    println!("admin http://{}\n  curl http://{}/metrics", view.admin, view.admin);
    println!("  berth status --admin http://{}", view.admin);
}
