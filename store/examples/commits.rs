//! How many commits a second a folder takes, and how long each waits: `commits <folder> [seconds]`.
//!
//! So many waiters each write 256 bytes to an object of their own, wait for their own outcome, and write again. A waiter is
//! no thread: the listener's thread takes the outcomes of a flush and submits what comes next, as a core does.
#![allow(clippy::print_stdout, reason = "an example talks to a terminal")]

use std::error::Error;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_protocol::object::{ENTROPY_LEN, Epoch, Group, ObjectId, ObjectKey, Scope, Seq, Slot};
use berth_protocol::record::{Effect, Space};
use berth_store::disk::RealDisk;
use berth_store::{Config, Lead, Listener, ListenerId, Settled, Store, StoreId, Submission};
use bytes::Bytes;

struct Hand(Mutex<Sender<Vec<Settled>>>);

impl Listener for Hand {
    fn settled(&self, settled: &[Settled]) {
        if let Ok(sender) = self.0.lock() {
            let _ = sender.send(settled.to_vec());
        }
    }
}

struct Waiter {
    key: ObjectKey,
    epoch: Epoch,
    seq: u64,
    since: Instant,
}

impl Waiter {
    fn write(&mut self, store: &Store, listener: ListenerId, ticket: u64) -> Result<(), Box<dyn Error>> {
        self.seq += 1;
        self.since = Instant::now();
        let key = Bytes::copy_from_slice(&(self.seq % 1000).to_be_bytes());
        let value = Bytes::from_static(&[b'v'; 256]);
        store.submit(Submission {
            listener,
            ticket,
            group: Group(0),
            key: self.key,
            owner: (self.epoch, Seq(self.seq)),
            at_ms: 0,
            effects: vec![Effect::Put { space: Space::User, key, value }],
        })?;
        Ok(())
    }
}

fn run(store: &Store, count: u32, time: Duration) -> Result<(), Box<dyn Error>> {
    let (sender, outcomes) = channel();
    let listener = store.register(Arc::new(Hand(Mutex::new(sender))));
    let mut waiters = Vec::new();
    for n in 0..count {
        let mut entropy = [0; ENTROPY_LEN];
        entropy[..4].copy_from_slice(&n.to_be_bytes());
        let key = ObjectKey { scope: Scope::new("bench", "Row"), id: ObjectId::random(Slot(0), entropy) };
        let mut waiter = Waiter { key, epoch: store.begin_epoch(key)?, seq: 0, since: Instant::now() };
        waiter.write(store, listener, u64::from(n))?;
        waiters.push(waiter);
    }
    let (start, before) = (Instant::now(), store.figures());
    let mut waits = Vec::new();
    let mut running = count;
    while running > 0 {
        let goes_on = start.elapsed() < time;
        for settled in outcomes.recv()? {
            settled.outcome?;
            let waiter = &mut waiters[settled.ticket as usize];
            waits.push(waiter.since.elapsed());
            match goes_on {
                true => waiter.write(store, listener, settled.ticket)?,
                false => running -= 1,
            }
        }
    }
    let (took, after) = (start.elapsed().as_secs_f64(), store.figures());
    waits.sort_unstable();
    let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!(
        "{count:>4} waiters: {:>8.0} commits/s {:>6.0} syncs/s  p50 {:.3} ms  p99 {:.3} ms  worst {:.1} ms  steps {}",
        waits.len() as f64 / took,
        (after.flushes - before.flushes) as f64 / took,
        at(0.5),
        at(0.99),
        at(1.0),
        after.steps - before.steps,
    );
    waiters.iter().for_each(|waiter| store.end_epoch(waiter.key, waiter.epoch));
    store.unregister(listener);
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("commits <folder> [seconds]")?;
    let seconds = arguments.next().map_or(Ok(3), |seconds| seconds.parse())?;
    let store = Store::open(Arc::new(RealDisk::open(folder)?), Config::default(), StoreId([7; 16]))?;
    store.lead(Group(0), Lead::Next)?;
    for waiters in [1, 8, 64, 256] {
        run(&store, waiters, Duration::from_secs(seconds))?;
    }
    store.close()?;
    Ok(())
}
