//! A message for an object, from whoever sent it to the core that has the object, and its reply back.

use std::mem::take;
use std::net::IpAddr;

use berth_isolate_host::object::{self, ObjectRequest, SocketData, SocketId};
use berth_protocol::object::ObjectKey;
use berth_protocol::ownership::{self, Refusal};
use berth_protocol::waits::Chain;
use berth_protocol::{Alarm, LetterEnvelope, LetterSays, Ticket};
use bytes::Bytes;
use http::Method;

use crate::debugging::Trace;
use crate::hops::{header_bytes, header_map};
use crate::http::message::{Problem, Reply};

/// What a message says, and who waits for its reply.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    /// Which object.
    pub(super) object: ObjectKey,
    /// Its zone.
    pub(super) zone: Box<str>,
    /// Its class.
    pub(super) class: Box<str>,
    /// Its name, if the id comes from one.
    pub(super) name: Option<Box<str>>,
    /// The core that waits for the reply.
    pub(super) asker: u16,
    /// What the reply must carry.
    pub(super) ticket: Ticket,
    /// What it says.
    pub(super) says: Says,
    /// Who waits for it, and for whom those wait: the object itself is the last.
    pub(super) chain: Chain<ObjectKey>,
    /// The client whose request it is, or led to it.
    pub(super) client: IpAddr,
    /// The number of that request.
    pub(super) number: u64,
    /// What the client is told of it, if it wants that.
    pub(super) trace: Trace,
}

/// What a letter says.
#[derive(Debug, Clone)]
pub(super) enum Says {
    /// A request.
    Request(ObjectRequest),
    /// An alarm of the object is due.
    Alarm(Alarm),
    /// A text came on a WebSocket.
    Text {
        /// Which.
        socket: SocketId,
        /// UTF-8, as the connection has checked.
        text: Bytes,
    },
    /// Bytes came on a WebSocket.
    Binary {
        /// Which.
        socket: SocketId,
        /// The bytes.
        bytes: Bytes,
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
    /// Somebody waits for the object to have no instance. No guest sees it.
    Hold,
}

impl Says {
    /// The socket whose message or end it is.
    pub(super) fn socket(&self) -> Option<SocketId> {
        match self {
            Self::Text { socket, .. } | Self::Binary { socket, .. } | Self::Closed { socket, .. } => {
                Some(*socket)
            }
            Self::Request(_) | Self::Alarm(_) | Self::Hold => None,
        }
    }

    /// The reply when its turn has begun and failed. A socket's message that was begun is never tried again.
    pub(super) fn failed(&self, problem: Problem) -> Reply {
        Reply::problem(if self.socket().is_some() { Problem::Internal } else { problem })
    }

