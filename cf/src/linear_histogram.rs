//! A histogram with buckets of equal width over a known range.
//!
//! Points below the range count in the first bucket, points above it in the last. One thread fills a
//! histogram; threads that share work fill one histogram each and merge them.

/// Amounts by point.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinearHistogram {
    start: u32,
    bucket_width: u32,
    buckets: Box<[u64]>,
}

impl LinearHistogram {
    /// Makes a histogram of zeros. Its `bucket_count` buckets, at least one, divide the `range` points from
    /// `start`. The width of a bucket is rounded up to a whole number, at least 1.
    #[must_use]
    pub fn new(start: u32, range: u32, bucket_count: u32) -> Self {
        let bucket_count = bucket_count.max(1);
        LinearHistogram {
            start,
            bucket_width: range.div_ceil(bucket_count).max(1),
            buckets: vec![0; bucket_count as usize].into(),
        }
    }

    #[inline]
    pub fn add(&mut self, point: u32, amount: u64) {
        let at = (point.saturating_sub(self.start) / self.bucket_width) as usize;
        let last = self.buckets.len() - 1;
        self.buckets[at.min(last)] += amount;
    }

    /// Adds the amounts of `other`.
    ///
    /// # Panics
    /// If the buckets differ.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(
            (self.start, self.bucket_width, self.buckets.len()),
            (other.start, other.bucket_width, other.buckets.len()),
            "only histograms of the same buckets can be merged"
        );
        for (amount, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *amount += more;
        }
    }

    /// Sum over all buckets.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Number of points in a bucket.
    #[must_use]
    pub fn bucket_width(&self) -> u32 {
        self.bucket_width
    }

    /// Number of points in all buckets.
    #[must_use]
    pub fn width(&self) -> u64 {
        u64::from(self.bucket_width) * self.buckets.len() as u64
    }

    /// The lowest point and the amount of each bucket, lowest first.
    pub fn buckets(&self) -> impl Iterator<Item = (u32, u64)> {
        let starts = (0..).map(|n: u32| self.start.saturating_add(n.saturating_mul(self.bucket_width)));
        starts.zip(self.buckets.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn points_outside_the_range_count_in_the_outer_buckets() {
        let mut histogram = LinearHistogram::new(100, 10, 4);
        assert_eq!((histogram.bucket_width(), histogram.width()), (3, 12));
        for (point, amount) in [(0, 1), (100, 2), (102, 4), (103, 8), (111, 16), (u32::MAX, 32)] {
            histogram.add(point, amount);
        }
        let buckets: Vec<_> = histogram.buckets().collect();
        assert_eq!(buckets, [(100, 7), (103, 8), (106, 0), (109, 48)]);
    }

    #[test]
    fn an_empty_range_is_no_error() {
        let mut histogram = LinearHistogram::new(u32::MAX, 0, 0);
        histogram.add(7, 1);
        assert_eq!(histogram.buckets().collect::<Vec<_>>(), [(u32::MAX, 1)]);
        assert_eq!(histogram.width(), 1);
    }

    proptest! {
        #[test]
        fn each_point_is_in_the_bucket_that_holds_it(
            start in 0u32..1000,
            range in 0u32..1000,
            count in 1u32..50,
            points in prop::collection::vec(0u32..3000, 0..100),
        ) {
            let (mut left, mut right) = (LinearHistogram::new(start, range, count), LinearHistogram::new(start, range, count));
            for (n, point) in points.iter().enumerate() {
                (if n % 2 == 0 { &mut left } else { &mut right }).add(*point, 1);
            }
            left.merge(&right);
            prop_assert_eq!(left.total(), points.len() as u64);
            prop_assert!(left.width() >= u64::from(range));
            let buckets: Vec<_> = left.buckets().collect();
            for (at, (low, amount)) in buckets.iter().enumerate() {
                let (is_first, is_last) = (at == 0, at + 1 == buckets.len());
                let held = |point: &&u32| {
                    (is_first || **point >= *low) && (is_last || **point < low + left.bucket_width())
                };
                prop_assert_eq!(*amount, points.iter().filter(held).count() as u64);
            }
        }
    }
}
