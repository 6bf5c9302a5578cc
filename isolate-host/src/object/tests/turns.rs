//! The rules of turns: what is committed when, what leaves when, and what is left of a turn that fails.

use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;

use super::place::*;
use crate::FaultKind;
use crate::object::*;
use crate::tests::block_on;

#[test]
fn a_counter_counts() {
    let place = place();
    let mut instance = place.start();
    for number in 1..=3 {
        let answer;
        (instance, answer) = place.ask(instance, "/increment/hits");
        assert_eq!(answer, number.to_string());
        assert_eq!(place.store.value("hits"), Some(number.to_string()));
    }
    assert_eq!(place.ask_anew("/increment/hits"), "4", "another instance finds what is stored");
    assert_eq!(place.ask_anew("/turns"), "1", "but nothing of the other's memory");
}

#[test]
fn a_turn_without_commit_points_leaves_one_batch_and_one_that_only_read_leaves_none() {
    let place = place();
    let instance = place.start();
    let (instance, outcome) = place.run(instance, get("/put/a/1")).unwrap();
    let put = |space, key: &'static [u8], value: &'static [u8]| Effect::Put {
        space,
        key: Bytes::from_static(key),
        value: Bytes::from_static(value),
    };
    let schema = put(Space::Meta, SCHEMA_KEY, &[3, 0, 0, 0]);
    assert_eq!(outcome.effects, [put(Space::User, b"a", b"1"), schema], "the first batch says the schema");
    let script = post("/script", "get a\nput b 2\ndelete a\nget a\nget b");
    let (instance, outcome) = place.run(instance, script).unwrap();
    assert_eq!(text(&outcome), "1\nput\ndeleted\nnothing\n2", "a turn reads what it wrote");
    let delete = Effect::Delete { space: Space::User, key: Bytes::from_static(b"a") };
    assert_eq!(outcome.effects, [delete, put(Space::User, b"b", b"2")]);
    let (_, outcome) = place.run(instance, get("/get/b")).unwrap();
    assert_eq!((text(&outcome).as_str(), outcome.effects), ("2", Vec::new()));
}

#[test]
fn a_turn_that_fails_before_a_commit_point_never_was_and_ends_its_instance() {
    for path in ["/put-trap/a/1", "/put-exit/a/1", "/put-fail/a/1"] {
        let place = place();
        let mut turn = place.begin(place.start(), get(path));
        let Poll::Ready(Ended { result, commits, .. }) = poll_far(&mut turn) else { panic!("{path} waits") };
        let error = result.err().unwrap_or_else(|| panic!("{path} has an outcome"));
        match (path, &error) {
            ("/put-fail/a/1", TurnError::Failed(reason)) => assert_eq!(reason, "as asked"),
            _ => assert!(is_trap(&error), "{path}: {error}"),
        }
        assert_eq!((commits, place.store.lock().commits.len()), (0, 0), "{path}");
        assert_eq!(place.ask_anew("/get/a"), "nothing");
    }
}

#[test]
fn a_sync_waits_until_what_was_written_is_durable_and_then_keeps_it() {
    let place = place();
    let mut turn = place.begin(place.start(), get("/put-sync-put-trap/a/b"));
    assert!(poll_far(&mut turn).is_pending(), "the disk has not answered");
    assert_eq!(place.store.lock().commits.len(), 1, "it was handed over");
    place.store.sync();
    let Poll::Ready(Ended { result, commits, .. }) = poll_far(&mut turn) else { panic!("it is durable") };
    assert!(is_trap(&result.err().unwrap()));
    assert_eq!(commits, 1);
    assert_eq!((place.store.value("a"), place.store.value("b")), (Some("first".to_owned()), None));

    let mut turn = place.begin(place.start(), get("/put-sync-put/a/c"));
    assert!(poll_far(&mut turn).is_pending());
    place.store.sync();
    let Poll::Ready(ended) = poll_far(&mut turn) else { panic!("it is durable") };
    let (_, outcome) = ended.result.unwrap();
    let keys: Vec<&[u8]> = outcome.effects.iter().map(key).collect();
    assert_eq!(keys, [b"c"], "the last segment has what was written after the first");
}

fn key(effect: &Effect) -> &[u8] {
    match effect {
        Effect::Put { key, .. } | Effect::Delete { key, .. } => key,
        Effect::Clear { .. } => b"*",
    }
}

