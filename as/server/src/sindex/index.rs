//! One secondary index: its trees, one for each partition, its state and figures.
//!
//! `index/entry_tree.rs` explains how entries depend on the locks of records.
//!
//! # Locking
//! Each tree has a lock, taken under the lock of a sprig or alone, one at a time. A tree is closed when the index is
//! dropped, before commits stop updating the index; it is empty from then on.
//!
//! A change of very many entries of a record lets other writers of the partition in between its slices. A collector
//! of entries must not see the record halfway through the change, because it could miss the record or find it twice.
//! So the change first takes a second lock of the tree, which collectors share. Other changes do not need that lock.
//! Service threads never make a change in slices, because their budget does not suffice for so many entries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};
use std::time::Instant;

use cf::Digest;
use datamodel::sindex::{Key, Keys};
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};

use super::definition::Definition;
use crate::index::{
    ElementHandle, EntryTree, IndexEntry, LiveElements, PARTITION_COUNT, PartitionId, RangeStart, SetId, Stub,
};
use crate::namespace::Namespace;

/// A change of more entries than this is made in slices. A service thread may not change so many.
const ENTRIES_AT_ONCE_MAX: usize = 1000;
/// Entries of a slice: about 50 µs.
const SLICE_SIZE: usize = 250;

/// The entries of one partition.
struct PartitionTree {
    /// Held exclusively by a change in slices, and shared by collectors. Taken before `entries`.
    slices: RwLock<()>,
    /// `None`: closed.
    entries: RwLock<Option<EntryTree<Key, ElementHandle>>>,
    /// Counts removals of entries. Changed under the lock of `entries`.
    removals: AtomicU64,
}

impl PartitionTree {
    fn new() -> Self {
        PartitionTree {
            slices: RwLock::new(()),
            entries: RwLock::new(Some(EntryTree::new())),
            removals: AtomicU64::new(0),
        }
    }
}

/// A tree that a change of a record has locked.
struct ChangingTree<'a> {
    index: &'a SecondaryIndex,
    namespace: &'a Namespace,
    entries: RwLockWriteGuard<'a, Option<EntryTree<Key, ElementHandle>>>,
    /// How many entries and bytes there are more, as far as that is not counted yet.
    uncounted: (i64, isize),
    /// Entries that may still be changed before others get their turn.
    left: usize,
    /// Held if the change is made in slices.
    slices: Option<RwLockWriteGuard<'a, ()>>,
}

impl<'a> ChangingTree<'a> {
    /// Locks the tree of `partition`, which is one of `index`, for the change of `entry_count` entries.
    fn lock(
        index: &'a SecondaryIndex,
        namespace: &'a Namespace,
        partition: &'a PartitionTree,
        entry_count: usize,
    ) -> Self {
        let slices = (entry_count > ENTRIES_AT_ONCE_MAX).then(|| partition.slices.write());
        let entries = partition.entries.write();
        ChangingTree { index, namespace, entries, uncounted: (0, 0), left: SLICE_SIZE, slices }
    }

    /// The tree, for one more entry; `None` if it is closed. If the slice is over, other writers get their turn first.
    #[inline]
    fn next(&mut self) -> Option<&mut EntryTree<Key, ElementHandle>> {
        if self.slices.is_some() {
            if self.left == 0 {
                self.left = SLICE_SIZE;
                // The index may be dropped now, which subtracts what the tree has.
                self.count();
                RwLockWriteGuard::bump(&mut self.entries);
            }
            self.left -= 1;
        }
        self.entries.as_mut()
    }

    /// Notes by how many entries and bytes the tree grew.
    #[inline]
    fn note(&mut self, entries: i64, memory: isize) {
        self.uncounted = (self.uncounted.0 + entries, self.uncounted.1 + memory);
    }

    fn count(&mut self) {
        let (entries, memory) = std::mem::take(&mut self.uncounted);
        self.index.count(self.namespace, entries, memory);
    }
}

impl Drop for ChangingTree<'_> {
    fn drop(&mut self) {
        self.count();
    }
}

