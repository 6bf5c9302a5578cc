//! The HTTP/3 client, which is aioquic's: `clients/h3` tells what it can do.
//!
//! Each call is a process of its own that prints what it observed as one line of JSON.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;

use crate::clients::{self, Outcome};

/// The client's program, a folder that Python runs.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/h3");

/// What the client observed, and it must have got what it wanted:
/// `h3("get", address, &["--path", "/"])`.
pub fn h3<S: AsRef<OsStr>>(command: &str, node: SocketAddr, options: &[S]) -> Value {
    let outcome = clients::run(h3_command(command, node).args(options));
    let report = report(&outcome);
    outcome.ok();
    report
}

/// The same, not yet started, for a client that may fail or that has company. Its end is read with
/// [`report`].
pub fn h3_command(command: &str, node: SocketAddr) -> Command {
    let mut python = Command::new(clients::python());
    // -B: a run leaves no compiled files among the sources.
    python.args(["-B", PROGRAM, command]).arg(node.to_string());
    python
}

/// What a client observed, whether or not it got what it wanted.
pub fn report(outcome: &Outcome) -> Value {
    let report = serde_json::from_str(&outcome.stdout);
    report.unwrap_or_else(|error| panic!("the client prints JSON: {error}: {}", outcome.all()))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_client_that_nobody_answers_says_so() {
        if let Some(missing) = clients::missing("aioquic") {
            return crate::skip("a_client_that_nobody_answers_says_so", &missing);
        }
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut command = h3_command("get", silent.local_addr().unwrap());
        let outcome = clients::run(command.args(["--timeout", "0.5"]));
        assert_eq!((outcome.code, report(&outcome)), (1, serde_json::json!({})));
        assert!(outcome.stderr.contains("not done after 0.5 seconds"), "{}", outcome.stderr);
    }
}
