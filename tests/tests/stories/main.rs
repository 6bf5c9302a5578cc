//! The program as its users meet it: each story starts a node, talks to it with clients that we did
//! not write, and ends with [`Node::finish`](berth_tests::node::Node::finish).
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers fail as their tests do")]

mod addresses;
mod bodies;
mod browser;
mod browser_http3;
mod commands;
mod examples;
mod examples_objects;
mod explain;
mod first_flight;
mod hops;
mod http1;
mod http2;
mod http3;
mod kernel;
mod life;
mod objects;
mod objects_carry;
mod objects_chat;
mod objects_disks;
mod objects_faults;
mod objects_guests;
mod objects_hosts;
mod objects_keys;
mod objects_room;
mod objects_sockets;
mod quic;
mod quic_life;
mod s2n;
mod soak;
mod tls;
mod websocket;
mod workers;
mod workers_bounds;
mod workers_http3;

use berth_tests::node::{HTTP, HTTPS, route};

/// The demo's routes and what else the stories ask for, on one clear-text and one TLS listener.
fn common() -> String {
    let mut text = format!("{HTTP}{HTTPS}");
    for (path, action) in [
        ("/", r#"respond = { body = "hello\n", headers = { content-type = "text/plain" } }"#),
        ("/nothing", "respond = { status = 204 }"),
        ("/echo", "echo = {}"),
        ("/stream/256KiB", r#"stream = { bytes = "256KiB" }"#),
        ("/stream/1MiB", r#"stream = { bytes = "1MiB" }"#),
        ("/stream/4MiB", r#"stream = { bytes = "4MiB" }"#),
        ("/stream/100MiB", r#"stream = { bytes = "100MiB" }"#),
        ("/delay/2s", r#"delay = { time = "2s", body = "late\n" }"#),
        ("/delay/5m", r#"delay = { time = "5m", body = "never\n" }"#),
        ("/ws", "websocket = {}"),
    ] {
        text += &route(path, action);
    }
    text
}