    /// For the guest, if it is for it: what may be large of a request is not in the letter any more.
    pub(super) fn take_message(&mut self) -> Option<object::Message> {
        Some(match self {
            Self::Hold => return None,
            Self::Request(request) => object::Message::Request(ObjectRequest {
                method: request.method.clone(),
                url: take(&mut request.url),
                headers: take(&mut request.headers),
                body: take(&mut request.body),
                upgrade: request.upgrade,
            }),
            Self::Alarm(alarm) => object::Message::Alarm {
                id: String::from_utf8_lossy(&alarm.id).into_owned(),
                due_ms: alarm.due_ms,
                attempt: alarm.attempt,
                payload: alarm.payload.clone(),
            },
            Self::Text { socket, text } => {
                let text = String::from_utf8_lossy(text).into_owned();
                object::Message::Socket { socket: *socket, data: SocketData::Text(text) }
            }
            Self::Binary { socket, bytes } => {
                object::Message::Socket { socket: *socket, data: SocketData::Binary(bytes.clone()) }
            }
            Self::Closed { socket, code, reason } => {
                object::Message::Closed { socket: *socket, code: *code, reason: reason.clone() }
            }
        })
    }
}

/// A letter as the decisions of ownership know it.
pub(super) type Message = ownership::Message<Box<Letter>>;

/// Makes it plain data.
pub(super) fn seal(message: Message) -> Box<LetterEnvelope> {
    let letter = *message.body;
    Box::new(LetterEnvelope {
        object: letter.object,
        zone: letter.zone,
        class: letter.class,
        name: letter.name,
        asker: letter.asker,
        ticket: letter.ticket,
        says: match letter.says {
            Says::Request(request) => LetterSays::Request {
                method: Bytes::copy_from_slice(request.method.as_str().as_bytes()),
                url: request.url.into(),
                headers: header_bytes(&request.headers),
                body: request.body,
                upgrade: request.upgrade.map(|socket| socket.0),
            },
            Says::Alarm(alarm) => LetterSays::Alarm(alarm),
            Says::Text { socket, text } => LetterSays::Text { socket: socket.0, text },
            Says::Binary { socket, bytes } => LetterSays::Binary { socket: socket.0, bytes },
            Says::Closed { socket, code, reason } => {
                LetterSays::Closed { socket: socket.0, code, reason: reason.into() }
            }
            Says::Hold => LetterSays::Hold,
        },
        chain: letter.chain,
        client: letter.client,
        request: letter.number,
        debug: letter.trace.is_wanted(),
        hops: message.hops,
    })
}

/// Reads it again. `None`: it is garbled, a mistake of ours.
pub(super) fn open(envelope: LetterEnvelope) -> Option<Message> {
    let says = match envelope.says {
        LetterSays::Request { method, url, headers, body, upgrade } => Says::Request(ObjectRequest {
            method: Method::from_bytes(&method).ok()?,
            url: url.into(),
            headers: header_map(&headers)?,
            body,
            upgrade: upgrade.map(SocketId),
        }),
        LetterSays::Alarm(alarm) => Says::Alarm(alarm),
        LetterSays::Text { socket, text } => Says::Text { socket: SocketId(socket), text },
        LetterSays::Binary { socket, bytes } => Says::Binary { socket: SocketId(socket), bytes },
        LetterSays::Closed { socket, code, reason } => {
            Says::Closed { socket: SocketId(socket), code, reason: reason.into() }
        }
        LetterSays::Hold => Says::Hold,
    };
    let letter = Letter {
        object: envelope.object,
        zone: envelope.zone,
        class: envelope.class,
        name: envelope.name,
        asker: envelope.asker,
        ticket: envelope.ticket,
        says,
        chain: envelope.chain,
        client: envelope.client,
        number: envelope.request,
        trace: Trace::new(envelope.debug),
    };
    Some(Message { hops: envelope.hops, body: Box::new(letter) })
}

/// What the client is told of a message whose turn has not begun.
pub(super) fn problem(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::Full | Refusal::NoRoom | Refusal::TooManyHops | Refusal::LaneFull => Problem::Overload,
        Refusal::StartFailed | Refusal::StaleEpoch | Refusal::Astray => Problem::Internal,
    }
}

#[cfg(test)]
mod tests {
    use berth_protocol::object::{ObjectId, Scope, Slot};
    use http::{HeaderMap, HeaderValue};

    use super::*;

    #[test]
    fn a_letter_is_the_same_after_a_hop() {
        let mut headers = HeaderMap::new();
        headers.append("a", HeaderValue::from_static("1"));
        headers.append("a", HeaderValue::from_static("2"));
        let body = Bytes::from_static(b"body");
        let url = "https://a.example/b?c".to_owned();
        let socket = SocketId(5);
        let all = [
            Says::Request(ObjectRequest { method: Method::PUT, url, headers, body, upgrade: Some(socket) }),
            Says::Text { socket, text: Bytes::from_static(b"text") },
            Says::Binary { socket, bytes: Bytes::from_static(b"bytes") },
            Says::Closed { socket, code: 1001, reason: "bye".to_owned() },
        ];
        for says in all {
            let letter = letter(says);
            let message = Message { hops: 2, body: Box::new(letter) };
            let sealed = seal(message.clone());
            let opened = open(*sealed.clone()).unwrap();
            assert_eq!((seal(opened.clone()), opened.hops), (sealed, 2));
            assert_eq!(format!("{opened:?}"), format!("{message:?}"));
        }
    }

    fn letter(says: Says) -> Letter {
        Letter {
            object: ObjectKey { scope: Scope::new("a", "B"), id: ObjectId::random(Slot(3), [1; 13]) },
            zone: "a".into(),
            class: "B".into(),
            name: Some("c".into()),
            asker: 1,
            ticket: Ticket(9),
            says,
            chain: Chain::outside(),
            client: [192, 0, 2, 1].into(),
            number: 77,
            trace: Trace::new(true),
        }
    }
}
