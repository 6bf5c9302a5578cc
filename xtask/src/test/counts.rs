//! How many tests passed, failed and were skipped, and why.

use std::fmt;

use crate::shell::Failure;

/// A test, or a whole step, that did not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Skip {
    pub(super) test: String,
    pub(super) reason: String,
}

/// The result of one step, and the sum of all of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) skipped: Vec<Skip>,
    /// Steps that failed as a whole, as sentences. Each is also counted in `failed`.
    pub(super) broken: Vec<String>,
}

impl Counts {
    /// A step that could not even say which of its tests failed.
    pub(super) fn broken(step: &str, failure: &Failure) -> Self {
        Self { failed: 1, broken: vec![format!("{step}: {failure}")], ..Self::default() }
    }

    /// A step that was not run.
    pub(super) fn skipped(step: &str, reason: impl Into<String>) -> Self {
        Self { skipped: vec![Skip { test: step.to_owned(), reason: reason.into() }], ..Self::default() }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
        self.broken.extend(other.broken);
    }

    /// Believes the exit code of a test program over its words: what exits with an error and names
    /// no failed test did not build, or died.
    pub(super) fn believe_exit(&mut self, what: &str, succeeded: bool) {
        if !succeeded && self.failed == 0 {
            self.failed = 1;
            self.broken.push(format!("{what} failed without naming a test: it did not build, or died"));
        }
    }

    /// A step that found no test at all did not pass: it says so.
    pub(super) fn or_skip(self, step: &str, reason: &str) -> Self {
        if self == Self::default() { Self::skipped(step, reason) } else { self }
    }

    /// Moves tests that passed only because they skipped themselves to the skipped ones.
    pub(super) fn take_back(&mut self, skips: Vec<Skip>) {
        self.passed = self.passed.saturating_sub(skips.len());
        self.skipped.extend(skips);
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_scripts_read_keeps_its_form() {
        let mut counts = Counts { passed: 12, ..Counts::default() };
        counts.add(Counts::skipped("miri", "not installed"));
        assert_eq!(counts.to_string(), "12 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn an_exit_with_an_error_is_a_failure_even_without_a_failed_test() {
        let mut counts = Counts { passed: 3, ..Counts::default() };
        counts.believe_exit("doc tests", false);
        assert_eq!((counts.failed, counts.broken.len()), (1, 1));
        counts.believe_exit("doc tests", false);
        assert_eq!(counts.failed, 1, "a failure that is known is not counted twice");
    }

    #[test]
    fn a_step_without_tests_is_a_skip_and_not_a_success() {
        assert_eq!(Counts::default().or_skip("loom", "none").skipped.len(), 1);
        let some = Counts { passed: 1, ..Counts::default() };
        assert_eq!(some.or_skip("loom", "none").passed, 1);
    }

    #[test]
    fn a_test_that_skipped_itself_did_not_pass() {
        let mut counts = Counts { passed: 3, ..Counts::default() };
        counts.take_back(vec![Skip { test: "chromium".to_owned(), reason: "not here".to_owned() }]);
        assert_eq!(counts.to_string(), "2 passed, 0 failed, 1 skipped");
    }
}
