//! Subjects that send: requests to others, messages on sockets.

use wasip2::http::outgoing_handler;
use wasip2::http::types::{Fields, Method, OutgoingBody, OutgoingRequest, Scheme};

use crate::world::berth::object::outgoing::{self, Error as OutgoingError};
use crate::world::berth::object::sockets::{self, Error};
use crate::world::berth::object::storage;
use crate::world::berth::object::types::{Accept, Request};
use crate::world::exports::berth::object::events::{Answer, Data};
use crate::{Text, accepted, ok};

fn name(error: Error) -> &'static str {
    match error {
        Error::Gone => "gone",
        Error::TooLarge => "too-large",
        Error::TooMany => "too-many",
        Error::BadCode => "bad-code",
    }
}

fn told<T>(outcome: Result<T, Error>, text: impl FnOnce(T) -> String) -> Text {
    match outcome {
        Ok(value) => ok(text(value)),
        Err(error) => Ok((400, name(error).to_owned())),
    }
}

fn ask(url: &str) -> Request {
    Request { method: "GET".to_owned(), url: url.to_owned(), headers: Vec::new(), body: Vec::new() }
}

/// Writes first, so that there is something to be durable before the request leaves.
pub(crate) fn fetch(key: &str, url: &str, timeout_ms: Option<u32>) -> Text {
    storage::put(key.as_bytes(), b"before the fetch").map_err(|error| error.to_string())?;
    match outgoing::fetch(&ask(url), timeout_ms) {
        Ok(response) => Ok((response.status, String::from_utf8_lossy(&response.body).into_owned())),
        Err(OutgoingError::Invalid(reason)) => Ok((400, format!("invalid {reason}"))),
        Err(OutgoingError::Failed(reason)) => Ok((400, format!("failed {reason}"))),
        Err(OutgoingError::TooLarge) => Ok((400, "too-large".to_owned())),
        Err(OutgoingError::Timeout) => Ok((400, "timeout".to_owned())),
        Err(OutgoingError::NotBuiltYet) => Ok((400, "not-built-yet".to_owned())),
    }
}

pub(crate) fn fetch_many(count: u32) -> Text {
    for _ in 0..count {
        outgoing::fetch(&ask("http://o.example/a"), None).map_err(|error| error.to_string())?;
    }
    ok("sent")
}

pub(crate) fn send_later() -> Text {
    match outgoing::send(&ask("http://o.example/a")) {
        Err(OutgoingError::NotBuiltYet) => ok("not-built-yet"),
        other => Err(format!("{other:?}")),
    }
}

/// Sends on a socket, writes, sends a request by `wasi:http`, and does not wait for anything.
pub(crate) fn wasi_leave(socket: &str) -> Text {
    tell(socket, "before", 1)?;
    storage::put(b"one", b"1").map_err(|error| error.to_string())?;
    let request = OutgoingRequest::new(Fields::new());
    request.set_authority(Some("o.example")).expect("an authority");
    request.set_path_with_query(Some("/a")).expect("a path");
    let _future = outgoing_handler::handle(request, None).expect("it may be sent");
    tell(socket, "after", 1)
}

/// A request by `wasi:http`, whose body is written on while the turn writes to its storage, with time between its pieces.
pub(crate) fn wasi_fetch(then: &str) -> Text {
    let request = OutgoingRequest::new(Fields::new());
    request.set_method(&Method::Post).expect("a method");
    request.set_scheme(Some(&Scheme::Http)).expect("a scheme");
    request.set_authority(Some("o.example")).expect("an authority");
    request.set_path_with_query(Some("/echo")).expect("a path");
    let body = request.body().expect("nobody took it");
    let stream = body.write().expect("nobody took it");
    storage::put(b"one", b"1").expect("there is room");
    let future = outgoing_handler::handle(request, None).expect("it may be sent");
    if then.ends_with("trap") && then != "sync-trap" {
        storage::put(b"two", b"2").expect("there is room");
        if then == "spin-trap" {
            // Long enough to be interrupted, so that the host sees the request.
            crate::attacks::spin_for("30")?;
        }
        panic!("after the request, as asked");
    }
    if then != "sync-trap" {
        stream.blocking_write_and_flush(b"first ").expect("somebody reads");
    }
    crate::attacks::sleep("20")?;
    storage::put(b"two", b"2").expect("there is room");
    if then == "sync-trap" {
        storage::sync().map_err(|error| error.to_string())?;
        storage::put(b"lost", b"1").expect("there is room");
        panic!("after the sync, as asked");
    }
    stream.blocking_write_and_flush(b"second").expect("somebody reads");
    crate::attacks::sleep("20")?;
    storage::put(b"three", b"3").expect("there is room");
    drop(stream);
    OutgoingBody::finish(body, None).expect("it is whole");
    let pollable = future.subscribe();
    pollable.block();
    drop(pollable);
    let reply = future.get().expect("it is there").expect("nobody took it").expect("a reply");
    let body = reply.consume().expect("nobody took it");
    let stream = body.stream().expect("nobody took it");
    let mut text = String::new();
    while let Ok(bytes) = stream.blocking_read(1000) {
        text.push_str(&String::from_utf8_lossy(&bytes));
    }
    ok(text)
}

