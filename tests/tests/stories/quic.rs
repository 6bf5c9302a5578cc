//! QUIC below HTTP/3, with aioquic: addresses that change, cores that share a port, bad lines, keys.
//!
//! The kernel spreads datagrams over the cores by addresses and ports, so a client that moves mostly reaches another
//! core than the one that has its connection. Its connection id says which one that is.

use std::net::UdpSocket;
use std::time::Duration;

use serde_json::{Value, json};

use berth_tests::aioquic::{h3, h3_command, report};
use berth_tests::clients::{finish, run, start};
use berth_tests::node::{Driver, Node, PATIENCE, Plan, wait_until};
use berth_tests::on_both_drivers;
use berth_tests::relay::{Faults, Relay};

use crate::common;

on_both_drivers!(["aioquic"]; keys_are_updated_again_and_again, an_unknown_version_is_told_the_known_one,
    a_client_must_prove_its_address_when_retries_are_always_asked, a_bad_line_loses_nothing);
on_both_drivers!(["aioquic", "two cpus"]; retries_are_good_on_every_core,
    a_download_survives_rebinding_and_migration, a_nat_that_forgets_in_mid_transfer_is_not_noticed,
    sixty_four_connections_on_two_cores_survive_every_move,
    a_session_resumes_on_every_core_without_early_data);
on_both_drivers!(["aioquic"]; a_packet_of_another_server_is_met_with_silence);

fn keys_are_updated_again_and_again(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let said = h3("key-update", node.listener(1), &["--count", "5"]);
    assert_eq!(said["key_phases"], json!([0, 1, 0, 1, 0, 1]), "{said}");
    assert_eq!(said["statuses"], json!([200, 200, 200, 200, 200, 200]), "{said}");
    assert_eq!(node.number("quic_connections"), 1, "all of it on one connection");
    node.finish();
}

fn an_unknown_version_is_told_the_known_one(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let said = h3::<&str>("version-negotiation", node.listener(1), &[]);
    let versions: Vec<&str> = said["versions"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    // Beside version 1 there may be one that is reserved for such practice (RFC 9000, 15): 0x?a?a?a?a.
    let is_greased = |word: &&str| word[2..].chars().skip(1).step_by(2).all(|digit| digit == 'a');
    let real: Vec<_> = versions.iter().filter(|word| !is_greased(word)).collect();
    assert_eq!(real, [&"0x00000001"], "{said}");
    assert!(said["bytes"].as_u64() < Some(100), "the answer is far smaller than the question: {said}");
    // A datagram that no client may send as its first is not answered: who forged it gains nothing.
    let small =
        run(h3_command("version-negotiation", node.listener(1)).args(["--size", "1199", "--patience", "1"]));
    assert_eq!(report(&small), json!({ "answered": false }), "{}", small.all());
    node.finish();
}

/// A node that asks every client for a Retry.
const ALWAYS: &str = "[limits.http3]\nretry_above = 0\n";

fn a_client_must_prove_its_address_when_retries_are_always_asked(driver: Driver) {
    let node = Plan::new(driver, common() + ALWAYS).start();
    let said = h3::<&str>("get", node.listener(1), &[]);
    assert_eq!((&said["connection"]["retry"], &said["answers"][0]["status"]), (&json!(true), &json!(200)));
    assert_eq!((node.number("quic_retries"), node.number("quic_handshakes")), (1, 1));
    node.finish();
}

/// A Retry names the core that sent it, and its token is opened there. Both come from the keyring: so they are good
/// after a restart, and wherever the kernel then takes the client.
fn retries_are_good_on_every_core(driver: Driver) {
    let mut node = Plan::new(driver, common() + ALWAYS).cores(2).start();
    let mut tossed = 0;
    for _ in 0..3 {
        let (listens, sends) = (loopback(), loopback());
        sends.connect(node.listener(1)).unwrap();
        let client = start(h3_command("get", listens.local_addr().unwrap()).args(["--timeout", "60"]));
        let (initial, from) = receive(&listens);
        listens.connect(from).unwrap();
        sends.send(&initial).unwrap();
        let (retry, _) = receive(&sends);
        assert_eq!(retry[0] & 0xf0, 0xf0, "the answer to a first packet is a Retry");
        listens.send(&retry).unwrap();
        // It names the core that sent the Retry, by an id of the node's length. A repetition of the first one does not.
        let initial = std::iter::repeat_with(|| receive(&listens).0).find(|bytes| bytes[5] == 17).unwrap();
        // The client holds a token of a node that does not live any more.
        node = node.kill_and_restart();
        sends.connect(node.listener(1)).unwrap();
        sends.send(&initial).unwrap();
        let said = pass_on(client, &listens, &sends);
        assert_eq!(said["connection"]["retry"], true, "{said}");
        assert_eq!(node.number("quic_retries"), 0, "the token was good: nobody was asked for another");
        assert_eq!(node.number("quic_handshakes"), 1);
        tossed += node.number("quic_tossed");
    }
    println!("{tossed} datagrams reached another core than the one that had sent the Retry");
    node.finish();
}

fn loopback() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, std::net::SocketAddr) {
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).expect("a datagram comes in time");
    (buffer[..length].to_vec(), from)
}

