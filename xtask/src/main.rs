//! Project automation: `cargo xtask tidy | test | demo | fuzz | perf`.
//!
//! What a contributor types by hand and what CI runs are the same commands, so that a green run
//! here means a green run there. This crate knows every other crate by name and is known by none;
//! it only starts programs, reads their output, and decides. It keeps to a few dependencies,
//! because everybody builds it first.
//!
//! A command that is named in the documentation but not built yet says so and exits 1.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this program talks to a terminal")]
#![forbid(unsafe_code)]

mod debian;
mod demo;
mod ebpf;
mod examples;
mod fuzz;
mod guests;
mod python;
mod shell;
mod step;
mod test;
mod tidy;
mod tools;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::examples::JavaScript;
use crate::shell::Failure;
use crate::workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Project automation of Berth")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Formats, lints, dependency direction, golden files, source rules, licences
    Tidy(tidy::Arguments),
    /// Every test; the last line is `N passed, N failed, N skipped`
    Test(test::Arguments),
    /// Build Berth, start a node and show how to talk to it
    Demo(demo::Arguments),
    /// Run the fuzz targets for a while and print their coverage
    Fuzz(fuzz::Arguments),
    /// Run a suite of the perf harness in release mode (`cargo xtask perf --help`)
    #[command(disable_help_flag = true)]
    Perf {
        /// Passed to the perf harness as they are
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Rebuild the object with the steering programs, or compare it with the committed one
    Ebpf(ebpf::Arguments),
    /// Build the guests of the tests, and the examples
    Guests,
    /// Build a Debian package (not built yet)
    Package(NotBuilt),
    /// Simulate a network of nodes from a seed (not built yet)
    Sim(NotBuilt),
}

/// Arguments of a command that does not exist yet: whatever they are, the answer is the same.
#[derive(clap::Args)]
struct NotBuilt {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    arguments: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    let workspace = Workspace::find()?;
    match command {
        Command::Tidy(arguments) => tidy::run(&workspace, &arguments),
        Command::Test(arguments) => test::run(&workspace, &arguments),
        Command::Demo(arguments) => demo::run(&workspace, &arguments),
        Command::Fuzz(arguments) => fuzz::run(&workspace, &arguments),
        Command::Perf { arguments } => perf(&workspace, &arguments),
        Command::Ebpf(arguments) => ebpf::run(&workspace, &arguments),
        Command::Guests => guests(&workspace),
        Command::Package(_) => Err(not_built("package", "the Debian package")),
        Command::Sim(_) => Err(not_built("sim", "the simulation of a network of nodes")),
    }
}

fn guests(workspace: &Workspace) -> Result<(), Failure> {
    guests::build(workspace)?;
    if let JavaScript::LeftOut(why) = examples::build(workspace)? {
        println!("{} are left out: {why}", examples::javascript_names());
    }
    Ok(())
}

fn perf(workspace: &Workspace, arguments: &[String]) -> Result<(), Failure> {
    let mut harness = workspace.cargo(["run", "--quiet", "--release", "--package", "berth-perf", "--"]);
    harness.args(arguments);
    shell::run(harness)?;
    match arguments.first().map(String::as_str) {
        Some("steer") if !arguments.iter().any(|argument| argument == "--help") => tosses(workspace),
        _ => Ok(()),
    }
}

/// The end-to-end part of steering's figures: a measurement with whole nodes, which the tests' harness starts.
fn tosses(workspace: &Workspace) -> Result<(), Failure> {
    if let Some(missing) = debian::provide(&python::PYTHON).first() {
        return Err(Failure::new(format!("no {}: {}", missing.need.package, missing.reason)));
    }
    python::provide(workspace)?;
    let packages = ["--package", "berth-cli", "--package", "berth-tests", "--bins"];
    let mut build = workspace.cargo(["build", "--quiet", "--release"]);
    build.args(packages);
    shell::run(build)?;
    let mut tosses = std::process::Command::new(workspace.target("release/tosses"));
    tosses.env("BERTH_BIN", workspace.target("release/berth"));
    tosses.env("BERTH_PYTHON", python::interpreter(workspace));
    shell::run(tosses)
}

fn not_built(command: &str, part: &str) -> Failure {
    Failure::new(format!(
        "`cargo xtask {command}` is not built yet: it arrives together with {part}; see CHANGELOG.md for what is there"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn perf_receives_its_own_flags() {
        let parsed = Arguments::try_parse_from(["cargo xtask", "perf", "http", "--gate", "--help"]).unwrap();
        let Command::Perf { arguments } = parsed.command else { panic!("expected perf") };
        assert_eq!(arguments, ["http", "--gate", "--help"]);
    }

    #[test]
    fn a_command_that_is_not_built_says_so_whatever_its_flags() {
        let parsed = Arguments::try_parse_from(["cargo xtask", "package", "--check"]).unwrap();
        let failure = run(parsed.command).unwrap_err();
        assert!(failure.to_string().contains("not built yet"), "{failure}");
    }
}
