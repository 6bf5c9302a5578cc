//! `cargo xtask ebpf`: the object that runs in the kernel, from its source.
//!
//! The object is committed, so that nobody needs LLVM to run Berth; so somebody must see that it is what its source
//! makes. With the toolchain that made it ([`Fingerprint`]) the bytes must be equal. Another toolchain makes other
//! bytes: then every verdict must be the same, in the kernel, and the programs as long within two in a hundred.
//!
//! The compiler is the oldest that the workspace promises to build with, with its own source of `core`: LLVM's bitcode
//! is read by `bpf-linker`, and an LLVM reads none that is newer than itself.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian::{self, Need};
use crate::shell::{self, Failure};
use crate::workspace::Workspace;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Compare with the committed object, and change nothing
    #[arg(long)]
    check: bool,
}

/// A committed object, and the program of [`SOURCE`] that it is.
struct Object {
    path: &'static str,
    program: &'static str,
    /// The tests of `berth-tests` that compare all its verdicts.
    verdicts: &'static [&'static str],
}

const OBJECTS: [Object; 2] = [
    Object {
        path: "ebpf-programs/berth.bpf.o",
        program: "berth-programs",
        verdicts: &["steering", "steering_live"],
    },
    Object { path: "ebpf-programs/measure.bpf.o", program: "berth-measure", verdicts: &[] },
];
/// What made them.
const MADE_BY: &str = "ebpf-programs/berth.bpf.toolchain";
/// The source of the programs, a workspace of its own.
const SOURCE: &str = "ebpf-programs/programs";
/// Gives each crate a name in which no path of this machine takes part.
const NAMED_COMPILER: &str = "ebpf-programs/rustc-named.sh";
const TARGET: &str = "bpfel-unknown-none";

/// The newest LLVM that the compiler below writes bitcode for.
const LLVM: &str = "/usr/lib/llvm-22";
const LLVM_FEATURE: &str = "llvm-22";
const COMPILER: &str = "1.95.0";
const LINKER: &str = "0.13.0";

const LLVM_NEEDS: &[Need] = &[
    Need {
        program: "/usr/lib/llvm-22/bin/llvm-config",
        probe: &["--version"],
        package: "llvm-22-dev",
        used_for: "bpf-linker",
    },
    Need {
        program: "dpkg-query",
        probe: &["--show", "libpolly-22-dev"],
        package: "libpolly-22-dev",
        used_for: "bpf-linker",
    },
];

/// How much longer or shorter a program may be that another toolchain made.
const LENGTH_TOLERANCE_PERCENT: usize = 2;

pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<(), Failure> {
    provide_tools(workspace)?;
    if arguments.check {
        return check(workspace);
    }
    for (Object { path, .. }, built) in OBJECTS.iter().zip(build(workspace)?) {
        fs::copy(&built, workspace.path(path))
            .map_err(|error| Failure::new(format!("cannot write {path}: {error}")))?;
        println!("{path}: written");
    }
    let made_by = fingerprint(workspace)?;
    workspace.write(MADE_BY, &made_by)?;
    println!("made by\n{made_by}");
    Ok(())
}

/// Builds the objects and compares them with the committed ones. The tools are there.
pub(crate) fn check(workspace: &Workspace) -> Result<(), Failure> {
    let made_by = fingerprint(workspace)?;
    for (object, built) in OBJECTS.iter().zip(build(workspace)?) {
        println!("{}: {}", object.path, compare(workspace, object, &built, &made_by)?);
    }
    Ok(())
}

/// Installs what is missing; the failure says what cannot be had.
pub(crate) fn provide_tools(workspace: &Workspace) -> Result<(), Failure> {
    if let Some(missing) = debian::provide(LLVM_NEEDS).first() {
        return Err(Failure::new(format!("no {}: {}", missing.need.package, missing.reason)));
    }
    let mut compiler = Command::new("rustup");
    compiler.args(["toolchain", "install", COMPILER, "--profile", "minimal", "--component", "rust-src"]);
    compiler.arg("--no-self-update");
    shell::capture(compiler)?;
    let linker = linker(workspace);
    if shell::capture(version_of(&linker)).is_ok_and(|version| version.contains(LINKER)) {
        return Ok(());
    }
    let mut install = Command::new("cargo");
    install
        .args(["install", "--locked", "--quiet", "bpf-linker", "--version", LINKER])
        .args(["--no-default-features", "--features", LLVM_FEATURE, "--root"])
        .arg(tools(workspace))
        .env("LLVM_PREFIX", LLVM)
        .env("PATH", path_with(&[PathBuf::from(LLVM).join("bin")]));
    shell::run(install)
}

