//! HTTP/3 and QUIC under attack, with aioquic made to misbehave (`clients/h3/misdeeds.py`, `wire.py`) and with packets
//! made by hand: each wrong ends as its RFC says or at its bound, is counted, and others are served meanwhile.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test fail as it does")]

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use berth_tests::aioquic::{h3_command, report};
use berth_tests::attack::datagrams::{Datagrams, socket};
use berth_tests::attack::{Node, PATIENCE, Wire};
use berth_tests::clients::{self, finish, run, start};

/// Small limits, so that each is reached quickly.
const SMALL: &str = r#"
header_bytes = "2KiB"
header_timeout = "300ms"
body_timeout = "300ms"
send_timeout = "500ms"
handshake_timeout = "500ms"
[limits.http3]
resets = 10
"#;

/// Makes tests of functions that need the client.
macro_rules! with_aioquic {
    ($($story:ident),+ $(,)?) => { $(
        #[test]
        fn $story() {
            match clients::missing("aioquic") {
                Some(missing) => berth_tests::skip(stringify!($story), &missing),
                None => stories::$story(),
            }
        }
    )+ };
}

with_aioquic!(
    frames_where_they_do_not_belong_end_the_connection,
    requests_that_are_malformed_are_refused,
    what_is_longer_than_allowed_ends_when_it_is_declared,
    qpack_instructions_for_a_table_that_does_not_exist_end_the_connection,
    what_quic_forbids_ends_the_connection,
    rapid_resets_end_the_connection,
    what_costs_and_breaks_no_rule_is_borne,
    heads_that_do_not_end_are_cut,
    clients_that_do_not_read_are_cut_and_memory_stays_bounded,
    damaged_copies_ahead_of_each_datagram_do_no_harm,
    datagrams_without_a_connection_are_dropped_and_counted,
    an_address_that_was_not_proved_gets_at_most_three_times_its_bytes,
    many_handshakes_bring_retries_and_no_state,
    handshakes_that_do_not_end_over_quic_are_cut,
    connections_over_quic_count_for_their_address,
    after_a_storm_over_quic_nothing_is_left,
);

/// The counters of what may end: a wrong must raise its own and no other.
const COUNTERS: [&str; 10] = [
    "limit_http3_resets",
    "limit_http3_frames",
    "limit_header_bytes",
    "limit_header_timeout",
    "limit_send_timeout",
    "limit_handshake_timeout",
    "requests_malformed",
    "http3_protocol_errors",
    "quic_protocol_errors",
    "quic_handshake_failures",
];

fn counters(node: &Node) -> [u64; COUNTERS.len()] {
    COUNTERS.map(|name| node.count(name))
}

fn command(node: &Node, name: &str, options: &[&str]) -> Command {
    let mut command = h3_command("bad", node.https);
    command.args([name, "--path", "/stream"]).args(options);
    command
}

/// Does the named wrong; the node must live and serve others.
fn bad(node: &Node, name: &str, options: &[&str]) -> Value {
    let outcome = run(&mut command(node, name, options));
    let said = report(&outcome);
    outcome.ok();
    assert!(said["as_expected"].as_bool().unwrap_or(true), "{name} ends as its RFC says: {said}");
    said
}

/// The same, and only this counter rises.
fn expect(node: &Node, name: &str, options: &[&str], counter: &str) -> Value {
    let before = counters(node);
    let said = bad(node, name, options);
    node.wait_for("connections_open", 0);
    let after = counters(node);
    for (index, other) in COUNTERS.iter().enumerate() {
        let grown = after[index] - before[index];
        if *other == counter {
            assert!(grown > 0, "{name} is counted by {counter}: {said}");
        } else {
            assert_eq!(grown, 0, "{name} is counted by {counter}, not by {other}: {said}");
        }
    }
    said
}

mod stories {
    use super::*;

    pub(super) fn frames_where_they_do_not_belong_end_the_connection() {
        let node = Node::start(SMALL);
        for name in [
            "data-before-headers",
            "settings-on-request",
            "push-promise",
            "reserved-frame",
            "headers-on-control",
            "settings-twice",
            "settings-missing",
            "settings-reserved",
            "settings-cut",
            "control-twice",
            "control-ended",
            "push-stream",
        ] {
            let said = expect(&node, name, &[], "http3_protocol_errors");
            assert_eq!(said["end"]["by"], "server", "{name} ends the whole connection: {said}");
        }
    }

