//! Chromium loads a page and its parts over HTTP/3: because it is told to, and because `Alt-Svc` says so.
//!
//! QUIC takes no certificate on trust, so Chromium is told which key is good. For a host of
//! `--origin-to-force-quic-on` it also drops its rule that an authority which everybody knows signed it: for
//! all ports of the host, while only the named port is forced.
//!
//! The page tells of each of its parts by which protocol it came, as the browser measured it.

use std::net::SocketAddr;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_tests::clients::Outcome;
use berth_tests::node::{Driver, HTTP, HTTPS, Node, Plan, route, wait_until};
use berth_tests::on_both_drivers;
use rcgen::PublicKeyData;

use crate::browser::{served, visit};

on_both_drivers!(["chromium"]; a_page_with_its_parts, a_later_visit_follows_alt_svc);
on_both_drivers!(["chromium", "ipv6"]; a_page_over_ipv6);

/// What the page's host is called. A name, because Chromium forces no bare IPv6 address to QUIC.
const NAME: &str = "site.example";

/// The image comes never; the page has said what it should before it gives the image up, and then counts as loaded.
const PAGE: &str = r#"<!doctype html><link rel=stylesheet href=/style.css><p id=said>nothing</p>
<img src=/red.svg><img src=/green.svg><img src=/blue.svg><img id=wait src=/delay/5m>
<script src=/one.js></script><script src=/two.js></script><script src=/tell.js></script>"#;

/// Loads more, waits until the browser has measured all, and tells.
const TELL: &str = r#"
const fetched = Promise.all([
  fetch('/stream/1MiB').then(r => r.arrayBuffer()).then(b => b.byteLength),
  fetch('/echo', {method: 'POST', body: 'x'.repeat(300000)}).then(r => r.text()).then(t => t.length),
  ...Array.from({length: 40}, (_, i) => fetch('/small?' + i).then(r => r.text())),
]);
const images = Promise.all([...document.images].slice(0, 3).map(image => image.decode().then(() => image.width)));
async function tell() {
  const [streamed, echoed, ...small] = await fetched;
  const widths = await images;
  let entries;
  do {
    await new Promise(done => setTimeout(done, 20));
    entries = ['navigation', 'resource'].flatMap(type => performance.getEntriesByType(type));
  } while (entries.length < 50);
  const protocols = [...new Set(entries.map(entry => entry.nextHopProtocol))].sort();
  const color = getComputedStyle(said).color;
  said.textContent = [protocols, entries.length, streamed, echoed, small.join('').length, ...widths, one + two, color].join(' ');
}
tell().catch(error => { said.textContent = error; }).finally(() => { wait.src = 'data:,'; });
"#;

/// Page, style, three scripts, three images, 42 fetches; their sizes, the scripts' sum, the style's color.
fn wanted(protocols: &str) -> String {
    format!(">{protocols} 50 1048576 300000 160 7 8 9 42 rgb(1, 2, 3)<")
}

/// The files of the page, and a certificate whose key Chromium is told of.
struct Site {
    text: String,
    trust: String,
}

impl Site {
    fn new(folder: &Path, listener: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
        let (chain, key) = (folder.join("site.pem"), folder.join("site.key"));
        std::fs::write(&chain, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let image =
            |width| format!("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"5\"/>");
        let mut text = format!("{HTTP}{listener}");
        for (path, kind, body) in [
            ("/page", "text/html; charset=utf-8", PAGE),
            ("/style.css", "text/css", "#said { color: rgb(1, 2, 3) }"),
            ("/one.js", "text/javascript", "var one = 40;"),
            ("/two.js", "text/javascript", "var two = 2;"),
            ("/tell.js", "text/javascript", TELL),
            ("/red.svg", "image/svg+xml", &image(7)),
            ("/green.svg", "image/svg+xml", &image(8)),
            ("/blue.svg", "image/svg+xml", &image(9)),
            ("/small", "text/plain", "tiny"),
        ] {
            text += &served(path, kind, body);
        }
        text += &route("/stream/1MiB", r#"stream = { bytes = "1MiB" }"#);
        text += &route("/echo", "echo = {}");
        text += &route("/delay/5m", r#"delay = { time = "5m", body = "never\n" }"#);
        text +=
            &format!("[[tls.certificates]]\nchain = \"{}\"\nkey = \"{}\"\n", chain.display(), key.display());
        let hash = STANDARD.encode(digest(&SHA256, &made.signing_key.subject_public_key_info()));
        Self { text, trust: format!("--ignore-certificate-errors-spki-list={hash}") }
    }
}

/// Loads the page as one of [`NAME`], which leads to the node, and returns what Chromium printed. The port of the name
/// is forced to QUIC.
fn load(node: &Node, site: &Site, forced: u16) -> Outcome {
    let address = node.listener(1);
    let host = SocketAddr::new(address.ip(), 0).to_string();
    let names = format!("--host-resolver-rules=MAP {NAME} {}", host.trim_end_matches(":0"));
    let forced = format!("--origin-to-force-quic-on={NAME}:{forced}");
    visit(node, &[&site.trust, &names, &forced], &format!("https://{NAME}:{}/page", address.port()))
}

/// Loads the page by HTTP/3 from its first byte on.
fn force(driver: Driver, listener: &str) -> Node {
    let plan = Plan::new(driver, "");
    let site = Site::new(plan.folder(), listener);
    let node = plan.and(&site.text).start();
    let said = load(&node, &site, node.listener(1).port());
    assert!(said.stdout.contains(&wanted("h3")), "{}", said.all());
    assert!(node.number("requests_http3") >= 50);
    assert_eq!(node.number("http2_connections") + node.number("http1_connections"), 0);
    node
}

fn a_page_with_its_parts(driver: Driver) {
    let node = force(driver, HTTPS);
    assert_eq!(node.number("http3_protocol_errors") + node.number("quic_protocol_errors"), 0);
    node.finish();
}

fn a_page_over_ipv6(driver: Driver) {
    force(driver, &HTTPS.replace("127.0.0.1", "[::1]")).finish();
}

fn a_later_visit_follows_alt_svc(driver: Driver) {
    let plan = Plan::new(driver, "");
    let site = Site::new(plan.folder(), HTTPS);
    let node = plan.and(&site.text).start();
    // The name is trusted, but no port of it that is in use is forced: nothing but the header leads to HTTP/3.
    let first = load(&node, &site, 1);
    assert!(first.stdout.contains(" 50 1048576 300000 160 "), "{}", first.all());
    assert_ne!(node.number("http2_connections"), 0, "it began without knowing");
    // From now on Chromium has both race, and TCP may win on a busy machine: then it is the visit after that.
    wait_until("a visit is by HTTP/3 alone", || {
        let by_http2 = node.number("requests_http2");
        let said = load(&node, &site, 1);
        said.stdout.contains(&wanted("h3")) && node.number("requests_http2") == by_http2
    });
    node.finish();
}
