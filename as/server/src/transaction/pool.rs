//! The transaction pool: threads for requests that are too long for a service thread.
//!
//! A request runs here from its start, on a copy of its record. Its budget ends at its deadline, or when nobody waits
//! for it any more: when the client of a request that only reads is gone, or when the server stops. One that is here
//! only because a service thread would have slept until a lock is free does that here, and then runs as there, with the
//! budget of a service thread.
//!
//! # Threads
//! [`thread_count`] threads share one queue. There are more of them than processors, so that a request of a millisecond
//! does not wait for one of a second; the system divides the processors among them, with lower priority than the
//! service threads. Functions have threads of their own, and those of a module whose last call used up its time have a
//! few others: an endless loop in one module delays neither operations nor functions of other modules for long. As long as
//! nobody knows how a module's calls end, they have no more than their [share](super::module_shares) of the threads.
//!
//! [`LOCK_TURN_THREADS`] threads, with the priority of service threads, take the requests that met a lock. All that they
//! run is short, so such a request never waits behind a long one. One that turns out long is queued for the others.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cf::clock::StoredMillis;
use datamodel::Budget;
use proto::ResultCode;
use proto::message::{Request, field, info2};
use proto::reply::{self, ReplyHeader};

use super::call::Place;
use super::duplicates::Asker;
use super::executor::{Asked, Executor};
use super::module_shares::{ModuleShare, ModuleShares};
use super::replicas::NotInLine;
use super::resent::SentFor;
use super::wait::{Patience, ROOM_WAIT_MAX, RecordKey};
use super::{INLINE_STEPS, OwnedRequest, ReplySink, Step, TransactionContext, Wait};
use crate::index::LockWait;
use crate::metrics::{NamespaceCounter, Operation};
use crate::namespace::Namespace;
use crate::storage::{DiskCaller, RoomWait};
use crate::udf::ModulePace;
use crate::workers::{Work, Workers};

/// Steps, of about a nanosecond each, between two checks of the clock.
pub(super) const PORTION_STEPS: u64 = 500_000;
const THREADS_PER_PROCESSOR: usize = 4;
const THREADS_MIN: usize = 16;
/// Threads for functions of modules whose last call used up its time.
const OVERDUE_THREADS: usize = 4;
/// Threads for requests that met a lock. Each sleeps for one record at a time, and locks are held for a millisecond or so.
const LOCK_TURN_THREADS: usize = 4;
/// How much lower the pool threads' priority is than that of service threads: about a tenth of the share.
const NICENESS: i32 = 10;

/// Number of threads of each of the pools for long work.
pub(crate) fn thread_count() -> usize {
    (cf::threads::cpu_count() * THREADS_PER_PROCESSOR).max(THREADS_MIN)
}

/// The threads of the pool, in groups that do not wait for each other.
pub(crate) struct Pool {
    /// For everything but functions.
    operations: Workers<OwnedRequest>,
    /// For functions.
    functions: Workers<OwnedRequest>,
    /// The shares of modules in `functions`.
    shares: ModuleShares,
    /// For functions of modules whose last call used up its time.
    overdue_functions: Workers<OwnedRequest>,
    /// For short requests that met the lock of their record's sprig.
    lock_turns: Workers<OwnedRequest>,
}

impl Pool {
    /// Without threads yet; requests may already be submitted.
    pub(super) fn new() -> Self {
        Pool {
            operations: Workers::with_niceness("transaction", NICENESS),
            functions: Workers::with_niceness("function", NICENESS),
            shares: ModuleShares::new(thread_count()),
            overdue_functions: Workers::with_niceness("overdue-func", NICENESS),
            lock_turns: Workers::new("lock-turn"),
        }
    }

