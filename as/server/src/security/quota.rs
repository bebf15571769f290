//! How often a user does something, and whether that is within its quota.
//!
//! A quota is a number of operations in a second of the clock. What is refused does not count. The figure for administrators
//! is the average of whole seconds, in which the last one has the weight `1 / tps-weight`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Counts the operations of a user in this second.
pub(super) struct Rate {
    zero: Instant,
    /// The second in the upper 32 bits, its operations in the lower ones.
    now: AtomicU64,
    /// Average of the seconds before, in thousandths of an operation.
    average_milli: AtomicU64,
}

impl Default for Rate {
    fn default() -> Self {
        Rate { zero: Instant::now(), now: AtomicU64::new(0), average_milli: AtomicU64::new(0) }
    }
}

const COUNT_MASK: u64 = u32::MAX as u64;

impl Rate {
    /// Counts an operation, unless that would be more than `quota` in this second. A quota of 0 is none.
    pub(super) fn take(&self, quota: u32) -> bool {
        if quota == 0 {
            return true;
        }
        self.take_at(self.zero.elapsed().as_secs(), quota)
    }

    fn take_at(&self, second: u64, quota: u32) -> bool {
        let taken = self.now.fetch_update(Relaxed, Relaxed, |now| {
            let count = if now >> 32 == second { now & COUNT_MASK } else { 0 };
            (count < u64::from(quota)).then_some(second << 32 | (count + 1))
        });
        taken.is_ok()
    }

    /// Ends a second: takes its count into the average. Called once a second, by one thread.
    pub(super) fn tick(&self, weight: u32) {
        let second = self.zero.elapsed().as_secs();
        self.tick_at(second, weight);
    }

    fn tick_at(&self, second: u64, weight: u32) {
        let now = self.now.load(Relaxed);
        let count =
            if now >> 32 == second.saturating_sub(1) || now >> 32 == second { now & COUNT_MASK } else { 0 };
        let weight = u64::from(weight.max(1));
        let average = self.average_milli.load(Relaxed);
        self.average_milli.store((average * (weight - 1) + count * 1_000) / weight, Relaxed);
    }

    /// Operations in a second, on average.
    pub(super) fn per_second(&self) -> u32 {
        u32::try_from(self.average_milli.load(Relaxed).div_ceil(1_000)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_holds_in_each_second() {
        let rate = Rate::default();
        for second in 1..4 {
            let taken = (0..100).filter(|_| rate.take_at(second, 10)).count();
            assert_eq!(taken, 10);
        }
        assert!((0..1_000).all(|_| rate.take(0)), "no quota");
    }

    #[test]
    fn the_average_follows_what_is_done() {
        let rate = Rate::default();
        for second in 1..10 {
            (0..100).for_each(|_| assert!(rate.take_at(second, 1_000)));
            rate.tick_at(second + 1, 2);
        }
        assert!((99..=100).contains(&rate.per_second()), "{}", rate.per_second());
        (20..40).for_each(|second| rate.tick_at(second, 2));
        assert!(rate.per_second() <= 1, "{}", rate.per_second());
    }
}
