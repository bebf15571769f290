//! Latest last-update-time of the records removed from each partition.
//!
//! A removed record leaves no trace in the index, but its copies stay on disk until their blocks are overwritten. A
//! record created later under the same digest must win against these copies at the next start, even if it was created
//! in the millisecond in which the removed one was last updated. So a record is never created at or before the
//! last-update-time of a record that was removed from its partition. Only namespaces on disk need this.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cf::Digest;

use crate::index::{PARTITION_COUNT, PartitionId};

/// By partition, the latest last-update-time of a removed record; empty without a disk.
pub(super) struct Removals(Box<[AtomicU64]>);

impl Removals {
    pub(super) fn new(is_on_disk: bool) -> Self {
        let count = if is_on_disk { PARTITION_COUNT } else { 0 };
        Removals((0..count).map(|_| AtomicU64::new(0)).collect())
    }

    /// Notes that the record of `digest`, last updated at `last_update_time`, is removed. The caller has locked its
    /// sprig.
    pub(super) fn note(&self, digest: &Digest, last_update_time: u64) {
        if let Some(latest) = self.0.get(PartitionId::of(digest).index()) {
            latest.fetch_max(last_update_time, Relaxed);
        }
    }

    /// The last-update-time of a record created at `now`.
    #[inline]
    pub(super) fn creation_time(&self, digest: &Digest, now: u64) -> u64 {
        let latest = self.0.get(PartitionId::of(digest).index());
        latest.map_or(now, |latest| now.max(latest.load(Relaxed) + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_created_record_is_later_than_the_removed_one() {
        let digest = Digest::of_key(b"set", 1, b"12345678");
        let (on_disk, in_memory) = (Removals::new(true), Removals::new(false));
        for removals in [&on_disk, &in_memory] {
            assert_eq!(removals.creation_time(&digest, 1_000), 1_000.max(removals.0.len() as u64 / 4096));
            removals.note(&digest, 1_000);
        }
        assert_eq!(on_disk.creation_time(&digest, 1_000), 1_001);
        assert_eq!(on_disk.creation_time(&digest, 5_000), 5_000);
        assert_eq!(in_memory.creation_time(&digest, 1_000), 1_000);
    }
}
