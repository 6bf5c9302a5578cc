//! A node with its control agent: two processes, in a network namespace of their own, with a BPF file system of their own
//! for pins. Only root can have that; see [`is_root_or_skip`](crate::is_root_or_skip).

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use berth_control_agent::machine::Machine;
use berth_steer::counters::{SocketCounters, XdpCounters};

use crate::network::{NODE_ADDRESS, NODE_ADDRESS_V6, NODE_CARD, Network};
use crate::node::{Driver, Folder, Node, Plan, binary, wait_until};

/// Clear text.
pub const HTTP_PORT: u16 = 8080;
/// TLS, and HTTP/3.
pub const HTTPS_PORT: u16 = 8443;

/// The place of a node and its agent.
pub struct Steered {
    /// The namespaces.
    pub network: Network,
    pins: BpfFs,
    folder: Folder,
    /// The table `[steering]`.
    steering: String,
}

impl Steered {
    /// With a cable whose card steers as this value of `steering.xdp` says.
    pub fn build(xdp: &str) -> Self {
        let folder = Folder::new();
        Self {
            network: Network::build().expect("root may make namespaces"),
            pins: BpfFs::mount(folder.path().join("bpf")),
            steering: format!("[steering]\ninterfaces = [\"{NODE_CARD}\"]\nxdp = \"{xdp}\"\n"),
            folder,
        }
    }

    /// The same on another card.
    pub fn on_card(mut self, card: &str) -> Self {
        self.steering = self.steering.replace(NODE_CARD, card);
        self
    }

    /// What somebody else does with the same card, with pins of their own.
    pub fn run_beside(&self, words: &[&str]) -> crate::clients::Outcome {
        let path = self.folder.path().join("beside.toml");
        let own = self.pins().display().to_string();
        std::fs::write(&path, self.config_text().replace(&own, &format!("{own}-of-others")))
            .expect("a file can be written");
        let mut command = Command::new(binary());
        command.arg("agent").args(words).arg("--config").arg(path);
        self.network.at_node(|| crate::clients::run(&mut command))
    }

    /// A folder for the state of a node that runs as this user.
    pub fn state_for(&self, user: u32) -> PathBuf {
        let path = self.folder.path().join("state-of-user");
        std::fs::create_dir(&path).expect("a folder can be made");
        std::os::unix::fs::chown(&path, Some(user), Some(user)).expect("root may give away");
        path
    }

    /// The folder of pins.
    pub fn pins(&self) -> PathBuf {
        self.pins.0.join("berth")
    }

    /// What both processes read beside the listeners.
    fn config(&self) -> String {
        let (socket, pins) = (self.folder.path().join("agent.sock"), self.pins());
        format!(
            "[agent]\nsocket = \"{}\"\npins = \"{}\"\n{}",
            socket.display(),
            pins.display(),
            self.steering
        )
    }

    /// A node here, with one listener of each kind for each family, and these tables more.
    pub fn plan(&self, driver: Driver, more: &str) -> Plan {
        let mut text = String::new();
        for address in [NODE_ADDRESS.to_owned(), format!("[{NODE_ADDRESS_V6}]")] {
            for (port, protocol) in [(HTTP_PORT, "http"), (HTTPS_PORT, "https")] {
                let _ =
                    write!(text, "[[listen]]\naddress = \"{address}:{port}\"\nprotocol = \"{protocol}\"\n");
            }
        }
        Plan::new(driver, text + more + &self.config()).state(&self.folder.path().join("state"))
    }

    /// Starts a node in its namespace.
    pub fn start(&self, plan: Plan) -> Node {
        self.network.at_node(|| plan.start())
    }

    /// Waits until the agent's program chooses among the sockets of a node, and returns its status.
    pub fn wait_until_steered(&self, node: &Node) -> serde_json::Value {
        wait_until("the node is steered", || self.status(node)["sockets"] == "programs");
        self.status(node)
    }

    /// What the node says of its steering.
    pub fn status(&self, node: &Node) -> serde_json::Value {
        self.network.at_node(|| node.status())["steering"].clone()
    }

    /// Writes the agent's file, and says where it is.
    fn config_file(&self) -> PathBuf {
        let path = self.folder.path().join("agent.toml");
        std::fs::write(&path, self.config_text()).expect("a file can be written");
        path
    }

    /// The listener is nobody's: a node has one.
    fn config_text(&self) -> String {
        format!("{}[[listen]]\naddress = \"127.0.0.1:1\"\n", self.config())
    }

    /// `berth agent` with these words and its file, not yet started.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("agent").args(words).arg("--config").arg(self.config_file());
        command
    }

    /// Runs such a command to its end in the node's namespace.
    pub fn run(&self, words: &[&str]) -> crate::clients::Outcome {
        self.network.at_node(|| crate::clients::run(&mut self.command(words)))
    }

    /// Starts the agent, and waits until it listens.
    pub fn agent(&self) -> Agent {
        let log = self.folder.path().join("agent.log");
        let file = File::create(&log).expect("a file can be made");
        let mut command = self.command(&[]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child = self.network.at_node(|| command.spawn()).expect("the program starts");
        let agent = Agent { child, log };
        wait_until("the agent listens", || {
            assert!(!agent.log().contains("berth: "), "the agent does not start: {}", agent.log());
            agent.log().contains("agent.ready")
        });
        agent
    }

    /// Looks at what is in the kernel.
    pub fn look<T: Send>(&self, at: impl FnOnce(&Machine) -> T + Send) -> T {
        self.network.at_node(|| at(&Machine::open(&self.pins()).expect("root may look")))
    }

    /// What the programs have counted.
    pub fn counters(&self) -> (XdpCounters, SocketCounters) {
        self.look(Machine::counters).expect("the maps are there")
    }
}

/// A running agent, killed when it is dropped.
pub struct Agent {
    child: Child,
    log: PathBuf,
}

impl Agent {
    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Kills it: it can do nothing more.
    pub fn kill(mut self) {
        self.end();
    }

    /// Ends it as a service manager does.
    pub fn stop(mut self) {
        // SAFETY: takes no pointers; the process is ours and was not waited for, so the number is its own.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        let status = self.child.wait().expect("it is our child");
        assert!(status.success(), "{}", self.log());
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
    }
}

/// A BPF file system of a test.
struct BpfFs(PathBuf);

impl BpfFs {
    fn mount(path: PathBuf) -> Self {
        std::fs::create_dir(&path).expect("a folder can be made");
        let mounted = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&path).status();
        assert!(mounted.is_ok_and(|status| status.success()), "root may mount a BPF file system");
        Self(path)
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// The names of all that is in a folder of pins, in their order.
pub fn pinned(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => names
                    .push(entry.path().strip_prefix(folder).unwrap_or(&entry.path()).display().to_string()),
            }
        }
    }
    names.sort();
    names
}
