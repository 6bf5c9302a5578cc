//! The second stage: tables become a [`Config`], or a list of everything that is wrong with them.
//!
//! Invariants: every declared key is read exactly once; what keys mean to each other is checked here and only when
//! each of them is right alone, so that one slip does not make two mistakes.
//!
//! Left to others: the syntax and unknown keys (`document`), single values (`rules`).

use std::net::SocketAddr;

use http::StatusCode;

use super::document::{self, Section};
use super::keys;
use super::mistakes::{Mistakes, Remedy, Report, Scope};
use super::rules::Count;
use super::{
    Action, Admin, Agent, CertificateFiles, Config, Cores, Debugging, HostRule, Http2Limits, Http3Limits,
    Limits, Listener, Log, Node, Objects, Quic, RouteRule, Runtime, Shutdown, Steering, Tls, WebSocketLimits,
    Workers,
};

/// Reads and checks `text`.
pub(super) fn parse(text: &str) -> Result<Config, Mistakes> {
    let document = document::parse(text)?;
    let report = Report::new(text);
    let config = config(&Section::root(&document, &report), &report);
    match report.close(Scope::Everything) {
        None => Ok(config),
        Some(mistakes) => Err(mistakes),
    }
}

fn config(root: &Section<'_>, report: &Report<'_>) -> Config {
    let node = node(&root.table("node"));
    let listeners = listeners(root, report);
    let admin = admin(&root.table("admin"), &listeners, report);
    let routes = routes(root, &node.cores);
    let quic = quic(&root.table("quic"), &node.cores);
    Config {
        node,
        runtime: runtime(&root.table("runtime")),
        listeners,
        tls: tls(&root.table("tls"), report),
        quic,
        agent: agent(&root.table("agent")),
        steering: steering(&root.table("steering")),
        limits: limits(&root.table("limits")),
        admin,
        log: log(&root.table("log")),
        debug: Debugging { clients: root.table("debug").read(&keys::DEBUG_CLIENTS) },
        shutdown: Shutdown { drain: root.table("shutdown").read(&keys::SHUTDOWN_DRAIN) },
        workers: workers(&root.table("workers")),
        objects: objects(&root.table("objects")),
        routes,
    }
}

fn node(table: &Section<'_>) -> Node {
    Node {
        name: table.read(&keys::NODE_NAME),
        state: table.read(&keys::NODE_STATE),
        cores: table.read(&keys::NODE_CORES),
    }
}

fn runtime(table: &Section<'_>) -> Runtime {
    Runtime {
        driver: table.read(&keys::RUNTIME_DRIVER),
        ring_entries: table.read(&keys::RUNTIME_RING_ENTRIES),
        receive_buffer_bytes: table.read(&keys::RUNTIME_RECEIVE_BUFFER),
        receive_buffers_max: table.read(&keys::RUNTIME_RECEIVE_BUFFERS_MAX),
        mailbox_capacity: table.read(&keys::RUNTIME_MAILBOX_CAPACITY),
        stall_after: table.read(&keys::RUNTIME_STALL_AFTER),
    }
}

fn workers(table: &Section<'_>) -> Workers {
    Workers {
        instances: table.read(&keys::WORKERS_INSTANCES),
        stacks: table.read(&keys::WORKERS_STACKS),
        code_bytes: table.read(&keys::WORKERS_CODE_BYTES),
        compile_memory: table.read(&keys::WORKERS_COMPILE_MEMORY),
        compile_time: table.read(&keys::WORKERS_COMPILE_TIME),
    }
}

fn objects(table: &Section<'_>) -> Objects {
    Objects { resident: table.read(&keys::OBJECTS_RESIDENT), idle: table.read(&keys::OBJECTS_IDLE) }
}

fn listeners(root: &Section<'_>, report: &Report<'_>) -> Vec<Listener> {
    let tables = root.list(&keys::LISTEN);
    if tables.is_empty() && !report.blames("listen") {
        let allowed = "at least one listener".to_owned();
        let remedy =
            Remedy { allowed, example: "[[listen]] and below it address = \"0.0.0.0:8080\"".to_owned() };
        root.blame_list(&keys::LISTEN, remedy, "is missing: nobody could reach the node");
    }
    let mut listeners: Vec<Listener> = Vec::new();
    for table in tables {
        let address = table.require(&keys::LISTEN_ADDRESS);
        let protocol = table.read(&keys::LISTEN_PROTOCOL);
        let proxy_from = table.read(&keys::LISTEN_PROXY_PROTOCOL);
        let http3 = table.read(&keys::LISTEN_HTTP3);
        let Some(address) = address else { continue };
        if listeners.iter().any(|other| is_same(other.address, address)) {
            let key = &keys::LISTEN_ADDRESS;
            table.blame(key, key.remedy(), "is the address of another listener too");
        }
        listeners.push(Listener { address, protocol, proxy_from, http3 });
    }
    listeners
}

