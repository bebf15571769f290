//! A load finds copies of records in any order, in several threads; afterwards the indexes match the newest copies.

use std::collections::BTreeMap;

use datamodel::flat::NewRecord;
use datamodel::sindex::KeyType;
use datamodel::{Bins, BytesType, Particle};

use super::super::{SecondaryIndexes, populate_all};
use super::*;
use crate::index::{CreateOutcome, IndexEntry, RangeStart, RecordMeta};

const KEYS: u64 = 40;

/// A copy of a record of key `key`: the more `age` the newer. `None`: it cannot be read.
#[derive(Clone, Debug)]
struct FoundCopy {
    key: u64,
    age: u16,
    place: u64,
    bins: Option<Bins<'static>>,
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn digest_of(key: u64) -> Digest {
    Digest::of_key(b"s", 1, &key.to_be_bytes())
}

/// Copies of all records, in a random order.
fn copies(random: &mut Random) -> Vec<FoundCopy> {
    let mut copies = Vec::new();
    for key in 0..KEYS {
        for age in 1..=1 + random.below(4) as u16 {
            let mut bins = Bins::new();
            if random.below(3) > 0 {
                bins.set(b"n", Particle::Integer(random.below(5) as i64));
            }
            if random.below(3) > 0 {
                let list = vec![0x92, random.below(3) as u8, 3 + random.below(3) as u8];
                bins.set(b"l", Particle::owned(BytesType::List, list));
            }
            bins.set(b"x", Particle::Integer(1));
            let bins = (random.below(10) > 0).then_some(bins);
            copies.push(FoundCopy { key, age, place: copies.len() as u64 + 1, bins });
        }
    }
    for at in (1..copies.len()).rev() {
        copies.swap(at, random.below(at as u64 + 1) as usize);
    }
    copies
}

/// Brings a copy into the index, as a load does.
fn load(loaded: &LoadedIndexes, namespace: &Namespace, set_id: SetId, copy: &FoundCopy) {
    let digest = digest_of(copy.key);
    let (mut guard, outcome) = namespace.index.get_or_create(&digest).expect("room");
    let mut unpacker = Unpacker::default();
    if outcome == CreateOutcome::Existed && guard.generation > copy.age {
        // An older copy may still contain information about the record.
        let mut after = **guard;
        after.set_leaves_tombstone(true);
        let copy = LoadedCopy { guard: &guard, after: &mut after, copy: None, unpacker: &mut unpacker };
        loaded.note(copy);
        *guard.meta_mut() = after;
        return;
    }
    let mut after = RecordMeta::new(set_id);
    after.generation = copy.age;
    after.set_last_update_time(copy.age.into());
    after.location = Location::new(0, copy.place, 4);
    let mut flat = Vec::new();
    if let Some(bins) = &copy.bins {
        let record = NewRecord {
            digest,
            last_update_time: copy.age.into(),
            generation: copy.age,
            void_time: 0,
            tree_id: 1,
            set_name: b"s",
            key: None,
            leaves_tombstone: false,
        };
        record.encode(bins, record.size(bins), &mut flat);
    }
    let record = copy.bins.as_ref().map(|_| FlatRecord::parse(&flat).expect("a record"));
    let copy = record.as_ref();
    loaded.note(LoadedCopy { guard: &guard, after: &mut after, copy, unpacker: &mut unpacker });
    *guard.meta_mut() = after;
}

/// The entries of an index, by key.
fn entries(namespace: &Namespace, index: &SecondaryIndex) -> Vec<(i64, Digest)> {
    let key = |bval| Key::from_bval(bval, KeyType::Numeric);
    let mut found: Vec<IndexEntry<Key>> = Vec::new();
    for partition in PartitionId::all() {
        let all = std::iter::once((RangeStart::From(key(i64::MIN)), key(i64::MAX)));
        assert!(!index.collect(namespace, partition, all, 1 << 30, &mut found));
    }
    assert_eq!(index.entry_count(), found.len() as u64);
    let mut found: Vec<_> =
        found.iter().map(|found| (found.key.bval(KeyType::Numeric), found.digest)).collect();
    found.sort_unstable();
    found
}

fn item(key: &str, name: &str) -> SmdItem {
    SmdItem { key: key.to_owned(), value: Some(name.to_owned()), generation: 1, timestamp: 1 }
}

/// A namespace with indexes whose definitions are known before its records are loaded.
struct Rig {
    namespaces: Vec<Arc<Namespace>>,
    indexes: SecondaryIndexes,
    loaded: Arc<LoadedIndexes>,
    items: [SmdItem; 3],
}

impl Rig {
    fn new(memory_limit_pct: u32) -> Self {
        let (_, namespace) =
            Namespace::for_tests("namespace test {\n storage-engine memory {\n data-size 512M\n }\n}\n");
        namespace.config().params.stop_writes_sys_memory_pct.set(memory_limit_pct);
        let indexes = SecondaryIndexes::new(1);
        let items = [item("test|s|n|.|I", "number"), item("test||l|L|I", "list"), item("other||l|L|I", "no")];
        let loaded = indexes.to_load(0, "test", &items);
        loaded.begin(namespace.config(), &namespace.sets);
        Rig { namespaces: vec![namespace], indexes, loaded, items }
    }

