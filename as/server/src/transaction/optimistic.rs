//! Changes by pool threads: computed from a copy of the record, without a lock, and committed if the record has not
//! changed since the copy.
//!
//! An attempt that loses to another writer is repeated. After [`LOSSES_MAX`] losses the record is reserved: other
//! writers wait until this one is done. No thread waits for a reserved record, nor for a write of the record that is
//! on its way to replicas: the request is parked. So one slow function does not take all threads.

use super::wait::{RecordReservation, Wait};
use super::{Call, Failure, Place};

/// Number of lost attempts before the record is reserved.
const LOSSES_MAX: u32 = 2;

/// The outcome of an attempt to change a record.
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
/// Those of an attempt. If others have reserved the record, or a write of it is on its way to replicas, the request
/// [waits](Call::wait_of_failed).
pub(super) fn until_committed<T>(
    call: &Call<'_>,
    mut attempt: impl FnMut(Turn) -> Result<Attempt<T>, Failure>,
) -> Result<T, Failure> {
    debug_assert!(
        matches!(call.place, Place::Pool { .. }),
        "a service thread changes a record under its lock"
    );
    let key = call.record_key();
    let (waits, resume) = (&call.context.waits, |request| call.context.submit_to_pool(request));
    let mut reservation: Option<RecordReservation<'_>> = None;
    let mut losses = if call.has_lost { LOSSES_MAX } else { 0 };
    loop {
        if reservation.is_none() {
            if losses < LOSSES_MAX {
                if waits.is_reserved(&key) {
                    return Err(call.must_wait(Wait::Record(key)).into());
                }
            } else {
                reservation = waits.reserve(key, &resume);
                if reservation.is_none() {
                    return Err(call.must_wait(Wait::Reservation(key)).into());
                }
            }
            if call.is_busy(&key) {
                return Err(call.must_wait(Wait::Record(key)).into());
            }
        }
        let turn = if reservation.is_some() { Turn::Reserved } else { Turn::Free };
        match attempt(turn)? {
            Attempt::Committed(done) => return Ok(done),
            Attempt::Lost => losses += 1,
        }
    }
}
