//! Runs of nsup over a namespace in memory: the removed records, the kept ones, and the log lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};

use cf::Digest;
use cf::clock::StoredMillis;
use datamodel::flat::NewRecord;
use datamodel::{Bins, BytesType, Particle};

use super::*;
use crate::index::SetId;
use crate::namespace::{Cause, Change, NewVersion};

const NAMESPACE: &str = "namespace test {
    nsup-period 1
    nsup-threads 2
    set kept {
        disable-eviction true
    }
    storage-engine memory {
        data-size 256M
    }
}
";
const NOW: u32 = 1_000_000;

fn namespace() -> Arc<Namespace> {
    Namespace::for_tests(NAMESPACE).1
}

fn digest(set: &str, key: u32) -> Digest {
    Digest::of_key(set.as_bytes(), 1, &u64::from(key).to_be_bytes())
}

/// Writes a record with a value of `size` bytes.
fn put(namespace: &Namespace, set: &str, key: u32, void_time: u32, size: usize) {
    let digest = digest(set, key);
    let mut bins = Bins::new();
    bins.set(b"b", Particle::Bytes(BytesType::Blob, vec![7; size].into()));
    let record = NewRecord {
        digest,
        last_update_time: 1,
        generation: 1,
        void_time,
        tree_id: 0,
        set_name: set.as_bytes(),
        key: None,
        leaves_tombstone: false,
    };
    let mut flat = Vec::new();
    record.encode(&bins, record.size(&bins), &mut flat);
    let (guard, _) = namespace.index.get_or_create(&digest).expect("room in the index");
    let mut meta = **guard;
    if !guard.exists() {
        meta.set_id = namespace.set_for_creation(set.as_bytes()).expect("room for a set");
    }
    (meta.void_time, meta.generation) = (void_time, 1);
    let version = NewVersion { flat: &flat, packed: None, meta, key_stored: false };
    let committed = namespace.commit(guard, &Change::Record(version), Cause::Write);
    committed.unwrap_or_else(|error| panic!("{error:?}"));
}

fn exists(namespace: &Namespace, set: &str, key: u32) -> bool {
    namespace.index.get(&digest(set, key)).is_some()
}

fn removed(namespace: &Namespace) -> (u64, u64) {
    let metrics = &namespace.metrics;
    (metrics.get(NamespaceCounter::ExpiredObjects), metrics.get(NamespaceCounter::EvictedObjects))
}

/// Sets a limit that more than `records` records breach.
fn limit_to(namespace: &Namespace, records: u64) {
    let params = &namespace.config().params;
    params.indexes_memory_budget.set(records * 2 * 64);
    params.evict_indexes_memory_pct.set(50);
}

/// A run on a node whose work directory is full.
fn run(namespace: &Namespace, now_seconds: u32) {
    super::run(namespace, now_seconds, &|_| false);
}

#[test]
fn expired_records_are_removed() {
    let namespace = namespace();
    for key in 0..1000 {
        put(&namespace, "s", key, NOW - 5 + key % 10, 10);
        put(&namespace, "kept", key, NOW - 5 + key % 10, 10);
        put(&namespace, "", key, 0, 10);
    }
    run(&namespace, NOW);
    // Records that expire in this very second still live.
    for key in 0..1000 {
        assert_eq!(exists(&namespace, "s", key), key % 10 >= 5);
        assert_eq!(exists(&namespace, "kept", key), key % 10 >= 5, "exempt from eviction is not from expiry");
    }
    assert_eq!((namespace.object_count(), namespace.non_expirable_count()), (2000, 1000));
    assert_eq!(removed(&namespace), (1000, 0));
    assert_eq!(format!("{:.2}", namespace.nsup_cycle_deleted_pct()), "33.33");
    run(&namespace, NOW + 1);
    assert_eq!(removed(&namespace), (1200, 0));
    run(&namespace, NOW + 100);
    assert_eq!((namespace.object_count(), removed(&namespace)), (1000, (2000, 0)));
    let left = namespace.sets.find(b"s").expect("it").objects.load(Relaxed);
    assert_eq!((left, namespace.storage.used_bytes()), (0, 64 * 1000));
}

