//! HTTP/2 under attack, with frames written by hand: each flood ends its connection with GOAWAY and
//! ENHANCE_YOUR_CALM and is counted once, and others are served meanwhile.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test fail as it does")]

use std::io::Write;
use std::time::{Duration, Instant};

use berth_tests::attack::{
    ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, Node,
    PATIENCE, PING, PREFACE, PRIORITY, REFUSED_STREAM, RST_STREAM, SETTINGS, WINDOW_UPDATE, Wire, field,
    frame, get, post, request_block,
};

/// Small limits, so that each is reached quickly.
const SMALL: &str = r#"
header_bytes = "2KiB"
header_count = 16
body_bytes = "64KiB"
header_timeout = "300ms"
body_timeout = "300ms"
send_timeout = "500ms"
idle_timeout = "1s"
[limits.http2]
streams = 4
resets = 10
settings = 5
pings = 10
priorities = 10
window_updates = 100
empty_frames = 10
continuations = 4
"#;

fn begin(node: &Node) -> Wire {
    Wire::connect(node.http).begin_http2()
}

/// The counters of the floods: an attack must raise its own and no other.
const COUNTERS: [&str; 8] = [
    "limit_http2_resets",
    "limit_http2_settings",
    "limit_http2_pings",
    "limit_http2_priorities",
    "limit_http2_window_updates",
    "limit_http2_empty_frames",
    "limit_http2_continuations",
    "http2_protocol_errors",
];

fn counters(node: &Node) -> [u64; COUNTERS.len()] {
    COUNTERS.map(|name| node.count(name))
}

/// Sends `bytes`, expects the connection to end with ENHANCE_YOUR_CALM and only `counter` to rise.
fn expect_calm(node: &Node, what: &str, bytes: &[u8], counter: &str) {
    let before = counters(node);
    let mut wire = begin(node);
    let _ = wire.send(bytes);
    assert_eq!(wire.goaway(), Some(ENHANCE_YOUR_CALM), "{what}");
    wire.rest();
    node.wait_for("connections_open", 0);
    let after = counters(node);
    for (index, name) in COUNTERS.iter().enumerate() {
        let expected = before[index] + u64::from(*name == counter);
        assert_eq!(after[index], expected, "{what}: {name}");
    }
}

/// HEADERS and RST_STREAM, `count` times.
fn rapid_resets(count: u32) -> Vec<u8> {
    let pair = |number: u32| {
        let stream = 2 * number + 1;
        [get(stream, "/"), frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())].concat()
    };
    (0..count).flat_map(pair).collect()
}

#[test]
fn floods_end_their_connection_and_are_counted_once() {
    let node = Node::start(SMALL);
    let open = post(1, "/echo", &[]);
    let headers = |flags, block: &[u8]| frame(HEADERS, flags, 1, block);
    let block = request_block("GET", "/", &[]);
    let more = frame(CONTINUATION, 0, 1, &field("x", "y"));
    let setting = [0, 4, 0, 0, 0xff, 0xff]; // INITIAL_WINDOW_SIZE, which walks all streams.
    let table = [
        ("rapid reset", rapid_resets(1000), "limit_http2_resets"),
        ("settings", frame(SETTINGS, 0, 0, &setting).repeat(1000), "limit_http2_settings"),
        ("acknowledgements", frame(SETTINGS, ACK, 0, &[]).repeat(1000), "limit_http2_settings"),
        ("pings", frame(PING, 0, 0, &[7; 8]).repeat(1000), "limit_http2_pings"),
        ("pongs", frame(PING, ACK, 0, &[7; 8]).repeat(1000), "limit_http2_pings"),
        ("priorities", frame(PRIORITY, 0, 1, &[0, 0, 0, 9, 1]).repeat(1000), "limit_http2_priorities"),
        ("unknown frames", frame(0x77, 0, 0, &[0; 99]).repeat(1000), "limit_http2_priorities"),
        (
            "window updates",
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(1000),
            "limit_http2_window_updates",
        ),
        (
            "empty data",
            [open.clone(), frame(DATA, 0, 1, &[]).repeat(1000)].concat(),
            "limit_http2_empty_frames",
        ),
        ("continuations", [headers(0, &block), more.repeat(1000)].concat(), "limit_http2_continuations"),
        (
            "a block larger than twice its limit",
            headers(0, &field("x", &"y".repeat(120)).repeat(40)),
            "limit_http2_continuations",
        ),
    ];
    for (what, bytes, counter) in table {
        expect_calm(&node, what, &bytes, counter);
    }
}

