//! One connection: the state machine, who waits for it, and the task that drives it.
//!
//! The task does everything in one poll, in an order that saves polls: take in the datagrams that came, fire timers,
//! tell streams, run what is served, and send what all this produced. So a small request is received, answered and
//! sent in one go. Streams may be used by other tasks of the core; they wake the driver when they leave work for it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use berth_runtime::Deadline;
use bytes::Bytes;
use quinn_proto::{
    ConnectionError, ConnectionEvent, ConnectionHandle, Dir, EndpointEvent, Event, Side, StreamEvent,
    StreamId, VarInt,
};

use super::endpoint::{Endpoint, Outgoing, Sent};
use super::owners::Owner;
use crate::connections::{Admission, Handshake};

/// Datagrams that wait for the task of their connection. A client has its turn every few milliseconds even on a core
/// that others keep busy; at 1.2 KB each this is what 1 Gbit/s brings in three. More are dropped, as a full socket would.
const WAITING_MAX: usize = 320;
/// Resets of request streams are counted in windows of this, as HTTP/2's are.
const RESET_WINDOW: Duration = Duration::from_secs(10);
/// How long a task that has more to answer than one turn's time may keep what it has to send, so that more answers go
/// in one train.
const HOLD: Duration = Duration::from_micros(500);
/// H3_NO_ERROR and H3_EXCESSIVE_LOAD (RFC 9114, 8.1): how connections end that no library ended.
const NO_ERROR: VarInt = VarInt::from_u32(0x100);
const EXCESSIVE_LOAD: VarInt = VarInt::from_u32(0x107);

/// Whether a datagram proves that its sender receives what we send to its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// It names a connection id of ours, which only who receives from us knows.
    Id,
    /// It does not.
    None,
}

/// How much may be sent to an address that may be somebody else's: three times what came from it (RFC 9000, 8.1). The
/// library keeps that too, but for the last datagram, which goes as long as anything is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allowance {
    /// So many more bytes.
    Bytes(usize),
    /// The address is proved.
    Any,
}

impl Allowance {
    /// After a first datagram of so many bytes.
    pub(super) fn new(received: usize) -> Self {
        Self::Bytes(3 * received)
    }

    fn earn(&mut self, received: usize, proof: Proof) {
        match self {
            Self::Bytes(left) if proof == Proof::None => *left = left.saturating_add(3 * received),
            _ => *self = Self::Any,
        }
    }

    /// How many of so many bytes, in whole segments, may be sent.
    pub(super) fn take(&mut self, size: usize, segment: usize) -> usize {
        let Self::Bytes(left) = self else { return size };
        let allowed = if size <= *left { size } else { *left / segment.max(1) * segment };
        *left -= allowed;
        allowed
    }
}

/// What a connection's task, its streams and its endpoint share.
pub(super) struct Link {
    pub(super) handle: ConnectionHandle,
    /// Whose ids are not answered with a reset while this lives.
    owner: Owner,
    pub(super) endpoint: Rc<Endpoint>,
    state: RefCell<State>,
    /// Datagrams that came, for the task.
    waiting: RefCell<VecDeque<ConnectionEvent>>,
    /// The task, while it sleeps.
    driver: Cell<Option<Waker>>,
}

/// The state machine and who waits for it.
pub(super) struct State {
    pub(super) machine: quinn_proto::Connection,
    pub(super) waits: Waits,
    /// Why the connection is over.
    pub(super) lost: Option<ConnectionError>,
    /// Send streams that are finished and not yet acknowledged.
    pub(super) unfinished: usize,
    /// Something came on a stream of the client that goes one way, or a new one did.
    pub(super) unidirectional_news: bool,
    pub(super) allowance: Allowance,
    resets: u32,
    resets_since: Instant,
}

/// Who waits for what.
#[derive(Default)]
pub(super) struct Waits {
    /// A handful at most: streams whose task sleeps.
    streams: Vec<(StreamId, Wish, Waker)>,
    accept: [Option<Waker>; 2],
    open: Option<Waker>,
    settled: Option<Waker>,
}

/// What a stream waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Bytes to read.
    Read,
    /// Room to write.
    Write,
    /// The client's word that it wants no more.
    Stopped,
}

impl Waits {
    pub(super) fn stream(&mut self, id: StreamId, wish: Wish, cx: &Context<'_>) {
        match self.streams.iter_mut().find(|(other, kind, _)| (*other, *kind) == (id, wish)) {
            Some((_, _, waker)) => waker.clone_from(cx.waker()),
            None => self.streams.push((id, wish, cx.waker().clone())),
        }
    }

    pub(super) fn accept(&mut self, dir: Dir, cx: &Context<'_>) {
        self.accept[dir as usize] = Some(cx.waker().clone());
    }

