//! Alarms that are committed and not in the engine yet, laid over its index.
//!
//! Only what is committed is here: an alarm of a turn whose commit fails must never fire.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use berth_protocol::object::ObjectKey;
use berth_protocol::record::{Body, Effect, Space, alarm_due_ms};
use bytes::Bytes;

use crate::engine::{EngineError, View};

/// An alarm that is due, or will be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    /// When, in milliseconds of Unix time.
    pub due_ms: u64,
    /// Whose.
    pub object: ObjectKey,
    /// Which one of the object's.
    pub id: Bytes,
}

/// What the engine's index does not know yet.
#[derive(Debug, Default)]
pub(crate) struct Board {
    /// The due time of each alarm that was written, `None` where it was deleted, and in which step it comes.
    entries: BTreeMap<(ObjectKey, Bytes), (Option<u64>, u64)>,
    by_due: BTreeSet<Alarm>,
    /// Objects whose alarms in the engine do not count.
    cleared: HashMap<ObjectKey, u64>,
    step: u64,
}

impl Board {
    /// Takes what a committed record does to alarms.
    pub(crate) fn take(&mut self, body: &Body) {
        match body {
            Body::Effects { object, effects, .. } => {
                for effect in effects.iter().filter(|effect| effect.space() == Space::Alarm) {
                    match effect {
                        Effect::Put { key, value, .. } => self.set(*object, key, alarm_due_ms(value)),
                        Effect::Delete { key, .. } => self.set(*object, key, None),
                        Effect::Clear { .. } => self.clear(*object),
                    }
                }
            }
            Body::Remove { object, .. } => self.clear(*object),
            Body::EpochStart | Body::TruncateTail { .. } | Body::Seal => {}
        }
    }

    /// Whether a record does anything to alarms: most do not, and need no lock.
    pub(crate) fn concerns(body: &Body) -> bool {
        match body {
            Body::Effects { effects, .. } => effects.iter().any(|effect| effect.space() == Space::Alarm),
            Body::Remove { .. } => true,
            Body::EpochStart | Body::TruncateTail { .. } | Body::Seal => false,
        }
    }

    fn set(&mut self, object: ObjectKey, id: &Bytes, due: Option<u64>) {
        let old = self.entries.insert((object, id.clone()), (due, self.step));
        if let Some((Some(due_ms), _)) = old {
            self.by_due.remove(&Alarm { due_ms, object, id: id.clone() });
        }
        if let Some(due_ms) = due {
            self.by_due.insert(Alarm { due_ms, object, id: id.clone() });
        }
    }

    fn clear(&mut self, object: ObjectKey) {
        let from = (object, Bytes::new());
        let gone: Vec<(Bytes, Option<u64>)> = self
            .entries
            .range(from..)
            .take_while(|((of, _), _)| *of == object)
            .map(|((_, id), (due, _))| (id.clone(), *due))
            .collect();
        for (id, due) in gone {
            if let Some(due_ms) = due {
                self.by_due.remove(&Alarm { due_ms, object, id: id.clone() });
            }
            self.entries.remove(&(object, id));
        }
        self.cleared.insert(object, self.step);
    }

    /// What comes from now on belongs to the next step of the engine.
    pub(crate) fn freeze(&mut self) -> u64 {
        self.step += 1;
        self.step - 1
    }

    /// A step is in the engine.
    pub(crate) fn applied(&mut self, step: u64) {
        let by_due = &mut self.by_due;
        self.entries.retain(|(object, id), (due, of)| {
            let stays = *of > step;
            if let (false, Some(due_ms)) = (stays, *due) {
                by_due.remove(&Alarm { due_ms, object: *object, id: id.clone() });
            }
            stays
        });
        self.cleared.retain(|_, of| *of > step);
    }

    /// The first alarms that are due.
    pub(crate) fn due(&self, view: &View, until_ms: u64, limit: usize) -> Result<Vec<Alarm>, EngineError> {
        let mut due: Vec<Alarm> =
            self.by_due.iter().take_while(|alarm| alarm.due_ms <= until_ms).take(limit).cloned().collect();
        let mut stored = 0;
        view.alarms(|due_ms, object, id| {
            if due_ms > until_ms || stored == limit {
                return false;
            }
            let key = (object, id);
            if !self.cleared.contains_key(&object) && !self.entries.contains_key(&key) {
                due.push(Alarm { due_ms, object, id: key.1 });
                stored += 1;
            }
            true
        })?;
        due.sort();
        due.truncate(limit);
        Ok(due)
    }
}
