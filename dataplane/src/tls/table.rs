//! Which certificate a connection gets, and how the whole set is replaced while connections are open.
//!
//! [`CertificateTable`] is an immutable value: built at once from all files, or not at all. [`CertificateStore`]
//! holds the table in use; a reload swaps it. A handshake sees the old table or the new one, never a mixture, and a
//! connection past its handshake does not need the table at all: so a reload disturbs nobody.
//!
//! The choice by server name (SNI): the exact name; else the wildcard that covers exactly its first label; else the
//! default, which is the first certificate. Names are compared without case and without a dot at the end. A client
//! that gives no name, or an IP address, gets the default. A host for which no certificate speaks gets the default
//! too: the client can tell better than we can whether it minds.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use thiserror::Error;

use super::certificate::{self, Certificate, CertificateFiles, CertificateMistake, CertificateWarning};
use super::provider;

/// All certificates of the node, by name.
#[derive(Debug)]
pub struct CertificateTable {
    /// In the order of the configuration. Never empty: the first is the default.
    certificates: Vec<Certificate>,
    /// `www.example.com` → index.
    exact: HashMap<String, usize>,
    /// `example.com`, for `*.example.com` → index.
    wildcard: HashMap<String, usize>,
}

/// Everything that is wrong with a list of certificates. Never empty.
#[derive(Debug, Error)]
pub struct CertificateMistakes(pub Vec<CertificateMistake>);

impl fmt::Display for CertificateMistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the certificates cannot be used:")?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n- {mistake}"))
    }
}

impl CertificateTable {
    /// Reads all files. Either every pair is good, or all mistakes are returned together.
    pub fn load(
        files: &[CertificateFiles],
        now_s: u64,
    ) -> Result<(Self, Vec<CertificateWarning>), CertificateMistakes> {
        let provider = provider();
        let (mut certificates, mut mistakes, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
        for pair in files {
            match certificate::load(pair, &provider, now_s, &mut warnings) {
                Ok(certificate) => certificates.push(certificate),
                Err(of_pair) => mistakes.extend(of_pair),
            }
        }
        if files.is_empty() {
            mistakes.push(CertificateMistake::None);
        }
        if !mistakes.is_empty() {
            return Err(CertificateMistakes(mistakes));
        }
        Ok((Self::index(certificates, &mut warnings), warnings))
    }

    /// The certificate for a server name, or for a client that gave none.
    pub fn resolve(&self, server_name: Option<&str>) -> &Certificate {
        let index = server_name.and_then(|name| self.find(name)).unwrap_or(0);
        &self.certificates[index]
    }

    /// All certificates in the order of the configuration, for status and metrics.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    fn find(&self, name: &str) -> Option<usize> {
        // rustls hands over names in lower case: the copy is for other callers.
        let name = match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(name.to_ascii_lowercase()),
            false => Cow::Borrowed(name),
        };
        let name = name.strip_suffix('.').unwrap_or(&name);
        let by_wildcard = || name.split_once('.').and_then(|(_label, suffix)| self.wildcard.get(suffix));
        self.exact.get(name).or_else(by_wildcard).copied()
    }

    fn index(certificates: Vec<Certificate>, warnings: &mut Vec<CertificateWarning>) -> Self {
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for (index, certificate) in certificates.iter().enumerate() {
            for name in certificate.names() {
                let (map, key) = match name.strip_prefix("*.") {
                    Some(suffix) => (&mut wildcard, suffix),
                    None => (&mut exact, name.as_str()),
                };
                let first = *map.entry(key.to_owned()).or_insert(index);
                if first != index {
                    warnings.push(CertificateWarning::DuplicateName {
                        name: name.clone(),
                        shown: certificates[first].files().chain.clone(),
                        hidden: certificate.files().chain.clone(),
                    });
                }
            }
        }
        Self { certificates, exact, wildcard }
    }
}

/// The table in use. Shared by all cores; a handshake reads it without a lock.
#[derive(Debug)]
pub struct CertificateStore {
    table: ArcSwap<CertificateTable>,
}

