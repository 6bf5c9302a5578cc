//! Objects under load: the class of the tests, clients that ask its objects, and what they write down for [`history`].
//!
//! A client has one connection, asks one thing at a time, and never asks anything twice. What is not answered with 200 has
//! an unknown outcome.
//!
//! [`history`]: crate::history

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use serde_json::{Value, json};

use crate::dice::Dice;
use crate::history::models::{
    AppendList, Counter, CounterInput, ListInput, ListOutput, Register, RegisterInput, RegisterOutput,
};
use crate::history::{Fault, Operation, Outcome, each_linearizable};
use crate::node::{Driver, Node, PATIENCE, Plan};
use crate::workers::{deploy, guests, object_guest, upload};

/// A node with the class of the tests, whose objects answer at `/probe/NAME/SUBJECT`, and a worker that asks them.
pub fn probe(driver: Driver, text: impl Into<String>) -> Node {
    let node = Plan::new(driver, text).start();
    deploy_probe(&node, &json!({}));
    node
}

/// Deploys them, with what else is said of the class.
pub fn deploy_probe(node: &Node, more: &Value) {
    let (front, probe) = (upload(node, guests()), upload(node, &object_guest()));
    let limits = json!({"cpu": "10s", "wall": "60s"});
    let mut class = json!({"script": probe, "routes": ["/probe/:name", "/probe/:name/*"], "limits": limits});
    let more = more.as_object().expect("an object").clone();
    class.as_object_mut().expect("an object").extend(more);
    let zone = json!({"hosts": ["*"],
        "workers": {"front": {"script": front, "routes": ["/*"], "limits": limits}},
        "objects": {"Probe": class}});
    deploy(node, "probes", &zone);
}

/// An object of that class, as the admin API shows it.
pub fn shown(node: &Node, name: &str) -> Value {
    let (status, said) = node.get("/v1/objects?class=Probe&limit=1000");
    assert_eq!(status, 200, "{said}");
    let listed: Value = serde_json::from_str(&said).expect("it is JSON");
    let objects = listed["objects"].as_array().expect("a list");
    let found = objects.iter().find(|object| object["name"] == name);
    let id =
        found.unwrap_or_else(|| panic!("no object {name}: {said}"))["id"].as_str().expect("an id").to_owned();
    let (status, said) = node.get(&format!("/v1/objects/{id}"));
    assert_eq!(status, 200, "{said}");
    serde_json::from_str(&said).expect("it is JSON")
}

/// Moves an object to a core.
pub fn move_to(node: &Node, name: &str, core: u64) -> (u16, String) {
    let id = shown(node, name)["id"].as_str().expect("an id").to_owned();
    node.ask("POST", &format!("/v1/objects/{id}/move"), json!({"core": core}).to_string().as_bytes())
}

/// An answer: its status and its body.
pub type Answer = (u16, String);

/// One client with a connection of its own.
pub struct Client(BufReader<TcpStream>);

impl Client {
    /// Nothing, if nobody accepts.
    pub fn connect(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Self(BufReader::new(stream)))
    }

    /// Sends a request to an object, and does not wait for the answer.
    pub fn send(&mut self, name: &str, subject: &str, body: &str) -> Option<()> {
        let length = body.len();
        let request = format!(
            "POST /probe/{name}/{subject} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        self.write(&request)
    }

    /// Sends a whole request to whomever it is for.
    pub fn write(&mut self, request: &str) -> Option<()> {
        self.0.get_mut().write_all(request.as_bytes()).ok()
    }

    /// The next answer; nothing, if the connection ends before it is whole.
    pub fn receive(&mut self) -> Option<Answer> {
        let (mut line, mut status, mut length) = (String::new(), 0, 0);
        while line != "\r\n" {
            line.clear();
            if self.0.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest.get(..3)?.parse().ok()?;
            }
            if let Some(rest) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = rest.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).ok()?;
        Some((status, String::from_utf8(body).ok()?))
    }

    /// The status of an answer that has come and was not received.
    pub fn peek(&self) -> Option<u16> {
        let stream = self.0.get_ref();
        let mut bytes = [0; 12];
        stream.set_nonblocking(true).ok()?;
        let peeked = stream.peek(&mut bytes);
        stream.set_nonblocking(false).ok()?;
        let head = std::str::from_utf8(&bytes[..peeked.ok()?]).ok()?;
        head.strip_prefix("HTTP/1.1 ")?.parse().ok()
    }

    /// Asks an object, and waits.
    pub fn ask(&mut self, name: &str, subject: &str, body: &str) -> Option<Answer> {
        self.send(name, subject, body)?;
        self.receive()
    }
}

