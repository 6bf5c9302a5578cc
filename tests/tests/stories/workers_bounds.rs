//! The bounds of workers, attacked from outside: bombs for the compiler, too many uploads, guests that want more than
//! their limits, a follower of the log that does not read.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use berth_isolate_host::compile::{Budget, Compiler};
use berth_tests::clients::{connect, curl};
use berth_tests::node::{Driver, Node, PATIENCE, Plan, binary, wait_until};
use berth_tests::workers::{deploy, guests, serve_guests, upload, zone};
use berth_tests::{bombs, on_both_drivers, once};
use serde_json::{Value, json};

use crate::common;

on_both_drivers!(["curl"]; a_component_that_takes_too_long_to_compile_is_refused_while_others_are_served,
    a_component_that_takes_too_much_memory_to_compile_is_refused, a_component_that_is_too_large_is_refused,
    uploads_beyond_a_few_at_a_time_are_told_to_come_again, each_limit_without_a_word_of_its_own_is_counted,
    calls_beyond_the_pool_are_told_to_come_again, a_follower_that_does_not_read_is_told_how_much_it_missed);
once!([]; code_that_would_be_too_large_ends_its_compiler);

fn node(driver: Driver, workers: &str) -> Node {
    Plan::new(driver, common()).and(&format!("[workers]\n{workers}\n")).start()
}

fn wat(source: &str) -> Vec<u8> {
    wat::parse_str(source).unwrap()
}

/// Nothing of an upload that was refused is left: no file, no process, not even one that nobody has waited for.
fn nothing_is_left(node: &Node) {
    assert_eq!(node.children(), [0; 0]);
    for part in ["components", "code"] {
        let folder = node.folder().join("state/scripts").join(part);
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0, "{part}");
    }
    assert_eq!(node.get("/v1/scripts").1.trim(), r#"{"scripts":[]}"#);
}

/// The detail of a refusal with this status.
fn refused(answer: &(u16, String), status: u16) -> String {
    assert_eq!(answer.0, status, "{}", answer.1);
    let told: Value = serde_json::from_str(&answer.1).unwrap();
    assert_eq!(told["status"], status, "{told}");
    told["detail"].as_str().unwrap().to_owned()
}

fn a_component_that_takes_too_long_to_compile_is_refused_while_others_are_served(driver: Driver) {
    let node = node(driver, "compile_time = \"1s\"");
    let bomb = bombs::of_time();
    let answer = std::thread::scope(|scope| {
        let upload = scope.spawn(|| node.ask("POST", "/v1/scripts", &bomb));
        wait_until("the compiler runs", || !node.children().is_empty() || upload.is_finished());
        while !upload.is_finished() {
            assert_eq!(curl(&[&node.http("/")]).ok(), "hello\n");
            assert_eq!(node.get("/health/ready").0, 200);
        }
        upload.join().unwrap()
    });
    let detail = refused(&answer, 400);
    // Which of the two it is depends on who else wants the machine.
    let reasons = ["(1s of CPU time)", "(5s on the clock)"]
        .map(|reason| format!("more than this node allows {reason}"));
    assert!(reasons.iter().any(|reason| detail.contains(reason)), "{detail}");
    nothing_is_left(&node);
    node.finish();
}

fn a_component_that_takes_too_much_memory_to_compile_is_refused(driver: Driver) {
    let node = node(driver, "compile_memory = \"1536MiB\"");
    let detail = refused(&node.ask("POST", "/v1/scripts", &bombs::of_memory()), 400);
    assert!(detail.contains("more than this node allows (1536 MiB of memory); make"), "{detail}");
    nothing_is_left(&node);
    let id = upload(&node, &wat(include_str!("../../guests/wat/table.wat")));
    assert!(node.get("/v1/scripts").1.contains(&id), "what is modest is taken");
    node.finish();
}

