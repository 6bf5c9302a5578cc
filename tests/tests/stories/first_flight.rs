//! Connections come to the core of their host, whichever core the kernel leads their first packets to.
//!
//! The kernel's hash over addresses and ports takes each connection to one of two cores, and half of them to the wrong one:
//! that none of many is, is a matter of 2 to the power of minus their number. The node tells on which core a handshake was
//! finished.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_tests::aioquic::h3;
use berth_tests::http3;
use berth_tests::node::{Driver, Node, PATIENCE, Plan, wait_until};
use berth_tests::on_both_drivers;
use berth_tests::relay::{Faults, Relay};
use berth_tests::s2n;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{ConnectionHandle, DatagramEvent, Event};
use rcgen::PublicKeyData;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::pki_types::CertificateDer;

use crate::browser::{served, visit};
use crate::common;

on_both_drivers!(["aioquic", "two cpus"]; connections_come_to_the_core_of_their_host,
    who_must_prove_its_address_comes_to_the_core_of_its_host);
on_both_drivers!(["two cpus"]; a_second_stack_comes_to_the_core_of_its_host,
    post_quantum_shares_in_any_order_come_to_the_core_of_their_host,
    post_quantum_shares_come_to_the_core_of_their_host_after_a_retry, a_bad_line_keeps_nobody_out);
on_both_drivers!(["chromium", "two cpus"]; a_browser_comes_to_the_core_of_its_host);

/// The hosts and their cores: the first by its name, the second by a wildcard.
const HOSTS: [&str; 2] = ["zero.example", "a.one.example"];
const RULES: &str = "[[quic.hosts]]\nhost = \"zero.example\"\ncore = 0\n\
    [[quic.hosts]]\nhost = \"*.one.example\"\ncore = 1\n";
/// A node that asks every client for a Retry.
const ALWAYS: &str = "[limits.http3]\nretry_above = 0\n";

/// A node with the rules, and what its clients trust.
struct Site {
    node: Node,
    pem: String,
    der: CertificateDer<'static>,
    /// Of its key, as Chromium wants it.
    hash: String,
}

