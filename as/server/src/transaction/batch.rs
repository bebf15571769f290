//! Batches: rows that are single-record requests, answered as they are done, with the row's number.
//!
//! A small batch begins on the service thread that read it, a larger one on the [batch threads](super::batch_pool).
//! These also get the rest of a small one when its steps are used up or its replies have grown large.
//!
//! Every row is carried out, whatever the results of others, until the time of the batch is over. Unless the client
//! asks for all replies, the first row's error (other than "not found" and "filtered out") ends the reply: before the
//! frame with that error or, if the client asks for the failing row, after it.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use cf::clock::StoredMillis;
use datamodel::Budget;
use datamodel::exp::Filter;
use proto::ResultCode;
use proto::batch::{Batch, Row, RowPosition, Rows, batch_flag};
use proto::frame::{self, FrameType, HEADER_SIZE};
use proto::message::{Request, field, info1, info2};
use proto::reply::{self, ReplyHeader, ReplyWriter};
use smallvec::SmallVec;

use super::access;
use super::filter::CompiledFilter;
use super::pool::PORTION_STEPS;
use super::step::BatchRest;
use super::wait::Patience;
use super::{
    Call, Executor, INLINE_STEPS, PREPARED_REQUESTS, Place, ReplySink, Step, TransactionContext, Wait,
    Workspace, prefetch_records, record_access, wait_of_refused,
};
use crate::index::PartitionId;
use crate::metrics::{Operation, Origin, ServerCounter, ServerMetrics};
use crate::namespace::{Namespace, Refused};
use crate::security::Standing;

/// Rows that a service thread carries out itself.
const INLINE_ROWS_MAX: u32 = 256;
/// Bytes of rows that a service thread carries out itself.
const INLINE_SIZE_MAX: usize = 256 << 10;
/// Bytes of replies that a service thread makes for a batch: they wait in memory until all are made.
const INLINE_REPLIES_SIZE_MAX: usize = 1 << 20;
/// Steps that a batch may take on a service thread. A step is about a nanosecond.
const INLINE_BATCH_STEPS: u64 = 400_000;
/// Replies are sent when a frame has this size.
const FRAME_SIZE: usize = 128 << 10;

/// The batch of a request.
pub(super) fn batch_of<'a>(request: &Request<'a>) -> Result<Batch<'a>, ResultCode> {
    request.batch.and_then(|value| Batch::parse(value).ok()).ok_or(ResultCode::Parameter)
}

/// Checks a batch request except its filter; `rows_max` of 0 is no limit.
fn checked<'a>(request: &Request<'a>, rows_max: u32) -> Result<Batch<'a>, ResultCode> {
    let batch = batch_of(request)?;
    if batch.row_count == 0 {
        return Err(ResultCode::Parameter);
    }
    if rows_max != 0 && batch.row_count > rows_max {
        return Err(ResultCode::BatchMaxRequests);
    }
    Ok(batch)
}

/// Compiles the filter for rows without one of their own.
///
/// # Errors
/// Why the filter is invalid. The result is not valid if the budget is exhausted.
pub(super) fn compile_filter<'a>(
    request: &Request<'a>,
    budget: &Budget<'_>,
) -> Result<Option<CompiledFilter<'a>>, ResultCode> {
    let bytes = request.last_field(field::FILTER_EXPRESSION);
    Ok(bytes.map(|bytes| Filter::compile(bytes, budget)).transpose()?.map(Ok))
}

/// Answers an invalid batch.
fn refuse(out: &mut Vec<u8>, result: ResultCode, metrics: &ServerMetrics) -> Step {
    warn_of_bad(result);
    metrics.add(ServerCounter::BatchIndexError, 1);
    write_last(out, result);
    Step::Done
}

/// Logs that a batch is invalid.
pub(super) fn warn_of_bad(result: ResultCode) {
    cf::warning_limited!(Batch, "bad batch: {result:?}");
}

/// The filters of rows, compiled once for rows that share one.
struct RowFilters<'a> {
    /// For rows without a filter of their own.
    parent: Option<&'a CompiledFilter<'a>>,
    /// The filter of the last row that had its own, with its bytes.
    own: Option<(&'a [u8], CompiledFilter<'a>)>,
}

