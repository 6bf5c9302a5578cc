//! The examples of objects beyond the counter, the template of classes in JavaScript, and what its SDK promises, on its engine.

use std::path::Path;

use berth_tests::clients::curl;
use berth_tests::node::{Driver, Node, Plan, wait_until};
use berth_tests::workers::example;
use berth_tests::{on_both_drivers, once};
use serde_json::Value;

use crate::common;
use crate::examples::{ask, berth, deploy, made_with};

on_both_drivers!(["curl"]; the_limiter_lets_a_burst_pass_and_no_restart_fills_it);
once!(["curl", "inbox"]; an_inbox_keeps_what_it_was_sent);
once!(["curl", "inbox"]; the_template_of_classes_in_javascript_builds_with_one_command_and_counts);
once!(["curl", "inbox"]; the_sdk_in_javascript_keeps_its_promises_on_its_engine);

const LIMITER: &str = "limiter.localhost";

/// A bucket that gets no new token while the story lasts, however slow the machine is.
fn deploy_limiter(node: &Node) {
    let (from, to) = (example("limiter"), node.folder().join("limiter"));
    std::fs::create_dir(&to).unwrap();
    std::os::unix::fs::symlink(from.join("target"), to.join("target")).unwrap();
    let text = std::fs::read_to_string(from.join("berth.toml")).unwrap();
    let changed = text.replace(r#"EVERY_MS = "10000""#, r#"EVERY_MS = "3600000""#);
    assert_ne!(changed, text, "it says how often");
    std::fs::write(to.join("berth.toml"), changed).unwrap();
    deploy(node, &to);
}

fn the_limiter_lets_a_burst_pass_and_no_restart_fills_it(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    deploy_limiter(&node);
    let come = |node: &Node, key: &str| ask(node, LIMITER, "/", &["--header", &format!("x-api-key: {key}")]);
    for round in 0..5 {
        let said = come(&node, "ada");
        assert!(said.starts_with("HTTP/1.1 200") && said.ends_with("welcome\n"), "{round}: {said}");
    }
    let refused = |said: &str| {
        assert!(said.starts_with("HTTP/1.1 429") && said.ends_with("too many requests\n"), "{said}");
        let after = said.lines().find_map(|line| line.strip_prefix("retry-after: ")).expect("it says when");
        let after: u32 = after.trim().parse().expect("seconds");
        assert!((1..=3600).contains(&after), "{after}");
    };
    refused(&come(&node, "ada"));
    assert!(come(&node, "bob").starts_with("HTTP/1.1 200"), "another key has a bucket of its own");
    let node = node.kill_and_restart();
    refused(&come(&node, "ada"));
    assert!(come(&node, "bob").starts_with("HTTP/1.1 200"), "and what was in it");
    assert!(ask(&node, LIMITER, "/", &[]).starts_with("HTTP/1.1 401"));
    assert!(come(&node, "no.label").starts_with("HTTP/1.1 400"));
    node.finish();
}

fn an_inbox_keeps_what_it_was_sent() {
    let host = "inbox.localhost";
    let node = Plan::new(Driver::Auto, common()).start();
    deploy(&node, &example("inbox"));
    let put = |node: &Node, text: &str| ask(node, host, "/bob", &["--data", text, "--header", "x-from: ada"]);
    assert!(put(&node, "see you at eight").starts_with("HTTP/1.1 201"));
    let said = put(&node, "grüße, €5");
    assert!(said.starts_with("HTTP/1.1 201") && said.ends_with(r#"{"number":2}"#), "{said}");
    let node = node.kill_and_restart();
    let said = ask(&node, host, "/bob?limit=5", &[]);
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-type: application/json"), "{head}");
    let inbox: Value = serde_json::from_str(body).unwrap();
    let texts: Vec<_> =
        inbox["messages"].as_array().unwrap().iter().map(|message| &message["text"]).collect();
    assert_eq!(texts, ["grüße, €5", "see you at eight"], "the latest one first");
    assert_eq!((&inbox["inbox"], &inbox["messages"][0]["from"]), (&"bob".into(), &"ada".into()));
    let long = "x".repeat(4097);
    for flags in [&["--data", ""][..], &["--data", &long], &["--url-query", "limit=0"]] {
        assert!(ask(&node, host, "/bob", flags).starts_with("HTTP/1.1 400"), "{flags:?}");
    }
    assert!(ask(&node, host, "/bob", &["--request", "PUT"]).contains("allow: GET, POST, DELETE"));
    assert!(ask(&node, host, "/bob", &["--request", "DELETE"]).starts_with("HTTP/1.1 204"));
    assert!(ask(&node, host, "/bob", &[]).ends_with(r#"{"inbox":"bob","messages":[]}"#));
    node.finish();
}

fn the_template_of_classes_in_javascript_builds_with_one_command_and_counts() {
    let (_folder, project) = made_with("js-object", "inbox");
    let said = berth(&project, &["build"]);
    assert!(said.contains("class.wasm"), "{said}");
    let node = Plan::new(Driver::Auto, common()).start();
    deploy(&node, &project);
    let count = |method: &str| ask(&node, "inbox.localhost", "/counter/visits", &["--request", method]);
    assert!(count("GET").ends_with("\r\n\r\n0"));
    assert!(count("POST").ends_with("\r\n\r\n1"));
    assert!(count("POST").ends_with("\r\n\r\n2"));
    assert!(count("GET").ends_with("\r\n\r\n2"));
    assert!(count("DELETE").starts_with("HTTP/1.1 204"));
    assert!(count("GET").ends_with("\r\n\r\n0"));
    assert!(count("PUT").starts_with("HTTP/1.1 405"));
    node.finish();
}

/// The class of checks in a project of the template.
fn build_checks(project: &Path) {
    std::fs::write(project.join("src/object.js"), include_str!("../../guests/javascript/object.js")).unwrap();
    let settings = std::fs::read_to_string(project.join("berth.toml")).unwrap();
    // What the node itself does for a guest counts as well, and the node of the tests is not optimised.
    let limits = "env = { GREETING = \"ahoy\" }\nlimits = { cpu = \"10s\" }\nversion = 1";
    let changed = settings.replace("/counter/:name", "/checks/:name/*").replace("version = 1", limits);
    std::fs::write(project.join("berth.toml"), changed).unwrap();
    berth(project, &["build"]);
}

fn the_sdk_in_javascript_keeps_its_promises_on_its_engine() {
    let (_folder, project) = made_with("js-object", "inbox");
    build_checks(&project);
    let node = Plan::new(Driver::Auto, common()).start();
    deploy(&node, &project);
    let host = "host: inbox.localhost";
    let said =
        |path: &str, flags: &[&str]| curl(&[&["--header", host], flags, &[&node.http(path)]].concat()).ok();
    assert_eq!(said("/checks/one/check", &["--data", "grüße €"]), "good");
    let turns = || said("/checks/one/turns", &[]).parse::<u32>().unwrap();
    wait_until("an instance lasts from turn to turn", || turns() + 1 == turns());
    for path in ["throw", "reject", "hang", "wrong"] {
        let answer = ask(&node, "inbox.localhost", &format!("/checks/one/{path}?why=here"), &[]);
        assert!(answer.starts_with("HTTP/1.1 500") && !answer.contains("as asked"), "{path}: {answer}");
        assert_eq!(turns(), 1, "{path} ends the instance");
    }
    let words = [
        "RangeError: as asked: here",
        "nobody hears this",
        "nothing is left to settle",
        "instead of a Response",
    ];
    wait_until("the reasons are logged", || words.iter().all(|words| node.log().contains(words)));
    assert!(said("/checks/one/alarm", &[]).is_empty());
    wait_until("the alarm rings", || said("/checks/one/rang", &[]) == "ring a payload 1 true");
    node.finish();
}
