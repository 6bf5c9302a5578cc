//! Objects as files: one that leaves, and one that comes, also in the place of one that lives here.
//!
//! What comes is written by an owner of its own, whose epoch is above all before, while the object is held
//! ([`super::hold`]): no instance has read what was there, and none starts before the new state is durable. It is one
//! record, so that it is there wholly or not at all.
//!
//! An id that is made of a name has the node's own key in it. So an object with a name gets here the id to which its name
//! leads here, whatever its id was where it comes from.

use std::io::Write;

use berth_isolate_host::object::{ALARM_ID_MAX, ALARM_PAYLOAD_MAX, ALARMS_MAX, CommitError};
use berth_protocol::object::{Epoch, IdKind, ObjectId, ObjectKey, Seq};
use berth_protocol::record::{ALARM_DUE_LEN, Effect, Space};
use berth_store::{ExportError, Import, Label, ObjectStatus, ReadError, Refused, Store, Submission};
use bytes::Bytes;
use serde::Serialize;

use super::orders::NotDone;
use super::start::NAME_KEY;
use super::storage::GROUP;
use super::{Objects, Opened};
use crate::clock;
use crate::workers::wait;
use crate::zones::Hosts;

/// An object that came from a file.
#[derive(Debug, Serialize)]
pub(crate) struct Imported {
    id: String,
    zone: String,
    class: String,
    name: Option<String>,
    bytes: u64,
    keys: u64,
    epoch: u64,
    replaced: bool,
}

/// Why an object is not exported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotExported {
    /// Nobody knows it.
    #[error("there is no object {0} that has stored something; `berth objects list` shows them")]
    Unknown(ObjectId),
    /// The store cannot say whether it is there.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It cannot be read, or nobody takes it.
    #[error(transparent)]
    Export(ExportError),
}

