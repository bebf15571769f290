//! Time: the epoch of stored times, and a monotonic clock for durations.
//!
//! Stored times count from 2010-01-01T00:00:00Z. Service threads read the clock once per wake-up and pass the
//! value on; the pure crates get it as an argument.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds from the Unix epoch to the zero of stored times, 2010-01-01T00:00:00Z.
pub const STORED_EPOCH_UNIX_SECONDS: u64 = 1_262_304_000;

/// A moment in milliseconds since 2010-01-01 UTC; 40 bits of it are stored as last-update-time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct StoredMillis(pub u64);

impl StoredMillis {
    /// The current time of the wall clock. A clock set before 2010 reads as zero.
    #[must_use]
    pub fn now() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        StoredMillis(millis.saturating_sub(STORED_EPOCH_UNIX_SECONDS * 1000))
    }

    /// The moment `nanos` nanoseconds after the Unix epoch. A moment before 2010 is zero.
    #[must_use]
    pub const fn of_unix_nanos(nanos: u64) -> Self {
        StoredMillis(nanos.saturating_sub(STORED_EPOCH_UNIX_SECONDS * 1_000_000_000) / 1_000_000)
    }

    /// The same moment in whole seconds, the unit of void-times.
    #[inline]
    #[must_use]
    pub const fn seconds(self) -> u32 {
        (self.0 / 1000) as u32
    }

    /// The same moment in nanoseconds since the Unix epoch.
    #[must_use]
    pub const fn unix_nanos(self) -> u64 {
        (self.0 + STORED_EPOCH_UNIX_SECONDS * 1000) * 1_000_000
    }
}

/// Date and time in whole seconds, UTC, as ISO 8601 has it.
impl fmt::Display for StoredMillis {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unix = i64::try_from(self.0 / 1000 + STORED_EPOCH_UNIX_SECONDS).unwrap_or(i64::MAX);
        let ((year, month, day), of_day) = (date_of_days(unix / 86_400), unix % 86_400);
        let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
        write!(out, "{year}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z", month + 1)
    }
}

/// Nanoseconds of the monotonic clock, from an arbitrary zero.
#[inline]
#[must_use]
pub fn monotonic_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec; CLOCK_MONOTONIC exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Processor time of the calling thread in nanoseconds.
#[must_use]
pub fn thread_cpu_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec; CLOCK_THREAD_CPUTIME_ID exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Year, month (0 is January) and day of the month, `days` after 1970-01-01.
///
/// Counted in eras of 400 years that begin on a first of March, so that the leap day is the last of a year.
pub(crate) fn date_of_days(days: i64) -> (i64, usize, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = ((march_month + 2) % 12) as usize;
    let year = year_of_era + era * 400 + i64::from(month < 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_nanos_follow_from_millis() {
        let moment = StoredMillis(1_500);
        assert_eq!(moment.seconds(), 1);
        assert_eq!(moment.unix_nanos(), 1_262_304_001_500_000_000);
        assert_eq!(StoredMillis::of_unix_nanos(1_262_304_001_500_999_999), moment);
        assert_eq!(StoredMillis::of_unix_nanos(1_262_304_000_000_999_999), StoredMillis(0));
        assert_eq!(StoredMillis::of_unix_nanos(7), StoredMillis(0));
    }

    #[test]
    fn moments_are_shown_as_dates() {
        for (millis, shown) in [
            (0, "2010-01-01T00:00:00Z"),
            (533_609_292_607, "2026-11-29T00:48:12Z"),
            (4_294_967_295_000, "2146-02-07T06:28:15Z"),
        ] {
            assert_eq!(StoredMillis(millis).to_string(), shown);
        }
        assert!(StoredMillis(u64::MAX).to_string().ends_with('Z'));
    }

    #[test]
    fn monotonic_time_does_not_go_back() {
        let first = monotonic_nanos();
        assert!(monotonic_nanos() >= first);
    }
}
