//! Connections under attack: too many, half-open, or without an end to what comes before HTTP. Each
//! limit is reached, counted, and gives its place back.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test fail as it does")]

use std::io::Read;
use std::net::SocketAddr;

use berth_tests::attack::{Node, Wire, client_hello};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// Whether the node takes a connection and drops it unasked. The reset may overtake the connect.
fn is_refused(host: u8, to: SocketAddr) -> bool {
    Wire::try_connect_as(host, to).map_or(true, |mut wire| wire.is_closed())
}

/// The signature that begins a PROXY header of version 2.
const PROXY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn is_served(wire: &mut Wire) -> bool {
    wire.send(GET).is_ok() && wire.answer().is_ok_and(|answer| answer.status == 200)
}

#[test]
fn connections_beyond_the_limit_of_the_node_are_closed_at_accept() {
    let node = Node::start("connections = 5");
    let mut held: Vec<Wire> = (2..7).map(|host| Wire::connect_as(host, node.http)).collect();
    assert!(held.iter_mut().all(is_served));
    assert!(is_refused(9, node.http));
    node.wait_for("limit_connections", 1);
    assert!(held.iter_mut().all(is_served), "those that are in stay in");
    held.pop();
    node.wait_for("connections_open", 4);
    assert!(is_served(&mut Wire::connect_as(9, node.http)));
    node.wait_for("limit_connections", 1);
}

#[test]
fn connections_beyond_the_limit_of_an_address_leave_others_alone() {
    let node = Node::start("connections_per_address = 3");
    let mut held: Vec<Wire> = (0..3).map(|_| Wire::connect_as(2, node.http)).collect();
    assert!(held.iter_mut().all(is_served));
    for refused in 1..=20 {
        assert!(is_refused(2, node.http));
        node.wait_for("limit_connections_per_address", refused);
    }
    assert!(is_served(&mut Wire::connect_as(3, node.http)));
    drop(held);
    node.wait_for("connections_open", 0);
    assert!(is_served(&mut Wire::connect_as(2, node.http)));
}

#[test]
fn handshakes_beyond_their_limit_are_reset() {
    let node = Node::start("handshakes = 4\nhandshake_timeout = \"1m\"");
    let hello = client_hello();
    let mut held: Vec<Wire> = (0..4).map(|_| Wire::connect(node.https)).collect();
    held.iter_mut().for_each(|wire| wire.send(&hello[..100]).unwrap());
    node.wait_for("connections_open", 4);
    for refused in 1..=20 {
        assert!(is_refused(1, node.https));
        node.wait_for("limit_handshakes", refused);
    }
    assert!(is_served(&mut Wire::connect(node.http)), "clear text is no handshake");
    drop(held);
    node.wait_for("connections_open", 0);
    let mut wire = Wire::connect(node.https);
    wire.send(&hello).unwrap();
    let mut first = [0];
    assert_eq!(wire.stream().read(&mut first).unwrap(), 1);
    assert_eq!(first, [22], "a handshake record comes back");
    node.wait_for("limit_handshakes", 20);
}

#[test]
fn handshakes_that_do_not_end_are_cut() {
    let node = Node::start("handshake_timeout = \"300ms\"");
    let hello = client_hello();
    // Nothing, half a hello, a whole one without the client's last flight.
    for (number, part) in [&hello[..0], &hello[..hello.len() / 2], &hello].into_iter().enumerate() {
        let mut wire = Wire::connect(node.https);
        wire.send(part).unwrap();
        wire.rest();
        node.wait_for("limit_handshake_timeout", number as u64 + 1);
    }
    // One byte of the hello after the other does not gain time.
    let mut wire = Wire::connect(node.https);
    wire.dribble(&hello[..60], std::time::Duration::from_millis(10));
    wire.rest();
    node.wait_for("limit_handshake_timeout", 4);
    node.wait_for("connections_open", 0);
    assert_eq!(node.count("tls_handshake_failures"), 0);
}

#[test]
fn handshakes_that_are_no_handshakes_fail() {
    let node = Node::start("");
    let mut corrupt = client_hello();
    corrupt[5] = 2; // A ServerHello from a client.
    for (number, bytes) in [GET, &[0xff; 4096], &corrupt].into_iter().enumerate() {
        let mut wire = Wire::connect(node.https);
        let _ = wire.send(bytes);
        wire.rest();
        node.wait_for("tls_handshake_failures", number as u64 + 1);
    }
    node.wait_for("connections_open", 0);
}

#[test]
fn proxy_headers_that_do_not_end_or_are_none_are_cut() {
    let node = Node::start("handshake_timeout = \"300ms\"");
    let announced = [PROXY, &[0x21, 0x11, 0, 200], &[0; 100]].concat();
    for (number, part) in [&PROXY[..0], &PROXY[..5], PROXY, &announced].into_iter().enumerate() {
        let mut wire = Wire::connect(node.proxied);
        wire.send(part).unwrap();
        wire.rest();
        node.wait_for("limit_handshake_timeout", number as u64 + 1);
    }
    let version_1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".as_slice();
    let wrong_version = [PROXY, &[0x31, 0x11, 0, 12], &[0; 12]].concat();
    for (number, bytes) in [GET, version_1, &wrong_version].into_iter().enumerate() {
        let mut wire = Wire::connect(node.proxied);
        wire.send(&[bytes, GET].concat()).unwrap();
        assert!(wire.is_closed(), "nobody is answered without a header");
        node.wait_for("proxy_header_failures", number as u64 + 1);
    }
    node.wait_for("connections_open", 0);
}

#[test]
fn behind_a_proxy_the_clients_are_counted_and_not_the_proxy() {
    let node = Node::start("connections_per_address = 2");
    let header = |client: u8| {
        let addresses = [192, 0, 2, client, 192, 0, 2, 200, 0, 1, 0, 2];
        [PROXY, &[0x21, 0x11, 0, 12], &addresses].concat()
    };
    let connect = |client: u8| {
        let mut wire = Wire::connect(node.proxied);
        wire.send(&header(client)).unwrap();
        wire
    };
    let mut held: Vec<Wire> = [1, 1, 2, 2, 3].map(connect).into();
    assert!(held.iter_mut().all(is_served));
    assert!(!is_served(&mut connect(1)));
    node.wait_for("limit_connections_per_address", 1);
    assert!(is_served(&mut connect(3)));
}

/// Connections opened and closed at random places, as fast as one thread can, and all is as before.
#[test]
fn after_a_storm_of_connections_nothing_is_left() {
    let mut node = Node::start("handshakes = 50\nconnections_per_address = 200");
    let hello = client_hello();
    let storm = |rounds: usize| {
        for round in 0..rounds {
            let to = if round % 2 == 0 { node.http } else { node.https };
            let Ok(mut wire) = Wire::try_connect_as(2 + (round % 5) as u8, to) else { continue };
            let bytes = if round % 2 == 0 { GET } else { &hello };
            let _ = wire.send(&bytes[..(round * 7) % (bytes.len() + 1)]);
            if round % 3 == 0 {
                let _ = wire.stream().set_nonblocking(true);
                let _ = wire.stream().read(&mut [0; 64]);
            }
        }
    };
    storm(1000);
    node.wait_for("connections_open", 0);
    let before = node.resident_bytes();
    storm(3000);
    node.wait_for("connections_open", 0);
    let grown = node.resident_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "3000 connections left {grown} bytes");
    assert!(is_served(&mut Wire::connect_as(2, node.http)));
    assert!(node.is_alive());
}
