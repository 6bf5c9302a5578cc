//! An endpoint with its socket and its connections, driven by one thread.
//!
//! A *turn* takes what has arrived and what is due, lets the application step each connection that this concerns,
//! and sends what they have to say. The application keeps a state of its own beside each connection, its *link*.
//!
//! The next timer is remembered as one moment for all connections, which may lie too early: then a look at all of
//! them finds the right one. That costs less than an ordered queue, which would change with every packet.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

use quinn_proto::{
    ClientConfig, ConnectError, Connection, ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig,
    EndpointEvent, ServerConfig,
};

use crate::quic::wire::{Batch, Datagram, Wire};

/// Batches that one turn takes, so that a fast sender cannot keep us from answering.
const BATCHES_PER_TURN: usize = 4;

/// What speaks on the connections of a host.
pub(crate) trait Application {
    /// Its state beside each connection.
    type Link;

    /// That of a new connection.
    fn link(&mut self, now: Instant) -> Self::Link;

    /// Something has happened on the connection: takes its events, reads and writes its streams.
    fn step(&mut self, now: Instant, connection: &mut Connection, link: &mut Self::Link) -> Fate;
}

/// What becomes of a connection after a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fate {
    Keep,
    /// What it has to say is sent, and then it is forgotten at once, without waiting for stray packets.
    Forget,
}

pub(crate) struct Host<L> {
    wire: Wire,
    endpoint: Endpoint,
    /// By the number of their handles.
    slots: Vec<Option<Box<Slot<L>>>>,
    open: usize,
    /// Connections that something has happened to.
    dirty: Vec<ConnectionHandle>,
    /// No timer is due before this.
    soonest: Option<Instant>,
    arrived: Vec<Datagram>,
    /// What is being sent.
    contents: Vec<u8>,
}

struct Slot<L> {
    connection: Connection,
    link: L,
    due: Option<Instant>,
    /// Whether it stands in the list of dirty ones.
    dirty: bool,
}