/// Where the library has a lower bound of its own, it is counted all the same.
#[test]
fn floods_that_the_library_ends_are_counted_by_their_kind() {
    let node = Node::start("");
    let block = request_block("GET", "/", &[]);
    let more = frame(CONTINUATION, 0, 1, &field("x", "y"));
    let continuations = [frame(HEADERS, 0, 1, &block), more.repeat(1000)].concat();
    expect_calm(&node, "continuations", &continuations, "limit_http2_continuations");
    expect_calm(&node, "rapid reset in one burst", &rapid_resets(1000), "limit_http2_resets");
}

#[test]
fn what_is_within_the_limits_is_served() {
    let node = Node::start(SMALL);
    let mut wire = begin(&node);
    wire.send(&frame(PING, 0, 0, &[7; 8]).repeat(10)).unwrap();
    wire.send(&frame(PRIORITY, 0, 1, &[0, 0, 0, 9, 1]).repeat(10)).unwrap();
    wire.send(&frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(100)).unwrap();
    wire.send(&rapid_resets(10)).unwrap();
    for number in 50..60 {
        wire.send(&get(2 * number + 1, "/")).unwrap();
        let answer = wire.frame_where(|frame| frame.kind == DATA && frame.stream == 2 * number + 1);
        assert_eq!(answer.unwrap().payload, b"hello\n");
    }
    assert_eq!(counters(&node), [0; COUNTERS.len()]);
}

/// Frames that are wrong in a way that makes the node reset the stream, instead of the client.
/// Makes the bytes for a stream.
type FrameFor<'a> = &'a dyn Fn(u32) -> Vec<u8>;

