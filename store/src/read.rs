//! Reads: what was submitted for an object and has not failed, over what is committed, over what the engine has.
//!
//! A read takes what it needs of memory and a view of the engine under the lock of the object's shard, and reads the
//! engine without it. Since a step of the engine is visible before its layers are let go, nothing falls in between.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, PoisonError};

use berth_protocol::object::{ObjectKey, Scope};
use berth_protocol::record::{Body, Effect, Space};
use bytes::Bytes;

use crate::alarms::Alarm;
use crate::engine::{Direction, EngineError, Row, Stored, View};
use crate::layer::{Known, Layer, ObjectStatus, SpaceLayer};
use crate::store::{Inner, Store, layered_row, lock};
use crate::table::Shard;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Something of the object is not what was stored.
    #[error("object {object} is damaged: import it from a snapshot, or remove it")]
    Damaged {
        /// The object.
        object: ObjectKey,
    },
    /// The engine cannot be read.
    #[error("the engine cannot be read")]
    Engine(#[from] EngineError),
}

/// How much a scan gives at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Most entries.
    pub entries: usize,
    /// Bytes of keys and values after which it ends; the entry that reaches it is still given.
    pub bytes: usize,
}

/// A part of what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries, in order.
    pub entries: Vec<T>,
    /// Whether there may be more after the last one.
    pub more: bool,
}

/// How much an object has in its user space.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

/// A page of the engine that is damaged is damage of the object that was looked for.
fn of(object: ObjectKey) -> impl Fn(EngineError) -> ReadError {
    move |error| match error.damaged {
        true => ReadError::Damaged { object },
        false => ReadError::Engine(error),
    }
}

type Range<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);
impl Size {
    /// A key has another value, or none any more.
    fn replace(&mut self, key: &[u8], old: Option<usize>, new: Option<usize>) {
        if let Some(old) = old {
            self.keys = self.keys.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub((key.len() + old) as u64);
        }
        if let Some(new) = new {
            self.keys += 1;
            self.bytes += (key.len() + new) as u64;
        }
    }
}

type Source<'a> = Box<dyn Iterator<Item = (&'a Bytes, &'a Option<Bytes>)> + 'a>;

/// What memory has of a range of keys, and whether the engine counts below it.
struct Overlay {
    entries: Vec<(Bytes, Option<Bytes>)>,
    hides_engine: bool,
}

fn is_empty(range: Range<'_>) -> bool {
    match range {
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
            start >= end
        }
        _ => false,
    }
}

fn in_order<'a>(
    writes: &'a BTreeMap<Bytes, Option<Bytes>>,
    range: Range<'_>,
    direction: Direction,
) -> Source<'a> {
    let entries = writes.range::<[u8], _>(range);
    match direction {
        Direction::Forward => Box::new(entries),
        Direction::Backward => Box::new(entries.rev()),
    }
}

/// Merges sources, the later of which win, until there are `live` values.
fn merge(sources: Vec<Source<'_>>, direction: Direction, live: usize) -> Vec<(Bytes, Option<Bytes>)> {
    let mut sources: Vec<_> = sources.into_iter().map(Iterator::peekable).collect();
    let (mut merged, mut values) = (Vec::new(), 0);
    while values < live {
        let heads = sources.iter_mut().filter_map(|source| source.peek().map(|(key, _)| *key));
        let next = match direction {
            Direction::Forward => heads.min(),
            Direction::Backward => heads.max(),
        };
        let Some(next) = next else { break };
        let mut newest = None;
        for source in &mut sources {
            newest = source.next_if(|(key, _)| *key == next).or(newest);
        }
        if let Some((key, value)) = newest {
            values += usize::from(value.is_some());
            merged.push((key.clone(), value.clone()));
        }
    }
    merged
}

