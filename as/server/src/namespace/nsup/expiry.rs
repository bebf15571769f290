//! The earliest void-time of each partition, and the sweep that removes records whose time is over.
//!
//! A partition is looked through only if the void-time of a record in it may have changed since the last pass, or the
//! earliest void-time seen there is due; so data that never expires costs nothing.
//!
//! # Locks
//! One sprig lock at a time, shared to read and exclusive to remove. A record's void-time changes under its sprig's
//! lock, and is noted there: a pass that clears the partition's mark before it takes that lock sees either the change
//! or the mark.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};

use cf::Digest;
use cf::clock::StoredMillis;

use super::eviction::ExemptSets;
use crate::index::WriteGuard;
use crate::index::{Element, PARTITION_COUNT, PartitionId};
use crate::namespace::Namespace;
use crate::namespace::commit::{Cause, Committed};
use crate::namespace::tombstones::Removal;
use crate::storage::StorageError;

/// The void-times of one partition. Earliest and latest are those of the last pass.
struct PartitionExpiry {
    /// A void-time came or went since.
    dirty: AtomicBool,
    /// `u32::MAX` when nothing expires.
    earliest: AtomicU32,
    /// 0 when nothing expires.
    latest: AtomicU32,
    /// Records with a void-time, at this moment.
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

    /// The record of `digest`, whose sprig the caller has locked, had void-time `before` and has `after`; 0 stands
    /// for none and for no record.
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

    /// A load brought `expirable` records with a void-time into `partition`.
    pub(in crate::namespace) fn add_loaded(&self, partition: PartitionId, expirable: u32) {
        if expirable > 0 {
            let state = &self.0[partition.index()];
            state.expirable.fetch_add(expirable, Relaxed);
            state.dirty.store(true, Release);
        }
    }

    /// A record with a void-time is removed that the last pass left out of earliest and latest.
    #[inline]
    pub(in crate::namespace) fn note_removed(&self, digest: &Digest) {
        self.0[PartitionId::of(digest).index()].expirable.fetch_sub(1, Relaxed);
    }

    /// A record of `partition` that the last pass picked could not be removed: the next one goes through it again.
    fn mark_dirty(&self, partition: PartitionId) {
        self.0[partition.index()].dirty.store(true, Release);
    }

    /// Records with a void-time.
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

    /// Whether anything expires in `partition`.
    pub(super) fn has_expirable(&self, partition: PartitionId) -> bool {
        self.0[partition.index()].expirable.load(Relaxed) != 0
    }

    /// Whether a sweep that removes what is due before `before` has anything to do in `partition`.
    pub(super) fn is_due(&self, partition: PartitionId, before: u32) -> bool {
        let state = &self.0[partition.index()];
        state.dirty.load(Acquire) || state.earliest.load(Relaxed) < before
    }
}

/// Which records a sweep removes.
pub(super) struct SweepCriteria<'a> {
    /// Records whose void-time is before this moment have expired.
    pub(super) now_seconds: u32,
    /// Records whose void-time is before this are evicted; 0 = none.
    pub(super) evict_before: u32,
    /// Records of these sets are not evicted.
    pub(super) exempt: &'a ExemptSets,
}

impl SweepCriteria<'_> {
    /// Void-time before which there may be something to remove.
    pub(super) fn before(&self) -> u32 {
        self.now_seconds.max(self.evict_before)
    }

    /// Why a sweep removes the record of `element`, if it does.
    fn cause_for(&self, element: &Element) -> Option<Cause> {
        if element.is_expired(self.now_seconds) {
            Some(Cause::Expiry)
        } else if element.is_expired(self.evict_before) && !self.exempt.contains(element.set_id) {
            Some(Cause::Eviction)
        } else {
            None
        }
    }
}

/// How many records a sweep removed.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Removed {
    pub(super) expired: u64,
    pub(super) evicted: u64,
}

impl Removed {
    pub(super) fn all(self) -> u64 {
        self.expired + self.evicted
    }
}

impl std::ops::AddAssign for Removed {
    fn add_assign(&mut self, other: Removed) {
        self.expired += other.expired;
        self.evicted += other.evicted;
    }
}

/// Goes through a partition: returns the digests of the records that `is_picked` accepts, and takes the figures of
/// all others.
fn pick_records(
    namespace: &Namespace,
    partition: PartitionId,
    mut is_picked: impl FnMut(&Element) -> bool,
) -> Vec<Digest> {
    let state = &namespace.expiry.0[partition.index()];
    state.dirty.store(false, Release);
    let (mut earliest, mut latest) = (u32::MAX, 0);
    let mut picked = Vec::new();
    namespace.index.for_each(partition, |element| {
        if is_picked(element) {
            picked.push(*element.digest());
        } else if element.void_time != 0 {
            earliest = earliest.min(element.void_time);
            latest = latest.max(element.void_time);
        }
    });
    state.earliest.store(earliest, Relaxed);
    state.latest.store(latest, Relaxed);
    picked
}

/// Brings the figures of a partition up to date.
pub(super) fn survey(namespace: &Namespace, partition: PartitionId) {
    pick_records(namespace, partition, |_| false);
}

/// Removes the records of a partition that fulfil `criteria`.
pub(super) fn sweep(namespace: &Namespace, partition: PartitionId, criteria: &SweepCriteria<'_>) -> Removed {
    let mut removed = Removed::default();
    for digest in pick_records(namespace, partition, |element| criteria.cause_for(element).is_some()) {
        // It may have been written or removed since.
        let Some(guard) = namespace.index.get_exclusive(&digest) else { continue };
        let Some(cause) = criteria.cause_for(&guard) else { continue };
        let removal = Removal::plain(cause, StoredMillis::now());
        if namespace.remove_from_sweep(guard, &removal).is_ok() {
            match cause {
                Cause::Eviction => removed.evicted += 1,
                _ => removed.expired += 1,
            }
        } else {
            namespace.expiry.mark_dirty(partition);
        }
    }
    removed
}

impl Namespace {
    /// Removes a record that has expired, is evicted or truncated. The log says so if that fails.
    pub(in crate::namespace) fn remove_from_sweep(
        &self,
        guard: WriteGuard<'_>,
        removal: &Removal<'_>,
    ) -> Result<Committed, StorageError> {
        self.remove(guard, removal, &mut Vec::new()).inspect_err(|error| {
            cf::warning_limited!(Nsup, "{{{}}} a record that is to go stays: {error}", self.name());
        })
    }
}
