//! What belongs to the whole process: signals, limits, and whose user it is.
//!
//! Signals are taken by one thread that waits for them ([`Signals`]); all other threads have them
//! blocked, so no handler ever interrupts a core.

use std::io;
use std::time::Duration;

/// A signal that the node reacts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: stop gracefully; a second one stops at once.
    Stop,
    /// SIGHUP: read configuration and certificates again.
    Reload,
}

/// The signals of the process, blocked for every thread that starts later.
pub struct Signals {
    set: libc::sigset_t,
}

impl Signals {
    /// Blocks the signals for this thread and the threads that it starts. Call it before any.
    pub fn block() -> io::Result<Self> {
        // SAFETY: the set is ours; the calls only write into it or read from it.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                libc::sigaddset(&raw mut set, signal);
            }
            let errno = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            if errno != 0 {
                return Err(io::Error::from_raw_os_error(errno));
            }
            Ok(Self { set })
        }
    }

    /// Waits for the next signal, at most for `time`.
    pub fn wait(&self, time: Duration) -> Option<Signal> {
        let time = libc::timespec {
            tv_sec: time.as_secs() as libc::time_t,
            tv_nsec: libc::c_long::from(time.subsec_nanos()),
        };
        // SAFETY: reads the set and the time, writes nothing (no siginfo is asked for).
        let signal =
            unsafe { libc::sigtimedwait(&raw const self.set, std::ptr::null_mut(), &raw const time) };
        match signal {
            libc::SIGTERM | libc::SIGINT => Some(Signal::Stop),
            libc::SIGHUP => Some(Signal::Reload),
            _ => None,
        }
    }
}

/// A resource that the kernel limits for a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Open descriptors.
    Files,
    /// Bytes of locked memory.
    LockedMemory,
}

/// A limit after it was raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raised {
    /// What the process had.
    pub before: u64,
    /// What it has now.
    pub now: u64,
}

/// Raises a limit to `wanted` or, without the right to, as far as its hard limit allows.
pub fn raise_limit(resource: Resource, wanted: u64) -> io::Result<Raised> {
    let name = match resource {
        Resource::Files => libc::RLIMIT_NOFILE,
        Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
    };
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes one rlimit into the struct that we own.
    if unsafe { libc::getrlimit(name, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let before = limit.rlim_cur;
    if before >= wanted {
        return Ok(Raised { before, now: before });
    }
    let privileged = libc::rlimit { rlim_cur: wanted, rlim_max: limit.rlim_max.max(wanted) };
    let allowed = libc::rlimit { rlim_cur: wanted.min(limit.rlim_max), rlim_max: limit.rlim_max };
    for attempt in [privileged, allowed] {
        // SAFETY: setrlimit reads one rlimit from the struct that we own.
        if unsafe { libc::setrlimit(name, &raw const attempt) } == 0 {
            return Ok(Raised { before, now: attempt.rlim_cur });
        }
    }
    Err(io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_never_lowered() {
        let raised = raise_limit(Resource::Files, 1).unwrap();
        assert_eq!(raised.before, raised.now);
        assert!(raise_limit(Resource::Files, raised.now).unwrap().now >= raised.now);
    }
}
