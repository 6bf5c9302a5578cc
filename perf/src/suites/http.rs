//! The figures over TCP: what a small request, a handshake and an idle connection cost, beside nginx.
//!
//! Requests and handshakes are counted per CPU second of the server, idle connections in bytes. All traffic is on
//! loopback between two CPUs: no network card and no latency, but the whole TCP stack, and the same for both.
//!
//! # Back of the envelope
//!
//! *HTTP/1.1, keep-alive, 17 bytes of body.* An epoll server makes two system calls per request, read and write,
//! and shares one epoll_wait among those that wait together: 2 × ≈ 0.1 µs of entering and leaving, ≈ 1 µs to
//! receive, ≈ 3-4 µs to send, because on loopback the sender also runs the receiver's half of TCP and wakes it. A
//! ring with multishot receive has no read call and submits many sends at once, but the TCP path stays. Parsing
//! some 60 bytes and formatting 150 is ≈ 0.3-0.5 µs. So 5-6 µs is what a lean server can reach; 8.5 µs was
//! measured for nginx in separate runs, so 1.2 × is 7.1 µs: there is room for ≈ 2 µs of our own code.
//!
//! *HTTP/2 over TLS, 32 streams each.* System calls are shared by the streams that arrive in one segment, so the
//! kernel's part falls below 1 µs per request, and framing, HPACK, stream state and one AES-GCM record (≈ 0.2 µs
//! for some hundred bytes) are the cost: ≈ 5-9 µs depending on the library.
//!
//! *Full handshake.* X25519 twice ≈ 25-60 µs, P-256 signature ≈ 10-25 µs, HKDF and records ≈ 10-15 µs, two tickets
//! ≈ 5 µs, TCP open and close ≈ 20 µs: 80-150 µs, of which the cryptographic library decides most.
//!
//! *Idle connection.* Our bar is 4 KiB beside the kernel's own. A connection that keeps a read buffer of one page
//! has spent it already; one that keeps only its state machine is below 1 KiB. With TLS, the two ciphers' keys and
//! the library's state stay: 1-3 KiB in a lean one, while OpenSSL's connection objects take some 10 KiB or more.

use std::error::Error;

use crate::figure::{Bar, Figure, Judged};
use crate::load::{IdleKind, Load};
use crate::peer::Server;
use crate::run::{Plan, Run, Taken, Trial};
use crate::suites::measure::{Limit, idle, rate};
use crate::swarm::Secrecy;

/// The figures of this suite, in the order of the report.
pub(crate) const TRIALS: [HttpTrial; 6] = [
    HttpTrial::SmallHttp1(Http1Client::Own),
    HttpTrial::SmallHttp1(Http1Client::Wrk),
    HttpTrial::SmallHttp2,
    HttpTrial::Handshakes,
    HttpTrial::Idle(Secrecy::Plain),
    HttpTrial::Idle(Secrecy::Tls),
];

/// How each figure is taken.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HttpTrial {
    SmallHttp1(Http1Client),
    SmallHttp2,
    Handshakes,
    Idle(Secrecy),
}

/// Who makes the load of the HTTP/1.1 figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Http1Client {
    /// Cheaper than any server, so that the server is the limit.
    Own,
    /// Widely known, but dearer than nginx.
    Wrk,
}

impl Trial for HttpTrial {
    fn figure(&self) -> Figure {
        match self {
            Self::SmallHttp1(client) => Figure {
                key: match client {
                    Http1Client::Own => "h1",
                    Http1Client::Wrk => "h1-wrk",
                },
                title: match client {
                    Http1Client::Own => "small HTTP/1.1 requests, keep-alive",
                    Http1Client::Wrk => "small HTTP/1.1 requests, keep-alive, by wrk",
                },
                unit: "requests per CPU second",
                judged: Judged::Ratio,
                bar: Bar::AtLeast(0.8),
                aim: Some(1.2),
            },
            Self::SmallHttp2 => Figure {
                key: "h2",
                title: "small HTTP/2 requests over TLS 1.3",
                unit: "requests per CPU second",
                judged: Judged::Ratio,
                bar: Bar::AtLeast(0.8),
                aim: Some(1.0),
            },
            Self::Handshakes => Figure {
                key: "handshake",
                title: "full TLS 1.3 handshakes, X25519 and ECDSA P-256",
                unit: "handshakes per CPU second",
                judged: Judged::Ratio,
                bar: Bar::AtLeast(0.9),
                aim: None,
            },
            Self::Idle(Secrecy::Plain) => Figure {
                key: "idle",
                title: "memory of an idle connection, plain",
                unit: "bytes per connection",
                judged: Judged::Ours,
                bar: Bar::AtMost(4096.0),
                aim: Some(2048.0),
            },
            Self::Idle(Secrecy::Tls) => Figure {
                key: "idle-tls",
                title: "memory of an idle connection, TLS",
                unit: "bytes per connection",
                judged: Judged::Ratio,
                bar: Bar::AtMost(0.7),
                aim: None,
            },
        }
    }

    fn taken(&self) -> Taken {
        match self {
            Self::SmallHttp1(Http1Client::Wrk) => Taken::ByName,
            _ => Taken::Always,
        }
    }

    fn run(&self, server: &mut Server, plan: &Plan) -> Result<Run, Box<dyn Error>> {
        let (http, https) = (server.site.http, server.site.https);
        match self {
            Self::SmallHttp1(Http1Client::Own) => {
                rate(server, plan, |seconds| Load::http1(http, seconds), Limit::Server)
            }
            Self::SmallHttp1(Http1Client::Wrk) => {
                rate(server, plan, |seconds| Load::http1_wrk(http, seconds), Limit::Either)
            }
            Self::SmallHttp2 => rate(server, plan, |seconds| Load::http2(https, seconds), Limit::Server),
            Self::Handshakes => rate(server, plan, |seconds| Load::handshakes(https, seconds), Limit::Either),
            Self::Idle(Secrecy::Plain) => idle(server, plan, IdleKind::Tcp(Secrecy::Plain), http),
            Self::Idle(Secrecy::Tls) => idle(server, plan, IdleKind::Tcp(Secrecy::Tls), https),
        }
    }
}
