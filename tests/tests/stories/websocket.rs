//! WebSocket over HTTP/1.1, with Python's `websockets` and with curl's bare handshake.
//! Over HTTP/2 (RFC 8441) Chromium speaks it: see `browser`.

use std::process::Command;

use berth_tests::clients::{exchange, python, run};
use berth_tests::node::{Driver, Node, Plan, wait_until};
use berth_tests::on_both_drivers;

use crate::common;

on_both_drivers!(["websockets"]; messages_come_back, pings_and_closes_are_answered, too_large_is_told_so);
on_both_drivers!([]; a_bad_handshake_is_refused);

/// The client's program.
pub(crate) const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/websocket.py");

fn both_ways(node: &Node, story: &str) {
    for (scheme, listener) in [("ws", 0), ("wss", 1)] {
        let url = format!("{scheme}://{}/ws", node.listener(listener));
        let said = run(Command::new(python()).args([CLIENT, story, &url]));
        assert_eq!(said.ok(), "fine\n");
    }
    wait_until("all connections are closed", || node.number("connections_open") == 0);
}

fn messages_come_back(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    both_ways(&node, "messages");
    assert_eq!(node.number("websockets"), 2);
    node.finish();
}

fn pings_and_closes_are_answered(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    both_ways(&node, "control");
    node.finish();
}

fn too_large_is_told_so(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    both_ways(&node, "large");
    assert_eq!(node.number("limit_websocket_bytes"), 4);
    node.finish();
}

fn a_bad_handshake_is_refused(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let good = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\
                sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    for (from, to, status) in [
        ("sec-websocket-version: 13", "sec-websocket-version: 8", "426"),
        ("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", "x-no: key", "400"),
        ("GET", "POST", "4"),
        ("upgrade: websocket", "upgrade: h2c", "4"),
    ] {
        let said = exchange(node.listener(0), good.replace(from, to).as_bytes());
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{to}: {said}");
    }
    assert_eq!(node.number("websockets"), 0);
    node.finish();
}
