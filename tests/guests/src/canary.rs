//! Whether anything of one guest survives for the next: the first fills its memory with a pattern that occurs nowhere
//! by itself, the second looks for it in every byte that it can read.
//!
//! The pattern is never in the data of the component, where it would be found in every instance: memory holds it as
//! two halves, and the code puts them together at run time.

use std::arch::wasm32::{memory_grow, memory_size};
use std::hint::black_box;
use std::mem;

use wasip2::http::types::ResponseOutparam;

use crate::answers;
use crate::failure::Failure;

/// The canary 0xC0FFEE_5EC2E7_BE27, masked.
static MASKED: u64 = 0xc0ff_ee5e_c2e7_be27 ^ MASK;
static MASK_IN_MEMORY: u64 = MASK;
const MASK: u64 = 0x5a17_93e4_0b6d_f18c;

/// Words that `fill` leaves on the heap: 4 MiB of them.
const HEAP_WORDS: usize = 4 * 1024 * 1024 / 8;
/// Words in each frame of `fill`, and frames: half of the stack that the linker gives.
const FRAME_WORDS: usize = 128;
const FRAMES: u32 = 512;

const PAGE_BYTES: usize = 64 * 1024;
/// Pages that `look` adds before it looks: 16 MiB, which may be what another guest had.
const GROWN_PAGES: usize = 256;
/// Where `look` begins. Below are a few words at the far end of the stack.
const FIRST_ADDRESS: usize = 1024;

/// Both halves come from memory in a way that the compiler cannot see through.
fn halves() -> (u64, u64) {
    // SAFETY: reads of statics.
    unsafe { ((&raw const MASKED).read_volatile(), (&raw const MASK_IN_MEMORY).read_volatile()) }
}

/// Leaves the canary on the heap and on both stacks, answers, and then traps if the key says so.
pub(crate) fn fill(out: ResponseOutparam, key: &str) -> Result<(), Failure> {
    let (masked, mask) = halves();
    let canary = masked ^ mask;
    mem::forget(black_box(vec![canary; HEAP_WORDS]));
    let frames = fill_stack(canary, FRAMES);
    if key == "look" {
        return look(out); // So that it is known to find what is there.
    }
    answers::text(out, 200, &format!("filled {key}: {HEAP_WORDS} words, {frames} frames\n"))?;
    assert!(key != "trap", "after the canary, as the path asks");
    Ok(())
}

/// The canary is in the array and, over the call, wherever the engine keeps its registers.
#[inline(never)]
fn fill_stack(canary: u64, frames: u32) -> u32 {
    let mut frame = [canary; FRAME_WORDS];
    black_box(&mut frame);
    let below = if frames > 1 { fill_stack(black_box(canary), frames - 1) } else { 0 };
    below + u32::from(black_box(&frame)[FRAME_WORDS - 1] == canary)
}

/// Tells how often the canary is in memory, and how many words are not zero in pages that are fresh.
pub(crate) fn look(out: ResponseOutparam) -> Result<(), Failure> {
    let (masked, mask) = halves();
    let pages_before = memory_grow::<0>(GROWN_PAGES);
    let end = memory_size::<0>() * PAGE_BYTES;
    let fresh = if pages_before == usize::MAX { end } else { pages_before * PAGE_BYTES };

    let (mut hits, mut dirty) = (0_u32, 0_u32);
    for address in (FIRST_ADDRESS..end).step_by(8) {
        // SAFETY: it lies in linear memory, of which every byte can be read; nobody writes meanwhile.
        let word = unsafe { std::ptr::with_exposed_provenance::<u64>(address).read_volatile() };
        // The canary itself is nowhere here, so the look cannot find itself.
        hits += u32::from(word ^ mask == masked);
        dirty += u32::from(address >= fresh && word != 0);
    }
    let hint = (&raw const MASKED).addr();
    let text = format!("hits {hits}\ndirty {dirty}\nbytes {end}\nfresh {}\nstatic {hint:#x}\n", end - fresh);
    answers::text(out, 200, &text)
}
