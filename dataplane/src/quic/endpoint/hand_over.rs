//! Does what [`FirstFlights`] decides: holds, hands over, forwards, or accepts here.
//!
//! Only while there are rules, of `quic.hosts` or of a class with hosts; without them a stranger's datagram goes straight
//! to the state machine. Rules come and go as zones are deployed, so that this is asked each time; what was begun is ended
//! all the same. A datagram that was handed over is never looked at again, and so it moves once, whatever has become of the
//! rules and of the object meanwhile.
//!
//! **Retry.** Who must prove its address first is asked before its flight is read, so that a flood of strangers costs a
//! Retry and no memory, as it does without rules. The client's next Initials carry the id of the Retry, which names this
//! core and was made for no connection: by that they are known, and read here as a first flight. Their token is good on
//! every core, so that the core of the host accepts them.
//!
//! **Proof.** What is screened is handled as a stranger's. A client that has done a Retry is believed by its token, and
//! all others get three times what came from them, counted by the core that accepts.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use berth_protocol::{Crossing, DatagramEnvelope};
use berth_runtime::Deadline;
use bytes::BytesMut;

use super::super::first_flight::{Because, FirstFlights, Rules, Verdict};
use super::super::link::Proof;
use super::{Arrived, Endpoint, destination_id, is_long};

/// The first flights of an endpoint.
pub(super) struct Flights {
    rules: Arc<Rules>,
    table: RefCell<FirstFlights>,
    /// When a flight has been held for long enough.
    deadline: Deadline,
}

/// Whether a stranger's datagram is still to be screened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Screening {
    /// It came by the socket.
    Due,
    /// Another core did that, and handed it over.
    Done,
}

impl Flights {
    pub(super) fn new(rules: Arc<Rules>, here: u16, handshake_timeout: Duration) -> Self {
        let table = RefCell::new(FirstFlights::new(Arc::clone(&rules), here, handshake_timeout));
        Self { rules, table, deadline: Deadline::new() }
    }

    /// Whether a datagram may belong to another core by its host.
    fn are_read(&self) -> bool {
        self.rules.any() || !self.table.borrow().is_empty()
    }
}

impl Endpoint {
    /// A datagram that another core sent here.
    pub(super) fn take_crossed(self: &Rc<Self>, envelope: DatagramEnvelope) {
        match envelope.crossing {
            Crossing::Toss => self.take_tossed(envelope),
            Crossing::HandOver => {
                self.shared.numbers.quic_taken_over.add(1);
                self.keep_stranger(envelope.into(), Screening::Done);
                self.task.borrow().wake_by_ref();
            }
        }
    }

    /// Whether an id of this core is that of a Retry, so that its datagram may begin a connection.
    pub(super) fn is_retried(&self, arrived: &Arrived) -> bool {
        is_long(&arrived.bytes)
            && self.flights.are_read()
            && destination_id(&arrived.bytes).is_some_and(|id| self.keys.is_of_nobody(id))
    }

    /// Finds the core for a datagram that may begin a connection, or belongs to a beginning.
    pub(super) fn screen(self: &Rc<Self>, arrived: Arrived, proof: Proof) {
        if !self.flights.are_read() {
            return self.handle(arrived, Proof::None);
        }
        let now = berth_runtime::now();
        let mut table = self.flights.table.borrow_mut();
        let turned_away = self.shared.drain.is_on() || (proof == Proof::None && self.is_busy());
        if turned_away && !table.knows(now, &arrived) {
            drop(table);
            return self.handle(arrived, Proof::None);
        }
        let verdict = table.handle(now, arrived);
        drop(table);
        self.carry_out(verdict);
    }

    /// Accepts here what was held for too long, and sees to it that this is called again in time.
    pub(super) fn tend_flights(self: &Rc<Self>, cx: &mut Context<'_>) {
        let (flights, now) = (&self.flights, berth_runtime::now());
        loop {
            let verdict = flights.table.borrow_mut().handle_timeout(now);
            let Some(verdict) = verdict else { break };
            self.carry_out(verdict);
        }
        match flights.table.borrow().poll_timeout() {
            Some(at) => flights.deadline.set_at(at),
            None => return flights.deadline.clear(),
        }
        if flights.deadline.poll_expired(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }

    fn carry_out(self: &Rc<Self>, verdict: Verdict) {
        let numbers = &self.shared.numbers;
        match verdict {
            Verdict::Held => {
                numbers.quic_held.add(1);
                // What another core tossed here comes in outside of the endpoint's task, which sets the deadline.
                self.task.borrow().wake_by_ref();
            }
            Verdict::Here(flight, because) => {
                self.count(because);
                flight.into_iter().for_each(|arrived| self.handle(arrived, Proof::None));
            }
            Verdict::HandOver(core, flight) => self.hand_over(core, flight),
            Verdict::Forward(core, arrived) => {
                if self.send_across(core, arrived).is_err() {
                    numbers.quic_toss_full.add(1);
                }
            }
        }
    }

    fn count(&self, because: Because) {
        let numbers = &self.shared.numbers;
        match because {
            Because::OfHost | Because::Follows | Because::Unreadable => {}
            Because::HeldMax => numbers.limit_quic_flights_held.add(1),
            Because::FlightMax => numbers.limit_quic_flight_bytes.add(1),
            Because::TimeIsOver => numbers.limit_quic_flight_time.add(1),
            Because::RememberedMax => numbers.limit_quic_flights_remembered.add(1),
        }
    }

    /// Hands a whole flight over. If the lane is full it is accepted here; if it gets full in between, what is left is
    /// lost, and the client sends it again.
    fn hand_over(self: &Rc<Self>, core: u16, flight: Vec<Arrived>) {
        let numbers = &self.shared.numbers;
        let mut rest = flight.into_iter();
        let Some(first) = rest.next() else { return };
        if let Err(first) = self.send_across(core, first) {
            numbers.quic_flights_kept.add(1);
            self.flights.table.borrow_mut().stays(&first);
            return std::iter::once(first).chain(rest).for_each(|arrived| self.handle(arrived, Proof::None));
        }
        numbers.quic_flights_handed_over.add(1);
        let lost = rest.filter_map(|arrived| self.send_across(core, arrived).err()).count();
        numbers.quic_toss_full.add(lost as u64);
    }

    /// Sends a datagram to another core, or gives it back when the lane is full.
    fn send_across(&self, core: u16, arrived: Arrived) -> Result<(), Arrived> {
        let envelope = arrived.into_envelope(self.listener, Crossing::HandOver);
        self.shared.hops.toss(core, Box::new(envelope)).map_err(|envelope| Arrived::from(*envelope))?;
        self.shared.numbers.quic_forwarded.add(1);
        Ok(())
    }
}

impl Arrived {
    pub(super) fn into_envelope(self, listener: u16, crossing: Crossing) -> DatagramEnvelope {
        let Self { from, local, ecn, bytes } = self;
        DatagramEnvelope { listener, crossing, from, local, ecn, payload: bytes.freeze() }
    }
}

impl From<DatagramEnvelope> for Arrived {
    fn from(envelope: DatagramEnvelope) -> Self {
        let DatagramEnvelope { from, local, ecn, payload, .. } = envelope;
        Self { from, local, ecn, bytes: BytesMut::from(payload) }
    }
}