#[test]
fn figures_follow_the_changes_of_writers() {
    let namespace = namespace();
    for key in 0..500 {
        put(&namespace, "s", key, NOW + 100, 10);
    }
    run(&namespace, NOW);
    assert_eq!((namespace.non_expirable_count(), namespace.expiry.latest()), (0, NOW + 100));
    // Deleted records and those with a later void-time are no longer counted as before.
    for key in 0..100 {
        let guard = namespace.index.get_exclusive(&digest("s", key)).expect("it");
        namespace.commit(guard, &Change::Gone, Cause::Delete).expect("nothing to store");
        put(&namespace, "s", 200 + key, NOW + 7, 10);
        put(&namespace, "s", 300 + key, 0, 10);
        put(&namespace, "", key, 0, 10);
    }
    assert_eq!((namespace.object_count(), namespace.expiry.expirable_count()), (500, 300));
    run(&namespace, NOW);
    assert_eq!((namespace.non_expirable_count(), namespace.expiry.expirable_count()), (200, 300));
    for key in 0..100 {
        put(&namespace, "s", 300 + key, NOW + 9, 10);
        put(&namespace, "", key, NOW - 1, 10);
    }
    run(&namespace, NOW);
    assert_eq!((namespace.object_count(), namespace.expiry.expirable_count()), (400, 400));
    for key in 100..500 {
        let guard = namespace.index.get_exclusive(&digest("s", key)).expect("it");
        namespace.commit(guard, &Change::Gone, Cause::Delete).expect("nothing to store");
    }
    run(&namespace, NOW);
    assert_eq!((namespace.expiry.expirable_count(), namespace.expiry.latest()), (0, 0));
}

#[test]
fn changes_during_a_run_are_counted() {
    let namespace = namespace();
    let is_done = AtomicBool::new(false);
    cf::sync::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let namespace = &namespace;
                scope.spawn(move || {
                    for key in 0..20_000 {
                        put(namespace, "s", writer * 100_000 + key % 3000, NOW - 1, 1);
                    }
                })
            })
            .collect();
        let (namespace, is_done) = (&namespace, &is_done);
        scope.spawn(move || {
            while !is_done.load(Acquire) {
                run(namespace, NOW);
            }
        });
        writers.into_iter().for_each(|writer| writer.join().expect("it ends"));
        is_done.store(true, Release);
    });
    run(&namespace, NOW);
    assert_eq!((namespace.object_count(), namespace.expiry.expirable_count()), (0, 0));
    assert_eq!(namespace.storage.used_bytes(), 0);
}

#[test]
fn a_breached_limit_evicts_the_soonest_until_it_holds() {
    let namespace = namespace();
    for key in 0..1000 {
        put(&namespace, "s", key, NOW + 10 + key, 10);
    }
    for key in 0..100 {
        put(&namespace, "kept", key, NOW + 1, 10);
        put(&namespace, "", key, 0, 10);
    }
    namespace.config().params.evict_tenths_pct.set(100);
    run(&namespace, NOW);
    assert_eq!(removed(&namespace), (0, 0), "no limit, no eviction");
    assert!(!namespace.eviction.is_limit_breached.load(Relaxed));

    limit_to(&namespace, 700);
    run(&namespace, NOW);
    assert!(namespace.eviction.is_limit_breached.load(Relaxed));
    assert_eq!(removed(&namespace), (0, 100), "a tenth of those that can be evicted");
    assert_eq!(namespace.eviction.void_time(), NOW + 110);
    assert_eq!(namespace.eviction.ordered_void_time(), NOW + 110);
    assert_eq!(namespace.eviction.ttl(), 110);
    for _ in 0..20 {
        run(&namespace, NOW);
    }
    assert!(!namespace.eviction.is_limit_breached.load(Relaxed));
    let left = namespace.object_count();
    assert!((600..700).contains(&left), "{left}");
    let evicted = removed(&namespace).1 as u32;
    assert_eq!(u64::from(evicted), 1200 - left);
    for key in 0..1000 {
        assert_eq!(exists(&namespace, "s", key), key >= evicted, "the soonest first");
    }
    for key in 0..100 {
        assert!(exists(&namespace, "kept", key) && exists(&namespace, "", key));
    }
    assert_eq!(namespace.non_expirable_count(), 100);
}

