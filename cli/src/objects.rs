//! `berth objects`: which objects a node has, where one is and why, and how it comes to another core or leaves memory.
//!
//! `carry` has the commands by which objects become files and come from files. The node decides what may move; its refusals
//! are shown as they come.

use serde_json::{Value, json};

use crate::admin_client::Admin;
use crate::output::{show as say, size};
use crate::project::parse_name;
use crate::table::{cell, entries, table};
use crate::{Failure, carry};

/// Digits of an object's id.
const ID_DIGITS: usize = 32;
/// Most objects of one list; the node refuses more.
const LIMIT_MAX: i64 = 1000;

/// What can be done with objects.
#[derive(clap::Subcommand)]
pub(crate) enum Objects {
    /// The objects of the node, of a zone or of a class.
    List(List),
    /// One object: what it stores, where it is, and why.
    Show(Show),
    /// Bring an object to another core of the node.
    Move {
        /// The id.
        #[arg(value_parser = parse_id)]
        id: String,
        /// The core that it goes to.
        #[arg(long, value_name = "CORE")]
        to: u8,
        #[command(flatten)]
        admin: Admin,
    },
    /// Give an object's instance up. What it stores stays; its next message starts it again.
    Evict {
        /// The id.
        #[arg(value_parser = parse_id)]
        id: String,
        #[command(flatten)]
        admin: Admin,
    },
    /// Write an object into a file, as it is now.
    Export(carry::Export),
    /// Make an object of such a file.
    Import(carry::Import),
    /// Write a snapshot of all objects of the node into a folder of its machine, while it runs.
    Snapshot(carry::Snapshot),
    /// Make the objects of a node that does not run of a snapshot.
    Restore(carry::Restore),
}

/// The flags of `berth objects list`.
#[derive(clap::Args)]
pub(crate) struct List {
    /// Only those of this zone.
    #[arg(long, value_name = "ZONE", value_parser = parse_name)]
    zone: Option<String>,
    /// Only those of this class.
    #[arg(long, value_name = "CLASS", value_parser = parse_class)]
    class: Option<String>,
    /// Only those behind this one in the order of ids. Needs a zone and a class.
    #[arg(long, value_name = "ID", value_parser = parse_id, requires_all = ["zone", "class"])]
    after: Option<String>,
    /// How many at most, 1 to 1000; 100 without it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=LIMIT_MAX))]
    limit: Option<u16>,
    #[command(flatten)]
    admin: Admin,
    /// Print the answer of the node as it came.
    #[arg(long)]
    json: bool,
}

/// The flags of `berth objects show`.
#[derive(clap::Args)]
pub(crate) struct Show {
    /// The id.
    #[arg(value_parser = parse_id)]
    id: String,
    #[command(flatten)]
    admin: Admin,
    /// Print the answer of the node as it came.
    #[arg(long)]
    json: bool,
}

/// Runs a command about objects.
pub(crate) fn run(command: &Objects) -> Result<(), Failure> {
    match command {
        Objects::List(list) => match list.json {
            true => say(&list.admin.get(&question(list))?),
            false => say(&render_list(list, &list.admin.read(&question(list))?)),
        },
        Objects::Show(Show { id, admin, json }) => match json {
            true => say(&admin.get(&format!("/v1/objects/{id}"))?),
            false => say(&render_object(&admin.read(&format!("/v1/objects/{id}"))?)),
        },
        Objects::Move { id, to, admin } => {
            let answer = admin.post(&format!("/v1/objects/{id}/move"), &json!({"core": to}))?;
            say(&format!("object {id} is on core {}", answer["core"]))
        }
        Objects::Evict { id, admin } => {
            admin.order(&format!("/v1/objects/{id}/evict"))?;
            say(&format!("object {id} has no instance now"))
        }
        Objects::Export(command) => carry::export(command),
        Objects::Import(command) => carry::import(command),
        Objects::Snapshot(command) => carry::snapshot(command),
        Objects::Restore(command) => carry::restore(command),
    }
}

/// The path of a list. No value in it needs an escape: each was checked when the command line was read.
fn question(list: &List) -> String {
    let limit = list.limit.map(|limit| limit.to_string());
    let parameters =
        [("zone", &list.zone), ("class", &list.class), ("after", &list.after), ("limit", &limit)];
    let written = |(name, value): (&str, &Option<String>)| Some(format!("{name}={}", value.as_ref()?));
    let query = parameters.into_iter().filter_map(written).collect::<Vec<_>>().join("&");
    if query.is_empty() { "/v1/objects".to_owned() } else { format!("/v1/objects?{query}") }
}

pub(crate) fn parse_id(text: &str) -> Result<String, String> {
    if text.len() == ID_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(text.to_owned());
    }
    Err(format!("an object's id has {ID_DIGITS} digits of 0-9 and a-f; `berth objects list` shows them"))
}

/// The names of classes are those of zones, but for capitals, which they may have.
fn parse_class(text: &str) -> Result<String, String> {
    match parse_name(&text.to_ascii_lowercase()) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => {
            Err("a class's name has 1 to 63 of letters, digits and -, and begins with a letter".to_owned())
        }
    }
}