#[test]
fn a_request_leaves_only_when_what_was_written_before_is_durable() {
    let place = place();
    let mut turn = place.begin(place.start(), get("/fetch/before"));
    assert!(poll_far(&mut turn).is_pending());
    assert_eq!(place.around.left(), [""; 0], "nothing has left");
    assert_eq!(place.store.value("before"), Some("before the fetch".to_owned()), "it was handed over");
    place.store.sync();
    let Poll::Ready(ended) = poll_far(&mut turn) else { panic!("it is durable") };
    let (instance, outcome) = ended.result.unwrap();
    assert_eq!(place.around.left(), ["GET o.example/a"]);
    assert_eq!((text(&outcome).as_str(), outcome.effects.len(), ended.commits), ("from the origin", 0, 1));

    // An earlier turn whose outcome is not durable yet counts as much as a write of this one.
    let (instance, outcome) = place.run(instance, get("/put/a/1")).unwrap();
    place.store.lock().apply(&outcome.effects);
    let mut turn = place.begin(instance, get("/fetch-many/1"));
    assert!(poll_far(&mut turn).is_pending());
    assert_eq!(place.around.left().len(), 1);
    place.store.sync();
    assert!(poll_far(&mut turn).is_ready());
    assert_eq!(place.around.left().len(), 2);
}

#[test]
fn a_trap_after_a_request_drops_what_was_written_after_it_and_no_more() {
    let place = place();
    let error = place.error("/fetch-trap/before");
    assert!(is_trap(&error), "{error}");
    assert_eq!(place.store.value("before"), Some("before the fetch".to_owned()));
    assert_eq!(place.store.value("after-fetch"), None);
    assert_eq!(place.around.left(), ["GET o.example/a"]);
}

#[test]
fn a_commit_that_fails_ends_the_turn_and_nothing_leaves() {
    for path in ["/fetch/a", "/put-sync-put/a/b"] {
        let place = place();
        let mut turn = place.begin(place.start(), get(path));
        assert!(poll_far(&mut turn).is_pending());
        place.store.fail();
        let Poll::Ready(ended) = poll_far(&mut turn) else { panic!("{path}: the commit has failed") };
        let error = ended.result.err().unwrap();
        assert!(matches!(error, TurnError::Commit(_)), "{path}: {error}");
        assert_eq!(place.around.left(), [""; 0], "{path}");
    }
}

#[test]
fn each_piece_of_a_body_waits_for_what_was_written_before_it() {
    let place = place();
    *place.around.steps.lock().unwrap() = Some(Steps::default());
    let mut turn = place.begin(place.start(), get("/wasi-fetch/on"));
    let (request, first, second) = ("POST o.example/echo", "piece first ", "piece second");
    let steps: [(&str, &[&str], &[&str]); 3] = [
        ("one", &[], &[request, first]),
        ("two", &[request, first], &[request, first, second]),
        ("three", &[request, first, second], &[request, first, second]),
    ];
    for (number, (key, before, after)) in steps.into_iter().enumerate() {
        assert!(poll_far(&mut turn).is_pending());
        assert_eq!(place.store.lock().commits.len(), number + 1, "{key} was handed over");
        assert!(place.store.value(key).is_some());
        assert_eq!(place.around.left(), before, "{key} is not durable");
        place.store.sync();
        if number < 2 {
            assert!(poll_far(&mut turn).is_pending(), "the guest sleeps");
            assert_eq!(place.around.left(), after, "{key} is durable");
        }
        place.around.step();
    }
    let Poll::Ready(ended) = poll_far(&mut turn) else { panic!("all is durable") };
    assert_eq!(text(&ended.result.unwrap().1), "first second");
}

#[test]
fn a_commit_point_is_where_the_guest_was_also_if_it_ran_on() {
    for path in ["/wasi-fetch/trap", "/wasi-fetch/spin-trap"] {
        let place = place();
        let error = place.error(path);
        assert!(is_trap(&error), "{error}");
        assert!(place.store.value("one").is_some(), "{path}: before the request");
        assert_eq!(place.store.value("two"), None, "{path}: after it, and the turn trapped");
    }
}

