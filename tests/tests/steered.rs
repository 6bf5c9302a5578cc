//! A node whose packets the control agent steers, over a cable between two namespaces: who does what, what happens when
//! one of the two processes dies, and what is left when the agent is taken off the machine.
#![allow(clippy::panic, reason = "a story that cannot go on ends with the reason")]

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Child;

use aya::programs::Xdp;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use berth_control_agent::machine::Machine;
use berth_steer::cid::{CID_LEN, Codepoint, Destination, Generation};
use berth_steer::decide::Reason;
use berth_steer::table::Table;
use berth_tests::aioquic::{h3_command, report};
use berth_tests::clients::{Outcome, call, curl_command, finish, run, start};
use berth_tests::network::{
    CLIENTS, CLIENTS_V6, NODE_ADDRESS as ADDRESS, NODE_ADDRESS_V6 as ADDRESS_V6, send_train,
};
use berth_tests::node::{Driver, Node, at_full_scale, binary, route, wait_until};
use berth_tests::steered::{HTTP_PORT, HTTPS_PORT, Steered, pinned};
use berth_tests::workers::{deploy, guests, upload, zone};
use berth_tests::{on_both_drivers, once};

on_both_drivers!(["root", "aioquic", "two cpus"]; packets_meet_their_cores,
    connections_live_on_when_a_newer_generation_takes_over);
once!(["root", "aioquic", "two cpus"]; a_crowd_stays_on_its_cores_while_the_agent_dies);
once!(["root", "two cpus"]; an_address_that_comes_later_is_refused_to_guests_too, a_train_of_two_generations_is_parted, what_is_explained_is_what_the_kernel_does, the_agent_may_die_at_any_time, nothing_is_left_behind, rights_that_are_missing_are_named,
    a_card_that_cannot_is_named, a_start_is_refused_while_sixteen_generations_run, an_agent_of_another_layout_is_taken_over, a_newer_program_takes_the_place_of_an_older_one);

/// Programs for those who measure.
static MEASURE: &[u8] = aya::include_bytes_aligned!("../../ebpf-programs/measure.bpf.o");

