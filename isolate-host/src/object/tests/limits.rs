//! What a turn and an object may cost, and what happens at the bound.

use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;

use super::place::*;
use crate::engine::{PLACES_MIN, PLACES_SPARE, Settings};
use crate::object::*;
use crate::tests::{block_on, load_component};
use crate::{FaultKind, Limit, Limits};

fn limit(error: &TurnError) -> Option<Limit> {
    match error {
        TurnError::Fault(fault) => match fault.kind {
            FaultKind::Limit(limit) => Some(limit),
            _ => None,
        },
        _ => None,
    }
}

#[test]
fn each_limit_of_a_turn_falls_by_name_and_what_was_stored_is_whole() {
    type Change = fn(&mut Limits);
    let attacks: [(&str, Limit, Change); 7] = [
        ("/spin", Limit::Cpu, |limits| limits.cpu = Duration::from_millis(20)),
        ("/sleep/60000", Limit::Wall, |limits| limits.wall = Duration::from_millis(30)),
        ("/memory", Limit::Memory, |_| {}),
        ("/recurse", Limit::Stack, |_| {}),
        ("/fetch-many/4", Limit::Outgoing, |limits| limits.outgoing = 3),
        ("/big-value/18000000", Limit::CallBytes, |_| {}),
        ("/fetch/a", Limit::Outgoing, |limits| limits.outgoing = 0),
    ];
    for (path, wanted, change) in attacks {
        let mut place = place();
        place.ask_anew("/put/kept/yes");
        change(&mut place.limits);
        let error = place.error(path);
        assert_eq!(limit(&error), Some(wanted), "{path}: {error}");
        assert_eq!(place.ask_anew("/get/kept"), "yes", "after {path}");
        assert_eq!(place.store.value("a"), None, "{path}");
    }
}

#[test]
fn a_turn_has_its_own_time_requests_and_lines() {
    let mut place = place();
    place.limits.cpu = Duration::from_millis(400);
    place.limits.outgoing = 3;
    place.limits.log_bytes = 1000;
    let mut instance = place.start();
    for round in 1..=4 {
        (instance, _) = place.ask(instance, "/spin/150");
        (instance, _) = place.ask(instance, "/fetch-many/3");
        (instance, _) = place.ask(instance, "/print/5000");
        assert_eq!(*place.around.cut.lock().unwrap(), round, "each turn is cut off at its own bound");
    }
    let logged: usize =
        place.around.lines.lock().unwrap().iter().map(|line| line.len() - "Out: ".len()).sum();
    assert!((3600..=4000).contains(&logged), "{logged}");
    let (mut instance, _) = place.ask(instance, "/print/100");
    let last = place.around.lines.lock().unwrap().last().cloned().unwrap();
    assert_eq!(last, "Err: no end of line", "a turn's last line is logged with its end");
    assert!(instance.may_travel(), "what it logs to is everywhere");
}

#[test]
fn time_is_told_with_the_turn() {
    let place = place();
    let mut turn = place.begin(place.start(), get("/spin/100"));
    let ended = block_on(std::future::poll_fn(|cx| turn.poll(cx)));
    assert!(ended.cpu >= Duration::from_millis(1) && ended.cpu < Duration::from_secs(5), "{:?}", ended.cpu);
}

#[test]
fn keys_values_and_what_is_written_at_once_are_bounded_by_name() {
    let place = place();
    for (path, wanted) in [
        ("/big-key/2048", "put"),
        ("/big-key/2049", "key-length"),
        ("/big-value/16777216", "put"),
        ("/big-value/16777217", "value-length"),
        ("/get/", "key-length"),
        ("/fill/m/40/1000000", "too-much-at-once at 33"),
        ("/delete-many/20000", "too-much-at-once at 16320"),
    ] {
        assert_eq!(place.ask_anew(path), wanted, "{path}");
    }
    let script = "fill m 33 1000000\nsync\nfill n 33 1000000";
    let (_, outcome) = place.run(place.start(), post("/script", script)).unwrap();
    assert_eq!(text(&outcome), "filled\ndurable\nfilled", "a sync makes room");
}

