//! Records that were removed while other nodes may have older copies of them.
//!
//! A plain removal leaves nothing behind, but an older copy may still come: with a migration, from a node that was
//! away with its disk, from a node that was cut off, or in a delayed message. It would bring the record back, or
//! replace a record that was written anew. So the time of a removal is noted here, and copies last updated before it
//! are ignored. The notes of a partition move to other nodes with its records. The C server keeps no such notes.
//!
//! Each partition keeps its newest notes, up to [`NOTES_MAX`]; they are lost at a restart.
//!
//! # Locks
//! One mutex for each partition, taken under the record's sprig lock; nothing else is taken under it.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::*};

use cf::Digest;
use parking_lot::Mutex;

use crate::index::{PARTITION_COUNT, PartitionId};

/// Maximum number of notes of a partition. At least half of this number, the newest ones, is kept.
const NOTES_MAX: usize = 112;

/// Removal times of a partition's records, in milliseconds since 2010.
#[derive(Default)]
struct Notes {
    recent: HashMap<Digest, u64>,
    /// Older notes: dropped when there are as many recent ones.
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

/// Removal times of a namespace's records.
#[derive(Default)]
pub(super) struct LateCopies {
    /// By partition; made with the first note.
    partitions: OnceLock<Box<[Mutex<Notes>]>>,
    count: AtomicUsize,
}

impl LateCopies {
    fn notes(&self, partition: PartitionId) -> Option<&Mutex<Notes>> {
        if self.count.load(Acquire) == 0 { None } else { self.partitions.get()?.get(partition.index()) }
    }

    /// Notes that the record of `digest`, whose sprig the caller has locked, was removed at `time`.
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
        // Wrapping: the number may have decreased.
        self.count.fetch_add(notes.count().wrapping_sub(before), Release);
    }

    /// Time of the last removal of a record of `digest`, if it is known.
    #[inline]
    pub(super) fn removed_at(&self, digest: &Digest) -> Option<u64> {
        self.notes(PartitionId::of(digest))?.lock().get(digest)
    }

    /// Removed records of a partition, with the times.
    pub(super) fn of_partition(&self, partition: PartitionId) -> Vec<(Digest, u64)> {
        let Some(notes) = self.notes(partition) else { return Vec::new() };
        let notes = notes.lock();
        notes.recent.iter().chain(&notes.former).map(|(digest, time)| (*digest, *time)).collect()
    }

    /// Number of removed records of a partition.
    pub(super) fn count_of(&self, partition: PartitionId) -> usize {
        self.notes(partition).map_or(0, |notes| notes.lock().count())
    }

    /// Forgets the notes of a partition that is no longer kept here.
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
        assert_eq!(late.count_of(PartitionId::of(&digest(0))), kept.len());
        let newest = 1000 - NOTES_MAX / 2..1000;
        assert!(newest.into_iter().all(|number| late.removed_at(&digest(number as u16)).is_some()));
    }
}
