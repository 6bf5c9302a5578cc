//! Objects whose guests do what they should not, objects in great numbers, and the end of a node that has some in a turn.

use std::process::Command;
use std::time::Instant;

use berth_tests::clients::{finish, start};
use berth_tests::node::{Driver, Node, Plan, wait_until};
use berth_tests::objects::{Client, ask, deploy_probe, move_to, probe, shown};
use berth_tests::on_both_drivers;
use serde_json::json;

use crate::common;

on_both_drivers!([]; a_guest_that_takes_too_much_ends_and_its_object_serves_again, a_busy_object_starves_no_other_of_its_core,
    accepted_turns_finish_when_the_node_stops, a_turn_that_does_not_end_is_cut_at_the_deadline);
on_both_drivers!(["h2load"]; a_thousand_objects_start_at_once, a_thousand_first_messages_start_one_object_once,
    two_objects_that_ask_one_another_a_thousand_times_at_once_all_end);

/// Each object is on the core of this one, whichever that is.
fn bring_together(node: &Node, names: &[&str]) {
    for name in names {
        assert_eq!(ask(node, name, "put/k/v").0, 200);
        let (at, to) =
            (shown(node, name)["core"].as_u64().unwrap(), shown(node, names[0])["core"].as_u64().unwrap());
        if at != to {
            let (status, said) = move_to(node, name, to);
            assert_eq!(status, 200, "{said}");
        }
    }
}

fn a_guest_that_takes_too_much_ends_and_its_object_serves_again(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    deploy_probe(&node, &json!({"limits": {"cpu": "200ms", "wall": "10s", "memory": "32MiB"}}));
    bring_together(&node, &["ada", "bob"]);
    for (subject, status, number) in [
        ("spin", 504, "limit_worker_cpu"),
        ("memory", 500, "limit_worker_memory"),
        ("sleep/3600000", 504, "limit_worker_wall"),
        ("recurse", 500, "limit_worker_stack"),
        ("write-on/written", 504, ""),
    ] {
        let faults = node.number("object_faults");
        let limits = || if number.is_empty() { 1 } else { node.number(number) };
        let before = if number.is_empty() { 0 } else { limits() };
        assert_eq!(ask(&node, "ada", "remember/this").0, 200);
        let mut client = Client::connect(node.listener(0)).unwrap();
        let turns = node.number("object_turns");
        client.send("ada", subject, "").unwrap();
        wait_until("its turn has begun", || node.number("object_turns") > turns);
        // As long as it does that, another object of its core goes on.
        let mut served = 0;
        while node.number("object_faults") == faults {
            assert_eq!(ask(&node, "bob", "get/k"), (200, "v".to_owned()), "{subject}");
            served += 1;
        }
        assert!(
            served > 5 || matches!(subject, "memory" | "recurse"),
            "{subject}: {served} were served meanwhile"
        );
        assert_eq!(client.receive().unwrap().0, status, "{subject}");
        assert_eq!((node.number("object_faults"), limits()), (faults + 1, before + 1), "{subject}");
        assert_eq!(ask(&node, "ada", "recall"), (200, String::new()), "{subject}: a fresh instance serves");
        assert_eq!(ask(&node, "ada", "get/k"), (200, "v".to_owned()), "{subject}: what was stored is there");
    }
    // Each write was durable before the next one: those are kept.
    let (status, written) = ask(&node, "ada", "get/written");
    assert!(status == 200 && written.parse::<u64>().unwrap() > 0, "{written}");
    node.finish();
}

fn a_busy_object_starves_no_other_of_its_core(driver: Driver) {
    let node = probe(driver, common());
    bring_together(&node, &["busy", "quiet"]);
    let before = node.number("object_turns");
    let mut clients: Vec<Client> = (0..200).map(|_| Client::connect(node.listener(0)).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.send("busy", "spin/20", "").unwrap());
    wait_until("it is busy", || node.number("object_turns") > before + 1);
    for _ in 0..10 {
        assert_eq!(ask(&node, "quiet", "get/k"), (200, "v".to_owned()));
    }
    let turns = node.number("object_turns") - before;
    assert!(
        turns < 200,
        "the quiet one has its turns between those of the busy one, and not after all {turns}"
    );
    for client in &mut clients {
        assert_eq!(client.receive(), Some((200, "spun".to_owned())), "and the busy one has all of its own");
    }
    node.finish();
}

/// Clients who send at a time, each on a connection of its own.
const CLIENTS: usize = 10;

/// Sends a request to each of these addresses, all at once. How many were answered with 2xx, 4xx and 5xx.
fn at_once(node: &Node, addresses: &[String]) -> [usize; 3] {
    let each = addresses.len() / CLIENTS;
    let client = |(number, addresses): (usize, &[String])| {
        let list = node.folder().join(format!("addresses-{number}"));
        std::fs::write(&list, addresses.join("\n")).unwrap();
        let mut client = Command::new("h2load");
        client
            .arg("--clients=1")
            .arg(format!("--requests={each}"))
            .arg(format!("--max-concurrent-streams={each}"));
        start(client.arg("--input-file").arg(list))
    };
    let clients: Vec<_> = addresses.chunks(each).enumerate().map(client).collect();
    let mut sum = [0; 3];
    for client in clients {
        let said = finish(client).ok();
        let all = format!("{each} total, {each} started, {each} done,");
        assert!(said.contains(&all) && said.contains(" 0 errored, 0 timeout"), "each call ends: {said}");
        let codes = said.lines().find_map(|line| line.strip_prefix("status codes: ")).expect("it says so");
        for (sum, kind) in sum.iter_mut().zip(["2xx", "4xx", "5xx"]) {
            let word = codes.split(", ").find_map(|word| word.strip_suffix(kind)).expect("it says so");
            *sum += word.trim().parse::<usize>().unwrap();
        }
    }
    sum
}

