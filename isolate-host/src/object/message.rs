//! What goes into a turn and what comes out of it: messages, answers, and what is sent on WebSockets. Plain data.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use super::storage::{CommitError, Effect};
use crate::call::Fault;

/// A WebSocket that the node keeps for an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u64);

/// A message on a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketData {
    /// Text.
    Text(String),
    /// Bytes.
    Binary(Bytes),
}

impl SocketData {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// A request for an object.
#[derive(Debug, Clone)]
pub struct ObjectRequest {
    /// The method.
    pub method: Method,
    /// The whole of it, with scheme and host.
    pub url: String,
    /// Its fields; those that belong to the connection are hidden.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// The socket that it will be if it is accepted, if it asks for one.
    pub upgrade: Option<SocketId>,
}

/// What an object gets, and handles in one turn.
#[derive(Debug, Clone)]
pub enum Message {
    /// A request.
    Request(ObjectRequest),
    /// An alarm is due. It is cleared with the effects of the turn's end, unless the turn set it anew.
    Alarm {
        /// Which.
        id: String,
        /// When it should have been, in milliseconds of Unix time.
        due_ms: u64,
        /// 1 for the first.
        attempt: u32,
        /// What the object gave it.
        payload: Bytes,
    },
    /// A message came on a WebSocket.
    Socket {
        /// Which.
        socket: SocketId,
        /// What.
        data: SocketData,
    },
    /// A WebSocket has closed.
    Closed {
        /// Which.
        socket: SocketId,
        /// The code.
        code: u16,
        /// The reason.
        reason: String,
    },
}

/// A reply of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectResponse {
    /// The status, from 200.
    pub status: StatusCode,
    /// The fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// How a WebSocket is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acceptance {
    /// By these it is found again.
    pub tags: Vec<String>,
    /// What the node keeps beside it.
    pub attachment: Bytes,
    /// The subprotocol.
    pub protocol: Option<String>,
}

/// What a message is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectAnswer {
    /// A message that has no answer.
    None,
    /// A reply.
    Response(ObjectResponse),
    /// The socket of the request is accepted.
    Accept(Acceptance),
}

/// What an object does with its WebSockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketCommand {
    /// Sends to one.
    Send {
        /// Which.
        socket: SocketId,
        /// What.
        data: SocketData,
    },
    /// Sends to all that have a tag.
    Broadcast {
        /// The tag.
        tag: String,
        /// What.
        data: SocketData,
        /// But not to this one.
        but: Option<SocketId>,
    },
    /// Closes one.
    Close {
        /// Which.
        socket: SocketId,
        /// The code.
        code: u16,
        /// The reason.
        reason: String,
    },
    /// Keeps these bytes beside one.
    SetAttachment {
        /// Which.
        socket: SocketId,
        /// What.
        attachment: Bytes,
    },
}

impl SocketCommand {
    /// Whose it is; a broadcast is nobody's.
    pub fn socket(&self) -> Option<SocketId> {
        match self {
            Self::Send { socket, .. } | Self::Close { socket, .. } | Self::SetAttachment { socket, .. } => {
                Some(*socket)
            }
            Self::Broadcast { .. } => None,
        }
    }
}

/// What a turn leaves to be done by whoever ran it: commit the effects, and when they are durable, with all that was
/// committed before, let out the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The answer.
    pub answer: ObjectAnswer,
    /// What the last segment wrote: data, alarms, the version of the schema. Empty, if it only read.
    pub effects: Vec<Effect>,
    /// What was sent since the last commit point, in this order; after an accepted socket is there.
    pub sends: Vec<SocketCommand>,
}

/// Why a turn has no outcome. Its last segment is gone, and its instance, too.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TurnError {
    /// A limit fell, the guest trapped, or the pool is full.
    #[error("{}: {}", .0.kind.word(), .0.detail)]
    Fault(Fault),
    /// The guest said that it failed.
    #[error("the object failed: {0}")]
    Failed(String),
    /// What it answered is no answer.
    #[error("the object's answer is none: {0}")]
    BadAnswer(String),
    /// What it wrote before a commit point is not durable.
    #[error(transparent)]
    Commit(#[from] CommitError),
}
