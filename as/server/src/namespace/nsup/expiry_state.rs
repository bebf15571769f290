//! The void-times of each partition. They let nsup skip partitions where nothing is due.
//!
//! # Locks
//! A record's void-time changes under its sprig's lock, and is noted there. A pass clears the partition's mark before
//! it takes that lock. So a pass sees each change, or the change sets the mark again.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};

use cf::Digest;

use crate::index::{PARTITION_COUNT, PartitionId};

/// The void-times of one partition. Earliest and latest are those of the last pass.
struct PartitionExpiry {
    /// Whether a void-time was added or removed since that pass.
    dirty: AtomicBool,
    /// `u32::MAX` when nothing expires.
    earliest: AtomicU32,
    /// 0 when nothing expires.
    latest: AtomicU32,
    /// Current number of records with a void-time.
    expirable: AtomicU32,
}

/// The void-times of a namespace.
pub(crate) struct ExpiryState(Box<[PartitionExpiry]>);

impl ExpiryState {
    pub(in crate::namespace) fn new() -> Self {
        let untouched = || PartitionExpiry {
            dirty: AtomicBool::new(false),
            earliest: AtomicU32::new(u32::MAX),
            latest: AtomicU32::new(0),
            expirable: AtomicU32::new(0),
        };
        ExpiryState((0..PARTITION_COUNT).map(|_| untouched()).collect())
    }

    /// Notes that the record of `digest`, whose sprig the caller has locked, changed its void-time from `before` to
    /// `after`; 0 stands for none and for no record.
    #[inline]
    pub(crate) fn note(&self, digest: &Digest, before: u32, after: u32) {
        if before | after == 0 {
            return;
        }
        let partition = &self.0[PartitionId::of(digest).index()];
        if before == 0 {
            partition.expirable.fetch_add(1, Relaxed);
        } else if after == 0 {
            self.note_removed(digest);
        }
        if !partition.dirty.load(Relaxed) {
            partition.dirty.store(true, Release);
        }
    }

    /// Notes that a load brought `expirable` records with a void-time into `partition`.
    pub(in crate::namespace) fn add_loaded(&self, partition: PartitionId, expirable: u32) {
        if expirable > 0 {
            let state = &self.0[partition.index()];
            state.expirable.fetch_add(expirable, Relaxed);
            state.dirty.store(true, Release);
        }
    }

    /// Notes that a record with a void-time is removed; the last pass left it out of earliest and latest.
    #[inline]
    pub(in crate::namespace) fn note_removed(&self, digest: &Digest) {
        self.0[PartitionId::of(digest).index()].expirable.fetch_sub(1, Relaxed);
    }

    /// Notes that a picked record of `partition` could not be removed, so that the next pass goes through it again.
    pub(super) fn mark_dirty(&self, partition: PartitionId) {
        self.0[partition.index()].dirty.store(true, Release);
    }

    /// Number of records with a void-time.
    pub(crate) fn expirable_count(&self) -> u64 {
        self.0.iter().map(|partition| u64::from(partition.expirable.load(Relaxed))).sum()
    }

    /// The latest void-time, as of the last pass over each partition; 0 when nothing expires.
    pub(super) fn latest(&self) -> u32 {
        self.0.iter().map(|partition| partition.latest.load(Relaxed)).max().unwrap_or(0)
    }

    pub(super) fn is_dirty(&self, partition: PartitionId) -> bool {
        self.0[partition.index()].dirty.load(Acquire)
    }

    /// Whether `partition` has records that expire.
    pub(super) fn has_expirable(&self, partition: PartitionId) -> bool {
        self.0[partition.index()].expirable.load(Relaxed) != 0
    }

    /// Whether a sweep that removes records due before `before` has anything to do in `partition`.
    pub(super) fn is_due(&self, partition: PartitionId, before: u32) -> bool {
        let state = &self.0[partition.index()];
        state.dirty.load(Acquire) || state.earliest.load(Relaxed) < before
    }

    /// Begins a pass over `partition`.
    pub(super) fn begin_pass(&self, partition: PartitionId) {
        self.0[partition.index()].dirty.store(false, Release);
    }

    /// Ends a pass over `partition`, which found these void-times; `u32::MAX` and 0 without any.
    pub(super) fn end_pass(&self, partition: PartitionId, earliest: u32, latest: u32) {
        let state = &self.0[partition.index()];
        state.earliest.store(earliest, Relaxed);
        state.latest.store(latest, Relaxed);
    }
}
