//! Cargo tools and toolchains that some steps want: are they here, and how does one get them?

use std::process::Command;

use crate::shell::{self, Failure};

/// A cargo subcommand that lives outside cargo.
pub(crate) struct CargoTool {
    /// The name after `cargo`.
    pub(crate) subcommand: &'static str,
    /// The package that `cargo install` takes.
    pub(crate) package: &'static str,
}

pub(crate) const NEXTEST: CargoTool = CargoTool { subcommand: "nextest", package: "cargo-nextest" };
pub(crate) const DENY: CargoTool = CargoTool { subcommand: "deny", package: "cargo-deny" };
pub(crate) const FUZZ: CargoTool = CargoTool { subcommand: "fuzz", package: "cargo-fuzz" };

impl CargoTool {
    pub(crate) fn is_installed(&self) -> bool {
        shell::succeeds("cargo", [self.subcommand, "--version"])
    }

    /// Builds and installs the tool for the current user. Minutes, on two cores.
    pub(crate) fn install(&self) -> Result<(), Failure> {
        let mut command = Command::new("cargo");
        command.args(["install", "--locked", self.package]);
        shell::run(command)
    }

    pub(crate) fn how_to_install(&self) -> String {
        format!("`cargo install --locked {}`", self.package)
    }
}

/// Miri comes with a nightly toolchain, as a component.
pub(crate) fn has_miri() -> bool {
    shell::succeeds("cargo", ["+nightly", "miri", "--version"])
}

pub(crate) const HOW_TO_INSTALL_MIRI: &str =
    "`rustup toolchain install nightly --profile minimal --component miri,rust-src --allow-downgrade`";

/// libFuzzer's instrumentation needs a nightly compiler.
pub(crate) fn has_nightly() -> bool {
    shell::succeeds("cargo", ["+nightly", "--version"])
}

pub(crate) const HOW_TO_INSTALL_NIGHTLY: &str = "`rustup toolchain install nightly --profile minimal`";