/// Passes datagrams on in both directions until the client ends.
fn pass_on(mut client: std::process::Child, one: &UdpSocket, other: &UdpSocket) -> Value {
    for socket in [one, other] {
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    }
    let mut buffer = [0; 2048];
    wait_until("the client ends", || {
        for (from, to) in [(one, other), (other, one)] {
            while let Ok(length) = from.recv(&mut buffer) {
                let _ = to.send(&buffer[..length]);
            }
        }
        client.try_wait().unwrap().is_some()
    });
    let outcome = finish(client);
    let said = report(&outcome);
    outcome.ok();
    said
}

fn a_download_survives_rebinding_and_migration(driver: Driver) {
    let node = Plan::new(driver, common()).cores(2).start();
    for how in ["rebind", "migrate"] {
        // What comes while the client moves may be past the next places to move at: there are six times as many.
        let said = h3(how, node.listener(1), &["--path", "/stream/4MiB", "--every", "65536"]);
        assert!(said["moves"].as_u64() >= Some(10), "{how}: {said}");
        assert_eq!((&said["length"], &said["next_status"]), (&json!(4 << 20), &json!(200)), "{how}: {said}");
        assert!(
            said["connection"]["path_challenges"].as_u64() > Some(0),
            "{how}: a new address is validated: {said}"
        );
    }
    caught_what_was_tossed(&node);
    node.finish();
}

/// Every datagram that was tossed has arrived at the other core.
fn caught_what_was_tossed(node: &Node) {
    wait_until("all that was tossed is caught", || {
        let [tossed, caught] = ["quic_tossed", "quic_caught"].map(|name| node.number(name));
        tossed == caught
    });
    assert_eq!(node.number("quic_foreign"), 0, "no id names another server");
}

fn sixty_four_connections_on_two_cores_survive_every_move(driver: Driver) {
    let node = Plan::new(driver, common()).cores(2).start();
    let options = ["--connections", "64", "--path", "/stream/256KiB", "--bodies", "2", "--moves", "3"];
    let said = h3("many", node.listener(1), &options);
    println!("{said}");
    assert_eq!((&said["completed"], &said["bodies"]), (&json!(64), &json!(128)), "{said}");
    assert_eq!(said["errors"], json!([]), "{said}");
    for how in ["rebind", "migrate"] {
        assert!(said["moves"][how].as_u64() > Some(100), "half of 384 moves, {how}: {said}");
    }
    let handshakes = node.numbers("quic_handshakes");
    assert!(handshakes.iter().all(|core| *core > 10), "both cores have connections: {handshakes:?}");
    caught_what_was_tossed(&node);
    let [tossed, full, dropped] =
        ["quic_tossed", "quic_toss_full", "quic_dropped"].map(|name| node.numbers(name));
    println!("tossed {tossed:?}, lane full {full:?}, dropped {dropped:?}");
    assert!(tossed.iter().all(|core| *core > 0), "datagrams came to the wrong core: {tossed:?}");
    for name in
        ["quic_protocol_errors", "http3_protocol_errors", "limit_idle_timeout", "quic_handshake_failures"]
    {
        assert_eq!(node.number(name), 0, "{name}");
    }
    wait_until("the node has let them go", || node.number("connections_open") == 0);
    node.finish();
}

fn a_nat_that_forgets_in_mid_transfer_is_not_noticed(driver: Driver) {
    let node = Plan::new(driver, common()).cores(2).start();
    let relay = Relay::start(node.listener(1), Faults::default()).unwrap();
    // An echo, for a client that only receives would learn of the new port late: it speaks only when it is spoken to.
    let client = start(h3_command("echo", relay.address()).args(["--bytes", "4000000"]));
    for after in [200, 600, 1000, 1400] {
        wait_until("the transfer goes on", || relay.to_node().sent > after);
        assert_eq!(relay.rebind(), 1, "there is one client");
    }
    let outcome = finish(client);
    let said = report(&outcome);
    assert_eq!(said["length"], 4_000_000, "{}", outcome.all());
    outcome.ok();
    assert_eq!(node.number("quic_connections"), 1);
    caught_what_was_tossed(&node);
    node.finish();
}

