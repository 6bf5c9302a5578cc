//! The life of a node: stop, reload, service manager, violent end.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::time::{Duration, Instant};

use berth_tests::clients::{connect, curl, curl_command, finish, python, read_until, start};
use berth_tests::node::{Driver, Folder, Node, PATIENCE, Plan, wait_until};
use berth_tests::on_both_drivers;

use crate::common;
use crate::websocket::CLIENT;

on_both_drivers!(["curl", "nghttp"]; a_stop_waits_for_what_is_in_flight);
on_both_drivers!(["websockets"]; a_stop_says_good_bye_to_websockets);
on_both_drivers!([]; a_stop_ends_idle_connections_at_once, the_deadline_cuts_what_does_not_end,
    a_second_signal_ends_at_once);
on_both_drivers!(["curl"]; a_reload_changes_the_routes, a_refused_reload_changes_nothing,
    a_killed_node_starts_again);
on_both_drivers!([]; the_service_manager_is_told);

/// Waits until the node has this many tasks more than it had.
fn tasks_above(node: &Node, before: u64, more: u64) {
    wait_until("the requests are in flight", || node.number("tasks") >= before + more);
}

fn refuses_connections(node: &Node, address: std::net::SocketAddr) {
    let refused = || match std::net::TcpStream::connect(address) {
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        Ok(_) => false,
    };
    wait_until("new connections are refused", refused);
    assert_eq!(node.get("/health/ready").0, 503);
    assert_eq!(node.get("/health/live").0, 200);
}

fn a_stop_waits_for_what_is_in_flight(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let (address, plain, secure) = (node.listener(0), node.http("/delay/2s"), node.https("/delay/2s"));
    let before = node.number("tasks");
    let one = start(curl_command().args(["--http1.1", "--include", &plain]));
    let two = start(Command::new("nghttp").args(["--verbose", "--no-verify-peer", &plain]));
    let tls = start(Command::new("nghttp").args(["--verbose", "--no-verify-peer", &secure]));
    // A task for each connection, and one for each stream that waits.
    tasks_above(&node, before, 5);
    node.signal(libc::SIGTERM);
    refuses_connections(&node, address);
    let said = finish(one).ok().to_lowercase();
    assert!(said.contains("connection: close\r\n") && said.ends_with("late\n"), "{said}");
    for client in [two, tls] {
        let said = finish(client).ok();
        assert!(said.contains("late\n"), "{said}");
        assert!(said.contains("recv GOAWAY frame"), "{said}");
    }
    assert!(node.wait().success());
    let log = node.log();
    assert!(log.contains("node.draining") && log.contains("node.ended"), "{log}");
    assert!(!log.contains("drain.deadline") && !log.contains("panicked"), "{log}");
}

fn a_stop_says_good_bye_to_websockets(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let mut clients = Vec::new();
    for (scheme, listener) in [("ws", 0), ("wss", 1)] {
        let url = format!("{scheme}://{}/ws", node.listener(listener));
        clients.push(start(Command::new(python()).args([CLIENT, "stay", &url])));
    }
    wait_until("both are connected", || node.number("websockets") == 2);
    node.signal(libc::SIGTERM);
    for client in clients {
        assert_eq!(finish(client).ok(), "open\n1001\nfine\n", "1001 is going away");
    }
    assert!(node.wait().success());
}

fn a_stop_ends_idle_connections_at_once(driver: Driver) {
    // Nobody waits for the ten minutes: an idle connection has nothing to finish.
    let node = Plan::new(driver, common() + "[shutdown]\ndrain = \"10m\"\n").start();
    let mut used = connect(node.listener(0));
    used.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    read_until(&mut used, "hello\n");
    let fresh = connect(node.listener(0));
    let half_open = connect(node.listener(1));
    wait_until("all are accepted", || node.number("connections_open") == 3);
    node.signal(libc::SIGTERM);
    for mut stream in [used, fresh, half_open] {
        // The end of the stream or a reset: closed.
        let _ = stream.read_to_end(&mut Vec::new()).map(|count| assert_eq!(count, 0));
    }
    assert!(node.wait().success());
}

fn the_deadline_cuts_what_does_not_end(driver: Driver) {
    let node = Plan::new(driver, common() + "[shutdown]\ndrain = \"1s\"\n").start();
    let mut stream = connect(node.listener(0));
    let before = node.number("http1_connections");
    stream.write_all(b"GET /delay/5m HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    wait_until("the request is in flight", || node.number("http1_connections") > before);
    node.signal(libc::SIGTERM);
    assert!(node.wait().success());
    assert!(node.log().contains("drain.deadline"), "{}", node.log());
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty(), "no answer was made up");
}

