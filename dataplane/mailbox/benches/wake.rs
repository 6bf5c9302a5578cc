//! Waking a core that sleeps in its io_uring: which doorbell?
//!
//! # Back of the envelope
//!
//! The sender pays one system call, 0.1 to 0.3 µs, plus the wake-up of a task on another CPU, 1 to 3 µs with
//! the interrupt to it; in a virtual machine that interrupt leaves the guest. The sleeper's CPU must leave
//! its idle state and switch: 2 to 5 µs on bare metal, 5 to 50 in a guest whose idle CPU has been given back.
//! All doorbells end in the same `wake_up`, so they should differ by less than a microsecond: MSG_RING posts
//! one completion; an eventfd takes its counter's lock, fires a poll entry, which posts one; a futex entry
//! does the same from a hash bucket. A futex that the thread waits on directly is the floor: a core cannot
//! use it, because it waits for sockets too.
//!
//! # How it is measured
//!
//! The receiver says that it is about to wait; the sender lets [`ASLEEP_AFTER`] pass, reads the clock, rings,
//! and reads it again (*sender*); the receiver reads it when its wait returns with the completion (*one
//! way*). MSG_RING is submitted alone here; a runtime submits it together with its other entries, hence its
//! share is smaller.
//!
//! There is no bar: the figures choose the runtime's default.
#![allow(clippy::print_stdout, reason = "a bench reports to the terminal")]

mod support;

use std::hint::spin_loop;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use std::{io, ptr, thread};

use io_uring::{IoUring, opcode, squeue, types};
use support::{
    RECEIVER_CPU, SENDER_CPU, Spread, insist, note_preemptions, pin, quantile, ticks, ticks_per_ns,
    undisturbed,
};

/// Long enough for the sleeper's CPU to be idle.
const ASLEEP_AFTER: Duration = Duration::from_micros(30);
const WAKES: u64 = 2_000;
const ROUNDS: usize = 15;

/// The sleeping side: arms itself, and waits until it is rung.
trait Sleeper {
    fn wait(&mut self);
}

type Ring = Box<dyn FnMut()>;

/// A doorbell: makes the sleeper on its own thread, and from what that one says, the ringing side on the
/// other.
struct Kind {
    name: &'static str,
    sleeper: fn() -> (Box<dyn Sleeper>, Address),
    ringer: fn(Address) -> Ring,
}