fn a_component_that_is_too_large_is_refused(driver: Driver) {
    let node = node(driver, "");
    let file = node.folder().join("large");
    let mut component = guests().to_vec();
    component.resize((32 << 20) + 1, 0);
    std::fs::write(&file, component).unwrap();
    let (data, url) = (format!("@{}", file.display()), format!("http://{}/v1/scripts", node.admin()));
    // With its length announced, and without.
    for more in [&[][..], &["--header", "transfer-encoding: chunked"]] {
        let said = curl(&[&["--include", "--data-binary", &data], more, &[&url]].concat()).all();
        assert!(
            said.contains("HTTP/1.1 413") && said.contains("application/problem+json"),
            "{more:?}: {said}"
        );
    }
    assert_eq!(node.get("/v1/scripts").1.trim(), r#"{"scripts":[]}"#);
    node.finish();
}

fn code_that_would_be_too_large_ends_its_compiler() {
    let component = wat(include_str!("../../guests/wat/table.wat"));
    let compile = |code_bytes| {
        // Other bounds than a configuration may have.
        let budget = Budget { code_bytes, ..Budget::default() };
        let compiler = Compiler { program: binary(), arguments: vec!["compile-script".to_owned()], budget };
        compiler.compile(&component)
    };
    let code = compile(1 << 20).unwrap();
    assert!(code.len() > 1000);
    let error = compile(1000).unwrap_err();
    assert!(error.to_string().contains("more than this node allows (1000 bytes of code)"), "{error}");
    assert_eq!(compile(code.len() as u64).unwrap().len(), code.len(), "just what is allowed");
}

fn uploads_beyond_a_few_at_a_time_are_told_to_come_again(driver: Driver) {
    /// `AT_A_TIME` of the admin API.
    const PLACES: usize = 4;
    let node = node(driver, "compile_time = \"10m\"");
    let component = wat(include_str!("../../guests/wat/table.wat"));
    let bomb = bombs::of_time();
    std::thread::scope(|scope| {
        let held: Vec<_> =
            (0..PLACES).map(|_| scope.spawn(|| node.ask("POST", "/v1/scripts", &bomb))).collect();
        let mut compilers = Vec::new();
        wait_until("all places are taken, by compilers that limit themselves", || {
            compilers = node.children();
            compilers.len() == PLACES && compilers.iter().all(|process| has_limits_of_a_compiler(*process))
        });
        // Stopped, they neither end nor take time from others.
        compilers.iter().for_each(|process| signal(*process, libc::SIGSTOP));
        for (method, path) in [("POST", "/v1/scripts"), ("DELETE", "/v1/zones/nothing")] {
            let answer = node.ask(method, path, &component);
            assert!(refused(&answer, 503).contains("try again in a moment"), "{answer:?}");
            assert!(answer.1.contains("urn:berth:overload"), "{answer:?}");
        }
        let url = format!("http://{}/v1/scripts", node.admin());
        let said = curl(&["--include", "--data-binary", "any", &url]).ok();
        assert!(said.contains("content-type: application/problem+json"), "{said}");
        assert_eq!(node.get("/v1/zones").0, 200, "what waits for nobody is answered");
        assert_eq!(curl(&[&node.http("/")]).ok(), "hello\n");
        compilers.iter().for_each(|process| signal(*process, libc::SIGKILL));
        for upload in held {
            let detail = refused(&upload.join().unwrap(), 400);
            assert!(detail.contains("SIGKILL"), "{detail}");
        }
    });
    nothing_is_left(&node);
    upload(&node, &component);
    node.finish();
}

/// With 10 minutes, and the other bounds as they are without a configuration.
fn has_limits_of_a_compiler(process: i32) -> bool {
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap_or_default();
    let is_limited = |(name, soft, hard): (&str, u64, u64)| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().take(2).eq([soft.to_string(), hard.to_string()])
    };
    let code = (256 << 20) + 1;
    [
        ("Max cpu time", 600, 601),
        ("Max data size", 2 << 30, 2 << 30),
        ("Max file size", code, code),
        ("Max core file size", 0, 0),
    ]
    .into_iter()
    .all(is_limited)
}

fn signal(process: i32, signal: i32) {
    // SAFETY: kill has no memory effects; the process is a child of the node, which waits for it.
    assert_eq!(unsafe { libc::kill(process, signal) }, 0, "it is there");
}

