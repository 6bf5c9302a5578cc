//! The endpoint of one core and listener: whose datagram is this, and may this stranger connect?
//!
//! Its task reads the socket and sorts: datagrams of a connection of this core go to that connection's task, those
//! of another core into the mailbox. First packets of strangers wait in a short queue and are looked at last, so
//! that a flood of them delays nobody who is connected.

mod hand_over;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use berth_protocol::{Crossing, DatagramEnvelope};
use berth_runtime::{Datagram, Transmit, UdpSocket};
use berth_steer::cid::{CID_LEN, Destination, Generation};
use bytes::BytesMut;
use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::{
    ConnectionEvent, ConnectionHandle, DatagramEvent, EcnCodepoint, EndpointConfig, EndpointEvent,
    IdleTimeout, Incoming, ServerConfig, TransportConfig, ValidationTokenConfig, VarInt,
};

use self::hand_over::{Flights, Screening};
use super::first_flight::Rules;
use super::keys::{Ids, QuicKeys, Resets, Tokens};
use super::link::{Allowance, Driver, Link, Proof, Serving, State};
use super::owners::{Owner, Owners};
use super::streams::Connection;
use crate::config::{self, Limits};
use crate::connections::{Admission, Connections, Refused};
use crate::drain::Drain;
use crate::generations::{NotTossed, Others};
use crate::hops::Hops;
use crate::http::message::{Peer, Security};
use crate::listener::payer;
use crate::stats::CoreNumbers;

/// First packets that wait to be looked at: at about 10 µs each a few milliseconds of work. More are dropped, and
/// their clients send them again.
const STRANGERS_MAX: usize = 256;
/// How many of them are looked at in a turn that had no time left.
const STRANGERS_MIN: usize = 2;
/// Datagrams of one train that is sent. At 1,452 bytes each it is as many as fit into the 64 KiB of a send.
const SEGMENTS_MAX: usize = 44;
/// Bytes that a client may send on a stream before they are read, and on all its streams: as over HTTP/2.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of replies that a connection may hold until they are acknowledged: 100 Mbit/s at 80 ms.
const SEND_WINDOW: u64 = 1024 * 1024;
/// Unidirectional streams that a client may have: three of HTTP/3, and some that exist to be ignored.
const UNIDIRECTIONAL_MAX: u32 = 8;
/// QUIC version 1 (RFC 9000).
const VERSION: u32 = 1;
/// Bytes of a handshake that came out of order. A ClientHello with post-quantum key shares has 2 KB.
const CRYPTO_BUFFER: usize = 16 * 1024;

/// What the endpoints of all cores have in common.
pub struct Settings {
    /// Ids, tokens and resets.
    pub keys: Arc<QuicKeys>,
    /// TLS, with `h3` as its protocol.
    pub tls: Arc<rustls::ServerConfig>,
    /// How many cores the node has.
    pub cores: usize,
    /// Which generation it is.
    pub generation: Generation,
    /// The configuration of QUIC.
    pub config: config::Quic,
    /// Which cores have the connections of which hosts.
    pub rules: Arc<Rules>,
}

/// What an endpoint needs of its core.
pub struct Shared {
    /// What the core counts.
    pub numbers: Arc<CoreNumbers>,
    /// What a peer may cost.
    pub limits: Limits,
    /// Admission to the node.
    pub connections: Connections,
    /// The end.
    pub drain: Drain,
    /// The way to other cores.
    pub hops: Rc<Hops>,
    /// The way to other generations.
    pub others: Others,
    /// What is done with a connection whose handshake is over.
    pub on_connection: Box<dyn Fn(Connection, Peer) -> Serving>,
}

impl Shared {
    pub(super) fn serve(&self, link: &Rc<Link>, admission: Option<Admission>) -> Serving {
        let peer = link.with(|state| {
            let client = state.machine.remote_address();
            let local = state.machine.local_ip().unwrap_or(link.endpoint.address.ip());
            Peer {
                client,
                local: SocketAddr::new(local, link.endpoint.address.port()),
                security: Security::Tls,
            }
        });
        let serving = (self.on_connection)(Connection::new(Rc::clone(link)), peer);
        let open = Open::new(&self.numbers);
        Box::pin(async move {
            let _place = (admission, open);
            serving.await;
        })
    }
}

