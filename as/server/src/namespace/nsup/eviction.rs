//! Eviction: removes the records that would expire soonest when a limit is breached.
//!
//! A histogram of all void-times gives the void-time below which the wanted number of records lies; a sweep then
//! removes those records. It never removes all: the bucket in which the wanted number is reached stays. Records
//! without a void-time and those of sets with `disable-eviction` are left out. The sets are looked up when a run
//! begins, so that they cost writers nothing.
//!
//! # Locks
//! As for expiry: one sprig lock at a time.

use cf::clock::StoredMillis;
use cf::linear_histogram::LinearHistogram;

use super::exempt_sets::ExemptSets;
use super::expiry::{Removed, SweepCriteria, survey, sweep};
use super::limits::{Usage, is_eviction_due};
use super::spread::spread;
use crate::index::PartitionId;
use crate::metrics::NamespaceCounter;
use crate::namespace::{Namespace, stored_size};

/// Least number of buckets for an eviction after a load, which evicts as much as needed at once.
const LOAD_BUCKETS_MIN: u32 = 100_000;

/// The records that can be evicted, by void-time.
struct Evictable {
    counts: LinearHistogram,
    bytes: LinearHistogram,
}

impl Evictable {
    /// Counts the evictable records in all partitions of `namespace` that have expirable records.
    fn of(namespace: &Namespace, now_seconds: u32, bucket_count: u32, thread_count: usize) -> Self {
        let dirty: Vec<PartitionId> =
            PartitionId::all().filter(|partition| namespace.expiry.is_dirty(*partition)).collect();
        spread(thread_count, &dirty, || (), |(), partition| survey(namespace, partition));
        let range = namespace.expiry.latest().saturating_sub(now_seconds);
        let empty = || Evictable {
            counts: LinearHistogram::new(now_seconds, range, bucket_count),
            bytes: LinearHistogram::new(now_seconds, range, bucket_count),
        };
        let partitions: Vec<PartitionId> =
            PartitionId::all().filter(|partition| namespace.expiry.has_expirable(*partition)).collect();
        let exempt = ExemptSets::of(&namespace.sets);
        let parts = spread(thread_count, &partitions, empty, |part: &mut Evictable, partition| {
            namespace.index.for_each(partition, |element| {
                if element.void_time != 0 && !exempt.contains(element.set_id) {
                    part.counts.add(element.void_time, 1);
                    part.bytes.add(element.void_time, stored_size(element));
                }
            });
        });
        parts.into_iter().fold(empty(), |mut all, part| {
            all.counts.merge(&part.counts);
            all.bytes.merge(&part.bytes);
            all
        })
    }
}

/// The limit of an eviction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cut {
    /// No record can be evicted.
    Nothing,
    /// The cut would evict all of this many records, so none is evicted.
    All(u64),
    /// The records of the first bucket are more than may be evicted.
    Crowded { bucket: u32, count: u64, wanted: u64 },
    /// This many records, with a void-time before this one, are evicted.
    Before { void_time: u32, records: u64 },
}

impl Cut {
    /// The cut for at most `tenths_pct` tenths of a percent of the records in `counts`.
    fn for_share(counts: &LinearHistogram, tenths_pct: u32) -> Self {
        let total = counts.total();
        let wanted = (u128::from(total) * u128::from(tenths_pct) / 1000) as u64;
        let mut records = 0;
        for (void_time, count) in counts.buckets() {
            if records + count > wanted {
                return match records {
                    0 => Cut::Crowded { bucket: void_time, count, wanted },
                    records => Cut::Before { void_time, records },
                };
            }
            records += count;
        }
        if total == 0 { Cut::Nothing } else { Cut::All(total) }
    }

    /// The cut for the fewest `evictable` records without which `fits` is true; all but the last bucket if even that is
    /// not enough.
    fn until(evictable: &Evictable, fits: impl Fn(u64, u64) -> bool) -> Self {
        let (mut records, mut bytes) = (0, 0);
        let mut cut = Cut::Nothing;
        for ((void_time, count), (_, size)) in evictable.counts.buckets().zip(evictable.bytes.buckets()) {
            if count == 0 {
                continue;
            }
            if records > 0 {
                cut = Cut::Before { void_time, records };
                if fits(records, bytes) {
                    break;
                }
            }
            records += count;
            bytes += size;
        }
        match cut {
            Cut::Nothing if records > 0 => Cut::All(records),
            cut => cut,
        }
    }
}

