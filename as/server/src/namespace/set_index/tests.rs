//! Indexes of sets in memory: a walk by one finds exactly the set's records, whatever writers do and whenever it is
//! switched.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashSet};

use cf::clock::StoredMillis;
use datamodel::{Bins, Particle};
use std::sync::Arc;

use super::*;
use crate::index::{LockWait, SeenRecord};
use crate::namespace::{Cause, Removal};

fn namespace() -> Arc<Namespace> {
    let (_, namespace) =
        Namespace::for_tests("namespace test {\n storage-engine memory {\n data-size 512M\n }\n}\n");
    namespace
}

/// Record number `key` of one of few partitions.
fn digest_of(key: u64) -> Digest {
    let mut digest = Digest::of_key(b"", 1, &key.to_be_bytes());
    (digest.0[0], digest.0[1]) = (key as u8 % 8, digest.0[1] & 0xF0);
    digest
}

fn put(namespace: &Namespace, set: &[u8], key: u64) {
    let (guard, _) = namespace.index.get_or_create(&digest_of(key)).expect("room");
    let mut meta = if guard.exists() && !guard.is_tombstone() {
        **guard
    } else {
        namespace.meta_of_created(&guard, namespace.set_for_creation(set).expect("room"))
    };
    meta.generation = meta.next_generation();
    let mut bins = Bins::new();
    bins.set(b"n", Particle::Integer(key as i64));
    namespace.write_for_tests(guard, meta, (set, &bins)).expect("room");
}

fn delete(namespace: &Namespace, key: u64, is_durable: bool) {
    let Some(guard) = namespace.index.get_exclusive(&digest_of(key)).filter(|guard| !guard.is_tombstone())
    else {
        return;
    };
    let removal = Removal { is_durable, ..Removal::plain(Cause::Delete, StoredMillis::now()) };
    namespace.remove(guard, &removal, &mut Vec::new()).expect("room");
}

fn switch(namespace: &Namespace, set: &str, is_on: bool) {
    let config = &namespace.config().sets;
    config.get_or_create(set).expect("room").enable_index.set(is_on);
    namespace.switch_set_index(namespace.sets.find_or_create(set.as_bytes(), config).expect("room"));
}

fn set_id(namespace: &Namespace, set: &[u8]) -> SetId {
    namespace.sets.find(set).expect("it is there").id
}

/// The records that a walk over all partitions finds.
fn walk(namespace: &Namespace, set_id: SetId) -> (Vec<Digest>, bool) {
    let (mut found, mut is_by_index) = (Vec::new(), true);
    for partition in PartitionId::all() {
        let mut walk = namespace.walk(partition, set_id, None);
        let start = found.len();
        while let Some(portion) = walk.next_portion(|meta| listing_set(meta) == set_id) {
            found.extend(portion.iter().map(|found| found.digest));
        }
        assert!(found[start..].is_sorted_by_key(Reverse));
        is_by_index &= matches!(walk, RecordWalk::Set(_));
    }
    (found, is_by_index)
}

/// Runs the builder until no index waits for it.
fn build(namespace: &Namespace) {
    let stopping = std::sync::atomic::AtomicBool::new(false);
    cf::sync::scope(|scope| {
        let builder = scope.spawn(|| namespace.run_set_index_builder(&stopping));
        while namespace.sets.iter().any(Set::is_index_populating) {
            std::thread::yield_now();
        }
        stopping.store(true, Release);
        builder.thread().unpark();
    });
}

#[test]
fn an_index_has_earlier_records_and_follows_changes() {
    let namespace = namespace();
    for key in 0..3_000 {
        put(&namespace, if key % 3 == 0 { b"few" } else { b"many" }, key);
    }
    assert_eq!(namespace.set_index_used_bytes(), 0);
    switch(&namespace, "few", true);
    let few = set_id(&namespace, b"few");
    assert!(!walk(&namespace, few).1, "it is not ready");
    // While the builder runs and after it.
    put(&namespace, b"few", 5_000);
    delete(&namespace, 3, false);
    build(&namespace);
    put(&namespace, b"few", 5_001);
    delete(&namespace, 6, true);
    delete(&namespace, 9, true);
    put(&namespace, b"few", 9);
    let (found, is_by_index) = walk(&namespace, few);
    let expected: BTreeSet<Digest> = (0..3_000)
        .step_by(3)
        .filter(|key| ![3, 6].contains(key))
        .chain([5_000, 5_001])
        .map(digest_of)
        .collect();
    assert!(is_by_index && found.len() == expected.len());
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
    let own = (PARTITION_COUNT * size_of::<PartitionTree>()) as u64;
    let used = namespace.set_index_used_bytes();
    assert!((own + 1_000 * 6..own + 1_000 * 10).contains(&used), "{used} bytes");
    switch(&namespace, "few", false);
    assert_eq!((namespace.set_index_used_bytes(), walk(&namespace, few).1), (0, false));
    // Commits do not change it now; its next life begins empty.
    delete(&namespace, 12, false);
    switch(&namespace, "few", true);
    build(&namespace);
    let (found, is_by_index) = walk(&namespace, few);
    assert!(is_by_index && found.len() == expected.len() - 1);
    for key in 0..6_000 {
        delete(&namespace, key, false);
    }
    assert!(walk(&namespace, few).0.is_empty());
    // The directories keep a little memory.
    assert!(namespace.set_index_used_bytes() < own + 2_000);
}

