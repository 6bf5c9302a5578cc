//! What the kernel refuses, and a core that does not move.

use std::io::{self, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use berth_tests::clients::{connect, curl, finish, read_until, start};
use berth_tests::node::{Driver, PATIENCE, Plan, wait_until};
use berth_tests::{on_both_drivers, once};

use crate::common;

once!(["curl"]; without_io_uring_it_says_why_and_serves_on_epoll);
once!([]; without_io_uring_it_does_not_start_if_told_to_use_it);
on_both_drivers!([]; without_descriptors_accepting_pauses_and_recovers);
on_both_drivers!(["h2load", "two cpus"]; a_stalled_core_is_told_and_recovers);

/// What the operator has to read: what is missing, and how to get it.
const REMEDY: &str = "a seccomp filter forbids io_uring_setup; allow io_uring_setup, io_uring_enter and \
                      io_uring_register in the container's seccomp profile";

fn without_io_uring_it_says_why_and_serves_on_epoll() {
    let node = Plan::new(Driver::Auto, common()).before_exec(forbid_io_uring).start();
    assert!(node.log().contains(REMEDY), "{}", node.log());
    assert!(node.log().contains("\"WARN\""), "{}", node.log());
    for core in node.status()["cores"].as_array().unwrap() {
        assert_eq!(core["driver"], "epoll");
        assert_eq!(node.metric(&format!("berth_epoll_fallback{{core=\"{}\"}}", core["core"])), 1.0);
    }
    assert_eq!(curl(&["--insecure", "--http2", &node.https("/"), &node.http("/")]).ok(), "hello\nhello\n");
    node.finish();
}

fn without_io_uring_it_does_not_start_if_told_to_use_it() {
    let node = Plan::new(Driver::Uring, common()).before_exec(forbid_io_uring).launch();
    assert_eq!(node.wait().code(), Some(1));
    assert!(node.log().contains(REMEDY), "{}", node.log());
}

/// The filter that containers often have: io_uring_setup fails with EPERM, all else is allowed.
fn forbid_io_uring() -> io::Result<()> {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const NUMBER_OF_THE_CALL: u32 = 0;
    let line = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut lines = [
        line(LOAD_WORD, 0, 0, NUMBER_OF_THE_CALL),
        line(JUMP_IF_EQUAL, 0, 1, libc::SYS_io_uring_setup as u32),
        line(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        line(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: lines.len() as u16, filter: lines.as_mut_ptr() };
    // SAFETY: the kernel copies the program, which lives until the call returns.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0
    };
    if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Descriptors that the node may have. It needs about forty for itself.
const FILES: u64 = 64;

fn without_descriptors_accepting_pauses_and_recovers(driver: Driver) {
    let node = Plan::new(driver, common()).before_exec(allow_few_files).start();
    assert!((node.descriptors() as u64) < FILES - 10);
    let address = node.listener(0);
    let mut early = connect(address);
    let ask = |stream: &mut std::net::TcpStream| {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        read_until(stream, "hello\n");
    };
    ask(&mut early);
    // The kernel completes these handshakes whether the node accepts or not.
    let many: Vec<_> = (0..100).map(|_| connect(address)).collect();
    let began = Instant::now();
    node.log_lines("listener.accept failed", 6);
    ask(&mut early); // Who is in is served.
    let waited = began.elapsed();
    drop(many);
    // Accepting goes on after at most one pause, for those who waited and for who comes now.
    ask(&mut connect(address));
    ask(&mut connect(address));
    let failures = node.number("accept_exhausted");
    // A listener that tried again at once would fail a hundred thousand times in a second.
    let most = 100 + 100 * waited.as_secs();
    assert!((6..most).contains(&failures), "{failures} failed accepts in {waited:?}");
    drop(early);
    wait_until("all are closed", || node.number("connections_open") == 0);
    node.finish();
}

/// A hard limit that not even root can raise: the right to do so is given up first.
fn allow_few_files() -> io::Result<()> {
    const CAP_SYS_RESOURCE: libc::c_ulong = 24;
    let limit = libc::rlimit { rlim_cur: FILES, rlim_max: FILES };
    // SAFETY: both calls only read their arguments. Without root the first one fails, and is not
    // needed then.
    let refused = unsafe {
        libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0);
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0
    };
    if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// No route keeps a core busy, so the test stops the core's thread as a debugger would. A thread
/// that is stopped in its sleep is not stalled: under load it is awake sooner or later.
fn a_stalled_core_is_told_and_recovers(driver: Driver) {
    let node = Plan::new(driver, common()).cores(2).start();
    let (thread, _) = node.threads().into_iter().find(|(_, name)| name == "core-1").unwrap();
    let mut load =
        start(Command::new("h2load").args(["--h1", "--requests=100000000", "--clients=20", &node.http("/")]));
    let is_stalled = || node.status()["cores"][1]["stalled"] == true;
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "the core is never found awake");
        let _stopped = Stopped::stop(thread);
        let until = Instant::now() + Duration::from_secs(1);
        while !is_stalled() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        if is_stalled() {
            // Another core may be starved at the same time, where the machine is busy.
            assert!(node.metric("berth_node_cores_stalled") >= 1.0);
            let (status, text) = node.get("/health/live");
            assert!(status == 503 && text.ends_with("cores are stalled\n"), "{status} {text}");
            assert!(node.status()["cores"][1]["stalls"].as_u64() >= Some(1));
            break;
        }
    }
    wait_until("the core is well again", || !is_stalled());
    for message in ["core.stalled", "core.recovered"] {
        let lines = node.log_lines(message, 1);
        assert!(lines.iter().any(|line| line["core"] == 1), "{lines:?}");
    }
    load.kill().unwrap();
    finish(load);
    wait_until("it is well again", || node.get("/health/live").0 == 200);
    node.finish();
}

/// A thread that a debugger holds until this is dropped.
struct Stopped(i32);

impl Stopped {
    fn stop(thread: i32) -> Self {
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: these requests touch no memory of ours but the status, which waitpid writes.
        unsafe {
            assert_eq!(
                libc::ptrace(libc::PTRACE_SEIZE, thread, nothing, nothing),
                0,
                "a child may be traced"
            );
            assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, thread, nothing, nothing), 0);
            let mut status = 0;
            assert_eq!(libc::waitpid(thread, &raw mut status, libc::__WALL), thread);
        }
        Self(thread)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: the request touches no memory; a thread that ended meanwhile is no harm.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, nothing, nothing) };
    }
}
