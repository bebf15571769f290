//! Indexes of a namespace in memory: their entries match the records, whatever writers do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::time::{Duration, Instant};

use cf::Digest;
use cf::clock::StoredMillis;
use datamodel::flat::{FlatRecord, NewRecord};
use datamodel::sindex::{Key, KeyType, Keys};
use datamodel::{Bins, Budget, BytesType, Particle};

use super::gathered::Gathered;
use super::index::KeyChange;
use super::registry::PopulateJob;
use super::*;
use crate::config::{self, Config};
use crate::index::{PARTITION_COUNT, PartitionId, RangeStart};
use crate::metrics::NamespaceCounter;
use crate::namespace::{Cause, Change, ForObservers, Namespace, NewVersion, Preparation, Removal};
use crate::storage::ReadBuffer;

struct Rig {
    config: Arc<Config>,
    namespaces: Vec<Arc<Namespace>>,
    indexes: Arc<SecondaryIndexes>,
}

impl Rig {
    fn new() -> Self {
        let config =
            config::for_tests("namespace test {\n storage-engine memory {\n data-size 512M\n }\n}\n");
        let indexes = Arc::new(SecondaryIndexes::new(1));
        let mut namespace = Namespace::new(&config, 0, 1, 1).unwrap_or_else(|error| panic!("{error}"));
        namespace.add_observer(indexes.observer(0));
        Rig { config, namespaces: vec![Arc::new(namespace)], indexes }
    }

    fn namespace(&self) -> &Namespace {
        &self.namespaces[0]
    }

    fn create(&self, key: &str, name: &str) -> Arc<SecondaryIndex> {
        self.indexes.apply(&self.namespaces, key, Some(name), false);
        self.indexes.of(self.namespace()).named(name).expect("it is there")
    }

    /// Fills all waiting indexes.
    fn build(&self) {
        let is_stopping = AtomicBool::new(false);
        cf::sync::scope(|scope| {
            scope.spawn(|| run_builder(&self.namespaces, &self.indexes, &self.config, &is_stopping));
            let is_filled = |index: &Arc<SecondaryIndex>| index.is_readable() || index.has_failed();
            while !self.indexes.of(self.namespace()).all().iter().all(is_filled) {
                std::thread::yield_now();
            }
            is_stopping.store(true, Release);
        });
    }

    /// Writes a record of `set` with the number `value` and a list of some numbers.
    fn put(&self, key: u64, set: &[u8], value: i64) {
        let (namespace, digest) = (self.namespace(), digest_of(key));
        let (guard, _) = namespace.index.get_or_create(&digest).expect("room");
        let mut meta = if guard.exists() && !guard.is_tombstone() {
            **guard
        } else {
            namespace.meta_of_created(&guard, namespace.set_for_creation(set).expect("room"))
        };
        meta.generation = meta.next_generation();
        let list = [0x93, value as u8 & 0x7f, 5, value as u8 & 3].to_vec();
        let mut bins = Bins::new();
        bins.set(b"pad", Particle::owned(BytesType::Blob, vec![1; value as usize % 40]));
        bins.set(b"n", Particle::Integer(value));
        bins.set(b"l", Particle::owned(BytesType::List, list));
        namespace.write_for_tests(guard, meta, (set, &bins)).expect("room");
    }

    fn delete(&self, key: u64, is_durable: bool) {
        let Some(guard) = self.namespace().index.get_exclusive(&digest_of(key)) else { return };
        if guard.is_tombstone() {
            return;
        }
        let removal = Removal { is_durable, ..Removal::plain(Cause::Delete, StoredMillis::now()) };
        self.namespace().remove(guard, &removal, &mut Vec::new()).expect("room");
    }

    /// The entries of an index.
    fn entries(&self, index: &SecondaryIndex) -> Vec<(Key, Digest)> {
        let (low, high) =
            (Key::from_bval(i64::MIN, KeyType::Numeric), Key::from_bval(i64::MAX, KeyType::Numeric));
        let mut found = Vec::new();
        for partition in PartitionId::all() {
            let all = std::iter::once((RangeStart::From(low), high));
            assert!(!index.collect(self.namespace(), partition, all, 1 << 30, &mut found));
        }
        found.into_iter().map(|found| (found.key, found.digest)).collect()
    }

