//! `wasi:clocks`: coarse, so that a guest cannot measure what its neighbours do to the caches.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wasmtime::component::Resource;
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};

use crate::bindings::wasi::clocks::{monotonic_clock, wall_clock};
use crate::guest::Guest;
use crate::world::Later;

/// The step of both clocks.
const STEP: Duration = Duration::from_millis(1);

fn coarse(time: Duration) -> Duration {
    Duration::from_nanos((time.as_nanos() / STEP.as_nanos() * STEP.as_nanos()) as u64)
}

/// Since some moment in the life of this process.
fn monotonic() -> Duration {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    coarse(BEGAN.get_or_init(Instant::now).elapsed())
}

/// A moment that a guest waits for.
struct Timer(Later<()>);

#[async_trait]
impl Pollable for Timer {
    async fn ready(&mut self) {
        self.0.as_mut().await;
        self.0 = Box::pin(std::future::ready(()));
    }
}

impl monotonic_clock::Host for Guest {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(monotonic().as_nanos() as u64)
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(STEP.as_nanos() as u64)
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.subscribe_duration(when.saturating_sub(monotonic().as_nanos() as u64))
    }

    fn subscribe_duration(&mut self, time: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let sleep = self.world.sleep(Duration::from_nanos(time));
        let timer = self.push(Timer(sleep))?;
        subscribe(&mut self.table, timer)
    }
}

fn wall() -> wall_clock::Datetime {
    let now = coarse(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    wall_clock::Datetime { seconds: now.as_secs(), nanoseconds: now.subsec_nanos() }
}

impl wall_clock::Host for Guest {
    fn now(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        Ok(wall())
    }

    fn resolution(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        Ok(wall_clock::Datetime { seconds: 0, nanoseconds: STEP.subsec_nanos() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_whole_steps() {
        assert_eq!(coarse(Duration::from_nanos(1_999_999)), STEP);
        assert_eq!(monotonic().as_nanos() % STEP.as_nanos(), 0);
        assert_eq!(wall().nanoseconds % STEP.subsec_nanos(), 0);
    }
}
