//! Tombstones: what a durable delete leaves, so that older copies of the record on disk do not come back at a start.
//!
//! A record that is created over a tombstone takes its place, on disk too. From then on the record says, in the index and
//! on disk, that it leaves a tombstone however it goes: by a plain delete, by expiry or by eviction. So nothing from
//! before a durable delete ever comes back. Memory without a disk has no older copies.
//!
//! # Locks
//! Everything happens under the sprig lock that the guard holds.

use cf::Digest;
use cf::clock::StoredMillis;
use datamodel::Bins;
use datamodel::flat::NewRecord;

use super::Namespace;
use super::commit::{Cause, Change, Committed, NewVersion};
use crate::index::{PartitionId, RecordMeta, SetId, WriteGuard};
use crate::storage::StorageError;

/// How a record is removed.
pub(crate) struct Removal<'a> {
    pub(crate) cause: Cause,
    pub(crate) now: StoredMillis,
    /// A tombstone takes its place, even if the record asks for none.
    pub(crate) is_durable: bool,
    /// The key that the tombstone keeps.
    pub(crate) key: Option<&'a [u8]>,
}

impl Removal<'_> {
    /// Without being asked for a tombstone.
    pub(crate) fn plain(cause: Cause, now: StoredMillis) -> Self {
        Removal { cause, now, is_durable: false, key: None }
    }
}

impl Namespace {
    /// Removes the record of `guard`. A tombstone takes its place if the removal is durable or the record itself took the
    /// place of one. The tombstone's flat form is made in `flat`.
    ///
    /// # Errors
    /// When the tombstone cannot be stored; then the record is as it was.
    pub(crate) fn remove(
        &self,
        guard: WriteGuard<'_>,
        removal: &Removal<'_>,
        flat: &mut Vec<u8>,
    ) -> Result<Committed, StorageError> {
        if !removal.is_durable && !guard.leaves_tombstone() {
            return self.commit(guard, &Change::Gone, removal.cause);
        }
        let meta = self.make_tombstone(guard.digest(), &guard, removal, flat);
        let tombstone = NewVersion { flat, meta, key_stored: removal.key.is_some() };
        self.commit(guard, &Change::Tombstone(tombstone), removal.cause)
    }

    /// Makes the tombstone of the record of `digest` in flat form. Returns what the index is to say of it.
    fn make_tombstone(
        &self,
        digest: &Digest,
        record: &RecordMeta,
        removal: &Removal<'_>,
        flat: &mut Vec<u8>,
    ) -> RecordMeta {
        let tombstone = NewRecord {
            digest: *digest,
            last_update_time: record.last_update_time().max(removal.now.0),
            generation: record.next_generation(),
            void_time: 0,
            tree_id: self.partitions.tree_id(PartitionId::of(digest)),
            set_name: self.set_of(record).map_or(&[], |set| &set.name),
            key: removal.key,
            leaves_tombstone: false,
        };
        let bins = Bins::new();
        tombstone.encode(&bins, tombstone.size(&bins), flat);
        let mut meta = RecordMeta::new(record.set_id);
        meta.generation = tombstone.generation;
        meta.set_last_update_time(tombstone.last_update_time);
        meta.set_tombstone(true);
        meta
    }

    /// What the index says of a record that is created in set `set_id`, before its first write: `found` is what it says
    /// so far, of no record, of an expired one or of a tombstone. The new record is updated later than those were.
    pub(crate) fn meta_of_created(&self, found: &RecordMeta, set_id: SetId) -> RecordMeta {
        let mut created = RecordMeta::new(set_id);
        if found.exists() {
            created.set_last_update_time(found.last_update_time() + 1);
            let needs_tombstone = found.is_tombstone() || found.leaves_tombstone();
            created.set_leaves_tombstone(needs_tombstone && self.storage.is_on_disk());
        }
        created
    }
}
