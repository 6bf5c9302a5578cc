//! The program's commands, and what it tells about itself.

use std::collections::BTreeSet;
use std::process::Command;

use berth_tests::clients::{Outcome, curl, run};
use berth_tests::node::{Driver, Folder, Plan, binary};
use berth_tests::{on_both_drivers, once};

use crate::common;

on_both_drivers!([]; status_is_a_table_and_json, every_documented_metric_is_there_and_no_other);
on_both_drivers!(["curl"]; health_tells_the_truth, the_admin_api_answers_only_its_own_machine);
once!([]; the_reference_page_is_what_the_program_prints, what_is_not_built_yet_says_so, wrong_usage_exits_2,
    all_mistakes_of_a_file_are_told_at_once, a_missing_file_is_named, an_address_in_use_is_named,
    nobody_answers_at_the_admin_address);

fn berth(arguments: &[&str]) -> Outcome {
    run(Command::new(binary()).args(arguments).env_remove("BERTH_ADMIN"))
}

/// A page of docs.
fn page(name: &str) -> String {
    let path = format!("{}/../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

fn status_is_a_table_and_json(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let admin = format!("http://{}", node.admin());
    let text = berth(&["status", "--admin", &admin]).ok();
    assert!(text.starts_with("node story · berth "), "{text}");
    let plain = node.listener(0);
    for part in [
        &format!("listens http://{plain}"),
        "listens https://",
        "certificate localhost, story",
        driver.word(),
        "ready",
    ] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    let rows = text.lines().filter(|line| line.contains(driver.word())).count();
    assert_eq!(rows, node.status()["cores"].as_array().unwrap().len(), "{text}");
    let json = run(Command::new(binary()).args(["status", "--json"]).env("BERTH_ADMIN", &admin)).ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["node"], &json["ready"]), (&"story".into(), &true.into()));
    node.finish();
}

fn every_documented_metric_is_there_and_no_other(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    assert_eq!(node.reload(node.text()), "done"); // The counter of reloads begins with the first one.
    let (status, text) = node.get("/metrics");
    assert_eq!(status, 200);
    let documented: BTreeSet<String> = page("METRICS.md")
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned()))
        .collect();
    assert!(documented.len() > 50);
    let family = |line: &str| -> String {
        let name = line.split(['{', ' ']).next().unwrap();
        let plain = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        plain.unwrap_or(name).to_owned()
    };
    // What only an agent knows is told without a number until there is one.
    let told =
        text.lines().filter_map(|line| Some(line.strip_prefix("# HELP ")?.split(' ').next()?.to_owned()));
    let numbers = text.lines().filter(|line| !line.starts_with('#')).map(family);
    let shown: BTreeSet<String> = told.chain(numbers).collect();
    assert_eq!(shown, documented);
    assert_eq!(node.metric("berth_node_connections"), 0.0);
    assert_eq!(node.metric("berth_epoll_fallback{core=\"0\"}"), f64::from(u8::from(driver == Driver::Epoll)));
    node.finish();
}

fn health_tells_the_truth(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    assert_eq!(node.get("/health/live"), (200, "live\n".into()));
    assert_eq!(node.get("/health/ready"), (200, "ready\n".into()));
    let live = format!("http://{}/health/live", node.admin());
    assert_eq!(curl(&["--http2-prior-knowledge", &live]).ok(), "live\n");
    assert!(curl(&["--head", &live]).ok().starts_with("HTTP/1.1 200"));
    assert_eq!(node.get("/no/such/page").0, 404);
    let said = curl(&["--include", "--data", "x", &live]).ok();
    assert!(said.starts_with("HTTP/1.1 405") && said.to_lowercase().contains("allow: get, head"), "{said}");
    node.finish();
}

fn the_admin_api_answers_only_its_own_machine(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let url = format!("http://{}/v1/status", node.admin());
    let status = |header: &str| {
        let written = ["--output", "/dev/null", "--write-out", "%{http_code}"];
        curl(&[&["--header", header][..], &written, &[&url]].concat()).ok()
    };
    assert_eq!(status("host: localhost"), "200");
    assert_eq!(status("origin: http://127.0.0.1:8080"), "200");
    assert_eq!(status("host: rebound.example"), "403");
    assert_eq!(status("origin: https://evil.example"), "403");
    assert_eq!(status("origin: null"), "403");
    node.finish();
}

fn the_reference_page_is_what_the_program_prints() {
    assert_eq!(berth(&["config", "reference"]).ok(), page("CONFIG.md"));
}

fn what_is_not_built_yet_says_so() {
    for command in ["policy", "top"] {
        let said = berth(&[command]);
        assert_eq!(said.code, 1, "{command}");
        assert!(said.stderr.contains(&format!("`{command}` is not built yet")), "{}", said.stderr);
    }
    let said = berth(&["new", "python-worker", "counter"]);
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("not built yet"), "{}", said.stderr);
}

fn wrong_usage_exits_2() {
    for arguments in [
        &["frobnicate"][..],
        &[],
        &["dataplane"],
        &["dataplane", "--confg", "x"],
        &["status", "--what"],
        &["config"],
        &["dev", "--listen", "nowhere"],
    ] {
        let said = berth(arguments);
        assert_eq!(said.code, 2, "{arguments:?}: {}", said.all());
        assert!(!said.stderr.is_empty());
    }
    assert!(berth(&["--version"]).ok().starts_with("berth "));
    assert!(berth(&["--help"]).ok().contains("dataplane"));
}

fn all_mistakes_of_a_file_are_told_at_once() {
    let folder = Folder::new();
    let path = folder.path().join("berth.toml");
    let text = "[limits]\nbody_bytes = \"64MB\"\nheader_timeout = 10\nno_such_key = 1\n[[listen]]\naddress = \"localhost\"\n\
                [[routes]]\npath = \"/\"\nrespond = { status = 99 }\n";
    std::fs::write(&path, text).unwrap();
    let file = path.to_str().unwrap();
    for arguments in [&["dataplane", "--config", file][..], &["dataplane", "--check", "--config", file]] {
        let said = berth(arguments);
        assert_eq!(said.code, 1, "{}", said.all());
        for part in [file, "body_bytes", "header_timeout", "no_such_key", "address", "status"] {
            assert!(said.stderr.contains(part), "{part} is missing: {}", said.stderr);
        }
    }
    std::fs::write(&path, "[[listen]]\naddress = \"127.0.0.1:0\"\n").unwrap();
    assert_eq!(berth(&["dataplane", "--check", "--config", file]).ok(), format!("{file}: good\n"));
}

fn a_missing_file_is_named() {
    let said = berth(&["dataplane", "--config", "/no/such/berth.toml"]);
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("/no/such/berth.toml: No such file"), "{}", said.stderr);
}

fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let node = Plan::new(Driver::Epoll, format!("[[listen]]\naddress = \"{address}\"\n")).launch();
    assert_eq!(node.wait().code(), Some(1));
    let log = node.log();
    assert!(log.contains(&format!("cannot listen on {address}")), "{log}");
    assert!(log.contains("another process listens there"), "{log}");
}

fn nobody_answers_at_the_admin_address() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let said = berth(&["status", "--admin", &format!("http://{free}")]);
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains(&format!("no node answers at http://{free}")), "{}", said.stderr);
}
