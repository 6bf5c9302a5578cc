//! The peers: nginx, Caddy, the baselines of our own, and Berth.
//!
//! Fairness, decided once here: all answer the same body with about the same header bytes; no access log; no limit
//! on requests per connection; one process or core that serves; the same certificate; all send session tickets
//! (which our clients throw away), as they do by default. nginx allocates its connection slots (some 0.4 KiB each)
//! when it starts, so they are not in its growth per connection: that favours nginx. What is decided for the
//! baselines stands in [`crate::baseline`].

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::peer::{BODY, CONNECTIONS_MAX, OPEN_FILES, Peer, PeerError, Site};
use crate::quic::swarm::{self, DOWNLOAD_BYTES, DOWNLOAD_PATH};
use crate::tool::{self, CADDY, NGINX};

/// nginx, answering from its configuration without touching a file.
pub(crate) struct Nginx;

impl Peer for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn ensure(&self) -> Result<(), PeerError> {
        NGINX.ensure()?;
        Ok(())
    }

    fn version(&self) -> Result<String, PeerError> {
        Ok(NGINX.version("-v")?)
    }

    fn configuration(&self, site: &Site) -> String {
        let Site { folder, http, https, chain, key, .. } = site;
        let (folder, chain, key) = (folder.display(), chain.display(), key.display());
        format!(
            r#"daemon off;
worker_processes 1;
worker_rlimit_nofile {OPEN_FILES};
pid {folder}/nginx.pid;
error_log stderr warn;
events {{
    use epoll;
    worker_connections {CONNECTIONS_MAX};
    multi_accept on;
}}
http {{
    access_log off;
    default_type text/plain;
    keepalive_timeout 3600s;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    ssl_certificate {chain};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.3;
    ssl_ecdh_curve X25519;
    ssl_session_cache off;
    server {{
        listen {http} backlog=4096;
        listen {https} ssl http2 backlog=4096;
        location / {{ return 200 {BODY:?}; }}
    }}
}}
"#,
        )
    }

    fn command(&self, site: &Site, file: &Path) -> Result<Command, PeerError> {
        let mut command = Command::new(NGINX.ensure()?);
        command.arg("-p").arg(&site.folder).arg("-e").arg("stderr").arg("-c").arg(file);
        Ok(command)
    }
}

/// Caddy, with HTTP/3 as it comes, and one thread of Go for our one CPU.
pub(crate) struct Caddy;

impl Peer for Caddy {
    fn name(&self) -> &'static str {
        "caddy"
    }

    fn ensure(&self) -> Result<(), PeerError> {
        CADDY.ensure()?;
        Ok(())
    }

    fn version(&self) -> Result<String, PeerError> {
        Ok(CADDY.version("version")?)
    }

    fn configuration(&self, site: &Site) -> String {
        let Site { folder, http, https, chain, key, .. } = site;
        let (folder, chain, key) = (folder.display(), chain.display(), key.display());
        let (http, https) = (http.port(), https.port());
        format!(
            r#"{{
    admin off
    auto_https off
    storage file_system {folder}
    default_bind 127.0.0.1
    log {{
        output stderr
        level ERROR
    }}
}}
(answer) {{
    header Content-Type text/plain
    respond "{BODY}"
}}
http://:{http} {{
    import answer
}}
https://:{https} {{
    tls {chain} {key}
    import answer
}}
"#,
        )
    }

    fn command(&self, site: &Site, file: &Path) -> Result<Command, PeerError> {
        let mut command = Command::new(CADDY.ensure()?);
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
        // It writes down the configuration that it runs with, for a start without one.
        command.env("GOMAXPROCS", "1").env("XDG_CONFIG_HOME", &site.folder);
        Ok(command)
    }
}

/// A server of our own, as this very program runs it: see [`crate::baseline`].
pub(crate) enum Baseline {
    /// quinn and h3 on tokio.
    QuinnH3,
    /// quinn-proto alone.
    QuinnProto,
}

