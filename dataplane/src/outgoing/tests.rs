//! What the client promises, told with real sockets on both drivers. Origins are scripts: they read and write bytes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn, ready};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use berth_runtime::stats::CoreStats;
use berth_runtime::{
    CoreOptions, DriverChoice, Remote, TcpListener, TcpStream, block_on, sleep, spawn, spawn_scoped, timeout,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use rustls::RootCertStore;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::resolve::{Lookup, ResolveError};
use super::*;
use crate::enforce::{
    AllowedOrigin, Connect, Denied, Enforce, Instantiate, OriginAt, SafeDefaults, SendOut, Who,
};

/// Far longer than any step of a test takes; it only turns a hang into a failure.
const PATIENCE: Duration = Duration::from_secs(20);
const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn on_both<F: Future<Output = ()>>(story: impl Fn() -> F) {
    for driver in [DriverChoice::Uring, DriverChoice::Epoll] {
        let options = CoreOptions { driver, ..CoreOptions::default() };
        let remote = Arc::new(Remote::new().unwrap());
        let told = timeout(PATIENCE, story());
        block_on(&options, &remote, &Arc::<CoreStats>::default(), told).unwrap().expect("the test hangs");
    }
}

/// Runs `serve` for each connection, with its number, and tells how many there were.
fn origin<F: Future<Output = ()> + 'static>(
    at: SocketAddr,
    serve: impl Fn(TcpStream, usize) -> F + 'static,
) -> (SocketAddr, Rc<Cell<usize>>) {
    let socket = std::net::TcpListener::bind(at).unwrap();
    let at = socket.local_addr().unwrap();
    let listener = TcpListener::adopt(socket.into()).unwrap();
    let count = Rc::new(Cell::new(0));
    let counted = Rc::clone(&count);
    spawn(async move {
        while let Ok(stream) = listener.accept().await {
            counted.set(counted.get() + 1);
            spawn(serve(stream, counted.get()));
        }
    });
    (at, count)
}

/// Reads a head; `None` when the connection ends before.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(bytes).unwrap())
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}

/// An origin that answers every request with `reply` and keeps the connection.
fn answering(reply: &'static str) -> (SocketAddr, Rc<Cell<usize>>) {
    origin(LOCAL, move |mut stream, _| async move {
        while head(&mut stream).await.is_some() {
            say(&mut stream, reply).await;
        }
    })
}

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

type Answers = Box<dyn Fn(&str) -> Result<Vec<IpAddr>, ResolveError>>;

/// A resolver that a test scripts.
struct Scripted(Answers);

impl Resolve for Scripted {
    fn resolve(&self, _zone: &Arc<str>, host: &str) -> Lookup {
        Box::pin(ready((self.0)(host).map(Arc::from)))
    }
}

/// Allows everything and writes down what it was asked.
#[derive(Default)]
struct Witness {
    connects: Mutex<Vec<SocketAddr>>,
}

impl Enforce for Witness {
    fn may_instantiate(&self, _: &Instantiate<'_>) -> Result<(), Denied> {
        Ok(())
    }

    fn may_send(&self, _: &SendOut<'_>) -> Result<(), Denied> {
        Ok(())
    }

    fn may_connect(&self, act: &Connect<'_>) -> Result<(), Denied> {
        self.connects.lock().unwrap().push(act.address);
        Ok(())
    }
}

struct World {
    client: Client,
    numbers: Arc<ClientNumbers>,
    who: Who,
}

fn who(zone: &str) -> Who {
    Who { zone: zone.into(), tenant: "tenant".into() }
}

fn times() -> Times {
    Times { connect: PATIENCE, first_byte: PATIENCE, between_bytes: PATIENCE }
}

fn world() -> World {
    world_with(ClientOptions::default(), Arc::new(Witness::default()), |_| Err(ResolveError::NotFound))
}

fn world_with(
    options: ClientOptions,
    enforce: Arc<dyn Enforce>,
    names: impl Fn(&str) -> Result<Vec<IpAddr>, ResolveError> + 'static,
) -> World {
    let numbers = Arc::<ClientNumbers>::default();
    let tls = Tls::new(RootCertStore::empty()).unwrap();
    let client = Client::new(Scripted(Box::new(names)), enforce, tls, options, Arc::clone(&numbers));
    World { client, numbers, who: who("a") }
}

fn to(address: SocketAddr) -> Destination {
    Destination::new(false, &address.ip().to_string(), address.port()).unwrap()
}

impl World {
    fn order<'a>(&'a self, to: &'a Destination) -> Order<'a> {
        Order { to, who: &self.who, times: times(), host: HostField::Destination, retry: Retry::Safe }
    }

    async fn ask(&self, to: &Destination, method: Method) -> Result<Response<ReplyBody>, SendError> {
        self.client.send(&self.order(to), request(method, Pieces::none())).await
    }

    /// A GET and the whole body of its reply.
    async fn get(&self, to: &Destination) -> Result<String, SendError> {
        whole(self.ask(to, Method::GET).await?).await.map(|(body, _)| body)
    }
}

fn request<B>(method: Method, body: B) -> Request<B> {
    Request::builder().method(method).uri("/path?query").body(body).unwrap()
}

async fn whole(reply: Response<ReplyBody>) -> Result<(String, Option<HeaderMap>), SendError> {
    let mut body = std::pin::pin!(reply.into_body());
    let (mut bytes, mut trailers) = (Vec::new(), None);
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        match frame?.into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((String::from_utf8(bytes).unwrap(), trailers))
}

async fn until(what: impl Fn() -> bool) {
    while !what() {
        sleep(Duration::from_millis(1)).await;
    }
}

/// Time for what has been begun on this core to be seen, however slow the machine is.
async fn some_turns() {
    for _ in 0..20 {
        sleep(Duration::from_millis(1)).await;
    }
}

