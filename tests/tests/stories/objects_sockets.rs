//! WebSockets of objects, with clients of Python's `websockets`: what is sent arrives, in order, and sockets outlast the
//! instances that handle them.

use std::io::{Read, Write};
use std::net::TcpStream;

use berth_tests::clients::{berth, connect, curl, read_until};
use berth_tests::node::{Driver, Node, Plan, wait_until};
use berth_tests::objects::deploy_probe;
use berth_tests::on_both_drivers;
use berth_tests::sockets::Sockets;
use serde_json::json;

use crate::common;

on_both_drivers!(["websockets"]; an_object_hears_and_answers_on_a_socket, a_socket_outlasts_instances_moves_and_versions,
    messages_keep_their_order_while_the_object_moves, what_is_said_to_a_tag_reaches_those_who_have_it);
on_both_drivers!(["websockets"]; a_failed_turn_closes_its_socket_and_no_other, a_request_that_is_no_handshake_is_answered_as_such,
    who_is_too_slow_is_cut_off, a_silent_client_is_asked_and_then_left, a_node_that_stops_says_good_bye);

fn node(driver: Driver, limits: &str) -> Node {
    let node = Plan::new(driver, format!("{}{limits}", common())).start();
    deploy_probe(&node, &json!({}));
    node
}

fn url(node: &Node, path: &str) -> String {
    format!("ws://{}/probe/{path}", node.listener(0))
}

fn ask(node: &Node, path: &str) -> String {
    curl(&[&node.http(&format!("/probe/{path}"))]).ok()
}

/// The number that the object gave a socket, as it greets it.
fn number(sockets: &mut Sockets, name: &str) -> String {
    let said = sockets.recv(name);
    said.strip_prefix("welcome ").unwrap_or_else(|| panic!("{said}")).to_owned()
}

fn move_to(node: &Node, id: &str, core: usize) {
    let said = berth(node, &["objects", "move", id, "--to", &core.to_string()]);
    assert!(said.code == 0 || said.all().contains("at that core already"), "{}", said.all());
}

fn an_object_hears_and_answers_on_a_socket(driver: Driver) {
    let node = node(driver, "");
    let mut sockets = Sockets::start();
    sockets.open("ada", &url(&node, "room/accept/all"));
    let ada = number(&mut sockets, "ada");
    sockets.send("ada", "hello");
    assert_eq!(sockets.recv("ada"), "hello");
    assert_eq!(ask(&node, "room/get/heard"), "hello", "what its turn wrote is stored");
    sockets.send_bytes("ada", 100_000);
    assert_eq!(sockets.recv("ada"), "100000 bytes");
    assert_eq!(ask(&node, &format!("room/tell/{ada}/psst")), "told", "a request may send, too");
    assert_eq!(sockets.recv("ada"), "psst");
    assert_eq!(ask(&node, &format!("room/attach/{ada}/more")), "new then more");
    assert_eq!(ask(&node, "room/sockets/all"), format!("[{ada}] all"));

    let tls = format!("wss://{}/probe/room/accept-as/chat", node.listener(1));
    let said = sockets.try_open("bob", &tls, &json!({"protocols": ["other", "chat"]}));
    assert_eq!(said, json!({"ok": "chat"}), "over TLS, with a subprotocol");
    let said = sockets.try_open("eve", &tls, &json!({"protocols": ["other"]}));
    assert_eq!(said, json!({"status": 500}), "an object may take only one that was offered");
    assert_eq!(node.number("websockets"), 2);

    sockets.close("ada", 3001, "good bye");
    wait_until("the object has heard", || ask(&node, "room/get/closed") == format!("{ada} 3001 good bye"));
    assert_eq!(ask(&node, &format!("room/tell/{ada}/late")), "gone");
    assert_eq!(ask(&node, "room/sockets/all"), "[] ");
    drop(sockets);
    wait_until("who vanishes is missed", || ask(&node, "room/get/closed").ends_with(" 1006 "));
    node.finish();
}

