//! Whole handshakes between a rustls client and our configuration, in memory.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs::kx_group;
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, NamedGroup, RootCertStore, ServerConfig, ServerConnection,
};

use super::testing::{NOW, Pair, ask, exchange, trust, write_pair};
use super::*;
use crate::keyring::private_file::testing::TestFolder;
use crate::keyring::{KeyringFile, Schedule};

const HOUR: u64 = 3600;

fn schedule() -> Schedule {
    Schedule::new(Duration::from_hours(6), Duration::from_hours(12)).unwrap()
}

/// A node's TLS as after a start: certificates and keyring read from the state folder.
struct Node {
    store: Arc<CertificateStore>,
    keyring: KeyringFile,
    ticketer: Arc<Ticketer>,
    files: Vec<CertificateFiles>,
}

impl Node {
    fn start(state: &TestFolder, files: Vec<CertificateFiles>, now_s: u64) -> Self {
        let keyring = KeyringFile::open(state, now_s).unwrap().0;
        let ticketer = Arc::new(Ticketer::new(keyring.ring(), &schedule(), now_s));
        let store = Arc::new(CertificateStore::new(CertificateTable::load(&files, now_s).unwrap().0));
        Self { store, keyring, ticketer, files }
    }

    /// The configuration of one core.
    fn core(&self) -> Arc<ServerConfig> {
        server_config(self.store.clone(), self.ticketer.clone(), Alpn::Http2AndHttp1)
    }

    fn tick(&mut self, now_s: u64) {
        self.keyring.refresh(&schedule(), now_s).unwrap();
        self.ticketer.install(self.keyring.ring(), now_s);
    }
}

/// Three certificates: the default, one for a name, one for a wildcard.
struct World {
    state: TestFolder,
    pairs: [Pair; 3],
}

impl World {
    fn new() -> Self {
        let names: [&[&str]; 3] = [&["default.test", "127.0.0.1"], &["www.example.com"], &["*.example.com"]];
        Self { state: TestFolder::new(), pairs: names.map(Pair::new) }
    }

    fn start(&self) -> Node {
        let files = (0..3).map(|n| write_pair(&self.state, &format!("c{n}"), &self.pairs[n])).collect();
        Node::start(&self.state, files, NOW)
    }

    fn roots(&self) -> Arc<RootCertStore> {
        trust(&self.pairs.each_ref())
    }

    fn client(&self) -> ClientConfig {
        client_with(self.roots(), provider())
    }

    fn certificate(&self, index: usize) -> &CertificateDer<'static> {
        self.pairs[index].certificate.der()
    }
}

fn client_with(roots: Arc<RootCertStore>, provider: Arc<CryptoProvider>) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    config
}

fn connect(
    client: &ClientConfig,
    server: &Arc<ServerConfig>,
    name: &'static str,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let name = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(Arc::new(client.clone()), name).unwrap();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    exchange(&mut client, &mut server)?;
    Ok((client, server))
}

/// What kind of handshake it takes to reach `default.test`, with a question and answer to prove that it works.
fn visit(client: &ClientConfig, server: &Arc<ServerConfig>) -> HandshakeKind {
    let (mut client, mut server) = connect(client, server, "default.test").unwrap();
    ask(&mut client, &mut server);
    assert_eq!(client.handshake_kind(), server.handshake_kind());
    server.handshake_kind().unwrap()
}

#[test]
fn the_server_name_chooses_the_certificate() {
    let world = World::new();
    let core = world.start().core();
    for (name, index) in [
        ("www.example.com", 1),
        ("WWW.example.com", 1),
        ("any.example.com", 2),
        ("default.test", 0),
        ("127.0.0.1", 0),
    ] {
        let (client, _) = connect(&world.client(), &core, name).unwrap();
        assert_eq!(&client.peer_certificates().unwrap()[0], world.certificate(index), "{name}");
    }
}

