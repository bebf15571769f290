//! Runs a user-defined function on one record: in a pool, on a copy of the record. If all recent calls of a module
//! were short, its functions are first tried on the service thread, for a fraction of a millisecond. If that is not
//! enough, their effects are dropped, and they run again in the pool.
//!
//! The function runs without a lock. When it has ended, the bins that it has saved are stored as one write, if the
//! record has not changed since; otherwise it runs again. Its result is the value of a bin `SUCCESS` in the reply,
//! its error that of a bin `FAILURE`. A failed save has a code of its own and no bin.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use cf::clock::StoredMillis;
use datamodel::flat::{NewRecord, SET_NAME_SIZE_MAX};
use proto::ResultCode;
use proto::message::{field, info2, info3, op_code};

use super::checks::{checked_ttl_of, key_to_store, void_time_after};
use super::old_record::OldRecord;
use super::optimistic::{Attempt, Turn, until_committed};
use super::subject::{RecordCopy, Subject};
use super::write::{self, Next};
use super::{Buffers, Call, Failure, Place, Wait};
use crate::config::Engine;
use crate::index::{PartitionId, RecordMeta, SetId};
use crate::metrics::{Operation, Origin};
use crate::namespace::stored_size;
use crate::udf::{
    self, EndedCall, FoundRecord, FunctionCall, Lease, Output, RecordInput, RecordState, TimeLimit,
};

/// Length limit (exclusive) of the names of modules and functions.
const NAME_SIZE_MAX: usize = 128;
/// Longest run of a function on a service thread.
const INLINE_TIME_MAX: Duration = Duration::from_micros(200);
/// Steps that a call on a service thread draws from the budget of its request before it begins. So after some calls
/// the rest of a batch goes to a batch thread.
const INLINE_CALL_STEPS: u64 = 20_000;
/// Maximum number of bytes of the record, and of the arguments, of a call on a service thread.
const INLINE_SIZE_MAX: u64 = 64 << 10;

pub(super) fn run(call: &Call<'_>, buffers: &mut Buffers, out: &mut Vec<u8>) -> Option<Wait> {
    let start = out.len();
    let result = match apply(call, buffers, out) {
        Ok(Done::Answered(result)) => result,
        Ok(Done::Waits(wait)) => return Some(wait),
        Err(failure) => {
            let mut failure = failure;
            if call.budget.is_exhausted() {
                failure = ResultCode::Timeout.into();
            } else if let Some(wait) = call.wait_of_failed(&mut buffers.read) {
                return Some(wait);
            }
            out.truncate(start);
            call.reply_header_only(out, failure.result, failure.generation, failure.void_time);
            failure.result
        }
    };
    call.count(Operation::Udf, result);
    None
}

enum Done {
    /// The reply is made; the transaction counts with this result.
    Answered(ResultCode),
    Waits(Wait),
}

fn apply(call: &Call<'_>, buffers: &mut Buffers, out: &mut Vec<u8>) -> Result<Done, Failure> {
    if call.context.config.service.disable_udf_execution.get() {
        return Err(ResultCode::Forbidden.into());
    }
    call.check_xdr_filter()?;
    call.check_room()?;
    let function = function_of(call)?;
    if call.request.has_field(field::MRT_ID) {
        return Err(ResultCode::EnterpriseOnly.into());
    }
    let Place::Pool { limit } = call.place else {
        return apply_at_once(call, &function, buffers, out);
    };
    let (start, mut awaited) = (out.len(), None);
    until_committed(call, |turn| {
        out.truncate(start);
        // Others wait for the record while it is reserved, and while this request has the turn to write it.
        let is_awaited = turn == Turn::Reserved || call.has_turn;
        let limit = if is_awaited { *awaited.get_or_insert_with(|| limit.while_awaited()) } else { limit };
        attempt(call, &function, Run { limit, turn, lease: None }, buffers, out)
    })
}

/// Inputs of an attempt.
struct Run<'a> {
    limit: TimeLimit,
    turn: Turn,
    /// The interpreter for a call on a service thread.
    lease: Option<Lease<'a>>,
}