fn tools(workspace: &Workspace) -> PathBuf {
    workspace.target("bpf-tools")
}

fn linker(workspace: &Workspace) -> PathBuf {
    tools(workspace).join("bin/bpf-linker")
}

fn version_of(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("--version");
    command
}

/// `PATH` with folders in front.
fn path_with(folders: &[PathBuf]) -> OsString {
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let all = folders.iter().cloned().chain(std::env::split_paths(&inherited));
    std::env::join_paths(all).unwrap_or(inherited)
}

/// All that the bytes of the object depend on beside its source.
fn fingerprint(workspace: &Workspace) -> Result<String, Failure> {
    let mut rustc = Command::new("rustc");
    rustc.args([&format!("+{COMPILER}"), "--version", "--verbose"]);
    let rustc = shell::capture(rustc)?;
    let line = |name: &str| rustc.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    let linker = shell::capture(version_of(&linker(workspace)))?;
    let llvm = shell::capture(version_of(&PathBuf::from(LLVM).join("bin/llvm-config")))?;
    let [release, commit, own_llvm] = ["release: ", "commit-hash: ", "LLVM version: "].map(line);
    Ok(format!(
        "rustc {release}\nrustc {commit}\nrustc {own_llvm}\n{}\nllvm {}\n",
        linker.trim(),
        llvm.trim()
    ))
}

/// Builds the objects, in their order; what only debuggers read is left out.
fn build(workspace: &Workspace) -> Result<Vec<PathBuf>, Failure> {
    let target = workspace.target("bpf");
    let mut cargo = Command::new("cargo");
    cargo
        .arg(format!("+{COMPILER}"))
        .args(["build", "--locked", "--release", "--target", TARGET, "-Z", "build-std=core", "--target-dir"])
        .arg(&target)
        .current_dir(workspace.path(SOURCE))
        // A stable compiler builds `core` only when it is told that it may.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC_WRAPPER", workspace.path(NAMED_COMPILER))
        .env("CARGO_ENCODED_RUSTFLAGS", flags(workspace)?)
        .env("PATH", path_with(&[tools(workspace).join("bin")]));
    shell::run(cargo)?;
    let strip = |Object { program, .. }: &Object| {
        let whole = target.join(TARGET).join("release").join(program);
        let stripped = target.join(program).with_extension("bpf.o");
        let mut strip = Command::new(PathBuf::from(LLVM).join("bin/llvm-objcopy"));
        strip.arg("--strip-debug").arg(&whole).arg(&stripped);
        shell::capture(strip).map(|_| stripped)
    };
    OBJECTS.iter().map(strip).collect()
}

/// The compiler's flags, in the form in which they may contain spaces.
fn flags(workspace: &Workspace) -> Result<String, Failure> {
    let mut sysroot = Command::new("rustc");
    sysroot.args([&format!("+{COMPILER}"), "--print", "sysroot"]);
    let sysroot = shell::capture(sysroot)?;
    let cargo_home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")))
        .map_err(|_| Failure::new("neither CARGO_HOME nor HOME is set"))?;
    let root = workspace.path("");
    // Where things lie on this machine is no part of the object; of prefixes that fit, the last one counts.
    let remap = |from: &str, to: &str| format!("--remap-path-prefix={}={to}", from.trim_end_matches('/'));
    let mut flags = vec![
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Ctarget-cpu=v3".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // Packets and maps may be read at any address; the stack, for which it is not true, is read bytewise.
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access".to_owned(),
        remap(sysroot.trim(), "/rust"),
        remap(&root.to_string_lossy(), "/berth"),
    ];
    flags.extend(registries(&cargo_home).iter().map(|registry| remap(registry, "/crates")));
    Ok(flags.join("\x1f"))
}

