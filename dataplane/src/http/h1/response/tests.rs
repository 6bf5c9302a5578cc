//! Response heads and chunks, read back by `httparse` as an independent reader.

use proptest::prelude::*;

use super::*;

const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

fn asked(method: &Method, version: Version, persistence: Persistence) -> Asked {
    Asked::new(method, version, persistence)
}

fn get() -> Asked {
    asked(&Method::GET, Version::HTTP_11, Persistence::KeepAlive)
}

fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
    let line = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    headers.iter().map(line).collect()
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap()
}

#[test]
fn the_body_and_the_connection_by_method_version_and_status() {
    use Afterwards as A;
    use BodyFraming as B;
    use Persistence::{Close, KeepAlive};
    let (exact, unknown) = (BodySize::Exact(7), BodySize::Unknown);
    let http = |method| asked(&method, Version::HTTP_11, KeepAlive);
    let old = |persistence| asked(&Method::GET, Version::HTTP_10, persistence);
    let (stay, tunnel) = (Switch::Stay, Switch::Tunnel);
    let table = [
        ("a known size", get(), 200, exact, stay, B::Sized(7), A::KeepAlive),
        ("no bytes", get(), 200, BodySize::Exact(0), stay, B::Sized(0), A::KeepAlive),
        ("an unknown size", get(), 200, unknown, stay, B::Chunked, A::KeepAlive),
        ("an error", get(), 404, exact, stay, B::Sized(7), A::KeepAlive),
        ("the client closes", get().closing(), 200, unknown, stay, B::Chunked, A::Close),
        ("HEAD", http(Method::HEAD), 200, exact, stay, B::Omitted(Some(7)), A::KeepAlive),
        ("HEAD of an unknown size", http(Method::HEAD), 200, unknown, stay, B::Omitted(None), A::KeepAlive),
        (
            "HEAD without a body",
            http(Method::HEAD),
            200,
            BodySize::Exact(0),
            stay,
            B::Omitted(None),
            A::KeepAlive,
        ),
        ("HEAD and 204", http(Method::HEAD), 204, exact, stay, B::NoBody, A::KeepAlive),
        ("204", get(), 204, exact, stay, B::NoBody, A::KeepAlive),
        ("205", get(), 205, exact, stay, B::Omitted(Some(0)), A::KeepAlive),
        ("304", get(), 304, exact, stay, B::Omitted(None), A::KeepAlive),
        ("an accepted upgrade", get(), 101, unknown, tunnel, B::NoBody, A::Tunnel),
        ("a 101 that nobody takes over", get(), 101, unknown, stay, B::NoBody, A::Close),
        ("a final 100", get(), 100, exact, stay, B::NoBody, A::Close),
        ("a final 103", get(), 103, exact, tunnel, B::NoBody, A::Close),
        ("an upgrade of a 200", get(), 200, exact, tunnel, B::Sized(7), A::KeepAlive),
        ("CONNECT accepted", http(Method::CONNECT), 200, exact, tunnel, B::NoBody, A::Tunnel),
        ("CONNECT that nobody takes over", http(Method::CONNECT), 200, exact, stay, B::NoBody, A::Close),
        ("CONNECT refused", http(Method::CONNECT), 405, exact, stay, B::Sized(7), A::KeepAlive),
        ("1.0, a known size", old(KeepAlive), 200, exact, stay, B::Sized(7), A::KeepAlive),
        ("1.0, an unknown size", old(KeepAlive), 200, unknown, stay, B::UntilClose, A::Close),
        ("1.0, closing", old(Close), 200, exact, stay, B::Sized(7), A::Close),
        ("a head that could not be read", Asked::UNREADABLE, 400, unknown, stay, B::UntilClose, A::Close),
    ];
    for (name, asked, code, size, switch, body, afterwards) in table {
        let framing = ResponseFraming::decide(asked, status(code), &HeaderMap::new(), size, switch);
        assert_eq!((framing.body, framing.afterwards), (body, afterwards), "{name}");
    }
}