#[test]
fn an_unknown_name_gets_the_default_and_the_client_judges() {
    let world = World::new();
    let core = world.start().core();
    let refused = connect(&world.client(), &core, "elsewhere.test").unwrap_err();
    assert!(
        matches!(
            refused,
            rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidForNameContext { .. })
        ),
        "{refused}"
    );
}

#[test]
fn the_server_prefers_http2_and_takes_http1() {
    let world = World::new();
    let node = world.start();
    let offer = |names: &[&str], core: &Arc<ServerConfig>| {
        let mut client = world.client();
        client.alpn_protocols = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        let (_, server) = connect(&client, core, "default.test")?;
        Ok::<_, rustls::Error>(server.alpn_protocol().map(|name| String::from_utf8(name.to_vec()).unwrap()))
    };
    assert_eq!(offer(&["http/1.1", "h2"], &node.core()).unwrap().as_deref(), Some("h2"));
    assert_eq!(offer(&["http/1.1"], &node.core()).unwrap().as_deref(), Some("http/1.1"));
    assert_eq!(offer(&[], &node.core()).unwrap(), None);
    assert_eq!(offer(&["gopher"], &node.core()).unwrap_err(), rustls::Error::NoApplicationProtocol);
    let http1 = server_config(node.store.clone(), node.ticketer.clone(), Alpn::Http1);
    assert_eq!(offer(&["h2", "http/1.1"], &http1).unwrap().as_deref(), Some("http/1.1"));
}

#[test]
fn the_client_chooses_among_our_groups() {
    let world = World::new();
    let core = world.start().core();
    let cases: [(&'static dyn SupportedKxGroup, NamedGroup); 4] = [
        (kx_group::X25519MLKEM768, NamedGroup::X25519MLKEM768),
        (kx_group::X25519, NamedGroup::X25519),
        (kx_group::SECP256R1, NamedGroup::secp256r1),
        (kx_group::SECP384R1, NamedGroup::secp384r1),
    ];
    for (group, expected) in cases {
        let provider = CryptoProvider { kx_groups: vec![group], ..(*provider()).clone() };
        let client = client_with(world.roots(), Arc::new(provider));
        let (_, server) = connect(&client, &core, "default.test").unwrap();
        assert_eq!(server.negotiated_key_exchange_group().unwrap().name(), expected);
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full), "no retry for {expected:?}");
    }
}

#[test]
fn a_client_resumes_on_another_core() {
    let world = World::new();
    let node = world.start();
    let (one, other) = (node.core(), node.core());
    let client = world.client();
    assert_eq!(visit(&client, &one), HandshakeKind::Full);
    assert_eq!(visit(&client, &other), HandshakeKind::Resumed);
    assert_eq!(visit(&client, &one), HandshakeKind::Resumed);
}

#[test]
fn a_client_resumes_after_a_restart() {
    let world = World::new();
    let client = world.client();
    assert_eq!(visit(&client, &world.start().core()), HandshakeKind::Full);
    assert_eq!(visit(&client, &world.start().core()), HandshakeKind::Resumed);
}

#[test]
fn two_tickets_carry_two_connections_at_once() {
    let world = World::new();
    let core = world.start().core();
    let client = world.client();
    visit(&client, &core);
    let name = || ServerName::try_from("default.test").unwrap();
    // Three that start before any of them is done: the third finds no ticket left.
    let mut clients: Vec<_> =
        (0..3).map(|_| ClientConnection::new(Arc::new(client.clone()), name()).unwrap()).collect();
    let kinds: Vec<_> = clients
        .iter_mut()
        .map(|client| {
            let mut server = ServerConnection::new(core.clone()).unwrap();
            exchange(client, &mut server).unwrap();
            server.handshake_kind().unwrap()
        })
        .collect();
    assert_eq!(kinds, [HandshakeKind::Resumed, HandshakeKind::Resumed, HandshakeKind::Full]);
}