#[test]
fn a_sync_behind_another_commit_point_waits_for_its_own_writes() {
    let place = place();
    *place.around.steps.lock().unwrap() = Some(Steps::default());
    let mut turn = place.begin(place.start(), get("/wasi-fetch/sync-trap"));
    for commits in [1, 2] {
        assert!(poll_far(&mut turn).is_pending());
        assert_eq!(place.store.lock().commits.len(), commits);
        place.around.step();
    }
    assert!(place.store.value("two").is_some(), "handed over while the first is not durable");
    assert!(poll_far(&mut turn).is_pending());
    place.store.sync();
    let Poll::Ready(ended) = poll_far(&mut turn) else { panic!("all is durable") };
    assert!(is_trap(&ended.result.err().unwrap()));
    assert_eq!((ended.commits, place.around.left().len()), (2, 1), "the request of the first segment");
}

#[test]
fn a_turn_after_a_pause_is_not_interrupted_at_once() {
    let place = place();
    let mut instance = Some(place.start());
    // The clock of the epochs goes on for a while when nothing runs. A busy machine may interrupt some of them, not all.
    let in_one_poll = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        let mut turn = place.begin(instance.take().unwrap(), get("/get/a"));
        let first = poll(&mut turn);
        let was_ready = first.is_ready();
        let Poll::Ready(ended) = (if was_ready { first } else { poll_far(&mut turn) }) else {
            panic!("it waits")
        };
        instance = Some(ended.result.unwrap().0);
        was_ready
    });
    assert!(in_one_poll, "each made room for others, who had had all the time");
}

fn is_trap(error: &TurnError) -> bool {
    matches!(error, TurnError::Fault(fault) if matches!(fault.kind, FaultKind::Trap))
}

#[test]
fn what_is_sent_on_sockets_leaves_with_its_segment() {
    let place = place();
    place.around.sockets.lock().unwrap().insert(SocketId(1), Default::default());
    let (instance, outcome) = place.run(place.start(), get("/tell/1/hello")).unwrap();
    let notes: Vec<String> = outcome.sends.iter().map(note).collect();
    assert_eq!(notes, ["send 1 hello"], "the caller lets it out with the outcome");
    place.around.left.lock().unwrap().clear();

    let mut turn = place.begin(instance, get("/tell-sync-tell-trap/1"));
    assert!(poll_far(&mut turn).is_pending());
    assert_eq!(place.around.left(), [""; 0], "the first segment is not durable");
    place.store.sync();
    assert!(poll_far(&mut turn).is_ready());
    assert_eq!(place.around.left(), ["send 1 first"], "the second segment has trapped");

    let (_, outcome) = place.run(place.start(), get("/tell-sync-tell/1")).unwrap();
    assert_eq!(outcome.sends.iter().map(note).collect::<Vec<_>>(), ["send 1 second"]);
    assert_eq!(place.around.left()[1..], ["send 1 first", "send 1 second"], "each once, in order");
}

#[test]
fn a_turn_that_does_not_wait_leaves_everything_to_its_end() {
    let place = place();
    place.around.sockets.lock().unwrap().insert(SocketId(1), Default::default());
    let mut turn = place.begin(place.start(), get("/wasi-leave/1"));
    let Poll::Ready(ended) = poll_far(&mut turn) else { panic!("it waits for nothing") };
    let (_, outcome) = ended.result.unwrap();
    assert!(place.store.value("one").is_some(), "handed over at the request");
    let sends: Vec<String> = outcome.sends.iter().map(note).collect();
    assert_eq!(
        (ended.commits, sends.as_slice()),
        (1, ["send 1 before", "send 1 after"].map(str::to_owned).as_slice())
    );
}

#[test]
fn alarms_are_in_the_batch_of_the_turn_that_sets_them() {
    let place = place();
    let (instance, outcome) = place.run(place.start(), post("/script", "put a 1")).unwrap();
    assert_eq!(outcome.effects.len(), 2);
    let (instance, outcome) = place.run(instance, get("/alarm/tea/1000")).unwrap();
    let tea = Effect::alarm(Bytes::from_static(b"tea"), 1000, b"tea");
    assert_eq!(outcome.effects, [tea], "due time and payload");
    let (instance, answer) = place.ask(instance, "/alarm/cake/500");
    assert_eq!(answer, "set");
    let (instance, answer) = place.ask(instance, "/alarms");
    assert_eq!(answer, "cake@500:cake tea@1000:tea");
    let (instance, _) = place.ask(instance, "/unalarm/cake");
    let (instance, answer) = place.ask(instance, "/alarms");
    assert_eq!(answer, "tea@1000:tea");
    assert!(place.run(instance, get("/alarm-trap/never/1")).is_err());
    assert_eq!(place.ask_anew("/alarms"), "tea@1000:tea", "an alarm goes with the turn that trapped");
    assert_eq!(place.ask_anew("/alarm-flood/200"), "too-many at 99", "with tea, a hundred");
}