/// The change of a record's keys.
#[derive(Default)]
pub(super) struct KeyChange {
    pub(super) removed: Keys,
    pub(super) added: Keys,
    /// All keys of the record after the change.
    pub(super) all: Keys,
}

pub(crate) struct SecondaryIndex {
    pub(crate) definition: Definition,
    /// The set that it covers; [`SetId::NONE`] = the whole namespace.
    pub(crate) set_id: SetId,
    name: Mutex<Arc<str>>,
    trees: Box<[PartitionTree]>,
    entries: AtomicU64,
    used_bytes: AtomicU64,
    /// Whether it contains all records that existed before it.
    is_readable: AtomicBool,
    is_dropped: AtomicBool,
    /// Filling ended because memory was short; it is not tried again.
    has_failed: AtomicBool,
    pub(crate) load_pct: AtomicU32,
    pub(crate) load_time_ms: AtomicU64,
    pub(crate) entries_per_bval: AtomicU64,
    pub(crate) entries_per_rec: AtomicU64,
    /// When the two averages were estimated, and of how many entries.
    pub(super) estimated: Mutex<Option<(Instant, u64)>>,
    /// Number of entries of damaged records that were swept.
    pub(crate) gc_cleaned: AtomicU64,
    /// Number of records that it may lack, because they could not be read when it was filled, see `unread.rs`.
    pub(crate) unread_records: AtomicU64,
}

impl SecondaryIndex {
    pub(super) fn new(definition: Definition, set_id: SetId, name: &str) -> Self {
        SecondaryIndex {
            definition,
            set_id,
            name: Mutex::new(name.into()),
            trees: (0..PARTITION_COUNT).map(|_| PartitionTree::new()).collect(),
            entries: AtomicU64::new(0),
            used_bytes: AtomicU64::new(0),
            is_readable: AtomicBool::new(false),
            is_dropped: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            load_pct: AtomicU32::new(0),
            load_time_ms: AtomicU64::new(0),
            entries_per_bval: AtomicU64::new(0),
            entries_per_rec: AtomicU64::new(0),
            estimated: Mutex::default(),
            gc_cleaned: AtomicU64::new(0),
            unread_records: AtomicU64::new(0),
        }
    }

    pub(crate) fn name(&self) -> Arc<str> {
        Arc::clone(&self.name.lock())
    }

    pub(super) fn rename(&self, name: &str) {
        *self.name.lock() = name.into();
    }

    /// Whether it covers records of `set_id`.
    #[inline]
    pub(crate) fn is_for(&self, set_id: SetId) -> bool {
        self.set_id == SetId::NONE || self.set_id == set_id
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.is_readable.load(Acquire)
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.is_dropped.load(Acquire)
    }

