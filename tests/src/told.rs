//! Programs in Python that do as they are told: a line of JSON in, a line of JSON out.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::clients::python;

/// One that runs. Dropped, it is asked to end, and waited for.
pub struct Told {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Told {
    /// Starts a program.
    pub fn start(program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(python());
        command.arg(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python starts");
        let from = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { to: child.stdin.take(), child, from }
    }

    /// Has it do something, and gives what it says.
    pub fn tell(&mut self, what: &Value) -> Value {
        writeln!(self.to.as_mut().expect("it is not dropped"), "{what}").expect("it listens");
        let mut line = String::new();
        self.from.read_line(&mut line).expect("it answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{what}: {line:?}: {error}"))
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.to = None;
        let _ = self.child.wait();
    }
}