/// Runs a short function on the service thread, or leaves it to the pool with nothing done.
fn apply_at_once(
    call: &Call<'_>,
    function: &FunctionCall<'_>,
    buffers: &mut Buffers,
    out: &mut Vec<u8>,
) -> Result<Done, Failure> {
    let is_small = function.arguments.len() as u64 <= INLINE_SIZE_MAX;
    let lease = call.context.functions.lease_for_short(function.module).filter(|_| is_small);
    if lease.is_none() || call.budget.draw(INLINE_CALL_STEPS).is_err() {
        return Ok(Done::Waits(Wait::Pool));
    }
    let (reply_start, unsettled_count) = (out.len(), buffers.unsettled.len());
    let run = Run { limit: TimeLimit::by_clock(INLINE_TIME_MAX), turn: Turn::Free, lease };
    let attempted = attempt(call, function, run, buffers, out);
    let is_over = match &attempted {
        Ok(Attempt::Committed(done)) => matches!(done, Done::Waits(_)),
        Ok(Attempt::Lost) => true,
        Err(_) => call.budget.is_exhausted(),
    };
    if is_over {
        out.truncate(reply_start);
        buffers.unsettled.truncate(unsettled_count);
        return Ok(Done::Waits(Wait::Pool));
    }
    match attempted? {
        Attempt::Committed(done) => Ok(done),
        Attempt::Lost => Ok(Done::Waits(Wait::Pool)),
    }
}

/// The function named by the request.
fn function_of<'a>(call: &'a Call<'_>) -> Result<FunctionCall<'a>, ResultCode> {
    let request = call.request;
    let name = |number| request.field(number).filter(|name| name.len() < NAME_SIZE_MAX);
    let (module, function) = (name(field::UDF_FILE), name(field::UDF_FUNCTION));
    let (Some(module), Some(function), Some(arguments)) =
        (module, function, request.field(field::UDF_ARGUMENTS))
    else {
        return Err(ResultCode::Parameter);
    };
    let has_policy = request.info2 & (info2::GENERATION | info2::GENERATION_GT | info2::CREATE_ONLY) != 0
        || request.info3 & (info3::UPDATE_ONLY | info3::CREATE_OR_REPLACE | info3::REPLACE_ONLY) != 0;
    if has_policy {
        cf::warning_limited!(
            Udf,
            "{{{}}} call of a function with a policy that functions cannot have",
            call.namespace.name()
        );
        return Err(ResultCode::Parameter);
    }
    // No module has a name that is not text.
    let module = std::str::from_utf8(module).unwrap_or_default();
    Ok(FunctionCall { module, function, arguments })
}