/// Asks an object on a connection of its own.
pub fn ask(node: &Node, name: &str, subject: &str) -> Answer {
    let mut client = Client::connect(node.listener(0)).expect("the node accepts");
    client.ask(name, subject, "").expect("the node answers")
}

/// The seed of a story: this variable of the environment, or another one each time. The story prints it.
pub fn seed(variable: &str) -> u64 {
    let given = std::env::var(variable).ok().map(|text| text.parse().expect("a seed is a number"));
    given.unwrap_or_else(|| u64::from(std::process::id()) << 32 | u64::from(now_ns() as u32))
}

fn now_ns() -> u128 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos())
}

/// What was done to objects, each by itself.
#[derive(Default)]
pub struct Histories {
    /// Counters.
    pub counters: Vec<(String, Operation<Counter>)>,
    /// Registers.
    pub registers: Vec<(String, Operation<Register>)>,
    /// Lists.
    pub lists: Vec<(String, Operation<AppendList>)>,
}

impl Histories {
    /// Takes what another client has done.
    pub fn take(&mut self, other: Self) {
        self.counters.extend(other.counters);
        self.registers.extend(other.registers);
        self.lists.extend(other.lists);
    }

    /// How many had no answer, or were refused.
    pub fn unknown(&self) -> usize {
        fn of<M: crate::history::Model>(all: &[(String, Operation<M>)]) -> usize {
            all.iter().filter(|(_, one)| one.outcome == Outcome::Unknown).count()
        }
        of(&self.counters) + of(&self.registers) + of(&self.lists)
    }

    /// How many there are.
    pub fn operations(&self) -> usize {
        self.counters.len() + self.registers.len() + self.lists.len()
    }

    /// Whether each object was what it promises to be.
    pub fn check(self) -> Result<(), (String, Fault)> {
        each_linearizable(self.counters)?;
        each_linearizable(self.registers)?;
        each_linearizable(self.lists).map(|_: BTreeMap<String, _>| ())
    }
}

/// What clients share who work on the same objects.
pub struct Load {
    address: SocketAddr,
    clock: Instant,
    /// The objects of each kind have these names behind that of the kind.
    names: Vec<String>,
    /// The next value that nobody has written.
    next: AtomicU64,
    stop: AtomicBool,
    answered: AtomicU64,
}

impl Load {
    /// On these objects of each kind. `clock` is the same for all loads of a story, `first` larger than any value of the
    /// loads before.
    pub fn new(address: SocketAddr, clock: Instant, names: Vec<String>, first: u64) -> Self {
        let next = AtomicU64::new(first);
        Self { address, clock, names, next, stop: AtomicBool::new(false), answered: AtomicU64::new(0) }
    }

    /// What the names of its objects end with.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The names of the objects.
    pub fn objects(&self) -> Vec<String> {
        let kinds = ["counter", "register", "list"];
        kinds.iter().flat_map(|kind| self.names.iter().map(move |name| format!("{kind}-{name}"))).collect()
    }

