//! Answers that an object keeps under the keys of their requests, so that a request that is repeated is not done twice:
//! what is in [`Space::Reply`], and what becomes of it when one more is kept.
//!
//! ```text
//!   k + key of the request  ─▶  version 1 · kind 1 · status 2 · number 8 · until 8 · fingerprint 32 · fields, body
//!   n + number              ─▶  until 8 · key of the request
//! ```
//!
//! Fields are their count (four bytes), then of each the lengths of name and value (four bytes each) and both; an answer that
//! was too large has neither fields nor body. Numbers are big-endian. They rise by one with each answer, so that the first
//! of them is the oldest, and first and last bound how many there are: nothing else counts them.
//!
//! Invariants, at every sequence of requests and clocks:
//! - There are [`ANSWERS_MAX`] at most. The oldest makes place, after those whose time is over.
//! - An answer and its number come and go together.
//! - Keeping one more takes a bounded number of effects: [`LOOKED_AT`] old answers are looked at.
//! - Whatever the bytes are, reading them gives an answer or an error, never a panic, and allocates no more than they hold.

use bytes::Bytes;

use crate::record::{Effect, Space};

/// Most bytes of a key.
pub const KEY_MAX: usize = 255;

/// Most answers of one object.
pub const ANSWERS_MAX: u64 = 1000;

/// Most bytes of an answer with its fields. Of a larger one only the fact is kept. All answers of an object take 64 MiB at
/// most, beside its quota.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Of the oldest answers, so many are looked at when one more is kept. More than one, so that those whose time is over
/// become fewer.
pub const LOOKED_AT: usize = 4;

const VERSION: u8 = 1;
const KIND_WHOLE: u8 = 0;
const KIND_TOO_LARGE: u8 = 1;
/// Bytes in front of the fields.
const HEAD: usize = 2 + 2 + 8 + 8 + 32;
const OF_KEY: u8 = b'k';
const OF_NUMBER: u8 = b'n';

/// Whether a request may have this key.
#[must_use]
pub fn is_key(text: &[u8]) -> bool {
    (1..=KEY_MAX).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic)
}

/// The first and the last key of what is kept by number, in [`Space::Reply`]: all that are between them, without the last.
pub const NUMBERS: (&[u8], &[u8]) = (&[OF_NUMBER], &[OF_NUMBER + 1]);

/// Where the answer to a request with this key is.
#[must_use]
pub fn answer_at(key: &[u8]) -> Bytes {
    [&[OF_KEY], key].concat().into()
}

fn number_at(number: u64) -> Bytes {
    [&[OF_NUMBER], number.to_be_bytes().as_slice()].concat().into()
}

/// What tells requests with the same key apart: a hash of all that makes them one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

/// An answer, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// All of it.
    Whole {
        /// The status.
        status: u16,
        /// The fields, in their order.
        headers: Vec<(Bytes, Bytes)>,
        /// The body.
        body: Bytes,
    },
    /// It was larger than [`ANSWER_BYTES_MAX`].
    TooLarge {
        /// The status.
        status: u16,
    },
}

/// An answer that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its number among all that the object has kept.
    pub number: u64,
    /// From then on it does not count, in milliseconds of Unix time.
    pub until_ms: u64,
    /// Of the request that it answered.
    pub fingerprint: Fingerprint,
    /// What was answered.
    pub answer: Answer,
}

/// One of the oldest answers that are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Old {
    number: u64,
    until_ms: u64,
    key: Bytes,
}

/// Why what is kept cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKept {
    /// It has another form.
    #[error(
        "an answer is kept in version {0}; this program reads version {VERSION}: run the newer program again"
    )]
    Version(u8),
    /// It is no answer.
    #[error("what is kept as an answer makes no sense; this is a bug of its writer, please report it")]
    Nonsense,
}

/// Bytes that are being read; nothing of it panics.
struct Reader(Bytes);

