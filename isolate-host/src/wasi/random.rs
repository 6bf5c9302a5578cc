//! `wasi:random`: one source for all three interfaces, the good one.

use crate::bindings::wasi::random::{insecure, insecure_seed, random};
use crate::guest::{Guest, LimitFell};
use crate::limits::Limit;

/// Bytes of one call.
const MOST: u64 = 64 << 10;

fn some(count: u64) -> wasmtime::Result<Vec<u8>> {
    if count > MOST {
        return Err(LimitFell(Limit::CallBytes).into());
    }
    let mut bytes = vec![0; count as usize];
    fill(&mut bytes)?;
    Ok(bytes)
}

fn fill(bytes: &mut [u8]) -> wasmtime::Result<()> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| wasmtime::format_err!("no random bytes"))
}

fn number() -> wasmtime::Result<u64> {
    let mut bytes = [0; 8];
    fill(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

impl random::Host for Guest {
    fn get_random_bytes(&mut self, count: u64) -> wasmtime::Result<Vec<u8>> {
        some(count)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        number()
    }
}

impl insecure::Host for Guest {
    fn get_insecure_random_bytes(&mut self, count: u64) -> wasmtime::Result<Vec<u8>> {
        some(count)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        number()
    }
}

impl insecure_seed::Host for Guest {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        Ok((number()?, number()?))
    }
}
