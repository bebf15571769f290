//! Finds and removes stale entries, which belong to no record any more, and keeps the averages of indexes up to date.
//! It runs slowly all the time.
//!
//! Commits remove the entries of removed records (`observer.rs`). If a record's bytes rotted so that it seems to have
//! no value for an index, or another one, its entry is not found. Such an entry leads to a free element, or to that of
//! another record. Queries skip it, because they look records up by their digests; the sweep frees its memory.
//!
//! # Locks
//! The handles of a partition are copied under the lock of its tree. Each is then looked up by the digest at its
//! element, under the lock of that sprig, which is released again. An entry that seems stale is checked once more
//! under the exclusive lock of the tree, under which no commit can add entries. There the lock of a sprig is only
//! tried, because it comes before that of a tree in the lock order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::time::{Duration, Instant};

use super::cardinality;
use super::index::SecondaryIndex;
use super::registry::SecondaryIndexes;
use crate::config::Config;
use crate::index::{ElementHandle, PartitionId, Stub};
use crate::metrics::NamespaceCounter;
use crate::namespace::Namespace;

/// Time from one partition to the next for each second of `sindex-gc-period`: with its default of 10, all are swept in about
/// an hour.
const PARTITION_PERIOD_PER_SECOND: Duration = Duration::from_millis(90);
/// The pause after a partition is at least this many times as long as its sweep.
const PAUSE_FACTOR: u32 = 100;
/// How often the sweep checks whether the server stops.
const LOOK_PERIOD: Duration = Duration::from_millis(200);
/// How often it checks whether averages of an index are to be estimated.
const ESTIMATE_LOOK_PERIOD: Duration = Duration::from_secs(1);
/// How much lower its thread's priority is than that of service threads, see [`cf::threads::lower_own_priority`].
const NICENESS: i32 = 10;

/// Sweeps the indexes of all namespaces, partition by partition, until `is_stopping`.
pub(crate) fn run_sweep(
    namespaces: &[Arc<Namespace>],
    indexes: &SecondaryIndexes,
    config: &Config,
    is_stopping: &AtomicBool,
) {
    cf::threads::lower_own_priority(NICENESS);
    let (mut ended, mut took) = (Instant::now(), Duration::ZERO);
    let mut next_estimate = Instant::now() + ESTIMATE_LOOK_PERIOD;
    loop {
        for partition in PartitionId::all() {
            while !is_due(config.service.sindex_gc_period.get(), ended.elapsed(), took) {
                cf::fault_point!("sindex-sweep");
                if is_stopping.load(Acquire) {
                    return;
                }
                if Instant::now() >= next_estimate {
                    let started = Instant::now();
                    estimate_averages(namespaces, indexes, is_stopping);
                    let pause = started.elapsed().saturating_mul(PAUSE_FACTOR);
                    next_estimate = Instant::now() + pause.max(ESTIMATE_LOOK_PERIOD);
                }
                let left = pause(config.service.sindex_gc_period.get(), took).saturating_sub(ended.elapsed());
                std::thread::sleep(if left.is_zero() { LOOK_PERIOD } else { left.min(LOOK_PERIOD) });
            }
            let started = Instant::now();
            for namespace in namespaces {
                for index in indexes.of(namespace).all().iter().filter(|index| index.is_readable()) {
                    sweep_partition(namespace, index, partition);
                }
            }
            (ended, took) = (Instant::now(), started.elapsed());
        }
    }
}

/// Estimates the averages of the index that has been due for longest, unless `is_stopping`.
pub(super) fn estimate_averages(
    namespaces: &[Arc<Namespace>],
    indexes: &SecondaryIndexes,
    is_stopping: &AtomicBool,
) {
    let all = namespaces.iter().flat_map(|namespace| indexes.of(namespace).all());
    let due = all.filter(|index| index.is_readable() && cardinality::is_due(index));
    let last_estimate = |index: &Arc<SecondaryIndex>| index.estimated.lock().map(|(at, _)| at);
    if let Some(index) = due.min_by_key(last_estimate) {
        cardinality::estimate(&index, is_stopping);
    }
}

/// Whether the next partition is due, `since` after the last one, whose sweep took `took`.
pub(super) fn is_due(gc_period_seconds: u32, since: Duration, took: Duration) -> bool {
    gc_period_seconds != 0 && since >= pause(gc_period_seconds, took)
}

/// The pause after a sweep of a partition that took `took`.
fn pause(gc_period_seconds: u32, took: Duration) -> Duration {
    let usual = PARTITION_PERIOD_PER_SECOND.saturating_mul(gc_period_seconds);
    usual.max(took.saturating_mul(PAUSE_FACTOR))
}

/// Removes the stale entries of `partition`. Returns their number.
pub(super) fn sweep_partition(namespace: &Namespace, index: &SecondaryIndex, partition: PartitionId) -> u64 {
    let handles = index.handles(partition);
    let is_stale = |handle: ElementHandle, stub: Stub| {
        let Some(digest) = namespace.index.digest_seen_at(handle) else { return true };
        let is_own = PartitionId::of(&digest) == partition && Stub::of(&digest) == stub;
        // If the lock is taken, another thread changes the record, so it exists.
        !is_own || namespace.index.is_at(&digest, handle) == Some(false)
    };
    if !handles.into_iter().any(|(handle, stub)| is_stale(handle, stub)) {
        return 0;
    }
    let count = index.remove_stale(namespace, partition, &is_stale);
    if count > 0 {
        namespace.metrics.add(NamespaceCounter::SindexGcCleaned, count);
        index.gc_cleaned.fetch_add(count, Relaxed);
        cf::warning!(
            Sindex,
            "{{{}}} index {}: {count} entries of damaged records removed",
            namespace.name(),
            index.name()
        );
    }
    count
}
