//! The work of the threads of the [pool](super::pool).

use std::sync::Arc;
use std::time::Instant;

use cf::clock::StoredMillis;
use datamodel::Budget;
use proto::ResultCode;
use proto::message::Request;
use proto::reply::{self, ReplyHeader};

use super::base::limit_of;
use super::call::{INLINE_STEPS, Place};
use super::executor::{Asked, Executor};
use super::pool::{PORTION_STEPS, Pool};
use super::sink::ReplySink;
use super::step::Step;
use super::wait::{ModuleShare, OwnedRequest, Patience, Wait};
use crate::index::LockWait;
use crate::namespace::Namespace;
use crate::storage::DiskCaller;
use crate::udf::TimeLimit;
use crate::workers::Work;

/// A pool thread's work.
pub(crate) struct PoolWorker {
    executor: Executor,
}

impl PoolWorker {
    /// A worker that carries requests out with `executor`.
    pub(crate) fn new(executor: Executor) -> Self {
        PoolWorker { executor: executor.for_pool(DiskCaller::Transactions) }
    }
}

/// Gives the call's place in the share back when it is dropped, however the call leaves its thread.
struct Admitted(Arc<Pool>, ModuleShare);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.give_back_share(&self.1);
    }
}

impl Work<OwnedRequest> for PoolWorker {
    fn run(&mut self, mut request: OwnedRequest) {
        let share = request.share.take();
        let _admitted = share.map(|share| Admitted(Arc::clone(&self.executor.context.pool), share));
        if request.has_lock_turn() {
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
        if !context.may_go_on(request, &TimeLimit::until(deadline), &*owned.sink) {
            // A request that waited for room has not changed anything.
            let result = if owned.may_wait { ResultCode::Timeout } else { ResultCode::DeviceOverload };
            context.answer_late(owned, result, out);
            return None;
        }
        let asked = Asked {
            request,
            origin: owned.origin,
            digest: owned.digest,
            has_turn: owned.has_turn(),
            has_lost: owned.has_lost,
        };
        if owned.has_lock_turn() {
            let short = Budget::new(INLINE_STEPS);
            let step = self.run_asked(namespace, &asked, (&short, Place::Service), owned, out);
            // A long request needs the lock only for a small part of its time. It is queued again, and its lock turn
            // passes to the next request.
            return if matches!(step, Step::Restart(Wait::Pool)) { Some(Wait::Pool) } else { wait_of(step) };
        }
        let limit = limit_of(request, context.time_max(request), deadline);
        let may_go_on = || context.may_go_on(request, &limit, &*owned.sink);
        let budget = Budget::with_refill(PORTION_STEPS, &may_go_on);
        wait_of(self.run_asked(namespace, &asked, (&budget, Place::Pool { limit }), owned, out))
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
        let (unsettled, mut transactions) = (self.take_unsettled(), self.take_held());
        let context = Arc::clone(&self.context);
        self.hold(reply, &unsettled, move |reply| {
            sink.finish(reply);
            transactions.end(&context, Instant::now());
        });
    }
}

/// The wait of a request that ran in the pool; `None` if it is done.
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
