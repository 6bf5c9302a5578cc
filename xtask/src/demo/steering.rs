//! The part of the demo that needs root: a client and a server in network namespaces of their own, a cable between them,
//! and the real programs on it. It shows by whom packets were steered, and what the programs have counted.
//!
//! Nothing outside the two namespaces is touched, and all is gone at the end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::debian::{self, CURL, Need};
use crate::shell::{self, Failure};
use crate::workspace::Workspace;

const NEEDS: [Need; 2] = [
    Need { program: "ip", probe: &["-Version"], package: "iproute2", used_for: "network namespaces" },
    Need {
        program: "ethtool",
        probe: &["--version"],
        package: "ethtool",
        used_for: "a cable whose checksums are made",
    },
];

const NODE: &str = "192.0.2.1";
const CLIENT: &str = "192.0.2.100";
/// Requests of each kind, each on a connection of its own: enough to see both cores.
const REQUESTS: usize = 20;
/// From the start of both processes to steered packets.
const STEERED_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Whether steering was shown.
pub(super) enum Shown {
    Yes,
    /// It cannot be shown here, because of this.
    No(String),
}

/// Shows steering where that can be; what goes wrong then is a failure of the demo.
pub(super) fn show(workspace: &Workspace) -> Result<Shown, Failure> {
    if !debian::is_root() {
        let why = "only root may make network namespaces and load programs into the kernel";
        return Ok(Shown::No(why.to_owned()));
    }
    if let Some(missing) = debian::provide(&[&NEEDS[..], &[CURL]].concat()).first() {
        return Ok(Shown::No(format!("no {}: {}", missing.need.package, missing.reason)));
    }
    let place = match Place::build(workspace) {
        Ok(place) => place,
        Err(failure) => return Ok(Shown::No(failure.to_string())),
    };
    let agent = place.start("agent", &["agent"])?;
    let node = place.start("dataplane", &["dataplane"])?;
    place.wait_until_steered()?;
    for url in [format!("http://{NODE}:8080/"), format!("https://{NODE}:8443/")] {
        let mut curl = place.inside(&place.client, "curl");
        curl.args([
            "--http1.1",
            "--silent",
            "--fail",
            "--insecure",
            "--noproxy",
            "*",
            "--header",
            "connection: close",
        ]);
        let answers = shell::capture({
            curl.args(vec![url; REQUESTS]);
            curl
        })?;
        if answers != "steered\n".repeat(REQUESTS) {
            return Err(Failure::new(format!("not the {REQUESTS} answers that were asked for: {answers}")));
        }
    }
    // The agent tells its counters once a second.
    thread::sleep(Duration::from_millis(1500));
    println!("\nSteering: a client and a server in network namespaces, XDP on the cable between them.");
    println!("{}", place.status(&[])?.trim_end());
    drop((node, agent));
    Ok(Shown::Yes)
}

/// The namespaces, the cable, and the folder for both processes. Taken down on drop.
struct Place {
    node: String,
    client: String,
    folder: PathBuf,
    berth: PathBuf,
}

impl Place {
    fn build(workspace: &Workspace) -> Result<Self, Failure> {
        let name = |role: &str| format!("berth-demo-{role}-{}", std::process::id());
        let place = Self {
            node: name("node"),
            client: name("client"),
            folder: workspace.target("demo-steering"),
            berth: workspace.target("release/berth"),
        };
        let bpf = place.folder.join("bpf");
        let made = fs::create_dir_all(&bpf);
        made.map_err(|error| Failure::new(format!("cannot make {}: {error}", bpf.display())))?;
        run("mount", &["-t", "bpf", "bpf", &bpf.to_string_lossy()])?;
        let (node, client) = (place.node.as_str(), place.client.as_str());
        run("ip", &["netns", "add", node])?;
        run("ip", &["netns", "add", client])?;
        run(
            "ip",
            &["link", "add", "node0", "netns", node, "type", "veth", "peer", "client0", "netns", client],
        )?;
        for (namespace, card, address) in [(node, "node0", NODE), (client, "client0", CLIENT)] {
            run("ip", &["-netns", namespace, "address", "add", &format!("{address}/24"), "dev", card])?;
            run("ip", &["-netns", namespace, "link", "set", "lo", "up"])?;
            run("ip", &["-netns", namespace, "link", "set", card, "up"])?;
        }
        // A packet that another CPU takes over has lost the note that its checksum is still to be made.
        run("ip", &["netns", "exec", client, "ethtool", "-K", "client0", "tx", "off"])?;
        let (text, file) = (config(&place.folder), place.config());
        fs::write(&file, text)
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))?;
        Ok(place)
    }

    fn config(&self) -> PathBuf {
        self.folder.join("berth.toml")
    }

    /// A command that runs in one of the namespaces.
    fn inside(&self, namespace: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{namespace}")).arg(program);
        command
    }

    fn start(&self, name: &str, words: &[&str]) -> Result<Running, Failure> {
        let path = self.folder.join(format!("{name}.log"));
        let failed = |error: std::io::Error| Failure::new(format!("cannot start berth {name}: {error}"));
        let log = File::create(&path).map_err(failed)?;
        let mut command = self.inside(&self.node, &self.berth);
        command.args(words).arg("--config").arg(self.config());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        Ok(Running(child.map_err(failed)?))
    }

    fn status(&self, words: &[&str]) -> Result<String, Failure> {
        let mut command = self.inside(&self.node, &self.berth);
        command.arg("status").args(words);
        shell::capture(command)
    }

    fn wait_until_steered(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + STEERED_WITHIN;
        loop {
            let status = self.status(&["--json"]);
            if status.as_ref().is_ok_and(|status| status.contains(r#""sockets":"programs""#)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let folder = self.folder.display();
                let last = status.unwrap_or_else(|failure| failure.to_string());
                return Err(Failure::new(format!(
                    "no packet is steered; the logs are in {folder}. Last seen: {last}"
                )));
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for namespace in [&self.node, &self.client] {
            shell::succeeds("ip", ["netns", "delete", namespace]);
        }
        shell::succeeds("umount", [self.folder.join("bpf")]);
    }
}

/// A process of ours, ended on drop.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn config(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"[node]
state = "{folder}/state"
[agent]
socket = "{folder}/agent.sock"
pins = "{folder}/bpf/berth"
[steering]
interfaces = ["node0"]
[[listen]]
address = "{NODE}:8080"
[[listen]]
address = "{NODE}:8443"
protocol = "https"
[[routes]]
path = "/"
respond = {{ body = "steered\n" }}
"#
    )
}

fn run(program: &str, arguments: &[&str]) -> Result<(), Failure> {
    let mut command = Command::new(program);
    command.args(arguments);
    shell::capture(command).map(drop)
}