fn admin(table: &Section<'_>, listeners: &[Listener], report: &Report<'_>) -> Admin {
    let key = &keys::ADMIN_LISTEN;
    let listen = table.read(key);
    let taken_by = listeners.iter().find(|listener| overlaps(listener.address, listen));
    if let Some(listener) = taken_by
        && !report.blames("admin")
    {
        table.blame(key, key.remedy(), format!("is taken by the listener {}", listener.address));
    }
    Admin { listen }
}

/// Whether both would be the same socket. Port 0 is a fresh port each time.
fn is_same(a: SocketAddr, b: SocketAddr) -> bool {
    a == b && a.port() != 0
}

/// Whether a connection to one could arrive at the other: the same port, and the same address or all of the family.
fn overlaps(a: SocketAddr, b: SocketAddr) -> bool {
    let all_of_family = a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified());
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || all_of_family)
}

fn tls(table: &Section<'_>, report: &Report<'_>) -> Tls {
    let certificates = table.list(&keys::CERTIFICATES).iter().filter_map(certificate).collect();
    let ticket_lifetime = table.read(&keys::TLS_TICKET_LIFETIME);
    let ticket_rotation = table.read(&keys::TLS_TICKET_ROTATION);
    let rotations = ticket_lifetime.as_secs() / ticket_rotation.as_secs();
    if rotations > TICKET_ROTATIONS_MAX && !report.blames("tls") {
        let key = &keys::TLS_TICKET_ROTATION;
        let allowed = format!("at most {TICKET_ROTATIONS_MAX} rotations in one ticket_lifetime");
        let problem =
            format!("is {rotations} rotations in one ticket_lifetime, more keys than the keyring holds");
        table.blame(key, Remedy { allowed, ..key.remedy() }, problem);
    }
    Tls { certificates, ticket_lifetime, ticket_rotation }
}

/// The keyring holds 32 keys: the current one, those of the rotations within a lifetime, and one that is about to go.
const TICKET_ROTATIONS_MAX: u64 = 30;

fn certificate(table: &Section<'_>) -> Option<CertificateFiles> {
    let (chain, key) = (table.require(&keys::CERTIFICATE_CHAIN), table.require(&keys::CERTIFICATE_KEY));
    Some(CertificateFiles { chain: chain?, key: key? })
}

fn limits(table: &Section<'_>) -> Limits {
    Limits {
        header_bytes: table.read(&keys::HEADER_BYTES),
        header_count: table.read(&keys::HEADER_COUNT),
        body_bytes: table.read(&keys::BODY_BYTES),
        header_timeout: table.read(&keys::HEADER_TIMEOUT),
        body_timeout: table.read(&keys::BODY_TIMEOUT),
        send_timeout: table.read(&keys::SEND_TIMEOUT),
        idle_timeout: table.read(&keys::IDLE_TIMEOUT),
        connections: table.read(&keys::CONNECTIONS),
        connections_per_address: table.read(&keys::CONNECTIONS_PER_ADDRESS),
        handshakes: table.read(&keys::HANDSHAKES),
        handshake_timeout: table.read(&keys::HANDSHAKE_TIMEOUT),
        http2: http2_limits(&table.table("http2")),
        http3: http3_limits(&table.table("http3")),
        websocket: websocket_limits(&table.table("websocket")),
    }
}

fn http2_limits(table: &Section<'_>) -> Http2Limits {
    Http2Limits {
        streams: table.read(&keys::HTTP2_STREAMS),
        resets: table.read(&keys::HTTP2_RESETS),
        settings: table.read(&keys::HTTP2_SETTINGS),
        pings: table.read(&keys::HTTP2_PINGS),
        priorities: table.read(&keys::HTTP2_PRIORITIES),
        window_updates: table.read(&keys::HTTP2_WINDOW_UPDATES),
        empty_frames: table.read(&keys::HTTP2_EMPTY_FRAMES),
        continuations: table.read(&keys::HTTP2_CONTINUATIONS),
    }
}

fn http3_limits(table: &Section<'_>) -> Http3Limits {
    Http3Limits {
        streams: table.read(&keys::HTTP3_STREAMS),
        resets: table.read(&keys::HTTP3_RESETS),
        retry_above: table.read(&keys::HTTP3_RETRY_ABOVE),
    }
}

fn quic(table: &Section<'_>, cores: &Cores) -> Quic {
    Quic {
        server: table.read(&keys::QUIC_SERVER),
        connection_ids: table.read(&keys::QUIC_CONNECTION_IDS),
        connection_id_lifetime: table.read(&keys::QUIC_CONNECTION_ID_LIFETIME),
        hosts: table.list(&keys::QUIC_HOSTS).iter().filter_map(|table| host_rule(table, cores)).collect(),
    }
}

fn agent(table: &Section<'_>) -> Agent {
    Agent {
        socket: table.optional(&keys::AGENT_SOCKET),
        user: table.optional(&keys::AGENT_USER),
        pins: table.read(&keys::AGENT_PINS),
    }
}

fn steering(table: &Section<'_>) -> Steering {
    Steering {
        interfaces: table.read(&keys::STEERING_INTERFACES),
        xdp: table.read(&keys::STEERING_XDP),
        addresses: table.read(&keys::STEERING_ADDRESSES),
    }
}

