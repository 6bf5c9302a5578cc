//! HTTP/3 as its clients meet it, with aioquic: requests, bodies, refusals, other cores.

use serde_json::{Value, json};

use berth_tests::aioquic::{h3, h3_command};
use berth_tests::clients::curl;
use berth_tests::node::{Driver, HTTP, HTTPS, Node, Plan, route, wait_until};
use berth_tests::on_both_drivers;

use crate::common;

on_both_drivers!(["aioquic"]; a_handshake_agrees_on_h3_and_nothing_that_is_not_offered,
    heads_statuses_and_refusals_are_those_of_the_other_versions,
    a_hundred_requests_share_a_connection_twenty_at_a_time, large_bodies_cost_no_memory);
on_both_drivers!(["aioquic", "websockets"]; a_websocket_shares_the_connection);
on_both_drivers!(["aioquic", "curl"]; the_other_versions_tell_of_http_3, without_http_3_nobody_tells_of_it);
on_both_drivers!(["aioquic", "curl", "ipv6"]; both_families_are_served_and_the_log_names_the_client);
on_both_drivers!(["aioquic", "two cpus"]; a_request_over_http_3_hops_to_the_core_of_its_route);

/// The only answer that the client got, as many times as it asked.
fn only_answer(report: &Value) -> &Value {
    let answers = report["answers"].as_array().expect("the client lists its answers");
    assert_eq!(answers.len(), 1, "all answers are alike: {report}");
    &answers[0]
}

/// One request with these options. The client must have got an answer.
fn get(node: &Node, options: &[&str]) -> Value {
    let report = h3("get", node.listener(1), options);
    only_answer(&report);
    report
}

fn a_handshake_agrees_on_h3_and_nothing_that_is_not_offered(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let said = get(&node, &["--path", "/"]);
    let connection = &said["connection"];
    assert_eq!(connection["alpn"], "h3", "{said}");
    assert_eq!(connection["version"], "0x00000001", "{said}");
    assert_eq!(connection["retry"], false, "a node without load asks for no Retry: {said}");
    assert_eq!(connection["resumed"], false, "{said}");
    assert_eq!(connection["goaway"], Value::Null, "a node that stays says no GOAWAY: {said}");
    let answer = only_answer(&said);
    assert_eq!((&answer["status"], &answer["length"]), (&json!(200), &json!(6)), "{said}");
    assert_eq!(said["headers"]["content-type"], "text/plain", "{said}");
    assert_eq!(said["headers"]["content-length"], "6", "{said}");
    // Datagrams have no use here, and are not offered (ADR 0007).
    let said = h3::<&str>("datagram", node.listener(1), &[]);
    assert_eq!(said["max_datagram_frame_size"], Value::Null, "{said}");
    assert_ne!(said["h3_datagram"], 1, "{said}");
    for (name, count) in
        [("quic_handshakes", 2), ("quic_connections", 2), ("http3_connections", 2), ("requests_http3", 1)]
    {
        assert_eq!(node.number(name), count, "{name}");
    }
    assert_eq!(node.number("quic_handshake_failures"), 0);
    wait_until("the node has let them go", || node.number("connections_open") == 0);
    node.finish();
}

fn a_websocket_shares_the_connection(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let said = h3("websocket", node.listener(1), &["--path", "/ws", "--bytes", "200000"]);
    assert_eq!((&said["status"], &said["close_code"]), (&json!(200), &json!(1000)), "{said}");
    assert_eq!(said["echoed"], json!(["text", "binary"]), "{said}");
    assert_eq!((node.number("websockets"), node.number("http3_protocol_errors")), (1, 0));
    // What is no WebSocket is no tunnel.
    let connect = ["--method", "CONNECT", "--path", "/ws"];
    let refused = h3_command("get", node.listener(1)).args(connect).output().expect("the client runs");
    assert!(!refused.status.success(), "a CONNECT with a path and without a protocol is malformed");
    node.finish();
}

fn the_other_versions_tell_of_http_3(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let expected = format!("h3=\":{}\"; ma=86400", node.listener(1).port());
    assert_eq!(get(&node, &[])["alt_svc"], Value::Null, "who speaks HTTP/3 needs not be told");
    for version in ["--http1.1", "--http2"] {
        let said = curl(&["--insecure", "--include", version, &node.https("/")]).ok();
        assert!(said.contains(&format!("alt-svc: {expected}\r\n")), "{version}: {said}");
    }
    let said = curl(&["--include", &node.http("/")]).ok();
    assert!(!said.contains("alt-svc"), "in clear text nothing is told that nobody can check: {said}");
    node.finish();
}

fn without_http_3_nobody_tells_of_it(driver: Driver) {
    let node =
        Plan::new(driver, format!("{HTTP}{HTTPS}http3 = \"off\"\n{}", route("/", "echo = {}"))).start();
    for version in ["--http1.1", "--http2"] {
        let said = curl(&["--insecure", "--include", version, &node.https("/")]).ok();
        assert!(said.contains(" 200") && !said.contains("alt-svc"), "{version}: {said}");
    }
    // The port is free for somebody else, so nobody listens there.
    std::net::UdpSocket::bind(node.listener(1)).expect("no UDP socket is bound to the port");
    node.finish();
}