fn a_second_signal_ends_at_once(driver: Driver) {
    let node = Plan::new(driver, common() + "[shutdown]\ndrain = \"10m\"\n").start();
    let mut stream = connect(node.listener(0));
    stream.write_all(b"GET /delay/5m HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    wait_until("the request is in flight", || node.number("http1_connections") > 0);
    node.signal(libc::SIGTERM);
    node.log_line("node.draining");
    assert_eq!(node.get("/health/ready").0, 503, "while it drains, the node still answers its operator");
    // The drain would take five minutes more; the harness waits two at most.
    node.signal(libc::SIGINT);
    assert!(node.wait().success());
}

fn a_reload_changes_the_routes(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let mut stream = connect(node.listener(0));
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    read_until(&mut stream, "hello\n");
    let text = common().replace("hello", "good morning") + "[[routes]]\npath = \"/new\"\necho = {}\n";
    assert_eq!(node.reload(&text), "done");
    // Connections that are open see the new routes as well.
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    read_until(&mut stream, "good morning\n");
    assert_eq!(curl(&["--data-binary", "body", &node.http("/new")]).ok(), "body");
    assert_eq!(node.metric("berth_reloads_total{outcome=\"done\"}"), 1.0);
    // A key that takes a restart is told, and the rest is taken.
    assert_eq!(node.reload(&(common() + "[limits]\nheader_count = 64\n")), "done");
    node.log_line("node.reload: keys other than routes");
    assert_eq!(curl(&[node.http("/")]).ok(), "hello\n");
    node.finish();
}

fn a_refused_reload_changes_nothing(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    for (times, wrong) in
        ["no toml at all [", "[limits]\nbody_bytes = \"1MB\"\n", "[[routes]]\npath = \"/\"\necho = {}\n"]
            .iter()
            .enumerate()
    {
        let text = common().replace("hello", "changed") + wrong;
        assert_eq!(node.reload(&text), "refused", "{wrong}");
        assert_eq!(node.metric("berth_reloads_total{outcome=\"refused\"}"), times as f64 + 1.0);
        assert_eq!(curl(&[node.http("/")]).ok(), "hello\n");
    }
    node.finish();
}

fn a_killed_node_starts_again(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let keyring = || -> Vec<(std::ffi::OsString, Vec<u8>)> {
        let files = std::fs::read_dir(node.folder().join("state")).unwrap().map(Result::unwrap);
        let is_file = |entry: &std::fs::DirEntry| entry.file_type().unwrap().is_file();
        let read = |entry: std::fs::DirEntry| (entry.file_name(), std::fs::read(entry.path()).unwrap());
        let mut files: Vec<_> = files.filter(is_file).map(read).collect();
        files.sort();
        files
    };
    let before = keyring();
    assert!(!before.is_empty(), "the node keeps its keys in a file");
    // In the middle of work.
    let mut download = start(
        curl_command().args(["--output", "/dev/null", "--limit-rate", "1M"]).arg(node.http("/stream/100MiB")),
    );
    wait_until("the download runs", || node.number("requests") > 0 || node.number("http1_connections") > 0);
    let node = node.kill_and_restart();
    let _ = download.kill();
    finish(download);
    let after: Vec<_> = before
        .iter()
        .map(|(name, _)| std::fs::read(node.folder().join("state").join(name)).unwrap())
        .collect();
    assert!(before.iter().map(|(_, bytes)| bytes).eq(&after), "the keyring is intact");
    assert_eq!(curl(&["--insecure", &node.https("/")]).ok(), "hello\n");
    node.finish();
}

/// What the service manager hears, by the names of systemd's protocol. Told on a socket with a path
/// and on an abstract one.
fn the_service_manager_is_told(driver: Driver) {
    let folder = Folder::new();
    let path = folder.path().join("notify");
    let name = format!("@berth-story-{}-{}", std::process::id(), driver.word());
    let with_path = UnixDatagram::bind(&path).unwrap();
    let address = SocketAddr::from_abstract_name(&name[1..]).unwrap();
    let abstract_one = UnixDatagram::bind_addr(&address).unwrap();
    for (socket, name) in [(with_path, path.into_os_string()), (abstract_one, name.into())] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let hear = |wanted: &str| {
            let deadline = Instant::now() + PATIENCE;
            let mut bytes = [0; 256];
            loop {
                let count = socket.recv(&mut bytes).expect("the node talks to its manager");
                let said = String::from_utf8_lossy(&bytes[..count]).into_owned();
                if said.lines().any(|line| line == wanted) {
                    return;
                }
                assert_eq!(said, "WATCHDOG=1", "nothing else comes before {wanted}");
                assert!(Instant::now() < deadline);
            }
        };
        let plan = Plan::new(driver, common()).env("NOTIFY_SOCKET", name).env("WATCHDOG_USEC", "300000");
        let node = plan.start();
        hear("READY=1");
        hear("WATCHDOG=1");
        hear("WATCHDOG=1");
        assert_eq!(node.reload(node.text()), "done");
        hear("RELOADING=1");
        hear("READY=1");
        node.assert_sound();
        node.signal(libc::SIGTERM);
        hear("STOPPING=1");
        assert!(node.wait().success());
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    }
}
