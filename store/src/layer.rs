//! What has been written to an object and is not in the engine yet, with the last value of each key.

use std::collections::{BTreeMap, HashMap};

use berth_protocol::object::{Group, ObjectKey};
use berth_protocol::record::{Body, Effect, Owner, Space};
use bytes::Bytes;

/// The written and not yet applied state of all objects of a shard.
pub(crate) type Layers = HashMap<ObjectKey, Layer>;

/// What is known of an object as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectStatus {
    /// It is there.
    Present,
    /// It was removed. Its row stays, so that an owner of old is still refused.
    Removed,
    /// A record of it is lost: it is neither read nor written until it is removed or imported again.
    Damaged,
}

/// The last value of each key that was written, of one object.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) owner: Owner,
    pub(crate) group: Group,
    /// When the object was made, if it was made again after a removal in this layer.
    pub(crate) remade_ms: Option<u64>,
    /// When the first and the last record of the layer were written.
    pub(crate) first_ms: u64,
    pub(crate) last_ms: u64,
    /// What the object is after the layer; `None` if it is what it was.
    pub(crate) status: Option<ObjectStatus>,
    spaces: [SpaceLayer; Space::ALL.len()],
}

#[derive(Debug, Clone, Default)]
pub(crate) struct SpaceLayer {
    /// What is below does not count any more.
    pub(crate) cleared: bool,
    pub(crate) writes: BTreeMap<Bytes, Option<Bytes>>,
}

/// What a layer knows of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Known {
    Value(Bytes),
    Gone,
}

impl Layer {
    pub(crate) fn new(group: Group, at_ms: u64) -> Self {
        Self {
            owner: Owner::default(),
            group,
            remade_ms: None,
            first_ms: at_ms,
            last_ms: at_ms,
            status: None,
            spaces: Default::default(),
        }
    }

    pub(crate) fn space(&self, space: Space) -> &SpaceLayer {
        &self.spaces[usize::from(space.code())]
    }

    /// Takes what a record does.
    pub(crate) fn apply(&mut self, body: &Body, at_ms: u64) {
        self.last_ms = at_ms;
        match body {
            Body::Effects { owner, effects, .. } => {
                self.owner = *owner;
                match self.status {
                    Some(ObjectStatus::Damaged | ObjectStatus::Present) => {}
                    Some(ObjectStatus::Removed) => {
                        self.remade_ms = Some(at_ms);
                        self.status = Some(ObjectStatus::Present);
                    }
                    // That it was damaged is known below, and stays so there.
                    None => self.status = None,
                }
                effects.iter().for_each(|effect| self.effect(effect));
            }
            Body::Remove { owner, .. } => {
                self.owner = *owner;
                self.status = Some(ObjectStatus::Removed);
                Space::ALL.iter().for_each(|space| self.clear(*space));
            }
            Body::EpochStart | Body::TruncateTail { .. } | Body::Seal => {}
        }
    }

    fn clear(&mut self, space: Space) {
        self.spaces[usize::from(space.code())] = SpaceLayer { cleared: true, writes: BTreeMap::new() };
    }

    fn effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Put { space, key, value } => {
                let writes = &mut self.spaces[usize::from(space.code())].writes;
                writes.insert(key.clone(), Some(value.clone()));
            }
            Effect::Delete { space, key } => {
                self.spaces[usize::from(space.code())].writes.insert(key.clone(), None);
            }
            Effect::Clear { space } => self.clear(*space),
        }
    }

    /// The layer without what was written.
    pub(crate) fn outline(&self) -> Self {
        Self { spaces: Default::default(), ..*self }
    }

    pub(crate) fn get(&self, space: Space, key: &[u8]) -> Option<Known> {
        let space = self.space(space);
        match space.writes.get(key) {
            Some(Some(value)) => Some(Known::Value(value.clone())),
            Some(None) => Some(Known::Gone),
            None => space.cleared.then_some(Known::Gone),
        }
    }
}

/// What a batch that is not in a layer yet knows of a key. The last effect on it counts.
pub(crate) fn known_in(body: &Body, space: Space, key: &[u8]) -> Option<Known> {
    let effects = match body {
        Body::Effects { effects, .. } => effects,
        Body::Remove { .. } => return Some(Known::Gone),
        Body::EpochStart | Body::TruncateTail { .. } | Body::Seal => return None,
    };
    effects.iter().rev().filter(|effect| effect.space() == space).find_map(|effect| match effect {
        Effect::Put { key: put, value, .. } if put == key => Some(Known::Value(value.clone())),
        Effect::Delete { key: deleted, .. } if deleted == key => Some(Known::Gone),
        Effect::Clear { .. } => Some(Known::Gone),
        Effect::Put { .. } | Effect::Delete { .. } => None,
    })
}

/// How much memory a record takes until it is in the engine. The constant is what the maps take for an entry.
pub(crate) fn weight(body: &Body) -> usize {
    const PER_RECORD: usize = 256;
    const PER_EFFECT: usize = 96;
    match body {
        Body::Effects { effects, .. } => PER_RECORD + body.payload_len() + effects.len() * PER_EFFECT,
        _ => PER_RECORD,
    }
}
