//! The pace of a query: its limit of records per second, for all of its threads and partitions together, and the turns of a
//! thread, which let others run.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use cf::turns::Turn;

/// Period in which the rate is kept.
const PERIOD: Duration = Duration::from_millis(50);

/// Records between two reads of the clock.
const TURN_CHECK_RECORDS: u32 = 16;

/// The turns of one thread.
pub(super) struct Turns {
    turn: Turn,
    /// Records since the last read of the clock.
    records: u32,
}

impl Default for Turns {
    fn default() -> Self {
        Turns { turn: Turn::begin(), records: 0 }
    }
}

impl Turns {
    /// Counts a record, and lets others run if the turn is over. The caller holds no lock.
    #[inline]
    pub(super) fn count_record(&mut self) {
        self.records += 1;
        if self.records >= TURN_CHECK_RECORDS {
            self.records = 0;
            self.turn.go_on(Instant::now());
        }
    }
}

pub(super) struct Pace {
    /// 0 = no limit.
    records_per_second: u32,
    /// Number of records so far.
    count: AtomicU64,
}

impl Pace {
    pub(super) fn new(records_per_second: u32) -> Self {
        Pace { records_per_second, count: AtomicU64::new(0) }
    }

    /// Whether a thread must check the rate after `since_look` records since its last check.
    pub(super) fn is_due(&self, since_look: u64) -> bool {
        let rate = u64::from(self.records_per_second);
        rate != 0 && since_look > rate / (1000 / PERIOD.as_millis() as u64)
    }

    /// Counts records.
    pub(super) fn add(&self, count: u64) {
        if count > 0 {
            self.count.fetch_add(count, Relaxed);
        }
    }

    /// How long to wait before the next check, in a query that began at `started`; `None` if it may continue.
    pub(super) fn early(&self, started: Instant) -> Option<Duration> {
        if self.records_per_second == 0 {
            return None;
        }
        let due =
            Duration::from_secs_f64(self.count.load(Relaxed) as f64 / f64::from(self.records_per_second));
        due.checked_sub(started.elapsed()).filter(|early| !early.is_zero()).map(|early| early.min(PERIOD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_all_together() {
        let started = Instant::now();
        let pace = Pace::new(1_000);
        assert!(!pace.is_due(50) && pace.is_due(51));
        pace.add(500);
        pace.add(500_000);
        assert_eq!(pace.early(started), Some(PERIOD), "not asleep for long");
        let fast = Pace::new(0);
        fast.add(1 << 40);
        assert!(!fast.is_due(1 << 40) && fast.early(started).is_none());
        let done = Pace::new(1_000_000);
        done.add(1);
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(done.early(started), None);
    }
}
