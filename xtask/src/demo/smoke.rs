//! The requests of `cargo xtask demo --smoke`, and what their answers must be.
//!
//! They are made by curl, and over HTTP/3, which Debian's curl does not speak, by aioquic: clients that we did not
//! write, so an agreement with them says something.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use crate::debian::{self, CURL};
use crate::demo::kill::COUNTER;
use crate::demo::node::Node;
use crate::demo::workers::{CHAT, FIGURES, HELLO, PAGES, SHOP, Workers};
use crate::python;
use crate::shell::{self, Failure};
use crate::workspace::Workspace;

/// One request, and how to know that the answer is right.
struct Probe {
    title: &'static str,
    /// The name in the URL: of a worker's zone, or [`NODE`].
    host: &'static str,
    listener: Listener,
    path: &'static str,
    /// More for the client's command line.
    options: &'static [&'static str],
    /// As curl writes it: `1.1`, `2`, `3`.
    version: &'static str,
    body: Body,
}

/// Which of the node's listeners a probe talks to.
#[derive(Clone, Copy)]
enum Listener {
    Plain,
    Tls,
    /// UDP on the port of TLS.
    Quic,
    Admin,
}

/// What a right body looks like.
#[derive(Clone, Copy)]
enum Body {
    Contains(&'static str),
    Is(&'static str),
    AtLeast(usize),
}

/// The address of the node, which belongs to no zone.
const NODE: &str = "127.0.0.1";
const MIB: usize = 1024 * 1024;
const ECHO: &[&str] = &["--data-binary", "ahoy"];
const H2C: &[&str] = &["--http2-prior-knowledge"];
const H2C_ECHO: &[&str] = &["--http2-prior-knowledge", "--data-binary", "ahoy"];
const TLS_H1: &[&str] = &["--insecure", "--http1.1"];
const TLS_H2: &[&str] = &["--insecure", "--http2"];
const TLS_H2_ECHO: &[&str] = &["--insecure", "--http2", "--data-binary", "ahoy"];

#[rustfmt::skip] // A table reads best with one probe on each line.
const PROBES: &[Probe] = &[
    Probe { title: "HTTP/1.1", host: NODE, listener: Listener::Plain, path: "/", options: &["--http1.1"], version: "1.1", body: Body::Contains("berth") },
    Probe { title: "HTTP/1.1, echo", host: NODE, listener: Listener::Plain, path: "/echo", options: ECHO, version: "1.1", body: Body::Is("ahoy") },
    Probe { title: "HTTP/1.1, stream", host: NODE, listener: Listener::Plain, path: "/stream/1MiB", options: &["--http1.1"], version: "1.1", body: Body::AtLeast(MIB) },
    Probe { title: "h2c", host: NODE, listener: Listener::Plain, path: "/", options: H2C, version: "2", body: Body::Contains("berth") },
    Probe { title: "h2c, echo", host: NODE, listener: Listener::Plain, path: "/echo", options: H2C_ECHO, version: "2", body: Body::Is("ahoy") },
    Probe { title: "TLS, HTTP/1.1", host: NODE, listener: Listener::Tls, path: "/", options: TLS_H1, version: "1.1", body: Body::Contains("berth") },
    Probe { title: "TLS, HTTP/2", host: NODE, listener: Listener::Tls, path: "/", options: TLS_H2, version: "2", body: Body::Contains("berth") },
    Probe { title: "TLS, HTTP/2, echo", host: NODE, listener: Listener::Tls, path: "/echo", options: TLS_H2_ECHO, version: "2", body: Body::Is("ahoy") },
    Probe { title: "TLS, HTTP/2, stream", host: NODE, listener: Listener::Tls, path: "/stream/1MiB", options: TLS_H2, version: "2", body: Body::AtLeast(MIB) },
    Probe { title: "metrics", host: NODE, listener: Listener::Admin, path: "/metrics", options: &[], version: "1.1", body: Body::Contains("berth_") },
];

/// Those of the examples.
#[rustfmt::skip]
const WORKER_PROBES: &[Probe] = &[
    Probe { title: "worker, HTTP/1.1", host: HELLO, listener: Listener::Plain, path: "/", options: &["--http1.1"], version: "1.1", body: Body::Is("hello from a worker\n") },
    Probe { title: "worker, HTTP/2", host: HELLO, listener: Listener::Tls, path: "/", options: TLS_H2, version: "2", body: Body::Is("hello from a worker\n") },
    Probe { title: "worker, stream", host: HELLO, listener: Listener::Plain, path: "/count", options: H2C, version: "2", body: Body::Is("3\n2\n1\n") },
    Probe { title: "worker, rewritten", host: PAGES, listener: Listener::Plain, path: "/", options: &["--http1.1"], version: "1.1", body: Body::Contains("<footer>Rewritten on the way.</footer></body>") },
    Probe { title: "worker, two zones", host: SHOP, listener: Listener::Plain, path: "/", options: &["--http1.1"], version: "1.1", body: Body::Contains("apples: 12 for 45 cents each") },
    Probe { title: "object", host: COUNTER, listener: Listener::Plain, path: "/counter/smoke", options: &["--http1.1", "-X", "POST"], version: "1.1", body: Body::Is("1") },
    Probe { title: "object, HTTP/2", host: COUNTER, listener: Listener::Tls, path: "/counter/smoke", options: TLS_H2, version: "2", body: Body::Is("1") },
    Probe { title: "object, a page", host: CHAT, listener: Listener::Plain, path: "/lobby/", options: &["--http1.1"], version: "1.1", body: Body::Contains("<script src=\"page.js\"") },
    Probe { title: "worker, JavaScript", host: FIGURES, listener: Listener::Plain, path: "/figures", options: &["--http1.1", "--data", "[3, 4, 5]"], version: "1.1", body: Body::Contains("\"mean\":4") },
];

/// Those of HTTP/3. The client itself compares what comes back of an echo with what it sent.
#[rustfmt::skip]
const HTTP3_PROBES: &[Probe] = &[
    Probe { title: "HTTP/3", host: NODE, listener: Listener::Quic, path: "/", options: &["get"], version: "3", body: Body::AtLeast(1) },
    Probe { title: "HTTP/3, echo", host: NODE, listener: Listener::Quic, path: "/echo", options: &["echo"], version: "3", body: Body::AtLeast(MIB) },
    Probe { title: "HTTP/3, stream", host: NODE, listener: Listener::Quic, path: "/stream/1MiB", options: &["get"], version: "3", body: Body::AtLeast(MIB) },
    Probe { title: "worker, HTTP/3", host: HELLO, listener: Listener::Quic, path: "/", options: &["get"], version: "3", body: Body::AtLeast("hello from a worker\n".len()) },
];

/// What came back.
struct Answer {
    status: String,
    version: String,
    /// Nothing where the client keeps no body.
    body: Vec<u8>,
    length: usize,
}

/// Makes all requests, prints what it saw, and stops the node. Without a client for HTTP/3, its requests are left out,
/// and without an example those to it.
pub(super) fn run(
    workspace: &Workspace,
    node: &mut Node,
    workers: &Workers,
    http3: Http3,
) -> Result<(), Failure> {
    let probes = || {
        let over_http3 = if http3 == Http3::Asked { HTTP3_PROBES } else { &[] };
        let all = PROBES.iter().chain(WORKER_PROBES).chain(over_http3);
        all.filter(|probe| workers.answer(probe.host))
    };
    let mut wrong = Vec::new();
    println!("\n{:<20} {:<7} {:<8} {:>9}  verdict", "request", "status", "version", "bytes");
    for probe in probes() {
        match ask(workspace, node, probe) {
            Ok(answer) => {
                let verdict = judge(probe, &answer);
                let text = verdict.as_ref().err().map_or("right", String::as_str);
                let Answer { status, version, length, .. } = &answer;
                println!("{:<20} {status:<7} {version:<8} {length:>9}  {text}", probe.title);
                wrong.extend(verdict.err().map(|_| probe.title));
            }
            Err(failure) => {
                println!("{:<20} {failure}", probe.title);
                wrong.push(probe.title);
            }
        }
    }
    node.stop()?;
    println!("The node stopped when asked, without an error.\n");
    if wrong.is_empty() {
        return Ok(());
    }
    let count = probes().count();
    Err(Failure::new(format!("{} of {count} answers were wrong: {}", wrong.len(), wrong.join(", "))))
}

/// Whether requests are made over HTTP/3.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Http3 {
    Asked,
    LeftOut,
}

/// Installs curl if that is possible and it is not here.
pub(super) fn provide_curl() -> Result<(), Failure> {
    match debian::provide(&[CURL]).first() {
        None => Ok(()),
        Some(missing) => Err(Failure::new(format!(
            "the demo needs curl for {}: {}",
            missing.need.used_for, missing.reason
        ))),
    }
}

/// The same for aioquic, without which the demo goes on.
pub(super) fn provide_aioquic(workspace: &Workspace) -> Result<(), Failure> {
    if let Some(missing) = debian::provide(&python::PYTHON).first() {
        return Err(Failure::new(format!("no {}: {}", missing.need.package, missing.reason)));
    }
    python::provide(workspace)
}

fn ask(workspace: &Workspace, node: &Node, probe: &Probe) -> Result<Answer, Failure> {
    let url =
        |scheme, address: SocketAddr| format!("{scheme}://{}:{}{}", probe.host, address.port(), probe.path);
    match probe.listener {
        Listener::Plain => ask_curl(&url("http", node.plain), probe),
        Listener::Tls => ask_curl(&url("https", node.tls), probe),
        Listener::Admin => ask_curl(&url("http", node.admin), probe),
        Listener::Quic => ask_aioquic(workspace, node, probe),
    }
}

fn ask_curl(url: &str, probe: &Probe) -> Result<Answer, Failure> {
    let body = std::env::temp_dir().join(format!("berth-demo-{}", std::process::id()));
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--max-time",
        "20",
        "--write-out",
        "%{http_code} %{http_version}",
    ]);
    curl.arg("--output").arg(&body).args(probe.options).arg(url);
    let facts = shell::capture(curl);
    let received = fs::read(&body).unwrap_or_default();
    let _ = fs::remove_file(&body);
    let facts = facts?;
    let (status, version) = facts.trim().split_once(' ').unwrap_or((facts.as_str(), ""));
    let (status, version) = (status.to_owned(), version.to_owned());
    Ok(Answer { status, version, length: received.len(), body: received })
}

