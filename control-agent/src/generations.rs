//! Which data planes run, and which of them takes new flows. Pure: who calls and when are arguments.
//!
//! A data plane that starts is granted a generation that nobody has. When it serves, new flows go to it, and those that
//! served before are told to drain. One that is gone leaves its number free, so that after a crash the next one is the
//! same generation and can tell the clients of the dead one that their connections are over.
//!
//! An agent that starts anew learns from the kernel's table who ran ([`Generations::recover`]), and keeps it so until
//! they have called, or [`GRACE`] is over.

use std::time::{Duration, Instant};

use berth_protocol::link::{Hello, Running};
use berth_steer::cid::Generation;
use berth_steer::table::{CORES_MAX, Table};

/// How long a data plane that was there before the agent has to call again. It tries every second.
pub const GRACE: Duration = Duration::from_secs(10);

/// A data plane's link, as the agent numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Caller(pub u64);

/// Why a data plane may not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// All numbers are in use.
    #[error(
        "all {} generations run, and the oldest still drain: wait until one has ended, or end one",
        Generation::COUNT
    )]
    AllInUse,
    /// It runs as a generation that somebody else has.
    #[error("generation {0} runs already, in another process: restart this one")]
    Taken(u8),
    /// It cannot be steered to.
    #[error("{0} cores: a node has 1 to {CORES_MAX}")]
    Cores(usize),
    /// It says that it is a generation that cannot be.
    #[error("there is no generation {0}")]
    NoSuchGeneration(u8),
    /// The data planes of a node are one server.
    #[error("it calls itself server {asked}, and generation {generation}, which runs, is server {runs}")]
    OtherServer {
        /// The number that it says.
        asked: u16,
        /// What runs.
        generation: u8,
        /// Its number.
        runs: u16,
    },
}

/// All data planes of the node.
#[derive(Debug, Default)]
pub struct Generations {
    members: [Option<Member>; Generation::COUNT],
    /// How often somebody began to serve.
    served: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    tie: Tie,
    phase: Phase,
    server: u16,
    cpus: Vec<u16>,
    /// Whether the agent knows all of its sockets: one that is met again says them again, and then how it stands.
    introduced: bool,
}

/// How the agent knows of a data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tie {
    /// It has called.
    Linked(Caller),
    /// It stood in the table when the agent started.
    Recovered {
        /// Until when it may call.
        until: Instant,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    /// The one with the highest number takes new flows.
    Serving(u64),
    Draining,
}

impl Generations {
    /// What the table in the kernel says of data planes that an earlier agent knew.
    pub fn recover(table: &Table, now: Instant) -> Self {
        let mut generations = Self { members: Default::default(), served: 1 };
        for generation in all() {
            let cpus: Vec<u16> = (0..=u8::MAX).map_while(|core| table.cpu(generation, core)).collect();
            if cpus.is_empty() {
                continue;
            }
            // With nobody to take them, the table names a generation that nobody has.
            let takes_flows = generation == table.generation();
            generations.members[index(generation)] = Some(Member {
                tie: Tie::Recovered { until: now + GRACE },
                phase: if takes_flows { Phase::Serving(1) } else { Phase::Draining },
                server: table.server,
                cpus,
                introduced: false,
            });
        }
        generations
    }

    /// May this one run, and as what?
    pub fn admit(&mut self, caller: Caller, hello: &Hello) -> Result<Generation, Refusal> {
        if hello.cpus.is_empty() || hello.cpus.len() > CORES_MAX {
            return Err(Refusal::Cores(hello.cpus.len()));
        }
        let other = self.members().find(|(_, member)| member.server != hello.server);
        if let Some((generation, member)) = other {
            let (generation, runs) = (generation.get(), member.server);
            return Err(Refusal::OtherServer { asked: hello.server, generation, runs });
        }
        let (generation, phase) = match hello.running {
            Some(running) => self.readmit(running)?,
            None => {
                let free = all().find(|generation| self.members[index(*generation)].is_none());
                (free.ok_or(Refusal::AllInUse)?, Phase::Starting)
            }
        };
        let tie = Tie::Linked(caller);
        let (server, cpus) = (hello.server, hello.cpus.clone());
        // The sockets of one that starts are nobody's loss until it serves.
        let introduced = hello.running.is_none();
        self.members[index(generation)] = Some(Member { tie, phase, server, cpus, introduced });
        Ok(generation)
    }

    fn readmit(&mut self, running: Running) -> Result<(Generation, Phase), Refusal> {
        let generation =
            Generation::new(running.generation).ok_or(Refusal::NoSuchGeneration(running.generation))?;
        let known = match &self.members[index(generation)] {
            Some(Member { tie: Tie::Linked(_), .. }) => return Err(Refusal::Taken(running.generation)),
            Some(member) => Some(member.phase),
            None => None,
        };
        let phase = match (running.serving, known) {
            (false, _) => Phase::Draining,
            (true, Some(known @ Phase::Serving(_))) => known,
            (true, _) => self.next_serving(),
        };
        Ok((generation, phase))
    }

