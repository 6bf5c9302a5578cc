//! Which data planes run, and which of them takes new flows. Pure: who calls and when are arguments.
//!
//! A data plane that starts is granted a generation that nobody has. The one that began to serve last takes new flows, and
//! the others are told to drain. One that has ended leaves its number free, so that after a crash the next one is the same
//! generation and can tell the clients of the dead one that their connections are over.
//!
//! An agent that starts anew learns from the kernel's table who ran ([`Generations::recover`]), and keeps it so until they
//! have called, or [`GRACE`] is over. In the same way it keeps one whose link broke before it drained: it may live, and
//! then it calls again ([`REDIAL`]).

use std::time::{Duration, Instant};

use berth_protocol::link::{Hello, Running};
use berth_steer::cid::Generation;
use berth_steer::table::{CORES_MAX, Table};

/// How long a data plane that was there before the agent has to call again. It tries every second.
pub const GRACE: Duration = Duration::from_secs(10);

/// How long one whose link broke has to call again.
pub const REDIAL: Duration = Duration::from_secs(3);

/// CPUs that can be steered to: as many as the map of them has room for.
const CPUS_MAX: u16 = 1024;

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
    /// It runs where no packet can be sent.
    #[error("CPU {0}: packets can be sent to those below {CPUS_MAX}")]
    Cpu(u16),
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
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    tie: Tie,
    phase: Phase,
    server: u16,
    cpus: Vec<u16>,
    /// Its process, if it has called this agent.
    pid: Option<u32>,
    /// Whether the agent knows all of its sockets: one that is met again says them again, and then how it stands.
    introduced: bool,
}

/// How the agent knows of a data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tie {
    /// It has called.
    Linked(Caller),
    /// It stood in the table when the agent started, or its link broke.
    Awaited {
        /// Until when it may call.
        until: Instant,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    /// Since when, in milliseconds; the latest one takes new flows.
    Serving(u64),
    Draining,
}

impl Generations {
    /// What the table in the kernel says of data planes that an earlier agent knew.
    pub fn recover(table: &Table, now: Instant) -> Self {
        let mut generations = Self::default();
        for generation in all() {
            let cpus: Vec<u16> = (0..=u8::MAX).map_while(|core| table.cpu(generation, core)).collect();
            if cpus.is_empty() {
                continue;
            }
            // With nobody to take them, the table names a generation that nobody has.
            let takes_flows = generation == table.generation();
            generations.members[index(generation)] = Some(Member {
                tie: Tie::Awaited { until: now + GRACE },
                // Until it says since when it serves, nobody else is newer.
                phase: if takes_flows { Phase::Serving(u64::MAX) } else { Phase::Draining },
                server: table.server,
                cpus,
                pid: None,
                introduced: false,
            });
        }
        generations
    }

