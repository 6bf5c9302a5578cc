//! `berth status`: the node at a glance.

use serde_json::Value;

use crate::Failure;
use crate::admin_client::Admin;
use crate::output::show;

/// The flags of `berth status`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    admin: Admin,
    /// Print the answer of the node as it came.
    #[arg(long)]
    json: bool,
}

/// The numbers of a core that the table shows, with their headings.
const COLUMNS: [(&str, &str); 8] = [
    ("open", "connections_open"),
    ("requests", "requests"),
    ("hops", "hops_out"),
    ("tasks", "tasks"),
    ("sleeps", "sleeps"),
    ("enters", "ring_enters"),
    ("buffers", "receive_buffers"),
    ("starved", "receive_starved"),
];

/// Asks and shows.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match arguments.json {
        true => show(&arguments.admin.get("/v1/status")?),
        false => show(&render(&arguments.admin.read("/v1/status")?)),
    }
}

fn render(status: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let state = if status["ready"] == true { "ready" } else { "not ready" };
    let mut out = format!(
        "node {} · berth {} · {state} · up {} s · {} connections\n",
        text(&status["node"]),
        text(&status["version"]),
        status["uptime_s"],
        status["connections"],
    );
    for listener in status["listeners"].as_array().into_iter().flatten() {
        out += &format!("listens {}://{}\n", text(&listener["protocol"]), text(&listener["address"]));
    }
    out += &render_steering(&status["steering"]);
    for certificate in status["certificates"].as_array().into_iter().flatten() {
        let names: Vec<String> = certificate["names"].as_array().into_iter().flatten().map(text).collect();
        out += &format!("certificate {} until {} (unix)\n", names.join(", "), certificate["not_after_s"]);
    }
    out += &format!("{:<5}{:<5}{:<10}{:<8}", "core", "cpu", "driver", "state");
    for (heading, _) in COLUMNS {
        out += &format!("{heading:>10}");
    }
    for core in status["cores"].as_array().into_iter().flatten() {
        let state = if core["stalled"] == true { "stalled" } else { "ok" };
        out += &format!(
            "\n{:<5}{:<5}{:<10}{state:<8}",
            text(&core["core"]),
            text(&core["cpu"]),
            text(&core["driver"])
        );
        for (_, name) in COLUMNS {
            out += &format!("{:>10}", text(&core["numbers"][name]));
        }
    }
    out + "\n"
}

/// By whom packets are brought to their cores.
fn render_steering(steering: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let sockets = match text(&steering["sockets"]).as_str() {
        "programs" => "our programs",
        _ => "the kernel's hash",
    };
    let why = steering["why"].as_str().map(|why| format!(" ({why})")).unwrap_or_default();
    let mut out = format!("sockets chosen by {sockets}{why} · agent {}", text(&steering["agent"]));
    if let Some(table) = steering["table"].as_u64() {
        out += &format!(
            " · generation {}, newest {}, table {table}",
            steering["generation"], steering["newest"]
        );
    }
    out.push('\n');
    for card in steering["cards"].as_array().into_iter().flatten() {
        let why = card["why"].as_str().map(|why| format!(" ({why})")).unwrap_or_default();
        out += &format!("card {}: XDP {}{why}\n", text(&card["interface"]), text(&card["xdp"]));
    }
    for (name, counted) in [("cards", "packets at cards"), ("sockets", "arrivals at sockets")] {
        let numbers = steering["counted"][name].as_object().into_iter().flatten();
        let numbers: Vec<String> = numbers
            .filter(|(_, count)| **count != 0)
            .map(|(what, count)| format!("{what} {count}"))
            .collect();
        if !numbers.is_empty() {
            out += &format!("{counted}: {}\n", numbers.join(", "));
        }
    }
    if let Some(trouble) = steering["trouble"].as_str() {
        out += &format!("trouble: {trouble}\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_fits_a_screen() {
        let status = serde_json::json!({
            "node": "edge-1", "version": "0.1.0", "uptime_s": 5, "ready": true, "connections": 3,
            "listeners": [{"address": "127.0.0.1:80", "protocol": "http"}],
            "steering": {"sockets": "programs", "why": null, "agent": "linked", "generation": 1, "newest": 1, "table": 9,
                "cards": [{"interface": "eth0", "xdp": "generic", "why": "native: no"}], "trouble": "none left",
                "counted": {"cards": {"kept": 3, "moved": 0, "tcp": 2}, "sockets": {}}},
            "certificates": [{"names": ["a.example"], "not_after_s": 7}],
            "cores": [{"core": 0, "cpu": 1, "driver": "io_uring", "stalled": false, "stalls": 0, "numbers": {"requests": 12}}],
        });
        let text = render(&status);
        assert!(text.starts_with("node edge-1 · berth 0.1.0 · ready · up 5 s · 3 connections\n"), "{text}");
        assert!(text.contains("listens http://127.0.0.1:80"));
        assert!(text.contains("certificate a.example until 7"));
        assert!(text.contains("io_uring  ok"));
        let steering = "sockets chosen by our programs · agent linked · generation 1, newest 1, table 9\n\
            card eth0: XDP generic (native: no)\n\
            packets at cards: kept 3, tcp 2\ntrouble: none left\n";
        assert!(text.contains(steering), "{text}");
    }
}
