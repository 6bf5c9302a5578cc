//! Promises of the configuration as a whole: the declarations, the parser and the reference tell one story.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use toml::Value;
use toml::de::DeValue;

use super::keys::{Entries, Fallback, KEYS, TABLES, split};
use super::reference::EXAMPLE;
use super::*;

/// A file that sets every key, each to something else than its default, and no two alike where they could be mixed up.
const EVERY_KEY: &str = r#"
[node]
name = "edge-1"
state = "/srv/berth"
cores = 256

[runtime]
driver = "epoll"
ring_entries = 1024
receive_buffer = "8KiB"
receive_buffers_max = 2048
mailbox_capacity = 77
stall_after = "100ms"

[[listen]]
address = "192.0.2.7:80"
protocol = "https"
proxy_protocol = ["10.0.0.0/8"]
http3 = "off"

[tls]
certificates = [{ chain = "/tls/a.pem", key = "/tls/a.key" }]
ticket_lifetime = "30m"
ticket_rotation = "7h"

[quic]
server = 258
connection_ids = "plaintext"
connection_id_lifetime = "9m"
hosts = [{ host = "*.example.org", core = 0 }]

[agent]
socket = "/run/node/agent.sock"
user = "node"
pins = "/sys/fs/bpf/node"

[steering]
interfaces = ["eth0", "eth1"]
xdp = "generic"
addresses = ["192.0.2.8"]

[limits]
header_bytes = "16KiB"
header_count = 64
body_bytes = "2GiB"
header_timeout = "11s"
body_timeout = "31s"
send_timeout = "32s"
idle_timeout = "33s"
connections = 1001
connections_per_address = 1002
handshakes = 1003
handshake_timeout = "12s"

[limits.http2]
streams = 101
resets = 102
settings = 103
pings = 104
priorities = 105
window_updates = 106
empty_frames = 107
continuations = 108

[limits.http3]
streams = 201
resets = 202
retry_above = 203

[limits.websocket]
message_bytes = "3MiB"
frame_bytes = "3KiB"

[admin]
listen = "127.0.0.1:9191"

[log]
level = "warn,berth_dataplane=debug"
format = "json"
access = "/var/log/access.log"

[debug]
clients = ["192.0.2.0/28"]

[shutdown]
drain = "5s"

[workers]
instances = 20
stacks = "kept"
code_bytes = "128MiB"
compile_memory = "3GiB"
compile_time = "5s"

[objects]
resident = 9
idle = "7s"

[[routes]]
host = "example.com"
path = "/a"
respond = { status = 404, body = "no", headers = { X-Reason = "none" } }
core = 0
[[routes]]
path = "/b"
echo = {}
[[routes]]
path = "/c"
stream = { bytes = "10MiB" }
[[routes]]
path = "/d"
delay = { time = "100ms", body = "late" }
[[routes]]
path = "/e"
websocket = {}
"#;

/// The shortest configuration.
const SHORTEST: &str = "[[listen]]\naddress = \"127.0.0.1:8080\"\n";

/// One route for each action, with required keys only: what [`EVERY_KEY`] is without its optional keys.
const REQUIRED_ONLY: &str = r#"
[[listen]]
address = "192.0.2.7:80"
[[routes]]
path = "/a"
respond = {}
[[routes]]
path = "/b"
echo = {}
[[routes]]
path = "/c"
stream = { bytes = "10MiB" }
[[routes]]
path = "/d"
delay = { time = "100ms" }
[[routes]]
path = "/e"
websocket = {}
"#;

fn every_worker_key() -> Workers {
    Workers {
        instances: 20,
        stacks: Stacks::Kept,
        code_bytes: 128 << 20,
        compile_memory: 3 << 30,
        compile_time: Duration::from_secs(5),
    }
}

fn every_log_key() -> Log {
    Log {
        level: LogFilter("warn,berth_dataplane=debug".to_owned()),
        format: LogFormat::Json,
        access: AccessLog::File("/var/log/access.log".into()),
    }
}

