//! The guests of the tests: components, built for WebAssembly in a workspace of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell::{self, Failure};
use crate::workspace::Workspace;

/// What guests are built for.
pub(crate) const TARGET: &str = "wasm32-wasip2";

/// Where cargo puts every component, below the folder of build output: what they depend on is built once.
pub(crate) const FOLDER: &str = "guests";

/// The component, once it is built.
pub(crate) fn component(workspace: &Workspace) -> PathBuf {
    workspace.target(FOLDER).join(TARGET).join("release/guests.wasm")
}

/// Builds it, and installs what that needs.
pub(crate) fn build(workspace: &Workspace) -> Result<(), Failure> {
    provide_target()?;
    build_component(workspace, &workspace.path("tests/guests/Cargo.toml"))
}

/// Builds the component of a manifest, with what its lock file names.
pub(crate) fn build_component(workspace: &Workspace, manifest: &Path) -> Result<(), Failure> {
    let mut command =
        workspace.cargo(["build", "--workspace", "--release", "--locked", "--quiet", "--target", TARGET]);
    command.arg("--manifest-path").arg(manifest).arg("--target-dir").arg(workspace.target(FOLDER));
    shell::run(command)
}

/// The standard library for WebAssembly, from rustup.
pub(crate) fn provide_target() -> Result<(), Failure> {
    let mut installed = Command::new("rustup");
    installed.args(["target", "list", "--installed"]);
    if shell::capture(installed).is_ok_and(|targets| targets.lines().any(|target| target == TARGET)) {
        return Ok(());
    }
    let mut add = Command::new("rustup");
    add.args(["target", "add", TARGET]);
    shell::run(add)
}
