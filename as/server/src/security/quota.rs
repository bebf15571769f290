//! Rates of a user's operations, and the check against its quota.
//!
//! A quota is a number of records in a second of the clock. Operations on single records count, and queries count with
//! the rate limits that they were started with. Refused operations do not count. The figure for administrators is a
//! moving average over ticks, in which the last tick has the weight `1 / tps-weight`.
//!
//! # Locks
//! None. Operations are counted in the shard of their thread; only those of a user with a quota share one number.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use cf::counters::Counters;

/// Number of threads with a counter of their own; further threads share one.
const OWN_SHARDS: usize = 16;

/// The way in which a request counts against quotas.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Charge {
    None,
    Read,
    Write,
}

/// The number of operations of one kind that a user may do in a second.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Quota {
    /// Nothing is counted: `enable-quotas` is off.
    #[default]
    Off,
    /// Operations are counted without a limit.
    Unlimited,
    /// At most this many records.
    Limited(u32),
}

impl Quota {
    /// The quota for a number in a role or an answer, where 0 means no limit.
    pub(super) fn new(is_enabled: bool, number: u32) -> Self {
        match number {
            _ if !is_enabled => Quota::Off,
            0 => Quota::Unlimited,
            number => Quota::Limited(number),
        }
    }

    /// The number, where 0 means no limit.
    pub(super) const fn number(self) -> u32 {
        match self {
            Quota::Limited(number) => number,
            _ => 0,
        }
    }
}

/// A user's activity of one kind.
pub(super) struct Rate {
    zero: Instant,
    /// For a user with a quota: the second in the upper 32 bits, its operations in the lower ones.
    now: AtomicU64,
    /// Operations on single records so far.
    done: Counters<1>,
    /// Value of `done` at the last tick. Ticks come from one thread.
    ticked: AtomicU64,
    /// Moving average per tick, in thousandths of an operation.
    average_milli: AtomicU64,
    /// Records per second reserved by running queries.
    reserved: AtomicU32,
    /// Number of running queries without a limit.
    limitless: AtomicU32,
}

impl Default for Rate {
    fn default() -> Self {
        Rate {
            zero: Instant::now(),
            now: AtomicU64::new(0),
            done: Counters::new(OWN_SHARDS),
            ticked: AtomicU64::new(0),
            average_milli: AtomicU64::new(0),
            reserved: AtomicU32::new(0),
            limitless: AtomicU32::new(0),
        }
    }
}

const COUNT_MASK: u64 = u32::MAX as u64;

impl Rate {
    /// Counts an operation on a record, unless it would exceed `quota` in this second. Returns whether it is
    /// allowed.
    #[inline]
    pub(super) fn take(&self, quota: Quota) -> bool {
        match quota {
            Quota::Off => return true,
            Quota::Unlimited => {}
            Quota::Limited(quota) if self.take_at(self.zero.elapsed().as_secs(), quota) => {}
            Quota::Limited(_) => return false,
        }
        self.done.add(0, 1);
        true
    }

    fn take_at(&self, second: u64, quota: u32) -> bool {
        let left = u64::from(quota.saturating_sub(self.reserved.load(Relaxed)));
        let taken = self.now.fetch_update(Relaxed, Relaxed, |now| {
            let count = if now >> 32 == second { now & COUNT_MASK } else { 0 };
            (count < left).then_some(second << 32 | (count + 1))
        });
        taken.is_ok()
    }

    /// Ends a second: adds the operations since the last one to the average. Called by one thread.
    pub(super) fn tick(&self, weight: u32) {
        let done = self.done.get(0);
        let count = done.wrapping_sub(self.ticked.swap(done, Relaxed));
        let weight = u64::from(weight.max(1));
        let average = self.average_milli.load(Relaxed);
        self.average_milli.store((average * (weight - 1) + count * 1_000) / weight, Relaxed);
    }

    /// Average operations per second.
    fn per_second(&self) -> u32 {
        u32::try_from(self.average_milli.load(Relaxed).div_ceil(1_000)).unwrap_or(u32::MAX)
    }

    /// The figures for administrators: the quota, operations and records of queries per second, queries without a
    /// limit.
    pub(super) fn figures(&self, quota: Quota) -> [u32; 4] {
        [quota.number(), self.per_second(), self.reserved.load(Relaxed), self.limitless.load(Relaxed)]
    }

    /// Reserves `records_per_second` (0 means no limit) for a query, if the quota leaves room for it beside
    /// other activity. The query counts until it is [released](Self::give_back).
    pub(super) fn reserve(&self, records_per_second: u32, quota: Quota) -> bool {
        let limit = match quota {
            Quota::Limited(_) if records_per_second == 0 => return false,
            Quota::Limited(quota) => quota.saturating_sub(self.per_second()),
            Quota::Unlimited | Quota::Off => u32::MAX,
        };
        if records_per_second == 0 {
            self.limitless.fetch_add(1, Relaxed);
            return true;
        }
        let sum = |reserved: u32| reserved.checked_add(records_per_second).filter(|sum| *sum <= limit);
        self.reserved.fetch_update(Relaxed, Relaxed, sum).is_ok()
    }

    /// Ends a [reservation](Self::reserve).
    pub(super) fn give_back(&self, records_per_second: u32) {
        match records_per_second {
            0 => self.limitless.fetch_sub(1, Relaxed),
            rate => self.reserved.fetch_sub(rate, Relaxed),
        };
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
        assert!((0..1_000).all(|_| rate.take(Quota::Unlimited)), "no quota");
        assert_eq!(rate.done.get(0), 1_000);
        assert!(rate.take(Quota::Off));
        assert_eq!(rate.done.get(0), 1_000, "nothing is counted");
    }

    #[test]
    fn the_average_follows_the_operations() {
        let rate = Rate::default();
        for _ in 1..10 {
            (0..100).for_each(|_| assert!(rate.take(Quota::Unlimited)));
            rate.tick(2);
        }
        assert!((99..=100).contains(&rate.per_second()), "{}", rate.per_second());
        (0..20).for_each(|_| rate.tick(2));
        assert!(rate.per_second() <= 1, "{}", rate.per_second());
    }

    #[test]
    fn queries_take_their_rates_of_the_quota_while_they_run() {
        let rate = Rate::default();
        let quota = Quota::Limited(100);
        assert!(!rate.reserve(0, quota), "without a limit of its own");
        assert!(!rate.reserve(101, quota));
        assert!(rate.reserve(70, quota) && !rate.reserve(31, quota) && rate.reserve(30, quota));
        assert!(!rate.take(quota), "nothing is left");
        rate.give_back(30);
        assert_eq!((0..100).filter(|_| rate.take_at(1, 100)).count(), 30);
        assert_eq!(rate.figures(quota), [100, 0, 70, 0]);
        assert!(rate.reserve(0, Quota::Unlimited) && rate.reserve(5_000, Quota::Unlimited));
        assert_eq!(rate.figures(Quota::Unlimited), [0, 0, 5_070, 1]);
        [0, 5_000, 70].into_iter().for_each(|rate_of_query| rate.give_back(rate_of_query));
        assert_eq!(rate.figures(Quota::Unlimited), [0, 0, 0, 0]);
        // Operations done count against queries too.
        (0..60).for_each(|_| assert!(rate.take_at(2, 100)));
        rate.done.add(0, 60);
        rate.tick(1);
        assert!(!rate.reserve(41, quota) && rate.reserve(40, quota));
    }
}