#[test]
fn the_length_that_a_handler_announces_counts_only_where_no_body_is_sent() {
    let head = asked(&Method::HEAD, Version::HTTP_11, Persistence::KeepAlive);
    let (none, seven) = (BodySize::Exact(0), map(&[("content-length", "7")]));
    let body = |asked, code, headers: &HeaderMap| {
        ResponseFraming::decide(asked, status(code), headers, none, Switch::Stay).body
    };
    assert_eq!(body(head, 200, &seven), BodyFraming::Omitted(Some(7)));
    assert_eq!(body(get(), 304, &seven), BodyFraming::Omitted(Some(7)));
    assert_eq!(body(get(), 200, &seven), BodyFraming::Sized(0));
    assert_eq!(body(head, 200, &map(&[("content-length", "+7")])), BodyFraming::Omitted(None));
    let mut two = seven.clone();
    two.append(header::CONTENT_LENGTH, HeaderValue::from_static("8"));
    assert_eq!(body(head, 200, &two), BodyFraming::Omitted(None));
}

#[test]
fn a_handler_may_close_the_connection() {
    for (value, expected) in
        [("close", Afterwards::Close), ("x, Close", Afterwards::Close), ("x", Afterwards::KeepAlive)]
    {
        let headers = map(&[("connection", value)]);
        let framing =
            ResponseFraming::decide(get(), StatusCode::OK, &headers, BodySize::Unknown, Switch::Stay);
        assert_eq!(framing.afterwards, expected, "{value}");
    }
}