fn a_socket_outlasts_instances_moves_and_versions(driver: Driver) {
    let node = node(driver, "");
    let mut sockets = Sockets::start();
    sockets.open("ada", &url(&node, "room/accept/all"));
    let ada = number(&mut sockets, "ada");
    let id = ask(&node, "room/who").split(' ').next().unwrap().to_owned();
    let mut check = |what: &str| {
        sockets.send("ada", what);
        assert_eq!(sockets.recv("ada"), what);
        assert_eq!(ask(&node, "room/sockets/all"), format!("[{ada}] all"), "{what}");
        assert_eq!(ask(&node, &format!("room/tell/{ada}/{what}")), "told");
        assert_eq!(sockets.recv("ada"), what);
    };
    check("first");
    assert_eq!(ask(&node, &format!("room/attach/{ada}/kept")), "new then kept");
    berth(&node, &["objects", "evict", &id]).ok();
    check("evicted");
    let cores = node.numbers("object_turns").len();
    for core in (0..cores).chain([0]) {
        move_to(&node, &id, core);
        check(&format!("core-{core}"));
    }
    deploy_probe(&node, &json!({"version": 2}));
    check("deployed");
    assert_eq!(ask(&node, "room/get/upgraded-from"), "1", "by a fresh instance of the new version");
    assert_eq!(ask(&node, &format!("room/attach/{ada}/x")), "kept then x");
    let shown = berth(&node, &["objects", "show", &id, "--json"]).ok();
    assert!(shown.contains("\"sockets\":1"), "{shown}");
    assert!(sockets.is_open("ada"));
    drop(sockets);
    node.finish();
}

fn messages_keep_their_order_while_the_object_moves(driver: Driver) {
    const COUNT: usize = 400;
    let node = node(driver, "");
    let mut sockets = Sockets::start();
    for name in ["ada", "bob"] {
        sockets.open(name, &url(&node, "room/accept/all"));
        number(&mut sockets, name);
    }
    let id = ask(&node, "room/who").split(' ').next().unwrap().to_owned();
    let cores = node.numbers("object_turns").len();
    let numbers: Vec<String> = (0..COUNT).map(|number| number.to_string()).collect();
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            (0..10).for_each(|turn| {
                move_to(&node, &id, turn % cores);
            });
        });
        while !mover.is_finished() {
            for name in ["ada", "bob"] {
                sockets.send_numbers(name, COUNT);
            }
            for name in ["ada", "bob"] {
                assert_eq!(sockets.recv_many(name, COUNT), numbers, "{name}");
            }
        }
    });
    node.finish();
}

fn what_is_said_to_a_tag_reaches_those_who_have_it(driver: Driver) {
    let node = node(driver, "");
    let mut sockets = Sockets::start();
    for (name, tag) in [("ada", "red"), ("bob", "red"), ("eve", "blue")] {
        sockets.open(name, &url(&node, &format!("room/accept/{tag}")));
        number(&mut sockets, name);
    }
    assert_eq!(ask(&node, "room/shout/red/one"), "shouted");
    assert_eq!(ask(&node, "room/shout/blue/two"), "shouted");
    assert_eq!(ask(&node, "hall/shout/red/three"), "shouted", "another object has no sockets");
    assert_eq!(ask(&node, "room/shout/red/four"), "shouted");
    assert_eq!(sockets.recv_many("ada", 2), ["one", "four"]);
    assert_eq!(sockets.recv_many("bob", 2), ["one", "four"]);
    assert_eq!(sockets.recv("eve"), "two");
    node.finish();
}

fn a_failed_turn_closes_its_socket_and_no_other(driver: Driver) {
    let node = node(driver, "");
    let mut sockets = Sockets::start();
    for name in ["ada", "bob"] {
        sockets.open(name, &url(&node, "room/accept/all"));
    }
    let bob = number(&mut sockets, "bob");
    assert_eq!(ask(&node, &format!("room/attach/{bob}/kept")), "new then kept");
    sockets.send("ada", "trap");
    assert_eq!(sockets.closed("ada"), (Some(1011), "the object failed".to_owned()));
    sockets.send("bob", "still here");
    assert_eq!(sockets.recv("bob"), "still here");
    assert_eq!(ask(&node, "room/sockets/all"), format!("[{bob}] all"));
    assert_eq!(ask(&node, &format!("room/attach/{bob}/x")), "kept then x");
    // The object ends one itself.
    assert_eq!(ask(&node, &format!("room/hang-up/{bob}/4000")), "gone", "nothing may be sent after a close");
    assert_eq!(sockets.closed("bob"), (Some(4000), "bye".to_owned()));
    wait_until("it hears of that as well", || ask(&node, "room/get/closed") == format!("{bob} 4000 bye"));
    node.finish();
}