    pub(super) fn open(&mut self, cx: &Context<'_>) {
        self.open = Some(cx.waker().clone());
    }

    pub(super) fn settled(&mut self, cx: &Context<'_>) {
        self.settled = Some(cx.waker().clone());
    }

    /// A stream is gone: nobody waits for it any more.
    pub(super) fn forget(&mut self, id: StreamId, wishes: &[Wish]) {
        self.streams.retain(|(other, kind, _)| *other != id || !wishes.contains(kind));
    }

    fn take_stream(&mut self, id: StreamId, wishes: &[Wish], into: &mut Vec<Waker>) {
        let taken = self.streams.extract_if(.., |(other, kind, _)| *other == id && wishes.contains(kind));
        into.extend(taken.map(|(_, _, waker)| waker));
    }

    fn take_all(&mut self, into: &mut Vec<Waker>) {
        into.extend(self.streams.drain(..).map(|(_, _, waker)| waker));
        into.extend(self.accept.iter_mut().filter_map(Option::take));
        into.extend(self.open.take().into_iter().chain(self.settled.take()));
    }
}

impl Link {
    pub(super) fn new(
        handle: ConnectionHandle,
        owner: Owner,
        endpoint: Rc<Endpoint>,
        machine: quinn_proto::Connection,
        allowance: Allowance,
    ) -> Self {
        let state = State {
            machine,
            waits: Waits::default(),
            lost: None,
            unfinished: 0,
            unidirectional_news: false,
            allowance,
            resets: 0,
            resets_since: berth_runtime::now(),
        };
        Self {
            handle,
            owner,
            endpoint,
            state: RefCell::new(state),
            waiting: RefCell::default(),
            driver: Cell::new(None),
        }
    }

    /// Hands the task a datagram of so many bytes; false when too many wait already, and this one is dropped.
    pub(super) fn deliver(&self, event: ConnectionEvent, size: usize, proof: Proof) -> bool {
        self.with(|state| state.allowance.earn(size, proof));
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= WAITING_MAX {
            return false;
        }
        waiting.push_back(event);
        drop(waiting);
        self.wake();
        true
    }

    /// Wakes the task: there is something to send or to do.
    pub(super) fn wake(&self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// Uses the state machine. Not while it is used already: nothing that runs inside wakes or drops others.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.borrow_mut())
    }

    /// Ends the connection with an error of the application.
    pub(super) fn close(&self, code: VarInt, reason: &[u8]) {
        self.with(|state| {
            if state.lost.is_none() {
                state.lost = Some(ConnectionError::LocallyClosed);
                state.machine.close(berth_runtime::now(), code, Bytes::copy_from_slice(reason));
            }
        });
        self.wake();
    }

    /// Ends the connection at once: the next train of it is its last.
    pub(super) fn cut(&self) {
        self.close(NO_ERROR, b"");
        let now = berth_runtime::now();
        while let Some(last) = self.with(|state| self.endpoint.next_outgoing(state, now)) {
            if self.endpoint.send(last).is_some() {
                return; // The socket is full, and the client will find out by itself.
            }
        }
    }

    /// Counts a request stream that the client reset; too many of them end the connection.
    pub(super) fn count_reset(&self) {
        let now = berth_runtime::now();
        let shared = &self.endpoint.shared;
        let breach = self.with(|state| {
            if now.duration_since(state.resets_since) >= RESET_WINDOW {
                (state.resets, state.resets_since) = (0, now);
            }
            state.resets += 1;
            state.resets > shared.limits.http3.resets && state.lost.is_none()
        });
        if breach {
            shared.numbers.limit_http3_resets.add(1);
            self.close(EXCESSIVE_LOAD, b"too many resets");
        }
    }
}

impl State {
    /// Takes the events of the state machine; says what they were.
    fn take_events(&mut self, woken: &mut Vec<Waker>) -> News {
        let mut news = News::default();
        while let Some(event) = self.machine.poll() {
            match event {
                Event::Connected => news.connected = true,
                Event::ConnectionLost { reason } => {
                    news.lost = Some(reason.clone());
                    self.lost.get_or_insert(reason);
                    self.waits.take_all(woken);
                }
                Event::Stream(event) => self.take_stream_event(&event, woken, &mut news),
                Event::HandshakeDataReady | Event::DatagramReceived | Event::DatagramsUnblocked => {}
            }
        }
        news
    }

