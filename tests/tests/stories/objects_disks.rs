//! Objects on disks that are damaged, full or slow: what was acknowledged is there or told to be lost, by object, and the
//! rest goes on.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command};

use berth_tests::node::{Driver, Node, Plan, wait_until};
use berth_tests::objects::{Client, ask, deploy_probe, probe, shown};
use berth_tests::on_both_drivers;
use serde_json::{Value, json};

use crate::common;

on_both_drivers!([]; a_changed_byte_of_the_log_is_told_by_object_and_the_others_serve,
    a_changed_page_is_told_by_object_and_never_given_out, a_torn_tail_is_no_damage);
on_both_drivers!(["root", "unshare"]; a_full_disk_refuses_writes_and_goes_on_when_there_is_room);
on_both_drivers!(["root", "strace"]; while_a_disk_takes_its_time_answers_wait_and_nothing_else_does);

/// Bytes of a file that are looked at: stories write little.
const LOOKED_AT: u64 = 8 << 20;

/// Where a text is in the files of a store whose names begin like this.
fn find(node: &Node, files: &str, text: &str) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(node.folder().join("state/objects/data")).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_str().unwrap().starts_with(files) {
            continue;
        }
        let mut bytes = Vec::new();
        File::open(&path).unwrap().take(LOOKED_AT).read_to_end(&mut bytes).unwrap();
        let places = bytes.windows(text.len()).enumerate().filter(|(_, window)| *window == text.as_bytes());
        found.extend(places.map(|(at, _)| (path.clone(), at as u64)));
    }
    found
}

const LOG: &str = "log";
const ENGINE: &str = "engine.redb";