    /// Compares the entries of an index with the records that are there.
    fn check(&self, index: &SecondaryIndex) -> usize {
        let namespace = self.namespace();
        let (mut expected, mut scratch) = (BTreeSet::new(), ReadBuffer::new());
        for partition in PartitionId::all() {
            let mut cursor = namespace.index.cursor(partition, None);
            while let Some(portion) = cursor.next_portion(|_| true) {
                for found in portion {
                    let guard = namespace.index.get(&found.digest).expect("nobody removes it");
                    if guard.is_tombstone() || !index.is_for(guard.set_id) {
                        continue;
                    }
                    let record: FlatRecord<'_> = namespace.record(&guard, &mut scratch).expect("a record");
                    let value = &index.definition.value;
                    if let Some(bin) = record.bin(&value.bin).expect("a whole record") {
                        let keys = value.keys(&bin, &Budget::unlimited()).expect("no end");
                        expected.extend(keys.into_iter().map(|key| (key, found.digest)));
                        assert!(guard.is_in_sindex());
                    }
                }
            }
        }
        let entries = self.entries(index);
        assert_eq!(index.entry_count(), entries.len() as u64);
        let once: BTreeSet<_> = entries.iter().copied().collect();
        assert_eq!((once.len(), &once), (entries.len(), &expected), "{}", index.name());
        entries.len()
    }
}

fn digest_of(key: u64) -> Digest {
    Digest::of_key(b"s", 1, &key.to_be_bytes())
}

#[test]
fn an_index_is_made_once() {
    let rig = Rig::new();
    let create = |key: &str, name: &str| {
        let definition = Definition::from_smd_item(key, Some(name)).expect("a definition");
        rig.indexes.create(&rig.namespaces[0], definition, name, false)
    };
    assert_eq!(create("test|s|n|.|I", "one"), Ok(()));
    let index = rig.indexes.of(rig.namespace()).named("one").expect("it is there");
    assert_eq!(create("test|s|n|.|I", "one"), Ok(()));
    create("test|t|n|.|I", "one").expect_err("a name is of one index");
    let all = rig.indexes.of(rig.namespace()).all();
    assert!(all.len() == 1 && Arc::ptr_eq(&all[0], &index));
    assert_eq!(create("test|s|n|.|I", "two"), Ok(()));
    assert_eq!(&*index.name(), "two");
}

#[test]
fn entries_follow_every_change() {
    let rig = Rig::new();
    let (number, list) = (rig.create("test||n|.|I", "number"), rig.create("test|s|l|L|I", "list"));
    assert!(number.is_readable() && list.is_readable());
    rig.put(1, b"s", 7);
    rig.put(2, b"t", 7);
    assert_eq!((rig.check(&number), rig.check(&list)), (2, 3));
    // A record of the same size, overwritten in place; a larger one; an unchanged one.
    for value in [8, 39, 39] {
        rig.put(1, b"s", value);
        rig.check(&list);
        assert_eq!(rig.check(&number), 2);
    }
    rig.delete(1, true);
    assert_eq!((rig.check(&number), rig.check(&list)), (1, 0));
    rig.put(1, b"t", 3);
    rig.delete(2, false);
    assert_eq!((rig.check(&number), rig.check(&list)), (1, 0));
    assert_eq!(number.used_bytes() + list.used_bytes(), rig.namespace().sindex_used_bytes.load(Relaxed));
    // A dropped index is empty and gets no changes.
    rig.indexes.apply(&rig.namespaces, "test||n|.|I", None, false);
    rig.put(5, b"s", 5);
    assert!(number.is_dropped() && rig.entries(&number).is_empty());
    assert_eq!(rig.check(&list), 2);
    rig.indexes.apply(&rig.namespaces, "test|s|l|L|I", None, false);
    assert_eq!(rig.namespace().sindex_used_bytes.load(Relaxed), 0);
}

