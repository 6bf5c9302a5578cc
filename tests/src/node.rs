//! A node under test: the real program in a folder of its own, seen only from outside.
//!
//! A [`Plan`] says how the node is configured and under which conditions it starts; [`Node`] is the
//! running process. Every listener takes a free port, so that stories run side by side; the ports
//! come from the `node.ready` line of the log and from `/v1/status`.
//!
//! [`Node::finish`] ends a story: no task panicked, no ring saw a fault, and the node stops with 0.
//! A node that is dropped without it is killed, and its log is shown if the story failed.
//!
//! Waits are on conditions. [`PATIENCE`] only turns a hang into a failure.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{clients, skip};

/// How long anything may take before it counts as hanging: the machine may be busy with a build.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A clear-text listener for [`Plan::new`].
pub const HTTP: &str = "[[listen]]\naddress = \"127.0.0.1:0\"\n";
/// A TLS listener for [`Plan::new`].
pub const HTTPS: &str = "[[listen]]\naddress = \"127.0.0.1:0\"\nprotocol = \"https\"\n";

/// Which kernel interface the node's cores use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// `runtime.driver = "auto"`.
    Auto,
    /// io_uring or no start.
    Uring,
    /// epoll.
    Epoll,
}

impl Driver {
    /// The word of the configuration and of `berth status`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

/// Makes a test of each named story for each driver: `on_both_drivers!(["curl"]; first, second);`.
/// The list names what the stories need: programs, `root`, or `aioquic` or `websockets` (Python's).
#[macro_export]
macro_rules! on_both_drivers {
    ($needs:expr; $($story:ident),+ $(,)?) => { $(
        mod $story {
            #[test]
            fn io_uring() {
                let name = concat!(module_path!(), "::io_uring");
                $crate::node::tell(name, &$needs, $crate::node::Driver::Uring, super::$story);
            }
            #[test]
            fn epoll() {
                let name = concat!(module_path!(), "::epoll");
                $crate::node::tell(name, &$needs, $crate::node::Driver::Epoll, super::$story);
            }
        }
    )+ };
}

/// Makes a test of each named story, which chooses its driver itself.
#[macro_export]
macro_rules! once {
    ($needs:expr; $($story:ident),+ $(,)?) => { $(
        mod $story {
            #[test]
            fn once() {
                $crate::node::tell(module_path!(), &$needs, $crate::node::Driver::Auto, |_| super::$story());
            }
        }
    )+ };
}

/// Runs a story, or skips it with what it lacks.
pub fn tell(name: &str, needs: &[&str], driver: Driver, story: fn(Driver)) {
    if let Some(missing) = needs.iter().find_map(|need| clients::missing(need)) {
        return skip(name, &missing);
    }
    if driver == Driver::Uring && !uring_is_allowed() {
        return skip(name, "the kernel refuses io_uring_setup here; allow it, the node's log says how");
    }
    story(driver);
}

/// How a node is configured and started.
pub struct Plan {
    driver: Driver,
    cores: u16,
    text: String,
    log_level: &'static str,
    environment: Vec<(String, OsString)>,
    launcher: Vec<OsString>,
    before_exec: Vec<fn() -> io::Result<()>>,
    folder: Folder,
    /// The node's folder of state, if it is not in this one.
    state: Option<PathBuf>,
    binary: PathBuf,
}

impl Plan {
    /// A node on two cores (one, on a machine with one CPU) with this configuration. The tables
    /// `[node]`, `[runtime]`, `[admin]` and `[log]` are the harness's.
    pub fn new(driver: Driver, text: impl Into<String>) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            driver,
            cores: cpus.min(2) as u16,
            text: text.into(),
            log_level: "info",
            environment: Vec::new(),
            launcher: Vec::new(),
            before_exec: Vec::new(),
            folder: Folder::new(),
            state: None,
            binary: binary(),
        }
    }

    /// Runs this many cores.
    pub fn cores(mut self, cores: u16) -> Self {
        self.cores = cores;
        self
    }

    /// Logs at this level.
    pub fn log_level(mut self, level: &'static str) -> Self {
        self.log_level = level;
        self
    }

    /// Shares a folder of state with others: the keys of connection ids are in there.
    pub fn state(mut self, path: &Path) -> Self {
        self.state = Some(path.to_owned());
        self
    }

    /// Sets a variable of the node's environment.
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Starts the node through another program, such as `setpriv`, that executes it.
    pub fn through<S: AsRef<str>>(mut self, words: &[S]) -> Self {
        self.launcher.extend(words.iter().map(|word| word.as_ref().into()));
        self
    }

    /// Calls this in the new process before the program starts. It may only make system calls.
    pub fn before_exec(mut self, action: fn() -> io::Result<()>) -> Self {
        self.before_exec.push(action);
        self
    }

    /// Gives the folder to another user, with a copy of the program in it, since that user may not
    /// be able to enter the folder where it was built.
    pub fn owned_by(mut self, user: u32) -> Self {
        let copy = self.folder.path().join("berth");
        std::fs::copy(&self.binary, &copy).expect("the program can be copied");
        std::os::unix::fs::chown(self.folder.path(), Some(user), Some(user)).expect("root may give away");
        self.binary = copy;
        self
    }

    /// The folder of this node, for certificates and the like.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Adds to the configuration.
    pub fn and(mut self, text: &str) -> Self {
        self.text += text;
        self
    }

    /// Starts the node and waits until it is ready.
    pub fn start(self) -> Node {
        let node = self.launch();
        let ready = node.log_line("node.ready");
        let admin = ready["admin"].as_str().and_then(|text| text.parse().ok());
        *node.admin.lock().unwrap_or_else(PoisonError::into_inner) = admin;
        wait_until("the node is ready", || node.get("/health/ready").0 == 200);
        node
    }

    /// Starts the node, which may refuse to run.
    pub fn launch(self) -> Node {
        std::fs::write(self.config_path(), self.config_text(&self.text)).expect("a file can be written");
        let child = self.spawn();
        Node::watch(self, child)
    }

    fn config_path(&self) -> PathBuf {
        self.folder.path().join("berth.toml")
    }

    fn config_text(&self, text: &str) -> String {
        let folder = self.folder.path().display();
        format!(
            "[node]\nname = \"story\"\nstate = \"{}\"\ncores = {}\n\
             [runtime]\ndriver = \"{}\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [log]\nlevel = \"{}\"\nformat = \"json\"\naccess = \"{folder}/access.log\"\n{text}",
            self.state.clone().unwrap_or_else(|| self.folder.path().join("state")).display(),
            self.cores,
            self.driver.word(),
            self.log_level,
        )
    }

    fn spawn(&self) -> Child {
        let mut words = self.launcher.clone();
        words.push(self.binary.clone().into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["dataplane", "--config"]).arg(self.config_path());
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        for action in self.before_exec.clone() {
            // SAFETY: the actions only make system calls (see `Plan::before_exec`): they take no
            // lock and allocate nothing that another thread of this process may hold.
            unsafe { command.pre_exec(action) };
        }
        command.spawn().expect("the node's program starts; BERTH_BIN or `cargo build` provides it")
    }
}

