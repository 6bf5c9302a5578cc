//! `cargo xtask fuzz`: the parsers of peer bytes, fed by libFuzzer.
//!
//! The targets live in `fuzz/`, a workspace of their own, because they need a nightly compiler.
//! Each calls one function of a crate; `cargo xtask test` feeds the same functions with the
//! committed inputs on the stable compiler.
//!
//! Inputs live in two places. `fuzz/seeds/<target>/` is written by people: one file with a telling
//! name for each idea, and every input that once broke something; nothing ever removes one.
//! `fuzz/corpus/<target>/` is written by the fuzzer, and reduced after each run to inputs that reach
//! something new, so that what is committed stays small.

use std::fs;
use std::path::Path;

use crate::shell::{self, Failure, Stream};
use crate::tools::{self, FUZZ};
use crate::workspace::Workspace;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// One target; all of them if left out
    target: Option<String>,
    /// For each target
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=24 * 60))]
    minutes: u64,
}

/// One input may not take longer: a parser that needs more for what fits in a corpus file is broken.
const INPUT_SECONDS_MAX: u64 = 5;
/// Larger than the largest head that a listener accepts (32 KiB by default), so that the bounds are met too.
const INPUT_BYTES_MAX: usize = 64 * 1024;

/// What libFuzzer last said of a target.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Coverage {
    runs: u64,
    /// Edges of the control flow that were taken.
    edges: u64,
    /// Edges told apart by how often they were taken.
    features: u64,
}

pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<(), Failure> {
    let known = targets(workspace)?;
    let chosen = match &arguments.target {
        None => known,
        Some(target) if known.contains(target) => vec![target.clone()],
        Some(target) => {
            return Err(Failure::new(format!(
                "there is no fuzz target `{target}`; there are: {}",
                known.join(", ")
            )));
        }
    };
    provide_fuzzer()?;
    let mut table = Vec::new();
    let mut crashed = Vec::new();
    for target in &chosen {
        let (coverage, outcome) = fuzz(workspace, target, arguments.minutes)?;
        table.push((target, coverage, corpus_size(workspace, target)));
        if let Outcome::Crashed = outcome {
            crashed.push(target.as_str());
        }
    }
    println!("\n{:<20} {:>12} {:>8} {:>9} {:>7}", "target", "runs", "edges", "features", "corpus");
    for (target, coverage, corpus) in &table {
        let Coverage { runs, edges, features } = coverage;
        println!("{target:<20} {runs:>12} {edges:>8} {features:>9} {corpus:>7}");
    }
    if crashed.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "found an input that breaks: {}; the inputs are in fuzz/artifacts/. Repair the parser, then keep the input in fuzz/seeds/ under a telling name",
        crashed.join(", ")
    )))
}

enum Outcome {
    Held,
    Crashed,
}

/// The targets are the files in `fuzz/fuzz_targets/`.
fn targets(workspace: &Workspace) -> Result<Vec<String>, Failure> {
    let folder = workspace.path("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", folder.display())))?;
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

fn provide_fuzzer() -> Result<(), Failure> {
    if !tools::has_nightly() {
        let how = tools::HOW_TO_INSTALL_NIGHTLY;
        return Err(Failure::new(format!("fuzzing needs a nightly compiler; {how} brings it")));
    }
    if FUZZ.is_installed() { Ok(()) } else { FUZZ.install() }
}

fn fuzz(workspace: &Workspace, target: &str, minutes: u64) -> Result<(Coverage, Outcome), Failure> {
    let corpus = workspace.path(&format!("fuzz/corpus/{target}"));
    fs::create_dir_all(&corpus)
        .map_err(|error| Failure::new(format!("cannot make {}: {error}", corpus.display())))?;
    let mut command = workspace.cargo(["+nightly", "fuzz", "run", target]);
    // libFuzzer reads all folders and writes to the first.
    command.args([format!("fuzz/corpus/{target}"), format!("fuzz/seeds/{target}"), "--".to_owned()]);
    command.args([
        format!("-max_total_time={}", minutes * 60),
        format!("-timeout={INPUT_SECONDS_MAX}"),
        format!("-max_len={INPUT_BYTES_MAX}"),
    ]);
    let mut coverage = Coverage::default();
    let succeeded = shell::watch(command, Stream::Stderr, |line| coverage.read(line))?;
    if !succeeded {
        return Ok((coverage, Outcome::Crashed));
    }
    shell::run(workspace.cargo(["+nightly", "fuzz", "cmin", target]))?;
    Ok((coverage, Outcome::Held))
}

impl Coverage {
    /// Reads a status line: `#4096 pulse  cov: 120 ft: 300 corp: 20/1Kb …`.
    fn read(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix('#') else { return };
        let Some(edges) = number_after(rest, "cov: ") else { return };
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        self.runs = digits.parse().unwrap_or(self.runs);
        self.edges = edges;
        self.features = number_after(rest, "ft: ").unwrap_or(self.features);
    }
}

fn number_after(line: &str, key: &str) -> Option<u64> {
    let (_, rest) = line.split_once(key)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn corpus_size(workspace: &Workspace, target: &str) -> usize {
    let count = |folder: &Path| fs::read_dir(folder).map_or(0, |entries| entries.flatten().count());
    count(&workspace.path(&format!("fuzz/corpus/{target}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_status_line_counts() {
        let mut coverage = Coverage::default();
        for line in [
            "INFO: Seed: 1",
            "#2\tINITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 40Mb",
            "#4096\tpulse  cov: 120 ft: 300 corp: 20/1Kb lim: 43 exec/s: 2048 rss: 45Mb",
            "Done 5000 runs in 2 second(s)",
        ] {
            coverage.read(line);
        }
        assert_eq!(coverage, Coverage { runs: 4096, edges: 120, features: 300 });
    }

    #[test]
    fn every_target_has_a_replay_on_stable() {
        let workspace = Workspace::find().unwrap();
        let replay = workspace.read("tests/tests/corpora.rs").unwrap().unwrap();
        for target in targets(&workspace).unwrap() {
            assert!(
                replay.contains(&format!("corpus_of_{target}(")),
                "tests/tests/corpora.rs does not replay {target}"
            );
        }
    }
}
