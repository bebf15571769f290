//! Carries out the transactions of one thread, a service thread or one of a pool.

use std::sync::Arc;
use std::time::Instant;

use cf::Digest;
use cf::clock::StoredMillis;
use datamodel::Budget;
use proto::ResultCode;
use proto::message::{Request, field, info1, info2, info4};
use proto::reply::{self, ReplyHeader};
use smallvec::SmallVec;

use super::base::NamespaceFinder;
use super::call::{Call, INLINE_STEPS, Place, wait_of_refused};
use super::context::TransactionContext;
use super::measure::HeldTransactions;
use super::step::Step;
use super::wait::{Patience, TakeReplyRoom, Wait};
use super::workspace::Workspace;
use super::{access, delete, filter, read, udf, write};
use crate::index::{LockWait, PartitionId};
use crate::metrics::{Operation, Origin, ServerCounter};
use crate::namespace::{Namespace, PartitionReservation, RecordAccess, Refused, Section};
use crate::security::Standing;
use crate::storage::{DiskCaller, ReadBuffer};

/// Maximum number of requests whose records are prefetched together.
pub(crate) const PREPARED_REQUESTS: usize = 16;

/// Carries out the transactions of one thread.
pub(crate) struct Executor {
    pub(super) context: Arc<TransactionContext>,
    pub(super) workspace: Workspace,
}

/// Whether a request verifies, commits or rolls back a multi-record transaction. This server has none.
fn is_step_of_transaction(request: &Request<'_>) -> bool {
    if request.info2 & info2::WRITE == 0 {
        return request.info4 & info4::VERIFY_READ != 0;
    }
    let is_roll = request.info4 & (info4::ROLL_FORWARD | info4::ROLL_BACK) != 0;
    is_roll && request.info2 & info2::DELETE == 0 && !request.has_field(field::UDF_FILE)
}

/// The access of a request to its record.
pub(super) fn record_access(request: &Request<'_>) -> RecordAccess {
    if request.info2 & info2::WRITE != 0 { RecordAccess::Write } else { RecordAccess::Read }
}

/// A request for one record, and its origin.
pub(super) struct Asked<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) origin: Origin,
    /// The record's digest if the request does not hold it.
    pub(super) digest: Option<Digest>,
    /// Whether the next write of the record is this request's turn.
    pub(super) has_turn: bool,
    /// Whether it has lost to other writers of the record, and reserves the record at once.
    pub(super) has_lost: bool,
}

impl Workspace {
    /// Keeps the partition of `digest` in service on this node: a service thread enters its section, a pool thread
    /// gets a reservation that lasts until it is dropped. Also returns the tree id, except for reads in a section,
    /// which do not need it. A transaction that waits before it has changed anything keeps neither. When it runs
    /// again it checks again, because the partition may have moved to another node.
    ///
    /// # Errors
    /// When this node does not serve the partition.
    #[inline(always)]
    pub(super) fn reserve_partition<'n>(
        &mut self,
        namespace: &'n Namespace,
        digest: &Digest,
        (access, place): (RecordAccess, Place),
    ) -> Result<(u8, Option<PartitionReservation<'n>>), Refused> {
        let (partitions, id) = (&namespace.partitions, PartitionId::of(digest));
        match place {
            Place::Service => {
                let section = &mut self.sections[namespace.position()];
                let tree_id = match access {
                    RecordAccess::Read => partitions.check_read(section, id).map(|()| 0),
                    RecordAccess::Write => partitions.check_write(section, id),
                };
                Ok((tree_id?, None))
            }
            Place::Pool { .. } => {
                let reservation = partitions.reserve(id, access)?;
                self.leave_sections();
                Ok((reservation.tree_id(), Some(reservation)))
            }
        }
    }

    /// Leaves the thread's sections. The thread has no work, or is going to wait.
    #[inline]
    pub(super) fn leave_sections(&mut self) {
        self.sections.iter_mut().for_each(Section::leave);
    }
}

impl Executor {
    /// For a service thread.
    pub(crate) fn new(context: Arc<TransactionContext>) -> Self {
        Executor { workspace: Workspace::new(&context.namespaces, DiskCaller::Other), context }
    }

    /// The same for a pool thread of the kind `caller`.
    pub(super) fn for_pool(mut self, caller: DiskCaller) -> Self {
        self.workspace.buffers.read = ReadBuffer::of(caller);
        self
    }

