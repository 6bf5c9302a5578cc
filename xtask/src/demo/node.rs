//! The node of the demo: a `berth dev` process and its addresses. It is stopped on drop.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::shell::{self, Failure};
use crate::workspace::Workspace;

/// From start to the first answer: a certificate is made, one thread starts per core.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// From the request to stop to the exit: a graceful stop of a node whose clients are gone.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The addresses that the documentation names, used where they are free.
const PLAIN_PORT: u16 = 8080;
const TLS_PORT: u16 = 8443;
const ADMIN_PORT: u16 = 9090;

pub(super) struct Node {
    process: Child,
    /// HTTP/1.1 and h2c.
    pub(super) plain: SocketAddr,
    /// HTTP/1.1 and HTTP/2 over TLS.
    pub(super) tls: SocketAddr,
    pub(super) admin: SocketAddr,
}

impl Node {
    /// Starts `berth dev` from the release build, on an empty state folder.
    pub(super) fn start(workspace: &Workspace) -> Result<Self, Failure> {
        let state = state(workspace);
        match fs::remove_dir_all(&state) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::new(format!("cannot empty {}: {error}", state.display()))),
        }
        let [plain, tls, admin] = addresses()?;
        let process = spawn(workspace, [plain, tls, admin])?;
        Ok(Self { process, plain, tls, admin })
    }

    /// Kills the node where it stands.
    pub(super) fn kill(&mut self) -> Result<(), Failure> {
        let killed = self.process.kill().and_then(|()| self.process.wait());
        killed.map(drop).map_err(|error| Failure::new(format!("cannot kill berth: {error}")))
    }

    /// Starts another on what the last one has left, at the same addresses.
    pub(super) fn start_again(&mut self, workspace: &Workspace) -> Result<(), Failure> {
        self.process = spawn(workspace, [self.plain, self.tls, self.admin])?;
        Ok(())
    }

    /// Waits until the node says that it is ready, it ends, the time is up, or somebody stops us.
    pub(super) fn wait_until_ready(&mut self, stop: &AtomicBool) -> Result<(), Failure> {
        let health = format!("http://{}/health/ready", self.admin);
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if let Some(status) = self.ended()? {
                return Err(Failure::new(format!(
                    "berth ended before it was ready: {status}; its own words are above"
                )));
            }
            if stop.load(Ordering::Relaxed) {
                return Err(Failure::new("stopped before the node was ready"));
            }
            if shell::succeeds("curl", ["--silent", "--fail", "--noproxy", "*", "--max-time", "2", &health]) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let waited = READY_WITHIN.as_secs();
                return Err(Failure::new(format!("{health} did not answer 200 within {waited} s")));
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// The exit status, if the node has ended.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>, Failure> {
        self.process.try_wait().map_err(|error| Failure::new(format!("cannot look at berth: {error}")))
    }

    /// Asks the node to stop and waits for it. An exit with an error is a failure of the demo.
    pub(super) fn stop(&mut self) -> Result<(), Failure> {
        self.ask_to_stop();
        let deadline = Instant::now() + STOPPED_WITHIN;
        while Instant::now() < deadline {
            match self.ended()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(Failure::new(format!("berth stopped with an error: {status}"))),
                None => thread::sleep(LOOK_EVERY),
            }
        }
        Err(Failure::new(format!("berth did not stop within {} s", STOPPED_WITHIN.as_secs())))
    }

    /// Sends SIGTERM through the shell's own `kill`, which every system has.
    fn ask_to_stop(&self) {
        let script = format!("kill -TERM {}", self.process.id());
        shell::succeeds("sh", ["-c", &script]);
    }
}

fn state(workspace: &Workspace) -> PathBuf {
    workspace.target("demo-state")
}

fn spawn(workspace: &Workspace, [plain, tls, admin]: [SocketAddr; 3]) -> Result<Child, Failure> {
    let mut berth = Command::new(workspace.target("release/berth"));
    berth.arg("dev").arg("--state").arg(state(workspace));
    for (flag, address) in [("--listen", plain), ("--tls-listen", tls), ("--admin", admin)] {
        berth.arg(flag).arg(address.to_string());
    }
    berth.spawn().map_err(|error| Failure::new(format!("cannot start berth: {error}")))
}

impl Drop for Node {
    fn drop(&mut self) {
        if matches!(self.ended(), Ok(Some(_))) {
            return;
        }
        // A demo that failed still leaves nothing behind; its failure is already told.
        if self.stop().is_err() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// Three free loopback addresses. The documented ports where possible, so that what people read
/// and what they see agree.
fn addresses() -> Result<[SocketAddr; 3], Failure> {
    // Held together, so that the same free port is not given twice, and let go before berth binds.
    let held = [PLAIN_PORT, TLS_PORT, ADMIN_PORT].map(|port| {
        bind(port).or_else(|_| bind(0)).and_then(|listener| Ok((listener.local_addr()?, listener)))
    });
    let [plain, tls, admin] = held;
    let free = |held: std::io::Result<(SocketAddr, TcpListener)>| {
        held.map_err(|error| Failure::new(format!("no free port on the loopback interface: {error}")))
    };
    let (plain, tls, admin) = (free(plain)?, free(tls)?, free(admin)?);
    Ok([plain.0, tls.0, admin.0])
}

/// A listener on this port of the loopback interface; any free one for 0.
pub(super) fn bind(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_occupied_port_is_given_up_for_a_free_one() {
        let first = bind(0).unwrap();
        let taken = first.local_addr().unwrap().port();
        assert!(bind(taken).is_err(), "the fallback in `addresses` relies on this");
        let [plain, tls, admin] = addresses().unwrap();
        assert!(plain != tls && tls != admin && plain != admin);
    }
}
