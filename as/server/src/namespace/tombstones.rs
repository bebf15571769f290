//! Tombstones: what a durable delete leaves, so that older copies of the record on disk do not come back at a start.
//!
//! A record that is created over a tombstone takes its place, on disk too. So from then on the record says, in the index
//! and on disk, that it leaves a tombstone however it goes: by a plain delete, by expiry or by eviction. With that,
//! nothing from before a durable delete ever comes back. In memory without a disk there is nothing that could.
//!
//! # Locks
//! Everything happens under the sprig lock that the guard holds.

use std::sync::atomic::Ordering::Relaxed;

use cf::clock::StoredMillis;
use datamodel::Bins;
use datamodel::flat::NewRecord;

use super::{Namespace, stored_size};
use crate::index::{Element, PartitionId, WriteGuard};
use crate::storage::StorageError;

/// Bytes of a tombstone without key and set name, and some more.
const TOMBSTONE_SIZE: usize = 128;

/// What the index is to say of a tombstone once it is stored.
pub(crate) struct Tombstone {
    generation: u16,
    last_update_time: u64,
    key_stored: bool,
}

impl Namespace {
    /// Makes the tombstone of the record of `element`, in flat form in `flat`. `key` is what it keeps of the record.
    pub(crate) fn tombstone_of(
        &self,
        element: &Element,
        key: Option<&[u8]>,
        now: StoredMillis,
        flat: &mut Vec<u8>,
    ) -> Tombstone {
        let tombstone = NewRecord {
            digest: *element.digest(),
            last_update_time: element.last_update_time().max(now.0),
            generation: element.next_generation(),
            void_time: 0,
            tree_id: self.storage.tree_id(PartitionId::of(element.digest())),
            set_name: self.set_of(element).map_or(&[], |set| &set.name),
            key,
            leaves_tombstone: false,
        };
        let bins = Bins::new();
        tombstone.encode(&bins, tombstone.size(&bins), flat);
        Tombstone {
            generation: tombstone.generation,
            last_update_time: tombstone.last_update_time,
            key_stored: key.is_some(),
        }
    }

    /// Puts `tombstone`, whose flat form is `flat`, in the record's place.
    ///
    /// # Errors
    /// When it cannot be stored; then the record is as it was.
    pub(crate) fn bury(
        &self,
        guard: &mut WriteGuard<'_>,
        tombstone: Tombstone,
        flat: &[u8],
    ) -> Result<(), StorageError> {
        let before = stored_size(guard);
        self.storage.bury(guard, flat, tombstone.key_stored)?;
        self.expiry.note(guard.digest(), guard.void_time, 0);
        if let Some(set) = self.sets.get(guard.set_id) {
            // Wrapping: the difference may be negative.
            set.data_used_bytes.fetch_add(stored_size(guard).wrapping_sub(before), Relaxed);
            set.objects.fetch_sub(1, Relaxed);
            set.tombstones.fetch_add(1, Relaxed);
        }
        guard.generation = tombstone.generation;
        guard.set_last_update_time(tombstone.last_update_time);
        guard.void_time = 0;
        guard.set_tombstone(true);
        self.tombstones.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Puts a tombstone without a key in the place of a record whose time is over.
    ///
    /// # Errors
    /// As [`bury`](Self::bury).
    pub(crate) fn entomb(&self, guard: &mut WriteGuard<'_>, now: StoredMillis) -> Result<(), StorageError> {
        let mut flat = Vec::with_capacity(TOMBSTONE_SIZE);
        let tombstone = self.tombstone_of(guard, None, now, &mut flat);
        self.bury(guard, tombstone, &flat)
    }

    /// Makes a tombstone's element one of a record just being created. What is given back is for
    /// [`replace_tombstone`](Self::replace_tombstone) or [`rebury`](Self::rebury).
    pub(crate) fn exhume(&self, guard: &mut WriteGuard<'_>) -> Element {
        self.leave_set(guard);
        let tombstone = guard.exhume();
        guard.set_leaves_tombstone(self.storage.is_on_disk());
        tombstone
    }

    /// The record that was created over `tombstone` is stored.
    pub(crate) fn replace_tombstone(&self, tombstone: &Element, guard: &WriteGuard<'_>) {
        self.storage.free_replaced(tombstone.location, guard.location);
    }

    /// The record was not created after all.
    pub(crate) fn rebury(&self, guard: &mut WriteGuard<'_>, tombstone: &Element) {
        self.leave_set(guard);
        guard.restore(tombstone);
        self.join_set(guard);
    }
}