impl Site {
    fn start(driver: Driver, more: &str) -> Self {
        let plan = Plan::new(driver, common() + RULES + more);
        let made = rcgen::generate_simple_self_signed(HOSTS.map(str::to_owned)).unwrap();
        let (chain, key) = (plan.folder().join("site.pem"), plan.folder().join("site.key"));
        std::fs::write(&chain, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let files =
            format!("[[tls.certificates]]\nchain = \"{}\"\nkey = \"{}\"\n", chain.display(), key.display());
        let hash = STANDARD.encode(digest(&SHA256, &made.signing_key.subject_public_key_info()));
        let node = plan.and(&files).cores(2).start();
        Self { node, pem: made.cert.pem(), der: made.cert.der().clone(), hash }
    }

    /// Waits until so many handshakes are over, and looks on which cores.
    fn assert_handshakes(&self, on_cores: [u64; 2]) {
        let all = on_cores.iter().sum();
        wait_until("the handshakes are over", || self.node.number("quic_handshakes") >= all);
        assert_eq!(self.node.numbers("quic_handshakes"), on_cores);
    }

    /// The end of a story in which half of the connections came to the wrong core, and nothing went wrong.
    fn finish(self) {
        let node = self.node;
        let [flights, datagrams] =
            ["quic_flights_handed_over", "quic_forwarded"].map(|name| node.numbers(name));
        println!("handed over {flights:?} first flights, {datagrams:?} datagrams");
        assert!(flights.iter().all(|core| *core > 0), "each core had some of the other: {flights:?}");
        for (there, back) in [("quic_forwarded", "quic_taken_over"), ("quic_tossed", "quic_caught")] {
            wait_until("what was sent across has arrived", || node.number(there) == node.number(back));
        }
        for name in [
            "quic_flights_kept",
            "quic_toss_full",
            "quic_handshake_failures",
            "quic_protocol_errors",
            "limit_quic_flights_held",
            "limit_quic_flight_bytes",
            "limit_quic_flights_remembered",
        ] {
            assert_eq!(node.number(name), 0, "{name}");
        }
        node.finish();
    }
}

/// Of each host. That all of them come to the right core by themselves is once in 65,536 runs.
const CONNECTIONS: u64 = 16;

fn connect_with_aioquic(site: &Site) {
    for (host, so_far) in HOSTS.iter().zip([[CONNECTIONS, 0], [CONNECTIONS, CONNECTIONS]]) {
        for _ in 0..CONNECTIONS {
            let said = h3("get", site.node.listener(1), &["--server-name", host]);
            assert_eq!(said["answers"][0]["status"], 200, "{said}");
        }
        site.assert_handshakes(so_far);
    }
}

fn connections_come_to_the_core_of_their_host(driver: Driver) {
    let site = Site::start(driver, "");
    connect_with_aioquic(&site);
    // Whose host has no rule is accepted where it comes.
    let said = h3("get", site.node.listener(1), &["--server-name", "nobody.example"]);
    assert_eq!(said["answers"][0]["status"], 200, "{said}");
    assert_eq!(site.node.number("quic_handshakes"), 2 * CONNECTIONS + 1);
    site.finish();
}

/// The Retry names the core that sent it, and that core hands over what comes with its token.
fn who_must_prove_its_address_comes_to_the_core_of_its_host(driver: Driver) {
    let site = Site::start(driver, ALWAYS);
    connect_with_aioquic(&site);
    assert!(site.node.number("quic_retries") >= 2 * CONNECTIONS, "everybody was asked");
    site.finish();
}

fn a_second_stack_comes_to_the_core_of_its_host(driver: Driver) {
    let site = Site::start(driver, "");
    s2n::run(async {
        for host in HOSTS {
            for _ in 0..CONNECTIONS {
                let connection = s2n::Connection::open(site.node.listener(1), host, &site.pem).await.unwrap();
                assert_eq!(connection.get("/").await.unwrap().body, b"hello\n");
                connection.close(http3::NO_ERROR).await;
            }
        }
    });
    site.assert_handshakes([CONNECTIONS, CONNECTIONS]);
    site.finish();
}

fn post_quantum_shares_in_any_order_come_to_the_core_of_their_host(driver: Driver) {
    let site = Site::start(driver, "");
    for host in HOSTS {
        for order in [Order::Forwards, Order::Backwards] {
            (0..CONNECTIONS).for_each(|_| Dialer::new(&site, host, order).shake_hands());
        }
    }
    site.assert_handshakes([2 * CONNECTIONS, 2 * CONNECTIONS]);
    assert!(site.node.number("quic_held") >= 4 * CONNECTIONS, "each had to wait for its other datagram");
    site.finish();
}

fn post_quantum_shares_come_to_the_core_of_their_host_after_a_retry(driver: Driver) {
    let site = Site::start(driver, ALWAYS);
    for host in HOSTS {
        for order in [Order::Forwards, Order::Backwards] {
            (0..CONNECTIONS / 2).for_each(|_| Dialer::new(&site, host, order).shake_hands());
        }
    }
    site.assert_handshakes([CONNECTIONS, CONNECTIONS]);
    assert!(site.node.number("quic_retries") >= 2 * CONNECTIONS, "everybody was asked");
    site.finish();
}

/// Datagrams of first flights are lost, doubled and overtaken. Where a connection comes to then depends on what is lost for
/// how long; that it comes to its end does not.
fn a_bad_line_keeps_nobody_out(driver: Driver) {
    let site = Site::start(driver, "");
    let faults = Faults {
        seed: 39,
        drop_permille: 100,
        duplicate_permille: 100,
        reorder_permille: 200,
        reorder_within: Duration::from_millis(5),
        ..Faults::default()
    };
    let relay = Relay::start(site.node.listener(1), faults).unwrap();
    std::thread::scope(|scope| {
        for host in HOSTS.iter().cycle().take(32) {
            let (site, relay) = (&site, &relay);
            scope.spawn(move || Dialer::to(relay.address(), site, host, Order::Forwards).shake_hands());
        }
    });
    let counts = relay.to_node();
    assert!(counts.dropped > 0 && counts.overtaken > 0, "a bad line: {counts:?}");
    assert_eq!(site.node.number("quic_handshakes"), 32, "nobody had to begin again");
    let node = site.node;
    println!("on the cores {:?}, of 16 each", node.numbers("quic_handshakes"));
    assert_eq!(node.number("quic_protocol_errors"), 0);
    node.finish();
}

/// In which order a client sends the datagrams that it has at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Forwards,
    Backwards,
}

/// A client of quinn-proto with post-quantum key shares.
struct Dialer {
    socket: UdpSocket,
    endpoint: quinn_proto::Endpoint,
    handle: ConnectionHandle,
    connection: quinn_proto::Connection,
    order: Order,
}

impl Dialer {
    fn new(site: &Site, host: &str, order: Order) -> Self {
        Self::to(site.node.listener(1), site, host, order)
    }