#[test]
fn the_same_definition_under_another_name_is_renamed() {
    let rig = Rig::new();
    let first = rig.create("test|s|n|.|I", "one");
    rig.put(1, b"s", 1);
    let second = rig.create("test|s|n|.|I", "two");
    assert!(Arc::ptr_eq(&first, &second) && &*first.name() == "two");
    assert_eq!(rig.indexes.of(rig.namespace()).all().len(), 1);
    assert_eq!(rig.namespace().sets.find(b"s").expect("made with its index").sindexes.load(Relaxed), 1);
    // An index of a set, then of the namespace.
    let wide = rig.create("test||n|.|I", "wide");
    rig.build();
    let indexes = rig.indexes.of(rig.namespace());
    let of_set = |set: &[u8]| {
        let set_id = rig.namespace().set_for_creation(set).expect("room");
        indexes.find(set_id, &first.definition.value).expect("one of them")
    };
    assert!(Arc::ptr_eq(&of_set(b"s"), &first) && Arc::ptr_eq(&of_set(b"t"), &wide));
    assert_eq!(rig.check(&wide), 1);
}

#[test]
fn an_index_that_is_filled_during_writes_is_exact() {
    const KEYS: u64 = 20_000;
    let rig = Rig::new();
    (0..KEYS).for_each(|key| rig.put(key, if key % 3 == 0 { b"t" } else { b"s" }, key as i64 % 500));
    let is_done = AtomicBool::new(false);
    cf::sync::scope(|scope| {
        for thread in 0..2 {
            let (rig, is_done) = (&rig, &is_done);
            scope.spawn(move || {
                let mut n: u64 = thread;
                while !is_done.load(Acquire) {
                    n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let (key, value) = ((n >> 33) % KEYS, (n >> 20) as i64 % 500);
                    match n >> 40 & 7 {
                        0 => rig.delete(key, false),
                        1 => rig.delete(key, true),
                        _ => rig.put(key, if key % 3 == 0 { b"t" } else { b"s" }, value.abs()),
                    }
                }
            });
        }
        for round in 0..6 {
            let (a, b) = (rig.create("test|s|n|.|I", "a"), rig.create("test||l|L|I", "b"));
            rig.build();
            assert!(a.is_readable() && b.is_readable(), "round {round}");
            if round < 5 {
                rig.indexes.apply(&rig.namespaces, "test|s|n|.|I", None, false);
                rig.indexes.apply(&rig.namespaces, "test||l|L|I", None, false);
                assert_eq!(rig.namespace().sindex_used_bytes.load(Relaxed), 0);
            }
        }
        is_done.store(true, Release);
    });
    for index in rig.indexes.of(rig.namespace()).all() {
        assert!(rig.check(&index) > 1_000);
    }
}

/// Commits do not find the entries that the builder has gathered but not added yet.
#[test]
fn a_key_that_goes_before_it_is_added_is_not_added() {
    let rig = Rig::new();
    (0..1_000).for_each(|key| rig.put(key, b"s", 7));
    let index = rig.create("test|s|n|.|I", "number");
    let (namespace, digest) = (rig.namespace(), digest_of(1));
    let (partition, indexes) = (PartitionId::of(&digest), [Arc::clone(&index)]);
    let mut gathered = Gathered::new(&indexes);
    let gather = |gathered: &mut Gathered<'_>| {
        gathered.begin(partition);
        let (mut guard, mut scratch) =
            (namespace.index.get_exclusive(&digest).expect("it is there"), ReadBuffer::new());
        let record = namespace.record(&guard, &mut scratch).expect("a record");
        assert_eq!(gathered.gather(&record, guard.set_id, guard.handle()), Some(true));
        guard.meta_mut().set_in_sindex(true);
    };
    gather(&mut gathered);
    rig.put(1, b"s", 8);
    assert_eq!(gathered.add(namespace, partition), [digest]);
    assert_eq!(index.entry_count(), 1, "the commit has added its entry");
    // Changes of other values, or of other partitions, do no harm.
    gather(&mut gathered);
    rig.put(1, b"s", 8);
    let elsewhere = (2..100).find(|key| PartitionId::of(&digest_of(*key)) != partition).expect("one");
    rig.delete(elsewhere, false);
    assert!(gathered.add(namespace, partition).is_empty());
    assert_eq!(index.entry_count(), 1);
    gather(&mut gathered);
    rig.delete(1, true);
    assert_eq!(gathered.add(namespace, partition), [digest]);
    assert_eq!(index.entry_count(), 0);
    rig.build();
    assert_eq!(rig.check(&index), 998);
}

