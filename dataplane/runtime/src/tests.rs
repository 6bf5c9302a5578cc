//! What a core promises, on both drivers: sockets, tasks, timers, wake-ups and the bounds.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::stats::CoreStats;
use crate::{
    CoreOptions, DriverChoice, Remote, RingOptions, TcpListener, TcpStream, Transmit, UdpSocket, block_on,
    sleep, spawn, spawn_scoped, timeout, yield_now,
};

const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Far longer than any step of a test takes; it only turns a hang into a failure.
const PATIENCE: Duration = Duration::from_secs(60);

fn run_on<T>(options: &CoreOptions, main: impl Future<Output = T>) -> (T, Arc<CoreStats>) {
    let remote = Arc::new(Remote::new().unwrap());
    let stats = Arc::new(CoreStats::default());
    let output = block_on(options, &remote, &stats, timeout(PATIENCE, main)).unwrap();
    (output.expect("the test hangs"), stats)
}

/// Runs the same story on both drivers.
fn on_both<F: Future<Output = ()>>(story: impl Fn() -> F) {
    for driver in [DriverChoice::Uring, DriverChoice::Epoll] {
        run_on(&CoreOptions { driver, ..CoreOptions::default() }, story());
    }
}

fn tcp_pair() -> (std::net::TcpStream, TcpStream) {
    let listener = std::net::TcpListener::bind(LOCAL).unwrap();
    let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    (near, TcpStream::adopt(far.into()).unwrap())
}

#[test]
fn a_connection_is_accepted_and_echoes_until_the_peer_ends() {
    on_both(|| async {
        let socket = std::net::TcpListener::bind(LOCAL).unwrap();
        let address = socket.local_addr().unwrap();
        let listener = TcpListener::adopt(socket.into()).unwrap();
        let client = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            let sent: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
            let mut writer = stream.try_clone().unwrap();
            let bytes = sent.clone();
            let writing = std::thread::spawn(move || {
                writer.write_all(&bytes).unwrap();
                writer.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let mut back = Vec::new();
            stream.read_to_end(&mut back).unwrap();
            writing.join().unwrap();
            assert!(back == sent, "the echo differs");
        });
        let mut stream = listener.accept().await.unwrap();
        assert_eq!(stream.local_addr().unwrap(), address);
        let mut buffer = vec![0; 10_000];
        loop {
            let count = stream.read(&mut buffer).await.unwrap();
            if count == 0 {
                break;
            }
            stream.write_all(&buffer[..count]).await.unwrap();
        }
        stream.shutdown().await.unwrap();
        drop(stream);
        while !client.is_finished() {
            sleep(Duration::from_millis(1)).await;
        }
        client.join().unwrap();
    });
}

#[test]
fn the_end_is_seen_when_it_came_together_with_the_last_bytes() {
    on_both(|| async {
        for pause in [false, true] {
            let (mut near, mut far) = tcp_pair();
            std::io::Write::write_all(&mut near, b"last").unwrap();
            near.shutdown(std::net::Shutdown::Write).unwrap();
            if pause {
                sleep(Duration::from_millis(2)).await; // Both are there before the first read.
            }
            let mut back = [0; 100];
            assert_eq!(far.read(&mut back).await.unwrap(), 4);
            assert_eq!(far.read(&mut back).await.unwrap(), 0);
        }
    });
}

#[test]
fn bytes_that_come_later_are_read_after_a_short_read() {
    on_both(|| async {
        let (mut near, mut far) = tcp_pair();
        let mut back = [0; 100];
        for round in 0..100u8 {
            std::io::Write::write_all(&mut near, &[round; 3]).unwrap();
            far.read_exact(&mut back[..3]).await.unwrap();
            assert_eq!(back[..3], [round; 3]);
        }
    });
}

