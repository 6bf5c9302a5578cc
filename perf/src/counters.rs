//! Our own client of counters: Berth's and workerd's objects over HTTP/1.1, and keys of Redis over its own protocol.
//!
//! One request at a time on each connection, whatever the protocol. In a *closed* loop each connection asks again as soon as
//! it has its answer. At a *fixed rate* requests are due at even times, and a time is counted from when its request was due:
//! one that found no free connection has waited, and one that is not answered at the end counts with its age. So a server that
//! stops for a moment is told the whole of it. This client then never sleeps: a timer would be late. Nor does it while it reads
//! in a closed loop, where the CPU time of the server is what counts: on a virtual machine it takes a server 9 µs to wake a client
//! that sleeps, which is the price of this client and not of an answer.
//!
//! Every answer is read and is the counter's number. At the end, the numbers of each counter must be as many as were answered:
//! an increment that was acknowledged twice, or lost, is an error.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use hdrhistogram::Histogram;

use crate::answer;
use crate::swarm::LoopTally;
use crate::sys::Poller;

/// A request that waits for longer has failed.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// So many failures end the run.
const FAILURES_MAX: u64 = 100;

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum Dialect {
    /// `GET` and `POST` of `/counter/NAME`.
    Http,
    /// `GET` and `INCR`.
    Redis,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum Verb {
    /// One more, please.
    Add,
    /// How many.
    Read,
}

/// Which requests, and when.
#[derive(Clone, Debug)]
pub(crate) struct Asking {
    pub(crate) dialect: Dialect,
    pub(crate) verb: Verb,
    pub(crate) connections: usize,
    /// Counters that are asked, each as likely as another.
    pub(crate) counters: usize,
    pub(crate) pace: Pace,
}

/// When the next request is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// When the one before is answered, for so long.
    Closed(Duration),
    /// At even times, so many a second, for so long.
    Rate(u32, Duration),
    /// Each counter once.
    Once,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CountersError {
    #[error("could not connect to {address}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("could not wait for sockets")]
    Poll(#[source] io::Error),
    #[error("{0} requests failed, the last because: {1}")]
    Failing(u64, LinkError),
    #[error(
        "counter {counter} answered {answers} increments with numbers from {least} to {most}: some were lost, or acknowledged twice"
    )]
    Miscounted { counter: usize, answers: u64, least: u64, most: u64 },
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("the answer is no number of a counter: {0:?}")]
    Answer(String),
    #[error("no answer within {} s", ANSWER_WITHIN.as_secs())]
    Late,
}

/// Asks, and tells what came of it.
pub(crate) fn ask(address: SocketAddr, asking: &Asking) -> Result<LoopTally, CountersError> {
    let mut crowd = Crowd::open(address, asking)?;
    match asking.pace {
        Pace::Closed(span) => crowd.closed(span)?,
        Pace::Rate(rate, span) => crowd.at_rate(rate, span)?,
        Pace::Once => crowd.once()?,
    }
    crowd.check()?;
    Ok(LoopTally {
        done: crowd.times.len() - crowd.unanswered,
        failed: crowd.failures,
        seconds: crowd.began.elapsed().as_secs_f64(),
        p50_us: crowd.times.value_at_quantile(0.5),
        p99_us: crowd.times.value_at_quantile(0.99),
    })
}

/// Of one counter's answers.
#[derive(Clone, Copy)]
struct Numbers {
    least: u64,
    most: u64,
    answers: u64,
}

struct Link {
    socket: TcpStream,
    answer: Vec<u8>,
    asked: Option<Asked>,
}

#[derive(Clone, Copy)]
struct Asked {
    counter: usize,
    due: Instant,
}

struct Crowd<'a> {
    address: SocketAddr,
    asking: &'a Asking,
    requests: Vec<Vec<u8>>,
    poller: Poller,
    links: Vec<Link>,
    /// Without a request under way.
    free: Vec<usize>,
    numbers: Vec<Numbers>,
    times: Histogram<u64>,
    unanswered: u64,
    failures: u64,
    random: u64,
    began: Instant,
}

