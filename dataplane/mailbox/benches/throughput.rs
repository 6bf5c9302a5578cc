//! Throughput: 64-byte messages from a thread on CPU 0 to one on CPU 1, as fast as they go.
//!
//! # Back of the envelope
//!
//! A message is one cache line that was last read by the other core: moving it costs one transfer each way,
//! 30 to 60 ns each, unless the hardware overlaps several. A ring whose two sides see each other's position
//! rarely (cached copies, batches) lets the prefetcher run ahead of both: 3 to 10 ns a message are in reach.
//! A queue for many producers takes a locked instruction per message (5 to 10 ns when the line is here, a
//! transfer when it is not): 20 to 60 ns. tokio's channel adds a semaphore for its bound and a waker: 50 to
//! 150 ns, and a futex call when a side sleeps.
//!
//! # The bar
//!
//! At least 3 times tokio's mpsc between two current-thread runtimes, in which both sides sleep when they
//! have nothing to do. So do ours here, through the wake protocol (`mailbox, sleeping`). The other peers
//! poll, and stand beside the mailbox that polls.
#![allow(clippy::print_stdout, reason = "a bench reports to the terminal")]

mod support;

use std::hint::{black_box, spin_loop};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use berth_mailbox::{Capacities, Class, CoreId, Doorbell, Endpoint, Full, Sleep, mesh};
use criterion::{BenchmarkId, Criterion, Throughput};
use crossbeam_queue::ArrayQueue;
use support::{
    Message, RECEIVER_CPU, SENDER_CPU, Spread, insist, note_preemptions, pin, undisturbed, verdict,
};

/// The same room for every queue.
const CAPACITY: usize = 1024;

/// How many messages a core sends in one pass before it flushes.
const PASS: usize = 32;

/// How many messages a receiver takes at a time, where its queue has batches.
const BATCH: usize = 64;

type Transfer = fn(u64) -> Duration;

const TRANSFERS: [(&str, Transfer); 9] = [
    ("mailbox, sleeping", mailbox_sleeping),
    ("tokio mpsc, recv", tokio_recv),
    ("tokio mpsc, recv_many", tokio_recv_many),
    ("mailbox, polling", mailbox_polling),
    ("rtrb, push and pop", rtrb_single),
    ("rtrb, push and chunks", rtrb_chunks),
    ("crossbeam ArrayQueue", array_queue),
    ("crossbeam-channel", crossbeam),
    ("flume", flume_polling),
];

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut group = criterion.benchmark_group("throughput");
    group.throughput(Throughput::Elements(MESSAGES_PER_ITERATION));
    for (name, transfer) in TRANSFERS {
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter_custom(|iterations| transfer(iterations * MESSAGES_PER_ITERATION));
        });
    }
    group.finish();
    drains_of_nothing(&mut criterion);
    criterion.final_summary();
    if std::env::args().any(|argument| argument == "--bench") {
        compare();
    }
}

/// The price of one lane per sender and class: what a core pays to find all of them empty.
fn drains_of_nothing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("drain of nothing");
    for cores in [2, 16, 64] {
        let capacities = Capacities { control: 1, request: 1, toss: 1 };
        let mut core = mesh::<Message>(cores, capacities).expect("lanes with room").swap_remove(0);
        group.bench_function(BenchmarkId::from_parameter(cores), |bencher| {
            bencher.iter(|| core.inbox.drain(BATCH, |_, _, message| drop(Box::new(message))));
        });
    }
    group.finish();
}

/// Criterion's iterations are this long, so that starting the two threads does not count.
const MESSAGES_PER_ITERATION: u64 = 20_000;

