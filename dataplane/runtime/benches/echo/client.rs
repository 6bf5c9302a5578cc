//! The client: a ring without an executor, so that it costs less than any server and the server is
//! the one that is busy.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::bare_ring::{BareRing, Enter, Kind, TaskRun};
use crate::{Load, REQUEST, RESPONSE};

/// The pause of [`Load::Paced`]: long enough for the server to sleep, and for others to run.
const PAUSE: Duration = Duration::from_micros(500);

/// The connections of one measurement.
pub(crate) struct Client {
    ring: BareRing,
    load: Load,
    connections: Vec<Connection>,
}

struct Connection {
    stream: TcpStream,
    /// Bytes of the answer that have arrived.
    received: usize,
}

impl Client {
    /// Connects and sends the first requests.
    pub(crate) fn connect(address: SocketAddr, load: Load) -> io::Result<Self> {
        let count = match load {
            Load::Closed(count) => count,
            Load::Paced => 1,
        };
        let connections = (0..count).map(|_| Connection::open(address)).collect::<io::Result<Vec<_>>>()?;
        let mut client = Self { ring: BareRing::new(TaskRun::Deferred)?, load, connections };
        for index in 0..client.connections.len() {
            let fd = client.connections[index].stream.as_raw_fd();
            client.ring.receive(fd, index);
            client.ring.send_static(fd, index, REQUEST);
        }
        Ok(client)
    }

    /// Goes on for `time`; returns how many answers arrived.
    pub(crate) fn run(&mut self, time: Duration) -> io::Result<u64> {
        let end = Instant::now() + time;
        let mut answers = 0;
        while Instant::now() < end {
            self.ring.enter(Enter::Wait);
            while let Some(completion) = self.ring.next() {
                if completion.kind != Kind::Receive || completion.result <= 0 {
                    return Err(io::Error::other(format!("the server is gone: {completion:?}")));
                }
                if let Some(buffer) = completion.buffer {
                    self.ring.give_back(buffer);
                }
                answers += self.received(completion.connection, completion.result as usize);
                if completion.is_final {
                    let fd = self.connections[completion.connection].stream.as_raw_fd();
                    self.ring.receive(fd, completion.connection);
                }
            }
        }
        Ok(answers)
    }

    /// Counts bytes; a whole answer leads to the next request.
    fn received(&mut self, index: usize, count: usize) -> u64 {
        let connection = &mut self.connections[index];
        connection.received += count;
        if connection.received < RESPONSE.len() {
            return 0;
        }
        connection.received -= RESPONSE.len();
        if self.load == Load::Paced {
            std::thread::sleep(PAUSE);
        }
        self.ring.send_static(connection.stream.as_raw_fd(), index, REQUEST);
        1
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        for connection in &self.connections {
            // The ring's receives keep the sockets open otherwise.
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
    }
}

impl Connection {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: 0 })
    }
}
