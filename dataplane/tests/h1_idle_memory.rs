//! What a request leaves behind on an HTTP/1.1 connection that idles after it: no buffer.
//!
//! Idle connections are what an edge has most of. Read and write buffers live as long as a request needs them, and the
//! state of an exchange has a box of its own. If one of them came to stay, a hundred thousand connections would cost
//! hundreds of megabytes more, and no other test would notice. ADR 0004 has the figures.
//!
//! It is a test of its own, because its allocator counts the whole process and because counting takes unsafe code,
//! which the library forbids.
#![allow(unsafe_code, reason = "a counting allocator cannot be written without")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test fail as it does")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::future::{Future, ready};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use berth_dataplane::config::Config;
use berth_dataplane::drain::Drain;
use berth_dataplane::http::access::AccessLog;
use berth_dataplane::http::message::{Peer, Reply, Request, Security, Service};
use berth_dataplane::http::{Core, h1};
use berth_runtime::stats::CoreStats;
use berth_runtime::{CoreOptions, Remote, TcpStream, block_on, spawn, timeout, yield_now};
use bytes::BytesMut;
use http::StatusCode;

/// Connections per measurement: enough that the odd allocation of something shared is lost in the mean.
const CONNECTIONS: usize = 200;
/// What may stay: the queue of a stream that has received once (some 100 bytes), and the growth of shared tables.
const LEFT_BEHIND_MAX: usize = 512;
/// Bytes of the request, most of them in one field, so that a buffer which held it shows.
const REQUEST_BYTES: usize = 4000;
const BODY: &str = "the end";

struct Counting;

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to `System` with the caller's own arguments; only a counter is kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's obligations are passed on unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's obligations are passed on unchanged.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Hello;

impl Service for Hello {
    fn call(&self, _: Request) -> impl Future<Output = Reply> + 'static {
        ready(Reply::new(StatusCode::OK, BODY))
    }
}

/// A connection served by this core, seen from its client.
fn connect(core: &Rc<Core<Hello>>, drain: &Drain) -> UnixStream {
    let (near, far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let (stream, core, draining) =
        (TcpStream::adopt(OwnedFd::from(far)).unwrap(), Rc::clone(core), drain.listen());
    let nobody = ([127, 0, 0, 1], 1).into();
    let peer = Rc::new(Peer { client: nobody, local: nobody, security: Security::Plain });
    spawn(async move { h1::serve(stream, BytesMut::new(), &core, peer, &draining).await });
    near
}

/// One request and its whole reply.
async fn exchange(near: &mut UnixStream) {
    let filler = "f".repeat(REQUEST_BYTES);
    near.write_all(format!("GET / HTTP/1.1\r\nhost: a.example\r\nfiller: {filler}\r\n\r\n").as_bytes())
        .unwrap();
    let (mut reply, mut filled) = ([0; 1024], 0);
    while !reply[..filled].ends_with(BODY.as_bytes()) {
        match near.read(&mut reply[filled..]) {
            Ok(0) => panic!("the connection ended"),
            Ok(count) => filled += count,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                yield_now().await;
            }
        }
    }
    yield_now().await; // The completion of the send gives its buffer back.
}

#[test]
fn a_connection_that_idles_after_a_request_holds_no_buffer() {
    let limits = Config::parse("[[listen]]\naddress = \"127.0.0.1:0\"\n").unwrap().limits;
    let core = Rc::new(Core::new(Arc::default(), Arc::default(), limits, Hello, AccessLog::off()));
    let drain = Drain::default();
    let story = async {
        exchange(&mut connect(&core, &drain)).await; // What is made once is made now.
        let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| connect(&core, &drain)).collect();
        yield_now().await;
        let before = LIVE_BYTES.load(Relaxed);
        for client in &mut clients {
            exchange(client).await;
        }
        let left_behind = LIVE_BYTES.load(Relaxed).saturating_sub(before) / CONNECTIONS;
        assert!(left_behind <= LEFT_BEHIND_MAX, "{left_behind} bytes stay behind for each connection");
    };
    let remote = Arc::new(Remote::new().unwrap());
    let done = block_on(
        &CoreOptions::default(),
        &remote,
        &Arc::<CoreStats>::default(),
        timeout(Duration::from_secs(60), story),
    );
    done.unwrap().expect("the test hangs");
}
