//! The programs at work: the reuseport program gives real datagrams and real connections to the socket of their core, and
//! the XDP program brings them to its CPU over a real cable.
//!
//! Four sockets share an address, as two cores of an old and a new generation do. Needs the right to load programs, and
//! for the cable, network namespaces.
#![allow(clippy::panic, reason = "a test that cannot go on ends with the reason")]

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use berth_control_agent::programs::{Card, Programs};
use berth_fixtures::dice::SplitMix64;
use berth_fixtures::frames::{self, protocol};
use berth_fixtures::packets;
use berth_fixtures::site::{self, NEW, OLD, SERVER};
use berth_steer::decide::Reason;
use berth_steer::table::Table;
use berth_tests::network::{NODE_CARD, Network};
use berth_tests::programs::load_or_skip;
use socket2::{Domain, Socket, Type};

const LOOPBACKS: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];
/// Generation and core of each socket.
const SEATS: [(u8, u8); 4] = [(OLD, 0), (OLD, 1), (NEW, 0), (NEW, 1)];
/// Longer than loopback ever takes.
const PATIENCE: Duration = Duration::from_secs(5);

fn shared_socket(kind: Type, address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    if kind == Type::STREAM {
        socket.listen(1024)?;
    }
    Ok(socket)
}

/// One socket for each seat, all at one address, among which the program chooses.
fn seats(programs: &mut Programs, kind: Type, address: &str) -> (SocketAddr, Vec<Socket>) {
    let first =
        shared_socket(kind, address.parse().expect("it is an address")).expect("loopback can be bound");
    let address = first.local_addr().ok().and_then(|address| address.as_socket()).expect("it was bound");
    let more = (1..SEATS.len()).map(|_| shared_socket(kind, address).expect("the address is shared"));
    let sockets: Vec<Socket> = std::iter::once(first).chain(more).collect();
    for ((generation, core), socket) in SEATS.iter().zip(&sockets) {
        let generation = site::destination(SERVER, *core, *generation).generation;
        programs.set_socket(generation, *core, socket).expect("a socket can be put into its slot");
    }
    programs.attach_to_group(&sockets[0]).expect("the program can be attached");
    (address, sockets)
}

/// The same at the node's end of the cable, whose card steers.
fn seats_behind_card(
    network: &Network,
    programs: &mut Programs,
    card: Card,
    kind: Type,
    address: &str,
) -> (SocketAddr, Vec<Socket>) {
    network.at_node(|| {
        programs.attach_to_card(NODE_CARD, card).expect("the card takes the program");
        seats(programs, kind, address)
    })
}

/// The seat of a flow without an id, by what others make of the documented bytes.
fn seat_of_flow(table: &Table, from: SocketAddr, to: SocketAddr, protocol: u8) -> usize {
    let bytes = |address: SocketAddr| match address.ip() {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let hash = packets::hash(&bytes(from), &bytes(to), [from.port(), to.port()], protocol);
    seat(NEW, site::place(table, hash).core as u8)
}

fn seat(generation: u8, core: u8) -> usize {
    SEATS.iter().position(|seat| *seat == (generation, core)).expect("there is such a seat")
}

/// The first of the sockets that has something, and what it has.
fn first<S, T>(sockets: &[S], take: impl Fn(&S) -> io::Result<T>) -> (usize, T) {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        for (seat, socket) in sockets.iter().enumerate() {
            if let Ok(taken) = take(socket) {
                return (seat, taken);
            }
        }
        std::thread::yield_now();
    }
    panic!("nothing arrives at any socket");
}

fn receive(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut buffer = [0; 2048];
    socket.recv(&mut buffer).map(|length| buffer[..length].to_vec())
}

/// Which socket has the datagram.
fn arrived_at(sockets: &[UdpSocket], payload: &[u8]) -> usize {
    let (seat, received) = first(sockets, receive);
    assert_eq!(received, payload);
    seat
}