impl Peer for Baseline {
    fn name(&self) -> &'static str {
        match self {
            Self::QuinnH3 => "quinn-h3",
            Self::QuinnProto => "quinn-proto",
        }
    }

    fn ensure(&self) -> Result<(), PeerError> {
        Ok(())
    }

    fn version(&self) -> Result<String, PeerError> {
        let crates: &[&str] = match self {
            Self::QuinnH3 => &["quinn", "h3", "h3-quinn", "quinn-proto", "quinn-udp", "tokio"],
            Self::QuinnProto => &["quinn-proto", "quinn-udp"],
        };
        let version = |name: &&str| format!("{name} {}", locked_version(LOCK, name).unwrap_or("unknown"));
        Ok(crates.iter().map(version).collect::<Vec<_>>().join(", "))
    }

    fn configuration(&self, _site: &Site) -> String {
        "# Its options are all there is; perf/src/baseline.rs has the rest.\n".to_owned()
    }

    fn command(&self, site: &Site, _file: &Path) -> Result<Command, PeerError> {
        let mut command = Command::new(std::env::current_exe().map_err(PeerError::NoSelf)?);
        command.args(["serve", self.name(), "--address", &site.https.to_string()]);
        command.arg("--chain").arg(&site.chain).arg("--key").arg(&site.key);
        Ok(command)
    }

    fn is_up(&self, site: &Site) -> Result<(), String> {
        // Long enough for a handshake, and short enough that a first packet which came too early costs little.
        swarm::probe(site.https, Duration::from_millis(250)).map(drop).map_err(|error| error.to_string())
    }
}

const LOCK: &str = include_str!("../../Cargo.lock");

/// The version of a crate in a lock file, where it stands behind the name.
fn locked_version<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    let (_, behind) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    Some(behind.split_once('"')?.0)
}

/// Berth's data plane, one core, with the responder of its routes.
pub(crate) struct Berth {
    pub(crate) program: PathBuf,
}

impl Peer for Berth {
    fn name(&self) -> &'static str {
        "berth"
    }

    fn ensure(&self) -> Result<(), PeerError> {
        if self.program.is_file() { Ok(()) } else { Err(PeerError::NoBerth { path: self.program.clone() }) }
    }

    fn version(&self) -> Result<String, PeerError> {
        Ok(tool::first_line_of(Command::new(&self.program).arg("--version")))
    }

    /// `server` is a header that nginx sends too. The idle time-out is nginx's in the figures of idle connections.
    fn configuration(&self, site: &Site) -> String {
        let Site { folder, http, https, admin, chain, key, cpu } = site;
        let (folder, chain, key) = (folder.display(), chain.display(), key.display());
        format!(
            r#"[node]
name = "perf"
state = "{folder}/state"
cores = [{cpu}]

[[listen]]
address = "{http}"
protocol = "http"

[[listen]]
address = "{https}"
protocol = "https"

[tls]
certificates = [{{ chain = "{chain}", key = "{key}" }}]

[limits]
idle_timeout = "3600s"
connections = {CONNECTIONS_MAX}

[admin]
listen = "{admin}"

[log]
level = "warn"
access = "off"

[[routes]]
host = "*"
path = "/"
respond = {{ status = 200, body = {BODY:?}, headers = {{ content-type = "text/plain", server = "berth" }} }}

[[routes]]
host = "*"
path = "{DOWNLOAD_PATH}"
stream = {{ bytes = {DOWNLOAD_BYTES} }}
"#
        )
    }

    fn command(&self, _site: &Site, file: &Path) -> Result<Command, PeerError> {
        self.ensure()?;
        let mut command = Command::new(&self.program);
        command.arg("dataplane").arg("--config").arg(file);
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn berth_is_given_the_cpu_that_it_is_confined_to() {
        let address = ([127, 0, 0, 1], 1).into();
        let (folder, chain, key) = ("/x".into(), "/c".into(), "/k".into());
        let site = Site { folder, http: address, https: address, admin: address, chain, key, cpu: 3 };
        let berth = Berth { program: "/no/such/berth".into() };
        assert!(berth.configuration(&site).contains("cores = [3]"));
        assert!(matches!(berth.ensure(), Err(PeerError::NoBerth { .. })));
    }

    #[test]
    fn versions_are_read_from_the_lock_file_by_the_whole_name() {
        let lock = "[[package]]\nname = \"h3-quinn\"\nversion = \"0.0.10\"\n\n[[package]]\nname = \"h3\"\nversion = \"0.0.8\"\n";
        assert_eq!(locked_version(lock, "h3"), Some("0.0.8"));
        assert_eq!(locked_version(lock, "quinn"), None);
        assert!(locked_version(LOCK, "quinn-proto").is_some());
    }
}
