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

/// Nice value that these threads add to that of service threads.
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
    /// Inflate a request, until `deadline` at most. Its connection is parked for `reply`.
    Inflate { body: Box<[u8]>, client: SocketAddr, deadline: Instant, room: Charge, reply: ReplyHandle },
    /// Compress the last frames of a stream.
    Deflate { frames: Vec<u8>, stream: Arc<ReplyStream> },
}
