//! The log's line about an op that was refused.

use datamodel::{Particle, RefusedOp};
use proto::ResultCode;
use proto::message::Op;

use super::Call;

/// Tells why an op was refused. What a client can ask for and not get in the course of its work, such as an element that
/// is there already, is told at the level detail. The other lines are warnings at a limited rate, or all of them
/// lines of the level debug if the log wants those.
pub(super) fn log(call: &Call<'_>, op: &Op<'_>, bin: Option<&Particle<'_>>, result: ResultCode) {
    if call.budget.is_exhausted() {
        // The request is not refused: it runs again elsewhere, or is out of time.
        return;
    }
    let namespace = call.namespace.name();
    let refused = RefusedOp { op, bin, result };
    match result {
        ResultCode::ElementExists
        | ResultCode::ElementNotFound
        | ResultCode::BinExists
        | ResultCode::BinNotFound => cf::detail!(Particle, { namespace }, "{refused}"),
        _ if cf::log_enabled!(Particle, Debug) => cf::debug!(Particle, { namespace }, "{refused}"),
        _ => cf::warning_limited!(Particle, { namespace }, "{refused}"),
    }
}
