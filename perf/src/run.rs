//! The runner: takes every trial of a suite from ours and from its peer, A B A B, and judges the rounds.
//!
//! Each run has a fresh server in a fresh folder, so that no run inherits another's heap, caches or connections. A
//! run that does not count is repeated, [`ATTEMPTS`] times in all, and every attempt stays in the report with its
//! reason: repeating until a number pleases would show. A round counts when both of its runs do.
//!
//! Errors of one run (a server that crashed, a client that was refused) are results: they make the run not count.
//! Only what would fail every run, a missing program say, ends the suite.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Serialize;

use crate::answer::{Answer, AnswerError};
use crate::cpu::{self, Cpus, Standing, Usage};
use crate::figure::{Figure, ROUNDS_MIN, Spread, Verdict};
use crate::machine::Machine;
use crate::peer::{Peer, PeerError, Protocol, Server, Workshop};
use crate::sys;
use crate::tool::{H2LOAD, PERF, WRK};

/// How often a run that does not count is tried in all. Three separates a passing disturbance from a client that
/// is always the limit.
pub(crate) const ATTEMPTS: u32 = 3;
/// How long a run waits for other programs to leave both CPUs alone. After that it is tried all the same, and its
/// own numbers tell whether it counts.
const QUIET_LIMIT: Duration = Duration::from_secs(10);
/// Heads of the two answers may differ by this share before the report warns.
const HEAD_DIFFERENCE_MAX: f64 = 0.25;

/// How one figure is taken from one running server.
pub(crate) trait Trial {
    fn figure(&self) -> Figure;
    /// Whether a suite takes it without being asked by name.
    fn taken(&self) -> Taken {
        Taken::Always
    }
    /// One measurement. The server is fresh and idle.
    fn run(&self, server: &mut Server, plan: &Plan) -> Result<Run, Box<dyn std::error::Error>>;
}

/// Figures that are taken from the same two servers, over the same protocol.
#[derive(Clone)]
pub(crate) struct Comparison<'a> {
    pub(crate) ours: &'a dyn Peer,
    pub(crate) theirs: &'a dyn Peer,
    pub(crate) protocol: Protocol,
    pub(crate) trials: Vec<&'a dyn Trial>,
}

/// When a suite takes a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Taken {
    Always,
    /// A cross-check that judges the same question twice.
    ByName,
}

/// How much to measure, and where.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    /// Length of one measured run of load.
    pub(crate) seconds: u64,
    pub(crate) cpus: Cpus,
    /// Where to put a profile of each figure that misses its bar.
    pub(crate) profiles: Option<PathBuf>,
}

/// One run of one peer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    /// In the unit of the figure.
    pub(crate) value: f64,
    pub(crate) standing: Standing,
    pub(crate) usage: Option<Usage>,
    pub(crate) command: String,
    pub(crate) detail: BTreeMap<&'static str, f64>,
}

impl Run {
    fn failed(reason: String) -> Self {
        Self {
            value: f64::NAN,
            standing: Standing::NotCounted(reason),
            usage: None,
            command: String::new(),
            detail: BTreeMap::new(),
        }
    }

    pub(crate) fn counts(&self) -> bool {
        !matches!(self.standing, Standing::NotCounted(_))
    }
}

/// All attempts of both sides in one round; the last attempt of each is the one that may count.
#[derive(Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) ours: Vec<Run>,
    pub(crate) theirs: Vec<Run>,
}

impl Round {
    /// The values of the last attempts, whether they count or not.
    fn values(&self) -> Option<(f64, f64)> {
        Some((self.ours.last()?.value, self.theirs.last()?.value))
    }

    fn counts(&self) -> bool {
        [&self.ours, &self.theirs].iter().all(|runs| runs.last().is_some_and(Run::counts))
    }
}

/// One figure with everything that led to its verdict.
#[derive(Debug, Serialize)]
pub(crate) struct FigureReport {
    pub(crate) figure: Figure,
    pub(crate) our_name: &'static str,
    pub(crate) their_name: &'static str,
    pub(crate) verdict: Verdict,
    pub(crate) aim_reached: bool,
    /// Of what is judged: the ratio of each round, or our value.
    pub(crate) judged: Option<Spread>,
    pub(crate) ratio: Option<Spread>,
    pub(crate) ours: Option<Spread>,
    pub(crate) theirs: Option<Spread>,
    /// When too few rounds counted: the ratio of all of them, for information. It is never judged.
    pub(crate) uncounted_ratio: Option<Spread>,
    pub(crate) rounds: Vec<Round>,
}

