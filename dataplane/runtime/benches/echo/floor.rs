//! The floor: a server that is only a loop over a ring. No tasks, no wakers, no copies of our own,
//! no completions of sends. What a runtime costs is what it adds to this.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;

use crate::bare_ring::{BareRing, Completion, Enter, Kind, TaskRun};
use crate::{RESPONSE, ends_request};

pub(crate) fn serve(listener: &TcpListener) -> io::Result<()> {
    let mut ring = BareRing::new(TaskRun::Deferred)?;
    ring.accept(listener.as_raw_fd());
    loop {
        ring.enter(Enter::Wait);
        while let Some(completion) = ring.next() {
            complete(&mut ring, completion);
        }
    }
}

/// A connection's number is its descriptor.
fn complete(ring: &mut BareRing, completion: Completion) {
    match completion.kind {
        Kind::Accept => ring.receive(completion.result, completion.result as usize),
        Kind::Receive if completion.result > 0 => {
            let fd = completion.connection as i32;
            if let Some(buffer) = completion.buffer {
                let complete = ends_request(ring.bytes(buffer, completion.result as usize));
                ring.give_back(buffer);
                if complete {
                    ring.send_static(fd, completion.connection, RESPONSE);
                }
            }
            if completion.is_final {
                ring.receive(fd, completion.connection);
            }
        }
        Kind::Receive => {
            // SAFETY: the receive has ended, and nobody else owns the descriptor.
            unsafe { libc::close(completion.connection as i32) };
        }
        Kind::Send => {}
    }
}