pub(crate) fn accept(upgrade: Option<u64>, tag: &str) -> Result<Answer, String> {
    let socket = upgrade.unwrap_or(0);
    if upgrade.is_some() {
        let welcome = Data::Text(format!("welcome {socket}"));
        sockets::send(socket, &welcome).map_err(|error| name(error).to_owned())?;
    }
    Ok(accepted(vec![tag.to_owned()], b"new"))
}

/// With a subprotocol.
pub(crate) fn accept_as(protocol: &str) -> Answer {
    let protocol = Some(protocol.to_owned());
    Answer::Accept(Accept { tags: Vec::new(), attachment: Vec::new(), protocol })
}

/// So many tags, and an attachment of so many bytes.
pub(crate) fn accept_odd(tags: &str, bytes: &str) -> Answer {
    let tags = vec!["tag".to_owned(); tags.parse().expect("a number")];
    accepted(tags, &vec![1; bytes.parse().expect("a number")])
}

pub(crate) fn tell(socket: &str, text: &str, times: u32) -> Text {
    let socket = socket.parse().expect("a number");
    for _ in 0..times {
        if let Err(error) = sockets::send(socket, &Data::Text(text.to_owned())) {
            return Ok((400, name(error).to_owned()));
        }
    }
    ok("told")
}

pub(crate) fn tell_sync_tell(socket: &str) -> Text {
    storage::put(b"told", b"once").map_err(|error| error.to_string())?;
    tell(socket, "first", 1)?;
    storage::sync().map_err(|error| error.to_string())?;
    tell(socket, "second", 1)
}

pub(crate) fn shout(tag: &str, text: &str) -> Text {
    told(sockets::broadcast(tag, &Data::Text(text.to_owned()), Some(1)), |()| "shouted".to_owned())
}

pub(crate) fn hang_up(socket: &str, code: &str) -> Text {
    let socket = socket.parse().expect("a number");
    let first = sockets::close(socket, code.parse().expect("a number"), "bye");
    if first.is_ok() {
        return told(sockets::send(socket, &Data::Binary(vec![1])), |()| "sent after a close".to_owned());
    }
    told(first, |()| "closed".to_owned())
}

/// Changes an attachment, and reads it back.
pub(crate) fn attach(socket: &str, text: &str) -> Text {
    let socket = socket.parse().expect("a number");
    let before = match sockets::attachment(socket) {
        Ok(before) => before,
        Err(error) => return Ok((400, name(error).to_owned())),
    };
    if let Err(error) = sockets::set_attachment(socket, text.as_bytes()) {
        return Ok((400, name(error).to_owned()));
    }
    let both = [before, b" then ".to_vec(), sockets::attachment(socket).expect("it is open")].concat();
    ok(String::from_utf8_lossy(&both))
}

pub(crate) fn sockets(tag: &str) -> Text {
    let found = sockets::tagged((tag != "-").then_some(tag));
    let tags: Vec<String> =
        found.iter().map(|socket| sockets::tags(*socket).expect("it is open").join("+")).collect();
    ok(format!("{found:?} {}", tags.join(",")))
}

/// Remembers what came, and sends it back.
pub(crate) fn message(socket: u64, data: &Data) -> Result<(), String> {
    let text = match data {
        Data::Text(text) if text == "trap" => panic!("as asked"),
        Data::Text(text) => text.clone(),
        Data::Binary(bytes) => format!("{} bytes", bytes.len()),
    };
    storage::put(b"heard", text.as_bytes()).map_err(|error| error.to_string())?;
    sockets::send(socket, data).map_err(|error| name(error).to_owned())
}
