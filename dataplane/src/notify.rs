//! What the node tells its service manager (sd_notify): ready, reloading, stopping, alive.
//!
//! One datagram to the socket named in `NOTIFY_SOCKET`; without it nothing happens. A dozen lines
//! that need no library.

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager, if there is one.
pub struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// Finds it in the environment.
    pub fn from_env() -> Self {
        let watchdog =
            std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok()).map(Duration::from_micros);
        Self { socket: std::env::var_os("NOTIFY_SOCKET").and_then(|name| connect(&name)), watchdog }
    }

    /// How often it wants to hear that the node is alive; half of that is a good interval.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The node takes connections.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// The node reads its configuration again; `ready` follows.
    pub fn reloading(&self) {
        self.tell("RELOADING=1");
    }

    /// The node drains.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Every core made progress since the last time.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, state: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(state.as_bytes(), address)
        {
            tracing::warn!(%error, state, "notify.send failed");
        }
    }
}

/// A name that starts with `@` is an abstract socket.
fn connect(name: &OsString) -> Option<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    };
    Some((UnixDatagram::unbound().ok()?, address.ok()?))
}
