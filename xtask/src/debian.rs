//! Debian packages of the clients that we did not write.
//!
//! A missing program is installed when we are root, and told otherwise: xtask never asks for a
//! password and never waits for an answer on standard input.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use crate::shell::{self, Failure};

/// A program that a test or the demo starts, and the package that brings it.
#[derive(Clone, Copy)]
pub(crate) struct Need {
    pub(crate) program: &'static str,
    /// Arguments with which the program does nothing and succeeds.
    pub(crate) probe: &'static [&'static str],
    pub(crate) package: &'static str,
    /// What cannot be done without it.
    pub(crate) used_for: &'static str,
}

pub(crate) const CURL: Need =
    Need { program: "curl", probe: &["--version"], package: "curl", used_for: "requests from outside" };

/// A need that could not be met, with the reason.
pub(crate) struct Missing {
    pub(crate) need: Need,
    pub(crate) reason: String,
}

/// Installs what is missing of `needs` as far as this user may; returns what is still missing.
pub(crate) fn provide(needs: &[Need]) -> Vec<Missing> {
    let absent: Vec<Need> = needs.iter().copied().filter(|need| !is_here(need)).collect();
    if absent.is_empty() {
        return Vec::new();
    }
    let installed = if is_root() { install(&absent) } else { Err(not_root(&absent)) };
    let reason = installed.err().map(|failure| failure.to_string());
    absent
        .into_iter()
        .filter(|need| !is_here(need))
        .map(|need| {
            let reason = reason
                .clone()
                .unwrap_or_else(|| format!("package {} was installed but does not work", need.package));
            Missing { need, reason }
        })
        .collect()
}

fn is_here(need: &Need) -> bool {
    shell::succeeds(need.program, need.probe)
}

/// Whether we run as root, read from the owner of our own entry in /proc.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn install(needs: &[Need]) -> Result<(), Failure> {
    apt_get(&["update"])?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(needs.iter().map(|need| need.package));
    apt_get(&arguments)
}

fn apt_get(arguments: &[&str]) -> Result<(), Failure> {
    let mut command = Command::new("apt-get");
    command.arg("--quiet").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    shell::run(command)
}

fn not_root(needs: &[Need]) -> Failure {
    let packages: Vec<&str> = needs.iter().map(|need| need.package).collect();
    Failure::new(format!("not root; as root: `apt-get install {}`", packages.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: Need = Need { program: "sh", probe: &["-c", "true"], package: "dash", used_for: "a test" };
    const NOWHERE: Need =
        Need { program: "no-such-program-of-berth", probe: &[], package: "no-such", used_for: "a test" };

    #[test]
    fn what_is_here_is_not_installed_again() {
        assert!(provide(&[SHELL]).is_empty());
    }

    #[test]
    fn a_program_that_is_not_there_is_seen() {
        assert!(!is_here(&NOWHERE));
        assert!(is_here(&SHELL));
    }

    #[test]
    fn without_root_the_reason_says_what_to_type() {
        assert!(not_root(&[SHELL, NOWHERE]).to_string().contains("apt-get install dash no-such"));
    }
}