fn a_bad_line_loses_nothing(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let faults = Faults {
        seed: 3,
        drop_permille: 100,
        duplicate_permille: 50,
        reorder_permille: 100,
        reorder_within: Duration::from_millis(10),
        delay: Duration::from_millis(1),
    };
    let relay = Relay::start(node.listener(1), faults).unwrap();
    let download = start(h3_command("get", relay.address()).args(["--path", "/stream/1MiB", "--count", "2"]));
    let small = start(h3_command("get", relay.address()).args(["--count", "100", "--streams", "20"]));
    let echo = start(h3_command("echo", relay.address()).args(["--bytes", "1000000"]));
    let whole = h3("get", node.listener(1), &["--path", "/stream/1MiB"]);
    let said = finish_well(download);
    assert_eq!(
        said["answers"][0]["sha256"], whole["answers"][0]["sha256"],
        "the bytes are those of a good line"
    );
    assert_eq!(said["answers"][0]["count"], 2, "{said}");
    assert_eq!(finish_well(small)["answers"][0]["count"], 100);
    let said = finish_well(echo);
    assert_eq!(said["sha256"], said["sent_sha256"], "{said}");
    let (to_node, to_clients) = (relay.to_node(), relay.to_clients());
    println!("to the node {to_node:?}, to the clients {to_clients:?}");
    for counts in [to_node, to_clients] {
        assert!(
            counts.dropped > 50 && counts.duplicated > 20 && counts.overtaken > 20,
            "a bad line: {counts:?}"
        );
        assert_eq!(counts.overflowed, 0, "nothing is lost but on purpose");
    }
    for name in ["quic_protocol_errors", "http3_protocol_errors", "quic_malformed"] {
        assert_eq!(node.number(name), 0, "{name}");
    }
    node.finish();
}

/// What a client observed that must have got what it wanted.
fn finish_well(client: std::process::Child) -> Value {
    let outcome = finish(client);
    let said = report(&outcome);
    outcome.ok();
    said
}

fn a_session_resumes_on_every_core_without_early_data(driver: Driver) {
    let node = Plan::new(driver, common()).cores(2).start();
    let memory = node.folder().join("memory").display().to_string();
    let said = h3("resume", node.listener(1), &["--save", &memory]);
    assert_eq!(said["first"]["max_early_data_size"], Value::Null, "no early data is offered: {said}");
    let again = |node: &Node| {
        let said = h3("resume", node.listener(1), &["--use", &memory]);
        assert_eq!((&said["resumed"], &said["second"]["status"]), (&json!(true), &json!(200)), "{said}");
        assert_eq!(said["second"]["connection"]["early_data_accepted"], false, "{said}");
    };
    // Each core accepts about half of them: that one accepts none is a matter of 2 to the power of -15.
    for _ in 0..16 {
        again(&node);
    }
    let handshakes = node.numbers("quic_handshakes");
    assert!(handshakes.iter().all(|core| *core > 0), "each core resumed: {handshakes:?}");
    node.signal(libc::SIGTERM);
    node.wait();
    let node = node.restart();
    again(&node);
    let node = node.kill_and_restart();
    again(&node);
    node.finish();
}

fn a_packet_of_another_server_is_met_with_silence(driver: Driver) {
    let numbered = |number: u16| common() + &format!("[quic]\nserver = {number}\n");
    let one = Plan::new(driver, numbered(1)).start();
    let other = Plan::new(driver, numbered(2));
    // Two servers of a site have the same keyring.
    copy_files(&one.folder().join("state"), &other.folder().join("state"));
    let other = other.start();
    let relay = Relay::start(one.listener(1), Faults::default()).unwrap();
    let client = start(h3_command("stay", relay.address()).args(["--ping", "0.05"]));
    wait_until("the client is served", || one.number("requests_http3") == 1);

    relay.redirect(other.listener(1));
    wait_until("its packets reach the other server", || other.number("quic_foreign") >= 10);
    let answered = relay.to_clients().received;
    wait_until("and more of them", || other.number("quic_foreign") >= 20);
    assert_eq!(relay.to_clients().received, answered, "the other server says nothing");
    assert_eq!((other.number("quic_handshakes"), other.number("quic_malformed")), (0, 0));

    // The connection is as alive as before.
    relay.redirect(one.listener(1));
    wait_until("its own server answers", || relay.to_clients().received > answered);
    assert_eq!((one.number("quic_foreign"), one.number("connections_open")), (0, 1));
    other.finish();
    one.finish();
    let said = finish_well(client);
    assert_eq!(said["ends"][0]["by"], "server", "it ends with its own server, and by no reset: {said}");
}

fn copy_files(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
