//! TLS 1.3 for all listeners: which certificate is shown, how sessions are resumed, what is offered.
//!
//! This module decides; it moves no bytes. The listeners drive rustls connections over their sockets with the
//! [`ServerConfig`] that [`server_config`] builds.
//!
//! ```text
//!   keyring ──> Ticketer ────────┐
//!   PEM files ─> CertificateTable ─> CertificateStore ─> server_config() ─> rustls::ServerConfig
//!   <state>/tls ─> self_made() ──┘
//! ```
//!
//! The ticketer and the store are shared by all cores and replaced inside, so a configuration is built once and
//! outlives rotations and reloads. Each core may build its own: they differ in nothing but the cache line that counts
//! their references.
//!
//! A resumed connection shows no certificate: it rests on the ticket alone. So a certificate that is taken out still
//! serves, until the tickets' lifetime is over, the clients that saw it before.
//!
//! Left to others: reading the clock, calling [`Ticketer::install`] and [`CertificateStore::reload`] in time, the
//! handshake's deadline and count, and 421 for a host that the connection's certificate does not cover.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, version};

mod certificate;
mod self_made;
mod table;
mod ticketer;

#[cfg(test)]
mod handshake_tests;
#[cfg(test)]
mod testing;

pub use certificate::{Certificate, CertificateFiles, CertificateMistake, CertificateWarning};
pub use self_made::{SelfMade, SelfMadeError, self_made};
pub use table::{CertificateMistakes, CertificateStore, CertificateTable};
pub use ticketer::{TICKET_BYTES_MAX, Ticketer};

/// Tickets for each full handshake. Clients use a ticket once (RFC 8446, C.4): two let a browser that lost its
/// connections come back with two at a time, and each resumption earns the next two. More would cost every
/// handshake about 250 bytes and one AES pass apiece for the few that open more at once.
const TICKETS_PER_HANDSHAKE: usize = 2;

/// The protocols that a listener offers, and in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/2, else HTTP/1.1.
    Http2AndHttp1,
    /// HTTP/1.1 alone.
    Http1,
    /// HTTP/3, over QUIC.
    Http3,
}

impl Alpn {
    /// The names on the wire, the preferred one first: the server's order decides.
    fn names(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http2AndHttp1 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Self::Http1 => vec![b"http/1.1".to_vec()],
            Self::Http3 => vec![b"h3".to_vec()],
        }
    }
}

/// The TLS configuration of a listener.
///
/// What it fixes, and why:
/// - **TLS 1.3 alone.** Every client of the last years speaks it; 1.2 would bring its renegotiation, its CBC suites and
///   a second state machine.
/// - **No early data (0-RTT).** It can be replayed by whoever saw it, on any server of the site, and objects keep state:
///   a replayed POST is a second POST. It would also need a store that all servers agree on, for one round trip.
/// - **No server data before the client's Finished.** What is sent earlier goes to a client that has proved nothing.
/// - **The client's order of cipher suites.** All three suites are good; a phone without AES instructions puts ChaCha20
///   first and is right.
/// - **No sessions on the server.** The state is in the ticket: nothing per client is held here.
/// - **Two tickets** for each full handshake: clients use each once, and two let a browser come back with two connections.
pub fn server_config(store: Arc<CertificateStore>, ticketer: Arc<Ticketer>, alpn: Alpn) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])
        .expect("the provider below has TLS 1.3 suites")
        .with_no_client_auth()
        .with_cert_resolver(store);
    config.alpn_protocols = alpn.names();
    config.ticketer = ticketer;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    config.ignore_client_order = false;
    Arc::new(config)
}

/// The cryptography in use: AWS-LC, with named suites and groups, so that an update of rustls changes nothing here.
///
/// Groups: X25519 with ML-KEM-768 keeps today's recordings closed to tomorrow's quantum computers. It costs 1,184 more
/// bytes from the client (so that its hello spans two packets), 1,088 more from the server, and about a quarter more
/// CPU for a full handshake. X25519 is for clients without it, the NIST curves for those that must use them. rustls
/// takes the first group in the *client's* order that stands here, so a client that prefers plain X25519 gets it: our
/// own order only tells the reader what we would like.
fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::{cipher_suite, kx_group};
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        ..aws_lc_rs::default_provider()
    })
}