fn heads_statuses_and_refusals_are_those_of_the_other_versions(driver: Driver) {
    let limits = "[limits]\nheader_bytes = \"1KiB\"\nbody_bytes = \"1KiB\"\n";
    let node = Plan::new(driver, common() + limits).start();
    let body = "b".repeat(1025);
    // Huffman coding makes 1,000 bytes of the value: more than allowed when decoded, less as sent.
    let header = format!("x-long:{}", "a".repeat(1600));
    let table: [(&[&str], u16, Option<u64>); 5] = [
        (&["--path", "/nothing"], 204, Some(0)),
        (&["--method", "POST", "--path", "/echo", "--body", &body[1..]], 200, Some(1024)),
        (&["--path", "/lost"], 404, None),
        (
            &["--method", "POST", "--path", "/echo", "--body", &body, "--header", "content-length:1025"],
            413,
            None,
        ),
        (&["--header", &header], 431, None),
    ];
    for (options, status, length) in table {
        let said = get(&node, options);
        let answer = only_answer(&said);
        assert_eq!(answer["status"], status, "{options:?}: {said}");
        if let Some(length) = length {
            assert_eq!(answer["length"], length, "{options:?}: {said}");
        }
    }
    assert_eq!((node.number("limit_body_bytes"), node.number("limit_header_bytes")), (1, 1));
    node.finish();
}

fn a_hundred_requests_share_a_connection_twenty_at_a_time(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let said = get(&node, &["--count", "100", "--streams", "20"]);
    assert_eq!(only_answer(&said)["count"], 100, "{said}");
    assert_eq!((node.number("requests_http3"), node.number("quic_connections")), (100, 1));
    let said = get(&node, &["--path", "/stream/256KiB", "--count", "40", "--streams", "20"]);
    assert_eq!(
        (&only_answer(&said)["count"], &only_answer(&said)["length"]),
        (&json!(40), &json!(256 << 10)),
        "bodies of the same bytes, each whole: {said}"
    );
    node.finish();
}

/// What the node may keep of a body, less than that: a MiB of flow control one way, a MiB of replies that are not
/// acknowledged the other way, and the pools of two cores for trains of datagrams, which a machine that is busy
/// elsewhere lets grow to 4 MiB each.
const GROWTH_MAX: u64 = 16 << 20;
/// Bytes of a body. aioquic, which is Python, moves some MB in a second of a CPU of its own.
const LARGE: u64 = 20 << 20;

fn large_bodies_cost_no_memory(driver: Driver) {
    let stream = route("/stream/large", &format!("stream = {{ bytes = \"{}MiB\" }}", LARGE >> 20));
    let node = Plan::new(driver, common() + &stream).start();
    let (said, growth) = node.memory_growth(|| get(&node, &["--path", "/stream/large"]));
    assert_eq!(only_answer(&said)["length"], LARGE, "{said}");
    assert!(growth < GROWTH_MAX, "a download of {LARGE} bytes: the node grew by {growth} bytes");
    let (said, growth) =
        node.memory_growth(|| h3("echo", node.listener(1), &["--bytes", &LARGE.to_string()]));
    assert_eq!((&said["status"], &said["length"]), (&json!(200), &json!(LARGE)), "{said}");
    assert!(growth < GROWTH_MAX, "an echo of {LARGE} bytes: the node grew by {growth} bytes");
    node.finish();
}

fn both_families_are_served_and_the_log_names_the_client(driver: Driver) {
    let listener = |address: &str| format!("[[listen]]\naddress = \"{address}\"\nprotocol = \"https\"\n");
    let text =
        listener("127.0.0.1:0") + &listener("[::1]:0") + &route("/", r#"respond = { body = "hello\n" }"#);
    let node = Plan::new(driver, text).start();
    for index in [0, 1] {
        let said = h3::<&str>("get", node.listener(index), &[]);
        assert_eq!(only_answer(&said)["length"], 6, "{said}");
    }
    wait_until("two lines", || node.access_log().len() == 2);
    let lines = node.access_log();
    let clients: Vec<&str> = lines.iter().filter_map(|line| line["client"].as_str()).collect();
    assert_eq!(clients, ["127.0.0.1", "::1"], "{lines:?}");
    node.finish();
}

fn a_request_over_http_3_hops_to_the_core_of_its_route(driver: Driver) {
    let text = common()
        + &route("/on/0", "core = 0\nrespond = { body = \"core 0\\n\", headers = { x-core = \"0\" } }")
        + &route("/on/1", "core = 1\nrespond = { body = \"core 1\\n\", headers = { x-core = \"1\" } }");
    let node = Plan::new(driver, text).cores(2).start();
    // A connection is on one core, so that one of the two routes is on the other.
    for core in ["0", "1"] {
        let said = get(&node, &["--path", &format!("/on/{core}"), "--count", "50", "--streams", "10"]);
        assert_eq!(said["headers"]["x-core"], core, "{said}");
        assert_eq!(only_answer(&said)["count"], 50, "{said}");
    }
    assert_eq!(node.number("hops_out"), node.number("hops_in"));
    assert_eq!((node.number("hops_shed"), node.number("replies_5xx")), (0, 0));
    node.finish();
}
