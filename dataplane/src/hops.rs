//! Hops: requests that are answered on another core, through the mailbox.
//!
//! A question travels in the request lane, which sheds when it is full (503 for the client); its
//! reply travels in the control lane, which waits, since the work is done. Each core keeps the
//! questions that it asked until their replies come; a client that goes away drops its question,
//! and a reply that nobody waits for is dropped.
//!
//! Datagrams that came to the wrong core travel in the toss lane, which drops when it is full. So do first flights, which
//! come back then.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_mailbox::{Class, CoreId, Doorbell, Endpoint, Full, Outbox, Sleep};
use berth_protocol::{
    ArrivalEnvelope, DatagramEnvelope, Envelope, LetterEnvelope, ReplyEnvelope, RequestEnvelope, Ticket,
};
use berth_runtime::Remote;
use bytes::Bytes;
use foldhash::HashMap;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use tokio::sync::oneshot;

use crate::http::body::{Body, RequestBody};
use crate::http::message::{Peer, Problem, Reply, Request, Security, Service};
use crate::http::target::{Host, Target};
use crate::stats::CoreNumbers;

/// Messages taken in one turn: at about 10 µs of work each, a turn stays near a millisecond.
const BUDGET: usize = 128;
/// How long a core that asked another looks for the answer before it sleeps: that of an awake core comes within some ten
/// microseconds, and to be woken for it takes the kernel of a virtual machine fifty.
const LOOK_FOR: Duration = Duration::from_micros(30);

/// Why a question was not answered by another core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HopFailed {
    /// Its lane is full: that core does not keep up.
    #[error("the lane to that core is full")]
    Full,
    /// There is no such core.
    #[error("the node has no such core")]
    NoSuchCore,
    /// Question or reply could not be read back. A mistake of ours.
    #[error("the envelope could not be read; please report this")]
    Garbled,
}

/// One core's side of the hops.
pub struct Hops {
    outbox: RefCell<Outbox<Envelope>>,
    asked: RefCell<HashMap<u64, oneshot::Sender<Answer>>>,
    next_ticket: Cell<u64>,
    /// Replies for which the control lane had no room; sent, in order, when it has.
    waiting: RefCell<VecDeque<(CoreId, Envelope)>>,
    /// When another core was last asked something whose answer has not come.
    asked_at: Cell<Option<Instant>>,
    /// Who takes the datagrams of each listener.
    catchers: RefCell<HashMap<u16, Catcher>>,
    /// Who takes what comes for objects.
    post: RefCell<Option<Post>>,
    numbers: Arc<CoreNumbers>,
}

/// A reply, as it came.
enum Answer {
    /// Of this core: it needs no envelope.
    Here(Reply),
    /// Of another.
    There(ReplyEnvelope),
}

impl Answer {
    fn open(self) -> Result<Reply, HopFailed> {
        match self {
            Self::Here(reply) => Ok(reply),
            Self::There(envelope) => from_reply(envelope).ok_or(HopFailed::Garbled),
        }
    }
}

/// Takes datagrams that other cores tossed here.
type Catcher = Rc<dyn Fn(DatagramEnvelope)>;

/// Takes messages for objects, and objects that move here.
type Post = Rc<dyn Fn(Envelope)>;

/// Rings the sleeping cores of this node.
struct Bells(Vec<Arc<Remote>>);

impl Doorbell for Bells {
    fn ring(&self, core: CoreId) {
        self.0[core.index()].ring_bell();
    }
}

/// Connects a core to the mailbox: what the runtime calls each turn.
struct Mail<S> {
    inbox: berth_mailbox::Inbox<Envelope>,
    hops: Rc<Hops>,
    bells: Bells,
    service: Rc<S>,
}

/// Splits a core's endpoint into the hops that its connections use and what [`connect`] needs.
pub fn split(
    endpoint: Endpoint<Envelope>,
    numbers: Arc<CoreNumbers>,
) -> (Rc<Hops>, berth_mailbox::Inbox<Envelope>) {
    let hops = Hops {
        outbox: RefCell::new(endpoint.outbox),
        asked: RefCell::default(),
        next_ticket: Cell::new(0),
        waiting: RefCell::default(),
        asked_at: Cell::default(),
        catchers: RefCell::default(),
        post: RefCell::default(),
        numbers,
    };
    (Rc::new(hops), endpoint.inbox)
}

