//! The info threads, which answer what clients ask.

use super::{answer, is_too_late, timeout};
use crate::metrics::ServerCounter;
use crate::service::InfoRequest;
use crate::state::State;

/// Answers a request, on an info thread.
pub(crate) fn serve(state: &State, request: InfoRequest) {
    cf::fault_point!("info");
    let mut frame = Vec::new();
    if is_too_late(state, request.received) {
        proto::info::write_frame(&mut frame, format!("{}\n", timeout()).as_bytes());
        state.metrics.add(ServerCounter::InfoTimeout, 1);
    } else {
        proto::info::write_frame(&mut frame, &answer(state, &request.body));
        state.metrics.add(ServerCounter::InfoComplete, 1);
        state.measure_info(request.received);
    }
    request.reply.send(frame);
}