    fn namespace(&self) -> &Namespace {
        &self.namespaces[0]
    }

    fn set_id(&self) -> SetId {
        self.namespace().sets.find(b"s").expect("made with its index").id
    }

    /// Makes the indexes, as a start does.
    fn start(&self) -> [Arc<SecondaryIndex>; 2] {
        for item in &self.items {
            self.indexes.apply(&self.namespaces, &item.key, item.value.as_deref(), true);
        }
        populate_all(&self.namespaces, &self.indexes);
        ["number", "list"].map(|name| self.indexes.of(self.namespace()).named(name).expect("it is there"))
    }
}

/// The newest copies.
fn newest(copies: &[FoundCopy]) -> BTreeMap<u64, &FoundCopy> {
    let mut newest: BTreeMap<u64, &FoundCopy> = BTreeMap::new();
    for copy in copies {
        let known = newest.entry(copy.key).or_insert(copy);
        if copy.age > known.age {
            *known = copy;
        }
    }
    newest
}

/// The entries that an index of these records has.
fn expected<'a>(index: &SecondaryIndex, records: impl Iterator<Item = &'a FoundCopy>) -> Vec<(i64, Digest)> {
    let mut expected = Vec::new();
    for copy in records {
        let value = copy.bins.as_ref().and_then(|bins| bins.get(&index.definition.value.bin).cloned());
        let keys = value.map(|value| {
            index.definition.value.keys(&value, &datamodel::Budget::unlimited()).expect("no end")
        });
        let digest = digest_of(copy.key);
        expected.extend(keys.iter().flatten().map(|key| (key.bval(KeyType::Numeric), digest)));
    }
    expected.sort_unstable();
    expected
}

