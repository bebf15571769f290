//! Batches: rows that are single-record requests, answered as they are done, with the row's number.
//!
//! A small batch begins on the service thread that read it, a larger one on the [batch threads](super::batch_pool).
//! The batch threads also take the rest of a small batch when it has used up its steps, its replies have grown large,
//! or a row has to wait.
//!
//! Every row is carried out until the deadline of the batch, whatever the results of other rows. Unless the client
//! asks for all replies, the first error of a row (other than "not found" and "filtered out") ends the reply. The
//! frame with that error is sent only if the client asks for the failing row.

use cf::clock::StoredMillis;
use datamodel::Budget;
use datamodel::exp::Filter;
use proto::ResultCode;
use proto::batch::{Batch, Rows};
use proto::message::{Request, field};

use super::batch_frames::{BatchOutcome, FrameSink, Frames, PartialFrame, finish, write_last};
use super::batch_rows::{Extent, RowsContext, RowsPlace};
use super::executor::Executor;
use super::filter::CompiledFilter;
use super::step::{BatchRest, Step};
use crate::metrics::{ServerCounter, ServerMetrics};
use crate::security::Standing;

/// Rows that a service thread carries out itself.
const INLINE_ROWS_MAX: u32 = 256;
/// Bytes of rows that a service thread carries out itself.
const INLINE_SIZE_MAX: usize = 256 << 10;
/// Bytes of replies that a service thread makes for a batch: they wait in memory until all are made.
const INLINE_REPLIES_SIZE_MAX: usize = 1 << 20;
/// Steps that a batch may take on a service thread. A step is about a nanosecond.
const INLINE_BATCH_STEPS: u64 = 400_000;

/// The batch of a request.
pub(super) fn batch_of<'a>(request: &Request<'a>) -> Result<Batch<'a>, ResultCode> {
    request.batch().and_then(|value| Batch::parse(value).ok()).ok_or(ResultCode::Parameter)
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
/// The reason why the filter is invalid. The result is not valid if the budget is exhausted.
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
            // Frames that are not sent yet are dropped.
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