impl Reader {
    fn take(&mut self, len: usize) -> Result<Bytes, BadKept> {
        if len > self.0.len() { Err(BadKept::Nonsense) } else { Ok(self.0.split_to(len)) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadKept> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.take(N)?);
        Ok(bytes)
    }

    fn length(&mut self) -> Result<usize, BadKept> {
        self.array().map(|bytes| u32::from_be_bytes(bytes) as usize)
    }

    fn u64(&mut self) -> Result<u64, BadKept> {
        self.array().map(u64::from_be_bytes)
    }

    fn headers(&mut self) -> Result<Vec<(Bytes, Bytes)>, BadKept> {
        let count = self.length()?;
        // A field has eight bytes at least: the count alone cannot make us allocate.
        let mut headers = Vec::with_capacity(count.min(self.0.len() / 8));
        for _ in 0..count {
            let (name, value) = (self.length()?, self.length()?);
            headers.push((self.take(name)?, self.take(value)?));
        }
        Ok(headers)
    }
}

impl Answer {
    /// An answer as it is kept: too much of it is not.
    #[must_use]
    pub fn new(status: u16, headers: Vec<(Bytes, Bytes)>, body: Bytes) -> Self {
        let fields: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if fields + body.len() > ANSWER_BYTES_MAX {
            return Self::TooLarge { status };
        }
        Self::Whole { status, headers, body }
    }
}

impl Kept {
    fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(HEAD);
        let (kind, status) = match &self.answer {
            Answer::Whole { status, .. } => (KIND_WHOLE, *status),
            Answer::TooLarge { status } => (KIND_TOO_LARGE, *status),
        };
        bytes.extend([VERSION, kind]);
        bytes.extend(status.to_be_bytes());
        bytes.extend(self.number.to_be_bytes());
        bytes.extend(self.until_ms.to_be_bytes());
        bytes.extend(self.fingerprint.0);
        if let Answer::Whole { headers, body, .. } = &self.answer {
            let length = |len: usize| (len as u32).to_be_bytes();
            bytes.extend(length(headers.len()));
            for (name, value) in headers {
                bytes.extend(length(name.len()));
                bytes.extend(length(value.len()));
                bytes.extend(name);
                bytes.extend(value);
            }
            bytes.extend(body);
        }
        bytes.into()
    }

    /// Reads what is kept under a key.
    pub fn decode(bytes: Bytes) -> Result<Self, BadKept> {
        let mut reader = Reader(bytes);
        let [version] = reader.array()?;
        if version != VERSION {
            return Err(BadKept::Version(version));
        }
        let [kind] = reader.array()?;
        let status = u16::from_be_bytes(reader.array()?);
        let (number, until_ms) = (reader.u64()?, reader.u64()?);
        let fingerprint = Fingerprint(reader.array()?);
        let answer = match kind {
            KIND_WHOLE => Answer::Whole { status, headers: reader.headers()?, body: reader.0 },
            KIND_TOO_LARGE if reader.0.is_empty() => Answer::TooLarge { status },
            _ => return Err(BadKept::Nonsense),
        };
        Ok(Self { number, until_ms, fingerprint, answer })
    }
}

impl Old {
    /// Reads an entry of [`NUMBERS`].
    pub fn decode(at: Bytes, value: Bytes) -> Result<Self, BadKept> {
        let (mut at, mut value) = (Reader(at), Reader(value));
        let [of] = at.array()?;
        let (number, until_ms) = (at.u64()?, value.u64()?);
        match of == OF_NUMBER && at.0.is_empty() && is_key(&value.0) {
            true => Ok(Self { number, until_ms, key: value.0 }),
            false => Err(BadKept::Nonsense),
        }
    }
}

/// What a request with a key is, for what is kept.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// None that is known: it is done.
    First,
    /// One that was done already.
    Again(&'a Answer),
    /// Another one than that which had the key before it.
    Other,
}

