//! `/metrics`: what the cores count, in the text form of Prometheus.
//!
//! Numbers of the hot path live with their core, one writer each ([`crate::stats`]); rare events of
//! any crate go through the `metrics` facade into the small recorder here. Both are rendered when
//! somebody asks, so that counting costs no more than a store.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use berth_protocol::link::Counted;
use berth_runtime::stats::{CoreStats, StatKind};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use crate::outgoing::ClientNumbers;
use crate::stats::{CoreNumbers, LATENCY_BOUNDS_US};
use crate::status::{CoreView, NodeView};

/// Takes counters and gauges of the `metrics` facade. Histograms of the hot path are our own.
#[derive(Default, Clone)]
pub struct Facade {
    numbers: Arc<Mutex<BTreeMap<String, FacadeNumber>>>,
}

type FacadeNumber = (StatKind, Arc<AtomicU64>);

impl Facade {
    /// The number behind a key, made when it is first named. Labels become part of the name as
    /// Prometheus writes it.
    fn number(&self, key: &Key, kind: StatKind) -> Arc<AtomicU64> {
        let mut name = key.name().to_owned();
        let labels: Vec<String> =
            key.labels().map(|label| format!("{}=\"{}\"", label.key(), escape(label.value()))).collect();
        if !labels.is_empty() {
            let _ = write!(name, "{{{}}}", labels.join(","));
        }
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&numbers.entry(name).or_insert_with(|| (kind, Arc::default())).1)
    }

    fn render(&self, out: &mut String) {
        for (name, (kind, value)) in &*self.numbers.lock().unwrap_or_else(PoisonError::into_inner) {
            let value = match kind {
                StatKind::Counter => value.load(Relaxed).to_string(),
                StatKind::Gauge => f64::from_bits(value.load(Relaxed)).to_string(),
            };
            let _ = writeln!(out, "{name} {value}");
        }
    }
}

impl Recorder for Facade {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.number(key, StatKind::Counter))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.number(key, StatKind::Gauge))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// Renders everything.
pub fn render(node: &NodeView, facade: &Facade) -> String {
    let mut out = String::with_capacity(16 * 1024);
    let mut families: BTreeMap<&'static str, Family> = BTreeMap::new();
    for core in &node.cores {
        let mut collect = |name, kind, help, value| {
            let family = families.entry(name).or_insert(Family { kind, help, samples: Vec::new() });
            family.samples.push((core.index, value));
        };
        core.runtime.each(&mut collect);
        core.numbers.each(&mut collect);
        core.outgoing.each(&mut collect);
    }
    for (name, family) in &families {
        family.render(name, &mut out);
    }
    latencies(&node.cores, &mut out);
    mailboxes(node, &mut out);
    steering(node, &mut out);
    whole_node(node, &mut out);
    facade.render(&mut out);
    out
}

struct Family {
    kind: StatKind,
    help: &'static str,
    samples: Vec<(u16, u64)>,
}

impl Family {
    fn render(&self, name: &str, out: &mut String) {
        let (full, kind) = full_name(name, self.kind);
        let _ = writeln!(out, "# HELP {full} {}\n# TYPE {full} {kind}", self.help);
        for (core, value) in &self.samples {
            let _ = writeln!(out, "{full}{{core=\"{core}\"}} {value}");
        }
    }
}

fn full_name(name: &str, kind: StatKind) -> (String, &'static str) {
    match kind {
        StatKind::Counter => (format!("berth_{name}_total"), "counter"),
        StatKind::Gauge => (format!("berth_{name}"), "gauge"),
    }
}

const LATENCY_HELP: &str =
    "Time from the first byte of a request to the end of its reply, as handed to the connection.";

fn latencies(cores: &[CoreView], out: &mut String) {
    let name = "berth_request_seconds";
    let _ = writeln!(out, "# HELP {name} {LATENCY_HELP}\n# TYPE {name} histogram");
    for core in cores {
        let (buckets, sum_us) = core.latencies.read();
        let mut total = 0;
        for (count, bound_us) in buckets.iter().zip(LATENCY_BOUNDS_US) {
            total += count;
            let bound = bound_us as f64 / 1e6;
            let _ = writeln!(out, "{name}_bucket{{core=\"{}\",le=\"{bound}\"}} {total}", core.index);
        }
        total += buckets[LATENCY_BOUNDS_US.len()];
        let _ = writeln!(out, "{name}_bucket{{core=\"{}\",le=\"+Inf\"}} {total}", core.index);
        let _ = writeln!(out, "{name}_sum{{core=\"{}\"}} {}", core.index, sum_us as f64 / 1e6);
        let _ = writeln!(out, "{name}_count{{core=\"{}\"}} {total}", core.index);
    }
}

/// The counters of the mailbox: name, help, and which of a lane's numbers it is.
type LaneNumber = fn(&berth_mailbox::LaneCounts) -> u64;
const MAILBOX: [(&str, &str, LaneNumber); 2] = [
    ("mailbox_sent", "Messages put into a lane.", |lane| lane.sent),
    (
        "mailbox_full",
        "Messages that found their lane full: control waits, requests are shed, tosses dropped.",
        |lane| lane.full,
    ),
];

