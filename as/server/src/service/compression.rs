//! Compressed messages: requests that arrive in frames of type 4, and replies to requests that ask for such
//! frames.
//!
//! A small request that inflates quickly is inflated on its service thread. Others are inflated by separate
//! threads, while the connection is parked. The inflated request is then put in front of the connection's
//! input, as if it had arrived uncompressed. Inflated data, and data about to be inflated, counts in the
//! [budget](super::ReplyBudget) of large buffers until the request is done, so that small frames that
//! announce large sizes cannot fill the memory. Requests without room are put off.
//!
//! Replies are compressed frame by frame, on the thread that makes them; a large one of a service thread is
//! compressed by those separate threads. A reply that is held until its record is on disk stays uncompressed,
//! because it may still have to report a failure.

use std::mem::take;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::ResultCode;
use proto::compressed::{CompressedError, THRESHOLD, announced_size};
use proto::message::{Request, field, info1};
use proto::reply::{self, ReplyHeader};

use super::compression_jobs::{CompressionJob, Job};
use super::compressor::ReplyCompressor;
use super::context::ServiceContext;
use super::delivery::{ConnectionToken, Delivery};
use super::event_loop::{PutOff, RoomOf, ServiceThread, Verdict};
use super::messages::Message;
use super::reply_budget::Charge;
use crate::metrics::ServerCounter;
use crate::transaction::ReplySink;
use crate::workers::Work;

/// Requests up to this size, both compressed and inflated, may be inflated on a service thread.
const INFLATED_INLINE_MAX: usize = 32 << 10;
/// Longest time for inflating on a service thread.
const INLINE_TIME_MAX: Duration = Duration::from_micros(200);
/// Replies up to this size are compressed on a service thread.
const DEFLATED_INLINE_MAX: usize = 16 << 10;
/// Carries out compression jobs.
pub(crate) struct CompressionWorker {
    context: Arc<ServiceContext>,
}

impl CompressionWorker {
    pub(crate) fn new(context: Arc<ServiceContext>) -> Self {
        CompressionWorker { context }
    }
}

impl Work<CompressionJob> for CompressionWorker {
    fn run(&mut self, job: CompressionJob) {
        cf::fault_point!("compression");
        match job.0 {
            Job::Deflate { frames, stream } => stream.finish(frames),
            Job::Inflate { body, client, deadline, room, reply } => {
                let mut frame = Vec::new();
                let go_on = || Instant::now() < deadline;
                let inflated = self
                    .context
                    .compression
                    .inflaters
                    .with(|inflater| inflater.inflate(&body, &mut frame, go_on));
                let result = match inflated {
                    Ok(true) => return reply.send_inflated(frame, room),
                    Ok(false) => ResultCode::Timeout,
                    Err(error) => refuse(&self.context, client, error),
                };
                let mut answer = Vec::new();
                reply::write_header_only(&mut answer, &ReplyHeader::result(result));
                reply.send(answer);
            }
        }
    }
}

/// Counts a bad message. Returns the result for its client.
fn refuse(context: &ServiceContext, client: SocketAddr, error: CompressedError) -> ResultCode {
    context.metrics.add(ServerCounter::DemarshalError, 1);
    cf::warning_limited!(Proto, "bad compressed message from {client}: {error}");
    ResultCode::Parameter
}

impl ServiceThread {
    /// Carries out a compressed request, or has it inflated by another thread. `None` if it is put off.
    pub(super) fn dispatch_compressed(
        &mut self,
        slot: u32,
        token: ConnectionToken,
        body: &[u8],
    ) -> Option<Verdict> {
        self.request_count += 1;
        let announced = match announced_size(body) {
            Ok(announced) => announced,
            Err(error) => return Some(self.refuse_compressed(slot, error)),
        };
        let size = announced.max(body.len());
        if size <= INFLATED_INLINE_MAX {
            let (mut frame, deadline) = (take(&mut self.spare_buffer), Instant::now() + INLINE_TIME_MAX);
            let go_on = || Instant::now() < deadline;
            let inflated =
                self.context.compression.inflaters.with(|inflater| inflater.inflate(body, &mut frame, go_on));
            match inflated {
                Ok(true) => {
                    let verdict = self.dispatch_inflated(slot, token, &frame);
                    self.spare_buffer = frame;
                    return Some(verdict);
                }
                Ok(false) => {}
                Err(error) => return Some(self.refuse_compressed(slot, error)),
            }
        }
        let Some(room) = Charge::reserve(&self.context.inflated, announced) else {
            let time_max = self.transaction_time_max();
            let connection = self.connections.get(slot)?;
            let since = connection.put_off_since.unwrap_or(self.woken);
            if self.woken.saturating_duration_since(since) >= time_max {
                connection.put_off_since = None;
                reply::write_header_only(&mut self.outbox.replies, &ReplyHeader::result(ResultCode::Timeout));
                return Some(Verdict::Keep);
            }
            connection.put_off(self.context.inflated.wait(), self.woken);
            let deadline = since + time_max;
            self.put_off.push(PutOff { token, size: announced, room: RoomOf::Inflated, deadline });
            return None;
        };
        let client = self.connections.get(slot)?.peer;
        let reply = self.park(slot, token);
        let deadline = self.woken + self.transaction_time_max();
        let job = Job::Inflate { body: body.into(), client, deadline, room, reply };
        self.context.compression.workers.submit(CompressionJob(job));
        Some(Verdict::Keep)
    }

