//! Writes: load the record's bins, let the ops change them, store the result.
//!
//! The bins borrow from the stored record and the request. The new flat record is made in the thread's buffer and
//! then committed; until then nothing has changed.

use std::sync::atomic::Ordering::Relaxed;

use datamodel::Bins;
use datamodel::exp::Metadata;
use datamodel::flat::{FlatRecord, NewRecord};
use datamodel::ops::{self, WriteContext, WritePolicy};
use proto::ResultCode;
use proto::message::field;

use super::checks::{check_reply_size, checked_ttl, key_to_store, void_time_after};
use super::filter::{self, OpenQuestion};
use super::flat_buffer::FlatBuffer;
use super::old_record::{OldRecord, storage_result};
use super::optimistic::{Attempt, Turn, until_committed};
use super::subject::{RecordCopy, Subject};
use super::{Buffers, Call, Failure, Place, Wait, delete, refused};
use crate::index::{RecordMeta, SetId, WriteGuard};
use crate::metrics::{NamespaceCounter, Operation};
use crate::namespace::{Cause, Change, ForObservers, NewVersion};
use crate::storage::ReadBuffer;

pub(super) fn run(call: &Call<'_>, buffers: &mut Buffers, out: &mut Vec<u8>) -> Option<Wait> {
    let start = out.len();
    let result = match write(call, buffers, out) {
        Ok(Done::Written) => ResultCode::Ok,
        Ok(Done::Reserved) => return Some(Wait::Record(call.record_key())),
        Err(failure) => {
            let mut failure = failure;
            if call.budget.is_exhausted() {
                if let Some(wait) = call.wait_of_exhausted() {
                    return Some(wait);
                }
                failure = ResultCode::Timeout.into();
            } else if let Some(wait) = call.wait_of_failed(&mut buffers.read) {
                return Some(wait);
            }
            // The reply was complete when storing failed.
            out.truncate(start);
            call.reply_header_only(out, failure.result, failure.generation, failure.void_time);
            failure.result
        }
    };
    call.count(Operation::Write, result);
    None
}

enum Done {
    Written,
    /// The record is reserved by another writer.
    Reserved,
}

fn write(call: &Call<'_>, buffers: &mut Buffers, out: &mut Vec<u8>) -> Result<Done, Failure> {
    call.check_xdr_filter()?;
    check_namespace_takes_writes(call)?;
    let policy = WritePolicy::of(call.request).inspect_err(|result| {
        cf::warning_limited!(Rw, "{{{}}} bad write request: {result:?}", call.namespace.name());
    })?;
    if call.request.has_field(field::MRT_ID) {
        return Err(ResultCode::EnterpriseOnly.into());
    }
    match call.place {
        Place::Service => write_in_place(call, &policy, buffers, out),
        Place::Pool { .. } => {
            let start = out.len();
            until_committed(call, |turn| {
                out.truncate(start);
                write_from_copy(call, &policy, buffers, turn, out)
            })
        }
    }
}

/// Writes under the record's lock.
fn write_in_place(
    call: &Call<'_>,
    policy: &WritePolicy,
    buffers: &mut Buffers,
    out: &mut Vec<u8>,
) -> Result<Done, Failure> {
    let guard = find(call, policy)?;
    if call.is_reserved() {
        return Ok(Done::Reserved);
    }
    let target = Target::of(call, policy, Subject::Locked(&guard))?;
    let failed = target.failed();
    let next = make_next(call, policy, target, buffers, out).map_err(failed)?;
    commit(call, guard, next, &OldRecord::LastRead, buffers).map_err(failed)?;
    Ok(Done::Written)
}

/// Computes the new record from a copy of the present one, and commits it if the record has not changed.
fn write_from_copy(
    call: &Call<'_>,
    policy: &WritePolicy,
    buffers: &mut Buffers,
    turn: Turn,
    out: &mut Vec<u8>,
) -> Result<Attempt<Done>, Failure> {
    let copy = RecordCopy::read(call, &mut buffers.read, |_| {})?;
    if policy.must_exist && !copy.meta.exists() {
        return Err(ResultCode::NotFound.into());
    }
    let target = Target::of(call, policy, Subject::Copied(&copy))?;
    let failed = target.failed();
    let next = make_next(call, policy, target, buffers, out).map_err(failed)?;
    let old = OldRecord::of(call, &copy, &next.change(&buffers.flat));
    cf::fault_point!("commit-from-copy");
    let guard = find(call, policy)?;
    if !turn.has_come(call) || !copy.is_version(&guard) || is_overtaken(call, turn, &copy, &next) {
        return Ok(Attempt::Lost);
    }
    cf::fault_point!("commit-under-lock");
    commit(call, guard, next, &old, buffers).map_err(failed)?;
    Ok(Attempt::Committed(Done::Written))
}