#[test]
fn the_quota_counts_exactly_what_is_there() {
    let mut place = place();
    place.storage_bytes = 1000;
    place.store.put("a", &[b'v'; 499]);
    place.store.put("b", &[b'v'; 399]);
    let run = |script: &str| text(&place.run(place.start(), post("/script", script)).unwrap().1);
    assert_eq!(run("fill x 1 93\nusage"), "filled\n1000 of 1000", "key of seven bytes and value fill it up");
    assert_eq!(run("fill y 1 1"), "quota at 0");
    assert_eq!(
        run("usage\nput b short\nusage"),
        "1000 of 1000\nput\n1006 of 1000",
        "which counts what it writes over"
    );
    assert_eq!(run("delete a\nfill y 5 93\nusage"), "deleted\nfilled\n1106 of 1000");
    assert_eq!(run("usage"), "606 of 1000");
    assert_eq!(run("clear\nfill z 10 93\nfill w 1 1"), "cleared\nfilled\nquota at 0", "all that was is gone");
    assert_eq!(run("usage"), "1000 of 1000");
    assert_eq!(
        run("put z000000 x\nfill w 1 80\nput z000000 x"),
        "put\nfilled\nput",
        "what was freed in the turn"
    );
    assert_eq!(place.store.value("y000000"), None, "nothing is half written");
}

#[test]
fn the_quota_knows_what_was_there_before_the_turn() {
    let mut place = place();
    place.storage_bytes = 1000;
    place.store.put("a", &[b'v'; 499]);
    place.store.put("b", &[b'v'; 499]);
    // Written over twice in a turn, the second time by somebody who has looked at what the first time wrote.
    let script = "put a 1\nswap a 1 2\nfill w 1 491\nfill x 1 1";
    let (_, outcome) = place.run(place.start(), post("/script", script)).unwrap();
    assert_eq!(text(&outcome), "put\ntrue\nfilled\nquota at 0");
}

#[test]
fn numbers_are_text_and_never_wrap() {
    let place = place();
    let script = "increment n 5\nincrement n -7\nget n\nput m 9223372036854775807\nincrement m 1\nget m\n\
                  put t ten\nincrement t 1\nput p +1\nincrement p 1\nincrement u -9223372036854775808\nincrement u -1";
    let (_, outcome) = place.run(place.start(), post("/script", script)).unwrap();
    let wanted = "5\n-2\n-2\nput\noverflow\n9223372036854775807\nput\nnot-a-number\nput\nnot-a-number\n\
                  -9223372036854775808\noverflow";
    assert_eq!(text(&outcome), wanted);
    let script = "swap s - one\nswap s - two\nswap s one two\nget s\nswap s two -\nget s\nswap s - -";
    let (_, outcome) = place.run(place.start(), post("/script", script)).unwrap();
    assert_eq!(text(&outcome), "true\nfalse\ntrue\ntwo\ntrue\nnothing\ntrue");
}

#[test]
fn a_hot_key_is_read_once_and_a_damaged_one_is_told() {
    let place = place();
    place.store.put("n", b"1");
    let mut instance = place.start();
    for _ in 0..5 {
        (instance, _) = place.ask(instance, "/increment/n");
        (instance, _) = place.ask(instance, "/get/absent");
    }
    assert_eq!(place.store.lock().reads, 2, "one for each key");
    place.store.lock().broken = true;
    let (instance, answer) = place.ask(instance, "/increment/n");
    assert_eq!(answer, "7", "what is known needs no disk");
    let (_, answer) = place.ask(instance, "/get/elsewhere");
    assert_eq!(answer, "unavailable damaged");
}

#[test]
fn what_is_known_of_a_key_ends_with_what_was_stored() {
    let place = place();
    let mut instance = place.start();
    for (path, wanted) in [
        ("/put/a/1", "put"),
        ("/put/b/1", "put"),
        ("/get/a", "1"),
        ("/delete/a", "deleted"),
        ("/get/a", "nothing"),
        ("/get/b", "1"),
        ("/clear", "cleared"),
        ("/get/b", "nothing"),
        ("/put/b/2", "put"),
        ("/get/b", "2"),
    ] {
        let answer;
        (instance, answer) = place.ask(instance, path);
        assert_eq!(answer, wanted, "{path}");
    }
}

