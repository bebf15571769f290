//! Writes: load the record's bins, let the ops change them, store the result.
//!
//! The bins borrow from the stored record and the request; the new flat record is made in the thread's buffer and then
//! put in place of the old one. Until that succeeds nothing has changed.

use std::sync::atomic::Ordering::Relaxed;

use datamodel::Bins;
use datamodel::exp::Metadata;
use datamodel::flat::{FlatRecord, NewRecord};
use datamodel::ops::{self, WriteContext, WritePolicy};
use proto::ResultCode;
use proto::message::field;

use super::checks::{check_reply_size, checked_ttl, key_to_store, void_time_after};
use super::filter::{self, OpenQuestion};
use super::{Buffers, Call, Failure, delete};
use crate::index::{PartitionId, RecordMeta, SetId, WriteGuard};
use crate::metrics::{NamespaceCounter, Operation};
use crate::namespace::{Cause, Change, Namespace, NewVersion};
use crate::storage::{ReadBuffer, StorageError};

pub(super) fn run(call: &Call<'_>, buffers: &mut Buffers, out: &mut Vec<u8>) {
    let start = out.len();
    let result = match write(call, buffers, out) {
        Ok(()) => ResultCode::Ok,
        Err(failure) => {
            // The reply was complete when storing failed.
            out.truncate(start);
            call.reply_header_only(out, failure.result, failure.generation, failure.void_time);
            failure.result
        }
    };
    call.count(Operation::Write, result);
}

fn write(call: &Call<'_>, buffers: &mut Buffers, out: &mut Vec<u8>) -> Result<(), Failure> {
    call.check_xdr_filter()?;
    check_namespace_takes_writes(call)?;
    let policy = WritePolicy::of(call.request).inspect_err(|result| {
        cf::warning_limited!(Rw, "{{{}}} bad write request: {result:?}", call.namespace.name());
    })?;
    let target = find_target(call, &policy)?;
    let (generation, void_time) = (target.found_generation, target.found_void_time);
    apply(call, &policy, target, buffers, out).map_err(|result| Failure { result, generation, void_time })
}

fn check_namespace_takes_writes(call: &Call<'_>) -> Result<(), ResultCode> {
    if call.namespace.storage.is_overloaded() {
        return Err(ResultCode::DeviceOverload);
    }
    if call.namespace.stop_writes.load(Relaxed) {
        return Err(ResultCode::OutOfSpace);
    }
    if call.namespace.config().params.disallow_null_setname.get() && call.request.set_name().is_empty() {
        cf::warning_limited!(Rw, "{{{}}} writes without a set are not allowed", call.namespace.name());
        return Err(ResultCode::Parameter);
    }
    Ok(())
}

/// The element a write goes to, and what the write starts from.
struct Target<'a> {
    guard: WriteGuard<'a>,
    /// What the index says of the live record, or will say of the one that is created.
    base: RecordMeta,
    /// There is no live record: no element before, or a tombstone, or an expired record.
    is_new: bool,
    /// What failures report of the record.
    found_generation: u16,
    found_void_time: u32,
}

fn find_target<'a>(call: &Call<'a>, policy: &WritePolicy) -> Result<Target<'a>, Failure> {
    let index = &call.namespace.index;
    if call.request.has_field(field::MRT_ID) {
        return Err(ResultCode::EnterpriseOnly.into());
    }
    let guard = if policy.must_exist {
        index.get_exclusive(&call.digest).ok_or(ResultCode::NotFound)?
    } else {
        let (guard, _) = index.get_or_create(&call.digest).map_err(|_| {
            cf::warning_limited!(Index, "{{{}}} primary index is full", call.namespace.name());
            ResultCode::Unknown
        })?;
        guard
    };
    let (found_generation, found_void_time) =
        if guard.is_tombstone() { (0, 0) } else { (guard.generation, guard.void_time) };
    let is_new = !guard.exists() || guard.is_gone(call.now.seconds());
    if policy.must_exist && is_new {
        return Err(Failure {
            result: ResultCode::NotFound,
            generation: found_generation,
            void_time: found_void_time,
        });
    }
    let base = if is_new { call.namespace.meta_of_created(&guard, SetId::NONE) } else { **guard };
    Ok(Target { guard, base, is_new, found_generation, found_void_time })
}

fn apply(
    call: &Call<'_>,
    policy: &WritePolicy,
    mut target: Target<'_>,
    buffers: &mut Buffers,
    out: &mut Vec<u8>,
) -> Result<(), ResultCode> {
    let namespace = call.namespace;
    let question = check_target(call, policy, &mut target)?;
    let Some(next) = make_next(call, policy, &target, question.as_ref(), buffers, out)? else {
        delete::remove(call, target.guard, buffers)?;
        namespace.metrics.add(NamespaceCounter::DeletedLastBin, 1);
        return Ok(());
    };
    let version = NewVersion { flat: &buffers.flat, meta: next.meta, key_stored: next.key_stored };
    let committed = namespace.commit(target.guard, &Change::Record(version), Cause::Write);
    let committed = committed.map_err(|error| storage_result(call, error))?;
    call.note_unsettled(committed.location, &mut buffers.unsettled);
    Ok(())
}

/// What a client is told when its record could not be stored.
pub(super) fn storage_result(call: &Call<'_>, error: StorageError) -> ResultCode {
    match error {
        StorageError::OutOfSpace => {
            cf::warning_limited!(Storage, "{{{}}} out of space", call.namespace.name());
            ResultCode::OutOfSpace
        }
        StorageError::Failed | StorageError::Damaged => ResultCode::Unknown,
    }
}