/// Lets this core answer the questions of others with `service`. `remotes` are the node's cores.
pub fn connect<S: Service>(
    inbox: berth_mailbox::Inbox<Envelope>,
    hops: Rc<Hops>,
    remotes: Vec<Arc<Remote>>,
    service: Rc<S>,
) {
    berth_runtime::set_inbox(Box::new(Mail { inbox, hops, bells: Bells(remotes), service }));
}

impl<S: Service> berth_runtime::Inbox for Mail<S> {
    fn drain(&mut self) -> bool {
        let (hops, service) = (&self.hops, &self.service);
        let taken = self.inbox.drain(BUDGET, |from, _class, envelope| match envelope {
            Envelope::Request(question) => answer(hops, service, from, *question),
            Envelope::Reply(reply) => {
                hops.asked_at.set(None);
                hops.resolve(reply.ticket, Answer::There(*reply));
            }
            Envelope::Datagram(datagram) => hops.catch(*datagram),
            Envelope::Letter(_) | Envelope::Arrival(_) => hops.take_post(envelope),
        });
        self.hops.send_waiting();
        taken == BUDGET || self.hops.expects_soon()
    }

    fn flush(&mut self) {
        self.inbox.flush(&mut self.hops.outbox.borrow_mut(), &self.bells);
    }

    fn prepare_sleep(&mut self) -> bool {
        self.inbox.prepare_sleep(&mut self.hops.outbox.borrow_mut(), &self.bells) == Sleep::May
    }

    fn woke(&mut self) {
        self.inbox.woke();
    }
}

impl Hops {
    /// Has core `core` answer the request. Its body does not travel: only routes whose answer does
    /// not depend on it are given a core (the configuration checks that).
    pub async fn ask(&self, core: u16, request: &Request) -> Result<Reply, HopFailed> {
        let (sender, receiver) = oneshot::channel();
        let ticket = self.next_ticket.replace(self.next_ticket.get().wrapping_add(1));
        let question = Question { hops: self, ticket };
        {
            let mut outbox = self.outbox.borrow_mut();
            let to = outbox.peer(usize::from(core)).ok_or(HopFailed::NoSuchCore)?;
            let envelope = Envelope::Request(Box::new(to_envelope(Ticket(ticket), request)));
            if outbox.send(to, Class::Request, envelope).is_err() {
                self.numbers.hops_shed.add(1);
                return Err(HopFailed::Full);
            }
        }
        self.has_asked();
        self.asked.borrow_mut().insert(ticket, sender);
        let answer = receiver.await.map_err(|_| HopFailed::Garbled)?;
        drop(question);
        answer.open()
    }

    fn has_asked(&self) {
        self.numbers.hops_out.add(1);
        self.asked_at.set(Some(Instant::now()));
    }

    /// Whether an answer of another core may be there in a moment.
    fn expects_soon(&self) -> bool {
        let expects = self.asked_at.get().is_some_and(|at| at.elapsed() < LOOK_FOR);
        if !expects {
            self.asked_at.set(None);
        }
        expects
    }

    /// Hands a datagram to the core that it belongs to; it comes back when the lane is full, or there is no such core.
    pub fn toss(&self, core: u16, datagram: Box<DatagramEnvelope>) -> Result<(), Box<DatagramEnvelope>> {
        let mut outbox = self.outbox.borrow_mut();
        let Some(to) = outbox.peer(usize::from(core)) else { return Err(datagram) };
        match outbox.send(to, Class::Toss, Envelope::Datagram(datagram)) {
            Err(Full(Envelope::Datagram(datagram))) => Err(datagram),
            _ => Ok(()),
        }
    }

    /// Says who takes the datagrams of a listener that other cores toss here.
    pub fn on_datagram(&self, listener: u16, catcher: impl Fn(DatagramEnvelope) + 'static) {
        self.catchers.borrow_mut().insert(listener, Rc::new(catcher));
    }

