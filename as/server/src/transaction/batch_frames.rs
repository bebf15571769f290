//! Replies of a batch: messages of its rows, gathered in frames, until an error ends them.

use std::sync::atomic::{AtomicU8, Ordering};

use proto::ResultCode;
use proto::batch::batch_flag;
use proto::frame::{self, FrameType, HEADER_SIZE};
use proto::reply::{self, ReplyHeader};

use crate::metrics::{ServerCounter, ServerMetrics};

/// Replies are sent when a frame has this size.
const FRAME_SIZE: usize = 128 << 10;

/// The outcome of a batch so far; shared by all threads that carry out its rows.
pub(super) struct BatchOutcome {
    flags: u8,
    /// Code of the error that ended the reply, or 0.
    result: AtomicU8,
}

impl BatchOutcome {
    /// For a batch with these flags, whose reply was ended by `result`; 0 if it has not ended.
    pub(super) fn new(flags: u8, result: u8) -> Self {
        BatchOutcome { flags, result: AtomicU8::new(result) }
    }

    /// Ends the reply before the frames that are still to be sent, unless it has ended already.
    pub(super) fn end(&self, result: ResultCode) {
        // Only the first error counts.
        let _ = self.result.compare_exchange(0, result.code(), Ordering::AcqRel, Ordering::Acquire);
    }

    /// Whether the reply has ended: further rows are carried out without replies.
    pub(super) fn has_ended(&self) -> bool {
        self.result() != 0
    }

    pub(super) fn result(&self) -> u8 {
        self.result.load(Ordering::Acquire)
    }
}

/// Destination of a batch's frames.
pub(super) trait FrameSink {
    /// Takes a whole frame.
    fn send(&mut self, frame: Vec<u8>);

    /// Whether the client should read before the next frame is made.
    fn is_behind(&self) -> bool;
}

/// A frame that is not full yet.
#[derive(Debug)]
pub(super) struct PartialFrame {
    /// Room for its header, then messages.
    bytes: Vec<u8>,
    /// Code of the last error in the frame that ends the reply after it, or 0.
    error: u8,
}

impl Default for PartialFrame {
    fn default() -> Self {
        PartialFrame { bytes: vec![0; HEADER_SIZE], error: 0 }
    }
}

/// Replies under construction: one frame, sent to `sink` when it is full.
pub(super) struct Frames<'a, S: FrameSink> {
    outcome: &'a BatchOutcome,
    sink: S,
    pub(super) frame: Vec<u8>,
    /// Code of the last error in the frame that ends the reply after it, or 0.
    error: u8,
}

impl<'a, S: FrameSink> Frames<'a, S> {
    /// Adds the reply of a row that was carried out elsewhere.
    pub(super) fn add_row(&mut self, message: &[u8]) {
        let start = self.frame.len();
        self.frame.extend_from_slice(message);
        self.row_done(start);
        if self.is_full() {
            self.flush();
        }
    }

    /// Continues `partial`.
    pub(super) fn new(outcome: &'a BatchOutcome, sink: S, partial: PartialFrame) -> Self {
        Frames { outcome, sink, frame: partial.bytes, error: partial.error }
    }

    /// Takes the unsent frame, for another turn to continue.
    pub(super) fn take_partial(&mut self) -> PartialFrame {
        let partial = PartialFrame { bytes: std::mem::take(&mut self.frame), error: self.error };
        (self.frame, self.error) = (vec![0; HEADER_SIZE], 0);
        partial
    }

    /// Notes the result of the row whose reply is at `start` of the frame.
    pub(super) fn row_done(&mut self, start: usize) {
        // The sixth byte of a message is its result.
        let code = self.frame.get(start + 5).copied().unwrap_or(0);
        let is_error = ![ResultCode::Ok, ResultCode::NotFound, ResultCode::FilteredOut]
            .map(ResultCode::code)
            .contains(&code);
        if is_error && self.outcome.flags & batch_flag::RESPOND_ALL_KEYS == 0 {
            if self.outcome.flags & batch_flag::REPORT_ERROR_ROW != 0 {
                self.error = code;
            } else {
                self.outcome.result.store(code, Ordering::Release);
            }
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.frame.len() >= FRAME_SIZE
    }

    /// Sends the frame, unless the reply has ended, and starts the next.
    pub(super) fn flush(&mut self) {
        if self.frame.len() == HEADER_SIZE {
            return;
        }
        let mut full = std::mem::replace(&mut self.frame, vec![0; HEADER_SIZE]);
        if self.outcome.has_ended() {
            return;
        }
        if self.error != 0 {
            self.outcome.result.store(self.error, Ordering::Release);
            self.error = 0;
        }
        let header = frame::header_bytes(FrameType::Message, full.len() - HEADER_SIZE);
        full[..HEADER_SIZE].copy_from_slice(&header);
        self.sink.send(full);
    }

    pub(super) fn is_behind(&self) -> bool {
        !self.outcome.has_ended() && self.sink.is_behind()
    }
}

/// Appends the message that ends a batch, and counts it.
pub(super) fn finish(outcome: &BatchOutcome, complete: bool, metrics: &ServerMetrics, out: &mut Vec<u8>) {
    let error = outcome.result.load(Ordering::Acquire);
    let code = if complete { error } else { ResultCode::Parameter.code() };
    if !complete {
        cf::warning_limited!(Batch, "batch with fewer rows than it states, or with a malformed row");
    }
    let result = ResultCode::from_code(code).unwrap_or(ResultCode::Unknown);
    let counter = match result {
        ResultCode::Ok => ServerCounter::BatchIndexComplete,
        ResultCode::Timeout => ServerCounter::BatchIndexTimeout,
        _ => ServerCounter::BatchIndexError,
    };
    metrics.add(counter, 1);
    write_last(out, result);
}

pub(super) fn write_last(out: &mut Vec<u8>, result: ResultCode) {
    reply::write_header_only(out, &ReplyHeader::last(result));
}