/// A body that a test feeds piece by piece.
#[derive(Default)]
struct Script {
    frames: VecDeque<Result<Frame<Bytes>, &'static str>>,
    over: bool,
    waits: Option<Waker>,
    size: Option<u64>,
    taken: usize,
}

#[derive(Clone, Default)]
struct Pieces(Rc<RefCell<Script>>);

impl Pieces {
    fn none() -> Self {
        let pieces = Self::default();
        pieces.0.borrow_mut().over = true;
        pieces
    }

    fn of(text: &'static str) -> Self {
        let pieces = Self::default();
        pieces.0.borrow_mut().size = Some(text.len() as u64);
        pieces.push(Ok(Frame::data(Bytes::from_static(text.as_bytes()))));
        pieces.end();
        pieces
    }

    fn push(&self, frame: Result<Frame<Bytes>, &'static str>) {
        self.0.borrow_mut().frames.push_back(frame);
        self.wake();
    }

    fn end(&self) {
        self.0.borrow_mut().over = true;
        self.wake();
    }

    fn wake(&self) {
        let waker = self.0.borrow_mut().waits.take();
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        let mut script = self.0.borrow_mut();
        if let Some(frame) = script.frames.pop_front() {
            script.taken += 1;
            return Poll::Ready(Some(frame));
        }
        if script.over {
            return Poll::Ready(None);
        }
        script.waits = Some(cx.waker().clone());
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let script = self.0.borrow();
        script.over && script.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.borrow().size.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[test]
fn a_connection_serves_one_request_after_the_other() {
    on_both(|| async {
        let (at, connections) = answering(HELLO);
        let (world, to) = (world(), to(at));
        for _ in 0..5 {
            assert_eq!(world.get(&to).await.unwrap(), "hello");
        }
        assert_eq!(connections.get(), 1);
        let numbers = &world.numbers;
        assert_eq!((numbers.outgoing_requests.get(), numbers.outgoing_connections.get()), (5, 1));
        assert_eq!((numbers.outgoing_reused.get(), numbers.outgoing_connections_idle.get()), (4, 1));
    });
}

#[test]
fn replies_without_a_body_give_their_connection_back_as_well() {
    on_both(|| async {
        let (at, connections) = origin(LOCAL, |mut stream, _| async move {
            while let Some(head) = head(&mut stream).await {
                let reply = match &head[..4] {
                    "HEAD" => "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n",
                    _ => "HTTP/1.1 204 No Content\r\n\r\n",
                };
                say(&mut stream, reply).await;
            }
        });
        let (world, to) = (world(), to(at));
        for method in [Method::HEAD, Method::GET, Method::HEAD, Method::DELETE] {
            // Nobody reads these bodies: there is nothing to read.
            drop(world.ask(&to, method).await.unwrap());
        }
        assert_eq!(connections.get(), 1);
    });
}

#[test]
fn an_origin_that_closes_after_each_reply_is_asked_over_new_connections() {
    on_both(|| async {
        let said = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
        for reply in [HELLO, said, "HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello"] {
            let (at, connections) = origin(LOCAL, move |mut stream, _| async move {
                head(&mut stream).await;
                say(&mut stream, reply).await;
            });
            let (world, to) = (world(), to(at));
            for _ in 0..3 {
                assert_eq!(world.get(&to).await.unwrap(), "hello");
                sleep(Duration::from_millis(2)).await;
            }
            assert_eq!(connections.get(), 3);
        }
    });
}

/// The second request of each connection is read, and the connection closed instead of a reply.
fn forgetful() -> (SocketAddr, Rc<Cell<usize>>) {
    origin(LOCAL, |mut stream, _| async move {
        head(&mut stream).await;
        say(&mut stream, HELLO).await;
        head(&mut stream).await;
    })
}

#[test]
fn a_request_that_changes_nothing_is_sent_again_when_a_used_connection_ends_in_silence() {
    on_both(|| async {
        let (at, connections) = forgetful();
        let (world, to) = (world(), to(at));
        assert_eq!(world.get(&to).await.unwrap(), "hello");
        assert_eq!(world.get(&to).await.unwrap(), "hello");
        assert_eq!(connections.get(), 2);
        assert_eq!(world.numbers.outgoing_retried.get(), 1);
    });
}

#[test]
fn a_request_that_may_have_been_acted_upon_is_not_sent_again() {
    on_both(|| async {
        let never = Retry::Never;
        for (method, body, retry) in [
            (Method::POST, Pieces::none(), Retry::Safe),
            (Method::PATCH, Pieces::of("x"), Retry::Safe),
            (Method::PUT, Pieces::of("x"), Retry::Safe),
            (Method::GET, Pieces::none(), never),
        ] {
            let (at, connections) = forgetful();
            let (world, to) = (world(), to(at));
            assert_eq!(world.get(&to).await.unwrap(), "hello");
            let order = Order { retry, ..world.order(&to) };
            let error = world.client.send(&order, request(method, body)).await.err().unwrap();
            assert!(matches!(error, SendError::ConnectionTerminated), "{error:?}");
            assert_eq!((connections.get(), world.numbers.outgoing_retried.get()), (1, 0));
        }
    });
}

#[test]
fn a_request_is_sent_again_once_at_most_and_never_over_a_first_connection() {
    on_both(|| async {
        let (at, connections) = origin(LOCAL, |mut stream, number| async move {
            head(&mut stream).await;
            if number == 1 {
                say(&mut stream, HELLO).await;
                head(&mut stream).await;
            }
        });
        let (world, to) = (world(), to(at));
        assert_eq!(world.get(&to).await.unwrap(), "hello");
        for connections_after in [2, 3] {
            let error = world.get(&to).await.unwrap_err();
            assert!(matches!(error, SendError::ConnectionTerminated), "{error:?}");
            assert_eq!(connections.get(), connections_after);
        }
    });
}

#[test]
fn a_connection_that_ended_while_idle_is_noticed_before_it_is_used() {
    on_both(|| async {
        let (at, connections) = origin(LOCAL, |mut stream, _| async move {
            head(&mut stream).await;
            say(&mut stream, HELLO).await;
        });
        let (world, to) = (world(), to(at));
        assert_eq!(world.get(&to).await.unwrap(), "hello");
        some_turns().await;
        let reply = world.ask(&to, Method::POST).await.unwrap();
        assert_eq!(whole(reply).await.unwrap().0, "hello");
        assert_eq!((connections.get(), world.numbers.outgoing_retried.get()), (2, 0));
    });
}

#[test]
fn a_reply_that_nobody_asked_for_is_given_to_nobody() {
    on_both(|| async {
        let (at, connections) = origin(LOCAL, |mut stream, number| async move {
            while head(&mut stream).await.is_some() {
                let extra = if number == 1 { "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil" } else { "" };
                say(&mut stream, &format!("{HELLO}{extra}")).await;
            }
        });
        let (world, to) = (world(), to(at));
        for _ in 0..3 {
            assert_eq!(world.get(&to).await.unwrap(), "hello");
        }
        assert_eq!(connections.get(), 2);
    });
}

#[test]
fn a_head_that_does_not_come_in_time_ends_the_connection() {
    on_both(|| async {
        let gone = Rc::new(Cell::new(false));
        let tell = Rc::clone(&gone);
        let (at, _) = origin(LOCAL, move |mut stream, _| {
            let tell = Rc::clone(&tell);
            async move {
                head(&mut stream).await;
                say(&mut stream, "HTTP/1.1 200 OK\r\n").await;
                tell.set(stream.read(&mut [0]).await.map_or(0, |count| count) == 0);
            }
        });
        let (world, to) = (world(), to(at));
        let times = Times { first_byte: Duration::from_millis(20), ..times() };
        let order = Order { times, ..world.order(&to) };
        let error = world.client.send(&order, request(Method::GET, Pieces::none())).await.err().unwrap();
        assert!(matches!(error, SendError::HttpResponseTimeout), "{error:?}");
        assert_eq!((error.status(), world.numbers.outgoing_timeouts.get()), (StatusCode::GATEWAY_TIMEOUT, 1));
        until(|| gone.get()).await;
    });
}

#[test]
fn a_body_that_pauses_for_too_long_is_an_error() {
    on_both(|| async {
        let (at, _) = origin(LOCAL, |mut stream, _| async move {
            head(&mut stream).await;
            say(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n").await;
            for _ in 0..4 {
                sleep(Duration::from_millis(250)).await;
                say(&mut stream, "x").await;
            }
            sleep(PATIENCE).await;
        });
        let (world, to) = (world(), to(at));
        // Four pauses together are longer, and none of them is.
        let times = Times { between_bytes: Duration::from_millis(900), ..times() };
        let order = Order { times, ..world.order(&to) };
        let reply = world.client.send(&order, request(Method::GET, Pieces::none())).await.unwrap();
        let mut body = std::pin::pin!(reply.into_body());
        for _ in 0..4 {
            assert!(poll_fn(|cx| body.as_mut().poll_frame(cx)).await.unwrap().is_ok());
        }
        let error = poll_fn(|cx| body.as_mut().poll_frame(cx)).await.unwrap().unwrap_err();
        assert!(matches!(error, SendError::ConnectionReadTimeout), "{error:?}");
        assert!(poll_fn(|cx| body.as_mut().poll_frame(cx)).await.is_none());
        assert_eq!(world.numbers.outgoing_bodies_cut.get(), 1);
    });
}

#[test]
fn a_reply_that_is_cut_off_is_an_error_and_never_an_end() {
    on_both(|| async {
        for reply in [
            "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nhello",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n\r\n",
        ] {
            let (at, _) = origin(LOCAL, move |mut stream, _| async move {
                head(&mut stream).await;
                say(&mut stream, reply).await;
            });
            let error = world().get(&to(at)).await.unwrap_err();
            assert!(matches!(error, SendError::HttpResponseIncomplete), "{reply:?}: {error:?}");
        }
        // A head that is cut off is no reply, and had begun: it is not asked for again.
        let (at, connections) = origin(LOCAL, |mut stream, number| async move {
            head(&mut stream).await;
            if number == 1 {
                say(&mut stream, HELLO).await;
                head(&mut stream).await;
            }
            say(&mut stream, "HTTP/1.1 200 ").await;
        });
        let (world, to) = (world(), to(at));
        world.get(&to).await.unwrap();
        let error = world.get(&to).await.unwrap_err();
        assert!(matches!(error, SendError::HttpResponseIncomplete), "{error:?}");
        assert_eq!(connections.get(), 1);
    });
}

#[test]
fn trailers_come_and_go_and_bring_no_framing() {
    on_both(|| async {
        let seen = Rc::new(RefCell::new(String::new()));
        let tell = Rc::clone(&seen);
        let (at, _) = origin(LOCAL, move |mut stream, _| {
            let tell = Rc::clone(&tell);
            async move {
                let mut all = head(&mut stream).await.unwrap();
                all += &head(&mut stream).await.unwrap(); // The chunks and the trailers.
                *tell.borrow_mut() = all;
                let reply = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\
                             x-sum: 7\r\ncontent-length: 9\r\n\r\n";
                say(&mut stream, reply).await;
            }
        });
        let (world, to) = (world(), to(at));
        let body = Pieces::default();
        body.push(Ok(Frame::data(Bytes::from_static(b"up"))));
        let mut trailers = HeaderMap::new();
        trailers.insert("x-hash", HeaderValue::from_static("abc"));
        trailers.insert("host", HeaderValue::from_static("evil"));
        body.push(Ok(Frame::trailers(trailers)));
        body.end();
        let mut request = request(Method::POST, body);
        request.headers_mut().insert("trailer", HeaderValue::from_static("x-hash, host"));
        let reply = world.client.send(&world.order(&to), request).await.unwrap();
        let (text, trailers) = whole(reply).await.unwrap();
        let trailers = trailers.unwrap();
        assert_eq!(
            (&text[..], &trailers["x-sum"], trailers.len()),
            ("hello", &HeaderValue::from_static("7"), 1)
        );
        let seen = seen.borrow();
        assert!(seen.ends_with("2\r\nup\r\n0\r\nx-hash: abc\r\n\r\n"), "{seen}");
        assert!(seen.contains("transfer-encoding: chunked") && !seen.contains("evil"), "{seen}");
    });
}

#[test]
fn both_bodies_stream_at_once() {
    on_both(|| async {
        let (at, connections) = origin(LOCAL, |mut stream, _| async move {
            while head(&mut stream).await.is_some() {
                say(&mut stream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
                // Echoes each chunk, of one byte, as it comes; the last one ends both.
                loop {
                    let mut chunk = [0; 6];
                    stream.read_exact(&mut chunk[..5]).await.unwrap();
                    if chunk[0] == b'0' {
                        say(&mut stream, "0\r\n\r\n").await;
                        break;
                    }
                    stream.read_exact(&mut chunk[5..]).await.unwrap();
                    stream.write_all(&chunk).await.unwrap();
                }
            }
        });
        let (world, to) = (world(), to(at));
        for _ in 0..2 {
            let up = Pieces::default();
            let reply =
                world.client.send(&world.order(&to), request(Method::POST, up.clone())).await.unwrap();
            let mut down = std::pin::pin!(reply.into_body());
            for letter in ["a", "b", "c"] {
                up.push(Ok(Frame::data(Bytes::from_static(letter.as_bytes()))));
                let frame = poll_fn(|cx| down.as_mut().poll_frame(cx)).await.unwrap().unwrap();
                assert_eq!(frame.into_data().unwrap(), letter);
            }
            up.end();
            assert!(poll_fn(|cx| down.as_mut().poll_frame(cx)).await.is_none());
        }
        assert_eq!(connections.get(), 1);
    });
}

#[test]
fn a_reader_that_is_slow_holds_the_upload_back() {
    on_both(|| async {
        const PIECE: usize = 16 * 1024;
        let read = Rc::new(Cell::new(0));
        let counted = Rc::clone(&read);
        let (goes_on, waits) = tokio::sync::oneshot::channel::<()>();
        let waits = RefCell::new(Some(waits));
        let (at, _) = origin(LOCAL, move |mut stream, _| {
            let (counted, waits) = (Rc::clone(&counted), waits.take().unwrap());
            async move {
                head(&mut stream).await;
                let _ = waits.await;
                let mut buffer = vec![0; 65536];
                while counted.get() < 64 * PIECE {
                    counted.set(counted.get() + stream.read(&mut buffer).await.unwrap());
                }
                say(&mut stream, HELLO).await;
            }
        });
        let (world, to) = (world(), to(at));
        let up = Pieces::default();
        up.0.borrow_mut().size = Some(64 * PIECE as u64);
        // A small buffer in the kernel, so that what is counted is ours.
        for _ in 0..64 {
            up.push(Ok(Frame::data(Bytes::from(vec![b'u'; PIECE]))));
        }
        up.end();
        let script = Rc::clone(&up.0);
        let sending = {
            let (client, who) = (world.client.clone(), world.who.clone());
            spawn_scoped(async move {
                let order = Order {
                    to: &to,
                    who: &who,
                    times: times(),
                    host: HostField::Destination,
                    retry: Retry::Safe,
                };
                whole(client.send(&order, request(Method::POST, up)).await?).await
            })
        };
        let mut before = usize::MAX;
        while before != script.borrow().taken {
            before = script.borrow().taken;
            sleep(Duration::from_millis(30)).await;
        }
        println!("{before} of 64 pieces were taken while nobody read");
        goes_on.send(()).unwrap();
        assert_eq!(sending.await.unwrap().0, "hello");
        assert_eq!((script.borrow().taken, read.get()), (64, 64 * PIECE));
    });
}

#[test]
fn an_upload_that_nobody_reads_is_taken_up_to_a_bound() {
    on_both(|| async {
        const PIECE: usize = 64 * 1024;
        let (at, _) = origin(LOCAL, |mut stream, _| async move {
            head(&mut stream).await;
            sleep(PATIENCE).await;
        });
        let (world, to) = (world(), to(at));
        let up = Pieces::default();
        let piece = Bytes::from(vec![b'u'; PIECE]);
        for _ in 0..1024 {
            up.push(Ok(Frame::data(piece.clone())));
        }
        let times = Times { first_byte: Duration::from_millis(200), ..times() };
        let order = Order { times, ..world.order(&to) };
        let sent = world.client.send(&order, request(Method::POST, up.clone())).await;
        assert!(matches!(sent.err(), Some(SendError::HttpResponseTimeout)));
        // What both kernel buffers of loopback hold, 4 MiB and 6 MiB at most, and little of ours.
        let taken = up.0.borrow().taken * PIECE;
        assert!(taken < 12 << 20, "{taken} bytes were taken");
    });
}

#[test]
fn a_request_body_that_fails_or_lies_about_its_length_is_told_and_never_looks_whole() {
    on_both(|| async {
        let heard = Rc::new(RefCell::new(None));
        let tell = Rc::clone(&heard);
        let (at, _) = origin(LOCAL, move |mut stream, _| {
            let tell = Rc::clone(&tell);
            async move {
                let mut all = Vec::new();
                let _ = stream.read_to_end(&mut all).await;
                tell.replace(Some(String::from_utf8(all).unwrap()));
            }
        });
        let (world, to) = (world(), to(at));
        let data = |text: &'static str| Ok(Frame::data(Bytes::from_static(text.as_bytes())));
        for (frames, size) in [
            (vec![data("part"), Err("its client left")], None),
            (vec![data("part")], Some(9)),
            (vec![data("part"), data("of it")], Some(6)),
        ] {
            let up = Pieces::default();
            up.0.borrow_mut().size = size;
            frames.into_iter().for_each(|frame| up.push(frame));
            up.end();
            let sent = world.client.send(&world.order(&to), request(Method::PUT, up)).await;
            let error = sent.err().unwrap();
            assert!(matches!(error, SendError::HttpRequestBody(_)), "{error:?}");
            assert_eq!(error.status(), StatusCode::BAD_REQUEST);
            // Nothing, or a part: the connection ends and no last chunk is written.
            until(|| heard.borrow().is_some()).await;
            let heard = heard.take().unwrap_or_default();
            assert!(!heard.ends_with("0\r\n\r\n") && !heard.ends_with("part of"), "{heard}");
        }
    });
}

#[test]
fn fields_of_a_connection_stay_on_it_and_host_is_what_was_ordered() {
    on_both(|| async {
        let heard = Rc::new(RefCell::new(String::new()));
        let tell = Rc::clone(&heard);
        let (at, _) = origin(LOCAL, move |mut stream, _| {
            let tell = Rc::clone(&tell);
            async move {
                while let Some(head) = head(&mut stream).await {
                    tell.replace(head);
                    let reply = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: x-hop\r\nx-hop: 1\r\n\
                                 keep-alive: timeout=5\r\nx-end: 2\r\n\r\n";
                    say(&mut stream, reply).await;
                }
            }
        });
        let (world, to) = (world(), to(at));
        for (host, expected) in [
            (HostField::Destination, at.to_string()),
            (HostField::Given(HeaderValue::from_static("shop.test")), "shop.test".to_owned()),
        ] {
            let mut request = request(Method::GET, Pieces::none());
            for (name, value) in [
                ("host", "client.test"),
                ("connection", "x-mine, close"),
                ("x-mine", "1"),
                ("upgrade", "websocket"),
                ("expect", "100-continue"),
                ("x-through", "1"),
            ] {
                let value = HeaderValue::from_static(value);
                request.headers_mut().append(HeaderName::from_static(name), value);
            }
            let reply = world.client.send(&Order { host, ..world.order(&to) }, request).await.unwrap();
            let names: Vec<_> = reply.headers().keys().map(ToString::to_string).collect();
            assert_eq!(names, ["content-length", "x-end"]);
            let heard = heard.borrow();
            assert_eq!(
                *heard,
                format!("GET /path?query HTTP/1.1\r\nhost: {expected}\r\nx-through: 1\r\n\r\n")
            );
        }
    });
}

#[test]
fn interim_replies_are_skipped_and_a_switch_of_protocols_is_refused() {
    on_both(|| async {
        let (at, _) = answering(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n\
             HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        );
        assert_eq!(world().get(&to(at)).await.unwrap(), "hello");
        let (at, _) =
            answering("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nraw");
        let error = world().get(&to(at)).await.unwrap_err();
        assert!(matches!(error, SendError::HttpUpgradeFailed), "{error:?}");
    });
}

#[test]
fn heads_that_are_too_large_or_nonsense_are_told_apart() {
    on_both(|| async {
        let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(70_000));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(129));
        let nonsense = "SSH-2.0-OpenSSH\r\n\r\n".to_owned();
        let twice = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx".to_owned();
        for (reply, too_large) in [(long, true), (many, true), (nonsense, false), (twice, false)] {
            let (at, _) = answering(reply.leak());
            let error = world().get(&to(at)).await.unwrap_err();
            match error {
                SendError::HttpResponseHeaderSectionSize => assert!(too_large),
                SendError::HttpProtocolError(_) => assert!(!too_large),
                error => panic!("{error:?}"),
            }
        }
    });
}

#[test]
fn who_drops_a_request_or_a_body_closes_its_connection() {
    on_both(|| async {
        let (came, ended) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let (tell_came, tell_ended) = (Rc::clone(&came), Rc::clone(&ended));
        let (at, _) = origin(LOCAL, move |mut stream, number| {
            let (came, ended) = (Rc::clone(&tell_came), Rc::clone(&tell_ended));
            async move {
                head(&mut stream).await;
                came.set(number);
                if number == 2 {
                    say(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello").await;
                }
                let _ = stream.read(&mut [0]).await;
                ended.set(ended.get() + 1);
            }
        });
        let (world, to) = (Rc::new(world()), to(at));
        let asking = {
            let (world, to) = (Rc::clone(&world), to.clone());
            spawn_scoped(async move { world.ask(&to, Method::GET).await.is_ok() })
        };
        until(|| came.get() == 1).await;
        drop(asking);
        until(|| ended.get() == 1).await;
        drop(world.ask(&to, Method::GET).await.unwrap());
        until(|| ended.get() == 2).await;
        assert_eq!(world.numbers.outgoing_connections_open.get(), 0);
    });
}

#[test]
fn nobody_reaches_what_is_not_public_by_address_or_by_name() {
    on_both(|| async {
        let (at, connections) = answering(HELLO);
        let names = |host: &str| match host {
            "inside.test" => Ok(vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()]),
            "metadata.test" => Ok(vec!["::ffff:169.254.169.254".parse().unwrap()]),
            "empty.test" => Ok(vec![]),
            _ => Err(ResolveError::NotFound),
        };
        let world = world_with(ClientOptions::default(), Arc::new(SafeDefaults::default()), names);
        for host in [
            "127.0.0.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "localhost",
            "a.localhost",
            "inside.test",
            "metadata.test",
            "0.0.0.0",
        ] {
            let to = Destination::new(false, host, at.port()).unwrap();
            let error = world.get(&to).await.unwrap_err();
            assert!(matches!(error, SendError::DestinationIpProhibited(_)), "{host}: {error:?}");
        }
        for host in ["nowhere.test", "empty.test"] {
            let error = world.get(&Destination::new(false, host, 80).unwrap()).await.unwrap_err();
            assert!(matches!(error, SendError::DestinationNotFound), "{host}: {error:?}");
        }
        assert_eq!((connections.get(), world.numbers.outgoing_refused.get()), (0, 8));
    });
}

#[test]
fn a_name_that_changes_its_address_is_judged_by_the_one_that_is_connected_to() {
    on_both(|| async {
        // The same port on two addresses: one is an origin, the other is not.
        let (allowed, reached) =
            answering("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello");
        let forbidden = SocketAddr::new("127.0.0.2".parse().unwrap(), allowed.port());
        let (forbidden, touched) = origin(forbidden, |_, _| async {});
        let asked = Rc::new(Cell::new(0));
        let count = Rc::clone(&asked);
        // Whoever asked twice for one connection, to judge one answer and use the other, would be rebound.
        let names = move |_: &str| {
            count.set(count.get() + 1);
            Ok(vec![if count.get() % 2 == 1 { allowed.ip() } else { forbidden.ip() }])
        };
        let origins = vec![AllowedOrigin { zone: "a".into(), at: OriginAt::Address(allowed) }];
        let world = world_with(ClientOptions::default(), Arc::new(SafeDefaults::new([], origins)), names);
        let to = Destination::new(false, "rebind.test", allowed.port()).unwrap();
        for round in 1..=6 {
            let reply = world.get(&to).await;
            assert_eq!(reply.is_ok(), round % 2 == 1, "round {round}");
            assert_eq!(asked.get(), round);
        }
        assert_eq!((reached.get(), touched.get()), (3, 0));
    });
}

#[test]
fn the_address_that_was_judged_is_the_one_that_is_connected_to() {
    on_both(|| async {
        let (at, connections) = answering(HELLO);
        let witness = Arc::new(Witness::default());
        let names = |_: &str| Ok(vec!["127.0.0.1".parse().unwrap()]);
        let world = world_with(ClientOptions::default(), Arc::clone(&witness) as Arc<dyn Enforce>, names);
        let to = Destination::new(false, "a.test", at.port()).unwrap();
        world.get(&to).await.unwrap();
        world.get(&to).await.unwrap();
        // Judged for the connection, and again when it was taken from the pool.
        assert_eq!((&*witness.connects.lock().unwrap(), connections.get()), (&vec![at, at], 1));
    });
}

#[test]
fn a_new_judge_decides_about_connections_that_there_are() {
    on_both(|| async {
        let (at, connections) = answering(HELLO);
        let origin = AllowedOrigin { zone: "a".into(), at: OriginAt::Address(at) };
        let judge = Arc::new(arc_swap::ArcSwap::from_pointee(SafeDefaults::new([], vec![origin])));
        let world = world_with(ClientOptions::default(), Arc::clone(&judge) as Arc<dyn Enforce>, |_| {
            Err(ResolveError::NotFound)
        });
        let to = to(at);
        world.get(&to).await.unwrap();
        judge.store(Arc::default());
        let error = world.get(&to).await.unwrap_err();
        assert!(matches!(error, SendError::DestinationIpProhibited(_)), "{error:?}");
        assert_eq!((connections.get(), world.numbers.outgoing_connections_open.get()), (1, 0));
    });
}

#[test]
fn zones_share_no_connection() {
    on_both(|| async {
        let (at, connections) = answering(HELLO);
        let (world, to) = (world(), to(at));
        let other = who("b");
        world.get(&to).await.unwrap();
        let order = Order { who: &other, ..world.order(&to) };
        whole(world.client.send(&order, request(Method::GET, Pieces::none())).await.unwrap()).await.unwrap();
        assert_eq!(connections.get(), 2);
    });
}

fn small(pool: PoolLimits) -> World {
    let options = ClientOptions { pool, pool_wait: PATIENCE, ..ClientOptions::default() };
    world_with(options, Arc::new(Witness::default()), |_| Err(ResolveError::NotFound))
}

#[test]
fn a_destination_has_so_many_connections_and_others_wait_for_one_in_line() {
    on_both(|| async {
        let (at, connections) = answering(HELLO);
        let limits =
            PoolLimits { destination_connections: 2, destination_waiting: 1, ..PoolLimits::default() };
        let (world, to) = (small(limits), to(at));
        let first = world.ask(&to, Method::GET).await.unwrap();
        let second = world.ask(&to, Method::GET).await.unwrap();
        let waits = world.get(&to);
        let mut waits = std::pin::pin!(waits);
        assert!(timeout(Duration::from_millis(5), waits.as_mut()).await.is_err());
        // The line is full; who is in it goes on waiting.
        let error = world.get(&to).await.unwrap_err();
        assert!(matches!(error, SendError::ConnectionLimitReached), "{error:?}");
        whole(first).await.unwrap();
        assert_eq!(waits.await.unwrap(), "hello");
        // A connection that is closed makes room as well.
        let third = world.ask(&to, Method::GET).await.unwrap();
        let waits = world.get(&to);
        let mut waits = std::pin::pin!(waits);
        assert!(timeout(Duration::from_millis(5), waits.as_mut()).await.is_err());
        drop((second, third));
        assert_eq!(waits.await.unwrap(), "hello");
        assert_eq!((world.numbers.limit_outgoing_connections.get(), connections.get()), (1, 3));
    });
}

#[test]
fn nobody_waits_for_a_connection_for_ever() {
    on_both(|| async {
        let (at, _) = answering(HELLO);
        let pool = PoolLimits { destination_connections: 1, ..PoolLimits::default() };
        let options =
            ClientOptions { pool, pool_wait: Duration::from_millis(20), ..ClientOptions::default() };
        let world = world_with(options, Arc::new(Witness::default()), |_| Err(ResolveError::NotFound));
        let to = to(at);
        let held = world.ask(&to, Method::GET).await.unwrap();
        let error = world.get(&to).await.unwrap_err();
        assert!(matches!(error, SendError::ConnectionLimitReached), "{error:?}");
        // Who has given up is not in line any more.
        whole(held).await.unwrap();
        assert_eq!(world.numbers.outgoing_connections_idle.get(), 1);
    });
}

#[test]
fn a_zone_has_so_many_connections_and_what_idles_makes_room() {
    on_both(|| async {
        let origins: Vec<_> = (0..3).map(|_| to(answering(HELLO).0)).collect();
        let world = small(PoolLimits { zone_connections: 2, ..PoolLimits::default() });
        for to in &origins {
            assert_eq!(world.get(to).await.unwrap(), "hello");
            assert!(world.numbers.outgoing_connections_open.get() <= 2);
        }
        let _held = (world.ask(&origins[0], Method::GET).await, world.ask(&origins[1], Method::GET).await);
        let error = world.get(&origins[2]).await.unwrap_err();
        assert!(matches!(error, SendError::ConnectionLimitReached), "{error:?}");
        // Another zone is not concerned.
        let order = Order { who: &who("b"), ..world.order(&origins[2]) };
        assert!(world.client.send(&order, request(Method::GET, Pieces::none())).await.is_ok());
    });
}

#[test]
fn idle_connections_are_bounded() {
    on_both(|| async {
        let origins: Vec<_> = (0..2).map(|_| to(answering(HELLO).0)).collect();
        let world = small(PoolLimits { idle: 3, destination_idle: 2, ..PoolLimits::default() });
        for to in &origins {
            let mut held = Vec::new();
            for _ in 0..4 {
                held.push(world.ask(to, Method::GET).await.unwrap());
            }
            for reply in held {
                whole(reply).await.unwrap();
            }
        }
        let numbers = &world.numbers;
        assert_eq!(
            (numbers.outgoing_connections_idle.get(), numbers.outgoing_connections_open.get()),
            (3, 3)
        );
    });
}

#[test]
fn what_idles_for_too_long_is_closed() {
    on_both(|| async {
        let to = to(answering(HELLO).0);
        let world = small(PoolLimits { idle_timeout: Duration::from_millis(20), ..PoolLimits::default() });
        // The task that closes them ends when nothing idles, and comes again.
        for _ in 0..2 {
            assert_eq!(world.get(&to).await.unwrap(), "hello");
            until(|| world.numbers.outgoing_connections_open.get() == 0).await;
        }
    });
}

#[test]
fn a_client_that_ends_closes_its_connections() {
    on_both(|| async {
        let ended = Rc::new(Cell::new(false));
        let tell = Rc::clone(&ended);
        let (at, _) = origin(LOCAL, move |mut stream, _| {
            let tell = Rc::clone(&tell);
            async move {
                head(&mut stream).await;
                say(&mut stream, HELLO).await;
                let _ = stream.read(&mut [0]).await;
                tell.set(true);
            }
        });
        let world = world();
        world.get(&to(at)).await.unwrap();
        drop(world);
        until(|| ended.get()).await;
    });
}

#[test]
fn failures_to_connect_have_their_names() {
    on_both(|| async {
        let nobody = std::net::TcpListener::bind(LOCAL).unwrap().local_addr().unwrap();
        let error = world().get(&to(nobody)).await.unwrap_err();
        assert!(matches!(error, SendError::ConnectionRefused), "{error:?}");
        // A listener whose queue is full lets attempts hang.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&LOCAL.into()).unwrap();
        socket.listen(0).unwrap();
        let full = socket.local_addr().unwrap().as_socket().unwrap();
        let _fills_the_queue = std::net::TcpStream::connect(full).unwrap();
        let (world, to) = (world(), to(full));
        let times = Times { connect: Duration::from_millis(30), ..times() };
        let order = Order { times, ..world.order(&to) };
        let error = world.client.send(&order, request(Method::GET, Pieces::none())).await.err().unwrap();
        assert!(matches!(error, SendError::ConnectionTimeout), "{error:?}");
    });
}

#[test]
fn an_address_that_does_not_answer_gives_way_to_the_next() {
    on_both(|| async {
        let (at, _) = answering(HELLO);
        let names = |_: &str| Ok(vec!["127.0.0.9".parse().unwrap(), "127.0.0.1".parse().unwrap()]);
        let world = world_with(ClientOptions::default(), Arc::new(Witness::default()), names);
        let to = Destination::new(false, "two.test", at.port()).unwrap();
        assert_eq!(world.get(&to).await.unwrap(), "hello");
    });
}

#[test]
fn tls_trusts_whom_it_should_and_nobody_else() {
    on_both(|| async {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["origin.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        let (at, connections) = origin(LOCAL, move |stream, _| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                while head(&mut stream).await.is_some() {
                    say(&mut stream, HELLO).await;
                }
            }
        });
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        for (trusts, name, good) in
            [(true, "origin.test", true), (true, "other.test", false), (false, "origin.test", false)]
        {
            let numbers = Arc::<ClientNumbers>::default();
            let roots = if trusts { roots.clone() } else { RootCertStore::empty() };
            let names = Scripted(Box::new(move |_| Ok(vec![at.ip()])));
            let tls = Tls::new(roots).unwrap();
            let client = Client::new(
                names,
                Arc::new(Witness::default()),
                tls,
                ClientOptions::default(),
                numbers.clone(),
            );
            let world = World { client, numbers, who: who("a") };
            let to = Destination::new(true, name, at.port()).unwrap();
            if good {
                assert_eq!(world.get(&to).await.unwrap(), "hello");
                assert_eq!(world.get(&to).await.unwrap(), "hello");
                assert_eq!(connections.get(), 1);
            } else {
                let error = world.get(&to).await.unwrap_err();
                assert!(matches!(error, SendError::TlsCertificateError(_)), "{name}: {error:?}");
            }
        }
        // Somebody who does not speak TLS at all.
        let (plain, _) = origin(LOCAL, |mut stream, _| async move {
            say(&mut stream, "HTTP/1.1 400 Bad Request\r\n\r\n").await;
            sleep(PATIENCE).await;
        });
        let to = Destination::new(true, "127.0.0.1", plain.port()).unwrap();
        let error = world().get(&to).await.unwrap_err();
        assert!(matches!(error, SendError::TlsProtocolError(_)), "{error:?}");
    });
}

