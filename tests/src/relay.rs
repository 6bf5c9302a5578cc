//! A UDP relay on loopback: the bad network between a client and the node.
//!
//! ```text
//! client 1 ──┐              ┌── socket of client 1 ──┐
//!            ├── the relay ─┤                        ├── node
//! client 2 ──┘              └── socket of client 2 ──┘
//! ```
//!
//! The node sees one address for each address of a client, as behind a NAT. [`Relay::rebind`] gives
//! all clients new ones at once, as a NAT does that restarts: what the node still sends to the old
//! ones is lost, and the clients know nothing of it. [`Relay::redirect`] does so towards another node.
//!
//! What happens to the datagrams is decided by a `Line` for each way of each client, a pure core
//! in `line`; here is only its shell: one thread that waits for sockets and for the next
//! datagram that is due. The kernel's buffers are made large, so that what is lost is lost on
//! purpose; [`Relay::to_node`] and [`Relay::to_clients`] count it.
//!
//! The relay has the family of the node's address, v4 or v6. It knows at most [`CLIENTS_MAX`]
//! addresses of clients; for one more it forgets the one that said nothing for longest, as a NAT does.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

mod line;

use line::Line;
pub use line::{Counts, Faults};

/// Addresses of clients that a relay knows, each with a socket: well below the usual limit of 1024
/// open files, and above what the tests have at a time. A client that moves often leaves many behind.
pub const CLIENTS_MAX: usize = 256;

/// What the kernel may keep for a socket; it grants less where its own limit is lower.
const KERNEL_BUFFER_BYTES: usize = 1 << 22;

/// Datagrams taken from a socket before the others get their turn.
const BATCH_MAX: usize = 64;

/// How long a command may have to wait for the thread.
const ANSWER_TIME: Duration = Duration::from_millis(10);

/// A running relay, which ends with the value.
pub struct Relay {
    address: SocketAddr,
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is asked to do, and where it answers.
enum Command {
    Rebind(Sender<usize>),
    Redirect(SocketAddr, Sender<()>),
    Count(Sender<(Counts, Counts)>),
}

impl Relay {
    /// Starts a relay to the node at this address.
    pub fn start(node: SocketAddr, faults: Faults) -> io::Result<Self> {
        let listener = loopback_socket(node)?;
        let address = listener.local_addr()?;
        let (commands, inbox) = channel();
        let clients = BTreeMap::new();
        let shell =
            Shell { node, faults, listener, clients, clients_seen: 0, forgotten: Default::default(), inbox };
        let thread = std::thread::Builder::new().name("relay".to_owned()).spawn(|| shell.run())?;
        Ok(Self { address, commands: Some(commands), thread: Some(thread) })
    }

    /// Where clients find it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has the node see another port of every client from now on, and returns of how many.
    pub fn rebind(&self) -> usize {
        self.ask(Command::Rebind)
    }

    /// Sends all clients to another node of the same family from now on, from new ports.
    pub fn redirect(&self, node: SocketAddr) {
        self.ask(|answer| Command::Redirect(node, answer));
    }

    /// What happened to the datagrams of all clients.
    pub fn to_node(&self) -> Counts {
        self.ask(Command::Count).0
    }

    /// What happened to those of the node.
    pub fn to_clients(&self) -> Counts {
        self.ask(Command::Count).1
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> T {
        let (answer, answered) = channel();
        let commands = self.commands.as_ref().expect("they are there until the drop");
        commands.send(command(answer)).expect("the thread lives as long as the relay");
        answered.recv().expect("the thread answers")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.commands = None;
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || !matches!(ended, Some(Err(_))), "the relay did not panic");
    }
}

/// A client, and how the node sees it.
struct Client {
    heard_at: Instant,
    upstream: UdpSocket,
    to_node: Line,
    to_client: Line,
}

/// The thread.
struct Shell {
    node: SocketAddr,
    faults: Faults,
    listener: UdpSocket,
    clients: BTreeMap<SocketAddr, Client>,
    /// How many there ever were.
    clients_seen: u64,
    /// What happened to the datagrams of those that were forgotten, to the node and to the clients.
    forgotten: (Counts, Counts),
    inbox: Receiver<Command>,
}

impl Shell {
    fn run(mut self) {
        loop {
            match self.inbox.try_recv() {
                Ok(Command::Rebind(answer)) => drop(answer.send(self.rebind())),
                Ok(Command::Redirect(node, answer)) => {
                    self.node = node;
                    self.rebind();
                    let _ = answer.send(());
                }
                Ok(Command::Count(answer)) => drop(answer.send(self.count())),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return,
            }
            self.wait();
            self.receive(Instant::now());
            self.send(Instant::now());
        }
    }