impl<'a> Crowd<'a> {
    fn open(address: SocketAddr, asking: &'a Asking) -> Result<Self, CountersError> {
        let times = Histogram::new_with_max(ANSWER_WITHIN.as_micros() as u64 * 4, 3)
            .expect("two bounds that differ make a histogram");
        let mut crowd = Self {
            address,
            asking,
            requests: (0..asking.counters).map(|counter| request(asking, address, counter)).collect(),
            poller: Poller::new().map_err(CountersError::Poll)?,
            links: Vec::new(),
            free: (0..asking.connections).collect(),
            numbers: vec![Numbers { least: u64::MAX, most: 0, answers: 0 }; asking.counters],
            times,
            unanswered: 0,
            failures: 0,
            random: 0x9E37_79B9_7F4A_7C15,
            began: Instant::now(),
        };
        for slot in 0..asking.connections {
            let link = crowd.connect(slot)?;
            crowd.links.push(link);
        }
        crowd.began = Instant::now();
        Ok(crowd)
    }

    fn connect(&self, slot: usize) -> Result<Link, CountersError> {
        let connected = || -> io::Result<TcpStream> {
            let socket = TcpStream::connect_timeout(&self.address, ANSWER_WITHIN)?;
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
            self.poller.watch(socket.as_raw_fd(), slot)?;
            Ok(socket)
        };
        let socket =
            connected().map_err(|source| CountersError::Connect { address: self.address, source })?;
        Ok(Link { socket, answer: Vec::new(), asked: None })
    }

    fn closed(&mut self, span: Duration) -> Result<(), CountersError> {
        let mut ready = Vec::new();
        while self.began.elapsed() < span {
            while let Some(slot) = self.free.pop() {
                let counter = self.any_counter();
                self.send(slot, Asked { counter, due: Instant::now() })?;
            }
            let looked = match self.asking.verb {
                Verb::Add => self.poller.wait(Duration::from_millis(50), &mut ready),
                Verb::Read => self.poller.look(&mut ready),
            };
            looked.map_err(CountersError::Poll)?;
            self.receive_all(&ready)?;
        }
        Ok(())
    }

    fn at_rate(&mut self, rate: u32, span: Duration) -> Result<(), CountersError> {
        let mut ready = Vec::new();
        let mut waiting: VecDeque<Instant> = VecDeque::new();
        let (mut due, mut number) = (self.began, 0_u64);
        loop {
            let now = Instant::now();
            while due <= now && due - self.began < span {
                waiting.push_back(due);
                number += 1;
                due = self.began + Duration::from_secs_f64(number as f64 / f64::from(rate));
            }
            while !waiting.is_empty() {
                let Some(slot) = self.free.pop() else { break };
                let Some(due) = waiting.pop_front() else { break };
                let counter = self.any_counter();
                self.send(slot, Asked { counter, due })?;
            }
            if now - self.began >= span {
                break;
            }
            self.poller.look(&mut ready).map_err(CountersError::Poll)?;
            self.receive_all(&ready)?;
        }
        let asked = self.links.iter().filter_map(|link| link.asked.map(|asked| asked.due));
        for due in asked.chain(waiting) {
            self.times.saturating_record(due.elapsed().as_micros() as u64);
            self.unanswered += 1;
        }
        Ok(())
    }

    fn once(&mut self) -> Result<(), CountersError> {
        let mut ready = Vec::new();
        let mut left = 0..self.asking.counters;
        while self.times.len() < self.asking.counters as u64 {
            while let Some(slot) = self.free.pop() {
                let Some(counter) = left.next() else { break };
                self.send(slot, Asked { counter, due: Instant::now() })?;
            }
            self.poller.wait(Duration::from_millis(50), &mut ready).map_err(CountersError::Poll)?;
            self.receive_all(&ready)?;
            self.drop_late()?;
        }
        Ok(())
    }

