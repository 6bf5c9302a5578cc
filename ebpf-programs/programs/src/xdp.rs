//! The program on the network card.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::{CpuMap, PerCpuArray};
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use berth_steer::counters::XdpCounters;
use berth_steer::decide::{Decision, Verdict, decide};
use berth_steer::packet::Packet;

use crate::table;

/// CPUs that packets can be sent on to. The kernel refuses numbers that no CPU can have.
const CPUS_MAX: usize = 1024;

#[btf_map(name = "CPUS")]
static CPUS: CpuMap<CPUS_MAX> = CpuMap::new();

/// The same for the generic program: the kernel lets programs that differ in `frags` share no such map.
#[btf_map(name = "CPUS_GENERIC")]
static CPUS_GENERIC: CpuMap<CPUS_MAX> = CpuMap::new();

#[btf_map(name = "XDP_COUNTERS")]
static COUNTERS: PerCpuArray<[u64; size_of::<XdpCounters>() / 8], 1> = PerCpuArray::new();

/// For drivers that run programs themselves. It takes frames in several buffers, as large packets come.
#[xdp(frags)]
fn berth_xdp(ctx: XdpContext) -> u32 {
    steer(&ctx, &CPUS)
}

/// For the kernel's own way to run programs, which puts frames into one buffer first. Told that this is not needed
/// (`frags`), Linux 6.18 hands them to another CPU without the place of their headers, and all that are moved are lost.
#[xdp]
fn berth_xdp_generic(ctx: XdpContext) -> u32 {
    steer(&ctx, &CPUS_GENERIC)
}

#[inline(always)]
fn steer(ctx: &XdpContext, cpus: &CpuMap<CPUS_MAX>) -> u32 {
    let frame = Frame { start: ctx.data(), end: ctx.data_end() };
    let (Some(table), Some(counters)) = (table(), COUNTERS.get_ptr_mut(0)) else { return xdp_action::XDP_PASS };
    // SAFETY: the value is this CPU's own, and no other program runs on it while this one does.
    let counters = unsafe { &mut *counters.cast::<XdpCounters>() };
    let Decision { verdict, reason } = decide(&frame, table);
    if let Some(counter) = counters.reasons.get_mut(reason as usize) {
        *counter += 1;
    }
    match verdict {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Elsewhere { server: _ } => {
            counters.elsewhere += 1;
            xdp_action::XDP_PASS
        }
        // SAFETY: takes nothing and gives a number.
        Verdict::Here { cpu, .. } if unsafe { bpf_get_smp_processor_id() } == u32::from(cpu) => {
            counters.kept += 1;
            xdp_action::XDP_PASS
        }
        Verdict::Here { cpu, .. } => match cpus.redirect(cpu.into(), xdp_action::XDP_PASS.into()) {
            Ok(action) => {
                counters.moved += 1;
                action
            }
            Err(action) => {
                counters.not_moved += 1;
                action
            }
        },
    }
}

/// The frame's first buffer: its headers are there, and the first bytes behind them.
struct Frame {
    start: usize,
    end: usize,
}

impl Packet for Frame {
    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        const { assert!(N > 1) }
        let from = self.start + at;
        if from + N > self.end {
            return None;
        }
        // SAFETY: the verifier has seen the comparison above: these bytes are within the buffer.
        Some(unsafe { (from as *const [u8; N]).read() })
    }
}
