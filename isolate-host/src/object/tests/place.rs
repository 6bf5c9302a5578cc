//! Where the tests keep an object: a storage in memory whose commits are durable when the test says so, a world with sockets,
//! and others who answer requests. Everything that leaves is written down in one list, in the order in which it left.

use std::collections::BTreeMap;
use std::future::{pending, poll_fn, ready};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};

use crate::engine::{Script, Settings};
use crate::object::*;
use crate::tests::{block_on, load_component, wake_after};
use crate::{Asked, ErrorCode, Inbound, Later, Limits, Outbound, Stream, WayOut, World, pipe};

/// The class that `cargo xtask guests` builds.
pub(super) fn class() -> &'static Script {
    static CLASS: OnceLock<Script> = OnceLock::new();
    CLASS.get_or_init(|| load_component(&component(), &Settings { instances: 21, ..Settings::default() }))
}

pub(super) fn component() -> Vec<u8> {
    let workers = crate::tests::guests_path();
    let path = workers.with_file_name("object.wasm");
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask guests` builds it", path.display()))
}

type Key = (Space, Bytes);

/// What is stored of an object, and which of its commits are durable.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) entries: BTreeMap<Key, Bytes>,
    pub(super) commits: Vec<Vec<Effect>>,
    durable: usize,
    /// Whether commits are durable as they are taken.
    at_once: bool,
    failed: Option<CommitError>,
    wakers: Vec<Waker>,
    pub(super) reads: usize,
    pub(super) broken: bool,
}

/// A handle of the storage: one for the host, one for the test.
#[derive(Clone, Default)]
pub(super) struct Store(Arc<Mutex<Kept>>);

impl Store {
    pub(super) fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap()
    }

    /// What the guest has put under a key.
    pub(super) fn value(&self, key: &str) -> Option<String> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let value = self.lock().entries.get(&(Space::User, key)).cloned();
        value.map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    pub(super) fn put(&self, key: &str, value: &[u8]) {
        let key = Bytes::copy_from_slice(key.as_bytes());
        self.lock().entries.insert((Space::User, key), Bytes::copy_from_slice(value));
    }

    /// Everything that was committed so far is durable.
    pub(super) fn sync(&self) {
        let mut kept = self.lock();
        kept.durable = kept.commits.len();
        kept.wakers.drain(..).for_each(Waker::wake);
    }

    pub(super) fn fail(&self) {
        self.lock().failed = Some(CommitError("the disk is gone".to_owned()));
    }
}

impl Kept {
    pub(super) fn apply(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect.clone() {
                Effect::Put { space, key, value } => drop(self.entries.insert((space, key), value)),
                Effect::Delete { space, key } => drop(self.entries.remove(&(space, key))),
                Effect::Clear { space } => self.entries.retain(|(other, _), _| *other != space),
            }
        }
        self.commits.push(effects.to_vec());
    }
}

impl ObjectStorage for Store {
    fn get(&self, space: Space, key: &[u8]) -> Read<Option<Bytes>> {
        let mut kept = self.lock();
        kept.reads += 1;
        let broken = kept.broken.then(|| StorageError("damaged".to_owned()));
        let value = kept.entries.get(&(space, Bytes::copy_from_slice(key))).cloned();
        let answer = broken.map_or(Ok(value), Err);
        // Both ways of answering are in use.
        if kept.reads.is_multiple_of(2) { Read::Now(answer) } else { Read::Later(Box::pin(ready(answer))) }
    }

    fn scan(&self, space: Space, range: &KeyRange, order: Order, most: PageMost) -> Read<Page> {
        let kept = self.lock();
        let is_in = |key: &Bytes| {
            range.start.as_ref().is_none_or(|start| key >= start)
                && range.end.as_ref().is_none_or(|end| key < end)
        };
        let found = kept.entries.iter().filter(|((other, key), _)| *other == space && is_in(key));
        let found: Vec<_> = found.map(|((_, key), value)| (key.clone(), value.clone())).collect();
        let ordered: Box<dyn Iterator<Item = _>> = match order {
            Order::Up => Box::new(found.iter()),
            Order::Down => Box::new(found.iter().rev()),
        };
        // Pages are smaller than allowed, so that a scan takes several.
        let count = most.entries.div_ceil(2);
        let entries: Vec<_> = ordered.take(count).cloned().collect();
        let more = entries.len() < found.len();
        Read::Later(Box::pin(ready(Ok(Page { entries, more }))))
    }

    fn commit(&self, effects: Vec<Effect>) -> Later<Result<(), CommitError>> {
        let mut kept = self.lock();
        if !effects.is_empty() {
            kept.apply(&effects);
        }
        let (number, shared) = (kept.commits.len(), self.clone());
        Box::pin(poll_fn(move |cx| {
            let mut kept = shared.lock();
            if let Some(error) = &kept.failed {
                return Poll::Ready(Err(error.clone()));
            }
            if kept.at_once || kept.durable >= number {
                return Poll::Ready(Ok(()));
            }
            kept.wakers.push(cx.waker().clone());
            Poll::Pending
        }))
    }

    fn bytes_used(&self) -> u64 {
        let kept = self.lock();
        let user = kept.entries.iter().filter(|((space, _), _)| *space == Space::User);
        user.map(|((_, key), value)| (key.len() + value.len()) as u64).sum()
    }
}

/// A socket that is open: its tags, and what is kept beside it.
type Open = BTreeMap<SocketId, (Vec<String>, Bytes)>;

/// The world of the object, and what left it.
#[derive(Default)]
pub(super) struct Surroundings {
    pub(super) left: Mutex<Vec<String>>,
    pub(super) lines: Mutex<Vec<String>>,
    pub(super) cut: Mutex<u32>,
    pub(super) sockets: Mutex<Open>,
    /// What an answer to a request has, beside its text.
    pub(super) reply_bytes: Mutex<usize>,
    /// If there are steps, the object's short sleeps end one by one with them, whatever time it is.
    pub(super) steps: Arc<Mutex<Option<Steps>>>,
}

/// Sleeps that were begun, and how many of them may end.
#[derive(Default)]
pub(super) struct Steps {
    begun: usize,
    pub(super) done: usize,
}

impl Surroundings {
    pub(super) fn left(&self) -> Vec<String> {
        self.left.lock().unwrap().clone()
    }

    /// One sleep more may end.
    pub(super) fn step(&self) {
        self.steps.lock().unwrap().get_or_insert_default().done += 1;
    }
}

impl World for Surroundings {
    fn sleep(&self, time: Duration) -> Later<()> {
        let steps = Arc::clone(&self.steps);
        if let Some(now) = &mut *self.steps.lock().unwrap()
            && time < Duration::from_secs(1)
        {
            now.begun += 1;
            let number = now.begun;
            return Box::pin(poll_fn(move |_| match &*steps.lock().unwrap() {
                Some(now) if now.done < number => Poll::Pending,
                _ => Poll::Ready(()),
            }));
        }
        wake_after(time)
    }

    fn log(&self, stream: Stream, line: &[u8]) {
        self.lines.lock().unwrap().push(format!("{stream:?}: {}", String::from_utf8_lossy(line)));
    }

    fn log_is_cut(&self) {
        *self.cut.lock().unwrap() += 1;
    }

    fn variables(&self) -> &[(String, String)] {
        &[]
    }

    fn secret(&self, _name: &str) -> Option<String> {
        None
    }
}

impl ObjectWorld for Surroundings {
    fn queue_length(&self) -> u32 {
        7
    }

    fn is_open(&self, socket: SocketId) -> bool {
        self.sockets.lock().unwrap().contains_key(&socket)
    }

    fn tags(&self, socket: SocketId) -> Option<Vec<String>> {
        self.sockets.lock().unwrap().get(&socket).map(|(tags, _)| tags.clone())
    }

    fn attachment(&self, socket: SocketId) -> Option<Bytes> {
        self.sockets.lock().unwrap().get(&socket).map(|(_, attachment)| attachment.clone())
    }

    fn sockets(&self, tag: Option<&str>) -> Vec<SocketId> {
        let sockets = self.sockets.lock().unwrap();
        let has = |tags: &[String]| tag.is_none_or(|tag| tags.iter().any(|other| other == tag));
        sockets.iter().filter(|(_, (tags, _))| has(tags)).map(|(socket, _)| *socket).collect()
    }
}

/// Those who are asked: each request is written down when it leaves, and its body piece by piece as it comes out.
pub(super) struct Others(pub(super) Arc<Surroundings>);

impl WayOut for Others {
    fn ask(&self, request: Outbound) -> Asked {
        let note = format!("{} {}{}", request.method, request.authority, request.path);
        self.0.left.lock().unwrap().push(note);
        if request.path == "/never" {
            return Box::pin(pending());
        }
        if request.path == "/refused" {
            return Box::pin(ready(Err(ErrorCode::ConnectionRefused)));
        }
        let (writer, reader) = pipe::pipe();
        if request.path == "/echo" {
            return Box::pin(echo(Arc::clone(&self.0), request, writer, reader));
        }
        let text = format!("from the origin{}", "!".repeat(*self.0.reply_bytes.lock().unwrap()));
        writer.push(text.into());
        writer.finish(None);
        let mut headers = HeaderMap::new();
        headers.insert("x-origin", HeaderValue::from_static("yes"));
        Box::pin(ready(Ok(Inbound { status: 200, headers, body: reader })))
    }
}

async fn echo(
    seen: Arc<Surroundings>,
    request: Outbound,
    writer: pipe::Writer,
    body: pipe::Reader,
) -> Result<Inbound, ErrorCode> {
    let mut incoming = request.body.unwrap();
    while let Some(frame) =
        poll_fn(|cx| http_body::Body::poll_frame(std::pin::Pin::new(&mut incoming), cx)).await
    {
        let piece = frame.map_err(|aborted| aborted.0)?.into_data().unwrap();
        seen.left.lock().unwrap().push(format!("piece {}", String::from_utf8_lossy(&piece)));
        writer.push(piece);
    }
    writer.finish(None);
    Ok(Inbound { status: 200, headers: HeaderMap::new(), body })
}

impl Outside for Others {
    fn release(&self, sends: Vec<SocketCommand>) {
        let mut left = self.0.left.lock().unwrap();
        left.extend(sends.iter().map(note));
    }
}

/// A command as the list has it.
pub(super) fn note(command: &SocketCommand) -> String {
    let text = |data: &SocketData| match data {
        SocketData::Text(text) => text.clone(),
        SocketData::Binary(bytes) => format!("{} bytes", bytes.len()),
    };
    match command {
        SocketCommand::Send { socket, data } => format!("send {} {}", socket.0, text(data)),
        SocketCommand::Broadcast { tag, data, but } => {
            format!("broadcast {tag} {} but {:?}", text(data), but.map(|but| but.0))
        }
        SocketCommand::Close { socket, code, .. } => format!("close {} {code}", socket.0),
        SocketCommand::SetAttachment { socket, attachment } => {
            format!("attach {} {}", socket.0, String::from_utf8_lossy(attachment))
        }
    }
}

/// One object, and what is around it.
pub(super) struct Place {
    pub(super) store: Store,
    pub(super) around: Arc<Surroundings>,
    pub(super) limits: Limits,
    pub(super) storage_bytes: u64,
    pub(super) stored_schema: Option<u32>,
    pub(super) name: &'static str,
}

pub(super) fn place() -> Place {
    Place {
        store: Store::default(),
        around: Arc::default(),
        limits: Limits { cpu: Duration::from_secs(20), ..Limits::default() },
        storage_bytes: 100_000_000,
        stored_schema: None,
        name: "one",
    }
}

impl Place {
    pub(super) fn outside(&self) -> Rc<dyn Outside> {
        Rc::new(Others(Arc::clone(&self.around)))
    }

    pub(super) fn starting(&self) -> Turn {
        ObjectInstance::start(class(), self.setup())
    }

    pub(super) fn setup(&self) -> Setup {
        Setup {
            limits: Arc::new(self.limits.clone()),
            storage_bytes: self.storage_bytes,
            identity: Identity {
                id: "10".repeat(16),
                name: Some(self.name.to_owned()),
                class: "subject".to_owned(),
                zone: "tests".to_owned(),
                epoch: 4,
                schema_version: 3,
            },
            stored_schema: self.stored_schema,
            world: Arc::<Surroundings>::clone(&self.around),
            storage: Box::new(self.store.clone()),
            outside: self.outside(),
        }
    }

    /// Starts an instance, as somebody who commits its outcome.
    pub(super) fn start(&self) -> ObjectInstance {
        let (instance, outcome) = block_on(self.starting()).result.unwrap();
        self.take(&outcome);
        instance
    }

    pub(super) fn begin(&self, instance: ObjectInstance, message: Message) -> Turn {
        instance.begin(message, self.outside())
    }

    /// Runs a turn to its end, and does what whoever runs turns does with its outcome. Everything is durable at once.
    pub(super) fn run(
        &self,
        instance: ObjectInstance,
        message: Message,
    ) -> Result<(ObjectInstance, Outcome), TurnError> {
        let mut turn = self.begin(instance, message);
        self.store.lock().at_once = true;
        let ended = block_on(&mut turn);
        self.store.lock().at_once = false;
        let (instance, outcome) = ended.result?;
        self.take(&outcome);
        Ok((instance, outcome))
    }

    /// Commits an outcome, and lets out what it sends.
    pub(super) fn take(&self, outcome: &Outcome) {
        if !outcome.effects.is_empty() {
            self.store.lock().apply(&outcome.effects);
        }
        self.around.left.lock().unwrap().extend(outcome.sends.iter().map(note));
    }

    /// A turn of a request that is answered; gives the text of the answer.
    pub(super) fn ask(&self, instance: ObjectInstance, path: &str) -> (ObjectInstance, String) {
        let (instance, outcome) =
            self.run(instance, get(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        (instance, text(&outcome))
    }

    /// A turn of a request in a fresh instance.
    pub(super) fn ask_anew(&self, path: &str) -> String {
        self.ask(self.start(), path).1
    }

    /// A turn that must have no outcome.
    pub(super) fn error(&self, path: &str) -> TurnError {
        match self.run(self.start(), get(path)) {
            Ok((_, outcome)) => panic!("{path}: {}", text(&outcome)),
            Err(error) => error,
        }
    }
}

pub(super) fn get(path: &str) -> Message {
    post(path, "")
}

pub(super) fn post(path: &str, body: &str) -> Message {
    let mut headers = HeaderMap::new();
    headers.insert("x-seen", HeaderValue::from_static("yes"));
    headers.insert("host", HeaderValue::from_static("hidden.example"));
    let url = format!("https://o.example{path}");
    let body = Bytes::copy_from_slice(body.as_bytes());
    Message::Request(ObjectRequest { method: Method::GET, url, headers, body, upgrade: None })
}

/// The text of an answer.
pub(super) fn text(outcome: &Outcome) -> String {
    match &outcome.answer {
        ObjectAnswer::Response(response) => String::from_utf8(response.body.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// One poll, by nobody who could be woken.
pub(super) fn poll(turn: &mut Turn) -> Poll<Ended> {
    turn.poll(&mut Context::from_waker(Waker::noop()))
}

/// Polls until the turn has ended or waits for something that only the test can do.
pub(super) fn poll_far(turn: &mut Turn) -> Poll<Ended> {
    for _ in 0..1000 {
        if let Poll::Ready(ended) = poll(turn) {
            return Poll::Ready(ended);
        }
    }
    Poll::Pending
}
