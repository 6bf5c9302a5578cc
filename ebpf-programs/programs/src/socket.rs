//! The program at the door of a group of sockets.

use aya_ebpf::EbpfContext;
use aya_ebpf::cty::{c_long, c_void};
use aya_ebpf::btf_maps::{PerCpuArray, ReusePortSockArray};
use aya_ebpf::helpers::generated::{bpf_skb_load_bytes, bpf_skb_load_bytes_relative};
use aya_ebpf::macros::{btf_map, sk_reuseport};
use aya_ebpf::programs::SkReuseportContext;
use berth_steer::counters::SocketCounters;
use berth_steer::decide::{Decision, Reason, Verdict, decide_flow};
use berth_steer::flow::{Addresses, Flow};
use berth_steer::headers::{self, protocol};
use berth_steer::packet::Packet;
use berth_steer::quic::{DestinationId, destination_id};
use berth_steer::table::{SLOTS, slot};

use crate::table;

/// The sockets of one group: each group has a program of its own, with an array of its own.
#[btf_map(name = "SOCKETS")]
static SOCKETS: ReusePortSockArray<{ SLOTS as usize }> = ReusePortSockArray::new();

#[btf_map(name = "SOCKET_COUNTERS")]
static COUNTERS: PerCpuArray<[u64; size_of::<SocketCounters>() / 8], 1> = PerCpuArray::new();

/// The kernel goes on, with the socket that was selected, or with one of its own choice.
const SK_PASS: u32 = 1;

#[sk_reuseport(migrate)]
fn berth_socket(ctx: SkReuseportContext) -> u32 {
    let (Some(table), Some(counters)) = (table(), COUNTERS.get_ptr_mut(0)) else { return SK_PASS };
    // SAFETY: the value is this CPU's own, and no other program of this kind runs on it while this one does.
    let counters = unsafe { &mut *counters.cast::<SocketCounters>() };
    let Some((flow, id)) = arrival(&ctx) else {
        count(counters, Reason::Cut);
        counters.left += 1;
        return SK_PASS;
    };
    let decision = decide_flow(flow, id, table);
    count(counters, decision.reason);
    if select(&ctx, decision) {
        counters.chosen += 1;
        return SK_PASS;
    }
    // Its core has no socket here, or it is another server's and came here all the same. Its flow has a core too.
    let fallback = decide_flow(flow, DestinationId::None, table);
    if select(&ctx, fallback) {
        counters.empty += 1;
    } else {
        counters.left += 1;
    }
    SK_PASS
}

#[inline(always)]
fn count(counters: &mut SocketCounters, reason: Reason) {
    if let Some(counter) = counters.reasons.get_mut(reason as usize) {
        *counter += 1;
    }
}

#[inline(always)]
fn select(ctx: &SkReuseportContext, decision: Decision) -> bool {
    match decision.verdict {
        Verdict::Here { generation, core, .. } => SOCKETS.select_reuseport(ctx, slot(generation, core)).is_ok(),
        Verdict::Pass | Verdict::Elsewhere { .. } => false,
    }
}

/// Who sends, and which connection id a datagram has.
#[inline(always)]
fn arrival(ctx: &SkReuseportContext) -> Option<(Flow, DestinationId)> {
    const IPV4: u32 = 0x0800_u16.to_be() as u32;
    let addresses = if ctx.eth_protocol() == IPV4 {
        let [a, b, c, d, e, f, g, h] = network_bytes(ctx, 12)?;
        Addresses::V4 { source: [a, b, c, d], destination: [e, f, g, h] }
    } else {
        Addresses::V6 { source: network_bytes(ctx, 8)?, destination: network_bytes(ctx, 24)? }
    };
    let arrived = Arrived(ctx);
    let protocol = ctx.ip_protocol() as u8;
    let (ports, id) = if protocol == protocol::TCP {
        (headers::ports(&arrived, 0)?, DestinationId::None)
    } else {
        let (ports, length) = headers::udp(&arrived, 0)?;
        (ports, destination_id(&arrived, headers::UDP_LEN, length))
    };
    let [source_port, destination_port] = ports;
    Some((Flow { addresses, source_port, destination_port, protocol }, id))
}

/// The packet from its transport's header on.
struct Arrived<'a>(&'a SkReuseportContext);

impl Packet for Arrived<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        // SAFETY: the kernel writes N bytes to N bytes, or fails.
        on_stack(|bytes| unsafe { bpf_skb_load_bytes(self.0.as_ptr(), at as u32, bytes, N as u32) })
    }
}

/// Bytes of IP's header.
#[inline(always)]
fn network_bytes<const N: usize>(ctx: &SkReuseportContext, at: u32) -> Option<[u8; N]> {
    const FROM_NETWORK_HEADER: u32 = 1;
    // SAFETY: as above.
    on_stack(|bytes| unsafe {
        bpf_skb_load_bytes_relative(ctx.as_ptr(), at, bytes, N as u32, FROM_NETWORK_HEADER)
    })
}

/// Lets `fill` write N bytes to the stack, and takes them from there one by one: the compiler would join them to words
/// that are not aligned, which the verifier allows everywhere but on the stack.
#[inline(always)]
fn on_stack<const N: usize>(fill: impl FnOnce(*mut c_void) -> c_long) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if fill(bytes.as_mut_ptr().cast()) != 0 {
        return None;
    }
    // SAFETY: each is a byte of the array.
    Some(core::array::from_fn(|at| unsafe { bytes.as_ptr().add(at).read_volatile() }))
}
