//! The WebSockets of objects: which are open, and what is kept beside them.
//!
//! A connection lives on the core that took it, its object wherever that is; here is what both share. A socket is there
//! from the request that asks for it until its object has heard that it closed:
//!
//! ```text
//!   coming ──(a turn accepts it)──▶ accepted ──(that is durable)──▶ open ──▶ closed ──(the object has heard)──▶ gone
//!      └──(another answer)──▶ gone                 └──────────(the connection ends)──▲
//! ```
//!
//! What a turn does to a socket is *seen* by later turns at once, and *kept* when it is durable: an object whose turn is
//! taken back finds what was kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_isolate_host::object::{Acceptance, SocketCommand, SocketData, SocketId};
use berth_protocol::object::ObjectKey;
use bytes::Bytes;
use foldhash::HashMap;
use tokio_tungstenite::tungstenite::Message;

use super::line::{Line, Out, Waiting};

/// Sockets that one object may have: to reach them all is one turn's work.
const OF_OBJECT_MAX: usize = 32_768;

/// See the module.
pub(super) struct Sockets {
    objects: Mutex<HashMap<ObjectKey, OfObject>>,
    next: AtomicU64,
    waiting: Arc<Waiting>,
}

/// The object has as many sockets as it may.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Default)]
struct OfObject {
    sockets: BTreeMap<SocketId, Socket>,
    /// Those that are accepted or open, by tag.
    tags: HashMap<String, BTreeSet<SocketId>>,
}

struct Socket {
    line: Arc<Line>,
    tags: Vec<String>,
    stage: Stage,
    seen: Beside,
    kept: Beside,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Coming,
    Accepted,
    Open,
    Closed,
}

/// What turns change of a socket.
#[derive(Debug, Clone, Default)]
struct Beside {
    attachment: Bytes,
    /// The object has closed it.
    is_closing: bool,
}

impl Socket {
    /// Whether something may be sent on it.
    fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Accepted | Stage::Open) && !self.seen.is_closing
    }
}

impl Beside {
    /// Does what a turn did to it.
    fn take(&mut self, command: &SocketCommand) {
        match command {
            SocketCommand::SetAttachment { attachment, .. } => self.attachment = attachment.clone(),
            SocketCommand::Close { .. } => self.is_closing = true,
            SocketCommand::Send { .. } | SocketCommand::Broadcast { .. } => {}
        }
    }
}

