//! Rows of a batch, carried out one after the other on a service thread or a batch thread.

use std::time::Instant;

use cf::clock::StoredMillis;
use datamodel::Budget;
use datamodel::exp::Filter;
use proto::ResultCode;
use proto::batch::{Row, RowPosition, Rows};
use proto::message::{field, info1, info2};
use proto::reply::{ReplyHeader, ReplyWriter};
use smallvec::SmallVec;

use super::base::{NamespaceFinder, limit_of, warn_of_namespace};
use super::batch_frames::{FrameSink, Frames};
use super::call::{Call, Place, wait_of_refused};
use super::context::TransactionContext;
use super::executor::{prefetch_records, record_access};
use super::filter::CompiledFilter;
use super::pool::PORTION_STEPS;
use super::wait::{Patience, Wait};
use super::workspace::Workspace;
use super::{INLINE_STEPS, PREPARED_REQUESTS, ReplySink, access};
use crate::index::{LockWait, PartitionId};
use crate::metrics::{Operation, Origin};
use crate::namespace::{Namespace, Refused};
use crate::security::Standing;

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
    #[inline]
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

impl RowsPlace<'_> {
    /// How rows wait for the locks of sprigs.
    fn lock_wait(self) -> LockWait {
        match self {
            RowsPlace::Service(_) => LockWait::Spin,
            RowsPlace::Pool { .. } => LockWait::Sleep,
        }
    }
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
        let mut finder = NamespaceFinder::new(self);
        while window.len() < PREPARED_REQUESTS.min(left as usize) {
            let before = rows.position();
            let Ok(row) = rows.read() else { return false };
            let name = row.request.namespace;
            let Some(namespace) = name.and_then(|name| finder.find(name)) else {
                warn_of_namespace(name);
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

    /// Whether `row` writes a record that must be on disk or on replicas before the reply. A service thread must not
    /// wait for that.
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
        // Requests before the batch may also have replies that wait for the disk.
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
                    // On a service thread no row may leave an unsettled reply among those of other rows.
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
        let reserved = if is_late {
            Err(ResultCode::Timeout)
        } else if request.digest.is_some() && request.record_digest().is_none() {
            Err(ResultCode::Parameter)
        } else if let Err(result) = access::check_row(shared.standing, request, row.digest) {
            Err(result)
        } else if request.info2 & info2::WRITE == 0 && request.info1 & info1::READ == 0 {
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
        let lock_wait = shared.place.lock_wait();
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
            patience: Patience::new(lock_wait, shared.may_wait, None),
            has_turn: false,
            has_lost: false,
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
                let limit = limit_of(request, context.time_max(request), deadline);
                let may_go_on = || context.may_go_on(request, &limit, sink);
                let budget = Budget::with_refill(PORTION_STEPS, &may_go_on);
                let filter = filters.of(row, &budget);
                if budget.is_exhausted() {
                    refuse_row(namespace, row, ResultCode::Timeout, out);
                    return RowStep::Answered;
                }
                // A row that needs more steps than this runs again on a copy of its record, without a lock. A row
                // whose record is reserved runs again too, because the record may be free by then.
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
                let place = Place::Pool { limit };
                match self.reserve_partition(namespace, &row.digest, (access, place)) {
                    Ok((tree_id, _reservation)) => {
                        let wait = self.run(&call(place, tree_id, filter, &budget), out);
                        if let Some(
                            wait @ (Wait::Hold | Wait::OtherNode(_) | Wait::Record(_) | Wait::Reservation(_)),
                        ) = wait
                        {
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
