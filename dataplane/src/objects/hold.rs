//! Holding an object: no instance of it lives and none starts, while somebody writes it over.
//!
//! Who wants that leaves a note in the node's table and rings at the object: by a letter that goes where all its letters
//! go. The start that finds the note hands the object over, and waits until it is given back. An instance that lives when
//! the letter has its turn ends there, after all that it wrote has settled, and the letter waits for the start that follows.
//! So a held object is one that starts: nothing of ownership is special about it, and what comes for it waits.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use berth_protocol::object::{Epoch, ObjectKey};
use berth_protocol::ownership::{self, Core, Event, TurnEnd};
use berth_protocol::waits::Chain;
use http::StatusCode;
use tokio::sync::oneshot;

use super::ask::From;
use super::letter::{Letter, Says};
use super::live::CoreObjects;
use super::orders::{ANSWER_WITHIN, Answer, LOOK_EVERY, NotDone, Wish, refused};
use super::{Objects, lock};
use crate::http::message::Reply;

/// Who waits for objects that are to be handed over, one for each.
#[derive(Default)]
pub(super) struct Notes {
    waiting: HashMap<ObjectKey, Note>,
    next: u64,
}

struct Note {
    /// A letter of an earlier note says nothing about this one.
    number: u64,
    name: Option<Box<str>>,
    handed: oneshot::Sender<Held>,
}

/// An object that is held. Dropped, it may start again.
pub(super) struct Held {
    _until: oneshot::Sender<()>,
}

impl Objects {
    /// Holds an object, whose name this is. Waits for its turn: not for a core.
    pub(super) fn hold(&self, object: ObjectKey, name: Option<&str>) -> Result<Held, NotDone> {
        let (handed, mut receiver) = oneshot::channel();
        let number = {
            let mut notes = lock(&self.notes);
            if notes.waiting.contains_key(&object) {
                return Err(refused("somebody else writes it over; try again in a moment"));
            }
            notes.next += 1;
            let note = Note { number: notes.next, name: name.map(Into::into), handed };
            notes.waiting.insert(object, note);
            notes.next
        };
        let core = self.berths.find(&object).core().unwrap_or(Core(0));
        let ordered = self.order(core, object, Wish::Hold(number));
        let mut reason = ordered.inspect_err(|_| {
            self.take_back(object, number);
        })?;
        let began = Instant::now();
        loop {
            if let Ok(held) = receiver.try_recv() {
                return Ok(held);
            }
            if let Ok(Answer::No(words)) = reason.try_recv() {
                return Err(NotDone::Refused(words));
            }
            // Once it is taken, it comes.
            if began.elapsed() >= ANSWER_WITHIN && self.take_back(object, number) {
                return Err(refused("a turn or the disk held it for too long; try again later"));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Whether nobody had taken the note.
    fn take_back(&self, object: ObjectKey, number: u64) -> bool {
        let mut notes = lock(&self.notes);
        let is_this = notes.waiting.get(&object).is_some_and(|note| note.number == number);
        is_this && notes.waiting.remove(&object).is_some()
    }

    fn is_wanted(&self, object: &ObjectKey) -> bool {
        lock(&self.notes).waiting.contains_key(object)
    }

    /// Hands an object that starts over to who waits for it, and waits until it comes back.
    pub(super) async fn hand_over(&self, object: ObjectKey) {
        let note = lock(&self.notes).waiting.remove(&object);
        let Some(note) = note else { return };
        let (until, given_back) = oneshot::channel();
        if note.handed.send(Held { _until: until }).is_ok() {
            let _ = given_back.await;
        }
    }
}

impl CoreObjects {
    /// Sends the letter of a note. The answer is why nothing comes of it.
    pub(super) fn ring(&self, object: ObjectKey, number: u64, answer: oneshot::Sender<Answer>) {
        let Some(workers) = self.workers() else { return };
        berth_runtime::spawn(async move {
            let node = &workers.objects.node;
            let name = lock(&node.notes).waiting.get(&object).and_then(|note| note.name.clone());
            let class = workers.zones().hosts().class(&object.scope);
            let status = match class {
                Some((zone, class)) => {
                    let (client, chain) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), Chain::outside());
                    let from = From { client, number: workers.new_request(), chain: &chain, debug: false };
                    let to = (object, name.as_deref());
                    workers.tell_object(&zone, &class, to, Says::Hold, from).await.status
                }
                None => StatusCode::NOT_FOUND,
            };
            if node.take_back(object, number) {
                let words = format!("it was not reached ({status}); try again in a moment");
                let _ = answer.send(Answer::No(words));
            }
        });
    }

    /// The turn of such a letter. Either the start before it has handed the object over, or the instance has to end first.
    pub(super) fn begin_hold(
        &self,
        object: ObjectKey,
        epoch: Epoch,
        letter: Box<Letter>,
    ) -> Event<Box<Letter>> {
        if !self.node.is_wanted(&object) {
            self.reply(&letter, Reply::new(StatusCode::NO_CONTENT, ""));
            return Event::TurnEnded { epoch, end: TurnEnd::Settled };
        }
        // It waits behind this turn, which ends the instance.
        self.post(ownership::Message { hops: 0, body: letter });
        Event::TurnEnded { epoch, end: TurnEnd::Trapped }
    }
}
