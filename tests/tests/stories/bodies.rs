//! Large bodies stream through: what the node holds of them is bounded, whatever their size and
//! however slow the client.
//!
//! Bounds: a stream holds at most an HTTP/2 window (256 KiB) or a few receive buffers one way and
//! 64 KiB the other way. [`GROWTH_MAX`] leaves room for the growth of pools and for an allocator
//! that keeps pages, and is far below the bodies.

use berth_tests::clients::{curl, curl_command, finish, run, start};
use berth_tests::node::{Driver, Plan, wait_until};
use berth_tests::on_both_drivers;

use crate::common;

on_both_drivers!(["curl"]; a_download_of_100_mb_costs_no_memory, an_echo_of_50_mb_costs_no_memory,
    slow_readers_cost_no_memory);

/// See the head of this file.
const GROWTH_MAX: u64 = 24 << 20;
const DOWNLOAD: u64 = 100 << 20;
const UPLOAD: usize = 50_000_000;

/// The ways to speak with the node: the arguments of curl, and the listener.
const WAYS: [(&[&str], usize); 4] = [
    (&["--http1.1"], 0),
    (&["--http2-prior-knowledge"], 0),
    (&["--http1.1", "--insecure"], 1),
    (&["--http2", "--insecure"], 1),
];

fn url(node: &berth_tests::node::Node, listener: usize, path: &str) -> String {
    if listener == 0 { node.http(path) } else { node.https(path) }
}

fn a_download_of_100_mb_costs_no_memory(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    for (arguments, listener) in WAYS {
        let url = url(&node, listener, "/stream/100MiB");
        let ask = || {
            curl(&[arguments, &["--output", "/dev/null", "--write-out", "%{size_download}", &url]].concat())
        };
        let (said, growth) = node.memory_growth(ask);
        assert_eq!(said.ok(), DOWNLOAD.to_string(), "{arguments:?}");
        assert!(growth < GROWTH_MAX, "{arguments:?}: the node grew by {growth} bytes");
    }
    node.finish();
}

fn an_echo_of_50_mb_costs_no_memory(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let (upload, download) = (node.folder().join("upload"), node.folder().join("download"));
    std::fs::write(&upload, noise(UPLOAD)).unwrap();
    for (arguments, listener) in WAYS {
        let url = url(&node, listener, "/echo");
        let files = ["--upload-file", upload.to_str().unwrap(), "--output", download.to_str().unwrap()];
        let (said, growth) = node.memory_growth(|| curl(&[arguments, &files, &[&url]].concat()));
        said.ok();
        let same = std::fs::read(&upload).unwrap() == std::fs::read(&download).unwrap();
        assert!(same, "{arguments:?}: what came back is what was sent");
        assert!(growth < GROWTH_MAX, "{arguments:?}: the node grew by {growth} bytes");
    }
    node.finish();
}

/// Eight clients read 100 MiB each at 1 MiB/s: whatever a node buffers ahead of them shows.
fn slow_readers_cost_no_memory(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let slow = ["--limit-rate", "1M", "--output", "/dev/null", "--max-time", "4"];
    let ((), growth) = node.memory_growth(|| {
        let clients: Vec<_> = (0..8)
            .map(|number| {
                let (arguments, listener) = WAYS[number % WAYS.len()];
                let url = url(&node, listener, "/stream/100MiB");
                start(curl_command().args(arguments).args(slow).arg(url))
            })
            .collect();
        for client in clients {
            assert_eq!(finish(client).code, 28, "curl gave up when its time was over, and not before");
        }
    });
    assert!(growth < GROWTH_MAX, "the node grew by {growth} bytes");
    wait_until("the node has let them go", || node.number("connections_open") == 0);
    assert_eq!(run(curl_command().arg(node.http("/"))).ok(), "hello\n");
    node.finish();
}

/// Bytes that no compression or lucky repetition can hide.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
