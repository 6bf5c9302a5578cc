//! Objects as files: one that goes to another node, one that takes the place of another, and all of a node's in a snapshot.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Instant;

use berth_tests::clients::{self, Outcome as Told, run};
use berth_tests::history::models::{Counter, CounterInput};
use berth_tests::history::{Operation, Outcome, checks, linearizable};
use berth_tests::node::{Driver, Folder, Node, Plan, binary, wait_until};
use berth_tests::objects::{deploy_probe, probe};
use berth_tests::workers::{deploy, object_guest, upload};
use berth_tests::{is_root_or_skip, on_both_drivers, once};
use serde_json::{Value, json};

use crate::common;
use crate::objects::{CLIENTS, ask, ask_probe, deploy_counter, increment, node};

on_both_drivers!(["curl"]; an_object_leaves_under_load_and_is_the_same_on_another_node,
    an_object_that_lives_is_replaced_and_nobody_is_refused_or_told_of_the_old_one_afterwards,
    a_snapshot_under_load_has_all_that_was_acknowledged_before);
once!(["curl"]; an_object_that_holds_its_turn_is_not_replaced, an_import_says_why_it_is_refused_and_changes_nothing, a_restore_says_why_it_is_refused);
once!(["curl", "unshare"]; a_snapshot_finds_no_room_and_the_node_goes_on);

/// `berth objects` of a node.
fn berth(node: &Node, words: &[&str]) -> Told {
    clients::berth(node, &[&["objects"], words].concat())
}

