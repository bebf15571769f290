//! Read-touch: a read late in a record's life renews its time to live. The renewed record is made from a copy,
//! without a lock, and stored if the record has not changed meanwhile.

use std::time::Instant;

use datamodel::flat::NewRecord;
use proto::ResultCode;

use super::old_record::OldRecord;
use super::optimistic::Attempt;
use super::subject::{RecordCopy, Subject};
use super::{Buffers, Call, Wait, write};
use crate::index::{self, Element, RecordMeta};
use crate::metrics::{Latency, NamespaceCounter, Unit};
use crate::namespace::{Cause, Change, ForObservers, LOOKS_MAX, NewVersion, TTL_NEVER_EXPIRE, stored_size};

/// The percentage that disables read-touch, in requests and set parameters.
const NEVER_TOUCH: u32 = TTL_NEVER_EXPIRE;

/// A touch that is due, with the TTL in seconds given by the record's last write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Touch {
    ttl_seconds: u32,
}

/// Whether reading the record of `element` now touches it.
///
/// # Errors
/// `Parameter` for a percentage over 100.
pub(super) fn check(call: &Call<'_>, element: &Element) -> Result<Option<Touch>, ResultCode> {
    if element.void_time == 0 {
        return Ok(None);
    }
    let pct = match call.request.record_ttl {
        NEVER_TOUCH => 0,
        0 => {
            let of_set =
                call.namespace.set_of(element).map_or(0, |set| set.params.default_read_touch_ttl_pct.get());
            match of_set {
                0 => call.namespace.config().params.default_read_touch_ttl_pct.get(),
                NEVER_TOUCH => 0,
                pct => pct,
            }
        }
        pct @ 1..=100 => pct,
        pct => {
            cf::warning_limited!(Rw, "{{{}}} bad read-touch-ttl-pct {pct}", call.namespace.name());
            return Err(ResultCode::Parameter);
        }
    };
    if pct == 0 {
        return Ok(None);
    }
    let written_seconds = (element.last_update_time() / 1000) as u32;
    let ttl_seconds = element.void_time.saturating_sub(written_seconds);
    let last_part_seconds = (u64::from(ttl_seconds) * u64::from(pct) / 100) as u32;
    let due = call.now.seconds() >= element.void_time - last_part_seconds;
    Ok(due.then_some(Touch { ttl_seconds }))
}

/// Renews the record, unless it was changed meanwhile. Returns the wait if the request has to wait first. It has
/// changed nothing then, and reads the record again afterwards.
pub(super) fn run(call: &Call<'_>, touch: Touch, buffers: &mut Buffers) -> Option<Wait> {
    let (metrics, started) = (&call.namespace.metrics, Instant::now());
    let ended = match renew(call, touch, buffers) {
        Ok(ended) => ended,
        Err(_) => match call.patience.refused.take().or_else(|| call.wait_of_exhausted()) {
            Some(wait) => return Some(wait),
            None => NamespaceCounter::ReadTouchError,
        },
    };
    metrics.add(ended, 1);
    let unit = Unit::configured(&call.context.config);
    metrics.latency(Latency::ReadTouch).add(unit, started.elapsed(), 1);
    None
}

/// Renews the record. Returns the counter of the result. After several attempts that lost to writers, it leaves the
/// record to the next read.
fn renew(call: &Call<'_>, touch: Touch, buffers: &mut Buffers) -> Result<NamespaceCounter, ResultCode> {
    for _ in 0..LOOKS_MAX {
        if let Attempt::Committed(ended) = renew_copied(call, touch, buffers)? {
            return Ok(ended);
        }
    }
    Ok(NamespaceCounter::ReadTouchSkip)
}

/// Makes the renewed record from a copy of the present one, and stores it if the record has not changed.
///
/// # Errors
/// As [`Call::get`], and when the budget is used up.
fn renew_copied(
    call: &Call<'_>,
    touch: Touch,
    buffers: &mut Buffers,
) -> Result<Attempt<NamespaceCounter>, ResultCode> {
    use NamespaceCounter::{ReadTouchError, ReadTouchSkip, ReadTouchSuccess};
    // The pool renews a large record.
    if let Some(found) = call.get()? {
        call.budget.draw_for_copy(stored_size(&found) as usize)?;
    }
    let copy = RecordCopy::read(call, &mut buffers.read, |_| {})?;
    let (before, void_time) = (copy.meta, call.now.seconds().saturating_add(touch.ttl_seconds));
    let is_there = before.exists() && !call.namespace.is_gone(&before, call.now.seconds());
    if !is_there || before.void_time == 0 || before.void_time >= void_time {
        return Ok(Attempt::Committed(ReadTouchSkip));
    }
    let Some(meta) = make_renewed(call, &copy, void_time, buffers)? else {
        return Ok(Attempt::Committed(ReadTouchError));
    };
    let Buffers { flat, read, unsettled, commits } = buffers;
    let key_stored = before.location.key_stored();
    let version = NewVersion { flat: flat.plain(), packed: flat.packed(), meta, key_stored };
    let change = Change::Record(version);
    let old = OldRecord::of(call, &copy, &change);
    call.budget.check(Ok(()))?;
    index::assert_no_lock_held();
    let Some(guard) = call.get_exclusive()? else { return Ok(Attempt::Committed(ReadTouchSkip)) };
    if !copy.is_version(&guard) {
        return Ok(Attempt::Lost);
    }
    // Only the master renews a record. Another replica answers the read but changes nothing, because the master may
    // be about to.
    let Ok(_committing) = call.begin_commit(&guard, commits) else {
        // The read is answered anyway.
        call.patience.refused.set(None);
        return Ok(Attempt::Committed(ReadTouchSkip));
    };
    let Ok(old_bytes) = old.bytes(call.namespace, &guard, read) else {
        return Ok(Attempt::Committed(ReadTouchError));
    };
    let for_observers = ForObservers {
        old: old_bytes,
        budget: Some(call.budget),
        prepared: old.prepared(),
        ..ForObservers::default()
    };
    let committed = call.namespace.commit_with(guard, &change, Cause::ReadTouch, for_observers);
    Ok(Attempt::Committed(match committed {
        Ok(committed) => {
            call.note_changed(committed.location, unsettled);
            ReadTouchSuccess
        }
        Err(_) => ReadTouchError,
    }))
}

/// Makes the renewed version of the record of `copy` in the thread's buffer. Returns its metadata; `None` if the record cannot be
/// read.
fn make_renewed(
    call: &Call<'_>,
    copy: &RecordCopy,
    void_time: u32,
    buffers: &mut Buffers,
) -> Result<Option<RecordMeta>, ResultCode> {
    let mut meta = copy.meta;
    let Ok(record) = Subject::Copied(copy).record(call, &mut buffers.read) else { return Ok(None) };
    let Ok(bins) = record.load_bins() else { return Ok(None) };
    // The generation stays the same, so that a read does not make a writer's generation check fail.
    let last_update_time = meta.last_update_time().max(call.now.0);
    let renewed = NewRecord {
        digest: call.digest,
        last_update_time,
        generation: meta.generation,
        void_time,
        tree_id: record.tree_id,
        set_name: record.set_name,
        key: record.key,
        leaves_tombstone: meta.leaves_tombstone(),
    };
    write::encode_any(call, &renewed, (&bins, renewed.size(&bins)), &mut buffers.flat)?;
    meta.void_time = void_time;
    meta.set_last_update_time(last_update_time);
    Ok(Some(meta))
}