    /// Whether filling it was abandoned.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed.load(Relaxed)
    }

    /// Marks it as failed until it is dropped. Removes its entries and takes no others, because memory is short.
    pub(super) fn set_failed(&self, namespace: &Namespace) {
        self.has_failed.store(true, Relaxed);
        self.empty(namespace);
    }

    /// Lets queries read it.
    pub(super) fn set_readable(&self) {
        self.load_pct.store(100, Relaxed);
        self.is_readable.store(true, Release);
    }

    pub(crate) fn entry_count(&self) -> u64 {
        self.entries.load(Relaxed)
    }

    /// Bytes of memory.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Relaxed) + (PARTITION_COUNT * size_of::<PartitionTree>()) as u64
    }

    fn tree_of(&self, digest: &Digest) -> &PartitionTree {
        &self.trees[PartitionId::of(digest).index()]
    }

    /// Changes the keys of the record of `digest` at `handle`. The caller holds its sprig's lock exclusively. If the
    /// entry of a removed key is missing, all entries of the record are removed, and then those of its present keys
    /// are added.
    pub(super) fn change(
        &self,
        namespace: &Namespace,
        handle: ElementHandle,
        digest: &Digest,
        change: &KeyChange,
    ) {
        if change.removed.is_empty() && change.added.is_empty() {
            return;
        }
        let partition = self.tree_of(digest);
        let entry_count = change.removed.len() + change.added.len();
        let mut changing = ChangingTree::lock(self, namespace, partition, entry_count);
        if !change.removed.is_empty() {
            partition.removals.fetch_add(1, Relaxed);
        }
        let records = LiveElements(&namespace.index);
        let mut is_exact = true;
        for key in &change.removed {
            let Some(tree) = changing.next() else { break };
            let (was_there, grown) = tree.remove(*key, digest, &records);
            changing.note(-i64::from(was_there), grown);
            is_exact &= was_there;
        }
        // An index that is being filled lacks entries.
        let is_wrong = !is_exact && self.is_readable();
        if is_wrong && let Some(tree) = changing.next() {
            cf::warning_limited!(
                Sindex,
                "{{{}}} index {} had other values of a record than are stored: the record is damaged",
                namespace.name(),
                self.name()
            );
            let (removed, grown) = tree.remove_all_of(handle);
            changing.note(-(removed as i64), grown);
        }
        for key in if is_wrong { &change.all } else { &change.added } {
            let Some(tree) = changing.next() else { break };
            let (is_new, grown) = tree.insert(*key, digest, handle, &records);
            changing.note(i64::from(is_new), grown);
        }
    }

    /// The handles of the entries of `partition`, each with the kept bits of its record's digest.
    pub(super) fn handles(&self, partition: PartitionId) -> Vec<(ElementHandle, Stub)> {
        let tree = self.trees[partition.index()].entries.read();
        tree.as_ref().map_or_else(Vec::new, |tree| tree.handles().collect())
    }

    /// Removes the entries of `partition` for which `is_stale` returns true; no entry can be added while it is
    /// called. Returns the number of removed entries.
    pub(super) fn remove_stale(
        &self,
        namespace: &Namespace,
        partition: PartitionId,
        is_stale: &dyn Fn(ElementHandle, Stub) -> bool,
    ) -> u64 {
        let partition = &self.trees[partition.index()];
        let mut tree = partition.entries.write();
        let Some(tree) = &mut *tree else { return 0 };
        partition.removals.fetch_add(1, Relaxed);
        let (count, grown) = tree.remove_where(is_stale);
        self.count(namespace, -(count as i64), grown);
        count as u64
    }

    /// Removes all entries of a record, whatever its keys. The caller holds its sprig's lock exclusively.
    pub(super) fn remove_all_of(&self, namespace: &Namespace, handle: ElementHandle, digest: &Digest) {
        let partition = self.tree_of(digest);
        let mut tree = partition.entries.write();
        let Some(tree) = &mut *tree else { return };
        partition.removals.fetch_add(1, Relaxed);
        let (count, grown) = tree.remove_all_of(handle);
        self.count(namespace, -(count as i64), grown);
    }

    /// Takes all entries of `partition` from a load. Called before the index belongs to a namespace, when it has none
    /// of the partition.
    pub(super) fn adopt(&self, partition: PartitionId, tree: EntryTree<Key, ElementHandle>) {
        self.entries.fetch_add(tree.len() as u64, Relaxed);
        self.used_bytes.fetch_add(tree.memory() as u64, Relaxed);
        *self.trees[partition.index()].entries.write() = Some(tree);
    }

    /// Adds `entries` of records of `partition`, which are in order and different. They were gathered, each under its
    /// record's lock, since the number of removals was `removals`, and commits know that these records have entries.
    /// Returns false, with none or some of them added, if an entry was removed since then: the remaining entries may be of
    /// keys that their records no longer have.
    pub(super) fn add_gathered(
        &self,
        namespace: &Namespace,
        (partition, removals): (PartitionId, u64),
        entries: &[IndexEntry<Key>],
    ) -> bool {
        let records = LiveElements(&namespace.index);
        let PartitionTree { entries: lock, removals: present_removals, .. } = &self.trees[partition.index()];
        let is_small = |tree: &EntryTree<Key, ElementHandle>| tree.len() <= SLICE_SIZE;
        if lock.read().as_ref().is_some_and(is_small) {
            let mut built = EntryTree::of_sorted(entries);
            let mut tree = lock.write();
            if present_removals.load(Relaxed) != removals {
                return false;
            }
            if let Some(tree) = tree.as_mut().filter(|tree| is_small(tree)) {
                built.insert_all_of(tree, &records);
                std::mem::swap(tree, &mut built);
                let new_count = tree.len() as i64 - built.len() as i64;
                self.count(namespace, new_count, tree.memory() as isize - built.memory() as isize);
                return true;
            }
        }
        let mut tree = lock.write();
        for (at, slice) in entries.chunks(SLICE_SIZE).enumerate() {
            if at > 0 {
                RwLockWriteGuard::bump(&mut tree);
            }
            if present_removals.load(Relaxed) != removals {
                return false;
            }
            let Some(tree) = &mut *tree else { break };
            let (mut count, mut memory) = (0i64, 0isize);
            for entry in slice {
                let (is_new, grown) = tree.insert(entry.key, &entry.digest, entry.handle, &records);
                (count, memory) = (count + i64::from(is_new), memory + grown);
            }
            self.count(namespace, count, memory);
        }
        true
    }

    /// Adds to the numbers of entries and bytes. The caller holds the lock of the tree.
    fn count(&self, namespace: &Namespace, entries: i64, memory: isize) {
        // Wrapping: the differences may be negative.
        let memory = (memory as i64).cast_unsigned();
        if entries != 0 {
            self.entries.fetch_add(entries.cast_unsigned(), Relaxed);
        }
        if memory != 0 {
            self.used_bytes.fetch_add(memory, Relaxed);
            namespace.sindex_used_bytes.fetch_add(memory, Relaxed);
        }
    }

    /// Number of removals of entries from `partition` so far. If it is unchanged since before entries were collected,
    /// each collected record still has its key, as seen under its sprig's lock, whatever its last-update-time.
    #[inline]
    pub(crate) fn removals(&self, partition: PartitionId) -> u64 {
        // The locks of tree and sprig order this load: a collector has read the count before the entry is removed, and
        // a thread that locks the record after the removal finds the count changed.
        self.trees[partition.index()].removals.load(Relaxed)
    }

    /// First of two hints that entries of `partition` will be collected soon. Waits for no lock.
    pub(crate) fn prefetch_directory(&self, partition: PartitionId) {
        if let Some(Some(tree)) = self.trees[partition.index()].entries.try_read().as_deref() {
            tree.prefetch_directory();
        }
    }

    /// Second hint, once the directory is loaded: the entries are those from `key` on.
    pub(crate) fn prefetch_leaf(&self, partition: PartitionId, key: Key) {
        if let Some(Some(tree)) = self.trees[partition.index()].entries.try_read().as_deref() {
            tree.prefetch_leaf(key);
        }
    }

    /// Adds the entries of `partition` in `ranges`, at most `max` of them, to `out`, range by range in order. A range
    /// goes from its start to its highest key. All entries are collected at one moment. Returns whether there may be
    /// more.
    pub(crate) fn collect(
        &self,
        namespace: &Namespace,
        partition: PartitionId,
        ranges: impl Iterator<Item = (RangeStart<Key>, Key)>,
        max: usize,
        out: &mut Vec<IndexEntry<Key>>,
    ) -> bool {
        let partition_tree = &self.trees[partition.index()];
        let _whole_records = partition_tree.slices.read();
        let tree = partition_tree.entries.read();
        let Some(tree) = &*tree else { return false };
        let records = LiveElements(&namespace.index);
        let (begin, end) = (out.len(), out.len() + max);
        let has_more =
            ranges.into_iter().any(|(start, high)| tree.collect(start, high, end - out.len(), &records, out));
        // A stale entry may lead to a record of another partition, see `sweep.rs`.
        let is_here = |found: &IndexEntry<Key>| PartitionId::of(&found.digest) == partition;
        if !out[begin..].iter().all(is_here) {
            out.retain(is_here);
        }
        has_more
    }

    /// Removes all entries for good.
    pub(super) fn close(&self, namespace: &Namespace) {
        self.is_dropped.store(true, Release);
        self.empty(namespace);
    }

    /// Removes all entries; no others are taken.
    fn empty(&self, namespace: &Namespace) {
        for tree in &self.trees {
            let closed = tree.entries.write().take();
            if let Some(closed) = closed {
                self.count(namespace, -(closed.len() as i64), -(closed.memory() as isize));
            }
        }
    }

    /// Calls `visit` with a hash of the key and one of the record of each entry, partition by partition, each under
    /// the lock of its tree, shared. Returns false if it ended early because of `is_stopping`.
    pub(super) fn for_each_hash(&self, is_stopping: &AtomicBool, mut visit: impl FnMut(u64, u64)) -> bool {
        for tree in &self.trees {
            if is_stopping.load(Acquire) {
                return false;
            }
            if let Some(tree) = &*tree.entries.read() {
                tree.for_each(|key, handle| visit(hash_of(&key), hash_of(&handle)));
            }
        }
        true
    }
}

