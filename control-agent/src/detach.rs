//! `berth agent detach`: the machine as it was.
//!
//! Cards, maps and programs are let go by removing their pins. A group of sockets keeps its program for as long as one of
//! its sockets is open, so the data planes are heard once more: each one that runs calls within a second, hands over its
//! sockets as it always does, and the program is taken off them. Then the kernel spreads flows by its own hash.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::programs::SkReuseport;
use berth_link::Channel;
use berth_protocol::link::{FromAgent, FromDataplane, Steering, VERSIONS};

use crate::agent::{Failure, Settings, open_socket};
use crate::generations::{Caller, Generations};
use crate::machine::Machine;

/// How long running data planes have to call. They try every second.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often they are looked for.
const LOOK: Duration = Duration::from_millis(20);

/// Takes everything of ours out of the kernel, and says what was done.
pub fn run(settings: &Settings) -> Result<Vec<String>, Failure> {
    let mut machine = Machine::open(&settings.pins)?;
    let mut said = Vec::new();
    if let Some(table) = machine.table()? {
        let mut generations = Generations::recover(&table, Instant::now());
        let listener = open_socket(settings)?;
        let _socket = RemovedOnDrop(&settings.socket);
        let until = Instant::now() + PATIENCE;
        let mut callers = BTreeMap::new();
        while generations.waits() && Instant::now() < until {
            if let Ok(Some(channel)) = listener.accept() {
                callers.insert(Caller(callers.len() as u64), channel);
            }
            hear(&mut callers, &mut generations, &mut said);
            std::thread::sleep(LOOK);
        }
        let nothing = Steering {
            version: table.version,
            generation: None,
            groups: Vec::new(),
            cards: Vec::new(),
            trouble: None,
        };
        for channel in callers.values() {
            let _ = channel.send(&FromAgent::Steered(nothing.clone()), &[]); // One that has ended needs no word.
        }
        if generations.waits() {
            said.push(
                "a data plane did not call: if it runs, its sockets keep their program until it ends"
                    .to_owned(),
            );
        }
    }
    said.extend(machine.remove_all()?);
    if said.is_empty() {
        said.push("nothing of ours was there".to_owned());
    }
    Ok(said)
}

/// The file of a socket that nobody will listen at.
struct RemovedOnDrop<'a>(&'a Path);

impl Drop for RemovedOnDrop<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

fn hear(callers: &mut BTreeMap<Caller, Channel>, generations: &mut Generations, said: &mut Vec<String>) {
    for (caller, channel) in callers {
        while let Ok(Some(received)) = channel.receive::<FromDataplane>() {
            match received.message {
                FromDataplane::Hello(hello) => {
                    if let Ok(generation) = generations.admit(*caller, &hello, |_| true) {
                        let build = env!("CARGO_PKG_VERSION").to_owned();
                        let generation = generation.get();
                        let word = FromAgent::Granted { version: VERSIONS.newest, build, generation };
                        let _ = channel.send(&word, &[]); // One that has ended meanwhile needs no word.
                    }
                }
                FromDataplane::Sockets { group, .. } => {
                    if received.descriptors.first().is_some_and(|socket| SkReuseport::detach(socket).is_ok())
                    {
                        said.push(format!("took the program off the sockets at {group}"));
                    }
                }
                FromDataplane::Serving { since_ms } => {
                    generations.serve(*caller, since_ms);
                }
                FromDataplane::Draining => generations.drain(*caller),
                FromDataplane::Keys(_) | FromDataplane::Explain { .. } => {}
            }
        }
    }
}
