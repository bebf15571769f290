//! Figures of the records that a load brings into the index: by set, by partition, and in total. `commit.rs` defines
//! which figures a record affects.
//!
//! Each thread of the load keeps its own figures and adds them to the total when it is done. One thread may find a
//! record and another one a newer copy of it, so a thread's own figures may be negative; their sums are exact.

use cf::Digest;
use datamodel::flat::FlatRecord;
use datamodel::packing::Unpacker;
use parking_lot::Mutex;

use super::commit::{RecordFigures, commit_loaded};
use super::load_observer::{LoadObserver, LoadedCopy};
use super::sets::{SetChange, Sets};
use super::truncate::LoadedTruncation;
use crate::index::{PARTITION_COUNT, PartitionId, RecordMeta, SetId, WriteGuard};
use crate::storage::LoadCommit;

/// The void-times of a partition, as the load found them.
#[derive(Clone, Copy)]
pub(super) struct VoidTimes {
    /// Records with a void-time.
    pub(super) expirable: i64,
    /// No record has an earlier void-time, and no copy that was replaced by a newer one has.
    pub(super) earliest: u32,
}

/// Figures of loaded records.
pub(super) struct LoadFigures {
    pub(super) tombstones: i64,
    /// By number of set.
    sets: Vec<SetChange>,
    void_times: Box<[VoidTimes]>,
    /// By partition, whether it holds a copy of a truncated record.
    has_truncated: Box<[bool]>,
}

impl LoadFigures {
    pub(super) fn new() -> Self {
        LoadFigures {
            tombstones: 0,
            sets: Vec::new(),
            void_times: vec![VoidTimes { expirable: 0, earliest: u32::MAX }; PARTITION_COUNT].into(),
            has_truncated: vec![false; PARTITION_COUNT].into(),
        }
    }

    pub(super) fn void_times(&self, partition: PartitionId) -> VoidTimes {
        self.void_times[partition.index()]
    }

    /// Whether a partition may have truncated records.
    pub(super) fn has_truncated(&self, partition: PartitionId) -> bool {
        self.has_truncated[partition.index()]
    }

    /// Adds the figures to the sets.
    pub(super) fn add_to(&self, sets: &Sets) {
        for (number, figures) in self.sets.iter().enumerate() {
            if let Some(set) = sets.get(SetId(number as u16)) {
                set.change(*figures);
            }
        }
    }

    fn merge(&mut self, other: &LoadFigures) {
        self.tombstones += other.tombstones;
        if self.sets.len() < other.sets.len() {
            self.sets.resize(other.sets.len(), SetChange::default());
        }
        for (total, own) in self.sets.iter_mut().zip(&other.sets) {
            total.add(*own);
        }
        for (total, own) in self.void_times.iter_mut().zip(&other.void_times) {
            total.expirable += own.expirable;
            total.earliest = total.earliest.min(own.earliest);
        }
        for (total, own) in self.has_truncated.iter_mut().zip(&other.has_truncated) {
            *total |= own;
        }
    }
}

impl RecordFigures for LoadFigures {
    #[inline]
    fn change_void_time(&mut self, digest: &Digest, before: u32, after: u32) {
        if before | after == 0 {
            return;
        }
        let void_times = &mut self.void_times[PartitionId::of(digest).index()];
        void_times.expirable += i64::from(after != 0) - i64::from(before != 0);
        if after != 0 {
            void_times.earliest = void_times.earliest.min(after);
        }
    }

    fn change_tombstones(&mut self, change: i64) {
        self.tombstones += change;
    }

    #[inline]
    fn change_set(&mut self, id: SetId, change: SetChange) {
        let number = usize::from(id.0);
        if number >= self.sets.len() {
            self.sets.resize(number + 1, SetChange::default());
        }
        self.sets[number].add(change);
    }

    /// A load removes no records.
    fn note_removal(&mut self, _: &Digest, _: u64) {}
}

/// One thread of a load: its figures, and what observers need.
pub(super) struct LoadThread<'a> {
    own: LoadFigures,
    total: &'a Mutex<LoadFigures>,
    truncation: &'a LoadedTruncation<'a>,
    observer: Option<&'a dyn LoadObserver>,
    unpacker: Unpacker,
}

impl<'a> LoadThread<'a> {
    pub(super) fn new(
        total: &'a Mutex<LoadFigures>,
        truncation: &'a LoadedTruncation<'a>,
        observer: Option<&'a dyn LoadObserver>,
    ) -> Self {
        LoadThread { own: LoadFigures::new(), total, truncation, observer, unpacker: Unpacker::default() }
    }
}

impl LoadCommit for LoadThread<'_> {
    fn commit(&mut self, guard: WriteGuard<'_>, after: &RecordMeta, copy: Option<&FlatRecord<'_>>) {
        let mut after = *after;
        if self.truncation.contains(&after) {
            self.own.has_truncated[PartitionId::of(guard.digest()).index()] = true;
        }
        if let Some(observer) = self.observer {
            let unpacker = &mut self.unpacker;
            observer.note(LoadedCopy { guard: &guard, after: &mut after, copy, unpacker });
        }
        commit_loaded(guard, &after, &mut self.own);
    }

    fn finish(self: Box<Self>) {
        self.total.lock().merge(&self.own);
    }
}
