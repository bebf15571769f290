//! Keeps indexes up to date: a commit that changes a record changes its entries.
//!
//! Changing the entries of a record with many keys takes long, and draws on the budget of the transaction. If that is
//! too much for a service thread, a pool thread repeats the transaction.
//!
//! The keys of the old and of the new record are computed before the commit, while the old record can still be read;
//! a pool thread computes them before it takes the record's lock. A record whose element says that it has no entries
//! is not read. Entries are removed and added after the commit, under the record's sprig lock. So whenever that lock
//! is free, the entries of an index match exactly the records that existed or changed since the index was made.
//!
//! # Damage
//! A record whose bytes rotted on a device no longer shows which entries it has. If a record cannot be read, or lacks
//! an entry that it should have, all its entries are searched and removed when it changes or is removed. `sweep.rs`
//! finds entries that remain in spite of that.

use std::any::Any;
use std::cell::Cell;
use std::sync::Arc;

use cf::Digest;
use datamodel::flat::FlatRecord;
use datamodel::sindex::Keys;
use datamodel::{Budget, Particle};
use smallvec::SmallVec;

use super::index::{KeyChange, SecondaryIndex};
use super::of_namespace::{ActiveIndexes, NamespaceIndexes};
use crate::index::{ElementHandle, RecordMeta, SetId};
use crate::namespace::{AfterCommit, Change, CommitObserver, Namespace, Observed, Preparation, Transition};
use crate::storage::{ReadBuffer, StorageError};

/// Budget steps per entry added or removed.
const ENTRY_STEPS: u64 = 200;

/// Changes of keys, each with the place of its index.
type Changes = SmallVec<[(usize, KeyChange); 3]>;

/// Passes the commits of a namespace on to its indexes.
pub(super) struct IndexObserver(pub(super) Arc<NamespaceIndexes>);

/// The changes in indexes that follow from a change of a record.
struct EntryChanges {
    /// The indexes that existed when the changes were computed.
    indexes: ActiveIndexes,
    changes: Changes,
    /// Whether the record will have entries.
    is_indexed: bool,
    /// Whether the old record is damaged: its entries are unknown.
    is_damaged: bool,
}

/// Entry changes that were computed ahead.
struct PreparedEntries(Cell<Option<EntryChanges>>);

impl CommitObserver for IndexObserver {
    fn prepare(&self, preparation: &Preparation<'_>) -> Option<Box<dyn Any>> {
        let indexes = self.0.active()?;
        let Preparation { digest, before, old, budget, change } = *preparation;
        let old = version_of(digest, before, old);
        let is_old_indexed = before.is_in_sindex() && before.location.is_stored();
        let old = match &old {
            _ if !is_old_indexed => OldRecord::NotIndexed,
            Some(record) => OldRecord::Whole(record),
            // The record is read again under the lock, and damage is logged then.
            None => return None,
        };
        let changes = EntryChanges::of(indexes, (old, before.set_id), change, budget)?;
        Some(Box::new(PreparedEntries(Cell::new(Some(changes)))))
    }

    fn observe<'a>(&'a self, namespace: &Namespace, transition: &Transition<'_>) -> Observed<'a> {
        let Some(indexes) = self.0.active() else { return Observed::default() };
        let prepared = transition.prepared.and_then(<dyn Any>::downcast_ref::<PreparedEntries>);
        let prepared = prepared.and_then(|prepared| prepared.0.take());
        let prepared = prepared.filter(|changes| Arc::ptr_eq(&changes.indexes, &indexes));
        let Some(changes) = prepared.or_else(|| changes_in_place(namespace, transition, indexes)) else {
            return Observed::default();
        };
        let is_indexed = changes.is_indexed;
        let must_act = changes.is_damaged || !changes.changes.is_empty();
        let (digest, handle) = (*transition.before.digest(), transition.handle);
        let act: Option<AfterCommit<'a>> = must_act.then(|| {
            Box::new(move |namespace: &Namespace, _: &_| changes.carry_out(namespace, handle, &digest)) as _
        });
        Observed { is_indexed, act }
    }

    fn reads_old(&self, before: &RecordMeta) -> bool {
        before.is_in_sindex() && before.location.is_stored() && self.0.has_any()
    }

    fn may_read_old(&self) -> bool {
        self.0.has_any()
    }
}

/// The changes in `indexes` that follow from a change, computed from the stored record.
fn changes_in_place(
    namespace: &Namespace,
    transition: &Transition<'_>,
    indexes: ActiveIndexes,
) -> Option<EntryChanges> {
    let Transition { before, old, budget, change, .. } = *transition;
    let mut scratch = ReadBuffer::new();
    let known = old.and_then(|old| version_of(before.digest(), before, old));
    let is_old_indexed = before.is_in_sindex() && before.location.is_stored();
    let read = match known {
        _ if !is_old_indexed => Ok(None),
        Some(old) => Ok(Some(old)),
        None => namespace.record(before, &mut scratch).map(Some),
    };
    if old.is_some() && read.is_err() {
        // The bytes that were read from its disk are not those of the record.
        namespace.report_damage(before, &StorageError::Damaged);
    }
    let old = match &read {
        Ok(None) => OldRecord::NotIndexed,
        Ok(Some(record)) => OldRecord::Whole(record),
        Err(_) => OldRecord::Damaged,
    };
    EntryChanges::of(indexes, (old, before.set_id), change, budget)
}