impl CertificateStore {
    /// A store that begins with this table.
    pub fn new(table: CertificateTable) -> Self {
        Self { table: ArcSwap::from_pointee(table) }
    }

    /// The table in use at this moment.
    pub fn table(&self) -> Arc<CertificateTable> {
        self.table.load_full()
    }

    /// Reads the files anew and swaps the table, or keeps the old one and says what is wrong. It blocks on the disk:
    /// call it on a helper thread.
    pub fn reload(
        &self,
        files: &[CertificateFiles],
        now_s: u64,
    ) -> Result<Vec<CertificateWarning>, CertificateMistakes> {
        let (table, warnings) = CertificateTable::load(files, now_s)?;
        self.table.store(Arc::new(table));
        Ok(warnings)
    }
}

impl ResolvesServerCert for CertificateStore {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.table.load().resolve(hello.server_name()).certified().clone())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;
    use crate::keyring::private_file::testing::TestFolder;
    use crate::tls::testing::{NOW, Pair, write_pair};

    fn table(pairs: &[&[&str]]) -> (CertificateTable, Vec<CertificateWarning>, Vec<PathBuf>) {
        let folder = TestFolder::new();
        let files: Vec<_> = pairs
            .iter()
            .enumerate()
            .map(|(n, names)| write_pair(&folder, &format!("c{n}"), &Pair::new(names)))
            .collect();
        let (table, warnings) = CertificateTable::load(&files, NOW).unwrap();
        (table, warnings, files.into_iter().map(|pair| pair.chain).collect())
    }

    #[test]
    fn names_are_matched_exactly_then_by_wildcard_then_by_default() {
        let (table, warnings, chains) = table(&[
            &["default.test"],
            &["*.example.com", "example.com"],
            &["www.example.com", "UPPER.example.org"],
            &["*.deep.example.com"],
        ]);
        assert_eq!(warnings, []);
        for (name, expected) in [
            (None, 0),
            (Some("default.test"), 0),
            (Some("www.example.com"), 2),
            (Some("WWW.Example.COM"), 2),
            (Some("www.example.com."), 2),
            (Some("other.example.com"), 1),
            (Some("example.com"), 1),
            (Some("deep.example.com"), 1),
            (Some("a.deep.example.com"), 3),
            (Some("a.b.deep.example.com"), 0),
            (Some("a.b.example.com"), 0),
            (Some("upper.example.org"), 2),
            (Some("unknown.test"), 0),
            (Some("com"), 0),
            (Some("*.example.com"), 1),
            (Some(""), 0),
            (Some("."), 0),
            (Some(".."), 0),
            (Some("127.0.0.1"), 0),
        ] {
            assert_eq!(table.resolve(name).files().chain, chains[expected], "{name:?}");
        }
    }

    #[test]
    fn names_and_dates_can_be_listed() {
        let folder = TestFolder::new();
        let pair = Pair::valid(&["b.test", "*.A.test"], NOW - 100, NOW + 5000);
        let files = write_pair(&folder, "c", &pair);
        let (table, warnings) = CertificateTable::load(&[files], NOW).unwrap();
        assert_eq!(warnings, []);
        let [certificate] = table.certificates() else { panic!("one certificate") };
        assert_eq!(certificate.names(), ["b.test", "*.a.test"]);
        assert_eq!((certificate.not_before_s(), certificate.not_after_s()), (NOW - 100, NOW + 5000));
    }

    #[test]
    fn the_first_of_two_certificates_with_one_name_wins() {
        let (table, warnings, chains) =
            table(&[&["a.test", "b.test"], &["b.test", "*.c.test"], &["*.c.test"]]);
        assert_eq!(table.resolve(Some("b.test")).files().chain, chains[0]);
        assert_eq!(table.resolve(Some("x.c.test")).files().chain, chains[1]);
        let duplicate = |name: &str, shown: usize, hidden: usize| CertificateWarning::DuplicateName {
            name: name.to_owned(),
            shown: chains[shown].clone(),
            hidden: chains[hidden].clone(),
        };
        assert_eq!(warnings, [duplicate("b.test", 0, 1), duplicate("*.c.test", 1, 2)]);
    }

    #[test]
    fn what_is_odd_is_told_and_used() {
        let folder = TestFolder::new();
        let files = [
            write_pair(&folder, "old", &Pair::valid(&["old.test"], NOW - 100, NOW - 1)),
            write_pair(&folder, "early", &Pair::valid(&["early.test"], NOW + 1, NOW + 100)),
            write_pair(&folder, "nameless", &Pair::new(&["127.0.0.1"])),
            write_pair(&folder, "open", &Pair::new(&["open.test"])),
        ];
        fs::set_permissions(&files[3].key, fs::Permissions::from_mode(0o644)).unwrap();
        let (table, warnings) = CertificateTable::load(&files, NOW).unwrap();
        assert_eq!(table.certificates().len(), 4);
        let chain = |n: usize| files[n].chain.clone();
        assert_eq!(
            warnings,
            [
                CertificateWarning::Expired { chain: chain(0), not_after_s: NOW - 1 },
                CertificateWarning::NotYetValid { chain: chain(1), not_before_s: NOW + 1 },
                CertificateWarning::NoNames { chain: chain(2) },
                CertificateWarning::KeyExposed { key: files[3].key.clone(), mode: 0o644 },
            ]
        );
    }

    #[test]
    fn all_mistakes_come_at_once_each_with_its_file() {
        let folder = TestFolder::new();
        let good = write_pair(&folder, "good", &Pair::new(&["good.test"]));
        let other = write_pair(&folder, "other", &Pair::new(&["other.test"]));
        let file = |name: &str, contents: &str| {
            let path = folder.join(name);
            fs::write(&path, contents).unwrap();
            path
        };
        let broken = file("broken.pem", "-----BEGIN CERTIFICATE-----\n%%%%\n-----END CERTIFICATE-----\n");
        let not_x509 = file("der.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        let not_a_key = file("bad.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        let huge = file("huge.pem", &"x".repeat(1024 * 1024 + 1));
        let pair =
            |chain: &PathBuf, key: &PathBuf| CertificateFiles { chain: chain.clone(), key: key.clone() };
        let missing = folder.join("missing.pem");
        let mistakes = CertificateTable::load(
            &[
                good.clone(),
                pair(&missing, &missing),
                pair(&good.chain, &other.key),
                pair(&good.key, &good.chain),
                pair(&broken, &good.key),
                pair(&not_x509, &good.key),
                pair(&good.chain, &not_a_key),
                pair(&huge, &good.key),
            ],
            NOW,
        )
        .unwrap_err();
        use CertificateMistake as M;
        assert!(
            matches!(
                &mistakes.0[..],
                [
                    M::Unreadable { .. },
                    M::Unreadable { .. },
                    M::KeyMismatch { .. },
                    M::NoCertificate { .. },
                    M::NoKey { .. },
                    M::NotPem { .. },
                    M::BadCertificate { .. },
                    M::BadKey { .. },
                    M::TooLarge { .. },
                ]
            ),
            "{mistakes}"
        );
        let text = mistakes.to_string();
        for name in ["missing.pem", "other.key", "good.key", "broken.pem", "der.pem", "bad.key", "huge.pem"] {
            assert!(text.contains(name), "{text}");
        }
        assert!(matches!(CertificateTable::load(&[], NOW).unwrap_err().0[..], [M::None]));
    }

    #[test]
    fn a_reload_with_a_mistake_keeps_the_old_table() {
        let folder = TestFolder::new();
        let files = [write_pair(&folder, "c", &Pair::new(&["one.test"]))];
        let store = CertificateStore::new(CertificateTable::load(&files, NOW).unwrap().0);
        fs::write(&files[0].chain, "gone").unwrap();
        assert!(store.reload(&files, NOW).is_err());
        assert_eq!(store.table().certificates()[0].names(), ["one.test"]);

        write_pair(&folder, "c", &Pair::new(&["two.test"]));
        store.reload(&files, NOW).unwrap();
        assert_eq!(store.table().certificates()[0].names(), ["two.test"]);
    }
}
