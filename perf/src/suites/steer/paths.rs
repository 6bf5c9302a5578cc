//! The kinds of packets that are measured, with their bars.

use berth_fixtures::dice::SplitMix64;
use berth_fixtures::frames::{self, IPV4, IPV6, WHOLE, ethernet, protocol};
use berth_fixtures::site::{self, NEW, SERVER, V4, V6};
use berth_steer::cid::Codepoint;

/// One kind of packet.
pub(super) struct Path {
    pub(super) name: &'static str,
    /// Nanoseconds above the empty program, at most.
    pub(super) bar_ns: Option<f64>,
    /// What Katran's program costs for the same, above its empty one, and the name of that path. Measured on a machine
    /// like this one; half of it is a bar too.
    pub(super) katran: Option<(&'static str, f64)>,
    pub(super) frame: fn(&mut SplitMix64) -> Vec<u8>,
}

/// How many there are.
pub(super) const KINDS: usize = 11;

#[rustfmt::skip] // A table reads best with one path on each line.
pub(super) const PATHS: [Path; KINDS] = [
    Path { name: "id in clear, IPv4", bar_ns: Some(25.0), katran: Some(("QUIC routed by id", 172.0)), frame: |dice| v4_udp(&with_id(dice, site::clear()), dice) },
    Path { name: "id in clear, IPv6", bar_ns: Some(25.0), katran: None, frame: |dice| v6_udp(&with_id(dice, site::clear()), dice) },
    Path { name: "encrypted id, IPv4", bar_ns: Some(110.0), katran: None, frame: |dice| v4_udp(&with_id(dice, site::encrypted()), dice) },
    Path { name: "encrypted id, IPv6", bar_ns: Some(110.0), katran: None, frame: |dice| v6_udp(&with_id(dice, site::encrypted()), dice) },
    Path { name: "Initial, IPv4", bar_ns: Some(40.0), katran: Some(("new flow", 556.0)), frame: |dice| v4_udp(&initial(dice), dice) },
    Path { name: "Initial, IPv6", bar_ns: Some(65.0), katran: None, frame: |dice| v6_udp(&initial(dice), dice) },
    Path { name: "UDP, IPv4", bar_ns: Some(40.0), katran: Some(("known UDP flow", 197.0)), frame: |dice| v4_udp(b"sixteen bytes ok", dice) },
    Path { name: "TCP, IPv4", bar_ns: Some(40.0), katran: Some(("known TCP flow", 173.0)), frame: v4_tcp },
    Path { name: "TCP, IPv6", bar_ns: Some(65.0), katran: None, frame: v6_tcp },
    Path { name: "ICMP error, IPv4", bar_ns: None, katran: None, frame: icmp },
    Path { name: "not ours, IPv4", bar_ns: None, katran: None, frame: not_ours },
];

/// Client addresses, ports.
fn client_v4(dice: &mut SplitMix64) -> [u8; 4] {
    let [a, b, ..] = dice.number().to_be_bytes();
    [198, 18, a, b]
}

fn client_v6(dice: &mut SplitMix64) -> [u8; 16] {
    let mut address = V6[0];
    address[4..12].copy_from_slice(&dice.number().to_be_bytes());
    address
}

fn port(dice: &mut SplitMix64) -> u16 {
    1024 + dice.below(60_000) as u16
}

fn v4_udp(payload: &[u8], dice: &mut SplitMix64) -> Vec<u8> {
    let datagram = frames::udp(port(dice), 443, payload);
    ethernet(IPV4, &frames::ipv4(client_v4(dice), V4[0], protocol::UDP, WHOLE, &[], &datagram))
}

fn v6_udp(payload: &[u8], dice: &mut SplitMix64) -> Vec<u8> {
    ethernet(
        IPV6,
        &frames::ipv6(client_v6(dice), V6[0], protocol::UDP, &frames::udp(port(dice), 443, payload)),
    )
}

fn v4_tcp(dice: &mut SplitMix64) -> Vec<u8> {
    let segment = frames::tcp(port(dice), 443, 0x10, &[0; 40]);
    ethernet(IPV4, &frames::ipv4(client_v4(dice), V4[0], protocol::TCP, WHOLE, &[], &segment))
}

fn v6_tcp(dice: &mut SplitMix64) -> Vec<u8> {
    let segment = frames::tcp(port(dice), 443, 0x10, &[0; 40]);
    ethernet(IPV6, &frames::ipv6(client_v6(dice), V6[0], protocol::TCP, &segment))
}

fn icmp(dice: &mut SplitMix64) -> Vec<u8> {
    let client = client_v4(dice);
    let quoted =
        frames::ipv4(V4[0], client, protocol::UDP, WHOLE, &[], &frames::udp(443, port(dice), &[0; 40]));
    ethernet(IPV4, &frames::ipv4(client, V4[0], protocol::ICMP, WHOLE, &[], &frames::icmp(3, 4, &quoted)))
}

fn not_ours(dice: &mut SplitMix64) -> Vec<u8> {
    let segment = frames::tcp(port(dice), 443, 0x10, &[0; 40]);
    ethernet(IPV4, &frames::ipv4(client_v4(dice), client_v4(dice), protocol::TCP, WHOLE, &[], &segment))
}

fn initial(dice: &mut SplitMix64) -> Vec<u8> {
    frames::quic_long(0x40, 1, &dice.number().to_be_bytes(), b"client", &[0; 60])
}

/// A datagram of a connection here, or at another server of the site.
fn with_id(dice: &mut SplitMix64, codepoint: Codepoint) -> Vec<u8> {
    let server = [SERVER, SERVER, SERVER, site::OTHERS[0]][dice.below(4)];
    let destination = site::destination(server, dice.below(usize::from(site::CORES)) as u8, NEW);
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&dice.number().to_be_bytes());
    frames::quic_short(0x40, &site::id_with(codepoint, destination, nonce), &[0; 40])
}
