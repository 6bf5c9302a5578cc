//! Snapshots of a store that goes on, restoring them, kills on the way, and single objects as files.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test fail as it does")]

mod common;

use std::io::ErrorKind;
use std::sync::Arc;

use berth_protocol::object::{Epoch, Seq};
use berth_protocol::record::{Effect, Space};
use berth_store::disk::{Disk, FakeDisk};
use berth_store::{
    ExportError, Label, Lead, SnapshotError, Store, StoreId, import, newest_snapshot, restore,
};
use common::*;

const BESIDE: &[u8] = b"kept with it";

/// Whose the objects of these tests are.
fn label() -> Label {
    Label { zone: "example.com".to_owned(), class: "Room".to_owned() }
}

fn filled(disk: &FakeDisk) -> Store {
    let store = start(disk);
    for n in 0..5 {
        write(&store, n, vec![vec![put("a", "one"), put("b", &"x".repeat(3000))], vec![delete("a")]]);
    }
    let alarm = Effect::alarm(bytes("wake"), 5000, b"");
    let reply = Effect::Put { space: Space::Reply, key: bytes("r"), value: bytes("answer") };
    write(&store, 1, vec![vec![alarm, reply]]);
    store
}

fn restored(folder: &FakeDisk) -> Store {
    let snapshot = newest_snapshot(folder).unwrap().unwrap();
    let disk = FakeDisk::new();
    restore(folder, &snapshot, &disk, StoreId([8; 16])).unwrap();
    let store = open(&disk).unwrap();
    assert_eq!(store.id(), StoreId([8; 16]));
    store
}

#[test]
fn a_snapshot_has_what_was_committed_and_nothing_that_came_later() {
    let (disk, folder) = (FakeDisk::new(), FakeDisk::new());
    let store = filled(&disk);
    let snapshot = store.snapshot(&folder, BESIDE).unwrap();
    assert_eq!((snapshot.number, snapshot.groups[0]), (1, (GROUP, store.committed(GROUP))));
    assert_eq!(newest_snapshot(&folder).unwrap().unwrap().beside, BESIDE);
    let before: Vec<Model> = (0..5).map(|n| contents(&store, n)).collect();
    write(&store, 2, vec![vec![clear()]]);
    let restored = restored(&folder);
    let after: Vec<Model> = (0..5).map(|n| contents(&restored, n)).collect();
    assert_eq!(before, after);
    assert_eq!(restored.get(object(1), Space::Reply, b"r").unwrap(), Some(bytes("answer")));
    assert_eq!(restored.next_alarm().unwrap().unwrap().due_ms, 5000);
    assert_eq!(restored.committed(GROUP), snapshot.groups[0].1);
    assert_eq!(restored.row(object(1)).unwrap(), store.row(object(1)).unwrap());
    restored.lead(GROUP, Lead::Next).unwrap();
    assert!(write(&restored, 2, vec![vec![put("k", "goes on")]])[0].outcome.is_ok());
    assert!(matches!(restored.snapshot(&folder, BESIDE), Err(SnapshotError::Foreign)));
    assert_eq!(store.snapshot(&folder, BESIDE).unwrap().number, 2);
}

#[test]
fn a_snapshot_that_finds_no_room_leaves_nothing_and_the_store_goes_on() {
    let (disk, folder) = (FakeDisk::new(), FakeDisk::new());
    let store = filled(&disk);
    store.snapshot(&folder, BESIDE).unwrap();
    let (before, found) = (folder.list().unwrap(), contents(&store, 2));
    let mut refused = 0;
    for writes in 0..20 {
        folder.faults(|faults| faults.failing_writes = 1 + writes);
        refused += u32::from(store.snapshot(&folder, BESIDE).is_err());
        folder.faults(|faults| faults.failing_writes = 0);
    }
    assert_eq!((refused, folder.list().unwrap()), (20, before));
    let used = newest_snapshot(&folder).unwrap().unwrap().bytes;
    folder.faults(|faults| faults.capacity = Some(2 * used));
    let full = store.snapshot(&folder, BESIDE).unwrap_err();
    assert!(
        matches!(&full, SnapshotError::Disk(error) if error.kind() == ErrorKind::StorageFull),
        "{full:?}"
    );
    assert!(write(&store, 3, vec![vec![put("k", "goes on")]])[0].outcome.is_ok());
    assert_eq!(contents(&restored(&folder), 2), found);
    folder.faults(|faults| faults.capacity = None);
    assert_eq!(store.snapshot(&folder, BESIDE).unwrap().number, 2);
}

