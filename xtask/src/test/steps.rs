//! The kinds of tests, in the order in which they run. A new kind is a new entry in [`STEPS`].

use crate::debian::{self, CURL, Need};
use crate::ebpf;
use crate::examples::{self, JavaScript};
use crate::guests;
use crate::python;
use crate::shell::{self, Failure};
use crate::step::Step;
use crate::test::counts::Counts;
use crate::test::mutations;
use crate::test::nextest::{self, Selection};
use crate::test::{Context, Scale, libtest, sdks};
use crate::tools;

/// Cheap and telling ones first.
pub(super) const STEPS: &[Step<Context, Result<Counts, Failure>>] = &[
    Step { name: "workspace", why: "units, properties and models of every crate", run: workspace },
    Step {
        name: "corpora",
        why: "every input that a fuzzer ever found interesting, once more",
        run: corpora,
    },
    Step { name: "doc", why: "the examples in the documentation work", run: doc },
    Step { name: "loom", why: "the mailbox under every order of its atomic steps", run: loom },
    Step { name: "miri", why: "undefined behaviour in the crates that Miri can run", run: miri },
    Step {
        name: "mutations",
        why: "planted mistakes in the steering library are noticed",
        run: mutations::run,
    },
    Step { name: "ebpf", why: "the committed object is what its source makes", run: ebpf },
    Step { name: "sdks", why: "what those of objects do without a host", run: sdks::run },
    Step { name: "examples", why: "they build with the tools of others", run: examples },
    Step { name: "end-to-end", why: "the program with clients that we did not write", run: end_to_end },
];

/// Crates whose tests make no system call that Miri does not know, and in which undefined
/// behaviour could hide or whose no_std promise is worth a second compiler.
const MIRI_CRATES: &[&str] = &["berth-mailbox", "berth-steer"];

/// The programs of the end-to-end tests. Each is a client or a tool that we did not write.
const END_TO_END_NEEDS: &[Need] = &[
    CURL,
    Need { program: "nghttp", probe: &["--version"], package: "nghttp2-client", used_for: "HTTP/2 frames" },
    Need { program: "h2load", probe: &["--version"], package: "nghttp2-client", used_for: "HTTP/2 load" },
    Need { program: "chromium", probe: &["--version"], package: "chromium", used_for: "a real browser" },
    Need { program: "ip", probe: &["-Version"], package: "iproute2", used_for: "network namespaces" },
    Need { program: "strace", probe: &["--version"], package: "strace", used_for: "slow disks" },
];

fn workspace(context: &Context) -> Result<Counts, Failure> {
    guests::build(&context.workspace)?;
    nextest::run(
        context,
        &Selection {
            name: "workspace",
            filter: "not package(berth-tests)",
            targets: &["--workspace", "--exclude", "berth-tests", "--tests"],
            leave_out: None,
        },
    )
}

fn corpora(context: &Context) -> Result<Counts, Failure> {
    nextest::run(
        context,
        &Selection {
            name: "corpora",
            filter: "package(berth-tests) and binary(corpora)",
            targets: &["--package", "berth-tests", "--test", "corpora"],
            leave_out: None,
        },
    )
}

fn doc(context: &Context) -> Result<Counts, Failure> {
    let command = context.workspace.cargo(["test", "--doc", "--workspace", "--no-fail-fast"]);
    Ok(libtest::count("doc tests", command)?.or_skip("doc", "no documentation has an example yet"))
}

