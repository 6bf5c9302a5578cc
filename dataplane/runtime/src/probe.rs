//! Is io_uring available, and if not, what exactly is missing and how is it allowed?
//!
//! A node that cannot have a ring still serves, on epoll; but the operator must learn in one line
//! which of the five usual reasons it is (old kernel, sysctl, seccomp, memory lock, missing
//! operation) and what to type. The decision is a pure function of [`Facts`], so that each reason
//! has a test.

use std::fmt;
use std::io;

use io_uring::{IoUring, Probe, opcode};

/// The operations that a core needs, by name as io_uring(7) spells them.
const NEEDED: &[(&str, u8)] = &[
    ("ACCEPT", opcode::Accept::CODE),
    ("CONNECT", opcode::Connect::CODE),
    ("RECV", opcode::Recv::CODE),
    ("SEND", opcode::Send::CODE),
    ("RECVMSG", opcode::RecvMsg::CODE),
    ("SENDMSG", opcode::SendMsg::CODE),
    ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
    ("POLL_ADD", opcode::PollAdd::CODE),
    ("MSG_RING", opcode::MsgRingData::CODE),
    ("CLOSE", opcode::Close::CODE),
];

/// What was seen when a ring was tried.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The error of io_uring_setup, if it failed.
    pub setup_errno: Option<i32>,
    /// `/proc/sys/kernel/io_uring_disabled`, where it exists.
    pub sysctl_disabled: Option<u32>,
    /// `Seccomp:` of `/proc/self/status`: 2 means that a filter is installed.
    pub seccomp_mode: u32,
    /// The kernel's release string.
    pub kernel_release: String,
    /// RLIMIT_MEMLOCK in bytes, `u64::MAX` when unlimited.
    pub memlock_bytes: u64,
    /// Needed operations that the kernel does not have.
    pub missing_operations: Vec<&'static str>,
}

