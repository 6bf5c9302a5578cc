//! What a peer is, and a running one: every server that is measured, ours among them, is started the same way.
//!
//! A peer knows how it gets onto the machine, its version, and its configuration, which is printed in the report:
//! a comparison is as fair as the two configurations beside each other. A [`Server`] is a running peer: started
//! confined to one CPU, waited for until it accepts, stopped by its process id (and its descendants' ids, should
//! it not leave), also when the harness fails half-way. The peers themselves are in [`crate::peers`].

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::Serialize;

use crate::answer::{self, Answer, AnswerError};
use crate::cpu::{CpuError, Tree};
use crate::object_hosts;
use crate::quic;
use crate::sys::{self, End, Pid};
use crate::tool::ToolError;

/// The body that every peer answers to `GET /`.
pub(crate) const BODY: &str = "hello from berth\n";
/// Connections that each peer must be able to hold: the idle figures open 10,000.
pub(crate) const CONNECTIONS_MAX: u32 = 16_000;
/// Descriptors for that, at either end, with room; below the hard limit of 20,000 that containers often set.
pub(crate) const OPEN_FILES: u64 = 16_384;
/// How long a server may take until it accepts connections, and until it has left.
const START_LIMIT: Duration = Duration::from_secs(10);
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How long one question over QUIC may take.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// How often a condition is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(5);

/// A server program that can be measured.
pub(crate) trait Peer {
    /// One word, for tables and JSON.
    fn name(&self) -> &'static str;
    /// Makes sure that the program is there.
    fn ensure(&self) -> Result<(), PeerError>;
    /// What the program says its version is.
    fn version(&self) -> Result<String, PeerError>;
    /// The whole configuration file.
    fn configuration(&self, site: &Site) -> String;
    /// The command that starts it in the foreground with the configuration in `file`.
    fn command(&self, site: &Site, file: &Path) -> Result<Command, PeerError>;
    /// What it speaks where a figure's requests speak `asked`.
    fn speaks(&self, asked: Protocol) -> Protocol {
        asked
    }
    /// What it is asked for before it is measured.
    fn path(&self) -> &'static str {
        "/"
    }
    /// How long the body of its answer to that is.
    fn body_bytes(&self) -> usize {
        BODY.len()
    }
    /// What is still to be done once it accepts connections.
    fn make_ready(&self, _site: &Site) -> Result<(), String> {
        Ok(())
    }
    /// Fails with the reason as long as it does not accept connections.
    fn is_up(&self, site: &Site) -> Result<(), String> {
        for address in [site.http, site.https] {
            TcpStream::connect_timeout(&address, Duration::from_millis(100))
                .map_err(|error| format!("{address}: {error}"))?;
        }
        Ok(())
    }
}

/// What a figure's requests speak.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Protocol {
    Http1,
    /// Over UDP, at the port of the `https` address.
    Http3,
    /// Redis's own, at the `http` address.
    Redis,
}

impl Protocol {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http3 => "HTTP/3",
            Self::Redis => "Redis's protocol",
        }
    }

    /// Asks once, over a fresh connection.
    pub(crate) fn probe(self, site: &Site, path: &str) -> Result<Answer, AnswerError> {
        match self {
            Self::Redis => object_hosts::ping(site),
            Self::Http1 => answer::probe(site.http, path),
            Self::Http3 => quic::swarm::probe(site.https, PROBE_LIMIT)
                .map_err(|source| AnswerError::Quic { address: site.https, source }),
        }
    }
}

