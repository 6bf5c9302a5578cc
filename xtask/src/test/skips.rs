//! Why a test did not run: from its `#[ignore = "…"]`, or from what it wrote itself.
//!
//! A test can find only while it runs that something is missing (a client, a kernel feature, a
//! right). The standard harness has no word for that, so such a test appends the line
//! `test name<TAB>reason` to the file that [`LOG_VARIABLE`] names and returns; it is then counted
//! as skipped, not as passed. `berth_tests::skip` is the other end.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::shell::Failure;
use crate::test::counts::Skip;
use crate::workspace::{TextFile, Workspace};

/// The environment variable that names the file.
pub(super) const LOG_VARIABLE: &str = "BERTH_SKIP_LOG";

/// The file in which running tests tell that they skip. Removed on drop.
pub(super) struct SkipLog {
    path: PathBuf,
}

impl SkipLog {
    pub(super) fn create(workspace: &Workspace) -> Result<Self, Failure> {
        let path = workspace.target("skipped-tests.txt");
        fs::write(&path, "")
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn read(&self) -> Result<Vec<Skip>, Failure> {
        let text = fs::read_to_string(&self.path)
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", self.path.display())))?;
        Ok(text.lines().map(parse).collect())
    }
}

impl Drop for SkipLog {
    fn drop(&mut self) {
        // The next run empties it anyway.
        let _ = fs::remove_file(&self.path);
    }
}

fn parse(line: &str) -> Skip {
    let (test, reason) = line.split_once('\t').unwrap_or((line, "the test gave no reason"));
    Skip { test: test.to_owned(), reason: reason.to_owned() }
}

/// The reasons in `#[ignore = "…"]` attributes, by the name of the function below.
pub(super) fn ignore_reasons(files: &[TextFile]) -> HashMap<String, String> {
    let mut reasons = HashMap::new();
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        let mut waiting = None;
        for line in file.text.lines().map(str::trim) {
            if let Some(reason) = line.strip_prefix("#[ignore = \"").and_then(|rest| rest.strip_suffix("\"]"))
            {
                waiting = Some(reason.to_owned());
            } else if let Some(name) = function_name(line)
                && let Some(reason) = waiting.take()
            {
                reasons.insert(name.to_owned(), reason);
            }
        }
    }
    reasons
}

fn function_name(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("fn ")?;
    rest.split_once('(').map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_belongs_to_the_function_below_it() {
        let text =
            "#[test]\nfn quick() {}\n#[test]\n#[ignore = \"an hour long\"]\nfn long() {}\nfn after() {}\n";
        let reasons = ignore_reasons(&[TextFile { path: "a.rs".to_owned(), text: text.to_owned() }]);
        assert_eq!(reasons, HashMap::from([("long".to_owned(), "an hour long".to_owned())]));
    }

    #[test]
    fn what_a_test_wrote_is_read() {
        let skip = parse("chromium_opens_a_page\tchromium is not installed");
        assert_eq!(skip.test, "chromium_opens_a_page");
        assert_eq!(skip.reason, "chromium is not installed");
        assert_eq!(parse("alone").reason, "the test gave no reason");
    }
}