/// Counts a connection as open until it is dropped.
struct Open(Arc<CoreNumbers>);

impl Open {
    fn new(numbers: &Arc<CoreNumbers>) -> Self {
        numbers.quic_connections.add(1);
        numbers.connections_open.add(1);
        Self(Arc::clone(numbers))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let open = &self.0.connections_open;
        open.set(open.get().saturating_sub(1));
    }
}

/// A train on its way out.
pub(super) struct Outgoing {
    transmit: quinn_proto::Transmit,
    bytes: Vec<u8>,
}

/// How far sending came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// All that there was.
    All,
    /// Something is left.
    Some,
}

/// A datagram and where it came from.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) from: SocketAddr,
    pub(super) local: Option<IpAddr>,
    pub(super) ecn: u8,
    pub(super) bytes: BytesMut,
}

/// One core's endpoint of one listener.
pub struct Endpoint {
    pub(super) shared: Rc<Shared>,
    keys: Arc<QuicKeys>,
    here: Destination,
    cores: usize,
    /// The number of the listener, the same on all cores.
    listener: u16,
    address: SocketAddr,
    socket: UdpSocket,
    machine: RefCell<quinn_proto::Endpoint>,
    owners: Arc<Owners>,
    links: RefCell<Vec<Option<Rc<Link>>>>,
    /// First packets that wait.
    strangers: RefCell<VecDeque<(Arrived, Screening)>>,
    /// First flights that may belong to another core.
    flights: Flights,
    /// The id of the last datagram that belonged here: a train's datagrams mostly have the same.
    last: Cell<[u8; CID_LEN]>,
    /// Connections that wait for room in the socket.
    senders: RefCell<Vec<Waker>>,
    /// This endpoint's task: the one that the socket wakes.
    task: RefCell<Waker>,
    /// Most datagrams of a train; 1 once the kernel has refused trains.
    segments: Cell<usize>,
    /// A buffer to build packets in.
    spare: Cell<Vec<u8>>,
}

impl Endpoint {
    /// Takes over a bound socket.
    pub fn new(
        socket: UdpSocket,
        listener: u16,
        core: u16,
        settings: &Settings,
        shared: Rc<Shared>,
    ) -> io::Result<Rc<Self>> {
        let core_number = u8::try_from(core).map_err(|_| io::Error::other("QUIC has room for 256 cores"))?;
        let (server, generation) = (settings.config.server, settings.generation);
        let here = Destination { server, core: core_number, generation };
        let owners = Arc::default();
        let machine = machine(settings, here, &owners, &shared.limits).map_err(io::Error::other)?;
        let endpoint = Rc::new(Self {
            keys: Arc::clone(&settings.keys),
            here,
            cores: settings.cores,
            listener,
            address: socket.local_addr()?,
            socket,
            machine: RefCell::new(machine),
            owners,
            links: RefCell::default(),
            strangers: RefCell::default(),
            flights: Flights::new(Arc::clone(&settings.rules), core, shared.limits.handshake_timeout),
            last: Cell::new([0; CID_LEN]),
            senders: RefCell::default(),
            task: RefCell::new(Waker::noop().clone()),
            segments: Cell::new(SEGMENTS_MAX),
            spare: Cell::default(),
            shared,
        });
        let tossed = Rc::downgrade(&endpoint);
        endpoint.shared.hops.on_datagram(listener, move |envelope| {
            if let Some(endpoint) = tossed.upgrade() {
                endpoint.take_crossed(envelope);
            }
        });
        Ok(endpoint)
    }

