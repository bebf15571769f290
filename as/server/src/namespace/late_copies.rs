//! Records that were removed while other nodes may have older copies of them.
//!
//! A plain removal leaves nothing behind. A copy from before it may still come: with a migration, from a node that was away with its
//! disk, from one that was cut off, or in a message that was overtaken. It would bring the record back, or take the place of one
//! that was written anew. So it is noted here when a record was removed, and what was last updated before that does not count. The
//! notes of a partition go with its records to other nodes. The C server notes nothing.
//!
//! The newest notes of each partition are kept, as many as [`NOTES_MAX`]; a start begins without any.
//!
//! # Locks
//! One mutex for each partition, taken under the record's sprig lock; nothing else is taken under it.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::*};

use cf::Digest;
use parking_lot::Mutex;

use crate::index::{PARTITION_COUNT, PartitionId};

/// Notes of a partition: at least half as many are kept, the newest.
const NOTES_MAX: usize = 112;

/// When records of a partition were removed, milliseconds since 2010.
#[derive(Default)]
struct Notes {
    recent: HashMap<Digest, u64>,
    /// Those before: dropped when there are as many recent ones.
    former: HashMap<Digest, u64>,
}

impl Notes {
    fn get(&self, digest: &Digest) -> Option<u64> {
        self.recent.get(digest).max(self.former.get(digest)).copied()
    }

    fn count(&self) -> usize {
        self.recent.len() + self.former.len()
    }
}

/// What was removed from a namespace.
#[derive(Default)]
pub(super) struct LateCopies {
    /// By partition, once there is one.
    partitions: OnceLock<Box<[Mutex<Notes>]>>,
    count: AtomicUsize,
}

impl LateCopies {
    fn notes(&self, partition: PartitionId) -> Option<&Mutex<Notes>> {
        if self.count.load(Acquire) == 0 { None } else { self.partitions.get()?.get(partition.index()) }
    }

    /// The record of `digest`, whose sprig the caller has locked, was removed at `time`.
    pub(super) fn note_removal(&self, digest: &Digest, time: u64) {
        let partitions =
            self.partitions.get_or_init(|| (0..PARTITION_COUNT).map(|_| Mutex::default()).collect());
        let mut notes = partitions[PartitionId::of(digest).index()].lock();
        let before = notes.count();
        let time = notes.get(digest).unwrap_or(0).max(time);
        notes.former.remove(digest);
        notes.recent.insert(*digest, time);
        if notes.recent.len() >= NOTES_MAX / 2 {
            notes.former = std::mem::take(&mut notes.recent);
        }
        // Wrapping: there may be fewer.
        self.count.fetch_add(notes.count().wrapping_sub(before), Release);
    }

    /// When a record of `digest` was last removed, if that is known.
    #[inline]
    pub(super) fn removed_at(&self, digest: &Digest) -> Option<u64> {
        self.notes(PartitionId::of(digest))?.lock().get(digest)
    }

    /// What was removed from a partition, and when.
    pub(super) fn of_partition(&self, partition: PartitionId) -> Vec<(Digest, u64)> {
        let Some(notes) = self.notes(partition) else { return Vec::new() };
        let notes = notes.lock();
        notes.recent.iter().chain(&notes.former).map(|(digest, time)| (*digest, *time)).collect()
    }

    /// A partition is not kept here any more.
    pub(super) fn forget(&self, partition: PartitionId) {
        if let Some(notes) = self.notes(partition) {
            let forgotten = std::mem::take(&mut *notes.lock());
            self.count.fetch_sub(forgotten.count(), Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_before_a_removal_are_known_until_the_partition_goes() {
        let (late, digest, other) = (LateCopies::default(), Digest([7; 20]), Digest([8; 20]));
        assert_eq!(late.removed_at(&digest), None);
        late.note_removal(&digest, 200);
        late.note_removal(&digest, 100);
        assert_eq!((late.removed_at(&digest), late.removed_at(&other)), (Some(200), None));
        late.forget(PartitionId::of(&other));
        assert_eq!(late.of_partition(PartitionId::of(&digest)), [(digest, 200)]);
        late.forget(PartitionId::of(&digest));
        assert!(late.removed_at(&digest).is_none() && late.count.load(Relaxed) == 0);
    }

    #[test]
    fn the_newest_notes_of_a_partition_are_kept() {
        let late = LateCopies::default();
        let digest = |number: u16| {
            let mut bytes = [0; 20];
            bytes[10..12].copy_from_slice(&number.to_le_bytes());
            Digest(bytes)
        };
        (0..1000).for_each(|number| late.note_removal(&digest(number), u64::from(number)));
        let kept = late.of_partition(PartitionId::of(&digest(0)));
        assert!((NOTES_MAX / 2..=NOTES_MAX).contains(&kept.len()) && kept.len() == late.count.load(Relaxed));
        let newest = 1000 - NOTES_MAX / 2..1000;
        assert!(newest.into_iter().all(|number| late.removed_at(&digest(number as u16)).is_some()));
    }
}
