//! The namespace's part in a load: where parsers find and commit records, and the figures of the load.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use datamodel::flat::FlatRecord;

use crate::index::{Index, RecordMeta, SetId, WriteGuard};

/// Findings of a load so far.
#[derive(Default)]
pub(crate) struct LoadStats {
    /// Number of records of which a copy was found.
    pub(crate) unique: AtomicU64,
    /// Number of copies that replaced older ones.
    pub(crate) replaced: AtomicU64,
    /// Number of copies that were older than the known one.
    pub(crate) older: AtomicU64,
    /// Number of byte ranges with damaged, implausible or unreadable records. Each may have been one record or many.
    pub(crate) damaged: AtomicU64,
    /// Number of their bytes.
    pub(crate) damaged_bytes: AtomicU64,
    /// Number of records of partitions that are no longer here.
    pub(crate) dropped: AtomicU64,
    /// Number of records whose last update is later than now, made while a clock was ahead.
    pub(crate) ahead: AtomicU64,
    /// The latest last-update-time found.
    pub(crate) latest_update: AtomicU64,
}

impl LoadStats {
    /// Counts a damaged range of `size` bytes.
    pub(super) fn add_damage(&self, size: u64) {
        self.damaged.fetch_add(1, Relaxed);
        self.damaged_bytes.fetch_add(size, Relaxed);
    }
}

/// The namespace's part in a load.
pub(crate) trait LoadContext: Sync {
    /// The number of the set called `name`, created if necessary; `None` if such a set is not possible.
    fn set_id(&self, name: &[u8]) -> Option<SetId>;
    fn index(&self) -> &Index;
    fn now_seconds(&self) -> u32;
    fn stats(&self) -> &LoadStats;
    /// The committer of one parser's records.
    fn committer(&self) -> Box<dyn LoadCommit + '_>;

    /// Called when all copies have been found, before any record moves.
    fn finish(&self) {}
}

/// Commits the records that one parser finds.
pub(crate) trait LoadCommit {
    /// Commits a copy. `after` describes the newest copy so far of the record of `guard`. Unless that is the
    /// copy that was committed before, `copy` has it in its stored form, or is `None` if it cannot be read.
    fn commit(&mut self, guard: WriteGuard<'_>, after: &RecordMeta, copy: Option<&FlatRecord<'_>>);

    /// Ends the parser's work.
    fn finish(self: Box<Self>);
}
