//! The entries of many records of a partition, which the builder gathers and adds to the indexes together.
//!
//! That takes one lock of a tree for many records, and their entries become the leaves of an empty tree as they are.
//!
//! # Beside writers
//! The keys of a record are computed under its exclusive lock, where its element is marked as one that has entries. So
//! each later commit that takes a key from the record counts as a removal in its partition, although the entry is not
//! there yet. If none was counted since before the first record, all gathered keys are still those of their records, and
//! they are added under the lock of the tree, under which removals are counted. Otherwise the builder goes through the
//! records again, one at a time.

use std::sync::Arc;

use cf::Digest;
use datamodel::flat::FlatRecord;
use datamodel::sindex::Key;
use smallvec::SmallVec;

use super::index::SecondaryIndex;
use super::observer::keys_of_record;
use crate::index::{ElementHandle, IndexEntry, PartitionId, SetId};
use crate::namespace::Namespace;

/// Records that are gathered at most, but for those of the last portion, before their entries are added: those of a
/// millisecond or two, in which few commits change records of the same partition.
const RECORDS_MAX: usize = 8192;
/// Entries that are gathered at most, but for those of the last portion of records.
const ENTRIES_MAX: usize = 2 * RECORDS_MAX;

/// Entries of records of one partition.
pub(super) struct Gathered<'a> {
    indexes: &'a [Arc<SecondaryIndex>],
    /// In the order of the indexes: the number of removals before the first record, and the entries.
    of_indexes: SmallVec<[(u64, Vec<IndexEntry<Key>>); 1]>,
    /// The records that have entries.
    digests: Vec<Digest>,
    entry_count: usize,
}

impl<'a> Gathered<'a> {
    pub(super) fn new(indexes: &'a [Arc<SecondaryIndex>]) -> Self {
        let of_indexes = indexes.iter().map(|_| (0, Vec::new())).collect();
        Gathered { indexes, of_indexes, digests: Vec::new(), entry_count: 0 }
    }

    /// Starts anew, with records of `partition`.
    pub(super) fn begin(&mut self, partition: PartitionId) {
        for (index, (removals, entries)) in self.indexes.iter().zip(&mut self.of_indexes) {
            // The unlock of each record orders this load before the commits that change the record later.
            *removals = index.removals(partition);
            entries.clear();
        }
        self.digests.clear();
        self.entry_count = 0;
    }

    /// Gathers the entries of the record at `handle`, whose lock the caller holds exclusively. Returns whether it has any;
    /// `None`, with nothing gathered, if it cannot be read.
    pub(super) fn gather(
        &mut self,
        record: &FlatRecord<'_>,
        set_id: SetId,
        handle: ElementHandle,
    ) -> Option<bool> {
        let digest = record.digest;
        let keys: SmallVec<[_; 1]> =
            self.indexes.iter().map(|index| keys_of_record(index, record, set_id)).collect::<Option<_>>()?;
        let before = self.entry_count;
        for ((_, entries), keys) in self.of_indexes.iter_mut().zip(keys) {
            entries.extend(keys.iter().map(|key| IndexEntry { key: *key, digest, handle }));
            self.entry_count += keys.len();
        }
        let has_entries = self.entry_count > before;
        if has_entries {
            self.digests.push(digest);
        }
        Some(has_entries)
    }

    pub(super) fn is_full(&self) -> bool {
        self.digests.len() >= RECORDS_MAX || self.entry_count >= ENTRIES_MAX
    }

    /// Adds the entries, which are of `partition`, to the indexes. Returns the records that must be gone through again,
    /// because some of them may have changed.
    pub(super) fn add(&mut self, namespace: &Namespace, partition: PartitionId) -> &[Digest] {
        let mut are_added = true;
        for (index, (removals, entries)) in self.indexes.iter().zip(&mut self.of_indexes) {
            if !entries.is_empty() {
                entries.sort_unstable_by(|one, other| {
                    one.key.cmp(&other.key).then_with(|| one.digest.cmp(&other.digest))
                });
                are_added &= index.add_gathered(namespace, (partition, *removals), entries);
            }
        }
        if are_added { &[] } else { &self.digests }
    }
}