#[test]
fn a_reset_is_an_error_and_not_a_hang() {
    on_both(|| async {
        let (near, mut far) = tcp_pair();
        socket2::SockRef::from(&near).set_linger(Some(Duration::ZERO)).unwrap();
        drop(near);
        assert!(far.read(&mut [0; 10]).await.is_err());
        // The first write may still be taken by the socket; later ones fail.
        let failed = async {
            while far.write_all(b"x").await.is_ok() && far.flush().await.is_ok() {
                yield_now().await;
            }
        };
        failed.await;
    });
}

/// Regression: all streams with bytes left sent at once, and who asked meanwhile waited for them all.
#[test]
fn streams_that_are_written_at_once_take_turns_to_send() {
    const STREAMS: usize = 16;
    const BYTES: usize = 1 << 20;
    /// Whether sends come together depends on the readers' speed: mostly in the first round.
    const ROUNDS: usize = 100;
    let options = CoreOptions { driver: DriverChoice::Uring, ..CoreOptions::default() };
    let round = || {
        let ((), stats) = run_on(&options, async {
            let mut readers = Vec::new();
            let mut writers = Vec::new();
            for _ in 0..STREAMS {
                let (mut near, mut far) = tcp_pair();
                readers.push(std::thread::spawn(move || {
                    let mut all = Vec::new();
                    std::io::Read::read_to_end(&mut near, &mut all).unwrap();
                    all.len()
                }));
                writers.push(spawn_scoped(async move {
                    far.write_all(&vec![7; BYTES]).await.unwrap();
                    far.shutdown().await.unwrap();
                }));
            }
            for writer in writers {
                writer.await;
            }
            assert!(readers.into_iter().all(|reader| reader.join().unwrap() == BYTES), "nothing is lost");
        });
        stats.sends_put_off.get()
    };
    assert!((0..ROUNDS).any(|_| round() > 0));
}

#[test]
fn a_slow_reader_stops_the_sender_and_loses_nothing() {
    on_both(|| async {
        let (mut near, mut far) = tcp_pair();
        near.set_nonblocking(true).unwrap();
        let sent = Rc::new(Cell::new(0u64));
        let mut next = 0u8;
        let mut refused = 0;
        // Fill until the socket has refused a hundred times in a row with turns in between.
        let _armed = timeout(Duration::from_millis(1), far.read(&mut [])).await;
        let mut first = [0u8; 1];
        while refused < 100 {
            use std::io::Write;
            let chunk: Vec<u8> = (0..4096).map(|i| next.wrapping_add(i as u8)).collect();
            match near.write(&chunk) {
                Ok(count) => {
                    next = next.wrapping_add(count as u8);
                    if sent.get() == 0 {
                        far.read_exact(&mut first).await.unwrap();
                    }
                    sent.set(sent.get() + count as u64);
                    refused = 0;
                }
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                    refused += 1;
                    yield_now().await;
                }
            }
        }
        near.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = Vec::new();
        far.read_to_end(&mut back).await.unwrap();
        assert_eq!(back.len() as u64 + 1, sent.get());
        assert!(back.iter().enumerate().all(|(i, byte)| *byte == first[0].wrapping_add((i + 1) as u8)));
    });
}

#[test]
fn a_slow_peer_makes_writes_wait_and_gets_everything() {
    on_both(|| async {
        let (mut near, mut far) = tcp_pair();
        let total = 8_000_000usize;
        let done = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&done);
        let reader = std::thread::spawn(move || {
            use std::io::Read;
            std::thread::sleep(Duration::from_millis(50)); // Lets the sender meet full buffers.
            assert!(!seen.load(Ordering::SeqCst), "8 MB cannot fit the buffers on the way");
            let mut back = Vec::new();
            near.read_to_end(&mut back).unwrap();
            back
        });
        let bytes: Vec<u8> = (0..total).map(|i| (i % 253) as u8).collect();
        far.write_all(&bytes).await.unwrap();
        far.shutdown().await.unwrap();
        done.store(true, Ordering::SeqCst);
        while !reader.is_finished() {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(reader.join().unwrap() == bytes);
    });
}