    /// Starts the threads, `count` for operations and as many for functions. `new_body` makes the body of each.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start(
        &self,
        count: usize,
        new_body: impl Fn() -> Option<Box<dyn Work<OwnedRequest>>> + Send + Sync + 'static,
    ) -> io::Result<()> {
        let new_body = Arc::new(new_body);
        let groups = [
            (&self.operations, count),
            (&self.functions, count),
            (&self.overdue_functions, count.min(OVERDUE_THREADS)),
            (&self.lock_turns, LOCK_TURN_THREADS),
        ];
        for (workers, count) in groups {
            let new_body = Arc::clone(&new_body);
            workers.start(count, move || new_body())?;
        }
        Ok(())
    }

    /// Starts substitutes for `hanging` threads, as long as these hang. It is unknown in which groups they are.
    pub(super) fn substitute(&self, hanging: usize) {
        self.groups().into_iter().for_each(|workers| workers.substitute(hanging));
    }

    /// Ends all threads and waits for them, until `deadline` at most. What was submitted before is done. Returns the number of
    /// threads that still run.
    pub(crate) fn stop_until(&self, deadline: Instant) -> usize {
        self.shares.close().into_iter().for_each(|request| self.functions.submit(request));
        self.groups().into_iter().map(|workers| workers.stop_until(deadline)).sum()
    }

    /// Requests that no thread has taken yet, by group: operations, functions, functions of overdue modules, requests that met
    /// a lock.
    #[cfg(test)]
    pub(super) fn queued_counts(&self) -> [usize; 4] {
        self.groups().map(Workers::queued_count)
    }

    fn groups(&self) -> [&Workers<OwnedRequest>; 4] {
        [&self.operations, &self.functions, &self.overdue_functions, &self.lock_turns]
    }
}

impl TransactionContext {
    /// Queues `request` for a pool thread, after earlier requests of its group.
    pub(crate) fn submit_to_pool(&self, request: OwnedRequest) {
        if request.lock_turn.is_some() {
            return self.pool.lock_turns.submit(request);
        }
        let module = match Request::parse(&request.body).map(|parsed| parsed.field(field::UDF_FILE)) {
            Ok(Some(module)) => module,
            Ok(None) | Err(_) => return self.pool.operations.submit(request),
        };
        // Others wait for the one whose turn it is to write a record: it does not wait behind endless loops.
        let pace = if request.turn.is_some() { ModulePace::Quick } else { self.functions.pace(module) };
        match pace {
            ModulePace::Quick => self.pool.functions.submit(request),
            ModulePace::Overdue => self.pool.overdue_functions.submit(request),
            ModulePace::Unknown => {
                let module = Box::from(module);
                if let Some(request) = self.pool.shares.admit(module, request) {
                    self.pool.functions.submit(request);
                }
            }
        }
    }

    /// Gives back the share of a call that needs no thread any more, to the next call of its module.
    fn give_back_share(&self, share: &ModuleShare) {
        let is_known = |module: &[u8]| self.functions.pace(module) != ModulePace::Unknown;
        for next in self.pool.shares.give_back(share, is_known) {
            if next.share.is_some() {
                self.pool.functions.submit(next);
            } else {
                self.submit_to_pool(next);
            }
        }
    }

    /// Runs a request again from its start after the wait.
    pub(crate) fn restart(self: &Arc<Self>, wait: Wait, mut request: OwnedRequest) {
        // Others have their turn meanwhile.
        request.lock_turn = None;
        request.has_lost |= matches!(wait, Wait::Reservation(_));
        let resumed = match wait {
            Wait::Pool | Wait::Fetched => Err(request),
            Wait::Lock(key) => return self.wait_for_lock(key, request),
            Wait::Record(key) | Wait::Reservation(key) => self.waits.park(&key, request).or_else(|request| {
                if request.turn.is_some() { Err(request) } else { self.join_line(&key, request) }
            }),
            Wait::Room(_) | Wait::Disk { .. } => return self.put_off(wait, request),
            Wait::Duplicates(key) => {
                let parsed = Request::parse(&request.body).ok();
                let Some(sent_for) = parsed.map(|parsed| SentFor::of(&parsed, request.origin)) else {
                    return;
                };
                return self.duplicates.ask(self, key, sent_for, Asker::Request(request));
            }
            Wait::ReplyRoom(size) => return self.wait_for_reply_room(size, request),
            Wait::OtherNode(node) => {
                if !request.sink.send_back(node) {
                    self.passed_on.pass_on(self, node, request);
                }
                return;
            }
            Wait::Hold => return self.passed_on.put_off(self, request),
        };
        if let Err(request) = resumed {
            self.submit_to_pool(request);
        }
    }

    /// Queues a request for its turn to write a record while another write of it is on its way, unless too many wait.
    /// Returns the request if there is no such write any more.
    fn join_line(&self, key: &RecordKey, request: OwnedRequest) -> Result<(), OwnedRequest> {
        let namespace = &self.namespaces[key.namespace];
        let limit = namespace.config().params.transaction_pending_limit.get();
        match self.replicas.park(key, request, limit) {
            Ok(()) => Ok(()),
            Err(NotInLine::Free(request)) => Err(request),
            Err(NotInLine::Full(request)) => {
                namespace.metrics.add(NamespaceCounter::FailKeyBusy, 1);
                let mut reply = Vec::new();
                self.answer_late(&request, ResultCode::KeyBusy, &mut reply);
                request.sink.finish(reply);
                Ok(())
            }
        }
    }