#[test]
fn data_used_is_a_limit_too() {
    let namespace = namespace();
    for key in 0..100 {
        put(&namespace, "s", key, NOW + 10 + key, 60_000);
    }
    namespace.config().params.evict_tenths_pct.set(300);
    namespace.config().storage.params.evict_used_pct.set(1);
    (0..10).for_each(|_| run(&namespace, NOW));
    let used = namespace.storage.used_bytes();
    assert!(used * 100 < namespace.storage.total_bytes() && used > 0, "{used}");
    assert!(!exists(&namespace, "s", 0) && exists(&namespace, "s", 99));
}

#[test]
fn never_everything_goes() {
    let namespace = namespace();
    for key in 0..50 {
        put(&namespace, "s", key, NOW + 10, 10);
    }
    put(&namespace, "s", 50, NOW - 1, 10);
    limit_to(&namespace, 1);
    // More than all records, and fewer than one bucket holds.
    for tenths in [1000, u32::MAX, 5, 0] {
        namespace.config().params.evict_tenths_pct.set(tenths);
        run(&namespace, NOW);
        assert_eq!(namespace.object_count(), 50);
    }
    assert_eq!(removed(&namespace), (1, 0), "what has expired goes all the same");
    assert!(namespace.eviction.is_limit_breached.load(Relaxed));
}

#[test]
fn expired_records_do_not_count_as_evicted() {
    let namespace = namespace();
    for key in 0..100 {
        put(&namespace, "s", key, NOW - 50 + key, 10);
    }
    limit_to(&namespace, 10);
    namespace.config().params.evict_tenths_pct.set(800);
    run(&namespace, NOW);
    let (expired, evicted) = removed(&namespace);
    assert_eq!(expired, 50);
    assert!((1..=30).contains(&evicted), "{evicted}");
}

#[test]
fn eviction_is_done_once_when_ordered() {
    let namespace = namespace();
    for key in 0..100 {
        put(&namespace, "s", key, NOW + key, 10);
        put(&namespace, "kept", key, NOW + key, 10);
    }
    assert!(!evict_if_ordered(&namespace, NOW));
    namespace.eviction.order(NOW + 40);
    assert!(evict_if_ordered(&namespace, NOW));
    assert_eq!((removed(&namespace), namespace.eviction.void_time()), ((0, 40), NOW + 40));
    assert!(!evict_if_ordered(&namespace, NOW), "it is done");
    namespace.eviction.order(NOW + 50);
    assert!(!evict_if_ordered(&namespace, NOW + 51), "what is over is left to expiry");
    assert_eq!((removed(&namespace), namespace.eviction.void_time()), ((0, 40), NOW + 50));
    namespace.eviction.reset();
    assert_eq!((namespace.eviction.void_time(), namespace.eviction.ordered_void_time()), (0, 0));
    assert!(!evict_if_ordered(&namespace, NOW));
}