/// What the ringing side must know.
#[derive(Clone, Copy)]
enum Address {
    Descriptor(RawFd),
    Word(&'static AtomicU32),
}

const KINDS: [Kind; 4] = [
    Kind { name: "MSG_RING", sleeper: msg_ring_sleeper, ringer: msg_ring_ringer },
    Kind { name: "eventfd, multishot poll", sleeper: eventfd_sleeper, ringer: eventfd_ringer },
    Kind { name: "futex, ring entry", sleeper: futex_entry_sleeper, ringer: futex_ringer },
    Kind { name: "futex, direct (floor)", sleeper: futex_direct_sleeper, ringer: futex_ringer },
];

fn main() {
    let per_ns = ticks_per_ns();
    // By kind and round: one way p50, p99, sender p50, in microseconds.
    let mut figures = vec![Vec::new(); KINDS.len()];
    let mut thrown_away = 0;
    for round in 0..ROUNDS {
        for next in 0..KINDS.len() {
            let at = (round + next) % KINDS.len();
            let ((mut one_way, mut sender), disturbed) = undisturbed(|| measure(&KINDS[at], per_ns));
            thrown_away += disturbed;
            one_way.sort_unstable();
            sender.sort_unstable();
            let figure = [quantile(&one_way, 0.5), quantile(&one_way, 0.99), quantile(&sender, 0.5)];
            figures[at].push(figure.map(|ticks| ticks as f64 / per_ns / 1000.0));
        }
    }
    println!("µs per wake-up, median and quartiles of {ROUNDS} alternating rounds of {WAKES}");
    println!("({thrown_away} runs repeated, because another program took the sender's CPU)");
    println!("{:26} {:>22} {:>24} {:>22}", "", "one way p50", "one way p99", "sender p50");
    for (kind, rounds) in KINDS.iter().zip(&figures) {
        let [p50, p99, sender] = [0, 1, 2].map(|at| Spread::of(rounds.iter().map(|figure| figure[at])));
        println!("{:26} {p50:>22.2} {p99:>24.2} {sender:>22.2}", kind.name);
    }
}

/// Wakes the sleeper many times; returns the ticks of the way and of the sender's call.
fn measure(kind: &Kind, per_ns: f64) -> (Vec<u64>, Vec<u64>) {
    let pause = (ASLEEP_AFTER.as_nanos() as f64 * per_ns) as u64;
    let waiting = AtomicU64::new(0);
    let woke_at = AtomicU64::new(0);
    let (waiting, woke_at) = (&waiting, &woke_at);
    let (say, hear) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            pin(RECEIVER_CPU);
            insist();
            let (mut sleeper, address) = (kind.sleeper)();
            say.send(address).expect("the other side listens");
            for wake in 1..=WAKES {
                waiting.store(wake, Ordering::Release);
                sleeper.wait();
                woke_at.store(ticks(), Ordering::Release);
            }
        });
        let ringing = scope.spawn(move || {
            pin(SENDER_CPU);
            insist();
            let mut ring = (kind.ringer)(hear.recv().expect("the sleeper has set up"));
            let figures = (1..=WAKES).map(|wake| one_wake(wake, pause, waiting, woke_at, &mut ring)).unzip();
            note_preemptions();
            figures
        });
        ringing.join().expect("all rings were heard")
    })
}

fn one_wake(wake: u64, pause: u64, waiting: &AtomicU64, woke_at: &AtomicU64, ring: &mut Ring) -> (u64, u64) {
    while waiting.load(Ordering::Acquire) != wake {
        spin_loop();
    }
    woke_at.store(0, Ordering::Release);
    let said = ticks();
    while ticks() - said < pause {
        spin_loop();
    }
    let before = ticks();
    ring();
    let after = ticks();
    loop {
        let at = woke_at.load(Ordering::Acquire);
        if at != 0 {
            return (at.saturating_sub(before), after - before);
        }
        spin_loop();
    }
}

/// A ring as a core has it.
fn core_ring() -> IoUring {
    IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(8).expect(
        "this bench needs io_uring with DEFER_TASKRUN: Linux 6.1, and no seccomp or sysctl against it",
    )
}

fn push(ring: &mut IoUring, entry: &squeue::Entry) {
    // SAFETY: What the entries of this bench point to (an eventfd's number, a static word) outlives their
    // rings.
    unsafe { ring.submission().push(entry) }.expect("the queue has eight places and holds at most two");
}

/// Waits for one completion and takes all.
fn wait_for_completion(ring: &mut IoUring) {
    ring.submit_and_wait(1).expect("a wait on a healthy ring");
    ring.completion().for_each(drop);
}

struct MsgRingSleeper(IoUring);

fn msg_ring_sleeper() -> (Box<dyn Sleeper>, Address) {
    let ring = core_ring();
    let address = Address::Descriptor(ring.as_raw_fd());
    (Box::new(MsgRingSleeper(ring)), address)
}

impl Sleeper for MsgRingSleeper {
    fn wait(&mut self) {
        wait_for_completion(&mut self.0);
    }
}

fn msg_ring_ringer(address: Address) -> Ring {
    let Address::Descriptor(target) = address else { unreachable!("the sleeper has a ring") };
    let mut ring = core_ring();
    Box::new(move || {
        let entry = opcode::MsgRingData::new(types::Fd(target), 0, 1, None).build();
        push(&mut ring, &entry.flags(squeue::Flags::SKIP_SUCCESS));
        ring.submit().expect("a submission to a healthy ring");
    })
}

