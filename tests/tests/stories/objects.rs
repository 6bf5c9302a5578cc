//! Objects, seen from outside: one owner whichever core a request reaches, and nothing lost that was acknowledged.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use berth_tests::clients::{curl, run};
use berth_tests::history::models::{Counter, CounterInput};
use berth_tests::history::{Operation, Outcome, checks, linearizable};
use berth_tests::node::{Driver, Node, Plan, binary, wait_until};
use berth_tests::objects::{Client, deploy_probe, probe};
use berth_tests::workers::{deploy, example, guests, upload};
use berth_tests::{on_both_drivers, once};
use serde_json::json;

use crate::common;

on_both_drivers!(["curl"]; an_object_answers_with_what_it_stored, one_owner_counts_for_clients_of_all_cores,
    what_was_acknowledged_survives_a_kill);
on_both_drivers!(["curl"]; an_object_sees_how_many_wait_for_it, a_new_version_of_a_class_takes_over_between_two_turns, a_worker_asks_an_object_of_its_zone, an_alarm_rings_also_after_a_kill,
    an_object_moves_while_clients_count_and_none_fails, an_alarm_that_fails_is_tried_again_and_told_how_often, objects_that_ask_one_another_end_all_the_same,
    what_an_object_logs_belongs_to_the_request_that_it_handles);
once!([]; what_a_class_must_have_is_said_when_it_is_deployed);

/// Clients at a time: more than one for each core, whatever the machine.
pub(crate) const CLIENTS: usize = 8;
/// Kills in one story. Each round goes on with what the rounds before it left.
const KILLS: usize = 3;

pub(crate) fn node(driver: Driver) -> Node {
    let node = Plan::new(driver, common()).start();
    deploy_counter(&node);
    node
}

/// The example, deployed as its reader does it.
pub(crate) fn deploy_counter(node: &Node) {
    let project = example("counter");
    assert!(project.is_dir(), "{} is not there; `cargo xtask guests` builds it", project.display());
    let admin = format!("http://{}", node.admin());
    let mut deploy = Command::new(binary());
    deploy
        .args(["deploy", "--no-build", "--admin", &admin])
        .current_dir(&project)
        .env_remove("CARGO_TARGET_DIR");
    let said = run(&mut deploy).ok();
    assert!(said.contains("objects.Counter") && said.contains("version 1"), "{said}");
}

const HOST: &str = "host: counter.localhost";

pub(crate) fn ask(node: &Node, method: &str, name: &str) -> String {
    curl(&["--request", method, "--header", HOST, &node.http(&format!("/counter/{name}"))]).ok()
}

/// The status and the number that the counter answers with; nothing, if the connection ended.
fn ask_counter(client: &mut Client, method: &str, name: &str) -> Option<(u16, Option<u64>)> {
    client.write(&format!("{method} /counter/{name} HTTP/1.1\r\n{HOST}\r\ncontent-length: 0\r\n\r\n"))?;
    let (status, body) = client.receive()?;
    Some((status, body.trim().parse().ok()))
}

/// Increments one counter until the connection ends or `stop`, and tells what came of each. Nothing is tried again.
pub(crate) fn increment(
    address: SocketAddr,
    name: &str,
    clock: Instant,
    stop: &AtomicBool,
) -> Vec<Operation<Counter>> {
    let mut told = Vec::new();
    let now = || clock.elapsed().as_nanos() as u64;
    let Some(mut client) = Client::connect(address) else { return told };
    while !stop.load(Relaxed) {
        let invoked_at = now();
        let answer = ask_counter(&mut client, "POST", name);
        let is_over = answer.is_none();
        let outcome = match answer {
            Some((200, Some(output))) => Outcome::Ok { output, at: now() },
            // Refused, or cut: it may have happened.
            _ => Outcome::Unknown,
        };
        told.push(Operation { input: CounterInput::Increment, invoked_at, outcome });
        if is_over {
            break;
        }
    }
    told
}

