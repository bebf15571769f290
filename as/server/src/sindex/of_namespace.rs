//! The secondary indexes of one namespace.
//!
//! # Locking
//! `slots` is taken alone and briefly. Each commit in a namespace with indexes reads `active`, without a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::*};

use arc_swap::ArcSwap;
use datamodel::sindex::IndexedValue;
use parking_lot::RwLock;

use super::index::SecondaryIndex;
use super::unread::UnreadRecords;
use crate::index::SetId;

/// The indexes that commits update. Reading them takes no lock and counts no reference.
pub(super) type ActiveIndexes = arc_swap::Guard<Arc<Vec<Arc<SecondaryIndex>>>>;

/// The indexes of one namespace.
pub(crate) struct NamespaceIndexes {
    /// By slot; a new index takes the first free one. Lists of indexes are in this order.
    slots: RwLock<Vec<Option<Arc<SecondaryIndex>>>>,
    has_any: AtomicBool,
    /// Changed under the lock of `slots`.
    active: ArcSwap<Vec<Arc<SecondaryIndex>>>,
    /// Records that the indexes may lack.
    pub(super) unread: UnreadRecords,
}

impl NamespaceIndexes {
    pub(super) fn new() -> Self {
        NamespaceIndexes {
            slots: RwLock::default(),
            has_any: AtomicBool::new(false),
            active: ArcSwap::default(),
            unread: UnreadRecords::default(),
        }
    }

    /// Whether there are indexes that commits update.
    #[inline]
    pub(super) fn has_any(&self) -> bool {
        self.has_any.load(Acquire)
    }

    /// The indexes that commits update, if there are any.
    #[inline]
    pub(super) fn active(&self) -> Option<ActiveIndexes> {
        self.has_any().then(|| self.active.load())
    }

    /// All indexes, in the order of lists.
    pub(crate) fn all(&self) -> Vec<Arc<SecondaryIndex>> {
        self.slots.read().iter().flatten().cloned().collect()
    }

    pub(crate) fn named(&self, name: &str) -> Option<Arc<SecondaryIndex>> {
        self.slots.read().iter().flatten().find(|index| *index.name() == *name).cloned()
    }

    /// The index for these values of a set, or else of the whole namespace.
    pub(crate) fn find(&self, set_id: SetId, value: &IndexedValue) -> Option<Arc<SecondaryIndex>> {
        let slots = self.slots.read();
        let find = |set_id| slots.iter().flatten().find(|index| index.is_of(set_id, value)).cloned();
        find(set_id).or_else(|| find(SetId::NONE)).filter(|index| !index.is_dropped())
    }

    /// The index of exactly this set, for these values.
    pub(super) fn find_exactly(&self, set_id: SetId, value: &IndexedValue) -> Option<Arc<SecondaryIndex>> {
        self.slots.read().iter().flatten().find(|index| index.is_of(set_id, value)).cloned()
    }

    pub(super) fn add(&self, index: &Arc<SecondaryIndex>) {
        let mut slots = self.slots.write();
        match slots.iter().position(Option::is_none) {
            Some(free) => slots[free] = Some(Arc::clone(index)),
            None => slots.push(Some(Arc::clone(index))),
        }
        self.publish(&slots);
    }

    pub(super) fn remove(&self, index: &Arc<SecondaryIndex>) {
        let mut slots = self.slots.write();
        for slot in slots.iter_mut().filter(|slot| slot.as_ref().is_some_and(|own| Arc::ptr_eq(own, index))) {
            *slot = None;
        }
        self.publish(&slots);
    }

    fn publish(&self, slots: &[Option<Arc<SecondaryIndex>>]) {
        let active: Vec<_> = slots.iter().flatten().cloned().collect();
        let has_any = !active.is_empty();
        self.active.store(Arc::new(active));
        self.has_any.store(has_any, Release);
    }
}

impl SecondaryIndex {
    fn is_of(&self, set_id: SetId, value: &IndexedValue) -> bool {
        self.set_id == set_id && self.definition.value == *value
    }
}
