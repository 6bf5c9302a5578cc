//! What one TLS connection holds while it idles between two requests.
//!
//! Idle connections are what an edge has most of, so their size is a figure that must not creep up. Three ways of
//! keeping a connection after its handshake are counted, by two counters: Rust's allocations, and all of malloc, which
//! has AWS-LC's key contexts in it too.
//!
//! Where a `ServerConnection`'s 7.8 KB go: 4,096 bytes of read buffer that rustls fills anew before each read and never
//! gives back; 1,160 of struct; about 640 of room for sixteen handshake fragments, kept for good; 1,350 in AWS-LC, two
//! AES-GCM contexts; the rest are the secrets for key updates and exporters. The unbuffered connection has no read
//! buffer: 3.6 KB. What a connection cannot do without (three secrets, two keys, two counters) fits in under 1 KB.
//!
//! It is a test of its own, because its allocator counts the whole process and because counting takes unsafe code,
//! which the library forbids.
#![allow(unsafe_code, reason = "a counting allocator cannot be written without")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of a test fail and print as it does"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use berth_dataplane::keyring::{Keyring, RootSecret, Schedule};
use berth_dataplane::tls::{Alpn, CertificateStore, CertificateTable, Ticketer, self_made, server_config};
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::ConnectionState;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

/// Connections per measurement: enough that the odd allocation of something shared is lost in the mean.
const CONNECTIONS: usize = 500;

struct Counting;

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to `System` with the caller's own arguments; only a counter is kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's obligations are passed on unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's obligations are passed on unchanged.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes in use: by Rust as asked for, and by malloc as handed out (AWS-LC's included, with malloc's own rounding).
#[derive(Clone, Copy)]
struct Usage {
    rust: usize,
    malloc: usize,
}

impl Usage {
    fn now() -> Self {
        // SAFETY: mallinfo2 has no preconditions; it only reads glibc's own counters.
        let info = unsafe { libc::mallinfo2() };
        Self { rust: LIVE_BYTES.load(Ordering::Relaxed), malloc: info.uordblks + info.hblkhd }
    }

    fn per_connection_since(self, before: Self) -> Self {
        Self {
            rust: (self.rust - before.rust) / CONNECTIONS,
            malloc: (self.malloc - before.malloc) / CONNECTIONS,
        }
    }
}

/// Client and server configuration over a fresh self-made certificate.
fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let state = std::env::temp_dir().join(format!("berth-idle-memory-{}", std::process::id()));
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (files, _) = self_made(&state, &[], now_s).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(PemObject::from_pem_file(&files.chain).unwrap()).unwrap();
    let (table, _) = CertificateTable::load(&[files], now_s).unwrap();
    std::fs::remove_dir_all(&state).unwrap();

    let schedule = Schedule::new(Duration::from_hours(6), Duration::from_hours(12)).unwrap();
    let ring = Keyring::new(now_s, RootSecret::generate().unwrap());
    let ticketer = Arc::new(Ticketer::new(&ring, &schedule, now_s));
    let server = server_config(Arc::new(CertificateStore::new(table)), ticketer, Alpn::Http2AndHttp1);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.resumption = rustls::client::Resumption::disabled();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    (Arc::new(client), server)
}

fn new_client(config: &Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(config.clone(), ServerName::try_from("localhost").unwrap()).unwrap()
}

const REQUEST: &[u8] = &[b'q'; 300];
const RESPONSE: &[u8] = &[b'r'; 500];

fn take(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn give(client: &mut ClientConnection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets().unwrap();
    }
}

fn expect_response(client: &mut ClientConnection) {
    let mut response = vec![0; RESPONSE.len()];
    client.reader().read_exact(&mut response).unwrap();
    assert_eq!(response, RESPONSE);
}

