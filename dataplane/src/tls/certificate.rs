//! One certificate: a chain and its key, read from two PEM files, and what the node must know about them.
//!
//! Names and times are read from the leaf, so that the configuration does not repeat them. `rustls-webpki` does the
//! reading: it is in the tree already, and it is what the clients' side of rustls judges certificates with.
//!
//! Mistakes are values with the file, what is wrong, and what to do. What still works (an expired certificate, a key
//! that others may read) is a warning: an edge that refuses to start because of a date helps nobody.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{Error as TlsError, InconsistentKeys};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage};
use zeroize::Zeroizing;

/// Largest PEM file. A chain of five certificates takes about 10 KB; all that is larger is some other file.
const PEM_BYTES_MAX: u64 = 1024 * 1024;

/// Where a certificate stands on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain in PEM: the leaf first, then the intermediates.
    pub chain: PathBuf,
    /// The leaf's private key in PEM: PKCS #8, PKCS #1 or SEC1.
    pub key: PathBuf,
}

/// A certificate that is ready to be shown to clients.
#[derive(Debug, Clone)]
pub struct Certificate {
    files: CertificateFiles,
    certified: Arc<CertifiedKey>,
    names: Vec<String>,
    validity: Validity,
}

impl Certificate {
    /// Where it was read from.
    pub fn files(&self) -> &CertificateFiles {
        &self.files
    }

    /// The DNS names of the leaf in lower case, `*.suffix` for wildcards. A wildcard directly under a top-level label
    /// (`*.internal`) is not among them: clients refuse it.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// First second of its validity, in Unix seconds.
    pub fn not_before_s(&self) -> u64 {
        self.validity.not_before_s
    }

    /// Last second of its validity, in Unix seconds.
    pub fn not_after_s(&self) -> u64 {
        self.validity.not_after_s
    }

    /// What rustls signs with.
    pub(super) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

/// Why a certificate cannot be used.
#[derive(Debug, Error)]
pub enum CertificateMistake {
    /// The list is empty.
    #[error("no certificate is configured: name at least one chain and key under `tls.certificates`")]
    None,
    /// A file cannot be read.
    #[error("cannot read {}: {source}; check the path, and that the node's user may read it", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is far larger than a chain or key.
    #[error("{} is larger than {PEM_BYTES_MAX} bytes: it is not a certificate chain or key", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// A file is not PEM, or damaged.
    #[error("{} is not valid PEM: {source}; DER files are converted by `openssl x509` or `openssl pkey`", file.display())]
    NotPem {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: pem::Error,
    },
    /// A chain file without a certificate.
    #[error("{} holds no certificate: is it the key?", file.display())]
    NoCertificate {
        /// The file.
        file: PathBuf,
    },
    /// A key file without a key that can be read.
    #[error("{} holds no private key in the clear: is it the chain, or an encrypted key (`openssl pkey` decrypts it)?", file.display())]
    NoKey {
        /// The file.
        file: PathBuf,
    },
    /// The leaf is not a certificate that clients would take.
    #[error("the first certificate of {} is unusable: {source}; ask for a new one (X.509 version 3)", file.display())]
    BadCertificate {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: webpki::Error,
    },
    /// The key is of a kind that TLS 1.3 or this build does not know.
    #[error("the key in {} is unusable: {source}; use ECDSA P-256, Ed25519 or RSA of at least 2048 bits", file.display())]
    BadKey {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: TlsError,
    },
    /// Key and leaf do not belong together.
    #[error(
        "the key in {} is not the key of the first certificate in {}: the leaf must come first, then the intermediates",
        key.display(), chain.display()
    )]
    KeyMismatch {
        /// The chain's file.
        chain: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
}

/// What is odd about a certificate that is used all the same.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum CertificateWarning {
    /// Its time is over.
    #[error("{} expired at {not_after_s} (Unix seconds): clients refuse it; renew it", chain.display())]
    Expired {
        /// The chain's file.
        chain: PathBuf,
        /// When.
        not_after_s: u64,
    },
    /// Its time is to come.
    #[error("{} is valid only from {not_before_s} (Unix seconds): clients refuse it; check the clock", chain.display())]
    NotYetValid {
        /// The chain's file.
        chain: PathBuf,
        /// From when.
        not_before_s: u64,
    },
    /// No usable DNS name in its SANs.
    #[error(
        "{} has no DNS name in its SANs that clients accept: it is shown only if it is the first certificate",
        chain.display()
    )]
    NoNames {
        /// The chain's file.
        chain: PathBuf,
    },
    /// Two certificates have one name.
    #[error("{name} stands in {} and in {}: the first one is shown", shown.display(), hidden.display())]
    DuplicateName {
        /// The name.
        name: String,
        /// The chain that wins: it comes first in the configuration.
        shown: PathBuf,
        /// The chain that loses.
        hidden: PathBuf,
    },
    /// Other users may read the key.
    #[error("{} can be read by every user (mode {mode:03o}): run `chmod o-rwx` on it", key.display())]
    KeyExposed {
        /// The key's file.
        key: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// Reads one pair of files. The mistakes of both files come together.
pub(super) fn load(
    files: &CertificateFiles,
    provider: &CryptoProvider,
    now_s: u64,
    warnings: &mut Vec<CertificateWarning>,
) -> Result<Certificate, Vec<CertificateMistake>> {
    let (chain, key) = match (load_chain(&files.chain), load_key(&files.key, warnings)) {
        (Ok(chain), Ok(key)) => (chain, key),
        (chain, key) => return Err(chain.err().into_iter().chain(key.err()).collect()),
    };
    let certificate = assemble(files, chain, key, provider).map_err(|mistake| vec![mistake])?;
    warnings.extend(oddities(&certificate, now_s));
    Ok(certificate)
}

fn load_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateMistake> {
    let (pem, _mode) = read(file)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|source| CertificateMistake::NotPem { file: file.to_owned(), source })?;
    match chain.is_empty() {
        true => Err(CertificateMistake::NoCertificate { file: file.to_owned() }),
        false => Ok(chain),
    }
}

