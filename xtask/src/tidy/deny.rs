//! `cargo deny`: licences, duplicate versions, sources, advisories. The rules are in `deny.toml`.
//!
//! The advisories need a database from the network; the rest needs only the lock file. They run
//! apart, so that a machine without network still checks the rest and says what it left out.

use crate::shell::{self, Failure, Stream};
use crate::tidy::{Context, OnMissingTool, Verdict};
use crate::tools::DENY;
use crate::workspace::Workspace;

pub(super) fn check(context: &Context) -> Verdict {
    if !DENY.is_installed() {
        match context.on_missing_tool {
            OnMissingTool::Skip => {
                return Verdict::Skipped(format!(
                    "cargo-deny is not installed; `cargo xtask tidy --install` or {}",
                    DENY.how_to_install()
                ));
            }
            OnMissingTool::Install => {
                if let Err(failure) = DENY.install() {
                    return Verdict::Bad(failure.to_string());
                }
            }
        }
    }
    let rest = shell::run(context.workspace.cargo(["deny", "check", "bans", "licenses", "sources"]));
    match (rest, advisories(&context.workspace)) {
        (Err(failure), _) | (_, Err(failure)) => Verdict::Bad(failure.to_string()),
        (Ok(()), Ok(Advisories::Clean)) => Verdict::Good,
        (Ok(()), Ok(Advisories::NoDatabase)) => Verdict::Skipped(
            "licences, duplicates and sources are good; advisories not looked at, \
             because their database could not be fetched"
                .to_owned(),
        ),
    }
}

enum Advisories {
    Clean,
    NoDatabase,
}

fn advisories(workspace: &Workspace) -> Result<Advisories, Failure> {
    let mut no_database = false;
    let clean = shell::watch(workspace.cargo(["deny", "check", "advisories"]), Stream::Stderr, |line| {
        no_database |= is_fetch_error(line);
    })?;
    match (clean, no_database) {
        (true, _) => Ok(Advisories::Clean),
        (false, true) => Ok(Advisories::NoDatabase),
        (false, false) => Err(Failure::new(
            "an advisory concerns what we build on: update it, or ignore it in deny.toml with its id and a reason",
        )),
    }
}

/// cargo-deny has one exit code for an advisory and for no database; its words tell them apart.
fn is_fetch_error(line: &str) -> bool {
    line.contains("failed to fetch advisory database")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advisory_is_not_taken_for_a_missing_database() {
        assert!(is_fetch_error(
            "[ERROR] failed to fetch advisory database https://example.com/db: timed out"
        ));
        assert!(!is_fetch_error("error[vulnerability]: Use after free in foo"));
    }
}