/// Whether a record that was created and removed since `copy` was taken is newer than `next`, so that its copy on
/// disk would replace `next` at a start. Also true if a truncation hides `next`. While the record is reserved, others
/// cannot create or remove it.
pub(super) fn is_overtaken(call: &Call<'_>, turn: Turn, copy: &RecordCopy, next: &Next) -> bool {
    let Next::Record { meta, .. } = next else { return false };
    if call.namespace.is_truncated(meta) {
        return true;
    }
    let is_created = !copy.meta.exists();
    let updated = meta.last_update_time();
    is_created
        && turn == Turn::Free
        && call.namespace.creation_time(&call.digest, meta.set_id, updated) > updated
}

/// The guard of the written element; the element is created if the policy allows that.
fn find<'a>(call: &Call<'a>, policy: &WritePolicy) -> Result<WriteGuard<'a>, ResultCode> {
    if policy.must_exist { call.get_exclusive()?.ok_or(ResultCode::NotFound) } else { call.get_or_create() }
}

fn check_namespace_takes_writes(call: &Call<'_>) -> Result<(), ResultCode> {
    if call.namespace.stop_writes.load(Relaxed) {
        let is_overloaded = call.namespace.storage.is_overloaded();
        return Err(if is_overloaded { ResultCode::DeviceOverload } else { ResultCode::OutOfSpace });
    }
    call.check_room()?;
    if call.namespace.config().params.disallow_null_setname.get() && call.request.set_name().is_empty() {
        cf::warning_limited!(Rw, "{{{}}} writes without a set are not allowed", call.namespace.name());
        return Err(ResultCode::Parameter);
    }
    Ok(())
}

/// The state that a write starts from.
struct Target<'a> {
    subject: Subject<'a>,
    /// Metadata of the live record, or of the one being created.
    base: RecordMeta,
    /// Whether there is no live record: no element, a tombstone, or an expired or truncated record.
    is_new: bool,
    /// The generation reported with failures.
    found_generation: u16,
    found_void_time: u32,
}

impl<'a> Target<'a> {
    fn of(call: &Call<'_>, policy: &WritePolicy, subject: Subject<'a>) -> Result<Self, Failure> {
        let found = subject.meta();
        let (found_generation, found_void_time) =
            if found.is_tombstone() { (0, 0) } else { (found.generation, found.void_time) };
        let is_new = !found.exists() || call.namespace.is_gone(found, call.now.seconds());
        let base = if is_new { call.namespace.meta_of_created(found, SetId::NONE) } else { *found };
        let target = Target { subject, base, is_new, found_generation, found_void_time };
        if policy.must_exist && is_new {
            return Err(target.failed()(ResultCode::NotFound));
        }
        Ok(target)
    }

    /// Makes a failure with the found generation.
    fn failed(&self) -> impl Fn(ResultCode) -> Failure + Copy + 'static {
        let (generation, void_time) = (self.found_generation, self.found_void_time);
        move |result| Failure { result, generation, void_time }
    }
}

/// Commits `next` to the record of `guard`.
pub(super) fn commit(
    call: &Call<'_>,
    guard: WriteGuard<'_>,
    next: Next,
    old: &OldRecord<'_>,
    buffers: &mut Buffers,
) -> Result<(), ResultCode> {
    let namespace = call.namespace;
    // A result computed after the budget ran out must not be stored.
    call.budget.check(Ok(()))?;
    if matches!(next, Next::Gone) {
        delete::remove(call, guard, old, buffers)?;
        if !call.request.has_field(field::UDF_FILE) {
            namespace.metrics.add(NamespaceCounter::DeletedLastBin, 1);
        }
        return Ok(());
    }
    let Buffers { flat, read, unsettled, commits } = buffers;
    let prepared = old.prepared();
    let old = old.bytes(namespace, &guard, read)?;
    let _committing = call.begin_commit(&guard, commits)?;
    let for_observers = ForObservers { old, budget: Some(call.budget), prepared, removed_at: None };
    let committed = namespace.commit_with(guard, &next.change(flat), Cause::Write, for_observers);
    let committed = committed.map_err(|error| storage_result(call, error))?;
    call.note_changed(committed.location, unsettled);
    Ok(())
}

/// The checks that need the element but not its record. They set the set of a record that is created. Returns the
/// filter's open question.
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
        if call.namespace.truncates_new_records(target.base.set_id, call.now) {
            return Err(ResultCode::Forbidden);
        }
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
    if target.is_new { Ok(None) } else { call.check_filter(&target.base) }
}

/// The next state of the record.
pub(super) enum Next {
    /// Its new version is in the thread's buffer; this is its metadata.
    Record { meta: RecordMeta, key_stored: bool },
    /// No bin is left: the record is removed.
    Gone,
}

impl Next {
    /// The change to this state, with the new version in `flat`.
    pub(super) fn change<'f>(&self, flat: &'f FlatBuffer) -> Change<'f> {
        match self {
            Next::Record { meta, key_stored } => Change::Record(NewVersion {
                flat: flat.plain(),
                packed: flat.packed(),
                meta: *meta,
                key_stored: *key_stored,
            }),
            Next::Gone => Change::Gone,
        }
    }
}

