//! HTTP/2, over TLS by ALPN and in clear text by prior knowledge, with curl, nghttp and h2load.

use std::process::Command;

use berth_tests::clients::{call, curl, run_with_input};
use berth_tests::node::{Driver, Node, Plan};
use berth_tests::on_both_drivers;

use crate::common;

on_both_drivers!(["curl"]; alpn_chooses_the_version, clear_text_speaks_http_2_by_prior_knowledge);
on_both_drivers!(["openssl"]; tls_1_2_is_refused, a_client_without_a_common_protocol_is_refused);
on_both_drivers!(["nghttp"]; streams_share_a_connection, trailers_of_a_request_do_no_harm,
    a_slow_stream_holds_no_other);
on_both_drivers!(["h2load"]; ten_thousand_requests_and_none_fails);

fn alpn_chooses_the_version(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let url = node.https("/");
    let version = "%{http_version}";
    assert_eq!(curl(&["--insecure", "--http2", "--write-out", version, &url]).ok(), "hello\n2");
    assert_eq!(curl(&["--insecure", "--http1.1", "--write-out", version, &url]).ok(), "hello\n1.1");
    assert_eq!(curl(&["--insecure", "--no-alpn", "--write-out", version, &url]).ok(), "hello\n1.1");
    assert_eq!((node.number("http2_connections"), node.number("http1_connections")), (1, 2));
    assert_eq!((node.number("requests"), node.number("requests_http2")), (3, 1));
    // HEAD, a status without a body, and an upload, over HTTP/2.
    let said = curl(&["--insecure", "--http2", "--head", &url]).ok();
    assert!(said.contains("HTTP/2 200") && said.contains("content-length: 6"), "{said}");
    let said = curl(&["--insecure", "--http2", "--include", &node.https("/nothing")]).ok();
    assert!(said.starts_with("HTTP/2 204") && said.ends_with("\r\n\r\n"), "{said}");
    let said = curl(&["--insecure", "--http2", "--data-binary", "a body", &node.https("/echo")]).ok();
    assert_eq!(said, "a body");
    node.finish();
}

fn clear_text_speaks_http_2_by_prior_knowledge(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let url = node.http("/");
    // One URL only: curl 7.88 cannot use such a connection twice, with nghttpd neither.
    let said = curl(&["--http2-prior-knowledge", "--write-out", "%{http_version}", &url]).ok();
    assert_eq!(said, "hello\n2");
    let said = curl(&["--http2-prior-knowledge", "--data-binary", "a body", &node.http("/echo")]).ok();
    assert_eq!(said, "a body");
    assert_eq!((node.number("http2_connections"), node.number("http1_connections")), (2, 0));
    node.finish();
}

fn tls_1_2_is_refused(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let address = node.listener(1).to_string();
    let said = call("openssl", &["s_client", "-connect", &address, "-tls1_2"]);
    assert_ne!(said.code, 0);
    assert!(said.all().contains("alert protocol version"), "{}", said.all());
    assert_eq!(node.number("tls_handshake_failures"), 1);
    let said = call("openssl", &["s_client", "-connect", &address, "-tls1_3"]);
    assert!(said.stdout.contains("New, TLSv1.3"), "{}", said.all());
    node.finish();
}

fn a_client_without_a_common_protocol_is_refused(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let address = node.listener(1).to_string();
    let said = call("openssl", &["s_client", "-connect", &address, "-alpn", "spdy/3"]);
    assert!(said.all().contains("no application protocol"), "{}", said.all());
    node.finish();
}

/// What nghttp says, frame by frame.
fn nghttp(arguments: &[&str]) -> String {
    call("nghttp", &[&["--verbose", "--null-out", "--no-verify-peer"], arguments].concat()).ok()
}

fn streams_share_a_connection(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    for base in [node.http(""), node.https("")] {
        let urls: Vec<String> =
            ["/", "/nothing", "/stream/1MiB", "/lost"].map(|p| format!("{base}{p}")).into();
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        let said = nghttp(&urls);
        for status in [":status: 200", ":status: 204", ":status: 404"] {
            assert!(said.contains(status), "{said}");
        }
        // The protocol that extended CONNECT needs is announced (RFC 8441).
        assert!(said.contains("SETTINGS_ENABLE_CONNECT_PROTOCOL(0x08):1"), "{said}");
    }
    assert_eq!(node.number("http2_connections"), 2);
    assert_eq!(node.number("requests_http2"), 8);
    node.finish();
}

fn trailers_of_a_request_do_no_harm(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let upload = node.folder().join("upload");
    std::fs::write(&upload, "a body with trailers").unwrap();
    let url = node.http("/echo");
    let data = format!("--data={}", upload.display());
    let arguments = ["--no-verify-peer", "--verbose", &data, "--trailer=x-check: 42", &url];
    let said = run_with_input(Command::new("nghttp").args(arguments), b"").ok();
    assert!(said.contains(":status: 200"), "{said}");
    assert!(said.contains("a body with trailers"), "{said}");
    node.finish();
}

fn a_slow_stream_holds_no_other(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let (slow, quick) = (node.http("/delay/2s"), node.http("/"));
    let said = call("nghttp", &["--no-verify-peer", &slow, &quick]).ok();
    assert_eq!(said, "hello\nlate\n", "the quick answer came first, on the same connection");
    assert_eq!(node.number("http2_connections"), 1);
    node.finish();
}

fn ten_thousand_requests_and_none_fails(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let load_of = ["--requests=10000", "--clients=20", "--max-concurrent-streams=10"];
    for base in [node.http("/"), node.https("/")] {
        // Without a word h2load speaks HTTP/2, with and without TLS.
        for version in [&["--h1"][..], &[]] {
            let before = node.number("requests");
            load(&node, &[version, &load_of, &[&base]].concat());
            assert_eq!(node.number("requests") - before, 10_000, "{version:?} {base}");
        }
    }
    assert_eq!(node.number("requests_http2"), 20_000);
    node.finish();
}

fn load(node: &Node, arguments: &[&str]) {
    let said = call("h2load", arguments).ok();
    let all = "10000 total, 10000 started, 10000 done, 10000 succeeded, 0 failed, 0 errored, 0 timeout";
    assert!(said.contains(all), "{said}");
    assert!(said.contains("status codes: 10000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{said}");
    assert_eq!(node.number("replies_5xx"), 0);
}
