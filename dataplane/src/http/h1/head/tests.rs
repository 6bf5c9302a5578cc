//! Request heads: a case for each reason, and every byte in every place.

use super::*;

const LIMITS: HeaderLimits = HeaderLimits { bytes: 1024, count: 16 };

fn parse(bytes: &[u8]) -> Result<Option<RequestHead>, HeadError> {
    HeadParser::default().parse(&mut BytesMut::from(bytes), LIMITS)
}

/// A head that must be accepted, with `lines` behind its request line.
fn accepted(request_line: &str, lines: &str) -> RequestHead {
    let text = format!("{request_line}\r\n{lines}\r\n");
    match parse(text.as_bytes()) {
        Ok(Some(head)) => head,
        other => panic!("{text:?} gives {other:?}"),
    }
}

#[test]
fn a_request_in_full() {
    let bytes = b"POST /a%2Fb?q=1 HTTP/1.1\r\nHost: Shop.Example:8080\r\nX-Odd:\t \xe9 t\tz \r\nX-Empty:\r\n\
        Content-Length: 5\r\nx-odd: again\r\n\r\nhello";
    let mut buffer = BytesMut::from(&bytes[..]);
    let head = HeadParser::default().parse(&mut buffer, LIMITS).unwrap().unwrap();
    assert_eq!(head.method, Method::POST);
    assert_eq!(head.target, &b"/a%2Fb?q=1"[..]);
    assert_eq!(head.version, Version::HTTP_11);
    assert_eq!(head.host, &b"Shop.Example:8080"[..]);
    assert_eq!(head.body, BodyLength::Sized(5));
    assert_eq!(head.persistence, Persistence::KeepAlive);
    assert_eq!(head.expects, Expectation::None);
    assert_eq!(head.upgrade, None);
    let told: Vec<_> = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let expected: [(&str, &[u8]); 5] = [
        ("host", b"Shop.Example:8080"),
        ("x-odd", b"\xe9 t\tz"),
        ("x-odd", b"again"),
        ("x-empty", b""),
        ("content-length", b"5"),
    ];
    assert_eq!(told, expected);
    assert_eq!(buffer, &b"hello"[..], "the body stays");
}

#[test]
fn methods_and_versions() {
    for method in
        ["GET", "HEAD", "PATCH", "get", "M-SEARCH", "!#$%&'*+-.^_`|~", "A-METHOD-THAT-IS-RATHER-LONG"]
    {
        let head = accepted(&format!("{method} / HTTP/1.1"), "host: a\r\n");
        assert_eq!(head.method.as_str(), method);
    }
    assert_eq!(accepted("GET / HTTP/1.0", "").version, Version::HTTP_10);
}

#[test]
fn the_length_of_the_body() {
    for (lines, expected) in [
        ("", BodyLength::None),
        ("content-length: 0\r\n", BodyLength::None),
        ("content-length: 1\r\n", BodyLength::Sized(1)),
        ("Content-Length:007\r\n", BodyLength::Sized(7)),
        ("content-length: \t 42 \r\n", BodyLength::Sized(42)),
        ("content-length: 18446744073709551615\r\n", BodyLength::Sized(u64::MAX)),
        ("transfer-encoding: chunked\r\n", BodyLength::Chunked),
        ("Transfer-Encoding:\tCHUNKED\t\r\n", BodyLength::Chunked),
    ] {
        let head = accepted("POST / HTTP/1.1", &format!("host: a\r\n{lines}"));
        assert_eq!(head.body, expected, "{lines:?}");
    }
}

#[test]
fn what_becomes_of_the_connection() {
    use Persistence::{Close, KeepAlive};
    for (version, connection, expected) in [
        ("1.1", "", KeepAlive),
        ("1.1", "connection: keep-alive\r\n", KeepAlive),
        ("1.1", "connection: close\r\n", Close),
        ("1.1", "connection: Keep-Alive, ,CLOSE\r\n", Close),
        ("1.1", "connection: x-close\r\nconnection: close\r\n", Close),
        ("1.1", "connection: closed\r\n", KeepAlive),
        ("1.0", "", Close),
        ("1.0", "connection: x,Keep-Alive\r\n", KeepAlive),
        ("1.0", "connection: keep-alive, close\r\n", Close),
    ] {
        let head = accepted(&format!("GET / HTTP/{version}"), &format!("host: a\r\n{connection}"));
        assert_eq!(head.persistence, expected, "{version} {connection:?}");
    }
}

