//! Objects by their hosts and ids: who is reached, on which core, and after how many hops.
//!
//! The kernel's hash over addresses and ports takes each connection to one of two cores, and half of them to the wrong one:
//! that none of many is, is a matter of 2 to the power of minus their number.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use berth_tests::aioquic::h3;
use berth_tests::clients::curl;
use berth_tests::node::{Driver, Node, PATIENCE, Plan, route, wait_until};
use berth_tests::workers::{deploy, guests, object_guest, upload};
use berth_tests::{on_both_drivers, once};
use serde_json::{Value, json};

use crate::common;

on_both_drivers!(["aioquic", "curl", "two cpus"]; connections_come_to_the_core_of_their_object,
    who_must_prove_its_address_comes_to_the_core_of_its_object);
on_both_drivers!(["aioquic", "curl"]; a_host_is_its_object_over_every_version_and_for_guests,
    a_guest_asks_an_object_of_its_zone_by_its_id);
on_both_drivers!(["curl", "two cpus"]; who_may_ask_is_told_who_answered);
once!(["curl"]; a_host_that_somebody_has_is_refused);

const HOST: &str = "ada.probes.example";
/// Loopback clients are told who answered them.
const DEBUG: &str = "[debug]\nclients = [\"127.0.0.0/8\"]\n";

/// A zone whose objects have hosts, with a worker that asks others.
fn zone(node: &Node) -> Value {
    let (front, probe) = (upload(node, guests()), upload(node, &object_guest()));
    json!({"hosts": ["probes.example"], "workers": {"front": {"script": front, "routes": ["/*"]}},
        "objects": {"Probe": {"script": probe, "hosts": [":name.probes.example"]}}})
}

fn start(driver: Driver, more: &str) -> Node {
    let node = Plan::new(driver, common() + DEBUG + more).cores(2).start();
    deploy(&node, "probes", &zone(&node));
    node
}

/// What the host answers over HTTP/1.1.
fn ask(node: &Node, host: &str, path: &str) -> String {
    curl(&["--header", &format!("host: {host}"), &node.http(path)]).ok()
}

/// The one object of the class, as the admin API shows it.
fn shown(node: &Node) -> Value {
    let (status, said) = node.get("/v1/objects?zone=probes&class=Probe");
    let listed: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((status, listed["objects"].as_array().unwrap().len()), (200, 1), "{said}");
    let (status, said) = node.get(&format!("/v1/objects/{}", listed["objects"][0]["id"].as_str().unwrap()));
    assert_eq!(status, 200, "{said}");
    serde_json::from_str(&said).unwrap()
}

fn move_to(node: &Node, core: usize) {
    let now = shown(node);
    if now["core"] != core {
        let path = format!("/v1/objects/{}/move", now["id"].as_str().unwrap());
        let (status, said) = node.ask("POST", &path, json!({"core": core}).to_string().as_bytes());
        assert_eq!(status, 200, "{said}");
    }
}

