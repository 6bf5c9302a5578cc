//! What goes wrong short of a power cut: a full disk, a slow one, syncs that fail, bytes that change, files of another
//! version; and that trimming the log does not lose what is in it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test fail as it does")]

mod common;

use std::time::{Duration, Instant};

use berth_protocol::object::{Epoch, Seq};
use berth_protocol::record::Space;
use berth_store::disk::{Disk, FakeDisk, Open};
use berth_store::{CommitError, Config, Lead, ObjectStatus, OpenError, ReadError, Refused, Store};
use common::*;

fn outcomes(store: &Store, n: u8, texts: &[&str]) -> Vec<Result<(), CommitError>> {
    let batches = texts.iter().map(|text| vec![put("k", text)]).collect();
    write(store, n, batches).into_iter().map(|settled| settled.outcome.map(drop)).collect()
}

fn value(store: &Store, n: u8) -> Option<String> {
    let value = store.get(object(n), Space::User, b"k").unwrap()?;
    Some(String::from_utf8(value.to_vec()).unwrap())
}

fn segments(disk: &FakeDisk) -> Vec<String> {
    disk.list().unwrap().into_iter().filter(|name| name.starts_with("log-")).collect()
}

/// Where a text is in the files of the log.
fn find(disk: &FakeDisk, text: &str) -> (String, u64) {
    let found = segments(disk).into_iter().find_map(|name| {
        let bytes = disk.contents(&name).unwrap();
        let at = bytes.windows(text.len()).position(|window| window == text.as_bytes())?;
        Some((name, at as u64))
    });
    found.unwrap()
}

#[test]
fn a_full_disk_fails_what_does_not_fit_and_nothing_else_and_goes_on_when_there_is_room() {
    let disk = FakeDisk::new();
    let store = start(&disk);
    assert_eq!(outcomes(&store, 1, &["before"]), [Ok(())]);
    disk.faults(|faults| faults.capacity = Some(0));
    let large = "x".repeat(20 << 10);
    assert_eq!(outcomes(&store, 2, &[&large]), [Err(CommitError::Full)]);
    assert_eq!(value(&store, 2), None, "what failed is not read");
    assert_eq!(outcomes(&store, 1, &["fits in the room that is reserved"]), [Ok(())]);
    disk.faults(|faults| faults.capacity = None);
    assert_eq!(outcomes(&store, 2, &["after"]), [Ok(())]);
    drop(store);
    disk.power_cut(1);
    let store = open(&disk).unwrap();
    assert_eq!(value(&store, 1).as_deref(), Some("fits in the room that is reserved"));
    assert_eq!(value(&store, 2).as_deref(), Some("after"));
}

#[test]
fn a_write_that_fills_the_disk_halfway_is_taken_back_before_it_is_told() {
    for seed in 0..50 {
        let disk = FakeDisk::new();
        let store = start(&disk);
        assert_eq!(outcomes(&store, 1, &["before"]), [Ok(())]);
        disk.faults(|faults| (faults.failing_writes, faults.seed) = (1, seed));
        let full = Err(CommitError::Full);
        assert_eq!(outcomes(&store, 1, &["first half", "second half"]), [full, full]);
        match seed % 2 {
            0 => disk.kill(),
            _ => disk.power_cut(seed),
        }
        drop(store);
        let store = open(&disk).unwrap();
        assert_eq!(value(&store, 1).as_deref(), Some("before"), "seed {seed}");
        store.lead(GROUP, Lead::Next).unwrap();
        assert_eq!(outcomes(&store, 1, &["after"]), [Ok(())]);
    }
}

