//! What workers cost in a node, beside other hosts of workers: a small answer from a fresh instance, a request to another
//! zone, and what guests that spin add to the waiting of others.
//!
//! What an instance costs in process is in [`super::instance`].
//!
//! # On the back of an envelope
//!
//! A small HTTP/1.1 request takes the node some 8 µs ([`super::http`]), an instance some 10 (there): 18 µs. `wasmtime
//! serve` was seen to take 48 µs in process as it comes and 19 tuned, and has hyper on tokio, a task and a wake-up
//! around it: 60 and 30. workerd keeps its isolate, and was seen at 42.
//!
//! A request to another zone is a second instance, without parsing: some 15 µs. To a server on loopback it is two more
//! passes through TCP and HTTP on either side.
//!
//! A guest that spins is interrupted every millisecond, and whoever has not been busy lately is next: others wait for one
//! guest, 1 ms, and for what the clock's thread is late; and if they come from the same address, for one at a time all the same.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::cpu::Standing;
use crate::figure::{Bar, Figure, Judged};
use crate::hosts::ASKING;
use crate::load::{Asked, HTTP1_CONNECTIONS, Load};
use crate::peer::Server;
use crate::run::{Plan, Run, Trial};
use crate::suites::measure::{Limit, rate};

/// Guests that spin at a time.
const SPINNERS: u32 = 8;
/// Until all of them do.
const SPUN_UP: Duration = Duration::from_millis(500);
/// Where their requests come from.
const SPINNING_FROM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// And those of who waits.
const WAITING_FROM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// Beside wasmtime as it comes.
pub(crate) const BESIDE_WASMTIME: [IsolateTrial; 1] = [IsolateTrial::Hello(Beside::Wasmtime)];
/// Beside wasmtime with the same settings.
pub(crate) const BESIDE_TUNED: [IsolateTrial; 1] = [IsolateTrial::Hello(Beside::Tuned)];
/// Beside workerd.
pub(crate) const BESIDE_WORKERD: [IsolateTrial; 1] = [IsolateTrial::Hello(Beside::Workerd)];
/// With guests that ask others, beside wasmtime as it comes.
pub(crate) const OF_ASKERS: [IsolateTrial; 1] = [IsolateTrial::AskOther];
/// With guests that spin, beside wasmtime with interruptions: without them nobody else is answered.
pub(crate) const OF_SPINNERS: [IsolateTrial; 2] =
    [IsolateTrial::Delay(WAITING_FROM), IsolateTrial::Delay(SPINNING_FROM)];

/// How each figure is taken.
#[derive(Clone, Copy, Debug)]
pub(crate) enum IsolateTrial {
    Hello(Beside),
    AskOther,
    /// Of requests that come from this address.
    Delay(Ipv4Addr),
}

/// Which peer, as it decides the bar.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Beside {
    Wasmtime,
    Tuned,
    Workerd,
}

impl Trial for IsolateTrial {
    fn figure(&self) -> Figure {
        match self {
            Self::Hello(beside) => {
                let (key, title, bar) = match beside {
                    Beside::Wasmtime => {
                        ("hello", "a small answer from a fresh instance, wasmtime as it comes", 2.0)
                    }
                    Beside::Tuned => {
                        ("hello-tuned", "a small answer from a fresh instance, wasmtime tuned alike", 1.3)
                    }
                    Beside::Workerd => {
                        ("hello-workerd", "a small answer, workerd from an isolate that lives on", 1.3)
                    }
                };
                let unit = "requests per CPU second";
                Figure { key, title, unit, judged: Judged::Ratio, bar: Bar::AtLeast(bar), aim: None }
            }
            Self::AskOther => Figure {
                key: "ask",
                title: "what a request to another zone adds (wasmtime: to itself, over loopback)",
                unit: "µs of CPU",
                judged: Judged::Ours,
                bar: Bar::AtMost(60.0),
                aim: None,
            },
            Self::Delay(from) => Figure {
                key: if *from == SPINNING_FROM { "delay-same" } else { "delay" },
                title: match *from == SPINNING_FROM {
                    true => "p99 of what eight spinning guests add for others of the same address",
                    false => "p99 of what eight spinning guests add for others",
                },
                unit: "ms",
                judged: Judged::Ours,
                bar: Bar::AtMost(5.0),
                aim: None,
            },
        }
    }

    fn run(&self, server: &mut Server, plan: &Plan) -> Result<Run, Box<dyn Error>> {
        match self {
            Self::Hello(_) => {
                let address = server.site.http;
                rate(server, plan, |seconds| Load::http1(address, seconds), Limit::Server)
            }
            Self::AskOther => ask_other(server, plan),
            Self::Delay(from) => delay(server, plan, *from),
        }
    }
}

/// CPU time of a request whose worker asks another for its answer, without that of a request to the other.
fn ask_other(server: &mut Server, plan: &Plan) -> Result<Run, Box<dyn Error>> {
    let address = server.site.http;
    let alone = rate(server, plan, |seconds| Load::http1(address, seconds), Limit::Server)?;
    let asked = Asked {
        connections: HTTP1_CONNECTIONS,
        path: format!("/ask?url=http://{address}/"),
        host: ASKING.to_owned(),
        source: None,
    };
    let mut both = rate(server, plan, |seconds| Load::http1_of(&asked, address, seconds), Limit::Server)?;
    let each = |run: &Run| 1e6 / run.value;
    both.detail.insert("with_us", each(&both));
    both.detail.insert("without_us", each(&alone));
    both.value = each(&both) - each(&alone);
    if !alone.counts() {
        both.standing = alone.standing;
    }
    Ok(both)
}

/// How much longer one request after another takes, at its p99, while guests spin.
fn delay(server: &mut Server, plan: &Plan, from: Ipv4Addr) -> Result<Run, Box<dyn Error>> {
    let address = server.site.http;
    let client = plan.cpus.client;
    let of = |path: &str, connections, source| Asked {
        connections,
        path: path.to_owned(),
        host: address.to_string(),
        source: Some(source),
    };
    let load = Load::http1_of(&of("/", 1, from), address, plan.seconds)?;
    load.run(client)?;
    let quiet = load.run(client)?;
    let spinning = of("/spin", SPINNERS, SPINNING_FROM);
    let spinners = Load::http1_of(&spinning, address, plan.seconds + 2)?.start(client)?;
    std::thread::sleep(SPUN_UP);
    server.confine()?;
    let busy = load.run(client)?;
    drop(spinners);
    let standing = match quiet.failed + busy.failed {
        0 => Standing::Counted,
        failed => Standing::NotCounted(format!("{failed} requests failed")),
    };
    let ms = |tally: &crate::load::Tally, name| tally.detail.get(name).copied().unwrap_or(f64::NAN) / 1e3;
    let detail = BTreeMap::from([
        ("quiet_p50_ms", ms(&quiet, "p50_us")),
        ("quiet_p99_ms", ms(&quiet, "p99_us")),
        ("busy_p50_ms", ms(&busy, "p50_us")),
        ("busy_p99_ms", ms(&busy, "p99_us")),
        ("busy_done", busy.done as f64),
    ]);
    // Who is not answered at all waits longer than was measured.
    let value = match busy.done {
        0 => plan.seconds as f64 * 1e3,
        _ => ms(&busy, "p99_us") - ms(&quiet, "p99_us"),
    };
    Ok(Run { value, standing, usage: None, command: load.command_line(), detail })
}
