//! Rows of a batch that are not carried out with the others: another node serves their partition, no write of it may
//! begin now, or another request has reserved their record. Their replies arrive on other threads and are added to
//! the batch.
//!
//! # Locks
//! The lock of the batch, under which frames are posted to the client's thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use proto::ResultCode;
use proto::batch::Row;
use proto::frame::HEADER_SIZE;
use proto::message::{MESSAGE_HEADER_SIZE, field};
use proto::reply::{ReplyHeader, ReplyWriter};

use super::batch_frames::{Frames, finish};
use super::batch_in_flight::{BatchInFlight, ToClient};
use super::batch_rows::RowsElsewhere;
use super::{OwnedRequest, ReplySink, SinkClosed, TransactionContext, Wait};
use crate::metrics::{Origin, ServerLatency, Unit};

/// Offset of the row's number in its reply.
const ROW_INDEX_AT: std::ops::Range<usize> = 14..18;

/// Takes the rows that a turn of a batch does not carry out.
pub(super) struct Elsewhere<'a> {
    pub(super) batch: &'a Arc<BatchInFlight>,
    pub(super) context: &'a Arc<TransactionContext>,
    /// Start of the rows' time.
    pub(super) since: Instant,
    /// For rows without a filter of their own.
    pub(super) filter: Option<&'a [u8]>,
}

impl RowsElsewhere for Elsewhere<'_> {
    fn take(&self, row: &Row<'_>, wait: Wait) {
        self.batch.progress.lock().elsewhere += 1;
        let sink = RowSink {
            batch: Arc::clone(self.batch),
            context: Arc::clone(self.context),
            index: row.index,
            is_answered: AtomicBool::new(false),
        };
        let filter = self.filter.filter(|_| !row.request.has_field(field::FILTER_EXPRESSION));
        let filter = filter.map(|filter| (field::FILTER_EXPRESSION, filter));
        // Another node tells a row by its lack of a digest: that is beside the body.
        let body = row.request.to_body(filter, Some(field::DIGEST));
        let request = OwnedRequest::new(&body, self.since, Arc::new(sink));
        self.context.restart(wait, request.of(Origin::BatchSub, Some(row.digest)));
    }
}

/// Takes the reply to a row.
struct RowSink {
    batch: Arc<BatchInFlight>,
    context: Arc<TransactionContext>,
    index: u32,
    is_answered: AtomicBool,
}

impl RowSink {
    /// Adds the message of a reply to the batch.
    fn answer(&self, message: &[u8]) {
        self.is_answered.store(true, Relaxed);
        if self.batch.add_from_elsewhere(message) {
            self.batch.finish(&self.context);
            let latency = self.context.metrics.latency(ServerLatency::BatchIndex);
            latency.add(Unit::configured(&self.context.config), self.batch.received.elapsed(), 1);
        }
    }

    fn refuse(&self) {
        let mut message = Vec::new();
        let header = ReplyHeader { transaction_ttl: self.index, ..ReplyHeader::result(ResultCode::Unknown) };
        ReplyWriter::unframed(&mut message).finish(&header);
        self.answer(&message);
    }
}

impl ReplySink for RowSink {
    fn send(&self, _: Vec<u8>) -> Result<(), SinkClosed> {
        // A row has one reply.
        Err(SinkClosed)
    }

    fn post(&self, _: Vec<u8>) {}

    fn is_closed(&self) -> bool {
        self.batch.sink.is_closed()
    }

    fn finish(&self, mut frame: Vec<u8>) {
        match frame.get_mut(HEADER_SIZE..) {
            Some(message) if message.len() >= MESSAGE_HEADER_SIZE => {
                message[ROW_INDEX_AT].copy_from_slice(&self.index.to_be_bytes());
                self.answer(message);
            }
            _ => self.refuse(),
        }
    }
}

impl Drop for RowSink {
    fn drop(&mut self) {
        if !*self.is_answered.get_mut() {
            self.refuse();
        }
    }
}

impl BatchInFlight {
    /// Takes the reply to a row that was carried out elsewhere. Returns whether the batch is done.
    fn add_from_elsewhere(&self, message: &[u8]) -> bool {
        let mut progress = self.progress.lock();
        let partial = std::mem::take(&mut progress.from_elsewhere);
        let mut frames = Frames::new(&self.outcome, ToClient(&*self.sink), partial);
        frames.add_row(message);
        progress.from_elsewhere = frames.take_partial();
        progress.elsewhere -= 1;
        progress.is_done()
    }

    /// Sends the remaining replies, and the last message.
    pub(super) fn finish(&self, context: &TransactionContext) {
        let mut progress = self.progress.lock();
        let partial = std::mem::take(&mut progress.from_elsewhere);
        let is_complete = !progress.is_incomplete;
        drop(progress);
        Frames::new(&self.outcome, ToClient(&*self.sink), partial).flush();
        let mut last = Vec::new();
        finish(&self.outcome, is_complete, &context.metrics, &mut last);
        self.sink.finish(last);
    }
}
