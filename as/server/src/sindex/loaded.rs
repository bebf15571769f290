//! Fills indexes while a start loads the records of a namespace. Each record is in memory then, so no record has to
//! be read again.
//!
//! A load finds the copies of a record in any order. The entries of a record's first copy are collected, unsorted;
//! most records have no other copy. A newer copy marks the record as replaced: its collected entries no longer count,
//! and the entries of this copy and of further ones are collected together with the location of their copy. When all
//! copies are found, entries of copies that are not the newest are left out, and the trees are built.
//!
//! The start removes some records after the load, for instance expired ones. It does not read them for that. Their
//! entries are found by their elements, when the index is one of the namespace.
//!
//! # Failures
//! When the memory of the system is short, all indexes of the namespace are given up. After a panic they are filled
//! like other indexes, see `populate.rs`. Records whose newest copy could not be read are read again after the load,
//! repeatedly if necessary, see `unread.rs`.
//!
//! # Locks
//! `parts` have a lock each, taken under the lock of a sprig, or alone.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, Ordering::*};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use cf::Digest;
use datamodel::flat::FlatRecord;
use datamodel::packing::Unpacker;
use datamodel::sindex::{Key, Keys};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::definition::Definition;
use super::index::SecondaryIndex;
use super::memory_watch::MemoryWatch;
use super::observer::keys_of_record;
use crate::config::NamespaceConfig;
use crate::index::{
    ElementHandle, EntryTree, Index, LiveElements, Location, LooseEntries, PARTITION_COUNT, PartitionId,
    ReadGuard, SetId, Stub,
};
use crate::namespace::{LoadObserver, LoadedCopy, Namespace, Sets, spread};
use crate::smd::SmdItem;

/// How an index came out of the load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LoadOutcome {
    Filled,
    OutOfMemory,
    /// The index was not among those of the load, nothing was loaded, or there was a panic.
    NotFilled,
}

/// Values of `Filling::state`.
mod state {
    pub(super) const GOES_ON: u8 = 0;
    pub(super) const DONE: u8 = 1;
    pub(super) const OUT_OF_MEMORY: u8 = 2;
    pub(super) const FAILED: u8 = 3;
}

/// The indexes of one namespace, filled by its load.
pub(crate) struct LoadedIndexes {
    /// The definitions, with the names of the indexes.
    definitions: Vec<(Definition, String)>,
    /// Present if there is anything to load, and any index.
    filling: OnceLock<Filling>,
    started: Instant,
}

struct Filling {
    indexes: Vec<Arc<SecondaryIndex>>,
    /// By partition.
    parts: Box<[Mutex<Part>]>,
    state: AtomicU8,
    memory: MemoryWatch,
    /// Records of which a copy could not be read, even if a newer copy was found later. Taken alone, when trees are
    /// built.
    unread: Mutex<Vec<(Digest, SetId)>>,
}

/// The results of the load for one partition.
struct Part {
    /// By index, of records with one copy so far.
    entries: Vec<LooseEntries<Key, ElementHandle>>,
    /// Records of which a further copy was found after one that has entries.
    replaced: HashSet<ElementHandle>,
    /// Entries of their further copies.
    later: Vec<LaterEntry>,
    /// As in [`Filling`].
    unread: Vec<(Digest, SetId)>,
}

struct LaterEntry {
    /// Position of the index.
    index: usize,
    key: Key,
    handle: ElementHandle,
    /// The place of the copy.
    location: Location,
}

impl Part {
    fn new(index_count: usize) -> Self {
        let entries = (0..index_count).map(|_| LooseEntries::new()).collect();
        Part { entries, replaced: HashSet::new(), later: Vec::new(), unread: Vec::new() }
    }
}

