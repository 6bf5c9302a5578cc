//! Keys of idempotency, seen from outside: what is asked twice is done once, whatever happens between.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use berth_tests::node::{Driver, Node, PATIENCE, Plan, wait_until};
use berth_tests::workers::{deploy, object_guest, upload};
use berth_tests::{on_both_drivers, once};
use serde_json::json;

use crate::common;

on_both_drivers!([]; a_request_that_repeats_a_key_gets_the_first_answer, a_key_belongs_to_one_request_of_one_object,
    a_repeat_that_comes_while_the_first_runs_waits_for_its_answer, a_key_counts_once_through_kills,
    a_turn_that_fails_keeps_no_answer);
once!([]; a_key_that_is_none_is_refused, an_answer_is_kept_for_its_window, of_a_thousand_answers_the_oldest_makes_place,
    an_answer_that_is_too_large_is_not_given_again, a_websocket_is_taken_each_time);

/// Clients at a time: more than one for each core, whatever the machine.
const CLIENTS: usize = 8;

/// The class of the tests, reached so that the first part of a path is what the object does and the second its name.
fn node(driver: Driver, idempotency: &str) -> Node {
    let node = Plan::new(driver, common()).start();
    let script = upload(&node, &object_guest());
    let limits = json!({"cpu": "10s", "wall": "60s"});
    let routes = ["/:subject/:name", "/:subject/:name/*"];
    let class = json!({"script": script, "routes": routes, "limits": limits, "idempotency": idempotency});
    deploy(&node, "keys", &json!({"hosts": ["*"], "objects": {"Probe": class}}));
    node
}

/// What a client hears.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    status: u16,
    is_repeat: bool,
    text: String,
}

impl Answer {
    /// Of a turn.
    fn first(text: &str) -> Self {
        Self { status: 200, is_repeat: false, text: text.to_owned() }
    }

    /// One that was given before.
    fn again(text: &str) -> Self {
        Self { is_repeat: true, ..Self::first(text) }
    }

    /// Its status, if it is a problem of this type.
    fn problem(&self, name: &str) -> Option<u16> {
        self.text.contains(&format!("\"urn:berth:{name}\"")).then_some(self.status)
    }
}

/// One client with a connection of its own.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    /// Asks with these fields and this body; nothing, if the connection ended.
    fn ask(&mut self, method: &str, path: &str, fields: &str, body: &str) -> Option<Answer> {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: a.example\r\n{fields}content-length: {length}\r\n\r\n"
        );
        self.0.get_mut().write_all((head + body).as_bytes()).ok()?;
        let mut answer = Answer { status: 0, is_repeat: false, text: String::new() };
        let (mut line, mut length) = (String::new(), 0);
        while line != "\r\n" {
            line.clear();
            if self.0.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                answer.status = rest.get(..3)?.parse().ok()?;
            }
            let line = line.to_ascii_lowercase();
            answer.is_repeat |= line == "idempotency-replayed: true\r\n";
            if let Some(rest) = line.strip_prefix("content-length:") {
                length = rest.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).ok()?;
        answer.text = String::from_utf8(body).ok()?;
        Some(answer)
    }

    /// The same with a key.
    fn post(&mut self, path: &str, key: &str) -> Option<Answer> {
        self.ask("POST", path, &format!("idempotency-key: {key}\r\n"), "")
    }
}

/// Asks on a new connection, which may reach another core.
fn post(node: &Node, path: &str, key: &str) -> Answer {
    Client::connect(node.listener(0)).post(path, key).unwrap()
}

fn get(node: &Node, path: &str) -> String {
    Client::connect(node.listener(0)).ask("GET", path, "", "").unwrap().text
}

fn a_request_that_repeats_a_key_gets_the_first_answer(driver: Driver) {
    let node = node(driver, "24h");
    assert_eq!(post(&node, "/increment/ada", "one"), Answer::first("1"));
    assert_eq!(post(&node, "/increment/ada", "two"), Answer::first("2"));
    let hops_before: u64 = node.number("hops_in");
    let (mut repeats, cores) = (0, node.numbers("hops_in").len());
    wait_until("it is asked from all cores", || {
        assert_eq!(post(&node, "/increment/ada", "one"), Answer::again("1"));
        repeats += 1;
        repeats > 8 && (cores < 2 || node.number("hops_in") > hops_before)
    });
    assert_eq!((node.number("object_repeats"), node.number("object_turns")), (repeats, 2));
    // What was only read is an answer, too.
    assert_eq!(post(&node, "/get/ada", "read"), Answer::first("2"));
    assert_eq!(post(&node, "/increment/ada", "three"), Answer::first("3"));
    assert_eq!(post(&node, "/get/ada", "read"), Answer::again("2"));
    let (_, said) = node.get("/v1/objects?class=Probe");
    let listed: serde_json::Value = serde_json::from_str(&said).unwrap();
    let id = listed["objects"][0]["id"].as_str().unwrap();
    assert_eq!(node.ask("POST", &format!("/v1/objects/{id}/evict"), b"").0, 204);
    assert_eq!(post(&node, "/increment/ada", "one"), Answer::again("1"), "another instance knows it");
    assert_eq!(post(&node, "/increment/ada", "four"), Answer::first("4"));
    node.finish();
}