fn host_rule(table: &Section<'_>, cores: &Cores) -> Option<HostRule> {
    let (host, core) = (table.require(&keys::QUIC_HOST), table.require(&keys::QUIC_HOST_CORE));
    let (host, core) = (host?, core?);
    check_core_exists(table, &keys::QUIC_HOST_CORE, core, cores);
    Some(HostRule { host, core })
}

fn websocket_limits(table: &Section<'_>) -> WebSocketLimits {
    WebSocketLimits {
        message_bytes: table.read(&keys::WEBSOCKET_MESSAGE_BYTES),
        frame_bytes: table.read(&keys::WEBSOCKET_FRAME_BYTES),
    }
}

fn log(table: &Section<'_>) -> Log {
    Log {
        level: table.read(&keys::LOG_LEVEL),
        format: table.read(&keys::LOG_FORMAT),
        access: table.read(&keys::LOG_ACCESS),
    }
}

fn routes(root: &Section<'_>, cores: &Cores) -> Vec<RouteRule> {
    root.list(&keys::ROUTES).iter().filter_map(|table| route(table, cores)).collect()
}

fn route(table: &Section<'_>, cores: &Cores) -> Option<RouteRule> {
    let host = table.read(&keys::ROUTE_HOST);
    let path = table.require(&keys::ROUTE_PATH);
    let action = only_action(table);
    let core = table.optional(&keys::ROUTE_CORE);
    let (path, action) = (path?, action?);
    if let Some(core) = core {
        check_core(table, &action);
        check_core_exists(table, &keys::ROUTE_CORE, core, cores);
    }
    Some(RouteRule { host, path, action, core })
}

/// The one action of a route. All that are there are read, so that their mistakes show as well.
fn only_action(table: &Section<'_>) -> Option<Action> {
    let present: Vec<&str> = ACTIONS.into_iter().filter(|name| table.has(name)).collect();
    let mut actions: Vec<Option<Action>> = present.iter().map(|name| action(table, name)).collect();
    let problem = match present.as_slice() {
        [_] => return actions.pop().flatten(),
        [] => "has no action".to_owned(),
        many => format!("has {} actions ({})", many.len(), many.join(", ")),
    };
    let allowed = format!("exactly one of {}", ACTIONS.join(", "));
    table.blame_table(Remedy { allowed, example: "respond = { body = \"hello\\n\" }".to_owned() }, problem);
    None
}

/// The actions that a route can have.
const ACTIONS: [&str; 5] = ["respond", "echo", "stream", "delay", "websocket"];

fn action(table: &Section<'_>, name: &str) -> Option<Action> {
    match name {
        "respond" => Some(respond(&table.table("respond"))),
        "echo" => table.optional(&keys::ROUTE_ECHO).map(|()| Action::Echo),
        "stream" => table.table("stream").require(&keys::STREAM_BYTES).map(|bytes| Action::Stream { bytes }),
        "delay" => delay(&table.table("delay")),
        "websocket" => table.optional(&keys::ROUTE_WEBSOCKET).map(|()| Action::WebSocket),
        _ => None,
    }
}

fn respond(table: &Section<'_>) -> Action {
    let status = table.read(&keys::RESPOND_STATUS);
    let body = table.read(&keys::RESPOND_BODY);
    let headers = table.read(&keys::RESPOND_HEADERS);
    let bodiless = [StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::NOT_MODIFIED];
    if !body.is_empty() && bodiless.contains(&status) {
        let problem = format!("stands beside the status {}, whose responses have no body", status.as_u16());
        let remedy = Remedy { allowed: "no body".to_owned(), example: "body = \"\"".to_owned() };
        table.blame(&keys::RESPOND_BODY, remedy, problem);
    }
    Action::Respond { status, body, headers }
}

fn delay(table: &Section<'_>) -> Option<Action> {
    let (time, body) = (table.require(&keys::DELAY_TIME), table.read(&keys::DELAY_BODY));
    Some(Action::Delay { time: time?, body })
}

/// Whether the action of a route can be another core's.
fn check_core(table: &Section<'_>, action: &Action) {
    let key = &keys::ROUTE_CORE;
    match action {
        Action::Respond { .. } | Action::Delay { .. } => {}
        Action::Echo | Action::Stream { .. } | Action::WebSocket => {
            let allowed = "a core beside respond or delay only".to_owned();
            table.blame(
                key,
                Remedy { allowed, ..key.remedy() },
                "stands beside an action whose body cannot cross cores",
            );
        }
    }
}

/// Whether `node.cores` allows a core at all; with "auto" the start of the node knows.
fn check_core_exists(table: &Section<'_>, key: &keys::Key<Count<u16>>, core: u16, cores: &Cores) {
    if let Some(count) = cores.count()
        && core >= count
    {
        let allowed = format!("a core from 0 to {}, as node.cores gives {count}", count - 1);
        table.blame(key, Remedy { allowed, ..key.remedy() }, "is a core that this node does not have");
    }
}