const HANDSHAKE: &str = "GET /probe/room/accept/all HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn shake_hands(node: &Node, handshake: &str) -> (TcpStream, String) {
    let mut stream = connect(node.listener(0));
    stream.write_all(handshake.as_bytes()).unwrap();
    let head = read_until(&mut stream, "\r\n\r\n");
    (stream, head)
}

fn a_request_that_is_no_handshake_is_answered_as_such(driver: Driver) {
    let node = node(driver, "");
    let old = HANDSHAKE.replace("version: 13", "version: 8");
    assert!(shake_hands(&node, &old).1.starts_with("HTTP/1.1 426"));
    let other = HANDSHAKE.replace("/accept/all", "/echo");
    assert!(shake_hands(&node, &other).1.starts_with("HTTP/1.1 200"), "the object did not take it");
    let failed = HANDSHAKE.replace("/accept/all", "/put-trap/a/b");
    assert!(shake_hands(&node, &failed).1.starts_with("HTTP/1.1 500"));
    let plain = ask(&node, "room/accept/all");
    assert!(plain.contains("urn:berth:internal"), "nobody asked for the socket that it took: {plain}");
    assert_eq!((node.number("websockets"), node.number("object_faults")), (0, 2));
    assert_eq!(ask(&node, "room/sockets/-"), "[] ");
    node.finish();
}

fn who_is_too_slow_is_cut_off(driver: Driver) {
    let node = node(driver, "");
    let mut sockets = Sockets::start();
    let lazy = json!({"lazy": true});
    sockets.try_open("slow", &url(&node, "room/accept/all"), &lazy);
    sockets.open("quick", &url(&node, "room/accept/all"));
    let (slow, quick) = (number(&mut sockets, "slow"), number(&mut sockets, "quick"));
    let mut told = 0;
    wait_until("more waits than may", || {
        told += 1;
        let said = ask(&node, &format!("room/tell-big/{slow}/1000000"));
        assert!(said == "told" || said == "gone", "{said}");
        node.number("limit_object_socket_queue") == 1
    });
    assert!(told > 16, "what may wait is taken: {told}");
    assert_eq!(sockets.closed("slow"), (Some(1013), "the client is too slow".to_owned()));
    wait_until("the object hears of it", || {
        ask(&node, "room/get/closed") == format!("{slow} 1013 the client is too slow")
    });
    assert_eq!(ask(&node, &format!("room/tell/{quick}/hello")), "told");
    assert_eq!(sockets.recv("quick"), "hello", "nobody waited for it");
    node.finish();
}

fn a_silent_client_is_asked_and_then_left(driver: Driver) {
    let node = node(driver, "[limits]\nidle_timeout = \"1s\"\nsend_timeout = \"1s\"\n");
    let mut sockets = Sockets::start();
    sockets.open("ada", &url(&node, "room/accept/all"));
    let ada = number(&mut sockets, "ada");
    let (mut silent, head) = shake_hands(&node, HANDSHAKE);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let mut said = Vec::new();
    let _ = silent.read_to_end(&mut said);
    // The greeting, a ping, a close with 1001.
    assert!(said.ends_with(&[0x89, 0, 0x88, 2, 0x03, 0xe9]), "{said:?}");
    wait_until("the object hears of it", || ask(&node, "room/get/closed").ends_with(" 1001 "));
    assert_eq!(ask(&node, "room/sockets/all"), format!("[{ada}] all"), "who answers pings stays");
    assert!(sockets.is_open("ada"));
    node.finish();
}

fn a_node_that_stops_says_good_bye(driver: Driver) {
    let node = node(driver, "");
    let mut sockets = Sockets::start();
    sockets.open("ada", &url(&node, "room/accept/all"));
    let ada = number(&mut sockets, "ada");
    node.signal(libc::SIGTERM);
    assert_eq!(sockets.closed("ada").0, Some(1001));
    assert!(node.wait().success());
    let node = node.restart();
    assert_eq!(ask(&node, "room/get/closed"), format!("{ada} 1001 "), "and told the object before it ended");
    assert_eq!(ask(&node, "room/sockets/-"), "[] ");
    node.finish();
}
