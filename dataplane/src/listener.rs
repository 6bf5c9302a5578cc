//! From an accepted socket to an HTTP connection: admission, PROXY header, TLS, version.
//!
//! Each step has a bound in time (`limits.handshake_timeout` up to the end of the TLS handshake)
//! and in number (`limits.connections`, `connections_per_address`, `handshakes`); what is refused
//! is reset at once, so that it costs no further state.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use berth_runtime::{Payer, TcpListener, TcpStream, spawn_for, timeout};
use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsAcceptor;

use crate::config::Cidr;
use crate::connections::{Admission, Connections, Refused};
use crate::drain::{Drain, Draining};
use crate::http::message::{Peer, Security, Service, Tunnel};
use crate::http::prefixed::Prefixed;
use crate::http::{Core, h1, h2};
use crate::proxy_protocol::{self, Parsed};

/// The first bytes of an HTTP/2 connection (RFC 9113, 3.4), by which h2c is told from HTTP/1.1.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long accepting pauses when descriptors or memory have run out: first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// What a listener speaks and whom it trusts.
pub struct Door {
    /// Speaks TLS with this, or clear text.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Peers that must begin with a PROXY header.
    pub proxy_from: Vec<Cidr>,
}

/// What all listeners of a core share.
pub struct House<S> {
    /// The core as connections see it.
    pub core: Rc<Core<S>>,
    /// The node's admission.
    pub connections: Connections,
    /// The end.
    pub drain: Drain,
}

