//! Golden files: committed text that is made from code, and must agree with it.
//!
//! A reader finds them in the tree without building anything, and a review sees when they change.
//! `cargo xtask tidy --bless` writes them anew.

use crate::shell::{self, Failure};
use crate::tidy::{OnDifference, diff, graph};
use crate::workspace::Workspace;

struct Golden {
    /// Relative to the root.
    path: &'static str,
    source: Source,
}

/// Who makes the text.
enum Source {
    /// A function of xtask.
    Rendered(fn(&Workspace) -> Result<String, Failure>),
    /// The `berth` program, with these arguments.
    BerthPrints(&'static [&'static str]),
}

/// All golden files. A new one is a new line here.
const GOLDENS: &[Golden] = &[
    Golden { path: "docs/crate-graph.txt", source: Source::Rendered(graph::render) },
    Golden { path: "docs/CONFIG.md", source: Source::BerthPrints(&["config", "reference"]) },
    Golden { path: "docs/METRICS.md", source: Source::BerthPrints(&["metrics", "reference"]) },
];

/// What the code says a golden file should contain.
enum Made {
    Text(String),
    /// The command that makes it is not built yet. Only good for a file that is not there either.
    NotBuilt(String),
}

/// What a comparison found.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    Same,
    Pending(String),
    Differs(String),
}

pub(super) fn check_all(workspace: &Workspace, on_difference: OnDifference) -> Result<(), Failure> {
    let mut bad = Vec::new();
    for golden in GOLDENS {
        let committed = workspace.read(golden.path)?;
        let made = make(workspace, &golden.source)?;
        match compare(golden.path, committed.as_deref(), &made) {
            Finding::Same => println!("{}: same", golden.path),
            Finding::Pending(reason) => println!("{}: not there yet: {reason}", golden.path),
            Finding::Differs(message) => match (on_difference, made) {
                (OnDifference::Bless, Made::Text(text)) => {
                    workspace.write(golden.path, &text)?;
                    println!("{}: written", golden.path);
                }
                _ => bad.push(message),
            },
        }
    }
    if bad.is_empty() { Ok(()) } else { Err(Failure::new(bad.join("\n"))) }
}

fn make(workspace: &Workspace, source: &Source) -> Result<Made, Failure> {
    match source {
        Source::Rendered(render) => render(workspace).map(Made::Text),
        Source::BerthPrints(arguments) => berth_prints(workspace, arguments),
    }
}

fn berth_prints(workspace: &Workspace, arguments: &[&str]) -> Result<Made, Failure> {
    shell::run(workspace.cargo(["build", "--quiet", "--workspace", "--bin", "berth"]))?;
    let mut berth = std::process::Command::new(workspace.target("debug/berth"));
    berth.args(arguments);
    let spoken = format!("berth {}", arguments.join(" "));
    match shell::capture(berth) {
        Ok(text) if text.trim().is_empty() => Ok(Made::NotBuilt(format!("`{spoken}` prints nothing"))),
        Ok(text) => Ok(Made::Text(text)),
        Err(_) => Ok(Made::NotBuilt(format!("`{spoken}` exits with an error"))),
    }
}

fn compare(path: &str, committed: Option<&str>, made: &Made) -> Finding {
    match (committed, made) {
        (Some(committed), Made::Text(text)) if committed == text => Finding::Same,
        (None, Made::NotBuilt(reason)) => Finding::Pending(reason.clone()),
        (Some(_), Made::NotBuilt(reason)) => {
            Finding::Differs(format!("{path} is committed, but cannot be made any more: {reason}"))
        }
        (committed, Made::Text(text)) => Finding::Differs(format!(
            "{path} differs from what the code says; `cargo xtask tidy --bless` rewrites it \
             (- committed, + code):\n{}",
            diff::lines(committed.unwrap_or_default(), text)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Made {
        Made::Text(text.to_owned())
    }

    #[test]
    fn a_file_that_agrees_is_good() {
        assert_eq!(compare("a.txt", Some("x\n"), &text("x\n")), Finding::Same);
    }

    #[test]
    fn a_file_that_differs_fails_and_shows_the_lines() {
        let Finding::Differs(message) = compare("a.txt", Some("x\n"), &text("y\n")) else {
            panic!("a difference must be seen")
        };
        assert!(message.contains("- x\n+ y\n") && message.contains("--bless"), "{message}");
    }

    #[test]
    fn a_file_that_nobody_committed_fails() {
        assert!(matches!(compare("a.txt", None, &text("y\n")), Finding::Differs(_)));
    }

    #[test]
    fn a_command_that_is_not_built_excuses_only_a_file_that_is_not_there() {
        let not_built = Made::NotBuilt("exits 1".to_owned());
        assert!(matches!(compare("a.txt", None, &not_built), Finding::Pending(_)));
        assert!(matches!(compare("a.txt", Some("x\n"), &not_built), Finding::Differs(_)));
    }
}