/// What batches on their way do to a range, as one layer.
fn pending_layer(shard: &Shard, object: &ObjectKey, space: Space) -> SpaceLayer {
    let mut layer = SpaceLayer::default();
    let clear = || SpaceLayer { cleared: true, writes: BTreeMap::new() };
    for batch in shard.lives.get(object).into_iter().flat_map(|live| &live.pending) {
        match &batch.body {
            Body::Effects { effects, .. } => {
                for effect in effects.iter().filter(|effect| effect.space() == space) {
                    match effect {
                        Effect::Put { key, value, .. } => {
                            layer.writes.insert(key.clone(), Some(value.clone()));
                        }
                        Effect::Delete { key, .. } => {
                            layer.writes.insert(key.clone(), None);
                        }
                        Effect::Clear { .. } => layer = clear(),
                    }
                }
            }
            Body::Remove { .. } => layer = clear(),
            Body::EpochStart | Body::TruncateTail { .. } | Body::Seal => {}
        }
    }
    layer
}

fn overlay(
    shard: &Shard,
    object: &ObjectKey,
    space: Space,
    range: Range<'_>,
    direction: Direction,
    live: usize,
) -> Overlay {
    let pending = pending_layer(shard, object, space);
    let layers = [shard.frozen.get(object), shard.active.get(object)];
    let mut sources: Vec<Source<'_>> = Vec::new();
    let mut hides_engine = false;
    let layers = layers.into_iter().flatten().map(|layer| layer.space(space)).chain([&pending]);
    for layer in layers {
        if layer.cleared {
            sources.clear();
            hides_engine = true;
        }
        sources.push(in_order(&layer.writes, range, direction));
    }
    Overlay { entries: merge(sources, direction, live), hides_engine }
}

/// What memory has of a key, the newest first.
fn known_of(shard: &Shard, object: &ObjectKey, space: Space, key: &[u8]) -> Option<Known> {
    let pending = shard.lives.get(object).and_then(|live| {
        let mut newest_first = live.pending.iter().rev();
        newest_first.find_map(|batch| batch.known(space, key))
    });
    let layer = |layer: Option<&Layer>| layer.and_then(|layer| layer.get(space, key));
    pending.or_else(|| layer(shard.active.get(object))).or_else(|| layer(shard.frozen.get(object)))
}

/// What a scan gathers.
struct Gathered {
    page: Page<(Bytes, Bytes)>,
    limit: Limit,
    bytes: usize,
}

impl Gathered {
    /// Whether another entry fits.
    fn take(&mut self, key: Bytes, value: Bytes) -> bool {
        if self.page.entries.len() == self.limit.entries || self.bytes >= self.limit.bytes {
            self.page.more = true;
            return false;
        }
        self.bytes += key.len() + value.len();
        self.page.entries.push((key, value));
        true
    }
}

impl Inner {
    fn readable(&self, object: ObjectKey) -> Result<(), ReadError> {
        if self.is_damaged(&object) { Err(ReadError::Damaged { object }) } else { Ok(()) }
    }

    fn known(&self, object: ObjectKey, space: Space, key: &[u8]) -> (Option<Known>, Arc<View>) {
        let shard = self.table.shard(&object);
        (known_of(&shard, &object, space, key), self.engine.view())
    }

    fn get(&self, object: ObjectKey, space: Space, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.readable(object)?;
        let (known, view) = self.known(object, space, key);
        match known {
            Some(Known::Value(value)) => Ok(Some(value)),
            Some(Known::Gone) => Ok(None),
            None => match view.get(object, space, key).map_err(of(object))? {
                Stored::Value(value) => Ok(Some(value)),
                Stored::Nothing => Ok(None),
                Stored::Damaged => Err(ReadError::Damaged { object }),
            },
        }
    }

