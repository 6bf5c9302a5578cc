//! The kernel's doors: every unsafe call of the harness, behind a safe function.
//!
//! What is not here: parsing of `/proc` (that is text, see `cpu` and `memory`) and every decision. Each function
//! does one thing and hands back the kernel's own error.

use std::ffi::CString;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// A process or thread id as the kernel counts them.
pub(crate) type Pid = i32;

/// Which end a signal asks for.
#[derive(Clone, Copy)]
pub(crate) enum End {
    /// SIGTERM: clean up and leave.
    Asked,
    /// SIGINT: the same, for programs that print what they have counted only then.
    Interrupted,
    /// SIGKILL: leave now.
    Forced,
}

/// Confines one thread to one CPU. For a process, `tid` is the main thread; the others need their own call.
pub(crate) fn pin(tid: Pid, cpu: usize) -> io::Result<()> {
    let set = cpu_set(cpu);
    // SAFETY: `set` is an initialised cpu_set_t of the size that is passed, and the kernel only reads it.
    check(unsafe { libc::sched_setaffinity(tid, size_of::<libc::cpu_set_t>(), &raw const set) })
}

/// Confines the child to one CPU before it runs its first instruction, so that all its threads inherit it, and
/// asks the kernel to end it when the harness dies, so that no peer outlives a Ctrl-C.
pub(crate) fn pin_on_spawn(command: &mut Command, cpu: usize) {
    let set = cpu_set(cpu);
    let confine = move || {
        // SAFETY: `set` was copied into the closure, has the size that is passed, and is only read.
        check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) })?;
        // SAFETY: prctl with PR_SET_PDEATHSIG takes a signal number and touches no memory of ours.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) })
    };
    // SAFETY: the closure runs between fork and exec; it makes two system calls, takes no lock and does not allocate.
    unsafe { command.pre_exec(confine) };
}

/// CPU time of a whole process, in nanoseconds of the scheduler's own books: all threads, those that have ended
/// too, and what a running one has used up to now. (`/proc/PID/schedstat` lags by up to a tick and forgets ended
/// threads; `/proc/PID/stat` counts in steps of 10 ms.)
pub(crate) fn process_cpu_time(pid: Pid) -> io::Result<Duration> {
    let mut clock = 0;
    // SAFETY: `clock` is a valid place for the result.
    let code = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if code != 0 {
        return Err(io::Error::from_raw_os_error(code));
    }
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: `time` is a valid place for a timespec.
    check(unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) })?;
    // SAFETY: the call above succeeded, so the kernel has written the whole timespec.
    let time = unsafe { time.assume_init() };
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// CPU time of all children that have been waited for.
pub(crate) fn reaped_cpu_time() -> Duration {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is a valid place for a rusage. RUSAGE_CHILDREN cannot fail; if it did, zeroes are valid.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    let span = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    span(usage.ru_utime) + span(usage.ru_stime)
}

/// Sends a signal to one process of ours.
pub(crate) fn signal(pid: Pid, end: End) -> io::Result<()> {
    let signal = match end {
        End::Asked => libc::SIGTERM,
        End::Interrupted => libc::SIGINT,
        End::Forced => libc::SIGKILL,
    };
    // SAFETY: kill takes two integers and touches no memory.
    check(unsafe { libc::kill(pid, signal) })
}

/// Waits until one of the descriptors can be read, at most for `limit` (`None`: for ever).
pub(crate) fn wait_readable(fds: &[RawFd], limit: Option<Duration>) -> io::Result<()> {
    wait_for(fds, libc::POLLIN, limit).map(drop)
}

/// Whether the descriptor can be read, or has ended.
pub(crate) fn is_readable(fd: RawFd) -> io::Result<bool> {
    Ok(wait_for(&[fd], libc::POLLIN, Some(Duration::ZERO))? > 0)
}

/// Waits until the descriptor can be written to.
pub(crate) fn wait_writable(fd: RawFd) -> io::Result<()> {
    wait_for(&[fd], libc::POLLOUT, None).map(drop)
}

/// How many of them are ready.
fn wait_for(fds: &[RawFd], events: libc::c_short, limit: Option<Duration>) -> io::Result<i32> {
    let mut polls: Vec<_> = fds.iter().map(|&fd| libc::pollfd { fd, events, revents: 0 }).collect();
    let limit = limit.map(|limit| libc::timespec {
        tv_sec: limit.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(limit.subsec_nanos()),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the pointer and the length describe the vector, and `limit` is null or points to a timespec; both live
    // through the call. Without a signal mask the last argument is not looked at.
    let code =
        unsafe { libc::ppoll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, limit, std::ptr::null()) };
    match check(code) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        done => done.map(|()| code),
    }
}

