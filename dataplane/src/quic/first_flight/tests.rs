//! First flights of real clients, whole, cut, doubled and out of order, and every bound.

use bytes::BytesMut;
use proptest::prelude::*;
use proptest::sample::Index;
use quinn_proto::crypto::rustls::QuicClientConfig;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::quic::Version;

use super::hello::HELLO_BYTES_MAX;
use super::initial::{client_keys, read, read_frames};
use super::*;
use crate::config::HostRule;

const HERE: u16 = 0;
const THERE: u16 = 1;
const TIME: Duration = Duration::from_secs(10);

/// Which key shares a client sends.
#[derive(Clone, Copy)]
enum Shares {
    Classic,
    PostQuantum,
}

fn tls(shares: Shares) -> Arc<rustls::ClientConfig> {
    let kx_groups = match shares {
        Shares::Classic => vec![kx_group::X25519],
        Shares::PostQuantum => vec![kx_group::X25519MLKEM768, kx_group::X25519],
    };
    let provider = rustls::crypto::CryptoProvider { kx_groups, ..default_provider() };
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h3".to_vec()];
    Arc::new(config)
}

/// The ClientHello of a rustls client that asks for this host.
pub(super) fn hello_message(name: &str) -> Vec<u8> {
    let shares = if name.starts_with("with-post-quantum") { Shares::PostQuantum } else { Shares::Classic };
    let name = name.to_owned().try_into().unwrap();
    let mut client =
        rustls::quic::ClientConnection::new(tls(shares), Version::V1, name, b"parameters".to_vec()).unwrap();
    let mut message = Vec::new();
    client.write_hs(&mut message);
    message
}

fn client(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

fn arrived(port: u16, datagram: &[u8]) -> Arrived {
    Arrived { from: client(port), local: None, ecn: 0, bytes: BytesMut::from(datagram) }
}

/// The first datagrams of a quinn-proto client.
fn flight(name: &str, shares: Shares) -> Vec<Vec<u8>> {
    let mut endpoint = quinn_proto::Endpoint::new(Arc::default(), None, true, None);
    let tls = QuicClientConfig::try_from(tls(shares)).unwrap();
    let config = quinn_proto::ClientConfig::new(Arc::new(tls));
    let now = Instant::now();
    let (_, mut connection) = endpoint.connect(now, config, client(443), name).unwrap();
    let mut datagrams = Vec::new();
    let mut train = Vec::new();
    while let Some(transmit) = connection.poll_transmit(now, 1, &mut train) {
        datagrams.push(train[..transmit.size].to_vec());
        train.clear();
    }
    datagrams
}

/// The original id of packets that are made here: that of RFC 9001, A.2.
const ORIGINAL: [u8; 8] = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];
/// Bytes of an Initial's frames that make a datagram of 1,200.
const PAYLOAD: usize = 1162;

/// An Initial with these frames, padded, as the client of [`ORIGINAL`] would seal it.
fn seal(number: u32, frames: &[u8]) -> Vec<u8> {
    seal_padded(number, frames, PAYLOAD)
}

fn seal_padded(number: u32, frames: &[u8], payload: usize) -> Vec<u8> {
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let suite = suite.tls13().and_then(rustls::Tls13CipherSuite::quic_suite).unwrap();
    let keys = suite.keys(&ORIGINAL, rustls::Side::Client, Version::V1).local;
    let length = (0x4000 | (4 + payload + 16) as u16).to_be_bytes();
    let start = [&[0xc3, 0, 0, 0, 1, 8], ORIGINAL.as_slice(), &[0, 0], &length].concat();
    let mut packet = [start.as_slice(), &number.to_be_bytes(), frames].concat();
    let head = start.len() + 4;
    packet.resize(head + payload, 0);
    let (header, frames) = packet.split_at_mut(head);
    let tag = keys.packet.encrypt_in_place(number.into(), header, frames).unwrap();
    packet.extend_from_slice(tag.as_ref());
    let (first, rest) = packet.split_first_mut().unwrap();
    let (number, sealed) = rest[start.len() - 1..].split_at_mut(4);
    keys.header.encrypt_in_place(&sealed[..16], first, number).unwrap();
    packet
}