    fn to(node: SocketAddr, site: &Site, host: &str, order: Order) -> Self {
        let provider = rustls::crypto::CryptoProvider {
            kx_groups: vec![kx_group::X25519MLKEM768],
            ..default_provider()
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(site.der.clone()).unwrap();
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let config = quinn_proto::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let mut endpoint = quinn_proto::Endpoint::new(Arc::default(), None, true, None);
        let (handle, connection) = endpoint.connect(Instant::now(), config, node, host).unwrap();
        let socket = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        socket.connect(node).unwrap();
        Self { socket, endpoint, handle, connection, order }
    }

    /// Connects and takes leave.
    fn shake_hands(mut self) {
        assert_eq!(self.send(), 2, "a ClientHello with post-quantum key shares takes two datagrams");
        let began = Instant::now();
        while !self.is_confirmed() {
            assert!(began.elapsed() < PATIENCE, "the handshake comes to its end");
            self.receive();
            self.send();
        }
        self.connection.close(Instant::now(), 0u32.into(), Vec::new().into());
        self.send();
    }

    /// Whether the node has said that its side of the handshake is over too.
    fn is_confirmed(&mut self) -> bool {
        while let Some(event) = self.connection.poll() {
            assert!(!matches!(event, Event::ConnectionLost { .. }), "{event:?}");
        }
        self.connection.stats().frame_rx.handshake_done > 0
    }

    /// Sends what there is, and says how many datagrams that was.
    fn send(&mut self) -> usize {
        let mut datagrams = Vec::new();
        let mut bytes = Vec::new();
        while let Some(transmit) = self.connection.poll_transmit(Instant::now(), 1, &mut bytes) {
            datagrams.push(bytes[..transmit.size].to_vec());
            bytes.clear();
        }
        if self.order == Order::Backwards {
            datagrams.reverse();
        }
        for datagram in &datagrams {
            self.socket.send(datagram).unwrap();
        }
        datagrams.len()
    }

    /// Takes in a datagram, or what becomes due while none comes.
    fn receive(&mut self) {
        let due = self.connection.poll_timeout();
        let patience = due.map_or(PATIENCE, |due| due.saturating_duration_since(Instant::now()));
        self.socket.set_read_timeout(Some(patience.max(Duration::from_millis(1)))).unwrap();
        let mut bytes = [0; 2048];
        let received = self.socket.recv(&mut bytes);
        let now = Instant::now();
        if let Ok(length) = received {
            let (from, datagram) = (self.socket.peer_addr().unwrap(), bytes[..length].into());
            let event = self.endpoint.handle(now, from, None, None, datagram, &mut Vec::new());
            if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
                self.connection.handle_event(event);
            }
        }
        if due.is_some_and(|due| due <= now) {
            self.connection.handle_timeout(now);
        }
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(event);
            }
        }
    }
}

/// Says by which protocol it came. The script is a second request, so that the browser has measured the first.
const PAGE: &str = "<!doctype html><p id=said>nothing</p><script src=/tell.js></script>";
const TELL: &str = "said.textContent = performance.getEntriesByType('navigation')[0].nextHopProtocol;";

fn a_browser_comes_to_the_core_of_its_host(driver: Driver) {
    let page =
        served("/page", "text/html; charset=utf-8", PAGE) + &served("/tell.js", "text/javascript", TELL);
    let site = Site::start(driver, &page);
    let port = site.node.listener(1).port();
    let trust = format!("--ignore-certificate-errors-spki-list={}", site.hash);
    let names = format!("--host-resolver-rules=MAP {} 127.0.0.1, MAP {} 127.0.0.1", HOSTS[0], HOSTS[1]);
    let forced = HOSTS.map(|host| format!("{host}:{port}")).join(",");
    let forced = format!("--origin-to-force-quic-on={forced}");
    // Each visit is a browser of its own, that may open more than one connection.
    for (core, host) in HOSTS.iter().enumerate() {
        let before = site.node.numbers("quic_handshakes");
        for _ in 0..VISITS {
            let said = visit(&site.node, &[&trust, &names, &forced], &format!("https://{host}:{port}/page"));
            assert!(said.stdout.contains(">h3<"), "{}", said.all());
        }
        let after = site.node.numbers("quic_handshakes");
        let new: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
        assert!(new[core] >= VISITS && new[1 - core] == 0, "{host}: {new:?}");
    }
    assert_eq!(site.node.number("http2_connections"), 0);
    assert!(site.node.number("quic_held") >= 2 * VISITS, "its ClientHello takes more than one datagram");
    let node = site.node;
    assert_eq!(node.number("quic_protocol_errors") + node.number("quic_handshake_failures"), 0);
    node.finish();
}

/// Of a browser, which takes seconds.
const VISITS: u64 = 3;
