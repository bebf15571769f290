//! Histograms by powers of two, of latencies in milliseconds or microseconds, and of some sizes.
//!
//! A measurement costs a thread one store to memory of its own (see [`cf::counters`]). The ticker computes
//! and stores the changes since its last turn.

use std::fmt::Write;
use std::time::{Duration, Instant};

use cf::counters::Counters;
use cf::log::{Context, Level, Place};
use parking_lot::Mutex;

use crate::config::Config;

/// Number of buckets: bucket 0 is for 0 units, bucket n for 2ⁿ⁻¹ up to but not including 2ⁿ.
pub(crate) const BUCKET_COUNT: usize = 64;
/// Thresholds that latencies are compared with: 1, 2, 4 … units.
const THRESHOLD_COUNT: usize = 17;
/// Buckets in a line of the log.
const BUCKETS_PER_LINE: usize = 4;

/// The unit of latencies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unit {
    Milliseconds,
    Microseconds,
}

impl Unit {
    /// The unit selected by `microsecond-histograms`.
    pub(crate) fn configured(config: &Config) -> Self {
        if config.service.microsecond_histograms.get() { Unit::Microseconds } else { Unit::Milliseconds }
    }

    /// Its name in the log and in `latencies`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Unit::Milliseconds => "msec",
            Unit::Microseconds => "usec",
        }
    }

    #[inline]
    fn bucket(self, elapsed: Duration) -> usize {
        let units = match self {
            Unit::Milliseconds => elapsed.as_millis(),
            Unit::Microseconds => elapsed.as_micros(),
        };
        bucket_of(u64::try_from(units).unwrap_or(u64::MAX))
    }
}

#[inline]
fn bucket_of(units: u64) -> usize {
    (u64::BITS - units.leading_zeros()).min(BUCKET_COUNT as u32 - 1) as usize
}

/// State of a histogram as of the ticker's last turn.
struct Tracked {
    /// Counts at the last clearing, which are subtracted.
    cleared: [u64; BUCKET_COUNT],
    /// Time of the last turn; before the first turn no rate is known.
    at: Option<Instant>,
    counts: [u64; BUCKET_COUNT],
    text: String,
}

pub(crate) struct Histogram {
    counters: Counters<BUCKET_COUNT>,
    tracked: Mutex<Tracked>,
}

impl Histogram {
    /// An empty one, with a shard for each of `thread_count` service threads.
    pub(crate) fn new(thread_count: usize) -> Self {
        let tracked =
            Tracked { cleared: [0; BUCKET_COUNT], at: None, counts: [0; BUCKET_COUNT], text: String::new() };
        Histogram { counters: Counters::new(thread_count), tracked: Mutex::new(tracked) }
    }

    /// Counts `count` events that took `elapsed`.
    #[inline]
    pub(crate) fn add(&self, unit: Unit, elapsed: Duration, count: u64) {
        self.counters.add(unit.bucket(elapsed), count);
    }

    /// Counts an item of `size` bytes.
    #[inline]
    pub(crate) fn add_size(&self, size: u64) {
        self.counters.add(bucket_of(size), 1);
    }

    fn counts(&self, tracked: &Tracked) -> [u64; BUCKET_COUNT] {
        std::array::from_fn(|bucket| self.counters.get(bucket).saturating_sub(tracked.cleared[bucket]))
    }

    /// Clears all counts.
    pub(crate) fn clear(&self) {
        let mut tracked = self.tracked.lock();
        tracked.cleared = std::array::from_fn(|bucket| self.counters.get(bucket));
        tracked.at = None;
        tracked.counts = [0; BUCKET_COUNT];
        tracked.text.clear();
    }

    /// As [`report`](Self::report), unless nothing was counted.
    pub(crate) fn report_if_any(&self, name: &str, unit: &'static str) {
        if self.counts(&self.tracked.lock()).iter().any(|count| *count != 0) {
            self.report(name, unit);
        }
    }

    /// The ticker's turn: logs the counts as `name`, and works out the rates since the last turn.
    pub(crate) fn report(&self, name: &str, unit: &'static str) {
        let mut tracked = self.tracked.lock();
        let counts = self.counts(&tracked);
        let total: u64 = counts.iter().sum();
        log_dump(format_args!("histogram dump: {name} ({total} total) {unit}"));
        let filled: Vec<(usize, u64)> =
            counts.iter().copied().enumerate().filter(|(_, count)| *count != 0).collect();
        for line in filled.chunks(BUCKETS_PER_LINE) {
            let mut text = String::new();
            for (bucket, count) in line {
                let _ = write!(text, " ({bucket:02}: {count:010})");
            }
            log_dump(format_args!("{text}"));
        }
        let now = Instant::now();
        tracked.text = match tracked.at {
            Some(before) => rates(&tracked.counts, &counts, now - before, unit),
            None => String::new(),
        };
        (tracked.at, tracked.counts) = (Some(now), counts);
    }

    /// The values between the ticker's last two turns: unit, number per second, and the percentages that took
    /// longer than 1, 2, 4 … units. Empty before the second turn.
    pub(crate) fn text(&self) -> String {
        self.tracked.lock().text.clone()
    }
}

/// Writes a line of a dump to the log, with the place that log readers expect.
fn log_dump(text: std::fmt::Arguments<'_>) {
    if cf::log::enabled(Context::Info, Level::Info) {
        cf::log::write(Context::Info, Level::Info, Place { file: "hist.c", line: line!() }, text);
    }
}

fn rates(before: &[u64; BUCKET_COUNT], now: &[u64; BUCKET_COUNT], elapsed: Duration, unit: &str) -> String {
    let new: [u64; BUCKET_COUNT] = std::array::from_fn(|bucket| now[bucket].saturating_sub(before[bucket]));
    let total: u64 = new.iter().sum();
    let seconds = (elapsed.as_secs_f64().round()).max(1.0);
    let mut text = format!("{unit},{:.1}", total as f64 / seconds);
    let mut over = total;
    for count in &new[..THRESHOLD_COUNT] {
        over -= count;
        let pct = if total == 0 { 0.0 } else { over as f64 * 100.0 / total as f64 };
        let _ = write!(text, ",{pct:.2}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two() {
        let bucket = |micros| Unit::Microseconds.bucket(Duration::from_micros(micros));
        assert_eq!([0, 1, 2, 3, 4, 7, 8, 1 << 40].map(bucket), [0, 1, 2, 2, 3, 3, 4, 41]);
        assert_eq!(Unit::Milliseconds.bucket(Duration::from_micros(999)), 0);
        assert_eq!(Unit::Milliseconds.bucket(Duration::MAX), 63);
    }

    #[test]
    fn rates_are_those_between_two_turns() {
        let histogram = Histogram::new(0);
        assert_eq!(histogram.text(), "");
        histogram.add(Unit::Milliseconds, Duration::from_micros(10), 5);
        histogram.report("h", "msec");
        assert_eq!(histogram.text(), "", "one turn tells no rate");
        let mut now = [0; BUCKET_COUNT];
        let before = now;
        (now[0], now[1], now[3]) = (90, 5, 5);
        let text = rates(&before, &now, Duration::from_secs(10), "msec");
        assert!(text.starts_with("msec,10.0,10.00,5.00,5.00,0.00,"), "{text}");
        assert_eq!(text.split(',').count(), 2 + THRESHOLD_COUNT);
        histogram.clear();
        histogram.report_if_any("h", "msec");
        assert_eq!(histogram.text(), "", "what was cleared is not reported");
    }
}
