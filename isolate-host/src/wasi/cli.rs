//! `wasi:cli`: variables instead of an environment, the log instead of a terminal, and an exit that ends the guest.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use wasmtime::component::Resource;
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream, OutputStream, StreamResult};

use super::streams::Nothing;
use crate::bindings::wasi::cli::{
    environment, exit, stderr, stdin, stdout, terminal_input, terminal_output, terminal_stderr,
    terminal_stdin, terminal_stdout,
};
use crate::guest::Guest;
use crate::world::{Stream, World};

/// A type that no value has: guests have no terminal.
pub enum Terminal {}

/// The guest called `exit`, or returned from where only an exit leads.
#[derive(Debug, thiserror::Error)]
#[error("the guest called exit ({})", if *.ok { "success" } else { "failure" })]
pub(crate) struct Exited {
    ok: bool,
}

/// What a guest logs: whole lines go to the log at once, the last one at the end.
pub(crate) struct Log {
    world: Arc<dyn World>,
    buffers: Mutex<Buffers>,
}

#[derive(Debug)]
struct Buffers {
    out: Vec<u8>,
    err: Vec<u8>,
    /// Bytes that may still be logged.
    left: usize,
    cut: bool,
}

/// Longer lines are logged in parts.
const LINE_MAX: usize = 4096;

impl Log {
    fn new(world: Arc<dyn World>, bytes_max: usize) -> Self {
        let buffers = Buffers { out: Vec::new(), err: Vec::new(), left: bytes_max, cut: false };
        Self { world, buffers: Mutex::new(buffers) }
    }

    fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let Buffers { out, err, left, cut } = &mut *buffers;
        let may = bytes.len().min(*left);
        *left -= may;
        let line = match stream {
            Stream::Out => out,
            Stream::Err => err,
        };
        for byte in &bytes[..may] {
            if *byte == b'\n' || line.len() == LINE_MAX {
                self.world.log(stream, line);
                line.clear();
            }
            if *byte != b'\n' {
                line.push(*byte);
            }
        }
        if may < bytes.len() && !std::mem::replace(cut, true) {
            self.world.log_is_cut();
        }
    }

    /// Logs what has no end yet, and allows so many bytes more: for guests that live on.
    pub(crate) fn renew(&self, bytes_max: usize) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let Buffers { out, err, left, cut } = &mut *buffers;
        self.end_lines(out, err);
        (*left, *cut) = (bytes_max, false);
    }

    fn end_lines(&self, out: &mut Vec<u8>, err: &mut Vec<u8>) {
        for (stream, line) in [(Stream::Out, out), (Stream::Err, err)] {
            if !line.is_empty() {
                self.world.log(stream, line);
                line.clear();
            }
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let Buffers { out, err, .. } = &mut *buffers;
        self.end_lines(out, err);
    }
}

struct LogStream {
    log: Arc<Log>,
    stream: Stream,
}

#[async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.log.write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

impl Guest {
    fn log_stream(&mut self, stream: Stream) -> wasmtime::Result<Resource<DynOutputStream>> {
        let (world, most) = (&self.world, self.limits.log_bytes);
        let log = self.log.get_or_insert_with(|| Arc::new(Log::new(Arc::clone(world), most)));
        let stream: DynOutputStream = Box::new(LogStream { log: Arc::clone(log), stream });
        self.push(stream)
    }
}

impl environment::Host for Guest {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(self.world.variables().to_vec())
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(None)
    }
}

impl exit::Host for Guest {
    fn exit(&mut self, status: Result<(), ()>) -> wasmtime::Result<()> {
        Err(Exited { ok: status.is_ok() }.into())
    }

    fn exit_with_code(&mut self, status: u8) -> wasmtime::Result<()> {
        Err(Exited { ok: status == 0 }.into())
    }
}

impl stdin::Host for Guest {
    fn get_stdin(&mut self) -> wasmtime::Result<Resource<DynInputStream>> {
        let nothing: DynInputStream = Box::new(Nothing);
        self.push(nothing)
    }
}

impl stdout::Host for Guest {
    fn get_stdout(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        self.log_stream(Stream::Out)
    }
}

impl stderr::Host for Guest {
    fn get_stderr(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        self.log_stream(Stream::Err)
    }
}

impl terminal_input::Host for Guest {}
impl terminal_output::Host for Guest {}

impl terminal_input::HostTerminalInput for Guest {
    fn drop(&mut self, terminal: Resource<Terminal>) -> wasmtime::Result<()> {
        self.table.delete(terminal)?;
        Ok(())
    }
}

impl terminal_output::HostTerminalOutput for Guest {
    fn drop(&mut self, terminal: Resource<Terminal>) -> wasmtime::Result<()> {
        self.table.delete(terminal)?;
        Ok(())
    }
}

impl terminal_stdin::Host for Guest {
    fn get_terminal_stdin(&mut self) -> wasmtime::Result<Option<Resource<Terminal>>> {
        Ok(None)
    }
}

impl terminal_stdout::Host for Guest {
    fn get_terminal_stdout(&mut self) -> wasmtime::Result<Option<Resource<Terminal>>> {
        Ok(None)
    }
}

impl terminal_stderr::Host for Guest {
    fn get_terminal_stderr(&mut self) -> wasmtime::Result<Option<Resource<Terminal>>> {
        Ok(None)
    }
}
