//! `cargo xtask test`: every kind of test, with one line at the end.
//!
//! The last line is `N passed, N failed, N skipped`, alone on its line; other people's scripts read
//! it. A step that could not run at all counts as one skip, with its reason; a step that failed
//! without telling which test failed (it did not build) counts as one failure. So the line cannot
//! read well by accident.

mod counts;
mod libtest;
mod mutations;
mod nextest;
mod sdks;
mod skips;
mod steps;

use std::time::Instant;

use crate::shell::Failure;
use crate::step;
use crate::test::counts::Counts;
use crate::test::steps::STEPS;
use crate::tools::NEXTEST;
use crate::workspace::Workspace;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The counts and seeds of a release: more cases, and the tests that are ignored for their length
    #[arg(long)]
    full: bool,
    /// Only these steps (repeat it for several); `--list` names them
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// Say which steps there are and why, and run nothing
    #[arg(long)]
    list: bool,
}

/// How much work tests do. They read it from the environment variable `BERTH_TEST_SCALE`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// At most 25 minutes on two cores.
    Quick,
    Full,
}

impl Scale {
    fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Full => "full",
        }
    }
}

/// Who runs the tests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Runner {
    /// One process for each test, counted from its JUnit report.
    Nextest,
    /// Where nextest is not installed; counted from what it prints.
    CargoTest,
}

/// What every step may need.
struct Context {
    workspace: Workspace,
    scale: Scale,
    runner: Runner,
}

pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<(), Failure> {
    if arguments.list {
        for entry in STEPS {
            println!("{:<12} {}", entry.name, entry.why);
        }
        return Ok(());
    }
    let unknown = arguments.only.iter().find(|only| !STEPS.iter().any(|entry| entry.name == only.as_str()));
    if let Some(unknown) = unknown {
        return Err(Failure::new(format!(
            "there is no test step `{unknown}`; `cargo xtask test --list` names them"
        )));
    }
    let context = Context {
        workspace: workspace.clone(),
        scale: if arguments.full { Scale::Full } else { Scale::Quick },
        runner: choose_runner(),
    };
    let mut total = Counts::default();
    for entry in STEPS {
        if arguments.only.is_empty() || arguments.only.iter().any(|only| only == entry.name) {
            step::open(entry.name, entry.why);
            let start = Instant::now();
            let counts = (entry.run)(&context).unwrap_or_else(|failure| Counts::broken(entry.name, &failure));
            println!("{}: {counts} ({})", entry.name, step::spoken(start.elapsed()));
            total.add(counts);
        }
    }
    conclude(&total)
}

fn choose_runner() -> Runner {
    if NEXTEST.is_installed() {
        return Runner::Nextest;
    }
    println!(
        "cargo-nextest is not installed, so `cargo test` runs the tests: slower, same tests. {} brings it",
        NEXTEST.how_to_install()
    );
    Runner::CargoTest
}

/// Says what was skipped and what failed, then the line that scripts read.
fn conclude(total: &Counts) -> Result<(), Failure> {
    println!();
    for skip in &total.skipped {
        println!("skipped: {}: {}", skip.test, skip.reason);
    }
    for broken in &total.broken {
        println!("broken: {broken}");
    }
    println!("{total}");
    if total.failed == 0 {
        return Ok(());
    }
    // No message: the count line has to stay the last one, and it says everything.
    std::process::exit(1);
}
