//! How a connection is made: the name resolved, each address judged, the fastest taken, TLS spoken.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_runtime::{TcpStream, timeout};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::client::conn::http1;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::body::Carried;
use super::client::{ClientOptions, Order};
use super::error::SendError;
use super::pool::{Connection, Permit};
use super::resolve::{Resolve, known};
use super::wire::Wire;
use crate::enforce::{Admitted, Connect, Enforce, admit};

/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 6;
/// How long an attempt has before the next address is tried beside it (RFC 8305, 5).
const STAGGER: Duration = Duration::from_millis(250);

/// Whom the servers of origins are certified by, and how TLS is spoken with them.
#[derive(Clone)]
pub struct Tls(TlsConnector);

impl Tls {
    /// Trusts these authorities. TLS 1.2 and 1.3, HTTP/1.1.
    pub fn new(roots: RootCertStore) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A ticket that one zone got would make another's connection look like the same client's. The pool is what
        // spares handshakes.
        config.resumption = Resumption::disabled();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Trusts whom this machine trusts: the store of its distribution, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    /// Reads files; one for the process is enough.
    pub fn of_this_machine() -> Result<Self, rustls::Error> {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "outgoing.roots: a part of this machine's certificate store cannot be read");
        }
        let mut roots = RootCertStore::empty();
        let (added, ignored) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            tracing::warn!(
                ignored,
                "outgoing.roots: this machine trusts no authority, so no https origin will be; install ca-certificates, or set SSL_CERT_FILE"
            );
        }
        Self::new(roots)
    }
}

/// What making a connection needs of its client.
pub(super) struct Dialer<'a> {
    pub(super) resolver: &'a dyn Resolve,
    pub(super) enforce: &'a dyn Enforce,
    pub(super) tls: &'a Tls,
    pub(super) options: &'a ClientOptions,
}

impl Dialer<'_> {
    /// Makes a connection until then.
    pub(super) async fn dial(
        &self,
        order: &Order<'_>,
        permit: Permit,
        until: Instant,
    ) -> Result<Connection, SendError> {
        let left = || until.saturating_duration_since(berth_runtime::now());
        let addresses = match known(order.to.host()) {
            Some(addresses) => addresses,
            None => {
                let lookup = self.resolver.resolve(&order.who.zone, order.to.host());
                let answer = timeout(left(), lookup).await.map_err(|_| SendError::DnsTimeout)?;
                answer.map_err(SendError::from_resolve)?
            }
        };
        let connecting = Box::pin(connect_any(self.judge(order, &addresses)?));
        let (stream, address) =
            timeout(left(), connecting).await.map_err(|_| SendError::ConnectionTimeout)??;
        // A request is written in whole pieces; none should wait for the answer to another.
        let _ = stream.set_nodelay(true);
        if !order.to.https() {
            return self.speak(stream, address, permit).await;
        }
        let name = ServerName::try_from(order.to.host().to_owned()).map_err(|_| {
            SendError::TlsProtocolError("the host's name cannot be in a certificate".to_owned())
        })?;
        let shaking = timeout(left(), self.tls.0.connect(name, stream)).await;
        let stream = shaking
            .map_err(|_| SendError::ConnectionTimeout)?
            .map_err(|error| SendError::from_handshake(&error))?;
        self.speak(Box::new(stream), address, permit).await
    }

    /// The addresses that may be connected to. If none may, the first refusal is why.
    fn judge<'a>(
        &self,
        order: &Order<'a>,
        addresses: &[IpAddr],
    ) -> Result<Vec<Admitted<Connect<'a>>>, SendError> {
        let mut admitted = Vec::new();
        let mut refusal = None;
        for address in interleave(addresses) {
            let address = SocketAddr::new(address, order.to.port());
            match admit(self.enforce, Connect { who: order.who, host: order.to.host(), address }) {
                Ok(connect) => admitted.push(connect),
                Err(denied) => refusal = refusal.or(Some(denied)),
            }
        }
        match refusal {
            Some(denied) if admitted.is_empty() => {
                tracing::debug!(%denied, "outgoing.refused");
                Err(denied.into())
            }
            _ if admitted.is_empty() => Err(SendError::DestinationNotFound),
            _ => {
                admitted.truncate(ADDRESSES_MAX);
                Ok(admitted)
            }
        }
    }

    async fn speak(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        address: SocketAddr,
        permit: Permit,
    ) -> Result<Connection, SendError> {
        let received = Rc::new(Cell::new(0));
        let wire = Wire::new(stream, Rc::clone(&received));
        let handshake = http1::Builder::new()
            .max_buf_size(self.options.header_bytes.max(BUFFER_MIN))
            .max_header_size(self.options.header_bytes)
            .max_headers(self.options.header_count)
            .handshake::<_, Carried>(wire);
        let (sender, driver) =
            handshake.await.map_err(|error| SendError::InternalError(error.to_string()))?;
        Ok(Connection::new(sender, driver, received, address, permit))
    }
}

/// The least that hyper takes as the size of its buffers.
const BUFFER_MIN: usize = 8192;

/// The two families by turns, each in its order, so that one which leads nowhere costs little (RFC 8305, 4).
fn interleave(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv6() == first_is_v6);
    let mut first = first.into_iter();
    let mut second = second.into_iter();
    let mut all = Vec::with_capacity(addresses.len());
    while all.len() < addresses.len() {
        all.extend(first.next());
        all.extend(second.next());
    }
    all
}

/// Connects to what was admitted, and to nothing else: the only place from which connections of tenants leave.
async fn connect(admitted: Admitted<Connect<'_>>) -> io::Result<(TcpStream, SocketAddr)> {
    let address = admitted.act().address;
    TcpStream::connect(address).await.map(|stream| (stream, address))
}

/// Connects to the first address that answers. Each has a head start before the next.
async fn connect_any(admitted: Vec<Admitted<Connect<'_>>>) -> Result<(TcpStream, SocketAddr), SendError> {
    let mut waiting = admitted.into_iter();
    let mut running: FuturesUnordered<_> = waiting.next().map(connect).into_iter().collect();
    let mut failure = None;
    loop {
        let head_start = if waiting.len() > 0 { STAGGER } else { Duration::MAX };
        match timeout(head_start, running.next()).await {
            Ok(Some(Ok(connected))) => return Ok(connected),
            Ok(Some(Err(error))) => failure = Some(SendError::from_connect(error)),
            Ok(None) => return Err(failure.unwrap_or(SendError::DestinationNotFound)),
            Err(_) => {}
        }
        running.extend(waiting.next().map(connect));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_families_take_turns_and_keep_their_order() {
        let all = |text: &str| -> Vec<IpAddr> { text.split(' ').map(|one| one.parse().unwrap()).collect() };
        assert_eq!(interleave(&all("::1 ::2 ::3 1.1.1.1")), all("::1 1.1.1.1 ::2 ::3"));
        assert_eq!(interleave(&all("1.1.1.1 ::1 2.2.2.2 ::2")), all("1.1.1.1 ::1 2.2.2.2 ::2"));
        assert!(interleave(&[]).is_empty());
    }
}
