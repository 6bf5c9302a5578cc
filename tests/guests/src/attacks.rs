//! Guests that want more than their share: of time, of stack, of memory, of handles.

use std::hint::black_box;
use std::mem;

use wasip2::clocks::monotonic_clock;
use wasip2::http::types::{Fields, ResponseOutparam};

use crate::answers;
use crate::failure::Failure;

const MEBIBYTE: usize = 1024 * 1024;

/// Turns between two looks at the clock, few enough that a look more does not matter.
const TURNS: u32 = 10_000;

/// What one `memory.fill` covers: a single instruction that no check interrupts.
const FILL_BYTES: usize = 16 * MEBIBYTE;

/// A frame of `/recurse-shadow`: some twenty use up the stack that the linker gives.
const FRAME_BYTES: usize = 48 * 1024;

pub(crate) fn spin() -> ! {
    loop {
        turn();
    }
}

/// Spins for so long, then answers.
pub(crate) fn spin_for(out: ResponseOutparam, ms: u64) -> Result<(), Failure> {
    let end = monotonic_clock::now() + ms * 1_000_000;
    while monotonic_clock::now() < end {
        turn();
    }
    answers::text(out, 200, "spun\n")
}

fn turn() {
    for turn in 0..TURNS {
        black_box(turn);
    }
}

/// Exhausts the stack of the engine: the frames need none in linear memory.
pub(crate) fn recurse(out: ResponseOutparam) -> Result<(), Failure> {
    let deepest = descend(1);
    answers::text(out, 200, &format!("came back with {deepest}\n"))
}

/// Where `descend` turns around: never, which only a look at memory can tell.
static BOTTOM: u64 = 0;

#[inline(never)]
fn descend(depth: u64) -> u64 {
    // SAFETY: a read of a static.
    if depth == unsafe { (&raw const BOTTOM).read_volatile() } {
        return depth;
    }
    // Work after the call, or the compiler makes a loop of it.
    descend(depth + 1).rotate_left(1) ^ depth
}

/// Exhausts the stack that the compiler keeps in linear memory.
pub(crate) fn recurse_shadow(out: ResponseOutparam) -> Result<(), Failure> {
    let deepest = descend_shadow(1);
    answers::text(out, 200, &format!("came back with {deepest}\n"))
}

#[inline(never)]
fn descend_shadow(depth: u64) -> u64 {
    // SAFETY: a read of a static.
    if depth == unsafe { (&raw const BOTTOM).read_volatile() } {
        return depth;
    }
    let mut frame = [0; FRAME_BYTES];
    black_box(&mut frame)[0] = depth as u8;
    descend_shadow(depth + 1).rotate_left(1) ^ u64::from(black_box(&frame)[0])
}

/// Takes memory until there is no more; then the allocator aborts.
pub(crate) fn memory() -> ! {
    loop {
        take_mebibyte();
    }
}

/// Takes so many MiB, then answers.
pub(crate) fn memory_of(out: ResponseOutparam, mebibytes: usize) -> Result<(), Failure> {
    (0..mebibytes).for_each(|_| take_mebibyte());
    answers::text(out, 200, &format!("took {mebibytes} MiB\n"))
}

/// Takes a MiB, writes to all of it, and never gives it back.
fn take_mebibyte() {
    mem::forget(black_box(vec![0xa5_u8; MEBIBYTE]));
}

pub(crate) fn fill() -> ! {
    let mut block = vec![0_u8; FILL_BYTES];
    loop {
        black_box(&mut block).fill(black_box(0x5a));
    }
}

/// Makes resources and keeps them all.
pub(crate) fn handles() -> ! {
    loop {
        mem::forget(Fields::new());
    }
}

/// Hands so many bytes to the host in one call, which copies them before it can judge them.
pub(crate) fn call_bytes(out: ResponseOutparam, bytes: usize) -> Result<(), Failure> {
    let taken = Fields::from_list(&[("x-large".to_owned(), vec![b'x'; bytes])]).is_ok();
    answers::text(out, 200, &format!("taken: {taken}\n"))
}