#[test]
fn the_same_data_is_there_by_wasi_keyvalue() {
    let place = place();
    place.store.put("a", b"one");
    let (instance, answer) = place.ask(place.start(), "/keyvalue");
    assert_eq!(answer, "one true false 5 changed swapped x=nothing y=2 key-length");
    let (mut instance, _) = place.ask(instance, "/keyvalue/hold");
    assert!(instance.may_travel(), "the object's data comes along");
    let stored = ["a", "b", "n", "x", "y"].map(|key| place.store.value(key).unwrap_or_default());
    assert_eq!(stored, ["swapped", "", "5", "", "2"]);
    for path in ["/keyvalue/open/other", "/keyvalue/open/"] {
        assert_eq!(place.ask_anew(path), "no-such-store");
    }
    place.ask_anew("/fill/z/1500/1");
    let wanted = r#"1503 keys from Some("a") to Some("z001499"), pages 2"#;
    assert_eq!(place.ask_anew("/keyvalue/keys"), wanted);
}

#[test]
fn an_instance_travels_unless_it_holds_something_of_its_core() {
    let place = place();
    let (mut instance, _) = place.ask(place.start(), "/remember/me");
    assert!(instance.may_travel());
    let bytes = instance.memory_bytes();
    assert!((1 << 20..8 << 20).contains(&bytes), "a stack of 1 MiB and a little: {bytes}");
    let (mut instance, _) = place.ask(instance, "/hold-timer");
    assert!(!instance.may_travel(), "a timer is its core's");
    let (mut instance, _) = place.ask(instance, "/drop-timer");
    assert!(instance.may_travel());
    let (store, around) = (place.store.clone(), std::sync::Arc::clone(&place.around));
    let elsewhere = std::thread::spawn(move || {
        let there = Place { store, around, ..super::place::place() };
        there.ask(instance, "/recall").1
    });
    assert_eq!(elsewhere.join().unwrap(), "me", "memory and all");
}

#[test]
fn a_turn_that_is_dropped_gives_its_place_in_the_pool_back() {
    let script = load_component(&component(), &Settings { places: PLACES_MIN, ..Settings::default() });
    assert_eq!(script.places(), 1);
    let place = place();
    for path in ["/spin", "/sleep/60000", "/put-sync-put/a/b"] {
        let mut instances = Vec::new();
        for _ in 0..PLACES_MIN + PLACES_SPARE {
            let (instance, _) = block_on(ObjectInstance::start(&script, place.setup())).result.unwrap();
            instances.push(instance);
        }
        let full = block_on(ObjectInstance::start(&script, place.setup())).result.err().unwrap();
        assert!(matches!(&full, TurnError::Fault(fault) if matches!(fault.kind, FaultKind::Busy)), "{full}");
        for instance in instances {
            let mut turn = place.begin(instance, get(path));
            assert!(poll(&mut turn).is_pending(), "{path}");
        }
    }
    assert!(block_on(ObjectInstance::start(&script, place.setup())).result.is_ok());
}