#[test]
fn an_engine_that_finds_the_disk_full_loses_nothing_and_goes_on_when_there_is_room() {
    let disk = FakeDisk::new();
    let store = start(&disk);
    for n in 0..20 {
        assert_eq!(outcomes(&store, n, &["x".repeat(9000).as_str()]), [Ok(())]);
    }
    disk.faults(|faults| faults.capacity = Some(0));
    assert!(store.apply().is_err());
    assert!(value(&store, 3).is_some(), "memory has it");
    assert_eq!(outcomes(&store, 3, &["small"]), [Ok(())]);
    disk.faults(|faults| faults.capacity = None);
    store.apply().unwrap();
    store.apply().unwrap();
    assert_eq!(store.figures().memory_bytes, 0, "all of it is in the engine");
    assert_eq!(value(&store, 3).as_deref(), Some("small"));
    drop(store);
    disk.power_cut(1);
    let store = open(&disk).unwrap();
    assert_eq!(value(&store, 3).as_deref(), Some("small"));
    assert_eq!(value(&store, 19).map(|value| value.len()), Some(9000));
}

#[test]
fn a_failed_sync_fails_its_flush_for_good_and_the_next_one_stands() {
    for seed in 0..50 {
        let disk = FakeDisk::new();
        let store = start(&disk);
        assert_eq!(outcomes(&store, 1, &["before"]), [Ok(())]);
        disk.faults(|faults| (faults.failing_syncs, faults.seed) = (1, seed));
        let failed = Err(CommitError::Failed);
        assert_eq!(outcomes(&store, 1, &["lost", "lost too"]), [failed, failed]);
        assert_eq!(value(&store, 1).as_deref(), Some("before"), "what failed is not read");
        if seed % 2 == 0 {
            assert_eq!(outcomes(&store, 2, &["after"]), [Ok(())]);
        }
        drop(store);
        disk.power_cut(seed);
        let store = open(&disk).unwrap();
        assert_eq!(store.damage(), []);
        assert_eq!(value(&store, 1).as_deref(), Some("before"), "it does not come back, seed {seed}");
        assert_eq!(value(&store, 2).is_some(), seed % 2 == 0);
    }
}

#[test]
fn two_failed_syncs_leave_a_fate_that_the_next_commit_decides() {
    let mut came_back = 0;
    for seed in 0..60 {
        let disk = FakeDisk::new();
        let store = start(&disk);
        assert_eq!(outcomes(&store, 1, &["before"]), [Ok(())]);
        disk.faults(|faults| (faults.failing_syncs, faults.seed) = (2, seed));
        assert_eq!(outcomes(&store, 1, &["unknown"]), [Err(CommitError::Unknown)]);
        let decided = seed % 2 == 0;
        if decided {
            assert_eq!(outcomes(&store, 2, &["after"]), [Ok(())]);
        }
        drop(store);
        disk.power_cut(seed);
        let store = open(&disk).unwrap();
        let found = value(&store, 1).unwrap();
        came_back += u32::from(found == "unknown");
        assert!(found == "before" || (!decided && found == "unknown"), "{found}, seed {seed}");
        assert_eq!(value(&store, 2).is_some(), decided);
    }
    assert!(came_back > 0, "it never came back: the fake disk is too kind");
}

#[test]
fn who_ran_ahead_of_a_failed_write_fails_with_it_until_a_new_epoch_begins() {
    let disk = FakeDisk::new();
    let store = start(&disk);
    let (told, listener) = listen(&store);
    let first = store.begin_epoch(object(1)).unwrap();
    disk.faults(|faults| faults.failing_syncs = 1);
    store.submit(submission(listener, 1, first, 1, vec![put("k", "a")])).unwrap();
    // The next owner has read what is about to fail.
    let second = store.begin_epoch(object(1)).unwrap();
    assert_eq!(value(&store, 1).as_deref(), Some("a"));
    store.submit(submission(listener, 2, Epoch(1), 1, vec![put("k", "other")])).unwrap();
    assert!(store.flush());
    let told_first = told.take();
    assert!(told_first.iter().all(|settled| settled.outcome.is_err()) && told_first.len() == 2);
    for epoch in [first, second] {
        let refused = store.submit(submission(listener, 1, epoch, 1, vec![])).unwrap_err();
        assert!(matches!(refused, Refused::Behind | Refused::Fenced { .. }), "{refused}");
    }
    let third = store.begin_epoch(object(1)).unwrap();
    assert!(third > second);
    assert_eq!(value(&store, 1), None);
    store.submit(submission(listener, 1, third, 1, vec![put("k", "b")])).unwrap();
    assert!(store.flush());
    assert!(told.take()[0].outcome.is_ok());
}

