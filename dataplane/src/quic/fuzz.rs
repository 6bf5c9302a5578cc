//! What a fuzzer calls: any datagrams at an endpoint's state machine and at its first flights, without sockets and with a
//! clock of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use berth_steer::cid::{Destination, Generation};
use bytes::BytesMut;
use quinn_proto::{Connection, ConnectionHandle, DatagramEvent, Incoming};

use super::endpoint::{Arrived, Settings, destination_id, machine};
use super::first_flight::{FirstFlights, HOLD, Hosts, NoHomes, Rules, Verdict, read_unsealed};
use super::keys::QuicKeys;
use crate::config::{Config, ConnectionIds, HostRule, Limits, Quic};
use crate::keyring::{Keyring, RootSecret, Schedule};

/// Everything that stays the same from input to input.
struct Site {
    settings: Settings,
    limits: Limits,
    here: Destination,
}

static SITE: LazyLock<Site> = LazyLock::new(|| {
    let ring = Keyring::new(0, RootSecret::new([1; 32]));
    let hour = Duration::from_secs(3600);
    let schedule = Schedule::new(hour, 2 * hour).expect("a root is accepted for longer than it is current");
    let keys = Arc::new(QuicKeys::new(&ring, &schedule, ConnectionIds::Encrypted, 0));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a name is given");
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .expect("the key is that of the certificate");
    let text = "[[listen]]\naddress = \"127.0.0.1:0\"\nprotocol = \"https\"\n";
    let limits = Config::parse(text).map(|config| config.limits).expect("a listener is enough");
    let config = Quic {
        server: 7,
        connection_ids: ConnectionIds::Encrypted,
        connection_id_lifetime: Duration::from_secs(600),
        hosts: vec![HostRule { host: "*".to_owned(), core: 1 }],
    };
    let hosts = Hosts::new(&config.hosts, 2).expect("the rule is right");
    let rules = Arc::new(Rules::new(hosts, Arc::new(NoHomes)));
    let generation = Generation::new(0).expect("0 is a generation");
    let here = Destination { server: 7, core: 0, generation };
    let settings = Settings { keys, tls: Arc::new(tls), cores: 2, generation, config, rules };
    Site { settings, limits, here }
});

/// Datagrams, each after a byte that says from which port, whether strangers are retried, and whether time passes, and
/// two that say its length. Panics if an answer to a stranger is longer than what it answers, or if a first flight loses
/// a datagram.
pub fn fuzz_logic(mut data: &[u8]) {
    let site = &*SITE;
    let mut endpoint = machine(&site.settings, site.here, &Arc::default(), &site.limits)
        .expect("the configuration is valid");
    let mut connections = HashMap::new();
    let mut screen = Screen::new(site);
    let mut now = Instant::now();
    while let Some(([how, high, low], rest)) = data.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (datagram, rest) = rest.split_at(length);
        data = rest;
        let from = SocketAddr::from(([127, 0, 0, 1], 1000 + u16::from(how & 3)));
        if let Some(id) = destination_id(datagram) {
            let _ = site.settings.keys.destination(id);
        }
        screen.take(now, from, datagram);
        let mut reply = Vec::new();
        let event = endpoint.handle(now, from, None, None, BytesMut::from(datagram), &mut reply);
        let answer = match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(connection) = connections.get_mut(&handle) {
                    Connection::handle_event(connection, event);
                }
                0
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                meet(&mut endpoint, &mut connections, incoming, how & 4 != 0, now)
            }
            Some(DatagramEvent::Response(transmit)) => transmit.size,
            None => 0,
        };
        assert!(answer <= length, "an answer of {answer} bytes for {length}");
        if how & 8 != 0 {
            now += Duration::from_secs(1);
        }
        connections.retain(|handle, connection| drive(&mut endpoint, *handle, connection, now));
    }
    screen.finish(now);
}

/// First flights, and how many datagrams went in and have not come out.
struct Screen {
    flights: FirstFlights,
    inside: usize,
}

impl Screen {
    fn new(site: &Site) -> Self {
        let rules = Arc::clone(&site.settings.rules);
        Self { flights: FirstFlights::new(rules, 0, site.limits.handshake_timeout), inside: 0 }
    }

    fn take(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        // No fuzzer finds a seal that holds: so the frames are read without one as well.
        read_unsealed(datagram);
        self.inside += 1;
        let verdict = self.flights.handle(now, Arrived { from, local: None, ecn: 0, bytes: datagram.into() });
        self.count(&verdict);
        while let Some(verdict) = self.flights.handle_timeout(now) {
            self.count(&verdict);
        }
    }

    fn count(&mut self, verdict: &Verdict) {
        self.inside -= match verdict {
            Verdict::Held => 0,
            Verdict::Here(flight, _) | Verdict::HandOver(_, flight) => flight.len(),
            Verdict::Forward(..) => 1,
        };
    }

    fn finish(mut self, now: Instant) {
        while let Some(verdict) = self.flights.handle_timeout(now + HOLD) {
            self.count(&verdict);
        }
        assert_eq!(self.inside, 0, "no datagram is lost");
    }
}

/// Retries or accepts; says how long the answer is.
fn meet(
    endpoint: &mut quinn_proto::Endpoint,
    connections: &mut HashMap<ConnectionHandle, Connection>,
    incoming: Incoming,
    retry: bool,
    now: Instant,
) -> usize {
    let mut reply = Vec::new();
    if retry && incoming.may_retry() {
        return endpoint.retry(incoming, &mut reply).map_or(0, |transmit| transmit.size);
    }
    match endpoint.accept(incoming, now, &mut reply, None) {
        Ok((handle, connection)) => {
            connections.insert(handle, connection);
            0
        }
        Err(error) => error.response.map_or(0, |transmit| transmit.size),
    }
}

/// Does all that a connection wants done; false when it is over.
fn drive(
    endpoint: &mut quinn_proto::Endpoint,
    handle: ConnectionHandle,
    connection: &mut Connection,
    now: Instant,
) -> bool {
    if connection.poll_timeout().is_some_and(|at| at <= now) {
        connection.handle_timeout(now);
    }
    while connection.poll().is_some() {}
    let mut train = Vec::new();
    while connection.poll_transmit(now, 10, &mut train).is_some() {
        train.clear();
    }
    while let Some(event) = connection.poll_endpoint_events() {
        if let Some(event) = endpoint.handle_event(handle, event) {
            connection.handle_event(event);
        }
    }
    !connection.is_drained()
}
