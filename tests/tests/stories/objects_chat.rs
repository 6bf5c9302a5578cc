//! The chat room of the examples, in a browser: two people who speak while their room moves, is evicted and deployed anew.

use std::process::Command;

use berth_tests::chromium::Browser;
use berth_tests::clients::run;
use berth_tests::node::{Driver, Node, Plan, binary, wait_until};
use berth_tests::on_both_drivers;
use berth_tests::workers::example;
use serde_json::{Value, json};

use crate::common;

on_both_drivers!(["chromium", "websockets"]; two_people_talk_while_their_room_moves_and_is_deployed_anew);

/// What each of the two says.
const EACH: usize = 40;

fn berth(node: &Node, args: &[&str]) -> String {
    let admin = format!("http://{}", node.admin());
    let mut berth = Command::new(binary());
    berth.args(args).args(["--admin", &admin]).current_dir(example("chat")).env_remove("CARGO_TARGET_DIR");
    run(&mut berth).ok()
}

/// Counts what happens to the sockets of a page. Put in before its own script opens one.
const WATCH: &str = "(() => {
    window.opened = window.ended = 0;
    const Real = WebSocket;
    window.WebSocket = class extends Real {
        constructor(...all) {
            super(...all);
            this.addEventListener('open', () => window.opened++);
            this.addEventListener('close', () => window.ended++);
        }
    };
})()";

const LINES: &str = "[...document.querySelectorAll('#messages li')]
    .map(line => (line.className || 'sent') + ' ' + line.textContent)";

fn say(browser: &mut Browser, who: &str, text: &str) {
    let script = format!(
        "(() => {{ document.getElementById('text').value = {}; document.getElementById('form').requestSubmit(); }})()",
        json!(text)
    );
    browser.run(who, &script);
}

fn enter(browser: &mut Browser, who: &str, url: &str) {
    browser.open(who, url);
    // The page's own socket is opened once more, with somebody who counts.
    browser.run(who, WATCH);
    browser.run(who, &format!("(() => {{ const name = document.getElementById('name'); name.value = '{who}'; name.onchange(); }})()"));
    wait_until("the socket is open", || browser.run(who, "opened") == json!(1));
}

fn lines(browser: &mut Browser, who: &str) -> Vec<String> {
    let Value::Array(lines) = browser.run(who, LINES) else { panic!("no lines") };
    lines.into_iter().map(|line| line.as_str().unwrap().to_owned()).collect()
}

fn two_people_talk_while_their_room_moves_and_is_deployed_anew(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    assert!(berth(&node, &["deploy", "--no-build"]).contains("version 1"));
    let mut browser = Browser::start(node.folder(), &["--ignore-certificate-errors", "--disable-quic"]);
    // One comes by HTTP/1.1, the other by HTTP/2.
    enter(&mut browser, "ada", &format!("http://chat.localhost:{}/lobby", node.listener(0).port()));
    enter(&mut browser, "bob", &format!("https://chat.localhost:{}/lobby/", node.listener(1).port()));
    let mut both_say = |number: usize| {
        for who in ["ada", "bob"] {
            say(&mut browser, who, &format!("{who} says {number}"));
        }
    };
    both_say(0);
    let mut id = None;
    wait_until("the room has written something", || {
        let listed: Value = serde_json::from_str(&berth(&node, &["objects", "list", "--json"])).unwrap();
        id = listed["objects"][0]["id"].as_str().map(str::to_owned);
        id.is_some()
    });
    let id = id.unwrap();
    for number in 1..EACH {
        both_say(number);
        match number % 10 {
            2 => move_on(&node, &id),
            5 => drop(berth(&node, &["objects", "evict", &id])),
            // The same code, and another version of its zone: with a variable, so that the class is another one.
            8 => drop(redeploy(&node, number)),
            _ => {}
        }
    }
    let spoken = 2 * EACH;
    for who in ["ada", "bob"] {
        wait_until("all is heard", || {
            lines(&mut browser, who).iter().filter(|line| line.starts_with("sent ")).count() == spoken
        });
    }
    let (first, second) = (lines(&mut browser, "ada"), lines(&mut browser, "bob"));
    assert_eq!(first, second, "both have heard the same, in the same order");
    for who in ["ada", "bob"] {
        let own: Vec<&String> =
            first.iter().filter(|line| line.starts_with(&format!("sent {who}"))).collect();
        let expected: Vec<String> =
            (0..EACH).map(|number| format!("sent {who}{who} says {number}")).collect();
        assert_eq!(own, expected.iter().collect::<Vec<_>>(), "nothing is lost, doubled or out of order");
        assert_eq!(
            browser.run(who, "[opened, ended, socket.readyState]"),
            json!([1, 0, 1]),
            "{who}: no socket closed"
        );
    }
    assert!(node.number("objects_started") > 4, "by more than one instance");
    drop(browser);
    node.finish();
}

/// Moves the room to the next core, if there are two.
fn move_on(node: &Node, id: &str) {
    let shown: Value = serde_json::from_str(&berth(node, &["objects", "show", id, "--json"])).unwrap();
    let (core, cores) = (shown["core"].as_u64().unwrap() as usize, node.numbers("object_turns").len());
    if cores > 1 {
        berth(node, &["objects", "move", id, "--to", &((core + 1) % cores).to_string()]);
    }
}

/// Deploys the room with another variable.
fn redeploy(node: &Node, number: usize) -> String {
    let project = example("chat");
    let text = std::fs::read_to_string(project.join("berth.toml")).unwrap();
    let text = text.replace("routes =", &format!("env = {{ ROUND = \"{number}\" }}\nroutes ="));
    let file = node.folder().join("berth.toml");
    let component = project.join("target/wasm32-wasip2/release/chat.wasm");
    let text = text.replace("target/wasm32-wasip2/release/chat.wasm", &component.display().to_string());
    std::fs::write(&file, text).unwrap();
    berth(node, &["deploy", "--no-build", &file.display().to_string()])
}