#[test]
fn a_snapshot_that_was_killed_does_not_count_and_does_not_hinder_the_next_one() {
    let mut killed = 0;
    for calls in 0..80 {
        let (disk, folder) = (FakeDisk::new(), FakeDisk::new());
        let store = filled(&disk);
        store.snapshot(&folder, BESIDE).unwrap();
        let first = contents(&store, 2);
        write(&store, 2, vec![vec![put("new", "value")]]);
        let second = contents(&store, 2);
        folder.faults(|faults| faults.calls_left = Some(calls));
        let made = store.snapshot(&folder, BESIDE).is_ok();
        folder.power_cut(calls);
        let found = contents(&restored(&folder), 2);
        assert!(found == second || (!made && found == first), "killed after {calls} calls");
        killed += u32::from(!made);
        store.snapshot(&folder, BESIDE).unwrap();
        assert_eq!(contents(&restored(&folder), 2), second);
    }
    assert!((5..80).contains(&killed), "{killed} of 80 were killed");
}

#[test]
fn a_damaged_snapshot_is_refused_and_leaves_no_store() {
    let (disk, folder) = (FakeDisk::new(), FakeDisk::new());
    let snapshot = filled(&disk).snapshot(&folder, BESIDE).unwrap();
    let name = folder.list().unwrap().into_iter().find(|name| name.starts_with("snapshot-")).unwrap();
    folder.flip(&name, 700, 1);
    let target = FakeDisk::new();
    let error = restore(&folder, &snapshot, &target, StoreId([8; 16])).unwrap_err();
    assert!(matches!(&error, SnapshotError::File { file, .. } if *file == name), "{error:?}");
    assert!(!target.list().unwrap().contains(&"engine.redb".to_owned()));
    folder.flip(&name, 700, 1);
    restore(&folder, &snapshot, &target, StoreId([8; 16])).unwrap();
    let again = restore(&folder, &snapshot, &target, StoreId([8; 16]));
    assert!(matches!(again, Err(SnapshotError::Occupied)));
}

#[test]
fn an_object_goes_through_a_file_into_another_store() {
    let (disk, other) = (FakeDisk::new(), FakeDisk::new());
    let store = filled(&disk);
    let mut file = Vec::new();
    store.export(object(1), &label(), &mut file).unwrap();
    let target = start(&other);
    let came = import(&file[..]).unwrap();
    assert_eq!((came.key, came.label), (object(1), label()));
    write(&target, 1, vec![vec![put("old", "content")], came.effects]);
    assert_eq!(contents(&target, 1), contents(&store, 1));
    assert_eq!(target.get(object(1), Space::Reply, b"r").unwrap(), Some(bytes("answer")));
    assert_eq!(target.next_alarm().unwrap().unwrap().object, object(1));
    assert!(matches!(store.export(object(99), &label(), &mut Vec::new()), Err(ExportError::Missing { .. })));
}

#[test]
fn an_exported_object_with_any_bit_changed_or_any_byte_missing_is_refused() {
    let store = filled(&FakeDisk::new());
    let mut file = Vec::new();
    store.export(object(1), &label(), &mut file).unwrap();
    assert!(import(&file[..]).is_ok());
    for at in 0..file.len() {
        assert!(import(&file[..at]).is_err(), "cut off at {at}");
        for bit in 0..8 {
            let mut changed = file.clone();
            changed[at] ^= 1 << bit;
            assert!(import(&changed[..]).is_err(), "bit {bit} changed at {at}");
        }
    }
    let other = Label { class: "Hall".to_owned(), ..label() };
    let mut file = Vec::new();
    store.export(object(1), &other, &mut file).unwrap();
    assert!(import(&file[..]).is_err(), "its key is of another class");
}

#[test]
fn a_removed_object_is_gone_and_its_old_owner_is_still_refused() {
    let disk = FakeDisk::new();
    let store = filled(&disk);
    let (_, listener) = listen(&store);
    let epoch = store.begin_epoch(object(1)).unwrap();
    store.remove(&submission(listener, 1, epoch, 1, vec![])).unwrap();
    assert_eq!(contents(&store, 1), Model::new());
    while store.flush() {}
    store.end_epoch(object(1), epoch);
    for applied in [false, true] {
        if applied {
            store.apply().unwrap();
        }
        assert_eq!(store.next_alarm().unwrap(), None);
        let listed = store.list(scope(), None, 100).unwrap().entries;
        assert_eq!(listed.len(), 4);
        assert!(listed.iter().all(|(key, _)| *key != object(1)));
        let old = store.submit(submission(listener, 1, Epoch(1), 1, vec![]));
        assert!(matches!(old, Err(berth_store::Refused::Fenced { .. })));
    }
    write(&store, 1, vec![vec![put("new", "life")]]);
    store.apply().unwrap();
    let row = store.row(object(1)).unwrap().unwrap();
    assert_eq!((row.owner.seq, row.user_keys, row.user_bytes), (Seq(1), 1, 7));
    assert_eq!(store.list(scope(), None, 100).unwrap().entries.len(), 5);
}

#[test]
fn a_store_is_one_value_for_all_threads() {
    fn is_shared<T: Send + Sync + Clone + 'static>(_: &T) {}
    let disk: Arc<dyn Disk> = Arc::new(FakeDisk::new());
    is_shared(&Store::open(disk, config(), StoreId([1; 16])).unwrap());
}