/// What the command says as JSON.
fn told(node: &Node, words: &[&str]) -> Value {
    let said = berth(node, &[words, &["--json"]].concat()).ok();
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// The command refuses, in these words.
fn refused(node: &Node, words: &[&str], why: &str) {
    let said = berth(node, words);
    assert!(said.code == 1 && said.stderr.contains(why), "{words:?} is refused with `{why}`: {said:?}");
}

/// The object of this name.
fn found(node: &Node, name: &str) -> Value {
    let listed = told(node, &["list"]);
    let all = listed["objects"].as_array().unwrap();
    all.iter().find(|object| object["name"] == name).unwrap_or_else(|| panic!("{name}: {listed}")).clone()
}

fn id(node: &Node, name: &str) -> String {
    found(node, name)["id"].as_str().unwrap().to_owned()
}

fn value(node: &Node, name: &str) -> u64 {
    ask(node, "GET", name).parse().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Clients that count until they are stopped, at the latest when the story fails.
struct Load<'scope> {
    clients: Vec<ScopedJoinHandle<'scope, Vec<Operation<Counter>>>>,
    stop: &'scope AtomicBool,
}

impl<'scope> Load<'scope> {
    fn start(
        scope: &'scope Scope<'scope, '_>,
        stop: &'scope AtomicBool,
        client: impl Fn(usize) -> Vec<Operation<Counter>> + Send + Copy + 'scope,
    ) -> Self {
        let clients = (0..CLIENTS).map(|n| scope.spawn(move || client(n))).collect();
        Self { clients, stop }
    }

    /// What came of each client's requests.
    fn end(mut self) -> Vec<Vec<Operation<Counter>>> {
        self.stop.store(true, Relaxed);
        self.clients.drain(..).map(|client| client.join().unwrap()).collect()
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

fn an_object_leaves_under_load_and_is_the_same_on_another_node(driver: Driver) {
    let (one, two, folder) = (node(driver), node(driver), Folder::new());
    let file = folder.path().join("ada.object");
    let (clock, stop) = (Instant::now(), AtomicBool::new(false));
    let address = one.listener(0);
    assert_eq!(ask(&one, "POST", "ada"), "1");
    let id_there = id(&one, "ada");
    std::thread::scope(|scope| {
        let load = Load::start(scope, &stop, |_| increment(address, "ada", clock, &stop));
        for round in 0..5 {
            let before = value(&one, "ada");
            wait_until("clients count", || value(&one, "ada") > before + 20);
            let before = value(&one, "ada");
            let said = berth(&one, &["export", &id_there, "-o", text(&file)]).ok();
            let after = value(&one, "ada");
            assert!(said.contains(&id_there) && said.contains("ada.object"), "{said}");
            let words = ["import", text(&file), "--replace"];
            let imported = told(&two, if round == 0 { &words[..2] } else { &words });
            assert_eq!((&imported["name"], &imported["replaced"]), (&"ada".into(), &(round > 0).into()));
            let there = value(&two, "ada");
            assert!((before..=after).contains(&there), "{before} <= {there} <= {after}");
        }
        load.end();
    });
    let standard = berth(&one, &["export", &id_there, "-o", "-"]);
    assert_eq!((standard.code, &standard.stdout[..8]), (0, "BERTHBUN"));
    berth(&one, &["export", &id_there, "-o", text(&file)]).ok();
    berth(&two, &["import", text(&file), "--replace"]).ok();
    assert_eq!(value(&two, "ada"), value(&one, "ada"));
    let (here, there) = (found(&two, "ada"), found(&one, "ada"));
    assert_eq!([&here["bytes"], &here["keys"]], [&there["bytes"], &there["keys"]]);
    assert_ne!(here["id"], there["id"], "each node has a key of its own for names");
    assert_eq!(told(&two, &["list"])["objects"].as_array().unwrap().len(), 1, "its name leads to it");
    assert_eq!(ask(&two, "POST", "ada").parse::<u64>().unwrap(), value(&one, "ada") + 1);
    one.finish();
    two.finish();

    let (one, two) = (probe(driver, common()), probe(driver, common()));
    let due = "99999999999999";
    for subject in ["fill/key-/40/1000", "put/name/value", &format!("alarm/later/{due}")] {
        ask_probe(&one, "bob", subject);
    }
    berth(&one, &["export", &id(&one, "bob"), "-o", text(&file)]).ok();
    berth(&two, &["import", text(&file)]).ok();
    for subject in ["scan/-/-/up/100", "usage", "alarms", "get/name"] {
        let said = ask_probe(&one, "bob", subject);
        assert!(!said.is_empty() && said == ask_probe(&two, "bob", subject), "{subject}: {said}");
    }
    assert!(ask_probe(&two, "bob", "alarms").contains(due));
    assert!(ask_probe(&two, "bob", "who").contains("bob"), "it knows its name");
    one.finish();
    two.finish();
}

/// What the imported object has counted, and the one in whose place it comes never will.
const HIGH: u64 = 1_000_000;

/// Counts by an object of the tests' class until it is stopped. Each request is answered with a number.
fn count(node: &Node, clock: Instant, stop: &AtomicBool) -> Vec<Operation<Counter>> {
    let mut told = Vec::new();
    let now = || clock.elapsed().as_nanos() as u64;
    while !stop.load(Relaxed) {
        let invoked_at = now();
        let output = ask_probe(node, "ada", "increment/counter");
        let output = output.parse().unwrap_or_else(|_| panic!("no request is refused: {output}"));
        let outcome = Outcome::Ok { output, at: now() };
        told.push(Operation { input: CounterInput::Increment, invoked_at, outcome });
    }
    told
}

fn counted(node: &Node) -> u64 {
    ask_probe(node, "ada", "get/counter").parse().unwrap_or(0)
}

fn an_object_that_lives_is_replaced_and_nobody_is_refused_or_told_of_the_old_one_afterwards(driver: Driver) {
    let (one, two, folder) = (probe(driver, common()), probe(driver, common()), Folder::new());
    let file = folder.path().join("ada.object");
    ask_probe(&one, "ada", &format!("increment/counter/{HIGH}"));
    berth(&one, &["export", &id(&one, "ada"), "-o", text(&file)]).ok();
    one.finish();
    let (clock, stop) = (Instant::now(), AtomicBool::new(false));
    let now = || clock.elapsed().as_nanos() as u64;
    let (clients, asked_at, done_at) = std::thread::scope(|scope| {
        let load = Load::start(scope, &stop, |_| count(&two, clock, &stop));
        wait_until("it lives and counts", || counted(&two) > 100);
        let before = found(&two, "ada");
        let asked_at = now();
        let imported = told(&two, &["import", text(&file), "--replace"]);
        let done_at = now();
        assert_eq!((&imported["id"], &imported["replaced"]), (&before["id"], &true.into()));
        assert!(imported["epoch"].as_u64() > before["epoch"].as_u64(), "{imported} after {before}");
        wait_until("clients count on from what came", || counted(&two) > HIGH + 100);
        (load.end(), asked_at, done_at)
    });
    let output = |one: &Operation<Counter>| match &one.outcome {
        Outcome::Ok { output, at } => (*output, *at),
        other => panic!("{other:?}"),
    };
    let all = clients.into_iter().flatten();
    let (mut new, old): (Vec<_>, Vec<_>) = all.partition(|one| output(one).0 > HIGH);
    assert!(old.iter().all(|one| one.invoked_at < done_at), "who asks afterwards sees what came");
    assert!(new.iter().all(|one| output(one).1 > asked_at), "nobody sees it before");
    for one in &mut new {
        let (output, at) = output(one);
        one.outcome = Outcome::Ok { output: output - HIGH, at };
    }
    linearizable(&old).unwrap();
    linearizable(&new).unwrap();
    let last = counted(&two);
    checks::increments_add_up(&new, last - HIGH).unwrap();
    let two = two.kill_and_restart();
    assert_eq!(counted(&two), last, "and it is durable");
    two.finish();
}

fn an_object_that_holds_its_turn_is_not_replaced() {
    let (node, folder) = (probe(Driver::Auto, common()), Folder::new());
    let file = folder.path().join("ada.object");
    ask_probe(&node, "ada", "increment/counter");
    berth(&node, &["export", &id(&node, "ada"), "-o", text(&file)]).ok();
    ask_probe(&node, "ada", "increment/counter");
    let words = ["import", text(&file), "--replace"];
    std::thread::scope(|scope| {
        let turns = node.number("object_turns");
        // It ends when two wait for it: the import, and who comes when that was refused.
        let turn = scope.spawn(|| ask_probe(&node, "ada", "await-queue/2"));
        wait_until("it has its turn", || node.number("object_turns") > turns);
        let other = scope.spawn(|| berth(&node, &words));
        let said = [berth(&node, &words), other.join().unwrap()];
        let told = |why: &str| said.iter().filter(|one| one.code == 1 && one.stderr.contains(why)).count();
        assert_eq!([told("held it for too long"), told("somebody else")], [1, 1], "{said:?}");
        assert_eq!(ask_probe(&node, "ada", "get/counter"), "2", "it stays as it was");
        turn.join().unwrap();
    });
    berth(&node, &words).ok();
    assert_eq!(ask_probe(&node, "ada", "get/counter"), "1");
    node.finish();
}

fn an_import_says_why_it_is_refused_and_changes_nothing() {
    let folder = Folder::new();
    let one = node(Driver::Auto);
    let file = folder.path().join("ada.object");
    for _ in 0..3 {
        ask(&one, "POST", "ada");
    }
    let ada = id(&one, "ada");
    berth(&one, &["export", &ada, "-o", text(&file)]).ok();
    let good = std::fs::read(&file).unwrap();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let (mut bytes, path) = (good.clone(), folder.path().join("changed.object"));
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let refuse = |why: &str, path: PathBuf| {
        refused(&one, &["import", text(&path), "--replace"], why);
        assert_eq!(value(&one, "ada"), 3, "it stays as it was");
    };
    // All others: store/tests/snapshots.rs.
    for at in (17..good.len()).step_by(29) {
        refuse("damaged", with(&|bytes| bytes[at] ^= 0x20));
    }
    refuse("damaged", with(&|bytes| bytes.truncate(good.len() - 1)));
    refuse("damaged", with(&|bytes| bytes.push(0)));
    refuse("version 2", with(&|bytes| bytes[8] = 2));
    refuse("no such file", with(&|bytes| bytes[0] = b'x'));
    refuse("no such file", with(&|bytes| bytes.truncate(5)));
    refused(&one, &["import", text(&folder.path().join("nowhere"))], "No such file");
    refused(&one, &["import", text(&file)], "is here already");
    let unknown = ada.replacen("11", "10", 1);
    refused(&one, &["export", &unknown, "-o", text(&folder.path().join("no"))], "there is no object");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "a file that was not written is not there: {left:?}");
    let (status, said) = one.ask("POST", "/v1/objects?replace=perhaps", &good);
    assert!(status == 400 && said.contains("true or false"), "{said}");

    let two = Plan::new(Driver::Auto, common()).start();
    refused(&two, &["import", text(&file)], "has no class Counter");
    deploy_probe(&two, &json!({}));
    refused(&two, &["import", text(&file)], "has no class Counter");
    deploy_counter(&two);
    assert_eq!(told(&two, &["import", text(&file)])["keys"], 1);
    assert_eq!(value(&two, "ada"), 3);
    two.finish();
    one.finish();

    let (one, two) = (probe(Driver::Auto, common()), Plan::new(Driver::Auto, common()).start());
    ask_probe(&one, "bob", "fill/key-/10/1000");
    berth(&one, &["export", &id(&one, "bob"), "-o", text(&file)]).ok();
    let class = upload(&two, &object_guest());
    let limits = json!({"storage": "8KiB"});
    let zone = json!({"hosts": ["*"], "objects": {"Probe": {"script": class, "routes": ["/probe/:name"], "limits": limits}}});
    deploy(&two, "probes", &zone);
    refused(&two, &["import", text(&file)], "8192 at most");
    assert_eq!(told(&two, &["list"])["objects"], json!([]));
    one.finish();
    two.finish();
}

fn a_snapshot_under_load_has_all_that_was_acknowledged_before(driver: Driver) {
    let (one, folder) = (node(driver), Folder::new());
    let (backup, state) = (folder.path().join("backup"), folder.path().join("state"));
    let (names, address) = (["ada", "bob", "eve"], one.listener(0));
    let (clock, stop) = (Instant::now(), AtomicBool::new(false));
    let (clients, before, ids) = std::thread::scope(|scope| {
        let client = |n| increment(address, names[n % names.len()], clock, &stop);
        let load = Load::start(scope, &stop, client);
        let values = || names.map(|name| value(&one, name));
        wait_until("all count", || values().iter().all(|value| *value > 100));
        assert_eq!(told(&one, &["snapshot", text(&backup)])["number"], 1);
        let reached = values();
        wait_until("all count on", || values().iter().zip(reached).all(|(now, then)| *now > then + 50));
        let (before, ids) = (values(), names.map(|name| id(&one, name)));
        let said = berth(&one, &["snapshot", text(&backup)]).ok();
        assert!(said.contains("snapshot 2") && said.contains(text(&backup)), "{said}");
        let after = values();
        wait_until("the node goes on", || values().iter().zip(after).all(|(now, then)| *now > then + 50));
        one.signal(libc::SIGKILL);
        (load.end(), before, ids)
    });
    one.wait();
    drop(one);
    let restored = ["objects", "restore", text(&backup), "--state", text(&state)];
    let said = run(Command::new(binary()).args(restored)).ok();
    assert!(said.contains("snapshot 2"), "{said}");
    let two = Plan::new(driver, common()).state(&state).start();
    deploy_counter(&two);
    let mut counted = 0;
    for (at, name) in names.iter().enumerate() {
        let there = value(&two, name);
        let asked = clients.iter().skip(at).step_by(names.len()).map(Vec::len).sum::<usize>() as u64;
        assert!((before[at]..=asked).contains(&there), "{name}: {} <= {there} <= {asked}", before[at]);
        assert_eq!(id(&two, name), ids[at], "a name leads to the object that it led to");
        let object = found(&two, name);
        assert_eq!(object["keys"], 1, "{object}");
        assert_eq!(ask(&two, "POST", name), (there + 1).to_string());
        counted += 1;
    }
    assert_eq!(told(&two, &["list"])["objects"].as_array().unwrap().len(), counted);
    two.finish();
}

fn a_restore_says_why_it_is_refused() {
    let (one, folder) = (node(Driver::Auto), Folder::new());
    let (backup, state) = (folder.path().join("backup"), one.folder().join("state"));
    ask(&one, "POST", "ada");
    let restore = |state: &Path, why: &str| {
        let words = ["objects", "restore", text(&backup), "--state", text(state)];
        let said = run(Command::new(binary()).args(words));
        assert!(said.code == 1 && said.stderr.contains(why), "{said:?}");
    };
    restore(&state, "No such file");
    let (status, said) = one.ask("POST", "/v1/objects/snapshot", br#"{"folder": "backup"}"#);
    assert!(status == 400 && said.contains("whole path"), "{said}");
    berth(&one, &["snapshot", text(&backup)]).ok();
    restore(&state, "in use");
    one.signal(libc::SIGKILL);
    one.wait();
    restore(&state, "has something in it already");
    let one = one.restart();
    assert_eq!(value(&one, "ada"), 1, "it stays as it was");
    std::fs::remove_dir_all(&backup).unwrap();
    std::fs::create_dir(&backup).unwrap();
    restore(&folder.path().join("other"), "has no such snapshot");
    let empty = Plan::new(Driver::Auto, common()).start();
    refused(&empty, &["snapshot", text(&backup)], "nothing is deployed that has objects");
    one.finish();
    empty.finish();
}

fn a_snapshot_finds_no_room_and_the_node_goes_on() {
    if !is_root_or_skip("a_snapshot_finds_no_room_and_the_node_goes_on") {
        return;
    }
    let folder = Folder::new();
    let small = folder.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let script = format!("mount -t tmpfs -o size=64k none '{}' && exec \"$@\"", small.display());
    let plan = Plan::new(Driver::Auto, common());
    let one = plan.through(&["unshare", "--mount", "sh", "-c", &script, "sh"]).start();
    deploy_probe(&one, &json!({}));
    ask_probe(&one, "bob", "fill/key-/100/2000");
    refused(&one, &["snapshot", text(&small)], "No space left");
    assert_eq!(ask_probe(&one, "bob", "increment/counter"), "1");
    let elsewhere = folder.path().join("elsewhere");
    assert_eq!(told(&one, &["snapshot", text(&elsewhere)])["number"], 1);
    assert_eq!(ask_probe(&one, "bob", "increment/counter"), "2");
    one.finish();
}