fn mailboxes(node: &NodeView, out: &mut String) {
    for (name, help, number) in MAILBOX {
        let full = format!("berth_{name}_total");
        let _ = writeln!(out, "# HELP {full} {help}\n# TYPE {full} counter");
        for (from, to, counts) in node.mailboxes.links() {
            for class in berth_mailbox::Class::ALL {
                let value = number(&counts.of(class));
                let (from, to) = (from.index(), to.index());
                let _ = writeln!(out, "{full}{{from=\"{from}\",to=\"{to}\",class=\"{class}\"}} {value}");
            }
        }
    }
}

/// What the programs in the kernel have counted: name, help, and where it is.
type KernelNumbers = fn(&Counted) -> &BTreeMap<String, u64>;
const STEERING: [(&str, &str, KernelNumbers); 2] = [
    (
        "steering_cards",
        "Packets that the XDP program saw, by the reason of its verdict and by what became of them, as the control agent \
         last said; not by generation.",
        |counted| &counted.cards,
    ),
    (
        "steering_sockets",
        "Datagrams and new connections for which the reuseport programs chose a socket, in the same way.",
        |counted| &counted.sockets,
    ),
];

fn steering(node: &NodeView, out: &mut String) {
    let status = node.steering.status();
    for (name, help, numbers) in STEERING {
        let full = format!("berth_{name}_total");
        let _ = writeln!(out, "# HELP {full} {help}\n# TYPE {full} counter");
        for (what, value) in numbers(&status.counted) {
            let _ = writeln!(out, "{full}{{what=\"{}\"}} {value}", escape(what));
        }
    }
}

/// Numbers of the node as a whole: name, help, value.
type NodeNumber = fn(&NodeView) -> u64;
const NODE: [(&str, &str, NodeNumber); 8] = [
    ("node_connections", "Connections open on the node.", |node| node.connections.connections().into()),
    ("node_handshakes", "TLS handshakes under way on the node.", |node| node.connections.handshakes().into()),
    ("node_addresses", "Client addresses with an open connection.", |node| {
        node.connections.addresses() as u64
    }),
    ("node_cores_stalled", "Cores that run one task for longer than runtime.stall_after.", |node| {
        node.stalled()
    }),
    ("node_objects_resident", "Places that objects have that live, one each for most classes.", |node| {
        node.room.taken().into()
    }),
    (
        "node_objects_resident_most",
        "Places that there are for objects (objects.resident, what the kernel allows).",
        |node| node.room.places().into(),
    ),
    ("node_access_log_dropped", "Lines of the access log that were dropped.", |node| node.access.dropped()),
    (
        "node_certificate_expiry_seconds",
        "Unix time at which the first certificate expires, 0 without TLS.",
        |node| node.first_expiry_s(),
    ),
];

fn whole_node(node: &NodeView, out: &mut String) {
    for (name, help, value) in NODE {
        let _ = writeln!(
            out,
            "# HELP berth_{name} {help}\n# TYPE berth_{name} gauge\nberth_{name} {}",
            value(node)
        );
    }
    let version = env!("CARGO_PKG_VERSION");
    let _ = writeln!(
        out,
        "# HELP berth_build_info The version that runs.\n# TYPE berth_build_info gauge\nberth_build_info{{version=\"{version}\"}} 1"
    );
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The reference page of all metrics: docs/METRICS.md.
pub fn reference() -> String {
    let mut out = String::from(
        "# Metrics\n\nEvery metric of `/metrics` on the admin address. This page is made from the \
         declarations (`BLESS=1 cargo test -p berth-dataplane metrics`).\n\n| name | kind | labels | meaning |\n|---|---|---|---|\n",
    );
    let mut row = |name: &str, kind: &str, labels: &str, help: &str| {
        let _ = writeln!(out, "| `{name}` | {kind} | {labels} | {help} |");
    };
    let mut rows = BTreeMap::new();
    let mut collect = |name: &'static str, kind, help: &'static str, _| {
        rows.insert(name, (kind, help));
    };
    CoreStats::default().each(&mut collect);
    CoreNumbers::default().each(&mut collect);
    ClientNumbers::default().each(&mut collect);
    for (name, (kind, help)) in rows {
        let (full, kind) = full_name(name, kind);
        row(&full, kind, "core", help);
    }
    row("berth_request_seconds", "histogram", "core", LATENCY_HELP);
    for (name, help, _) in MAILBOX {
        row(&format!("berth_{name}_total"), "counter", "from, to, class", help);
    }
    for (name, help, _) in STEERING {
        row(&format!("berth_{name}_total"), "counter", "what", help);
    }
    for (name, help, _) in NODE {
        row(&format!("berth_{name}"), "gauge", "", help);
    }
    row("berth_reloads_total", "counter", "outcome", "Reloads of configuration and certificates.");
    row("berth_build_info", "gauge", "version", "The version that runs.");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/METRICS.md");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, reference()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), reference(), "BLESS=1 rewrites docs/METRICS.md");
    }

    #[test]
    fn the_facade_keeps_what_it_is_told() {
        let facade = Facade::default();
        metrics::with_local_recorder(&facade, || {
            metrics::counter!("berth_reloads_total", "outcome" => "do\"ne").increment(2);
            metrics::gauge!("berth_x").set(1.5);
        });
        let mut out = String::new();
        facade.render(&mut out);
        assert_eq!(out, "berth_reloads_total{outcome=\"do\\\"ne\"} 2\nberth_x 1.5\n");
    }
}
