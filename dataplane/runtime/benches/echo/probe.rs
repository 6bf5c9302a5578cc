//! Does a completion that is deferred (DEFER_TASKRUN) wake an epoll that watches the ring?
//!
//! A runtime that sleeps in epoll must know. Another thread writes into socket pairs while this one
//! sleeps in `epoll_wait`, edge-triggered as tokio does it, on the ring's descriptor or on an eventfd
//! registered with the ring.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use io_uring::types::Fd;
use io_uring::{IoUring, opcode};

/// How long a wake-up may take before it counts as lost.
const PATIENCE_MS: i32 = 300;
const SLEEPS: usize = 10;
const RACES: usize = 2_000;

pub(crate) fn run() -> io::Result<()> {
    let mut coop = IoUring::builder();
    coop.setup_coop_taskrun();
    let mut defer = IoUring::builder();
    defer.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    for (name, builder, watch) in [
        ("default, epoll on the ring", IoUring::builder(), Watch::Ring),
        ("COOP_TASKRUN, epoll on the ring", coop, Watch::Ring),
        ("DEFER_TASKRUN, epoll on the ring", defer.clone(), Watch::Ring),
        ("DEFER_TASKRUN, epoll on a registered eventfd", defer, Watch::Eventfd),
    ] {
        let mut watched = Watched::new(builder.build(64)?, watch)?;
        println!("{name}:");
        watched.asleep()?;
        watched.second_behind_an_untaken_one()?;
        watched.races()?;
    }
    Ok(())
}

/// What the epoll watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    Ring,
    Eventfd,
}

/// A ring that an epoll watches, and a pair of sockets to make completions with.
struct Watched {
    ring: IoUring,
    epoll: OwnedFd,
    near: UnixStream,
    far: UnixStream,
    /// How often a sleep ended with EINTR.
    interrupted: usize,
}

impl Watched {
    fn new(ring: IoUring, watch: Watch) -> io::Result<Self> {
        // SAFETY: takes no pointers; the result is checked.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, no other owner.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        let fd = match watch {
            Watch::Ring => ring.as_raw_fd(),
            Watch::Eventfd => {
                // SAFETY: takes no pointers; a failure is told by the registration.
                let eventfd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
                ring.submitter().register_eventfd(eventfd)?;
                eventfd
            }
        };
        let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: 0 };
        // SAFETY: passes a pointer to a local; the kernel copies it.
        let added = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        if added < 0 {
            return Err(io::Error::last_os_error());
        }
        let (near, far) = UnixStream::pair()?;
        Ok(Self { ring, epoll, near, far, interrupted: 0 })
    }

    /// Submits a poll for readability: an operation that needs no memory of ours.
    fn submit_poll(&mut self) -> io::Result<()> {
        let entry = opcode::PollAdd::new(Fd(self.near.as_raw_fd()), libc::POLLIN as u32).build();
        // SAFETY: the operation points to nothing, and its descriptor lives with `self`.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        // Submits only: no GETEVENTS.
        self.ring.submit().map(drop)
    }

    /// Whether the epoll woke in time. Being interrupted is counted: without DEFER_TASKRUN the
    /// kernel runs completions as a kind of signal to this thread.
    fn sleep(&mut self) -> io::Result<bool> {
        loop {
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            // SAFETY: the kernel writes at most one event into a local.
            let count = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), &raw mut event, 1, PATIENCE_MS) };
            if count >= 0 {
                return Ok(count == 1);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
            self.interrupted += 1;
        }
    }

    fn visible(&mut self) -> usize {
        self.ring.completion().len()
    }

    /// Runs deferred work and takes what is there.
    fn take(&mut self) -> io::Result<usize> {
        const GETEVENTS: u32 = 1; // IORING_ENTER_GETEVENTS
        // SAFETY: no argument is passed.
        unsafe { self.ring.submitter().enter::<libc::sigset_t>(0, 0, GETEVENTS, None)? };
        Ok(self.ring.completion().count())
    }

    fn write_later(&self) -> io::Result<std::thread::JoinHandle<io::Result<()>>> {
        let mut far = self.far.try_clone()?;
        Ok(std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            far.write_all(b"x")
        }))
    }

    /// Completions that come while this thread is fast asleep.
    fn asleep(&mut self) -> io::Result<()> {
        let (mut woken, mut visible, mut taken) = (0, 0, 0);
        for _ in 0..SLEEPS {
            self.submit_poll()?;
            let writer = self.write_later()?;
            woken += usize::from(self.sleep()?);
            visible += self.visible();
            taken += self.take()?;
            writer.join().map_or(Ok(()), |outcome| outcome)?;
            self.near.read_exact(&mut [0])?;
        }
        println!(
            "  {SLEEPS} sleeps in epoll: {woken} woken; completions visible {visible}, by an enter {taken}"
        );
        Ok(())
    }

    /// The first completion is not taken, as by a task that looks away. Does the next one wake?
    fn second_behind_an_untaken_one(&mut self) -> io::Result<()> {
        self.submit_poll()?;
        self.far.write_all(b"x")?;
        let first = self.sleep()?;
        self.near.read_exact(&mut [0])?;
        self.submit_poll()?;
        let writer = self.write_later()?;
        let second = self.sleep()?;
        let taken = self.take()?;
        println!("  one left untaken: woken {first}; by the next one {second}; an enter brings {taken}");
        self.near.read_exact(&mut [0])?;
        writer.join().map_or(Ok(()), |outcome| outcome)
    }

    /// Completions that race with going to sleep.
    fn races(&mut self) -> io::Result<()> {
        let (ask, asked) = mpsc::channel::<()>();
        let mut far = self.far.try_clone()?;
        let writer = std::thread::spawn(move || asked.iter().try_for_each(|()| far.write_all(b"x")));
        let (mut lost, mut races) = (0, 0);
        while races < RACES && lost < 10 {
            races += 1;
            self.submit_poll()?;
            ask.send(()).map_err(io::Error::other)?;
            lost += usize::from(!self.sleep()?);
            while self.take()? == 0 {}
            self.near.read_exact(&mut [0])?;
        }
        drop(ask);
        println!(
            "  {races} races with going to sleep: {lost} wake-ups lost; EINTR {} times",
            self.interrupted
        );
        writer.join().map_or(Ok(()), |outcome| outcome)
    }
}
