//! The info threads, which answer what clients ask.

use std::sync::Arc;
use std::time::Instant;

use super::{answer, is_too_late, timeout};
use crate::metrics::ServerCounter;
use crate::service::{ConnectionToken, Mail, Mailbox};
use crate::state::State;

/// A client's request; the answer goes to the connection that waits for it.
pub(crate) struct InfoJob {
    pub(crate) body: Box<[u8]>,
    pub(crate) received: Instant,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) token: ConnectionToken,
}

/// Answers a request, on an info thread.
pub(crate) fn serve(state: &State, job: InfoJob) {
    let mut frame = Vec::new();
    if is_too_late(state, job.received) {
        proto::info::write_frame(&mut frame, format!("{}\n", timeout()).as_bytes());
        state.metrics.add(ServerCounter::InfoTimeout, 1);
    } else {
        proto::info::write_frame(&mut frame, &answer(state, &job.body));
        state.metrics.add(ServerCounter::InfoComplete, 1);
        state.measure_info(job.received);
    }
    job.mailbox.post(Mail::Reply(job.token, frame));
}