#[test]
fn upgrades_that_are_seen() {
    for (version, lines, expected) in [
        ("1.1", "connection: upgrade\r\nupgrade: websocket\r\n", Some(Upgrade::WebSocket)),
        ("1.1", "connection: keep-alive, Upgrade\r\nupgrade: x/1, WebSocket\r\n", Some(Upgrade::WebSocket)),
        ("1.1", "upgrade: h2c\r\nupgrade: websocket\r\nconnection: upgrade\r\n", Some(Upgrade::WebSocket)),
        ("1.1", "upgrade: websocket\r\n", None),
        ("1.1", "connection: upgrade\r\n", None),
        ("1.1", "connection: upgrade\r\nupgrade: websockets\r\n", None),
        ("1.1", "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n", None),
        ("1.0", "connection: upgrade\r\nupgrade: websocket\r\n", None),
    ] {
        let head = accepted(&format!("GET / HTTP/{version}"), &format!("host: a\r\n{lines}"));
        assert_eq!(head.upgrade, expected, "{version} {lines:?}");
    }
}

#[test]
fn who_waits_for_100_continue() {
    for (version, lines, expected) in [
        ("1.1", "expect: 100-continue\r\ncontent-length: 5\r\n", Expectation::Continue),
        ("1.1", "Expect: 100-Continue\r\ntransfer-encoding: chunked\r\n", Expectation::Continue),
        ("1.1", "expect: 100-continue\r\n", Expectation::None),
        ("1.1", "content-length: 5\r\n", Expectation::None),
        ("1.0", "expect: 100-continue\r\ncontent-length: 5\r\n", Expectation::None),
        ("1.0", "expect: something\r\n", Expectation::None),
    ] {
        let head = accepted(&format!("POST / HTTP/{version}"), &format!("host: a\r\n{lines}"));
        assert_eq!(head.expects, expected, "{version} {lines:?}");
    }
}

#[test]
fn the_host_of_a_request() {
    for (request_line, lines, expected) in [
        ("GET / HTTP/1.1", "host: a.example\r\n", "a.example"),
        ("GET / HTTP/1.1", "Host:\t[::1]:80\t\r\n", "[::1]:80"),
        ("GET / HTTP/1.0", "", ""),
        ("GET / HTTP/1.0", "host: a\r\n", "a"),
        ("GET http://b.example HTTP/1.1", "host: a.example\r\n", "b.example"),
        ("GET HTTP://b.example:81?q HTTP/1.1", "host: a.example\r\n", "b.example:81"),
        ("GET https://[::1]/x:y/http:// HTTP/1.1", "host: a.example\r\n", "[::1]"),
        ("GET http://b.example/ HTTP/1.0", "", "b.example"),
        ("OPTIONS * HTTP/1.1", "host: a\r\n", "a"),
        ("OPTIONS http://b HTTP/1.1", "host: a\r\n", "b"),
        ("CONNECT b.example:443 HTTP/1.1", "host: a\r\n", "b.example:443"),
        ("CONNECT [::1]:443 HTTP/1.1", "host: a\r\n", "[::1]:443"),
    ] {
        let head = accepted(request_line, lines);
        assert_eq!(head.host, expected.as_bytes(), "{request_line}");
        let hosts: Vec<_> = head.headers.get_all(header::HOST).iter().collect();
        assert_eq!(hosts.first().map_or("", |host| host.to_str().unwrap()), expected, "{request_line}");
        assert!(hosts.len() <= 1);
    }
}

/// Two parsers of one target must not disagree about its host.
#[test]
fn the_host_of_a_target_is_that_of_the_target_module() {
    use crate::http::target::Target;
    for target in
        ["http://B.example", "hTTps://b:1/x?y", "http://b?http://c/", "http://[::1]:5/@", "http://b/#@c"]
    {
        let head = accepted(&format!("GET {target} HTTP/1.1"), "host: a\r\n");
        let parsed = Target::parse(head.target).unwrap();
        assert_eq!(parsed.host(), Host::parse(&head.host).ok(), "{target}");
    }
}