impl LoadedIndexes {
    /// The indexes that `items` of the system metadata define for `namespace`, at most `count_max`.
    pub(super) fn new(namespace: &str, items: &[SmdItem], count_max: usize) -> Self {
        let defined = items.iter().filter_map(|item| {
            // Invalid definitions are reported when the indexes are made.
            let name = item.value.clone()?;
            let definition = Definition::from_smd_item(&item.key, Some(&name)).ok()?;
            (definition.namespace == namespace).then_some((definition, name))
        });
        let definitions = defined.take(count_max).collect();
        LoadedIndexes { definitions, filling: OnceLock::new(), started: Instant::now() }
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// The index of `set_id` for `definition`, to become one of the namespace as `name`, if the load has filled it.
    pub(super) fn claim(
        &self,
        set_id: SetId,
        definition: &Definition,
        name: &str,
    ) -> Option<Arc<SecondaryIndex>> {
        let filling = self.filling.get().filter(|filling| filling.state.load(Acquire) == state::DONE)?;
        let is_it = |index: &&Arc<SecondaryIndex>| index.set_id == set_id && index.definition == *definition;
        let index = filling.indexes.iter().find(is_it)?;
        index.rename(name);
        Some(Arc::clone(index))
    }

    /// How `index`, one of the namespace now, came out of the load.
    pub(super) fn outcome_of(&self, index: &Arc<SecondaryIndex>) -> LoadOutcome {
        let Some(filling) = self.filling.get() else { return LoadOutcome::NotFilled };
        match filling.state.load(Acquire) {
            state::DONE if filling.indexes.iter().any(|own| Arc::ptr_eq(own, index)) => LoadOutcome::Filled,
            state::OUT_OF_MEMORY => LoadOutcome::OutOfMemory,
            _ => LoadOutcome::NotFilled,
        }
    }

    /// The records that the filled indexes may lack, once.
    pub(super) fn take_unread(&self) -> Vec<(Digest, SetId)> {
        self.filling.get().map_or_else(Vec::new, |filling| std::mem::take(&mut filling.unread.lock()))
    }
}

impl LoadObserver for LoadedIndexes {
    fn begin(&self, config: &NamespaceConfig, sets: &Sets) {
        let make = |(definition, name): &(Definition, String)| {
            let set_id = match definition.set.as_str() {
                "" => SetId::NONE,
                set => sets.find_or_create(set.as_bytes(), &config.sets).ok()?.id,
            };
            Some(Arc::new(SecondaryIndex::new(definition.clone(), set_id, name)))
        };
        let indexes: Vec<_> = self.definitions.iter().filter_map(make).collect();
        if indexes.is_empty() {
            return;
        }
        let parts = (0..PARTITION_COUNT).map(|_| Mutex::new(Part::new(indexes.len()))).collect();
        let memory = MemoryWatch::new(config.params.stop_writes_sys_memory_pct.get());
        let (state, unread) = (AtomicU8::new(state::GOES_ON), Mutex::default());
        // A load begins once.
        let _ = self.filling.set(Filling { indexes, parts, state, memory, unread });
    }

    fn note(&self, loaded: LoadedCopy<'_>) {
        let Some(filling) = self.filling.get() else { return };
        let is_known = loaded.guard.exists() && loaded.guard.location == loaded.after.location;
        if is_known || filling.state.load(Relaxed) != state::GOES_ON {
            return;
        }
        let note = AssertUnwindSafe(|| filling.note(loaded));
        if catch_unwind(note).is_err() {
            cf::critical!(Sindex, "filling indexes in a load failed on an internal error");
            filling.end(state::FAILED);
        }
    }

    fn finish(&self, index: &Index) {
        let Some(filling) = self.filling.get() else { return };
        if filling.state.load(Acquire) != state::GOES_ON {
            return;
        }
        filling.build(index);
    }
}

impl Filling {
    fn note(&self, LoadedCopy { guard, after, copy, unpacker }: LoadedCopy<'_>) {
        let is_wanted = !after.is_tombstone() && self.indexes.iter().any(|index| index.is_for(after.set_id));
        let keys = match copy {
            _ if !is_wanted => Some(SmallVec::new()),
            None => None,
            Some(copy) => self.keys_of(copy, after.set_id, unpacker),
        };
        let is_unread = keys.is_none();
        let keys = keys.unwrap_or_default();
        let has_entries = keys.iter().any(|keys| !keys.is_empty());
        after.set_in_sindex(has_entries);
        let (handle, digest, is_further) = (guard.handle(), guard.digest(), guard.exists());
        let had_entries = is_further && guard.is_in_sindex();
        if !(has_entries || had_entries || is_unread) {
            return;
        }
        let mut locked = self.parts[PartitionId::of(digest).index()].lock();
        let part = &mut *locked;
        if is_unread {
            part.unread.push((*digest, after.set_id));
        }
        if had_entries {
            part.replaced.insert(handle);
        }
        let is_replaced = is_further && part.replaced.contains(&handle);
        let mut has_grown = false;
        for (index, keys) in keys.iter().enumerate() {
            for key in keys {
                if is_replaced {
                    part.later.push(LaterEntry { index, key: *key, handle, location: after.location });
                } else {
                    has_grown |= part.entries[index].push(*key, digest, handle);
                }
            }
        }
        drop(locked);
        if (has_grown || is_replaced) && self.memory.is_short() {
            self.end(state::OUT_OF_MEMORY);
        }
    }