    /// Resumes `waiting` after `wait`, which is for a device. If too many wait for that, it resumes at once and may not
    /// wait again.
    pub(super) fn wait_for_device(&self, wait: Wait, waiting: RoomWait) {
        let refused = match wait {
            Wait::Room(key) => self.namespaces[key.namespace].storage.when_room(&key.digest, waiting).err(),
            Wait::Disk { namespace, device } => {
                self.namespaces[namespace].storage.when_readable(device, waiting).err()
            }
            _ => unreachable!("no wait for a device: {wait:?}"),
        };
        if let Some(refused) = refused {
            (refused.resume)(false);
        }
    }

    /// Runs a request again after `wait`, which is for its device, or at its deadline; then it may not wait again.
    fn put_off(self: &Arc<Self>, wait: Wait, mut request: OwnedRequest) {
        let since = Instant::now();
        let own_ms = Request::parse(&request.body).map_or(0, |parsed| parsed.transaction_ttl_ms);
        let deadline = match own_ms {
            0 => since + ROOM_WAIT_MAX.saturating_sub(request.waited),
            ms => request.received + Duration::from_millis(ms.into()),
        };
        let (size, has_waited) = (request.body.len(), !request.waited.is_zero());
        let context = Arc::clone(self);
        let resume = move |may_wait| {
            request.waited += since.elapsed();
            request.may_wait = may_wait;
            context.submit_to_pool(request);
        };
        self.wait_for_device(wait, RoomWait { size, deadline, has_waited, resume: Box::new(resume) });
    }

    /// Runs a request again when there is room for its reply of at most `size` bytes. If there is none until its
    /// deadline, the answer is a timeout.
    fn wait_for_reply_room(self: &Arc<Self>, size: usize, mut request: OwnedRequest) {
        let since = Instant::now();
        let deadline = match Request::parse(&request.body) {
            Ok(parsed) if parsed.transaction_ttl_ms != 0 => self.deadline_of(&parsed, &request),
            _ => since + ROOM_WAIT_MAX.saturating_sub(request.waited),
        };
        let (context, sink) = (Arc::clone(self), Arc::clone(&request.sink));
        let go_on = move |has_room| {
            request.waited += since.elapsed();
            if has_room {
                return context.submit_to_pool(request);
            }
            let mut reply = Vec::new();
            context.answer_late(&request, ResultCode::Timeout, &mut reply);
            request.sink.finish(reply);
        };
        sink.when_room(size, deadline, Box::new(go_on));
    }

    /// Answers a request that was not carried out within its time.
    fn answer_late(&self, owned: &OwnedRequest, result: ResultCode, out: &mut Vec<u8>) {
        let parsed = Request::parse(&owned.body).ok();
        if let Some(namespace) = parsed.as_ref().and_then(|request| self.known_namespace(request)) {
            namespace.metrics.count(owned.origin, Operation::Tsvc, result);
        }
        reply::write_header_only(out, &ReplyHeader::result(result));
    }

    /// The deadline of a request for one record. Time in which it waited for room does not count, unless its client has
    /// set the limit.
    pub(super) fn deadline_of(&self, request: &Request<'_>, owned: &OwnedRequest) -> Instant {
        let put_off = if request.transaction_ttl_ms == 0 { owned.waited } else { Duration::ZERO };
        owned.received + self.time_max(request) + put_off
    }

    /// Whether a request with this `deadline` may continue; its reply goes to `sink`.
    pub(super) fn may_go_on(&self, request: &Request<'_>, deadline: Instant, sink: &dyn ReplySink) -> bool {
        let only_reads = request.info2 & info2::WRITE == 0;
        Instant::now() < deadline && !(only_reads && self.is_unheard(sink))
    }

    /// Whether there is no client for the results of reads for `sink`.
    pub(super) fn is_unheard(&self, sink: &dyn ReplySink) -> bool {
        self.is_stopping() || sink.is_closed()
    }
}

/// A pool thread's work.
pub(crate) struct PoolWorker {
    executor: Executor,
}

impl PoolWorker {
    /// One that carries requests out by `executor`.
    pub(crate) fn new(executor: Executor) -> Self {
        PoolWorker { executor: executor.for_pool(DiskCaller::Transactions) }
    }
}

