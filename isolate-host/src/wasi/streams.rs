//! Bodies as streams of `wasi:io`.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime::component::{Linker, Resource, ResourceTableError, ResourceType};
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{
    DynInputStream, DynOutputStream, InputStream, OutputStream, StreamError, StreamResult,
};

use super::outgoing::Sending;
use crate::ErrorCode;
use crate::guest::Guest;
use crate::pipe::{Found, Reader};

/// An error of a stream that has an HTTP error code (`http-error-code`).
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0:?}")]
pub(crate) struct BodyFailed(pub(crate) ErrorCode);

/// Lets guests drop a stream before what they subscribed to it. [`wasmtime_wasi_io`] would trap, as it may; but a guest
/// that asks again and again, as executors do, has such pollables left whenever bytes come between two of its questions.
/// The stream goes, and an empty one stays in its place until the guest ends.
pub(super) fn forgive(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut streams = linker.instance("wasi:io/streams@0.2.12")?;
    streams.resource("input-stream", ResourceType::host::<DynInputStream>(), |mut store, rep| {
        give_up::<DynInputStream>(store.data_mut(), rep, || Box::new(Nothing))
    })?;
    streams.resource("output-stream", ResourceType::host::<DynOutputStream>(), |mut store, rep| {
        give_up::<DynOutputStream>(store.data_mut(), rep, || Box::new(Nothing))
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

fn give_up<S: 'static>(guest: &mut Guest, rep: u32, empty: fn() -> S) -> wasmtime::Result<()> {
    let stream = || Resource::<S>::new_own(rep);
    match guest.table.delete(stream()) {
        Err(ResourceTableError::HasChildren) => *guest.table.get_mut(&stream())? = empty(),
        outcome => drop(outcome?),
    }
    Ok(())
}

/// The stream of an incoming body.
pub(crate) struct BodyInput(pub(crate) Arc<Reader>);

#[async_trait]
impl Pollable for BodyInput {
    async fn ready(&mut self) {
        poll_fn(|cx| self.0.poll_found(cx)).await;
    }
}

#[async_trait]
impl InputStream for BodyInput {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        match self.0.read(size) {
            Found::Data(bytes) => Ok(bytes),
            Found::Nothing => Ok(Bytes::new()),
            Found::End(Ok(())) => Err(StreamError::Closed),
            Found::End(Err(reason)) => Err(StreamError::LastOperationFailed(BodyFailed(reason).into())),
        }
    }
}

/// The stream of an outgoing body. What it takes is on its way as far as the guest can tell: a flush has nothing to do.
pub(crate) struct BodyOutput(pub(crate) Arc<Sending>);

#[async_trait]
impl Pollable for BodyOutput {
    async fn ready(&mut self) {
        poll_fn(|cx| self.0.poll_room(cx)).await;
    }
}

#[async_trait]
impl OutputStream for BodyOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.0.room()
    }
}

/// A stream that is over: standard input, and what a guest has dropped.
pub(crate) struct Nothing;

#[async_trait]
impl Pollable for Nothing {
    async fn ready(&mut self) {}
}

#[async_trait]
impl InputStream for Nothing {
    fn read(&mut self, _size: usize) -> StreamResult<Bytes> {
        Err(StreamError::Closed)
    }
}

#[async_trait]
impl OutputStream for Nothing {
    fn write(&mut self, _bytes: Bytes) -> StreamResult<()> {
        Err(StreamError::Closed)
    }

    fn flush(&mut self) -> StreamResult<()> {
        Err(StreamError::Closed)
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Err(StreamError::Closed)
    }
}
