//! Compiling, in a process of its own: uploads are foreign code for the compiler, too, and one may be made to take all
//! the time and memory that there is.
//!
//! The node starts its own program with a hidden command; that process limits itself, reads the component from standard
//! input, and writes one byte (0: compiled, 1: refused) and the code or the reason to standard output. Both are memory
//! files, so that neither side ever waits for the other to read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::bindings::WorkerPre;
use crate::engine::{self, HostError};
use crate::object_bindings::ObjectPre;
use crate::{object, wasi};

/// What compiling one component may cost.
#[derive(Debug, Clone)]
pub struct Budget {
    /// Bytes of the component.
    pub component_bytes: u64,
    /// Bytes of the code.
    pub code_bytes: u64,
    /// Bytes of memory of the process.
    pub memory: u64,
    /// Time on the CPU. On the clock it may be [`PATIENCE`] times as much: requests come first.
    pub time: Duration,
}

/// How much longer a compiler may wait than work.
const PATIENCE: u32 = 5;

impl Default for Budget {
    fn default() -> Self {
        // JavaScript's large engine is 13 MB, becomes 37, and takes 6 s and 0.7 GB.
        Self {
            component_bytes: 32 << 20,
            code_bytes: 256 << 20,
            memory: 2 << 30,
            time: Duration::from_secs(60),
        }
    }
}

/// Why there is no code.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The component is not one that this node runs. The text is for its maker.
    #[error("{0}")]
    Refused(String),
    /// It is larger than the budget.
    #[error("the component has {bytes} bytes; at most {most} are taken")]
    TooLarge {
        /// Its bytes.
        bytes: u64,
        /// The budget.
        most: u64,
    },
    /// The process ended at a limit.
    #[error("compiling it took more than this node allows ({0}); make the component smaller")]
    Budget(String),
    /// The process could not do its work.
    #[error("compiling failed")]
    System(#[from] io::Error),
}

/// How the node starts the process that compiles.
#[derive(Debug, Clone)]
pub struct Compiler {
    /// The program.
    pub program: PathBuf,
    /// Its arguments, before the budget's numbers.
    pub arguments: Vec<String>,
    /// What it may cost.
    pub budget: Budget,
}

impl Compiler {
    /// Compiles a component, and waits for it: not for a core.
    pub fn compile(&self, component: &[u8]) -> Result<Vec<u8>, CompileError> {
        let bytes = component.len() as u64;
        if bytes > self.budget.component_bytes {
            return Err(CompileError::TooLarge { bytes, most: self.budget.component_bytes });
        }
        let mut input = memory_file("component")?;
        input.write_all(component)?;
        input.seek(SeekFrom::Start(0))?;
        let mut output = memory_file("code")?;
        let complaints = memory_file("complaints")?;
        let budget = &self.budget;
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .args(
                [budget.memory, budget.time.as_secs().max(1), budget.code_bytes]
                    .map(|number| number.to_string()),
            )
            .env_clear()
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(output.try_clone()?))
            .stderr(Stdio::from(complaints.try_clone()?))
            .spawn()?;
        let deadline = Instant::now() + budget.time * PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                return Err(CompileError::Budget(format!("{:?} on the clock", budget.time * PATIENCE)));
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        output.seek(SeekFrom::Start(0))?;
        self.read_result(&mut output, status, complaints)
    }
}

/// What the standard library says before it aborts without memory.
const NO_MEMORY: &str = "memory allocation of ";

impl Compiler {
    fn read_result(
        &self,
        output: &mut File,
        status: ExitStatus,
        mut complaints: File,
    ) -> Result<Vec<u8>, CompileError> {
        let mut verdict = [0];
        if !status.success() || output.read(&mut verdict)? != 1 {
            let mut text = String::new();
            complaints.seek(SeekFrom::Start(0))?;
            let _ = complaints.take(4096).read_to_string(&mut text);
            return Err(CompileError::Budget(self.what_fell(status, text.trim())));
        }
        let mut rest = Vec::new();
        output.read_to_end(&mut rest)?;
        match verdict[0] {
            0 => Ok(rest),
            _ => Err(CompileError::Refused(String::from_utf8_lossy(&rest).into_owned())),
        }
    }

    /// Which bound ended the process, for people.
    fn what_fell(&self, status: ExitStatus, complaint: &str) -> String {
        let Budget { memory, time, code_bytes, .. } = &self.budget;
        let signal = status.signal();
        if signal == Some(Signal::XCPU.as_raw()) {
            format!("{time:?} of CPU time")
        } else if signal == Some(Signal::XFSZ.as_raw()) {
            format!("{code_bytes} bytes of code")
        } else if complaint.contains(NO_MEMORY) {
            format!("{} MiB of memory", memory >> 20)
        } else {
            let last = complaint.lines().next_back().unwrap_or("");
            format!("{status}{}{last}", if last.is_empty() { "" } else { ": " })
        }
    }
}

