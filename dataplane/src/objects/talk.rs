//! The client's side of an object's WebSocket: the task that has its connection, on the core that took it.
//!
//! A message becomes a letter like any other, one at a time: the next is read when the turn of this one has ended, so that
//! they keep their order, and a client that sends faster than its object handles waits. What the object sends comes by
//! the socket's [`Line`].

use std::cell::RefCell;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use berth_isolate_host::object::SocketId;
use berth_protocol::object::ObjectKey;
use berth_protocol::waits::Chain;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Method, StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};

use super::ask::{From, Which};
use super::letter::Says;
use super::line::{Line, Out, TOO_SLOW};
use super::sockets::{FAILED, FAILED_REASON};
use crate::drain::{Drain, Draining};
use crate::http::message::{Problem, Reply, Request, Tunnel};
use crate::http::talk::{self, Socket};
use crate::http::websocket;
use crate::workers::CoreWorkers;
use crate::zones::{Class, Zone};

/// The first pause before a message is tried again whose turn could not begin; each next one is twice as long.
const PAUSE: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long it is tried.
const PATIENCE: Duration = Duration::from_secs(30);
/// Codes that the protocol has for an end without a close of the other side, and for a close without a code.
const ABNORMAL: u16 = 1006;
const NO_CODE: u16 = 1005;

/// How a connection ended, as its object hears it.
struct End {
    code: u16,
    reason: String,
}

impl End {
    fn abnormal() -> Self {
        Self { code: ABNORMAL, reason: String::new() }
    }

    fn of(frame: Option<CloseFrame>) -> Self {
        match frame {
            Some(frame) => Self { code: frame.code.into(), reason: frame.reason.to_string() },
            None => Self { code: NO_CODE, reason: String::new() },
        }
    }
}

/// What has become of a letter.
enum Told {
    Handled,
    /// Its turn failed: the object did not handle it, or not wholly.
    Failed,
    /// Its turn could not begin for a long time.
    Refused,
}

/// The connection of a socket. Dropped, its object hears that it has closed, if it had taken it.
struct Held {
    workers: Rc<CoreWorkers>,
    drain: Drain,
    zone: Arc<Zone>,
    class: Arc<Class>,
    object: ObjectKey,
    name: Box<str>,
    client: IpAddr,
    socket: SocketId,
    line: Arc<Line>,
    end: RefCell<End>,
}

impl CoreWorkers {
    /// Answers a client's request for a WebSocket of an object.
    pub(super) async fn ask_socket(
        self: &Rc<Self>,
        zone: &Arc<Zone>,
        class: &Arc<Class>,
        name: &str,
        request: Request,
    ) -> Reply {
        let mut accepted = match websocket::answer(&request) {
            Ok(reply) => reply,
            Err(reply) => return *reply,
        };
        let Some(object) = self.objects.key(zone, class, name) else {
            return Reply::problem(Problem::Overload);
        };
        let Ok((socket, line)) = self.objects.node.sockets.come(object) else {
            self.objects.numbers.limit_object_sockets.add(1);
            return Reply::problem(Problem::Overload);
        };
        let held = Held {
            workers: Rc::clone(self),
            drain: self.objects.drain.clone(),
            zone: Arc::clone(zone),
            class: Arc::clone(class),
            object,
            name: name.into(),
            client: request.peer.client.ip(),
            socket,
            line,
            end: RefCell::new(End::abnormal()),
        };
        // A GET, as which HTTP/1.1 asks it: what HTTP/2 and 3 do instead is the connection's matter.
        let request = Request { method: Method::GET, ..request };
        let which = Which::Id(object.id, Some(name));
        let answer = self.ask_object_for(zone, class, which, request, Some(socket)).await;
        if answer.status != StatusCode::SWITCHING_PROTOCOLS {
            return answer;
        }
        if let Some(protocol) = answer.headers.get(header::SEC_WEBSOCKET_PROTOCOL) {
            accepted.headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::clone(protocol));
        }
        self.objects.numbers.websockets.add(1);
        accepted.upgrade = Some(Box::new(move |tunnel| Box::pin(serve(tunnel, held))));
        accepted
    }
}

/// A WebSocket from its handshake to its end.
async fn serve(tunnel: Box<dyn Tunnel>, held: Held) {
    let limits = held.workers.objects.limits.clone();
    let mut socket = talk::open(tunnel, &limits.websocket).await;
    let held = Rc::new(held);
    let end = converse(&mut socket, &held).await;
    *held.end.borrow_mut() = end;
    // Its object hears of the end before the client has taken its time.
    drop(held);
    talk::see_off(&mut socket, limits.websocket.message_bytes).await;
}

/// What happens next on a socket.
enum Next {
    Drain,
    Told(Told),
    Out(Out),
    In(Option<Result<Message, WebSocketError>>),
}

type Telling = Pin<Box<dyn Future<Output = Told>>>;

async fn next(socket: &mut Socket, held: &Held, draining: &Draining, telling: &mut Option<Telling>) -> Next {
    std::future::poll_fn(|cx| {
        if draining.poll_on(cx).is_ready() {
            return Poll::Ready(Next::Drain);
        }
        match telling {
            Some(told) => {
                if let Poll::Ready(told) = told.as_mut().poll(cx) {
                    return Poll::Ready(Next::Told(told));
                }
            }
            // One message at a time: the others wait at the client.
            None => {
                if let Poll::Ready(message) = socket.poll_next_unpin(cx) {
                    return Poll::Ready(Next::In(message));
                }
            }
        }
        held.line.poll_next(cx).map(Next::Out)
    })
    .await
}

