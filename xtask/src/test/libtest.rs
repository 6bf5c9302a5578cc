//! Running `cargo test` and reading what the standard test harness prints.
//!
//! Its text is stable in practice and the same for units, doc tests, loom and Miri; its JSON form
//! still needs a nightly compiler.

use std::process::Command;

use crate::shell::{self, Failure, Stream};
use crate::test::counts::{Counts, Skip};

/// Runs a command that ends up in the standard harness, shows its output, and counts.
pub(super) fn count(what: &str, command: Command) -> Result<Counts, Failure> {
    let mut counts = Counts::default();
    let succeeded = shell::watch(command, Stream::Stdout, |line| read_line(line, &mut counts))?;
    counts.believe_exit(what, succeeded);
    Ok(counts)
}

fn read_line(line: &str, counts: &mut Counts) {
    if let Some(summary) = line.strip_prefix("test result: ") {
        counts.passed += number_before(summary, " passed");
        counts.failed += number_before(summary, " failed");
    } else if let Some(skip) = ignored(line) {
        counts.skipped.push(skip);
    }
}

/// The number that stands right before a word: 3 in `ok. 3 passed; 0 failed`.
fn number_before(text: &str, word: &str) -> usize {
    let Some(end) = text.find(word) else { return 0 };
    let digits = text[..end].rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().unwrap_or(0)
}

/// `test a::b ... ignored, reason` or, for doc tests, without a reason.
fn ignored(line: &str) -> Option<Skip> {
    let (test, verdict) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let reason = verdict.strip_prefix("ignored")?;
    let reason = reason.strip_prefix(", ").unwrap_or("marked `ignore` in its documentation");
    Some(Skip { test: test.to_owned(), reason: reason.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str) -> Counts {
        let mut counts = Counts::default();
        output.lines().for_each(|line| read_line(line, &mut counts));
        counts
    }

    #[test]
    fn several_test_programs_are_added_up() {
        let counts = read(
            "running 3 tests\n\
             test a::one ... ok\n\
             test a::two ... FAILED\n\
             test a::long ... ignored, an hour long\n\
             test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             running 12 tests\n\
             test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s\n",
        );
        assert_eq!(counts.to_string(), "13 passed, 1 failed, 1 skipped");
        assert_eq!(counts.skipped[0].reason, "an hour long");
    }

    #[test]
    fn an_ignored_doc_test_gets_the_reason_that_there_is() {
        let counts = read("test src/lib.rs - f (line 3) ... ignored\n");
        assert_eq!(counts.skipped[0].test, "src/lib.rs - f (line 3)");
    }

    #[test]
    fn a_program_that_does_not_build_is_a_failure() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'error: could not compile' >&2; exit 101"]);
        assert_eq!(count("doc tests", command).unwrap().failed, 1);
    }
}