impl<L> Host<L> {
    pub(crate) fn bind(address: SocketAddr, server: Option<ServerConfig>) -> io::Result<Self> {
        let wire = Wire::bind(address)?;
        let endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), server.map(Arc::new), true, None);
        Ok(Self {
            wire,
            endpoint,
            slots: Vec::new(),
            open: 0,
            dirty: Vec::new(),
            soonest: None,
            arrived: Vec::new(),
            contents: Vec::new(),
        })
    }

    #[cfg(test)]
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.wire.address()
    }

    /// Connections that have not ended.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Opens a connection; its first packet leaves with the next turn.
    pub(crate) fn connect<A: Application<Link = L>>(
        &mut self,
        config: ClientConfig,
        address: SocketAddr,
        server_name: &str,
        application: &mut A,
    ) -> Result<(), ConnectError> {
        let now = Instant::now();
        let (handle, connection) = self.endpoint.connect(now, config, address, server_name)?;
        self.insert(handle, connection, application.link(now));
        Ok(())
    }

    /// When the next turn is due even if nothing arrives; `None` for never.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        if self.dirty.is_empty() { self.soonest } else { Some(now) }
    }

    /// See the head of this file. Returns whether more has arrived than one turn takes.
    pub(crate) fn turn<A: Application<Link = L>>(&mut self, application: &mut A) -> io::Result<Batch> {
        let batch = self.receive(application)?;
        let now = Instant::now();
        self.run_timers(now);
        let mut dirty = std::mem::take(&mut self.dirty);
        for handle in dirty.drain(..) {
            self.step(now, handle, application)?;
        }
        self.dirty = dirty;
        Ok(batch)
    }

    /// Forgets the connections whose links `are_late`, and says how many those were.
    pub(crate) fn forget(&mut self, mut are_late: impl FnMut(&L) -> bool) -> usize {
        let late: Vec<_> = (0..self.slots.len())
            .filter(|&index| self.slots[index].as_ref().is_some_and(|slot| are_late(&slot.link)))
            .collect();
        for &index in &late {
            self.remove(ConnectionHandle(index));
        }
        late.len()
    }

    fn receive<A: Application<Link = L>>(&mut self, application: &mut A) -> io::Result<Batch> {
        let mut arrived = std::mem::take(&mut self.arrived);
        let mut batch = Batch::Full;
        for _ in 0..BATCHES_PER_TURN {
            batch = self.wire.receive(&mut arrived)?;
            let now = Instant::now();
            for datagram in arrived.drain(..) {
                self.take(now, datagram, application)?;
            }
            if batch == Batch::Last {
                break;
            }
        }
        self.arrived = arrived;
        Ok(batch)
    }

    fn take<A: Application<Link = L>>(
        &mut self,
        now: Instant,
        datagram: Datagram,
        application: &mut A,
    ) -> io::Result<()> {
        let Datagram { from, ecn, bytes } = datagram;
        self.contents.clear();
        match self.endpoint.handle(now, from, None, ecn, bytes, &mut self.contents) {
            None => {}
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(slot) = self.slots[handle.0].as_mut() {
                    slot.connection.handle_event(event);
                    slot.mark(handle, &mut self.dirty);
                }
            }
            Some(DatagramEvent::Response(transmit)) => self.wire.send(&transmit, &self.contents)?,
            Some(DatagramEvent::NewConnection(incoming)) => {
                match self.endpoint.accept(incoming, now, &mut self.contents, None) {
                    Ok((handle, connection)) => self.insert(handle, connection, application.link(now)),
                    Err(refused) => {
                        if let Some(transmit) = refused.response {
                            self.wire.send(&transmit, &self.contents)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn run_timers(&mut self, now: Instant) {
        if self.soonest.is_none_or(|soonest| soonest > now) {
            return;
        }
        self.soonest = None;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(slot) = slot else { continue };
            if slot.due.is_some_and(|due| due <= now) {
                slot.connection.handle_timeout(now);
                slot.mark(ConnectionHandle(index), &mut self.dirty);
            } else {
                self.soonest = sooner(self.soonest, slot.due);
            }
        }
    }

    fn step<A: Application<Link = L>>(
        &mut self,
        now: Instant,
        handle: ConnectionHandle,
        application: &mut A,
    ) -> io::Result<()> {
        // It may have been forgotten since it was marked.
        let Some(slot) = self.slots[handle.0].as_mut() else { return Ok(()) };
        slot.dirty = false;
        let fate = application.step(now, &mut slot.connection, &mut slot.link);
        let mut drained = false;
        while let Some(event) = slot.connection.poll_endpoint_events() {
            drained |= event.is_drained();
            if let Some(event) = self.endpoint.handle_event(handle, event) {
                slot.connection.handle_event(event);
            }
        }
        let segments_max = self.wire.segments_max();
        self.contents.clear();
        while let Some(transmit) = slot.connection.poll_transmit(now, segments_max, &mut self.contents) {
            self.wire.send(&transmit, &self.contents)?;
            self.contents.clear();
        }
        slot.due = slot.connection.poll_timeout();
        self.soonest = sooner(self.soonest, slot.due);
        if drained {
            self.slots[handle.0] = None;
            self.open -= 1;
        } else if fate == Fate::Forget {
            self.remove(handle);
        }
        Ok(())
    }

    fn insert(&mut self, handle: ConnectionHandle, connection: Connection, link: L) {
        if self.slots.len() <= handle.0 {
            self.slots.resize_with(handle.0 + 1, || None);
        }
        let slot = self.slots[handle.0].insert(Box::new(Slot { connection, link, due: None, dirty: false }));
        slot.mark(handle, &mut self.dirty);
        self.open += 1;
    }

    /// Ends a connection out of turn.
    fn remove(&mut self, handle: ConnectionHandle) {
        self.endpoint.handle_event(handle, EndpointEvent::drained());
        self.slots[handle.0] = None;
        self.open -= 1;
    }
}

impl<L> AsRawFd for Host<L> {
    fn as_raw_fd(&self) -> RawFd {
        self.wire.as_raw_fd()
    }
}

impl<L> Slot<L> {
    fn mark(&mut self, handle: ConnectionHandle, list: &mut Vec<ConnectionHandle>) {
        if !self.dirty {
            self.dirty = true;
            list.push(handle);
        }
    }
}

fn sooner(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    [a, b].into_iter().flatten().min()
}