#[test]
fn destinations_are_read_strictly() {
    let good = [
        ("example.test", "example.test", 80, "example.test"),
        ("EXAMPLE.test.:8080", "example.test", 8080, "example.test:8080"),
        ("[::1]", "::1", 80, "[::1]"),
        ("[0:0::0:1]:81", "::1", 81, "[::1]:81"),
        ("1.2.3.4:80", "1.2.3.4", 80, "1.2.3.4"),
        ("_a-b.c", "_a-b.c", 80, "_a-b.c"),
    ];
    for (text, host, port, authority) in good {
        let to = Destination::parse(false, text).unwrap();
        assert_eq!(
            (to.host(), to.port(), to.authority().to_str().unwrap()),
            (host, port, authority),
            "{text}"
        );
    }
    for text in [
        "",
        ".",
        "a..b",
        "a b",
        "a/b",
        "user@a",
        "a:",
        "a:x",
        "a:0",
        "a:65536",
        "a:+80",
        "[::1",
        "::1]:80",
        "[a]",
        "[fe80::1%eth0]",
        "ä.test",
        "a\r\nb",
        "a%2e",
    ] {
        assert!(Destination::parse(false, text).is_err(), "{text:?}");
    }
    assert_eq!(Destination::parse(true, "a").unwrap().port(), 443);
}