fn alarm(id: &str) -> Message {
    Message::Alarm { id: id.to_owned(), due_ms: 1000, attempt: 2, payload: Bytes::from_static(b"p") }
}

#[test]
fn an_alarm_is_over_when_its_turn_has_ended_well_and_not_before() {
    let place = place();
    for id in ["once", "again", "sync-trap", "fail"] {
        place.ask_anew(&format!("/alarm/{id}/1000"));
    }
    let (instance, outcome) = place.run(place.start(), alarm("once")).unwrap();
    assert_eq!(place.store.value("rang"), Some("once 1000 2 p".to_owned()));
    assert_eq!(outcome.answer, ObjectAnswer::None);
    place.run(instance, alarm("again")).unwrap();
    for id in ["sync-trap", "fail"] {
        assert!(place.run(place.start(), alarm(id)).is_err(), "{id}");
    }
    assert_eq!(place.store.value("rang"), Some("sync-trap 1000 2 p".to_owned()), "the first segment stays");
    let left = place.ask_anew("/alarms");
    assert_eq!(left, "again@2000:again fail@1000:fail sync-trap@1000:sync-trap", "those come again");
}

#[test]
fn an_alarm_that_was_set_anew_while_it_was_on_its_way_does_not_ring_and_keeps_its_new_time() {
    let place = place();
    place.ask_anew("/alarm/moved/5000");
    for (id, left) in [("moved", "moved@5000:moved"), ("cleared", "moved@5000:moved")] {
        let (instance, outcome) = place.run(place.start(), alarm(id)).unwrap();
        assert_eq!((outcome.answer, outcome.effects), (ObjectAnswer::None, Vec::new()), "{id}");
        assert_eq!(place.ask(instance, "/alarms").1, left);
    }
    assert_eq!(place.store.value("rang"), None);
}

#[test]
fn data_of_another_schema_is_upgraded_before_anything_else() {
    let mut place = place();
    place.stored_schema = Some(2);
    place.store.put("a", b"old");
    let (instance, outcome) = block_on(place.starting()).result.unwrap();
    let keys: Vec<&[u8]> = outcome.effects.iter().map(key).collect();
    assert_eq!(keys, [b"upgraded-from".as_slice(), SCHEMA_KEY], "with the new number in the same batch");
    place.take(&outcome);
    assert_eq!(place.ask(instance, "/get/upgraded-from").1, "2");
    for version in [66, 67] {
        place.stored_schema = Some(version);
        let before = place.store.lock().commits.len();
        let error = block_on(place.starting()).result.err().unwrap();
        let is_told = match version {
            66 => matches!(&error, TurnError::Failed(reason) if reason.contains("66")),
            _ => is_trap(&error),
        };
        assert!(is_told, "{error}");
        assert_eq!(place.store.lock().commits.len(), before, "nothing was written");
    }
    place.stored_schema = Some(3);
    let (_, outcome) = block_on(place.starting()).result.unwrap();
    assert_eq!(outcome.effects, [], "the same version has nothing to do");
}

#[test]
fn nothing_of_one_object_is_there_for_another() {
    let (one, other) = (place(), Place { name: "other", ..place() });
    let (mut first, mut second) = (one.start(), other.start());
    let mut answer;
    for round in 0..10 {
        (first, answer) = one.ask(first, &format!("/remember/secret-{round}"));
        assert_eq!(answer, "remembered");
        (first, _) = one.ask(first, &format!("/put/key/secret-{round}"));
        (first, _) = one.ask(first, "/alarm/secret/1");
        for (path, wanted) in
            [("/recall", ""), ("/get/key", "nothing"), ("/scan/-/-/up/10", ""), ("/alarms", "")]
        {
            (second, answer) = other.ask(second, path);
            assert_eq!(answer, wanted, "{path}");
        }
        (first, answer) = one.ask(first, "/recall");
        assert_eq!(answer, format!("secret-{round}"), "it is there for its own");
    }
    let (_, answer) = one.ask(first, "/who");
    assert_eq!(answer, format!("{} one subject tests 4 3", "10".repeat(16)));
    assert_eq!(other.ask(second, "/who").1, format!("{} other subject tests 4 3", "10".repeat(16)));
}