fn hash_of(value: &impl std::hash::Hash) -> u64 {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
    BuildHasherDefault::<DefaultHasher>::default().hash_one(value)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use datamodel::sindex::KeyType;

    use super::*;

    const NAMESPACE: &str = "namespace test {\n storage-engine memory {\n data-size 512M\n }\n}\n";
    /// Entries of the record with many: some milliseconds.
    const MANY: i64 = 40_000;
    /// Changes by another writer in one of that record, to be sure that they came in between.
    const BETWEEN: usize = 5;

    fn keys(values: std::ops::Range<i64>) -> Keys {
        values.map(|value| Key::from_bval(value, KeyType::Numeric)).collect()
    }

    /// An index, and two records of the same partition, with their handles.
    fn two_records() -> (Arc<Namespace>, SecondaryIndex, [(ElementHandle, Digest); 2]) {
        let (_, namespace) = Namespace::for_tests(NAMESPACE);
        let definition = Definition::from_smd_key("test||l|L|I").expect("a definition");
        let index = SecondaryIndex::new(definition, SetId::NONE, "index");
        index.set_readable();
        let records = [1u8, 2].map(|number| {
            let mut digest = Digest([7; 20]);
            digest.0[10] = number;
            let (mut guard, _) = namespace.index.get_or_create(&digest).expect("room");
            guard.meta_mut().generation = 1;
            (guard.handle(), digest)
        });
        (namespace, index, records)
    }

    fn change(removed: Keys, added: Keys) -> KeyChange {
        KeyChange { removed, all: added.clone(), added }
    }

    /// The number of entries of each record.
    fn counts(
        namespace: &Namespace,
        index: &SecondaryIndex,
        records: &[(ElementHandle, Digest); 2],
    ) -> [usize; 2] {
        let [low, high] = [i64::MIN, i64::MAX].map(|value| Key::from_bval(value, KeyType::Numeric));
        let (mut found, partition) = (Vec::new(), PartitionId::of(&records[0].1));
        let all = std::iter::once((RangeStart::From(low), high));
        assert!(!index.collect(namespace, partition, all, usize::MAX >> 1, &mut found));
        records.map(|(handle, _)| found.iter().filter(|entry| entry.handle == handle).count())
    }

    #[test]
    fn other_writers_come_in_between_the_slices_of_a_change() {
        let (namespace, index, records) = two_records();
        let [(many, many_digest), (few, few_digest)] = records;
        let partition = index.tree_of(&many_digest);
        index.change(&namespace, few, &few_digest, &change(keys(0..0), keys(0..1)));
        let is_over = AtomicBool::new(false);
        cf::sync::scope(|scope| {
            scope.spawn(|| {
                let mut values = 0..0;
                while !is_over.load(Acquire) {
                    let next = if values.start == 0 { MANY..2 * MANY } else { 0..MANY };
                    let change = change(keys(values), keys(next.clone()));
                    index.change(&namespace, many, &many_digest, &change);
                    values = next;
                }
            });
            let (mut between, mut value) = (0, 0);
            let started = Instant::now();
            while between < BETWEEN {
                assert!(started.elapsed().as_secs() < 60, "a change keeps all others out");
                // All of this happens while the other change goes on, if that is so before and after it.
                let is_going_on = partition.slices.try_read().is_none();
                index.change(
                    &namespace,
                    few,
                    &few_digest,
                    &change(keys(value..value + 1), keys(value + 1..value + 2)),
                );
                value += 1;
                between = if is_going_on && partition.slices.try_read().is_none() { between + 1 } else { 0 };
            }
            is_over.store(true, Release);
        });
        assert_eq!(counts(&namespace, &index, &records), [MANY as usize, 1]);
        assert_eq!(index.entry_count(), MANY as u64 + 1);
    }

    #[test]
    fn no_reader_sees_a_record_in_the_middle_of_its_change() {
        let (namespace, index, records) = two_records();
        let (handle, digest) = records[0];
        let count = 5 * ENTRIES_AT_ONCE_MAX as i64;
        index.change(&namespace, handle, &digest, &change(keys(0..0), keys(0..count)));
        let is_over = AtomicBool::new(false);
        cf::sync::scope(|scope| {
            scope.spawn(|| {
                let mut values = 0..count;
                while !is_over.load(Acquire) {
                    let next = if values.start == 0 { count..2 * count } else { 0..count };
                    index.change(&namespace, handle, &digest, &change(keys(values), keys(next.clone())));
                    values = next;
                }
            });
            for _ in 0..200 {
                assert_eq!(counts(&namespace, &index, &records), [count as usize, 0]);
            }
            is_over.store(true, Release);
        });
    }

    #[test]
    fn gathered_entries_join_those_of_commits() {
        for (of_commits, of_both, gathered) in [(0, 0, 300), (3, 2, 1), (200, 50, 3_000), (2_000, 700, 1_900)]
        {
            let (namespace, index, records) = two_records();
            let [(first, digest), (second, second_digest)] = records;
            let partition = PartitionId::of(&digest);
            index.change(&namespace, second, &second_digest, &change(keys(0..0), keys(0..of_commits)));
            index.change(&namespace, first, &digest, &change(keys(0..0), keys(0..of_both)));
            let entry = |key| IndexEntry { key, digest, handle: first };
            let entries: Vec<_> = keys(0..gathered).into_iter().map(entry).collect();
            let removals = index.removals(partition);
            assert!(index.add_gathered(&namespace, (partition, removals), &entries));
            let expected = [gathered.max(of_both), of_commits];
            assert_eq!(counts(&namespace, &index, &records), expected.map(|count| count as usize));
            assert_eq!(index.entry_count(), expected.iter().sum::<i64>() as u64);
            let memory = index.trees[partition.index()].entries.read().as_ref().map_or(0, EntryTree::memory);
            assert_eq!(namespace.sindex_used_bytes.load(Relaxed), memory as u64);
            // A commit takes a key away from which nobody knows whether it was gathered.
            index.change(&namespace, second, &second_digest, &change(keys(0..1), keys(0..0)));
            assert!(!index.add_gathered(&namespace, (partition, removals), &entries));
            index.close(&namespace);
            assert!(index.add_gathered(&namespace, (partition, index.removals(partition)), &entries));
            assert_eq!((index.entry_count(), namespace.sindex_used_bytes.load(Relaxed)), (0, 0));
        }
    }

    #[test]
    fn an_index_that_is_dropped_between_two_slices_is_counted_right() {
        for _ in 0..20 {
            let (namespace, index, [(handle, digest), _]) = two_records();
            cf::sync::scope(|scope| {
                scope.spawn(|| index.change(&namespace, handle, &digest, &change(keys(0..0), keys(0..MANY))));
                std::thread::yield_now();
                index.close(&namespace);
            });
            assert_eq!((index.entry_count(), namespace.sindex_used_bytes.load(Relaxed)), (0, 0));
        }
    }
}