/// Raises the limit on open files of this process and of all that it starts.
pub(crate) fn raise_open_files(wanted: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the result.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    if limit.rlim_cur >= wanted {
        return Ok(());
    }
    let raised = libc::rlimit { rlim_cur: wanted, rlim_max: limit.rlim_max.max(wanted) };
    // SAFETY: `raised` is initialised and only read.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) })
}

/// Moves this thread to a network of its own, without a card that is up.
pub(crate) fn leave_network() -> io::Result<()> {
    // SAFETY: takes flags only, and changes what this thread sees.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })
}

/// Lets this thread run before all others on its CPU that are not in real time, until it sleeps.
pub(crate) fn run_in_real_time() -> io::Result<()> {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: `priority` is initialised and only read.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) })
}

/// Lets this thread run only when its CPU has nothing else to do.
pub(crate) fn run_when_idle() -> io::Result<()> {
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: `priority` is initialised and only read.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const priority) })
}

/// A socket that sends whole frames out of one network card, and receives none.
pub(crate) struct FrameSocket(OwnedFd);

impl FrameSocket {
    pub(crate) fn open(card: &str) -> io::Result<Self> {
        let card = CString::new(card)?;
        // SAFETY: a string that ends in zero, and lives through the call.
        let index = unsafe { libc::if_nametoindex(card.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: takes numbers only. Without a protocol nothing is received.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        check(fd)?;
        // SAFETY: the kernel has just handed us this descriptor; nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all zero is a sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index as i32;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the pointer and the length describe the address, which is only read.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
        Ok(Self(socket))
    }

    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer and the length describe the frame, which is only read.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Whether we may install packages.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid has no arguments and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// An edge-triggered epoll instance: one registration per socket, for both directions.
pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Poller {
    /// How many sockets one call can report; the rest are reported by the next call.
    const BATCH: usize = 256;

    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: epoll_create1 takes flags only.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        check(fd)?;
        // SAFETY: the kernel has just handed us this descriptor; nobody else owns it.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { epoll, events: vec![libc::epoll_event { events: 0, u64: 0 }; Self::BATCH] })
    }

    /// Watches a socket until it is closed.
    pub(crate) fn watch(&self, fd: RawFd, token: usize) -> io::Result<()> {
        let interest = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET) as u32;
        let mut event = libc::epoll_event { events: interest, u64: token as u64 };
        // SAFETY: `event` is initialised and only read; both descriptors are open while we hold them.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) })
    }

    /// Tokens of the sockets where something has happened, waiting at most `limit` for the first.
    pub(crate) fn wait(&mut self, limit: Duration, ready: &mut Vec<usize>) -> io::Result<()> {
        self.poll((limit.as_millis().min(1000) as i32).max(1), ready)
    }

    /// The same without waiting.
    pub(crate) fn look(&mut self, ready: &mut Vec<usize>) -> io::Result<()> {
        self.poll(0, ready)
    }

    fn poll(&mut self, limit_ms: i32, ready: &mut Vec<usize>) -> io::Result<()> {
        ready.clear();
        // SAFETY: the pointer and the length describe the vector, which lives through the call.
        let count = unsafe {
            libc::epoll_wait(self.epoll.as_raw_fd(), self.events.as_mut_ptr(), Self::BATCH as i32, limit_ms)
        };
        if let Err(error) = check(count) {
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        ready.extend(self.events[..count as usize].iter().map(|event| event.u64 as usize));
        Ok(())
    }
}

fn cpu_set(cpu: usize) -> libc::cpu_set_t {
    // SAFETY: a cpu_set_t is a plain array of bits, for which all zeroes is the empty set. CPU_SET writes inside
    // it, and ignores a CPU number beyond its end.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if cpu < libc::CPU_SETSIZE as usize {
            libc::CPU_SET(cpu, &mut set);
        }
        set
    }
}

fn check(code: i32) -> io::Result<()> {
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_cpu_time_grows_while_we_compute() {
        let pid = std::process::id() as Pid;
        let before = process_cpu_time(pid).unwrap();
        let mut sum = 0_u64;
        while process_cpu_time(pid).unwrap() < before + Duration::from_millis(5) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }

    #[test]
    fn a_child_starts_on_the_cpu_that_it_was_given() {
        let mut command = Command::new("cat");
        command.arg("/proc/self/status");
        pin_on_spawn(&mut command, 0);
        let output = command.output().unwrap();
        let status = String::from_utf8(output.stdout).unwrap();
        assert_eq!(crate::cpu::parse_allowed_cpus(&status), Some("0"));
    }

    #[test]
    fn an_unknown_process_is_an_error() {
        // Process ids end at 2^22.
        assert!(process_cpu_time((1 << 22) + 1).is_err());
    }
}