    fn scan(
        &self,
        object: ObjectKey,
        space: Space,
        range: Range<'_>,
        direction: Direction,
        limit: Limit,
    ) -> Result<Page<(Bytes, Bytes)>, ReadError> {
        self.readable(object)?;
        let page = Page { entries: Vec::new(), more: false };
        if is_empty(range) {
            return Ok(page);
        }
        let shard = self.table.shard(&object);
        // One value more than asked for, so that it is known whether there is more.
        let overlay = overlay(&shard, &object, space, range, direction, limit.entries.saturating_add(1));
        let view = self.engine.view();
        drop(shard);
        let mut over = overlay.entries.into_iter().peekable();
        let mut gathered = Gathered { page, limit, bytes: 0 };
        let (mut damaged, mut full) = (false, false);
        let before = |a: &Bytes, b: &Bytes| match direction {
            Direction::Forward => a < b,
            Direction::Backward => a > b,
        };
        if !overlay.hides_engine {
            view.scan(object, space, range, direction, |key, stored| {
                while let Some((first, value)) = over.next_if(|(first, _)| before(first, &key)) {
                    if value.is_some_and(|value| !gathered.take(first, value)) {
                        full = true;
                        return false;
                    }
                }
                let goes_on = match (over.next_if(|(first, _)| *first == key), stored) {
                    (Some((_, value)), _) => value.is_none_or(|value| gathered.take(key, value)),
                    (None, Stored::Value(value)) => gathered.take(key, value),
                    (None, Stored::Nothing) => true,
                    (None, Stored::Damaged) => {
                        damaged = true;
                        false
                    }
                };
                full |= !goes_on;
                goes_on
            })
            .map_err(of(object))?;
        }
        if damaged {
            return Err(ReadError::Damaged { object });
        }
        if !full {
            for (key, value) in over {
                if value.is_some_and(|value| !gathered.take(key, value)) {
                    break;
                }
            }
        }
        Ok(gathered.page)
    }

    fn size(&self, object: ObjectKey) -> Result<Size, ReadError> {
        self.readable(object)?;
        let mut shard = self.table.shard(&object);
        if let Some(size) = shard.lives.get(&object).and_then(|live| live.size) {
            return Ok(size);
        }
        // The shard stays locked: nothing may be submitted while what was submitted is counted.
        let size = self.count(&shard, object)?;
        if let Some(live) = shard.lives.get_mut(&object) {
            live.size = Some(size);
        }
        Ok(size)
    }

    fn count(&self, shard: &Shard, object: ObjectKey) -> Result<Size, ReadError> {
        let all = (Bound::Unbounded, Bound::Unbounded);
        let overlay = overlay(shard, &object, Space::User, all, Direction::Forward, usize::MAX);
        let view = self.engine.view();
        let mut size = Size::default();
        if !overlay.hides_engine
            && let Some(row) = view.row(object).map_err(of(object))?
        {
            size = Size { keys: row.user_keys, bytes: row.user_bytes };
        }
        for (key, value) in overlay.entries {
            let old = match overlay.hides_engine {
                true => None,
                false => view.len_of(object, Space::User, &key).map_err(of(object))?,
            };
            size.replace(&key, old, value.map(|value| value.len()));
        }
        Ok(size)
    }

    /// The size of an object after a batch that is being submitted, if the size before it is known.
    pub(crate) fn size_after(&self, shard: &Shard, object: ObjectKey, body: &Body) -> Option<Size> {
        let mut size = shard.lives.get(&object)?.size?;
        let Body::Effects { effects, .. } = body else { return Some(Size::default()) };
        let view = self.engine.view();
        let mut here: HashMap<&[u8], Option<usize>> = HashMap::new();
        let mut cleared = false;
        for effect in effects.iter().filter(|effect| effect.space() == Space::User) {
            let (key, new) = match effect {
                Effect::Put { key, value, .. } => (key, Some(value.len())),
                Effect::Delete { key, .. } => (key, None),
                Effect::Clear { .. } => {
                    (size, cleared) = (Size::default(), true);
                    here.clear();
                    continue;
                }
            };
            let old = match here.insert(key, new) {
                Some(old) => old,
                None if cleared => None,
                None => match known_of(shard, &object, Space::User, key) {
                    Some(Known::Value(value)) => Some(value.len()),
                    Some(Known::Gone) => None,
                    None => view.len_of(object, Space::User, key).ok()?,
                },
            };
            size.replace(key, old, new);
        }
        Some(size)
    }

    fn row(&self, object: ObjectKey) -> Result<Option<Row>, ReadError> {
        let shard = self.table.shard(&object);
        let stored = self.engine.view().row(object).map_err(of(object))?;
        Ok(layered_row(stored, [shard.frozen.get(&object), shard.active.get(&object)]))
    }

