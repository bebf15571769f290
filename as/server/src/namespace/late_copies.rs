//! Records that were removed while older copies of them may still come in from other nodes.
//!
//! A plain removal leaves nothing behind. As long as migrations to this node are pending, or other nodes have duplicates, a copy
//! from before the removal may arrive after it, and would bring the record back. So it is noted here that it was
//! removed, until nothing more is to come. The C server notes nothing.
//!
//! # Locks
//! One mutex, taken under the record's sprig lock; nothing else is taken under it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::*};

use cf::Digest;
use parking_lot::Mutex;

use crate::index::PartitionId;

/// Removals that are noted for a namespace. Beyond that an older copy may bring its record back.
const NOTES_MAX: usize = 1 << 20;

/// What was removed meanwhile, by partition, and when: milliseconds since 2010.
#[derive(Default)]
pub(super) struct LateCopies {
    notes: Mutex<HashMap<u16, HashMap<Digest, u64>>>,
    count: AtomicUsize,
}

impl LateCopies {
    /// The record of `digest`, whose sprig the caller has locked, was removed at `time`.
    pub(super) fn note_removal(&self, digest: &Digest, time: u64) {
        if self.count.load(Relaxed) >= NOTES_MAX {
            return;
        }
        let mut notes = self.notes.lock();
        let of_partition = notes.entry(PartitionId::of(digest).index() as u16).or_default();
        if of_partition.insert(*digest, time).is_none() {
            self.count.fetch_add(1, Release);
        }
    }

    /// Whether a copy that was last updated at `time` is of before a removal.
    pub(super) fn is_late(&self, digest: &Digest, time: u64) -> bool {
        self.count.load(Acquire) != 0 && {
            let notes = self.notes.lock();
            let of_partition = notes.get(&(PartitionId::of(digest).index() as u16));
            of_partition.and_then(|notes| notes.get(digest)).is_some_and(|removed| time < *removed)
        }
    }

    /// Nothing more is to come of a partition.
    pub(super) fn forget(&self, partition: PartitionId) {
        if self.count.load(Acquire) != 0
            && let Some(forgotten) = self.notes.lock().remove(&(partition.index() as u16))
        {
            self.count.fetch_sub(forgotten.len(), Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_before_a_removal_are_late_until_nothing_more_comes() {
        let (late, digest, other) = (LateCopies::default(), Digest([7; 20]), Digest([8; 20]));
        assert!(!late.is_late(&digest, 0));
        late.note_removal(&digest, 100);
        late.note_removal(&digest, 200);
        assert!(late.is_late(&digest, 199) && !late.is_late(&digest, 200) && !late.is_late(&other, 0));
        late.forget(PartitionId::of(&other));
        assert!(late.is_late(&digest, 0));
        late.forget(PartitionId::of(&digest));
        assert!(!late.is_late(&digest, 0) && late.count.load(Relaxed) == 0);
    }
}
