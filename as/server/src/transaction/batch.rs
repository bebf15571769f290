//! Batches: rows that are single-record requests, answered as they are done, with the row's number.
//!
//! A small batch is carried out by the service thread that read it, a larger one by the [batch threads](super::batch_pool).
//!
//! Every row is carried out, whatever came of others, but not after the time that its request may take. Unless the client
//! wants to hear of every row, the first frame that would hold a row's error (other than "not found" and "filtered out")
//! ends the reply, before the frame or, if the client asks for the failing row, behind it.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use cf::clock::StoredMillis;
use datamodel::Budget;
use datamodel::exp::Filter;
use proto::ResultCode;
use proto::batch::{Batch, Row, RowPosition, Rows, batch_flag};
use proto::frame::{self, FrameType, HEADER_SIZE};
use proto::message::{Request, field, info1, info2};
use proto::reply::{self, ReplyHeader};
use smallvec::SmallVec;

use super::filter::{self, CompiledFilter};
use super::{Call, Execution, Executor, PREPARED_REQUESTS};
use crate::metrics::{Operation, Origin, ServerCounter, ServerMetrics};
use crate::namespace::stored_size;

/// Rows that a service thread carries out itself.
const INLINE_ROWS_MAX: u32 = 256;
/// Bytes of rows that a service thread carries out itself.
const INLINE_SIZE_MAX: usize = 256 << 10;
/// Bytes of records that a service thread reads for a batch: answers with more would hold up its other clients, and all
/// wait in memory until they are sent.
const INLINE_RECORDS_SIZE_MAX: u64 = 4 << 20;
/// Replies are sent when a frame has this size.
const FRAME_SIZE: usize = 128 << 10;

/// The batch of a request.
pub(super) fn batch_of<'a>(request: &Request<'a>) -> Result<Batch<'a>, ResultCode> {
    let value = request.field(field::BATCH).or_else(|| request.field(field::BATCH_WITH_SET));
    value.and_then(|value| Batch::parse(value).ok()).ok_or(ResultCode::Parameter)
}

/// Checks a batch request; `rows_max` of 0 is no limit. Gives the batch and the filter for rows without one.
pub(super) fn checked<'a>(
    request: &Request<'a>,
    rows_max: u32,
) -> Result<(Batch<'a>, Option<CompiledFilter<'a>>), ResultCode> {
    let batch = batch_of(request)?;
    if batch.row_count == 0 {
        return Err(ResultCode::Parameter);
    }
    if rows_max != 0 && batch.row_count > rows_max {
        return Err(ResultCode::BatchMaxRequests);
    }
    match filter::compile(request, &Budget::unlimited()) {
        Some(Err(result)) => Err(result),
        filter => Ok((batch, filter)),
    }
}

/// The filters of rows, compiled once for rows that share one.
struct RowFilters<'a> {
    /// For rows without their own.
    parent: Option<&'a CompiledFilter<'a>>,
    /// That of the last row that had its own, with where its bytes are.
    own: Option<(&'a [u8], CompiledFilter<'a>)>,
}

impl<'a> RowFilters<'a> {
    fn new(parent: Option<&'a CompiledFilter<'a>>) -> Self {
        RowFilters { parent, own: None }
    }

    /// The filter for `row`.
    fn of(&mut self, row: &Row<'a>) -> Option<&CompiledFilter<'_>> {
        let Some(bytes) = row.request.field(field::FILTER_EXPRESSION) else { return self.parent };
        // Rows that repeat parameters have the very same bytes.
        if !self.own.as_ref().is_some_and(|(known, _)| std::ptr::eq(*known, bytes)) {
            self.own = Some((bytes, Filter::compile(bytes, &Budget::unlimited())));
        }
        self.own.as_ref().map(|(_, filter)| filter)
    }
}

/// What the rows of a batch have come to so far; shared by its slices.
pub(super) struct Outcome {
    flags: u8,
    /// Code of the error that ended the reply, or 0.
    result: AtomicU8,
}

impl Outcome {
    /// Of a batch with these flags, before its first row.
    pub(super) fn new(flags: u8) -> Self {
        Outcome { flags, result: AtomicU8::new(0) }
    }