    fn take_stream_event(&mut self, event: &StreamEvent, woken: &mut Vec<Waker>, news: &mut News) {
        match *event {
            StreamEvent::Opened { dir } => {
                self.unidirectional_news |= dir == Dir::Uni;
                woken.extend(self.waits.accept[dir as usize].take());
            }
            StreamEvent::Available { .. } => woken.extend(self.waits.open.take()),
            StreamEvent::Readable { id } => {
                self.unidirectional_news |= id.dir() == Dir::Uni && id.initiator() == Side::Client;
                self.waits.take_stream(id, &[Wish::Read], woken);
            }
            StreamEvent::Writable { id } => self.waits.take_stream(id, &[Wish::Write], woken),
            StreamEvent::Stopped { id, .. } => {
                self.waits.take_stream(id, &[Wish::Write, Wish::Stopped], woken);
                news.stopped += 1;
            }
            StreamEvent::Finished { .. } => {
                self.unfinished = self.unfinished.saturating_sub(1);
                if self.unfinished == 0 {
                    woken.extend(self.waits.settled.take());
                }
            }
        }
    }
}

/// What the state machine reported.
#[derive(Default)]
struct News {
    connected: bool,
    lost: Option<ConnectionError>,
    /// Streams that the client wants no more of.
    stopped: u32,
}

/// What a connection serves, from the end of its handshake on.
pub(super) type Serving = Pin<Box<dyn Future<Output = ()>>>;

/// The task of a connection.
pub(super) struct Driver {
    link: Rc<Link>,
    deadline: Deadline,
    stage: Stage,
    /// What the socket had no room for.
    unsent: Option<Outgoing>,
    /// Since when sending is held back.
    held: Option<Instant>,
    /// When the client is to be shown that a request of its is still in hand.
    next_ping: Instant,
    /// The connection's place in the node, for as long as it serves.
    admission: Option<Admission>,
}

enum Stage {
    /// The handshake runs, and holds a place until this time.
    Shaking {
        _place: Handshake,
        until: Instant,
    },
    Serving(Serving),
    /// Nothing is served any more; the state machine says its last words.
    Ending,
    /// Without last words.
    Over,
}

impl Driver {
    pub(super) fn new(link: Rc<Link>, admission: Admission, handshake: Handshake) -> Self {
        let now = berth_runtime::now();
        let limits = &link.endpoint.shared.limits;
        let (until, next_ping) = (now + limits.handshake_timeout, now + limits.idle_timeout / 2);
        Self {
            link,
            deadline: Deadline::new(),
            stage: Stage::Shaking { _place: handshake, until },
            unsent: None,
            held: None,
            next_ping,
            admission: Some(admission),
        }
    }

    /// Runs the connection to its end.
    pub(super) async fn run(mut self) {
        std::future::poll_fn(|cx| {
            let outcome = self.poll(cx);
            if outcome.is_pending() {
                self.link.driver.set(Some(cx.waker().clone()));
            }
            outcome
        })
        .await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Whatever the streams do from here on is seen below; they need not wake this task for it.
        drop(self.link.driver.take());
        let now = berth_runtime::now();
        self.take_in(now);
        let mut woken = Vec::new();
        let news = self.link.with(|state| state.take_events(&mut woken));
        // Who is polled below in any case needs no waking.
        woken.into_iter().filter(|waker| !waker.will_wake(cx.waker())).for_each(Waker::wake);
        (0..news.stopped).for_each(|_| self.link.count_reset());
        self.move_on(now, news);
        self.serve(cx);
        self.keep_alive(now);
        if matches!(self.stage, Stage::Over) || self.link.with(|state| state.machine.is_drained()) {
            return Poll::Ready(());
        }
        if self.holds_back(now) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.send(cx, now) == Sent::All && self.set_deadline(cx, now) {
            cx.waker().wake_by_ref(); // Due already.
        }
        Poll::Pending
    }

    /// Datagrams, timers, and what the endpoint's state machine has to hear.
    fn take_in(&mut self, now: Instant) {
        let events = self.link.waiting.take();
        self.link.with(|state| {
            let machine = &mut state.machine;
            events.into_iter().for_each(|event| machine.handle_event(event));
            if machine.poll_timeout().is_some_and(|at| at <= now) {
                machine.handle_timeout(now);
            }
            while let Some(event) = machine.poll_endpoint_events() {
                if let Some(event) =
                    self.link.endpoint.handle_event(self.link.handle, &self.link.owner, event)
                {
                    machine.handle_event(event);
                }
            }
        });
    }