#[test]
fn what_is_queued_behind_a_failed_flush_is_not_written_though_the_disk_is_well_again() {
    let disk = FakeDisk::new();
    let store = open_with(&disk, Config { flush_bytes_max: 1, ..config() }).unwrap();
    store.lead(GROUP, Lead::Next).unwrap();
    let (told, listener) = listen(&store);
    for n in [1, 2] {
        for seq in [1, 2] {
            store.submit(submission(listener, n, Epoch(1), seq, vec![put("k", "v")])).unwrap();
        }
    }
    disk.faults(|faults| faults.failing_syncs = 1);
    while store.flush() {}
    let outcomes: Vec<_> = told.take().into_iter().map(|settled| settled.outcome.map(drop)).collect();
    assert_eq!(outcomes, [Err(CommitError::Failed), Err(CommitError::Behind), Ok(()), Ok(())]);
    assert_eq!((value(&store, 1), value(&store, 2).is_some()), (None, true));
}

#[test]
fn old_owners_gaps_and_strangers_are_refused_also_after_a_restart() {
    let disk = FakeDisk::new();
    let store = start(&disk);
    let (_, listener) = listen(&store);
    let try_it = |store: &Store, epoch, seq| store.submit(submission(listener, 1, Epoch(epoch), seq, vec![]));
    try_it(&store, 5, 1).unwrap();
    try_it(&store, 5, 2).unwrap();
    assert_eq!(try_it(&store, 4, 1), Err(Refused::Fenced { newest: Epoch(5) }));
    assert!(matches!(try_it(&store, 5, 2), Err(Refused::OutOfOrder { .. })), "twice");
    assert!(matches!(try_it(&store, 5, 4), Err(Refused::OutOfOrder { .. })), "a gap");
    assert!(matches!(try_it(&store, 6, 2), Err(Refused::OutOfOrder { .. })), "an epoch starts with 1");
    assert_eq!(store.begin_epoch(object(1)).unwrap(), Epoch(6));
    assert_eq!(try_it(&store, 5, 3), Err(Refused::Fenced { newest: Epoch(6) }), "it was given to another");
    assert_eq!(store.begin_epoch(object(1)).unwrap(), Epoch(7));
    while store.flush() {}
    for applied in [false, true] {
        let store = open(&disk_after_drop(&disk)).unwrap();
        let (_, listener) = listen(&store);
        let stranger = store.submit(submission(listener, 1, Epoch(6), 1, vec![]));
        assert_eq!(stranger, Err(Refused::NotLed { group: GROUP }));
        store.lead(GROUP, Lead::Next).unwrap();
        let old = store.submit(submission(listener, 1, Epoch(4), 1, vec![]));
        assert_eq!(old, Err(Refused::Fenced { newest: Epoch(5) }));
        assert_eq!(store.row(object(1)).unwrap().unwrap().owner.seq, Seq(2));
        assert_eq!(store.begin_epoch(object(1)).unwrap(), Epoch(6), "nothing was written in 6 and 7");
        if !applied {
            store.apply().unwrap();
        }
    }
}

fn disk_after_drop(disk: &FakeDisk) -> FakeDisk {
    disk.power_cut(3);
    disk.clone()
}

