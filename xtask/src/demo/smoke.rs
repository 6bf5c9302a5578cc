//! The requests of `cargo xtask demo --smoke`, made by curl, and what their answers must be.
//!
//! curl is a client that we did not write, so an agreement with it says something.

use std::fs;
use std::process::Command;

use crate::debian::{self, CURL};
use crate::demo::node::Node;
use crate::shell::{self, Failure};

/// One request, and how to know that the answer is right.
struct Probe {
    title: &'static str,
    listener: Listener,
    path: &'static str,
    curl: &'static [&'static str],
    /// As curl writes it: `1.1`, `2`.
    version: &'static str,
    body: Body,
}

/// Which of the node's listeners a probe talks to.
#[derive(Clone, Copy)]
enum Listener {
    Plain,
    Tls,
    Admin,
}

/// What a right body looks like.
#[derive(Clone, Copy)]
enum Body {
    Contains(&'static str),
    Is(&'static str),
    AtLeast(usize),
}

const MIB: usize = 1024 * 1024;
const ECHO: &[&str] = &["--data-binary", "ahoy"];
const H2C: &[&str] = &["--http2-prior-knowledge"];
const H2C_ECHO: &[&str] = &["--http2-prior-knowledge", "--data-binary", "ahoy"];
const TLS_H1: &[&str] = &["--insecure", "--http1.1"];
const TLS_H2: &[&str] = &["--insecure", "--http2"];
const TLS_H2_ECHO: &[&str] = &["--insecure", "--http2", "--data-binary", "ahoy"];

#[rustfmt::skip] // A table reads best with one probe on each line.
const PROBES: &[Probe] = &[
    Probe { title: "HTTP/1.1", listener: Listener::Plain, path: "/", curl: &["--http1.1"], version: "1.1", body: Body::Contains("berth") },
    Probe { title: "HTTP/1.1, echo", listener: Listener::Plain, path: "/echo", curl: ECHO, version: "1.1", body: Body::Is("ahoy") },
    Probe { title: "HTTP/1.1, stream", listener: Listener::Plain, path: "/stream/1MiB", curl: &["--http1.1"], version: "1.1", body: Body::AtLeast(MIB) },
    Probe { title: "h2c", listener: Listener::Plain, path: "/", curl: H2C, version: "2", body: Body::Contains("berth") },
    Probe { title: "h2c, echo", listener: Listener::Plain, path: "/echo", curl: H2C_ECHO, version: "2", body: Body::Is("ahoy") },
    Probe { title: "TLS, HTTP/1.1", listener: Listener::Tls, path: "/", curl: TLS_H1, version: "1.1", body: Body::Contains("berth") },
    Probe { title: "TLS, HTTP/2", listener: Listener::Tls, path: "/", curl: TLS_H2, version: "2", body: Body::Contains("berth") },
    Probe { title: "TLS, HTTP/2, echo", listener: Listener::Tls, path: "/echo", curl: TLS_H2_ECHO, version: "2", body: Body::Is("ahoy") },
    Probe { title: "TLS, HTTP/2, stream", listener: Listener::Tls, path: "/stream/1MiB", curl: TLS_H2, version: "2", body: Body::AtLeast(MIB) },
    Probe { title: "metrics", listener: Listener::Admin, path: "/metrics", curl: &[], version: "1.1", body: Body::Contains("berth_") },
];

/// What came back.
struct Answer {
    status: String,
    version: String,
    body: Vec<u8>,
}

/// Makes all requests, prints what it saw, and stops the node.
pub(super) fn run(node: &mut Node) -> Result<(), Failure> {
    let mut wrong = Vec::new();
    println!("\n{:<20} {:<7} {:<8} {:>9}  verdict", "request", "status", "version", "bytes");
    for probe in PROBES {
        match ask(node, probe) {
            Ok(answer) => {
                let verdict = judge(probe, &answer);
                let text = verdict.as_ref().err().map_or("right", String::as_str);
                let (status, version, bytes) = (&answer.status, &answer.version, answer.body.len());
                println!("{:<20} {status:<7} {version:<8} {bytes:>9}  {text}", probe.title);
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
    Err(Failure::new(format!("{} of {} answers were wrong: {}", wrong.len(), PROBES.len(), wrong.join(", "))))
}

/// Installs curl if that is possible and it is not here.
pub(super) fn provide_client() -> Result<(), Failure> {
    match debian::provide(&[CURL]).first() {
        None => Ok(()),
        Some(missing) => Err(Failure::new(format!(
            "the demo needs curl for {}: {}",
            missing.need.used_for, missing.reason
        ))),
    }
}

fn ask(node: &Node, probe: &Probe) -> Result<Answer, Failure> {
    let (scheme, address) = match probe.listener {
        Listener::Plain => ("http", node.plain),
        Listener::Tls => ("https", node.tls),
        Listener::Admin => ("http", node.admin),
    };
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
    curl.arg("--output").arg(&body).args(probe.curl).arg(format!("{scheme}://{address}{}", probe.path));
    let facts = shell::capture(curl);
    let received = fs::read(&body).unwrap_or_default();
    let _ = fs::remove_file(&body);
    let facts = facts?;
    let (status, version) = facts.trim().split_once(' ').unwrap_or((facts.as_str(), ""));
    Ok(Answer { status: status.to_owned(), version: version.to_owned(), body: received })
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
        Body::AtLeast(bytes) => answer.body.len() >= bytes,
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
        Answer { status: status.to_owned(), version: version.to_owned(), body: body.as_bytes().to_vec() }
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
    fn a_stream_that_ends_early_is_seen() {
        let stream = PROBES.iter().find(|probe| matches!(probe.body, Body::AtLeast(_))).unwrap();
        assert!(judge(stream, &answer("200", stream.version, "short")).is_err());
    }
}
