//! The log line about a refused op.

use datamodel::{Particle, RefusedOp};
use proto::ResultCode;
use proto::message::Op;

use super::Call;

/// Logs why an op was refused. Refusals that are normal in a client's work, such as an element that already exists,
/// are logged at level detail. Other refusals are warnings at a limited rate; if level debug is enabled, each of them
/// is logged at that level instead.
pub(super) fn log(call: &Call<'_>, op: &Op<'_>, bin: Option<&Particle<'_>>, result: ResultCode) {
    if call.budget.is_exhausted() {
        // The request is not refused: it runs again elsewhere, or has timed out.
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
