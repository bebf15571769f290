//! What follows the load of a namespace's records, as observers of commits follow their changes later.

use datamodel::flat::FlatRecord;
use datamodel::packing::Unpacker;

use super::Sets;
use crate::config::NamespaceConfig;
use crate::index::{Index, RecordMeta, WriteGuard};

/// A part of the server that builds something of the records while they are loaded. Several threads call it.
pub(crate) trait LoadObserver: Sync {
    /// Prepares for the load of the namespace that has the sets `sets`, before its first record.
    fn begin(&self, config: &NamespaceConfig, sets: &Sets);

    /// Notes the newest copy so far of the record of `guard`, with the metadata `after` that it gets now. `copy` has it in
    /// its stored form, or is `None` if it cannot be read, or if it was noted before: then its location stays the same.
    /// Another copy may have been noted before. Older ones are not noted.
    fn note(
        &self,
        guard: &WriteGuard<'_>,
        after: &mut RecordMeta,
        copy: Option<&FlatRecord<'_>>,
        unpacker: &mut Unpacker,
    );

    /// All copies were found; `index` has the newest ones. Nothing was removed yet, or moved.
    fn finish(&self, index: &Index);
}
