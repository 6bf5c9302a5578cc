//! A server of bare QUIC connections: quinn-proto as it is, with nothing above it but a stream that is answered.
//!
//! What one idle connection of it takes is the floor for a server that uses quinn-proto, and so the measure for the
//! memory of ours: the difference is HTTP/3, the runtime and our bookkeeping. It speaks the bare dialect of
//! [`crate::quic::http3`]; a connection keeps no state of ours.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{Connection, Dir, Event, ServerConfig, StreamEvent, StreamId};

use crate::peer::BODY;
use crate::quic::host::{Application, Fate, Host};
use crate::quic::wire::Batch;
use crate::sys;

pub(crate) struct BareServer {
    host: Host<()>,
}

impl BareServer {
    pub(crate) fn bind(address: SocketAddr, config: ServerConfig) -> io::Result<Self> {
        Ok(Self { host: Host::bind(address, Some(config))? })
    }

    #[cfg(test)]
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.host.address()
    }

    /// Serves until the process is ended.
    pub(crate) fn serve(mut self) -> io::Result<Infallible> {
        let mut batch = Batch::Last;
        loop {
            let now = Instant::now();
            let limit = self.host.due(now).map(|due| due.saturating_duration_since(now));
            if batch == Batch::Last {
                sys::wait_readable(&[self.host.as_raw_fd()], limit)?;
            }
            batch = self.host.turn(&mut Bare)?;
        }
    }
}

struct Bare;

impl Application for Bare {
    type Link = ();

    fn link(&mut self, _now: Instant) {}

    fn step(&mut self, _now: Instant, connection: &mut Connection, _link: &mut ()) -> Fate {
        while let Some(event) = connection.poll() {
            match event {
                Event::Stream(StreamEvent::Opened { dir: Dir::Bi }) => {
                    while let Some(stream) = connection.streams().accept(Dir::Bi) {
                        answer_at_end(connection, stream);
                    }
                }
                Event::Stream(StreamEvent::Readable { id }) => answer_at_end(connection, id),
                // A connection that was lost ends by itself, when stray packets need not be expected any more.
                _ => {}
            }
        }
        Fate::Keep
    }
}

/// Reads what has come, and answers when that was all.
fn answer_at_end(connection: &mut Connection, stream: StreamId) {
    let mut receiving = connection.recv_stream(stream);
    let Ok(mut chunks) = receiving.read(true) else { return };
    let end = loop {
        match chunks.next(usize::MAX) {
            Ok(Some(_)) => {}
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    let _ = chunks.finalize();
    if end {
        let mut sending = connection.send_stream(stream);
        // A client that leaves meanwhile gets no answer; there is nobody to tell.
        let _ = sending.write_chunks(&mut [Bytes::from_static(BODY.as_bytes())]);
        let _ = sending.finish();
    }
}