fn encoded(asked: Asked, code: u16, headers: &HeaderMap, size: BodySize, switch: Switch) -> String {
    let framing = ResponseFraming::decide(asked, status(code), headers, size, switch);
    let mut out = BytesMut::from("before|");
    encode_head(&mut out, status(code), headers, &framing, DATE);
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn heads_as_they_are_sent() {
    let old = asked(&Method::GET, Version::HTTP_10, Persistence::KeepAlive);
    let date = "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let exact = BodySize::Exact(1_234_567_890);
    let greedy = map(&[
        ("content-length", "1"),
        ("transfer-encoding", "gzip"),
        ("connection", "x-other"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("x-kept", "1"),
    ]);
    let dated = map(&[("date", "yesterday")]);
    let offer = map(&[("upgrade", "websocket"), ("connection", "upgrade, close")]);
    let accept = map(&[("upgrade", "websocket"), ("connection", "upgrade")]);
    let table = [
        (
            encoded(get(), 200, &greedy, exact, Switch::Stay),
            format!("200 OK\r\ncontent-length: 1234567890\r\nx-kept: 1\r\n{date}"),
        ),
        (
            encoded(get(), 200, &greedy, BodySize::Unknown, Switch::Stay),
            format!("200 OK\r\ntransfer-encoding: chunked\r\nx-kept: 1\r\n{date}"),
        ),
        (encoded(get(), 204, &greedy, exact, Switch::Stay), format!("204 No Content\r\nx-kept: 1\r\n{date}")),
        (
            encoded(get(), 200, &dated, BodySize::Exact(0), Switch::Stay),
            "200 OK\r\ncontent-length: 0\r\ndate: yesterday\r\n".into(),
        ),
        (
            encoded(get().closing(), 404, &HeaderMap::new(), BodySize::Exact(9), Switch::Stay),
            format!("404 Not Found\r\ncontent-length: 9\r\nconnection: close\r\n{date}"),
        ),
        (
            encoded(old, 200, &HeaderMap::new(), BodySize::Exact(10), Switch::Stay),
            format!("200 OK\r\ncontent-length: 10\r\nconnection: keep-alive\r\n{date}"),
        ),
        (
            encoded(old, 200, &HeaderMap::new(), BodySize::Unknown, Switch::Stay),
            format!("200 OK\r\nconnection: close\r\n{date}"),
        ),
        (
            encoded(old, 426, &accept, BodySize::Exact(1), Switch::Stay),
            format!(
                "426 Upgrade Required\r\ncontent-length: 1\r\nupgrade: websocket\r\nconnection: keep-alive, upgrade\r\n{date}"
            ),
        ),
        (
            encoded(get(), 101, &accept, BodySize::Exact(0), Switch::Tunnel),
            format!("101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n{date}"),
        ),
        (
            encoded(get(), 426, &offer, BodySize::Exact(1), Switch::Stay),
            format!(
                "426 Upgrade Required\r\ncontent-length: 1\r\nupgrade: websocket\r\nconnection: close, upgrade\r\n{date}"
            ),
        ),
        (
            encoded(get(), 799, &HeaderMap::new(), BodySize::Exact(1), Switch::Stay),
            format!("799 \r\ncontent-length: 1\r\n{date}"),
        ),
    ];
    for (out, expected) in table {
        assert_eq!(out, format!("before|HTTP/1.1 {expected}\r\n"));
    }
}

/// The lines that stand whole must be those that would be put together.
#[test]
fn every_status_line() {
    for code in 100..1000 {
        let status = status(code);
        let mut out = BytesMut::new();
        put_status_line(&mut out, status);
        let expected = format!("HTTP/1.1 {code} {}\r\n", status.canonical_reason().unwrap_or(""));
        assert_eq!(out, expected.as_bytes());
        assert!(out.len() <= OWN_BYTES - 110, "{expected} leaves room for length, connection and date");
    }
}

#[test]
fn the_end_of_chunks_with_trailers() {
    let mut out = BytesMut::new();
    end_chunks(&mut out, &map(&[("x-sum", "7"), ("content-length", "9"), ("connection", "close")]));
    assert_eq!(out, &b"0\r\nx-sum: 7\r\n\r\n"[..]);
    out.clear();
    end_chunks(&mut out, &HeaderMap::new());
    assert_eq!(out, LAST_CHUNK);
}

proptest! {
    #[test]
    fn chunk_heads_are_what_the_standard_library_prints(length in 1usize..) {
        let head = ChunkHead::new(length.try_into().unwrap());
        prop_assert_eq!(head.as_ref().to_vec(), format!("{length:x}\r\n").into_bytes());
    }

    #[test]
    fn decimals_are_what_the_standard_library_prints(bits in 0u32..64, number in any::<u64>()) {
        for number in [number >> bits, 10u64.pow(bits % 20), 10u64.pow(bits % 20) - 1] {
            let mut out = BytesMut::new();
            put_decimal(&mut out, number);
            prop_assert_eq!(out.to_vec(), number.to_string().into_bytes());
            prop_assert_eq!(read_decimal(&out), Some(number));
        }
    }

    /// A reader that we did not write finds the headers that we meant, and one end of the response.
    #[test]
    fn httparse_reads_what_we_write(
        code in 200u16..600,
        fields in prop::collection::vec(("(x-[a-z]{1,3}|content-length|transfer-encoding|connection|date)", "[ -~]{0,12}"), 0..6),
        bytes in prop::option::of(0u64..2000),
        old in any::<bool>(),
    ) {
        let headers: HeaderMap = fields
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.trim().parse().unwrap()))
            .collect();
        let version = if old { Version::HTTP_10 } else { Version::HTTP_11 };
        let size = bytes.map_or(BodySize::Unknown, BodySize::Exact);
        let asked = asked(&Method::GET, version, Persistence::KeepAlive);
        let framing = ResponseFraming::decide(asked, status(code), &headers, size, Switch::Stay);
        let mut out = BytesMut::new();
        encode_head(&mut out, status(code), &headers, &framing, DATE);

        let mut slots = [httparse::EMPTY_HEADER; 16];
        let mut response = httparse::Response::new(&mut slots);
        prop_assert_eq!(response.parse(&out), Ok(httparse::Status::Complete(out.len())));
        prop_assert_eq!(response.code, Some(code));
        let of = |name: &str| -> Vec<&str> {
            let lines = response.headers.iter().filter(|line| line.name == name);
            lines.map(|line| std::str::from_utf8(line.value).unwrap()).collect()
        };
        for (name, _) in fields.iter().filter(|(name, _)| name.starts_with("x-")) {
            prop_assert_eq!(of(name), headers.get_all(name).iter().collect::<Vec<_>>());
        }
        let (lengths, codings) = (of("content-length"), of("transfer-encoding"));
        match framing.body {
            BodyFraming::Sized(bytes) => prop_assert_eq!(lengths, [bytes.to_string()]),
            BodyFraming::Omitted(bytes) => prop_assert_eq!(lengths.len(), usize::from(bytes.is_some())),
            _ => prop_assert!(lengths.is_empty()),
        }
        prop_assert_eq!(!codings.is_empty(), framing.body == BodyFraming::Chunked);
        prop_assert_eq!(of("connection").contains(&"close"), framing.afterwards == Afterwards::Close);
        prop_assert_eq!(of("date").is_empty(), false);
    }
}