fn every_limit() -> Limits {
    let seconds = Duration::from_secs;
    Limits {
        header_bytes: 16 << 10,
        header_count: 64,
        body_bytes: 2 << 30,
        header_timeout: seconds(11),
        body_timeout: seconds(31),
        send_timeout: seconds(32),
        idle_timeout: seconds(33),
        connections: 1001,
        connections_per_address: 1002,
        handshakes: 1003,
        handshake_timeout: seconds(12),
        http2: Http2Limits {
            streams: 101,
            resets: 102,
            settings: 103,
            pings: 104,
            priorities: 105,
            window_updates: 106,
            empty_frames: 107,
            continuations: 108,
        },
        http3: Http3Limits { streams: 201, resets: 202, retry_above: 203 },
        websocket: WebSocketLimits { message_bytes: 3 << 20, frame_bytes: 3 << 10 },
    }
}

fn every_quic_key() -> Quic {
    Quic {
        server: 258,
        connection_ids: ConnectionIds::Plaintext,
        connection_id_lifetime: Duration::from_secs(540),
        hosts: vec![HostRule { host: "*.example.org".to_owned(), core: 0 }],
    }
}

#[test]
fn every_key_arrives_where_it_belongs() {
    let config = Config::parse(EVERY_KEY).unwrap();
    let seconds = Duration::from_secs;
    let route =
        |path: &str, action| RouteRule { host: "*".to_owned(), path: path.to_owned(), action, core: None };
    let headers = HeaderMap::from_iter([("x-reason".parse().unwrap(), HeaderValue::from_static("none"))]);
    let respond = Action::Respond { status: StatusCode::NOT_FOUND, body: Bytes::from_static(b"no"), headers };
    let expected = Config {
        node: Node {
            name: NodeName::Given("edge-1".to_owned()),
            state: PathBuf::from("/srv/berth"),
            cores: Cores::Count(256),
        },
        runtime: Runtime {
            driver: Driver::Epoll,
            ring_entries: 1024,
            receive_buffer_bytes: 8192,
            receive_buffers_max: 2048,
            mailbox_capacity: 77,
            stall_after: Duration::from_millis(100),
        },
        listeners: vec![Listener {
            address: "192.0.2.7:80".parse().unwrap(),
            protocol: Protocol::Https,
            proxy_from: vec!["10.0.0.0/8".parse().unwrap()],
            http3: Http3::Off,
        }],
        tls: Tls {
            certificates: vec![CertificateFiles { chain: "/tls/a.pem".into(), key: "/tls/a.key".into() }],
            ticket_lifetime: seconds(1800),
            ticket_rotation: seconds(7 * 3600),
        },
        quic: every_quic_key(),
        agent: Agent {
            socket: Some("/run/node/agent.sock".into()),
            user: Some("node".to_owned()),
            pins: "/sys/fs/bpf/node".into(),
        },
        steering: Steering {
            interfaces: vec!["eth0".to_owned(), "eth1".to_owned()],
            xdp: Xdp::Generic,
            addresses: vec!["192.0.2.8".parse().unwrap()],
        },
        limits: every_limit(),
        admin: Admin { listen: "127.0.0.1:9191".parse().unwrap() },
        log: every_log_key(),
        debug: Debugging { clients: vec!["192.0.2.0/28".parse().unwrap()] },
        shutdown: Shutdown { drain: seconds(5) },
        workers: every_worker_key(),
        objects: Objects { resident: Some(9), idle: seconds(7) },
        routes: vec![
            RouteRule { host: "example.com".to_owned(), core: Some(0), ..route("/a", respond) },
            route("/b", Action::Echo),
            route("/c", Action::Stream { bytes: 10 << 20 }),
            route(
                "/d",
                Action::Delay { time: Duration::from_millis(100), body: Bytes::from_static(b"late") },
            ),
            route("/e", Action::WebSocket),
        ],
    };
    assert_eq!(config, expected);
}

