//! `berth explain`: where something would go, and why, asked of the running node.

use serde_json::Value;

use crate::Failure;
use crate::admin_client::Admin;

/// What can be explained.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Which server, core and generation a flow or a connection id goes to, by which rule and table.
    Flow(Flow),
}

/// The flags of `berth explain flow`.
#[derive(clap::Args)]
pub(crate) struct Flow {
    /// A connection id in hexadecimal digits, or the client's address and port and then the node's, as two words or with
    /// a comma between them.
    #[arg(required = true, num_args = 1..=2, value_name = "4-TUPLE|CID")]
    about: Vec<String>,
    /// The transport of a 4-tuple; both without it.
    #[arg(long, value_parser = ["tcp", "udp"])]
    transport: Option<String>,
    #[command(flatten)]
    admin: Admin,
    /// Print the answers of the node as they came, a line each.
    #[arg(long)]
    json: bool,
}

/// Asks and shows.
pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    let Command::Flow(flow) = command;
    for (subject, query) in questions(flow) {
        let answer = flow.admin.get(&format!("/v1/explain/flow?{query}"))?;
        if flow.json {
            print!("{answer}");
        } else {
            println!("{subject}: {}", render(&serde_json::from_str(&answer)?));
        }
    }
    Ok(())
}

/// What is asked about, in words and as a query.
fn questions(flow: &Flow) -> Vec<(String, String)> {
    let words: Vec<&str> = flow.about.iter().flat_map(|word| word.split(',')).map(str::trim).collect();
    let [source, destination] = words[..] else {
        let id = words.concat();
        return vec![(id.clone(), format!("id={}", escape(&id)))];
    };
    let transports = match &flow.transport {
        Some(transport) => vec![transport.as_str()],
        None => vec!["tcp", "udp"],
    };
    let question = |transport: &str| {
        let subject = format!("{source} to {destination} over {}", transport.to_uppercase());
        let (source, destination) = (escape(source), escape(destination));
        (subject, format!("source={source}&destination={destination}&transport={transport}"))
    };
    transports.into_iter().map(question).collect()
}

/// What may not stand in a query becomes an escape.
fn escape(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'.' | b':' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escape).collect()
}

fn render(answer: &Value) -> String {
    let rule = answer["rule"].as_str().unwrap_or_default();
    let because = answer["because"].as_str().unwrap_or_default();
    let place = &answer["place"];
    let there = match place["cpu"].as_u64() {
        _ if place.is_null() => "no core of ours".to_owned(),
        Some(cpu) => format!(
            "server {}, generation {}, core {} on CPU {cpu}",
            place["server"], place["generation"], place["core"]
        ),
        None => {
            format!("server {}, generation {}, core {}", place["server"], place["generation"], place["core"])
        }
    };
    format!("{there}\n  rule {rule}, table {}: {because}", answer["table"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(about: &[&str], transport: Option<&str>) -> Flow {
        Flow {
            about: about.iter().map(|word| (*word).to_owned()).collect(),
            transport: transport.map(str::to_owned),
            admin: Admin { url: String::new() },
            json: false,
        }
    }

    #[test]
    fn one_word_is_an_id_and_two_are_a_flow() {
        let queries =
            |flow: &Flow| -> Vec<String> { questions(flow).into_iter().map(|(_, query)| query).collect() };
        assert_eq!(queries(&flow(&["2f00"], None)), ["id=2f00"]);
        let v6 = "source=%5B::1%5D:5&destination=%5B::2%5D:443&transport=udp";
        assert_eq!(queries(&flow(&["[::1]:5", "[::2]:443"], Some("udp"))), [v6]);
        assert_eq!(queries(&flow(&["1.2.3.4:5,1.2.3.4:443"], None)).len(), 2);
    }

    #[test]
    fn an_answer_reads_as_a_sentence() {
        let place = serde_json::json!({"server": 7, "generation": 1, "core": 0, "cpu": 3});
        let mut answer =
            serde_json::json!({"table": 5, "place": place, "rule": "tcp", "because": "so it is"});
        let text = render(&answer);
        assert_eq!(text, "server 7, generation 1, core 0 on CPU 3\n  rule tcp, table 5: so it is");
        answer["place"] = Value::Null;
        assert!(render(&answer).starts_with("no core of ours"));
    }
}