    pub(super) fn requests_that_are_malformed_are_refused() {
        let node = Node::start(SMALL);
        for name in ["head-cut", "no-head", "no-path", "name-upper", "connection-field", "length-lies"] {
            let said = bad(&node, name, &[]);
            assert_eq!(said["received_bytes"].as_u64().filter(|bytes| *bytes > 1000), None, "{name}: {said}");
        }
        node.wait_for("connections_open", 0);
    }

    pub(super) fn what_is_longer_than_allowed_ends_when_it_is_declared() {
        let node = Node::start(SMALL);
        let before = node.resident_bytes();
        for (name, counter) in [
            ("head-huge", "limit_header_bytes"),
            ("head-many-fields", "limit_header_bytes"),
            ("unknown-frame-huge", "limit_http3_frames"),
            ("settings-huge", "limit_http3_frames"),
        ] {
            let said = expect(&node, name, &["--bytes", "4000000", "--seconds", "2"], counter);
            let end = said["end"]["name"].as_str();
            let ends = [&said["resets"], &said["stops"]].map(|codes| codes["H3_EXCESSIVE_LOAD"].as_u64());
            if name == "settings-huge" {
                assert_eq!(
                    end,
                    Some("H3_EXCESSIVE_LOAD"),
                    "a control stream takes its connection with it: {said}"
                );
            } else {
                assert_eq!(ends, [Some(1), Some(1)], "{name}: both directions of the stream end: {said}");
                assert_eq!(end, None, "{name}: the connection goes on: {said}");
            }
        }
        let grown = node.resident_bytes().saturating_sub(before);
        assert!(grown < 8 << 20, "what was declared was not kept: the node grew by {grown} bytes");
    }

    pub(super) fn qpack_instructions_for_a_table_that_does_not_exist_end_the_connection() {
        let node = Node::start(SMALL);
        for name in ["qpack-capacity", "qpack-inserts", "qpack-index"] {
            let said = expect(&node, name, &[], "http3_protocol_errors");
            let end = said["end"]["name"].as_str().unwrap_or_default();
            let expected = if name == "qpack-index" {
                "QPACK_DECOMPRESSION_FAILED"
            } else {
                "QPACK_ENCODER_STREAM_ERROR"
            };
            assert_eq!(end, expected, "{name}: {said}");
        }
    }

    pub(super) fn what_quic_forbids_ends_the_connection() {
        let node = Node::start(SMALL);
        for name in ["stream-above-limit", "data-above-window", "unknown-quic-frame"] {
            let said = expect(&node, name, &[], "quic_protocol_errors");
            assert_eq!(
                (&said["end"]["by"], &said["end"]["is_app"]),
                (&json!("server"), &json!(false)),
                "{said}"
            );
        }
    }

    pub(super) fn rapid_resets_end_the_connection() {
        let node = Node::start(SMALL);
        let said = expect(&node, "rapid-reset", &["--count", "500"], "limit_http3_resets");
        // A client that does not read may miss the word, and then hears from its next packet that nobody is there.
        let end = &said["end"];
        assert!(end["name"] == "H3_EXCESSIVE_LOAD" || end["by"] == "reset", "{said}");
        assert_eq!(node.count("limit_http3_resets"), 1, "it is counted once");
    }

    /// Ids, pings, challenges, streams that end at once: no rule forbids them, and each costs the peer as much.
    pub(super) fn what_costs_and_breaks_no_rule_is_borne() {
        let node = Node::start(SMALL);
        let before = node.resident_bytes();
        for (name, count) in [
            ("pings", "5000"),
            ("path-challenges", "5000"),
            ("connection-ids", "2000"),
            ("stream-flood", "1000"),
            ("empty-frames", "20000"),
        ] {
            let attacker = start(&mut command(&node, name, &["--count", count, "--seconds", "5"]));
            let mut neighbour = Wire::connect_as(2, node.http);
            neighbour.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
            assert_eq!(neighbour.answer().unwrap().status, 200, "beside {name}");
            let outcome = finish(attacker);
            outcome.ok();
        }
        node.wait_for_nobody();
        let grown = node.resident_bytes().saturating_sub(before);
        assert!(grown < 8 << 20, "nothing of it is kept: the node grew by {grown} bytes");
    }