#[test]
fn the_shortest_file_is_one_listener() {
    let config = Config::parse(SHORTEST).unwrap();
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.node.cores, Cores::Auto);
    assert_eq!(config.node.name.on_host("machine-7"), "machine-7");
    assert!(config.tls.certificates.is_empty(), "then the node makes its own");
    assert!(config.routes.is_empty());
}

#[test]
fn every_key_stands_in_the_file_that_sets_every_key() {
    let document: Value = toml::from_str(EVERY_KEY).unwrap();
    for key in KEYS {
        assert!(
            place(&mut document.clone(), key.path()).is_some_and(|(table, name)| table.contains_key(&name)),
            "{}",
            key.path()
        );
    }
}

#[test]
fn a_key_is_accepted_at_its_bounds_and_refused_just_outside() {
    for key in KEYS {
        let edges = key.edges();
        for accepted in &edges.accepted {
            let verdict = Config::parse(&with(EVERY_KEY, key.path(), accepted));
            assert!(verdict.is_ok(), "{} = {accepted}\n{}", key.path(), verdict.unwrap_err());
        }
        for refused in &edges.refused {
            let mistakes = Config::parse(&with(EVERY_KEY, key.path(), refused))
                .expect_err(&format!("{} = {refused} must be refused", key.path()));
            for mistake in mistakes.kept() {
                let pattern = pattern_of(&mistake.path);
                let blamed = pattern
                    .strip_prefix(key.path())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
                assert!(blamed, "{} = {refused} is blamed on {}", key.path(), mistake.path);
                assert_eq!(mistake.allowed, key.allowed(), "the mistake names the bound of the reference");
            }
        }
        assert!(edges.accepted.len() + edges.refused.len() > 1, "{} has no edges", key.path());
    }
}

#[test]
fn the_default_of_the_reference_is_what_an_absent_key_means() {
    let absent = Config::parse(REQUIRED_ONLY).unwrap();
    for key in KEYS {
        let Fallback::Default(default) = key.fallback() else { continue };
        let written = Config::parse(&with(REQUIRED_ONLY, key.path(), default));
        assert_eq!(written.as_ref(), Ok(&absent), "{} = {default}", key.path());
    }
}

#[test]
fn a_key_that_is_set_changes_the_configuration() {
    let absent = Config::parse(REQUIRED_ONLY).unwrap();
    for key in KEYS.iter().filter(|key| matches!(key.fallback(), Fallback::Default(_))) {
        let edges = key.edges().accepted;
        let changes = edges.iter().any(|value| {
            Config::parse(&with(REQUIRED_ONLY, key.path(), value)).is_ok_and(|config| config != absent)
        });
        assert!(changes, "{} is read and then forgotten", key.path());
    }
}

#[test]
fn a_required_key_is_missed() {
    for key in KEYS.iter().filter(|key| matches!(key.fallback(), Fallback::Required)) {
        let mistakes = Config::parse(&without(EVERY_KEY, key.path())).unwrap_err();
        let [mistake] = mistakes.kept() else { panic!("{mistakes}") };
        assert_eq!(
            (pattern_of(&mistake.path).as_str(), mistake.problem.as_str()),
            (key.path(), "is missing")
        );
    }
}

#[test]
fn every_example_is_right() {
    for key in KEYS {
        let verdict = Config::parse(&with(EVERY_KEY, key.path(), key.example()));
        assert!(verdict.is_ok(), "{} = {}\n{}", key.path(), key.example(), verdict.unwrap_err());
    }
    assert_eq!(Config::parse(EXAMPLE).map(|config| config.routes.len()), Ok(2));
}

#[test]
fn every_key_has_its_words_and_its_table() {
    for (index, key) in KEYS.iter().enumerate() {
        let path = key.path();
        assert!(KEYS[..index].iter().all(|other| other.path() != path), "{path} is declared twice");
        assert!(TABLES.iter().any(|table| table.path == split(path).0), "{path} has no table");
        for words in [key.meaning(), key.why()] {
            assert!(words.ends_with('.') && !words.contains("  "), "{path}: {words}");
        }
        assert!(DeValue::parse(key.example()).is_ok(), "{path}");
    }
    for table in TABLES {
        assert_eq!(matches!(table.entries, Entries::UpTo(..)), table.path.ends_with("[]"), "{}", table.path);
        assert!(KEYS.iter().any(|key| split(key.path()).0 == table.path), "{} has no key", table.path);
    }
}