#[test]
fn a_walk_resumes_and_outlives_its_index() {
    let namespace = namespace();
    (0..20_000).for_each(|key| put(&namespace, b"s", key));
    switch(&namespace, "s", true);
    build(&namespace);
    let (set_id, partition) = (set_id(&namespace, b"s"), PartitionId::of(&digest_of(0)));
    let rest = |after: Option<&Digest>| {
        let (mut walk, mut found) = (namespace.walk(partition, set_id, after), Vec::new());
        while let Some(portion) = walk.next_portion(|_| true) {
            found.extend(portion.iter().map(|found| found.digest));
        }
        found
    };
    let all = rest(None);
    assert_eq!(all.len(), 2_500);
    assert_eq!(rest(Some(&all[1_000])), all[1_001..]);
    let mut walk = namespace.walk(partition, set_id, Some(&all[0]));
    let mut found = Vec::new();
    let mut portions = 0;
    while let Some(portion) = walk.next_portion(|_| true) {
        found.extend(portion.iter().map(|found| found.digest));
        portions += 1;
        if portions == 2 {
            switch(&namespace, "s", false);
        }
    }
    assert!(matches!(walk, RecordWalk::Primary(_)) && found == all[1..]);
}

#[test]
fn a_walk_that_does_not_sleep_continues_where_a_lock_was_not_free() {
    let namespace = namespace();
    (0..2_000).for_each(|key| put(&namespace, b"few", key));
    switch(&namespace, "few", true);
    build(&namespace);
    let set_id = set_id(&namespace, b"few");
    let partition = PartitionId::of(&digest_of(0));
    let (all, _) = walk(&namespace, set_id);
    let all: Vec<Digest> = all.into_iter().filter(|digest| PartitionId::of(digest) == partition).collect();
    for locked in [0, 1, all.len() / 2] {
        let guard = namespace.index.get_exclusive(&all[locked]).expect("it is there");
        let mut walk = namespace.walk(partition, set_id, None).within(LockWait::Spin);
        assert!(matches!(walk, RecordWalk::Set(_)));
        let mut found = Vec::new();
        let mut collect = |portion: &[SeenRecord]| found.extend(portion.iter().map(|found| found.digest));
        for _ in 0..3 {
            collect(walk.next_portion(|_| true).expect("a record is left"));
        }
        drop(guard);
        while let Some(portion) = walk.next_portion(|_| true) {
            collect(portion);
        }
        assert_eq!(found, all, "number {locked} was locked");
    }
}

/// A record that stays in the set is found once, and none twice, while others come and go and the index is switched.
#[test]
fn walks_during_writes_and_switches_miss_and_repeat_nothing() {
    const COUNT: u64 = 3_000;
    let namespace = namespace();
    (0..COUNT).step_by(3).for_each(|key| put(&namespace, b"s", key));
    let staying: HashSet<Digest> = (0..COUNT).step_by(3).map(digest_of).collect();
    let (is_done, stopping) =
        (std::sync::atomic::AtomicBool::new(false), std::sync::atomic::AtomicBool::new(false));
    let id = set_id(&namespace, b"s");
    let mut by_index = 0;
    cf::sync::scope(|scope| {
        let builder = scope.spawn(|| namespace.run_set_index_builder(&stopping));
        for thread in 1..3 {
            let (namespace, is_done) = (&namespace, &is_done);
            scope.spawn(move || {
                let mut number = thread;
                while !is_done.load(Relaxed) {
                    number = (number * 7 + 3) % (COUNT / 3);
                    let key = number * 3 + thread;
                    if namespace.index.get(&digest_of(key)).is_some_and(|guard| !guard.is_tombstone()) {
                        delete(namespace, key, number % 5 == 0);
                    } else {
                        put(namespace, b"s", key);
                    }
                }
            });
        }
        for round in 0..60 {
            match round % 6 {
                0 => switch(&namespace, "s", true),
                4 => switch(&namespace, "s", false),
                1 => {
                    while namespace.sets.iter().any(Set::is_index_populating) {
                        std::thread::yield_now();
                    }
                }
                _ => {}
            }
            let (found, is_by_index) = walk(&namespace, id);
            by_index += u32::from(is_by_index);
            let once: HashSet<Digest> = found.iter().copied().collect();
            assert_eq!(once.len(), found.len(), "a record is found twice");
            assert!(staying.is_subset(&once), "a record that is there is not found");
        }
        is_done.store(true, Relaxed);
        stopping.store(true, Release);
        builder.thread().unpark();
    });
    assert!(by_index >= 20, "{by_index} walks by the index");
}