/// A record before its change.
#[derive(Clone, Copy)]
enum OldRecord<'a, 'r> {
    /// No index has entries of it.
    NotIndexed,
    Whole(&'a FlatRecord<'r>),
    Damaged,
}

impl EntryChanges {
    /// The changes in `indexes` when `change` replaces the record `old` of a set; `None` if the budget is exhausted.
    fn of(
        indexes: ActiveIndexes,
        (old, old_set): (OldRecord<'_, '_>, SetId),
        change: &Change<'_>,
        budget: &Budget<'_>,
    ) -> Option<Self> {
        let new = match change {
            Change::Record(version) => {
                let record = FlatRecord::parse(version.flat).ok();
                IndexedValues::of(&indexes, record.as_ref(), version.meta.set_id)
            }
            Change::Tombstone(_) | Change::Gone => IndexedValues::of(&indexes, None, SetId::NONE),
        };
        let mut old = match old {
            OldRecord::Whole(record) => IndexedValues::of(&indexes, Some(record), old_set),
            OldRecord::NotIndexed => IndexedValues::of(&indexes, None, old_set),
            OldRecord::Damaged => {
                IndexedValues { is_whole: false, ..IndexedValues::of(&indexes, None, old_set) }
            }
        };
        let is_damaged = !old.is_whole;
        if is_damaged {
            old = IndexedValues::of(&indexes, None, old_set);
        }
        let (mut changes, mut is_indexed) = (Changes::new(), false);
        for (at, ((index, old), new)) in indexes.iter().zip(&old.values).zip(&new.values).enumerate() {
            if old.is_some() && old == new {
                is_indexed = true;
                continue;
            }
            let (old, new) = (keys_of(index, old.as_ref(), budget), keys_of(index, new.as_ref(), budget));
            is_indexed |= !new.is_empty();
            if old != new {
                let change = difference(&old, new);
                let entry_count = (change.removed.len() + change.added.len()) as u64;
                budget.draw(entry_count * ENTRY_STEPS).ok()?;
                changes.push((at, change));
            }
        }
        Some(EntryChanges { indexes, changes, is_indexed, is_damaged })
    }

    /// Changes the entries of the record of `digest`. The caller holds its sprig's lock exclusively.
    fn carry_out(self, namespace: &Namespace, handle: ElementHandle, digest: &Digest) {
        if self.is_damaged {
            for index in self.indexes.iter() {
                index.remove_all_of(namespace, handle, digest);
            }
        }
        for (at, change) in &self.changes {
            self.indexes[*at].change(namespace, handle, digest, change);
        }
    }
}

/// Parses `flat`, if it is the version of the record of `digest` with the metadata `meta`.
fn version_of<'r>(digest: &Digest, meta: &RecordMeta, flat: &'r [u8]) -> Option<FlatRecord<'r>> {
    let record = FlatRecord::parse(flat).ok();
    record.filter(|record| record.digest == *digest && record.generation == meta.generation)
}

/// The values of a record for which there are indexes.
struct IndexedValues<'r> {
    /// In the order of the indexes; `None` if the record does not belong to the index.
    values: SmallVec<[Option<Particle<'r>>; 4]>,
    /// Whether all bins of the record could be read.
    is_whole: bool,
}

impl<'r> IndexedValues<'r> {
    /// The values of `record`, which is in set `set_id`.
    fn of(indexes: &[Arc<SecondaryIndex>], record: Option<&FlatRecord<'r>>, set_id: SetId) -> Self {
        let mut found = IndexedValues { values: indexes.iter().map(|_| None).collect(), is_whole: true };
        let Some(record) = record else { return found };
        for bin in record.bins() {
            let Ok(bin) = bin else {
                found.is_whole = false;
                break;
            };
            for (index, value) in indexes.iter().zip(&mut found.values) {
                if *index.definition.value.bin == *bin.name && index.is_for(set_id) && value.is_none() {
                    *value = Some(bin.particle.clone());
                }
            }
        }
        found
    }
}

/// The keys of a value in an index; not valid if the budget is exhausted.
fn keys_of(index: &SecondaryIndex, value: Option<&Particle<'_>>, budget: &Budget<'_>) -> Keys {
    let keys = value.map(|value| index.definition.value.keys(value, budget));
    keys.and_then(Result::ok).unwrap_or_default()
}

/// The change from the keys `old` to the keys `new`; both ascend.
fn difference(old: &Keys, new: Keys) -> KeyChange {
    let lacks = |keys: &Keys, key| keys.binary_search(key).is_err();
    KeyChange {
        removed: old.iter().filter(|key| lacks(&new, key)).copied().collect(),
        added: new.iter().filter(|key| lacks(old, key)).copied().collect(),
        all: new,
    }
}

/// The keys of a whole record of `set_id` in `index`; `None` if its bins cannot be read as far as the indexed one.
pub(super) fn keys_of_record(index: &SecondaryIndex, record: &FlatRecord<'_>, set_id: SetId) -> Option<Keys> {
    if !index.is_for(set_id) {
        return Some(Keys::new());
    }
    for bin in record.bins() {
        let bin = bin.ok()?;
        if *bin.name == *index.definition.value.bin {
            // The budget is unlimited: the result must be complete, because later removals rely on it. The size of a
            // record bounds it.
            return Some(keys_of(index, Some(&bin.particle), &Budget::unlimited()));
        }
    }
    Some(Keys::new())
}