#[test]
fn the_page_in_the_docs_is_the_reference() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/CONFIG.md");
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(page.parent().unwrap()).unwrap();
        std::fs::write(&page, reference()).unwrap();
    }
    let written = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(
        written == reference(),
        "docs/CONFIG.md is not what the declarations say: run BLESS=1 cargo test -p berth-dataplane config"
    );
}

#[test]
fn the_reference_names_every_key_once_with_its_bounds_and_default() {
    let page = reference();
    for key in KEYS {
        let head = format!("\n### `{}`\n", key.path());
        assert_eq!(page.matches(&head).count(), 1, "{}", key.path());
        let entry = page.split(&head).nth(1).unwrap().split("\n##").next().unwrap();
        assert!(entry.contains(&key.allowed()) && entry.contains(key.meaning()) && entry.contains(key.why()));
        if let Fallback::Default(default) = key.fallback() {
            assert!(entry.contains(&format!("- Default: `{default}`\n")), "{entry}");
        }
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let text = r#"
[node]
cores = [1, 1]
[limits]
header_bytes = "2GiB"
heder_count = 5
idle_timeout = 75
[[listen]]
address = "localhost:80"
[[listen]]
protocol = "gopher"
[[routes]]
path = "/"
respond = { status = 99, headers = { content-length = "5", "a b" = "c" } }
[admin]
listen = "0.0.0.0:9090"
"#;
    let mistakes = Config::parse(text).unwrap_err();
    let told: Vec<(usize, &str)> = mistakes.kept().iter().map(|one| (one.line, one.path.as_str())).collect();
    let expected = [
        (3, "node.cores[1]"),
        (5, "limits.header_bytes"),
        (6, "limits.heder_count"),
        (7, "limits.idle_timeout"),
        (9, "listen[0].address"),
        (10, "listen[1].address"),
        (11, "listen[1].protocol"),
        (14, "routes[0].respond.status"),
        (14, "routes[0].respond.headers.content-length"),
        (14, "routes[0].respond.headers.a b"),
        (16, "admin.listen"),
    ];
    assert_eq!(told, expected, "{mistakes}");
    assert!(
        mistakes
            .to_string()
            .starts_with("11 mistakes in the configuration\n\nline 3, column 13: node.cores[1] = 1 is named")
    );
}

#[test]
fn a_paragraph_helps() {
    let text = format!("{SHORTEST}[limits]\nheader_bytes = \"10MB\"\n");
    assert_eq!(
        Config::parse(&text).unwrap_err().to_string(),
        "1 mistake in the configuration\n\n\
         line 4, column 16: limits.header_bytes = \"10MB\" has the unit `MB`, which some read as a power of 1000 and some \
         of 1024: write MiB\n    \
         allowed: a size from 1KiB to 1MiB, as bytes (4096) or with a unit (\"4KiB\", \"1MiB\", \"1GiB\")\n    \
         example: header_bytes = \"32KiB\""
    );
}

#[test]
fn broken_syntax_is_told_by_line_and_column() {
    let text = "[limits]\nheader_bytes = 10KiB\nname = \"x\n[node\n";
    let mistakes = Config::parse(text).unwrap_err();
    let told: Vec<(usize, usize, &str)> =
        mistakes.kept().iter().map(|one| (one.line, one.column, one.found.as_str())).collect();
    assert_eq!(told, [(2, 16, "header_bytes = 10KiB"), (3, 10, "name = \"x"), (4, 6, "[node")], "{mistakes}");
    assert!(mistakes.to_string().contains("the keys are checked once its syntax is right"));
}

#[test]
fn one_slip_makes_one_mistake_of_syntax_in_its_line() {
    let mistakes = Config::parse("a = [1 2 3 = = 4]\n").unwrap_err();
    assert_eq!(mistakes.count(), 1, "{mistakes}");
}

#[test]
fn a_key_that_is_there_twice_is_a_mistake() {
    let mistakes = Config::parse(&format!("{SHORTEST}[node]\nname = \"a\"\nname = \"b\"\n")).unwrap_err();
    assert!(mistakes.to_string().contains("line 5, column 1: duplicate key"), "{mistakes}");
}

#[test]
fn unknown_keys_are_told_with_what_was_meant() {
    let text =
        format!("{SHORTEST}protocl = \"http\"\n[limit]\n[limits.htp2]\n[node]\nheader_bytes = 5\nxyz = 1\n");
    let mistakes = Config::parse(&text).unwrap_err();
    let told: Vec<(&str, &str)> =
        mistakes.kept().iter().map(|one| (one.path.as_str(), one.problem.as_str())).collect();
    let expected = [
        ("listen[0].protocl", "is unknown; did you mean listen[0].protocol?"),
        ("limit", "is unknown; did you mean limits?"),
        ("limits.htp2", "is unknown; did you mean limits.http2?"),
        ("node.header_bytes", "is unknown; did you mean limits.header_bytes?"),
        ("node.xyz", "is unknown"),
    ];
    assert_eq!(told, expected);
    assert_eq!(mistakes.kept()[4].allowed, "the keys of node: cores, name, state");
}

#[test]
fn a_value_where_a_table_belongs_and_the_other_way_round() {
    for (text, path, problem) in [
        ("limits = 5\n", "limits", "is a whole number"),
        ("limits = { http2 = [] }\n", "limits.http2", "is a list"),
        ("node = { name = {} }\n", "node.name", "is a table"),
        ("routes = {}\n", "routes", "is a table"),
        ("routes = [1]\n", "routes[0]", "is a whole number"),
        ("routes = [{ path = \"/\", respond = \"hello\" }]\n", "routes[0].respond", "is a text"),
        ("tls = { certificates = \"a.pem\" }\n", "tls.certificates", "is a text"),
    ] {
        let mistakes = Config::parse(&format!("{text}{SHORTEST}")).unwrap_err();
        let [mistake] = mistakes.kept() else { panic!("{text}{mistakes}") };
        assert_eq!((mistake.path.as_str(), mistake.problem.as_str()), (path, problem));
    }
}

#[test]
fn a_file_without_listeners_is_refused_once() {
    for text in ["", "listen = []\n", "# nothing\n"] {
        let mistakes = Config::parse(text).unwrap_err();
        let [mistake] = mistakes.kept() else { panic!("{mistakes}") };
        assert_eq!((mistake.path.as_str(), mistake.line), ("listen", 1), "{mistake}");
    }
    let wrong = Config::parse("listen = \"0.0.0.0:80\"\n").unwrap_err();
    assert_eq!(wrong.count(), 1, "{wrong}");
}

#[test]
fn two_listeners_cannot_have_one_address() {
    let two = |a: &str, b: &str| {
        Config::parse(&format!("listen = [{{ address = \"{a}\" }}, {{ address = \"{b}\" }}]\n"))
    };
    let mistakes = two("0.0.0.0:80", "0.0.0.0:80").unwrap_err();
    assert_eq!(mistakes.kept()[0].path, "listen[1].address");
    for (a, b) in [("0.0.0.0:80", "[::]:80"), ("0.0.0.0:80", "0.0.0.0:81"), ("127.0.0.1:0", "127.0.0.1:0")] {
        assert!(two(a, b).is_ok(), "{a} {b}");
    }
}

#[test]
fn the_admin_address_is_no_listeners() {
    for (listen, admin, fine) in [
        ("0.0.0.0:9090", "127.0.0.1:9090", false),
        ("127.0.0.1:9090", "127.0.0.1:9090", false),
        ("[::]:9090", "[::1]:9090", false),
        ("[::]:9090", "127.0.0.1:9090", true),
        ("0.0.0.0:9091", "127.0.0.1:9090", true),
        ("127.0.0.2:9090", "127.0.0.1:9090", true),
        ("127.0.0.1:0", "127.0.0.1:0", true),
    ] {
        let text = format!("[admin]\nlisten = \"{admin}\"\n[[listen]]\naddress = \"{listen}\"\n");
        let verdict = Config::parse(&text);
        assert_eq!(verdict.is_ok(), fine, "{listen} {admin}");
        assert!(verdict.err().is_none_or(|mistakes| mistakes.kept()[0].path == "admin.listen"));
    }
    let alone =
        Config::parse("admin.listen = \"here\"\n[[listen]]\naddress = \"0.0.0.0:9090\"\n").unwrap_err();
    assert_eq!(alone.count(), 1, "a stand-in for a wrong address is not blamed as well: {alone}");
    let by_default = Config::parse("[[listen]]\naddress = \"0.0.0.0:9090\"\n").unwrap_err();
    let told = "admin.listen = \"127.0.0.1:9090\" (the default) is taken by the listener 0.0.0.0:9090";
    assert!(by_default.to_string().contains(told), "{by_default}");
}

#[test]
fn the_keyring_has_room_for_the_rotations_of_a_lifetime() {
    let tls = |lifetime: &str, rotation: &str| {
        let times = format!("ticket_lifetime = \"{lifetime}\"\nticket_rotation = \"{rotation}\"\n");
        Config::parse(&format!("{SHORTEST}[tls]\n{times}"))
    };
    assert!(tls("30h", "1h").is_ok());
    let mistakes = tls("31h", "1h").unwrap_err();
    assert_eq!(mistakes.kept()[0].path, "tls.ticket_rotation");
    let alone = tls("31", "1m").unwrap_err();
    assert_eq!(alone.count(), 1, "a stand-in for a wrong lifetime is not blamed as well: {alone}");
}

#[test]
fn a_route_has_exactly_one_action() {
    let route = |actions: &str| Config::parse(&format!("{SHORTEST}[[routes]]\npath = \"/\"\n{actions}"));
    let none = route("").unwrap_err();
    assert_eq!(
        (none.kept()[0].path.as_str(), none.kept()[0].problem.as_str()),
        ("routes[0]", "has no action")
    );
    let two = route("echo = {}\nrespond = { status = 1 }\n").unwrap_err();
    let told: Vec<(&str, &str)> =
        two.kept().iter().map(|one| (one.path.as_str(), one.problem.as_str())).collect();
    let expected =
        [("routes[0]", "has 2 actions (respond, echo)"), ("routes[0].respond.status", "is too small")];
    assert_eq!(told, expected);
}

#[test]
fn only_short_answers_cross_cores() {
    for (action, fine) in [
        ("respond = {}", true),
        ("delay = { time = \"1s\" }", true),
        ("echo = {}", false),
        ("stream = { bytes = 1 }", false),
        ("websocket = {}", false),
    ] {
        let verdict = Config::parse(&format!("{SHORTEST}[[routes]]\npath = \"/\"\ncore = 0\n{action}\n"));
        assert_eq!(verdict.is_ok(), fine, "{action}");
        assert!(verdict.err().is_none_or(|mistakes| mistakes.kept()[0].path == "routes[0].core"));
    }
}

#[test]
fn a_route_cannot_name_a_core_that_is_not_there() {
    for (cores, core, fine) in
        [("2", 1, true), ("2", 2, false), ("[8, 9]", 1, true), ("[8, 9]", 8, false), ("\"auto\"", 255, true)]
    {
        let text = format!(
            "node.cores = {cores}\n{SHORTEST}[[routes]]\npath = \"/\"\ncore = {core}\nrespond = {{}}\n"
        );
        assert_eq!(Config::parse(&text).is_ok(), fine, "{cores} {core}");
    }
}

#[test]
fn a_host_cannot_have_a_core_that_is_not_there() {
    for (cores, core, fine) in
        [("2", 1, true), ("2", 2, false), ("[8, 9]", 8, false), ("\"auto\"", 255, true)]
    {
        let hosts = format!("[quic]\nhosts = [{{ host = \"a.example\", core = {core} }}]\n");
        let verdict = Config::parse(&format!("node.cores = {cores}\n{SHORTEST}{hosts}"));
        assert_eq!(verdict.is_ok(), fine, "{cores} {core}");
        assert!(verdict.err().is_none_or(|mistakes| mistakes.kept()[0].path == "quic.hosts[0].core"));
    }
}

#[test]
fn a_status_without_a_body_has_none() {
    for (status, body, fine) in
        [(204, "x", false), (205, "x", false), (304, "x", false), (204, "", true), (404, "x", true)]
    {
        let respond = format!("respond = {{ status = {status}, body = \"{body}\" }}\n");
        let verdict = Config::parse(&format!("{SHORTEST}[[routes]]\npath = \"/\"\n{respond}"));
        assert_eq!(verdict.is_ok(), fine, "{respond}");
        assert!(verdict.err().is_none_or(|mistakes| mistakes.kept()[0].path == "routes[0].respond.body"));
    }
}

#[test]
fn lists_of_tables_end_at_their_bound() {
    for (table, entry) in [
        ("routes", "{ path = \"/\", echo = {} }"),
        ("tls.certificates", "{ chain = \"/a\", key = \"/b\" }"),
        ("listen", "{ address = \"127.0.0.1:0\" }"),
        ("quic.hosts", "{ host = \"a.example\", core = 0 }"),
    ] {
        let declared = TABLES.iter().find(|declared| declared.path == format!("{table}[]")).unwrap();
        let Entries::UpTo(max, _) = declared.entries else { panic!("{table} is a list") };
        let listener = if table == "listen" { "" } else { SHORTEST };
        let text = |entries: usize| format!("{table} = [{}]\n{listener}", vec![entry; entries].join(", "));
        assert!(Config::parse(&text(max)).is_ok(), "{table}");
        let mistakes = Config::parse(&text(max + 1)).unwrap_err();
        assert_eq!((mistakes.count(), mistakes.kept()[0].path.as_str()), (1, table), "{mistakes}");
    }
}

#[test]
fn a_text_beyond_the_bound_is_not_even_read() {
    let filled = |bytes: usize| format!("{SHORTEST}#{}", "x".repeat(bytes - SHORTEST.len() - 1));
    assert!(Config::parse(&filled(TEXT_BYTES_MAX)).is_ok());
    let mistakes = Config::parse(&filled(TEXT_BYTES_MAX + 1)).unwrap_err();
    assert_eq!(mistakes.kept()[0].problem, "the text is too long");
}

#[test]
fn a_million_mistakes_cost_no_more_than_fifty() {
    let text: String = (0..100_000).map(|number| format!("unknown{number} = 1\n")).collect();
    let mistakes = Config::parse(&text).unwrap_err();
    assert_eq!((mistakes.kept().len(), mistakes.count()), (MISTAKES_MAX, 100_001));
}

#[test]
fn deep_nesting_is_refused_without_deep_recursion() {
    for text in [
        "a=".to_owned() + &"[".repeat(100_000),
        "a=".to_owned() + &"{a=".repeat(100_000),
        "a.".repeat(100_000),
    ] {
        fuzz_logic(text.as_bytes());
        assert!(Config::parse(&text).is_err());
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        fuzz_logic(text.as_bytes());
    }

    #[test]
    fn no_bytes_panic(data: Vec<u8>) {
        fuzz_logic(&data);
    }

    /// Near-misses reach deeper than noise: pieces of a right file are cut out, doubled and replaced.
    #[test]
    fn no_damaged_file_panics(cuts in prop::collection::vec((any::<Index>(), 0usize..12, ".{0,6}"), 1..6)) {
        let mut text = EVERY_KEY.to_owned();
        for (start, length, replacement) in cuts {
            let start = text.floor_char_boundary(start.index(text.len() + 1));
            let end = text.ceil_char_boundary((start + length).min(text.len()));
            text.replace_range(start..end, &replacement);
        }
        fuzz_logic(text.as_bytes());
    }

    /// Any declared key with any kind of value gives a configuration or a reason.
    #[test]
    fn no_value_at_a_known_key_panics(pairs in prop::collection::vec((0..KEYS.len(), any_value()), 1..8)) {
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(key, value)| (KEYS[*key].path(), value.as_str())).collect();
        fuzz_logic(with_all(EVERY_KEY, &pairs).as_bytes());
    }
}

