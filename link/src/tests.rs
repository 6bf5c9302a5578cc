//! Two ends in one process, over a real socket.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use berth_protocol::link::{FromAgent, FromDataplane};

use super::*;

/// A path of a socket of its own, gone with the value.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("berth-link-{}-{}", std::process::id(), MADE.fetch_add(1, Relaxed));
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What connects, and what was accepted.
fn pair(place: &Place) -> (Channel, Channel) {
    let listener = Listener::bind(&place.0).unwrap();
    let caller = Channel::connect(&place.0).unwrap();
    let called = listener.accept().unwrap().unwrap();
    (caller, called)
}

#[test]
fn a_message_brings_its_descriptors() {
    let place = Place::new();
    let (caller, called) = pair(&place);
    assert!(called.receive::<FromDataplane>().unwrap().is_none(), "nothing was said yet");
    let (mut read, write) = io::pipe().unwrap();
    caller.send(&FromDataplane::Serving { since_ms: 5 }, &[write.as_fd()]).unwrap();
    drop(write);
    let mut received = called.receive::<FromDataplane>().unwrap().unwrap();
    assert_eq!((received.message, received.descriptors.len()), (FromDataplane::Serving { since_ms: 5 }, 1));
    let mut file = File::from(received.descriptors.pop().unwrap());
    file.write_all(b"through the copy").unwrap();
    drop(file);
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through the copy");
    assert_eq!(called.peer().unwrap().1, std::process::id());
}

#[test]
fn as_many_descriptors_as_are_allowed_arrive_and_no_more_are_sent() {
    let place = Place::new();
    let (caller, called) = pair(&place);
    let file = File::open("/dev/null").unwrap();
    let many = vec![file.as_fd(); DESCRIPTORS_MAX + 1];
    assert!(matches!(caller.send(&FromDataplane::Serving { since_ms: 5 }, &many), Err(Failure::TooLong)));
    caller.send(&FromDataplane::Serving { since_ms: 5 }, &many[1..]).unwrap();
    let received = called.receive::<FromDataplane>().unwrap().unwrap();
    assert_eq!(received.descriptors.len(), DESCRIPTORS_MAX);
}

#[test]
fn who_is_gone_is_missed_on_both_sides() {
    let place = Place::new();
    let (caller, called) = pair(&place);
    caller.send(&FromDataplane::Draining, &[]).unwrap();
    drop(caller);
    assert_eq!(called.receive::<FromDataplane>().unwrap().unwrap().message, FromDataplane::Draining);
    assert!(matches!(called.receive::<FromDataplane>(), Err(Failure::Closed)));
    assert!(matches!(called.send(&FromAgent::Retire { newer: 1 }, &[]), Err(Failure::Closed)));
}

#[test]
fn nonsense_and_messages_without_end_are_refused_and_their_descriptors_closed() {
    let place = Place::new();
    let (caller, called) = pair(&place);
    let say = |bytes: &[u8], descriptors: &[BorrowedFd<'_>]| {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(descriptors.is_empty() || control.push(SendAncillaryMessage::ScmRights(descriptors)));
        sendmsg(&caller, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
    };
    say(b"\xff\x00nonsense", &[]);
    assert!(matches!(called.receive::<FromDataplane>(), Err(Failure::Garbled(_))));
    let (mut read, write) = io::pipe().unwrap();
    say(&vec![b' '; MESSAGE_MAX + 1], &[write.as_fd()]);
    drop(write);
    assert!(matches!(called.receive::<FromDataplane>(), Err(Failure::TooLong)));
    assert_eq!(read.read(&mut [0]).unwrap(), 0, "no copy of the other end is open any more");
}

#[test]
fn a_dead_agents_socket_is_taken_over_and_a_living_ones_is_not() {
    let place = Place::new();
    let first = Listener::bind(&place.0).unwrap();
    let error = Listener::bind(&place.0).unwrap_err();
    assert!(matches!(error, Failure::Socket { source, .. } if source.kind() == io::ErrorKind::AddrInUse));
    drop(first);
    assert!(Channel::connect(&place.0).is_err(), "the socket's file is there, and nobody behind it");
    Listener::bind(&place.0).unwrap();
}

#[test]
fn a_full_socket_is_told_and_blocks_nobody() {
    let place = Place::new();
    let (caller, _called) = pair(&place);
    let error = (0..100_000).find_map(|_| caller.send(&FromDataplane::Serving { since_ms: 5 }, &[]).err());
    assert!(matches!(error, Some(Failure::Broken(error)) if error.kind() == io::ErrorKind::WouldBlock));
}

#[test]
fn bytes_keep_their_bounds_and_are_refused_when_nobody_reads() {
    let place = Place::new();
    let (caller, called) = pair(&place);
    let mut buffer = [0; 100];
    assert_eq!(called.receive_bytes(&mut buffer).unwrap(), None);
    for message in [b"one".as_slice(), b"another"] {
        assert_eq!(caller.send_bytes(message).unwrap(), Sent::Whole);
    }
    for message in [b"one".as_slice(), b"another"] {
        let length = called.receive_bytes(&mut buffer).unwrap().unwrap();
        assert_eq!(&buffer[..length], message);
    }
    assert!((0..100_000).any(|_| caller.send_bytes(&[1; 1000]).unwrap() == Sent::NoRoom));
    drop(called);
    assert!(matches!(caller.send_bytes(b"three"), Err(Failure::Closed)));
}

#[test]
fn a_wait_ends_when_there_is_something_to_read() {
    let place = Place::new();
    let (caller, called) = pair(&place);
    caller.send_bytes(b"one").unwrap();
    wait([called.as_fd()], Duration::from_secs(3600));
    wait([caller.as_fd()], Duration::ZERO);
}