impl<'a> RowFilters<'a> {
    fn new(parent: Option<&'a CompiledFilter<'a>>) -> Self {
        RowFilters { parent, own: None }
    }

    /// The filter for `row`, compiled if necessary. It is not valid if the budget is exhausted.
    fn of(&mut self, row: &Row<'a>, budget: &Budget<'_>) -> Option<&CompiledFilter<'_>> {
        let Some(bytes) = row.request.field(field::FILTER_EXPRESSION) else { return self.parent };
        // Rows that repeat parameters refer to the very same bytes.
        if !self.own.as_ref().is_some_and(|(known, _)| std::ptr::eq(*known, bytes)) {
            let compiled = Filter::compile(bytes, budget);
            // The next row may succeed where this one ran out of budget.
            self.own = (!budget.is_exhausted()).then_some((bytes, compiled));
        }
        self.own.as_ref().map(|(_, filter)| filter)
    }
}

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

    fn result(&self) -> u8 {
        self.result.load(Ordering::Acquire)
    }
}

/// How far rows were carried out.
pub(super) enum Extent {
    All,
    /// Up to a row that is malformed, missing or of an unknown namespace.
    UntilBad,
    /// The rest must go on elsewhere or later: this many rows, from this position on.
    Paused(RowPosition, u32),
    /// As `Paused`, to be resumed after this wait for a device.
    Waits(RowPosition, u32, Wait),
    /// As `Paused`, to be resumed when the newest copies of their records are known.
    Unresolved(RowPosition, u32),
}

/// Where rows of a batch are carried out.
#[derive(Clone, Copy)]
pub(super) enum RowsPlace<'a> {
    /// A service thread, as long as the budget lasts.
    Service(&'a Budget<'a>),
    /// A batch thread, until this time. The sink tells whether the client still listens.
    Pool { until: Instant, sink: &'a dyn ReplySink, elsewhere: &'a dyn RowsElsewhere },
}

/// Takes rows that are not carried out together with the others of their batch.
pub(super) trait RowsElsewhere {
    /// Passes a row to another node, or keeps it for later. Its reply joins those of the batch.
    fn take(&self, row: &Row<'_>, wait: Wait);
}

/// Result of a row.
enum RowStep {
    Answered,
    /// Its reply comes later.
    Elsewhere,
    /// It has changed nothing yet.
    Waits(Wait),
}

impl From<Option<Wait>> for RowStep {
    fn from(wait: Option<Wait>) -> Self {
        wait.map_or(RowStep::Answered, RowStep::Waits)
    }
}

/// State shared by rows of a batch that are carried out together.
#[derive(Clone, Copy)]
pub(super) struct RowsContext<'a> {
    /// The user's standing when these rows were begun; `None` without access control.
    pub(super) standing: Option<&'a Standing>,
    /// For rows without a filter of their own.
    pub(super) filter: Option<&'a CompiledFilter<'a>>,
    pub(super) now: StoredMillis,
    /// When the batch was received, plus the time in which it waited for its client.
    pub(super) since: Instant,
    pub(super) place: RowsPlace<'a>,
    /// Whether rows may wait for room.
    pub(super) may_wait: bool,
}

/// Destination of a batch's frames.
pub(super) trait FrameSink {
    /// Takes a whole frame.
    fn send(&mut self, frame: Vec<u8>);

    /// Whether the client should read before the next frame is made.
    fn is_behind(&self) -> bool;
}

