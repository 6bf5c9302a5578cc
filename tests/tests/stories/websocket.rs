//! WebSocket over HTTP/1.1, with Python's `websockets` and with curl's bare handshake.
//! Over HTTP/2 (RFC 8441) Chromium speaks it: see `browser`.

use std::io::{Read, Write};
use std::process::Command;

use berth_tests::clients::{connect, exchange, python, read_until, run};
use berth_tests::node::{Driver, Node, Plan, wait_until};
use berth_tests::on_both_drivers;

use crate::common;

on_both_drivers!(["websockets"]; messages_come_back, pings_and_closes_are_answered, too_large_is_told_so);
on_both_drivers!([]; a_bad_handshake_is_refused, a_close_is_not_lost_while_the_client_sends);

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

const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// The node once dropped the connection right after the close frame. Who was still sending the
/// refused message got a reset, and could miss the frame that says why.
fn a_close_is_not_lost_while_the_client_sends(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let mut stream = connect(node.listener(0));
    stream.write_all(HANDSHAKE.as_bytes()).unwrap();
    read_until(&mut stream, "\r\n\r\n");
    // A binary frame of 500,000 bytes, masked with zeros: above limits.websocket.frame_bytes.
    let mut frame = vec![0x82, 0xff];
    frame.extend(500_000_u64.to_be_bytes());
    frame.resize(frame.len() + 4 + 500_000, 0);
    let (first, rest) = frame.split_at(100_000);
    stream.write_all(first).unwrap();
    wait_until("the close frame is there", || stream.peek(&mut [0; 8]).unwrap() >= 4);
    for piece in rest.chunks(100_000) {
        stream.write_all(piece).expect("the node still reads");
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).expect("an orderly end");
    assert_eq!(said, [0x88, 2, 0x03, 0xf1], "a close frame with 1009");
    node.finish();
}

fn a_bad_handshake_is_refused(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    for (from, to, status) in [
        ("sec-websocket-version: 13", "sec-websocket-version: 8", "426"),
        ("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", "x-no: key", "400"),
        ("GET", "POST", "4"),
        ("upgrade: websocket", "upgrade: h2c", "4"),
    ] {
        let said = exchange(node.listener(0), HANDSHAKE.replace(from, to).as_bytes());
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{to}: {said}");
    }
    assert_eq!(node.number("websockets"), 0);
    node.finish();
}
