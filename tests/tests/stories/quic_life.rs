//! The end of QUIC connections: stop, deadline, idle time, and a node that forgot them.

use std::time::Instant;

use serde_json::json;

use berth_tests::aioquic::{h3, h3_command, report};
use berth_tests::clients::{finish, run, start};
use berth_tests::node::{Driver, Plan, wait_until};
use berth_tests::on_both_drivers;
use berth_tests::relay::{Faults, Relay};

use crate::common;

on_both_drivers!(["aioquic"]; a_stop_says_goaway_and_lets_a_download_finish,
    a_stop_ends_idle_quic_connections_at_once, the_deadline_cuts_a_request_over_http_3,
    a_connection_without_requests_ends_after_its_idle_time,
    a_request_in_hand_outlasts_the_idle_time);
on_both_drivers!(["aioquic", "two cpus"]; a_node_that_was_killed_resets_the_connections_of_before);

fn a_stop_says_goaway_and_lets_a_download_finish(driver: Driver) {
    let node = Plan::new(driver, common() + "[shutdown]\ndrain = \"2m\"\n").start();
    let relay = Relay::start(node.listener(1), Faults::default()).unwrap();
    let address = node.listener(1);
    let download = start(h3_command("get", relay.address()).args(["--path", "/stream/4MiB"]));
    // Of 3,000 datagrams that it takes.
    wait_until("the download runs", || relay.to_clients().sent > 200);
    node.signal(libc::SIGTERM);
    node.log_line("node.draining");
    let late = run(h3_command("get", address).args(["--timeout", "20"]));
    let outcome = finish(download);
    let said = report(&outcome);
    assert_eq!(said["answers"][0]["length"], 4 << 20, "{}", outcome.all());
    outcome.ok();
    assert_ne!(late.code, 0, "a client that comes late is refused: {}", late.all());
    assert!(node.wait().success());
    assert!(!node.log().contains("drain.deadline"), "{}", node.log());
}

fn a_stop_ends_idle_quic_connections_at_once(driver: Driver) {
    // Nobody waits for the ten minutes.
    let node = Plan::new(driver, common() + "[shutdown]\ndrain = \"10m\"\n").start();
    let client = start(h3_command("stay", node.listener(1)).args(["--connections", "4"]));
    wait_until("all are served", || node.number("requests_http3") == 4);
    node.signal(libc::SIGTERM);
    assert!(node.wait().success());
    let outcome = finish(client);
    let said = report(&outcome);
    let end = &said["ends"][0];
    assert_eq!(
        (&end["by"], &end["code"], &end["count"]),
        (&json!("server"), &json!(0x100), &json!(4)),
        "{said}"
    );
}

fn the_deadline_cuts_a_request_over_http_3(driver: Driver) {
    let node = Plan::new(driver, common() + "[shutdown]\ndrain = \"1s\"\n").start();
    let before = node.number("tasks");
    let client = start(h3_command("stay", node.listener(1)).args(["--path", "/delay/5m", "--timeout", "60"]));
    // A task for the connection, and one for its stream.
    wait_until("the request is in flight", || node.number("tasks") >= before + 2);
    node.signal(libc::SIGTERM);
    assert!(node.wait().success());
    assert!(node.log().contains("drain.deadline"), "{}", node.log());
    let outcome = finish(client);
    let said = report(&outcome);
    assert_eq!(said["ends"][0]["by"], "server", "the client is told: {}", outcome.all());
}

fn a_connection_without_requests_ends_after_its_idle_time(driver: Driver) {
    let node = Plan::new(driver, common() + "[limits]\nidle_timeout = \"1s\"\n").start();
    let silent = start(h3_command("stay", node.listener(1)).args(["--timeout", "60"]));
    // Pings do not keep a connection.
    let pings = start(h3_command("stay", node.listener(1)).args(["--ping", "0.1", "--timeout", "60"]));
    for (name, client) in [("silent", silent), ("pings", pings)] {
        let outcome = finish(client);
        let said = report(&outcome);
        let end = &said["ends"][0];
        assert!(end["by"] == "server" || end["by"] == "timeout", "{name}: {}", outcome.all());
        assert!(name != "pings" || end["code"] == 0x100, "in peace, with H3_NO_ERROR: {said}");
    }
    wait_until("the node has let them go", || node.number("connections_open") == 0);
    assert_eq!(node.number("limit_idle_timeout"), 2);
    node.finish();
}

fn a_request_in_hand_outlasts_the_idle_time(driver: Driver) {
    let node = Plan::new(driver, common() + "[limits]\nidle_timeout = \"1s\"\n").start();
    let outcome = run(h3_command("get", node.listener(1)).args(["--path", "/delay/2s", "--timeout", "60"]));
    assert_eq!(
        report(&outcome)["answers"][0]["status"],
        200,
        "an idle connection has no request: {}",
        outcome.all()
    );
    node.finish();
}

fn a_node_that_was_killed_resets_the_connections_of_before(driver: Driver) {
    let node = Plan::new(driver, common()).cores(2).start();
    let relay = Relay::start(node.listener(1), Faults::default()).unwrap();
    let options = ["--connections", "16", "--ping", "0.2", "--timeout", "60"];
    let client = start(h3_command("stay", relay.address()).args(options));
    wait_until("all are served", || node.number("requests_http3") == 16);
    let node = node.kill_and_restart();
    let began = Instant::now();
    relay.redirect(node.listener(1));
    let outcome = finish(client);
    let said = report(&outcome);
    println!("{said} after {:?}", began.elapsed());
    let end = &said["ends"][0];
    assert_eq!((&end["by"], &end["count"]), (&json!("reset"), &json!(16)), "{}", outcome.all());
    // From new ports, about half of them reached a core that never knew them.
    let (tossed, caught) = (node.number("quic_tossed"), node.number("quic_caught"));
    assert!(tossed > 0 && tossed == caught, "tossed {tossed}, caught {caught}");
    // Who comes anew is served.
    assert_eq!(h3::<&str>("get", node.listener(1), &[])["answers"][0]["status"], 200);
    node.finish();
}
