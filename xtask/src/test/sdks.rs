//! The tests that the SDKs bring themselves: in Rust by cargo, in JavaScript by Node.js. What they do on a node, the examples'
//! stories show.

use std::process::Command;

use crate::debian::{self, Need};
use crate::guests;
use crate::shell::{self, Failure, Stream};
use crate::test::Context;
use crate::test::counts::{Counts, Skip};
use crate::test::libtest;

const NODE: Need =
    Need { program: "node", probe: &["--version"], package: "nodejs", used_for: "the SDK in JavaScript" };

/// Both, one after the other.
pub(super) fn run(context: &Context) -> Result<Counts, Failure> {
    let mut counts = rust(context)?;
    counts.add(javascript(context)?);
    Ok(counts)
}

/// Its own workspace, in the folder where everything for guests is built.
fn rust(context: &Context) -> Result<Counts, Failure> {
    let mut command = context.workspace.cargo([
        "test",
        "--locked",
        "--no-fail-fast",
        "--manifest-path",
        "sdk/rust/Cargo.toml",
    ]);
    command.arg("--target-dir").arg(context.workspace.target(guests::FOLDER));
    libtest::count("the tests of sdk/rust", command)
}

fn javascript(context: &Context) -> Result<Counts, Failure> {
    if let Some(missing) = debian::provide(&[NODE]).first() {
        return Ok(Counts::skipped("sdk/js", format!("no {}: {}", missing.need.package, missing.reason)));
    }
    let mut command = Command::new("node");
    command.args(["--test", "--test-reporter=tap"]).current_dir(context.workspace.path("sdk/js"));
    let mut counts = Counts::default();
    let succeeded = shell::watch(command, Stream::Stdout, |line| read_line(line, &mut counts))?;
    counts.believe_exit("the tests of sdk/js", succeeded);
    Ok(counts.or_skip("sdk/js", "Node.js found no test there"))
}

/// The sums at the end of what Node.js prints, and the tests that it left out.
fn read_line(line: &str, counts: &mut Counts) {
    let sum = |name: &str| line.strip_prefix(name).and_then(|number| number.trim().parse::<usize>().ok());
    if let Some(passed) = sum("# pass ") {
        counts.passed += passed;
    } else if let Some(failed) = sum("# fail ").or_else(|| sum("# cancelled ")) {
        counts.failed += failed;
    } else if let Some((test, reason)) = line.split_once(" # SKIP") {
        let (test, reason) = (test.trim().to_owned(), reason.trim().to_owned());
        counts.skipped.push(Skip { test, reason });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_node_prints_is_added_up() {
        let mut counts = Counts::default();
        let output = "TAP version 13\nok 1 - a test\nnot ok 2 - another\nok 3 - a third # SKIP no reason\n\
                      1..3\n# tests 3\n# pass 1\n# fail 1\n# cancelled 0\n# skipped 1\n# duration_ms 4.2\n";
        output.lines().for_each(|line| read_line(line, &mut counts));
        let skip = Skip { test: "ok 3 - a third".to_owned(), reason: "no reason".to_owned() };
        assert_eq!(counts, Counts { passed: 1, failed: 1, skipped: vec![skip], broken: Vec::new() });
    }
}
