//! Tombstones: what a durable delete leaves, so that older copies of the record on disk do not come back at a start.
//!
//! A record that is created over a tombstone takes its place, on disk too. From then on the record says, in the index and
//! on disk, that it leaves a tombstone however it goes: by a plain delete, by expiry or by eviction. So nothing from
//! before a durable delete ever comes back. So does a record that got a shorter time to live: its older copies on disk, which
//! live longer, do not come back when it has expired. Memory without a disk has no older copies.
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

/// Last-update-times further ahead of the clock than this are told: a minute, in seconds.
const CLOCK_AHEAD_MAX: u64 = 60;

/// How a record is removed.
pub(crate) struct Removal<'a> {
    pub(crate) cause: Cause,
    pub(crate) now: StoredMillis,
    /// A tombstone takes its place, even if the record asks for none.
    pub(crate) is_durable: bool,
    /// The key that the tombstone keeps.
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) for_observers: ForObservers<'a>,
}

impl Removal<'_> {
    /// Without being asked for a tombstone.
    pub(crate) fn plain(cause: Cause, now: StoredMillis) -> Self {
        Removal { cause, now, is_durable: false, key: None, for_observers: ForObservers::default() }
    }
}

impl Namespace {
    /// Removes the record of `guard`. A tombstone takes its place if the removal is durable or the record itself took the
    /// place of one. The tombstone's flat form is made in `flat`.
    ///
    /// # Errors
    /// When the tombstone cannot be stored, or the budget of observers is exhausted; then the record is as it was.
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

    /// Whether a record that is going to have `void_time` must leave a tombstone when it goes: because `base` does, from which
    /// it is made, or because `base` is a live version that lives longer, so that copies of it that are left on disk would
    /// come back.
    pub(crate) fn must_leave_tombstone(&self, base: &RecordMeta, is_live: bool, void_time: u32) -> bool {
        base.leaves_tombstone() || is_live && self.is_outlived_by(base.void_time, void_time)
    }

    /// The same of a copy that another node has sent, which takes the place of `here`. The other node may have forgotten a
    /// tombstone already of which older copies are on disk here.
    pub(crate) fn copy_must_leave_tombstone(&self, here: &RecordMeta, void_time: u32) -> bool {
        let follows_tombstone = here.is_tombstone() && self.storage.is_on_disk();
        here.exists()
            && (follows_tombstone || self.must_leave_tombstone(here, !here.is_tombstone(), void_time))
    }

    /// Whether a version with `old_void_time` lives longer than the one with `void_time` that takes its place; 0 stands for
    /// ever.
    fn is_outlived_by(&self, old_void_time: u32, void_time: u32) -> bool {
        void_time != 0 && (old_void_time == 0 || old_void_time > void_time) && self.storage.is_on_disk()
    }

    /// Says that a record which is changed now counts as changed at `last_update_time`, if that is far from `now`: the clock
    /// was ahead when it was changed before, or a record of its partition was that was removed.
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
