//! Latency histogram with a relative error of at most a thousandth, based on the crate `hdrhistogram`.
//!
//! One thread records, under a lock that other threads hold only to take a [`Snapshot`]. Smallest value,
//! largest value and sum are exact, because they are kept beside the buckets.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram as Buckets;

/// Significant decimal digits that the buckets keep.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Counts of values by size. The caller chooses the unit.
#[derive(Debug, Default)]
pub struct Histogram(Mutex<Snapshot>);

impl Histogram {
    /// Counts `value`.
    #[inline]
    pub fn record(&self, value: u64) {
        self.lock().record(value);
    }

    fn lock(&self) -> MutexGuard<'_, Snapshot> {
        // The numbers are valid even if a thread panicked between two updates.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Values of one or several histograms at one time.
#[derive(Clone, Debug)]
pub struct Snapshot {
    buckets: Buckets<u64>,
    sum: u64,
    min: u64,
    max: u64,
}

impl Default for Snapshot {
    fn default() -> Self {
        // The buckets grow with the largest value.
        let buckets = Buckets::new(SIGNIFICANT_DIGITS).expect("three digits are within what the crate takes");
        Snapshot { buckets, sum: 0, min: u64::MAX, max: 0 }
    }
}

impl Snapshot {
    /// Counts `value`.
    pub fn record(&mut self, value: u64) {
        self.buckets.record(value).expect("a histogram that grows takes every value");
        self.sum = self.sum.wrapping_add(value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Adds the current values of `histogram`.
    pub fn add(&mut self, histogram: &Histogram) {
        self.merge(&histogram.lock());
    }

    /// Adds the values of another snapshot.
    pub fn merge(&mut self, other: &Snapshot) {
        self.buckets.add(&other.buckets).expect("a histogram that grows takes every value");
        self.sum = self.sum.wrapping_add(other.sum);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// The latencies of clients that would send a request every `interval`, answered or not: a wait of ten
    /// intervals stands for ten waits, the last of which takes one interval. A stall then counts by its
    /// length, and not as one value.
    #[must_use]
    pub fn corrected(&self, interval: u64) -> Snapshot {
        Snapshot { buckets: self.buckets.clone_correct(interval), ..*self }
    }

    /// Number of values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.len()
    }

    /// Smallest value; 0 if there is none.
    #[must_use]
    pub fn min(&self) -> u64 {
        if self.count() == 0 { 0 } else { self.min }
    }

    /// Largest value; 0 if there is none.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Mean of the values; 0 if there is none.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.count() == 0 { 0.0 } else { self.sum as f64 / self.count() as f64 }
    }

    /// The value that `percent` of all values do not exceed, at most 1/1000 too large; 0 if there are no
    /// values.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> u64 {
        self.buckets.value_at_quantile(percent / 100.0).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot_of(values: &[u64]) -> Snapshot {
        let histogram = Histogram::default();
        for value in values {
            histogram.record(*value);
        }
        let mut snapshot = Snapshot::default();
        snapshot.add(&histogram);
        snapshot
    }

    #[test]
    fn an_empty_histogram_answers_zero() {
        let empty = snapshot_of(&[]);
        assert_eq!((empty.count(), empty.min(), empty.max(), empty.percentile(99.0)), (0, 0, 0, 0));
        assert!(empty.mean().abs() < f64::EPSILON);
    }

    #[test]
    fn percentiles_of_a_known_series() {
        let values: Vec<u64> = (1..=50).collect();
        let snapshot = snapshot_of(&values);
        assert_eq!(snapshot.percentile(50.0), 25);
        assert_eq!(snapshot.percentile(90.0), 45);
        assert_eq!(snapshot.percentile(100.0), 50);
        assert_eq!(snapshot.percentile(0.0), 1);
        assert!((snapshot.mean() - 25.5).abs() < 1e-9);
    }

    #[test]
    fn snapshots_merge() {
        let (a, b) = (Histogram::default(), Histogram::default());
        a.record(10);
        b.record(1000);
        let mut both = Snapshot::default();
        both.add(&a);
        both.add(&b);
        assert_eq!((both.count(), both.min(), both.max()), (2, 10, 1000));
        assert_eq!(both.percentile(50.0), 10);
    }

    #[test]
    fn a_stall_counts_by_its_length() {
        let mut values = vec![1; 900];
        values.push(100_000);
        let snapshot = snapshot_of(&values);
        assert_eq!(snapshot.percentile(90.0), 1);
        let corrected = snapshot.corrected(1000);
        assert_eq!((corrected.count(), corrected.max(), corrected.percentile(90.0)), (1000, 100_000, 1));
        // Of a thousand values, the 950th is the 50th of the hundred values that the stall stands for.
        assert!(corrected.percentile(95.0).abs_diff(50_000) <= 50);
    }

    proptest! {
        #[test]
        fn percentiles_agree_with_sorting(mut values in proptest::collection::vec(0u64..1 << 40, 1..300), percent in 0.0f64..100.0) {
            let snapshot = snapshot_of(&values);
            values.sort_unstable();
            let rank = ((percent / 100.0 * values.len() as f64).ceil() as usize).max(1);
            let exact = values[rank - 1];
            let found = snapshot.percentile(percent);
            prop_assert!(found >= exact && found - exact <= exact / 1000, "{found} for {exact}");
        }
    }
}