/// Accepts until the drain begins.
pub async fn run<S: Service>(listener: TcpListener, door: Rc<Door>, house: Rc<House<S>>) {
    let draining = house.drain.listen();
    let mut pause = PAUSE.0;
    loop {
        let accepted = std::future::poll_fn(|cx| {
            if draining.poll_on(cx).is_ready() {
                return Poll::Ready(None);
            }
            listener.poll_accept(cx).map(Some)
        });
        match accepted.await {
            None => return,
            Some(Ok(stream)) => {
                pause = PAUSE.0;
                receive(stream, &door, &house);
                if berth_runtime::out_of_budget() {
                    berth_runtime::yield_now().await; // A flood of connections is no reason to be late.
                }
            }
            Some(Err(error)) => {
                tracing::warn!(%error, pause_ms = pause.as_millis() as u64, "listener.accept failed; pausing");
                berth_runtime::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

/// Admits a connection and gives it a task, or resets it.
fn receive<S: Service>(stream: TcpStream, door: &Rc<Door>, house: &Rc<House<S>>) {
    let numbers = &house.core.numbers;
    let (Ok(client), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else {
        return; // Gone already.
    };
    let trusted = door.proxy_from.iter().any(|range| range.contains(client.ip()));
    let proxied = if trusted { Proxied::Yes } else { Proxied::No };
    let admitted = match proxied {
        Proxied::Yes => house.connections.admit_proxied(),
        Proxied::No => house.connections.admit(client.ip()),
    };
    let admission = match admitted {
        Ok(admission) => admission,
        Err(refused) => {
            count_refused(house, refused);
            let _ = stream.reset_on_close();
            return;
        }
    };
    numbers.connections_accepted.add(1);
    numbers.connections_open.add(1);
    let _ = stream.set_nodelay(true);
    let (door, house) = (Rc::clone(door), Rc::clone(house));
    let open = Open(Rc::clone(&house));
    let draining = house.drain.listen();
    let peer = Peer { client, local, security: Security::Plain };
    spawn_for(payer(client.ip()), async move {
        let _open = open;
        let visit = Visit { door, house, draining, admission };
        // What it takes to come in is boxed and freed before the connection is served: an idle
        // connection keeps only what serving it needs.
        if let Some(serving) = Box::pin(visit.come_in(stream, peer, proxied)).await {
            serving.await;
        }
    });
}

/// Who pays for a connection's CPU time: its peer's IPv4 address or IPv6 /64, as in admission. Clients
/// behind one proxy share what the proxy gets.
pub(crate) fn payer(peer: IpAddr) -> Payer {
    match peer.to_canonical() {
        IpAddr::V4(address) => Payer(u64::from(address.to_bits())),
        IpAddr::V6(address) => Payer((address.to_bits() >> 64) as u64),
    }
}

fn count_refused<S>(house: &House<S>, refused: Refused) {
    let numbers = &house.core.numbers;
    match refused {
        Refused::Node(_) => numbers.limit_connections.add(1),
        Refused::Address(_) => numbers.limit_connections_per_address.add(1),
        Refused::Handshakes(_) => numbers.limit_handshakes.add(1),
    }
}

/// Counts a connection as open until it is dropped.
struct Open<S>(Rc<House<S>>);

impl<S> Drop for Open<S> {
    fn drop(&mut self) {
        let open = &self.0.core.numbers.connections_open;
        open.set(open.get().saturating_sub(1));
    }
}

/// One connection on its way in, and then as long as it is served.
struct Visit<S> {
    door: Rc<Door>,
    house: Rc<House<S>>,
    draining: Draining,
    admission: Admission,
}

/// An HTTP connection, ready to be served to its end.
type Serving = Pin<Box<dyn Future<Output = ()>>>;

/// Whether a peer must begin with a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proxied {
    Yes,
    No,
}

impl<S: Service> Visit<S> {
    /// From the accepted socket to an HTTP connection; `None` when it was refused or went away.
    async fn come_in(mut self, mut stream: TcpStream, mut peer: Peer, proxied: Proxied) -> Option<Serving> {
        let mut bytes = BytesMut::new();
        if proxied == Proxied::Yes {
            self.read_proxy_header(&mut stream, &mut bytes, &mut peer).await?;
        }
        match self.door.tls.clone() {
            None => self.tell_version(stream, bytes, peer).await,
            Some(config) => {
                self.shake_hands(config, Prefixed { read: bytes.freeze(), io: stream }, peer).await
            }
        }
    }

    /// Reads the PROXY header that a trusted peer must send; from then on the client is the one
    /// that it names.
    async fn read_proxy_header(
        &mut self,
        stream: &mut TcpStream,
        bytes: &mut BytesMut,
        peer: &mut Peer,
    ) -> Option<()> {
        let limit = self.house.core.limits.handshake_timeout;
        let header = timeout(limit, read_proxy_header(stream, bytes)).await;
        let numbers = &self.house.core.numbers;
        match header {
            Ok(Ok(Some(forwarded))) => {
                if let Err(refused) = self.admission.attribute(forwarded.source.ip()) {
                    count_refused(&self.house, refused);
                    let _ = stream.reset_on_close();
                    return None;
                }
                (peer.client, peer.local) = (forwarded.source, forwarded.destination);
                Some(())
            }
            Ok(Ok(None)) => Some(()),
            Ok(Err(error)) => {
                numbers.proxy_header_failures.add(1);
                tracing::debug!(client = %peer.client, %error, "proxy_header.refused");
                None
            }
            Err(_) => {
                numbers.limit_handshake_timeout.add(1);
                None
            }
        }
    }

    /// Clear text: the first bytes tell the version.
    async fn tell_version(self, mut stream: TcpStream, mut bytes: BytesMut, peer: Peer) -> Option<Serving> {
        let core = &self.house.core;
        if bytes.is_empty() {
            // Until the first byte the connection idles; from then on a head must not take too long.
            let first = timeout(core.limits.idle_timeout, h1::read_some(&mut stream, &mut bytes));
            match self.draining.or(first).await? {
                Ok(Ok(1..)) => {}
                Ok(_) => return None,
                Err(_) => {
                    core.numbers.limit_idle_timeout.add(1);
                    return None;
                }
            }
        }
        let told = timeout(core.limits.header_timeout, tell_version(&mut stream, &mut bytes));
        let version = match self.draining.or(told).await? {
            Ok(version) => version.ok()?,
            Err(_) => {
                core.numbers.limit_header_timeout.add(1);
                return None;
            }
        };
        let peer = Rc::new(peer);
        Some(match version {
            Version::Http1 => self.serve_http1(stream, bytes, peer),
            Version::Http2 => self.serve_http2(Prefixed { read: bytes.freeze(), io: stream }, peer),
        })
    }

    /// TLS: ALPN tells the version.
    async fn shake_hands(
        self,
        config: Arc<rustls::ServerConfig>,
        stream: Prefixed<TcpStream>,
        mut peer: Peer,
    ) -> Option<Serving> {
        let core = &self.house.core;
        let numbers = &core.numbers;
        let handshake = match self.house.connections.handshake() {
            Ok(handshake) => handshake,
            Err(refused) => {
                count_refused(&self.house, refused);
                let _ = stream.io.reset_on_close();
                return None;
            }
        };
        let accepted = timeout(core.limits.handshake_timeout, TlsAcceptor::from(config).accept(stream));
        let stream = match self.draining.or(accepted).await? {
            Ok(Ok(stream)) => Box::new(stream),
            Ok(Err(error)) => {
                numbers.tls_handshake_failures.add(1);
                tracing::debug!(client = %peer.client, %error, "tls.handshake failed");
                return None;
            }
            Err(_) => {
                numbers.limit_handshake_timeout.add(1);
                return None;
            }
        };
        drop(handshake);
        numbers.tls_handshakes.add(1);
        let session = stream.get_ref().1;
        if session.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
            numbers.tls_resumptions.add(1);
        }
        peer.security = Security::Tls;
        let peer = Rc::new(peer);
        let http2 = session.alpn_protocol() == Some(b"h2");
        Some(if http2 {
            self.serve_http2(stream, peer)
        } else {
            self.serve_http1(stream, BytesMut::new(), peer)
        })
    }

    fn serve_http1<T: Tunnel + 'static>(self, io: T, read: BytesMut, peer: Rc<Peer>) -> Serving {
        Box::pin(async move {
            let visit = self; // The whole visit: its admission ends with the connection.
            h1::serve(io, read, &visit.house.core, peer, &visit.draining).await;
        })
    }

    fn serve_http2<T: Tunnel + 'static>(self, io: T, peer: Rc<Peer>) -> Serving {
        Box::pin(async move {
            let visit = self; // As above.
            h2::serve(io, &visit.house.core, peer, &visit.draining).await;
        })
    }
}

async fn read_proxy_header(
    stream: &mut TcpStream,
    bytes: &mut BytesMut,
) -> io::Result<Option<proxy_protocol::Forwarded>> {
    loop {
        match proxy_protocol::parse(bytes).map_err(io::Error::other)? {
            Parsed::Complete { consumed, forwarded } => {
                let _ = bytes.split_to(consumed);
                return Ok(forwarded);
            }
            Parsed::Incomplete => {}
        }
        if stream.read_buf(bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

/// Reads until the bytes are, or are not, the preface of HTTP/2.
async fn tell_version(stream: &mut TcpStream, bytes: &mut BytesMut) -> io::Result<Version> {
    loop {
        let common = bytes.len().min(PREFACE.len());
        if bytes[..common] != PREFACE[..common] {
            return Ok(Version::Http1);
        }
        if common == PREFACE.len() {
            return Ok(Version::Http2);
        }
        if h1::read_some(stream, bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The address that a listener was bound to, for logs and `berth status`.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// The address, with the port that the kernel chose for port 0.
    pub address: SocketAddr,
    /// Whether it speaks TLS.
    pub security: Security,
    /// Whether it speaks HTTP/3 on the UDP port of the same number.
    pub http3: bool,
}