    /// Ends the reply before what is still to be sent, unless something else has.
    pub(super) fn end(&self, result: ResultCode) {
        // Whoever is second has nothing to add.
        let _ = self.result.compare_exchange(0, result.code(), Ordering::AcqRel, Ordering::Acquire);
    }

    /// Whether the reply has ended: rows are carried out, and nobody hears of them.
    pub(super) fn has_ended(&self) -> bool {
        self.result.load(Ordering::Acquire) != 0
    }
}

/// How far rows were carried out.
pub(super) enum Extent {
    All,
    /// Until one that is malformed or of an unknown namespace, or missing.
    UntilBad,
    /// The client is behind with reading; so many are left, from there on.
    Held(RowPosition, u32),
}

/// Where the frames of a batch go.
pub(super) trait FrameSink {
    /// Takes a whole frame.
    fn send(&mut self, frame: Vec<u8>);

    /// Whether the client had better read before the next one is made.
    fn is_behind(&self) -> bool;
}

/// The outbox of a service thread takes whatever comes of a small batch.
impl FrameSink for &mut Vec<u8> {
    fn send(&mut self, frame: Vec<u8>) {
        self.extend_from_slice(&frame);
    }

    fn is_behind(&self) -> bool {
        false
    }
}

/// Replies in the making: one frame, sent to `sink` when it is full.
pub(super) struct Frames<'a, S: FrameSink> {
    outcome: &'a Outcome,
    sink: S,
    frame: Vec<u8>,
    /// Code of the last error in the frame that ends the reply behind it, or 0.
    error: u8,
}

impl<'a, S: FrameSink> Frames<'a, S> {
    pub(super) fn new(outcome: &'a Outcome, sink: S) -> Self {
        Frames { outcome, sink, frame: vec![0; HEADER_SIZE], error: 0 }
    }

