//! The object's WebSockets. The node keeps them open, also while no instance runs; what is sent leaves with the turn's
//! writes, when they are durable.

use std::fmt;

use crate::Context;
use crate::world::berth::object::{sockets as host, types};

/// The object's WebSockets.
#[derive(Debug, Clone, Copy)]
pub struct Sockets<'c> {
    pub(crate) _context: &'c Context,
}

impl Sockets<'_> {
    /// All of them.
    pub async fn all(&self) -> Vec<Socket> {
        host::tagged(None).into_iter().map(Socket).collect()
    }

    /// Those that have the tag.
    pub async fn tagged(&self, tag: &str) -> Vec<Socket> {
        host::tagged(Some(tag)).into_iter().map(Socket).collect()
    }

    /// Sends to all that have the tag.
    pub async fn broadcast(&self, tag: &str, data: impl Into<Data>) -> Result<(), SocketError> {
        Ok(host::broadcast(tag, &data.into().into(), None)?)
    }

    /// Sends to all that have the tag, but for one.
    pub async fn broadcast_but(
        &self,
        tag: &str,
        data: impl Into<Data>,
        but: Socket,
    ) -> Result<(), SocketError> {
        Ok(host::broadcast(tag, &data.into().into(), Some(but.0))?)
    }
}

/// A WebSocket that the node keeps open for this object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Socket(pub(crate) u64);

impl Socket {
    /// Its number, which no other socket of the object has. It is the same after a restart of the instance.
    pub fn number(self) -> u64 {
        self.0
    }

    /// Sends a message, of at most 1 MiB.
    pub async fn send(self, data: impl Into<Data>) -> Result<(), SocketError> {
        Ok(host::send(self.0, &data.into().into())?)
    }

    /// Closes it with a code: 1000, or 3000 to 4999.
    pub async fn close(self, code: u16, reason: &str) -> Result<(), SocketError> {
        Ok(host::close(self.0, code, reason)?)
    }

    /// The tags that it was taken with.
    pub async fn tags(self) -> Result<Vec<String>, SocketError> {
        Ok(host::tags(self.0)?)
    }

    /// What the node keeps beside it for the object.
    pub async fn attachment(self) -> Result<Vec<u8>, SocketError> {
        Ok(host::attachment(self.0)?)
    }

    /// Replaces that, by at most 2,048 bytes.
    pub async fn set_attachment(self, attachment: impl AsRef<[u8]>) -> Result<(), SocketError> {
        Ok(host::set_attachment(self.0, attachment.as_ref())?)
    }
}

/// A message on a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Text.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
}

impl Data {
    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Binary(_) => None,
        }
    }
}

impl From<String> for Data {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Data {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Binary(bytes)
    }
}

impl From<Data> for types::Data {
    fn from(data: Data) -> Self {
        match data {
            Data::Text(text) => Self::Text(text),
            Data::Binary(bytes) => Self::Binary(bytes),
        }
    }
}

impl From<types::Data> for Data {
    fn from(data: types::Data) -> Self {
        match data {
            types::Data::Text(text) => Self::Text(text),
            types::Data::Binary(bytes) => Self::Binary(bytes),
        }
    }
}

/// Why a command to WebSockets was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketError {
    /// There is no such socket, or it is closed.
    Gone,
    /// A message has more than 1 MiB, an attachment more than 2,048 bytes, a reason more than 123.
    TooLarge,
    /// The turn has sent more than it may: 1,000 commands or 16 MiB.
    TooMany,
    /// A code that no close may carry.
    BadCode,
}

impl From<host::Error> for SocketError {
    fn from(error: host::Error) -> Self {
        match error {
            host::Error::Gone => Self::Gone,
            host::Error::TooLarge => Self::TooLarge,
            host::Error::TooMany => Self::TooMany,
            host::Error::BadCode => Self::BadCode,
        }
    }
}

impl fmt::Display for SocketError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Gone => "there is no such socket, or it is closed",
            Self::TooLarge => "the message, the attachment or the reason is too large",
            Self::TooMany => "the turn has sent 1,000 commands or 16 MiB to sockets, and may send no more",
            Self::BadCode => "a close carries 1000, or 3000 to 4999",
        })
    }
}

impl std::error::Error for SocketError {}
