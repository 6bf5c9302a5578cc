//! The way out: requests of this node to origins and to whom guests call.
//!
//! Each core has one [`Client`]. It pools connections, for each zone by itself, and speaks HTTP/1.1 over TCP or TLS. hyper
//! does the protocol; what is ours is who may go where ([`crate::enforce`]), what a request may cost in time and
//! connections, and when one is sent again.
//!
//! From the outside in: [`client`] sends one request, with what is done when a connection fails; [`pool`] keeps connections
//! and bounds them; `dial` makes them: it resolves ([`resolve`]), asks for admission, connects, and speaks TLS; [`body`]
//! carries both bodies; `fields` knows which header fields cross a node; [`error`] names what went wrong.
//!
//! * A connection is driven by a task of its own, on the bill of whom it serves. Who drops a request or the body of its
//!   reply ends the task, and with it the connection.
//! * Nothing follows a redirect here: who does sends again, and is judged again.

pub mod body;
pub mod client;
mod dial;
pub mod error;
mod fields;
pub mod pool;
pub mod resolve;
mod wire;

#[cfg(test)]
mod tests;

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use berth_runtime::stats;
use http::HeaderValue;

pub use body::ReplyBody;
pub use client::{Client, ClientOptions, HostField, Order, Retry};
pub use dial::Tls;
pub use error::SendError;
pub use pool::PoolLimits;
pub use resolve::{CoreResolver, Resolve, ResolverOptions, Resolvers};

stats! {
    /// The numbers of one core's client.
    pub struct ClientNumbers {
        /// Requests sent to other hosts.
        Counter outgoing_requests;
        /// Connections made to other hosts.
        Counter outgoing_connections;
        /// Connections to other hosts that are open.
        Gauge outgoing_connections_open;
        /// Those of them that wait for a request.
        Gauge outgoing_connections_idle;
        /// Requests sent over a connection that had served another before.
        Counter outgoing_reused;
        /// Requests sent a second time because the connection that they were sent over first was closed.
        Counter outgoing_retried;
        /// Requests refused because their destination may not be reached.
        Counter outgoing_refused;
        /// Requests refused because too many connections were in use.
        Counter limit_outgoing_connections;
        /// Requests that failed because time ran out.
        Counter outgoing_timeouts;
        /// Requests that failed for any other reason.
        Counter outgoing_errors;
        /// Replies whose body was cut off, or paused for too long.
        Counter outgoing_bodies_cut;
    }
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    https: bool,
    /// A name in lower case without a dot at its end, or an address without brackets.
    host: Arc<str>,
    port: u16,
    /// The value of the `host` field.
    authority: HeaderValue,
}

/// Bytes of the longest name (RFC 1035, 2.3.4), and of one part of it.
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

impl Destination {
    /// A destination: a name, or an address with or without brackets.
    pub fn new(https: bool, host: &str, port: u16) -> Result<Self, SendError> {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let (host, shown) = if let Ok(address) = bare.unwrap_or(host).parse::<Ipv6Addr>() {
            (address.to_string(), format!("[{address}]"))
        } else {
            let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
            if !is_name(&name) {
                return Err(SendError::HttpRequestUriInvalid("the host is no name and no address"));
            }
            (name.clone(), name)
        };
        let usual = if https { 443 } else { 80 };
        let authority = if port == usual { shown } else { format!("{shown}:{port}") };
        let authority = HeaderValue::try_from(authority)
            .map_err(|_| SendError::HttpRequestUriInvalid("the host is no name and no address"))?;
        if port == 0 {
            return Err(SendError::HttpRequestUriInvalid("port 0 is none"));
        }
        Ok(Self { https, host: host.into(), port, authority })
    }

    /// A destination from an authority: `host` or `host:port`, without user or password.
    pub fn parse(https: bool, authority: &str) -> Result<Self, SendError> {
        let wrong = SendError::HttpRequestUriInvalid("the authority is not host or host:port");
        if authority.contains('@') {
            return Err(wrong);
        }
        // The last colon parts the port off, unless it stands within an address in brackets.
        match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
                match port.parse() {
                    Ok(port) if is_port => Self::new(https, host, port),
                    _ => Err(wrong),
                }
            }
            _ => Self::new(https, authority, if https { 443 } else { 80 }),
        }
    }

    /// Whether it is reached over TLS.
    pub fn https(&self) -> bool {
        self.https
    }

    /// The host: a name in lower case, or an address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host as the `host` field has it: with brackets, and with the port if it is not the usual one.
    pub fn authority(&self) -> &HeaderValue {
        &self.authority
    }
}

fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    name.len() <= NAME_BYTES_MAX && name.split('.').all(is_label)
}

/// How long the parts of an exchange may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Until there is a connection: waiting for a place in the pool, the name, TCP and TLS.
    pub connect: Duration,
    /// From then to the head of the reply. Begins anew with each piece of the request's body that goes.
    pub first_byte: Duration,
    /// Between two pieces of the reply's body.
    pub between_bytes: Duration,
}