/// Why an object is not imported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotImported {
    /// The file.
    #[error(transparent)]
    File(#[from] ExportError),
    /// What is in the file.
    #[error("the file has what no object stores: {0}")]
    Contents(&'static str),
    /// Nobody could be its guest.
    #[error("zone {zone} has no class {class} on this node: deploy it, then import the object")]
    NoClass {
        /// The zone of the file.
        zone: String,
        /// The class of the file.
        class: String,
    },
    /// The class may not store so much.
    #[error("it stores {bytes} bytes, and an object of this class {most} at most (`limits.storage`)")]
    Quota {
        /// What it has.
        bytes: u64,
        /// What it may have.
        most: u64,
    },
    /// It is here.
    #[error("object {0} is here already and stays as it is; `--replace` puts this one in its place")]
    Exists(ObjectId),
    /// It is not to be had.
    #[error(transparent)]
    Held(#[from] NotDone),
    /// There is no store.
    #[error("the objects of this node are not open; its log says why")]
    Closed,
    /// The store cannot say whether it is there.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store does not take it.
    #[error("the store does not take it")]
    Refused(#[from] Refused),
    /// It did not become durable.
    #[error("it did not become durable, and is not here: {}", .0.0)]
    Commit(CommitError),
}

/// What the effects of an import make, as far as somebody asks.
#[derive(Debug, Default, PartialEq, Eq)]
struct Contents {
    name: Option<String>,
    bytes: u64,
    keys: u64,
}

impl Contents {
    /// Looks at all of them: what no guest could have stored is no object's.
    fn of(effects: &[Effect]) -> Result<Self, &'static str> {
        let (mut contents, mut alarms) = (Self::default(), 0);
        for effect in effects {
            let Effect::Put { space, key, value } = effect else { continue };
            match space {
                Space::User if key.is_empty() => return Err("an empty key"),
                Space::User => {
                    contents.keys += 1;
                    contents.bytes += (key.len() + value.len()) as u64;
                }
                Space::Meta if **key == *NAME_KEY => {
                    let name = std::str::from_utf8(value).map_err(|_| "a name that is no text")?;
                    contents.name = Some(name.to_owned());
                }
                Space::Alarm if key.is_empty() || key.len() > ALARM_ID_MAX => return Err("an alarm's id"),
                Space::Alarm if value.len() > ALARM_DUE_LEN + ALARM_PAYLOAD_MAX => {
                    return Err("an alarm's payload");
                }
                Space::Alarm => alarms += 1,
                Space::Meta | Space::Reply => {}
            }
        }
        if alarms > ALARMS_MAX { Err("too many alarms") } else { Ok(contents) }
    }
}

/// Which object it is here.
fn object_here(id_key: &[u8; 32], key: ObjectKey, label: &Label, name: Option<&str>) -> ObjectKey {
    match (key.id.kind(), name) {
        (IdKind::Named, Some(name)) => {
            ObjectKey { id: ObjectId::named(id_key, &label.zone, &label.class, name), ..key }
        }
        _ => key,
    }
}

/// What the store has of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Something,
    /// And a part of it is lost.
    Damaged,
}

fn look(store: &Store, object: ObjectKey) -> Result<Found, ReadError> {
    if store.damaged().contains(&object) {
        return Ok(Found::Damaged);
    }
    Ok(match store.row(object)?.map(|row| row.status) {
        None | Some(ObjectStatus::Removed) => Found::Nothing,
        Some(ObjectStatus::Present) => Found::Something,
        Some(ObjectStatus::Damaged) => Found::Damaged,
    })
}

impl Objects {
    /// Writes the object of this id, as it is after some turn, as a file. It waits for the disk: not for a core.
    pub(crate) fn export(&self, hosts: &Hosts, id: ObjectId, out: &mut dyn Write) -> Result<(), NotExported> {
        let unknown = NotExported::Unknown(id);
        let Some(object) = self.find(hosts, id)? else { return Err(unknown) };
        let (Some(opened), Some((zone, class))) = (self.opened(), hosts.class(&object.scope)) else {
            return Err(unknown);
        };
        let label = Label { zone: zone.name.clone(), class: class.code.name.clone() };
        opened.store.export(object, &label, out).map_err(|error| match error {
            ExportError::Missing { .. } => unknown,
            other => NotExported::Export(other),
        })
    }

    /// Takes an object from a file. It waits for the object's turn and for the disk: not for a core.
    pub(crate) fn import(
        &self,
        hosts: &Hosts,
        import: Import,
        replace: bool,
    ) -> Result<Imported, NotImported> {
        let Import { key, label, effects } = import;
        let (Some((_, class)), Some(opened)) = (hosts.class(&key.scope), self.opened()) else {
            let Label { zone, class } = label;
            return Err(match hosts.class(&key.scope) {
                Some(_) => NotImported::Closed,
                None => NotImported::NoClass { zone, class },
            });
        };
        let contents = Contents::of(&effects).map_err(NotImported::Contents)?;
        if contents.bytes > class.storage {
            return Err(NotImported::Quota { bytes: contents.bytes, most: class.storage });
        }
        let object = object_here(&opened.id_key, key, &label, contents.name.as_deref());
        let may_be_written = |found| match found {
            Found::Something | Found::Damaged if !replace => Err(NotImported::Exists(object.id)),
            found => Ok(found),
        };
        // Before anything is ended for it; what is there may still change.
        may_be_written(look(&opened.store, object)?)?;
        let held = self.hold(object, contents.name.as_deref())?;
        let found = may_be_written(look(&opened.store, object)?)?;
        let epoch = write_over(opened, object, found, effects)?;
        drop(held);
        self.alarm_set.notify_one();
        Ok(Imported {
            id: object.id.to_string(),
            zone: label.zone,
            class: label.class,
            name: contents.name,
            bytes: contents.bytes,
            keys: contents.keys,
            epoch: epoch.0,
            replaced: found != Found::Nothing,
        })
    }
}

/// An epoch of an object that somebody writes over.
struct Epochs<'a> {
    store: &'a Store,
    object: ObjectKey,
    epoch: Epoch,
}

