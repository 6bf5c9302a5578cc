//! What an object can reach besides its own memory.

use std::time::Duration;

use crate::{Alarms, FetchError, Identity, Request, Response, Sockets, Storage, outgoing};

/// Everything of the object and its node that a turn can use.
#[derive(Debug)]
pub struct Context {
    // Only this crate makes one, so that it can carry more later.
    pub(crate) _private: (),
}

impl Context {
    /// The object's own data.
    pub fn storage(&self) -> Storage<'_> {
        Storage { _context: self }
    }

    /// Messages of the object to itself, later.
    pub fn alarms(&self) -> Alarms<'_> {
        Alarms { _context: self }
    }

    /// The object's WebSockets.
    pub fn sockets(&self) -> Sockets<'_> {
        Sockets { _context: self }
    }

    /// Who the object is.
    pub fn identity(&self) -> Identity {
        Identity::own()
    }

    /// How many messages wait for the object.
    pub fn queue_length(&self) -> u32 {
        crate::world::berth::object::identity::queue_length()
    }

    /// The time on its core that this turn has taken, in steps of a millisecond.
    pub fn cpu_used(&self) -> Duration {
        Duration::from_micros(crate::world::berth::object::identity::cpu_used_us())
    }

    /// Sends a request to somebody else, and waits for the whole reply. A commit point: the request leaves when what was
    /// written before is durable.
    pub async fn fetch(&self, request: Request) -> Result<Response, FetchError> {
        outgoing::fetch(request, None)
    }

    /// The same, and waits at most so long.
    pub async fn fetch_within(&self, request: Request, most: Duration) -> Result<Response, FetchError> {
        outgoing::fetch(request, Some(most))
    }
}