#[test]
fn a_changed_byte_of_the_log_costs_its_object_and_no_other() {
    // In the middle of the value, in the header before it (object, length), and in the frame's.
    for back in [0, 30, 60, 75, 85, 120, 140] {
        let disk = FakeDisk::new();
        let store = start(&disk);
        for (n, text) in [(1, "first"), (2, "the one that is hit"), (3, "third")] {
            assert_eq!(outcomes(&store, n, &[text]), [Ok(())]);
        }
        drop(store);
        let (name, at) = find(&disk, "the one that is hit");
        disk.flip(&name, at - back, 0x10);
        disk.power_cut(1);
        let store = open(&disk).unwrap();
        assert_eq!(store.damage().len(), 1, "{:?}", store.damage());
        assert_eq!(value(&store, 1).as_deref(), Some("first"));
        assert_eq!(value(&store, 3).as_deref(), Some("third"));
        let frame = back == 140;
        let told = store.damage()[0].object;
        assert_eq!(told, (!frame).then(|| object(2)), "{back} bytes before the value");
        if !frame {
            assert_hit(&store, &disk);
        }
    }
}

/// Object 2 is refused, also after restarts, until it is given up.
fn assert_hit(store: &Store, disk: &FakeDisk) {
    let read = store.get(object(2), Space::User, b"k");
    assert!(matches!(read, Err(ReadError::Damaged { object: hit }) if hit == object(2)));
    store.lead(GROUP, Lead::Next).unwrap();
    store.apply().unwrap();
    disk.power_cut(2);
    let store = start(disk);
    assert_eq!(store.damaged(), [object(2)]);
    let (told, listener) = listen(&store);
    let epoch = store.begin_epoch(object(2)).unwrap();
    assert!(epoch > Epoch(1), "the lost write is not forgotten");
    assert_eq!(store.submit(submission(listener, 2, epoch, 1, vec![])), Err(Refused::Damaged));
    store.remove(&submission(listener, 2, epoch, 1, vec![])).unwrap();
    store.submit(submission(listener, 2, epoch, 2, vec![put("k", "anew")])).unwrap();
    while store.flush() {}
    assert!(told.take().iter().all(|settled| settled.outcome.is_ok()));
    assert_eq!(value(&store, 2).as_deref(), Some("anew"));
    assert_eq!(store.damaged(), []);
}

/// A store whose engine has objects in many pages, of which one with this text in its value.
fn with_pages(disk: &FakeDisk, text: &str) -> Vec<usize> {
    let store = start(disk);
    for n in 0..60 {
        let value = if n == 30 { text.to_owned() } else { format!("{n} {}", "x".repeat(900)) };
        assert_eq!(outcomes(&store, n, &[&value]), [Ok(())]);
    }
    store.apply().unwrap();
    drop(store);
    let bytes = disk.contents("engine.redb").unwrap();
    (0..bytes.len() - text.len()).filter(|at| bytes[*at..].starts_with(text.as_bytes())).collect()
}

/// Reads all objects: how many are damaged, and whether the one that was hit is.
fn damaged_of(store: &Store) -> (usize, bool) {
    let mut damaged = Vec::new();
    for n in 0..60 {
        match store.get(object(n), Space::User, b"k") {
            Ok(Some(value)) if n == 30 => assert_eq!(value, "a value to be changed"),
            Ok(Some(value)) => assert!(value.starts_with(format!("{n} x").as_bytes())),
            Ok(None) => panic!("object {n} is missing without a word"),
            Err(ReadError::Damaged { object: hit }) => {
                assert_eq!(hit, object(n));
                damaged.push(n);
            }
            Err(error) => panic!("{error}"),
        }
    }
    (damaged.len(), damaged.contains(&30))
}

