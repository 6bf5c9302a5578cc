//! The figures over QUIC: what a small HTTP/3 request, a large body, a handshake and an idle connection cost, beside
//! Caddy, quinn with h3, and quinn-proto alone.
//!
//! All traffic is on loopback between two CPUs, in packets of up to 1,452 bytes (no jumbo frames: a path MTU of the
//! Internet), and the load is our own client ([`crate::quic::swarm`]).
//!
//! # Back of the envelope
//!
//! *Small request, 32 connections with 32 streams each.* A packet carries some 15 requests or answers, and a train
//! of packets is one system call (≈ 2-4 µs through loopback, shared by all requests of a connection that are
//! answered together), so that kernel and AES-GCM are ≈ 0.5 µs per request. What remains is the stream: opening,
//! accepting, reading, writing, the frames that acknowledge and free it, ≈ 2-3 µs in quinn-proto, and HTTP/3 above it:
//! QPACK both ways and the header maps ≈ 1-2 µs, routing and the answer below 1 µs: 5-6 µs is what a lean server can
//! reach. quinn with h3 adds two tasks, a mutex and several wakers and channels per request: 13-18 µs were measured in
//! separate runs. Go's HTTP/3 adds a goroutine, allocations and their collection, and sends packet by packet: 77-86
//! µs. So 1.3 × quinn is 10-14 µs, and the harder bar of the two.
//!
//! *Download, 64 MiB.* A packet of 1,452 bytes is ≈ 0.35 µs of AES-GCM, ≈ 0.3 µs of building and booking, ≈ 0.1 µs of
//! copying into it, a tenth to a sixtieth of a system call whose cost is the kernel's copying twice (≈ 0.3 µs for
//! its share), and a tenth of an acknowledgement: ≈ 1.2-1.5 µs. quinn took 2.6-3.5 µs (390-530 MiB per CPU second):
//! it copies each byte once more, into its send buffer, and sends ten packets in a train.
//!
//! *Handshake with one request.* As over TCP (X25519 twice, one P-256 signature, two tickets, the key schedule) with
//! keys for three packet spaces and their header protection, some ten packets in small trains, and the streams of
//! HTTP/3: ≈ 200-300 µs. quinn took 500-650 µs, with its tasks and a connection's tables to make. The request is part
//! of it: the answer proves that the server has finished, and a connection without a request is nobody's case.
//!
//! *Idle connection.* 30 KiB were measured for quinn-proto alone. Its connection object is 6 KiB; the tables of the
//! streams that a client may open, 100 of either kind by default, are made beforehand and are ≈ 9 KiB (with 10 and 3
//! of them the same connection took 21 KiB); TLS, keys, connection ids and what the handshake leaves between them in
//! the heap are the rest. So the limits on streams of both sides must be the same. HTTP/3 needs three streams on each
//! side that never end, a task and our bookkeeping: 1.3 × leaves 9 KiB.

use std::error::Error;

use crate::figure::{Bar, Figure, Judged};
use crate::load::{IdleKind, Load};
use crate::peer::Server;
use crate::run::{Plan, Run, Trial};
use crate::suites::measure::{Limit, idle, rate};

/// How each figure is taken.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Http3Trial {
    SmallBesideCaddy,
    SmallBesideQuinn,
    Downloads,
    Handshakes,
    Idle,
}

/// The figures beside each peer, in the order of the report.
pub(crate) const BESIDE_CADDY: [Http3Trial; 1] = [Http3Trial::SmallBesideCaddy];
pub(crate) const BESIDE_QUINN: [Http3Trial; 3] =
    [Http3Trial::SmallBesideQuinn, Http3Trial::Downloads, Http3Trial::Handshakes];
pub(crate) const BESIDE_BARE: [Http3Trial; 1] = [Http3Trial::Idle];

impl Trial for Http3Trial {
    fn figure(&self) -> Figure {
        match self {
            Self::SmallBesideCaddy => Figure {
                key: "h3",
                title: "small HTTP/3 requests",
                unit: "requests per CPU second",
                judged: Judged::Ratio,
                bar: Bar::AtLeast(3.0),
                aim: None,
            },
            Self::SmallBesideQuinn => Figure {
                key: "h3-quinn",
                title: "small HTTP/3 requests",
                unit: "requests per CPU second",
                judged: Judged::Ratio,
                bar: Bar::AtLeast(1.3),
                aim: None,
            },
            Self::Downloads => Figure {
                key: "h3-bulk",
                title: "download of 64 MiB over HTTP/3",
                unit: "MiB per CPU second",
                judged: Judged::Ratio,
                bar: Bar::AtLeast(1.3),
                aim: None,
            },
            Self::Handshakes => Figure {
                key: "h3-handshake",
                title: "full QUIC handshakes with one HTTP/3 request, X25519 and ECDSA P-256",
                unit: "handshakes per CPU second",
                judged: Judged::Ratio,
                bar: Bar::Told,
                aim: None,
            },
            Self::Idle => Figure {
                key: "h3-idle",
                title: "memory of an idle HTTP/3 connection",
                unit: "bytes per connection",
                judged: Judged::Ratio,
                bar: Bar::AtMost(1.3),
                aim: None,
            },
        }
    }

    fn run(&self, server: &mut Server, plan: &Plan) -> Result<Run, Box<dyn Error>> {
        let address = server.site.https;
        match self {
            Self::SmallBesideCaddy | Self::SmallBesideQuinn => {
                rate(server, plan, |seconds| Load::http3(address, seconds), Limit::Server)
            }
            Self::Downloads => {
                rate(server, plan, |seconds| Load::http3_downloads(address, seconds), Limit::Either)
            }
            Self::Handshakes => {
                rate(server, plan, |seconds| Load::http3_handshakes(address, seconds), Limit::Either)
            }
            Self::Idle => idle(server, plan, IdleKind::Quic, address),
        }
    }
}
