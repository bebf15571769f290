//! The sweep that removes expired records.
//!
//! A partition is swept only if the void-time of a record in it may have changed since the last pass, or if its
//! earliest void-time is due; so data that never expires costs nothing.
//!
//! # Locks
//! One sprig lock at a time, shared to read and exclusive to remove; none while a record is read from a disk.

use cf::Digest;

use super::exempt_sets::ExemptSets;
use crate::index::{Element, PartitionId};
use crate::namespace::Namespace;
use crate::namespace::commit::Cause;
use crate::storage::ReadBuffer;

/// The records that a sweep removes.
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

    /// The reason why a sweep removes the record of `element`, if it does.
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

/// Number of records that a sweep removed.
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

/// Walks through a partition: returns the digests of the records that `is_picked` accepts, and sets the partition's
/// figures by the void-times of all others.
fn pick_records(
    namespace: &Namespace,
    partition: PartitionId,
    mut is_picked: impl FnMut(&Element) -> bool,
) -> Vec<Digest> {
    namespace.expiry.begin_pass(partition);
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
    namespace.expiry.end_pass(partition, earliest, latest);
    picked
}

/// Brings the figures of a partition up to date.
pub(super) fn survey(namespace: &Namespace, partition: PartitionId) {
    pick_records(namespace, partition, |_| false);
}

/// Removes the records of a partition that fulfil `criteria`.
pub(super) fn sweep(namespace: &Namespace, partition: PartitionId, criteria: &SweepCriteria<'_>) -> Removed {
    let (mut removed, mut scratch) = (Removed::default(), ReadBuffer::new());
    for digest in pick_records(namespace, partition, |element| criteria.cause_for(element).is_some()) {
        // The record may have been written or removed since.
        let swept = namespace.sweep_out(&digest, &mut scratch, |element| criteria.cause_for(element));
        match swept {
            None => {}
            Some((_, _, Err(_))) => namespace.expiry.mark_dirty(partition),
            Some((_, Cause::Eviction, Ok(_))) => removed.evicted += 1,
            Some((_, _, Ok(_))) => removed.expired += 1,
        }
    }
    removed
}