    /// xorshift: evenly enough, and the same in each run.
    fn any_counter(&mut self) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % self.asking.counters as u64) as usize
    }

    /// A request is some hundred bytes: it fits into the empty buffer of a socket.
    fn send(&mut self, slot: usize, asked: Asked) -> Result<(), CountersError> {
        let link = &mut self.links[slot];
        link.asked = Some(asked);
        match link.socket.write(&self.requests[asked.counter]) {
            Ok(count) if count == self.requests[asked.counter].len() => Ok(()),
            Ok(_) => self.failed(slot, LinkError::Closed),
            Err(error) => self.failed(slot, error.into()),
        }
    }

    fn receive_all(&mut self, ready: &[usize]) -> Result<(), CountersError> {
        for &slot in ready {
            if let Err(error) = self.receive(slot) {
                self.failed(slot, error)?;
            }
        }
        Ok(())
    }

    fn receive(&mut self, slot: usize) -> Result<(), LinkError> {
        let link = &mut self.links[slot];
        let mut chunk = [0; 4096];
        let count = match link.socket.read(&mut chunk) {
            Ok(0) => return Err(LinkError::Closed),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // Nearly always the answer is whole, and is read where it is.
        let text = match link.answer.is_empty() {
            true => &chunk[..count],
            false => {
                link.answer.extend_from_slice(&chunk[..count]);
                &link.answer
            }
        };
        let garbled = || LinkError::Answer(String::from_utf8_lossy(text).into_owned());
        let number = match number(self.asking.dialect, text) {
            Ok(Some(number)) => number,
            Ok(None) if link.answer.is_empty() => {
                link.answer.extend_from_slice(&chunk[..count]);
                return Ok(());
            }
            Ok(None) => return Ok(()),
            Err(()) => return Err(garbled()),
        };
        let Some(asked) = link.asked.take() else { return Err(garbled()) };
        link.answer.clear();
        self.times.saturating_record(asked.due.elapsed().as_micros() as u64);
        let numbers = &mut self.numbers[asked.counter];
        numbers.least = numbers.least.min(number);
        numbers.most = numbers.most.max(number);
        numbers.answers += 1;
        self.free.push(slot);
        Ok(())
    }

    /// Counts a failure, and begins anew on another connection.
    fn failed(&mut self, slot: usize, error: LinkError) -> Result<(), CountersError> {
        self.failures += 1;
        if self.failures >= FAILURES_MAX {
            return Err(CountersError::Failing(self.failures, error));
        }
        let was_busy = self.links[slot].asked.is_some();
        self.links[slot] = self.connect(slot)?;
        if was_busy {
            self.free.push(slot);
        }
        Ok(())
    }

    fn drop_late(&mut self) -> Result<(), CountersError> {
        for slot in 0..self.links.len() {
            if self.links[slot].asked.is_some_and(|asked| asked.due.elapsed() > ANSWER_WITHIN) {
                return Err(CountersError::Failing(self.failures + 1, LinkError::Late));
            }
        }
        Ok(())
    }

    /// Each increment has a number of its own.
    fn check(&self) -> Result<(), CountersError> {
        if self.asking.verb == Verb::Read {
            return Ok(());
        }
        let unknown = self.asking.connections as u64 + self.failures;
        for (counter, numbers) in self.numbers.iter().enumerate().filter(|(_, numbers)| numbers.answers > 0) {
            let Numbers { least, most, answers } = *numbers;
            if !(answers..=answers + unknown).contains(&(most - least + 1)) {
                return Err(CountersError::Miscounted { counter, answers, least, most });
            }
        }
        Ok(())
    }
}

fn request(asking: &Asking, address: SocketAddr, counter: usize) -> Vec<u8> {
    let name = format!("c{counter}");
    let length = name.len();
    let text = match (asking.dialect, asking.verb) {
        (Dialect::Http, Verb::Read) => format!("GET /counter/{name} HTTP/1.1\r\nHost: {address}\r\n\r\n"),
        (Dialect::Http, Verb::Add) => {
            format!("POST /counter/{name} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n")
        }
        (Dialect::Redis, Verb::Read) => format!("*2\r\n$3\r\nGET\r\n${length}\r\n{name}\r\n"),
        (Dialect::Redis, Verb::Add) => format!("*2\r\n$4\r\nINCR\r\n${length}\r\n{name}\r\n"),
    };
    text.into_bytes()
}

