//! Deletes of whole records. An expired record is deleted like any other.

use datamodel::Bins;
use datamodel::flat::NewRecord;
use proto::ResultCode;
use proto::message::{field, info2};

use super::checks::next_generation;
use super::write::storage_result;
use super::{Buffers, Call};
use crate::index::{PartitionId, WriteGuard};
use crate::metrics::Operation;

pub(super) fn run(call: &Call<'_>, buffers: &mut Buffers, out: &mut Vec<u8>) {
    let result = match delete(call, buffers) {
        Ok(()) => ResultCode::Ok,
        Err(result) => result,
    };
    call.reply_header_only(out, result, 0, 0);
    call.count(Operation::Delete, result);
}

fn delete(call: &Call<'_>, buffers: &mut Buffers) -> Result<(), ResultCode> {
    call.check_xdr_filter()?;
    if call.request.has_field(field::MRT_ID) {
        return Err(ResultCode::EnterpriseOnly);
    }
    let found = call.namespace.index.get_exclusive(&call.digest);
    let guard = found.filter(|guard| !guard.is_tombstone()).ok_or(ResultCode::NotFound)?;
    call.check_set_if_named(&guard)?;
    call.check_generation(guard.generation)?;
    let question = call.check_filter(&guard)?;
    if question.is_some() || call.request.key.is_some() && guard.location.key_stored() {
        match (call.namespace.record(&guard, &mut buffers.read), question) {
            (Ok(record), question) => {
                question.map_or(Ok(()), |question| question.settle(&record, record.key))?;
                call.check_key(&record)?;
            }
            (Err(result), Some(_)) => return Err(result),
            // A damaged record has no key that another could be compared with; it can be deleted.
            (Err(_), None) => {}
        }
    }
    remove(call, guard, buffers)
}

/// Removes the record of `guard`: if the request or the namespace asks for it so that it stays removed after a restart,
/// by a tombstone in its place.
///
/// # Errors
/// When the tombstone cannot be stored; then the record is as it was.
pub(super) fn remove(
    call: &Call<'_>,
    mut guard: WriteGuard<'_>,
    buffers: &mut Buffers,
) -> Result<(), ResultCode> {
    let namespace = call.namespace;
    let is_durable =
        call.request.info2 & info2::DURABLE_DELETE != 0 || namespace.config().params.durable_deletes.get();
    if !is_durable {
        namespace.remove(guard);
        return Ok(());
    }
    let (generation, last_update_time) =
        (next_generation(guard.generation), guard.last_update_time().max(call.now.0));
    let key_stored = {
        // The key of a damaged record is lost.
        let old =
            guard.location.key_stored().then(|| namespace.record(&guard, &mut buffers.read).ok()).flatten();
        let key = old.and_then(|old| old.key);
        let tombstone = NewRecord {
            digest: call.digest,
            last_update_time,
            generation,
            void_time: 0,
            tree_id: namespace.storage.tree_id(PartitionId::of(&call.digest)),
            set_name: namespace.set_of(&guard).map_or(&[], |set| &set.name),
            key,
        };
        let bins = Bins::new();
        tombstone.encode(&bins, tombstone.size(&bins), &mut buffers.flat);
        key.is_some()
    };
    let before = (guard.generation, guard.last_update_time(), guard.void_time);
    guard.generation = generation;
    guard.set_last_update_time(last_update_time);
    guard.void_time = 0;
    namespace.bury(&mut guard, &buffers.flat, key_stored).map_err(|error| {
        guard.generation = before.0;
        guard.set_last_update_time(before.1);
        guard.void_time = before.2;
        storage_result(call, error)
    })?;
    call.note_unsettled(guard.location, &mut buffers.unsettled);
    if before.2 != 0 {
        namespace.expiry.note(&call.digest);
    }
    Ok(())
}
