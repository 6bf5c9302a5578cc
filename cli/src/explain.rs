//! `berth explain`: where something would go, and why, asked of the running node.

use serde_json::Value;

use crate::Failure;
use crate::admin_client::Admin;
use crate::output::show;
use crate::table::{cell, entries};

/// What can be explained.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Which server, core and generation a flow or a connection id goes to, by which rule and table.
    Flow(Flow),
    /// Which worker, origin or route a request goes to, and by which patterns.
    Request(Request),
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

/// The flags of `berth explain request`.
#[derive(clap::Args)]
pub(crate) struct Request {
    /// The method, such as GET.
    #[arg(value_parser = parse_method)]
    method: String,
    /// The whole URL, as a client would send it.
    #[arg(value_parser = parse_url)]
    url: String,
    #[command(flatten)]
    admin: Admin,
    /// Print the answer of the node as it came.
    #[arg(long)]
    json: bool,
}

/// Asks and shows.
pub(crate) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Flow(flow) => explain_flow(flow),
        Command::Request(request) => explain_request(request),
    }
}

fn explain_flow(flow: &Flow) -> Result<(), Failure> {
    for (subject, query) in questions(flow) {
        let path = format!("/v1/explain/flow?{query}");
        match flow.json {
            true => show(&flow.admin.get(&path)?)?,
            false => show(&format!("{subject}: {}", render(&flow.admin.read(&path)?)))?,
        }
    }
    Ok(())
}

fn explain_request(request: &Request) -> Result<(), Failure> {
    let Request { method, url, admin, json } = request;
    let path = format!("/v1/explain/request?method={}&url={}", escape(method), escape(url));
    match json {
        true => show(&admin.get(&path)?),
        false => show(&format!("{method} {url}: {}", render_request(&admin.read(&path)?))),
    }
}

/// Whether it can be a method; the node knows the rest.
fn parse_method(text: &str) -> Result<String, String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_token) {
        return Ok(text.to_owned());
    }
    Err("a method is a word such as GET".to_owned())
}

fn parse_url(text: &str) -> Result<String, String> {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    if matches!(scheme.as_deref(), Some("http" | "https")) {
        return Ok(text.to_owned());
    }
    Err("write the whole URL: http://HOST/PATH or https://HOST/PATH".to_owned())
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

/// Who answers; then why, what the route's parameters stand for, and what lost.
fn render_request(answer: &Value) -> String {
    let [zone, worker, route] = ["zone", "worker", "route"].map(|name| &answer[name]);
    let of_zone = format!("zone {}, version {}", cell(&zone["name"]), zone["version"]);
    let mut out = match cell(&answer["rule"]).as_str() {
        "worker" => {
            format!("worker {} of {of_zone}, script {}", cell(&worker["name"]), cell(&worker["script"]))
        }
        "object" => {
            let object = &answer["object"];
            format!("object {} of class {} in {of_zone}", cell(&object["name"]), cell(&object["class"]))
        }
        "origin" => format!("origin {} of {of_zone}", cell(&answer["origin"])),
        "configuration" => {
            let core = route["core"].as_u64().map(|core| format!(", on core {core}")).unwrap_or_default();
            format!(
                "route {} of the configuration ({}){core}",
                cell(&route["pattern"]),
                cell(&route["action"])
            )
        }
        _ if zone.is_null() => format!("nobody; the answer is {}", cell(&answer["status"])),
        _ => format!("nobody in {of_zone}; the answer is {}", cell(&answer["status"])),
    };
    out += &format!("\n  rule {}: {}\n", cell(&answer["rule"]), cell(&answer["because"]));
    out += &format!("  looked up as {} {}\n", cell(&answer["host"]), cell(&answer["path"]));
    for (name, value) in route["parameters"].as_object().into_iter().flatten() {
        out += &format!("  :{name} = {}\n", cell(value));
    }
    if let Some(rest) = route["rest"].as_str() {
        out += &format!("  * = {}\n", cell(&rest.into()));
    }
    for lost in entries(answer, "lost") {
        let [what, pattern, because] = ["what", "pattern", "because"].map(|name| cell(&lost[name]));
        out += &format!("  {what} {pattern} matches too, and loses: {because}\n");
    }
    out
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

    #[test]
    fn a_request_reads_as_who_and_why() {
        let mut answer = serde_json::json!({
            "method": "GET", "host": "shop.example", "path": "/cart/ada/x", "rule": "worker", "because": "so it is",
            "zone": {"name": "shop", "version": 3, "host": "shop.example"},
            "worker": {"name": "cart", "script": "0a"}, "origin": null, "status": null,
            "route": {"pattern": "/cart/:who/*", "parameters": {"who": "ada"}, "rest": "x", "action": null, "core": null},
            "lost": [{"what": "route", "pattern": "/*", "because": "it is less"}],
        });
        let text = "worker cart of zone shop, version 3, script 0a\n  rule worker: so it is\n  \
            looked up as shop.example /cart/ada/x\n  :who = ada\n  * = x\n  \
            route /* matches too, and loses: it is less\n";
        assert_eq!(render_request(&answer), text);
        answer["rule"] = "origin".into();
        answer["origin"] = "http://o".into();
        assert!(render_request(&answer).starts_with("origin http://o of zone shop, version 3\n"));
        answer["rule"] = "nothing".into();
        answer["status"] = 404.into();
        assert!(render_request(&answer).starts_with("nobody in zone shop, version 3; the answer is 404\n"));
        answer["zone"] = Value::Null;
        assert!(render_request(&answer).starts_with("nobody; the answer is 404\n"));
        answer["rule"] = "configuration".into();
        answer["route"] = serde_json::json!({"pattern": "*/", "action": "delay", "core": 1});
        let begin = "route */ of the configuration (delay), on core 1\n";
        assert!(render_request(&answer).starts_with(begin));
    }

    #[test]
    fn a_method_is_a_word_and_a_url_is_whole() {
        assert!(parse_method("GET").is_ok() && parse_method("M-SEARCH").is_ok());
        assert!(["", "G T", "GET\r", "\u{e9}"].iter().all(|text| parse_method(text).is_err()));
        assert!(parse_url("HTTPS://a").is_ok() && parse_url("http://a/%2e").is_ok());
        assert!(["", "/a", "a.example/b", "ftp://a/"].iter().all(|text| parse_url(text).is_err()));
        assert_eq!(escape("http://a/%41?b=c&d+\u{e9}#"), "http:%2F%2Fa%2F%2541%3Fb%3Dc%26d%2B%C3%A9%23");
    }
}