fn ask_aioquic(workspace: &Workspace, node: &Node, probe: &Probe) -> Result<Answer, Failure> {
    let mut client = python::http3_client(workspace);
    client.args(probe.options).arg(node.tls.to_string()).args(["--timeout", "20", "--path", probe.path]);
    if probe.host != NODE {
        client.args(["--server-name", probe.host]);
    }
    let report = shell::capture(client)?;
    answer_of(&report).ok_or_else(|| Failure::new(format!("the HTTP/3 client says something else: {report}")))
}

/// The only answer in the client's report.
fn answer_of(report: &str) -> Option<Answer> {
    let report: serde_json::Value = serde_json::from_str(report).ok()?;
    let answer = report.get("answers").map_or(&report, |answers| &answers[0]);
    Some(Answer {
        status: answer["status"].as_u64()?.to_string(),
        version: "3".to_owned(),
        body: Vec::new(),
        length: usize::try_from(answer["length"].as_u64()?).ok()?,
    })
}

/// `Err` says what is wrong with an answer.
fn judge(probe: &Probe, answer: &Answer) -> Result<(), String> {
    if answer.status != "200" {
        return Err(format!("expected status 200, got {}", answer.status));
    }
    if answer.version != probe.version {
        return Err(format!("expected HTTP/{}, got {}", probe.version, answer.version));
    }
    let text = String::from_utf8_lossy(&answer.body);
    let right = match probe.body {
        Body::Contains(part) => text.contains(part),
        Body::Is(whole) => text == whole,
        Body::AtLeast(bytes) => answer.length >= bytes,
    };
    if right { Ok(()) } else { Err(format!("the body is not right: {}", expected(probe.body))) }
}

