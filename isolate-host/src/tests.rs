//! Guests in their sandboxes, in this process: the components of `tests/guests`, which `cargo xtask test` builds before.

use std::collections::VecDeque;
use std::future::{pending, poll_fn, ready};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::Frame;

use crate::engine::{Host, HostError, Script, Settings, Stacks};
use crate::{
    Asked, Call, ErrorCode, Fault, FaultKind, Inbound, Incoming, Later, Limit, Limits, Outbound, Stream,
    WayOut, World, compile, pipe,
};

/// The component that `cargo xtask test` built.
fn guests() -> Vec<u8> {
    let path = guests_path();
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask guests` builds it", path.display()))
}

pub(crate) fn guests_path() -> PathBuf {
    std::env::var_os("BERTH_GUESTS").map_or_else(
        || {
            PathBuf::from(env!("CARGO_MANIFEST_DIR"))
                .join("../target/guests/wasm32-wasip2/release/guests.wasm")
        },
        PathBuf::from,
    )
}

/// One engine for the tests of this process, with the guests compiled once.
fn script() -> &'static Script {
    static SCRIPT: OnceLock<Script> = OnceLock::new();
    SCRIPT.get_or_init(|| load(&Settings { instances: 20, ..Settings::default() }))
}

fn load(settings: &Settings) -> Script {
    load_component(&guests(), settings)
}

pub(crate) fn load_component(component: &[u8], settings: &Settings) -> Script {
    let code = compile::compile(component).unwrap();
    let host = Host::new(settings).unwrap();
    let folder = std::env::temp_dir().join(format!(
        "berth-guests-{}-{}-{:?}",
        std::process::id(),
        settings.instances,
        settings.stacks
    ));
    std::fs::create_dir_all(&folder).unwrap();
    let key = berth_isolate_image::Key::new(&[1; 32]);
    let path = folder.join("guests");
    berth_isolate_image::write(&path, "guests", &code, &key).unwrap();
    let load = |engine: &wasmtime::Engine| {
        berth_isolate_image::load(engine, &path, "guests", &key).map_err(|error| HostError(error.to_string()))
    };
    let script = host.adopt(load).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    // The engine's clock ends with the last script.
    script
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// A world that remembers, and answers requests with their own bodies.
#[derive(Default)]
struct Remembers {
    lines: Mutex<Vec<String>>,
    cut: Mutex<u32>,
    sent: Mutex<Vec<String>>,
    variables: Vec<(String, String)>,
}

/// Ready after `time`, by a thread that sleeps so long: there is no reactor here.
pub(crate) fn wake_after(time: Duration) -> Later<()> {
    let until = Instant::now() + time;
    let mut asked = false;
    Box::pin(poll_fn(move |cx| {
        if Instant::now() >= until {
            return Poll::Ready(());
        }
        if !std::mem::replace(&mut asked, true) {
            let waker = cx.waker().clone();
            thread::spawn(move || {
                thread::sleep(until.saturating_duration_since(Instant::now()));
                waker.wake();
            });
        }
        Poll::Pending
    }))
}

impl World for Remembers {
    fn sleep(&self, time: Duration) -> Later<()> {
        wake_after(time)
    }

    fn log(&self, stream: Stream, line: &[u8]) {
        self.lines.lock().unwrap().push(format!("{stream:?}: {}", String::from_utf8_lossy(line)));
    }

    fn log_is_cut(&self) {
        *self.cut.lock().unwrap() += 1;
    }

    fn variables(&self) -> &[(String, String)] {
        &self.variables
    }

    fn secret(&self, name: &str) -> Option<String> {
        (name == "key").then(|| "secret".to_owned())
    }
}

impl WayOut for Arc<Remembers> {
    fn ask(&self, request: Outbound) -> Asked {
        self.sent.lock().unwrap().push(format!("{} {}{}", request.method, request.authority, request.path));
        if request.path == "/refused" {
            return Box::pin(ready(Err(ErrorCode::ConnectionRefused)));
        }
        if request.path == "/never" {
            return Box::pin(pending());
        }
        let body = request.body.unwrap_or_else(|| {
            let (writer, reader) = pipe::pipe();
            writer.push(Bytes::from_static(b"from the origin, origin of all"));
            writer.finish(None);
            reader
        });
        Box::pin(ready(Ok(Inbound { status: 200, headers: request.headers, body })))
    }
}

/// A request's body, piece by piece.
struct Pieces(VecDeque<Frame<Bytes>>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

/// What a client sees.
#[derive(Debug)]
struct Seen {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// The fault that cut the body.
    cut: Option<Fault>,
}

impl Seen {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

struct Ask<'a> {
    path: &'a str,
    body: Option<Pieces>,
    limits: Limits,
    world: Arc<Remembers>,
}

fn ask(path: &str) -> Ask<'_> {
    let limits = Limits { cpu: Duration::from_secs(20), ..Limits::default() };
    Ask { path, body: None, limits, world: Arc::default() }
}

impl Ask<'_> {
    fn with_body(mut self, pieces: impl IntoIterator<Item = Frame<Bytes>>) -> Self {
        self.body = Some(Pieces(pieces.into_iter().collect()));
        self
    }

    fn limited(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }

    fn begin(self) -> Call<Pieces> {
        self.begin_in(script())
    }

    fn begin_in(self, script: &Script) -> Call<Pieces> {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("hidden.example"));
        headers.insert("x-seen", HeaderValue::from_static("yes"));
        let method = if self.body.is_some() { Method::POST } else { Method::GET };
        let incoming = Incoming {
            method,
            https: true,
            authority: Some("a.example".to_owned()),
            path: self.path.to_owned(),
            headers,
            body: self.body,
        };
        let way_out = Rc::new(Arc::clone(&self.world));
        Call::new(script, &Arc::new(self.limits), self.world, way_out, incoming)
    }

    fn see(self) -> Result<Seen, Fault> {
        see(self.begin())
    }

    fn fault(self) -> Fault {
        self.see().expect_err("the guest has no answer")
    }
}

fn see(mut call: Call<Pieces>) -> Result<Seen, Fault> {
    let reply = block_on(poll_fn(|cx| call.poll_head(cx)))?;
    let mut seen =
        Seen { status: reply.status, headers: reply.headers, body: Vec::new(), trailers: None, cut: None };
    if let Some(whole) = reply.whole {
        seen.body = whole.to_vec();
        // It may do more, or trap, after its reply is whole.
        seen.cut = block_on(poll_fn(|cx| call.poll_guest(cx))).err();
        return Ok(seen);
    }
    while let Some(frame) = block_on(poll_fn(|cx| call.poll_frame(cx))) {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => seen.body.extend_from_slice(&data),
            Ok(Err(frame)) => seen.trailers = frame.into_trailers().ok(),
            Err(fault) => {
                seen.cut = Some(fault);
                break;
            }
        }
    }
    Ok(seen)
}

fn data(bytes: &'static [u8]) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(bytes))
}

fn limit(fault: &Fault) -> Option<Limit> {
    match fault.kind {
        FaultKind::Limit(limit) => Some(limit),
        _ => None,
    }
}

#[test]
fn hello_is_whole_at_once() {
    let mut call = ask("/hello").begin();
    let reply = block_on(poll_fn(|cx| call.poll_head(cx))).unwrap();
    assert_eq!((reply.status, reply.whole.as_deref()), (StatusCode::OK, Some(b"hello\n".as_slice())));
    assert_eq!(reply.headers["content-type"], "text/plain");
    assert!(!call.is_running(), "its instance is gone");
}

#[test]
fn a_guest_sees_the_request_without_what_belongs_to_the_connection() {
    let seen = ask("/head?a=b").see().unwrap();
    let text = seen.text();
    for part in ["GET", "/head?a=b", "https", "a.example", "x-seen"] {
        assert!(text.to_lowercase().contains(&part.to_lowercase()), "{part}: {text}");
    }
    assert!(!text.contains("hidden.example"), "{text}");
}

#[test]
fn bodies_and_trailers_stream_in_both_directions() {
    let mut fields = HeaderMap::new();
    fields.insert("x-end", HeaderValue::from_static("it"));
    let pieces = [data(b"one "), data(b"two "), data(b"three"), Frame::trailers(fields)];
    let seen = ask("/echo").with_body(pieces).see().unwrap();
    assert_eq!(seen.text(), "one two three");
    assert_eq!(seen.trailers.unwrap()["x-end"], "it");
    let large = (0..100).map(|_| Frame::data(Bytes::from(vec![b'x'; 100_000])));
    let seen = ask("/echo").with_body(large).see().unwrap();
    assert_eq!((seen.body.len(), seen.cut.is_none()), (10_000_000, true));
    let seen = ask("/stream/3000000").see().unwrap();
    assert_eq!(seen.body.len(), 3_000_000);
    let seen = ask("/trailers").see().unwrap();
    assert!(seen.trailers.unwrap().contains_key("x-sum"));
}

#[test]
fn what_was_not_finished_is_never_taken_for_whole() {
    assert!(ask("/abandon").see().unwrap().cut.is_some());
    assert!(matches!(ask("/no-answer").fault().kind, FaultKind::NoAnswer));
    for path in ["/trap-early", "/trap-late"] {
        let fault = match ask(path).see() {
            Ok(seen) => seen.cut.expect("cut off"),
            Err(fault) => fault,
        };
        assert!(matches!(fault.kind, FaultKind::Trap), "{path}: {fault:?}");
        assert!(fault.detail.contains("guests"), "the guest's functions are named: {}", fault.detail);
    }
    assert_eq!(ask("/length/5/5").see().unwrap().body.len(), 5);
    for path in ["/length/5/3", "/length/5/9"] {
        let whole = ask(path).see().is_ok_and(|seen| seen.cut.is_none() && seen.status == 200);
        assert!(!whole, "{path}");
    }
}

#[test]
fn time_is_coarse_and_waiting_takes_it() {
    let began = Instant::now();
    assert!(ask("/sleep/30").see().is_ok());
    assert!(began.elapsed() >= Duration::from_millis(30));
    assert!(ask("/late-set").see().is_ok());
    assert_eq!(ask("/random").see().unwrap().status, 200);
}

#[test]
fn what_a_guest_prints_is_logged_line_by_line_up_to_its_limit() {
    let world =
        Arc::new(Remembers { variables: vec![("GREETING".into(), "hi".into())], ..Remembers::default() });
    let with = |path| Ask { world: Arc::clone(&world), ..ask(path) };
    with("/stdout").see().unwrap();
    let lines = std::mem::take(&mut *world.lines.lock().unwrap());
    assert!(
        lines.iter().any(|line| line.starts_with("Out: "))
            && lines.iter().any(|line| line.starts_with("Err: "))
    );
    with("/log-flood/100000").limited(|limits| limits.log_bytes = 1000).see().unwrap();
    let logged: usize = world.lines.lock().unwrap().iter().map(|line| line.len() - "Out: ".len()).sum();
    assert!((900..=1000).contains(&logged), "{logged}");
    assert_eq!(*world.cut.lock().unwrap(), 1);
    let seen = with("/env").see().unwrap();
    assert!(seen.text().contains("GREETING=hi") && !seen.text().contains("secret"), "{}", seen.text());
}

#[test]
fn each_limit_falls_by_name_and_takes_only_its_own_guest() {
    type Change = fn(&mut Limits);
    let attacks: [(&str, Limit, Change); 10] = [
        ("/spin", Limit::Cpu, |limits| limits.cpu = Duration::from_millis(20)),
        ("/recurse", Limit::Stack, |_| {}),
        ("/memory", Limit::Memory, |_| {}),
        ("/handles", Limit::Handles, |_| {}),
        ("/headers/1000", Limit::Headers, |_| {}),
        ("/header-bytes/100000", Limit::Headers, |_| {}),
        ("/stream/10000000", Limit::BodyBytes, |limits| limits.body_bytes = 1_000_000),
        ("/sleep/60000", Limit::Wall, |limits| limits.wall = Duration::from_millis(30)),
        ("/random/65537", Limit::CallBytes, |_| {}),
        ("/call-bytes/5000000", Limit::CallBytes, |_| {}),
    ];
    for (path, wanted, change) in attacks {
        let fault = match ask(path).limited(change).see() {
            Ok(seen) => seen.cut.clone().unwrap_or_else(|| panic!("{path}: {} {}", seen.status, seen.text())),
            Err(fault) => fault,
        };
        assert_eq!(limit(&fault), Some(wanted), "{path}: {fault:?}");
        assert_eq!(ask("/hello").see().unwrap().text(), "hello\n", "after {path}");
    }
    assert_eq!(ask("/random/65536").see().unwrap().text(), "65536 bytes\n", "just what is allowed");
    let large = (0..20).map(|_| Frame::data(Bytes::from(vec![b'x'; 100_000])));
    let upload = ask("/proxy-post?url=http://o.example/echo").with_body(large);
    let seen = upload.limited(|limits| limits.body_bytes = 1_000_000).see();
    let fault = seen.map_or_else(Some, |seen| seen.cut).expect("a body on its way out has the limit, too");
    assert_eq!(limit(&fault), Some(Limit::BodyBytes), "{fault:?}");
}

#[test]
fn what_would_split_a_response_is_refused_in_every_way() {
    let seen = ask("/split").see().unwrap();
    let (good, bad): (Vec<&str>, Vec<&str>) = seen.text().lines().partition(|line| line.ends_with(": ok"));
    assert!(!good.is_empty() && good.iter().all(|line| line.starts_with("plain ")), "{good:?}");
    assert!(bad.len() > 40, "{bad:?}");
    assert!(
        seen.headers.keys().all(|name| name != "x-smuggled" && name != "connection"),
        "{:?}",
        seen.headers
    );
}

#[test]
fn guests_send_requests_and_stream_what_comes() {
    let world = Arc::<Remembers>::default();
    let with = |path| Ask { world: Arc::clone(&world), ..ask(path) };
    let seen = with("/fetch?url=http://o.example/a").see().unwrap();
    assert_eq!(seen.text(), "from the origin, origin of all");
    assert_eq!(*world.sent.lock().unwrap(), ["GET o.example/a"]);
    let seen = with("/rewrite?url=http://o.example/a").see().unwrap();
    assert_eq!(seen.text(), "from the berth, berth of all");
    let mut fields = HeaderMap::new();
    fields.insert("x-end", HeaderValue::from_static("it"));
    let pieces = [data(b"back "), data(b"and forth"), Frame::trailers(fields)];
    let seen = with("/proxy-post?url=http://o.example/echo").with_body(pieces).see().unwrap();
    assert_eq!(seen.text(), "back and forth");
    assert!(seen.trailers.unwrap().contains_key("x-end"));
    let seen = with("/fetch-error?url=http://o.example/refused").see().unwrap();
    assert!(seen.text().to_lowercase().contains("refused"), "{}", seen.text());
    assert_eq!(limit(&with("/fetch-many/60?url=http://o.example/a").fault()), Some(Limit::Outgoing));
    let never =
        with("/fetch?url=http://o.example/never").limited(|limits| limits.wall = Duration::from_millis(20));
    assert_eq!(limit(&never.fault()), Some(Limit::Wall));
}

#[test]
fn a_call_that_is_dropped_ends_its_guest_where_it_stands() {
    for path in ["/spin", "/sleep/60000", "/stream/100000000"] {
        let mut call = ask(path).begin();
        for _ in 0..3 {
            let _ = call.poll_guest(&mut Context::from_waker(Waker::noop()));
        }
        drop(call);
    }
    assert_eq!(ask("/hello").see().unwrap().text(), "hello\n");
}

#[test]
fn a_full_pool_is_told_and_recovers() {
    let mut calls: Vec<Call<Pieces>> = (0..20).map(|_| ask("/sleep/60000").begin()).collect();
    for call in &mut calls {
        assert!(call.poll_guest(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    let fault = ask("/hello").fault();
    assert!(matches!(fault.kind, FaultKind::Busy), "{fault:?}");
    calls.pop();
    assert_eq!(ask("/hello").see().unwrap().text(), "hello\n");
}

#[test]
fn nothing_of_a_guest_is_left_for_the_next_one_in_its_place() {
    for stacks in [Stacks::Cleaned, Stacks::Kept] {
        look_for_what_is_left(stacks);
    }
}

fn look_for_what_is_left(stacks: Stacks) {
    // A pool with one place: whoever comes next is where the last one was.
    let script = load(&Settings { instances: 1, stacks, ..Settings::default() });
    let look = |path: &str| see(ask(path).begin_in(&script));
    let numbers = |seen: &Seen| -> Vec<u64> {
        let number = |line: &str| line.split(' ').nth(1).unwrap().parse().unwrap();
        seen.text().lines().take(2).map(number).collect()
    };
    let found = look("/canary/fill/look").unwrap();
    assert!(numbers(&found)[0] > 500_000, "what is there is found: {}", found.text());
    for round in 0..20 {
        let path = if round % 2 == 0 { "/canary/fill/1" } else { "/canary/fill/trap" };
        let trapped = look(path).map_or(true, |seen| seen.cut.is_some());
        assert_eq!(trapped, round % 2 == 1, "{path}");
        let seen = look("/canary/look").unwrap();
        assert_eq!(numbers(&seen), [0, 0], "round {round}: {}", seen.text());
    }
}

#[test]
fn a_table_that_grows_without_end_falls_over_its_limit() {
    let source = include_str!("../../tests/guests/wat/table.wat");
    let script =
        load_component(&wat::parse_str(source).unwrap(), &Settings { instances: 4, ..Settings::default() });
    let fault = see(ask("/").begin_in(&script)).unwrap_err();
    assert_eq!(limit(&fault), Some(Limit::Tables), "{fault:?}");
}

#[test]
fn resources_of_the_guest_itself_are_handles_too() {
    let source = include_str!("../../tests/guests/wat/handles.wat");
    let script =
        load_component(&wat::parse_str(source).unwrap(), &Settings { instances: 5, ..Settings::default() });
    let fault = see(ask("/").begin_in(&script)).unwrap_err();
    assert_eq!(limit(&fault), Some(Limit::Handles), "{fault:?}");
}