fn a_key_belongs_to_one_request_of_one_object(driver: Driver) {
    let node = node(driver, "24h");
    let mut client = Client::connect(node.listener(0));
    let field = "idempotency-key: \"k\"\r\n";
    let mut ask = |method, path, body| client.ask(method, path, field, body).unwrap();
    assert_eq!(ask("POST", "/put-body/ada", "first"), Answer::first("put"));
    for (method, path, body) in [
        ("POST", "/put-body/ada", "second"),
        ("PUT", "/put-body/ada", "first"),
        ("POST", "/put-body/ada?", "first"),
        ("POST", "/delete/ada", "first"),
    ] {
        let other = ask(method, path, body);
        assert_eq!(other.problem("idempotency-key-reused"), Some(422), "{method} {path} {body}: {other:?}");
    }
    assert_eq!(ask("POST", "/put-body/ada", "first"), Answer::again("put"));
    assert_eq!(
        ask("POST", "/put-body/bob", "other"),
        Answer::first("put"),
        "another object knows nothing of it"
    );
    assert_eq!((get(&node, "/get/ada"), get(&node, "/get/bob")), ("first".to_owned(), "other".to_owned()));
    assert_eq!((node.number("object_repeats"), node.number("object_repeats_refused")), (1, 4));
    node.finish();
}

fn a_key_that_is_none_is_refused() {
    let node = node(Driver::Auto, "24h");
    let long = "k".repeat(256);
    for fields in [
        "idempotency-key:\r\n".to_owned(),
        "idempotency-key: a b\r\n".to_owned(),
        "idempotency-key: \u{e4}\r\n".to_owned(),
        format!("idempotency-key: {long}\r\n"),
        "idempotency-key: a\r\nidempotency-key: a\r\n".to_owned(),
    ] {
        let mut client = Client::connect(node.listener(0));
        let answer = client.ask("POST", "/increment/ada", &fields, "").unwrap();
        assert_eq!(answer.problem("idempotency-key"), Some(400), "{fields}: {answer:?}");
    }
    assert_eq!(post(&node, "/increment/ada", &long[1..]), Answer::first("1"), "none of them was counted");
    node.finish();
}

fn a_repeat_that_comes_while_the_first_runs_waits_for_its_answer(driver: Driver) {
    let node = node(driver, "24h");
    // The object has its turn until so many wait as its name says. Done again, the repeat would wait for ever.
    let mut answers: Vec<Answer> = std::thread::scope(|scope| {
        let ask = || post(&node, "/await-queue/2", "same");
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(ask)).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    answers.sort_by_key(|answer| answer.is_repeat);
    assert_eq!(answers, [Answer::first("2"), Answer::again("2"), Answer::again("2")]);
    assert_eq!((node.number("object_turns"), node.number("object_repeats")), (1, 2));
    node.finish();
}

/// Counts with a new key each time until the connection ends, or the object could forget the first ones, and tells what was
/// answered.
fn count(address: SocketAddr, client: &str) -> Vec<(String, Option<Answer>)> {
    let (mut connection, mut told) = (Client::connect(address), Vec::new());
    let mut is_over = false;
    while !is_over && told.len() < 1000 / CLIENTS {
        let key = format!("{client}-{}", told.len());
        let answer = connection.post("/increment/kill", &key);
        is_over = answer.is_none();
        told.push((key, answer));
    }
    told
}

fn a_key_counts_once_through_kills(driver: Driver) {
    let mut node = node(driver, "24h");
    let (mut keys, mut numbers) = (0, BTreeSet::new());
    for round in 0..3 {
        let address = node.listener(0);
        let told: Vec<_> = std::thread::scope(|scope| {
            let client = |client: usize| move || count(address, &format!("{round}-{client}"));
            let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(client(number))).collect();
            let before: usize = get(&node, "/get/kill").parse().unwrap_or(0);
            wait_until("there is something to lose", || {
                get(&node, "/get/kill").parse::<usize>().is_ok_and(|count| count > before + 50)
            });
            node.signal(libc::SIGKILL);
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
        });
        node = node.kill_and_restart();
        let mut client = Client::connect(node.listener(0));
        for (key, answer) in &told {
            let again = client.post("/increment/kill", key).unwrap();
            if let Some(answer) = answer {
                assert_eq!(again, Answer::again(&answer.text), "{key} was acknowledged");
            }
            assert!(
                numbers.insert(again.text.parse::<usize>().unwrap()),
                "{key}: {again:?} was given before"
            );
        }
        keys += told.len();
    }
    assert_eq!(get(&node, "/get/kill"), keys.to_string());
    node.finish();
}

