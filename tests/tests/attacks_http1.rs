//! HTTP/1.1 under attack over real sockets: each limit is reached, answered as documented and
//! counted once; nothing is smuggled; memory stays bounded and comes back.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test fail as it does")]

use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use berth_tests::attack::{Node, PATIENCE, Wire};

/// Small limits, so that each is reached quickly.
const SMALL: &str = r#"
header_bytes = "1KiB"
header_count = 8
body_bytes = "64KiB"
header_timeout = "300ms"
body_timeout = "300ms"
send_timeout = "500ms"
idle_timeout = "600ms"
[limits.websocket]
message_bytes = 1000
frame_bytes = 500
"#;

/// Sends bytes and reads everything up to the end of the connection.
fn ask(node: &Node, bytes: &[u8]) -> String {
    let mut wire = Wire::connect(node.http);
    wire.send(bytes).unwrap();
    String::from_utf8_lossy(&wire.rest()).into_owned()
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or("nothing")
}

#[test]
fn heads_beyond_their_limits_are_refused_and_counted() {
    let node = Node::start(SMALL);
    let long = "a".repeat(1100);
    let many: String = (0..9).map(|number| format!("x{number}: y\r\n")).collect();
    let table = [
        ("fields too large", format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"), "431"),
        ("a field that never ends", format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}"), "431"),
        ("a target that never ends", format!("GET /{long}"), "414"),
        ("too many fields", format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"), "431"),
    ];
    for (what, bytes, expected) in table {
        assert_eq!(status(&ask(&node, bytes.as_bytes())), expected, "{what}");
    }
    node.wait_for("limit_header_bytes", 3);
    node.wait_for("limit_header_count", 1);
    node.wait_for("connections_open", 0);
}

#[test]
fn heads_at_their_limits_pass() {
    let node = Node::start(SMALL);
    let seven: String = (0..6).map(|number| format!("x{number}: y\r\n")).collect();
    let head = format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{seven}\r\n");
    assert_eq!(status(&ask(&node, head.as_bytes())), "200");
    let start = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx: ";
    let value = "v".repeat(1024 - start.len() - 4);
    assert_eq!(status(&ask(&node, format!("{start}{value}\r\n\r\n").as_bytes())), "200");
    assert_eq!((node.count("limit_header_bytes"), node.count("limit_header_count")), (0, 0));
}

#[test]
fn a_head_that_dribbles_in_is_cut_with_408() {
    let node = Node::start(SMALL);
    let mut wire = Wire::connect(node.http);
    wire.dribble(b"GET / HTTP/1.1\r\nhost: localhost\r\nx: aaaaaaaa", Duration::from_millis(20));
    let answer = String::from_utf8_lossy(&wire.rest()).into_owned();
    node.wait_for("limit_header_timeout", 1);
    node.wait_for("connections_open", 0);
    // Bytes that cross the close on their way may turn it into a reset, which loses the answer.
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[test]
fn a_head_that_stops_in_the_middle_is_cut_with_408() {
    let node = Node::start(SMALL);
    let answer = ask(&node, b"GET / HTTP/1.1\r\nhost: loc");
    assert_eq!(status(&answer), "408", "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    node.wait_for("limit_header_timeout", 1);
    assert_eq!(node.count("limit_idle_timeout"), 0);
}

#[test]
fn a_connection_that_idles_is_closed_in_silence() {
    let node = Node::start(SMALL);
    let mut wire = Wire::connect(node.http);
    wire.send(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    assert_eq!(wire.answer().unwrap().status, 200);
    assert!(wire.is_closed());
    node.wait_for("limit_idle_timeout", 1);
    assert_eq!(node.count("limit_header_timeout"), 0);
}

#[test]
fn a_connection_that_never_says_anything_idles() {
    let node = Node::start(SMALL);
    assert!(Wire::connect(node.http).is_closed());
    node.wait_for("limit_idle_timeout", 1);
    assert_eq!(node.count("limit_header_timeout"), 0);
}

#[test]
fn a_body_beyond_its_limit_is_refused_with_413() {
    let node = Node::start(SMALL);
    let announced = ask(&node, b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 65537\r\n\r\n");
    assert_eq!(status(&announced), "413");
    node.wait_for("limit_body_bytes", 1);
    let expecting = ask(
        &node,
        b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 65537\r\nexpect: 100-continue\r\n\r\n",
    );
    assert_eq!(status(&expecting), "413", "no 100 for a body that will be refused");
    node.wait_for("limit_body_bytes", 2);

    // Without a length the echo has begun before the limit is met: its body is then cut.
    let mut wire = Wire::connect(node.http);
    wire.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    let chunk = [b"4000\r\n".as_slice(), &[b'x'; 0x4000], b"\r\n"].concat();
    for _ in 0..5 {
        let _ = wire.send(&chunk);
    }
    let answer = wire.rest();
    assert!(!answer.ends_with(b"0\r\n\r\n"), "a body that was cut must not look whole");
    node.wait_for("limit_body_bytes", 3);
}

#[test]
fn a_body_at_its_limit_passes() {
    let node = Node::start(SMALL);
    let mut wire = Wire::connect(node.http);
    wire.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 65536\r\n\r\n").unwrap();
    wire.send(&[b'x'; 65536]).unwrap();
    assert_eq!(wire.answer().unwrap().body.len(), 65536);
    assert_eq!(node.count("limit_body_bytes"), 0);
}

#[test]
fn a_body_that_stops_is_cut() {
    let node = Node::start(SMALL);
    let mut wire = Wire::connect(node.http);
    wire.send(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc").unwrap();
    let answer = wire.rest();
    assert!(!answer.ends_with(b"abcdefghij"));
    node.wait_for("limit_body_timeout", 1);
    node.wait_for("connections_open", 0);

    // A body that nobody reads is due as well: the connection waits for it to be of use again.
    let mut wire = Wire::connect(node.http);
    wire.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc").unwrap();
    assert_eq!(wire.answer().unwrap().status, 200);
    assert!(wire.is_closed());
    node.wait_for("limit_body_timeout", 2);
}

#[test]
fn a_client_that_does_not_read_is_cut() {
    let node = Node::start(SMALL);
    let mut wire = Wire::connect_narrow(node.http);
    wire.send(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    node.wait_for("limit_send_timeout", 1);
    node.wait_for("connections_open", 0);
    assert!(wire.rest().len() < 64 << 20, "the stream was cut");
}

#[test]
fn a_client_that_pipelines_and_does_not_read_is_cut() {
    let node = Node::start(SMALL);
    let wire = Wire::connect_narrow(node.http);
    let requests = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(1000);
    wire.stream().set_nonblocking(true).unwrap();
    let began = Instant::now();
    let mut at = 0;
    while node.count("limit_send_timeout") == 0 {
        assert!(began.elapsed() < PATIENCE, "the node takes requests without end");
        while let Ok(count @ 1..) = wire.stream().write(&requests[at..]) {
            at = (at + count) % requests.len();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    node.wait_for("limit_send_timeout", 1);
    assert_eq!(node.count("requests_malformed"), 0);
    node.wait_for("connections_open", 0);
}

#[test]
fn websocket_messages_beyond_their_limits_are_closed_with_1009() {
    let node = Node::start(SMALL);
    let open = || {
        let mut wire = Wire::connect(node.http);
        wire.send(
            b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
              sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        )
        .unwrap();
        assert_eq!(wire.answer().unwrap().status, 101);
        wire
    };
    // A masked frame with a mask of zeros, so that the payload stands as it is.
    let message = |first: u8, length: u16, payload: &[u8]| {
        let mut bytes = vec![first, 0x80 | 126];
        bytes.extend(length.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes
    };
    let (whole, begin, go_on) = (0x82, 0x02, 0x00);

    let mut wire = open();
    wire.send(&message(whole, 500, &[7; 500])).unwrap();
    // The echo: two bytes, a length of two bytes, the payload. Then one frame that is announced too
    // large; its payload never comes.
    wire.send(&message(whole, 501, &[])).unwrap();
    let answer = wire.rest();
    assert_eq!(answer[..4], [0x82, 126, 1, 0xf4]);
    assert_eq!(answer[504..508], [0x88, 2, 0x03, 0xf1], "close code 1009");
    node.wait_for("limit_websocket_bytes", 1);

    let mut wire = open();
    wire.send(&message(begin, 400, &[7; 400])).unwrap();
    wire.send(&message(go_on, 400, &[7; 400])).unwrap();
    wire.send(&message(go_on, 400, &[7; 400])).unwrap();
    wire.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(wire.rest()[..4], [0x88, 2, 0x03, 0xf1], "a message in three frames is too large as well");
    node.wait_for("limit_websocket_bytes", 2);
    node.wait_for("connections_open", 0);
}

#[test]
fn what_two_readers_could_read_differently_is_refused_and_nothing_is_smuggled() {
    let node = Node::start(SMALL);
    let inner = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let post = |fields: &str, body: &str| format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n{body}");
    let table = [
        (
            "length, then chunks",
            post("content-length: 5\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
            "400",
        ),
        (
            "chunks, then length",
            post("transfer-encoding: chunked\r\ncontent-length: 5\r\n", "0\r\n\r\n"),
            "400",
        ),
        ("two lengths", post("content-length: 5\r\ncontent-length: 0\r\n", ""), "400"),
        ("the same length twice", post("content-length: 0\r\ncontent-length: 0\r\n", ""), "400"),
        ("a list of lengths", post("content-length: 0, 5\r\n", ""), "400"),
        ("a length with a sign", post("content-length: +5\r\n", ""), "400"),
        ("a negative length", post("content-length: -1\r\n", ""), "400"),
        ("a length in hexadecimal", post("content-length: 0x5\r\n", ""), "400"),
        ("a length beyond 64 bits", post("content-length: 18446744073709551621\r\n", ""), "400"),
        ("no chunked after all", post("transfer-encoding: xchunked\r\n", "0\r\n\r\n"), "400"),
        ("chunked is not last", post("transfer-encoding: chunked, gzip\r\n", "0\r\n\r\n"), "400"),
        ("chunked twice", post("transfer-encoding: chunked, chunked\r\n", "0\r\n\r\n"), "400"),
        ("two lines", post("transfer-encoding: chunked\r\ntransfer-encoding: x\r\n", "0\r\n\r\n"), "400"),
        ("a coding that we lack", post("transfer-encoding: gzip, chunked\r\n", "0\r\n\r\n"), "501"),
        ("vertical tab before chunked", post("transfer-encoding: \x0bchunked\r\n", "0\r\n\r\n"), "400"),
        ("quoted", post("transfer-encoding: \"chunked\"\r\n", "0\r\n\r\n"), "400"),
        ("space before the colon", post("transfer-encoding : chunked\r\n", "0\r\n\r\n"), "400"),
        ("space before the name", post(" transfer-encoding: chunked\r\n", "0\r\n\r\n"), "400"),
        ("folding", post("x: a\r\n content-length: 5\r\n", ""), "400"),
        ("folding with a tab", post("transfer-encoding:\r\n\tchunked\r\n", ""), "400"),
        ("bare LF after a field", post("x: a\ncontent-length: 5\r\n", ""), "400"),
        ("bare CR in a field", post("x: a\rcontent-length: 5\r\n", ""), "400"),
        ("NUL in a field", post("x: a\0b\r\n", ""), "400"),
        ("a name with a NUL", post("content\0-length: 5\r\n", ""), "400"),
        ("bare LF everywhere", "GET / HTTP/1.1\nhost: a\n\n".into(), "400"),
        ("bare LF after the request line", "GET / HTTP/1.1\nhost: a\r\n\r\n".into(), "400"),
        ("two spaces", "GET  / HTTP/1.1\r\nhost: a\r\n\r\n".into(), "400"),
        ("a tab for a space", "GET\t/ HTTP/1.1\r\nhost: a\r\n\r\n".into(), "400"),
        ("no version", "GET /\r\nhost: a\r\n\r\n".into(), "400"),
        ("a version that we do not speak", "GET / HTTP/2.0\r\nhost: a\r\n\r\n".into(), "505"),
        ("no host", "GET / HTTP/1.1\r\n\r\n".into(), "400"),
        ("two hosts", "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".into(), "400"),
        (
            "chunks in HTTP/1.0",
            "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            "400",
        ),
        ("TLS on a clear port", "\x16\x03\x01\x02\0".into(), "400"),
        ("an encoded NUL in the path", "GET /%00 HTTP/1.1\r\nhost: a\r\n\r\n".into(), "400"),
        ("a broken escape in the path", "GET /%zz HTTP/1.1\r\nhost: a\r\n\r\n".into(), "400"),
        ("dots that climb", "GET /a/%2e%2e/smuggled HTTP/1.1\r\nhost: a\r\n\r\n".into(), "400"),
    ];
    let refused = table.len() as u64;
    for (what, bytes, expected) in table {
        let answer = ask(&node, format!("{bytes}{inner}").as_bytes());
        assert_eq!(status(&answer), expected, "{what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: one answer, then the end: {answer}");
        assert!(!answer.contains("smuggled\n"), "{what}: {answer}");
    }
    node.wait_for("requests_malformed", refused);
    node.wait_for("connections_open", 0);
}

#[test]
fn a_broken_chunk_ends_the_connection_and_nothing_is_smuggled() {
    let node = Node::start(SMALL);
    let inner = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let chunked = "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let after_chunks = |bad: &str| format!("{chunked}{bad}{inner}");
    // In the middle of a body the echo may have begun; then the only answer left is to cut.
    let in_body = [
        ("no digit", after_chunks("\r\n")),
        ("not a digit", after_chunks("g\r\n")),
        ("a prefix", after_chunks("0x1\r\na\r\n")),
        ("a sign", after_chunks("+1\r\na\r\n")),
        ("space after", after_chunks("1 \r\na\r\n")),
        ("space before", after_chunks(" 1\r\na\r\n")),
        ("more than 64 bits", after_chunks("10000000000000001\r\na\r\n")),
        ("bare LF after the size", after_chunks("1\na\r\n")),
        ("bare LF after the chunk", after_chunks("1\r\na\n0\r\n\r\n")),
        ("more than the size", after_chunks("1\r\nab\r\n0\r\n\r\n")),
        ("bare LF in an extension", after_chunks("1;a\nb\r\na\r\n0\r\n\r\n")),
        ("bare LF after a trailer", after_chunks("0\r\nx: a\n\r\n")),
        ("a length in the trailers", after_chunks("0\r\ncontent-length: 5\r\n\r\n")),
    ];
    let broken = in_body.len() as u64;
    for (what, bytes) in in_body {
        let answer = ask(&node, bytes.as_bytes());
        assert!(!answer.contains("smuggled\n"), "{what}: {answer}");
        assert!(!answer.ends_with("\r\n0\r\n\r\n"), "{what}: the echo must not look whole: {answer}");
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{what}: {answer}");
    }
    node.wait_for("requests_malformed", broken);
    assert!(!node.logged_targets(1).contains(&"/smuggled".to_owned()));
    node.wait_for("connections_open", 0);
}

#[test]
fn a_request_inside_a_body_stays_a_body() {
    let node = Node::start(SMALL);
    let inner = b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut wire = Wire::connect(node.http);
    let head = format!("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", inner.len());
    wire.send(&[head.as_bytes(), inner].concat()).unwrap();
    assert_eq!(wire.answer().unwrap().body, inner);
    // The same to a route that does not read it.
    let head = head.replace("/echo", "/");
    wire.send(&[head.as_bytes(), inner, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"].concat()).unwrap();
    assert_eq!(wire.answer().unwrap().body, b"hello\n");
    assert_eq!(wire.answer().unwrap().body, b"hello\n");
    assert_eq!(node.logged_targets(3), ["/echo", "/", "/"]);
}

#[test]
fn the_bytes_of_a_target_and_of_a_body_pass_unchanged() {
    let node = Node::start(SMALL);
    let targets = ["/echo?a=%2F&b=%41&c=%c3%a9", "/echo?x=a//b/./c", "/echo?'|{}^`\"<>"];
    let body: Vec<u8> = (0..=255).collect();
    let mut wire = Wire::connect(node.http);
    for target in targets {
        wire.send(format!("POST {target} HTTP/1.1\r\nhost: a\r\ncontent-length: 256\r\n\r\n").as_bytes())
            .unwrap();
        wire.send(&body).unwrap();
        let answer = wire.answer().unwrap();
        assert_eq!((answer.status, &answer.body), (200, &body), "{target}");
    }
    assert_eq!(node.logged_targets(targets.len()), targets);
}

/// Connections of one attack on memory: enough that a leak of a page for each would show.
const MANY: usize = 400;

/// Opens many connections, leaves each where `attack` leaves it, and says by how many bytes each
/// made the node grow. All of it is then taken back.
fn growth_for_each(node: &Node, attack: &[u8]) -> u64 {
    // Once before, so that what the node keeps warm is there already.
    drop(Wire::connect(node.http).send(attack));
    node.wait_for("connections_open", 0);
    let before = node.resident_bytes();
    let mut wires: Vec<Wire> = (0..MANY).map(|_| Wire::connect(node.http)).collect();
    for wire in &mut wires {
        wire.stream().set_nonblocking(true).unwrap();
        let _ = wire.send(attack);
    }
    // The node has seen it all when it answers a connection that came later.
    let mut last = Wire::connect(node.http);
    last.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    assert_eq!(last.answer().unwrap().status, 200);
    node.wait_for("connections_open", MANY as u64 + 1);
    let after = node.resident_bytes();
    drop((wires, last));
    node.wait_for("connections_open", 0);
    node.wait_for("send_buffers", 0);
    after.saturating_sub(before) / MANY as u64
}

#[test]
fn memory_grows_by_little_for_each_hostile_connection_and_comes_back() {
    // 16 MiB of receive buffers, which 400 connections with much to say would exceed.
    let pool = "[runtime]\nreceive_buffers_max = 4096\n";
    let mut node = Node::start_with("header_bytes = \"16KiB\"", pool);
    let head = b"GET / HTTP/1.1\r\nhost: a\r\nx: ";
    let partial = [head.as_slice(), &[b'x'; 15 * 1024]].concat();
    let unread = [
        b"POST /late HTTP/1.1\r\nhost: a\r\ncontent-length: 10000000\r\n\r\n".as_slice(),
        &vec![b'x'; 1 << 18],
    ]
    .concat();
    let pipelined =
        [b"GET /late HTTP/1.1\r\nhost: a\r\n\r\n".as_slice(), &b"GET / HTTP/1.1\r\n".repeat(1 << 14)]
            .concat();
    let table = [
        // Kernel memory is not in the figures. A head holds itself and the slack of its buffer.
        ("partial heads", &partial, 64 << 10),
        // What the kernel held for a socket may move over in one turn, before the receive is stopped:
        // no more than the kernel's receive buffer, whatever the client goes on to send.
        ("bodies that nobody reads", &unread, 320 << 10),
        ("pipelined requests behind a slow one", &pipelined, 320 << 10),
    ];
    for (what, attack, bound) in table {
        let growth = growth_for_each(&node, attack);
        println!("{what}: {growth} bytes for each connection");
        assert!(growth < bound, "{what}: {growth} bytes for each connection");
    }
    // The same again must find room in what is there: nothing was lost on the way.
    let before = node.resident_bytes();
    for _ in 0..5 {
        growth_for_each(&node, &partial);
    }
    let grown = node.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "five more rounds of the same attack left {grown} bytes");
    assert!(node.is_alive());
}