fn a_thousand_objects_start_at_once(driver: Driver) {
    let node = probe(driver, format!("{}[workers]\ninstances = 2000\n", common()));
    let address = |number: usize| node.http(&format!("/probe/object-{number}/increment/n"));
    assert_eq!(at_once(&node, &(0..1000).map(address).collect::<Vec<_>>()), [1000, 0, 0]);
    assert_eq!(
        (node.number("objects_started"), node.number("object_start_failures")),
        (1000, 0),
        "each once"
    );
    let mut client = Client::connect(node.listener(0)).unwrap();
    for number in 0..1000 {
        let counted = client.ask(&format!("object-{number}"), "get/n", "");
        assert_eq!(counted, Some((200, "1".to_owned())), "object {number}");
    }
    node.finish();
}

fn a_thousand_first_messages_start_one_object_once(driver: Driver) {
    let node = probe(driver, common());
    let [done, wrong, refused] = at_once(&node, &vec![node.http("/probe/one/increment/n"); 1000]);
    assert_eq!((done + refused, wrong), (1000, 0));
    // On a machine that stands still for ten seconds it may be given up in between.
    assert!(node.number("objects_started") <= node.number("objects_ended") + 1, "one at a time");
    assert_eq!(node.number("limit_object_messages"), refused as u64, "more than may wait are refused");
    assert_eq!(ask(&node, "one", "get/n"), (200, done.to_string()));
    node.finish();
}

fn two_objects_that_ask_one_another_a_thousand_times_at_once_all_end(driver: Driver) {
    let node = probe(driver, common());
    let call =
        |from: &str, to: &str| node.http(&format!("/probe/{from}/call/{to}.probe.object.internal/echo"));
    let began = Instant::now();
    let both = (0..1000).map(|number| if number % 2 == 0 { call("ada", "bob") } else { call("bob", "ada") });
    let [done, wrong, ended] = at_once(&node, &both.collect::<Vec<_>>());
    println!("{done} answered, {ended} ended, in {:?}", began.elapsed());
    assert_eq!((done + ended, wrong), (1000, 0));
    // Both wait for one another whenever both are asked: whoever would close the circle hears 508; the others are served.
    let circles = node.number("object_circles");
    assert!(circles > 0 && done > 0, "{circles} circles, {done} answered");
    let no_place = node.number("limit_object_messages") + node.number("hops_shed");
    assert_eq!(ended as u64, circles + no_place, "508, or no place to wait");
    for name in ["ada", "bob"] {
        assert_eq!(ask(&node, name, "status/204").0, 204, "they serve on");
    }
    node.finish();
}

/// An object on another core than that of this client; with one core there is no other.
fn apart(node: &Node, name: &str) -> Client {
    let mut client = Client::connect(node.listener(0)).unwrap();
    let before = node.numbers("requests");
    assert_eq!(client.ask(name, "put/k/v", "").unwrap().0, 200);
    let mut other = None;
    wait_until("the request is counted", || {
        let after = node.numbers("requests");
        let of_client = before.iter().zip(&after).position(|(before, after)| before < after);
        other = of_client.map(|core| (core + 1) as u64 % after.len() as u64);
        other.is_some()
    });
    let other = other.unwrap();
    if shown(node, name)["core"] != other {
        assert_eq!(move_to(node, name, other).0, 200);
    }
    client
}

fn accepted_turns_finish_when_the_node_stops(driver: Driver) {
    let node = probe(driver, common());
    let mut client = apart(&node, "ada");
    // Of this one the client goes away. A turn goes on without him.
    let mut gone = apart(&node, "bob");
    let turns = node.number("object_turns");
    client.send("ada", "sleep-put/1500/slow/done", "").unwrap();
    gone.send("bob", "sleep-put/2500/slow/done", "").unwrap();
    wait_until("the turns have begun", || node.number("object_turns") == turns + 2);
    drop(gone);
    node.signal(libc::SIGTERM);
    assert_eq!(client.receive(), Some((200, "put".to_owned())), "who waits for an object has its answer");
    assert!(node.wait().success());
    assert!(!node.log().contains("drain.deadline"), "{}", node.log());
    let node = node.restart();
    for name in ["ada", "bob"] {
        assert_eq!(ask(&node, name, "get/slow"), (200, "done".to_owned()), "{name}");
    }
    node.finish();
}

fn a_turn_that_does_not_end_is_cut_at_the_deadline(driver: Driver) {
    let node = probe(driver, format!("{}[shutdown]\ndrain = \"1s\"\n", common()));
    let mut client = apart(&node, "ada");
    let turns = node.number("object_turns");
    client.send("ada", "sleep-put/50000/slow/done", "").unwrap();
    wait_until("the turn has begun", || node.number("object_turns") == turns + 1);
    node.signal(libc::SIGTERM);
    assert!(node.wait().success());
    assert!(node.log().contains("drain.deadline"), "{}", node.log());
    assert_eq!(client.receive(), None);
    let node = node.restart();
    assert_eq!(ask(&node, "ada", "get/slow"), (200, "nothing".to_owned()), "all or nothing");
    node.finish();
}
