//! The threads that inflate and compress messages for service threads, and their jobs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use proto::compressed::{Deflater, Inflater};

use super::compressor::Spares;
use super::reply_budget::Charge;
use super::reply_handle::ReplyHandle;
use super::stream::ReplyStream;
use crate::workers::Workers;

/// Difference between the priority of service threads and the lower one of the other threads.
const NICENESS: i32 = 5;
/// State shared by all threads that inflate or compress messages.
pub(crate) struct MessageCompression {
    pub(super) inflaters: Spares<Inflater>,
    pub(super) deflaters: Arc<Spares<Deflater>>,
    pub(crate) workers: Workers<CompressionJob>,
}

impl MessageCompression {
    pub(crate) fn new() -> Self {
        MessageCompression {
            inflaters: Spares::default(),
            deflaters: Arc::default(),
            workers: Workers::with_niceness("compression", NICENESS),
        }
    }
}

/// Work that takes too long for a service thread.
pub(crate) struct CompressionJob(pub(super) Job);

pub(super) enum Job {
    /// A request is inflated, until `deadline` at most. Its connection is parked for `reply`.
    Inflate { body: Box<[u8]>, client: SocketAddr, deadline: Instant, room: Charge, reply: ReplyHandle },
    /// The last frames of a stream are compressed.
    Deflate { frames: Vec<u8>, stream: Arc<ReplyStream> },
}