    /// Notes the result of the row whose reply is at `start` of the frame.
    fn row_done(&mut self, start: usize) {
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

    fn is_full(&self) -> bool {
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

    fn is_behind(&self) -> bool {
        !self.outcome.has_ended() && self.sink.is_behind()
    }
}

impl Executor {
    /// Carries out a batch, or says that it is for the batch threads.
    pub(super) fn execute_batch(
        &mut self,
        request: &Request<'_>,
        now: StoredMillis,
        out: &mut Vec<u8>,
    ) -> Execution {
        self.metrics.add(ServerCounter::BatchIndexInitiate, 1);
        let (batch, filter) = match checked(request, self.config.service.batch_max_requests.get()) {
            Ok(checked) => checked,
            Err(result) => {
                cf::warning_limited!(Batch, "bad batch: {result:?}");
                self.metrics.add(ServerCounter::BatchIndexError, 1);
                write_last(out, result);
                return Execution::Replied;
            }
        };
        let is_large = batch.row_count > INLINE_ROWS_MAX || batch.rows.len() > INLINE_SIZE_MAX;
        if is_large || self.reads_much(&batch, request) {
            return Execution::Batch;
        }
        let outcome = Outcome::new(batch.flags);
        let mut rows = Rows::new(batch.rows, request);
        let mut frames = Frames::new(&outcome, &mut *out);
        let since = self.received();
        let extent = self.execute_rows(filter.as_ref(), &mut rows, batch.row_count, now, since, &mut frames);
        frames.flush();
        finish(&outcome, matches!(extent, Extent::All), &self.metrics, out);
        self.tally.add_batch();
        Execution::Replied
    }

    /// Carries out the next `count` rows of a batch that has waited, but for its client, since `since`.
    pub(super) fn execute_rows<'a, S: FrameSink>(
        &mut self,
        filter: Option<&'a CompiledFilter<'a>>,
        rows: &mut Rows<'a>,
        count: u32,
        now: StoredMillis,
        since: Instant,
        frames: &mut Frames<'_, S>,
    ) -> Extent {
        let mut filters = RowFilters::new(filter);
        // Requests before the batch may have replies that wait for the disk too, elsewhere.
        let settled = self.unsettled_count();
        let mut left = count;
        let mut window = SmallVec::<[(Row<'_>, RowPosition); PREPARED_REQUESTS]>::new();
        while left > 0 {
            window.clear();
            let mut complete = true;
            while window.len() < PREPARED_REQUESTS.min(left as usize) && complete {
                match rows.read() {
                    Ok(row) if self.knows_namespace(&row) => window.push((row, rows.position())),
                    _ => complete = false,
                }
            }
            self.prepare(
                window.iter().map(|(row, _)| (row.request.namespace.unwrap_or_default(), row.digest)),
            );
            let is_late = window.first().is_some_and(|(row, _)| self.is_late(&row.request, since));
            let mut starts = SmallVec::<[usize; PREPARED_REQUESTS]>::new();
            for (at, (row, behind)) in window.iter().enumerate() {
                starts.push(frames.frame.len());
                self.execute_row(filters.of(row), row, now, is_late, &mut frames.frame);
                left -= 1;
                if frames.is_full() || at + 1 == window.len() {
                    self.settle_behind(settled, &mut frames.frame);
                    starts.drain(..).for_each(|start| frames.row_done(start));
                }
                if frames.is_full() {
                    frames.flush();
                    if left > 0 && frames.is_behind() && (complete || at + 1 < window.len()) {
                        return Extent::Held(*behind, left);
                    }
                }
            }
            if !complete {
                return Extent::UntilBad;
            }
        }
        Extent::All
    }

    /// Whether the records of the few rows of `batch` are more than a service thread reads.
    fn reads_much(&self, batch: &Batch<'_>, request: &Request<'_>) -> bool {
        let largest = self.namespaces.iter().map(|namespace| namespace.largest_record()).max();
        if largest.unwrap_or(0) * u64::from(batch.row_count) <= INLINE_RECORDS_SIZE_MAX {
            return false;
        }
        let mut rows = Rows::new(batch.rows, request);
        let mut size = 0;
        for _ in 0..batch.row_count {
            let Ok(row) = rows.read() else { break };
            let name = row.request.namespace.unwrap_or_default();
            let Some(namespace) = self.namespaces.iter().find(|known| known.name().as_bytes() == name) else {
                break;
            };
            size += namespace.index.get(&row.digest).map_or(0, |element| stored_size(&element));
            if size > INLINE_RECORDS_SIZE_MAX {
                return true;
            }
        }
        false
    }

    /// A row of an unknown namespace ends the batch.
    fn knows_namespace(&self, row: &Row<'_>) -> bool {
        self.namespace_of(&row.request).is_some()
    }

    fn execute_row(
        &mut self,
        filter: Option<&CompiledFilter<'_>>,
        row: &Row<'_>,
        now: StoredMillis,
        is_late: bool,
        out: &mut Vec<u8>,
    ) {
        let Some(namespace) = self.namespace_of(&row.request) else { return };
        self.take_up_row(&namespace);
        let request = &row.request;
        let call = Call {
            namespace: &namespace,
            request,
            digest: row.digest,
            now,
            origin: Origin::BatchSub,
            filter,
            row: Some(row.index),
            budget: &Budget::unlimited(),
        };
        let refused = if is_late {
            Some(ResultCode::Timeout)
        } else if request.info2 & info2::WRITE == 0 && request.info1 & info1::READ == 0 {
            Some(ResultCode::Parameter)
        } else {
            None
        };
        if let Some(result) = refused {
            namespace.metrics.count(Origin::BatchSub, Operation::Tsvc, result);
            return call.reply_header_only(out, result, 0, 0);
        }
        self.run(&call, out);
    }
}

/// Appends the message that ends a batch, and counts it.
pub(super) fn finish(outcome: &Outcome, complete: bool, metrics: &ServerMetrics, out: &mut Vec<u8>) {
    let error = outcome.result.load(Ordering::Acquire);
    let code = if complete { error } else { ResultCode::Parameter.code() };
    if !complete {
        cf::warning_limited!(Batch, "batch with fewer rows than it says, or a malformed one");
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

fn write_last(out: &mut Vec<u8>, result: ResultCode) {
    reply::write_header_only(out, &ReplyHeader::last(result));
}
