//! Changes by pool threads: computed from a copy of the record, without a lock, and committed if the record has not
//! changed since the copy.
//!
//! An attempt that loses to another writer is repeated. After [`LOSSES_MAX`] losses the record is reserved: other
//! writers wait until this one is done. While a write of the record is on its way to replicas no thread waits: the
//! request is parked.

use proto::ResultCode;

use super::wait::{RecordReservation, Wait};
use super::{Call, Failure, Place};

/// Number of lost attempts before the record is reserved.
const LOSSES_MAX: u32 = 2;

/// How an attempt to change a record ended.
pub(super) enum Attempt<T> {
    Committed(T),
    /// Another writer came first, or has reserved the record. Nothing has changed.
    Lost,
}

/// Whether a change may be committed with regard to reservations. Checked under the record's sprig lock.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Only if nobody has reserved the record.
    Free,
    /// This writer has reserved it.
    Reserved,
}

impl Turn {
    pub(super) fn has_come(self, call: &Call<'_>) -> bool {
        self == Turn::Reserved || !call.is_reserved()
    }
}

/// Repeats attempts until one is committed or fails.
///
/// # Errors
/// Those of an attempt; `Timeout` if the deadline passes while others have reserved the record, or if a write of it is
/// on its way, which the request then [waits](Call::wait_of_failed) for.
pub(super) fn until_committed<T>(
    call: &Call<'_>,
    mut attempt: impl FnMut(Turn) -> Result<Attempt<T>, Failure>,
) -> Result<T, Failure> {
    let Place::Pool { deadline } = call.place else {
        unreachable!("a service thread changes a record under its lock");
    };
    let key = call.record_key();
    let resume = |request| call.context.submit_to_pool(request);
    let mut reservation: Option<RecordReservation<'_>> = None;
    let mut losses = 0;
    loop {
        if reservation.is_none() {
            let may_go_on = if losses >= LOSSES_MAX {
                reservation = call.context.waits.reserve(key, deadline, &resume);
                reservation.is_some()
            } else {
                call.context.waits.wait_until_free(&key, deadline)
            };
            let is_busy = call.is_busy(&key);
            if is_busy {
                call.patience.refused.set(Some(Wait::Record(key)));
            }
            if !may_go_on || is_busy {
                return Err(ResultCode::Timeout.into());
            }
        }
        let turn = if reservation.is_some() { Turn::Reserved } else { Turn::Free };
        match attempt(turn)? {
            Attempt::Committed(done) => return Ok(done),
            Attempt::Lost => losses += 1,
        }
    }
}