#[test]
fn datagrams_carry_addresses_ecn_and_trains() {
    on_both(|| async {
        let a = UdpSocket::bind(LOCAL).unwrap();
        let b = UdpSocket::bind(LOCAL).unwrap();
        let (from, to) = (a.local_addr().unwrap(), b.local_addr().unwrap());
        let payload: Vec<u8> = (0..3000u32).map(|i| (i % 251) as u8).collect();
        let transmit = Transmit { to, from: Some(from.ip()), ecn: 2, segment: Some(1200), payload: &payload };
        poll_fn(|cx| a.poll_send(cx, &transmit)).await.unwrap();
        let mut back = Vec::new();
        while back.len() < payload.len() {
            let train = poll_fn(|cx| b.poll_receive(cx)).await.unwrap();
            assert_eq!((train.from(), train.local(), train.ecn()), (from, Some(to.ip()), 2));
            if back.is_empty() {
                assert_eq!(train.segment(), Some(1200), "loopback keeps a GSO train whole for GRO");
            }
            train.with_payload(|bytes| back.extend_from_slice(bytes));
        }
        assert_eq!(back, payload);
    });
}

#[test]
fn datagrams_over_ipv6() {
    on_both(|| async {
        let local = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 0));
        let a = UdpSocket::bind(local).unwrap();
        let b = UdpSocket::bind(local).unwrap();
        let to = b.local_addr().unwrap();
        let transmit = Transmit { to, from: Some(to.ip()), ecn: 1, segment: None, payload: b"six" };
        poll_fn(|cx| a.poll_send(cx, &transmit)).await.unwrap();
        let datagram = poll_fn(|cx| b.poll_receive(cx)).await.unwrap();
        assert_eq!(
            (datagram.from(), datagram.local(), datagram.ecn()),
            (a.local_addr().unwrap(), Some(to.ip()), 1)
        );
        datagram.with_payload(|bytes| assert_eq!(bytes, b"six"));
    });
}

#[test]
fn a_panic_ends_its_task_alone() {
    let (_, stats) = run_on(&CoreOptions::default(), async {
        let lived = Rc::new(Cell::new(false));
        spawn(async { panic!("on purpose") });
        let neighbour = Rc::clone(&lived);
        spawn_scoped(async move {
            sleep(Duration::from_millis(5)).await;
            neighbour.set(true);
        })
        .await;
        assert!(lived.get());
    });
    assert_eq!(stats.task_panics.get(), 1);
}

#[test]
fn a_sleep_is_never_shorter_than_wanted_whatever_its_turn_did_before() {
    on_both(|| async {
        let (work, rest) = (Duration::from_millis(15), Duration::from_millis(20));
        let began = Instant::now();
        while began.elapsed() < work {
            std::hint::spin_loop();
        }
        let rests = Instant::now();
        sleep(rest).await;
        assert!(rests.elapsed() >= rest, "{:?}", rests.elapsed());
    });
}

#[test]
fn a_task_is_woken_from_another_thread_while_the_core_sleeps() {
    on_both(|| async {
        for _ in 0..200 {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let thread = std::thread::spawn(move || sender.send(7).unwrap());
            let got = spawn_scoped(async move { receiver.await.unwrap() }).await;
            assert_eq!(got, 7);
            thread.join().unwrap();
        }
    });
}

#[test]
fn two_cores_wake_each_other_through_their_rings() {
    let (to_b, mut at_b) = tokio::sync::mpsc::unbounded_channel();
    let (to_a, mut at_a) = tokio::sync::mpsc::unbounded_channel();
    let other = std::thread::spawn(move || {
        run_on(&CoreOptions::default(), async move {
            while let Some(n) = at_b.recv().await {
                to_a.send(n + 1).unwrap();
            }
        })
    });
    let (_, stats) = run_on(&CoreOptions::default(), async move {
        for n in 0..2000u32 {
            to_b.send(n).unwrap();
            assert_eq!(at_a.recv().await, Some(n + 1));
        }
    });
    other.join().unwrap();
    assert!(stats.doorbells_rung.get() > 0, "the other core slept at least once");
}