    /// From one stage to the next.
    fn move_on(&mut self, now: Instant, news: News) {
        let shared = &self.link.endpoint.shared;
        if news.connected && matches!(self.stage, Stage::Shaking { .. }) {
            shared.numbers.quic_handshakes.add(1);
            let admission = self.admission.take();
            self.stage = Stage::Serving(shared.serve(&self.link, admission));
        }
        if let Stage::Shaking { until, .. } = self.stage
            && now >= until
            && news.lost.is_none()
        {
            // In silence: an address that was not proved gets no more than it has got.
            shared.numbers.limit_handshake_timeout.add(1);
            self.stage = Stage::Over;
        }
        if let Some(reason) = news.lost {
            tracing::debug!(%reason, "quic.ended");
            if matches!(self.stage, Stage::Shaking { .. }) {
                shared.numbers.quic_handshake_failures.add(1);
                self.stage = Stage::Ending;
            } else if matches!(reason, ConnectionError::TimedOut) {
                shared.numbers.limit_idle_timeout.add(1);
            } else if matches!(reason, ConnectionError::TransportError(_)) {
                shared.numbers.quic_protocol_errors.add(1);
            }
        }
    }

    fn serve(&mut self, cx: &mut Context<'_>) {
        if let Stage::Serving(serving) = &mut self.stage
            && serving.as_mut().poll(cx).is_ready()
        {
            self.stage = Stage::Ending;
            self.link.close(NO_ERROR, b"");
        }
    }

    /// The idle time of QUIC is that of packets. A handler may take longer than that, and its client need not be silent
    /// for want of anything to say: so a connection with a request in hand pings.
    fn keep_alive(&mut self, now: Instant) {
        if now < self.next_ping {
            return;
        }
        self.next_ping = now + self.link.endpoint.shared.limits.idle_timeout / 2;
        self.link.with(|state| {
            if state.machine.streams().remote_open_streams(Dir::Bi) > 0 {
                state.machine.ping();
            }
        });
    }

    /// Whether the next turn sends instead of this one: the time of this one is over, and more answers may follow.
    fn holds_back(&mut self, now: Instant) -> bool {
        let holds = berth_runtime::out_of_budget()
            && matches!(self.stage, Stage::Serving(_))
            && now.duration_since(*self.held.get_or_insert(now)) < HOLD;
        if !holds {
            self.held = None;
        }
        holds
    }

    /// Sends what there is, as far as the socket and the task's budget allow.
    fn send(&mut self, cx: &mut Context<'_>, now: Instant) -> Sent {
        let endpoint = &self.link.endpoint;
        loop {
            let outgoing = match self.unsent.take() {
                Some(outgoing) => outgoing,
                None => {
                    let outgoing = self.link.with(|state| endpoint.next_outgoing(state, now));
                    let Some(outgoing) = outgoing else { return Sent::All };
                    outgoing
                }
            };
            if let Some(outgoing) = endpoint.send(outgoing) {
                self.unsent = Some(outgoing);
                endpoint.wait_for_room(cx);
                return Sent::Some;
            }
            if berth_runtime::out_of_budget() {
                cx.waker().wake_by_ref();
                return Sent::Some;
            }
        }
    }

    /// Sets the deadline to the next timer; true when it is due already.
    fn set_deadline(&self, cx: &mut Context<'_>, now: Instant) -> bool {
        let timer = self.link.with(|state| state.machine.poll_timeout());
        let handshake = match self.stage {
            Stage::Shaking { until, .. } => Some(until),
            _ => None,
        };
        let ping = timer.map(|_| self.next_ping); // A connection that is over has no timers.
        match timer.into_iter().chain(handshake).chain(ping).min() {
            Some(at) if at <= now => return true,
            Some(at) => self.deadline.set_at(at),
            None => self.deadline.clear(),
        }
        self.deadline.poll_expired(cx).is_ready()
    }
}

impl Drop for Driver {
    /// However the task ended, the endpoint forgets the connection: its ids, and its place in the table, which
    /// would keep both alive.
    fn drop(&mut self) {
        let (endpoint, handle) = (&self.link.endpoint, self.link.handle);
        if self.link.with(|state| !state.machine.is_drained()) {
            endpoint.handle_event(handle, &self.link.owner, EndpointEvent::drained());
        }
        endpoint.remove(handle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_not_proved_gets_three_times_its_bytes_in_whole_datagrams() {
        let mut allowance = Allowance::new(1200);
        assert_eq!(allowance.take(3 * 1200, 1200), 3600);
        assert_eq!(allowance.take(100, 100), 0);
        allowance.earn(500, Proof::None);
        assert_eq!(allowance.take(2000, 1000), 1000, "one of two datagrams");
        assert_eq!(allowance.take(600, 600), 0);
        assert_eq!(allowance.take(500, 500), 500, "the rest");
        allowance.earn(1, Proof::Id);
        assert_eq!(allowance.take(1 << 20, 1200), 1 << 20);
        allowance.earn(1, Proof::None);
        assert_eq!(allowance, Allowance::Any, "what is proved stays so");
    }
}