#[test]
fn target_bytes_pass_unchanged_or_not_at_all() {
    for byte in 0..=u8::MAX {
        let bytes = [b"GET /a", &[byte][..], b"b HTTP/1.1\r\nhost: a\r\n\r\n"].concat();
        match (byte, parse(&bytes)) {
            (b'\n', Err(HeadError::Headers(HeaderError::BareLineFeed))) => {}
            (b'\r', Err(HeadError::Headers(HeaderError::BareCarriageReturn))) => {}
            (b' ', Err(HeadError::RequestLine)) => {}
            (0..b' ' | 0x7f, Err(HeadError::TargetByte)) => {}
            (_, Ok(Some(head))) => assert_eq!(head.target, [b'/', b'a', byte, b'b'][..]),
            (_, other) => panic!("{byte:#04x}: {other:?}"),
        }
    }
}

/// Name, bytes, and why they are refused. What is behind `\r\n\r\n` would be the smuggled request.
#[rustfmt::skip] // One case a line.
const REFUSED: &[(&str, &[u8], HeadError)] = &[
    // Line ends.
    ("LF only", b"GET / HTTP/1.1\nhost: a\n\n", HeadError::Headers(HeaderError::BareLineFeed)),
    ("LF behind a header", b"GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n", HeadError::Headers(HeaderError::BareLineFeed)),
    ("LF as the empty line", b"GET / HTTP/1.1\r\nhost: a\r\n\n", HeadError::Headers(HeaderError::BareLineFeed)),
    ("LF before the request", b"\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", HeadError::Headers(HeaderError::BareLineFeed)),
    ("CR in a value", b"GET / HTTP/1.1\r\nhost: a\r\nx: y\rz\r\n\r\n", HeadError::Headers(HeaderError::BareCarriageReturn)),
    ("CR CR LF", b"GET / HTTP/1.1\r\nhost: a\r\r\n\r\n", HeadError::Headers(HeaderError::BareCarriageReturn)),
    ("CR alone as line end", b"GET / HTTP/1.1\rhost: a\r\r\n\r\n", HeadError::Headers(HeaderError::BareCarriageReturn)),
    ("CR in a name", b"GET / HTTP/1.1\r\nhost: a\r\nx\ry: z\r\n\r\n", HeadError::Headers(HeaderError::BareCarriageReturn)),
    ("CR before the request", b"\rGET / HTTP/1.1\r\nhost: a\r\n\r\n", HeadError::Headers(HeaderError::BareCarriageReturn)),
    ("empty lines without end", b"\r\n\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", HeadError::EmptyLines),
    // The request line.
    ("two spaces before the target", b"GET  / HTTP/1.1\r\nhost: a\r\n\r\n", HeadError::RequestLine),
    ("two spaces before the version", b"GET /  HTTP/1.1\r\nhost: a\r\n\r\n", HeadError::RequestLine),
    ("a space behind the version", b"GET / HTTP/1.1 \r\nhost: a\r\n\r\n", HeadError::RequestLine),
    ("a space before the method", b" GET / HTTP/1.1\r\nhost: a\r\n\r\n", HeadError::Method),
    ("a tab before the target", b"GET\t/ HTTP/1.1\r\nhost: a\r\n\r\n", HeadError::Method),
    ("a tab before the version", b"GET /\tHTTP/1.1\r\nhost: a\r\n\r\n", HeadError::RequestLine),
    ("a tab behind a space", b"GET \t/ HTTP/1.1\r\nhost: a\r\n\r\n", HeadError::TargetByte),
    ("a space in the target", b"GET /a b HTTP/1.1\r\nhost: a\r\n\r\n", HeadError::RequestLine),
    ("NUL in the target", b"GET /a\0b HTTP/1.1\r\nhost: a\r\n\r\n", HeadError::TargetByte),
    ("no target", b"GET HTTP/1.1\r\nhost: a\r\n\r\n", HeadError::RequestLine),
    ("HTTP/0.9", b"GET /\r\n\r\n", HeadError::RequestLine),
    ("a method that is no token", b"GE(T / HTTP/1.1\r\nhost: a\r\n\r\n", HeadError::Method),
    ("a TLS handshake", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", HeadError::Method),
    ("lower-case version", b"GET / http/1.1\r\nhost: a\r\n\r\n", HeadError::RequestLine),
    ("version with more digits", b"GET / HTTP/1.10\r\nhost: a\r\n\r\n", HeadError::RequestLine),
    ("version without a point", b"GET / HTTP/11\r\nhost: a\r\n\r\n", HeadError::RequestLine),
    ("HTTP/1.2", b"GET / HTTP/1.2\r\nhost: a\r\n\r\n", HeadError::Version),
    ("HTTP/0.9 by name", b"GET / HTTP/0.9\r\n\r\n", HeadError::Version),
    ("the HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HeadError::Version),
    // Target and host.
    ("an asterisk for GET", b"GET * HTTP/1.1\r\nhost: a\r\n\r\n", HeadError::TargetForm),
    ("an authority for GET", b"GET a:80 HTTP/1.1\r\nhost: a\r\n\r\n", HeadError::TargetForm),
    ("a relative path", b"GET a/b HTTP/1.1\r\nhost: a\r\n\r\n", HeadError::TargetForm),
    ("another scheme", b"GET ftp://a/ HTTP/1.1\r\nhost: a\r\n\r\n", HeadError::TargetForm),
    ("a path for CONNECT", b"CONNECT / HTTP/1.1\r\nhost: a\r\n\r\n", HeadError::TargetForm),
    ("CONNECT without a port", b"CONNECT a HTTP/1.1\r\nhost: a\r\n\r\n", HeadError::TargetForm),
    ("CONNECT with an empty port", b"CONNECT a: HTTP/1.1\r\nhost: a\r\n\r\n", HeadError::TargetForm),
    ("CONNECT with a URL", b"CONNECT http://a:80 HTTP/1.1\r\nhost: a\r\n\r\n", HeadError::Host),
    ("a user in the target", b"GET http://u@a/ HTTP/1.1\r\nhost: a\r\n\r\n", HeadError::Host),
    ("a target without a host", b"GET http:///x HTTP/1.1\r\nhost: a\r\n\r\n", HeadError::Host),
    ("no host", b"GET / HTTP/1.1\r\n\r\n", HeadError::HostMissing),
    ("no host header beside that of the target", b"GET http://a/ HTTP/1.1\r\n\r\n", HeadError::HostMissing),
    ("two hosts", b"GET / HTTP/1.1\r\nhost: a\r\nx: y\r\nHost: b\r\n\r\n", HeadError::HostRepeated),
    ("one host twice", b"GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", HeadError::HostRepeated),
    ("two hosts in HTTP/1.0", b"GET / HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n", HeadError::HostRepeated),
    ("an empty host", b"GET / HTTP/1.1\r\nhost:\r\n\r\n", HeadError::Host),
    ("a list of hosts", b"GET / HTTP/1.1\r\nhost: a, b\r\n\r\n", HeadError::Host),
    ("a path in the host", b"GET / HTTP/1.1\r\nhost: a/b\r\n\r\n", HeadError::Host),
    ("a user in the host", b"GET / HTTP/1.1\r\nhost: u@a\r\n\r\n", HeadError::Host),
    ("a port that is none", b"GET / HTTP/1.1\r\nhost: a:80x\r\n\r\n", HeadError::Host),
    ("a bad host beside that of the target", b"GET http://a/ HTTP/1.1\r\nhost: @\r\n\r\n", HeadError::Host),
    // Header lines.
    ("a space before the colon", b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding : chunked\r\n\r\n", HeadError::Headers(HeaderError::Name)),
    ("a tab before the colon", b"POST / HTTP/1.1\r\nhost: a\r\nContent-Length\t: 5\r\n\r\n", HeadError::Headers(HeaderError::Name)),
    ("a space in a name", b"GET / HTTP/1.1\r\nhost: a\r\nx y: z\r\n\r\n", HeadError::Headers(HeaderError::Name)),
    ("no colon", b"GET / HTTP/1.1\r\nhost: a\r\nxyz\r\n\r\n", HeadError::Headers(HeaderError::Name)),
    ("an empty name", b"GET / HTTP/1.1\r\nhost: a\r\n: z\r\n\r\n", HeadError::Headers(HeaderError::Name)),
    ("NUL in a name", b"GET / HTTP/1.1\r\nhost: a\r\nx\0: z\r\n\r\n", HeadError::Headers(HeaderError::Name)),
    ("a name beyond ASCII", b"GET / HTTP/1.1\r\nhost: a\r\nx\xe9: z\r\n\r\n", HeadError::Headers(HeaderError::Name)),
    ("NUL in a value", b"GET / HTTP/1.1\r\nhost: a\r\nx: y\0z\r\n\r\n", HeadError::Headers(HeaderError::Value)),
    ("a vertical tab before the value", b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n", HeadError::Headers(HeaderError::Value)),
    ("DEL in a value", b"GET / HTTP/1.1\r\nhost: a\r\nx: \x7f\r\n\r\n", HeadError::Headers(HeaderError::Value)),
    ("a folded header", b"GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\n\r\n", HeadError::Headers(HeaderError::Folded)),
    ("a folded transfer-encoding", b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding:\r\n\tchunked\r\n\r\n", HeadError::Headers(HeaderError::Folded)),
    ("a space before the first header", b"GET / HTTP/1.1\r\n host: a\r\n\r\n", HeadError::Headers(HeaderError::Folded)),
    // The length of the body.
    ("CL.TE", b"POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG", HeadError::TransferEncodingAndLength),
    ("TE.CL", b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n8\r\nSMUGGLED\r\n0\r\n\r\n", HeadError::TransferEncodingAndLength),
    ("CL.0 beside TE", b"POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", HeadError::TransferEncodingAndLength),
    ("TE that nobody knows beside CL", b"POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 4\r\nTransfer-Encoding: xchunked\r\n\r\n", HeadError::TransferEncoding),
    ("TE.TE: xchunked", b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", HeadError::TransferEncoding),
    ("TE.TE: chunked, then cow", b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n\r\n", HeadError::TransferEncoding),
    ("TE.TE: cow, then chunked", b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: cow\r\nTransfer-Encoding: chunked\r\n\r\n", HeadError::TransferEncoding),
    ("TE.TE: chunked twice", b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", HeadError::TransferEncoding),
    ("chunked, chunked", b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", HeadError::TransferEncoding),
    ("chunked, identity", b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n", HeadError::TransferEncoding),
    ("identity", b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: identity\r\n\r\n", HeadError::TransferEncoding),
    ("identity, chunked", b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n", HeadError::TransferCoding),
    ("gzip, chunked", b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n", HeadError::TransferCoding),
    ("an empty member behind chunked", b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked,\r\n\r\n", HeadError::TransferEncoding),
    ("an empty member before chunked", b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n", HeadError::TransferEncoding),
    ("an empty transfer-encoding", b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding:\r\n\r\n", HeadError::TransferEncoding),
    ("chunked with a parameter", b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked;x=y\r\n\r\n", HeadError::TransferEncoding),
    ("quoted chunked", b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", HeadError::TransferEncoding),
    ("chunked beyond ASCII", b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chun\xc5\xafed\r\n\r\n", HeadError::TransferEncoding),
    ("a space inside chunked", b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunk ed\r\n\r\n", HeadError::TransferEncoding),
    ("no-break space before chunked", b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: \xa0chunked\r\n\r\n", HeadError::TransferEncoding),
    ("TE in HTTP/1.0", b"POST / HTTP/1.0\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\n", HeadError::TransferEncodingVersion),
    ("CL twice, equal", b"POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", HeadError::ContentLengthRepeated),
    ("CL twice, differing", b"POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 5\r\ncontent-length: 6\r\n\r\n", HeadError::ContentLengthRepeated),
    ("CL 5, 5", b"POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 5, 5\r\n\r\n", HeadError::ContentLength),
    ("CL +5", b"POST / HTTP/1.1\r\nhost: a\r\nContent-Length: +5\r\n\r\n", HeadError::ContentLength),
    ("CL -5", b"POST / HTTP/1.1\r\nhost: a\r\nContent-Length: -5\r\n\r\n", HeadError::ContentLength),
    ("CL 0x10", b"POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 0x10\r\n\r\n", HeadError::ContentLength),
    ("CL 5 6", b"POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 5 6\r\n\r\n", HeadError::ContentLength),
    ("CL 1e1", b"POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 1e1\r\n\r\n", HeadError::ContentLength),
    ("CL 1_0", b"POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 1_0\r\n\r\n", HeadError::ContentLength),
    ("CL 5.0", b"POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 5.0\r\n\r\n", HeadError::ContentLength),
    ("CL in other digits", b"POST / HTTP/1.1\r\nhost: a\r\nContent-Length: \xd9\xa5\r\n\r\n", HeadError::ContentLength),
    ("an empty CL", b"POST / HTTP/1.1\r\nhost: a\r\nContent-Length:\r\n\r\n", HeadError::ContentLength),
    ("CL of 2^64", b"POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 18446744073709551616\r\n\r\n", HeadError::ContentLength),
    ("CL of 2^64 + 5 and more digits", b"POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n", HeadError::ContentLength),
    ("CONNECT with CL", b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\nContent-Length: 5\r\n\r\n", HeadError::ConnectBody),
    ("CONNECT with TE", b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\n", HeadError::ConnectBody),
    // Expectations.
    ("an unknown expectation", b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 200-ok\r\n\r\n", HeadError::Expectation),
    ("an unknown one beside 100-continue", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\nexpect: 100-continue, x\r\n\r\n", HeadError::Expectation),
];

#[test]
fn what_is_refused_and_why() {
    for (name, bytes, reason) in REFUSED {
        match parse(bytes) {
            Err(error) => assert_eq!(error, *reason, "{name}"),
            Ok(head) => panic!("{name} is accepted as {head:?}"),
        }
    }
}

#[test]
fn limits_and_what_is_refused_at_them() {
    const START: &str = "GET / HTTP/1.1\r\nhost: a\r\n";
    let filled_to = |bytes: usize| {
        let value = "y".repeat(bytes - START.len() - "x: \r\n\r\n".len());
        format!("{START}x: {value}\r\n\r\n")
    };
    let counting = |count: usize| format!("{START}{}\r\n", "x: y\r\n".repeat(count - 1));
    let target = |bytes: usize| format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "y".repeat(bytes));
    for (name, text, expected) in [
        ("as large as may be", filled_to(LIMITS.bytes), None),
        ("one byte more", filled_to(LIMITS.bytes + 1), Some(HeadError::Headers(HeaderError::TooLarge))),
        ("as many as may be", counting(LIMITS.count), None),
        ("one header more", counting(LIMITS.count + 1), Some(HeadError::Headers(HeaderError::TooMany))),
        (
            "a target that leaves no room",
            target(LIMITS.bytes - 24),
            Some(HeadError::Headers(HeaderError::TooLarge)),
        ),
        ("a target that is too long", target(LIMITS.bytes), Some(HeadError::TargetTooLong)),
        ("empty lines do not count", format!("\r\n\r\n{}", filled_to(LIMITS.bytes)), None),
    ] {
        assert_eq!(parse(text.as_bytes()).err(), expected, "{name}");
    }
}

/// A sender that never ends a line is refused when the limit is reached, not when memory is.
#[test]
fn an_endless_head_is_refused_at_the_limit() {
    for (start, expected) in
        [("", HeadError::TargetTooLong), ("GET / HTTP/1.1\r\n", HeadError::Headers(HeaderError::TooLarge))]
    {
        let mut parser = HeadParser::default();
        let mut buffer = BytesMut::from(start);
        while buffer.len() < LIMITS.bytes {
            assert!(parser.parse(&mut buffer, LIMITS).unwrap().is_none());
            buffer.extend_from_slice(b"a");
        }
        assert_eq!(parser.parse(&mut buffer, LIMITS).unwrap_err(), expected);
    }
}

#[test]
fn an_error_is_final() {
    let mut parser = HeadParser::default();
    let mut buffer = BytesMut::from("GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(parser.parse(&mut buffer, LIMITS).unwrap_err(), HeadError::HostMissing);
    assert_eq!(parser.parse(&mut buffer, LIMITS).unwrap_err(), HeadError::HostMissing);
}

#[test]
fn each_reason_has_its_own_name_a_case_and_a_status() {
    let mut names: Vec<_> = HeadError::ALL.iter().map(|error| error.reason()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), HeadError::ALL.len());
    let by_limits = [
        HeadError::TargetTooLong,
        HeadError::Headers(HeaderError::TooLarge),
        HeadError::Headers(HeaderError::TooMany),
    ];
    let refused = REFUSED.iter().map(|(_, _, reason)| *reason);
    let reached: Vec<_> = refused.chain(by_limits).collect();
    for error in &HeadError::ALL {
        assert!(reached.contains(error), "{error:?} has no case");
    }
    for error in reached {
        assert!(HeadError::ALL.contains(&error), "{error:?} is not listed");
        let expected = match error {
            HeadError::TargetTooLong => 414,
            HeadError::Expectation => 417,
            HeadError::Headers(HeaderError::TooLarge | HeaderError::TooMany) => 431,
            HeadError::TransferCoding => 501,
            HeadError::Version => 505,
            _ => 400,
        };
        assert_eq!(error.status().as_u16(), expected, "{error:?}");
    }
}