/// The name comes last: whoever asks for an object chooses it, and it may be long.
fn render_list(list: &List, answer: &Value) -> String {
    let row = |object: &Value| {
        let [id, zone, class, keys, seq, core, name] =
            ["id", "zone", "class", "keys", "seq", "core", "name"].map(|field| cell(&object[field]));
        let core = if object["damaged"] == true { "damaged".to_owned() } else { core };
        [id, zone, class, bytes(&object["bytes"]), keys, seq, core, seconds(&object["written_ms"]), name]
    };
    let rows: Vec<_> = entries(answer, "objects").map(row).collect();
    let headings = ["OBJECT", "ZONE", "CLASS", "SIZE", "KEYS", "SEQ", "CORE", "WRITTEN (unix)", "NAME"];
    let mut out = table(headings, &rows);
    if let (true, Some([last, ..])) = (answer["more"] == true, rows.last()) {
        out += &next_page(list, last);
    }
    out
}

/// How those are seen that the list has no place for.
fn next_page(list: &List, last: &str) -> String {
    let (Some(zone), Some(class)) = (&list.zone, &list.class) else {
        return format!(
            "there may be more: --limit shows up to {LIMIT_MAX}, and --zone with --class all of a class\n"
        );
    };
    let limit = list.limit.map(|limit| format!(" --limit {limit}")).unwrap_or_default();
    format!("there may be more: berth objects list --zone {zone} --class {class} --after {last}{limit}\n")
}

fn render_object(object: &Value) -> String {
    let field = |name: &str| cell(&object[name]);
    let mut out = format!("object {}\nzone {}\nclass {}\n", field("id"), field("zone"), field("class"));
    if !object["name"].is_null() {
        out += &format!("name {}\n", field("name"));
    }
    let place = if object["core"].is_null() { String::new() } else { format!(" on core {}", field("core")) };
    out += &format!("state {}{place}\n  {}\n", field("state"), field("why"));
    if !object["messages"].is_null() {
        let (messages, hops) = (field("messages"), field("hops"));
        out += &format!("  messages {messages}, hops {hops}, since its instance was made\n");
    }
    if object["damaged"] == true {
        out += "damaged\n  something that it stored is lost, so that it answers nothing; the node's log says what\n";
    }
    out += &format!("stored {}, keys {}\n", bytes(&object["bytes"]), field("keys"));
    out += &format!("epoch {} seq {}\n", field("epoch"), field("seq"));
    if object["sockets"] != 0 {
        out += &format!("websockets {}\n", field("sockets"));
    }
    for (what, name) in [("created", "created_ms"), ("written", "written_ms")] {
        // Zero: it lives, and has stored nothing yet.
        if object[name] != 0 {
            out += &format!("{what} {} (unix)\n", seconds(&object[name]));
        }
    }
    out
}

/// Bytes for people.
fn bytes(value: &Value) -> String {
    value.as_u64().map_or_else(|| cell(value), size)
}