    fn rebind(&mut self) -> usize {
        for client in self.clients.values_mut() {
            client.upstream = upstream_socket(self.node);
        }
        self.clients.len()
    }

    fn count(&self) -> (Counts, Counts) {
        let (mut to_node, mut to_clients) = self.forgotten;
        for client in self.clients.values() {
            to_node += client.to_node.counts();
            to_clients += client.to_client.counts();
        }
        (to_node, to_clients)
    }

    /// Waits until a datagram comes or is due, or a command may have come.
    fn wait(&self) {
        let lines = self.clients.values().flat_map(|client| [&client.to_node, &client.to_client]);
        let due = lines.filter_map(Line::poll_timeout).min();
        let time = due.map_or(ANSWER_TIME, |due| due.saturating_duration_since(Instant::now()));
        let sockets = self.clients.values().map(|client| &client.upstream).chain([&self.listener]);
        wait_for_any(sockets, time.min(ANSWER_TIME));
    }

    fn receive(&mut self, now: Instant) {
        let mut buffer = [0; 1 << 16];
        for _ in 0..BATCH_MAX {
            let Ok((length, address)) = self.listener.recv_from(&mut buffer) else { break };
            let client = self.client_at(address, now);
            client.heard_at = now;
            client.to_node.handle_datagram(now, &buffer[..length]);
        }
        for client in self.clients.values_mut() {
            for _ in 0..BATCH_MAX {
                // An error is an empty socket, or tells that the node's port was closed once.
                let Ok(length) = client.upstream.recv(&mut buffer) else { break };
                client.to_client.handle_datagram(now, &buffer[..length]);
            }
        }
    }

    fn client_at(&mut self, address: SocketAddr, now: Instant) -> &mut Client {
        if self.clients.len() == CLIENTS_MAX && !self.clients.contains_key(&address) {
            self.forget_the_most_silent();
        }
        self.clients.entry(address).or_insert_with(|| {
            let line = |way| Line::new(self.faults, 2 * self.clients_seen + way);
            let (to_node, to_client) = (line(0), line(1));
            self.clients_seen += 1;
            Client { heard_at: now, upstream: upstream_socket(self.node), to_node, to_client }
        })
    }

    fn forget_the_most_silent(&mut self) {
        let silent = self.clients.iter().min_by_key(|(_, client)| client.heard_at);
        let silent = silent.map(|(address, _)| *address);
        if let Some(client) = silent.and_then(|address| self.clients.remove(&address)) {
            self.forgotten.0 += client.to_node.counts();
            self.forgotten.1 += client.to_client.counts();
        }
    }