/// Why there is no ring. The text says what is missing and how to allow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// `kernel.io_uring_disabled` forbids it.
    Sysctl {
        /// The value of the sysctl.
        value: u32,
    },
    /// A seccomp filter forbids it (the default of Docker and containerd).
    Seccomp,
    /// The kernel has no io_uring or lacks the set-up flags (6.1 is needed).
    Kernel {
        /// The running release.
        release: String,
    },
    /// The memory lock limit is too low.
    MemoryLock {
        /// The limit in bytes.
        limit_bytes: u64,
    },
    /// The kernel lacks operations.
    Operations {
        /// Their names.
        names: Vec<&'static str>,
    },
    /// An error that fits none of the above.
    Other {
        /// The error of io_uring_setup.
        errno: i32,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::Sysctl { value } => write!(
                f,
                "io_uring is switched off by the sysctl kernel.io_uring_disabled = {value}; allow it with \
                 `sysctl kernel.io_uring_disabled=0`{}",
                if *value == 1 { ", or add the node's group to kernel.io_uring_group" } else { "" }
            ),
            Missing::Seccomp => write!(
                f,
                "a seccomp filter forbids io_uring_setup; allow io_uring_setup, io_uring_enter and \
                 io_uring_register in the container's seccomp profile (systemd: remove them from \
                 SystemCallFilter=~)"
            ),
            Missing::Kernel { release } => write!(
                f,
                "the kernel {release} has no io_uring with deferred task work; Linux 6.1 or newer is needed"
            ),
            Missing::MemoryLock { limit_bytes } => write!(
                f,
                "the memory lock limit of {limit_bytes} bytes is too low for a ring; raise it \
                 (LimitMEMLOCK=infinity in the unit, or `ulimit -l unlimited`)"
            ),
            Missing::Operations { names } => {
                write!(f, "the kernel's io_uring lacks {}; Linux 6.1 or newer is needed", names.join(", "))
            }
            Missing::Other { errno } => {
                write!(f, "io_uring_setup failed: {}", io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

/// The verdict for the facts, `None` when a ring can be had.
pub fn judge(facts: &Facts) -> Option<Missing> {
    let Some(errno) = facts.setup_errno else {
        if facts.missing_operations.is_empty() {
            return None;
        }
        return Some(Missing::Operations { names: facts.missing_operations.clone() });
    };
    Some(match errno {
        libc::EPERM | libc::EACCES | libc::ENOSYS if facts.sysctl_disabled.is_some_and(|v| v != 0) => {
            Missing::Sysctl { value: facts.sysctl_disabled.unwrap_or(0) }
        }
        libc::EPERM | libc::EACCES | libc::ENOSYS if facts.seccomp_mode == 2 => Missing::Seccomp,
        libc::ENOSYS | libc::EINVAL => Missing::Kernel { release: facts.kernel_release.clone() },
        libc::ENOMEM => Missing::MemoryLock { limit_bytes: facts.memlock_bytes },
        errno => Missing::Other { errno },
    })
}

/// Tries a small ring with the flags that a core uses, and looks around.
pub fn look() -> Facts {
    let mut facts = Facts {
        sysctl_disabled: std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
            .ok()
            .and_then(|text| text.trim().parse().ok()),
        seccomp_mode: std::fs::read_to_string("/proc/self/status")
            .ok()
            .and_then(|text| text.lines().find_map(|line| line.strip_prefix("Seccomp:")?.trim().parse().ok()))
            .unwrap_or(0),
        kernel_release: kernel_release(),
        memlock_bytes: memlock_bytes(),
        ..Facts::default()
    };
    match try_ring() {
        Ok(missing) => facts.missing_operations = missing,
        Err(error) => facts.setup_errno = Some(error.raw_os_error().unwrap_or(libc::EIO)),
    }
    facts
}

/// The running kernel's release, such as `6.12.9-amd64`.
pub(crate) fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// Whether the kernel can end a multishot receive after a number of bytes: since Linux 6.17. An older one
/// refuses the receive, and there is no way to ask but by its release.
pub(crate) fn ends_receives(release: &str) -> bool {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(17))
}

fn try_ring() -> io::Result<Vec<&'static str>> {
    let ring: IoUring =
        IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_clamp().build(4)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    Ok(NEEDED.iter().filter(|(_, code)| !probe.is_supported(*code)).map(|(name, _)| *name).collect())
}

fn memlock_bytes() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes one rlimit into the struct that we own.
    let done = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    if done == 0 { limit.rlim_cur } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(errno: i32) -> Facts {
        Facts {
            setup_errno: Some(errno),
            sysctl_disabled: Some(0),
            kernel_release: "5.4.0".into(),
            memlock_bytes: 65536,
            ..Facts::default()
        }
    }

    #[test]
    fn each_reason_has_its_own_verdict() {
        assert_eq!(judge(&Facts::default()), None);
        let sysctl = Facts { sysctl_disabled: Some(2), ..facts(libc::EPERM) };
        assert_eq!(judge(&sysctl), Some(Missing::Sysctl { value: 2 }));
        let seccomp = Facts { seccomp_mode: 2, ..facts(libc::EPERM) };
        assert_eq!(judge(&seccomp), Some(Missing::Seccomp));
        assert_eq!(judge(&facts(libc::ENOSYS)), Some(Missing::Kernel { release: "5.4.0".into() }));
        assert_eq!(judge(&facts(libc::EINVAL)), Some(Missing::Kernel { release: "5.4.0".into() }));
        assert_eq!(judge(&facts(libc::ENOMEM)), Some(Missing::MemoryLock { limit_bytes: 65536 }));
        assert_eq!(judge(&facts(libc::EMFILE)), Some(Missing::Other { errno: libc::EMFILE }));
        let operations = Facts { missing_operations: vec!["MSG_RING"], ..Facts::default() };
        assert_eq!(judge(&operations), Some(Missing::Operations { names: vec!["MSG_RING"] }));
    }

    #[test]
    fn receives_end_since_linux_6_17() {
        for release in ["6.17.0", "6.18.44-custom", "7.0-rc1", "10.2"] {
            assert!(ends_receives(release), "{release}");
        }
        for release in ["6.1.0-13-amd64", "6.16.9", "5.19", "6", "unknown", ""] {
            assert!(!ends_receives(release), "{release}");
        }
    }

    #[test]
    fn each_verdict_says_how_to_allow_it() {
        let text = Missing::Sysctl { value: 1 }.to_string();
        assert!(text.contains("sysctl kernel.io_uring_disabled=0") && text.contains("io_uring_group"));
        assert!(Missing::Seccomp.to_string().contains("seccomp profile"));
        assert!(Missing::MemoryLock { limit_bytes: 1 }.to_string().contains("LimitMEMLOCK"));
    }
}
