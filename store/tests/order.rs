//! On the file system of this machine: each acknowledgement comes after the sync that covers it.
//!
//! A disk between the store and the folder writes down what is called, and the listener writes into the same book. A
//! checker reads the book: at each acknowledgement nothing may be written to the log and not synced, and no segment may
//! have a name that is not. The same run with syncs that the disk in between swallows has to fail that check.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test fail as it does")]

mod common;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use berth_protocol::object::Epoch;
use berth_store::disk::{Disk, DiskFile, Open, RealDisk};
use berth_store::{Config, Drive, Lead, Listener, Settled};
use common::*;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Made(String),
    Wrote(String),
    Synced(String),
    SyncedFolder,
    Acknowledged(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Syncs {
    Kept,
    Swallowed,
}

type Book = Arc<Mutex<Vec<Entry>>>;

#[derive(Debug, Clone)]
struct Traced {
    disk: Arc<RealDisk>,
    book: Book,
    syncs: Syncs,
}

#[derive(Debug)]
struct TracedFile {
    file: Arc<dyn DiskFile>,
    name: String,
    book: Book,
    syncs: Syncs,
}

fn note(book: &Book, entry: Entry) {
    book.lock().unwrap().push(entry);
}

impl Disk for Traced {
    fn open(&self, name: &str, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(name, how)?;
        if how == Open::New {
            note(&self.book, Entry::Made(name.to_owned()));
        }
        let (name, book, syncs) = (name.to_owned(), Arc::clone(&self.book), self.syncs);
        Ok(Arc::new(TracedFile { file, name, book, syncs }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn sync_dir(&self) -> io::Result<()> {
        if self.syncs == Syncs::Kept {
            self.disk.sync_dir()?;
            note(&self.book, Entry::SyncedFolder);
        }
        Ok(())
    }
}

impl DiskFile for TracedFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        note(&self.book, Entry::Wrote(self.name.clone()));
        self.file.write_at(offset, data)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        self.file.reserve(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.syncs == Syncs::Kept {
            self.file.sync_data()?;
            note(&self.book, Entry::Synced(self.name.clone()));
        }
        Ok(())
    }
}

struct Clerk {
    book: Book,
    count: AtomicU64,
}

impl Listener for Clerk {
    fn settled(&self, settled: &[Settled]) {
        for settled in settled {
            assert!(settled.outcome.is_ok());
            note(&self.book, Entry::Acknowledged(settled.ticket));
        }
        self.count.fetch_add(settled.len() as u64, Ordering::Release);
    }
}

/// The first acknowledgement that came too early.
fn check(book: &[Entry]) -> Result<usize, String> {
    let (mut unsynced, mut unnamed, mut acknowledged) = (Vec::new(), Vec::new(), 0);
    for entry in book {
        match entry {
            Entry::Made(name) => unnamed.push(name.clone()),
            Entry::Wrote(name) if name.starts_with("log-") => unsynced.push(name.clone()),
            Entry::Wrote(_) => {}
            Entry::Synced(name) => unsynced.retain(|unsynced| unsynced != name),
            Entry::SyncedFolder => unnamed.clear(),
            Entry::Acknowledged(ticket) => {
                let early = unsynced.iter().chain(unnamed.iter().filter(|name| name.starts_with("log-")));
                if let Some(name) = early.into_iter().next() {
                    return Err(format!("{ticket} was acknowledged before {name} was durable"));
                }
                acknowledged += 1;
            }
        }
    }
    Ok(acknowledged)
}

fn run(name: &str, syncs: Syncs) -> Vec<Entry> {
    let path = std::env::temp_dir().join(format!("berth-store-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    let book = Book::default();
    let disk = Traced { disk: Arc::new(RealDisk::open(&path).unwrap()), book: Arc::clone(&book), syncs };
    let config = Config { drive: Drive::Threads, ..config() };
    let store = open_with(&disk, config).unwrap();
    store.lead(GROUP, Lead::Next).unwrap();
    let clerk = Arc::new(Clerk { book: Arc::clone(&book), count: AtomicU64::new(0) });
    let listener = store.register(Arc::clone(&clerk) as Arc<dyn Listener>);
    for seq in 1..=300 {
        for n in 0..3 {
            let effects = vec![put("k", &"x".repeat(100))];
            store.submit(submission(listener, n, Epoch(1), seq, effects)).unwrap();
        }
        while clerk.count.load(Ordering::Acquire) + 10 < seq * 3 {
            std::thread::yield_now();
        }
    }
    store.close().unwrap();
    std::fs::remove_dir_all(&path).unwrap();
    let book = book.lock().unwrap();
    book.clone()
}

#[test]
fn an_acknowledgement_comes_after_the_sync_that_covers_it() {
    assert_eq!(check(&run("kept", Syncs::Kept)), Ok(900));
}

#[test]
fn with_syncs_taken_away_the_checker_objects() {
    assert!(check(&run("swallowed", Syncs::Swallowed)).is_err());
}

#[test]
fn a_folder_has_one_store_at_a_time() {
    let path = std::env::temp_dir().join(format!("berth-store-lock-{}", std::process::id()));
    let first = RealDisk::open(&path).unwrap();
    assert_eq!(RealDisk::open(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(first);
    RealDisk::open(&path).unwrap();
    std::fs::remove_dir_all(&path).unwrap();
}