/// A CRYPTO frame.
fn crypto(offset: usize, piece: &[u8]) -> Vec<u8> {
    let number = |number: usize| (0x8000_0000 | number as u32).to_be_bytes();
    [&[6], number(offset).as_slice(), &number(piece.len()), piece].concat()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// Of a core where `there.example` and what is below it belong to another.
fn flights() -> FirstFlights {
    let rule = |host: &str, core| HostRule { host: host.to_owned(), core };
    let rules = [rule("there.example", THERE), rule("*.there.example", THERE), rule("here.example", HERE)];
    let hosts = Hosts::new(&rules, 2).unwrap().unwrap();
    FirstFlights::new(Arc::new(Rules::new(Some(hosts), Arc::new(NoHomes))), HERE, TIME)
}

/// What became of datagrams, in words that compare.
#[derive(Debug, PartialEq, Eq)]
enum Became {
    Held,
    Here(Vec<Vec<u8>>, Because),
    HandedOver(Vec<Vec<u8>>),
    Forwarded,
}

fn became(verdict: Verdict) -> Became {
    let bytes = |flight: Vec<Arrived>| flight.into_iter().map(|arrived| arrived.bytes.to_vec()).collect();
    match verdict {
        Verdict::Held => Became::Held,
        Verdict::Here(flight, because) => Became::Here(bytes(flight), because),
        Verdict::HandOver(THERE, flight) => Became::HandedOver(bytes(flight)),
        Verdict::Forward(THERE, _) => Became::Forwarded,
        other => panic!("no such core: {other:?}"),
    }
}

/// Hands these datagrams of one client in.
fn handle(flights: &mut FirstFlights, now: Instant, datagrams: &[&Vec<u8>]) -> Vec<Became> {
    datagrams.iter().map(|datagram| became(flights.handle(now, arrived(1, datagram)))).collect()
}

fn copies(datagrams: &[&Vec<u8>]) -> Vec<Vec<u8>> {
    datagrams.iter().map(|datagram| (*datagram).clone()).collect()
}

#[test]
fn the_initial_of_the_rfc_is_read() {
    let frames = hex("060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e868
        04fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578
        616d706c652e636f6dff01000100000a00080006001d00170018001000070005
        04616c706e000500050100000000003300260024001d00209370b2c9caa47fba
        baf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b000302030400
        0d0010000e0403050306030203080408050806002d00020101001c0002400100
        3900320408ffffffffffffffff05048000ffff07048000ffff08011001048000
        75300901100f088394c8f03e51570806048000ffff");
    let datagram = seal(2, &frames);
    assert_eq!(datagram[..32], hex("c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11"));
    assert_eq!(datagram[1184..], hex("e221af44860018ab0856972e194cd934"));
    let mut hello = Hello::default();
    assert_eq!(read(&datagram, &ORIGINAL, &client_keys(&ORIGINAL), &mut hello), Ok(()));
    assert_eq!(hello.read(), Said::Name(Some("example.com".to_owned())));
}

#[test]
fn a_hello_in_one_datagram_is_handed_over_at_once() {
    for name in ["there.example", "a.there.example"] {
        let (mut flights, now) = (flights(), Instant::now());
        let [datagram] = &flight(name, Shares::Classic)[..] else { panic!("it fits into one") };
        assert!(!flights.knows(now, &arrived(1, datagram)));
        let verdicts = handle(&mut flights, now, &[datagram, datagram]);
        assert_eq!(verdicts, [Became::HandedOver(copies(&[datagram])), Became::Forwarded], "{name}");
        assert!(flights.knows(now, &arrived(1, datagram)), "it goes where the first one went");
        assert_eq!(flights.poll_timeout(), None);
    }
}

#[test]
fn a_post_quantum_hello_is_handed_over_whole_in_the_order_in_which_it_came() {
    let datagrams = flight("there.example", Shares::PostQuantum);
    let [first, second] = &datagrams[..] else { panic!("it takes two: {}", datagrams.len()) };
    for order in
        [vec![first, second], vec![second, first], vec![first, first, second], vec![second, second, first]]
    {
        let (mut flights, now) = (flights(), Instant::now());
        let mut verdicts = handle(&mut flights, now, &order);
        assert_eq!(verdicts.pop(), Some(Became::HandedOver(copies(&order))));
        assert!(verdicts.iter().all(|verdict| *verdict == Became::Held), "{verdicts:?}");
        assert_eq!(handle(&mut flights, now, &[first, second]), [Became::Forwarded, Became::Forwarded]);
    }
}

#[test]
fn who_belongs_here_or_nowhere_is_accepted_here() {
    for name in ["here.example", "nobody.example"] {
        for shares in [Shares::Classic, Shares::PostQuantum] {
            let (mut flights, now) = (flights(), Instant::now());
            let datagrams = flight(name, shares);
            let all: Vec<_> = datagrams.iter().collect();
            let verdicts = handle(&mut flights, now, &all);
            assert_eq!(verdicts.last(), Some(&Became::Here(copies(&all), Because::OfHost)), "{name}");
            let again = handle(&mut flights, now, &all[..1]);
            assert_eq!(again, [Became::Here(copies(&all[..1]), Because::Follows)], "{name}");
        }
    }
}

#[test]
fn a_hello_that_is_scattered_over_packets_and_overlaps_itself_is_read() {
    let message = hello_message("there.example");
    let (third, end) = (message.len() / 3, message.len());
    let piece = |range: std::ops::Range<usize>| crypto(range.start, &message[range]);
    // PING and padding between, an ACK with two ranges, and pieces that come again.
    let ack = [0x03, 9, 0, 1, 2, 1, 0, 0, 0, 0];
    let frames =
        [&[1, 0, 0], ack.as_slice(), &piece(2 * third..end), &piece(0..20), &piece(10..third)].concat();
    let (one, other) = (seal(0, &frames), seal(7, &[piece(third - 9..2 * third + 9), vec![1]].concat()));
    for order in [[&one, &other], [&other, &one]] {
        let (mut flights, now) = (flights(), Instant::now());
        assert_eq!(handle(&mut flights, now, &order), [Became::Held, Became::HandedOver(copies(&order))]);
    }
    // Both packets in one datagram, as a client may put them.
    let small = seal_padded(1, &[piece(0..third), piece(third..end)].concat(), end + 40);
    let both = [seal_padded(0, &[1], 100), small].concat();
    let (mut flights, now) = (flights(), Instant::now());
    let both = [both, vec![0; 1200]].concat();
    assert_eq!(handle(&mut flights, now, &[&both]), [Became::HandedOver(vec![both.clone()])]);
}

#[test]
fn what_cannot_be_read_is_accepted_here_and_not_remembered() {
    let (mut flights, now) = (flights(), Instant::now());
    let datagram = seal(0, &crypto(0, &hello_message("there.example")));
    let mut odd = vec![datagram[..1199].to_vec(), vec![0xc0; 1200], vec![]];
    odd.push(seal(0, &[0x1c, 0, 0, 0])); // CONNECTION_CLOSE
    odd.push(seal(0, &[0x08, 0, 0])); // STREAM
    odd.push(seal(0, &crypto(usize::from(u16::MAX), b"x")));
    odd.push(seal(0, &[6, 0, 0x7f, 0xff])); // More than there is.
    odd.push([&[0xe0], &datagram[1..]].concat()); // A Handshake packet.
    odd.push([&[0xf0], &datagram[1..]].concat()); // A Retry.
    odd.push([&datagram[..1], &[0x6b, 0x33, 0x43, 0xcf], &datagram[5..]].concat()); // Version 2
    odd.push([&datagram[..5], &[21; 1195]].concat()); // An id of 21 bytes.
    for odd in &odd {
        let here = Became::Here(copies(&[odd]), Because::Unreadable);
        assert_eq!(handle(&mut flights, now, &[odd]), [here], "{odd:02x?}");
        assert!(!flights.knows(now, &arrived(1, odd)));
    }
    assert_eq!(handle(&mut flights, now, &[&datagram]), [Became::HandedOver(copies(&[&datagram]))]);
}

#[test]
fn a_datagram_that_was_changed_on_its_way_changes_nothing() {
    let datagrams = flight("there.example", Shares::PostQuantum);
    let [first, second] = &datagrams[..] else { panic!("it takes two") };
    let now = Instant::now();
    for bit in (0..200).chain((200..8 * second.len()).step_by(97)) {
        let mut changed = second.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let mut flights = flights();
        let alone = handle(&mut flights, now, &[&changed]);
        assert_eq!(alone, [Became::Here(copies(&[&changed]), Because::Unreadable)], "bit {bit}");
        let order = [first, &changed, second];
        let verdicts = handle(&mut flights, now, &order);
        match same_id(&changed, second) {
            true => assert_eq!(verdicts[2], Became::HandedOver(copies(&order)), "bit {bit}"),
            false => assert_eq!(verdicts[2], Became::HandedOver(copies(&[first, second])), "bit {bit}"),
        }
    }
}

fn same_id(one: &[u8], other: &[u8]) -> bool {
    destination_id(one) == destination_id(other)
}

#[test]
fn a_client_that_gives_up_or_says_what_it_may_not_is_left_to_the_one_that_accepts() {
    let message = hello_message("there.example");
    let (half, now) = (seal(0, &crypto(0, &message[..100])), Instant::now());
    for frames in
        [vec![0x1c, 0, 0, 0], vec![0x08, 0, 0], crypto(HELLO_BYTES_MAX, b"x"), vec![2, 0, 0, 0x7f, 0xff]]
    {
        let (mut flights, odd) = (flights(), seal(1, &frames));
        let here = Became::Here(copies(&[&half, &odd]), Because::Unreadable);
        assert_eq!(handle(&mut flights, now, &[&half, &odd]), [Became::Held, here], "{frames:?}");
        let rest = seal(2, &crypto(100, &message[100..]));
        assert_eq!(handle(&mut flights, now, &[&rest]), [Became::Here(vec![rest.clone()], Because::Follows)]);
    }
    let mut nonsense = message.clone();
    nonsense[38] = 255; // The length of the session id.
    let nonsense = seal(0, &crypto(0, &nonsense));
    let here = Became::Here(copies(&[&nonsense]), Because::Unreadable);
    assert_eq!(handle(&mut flights(), now, &[&nonsense]), [here]);
}

#[test]
fn two_clients_that_make_up_the_same_id_are_told_apart() {
    let (mut flights, now) = (flights(), Instant::now());
    let [there, here] =
        ["there.example", "here.example"].map(|name| seal(0, &crypto(0, &hello_message(name))));
    assert_eq!(became(flights.handle(now, arrived(1, &there))), Became::HandedOver(vec![there]));
    let other = became(flights.handle(now, arrived(2, &here)));
    assert_eq!(other, Became::Here(vec![here], Because::OfHost));
}

#[test]
fn a_flight_that_was_not_taken_stays_here() {
    let (mut flights, now) = (flights(), Instant::now());
    let datagram = seal(0, &crypto(0, &hello_message("there.example")));
    handle(&mut flights, now, &[&datagram]);
    flights.stays(&arrived(1, &datagram));
    let again = handle(&mut flights, now, &[&datagram]);
    assert_eq!(again, [Became::Here(vec![datagram], Because::Follows)]);
}

#[test]
fn a_flight_has_at_most_so_many_datagrams_and_bytes() {
    let now = Instant::now();
    let pings: Vec<_> = (0..DATAGRAMS_MAX as u32).map(|number| seal(number, &[1])).collect();
    let pings: Vec<_> = pings.iter().collect();
    let mut verdicts = handle(&mut flights(), now, &pings);
    assert_eq!(verdicts.pop(), Some(Became::Here(copies(&pings), Because::FlightMax)));
    assert!(verdicts.iter().all(|verdict| *verdict == Became::Held), "{verdicts:?}");

    // Large datagrams, as a loopback carries them; what follows the Initial is padding of the datagram.
    let large = |bytes: usize| [seal(0, &[1]), vec![0; bytes - 1200]].concat();
    let (half, rest) = (large(BYTES_MAX / 2), large(BYTES_MAX / 2 - 1));
    let all = [&half, &half];
    assert_eq!(handle(&mut flights(), now, &all)[1], Became::Here(copies(&all), Because::FlightMax));
    assert_eq!(handle(&mut flights(), now, &[&half, &rest])[1], Became::Held);
}

#[test]
fn so_many_flights_are_held_and_no_more() {
    let (mut flights, now) = (flights(), Instant::now());
    let ping = seal(0, &[1]);
    for port in 0..HELD_MAX as u16 {
        assert_eq!(became(flights.handle(now, arrived(port, &ping))), Became::Held);
    }
    let beyond = flights.handle(now, arrived(HELD_MAX as u16, &ping));
    assert_eq!(became(beyond), Became::Here(vec![ping.clone()], Because::HeldMax));
    // One that is whole needs no place.
    let whole = seal(0, &crypto(0, &hello_message("there.example")));
    let verdict = flights.handle(now, arrived(HELD_MAX as u16 + 1, &whole));
    assert_eq!(became(verdict), Became::HandedOver(vec![whole]));
}

#[test]
fn a_flight_is_held_for_so_long_and_then_accepted_here() {
    let (mut flights, now) = (flights(), Instant::now());
    let datagrams = flight("there.example", Shares::PostQuantum);
    let [first, second] = &datagrams[..] else { panic!("it takes two") };
    handle(&mut flights, now, &[first]);
    let until = now + HOLD;
    assert_eq!(flights.poll_timeout(), Some(until));
    let early = until.checked_sub(Duration::from_nanos(1)).unwrap();
    assert!(flights.handle_timeout(early).is_none());
    let verdict = flights.handle_timeout(until).map(became);
    assert_eq!(verdict, Some(Became::Here(copies(&[first]), Because::TimeIsOver)));
    assert!(flights.handle_timeout(until).is_none());
    assert_eq!(flights.poll_timeout(), None);
    let late = handle(&mut flights, until, &[second]);
    assert_eq!(late, [Became::Here(copies(&[second]), Because::Follows)], "it belongs to what is here");
}

#[test]
fn an_original_id_is_remembered_for_the_time_of_a_handshake() {
    let (mut flights, now) = (flights(), Instant::now());
    let datagram = seal(0, &crypto(0, &hello_message("there.example")));
    handle(&mut flights, now, &[&datagram]);
    let last = (now + TIME).checked_sub(Duration::from_nanos(1)).unwrap();
    assert_eq!(handle(&mut flights, last, &[&datagram]), [Became::Forwarded]);
    assert!(!flights.knows(now + TIME, &arrived(1, &datagram)), "what comes now begins another handshake");
    assert_eq!((flights.remembered.len(), flights.remembered.order.len()), (0, 0));
}

#[test]
fn so_many_original_ids_are_remembered_and_no_more() {
    let (mut flights, now) = (flights(), Instant::now());
    let ping = seal(0, &[1]);
    assert_eq!(handle(&mut flights, now, &[&ping]), [Became::Held]);
    for number in 0..REMEMBERED_MAX as u32 - 1 {
        let key = Key { client: client(2), original: ConnectionId::new(&number.to_be_bytes()) };
        flights.remembered.insert(now, key, THERE);
    }
    let datagram = seal(0, &crypto(0, &hello_message("there.example")));
    let beyond = became(flights.handle(now, arrived(3, &datagram)));
    assert_eq!(beyond, Became::Here(vec![datagram.clone()], Because::RememberedMax));
    // The one that was held before has its place.
    assert_eq!(handle(&mut flights, now, &[&datagram]), [Became::HandedOver(vec![ping, datagram.clone()])]);
    let later = became(flights.handle(now + TIME, arrived(3, &datagram)));
    assert_eq!(later, Became::HandedOver(vec![datagram]), "there is room again");
}

proptest! {
    #[test]
    fn any_datagrams_are_judged_without_a_panic_and_none_is_lost(
        datagrams in prop::collection::vec((0u16..3, any::<bool>(), any::<Vec<u8>>(), any::<Index>()), 1..20),
    ) {
        let (mut flights, mut now) = (flights(), Instant::now());
        let (mut sent, mut seen) = (0, 0);
        let count = |verdict| match became(verdict) {
            Became::Held => 0,
            Became::Here(all, _) | Became::HandedOver(all) => all.len(),
            Became::Forwarded => 1,
        };
        for (port, sealed, noise, at) in &datagrams {
            // Noise as a datagram, as the frames of an Initial, and in a ClientHello.
            let mut message = hello_message("there.example");
            let at = at.index(message.len());
            message.splice(at..(at + noise.len()).min(message.len()), noise.iter().copied());
            let datagram = match sealed {
                true => seal(0, &[crypto(0, &message), noise.clone()].concat()[..(at * 3).min(PAYLOAD).min(message.len())]),
                false => [&[0xc0, 0, 0, 0, 1], noise.as_slice()].concat(),
            };
            now += Duration::from_millis(at as u64);
            sent += 1;
            seen += count(flights.handle(now, arrived(*port, &datagram)));
        }
        while let Some(verdict) = flights.handle_timeout(now + HOLD) {
            seen += count(verdict);
        }
        prop_assert_eq!(sent, seen);
    }

    #[test]
    fn any_frames_are_read_without_a_panic(frames: Vec<u8>, kind in 0u8..8) {
        let mut hello = Hello::default();
        let _ = read_frames(&frames, &mut hello);
        let _ = read_frames(&[&[kind], frames.as_slice()].concat(), &mut hello);
        let _ = hello.read();
    }
}