fn memory_file(name: &str) -> io::Result<File> {
    Ok(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?.into())
}

/// What the process that compiles does: limits itself, reads, compiles, writes. `numbers` are those that [`Compiler`]
/// appends to its arguments.
pub fn serve(numbers: &[u64]) -> io::Result<()> {
    let [memory, seconds, code_bytes] = numbers else {
        return Err(io::Error::other("this command is for the node itself"));
    };
    limit(*memory, *seconds, *code_bytes)?;
    // Nobody wants the code any more when the node has ended.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut component = Vec::new();
    io::stdin().read_to_end(&mut component)?;
    let mut output = io::stdout().lock();
    match compile(&component) {
        Ok(code) => {
            output.write_all(&[0])?;
            output.write_all(&code)
        }
        Err(reason) => {
            output.write_all(&[1])?;
            output.write_all(reason.to_string().as_bytes())
        }
    }
}

/// Writable memory rather than address space: the engine reserves a lot that it never touches.
fn limit(memory: u64, seconds: u64, code_bytes: u64) -> io::Result<()> {
    let most = |value| Rlimit { current: Some(value), maximum: Some(value) };
    setrlimit(Resource::Data, most(memory))?;
    // The signal that comes first is about time alone; the one at the end may have other reasons.
    setrlimit(Resource::Cpu, Rlimit { current: Some(seconds), maximum: Some(seconds + 1) })?;
    setrlimit(Resource::Fsize, most(code_bytes + 1))?;
    setrlimit(Resource::Core, most(0))?;
    // Requests come first.
    let _ = rustix::process::nice(10);
    Ok(())
}

/// Why a component is refused, for its maker.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Other bytes.
    #[error("this is not a WebAssembly component: {0}")]
    NotAComponent(String),
    /// It neither answers requests nor is a class of objects.
    #[error(
        "the component does not export wasi:http/incoming-handler@0.2.x, so it cannot answer requests, nor berth:object/events@0.1.x, so it is no class of objects; it exports {0}"
    )]
    NoHandler(String),
    /// It imports what is not there.
    #[error("the component imports what is not offered here: {0}")]
    NotOffered(String),
    /// It imports what only objects have.
    #[error(
        "the component imports what only a class of objects has: {0}; a class exports berth:object/events@0.1.x"
    )]
    OnlyObjects(String),
    /// Anything else that the engine finds.
    #[error("the engine refuses the component: {0}")]
    Engine(String),
}

pub(crate) fn compile(bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    check_kind(bytes)?;
    let refused = |error: wasmtime::Error| Refusal::Engine(format!("{error:#}"));
    let engine = engine::compiler().map_err(|error| Refusal::Engine(error.to_string()))?;
    let component = Component::from_binary(&engine, bytes).map_err(refused)?;
    check_offers(&engine, &component)?;
    // The last word: types of imports and exports, and the limits of the pool.
    if object::is_class(&engine, &component) {
        let linker = object::linker(&engine).map_err(refused)?;
        linker.instantiate_pre(&component).and_then(ObjectPre::new).map_err(refused)?;
    } else {
        let linker = wasi::linker(&engine).map_err(refused)?;
        linker.instantiate_pre(&component).and_then(WorkerPre::new).map_err(refused)?;
    }
    component.serialize().map_err(refused)
}

/// What the first bytes say. The engine would take compiled code, too, and that must not come from outside.
fn check_kind(bytes: &[u8]) -> Result<(), Refusal> {
    let no = |what: &str| Err(Refusal::NotAComponent(what.to_owned()));
    match bytes {
        [] => no("it is empty"),
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => no(
            "it is a core module; make a component of it, in Rust with --target wasm32-wasip2, or with `wasm-tools component new`",
        ),
        [0, b'a', b's', b'm', ..] => no("its version is not one that this node knows"),
        _ if Engine::detect_precompiled(bytes).is_some() => {
            no("it is compiled code; upload the component that it was made of")
        }
        _ => no("its first bytes are not those of WebAssembly"),
    }
}

const HANDLER: &str = "wasi:http/incoming-handler@0.2.";