/// Asks the object again and again until `stop`, so that it is not given up for having nothing to do.
fn keep_busy(node: &Node, stop: &AtomicBool) {
    let mut stream = TcpStream::connect(node.listener(0)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = [0; 4096];
    while !stop.load(Relaxed) {
        stream.write_all(format!("GET /turns HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes()).unwrap();
        assert!(stream.read(&mut bytes).unwrap() > 0, "it is answered");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// To the object's core, in each of three rounds. That all of them come to the right one by themselves is once in 262,144 runs.
const CONNECTIONS: u64 = 6;

/// New connections, each of which has to be accepted on this core, and to be answered there without a hop.
fn connect(node: &Node, core: usize) {
    let before = node.numbers("quic_handshakes");
    for _ in 0..CONNECTIONS {
        let options = ["--server-name", HOST, "--path", "/who", "--header", "berth-debug:1"];
        let said = h3("get", node.listener(1), &options);
        assert_eq!(said["answers"][0]["status"], 200, "{said}");
        let headers = &said["headers"];
        let told = ["berth-node", "berth-core", "berth-hops"].map(|name| headers[name].as_str().unwrap());
        assert_eq!(told, ["story", &core.to_string(), "0"], "{said}");
        assert_eq!(headers["berth-epoch"], shown(node)["epoch"].to_string(), "{said}");
        assert!(headers["berth-turn-us"].as_str().unwrap().parse::<u64>().is_ok(), "{said}");
    }
    let mut expected = before;
    expected[core] += CONNECTIONS;
    assert_eq!(node.numbers("quic_handshakes"), expected);
}

fn connections_come_to_their_object(driver: Driver, more: &str) -> Node {
    let node = start(driver, more);
    assert_eq!(ask(&node, HOST, "/put/a/1"), "put");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| keep_busy(&node, &stop));
        for core in [1, 0, 1] {
            move_to(&node, core);
            connect(&node, core);
        }
        stop.store(true, Relaxed);
    });
    let flights = node.numbers("quic_flights_handed_over");
    assert!(flights.iter().sum::<u64>() > 0, "some came to the other core first: {flights:?}");
    for name in ["quic_flights_kept", "quic_toss_full", "quic_protocol_errors", "quic_handshake_failures"] {
        assert_eq!(node.number(name), 0, "{name}");
    }
    node
}

fn connections_come_to_the_core_of_their_object(driver: Driver) {
    let node = connections_come_to_their_object(driver, "");
    let id = shown(&node)["id"].as_str().unwrap().to_owned();
    // Without an instance nobody has the connection's object: it is accepted where it comes, and the object starts there.
    assert_eq!(node.ask("POST", &format!("/v1/objects/{id}/evict"), b"").0, 204);
    let flights = node.number("quic_flights_handed_over");
    let said =
        h3("get", node.listener(1), &["--server-name", HOST, "--path", "/who", "--header", "berth-debug:1"]);
    assert_eq!(said["headers"]["berth-hops"], "0", "{said}");
    assert_eq!(node.number("quic_flights_handed_over"), flights);
    // A connection of another host takes a hop to it, and the object says how many it has seen.
    let before = shown(&node);
    assert!(before["why"].as_str().unwrap().contains("first message"), "{before}");
    let asked = || {
        let said = curl(&[
            "--include",
            "--header",
            &format!("host: {HOST}"),
            "--header",
            "berth-debug: 1",
            &node.http("/who"),
        ]);
        said.ok().contains("berth-hops: 1")
    };
    wait_until("a connection over TCP comes to the other core", asked);
    let after = shown(&node);
    let count = |shown: &Value, name: &str| shown[name].as_u64().unwrap();
    assert_eq!(count(&after, "hops"), count(&before, "hops") + 1, "{after}");
    assert!(count(&after, "messages") > count(&before, "messages"), "{after}");
    // The class goes, and its hosts with it.
    let mut without = zone(&node);
    without["objects"] = json!({});
    deploy(&node, "probes", &without);
    let said = h3("get", node.listener(1), &["--server-name", HOST]);
    assert_eq!(said["answers"][0]["status"], 200, "a route of the configuration: {said}");
    assert_eq!(node.number("quic_flights_handed_over"), flights);
    node.finish();
}

/// The Retry names the core that sent it, and that core hands over what comes with its token.
fn who_must_prove_its_address_comes_to_the_core_of_its_object(driver: Driver) {
    let node = connections_come_to_their_object(driver, "[limits.http3]\nretry_above = 0\n");
    assert!(node.number("quic_retries") >= 3 * CONNECTIONS, "everybody was asked");
    node.finish();
}

fn a_host_is_its_object_over_every_version_and_for_guests(driver: Driver) {
    let node = start(driver, "");
    let mut other = zone(&node);
    (other["hosts"], other["objects"]) = (json!(["other.example"]), json!({}));
    deploy(&node, "other", &other);
    assert_eq!(ask(&node, HOST, "/increment/n"), "1");
    assert_eq!(ask(&node, "ADA.Probes.Example.", "/increment/n"), "2", "the same host");
    let host = format!("host: {HOST}");
    assert_eq!(curl(&["--http2-prior-knowledge", "--header", &host, &node.http("/increment/n")]).ok(), "3");
    let (port, address) = (node.listener(1).port(), node.listener(1).ip());
    let resolve = format!("{HOST}:{port}:{address}");
    let url = format!("https://{HOST}:{port}/increment/n");
    for (version, count) in [("--http1.1", "4"), ("--http2", "5")] {
        assert_eq!(curl(&["--insecure", version, "--resolve", &resolve, &url]).ok(), count);
    }
    let said = h3("get", node.listener(1), &["--server-name", HOST, "--path", "/increment/n"]);
    assert_eq!(said["answers"][0]["status"], 200, "{said}");
    // The worker of the zone, that of another one, and the name that guests have for it.
    let asked = format!("/ask?url=http://{HOST}/increment/n");
    assert_eq!(ask(&node, "probes.example", &asked), "7");
    assert_eq!(ask(&node, "other.example", &asked), "8");
    assert_eq!(ask(&node, "probes.example", "/ask?url=http://ada.probe.object.internal/increment/n"), "9");
    assert_eq!(ask(&node, "bob.probes.example", "/increment/n"), "1", "another name is another object");
    let said = ask(&node, "a.b.probes.example", "/increment/n");
    assert!(said.contains("urn:berth:no-route"), "a name is one label: {said}");
    let (status, said) = node.get("/v1/explain/request?method=GET&url=http://ada.probes.example/any");
    assert!(status == 200 && said.contains("has the host by :name.probes.example"), "{said}");
    let (status, said) = node.get("/v1/routes");
    assert!(status == 200 && said.contains(r#""host":":name.probes.example""#), "{said}");
    node.finish();
}

fn a_guest_asks_an_object_of_its_zone_by_its_id(driver: Driver) {
    let node = start(driver, "");
    let mut other = zone(&node);
    other["hosts"] = json!(["other.example"]);
    other["objects"]["Probe"]["hosts"] = json!([":name.others.example"]);
    deploy(&node, "other", &other);
    assert_eq!(ask(&node, HOST, "/increment/n"), "1");
    let id = shown(&node)["id"].as_str().unwrap().to_owned();
    let by_id = |zone: &str, id: &str, path: &str| {
        ask(&node, zone, &format!("/ask?url=http://{id}.id.object.internal{path}"))
    };
    assert_eq!(by_id("probes.example", &id, "/increment/n"), "2", "the same object");
    assert_eq!(by_id("probes.example", &id.to_uppercase(), "/increment/n"), "3");
    // Also one that has to start, and then knows its name.
    assert_eq!(node.ask("POST", &format!("/v1/objects/{id}/evict"), b"").0, 204);
    let said = by_id("probes.example", &id, "/who");
    assert!(said.contains(&id) && said.contains("ada") && said.contains("Probe"), "{said}");
    let unknown = |zone: &str, id: &str| {
        let said = by_id(zone, id, "/increment/n");
        assert!(said.contains("urn:berth:no-object") && said.contains("404"), "{zone} {id}: {said}");
    };
    unknown("other.example", &id);
    let (first, rest) = id.split_at(31);
    unknown("probes.example", &format!("{first}{}", if rest == "0" { "1" } else { "0" }));
    unknown("probes.example", "ada");
    assert_eq!(ask(&node, HOST, "/get/n"), "3", "nothing else was counted");
    node.finish();
}

fn who_may_ask_is_told_who_answered(driver: Driver) {
    let on_core = route("/on/1", "core = 1\nrespond = { body = \"one\" }");
    let node = start(driver, &on_core);
    let told = |node: &Node, host: &str, path: &str, value: &str| {
        let (host, value) = (format!("host: {host}"), format!("berth-debug: {value}"));
        let said = curl(&["--include", "--header", &host, "--header", &value, &node.http(path)]).ok();
        let fields = said.lines().filter(|line| line.starts_with("berth-"));
        fields
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect::<Vec<_>>()
    };
    let value = |fields: &[(String, String)], name: &str| {
        fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    };
    let fields = told(&node, "any.test", "/on/1", "1");
    let [node_name, core, hops] =
        ["berth-node", "berth-core", "berth-hops"].map(|name| value(&fields, name).unwrap());
    assert_eq!((node_name.as_str(), core.as_str(), fields.len()), ("story", "1", 3), "{fields:?}");
    assert!(hops == "0" || hops == "1", "{fields:?}");
    let fields = told(&node, "probes.example", "/status/200", "1");
    assert_eq!(
        (value(&fields, "berth-hops").as_deref(), fields.len()),
        (Some("0"), 3),
        "a worker: {fields:?}"
    );
    let fields = told(&node, HOST, "/field/berth-core/77", "1");
    assert!(matches!(value(&fields, "berth-core").as_deref(), Some("0" | "1")), "its own words: {fields:?}");
    assert!(fields.len() == 5 && value(&fields, "berth-turn-us").is_some(), "{fields:?}");
    assert_eq!(told(&node, HOST, "/who", "yes"), [], "it has not asked");
    node.finish();

    let node = Plan::new(driver, common()).start();
    deploy(&node, "probes", &zone(&node));
    assert_eq!(told(&node, HOST, "/who", "1"), [], "nobody is named");
    assert_eq!(told(&node, "any.test", "/", "1"), []);
    node.finish();
}

fn a_host_that_somebody_has_is_refused() {
    let node = start(Driver::Auto, "");
    let refused = |change: &dyn Fn(&mut Value), words: &str| {
        let mut document = zone(&node);
        document["hosts"] = json!(["second.example"]);
        change(&mut document);
        let (status, said) = node.ask("PUT", "/v1/zones/second", document.to_string().as_bytes());
        assert!(status == 400 && said.contains(words), "{words}: {status} {said}");
    };
    refused(&|_| {}, "class Probe of zone probes has these hosts already");
    refused(
        &|zone| (zone["hosts"], zone["objects"]) = (json!(["*.probes.example"]), json!({})),
        "zone second has these hosts by *.probes.example",
    );
    refused(
        &|zone| zone["objects"]["Probe"]["hosts"] = json!(["x.:name.example"]),
        "cannot be a host of objects",
    );
    refused(
        &|zone| {
            let class = zone["objects"]["Probe"].take();
            zone["objects"] = json!({"Id": class});
        },
        "no class has this name",
    );
    node.finish();
}