    /// Gives a datagram that was tossed here to the listener that it came to.
    pub fn catch(&self, datagram: DatagramEnvelope) {
        let catcher = self.catchers.borrow().get(&datagram.listener).cloned();
        if let Some(catcher) = catcher {
            catcher(datagram);
        }
    }

    /// Says who takes what comes for objects.
    pub fn on_post(&self, post: impl Fn(Envelope) + 'static) {
        *self.post.borrow_mut() = Some(Rc::new(post));
    }

    fn take_post(&self, envelope: Envelope) {
        self.numbers.hops_in.add(1);
        let post = self.post.borrow().clone();
        if let Some(post) = post {
            post(envelope);
        }
    }

    /// Sends a message for an object on to another core; it comes back when the lane is full, or there is no such core.
    pub fn pass(&self, core: u16, letter: Box<LetterEnvelope>) -> Result<(), Box<LetterEnvelope>> {
        let mut outbox = self.outbox.borrow_mut();
        let Some(to) = outbox.peer(usize::from(core)) else { return Err(letter) };
        match outbox.send(to, Class::Request, Envelope::Letter(letter)) {
            Err(Full(Envelope::Letter(letter))) => {
                self.numbers.hops_shed.add(1);
                Err(letter)
            }
            _ => {
                self.has_asked();
                Ok(())
            }
        }
    }

    /// Sends an object worker to another core. It waits until there is room.
    pub fn depart(&self, core: u16, arrival: Box<ArrivalEnvelope>) {
        let to = self.outbox.borrow().peer(usize::from(core));
        if let Some(to) = to {
            self.waiting.borrow_mut().push_back((to, Envelope::Arrival(arrival)));
            self.send_waiting();
        }
    }

    /// A ticket, and what its reply will come by. Dropped, the reply is dropped as well.
    pub fn expect(self: &Rc<Self>) -> Expected {
        let (sender, receiver) = oneshot::channel();
        let ticket = self.next_ticket.replace(self.next_ticket.get().wrapping_add(1));
        self.asked.borrow_mut().insert(ticket, sender);
        Expected { hops: Rc::clone(self), ticket: Ticket(ticket), receiver }
    }

    /// Sends the reply to the core that waits for it: another, or this one.
    pub fn send_reply(&self, core: u16, ticket: Ticket, reply: Reply) {
        let to = self.outbox.borrow().peer(usize::from(core));
        match to {
            Some(to) => self.reply(to, to_reply(ticket, reply)),
            None => self.resolve(ticket, Answer::Here(reply)),
        }
    }

    fn resolve(&self, ticket: Ticket, answer: Answer) {
        let asker = self.asked.borrow_mut().remove(&ticket.0);
        if let Some(asker) = asker {
            let _ = asker.send(answer); // The client may have gone away meanwhile.
        }
    }

    fn reply(&self, to: CoreId, reply: ReplyEnvelope) {
        self.waiting.borrow_mut().push_back((to, Envelope::Reply(Box::new(reply))));
        self.send_waiting();
    }

    /// Sends the replies that wait for room. Their number is bounded by the questions that the
    /// lanes let in.
    fn send_waiting(&self) {
        let (mut waiting, mut outbox) = (self.waiting.borrow_mut(), self.outbox.borrow_mut());
        outbox.take_space(|_, _, _| {});
        for _ in 0..waiting.len() {
            let Some((to, envelope)) = waiting.pop_front() else { break };
            if let Err(Full(envelope)) = outbox.send(to, Class::Control, envelope) {
                outbox.wait_for_space(to, Class::Control);
                waiting.push_back((to, envelope));
            }
        }
    }
}

/// A reply that will come.
pub struct Expected {
    hops: Rc<Hops>,
    /// What it will carry.
    pub ticket: Ticket,
    receiver: oneshot::Receiver<Answer>,
}

impl Expected {
    /// Waits for it.
    pub async fn reply(mut self) -> Result<Reply, HopFailed> {
        (&mut self.receiver).await.map_err(|_| HopFailed::Garbled)?.open()
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.hops.asked.borrow_mut().remove(&self.ticket.0);
    }
}

/// Forgets the question when its asker is dropped.
struct Question<'a> {
    hops: &'a Hops,
    ticket: u64,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.hops.asked.borrow_mut().remove(&self.ticket);
    }
}

