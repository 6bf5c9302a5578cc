//! The servers of our own that Berth is measured beside: what one gets from the libraries that it is made of.
//!
//! *quinn-h3* is quinn with h3 on tokio's multi-thread runtime, written as their documentation and examples do it: a
//! task for each connection and each request; defaults for congestion control, windows and segmentation offload; a
//! large socket buffer. The runtime has as many workers as the process has CPUs, which is one. *quinn-proto* is in
//! [`crate::quic::bare`].
//!
//! Fair, decided once here: the same cryptography (AWS-LC), certificate, allocator and release profile as the node;
//! no 0-RTT; two stateless session tickets; the same header fields as the node's responder sends. `date` does
//! not move, which favours the baseline; the body is static, as the node's is.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h3::server::{RequestResolver, RequestStream};
use http::{Response, StatusCode, header};
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicServerConfig};
use quinn::{Endpoint, EndpointConfig, Incoming, ServerConfig, TransportConfig};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use socket2::SockRef;

use crate::peer::BODY;
use crate::quic::bare::BareServer;
use crate::quic::http3;
use crate::quic::swarm::{DOWNLOAD_BYTES, DOWNLOAD_PATH, DOWNLOAD_PIECE};

/// As Berth's configuration in the figures of idle connections.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Streams that a client may have open, of either kind: quinn's default. A connection of quinn-proto has tables with
/// room for all of them from its start (9 KiB here), so that its memory is a fair measure only for a server with the
/// same limits.
const STREAMS: u32 = 100;
/// Asked of the kernel for the socket, as quinn's documentation advises for much traffic.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
pub(crate) enum Kind {
    QuinnH3,
    QuinnProto,
}

/// Where it listens, and as whom.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    address: SocketAddr,
    #[arg(long)]
    chain: PathBuf,
    #[arg(long)]
    key: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum BaselineError {
    #[error("could not read {}", path.display())]
    Pem { path: PathBuf, source: pem::Error },
    #[error("could not prepare TLS")]
    Tls(#[from] rustls::Error),
    #[error("could not prepare QUIC")]
    Quic(#[from] NoInitialCipherSuite),
    #[error("could not use the socket of the server")]
    Socket(#[from] io::Error),
}

/// Serves until the process is ended.
pub(crate) fn serve(kind: Kind, options: &Options) -> Result<(), BaselineError> {
    match kind {
        Kind::QuinnH3 => {
            let config = server_config(Identity::read(options)?, http3::ALPN)?;
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(async {
                let endpoint = endpoint(options.address, config)?;
                // A task, so that it runs on a worker beside those that it starts.
                let accepting = tokio::spawn(accept_connections(endpoint));
                accepting.await.map_err(io::Error::other)
            })?;
            Ok(())
        }
        Kind::QuinnProto => {
            let config = server_config(Identity::read(options)?, http3::ALPN_BARE)?;
            match BareServer::bind(options.address, config)?.serve()? {}
        }
    }
}

/// A certificate with its key.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    fn read(options: &Options) -> Result<Self, BaselineError> {
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            |source| BaselineError::Pem { path, source }
        };
        let chain = CertificateDer::pem_file_iter(&options.chain)
            .and_then(Iterator::collect)
            .map_err(unreadable(&options.chain))?;
        let key = PrivateKeyDer::from_pem_file(&options.key).map_err(unreadable(&options.key))?;
        Ok(Self { chain, key })
    }
}

fn server_config(identity: Identity, protocol: &[u8]) -> Result<ServerConfig, BaselineError> {
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(identity.chain, identity.key)?;
    tls.alpn_protocols = vec![protocol.to_vec()];
    tls.ticketer = aws_lc_rs::Ticketer::new()?;
    tls.send_tls13_tickets = 2;
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(STREAMS.into())
        .max_concurrent_uni_streams(STREAMS.into())
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().expect("an hour is far below the largest")));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

fn endpoint(address: SocketAddr, config: ServerConfig) -> io::Result<Endpoint> {
    let socket = UdpSocket::bind(address)?;
    SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER)?;
    SockRef::from(&socket).set_send_buffer_size(SOCKET_BUFFER)?;
    Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(quinn::TokioRuntime))
}

async fn accept_connections(endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            // A client that leaves ends its connection; that is nobody's failure here.
            let _ = serve_connection(incoming).await;
        });
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn serve_connection(incoming: Incoming) -> Result<(), Failure> {
    let connection = h3_quinn::Connection::new(incoming.await?);
    let mut connection = h3::server::builder().build(connection).await?;
    while let Some(resolver) = connection.accept().await? {
        tokio::spawn(async move {
            let _ = answer(resolver).await;
        });
    }
    Ok(())
}

async fn answer(resolver: RequestResolver<h3_quinn::Connection, Bytes>) -> Result<(), Failure> {
    let (request, mut stream) = resolver.resolve_request().await?;
    match request.uri().path() {
        "/" => {
            stream.send_response(head("text/plain", BODY.len() as u64)?).await?;
            stream.send_data(Bytes::from_static(BODY.as_bytes())).await?;
        }
        DOWNLOAD_PATH => {
            stream.send_response(head("application/octet-stream", DOWNLOAD_BYTES)?).await?;
            send_download(&mut stream).await?;
        }
        _ => stream.send_response(Response::builder().status(StatusCode::NOT_FOUND).body(())?).await?,
    }
    Ok(stream.finish().await?)
}

fn head(content_type: &str, content_length: u64) -> Result<Response<()>, http::Error> {
    Response::builder()
        .header(header::CONTENT_TYPE, content_type)
        .header(header::CONTENT_LENGTH, content_length)
        .header(header::SERVER, "quinn")
        .header(header::DATE, "Thu, 01 Jan 1970 00:00:00 GMT")
        .body(())
}

async fn send_download(
    stream: &mut RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>,
) -> Result<(), Failure> {
    let mut left = DOWNLOAD_BYTES;
    while left > 0 {
        let count = left.min(DOWNLOAD_PIECE.len() as u64);
        stream.send_data(Bytes::from_static(&DOWNLOAD_PIECE[..count as usize])).await?;
        left -= count;
    }
    Ok(())
}

/// Servers for the tests of the client, which end with the test process.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    pub(crate) fn quinn_h3() -> SocketAddr {
        let (told, address) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async {
                let config = server_config(self_signed(), http3::ALPN).unwrap();
                let endpoint = endpoint(([127, 0, 0, 1], 0).into(), config).unwrap();
                told.send(endpoint.local_addr().unwrap()).unwrap();
                accept_connections(endpoint).await;
            });
        });
        address.recv().unwrap()
    }

    pub(crate) fn quinn_proto() -> SocketAddr {
        let config = server_config(self_signed(), http3::ALPN_BARE).unwrap();
        let server = BareServer::bind(([127, 0, 0, 1], 0).into(), config).unwrap();
        let address = server.address().unwrap();
        std::thread::spawn(|| server.serve());
        address
    }

    fn self_signed() -> Identity {
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
        Identity { chain: vec![certificate.cert.der().clone()], key }
    }
}
