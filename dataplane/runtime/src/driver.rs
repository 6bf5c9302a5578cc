//! The place where a core meets the kernel: io_uring, or epoll where that is forbidden.

use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::core::CoreOptions;
use crate::epoll::Epoll;
use crate::probe;
use crate::remote::Remote;
use crate::ring::Ring;
use crate::stats::CoreStats;

/// Which driver the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DriverChoice {
    /// io_uring where the kernel allows it, else epoll with a warning.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// epoll.
    Epoll,
}

/// Which driver a core runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverKind {
    /// io_uring.
    Uring,
    /// epoll.
    Epoll,
}

/// How a turn of the driver ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Park {
    /// Take what is there and come back.
    Poll,
    /// Sleep until something happens or the time is over.
    Sleep(Option<Duration>),
}

/// The driver of one core.
pub(crate) enum Driver {
    Uring(Rc<Ring>),
    Epoll(Rc<Epoll>),
}

impl Driver {
    pub(crate) fn new(
        options: &CoreOptions,
        remote: &Arc<Remote>,
        stats: &Arc<CoreStats>,
    ) -> io::Result<Self> {
        if options.driver != DriverChoice::Epoll {
            match Self::uring(options, remote, stats) {
                Ok(driver) => return Ok(driver),
                Err(error) if options.driver == DriverChoice::Uring => return Err(error),
                Err(error) => {
                    tracing::warn!(core = options.index, %error, "driver.fallback: this core runs on epoll");
                }
            }
        }
        Ok(Driver::Epoll(Rc::new(Epoll::new(remote, stats)?)))
    }

    fn uring(options: &CoreOptions, remote: &Arc<Remote>, stats: &Arc<CoreStats>) -> io::Result<Self> {
        if let Some(missing) = probe::judge(&probe::look()) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, missing.to_string()));
        }
        Ok(Driver::Uring(Ring::new(&options.ring, remote, stats)?))
    }

    pub(crate) fn kind(&self) -> DriverKind {
        match self {
            Driver::Uring(_) => DriverKind::Uring,
            Driver::Epoll(_) => DriverKind::Epoll,
        }
    }

    pub(crate) fn turn(&self, park: Park) {
        match self {
            Driver::Uring(ring) => ring.turn(park),
            Driver::Epoll(epoll) => epoll.turn(park),
        }
    }

    /// Lets the kernel begin what it was given, without a look at what it has done.
    pub(crate) fn submit(&self) {
        match self {
            Driver::Uring(ring) => ring.submit(),
            Driver::Epoll(_) => {} // Its sockets are written at once.
        }
    }

    pub(crate) fn message_ring(&self, target: RawFd) -> bool {
        match self {
            Driver::Uring(ring) => ring.message(target),
            Driver::Epoll(_) => false,
        }
    }

    pub(crate) fn forget_wakers(&self) {
        match self {
            Driver::Uring(ring) => ring.forget_wakers(),
            Driver::Epoll(epoll) => epoll.forget_wakers(),
        }
    }
}