fn answer<S: Service>(hops: &Rc<Hops>, service: &Rc<S>, from: CoreId, question: RequestEnvelope) {
    hops.numbers.hops_in.add(1);
    let ticket = question.ticket;
    let Some(request) = from_envelope(question) else {
        return hops.reply(from, to_reply(ticket, Reply::problem(Problem::Internal)));
    };
    let (hops, service) = (Rc::clone(hops), Rc::clone(service));
    // The whole call is in the task, so that a panic in it ends the task and not the core.
    berth_runtime::spawn(async move {
        let reply = service.call(request).await;
        hops.reply(from, to_reply(ticket, reply));
    });
}

fn to_envelope(ticket: Ticket, request: &Request) -> RequestEnvelope {
    RequestEnvelope {
        ticket,
        method: Bytes::copy_from_slice(request.method.as_str().as_bytes()),
        host: request.host.as_ref().map(|host| Bytes::copy_from_slice(host.as_str().as_bytes())),
        target: request.target.raw().clone(),
        headers: header_bytes(&request.headers),
        hops: 1,
    }
}

fn from_envelope(question: RequestEnvelope) -> Option<Request> {
    let nobody = ([0, 0, 0, 0], 0).into();
    Some(Request {
        method: Method::from_bytes(&question.method).ok()?,
        target: Target::parse(question.target).ok()?,
        host: match &question.host {
            Some(host) => Some(Host::parse(host).ok()?.into_owned()),
            None => None,
        },
        version: Version::HTTP_11,
        headers: header_map(&question.headers)?,
        body: RequestBody::Empty,
        peer: Rc::new(Peer { client: nobody, local: nobody, security: Security::Plain }),
        upgrade: None,
    })
}

fn to_reply(ticket: Ticket, reply: Reply) -> ReplyEnvelope {
    let body = match reply.body {
        Body::Full(bytes) => bytes,
        Body::Stream(_) => {
            return to_reply(ticket, Reply::problem(Problem::Internal));
        }
    };
    ReplyEnvelope { ticket, status: reply.status.as_u16(), headers: header_bytes(&reply.headers), body }
}

fn from_reply(reply: ReplyEnvelope) -> Option<Reply> {
    let headers = header_map(&reply.headers)?;
    Some(Reply {
        status: StatusCode::from_u16(reply.status).ok()?,
        headers,
        body: Body::full(reply.body),
        upgrade: None,
    })
}

pub(crate) fn header_bytes(headers: &HeaderMap) -> Vec<(Bytes, Bytes)> {
    let copy = |(name, value): (&HeaderName, &HeaderValue)| {
        (Bytes::copy_from_slice(name.as_str().as_bytes()), Bytes::copy_from_slice(value.as_bytes()))
    };
    headers.iter().map(copy).collect()
}

pub(crate) fn header_map(pairs: &[(Bytes, Bytes)]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(pairs.len());
    for (name, value) in pairs {
        headers.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use berth_mailbox::{Capacities, mesh};
    use berth_protocol::Crossing;

    use super::*;

    #[test]
    fn a_first_flight_for_which_the_lane_has_no_room_comes_back() {
        let capacities = Capacities { control: 1, request: 1, toss: 2 };
        let mut endpoints = mesh(2, capacities).unwrap().into_iter();
        let (hops, _inbox) = split(endpoints.next().unwrap(), Arc::default());
        let datagram = |payload: &'static [u8]| {
            let (from, payload) = (([192, 0, 2, 1], 443).into(), Bytes::from_static(payload));
            let crossing = Crossing::HandOver;
            Box::new(DatagramEnvelope { listener: 3, crossing, from, local: None, ecn: 1, payload })
        };
        assert_eq!(hops.toss(0, datagram(b"here")), Err(datagram(b"here")), "nobody hands over to itself");
        assert_eq!(hops.toss(2, datagram(b"nowhere")), Err(datagram(b"nowhere")));
        assert_eq!(hops.toss(1, datagram(b"one")), Ok(()));
        assert_eq!(hops.toss(1, datagram(b"two")), Ok(()));
        assert_eq!(hops.toss(1, datagram(b"three")), Err(datagram(b"three")));
    }
}
