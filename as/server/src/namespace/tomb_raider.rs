//! The tomb raider: removes tombstones that are no longer needed.
//!
//! A tombstone is needed while an older copy of its record is on disk, in a used or a free block. A raid first marks
//! all old enough tombstones as unneeded, then reads the disks and clears the mark of those of which it finds a copy
//! with bins, then removes those still marked. Records are copied only while an element points to them, and an element
//! of a tombstone points only to the tombstone itself; so no copy can appear in a part that the raid has already read.
//! In memory without a disk, only the age counts.
//!
//! # Threads
//! A raid runs on a thread of its own, which takes one sprig lock at a time, and holds few tombstones at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire};
use std::time::{Duration, Instant};

use cf::clock::StoredMillis;

use super::Namespace;
use super::commit::{Cause, Change};
use crate::index::{Element, PartitionId, WriteGuard};

impl Namespace {
    /// Runs one raid; returns the number of removed tombstones.
    pub(super) fn raid_tombs(&self, now: StoredMillis, stopping: &AtomicBool) -> u64 {
        if self.tombstone_count() == 0 {
            return 0;
        }
        let age_ms = u64::from(self.config().params.tomb_raider_eligible_age.get()) * 1000;
        let marked = self.mark_older_than(now.0.saturating_sub(age_ms), stopping);
        if marked == 0 {
            return 0;
        }
        let sleep = Duration::from_micros(self.config().storage.params.tomb_raider_sleep.get().into());
        let is_complete = self.storage.visit_stored(
            |place, record| {
                // Another tombstone of the record does no harm if a start finds it.
                if record.bin_count > 0
                    && let Some(mut guard) = self.index.get_exclusive(&record.digest)
                    && guard.is_tombstone()
                    && !guard.location.same_place(place)
                {
                    guard.meta_mut().set_unneeded(false);
                }
            },
            || {
                std::thread::sleep(sleep);
                !stopping.load(Acquire)
            },
        );
        if is_complete { self.remove_marked(stopping) } else { 0 }
    }

    /// Marks the tombstones made before `latest`, in milliseconds since 2010-01-01; returns their number.
    fn mark_older_than(&self, latest: u64, stopping: &AtomicBool) -> u64 {
        let is_old = |element: &Element| element.is_tombstone() && element.last_update_time() < latest;
        self.for_each_tombstone(stopping, is_old, |mut guard| {
            guard.meta_mut().set_unneeded(true);
            true
        })
    }

    /// Removes the tombstones that are still marked; returns their number.
    fn remove_marked(&self, stopping: &AtomicBool) -> u64 {
        let is_marked = |element: &Element| element.is_unneeded();
        self.for_each_tombstone(stopping, is_marked, |guard| {
            self.commit(guard, &Change::Gone, Cause::TombRaid).is_ok()
        })
    }

    /// Calls `change` with the guard of each tombstone that is `wanted`, one after the other, until `stopping`; returns
    /// the number of changed ones.
    fn for_each_tombstone(
        &self,
        stopping: &AtomicBool,
        wanted: impl Fn(&Element) -> bool,
        mut change: impl FnMut(WriteGuard<'_>) -> bool,
    ) -> u64 {
        let mut count = 0;
        for partition in PartitionId::all() {
            let mut cursor = self.index.cursor(partition, None);
            while let Some(portion) = cursor.next_portion(&wanted) {
                if stopping.load(Acquire) {
                    return count;
                }
                for found in portion {
                    // The tombstone may have changed since the cursor saw it.
                    if let Some(guard) = self.index.get_exclusive(&found.digest)
                        && wanted(&guard)
                        && change(guard)
                    {
                        count += 1;
                    }
                }
            }
        }
        count
    }
}

/// Body of the raider's thread: a raid in each namespace every `tomb-raider-period` seconds, until `stopping`.
pub(crate) fn raid(namespaces: &[Arc<Namespace>], stopping: &AtomicBool) {
    let started = Instant::now();
    let mut last_raids = vec![started; namespaces.len()];
    while !stopping.load(Acquire) {
        std::thread::park_timeout(Duration::from_secs(1));
        cf::fault_point!("tomb-raider");
        for (namespace, last_raid) in namespaces.iter().zip(&mut last_raids) {
            let period = Duration::from_secs(namespace.config().params.tomb_raider_period.get().into());
            if period.is_zero() || last_raid.elapsed() < period {
                continue;
            }
            let raid_started = Instant::now();
            let removed = namespace.raid_tombs(StoredMillis::now(), stopping);
            *last_raid = Instant::now();
            if removed > 0 {
                cf::info!(
                    Nsup,
                    "{{{}}} tomb-raid-done: removed {removed} tombstones left {} total-ms {}",
                    namespace.name(),
                    namespace.tombstone_count(),
                    raid_started.elapsed().as_millis()
                );
            }
        }
    }
}
