//! The servers that are compared. All accept, read until an empty line, and answer.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use berth_runtime::stats::CoreStats;
use berth_runtime::{CoreOptions, DriverChoice, Remote};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::bare_ring::TaskRun;
use crate::{RESPONSE, SERVER_CPU, ends_request, floor, pin_to, tokio_ring};

/// Bytes that a connection reads at most at once.
const READ_LEN: usize = 1024;

/// A kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// tokio's current-thread runtime on epoll: what the others are compared with.
    Tokio,
    /// tokio-uring 0.5.
    TokioUring,
    /// tokio's current-thread runtime; a ring of our own with COOP_TASKRUN in its reactor.
    TokioRingCoop,
    /// The same with DEFER_TASKRUN and an eventfd.
    TokioRingDefer,
    /// This crate on io_uring.
    Berth,
    /// This crate on epoll.
    BerthEpoll,
    /// A loop over a ring.
    Floor,
}

impl Variant {
    pub(crate) const ALL: [Variant; 7] = [
        Variant::Tokio,
        Variant::TokioUring,
        Variant::TokioRingCoop,
        Variant::TokioRingDefer,
        Variant::Berth,
        Variant::BerthEpoll,
        Variant::Floor,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Variant::Tokio => "tokio",
            Variant::TokioUring => "tokio-uring",
            Variant::TokioRingCoop => "tokio-ring-coop",
            Variant::TokioRingDefer => "tokio-ring-defer",
            Variant::Berth => "berth",
            Variant::BerthEpoll => "berth-epoll",
            Variant::Floor => "floor",
        }
    }
}

/// What else runs on the server's runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Neighbour {
    /// Nothing.
    Nobody,
    /// A task that is always ready, so that the runtime never parks.
    NeverIdle,
}

impl Neighbour {
    /// The neighbour's task, which wakes itself at each poll.
    pub(crate) async fn run(self) {
        match self {
            Neighbour::Nobody => {}
            Neighbour::NeverIdle => loop {
                tokio::task::yield_now().await;
            },
        }
    }
}

/// Serves until the process is ended; prints the port first.
pub(crate) fn serve(variant: Variant, port: u16, neighbour: Neighbour) -> io::Result<()> {
    pin_to(SERVER_CPU)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    println!("{}", listener.local_addr()?.port());
    match variant {
        Variant::Tokio => tokio_epoll(listener, neighbour),
        Variant::TokioUring => tokio_uring(listener, neighbour),
        Variant::TokioRingCoop => tokio_ring::serve(&listener, TaskRun::Cooperative, neighbour),
        Variant::TokioRingDefer => tokio_ring::serve(&listener, TaskRun::Deferred, neighbour),
        Variant::Berth => berth(listener, DriverChoice::Uring, neighbour),
        Variant::BerthEpoll => berth(listener, DriverChoice::Epoll, neighbour),
        Variant::Floor => floor::serve(&listener),
    }
}

/// One connection, on every runtime whose streams are tokio's.
pub(crate) async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut buffer = [0; READ_LEN];
    let mut filled = 0;
    loop {
        match stream.read(&mut buffer[filled..]).await {
            Ok(0) | Err(_) => return,
            Ok(count) => filled += count,
        }
        if ends_request(&buffer[..filled]) {
            filled = 0;
            if stream.write_all(RESPONSE).await.is_err() {
                return;
            }
        }
    }
}

fn tokio_epoll(listener: TcpListener, neighbour: Neighbour) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        tokio::spawn(neighbour.run());
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(answer(stream));
        }
    })
}

fn tokio_uring(listener: TcpListener, neighbour: Neighbour) -> io::Result<()> {
    tokio_uring::start(async {
        tokio_uring::spawn(neighbour.run());
        let listener = tokio_uring::net::TcpListener::from_std(listener);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio_uring::spawn(answer_owned(stream));
        }
    })
}

/// The same connection where reads take the buffer and give it back. A request that comes in pieces
/// is not expected here.
async fn answer_owned(stream: tokio_uring::net::TcpStream) {
    let mut buffer = vec![0; READ_LEN];
    loop {
        let (result, returned) = stream.read(buffer).await;
        buffer = returned;
        match result {
            Ok(0) | Err(_) => return,
            Ok(count) if ends_request(&buffer[..count]) => {}
            Ok(_) => return,
        }
        if stream.write_all(RESPONSE).await.0.is_err() {
            return;
        }
    }
}

fn berth(listener: TcpListener, driver: DriverChoice, neighbour: Neighbour) -> io::Result<()> {
    let options = CoreOptions { driver, ..CoreOptions::default() };
    let stats = Arc::<CoreStats>::default();
    berth_runtime::block_on(&options, &Arc::new(Remote::new()?), &stats, async {
        berth_runtime::spawn(neighbour.run());
        let listener = berth_runtime::TcpListener::adopt(OwnedFd::from(listener))?;
        loop {
            let stream = listener.accept().await?;
            stream.set_nodelay(true)?;
            berth_runtime::spawn(answer(stream));
        }
    })?
}
