//! Chromium loads a page over HTTPS with sub-resources, and talks WebSocket over HTTP/2 (RFC 8441).
//!
//! The page waits for its image before it counts as loaded, and the image comes only after five
//! minutes. The script gives the image up when the WebSocket has said what it should, so that Chromium
//! prints the page (`--dump-dom`) at that moment and not after some time.

use std::process::Command;

use berth_tests::chromium::FLAGS;
use berth_tests::clients::{Outcome, run};
use berth_tests::node::{Driver, Node, Plan, route};
use berth_tests::on_both_drivers;

use crate::common;

on_both_drivers!(["chromium"]; a_page_with_its_parts_and_a_websocket);

const PAGE: &str = r#"<!doctype html><link rel=stylesheet href=/style.css><p id=said>nothing</p><img id=wait src=/delay/5m>
<script>var texts = []; var fetched = fetch('/stream/1MiB').then(r => r.arrayBuffer()).then(b => b.byteLength);</script>
<script src=/script.js></script>"#;

const SCRIPT: &str = r#"
function finish(text) { said.textContent = text; wait.src = 'data:,'; }
var socket = new WebSocket('wss://' + location.host + '/ws');
socket.onopen = () => { socket.send('first'); socket.send('x'.repeat(300000)); socket.send('last'); };
socket.onerror = () => finish('the socket failed');
socket.onmessage = (event) => {
  texts.push(event.data.length < 10 ? event.data : event.data.length);
  if (event.data == 'last') socket.close(1000);
};
socket.onclose = (event) => fetched.then(bytes =>
  finish([...texts, event.code, event.wasClean, bytes, getComputedStyle(said).color].join(' ')));
"#;

fn a_page_with_its_parts_and_a_websocket(driver: Driver) {
    let text = common()
        + &served("/page", "text/html; charset=utf-8", PAGE)
        + &served("/script.js", "text/javascript", SCRIPT)
        + &served("/style.css", "text/css", "#said { color: rgb(1, 2, 3) }");
    let node = Plan::new(driver, text).start();
    let said = visit(&node, &["--disable-quic", "--ignore-certificate-errors"], &node.https("/page"));
    let wanted = "first 300000 last 1000 true 1048576 rgb(1, 2, 3)";
    assert!(said.stdout.contains(&format!(">{wanted}<")), "{}", said.all());
    assert_eq!(node.number("websockets"), 1);
    assert_eq!(node.number("http1_connections"), 0, "the WebSocket came over HTTP/2 as well");
    node.finish();
}

/// A route that serves a file of a page.
pub(crate) fn served(path: &str, kind: &str, body: &str) -> String {
    route(path, &format!("respond = {{ body = '''{body}''', headers = {{ content-type = \"{kind}\" }} }}"))
}

/// Has Chromium load a page and print it. What it remembers is in the node's folder: the next visit
/// of the same story knows it.
pub(crate) fn visit(node: &Node, flags: &[&str], url: &str) -> Outcome {
    let profile = format!("--user-data-dir={}", node.folder().join("profile").display());
    run(Command::new("chromium")
        .args(FLAGS)
        .arg(profile)
        .args(flags)
        .args(["--timeout=100000", "--dump-dom", url])
        .env("HOME", node.folder()))
}