/// The outbox of a service thread, as the destination of a small batch's replies.
struct ToOutbox<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl FrameSink for ToOutbox<'_> {
    fn send(&mut self, frame: Vec<u8>) {
        self.out.extend_from_slice(&frame);
    }

    fn is_behind(&self) -> bool {
        self.out.len() - self.start >= INLINE_REPLIES_SIZE_MAX
    }
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
    frame: Vec<u8>,
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
    /// Carries out a batch, or the part of it that fits on a service thread.
    pub(super) fn execute_batch(
        &mut self,
        request: &Request<'_>,
        standing: Option<&Standing>,
        now: StoredMillis,
        out: &mut Vec<u8>,
    ) -> Step {
        let Executor { context, workspace } = self;
        context.metrics.add(ServerCounter::BatchIndexInitiate, 1);
        let batch = match checked(request, context.config.service.batch_max_requests.get()) {
            Ok(batch) => batch,
            Err(result) => return refuse(out, result, &context.metrics),
        };
        context.metrics.batch_rows.add_size(u64::from(batch.row_count));
        let mut rows = Rows::new(batch.rows, request);
        let count = batch.row_count;
        if count > INLINE_ROWS_MAX || batch.rows.len() > INLINE_SIZE_MAX {
            return Step::Batch(BatchRest::whole(&rows, count));
        }
        let budget = Budget::new(INLINE_BATCH_STEPS);
        let filter = compile_filter(request, &budget);
        if budget.is_exhausted() {
            return Step::Batch(BatchRest::whole(&rows, count));
        }
        let filter = match filter {
            Ok(filter) => filter,
            Err(result) => return refuse(out, result, &context.metrics),
        };
        let outcome = BatchOutcome::new(batch.flags, 0);
        let start = out.len();
        let mut frames = Frames::new(&outcome, ToOutbox { out, start }, PartialFrame::default());
        let shared = RowsContext {
            standing,
            filter: filter.as_ref(),
            now,
            since: workspace.stopwatch.woken,
            place: RowsPlace::Service(&budget),
            may_wait: true,
        };
        let extent = workspace.execute_rows(context, &shared, &mut rows, count, &mut frames);
        if matches!(extent, Extent::UntilBad) {
            // Unsent frames are not sent.
            outcome.end(ResultCode::Parameter);
        }
        if let Extent::Paused(first, count) = extent {
            let partial = frames.take_partial();
            return Step::Batch(BatchRest {
                first,
                count,
                result: outcome.result(),
                partial,
                frames: Vec::new(),
            });
        }
        frames.flush();
        finish(&outcome, matches!(extent, Extent::All), &context.metrics, out);
        workspace.tally.add_batch();
        Step::Done
    }
}

impl BatchRest {
    /// All `count` rows of a batch.
    fn whole(rows: &Rows<'_>, count: u32) -> Self {
        let (partial, frames) = (PartialFrame::default(), Vec::new());
        BatchRest { first: rows.position(), count, result: 0, partial, frames }
    }
}

/// A row with its namespace and the positions before and after it.
struct PlacedRow<'a, 'c> {
    row: Row<'a>,
    namespace: &'c Namespace,
    before: RowPosition,
    behind: RowPosition,
}

/// Rows whose records are prefetched together.
type Window<'a, 'c> = SmallVec<[PlacedRow<'a, 'c>; PREPARED_REQUESTS]>;

impl TransactionContext {
    /// Reads the next rows, at most `left`. Returns whether they were all valid. A row of an unknown namespace ends the
    /// batch.
    fn read_window<'a, 'c>(&'c self, rows: &mut Rows<'a>, left: u32, window: &mut Window<'a, 'c>) -> bool {
        window.clear();
        while window.len() < PREPARED_REQUESTS.min(left as usize) {
            let before = rows.position();
            let Ok(row) = rows.read() else { return false };
            // Rows seldom change their namespace.
            let name = row.request.namespace.unwrap_or_default();
            let known =
                window.last().map(|last| last.namespace).filter(|last| last.name().as_bytes() == name);
            let Some(namespace) = known.or_else(|| self.namespace_of(&row.request).map(|found| &**found))
            else {
                return false;
            };
            window.push(PlacedRow { row, namespace, before, behind: rows.position() });
        }
        true
    }
}

