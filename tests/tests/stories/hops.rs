//! Requests that another core answers.

use berth_tests::clients::{call, curl};
use berth_tests::node::{Driver, Plan, route};
use berth_tests::on_both_drivers;

use crate::common;

on_both_drivers!(["curl", "h2load", "two cpus"]; a_request_hops_to_the_core_of_its_route);

fn a_request_hops_to_the_core_of_its_route(driver: Driver) {
    let text = common()
        + &route("/on/0", "core = 0\nrespond = { body = \"core 0\\n\", headers = { x-core = \"0\" } }")
        + &route("/on/1", "core = 1\nrespond = { body = \"core 1\\n\", headers = { x-core = \"1\" } }")
        + &route("/late/1", "core = 1\ndelay = { time = \"100ms\", body = \"late core 1\\n\" }");
    let node = Plan::new(driver, text).cores(2).start();
    // Many connections, so that both cores have some and each request hops from the other one.
    for _ in 0..20 {
        let said = curl(&["--include", &node.http("/on/0"), &node.http("/on/1")]).ok();
        assert!(said.contains("x-core: 0") && said.ends_with("core 1\n"), "{said}");
        assert_eq!(curl(&["--insecure", "--http2", &node.https("/late/1")]).ok(), "late core 1\n");
    }
    for url in [node.http("/on/0"), node.https("/on/1")] {
        for version in [&["--h1"][..], &[]] {
            let said = call("h2load", &[version, &["--requests=5000", "--clients=50", &url]].concat()).ok();
            assert!(said.contains("5000 succeeded, 0 failed, 0 errored"), "{said}");
        }
    }
    let (out, taken) = (node.number("hops_out"), node.number("hops_in"));
    assert_eq!(out, taken);
    // Half of 20,060 in the mean; each core accepted some of the 50 connections.
    assert!(out > 100, "{out} hops");
    assert!(node.numbers("hops_in").iter().all(|core| *core > 0));
    assert_eq!((node.number("hops_shed"), node.number("replies_5xx")), (0, 0));
    assert_eq!(node.number("requests"), 60 + 20_000);
    node.finish();
}