    pub(super) fn heads_that_do_not_end_are_cut() {
        let node = Node::start(SMALL);
        let said =
            expect(&node, "unfinished-heads", &["--count", "100", "--seconds", "3"], "limit_header_timeout");
        assert_eq!(node.count("limit_header_timeout"), 100, "each of them: {said}");
    }

    pub(super) fn clients_that_do_not_read_are_cut_and_memory_stays_bounded() {
        let node = Node::start(SMALL);
        let before = node.resident_bytes();
        for name in ["stall", "slow-reader"] {
            let said = expect(&node, name, &["--seconds", "5"], "limit_send_timeout");
            assert!(said["received_bytes"].as_u64() < Some(64 << 10), "{name} took little: {said}");
        }
        let many: Vec<_> = (0..4).map(|_| start(&mut command(&node, "stall", &["--seconds", "5"]))).collect();
        let mut most = 0;
        let mut running = many;
        let began = Instant::now();
        while !running.is_empty() {
            most = most.max(node.resident_bytes().saturating_sub(before));
            assert!(began.elapsed() < 3 * PATIENCE, "the clients end");
            running.retain_mut(|client| client.try_wait().unwrap().is_none());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(node.count("limit_send_timeout"), 6);
        assert!(most < 8 << 20, "the stalled replies, of 384 MiB, took {most} bytes");
        node.wait_for_nobody();
    }

    pub(super) fn damaged_copies_ahead_of_each_datagram_do_no_harm() {
        let node = Node::start("");
        let said = bad(&node, "mutations", &["--count", "100", "--bytes", "300000"]);
        assert!(said["damaged"].as_u64() > Some(100), "{said}");
        assert_eq!(
            node.count("quic_connections"),
            2,
            "the client and the one that looked whether the node lives"
        );
        node.wait_for("connections_open", 0);
    }

    pub(super) fn datagrams_without_a_connection_are_dropped_and_counted() {
        let node = Node::start(SMALL);
        let said = bad(&node, "garbage", &["--count", "2000"]);
        assert!(node.count("quic_malformed") > 0, "{said}");
        let sent = said["sent_bytes"].as_u64().unwrap();
        assert!(
            said["received_bytes"].as_u64().unwrap() < sent,
            "an answer is smaller than its cause: {said}"
        );
        let said = bad(&node, "damaged-initials", &["--count", "300"]);
        let [received, sent] = ["received_bytes", "sent_bytes"].map(|name| said[name].as_u64().unwrap());
        assert!(received <= 3 * sent, "{said}");
        node.wait_for_nobody();
    }

    pub(super) fn an_address_that_was_not_proved_gets_at_most_three_times_its_bytes() {
        let node = Node::start("");
        let said = bad(&node, "half-open", &["--count", "20"]);
        let [received, sent] = ["received_bytes", "sent_bytes"].map(|name| said[name].as_u64().unwrap());
        assert!(received > 0 && received <= 3 * sent, "amplification: {said}");
        assert_eq!(node.count("quic_retries"), 0, "twenty are no load");
    }

    pub(super) fn many_handshakes_bring_retries_and_no_state() {
        let node =
            Node::start("handshake_timeout = \"5m\"\nhandshakes = 4096\n[limits.http3]\nretry_above = 8\n");
        let said = bad(&node, "half-open", &["--count", "200"]);
        assert_eq!(node.metric("node_handshakes"), 8, "above its bound nobody gets a place: {said}");
        // Each of the others, and the one that looked whether the node lives.
        assert!(node.count("quic_retries") >= 192, "{} retries: {said}", node.count("quic_retries"));
        assert_eq!(node.count("limit_handshakes"), 0);
        let [received, sent] = ["received_bytes", "sent_bytes"].map(|name| said[name].as_u64().unwrap());
        assert!(received < sent, "a Retry is smaller than its cause: {said}");
    }

    pub(super) fn handshakes_that_do_not_end_over_quic_are_cut() {
        let node = Node::start("handshake_timeout = \"500ms\"\n[limits.http3]\nretry_above = 1000\n");
        let said = bad(&node, "half-open", &["--count", "50"]);
        node.wait_for("limit_handshake_timeout", 50);
        assert_eq!(node.count("quic_handshake_failures"), 0, "{said}");
        node.wait_for_nobody();
        // Above the places for handshakes, the next are refused.
        let node =
            Node::start("handshakes = 4\nhandshake_timeout = \"5m\"\n[limits.http3]\nretry_above = 1000\n");
        let outcome = run(&mut command(&node, "half-open", &["--count", "20"]));
        let said = report(&outcome);
        assert_eq!(said["alive"], false, "all places are taken: {said}");
        assert_eq!(node.metric("node_handshakes"), 4);
        assert!(node.count("limit_handshakes") >= 16, "{said}");
    }

    pub(super) fn connections_over_quic_count_for_their_address() {
        let node = Node::start("connections_per_address = 3");
        let get = |host: &str| {
            run(h3_command("get", node.https).args(["--local", host, "--timeout", "20"])).code == 0
        };
        let held = start(h3_command("stay", node.https).args(["--connections", "3", "--timeout", "60"]));
        node.wait_for("requests_http3", 3);
        assert!(!get("127.0.0.1"), "a fourth connection of one address");
        node.wait_for("limit_connections_per_address", 1);
        assert!(get("127.0.0.2"), "another address is not concerned");
        drop(End(held));
    }

    /// A client that is ended with the value.
    struct End(std::process::Child);

    impl Drop for End {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    pub(super) fn after_a_storm_over_quic_nothing_is_left() {
        let node = Node::start("handshake_timeout = \"1s\"\nidle_timeout = \"2s\"\n");
        let wrongs = ["half-open", "damaged-initials", "rapid-reset", "stream-flood", "mutations", "garbage"];
        let storm: Vec<_> =
            wrongs.map(|name| start(&mut command(&node, name, &["--count", "300"]))).into_iter().collect();
        rain(&node, Datagrams::initial, 2000);
        for client in storm {
            finish(client);
        }
        node.wait_for_nobody();
        assert_eq!(node.count("task_panics"), 0);
        assert!(
            run(h3_command("get", node.https).args(["--timeout", "20"])).code == 0,
            "the node serves as before"
        );
    }
}

/// Sends so many datagrams, and returns what came back by then.
fn rain(node: &Node, datagram: fn(&mut Datagrams) -> Vec<u8>, count: usize) -> (u64, u64) {
    let (socket, mut datagrams) = (socket(node.https), Datagrams::new(7));
    socket.set_nonblocking(true).unwrap();
    let (mut sent, mut received) = (0, 0);
    let mut buffer = [0; 2048];
    for _ in 0..count {
        let datagram = datagram(&mut datagrams);
        sent += socket.send(&datagram).unwrap_or(0) as u64;
        while let Ok(length) = socket.recv(&mut buffer) {
            received += length as u64;
        }
    }
    (sent, received)
}

#[test]
fn first_packets_made_by_hand_are_answered() {
    let node = Node::start("");
    let socket = socket(node.https);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(&Datagrams::new(7).initial()).unwrap();
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).expect("the node answers a valid first packet");
    assert!(length >= 1200, "with its own flight: {length} bytes");
    assert_eq!((buffer[0] & 0xf0, &buffer[1..5]), (0xc0, &[0, 0, 0, 1][..]), "an Initial of version 1");
    assert_eq!(node.metric("node_handshakes"), 1);
}

#[test]
fn first_packets_beyond_the_queue_are_dropped_and_counted() {
    let node = Node::start("");
    let began = Instant::now();
    let mut neighbour = Wire::connect_as(2, node.http);
    let (mut sent, mut received) = (0, 0);
    while node.count("limit_quic_initials") == 0 {
        assert!(began.elapsed() < PATIENCE, "the node looks at all of them");
        let more = rain(&node, Datagrams::initial, 2000);
        (sent, received) = (sent + more.0, received + more.1);
        neighbour.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        assert_eq!(neighbour.answer().unwrap().status, 200, "who is connected is served");
    }
    assert!(received <= 3 * sent, "{received} bytes for {sent}");
    drop(neighbour);
    node.wait_for_nobody();
}

#[test]
fn packets_of_connections_that_do_not_exist_get_less_than_they_cost() {
    let node = Node::start("");
    let (sent, received) = rain(&node, Datagrams::stray, 5000);
    assert!(received < sent, "{received} bytes for {sent}");
    let (sent, received) = rain(&node, Datagrams::noise, 5000);
    assert!(received < sent, "{received} bytes for {sent}");
    assert!(node.count("quic_malformed") > 0);
    node.wait_for_nobody();
}