/// The void-time before which records are evicted after a limit was breached; `None` if nothing can be evicted.
pub(super) fn find_void_time(namespace: &Namespace, now_seconds: u32) -> Option<u32> {
    let params = &namespace.config().params;
    let (buckets, tenths_pct) = (params.evict_hist_buckets.get(), params.evict_tenths_pct.get());
    let threads = params.nsup_threads.get() as usize;
    let evictable = Evictable::of(namespace, now_seconds, buckets, threads);
    let name = namespace.name();
    match Cut::for_share(&evictable.counts, tenths_pct) {
        Cut::Nothing => cf::warning!(Nsup, "{{{name}}} no records eligible for eviction"),
        Cut::All(records) => cf::warning!(
            Nsup,
            "{{{name}}} evict-tenths-pct {tenths_pct} would evict all {records} records eligible, none is evicted"
        ),
        Cut::Crowded { bucket, count, wanted } => cf::warning!(
            Nsup,
            "{{{name}}} no records below void-time {bucket}, where {} seconds hold {count} records and only {wanted} may \
             go: raise evict-hist-buckets or evict-tenths-pct",
            evictable.counts.bucket_width()
        ),
        Cut::Before { void_time, records } => {
            cf::info!(
                Nsup,
                "{{{name}}} found {records} records eligible for eviction at evict-ttl {}",
                void_time - now_seconds
            );
            return Some(void_time);
        }
    }
    None
}

impl Namespace {
    /// After a load: evicts again the records evicted before the server stopped: their copies are still on disk.
    pub(crate) fn evict_again_after_load(&self) {
        let evict_before = self.eviction.void_time();
        if evict_before == 0 {
            return;
        }
        let exempt = ExemptSets::of(&self.sets);
        let criteria =
            SweepCriteria { now_seconds: StoredMillis::now().seconds(), evict_before, exempt: &exempt };
        let removed = sweep_due(self, &criteria, cf::threads::cpu_count());
        cf::info!(
            Nsup,
            "{{{}}} cold start dropped {} records that were evicted before: evict-void-time {evict_before}",
            self.name(),
            removed.evicted
        );
    }

    /// After a load: evicts until no eviction limit is breached, or nothing more can be evicted.
    pub(crate) fn evict_after_load(&self) {
        if !is_eviction_due(self) {
            return;
        }
        let (name, params) = (self.name(), &self.config().params);
        if params.disable_cold_start_eviction.get() {
            cf::warning!(
                Nsup,
                "{{{name}}} is over an eviction limit, but disable-cold-start-eviction is set"
            );
            return;
        }
        let now_seconds = StoredMillis::now().seconds();
        let threads = cf::threads::cpu_count();
        let buckets = params.evict_hist_buckets.get().max(LOAD_BUCKETS_MIN);
        let evictable = Evictable::of(self, now_seconds, buckets, threads);
        let usage = Usage::of(self);
        let fits = |records, bytes| usage.without(records, bytes).eviction_breaches(self.config()).is_empty();
        let Cut::Before { void_time, records } = Cut::until(&evictable, fits) else {
            cf::warning!(Nsup, "{{{name}}} is over an eviction limit, but there is nothing to evict");
            return;
        };
        cf::info!(
            Nsup,
            "{{{name}}} cold start found {records} records eligible for eviction at evict-ttl {}",
            void_time - now_seconds
        );
        self.eviction.begin(void_time, now_seconds);
        let exempt = ExemptSets::of(&self.sets);
        let criteria = SweepCriteria { now_seconds, evict_before: void_time, exempt: &exempt };
        let removed = sweep_all(self, &criteria, threads);
        self.eviction.finish(void_time);
        cf::info!(Nsup, "{{{name}}} cold start evicted {} records", removed.evicted);
        is_eviction_due(self);
    }
}

/// Removes the records of all partitions that fulfil `criteria`, and counts them.
pub(super) fn sweep_all(namespace: &Namespace, criteria: &SweepCriteria<'_>, thread_count: usize) -> Removed {
    let removed = sweep_due(namespace, criteria, thread_count);
    namespace.metrics.add(NamespaceCounter::ExpiredObjects, removed.expired);
    namespace.metrics.add(NamespaceCounter::EvictedObjects, removed.evicted);
    removed
}