impl RowsContext<'_> {
    /// Whether the remaining rows must go on elsewhere or later.
    fn is_over(&self) -> bool {
        match self.place {
            RowsPlace::Service(_) => false,
            RowsPlace::Pool { until, .. } => Instant::now() >= until,
        }
    }

    /// Whether `row` changes a record that must be on disk before the reply: a service thread must not wait for that.
    fn must_not_wait_for(&self, namespace: &Namespace, row: &Row<'_>) -> bool {
        matches!(self.place, RowsPlace::Service(_))
            && row.request.info2 & info2::WRITE != 0
            && (namespace.storage.commits()
                || namespace.partitions.has_other_replicas(PartitionId::of(&row.digest)))
    }

    /// The extent when a row has to wait; on a batch thread the wait may be for its device.
    fn paused_for(&self, wait: Wait, before: RowPosition, left: u32) -> Extent {
        match (wait, self.place) {
            (Wait::Room(_) | Wait::Disk { .. }, RowsPlace::Pool { .. }) => Extent::Waits(before, left, wait),
            (Wait::Duplicates(_), RowsPlace::Pool { .. }) => Extent::Unresolved(before, left),
            _ => Extent::Paused(before, left),
        }
    }

    /// Handles a row whose partition this node does not serve now: answers it, or passes it on.
    fn take_refused(
        &self,
        refused: Refused,
        namespace: &Namespace,
        row: &Row<'_>,
        out: &mut Vec<u8>,
    ) -> RowStep {
        match (wait_of_refused(refused), self.place) {
            (Err(result), _) => {
                refuse_row(namespace, row, result, out);
                RowStep::Answered
            }
            (Ok(_), RowsPlace::Service(_)) => RowStep::Waits(Wait::Pool),
            (Ok(wait), RowsPlace::Pool { .. }) => self.send_elsewhere(row, wait),
        }
    }

    /// Passes a row to the node that serves it, or keeps it for later.
    fn send_elsewhere(&self, row: &Row<'_>, wait: Wait) -> RowStep {
        let RowsPlace::Pool { elsewhere, .. } = self.place else { return RowStep::Waits(Wait::Pool) };
        elsewhere.take(row, wait);
        RowStep::Elsewhere
    }

    /// Whether rows that only read are skipped.
    fn skips_reads(&self, context: &TransactionContext) -> bool {
        match self.place {
            RowsPlace::Service(_) => false,
            RowsPlace::Pool { sink, .. } => context.is_unheard(sink),
        }
    }
}