#[test]
fn resets_that_a_client_provokes_are_bounded_like_its_own() {
    let node = Node::start(SMALL);
    let overflow = |stream: u32| frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]);
    let too_long = |stream: u32| frame(DATA, END_STREAM, stream, b"more than announced");
    let table: [(&str, FrameFor<'_>); 2] = [("an overflow", &overflow), ("a body too long", &too_long)];
    for (number, (what, provoke)) in table.into_iter().enumerate() {
        let mut wire = begin(&node);
        for number in 0..40 {
            let stream = 2 * number + 1;
            let request = post(stream, "/echo", &[("content-length", "1")]);
            let _ = wire.send(&[request, provoke(stream)].concat());
        }
        let mut resets = 0;
        let reason = loop {
            match wire.frame() {
                Some(frame) if frame.kind == RST_STREAM => resets += 1,
                Some(frame) if frame.kind == GOAWAY => break frame.word(4),
                Some(_) => {}
                None => panic!("{what}: the connection ended without a GOAWAY"),
            }
        };
        assert_eq!(reason, ENHANCE_YOUR_CALM, "{what}");
        assert!(resets <= 11, "{what}: {resets} resets");
        node.wait_for("limit_http2_resets", number as u64 + 1);
    }
    assert_eq!(node.count("http2_protocol_errors"), 0);

    // The library takes an update of zero for an error of the whole connection, at once.
    let mut wire = begin(&node);
    wire.send(&[post(1, "/echo", &[]), frame(WINDOW_UPDATE, 0, 1, &[0; 4])].concat()).unwrap();
    assert_eq!(wire.goaway(), Some(1), "PROTOCOL_ERROR");
    node.wait_for("http2_protocol_errors", 1);
}

#[test]
fn streams_beyond_their_limit_are_refused() {
    let node = Node::start(SMALL);
    let mut wire = begin(&node);
    for stream in [1, 3, 5, 7, 9] {
        wire.send(&get(stream, "/late")).unwrap();
    }
    let refused = wire.frame_where(|frame| frame.kind == RST_STREAM).unwrap();
    assert_eq!((refused.stream, refused.word(0)), (9, REFUSED_STREAM));
    node.wait_for("limit_http2_streams", 1);
    // One that ends makes room.
    wire.send(&frame(RST_STREAM, 0, 1, &CANCEL.to_be_bytes())).unwrap();
    wire.send(&get(11, "/")).unwrap();
    let answer = wire.frame_where(|frame| frame.kind == DATA).unwrap();
    assert_eq!((answer.stream, &answer.payload[..]), (11, b"hello\n".as_slice()));
    node.wait_for("limit_http2_streams", 1);
}

/// The status of the answer on a stream: HPACK's static table has 200, 400 and 404 whole; others are
/// literal, and the node's encoder compresses them, so they are told apart by the rest alone.
fn status_is_200(wire: &mut Wire, stream: u32) -> bool {
    let head = wire.frame_where(|frame| frame.kind == HEADERS && frame.stream == stream).unwrap();
    head.payload[0] == 0x88
}

#[test]
fn heads_beyond_their_limits_are_refused() {
    let node = Node::start(SMALL);
    let mut wire = begin(&node);
    let names: Vec<String> = (0..17).map(|number| format!("x{number}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "y")).collect();
    wire.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &request_block("GET", "/", &many))).unwrap();
    assert!(!status_is_200(&mut wire, 1));
    node.wait_for("limit_header_count", 1);

    wire.send(&frame(HEADERS, END_STREAM | END_HEADERS, 3, &request_block("GET", "/", &many[..16]))).unwrap();
    assert!(status_is_200(&mut wire, 3), "the limit itself is allowed");

    let long = "v".repeat(120);
    let large: Vec<(&str, &str)> = names[..14].iter().map(|name| (name.as_str(), long.as_str())).collect();
    wire.send(&frame(HEADERS, END_STREAM | END_HEADERS, 5, &request_block("GET", "/", &large))).unwrap();
    assert!(!status_is_200(&mut wire, 5));
    wire.send(&get(7, "/")).unwrap();
    assert!(status_is_200(&mut wire, 7), "the connection goes on");
    assert_eq!(node.count("limit_header_count"), 1);
}

/// A small block that decodes to something huge: one large field in the dynamic table, named again
/// and again by one byte each.
#[test]
fn an_hpack_bomb_costs_its_own_size() {
    let node = Node::start(SMALL);
    let before = node.resident_bytes();
    let mut block = request_block("GET", "/", &[]);
    // Literal with incremental indexing: enters the table, of 4 KiB, at 62.
    block.extend([0x40, 1, b'x']);
    block.extend([0x7f, 0xa9, 0x0f]); // 127 + 41 + 15 * 128 = 2088: the length in HPACK's integers.
    block.extend([b'v'; 2088]);
    let bomb = [0xbe; 1500]; // 1500 times 2 KiB.
    block.extend(bomb);
    let mut wire = begin(&node);
    for stream in [1, 3, 5, 7, 9] {
        let _ = wire.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &block));
    }
    // The library closes for a list beyond four times its limit, or answers 431.
    let end = wire.frame_where(|frame| frame.kind == GOAWAY || frame.kind == HEADERS).unwrap();
    assert!(end.kind == GOAWAY || end.payload[0] != 0x88, "{end:?}");
    drop(wire);
    node.wait_for("connections_open", 0);
    let grown = node.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "the bombs, of 15 MiB, left {grown} bytes");
}

#[test]
fn bodies_beyond_their_limit_are_refused_or_cut() {
    let node = Node::start(SMALL);
    let mut wire = begin(&node);
    wire.send(&post(1, "/echo", &[("content-length", "65537")])).unwrap();
    assert!(!status_is_200(&mut wire, 1));
    node.wait_for("limit_body_bytes", 1);

    let mut wire = begin(&node);
    wire.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0x10, 0, 0])).unwrap();
    wire.send(&frame(WINDOW_UPDATE, 0, 0, &[0, 0x10, 0, 0])).unwrap();
    wire.send(&post(1, "/echo", &[])).unwrap();
    wire.send(&frame(DATA, 0, 1, &[b'x'; 16384]).repeat(5)).unwrap();
    let end = wire.frame_where(|frame| frame.kind == RST_STREAM).unwrap();
    assert_eq!(end.stream, 1);
    node.wait_for("limit_body_bytes", 2);

    let mut wire = begin(&node);
    wire.send(&post(1, "/echo", &[])).unwrap();
    wire.send(&frame(DATA, 0, 1, b"abc")).unwrap();
    let end = wire.frame_where(|frame| frame.kind == RST_STREAM).unwrap();
    assert_eq!(end.stream, 1, "a body that stops is cut");
    node.wait_for("limit_body_timeout", 1);
}