fn a_turn_that_fails_keeps_no_answer(driver: Driver) {
    let node = node(driver, "24h");
    for subject in ["put-trap", "put-fail", "put-sync-put-trap"] {
        let faults = node.number("object_faults");
        for time in 1..=2 {
            let answer = post(&node, &format!("/{subject}/ada/b"), subject);
            assert_eq!(
                (answer.problem("internal"), answer.is_repeat),
                (Some(500), false),
                "{subject}: {answer:?}"
            );
            assert_eq!(node.number("object_faults"), faults + time, "{subject} had its turn");
        }
    }
    assert_eq!(get(&node, "/get/ada"), "first", "what was committed before stays");
    assert_eq!((node.number("object_repeats"), node.number("object_repeats_refused")), (0, 0));
    node.finish();
}

fn an_answer_is_kept_for_its_window() {
    let node = node(Driver::Auto, "2s");
    assert_eq!(post(&node, "/increment/ada", "one"), Answer::first("1"));
    wait_until("its time is over", || {
        let answer = post(&node, "/increment/ada", "one");
        assert!(answer == Answer::again("1") || answer == Answer::first("2"), "{answer:?}");
        !answer.is_repeat
    });
    assert_eq!(get(&node, "/get/ada"), "2");
    node.finish();
}

fn of_a_thousand_answers_the_oldest_makes_place() {
    let node = node(Driver::Auto, "24h");
    let mut client = Client::connect(node.listener(0));
    for number in 1..=1001 {
        let answer = client.post("/increment/ada", &format!("key-{number}")).unwrap();
        assert_eq!(answer, Answer::first(&number.to_string()));
    }
    assert_eq!(node.number("limit_object_answers"), 1);
    assert_eq!(client.post("/increment/ada", "key-2").unwrap(), Answer::again("2"));
    assert_eq!(client.post("/increment/ada", "key-1").unwrap(), Answer::first("1002"));
    assert_eq!(client.post("/increment/ada", "key-3").unwrap(), Answer::again("3"));
    assert_eq!(client.post("/increment/ada", "key-2").unwrap(), Answer::first("1003"));
    assert_eq!(node.number("limit_object_answers"), 3);
    node.finish();
}

fn an_answer_that_is_too_large_is_not_given_again() {
    let node = node(Driver::Auto, "24h");
    let mut client = Client::connect(node.listener(0));
    let large = "x".repeat(100 << 10);
    assert_eq!(client.ask("POST", "/put-body/ada", "", &large).unwrap(), Answer::first("put"));
    let turns = node.number("object_turns");
    assert_eq!(client.post("/get/ada", "all").unwrap(), Answer::first(&large));
    for _ in 0..2 {
        let answer = client.post("/get/ada", "all").unwrap();
        assert_eq!((answer.problem("answer-not-kept"), answer.is_repeat), (Some(409), false), "{answer:?}");
    }
    assert_eq!(node.number("object_turns"), turns + 1);
    assert_eq!((node.number("limit_object_answer_bytes"), node.number("object_repeats_refused")), (1, 2));
    node.finish();
}

fn a_websocket_is_taken_each_time() {
    let node = node(Driver::Auto, "24h");
    let wish = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nidempotency-key: socket\r\n";
    // The end of a socket is a turn, too: both stay open.
    let mut clients = [(); 2].map(|()| Client::connect(node.listener(0)));
    for client in &mut clients {
        assert_eq!(client.ask("GET", "/accept/ada", wish, "").unwrap().status, 101);
    }
    assert_eq!(node.number("object_turns"), 2);
    assert_eq!((node.number("object_repeats"), node.number("object_repeats_refused")), (0, 0));
    node.finish();
}