/// A change that exceeds the budget of its transaction is refused before anything has changed.
#[test]
fn a_record_with_many_keys_draws_on_the_budget() {
    const COUNT: usize = 30_000;
    let rig = Rig::new();
    let index = rig.create("test|s|l|L|I", "list");
    rig.put(1, b"s", 7);
    let (namespace, digest) = (rig.namespace(), digest_of(1));
    let mut list = vec![0xdd];
    list.extend((COUNT as u32).to_be_bytes());
    (0..COUNT as u32).for_each(|n| list.extend([&[0xce][..], &n.to_be_bytes()].concat()));
    let mut bins = Bins::new();
    bins.set(b"l", Particle::owned(BytesType::List, list));
    let write = |budget: &Budget<'_>| {
        let guard = namespace.index.get_exclusive(&digest).expect("it is there");
        let mut meta = **guard;
        meta.generation = meta.next_generation();
        let record = NewRecord {
            digest,
            last_update_time: meta.last_update_time(),
            generation: meta.generation,
            void_time: 0,
            tree_id: namespace.partitions.tree_id(PartitionId::of(&digest)),
            set_name: b"s",
            key: None,
            leaves_tombstone: false,
        };
        let mut flat = Vec::new();
        record.encode(&bins, record.size(&bins), &mut flat);
        let change = Change::Record(NewVersion { flat: &flat, packed: None, meta, key_stored: false });
        let for_observers = ForObservers { budget: Some(budget), ..ForObservers::default() };
        namespace.commit_with(guard, &change, Cause::Write, for_observers).is_ok()
    };
    assert!(!write(&Budget::new(200_000)));
    assert_eq!(rig.check(&index), 3);
    assert!(write(&Budget::new(100_000_000)));
    assert_eq!(rig.check(&index), COUNT);
    let delete = |budget: &Budget<'_>| {
        let guard = namespace.index.get_exclusive(&digest).expect("it is there");
        let for_observers = ForObservers { budget: Some(budget), ..ForObservers::default() };
        let removal = Removal { for_observers, ..Removal::plain(Cause::Delete, StoredMillis::now()) };
        namespace.remove(guard, &removal, &mut Vec::new()).is_ok()
    };
    assert!(!delete(&Budget::new(200_000)));
    assert_eq!(rig.check(&index), COUNT);
    assert!(delete(&Budget::unlimited()));
    assert_eq!(rig.check(&index), 0);
}

#[test]
fn a_start_fills_all_indexes() {
    let rig = Rig::new();
    (0..3_000).for_each(|key| rig.put(key, b"s", key as i64));
    rig.indexes.apply(&rig.namespaces, "test|s|n|.|I", Some("a"), true);
    rig.indexes.apply(&rig.namespaces, "test||l|L|I", Some("b"), true);
    populate_all(&rig.namespaces, &rig.indexes);
    let indexes = rig.indexes.of(rig.namespace()).all();
    assert!(indexes.iter().all(|index| index.is_readable()));
    assert_eq!(rig.check(&indexes[0]), 3_000);
    assert_eq!(indexes[0].entries_per_bval.load(Relaxed), 1);
    assert!(rig.check(&indexes[1]) > 3_000 && indexes[1].entries_per_rec.load(Relaxed) >= 2);
}

#[test]
fn a_start_gives_indexes_up_if_the_memory_of_the_system_is_short() {
    let rig = Rig::new();
    (0..100).for_each(|key| rig.put(key, b"s", key as i64));
    rig.indexes.apply(&rig.namespaces, "test|s|n|.|I", Some("a"), true);
    rig.namespace().config().params.stop_writes_sys_memory_pct.set(1);
    populate_all(&rig.namespaces, &rig.indexes);
    let index = rig.indexes.of(rig.namespace()).named("a").expect("it is there");
    assert!(index.has_failed() && !index.is_readable() && index.entry_count() == 0);
    // A budget that is used up says nothing of the memory that there is.
    rig.indexes.apply(&rig.namespaces, "test|s|n|.|I", None, false);
    rig.indexes.apply(&rig.namespaces, "test|s|n|.|I", Some("a"), true);
    let params = &rig.namespace().config().params;
    params.stop_writes_sys_memory_pct.set(0);
    params.indexes_memory_budget.set(1);
    populate_all(&rig.namespaces, &rig.indexes);
    let index = rig.indexes.of(rig.namespace()).named("a").expect("it is there");
    assert_eq!((index.is_readable(), rig.check(&index)), (true, 100));
}

