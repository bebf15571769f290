//! Keeping indexes up to date: what a commit changes in a record, changes its entries.
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
use super::registry::{ActiveIndexes, NamespaceIndexes};
use crate::index::{ElementHandle, SetId};
use crate::namespace::{AfterCommit, Change, CommitObserver, Namespace, Observed, Transition};
use crate::storage::ReadBuffer;

/// Changes of keys, each with its index.
type Changes = SmallVec<[(Arc<SecondaryIndex>, KeyChange); 3]>;

/// Values of the bins that indexes are for, in the order of the indexes; none where the record is not for the index.
type Values<'a> = SmallVec<[Option<Particle<'a>>; 4]>;

/// Tells the indexes of a namespace of its commits.
pub(super) struct IndexObserver(pub(super) Arc<NamespaceIndexes>);

impl CommitObserver for IndexObserver {
    fn observe<'a>(&'a self, namespace: &Namespace, transition: &Transition<'_>) -> Observed<'a> {
        let Some(indexes) = self.0.active() else { return Observed::default() };
        let before = transition.before;
        let new = match transition.change {
            Change::Record(version) => {
                let record = FlatRecord::parse(version.flat).ok();
                values_of(&indexes, record.as_ref(), version.meta.set_id)
            }
            Change::Tombstone(_) | Change::Gone => values_of(&indexes, None, SetId::NONE),
        };
        let mut scratch = ReadBuffer::new();
        let is_old_indexed = before.is_in_sindex() && before.location.is_stored();
        let old = if is_old_indexed { namespace.record(before, &mut scratch).map(Some) } else { Ok(None) };
        let is_damaged = old.is_err();
        let old = values_of(&indexes, old.as_ref().ok().and_then(Option::as_ref), before.set_id);
        let (mut changes, mut is_indexed) = (Changes::new(), false);
        for ((index, old), new) in indexes.iter().zip(&old).zip(&new) {
            if old.is_some() && old == new {
                is_indexed = true;
                continue;
            }
            let (old, new) = (keys_of(index, old.as_ref()), keys_of(index, new.as_ref()));
            is_indexed |= !new.is_empty();
            if old != new {
                changes.push((Arc::clone(index), difference(&old, &new)));
            }
        }
        let purged = is_damaged.then_some(indexes);
        let act = (is_damaged || !changes.is_empty())
            .then(|| act(*before.digest(), transition.handle, changes, purged));
        Observed { is_indexed, act }
    }
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

/// The keys of a value in an index.
fn keys_of(index: &SecondaryIndex, value: Option<&Particle<'_>>) -> Keys {
    // Entries that were added are removed, so nothing may end this early; the size of a record bounds it.
    let keys = value.map(|value| index.definition.value.keys(value, &Budget::unlimited()));
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
    keys_of(index, bin.filter(|_| index.is_for(set_id)).as_ref().map(|bin| &bin.particle))
}