/// Runs the function on a copy of the record, and stores what it has saved if the record has not changed.
fn attempt(
    call: &Call<'_>,
    function: &FunctionCall<'_>,
    Run { limit, turn, lease }: Run<'_>,
    buffers: &mut Buffers,
    out: &mut Vec<u8>,
) -> Result<Attempt<Done>, Failure> {
    if lease.is_some() {
        let found = call.get()?;
        if found.is_some_and(|guard| stored_size(&guard) > INLINE_SIZE_MAX) {
            return Ok(Attempt::Committed(Done::Waits(Wait::Pool)));
        }
    }
    let Buffers { read, unsettled, .. } = buffers;
    let mut copy = RecordCopy::read(call, read, |found| call.note_unsettled(found.location, unsettled))?;
    let meta = copy.meta;
    let is_live = meta.exists() && !call.namespace.is_gone(&meta, call.now.seconds());
    let failed = move |result| Failure {
        result,
        generation: if meta.exists() { meta.generation } else { 0 },
        void_time: meta.void_time,
    };
    if !is_live && call.origin == Origin::UdfSub {
        return Err(failed(ResultCode::NotFound));
    }
    let state = open(call, &mut copy, is_live, buffers).map_err(failed)?;
    let EndedCall { output, record: state, was_late } =
        call.context.functions.call(function, state, limit, lease);
    if was_late && matches!(call.place, Place::Service) {
        // The function turned out not to be short.
        return Ok(Attempt::Committed(Done::Waits(Wait::Pool)));
    }
    let output = match output {
        Ok(output) => output,
        // A save has used up the time, whether or not the function came to its end before that was noticed.
        Err(_) if was_late && state.result() == ResultCode::Timeout => {
            return Err(failed(ResultCode::Timeout));
        }
        Err(failure) => {
            answer_failure(call, &failure, failed(ResultCode::UdfExecution), out);
            return Ok(Attempt::Committed(Done::Answered(ResultCode::UdfExecution)));
        }
    };
    if state.result() != ResultCode::Ok {
        return Err(failed(state.result()));
    }
    let (mut generation, mut void_time) = (failed(ResultCode::Ok).generation, meta.void_time);
    let mut lang = Operation::LangRead;
    if state.has_updates() {
        let next;
        (next, generation, void_time) = make_next(call, &meta, is_live, &state, buffers).map_err(failed)?;
        lang = if matches!(next, Next::Gone) { Operation::LangDelete } else { Operation::LangWrite };
        copy.put_back(state.into_flat());
        let old = OldRecord::of(call, &copy, &next.change(&buffers.flat));
        let guard = if is_live { call.get_exclusive()? } else { Some(call.get_or_create()?) };
        let Some(guard) = guard.filter(|guard| turn.has_come(call) && copy.is_version(guard)) else {
            return Ok(Attempt::Lost);
        };
        if write::is_overtaken(call, turn, &copy, &next) {
            return Ok(Attempt::Lost);
        }
        write::commit(call, guard, next, &old, buffers).map_err(failed)?;
    }
    call.count(lang, ResultCode::Ok);
    answer(call, b"SUCCESS", &output, ResultCode::Ok, (generation, void_time), out);
    Ok(Attempt::Committed(Done::Answered(ResultCode::Ok)))
}

/// Opens the record for the function, after the checks of the request. It uses the bytes of the copy, which gets them
/// back in the end.
fn open(
    call: &Call<'_>,
    copy: &mut RecordCopy,
    is_live: bool,
    buffers: &mut Buffers,
) -> Result<RecordState, ResultCode> {
    let (namespace, request, meta) = (call.namespace, call.request, copy.meta);
    let meta = &meta;
    let storage = &namespace.config().storage;
    let mut sent_key = None;
    let mut is_uncreatable = false;
    let mut found = None;
    if is_live {
        if call.origin != Origin::UdfSub {
            call.check_set(meta)?;
        }
        let question = call.check_filter(meta)?;
        let flat = Subject::Copied(copy).record(call, &mut buffers.read)?;
        call.check_reply_room(flat.size)?;
        if (question.is_some() || request.key.is_some()) && flat.bin_count as usize > udf::BINS_MAX {
            return Err(ResultCode::BinName);
        }
        question.map_or(Ok(()), |question| question.resolve(&flat, flat.key))?;
        if let Some(check) = call.check
            && !check.passes(&flat, call.budget)?
        {
            return Err(ResultCode::NotFound);
        }
        call.check_key(&flat)?;
        if flat.key.is_none() {
            sent_key = key_to_store(request)?.map(<[u8]>::to_vec);
        }
        found = Some(FoundRecord {
            flat: copy.take_bytes()?,
            generation: meta.generation,
            void_time: meta.void_time,
            last_update_time: meta.last_update_time(),
            stored_size: stored_size(meta),
            set_name: namespace.set_of(meta).map_or_else(Vec::new, |set| set.name.to_vec()),
        });
    } else {
        is_uncreatable = request.set_name().len() > SET_NAME_SIZE_MAX || request.set_name().contains(&0);
        match key_to_store(request) {
            Ok(key) => sent_key = key.map(<[u8]>::to_vec),
            Err(_) => is_uncreatable = true,
        }
    }
    let is_in_memory = matches!(storage.engine, Engine::Memory);
    Ok(RecordState::new(RecordInput {
        digest: call.digest,
        now: call.now,
        found,
        created_set: if is_live { Vec::new() } else { request.set_name().to_vec() },
        sent_key,
        is_uncreatable,
        save_refusal: save_refusal(call, meta, is_live),
        is_in_memory,
        is_on_device: !is_in_memory || storage.is_backed(),
        is_read_only: false,
    }))
}

