//! The examples, built for the tests and the demo.
//!
//! Each is copied below the folder of build output and built there, so that nothing is left among its sources. What
//! lies there then is a project that `berth deploy --no-build` takes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian::{self, Need};
use crate::guests;
use crate::shell::{self, Failure};
use crate::workspace::Workspace;

/// Where they are built, below the folder of build output.
pub(crate) const FOLDER: &str = "examples";
/// Those in Rust, by their folders below `examples`.
pub(crate) const RUST: [&str; 7] =
    ["chat", "counter", "hello", "html-rewriter", "limiter", "two-zones/stock", "two-zones/shop"];
/// Those in JavaScript, with the component that each becomes.
pub(crate) const JAVASCRIPT: [(&str, &str); 2] = [("inbox", "class.wasm"), ("json-api", "worker.wasm")];

/// Brings Node.js as well.
const NPM: Need = Need {
    program: "npm",
    probe: &["--version"],
    package: "npm",
    used_for: "the examples and the templates in JavaScript",
};

/// Whether the examples in JavaScript are there.
pub(crate) enum JavaScript {
    Built,
    /// They cannot be built here, because of this.
    LeftOut(String),
}

/// Their names, for people.
pub(crate) fn javascript_names() -> String {
    JAVASCRIPT.map(|(name, _)| name).join(" and ")
}

/// Where the project of an example lies once it is built.
pub(crate) fn folder(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.target(FOLDER).join(name)
}

/// Builds all of them. What cannot be built although its tools are here is a failure.
pub(crate) fn build(workspace: &Workspace) -> Result<JavaScript, Failure> {
    guests::provide_target()?;
    for name in RUST {
        copy(workspace, name)?;
        let folder = folder(workspace, name);
        let link = folder.join("target");
        share(&workspace.target(guests::FOLDER), &link).map_err(|error| cannot("link", &link, &error))?;
        guests::build_component(workspace, &folder.join("Cargo.toml"))?;
    }
    for (name, component) in JAVASCRIPT {
        if let JavaScript::LeftOut(why) = build_javascript(workspace, name, component)? {
            return Ok(JavaScript::LeftOut(why));
        }
    }
    Ok(JavaScript::Built)
}

/// The packages come from npm's registry, in the versions of the lock file: without them it is left out.
fn build_javascript(workspace: &Workspace, name: &str, component: &str) -> Result<JavaScript, Failure> {
    let changed = copy(workspace, name)?;
    let folder = folder(workspace, name);
    let component = folder.join(component);
    if component.exists() && !changed {
        return Ok(JavaScript::Built);
    }
    // What fails from here on leaves no component of older sources.
    let _ = fs::remove_file(&component);
    if let Some(missing) = debian::provide(&[NPM]).first() {
        return Ok(JavaScript::LeftOut(format!("no {}: {}", missing.need.package, missing.reason)));
    }
    let npm = |arguments: &[&str]| {
        let mut command = Command::new("npm");
        command.args(arguments).current_dir(&folder);
        command
    };
    if let Err(failure) = shell::capture(npm(&["ci", "--no-audit", "--no-fund"])) {
        return Ok(JavaScript::LeftOut(failure.to_string()));
    }
    // Its scripts would ask the registry once more.
    shell::run(npm(&["run", "build", "--ignore-scripts"]))?;
    Ok(JavaScript::Built)
}

/// Brings the copy of an example up to date. Whether that changed anything.
fn copy(workspace: &Workspace, name: &str) -> Result<bool, Failure> {
    let from = workspace.path("examples").join(name);
    refresh(&from, &folder(workspace, name)).map_err(|error| cannot("copy", &from, &error))
}

/// Writes only what differs, so that what did not change is not built again.
fn refresh(from: &Path, to: &Path) -> io::Result<bool> {
    fs::create_dir_all(to)?;
    let mut changed = false;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let (from, to) = (entry.path(), to.join(&name));
        if is_made(&name.to_string_lossy()) {
            continue;
        }
        if from.is_dir() {
            changed |= refresh(&from, &to)?;
            continue;
        }
        let bytes = fs::read(&from)?;
        if fs::read(&to).ok().as_ref() != Some(&bytes) {
            fs::write(&to, bytes)?;
            changed = true;
        }
    }
    Ok(changed)
}

/// What is left in the folder of an example by those who built and ran it there.
fn is_made(name: &str) -> bool {
    ["target", "node_modules", "worker.wasm", "class.wasm"].contains(&name) || name.starts_with(".berth")
}

/// Makes the place where a project looks for its component a link to where all of them are.
fn share(target: &Path, link: &Path) -> io::Result<()> {
    if fs::read_link(link).is_ok_and(|linked| linked == target) {
        return Ok(());
    }
    let _ = fs::remove_file(link);
    std::os::unix::fs::symlink(target, link)
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_changes_with_its_sources_and_has_nothing_that_was_made() {
        let root = std::env::temp_dir().join(format!("berth-examples-{}", std::process::id()));
        let (from, to) = (root.join("from"), root.join("to"));
        for folder in ["src", "target", "node_modules"] {
            fs::create_dir_all(from.join(folder)).unwrap();
            fs::write(from.join(folder).join("file"), "one").unwrap();
        }
        assert!(refresh(&from, &to).unwrap());
        assert!(!refresh(&from, &to).unwrap(), "the same once more");
        fs::write(from.join("src/file"), "two").unwrap();
        assert!(refresh(&from, &to).unwrap());
        assert_eq!(fs::read_to_string(to.join("src/file")).unwrap(), "two");
        assert!(!to.join("target").exists() && !to.join("node_modules").exists());
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn every_example_is_in_the_list() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        let mut found = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            if folder.join("berth.toml").exists() {
                found.push(folder.strip_prefix(&root).unwrap().to_str().unwrap().to_owned());
                continue;
            }
            let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            folders.extend(entries.filter(|path| path.is_dir()));
        }
        let mut listed: Vec<_> = RUST.into_iter().chain(JAVASCRIPT.map(|(name, _)| name)).collect();
        listed.sort_unstable();
        found.sort();
        assert_eq!(found, listed);
    }
}
