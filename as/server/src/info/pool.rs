//! The info threads, which answer what clients ask.

use super::{Asker, answer, is_too_late, timeout};
use crate::metrics::ServerCounter;
use crate::node::Node;
use crate::service::InfoRequest;

/// Answers a request, on an info thread.
pub(crate) fn serve(node: &Node, request: InfoRequest) {
    cf::fault_point!("info");
    let asker = Asker { session: request.access.as_deref(), client: request.client };
    let mut frame = Vec::new();
    if is_too_late(node, request.received) {
        proto::info::write_frame(&mut frame, format!("{}\n", timeout()).as_bytes());
        node.metrics.add(ServerCounter::InfoTimeout, 1);
    } else {
        proto::info::write_frame(&mut frame, &answer(node, asker, &request.body));
        node.metrics.add(ServerCounter::InfoComplete, 1);
        node.measure_info(request.received);
    }
    request.reply.send(frame);
}