    /// How many requests were answered with 200.
    pub fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }

    /// All clients end after what they have in hand.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Stops when it is dropped, also by a panic: else nobody would end.
    pub fn stop_on_drop(&self) -> impl Drop + '_ {
        struct Stop<'l>(&'l Load);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.stop();
            }
        }
        Stop(self)
    }

    fn now(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    /// One client: works until it is stopped or its connection ends, and tells what it did.
    pub fn work(&self, seed: u64) -> Histories {
        let mut dice = Dice::new(seed);
        let mut done = Histories::default();
        let Some(mut client) = Client::connect(self.address) else { return done };
        while !self.stop.load(Relaxed) {
            let name = &self.names[dice.roll(self.names.len() as u64) as usize];
            let reads = dice.roll(4) == 0;
            if !self.step(&mut client, &mut done, dice.roll(3), name, reads) {
                break;
            }
        }
        done
    }

    /// Reads all objects once, with a client of its own.
    pub fn read_all(&self) -> Histories {
        let mut done = Histories::default();
        let mut client = Client::connect(self.address).expect("the node accepts");
        for name in &self.names {
            for kind in 0..3 {
                assert!(self.step(&mut client, &mut done, kind, name, true), "the node answers");
            }
        }
        assert_eq!(done.unknown(), 0, "the node answers with what it has");
        done
    }

    /// One operation. Whether the connection goes on.
    fn step(&self, client: &mut Client, done: &mut Histories, kind: u64, name: &str, reads: bool) -> bool {
        let unique = self.next.fetch_add(1, Relaxed);
        match kind {
            0 => {
                let object = format!("counter-{name}");
                let (input, subject) = match reads {
                    true => (CounterInput::Read, "get/n"),
                    false => (CounterInput::Increment, "increment/n"),
                };
                let read = |text: &str| number(text).unwrap_or(0);
                let (one, goes_on) = self.one(client, (&object, subject, ""), input, read);
                done.counters.push((object, one));
                goes_on
            }
            1 => {
                let object = format!("register-{name}");
                let (input, body) = match reads {
                    true => (RegisterInput::Read, "get a\nget b".to_owned()),
                    false => (RegisterInput::Write(unique), format!("put a {unique}\nput b {unique}")),
                };
                let read = |text: &str| match reads {
                    true => RegisterOutput::Value(both(text)),
                    false => RegisterOutput::Written,
                };
                let (one, goes_on) = self.one(client, (&object, "script", &body), input, read);
                done.registers.push((object, one));
                goes_on
            }
            _ => {
                let object = format!("list-{name}");
                let (input, subject) = match reads {
                    true => (ListInput::Read, "get/l".to_owned()),
                    false => (ListInput::Append(unique), format!("append/l/{unique}")),
                };
                let read = |text: &str| match reads {
                    true => ListOutput::All(text.split(' ').filter_map(number).collect()),
                    false => ListOutput::Appended,
                };
                let (one, goes_on) = self.one(client, (&object, &subject, ""), input, read);
                done.lists.push((object, one));
                goes_on
            }
        }
    }

    fn one<M: crate::history::Model>(
        &self,
        client: &mut Client,
        (object, subject, body): (&str, &str, &str),
        input: M::Input,
        read: impl Fn(&str) -> M::Output,
    ) -> (Operation<M>, bool) {
        let invoked_at = self.now();
        let answer = client.ask(object, subject, body);
        let goes_on = answer.is_some();
        let outcome = match answer {
            Some((200, text)) => {
                self.answered.fetch_add(1, Relaxed);
                Outcome::Ok { output: read(&text), at: self.now() }
            }
            // Refused, or cut: it may have happened.
            _ => Outcome::Unknown,
        };
        (Operation { input, invoked_at, outcome }, goes_on)
    }
}

/// `nothing` is none; all else is a mistake that a story must see.
fn number(text: &str) -> Option<u64> {
    (text != "nothing").then(|| text.parse().unwrap_or_else(|_| panic!("no number: {text}")))
}

/// The two values of a register, which one turn has written: half of it is nothing that may be seen.
fn both(text: &str) -> Option<u64> {
    let (a, b) = text.split_once('\n').unwrap_or_else(|| panic!("two lines: {text}"));
    assert_eq!(a, b, "a turn is there by half");
    number(a)
}
