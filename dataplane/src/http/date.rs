//! The `date` header: formatted once a second, not once a reply.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

/// "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110, 5.6.7).
pub type ImfFixdate = [u8; 29];

/// How long a formatted date is used: the header may be late by as much, well below its resolution.
const FRESH: Duration = Duration::from_millis(200);

/// The date as it was formatted last.
#[derive(Default)]
pub struct DateCache {
    last: Cell<Option<(Instant, ImfFixdate)>>,
}

impl DateCache {
    /// The date at `now`, the time of this turn.
    pub fn get(&self, now: Instant) -> ImfFixdate {
        if let Some((at, date)) = self.last.get()
            && now.saturating_duration_since(at) < FRESH
        {
            return date;
        }
        let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let date = imf_fixdate(unix_s);
        self.last.set(Some((now, date)));
        date
    }

    /// The same as a header value.
    pub fn value(&self, now: Instant) -> HeaderValue {
        HeaderValue::from_bytes(&self.get(now)).unwrap_or(HeaderValue::from_static(""))
    }
}

/// Formats a moment. Years above 9999 do not fit the format and wrap.
pub fn imf_fixdate(unix_s: u64) -> ImfFixdate {
    const DAYS: &[u8; 21] = b"ThuFriSatSunMonTueWed"; // 1 January 1970 was a Thursday.
    const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    let days = unix_s / 86_400;
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (unix_s / 3600 % 24, unix_s / 60 % 60, unix_s % 60);
    let mut out = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    let weekday = (days % 7) as usize * 3;
    out[..3].copy_from_slice(&DAYS[weekday..weekday + 3]);
    let name = (month - 1) as usize * 3;
    out[8..11].copy_from_slice(&MONTHS[name..name + 3]);
    put(&mut out[12..16], year % 10_000);
    for (at, number) in [(5, day), (17, hour), (20, minute), (23, second)] {
        put(&mut out[at..at + 2], number);
    }
    out
}

fn put(into: &mut [u8], mut number: u64) {
    for digit in into.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Year, month and day of a day since 1970. Counts in cycles of 400 years that begin in March, so
/// that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468; // Days from 1 March of year 0 to 1 January 1970.
    let (cycle, day_of_cycle) = (shifted / 146_097, shifted % 146_097);
    let year_of_cycle =
        (day_of_cycle - day_of_cycle / 1460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (cycle * 400 + year_of_cycle + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(&imf_fixdate(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(&imf_fixdate(0), b"Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(&imf_fixdate(951_782_400), b"Tue, 29 Feb 2000 00:00:00 GMT");
    }

    /// Against the plainest model: counting days one by one over five hundred years.
    #[test]
    fn every_day_is_the_day_after_the_one_before() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..182_621 {
            assert_eq!(civil(days), (year, month, day));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }
}