    fn send(&mut self, now: Instant) {
        for (address, client) in &mut self.clients {
            // What a socket does not take is lost, as on a network.
            while let Some(datagram) = client.to_node.poll_transmit(now) {
                let _ = client.upstream.send(&datagram);
            }
            while let Some(datagram) = client.to_client.poll_transmit(now) {
                let _ = self.listener.send_to(&datagram, address);
            }
        }
    }
}

/// A socket that does not block, on a free loopback port of the node's family.
fn loopback_socket(node: SocketAddr) -> io::Result<UdpSocket> {
    let loopback = match node {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    let socket = Socket::new(Domain::for_address(node), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(KERNEL_BUFFER_BYTES)?;
    socket.set_send_buffer_size(KERNEL_BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(loopback, 0).into())?;
    Ok(socket.into())
}

/// The socket that stands for a client. It hears only the node.
fn upstream_socket(node: SocketAddr) -> UdpSocket {
    let socket = loopback_socket(node).expect("a loopback port is free");
    socket.connect(node).expect("the node is on loopback as well");
    socket
}

/// Waits until one of the sockets can be read, or for this time.
fn wait_for_any<'a>(sockets: impl Iterator<Item = &'a UdpSocket>, time: Duration) {
    let asked =
        |socket: &UdpSocket| libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut asked: Vec<libc::pollfd> = sockets.map(asked).collect();
    let time = libc::timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() };
    // SAFETY: the pointers are of a vector of that length and of a time, which outlive the call; the
    // descriptors are of sockets that are borrowed until then.
    unsafe {
        libc::ppoll(asked.as_mut_ptr(), asked.len() as libc::nfds_t, &raw const time, std::ptr::null())
    };
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use super::*;

    /// How long a datagram may take that is not lost: the machine may be busy.
    const PATIENCE: Duration = Duration::from_secs(10);

    /// Answers each datagram with the port that it came from, and with itself.
    struct Echo {
        address: SocketAddr,
        is_over: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    }

    impl Echo {
        fn start(address: &str) -> io::Result<Self> {
            let socket = UdpSocket::bind(address)?;
            socket.set_read_timeout(Some(Duration::from_millis(10)))?;
            let (address, is_over) = (socket.local_addr()?, Arc::<AtomicBool>::default());
            let flag = Arc::clone(&is_over);
            let thread = std::thread::spawn(move || {
                let mut buffer = [0; 2048];
                while !flag.load(Relaxed) {
                    let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                    let answer = [&from.port().to_be_bytes(), &buffer[..length]].concat();
                    socket.send_to(&answer, from).unwrap();
                }
            });
            Ok(Self { address, is_over, thread: Some(thread) })
        }
    }

    impl Drop for Echo {
        fn drop(&mut self) {
            self.is_over.store(true, Relaxed);
            let _ = self.thread.take().map(JoinHandle::join);
        }
    }

    /// A client of the relay.
    fn client(relay: &Relay) -> UdpSocket {
        let socket = loopback_socket(relay.address()).unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(relay.address()).unwrap();
        socket
    }

    /// The port that the node saw, and what it answered.
    fn receive(client: &UdpSocket) -> (u16, Vec<u8>) {
        let mut buffer = [0; 2048];
        let length = client.recv(&mut buffer).expect("the answer comes");
        (u16::from_be_bytes([buffer[0], buffer[1]]), buffer[2..length].to_vec())
    }

    fn exchange(client: &UdpSocket, datagram: &[u8]) -> (u16, Vec<u8>) {
        client.send(datagram).unwrap();
        receive(client)
    }

    /// Sends this many, ten at a time so that no buffer overflows, and counts what comes back.
    fn count_answers(relay: &Relay, client: &UdpSocket, count: u32) -> u64 {
        for number in 0..count {
            client.send(&number.to_be_bytes()).unwrap();
            if number % 10 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let deadline = Instant::now() + PATIENCE;
        while relay.to_node().received < u64::from(count) || !is_idle(relay) {
            assert!(Instant::now() < deadline, "the relay comes to rest: {:?}", relay.to_clients());
            std::thread::sleep(Duration::from_millis(1));
        }
        client.set_nonblocking(true).unwrap();
        std::iter::from_fn(|| client.recv(&mut [0; 2048]).ok()).count() as u64
    }

    /// Whether everything that reached the node was answered, and all answers have left.
    fn is_idle(relay: &Relay) -> bool {
        let (to_node, to_clients) = (relay.to_node(), relay.to_clients());
        let has_left = |counts: Counts| counts.sent == counts.received + counts.duplicated - counts.dropped;
        has_left(to_node) && has_left(to_clients) && to_clients.received == to_node.sent
    }

    #[test]
    fn datagrams_pass_both_ways_and_clients_stay_apart() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(echo) = Echo::start(address) else { continue };
            let relay = Relay::start(echo.address, Faults::default()).unwrap();
            let clients = [client(&relay), client(&relay)];
            let mut ports = Vec::new();
            for round in 0..50 {
                let said = clients.each_ref().map(|client| exchange(client, &[round; 1200]));
                assert!(said.iter().all(|(_, answer)| *answer == [round; 1200]));
                ports.push(said.map(|(port, _)| port));
            }
            ports.dedup();
            assert_eq!(ports.len(), 1, "each client keeps the port that the node sees");
            assert_ne!(ports[0][0], ports[0][1]);
            assert_eq!(relay.to_clients(), Counts { received: 100, sent: 100, ..Counts::default() });
        }
    }

