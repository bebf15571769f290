//! Estimates of the numbers of different keys and of records in an index: one HyperLogLog for each.

use std::sync::atomic::Ordering::Relaxed;

use super::index::SecondaryIndex;

/// Bits of a hash that choose a register.
const REGISTER_BITS: u32 = 14;
const REGISTER_COUNT: usize = 1 << REGISTER_BITS;

struct CardinalitySketch(Box<[u8]>);

impl CardinalitySketch {
    fn new() -> Self {
        CardinalitySketch(vec![0; REGISTER_COUNT].into())
    }

    fn add(&mut self, hash: u64) {
        let register = &mut self.0[(hash >> (u64::BITS - REGISTER_BITS)) as usize];
        *register = (*register).max((hash << REGISTER_BITS | 1).leading_zeros() as u8 + 1);
    }

    /// Estimated number of different hashes added.
    fn estimate(&self) -> f64 {
        let count = REGISTER_COUNT as f64;
        let empty = self.0.iter().filter(|register| **register == 0).count();
        let sum: f64 = self.0.iter().map(|register| (-f64::from(*register)).exp2()).sum();
        let raw = 0.7213 / (1.0 + 1.079 / count) * count * count / sum;
        if raw <= 2.5 * count && empty > 0 { count * (count / empty as f64).ln() } else { raw }
    }
}

/// Notes the average number of entries of `index` per key and per record.
pub(super) fn estimate(index: &SecondaryIndex) {
    let (mut keys, mut records) = (CardinalitySketch::new(), CardinalitySketch::new());
    index.for_each_hash(|key, record| {
        keys.add(key);
        records.add(record);
    });
    let entries = index.entry_count() as f64;
    let per = |sketch: &CardinalitySketch| {
        if entries == 0.0 { 0 } else { ((entries / sketch.estimate()).round() as u64).max(1) }
    };
    index.entries_per_bval.store(per(&keys), Relaxed);
    index.entries_per_rec.store(per(&records), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_near() {
        for count in [0u64, 1, 10, 1_000, 30_000, 300_000] {
            let mut sketch = CardinalitySketch::new();
            for n in 0..2 * count {
                sketch.add(cf::wyhash::hash64(&(n % count).to_le_bytes()));
            }
            let error = (sketch.estimate() - count as f64).abs();
            assert!(error <= count as f64 * 0.05, "{} for {count}", sketch.estimate());
        }
    }
}
