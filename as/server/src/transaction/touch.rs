//! Read-touch: a read late in a record's life renews its time to live.

use std::time::Instant;

use datamodel::flat::NewRecord;
use datamodel::packing::Method;
use proto::ResultCode;

use super::{Buffers, Call};
use crate::index::Element;
use crate::metrics::{Latency, NamespaceCounter, Unit};
use crate::namespace::{Cause, Change, ForObservers, NewVersion, TTL_NEVER_EXPIRE};

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

/// Renews the record, unless it was changed meanwhile.
pub(super) fn run(call: &Call<'_>, touch: Touch, buffers: &mut Buffers) {
    let (metrics, started) = (&call.namespace.metrics, Instant::now());
    match renew(call, touch, buffers) {
        Some(true) => metrics.add(NamespaceCounter::ReadTouchSuccess, 1),
        Some(false) => metrics.add(NamespaceCounter::ReadTouchError, 1),
        None => metrics.add(NamespaceCounter::ReadTouchSkip, 1),
    }
    let unit = Unit::configured(&call.context.config);
    metrics.latency(Latency::ReadTouch).add(unit, started.elapsed(), 1);
}

/// Renews the record. Returns whether it could be stored; `None` if there was nothing to renew.
fn renew(call: &Call<'_>, touch: Touch, buffers: &mut Buffers) -> Option<bool> {
    loop {
        let renewed = renew_in_memory(call, touch, buffers);
        if !call.fetch(&mut buffers.read) {
            return renewed;
        }
    }
}

/// The same of a record that is in memory or was read. If it was not, nothing has changed.
fn renew_in_memory(call: &Call<'_>, touch: Touch, buffers: &mut Buffers) -> Option<bool> {
    let namespace = call.namespace;
    let guard = namespace.index.get_exclusive(&call.digest)?;
    let void_time = call.now.seconds().saturating_add(touch.ttl_seconds);
    if guard.is_tombstone() || guard.void_time == 0 || guard.void_time >= void_time {
        return None;
    }
    let mut meta = **guard;
    // The generation stays the same, so that a read does not make a writer's generation check fail.
    let (generation, last_update_time) = (guard.generation, guard.last_update_time().max(call.now.0));
    {
        let record = call.namespace.record(&guard, &mut buffers.read).ok();
        let Some((record, bins)) = record.and_then(|record| Some((record, record.load_bins().ok()?))) else {
            return Some(false);
        };
        let renewed = NewRecord {
            digest: call.digest,
            last_update_time,
            generation,
            void_time,
            tree_id: record.tree_id,
            set_name: record.set_name,
            key: record.key,
            leaves_tombstone: guard.leaves_tombstone(),
        };
        let (mut settings, size) = (namespace.storage.pack_settings(), renewed.size(&bins));
        if let Some(settings) = &mut settings
            && call.budget.draw(settings.pack_steps(size)).is_err()
        {
            // Compression would take too long under the lock.
            settings.method = Method::None;
        }
        let figures = &namespace.metrics.data_compression;
        buffers.flat.encode(&renewed, (&bins, size), settings.as_ref(), figures);
    }
    meta.void_time = void_time;
    meta.set_last_update_time(last_update_time);
    let (flat, key_stored) = (&buffers.flat, guard.location.key_stored());
    let version = NewVersion { flat: flat.plain(), packed: flat.packed(), meta, key_stored };
    // A replica that is not the master answers reads, and changes nothing: the master may be about to.
    let Ok(_committing) = call.begin_commit(&guard, &mut buffers.commits) else {
        // The read is answered anyway.
        call.patience.refused.set(None);
        return None;
    };
    let old = namespace.old_record(&guard, &mut buffers.read);
    let for_observers = ForObservers { old, ..ForObservers::default() };
    let committed = namespace.commit_with(guard, &Change::Record(version), Cause::ReadTouch, for_observers);
    let Ok(committed) = committed else {
        return Some(false);
    };
    call.note_changed(committed.location, &mut buffers.unsettled);
    Some(true)
}
