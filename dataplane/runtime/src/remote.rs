//! What other threads may do to a core: wake one of its tasks, and ring its bell.
//!
//! A core sleeps inside its driver. Before it does, it says so in `asleep` and then looks once
//! more for work; whoever brings work from outside first makes the work visible and then looks at
//! `asleep`. Between the two stands a full fence on either side (Dekker's pattern), so that at
//! least one of them sees the other: the core stays awake, or the bell rings. Exactly one caller
//! wins the swap, so a sleep costs at most one bell.
//!
//! The mailbox crate has the same protocol for its lanes, model-checked with loom; both end in the
//! same bell.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering, fence};

use crate::executor::Runnable;
/// The side of a core that other threads see.
#[derive(Debug)]
pub struct Remote {
    /// Tasks woken from another thread. Locked only by such wake-ups and once per turn with work.
    woken: Mutex<VecDeque<Runnable>>,
    /// Set with `woken` under its lock, so that the core can look without locking.
    has_woken: AtomicBool,
    /// True from just before the core sleeps until it is awake, or until a bell was rung.
    asleep: AtomicBool,
    /// An eventfd that the core's driver watches: the bell that any thread can ring.
    bell: OwnedFd,
    /// The ring of the core, for MSG_RING from other cores; -1 on epoll or when the core is gone.
    ring_fd: AtomicI32,
    /// Turns of the core's loop, for the watcher of stalled cores.
    turns: AtomicU64,
}

/// What the watcher of stalled cores sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    /// Turns so far.
    pub turns: u64,
    /// Whether the core sleeps, in which case standing still is no stall.
    pub asleep: bool,
}

impl Remote {
    /// A remote whose core has not started yet.
    pub fn new() -> std::io::Result<Self> {
        // SAFETY: eventfd takes no pointers; a non-negative result is a descriptor that we own.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(Self {
            woken: Mutex::default(),
            has_woken: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            // SAFETY: `fd` was just made by eventfd and has no other owner.
            bell: unsafe { OwnedFd::from_raw_fd(fd) },
            ring_fd: AtomicI32::new(-1),
            turns: AtomicU64::new(0),
        })
    }

    /// Wakes the core if it sleeps. The caller has made its work visible before.
    pub fn notify(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            self.ring_bell();
        }
    }

    /// Rings the bell without looking whether anybody sleeps: by MSG_RING when the calling thread
    /// has a ring of its own, else through the eventfd.
    pub fn ring_bell(&self) {
        let target = self.ring_fd.load(Ordering::Acquire);
        if target >= 0 && crate::core::message_ring(target) {
            return;
        }
        let one = 1u64;
        // SAFETY: writes eight bytes from a local; the descriptor lives as long as `self`. The
        // write can only fail with EAGAIN when the counter is full, and then the bell has rung.
        unsafe { libc::write(self.bell.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// How the core is doing.
    pub fn pulse(&self) -> Pulse {
        Pulse { turns: self.turns.load(Ordering::Relaxed), asleep: self.asleep.load(Ordering::Relaxed) }
    }

    pub(crate) fn push(&self, runnable: Runnable) {
        {
            let mut woken = self.woken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            woken.push_back(runnable);
            self.has_woken.store(true, Ordering::Release);
        }
        self.notify();
    }

    /// Takes what other threads woke, for the core's own queue.
    pub(crate) fn take_woken(&self) -> VecDeque<Runnable> {
        if !self.has_woken.load(Ordering::Acquire) {
            return VecDeque::new();
        }
        let mut woken = self.woken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.has_woken.store(false, Ordering::Relaxed);
        std::mem::take(&mut woken)
    }

    pub(crate) fn count_turn(&self) {
        self.turns.store(self.turns.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// Says that the core is about to sleep; false means that work is there and it must not.
    pub(crate) fn prepare_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.has_woken.load(Ordering::Acquire) {
            self.asleep.store(false, Ordering::Relaxed);
            return false;
        }
        true
    }

    pub(crate) fn woke(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    pub(crate) fn bell_fd(&self) -> RawFd {
        self.bell.as_raw_fd()
    }

    pub(crate) fn set_ring_fd(&self, fd: RawFd) {
        self.ring_fd.store(fd, Ordering::Release);
    }
}