#[test]
fn datagrams_reach_the_socket_that_their_id_names_or_that_of_their_flow() {
    let table = site::table();
    for address in LOOPBACKS {
        let test = "datagrams_reach_the_socket_that_their_id_names_or_that_of_their_flow";
        let Some(mut programs) = load_or_skip(test, &table) else { return };
        let (address, sockets) = seats(&mut programs, Type::DGRAM, address);
        let sockets: Vec<UdpSocket> = sockets.into_iter().map(UdpSocket::from).collect();
        let mut dice = SplitMix64(1);
        for _ in 0..16 {
            let client = UdpSocket::bind((address.ip(), 0)).unwrap();
            let by_flow = seat_of_flow(&table, client.local_addr().unwrap(), address, protocol::UDP);
            let send = |payload: &[u8], expected: usize, what: &str| {
                client.send_to(payload, address).unwrap();
                assert_eq!(arrived_at(&sockets, payload), expected, "{what}");
            };
            for codepoint in [site::clear(), site::encrypted()] {
                for (generation, core) in SEATS {
                    let id =
                        site::id_with(codepoint, site::destination(SERVER, core, generation), dice.bytes());
                    send(&frames::quic_short(0x40, &id, b"short"), seat(generation, core), "a short header");
                    let long = frames::quic_long(0x60, 1, &id, b"client", b"long");
                    send(&long, seat(generation, core), "a long header");
                }
                let dead = site::id_with(codepoint, site::destination(SERVER, 9, NEW), dice.bytes());
                send(&frames::quic_short(0x40, &dead, b"dead"), by_flow, "an id of a core that is not there");
            }
            send(&frames::quic_long(0x40, 1, &dice.bytes::<8>(), b"", &[0; 1180]), by_flow, "an Initial");
            send(b"?", by_flow, "a byte");
        }
        let counters = programs.socket_counters().unwrap();
        assert_eq!((counters.chosen, counters.empty, counters.left), (16 * 20, 0, 0));
        let counted = |reason: Reason| counters.reasons[reason as usize];
        assert_eq!(
            [Reason::ConnectionId, Reason::DeadConnectionId, Reason::Udp].map(counted),
            [16 * 16, 16 * 2, 16 * 2]
        );
    }
}

#[test]
fn a_datagram_whose_socket_is_closed_goes_where_its_flow_goes() {
    let table = site::table();
    let test = "a_datagram_whose_socket_is_closed_goes_where_its_flow_goes";
    let Some(mut programs) = load_or_skip(test, &table) else { return };
    let (address, mut sockets) = seats(&mut programs, Type::DGRAM, LOOPBACKS[0]);
    drop(sockets.remove(seat(OLD, 1)));
    let sockets: Vec<UdpSocket> = sockets.into_iter().map(UdpSocket::from).collect();
    for _ in 0..16 {
        let client = UdpSocket::bind((address.ip(), 0)).unwrap();
        let by_flow = seat_of_flow(&table, client.local_addr().unwrap(), address, protocol::UDP);
        let id = site::id(site::clear(), site::destination(SERVER, 1, OLD));
        let payload = frames::quic_short(0x40, &id, b"nobody's");
        client.send_to(&payload, address).unwrap();
        // The seats behind the one that is gone have moved up in our list.
        assert_eq!(arrived_at(&sockets, &payload), by_flow - 1);
    }
    let counters = programs.socket_counters().unwrap();
    assert_eq!((counters.chosen, counters.empty, counters.left), (0, 16, 0));
}

#[test]
fn connections_are_accepted_by_the_socket_of_their_flow() {
    let table = site::table();
    for address in LOOPBACKS {
        let Some(mut programs) = load_or_skip("connections_are_accepted_by_the_socket_of_their_flow", &table)
        else {
            return;
        };
        let (address, sockets) = seats(&mut programs, Type::STREAM, address);
        let listeners: Vec<TcpListener> = sockets.into_iter().map(TcpListener::from).collect();
        let mut seen = [0; SEATS.len()];
        for _ in 0..64 {
            let client = TcpStream::connect(address).unwrap();
            let expected = seat_of_flow(&table, client.local_addr().unwrap(), address, protocol::TCP);
            let (seat, (_, peer)) = first(&listeners, TcpListener::accept);
            assert_eq!((seat, peer), (expected, client.local_addr().unwrap()));
            seen[seat] += 1;
        }
        assert!(
            seen[seat(OLD, 0)] + seen[seat(OLD, 1)] == 0 && seen[seat(NEW, 0)] > 8 && seen[seat(NEW, 1)] > 8
        );
        let counters = programs.socket_counters().unwrap();
        assert_eq!((counters.reasons[Reason::Tcp as usize], counters.chosen, counters.left), (64, 64, 0));
    }
}

/// Datagrams of each kind that one client sends: few, since nobody reads until all are sent.
const EACH: usize = 10;

/// What a client sent, and the seat where it must arrive.
type Sent = (Vec<u8>, usize);

/// Sends from a new port: to each seat by its id, in clear and encrypted, and without an id.
fn send_all(table: &Table, address: SocketAddr, client: &str, dice: &mut SplitMix64) -> Vec<Sent> {
    let socket = UdpSocket::bind((client, 0)).expect("a port is free");
    let by_flow = seat_of_flow(table, socket.local_addr().expect("it is bound"), address, protocol::UDP);
    let mut sent = Vec::new();
    for number in 0..EACH {
        let mark = [number.to_be_bytes(), dice.number().to_be_bytes()].concat();
        for codepoint in [site::clear(), site::encrypted()] {
            for (generation, core) in SEATS {
                let id = site::id_with(codepoint, site::destination(SERVER, core, generation), dice.bytes());
                sent.push((frames::quic_short(0x40, &id, &mark), seat(generation, core)));
            }
        }
        sent.push((frames::quic_long(0x40, 1, &dice.bytes::<8>(), b"", &mark), by_flow));
    }
    for (payload, _) in &sent {
        socket.send_to(payload, address).expect("the cable takes it");
    }
    sent
}

