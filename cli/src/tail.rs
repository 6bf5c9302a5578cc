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
    if let Some(missed) = entry["missed"].as_u64() {
        return format!("({missed} lines are missing here: more came than could be shown)");
    }
    let place = match entry["worker"].as_str() {
        Some(worker) => format!("{}/{}", cell(&entry["zone"]), cell(&worker.into())),
        None => cell(&entry["zone"]),
    };
    let time = entry["time_ms"].as_u64().map(time_of_day).unwrap_or_default();
    let [request, stream] = ["request", "stream"].map(|name| cell(&entry[name]));
    // A fault has a backtrace, a line for each frame.
    let text: Vec<String> =
        entry["text"].as_str().unwrap_or_default().lines().map(|line| cell(&line.into())).collect();
    format!("{time} {place} {request} {stream:<5} {}", text.join("\n      "))
}

/// Unix time in milliseconds as the time of day (UTC).
fn time_of_day(unix_ms: u64) -> String {
    let (seconds, ms) = (unix_ms / 1000, unix_ms % 1000);
    format!("{:02}:{:02}:{:02}.{ms:03}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_line() {
        let entry = r#"{"time_ms":1795800118042,"zone":"shop","worker":"front","request":"r","stream":"out","text":"hi\u001b[2J"}"#;
        assert_eq!(render(entry), "17:21:58.042 shop/front r out   hi\\u{1b}[2J");
        let fault =
            r#"{"time_ms":5,"zone":"a","worker":null,"request":"r","stream":"fault","text":"trap\n0: main"}"#;
        assert_eq!(render(fault), "00:00:00.005 a r fault trap\n      0: main");
        assert!(render(r#"{"missed":3}"#).starts_with("(3 lines"));
        assert_eq!(render("no json"), "no json");
    }
}