/// The mark of a breach is up to a second old.
#[test]
fn a_breach_that_is_over_gives_no_index_up() {
    let rig = Rig::new();
    (0..1_000).for_each(|key| rig.put(key, b"s", key as i64));
    let namespace = rig.namespace();
    namespace.config().params.stop_writes_sys_memory_pct.set(0);
    namespace.memory_breached.store(true, Relaxed);
    let index = rig.create("test|s|n|.|I", "a");
    rig.build();
    assert_eq!((index.has_failed(), rig.check(&index)), (false, 1_000));
    namespace.config().params.indexes_memory_budget.set(1);
    let index = rig.create("test|s|l|L|I", "b");
    rig.build();
    assert!(index.has_failed() && !index.is_readable() && index.entry_count() == 0);
}

#[test]
fn averages_follow_the_entries() {
    let rig = Rig::new();
    let numbers = rig.create("test|s|n|.|I", "a");
    let lists = rig.create("test||l|L|I", "b");
    rig.build();
    let averages = |index: &SecondaryIndex| {
        [&index.entries_per_bval, &index.entries_per_rec].map(|average| average.load(Relaxed))
    };
    assert_eq!((averages(&numbers), averages(&lists)), ([0, 0], [0, 0]));
    let estimate = || {
        (0..2).for_each(|_| sweep::estimate_averages(&rig.namespaces, &rig.indexes, &AtomicBool::new(false)));
    };
    // 37.5 entries of each value, rounded up.
    (0..300).for_each(|key| rig.put(key, b"s", key as i64 % 8));
    estimate();
    assert_eq!(averages(&numbers), [38, 1]);
    assert!(averages(&lists)[1] >= 2);
    // A few more make no difference yet.
    (300..400).for_each(|key| rig.put(key, b"s", 0));
    estimate();
    assert_eq!(averages(&numbers), [38, 1]);
    (400..800).for_each(|key| rig.put(key, b"s", 0));
    estimate();
    assert_eq!(averages(&numbers), [100, 1]);
    (0..800).for_each(|key| rig.delete(key, false));
    estimate();
    assert_eq!((averages(&numbers), averages(&lists)), ([0, 0], [0, 0]));
}

#[test]
fn estimates_end_with_the_server() {
    let rig = Rig::new();
    let index = rig.create("test|s|n|.|I", "a");
    (0..10_000).for_each(|key| rig.put(key, b"s", key as i64 % 8));
    let is_stopping = AtomicBool::new(false);
    // The stop comes while the entries are being visited.
    let mut seen = 0;
    let is_complete = index.for_each_hash(&is_stopping, |_, _| {
        seen += 1;
        is_stopping.store(seen >= 100, Release);
    });
    assert!(!is_complete && seen < 200, "{seen} of 10,000 entries");
    is_stopping.store(true, Release);
    sweep::estimate_averages(&rig.namespaces, &rig.indexes, &is_stopping);
    assert_eq!(index.entries_per_bval.load(Relaxed), 0, "the averages are those from before");
    sweep::estimate_averages(&rig.namespaces, &rig.indexes, &AtomicBool::new(false));
    assert!(index.entries_per_bval.load(Relaxed) > 1_000);
}

/// An index whose filling fails again and again is tried at longer and longer intervals, until it is dropped.
#[test]
fn failures_to_fill_an_index_are_repeated_less_and_less_often() {
    let rig = Rig::new();
    let index = rig.create("test|s|n|.|I", "a");
    rig.put(1, b"s", 1);
    let (start, mut now) = (Instant::now(), Instant::now());
    rig.indexes.populate_again(PopulateJob::new(&rig.namespaces[0], Arc::clone(&index)), now);
    let mut pauses = Vec::new();
    while now - start < Duration::from_secs(3_600) {
        let Some(job) = rig.indexes.next_failed(now) else {
            now += Duration::from_millis(100);
            continue;
        };
        pauses.push((now - start).as_millis() as u64 / 100);
        rig.indexes.populate_again(job, now);
    }
    assert_eq!(pauses[..6], [1, 3, 7, 15, 31, 63]);
    assert!(pauses.len() < 20, "{pauses:?}");
    rig.indexes.apply(&rig.namespaces, "test|s|n|.|I", None, false);
    assert!(rig.indexes.next_failed(now + Duration::from_secs(3_600)).is_none());
}

