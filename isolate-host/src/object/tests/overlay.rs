//! Overlay and scan against a model: a map that is written to at once.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::overlay::{Growth, Overlay, Scan, Seen};
use crate::object::*;

type Entries = BTreeMap<Bytes, Bytes>;

#[derive(Debug, Clone)]
enum Write {
    Put(u8, usize),
    Delete(u8),
    Clear,
}

/// Few keys, so that they meet; one is the beginning of another.
fn key(number: u8) -> Bytes {
    match number % 12 {
        0 => Bytes::from_static(b"a"),
        1 => Bytes::from_static(b"a\0"),
        2 => Bytes::from_static(b"a\0b"),
        other => Bytes::from(vec![b'a' + other / 2, b'0' + other]),
    }
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        6 => (any::<u8>(), 0..40_usize).prop_map(|(key, bytes)| Write::Put(key, bytes)),
        3 => any::<u8>().prop_map(Write::Delete),
        1 => Just(Write::Clear),
    ]
}

fn page(entries: &Entries, range: &KeyRange, order: Order, count: usize) -> Page {
    let is_in = |key: &Bytes| {
        range.start.as_ref().is_none_or(|start| key >= start)
            && range.end.as_ref().is_none_or(|end| key < end)
    };
    let mut found: Vec<(Bytes, Bytes)> = entries
        .iter()
        .filter(|(key, _)| is_in(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if order == Order::Down {
        found.reverse();
    }
    let more = found.len() > count;
    found.truncate(count);
    Page { entries: found, more }
}

/// A whole scan, as the host does it, over pages of `count` entries below.
fn scan(
    overlay: &Overlay,
    below: &Entries,
    range: KeyRange,
    order: Order,
    most: PageMost,
    count: usize,
) -> Page {
    let mut scan = Scan::new(range, order, most);
    loop {
        let is_gone = overlay.is_cleared() || scan.is_void();
        let next = if is_gone {
            Page::default()
        } else {
            page(below, scan.rest(), order, count.min(scan.most().entries))
        };
        if scan.add(next, overlay) {
            return scan.finish();
        }
    }
}

/// The range that follows a page.
fn after(page: &Page, range: &KeyRange, order: Order) -> KeyRange {
    let last = page.entries.last().expect("a page that has more has entries").0.clone();
    match order {
        Order::Up => KeyRange { start: Some([&last[..], &[0]].concat().into()), end: range.end.clone() },
        Order::Down => KeyRange { start: range.start.clone(), end: Some(last) },
    }
}

fn bytes(entries: &Entries) -> i64 {
    entries.iter().map(|(key, value)| (key.len() + value.len()) as i64).sum()
}

fn apply(overlay: &mut Overlay, model: &mut Entries, write: &Write) {
    match write {
        Write::Put(number, len) => {
            let value = Bytes::from(vec![*number; *len]);
            overlay.write(key(*number), Some(value.clone()), None);
            model.insert(key(*number), value);
        }
        Write::Delete(number) => {
            overlay.write(key(*number), None, None);
            model.remove(&key(*number));
        }
        Write::Clear => {
            overlay.clear();
            model.clear();
        }
    }
}

/// Tells an overlay what is below until it knows by how much the object grows.
fn growth(overlay: &mut Overlay, below: &Entries) -> i64 {
    loop {
        match overlay.growth() {
            Growth::Known(growth) if overlay.is_cleared() => return growth - bytes(below),
            Growth::Known(growth) => return growth,
            Growth::Unknown(key) => overlay.learn(&key, below.get(&key)),
        }
    }
}

fn bound() -> impl Strategy<Value = Option<Bytes>> {
    proptest::option::of(any::<u8>().prop_map(key))
}

proptest! {
    #[test]
    fn reads_scans_growth_and_effects_are_those_of_a_map(
        below in proptest::collection::btree_map(any::<u8>(), 0..40_usize, 0..12),
        writes in proptest::collection::vec(write(), 0..20),
        (start, end, down) in (bound(), bound(), any::<bool>()),
        (entries, most_bytes, count) in (1..6_usize, 1..100_usize, 1..4_usize),
    ) {
        let below: Entries =
            below.into_iter().map(|(number, len)| (key(number), Bytes::from(vec![number; len]))).collect();
        let (mut overlay, mut model) = (Overlay::default(), below.clone());
        writes.iter().for_each(|write| apply(&mut overlay, &mut model, write));

        for number in 0..12 {
            let seen = match overlay.look(&key(number)) {
                Seen::Here(value) => value,
                Seen::Below => below.get(&key(number)).cloned(),
            };
            prop_assert_eq!(seen.as_ref(), model.get(&key(number)));
        }

        let order = if down { Order::Down } else { Order::Up };
        let most = PageMost { entries, bytes: most_bytes };
        let mut range = KeyRange { start, end };
        let wanted = page(&model, &range, order, usize::MAX).entries;
        let mut found = Vec::new();
        loop {
            let part = scan(&overlay, &below, range.clone(), order, most, count);
            prop_assert!(part.entries.len() <= entries);
            let bytes: usize = part.entries.iter().map(|(key, value)| key.len() + value.len()).sum();
            prop_assert!(part.entries.len() == 1 || bytes <= most_bytes);
            found.extend(part.entries.iter().cloned());
            if !part.more {
                break;
            }
            range = after(&part, &range, order);
        }
        prop_assert_eq!(found, wanted);

        prop_assert_eq!(growth(&mut overlay, &below), bytes(&model) - bytes(&below));

        let record = overlay.record_bytes();
        let mut effects = Vec::new();
        overlay.take(Space::User, &mut effects);
        prop_assert!(overlay.is_empty());
        prop_assert!(effects.iter().map(Effect::encoded_len).sum::<usize>() <= record);
        let mut stored = below;
        for effect in effects {
            match effect {
                Effect::Put { key, value, .. } => drop(stored.insert(key, value)),
                Effect::Delete { key, .. } => drop(stored.remove(&key)),
                Effect::Clear { .. } => stored.clear(),
            }
        }
        prop_assert_eq!(stored, model);
    }
}
