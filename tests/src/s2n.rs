//! A client of s2n-quic, the second QUIC that is not ours, with HTTP/3 from [`http3`](crate::http3).
//!
//! It verifies the node's certificate, as a browser does. All is asynchronous and on one thread: [`run`] makes the
//! runtime. A connection's end is noticed by a task of its own, which also reads what the node sends on streams of
//! its own; [`Connection::end`] waits for it.

use std::future::Future;
use std::net::SocketAddr;

use s2n_quic::client::Connect;
use s2n_quic::connection::{self, Handle, StreamAcceptor};
use s2n_quic::provider::{limits::Limits, tls};
use s2n_quic::stream::{self, BidirectionalStream, PeerStream, ReceiveStream, SendStream};
use tokio::task::JoinHandle;

use crate::http3::{self, Malformed, Method, Reader, Response};
use crate::node::PATIENCE;

/// Bytes of one write. s2n-quic cuts them to packets.
const PIECE: usize = 64 * 1024;

/// Why a request has no response.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The client does not start: its certificate or its socket is not good.
    #[error("cannot start: {0}")]
    Start(String),
    /// The connection ended.
    #[error("the connection ended: {0:?}")]
    Connection(End),
    /// The node reset the stream with this code.
    #[error("the stream was reset with {0:#x}")]
    Reset(u64),
    /// The stream failed in another way.
    #[error("the stream failed: {0}")]
    Stream(stream::Error),
    /// The node sent nonsense.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl From<stream::Error> for Failure {
    fn from(error: stream::Error) -> Self {
        match error {
            stream::Error::StreamReset { error, .. } => Self::Reset(error.into()),
            stream::Error::ConnectionError { error, .. } => Self::Connection(error.into()),
            other => Self::Stream(other),
        }
    }
}

impl From<connection::Error> for Failure {
    fn from(error: connection::Error) -> Self {
        Self::Connection(error.into())
    }
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With an error code of HTTP/3, of either side.
    Code(u64),
    /// In another way, in the words of s2n-quic.
    Other(String),
}

impl From<connection::Error> for End {
    fn from(error: connection::Error) -> Self {
        match error {
            connection::Error::Application { error, .. } => Self::Code(error.into()),
            other => Self::Other(other.to_string()),
        }
    }
}

/// Runs a story to its end, which must come within [`PATIENCE`].
pub fn run<T>(story: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let patient = async { tokio::time::timeout(PATIENCE, story).await.expect("the story does not hang") };
    runtime.expect("a runtime can be made").block_on(patient)
}

/// One connection, on a socket of its own. One that is dropped says nothing to the node.
pub struct Connection {
    client: s2n_quic::Client,
    handle: Handle,
    authority: String,
    /// Open for as long as the connection, by its rules.
    _control: Option<SendStream>,
    end: JoinHandle<End>,
}

impl Connection {
    /// Connects, trusting this certificate (PEM) for this name, and begins HTTP/3.
    pub async fn open(node: SocketAddr, name: &str, certificate: &str) -> Result<Self, Failure> {
        let mut connection = Self::open_without_settings(node, name, certificate).await?;
        connection._control = Some(connection.stream(http3::control_stream()).await?);
        Ok(connection)
    }

    /// The same, without a control stream: for those that break the rules.
    pub async fn open_without_settings(
        node: SocketAddr,
        name: &str,
        certificate: &str,
    ) -> Result<Self, Failure> {
        let client = endpoint(node, certificate).map_err(|error| Failure::Start(error.to_string()))?;
        let connection = client.connect(Connect::new(node).with_server_name(name)).await?;
        let (handle, streams) = connection.split();
        let end = tokio::spawn(watch(streams));
        let authority = format!("{name}:{}", node.port());
        Ok(Self { client, handle, authority, _control: None, end })
    }

    /// One request, whose body goes out while the response comes in.
    pub async fn request(&self, method: Method, path: &str, body: &[u8]) -> Result<Response, Failure> {
        let head = http3::request(method, &self.authority, path);
        let (receive, send) = self.open_stream().await?.split();
        let (sent, received) = tokio::join!(send_request(send, head, body), receive_response(receive));
        let response = received?;
        sent?;
        Ok(response)
    }

    /// A GET without a body.
    pub async fn get(&self, path: &str) -> Result<Response, Failure> {
        self.request(Method::Get, path, b"").await
    }

    /// A request stream, for those that speak for themselves.
    pub async fn open_stream(&self) -> Result<BidirectionalStream, Failure> {
        Ok(self.handle.clone().open_bidirectional_stream().await?)
    }

    /// A unidirectional stream that begins with these bytes.
    pub async fn stream(&self, bytes: Vec<u8>) -> Result<SendStream, Failure> {
        let mut stream = self.handle.clone().open_send_stream().await?;
        stream.send(bytes.into()).await?;
        Ok(stream)
    }

    /// Ends the connection with this code, and waits until the node must have heard of it.
    pub async fn close(self, code: u64) {
        let Self { mut client, handle, .. } = self;
        handle.close(s2n_quic::application::Error::new(code).expect("a code has 62 bits"));
        drop(handle);
        // It fails when the endpoint has ended, which is as good.
        let _ = client.wait_idle().await;
    }

    /// Waits for the end of the connection.
    pub async fn end(self) -> End {
        self.end.await.expect("watching does not panic")
    }
}

fn endpoint(
    node: SocketAddr,
    certificate: &str,
) -> Result<s2n_quic::Client, Box<dyn std::error::Error + Send + Sync>> {
    let tls = tls::rustls::Client::builder().with_certificate(certificate)?.build()?;
    let local: SocketAddr = if node.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }.parse()?;
    let limits = Limits::new().with_max_handshake_duration(PATIENCE)?;
    Ok(s2n_quic::Client::builder().with_tls(tls)?.with_limits(limits)?.with_io(local)?.start()?)
}

/// Reads the node's streams, of which HTTP/3 needs none for our requests, until the connection ends.
async fn watch(mut streams: StreamAcceptor) -> End {
    loop {
        match streams.accept().await {
            Ok(Some(PeerStream::Receive(stream))) => drop(tokio::spawn(read_out(stream))),
            Ok(Some(PeerStream::Bidirectional(_))) => {
                return End::Other("the node opened a request".to_owned());
            }
            Ok(None) => return End::Other("closed without a code".to_owned()),
            Err(error) => return error.into(),
        }
    }
}

async fn read_out(mut stream: ReceiveStream) {
    while let Ok(Some(_)) = stream.receive().await {}
}

async fn send_request(mut stream: SendStream, head: Vec<u8>, body: &[u8]) -> Result<(), Failure> {
    stream.send(head.into()).await?;
    for piece in body.chunks(PIECE) {
        stream.send(http3::frame(http3::DATA, piece).into()).await?;
    }
    Ok(stream.finish()?)
}

async fn receive_response(mut stream: ReceiveStream) -> Result<Response, Failure> {
    let mut reader = Reader::default();
    while let Some(bytes) = stream.receive().await? {
        reader.take(&bytes)?;
    }
    Ok(reader.finish()?)
}