/// A dropped index takes no memory, even if its drop comes between two slices of a change.
#[test]
fn an_index_that_is_dropped_during_a_large_change_leaves_nothing_counted() {
    let keys = |count: i64| -> Keys { (0..count).map(|n| Key::from_bval(n, KeyType::Numeric)).collect() };
    for round in 0..10 {
        let rig = Rig::new();
        // The last partition is the last one that the drop empties.
        let key =
            (0..).find(|key| PartitionId::of(&digest_of(*key)).index() + 1 == PARTITION_COUNT).expect("one");
        rig.put(key, b"s", 7);
        let index = rig.create("test|s|x|L|I", "list");
        let namespace = rig.namespace();
        let handle = namespace.index.get(&digest_of(key)).expect("it is there").handle();
        let change = |removed: Keys, added: Keys| {
            index.change(
                namespace,
                handle,
                &digest_of(key),
                &KeyChange { removed, all: added.clone(), added },
            );
        };
        let (before, after) = if round % 2 == 0 { (keys(0), keys(40_000)) } else { (keys(40_000), keys(0)) };
        change(keys(0), before.clone());
        cf::sync::scope(|scope| {
            scope.spawn(|| change(before, after));
            std::thread::yield_now();
            rig.indexes.apply(&rig.namespaces, "test|s|x|L|I", None, false);
        });
        assert_eq!(namespace.sindex_used_bytes.load(Relaxed), 0, "round {round}");
    }
}

#[test]
fn there_are_so_many_indexes_and_no_more() {
    let rig = Rig::new();
    for n in 0..=INDEX_COUNT_MAX {
        rig.indexes.apply(&rig.namespaces, &format!("test||b{n}|.|I"), Some(&format!("i{n}")), false);
    }
    assert_eq!(rig.indexes.of(rig.namespace()).all().len(), INDEX_COUNT_MAX);
    rig.indexes.apply(&rig.namespaces, "test||b7|.|I", None, false);
    rig.create("test||b|.|S", "again");
    let all = rig.indexes.of(rig.namespace()).all();
    assert_eq!(&*all[7].name(), "again", "the first free slot is used");
    // An unknown namespace and an invalid definition are ignored.
    rig.indexes.apply(&rig.namespaces, "other||b|.|S", Some("x"), false);
    rig.indexes.apply(&rig.namespaces, "nonsense", Some("x"), false);
}

impl Rig {
    /// Changes the entries of the record of `key` so that they do not match its values, as if its stored bytes had
    /// rotted.
    fn rot(&self, index: &SecondaryIndex, key: u64, removed: &[i64], added: &[i64]) {
        let guard = self.namespace().index.get_exclusive(&digest_of(key)).expect("it is there");
        let keys = |values: &[i64]| -> Keys {
            values.iter().map(|value| Key::from_bval(*value, KeyType::Numeric)).collect()
        };
        let change = KeyChange { removed: keys(removed), added: keys(added), all: keys(added) };
        index.change(self.namespace(), guard.handle(), guard.digest(), &change);
    }

    fn sweep(&self, index: &SecondaryIndex) -> u64 {
        PartitionId::all().map(|partition| sweep::sweep_partition(self.namespace(), index, partition)).sum()
    }
}

#[test]
fn entries_that_a_damaged_record_had_go_with_its_change() {
    let rig = Rig::new();
    let index = rig.create("test|s|n|.|I", "number");
    (1..=4).for_each(|key| rig.put(key, b"s", 7));
    rig.rot(&index, 1, &[7], &[9]);
    rig.rot(&index, 2, &[7], &[9, 11]);
    rig.rot(&index, 3, &[7], &[9]);
    assert_eq!((index.entry_count(), rig.sweep(&index)), (5, 0), "all of them lead to their records");
    rig.put(1, b"s", 8);
    rig.delete(2, false);
    rig.delete(3, true);
    assert_eq!((rig.check(&index), rig.sweep(&index)), (2, 0));
    // The element belongs to a list whose other elements stay.
    let list = rig.create("test|s|l|L|I", "list");
    rig.build();
    rig.put(5, b"s", 20);
    rig.rot(&list, 5, &[20], &[99]);
    rig.put(5, b"s", 24);
    assert_eq!(rig.check(&list), 9);
}

