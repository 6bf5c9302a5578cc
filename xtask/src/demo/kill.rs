//! What a kill costs: clients count, the node dies by SIGKILL in the middle of it, and another one is asked what it has.
//!
//! Each client counts on a counter of its own, asks one thing at a time and never again. So what it was told is a lower
//! bound of what must be there, and the one request that nobody answered is all that may be there beside.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::demo::node::Node;
use crate::shell::Failure;
use crate::workspace::Workspace;

/// The zone of the example.
pub(super) const COUNTER: &str = "counter.localhost";
const CLIENTS: usize = 8;
/// Answers before the kill: enough that it comes in the middle of writes.
const ANSWERS: u64 = 2000;
/// And how long they may take.
const WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(1);
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Kills the node while its counters count, starts it again, and compares.
pub(super) fn run(workspace: &Workspace, node: &mut Node, stop: &AtomicBool) -> Result<(), Failure> {
    let (address, answers, over) = (node.plain, AtomicU64::new(0), AtomicBool::new(false));
    println!("\n{CLIENTS} clients count, each its own counter, until the node is killed with SIGKILL.");
    let told = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (answers, over) = (&answers, &over);
                scope.spawn(move || count(address, client, answers, over))
            })
            .collect();
        let began = Instant::now();
        while answers.load(Relaxed) < ANSWERS && began.elapsed() < WITHIN && !stop.load(Relaxed) {
            thread::sleep(LOOK_EVERY);
        }
        let killed = node.kill();
        over.store(true, Relaxed);
        let told: Vec<u64> = clients.into_iter().map(|client| client.join().unwrap_or_default()).collect();
        killed.map(|()| told)
    })?;
    node.start_again(workspace)?;
    node.wait_until_ready(stop)?;
    let mut wrong = 0;
    println!("{:<12} {:>9} {:>9}  verdict", "counter", "answered", "found");
    for (client, told) in told.into_iter().enumerate() {
        let found = read(address, client)?;
        let is_right = (told..=told + 1).contains(&found);
        wrong += usize::from(!is_right);
        let verdict = if is_right { "right" } else { "WRONG" };
        println!("{:<12} {told:>9} {found:>9}  {verdict}", format!("demo-{client}"));
    }
    match wrong {
        0 => Ok(()),
        _ => Err(Failure::new(format!("{wrong} of {CLIENTS} counters are not what their clients were told"))),
    }
}

/// Counts until the node is gone; the last number that it was told.
fn count(address: SocketAddr, client: usize, answers: &AtomicU64, over: &AtomicBool) -> u64 {
    let Ok(mut node) = Connection::open(address) else { return 0 };
    let mut last = 0;
    while !over.load(Relaxed) {
        match node.ask("POST", client) {
            Some(number) => last = number,
            None => break,
        }
        answers.fetch_add(1, Relaxed);
    }
    last
}

fn read(address: SocketAddr, client: usize) -> Result<u64, Failure> {
    let answer = Connection::open(address).ok().and_then(|mut node| node.ask("GET", client));
    answer.ok_or_else(|| Failure::new(format!("the counter demo-{client} does not answer")))
}

struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The number that a counter answers with.
    fn ask(&mut self, method: &str, client: usize) -> Option<u64> {
        let head = format!(
            "{method} /counter/demo-{client} HTTP/1.1\r\nhost: {COUNTER}\r\ncontent-length: 0\r\n\r\n"
        );
        self.0.get_mut().write_all(head.as_bytes()).ok()?;
        let (mut status, mut length) = (String::new(), 0);
        self.0.read_line(&mut status).ok()?;
        loop {
            let mut line = String::new();
            match self.0.read_line(&mut line).ok()? {
                0 => return None,
                _ if line == "\r\n" => break,
                _ => {}
            }
            if let Some(rest) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = rest.trim().parse().ok()?;
            }
        }
        let mut body = Vec::new();
        (&mut self.0).take(length).read_to_end(&mut body).ok()?;
        let number = std::str::from_utf8(&body).ok()?.trim().parse().ok()?;
        status.starts_with("HTTP/1.1 200").then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_number_is_read_and_nothing_else_is_one() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            for answer in ["200 OK\r\nContent-Length: 3\r\n\r\n41\n", "503 No\r\ncontent-length: 1\r\n\r\n7"]
            {
                let mut line = String::new();
                while line != "\r\n" {
                    line.clear();
                    stream.read_line(&mut line).unwrap();
                }
                write!(stream.get_mut(), "HTTP/1.1 {answer}").unwrap();
            }
        });
        let mut node = Connection::open(address).unwrap();
        assert_eq!([node.ask("POST", 1), node.ask("POST", 1)], [Some(41), None]);
        server.join().unwrap();
        assert_eq!(node.ask("POST", 1), None, "the node is gone");
    }
}
