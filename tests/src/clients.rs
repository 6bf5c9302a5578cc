//! The programs that talk to the node. None of them is ours, so they agree with us only where both
//! follow the RFCs.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::node::{Node, PATIENCE, binary};
use crate::workers;

/// What a program printed, and how it ended.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output. Bytes that are no text are replaced.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// The output of a program that must succeed.
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "the client succeeds; it printed:\n{}\n{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Both outputs.
    pub fn all(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }
}

/// curl, quiet, past every proxy and configuration file.
pub fn curl<S: AsRef<OsStr>>(arguments: &[S]) -> Outcome {
    run(curl_command().args(arguments))
}

/// The same, not yet started.
pub fn curl_command() -> Command {
    let mut command = Command::new("curl");
    command.args(["--disable", "--silent", "--show-error", "--noproxy", "*", "--max-time", "100"]);
    command
}

/// Any other program.
pub fn call<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Outcome {
    run(Command::new(program).args(arguments))
}

/// `berth` with these words, at the admin address of a node.
pub fn berth(node: &Node, words: &[&str]) -> Outcome {
    run(Command::new(binary()).args(words).env("BERTH_ADMIN", format!("http://{}", node.admin())))
}

/// Runs a command to its end; one that hangs is killed, and the test fails.
pub fn run(command: &mut Command) -> Outcome {
    finish(start(command))
}

/// Runs a command that reads this from its standard input.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Outcome {
    let mut child = spawn(command.stdin(Stdio::piped()));
    let mut stdin = child.stdin.take().expect("it is a pipe");
    // What the program does not read is not worth a failure: its output tells.
    let _ = stdin.write_all(input);
    drop(stdin);
    finish(child)
}

/// Starts a command whose output is collected by [`finish`].
pub fn start(command: &mut Command) -> Child {
    spawn(command.stdin(Stdio::null()))
}

fn spawn(command: &mut Command) -> Child {
    let program = command.get_program().to_owned();
    let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    spawned.unwrap_or_else(|error| panic!("{} starts: {error}", program.display()))
}

/// Waits for a command that was started.
pub fn finish(mut child: Child) -> Outcome {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let stdout = scope.spawn(|| read_all(stdout));
        let stderr = scope.spawn(|| read_all(stderr));
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().expect("it is our child") {
                break status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                let said = (stdout.join(), stderr.join());
                panic!("the client hangs; it printed {said:?}");
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        Outcome {
            code: status.code().unwrap_or(-1),
            stdout: stdout.join().expect("reading does not panic"),
            stderr: stderr.join().expect("reading does not panic"),
        }
    })
}

fn read_all(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Python with the packages `aioquic` and `websockets`: `BERTH_PYTHON`, as `cargo xtask test`
/// provides it.
pub fn python() -> PathBuf {
    std::env::var_os("BERTH_PYTHON").map_or_else(
        || concat!(env!("CARGO_MANIFEST_DIR"), "/../target/test-python/bin/python3").into(),
        PathBuf::from,
    )
}

/// Why something that a story needs is missing: a program, or `root`, `aioquic` or `websockets`
/// (Python's), `json-api`, `inbox` (examples in JavaScript), `ipv6`, `two cpus`.
pub fn missing(need: &str) -> Option<String> {
    match need {
        "ipv6" => {
            let bound = std::net::TcpListener::bind("[::1]:0");
            bound.err().map(|error| format!("no IPv6 on the loopback interface: {error}"))
        }
        "two cpus" => {
            let cpus = std::thread::available_parallelism().map_or(1, usize::from);
            (cpus < 2).then(|| "two cores need two CPUs".to_owned())
        }
        // SAFETY: geteuid only returns a number.
        "root" => (unsafe { libc::geteuid() } != 0).then(|| "needs root; run the tests as root".to_owned()),
        "aioquic" | "websockets" => {
            let import = Command::new(python()).args(["-c", &format!("import {need}")]).output();
            (!import.is_ok_and(|output| output.status.success())).then(|| {
                format!(
                    "Python's {need} is missing; `cargo xtask test` installs it and names it in BERTH_PYTHON"
                )
            })
        }
        "json-api" | "inbox" => {
            let component = if need == "inbox" { "class.wasm" } else { "worker.wasm" };
            let built = workers::example(need).join(component).is_file();
            (!built).then(|| {
                format!("{need}, an example in JavaScript, is not built; `cargo xtask guests` builds it, or says what that lacks")
            })
        }
        program => {
            let folders = std::env::var_os("PATH").unwrap_or_default();
            let found = std::env::split_paths(&folders).any(|folder| folder.join(program).is_file());
            (!found).then(|| format!("{program} is missing; install it, or run `cargo xtask test` as root"))
        }
    }
}

/// A TCP connection that never waits for ever.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the node accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("the time is not zero");
    stream.set_write_timeout(Some(PATIENCE)).expect("the time is not zero");
    stream
}

/// Sends bytes on a connection of their own, and returns what came until the node closed it.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(address);
    stream.write_all(bytes).expect("the node reads");
    let mut answer = Vec::new();
    // A reset after the answer is an end as well.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads from a connection until this text has come.
pub fn read_until(stream: &mut impl Read, end: &str) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    while !String::from_utf8_lossy(&bytes).contains(end) {
        let count = stream.read(&mut piece).expect("the node sends in time");
        assert_ne!(count, 0, "the connection ended before {end:?}: {}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&piece[..count]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