/// Rounds in which everybody runs once, so that a slow minute of the machine hits all alike.
fn compare() {
    const ROUNDS: usize = 25;
    const COUNT: u64 = 500_000;
    let mut thrown_away = 0;
    let mut run = |transfer: Transfer| {
        let (took, disturbed) = undisturbed(|| transfer(COUNT));
        thrown_away += disturbed;
        took.as_nanos() as f64 / COUNT as f64
    };
    let rounds: Vec<Vec<f64>> =
        (0..ROUNDS).map(|_| TRANSFERS.iter().map(|&(_, transfer)| run(transfer)).collect()).collect();
    let spread = |act: &dyn Fn(&[f64]) -> f64| Spread::of(rounds.iter().map(|round| act(round)));
    println!("\nns per message, median and quartiles of {ROUNDS} alternating rounds of {COUNT}");
    println!("({thrown_away} runs repeated, because another program took a CPU)");
    for (at, (name, _)) in TRANSFERS.iter().enumerate() {
        println!("{name:24} {:>24.1}", spread(&|round| round[at]));
    }
    println!("\nthroughput of the mailbox over its peers");
    let faster = |theirs: usize, ours: usize| spread(&move |round: &[f64]| round[theirs] / round[ours]);
    for theirs in [1, 2] {
        let figure = faster(theirs, 0);
        println!(
            "{:24} {figure:>24.2}  bar 3: {}",
            TRANSFERS[theirs].0,
            verdict(figure, |ratio| ratio >= 3.0)
        );
    }
    for (theirs, (name, _)) in TRANSFERS.iter().enumerate().skip(4) {
        println!("{name:24} {:>24.2}", faster(theirs, 3));
    }
}

/// Runs both ends on their CPUs, from a common start to the return of the receiver.
fn between<S: Send, R: Send>(
    sender: impl FnOnce() -> S + Send,
    receiver: impl FnOnce() -> R + Send,
) -> Duration {
    let start = Barrier::new(2);
    thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            pin(RECEIVER_CPU);
            insist();
            start.wait();
            black_box(receiver());
            let ended = Instant::now();
            note_preemptions();
            ended
        });
        let sending = scope.spawn(|| {
            pin(SENDER_CPU);
            insist();
            start.wait();
            let started = Instant::now();
            black_box(sender());
            note_preemptions();
            started
        });
        let started = sending.join().expect("the sender ran through");
        receiving.join().expect("the receiver ran through") - started
    })
}

/// Both ends poll.
fn polled(
    count: u64,
    mut send: impl FnMut(Message) -> bool + Send,
    mut receive: impl FnMut() -> u64 + Send,
) -> Duration {
    let sender = || {
        for sequence in 0..count {
            while !send([sequence; 8]) {
                spin_loop();
            }
        }
    };
    let receiver = || {
        let mut got = 0;
        while got < count {
            match receive() {
                0 => spin_loop(),
                some => got += some,
            }
        }
    };
    between(sender, receiver)
}

/// Lanes of the same room as the peers' queues.
fn two_cores() -> (Endpoint<Message>, Endpoint<Message>) {
    let capacities = Capacities { control: CAPACITY, request: CAPACITY, toss: CAPACITY };
    let mut cores = mesh(2, capacities).expect("two cores with room");
    let receiver = cores.pop().expect("two");
    (cores.pop().expect("two"), receiver)
}

struct NoBell;

impl Doorbell for NoBell {
    fn ring(&self, _core: CoreId) {}
}

fn mailbox_polling(count: u64) -> Duration {
    let (Endpoint { mut inbox, mut outbox }, mut receiver) = two_cores();
    let to = outbox.peer(1).expect("two cores");
    let mut sent = 0;
    let send = move |message: Message| {
        let done = outbox.send(to, Class::Control, message).is_ok();
        sent += usize::from(done);
        if sent == PASS || !done {
            sent = 0;
            inbox.flush(&mut outbox, &NoBell);
        }
        done
    };
    let receive = move || {
        let got = receiver.inbox.drain(BATCH, |_, _, message| {
            black_box(message);
        });
        receiver.inbox.flush(&mut receiver.outbox, &NoBell);
        got as u64
    };
    polled(count, send, receive)
}

/// Threads that park, by the index of their core.
#[derive(Clone, Default)]
struct Parked(Arc<[OnceLock<Thread>; 2]>);

impl Doorbell for Parked {
    fn ring(&self, core: CoreId) {
        self.0[core.index()].get().expect("a core that sleeps has said who it is").unpark();
    }
}