/// Unix time in milliseconds as seconds.
fn seconds(unix_ms: &Value) -> String {
    unix_ms.as_u64().map_or_else(|| cell(unix_ms), |ms| (ms / 1000).to_string())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use clap::Parser;

    use super::*;

    const ID: &str = "1000aa0123456789abcdef0123456789";

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: Objects,
    }

    /// What a command line means, or the code that its refusal exits with.
    fn read(words: &[&str]) -> Result<Objects, i32> {
        let line = Line::try_parse_from([&["objects"], words].concat());
        line.map(|line| line.command).map_err(|error| error.exit_code())
    }

    fn list(words: &[&str]) -> List {
        match read(&[&["list"], words].concat()) {
            Ok(Objects::List(list)) => list,
            _ => panic!("{words:?} is no list"),
        }
    }

    fn object() -> Value {
        json!({
            "id": ID, "zone": "shop", "class": "Cart", "name": "ada\u{1b}", "bytes": 1536, "keys": 5, "epoch": 3,
            "seq": 12, "created_ms": 7999, "written_ms": 9000, "core": 2, "damaged": false,
            "state": "held", "why": "its first message came to this core", "sockets": 2,
        })
    }

    /// A node that answers one question with these bytes, and hands out what it was asked.
    fn node(answer: &'static str) -> (Admin, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut asked, mut piece) = (String::new(), [0; 4096]);
            while !asked.contains("\r\n\r\n{") || !asked.ends_with('}') {
                let bytes = stream.read(&mut piece).unwrap();
                assert_ne!(bytes, 0, "the question breaks off: {asked}");
                asked += std::str::from_utf8(&piece[..bytes]).unwrap();
            }
            stream.write_all(answer.as_bytes()).unwrap();
            asked
        });
        (Admin { url }, asked)
    }

    #[test]
    fn a_list_has_a_row_for_each_and_tells_how_it_goes_on() {
        let mut nameless = object();
        for field in ["name", "core"] {
            nameless[field] = Value::Null;
        }
        let answer = json!({"objects": [object(), nameless], "more": false});
        let text = render_list(&list(&[]), &answer);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "OBJECT                            ZONE  CLASS  SIZE     KEYS  SEQ  CORE  WRITTEN (unix)  NAME"
        );
        assert_eq!(
            lines[1],
            format!("{ID}  shop  Cart   1.5 KiB  5     12   2     9               ada\\u{{1b}}")
        );
        assert_eq!(lines[2], format!("{ID}  shop  Cart   1.5 KiB  5     12         9"));
        assert_eq!(lines.len(), 3);

        let answer = json!({"objects": [object()], "more": true});
        let text = render_list(&list(&["--zone", "shop", "--class", "Cart", "--limit", "1"]), &answer);
        let next = format!(
            "there may be more: berth objects list --zone shop --class Cart --after {ID} --limit 1\n"
        );
        assert!(text.ends_with(&next), "{text}");
        let text = render_list(&list(&["--zone", "shop"]), &answer);
        assert!(text.contains("\nthere may be more: --limit shows up to 1000"), "{text}");
        assert_eq!(render_list(&list(&[]), &json!({"objects": [], "more": false})).lines().count(), 1);
    }

    #[test]
    fn an_object_says_where_it_is_and_why() {
        let text = render_object(&object());
        let whole = format!(
            "object {ID}\nzone shop\nclass Cart\nname ada\\u{{1b}}\nstate held on core 2\n  \
             its first message came to this core\nstored 1.5 KiB, keys 5\nepoch 3 seq 12\n\
             websockets 2\ncreated 7 (unix)\nwritten 9 (unix)\n"
        );
        assert_eq!(text, whole);
        let mut absent = object();
        (absent["name"], absent["core"], absent["state"]) = (Value::Null, Value::Null, "absent".into());
        let text = render_object(&absent);
        assert!(text.contains("class Cart\nstate absent\n"), "{text}");
        let mut counted = object();
        (counted["messages"], counted["hops"]) = (12.into(), 3.into());
        let text = render_object(&counted);
        assert!(
            text.contains("to this core\n  messages 12, hops 3, since its instance was made\nstored"),
            "{text}"
        );
        let mut damaged = object();
        damaged["damaged"] = true.into();
        assert!(render_object(&damaged).contains("\ndamaged\n"));
        let text = render_list(&list(&[]), &json!({"objects": [damaged], "more": false}));
        assert!(text.contains("  damaged  9 "), "{text}");
        let mut young = object();
        (young["created_ms"], young["written_ms"]) = (0.into(), 0.into());
        assert!(render_object(&young).ends_with("epoch 3 seq 12\nwebsockets 2\n"));
    }

    #[test]
    fn a_list_asks_for_what_was_wanted() {
        assert_eq!(question(&list(&[])), "/v1/objects");
        let words = ["--zone", "shop", "--class", "Cart", "--after", ID, "--limit", "1000"];
        let query = format!("/v1/objects?zone=shop&class=Cart&after={ID}&limit=1000");
        assert_eq!(question(&list(&words)), query);
    }

    #[test]
    fn wrong_usage_exits_2() {
        let capitals = ID.to_uppercase();
        let long = format!("{ID}0");
        for id in ["", "../zones", &ID[1..], &long, &capitals] {
            assert_eq!(read(&["show", id]).err(), Some(2), "{id}");
        }
        for words in [
            &["move", ID][..],
            &["move", ID, "--to", "256"],
            &["move", ID, "--to", "-1"],
            &["evict"],
            &["export"],
            &["export", "../zones"],
            &["import"],
            &["snapshot"],
            &["restore", "a"],
            &["restore", "a", "--state", "b", "--number", "0"],
            &["list", "--after", ID],
            &["list", "--zone", "shop", "--after", ID],
            &["list", "--class", "Cart", "--after", ID],
            &["list", "--limit", "0"],
            &["list", "--limit", "1001"],
            &["list", "--zone", "Shop"],
            &["list", "--class", "a&b"],
            &["list", "--class", ""],
            &["frobnicate"],
            &[],
        ] {
            assert_eq!(read(words).err(), Some(2), "{words:?}");
        }
    }

    #[test]
    fn an_object_moves_or_the_node_says_why_not() {
        let (admin, asked) = node("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{\"core\":3}");
        run(&Objects::Move { id: ID.to_owned(), to: 3, admin }).unwrap();
        let asked = asked.join().unwrap();
        assert!(asked.starts_with(&format!("POST /v1/objects/{ID}/move HTTP/1.1\r\n")), "{asked}");
        assert!(asked.ends_with("\r\n\r\n{\"core\":3}"), "{asked}");

        let (admin, asked) =
            node("HTTP/1.1 409 Conflict\r\ncontent-length: 27\r\n\r\n{\"detail\":\"it has sockets\"}");
        let said = run(&Objects::Move { id: ID.to_owned(), to: 3, admin }).unwrap_err().to_string();
        assert_eq!(said, "the node refuses (409): it has sockets");
        asked.join().unwrap();
    }
}
