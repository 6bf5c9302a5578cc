//! A token bucket for each client: `BURST` requests at once, then one in `EVERY_MS` milliseconds. 204 lets one pass, 429 says
//! when to come again. The bucket is durable: a restart of the node gives nobody a fresh one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berth_object::{Context, Due, Error, Object, Request, Response, Result};

/// What is stored: when the bucket will be full again, in milliseconds of Unix time. That says how much is in it now.
const FULL_AT: &str = "full-at";

#[derive(Default)]
struct Limiter;

impl Object for Limiter {
    async fn handle(&mut self, ctx: &Context, _request: Request) -> Result<Response> {
        let (burst, every) = (setting("BURST")?, setting("EVERY_MS")?);
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        let full_at = ctx.storage().counter(FULL_AT);
        match take(full_at.get().await?, now, burst, every) {
            Ok(next) => {
                full_at.set(next).await?;
                // A bucket that is full takes no room.
                let left = Duration::from_millis(next.abs_diff(now));
                ctx.alarms().set_in("full", left, "").await?;
                Ok(Response::new(204))
            }
            Err(wait) => {
                let seconds = wait.div_ceil(1000).to_string();
                Ok(Response::new(429).with_header("retry-after", seconds))
            }
        }
    }

    async fn alarm(&mut self, ctx: &Context, _due: Due) -> Result<()> {
        Ok(ctx.storage().delete_all().await?)
    }
}

berth_object::export!(Limiter);

/// A positive number of the environment.
fn setting(name: &str) -> Result<i64> {
    let number = std::env::var(name).ok().and_then(|text| text.parse().ok());
    number.filter(|number| *number > 0).ok_or_else(|| Error::new(format!("{name} is no positive number")))
}

/// Takes one token: when the bucket will then be full, or after how many milliseconds there will be one.
fn take(full_at: i64, now: i64, burst: i64, every: i64) -> Result<i64, u64> {
    let next = full_at.max(now).saturating_add(every);
    let wait = next.saturating_sub(now).saturating_sub(burst.saturating_mul(every));
    match u64::try_from(wait) {
        Ok(wait) if wait > 0 => Err(wait),
        _ => Ok(next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_each_time() {
        let mut full_at = 0;
        for _ in 0..3 {
            full_at = take(full_at, 1_000, 3, 100).unwrap();
        }
        assert_eq!(take(full_at, 1_000, 3, 100), Err(100));
        assert_eq!(take(full_at, 1_099, 3, 100), Err(1));
        full_at = take(full_at, 1_100, 3, 100).unwrap();
        assert_eq!(take(full_at, 1_100, 3, 100), Err(100));
        // Long idle, it is full and no fuller.
        for _ in 0..3 {
            full_at = take(full_at, 9_000, 3, 100).unwrap();
        }
        assert_eq!(take(full_at, 9_000, 3, 100), Err(100));
    }

    #[test]
    fn no_number_overflows() {
        assert!(take(i64::MAX, i64::MIN, i64::MAX, i64::MAX).is_ok());
        assert!(take(i64::MAX, 0, 1, 1).is_err());
        assert_eq!(take(0, 5, i64::MAX, i64::MAX), Ok(i64::MAX));
    }
}
