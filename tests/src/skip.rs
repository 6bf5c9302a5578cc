//! How a test says that it cannot run here.
//!
//! Only a running test can find that a client is not installed or that a right is missing. It
//! then calls [`skip`] and returns. `cargo xtask test` reads what was written, counts the test as
//! skipped instead of passed, and prints the reason; without xtask, the reason goes to the
//! captured output of the test.

use std::fs::OpenOptions;
use std::io::Write;

/// Tells that the test of this name does not run, and why: what is missing and how to get it.
///
/// Call it at most once in a test, and return right after.
///
/// # Panics
///
/// If the file that xtask named cannot be written: a skip that nobody counts would look like a pass.
pub fn skip(test: &str, reason: &str) {
    let line = format!("{test}\t{reason}\n");
    let Some(path) = std::env::var_os("BERTH_SKIP_LOG") else {
        #[allow(clippy::print_stderr, reason = "the harness captures it with the test's output")]
        {
            eprint!("skipped: {line}");
        }
        return;
    };
    let mut file =
        OpenOptions::new().append(true).create(true).open(path).expect("the skip log can be opened");
    // One write, so that lines of tests in several processes do not mix.
    file.write_all(line.as_bytes()).expect("the skip log can be written");
}
