//! Record filters: expressions that come with a request and say which records it is for.
//!
//! A filter is compiled once for its request, once for its batch, or once for the rows that repeat it. It is asked
//! first about what the index knows of a record; only if that leaves the answer open, the record is read.

use cf::Digest;
use cf::clock::StoredMillis;
use datamodel::Budget;
use datamodel::exp::{BinSource, Filter, Medium, Metadata, Record, Truth};
use proto::ResultCode;
use proto::message::{Request, field};

use crate::config::Engine;
use crate::index::RecordMeta;
use crate::namespace::{Namespace, stored_size};

/// The filter of a request, or why it is none. What is wrong with one is told only where it would be asked.
pub(crate) type CompiledFilter<'a> = Result<Filter<'a>, ResultCode>;

/// Compiles the filter that the request brings.
pub(crate) fn compile<'a>(request: &Request<'a>, budget: &Budget<'_>) -> Option<CompiledFilter<'a>> {
    request.field(field::FILTER_EXPRESSION).map(|bytes| Filter::compile(bytes, budget))
}

/// A question about a record that its metadata left open: its bins or its key must tell.
pub(crate) struct OpenQuestion<'f> {
    filter: &'f Filter<'f>,
    metadata: Metadata<'f>,
    budget: &'f Budget<'f>,
}

impl OpenQuestion<'_> {
    /// Asks again, now that the record has been read.
    ///
    /// # Errors
    /// `FilteredOut` when the request is not for this record; `Timeout` when the budget ran out.
    pub(crate) fn resolve(&self, bins: &dyn BinSource, key: Option<&[u8]>) -> Result<(), ResultCode> {
        let record = Record { metadata: &self.metadata, key, bins };
        let matches = self.filter.matches(&record, self.budget);
        self.budget.check(if matches { Ok(()) } else { Err(ResultCode::FilteredOut) })
    }
}

/// Asks `filter` about what the index knows of a record. Returns the question if that is not enough.
///
/// # Errors
/// `FilteredOut` when the request is not for this record; `Timeout` when the budget ran out.
pub(crate) fn ask<'f>(
    filter: &'f Filter<'f>,
    metadata: Metadata<'f>,
    budget: &'f Budget<'f>,
) -> Result<Option<OpenQuestion<'f>>, ResultCode> {
    let truth = filter.matches_metadata(&metadata, budget);
    budget.check(match truth {
        Truth::True => Ok(None),
        Truth::False => Err(ResultCode::FilteredOut),
        Truth::Unknown => Ok(Some(OpenQuestion { filter, metadata, budget })),
    })
}

/// What is known of the record of `digest`, which may not be stored yet.
pub(crate) fn metadata_of<'n>(
    namespace: &'n Namespace,
    digest: &Digest,
    record: &RecordMeta,
    now: StoredMillis,
) -> Metadata<'n> {
    Metadata {
        digest: *digest,
        last_update_time: record.last_update_time(),
        void_time: record.void_time,
        set_name: namespace.set_of(record).map_or(&[], |set| &set.name),
        is_key_stored: record.location.key_stored(),
        is_tombstone: record.is_tombstone(),
        // The established server's smallest record, and what it tells of one that is not stored yet.
        stored_size: stored_size(record).max(u64::from(crate::storage::RBLOCK_SIZE)),
        medium: match namespace.config().storage.engine {
            Engine::Memory if namespace.storage.is_on_disk() => Medium::BackedMemory,
            Engine::Memory => Medium::Memory,
            _ => Medium::Device,
        },
        now_ms: now.0,
    }
}