/// A running node.
pub struct Node {
    plan: Plan,
    child: Mutex<Child>,
    log: Arc<Log>,
    /// Copies standard error to the log, to its end.
    reader: Mutex<Option<JoinHandle<()>>>,
    admin: Mutex<Option<SocketAddr>>,
    ended: AtomicBool,
}

/// What the node wrote to standard error.
#[derive(Default)]
struct Log {
    text: Mutex<String>,
    grown: Condvar,
}

impl Node {
    fn watch(plan: Plan, mut child: Child) -> Self {
        let log = Arc::<Log>::default();
        let (stderr, reader) = (child.stderr.take().expect("it is a pipe"), Arc::clone(&log));
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut text = reader.text.lock().unwrap_or_else(PoisonError::into_inner);
                text.push_str(&line);
                text.push('\n');
                reader.grown.notify_all();
            }
        });
        Self {
            plan,
            child: Mutex::new(child),
            log,
            reader: Mutex::new(Some(reader)),
            admin: Mutex::new(None),
            ended: AtomicBool::new(false),
        }
    }

    /// The address of the `index`-th listener.
    pub fn listener(&self, index: usize) -> SocketAddr {
        let address = self.status()["listeners"][index]["address"].as_str().map(str::to_owned);
        address.and_then(|text| text.parse().ok()).expect("the node has that listener")
    }

    /// `http://ADDRESS/path` of the first listener.
    pub fn http(&self, path: &str) -> String {
        format!("http://{}{path}", self.listener(0))
    }

    /// `https://ADDRESS/path` of the second listener.
    pub fn https(&self, path: &str) -> String {
        format!("https://{}{path}", self.listener(1))
    }

    /// The admin address.
    pub fn admin(&self) -> SocketAddr {
        self.admin.lock().unwrap_or_else(PoisonError::into_inner).expect("the node became ready")
    }

    /// The node's folder.
    pub fn folder(&self) -> &Path {
        self.plan.folder()
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Status and body of a GET to the admin address; status 0 if nobody answers.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, b"")
    }

    /// Status and body of any request to the admin address; status 0 if nobody answers.
    pub fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let address = self.admin();
        let ask = || -> io::Result<String> {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let length = body.len();
            write!(
                stream,
                "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            )?;
            stream.write_all(body)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = ask().unwrap_or_default();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        (status, body.to_owned())
    }

    /// `/v1/status`.
    pub fn status(&self) -> Value {
        let (status, body) = self.get("/v1/status");
        assert_eq!(status, 200, "the admin API answers: {body}");
        serde_json::from_str(&body).expect("the status is JSON")
    }

    /// A number of `/v1/status`, core by core.
    pub fn numbers(&self, name: &str) -> Vec<u64> {
        let status = self.status();
        let cores = status["cores"].as_array().expect("a node has cores");
        let number = |core: &Value| core["numbers"][name].as_u64();
        cores.iter().map(|core| number(core).unwrap_or_else(|| panic!("no number {name}"))).collect()
    }

    /// A number of `/v1/status`, all cores together.
    pub fn number(&self, name: &str) -> u64 {
        self.numbers(name).iter().sum()
    }

    /// The value of the line of `/metrics` that begins with this name and labels; 0 without one.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics");
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        text.lines().find_map(value).unwrap_or(0.0)
    }

    /// Everything that the node has logged.
    pub fn log(&self) -> String {
        self.log.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the log line with this message.
    pub fn log_line(&self, message: &str) -> Value {
        self.log_lines(message, 1).remove(0)
    }

    /// Waits until there are `count` log lines whose message begins like this.
    pub fn log_lines(&self, message: &str, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + PATIENCE;
        let mut text = self.log.text.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let is_meant = |line: &Value| line["message"].as_str().is_some_and(|m| m.starts_with(message));
            let found: Vec<Value> = lines.filter(is_meant).collect();
            if found.len() >= count {
                return found;
            }
            let over = Instant::now() > deadline || self.has_ended();
            assert!(!over, "the node logs {message} {count} times; it logged:\n{text}");
            let waited = self.log.grown.wait_timeout(text, Duration::from_millis(200));
            text = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn has_ended(&self) -> bool {
        matches!(self.child().try_wait(), Ok(Some(_)))
    }

    /// The lines of the access log.
    pub fn access_log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder().join("access.log")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Bytes of memory that are the node's alone: heap, stacks, rings, buffers; not its program.
    pub fn memory(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let kilobytes = |name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
            line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
        };
        (kilobytes("RssAnon:") + kilobytes("RssShmem:")) * 1024
    }

    /// By how much the memory grew at most while this work was done.
    pub fn memory_growth<T>(&self, work: impl FnOnce() -> T) -> (T, u64) {
        let before = self.memory();
        let (peak, done) = (AtomicU64::new(before), AtomicBool::new(false));
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    peak.fetch_max(self.memory(), Relaxed);
                    std::thread::sleep(LOOK);
                }
            });
            let _done = SetOnDrop(&done); // Also if the work panics: else the scope would wait for ever.
            work()
        });
        (outcome, peak.load(Relaxed) - before)
    }

    /// Open descriptors of the node.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// The threads of the node: kernel id and name.
    pub fn threads(&self) -> Vec<(i32, String)> {
        let folder = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("the node runs");
        let thread = |entry: io::Result<std::fs::DirEntry>| {
            let entry = entry.ok()?;
            let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, name.trim().to_owned()))
        };
        folder.filter_map(thread).collect()
    }

    /// The processes that the node has started and not reaped.
    pub fn children(&self) -> Vec<i32> {
        let is_child = |process: &i32| {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            // Its name is in parentheses, and may hold any; the state and the parent follow.
            let parent =
                stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
            parent == Some(self.pid())
        };
        let processes = std::fs::read_dir("/proc").expect("processes can be listed");
        let id = |entry: io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
        processes.filter_map(id).filter(is_child).collect()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.pid()).expect("process ids are small");
        // SAFETY: kill has no memory effects; the child was not waited for, so the id is its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "the node can be signalled");
    }

    /// Writes another configuration and has the node read it. The outcome is the metric's label.
    pub fn reload(&self, text: &str) -> &'static str {
        std::fs::write(self.plan.config_path(), self.plan.config_text(text)).expect("a file can be written");
        let count = |outcome| self.metric(&format!("berth_reloads_total{{outcome=\"{outcome}\"}}"));
        let before = (count("done"), count("refused"));
        self.signal(libc::SIGHUP);
        wait_until("the node has reloaded", || (count("done"), count("refused")) != before);
        if count("done") > before.0 { "done" } else { "refused" }
    }

    /// The configuration that the story gave.
    pub fn text(&self) -> &str {
        &self.plan.text
    }

    /// Waits for the end of the process.
    pub fn wait(&self) -> ExitStatus {
        let mut ended = None;
        wait_until("the node has ended", || {
            ended = self.child().try_wait().expect("it is our child");
            ended.is_some()
        });
        self.ended.store(true, Relaxed);
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        let _ = reader.map(JoinHandle::join); // Now the log is whole.
        ended.expect("the wait was for that")
    }

    /// Kills the node as a power failure would, and starts another in the same folder.
    pub fn kill_and_restart(self) -> Node {
        self.signal(libc::SIGKILL);
        self.wait();
        self.restart()
    }

    /// Starts another node in the folder of this one, which has ended.
    pub fn restart(self) -> Node {
        let mut this = self;
        let plan = std::mem::replace(&mut this.plan, Plan::new(Driver::Auto, ""));
        drop(this);
        plan.start()
    }

    /// What must hold at the end of every story.
    pub fn assert_sound(&self) {
        assert_eq!(self.number("task_panics"), 0, "no task panicked");
        assert_eq!(self.number("ring_faults"), 0, "no buffer was freed too early");
        if self.plan.driver != Driver::Auto {
            for core in self.status()["cores"].as_array().expect("a node has cores") {
                assert_eq!(core["driver"], self.plan.driver.word());
            }
        }
    }

    /// The end of a story: the node is sound, and stops when it is asked to.
    pub fn finish(self) {
        self.assert_sound();
        self.signal(libc::SIGTERM);
        let status = self.wait();
        assert!(status.success(), "the node ends with 0, not {status}");
        let log = self.log();
        let of_guest = |line: &&str| line.contains("\"message\":\"guest.line\"");
        let panics =
            log.lines().filter(|line| line.contains("panicked")).filter(|line| !of_guest(line)).count();
        assert_eq!(panics, 0, "no task of the node panicked; what guests do is theirs");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !self.ended.load(Relaxed) {
            let _ = self.child().kill();
            let _ = self.child().wait();
        }
        if std::thread::panicking() {
            #[allow(clippy::print_stderr, reason = "the harness captures it with the test's output")]
            {
                eprintln!("the node's log:\n{}", self.log());
            }
        }
    }
}

