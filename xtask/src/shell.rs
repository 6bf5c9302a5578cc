//! Starting other programs: show, capture, or both.
//!
//! Every program that xtask starts is printed first as a line that can be pasted into a terminal,
//! so that a failing step can be repeated by hand. A [`Failure`] is a sentence for a person: what
//! failed, why, and what to do.

use std::error::Error;
use std::ffi::OsStr;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// What went wrong, as one message for the terminal. xtask never branches on its content.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Error for Failure {}

/// Runs a program with our own output. Its exit code decides.
pub(crate) fn run(mut command: Command) -> Result<(), Failure> {
    println!("$ {}", line(&command));
    let status = command.status().map_err(|error| cannot_start(&command, &error))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::new(format!("`{}` failed: {status}", line(&command))))
    }
}

/// Runs a program without showing it and returns its standard output. On failure, the message
/// carries what it wrote to standard error.
pub(crate) fn capture(mut command: Command) -> Result<String, Failure> {
    let output = command.output().map_err(|error| cannot_start(&command, &error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("`{}` failed: {}\n{}", line(&command), output.status, said.trim_end())))
}

/// Which of a program's two outputs is read line by line; the other goes to the terminal.
#[derive(Clone, Copy)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Runs a program, shows one of its outputs and hands each line of it to `on_line`.
///
/// Returns whether the program succeeded; `Err` only if it could not be started.
pub(crate) fn watch(
    mut command: Command,
    stream: Stream,
    mut on_line: impl FnMut(&str),
) -> Result<bool, Failure> {
    println!("$ {}", line(&command));
    match stream {
        Stream::Stdout => command.stdout(Stdio::piped()),
        Stream::Stderr => command.stderr(Stdio::piped()),
    };
    let mut child = command.spawn().map_err(|error| cannot_start(&command, &error))?;
    let output: Box<dyn std::io::Read> = match stream {
        Stream::Stdout => Box::new(child.stdout.take().expect("stdout was piped above")),
        Stream::Stderr => Box::new(child.stderr.take().expect("stderr was piped above")),
    };
    for bytes in BufReader::new(output).split(b'\n') {
        let bytes =
            bytes.map_err(|error| Failure::new(format!("reading from `{}`: {error}", line(&command))))?;
        let text = String::from_utf8_lossy(&bytes);
        println!("{text}");
        on_line(&text);
    }
    let status = child.wait().map_err(|error| cannot_start(&command, &error))?;
    Ok(status.success())
}

/// Whether a program starts and succeeds; all that it says is thrown away.
pub(crate) fn succeeds<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The command as somebody would type it: changed environment first, arguments quoted where needed.
fn line(command: &Command) -> String {
    let mut words = Vec::new();
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(format!("{}={}", key.to_string_lossy(), quoted(value)));
        }
    }
    words.push(quoted(command.get_program()));
    words.extend(command.get_args().map(quoted));
    words.join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn cannot_start(command: &Command, error: &std::io::Error) -> Failure {
    let program = command.get_program().to_string_lossy();
    Failure::new(format!("cannot run `{program}`: {error}; is it installed and in PATH?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failing_program_is_told_with_its_words() {
        let failure = capture(shell("echo the disk is full >&2; exit 3")).unwrap_err().to_string();
        assert!(failure.contains("the disk is full") && failure.contains('3'), "{failure}");
    }

    #[test]
    fn a_missing_program_is_told_with_what_to_do() {
        let failure = run(Command::new("no-such-program-of-berth")).unwrap_err().to_string();
        assert!(failure.contains("is it installed"), "{failure}");
    }

    #[test]
    fn watching_sees_each_line_and_the_verdict() {
        let mut seen = Vec::new();
        let ok =
            watch(shell("echo one; echo two; exit 1"), Stream::Stdout, |l| seen.push(l.to_owned())).unwrap();
        assert_eq!(seen, ["one", "two"]);
        assert!(!ok);
    }

    #[test]
    fn a_printed_command_can_be_pasted() {
        let mut command = Command::new("cargo");
        command.args(["test", "it's", ""]).env("A", "x y");
        assert_eq!(line(&command), r"A='x y' cargo test 'it'\''s' ''");
    }
}
