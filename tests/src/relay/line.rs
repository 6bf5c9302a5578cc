//! What happens to the datagrams that travel one way between one client and the node.
//!
//! A pure core: time comes in as an argument, chance from a seed. Every datagram draws the same
//! count of random numbers whatever its fate, so that the n-th datagram of a line meets the same
//! fate in every run with the same [`Faults`], however the clock ran.
//!
//! A datagram that is to be reordered only waits longer than others, up to
//! [`Faults::reorder_within`]: those that come meanwhile overtake it. Where none come, nothing is
//! reordered, which is why what was really [overtaken](Counts::overtaken) is counted by itself.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use berth_fixtures::dice::SplitMix64;

/// Datagrams that may wait on a line: a tenth of a second at 100,000 in a second, far more than a
/// test sends. Above, a datagram is lost, and counted as [`Counts::overflowed`].
const WAITING_MAX: usize = 10_000;

/// What a relay does to datagrams, on both ways alike. The default is nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Where chance begins.
    pub seed: u64,
    /// How many of a thousand are lost.
    pub drop_permille: u16,
    /// How many of a thousand arrive twice. The copy waits, and is overtaken, as if it were reordered.
    pub duplicate_permille: u16,
    /// How many of a thousand wait longer than the others.
    pub reorder_permille: u16,
    /// How much longer at most.
    pub reorder_within: Duration,
    /// How long each one waits.
    pub delay: Duration,
}

/// What happened to datagrams. Once none waits, `sent` is `received` less `dropped`, more
/// `duplicated`, less `overflowed`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// They came in.
    pub received: u64,
    /// They were lost as [`Faults::drop_permille`] says.
    pub dropped: u64,
    /// They were copied.
    pub duplicated: u64,
    /// They waited longer than others.
    pub reordered: u64,
    /// They went out after one that had come in later.
    pub overtaken: u64,
    /// They found [`WAITING_MAX`] others waiting, and were lost.
    pub overflowed: u64,
    /// They went out.
    pub sent: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.dropped += other.dropped;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.overtaken += other.overtaken;
        self.overflowed += other.overflowed;
        self.sent += other.sent;
    }
}

/// One way between one client and the node.
#[derive(Debug)]
pub(super) struct Line {
    faults: Faults,
    chance: SplitMix64,
    /// The next one to go out is on top: when, as the how manieth it came in, and the datagram.
    waiting: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    /// The latest to come in of those that went out.
    newest_sent: u64,
    counts: Counts,
}

impl Line {
    /// A line whose number sets its chance apart from that of the relay's other lines.
    pub(super) fn new(faults: Faults, number: u64) -> Self {
        let mut numbers = SplitMix64(faults.seed);
        let chance = SplitMix64(numbers.number() ^ SplitMix64(number).number());
        Self { faults, chance, waiting: BinaryHeap::new(), newest_sent: 0, counts: Counts::default() }
    }

    /// What happened until now.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes a datagram that came in.
    pub(super) fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        let Faults { drop_permille, duplicate_permille, reorder_permille, reorder_within, delay, .. } =
            self.faults;
        let is_dropped = hits(&mut self.chance, drop_permille);
        let is_duplicated = hits(&mut self.chance, duplicate_permille);
        let is_reordered = hits(&mut self.chance, reorder_permille);
        let longer = reorder_within.mul_f64(self.chance.fraction());
        self.counts.received += 1;
        if is_dropped {
            self.counts.dropped += 1;
            return;
        }
        let due = now + delay;
        self.counts.reordered += u64::from(is_reordered);
        self.wait_until(if is_reordered { due + longer } else { due }, datagram);
        if is_duplicated {
            self.counts.duplicated += 1;
            self.wait_until(due + longer, datagram);
        }
    }

    fn wait_until(&mut self, due: Instant, datagram: &[u8]) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push(Reverse((due, self.counts.received, datagram.to_vec())));
        } else {
            self.counts.overflowed += 1;
        }
    }

    /// When the next datagram goes out.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.peek().map(|Reverse((due, ..))| *due)
    }

    /// The next datagram that goes out by now.
    pub(super) fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.poll_timeout()? > now {
            return None;
        }
        let Reverse((_, number, datagram)) = self.waiting.pop()?;
        self.counts.overtaken += u64::from(number < self.newest_sent);
        self.counts.sent += 1;
        self.newest_sent = self.newest_sent.max(number);
        Some(datagram)
    }
}

