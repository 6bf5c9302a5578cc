//! The examples on the demo's node: deployed by `berth deploy`, and shown.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::debian;
use crate::demo::kill::COUNTER;
use crate::demo::node::{self, Node};
use crate::examples::{self, JavaScript};
use crate::python;
use crate::shell::{self, Failure};
use crate::workspace::Workspace;

/// The example that needs an origin, and the one that its file names.
const REWRITER: &str = "html-rewriter";
const ORIGIN: &str = "127.0.0.1:9000";
const ORIGIN_PORT: u16 = 9000;
/// From the start of Python to its first connection.
const ORIGIN_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where the workers are asked. The names are those of the examples' files.
pub(super) const HELLO: &str = "hello.localhost";
pub(super) const PAGES: &str = "html-rewriter.localhost";
pub(super) const SHOP: &str = "shop.localhost";
pub(super) const FIGURES: &str = "json-api.localhost";

pub(super) const CHAT: &str = "chat.localhost";

/// Title, what curl is given before the URL, host and path.
const LINES: &[(&str, &str, &str, &str)] = &[
    ("a worker", "", HELLO, "/"),
    ("a body as it grows", "--no-buffer ", HELLO, "/count"),
    ("pages rewritten", "", PAGES, "/"),
    ("two zones", "", SHOP, "/"),
    ("an object", "-X POST ", COUNTER, "/counter/visits"),
    ("a chat room, browse", "", CHAT, "/lobby/"),
    ("JavaScript", "--data '[3, 4, 5]' ", FIGURES, "/figures"),
];

/// The examples that answer, and why others do not.
pub(super) struct Workers {
    /// Hosts without an answer.
    silent: Vec<&'static str>,
    left_out: Vec<String>,
    /// Ends with the demo.
    _origin: Option<Origin>,
}

impl Workers {
    /// Deploys what was built.
    pub(super) fn deploy(workspace: &Workspace, node: &Node, built: JavaScript) -> Result<Self, Failure> {
        let mut workers = Self { silent: Vec::new(), left_out: Vec::new(), _origin: None };
        for name in examples::RUST.into_iter().filter(|name| *name != REWRITER) {
            deploy(workspace, node, examples::folder(workspace, name))?;
        }
        if let Some(missing) = debian::provide(&python::PYTHON[..1]).first() {
            let why = format!("no {} for its origin: {}", missing.need.package, missing.reason);
            workers.leave_out(REWRITER, PAGES, &why);
        } else {
            let origin = Origin::start(workspace)?;
            deploy(workspace, node, origin.project(workspace)?)?;
            workers._origin = Some(origin);
        }
        match built {
            JavaScript::Built => {
                for (name, _) in examples::JAVASCRIPT {
                    deploy(workspace, node, examples::folder(workspace, name))?;
                }
            }
            JavaScript::LeftOut(why) => workers.leave_out(&examples::javascript_names(), FIGURES, &why),
        }
        Ok(workers)
    }

    fn leave_out(&mut self, name: &str, host: &'static str, why: &str) {
        self.silent.push(host);
        self.left_out.push(format!("examples/{name}: {why}"));
    }

    /// Whether somebody answers at this host.
    pub(super) fn answer(&self, host: &str) -> bool {
        !self.silent.contains(&host)
    }

    /// What could not be deployed, and why.
    pub(super) fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// A line for each thing to try.
    pub(super) fn lines(&self, node: &Node) -> String {
        let lines = LINES.iter().filter(|(_, _, host, _)| self.answer(host));
        let port = node.plain.port();
        lines
            .map(|(title, options, host, path)| {
                format!("\n  {title:<20} curl {options}http://{host}:{port}{path}")
            })
            .collect()
    }
}

fn deploy(workspace: &Workspace, node: &Node, project: PathBuf) -> Result<(), Failure> {
    let mut berth = Command::new(workspace.target("release/berth"));
    berth.args(["deploy", "--no-build", "--admin", &format!("http://{}", node.admin)]).arg(project);
    shell::run(berth)
}

/// The site of the rewriter, served by Python, which knows nothing of us. Ended on drop.
struct Origin {
    process: Child,
    address: SocketAddr,
}

impl Origin {
    fn start(workspace: &Workspace) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::new(format!("cannot start the origin: {error}"));
        // Let go before Python binds.
        let address = node::bind(ORIGIN_PORT).or_else(|_| node::bind(0)).and_then(|held| held.local_addr());
        let address = address.map_err(failed)?;
        let mut python = Command::new("python3");
        python.args(["-m", "http.server", &address.port().to_string(), "--bind", &address.ip().to_string()]);
        python.arg("--directory").arg(workspace.path("examples/html-rewriter/site"));
        let quiet = python.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let origin = Self { process: quiet.spawn().map_err(failed)?, address };
        let deadline = Instant::now() + ORIGIN_WITHIN;
        while TcpStream::connect(address).is_err() {
            if Instant::now() > deadline {
                let waited = ORIGIN_WITHIN.as_secs();
                return Err(Failure::new(format!(
                    "the origin does not listen on {address} after {waited} s"
                )));
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(origin)
    }

    /// The rewriter's project with this origin: a file beside its own.
    fn project(&self, workspace: &Workspace) -> Result<PathBuf, Failure> {
        let folder = examples::folder(workspace, REWRITER);
        let (from, to) = (folder.join("berth.toml"), folder.join("demo.toml"));
        let text = fs::read_to_string(&from).map(|text| text.replace(ORIGIN, &self.address.to_string()));
        text.and_then(|text| fs::write(&to, text))
            .map_err(|error| Failure::new(format!("cannot make {}: {error}", to.display())))?;
        Ok(to)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
