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
use crate::index::{CreateOutcome, Element, PartitionId, WriteGuard};
use crate::metrics::{NamespaceCounter, Operation};
use crate::namespace::Namespace;
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

/// The element a write goes to, and what of the record failures report.
struct Target<'a> {
    guard: WriteGuard<'a>,
    /// There is no live record: the element was just made, or its record has expired.
    is_new: bool,
    /// The tombstone that was in the record's place, or was put there when it had expired.
    tombstone: Option<Element>,
    found_generation: u16,
    found_void_time: u32,
}

fn find_target<'a>(call: &Call<'a>, policy: &WritePolicy) -> Result<Target<'a>, Failure> {
    let index = &call.namespace.index;
    let is_transaction = call.request.has_field(field::MRT_ID);
    let (mut guard, created) = if policy.must_exist {
        let found = index.get_exclusive(&call.digest);
        if is_transaction {
            return Err(ResultCode::EnterpriseOnly.into());
        }
        (found.ok_or(ResultCode::NotFound)?, false)
    } else {
        if is_transaction {
            return Err(ResultCode::EnterpriseOnly.into());
        }
        let (guard, outcome) = index.get_or_create(&call.digest).map_err(|_| {
            cf::warning_limited!(Index, "{{{}}} primary index is full", call.namespace.name());
            ResultCode::Unknown
        })?;
        (guard, outcome == CreateOutcome::Created)
    };
    let was_tombstone = guard.is_tombstone();
    let (found_generation, found_void_time) =
        if was_tombstone { (0, 0) } else { (guard.generation, guard.void_time) };
    let is_expired = !created && guard.is_expired(call.now.seconds());
    if policy.must_exist && (was_tombstone || is_expired) {
        return Err(Failure {
            result: ResultCode::NotFound,
            generation: found_generation,
            void_time: found_void_time,
        });
    }
    if is_expired && guard.leaves_tombstone() {
        let result = call.namespace.entomb(&mut guard, call.now);
        result.map_err(|error| storage_result(call, error))?;
    } else if is_expired {
        call.namespace.recycle(&mut guard);
    }
    let tombstone = guard.is_tombstone().then(|| call.namespace.exhume(&mut guard));
    let is_new = created || is_expired || was_tombstone;
    Ok(Target { guard, is_new, tombstone, found_generation, found_void_time })
}

/// What a write left behind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Stored,
    /// No bin is left: the record goes.
    Emptied,
}

fn apply(
    call: &Call<'_>,
    policy: &WritePolicy,
    target: Target<'_>,
    buffers: &mut Buffers,
    out: &mut Vec<u8>,
) -> Result<(), ResultCode> {
    let Target { mut guard, is_new, tombstone, .. } = target;
    let namespace = call.namespace;
    match (commit(call, policy, &mut guard, is_new, buffers, out), tombstone) {
        (Ok(Outcome::Stored), tombstone) => {
            call.note_unsettled(guard.location, &mut buffers.unsettled);
            if let Some(tombstone) = tombstone {
                namespace.replace_tombstone(&tombstone, &guard);
            }
            Ok(())
        }
        (Ok(Outcome::Emptied), _) => {
            delete::remove(call, guard, buffers)?;
            namespace.metrics.add(NamespaceCounter::DeletedLastBin, 1);
            Ok(())
        }
        (Err(result), None) => {
            namespace.abandon(guard);
            Err(result)
        }
        (Err(result), Some(tombstone)) => {
            namespace.rebury(&mut guard, &tombstone);
            Err(result)
        }
    }
}

fn commit(
    call: &Call<'_>,
    policy: &WritePolicy,
    guard: &mut WriteGuard<'_>,
    is_new: bool,
    buffers: &mut Buffers,
    out: &mut Vec<u8>,
) -> Result<Outcome, ResultCode> {
    let question = check_target(call, policy, guard, is_new)?;
    let Some(next) = make_next(call, policy, guard, question.as_ref(), is_new, buffers, out)? else {
        return Ok(Outcome::Emptied);
    };
    let before = (guard.generation, guard.last_update_time(), guard.void_time);
    guard.generation = next.generation;
    guard.set_last_update_time(next.last_update_time);
    guard.void_time = next.void_time;
    match call.namespace.store(guard, &buffers.flat, next.key_stored, before.2) {
        Ok(()) => Ok(Outcome::Stored),
        Err(error) => {
            guard.generation = before.0;
            guard.set_last_update_time(before.1);
            guard.void_time = before.2;
            Err(storage_result(call, error))
        }
    }
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

/// The checks that need the element but not its record. Gives what the filter has left to ask.
fn check_target<'c>(
    call: &'c Call<'_>,
    policy: &WritePolicy,
    guard: &mut WriteGuard<'_>,
    is_new: bool,
) -> Result<Option<OpenQuestion<'c>>, ResultCode> {
    if policy.create_only && !is_new {
        return Err(ResultCode::RecordExists);
    }
    call.check_generation(guard.generation)?;
    if !is_new {
        call.check_set(guard)?;
    } else if !call.request.set_name().is_empty() {
        call.namespace.assign_set(guard, call.request.set_name())?;
    }
    if let Some(set) = call.namespace.set_of(guard)
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
    if is_new { Ok(None) } else { call.check_filter(guard) }
}

/// What changes in the index when the new flat record is stored.
struct Next {
    generation: u16,
    last_update_time: u64,
    void_time: u32,
    key_stored: bool,
}

/// Lets the ops work on the record's bins and makes the new flat record and the reply. `None`: no bin is left.
fn make_next(
    call: &Call<'_>,
    policy: &WritePolicy,
    guard: &WriteGuard<'_>,
    question: Option<&OpenQuestion<'_>>,
    is_new: bool,
    buffers: &mut Buffers,
    out: &mut Vec<u8>,
) -> Result<Option<Next>, ResultCode> {
    let namespace = call.namespace;
    let Buffers { flat, read, .. } = buffers;
    let is_asked = question.is_some();
    let old = if is_new { None } else { old_record(call, guard, policy.replace && !is_asked, read)? };
    let stored_key = old.and_then(|old| old.key);
    if let Some(old) = &old {
        question.map_or(Ok(()), |question| question.settle(old, stored_key))?;
        call.check_key(old)?;
    }
    let key = match stored_key {
        None => key_to_store(call.request)?,
        stored => stored,
    };
    let set = namespace.set_of(guard);
    let ttl = checked_ttl(call, set, is_new)?;
    let mut bins = match old {
        Some(old) if !policy.replace => {
            old.load_bins().map_err(|error| namespace.report_damage(guard, &error))?
        }
        _ => Bins::new(),
    };
    let had_bins = !bins.is_empty();
    let now = if is_new { namespace.creation_time(&call.digest, call.now.0) } else { call.now.0 };
    let last_update_time = guard.last_update_time().max(now);
    let void_time = void_time_after(call, set, ttl, guard.void_time);
    let context = WriteContext {
        policy: *policy,
        metadata: Metadata { last_update_time, void_time, ..filter::metadata(namespace, guard, call.now) },
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
        generation: guard.next_generation(),
        void_time,
        tree_id: namespace.storage.tree_id(PartitionId::of(&call.digest)),
        set_name: set.map_or(&[], |set| &set.name),
        key,
        leaves_tombstone: guard.leaves_tombstone(),
    };
    encode(namespace, &record, &bins, flat)?;
    reply.finish(&call.header(ResultCode::Ok, record.generation, record.void_time));
    Ok(Some(Next { generation: record.generation, last_update_time, void_time, key_stored: key.is_some() }))
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