    /// May this one run, and as what? `lives` says whether a process does.
    pub fn admit(
        &mut self,
        caller: Caller,
        hello: &Hello,
        lives: impl Fn(u32) -> bool,
    ) -> Result<Generation, Refusal> {
        if hello.cpus.is_empty() || hello.cpus.len() > CORES_MAX {
            return Err(Refusal::Cores(hello.cpus.len()));
        }
        if let Some(cpu) = hello.cpus.iter().find(|cpu| **cpu >= CPUS_MAX) {
            return Err(Refusal::Cpu(*cpu));
        }
        for place in &mut self.members {
            let is_awaited = |member: &Member| matches!(member.tie, Tie::Awaited { .. });
            if place
                .as_ref()
                .is_some_and(|member| is_awaited(member) && member.pid.is_some_and(|pid| !lives(pid)))
            {
                *place = None; // It will not call again.
            }
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
        let pid = Some(hello.pid);
        self.members[index(generation)] = Some(Member { tie, phase, server, cpus, pid, introduced });
        Ok(generation)
    }

    fn readmit(&self, running: Running) -> Result<(Generation, Phase), Refusal> {
        let generation =
            Generation::new(running.generation).ok_or(Refusal::NoSuchGeneration(running.generation))?;
        if let Some(Member { tie: Tie::Linked(_), .. }) = &self.members[index(generation)] {
            return Err(Refusal::Taken(running.generation));
        }
        Ok((generation, running.serving_since_ms.map_or(Phase::Draining, Phase::Serving)))
    }

    /// It takes new flows since then. Says which generation it is.
    pub fn serve(&mut self, caller: Caller, since_ms: u64) -> Option<Generation> {
        let (generation, _) = self.of(caller)?;
        self.change(caller, |member| (member.phase, member.introduced) = (Phase::Serving(since_ms), true));
        Some(generation)
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
                Tie::Awaited { .. } => None,
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

    /// Its link is closed. One that drained has ended; another one may call again.
    pub fn gone(&mut self, caller: Caller, now: Instant) {
        let Some((generation, member)) = self.of(caller) else { return };
        if member.phase == Phase::Draining {
            self.members[index(generation)] = None;
        } else {
            let tie = Tie::Awaited { until: now + REDIAL };
            self.change(caller, |member| (member.tie, member.introduced) = (tie, false));
        }
    }

    /// Forgets those that should have called by now; true if there were some.
    pub fn expire(&mut self, now: Instant) -> bool {
        let late = |member: &Member| matches!(member.tie, Tie::Awaited { until } if until <= now);
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

    fn running(generation: u8, serving_since_ms: Option<u64>) -> Hello {
        hello(Some(Running { generation, serving_since_ms }))
    }

    fn alive(_: u32) -> bool {
        true
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
        assert_eq!(generations.admit(old, &hello(None), alive).unwrap().get(), 0);
        assert_eq!(generations.newest(), None, "it does not serve yet");
        assert_eq!(generations.serve(old, 10), Some(Generation::FIRST));
        assert_eq!(generations.admit(new, &hello(None), alive).unwrap().get(), 1);
        assert_eq!(number(generations.newest()), Some(0), "the new one does not serve yet");
        assert_eq!(number(generations.serve(new, 20)), Some(1));
        assert_eq!((number(generations.newest()), generations.outdated()), (Some(1), vec![old]));
        generations.drain(old);
        assert_eq!(generations.outdated(), []);
        assert_eq!(numbers(&generations), [0, 1], "its connections stay until it has ended");
        generations.gone(old, Instant::now());
        assert_eq!(numbers(&generations), [1]);
        let next = generations.admit(Caller(3), &hello(None), alive).unwrap();
        assert_eq!(next.get(), 0, "the number is free again");
    }

    #[test]
    fn when_the_newest_drains_before_the_older_one_that_one_takes_the_flows_again() {
        let mut generations = Generations::default();
        for (caller, since_ms) in [(Caller(1), 10), (Caller(2), 20)] {
            generations.admit(caller, &hello(None), alive).unwrap();
            generations.serve(caller, since_ms);
        }
        generations.drain(Caller(2));
        assert_eq!(number(generations.newest()), Some(0));
        generations.drain(Caller(1));
        assert_eq!(generations.newest(), None);
    }

    #[test]
    fn sixteen_run_and_the_next_is_refused_until_one_ends() {
        let (mut generations, now) = (Generations::default(), Instant::now());
        for caller in 0..16 {
            let generation = generations.admit(Caller(caller), &hello(None), alive).unwrap();
            assert_eq!(u64::from(generation.get()), caller);
            generations.serve(Caller(caller), caller);
        }
        (0..16).for_each(|caller| generations.drain(Caller(caller)));
        assert_eq!(generations.admit(Caller(16), &hello(None), alive), Err(Refusal::AllInUse));
        generations.gone(Caller(5), now);
        assert_eq!(generations.admit(Caller(17), &hello(None), alive).unwrap().get(), 5);
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
        let fresh = generations.admit(Caller(1), &hello(None), alive).unwrap();
        assert_eq!(fresh.get(), 0, "a new one takes no number of theirs");
        assert_eq!(generations.admit(Caller(2), &running(3, None), alive).unwrap().get(), 3);
        assert_eq!(generations.admit(Caller(3), &running(4, Some(40)), alive).unwrap().get(), 4);
        assert_eq!(number(generations.newest()), Some(4));
        assert_eq!(generations.outdated(), []);
        assert!(!generations.expire(now + GRACE));
        generations.drain(Caller(2));
        assert!(generations.waits(), "one has not said all yet");
        generations.serve(Caller(3), 40);
        assert!(!generations.waits());
        assert_eq!(generations.admit(Caller(4), &running(4, Some(40)), alive), Err(Refusal::Taken(4)));
    }

    #[test]
    fn an_agent_that_starts_in_mid_change_retires_the_older_one_and_nobody_else() {
        // It died between the write of the table and its word to the old one, which still serves.
        for order in [[(3, 30), (4, 40)], [(4, 40), (3, 30)]] {
            let mut generations = Generations::recover(&table(4, &[3, 4]), Instant::now());
            for (generation, since_ms) in order {
                let caller = Caller(generation.into());
                generations.admit(caller, &running(generation, Some(since_ms)), alive).unwrap();
                assert_eq!(number(generations.newest()), Some(4), "{order:?}");
                generations.serve(caller, since_ms);
                assert_eq!(number(generations.newest()), Some(4), "{order:?}");
            }
            assert_eq!(generations.outdated(), [Caller(3)]);
        }
    }

    #[test]
    fn who_does_not_call_again_is_forgotten() {
        let now = Instant::now();
        let mut generations = Generations::recover(&table(4, &[3, 4]), now);
        generations.admit(Caller(1), &running(4, Some(40)), alive).unwrap();
        assert!(!generations.expire(now + GRACE / 2) && generations.expire(now + GRACE));
        assert_eq!(numbers(&generations), [4]);
    }

    #[test]
    fn one_whose_link_broke_keeps_its_number_while_it_lives() {
        let (mut generations, now) = (Generations::default(), Instant::now());
        generations.admit(Caller(1), &hello(None), alive).unwrap();
        generations.serve(Caller(1), 10);
        generations.gone(Caller(1), now);
        assert!(generations.waits() && number(generations.newest()) == Some(0));
        assert_eq!(generations.admit(Caller(2), &hello(None), alive).unwrap().get(), 1, "it may call again");
        assert_eq!(generations.admit(Caller(3), &running(0, Some(10)), alive).unwrap().get(), 0, "and does");
        generations.gone(Caller(3), now);
        let after_a_crash = generations.admit(Caller(4), &hello(None), |_| false).unwrap();
        assert_eq!(after_a_crash.get(), 0, "its process has ended: it cannot call again");
        generations.gone(Caller(4), now);
        assert!(!generations.expire(now) && generations.expire(now + REDIAL));
    }

    #[test]
    fn one_that_started_without_an_agent_is_taken_as_what_it_is() {
        let mut generations = Generations::default();
        assert_eq!(generations.admit(Caller(1), &running(0, Some(1)), alive).unwrap().get(), 0);
        assert_eq!(number(generations.newest()), Some(0));
        let refusal = generations.admit(Caller(2), &running(16, None), alive);
        assert_eq!(refusal, Err(Refusal::NoSuchGeneration(16)));
    }

    #[test]
    fn what_cannot_be_steered_to_is_refused() {
        let mut generations = Generations::default();
        let cores = |count| Hello { cpus: vec![0; count], ..hello(None) };
        assert_eq!(generations.admit(Caller(1), &cores(0), alive), Err(Refusal::Cores(0)));
        assert_eq!(generations.admit(Caller(1), &cores(257), alive), Err(Refusal::Cores(257)));
        let far = Hello { cpus: vec![0, u16::MAX], ..hello(None) };
        assert_eq!(generations.admit(Caller(1), &far, alive), Err(Refusal::Cpu(u16::MAX)));
        assert!(generations.admit(Caller(1), &cores(256), alive).is_ok());
        let other = Hello { server: 8, ..hello(None) };
        let refusal = Refusal::OtherServer { asked: 8, generation: 0, runs: 7 };
        assert_eq!(generations.admit(Caller(2), &other, alive), Err(refusal));
    }
}