    /// Runs the first step of `request` on a service thread; `standing` is that of its user. If it is done, its reply
    /// is appended to `out`; a large reply is made after `take_reply_room` has found room for it.
    pub(crate) fn execute(
        &mut self,
        request: &Request<'_>,
        standing: Option<&Standing>,
        now: StoredMillis,
        take_reply_room: TakeReplyRoom<'_>,
        out: &mut Vec<u8>,
    ) -> Step {
        let user = match access::logged_in(standing, request) {
            Ok(user) => user,
            Err(result) => {
                let is_batch = request.info1 & info1::BATCH != 0;
                let header = if is_batch { ReplyHeader::last(result) } else { ReplyHeader::result(result) };
                reply::write_header_only(out, &header);
                return Step::Done;
            }
        };
        if request.info1 & info1::BATCH != 0 {
            return self.execute_batch(request, standing, now, out);
        }
        let Executor { context, workspace } = self;
        let Some(namespace) = context.namespace_of(request) else {
            context.metrics.add(ServerCounter::EarlyTsvcClientError, 1);
            reply::write_header_only(out, &ReplyHeader::result(ResultCode::Namespace));
            return Step::Done;
        };
        if !request.has_field(field::DIGEST) {
            return match access::check_query(user.as_ref(), request) {
                Ok(permit) => Step::Query(Arc::clone(namespace), permit),
                Err(result) => {
                    reply::write_header_only(out, &ReplyHeader::result(result));
                    Step::Done
                }
            };
        }
        if let Err(result) = access::check_single(user.as_ref(), request, request.record_digest()) {
            namespace.metrics.count(Origin::Client, Operation::Tsvc, result);
            reply::write_header_only(out, &ReplyHeader::result(result));
            return Step::Done;
        }
        // The request was received just now, so it is late only if its time limit is 0.
        if context.time_max(request).is_zero() {
            namespace.metrics.count(Origin::Client, Operation::Tsvc, ResultCode::Timeout);
            reply::write_header_only(out, &ReplyHeader::result(ResultCode::Timeout));
            return Step::Done;
        }
        let (budget, place) = (Budget::new(INLINE_STEPS), Place::Service);
        let patience = Patience::new(LockWait::Spin, true, Some(take_reply_room));
        let asked = Asked { request, origin: Origin::Client, digest: None, has_turn: false, has_lost: false };
        workspace.execute_single(context, namespace, &asked, (&budget, place, patience), now, out)
    }

    /// Notes that the thread woke up at `woken` for its next requests.
    #[inline]
    pub(crate) fn wake(&mut self, woken: Instant) {
        self.workspace.stopwatch.woken = woken;
    }

    /// The state shared by its transactions.
    pub(crate) fn context(&self) -> &Arc<TransactionContext> {
        &self.context
    }

    /// The transactions whose replies are held; they are [measured](Self::measure_held) when these are sent.
    pub(crate) fn take_held(&mut self) -> HeldTransactions {
        let next = HeldTransactions::new(self.context.namespaces.len());
        let held = std::mem::replace(&mut self.workspace.held, next);
        held.woken_at(self.workspace.stopwatch.woken)
    }

    /// Ends a wake-up: counts all transactions since the last call with the time from the [wake-up](Self::wake) to
    /// `now`.
    #[inline]
    pub(crate) fn measure(&mut self, now: Instant) {
        self.workspace.leave_sections();
        if !self.workspace.tally.is_empty {
            let Executor { context, workspace } = self;
            workspace.tally.measure(context, workspace.stopwatch.woken, now);
            workspace.stopwatch.answered.end(context);
        }
    }

    /// Prefetches the records of the next requests, given as namespaces and digests. Changes nothing.
    pub(crate) fn prepare<'a>(&self, requests: impl Iterator<Item = (&'a [u8], Digest)>) {
        let mut finder = NamespaceFinder::new(&self.context);
        prefetch_records(requests.filter_map(|(name, digest)| Some((finder.find(name)?, digest))));
    }
}