/// Those that `each_attack_falls_over_its_limit_and_hurts_nobody_else` leaves out.
fn each_limit_without_a_word_of_its_own_is_counted(driver: Driver) {
    let node = node(driver, "");
    serve_guests(&node, &json!({"cpu": "10s"}));
    let id = upload(&node, guests());
    deploy(&node, "other", &zone(&["other.example"], &id));
    for (name, source) in [
        ("table", include_str!("../../guests/wat/table.wat")),
        ("handles", include_str!("../../guests/wat/handles.wat")),
    ] {
        let id = upload(&node, &wat(source));
        deploy(&node, name, &zone(&[&format!("{name}.example")], &id));
    }
    for (host, path, counter) in [
        ("table.example", "/", "limit_worker_tables"),
        ("handles.example", "/", "limit_worker_handles"),
        ("any.example", "/fetch-many/51?url=http://other.example/hello", "limit_worker_outgoing"),
        ("any.example", "/random/65537", "limit_worker_call_bytes"),
        ("any.example", "/call-bytes/5000000", "limit_worker_call_bytes"),
    ] {
        let before = node.number(counter);
        let ask =
            |path: &str| curl(&["--include", "--header", &format!("host: {host}"), &node.http(path)]).ok();
        let said = ask(path);
        assert!(said.starts_with("HTTP/1.1 500") && said.contains("urn:berth:internal"), "{path}: {said}");
        assert_eq!(node.number(counter), before + 1, "{host}{path}");
        assert_eq!(curl(&[&node.http("/hello")]).ok(), "hello\n", "after {host}{path}");
    }
    assert_eq!(node.number("worker_faults"), 0, "none of them was taken for a mere trap");
    node.finish();
}

fn calls_beyond_the_pool_are_told_to_come_again(driver: Driver) {
    const PLACES: usize = 8;
    let node = node(driver, &format!("instances = {PLACES}"));
    serve_guests(&node, &json!({"wall": "10m"}));
    let mut clients: Vec<_> = (0..PLACES)
        .map(|_| {
            let mut client = connect(node.listener(0));
            write!(client, "GET /linger/300000 HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
            client
        })
        .collect();
    node.log_lines("guest.line", PLACES);
    let said = curl(&["--include", &node.http("/hello")]).ok();
    assert!(said.starts_with("HTTP/1.1 503") && said.contains("retry-after: "), "{said}");
    assert_eq!(node.number("limit_worker_instances"), 1);
    clients.pop();
    wait_until("a place is free", || curl(&[&node.http("/hello")]).stdout == "hello\n");
    drop(clients);
    node.finish();
}

/// A connection of which the kernel holds little, to somebody who follows the log and has begun to.
fn follow(node: &Node, address: SocketAddr) -> BufReader<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /v1/tail HTTP/1.1\r\nhost: {address}\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    // Who follows hears what is said from then on: so it is said until it was heard.
    let speaking = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while speaking.load(Relaxed) {
                curl(&[&node.http("/stdout")]).ok();
            }
        });
        while !line.contains("\"worker\":\"front\"") {
            line.clear();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the log goes on");
        }
        speaking.store(false, Relaxed);
    });
    lines
}

fn a_follower_that_does_not_read_is_told_how_much_it_missed(driver: Driver) {
    /// Lines of one request, 64 bytes each; as JSON they are four times as long.
    const LINES: usize = 16_000;
    /// 12 MiB of JSON in all: more than a socket of this kernel holds, and the lines that may wait.
    const REQUESTS: usize = 3;
    let node = node(driver, "");
    serve_guests(&node, &json!({"cpu": "30s", "log_bytes": "1MiB"}));
    let mut tail = follow(&node, node.admin());
    for _ in 0..REQUESTS {
        assert_eq!(curl(&[&node.http(&format!("/log-flood/{}", LINES * 64))]).ok(), "flooded\n");
    }
    let (mut heard, mut missed) = (0, 0);
    let mut line = String::new();
    while heard + missed < LINES * REQUESTS {
        line.clear();
        assert_ne!(tail.read_line(&mut line).unwrap(), 0, "the log goes on");
        if line.contains("xxxx") {
            heard += 1;
        } else if let Some(count) = line.strip_prefix("{\"missed\":") {
            missed += count.trim_end().trim_end_matches('}').parse::<usize>().unwrap();
        }
    }
    assert!(missed > 0, "{heard} of {} lines waited somewhere", LINES * REQUESTS);
    node.finish();
}
