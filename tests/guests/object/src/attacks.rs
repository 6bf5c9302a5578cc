//! Subjects that take too much, and those that hold on to something between turns.

use std::sync::Mutex;

use wasip2::clocks::monotonic_clock;
use wasip2::io::poll::Pollable;

use crate::world::berth::object::identity;
use crate::{Text, ok};

static REMEMBERED: Mutex<String> = Mutex::new(String::new());
static HELD: Mutex<Option<Pollable>> = Mutex::new(None);

pub(crate) fn spin() -> Text {
    loop {
        std::hint::black_box(());
    }
}

pub(crate) fn spin_for(ms: &str) -> Text {
    let until = monotonic_clock::now() + ms.parse::<u64>().expect("a number") * 1_000_000;
    while monotonic_clock::now() < until {}
    ok("spun")
}

pub(crate) fn sleep(ms: &str) -> Text {
    monotonic_clock::subscribe_duration(ms.parse::<u64>().expect("a number") * 1_000_000).block();
    ok("slept")
}

/// Has its turn until so many messages wait.
pub(crate) fn await_queue(count: &str) -> Text {
    let count: u32 = count.parse().expect("a number");
    while identity::queue_length() < count {
        monotonic_clock::subscribe_duration(5_000_000).block();
    }
    ok(identity::queue_length().to_string())
}

pub(crate) fn memory() -> Text {
    let mut kept = Vec::new();
    loop {
        kept.push(vec![1_u8; 1 << 20]);
        std::hint::black_box(&kept);
    }
}

#[allow(unconditional_recursion, reason = "as the path asks")]
pub(crate) fn recurse(depth: u64) -> u64 {
    std::hint::black_box(recurse(std::hint::black_box(depth + 1))) + 1
}

pub(crate) fn print(bytes: &str) -> Text {
    let line = "x".repeat(99);
    for _ in 0..bytes.parse::<usize>().expect("a number") / 100 {
        println!("{line}");
    }
    eprint!("no end of line");
    ok("printed")
}

pub(crate) fn remember(text: &str) -> Text {
    text.clone_into(&mut REMEMBERED.lock().expect("nobody panicked"));
    ok("remembered")
}

pub(crate) fn recall() -> Text {
    ok(REMEMBERED.lock().expect("nobody panicked").clone())
}

pub(crate) fn hold_timer() -> Text {
    *HELD.lock().expect("nobody panicked") = Some(monotonic_clock::subscribe_duration(1_000_000_000));
    ok("held")
}

pub(crate) fn drop_timer() -> Text {
    *HELD.lock().expect("nobody panicked") = None;
    ok("dropped")
}