/// The number in an answer. `Ok(None)` while bytes are missing.
fn number(dialect: Dialect, bytes: &[u8]) -> Result<Option<u64>, ()> {
    let digits = match dialect {
        Dialect::Http => match answer::parse(bytes)? {
            None => return Ok(None),
            Some(answer) if answer.status == 200 => {
                let end = answer.head_bytes + answer.body_bytes;
                if bytes.len() != end {
                    return Err(());
                }
                &bytes[answer.head_bytes..]
            }
            Some(_) => return Err(()),
        },
        Dialect::Redis => match bytes.strip_suffix(b"\r\n") {
            None => return Ok(None),
            Some(line) => match (line.split_first(), line.windows(2).position(|two| two == b"\r\n")) {
                (Some((b':', digits)), None) => digits,
                (Some((b'$', b"-1")), None) => b"0",
                (Some((b'$', _)), None) => return Ok(None),
                (Some((b'$', _)), Some(end)) => &line[end + 2..],
                _ => return Err(()),
            },
        },
    };
    let text = std::str::from_utf8(digits).map_err(drop)?;
    text.trim_ascii().parse().map(Some).map_err(drop)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    #[test]
    fn numbers_are_read_whole_and_never_too_early() {
        let http = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n42";
        for cut in 0..http.len() {
            assert_eq!(number(Dialect::Http, &http[..cut]), Ok(None), "cut at {cut}");
        }
        assert_eq!(number(Dialect::Http, http), Ok(Some(42)));
        assert_eq!(number(Dialect::Http, b"HTTP/1.1 503 No\r\ncontent-length: 1\r\n\r\n4"), Err(()));
        for cut in 0..5 {
            assert_eq!(number(Dialect::Redis, &b":42\r\n"[..cut]), Ok(None), "cut at {cut}");
        }
        assert_eq!(number(Dialect::Redis, b":42\r\n"), Ok(Some(42)));
        assert_eq!(number(Dialect::Redis, b"$2\r\n"), Ok(None));
        assert_eq!(number(Dialect::Redis, b"$2\r\n17\r\n"), Ok(Some(17)));
        assert_eq!(number(Dialect::Redis, b"$-1\r\n"), Ok(Some(0)));
        assert_eq!(number(Dialect::Redis, b"-ERR no\r\n"), Err(()));
    }

    /// A server of one counter, in the manner of Redis, which adds `step` for each answer and waits before it.
    fn counter(step: u64, pause: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let count = AtomicU64::new(0);
            std::thread::scope(|scope| {
                for socket in listener.incoming() {
                    let (mut socket, count) = (socket.unwrap(), &count);
                    scope.spawn(move || {
                        let mut bytes = [0; 1024];
                        while socket.read(&mut bytes).is_ok_and(|count| count > 0) {
                            std::thread::sleep(pause);
                            let number = count.fetch_add(step, Relaxed) + step;
                            let _ = socket.write_all(format!(":{number}\r\n").as_bytes());
                        }
                    });
                }
            });
        });
        address
    }

    fn asking(pace: Pace, counters: usize) -> Asking {
        Asking { dialect: Dialect::Redis, verb: Verb::Add, connections: 2, counters, pace }
    }

    #[test]
    fn increments_are_counted_and_a_lost_one_is_found() {
        let closed = asking(Pace::Closed(Duration::from_millis(50)), 1);
        let good = ask(counter(1, Duration::ZERO), &closed).unwrap();
        assert!(good.done > 0 && good.failed == 0);
        for step in [0, 3] {
            let bad = ask(counter(step, Duration::ZERO), &closed);
            assert!(matches!(bad, Err(CountersError::Miscounted { .. })), "step {step}");
        }
    }

    #[test]
    fn a_request_that_waits_for_a_connection_has_waited() {
        // Two connections and 20 ms an answer: a hundred a second, and four times as many are due.
        let late = asking(Pace::Rate(400, Duration::from_millis(500)), 1);
        let tally = ask(counter(1, Duration::from_millis(20)), &late).unwrap();
        assert!(tally.done <= 60 && tally.p99_us >= 200_000, "{tally:?}");
    }

    #[test]
    fn once_is_once_each() {
        let tally = ask(counter(1, Duration::ZERO), &asking(Pace::Once, 1)).unwrap();
        assert_eq!(tally.done, 1);
    }
}
