//! Programs for those who measure: what calling any program costs, and packets of many flows in turn.
//!
//! The kernel repeats a test run with one frame, which says nothing of a program's memory. [`berth_drawn`] makes that frame
//! one of another flow each time, and goes on with the program to be measured, as it is.
#![no_std]
#![no_main]

mod object;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::{Array, ProgramArray};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;

/// What differs between frames of one kind: addresses, ports and connection ids lie within these bytes. Whole frames would
/// push the memory of the measured program out of the cache.
type Window = [u64; 8];
/// Where the window begins.
const WINDOW_AT: usize = 16;

const FLOWS: usize = 4096;

#[btf_map(name = "WINDOWS")]
static WINDOWS: Array<Window, FLOWS> = Array::new();

/// The number of the next one.
#[btf_map(name = "NEXT")]
static NEXT: Array<u32, 1> = Array::new();

/// The program to be measured.
#[btf_map(name = "MEASURED")]
static MEASURED: ProgramArray<1> = ProgramArray::new();

/// Does nothing.
#[xdp(frags)]
fn berth_empty(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Puts the next window into the frame.
#[xdp(frags)]
fn berth_drawn(ctx: XdpContext) -> u32 {
    let at = ctx.data() + WINDOW_AT;
    let Some(next) = NEXT.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: the value lives as long as the map. Nobody else runs this program.
    let place = unsafe { next.replace(next.read().wrapping_add(1)) };
    let Some(window) = WINDOWS.get(place % FLOWS as u32) else { return xdp_action::XDP_ABORTED };
    if at + size_of::<Window>() > ctx.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the verifier has seen the comparison above: this many bytes are within the buffer.
    unsafe { (at as *mut Window).write(*window) };
    // Reading the clock waits until all before it is done: no packet was written by the instructions just before.
    // SAFETY: takes nothing and gives a number.
    unsafe { bpf_ktime_get_ns() };
    // SAFETY: nothing here has to be dropped.
    unsafe { MEASURED.tail_call(&ctx, 0) };
    xdp_action::XDP_ABORTED
}
