//! Bodies as streams of `wasi:io`.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{InputStream, OutputStream, StreamError, StreamResult};

use super::outgoing::Sending;
use crate::ErrorCode;
use crate::pipe::{Found, Reader};

/// An error of a stream that has an HTTP error code (`http-error-code`).
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0:?}")]
pub(crate) struct BodyFailed(pub(crate) ErrorCode);

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

/// An input that has nothing: standard input.
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
