//! The peers: nginx and Berth.
//!
//! Fairness, decided once here: both answer the same body with about the same header bytes; no access log; no limit
//! on requests per connection; one process or core that serves; the same certificate; both send session tickets
//! (which our clients throw away), as both do by default. nginx allocates its connection slots (some 0.4 KiB each)
//! when it starts, so they are not in its growth per connection: that favours nginx.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::peer::{BODY, CONNECTIONS_MAX, OPEN_FILES, Peer, PeerError, Site};
use crate::tool::{self, NGINX};

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
}