#[test]
fn entries_without_a_record_are_ignored_and_swept_out() {
    let rig = Rig::new();
    let index = rig.create("test|s|n|.|I", "number");
    (0..2_000).for_each(|key| rig.put(key, b"s", 7));
    (0..100).for_each(|key| rig.rot(&index, key, &[], &[50]));
    (0..100).for_each(|key| rig.delete(key, false));
    assert_eq!(index.entry_count(), 2_000);
    // Some of the elements now belong to other records, some to the same records, created again.
    (3_000..3_040).for_each(|key| rig.put(key, b"s", 7));
    (0..20).for_each(|key| rig.put(key, b"s", 8));
    for (key, digest) in rig.entries(&index) {
        let is_stale = key == Key::from_bval(50, KeyType::Numeric);
        let is_there = rig.namespace().index.get(&digest).is_some();
        assert!(is_there || is_stale, "{key:?} {digest:?}");
    }
    let memory = index.used_bytes();
    let swept = rig.sweep(&index);
    // An entry that leads to its own record's element again stays until the record changes.
    let own = index.entry_count() - 1_960;
    assert_eq!((swept + own, rig.sweep(&index)), (100, 0));
    assert!(swept >= 80 && index.used_bytes() <= memory);
    (0..20).for_each(|key| rig.delete(key, false));
    rig.sweep(&index);
    assert_eq!(rig.check(&index), 1_940);
    let cleaned = rig.namespace().metrics.get(NamespaceCounter::SindexGcCleaned);
    assert_eq!((cleaned, index.gc_cleaned.load(Relaxed)), (100, 100));
}

/// Changes prepared by a pool thread apply only to the indexes that existed then.
#[test]
fn changes_that_were_prepared_are_those_of_the_indexes_that_are_there() {
    let rig = Rig::new();
    let first = rig.create("test|s|n|.|I", "first");
    rig.put(1, b"s", 7);
    let (namespace, digest) = (rig.namespace(), digest_of(1));
    for makes_index in [false, true] {
        let (before, mut meta, old) = {
            let guard = namespace.index.get(&digest).expect("it is there");
            let mut scratch = ReadBuffer::new();
            let old = namespace.storage.record_bytes(&guard, &mut scratch).expect("a record").to_vec();
            (**guard, **guard, old)
        };
        meta.generation = meta.next_generation();
        let mut bins = Bins::new();
        bins.set(b"n", Particle::Integer(i64::from(meta.generation) * 100));
        bins.set(b"l", Particle::owned(BytesType::List, vec![0x92, 1, 2]));
        let record = NewRecord {
            digest,
            last_update_time: meta.last_update_time(),
            generation: meta.generation,
            void_time: 0,
            tree_id: namespace.partitions.tree_id(PartitionId::of(&digest)),
            set_name: b"s",
            key: None,
            leaves_tombstone: false,
        };
        let mut flat = Vec::new();
        record.encode(&bins, record.size(&bins), &mut flat);
        let change = Change::Record(NewVersion { flat: &flat, packed: None, meta, key_stored: false });
        let budget = Budget::unlimited();
        let preparation =
            Preparation { digest: &digest, before: &before, old: &old, budget: &budget, change: &change };
        let prepared = namespace.prepare(&preparation);
        let second = makes_index.then(|| rig.create("test|s|l|L|I", "second"));
        let guard = namespace.index.get_exclusive(&digest).expect("it is there");
        let for_observers = ForObservers { prepared: Some(&prepared), ..ForObservers::default() };
        namespace.commit_with(guard, &change, Cause::Write, for_observers).expect("room");
        assert_eq!(rig.check(&first), 1);
        if let Some(second) = second {
            rig.build();
            assert_eq!(rig.check(&second), 2);
        }
    }
}

#[test]
fn the_sweep_keeps_to_the_collection_period() {
    let millis = Duration::from_millis;
    let is_due = |period, since, took| sweep::is_due(period, millis(since), millis(took));
    assert!(is_due(10, 900, 0) && !is_due(10, 899, 0));
    assert!(is_due(1, 90, 0) && !is_due(100, 900, 0));
    assert!(!is_due(10, 900, 10) && is_due(10, 1_000, 10), "a long turn has a long pause");
    assert!(!is_due(0, u64::MAX, 0), "never");
}