#[test]
fn a_task_that_never_rests_does_not_starve_sockets_or_timers() {
    on_both(|| async {
        let (mut near, mut far) = tcp_pair();
        let spinning = spawn_scoped(async {
            loop {
                yield_now().await;
            }
        });
        std::io::Write::write_all(&mut near, b"hi").unwrap();
        let mut bytes = [0; 2];
        far.read_exact(&mut bytes).await.unwrap();
        sleep(Duration::from_millis(3)).await;
        drop(spinning);
    });
}

#[test]
fn timers_fire_in_order_and_never_early() {
    on_both(|| async {
        let start = Instant::now();
        let order = Rc::new(std::cell::RefCell::new(Vec::new()));
        let tasks: Vec<_> = [30u64, 10, 20]
            .into_iter()
            .map(|ms| {
                let order = Rc::clone(&order);
                spawn_scoped(async move {
                    sleep(Duration::from_millis(ms)).await;
                    assert!(start.elapsed() >= Duration::from_millis(ms));
                    order.borrow_mut().push(ms);
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
        assert_eq!(*order.borrow(), [10, 20, 30]);
    });
}

/// Opens `count` streams, writes `size` bytes into each from outside, and only then reads.
async fn flood(count: usize, size: usize) {
    let mut pairs = Vec::new();
    for _ in 0..count {
        pairs.push(tcp_pair());
    }
    let tasks: Vec<_> = pairs
        .into_iter()
        .map(|(mut near, mut far)| {
            std::io::Write::write_all(&mut near, &vec![5; size]).unwrap();
            near.shutdown(std::net::Shutdown::Write).unwrap();
            spawn_scoped(async move {
                let mut back = Vec::new();
                far.read_to_end(&mut back).await.unwrap();
                drop(near);
                back.len()
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await, size);
    }
}

#[test]
fn what_a_peer_sent_ahead_comes_in_pieces() {
    // Without the end of a receive all 60,000 bytes are there after the first read.
    if !crate::probe::ends_receives(&crate::probe::kernel_release()) {
        return;
    }
    let options = CoreOptions { driver: DriverChoice::Uring, ..CoreOptions::default() };
    run_on(&options, async {
        let (mut near, mut far) = tcp_pair();
        std::io::Write::write_all(&mut near, &[7; 60_000]).unwrap();
        near.shutdown(std::net::Shutdown::Write).unwrap();
        far.read_exact(&mut [0; 1]).await.unwrap();
        let mut into = vec![0; 60_000];
        let first = far.read(&mut into).await.unwrap();
        assert!(first < 40_000, "{first} bytes came in one go");
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        assert_eq!(1 + first + rest.len(), 60_000);
    });
}

#[test]
fn a_crowd_reads_its_sockets_itself() {
    let options = CoreOptions { driver: DriverChoice::Uring, ..CoreOptions::default() };
    run_on(&options, async {
        let (nears, fars): (Vec<_>, Vec<_>) = (0..100).map(|_| tcp_pair()).unzip();
        for other in 0..3 {
            crate::spawn_for(crate::Payer(other), sleep(PATIENCE));
        }
        let done = Rc::new(Cell::new(0));
        for mut far in fars {
            let done = Rc::clone(&done);
            crate::spawn_for(crate::Payer(5), async move {
                let mut all = vec![0; 30_000];
                far.read_exact(&mut all).await.unwrap();
                assert!(all == [7; 30_000], "what came is what was sent");
                done.set(done.get() + 1);
                sleep(PATIENCE).await; // The crowd stays one.
            });
        }
        let writing = std::thread::spawn(move || {
            for _ in 0..3 {
                for mut near in &nears {
                    std::io::Write::write_all(&mut near, &[7; 10_000]).unwrap();
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            nears
        });
        while done.get() < 100 {
            sleep(Duration::from_millis(1)).await;
        }
        // 300 buffers would have been needed at once, and 64 are there.
        let grown = crate::core::with_core(|core| core.stats.receive_pool_grown.get());
        assert_eq!(grown, 0, "the kernel received nothing ahead of a turn");
        drop(writing.join().unwrap());
    });
}

#[test]
fn many_closes_take_many_turns_and_all_happen() {
    let options = CoreOptions { driver: DriverChoice::Uring, ..CoreOptions::default() };
    let (_, stats) = run_on(&options, async {
        let (nears, fars): (Vec<_>, Vec<_>) = (0..100).map(|_| tcp_pair()).unzip();
        let turns = || crate::core::with_core(|core| core.stats.turns.get());
        let before = turns();
        drop(fars);
        for mut near in nears {
            near.set_nonblocking(true).unwrap();
            while std::io::Read::read(&mut near, &mut [0; 1]).is_err() {
                yield_now().await;
            }
        }
        let took = turns() - before;
        assert!(took >= 20, "a hundred sockets were closed in {took} turns");
    });
    assert_eq!(stats.ring_closing.get(), 0);
}

#[test]
fn receives_that_find_no_buffer_are_armed_again_and_counted() {
    let ring = RingOptions { receive_buffers_max: 4, ..RingOptions::default() };
    let options = CoreOptions { driver: DriverChoice::Uring, ring, ..CoreOptions::default() };
    let (_, stats) = run_on(&options, flood(40, 50_000));
    assert!(stats.receive_starved.get() > 0, "4 buffers cannot have been enough");
    assert_eq!(stats.receive_buffers_lent.get(), 4, "every buffer came back");
}

#[test]
fn readers_that_lag_do_not_take_the_buffers_from_those_that_do_not() {
    let ring = RingOptions { receive_buffers_max: 64, ..RingOptions::default() };
    let options = CoreOptions { driver: DriverChoice::Uring, ring, ..CoreOptions::default() };
    let (_, stats) = run_on(&options, async {
        // A hundred streams armed by one read each, whose tasks then never read again.
        let mut lagging = Vec::new();
        for _ in 0..100 {
            let (mut near, mut far) = tcp_pair();
            std::io::Write::write_all(&mut near, &[1; 30_000]).unwrap();
            far.read_exact(&mut [0; 1]).await.unwrap();
            lagging.push((near, far));
        }
        for _ in 0..100 {
            flood(1, 20_000).await;
        }
        for (near, mut far) in lagging {
            near.shutdown(std::net::Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            far.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest.len(), 29_999);
        }
    });
    assert!(stats.receive_spilled.get() > 0 && stats.receive_paused.get() > 0);
}

#[test]
fn the_receive_pool_grows_under_load_and_shrinks_after() {
    let options = CoreOptions { driver: DriverChoice::Uring, ..CoreOptions::default() };
    let (grown, stats) = run_on(&options, async {
        flood(200, 60_000).await;
        let grown = crate::core::with_core(|core| core.stats.receive_buffers.get());
        // Calm turns until the pool is back at its start; bounded by the patience of the test.
        while crate::core::with_core(|core| core.stats.receive_buffers_lent.get()) > 64 {
            sleep(Duration::from_millis(20)).await;
        }
        flood(2, 1000).await;
        grown
    });
    assert!(grown >= 128, "grew to {grown}");
    assert!(stats.receive_pool_grown.get() > 0 && stats.receive_pool_shrunk.get() > 0);
    assert!(stats.receive_buffers.get() < grown, "memory was given back");
}

#[test]
fn a_full_submission_queue_delays_and_loses_nothing() {
    let ring = RingOptions { entries: 2, ..RingOptions::default() };
    let options = CoreOptions { driver: DriverChoice::Uring, ring, ..CoreOptions::default() };
    let (_, stats) = run_on(&options, flood(100, 5000));
    assert!(stats.ring_submission_full.get() > 0);
}

#[test]
fn an_overflowing_completion_queue_delays_and_loses_nothing() {
    let ring = RingOptions { entries: 64, completion_entries: Some(64), ..RingOptions::default() };
    let options = CoreOptions { driver: DriverChoice::Uring, ring, ..CoreOptions::default() };
    let (_, stats) = run_on(&options, async {
        for _ in 0..3 {
            flood(300, 20_000).await;
        }
    });
    assert!(stats.ring_completion_overflows.get() > 0, "64 entries must have overflowed");
}

#[test]
fn a_listener_without_descriptors_says_so_and_goes_on() {
    // In a process of its own, because the limit is the whole process's.
    if std::env::var_os("BERTH_TEST_NO_FDS").is_none() {
        let test = "tests::a_listener_without_descriptors_says_so_and_goes_on";
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env("BERTH_TEST_NO_FDS", "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    on_both(|| async {
        let socket = std::net::TcpListener::bind(LOCAL).unwrap();
        let address = socket.local_addr().unwrap();
        let listener = TcpListener::adopt(socket.into()).unwrap();
        let clients: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        let mut hoard = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            hoard.push(file);
            assert!(hoard.len() < 2_000_000);
        }
        let error = listener.accept().await.err().unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        drop(hoard);
        for _ in &clients {
            listener.accept().await.unwrap();
        }
        crate::core::with_core(|core| assert!(core.stats.accept_exhausted.get() >= 1));
    });
}

/// Once the core's end threw the timers away before the tasks whose deadlines were in them: a task
/// that waited for a time panicked when it was dropped, and the process with it.
#[test]
fn tasks_that_wait_for_a_time_are_dropped_with_the_core() {
    struct SetOnDrop(Rc<Cell<u32>>);
    impl Drop for SetOnDrop {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let dropped = Rc::new(Cell::new(0));
    on_both(|| async {
        for _ in 0..3 {
            let alive = SetOnDrop(Rc::clone(&dropped));
            spawn(async move {
                let _alive = alive;
                let _ = timeout(Duration::from_secs(600), sleep(Duration::from_secs(300))).await;
            });
        }
        sleep(Duration::from_millis(1)).await; // Now all of them wait.
    });
    assert_eq!(dropped.get(), 6, "three on each driver");
}

#[test]
fn a_connection_is_made_to_an_address_and_carries_bytes() {
    on_both(|| async {
        let listener = std::net::TcpListener::bind(LOCAL).unwrap();
        let to = listener.local_addr().unwrap();
        let mut near = TcpStream::connect(to).await.unwrap();
        let (far, from) = listener.accept().unwrap();
        assert_eq!((near.peer_addr().unwrap(), near.local_addr().unwrap()), (to, from));
        near.write_all(b"there").await.unwrap();
        let mut far = TcpStream::adopt(far.into()).unwrap();
        let mut bytes = [0; 5];
        far.read_exact(&mut bytes).await.unwrap();
        far.write_all(&bytes).await.unwrap();
        far.shutdown().await.unwrap();
        let mut back = Vec::new();
        near.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"there");
    });
}

#[test]
fn a_connection_that_is_refused_is_an_error_that_says_so() {
    on_both(|| async {
        let to = std::net::TcpListener::bind(LOCAL).unwrap().local_addr().unwrap();
        let error = TcpStream::connect(to).await.err().expect("nobody listens");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

/// A listener whose queue is full drops what else asks for a connection: such an attempt hangs until it is given up.
#[test]
fn a_connection_in_the_making_can_be_given_up_at_any_time() {
    on_both(|| async {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&LOCAL.into()).unwrap();
        socket.listen(0).unwrap();
        let to = socket.local_addr().unwrap().as_socket().unwrap();
        let _fills_the_queue = std::net::TcpStream::connect(to).unwrap();
        for _ in 0..3 {
            assert!(timeout(Duration::from_millis(20), TcpStream::connect(to)).await.is_err());
        }
        drop(TcpStream::connect(to)); // Never polled.
        let hangs = spawn_scoped(async move { drop(TcpStream::connect(to).await) });
        yield_now().await;
        drop(hangs);
    });
}
