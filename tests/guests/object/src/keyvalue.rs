//! The object's data by `wasi:keyvalue`: one pass through all that it offers.

use std::sync::Mutex;

use crate::{Text, ok};

#[allow(missing_docs, reason = "generated from the WIT")]
mod world {
    wit_bindgen::generate!({ path: "../../../isolate-host/wit/keyvalue", world: "imports", generate_all });
}

use world::wasi::keyvalue::atomics::{self, Cas, CasError};
use world::wasi::keyvalue::{batch, store};

static HELD: Mutex<Option<(store::Bucket, Cas)>> = Mutex::new(None);

fn text(value: Option<Vec<u8>>) -> String {
    value.map_or_else(|| "nothing".to_owned(), |value| String::from_utf8_lossy(&value).into_owned())
}

fn name(error: store::Error) -> String {
    match error {
        store::Error::NoSuchStore => "no-such-store".to_owned(),
        store::Error::AccessDenied => "access-denied".to_owned(),
        store::Error::Other(words) => words,
    }
}

pub(crate) fn open(bucket: &str) -> Text {
    match store::open(bucket) {
        Ok(_) => ok("open"),
        Err(error) => ok(name(error)),
    }
}

/// Keeps a bucket and a value that was seen open between turns.
pub(crate) fn hold() -> Text {
    let bucket = store::open("default").map_err(name)?;
    let cas = Cas::new(&bucket, "a").map_err(name)?;
    *HELD.lock().expect("nobody panicked") = Some((bucket, cas));
    ok("held")
}

/// Keeps nothing open: what is dropped is dropped in time.
pub(crate) fn all() -> Text {
    let bucket = store::open("default").map_err(name)?;
    let mut seen = vec![text(bucket.get("a").map_err(name)?)];
    bucket.set("b", b"two").map_err(name)?;
    seen.push(bucket.exists("b").map_err(name)?.to_string());
    bucket.delete("b").map_err(name)?;
    seen.push(bucket.exists("b").map_err(name)?.to_string());
    seen.push(atomics::increment(&bucket, "n", 5).map_err(name)?.to_string());
    let cas = Cas::new(&bucket, "a").map_err(name)?;
    bucket.set("a", b"changed").map_err(name)?;
    let newer = match atomics::swap(cas, b"lost") {
        Err(CasError::CasFailed(newer)) => newer,
        other => panic!("{other:?}"),
    };
    seen.push(text(newer.current().map_err(name)?));
    atomics::swap(newer, b"swapped").expect("nobody else writes");
    seen.push(text(bucket.get("a").map_err(name)?));
    batch::set_many(&bucket, &[("x".to_owned(), b"1".to_vec()), ("y".to_owned(), b"2".to_vec())])
        .map_err(name)?;
    batch::delete_many(&bucket, &["x".to_owned()]).map_err(name)?;
    let many = batch::get_many(&bucket, &["x".to_owned(), "y".to_owned()]).map_err(name)?;
    seen.extend(many.into_iter().map(|(key, value)| format!("{key}={}", text(value))));
    seen.push(bucket.set("", b"v").map_err(name).expect_err("an empty key"));
    ok(seen.join(" "))
}

/// All keys, page by page.
pub(crate) fn keys() -> Text {
    let bucket = store::open("default").map_err(name)?;
    let (mut keys, mut pages, mut cursor) = (Vec::new(), 0, None);
    loop {
        let page = bucket.list_keys(cursor.as_deref()).map_err(name)?;
        keys.extend(page.keys);
        pages += 1;
        cursor = page.cursor;
        if cursor.is_none() {
            return ok(format!(
                "{} keys from {:?} to {:?}, pages {pages}",
                keys.len(),
                keys.first(),
                keys.last()
            ));
        }
    }
}
