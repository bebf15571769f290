//! Estimates of the numbers of different keys and of records in an index: one HyperLogLog for each.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use datamodel::sindex::IndexType;

use super::index::SecondaryIndex;

/// Age at which estimates are old.
const ESTIMATE_PERIOD: Duration = Duration::from_secs(3_600);
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

/// Notes the average number of entries of `index` per key and per record; leaves them as they are when `is_stopping`.
pub(super) fn estimate(index: &SecondaryIndex, is_stopping: &AtomicBool) {
    let (mut keys, mut records) = (CardinalitySketch::new(), CardinalitySketch::new());
    let is_complete = index.for_each_hash(is_stopping, |key, record| {
        keys.add(key);
        records.add(record);
    });
    if !is_complete {
        return;
    }
    let entries = index.entry_count();
    index.entries_per_bval.store(average(entries, keys.estimate()), Relaxed);
    let is_default = index.definition.value.index_type == IndexType::Default;
    let per_record = if is_default { entries.min(1) } else { average(entries, records.estimate()) };
    index.entries_per_rec.store(per_record, Relaxed);
    *index.estimated.lock() = Some((Instant::now(), entries));
}

/// The average number of `entries` per thing, for an estimated number of things. Both numbers are rounded, to at
/// least 1; without entries the average is 0.
fn average(entries: u64, things: f64) -> u64 {
    if entries == 0 { 0 } else { ((entries as f64 / things.round().max(1.0)).round() as u64).max(1) }
}

/// Whether the averages of `index` must be estimated again: its size has changed by more than half, or has changed at
/// all and the estimate is old.
pub(super) fn is_due(index: &SecondaryIndex) -> bool {
    let entries = index.entry_count();
    index.estimated.lock().is_none_or(|(at, before)| {
        entries.abs_diff(before) > before / 2 || entries != before && at.elapsed() >= ESTIMATE_PERIOD
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_rounded_up_from_a_half() {
        let averages = [(0, 0.0), (1, 1.0), (300, 8.002), (299, 8.002), (1, 3.0)];
        assert_eq!(averages.map(|(entries, things)| average(entries, things)), [0, 1, 38, 37, 1]);
    }

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