/// Applies the ops to the record's bins and makes the new flat record and the reply.
#[inline]
fn make_next(
    call: &Call<'_>,
    policy: &WritePolicy,
    mut target: Target<'_>,
    buffers: &mut Buffers,
    out: &mut Vec<u8>,
) -> Result<Next, ResultCode> {
    let question = check_target(call, policy, &mut target)?;
    let namespace = call.namespace;
    let Target { subject, base, is_new, .. } = &target;
    let Buffers { flat, read, .. } = buffers;
    let is_replaced = policy.replace && question.is_none() && call.check.is_none();
    let old = if *is_new { None } else { old_record(call, *subject, is_replaced, read)? };
    let stored_key = old.and_then(|old| old.key);
    if let Some(old) = &old {
        call.check_reply_room(old.size)?;
        question.map_or(Ok(()), |question| question.resolve(old, stored_key))?;
        if let Some(check) = call.check
            && !check.passes(old, call.budget)?
        {
            return Err(ResultCode::NotFound);
        }
        call.check_key(old)?;
    }
    let key = match stored_key {
        None => key_to_store(call.request)?,
        stored => stored,
    };
    let set = namespace.set_of(base);
    let ttl = checked_ttl(call, set, *is_new)?;
    let mut bins = Bins::new();
    if let Some(old) = &old
        && !policy.replace
    {
        call.budget.draw(old.load_steps())?;
        old.load_bins_into(&mut bins).map_err(|error| subject.report_damage(call, &error))?;
    }
    let had_bins = !bins.is_empty();
    let now = namespace.partitions.update_time(call.now.0);
    let now = if *is_new { namespace.creation_time(&call.digest, base.set_id, now) } else { now };
    let last_update_time = base.next_update_time(now);
    namespace.warn_of_clock(last_update_time, call.now);
    let void_time = void_time_after(call, set, ttl, (!is_new).then_some(base.void_time));
    let leaves_tombstone = namespace.must_leave_tombstone(base, !*is_new, void_time);
    let metadata = || Metadata {
        last_update_time,
        void_time,
        ..filter::metadata_of(namespace, &call.digest, base, call.now)
    };
    let context = WriteContext {
        policy: *policy,
        metadata: &metadata,
        key: stored_key.filter(|_| !policy.replace),
        budget: call.budget,
    };
    let mut reply = call.start_reply(out);
    for op in call.request.ops() {
        ops::apply(&op, &mut bins, &context, &mut reply).inspect_err(|&result| {
            refused::log(call, &op, bins.get(op.name), result);
            if result == ResultCode::RecordTooBig {
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
        return Ok(Next::Gone);
    }
    let record = NewRecord {
        digest: call.digest,
        last_update_time,
        generation: base.next_generation(),
        void_time,
        tree_id: call.tree_id,
        set_name: set.map_or(&[], |set| &set.name),
        key,
        leaves_tombstone,
    };
    encode(call, &record, &bins, flat)?;
    reply.finish(&call.header(ResultCode::Ok, record.generation, record.void_time));
    let mut meta = *base;
    (meta.generation, meta.void_time) = (record.generation, void_time);
    meta.set_last_update_time(last_update_time);
    meta.set_leaves_tombstone(leaves_tombstone);
    Ok(Next::Record { meta, key_stored: key.is_some() })
}

/// The record to change. If it is to be replaced, only its key is needed, so a damaged record is accepted and its key
/// is lost. Fails if the record cannot be read in time.
#[inline(always)]
fn old_record<'g>(
    call: &Call<'g>,
    subject: Subject<'g>,
    is_replaced: bool,
    scratch: &'g mut ReadBuffer,
) -> Result<Option<FlatRecord<'g>>, ResultCode> {
    if is_replaced && !subject.meta().location.key_stored() {
        return Ok(None);
    }
    match subject.record(call, scratch) {
        Err(result) if is_replaced && result != ResultCode::Timeout => Ok(None),
        record => record.map(Some),
    }
}

/// Makes the flat form of `record`, if it is not too big.
pub(super) fn encode(
    call: &Call<'_>,
    record: &NewRecord<'_>,
    bins: &Bins<'_>,
    flat: &mut FlatBuffer,
) -> Result<(), ResultCode> {
    let size = record.size(bins);
    if size > call.namespace.config().params.max_record_size.get() as usize {
        call.namespace.metrics.add(NamespaceCounter::FailRecordTooBig, 1);
        return Err(ResultCode::RecordTooBig);
    }
    encode_any(call, record, (bins, size), flat)
}

/// Makes the flat form of `record`, which has `size` bytes with `bins`.
pub(super) fn encode_any(
    call: &Call<'_>,
    record: &NewRecord<'_>,
    (bins, size): (&Bins<'_>, usize),
    flat: &mut FlatBuffer,
) -> Result<(), ResultCode> {
    call.budget.draw_for_copy(size)?;
    let settings = call.namespace.storage.pack_settings();
    if let Some(settings) = &settings {
        call.budget.draw(settings.pack_steps(size))?;
    }
    flat.encode(record, (bins, size), settings.as_ref(), &call.namespace.metrics.data_compression);
    Ok(())
}