/// A folder that everybody may enter, removed on drop.
pub struct Folder(PathBuf);

impl Folder {
    /// A fresh one.
    #[allow(clippy::new_without_default, reason = "making a folder is no default")]
    pub fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// A fresh one in this folder.
    pub fn below(folder: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("berth-story-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = folder.join(name);
        std::fs::create_dir_all(&path).expect("a temporary folder can be made");
        let everybody = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, everybody).expect("it is ours");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A browser's helpers may outlive it for a moment, and write: once more then.
        for _ in 0..50 {
            let _ = std::fs::remove_dir_all(&self.0);
            std::thread::sleep(LOOK);
            if !self.0.exists() {
                return;
            }
        }
    }
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Waits for a condition, and fails if it does not come true within [`PATIENCE`].
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain waited for: {what}");
        std::thread::sleep(LOOK);
    }
}

/// The program under test: `BERTH_BIN`, or `berth` in the folder where the tests were built.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("BERTH_BIN") {
        return path.into();
    }
    let tests = std::env::current_exe().expect("a test has a file");
    let folder = tests.parent().and_then(Path::parent).expect("it is in target/debug/deps");
    folder.join("berth")
}

/// Routes by name of the action, as many stories use them.
pub fn route(path: &str, action: &str) -> String {
    let mut text = String::new();
    let _ = write!(text, "[[routes]]\npath = \"{path}\"\n{action}\n");
    text
}

/// Whether the tests run at full scale.
pub fn at_full_scale() -> bool {
    std::env::var_os("BERTH_TEST_SCALE").is_some_and(|scale| scale == "full")
}

fn uring_is_allowed() -> bool {
    // SAFETY: without parameters the kernel answers EFAULT where it would allow a ring, and touches
    // nothing. Where it forbids rings it answers EPERM or ENOSYS first.
    let answer = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, std::ptr::null_mut::<u8>()) };
    answer == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}
