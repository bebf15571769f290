//! The info threads, which answer info requests of clients.
//!
//! A request with many commands is answered in turns: when a turn is over, the rest of the request goes to
//! the end of the queue. Other requests therefore wait for one turn of each request before them, never for a
//! whole request.

use std::time::{Duration, Instant};

use proto::frame::{self, FrameType, HEADER_SIZE};

use super::{Asker, InfoError, answer_next, is_too_late, timeout};
use crate::metrics::ServerCounter;
use crate::node::Node;
use crate::security::Standing;
use crate::service::InfoRequest;

/// Length of a turn; its last command may exceed it.
const TURN_TIME: Duration = Duration::from_millis(2);
/// Answers larger than this count towards the budget of replies kept for clients.
const CHARGED_SIZE_MIN: usize = 64 << 10;
/// Maximum number of commands in one request.
const COMMANDS_MAX: usize = 10_000;

/// Answers a request, or the part of it that one turn allows, on an info thread. Returns the request if it
/// must be served again.
pub(crate) fn serve(node: &Node, mut request: InfoRequest) -> Option<InfoRequest> {
    cf::fault_point!("info");
    if request.reply.is_client_gone() {
        return None;
    }
    let turn = Instant::now();
    let standing = request.access.clone().map(Standing::new);
    let asker = Asker { standing: standing.as_ref(), client: request.client };
    if request.answers.is_empty() {
        request.answers = vec![0; HEADER_SIZE];
        if is_too_late(node, request.received) {
            node.metrics.add(ServerCounter::InfoTimeout, 1);
            send(request, Some(timeout()));
            return None;
        }
        if let Some(refusal) = asker.refusal(node, &request.body) {
            node.metrics.add(ServerCounter::InfoComplete, 1);
            request.answers.extend_from_slice(refusal);
            send(request, None);
            return None;
        }
        if proto::info::requests(&request.body).nth(COMMANDS_MAX).is_some() {
            node.metrics.add(ServerCounter::InfoComplete, 1);
            let text = format!("more than {COMMANDS_MAX} commands in one request");
            send(request, Some(InfoError::parameter(text)));
            return None;
        }
    }
    while answer_next(node, asker, &request.body, &mut request.answered, &mut request.answers) {
        if request.answers.len() > CHARGED_SIZE_MIN && !request.count_answers() {
            cf::warning_limited!(Info, "no room for the answers to a request of {}", request.client);
            node.metrics.add(ServerCounter::InfoComplete, 1);
            send(
                request,
                Some(InfoError::new(
                    proto::ResultCode::DeviceOverload,
                    "too many bytes of answers are unread",
                )),
            );
            return None;
        }
        if turn.elapsed() >= TURN_TIME {
            return Some(request);
        }
    }
    node.metrics.add(ServerCounter::InfoComplete, 1);
    node.measure_info(request.received);
    send(request, None);
    None
}

/// Sends the answers, or `error` instead.
fn send(request: InfoRequest, error: Option<InfoError>) {
    let mut frame = request.answers;
    if let Some(error) = error {
        frame.truncate(HEADER_SIZE);
        frame.extend_from_slice(format!("{error}\n").as_bytes());
    }
    let header = frame::header_bytes(FrameType::Info, frame.len() - HEADER_SIZE);
    frame[..HEADER_SIZE].copy_from_slice(&header);
    request.reply.send(frame);
}