/// Removes the records of all partitions that fulfil `criteria`.
fn sweep_due(namespace: &Namespace, criteria: &SweepCriteria<'_>, thread_count: usize) -> Removed {
    let due: Vec<PartitionId> = PartitionId::all()
        .filter(|partition| namespace.expiry.is_due(*partition, criteria.before()))
        .collect();
    let parts = spread(thread_count, &due, Removed::default, |removed: &mut Removed, partition| {
        *removed += sweep(namespace, partition, criteria);
    });
    let mut removed = Removed::default();
    parts.into_iter().for_each(|part| removed += part);
    removed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn evictable(now: u32, buckets: u32, records: &[(u32, u64)]) -> Evictable {
        let latest = records.iter().map(|(void_time, _)| *void_time).max().unwrap_or(0);
        let empty = LinearHistogram::new(now, latest.saturating_sub(now), buckets);
        let mut evictable = Evictable { counts: empty.clone(), bytes: empty };
        for (void_time, bytes) in records {
            evictable.counts.add(*void_time, 1);
            evictable.bytes.add(*void_time, *bytes);
        }
        evictable
    }

    #[test]
    fn a_share_is_cut_off_in_front() {
        let records: Vec<(u32, u64)> = (100..200).map(|void_time| (void_time, 1)).collect();
        let cut = |buckets, tenths| Cut::for_share(&evictable(100, buckets, &records).counts, tenths);
        assert_eq!(cut(100, 100), Cut::Before { void_time: 110, records: 10 });
        assert_eq!(cut(100, 5), Cut::Crowded { bucket: 100, count: 1, wanted: 0 });
        // Ten seconds to a bucket.
        assert_eq!(cut(10, 199), Cut::Before { void_time: 110, records: 10 });
        assert_eq!(cut(10, 99), Cut::Crowded { bucket: 100, count: 10, wanted: 9 });
        assert_eq!(cut(10, 1000), Cut::All(100));
        assert_eq!(cut(10, u32::MAX), Cut::All(100));
        assert_eq!(Cut::for_share(&evictable(100, 10, &[]).counts, 5), Cut::Nothing);
    }

    #[test]
    fn as_much_goes_as_must() {
        let records: Vec<(u32, u64)> = (100..200).map(|void_time| (void_time, 16)).collect();
        let of_all = evictable(100, 100, &records);
        assert_eq!(Cut::until(&of_all, |count, _| count >= 30), Cut::Before { void_time: 130, records: 30 });
        assert_eq!(Cut::until(&of_all, |_, bytes| bytes >= 31), Cut::Before { void_time: 102, records: 2 });
        // All records would have to be evicted, so the last bucket stays.
        assert_eq!(Cut::until(&of_all, |count, _| count >= 100), Cut::Before { void_time: 199, records: 99 });
        let in_one = evictable(100, 1, &records);
        assert_eq!(Cut::until(&in_one, |_, _| false), Cut::All(100));
        assert_eq!(Cut::until(&evictable(100, 1, &[]), |_, _| false), Cut::Nothing);
    }

    proptest! {
        #[test]
        fn a_cut_takes_the_soonest_and_never_all(
            records in prop::collection::vec((90u32..2000, 1u64..100), 0..200),
            buckets in 1u32..300,
            tenths in 0u32..1200,
            needed in 1usize..250,
        ) {
            let evictable = evictable(100, buckets, &records);
            let below = |cut: u32| records.iter().filter(|(void_time, _)| *void_time < cut).count();
            let wanted = records.len() * tenths as usize / 1000;
            match Cut::for_share(&evictable.counts, tenths) {
                Cut::Nothing => prop_assert!(records.is_empty()),
                Cut::All(all) => prop_assert!(all as usize == records.len() && wanted >= records.len()),
                Cut::Crowded { bucket, count, .. } => {
                    prop_assert!(bucket == 100 || below(bucket) == 0);
                    prop_assert!(count as usize > wanted);
                }
                Cut::Before { void_time, records: count } => {
                    prop_assert_eq!(below(void_time), count as usize);
                    prop_assert!((1..=wanted).contains(&(count as usize)) && (count as usize) < records.len());
                }
            }
            match Cut::until(&evictable, |count, _| count as usize >= needed) {
                Cut::Nothing => prop_assert!(records.is_empty()),
                Cut::All(all) => prop_assert_eq!(all as usize, records.len()),
                Cut::Crowded { .. } => prop_assert!(false, "a share is not what was asked for"),
                Cut::Before { void_time, records: count } => {
                    prop_assert_eq!(below(void_time), count as usize);
                    prop_assert!((count as usize) < records.len());
                    // Either the cut is enough and one bucket less is not, or it is all but the last bucket.
                    let width = evictable.counts.bucket_width();
                    let last = records.iter().map(|(void_time, _)| *void_time).max().unwrap_or(0);
                    prop_assert!(count as usize >= needed || void_time + width >= last);
                    let earlier: Vec<u32> = records
                        .iter()
                        .map(|(void_time, _)| *void_time)
                        .filter(|earlier| *earlier < void_time)
                        .collect();
                    let latest_bucket = earlier.iter().max().map_or(0, |latest| (latest.max(&100) - 100) / width);
                    let without = earlier
                        .iter()
                        .filter(|earlier| (*earlier.max(&&100) - 100) / width < latest_bucket)
                        .count();
                    prop_assert!(without < needed);
                }
            }
        }
    }
}