    fn list(
        &self,
        scope: Scope,
        after: Option<ObjectKey>,
        limit: usize,
    ) -> Result<Page<(ObjectKey, Row)>, ReadError> {
        // Objects that are not in the engine yet are few: what is new since the last step.
        let mut fresh: BTreeMap<ObjectKey, [Option<Layer>; 2]> = BTreeMap::new();
        let wanted = |object: &ObjectKey| object.scope == scope && after.is_none_or(|after| *object > after);
        for shard in self.table.shards() {
            for (at, layers) in [&*shard.frozen, &shard.active].into_iter().enumerate() {
                for (object, layer) in layers.iter().filter(|(object, _)| wanted(object)) {
                    fresh.entry(*object).or_default()[at] = Some(layer.outline());
                }
            }
        }
        let view = self.engine.view();
        let mut rows = BTreeMap::new();
        let mut first = [0; ObjectKey::LEN];
        first[..16].copy_from_slice(scope.as_bytes());
        let from = after.map_or(Bound::Included(first), |after| Bound::Excluded(after.to_bytes()));
        let mut present = 0;
        view.rows(from, |object, row| {
            let Some(row) = row else { return true };
            if object.scope != scope || present > limit {
                return false;
            }
            let gone = |layers: &[Option<Layer>; 2]| {
                layered_row(Some(row), layers.each_ref().map(Option::as_ref)).is_some_and(|row| !listed(&row))
            };
            let counts = fresh.get(&object).map_or(listed(&row), |layers| !gone(layers));
            present += usize::from(counts);
            rows.insert(object, row);
            true
        })?;
        // Beyond the last row that was read the engine may have others between the fresh ones.
        let horizon = (present > limit).then(|| rows.keys().next_back().copied()).flatten();
        for (object, layers) in fresh {
            if horizon.is_some_and(|horizon| object > horizon) {
                break;
            }
            let row = layered_row(rows.get(&object).copied(), layers.each_ref().map(Option::as_ref));
            rows.extend(row.map(|row| (object, row)));
        }
        let mut entries: Vec<_> =
            rows.into_iter().filter(|(_, row)| listed(row)).take(limit.saturating_add(1)).collect();
        let more = entries.len() > limit;
        entries.truncate(limit);
        Ok(Page { entries, more })
    }
}

fn listed(row: &Row) -> bool {
    row.status != ObjectStatus::Removed
}

impl Store {
    /// The value of a key.
    pub fn get(&self, object: ObjectKey, space: Space, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.inner.get(object, space, key)
    }

    /// The entries of a range of keys, in order.
    pub fn scan(
        &self,
        object: ObjectKey,
        space: Space,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        direction: Direction,
        limit: Limit,
    ) -> Result<Page<(Bytes, Bytes)>, ReadError> {
        self.inner.scan(object, space, range, direction, limit)
    }

    /// How much the object has in its user space, with what was submitted. The first time it takes a look-up for each key
    /// that was written since the engine's last step; then, until its owner ends, one for each effect that is submitted.
    pub fn size(&self, object: ObjectKey) -> Result<Size, ReadError> {
        self.inner.size(object)
    }

    /// What is kept of the object beside its state, as committed. Its size is that of the engine's last step; see
    /// [`Self::size`].
    pub fn row(&self, object: ObjectKey) -> Result<Option<Row>, ReadError> {
        self.inner.row(object)
    }

    /// The committed objects of a scope that are not removed, in the order of their ids, after one of them.
    pub fn list(
        &self,
        scope: Scope,
        after: Option<ObjectKey>,
        limit: usize,
    ) -> Result<Page<(ObjectKey, Row)>, ReadError> {
        self.inner.list(scope, after, limit)
    }

    /// The first committed alarms that are due.
    pub fn due_alarms(&self, until_ms: u64, limit: usize) -> Result<Vec<Alarm>, ReadError> {
        let board = lock(&self.inner.board);
        Ok(board.due(&self.inner.engine.view(), until_ms, limit)?)
    }

    /// The next committed alarm.
    pub fn next_alarm(&self) -> Result<Option<Alarm>, ReadError> {
        Ok(self.due_alarms(u64::MAX, 1)?.pop())
    }

    /// The objects of which something is lost: they are refused until they are removed or imported.
    #[must_use]
    pub fn damaged(&self) -> Vec<ObjectKey> {
        self.inner.damaged.read().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}
