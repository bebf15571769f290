//! Batches: rows that are single-record requests, answered as they are done, with the row's number.
//!
//! A small batch is carried out by the service thread that read it. A larger one is cut into slices that the batch
//! threads share; their replies mix in the order in which slices fill a frame.
//!
//! Every row is carried out, whatever came of others. Unless the client wants to hear of every row, the first frame
//! that would hold a row's error (other than "not found" and "filtered out") ends the reply, before the frame or, if the
//! client asks for the failing row, behind it.
//!
//! # Threads
//! `batch-index-threads` threads take slices from one channel. What the slices of a batch share are atomics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Instant;

use cf::clock::StoredMillis;
use datamodel::exp::Filter;
use proto::ResultCode;
use proto::batch::{Batch, Row, RowPosition, Rows, batch_flag};
use proto::frame::{self, FrameType, HEADER_SIZE};
use proto::message::{Request, field, info1, info2, info3};
use proto::reply::{self, ReplyHeader};
use smallvec::SmallVec;

use super::filter::{self, CompiledFilter};
use super::{Call, Execution, Executor, PREPARED_REQUESTS, ReplySink};
use crate::metrics::{Operation, Origin, ServerCounter, ServerMetrics};
use crate::workers::Workers;

/// Rows that a service thread carries out itself.
const INLINE_ROWS_MAX: u32 = 256;
/// Bytes of rows that a service thread carries out itself.
const INLINE_SIZE_MAX: usize = 256 << 10;
/// Rows of a slice.
const SLICE_ROWS: u32 = 1024;
/// Replies are sent when a frame has this size.
const FRAME_SIZE: usize = 128 << 10;

/// The batch of a request.
fn batch_of<'a>(request: &Request<'a>) -> Result<Batch<'a>, ResultCode> {
    let value = request.field(field::BATCH).or_else(|| request.field(field::BATCH_WITH_SET));
    value.and_then(|value| Batch::parse(value).ok()).ok_or(ResultCode::Parameter)
}

/// Checks a batch request; `rows_max` of 0 is no limit. Gives the batch and the filter for rows without one.
fn checked<'a>(
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
    match filter::compile(request) {
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
            self.own = Some((bytes, Filter::compile(bytes)));
        }
        self.own.as_ref().map(|(_, filter)| filter)
    }
}

/// What the rows of a batch have come to so far; shared by its slices.
struct Outcome {
    flags: u8,
    /// Code of the error that ended the reply, or 0.
    result: AtomicU8,
}

/// Replies in the making: one frame, sent through `send` when it is full.
struct Frames<'a, S: FnMut(Vec<u8>)> {
    outcome: &'a Outcome,
    send: S,
    frame: Vec<u8>,
    /// Code of the last error in the frame that ends the reply behind it, or 0.
    error: u8,
}

impl<'a, S: FnMut(Vec<u8>)> Frames<'a, S> {
    fn new(outcome: &'a Outcome, send: S) -> Self {
        Frames { outcome, send, frame: vec![0; HEADER_SIZE], error: 0 }
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
    fn flush(&mut self) {
        if self.frame.len() == HEADER_SIZE {
            return;
        }
        let mut full = std::mem::replace(&mut self.frame, vec![0; HEADER_SIZE]);
        if self.outcome.result.load(Ordering::Acquire) != 0 {
            return;
        }
        if self.error != 0 {
            self.outcome.result.store(self.error, Ordering::Release);
            self.error = 0;
        }
        let header = frame::header_bytes(FrameType::Message, full.len() - HEADER_SIZE);
        full[..HEADER_SIZE].copy_from_slice(&header);
        (self.send)(full);
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
        if batch.row_count > INLINE_ROWS_MAX || batch.rows.len() > INLINE_SIZE_MAX {
            return Execution::Batch;
        }
        let outcome = Outcome { flags: batch.flags, result: AtomicU8::new(0) };
        let mut rows = Rows::new(batch.rows, request);
        let mut frames = Frames::new(&outcome, |frame| out.extend_from_slice(&frame));
        let complete = self.execute_rows(filter.as_ref(), &mut rows, batch.row_count, now, &mut frames);
        frames.flush();
        finish(&outcome, complete, &self.metrics, out);
        self.tally.add_batch();
        Execution::Replied
    }

    /// Carries out the next `count` rows. Gives whether they were all there.
    fn execute_rows<'a, S: FnMut(Vec<u8>)>(
        &mut self,
        filter: Option<&'a CompiledFilter<'a>>,
        rows: &mut Rows<'a>,
        count: u32,
        now: StoredMillis,
        frames: &mut Frames<'_, S>,
    ) -> bool {
        let mut filters = RowFilters::new(filter);
        let mut left = count;
        let mut window = SmallVec::<[Row<'_>; PREPARED_REQUESTS]>::new();
        while left > 0 {
            window.clear();
            let mut complete = true;
            while window.len() < PREPARED_REQUESTS.min(left as usize) && complete {
                match rows.read() {
                    Ok(row) if self.knows_namespace(&row) => window.push(row),
                    _ => complete = false,
                }
            }
            self.prepare(window.iter().map(|row| (row.request.namespace.unwrap_or_default(), row.digest)));
            let mut starts = SmallVec::<[usize; PREPARED_REQUESTS]>::new();
            for (at, row) in window.iter().enumerate() {
                starts.push(frames.frame.len());
                self.execute_row(filters.of(row), row, now, &mut frames.frame);
                if frames.is_full() || at + 1 == window.len() {
                    self.settle_all(&mut frames.frame);
                    starts.drain(..).for_each(|start| frames.row_done(start));
                }
                if frames.is_full() {
                    frames.flush();
                }
            }
            if !complete {
                return false;
            }
            left -= window.len() as u32;
        }
        true
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
        };
        if request.info2 & info2::WRITE == 0 && request.info1 & info1::READ == 0 {
            namespace.metrics.count(Origin::BatchSub, Operation::Tsvc, ResultCode::Parameter);
            return call.reply_header_only(out, ResultCode::Parameter, 0, 0);
        }
        self.run(&call, out);
    }
}

