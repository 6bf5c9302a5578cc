//! A class of objects for the tests: the path of a request chooses what the object does, so that each rule of turns has a
//! subject that would break it.
//!
//! What a subject finds goes into the answer as text, errors of the host by their names. A panic is always meant.

mod alarming;
mod attacks;
mod keyvalue;
mod sending;
mod storing;

#[allow(missing_docs, reason = "generated from the WIT")]
mod world {
    wit_bindgen::generate!({ path: "../../../isolate-host/wit/object", world: "object", generate_all });
}

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use world::berth::object::types::Accept;
use world::berth::object::{identity, storage};
use world::exports::berth::object::events::{Answer, Data, Due, Guest, OutgoingError, Request, Response};

/// Turns that this instance has begun: what memory keeps between them.
static TURNS: AtomicU32 = AtomicU32::new(0);

struct Object;

world::export!(Object with_types_in world);

impl Guest for Object {
    fn handle(request: Request, upgrade: Option<u64>) -> Result<Answer, String> {
        TURNS.fetch_add(1, Relaxed);
        let after_host = request.url.splitn(4, '/').nth(3).unwrap_or("");
        let parts: Vec<&str> = after_host.split('/').collect();
        // A client's path names the object before the subject.
        let parts = match parts[..] {
            ["probe", _, ref subject @ ..] => subject,
            ref all => all,
        };
        match *parts {
            ["accept", tag] => return sending::accept(upgrade, tag),
            ["accept-as", protocol] => return Ok(sending::accept_as(protocol)),
            ["accept-odd", tags, bytes] => return Ok(sending::accept_odd(tags, bytes)),
            _ => {}
        }
        let (status, body) = run(parts, &request)?;
        let mut headers = vec![("content-type".to_owned(), b"text/plain".to_vec())];
        if let ["field", name, value] = *parts {
            headers.push((name.to_owned(), value.as_bytes().to_vec()));
        }
        Ok(Answer::Response(Response { status, headers, body: body.into_bytes() }))
    }

    fn alarm(due: Due) -> Result<(), String> {
        alarming::alarm(&due)
    }

    fn message(socket: u64, data: Data) -> Result<(), String> {
        sending::message(socket, &data)
    }

    fn closed(socket: u64, code: u16, reason: String) -> Result<(), String> {
        storage::put(b"closed", format!("{socket} {code} {reason}").as_bytes())
            .map_err(|error| error.to_string())
    }

    fn reply(_token: u64, _reply: Result<Response, OutgoingError>) -> Result<(), String> {
        Err("nothing was sent".to_owned())
    }

    /// Doubles the counter. From version 66 it fails, from 67 it traps after it wrote.
    fn upgrade(from_version: u32) -> Result<(), String> {
        storage::put(b"upgraded-from", from_version.to_string().as_bytes())
            .map_err(|error| error.to_string())?;
        match from_version {
            66 => Err("version 66 cannot be read".to_owned()),
            67 => panic!("as the version asks"),
            _ => Ok(()),
        }
    }
}

type Text = Result<(u16, String), String>;

fn ok(text: impl Into<String>) -> Text {
    Ok((200, text.into()))
}

fn trap() -> Text {
    panic!("as the path asks")
}

/// Runs the subject of the path.
fn run(parts: &[&str], request: &Request) -> Text {
    store(parts, request).unwrap_or_else(|| run_other(parts, request))
}

/// The subjects of storage.
fn store(parts: &[&str], request: &Request) -> Option<Text> {
    Some(match *parts {
        ["get", key] => storing::get(key),
        ["put", key, value] => storing::put(key, value.as_bytes()),
        ["put-body", key] => storing::put(key, &request.body),
        ["delete", key] => storing::delete(key),
        ["clear"] => storing::clear(),
        ["increment", key] => storing::increment(key, 1),
        ["increment", key, by] => storing::increment(key, by.parse().expect("a number")),
        ["swap", key, expected, new] => storing::swap(key, expected, new),
        ["append", key, value] => storing::append(key, value),
        ["scan", start, end, direction, limit] => storing::scan(start, end, direction, limit),
        ["script"] => storing::script(&request.body),
        ["fill", prefix, count, bytes] => storing::fill(prefix, count, bytes),
        ["big-key", bytes] => storing::put(&"k".repeat(bytes.parse().expect("a number")), b"v"),
        ["big-value", bytes] => storing::put("big", &vec![7; bytes.parse().expect("a number")]),
        ["delete-many", count] => storing::delete_many(count),
        ["usage"] => storing::usage(),
        ["keyvalue"] => keyvalue::all(),
        ["keyvalue", "hold"] => keyvalue::hold(),
        ["keyvalue", "keys"] => keyvalue::keys(),
        ["keyvalue", "open", bucket] => keyvalue::open(bucket),
        ["put-trap", key, value] => storing::put_then(key, value, trap),
        ["put-fail", key, value] => storing::put_then(key, value, || Err("as asked".to_owned())),
        ["put-exit", key, value] => storing::put_then(key, value, || std::process::exit(0)),
        ["write-on", key] => storing::write_on(key),
        ["sleep-put", ms, key, value] => attacks::sleep(ms).and_then(|_| storing::put(key, value.as_bytes())),
        ["put-sync-put", a, b] => storing::two_segments(a, b),
        ["put-sync-put-trap", a, b] => storing::two_segments(a, b).and_then(|_| trap()),
        ["sync"] => storage::sync().map_err(|error| error.to_string()).and_then(|()| ok("durable")),
        _ => return None,
    })
}