/// Prefetches records. Changes nothing.
pub(super) fn prefetch_records<'n>(records: impl Iterator<Item = (&'n Namespace, Digest)>) {
    let mut digests = SmallVec::<[Digest; PREPARED_REQUESTS]>::new();
    let mut others = SmallVec::<[(&Namespace, Digest); PREPARED_REQUESTS]>::new();
    let mut first: Option<&Namespace> = None;
    for (namespace, digest) in records {
        if std::ptr::eq(*first.get_or_insert(namespace), namespace) {
            digests.push(digest);
        } else {
            others.push((namespace, digest));
        }
    }
    first.into_iter().for_each(|namespace| namespace.prefetch(&digests));
    others.iter().for_each(|(namespace, digest)| namespace.prefetch(std::slice::from_ref(digest)));
}

impl Workspace {
    /// Carries out a request for one record of `namespace`.
    #[inline(always)]
    pub(super) fn execute_single(
        &mut self,
        context: &TransactionContext,
        namespace: &Namespace,
        &Asked { request, origin, digest, has_turn, has_lost }: &Asked<'_>,
        (budget, place, patience): (&Budget<'_>, Place, Patience<'_>),
        now: StoredMillis,
        out: &mut Vec<u8>,
    ) -> Step {
        let is_write = request.info2 & info2::WRITE != 0;
        let is_read = request.info1 & info1::READ != 0;
        let digest = digest.or_else(|| request.record_digest());
        let Some(digest) = digest.filter(|_| is_write || is_read) else {
            cf::warning_limited!(
                Tsvc,
                "{{{}}} request with a bad digest, or neither read nor write",
                namespace.name()
            );
            namespace.metrics.count(origin, Operation::Tsvc, ResultCode::Parameter);
            reply::write_header_only(out, &ReplyHeader::result(ResultCode::Parameter));
            return Step::Done;
        };
        let access = (record_access(request), place);
        let (tree_id, _reservation) = match self.reserve_partition(namespace, &digest, access) {
            Ok(reserved) => reserved,
            Err(refused) => match wait_of_refused(refused) {
                Ok(wait) => return Step::Restart(wait),
                Err(result) => {
                    namespace.metrics.count(origin, Operation::Tsvc, result);
                    reply::write_header_only(out, &ReplyHeader::result(result));
                    return Step::Done;
                }
            },
        };
        let filter = filter::compile(request, budget);
        let call = Call {
            context,
            place,
            namespace,
            request,
            digest,
            tree_id,
            now,
            origin,
            filter: filter.as_ref(),
            check: None,
            row: None,
            budget,
            patience,
            has_turn,
            has_lost,
        };
        match self.run(&call, out) {
            None => Step::Done,
            Some(wait) => Step::Restart(wait),
        }
    }

    /// Carries out a request that reads or writes. Returns the wait if it has to wait first; nothing has changed
    /// then.
    pub(super) fn run(&mut self, call: &Call<'_>, out: &mut Vec<u8>) -> Option<Wait> {
        let (settled, start) = (self.buffers.unsettled.len(), out.len());
        let measured = self.start_measuring(call);
        // A record is read anew for each transaction.
        self.buffers.read.forget();
        while let Some(wait) = self.run_unsettled(call, out) {
            out.truncate(start);
            self.buffers.unsettled.truncate(settled);
            if wait != Wait::Fetched {
                return Some(wait);
            }
        }
        let is_row = call.row.is_some();
        // A batch thread settles its rows before it ends them.
        let is_held = !is_row && self.buffers.unsettled.len() > settled;
        if let Some(measured) = measured {
            self.note_answered(call, measured, is_held);
        }
        self.note_replies(settled, start, is_row);
        let tally = if is_held { &mut self.held.tally } else { &mut self.tally };
        match call.origin {
            // Measured on the node of the client.
            Origin::FromProxy | Origin::FromProxyBatchSub => {}
            origin => tally.add(call.namespace.position(), call.request, origin == Origin::BatchSub),
        }
        None
    }

    fn run_unsettled(&mut self, call: &Call<'_>, out: &mut Vec<u8>) -> Option<Wait> {
        let request = call.request;
        if let Some(wait) = call.wait_of_duplicates() {
            return Some(wait);
        }
        if is_step_of_transaction(request) {
            call.reply_header_only(out, ResultCode::EnterpriseOnly, 0, 0);
            None
        } else if request.info2 & info2::WRITE == 0 {
            read::run(call, &mut self.buffers, out)
        } else if request.info2 & info2::DELETE != 0 {
            delete::run(call, &mut self.buffers, out)
        } else if request.has_field(field::UDF_FILE) {
            udf::run(call, &mut self.buffers, out)
        } else {
            write::run(call, &mut self.buffers, out)
        }
    }
}