impl Workspace {
    /// Carries out the next `count` rows of a batch.
    pub(super) fn execute_rows<'a, S: FrameSink>(
        &mut self,
        context: &TransactionContext,
        shared: &RowsContext<'a>,
        rows: &mut Rows<'a>,
        count: u32,
        frames: &mut Frames<'_, S>,
    ) -> Extent {
        let mut filters = RowFilters::new(shared.filter);
        // Requests before the batch may have replies that wait for the disk too.
        let settled = self.buffers.unsettled.len();
        let (mut left, mut window) = (count, Window::new());
        let mut starts = SmallVec::<[usize; PREPARED_REQUESTS]>::new();
        while left > 0 {
            let is_complete = context.read_window(rows, left, &mut window);
            let skips_reads = shared.skips_reads(context);
            if !skips_reads {
                prefetch_records(window.iter().map(|placed| (placed.namespace, placed.row.digest)));
            }
            let first = window.first();
            let is_late =
                first.is_some_and(|first| shared.since.elapsed() >= context.time_max(&first.row.request));
            for (at, PlacedRow { row, namespace, before, behind }) in window.iter().enumerate() {
                let is_last = at + 1 == window.len();
                let is_skipped = skips_reads && row.request.info2 & info2::WRITE == 0;
                if shared.must_not_wait_for(namespace, row) {
                    // A row on a service thread must not leave replies waiting among those of others.
                    assert_eq!(self.buffers.unsettled.len(), settled, "a row on a service thread is settled");
                    starts.drain(..).for_each(|start| frames.row_done(start));
                    return Extent::Paused(*before, left);
                }
                let start = frames.frame.len();
                let out = &mut frames.frame;
                if !is_skipped {
                    match self.execute_row((context, namespace), shared, &mut filters, (row, is_late), out) {
                        RowStep::Answered => starts.push(start),
                        RowStep::Elsewhere => {}
                        RowStep::Waits(wait) => {
                            self.settle_behind(context, settled, &mut frames.frame);
                            starts.drain(..).for_each(|start| frames.row_done(start));
                            return shared.paused_for(wait, *before, left);
                        }
                    }
                }
                left -= 1;
                if frames.is_full() || is_last {
                    self.settle_behind(context, settled, &mut frames.frame);
                    starts.drain(..).for_each(|start| frames.row_done(start));
                }
                let is_full = frames.is_full();
                if is_full {
                    frames.flush();
                }
                let may_pause = left > 0 && (is_complete || !is_last);
                if may_pause && (is_full && frames.is_behind() || (is_full || is_last) && shared.is_over()) {
                    return Extent::Paused(*behind, left);
                }
            }
            if !is_complete {
                return Extent::UntilBad;
            }
        }
        Extent::All
    }

    /// Carries out a row, or passes it to another node.
    fn execute_row<'a>(
        &mut self,
        (context, namespace): (&TransactionContext, &Namespace),
        shared: &RowsContext<'a>,
        filters: &mut RowFilters<'a>,
        (row, is_late): (&Row<'a>, bool),
        out: &mut Vec<u8>,
    ) -> RowStep {
        self.take_up_row(namespace);
        let request = &row.request;
        let access = record_access(request);
        let is_neither = request.info2 & info2::WRITE == 0 && request.info1 & info1::READ == 0;
        let reserved = if is_late {
            Err(ResultCode::Timeout)
        } else if let Err(result) = access::check_row(shared.standing, request, row.digest) {
            Err(result)
        } else if is_neither {
            Err(ResultCode::Parameter)
        } else {
            Ok(self.reserve_partition(namespace, &row.digest, (access, Place::Service)))
        };
        let tree_id = match reserved {
            Ok(Ok((tree_id, _))) => tree_id,
            Ok(Err(refused)) => return shared.take_refused(refused, namespace, row, out),
            Err(result) => {
                refuse_row(namespace, row, result, out);
                return RowStep::Answered;
            }
        };
        let call = |place, tree_id, filter, budget| Call {
            context,
            place,
            namespace,
            request,
            digest: row.digest,
            tree_id,
            now: shared.now,
            origin: Origin::BatchSub,
            filter,
            check: None,
            row: Some(row.index),
            budget,
            patience: Patience::new(shared.may_wait, None),
            has_turn: false,
        };
        match shared.place {
            RowsPlace::Service(budget) => {
                let filter = filters.of(row, budget);
                if budget.is_exhausted() {
                    return RowStep::Waits(Wait::Pool);
                }
                self.run(&call(Place::Service, tree_id, filter, budget), out).into()
            }
            RowsPlace::Pool { sink, .. } => {
                let deadline = shared.since + context.time_max(request);
                let may_go_on = || context.may_go_on(request, deadline, sink);
                let budget = Budget::with_refill(PORTION_STEPS, &may_go_on);
                let filter = filters.of(row, &budget);
                if budget.is_exhausted() {
                    refuse_row(namespace, row, ResultCode::Timeout, out);
                    return RowStep::Answered;
                }
                // A row that is too long for this runs again on a copy of its record, without a lock. So does one whose
                // record is reserved, after it has waited.
                let short = Budget::new(INLINE_STEPS);
                match self.run(&call(Place::Service, tree_id, filter, &short), out) {
                    None => return RowStep::Answered,
                    Some(wait @ (Wait::Room(_) | Wait::Disk { .. } | Wait::Duplicates(_))) => {
                        return RowStep::Waits(wait);
                    }
                    Some(wait @ (Wait::Hold | Wait::OtherNode(_))) => {
                        return shared.send_elsewhere(row, wait);
                    }
                    Some(_) => {}
                }
                let place = Place::Pool { deadline };
                match self.reserve_partition(namespace, &row.digest, (access, place)) {
                    Ok((tree_id, _reservation)) => {
                        let wait = self.run(&call(place, tree_id, filter, &budget), out);
                        if let Some(wait @ (Wait::Hold | Wait::OtherNode(_) | Wait::Record(_))) = wait {
                            return shared.send_elsewhere(row, wait);
                        }
                        let may_wait = |wait: Wait| {
                            matches!(wait, Wait::Room(_) | Wait::Disk { .. } | Wait::Duplicates(_))
                        };
                        assert!(wait.is_none_or(may_wait), "a row in the pool waits for nothing else");
                        wait.into()
                    }
                    Err(refused) => shared.take_refused(refused, namespace, row, out),
                }
            }
        }
    }
}

/// Answers a row that is not carried out.
fn refuse_row(namespace: &Namespace, row: &Row<'_>, result: ResultCode, out: &mut Vec<u8>) {
    namespace.metrics.count(Origin::BatchSub, Operation::Tsvc, result);
    let header = ReplyHeader { transaction_ttl: row.index, ..ReplyHeader::result(result) };
    ReplyWriter::unframed(out).finish(&header);
}

/// Appends the message that ends a batch, and counts it.
pub(super) fn finish(outcome: &BatchOutcome, complete: bool, metrics: &ServerMetrics, out: &mut Vec<u8>) {
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
