//! A certificate for development, made by the node itself: `<state>/tls/self-made.pem` and `self-made.key`.
//!
//! It lets `berth dev` serve HTTPS and HTTP/3 with no other tool. It is made once and kept, so that a browser that was
//! told to trust it goes on trusting it; it is renewed, over the same key, shortly before it expires or when a name
//! is new. Nobody else trusts it: production certificates come from the configuration.
//!
//! `*.localhost` stands in it, but curl, browsers and rustls refuse wildcards directly under a top-level label. So the
//! zones that the node serves (`guestbook.localhost`) are passed in, and stand in it by name.
//!
//! The key is written before the certificate. A crash between the two leaves a key without a certificate, and the
//! next start makes the certificate. A key that is damaged or open to others is an error: it is never replaced in
//! silence, because somebody may have been told to trust it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    date_time_ymd,
};
use rustls::pki_types::{DnsName, ServerName};
use thiserror::Error;
use webpki::EndEntityCert;
use zeroize::Zeroizing;

use super::certificate::{CertificateFiles, normal_name};
use super::table::CertificateTable;
use crate::keyring::private_file::{self, FolderLock};
use crate::keyring::{ReadPrivateError, WritePrivateError};

/// How long a certificate is valid: browsers take no more than 398 days.
const VALIDITY: Duration = Duration::from_hours(365 * 24);

/// A certificate with less time left than this is renewed.
const RENEWED_BEFORE_END: Duration = Duration::from_hours(30 * 24);

/// It is valid from a day ago: containers and phones whose clocks are behind take it too.
const BACKDATED: Duration = Duration::from_hours(24);

const CHAIN: &str = "self-made.pem";
const KEY: &str = "self-made.key";

/// What [`self_made`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelfMade {
    /// The files are as they were.
    Kept,
    /// There was none: this is the first.
    Made,
    /// The old one was close to its end, lacked a name, or did not fit the key.
    Renewed,
}

