//! The hosts of objects, and Redis: each keeps counters, and answers an increment when it is durable.
//!
//! Fairness, decided once here. Berth runs the class of `examples/counter`. workerd runs the same in JavaScript as one writes
//! it: a Durable Object with SQLite on local disk, whose `put` is not waited for, since its output gate holds the answer. Redis
//! syncs its file before it answers (`appendfsync always`) and never writes it anew. None has a log of requests; each is given
//! one CPU, with all its threads, and a folder on the same disk.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::answer::{Answer, AnswerError};
use crate::hosts::{accepts, deploy};
use crate::peer::{Peer, PeerError, Protocol, Site};
use crate::peers::Berth;
use crate::tool::{REDIS, WORKERD};

/// Objects that may live at a time: the 2,000 of the figure of memory, and some.
const INSTANCES: u32 = 4_000;
/// A counter that nobody adds to.
const UNTOUCHED: &str = "/counter/untouched";

/// A node with the class of counters.
pub(crate) struct BerthCounters {
    pub(crate) program: PathBuf,
    /// The class.
    pub(crate) counter: PathBuf,
}

impl BerthCounters {
    fn berth(&self) -> Berth {
        Berth { program: self.program.clone() }
    }
}

impl Peer for BerthCounters {
    fn name(&self) -> &'static str {
        "berth"
    }

    fn ensure(&self) -> Result<(), PeerError> {
        self.berth().ensure()
    }

    fn version(&self) -> Result<String, PeerError> {
        self.berth().version()
    }

    fn configuration(&self, site: &Site) -> String {
        format!("{}\n[workers]\ninstances = {INSTANCES}\n", self.berth().configuration(site))
    }

    fn command(&self, site: &Site, file: &Path) -> Result<Command, PeerError> {
        self.berth().command(site, file)
    }

    fn make_ready(&self, site: &Site) -> Result<(), String> {
        let zone = site.http.ip().to_string();
        deploy(&self.program, site, &self.counter, |component| {
            format!(
                "name = \"counting\"\nzone = \"{zone}\"\n\n[objects.Counter]\ncomponent = {component:?}\n\
                 routes = [\"/counter/:name\"]\n"
            )
        })
    }

    fn path(&self) -> &'static str {
        UNTOUCHED
    }

    fn body_bytes(&self) -> usize {
        1
    }
}

/// workerd with the same class in JavaScript.
pub(crate) struct WorkerdCounters;

impl Peer for WorkerdCounters {
    fn name(&self) -> &'static str {
        "workerd"
    }

    fn ensure(&self) -> Result<(), PeerError> {
        WORKERD.ensure()?;
        Ok(())
    }

    fn version(&self) -> Result<String, PeerError> {
        Ok(WORKERD.version()?)
    }

    fn configuration(&self, site: &Site) -> String {
        let (address, folder) = (site.http, data(site));
        let script = r#"
const headers = { 'content-type': 'text/plain' };
export default {
  fetch(request, env) {
    const name = new URL(request.url).pathname.slice('/counter/'.length);
    return env.COUNTERS.get(env.COUNTERS.idFromName(name)).fetch(request);
  }
}
export class Counter {
  constructor(state) { this.storage = state.storage; }
  async fetch(request) {
    let count = (await this.storage.get('count')) ?? 0;
    if (request.method === 'POST') { count += 1; this.storage.put('count', count); }
    return new Response(String(count), { headers });
  }
}
"#;
        format!(
            r#"using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "main", worker = .main),
    (name = "disk", disk = (path = {folder:?}, writable = true)),
  ],
  sockets = [(name = "http", address = "{address}", http = (), service = "main")],
);

const main :Workerd.Worker = (
  modules = [(name = "main.js", esModule = {script:?})],
  compatibilityDate = "2026-11-01",
  durableObjectNamespaces = [(className = "Counter", uniqueKey = "counters", enableSql = true)],
  durableObjectStorage = (localDisk = "disk"),
  bindings = [(name = "COUNTERS", durableObjectNamespace = "Counter")],
);
"#
        )
    }

    fn command(&self, site: &Site, file: &Path) -> Result<Command, PeerError> {
        make_data(site)?;
        let mut command = Command::new(WORKERD.ensure()?);
        command.arg("serve").arg(file);
        Ok(command)
    }

    fn is_up(&self, site: &Site) -> Result<(), String> {
        accepts(site)
    }

    fn path(&self) -> &'static str {
        UNTOUCHED
    }

    fn body_bytes(&self) -> usize {
        1
    }
}

/// Redis, which syncs before it answers.
pub(crate) struct Redis;

impl Peer for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn ensure(&self) -> Result<(), PeerError> {
        REDIS.ensure()?;
        Ok(())
    }

    fn version(&self) -> Result<String, PeerError> {
        Ok(REDIS.version("--version")?)
    }

    fn configuration(&self, site: &Site) -> String {
        format!(
            "bind {}\nport {}\ndir {}\nsave \"\"\nappendonly yes\nappendfsync always\nauto-aof-rewrite-percentage 0\n\
             daemonize no\n",
            site.http.ip(),
            site.http.port(),
            data(site)
        )
    }

    fn command(&self, site: &Site, file: &Path) -> Result<Command, PeerError> {
        make_data(site)?;
        let mut command = Command::new(REDIS.ensure()?);
        command.arg(file);
        Ok(command)
    }

    fn is_up(&self, site: &Site) -> Result<(), String> {
        accepts(site)
    }

    fn speaks(&self, _asked: Protocol) -> Protocol {
        Protocol::Redis
    }

    fn body_bytes(&self) -> usize {
        0
    }
}

/// Says PING to a Redis.
pub(crate) fn ping(site: &Site) -> Result<Answer, AnswerError> {
    let address = site.http;
    let asked = || -> io::Result<[u8; 7]> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"*1\r\n$4\r\nPING\r\n")?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    };
    match asked() {
        Ok(answer) if &answer == b"+PONG\r\n" => Ok(Answer { status: 200, head_bytes: 0, body_bytes: 0 }),
        Ok(answer) => {
            let source = io::Error::other(format!("it said {:?}", String::from_utf8_lossy(&answer)));
            Err(AnswerError::Io { address, source })
        }
        Err(source) => Err(AnswerError::Io { address, source }),
    }
}

fn data(site: &Site) -> String {
    site.folder.join("data").display().to_string()
}

fn make_data(site: &Site) -> Result<(), PeerError> {
    let folder = site.folder.join("data");
    fs::create_dir_all(&folder)
        .map_err(|source| PeerError::Prepare { what: format!("the folder {}", folder.display()), source })
}