    fn next_serving(&mut self) -> Phase {
        self.served += 1;
        Phase::Serving(self.served)
    }

    /// It takes new flows from now on. Says who should drain, and which number to tell them.
    pub fn serve(&mut self, caller: Caller) -> Option<(Generation, Vec<Caller>)> {
        let (generation, member) = self.of(caller)?;
        // One that says so again, to an agent that started anew, is no newer for that.
        if !matches!(member.phase, Phase::Serving(_)) {
            let phase = self.next_serving();
            self.change(caller, |member| member.phase = phase);
        }
        self.change(caller, |member| member.introduced = true);
        Some((generation, self.outdated()))
    }

    /// Those that serve although a newer one does.
    pub fn outdated(&self) -> Vec<Caller> {
        let newest = self.newest();
        let serving = self.members().filter(|(generation, member)| {
            matches!(member.phase, Phase::Serving(_)) && Some(*generation) != newest
        });
        serving
            .filter_map(|(_, member)| match member.tie {
                Tie::Linked(caller) => Some(caller),
                Tie::Recovered { .. } => None,
            })
            .collect()
    }

    /// It takes no new flows any more.
    pub fn drain(&mut self, caller: Caller) {
        self.change(caller, |member| (member.phase, member.introduced) = (Phase::Draining, true));
    }

    fn change(&mut self, caller: Caller, change: impl FnOnce(&mut Member)) {
        let generation = self.of(caller).map(|(generation, _)| generation);
        if let Some(member) = generation.and_then(|generation| self.members[index(generation)].as_mut()) {
            change(member);
        }
    }

    /// Its link is closed: it has ended.
    pub fn gone(&mut self, caller: Caller) {
        if let Some((generation, _)) = self.of(caller) {
            self.members[index(generation)] = None;
        }
    }

    /// Forgets those that should have called by now; true if there were some.
    pub fn expire(&mut self, now: Instant) -> bool {
        let late = |member: &Member| matches!(member.tie, Tie::Recovered { until } if until <= now);
        let mut expired = false;
        for place in &mut self.members {
            if place.as_ref().is_some_and(late) {
                *place = None;
                expired = true;
            }
        }
        expired
    }

    /// Whether some of those that an earlier agent knew have not called yet, or not yet said all.
    pub fn waits(&self) -> bool {
        self.members().any(|(_, member)| !member.introduced)
    }

    /// The generation of a data plane.
    pub fn generation(&self, caller: Caller) -> Option<Generation> {
        self.of(caller).map(|(generation, _)| generation)
    }

    /// The one that takes new flows.
    pub fn newest(&self) -> Option<Generation> {
        let serving = self.members().filter_map(|(generation, member)| match member.phase {
            Phase::Serving(order) => Some((order, generation)),
            _ => None,
        });
        serving.max_by_key(|(order, _)| *order).map(|(_, generation)| generation)
    }

    /// The CPUs of each one's cores.
    pub fn cpus(&self) -> Vec<(Generation, Vec<u16>)> {
        self.members().map(|(generation, member)| (generation, member.cpus.clone())).collect()
    }

    /// The number of the server that they are.
    pub fn server(&self) -> Option<u16> {
        self.members().next().map(|(_, member)| member.server)
    }

    fn of(&self, caller: Caller) -> Option<(Generation, &Member)> {
        self.members().find(|(_, member)| member.tie == Tie::Linked(caller))
    }

    fn members(&self) -> impl Iterator<Item = (Generation, &Member)> {
        all().zip(&self.members).filter_map(|(generation, member)| Some((generation, member.as_ref()?)))
    }
}

fn all() -> impl Iterator<Item = Generation> {
    (0..Generation::COUNT as u8).filter_map(Generation::new)
}

fn index(generation: Generation) -> usize {
    usize::from(generation.get())
}

#[cfg(test)]
mod tests {
    use berth_protocol::link::VERSIONS;

    use super::*;

    fn hello(running: Option<Running>) -> Hello {
        Hello { versions: VERSIONS, build: String::new(), pid: 1, server: 7, cpus: vec![0, 1], running }
    }

    fn running(generation: u8, serving: bool) -> Hello {
        hello(Some(Running { generation, serving }))
    }

    fn number(generation: Option<Generation>) -> Option<u8> {
        generation.map(Generation::get)
    }

    fn numbers(generations: &Generations) -> Vec<u8> {
        generations.cpus().iter().map(|(generation, _)| generation.get()).collect()
    }

