//! HTTP/1.1, with curl where it can, and with raw bytes where curl is too polite.

use std::io::{Read, Write};

use berth_tests::clients::{connect, curl, exchange, read_until};
use berth_tests::node::{Driver, Plan};
use berth_tests::on_both_drivers;

use crate::common;

on_both_drivers!(["curl"]; one_connection_serves_two_requests, head_tells_the_length_and_sends_nothing,
    a_chunked_upload_comes_back, a_client_that_asks_may_continue, no_content_has_no_body,
    an_upgrade_to_h2c_is_ignored, http_1_0_is_closed_after_its_answer, the_access_log_tells_of_each_request);
on_both_drivers!([]; pipelined_requests_are_answered_in_order, an_unread_body_does_not_become_a_request);

fn one_connection_serves_two_requests(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let url = node.http("/");
    let connects = "%{http_version} %{num_connects}\n";
    let said = curl(&["--http1.1", "--write-out", connects, &url, &url]).ok();
    assert_eq!(said, "hello\n1.1 1\nhello\n1.1 0\n");
    assert_eq!((node.number("http1_connections"), node.number("requests")), (1, 2));
    node.finish();
}

fn head_tells_the_length_and_sends_nothing(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let url = node.http("/");
    // The second answer would be garbled if the first had a body after all.
    let said = curl(&["--http1.1", "--head", &url, &url]).ok().to_lowercase();
    assert_eq!(said.matches("http/1.1 200 ok\r\n").count(), 2, "{said}");
    assert_eq!(said.matches("content-length: 6\r\n").count(), 2, "{said}");
    assert_eq!(node.number("http1_connections"), 1);
    node.finish();
}

fn a_chunked_upload_comes_back(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let upload = node.folder().join("upload");
    let text: String = (0..200_000).map(|i| format!("line {i}\n")).collect();
    std::fs::write(&upload, &text).unwrap();
    let said = curl(&[
        "--http1.1",
        "--verbose",
        "--header",
        "transfer-encoding: chunked",
        "--upload-file",
        upload.to_str().unwrap(),
        &node.http("/echo"),
    ]);
    assert!(said.stderr.to_lowercase().contains("> transfer-encoding: chunked"), "{}", said.stderr);
    assert!(said.stderr.to_lowercase().contains("< transfer-encoding: chunked"), "{}", said.stderr);
    assert!(said.ok() == text, "what came back is what was sent");
    node.finish();
}

fn a_client_that_asks_may_continue(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let upload = node.folder().join("upload");
    std::fs::write(&upload, vec![b'x'; 5_000_000]).unwrap();
    let data = format!("@{}", upload.display());
    let asks = ["--http1.1", "--verbose", "--header", "expect: 100-continue", "--expect100-timeout", "90"];
    let said = curl(&[&asks[..], &["--data-binary", &data, &node.http("/echo")]].concat());
    assert!(said.stderr.contains("< HTTP/1.1 100 Continue"), "{}", said.stderr);
    assert_eq!(said.ok().len(), 5_000_000);
    // Who does not read the body answers without asking for it.
    let said = curl(&[&asks[..], &["--data-binary", &data, &node.http("/")]].concat());
    assert!(!said.stderr.contains("100 Continue"), "{}", said.stderr);
    assert_eq!(said.ok(), "hello\n");
    node.finish();
}

fn no_content_has_no_body(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let (nothing, hello) = (node.http("/nothing"), node.http("/"));
    let said = curl(&["--http1.1", "--include", &nothing, &hello]).ok().to_lowercase();
    let (first, second) = said.split_once("\r\n\r\n").unwrap();
    assert!(first.starts_with("http/1.1 204 no content"), "{said}");
    assert!(!first.contains("content-length") && !first.contains("transfer-encoding"), "{said}");
    assert!(second.starts_with("http/1.1 200 ok"), "{said}");
    assert_eq!(node.number("http1_connections"), 1);
    node.finish();
}

fn an_upgrade_to_h2c_is_ignored(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    // curl's --http2 asks for h2c by upgrade on clear text, and must take the answer as it comes.
    let said = curl(&["--http2", "--verbose", "--write-out", "%{http_version}", &node.http("/")]);
    assert!(said.stderr.to_lowercase().contains("> upgrade: h2c"), "{}", said.stderr);
    assert_eq!(said.ok(), "hello\n1.1");
    node.finish();
}

fn http_1_0_is_closed_after_its_answer(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    assert_eq!(curl(&["--http1.0", &node.http("/")]).ok(), "hello\n");
    let said = exchange(node.listener(0), b"GET / HTTP/1.0\r\n\r\n");
    assert!(said.ends_with("\r\n\r\nhello\n"), "{said}");
    node.finish();
}

fn the_access_log_tells_of_each_request(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    curl(&["--http1.1", &node.http("/?q=1"), &node.http("/lost")]).ok();
    curl(&["--http2", "--insecure", &node.https("/")]).ok();
    berth_tests::node::wait_until("three lines", || node.access_log().len() == 3);
    let lines = node.access_log();
    let seen: Vec<String> = lines
        .iter()
        .map(|line| {
            format!(
                "{} {} {} {} {}",
                line["client"], line["target"], line["version"], line["tls"], line["status"]
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            r#""127.0.0.1" "/?q=1" "HTTP/1.1" false 200"#,
            r#""127.0.0.1" "/lost" "HTTP/1.1" false 404"#,
            r#""127.0.0.1" "/" "HTTP/2.0" true 200"#,
        ]
    );
    node.finish();
}

fn pipelined_requests_are_answered_in_order(driver: Driver) {
    let mut text = common();
    for number in 0..100 {
        text += &format!("[[routes]]\npath = \"/number/{number}\"\nrespond = {{ body = \"<{number}>\" }}\n");
    }
    let node = Plan::new(driver, text).start();
    let request = |number| format!("GET /number/{number} HTTP/1.1\r\nhost: a\r\n\r\n");
    let requests: String = (0..100).map(request).collect();
    let mut stream = connect(node.listener(0));
    stream.write_all(requests.as_bytes()).unwrap();
    let said = read_until(&mut stream, "<99>");
    let bodies: Vec<&str> =
        said.split("\r\n\r\n").skip(1).filter_map(|part| part.split('>').next()).collect();
    let expected: Vec<String> = (0..100).map(|number| format!("<{number}")).collect();
    assert_eq!(bodies, expected);
    drop(stream);
    // The same with a request among them that has to wait: nobody overtakes it.
    let slow = "GET /delay/2s HTTP/1.1\r\nhost: a\r\n\r\n";
    let mixed =
        format!("{}{slow}{}", request(1), request(2).replace("host: a", "host: a\r\nconnection: close"));
    let said = exchange(node.listener(0), mixed.as_bytes());
    let place = |text: &str| said.find(text).unwrap_or_else(|| panic!("{text} is missing: {said}"));
    assert!(place("<1>") < place("late") && place("late") < place("<2>"), "{said}");
    node.finish();
}

fn an_unread_body_does_not_become_a_request(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    // The body looks like a request. The route does not read it, so the node must skip it.
    let inner = "GET /lost HTTP/1.1\r\nhost: a\r\n\r\n";
    let outer = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{inner}", inner.len());
    let last = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let said = exchange(node.listener(0), format!("{outer}{last}").as_bytes());
    assert_eq!(said.matches("HTTP/1.1 200 OK").count(), 2, "{said}");
    assert!(!said.contains("404"), "{said}");
    // A client that closes its side after the request still gets the answer.
    let mut stream = connect(node.listener(0));
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.ends_with("hello\n"), "{said}");
    node.finish();
}