impl FigureReport {
    /// Whether a profile of the CPU could explain it.
    fn is_of_cpu(&self) -> bool {
        self.rounds.iter().flat_map(|round| &round.ours).any(|run| run.usage.is_some())
    }
}

/// A peer as it was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Side {
    pub(crate) name: &'static str,
    pub(crate) version: String,
    pub(crate) command: String,
    pub(crate) configuration: String,
    pub(crate) answers: BTreeMap<Protocol, Answer>,
}

/// Everything that a suite found.
#[derive(Debug, Serialize)]
pub(crate) struct SuiteReport {
    pub(crate) suite: &'static str,
    pub(crate) machine: Machine,
    pub(crate) plan: Plan,
    pub(crate) tools: BTreeMap<&'static str, String>,
    pub(crate) sides: Vec<Side>,
    pub(crate) warnings: Vec<String>,
    pub(crate) figures: Vec<FigureReport>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("could not ask {peer} for its answer before measuring")]
    Answer { peer: &'static str, source: AnswerError },
    #[error(
        "{peer} answered with status {status} and a body of {body_bytes} bytes, expected 200 and {expected}"
    )]
    Unequal { peer: &'static str, status: u16, body_bytes: usize, expected: usize },
}

/// Runs a suite from end to end.
pub(crate) fn run_suite(
    suite: &'static str,
    comparisons: &[Comparison<'_>],
    plan: &Plan,
) -> Result<SuiteReport, RunError> {
    let mut workshop = Workshop::open()?;
    let sides = introduce_all(comparisons, &mut workshop, plan)?;
    let mut report = SuiteReport {
        suite,
        machine: Machine::look(plan.cpus.server),
        plan: plan.clone(),
        tools: BTreeMap::from([
            ("wrk", WRK.version("--version").map_err(PeerError::from)?),
            ("h2load", H2LOAD.version("--version").map_err(PeerError::from)?),
        ]),
        warnings: comparisons.iter().filter_map(|comparison| unequal_heads(comparison, &sides)).collect(),
        sides,
        figures: Vec::new(),
    };
    for comparison in comparisons {
        for trial in &comparison.trials {
            let figure = take_figure(*trial, comparison, &mut workshop, plan);
            if figure.verdict == Verdict::Missed
                && figure.is_of_cpu()
                && let Some(folder) = &plan.profiles
                && let Err(error) = profile(*trial, comparison.ours, &mut workshop, plan, folder)
            {
                report.warnings.push(format!("no profile of {}: {error}", figure.figure.key));
            }
            report.figures.push(figure);
        }
    }
    Ok(report)
}

/// Every peer of the comparisons, once, with an answer over each protocol that it is asked over.
fn introduce_all(
    comparisons: &[Comparison<'_>],
    workshop: &mut Workshop,
    plan: &Plan,
) -> Result<Vec<Side>, RunError> {
    let mut peers: Vec<(&dyn Peer, BTreeSet<Protocol>)> = Vec::new();
    for comparison in comparisons {
        for peer in [comparison.ours, comparison.theirs] {
            match peers.iter_mut().find(|(known, _)| known.name() == peer.name()) {
                Some((_, protocols)) => {
                    protocols.insert(peer.speaks(comparison.protocol));
                }
                None => peers.push((peer, BTreeSet::from([peer.speaks(comparison.protocol)]))),
            }
        }
    }
    peers.iter().map(|(peer, protocols)| introduce(*peer, protocols, workshop, plan)).collect()
}

/// Starts a peer once, to see that it answers what it should and to write down how it was started.
fn introduce(
    peer: &dyn Peer,
    protocols: &BTreeSet<Protocol>,
    workshop: &mut Workshop,
    plan: &Plan,
) -> Result<Side, RunError> {
    peer.ensure()?;
    let site = workshop.site(plan.cpus.server)?;
    let command = peer.command(&site, Path::new("server.conf"))?;
    let server = Server::start(peer, site)?;
    let mut answers = BTreeMap::new();
    for protocol in protocols {
        let answer = protocol
            .probe(&server.site, peer.path())
            .map_err(|source| RunError::Answer { peer: peer.name(), source })?;
        let expected = peer.body_bytes();
        if answer.status != 200 || answer.body_bytes != expected {
            let Answer { status, body_bytes, .. } = answer;
            return Err(RunError::Unequal { peer: peer.name(), status, body_bytes, expected });
        }
        answers.insert(*protocol, answer);
    }
    Ok(Side {
        name: peer.name(),
        version: peer.version()?,
        command: command_line(&command),
        configuration: peer.configuration(&server.site),
        answers,
    })
}

/// An answer without a head is not compared: that peer speaks no HTTP.
fn unequal_heads(comparison: &Comparison<'_>, sides: &[Side]) -> Option<String> {
    let head_bytes = |peer: &dyn Peer| {
        let side = sides.iter().find(|side| side.name == peer.name())?;
        side.answers.get(&comparison.protocol).map(|answer| answer.head_bytes).filter(|&bytes| bytes > 0)
    };
    let (ours, theirs) = (head_bytes(comparison.ours)?, head_bytes(comparison.theirs)?);
    (ours.abs_diff(theirs) as f64 / theirs as f64 > HEAD_DIFFERENCE_MAX).then(|| {
        format!(
            "the answers' heads differ: {ours} bytes of {}, {theirs} bytes of {}",
            comparison.ours.name(),
            comparison.theirs.name()
        )
    })
}

fn take_figure(
    trial: &dyn Trial,
    comparison: &Comparison<'_>,
    workshop: &mut Workshop,
    plan: &Plan,
) -> FigureReport {
    let figure = trial.figure();
    let mut rounds = Vec::new();
    for round in 1..=plan.rounds {
        let mut side = |peer: &dyn Peer| {
            let runs = attempts(trial, peer, workshop, plan);
            progress(&figure, round, plan.rounds, peer.name(), &runs);
            runs
        };
        rounds.push(Round { ours: side(comparison.ours), theirs: side(comparison.theirs) });
    }
    judge(figure, comparison.ours.name(), comparison.theirs.name(), rounds)
}

fn attempts(trial: &dyn Trial, peer: &dyn Peer, workshop: &mut Workshop, plan: &Plan) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    while runs.len() < ATTEMPTS as usize && !runs.last().is_some_and(Run::counts) {
        runs.push(attempt(trial, peer, workshop, plan).unwrap_or_else(|error| Run::failed(chain(&*error))));
    }
    runs
}

fn attempt(
    trial: &dyn Trial,
    peer: &dyn Peer,
    workshop: &mut Workshop,
    plan: &Plan,
) -> Result<Run, Box<dyn std::error::Error>> {
    let mut server = start(peer, workshop, plan)?;
    let mut run = trial.run(&mut server, plan)?;
    run.detail.insert("moved_threads", server.moved_threads as f64);
    Ok(run)
}

/// A fresh server on a machine that is as quiet as it gets.
fn start(peer: &dyn Peer, workshop: &mut Workshop, plan: &Plan) -> Result<Server, PeerError> {
    cpu::wait_until_quiet(plan.cpus, QUIET_LIMIT)?;
    Server::start(peer, workshop.site(plan.cpus.server)?)
}

fn judge(
    figure: Figure,
    our_name: &'static str,
    their_name: &'static str,
    rounds: Vec<Round>,
) -> FigureReport {
    let pairs: Vec<(f64, f64)> =
        rounds.iter().filter(|round| round.counts()).filter_map(Round::values).collect();
    let all_ratios: Vec<f64> =
        rounds.iter().filter_map(Round::values).map(|(ours, theirs)| ours / theirs).collect();
    let spread = |value: &dyn Fn(f64, f64) -> f64| {
        Spread::of(&pairs.iter().map(|&(ours, theirs)| value(ours, theirs)).collect::<Vec<_>>())
    };
    let judged: Vec<f64> = pairs.iter().map(|&(ours, theirs)| figure.judged_value(ours, theirs)).collect();
    let judged_spread = Spread::of(&judged);
    FigureReport {
        verdict: figure.verdict(&judged, rounds.len()),
        aim_reached: judged_spread.is_some_and(|spread| figure.reaches_aim(spread)),
        judged: judged_spread,
        ratio: spread(&|ours, theirs| ours / theirs),
        ours: spread(&|ours, _| ours),
        theirs: spread(&|_, theirs| theirs),
        uncounted_ratio: if pairs.len() < ROUNDS_MIN { Spread::of(&all_ratios) } else { None },
        figure,
        our_name,
        their_name,
        rounds,
    }
}

fn progress(figure: &Figure, round: usize, rounds: usize, peer: &str, runs: &[Run]) {
    for run in runs {
        let what = match &run.standing {
            Standing::Counted => format!("{:.1} {}", run.value, figure.unit),
            Standing::Unsaturated(busy) => {
                format!("{:.1} {} (server {:.0} % busy)", run.value, figure.unit, busy * 100.0)
            }
            Standing::NotCounted(reason) => format!("not counted: {reason}"),
        };
        eprintln!("{:<14} round {round}/{rounds}  {peer:<10} {what}", figure.key);
    }
}

/// One more run of ours, under `perf`, which watches the server's CPU only.
fn profile(
    trial: &dyn Trial,
    ours: &dyn Peer,
    workshop: &mut Workshop,
    plan: &Plan,
    folder: &Path,
) -> Result<(), Box<dyn std::error::Error>> {
    let perf = PERF.ensure()?;
    fs::create_dir_all(folder)?;
    let key = trial.figure().key;
    let data = folder.join(format!("{key}.data"));
    let mut record = Command::new(&perf);
    record.args(["record", "-q", "-F", "997", "-g", "-C", &plan.cpus.server.to_string(), "-o"]).arg(&data);
    // Ends by itself, some time after the run has begun; warming up is profiled too, and does the same work.
    record.args(["--", "sleep", &plan.seconds.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    sys::pin_on_spawn(&mut record, plan.cpus.client);
    let mut server = start(ours, workshop, plan)?;
    let mut recording = record.spawn()?;
    let run = trial.run(&mut server, plan);
    recording.wait()?;
    run?;
    let mut report = Command::new(&perf);
    report
        .args(["report", "--stdio", "--no-children", "-g", "none", "--percent-limit", "0.5", "-i"])
        .arg(&data);
    let listing = folder.join(format!("{key}.txt"));
    fs::write(&listing, report.output()?.stdout)?;
    eprintln!("profile of {key}: {} (call graphs: perf report -i {})", listing.display(), data.display());
    Ok(())
}

fn command_line(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    let settings = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), value?.to_string_lossy())));
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    settings.chain([name.into_owned()]).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{Bar, Judged};

    fn figure() -> Figure {
        Figure {
            key: "k",
            title: "t",
            unit: "u",
            judged: Judged::Ratio,
            bar: Bar::AtLeast(0.8),
            aim: Some(1.0),
        }
    }

    fn run(value: f64) -> Run {
        Run { standing: Standing::Counted, value, ..Run::failed(String::new()) }
    }

    fn round(ours: f64, theirs: f64) -> Round {
        Round { ours: vec![run(ours)], theirs: vec![run(theirs)] }
    }

    #[test]
    fn ratios_are_taken_within_rounds_so_a_machine_that_slows_down_does_not_matter() {
        let report =
            judge(figure(), "a", "b", vec![round(100.0, 100.0), round(50.0, 50.0), round(10.0, 10.0)]);
        assert_eq!(report.ratio, Some(Spread { min: 1.0, median: 1.0, max: 1.0 }));
        assert_eq!((report.verdict, report.aim_reached), (Verdict::Met, true));
    }

    #[test]
    fn a_round_counts_only_when_the_last_attempt_of_both_sides_does() {
        let spoiled = Round { ours: vec![run(5.0)], theirs: vec![Run::failed("noise".into())] };
        let repeated = Round { ours: vec![Run::failed("noise".into()), run(90.0)], theirs: vec![run(100.0)] };
        let report = judge(figure(), "a", "b", vec![spoiled, repeated, round(90.0, 100.0)]);
        assert!(matches!(report.verdict, Verdict::NotCounted(_)), "two of three rounds counted");
        assert_eq!(report.ratio.unwrap().median, 0.9);
        assert_eq!(report.uncounted_ratio, None, "a failed run has no value to show");
    }

    #[test]
    fn ratios_that_do_not_count_are_shown_but_not_judged() {
        let unsaturated = |value| Run { value, ..Run::failed("the client was the limit".into()) };
        let round = || Round { ours: vec![unsaturated(120.0)], theirs: vec![run(100.0)] };
        let report = judge(figure(), "a", "b", vec![round(), round(), round()]);
        assert!(matches!(report.verdict, Verdict::NotCounted(_)));
        assert_eq!((report.ratio, report.uncounted_ratio.unwrap().median), (None, 1.2));
    }

    #[test]
    fn a_command_is_told_with_its_environment() {
        let mut command = Command::new("/usr/bin/caddy");
        command.args(["run", "--config"]).arg("file").env("GOMAXPROCS", "1");
        assert_eq!(command_line(&command), "GOMAXPROCS=1 caddy run --config file");
    }

    #[test]
    fn a_missing_cause_is_no_colon() {
        let inner = std::io::Error::other("why");
        let error = RunError::Answer {
            peer: "p",
            source: AnswerError::Io { address: ([127, 0, 0, 1], 1).into(), source: inner },
        };
        assert_eq!(
            chain(&error),
            "could not ask p for its answer before measuring: could not ask 127.0.0.1:1 for /: why"
        );
    }
}