/// Where cargo unpacks crates; the name of the folder depends on the registry that serves them.
fn registries(cargo_home: &str) -> Vec<String> {
    let folders = fs::read_dir(Path::new(cargo_home).join("registry/src")).into_iter().flatten().flatten();
    let mut folders: Vec<_> = folders.map(|folder| folder.path().to_string_lossy().into_owned()).collect();
    folders.sort();
    folders
}

/// Compares what was built with what is committed; says in which way they agree.
fn compare(workspace: &Workspace, object: &Object, built: &Path, made_by: &str) -> Result<String, Failure> {
    let Object { path, verdicts, .. } = object;
    let read = |path: &Path| {
        fs::read(path).map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))
    };
    let committed = workspace.path(path);
    let recorded = workspace.read(MADE_BY)?.unwrap_or_default();
    if read(built)? == read(&committed)? {
        return Ok("the committed bytes are what the source makes".to_owned());
    }
    if recorded == made_by {
        return Err(Failure::new(format!(
            "{path} is not what its source makes, with the same toolchain: run `cargo xtask ebpf` and commit it"
        )));
    }
    compare_lengths(&lengths(&committed)?, &lengths(built)?)?;
    let said = if verdicts.is_empty() {
        "another toolchain made it"
    } else {
        let mut tests = workspace.cargo(["test", "--quiet", "--package", "berth-tests"]);
        tests.args(verdicts.iter().flat_map(|test| ["--test", test]));
        tests.env("BERTH_BPF_OBJECT", built);
        shell::run(tests)?;
        "another toolchain made it, all verdicts are the same"
    };
    Ok(format!("{said}; recorded:\n{recorded}here:\n{made_by}"))
}

/// Bytes of each program.
type Lengths = BTreeMap<String, usize>;

fn lengths(object: &Path) -> Result<Lengths, Failure> {
    let mut dump = Command::new(PathBuf::from(LLVM).join("bin/llvm-objdump"));
    dump.arg("--section-headers").arg(object);
    Ok(program_sections(&shell::capture(dump)?))
}

/// The sections with programs in them, of llvm-objdump's table.
fn program_sections(table: &str) -> Lengths {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let (_, name, size) = (words.next()?, words.next()?, words.next()?);
        let size = usize::from_str_radix(size, 16).ok()?;
        (line.ends_with("TEXT") && size > 0).then(|| (name.to_owned(), size))
    };
    table.lines().filter_map(row).collect()
}

fn compare_lengths(committed: &Lengths, built: &Lengths) -> Result<(), Failure> {
    if !committed.keys().eq(built.keys()) {
        return Err(Failure::new(format!(
            "the programs are others: {committed:?} committed, {built:?} built"
        )));
    }
    for (name, length) in committed {
        if length.abs_diff(built[name]) * 100 > length * LENGTH_TOLERANCE_PERCENT {
            let built = built[name];
            return Err(Failure::new(format!("{name} has {length} bytes committed and {built} built")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Sections:
Idx Name                     Size     VMA              Type
  1 .strtab                  0000023d 0000000000000000 
  2 .text                    00000000 0000000000000000 TEXT
  3 sk_reuseport/migrate     00001160 0000000000000000 TEXT
  5 xdp.frags                000013c8 0000000000000000 TEXT
";

    #[test]
    fn programs_are_found_in_the_table_of_sections() {
        let expected = [("sk_reuseport/migrate", 0x1160), ("xdp.frags", 0x13c8)];
        assert_eq!(program_sections(TABLE), expected.map(|(name, size)| (name.to_owned(), size)).into());
    }

    #[test]
    fn lengths_may_differ_by_two_in_a_hundred() {
        let of = |length| Lengths::from([("xdp".to_owned(), length)]);
        assert!(
            compare_lengths(&of(1000), &of(1020)).is_ok() && compare_lengths(&of(1000), &of(980)).is_ok()
        );
        assert!(
            compare_lengths(&of(1000), &of(1021)).is_err() && compare_lengths(&of(1000), &of(979)).is_err()
        );
        assert!(compare_lengths(&of(1000), &Lengths::new()).is_err());
    }
}