#[test]
fn a_changed_byte_of_the_engine_costs_what_is_in_its_page_and_is_never_given_out() {
    let text = "a value to be changed";
    let pages = {
        let disk = FakeDisk::new();
        with_pages(&disk, text);
        disk.contents("engine.redb").unwrap().len() / 4096
    };
    let mut hurt = 0;
    for page in 1..pages {
        let disk = FakeDisk::new();
        with_pages(&disk, text);
        for at in [0, 5, 100, 2000, 4095] {
            disk.flip("engine.redb", page as u64 * 4096 + at, 0x41);
        }
        // A page that is needed to open it is told there.
        let Ok(store) = open(&disk) else { continue };
        let (damaged, _) = damaged_of(&store);
        hurt += usize::from(damaged > 0);
        let row = store.row(object(30));
        assert!(row.is_err() || row.unwrap().is_some(), "a row is missing without a word");
    }
    assert!(hurt > 10, "only {hurt} of {pages} pages had something");
}

/// The worst that one bit can do: a key that is not found where it was.
#[test]
fn a_changed_key_in_the_engine_is_damage_and_not_a_key_that_is_not_there() {
    let disk = FakeDisk::new();
    with_pages(&disk, "a value to be changed");
    let bytes = disk.contents("engine.redb").unwrap();
    let key = [object(30).to_bytes().to_vec(), vec![0, b'k']].concat();
    let places: Vec<usize> =
        (0..bytes.len() - key.len()).filter(|at| bytes[*at..].starts_with(&key)).collect();
    assert!(!places.is_empty());
    places.iter().for_each(|at| disk.flip("engine.redb", *at as u64 + 33, 4));
    let (_, hit) = damaged_of(&open(&disk).unwrap());
    assert!(hit);
}

#[test]
fn a_value_that_is_not_what_was_stored_is_never_given_out_though_its_page_is_whole() {
    let text = "a value to be changed";
    let disk = FakeDisk::new();
    for at in with_pages(&disk, text) {
        disk.flip("engine.redb", at as u64 + 3, 1);
        let page = at / 4096;
        let bytes = disk.contents("engine.redb").unwrap();
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&(page as u64).to_le_bytes());
        hasher.update(&bytes[page * 4096..(page + 1) * 4096]);
        let sum = hasher.finalize().to_le_bytes();
        let old = disk.contents("engine.sums").unwrap();
        for (byte, new) in sum.iter().enumerate() {
            disk.flip("engine.sums", (page * 4 + byte) as u64, old[page * 4 + byte] ^ new);
        }
    }
    assert_eq!(damaged_of(&open(&disk).unwrap()), (1, true));
}

#[test]
fn a_torn_tail_is_cut_off_and_not_called_damage() {
    let disk = FakeDisk::new();
    let store = start(&disk);
    assert_eq!(outcomes(&store, 1, &["whole"]), [Ok(())]);
    assert_eq!(outcomes(&store, 2, &["torn off"]), [Ok(())]);
    disk.power_cut(1);
    drop(store);
    let (name, at) = find(&disk, "torn off");
    let file = Disk::open(&disk, &name, Open::Existing).unwrap();
    let len = file.len().unwrap();
    file.set_len(at + 3).unwrap();
    file.set_len(len).unwrap();
    file.sync_data().unwrap();
    let store = open(&disk).unwrap();
    assert_eq!(store.damage(), []);
    assert_eq!(value(&store, 1).as_deref(), Some("whole"));
    assert_eq!(value(&store, 2), None);
    store.lead(GROUP, Lead::Next).unwrap();
    assert_eq!(outcomes(&store, 2, &["again"]), [Ok(())]);
    drop(store);
    assert_eq!(value(&open(&disk).unwrap(), 2).as_deref(), Some("again"));
}

#[test]
fn files_of_another_version_are_refused_and_left_alone() {
    let disk = FakeDisk::new();
    let store = start(&disk);
    assert_eq!(outcomes(&store, 1, &["value"]), [Ok(())]);
    drop(store);
    let name = segments(&disk).pop().unwrap();
    let mut header = disk.contents(&name).unwrap()[..64].to_vec();
    header[8] = 2;
    let sum = crc32fast::hash(&header[..60]).to_le_bytes();
    header[60..].copy_from_slice(&sum);
    let file = Disk::open(&disk, &name, Open::Existing).unwrap();
    file.write_at(0, &header).unwrap();
    let before = disk.contents(&name);
    assert!(matches!(open(&disk), Err(OpenError::Version { found: 2, .. })));
    assert_eq!(disk.contents(&name), before);
}