/// Whether it exports what a worker or a class does, and imports what that may.
fn check_offers(engine: &Engine, component: &Component) -> Result<(), Refusal> {
    let is_class = object::is_class(engine, component);
    let component = component.component_type();
    let exports: Vec<&str> = component.exports(engine).map(|(name, _)| name).collect();
    if !is_class && !exports.iter().any(|name| name.starts_with(HANDLER)) {
        let all = if exports.is_empty() { "nothing".to_owned() } else { exports.join(", ") };
        return Err(Refusal::NoHandler(all));
    }
    let missing = component.imports(engine).map(|(name, _)| name).filter(|name| !wasi::is_offered(name));
    let (of_objects, unknown): (Vec<&str>, Vec<&str>) = missing.partition(|name| object::is_offered(name));
    if !unknown.is_empty() {
        Err(Refusal::NotOffered(unknown.join(", ")))
    } else if !is_class && !of_objects.is_empty() {
        Err(Refusal::OnlyObjects(of_objects.join(", ")))
    } else {
        Ok(())
    }
}

/// A name for everything that decides what the compiler makes: its version, its settings, the machine's abilities.
pub(crate) fn engine_name() -> Result<String, HostError> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let engine = engine::compiler()?;
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    Ok(format!("{}-{:016x}", engine::VERSION, hasher.finish()))
}

/// What a fuzzer calls: any bytes are compiled, or refused with a reason.
#[doc(hidden)]
pub fn fuzz_logic(data: &[u8]) {
    match compile(data) {
        Ok(code) => assert!(!code.is_empty(), "code is made of something"),
        Err(reason) => assert!(!reason.to_string().is_empty(), "a refusal has a reason"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stands in for the process that compiles.
    fn shell(script: &str, budget: Budget) -> Compiler {
        Compiler { program: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()], budget }
    }

    #[test]
    fn what_is_too_large_is_refused_without_a_process() {
        let budget = Budget { component_bytes: 10, ..Budget::default() };
        let compiler = Compiler { program: "/nowhere".into(), arguments: Vec::new(), budget };
        let error = compiler.compile(&[0; 11]).unwrap_err();
        assert!(matches!(error, CompileError::TooLarge { bytes: 11, most: 10 }), "{error}");
        assert!(matches!(compiler.compile(&[0; 10]), Err(CompileError::System(_))), "there it is started");
    }

    #[test]
    fn the_bound_that_ended_the_compiler_is_named() {
        for (script, words) in [
            ("kill -XCPU $$", "(60s of CPU time)"),
            ("kill -XFSZ $$", "(268435456 bytes of code)"),
            (
                "echo 'memory allocation of 9 bytes failed' >&2; echo more >&2; kill -ABRT $$",
                "(2048 MiB of memory)",
            ),
            ("echo first >&2; echo last >&2; exit 3", "(exit status: 3: last)"),
            ("exit 0", "(exit status: 0)"),
        ] {
            let error = shell(script, Budget::default()).compile(b"any").unwrap_err();
            assert!(matches!(error, CompileError::Budget(_)), "{script}: {error:?}");
            assert!(error.to_string().contains(words), "{script}: {error}");
        }
        let code = shell("printf '\\0code'", Budget::default()).compile(b"any").unwrap();
        assert_eq!(code, b"code");
    }

    #[test]
    fn a_compiler_that_only_waits_is_killed_and_reaped() {
        let budget = Budget { time: Duration::from_millis(20), ..Budget::default() };
        let file = std::env::temp_dir().join(format!("berth-compiler-{}", std::process::id()));
        let script = format!("echo $$ > {}; exec sleep 1000", file.display());
        // It may be killed before it has said who it is.
        let id = (0..100).find_map(|_| {
            let error = shell(&script, budget.clone()).compile(b"any").unwrap_err();
            assert!(error.to_string().contains("(100ms on the clock)"), "{error}");
            std::fs::read_to_string(&file).ok()?.trim().parse::<i32>().ok()
        });
        std::fs::remove_file(&file).unwrap();
        let process = PathBuf::from(format!("/proc/{}", id.unwrap()));
        assert!(!process.exists(), "neither it nor its remains are there");
    }

    fn refusal(bytes: &[u8]) -> String {
        compile(bytes).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_a_component_is_told_what_it_is() {
        for (bytes, word) in [
            (b"".as_slice(), "empty"),
            (b"hello", "first bytes"),
            (b"\0asm\x01\0\0\0", "core module"),
            (b"\0asm\x09\0\0\0", "version"),
            (b"\0asm\x0d\0\x01\0", "does not export wasi:http/incoming-handler@0.2.x"),
            (b"\0asm\x0d\0\x01\0\xff\xff", "engine refuses"),
        ] {
            let text = refusal(bytes);
            assert!(text.contains(word), "{text}");
        }
    }
}
