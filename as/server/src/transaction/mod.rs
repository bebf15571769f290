//! Transactions: from a parsed request to a reply.
//!
//! The order of checks is part of the protocol; clients distinguish errors by it.
//!
//! # Work classes
//! A transaction begins on the service thread that received its request, with a [budget](INLINE_STEPS) of steps. If it
//! uses that up, it has changed nothing and runs again from its start on a thread of the [pool], where its deadline is
//! its budget. There it works on a copy of the record, without a lock (`subject.rs`).

mod access;
mod batch;
mod batch_elsewhere;
mod batch_pool;
mod benchmarks;
mod checks;
mod context;
mod delete;
mod disk_watch;
mod duplicates;
pub(crate) mod filter;
mod flat_buffer;
mod measure;
mod optimistic;
mod pending;
mod pool;
mod proxy;
mod read;
mod refused;
mod replicas;
mod reply_room;
mod resent;
mod settle;
mod sink;
mod step;
mod sub_command;
mod subject;
#[cfg(test)]
mod tests;
mod touch;
mod udf;
mod wait;
mod write;

use std::sync::Arc;
use std::time::Instant;

use cf::Digest;
use cf::clock::StoredMillis;
use datamodel::Budget;
use proto::ResultCode;
use proto::message::{Request, field, info1, info2, info4};
use proto::peer::NodeId;
use proto::reply::{self, ReplyHeader, ReplyWriter};
use smallvec::SmallVec;

use crate::index::{PartitionId, RecordMeta};
use crate::metrics::{Operation, Origin, ServerCounter};
use crate::namespace::{Inside, Namespace, PartitionReservation, RecordAccess, Refused, Section};
use crate::security::Standing;
use crate::storage::{DiskCaller, FETCHES_MAX, ReadBuffer};

use context::{Buffers, Workspace};
use filter::CompiledFilter;
use wait::{Patience, RecordKey};

pub(crate) use access::Access;
pub(crate) use batch_pool::{BatchPool, BatchWorker};
pub(crate) use context::TransactionContext;
pub(crate) use measure::HeldTransactions;
pub(crate) use pool::{PoolWorker, thread_count};
pub(crate) use proxy::ProxyTraffic;
pub(crate) use replicas::{ReplicaObserver, ReplicaTraffic, ReplicaWrites, take_copy, take_removal};
pub(crate) use settle::Unsettled;
pub(crate) use sink::{GoOn, GoOnWithRoom, ReplySink, SinkClosed, StalledSenders};
pub(crate) use step::Step;
pub(crate) use sub_command::{RecordCheck, SubCommand, SubCommands};
pub(crate) use wait::{OwnedRequest, TakeReplyRoom, Wait};

/// Most requests whose records are prefetched together.
pub(crate) const PREPARED_REQUESTS: usize = 16;
/// Steps, of about a nanosecond each, that a request may take on a service thread.
pub(crate) const INLINE_STEPS: u64 = 200_000;

/// Carries out the transactions of one thread.
pub(crate) struct Executor {
    context: Arc<TransactionContext>,
    workspace: Workspace,
}

/// Why a transaction failed, and what is reported of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failure {
    result: ResultCode,
    generation: u16,
    void_time: u32,
}

impl From<ResultCode> for Failure {
    fn from(result: ResultCode) -> Self {
        Failure { result, generation: 0, void_time: 0 }
    }
}

/// The kind of thread that a transaction runs on.
#[derive(Clone, Copy)]
enum Place {
    /// A service thread: it holds sprig locks only for short work, and waits for other threads only while they commit.
    Service,
    /// A thread of a pool, which may take until `deadline`.
    Pool { deadline: Instant },
}

/// A transaction with its inputs.
struct Call<'a> {
    context: &'a TransactionContext,
    place: Place,
    namespace: &'a Namespace,
    request: &'a Request<'a>,
    digest: Digest,
    /// The tree id of its partition, which marks its records; 0 in reads.
    tree_id: u8,
    now: StoredMillis,
    origin: Origin,
    /// The filter that applies: the request's own or that of its batch.
    filter: Option<&'a CompiledFilter<'a>>,
    /// A further check of the record before it is changed.
    check: Option<&'a dyn RecordCheck>,
    /// The request's row number in a batch; its reply has that number and no frame of its own.
    row: Option<u32>,
    /// The budget of its work.
    budget: &'a Budget<'a>,
    patience: Patience<'a>,
    /// Whether the next write of the record is this one's turn.
    has_turn: bool,
}

