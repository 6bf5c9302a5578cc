//! Workers over HTTP/3, asked by aioquic: bodies, trailers, replies that are cut, and clients that go away.

use std::io::Write;
use std::process::{Child, Stdio};

use berth_tests::aioquic::{h3, h3_command, report};
use berth_tests::clients::{curl, run};
use berth_tests::node::{Driver, Node, Plan, wait_until};
use berth_tests::on_both_drivers;
use berth_tests::workers::serve_guests;
use serde_json::{Value, json};

use crate::common;

on_both_drivers!(["aioquic"]; bodies_and_trailers_stream_through_a_worker_over_http_3,
    a_reply_that_a_guest_cut_is_reset_over_http_3, a_connection_that_ends_takes_its_guests_along);
on_both_drivers!(["aioquic", "curl"]; streams_that_are_given_up_end_their_guests_and_nothing_else);

fn node(driver: Driver, text: &str) -> Node {
    Plan::new(driver, common()).and(text).start()
}

fn get(node: &Node, options: &[&str]) -> Value {
    h3("get", node.listener(1), options)
}

fn bodies_and_trailers_stream_through_a_worker_over_http_3(driver: Driver) {
    let node = node(driver, "");
    serve_guests(&node, &json!({"cpu": "10s"}));
    let said = get(&node, &["--path", "/hello"]);
    assert_eq!(
        (&said["answers"][0]["status"], &said["answers"][0]["length"]),
        (&json!(200), &json!(6)),
        "{said}"
    );
    let said = get(&node, &["--path", "/upload", "--method", "POST", "--body", "some bytes"]);
    assert_eq!(said["answers"][0]["length"], "length 10\n".len(), "{said}");
    let said = h3("echo", node.listener(1), &["--bytes", "3000000"]);
    assert_eq!((&said["status"], &said["length"]), (&json!(200), &json!(3_000_000)), "{said}");
    let said = get(&node, &["--path", "/stream/3000000", "--count", "3", "--streams", "3"]);
    let answer = &said["answers"][0];
    assert_eq!((&answer["length"], &answer["count"]), (&json!(3_000_000), &json!(3)), "{said}");
    let said = get(&node, &["--path", "/trailers"]);
    assert!(said["trailers"]["x-sum"].is_string() && said["headers"]["x-sum"].is_null(), "{said}");
    assert_eq!(node.number("worker_calls"), 7);
    node.finish();
}

fn a_reply_that_a_guest_cut_is_reset_over_http_3(driver: Driver) {
    let node = node(driver, "");
    serve_guests(&node, &json!({"body_bytes": "1MiB", "cpu": "10s"}));
    for path in ["/abandon", "/trap-late", "/stream/30000000"] {
        let outcome = run(h3_command("get", node.listener(1)).args(["--path", path]));
        let said = report(&outcome);
        // H3_INTERNAL_ERROR, so that nobody takes it for whole. What was refused as a whole is whole.
        let answer = &said["answers"][0];
        let reset = outcome.code == 1 && answer["reset"] == 0x102;
        assert!(reset || answer["status"] == 500, "{path}: {said}");
    }
    assert_eq!((node.number("worker_faults"), node.number("limit_worker_body")), (2, 1));
    let said = get(&node, &["--path", "/hello"]);
    assert_eq!(said["answers"][0]["status"], 200, "{said}");
    node.finish();
}

/// A client that has opened these requests, and gives them up when it is told to.
fn hold(node: &Node, path: &str, count: u64, how: &str) -> Child {
    let before = node.number("worker_calls");
    let mut command = h3_command("hold", node.listener(1));
    command.args(["--path", path, "--count", &count.to_string(), "--how", how]);
    let client = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    wait_until("the guests run", || node.number("worker_calls") == before + count);
    client
}

fn streams_that_are_given_up_end_their_guests_and_nothing_else(driver: Driver) {
    const PLACES: u64 = 8;
    let node = node(driver, &format!("[workers]\ninstances = {PLACES}\n"));
    serve_guests(&node, &json!({"wall": "10m"}));
    let mut client = hold(&node, "/linger/300000", PLACES, "reset");
    node.log_lines("guest.line", PLACES as usize);
    let said = curl(&["--include", &node.http("/hello")]).ok();
    assert!(said.starts_with("HTTP/1.1 503"), "all places are taken: {said}");
    writeln!(client.stdin.as_ref().unwrap(), "go").unwrap();
    // As many requests as there are places: the whole pool is free again.
    let waits = ["--parallel", "--parallel-max", "8", "--fail", "--fail-early", "--output", "/dev/null"];
    wait_until("the guests are gone", || {
        let url = node.http("/sleep/500?[1-8]");
        curl(&[&waits[..], &[&url]].concat()).code == 0
    });
    assert_eq!(node.number("http3_connections"), 1);
    assert!(client.try_wait().unwrap().is_none(), "the connection is still there");
    drop(client.stdin.take());
    assert!(client.wait().unwrap().success());
    node.finish();
}

fn a_connection_that_ends_takes_its_guests_along(driver: Driver) {
    let node = node(driver, "");
    serve_guests(&node, &json!({"wall": "10m", "cpu": "30s"}));
    let idle = node.number("tasks");
    for path in ["/sleep/300000", "/stream/100000000000"] {
        let mut client = hold(&node, path, 3, "close");
        assert!(node.number("tasks") > idle, "they run");
        drop(client.stdin.take());
        assert!(client.wait().unwrap().success());
        wait_until("the guests are gone", || node.number("tasks") == idle);
    }
    node.finish();
}