    #[test]
    fn a_rebinding_shows_the_node_another_port() {
        let echo = Echo::start("127.0.0.1:0").unwrap();
        let relay = Relay::start(echo.address, Faults::default()).unwrap();
        let client = client(&relay);
        let (before, _) = exchange(&client, b"one");
        assert_eq!(relay.rebind(), 1);
        let (after, answer) = exchange(&client, b"two");
        assert_ne!(before, after);
        assert_eq!(answer, b"two");
    }

    #[test]
    fn a_redirection_leads_to_another_node() {
        let (one, other) = (Echo::start("127.0.0.1:0").unwrap(), Echo::start("127.0.0.1:0").unwrap());
        let relay = Relay::start(one.address, Faults::default()).unwrap();
        let client = client(&relay);
        exchange(&client, b"one");
        drop(one);
        relay.redirect(other.address);
        assert_eq!(exchange(&client, b"two").1, b"two", "only the other one is there to answer");
    }

    #[test]
    fn who_said_nothing_for_longest_is_forgotten() {
        let echo = Echo::start("127.0.0.1:0").unwrap();
        let relay = Relay::start(echo.address, Faults::default()).unwrap();
        let (first, second) = (client(&relay), client(&relay));
        let (first_port, _) = exchange(&first, b"");
        let (second_port, _) = exchange(&second, b"");
        exchange(&first, b"");
        let others: Vec<_> = (0..CLIENTS_MAX - 1).map(|_| client(&relay)).collect();
        for other in &others {
            exchange(other, b"");
        }
        assert_eq!(exchange(&first, b"").0, first_port);
        assert_ne!(exchange(&second, b"").0, second_port, "it is a new one");
        assert_eq!(relay.to_node().sent, 3 + others.len() as u64 + 2, "also of the forgotten");
    }

    #[test]
    fn faults_happen_as_often_as_asked() {
        let echo = Echo::start("127.0.0.1:0").unwrap();
        let faults = Faults { seed: 7, drop_permille: 100, duplicate_permille: 50, ..Faults::default() };
        let relay = Relay::start(echo.address, faults).unwrap();
        let answers = count_answers(&relay, &client(&relay), 2000);
        let (to_node, to_clients) = (relay.to_node(), relay.to_clients());
        assert_eq!(answers, to_clients.sent, "no datagram is lost but on purpose");
        assert!((150..250).contains(&to_node.dropped), "about 200: {to_node:?}");
        assert!((60..140).contains(&to_node.duplicated), "about 90: {to_node:?}");
        assert!((130..240).contains(&to_clients.dropped), "about 190: {to_clients:?}");
        // The same seed, the same fates: of the same count of datagrams, whenever they came.
        let again = Relay::start(echo.address, faults).unwrap();
        count_answers(&again, &client(&again), 2000);
        assert_eq!((again.to_node().dropped, again.to_node().sent), (to_node.dropped, to_node.sent));
    }

    #[test]
    fn some_are_overtaken_and_none_is_lost() {
        let echo = Echo::start("127.0.0.1:0").unwrap();
        let reorder_within = Duration::from_millis(20);
        let faults = Faults { seed: 7, reorder_permille: 100, reorder_within, ..Faults::default() };
        let relay = Relay::start(echo.address, faults).unwrap();
        assert_eq!(count_answers(&relay, &client(&relay), 1000), 1000);
        let counts = relay.to_node();
        assert!((60..140).contains(&counts.reordered), "about 100: {counts:?}");
        assert!(counts.overtaken > counts.reordered / 2, "most of them: {counts:?}");
    }

    #[test]
    fn a_delay_is_waited_for_on_both_ways() {
        let echo = Echo::start("127.0.0.1:0").unwrap();
        let delay = Duration::from_millis(25);
        let relay = Relay::start(echo.address, Faults { delay, ..Faults::default() }).unwrap();
        let (client, start) = (client(&relay), Instant::now());
        exchange(&client, b"slow");
        assert!(start.elapsed() >= 2 * delay);
    }
}