fn an_object_answers_with_what_it_stored(driver: Driver) {
    let node = node(driver);
    assert_eq!(ask(&node, "GET", "ada"), "0");
    assert_eq!(ask(&node, "POST", "ada"), "1");
    assert_eq!(ask(&node, "POST", "ada"), "2");
    assert_eq!(ask(&node, "GET", "ada"), "2");
    assert_eq!(ask(&node, "GET", "bob"), "0", "another name is another object");
    let node = node.kill_and_restart();
    assert_eq!((ask(&node, "GET", "ada").as_str(), ask(&node, "GET", "bob").as_str()), ("2", "0"));
    node.finish();
}

fn one_owner_counts_for_clients_of_all_cores(driver: Driver) {
    let node = node(driver);
    let (clock, stop, address) = (Instant::now(), AtomicBool::new(false), node.listener(0));
    let told: Vec<_> = std::thread::scope(|scope| {
        let client = || increment(address, "all", clock, &stop);
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        // Until requests have crossed; on one core none does.
        wait_until("requests cross to the owner", || {
            let counted = ask(&node, "GET", "all").parse::<u64>().unwrap();
            counted > 500
                && (node.numbers("hops_in").len() < 2 || node.numbers("hops_in").iter().sum::<u64>() > 0)
        });
        stop.store(true, Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let unanswered = told.iter().filter(|one| one.outcome == Outcome::Unknown).count();
    assert_eq!(unanswered, 0, "of {}", told.len());
    linearizable(&told).unwrap();
    checks::increments_add_up(&told, ask(&node, "GET", "all").parse().unwrap()).unwrap();
    node.finish();
}

fn what_was_acknowledged_survives_a_kill(driver: Driver) {
    let mut node = node(driver);
    let (clock, mut told) = (Instant::now(), Vec::new());
    for round in 0..KILLS {
        let (stop, address) = (AtomicBool::new(false), node.listener(0));
        std::thread::scope(|scope| {
            let client = || increment(address, "kill", clock, &stop);
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
            let before: u64 = ask(&node, "GET", "kill").parse().unwrap();
            wait_until("there is something to lose", || {
                ask(&node, "GET", "kill").parse::<u64>().unwrap() > before + 100 + 37 * round as u64
            });
            node.signal(libc::SIGKILL);
            told.extend(clients.into_iter().flat_map(|client| client.join().unwrap()));
        });
        node = node.kill_and_restart();
    }
    let value = ask(&node, "GET", "kill").parse().unwrap();
    checks::increments_add_up(&told, value).unwrap();
    checks::increments_differ(&told).unwrap();
    linearizable(&told).unwrap();
    node.finish();
}

/// The one object of the class, as the admin API shows it.
fn shown(node: &Node) -> serde_json::Value {
    let (status, said) = node.get("/v1/objects?class=Counter");
    let listed: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((status, listed["objects"].as_array().unwrap().len()), (200, 1), "{said}");
    let id = listed["objects"][0]["id"].as_str().unwrap();
    let (status, said) = node.get(&format!("/v1/objects/{id}"));
    assert_eq!(status, 200, "{said}");
    serde_json::from_str(&said).unwrap()
}

fn an_object_moves_while_clients_count_and_none_fails(driver: Driver) {
    let node = node(driver);
    let cores = node.numbers("objects_started").len() as u64;
    let (clock, stop, address) = (Instant::now(), AtomicBool::new(false), node.listener(0));
    assert_eq!(ask(&node, "POST", "all"), "1");
    let before = shown(&node);
    assert_eq!(
        (&before["name"], &before["zone"], &before["state"]),
        (&"all".into(), &"counter".into(), &"held".into())
    );
    let id = before["id"].as_str().unwrap().to_owned();
    let first = Operation {
        input: CounterInput::Increment,
        invoked_at: 0,
        outcome: Outcome::Ok { output: 1, at: 1 },
    };
    let mut told = vec![first];
    let counted: Vec<_> = std::thread::scope(|scope| {
        let client = || increment(address, "all", clock, &stop);
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        for round in 1..=20 {
            // Always to the other core; with one core there is no other.
            let to = (shown(&node)["core"].as_u64().unwrap() + 1) % cores;
            let body = json!({"core": to}).to_string();
            let (status, said) = node.ask("POST", &format!("/v1/objects/{id}/move"), body.as_bytes());
            match cores {
                1 => assert_eq!(status, 409, "{said}"),
                _ => assert_eq!((status, shown(&node)["core"].as_u64()), (200, Some(to)), "{said}"),
            }
            wait_until("clients are served there", || {
                ask(&node, "GET", "all").parse::<usize>().unwrap() > round * 20
            });
        }
        stop.store(true, Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    told.extend(counted);
    assert!(told.iter().all(|one| one.outcome != Outcome::Unknown), "no request failed");
    linearizable(&told).unwrap();
    let value: u64 = ask(&node, "GET", "all").parse().unwrap();
    assert_eq!(value, told.len() as u64);
    let after = shown(&node);
    assert_eq!(after["epoch"], before["epoch"], "one owner all the time");
    assert!(cores == 1 || after["why"].as_str().unwrap().contains("moved"), "{after}");
    assert_eq!(node.ask("POST", &format!("/v1/objects/{id}/evict"), b"").0, 204);
    assert_eq!(shown(&node)["state"], "absent");
    assert_eq!(ask(&node, "GET", "all"), value.to_string());
    assert!(shown(&node)["epoch"].as_u64() >= before["epoch"].as_u64());
    let (status, said) = node.ask("POST", &format!("/v1/objects/{id}/move"), br#"{"core": 99}"#);
    assert!(status == 400 && said.contains("0 to"), "{said}");
    node.finish();
}

fn a_worker_asks_an_object_of_its_zone(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let component =
        std::fs::read(example("counter").join("target/wasm32-wasip2/release/counter.wasm")).unwrap();
    let (front, counter) = (upload(&node, guests()), upload(&node, &component));
    let zone = json!({"hosts": ["*"], "workers": {"front": {"script": front, "routes": ["/*"]}},
        "objects": {"Counter": {"script": counter, "routes": ["/direct/:name"]}}});
    deploy(&node, "both", &zone);
    let through = |host: &str| {
        let path = format!("/ask?url=http://{host}/");
        curl(&["--write-out", " %{http_code}", &node.http(&path)]).ok()
    };
    assert_eq!(curl(&["--request", "POST", &node.http("/direct/ada")]).ok(), "1");
    let said = through("ada.counter.object.internal");
    assert!(said.starts_with('1') && said.ends_with(" 200"), "the same object, by its host: {said}");
    let said = through("ada.nothing.object.internal");
    assert!(!said.ends_with(" 200"), "there is no such class: {said}");
    node.finish();
}

fn an_object_sees_how_many_wait_for_it(driver: Driver) {
    let node = probe(driver, common());
    assert_eq!(ask_probe(&node, "ada", "queue"), "0");
    std::thread::scope(|scope| {
        // One turn at a time: while one waits for the others to come, they wait for it, and the first sees the rest.
        let first = scope.spawn(|| ask_probe(&node, "ada", "await-queue/4"));
        wait_until("it has its turn", || node.number("object_turns") == 2);
        let rest: Vec<_> = (0..4).map(|_| scope.spawn(|| ask_probe(&node, "ada", "queue"))).collect();
        assert_eq!(first.join().unwrap(), "4");
        let mut seen: Vec<String> = rest.into_iter().map(|asker| asker.join().unwrap()).collect();
        seen.sort_unstable();
        assert_eq!(seen, ["0", "1", "2", "3"]);
    });
    node.finish();
}

fn a_new_version_of_a_class_takes_over_between_two_turns(driver: Driver) {
    let node = probe(driver, common());
    assert_eq!(ask_probe(&node, "ada", "increment/counter"), "1");
    let turns = || ask_probe(&node, "ada", "turns").parse::<u32>().unwrap();
    let before = turns();
    deploy_probe(&node, &json!({"version": 1}));
    assert!(turns() > before, "what stays as it is goes on in the same instance");
    deploy_probe(&node, &json!({"version": 2}));
    assert_eq!(ask_probe(&node, "ada", "get/upgraded-from"), "1", "the next turn is the new version's");
    assert!(turns() <= before, "in a fresh instance");
    assert_eq!(node.number("objects_started"), 2);
    node.finish();
}

/// What an object of the class answers, or the node in its place: the worker that asks passes on what is said, and not the
/// status.
pub(crate) fn ask_probe(node: &Node, name: &str, subject: &str) -> String {
    curl(&[&node.http(&format!("/ask?url=http://{name}.probe.object.internal/{subject}"))]).ok()
}

fn now_ms() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()
}

fn an_alarm_rings_also_after_a_kill(driver: Driver) {
    let node = probe(driver, common());
    assert_eq!(ask_probe(&node, "ada", &format!("alarm/soon/{}", now_ms() + 300)), "set");
    wait_until("it rings", || node.number("object_alarms") == 1);
    let said = ask_probe(&node, "ada", "get/rang");
    assert!(said.contains("soon") && said.contains(" 1 soon"), "{said}");
    assert!(!ask_probe(&node, "ada", "alarms").contains("soon"), "it is gone");
    let due = now_ms() + 500;
    assert_eq!(ask_probe(&node, "bob", &format!("alarm/later/{due}")), "set");
    let node = node.kill_and_restart();
    wait_until("it rings on the next node", || node.number("object_alarms") == 1);
    let said = ask_probe(&node, "bob", "get/rang");
    assert!(said.contains(&format!("later {due} 1 later")), "{said}");
    node.finish();
}

fn an_alarm_that_fails_is_tried_again_and_told_how_often(driver: Driver) {
    let node = probe(driver, common());
    let due = now_ms();
    assert_eq!(ask_probe(&node, "ada", &format!("alarm/sync-trap/{due}")), "set");
    // Its turn stores the number of the attempt, makes that durable, and traps.
    wait_until("it is tried a third time", || {
        ask_probe(&node, "ada", "get/rang").contains(&format!("sync-trap {due} 3 "))
    });
    assert!(node.number("object_faults") >= 3);
    assert_eq!(node.number("object_alarms"), 0);
    assert_eq!(ask_probe(&node, "ada", "unalarm/sync-trap"), "cleared");
    node.finish();
}

fn what_an_object_logs_belongs_to_the_request_that_it_handles(driver: Driver) {
    let node = probe(driver, common());
    for _ in 0..2 {
        ask_probe(&node, "ada", "print/10");
    }
    let lines = node.log_lines("guest.line", 2);
    assert_eq!(node.number("objects_started"), 1);
    assert!(lines[0]["request"].is_string() && lines[0]["request"] != lines[1]["request"], "{lines:?}");
    node.finish();
}

fn objects_that_ask_one_another_end_all_the_same(driver: Driver) {
    let node = probe(driver, common());
    let host = |name: &str| format!("{name}.probe.object.internal");
    let said = ask_probe(&node, "ada", &format!("call/{}/status/204", host("bob")));
    assert_eq!(said, "", "one asks the other");
    let circle = format!("call/{}/call/{}/echo", host("bob"), host("ada"));
    let said = ask_probe(&node, "ada", &circle);
    assert!(said.contains("urn:berth:loop") && said.contains("508"), "the other asks back: {said}");
    // Both ways at once, from several clients: whoever closes a circle hears so, and all calls end.
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (from, to) = if client % 2 == 0 { ("ada", "bob") } else { ("bob", "ada") };
            let (node, subject) = (&node, format!("call/{}/echo", host(to)));
            scope.spawn(move || {
                for _ in 0..10 {
                    let said = ask_probe(node, from, &subject);
                    assert!(said.is_empty() || said.contains("urn:berth:loop"), "{said}");
                }
            });
        }
    });
    assert!(node.number("object_circles") > 0);
    node.finish();
}

fn what_a_class_must_have_is_said_when_it_is_deployed() {
    let node = Plan::new(Driver::Auto, common()).start();
    let worker = upload(&node, guests());
    let refused = |document: serde_json::Value, words: &str| {
        let (status, said) = node.ask("PUT", "/v1/zones/z", document.to_string().as_bytes());
        assert!(status == 400 && said.contains(words), "{words}: {status} {said}");
    };
    let class =
        |routes: &str| json!({"hosts": ["*"], "objects": {"Room": {"script": worker, "routes": [routes]}}});
    refused(class("/room/:id"), ":name");
    refused(class("/room/:name"), "objects.Room.script");
    let zone = json!({"hosts": ["*"], "workers": {"w": {"script": worker, "routes": ["/*"], "limits": {"storage": "1MiB"}}}});
    refused(zone, "workers.w.limits.storage");
    node.finish();
}