/// Carries messages both ways until one side ends it.
async fn converse(socket: &mut Socket, held: &Rc<Held>) -> End {
    let objects = &held.workers.objects;
    let (limits, numbers) = (&objects.limits, &objects.numbers);
    let draining = held.drain.listen();
    let mut telling: Option<Telling> = None;
    let (mut heard, mut was_pinged) = (Instant::now(), false);
    loop {
        let silence = limits.idle_timeout.saturating_sub(heard.elapsed());
        let next = next(socket, held, &draining, &mut telling);
        match berth_runtime::timeout(silence, next).await {
            Ok(Next::In(message)) => {
                (heard, was_pinged) = (Instant::now(), false);
                match held.read(socket, message).await {
                    Ok(says) => telling = says.map(|says| Box::pin(Rc::clone(held).tell(says)) as Telling),
                    Err(end) => return end,
                }
            }
            Ok(Next::Out(Out::Message(message))) => {
                match berth_runtime::timeout(limits.send_timeout, socket.send(message)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return End::abnormal(),
                    Err(_) => {
                        numbers.limit_send_timeout.add(1);
                        return End::abnormal();
                    }
                }
            }
            Ok(Next::Out(Out::Close { code, reason })) => return held.close(socket, code, &reason).await,
            Ok(Next::Told(told)) => {
                // Nobody read meanwhile what the client said.
                (heard, telling) = (Instant::now(), None);
                match told {
                    Told::Handled => {}
                    Told::Failed => return held.close(socket, FAILED, FAILED_REASON).await,
                    Told::Refused => return held.close(socket, TOO_SLOW, "the object is overloaded").await,
                }
            }
            Ok(Next::Drain) => {
                // What was read is handled: nobody has told the client that it was not.
                if let Some(told) = telling {
                    told.await;
                }
                return held.close(socket, CloseCode::Away.into(), "").await;
            }
            Err(_) if telling.is_some() => heard = Instant::now(),
            Err(_) if was_pinged => {
                numbers.limit_idle_timeout.add(1);
                return held.close(socket, CloseCode::Away.into(), "").await;
            }
            Err(_) => {
                (heard, was_pinged) = (Instant::now(), true);
                if socket.send(Message::Ping(Bytes::new())).await.is_err() {
                    return End::abnormal();
                }
            }
        }
    }
}

fn says(socket: SocketId, message: Message) -> Says {
    match message {
        Message::Text(text) => Says::Text { socket, text: text.into() },
        other => Says::Binary { socket, bytes: other.into_data() },
    }
}

impl Held {
    /// What the object is to be told of something that was read; or how it ended the socket.
    async fn read(
        &self,
        socket: &mut Socket,
        message: Option<Result<Message, WebSocketError>>,
    ) -> Result<Option<Says>, End> {
        let objects = &self.workers.objects;
        match message {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                Ok(Some(says(self.socket, message)))
            }
            Some(Ok(Message::Close(frame))) => {
                // The library has an answer ready.
                let _ = berth_runtime::timeout(objects.limits.send_timeout, socket.flush()).await;
                Err(End::of(frame))
            }
            // Pings are answered by the library.
            Some(Ok(_)) => socket.flush().await.map(|()| None).map_err(|_| End::abnormal()),
            Some(Err(WebSocketError::Capacity(_))) => {
                objects.numbers.limit_websocket_bytes.add(1);
                Err(self.close(socket, CloseCode::Size.into(), "").await)
            }
            Some(Err(_)) | None => Err(End::abnormal()),
        }
    }

    /// Closes the socket, and tells how its object hears it.
    async fn close(&self, socket: &mut Socket, code: u16, reason: &str) -> End {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        let within = self.workers.objects.limits.send_timeout;
        talk::close(socket, frame, within).await;
        End { code, reason: reason.to_owned() }
    }

    /// Tells the object, again and again while it cannot be told.
    async fn tell(self: Rc<Self>, says: Says) -> Told {
        tell(&self.workers, (&self.zone, &self.class), (self.object, &self.name), self.client, says).await
    }
}

async fn tell(
    workers: &Rc<CoreWorkers>,
    (zone, class): (&Zone, &Class),
    (object, name): (ObjectKey, &str),
    client: IpAddr,
    says: Says,
) -> Told {
    let (began, mut pause) = (Instant::now(), PAUSE);
    loop {
        let chain = Chain::outside();
        let from = From { client, number: workers.new_request(), chain: &chain, debug: false };
        let reply = workers.tell_object(zone, class, (object, Some(name)), says.clone(), from).await;
        match reply.status {
            StatusCode::NO_CONTENT => return Told::Handled,
            StatusCode::SERVICE_UNAVAILABLE if began.elapsed() < PATIENCE => {}
            StatusCode::SERVICE_UNAVAILABLE => return Told::Refused,
            _ => return Told::Failed,
        }
        berth_runtime::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let node = Arc::clone(&self.workers.objects.node);
        let (object, socket) = (self.object, self.socket);
        if !node.sockets.end(&object, socket) {
            return node.sockets.forget(&object, socket);
        }
        let End { code, reason } = self.end.replace(End::abnormal());
        let (workers, zone, class) =
            (Rc::clone(&self.workers), Arc::clone(&self.zone), Arc::clone(&self.class));
        let (name, client) = (self.name.clone(), self.client);
        // The core waits for it as for a connection.
        let listening = self.drain.listen();
        berth_runtime::spawn(async move {
            let says = Says::Closed { socket, code, reason };
            if let Told::Refused = tell(&workers, (&zone, &class), (object, &name), client, says).await {
                tracing::warn!(?object, "object.socket: nobody could be told that it closed");
            }
            node.sockets.forget(&object, socket);
            drop(listening);
        });
    }
}