/// What an object keeps that matters for one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The answer under the key.
    pub known: Option<Kept>,
    /// The oldest ones, [`LOOKED_AT`] at most.
    pub oldest: Vec<Old>,
    /// The newest one.
    pub newest: Option<Old>,
}

impl Found {
    /// What a request of this fingerprint is.
    #[must_use]
    pub fn see(&self, fingerprint: &Fingerprint, now_ms: u64) -> Seen<'_> {
        match &self.known {
            Some(kept) if kept.until_ms <= now_ms => Seen::First,
            None => Seen::First,
            Some(kept) if kept.fingerprint == *fingerprint => Seen::Again(&kept.answer),
            Some(_) => Seen::Other,
        }
    }

    /// What keeps the answer to a request that was [`Seen::First`], and how many others have to go before their time.
    #[must_use]
    pub fn keep(
        &self,
        key: &Bytes,
        fingerprint: Fingerprint,
        answer: Answer,
        (now_ms, until_ms): (u64, u64),
    ) -> (Vec<Effect>, u64) {
        let kept = Kept { number: self.next(), until_ms, fingerprint, answer };
        self.keep_among(ANSWERS_MAX, key, &kept, now_ms)
    }

    fn next(&self) -> u64 {
        self.newest.as_ref().map_or(0, |newest| newest.number.saturating_add(1))
    }

    fn keep_among(&self, most: u64, key: &Bytes, kept: &Kept, now_ms: u64) -> (Vec<Effect>, u64) {
        let space = Space::Reply;
        let delete = |key| Effect::Delete { space, key };
        let (mut effects, mut early) = (Vec::new(), 0);
        // It is over: its place is another one from now on.
        if let Some(before) = &self.known {
            effects.push(delete(number_at(before.number)));
        }
        let mut is_first = true;
        for old in self.oldest.iter().filter(|old| old.key != *key) {
            let is_over = old.until_ms <= now_ms;
            // What is between the first and the last number is as many as there may be, or fewer.
            let is_too_many = is_first && kept.number.saturating_sub(old.number) >= most;
            if is_over || is_too_many {
                effects.extend([delete(number_at(old.number)), delete(answer_at(&old.key))]);
                early += u64::from(!is_over);
            } else {
                is_first = false;
            }
        }
        let until = kept.until_ms.to_be_bytes();
        let listed = [until.as_slice(), key].concat().into();
        effects.push(Effect::Put { space, key: answer_at(key), value: kept.encode() });
        effects.push(Effect::Put { space, key: number_at(kept.number), value: listed });
        (effects, early)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// What is stored, as the store would have it.
    #[derive(Default)]
    struct Stored(BTreeMap<Bytes, Bytes>);

    impl Stored {
        fn apply(&mut self, effects: Vec<Effect>) {
            for effect in effects {
                match effect {
                    Effect::Put { space: Space::Reply, key, value } => drop(self.0.insert(key, value)),
                    Effect::Delete { space: Space::Reply, key } => drop(self.0.remove(&key)),
                    other => panic!("{other:?}"),
                }
            }
        }

        fn numbers(&self) -> Vec<Old> {
            let range = self.0.range(Bytes::from_static(NUMBERS.0)..Bytes::from_static(NUMBERS.1));
            range.map(|(at, value)| Old::decode(at.clone(), value.clone()).unwrap()).collect()
        }

        fn find(&self, key: &Bytes) -> Found {
            let known = self.0.get(&answer_at(key)).map(|value| Kept::decode(value.clone()).unwrap());
            let numbers = self.numbers();
            let oldest = numbers.iter().take(LOOKED_AT).cloned().collect();
            Found { known, oldest, newest: numbers.last().cloned() }
        }
    }

    fn answer() -> impl Strategy<Value = Answer> {
        let bytes = |most| vec(any::<u8>(), 0..most).prop_map(Bytes::from);
        prop_oneof![
            (any::<u16>(), vec((bytes(20), bytes(50)), 0..5), bytes(200))
                .prop_map(|(status, headers, body)| Answer::Whole { status, headers, body }),
            any::<u16>().prop_map(|status| Answer::TooLarge { status }),
        ]
    }

    fn text(text: &'static str) -> Answer {
        Answer::Whole { status: 200, headers: Vec::new(), body: Bytes::from_static(text.as_bytes()) }
    }

    proptest! {
        #[test]
        fn what_is_kept_is_read_again(
            number in any::<u64>(), until_ms in any::<u64>(), hash in any::<[u8; 32]>(), answer in answer(),
        ) {
            let kept = Kept { number, until_ms, fingerprint: Fingerprint(hash), answer };
            prop_assert_eq!(Kept::decode(kept.encode()), Ok(kept));
        }

        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in vec(any::<u8>(), 0..200)) {
            if let Some(first) = bytes.first_mut() {
                *first %= 3;
            }
            if let Some(kind) = bytes.get_mut(1) {
                *kind %= 3;
            }
            let bytes = Bytes::from(bytes);
            if let Ok(kept) = Kept::decode(bytes.clone()) {
                prop_assert_eq!(kept.encode(), bytes.clone());
            }
            let _ = Old::decode(bytes.clone(), bytes);
        }

        #[test]
        fn an_answer_that_is_cut_off_is_refused(answer in answer(), at in any::<prop::sample::Index>()) {
            let kept = Kept { number: 1, until_ms: 2, fingerprint: Fingerprint([3; 32]), answer };
            let bytes = kept.encode();
            let body = match &kept.answer {
                Answer::Whole { body, .. } => body.len(),
                Answer::TooLarge { .. } => 0,
            };
            let cut = bytes.slice(..at.index(bytes.len() - body));
            prop_assert_eq!(Kept::decode(cut), Err(BadKept::Nonsense));
        }

        /// Against the numbers of all that was ever kept. Each step is a key, how much later it comes, and for how long its
        /// answer is kept.
        #[test]
        fn a_key_is_known_until_its_time_is_over_or_as_many_came_after_it(
            most in 1..8u64, steps in vec((0..12u8, 0..20u64, 1..60u64), 0..80),
        ) {
            let (mut stored, mut now_ms, mut next) = (Stored::default(), 0, 0);
            let mut all: BTreeMap<Bytes, (u64, u64)> = BTreeMap::new();
            for (name, later, window) in steps {
                now_ms += later;
                let key = Bytes::from(vec![b'a' + name]);
                let fingerprint = Fingerprint([name; 32]);
                let found = stored.find(&key);
                let is_known = all.get(&key).is_some_and(|(number, until)| *until > now_ms && next - number <= most);
                let seen = if is_known { Seen::Again(&Answer::TooLarge { status: 200 }) } else { Seen::First };
                prop_assert_eq!(found.see(&fingerprint, now_ms), seen);
                if is_known {
                    continue;
                }
                let until_ms = now_ms + window;
                let answer = Answer::TooLarge { status: 200 };
                let kept = Kept { number: found.next(), until_ms, fingerprint, answer };
                prop_assert_eq!(kept.number, next);
                let (effects, early) = found.keep_among(most, &key, &kept, now_ms);
                prop_assert!(effects.len() <= 3 + 2 * LOOKED_AT && early <= 1);
                stored.apply(effects);
                all.insert(key.clone(), (next, until_ms));
                next += 1;
                let numbers = stored.numbers();
                prop_assert!(numbers.len() as u64 <= most);
                prop_assert_eq!(stored.0.len(), 2 * numbers.len(), "answers and numbers go together");
                for old in numbers {
                    let kept = stored.find(&old.key).known;
                    let there = kept.map(|kept| (kept.number, kept.until_ms));
                    prop_assert_eq!(there, Some((old.number, old.until_ms)));
                }
            }
        }
    }

    #[test]
    fn a_key_is_found_until_its_time_is_over_and_for_its_own_request_only() {
        let (mut stored, key) = (Stored::default(), Bytes::from_static(b"\"a-b\""));
        let mine = Fingerprint([1; 32]);
        let found = stored.find(&key);
        assert_eq!(found.see(&mine, 10), Seen::First);
        stored.apply(found.keep(&key, mine, text("first"), (10, 20)).0);
        let found = stored.find(&key);
        assert_eq!(found.see(&mine, 19), Seen::Again(&text("first")));
        assert_eq!(found.see(&Fingerprint([2; 32]), 19), Seen::Other);
        assert_eq!(found.see(&mine, 20), Seen::First);
        stored.apply(found.keep(&key, Fingerprint([2; 32]), text("second"), (20, 30)).0);
        assert_eq!(stored.find(&key).see(&Fingerprint([2; 32]), 29), Seen::Again(&text("second")));
        assert_eq!(stored.0.len(), 2);
    }

    #[test]
    fn the_thousand_and_first_makes_the_oldest_go() {
        let mut stored = Stored::default();
        let mut went = 0;
        for number in 0..ANSWERS_MAX + 2 {
            let key = Bytes::from(number.to_string());
            let (effects, early) = stored.find(&key).keep(&key, Fingerprint([0; 32]), text("a"), (1, 2));
            stored.apply(effects);
            went += early;
        }
        assert_eq!((went, stored.numbers().len() as u64), (2, ANSWERS_MAX));
        let is_kept = |key: &'static str| stored.find(&key.into()).known.is_some();
        assert_eq!([is_kept("0"), is_kept("1"), is_kept("2")], [false, false, true]);
    }

    #[test]
    fn of_an_answer_that_is_too_large_only_the_fact_is_kept() {
        let field = || vec![(Bytes::from_static(b"name"), Bytes::from_static(b"value"))];
        let body = |len: usize| Bytes::from(vec![0; len]);
        let fits = Answer::new(200, field(), body(ANSWER_BYTES_MAX - 9));
        assert!(matches!(fits, Answer::Whole { .. }));
        assert_eq!(Answer::new(201, field(), body(ANSWER_BYTES_MAX - 8)), Answer::TooLarge { status: 201 });
    }

    #[test]
    fn a_key_is_a_few_visible_characters() {
        assert!(
            is_key(b"x") && is_key(br#""8e03978e-40d5-43dd-bc93-6894a57f9324""#) && is_key(&[b'~'; KEY_MAX])
        );
        for bad in [&b""[..], b"a b", b"\t", b"a\x7f", "ä".as_bytes(), &[b'a'; KEY_MAX + 1]] {
            assert!(!is_key(bad), "{bad:?}");
        }
    }

    /// These bytes are on disks: a change of them is a new version.
    #[test]
    fn version_1_stays_as_it_is() {
        let headers = vec![(Bytes::from_static(b"a"), Bytes::from_static(b"bc"))];
        let answer = Answer::Whole { status: 200, headers, body: Bytes::from_static(b"body") };
        let kept = Kept { number: 7, until_ms: 1000, fingerprint: Fingerprint([9; 32]), answer };
        let mut expected = vec![1, 0, 0, 200, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 3, 232];
        expected.extend([9; 32]);
        expected.extend([0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2]);
        expected.extend(b"abcbody");
        assert_eq!(kept.encode(), expected);
        let found = Found::default();
        let (effects, _) = found.keep(&"key".into(), Fingerprint([0; 32]), text(""), (0, 256));
        let Effect::Put { key, value, .. } = &effects[1] else { panic!("{effects:?}") };
        assert_eq!((&key[..], &value[..]), (&b"n\0\0\0\0\0\0\0\0"[..], &b"\0\0\0\0\0\0\x01\0key"[..]));
        assert_eq!(Kept::decode(Bytes::from_static(&[2])), Err(BadKept::Version(2)));
    }
}