/// Values of every kind, right and wrong.
fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>()
            .prop_filter("TOML writes them otherwise", |number| number.is_finite())
            .prop_map(|n| format!("{n:?}")),
        any::<String>().prop_map(|text| Value::String(text).to_string()),
        "[0-9]{0,20}(KiB|MiB|GiB|MB|ms|s|m|h|)".prop_map(|text| format!("\"{text}\"")),
        select(KEYS.iter().flat_map(|key| key.edges().accepted).collect::<Vec<_>>()),
        select(KEYS.iter().flat_map(|key| key.edges().refused).collect::<Vec<_>>()),
    ]
}

/// `text` with the key of `path` set to `value`, in the first entry of each list that has what the path needs.
fn with(text: &str, path: &str, value: &str) -> String {
    with_all(text, &[(path, value)])
}

/// `text` with each of these keys set. The values go in as text, since TOML allows more than `Value` can hold (an
/// integer of 200 bits): first a mark is put at the place, then the mark is replaced.
fn with_all(text: &str, pairs: &[(&str, &str)]) -> String {
    let mut document: Value = toml::from_str(text).unwrap();
    for (index, (path, _)) in pairs.iter().enumerate() {
        if let Some((table, name)) = place(&mut document, path) {
            table.insert(name, Value::String(format!("@{index}@")));
        }
    }
    let marked = toml::to_string(&document).unwrap();
    pairs
        .iter()
        .enumerate()
        .fold(marked, |text, (index, (_, value))| text.replace(&format!("\"@{index}@\""), value))
}