impl Parked {
    fn sleep(&self, core: &mut Endpoint<Message>) {
        if core.inbox.prepare_sleep(&mut core.outbox, self) == Sleep::May {
            thread::park();
        }
        core.inbox.woke();
    }
}

fn mailbox_sleeping(count: u64) -> Duration {
    let (mut sender, mut receiver) = two_cores();
    let bells = Parked::default();
    let others = bells.clone();
    let sending = move || {
        bells.0[0].get_or_init(thread::current);
        let to = sender.outbox.peer(1).expect("two cores");
        for sequence in 0..count {
            while let Err(Full(_)) = sender.outbox.send(to, Class::Control, [sequence; 8]) {
                sender.outbox.wait_for_space(to, Class::Control);
                bells.sleep(&mut sender);
                sender.outbox.take_space(|_, _, _| ());
            }
            if sequence % PASS as u64 == 0 {
                sender.inbox.flush(&mut sender.outbox, &bells);
            }
        }
        sender.inbox.flush(&mut sender.outbox, &bells);
    };
    let receiving = move || {
        others.0[1].get_or_init(thread::current);
        let mut got = 0;
        while got < count {
            let some = receiver.inbox.drain(BATCH, |_, _, message| {
                black_box(message);
            });
            got += some as u64;
            receiver.inbox.flush(&mut receiver.outbox, &others);
            if some == 0 {
                others.sleep(&mut receiver);
            }
        }
    };
    between(sending, receiving)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers starts anywhere")
}

async fn tokio_send(sender: tokio::sync::mpsc::Sender<Message>, count: u64) {
    for sequence in 0..count {
        sender.send([sequence; 8]).await.expect("the receiver waits for all");
    }
}

fn tokio_recv(count: u64) -> Duration {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(CAPACITY);
    let receiving = async move {
        while let Some(message) = receiver.recv().await {
            black_box(message);
        }
    };
    between(|| runtime().block_on(tokio_send(sender, count)), || runtime().block_on(receiving))
}

fn tokio_recv_many(count: u64) -> Duration {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(CAPACITY);
    let receiving = async move {
        let mut batch: Vec<Message> = Vec::with_capacity(BATCH);
        while receiver.recv_many(&mut batch, BATCH).await > 0 {
            for message in batch.drain(..) {
                black_box(message);
            }
        }
    };
    between(|| runtime().block_on(tokio_send(sender, count)), || runtime().block_on(receiving))
}

fn rtrb_single(count: u64) -> Duration {
    let (mut writer, mut reader) = rtrb::RingBuffer::new(CAPACITY);
    polled(
        count,
        move |message| writer.push(message).is_ok(),
        move || u64::from(reader.pop().map(black_box).is_ok()),
    )
}

fn rtrb_chunks(count: u64) -> Duration {
    let (mut writer, mut reader) = rtrb::RingBuffer::<Message>::new(CAPACITY);
    let receive = move || {
        let some = reader.slots().min(BATCH);
        if let Ok(chunk) = reader.read_chunk(some) {
            for message in chunk {
                black_box(message);
            }
        }
        some as u64
    };
    polled(count, move |message| writer.push(message).is_ok(), receive)
}

fn array_queue(count: u64) -> Duration {
    let queue = ArrayQueue::new(CAPACITY);
    polled(count, |message| queue.push(message).is_ok(), || u64::from(queue.pop().map(black_box).is_some()))
}

fn crossbeam(count: u64) -> Duration {
    let (sender, receiver) = crossbeam_channel::bounded(CAPACITY);
    polled(
        count,
        move |message| sender.try_send(message).is_ok(),
        move || u64::from(receiver.try_recv().map(black_box).is_ok()),
    )
}

fn flume_polling(count: u64) -> Duration {
    let (sender, receiver) = flume::bounded(CAPACITY);
    polled(
        count,
        move |message| sender.try_send(message).is_ok(),
        move || u64::from(receiver.try_recv().map(black_box).is_ok()),
    )
}