/// Where and with what one server runs.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// Belongs to this server alone.
    pub(crate) folder: PathBuf,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) cpu: usize,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error("no program at {}; build it (cargo build --release -p berth-cli) or name it with --berth", path.display())]
    NoBerth { path: PathBuf },
    #[error("could not find this very program, which is its own peer")]
    NoSelf(#[source] io::Error),
    #[error("could not prepare {what}")]
    Prepare { what: String, source: io::Error },
    #[error("could not make the certificate")]
    Certificate(#[from] rcgen::Error),
    #[error("{peer} {what}; it printed:\n{log}")]
    NotUp { peer: &'static str, what: String, log: String },
    #[error(transparent)]
    Cpu(#[from] CpuError),
}

/// The folder of one session of the harness: certificate, configurations, logs. Removed at the end.
pub(crate) struct Workshop {
    folder: PathBuf,
    chain: PathBuf,
    key: PathBuf,
    sites: u32,
}

impl Workshop {
    /// Makes the folder and one ECDSA P-256 certificate for all peers.
    pub(crate) fn open() -> Result<Self, PeerError> {
        let folder = std::env::temp_dir().join(format!("berth-perf-{}", std::process::id()));
        let workshop =
            Self { chain: folder.join("cert.pem"), key: folder.join("cert.key"), folder, sites: 0 };
        make_folder(&workshop.folder)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(["localhost".to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, "localhost");
        write_file(&workshop.chain, &params.self_signed(&key)?.pem())?;
        write_file(&workshop.key, &key.serialize_pem())?;
        Ok(workshop)
    }

    /// A fresh folder and free ports for one server.
    pub(crate) fn site(&mut self, cpu: usize) -> Result<Site, PeerError> {
        self.sites += 1;
        let folder = self.folder.join(format!("server-{}", self.sites));
        make_folder(&folder)?;
        let [http, https, admin] = free_addresses()
            .map_err(|source| PeerError::Prepare { what: "three free ports".to_owned(), source })?;
        Ok(Site { folder, http, https, admin, chain: self.chain.clone(), key: self.key.clone(), cpu })
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // Leftovers in the temporary folder are harmless; failing at the very end would be worse.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A running peer. Dropping it stops it.
pub(crate) struct Server {
    child: Child,
    pub(crate) site: Site,
    /// Which protocol, where requests are HTTP/1.1 otherwise.
    pub(crate) speaks: Protocol,
    /// Threads that had to be confined because the server had let them run elsewhere.
    pub(crate) moved_threads: usize,
}

impl Server {
    /// Starts the peer on its CPU and waits until both listeners accept.
    pub(crate) fn start(peer: &dyn Peer, site: Site) -> Result<Self, PeerError> {
        let file = site.folder.join("server.conf");
        write_file(&file, &peer.configuration(&site))?;
        let log_path = site.folder.join("server.log");
        let prepare = |source| PeerError::Prepare { what: format!("{}'s log file", peer.name()), source };
        let log = File::create(&log_path).map_err(prepare)?;
        let mut command = peer.command(&site, &file)?;
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(prepare)?).stderr(log);
        sys::pin_on_spawn(&mut command, site.cpu);
        let child = command.spawn().map_err(|source| PeerError::Prepare {
            what: format!("the process of {}", peer.name()),
            source,
        })?;
        let mut server = Self { child, site, speaks: peer.speaks(Protocol::Http1), moved_threads: 0 };
        let ready = server.wait_until_up(peer).and_then(|()| peer.make_ready(&server.site));
        ready.map_err(|what| PeerError::NotUp {
            peer: peer.name(),
            what,
            log: fs::read_to_string(&log_path).unwrap_or_default(),
        })?;
        server.confine()?;
        Ok(server)
    }

    pub(crate) fn tree(&self) -> Tree {
        Tree::of(self.child.id() as Pid)
    }

    /// Confines threads that were started since the last look.
    pub(crate) fn confine(&mut self) -> Result<(), CpuError> {
        self.moved_threads += self.tree().confine(self.site.cpu)?;
        Ok(())
    }

    fn wait_until_up(&mut self, peer: &dyn Peer) -> Result<(), String> {
        let deadline = Instant::now() + START_LIMIT;
        while let Err(reason) = peer.is_up(&self.site) {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("ended before it accepted a connection ({status})"));
            }
            if Instant::now() > deadline {
                return Err(format!("did not accept within {START_LIMIT:?} ({reason})"));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn stop(&mut self) {
        let pids = self.tree().pids().unwrap_or_default();
        // A process that has already gone is what we want.
        let _ = sys::signal(self.child.id() as Pid, End::Asked);
        let deadline = Instant::now() + STOP_LIMIT;
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(POLL);
        }
        for pid in pids {
            let _ = sys::signal(pid, End::Forced);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Three loopback ports that nobody listens on now. Somebody may take one before the server does; then the start fails
/// and says so.
fn free_addresses() -> io::Result<[SocketAddr; 3]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listeners = [bind()?, bind()?, bind()?];
    let [a, b, c] = listeners.each_ref().map(TcpListener::local_addr);
    Ok([a?, b?, c?])
}

fn make_folder(path: &Path) -> Result<(), PeerError> {
    fs::create_dir_all(path)
        .map_err(|source| PeerError::Prepare { what: format!("the folder {}", path.display()), source })
}

fn write_file(path: &Path, text: &str) -> Result<(), PeerError> {
    fs::write(path, text)
        .map_err(|source| PeerError::Prepare { what: format!("the file {}", path.display()), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_cannot_start_shows_what_it_printed() {
        struct Broken;
        impl Peer for Broken {
            fn name(&self) -> &'static str {
                "broken"
            }
            fn ensure(&self) -> Result<(), PeerError> {
                Ok(())
            }
            fn version(&self) -> Result<String, PeerError> {
                Ok(String::new())
            }
            fn configuration(&self, _: &Site) -> String {
                "the configuration".to_owned()
            }
            fn command(&self, _: &Site, file: &Path) -> Result<Command, PeerError> {
                let mut command = Command::new("cat");
                command.arg(file);
                Ok(command)
            }
        }
        let mut workshop = Workshop::open().unwrap();
        let site = workshop.site(0).unwrap();
        let error = Server::start(&Broken, site).err().unwrap().to_string();
        assert!(error.contains("ended before") && error.contains("the configuration"), "{error}");
    }
}