    /// Longest time of a request if the client's own limit is not known.
    fn transaction_time_max(&self) -> Duration {
        Duration::from_millis(self.context.config.service.transaction_max_ms.get())
    }

    fn refuse_compressed(&mut self, slot: u32, error: CompressedError) -> Verdict {
        let Some(connection) = self.connections.get(slot) else { return Verdict::Close };
        let client = connection.peer;
        let result = refuse(&self.context, client, error);
        reply::write_header_only(&mut self.outbox.replies, &ReplyHeader::result(result));
        Verdict::Keep
    }

    /// Carries out the request in `frame`.
    fn dispatch_inflated(&mut self, slot: u32, token: ConnectionToken, frame: &[u8]) -> Verdict {
        let Some(message) = Message::in_front_of(frame) else {
            return self.dispatch_other(slot, token, frame).map_or(Verdict::Close, |(_, verdict)| verdict);
        };
        let (used, verdict) = self.dispatch_messages(slot, token, &message, &[]);
        if used == 0
            && let Some(connection) = self.connections.get(slot)
        {
            // The request is put off until there is room for the reply.
            connection.put_in_front(frame.to_vec());
        }
        verdict
    }

    /// Resumes a connection whose request was inflated.
    pub(super) fn deliver_inflated(&mut self, token: ConnectionToken, frame: Vec<u8>, room: Charge) {
        self.guard(token, |thread, slot| {
            let Some(connection) = thread.connections.get(slot) else { return Verdict::Keep };
            if connection.is_held {
                connection.behind_held.push(Delivery::Inflated(frame, room));
                return Verdict::Keep;
            }
            cf::fault_point!("deliver-inflated");
            connection.is_parked = false;
            connection.inflated_room = Some(room);
            connection.put_in_front(frame);
            thread.ready.push(slot);
            Verdict::Keep
        });
    }

    /// The compressor of the replies to `request`, if it asks for compression.
    pub(super) fn compressor_of(&self, request: &Request<'_>) -> Option<ReplyCompressor> {
        if request.info1 & info1::COMPRESS_RESPONSE == 0 {
            return None;
        }
        let figures = if request.info1 & info1::BATCH != 0 {
            &self.context.metrics.batch_compression
        } else {
            let metrics = &self.context.transactions.known_namespace(request)?.metrics;
            if request.has_field(field::DIGEST) {
                &metrics.record_compression
            } else {
                &metrics.query_compression
            }
        };
        let deflaters = Arc::clone(&self.context.compression.deflaters);
        Some(ReplyCompressor { deflaters, figures: Arc::clone(figures) })
    }

    /// Compresses the reply to `request`, which begins at `start` of the outbox, or hands it to another
    /// thread. Returns whether the connection is parked for that. A reply that waits for the disk stays
    /// uncompressed.
    #[cold]
    pub(super) fn compress_reply(
        &mut self,
        slot: u32,
        token: ConnectionToken,
        request: &Request<'_>,
        (start, unsettled_count): (usize, usize),
    ) -> bool {
        let size = self.outbox.replies.len() - start;
        if size <= THRESHOLD || self.executor.unsettled_count() > unsettled_count {
            return false;
        }
        let Some(compressor) = self.compressor_of(request) else { return false };
        if size <= DEFLATED_INLINE_MAX {
            let mut clear = take(&mut self.spare_buffer);
            clear.clear();
            clear.extend_from_slice(&self.outbox.replies[start..]);
            self.outbox.replies.truncate(start);
            compressor.compress(&clear, &mut self.outbox.replies);
            self.spare_buffer = clear;
            return false;
        }
        let Some(stream) = self.park_for_stream(slot, token, None) else { return false };
        stream.compress_by(compressor);
        if let Some(room) = self.large_reply.take() {
            stream.keep_room(room);
        }
        let frames = self.outbox.replies.split_off(start);
        self.context.compression.workers.submit(CompressionJob(Job::Deflate { frames, stream }));
        true
    }
}
