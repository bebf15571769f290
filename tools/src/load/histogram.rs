//! Latency histogram with a bounded relative error.
//!
//! Log-linear: values below 64 have a bucket each; above, every power of two is cut into 64 buckets, so that a
//! bucket is never wider than 1/64 of its values. One thread records; any thread may take a [`Snapshot`] at any
//! time, and sees each recorded value at once or a moment later.

use std::sync::atomic::{AtomicU64, Ordering};

const SUB_BUCKET_BITS: u32 = 6;
const SUB_BUCKETS: usize = 1 << SUB_BUCKET_BITS;
const BUCKETS: usize = (64 - SUB_BUCKET_BITS as usize + 1) * SUB_BUCKETS;

/// Counts of values by size. The unit is the caller's.
#[derive(Debug)]
pub struct Histogram {
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
    min: AtomicU64,
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            counts: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
            min: AtomicU64::new(u64::MAX),
            max: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Counts `value`. Only the owning thread may call this: a load and a store, not an atomic addition.
    #[inline]
    pub fn record(&self, value: u64) {
        bump(&self.counts[bucket_of(value)], 1);
        bump(&self.sum, value);
        if value > self.max.load(Ordering::Relaxed) {
            self.max.store(value, Ordering::Relaxed);
        }
        if value < self.min.load(Ordering::Relaxed) {
            self.min.store(value, Ordering::Relaxed);
        }
    }
}

/// Adds to a counter that only the calling thread writes.
#[inline]
pub(super) fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

/// Values of one or several histograms at a moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    counts: Vec<u64>,
    count: u64,
    sum: u64,
    min: u64,
    max: u64,
}

impl Default for Snapshot {
    fn default() -> Self {
        Snapshot { counts: vec![0; BUCKETS], count: 0, sum: 0, min: u64::MAX, max: 0 }
    }
}

impl Snapshot {
    /// Adds what `histogram` holds now.
    pub fn add(&mut self, histogram: &Histogram) {
        for (total, count) in self.counts.iter_mut().zip(&histogram.counts) {
            let count = count.load(Ordering::Relaxed);
            *total += count;
            self.count += count;
        }
        self.sum = self.sum.wrapping_add(histogram.sum.load(Ordering::Relaxed));
        self.min = self.min.min(histogram.min.load(Ordering::Relaxed));
        self.max = self.max.max(histogram.max.load(Ordering::Relaxed));
    }

    /// Number of values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Smallest value; 0 if there is none.
    #[must_use]
    pub fn min(&self) -> u64 {
        if self.count == 0 { 0 } else { self.min }
    }

    /// Largest value; 0 if there is none.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Mean of the values; 0 if there is none.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 }
    }

    /// The value that `percent` of all values do not exceed, at most 1/64 too large; 0 if there is none.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> u64 {
        let rank = ((percent / 100.0 * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return largest_of(bucket).min(self.max);
            }
        }
        self.max
    }
}

#[inline]
fn bucket_of(value: u64) -> usize {
    if value < SUB_BUCKETS as u64 {
        return value as usize;
    }
    let shift = 63 - value.leading_zeros() - SUB_BUCKET_BITS;
    (shift as usize + 1) * SUB_BUCKETS + ((value >> shift) as usize & (SUB_BUCKETS - 1))
}

/// Largest value that belongs into `bucket`.
fn largest_of(bucket: usize) -> u64 {
    if bucket < SUB_BUCKETS {
        return bucket as u64;
    }
    let shift = bucket / SUB_BUCKETS - 1;
    let smallest = ((SUB_BUCKETS + bucket % SUB_BUCKETS) as u64) << shift;
    smallest + ((1u64 << shift) - 1)
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

    proptest! {
        #[test]
        fn a_bucket_is_at_most_a_64th_wide(value in any::<u64>()) {
            let bucket = bucket_of(value);
            prop_assert!(bucket < BUCKETS);
            let largest = largest_of(bucket);
            prop_assert!(largest >= value);
            prop_assert!(largest - value <= value / 64);
            prop_assert_eq!(bucket_of(largest), bucket);
        }

        #[test]
        fn percentiles_agree_with_sorting(mut values in proptest::collection::vec(0u64..1 << 40, 1..300), percent in 0.0f64..100.0) {
            let snapshot = snapshot_of(&values);
            values.sort_unstable();
            let rank = ((percent / 100.0 * values.len() as f64).ceil() as usize).max(1);
            let exact = values[rank - 1];
            let found = snapshot.percentile(percent);
            prop_assert!(found >= exact && found - exact <= exact / 64, "{found} for {exact}");
        }
    }
}