impl Call<'_> {
    /// Checks that there is room for the data that the transaction is going to store.
    ///
    /// # Errors
    /// When there is none now; the transaction [waits](Self::wait_of_failed) if it may.
    #[inline]
    fn check_room(&self) -> Result<(), ResultCode> {
        self.check_disk()?;
        let may_go_first = self.row.is_some() || matches!(self.place, Place::Pool { .. });
        if self.namespace.storage.must_wait_for_room(&self.digest, may_go_first) {
            return Err(self.lacks_room());
        }
        Ok(())
    }

    /// Checks that the record can be written to disk, if the thread would have to wait for that.
    ///
    /// # Errors
    /// When its disk does not answer; the transaction [waits](Self::wait_of_failed) if it may.
    #[inline]
    fn check_disk(&self) -> Result<(), ResultCode> {
        let storage = &self.namespace.storage;
        if self.row.is_none() || !storage.commits() {
            return Ok(());
        }
        let stuck = storage.stuck_device_of(&self.digest);
        self.patience.stuck_device.set(stuck);
        if stuck.is_none() { Ok(()) } else { Err(ResultCode::Timeout) }
    }

    /// Notes that there is no room now. Returns the result for a client.
    fn lacks_room(&self) -> ResultCode {
        self.patience.lacks_room.set(true);
        ResultCode::DeviceOverload
    }

    /// The wait of a failed transaction, if it failed because its record was not in memory, its partition is gone, writes of
    /// it are held, a disk does not answer, or its device or its reply lacks room. `None` for another reason, or if it may not
    /// wait. A record that was not in memory is read here: the transaction holds no guard any more.
    #[inline]
    fn wait_of_failed(&self, read: &mut ReadBuffer) -> Option<Wait> {
        if self.fetch(read) {
            return Some(Wait::Fetched);
        }
        let Patience { may_wait, lacks_room, stuck_device, lacking_reply_size, refused, .. } = &self.patience;
        if let Some(wait) = refused.take() {
            return Some(wait);
        }
        if let Some(device) = read.take_stuck().or(stuck_device.get()) {
            return may_wait.then(|| Wait::Disk { namespace: self.namespace.position(), device });
        }
        match lacking_reply_size.get() {
            0 => (*may_wait && lacks_room.get()).then(|| Wait::Room(self.record_key())),
            size => Some(Wait::ReplyRoom(size)),
        }
    }

    /// Reads the record from its disk, if it was not in memory; returns whether to look for it again.
    #[inline]
    fn fetch(&self, read: &mut ReadBuffer) -> bool {
        read.is_unread() && self.fetch_unread(read)
    }

    #[cold]
    fn fetch_unread(&self, read: &mut ReadBuffer) -> bool {
        let fetch_count = &self.patience.fetch_count;
        fetch_count.set(fetch_count.get() + 1);
        fetch_count.get() <= FETCHES_MAX && self.namespace.storage.fetch(read)
    }

    /// The wait of a transaction whose result is not valid because its budget ran out on a service thread. In a pool
    /// the budget ends at the deadline, and the result is the answer.
    #[inline]
    fn wait_of_exhausted(&self) -> Option<Wait> {
        (self.budget.is_exhausted() && matches!(self.place, Place::Service)).then_some(Wait::Pool)
    }

    /// The key of the record among those of all namespaces.
    #[inline]
    fn record_key(&self) -> RecordKey {
        RecordKey { namespace: self.namespace.position(), digest: self.digest }
    }

    /// Whether a change of the record must wait: a pool thread has reserved the record, or another change is on its way
    /// to replicas. The caller holds the record's sprig lock.
    #[inline]
    fn is_reserved(&self) -> bool {
        let key = self.record_key();
        self.context.waits.is_reserved(&key) || self.is_busy(&key)
    }

    /// Whether another change of the record is on its way to replicas, or has its turn first.
    #[inline]
    fn is_busy(&self, key: &RecordKey) -> bool {
        let replicas = &self.context.replicas;
        if self.has_turn { replicas.is_in_flight(key) } else { replicas.is_busy(key) }
    }

    /// Checks that the transaction may commit its change of `record`: since it began the partition may have gone to
    /// another node, or be about to, or other nodes may have newer copies. The caller holds the record's sprig lock,
    /// and keeps the returned value until it has committed.
    ///
    /// # Errors
    /// `Unavailable` if so; nothing has changed, and the transaction [waits](Self::wait_of_failed).
    #[inline]
    fn begin_commit<'b>(
        &self,
        record: &RecordMeta,
        commits: &'b mut [Section],
    ) -> Result<Option<Inside<'b>>, ResultCode> {
        let partitions = &self.namespace.partitions;
        if partitions.is_of_node_alone() {
            return Ok(None);
        }
        let inside = commits[self.namespace.position()].stay();
        let id = PartitionId::of(&self.digest);
        match partitions.judge_commit(id) {
            Ok(()) if !partitions.may_have_duplicates(id) => Ok(Some(inside)),
            Ok(()) => {
                let local = record.exists().then(|| record.last_update_time());
                let Some(wait) = self.wait_of_duplicates_of(local) else { return Ok(Some(inside)) };
                self.patience.refused.set(Some(wait));
                Err(ResultCode::Unavailable)
            }
            Err(refused) => {
                self.patience.refused.set(wait_of_refused(refused).ok());
                Err(ResultCode::Unavailable)
            }
        }
    }

    /// Starts the reply at the end of `out`.
    #[inline]
    fn start_reply<'o>(&self, out: &'o mut Vec<u8>) -> ReplyWriter<'o> {
        if self.row.is_some() { ReplyWriter::unframed(out) } else { ReplyWriter::framed(out) }
    }

    /// The header of the reply.
    #[inline]
    fn header(&self, result: ResultCode, generation: u16, void_time: u32) -> ReplyHeader {
        ReplyHeader {
            generation: u32::from(generation),
            void_time,
            transaction_ttl: self.row.unwrap_or(0),
            ..ReplyHeader::result(result)
        }
    }

    /// Appends a reply without bins.
    #[inline]
    fn reply_header_only(&self, out: &mut Vec<u8>, result: ResultCode, generation: u16, void_time: u32) {
        self.start_reply(out).finish(&self.header(result, generation, void_time));
    }

    /// Counts the end of the transaction under its client's kind.
    #[inline]
    fn count(&self, operation: Operation, result: ResultCode) {
        let metrics = &self.namespace.metrics;
        metrics.count(self.origin, operation, result);
        if self.request.info1 & info1::XDR != 0 && operation != Operation::Read {
            let is_direct = self.origin == Origin::Client;
            let shipped = if is_direct { Origin::XdrClient } else { Origin::XdrFromProxy };
            metrics.count(shipped, operation, result);
        }
    }
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
fn record_access(request: &Request<'_>) -> RecordAccess {
    if request.info2 & info2::WRITE != 0 { RecordAccess::Write } else { RecordAccess::Read }
}