#[test]
fn sockets_are_taken_told_and_closed_within_bounds() {
    let place = place();
    let upgrade = |path: &str, socket| match get(path) {
        Message::Request(request) => Message::Request(ObjectRequest { upgrade: socket, ..request }),
        other => other,
    };
    let (instance, outcome) = place.run(place.start(), upgrade("/accept/room", Some(SocketId(5)))).unwrap();
    let ObjectAnswer::Accept(accepted) = &outcome.answer else { panic!("{:?}", outcome.answer) };
    assert_eq!(
        (accepted.tags.as_slice(), accepted.attachment.as_ref()),
        (["room".to_owned()].as_slice(), b"new".as_slice())
    );
    assert_eq!(place.around.left(), ["send 5 welcome 5"], "after the socket is there");
    let (instance, outcome) = place.run(instance, upgrade("/tell/6/hello", Some(SocketId(6)))).unwrap();
    assert_eq!(
        (text(&outcome).as_str(), outcome.sends.len()),
        ("told", 0),
        "a socket that was not taken hears nothing"
    );
    let open = (accepted.tags.clone(), accepted.attachment.clone());
    place.around.sockets.lock().unwrap().insert(SocketId(5), open);
    let heard = Message::Socket { socket: SocketId(5), data: SocketData::Binary(Bytes::from_static(b"abc")) };
    let (mut instance, outcome) = place.run(instance, heard).unwrap();
    assert_eq!(
        (place.store.value("heard").unwrap().as_str(), note(&outcome.sends[0]).as_str()),
        ("3 bytes", "send 5 3 bytes")
    );
    for (path, wanted) in [
        ("/tell/9/x", "gone"),
        ("/tell-big/5/1048576", "told"),
        ("/tell-big/5/1048577", "too-large"),
        ("/tell-many/5/1001", "too-many"),
        ("/attach/5/newer", "new then newer"),
        ("/sockets/room", "[5] room"),
        ("/sockets/-", "[5] room"),
        ("/sockets/other", "[] "),
        ("/shout/room/all", "shouted"),
        ("/hang-up/5/1006", "bad-code"),
        ("/hang-up/5/4000", "gone"),
        ("/echo", ""),
    ] {
        let answer;
        (instance, answer) = place.ask(instance, path);
        assert_eq!(answer, wanted, "{path}");
    }
    let closed = Message::Closed { socket: SocketId(5), code: 1006, reason: "gone away".to_owned() };
    place.run(instance, closed).unwrap();
    assert_eq!(place.store.value("closed").unwrap(), "5 1006 gone away");
    assert!(matches!(place.error("/accept/room"), TurnError::BadAnswer(_)), "nobody asked for a socket");
    for (path, is_good) in
        [("/accept-odd/8/2048", true), ("/accept-odd/9/1", false), ("/accept-odd/1/2049", false)]
    {
        let outcome = place.run(place.start(), upgrade(path, Some(SocketId(8))));
        assert_eq!(outcome.is_ok(), is_good, "{path}: {:?}", outcome.err());
    }
}

#[test]
fn requests_to_others_fail_by_name() {
    let place = place();
    let url = |url: &str| text(&place.run(place.start(), post("/fetch-url", url)).unwrap().1);
    assert!(url("ftp://o.example/").starts_with("invalid"));
    assert!(url("http://o.example/refused").starts_with("failed ErrorCode::ConnectionRefused"));
    assert_eq!(place.ask_anew("/fetch-timeout/20"), "timeout");
    assert_eq!(place.ask_anew("/send-later"), "not-built-yet");
    *place.around.reply_bytes.lock().unwrap() = 16 << 20;
    assert_eq!(place.ask_anew("/fetch/a"), "too-large");
    assert_eq!(
        place.ask_anew("/headers"),
        "GET https://o.example/headers x-seen",
        "what is a connection's is hidden"
    );
    assert_eq!(place.ask_anew("/queue"), "7");
    for answer in [
        "/status/199",
        "/status/1000",
        "/field/content-length/4",
        "/field/content-length/6",
        "/field/connection/close",
        "/field/berth x/v",
    ] {
        assert!(matches!(place.error(answer), TurnError::BadAnswer(_)), "{answer}");
    }
    assert_eq!(place.ask_anew("/field/content-length/5"), "five!");
}

#[test]
fn a_turn_waits_for_a_broken_gate_no_longer_than_its_caller() {
    let mut place = place();
    place.limits.wall = Duration::from_millis(30);
    let mut turn = place.begin(place.start(), get("/put-sync-put/a/b"));
    assert!(poll(&mut turn).is_pending());
    std::thread::sleep(Duration::from_millis(60));
    assert!(poll_far(&mut turn).is_pending(), "its guest is gone, and what it committed is not known");
    place.store.sync();
    let Poll::Ready(ended) = poll_far(&mut turn) else { panic!("now it is") };
    assert_eq!(limit(&ended.result.err().unwrap()), Some(Limit::Wall));
    assert_eq!((place.store.value("a").is_some(), place.store.value("b")), (true, None));
}