/// True in so many of a thousand cases.
fn hits(chance: &mut SplitMix64, permille: u16) -> bool {
    chance.fraction() * 1000.0 < f64::from(permille)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Datagrams, a millisecond apart, in the order in which they leave the line.
    fn send(faults: Faults, number: u64, count: u32) -> (Vec<u32>, Counts) {
        let (mut line, mut now, mut sent) = (Line::new(faults, number), Instant::now(), Vec::new());
        for serial in 0..count + 1000 {
            if serial < count {
                line.handle_datagram(now, &serial.to_be_bytes());
            }
            while let Some(datagram) = line.poll_transmit(now) {
                sent.push(u32::from_be_bytes(datagram.try_into().unwrap()));
            }
            now += Duration::from_millis(1);
        }
        assert_eq!(line.poll_timeout(), None, "a second later none waits");
        (sent, line.counts())
    }

    fn assert_near(count: u64, expected: u64) {
        assert!(count.abs_diff(expected) < expected / 4, "{count} is not about {expected}");
    }

    #[test]
    fn without_faults_all_pass_in_order() {
        let (sent, counts) = send(Faults::default(), 0, 1000);
        assert_eq!(sent, (0..1000).collect::<Vec<_>>());
        assert_eq!(counts, Counts { received: 1000, sent: 1000, ..Counts::default() });
    }

    #[test]
    fn so_many_of_a_thousand_are_dropped() {
        let (sent, counts) = send(Faults { drop_permille: 50, ..Faults::default() }, 0, 20_000);
        assert_near(counts.dropped, 1000);
        assert_eq!(counts.sent, 20_000 - counts.dropped);
        assert!(sent.is_sorted(), "dropping reorders nothing");
        assert!(send(Faults { drop_permille: 1000, ..Faults::default() }, 0, 100).0.is_empty());
    }

    #[test]
    fn so_many_of_a_thousand_come_twice() {
        let faults = Faults { duplicate_permille: 50, ..Faults::default() };
        let (mut sent, counts) = send(faults, 0, 20_000);
        assert_near(counts.duplicated, 1000);
        assert_eq!(counts.sent, 20_000 + counts.duplicated);
        sent.dedup();
        assert_eq!(sent, (0..20_000).collect::<Vec<_>>());
    }

    #[test]
    fn so_many_of_a_thousand_are_overtaken() {
        let reorder_within = Duration::from_millis(20);
        let faults = Faults { reorder_permille: 50, reorder_within, ..Faults::default() };
        let (mut sent, counts) = send(faults, 0, 20_000);
        assert_near(counts.reordered, 1000);
        // One in twenty waits less than a millisecond, and is overtaken by none.
        assert_near(counts.overtaken, 950);
        assert!(sent.iter().zip(0..).all(|(serial, place): (_, u32)| serial.abs_diff(place) <= 20));
        sent.sort_unstable();
        assert_eq!(sent, (0..20_000).collect::<Vec<_>>());
    }

    #[test]
    fn each_waits_for_the_delay() {
        let delay = Duration::from_millis(30);
        let (mut line, now) = (Line::new(Faults { delay, ..Faults::default() }, 0), Instant::now());
        line.handle_datagram(now, b"late");
        assert_eq!(line.poll_timeout(), Some(now + delay));
        assert_eq!(line.poll_transmit(now + delay - Duration::from_nanos(1)), None);
        assert_eq!(line.poll_transmit(now + delay).as_deref(), Some(&b"late"[..]));
    }

    #[test]
    fn a_seed_says_all_and_lines_differ() {
        let faults = |seed| Faults { seed, drop_permille: 300, ..Faults::default() };
        let survivors = |seed, number| send(faults(seed), number, 200).0;
        assert_eq!(survivors(1, 0), survivors(1, 0));
        assert_ne!(survivors(1, 0), survivors(2, 0));
        assert_ne!(survivors(1, 0), survivors(1, 1));
    }

    #[test]
    fn too_many_that_wait_are_lost_and_counted() {
        let delay = Duration::from_secs(1);
        let (mut line, now) = (Line::new(Faults { delay, ..Faults::default() }, 0), Instant::now());
        for _ in 0..WAITING_MAX + 5 {
            line.handle_datagram(now, b"");
        }
        assert_eq!(line.counts().overflowed, 5);
    }
}