/// What the nodes answer.
fn routes() -> String {
    let mut text = String::new();
    for (path, action) in [
        ("/", r#"respond = { body = "hello\n" }"#),
        ("/stream/64KiB", r#"stream = { bytes = "64KiB" }"#),
        ("/stream/256KiB", r#"stream = { bytes = "256KiB" }"#),
        ("/stream/1MiB", r#"stream = { bytes = "1MiB" }"#),
        ("/delay/5m", r#"delay = { time = "5m", body = "never\n" }"#),
        ("/delay/2s", r#"delay = { time = "2s", body = "late\n" }"#),
    ] {
        text += &route(path, action);
    }
    text
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("it is an address")
}

fn https() -> [SocketAddr; 2] {
    [(ADDRESS, HTTPS_PORT), (ADDRESS_V6, HTTPS_PORT)].map(|(ip, port)| SocketAddr::new(address(ip), port))
}

/// Requests over TCP, each on a connection of its own, all of which must be answered.
fn ask_over_tcp(steered: &Steered, count: usize) {
    for address in [ADDRESS.to_owned(), format!("[{ADDRESS_V6}]")] {
        let urls = vec![format!("http://{address}:{HTTP_PORT}/"); count];
        let curl = || run(curl_command().args(["--header", "connection: close"]).args(&urls));
        assert_eq!(steered.network.at_client(curl).ok(), "hello\n".repeat(count));
    }
}

/// Connections whose addresses change again and again in mid-transfer.
const MANY: [&str; 8] = ["--connections", "24", "--path", "/stream/1MiB", "--bodies", "1", "--moves", "4"];

fn client(steered: &Steered, command: &str, node: SocketAddr, options: &[&str]) -> Outcome {
    let local = if node.is_ipv4() { "192.0.2.100" } else { "2001:db8::100" };
    steered.network.at_client(|| run(h3_command(command, node).args(["--local", local]).args(options)))
}

fn packets_meet_their_cores(driver: Driver) {
    let steered = Steered::build("auto");
    let agent = steered.agent();
    let node = steered.start(steered.plan(driver, &routes()));
    let status = steered.wait_until_steered(&node);
    assert_eq!((&status["agent"], &status["generation"]), (&"linked".into(), &0.into()), "{status}");
    assert_eq!(status["cards"][0]["xdp"], "native", "{status}");
    ask_over_tcp(&steered, 20);
    for node in https() {
        let said = report(&client(&steered, "get", node, &["--path", "/stream/1MiB", "--count", "4"]));
        assert_eq!(
            (&said["answers"][0]["length"], &said["answers"][0]["count"]),
            (&(1 << 20).into(), &4.into())
        );
        let said = report(&client(&steered, "many", node, &MANY));
        assert_eq!((&said["completed"], &said["errors"]), (&24.into(), &serde_json::json!([])), "{said}");
    }
    let numbers = |name: &str| steered.network.at_node(|| node.numbers(name));
    assert!(numbers("quic_connections").iter().all(|count| *count > 4), "{:?}", numbers("quic_connections"));
    assert!(numbers("connections_accepted").iter().all(|count| *count > 4));
    assert_eq!(numbers("quic_tossed"), [0, 0], "every datagram came to its core");
    let (xdp, door) = steered.counters();
    let counted = |reason: Reason| (xdp.reasons[reason as usize], door.reasons[reason as usize]);
    assert!(
        counted(Reason::ConnectionId).0 > 100 && counted(Reason::ConnectionId).1 > 100,
        "{xdp:?} {door:?}"
    );
    assert!(counted(Reason::Udp).0 >= 34 && counted(Reason::Tcp).0 > 100, "{xdp:?}");
    assert!(xdp.kept > 100 && xdp.moved > 100 && xdp.not_moved == 0, "{xdp:?}");
    assert_eq!((door.empty, door.left), (0, 0), "{door:?}");
    steered.network.at_node(|| node.finish());
    drop(agent);
}

/// Connections of each client of a crowd, over QUIC; requests of each over TCP.
const CROWD: usize = 32;

/// Four clients over QUIC, from several addresses between which they move in mid-transfer, and four over TCP.
fn crowd(steered: &Steered, wave: usize) -> (Vec<Child>, Vec<Child>) {
    let count = CROWD.to_string();
    let many = ["--connections", &count, "--path", "/stream/64KiB", "--bodies", "1", "--moves", "2"];
    let mut over_quic = Vec::new();
    let mut over_tcp = Vec::new();
    for place in 0..4 {
        let (there, homes) = (https()[place % 2], [CLIENTS, CLIENTS_V6][place % 2]);
        let mut command = h3_command("many", there);
        command.args(["--local", homes[place], "--seed", &format!("{wave}{place}")]);
        command.args(many).arg("--places").args(homes);
        over_quic.push(steered.network.at_client(|| start(&mut command)));
        let address = [ADDRESS.to_owned(), format!("[{ADDRESS_V6}]")][place % 2].clone();
        let urls = vec![format!("http://{address}:{HTTP_PORT}/stream/64KiB"); CROWD];
        let mut command = curl_command();
        command.args(["--interface", homes[place], "--header", "connection: close"]).args(&urls);
        over_tcp.push(steered.network.at_client(|| start(&mut command)));
    }
    (over_quic, over_tcp)
}

/// Many connections over both families and transports, which move in mid-transfer, while the agent is killed, is away, and
/// comes back. At full scale they are more than 2,000 of each transport, in waves: all at once they would be too many for
/// their clients.
fn a_crowd_stays_on_its_cores_while_the_agent_dies() {
    let waves = if at_full_scale() { 16 } else { 1 };
    let steered = Steered::build("auto");
    let mut agent = steered.agent();
    let node = steered.start(steered.plan(Driver::Auto, &routes()));
    steered.wait_until_steered(&node);
    let before = numbers(&steered);
    let of_node = |name: &str| steered.network.at_node(|| node.number(name));
    for wave in 0..waves {
        let handshakes = of_node("quic_handshakes");
        let (over_quic, over_tcp) = crowd(&steered, wave);
        wait_until("the crowd is there", || of_node("quic_handshakes") > handshakes + 16);
        agent.kill();
        wait_until("the node has noticed", || steered.status(&node)["agent"] == "away");
        agent = steered.agent();
        wait_until("the node has called again", || steered.status(&node)["agent"] == "linked");
        for client in over_tcp {
            assert_eq!(finish(client).ok().len(), CROWD * (64 << 10));
        }
        for client in over_quic {
            let said = report(&finish(client));
            let (completed, errors) = (&said["completed"], &said["errors"]);
            assert_eq!((completed, errors), (&CROWD.into(), &serde_json::json!([])), "{said}");
        }
    }
    assert_eq!(numbers(&steered), before, "no program and no link was made anew");
    assert_eq!(of_node("connections_accepted"), (waves * 4 * CROWD) as u64);
    assert_eq!(of_node("quic_handshakes"), (waves * 4 * (CROWD + 1)) as u64);
    let (tossed, of_trains) = (of_node("quic_tossed"), of_node("quic_tossed_out_of_trains"));
    assert_eq!(tossed, of_trains, "but for trains all came to their cores");
    let lost = ["quic_foreign", "quic_dropped", "quic_tossed_to_generation"].map(of_node);
    assert_eq!(lost, [0, 0, 0]);
    let (xdp, door) = steered.counters();
    assert_eq!((door.empty, door.left, xdp.not_moved), (0, 0, 0), "{door:?} {xdp:?}");
    drop((node, agent));
}

/// An id that the node of this table would have made.
fn an_address_that_comes_later_is_refused_to_guests_too() {
    let steered = Steered::build("auto");
    let node = steered.start(steered.plan(Driver::Uring, ""));
    steered.network.at_node(|| {
        let id = upload(&node, guests());
        deploy(&node, "guests", &zone(&["guests.example"], &id));
    });
    // Nobody is there, and nothing leads there.
    let url = format!("http://{ADDRESS}:{HTTP_PORT}/fetch-error?url=http://9.9.9.9:9/");
    let said = || {
        let curl = || call("curl", &["--silent", "--header", "host: guests.example", &url]);
        steered.network.at_client(curl).ok()
    };
    let change = |what: &str| {
        let words = ["-netns", steered.network.node_name(), "address", what, "9.9.9.9/32", "dev", "lo"];
        call("ip", &words).ok();
    };
    let first = said();
    assert!(!first.contains("prohibited"), "{first}");
    change("add");
    wait_until("the node's new address is refused", || said().contains("prohibited"));
    change("delete");
    wait_until("it is refused no longer", || said() == first);
}

fn id_of(table: &Table, generation: u8, core: u8) -> [u8; CID_LEN] {
    let generation = Generation::new(generation).expect("there is such a generation");
    let there = Destination { server: 0, core, generation };
    let configs = (0..7).filter_map(Codepoint::new);
    let mut ids = configs.filter_map(|codepoint| table.configs.encode(codepoint, there, [core; 12]));
    *ids.next_back().expect("a codepoint is in use").as_bytes()
}

/// Two connections of one client live in two generations, and the kernel has merged their datagrams: the train comes to
/// the generation of the first one, which sends the second one on.
fn a_train_of_two_generations_is_parted() {
    let steered = Steered::build("auto");
    let agent = steered.agent();
    let old = steered.start(steered.plan(Driver::Auto, &routes()));
    steered.wait_until_steered(&old);
    // It stays for as long as it has a request in hand, and on the core that has it: others have ended by then.
    let url = format!("http://{ADDRESS}:{HTTP_PORT}/delay/5m");
    let mut busy = None;
    let busy_core = core_that(&steered, &old, "connections_accepted", || {
        busy = Some(steered.network.at_client(|| start(curl_command().arg(&url))));
    });
    let new = steered.start(steered.plan(Driver::Auto, &routes()));
    steered.wait_until_steered(&new);
    old.log_line("node.draining");
    let table = steered.look(Machine::table).expect("the map is there").expect("there is one");
    let datagrams = [(0, busy_core as u8), (1, 0), (1, 1)].map(|(generation, core)| {
        berth_fixtures::frames::quic_short(0x40, &id_of(&table, generation, core), &[0; 400])
    });
    let client = steered.network.at_node(|| UdpSocket::bind((ADDRESS, 0))).expect("a port is free");
    let train = send_train(&client, https()[0], &datagrams);
    assert_eq!(train.expect("the kernel takes it"), datagrams.iter().map(Vec::len).sum::<usize>());
    wait_until("the newer one has caught its two", || {
        steered.network.at_node(|| new.numbers("quic_caught")) == [1, 1]
    });
    assert_eq!(steered.network.at_node(|| new.number("quic_datagrams")), 0, "no train came to it");
    drop((busy, old, new, agent));
}

/// `berth explain flow` with these words, asked of a node.
fn explain(steered: &Steered, node: &Node, about: &[&str]) -> serde_json::Value {
    let admin = format!("http://{}", node.admin());
    let mut command = std::process::Command::new(binary());
    command.args(["explain", "flow", "--json", "--admin", &admin]).args(about);
    let answer = steered.network.at_node(|| run(&mut command)).ok();
    serde_json::from_str(&answer).expect("the answer is JSON")
}

/// The core whose number of this name grows while `f` runs, and by how much.
fn core_that(steered: &Steered, node: &Node, name: &str, f: impl FnOnce()) -> usize {
    let numbers = || steered.network.at_node(|| node.numbers(name));
    let before = numbers();
    f();
    let grown = |now: &[u64]| now.iter().zip(&before).position(|(now, before)| now > before);
    wait_until("a core has it", || grown(&numbers()).is_some());
    grown(&numbers()).expect("it has just grown")
}

fn what_is_explained_is_what_the_kernel_does() {
    let steered = Steered::build("auto");
    let agent = steered.agent();
    let node = steered.start(steered.plan(Driver::Auto, &routes()));
    steered.wait_until_steered(&node);
    let mut seen = [0; 2];
    for (ip, port) in [(ADDRESS, HTTP_PORT), (ADDRESS_V6, HTTP_PORT)].repeat(8) {
        let there = SocketAddr::new(address(ip), port);
        let mut held = None;
        let core = core_that(&steered, &node, "connections_accepted", || {
            held = Some(steered.network.at_client(|| TcpStream::connect(there)).expect("the node listens"));
        });
        let from = held.expect("it is open").local_addr().expect("it is connected").to_string();
        let said = explain(&steered, &node, &[&from, &there.to_string(), "--transport", "tcp"]);
        assert_eq!((&said["place"]["core"], &said["rule"]), (&core.into(), &"tcp".into()), "{said}");
        seen[core] += 1;
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");

    let table = steered.look(Machine::table).expect("the map is there").expect("there is one");
    for core in [0, 1, 1, 0] {
        let id = id_of(&table, 0, core);
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let said = explain(&steered, &node, &[&hex]);
        assert_eq!(
            (&said["place"]["core"], &said["rule"]),
            (&core.into(), &"connection_id".into()),
            "{said}"
        );
        let arrived = core_that(&steered, &node, "quic_datagrams", || {
            let payload = berth_fixtures::frames::quic_short(0x40, &id, &[0; 40]);
            let client =
                steered.network.at_client(|| UdpSocket::bind("192.0.2.100:0")).expect("a port is free");
            client.send_to(&payload, https()[0]).expect("the cable takes it");
        });
        assert_eq!(arrived, usize::from(core));
    }
    let made_up = explain(&steered, &node, &["0011223344556677"]);
    assert!(made_up["place"].is_null() && made_up["rule"] == "udp", "{made_up}");
    agent.kill();
    wait_until("the node has noticed", || steered.status(&node)["agent"] == "away");
    let mut command = std::process::Command::new(binary());
    command.args(["explain", "flow", "0011", "--admin", &format!("http://{}", node.admin())]);
    let outcome = steered.network.at_node(|| run(&mut command));
    assert!(outcome.code == 1 && outcome.stderr.contains("no control agent answers"), "{}", outcome.all());
    steered.network.at_node(|| node.finish());
}

/// The kernel's numbers of all programs and links.
fn numbers(steered: &Steered) -> std::collections::BTreeMap<String, u32> {
    steered.look(Machine::numbers).expect("pins can be read")
}

fn the_agent_may_die_at_any_time() {
    let steered = Steered::build("auto");
    let agent = steered.agent();
    let node = steered.start(steered.plan(Driver::Auto, &routes()));
    steered.wait_until_steered(&node);
    let before = numbers(&steered);
    assert_eq!(before.len(), 2 + 1 + 6, "two programs for cards, a link, six groups: {before:?}");
    let table = steered.status(&node)["table"].clone();

    // In the middle of transfers, more than once.
    let many = || start(h3_command("many", https()[0]).args(["--local", "192.0.2.100"]).args(MANY));
    let client = steered.network.at_client(many);
    agent.kill();
    ask_over_tcp(&steered, 5);
    wait_until("the node has noticed", || steered.status(&node)["agent"] == "away");
    assert_eq!(steered.status(&node)["sockets"], "programs", "what is in the kernel steers on");
    let agent = steered.agent();
    wait_until("the node has called again", || steered.status(&node)["agent"] == "linked");
    wait_until("the table is the next one", || steered.status(&node)["table"] != table);
    agent.kill();
    let agent = steered.agent();
    wait_until("the node has called again", || steered.status(&node)["agent"] == "linked");
    finish(client).ok();
    assert_eq!(numbers(&steered), before, "no program and no link was made anew");
    assert_eq!(steered.network.at_node(|| node.number("quic_tossed")), 0);

    // Both die. What starts without an agent serves, and says who spreads its flows.
    agent.kill();
    let node = steered.network.at_node(|| node.kill_and_restart());
    let status = steered.status(&node);
    assert_eq!((&status["sockets"], &status["agent"]), (&"kernel_hash".into(), &"away".into()), "{status}");
    assert!(status["why"].as_str().is_some_and(|why| why.contains("agent.sock")), "{status}");
    ask_over_tcp(&steered, 5);
    steered.network.at_client(|| run(h3_command("get", https()[0]).args(["--local", "192.0.2.100"]))).ok();
    let agent = steered.agent();
    steered.wait_until_steered(&node);
    ask_over_tcp(&steered, 5);
    let (_, door) = steered.counters();
    assert_eq!((door.empty, door.left), (0, 0), "{door:?}");
    steered.network.at_node(|| node.finish());
    agent.stop();
}

fn nothing_is_left_behind() {
    let steered = Steered::build("auto");
    let would = steered.run(&["attach", "--dry-run"]).ok();
    assert!(would.contains("would attach to node0 (native, or else generic)"), "{would}");
    assert_eq!(pinned(&steered.pins()), [""; 0], "a dry run does nothing");
    assert_eq!(steered.run(&["attach"]).ok(), "node0: native\n");
    assert!(pinned(&steered.pins()).contains(&"v2/links/native-2-node0".to_owned()));
    let would = steered.run(&["attach", "--dry-run"]).ok();
    assert_eq!(would, "", "all is done");

    // Somebody else's, in the middle of ours.
    let foreign = steered.pins().join("v2/maps/not_ours");
    let map =
        aya::maps::MapData::from_pin(steered.pins().join("v2/maps/XDP_COUNTERS")).expect("it is pinned");
    map.pin(&foreign).expect("it can be pinned twice");
    let agent = steered.agent();
    let node = steered.start(steered.plan(Driver::Auto, &routes()));
    steered.wait_until_steered(&node);
    let busy = steered.run(&["detach"]);
    assert!(busy.code == 1 && busy.stderr.contains("another process listens there"), "{}", busy.all());
    agent.stop();
    let said = steered.run(&["detach"]).ok();
    for part in ["took the program off the sockets at 192.0.2.1:8443/udp", "detached from node0 (native)"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(pinned(&steered.pins()), ["v2/maps/not_ours"]);
    wait_until("the node has heard of it", || steered.status(&node)["sockets"] == "kernel_hash");
    ask_over_tcp(&steered, 5);
    let card = call("ip", &["-netns", steered.network.node_name(), "-detail", "link", "show", "node0"]).ok();
    assert!(!card.contains("xdp"), "{card}");
    assert!(steered.run(&["detach"]).ok().contains("removed"), "and again");
    steered.network.at_node(|| node.finish());
}

fn rights_that_are_missing_are_named() {
    let steered = Steered::build("auto");
    let program = steered.command(&["attach"]);
    let mut nobody = std::process::Command::new("setpriv");
    nobody.args(["--reuid", "65534", "--clear-groups"]).arg(program.get_program()).args(program.get_args());
    let outcome = steered.network.at_node(|| run(&mut nobody));
    assert!(outcome.code == 1 && outcome.stderr.contains("CAP_BPF"), "{}", outcome.all());
    // The data plane needs none of them.
    let plan = steered.plan(Driver::Auto, &routes()).through(&[
        "setpriv",
        "--reuid",
        "65534",
        "--clear-groups",
        "--",
    ]);
    let state = steered.state_for(65534);
    let node = steered.start(plan.owned_by(65534).state(&state));
    assert_eq!(steered.status(&node)["sockets"], "kernel_hash");
    ask_over_tcp(&steered, 5);
    steered.network.at_node(|| node.finish());
}

fn a_card_that_cannot_is_named() {
    // Loopback has no driver that could run a program.
    let auto = Steered::build("auto").on_card("lo");
    let said = auto.run(&["attach"]).ok();
    assert!(said.starts_with("lo: generic (native: lo refuses: ") && said.contains("MTU"), "{said}");
    let native = Steered::build("native").on_card("lo");
    let said = native.run(&["attach"]).ok();
    assert!(said.starts_with("lo: absent (native: lo refuses: "), "{said}");
    assert_eq!(Steered::build("generic").run(&["attach"]).ok(), "node0: generic\n");
    assert_eq!(Steered::build("off").run(&["attach"]).ok(), "", "no card is to steer");

    // Frames that need several buffers are taken.
    let jumbo = Steered::build("native");
    call("ip", &["-netns", jumbo.network.node_name(), "link", "set", "node0", "mtu", "9000"]).ok();
    assert_eq!(jumbo.run(&["attach"]).ok(), "node0: native\n");
    // Another program that is there already is left alone.
    let said = jumbo.run_beside(&["attach"]).ok();
    assert!(said.contains("absent") && said.contains("left alone"), "{said}");

    let nowhere = Steered::build("auto").on_card("nowhere0");
    let agent = nowhere.agent();
    let node = nowhere.start(nowhere.plan(Driver::Auto, &routes()));
    let status = nowhere.wait_until_steered(&node);
    assert_eq!(status["cards"][0]["xdp"], "absent", "{status}");
    assert!(
        status["cards"][0]["why"].as_str().is_some_and(|why| why.contains("no network card")),
        "{status}"
    );
    ask_over_tcp(&nowhere, 5);
    drop((node, agent));
}

/// Another agent has attached another program, as an older version would have: here, one that does nothing.
fn a_newer_program_takes_the_place_of_an_older_one() {
    let steered = Steered::build("native");
    steered.run(&["attach"]).ok();
    let (program, link) =
        (steered.pins().join("v2/programs/native"), steered.pins().join("v2/links/native-2-node0"));
    steered.network.at_node(|| {
        let mut object = aya::Ebpf::load(MEASURE).expect("the kernel takes it");
        let old = object.program_mut("berth_empty").expect("it is there");
        let old: &mut Xdp = old.try_into().expect("it is for cards");
        old.load().expect("the kernel takes it");
        std::fs::remove_file(&program).expect("it is pinned");
        old.pin(&program).expect("it can be pinned");
        let attached = XdpLink::try_from(FdLink::from(PinnedLink::from_pin(&link).expect("it is pinned")));
        old.attach_to_link(attached.expect("it is a link to a card")).expect("a link takes another program");
    });
    let before = numbers(&steered);
    let would = steered.run(&["attach", "--dry-run"]).ok();
    for step in
        ["would load and pin the program for native mode", "would have node0 run the new program (native)"]
    {
        assert!(would.contains(step), "{would}");
    }
    steered.run(&["attach"]).ok();
    let after = numbers(&steered);
    assert_eq!(after["native-2-node0"], before["native-2-node0"], "the card was never without a program");
    assert_ne!(after["native"], before["native"]);
    assert_eq!(steered.run(&["attach", "--dry-run"]).ok(), "");
    let agent = steered.agent();
    let node = steered.start(steered.plan(Driver::Auto, &routes()));
    steered.wait_until_steered(&node);
    ask_over_tcp(&steered, 5);
    assert!(steered.counters().0.kept > 0, "the new program runs");
    drop((node, agent));
}

fn an_agent_of_another_layout_is_taken_over() {
    let steered = Steered::build("auto");
    let agent = steered.agent();
    let node = steered.start(steered.plan(Driver::Auto, &routes()));
    steered.wait_until_steered(&node);
    let before = numbers(&steered);
    let many = || start(h3_command("many", https()[0]).args(["--local", "192.0.2.100"]).args(MANY));
    let client = steered.network.at_client(many);
    agent.stop();
    wait_until("the node has noticed", || steered.status(&node)["agent"] == "away");
    // As an agent with another table would have left it.
    std::fs::rename(steered.pins().join("v2"), steered.pins().join("v1")).expect("a folder can be renamed");
    let would = steered.run(&["attach", "--dry-run"]).ok();
    for step in
        ["would take over the cards of an agent of layout 1", "would have node0 run the new program (native)"]
    {
        assert!(would.contains(step), "{would}");
    }
    let agent = steered.agent();
    wait_until("the node has called again", || steered.status(&node)["agent"] == "linked");
    // The counters are new, too: it is the new programs that count.
    wait_until("the new programs steer", || {
        ask_over_tcp(&steered, 5);
        let (xdp, door) = steered.counters();
        xdp.kept > 0 && xdp.moved > 0 && door.chosen > 0
    });
    finish(client).ok();
    let after = numbers(&steered);
    assert_eq!(after["native-2-node0"], before["native-2-node0"], "the card was never without a program");
    assert_ne!(after["native"], before["native"]);
    assert!(
        pinned(&steered.pins()).iter().all(|pin| pin.starts_with("v2/")),
        "{:?}",
        pinned(&steered.pins())
    );
    assert_eq!(steered.status(&node)["sockets"], "programs");
    steered.network.at_node(|| node.finish());
    agent.stop();
}

fn a_start_is_refused_while_sixteen_generations_run() {
    let steered = Steered::build("auto");
    let agent = steered.agent();
    let more = routes() + "[shutdown]\ndrain = \"10m\"\n";
    let plan = || steered.plan(Driver::Auto, &more).cores(1);
    let held = format!("http://{ADDRESS}:{HTTP_PORT}/delay/5m");
    let (mut nodes, mut clients) = (Vec::<Node>::new(), Vec::new());
    for generation in 0..Generation::COUNT {
        let node = steered.start(plan());
        assert_eq!(steered.wait_until_steered(&node)["generation"], generation);
        // Told so, once new connections are the new one's.
        nodes.last().map(|old| old.log_line("node.retired"));
        clients.push(steered.network.at_client(|| start(curl_command().arg(&held))));
        wait_until("it is held", || steered.network.at_node(|| node.number("connections_open")) > 0);
        nodes.push(node);
    }
    nodes[..nodes.len() - 1].iter().for_each(|old| drop(old.log_line("node.draining")));
    let late = steered.network.at_node(|| plan().launch());
    assert_eq!(steered.network.at_node(|| late.wait()).code(), Some(1));
    assert!(late.log().contains("all 16 generations run, and the oldest still drain"), "{}", late.log());
    // The one that runs was not disturbed, and those that drain still hold what they hold.
    ask_over_tcp(&steered, 5);
    assert!(clients.iter_mut().all(|client| matches!(client.try_wait(), Ok(None))));
    // One client goes, its generation ends, and its number is free.
    clients.swap_remove(3).kill().expect("it runs");
    assert!(steered.network.at_node(|| nodes[3].wait()).success(), "{}", nodes[3].log());
    let next = steered.start(plan());
    assert_eq!(steered.wait_until_steered(&next)["generation"], 3);
    ask_over_tcp(&steered, 5);
    clients.iter_mut().for_each(|client| client.kill().expect("it runs"));
    drop((nodes, next, agent));
}

fn connections_live_on_when_a_newer_generation_takes_over(driver: Driver) {
    let steered = Steered::build("auto");
    let agent = steered.agent();
    let more = routes() + "[shutdown]\ndrain = \"1m\"\n";
    let mut nodes = vec![steered.start(steered.plan(driver, &more))];
    steered.wait_until_steered(&nodes[0]);
    let many = |node: SocketAddr, local: &str| {
        steered.network.at_client(|| start(h3_command("many", node).args(["--local", local]).args(MANY)))
    };
    let mut clients = Vec::new();
    for generation in 1..=2_u16 {
        clients.push(many(https()[0], "192.0.2.100"));
        clients.push(many(https()[1], "2001:db8::100"));
        let late = format!("http://{ADDRESS}:{HTTP_PORT}/delay/2s");
        clients.push(steered.network.at_client(|| start(curl_command().arg(&late))));
        let old = nodes.last().expect("there is one");
        wait_until("the old one is busy", || steered.network.at_node(|| old.number("quic_connections")) > 8);
        // The number of cores changes as well.
        nodes.push(steered.start(steered.plan(driver, &more).cores(2 - generation % 2)));
        // While it changes: new connections, each of them answered.
        ask_over_tcp(&steered, 100);
        let new = nodes.last().expect("there is one");
        let status = steered.wait_until_steered(new);
        assert_eq!(
            status["generation"],
            generation % 2,
            "the number of one that has ended is free again: {status}"
        );
        let old = &nodes[nodes.len() - 2];
        old.log_line("node.draining");
        assert!(steered.network.at_node(|| old.wait()).success(), "{}", old.log());
        assert!(!old.log().contains("drain.deadline"), "{}", old.log());
    }
    for client in clients {
        finish(client).ok();
    }
    let newest = nodes.pop().expect("there is one");
    ask_over_tcp(&steered, 10);
    steered.network.at_node(|| newest.finish());
    drop(agent);
}