#[test]
fn indexes_match_the_newest_copies_in_whatever_order_they_are_found() {
    for seed in 1..=25 {
        let rig = Rig::new(0);
        let (namespace, set_id) = (rig.namespace(), rig.set_id());
        let copies = copies(&mut Random(seed));
        cf::sync::scope(|scope| {
            let (one, other) = copies.split_at(copies.len() / 2);
            for part in [one.to_vec(), other.to_vec()] {
                let loaded = &rig.loaded;
                scope.spawn(move || part.iter().for_each(|copy| load(loaded, namespace, set_id, copy)));
            }
        });
        rig.loaded.finish(&namespace.index);
        let newest = newest(&copies);
        // Records that the start removes: from the index, or with a tombstone in their place.
        namespace.loaded_count.store(namespace.object_count(), Relaxed);
        let gone = if seed % 2 == 0 { 10 } else { 0 };
        for key in 0..gone {
            let mut guard = namespace.index.get_exclusive(&digest_of(key)).expect("it is there");
            if key == 3 {
                guard.meta_mut().set_in_sindex(false);
            } else {
                guard.remove();
            }
        }
        // They are in no storage, so none can be read after the load.
        let unread: HashSet<_> = rig.loaded.take_unread().into_iter().map(|(digest, _)| digest).collect();
        let is_unread = |copy: &&FoundCopy| unread.contains(&digest_of(copy.key));
        assert!(newest.values().copied().filter(|copy| copy.bins.is_none()).all(|copy| is_unread(&copy)));
        let indexes = rig.start();
        for index in &indexes {
            assert!(index.is_readable());
            let there = newest.values().copied().filter(|copy| copy.key >= gone);
            assert_eq!(entries(namespace, index), expected(index, there), "seed {seed}");
        }
        let used_bytes: u64 = indexes.iter().map(|index| index.used_bytes()).sum();
        assert_eq!(used_bytes, namespace.sindex_used_bytes.load(Relaxed), "seed {seed}");
        for (key, copy) in newest.into_iter().filter(|(key, _)| *key >= gone) {
            let guard = namespace.index.get(&digest_of(key)).expect("it is there");
            let has_value = copy
                .bins
                .as_ref()
                .is_some_and(|bins| [&b"n"[..], b"l"].iter().any(|name| bins.get(name).is_some()));
            assert_eq!(guard.is_in_sindex(), has_value, "seed {seed}");
        }
    }
}

#[test]
fn indexes_are_given_up_if_the_memory_is_short() {
    let rig = Rig::new(1);
    let copies = copies(&mut Random(1));
    copies.iter().for_each(|copy| load(&rig.loaded, rig.namespace(), rig.set_id(), copy));
    rig.loaded.finish(&rig.namespace().index);
    for index in rig.start() {
        assert!(index.has_failed() && !index.is_readable() && index.entry_count() == 0);
    }
}

/// A record that only the load could not read is in the indexes when the start ends.
#[test]
fn records_that_the_load_cannot_read_are_read_after_it() {
    let rig = Rig::new(0);
    let namespace = rig.namespace();
    for key in 0..3u64 {
        let digest = digest_of(key);
        let (guard, _) = namespace.index.get_or_create(&digest).expect("room");
        let mut meta = RecordMeta::new(rig.set_id());
        meta.generation = 1;
        meta.set_last_update_time(1);
        let mut bins = Bins::new();
        bins.set(b"n", Particle::Integer(key as i64));
        namespace.write_for_tests(guard, meta, (b"s", &bins)).expect("room");
        // As if the load had found it just now, and could read the first record only.
        let mut guard = namespace.index.get_exclusive(&digest).expect("it is there");
        let mut after = **guard;
        let mut scratch = crate::storage::ReadBuffer::new();
        let bytes = namespace.storage.record_bytes(&guard, &mut scratch).expect("a record").to_vec();
        let copy = (key == 0).then(|| FlatRecord::parse(&bytes).expect("a record"));
        let filling = rig.loaded.filling.get().expect("it has begun");
        let unpacker = &mut Unpacker::default();
        filling.note(LoadedCopy { guard: &guard, after: &mut after, copy: copy.as_ref(), unpacker });
        *guard.meta_mut() = after;
    }
    rig.loaded.finish(&namespace.index);
    let [number, _] = rig.start();
    let values: Vec<i64> = entries(namespace, &number).iter().map(|(value, _)| *value).collect();
    assert_eq!((values, number.unread_records.load(Relaxed)), (vec![0, 1, 2], 0));
    let is_indexed = |key| namespace.index.get(&digest_of(key)).expect("it is there").is_in_sindex();
    assert!((0..3).all(is_indexed));
}

#[test]
fn indexes_that_the_load_does_not_fill_are_filled_after_it() {
    // Nothing was loaded (as from memory without a file), and then a panic ended the filling.
    for panics in [false, true] {
        let rig = Rig::new(0);
        if panics {
            rig.loaded.filling.get().expect("it has begun").end(state::FAILED);
        }
        let indexes = rig.start();
        assert!(indexes.iter().all(|index| index.is_readable() && index.entry_count() == 0));
    }
}