#[test]
fn over_a_cable_every_datagram_reaches_its_cpu_and_its_socket() {
    let test = "over_a_cable_every_datagram_reaches_its_cpu_and_its_socket";
    let table = site::table();
    if !berth_tests::is_root_or_skip(test) {
        return;
    }
    let network = Network::build().expect("root may make namespaces");
    for (card, address, client) in [
        (Card::Steer, "192.0.2.1:0", "192.0.2.100"),
        (Card::Steer, "[2001:db8::1]:0", "2001:db8::100"),
        (Card::SteerGeneric, "192.0.2.1:0", "192.0.2.100"),
    ] {
        let Some(mut programs) = load_or_skip(test, &table) else { return };
        let (address, sockets) = seats_behind_card(&network, &mut programs, card, Type::DGRAM, address);
        let sockets: Vec<UdpSocket> = sockets.into_iter().map(UdpSocket::from).collect();
        // The cable hands frames over on the sender's CPU: so half of them belong to the other one.
        let clients = || {
            berth_tests::pin_to(0);
            let mut dice = SplitMix64(9);
            (0..4).flat_map(|_| send_all(&table, address, client, &mut dice)).collect::<Vec<Sent>>()
        };
        let sent = network.at_client(clients);
        let mut expected: Vec<HashSet<Vec<u8>>> = vec![HashSet::new(); SEATS.len()];
        for (payload, seat) in &sent {
            expected[*seat].insert(payload.clone());
        }
        for _ in &sent {
            let (seat, payload) = first(&sockets, receive);
            assert!(expected[seat].remove(&payload), "{card:?}: seat {seat} got what is not its own");
        }
        let [xdp, door] =
            [programs.xdp_counters().unwrap().reasons, programs.socket_counters().unwrap().reasons];
        for (reason, count) in [(Reason::ConnectionId, 8), (Reason::Udp, 1)] {
            let expected = (4 * EACH * count) as u64;
            assert_eq!(
                [xdp, door].map(|counted| counted[reason as usize]),
                [expected; 2],
                "{card:?}: {reason:?}"
            );
        }
        let counters = programs.xdp_counters().unwrap();
        assert_eq!((counters.kept + counters.moved, counters.not_moved), (sent.len() as u64, 0));
        let of_core = |core| sent.iter().filter(|(_, seat)| SEATS[*seat].1 == core).count() as u64;
        let moved = if site::cpu(0) == 0 { of_core(1) } else { of_core(0) };
        assert_eq!(counters.moved, moved, "{card:?}: those of the other CPU, and no others");
    }
}

#[test]
fn over_a_cable_connections_are_accepted_by_the_socket_of_their_flow() {
    let test = "over_a_cable_connections_are_accepted_by_the_socket_of_their_flow";
    let table = site::table();
    if !berth_tests::is_root_or_skip(test) {
        return;
    }
    let network = Network::build().expect("root may make namespaces");
    for address in ["192.0.2.1:0", "[2001:db8::1]:0"] {
        let Some(mut programs) = load_or_skip(test, &table) else { return };
        let (address, sockets) =
            seats_behind_card(&network, &mut programs, Card::Steer, Type::STREAM, address);
        let listeners: Vec<TcpListener> = sockets.into_iter().map(TcpListener::from).collect();
        for _ in 0..64 {
            let mut client = network.at_client(|| TcpStream::connect(address)).unwrap();
            let expected = seat_of_flow(&table, client.local_addr().unwrap(), address, protocol::TCP);
            let (seat, (mut accepted, peer)) = first(&listeners, TcpListener::accept);
            assert_eq!((seat, peer), (expected, client.local_addr().unwrap()));
            // More than a segment each way, so that packets of an open connection pass the card as well.
            let body = [0x5a; 10_000];
            client.write_all(&body).unwrap();
            let mut received = [0; 10_000];
            accepted.read_exact(&mut received).unwrap();
            assert!(received == body);
        }
        let counters = programs.xdp_counters().unwrap();
        assert!(counters.reasons[Reason::Tcp as usize] > 64 * 3 && counters.kept > 0 && counters.moved > 0);
        assert_eq!((counters.not_moved, programs.socket_counters().unwrap().chosen), (0, 64));
    }
}
