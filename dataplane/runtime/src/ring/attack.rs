//! The attack on buffer ownership: operations in flight are dropped at random, a million times.
//!
//! Guards are on, so that a buffer which is not in use is an inaccessible page. If the ring gave a
//! buffer back while the kernel still used it, one of these happens, and each fails the test: the
//! kernel completes with EFAULT (it met the closed page), this process faults, or bytes of one
//! connection show up in another (every byte carries the number of its stream: the canary).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stats::CoreStats;
use crate::{
    CoreOptions, DriverChoice, Guard, Remote, RingOptions, TcpStream, Transmit, UdpSocket, block_on,
    yield_now,
};

/// Dropped operations; `BERTH_ATTACK_DROPS` sets another number.
const DROPS: u64 = 40_000;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        // xorshift64*: the seed is printed with a failure, so a run can be repeated.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n
    }
}

/// One stream under attack. A UNIX socket pair behaves as TCP does for the ring, and a million of
/// them leave no ports in TIME_WAIT behind.
struct Victim {
    near: UnixStream,
    far: TcpStream,
    canary: u8,
}

impl Victim {
    fn new(canary: u8) -> Self {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        Self { near, far: TcpStream::adopt(OwnedFd::from(far)).unwrap(), canary }
    }

    /// One random step; returns how many operations it left in flight.
    fn step(&mut self, random: &mut Random) {
        let mut cx = Context::from_waker(Waker::noop());
        match random.below(4) {
            0 => {
                use std::io::Write;
                let count = 1 + random.below(9000) as usize;
                let _ = self.near.write(&vec![self.canary; count]);
            }
            1 => self.read(&mut cx, 1 + random.below(6000) as usize),
            2 => {
                let bytes = vec![self.canary; 1 + random.below(70_000) as usize];
                let _ = Pin::new(&mut self.far).poll_write(&mut cx, &bytes);
            }
            _ => self.drain(),
        }
    }

    fn read(&mut self, cx: &mut Context<'_>, count: usize) {
        let mut bytes = vec![0; count];
        let mut buffer = ReadBuf::new(&mut bytes);
        if let Poll::Ready(Ok(())) = Pin::new(&mut self.far).poll_read(cx, &mut buffer) {
            self.check(buffer.filled());
        }
    }

    fn drain(&mut self) {
        use std::io::Read;
        let mut bytes = [0; 5000];
        if let Ok(count) = self.near.read(&mut bytes) {
            self.check(&bytes[..count]);
        }
    }

    fn check(&self, bytes: &[u8]) {
        assert!(
            bytes.iter().all(|byte| *byte == self.canary),
            "the canary of stream {} changed",
            self.canary
        );
    }
}

fn drops() -> u64 {
    std::env::var("BERTH_ATTACK_DROPS").ok().and_then(|text| text.parse().ok()).unwrap_or(DROPS)
}

fn guarded(attack: impl AsyncFnOnce(&mut Random)) -> Arc<CoreStats> {
    let seed =
        std::env::var("BERTH_ATTACK_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x5EED_u64);
    println!("seed {seed}");
    let options = CoreOptions {
        driver: DriverChoice::Uring,
        ring: RingOptions { guard: Guard::Pages, receive_buffers_max: 256, ..RingOptions::default() },
        ..CoreOptions::default()
    };
    let stats = Arc::new(CoreStats::default());
    let remote = Arc::new(Remote::new().unwrap());
    let mut random = Random(seed | 1);
    block_on(&options, &remote, &stats, attack(&mut random)).unwrap();
    stats
}

#[test]
fn dropped_streams_never_let_the_kernel_touch_what_was_given_back() {
    let stats = guarded(async |random| {
        let mut victims: Vec<Victim> = (0..32).map(Victim::new).collect();
        let mut dropped = 0;
        while dropped < drops() {
            let index = random.below(victims.len() as u64) as usize;
            victims[index].step(random);
            if random.below(3) == 0 {
                // Dropped with whatever is in flight: a receive, a send or both.
                victims[index] = Victim::new(random.below(256) as u8);
                dropped += 1;
            }
            if random.below(4) == 0 {
                yield_now().await;
            }
        }
    });
    assert_eq!(stats.ring_faults.get(), 0, "the kernel met a page that was not lent to it");
    assert!(
        stats.receive_starved.get() > 0 || stats.receive_pool_grown.get() > 0,
        "the pool was never short"
    );
}

#[test]
fn dropped_datagram_sockets_never_let_the_kernel_touch_what_was_given_back() {
    let local = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let stats = guarded(async |random| {
        let mut cx = Context::from_waker(Waker::noop());
        let sink = UdpSocket::bind(local).unwrap();
        let to = sink.local_addr().unwrap();
        let mut sockets: Vec<UdpSocket> = (0..8).map(|_| UdpSocket::bind(local).unwrap()).collect();
        for _ in 0..drops() / 10 {
            let index = random.below(sockets.len() as u64) as usize;
            let payload = vec![index as u8; 1 + random.below(1400) as usize];
            let target = if random.below(2) == 0 {
                to
            } else {
                sockets[random.below(8) as usize].local_addr().unwrap()
            };
            let transmit = Transmit { to: target, from: None, ecn: 0, segment: None, payload: &payload };
            let _ = sockets[index].poll_send(&mut cx, &transmit);
            if let Poll::Ready(Ok(datagram)) = sockets[index].poll_receive(&mut cx) {
                datagram
                    .with_payload(|bytes| assert!(bytes.iter().all(|byte| *byte == bytes[0] && *byte < 8)));
            }
            while let Poll::Ready(Ok(datagram)) = sink.poll_receive(&mut cx) {
                datagram.with_payload(|bytes| assert!(bytes.iter().all(|byte| *byte == bytes[0])));
            }
            sockets[index] = UdpSocket::bind(local).unwrap();
            if random.below(3) == 0 {
                yield_now().await;
            }
        }
    });
    assert_eq!(stats.ring_faults.get(), 0, "the kernel met a page that was not lent to it");
}

/// The test above can fail: a buffer that is shut while the kernel owns it is met with EFAULT.
#[test]
fn a_buffer_shut_too_early_is_noticed() {
    let stats = guarded(async |_| {
        let (near, far) = UnixStream::pair().unwrap();
        let mut far = TcpStream::adopt(OwnedFd::from(far)).unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        let mut bytes = [0; 10];
        assert!(Pin::new(&mut far).poll_read(&mut cx, &mut ReadBuf::new(&mut bytes)).is_pending());
        crate::core::with_core(|core| {
            let crate::driver::Driver::Uring(ring) = &core.driver else { unreachable!() };
            ring.shut_lent_buffers_for_test();
        });
        std::io::Write::write_all(&mut &near, b"late").unwrap();
        let failed =
            crate::timeout(Duration::from_secs(10), tokio::io::AsyncReadExt::read(&mut far, &mut bytes))
                .await;
        assert!(failed.is_ok_and(|read| read.is_err()), "the read must fail");
    });
    assert_eq!(stats.ring_faults.get(), 1);
}