/// Gives a share back when the call has left its thread, in whatever way.
struct Admitted(Arc<TransactionContext>, ModuleShare);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.give_back_share(&self.1);
    }
}

impl Work<OwnedRequest> for PoolWorker {
    fn run(&mut self, mut request: OwnedRequest) {
        let share = request.share.take();
        let _admitted = share.map(|share| Admitted(Arc::clone(&self.executor.context), share));
        if request.lock_turn.is_some() {
            cf::fault_point!("lock-turn");
        } else {
            cf::fault_point!("transaction-pool");
        }
        let mut reply = Vec::new();
        match self.executor.execute_in_pool(&request, &mut reply) {
            None => self.executor.finish(request.sink, reply),
            Some(wait) => {
                let context = Arc::clone(&self.executor.context);
                context.restart(wait, request);
            }
        }
        self.executor.measure(Instant::now());
    }
}

impl Executor {
    /// Carries out a request for one record that a service thread has given up. Its reply is appended to `out`, unless
    /// it must wait because its record or the reply has no room, its disk does not answer, or another node serves its
    /// partition.
    pub(super) fn execute_in_pool(&mut self, owned: &OwnedRequest, out: &mut Vec<u8>) -> Option<Wait> {
        self.wake(owned.received);
        let context = Arc::clone(&self.context);
        // The body was parsed before, so it is valid and names a namespace and a record.
        let parsed = Request::parse(&owned.body).ok();
        let Some((request, namespace)) =
            parsed.as_ref().and_then(|request| Some((request, context.namespace_of(request)?)))
        else {
            reply::write_header_only(out, &ReplyHeader::result(ResultCode::Parameter));
            return None;
        };
        let deadline = context.deadline_of(request, owned);
        let may_go_on = || context.may_go_on(request, deadline, &*owned.sink);
        if !may_go_on() {
            // A request that waited for room has not changed anything.
            let result = if owned.may_wait { ResultCode::Timeout } else { ResultCode::DeviceOverload };
            context.answer_late(owned, result, out);
            return None;
        }
        let asked = Asked {
            request,
            origin: owned.origin,
            digest: owned.digest,
            has_turn: owned.turn.is_some(),
            has_lost: owned.has_lost,
        };
        if owned.lock_turn.is_some() {
            let short = Budget::new(INLINE_STEPS);
            let step = self.run_asked(namespace, &asked, (&short, Place::Service), owned, out);
            // A long one needs no lock for most of its time: it is queued again, and its turn passes to the next.
            return if matches!(step, Step::Restart(Wait::Pool)) { Some(Wait::Pool) } else { wait_of(step) };
        }
        let budget = Budget::with_refill(PORTION_STEPS, &may_go_on);
        wait_of(self.run_asked(namespace, &asked, (&budget, Place::Pool { deadline }), owned, out))
    }

    /// Runs a request with this budget.
    fn run_asked(
        &mut self,
        namespace: &Namespace,
        asked: &Asked<'_>,
        (budget, place): (&Budget<'_>, Place),
        owned: &OwnedRequest,
        out: &mut Vec<u8>,
    ) -> Step {
        let take_reply_room = |size| owned.sink.take_room(size);
        let patience = Patience::new(LockWait::Sleep, owned.may_wait, Some(&take_reply_room));
        let Executor { context, workspace } = self;
        let terms = (budget, place, patience);
        workspace.execute_single(context, namespace, asked, terms, StoredMillis::now(), out)
    }

    /// Sends the reply of a request, after its changes are on disk.
    fn finish(&mut self, sink: Arc<dyn ReplySink>, reply: Vec<u8>) {
        if !self.has_unsettled() {
            return sink.finish(reply);
        }
        let (unsettled, transactions) = (self.take_unsettled(), self.take_held());
        let context = Arc::clone(&self.context);
        self.hold(reply, &unsettled, move |reply| {
            sink.finish(reply);
            context.measure_held(transactions, Instant::now());
        });
    }
}

/// What a request has to wait for that ran in the pool, if it is not done.
fn wait_of(step: Step) -> Option<Wait> {
    match step {
        Step::Done => None,
        Step::Restart(wait) => {
            let is_long = matches!(wait, Wait::Pool | Wait::Lock(_) | Wait::Fetched);
            assert!(!is_long, "a request in the pool does not wait for {wait:?}");
            Some(wait)
        }
        Step::Query(..) | Step::Batch(_) => unreachable!("a request in the pool is for one record"),
    }
}