    /// The keys of a copy in each index; `None` if it is damaged.
    fn keys_of(
        &self,
        copy: &FlatRecord<'_>,
        set_id: SetId,
        unpacker: &mut Unpacker,
    ) -> Option<SmallVec<[Keys; 4]>> {
        let keys_of = |record: &FlatRecord<'_>| {
            self.indexes.iter().map(|index| keys_of_record(index, record, set_id)).collect()
        };
        if copy.is_compressed() {
            let plain = unpacker.unpack(copy).and_then(FlatRecord::parse);
            keys_of(&plain.ok()?)
        } else if copy.packing.is_some() && copy.verify().is_err() {
            None
        } else {
            keys_of(copy)
        }
    }

    /// Ends the filling for `reason`, unless it has ended, and drops the collected entries.
    fn end(&self, reason: u8) {
        if self.state.compare_exchange(state::GOES_ON, reason, AcqRel, Relaxed).is_ok() {
            for part in &self.parts {
                let emptied = std::mem::replace(&mut *part.lock(), Part::new(self.indexes.len()));
                drop(emptied);
            }
        }
    }

    /// Builds the trees.
    fn build(&self, index: &Index) {
        let build = || for_each_partition(|partition| self.build_partition(index, partition));
        if catch_unwind(AssertUnwindSafe(build)).is_err() {
            cf::critical!(Sindex, "filling indexes in a load failed on an internal error");
            return self.end(state::FAILED);
        }
        let _ = self.state.compare_exchange(state::GOES_ON, state::DONE, AcqRel, Relaxed);
    }

    fn build_partition(&self, index: &Index, partition: PartitionId) {
        let none = Part::new(0);
        let Part { mut entries, replaced, later, unread } =
            std::mem::replace(&mut *self.parts[partition.index()].lock(), none);
        if !unread.is_empty() {
            self.unread.lock().extend(unread);
        }
        if !replaced.is_empty() {
            entries.iter_mut().for_each(|entries| entries.retain(|handle| !replaced.contains(&handle)));
        }
        for LaterEntry { index: at, key, handle, location } in later {
            let digest = index.digest_seen_at(handle);
            if let Some(digest) = digest.filter(|digest| is_newest(index, digest, handle, location)) {
                entries[at].push(key, &digest, handle);
            }
        }
        let records = LiveElements(index);
        for (own, entries) in self.indexes.iter().zip(entries) {
            own.adopt(partition, EntryTree::build(entries, &records));
        }
    }
}

/// Whether the newest copy of the record of `digest`, whose element is at `handle`, is the one at `location`.
fn is_newest(index: &Index, digest: &Digest, handle: ElementHandle, location: Location) -> bool {
    let is_it = |guard: ReadGuard<'_>| guard.handle() == handle && guard.location == location;
    index.get(digest).is_some_and(is_it)
}

/// Removes the entries of records that the start has removed since the load, if it has.
pub(super) fn remove_gone(namespace: &Namespace, index: &SecondaryIndex) {
    if namespace.object_count() >= namespace.loaded_count.load(Relaxed) {
        return;
    }
    for_each_partition(|partition| {
        let is_gone = |(handle, stub): &(ElementHandle, Stub)| {
            let digest = namespace.index.digest_seen_at(*handle);
            // A free element may have any digest.
            let digest =
                digest.filter(|digest| PartitionId::of(digest) == partition && Stub::of(digest) == *stub);
            let is_there = |guard: ReadGuard<'_>| guard.handle() == *handle && guard.is_in_sindex();
            !digest.is_some_and(|digest| namespace.index.get(&digest).is_some_and(is_there))
        };
        let gone: HashSet<_> =
            index.handles(partition).into_iter().filter(is_gone).map(|(handle, _)| handle).collect();
        if !gone.is_empty() {
            index.remove_stale(namespace, partition, &|handle, _| gone.contains(&handle));
        }
    });
}

/// Does `work` for each partition, on all processors. Panics if any of it does.
fn for_each_partition(work: impl Fn(PartitionId) + Sync) {
    let (thread_count, partitions) = (cf::threads::cpu_count(), PartitionId::all().collect::<Vec<_>>());
    let done = spread(thread_count, &partitions, || (), |(), partition| work(partition));
    assert_eq!(done.len(), thread_count.min(partitions.len()), "a thread panicked");
}

#[cfg(test)]
mod tests;
