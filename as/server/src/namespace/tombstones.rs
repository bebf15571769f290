//! Tombstones: left by durable deletes, so that older copies of the record on disk do not come back at a start.
//!
//! A record created over a tombstone replaces it, on disk too. From then on the record carries a mark, in the index
//! and on disk, that it leaves a tombstone when it is removed in any way: by a plain delete, by expiry or by
//! eviction. So no copy from before a durable delete ever comes back. A record whose time to live was shortened has
//! the same mark: otherwise its older copies on disk, which live longer, would come back after it has expired. Memory
//! without a disk has no older copies.
//!
//! # Locks
//! Everything happens under the sprig lock that the guard holds.

use cf::Digest;
use cf::clock::StoredMillis;
use datamodel::Bins;
use datamodel::flat::NewRecord;

use super::Namespace;
use super::commit::{Cause, Change, Committed, ForObservers, NewVersion};
use crate::index::{PartitionId, RecordMeta, SetId, WriteGuard};
use crate::storage::StorageError;

/// Last-update-times further ahead of the clock than this are logged: a minute, in seconds.
const CLOCK_AHEAD_MAX: u64 = 60;

/// How a record is removed.
pub(crate) struct Removal<'a> {
    pub(crate) cause: Cause,
    pub(crate) now: StoredMillis,
    /// Whether a tombstone takes its place even if the record needs none.
    pub(crate) is_durable: bool,
    /// The key that the tombstone keeps.
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) for_observers: ForObservers<'a>,
}

impl Removal<'_> {
    /// A removal that leaves a tombstone only if the record needs one.
    pub(crate) fn plain(cause: Cause, now: StoredMillis) -> Self {
        Removal { cause, now, is_durable: false, key: None, for_observers: ForObservers::default() }
    }
}

impl Namespace {
    /// Removes the record of `guard`. A tombstone takes its place if the removal is durable or the record must leave
    /// one. The tombstone's flat form is made in `flat`.
    ///
    /// # Errors
    /// When the tombstone cannot be stored, or the budget of observers is exhausted; the record is unchanged then.
    pub(crate) fn remove(
        &self,
        guard: WriteGuard<'_>,
        removal: &Removal<'_>,
        flat: &mut Vec<u8>,
    ) -> Result<Committed, StorageError> {
        if !removal.is_durable && !guard.leaves_tombstone() {
            return self.commit_with(guard, &Change::Gone, removal.cause, removal.for_observers);
        }
        let meta = self.make_tombstone(guard.digest(), &guard, removal, flat);
        let tombstone = NewVersion { flat, packed: None, meta, key_stored: removal.key.is_some() };
        self.commit_with(guard, &Change::Tombstone(tombstone), removal.cause, removal.for_observers)
    }

    /// Makes the tombstone of the record of `digest` in flat form. Returns its metadata for the index.
    fn make_tombstone(
        &self,
        digest: &Digest,
        record: &RecordMeta,
        removal: &Removal<'_>,
        flat: &mut Vec<u8>,
    ) -> RecordMeta {
        let tombstone = NewRecord {
            digest: *digest,
            last_update_time: record.next_update_time(self.partitions.update_time(removal.now.0)),
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

    /// Whether a record with the new `void_time` must leave a tombstone when it is removed: because its base version
    /// `base` must, or because `base` is live and expires later, so that its copies on disk would come back.
    pub(crate) fn must_leave_tombstone(&self, base: &RecordMeta, is_live: bool, void_time: u32) -> bool {
        base.leaves_tombstone() || is_live && self.is_outlived_by(base.void_time, void_time)
    }

    /// The same for a copy from another node that replaces `here`. The other node may have already forgotten a
    /// tombstone of which older copies are on disk here.
    pub(crate) fn copy_must_leave_tombstone(&self, here: &RecordMeta, void_time: u32) -> bool {
        let follows_tombstone = here.is_tombstone() && self.storage.is_on_disk();
        here.exists()
            && (follows_tombstone || self.must_leave_tombstone(here, !here.is_tombstone(), void_time))
    }

    /// Whether a version with `old_void_time` expires later than its replacement with `void_time`; 0 means never.
    fn is_outlived_by(&self, old_void_time: u32, void_time: u32) -> bool {
        void_time != 0 && (old_void_time == 0 || old_void_time > void_time) && self.storage.is_on_disk()
    }

    /// Logs if `last_update_time`, which a record changed now gets, is far ahead of `now`: the clock was ahead at an
    /// earlier change of the record, or of a removed record of its partition.
    pub(crate) fn warn_of_clock(&self, last_update_time: u64, now: StoredMillis) {
        let ahead_seconds = last_update_time.saturating_sub(now.0) / 1000;
        if ahead_seconds > CLOCK_AHEAD_MAX {
            cf::warning_limited!(
                Rw,
                "{{{}}} a record is changed that was last updated {ahead_seconds} s later than now: the clock was ahead, and \
                 its last-update-time stays until the clock has come there",
                self.name()
            );
        }
    }

    /// Metadata of a record created in set `set_id`, before its first write. `found` is the present metadata: of no
    /// record, of an expired one or of a tombstone. The new record's last update is later than theirs.
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