/// The reason why a function cannot save anything.
fn save_refusal(call: &Call<'_>, meta: &RecordMeta, is_live: bool) -> Option<ResultCode> {
    if call.namespace.stop_writes.load(Relaxed) {
        return Some(ResultCode::OutOfSpace);
    }
    let set =
        if is_live { call.namespace.set_of(meta) } else { call.namespace.sets.find(call.request.set_name()) };
    set.filter(|set| set.is_at_size_limit()).map(|set| {
        cf::warning_limited!(
            Udf,
            "{{{}|{}}} at stop-writes-size - can't save",
            call.namespace.name(),
            set.display_name()
        );
        ResultCode::Forbidden
    })
}

/// The next state of the record after the function's saves, with its generation and void-time (the former ones if it is
/// removed).
fn make_next(
    call: &Call<'_>,
    found: &RecordMeta,
    is_live: bool,
    state: &RecordState,
    buffers: &mut Buffers,
) -> Result<(Next, u16, u32), ResultCode> {
    let namespace = call.namespace;
    let mut base = if is_live { *found } else { namespace.meta_of_created(found, SetId::NONE) };
    if !is_live {
        base.set_id = namespace.set_for_creation(call.request.set_name())?;
    }
    let set = namespace.set_of(&base);
    let wanted = state.ttl().unwrap_or(call.request.record_ttl);
    let ttl = checked_ttl_of(call, wanted, set, state.old_bin_count() == 0)?;
    let bins = state.bins_to_store();
    let present = is_live.then_some(base.void_time);
    let (generation, void_time) = (base.next_generation(), void_time_after(call, set, ttl, present));
    if bins.is_empty() {
        let is_gone = is_live && state.old_bin_count() > 0;
        return if is_gone { Ok((Next::Gone, generation, void_time)) } else { Err(ResultCode::NotFound) };
    }
    // The record changes now, which may be long after the request came.
    let now = namespace.partitions.update_time(StoredMillis::now().max(call.now).0);
    let now = if is_live { now } else { namespace.creation_time(&call.digest, base.set_id, now) };
    let key = state.key();
    let record = NewRecord {
        digest: call.digest,
        last_update_time: base.next_update_time(now),
        generation,
        void_time,
        tree_id: namespace.partitions.tree_id(PartitionId::of(&call.digest)),
        set_name: set.map_or(&[], |set| &set.name),
        key,
        leaves_tombstone: namespace.must_leave_tombstone(&base, is_live, void_time),
    };
    write::encode(call, &record, &bins, &mut buffers.flat)?;
    (base.generation, base.void_time) = (generation, void_time);
    base.set_last_update_time(record.last_update_time);
    base.set_leaves_tombstone(record.leaves_tombstone);
    Ok((Next::Record { meta: base, key_stored: key.is_some() }, generation, void_time))
}

/// Answers with the error of a function that failed.
fn answer_failure(call: &Call<'_>, failure: &udf::Failure, found: Failure, out: &mut Vec<u8>) {
    let text = match failure {
        udf::Failure::Module => b"UDF: Execution Error 1",
        udf::Failure::Function(None) => &b"result value type unexpected"[..],
        udf::Failure::Function(Some(text)) => text.split(|byte| *byte == 0).next().unwrap_or_default(),
    };
    let printable = |character: char| if character.is_control() { '?' } else { character };
    let shown: String = String::from_utf8_lossy(text).chars().take(500).map(printable).collect();
    cf::warning_limited!(Udf, "{{{}}} a function failed: {shown}", call.namespace.name());
    call.count(Operation::Lang, ResultCode::UdfExecution);
    let (generation, void_time) = (found.generation, found.void_time);
    answer(call, b"FAILURE", &Output::text(text), ResultCode::UdfExecution, (generation, void_time), out);
}

/// Appends a reply with one bin.
fn answer(
    call: &Call<'_>,
    name: &[u8],
    output: &Output,
    result: ResultCode,
    (generation, void_time): (u16, u32),
    out: &mut Vec<u8>,
) {
    let mut reply = call.start_reply(out);
    reply.op(op_code::READ, name, output.particle_type, |out| out.extend_from_slice(&output.bytes));
    reply.finish(&call.header(result, generation, void_time));
}
