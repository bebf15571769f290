//! Keeping indexes up to date: what a commit changes in a record, changes its entries.
//!
//! A record with many keys takes long, which draws on the budget of the transaction: what is too much for a service thread is
//! done again by a thread of the pool.
//!
//! Before the commit the keys of the old and of the new record are computed, while the old one can still be read. A record
//! that has no entries, as its element says, is not read. After the commit entries are removed and added, still under the
//! record's sprig lock: so at any moment at which that lock is free, the entries of an index are exactly those of the records
//! that were there or changed since the index was made.

use std::sync::Arc;

use cf::Digest;
use datamodel::flat::FlatRecord;
use datamodel::sindex::Keys;
use datamodel::{Budget, Particle};
use smallvec::SmallVec;

use super::index::{KeyChange, SecondaryIndex};
use super::of_namespace::{ActiveIndexes, NamespaceIndexes};
use crate::index::{Element, ElementHandle, SetId};
use crate::namespace::{AfterCommit, Change, CommitObserver, Namespace, Observed, Transition};
use crate::storage::ReadBuffer;

/// Steps that an entry takes which is added or removed.
const ENTRY_STEPS: u64 = 200;

/// Changes of keys, each with its index.
type Changes = SmallVec<[(Arc<SecondaryIndex>, KeyChange); 3]>;

/// Values of the bins that indexes are for, in the order of the indexes; none where the record is not for the index.
type Values<'a> = SmallVec<[Option<Particle<'a>>; 4]>;

/// Tells the indexes of a namespace of its commits.
pub(super) struct IndexObserver(pub(super) Arc<NamespaceIndexes>);

impl CommitObserver for IndexObserver {
    fn observe<'a>(&'a self, namespace: &Namespace, transition: &Transition<'_>) -> Observed<'a> {
        let Some(indexes) = self.0.active() else { return Observed::default() };
        let (before, budget) = (transition.before, transition.budget);
        let new = match transition.change {
            Change::Record(version) => {
                let record = FlatRecord::parse(version.flat).ok();
                values_of(&indexes, record.as_ref(), version.meta.set_id)
            }
            Change::Tombstone(_) | Change::Gone => values_of(&indexes, None, SetId::NONE),
        };
        let mut scratch = ReadBuffer::new();
        let is_old_indexed = before.is_in_sindex() && before.location.is_stored();
        let known = transition.old.and_then(|old| version_of(before, old));
        let old = match known {
            _ if !is_old_indexed => Ok(None),
            Some(old) => Ok(Some(old)),
            None => namespace.record(before, &mut scratch).map(Some),
        };
        let is_damaged = old.is_err();
        let old = values_of(&indexes, old.as_ref().ok().and_then(Option::as_ref), before.set_id);
        let (mut changes, mut is_indexed) = (Changes::new(), false);
        for ((index, old), new) in indexes.iter().zip(&old).zip(&new) {
            if old.is_some() && old == new {
                is_indexed = true;
                continue;
            }
            let (old, new) = (keys_of(index, old.as_ref(), budget), keys_of(index, new.as_ref(), budget));
            is_indexed |= !new.is_empty();
            if old != new {
                let change = difference(&old, &new);
                let entry_count = (change.removed.len() + change.added.len()) as u64;
                if budget.draw(entry_count * ENTRY_STEPS).is_err() {
                    return Observed::default();
                }
                changes.push((Arc::clone(index), change));
            }
        }
        let purged = is_damaged.then_some(indexes);
        let act = (is_damaged || !changes.is_empty())
            .then(|| act(*before.digest(), transition.handle, changes, purged));
        Observed { is_indexed, act }
    }
}

/// The record that `flat` is, if that is the one of `element`.
fn version_of<'r>(element: &Element, flat: &'r [u8]) -> Option<FlatRecord<'r>> {
    let record = FlatRecord::parse(flat).ok();
    record.filter(|record| record.digest == *element.digest() && record.generation == element.generation)
}

/// Does what is to be done when the record of `digest` is committed: `changes`, after its entries in all of `purged` are
/// removed.
fn act(
    digest: Digest,
    handle: ElementHandle,
    changes: Changes,
    purged: Option<ActiveIndexes>,
) -> AfterCommit<'static> {
    Box::new(move |namespace, _| {
        for index in purged.iter().flat_map(|indexes| indexes.iter()) {
            index.remove_all_of(namespace, handle, &digest);
        }
        for (index, change) in &changes {
            index.change(namespace, handle, &digest, change);
        }
    })
}

/// The values of `record`, which is of `set_id`, that the indexes are for.
fn values_of<'r>(
    indexes: &[Arc<SecondaryIndex>],
    record: Option<&FlatRecord<'r>>,
    set_id: SetId,
) -> Values<'r> {
    let mut values: Values<'r> = indexes.iter().map(|_| None).collect();
    let Some(record) = record else { return values };
    // What is behind a damaged bin cannot be read, and was not when it was added.
    for bin in record.bins().map_while(Result::ok) {
        for (index, value) in indexes.iter().zip(&mut values) {
            if *index.definition.value.bin == *bin.name && index.is_for(set_id) && value.is_none() {
                *value = Some(bin.particle.clone());
            }
        }
    }
    values
}

/// The keys of a value in an index; of no use if the budget is exhausted.
fn keys_of(index: &SecondaryIndex, value: Option<&Particle<'_>>, budget: &Budget<'_>) -> Keys {
    let keys = value.map(|value| index.definition.value.keys(value, budget));
    keys.and_then(Result::ok).unwrap_or_default()
}

/// What leads from the keys `old` to the keys `new`; both ascend.
fn difference(old: &Keys, new: &Keys) -> KeyChange {
    let lacks = |keys: &Keys, key| keys.binary_search(key).is_err();
    KeyChange {
        removed: old.iter().filter(|key| lacks(new, key)).copied().collect(),
        added: new.iter().filter(|key| lacks(old, key)).copied().collect(),
    }
}

/// The keys of a whole record of `set_id` in `index`.
pub(super) fn keys_of_record(index: &SecondaryIndex, record: &FlatRecord<'_>, set_id: SetId) -> Keys {
    let bin = record.bins().map_while(Result::ok).find(|bin| *bin.name == *index.definition.value.bin);
    let value = bin.filter(|_| index.is_for(set_id));
    // Entries that were added are removed later, so nothing may end this early; the size of a record bounds it.
    keys_of(index, value.as_ref().map(|bin| &bin.particle), &Budget::unlimited())
}