/// loom replaces the atomics of the mailbox, so it is a build of its own, in its own folder.
/// Optimised, because loom runs each test thousands of times.
fn loom(context: &Context) -> Result<Counts, Failure> {
    let mut command = context.workspace.cargo(["test", "--package", "berth-mailbox", "--lib", "--tests"]);
    command
        .args(["--no-fail-fast", "--", "loom"])
        .env("RUSTFLAGS", "--cfg loom")
        .env("CARGO_TARGET_DIR", context.workspace.target("loom"))
        .env("CARGO_PROFILE_TEST_OPT_LEVEL", "2");
    if context.scale == Scale::Quick {
        // Three forced switches find nearly every ordering mistake; all of them take hours.
        command.env("LOOM_MAX_PREEMPTIONS", "3");
    }
    let counts = libtest::count("loom", command)?;
    Ok(counts.or_skip("loom", "berth-mailbox has no test with `loom` in its name"))
}

fn miri(context: &Context) -> Result<Counts, Failure> {
    if !tools::has_miri() {
        let how = tools::HOW_TO_INSTALL_MIRI;
        return Ok(Counts::skipped("miri", format!("Miri is not installed; {how} brings it")));
    }
    let mut command = context.workspace.cargo(["+nightly", "miri", "test", "--lib", "--no-fail-fast"]);
    for package in MIRI_CRATES {
        command.args(["--package", package]);
    }
    command
        .env("CARGO_TARGET_DIR", context.workspace.target("miri"))
        // Miri is a hundred times slower; a few cases still walk every line.
        .env("PROPTEST_CASES", "4")
        // Property tests read a seed from the system, and the failure file from the disk.
        .env("MIRIFLAGS", "-Zmiri-disable-isolation");
    let counts = libtest::count("miri", command)?;
    Ok(counts.or_skip("miri", "the crates that Miri can run have no unit test"))
}

fn ebpf(context: &Context) -> Result<Counts, Failure> {
    if let Err(missing) = ebpf::provide_tools(&context.workspace) {
        return Ok(Counts::skipped("ebpf", missing.to_string()));
    }
    ebpf::check(&context.workspace)?;
    Ok(Counts { passed: 1, ..Counts::default() })
}

/// Counts each example that was built, and the tests that some of them have.
fn examples(context: &Context) -> Result<Counts, Failure> {
    let mut counts = Counts { passed: examples::RUST.len(), ..Counts::default() };
    match examples::build(&context.workspace)? {
        JavaScript::Built => counts.passed += examples::JAVASCRIPT.len(),
        JavaScript::LeftOut(why) => counts.add(Counts::skipped(&examples::javascript_names(), why)),
    }
    for name in ["html-rewriter", "limiter"] {
        let manifest = examples::folder(&context.workspace, name).join("Cargo.toml");
        let mut command = context.workspace.cargo(["test", "--workspace", "--locked", "--manifest-path"]);
        command.arg(manifest).arg("--target-dir").arg(context.workspace.target(guests::FOLDER));
        counts.add(libtest::count(&format!("the tests of {name}"), command)?);
    }
    Ok(counts)
}

/// Tests that miss their client skip themselves; here is said why the client is missing.
fn end_to_end(context: &Context) -> Result<Counts, Failure> {
    for missing in debian::provide(&[END_TO_END_NEEDS, &python::PYTHON].concat()) {
        let Need { program, used_for, .. } = missing.need;
        println!("{program} ({used_for}) is not here, its tests skip themselves: {}", missing.reason);
    }
    if let Err(failure) = python::provide(&context.workspace) {
        println!("no {}, their tests skip themselves: {failure}", python::PACKAGES.join(", no "));
    }
    guests::build(&context.workspace)?;
    if let JavaScript::LeftOut(why) = examples::build(&context.workspace)? {
        println!("{} are not built, their tests skip themselves: {why}", examples::javascript_names());
    }
    shell::run(context.workspace.cargo(["build", "--workspace", "--bin", "berth"]))?;
    nextest::run(
        context,
        &Selection {
            name: "end to end",
            filter: "package(berth-tests) and not binary(corpora)",
            targets: &["--package", "berth-tests", "--tests"],
            leave_out: Some("corpus_of_"),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_names_are_unique() {
        let mut names: Vec<&str> = STEPS.iter().map(|entry| entry.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), STEPS.len());
    }
}