#[test]
fn a_client_resumes_across_a_rotation_and_not_after_retirement() {
    let world = World::new();
    let mut node = world.start();
    let client = world.client();
    visit(&client, &node.core());
    node.tick(NOW + 6 * HOUR);
    assert_eq!(visit(&client, &node.core()), HandshakeKind::Resumed);

    let late = world.client();
    visit(&late, &node.core());
    node.tick(NOW + 12 * HOUR);
    node.tick(NOW + 24 * HOUR);
    assert_eq!(
        visit(&late, &node.core()),
        HandshakeKind::Full,
        "its key retired twelve hours after the rotation"
    );
}

#[test]
fn a_node_with_another_keyring_makes_a_full_handshake() {
    let world = World::new();
    let client = world.client();
    let node = world.start();
    visit(&client, &node.core());
    let elsewhere = TestFolder::new();
    let stranger = Node::start(&elsewhere, node.files.clone(), NOW);
    assert_eq!(visit(&client, &stranger.core()), HandshakeKind::Full);
}

#[test]
fn a_ticket_of_one_name_is_not_good_for_another() {
    let world = World::new();
    let core = world.start().core();
    let client = world.client();
    visit(&client, &core);
    let (_, server) = connect(&client, &core, "www.example.com").unwrap();
    assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
}

#[test]
fn early_data_is_not_offered() {
    let world = World::new();
    let core = world.start().core();
    let mut client = world.client();
    client.enable_early_data = true;
    visit(&client, &core);
    let mut client =
        ClientConnection::new(Arc::new(client), ServerName::try_from("default.test").unwrap()).unwrap();
    assert!(client.early_data().is_none());
}

#[test]
fn a_reload_changes_new_connections_and_leaves_open_ones() {
    let world = World::new();
    let node = world.start();
    let core = node.core();
    let (mut client, mut server) = connect(&world.client(), &core, "www.example.com").unwrap();
    ask(&mut client, &mut server);
    // A third one is caught in the middle of its handshake.
    let name = ServerName::try_from("www.example.com").unwrap();
    let mut halfway = ClientConnection::new(Arc::new(world.client()), name).unwrap();
    let mut hello = Vec::new();
    halfway.write_tls(&mut hello).unwrap();
    let mut halfway_server = ServerConnection::new(core.clone()).unwrap();
    halfway_server.read_tls(&mut &hello[..]).unwrap();
    halfway_server.process_new_packets().unwrap();

    let renewed = Pair::new(&["www.example.com"]);
    write_pair(&world.state, "c1", &renewed);
    node.store.reload(&node.files, NOW).unwrap();

    ask(&mut client, &mut server);
    exchange(&mut halfway, &mut halfway_server).unwrap();
    ask(&mut halfway, &mut halfway_server);
    assert_eq!(&halfway.peer_certificates().unwrap()[0], world.certificate(1));
    let (fresh, _) = connect(&client_with(trust(&[&renewed]), provider()), &core, "www.example.com").unwrap();
    assert_eq!(&fresh.peer_certificates().unwrap()[0], renewed.certificate.der());

    let gone =
        vec![CertificateFiles { chain: PathBuf::from("/nowhere.pem"), key: PathBuf::from("/nowhere.key") }];
    node.store.reload(&gone, NOW).unwrap_err();
    ask(&mut client, &mut server);
    connect(&client_with(trust(&[&renewed]), provider()), &core, "www.example.com").unwrap();
}

#[test]
fn a_self_made_certificate_serves_localhost() {
    let state = TestFolder::new();
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (files, _) = self_made(&state, &["edge-1", "guestbook.localhost"], now_s).unwrap();
    let node = Node::start(&state, vec![files], now_s);
    let mut roots = RootCertStore::empty();
    roots.add(node.store.table().resolve(None).certified().cert[0].clone()).unwrap();
    let client = client_with(Arc::new(roots), provider());
    for name in ["localhost", "guestbook.localhost", "127.0.0.1", "::1", "edge-1"] {
        let (mut client, mut server) = connect(&client, &node.core(), name).unwrap();
        ask(&mut client, &mut server);
    }
}