#[test]
fn after_a_load_as_much_goes_as_must() {
    let namespace = namespace();
    let now = StoredMillis::now().seconds();
    for key in 0..2000 {
        put(&namespace, "s", key, now + 1000 + key, 10);
    }
    for key in 0..100 {
        put(&namespace, "kept", key, now + 1000, 10);
        put(&namespace, "", key, 0, 10);
    }
    namespace.evict_after_load();
    assert_eq!(namespace.object_count(), 2200, "no limit, no eviction");
    limit_to(&namespace, 1500);
    namespace.config().params.disable_cold_start_eviction.set(true);
    namespace.evict_after_load();
    assert_eq!(namespace.object_count(), 2200);
    assert!(namespace.eviction.is_limit_breached.load(Relaxed));

    namespace.config().params.disable_cold_start_eviction.set(false);
    namespace.evict_after_load();
    // Each of the many buckets holds few records.
    let left = namespace.object_count();
    assert!((1490..1500).contains(&left), "{left}");
    assert!(!namespace.eviction.is_limit_breached.load(Relaxed));
    let evicted = (2200 - left) as u32;
    assert_eq!(removed(&namespace), (0, u64::from(evicted)));
    for key in 0..2000 {
        assert_eq!(exists(&namespace, "s", key), key >= evicted);
    }
    assert!((0..100).all(|key| exists(&namespace, "kept", key) && exists(&namespace, "", key)));

    // More than there are: all but the last bucket go, then nothing.
    limit_to(&namespace, 10);
    namespace.evict_after_load();
    assert_eq!(namespace.object_count(), 201);
    assert!(exists(&namespace, "s", 1999));
    namespace.evict_after_load();
    assert_eq!(namespace.object_count(), 201);
    assert!(namespace.eviction.is_limit_breached.load(Relaxed));
}

#[test]
fn histograms_cover_namespace_and_sets() {
    let namespace = namespace();
    let text = |histogram, set: SetId| namespace.record_histograms.text(histogram, set);
    collecting::collect_histograms(&namespace, NOW);
    assert_eq!(text(RecordHistogram::Ttl, SetId::NONE), None, "nothing to tell of");
    put(&namespace, "s", 0, NOW + 200, 10);
    put(&namespace, "s", 1, NOW + 3, 1000);
    put(&namespace, "s", 2, 0, 3000);
    put(&namespace, "", 3, NOW + 5, 10);
    let set = namespace.sets.find(b"s").expect("it").id;
    assert_eq!(text(RecordHistogram::ObjectSize, set), None);
    collecting::collect_histograms(&namespace, NOW);

    let buckets = |counts: &[(usize, u64)], len: usize| {
        let mut all = vec![0; len];
        counts.iter().for_each(|(at, count)| all[*at] = *count);
        all.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
    };
    let ttl = "units=seconds:hist-width=200:bucket-width=2:buckets=";
    let of_all = buckets(&[(0, 1), (1, 1), (2, 1), (99, 1)], 100);
    assert_eq!(text(RecordHistogram::Ttl, SetId::NONE), Some(format!("{ttl}{of_all}")));
    let of_set = buckets(&[(0, 1), (1, 1), (99, 1)], 100);
    assert_eq!(text(RecordHistogram::Ttl, set), Some(format!("{ttl}{of_set}")));

    let size = text(RecordHistogram::ObjectSize, SetId::NONE);
    assert_eq!(size.as_deref(), Some("units=bytes:[64-128)=2:[1K-2K)=1:[2K-4K)=1"));
    let size = text(RecordHistogram::ObjectSize, set);
    assert_eq!(size.as_deref(), Some("units=bytes:[64-128)=1:[1K-2K)=1:[2K-4K)=1"));
    let linear = "units=bytes:hist-width=1048576:bucket-width=1024:buckets=";
    let of_all = buckets(&[(0, 2), (1, 1), (2, 1)], 1024);
    assert_eq!(text(RecordHistogram::ObjectSizeLinear, SetId::NONE), Some(format!("{linear}{of_all}")));
    put(&namespace, "late", 1, 0, 1);
    let late = namespace.sets.find(b"late").expect("it").id;
    assert_eq!(text(RecordHistogram::Ttl, late), None);
    assert_eq!(RecordHistogram::named("ttl"), Some(RecordHistogram::Ttl));
    assert_eq!(RecordHistogram::named("TTL"), None);
}
