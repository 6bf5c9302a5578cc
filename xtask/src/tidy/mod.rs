//! `cargo xtask tidy`: is the house in order?
//!
//! Formats, lints, the direction of dependencies, golden files, source rules of our own, and what
//! may come in from outside. All steps run, whatever the earlier ones said, so that one run shows
//! every mistake. Nothing here runs a test: that is `cargo xtask test`.

mod deny;
mod diff;
mod golden;
mod graph;
mod ratchet;
mod rules;

use std::time::Instant;

use crate::shell::{self, Failure};
use crate::step::{self, Step};
use crate::workspace::Workspace;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Rewrite the golden files from the tree instead of comparing; ratchets only go down
    #[arg(long)]
    bless: bool,
    /// Install the tools that are missing (cargo-deny)
    #[arg(long)]
    install: bool,
}

/// What to do about a golden file that differs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnDifference {
    Fail,
    Bless,
}

/// What to do about a tool that is not installed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnMissingTool {
    Skip,
    Install,
}

struct Context {
    workspace: Workspace,
    on_difference: OnDifference,
    on_missing_tool: OnMissingTool,
}

enum Verdict {
    Good,
    /// Not looked at, with the reason.
    Skipped(String),
    Bad(String),
}

impl From<Result<(), Failure>> for Verdict {
    fn from(result: Result<(), Failure>) -> Self {
        match result {
            Ok(()) => Self::Good,
            Err(failure) => Self::Bad(failure.to_string()),
        }
    }
}

/// Quick ones first: whoever waits sees the cheap mistakes at once.
const STEPS: &[Step<Context, Verdict>] = &[
    Step { name: "format", why: "one layout, so that a diff shows only what changed", run: format },
    Step { name: "rules", why: "habits of this tree that no lint knows", run: rules },
    Step { name: "ratchet", why: "long functions may become fewer, not more", run: ratchet },
    Step { name: "golden", why: "committed files that are made from code agree with it", run: golden },
    Step { name: "deny", why: "licences, duplicates, sources and advisories of what we build on", run: deny },
    Step { name: "clippy", why: "lints of the workspace, warnings included", run: clippy },
];

pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<(), Failure> {
    let context = Context {
        workspace: workspace.clone(),
        on_difference: if arguments.bless { OnDifference::Bless } else { OnDifference::Fail },
        on_missing_tool: if arguments.install { OnMissingTool::Install } else { OnMissingTool::Skip },
    };
    let mut bad = Vec::new();
    let mut skipped = Vec::new();
    for entry in STEPS {
        step::open(entry.name, entry.why);
        let start = Instant::now();
        let verdict = (entry.run)(&context);
        let took = step::spoken(start.elapsed());
        match verdict {
            Verdict::Good => println!("{}: good ({took})", entry.name),
            Verdict::Skipped(reason) => {
                println!("{}: skipped: {reason}", entry.name);
                skipped.push(entry.name);
            }
            Verdict::Bad(reason) => {
                println!("{reason}\n{}: NOT GOOD ({took})", entry.name);
                bad.push(entry.name);
            }
        }
    }
    conclude(&bad, &skipped)
}

fn conclude(bad: &[&str], skipped: &[&str]) -> Result<(), Failure> {
    let left_out =
        if skipped.is_empty() { String::new() } else { format!("; left out: {}", skipped.join(", ")) };
    if bad.is_empty() {
        println!("\ntidy: good{left_out}");
        return Ok(());
    }
    Err(Failure::new(format!("tidy: not good: {}{left_out}", bad.join(", "))))
}

fn format(context: &Context) -> Verdict {
    let check = |manifest: &str| {
        shell::run(context.workspace.cargo(["fmt", "--all", "--check", "--manifest-path", manifest]))
    };
    // The fuzz targets are a workspace of their own, because they need another compiler; so is the SDK, as guests are built of it.
    check("Cargo.toml")
        .and_then(|()| check("fuzz/Cargo.toml"))
        .and_then(|()| check("sdk/rust/Cargo.toml"))
        .map_err(|failure| Failure::new(format!("{failure}; `cargo fmt --all` repairs it")))
        .into()
}

fn clippy(context: &Context) -> Verdict {
    let arguments = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    shell::run(context.workspace.cargo(arguments)).into()
}

fn rules(context: &Context) -> Verdict {
    let files = match context.workspace.text_files() {
        Ok(files) => files,
        Err(failure) => return Verdict::Bad(failure.to_string()),
    };
    let findings = rules::check_all(&files);
    if findings.is_empty() { Verdict::Good } else { Verdict::Bad(findings.join("\n")) }
}

fn ratchet(context: &Context) -> Verdict {
    ratchet::check(&context.workspace, context.on_difference).into()
}

fn golden(context: &Context) -> Verdict {
    golden::check_all(&context.workspace, context.on_difference).into()
}

fn deny(context: &Context) -> Verdict {
    deny::check(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_step_fails_the_whole() {
        assert!(conclude(&[], &["deny"]).is_ok());
        let failure = conclude(&["clippy"], &["deny"]).unwrap_err().to_string();
        assert!(failure.contains("clippy") && failure.contains("left out: deny"), "{failure}");
    }
}