/// A handshake and one request with rustls's own buffers, as tokio-rustls would do it.
fn buffered(client: &mut ClientConnection, config: &Arc<ServerConfig>) -> ServerConnection {
    let mut server = ServerConnection::new(config.clone()).unwrap();
    let round = |client: &mut ClientConnection, server: &mut ServerConnection| {
        let mut bytes = &take(client)[..];
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).unwrap();
            server.process_new_packets().unwrap();
        }
        let mut reply = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut reply).unwrap();
        }
        give(client, &reply);
    };
    while client.is_handshaking() || server.is_handshaking() {
        round(client, &mut server);
    }
    client.writer().write_all(REQUEST).unwrap();
    round(client, &mut server);
    let mut request = vec![0; REQUEST.len()];
    server.reader().read_exact(&mut request).unwrap();
    server.writer().write_all(RESPONSE).unwrap();
    round(client, &mut server);
    expect_response(client);
    server
}

/// The same with buffers of the caller: between requests the connection has none.
fn unbuffered(client: &mut ClientConnection, config: &Arc<ServerConfig>) -> UnbufferedServerConnection {
    let mut server = UnbufferedServerConnection::new(config.clone()).unwrap();
    let (mut incoming, mut outgoing) = (Vec::new(), vec![0; 32 * 1024]);
    let mut answered = false;
    loop {
        incoming.extend(take(client));
        let (mut written, mut blocked) = (0, false);
        while !blocked {
            let status = server.process_tls_records(&mut incoming);
            let mut discard = status.discard;
            match status.state.unwrap() {
                ConnectionState::EncodeTlsData(mut data) => {
                    written += data.encode(&mut outgoing[written..]).unwrap();
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.unwrap();
                        assert_eq!(record.payload, REQUEST);
                        discard += record.discard;
                        answered = true;
                    }
                }
                ConnectionState::WriteTraffic(mut traffic) => {
                    if answered {
                        written += traffic.encrypt(RESPONSE, &mut outgoing[written..]).unwrap();
                    }
                    blocked = true;
                }
                ConnectionState::BlockedHandshake => blocked = true,
                other => panic!("unexpected {other:?}"),
            }
            incoming.drain(..discard);
        }
        give(client, &outgoing[..written]);
        if answered {
            expect_response(client);
            return server;
        }
        if !client.is_handshaking() {
            client.writer().write_all(REQUEST).unwrap();
        }
    }
}

/// What one idle server side holds, its own struct included. The clients are made first and are as large before as
/// after, but for what their own handshake leaves in them: so they live outside of the count, one at a time.
fn measure<S>(make: impl Fn(&mut ClientConnection) -> S, client: &Arc<ClientConfig>) -> Usage {
    drop(make(&mut new_client(client)));
    let mut servers = Vec::with_capacity(CONNECTIONS);
    let before = Usage::now();
    for _ in 0..CONNECTIONS {
        servers.push(Box::new(make(&mut new_client(client))));
    }
    Usage::now().per_connection_since(before)
}

#[test]
fn an_idle_connection_is_small() {
    let (client, config) = configs();
    let mut secrets_config = (*config).clone();
    secrets_config.enable_secret_extraction = true;
    let secrets_config = Arc::new(secrets_config);

    let with_buffers = measure(|client| buffered(client, &config), &client);
    let without = measure(|client| unbuffered(client, &config), &client);
    let secrets_only = measure(
        |client| unbuffered(client, &secrets_config).dangerous_into_kernel_connection().unwrap(),
        &client,
    );
    println!("an idle TLS connection after one request, bytes (Rust alone / all of malloc):");
    println!("  ServerConnection            {:>6} / {:>6}", with_buffers.rust, with_buffers.malloc);
    println!("  UnbufferedServerConnection  {:>6} / {:>6}", without.rust, without.malloc);
    println!("  KernelConnection + secrets  {:>6} / {:>6}", secrets_only.rust, secrets_only.malloc);
    println!(
        "  struct sizes: {} and {}",
        size_of::<ServerConnection>(),
        size_of::<UnbufferedServerConnection>()
    );

    assert!(with_buffers.malloc < 10 * 1024, "rustls keeps more than it did");
    assert!(without.malloc < 6 * 1024, "the unbuffered connection keeps more than it did");
}
