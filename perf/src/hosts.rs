//! The hosts of workers: Berth, `wasmtime serve` and workerd, each with the same small answer.
//!
//! Fairness, decided once here: Berth and wasmtime run the very same component, with a fresh instance for each request;
//! workerd runs the same in JavaScript, in one isolate that lives on, which is how it works. One thread serves. wasmtime is
//! asked twice: as it comes, and *tuned alike*, with the memory of instances kept as Berth keeps it and with a limit on time,
//! which turns on the interruptions that Berth has. Its `concurrency-support=n` would save it more, but `serve` does not run
//! with it.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::peer::{BODY, Peer, PeerError, Site};
use crate::peers::Berth;
use crate::tool::{WASMTIME, WORKERD};

/// The host name of the zone that asks; the address is that of the zone which answers.
pub(crate) const ASKING: &str = "asking.example";

/// The component that is served.
#[derive(Clone)]
pub(crate) enum Component {
    /// The smallest worker.
    Smallest(PathBuf),
    /// The guests of the tests, some of which ask others, or spin.
    Guests(PathBuf),
}

impl Component {
    fn path(&self) -> &Path {
        match self {
            Self::Smallest(path) | Self::Guests(path) => path,
        }
    }
}

/// A node with one component in two zones.
pub(crate) struct BerthWorkers {
    pub(crate) program: PathBuf,
    pub(crate) component: Component,
}

impl BerthWorkers {
    fn deploy(&self, site: &Site, name: &str, host: &str) -> Result<(), String> {
        deploy(&self.program, site, self.component.path(), |component| {
            format!(
                "name = \"{name}\"\nzone = \"{host}\"\n\n[workers.front]\ncomponent = {component:?}\nroutes = [\"/*\"]\n\
                 limits = {{ cpu = \"30s\" }}\n"
            )
        })
    }
}

impl BerthWorkers {
    fn berth(&self) -> Berth {
        Berth { program: self.program.clone() }
    }
}

impl Peer for BerthWorkers {
    fn name(&self) -> &'static str {
        match self.component {
            Component::Smallest(_) => "berth",
            Component::Guests(_) => "berth-guests",
        }
    }

    fn ensure(&self) -> Result<(), PeerError> {
        self.berth().ensure()
    }

    fn version(&self) -> Result<String, PeerError> {
        self.berth().version()
    }

    fn configuration(&self, site: &Site) -> String {
        self.berth().configuration(site)
    }

    fn command(&self, site: &Site, file: &Path) -> Result<Command, PeerError> {
        self.berth().command(site, file)
    }

    fn make_ready(&self, site: &Site) -> Result<(), String> {
        self.deploy(site, "answering", &site.http.ip().to_string())?;
        self.deploy(site, "asking", ASKING)
    }
}

/// Deploys a component to a node, with the project file that `project` makes of its path.
pub(crate) fn deploy(
    program: &Path,
    site: &Site,
    component: &Path,
    project: impl FnOnce(&str) -> String,
) -> Result<(), String> {
    let component = component
        .canonicalize()
        .map_err(|error| format!("{}: {error}; `cargo xtask guests` builds it", component.display()))?;
    let folder = site.folder.join("project");
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let project = project(&component.display().to_string());
    fs::write(folder.join("berth.toml"), project).map_err(|error| error.to_string())?;
    let mut deploy = Command::new(program);
    deploy.args(["deploy", "--admin", &format!("http://{}", site.admin)]).arg(&folder);
    let output = deploy.output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("deploying said: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// `wasmtime serve` of the engine's own line.
pub(crate) struct WasmtimeServe {
    pub(crate) component: Component,
    pub(crate) tuned: Tuned,
}

/// How wasmtime is configured.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Tuned {
    AsShipped,
    Alike,
}

/// As Berth has it, as far as there are words for it.
const TUNED: [&str; 6] = [
    "-O",
    "pooling-memory-keep-resident=1048576,pooling-table-keep-resident=16384,pooling-pagemap-scan=y",
    "-W",
    "max-memory-size=67108864",
    "-W",
    "timeout=30s",
];

impl Peer for WasmtimeServe {
    fn name(&self) -> &'static str {
        match (self.tuned, &self.component) {
            (Tuned::AsShipped, Component::Smallest(_)) => "wasmtime",
            (Tuned::Alike, Component::Smallest(_)) => "wasmtime-tuned",
            (Tuned::AsShipped, Component::Guests(_)) => "wasmtime-guests",
            (Tuned::Alike, Component::Guests(_)) => "wasmtime-guests-tuned",
        }
    }

    fn ensure(&self) -> Result<(), PeerError> {
        WASMTIME.ensure()?;
        Ok(())
    }

    fn version(&self) -> Result<String, PeerError> {
        Ok(WASMTIME.version()?)
    }

    fn configuration(&self, _site: &Site) -> String {
        "# Its options are all there is.\n".to_owned()
    }

    fn command(&self, site: &Site, _file: &Path) -> Result<Command, PeerError> {
        let mut command = Command::new(WASMTIME.ensure()?);
        command.args(["serve", "-Scli", "--no-logging-prefix", "--addr", &site.http.to_string()]);
        if self.tuned == Tuned::Alike {
            command.args(TUNED);
        }
        // One thread for our one CPU.
        command.arg(self.component.path()).env("TOKIO_WORKER_THREADS", "1");
        Ok(command)
    }

    fn is_up(&self, site: &Site) -> Result<(), String> {
        accepts(site)
    }
}

/// workerd with the answer in JavaScript.
pub(crate) struct Workerd;

impl Peer for Workerd {
    fn name(&self) -> &'static str {
        "workerd"
    }

    fn ensure(&self) -> Result<(), PeerError> {
        WORKERD.ensure()?;
        Ok(())
    }

    fn version(&self) -> Result<String, PeerError> {
        Ok(WORKERD.version()?)
    }

    fn configuration(&self, site: &Site) -> String {
        let body = BODY.escape_default();
        format!(
            r#"using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [(name = "main", worker = .main)],
  sockets = [(name = "http", address = "{}", http = (), service = "main")],
);

const main :Workerd.Worker = (
  modules = [(
    name = "main.js",
    esModule = "const headers = {{ 'content-type': 'text/plain' }}; export default {{ fetch() {{ return new Response('{}', {{ headers }}) }} }}",
  )],
  compatibilityDate = "2026-11-01",
);
"#,
            site.http,
            body.to_string().escape_default()
        )
    }

    fn command(&self, _site: &Site, file: &Path) -> Result<Command, PeerError> {
        let mut command = Command::new(WORKERD.ensure()?);
        command.arg("serve").arg(file);
        Ok(command)
    }

    fn is_up(&self, site: &Site) -> Result<(), String> {
        accepts(site)
    }
}

/// None of them has TLS here.
pub(crate) fn accepts(site: &Site) -> Result<(), String> {
    let connected = TcpStream::connect_timeout(&site.http, Duration::from_millis(100));
    connected.map(drop).map_err(|error| format!("{}: {error}", site.http))
}
