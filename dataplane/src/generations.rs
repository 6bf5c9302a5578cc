//! Datagrams that belong to another generation of this node, on their way to its process.
//!
//! The reuseport program brings a datagram to the generation that its connection id names. What it cannot part is a train:
//! the kernel has merged datagrams of one client by their addresses, and two of the client's connections may live in two
//! generations. Each generation listens on a socket in the folder of state, which only the node's user can enter; a core
//! that has a datagram for another generation sends it there, and a thread of that process hands it to the core.
//!
//! It is rare, and nothing waits for it: a datagram for which there is no room, or nobody, is dropped and counted, as the
//! network drops.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_link::{Channel, Failure, Listener, Sent};
use berth_protocol::DatagramEnvelope;
use berth_protocol::toss::{self, TOSS_MAX};
use berth_steer::cid::{Destination, Generation};
use tokio::sync::mpsc;

/// Datagrams that may wait for a core that does not keep up. The thread then waits, and senders find no room.
const WAITING_MAX: usize = 256;
/// How long a generation that did not answer is not called again: packets of dead connections come for minutes.
const SILENCE: Duration = Duration::from_secs(1);
/// Sockets of other generations' cores that are heard: sixteen generations of 256.
const CALLERS_MAX: usize = 4096;
/// How often the thread looks at what it cannot be woken by.
const LOOK: Duration = Duration::from_secs(60);

/// What a core takes from other generations.
pub type Caught = mpsc::Receiver<DatagramEnvelope>;

/// Where a generation listens.
fn place(state: &Path, generation: Generation) -> PathBuf {
    state.join(format!("generation-{}.sock", generation.get()))
}

/// Begins to take what other generations toss to this one: one receiver for each core.
pub fn catch(state: &Path, generation: Generation, cores: usize) -> Result<Vec<Caught>, Failure> {
    let listener = Listener::bind(&place(state, generation))?;
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..cores).map(|_| mpsc::channel(WAITING_MAX)).unzip();
    let thread = std::thread::Builder::new().name("catcher".into());
    thread.spawn(move || run(&listener, &senders)).map_err(Failure::Broken)?;
    Ok(receivers)
}

/// Removes the socket of a generation that ends.
pub fn forget(state: &Path, generation: Generation) {
    let _ = std::fs::remove_file(place(state, generation)); // One that is left is taken over.
}

fn run(listener: &Listener, cores: &[mpsc::Sender<DatagramEnvelope>]) {
    let mut callers: Vec<Channel> = Vec::new();
    let mut buffer = vec![0; TOSS_MAX];
    loop {
        berth_link::wait(std::iter::once(listener.as_fd()).chain(callers.iter().map(AsFd::as_fd)), LOOK);
        while let Ok(Some(channel)) = listener.accept() {
            if callers.len() < CALLERS_MAX {
                callers.push(channel);
            }
        }
        callers.retain(|caller| hear(caller, &mut buffer, cores));
        if cores.iter().all(mpsc::Sender::is_closed) {
            return; // The node has ended.
        }
    }
}

