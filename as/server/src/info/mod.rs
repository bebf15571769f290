//! The info protocol: answers questions of tools and clients about the server, by the table of [`commands`].
//!
//! # Threads
//! `info-threads` threads take requests from one channel, so that a slow answer never holds a service thread; a
//! connection is parked until its answer is posted back. The info port has a separate thread.

mod access;
mod commands;
mod configuration;
mod dump;
mod health;
mod histograms;
mod identity;
mod logging;
mod namespaces;
mod network;
mod partitions;
mod peers;
mod placement;
mod pool;
mod port;
mod query;
mod record;
mod request;
mod sindex;
mod smd;
mod statistics;
#[cfg(test)]
mod tests;
mod truncate;
mod udf;

use std::time::{Duration, Instant};

use proto::ResultCode;

use crate::node::Node;

use access::Asker;
use commands::refused;
pub(crate) use commands::value_of;
pub(crate) use pool::serve as serve_info;
pub(crate) use port::serve_port;
pub(crate) use request::{Arguments, InfoError};
pub(crate) use statistics::is_counter;

/// An answer that has reached this size gets no further values, so that many large requests in one frame do
/// not use up the memory.
const ANSWER_SIZE_MAX: usize = 16 << 20;

/// Answers the next request in `body`, of which `answered` bytes are answered; an empty body asks for the
/// summary. Returns whether there was a request.
fn answer_next(node: &Node, asker: Asker<'_>, body: &[u8], answered: &mut usize, out: &mut Vec<u8>) -> bool {
    if *answered == 0 && proto::info::requests(body).next().is_none() {
        *answered = usize::MAX;
        commands::summary().for_each(|command| answer_line(node, asker, command.as_bytes(), out));
        return true;
    }
    let rest = body.get(*answered..).unwrap_or_default();
    let Some(request) = proto::info::requests(rest).next() else { return false };
    // Skips empty lines, which hold only line feeds.
    let skipped = rest.iter().take_while(|byte| **byte == b'\n').count();
    *answered += skipped + request.len();
    answer_line(node, asker, request, out);
    true
}

/// Appends the request as received, a tab, and its value.
fn answer_line(node: &Node, asker: Asker<'_>, request: &[u8], out: &mut Vec<u8>) {
    let line = String::from_utf8_lossy(request);
    let value = if out.len() > ANSWER_SIZE_MAX {
        refused(&line, &InfoError::parameter("the answers to one request exceed 16 MiB"))
    } else {
        asker.value_of(node, &line)
    };
    for part in [request, b"\t", value.as_bytes(), b"\n"] {
        out.extend_from_slice(part);
    }
}

/// Whether a request that came at `received` has waited longer than `info-max-ms`.
fn is_too_late(node: &Node, received: Instant) -> bool {
    received.elapsed() > Duration::from_millis(node.config.service.info_max_ms.get())
}

/// The answer to a request that has waited too long.
fn timeout() -> InfoError {
    InfoError::new(ResultCode::Timeout, "timeout")
}