/// `text` without the key of `path`.
fn without(text: &str, path: &str) -> String {
    let mut document: Value = toml::from_str(text).unwrap();
    let (table, name) = place(&mut document, path).unwrap();
    table.remove(&name).unwrap();
    toml::to_string(&document).unwrap()
}

/// The table that holds (or could hold) the key of `path`, and the key's name. Tables on the way are made; of a list,
/// the first entry that has the rest of the path is taken, else the first that has its first step.
fn place<'v>(document: &'v mut Value, path: &str) -> Option<(&'v mut toml::Table, String)> {
    let Some((step, rest)) = path.split_once('.') else {
        return document.as_table_mut().map(|table| (table, path.to_owned()));
    };
    let table = document.as_table_mut()?;
    let Some(list) = step.strip_suffix("[]") else {
        return place(table.entry(step).or_insert_with(|| Value::Table(toml::Table::new())), rest);
    };
    let entries = table.get_mut(list)?.as_array_mut()?;
    let first_step = rest.split('.').next().unwrap_or(rest);
    let chosen = entries.iter().position(|entry| entry.get(first_step).is_some()).unwrap_or(0);
    place(entries.get_mut(chosen)?, rest)
}

/// The declared form of a path in a document: `listen[1].address` is `listen[].address`.
fn pattern_of(path: &str) -> String {
    let digitless = |part: &str| {
        if part.bytes().all(|byte| byte.is_ascii_digit()) { String::new() } else { part.to_owned() }
    };
    let parts: Vec<String> = path
        .split('[')
        .map(|part| match part.split_once(']') {
            Some((index, rest)) => format!("{}]{rest}", digitless(index)),
            None => part.to_owned(),
        })
        .collect();
    parts.join("[")
}
