//! Reads: straight from the stored record into the reply.

use datamodel::bins::check_name;
use datamodel::exp::{BinSource, Record};
use datamodel::flat::{self, FlatError, FlatRecord};
use datamodel::{Particle, ops};
use proto::ResultCode;
use proto::message::{field, info1, info2, op_code};
use proto::reply::ReplyWriter;

use super::checks::check_reply_size;
use super::subject::{RecordCopy, Subject};
use super::touch::{self, Touch};
use super::{Buffers, Call, Failure, Place, Wait, filter, refused};
use crate::index::RecordMeta;
use crate::metrics::Operation;
use crate::storage::ReadBuffer;

pub(super) fn run(call: &Call<'_>, buffers: &mut Buffers, out: &mut Vec<u8>) -> Option<Wait> {
    let (start, mut due) = (out.len(), None);
    let mut result = match read(call, buffers, &mut due, out) {
        Ok(None) => Ok(()),
        Ok(Some(wait)) => return Some(wait),
        Err(failure) => match call.wait_of_failed(&mut buffers.read) {
            Some(wait) => return Some(wait),
            None => Err(failure),
        },
    };
    if call.budget.is_exhausted() {
        if let Some(wait) = call.wait_of_exhausted() {
            return Some(wait);
        }
        (result, due) = (Err(ResultCode::Timeout.into()), None);
    }
    let result = match result {
        Ok(()) => ResultCode::Ok,
        Err(failure) => {
            out.truncate(start);
            call.reply_header_only(out, failure.result, failure.generation, failure.void_time);
            failure.result
        }
    };
    if let Some(due) = due
        && let Some(wait) = touch::run(call, due, buffers)
    {
        return Some(wait);
    }
    call.count(Operation::Read, result);
    None
}

fn read(
    call: &Call<'_>,
    buffers: &mut Buffers,
    due: &mut Option<Touch>,
    out: &mut Vec<u8>,
) -> Result<Option<Wait>, Failure> {
    let found = call.get()?;
    if call.request.has_field(field::MRT_ID) {
        return Err(ResultCode::EnterpriseOnly.into());
    }
    let guard = found.ok_or(ResultCode::NotFound)?;
    if let Some(wait) = call.wait_of_unsettled_row(guard.location, false) {
        return Ok(Some(wait));
    }
    call.note_unsettled(guard.location, &mut buffers.unsettled);
    if guard.is_tombstone() {
        return Err(ResultCode::NotFound.into());
    }
    let (generation, void_time) = (guard.generation, guard.void_time);
    let failed = |result| Failure { result, generation, void_time };
    call.check_set_if_named(&guard).map_err(failed)?;
    if guard.is_expired(call.now.seconds()) || call.namespace.is_truncated(&guard) {
        return Err(failed(ResultCode::NotFound));
    }
    *due = touch::check(call, &guard).map_err(failed)?;
    if due.is_some()
        && let Some(wait) = call.wait_of_unsettled_row(guard.location, true)
    {
        return Ok(Some(wait));
    }
    let (locked, copied);
    let subject = if matches!(call.place, Place::Service) {
        locked = guard;
        Subject::Locked(&locked)
    } else {
        let copy = RecordCopy::of(call, &guard, &mut buffers.read);
        drop(guard);
        copied = copy.unpacked(call, &mut buffers.read);
        Subject::Copied(&copied)
    };
    let answered = answer(call, subject, &mut buffers.read, out);
    answered.map(|()| None).map_err(|result| {
        // A failed read does not touch the record.
        *due = None;
        failed(result)
    })
}

fn answer(
    call: &Call<'_>,
    subject: Subject<'_>,
    scratch: &mut ReadBuffer,
    out: &mut Vec<u8>,
) -> Result<(), ResultCode> {
    let meta = subject.meta();
    let question = call.check_filter(meta)?;
    let request = call.request;
    let header = call.header(ResultCode::Ok, meta.generation, meta.void_time);
    let without_bins = request.info1 & info1::GET_NO_BINS != 0;
    let mut reply = call.start_reply(out);
    if without_bins && question.is_none() && (request.key.is_none() || !meta.location.key_stored()) {
        reply.finish(&header);
        return Ok(());
    }
    let damaged = |error: FlatError| subject.report_damage(call, &error);
    let record = subject.record(call, scratch)?;
    if let Some(question) = question {
        question.resolve(&record, record.key)?;
    }
    call.check_key(&record)?;
    if without_bins {
        reply.finish(&header);
        return Ok(());
    }
    call.check_reply_room(record.size)?;
    if request.info1 & info1::GET_ALL != 0 {
        call.budget.draw(record.copy_steps())?;
        for bin in record.bins() {
            let bin = bin.map_err(damaged)?;
            reply.op(op_code::READ, bin.name, bin.particle.type_number(), |out| bin.particle.write_wire(out));
        }
    } else {
        answer_ops(call, meta, &record, &mut reply, damaged)?;
    }
    reply.finish(&header);
    Ok(())
}

fn answer_ops(
    call: &Call<'_>,
    meta: &RecordMeta,
    record: &FlatRecord<'_>,
    reply: &mut ReplyWriter<'_>,
    damaged: impl Fn(FlatError) -> ResultCode,
) -> Result<(), ResultCode> {
    let request = call.request;
    if request.op_count() == 0 {
        return Err(ResultCode::Parameter);
    }
    let respond_all = request.info2 & info2::RESPOND_ALL_OPS != 0;
    let lookup_count = u64::from(request.op_count());
    call.budget.draw(record.lookups_steps(lookup_count))?;
    let table =
        if lookup_count < flat::LOOKUPS_TO_LOAD { None } else { Some(record.load_bins().map_err(&damaged)?) };
    for op in request.ops() {
        check_name(op.name)?;
        // Rows of a batch report every read op as a plain read.
        let reply_code = if call.row.is_some() { op_code::READ } else { op.code };
        if op.code == op_code::EXP_READ {
            let metadata = filter::metadata_of(call.namespace, &call.digest, meta, call.now);
            let bins: &dyn BinSource = table.as_ref().map_or(record, |table| table);
            let record = Record { metadata: &metadata, key: record.key, bins };
            ops::read_expression(&op, &record, respond_all, reply_code, call.budget, reply)
                .inspect_err(|&result| refused::log(call, &op, None, result))?;
            check_reply_size(reply)?;
            continue;
        }
        let found: Option<Particle<'_>>;
        let bin = match &table {
            Some(table) => table.get(op.name),
            None => {
                found = record.bin(op.name).map_err(&damaged)?;
                found.as_ref()
            }
        };
        ops::read(&op, bin, respond_all, reply_code, call.budget, reply)
            .inspect_err(|&result| refused::log(call, &op, bin, result))?;
        check_reply_size(reply)?;
    }
    Ok(())
}