/// All others.
fn run_other(parts: &[&str], request: &Request) -> Text {
    match *parts {
        ["fetch", key] => sending::fetch(key, "http://o.example/a", None),
        ["fetch-timeout", ms] => sending::fetch("t", "http://o.example/never", ms.parse().ok()),
        ["fetch-url"] => sending::fetch("u", &String::from_utf8_lossy(&request.body), None),
        ["fetch-trap", key] => sending::fetch(key, "http://o.example/a", None).and_then(|_| {
            storage::put(b"after-fetch", b"lost").expect("there is room");
            trap()
        }),
        ["call", host, ref rest @ ..] => {
            sending::fetch("called", &format!("http://{host}/{}", rest.join("/")), None)
        }
        ["fetch-many", count] => sending::fetch_many(count.parse().expect("a number")),
        ["send-later"] => sending::send_later(),
        ["wasi-leave", socket] => sending::wasi_leave(socket),
        ["wasi-fetch", then] => sending::wasi_fetch(then),
        ["tell", socket, text] => sending::tell(socket, text, 1),
        ["tell-many", socket, count] => sending::tell(socket, "x", count.parse().expect("a number")),
        ["tell-big", socket, bytes] => {
            sending::tell(socket, &"x".repeat(bytes.parse().expect("a number")), 1)
        }
        ["tell-sync-tell-trap", socket] => sending::tell_sync_tell(socket).and_then(|_| trap()),
        ["tell-sync-tell", socket] => sending::tell_sync_tell(socket),
        ["shout", tag, text] => sending::shout(tag, text),
        ["hang-up", socket, code] => sending::hang_up(socket, code),
        ["attach", socket, text] => sending::attach(socket, text),
        ["sockets", tag] => sending::sockets(tag),

        ["alarm", id, at] => alarming::set(id, at),
        ["alarm-trap", id, at] => alarming::set(id, at).and_then(|_| trap()),
        ["unalarm", id] => alarming::clear(id),
        ["alarms"] => alarming::list(),
        ["alarm-flood", count] => alarming::flood(count),

        ["who"] => who(),
        ["turns"] => ok(TURNS.load(Relaxed).to_string()),
        ["queue"] => ok(identity::queue_length().to_string()),
        ["await-queue", count] => attacks::await_queue(count),
        ["spin"] => attacks::spin(),
        ["spin", ms] => attacks::spin_for(ms),
        ["sleep", ms] => attacks::sleep(ms),
        ["memory"] => attacks::memory(),
        ["recurse"] => ok(attacks::recurse(0).to_string()),
        ["print", bytes] => attacks::print(bytes),
        ["remember", text] => attacks::remember(text),
        ["recall"] => attacks::recall(),
        ["hold-timer"] => attacks::hold_timer(),
        ["drop-timer"] => attacks::drop_timer(),
        ["field", _, _] => ok("five!"),
        ["status", status] => Ok((status.parse().expect("a number"), String::new())),
        ["headers"] => ok(headers(request)),
        ["echo"] => ok(String::from_utf8_lossy(&request.body)),
        _ => Ok((404, "no such subject".to_owned())),
    }
}

fn who() -> Text {
    let own = identity::get_identity();
    let name = own.name.as_deref().unwrap_or("-");
    ok(format!("{} {name} {} {} {} {}", own.id, own.class, own.zone, own.epoch, own.schema_version))
}

fn headers(request: &Request) -> String {
    let names: Vec<&str> = request.headers.iter().map(|(name, _)| name.as_str()).collect();
    format!("{} {} {}", request.method, request.url, names.join(","))
}

fn accepted(tags: Vec<String>, attachment: &[u8]) -> Answer {
    Answer::Accept(Accept { tags, attachment: attachment.to_vec(), protocol: None })
}