/// The self-made certificate cannot be had.
#[derive(Debug, Error)]
pub enum SelfMadeError {
    /// The folder could not be made.
    #[error("cannot make the folder {}: check `node.state` and the rights of the folder above it", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The key is there and cannot be read.
    #[error("the key of the self-made certificate cannot be used")]
    ReadKey(#[from] ReadPrivateError),
    /// The key is there and is no key.
    #[error("{} is damaged: remove it, and the next start makes a new key and certificate", path.display())]
    DamagedKey {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] WritePrivateError),
    /// The generator refused.
    #[error("the self-made certificate could not be generated")]
    Generate(#[from] rcgen::Error),
}

/// Finds or makes the certificate for `localhost`, the loopback addresses, and `names`: the node's own name and the
/// zones that it serves.
///
/// A name that is neither a DNS name nor an address is left out: no client could ask for it. It blocks: call it at
/// start, or on a helper thread.
pub fn self_made(
    state: &Path,
    names: &[&str],
    now_s: u64,
) -> Result<(CertificateFiles, SelfMade), SelfMadeError> {
    let folder = state.join("tls");
    private_file::make_folder(&folder)
        .map_err(|source| SelfMadeError::Folder { path: folder.clone(), source })?;
    let lock = FolderLock::acquire(&folder)?;
    let files = CertificateFiles { chain: folder.join(CHAIN), key: folder.join(KEY) };
    let key = find_or_make_key(&lock, &files.key)?;
    let names = all_names(names);
    if is_good(&files, &names, now_s) {
        return Ok((files, SelfMade::Kept));
    }
    let done = if files.chain.exists() { SelfMade::Renewed } else { SelfMade::Made };
    let certificate = parameters(names, now_s)?.self_signed(&key)?;
    lock.replace(CHAIN, certificate.pem().as_bytes())?;
    Ok((files, done))
}

fn find_or_make_key(lock: &FolderLock, path: &Path) -> Result<KeyPair, SelfMadeError> {
    match private_file::read(path) {
        Ok(pem) => {
            let pem = str::from_utf8(&pem).ok();
            let key = pem.and_then(|pem| KeyPair::from_pem(pem).ok());
            key.ok_or_else(|| SelfMadeError::DamagedKey { path: path.to_owned() })
        }
        Err(ReadPrivateError::Missing { .. }) => {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            lock.replace(KEY, Zeroizing::new(key.serialize_pem()).as_bytes())?;
            Ok(key)
        }
        Err(error) => Err(error.into()),
    }
}

/// The subject alternative names, addresses among them.
fn all_names(names: &[&str]) -> Vec<String> {
    let mut all: Vec<_> = ["localhost", "*.localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    for name in names.iter().map(|name| normal_name(name)) {
        let host = name.strip_prefix("*.").unwrap_or(&name);
        let askable = DnsName::try_from(host).is_ok() || name.parse::<IpAddr>().is_ok();
        if askable && !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// Whether the files hold a certificate that fits the key, has these names, and has time left.
fn is_good(files: &CertificateFiles, names: &[String], now_s: u64) -> bool {
    let Ok((table, _warnings)) = CertificateTable::load(std::slice::from_ref(files), now_s) else {
        return false;
    };
    let certificate = table.resolve(None);
    let Ok(leaf) = EndEntityCert::try_from(&certificate.certified().cert[0]) else {
        return false;
    };
    let covers = |name: &String| match ServerName::try_from(name.as_str()) {
        Ok(name) => leaf.verify_is_valid_for_subject_name(&name).is_ok(),
        // A wildcard is no name that a client asks for. It counts if it is listed, or could never be.
        Err(_) => certificate.names().contains(name) || name.matches('.').count() < 2,
    };
    let renewal_s = certificate.not_after_s().saturating_sub(RENEWED_BEFORE_END.as_secs());
    let in_time = (certificate.not_before_s()..renewal_s).contains(&now_s);
    in_time && names.iter().all(covers)
}

fn parameters(names: Vec<String>, now_s: u64) -> Result<CertificateParams, rcgen::Error> {
    let now = date_time_ymd(1970, 1, 1) + Duration::from_secs(now_s);
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name.push(DnType::CommonName, "Berth, self-made");
    parameters.not_before = now - BACKDATED;
    parameters.not_after = now + VALIDITY;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::keyring::private_file::testing::TestFolder;

    const NOW: u64 = 1_700_000_000;
    const DAY: u64 = 24 * 3600;

    fn made(state: &Path, name: &str, now_s: u64) -> SelfMade {
        self_made(state, &[name], now_s).unwrap().1
    }

    #[test]
    fn it_is_made_once_and_renewed_over_the_same_key() {
        let state = TestFolder::new();
        let (files, first) = self_made(&state, &["edge-1"], NOW).unwrap();
        assert_eq!(first, SelfMade::Made);
        assert_eq!(fs::metadata(&files.key).unwrap().permissions().mode() & 0o777, 0o600);
        let (chain, key) = (fs::read(&files.chain).unwrap(), fs::read(&files.key).unwrap());

        assert_eq!(made(&state, "edge-1", NOW + 334 * DAY), SelfMade::Kept);
        assert_eq!(fs::read(&files.chain).unwrap(), chain);
        assert_eq!(made(&state, "edge-1", NOW + 335 * DAY), SelfMade::Renewed);
        assert_ne!(fs::read(&files.chain).unwrap(), chain);
        assert_eq!(fs::read(&files.key).unwrap(), key);
        assert_eq!(made(&state, "edge-1", NOW + 335 * DAY), SelfMade::Kept);
    }

    #[test]
    fn it_speaks_for_this_machine() {
        let state = TestFolder::new();
        let (files, _) = self_made(
            &state,
            &["Edge-1.example.org", "Guestbook.localhost.", "*.dev.test", "192.0.2.1"],
            NOW,
        )
        .unwrap();
        let (table, warnings) = CertificateTable::load(&[files], NOW).unwrap();
        assert_eq!(warnings, []);
        let certificate = table.resolve(None);
        assert_eq!(
            certificate.names(),
            ["localhost", "edge-1.example.org", "guestbook.localhost", "*.dev.test"]
        );
        let leaf = EndEntityCert::try_from(&certificate.certified().cert[0]).unwrap();
        for name in [
            "localhost",
            "guestbook.localhost",
            "127.0.0.1",
            "::1",
            "edge-1.example.org",
            "a.dev.test",
            "192.0.2.1",
        ] {
            leaf.verify_is_valid_for_subject_name(&name.try_into().unwrap()).unwrap();
        }
    }

    #[test]
    fn another_node_name_or_a_broken_certificate_leads_to_a_new_one() {
        let state = TestFolder::new();
        let (files, _) = self_made(&state, &["one"], NOW).unwrap();
        assert_eq!(made(&state, "two", NOW), SelfMade::Renewed);
        assert_eq!(made(&state, "two", NOW), SelfMade::Kept);
        assert_eq!(made(&state, "192.0.2.1", NOW), SelfMade::Renewed);
        assert_eq!(made(&state, "192.0.2.1", NOW), SelfMade::Kept);
        assert_eq!(made(&state, "*.dev.test", NOW), SelfMade::Renewed);
        assert_eq!(made(&state, "*.dev.test", NOW), SelfMade::Kept);
        assert_eq!(made(&state, "two", NOW), SelfMade::Renewed);
        fs::write(&files.chain, "nonsense").unwrap();
        assert_eq!(made(&state, "two", NOW), SelfMade::Renewed);
        fs::remove_file(&files.chain).unwrap();
        assert_eq!(made(&state, "two", NOW), SelfMade::Made, "as after a crash between key and certificate");
        assert_eq!(made(&state, "two", NOW - 2 * DAY), SelfMade::Renewed, "not valid yet by this clock");
    }

    #[test]
    fn odd_names_are_left_out() {
        for name in ["", "*.", "not a name", "under the bridge!", &"x".repeat(300), "localhost"] {
            assert_eq!(all_names(&[name]).len(), 4, "{name:?}");
            made(&TestFolder::new(), name, NOW);
        }
    }

    #[test]
    fn a_bad_key_is_an_error_with_a_way_out() {
        let state = TestFolder::new();
        let (files, _) = self_made(&state, &["one"], NOW).unwrap();
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(self_made(&state, &["one"], NOW), Err(SelfMadeError::ReadKey(_))));
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
        let pem = fs::read(&files.key).unwrap();
        for end in 0..pem.len() - 1 {
            fs::write(&files.key, &pem[..end]).unwrap();
            match self_made(&state, &["one"], NOW) {
                Err(SelfMadeError::DamagedKey { path }) => assert_eq!(path, files.key),
                // Only the last dashes are missing: the key itself is whole.
                Ok((_, SelfMade::Kept)) => assert!(end > pem.len() - 8, "cut at {end}"),
                other => panic!("cut at {end}: {other:?}"),
            }
        }
    }
}