#[test]
fn connections_without_streams_idle_and_heads_that_stop_are_cut() {
    let node = Node::start(SMALL);
    let mut wire = begin(&node);
    assert_eq!(wire.goaway(), Some(0), "an idle connection is left in peace");
    node.wait_for("limit_idle_timeout", 1);
    node.wait_for("connections_open", 0);

    // Pings do not keep a connection.
    let mut wire = begin(&node);
    let began = Instant::now();
    while wire.send(&frame(PING, 0, 0, &[0; 8])).is_ok() {
        assert!(began.elapsed() < PATIENCE, "pings keep the connection open");
        std::thread::sleep(Duration::from_millis(150));
    }
    node.wait_for("connections_open", 0);

    let mut wire = begin(&node);
    wire.send(&frame(HEADERS, 0, 1, &request_block("GET", "/", &[]))).unwrap();
    wire.rest();
    node.wait_for("connections_open", 0);

    let mut wire = Wire::connect(node.http);
    wire.send(&PREFACE[..20]).unwrap();
    wire.rest();
    node.wait_for("limit_header_timeout", 1);
    let mut wire = Wire::connect(node.http);
    wire.send(PREFACE).unwrap();
    wire.rest();
    node.wait_for("connections_open", 0);
}

/// SETTINGS with a window of zero for each stream: the client asks for much and takes nothing.
fn zero_windows() -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])
}

#[test]
fn clients_that_never_open_a_window_are_cut_and_memory_stays_bounded() {
    let limits = "send_timeout = \"2s\"\nidle_timeout = \"1s\"\n[limits.http2]\nstreams = 100\n";
    let node = Node::start(limits);
    let before = node.resident_bytes();
    let mut wires = Vec::new();
    for _ in 0..50 {
        let mut wire = begin(&node);
        wire.send(&zero_windows()).unwrap();
        let requests: Vec<u8> = (0..100).flat_map(|number| get(2 * number + 1, "/stream")).collect();
        wire.send(&requests).unwrap();
        wires.push(wire);
    }
    for wire in &mut wires {
        let last = wire.frame_where(|frame| frame.kind == HEADERS && frame.stream == 199);
        assert!(last.is_some(), "all streams are answered");
    }
    let grown = node.resident_bytes().saturating_sub(before);
    println!("{} bytes for each of 5000 streams that wait for a window", grown / 5000);
    assert!(grown / 5000 < 16 << 10, "{grown} bytes for 5000 streams that wait for a window");
    node.wait_for("limit_send_timeout", 5000);
    node.wait_for("connections_open", 0);
}

#[test]
fn a_client_that_does_not_read_its_socket_is_cut_and_memory_stays_bounded() {
    let limits = "send_timeout = \"1s\"\nidle_timeout = \"1s\"\n";
    let node = Node::start(limits);
    let before = node.resident_bytes();
    let mut wires = Vec::new();
    for _ in 0..10 {
        let mut wire = Wire::connect_narrow(node.http).begin_http2();
        wire.send(&frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff])).unwrap();
        wire.send(&frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0, 0])).unwrap();
        let requests: Vec<u8> = (0..100).flat_map(|number| get(2 * number + 1, "/stream")).collect();
        wire.send(&requests).unwrap();
        wires.push(wire);
    }
    let began = Instant::now();
    let mut most = 0;
    while node.count("connections_open") > 0 {
        most = most.max(node.resident_bytes().saturating_sub(before));
        assert!(began.elapsed() < PATIENCE, "{} connections stay", node.count("connections_open"));
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("{} bytes for each of 1000 streams that send into a full socket", most / 1000);
    // The library's send buffer of 64 KiB for each stream, and a piece of the body.
    assert!(most / 1000 < 160 << 10, "{most} bytes for 1000 streams");
    assert!(node.count("limit_send_timeout") >= 10, "{}", node.count("limit_send_timeout"));
}

#[test]
fn others_are_served_while_floods_go_on() {
    let node = Node::start("");
    let mut flood = begin(&node);
    flood.stream().set_nonblocking(true).unwrap();
    let pings = frame(PING, 0, 0, &[0; 8]).repeat(1000);
    let mut neighbour = Wire::connect_as(2, node.http);
    for _ in 0..50 {
        if flood.stream().write(&pings).is_err() {
            flood = begin(&node);
            flood.stream().set_nonblocking(true).unwrap();
        }
        neighbour.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        assert_eq!(neighbour.answer().unwrap().status, 200);
    }
}
