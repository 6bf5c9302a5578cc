//! What is told of objects: by class from the store, and of one, where it lives and why.

use berth_protocol::object::{ObjectId, ObjectKey};
use berth_protocol::ownership::Berth;
use berth_protocol::record::Space;
use berth_store::{ReadError, Row, Store};
use serde::Serialize;

use super::Objects;
use super::start::NAME_KEY;
use crate::zones::{Class, Hosts, Zone};

/// An object in a list.
#[derive(Debug, Serialize)]
pub(crate) struct Told {
    id: String,
    zone: String,
    class: String,
    name: Option<String>,
    bytes: u64,
    keys: u64,
    epoch: u64,
    seq: u64,
    created_ms: u64,
    written_ms: u64,
    core: Option<u8>,
    /// Something of it is lost: it is refused. Its name and size cannot be told.
    damaged: bool,
}

/// One object.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    #[serde(flatten)]
    object: Told,
    state: &'static str,
    why: String,
    /// WebSockets that are open or about to be.
    sockets: usize,
    /// Messages whose turns began since the instance was made, and the hops that they made; nothing, if there is none.
    messages: Option<u64>,
    hops: Option<u64>,
}

/// Which objects are wanted.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Of this zone only.
    pub(crate) zone: Option<String>,
    /// Of this class only.
    pub(crate) class: Option<String>,
    /// Those after this one.
    pub(crate) after: Option<ObjectId>,
    /// At most so many.
    pub(crate) limit: usize,
}

impl Objects {
    /// The objects that have stored something, class by class. Whether there are more.
    pub(crate) fn list(&self, hosts: &Hosts, wanted: &Wanted) -> Result<(Vec<Told>, bool), ReadError> {
        let mut told = Vec::new();
        let Some(opened) = self.opened() else { return Ok((told, false)) };
        let is_wanted = |wish: &Option<String>, name: &str| wish.as_ref().is_none_or(|wish| wish == name);
        for (zone, class) in hosts.classes() {
            if !is_wanted(&wanted.zone, &zone.name) || !is_wanted(&wanted.class, &class.code.name) {
                continue;
            }
            let after = wanted.after.map(|id| ObjectKey { scope: class.scope, id });
            let page = opened.store.list(class.scope, after, wanted.limit - told.len())?;
            for (object, row) in page.entries {
                told.push(self.tell(&opened.store, zone, class, object, Some(row))?);
            }
            if page.more || told.len() == wanted.limit {
                return Ok((told, true));
            }
        }
        Ok((told, false))
    }

    /// The object of this id, of whichever class.
    pub(crate) fn show(&self, hosts: &Hosts, id: ObjectId) -> Result<Option<Shown>, ReadError> {
        let Some(object) = self.find(hosts, id)? else { return Ok(None) };
        let (Some(opened), Some((zone, class))) = (self.opened(), hosts.class(&object.scope)) else {
            return Ok(None);
        };
        let row = opened.store.row(object)?;
        let told = self.tell(&opened.store, &zone, &class, object, row)?;
        let berth = self.berths.find(&object);
        let state = match berth {
            Berth::Absent { .. } => "absent",
            Berth::Starting { .. } => "starting",
            Berth::Held { .. } => "held",
            Berth::Moving { .. } => "moving",
            Berth::Abdicating { .. } => "abdicating",
        };
        let here = berth.core().and_then(|core| self.here(object, core));
        let tallied = here.as_ref().and_then(|here| here.tallied);
        let why = here.map_or_else(
            || "no instance lives: its next message starts one on the core where it arrives".to_owned(),
            |here| here.why,
        );
        let (messages, hops) = (tallied.map(|tallied| tallied.messages), tallied.map(|tallied| tallied.hops));
        let sockets = self.sockets.count(&object);
        Ok(Some(Shown { object: told, state, why, sockets, messages, hops }))
    }

    /// The key of the object with this id: one that has stored something, or lives.
    pub(crate) fn find(&self, hosts: &Hosts, id: ObjectId) -> Result<Option<ObjectKey>, ReadError> {
        let Some(opened) = self.opened() else { return Ok(None) };
        for (_, class) in hosts.classes() {
            let object = ObjectKey { scope: class.scope, id };
            if self.berths.find(&object).core().is_some() || opened.store.row(object)?.is_some() {
                return Ok(Some(object));
            }
        }
        Ok(None)
    }

    fn tell(
        &self,
        store: &Store,
        zone: &Zone,
        class: &Class,
        object: ObjectKey,
        row: Option<Row>,
    ) -> Result<Told, ReadError> {
        let name = unless_damaged(store.get(object, Space::Meta, NAME_KEY))?;
        let size = unless_damaged(store.size(object))?;
        let damaged = name.is_none() || size.is_none();
        let (name, size) = (name.flatten(), size.unwrap_or_default());
        Ok(Told {
            id: object.id.to_string(),
            zone: zone.name.clone(),
            class: class.code.name.clone(),
            name: name.map(|name| String::from_utf8_lossy(&name).into_owned()),
            bytes: size.bytes,
            keys: size.keys,
            epoch: row.map_or(0, |row| row.owner.epoch.0),
            seq: row.map_or(0, |row| row.owner.seq.0),
            created_ms: row.map_or(0, |row| row.created_ms),
            written_ms: row.map_or(0, |row| row.written_ms),
            core: self.berths.find(&object).core().map(|core| core.0),
            damaged,
        })
    }
}

/// What was read; nothing, if it is the object that is damaged: all others are told for all that.
fn unless_damaged<T>(read: Result<T, ReadError>) -> Result<Option<T>, ReadError> {
    match read {
        Err(ReadError::Damaged { .. }) => Ok(None),
        read => read.map(Some),
    }
}
