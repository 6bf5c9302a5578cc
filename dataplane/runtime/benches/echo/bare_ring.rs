//! The smallest useful ring: multishot receive into provided buffers, and nothing else.
//!
//! Three users: the client, the floor (a server without an executor) and the tokio variant on a ring
//! of its own. The buffers are leaked: the kernel may hold them until the process ends, and the
//! process ends soon. Their number is fixed and larger than the requests in flight.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode, squeue};

const ENTRIES: u32 = 4096;
const GROUP: u16 = 0;
/// More than the largest load has connections.
const BUFFERS: u16 = 1024;
const BUFFER_LEN: usize = 4096;

/// What an operation was, as its completion tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Accept,
    Receive,
    Send,
}

/// A completion: what it was, for which connection, and how it went.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Completion {
    pub(crate) kind: Kind,
    pub(crate) connection: usize,
    pub(crate) result: i32,
    pub(crate) buffer: Option<u16>,
    /// Whether the operation has ended; a multishot one goes on otherwise.
    pub(crate) is_final: bool,
}

/// How much an enter does beside submitting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Enter {
    /// Nothing: deferred completions stay where they are.
    Submit,
    /// Runs deferred completions.
    Reap,
    /// The same, and sleeps until there is one.
    Wait,
}

/// When the kernel runs what is left to do for a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskRun {
    /// Within an enter that asks for it (DEFER_TASKRUN).
    Deferred,
    /// At the end of any system call; it interrupts a sleeping one (COOP_TASKRUN).
    Cooperative,
}

/// A ring with its provided buffers.
pub(crate) struct BareRing {
    uring: IoUring,
    entries: *mut BufRingEntry,
    buffers: &'static mut [[u8; BUFFER_LEN]],
    tail: u16,
}

impl BareRing {
    pub(crate) fn new(task_run: TaskRun) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        match task_run {
            TaskRun::Deferred => builder.setup_defer_taskrun().setup_taskrun_flag(),
            TaskRun::Cooperative => builder.setup_coop_taskrun().setup_taskrun_flag(),
        };
        builder.setup_single_issuer().setup_submit_all().setup_cqsize(2 * ENTRIES);
        let uring = builder.build(ENTRIES)?;
        let bytes = usize::from(BUFFERS) * size_of::<BufRingEntry>();
        // The buffer ring must start on a page; a spare page is where its start moves to.
        let memory = vec![0u8; bytes + BUFFER_LEN].leak();
        let start = memory.as_mut_ptr();
        // SAFETY: the offset to the next page is less than the spare page.
        let entries = unsafe { start.add(start.align_offset(BUFFER_LEN)) }.cast::<BufRingEntry>();
        let buffers = vec![[0u8; BUFFER_LEN]; usize::from(BUFFERS)].leak();
        // SAFETY: page-aligned, large enough for `BUFFERS` entries, and leaked.
        unsafe { uring.submitter().register_buf_ring_with_flags(entries as u64, BUFFERS, GROUP, 0)? };
        let mut ring = Self { uring, entries, buffers, tail: 0 };
        (0..BUFFERS).for_each(|buffer| ring.give_back(buffer));
        Ok(ring)
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.uring.as_raw_fd()
    }

    pub(crate) fn accept(&mut self, listener: RawFd) {
        self.push(&opcode::AcceptMulti::new(Fd(listener)).build(), Kind::Accept, 0);
    }

    pub(crate) fn receive(&mut self, socket: RawFd, connection: usize) {
        self.push(&opcode::RecvMulti::new(Fd(socket), GROUP).build(), Kind::Receive, connection);
    }

    /// Sends bytes that live for ever; only a failure is told.
    pub(crate) fn send_static(&mut self, socket: RawFd, connection: usize, bytes: &'static [u8]) {
        let entry =
            opcode::Send::new(Fd(socket), bytes.as_ptr(), bytes.len() as u32).flags(libc::MSG_NOSIGNAL);
        self.push(&entry.build().flags(squeue::Flags::SKIP_SUCCESS), Kind::Send, connection);
    }

    /// Sends bytes that the caller keeps until the completion.
    pub(crate) fn send(&mut self, socket: RawFd, connection: usize, bytes: &[u8]) {
        let entry =
            opcode::Send::new(Fd(socket), bytes.as_ptr(), bytes.len() as u32).flags(libc::MSG_NOSIGNAL);
        self.push(&entry.build(), Kind::Send, connection);
    }

    fn push(&mut self, entry: &squeue::Entry, kind: Kind, connection: usize) {
        let entry = entry.clone().user_data((kind as u64) << 56 | connection as u64);
        // SAFETY: what the entry points to lives long enough, as the three senders above demand.
        while unsafe { self.uring.submission().push(&entry) }.is_err() {
            self.enter(Enter::Submit);
        }
    }

    /// Whether a reap would submit or bring something.
    pub(crate) fn has_work(&mut self) -> bool {
        let submission = self.uring.submission();
        let for_the_kernel = !submission.is_empty() || submission.taskrun();
        drop(submission);
        for_the_kernel || !self.uring.completion().is_empty()
    }

    /// Has the kernel count up an eventfd at each completion, deferred or not.
    pub(crate) fn tell(&self, eventfd: RawFd) -> io::Result<()> {
        self.uring.submitter().register_eventfd(eventfd)
    }

    pub(crate) fn enter(&mut self, how: Enter) {
        const GETEVENTS: u32 = 1; // IORING_ENTER_GETEVENTS
        let queued = self.uring.submission().len() as u32;
        let (want, flags) = match how {
            Enter::Submit => (0, 0),
            Enter::Reap => (0, GETEVENTS),
            Enter::Wait => (1, GETEVENTS),
        };
        // SAFETY: no argument is passed, so nothing is read through a pointer. An error is EINTR or
        // EBUSY, after which the caller comes back anyway.
        let _ = unsafe { self.uring.submitter().enter::<libc::sigset_t>(queued, want, flags, None) };
    }

    /// The next completion that is there already.
    pub(crate) fn next(&mut self) -> Option<Completion> {
        let entry = self.uring.completion().next()?;
        let kind = match entry.user_data() >> 56 {
            0 => Kind::Accept,
            1 => Kind::Receive,
            _ => Kind::Send,
        };
        Some(Completion {
            kind,
            connection: (entry.user_data() & 0x00ff_ffff_ffff_ffff) as usize,
            result: entry.result(),
            buffer: cqueue::buffer_select(entry.flags()),
            is_final: !cqueue::more(entry.flags()),
        })
    }

    /// The first `len` bytes of a buffer that a completion named.
    pub(crate) fn bytes(&self, buffer: u16, len: usize) -> &[u8] {
        &self.buffers[usize::from(buffer)][..len]
    }

    /// Lends a buffer to the kernel again.
    pub(crate) fn give_back(&mut self, buffer: u16) {
        let address = self.buffers[usize::from(buffer)].as_mut_ptr() as u64;
        // SAFETY: the slot lies within the ring's memory; the kernel does not read it before the
        // tail moves past it. The tail lies in a part of the first slot that no setter writes.
        unsafe {
            let slot = &mut *self.entries.add(usize::from(self.tail % BUFFERS));
            slot.set_addr(address);
            slot.set_len(BUFFER_LEN as u32);
            slot.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            AtomicU16::from_ptr(BufRingEntry::tail(self.entries).cast_mut())
                .store(self.tail, Ordering::Release);
        }
    }
}