/// Takes what a core of another generation has tossed; false when it is gone.
fn hear(caller: &Channel, buffer: &mut [u8], cores: &[mpsc::Sender<DatagramEnvelope>]) -> bool {
    loop {
        match caller.receive_bytes(buffer) {
            Ok(Some(length)) => match toss::decode(&buffer[..length]) {
                Ok((core, datagram)) => {
                    if let Some(core) = cores.get(usize::from(core)) {
                        let _ = core.blocking_send(datagram); // A core that has ended needs nothing more.
                    }
                }
                Err(error) => tracing::debug!(%error, "toss.garbled"),
            },
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Why a datagram did not go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTossed {
    /// That generation does not run.
    Nobody,
    /// It does not keep up.
    NoRoom,
}

/// A core's way to the other generations.
pub struct Others {
    state: PathBuf,
    of: [RefCell<Way>; Generation::COUNT],
}

#[derive(Default)]
enum Way {
    #[default]
    Unknown,
    Open(Channel),
    Silent {
        until: Instant,
    },
}

impl Others {
    /// With this folder of state.
    pub fn new(state: &Path) -> Self {
        Self { state: state.to_owned(), of: Default::default() }
    }

    /// Sends a datagram to a core of another generation.
    pub fn toss(&self, now: Instant, to: Destination, datagram: &DatagramEnvelope) -> Result<(), NotTossed> {
        let Destination { generation, core, .. } = to;
        let mut way = self.of[usize::from(generation.get())].borrow_mut();
        if matches!(*way, Way::Silent { until } if now < until) {
            return Err(NotTossed::Nobody);
        }
        if !matches!(*way, Way::Open(_)) {
            *way = Channel::connect(&place(&self.state, generation))
                .map_or(Way::Silent { until: now + SILENCE }, Way::Open);
        }
        let Way::Open(channel) = &*way else { return Err(NotTossed::Nobody) };
        match channel.send_bytes(&toss::encode(core, datagram)) {
            Ok(Sent::Whole) => Ok(()),
            Ok(Sent::NoRoom) => Err(NotTossed::NoRoom),
            Err(_) => {
                *way = Way::Silent { until: now + SILENCE };
                Err(NotTossed::Nobody)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use berth_protocol::Crossing;
    use bytes::Bytes;

    use super::*;

    fn datagram(number: u8) -> DatagramEnvelope {
        DatagramEnvelope {
            listener: 0,
            from: "192.0.2.9:5000".parse().unwrap(),
            local: None,
            ecn: 0,
            payload: Bytes::copy_from_slice(&[number; 1200]),
            crossing: Crossing::Toss,
        }
    }

    fn to(generation: Generation, core: u8) -> Destination {
        Destination { server: 0, core, generation }
    }

    #[test]
    fn a_datagram_reaches_the_core_of_the_other_generation() {
        let state = crate::keyring::private_file::testing::TestFolder::new();
        let [old, new] = [2, 3].map(|number| Generation::new(number).unwrap());
        let mut caught = catch(&state, old, 2).unwrap();
        let (others, now) = (Others::new(&state), Instant::now());
        for number in 0..10 {
            others.toss(now, to(old, number % 2), &datagram(number)).unwrap();
        }
        for number in 0..10 {
            assert_eq!(caught[usize::from(number % 2)].blocking_recv(), Some(datagram(number)));
        }
        others.toss(now, to(old, 7), &datagram(0)).unwrap();
        others.toss(now, to(old, 1), &datagram(1)).unwrap();
        assert_eq!(
            caught[1].blocking_recv(),
            Some(datagram(1)),
            "one for a core that is not there harms nobody"
        );
        assert_eq!(others.toss(now, to(new, 0), &datagram(0)), Err(NotTossed::Nobody));
        let _new = catch(&state, new, 1).unwrap();
        assert_eq!(
            others.toss(now, to(new, 0), &datagram(0)),
            Err(NotTossed::Nobody),
            "it is not called again yet"
        );
        assert_eq!(others.toss(now + SILENCE, to(new, 0), &datagram(0)), Ok(()));
        drop(caught);
        forget(&state, old);
        assert!(!place(&state, old).exists());
    }

    #[test]
    fn a_generation_that_does_not_keep_up_is_told_from_one_that_is_gone() {
        let state = crate::keyring::private_file::testing::TestFolder::new();
        let now = Instant::now();
        let caught = catch(&state, Generation::FIRST, 1).unwrap();
        let others = Others::new(&state);
        let full =
            (0..100_000u32).find_map(|_| others.toss(now, to(Generation::FIRST, 0), &datagram(0)).err());
        assert_eq!(full, Some(NotTossed::NoRoom), "nobody takes them");
        drop(caught);
    }
}
