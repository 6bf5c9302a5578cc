//! `berth tail`: what guests say and how they fail, as it happens.

use std::io::{self, Write};

use serde_json::Value;

use crate::Failure;
use crate::admin_client::{Admin, Next};
use crate::project::parse_name;
use crate::table::cell;

/// The flags of `berth tail`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only this zone.
    #[arg(long, value_name = "ZONE", value_parser = parse_name)]
    zone: Option<String>,
    #[command(flatten)]
    admin: Admin,
    /// Print each line of the node as it came.
    #[arg(long)]
    json: bool,
}

/// Shows lines until Ctrl-C, until nobody reads them, or until the node ends.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let path = arguments.zone.as_ref().map_or("/v1/tail".to_owned(), |zone| format!("/v1/tail?zone={zone}"));
    let mut out = io::stdout().lock();
    let mut is_read = true;
    arguments.admin.lines(&path, |line| {
        let line = if arguments.json { line.to_owned() } else { render(line) };
        match writeln!(out, "{line}").and_then(|()| out.flush()) {
            Ok(()) => Ok(Next::Line),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                is_read = false;
                Ok(Next::Stop)
            }
            Err(error) => Err(error.into()),
        }
    })?;
    if is_read { Err("the node has ended the log; is it still running?".into()) } else { Ok(()) }
}

/// A line for people: when, whose, which request, what.
fn render(line: &str) -> String {
    let Ok(entry) = serde_json::from_str::<Value>(line) else { return cell(&line.into()) };
    let place = match entry["worker"].as_str() {
        Some(worker) => format!("{}/{}", cell(&entry["zone"]), cell(&worker.into())),
        None => cell(&entry["zone"]),
    };
    let [time, request, stream] = ["time", "request", "stream"].map(|name| cell(&entry[name]));
    // A fault has a backtrace, a line for each frame.
    let text: Vec<String> =
        entry["text"].as_str().unwrap_or_default().lines().map(|line| cell(&line.into())).collect();
    format!("{time} {place} {request} {stream:<5} {}", text.join("\n      "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_line() {
        let entry = r#"{"time":"t","zone":"shop","worker":"front","request":"r","stream":"out","text":"hi\u001b[2J"}"#;
        assert_eq!(render(entry), "t shop/front r out   hi\\u{1b}[2J");
        let fault =
            r#"{"time":5,"zone":"a","worker":null,"request":"r","stream":"fault","text":"trap\n0: main"}"#;
        assert_eq!(render(fault), "5 a r fault trap\n      0: main");
        assert_eq!(render("no json"), "no json");
    }
}
