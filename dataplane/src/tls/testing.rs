//! What the tests of this folder share: certificates made on the spot, and handshakes without sockets.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::{ClientConnection, RootCertStore, ServerConnection};

use super::CertificateFiles;

/// The tests' clock. Handshakes check certificates against the real one, so it is a date that suits both: certificates
/// are valid around it for a long time.
pub(super) const NOW: u64 = 1_700_000_000;

/// A self-signed certificate and its key.
pub(super) struct Pair {
    pub(super) certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Pair {
    pub(super) fn new(names: &[&str]) -> Self {
        Self::valid(names, NOW - 1000, 4_000_000_000)
    }

    pub(super) fn valid(names: &[&str], not_before_s: u64, not_after_s: u64) -> Self {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.not_before = date_time_ymd(1970, 1, 1) + Duration::from_secs(not_before_s);
        parameters.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(not_after_s);
        let key = KeyPair::generate().unwrap();
        Self { certificate: parameters.self_signed(&key).unwrap(), key }
    }
}

/// Writes `name.pem` and `name.key` (readable by the owner only).
pub(super) fn write_pair(folder: &Path, name: &str, pair: &Pair) -> CertificateFiles {
    let files = CertificateFiles {
        chain: folder.join(format!("{name}.pem")),
        key: folder.join(format!("{name}.key")),
    };
    fs::write(&files.chain, pair.certificate.pem()).unwrap();
    fs::write(&files.key, pair.key.serialize_pem()).unwrap();
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
    files
}

/// A client's trust in these certificates.
pub(super) fn trust(pairs: &[&Pair]) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for pair in pairs {
        roots.add(pair.certificate.der().clone()).unwrap();
    }
    Arc::new(roots)
}

/// Carries bytes both ways until neither side has any left, or one refuses.
pub(super) fn exchange(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
) -> Result<(), rustls::Error> {
    let mut wire = Vec::new();
    while client.wants_write() || server.wants_write() {
        wire.clear();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut unread = &wire[..];
        while !unread.is_empty() {
            server.read_tls(&mut unread).unwrap();
            server.process_new_packets()?;
        }
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut unread = &wire[..];
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(())
}

/// One question and its answer over an open connection.
pub(super) fn ask(client: &mut ClientConnection, server: &mut ServerConnection) {
    client.writer().write_all(b"question").unwrap();
    exchange(client, server).unwrap();
    let mut question = [0; 8];
    server.reader().read_exact(&mut question).unwrap();
    assert_eq!(&question, b"question");
    server.writer().write_all(b"an answer").unwrap();
    exchange(client, server).unwrap();
    let mut answer = [0; 9];
    client.reader().read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"an answer");
}