impl Sockets {
    /// None. Their numbers begin anywhere: an object may have stored one before the node was started again.
    pub(super) fn new(first: u64) -> Self {
        Self { objects: Mutex::default(), next: AtomicU64::new(first), waiting: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, OfObject>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request asks for a socket.
    pub(super) fn come(&self, object: ObjectKey) -> Result<(SocketId, Arc<Line>), Full> {
        let socket = SocketId(self.next.fetch_add(1, Relaxed));
        let line = Line::new(&self.waiting);
        let mut objects = self.lock();
        let of = objects.entry(object).or_default();
        if of.sockets.len() >= OF_OBJECT_MAX {
            return Err(Full);
        }
        let (seen, kept) = (Beside::default(), Beside::default());
        let new = Socket { line: Arc::clone(&line), tags: Vec::new(), stage: Stage::Coming, seen, kept };
        of.sockets.insert(socket, new);
        Ok((socket, line))
    }

    fn with<T>(
        &self,
        object: &ObjectKey,
        socket: SocketId,
        then: impl FnOnce(&mut Socket) -> T,
    ) -> Option<T> {
        self.lock().get_mut(object)?.sockets.get_mut(&socket).map(then)
    }

    /// A turn has accepted it.
    pub(super) fn accept(&self, object: &ObjectKey, socket: SocketId, how: &Acceptance) {
        let mut objects = self.lock();
        let Some(of) = objects.get_mut(object) else { return };
        // Its client may have gone meanwhile.
        let Some(coming) = of.sockets.get_mut(&socket).filter(|found| found.stage == Stage::Coming) else {
            return;
        };
        coming.stage = Stage::Accepted;
        coming.tags.clone_from(&how.tags);
        coming.seen.attachment = how.attachment.clone();
        coming.kept = coming.seen.clone();
        for tag in &how.tags {
            of.tags.entry(tag.clone()).or_default().insert(socket);
        }
    }

    /// That is durable.
    fn open(&self, object: &ObjectKey, socket: SocketId) {
        self.with(object, socket, |found| {
            if found.stage == Stage::Accepted {
                found.stage = Stage::Open;
            }
        });
    }

    /// The connection has ended. Whether the object should hear of it.
    pub(super) fn end(&self, object: &ObjectKey, socket: SocketId) -> bool {
        let mut objects = self.lock();
        let Some(of) = objects.get_mut(object) else { return false };
        of.untag(socket);
        let Some(found) = of.sockets.get_mut(&socket) else { return false };
        let was_accepted = found.stage != Stage::Coming;
        found.stage = Stage::Closed;
        was_accepted
    }

    /// Nobody has anything to do with it any more.
    pub(super) fn forget(&self, object: &ObjectKey, socket: SocketId) {
        let mut objects = self.lock();
        let Some(of) = objects.get_mut(object) else { return };
        of.untag(socket);
        of.sockets.remove(&socket);
        if of.sockets.is_empty() {
            objects.remove(object);
        }
    }

    /// Later turns see what this one did.
    pub(super) fn see(&self, object: &ObjectKey, commands: &[SocketCommand]) {
        if commands.is_empty() {
            return;
        }
        let mut objects = self.lock();
        let Some(of) = objects.get_mut(object) else { return };
        for command in commands {
            if let Some(found) = command.socket().and_then(|socket| of.sockets.get_mut(&socket)) {
                found.seen.take(command);
            }
        }
    }

    /// What turns did that is not durable is not seen any more.
    pub(super) fn take_back(&self, object: &ObjectKey) {
        if let Some(of) = self.lock().get_mut(object) {
            of.sockets.values_mut().for_each(|socket| socket.seen = socket.kept.clone());
        }
    }

    /// Does what turns have left, which is durable. How many sockets were cut off, since their clients are too slow.
    pub(super) fn release(&self, object: &ObjectKey, done: Vec<Done>) -> u64 {
        done.into_iter()
            .map(|done| match done {
                Done::Accepted(socket) => {
                    self.open(object, socket);
                    0
                }
                Done::Command(command) => self.obey(object, command),
            })
            .sum()
    }

    fn obey(&self, object: &ObjectKey, command: SocketCommand) -> u64 {
        if let Some(socket) = command.socket() {
            self.with(object, socket, |found| {
                found.seen.take(&command);
                found.kept.take(&command);
            });
        }
        match command {
            SocketCommand::Send { socket, data } => self.put(object, socket, Out::Message(message(data))),
            SocketCommand::Close { socket, code, reason } => {
                self.put(object, socket, Out::Close { code, reason })
            }
            SocketCommand::Broadcast { tag, data, but } => {
                let message = message(data);
                let objects = self.lock();
                let Some(of) = objects.get(object) else { return 0 };
                let all = of.tags.get(&tag).into_iter().flatten().filter(|socket| Some(**socket) != but);
                let lines = all.filter_map(|socket| Some(&of.sockets.get(socket)?.line));
                lines.map(|line| u64::from(line.put(Out::Message(message.clone())).is_err())).sum()
            }
            SocketCommand::SetAttachment { .. } => 0,
        }
    }

    fn put(&self, object: &ObjectKey, socket: SocketId, out: Out) -> u64 {
        let line = self.with(object, socket, |found| Arc::clone(&found.line));
        line.map_or(0, |line| u64::from(line.put(out).is_err()))
    }

    /// Closes a socket that its object could not serve.
    pub(super) fn break_off(&self, object: &ObjectKey, socket: SocketId) {
        self.put(object, socket, Out::Close { code: FAILED, reason: FAILED_REASON.to_owned() });
    }

    /// Whether something may be sent on it.
    pub(super) fn is_open(&self, object: &ObjectKey, socket: SocketId) -> bool {
        self.with(object, socket, |found| found.is_open()).unwrap_or(false)
    }

    /// Its tags.
    pub(super) fn tags(&self, object: &ObjectKey, socket: SocketId) -> Option<Vec<String>> {
        self.with(object, socket, |found| (found.stage != Stage::Coming).then(|| found.tags.clone()))?
    }

    /// What is kept beside it.
    pub(super) fn attachment(&self, object: &ObjectKey, socket: SocketId) -> Option<Bytes> {
        self.with(object, socket, |found| {
            (found.stage != Stage::Coming).then(|| found.seen.attachment.clone())
        })?
    }

    /// Those on which something may be sent, of a tag or all.
    pub(super) fn tagged(&self, object: &ObjectKey, tag: Option<&str>) -> Vec<SocketId> {
        let objects = self.lock();
        let Some(of) = objects.get(object) else { return Vec::new() };
        match tag {
            None => of.sockets.iter().filter(|(_, socket)| socket.is_open()).map(|(id, _)| *id).collect(),
            Some(tag) => {
                let ids = of.tags.get(tag).into_iter().flatten();
                ids.filter(|id| of.sockets.get(id).is_some_and(Socket::is_open)).copied().collect()
            }
        }
    }

    /// How many there are.
    pub(super) fn count(&self, object: &ObjectKey) -> usize {
        self.lock().get(object).map_or(0, |of| of.sockets.len())
    }
}

impl OfObject {
    fn untag(&mut self, socket: SocketId) {
        let Some(found) = self.sockets.get(&socket) else { return };
        for tag in &found.tags {
            if let Some(sockets) = self.tags.get_mut(tag) {
                sockets.remove(&socket);
                if sockets.is_empty() {
                    self.tags.remove(tag);
                }
            }
        }
    }
}

/// The code of a socket whose object failed to handle a message or an accept.
pub(super) const FAILED: u16 = 1011;
/// And its reason.
pub(super) const FAILED_REASON: &str = "the object failed";

fn message(data: SocketData) -> Message {
    match data {
        SocketData::Text(text) => Message::text(text),
        SocketData::Binary(bytes) => Message::binary(bytes),
    }
}

/// What is done when it is durable.
#[derive(Debug)]
pub(super) enum Done {
    /// A socket was accepted.
    Accepted(SocketId),
    /// The object sent something, closed a socket, or changed what is kept beside it.
    Command(SocketCommand),
}

/// The order in which turns let out what they leave: that in which they began, although each waits for its own writes.
#[derive(Default)]
pub(super) struct Releases(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    first: u64,
    slots: std::collections::VecDeque<Slot>,
}

#[derive(Default)]
struct Slot {
    done: Vec<Done>,
    is_over: bool,
}

/// A turn's rank in that order. Dropped, as by a panic, what comes after it leaves with the next turn that is over.
pub(super) struct Rank {
    releases: Arc<Releases>,
    number: u64,
}

impl Releases {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn begins.
    pub(super) fn enter(self: &Arc<Self>) -> Rank {
        let mut queue = self.lock();
        queue.slots.push_back(Slot::default());
        let number = queue.first + queue.slots.len() as u64 - 1;
        drop(queue);
        Rank { releases: Arc::clone(self), number }
    }
}

impl Rank {
    /// Something that is durable. `let_out` gets it now, or with the end of the turns before.
    pub(super) fn done(&self, done: Vec<Done>, let_out: impl FnOnce(Vec<Done>)) {
        if done.is_empty() {
            return;
        }
        let mut queue = self.releases.lock();
        if self.number == queue.first {
            // Under the lock: whoever is next waits until this is out.
            return let_out(done);
        }
        if let Some(slot) = queue.slot(self.number) {
            slot.done.extend(done);
        }
    }

    /// The turn leaves nothing more. `let_out` gets what has waited for it.
    pub(super) fn over(&self, let_out: impl FnOnce(Vec<Done>)) {
        let mut queue = self.releases.lock();
        let waited = queue.over(self.number);
        if !waited.is_empty() {
            let_out(waited);
        }
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        if let Some(slot) = self.releases.lock().slot(self.number) {
            slot.is_over = true;
        }
    }
}

impl Queue {
    /// Nothing, if it is over and all before it are.
    fn slot(&mut self, number: u64) -> Option<&mut Slot> {
        self.slots.get_mut(number.checked_sub(self.first)? as usize)
    }

    fn over(&mut self, number: u64) -> Vec<Done> {
        if let Some(slot) = self.slot(number) {
            slot.is_over = true;
        }
        let mut waited = Vec::new();
        while let Some(slot) = self.slots.front_mut() {
            waited.append(&mut slot.done);
            if !slot.is_over {
                break;
            }
            self.slots.pop_front();
            self.first += 1;
        }
        waited
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use berth_protocol::object::{ObjectId, Scope, Slot as IdSlot};

    use super::*;

    fn object() -> ObjectKey {
        ObjectKey { scope: Scope::new("a", "B"), id: ObjectId::random(IdSlot(3), [1; 13]) }
    }

    fn how(tags: &[&str]) -> Acceptance {
        let tags = tags.iter().map(ToString::to_string).collect();
        Acceptance { tags, attachment: Bytes::from_static(b"first"), protocol: None }
    }

    fn next(line: &Line) -> Option<Out> {
        match line.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(out) => Some(out),
            Poll::Pending => None,
        }
    }

    fn send(socket: SocketId, text: &str) -> SocketCommand {
        SocketCommand::Send { socket, data: SocketData::Text(text.to_owned()) }
    }

    fn shout(tag: &str, but: Option<SocketId>) -> SocketCommand {
        SocketCommand::Broadcast { tag: tag.to_owned(), data: SocketData::Text("all".to_owned()), but }
    }

    fn heard(text: &str) -> Option<Out> {
        Some(Out::Message(Message::text(text)))
    }

    #[test]
    fn a_socket_goes_from_coming_to_gone() {
        let (sockets, object) = (Sockets::new(7), object());
        let (socket, line) = sockets.come(object).unwrap();
        assert_eq!((sockets.tags(&object, socket), sockets.tagged(&object, None)), (None, vec![]));
        sockets.accept(&object, socket, &how(&["room"]));
        assert!(sockets.is_open(&object, socket), "the turns after it may send at once");
        assert_eq!(sockets.tagged(&object, Some("room")), [socket]);
        assert_eq!(sockets.tagged(&object, Some("hall")), []);
        let done = vec![
            Done::Accepted(socket),
            Done::Command(send(socket, "hi")),
            Done::Command(shout("room", None)),
        ];
        assert_eq!(sockets.release(&object, done), 0);
        assert_eq!([next(&line), next(&line), next(&line)], [heard("hi"), heard("all"), None]);
        assert!(sockets.end(&object, socket), "its object hears of the end");
        assert!(!sockets.is_open(&object, socket) && sockets.tagged(&object, None).is_empty());
        assert_eq!(sockets.tags(&object, socket), Some(vec!["room".to_owned()]), "and may look who it was");
        sockets.forget(&object, socket);
        assert_eq!((sockets.tags(&object, socket), sockets.count(&object)), (None, 0));
        assert!(sockets.lock().is_empty(), "an object without sockets takes no room");
    }

    #[test]
    fn a_socket_that_nobody_took_goes_silently() {
        let (sockets, object) = (Sockets::new(7), object());
        let (socket, _line) = sockets.come(object).unwrap();
        assert!(!sockets.end(&object, socket));
        sockets.accept(&object, socket, &how(&["room"]));
        assert_eq!(sockets.tagged(&object, Some("room")), [], "its client had gone before it was accepted");
        sockets.forget(&object, socket);
        assert!(sockets.lock().is_empty());
    }

    #[test]
    fn a_broadcast_reaches_those_of_its_tag_but_one() {
        let (sockets, object) = (Sockets::new(1), object());
        let all: Vec<_> = (0..3).map(|_| sockets.come(object).unwrap()).collect();
        for ((socket, _), tags) in all.iter().zip([&["a"][..], &["a", "b"], &["b"]]) {
            sockets.accept(&object, *socket, &how(tags));
        }
        sockets.release(&object, vec![Done::Command(shout("a", Some(all[0].0)))]);
        let heard: Vec<bool> = all.iter().map(|(_, line)| next(line).is_some()).collect();
        assert_eq!(heard, [false, true, false]);
        let elsewhere = ObjectKey { scope: Scope::new("c", "B"), ..object };
        assert_eq!(sockets.tagged(&elsewhere, None), []);
    }

    #[test]
    fn what_is_taken_back_is_not_seen_any_more() {
        let (sockets, object) = (Sockets::new(1), object());
        let (socket, line) = sockets.come(object).unwrap();
        sockets.accept(&object, socket, &how(&[]));
        let attach = |text: &'static str| SocketCommand::SetAttachment { socket, attachment: text.into() };
        let close = SocketCommand::Close { socket, code: 1000, reason: String::new() };
        let attachment = || sockets.attachment(&object, socket).unwrap();
        sockets.release(&object, vec![Done::Command(attach("second"))]);
        sockets.see(&object, &[attach("third"), close.clone()]);
        assert_eq!((attachment(), sockets.is_open(&object, socket)), ("third".into(), false));
        sockets.take_back(&object);
        assert_eq!((attachment(), sockets.is_open(&object, socket)), ("second".into(), true));
        sockets.release(&object, vec![Done::Command(close)]);
        assert!(!sockets.is_open(&object, socket));
        assert_eq!(next(&line), Some(Out::Close { code: 1000, reason: String::new() }));
    }

    #[test]
    fn an_object_has_at_most_so_many_sockets() {
        let (sockets, object) = (Sockets::new(1), object());
        let first = sockets.come(object).unwrap().0;
        for _ in 1..OF_OBJECT_MAX {
            sockets.come(object).unwrap();
        }
        assert_eq!(sockets.come(object).err(), Some(Full));
        sockets.forget(&object, first);
        assert!(sockets.come(object).is_ok());
    }

    /// What was let out, by the numbers of sockets.
    #[derive(Default)]
    struct Seen(std::cell::RefCell<Vec<u64>>);

    impl Seen {
        fn let_out(&self) -> impl FnOnce(Vec<Done>) {
            |done| {
                self.0.borrow_mut().extend(done.iter().map(|done| match done {
                    Done::Accepted(socket) => socket.0,
                    Done::Command(_) => unreachable!(),
                }));
            }
        }
    }

    #[test]
    fn turns_let_out_in_the_order_in_which_they_began() {
        let releases = Arc::<Releases>::default();
        let seen = Seen::default();
        let done = |number| vec![Done::Accepted(SocketId(number))];
        let [one, two, three, four] = std::array::from_fn(|_| releases.enter());
        three.done(done(30), seen.let_out());
        three.over(seen.let_out());
        assert_eq!(*seen.0.borrow(), [] as [u64; 0], "two before it are not over");
        one.done(done(10), seen.let_out());
        two.done(done(20), seen.let_out());
        assert_eq!(*seen.0.borrow(), [10]);
        one.over(seen.let_out());
        assert_eq!(*seen.0.borrow(), [10, 20]);
        two.done(done(21), seen.let_out());
        assert_eq!(*seen.0.borrow(), [10, 20, 21], "who is first waits for nobody");
        drop(two);
        four.over(seen.let_out());
        assert_eq!(*seen.0.borrow(), [10, 20, 21, 30], "a turn that is dropped holds up nothing for ever");
        assert!(releases.lock().slots.is_empty());
    }
}