/// The wait of a request whose partition this node does not serve now.
///
/// # Errors
/// The result for the client if it does not wait.
fn wait_of_refused(refused: Refused) -> Result<Wait, ResultCode> {
    match refused {
        Refused::Unavailable => Err(ResultCode::Unavailable),
        Refused::ServedBy(node) => Ok(Wait::OtherNode(NodeId(node))),
        Refused::Held => Ok(Wait::Hold),
    }
}

/// A request for one record, and its origin.
struct Asked<'a> {
    request: &'a Request<'a>,
    origin: Origin,
    /// The record's digest if the request does not hold it.
    digest: Option<Digest>,
    /// Whether the next write of the record is this request's turn.
    has_turn: bool,
}

impl Workspace {
    /// Keeps the partition of `digest` in service here: on a service thread while that is in its section, in a pool
    /// until the returned value is dropped. Also returns the tree id, except for reads in a section, which need none. A
    /// transaction that has to wait before it has changed anything is in no section and has no reservation meanwhile;
    /// it checks again when it runs again, as the partition may have gone to another node.
    ///
    /// # Errors
    /// When this node does not serve the partition.
    #[inline(always)]
    fn reserve_partition<'n>(
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

    /// Leaves the thread's sections: it has no work, or is going to wait.
    #[inline]
    fn leave_sections(&mut self) {
        self.sections.iter_mut().for_each(Section::leave);
    }
}

impl Executor {
    /// For a service thread.
    pub(crate) fn new(context: Arc<TransactionContext>) -> Self {
        Executor { workspace: Workspace::new(&context.namespaces, DiskCaller::Other), context }
    }

    /// The same for a pool thread of the kind `caller`.
    fn for_pool(mut self, caller: DiskCaller) -> Self {
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
        // A single request has not waited for others: it is late only if it may take no time at all.
        if context.time_max(request).is_zero() {
            namespace.metrics.count(Origin::Client, Operation::Tsvc, ResultCode::Timeout);
            reply::write_header_only(out, &ReplyHeader::result(ResultCode::Timeout));
            return Step::Done;
        }
        let (budget, place) = (Budget::new(INLINE_STEPS), Place::Service);
        let patience = Patience::new(true, Some(take_reply_room));
        let asked = Asked { request, origin: Origin::Client, digest: None, has_turn: false };
        workspace.execute_single(context, namespace, &asked, (&budget, place, patience), now, out)
    }

    /// Prefetches the records of the next requests, given as namespaces and digests. Changes nothing.
    pub(crate) fn prepare<'a>(&self, requests: impl Iterator<Item = (&'a [u8], Digest)>) {
        self.context.prepare(requests);
    }
}

impl TransactionContext {
    fn prepare<'a>(&self, requests: impl Iterator<Item = (&'a [u8], Digest)>) {
        let mut last: Option<&Namespace> = None;
        prefetch_records(requests.filter_map(|(name, digest)| {
            let known = last.filter(|last| last.name().as_bytes() == name);
            last = known.or_else(|| self.namespace_called(name).map(|found| &**found));
            last.map(|namespace| (namespace, digest))
        }));
    }
}

/// Prefetches records. Changes nothing.
fn prefetch_records<'n>(records: impl Iterator<Item = (&'n Namespace, Digest)>) {
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
    fn execute_single(
        &mut self,
        context: &TransactionContext,
        namespace: &Namespace,
        &Asked { request, origin, digest, has_turn }: &Asked<'_>,
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
        };
        match self.run(&call, out) {
            None => Step::Done,
            Some(wait) => Step::Restart(wait),
        }
    }

    /// Carries out a request that is known to read or write. If it has to wait first, nothing has changed.
    fn run(&mut self, call: &Call<'_>, out: &mut Vec<u8>) -> Option<Wait> {
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
