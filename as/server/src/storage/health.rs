//! Read times of a disk for the health check: a moving average over half an hour.
//!
//! Reads are measured only with `enable-health-check`, and then one read in sixteen.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Number of intervals of the average; the code that moves the window defines their length.
const INTERVALS: usize = 30;
/// One read in this many is measured.
const SAMPLE_PERIOD: u64 = 16;

/// Reads of one interval.
#[derive(Default)]
struct Interval {
    total_micros: AtomicU64,
    count: AtomicU64,
}

impl Interval {
    fn clear(&self) {
        self.total_micros.store(0, Relaxed);
        self.count.store(0, Relaxed);
    }
}

/// The reads of one disk. Any thread may record one: compared with a read, shared counters cost nothing.
#[derive(Default)]
pub(super) struct ReadHealth {
    is_on: AtomicBool,
    reads: AtomicU64,
    intervals: [Interval; INTERVALS],
    current: AtomicUsize,
}

impl ReadHealth {
    /// Begins a read; returns the time if it is measured.
    #[inline]
    pub(super) fn start(&self) -> Option<Instant> {
        if !self.is_on.load(Relaxed) {
            return None;
        }
        self.reads.fetch_add(1, Relaxed).is_multiple_of(SAMPLE_PERIOD).then(Instant::now)
    }

    /// Ends the read that began at `started`.
    #[inline]
    pub(super) fn end(&self, started: Option<Instant>) {
        if let Some(started) = started {
            self.note(started.elapsed());
        }
    }

    fn note(&self, elapsed: Duration) {
        let interval = &self.intervals[self.current.load(Relaxed) % INTERVALS];
        interval.total_micros.fetch_add(elapsed.as_micros() as u64, Relaxed);
        interval.count.fetch_add(1, Relaxed);
    }

    /// Starts measuring again, or stops.
    pub(super) fn switch(&self, is_on: bool) {
        self.intervals.iter().for_each(Interval::clear);
        self.current.store(0, Relaxed);
        self.is_on.store(is_on, Relaxed);
    }

    /// Begins the next interval, in place of the oldest.
    pub(super) fn move_on(&self) {
        let next = (self.current.load(Relaxed) + 1) % INTERVALS;
        self.intervals[next].clear();
        self.current.store(next, Relaxed);
    }

    /// Average microseconds of a read; 0 without any.
    pub(super) fn average_micros(&self) -> f64 {
        let sum = |figure: fn(&Interval) -> &AtomicU64| -> u64 {
            self.intervals.iter().map(|interval| figure(interval).load(Relaxed)).sum()
        };
        let count = sum(|interval| &interval.count);
        if count == 0 { 0.0 } else { sum(|interval| &interval.total_micros) as f64 / count as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_read_of_sixteen_is_measured_while_it_is_on() {
        let health = ReadHealth::default();
        assert!(health.start().is_none());
        health.switch(true);
        assert_eq!((0..64).filter(|_| health.start().is_some()).count(), 4);
        health.switch(false);
        assert!(health.start().is_none());
    }

    #[test]
    fn the_average_is_over_the_last_intervals() {
        let health = ReadHealth::default();
        assert_eq!(health.average_micros() as u64, 0);
        health.note(Duration::from_micros(100));
        health.move_on();
        health.note(Duration::from_micros(300));
        assert_eq!(health.average_micros() as u64, 200);
        (1..INTERVALS).for_each(|_| health.move_on());
        assert_eq!(health.average_micros() as u64, 300, "the oldest interval is forgotten");
        health.move_on();
        health.note(Duration::from_micros(50));
        assert_eq!(health.average_micros() as u64, 50);
        health.switch(true);
        assert_eq!(health.average_micros() as u64, 0);
    }
}
