//! Record filters: expressions in a request that select the records it applies to.
//!
//! A filter is compiled once for its request, once for its batch, or once for the rows that repeat it. It is evaluated
//! first on the metadata in the index; the record is read only if that leaves the answer open.

use cf::Digest;
use cf::clock::StoredMillis;
use datamodel::Budget;
use datamodel::exp::{BinSource, Filter, Medium, Metadata, Record, Truth};
use proto::ResultCode;
use proto::message::{Request, field};

use crate::config::Engine;
use crate::index::RecordMeta;
use crate::namespace::{Namespace, stored_size};

/// A compiled filter, or why it is invalid. The error is reported only where the filter would be evaluated.
pub(crate) type CompiledFilter<'a> = Result<Filter<'a>, ResultCode>;

/// Compiles the request's filter.
pub(crate) fn compile<'a>(request: &Request<'a>, budget: &Budget<'_>) -> Option<CompiledFilter<'a>> {
    request.field(field::FILTER_EXPRESSION).map(|bytes| Filter::compile(bytes, budget))
}

/// A filter that the metadata did not decide: it needs the bins or the key.
pub(crate) struct OpenQuestion<'f> {
    filter: &'f Filter<'f>,
    metadata: Metadata<'f>,
    budget: &'f Budget<'f>,
}

impl OpenQuestion<'_> {
    /// Evaluates the filter on the record.
    ///
    /// # Errors
    /// `FilteredOut` if the request does not apply to this record; `Timeout` if the budget ran out.
    pub(crate) fn resolve(&self, bins: &dyn BinSource, key: Option<&[u8]>) -> Result<(), ResultCode> {
        let record = Record { metadata: &self.metadata, key, bins };
        let matches = self.filter.matches(&record, self.budget);
        self.budget.check(if matches { Ok(()) } else { Err(ResultCode::FilteredOut) })
    }
}

/// Evaluates `filter` on the metadata in the index. Returns the open question if that is not enough.
///
/// # Errors
/// `FilteredOut` if the request does not apply to this record; `Timeout` if the budget ran out.
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

/// Metadata of the record of `digest` for a filter; the record may not be stored yet.
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
        // The C server's smallest record size, which it also reports for a record that is not stored yet.
        stored_size: stored_size(record).max(u64::from(crate::storage::RBLOCK_SIZE)),
        medium: match namespace.config().storage.engine {
            Engine::Memory if namespace.storage.is_on_disk() => Medium::BackedMemory,
            Engine::Memory => Medium::Memory,
            _ => Medium::Device,
        },
        now_ms: now.0,
    }
}