fn load_key(
    file: &Path,
    warnings: &mut Vec<CertificateWarning>,
) -> Result<PrivateKeyDer<'static>, CertificateMistake> {
    let (pem, mode) = read(file)?;
    // A group that may read keys is a common way to share them with a service; everybody is not.
    if mode & 0o007 != 0 {
        warnings.push(CertificateWarning::KeyExposed { key: file.to_owned(), mode });
    }
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| match error {
        pem::Error::NoItemsFound => CertificateMistake::NoKey { file: file.to_owned() },
        source => CertificateMistake::NotPem { file: file.to_owned(), source },
    })
}

fn read(file: &Path) -> Result<(Zeroizing<Vec<u8>>, u32), CertificateMistake> {
    let unreadable = |source| CertificateMistake::Unreadable { file: file.to_owned(), source };
    let opened = File::open(file).map_err(unreadable)?;
    let metadata = opened.metadata().map_err(unreadable)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(metadata.len().min(PEM_BYTES_MAX) as usize + 1));
    opened.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    match bytes.len() as u64 > PEM_BYTES_MAX {
        true => Err(CertificateMistake::TooLarge { file: file.to_owned() }),
        false => Ok((bytes, metadata.permissions().mode() & 0o777)),
    }
}

fn assemble(
    files: &CertificateFiles,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<Certificate, CertificateMistake> {
    let bad_certificate = |source| CertificateMistake::BadCertificate { file: files.chain.clone(), source };
    let (names, validity) = describe(&chain[0]).map_err(bad_certificate)?;
    let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            CertificateMistake::KeyMismatch { chain: files.chain.clone(), key: files.key.clone() }
        }
        source => CertificateMistake::BadKey { file: files.key.clone(), source },
    })?;
    Ok(Certificate { files: files.clone(), certified: Arc::new(certified), names, validity })
}

fn oddities(certificate: &Certificate, now_s: u64) -> Vec<CertificateWarning> {
    let chain = &certificate.files.chain;
    let mut odd = Vec::new();
    if now_s > certificate.not_after_s() {
        let not_after_s = certificate.not_after_s();
        odd.push(CertificateWarning::Expired { chain: chain.clone(), not_after_s });
    }
    if now_s < certificate.not_before_s() {
        let not_before_s = certificate.not_before_s();
        odd.push(CertificateWarning::NotYetValid { chain: chain.clone(), not_before_s });
    }
    if certificate.names.is_empty() {
        odd.push(CertificateWarning::NoNames { chain: chain.clone() });
    }
    odd
}

#[derive(Debug, Clone, Copy)]
struct Validity {
    not_before_s: u64,
    not_after_s: u64,
}

/// The DNS names and the validity of a leaf.
fn describe(leaf: &CertificateDer<'_>) -> Result<(Vec<String>, Validity), webpki::Error> {
    let leaf = EndEntityCert::try_from(leaf)?;
    let mut names = Vec::new();
    for name in leaf.valid_dns_names().map(normal_name) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok((names, validity(&leaf)?))
}

/// Lower case and no dot at the end: the one form in which names are compared.
pub(super) fn normal_name(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// webpki has no getter for the validity, but says it in its refusals: asked at the beginning and at the end of time,
/// it answers with the two dates. That saves a second certificate parser in the tree.
fn validity(leaf: &EndEntityCert<'_>) -> Result<Validity, webpki::Error> {
    let refusal_at = |seconds| {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        leaf.verify_for_usage(&[], &[], &[], time, KeyUsage::server_auth(), None, None).err()
    };
    let not_after_s = match refusal_at(u64::MAX) {
        Some(webpki::Error::CertExpired { not_after, .. }) => not_after.as_secs(),
        other => return Err(other.unwrap_or(webpki::Error::InvalidCertValidity)),
    };
    let not_before_s = match refusal_at(0) {
        Some(webpki::Error::CertNotValidYet { not_before, .. }) => not_before.as_secs(),
        // Valid since 1970: there is nothing to warn of.
        _ => 0,
    };
    Ok(Validity { not_before_s, not_after_s })
}
