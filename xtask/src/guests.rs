//! The guests of the tests: components, built for WebAssembly in a workspace of their own.

use std::process::Command;

use crate::shell::{self, Failure};
use crate::workspace::Workspace;

/// What guests are built for.
pub(crate) const TARGET: &str = "wasm32-wasip2";

/// Builds it, and installs what that needs.
pub(crate) fn build(workspace: &Workspace) -> Result<(), Failure> {
    provide_target()?;
    let mut command = workspace.cargo(["build", "--release", "--quiet", "--target", TARGET]);
    command
        .arg("--manifest-path")
        .arg(workspace.path("tests/guests/Cargo.toml"))
        .arg("--target-dir")
        .arg(workspace.target("guests"));
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