fn change(path: &PathBuf, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

/// A node that was killed when this value of the object `ada`, and behind it one of `bob`, were in the log and not yet in
/// the engine.
fn killed_with(driver: Driver, value: &str, behind: &str) -> Node {
    let mut node = probe(driver, common());
    loop {
        assert_eq!(ask(&node, "ada", "put/before/there").0, 200);
        for (name, value) in [("ada", value), ("bob", behind)] {
            assert_eq!(ask(&node, name, &format!("put/k/{value}")), (200, "put".to_owned()));
        }
        node.signal(libc::SIGKILL);
        node.wait();
        if find(&node, ENGINE, value).is_empty() {
            return node;
        }
        // The engine was brought forward just then. Once more, with a log that begins anew.
        node = node.restart();
    }
}

fn a_changed_byte_of_the_log_is_told_by_object_and_the_others_serve(driver: Driver) {
    let node = killed_with(driver, "the-one-that-is-hit", "another");
    let places = find(&node, LOG, "the-one-that-is-hit");
    let (path, at) = places.last().expect("it was acknowledged, so it is there");
    change(path, at + 3, b"X");
    let mut node = node.restart();
    for start in 1..=2 {
        let told = match start {
            1 => node.log_line("objects.damaged")["damage"].as_str().unwrap().to_owned(),
            _ => String::new(),
        };
        assert!(start > 1 || told.contains("object: Some"), "{told}");
        let (status, said) = ask(&node, "ada", "get/k");
        assert_eq!(status, 500, "{said}");
        assert!(!said.contains("hit"), "what is damaged is not given out: {said}");
        assert_eq!(ask(&node, "ada", "put/k/anew").0, 500, "nothing is written over what is lost");
        let failed = node.log_line("object.start: failed");
        assert!(failed["reason"].as_str().unwrap().contains("is damaged"), "{failed}");
        assert_eq!(ask(&node, "bob", "get/k"), (200, "another".to_owned()));
        assert_eq!(ask(&node, "eve", "put/k/new").0, 200);
        let (status, said) = node.get("/v1/objects?class=Probe");
        assert_eq!(status, 200, "{said}");
        let listed: Value = serde_json::from_str(&said).unwrap();
        let damaged: Vec<&Value> =
            listed["objects"].as_array().unwrap().iter().filter(|object| object["damaged"] == true).collect();
        assert_eq!(damaged.len(), 1, "{said}");
        let id = damaged[0]["id"].as_str().unwrap();
        assert!(failed["object"].as_str().unwrap().contains(id), "{failed} is about {id}");
        let (status, said) = node.get(&format!("/v1/objects/{id}"));
        assert!(status == 200 && said.contains("\"damaged\":true"), "{said}");
        assert_eq!(shown(&node, "bob")["damaged"], false);
        // It stays so, whether it comes from the log or from the engine.
        node.assert_sound();
        node.signal(libc::SIGTERM);
        assert!(node.wait().success());
        node = node.restart();
    }
    node.finish();
}

fn a_torn_tail_is_no_damage(driver: Driver) {
    let node = killed_with(driver, "whole", "torn-off-by-the-power-cut");
    let places = find(&node, LOG, "torn-off-by-the-power-cut");
    let (path, at) = places.last().expect("it is there");
    // As a disk leaves it that has written the first half of what nobody was told of.
    change(path, at + 4, &[0; 4096]);
    let node = node.restart();
    assert!(!node.log().contains("objects.damaged"), "{}", node.log());
    assert_eq!(ask(&node, "ada", "get/k"), (200, "whole".to_owned()));
    let (status, said) = ask(&node, "bob", "get/k");
    assert!(status == 200 && !said.contains("torn"), "{said}");
    assert_eq!(ask(&node, "bob", "put/k/again").0, 200);
    let node = node.kill_and_restart();
    assert_eq!(ask(&node, "bob", "get/k"), (200, "again".to_owned()));
    node.finish();
}

fn a_changed_page_is_told_by_object_and_never_given_out(driver: Driver) {
    let node = probe(driver, common());
    let mut client = Client::connect(node.listener(0)).unwrap();
    let value = |number: u32| format!("value-{number}-{}", "x".repeat(3000));
    for number in 0..8 {
        let put = client.ask(&format!("object-{number}"), "put-body/k", &value(number));
        assert_eq!(put, Some((200, "put".to_owned())));
    }
    drop(client);
    let hit = shown(&node, "object-5")["id"].as_str().unwrap().to_owned();
    node.signal(libc::SIGTERM);
    assert!(node.wait().success());
    let places = find(&node, ENGINE, "value-5-xxx");
    assert!(!places.is_empty(), "all is in the engine after a stop");
    places.iter().for_each(|(path, at)| change(path, at + 20, b"y"));
    let node = node.restart();
    let mut right = 0;
    for number in 0..8 {
        let (status, said) = ask(&node, &format!("object-{number}"), "get/k");
        match status {
            200 => assert_eq!(said, value(number), "never another value"),
            400 => assert!(said.contains("unavailable"), "{said}"),
            _ => assert_eq!(status, 500, "{said}"),
        }
        assert!(number != 5 || status != 200, "its page is not what was written");
        right += u32::from(status == 200);
    }
    assert!(right >= 4, "a page holds few of them, and {right} of 8 are served");
    let log = node.log();
    let told = log.lines().any(|line| {
        line.contains(&hit) && (line.contains("object.unreadable") || line.contains("object.start"))
    });
    assert!(told, "told by object {hit}");
    assert_eq!(node.get("/v1/objects?class=Probe").0, 200);
    node.assert_sound();
    node.signal(libc::SIGTERM);
    assert!(node.wait().success());
    // The engine's library stops at what it cannot read with a panic, which is caught where it is called. Nobody else does.
    let log = node.log();
    let panics: Vec<&str> = log.lines().filter(|line| line.contains("panicked")).collect();
    assert!(panics.iter().all(|line| line.contains("redb")), "{panics:?}");
}

/// Room for two segments of the log, each reserved as a whole, and some more.
const DISK: &str = "size=180m";

/// A node whose objects are on a disk of their own, in a namespace of mounts that ends with it.
fn on_a_small_disk(driver: Driver) -> Node {
    let plan = Plan::new(driver, common());
    let folder = plan.folder().join("state/objects");
    let mount = format!("mount -t tmpfs -o {DISK} berth {0} && exec \"$0\" \"$@\"", folder.display());
    std::fs::create_dir_all(&folder).unwrap();
    let node = plan.through(&["unshare", "--mount", "--propagation", "private", "sh", "-c", &mount]).start();
    deploy_probe(&node, &json!({}));
    node
}

/// Puts values into an object until one is refused. Smaller ones fit in what is left: until there is room for none.
fn fill_up(node: &Node, name: &str) {
    for bytes in [1 << 20, 1 << 16, 1 << 12, 1 << 8, 1] {
        let mut tries = 0;
        let refused = loop {
            let (status, said) = ask(node, name, &format!("big-value/{bytes}"));
            tries += 1;
            match status {
                200 => assert!(tries < 200, "a full disk takes no more"),
                _ => break (status, said),
            }
        };
        assert_eq!(refused.0, 503, "{}", refused.1);
    }
}

fn a_full_disk_refuses_writes_and_goes_on_when_there_is_room(driver: Driver) {
    let node = on_a_small_disk(driver);
    let folder = node.folder().join("state/objects");
    let disk = PathBuf::from(format!("/proc/{}/root{}", node.pid(), folder.display()));
    let mut counted = 0;
    let mut count = |node: &Node| {
        let (status, said) = ask(node, "ada", "increment/n");
        if status == 200 {
            counted += 1;
            assert_eq!(said, counted.to_string(), "nothing that was refused is counted");
        }
        (status, counted)
    };
    assert_eq!(count(&node).0, 200);
    assert_eq!(ask(&node, "eve", "put/k/kept").0, 200);
    // Somebody else takes all the room that is not reserved.
    let mut filler = File::create(disk.join("filler")).unwrap();
    while filler.write_all(&[1; 1 << 16]).is_ok() {}
    while filler.write_all(&[1]).is_ok() {}
    fill_up(&node, "fat");
    wait_until("no write fits any more", || count(&node).0 == 503);
    assert!(node.number("object_commit_failures") > 0);
    let told = node.log_line("object.commit: failed");
    assert!(told["error"].as_str().unwrap().contains("disk is full"), "{told}");
    for _ in 0..5 {
        let (status, counted) = count(&node);
        assert_eq!(status, 503, "also of a fresh instance");
        assert_eq!(ask(&node, "ada", "get/n"), (200, counted.to_string()), "reads go on");
        assert_eq!(ask(&node, "eve", "get/k"), (200, "kept".to_owned()));
    }
    drop(filler);
    std::fs::remove_file(disk.join("filler")).unwrap();
    wait_until("it goes on without a restart", || count(&node).0 == 200);
    for name in ["ada", "eve", "bob"] {
        assert_eq!(ask(&node, name, "put/k/after"), (200, "put".to_owned()));
    }
    let (status, counted) = count(&node);
    assert_eq!((status, ask(&node, "ada", "get/n").1), (200, counted.to_string()));
    node.finish();
}

/// Makes each sync of a node's log take a minute, until it is dropped: strace holds up the thread that has asked the
/// kernel for it.
struct SlowDisk(Child);

impl SlowDisk {
    fn of(node: &Node) -> Self {
        let threads = node.threads();
        let (thread, _) = threads.iter().find(|(_, name)| name == "store-commit").expect("the store runs");
        let inject = [
            "-qqq",
            "-o",
            "/dev/null",
            "-e",
            "trace=fdatasync",
            "-e",
            "inject=fdatasync:delay_exit=60000000",
        ];
        let strace = Command::new("strace").args(["-p", &thread.to_string()]).args(inject).spawn().unwrap();
        let status = format!("/proc/{}/task/{thread}/status", node.pid());
        let this = Self(strace);
        wait_until("strace has the thread", || {
            let status = std::fs::read_to_string(&status).unwrap();
            !status.lines().any(|line| line.trim_end() == "TracerPid:\t0")
        });
        this
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        // SAFETY: kill has no memory effects; the child was not waited for, so the id is its own.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGINT) };
        let _ = self.0.wait();
    }
}

fn while_a_disk_takes_its_time_answers_wait_and_nothing_else_does(driver: Driver) {
    let node = probe(driver, common());
    for name in ["ada", "bob"] {
        assert_eq!(ask(&node, name, "increment/n"), (200, "1".to_owned()));
    }
    let slow = SlowDisk::of(&node);
    let connect = |_| Client::connect(node.listener(0)).unwrap();
    // More than may run ahead of the disk and wait, so that some are refused, at once.
    let mut clients: Vec<Client> = (0..400).map(connect).collect();
    clients.iter_mut().for_each(|client| client.send("ada", "increment/n", "").unwrap());
    wait_until("some are refused", || node.number("limit_object_messages") > 0);
    for _ in 0..50 {
        assert_eq!(ask(&node, "bob", "get/n"), (200, "1".to_owned()), "who writes nothing waits for nothing");
        assert_eq!(ask(&node, "eve", "get/n"), (200, "nothing".to_owned()), "nor does who starts");
    }
    let early = clients.iter().filter(|client| client.peek() == Some(200)).count();
    assert_eq!(early, 0, "nothing was answered before its sync");
    drop(slow);
    let answers: Vec<_> =
        clients.iter_mut().map(|client| client.receive().expect("it is answered")).collect();
    let (done, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|(status, _)| *status == 200);
    assert!(refused.iter().all(|(status, _)| *status == 503), "{refused:?}");
    let places = node.number("limit_object_messages");
    assert_eq!(refused.len() as u64, places, "none was refused but those for whom there was no place");
    let counted = (done.len() + 1).to_string();
    assert_eq!(ask(&node, "ada", "get/n"), (200, counted), "none is lost, none is counted twice");
    node.finish();
}
