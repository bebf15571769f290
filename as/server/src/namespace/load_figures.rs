//! Figures of the records that a load brings into the index: by set, by partition, and of all.
//!
//! Each thread of the load keeps its own and adds them to the others' when it is done. A record may be found by one thread
//! and a newer copy of it by another, so a thread's own figures may be negative; their sums are exact.

use cf::Digest;
use parking_lot::Mutex;

use super::Sets;
use super::commit::stored_size;
use crate::index::{PARTITION_COUNT, PartitionId, RecordMeta, SetId};
use crate::storage::LoadTally;

/// What a set gains.
#[derive(Clone, Copy, Default)]
struct SetFigures {
    objects: i64,
    tombstones: i64,
    data_used_bytes: i64,
}

/// What is known of the void-times of a partition.
#[derive(Clone, Copy)]
pub(super) struct VoidTimes {
    /// Records with a void-time.
    pub(super) expirable: i64,
    /// No record has an earlier one, nor has any copy that a newer one took the place of.
    pub(super) earliest: u32,
}

/// Figures of loaded records.
pub(super) struct LoadFigures {
    pub(super) tombstones: i64,
    /// Bytes that no record has more of.
    pub(super) largest_record: u64,
    /// By number of set.
    sets: Vec<SetFigures>,
    void_times: Box<[VoidTimes]>,
}

impl LoadFigures {
    pub(super) fn new() -> Self {
        LoadFigures {
            tombstones: 0,
            largest_record: 0,
            sets: Vec::new(),
            void_times: vec![VoidTimes { expirable: 0, earliest: u32::MAX }; PARTITION_COUNT].into(),
        }
    }

    pub(super) fn void_times(&self, partition: PartitionId) -> VoidTimes {
        self.void_times[partition.index()]
    }

    /// Gives the sets what they gained.
    pub(super) fn add_to(&self, sets: &Sets) {
        for (number, figures) in self.sets.iter().enumerate() {
            if let Some(set) = sets.get(SetId(number as u16)) {
                set.add_loaded(figures.objects, figures.tombstones, figures.data_used_bytes);
            }
        }
    }

    #[inline]
    fn change(&mut self, digest: &Digest, before: &RecordMeta, after: &RecordMeta) {
        if before.exists() {
            self.count(digest, before, -1);
        }
        self.count(digest, after, 1);
        self.largest_record = self.largest_record.max(stored_size(after));
    }

    /// Counts a record in, or out with a `sign` of -1.
    #[inline]
    fn count(&mut self, digest: &Digest, meta: &RecordMeta, sign: i64) {
        let is_tombstone = meta.is_tombstone();
        if is_tombstone {
            self.tombstones += sign;
        }
        if meta.void_time != 0 {
            let void_times = &mut self.void_times[PartitionId::of(digest).index()];
            void_times.expirable += sign;
            void_times.earliest = void_times.earliest.min(meta.void_time);
        }
        if meta.set_id != SetId::NONE {
            let number = usize::from(meta.set_id.0);
            if number >= self.sets.len() {
                self.sets.resize(number + 1, SetFigures::default());
            }
            let set = &mut self.sets[number];
            *(if is_tombstone { &mut set.tombstones } else { &mut set.objects }) += sign;
            set.data_used_bytes += sign * stored_size(meta).cast_signed();
        }
    }

    fn merge(&mut self, other: &LoadFigures) {
        self.tombstones += other.tombstones;
        self.largest_record = self.largest_record.max(other.largest_record);
        if self.sets.len() < other.sets.len() {
            self.sets.resize(other.sets.len(), SetFigures::default());
        }
        for (total, own) in self.sets.iter_mut().zip(&other.sets) {
            total.objects += own.objects;
            total.tombstones += own.tombstones;
            total.data_used_bytes += own.data_used_bytes;
        }
        for (total, own) in self.void_times.iter_mut().zip(&other.void_times) {
            total.expirable += own.expirable;
            total.earliest = total.earliest.min(own.earliest);
        }
    }
}

/// The figures of one thread, and where they go in the end.
pub(super) struct ThreadFigures<'a> {
    own: LoadFigures,
    total: &'a Mutex<LoadFigures>,
}

impl<'a> ThreadFigures<'a> {
    pub(super) fn new(total: &'a Mutex<LoadFigures>) -> Self {
        ThreadFigures { own: LoadFigures::new(), total }
    }
}

impl LoadTally for ThreadFigures<'_> {
    fn change(&mut self, digest: &Digest, before: &RecordMeta, after: &RecordMeta) {
        self.own.change(digest, before, after);
    }

    fn finish(self: Box<Self>) {
        self.total.lock().merge(&self.own);
    }
}
