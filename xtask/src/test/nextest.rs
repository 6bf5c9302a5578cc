//! Running a selection of the workspace's tests: with nextest and its JUnit report where it is
//! installed, with `cargo test` elsewhere.

use std::collections::HashMap;
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::examples;
use crate::guests;
use crate::python;
use crate::shell::{self, Failure};
use crate::test::counts::{Counts, Skip};
use crate::test::skips::{self, SkipLog};
use crate::test::{Context, Runner, Scale, libtest};

/// Some of the workspace's tests, named for both runners.
pub(super) struct Selection {
    /// For messages.
    pub(super) name: &'static str,
    /// A nextest filter expression. It leaves what is built alone, so that nothing is built twice.
    pub(super) filter: &'static str,
    /// The same for `cargo test`: which targets to build,
    pub(super) targets: &'static [&'static str],
    /// and tests to leave out of them, by a part of their name.
    pub(super) leave_out: Option<&'static str>,
}

/// Where `.config/nextest.toml` puts the report: below the root, wherever the build output goes.
const REPORT: &str = "target/nextest/default/junit.xml";

/// Runs the selection and counts: passed, failed, ignored by attribute, and skipped by itself.
pub(super) fn run(context: &Context, selection: &Selection) -> Result<Counts, Failure> {
    let log = SkipLog::create(&context.workspace)?;
    let mut counts = match context.runner {
        Runner::Nextest => with_nextest(context, selection, &log)?,
        Runner::CargoTest => with_cargo_test(context, selection, &log)?,
    };
    counts.take_back(log.read()?);
    Ok(counts.or_skip(selection.name, "there is no such test yet"))
}

fn with_nextest(context: &Context, selection: &Selection, log: &SkipLog) -> Result<Counts, Failure> {
    let report = context.workspace.path(REPORT);
    // A report of an earlier run must not be taken for this one's.
    let _ = fs::remove_file(&report);
    let mut command = context.workspace.cargo(["nextest", "run", "--workspace", "--no-fail-fast"]);
    command.args(["--no-tests", "pass", "--filterset", selection.filter]);
    if context.scale == Scale::Full {
        command.args(["--run-ignored", "all"]);
    }
    let succeeded = shell::run(with_environment(command, context, log)).is_ok();
    let mut counts = match fs::read_to_string(&report).ok().as_deref().and_then(read_report) {
        Some(counts) => counts,
        None if succeeded => {
            return Err(Failure::new(format!("nextest wrote no report that we can read to {REPORT}")));
        }
        None => Counts::default(),
    };
    counts.believe_exit(selection.name, succeeded);
    if succeeded && context.scale == Scale::Quick {
        counts.skipped.extend(ignored(context, selection)?);
    }
    Ok(counts)
}

fn with_cargo_test(context: &Context, selection: &Selection, log: &SkipLog) -> Result<Counts, Failure> {
    let mut command = context.workspace.cargo(["test", "--no-fail-fast"]);
    command.args(selection.targets).arg("--");
    if let Some(part) = selection.leave_out {
        command.args(["--skip", part]);
    }
    if context.scale == Scale::Full {
        command.arg("--include-ignored");
    }
    libtest::count(selection.name, with_environment(command, context, log))
}

/// What tests may read: the scale, the program under test, and where to tell that they skip.
fn with_environment(mut command: Command, context: &Context, log: &SkipLog) -> Command {
    command
        .env("BERTH_TEST_SCALE", context.scale.name())
        .env("BERTH_BIN", context.workspace.target("debug/berth"))
        .env("BERTH_GUESTS", guests::component(&context.workspace))
        .env("BERTH_EXAMPLES", context.workspace.target(examples::FOLDER))
        .env("BERTH_PYTHON", python::interpreter(&context.workspace))
        .env(skips::LOG_VARIABLE, log.path());
    command
}

/// The totals in the first element of a JUnit report: `<testsuites tests="3" failures="1" …>`.
/// `None` if one of them is missing: what cannot be read must not count as nothing failed.
fn read_report(xml: &str) -> Option<Counts> {
    let (_, rest) = xml.split_once("<testsuites ")?;
    let (element, _) = rest.split_once('>')?;
    let number = |name: &str| attribute(element, name)?.parse::<usize>().ok();
    let failed = number("failures")? + number("errors")?;
    Some(Counts { passed: number("tests")?.checked_sub(failed)?, failed, ..Counts::default() })
}

fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = element.split_once(&format!("{name}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

/// The selection's tests with an `#[ignore]` attribute. nextest knows which they are, but not why;
/// the reason is read from the sources.
fn ignored(context: &Context, selection: &Selection) -> Result<Vec<Skip>, Failure> {
    let mut command = context.workspace.cargo(["nextest", "list", "--workspace", "--run-ignored", "only"]);
    command.args(["--message-format", "json", "--filterset", selection.filter]);
    let list = shell::capture(command)?;
    let list = serde_json::from_str(&list).map_err(|error| Failure::new(format!("nextest list: {error}")))?;
    let reasons = skips::ignore_reasons(&context.workspace.text_files()?);
    Ok(skips_of(&list, &reasons))
}

fn skips_of(list: &Value, reasons: &HashMap<String, String>) -> Vec<Skip> {
    let suites = list["rust-suites"].as_object().into_iter().flatten();
    let cases = suites.flat_map(|(suite, body)| {
        body["testcases"].as_object().into_iter().flatten().map(move |(test, case)| (suite, test, case))
    });
    cases
        .filter(|(_, _, case)| case["ignored"] == true && case["filter-match"]["status"] == "matches")
        .map(|(suite, test, _)| {
            let function = test.rsplit("::").next().unwrap_or(test);
            let reason = reasons.get(function).map_or("marked #[ignore]", String::as_str);
            Skip { test: format!("{suite} {test}"), reason: reason.to_owned() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_totals_of_a_report_are_read() {
        let counts = read_report(
            "<?xml version=\"1.0\"?>\n<testsuites name=\"nextest-run\" tests=\"7\" failures=\"1\" errors=\"1\" time=\"0.2\">\n\
             <testsuite name=\"a\" tests=\"3\" disabled=\"0\" errors=\"0\" failures=\"1\">",
        );
        assert_eq!(counts.unwrap().to_string(), "5 passed, 2 failed, 0 skipped");
    }

    #[test]
    fn a_report_that_cannot_be_read_is_not_a_report_of_nothing() {
        for xml in
            ["", "<?xml version", "<testsuites tests=\"7\" failures=\"1\">", "<testsuites tests=\"x\" "]
        {
            assert_eq!(read_report(xml), None, "{xml}");
        }
    }

    #[test]
    fn ignored_tests_are_listed_with_their_reason() {
        let case = |status: &str| json!({ "ignored": true, "filter-match": { "status": status } });
        let list = json!({ "rust-suites": { "berth-runtime": { "testcases": {
            "ring::soak": case("matches"), "ring::other": case("mismatch"),
        }}}});
        let reasons = HashMap::from([("soak".to_owned(), "ten minutes long".to_owned())]);
        let skips = skips_of(&list, &reasons);
        assert_eq!(skips.len(), 1);
        assert_eq!(skips[0].test, "berth-runtime ring::soak");
        assert_eq!(skips[0].reason, "ten minutes long");
    }
}