struct EventfdSleeper {
    ring: IoUring,
    eventfd: RawFd,
}

fn eventfd_sleeper() -> (Box<dyn Sleeper>, Address) {
    // SAFETY: The call takes no pointers.
    let eventfd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    assert!(eventfd >= 0, "{}", io::Error::last_os_error());
    let mut ring = core_ring();
    let entry = opcode::PollAdd::new(types::Fd(eventfd), libc::POLLIN as u32).multi(true).build();
    push(&mut ring, &entry);
    ring.submit().expect("a submission to a healthy ring");
    (Box::new(EventfdSleeper { ring, eventfd }), Address::Descriptor(eventfd))
}

impl Sleeper for EventfdSleeper {
    fn wait(&mut self) {
        wait_for_completion(&mut self.ring);
        let mut count = 0_u64;
        // SAFETY: Eight bytes are read into a u64 that lives here.
        let read = unsafe { libc::read(self.eventfd, (&raw mut count).cast(), 8) };
        assert_eq!(read, 8, "it was readable");
    }
}

impl Drop for EventfdSleeper {
    fn drop(&mut self) {
        // SAFETY: The descriptor is ours; the ring keeps its own reference to the file until it is gone.
        unsafe { libc::close(self.eventfd) };
    }
}

fn eventfd_ringer(address: Address) -> Ring {
    let Address::Descriptor(eventfd) = address else { unreachable!("the sleeper has an eventfd") };
    Box::new(move || {
        let one = 1_u64;
        // SAFETY: Eight bytes are written from a u64 that lives here.
        let written = unsafe { libc::write(eventfd, (&raw const one).cast(), 8) };
        assert_eq!(written, 8);
    })
}

/// Two 32-bit words for the whole run: a waiting kernel may look at them at any time, so they are never
/// freed.
static WORDS: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(0)];

/// `FUTEX2_SIZE_U32 | FUTEX2_PRIVATE`, as the ring's futex entries want them.
const FUTEX2_FLAGS: u32 = 0x02 | 128;

struct FutexEntrySleeper(IoUring);

fn futex_entry_sleeper() -> (Box<dyn Sleeper>, Address) {
    WORDS[0].store(0, Ordering::Release);
    (Box::new(FutexEntrySleeper(core_ring())), Address::Word(&WORDS[0]))
}

impl Sleeper for FutexEntrySleeper {
    fn wait(&mut self) {
        let mask = u64::from(u32::MAX);
        let entry = opcode::FutexWait::new(WORDS[0].as_ptr(), 0, mask, FUTEX2_FLAGS).build();
        push(&mut self.0, &entry);
        wait_for_completion(&mut self.0);
        WORDS[0].store(0, Ordering::Release);
    }
}

struct FutexDirectSleeper;

fn futex_direct_sleeper() -> (Box<dyn Sleeper>, Address) {
    WORDS[1].store(0, Ordering::Release);
    (Box::new(FutexDirectSleeper), Address::Word(&WORDS[1]))
}

impl Sleeper for FutexDirectSleeper {
    fn wait(&mut self) {
        while WORDS[1].load(Ordering::Acquire) == 0 {
            futex(&WORDS[1], libc::FUTEX_WAIT, 0);
        }
        WORDS[1].store(0, Ordering::Release);
    }
}

fn futex_ringer(address: Address) -> Ring {
    let Address::Word(word) = address else { unreachable!("the sleeper has a word") };
    Box::new(move || {
        word.store(1, Ordering::Release);
        futex(word, libc::FUTEX_WAKE, 1);
    })
}

fn futex(word: &'static AtomicU32, operation: i32, value: u32) {
    let none = ptr::null::<libc::timespec>();
    // SAFETY: The word is static, and there is no timeout to point to.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), operation | libc::FUTEX_PRIVATE_FLAG, value, none)
    };
}