#[test]
fn what_is_trimmed_is_in_the_engine_and_the_log_stays_small() {
    let disk = FakeDisk::new();
    let store = start(&disk);
    for round in 0..30 {
        for n in 0..4 {
            let text = format!("{round} {}", "x".repeat(1500));
            assert_eq!(outcomes(&store, n, &[&text]), [Ok(())]);
        }
        store.apply().unwrap();
        assert!(segments(&disk).len() <= 2, "{:?}", segments(&disk));
    }
    drop(store);
    disk.power_cut(1);
    let store = open(&disk).unwrap();
    for n in 0..4 {
        assert!(value(&store, n).unwrap().starts_with("29 "));
        let row = store.row(object(n)).unwrap().unwrap();
        assert_eq!((row.owner.epoch, row.status), (Epoch(30), ObjectStatus::Present));
    }
}

#[test]
fn a_missing_segment_or_engine_is_told_and_not_passed_over() {
    let disk = FakeDisk::new();
    let store = start(&disk);
    for n in 0..30 {
        assert_eq!(outcomes(&store, n, &["x".repeat(1500).as_str()]), [Ok(())]);
    }
    drop(store);
    let first = segments(&disk).remove(1);
    let kept = disk.contents(&first).unwrap();
    disk.remove(&first).unwrap();
    assert!(matches!(open(&disk), Err(OpenError::SegmentMissing { file }) if file == first));
    Disk::open(&disk, &first, Open::New).unwrap().write_at(0, &kept).unwrap();
    open(&disk).unwrap();
    disk.remove("engine.redb").unwrap();
    assert!(matches!(open(&disk), Err(OpenError::EngineMissing)));
}

fn slow_config() -> Config {
    Config { drive: berth_store::Drive::Threads, flush_bytes_max: 1 << 20, ..config() }
}

#[test]
fn a_slow_disk_gathers_writes_into_few_syncs() {
    let disk = FakeDisk::new();
    let store = open_with(&disk, slow_config()).unwrap();
    store.lead(GROUP, Lead::Next).unwrap();
    disk.faults(|faults| faults.sync_takes = Duration::from_millis(20));
    let (told, listener) = listen(&store);
    let before = store.figures().flushes;
    for n in 0..100 {
        for seq in 1..=5 {
            store.submit(submission(listener, n, Epoch(1), seq, vec![put("k", "v")])).unwrap();
        }
    }
    let mut all = Vec::new();
    let until = Instant::now() + Duration::from_secs(60);
    while all.len() < 500 {
        assert!(Instant::now() < until, "all but {} are told", 500 - all.len());
        std::thread::sleep(Duration::from_millis(5));
        all.extend(told.take());
    }
    assert!(all.iter().all(|settled| settled.outcome.is_ok()));
    assert!(store.figures().flushes - before < 50, "{:?}", store.figures());
    store.close().unwrap();
}

#[test]
fn a_full_queue_refuses_and_takes_again_when_it_is_emptied() {
    let disk = FakeDisk::new();
    let store = open_with(&disk, Config { queue_entries_max: 3, ..config() }).unwrap();
    store.lead(GROUP, Lead::Next).unwrap();
    let (told, listener) = listen(&store);
    let send = |seq| store.submit(submission(listener, 1, Epoch(1), seq, vec![put("k", "v")]));
    for seq in 1..=3 {
        send(seq).unwrap();
    }
    assert_eq!(send(4), Err(Refused::Busy));
    assert!(store.flush());
    send(4).unwrap();
    assert!(store.flush());
    assert_eq!(told.take().len(), 4);
}
