//! The clients that are written in Python: what they need, and where it is.
//!
//! Their packages come from PyPI into a folder of their own below the target folder, so that nothing is changed on
//! the machine.

use std::path::PathBuf;
use std::process::Command;

use crate::debian::Need;
use crate::shell::{self, Failure};
use crate::workspace::Workspace;

/// Python itself, from Debian.
pub(crate) const PYTHON: [Need; 2] = [
    Need { program: "python3", probe: &["--version"], package: "python3", used_for: "clients in Python" },
    Need {
        program: "python3",
        probe: &["-c", "import ensurepip"],
        package: "python3-venv",
        used_for: "a folder for the packages of those clients",
    },
];

/// What the clients are made of: WebSocket over TCP, and HTTP/3. Of aioquic one version, since the client reaches
/// behind its public names.
pub(crate) const PACKAGES: [&str; 2] = ["aioquic==1.7.2", "websockets"];

/// Ends with 0 where they are installed.
const PROBE: &str = "import aioquic, websockets; exit(aioquic.__version__ != '1.7.2')";

/// The Python that has [`PACKAGES`], once [`provide`] has succeeded.
pub(crate) fn interpreter(workspace: &Workspace) -> PathBuf {
    workspace.target("test-python/bin/python3")
}

/// Installs [`PACKAGES`] where they are missing.
pub(crate) fn provide(workspace: &Workspace) -> Result<(), Failure> {
    let python = interpreter(workspace);
    if shell::succeeds(&python.to_string_lossy(), ["-c", PROBE]) {
        return Ok(());
    }
    let mut create = Command::new("python3");
    create.args(["-m", "venv"]).arg(workspace.target("test-python"));
    shell::run(create)?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES);
    shell::run(install)
}

/// The HTTP/3 client of the tests (`tests/clients/h3`), on aioquic.
pub(crate) fn http3_client(workspace: &Workspace) -> Command {
    let mut python = Command::new(interpreter(workspace));
    // -B: a run leaves no compiled files among the sources.
    python.arg("-B").arg(workspace.path("tests/clients/h3"));
    python
}