/// Appends the message that ends a batch, and counts it.
fn finish(outcome: &Outcome, complete: bool, metrics: &ServerMetrics, out: &mut Vec<u8>) {
    let error = outcome.result.load(Ordering::Acquire);
    let code = if complete { error } else { ResultCode::Parameter.code() };
    if !complete {
        cf::warning_limited!(Batch, "batch with fewer rows than it says, or a malformed one");
    }
    metrics
        .add(if code == 0 { ServerCounter::BatchIndexComplete } else { ServerCounter::BatchIndexError }, 1);
    write_last(out, ResultCode::from_code(code).unwrap_or(ResultCode::Unknown));
}

fn write_last(out: &mut Vec<u8>, result: ResultCode) {
    reply::write_header_only(out, &ReplyHeader { info3: info3::LAST, ..ReplyHeader::result(result) });
}

/// A large batch; its slices share it.
struct LargeBatch {
    /// Body of the message.
    body: Box<[u8]>,
    /// For rows without their own.
    filter: Option<CompiledFilter<'static>>,
    outcome: Outcome,
    sink: Arc<dyn ReplySink>,
    now: StoredMillis,
    started: Instant,
    slices_left: AtomicUsize,
    /// Fewer rows were there than announced.
    is_incomplete: bool,
    _under_way: UnderWay,
}

/// Counts a batch as being under way for as long as it lives.
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(count))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Rows of a large batch.
pub(crate) struct Slice {
    batch: Arc<LargeBatch>,
    first: RowPosition,
    count: u32,
}

/// The batch threads.
pub(crate) struct BatchPool {
    pub(crate) workers: Workers<Slice>,
    under_way: Arc<AtomicUsize>,
}

impl BatchPool {
    /// A pool without threads yet.
    pub(crate) fn new() -> Self {
        BatchPool { workers: Workers::new("batch"), under_way: Arc::default() }
    }

    /// Has the batch message `body` carried out; its replies go to `sink`. The message was found to be a batch by
    /// [`Executor::execute`].
    pub(crate) fn start(&self, body: &[u8], now: StoredMillis, sink: Arc<dyn ReplySink>) {
        let Some(cut) = cut(body) else { return };
        let batch = Arc::new(LargeBatch {
            body: body.into(),
            filter: cut.filter.map(|filter| filter.map(Filter::into_owned)),
            outcome: Outcome { flags: cut.flags, result: AtomicU8::new(0) },
            sink,
            now,
            started: Instant::now(),
            slices_left: AtomicUsize::new(cut.slices.len()),
            is_incomplete: cut.is_incomplete,
            _under_way: UnderWay::new(&self.under_way),
        });
        for (first, count) in cut.slices {
            // The threads end only after the service threads, who are the callers.
            self.workers.give(Slice { batch: Arc::clone(&batch), first, count });
        }
    }

    /// Batches that are not done.
    pub(crate) fn under_way_count(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }
}

/// How a batch is cut into slices.
struct Cut<'a> {
    flags: u8,
    filter: Option<CompiledFilter<'a>>,
    /// Start and number of rows of each; at least one.
    slices: Vec<(RowPosition, u32)>,
    /// Fewer rows are there than announced.
    is_incomplete: bool,
}

fn cut(body: &[u8]) -> Option<Cut<'_>> {
    let request = Request::parse(body).ok()?;
    let (batch, filter) = checked(&request, 0).ok()?;
    let mut rows = Rows::new(batch.rows, &request);
    let (mut slices, mut there) = (Vec::new(), 0);
    loop {
        let first = rows.position();
        let wanted = SLICE_ROWS.min(batch.row_count - there);
        let count = (0..wanted).take_while(|_| rows.read().is_ok()).count() as u32;
        slices.push((first, count));
        there += count;
        if count < SLICE_ROWS || there == batch.row_count {
            break;
        }
    }
    Some(Cut { flags: batch.flags, filter, slices, is_incomplete: there < batch.row_count })
}

impl Executor {
    /// Carries out some rows of a batch, on a batch thread.
    pub(crate) fn execute_slice(&mut self, slice: &Slice) {
        let batch = &slice.batch;
        self.wake(batch.started);
        let complete = self.execute_rows_of(slice).unwrap_or(false);
        if !complete {
            // A namespace that nobody knows; what is malformed was not counted in.
            batch.outcome.result.store(ResultCode::Parameter.code(), Ordering::Release);
        }
        if batch.slices_left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let mut last = Vec::new();
            finish(&batch.outcome, !batch.is_incomplete, &self.metrics, &mut last);
            batch.sink.finish(last);
            self.tally.add_batch();
        }
        self.measure(Instant::now());
    }

    fn execute_rows_of(&mut self, slice: &Slice) -> Option<bool> {
        let batch = &*slice.batch;
        let request = Request::parse(&batch.body).ok()?;
        let mut rows = Rows::new(batch_of(&request).ok()?.rows, &request);
        rows.go_to(slice.first).ok()?;
        // A client that is gone is noticed by the sink; the rows are carried out all the same.
        let mut frames = Frames::new(&batch.outcome, |frame| {
            let _ = batch.sink.send(frame);
        });
        let complete =
            self.execute_rows(batch.filter.as_ref(), &mut rows, slice.count, batch.now, &mut frames);
        frames.flush();
        Some(complete)
    }
}
