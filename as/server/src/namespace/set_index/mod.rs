//! Indexes of sets: for sets with `enable-index` they list the set's records, so that a query of a small set does not
//! walk the whole namespace.
//!
//! ```text
//! mod        one index: its trees, and how commits change it
//! populate   filling indexes from the records that are there already
//! walk       a walk over the records of a partition, of one set or of all
//! ```
//! An index has a tree of entries for each partition (`index/entry_tree.rs`), in the order of digests, which is also
//! the order of walks over the primary index. A commit adds and removes entries under the record's sprig lock, so an
//! index that is ready is always exact. It is only in memory, and filled again at a start, before clients are served.
//!
//! # Phases
//! An index is off, being populated, or ready. Trees are open from before population until the index is off; commits
//! change only open trees. `enable-index` is acted on under the lock of the configuration, so only one thread at a time
//! switches an index. A run of the builder makes an index ready only if it was not switched meanwhile.
//!
//! # Locking
//! Each tree has a lock, taken under the lock of a sprig or alone, one at a time.

mod populate;
#[cfg(test)]
mod tests;
mod walk;

use std::sync::atomic::{AtomicU64, Ordering::*};

use cf::Digest;
use parking_lot::RwLock;

pub(super) use populate::SetIndexBuilder;
pub(crate) use walk::RecordWalk;

use super::{Namespace, Set};
use crate::index::{ElementHandle, EntryTree, LiveElements, PARTITION_COUNT, PartitionId, RecordMeta, SetId};

/// `None`: closed.
type PartitionTree = RwLock<Option<EntryTree<(), ElementHandle>>>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Off,
    Populating,
    Ready,
}

/// A phase, and the number of switches of the index so far, which identifies each life of the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct State(u64);

impl State {
    fn new(switches: u64, phase: Phase) -> Self {
        State(switches << 2 | phase as u64)
    }

    fn switches(self) -> u64 {
        self.0 >> 2
    }

    fn phase(self) -> Phase {
        match self.0 & 3 {
            0 => Phase::Off,
            1 => Phase::Populating,
            _ => Phase::Ready,
        }
    }
}

/// The index of a set; made when first enabled, and kept.
pub(crate) struct SetIndex {
    trees: Box<[PartitionTree]>,
    state: AtomicU64,
    used_bytes: AtomicU64,
}

impl SetIndex {
    fn new() -> Self {
        SetIndex {
            trees: (0..PARTITION_COUNT).map(|_| RwLock::new(None)).collect(),
            state: AtomicU64::new(State::new(0, Phase::Off).0),
            used_bytes: AtomicU64::new(0),
        }
    }

    fn state(&self) -> State {
        State(self.state.load(Acquire))
    }

    /// Whether the builder is still adding existing records.
    pub(crate) fn is_populating(&self) -> bool {
        self.state().phase() == Phase::Populating
    }

    /// Whether it has all records of the set.
    fn is_ready(&self) -> bool {
        self.state().phase() == Phase::Ready
    }

    /// Bytes of memory.
    fn used_bytes(&self) -> u64 {
        let own = (PARTITION_COUNT * size_of::<PartitionTree>()) as u64;
        if self.state().phase() == Phase::Off { 0 } else { self.used_bytes.load(Relaxed) + own }
    }

    fn tree_of(&self, digest: &Digest) -> &PartitionTree {
        &self.trees[PartitionId::of(digest).index()]
    }

    /// Opens the trees, so that commits change them from now on. The index is ready when the existing records are in it
    /// too.
    fn open(&self) {
        for tree in &self.trees {
            tree.write().get_or_insert(EntryTree::new());
        }
        self.state.store(State::new(self.state().switches() + 1, Phase::Populating).0, Release);
    }

    /// Removes all entries and closes the trees.
    fn close(&self) {
        // The phase changes first. A walk uses only a ready index, so it never mistakes a tree that is opened again
        // later for a complete one.
        self.state.store(State::new(self.state().switches() + 1, Phase::Off).0, Release);
        for tree in &self.trees {
            let closed = tree.write().take();
            if let Some(closed) = closed {
                self.used_bytes.fetch_sub(closed.memory() as u64, Relaxed);
            }
        }
    }

    /// Adds the record of `digest` at `handle`, if the tree is open. The caller holds its sprig's lock.
    fn insert(&self, namespace: &Namespace, handle: ElementHandle, digest: &Digest) {
        if let Some(tree) = &mut *self.tree_of(digest).write() {
            let (_, grown) = tree.insert((), digest, handle, &LiveElements(&namespace.index));
            self.count(grown);
        }
    }

    /// Removes the record of `digest`, if it has an entry. The caller holds its sprig's lock exclusively.
    fn remove(&self, namespace: &Namespace, digest: &Digest) {
        if let Some(tree) = &mut *self.tree_of(digest).write() {
            let (_, grown) = tree.remove((), digest, &LiveElements(&namespace.index));
            self.count(grown);
        }
    }

    /// Adds `memory` to the bytes of its memory.
    fn count(&self, memory: isize) {
        // Wrapping: the difference may be negative.
        self.used_bytes.fetch_add((memory as i64).cast_unsigned(), Relaxed);
    }

    /// Adds the digests of `partition` before `bound`, or all, to `out`, the greatest first, at most `max` of them.
    /// Returns whether there may be more; `None` if the index is not ready.
    fn collect(
        &self,
        namespace: &Namespace,
        (partition, bound): (PartitionId, Option<&Digest>),
        max: usize,
        out: &mut Vec<Digest>,
    ) -> Option<bool> {
        let tree = self.trees[partition.index()].read();
        let tree = tree.as_ref().filter(|_| self.is_ready())?;
        Some(tree.collect_falling(((), bound), max, &LiveElements(&namespace.index), out))
    }
}

/// The set whose index lists the record of `meta`; tombstones are not listed.
fn listing_set(meta: &RecordMeta) -> SetId {
    if meta.exists() && !meta.is_tombstone() { meta.set_id } else { SetId::NONE }
}

impl Namespace {
    /// Updates the indexes of sets in the commit of a record. The caller holds its sprig's lock exclusively.
    #[inline]
    pub(super) fn update_set_indexes(
        &self,
        handle: ElementHandle,
        digest: &Digest,
        before: &RecordMeta,
        after: &RecordMeta,
    ) {
        let (before, after) = (listing_set(before), listing_set(after));
        if before == after {
            return;
        }
        if let Some(index) = self.set_index(before) {
            index.remove(self, digest);
        }
        if let Some(index) = self.set_index(after) {
            index.insert(self, handle, digest);
        }
    }

    /// The index of a set, if it was ever enabled.
    #[inline]
    fn set_index(&self, set_id: SetId) -> Option<&SetIndex> {
        self.sets.get(set_id)?.index.get().map(|index| &**index)
    }

    /// Switches the index of `set` to the state of its `enable-index`. Callers are serialized.
    pub(crate) fn switch_set_index(&self, set: &Set) {
        let is_on = set.index.get().is_some_and(|index| index.state().phase() != Phase::Off);
        match (set.params.enable_index.get(), is_on) {
            (true, false) => {
                set.index.get_or_init(|| Box::new(SetIndex::new())).open();
                self.set_index_builder.wake();
            }
            (false, true) => {
                if let Some(index) = set.index.get() {
                    index.close();
                }
            }
            _ => {}
        }
    }

    /// Bytes of memory of all indexes of sets.
    pub(crate) fn set_index_used_bytes(&self) -> u64 {
        self.sets.iter().filter_map(|set| set.index.get()).map(|index| index.used_bytes()).sum()
    }
}