fn expected(body: Body) -> String {
    match body {
        Body::Contains(part) => format!("it should contain \"{part}\""),
        Body::Is(whole) => format!("it should be \"{whole}\""),
        Body::AtLeast(bytes) => format!("it should have at least {bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: &str, version: &str, body: &str) -> Answer {
        let (status, version) = (status.to_owned(), version.to_owned());
        Answer { status, version, length: body.len(), body: body.as_bytes().to_vec() }
    }

    #[test]
    fn a_right_answer_is_right() {
        assert_eq!(judge(&PROBES[0], &answer("200", "1.1", "hello from berth\n")), Ok(()));
    }

    #[test]
    fn each_part_of_a_wrong_answer_is_seen() {
        let wrong = |status, version, body| judge(&PROBES[0], &answer(status, version, body)).unwrap_err();
        assert!(wrong("404", "1.1", "hello from berth").contains("status"));
        assert!(wrong("200", "2", "hello from berth").contains("HTTP/1.1"));
        assert!(wrong("200", "1.1", "hello").contains("berth"));
    }

    #[test]
    fn the_reports_of_the_http3_client_are_read() {
        let one = answer_of(r#"{"answers": [{"status": 200, "length": 17, "count": 1}]}"#).unwrap();
        let echo = answer_of(r#"{"bytes": 5, "status": 404, "length": 5}"#).unwrap();
        assert_eq!((one.status.as_str(), one.length), ("200", 17));
        assert!(judge(&HTTP3_PROBES[0], &one).is_ok());
        assert!(judge(&HTTP3_PROBES[1], &echo).is_err());
        assert!(answer_of("{}").is_none() && answer_of("nothing").is_none());
    }

    #[test]
    fn a_stream_that_ends_early_is_seen() {
        let stream = PROBES.iter().find(|probe| matches!(probe.body, Body::AtLeast(_))).unwrap();
        assert!(judge(stream, &answer("200", stream.version, "short")).is_err());
    }
}
