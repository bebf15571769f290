//! Deletes of whole records. An expired record is deleted like any other.

use proto::ResultCode;
use proto::message::{field, info2};

use super::old_record::{OldRecord, storage_result};
use super::optimistic::{Attempt, Turn, until_committed};
use super::subject::{RecordCopy, Subject};
use super::{Buffers, Call, Failure, Place, Wait};
use crate::index::WriteGuard;
use crate::metrics::Operation;
use crate::namespace::{Cause, Change, ForObservers, Removal};
use crate::storage::{ReadBuffer, StorageError};

pub(super) fn run(call: &Call<'_>, buffers: &mut Buffers, out: &mut Vec<u8>) -> Option<Wait> {
    let deleted = match call.place {
        Place::Service => delete(call, buffers),
        Place::Pool { .. } => until_committed(call, |turn| delete_from_copy(call, buffers, turn)),
    };
    let result = match deleted {
        Ok(Done::Deleted) => ResultCode::Ok,
        Ok(Done::Reserved) => return Some(Wait::Record(call.record_key())),
        Err(_) if call.budget.is_exhausted() => match call.wait_of_exhausted() {
            Some(wait) => return Some(wait),
            None => ResultCode::Timeout,
        },
        Err(failure) => match call.wait_of_failed(&mut buffers.read) {
            Some(wait) => return Some(wait),
            None => failure.result,
        },
    };
    call.reply_header_only(out, result, 0, 0);
    call.count(Operation::Delete, result);
    None
}

enum Done {
    Deleted,
    /// The record is reserved by another writer.
    Reserved,
}

/// Deletes the record under its lock.
fn delete(call: &Call<'_>, buffers: &mut Buffers) -> Result<Done, Failure> {
    check_request(call)?;
    let guard = find(call)?;
    if call.is_reserved() {
        return Ok(Done::Reserved);
    }
    check_record(call, Subject::Locked(&guard), &mut buffers.read)?;
    remove(call, guard, &OldRecord::LastRead, buffers)?;
    Ok(Done::Deleted)
}

/// Checks on a copy of the record whether it may be deleted, and deletes the record if it has not changed.
fn delete_from_copy(call: &Call<'_>, buffers: &mut Buffers, turn: Turn) -> Result<Attempt<Done>, Failure> {
    check_request(call)?;
    let copy = RecordCopy::read(call, &mut buffers.read, |_| {})?;
    if !copy.meta.exists() || copy.meta.is_tombstone() {
        return Err(ResultCode::NotFound.into());
    }
    check_record(call, Subject::Copied(&copy), &mut buffers.read)?;
    let old = OldRecord::of(call, &copy, &Change::Gone);
    let guard = find(call)?;
    if !turn.has_come(call) || !copy.is_version(&guard) {
        return Ok(Attempt::Lost);
    }
    remove(call, guard, &old, buffers)?;
    Ok(Attempt::Committed(Done::Deleted))
}

fn check_request(call: &Call<'_>) -> Result<(), ResultCode> {
    call.check_xdr_filter()?;
    call.check_disk()?;
    if call.request.has_field(field::MRT_ID) { Err(ResultCode::EnterpriseOnly) } else { Ok(()) }
}

/// The guard of the record to delete.
fn find<'a>(call: &Call<'a>) -> Result<WriteGuard<'a>, ResultCode> {
    let found = call.get_exclusive()?;
    found.filter(|guard| !guard.is_tombstone()).ok_or(ResultCode::NotFound)
}

/// The checks that need the record.
fn check_record(call: &Call<'_>, subject: Subject<'_>, scratch: &mut ReadBuffer) -> Result<(), ResultCode> {
    let meta = subject.meta();
    call.check_set_if_named(meta)?;
    call.check_generation(meta.generation)?;
    let question = call.check_filter(meta)?;
    if question.is_none() && (call.request.key.is_none() || !meta.location.key_stored()) {
        return Ok(());
    }
    match (subject.record(call, scratch), question) {
        (Ok(record), question) => {
            question.map_or(Ok(()), |question| question.resolve(&record, record.key))?;
            call.check_key(&record)
        }
        (Err(result), Some(_)) => Err(result),
        (Err(result), None) if call.budget.is_exhausted() || result == ResultCode::Timeout => Err(result),
        // A damaged record has no key to compare; it can be deleted.
        (Err(_), None) => Ok(()),
    }
}

/// Removes the record of `guard`. A tombstone takes its place if the request or the namespace asks for a durable
/// delete, or if the record itself must leave one.
///
/// # Errors
/// When the tombstone cannot be stored; the record is unchanged then.
pub(super) fn remove(
    call: &Call<'_>,
    guard: WriteGuard<'_>,
    copy: &OldRecord<'_>,
    buffers: &mut Buffers,
) -> Result<(), ResultCode> {
    let namespace = call.namespace;
    let Buffers { flat, read, unsettled, commits } = buffers;
    let is_durable =
        call.request.info2 & info2::DURABLE_DELETE != 0 || namespace.config().params.durable_deletes.get();
    let keeps_key = (is_durable || guard.leaves_tombstone()) && guard.location.key_stored();
    let old = keeps_key.then(|| namespace.storage.record_head(&guard, read));
    let old = match old {
        Some(Err(error @ StorageError::NotInMemory)) => return Err(storage_result(call, error)),
        // The key of a damaged record is lost.
        old => old.and_then(Result::ok),
    };
    let key: Option<Vec<u8>> = old.and_then(|old| old.key).map(<[u8]>::to_vec);
    let (old, prepared) = (copy.bytes(namespace, &guard, read)?, copy.prepared());
    let for_observers = ForObservers { old, budget: Some(call.budget), prepared, removed_at: None };
    let removal =
        Removal { cause: Cause::Delete, now: call.now, is_durable, key: key.as_deref(), for_observers };
    let _committing = call.begin_commit(&guard, commits)?;
    let removed = namespace.remove(guard, &removal, flat.for_tombstone());
    let committed = removed.map_err(|error| storage_result(call, error))?;
    call.note_changed(committed.location, unsettled);
    Ok(())
}
