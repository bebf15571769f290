//! Deletes of whole records. An expired record is deleted like any other.

use proto::ResultCode;
use proto::message::{field, info2};

use super::write::storage_result;
use super::{Buffers, Call};
use crate::index::WriteGuard;
use crate::metrics::Operation;
use crate::namespace::{Cause, Removal};

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
/// by a tombstone in its place. Without being asked too, if the record itself took the place of one.
///
/// # Errors
/// When the tombstone cannot be stored; then the record is as it was.
pub(super) fn remove(
    call: &Call<'_>,
    guard: WriteGuard<'_>,
    buffers: &mut Buffers,
) -> Result<(), ResultCode> {
    let namespace = call.namespace;
    let is_durable =
        call.request.info2 & info2::DURABLE_DELETE != 0 || namespace.config().params.durable_deletes.get();
    let keeps_key = (is_durable || guard.leaves_tombstone()) && guard.location.key_stored();
    // The key of a damaged record is lost.
    let old = if keeps_key { namespace.record(&guard, &mut buffers.read).ok() } else { None };
    let key: Option<Vec<u8>> = old.and_then(|old| old.key).map(<[u8]>::to_vec);
    let removal = Removal { cause: Cause::Delete, now: call.now, is_durable, key: key.as_deref() };
    let removed = namespace.remove(guard, &removal, &mut buffers.flat);
    let committed = removed.map_err(|error| storage_result(call, error))?;
    call.note_unsettled(committed.location, &mut buffers.unsettled);
    Ok(())
}