    /// Reads the socket for as long as the core lives.
    pub async fn run(self: Rc<Self>) {
        std::future::poll_fn(|cx| -> Poll<()> {
            self.task.borrow_mut().clone_from(cx.waker());
            // The socket may have woken this task because it has room again.
            self.senders.take().into_iter().for_each(Waker::wake);
            let waits = self.receive(cx);
            self.look_at_strangers();
            self.tend_flights(cx);
            if !waits || !self.strangers.borrow().is_empty() {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
    }

    /// Takes what the socket has; true when it has no more and will wake this task.
    fn receive(self: &Rc<Self>, cx: &mut Context<'_>) -> bool {
        while !berth_runtime::out_of_budget() {
            match self.socket.poll_receive(cx) {
                Poll::Ready(Ok(train)) => self.take_train(&train),
                // An ICMP error of an earlier send, say: it concerns a peer, not the socket.
                Poll::Ready(Err(error)) => {
                    self.shared.numbers.quic_socket_errors.add(1);
                    tracing::debug!(%error, "quic.receive");
                }
                Poll::Pending => return true,
            }
        }
        false
    }

    fn take_train(self: &Rc<Self>, train: &Datagram) {
        let (from, local, ecn) = (train.from(), train.local(), train.ecn());
        train.with_payload(|payload| {
            let size = train.segment().map_or(payload.len(), usize::from).max(1);
            let tossed = || self.shared.numbers.quic_tossed.get();
            let mut with_the_first = tossed();
            for (place, datagram) in payload.chunks(size).enumerate() {
                // Each in a buffer of its own: what somebody keeps of one must not keep the whole train.
                self.sort(Arrived { from, local, ecn, bytes: BytesMut::from(datagram) });
                if place == 0 {
                    with_the_first = tossed();
                }
            }
            self.shared.numbers.quic_tossed_out_of_trains.add(tossed() - with_the_first);
        });
    }

    /// Decides where a datagram goes. Each of a train is looked at for itself: the kernel merges by addresses, and two
    /// connections of one client may belong to two cores.
    fn sort(self: &Rc<Self>, arrived: Arrived) {
        self.shared.numbers.quic_datagrams.add(1);
        let Some(id) = destination_id(&arrived.bytes) else {
            return self.shared.numbers.quic_malformed.add(1);
        };
        if *id == self.last.get()[..] {
            return self.handle(arrived, Proof::Id);
        }
        match self.keys.destination(id) {
            Ok(there) if there == self.here && self.is_retried(&arrived) => self.screen(arrived, Proof::Id),
            Ok(there) if there == self.here => {
                if let Ok(id) = id.try_into() {
                    self.last.set(id);
                }
                self.handle(arrived, Proof::Id);
            }
            Ok(there) if self.is_neighbour(there) => self.toss(there, arrived),
            Ok(there) if self.is_of_another_generation(there) => self.toss_to_generation(there, arrived),
            // Another server's, or of a core that is not there: nobody here knows it, and nothing is answered.
            Ok(_) => self.shared.numbers.quic_foreign.add(1),
            Err(_) if is_long(&arrived.bytes) => self.keep_stranger(arrived, Screening::Due),
            Err(_) => self.handle(arrived, Proof::None),
        }
    }

    fn is_neighbour(&self, there: Destination) -> bool {
        (there.server, there.generation) == (self.here.server, self.here.generation)
            && usize::from(there.core) < self.cores
    }

    fn is_of_another_generation(&self, there: Destination) -> bool {
        there.server == self.here.server && there.generation != self.here.generation
    }

    fn toss_to_generation(&self, there: Destination, arrived: Arrived) {
        let numbers = &self.shared.numbers;
        let envelope = arrived.into_envelope(self.listener, Crossing::Toss);
        match self.shared.others.toss(berth_runtime::now(), there, &envelope) {
            Ok(()) => numbers.quic_tossed_to_generation.add(1),
            Err(NotTossed::Nobody) => numbers.quic_foreign.add(1),
            Err(NotTossed::NoRoom) => numbers.quic_toss_full.add(1),
        }
    }

    fn toss(&self, there: Destination, arrived: Arrived) {
        let envelope = arrived.into_envelope(self.listener, Crossing::Toss);
        match self.shared.hops.toss(there.core.into(), Box::new(envelope)) {
            Ok(()) => self.shared.numbers.quic_tossed.add(1),
            Err(_) => self.shared.numbers.quic_toss_full.add(1),
        }
    }

    /// A datagram that another core tossed here. Its id names this core, or the keys have changed meanwhile; either
    /// way it stays, unless a client begins with it that has done a Retry and belongs elsewhere.
    fn take_tossed(self: &Rc<Self>, envelope: DatagramEnvelope) {
        self.shared.numbers.quic_caught.add(1);
        let arrived = Arrived::from(envelope);
        match self.is_retried(&arrived) {
            true => self.screen(arrived, Proof::Id),
            false => self.handle(arrived, Proof::Id),
        }
    }

    fn keep_stranger(&self, arrived: Arrived, screening: Screening) {
        let mut strangers = self.strangers.borrow_mut();
        if strangers.len() >= STRANGERS_MAX {
            return self.shared.numbers.limit_quic_initials.add(1);
        }
        strangers.push_back((arrived, screening));
    }

    fn look_at_strangers(self: &Rc<Self>) {
        for done in 0.. {
            if done >= STRANGERS_MIN && berth_runtime::out_of_budget() {
                return;
            }
            let next = self.strangers.borrow_mut().pop_front();
            match next {
                Some((arrived, Screening::Due)) => self.screen(arrived, Proof::None),
                Some((arrived, Screening::Done)) => self.handle(arrived, Proof::None),
                None => return,
            }
        }
    }

    /// Whether strangers must prove their address before anything is kept of them.
    fn is_busy(&self) -> bool {
        self.shared.connections.handshakes() >= self.shared.limits.http3.retry_above
    }

    /// Gives a datagram to the state machine.
    fn handle(self: &Rc<Self>, arrived: Arrived, proof: Proof) {
        let now = berth_runtime::now();
        let size = arrived.bytes.len();
        let mut reply = self.take_spare();
        let ecn = EcnCodepoint::from_bits(arrived.ecn);
        let event = self.machine.borrow_mut().handle(
            now,
            arrived.from,
            arrived.local,
            ecn,
            arrived.bytes,
            &mut reply,
        );
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                self.give_spare(reply);
                self.deliver(handle, event, size, proof);
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.meet(incoming, size, now, reply),
            Some(DatagramEvent::Response(transmit)) => self.respond(transmit, reply),
            None => self.give_spare(reply),
        }
    }

    fn deliver(&self, handle: ConnectionHandle, event: ConnectionEvent, size: usize, proof: Proof) {
        let link = self.links.borrow().get(handle.0).cloned().flatten();
        if link.is_some_and(|link| !link.deliver(event, size, proof)) {
            self.shared.numbers.quic_dropped.add(1);
        }
    }

    /// Retries, refuses or accepts a new connection, whose first datagram had so many bytes.
    fn meet(self: &Rc<Self>, incoming: Incoming, size: usize, now: Instant, mut reply: Vec<u8>) {
        let numbers = &self.shared.numbers;
        let connections = &self.shared.connections;
        let validated = incoming.remote_address_validated();
        if self.shared.drain.is_on() {
            let transmit = self.machine.borrow_mut().refuse(incoming, &mut reply);
            return self.respond(transmit, reply);
        }
        if self.is_busy() && !validated && incoming.may_retry() {
            numbers.quic_retries.add(1);
            let retried = self.machine.borrow_mut().retry(incoming, &mut reply);
            return match retried {
                Ok(transmit) => self.respond(transmit, reply),
                Err(_) => self.give_spare(reply),
            };
        }
        let client = incoming.remote_address();
        let places = connections
            .admit(client.ip())
            .and_then(|admission| connections.handshake().map(|handshake| (admission, handshake)));
        let (admission, handshake) = match places {
            Ok(places) => places,
            Err(refused) => {
                match refused {
                    Refused::Node(_) => numbers.limit_connections.add(1),
                    Refused::Address(_) => numbers.limit_connections_per_address.add(1),
                    Refused::Handshakes(_) => numbers.limit_handshakes.add(1),
                }
                let transmit = self.machine.borrow_mut().refuse(incoming, &mut reply);
                return self.respond(transmit, reply);
            }
        };
        let owner = self.owners.admit();
        let making = owner.make_ids();
        let accepted = self.machine.borrow_mut().accept(incoming, now, &mut reply, None);
        drop(making);
        match accepted {
            Ok((handle, machine)) => {
                self.give_spare(reply);
                let allowance = if validated { Allowance::Any } else { Allowance::new(size) };
                let link = Rc::new(Link::new(handle, owner, Rc::clone(self), machine, allowance));
                self.insert(handle, Rc::clone(&link));
                let driver = Driver::new(link, admission, handshake);
                berth_runtime::spawn_for(payer(client.ip()), driver.run());
            }
            Err(error) => {
                numbers.quic_handshake_failures.add(1);
                tracing::debug!(%client, cause = %error.cause, "quic.accept failed");
                match error.response {
                    Some(transmit) => self.respond(transmit, reply),
                    None => self.give_spare(reply),
                }
            }
        }
    }

    fn insert(&self, handle: ConnectionHandle, link: Rc<Link>) {
        let mut links = self.links.borrow_mut();
        if links.len() <= handle.0 {
            links.resize(handle.0 + 1, None);
        }
        links[handle.0] = Some(link);
    }

    /// Tells the clients of all connections that it is over: the node ends, and their tasks with it.
    pub fn cut_all(&self) {
        let links: Vec<_> = self.links.borrow().iter().flatten().cloned().collect();
        links.iter().for_each(|link| link.cut());
    }

    /// A connection is over.
    pub(super) fn remove(&self, handle: ConnectionHandle) {
        let link = self.links.borrow_mut().get_mut(handle.0).and_then(Option::take);
        drop(link);
    }

    /// Tells the endpoint's state machine what a connection reports.
    pub(super) fn handle_event(
        &self,
        handle: ConnectionHandle,
        owner: &Owner,
        event: EndpointEvent,
    ) -> Option<ConnectionEvent> {
        let _making = owner.make_ids();
        self.machine.borrow_mut().handle_event(handle, event)
    }

    /// The next train of a connection.
    pub(super) fn next_outgoing(&self, state: &mut State, now: Instant) -> Option<Outgoing> {
        loop {
            let mut bytes = self.take_spare();
            let Some(mut transmit) = state.machine.poll_transmit(now, self.segments.get(), &mut bytes) else {
                self.give_spare(bytes);
                return None;
            };
            let segment = transmit.segment_size.unwrap_or(transmit.size);
            let allowed = state.allowance.take(transmit.size, segment);
            if allowed < transmit.size {
                self.shared.numbers.limit_quic_amplification.add(1);
            }
            if allowed > 0 {
                transmit.size = allowed;
                return Some(Outgoing { transmit, bytes });
            }
            self.give_spare(bytes);
        }
    }

    /// Sends; the train comes back when the socket has no room.
    pub(super) fn send(&self, outgoing: Outgoing) -> Option<Outgoing> {
        let Outgoing { transmit, bytes } = outgoing;
        let task = self.task.borrow();
        let mut cx = Context::from_waker(&task);
        let train = Transmit {
            to: transmit.destination,
            from: transmit.src_ip,
            ecn: transmit.ecn.map_or(0, |ecn| ecn as u8),
            segment: transmit.segment_size.and_then(|size| u16::try_from(size).ok()),
            payload: &bytes[..transmit.size],
        };
        loop {
            match self.socket.poll_send(&mut cx, &train) {
                Poll::Ready(Ok(())) => break,
                Poll::Ready(Err(error)) => self.send_failed(&error), // Of an earlier send.
                Poll::Pending => return Some(Outgoing { transmit, bytes }),
            }
        }
        self.give_spare(bytes);
        None
    }

    /// An earlier send failed; what it carried is lost, and QUIC sends it again if it mattered.
    fn send_failed(&self, error: &io::Error) {
        match error.raw_os_error() {
            // A probe of the path's MTU was too large.
            Some(libc::EMSGSIZE) => {}
            // A network card without checksum offload refuses trains.
            Some(libc::EIO | libc::EINVAL) if self.segments.get() > 1 => {
                self.segments.set(1);
                tracing::warn!(%error, address = %self.address, "quic.segmentation is not offered here; sending one by one");
            }
            _ => {
                self.shared.numbers.quic_socket_errors.add(1);
                tracing::debug!(%error, "quic.send");
            }
        }
    }

    /// A connection waits for room in the socket.
    pub(super) fn wait_for_room(&self, cx: &Context<'_>) {
        self.senders.borrow_mut().push(cx.waker().clone());
    }

    /// Sends an answer that belongs to no connection. When the socket is full it is dropped: nobody was promised one.
    fn respond(&self, transmit: quinn_proto::Transmit, bytes: Vec<u8>) {
        if let Some(outgoing) = self.send(Outgoing { transmit, bytes }) {
            self.shared.numbers.quic_dropped.add(1);
            self.give_spare(outgoing.bytes);
        }
    }

    fn take_spare(&self) -> Vec<u8> {
        let mut bytes = self.spare.take();
        bytes.clear();
        bytes
    }

    fn give_spare(&self, bytes: Vec<u8>) {
        self.spare.set(bytes);
    }
}

pub(super) fn machine(
    settings: &Settings,
    here: Destination,
    owners: &Arc<Owners>,
    limits: &Limits,
) -> Result<quinn_proto::Endpoint, String> {
    let tls = QuicServerConfig::try_from(Arc::clone(&settings.tls)).map_err(|error| error.to_string())?;
    let keys = &settings.keys;
    let mut server = ServerConfig::new(Arc::new(tls), Arc::new(Tokens(Arc::clone(keys))));
    let mut no_tokens = ValidationTokenConfig::default();
    no_tokens.sent(0); // Of NEW_TOKEN: all servers of a site would have to agree on which were used.
    server.transport_config(Arc::new(transport(limits)));
    server.validation_token_config(no_tokens);
    let mut config = EndpointConfig::new(Arc::new(Resets(Arc::clone(keys))));
    let (keys, owners) = (Arc::clone(keys), Arc::clone(owners));
    let lifetime = settings.config.connection_id_lifetime;
    config.supported_versions(vec![VERSION]); // The library knows drafts as well, which nobody speaks any more.
    config.cid_generator(move || {
        Box::new(Ids { keys: Arc::clone(&keys), here, owners: Arc::clone(&owners), lifetime })
    });
    Ok(quinn_proto::Endpoint::new(Arc::new(config), Some(Arc::new(server)), true, None))
}

fn transport(limits: &Limits) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(limits.http3.streams.into())
        .max_concurrent_uni_streams(UNIDIRECTIONAL_MAX.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(SEND_WINDOW)
        .crypto_buffer_size(CRYPTO_BUFFER)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(
            IdleTimeout::try_from(limits.idle_timeout).ok().or(Some(VarInt::from_u32(60_000).into())),
        );
    transport
}

/// The destination connection id, by the facts that hold for every version (RFC 8999).
pub(super) fn destination_id(datagram: &[u8]) -> Option<&[u8]> {
    if is_long(datagram) {
        let length = usize::from(*datagram.get(5)?);
        datagram.get(6..6 + length)
    } else {
        datagram.get(1..1 + CID_LEN)
    }
}

/// Whether the first packet has a long header.
fn is_long(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0x80 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_destination_id_is_read_whatever_the_version_and_type() {
        let long = |length: u8, id: &[u8]| [&[0xc3, 0x0a, 0x1a, 0x2a, 0x3a, length], id].concat();
        assert_eq!(destination_id(&long(3, b"abcdef")), Some(b"abc".as_slice()));
        assert_eq!(destination_id(&long(0, b"abc")), Some(b"".as_slice()));
        assert_eq!(destination_id(&long(4, b"abc")), None, "cut");
        assert_eq!(destination_id(&[0x80]), None);
        let short = [&[0x40], [7; CID_LEN].as_slice(), b"rest"].concat();
        assert_eq!(destination_id(&short), Some([7; CID_LEN].as_slice()));
        assert_eq!(destination_id(&short[..CID_LEN]), None);
        assert_eq!(destination_id(&[]), None);
    }
}
