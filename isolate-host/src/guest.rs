//! What the host keeps for one instance: everything that its calls may reach, and nothing of anybody else.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};

use http::HeaderMap;
use wasmtime::component::{Resource, ResourceTable, ResourceTableError};
use wasmtime_wasi_io::IoView;

use crate::ErrorCode;
use crate::limits::{Growth, Limit, Limits, Meter};
use crate::object::Object;
use crate::pipe::Reader;
use crate::wasi::cli::Log;
use crate::world::{Outbound, Promise, World};

/// The data of one store.
pub(crate) struct Guest {
    pub(crate) table: ResourceTable,
    pub(crate) limits: Arc<Limits>,
    pub(crate) growth: Growth,
    pub(crate) call: Arc<CallState>,
    pub(crate) world: Arc<dyn World>,
    pub(crate) outgoing_left: u32,
    /// Made when the guest first logs.
    pub(crate) log: Option<Arc<Log>>,
    /// If the guest is of a class.
    pub(crate) object: Option<Arc<Object>>,
}

/// What a call's guest and the task that polls it share.
pub(crate) struct CallState {
    /// What the guest sent since it was polled last.
    sent: Mutex<Vec<(Outbound, Promise)>>,
    /// Whether the request is one for the head of a reply.
    pub(crate) of_head: bool,
    answer: Mutex<Answer>,
    pub(crate) meter: Meter,
    /// Whether the last poll ended because the guest made room for others: it waits for nothing.
    pub(crate) made_room: AtomicBool,
}

/// The head of a reply, and where its body comes from.
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<Reader>,
}

/// What a guest has answered so far.
pub(crate) enum Answer {
    None,
    Given(Result<Head, ErrorCode>),
    Taken,
}

impl CallState {
    pub(crate) fn new(of_head: bool) -> Self {
        let (answer, meter) = (Mutex::new(Answer::None), Meter::new());
        Self { sent: Mutex::default(), of_head, answer, meter, made_room: AtomicBool::new(false) }
    }

    pub(crate) fn sent(&self) -> MutexGuard<'_, Vec<(Outbound, Promise)>> {
        self.sent.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn answer(&self) -> MutexGuard<'_, Answer> {
        self.answer.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// An error that ends a guest because a limit fell.
#[derive(Debug, thiserror::Error)]
#[error("the limit {0} fell")]
pub(crate) struct LimitFell(pub(crate) Limit);

impl Guest {
    pub(crate) fn new(limits: Arc<Limits>, world: Arc<dyn World>, call: Arc<CallState>) -> Self {
        let mut table = ResourceTable::with_capacity(16);
        table.set_max_capacity(limits.handles);
        Self {
            table,
            growth: Growth::new(&limits),
            outgoing_left: limits.outgoing,
            log: None,
            object: None,
            limits,
            call,
            world,
        }
    }

    /// Puts something into the table of what the guest holds.
    pub(crate) fn push<T: Send + 'static>(&mut self, thing: T) -> wasmtime::Result<Resource<T>> {
        self.table.push(thing).map_err(full)
    }

    /// Whether it has had all the time that it may have on its core.
    pub(crate) fn cpu_is_spent(&self) -> bool {
        self.call.meter.within() > self.limits.cpu
    }
}

fn full(error: ResourceTableError) -> wasmtime::Error {
    match error {
        ResourceTableError::Full => LimitFell(Limit::Handles).into(),
        other => other.into(),
    }
}

impl IoView for Guest {
    fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }
}