impl Drop for Epochs<'_> {
    fn drop(&mut self) {
        self.store.end_epoch(self.object, self.epoch);
    }
}

/// Writes an object that is held over, durably.
fn write_over(
    opened: &Opened,
    object: ObjectKey,
    found: Found,
    effects: Vec<Effect>,
) -> Result<Epoch, NotImported> {
    let store = &opened.store;
    let entry = opened.gate.open();
    let epoch = store.begin_epoch(object)?;
    let _ends = Epochs { store, object, epoch };
    let mut submission = Submission {
        listener: opened.listener,
        ticket: entry.number,
        group: GROUP,
        key: object,
        owner: (epoch, Seq(1)),
        at_ms: clock::now_ms(),
        effects: Vec::new(),
    };
    if found == Found::Damaged {
        store.remove(&submission)?;
        wait(entry.written()).map_err(NotImported::Commit)?;
        submission.owner.1 = Seq(2);
    }
    submission.effects = effects;
    store.submit(submission)?;
    wait(entry.written()).map_err(NotImported::Commit)?;
    Ok(epoch)
}

/// The file of an object, read.
pub(crate) fn read(file: &Bytes) -> Result<Import, NotImported> {
    Ok(berth_store::import(&file[..])?)
}

#[cfg(test)]
mod tests {
    use berth_protocol::object::{Scope, Slot};

    use super::*;

    fn put(space: Space, key: &[u8], value: &[u8]) -> Effect {
        Effect::Put { space, key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) }
    }

    #[test]
    fn what_no_guest_could_have_stored_is_no_objects() {
        let good = [
            Effect::Clear { space: Space::User },
            put(Space::User, b"key", b"value"),
            put(Space::User, b"k", b""),
            put(Space::Meta, NAME_KEY, b"ada"),
            put(Space::Meta, b"of a later program", b"\xff"),
            put(Space::Alarm, b"a", &[0; 8]),
        ];
        let contents = Contents { name: Some("ada".to_owned()), bytes: 9, keys: 2 };
        assert_eq!(Contents::of(&good), Ok(contents));
        let many: Vec<Effect> =
            (0..=ALARMS_MAX as u64).map(|n| put(Space::Alarm, &n.to_be_bytes(), &[0; 8])).collect();
        assert!(Contents::of(&many[1..]).is_ok());
        let large = vec![0; ALARM_DUE_LEN + ALARM_PAYLOAD_MAX + 1];
        for bad in [
            many,
            vec![put(Space::User, b"", b"value")],
            vec![put(Space::Meta, NAME_KEY, b"\xff")],
            vec![put(Space::Alarm, b"", &[0; 8])],
            vec![put(Space::Alarm, &[b'x'; ALARM_ID_MAX + 1], &[0; 8])],
            vec![put(Space::Alarm, b"a", &large)],
        ] {
            assert!(Contents::of(&bad).is_err(), "{:?}", bad.last());
        }
    }

    #[test]
    fn a_name_decides_which_object_it_is_here_and_no_name_lets_it_be_what_it_was() {
        let label = Label { zone: "shop".to_owned(), class: "Cart".to_owned() };
        let (here, there) = ([1; 32], [2; 32]);
        let scope = Scope::new("shop", "Cart");
        let named = |key| ObjectKey { scope, id: ObjectId::named(key, "shop", "Cart", "ada") };
        assert_eq!(object_here(&here, named(&there), &label, Some("ada")), named(&here));
        assert_eq!(object_here(&there, named(&there), &label, Some("ada")), named(&there));
        assert_eq!(object_here(&here, named(&there), &label, None), named(&there));
        let random = ObjectKey { scope, id: ObjectId::random(Slot(1), [3; 13]) };
        assert_eq!(object_here(&here, random, &label, Some("ada")), random);
    }
}
