//! A WebSocket after its handshake: how it is set up over the bytes of a connection or stream, and how it ends in order.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::message::Tunnel;
use crate::config::WebSocketLimits;

/// A WebSocket with its client.
pub(crate) type Socket = WebSocketStream<Box<dyn Tunnel>>;

/// How long the end of a WebSocket waits for the client to end its side.
const LINGER: Duration = Duration::from_secs(2);

/// Sets up a WebSocket whose handshake is over.
pub(crate) async fn open(tunnel: Box<dyn Tunnel>, limits: &WebSocketLimits) -> Socket {
    let config = WebSocketConfig::default()
        .max_message_size(Some(limits.message_bytes))
        .max_frame_size(Some(limits.frame_bytes))
        .read_buffer_size(8 * 1024)
        .write_buffer_size(0)
        // One message waits at most: more would be taken in before the client takes what it was sent.
        .max_write_buffer_size(limits.message_bytes.max(WRITE_BUFFER_MIN) + 16 * 1024);
    WebSocketStream::from_raw_socket(tunnel, Role::Server, Some(config)).await
}

/// Room for the largest message that the node itself sends.
const WRITE_BUFFER_MIN: usize = 1 << 20;

/// Sends a close, and waits for the client's: the frame of which comes back, if it had one.
pub(crate) async fn close(socket: &mut Socket, frame: CloseFrame, within: Duration) -> Option<CloseFrame> {
    let closed = berth_runtime::timeout(within, async {
        socket.close(Some(frame)).await.ok()?;
        let mut answer = None;
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Close(frame) = message {
                answer = frame;
            }
        }
        answer
    });
    closed.await.ok().flatten()
}

/// Ends our side, and drops what the client still sends, up to `bytes_max`.
///
/// Dropping the tunnel alone would look like a failure: a reset of the stream on HTTP/2, no
/// close_notify on TLS, and on TCP, if bytes are unread, a reset that overtakes our close frame.
pub(crate) async fn see_off(socket: &mut Socket, bytes_max: usize) {
    let tunnel = socket.get_mut();
    let end = async {
        tunnel.shutdown().await?;
        let mut rest = [0; 4096];
        let mut count = 0;
        while count < bytes_max {
            match tunnel.read(&mut rest).await? {
                0 => break,
                more => count += more,
            }
        }
        std::io::Result::Ok(())
    };
    // Boxed: its buffer is not kept for the life of the connection.
    let _ = berth_runtime::timeout(LINGER, Box::pin(end)).await;
}
