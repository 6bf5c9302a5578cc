//! Planted mistakes in the steering library: its tests must notice each of them.
//!
//! A copy of the library gets one mistake at a time, and its tests are run. What is planted here is what one could get
//! wrong: a bound, an order of bytes, a field next to the right one, a condition forgotten.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::shell::Failure;
use crate::test::Context;
use crate::test::counts::Counts;
use crate::workspace::Workspace;

/// One mistake: a text that stands once in a file of the library, and what stands there instead.
struct Mutation {
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

#[rustfmt::skip] // One mistake on each line.
const MUTATIONS: &[Mutation] = &[
    Mutation { file: "headers.rs", from: "const TAGS_MAX: usize = 2;", to: "const TAGS_MAX: usize = 3;" },
    Mutation { file: "headers.rs", from: "const EXTENSIONS_MAX: usize = 6;", to: "const EXTENSIONS_MAX: usize = 5;" },
    Mutation { file: "headers.rs", from: "const TAGGED_BY_PROVIDER: u16 = 0x88a8;", to: "const TAGGED_BY_PROVIDER: u16 = 0x9100;" },
    Mutation { file: "headers.rs", from: "version_length >> 4 != 4 || length < 20", to: "version_length >> 4 != 4 || length < 16" },
    Mutation { file: "headers.rs", from: "usize::from(version_length & 0xf) * 4", to: "20.max(usize::from(version_length & 0x7) * 4)" },
    Mutation { file: "headers.rs", from: "const OFFSET: u16 = 0x1fff;", to: "const OFFSET: u16 = 0x00ff;" },
    Mutation { file: "headers.rs", from: "(usize::from(length) + 2) * 4", to: "(usize::from(length) + 1) * 8" },
    Mutation { file: "headers.rs", from: "(0, 0) => part,", to: "(0, 0) => Part::First," },
    Mutation { file: "headers.rs", from: "Some(_) if part == Part::Later", to: "Some(_) if part == Part::First" },
    Mutation { file: "headers.rs", from: "length.saturating_sub(UDP_LEN)", to: "length" },
    Mutation { file: "headers.rs", from: "matches!(kind, 3 | 11 | 12)", to: "matches!(kind, 3 | 5 | 11 | 12)" },
    Mutation { file: "quic.rs", from: "if length <= CID_LEN {", to: "if length < CID_LEN {" },
    Mutation { file: "quic.rs", from: "if length < LONG_PREFIX + CID_LEN {", to: "if length < CID_LEN {" },
    Mutation { file: "quic.rs", from: "const LONG: u8 = 0x80;", to: "const LONG: u8 = 0xc0;" },
    Mutation { file: "flow.rs", from: "v2 = v2.rotate_left(32);", to: "v2 = v2.rotate_left(31);" },
    Mutation { file: "flow.rs", from: "u64::from(self.destination_port.swap_bytes()) << 16", to: "u64::from(self.destination_port) << 16" },
    Mutation { file: "decide.rs", from: "quoted.part == Part::Later", to: "quoted.part != Part::Whole" },
    Mutation { file: "decide.rs", from: "quoted.addresses.reversed()", to: "quoted.addresses" },
    Mutation { file: "decide.rs", from: "table.cpu(generation, core).is_some()", to: "true" },
    Mutation { file: "decide.rs", from: "if part != Part::Whole {", to: "if part == Part::Later {" },
    Mutation { file: "table.rs", from: "is_some_and(|slot| *slot == words) && address != 0", to: "is_some_and(|slot| *slot == words)" },
    Mutation { file: "table.rs", from: "word >> (server % 64) & 1 == 1", to: "word >> (server % 32) & 1 == 1" },
    Mutation { file: "maglev.rs", from: "((hash >> 32) * RING_LEN as u64) >> 32", to: "((hash & 0xffff_ffff) * RING_LEN as u64) >> 32" },
    Mutation { file: "cid.rs", from: "if fold(clear) != CHECK_FOLD {", to: "if fold(clear) == 0 {" },
];

/// The library and what its tests need.
const CRATES: [&str; 2] = ["ebpf-programs/steer", "ebpf-programs/fixtures"];

/// Counts each mistake that was noticed as a test that passed.
pub(super) fn run(context: &Context) -> Result<Counts, Failure> {
    let copy = Replica::make(&context.workspace)?;
    if !copy.tests_pass(&context.workspace)? {
        return Err(Failure::new("the copy of the steering library fails its tests without any mistake"));
    }
    let mut counts = Counts::default();
    for mutation in MUTATIONS {
        let Mutation { file, from, to } = mutation;
        let path = copy.0.join(CRATES[0]).join("src").join(file);
        let text = read(&path)?;
        if text.matches(from).count() != 1 {
            return Err(Failure::new(format!("{file}: `{from}` does not stand there exactly once")));
        }
        write(&path, &text.replacen(from, to, 1))?;
        let unnoticed = copy.tests_pass(&context.workspace)?;
        write(&path, &text)?;
        println!("{file}: `{to}`: {}", if unnoticed { "NOT NOTICED" } else { "noticed" });
        counts.passed += usize::from(!unnoticed);
        if unnoticed {
            counts.failed += 1;
            counts.broken.push(format!("no test notices `{to}` in {file}"));
        }
    }
    Ok(counts)
}

/// A copy of the library, in a workspace of its own below the target folder.
struct Replica(PathBuf);

impl Replica {
    fn make(workspace: &Workspace) -> Result<Self, Failure> {
        let copy = Self(workspace.target("mutations/copy"));
        // What is no longer in the library must not be in its copy either.
        if copy.0.exists() {
            fs::remove_dir_all(&copy.0).map_err(|error| cannot("remove", &copy.0, &error))?;
        }
        for name in CRATES {
            copy_folder(&workspace.path(name), &copy.0.join(name))?;
        }
        let manifest = read(&workspace.path("Cargo.toml"))?;
        let members = manifest.find("members = [").and_then(|from| {
            let to = from + manifest[from..].find("\n]")?;
            Some(from..to)
        });
        let members = members.ok_or_else(|| Failure::new("Cargo.toml has no members"))?;
        let ours = format!("members = [\"{}\"", CRATES.join("\", \""));
        let rest = manifest.replace(&manifest[members], &ours);
        write(&copy.0.join("Cargo.toml"), &rest.replace("default-members = [\"cli\"]", ""))?;
        write(&copy.0.join("Cargo.lock"), &read(&workspace.path("Cargo.lock"))?)?;
        Ok(copy)
    }

    fn tests_pass(&self, workspace: &Workspace) -> Result<bool, Failure> {
        let mut cargo = workspace.cargo(["test", "--quiet", "--package", "berth-steer", "--lib", "--tests"]);
        let output = cargo
            .current_dir(&self.0)
            .env("CARGO_TARGET_DIR", workspace.target("mutations"))
            .env("PROPTEST_CASES", "16")
            .output();
        let output = output.map_err(|error| Failure::new(format!("cannot start cargo: {error}")))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("error: could not compile") {
            return Err(Failure::new(format!("a planted mistake does not compile:\n{said}")));
        }
        Ok(output.status.success())
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), Failure> {
    let failed = |error| cannot("copy", from, &error);
    fs::create_dir_all(to).map_err(failed)?;
    for entry in fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let target = to.join(entry.file_name());
        if entry.file_type().map_err(failed)?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target).map_err(failed)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| cannot("read", path, &error))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| cannot("write", path, &error))
}

fn cannot(verb: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("cannot {verb} {}: {error}", path.display()))
}