/// The checks that need the element but not its record. They give a record that is created its set. Gives what the filter
/// has left to ask.
fn check_target<'c>(
    call: &'c Call<'_>,
    policy: &WritePolicy,
    target: &mut Target<'_>,
) -> Result<Option<OpenQuestion<'c>>, ResultCode> {
    if policy.create_only && !target.is_new {
        return Err(ResultCode::RecordExists);
    }
    call.check_generation(target.base.generation)?;
    if target.is_new {
        target.base.set_id = call.namespace.set_for_creation(call.request.set_name())?;
    } else {
        call.check_set(&target.base)?;
    }
    if let Some(set) = call.namespace.set_of(&target.base)
        && set.is_at_size_limit()
    {
        cf::warning_limited!(
            Rw,
            "{{{}|{}}} at stop-writes-size - can't write",
            call.namespace.name(),
            set.display_name()
        );
        return Err(ResultCode::Forbidden);
    }
    if target.is_new { Ok(None) } else { call.check_filter(&target.guard) }
}

/// What the index says of the record when its new version is stored.
struct Next {
    meta: RecordMeta,
    key_stored: bool,
}

/// Lets the ops work on the record's bins and makes the new flat record and the reply. `None`: no bin is left.
fn make_next(
    call: &Call<'_>,
    policy: &WritePolicy,
    target: &Target<'_>,
    question: Option<&OpenQuestion<'_>>,
    buffers: &mut Buffers,
    out: &mut Vec<u8>,
) -> Result<Option<Next>, ResultCode> {
    let namespace = call.namespace;
    let Target { guard, base, is_new, .. } = target;
    let Buffers { flat, read, .. } = buffers;
    let is_asked = question.is_some();
    let old = if *is_new { None } else { old_record(call, guard, policy.replace && !is_asked, read)? };
    let stored_key = old.and_then(|old| old.key);
    if let Some(old) = &old {
        question.map_or(Ok(()), |question| question.settle(old, stored_key))?;
        call.check_key(old)?;
    }
    let key = match stored_key {
        None => key_to_store(call.request)?,
        stored => stored,
    };
    let set = namespace.set_of(base);
    let ttl = checked_ttl(call, set, *is_new)?;
    let mut bins = match old {
        Some(old) if !policy.replace => {
            old.load_bins().map_err(|error| namespace.report_damage(guard, &error))?
        }
        _ => Bins::new(),
    };
    let had_bins = !bins.is_empty();
    let now = if *is_new { namespace.creation_time(&call.digest, call.now.0) } else { call.now.0 };
    let last_update_time = base.last_update_time().max(now);
    let void_time = void_time_after(call, set, ttl, base.void_time);
    let metadata = filter::metadata_of(namespace, &call.digest, base, call.now);
    let context = WriteContext {
        policy: *policy,
        metadata: Metadata { last_update_time, void_time, ..metadata },
        key: stored_key.filter(|_| !policy.replace),
        budget: call.budget,
    };
    let mut reply = call.start_reply(out);
    for op in call.request.ops() {
        ops::apply(&op, &mut bins, &context, &mut reply).inspect_err(|result| {
            if *result == ResultCode::RecordTooBig {
                namespace.metrics.add(NamespaceCounter::FailRecordTooBig, 1);
            }
        })?;
        check_reply_size(&reply)?;
    }
    ops::check_bin_count(&bins)?;
    if bins.is_empty() {
        if !had_bins {
            return Err(ResultCode::NotFound);
        }
        reply.finish(&call.header(ResultCode::Ok, 0, 0));
        return Ok(None);
    }
    let record = NewRecord {
        digest: call.digest,
        last_update_time,
        generation: base.next_generation(),
        void_time,
        tree_id: namespace.partitions.tree_id(PartitionId::of(&call.digest)),
        set_name: set.map_or(&[], |set| &set.name),
        key,
        leaves_tombstone: base.leaves_tombstone(),
    };
    encode(namespace, &record, &bins, flat)?;
    reply.finish(&call.header(ResultCode::Ok, record.generation, record.void_time));
    let mut meta = *base;
    (meta.generation, meta.void_time) = (record.generation, void_time);
    meta.set_last_update_time(last_update_time);
    Ok(Some(Next { meta, key_stored: key.is_some() }))
}

/// The record that is to change. What replaces it needs nothing of it but the key that may be stored with it, so then it
/// may be damaged; its key is lost.
fn old_record<'g>(
    call: &'g Call<'_>,
    guard: &'g WriteGuard<'_>,
    is_replaced: bool,
    scratch: &'g mut ReadBuffer,
) -> Result<Option<FlatRecord<'g>>, ResultCode> {
    if is_replaced && !guard.location.key_stored() {
        return Ok(None);
    }
    match call.namespace.record(guard, scratch) {
        Err(_) if is_replaced => Ok(None),
        record => record.map(Some),
    }
}

/// Makes the flat form of `record`.
fn encode(
    namespace: &Namespace,
    record: &NewRecord<'_>,
    bins: &Bins<'_>,
    flat: &mut Vec<u8>,
) -> Result<(), ResultCode> {
    let size = record.size(bins);
    if size > namespace.config().params.max_record_size.get() as usize {
        namespace.metrics.add(NamespaceCounter::FailRecordTooBig, 1);
        return Err(ResultCode::RecordTooBig);
    }
    record.encode(bins, size, flat);
    Ok(())
}