/// Waits in the threads of a resolver until the test says go, and counts.
struct Gate {
    state: Mutex<(usize, bool)>,
    changed: std::sync::Condvar,
}

impl Gate {
    fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::new((0, false)), changed: std::sync::Condvar::new() })
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        while !state.1 {
            state = self.changed.wait(state).unwrap();
        }
    }

    fn came(&self) -> usize {
        self.state.lock().unwrap().0
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

#[test]
fn slow_names_of_one_zone_leave_threads_to_others_and_the_queue_is_bounded() {
    on_both(|| async {
        let gate = Gate::new();
        let waits = Arc::clone(&gate);
        let options = ResolverOptions { threads: 2, queue: 8 };
        let ask = move |host: &str| {
            if host.starts_with("slow") {
                waits.pass();
            }
            Ok(vec!["192.0.2.1".parse().unwrap()])
        };
        let resolver = CoreResolver::new(Arc::new(Resolvers::with(&options, ask).unwrap()));
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let running = resolver.resolve(&a, "slow-0");
        until(|| gate.came() == 1).await;
        let queued = [resolver.resolve(&a, "slow-1"), resolver.resolve(&a, "slow-2")];
        assert_eq!(resolver.resolve(&a, "slow-3").await, Err(ResolveError::Busy));
        // The zone has one of two threads, and the other answers everybody else.
        for host in ["x", "y", "z"] {
            assert!(resolver.resolve(&b, host).await.is_ok());
        }
        assert_eq!(gate.came(), 1);
        // Who has stopped waiting is skipped.
        let [first, second] = queued;
        drop(first);
        gate.open();
        assert!(running.await.is_ok() && second.await.is_ok());
        assert_eq!(gate.came(), 2);
    });
}

#[test]
fn answers_are_remembered_for_their_zone_and_asked_for_once() {
    on_both(|| async {
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let ask = move |host: &str| {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            match host {
                "missing.test" => Err(std::io::Error::other("Name or service not known")),
                "broken.test" => Err(std::io::Error::other("Temporary failure in name resolution")),
                _ => Ok(vec!["192.0.2.1".parse().unwrap()]),
            }
        };
        let resolvers = Resolvers::with(&ResolverOptions::default(), ask).unwrap();
        let resolver = CoreResolver::new(Arc::new(resolvers));
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let asked = || asked.load(std::sync::atomic::Ordering::Relaxed);
        let (one, two) = (resolver.resolve(&a, "x.test"), resolver.resolve(&a, "x.test"));
        // The one who asked first may leave: the other still gets the answer.
        drop(one);
        assert_eq!(two.await.unwrap()[..], ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert!(resolver.resolve(&a, "x.test").await.is_ok());
        assert_eq!(asked(), 1);
        assert!(resolver.resolve(&b, "x.test").await.is_ok());
        assert_eq!(asked(), 2);
        for _ in 0..2 {
            assert_eq!(resolver.resolve(&a, "missing.test").await, Err(ResolveError::NotFound));
        }
        assert!(matches!(resolver.resolve(&a, "broken.test").await, Err(ResolveError::Failed(_))));
        assert_eq!(asked(), 4);
        sleep(Duration::from_millis(1100)).await;
        assert_eq!(resolver.resolve(&a, "missing.test").await, Err(ResolveError::NotFound));
        assert_eq!(asked(), 5);
    });
}

#[test]
fn this_machine_resolves_its_own_name_without_blocking_a_core() {
    on_both(|| async {
        let resolver = CoreResolver::new(Arc::new(Resolvers::start(&ResolverOptions::default()).unwrap()));
        // Answered by the hosts file, if by anything: it need not be there, but an answer comes.
        let _ = resolver.resolve(&"a".into(), "ip6-localhost").await;
    });
}