    #[test]
    fn a_new_one_takes_the_flows_when_it_serves_and_the_old_one_is_told() {
        let mut generations = Generations::default();
        let (old, new) = (Caller(1), Caller(2));
        assert_eq!(generations.admit(old, &hello(None)).unwrap().get(), 0);
        assert_eq!(generations.newest(), None, "it does not serve yet");
        assert_eq!(generations.serve(old), Some((Generation::FIRST, vec![])));
        assert_eq!(generations.admit(new, &hello(None)).unwrap().get(), 1);
        assert_eq!(number(generations.newest()), Some(0), "the new one does not serve yet");
        let (generation, retired) = generations.serve(new).unwrap();
        assert_eq!((generation.get(), retired), (1, vec![old]));
        assert_eq!(number(generations.newest()), Some(1));
        generations.drain(old);
        assert_eq!(generations.outdated(), []);
        assert_eq!(numbers(&generations), [0, 1], "its connections stay until it has ended");
        generations.gone(old);
        assert_eq!(numbers(&generations), [1]);
        assert_eq!(generations.admit(Caller(3), &hello(None)).unwrap().get(), 0, "the number is free again");
    }

    #[test]
    fn when_the_newest_ends_before_the_older_one_drains_that_one_takes_the_flows_again() {
        let mut generations = Generations::default();
        for caller in [Caller(1), Caller(2)] {
            generations.admit(caller, &hello(None)).unwrap();
            generations.serve(caller);
        }
        generations.gone(Caller(2));
        assert_eq!(number(generations.newest()), Some(0));
        generations.drain(Caller(1));
        assert_eq!(generations.newest(), None);
    }

    #[test]
    fn sixteen_run_and_the_next_is_refused_until_one_ends() {
        let mut generations = Generations::default();
        for caller in 0..16 {
            assert_eq!(u64::from(generations.admit(Caller(caller), &hello(None)).unwrap().get()), caller);
            generations.serve(Caller(caller));
        }
        (0..16).for_each(|caller| generations.drain(Caller(caller)));
        assert_eq!(generations.admit(Caller(16), &hello(None)), Err(Refusal::AllInUse));
        generations.gone(Caller(5));
        assert_eq!(generations.admit(Caller(17), &hello(None)).unwrap().get(), 5);
    }

    fn table(newest: u8, generations: &[u8]) -> Box<Table> {
        let mut table = Box::new(Table::new());
        table.server = 7;
        table.set_generation(Generation::new(newest).unwrap());
        for generation in generations {
            let generation = Generation::new(*generation).unwrap();
            (0..2).for_each(|core| table.set_cpu(generation, core, Some(core.into())));
        }
        table.ring.fill(&[berth_steer::maglev::Place { server: 7, core: 0 }]).unwrap();
        table
    }

    #[test]
    fn an_agent_that_starts_anew_keeps_what_runs_until_it_has_called() {
        let now = Instant::now();
        let mut generations = Generations::recover(&table(4, &[3, 4]), now);
        assert_eq!((numbers(&generations), number(generations.newest())), (vec![3, 4], Some(4)));
        assert_eq!(
            generations.admit(Caller(1), &hello(None)).unwrap().get(),
            0,
            "a new one takes no number of theirs"
        );
        assert_eq!(generations.admit(Caller(2), &running(3, false)).unwrap().get(), 3);
        assert_eq!(generations.admit(Caller(3), &running(4, true)).unwrap().get(), 4);
        assert_eq!(number(generations.newest()), Some(4));
        assert_eq!(generations.outdated(), []);
        assert!(!generations.expire(now + GRACE));
        generations.drain(Caller(2));
        assert!(generations.waits(), "one has not said all yet");
        generations.serve(Caller(3));
        assert!(!generations.waits());
        assert_eq!(generations.admit(Caller(4), &running(4, true)), Err(Refusal::Taken(4)));
    }

    #[test]
    fn who_does_not_call_again_is_forgotten() {
        let now = Instant::now();
        let mut generations = Generations::recover(&table(4, &[3, 4]), now);
        generations.admit(Caller(1), &running(4, true)).unwrap();
        assert!(!generations.expire(now + GRACE / 2) && generations.expire(now + GRACE));
        assert_eq!(numbers(&generations), [4]);
    }

    #[test]
    fn one_that_started_without_an_agent_is_taken_as_what_it_is() {
        let mut generations = Generations::default();
        assert_eq!(generations.admit(Caller(1), &running(0, true)).unwrap().get(), 0);
        assert_eq!(number(generations.newest()), Some(0));
        assert_eq!(generations.admit(Caller(2), &running(16, true)), Err(Refusal::NoSuchGeneration(16)));
    }

    #[test]
    fn what_cannot_be_steered_to_is_refused() {
        let mut generations = Generations::default();
        let cores = |count| Hello { cpus: vec![0; count], ..hello(None) };
        assert_eq!(generations.admit(Caller(1), &cores(0)), Err(Refusal::Cores(0)));
        assert_eq!(generations.admit(Caller(1), &cores(257)), Err(Refusal::Cores(257)));
        assert!(generations.admit(Caller(1), &cores(256)).is_ok());
        let other = Hello { server: 8, ..hello(None) };
        let refusal = Refusal::OtherServer { asked: 8, generation: 0, runs: 7 };
        assert_eq!(generations.admit(Caller(2), &other), Err(refusal));
    }
}
