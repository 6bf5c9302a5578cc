//! Room for objects, seen from outside: many objects share few places, whoever is busy keeps its own, and what finds none is
//! told to come again.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use berth_tests::clients::{curl, run};
use berth_tests::node::{Driver, Node, Plan, binary, wait_until};
use berth_tests::on_both_drivers;
use berth_tests::workers::{deploy, guests, object_guest, upload};
use serde_json::json;

use crate::common;

on_both_drivers!(["curl"]; a_hundred_objects_share_eight_places_and_keep_their_data,
    an_object_in_its_turn_is_not_given_up, where_all_are_busy_one_more_is_told_to_come_again,
    an_object_is_given_up_after_its_time_and_comes_back, the_room_is_told_and_a_wish_does_not_go_past_the_kernel);

/// As few places as there may be.
const PLACES: u64 = 8;

/// A class with few places, a worker that asks its objects, and a stateless one, all in one zone.
fn node(driver: Driver, objects: &str) -> Node {
    let node = Plan::new(driver, common()).and(&format!("[objects]\n{objects}\n")).start();
    let (front, probe) = (upload(&node, guests()), upload(&node, &object_guest()));
    let limits = json!({"cpu": "10s", "wall": "60s"});
    let zone = json!({"hosts": ["*"], "workers": {"front": {"script": front, "routes": ["/*"], "limits": limits}},
        "objects": {"Probe": {"script": probe, "routes": ["/probe/:name"], "limits": limits}}});
    deploy(&node, "room", &zone);
    node
}

fn url(node: &Node, name: &str, subject: &str) -> String {
    node.http(&format!("/ask?url=http://{name}.probe.object.internal/{subject}"))
}

fn ask(node: &Node, name: &str, subject: &str) -> String {
    curl(&[&url(node, name, subject)]).ok()
}

fn resident(node: &Node) -> u64 {
    node.metric("berth_node_objects_resident") as u64
}

fn a_hundred_objects_share_eight_places_and_keep_their_data(driver: Driver) {
    let node = node(driver, "resident = 8");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Relaxed) {
                most = most.max(resident(&node));
                assert_eq!(
                    curl(&["--head", &node.http("/status/204")]).code,
                    0,
                    "workers have places of their own"
                );
            }
            most
        });
        for round in 1..=3 {
            // Four clients at a time, so that those of several cores want a place at once.
            let clients = ["[1-25]", "[26-50]", "[51-75]", "[76-100]"].map(|names| {
                let (node, all) = (&node, format!("name{names}"));
                scope.spawn(move || curl(&["--write-out", "\n", &url(node, &all, "increment/n")]).ok())
            });
            for client in clients {
                let said = client.join().unwrap();
                let lines: Vec<&str> = said.lines().collect();
                assert_eq!(lines, vec![round.to_string(); 25], "each counts for itself");
            }
        }
        done.store(true, Relaxed);
        let most = watcher.join().unwrap();
        assert!(0 < most && most <= PLACES, "{most}");
    });
    let (started, given_up) = (node.number("objects_started"), node.number("objects_given_up_for_room"));
    assert!(started >= 292 && given_up >= started - PLACES, "{given_up} of {started}");
    assert_eq!(node.number("limit_objects_resident"), 0);
    node.finish();
}

fn an_object_in_its_turn_is_not_given_up(driver: Driver) {
    let node = node(driver, "resident = 8");
    assert_eq!(ask(&node, "busy", "remember/me"), "remembered");
    std::thread::scope(|scope| {
        let turns = node.number("object_turns");
        let busy = scope.spawn(|| ask(&node, "busy", "await-queue/1"));
        wait_until("it has its turn", || node.number("object_turns") > turns);
        let said = curl(&["--write-out", "\n", &url(&node, "name[1-40]", "increment/n")]).ok();
        assert_eq!(said, "1\n".repeat(40));
        assert!(node.number("objects_given_up_for_room") >= 33);
        assert_eq!(ask(&node, "busy", "recall"), "me", "its memory is still there");
        assert_eq!(busy.join().unwrap(), "1");
    });
    assert_eq!(node.number("object_faults"), 0);
    node.finish();
}

fn where_all_are_busy_one_more_is_told_to_come_again(driver: Driver) {
    let node = node(driver, "resident = 8");
    let names: Vec<String> = (0..PLACES).map(|number| format!("busy{number}")).collect();
    std::thread::scope(|scope| {
        let busy: Vec<_> =
            names.iter().map(|name| scope.spawn(|| ask(&node, name, "await-queue/1"))).collect();
        wait_until("all have their turns", || node.number("object_turns") == PLACES);
        let refused = curl(&["--include", &node.http("/probe/more")]).ok().to_ascii_lowercase();
        assert!(refused.contains(" 503 ") && refused.contains("retry-after: 1"), "{refused}");
        assert_eq!((node.number("limit_objects_resident"), resident(&node)), (1, PLACES));
        assert_eq!(node.number("object_start_failures"), 0, "nothing is wrong with it");
        let worker = curl(&["--write-out", "%{http_code}", &node.http("/status/204")]).ok();
        assert_eq!(worker, "204", "a worker needs no place of an object");
        for name in &names {
            assert_eq!(ask(&node, name, "queue"), "0");
        }
        assert!(busy.into_iter().all(|asker| asker.join().unwrap() == "1"));
    });
    assert_eq!(ask(&node, "more", "increment/n"), "1", "there is room again");
    node.finish();
}

fn an_object_is_given_up_after_its_time_and_comes_back(driver: Driver) {
    let node = node(driver, "idle = \"1s\"");
    assert_eq!(ask(&node, "ada", "increment/n"), "1");
    assert_eq!(resident(&node), 1);
    wait_until("it is given up", || node.number("objects_given_up_idle") == 1);
    assert_eq!((node.number("objects_ended"), resident(&node)), (1, 0));
    assert_eq!(ask(&node, "ada", "increment/n"), "2");
    assert_eq!(node.number("objects_started"), 2);
    node.finish();
}

fn the_room_is_told_and_a_wish_does_not_go_past_the_kernel(driver: Driver) {
    let told = |node: &Node| {
        let places = node.log_line("objects.room")["places"].as_u64().unwrap();
        assert_eq!(node.metric("berth_node_objects_resident_most") as u64, places);
        places
    };
    let auto = Plan::new(driver, common()).start();
    let places = told(&auto);
    auto.finish();
    let greedy = Plan::new(driver, common()).and("[objects]\nresident = 1000000\n").start();
    // The node has a few mappings more or less from one start to the next.
    assert!(told(&greedy).abs_diff(places) < 100, "as many as there is room for");
    assert!(greedy.log().contains("berth doctor"));
    greedy.finish();
    let said = run(Command::new(binary()).arg("doctor")).ok();
    assert!(said.contains("objects that live at a time: ") && said.contains("vm.max_map_count"), "{said}");
}
