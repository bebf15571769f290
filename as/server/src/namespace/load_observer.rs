//! Observers of the load of a namespace's records. Observers of commits follow the later changes.

use datamodel::flat::FlatRecord;
use datamodel::packing::Unpacker;

use super::Sets;
use crate::config::NamespaceConfig;
use crate::index::{Index, RecordMeta, WriteGuard};

/// A copy of a record that a load has found.
pub(crate) struct LoadedCopy<'a> {
    /// The record as it was before.
    pub(crate) guard: &'a WriteGuard<'a>,
    /// The metadata that it gets now.
    pub(crate) after: &'a mut RecordMeta,
    /// The copy in its stored form; `None` if it cannot be read, or if it was noted before: then its location stays the same.
    pub(crate) copy: Option<&'a FlatRecord<'a>>,
    pub(crate) unpacker: &'a mut Unpacker,
}

/// A part of the server that builds data from the records while they are loaded. Several threads call it.
pub(crate) trait LoadObserver: Sync {
    /// Prepares for the load of the namespace that has the sets `sets`, before its first record.
    fn begin(&self, config: &NamespaceConfig, sets: &Sets);

    /// Notes the newest copy so far of a record. Another copy may have been noted before. Older ones are not noted.
    fn note(&self, loaded: LoadedCopy<'_>);

    /// Called when all copies are found and `index` has the newest ones. No record has been removed or moved yet.
    fn finish(&self, index: &Index);
}
