//! The transaction pool: threads for requests that are too long for a service thread.
//!
//! A request runs here from its start, on a copy of its record. Its budget ends at its deadline, or when nobody waits for it
//! any more: when a client has gone whose request only reads, or when the server stops.
//!
//! # Threads
//! [`thread_count`] threads share one queue. There are more of them than processors, so that a request of a millisecond
//! does not wait for one of a second; the system shares the processors among them, with less weight than the service
//! threads have.

use std::sync::Arc;
use std::time::Instant;

use datamodel::Budget;
use proto::ResultCode;
use proto::message::{Request, info2};
use proto::reply::{self, ReplyHeader};

use super::{Executor, OwnedRequest, Place, ReplySink, Step, TransactionContext, Wait};
use crate::metrics::{Operation, Origin};
use crate::workers::Work;

/// Steps, of about a nanosecond each, between two looks at the clock.
pub(super) const PORTION_STEPS: u64 = 500_000;
const THREADS_PER_PROCESSOR: usize = 4;
const THREADS_MIN: usize = 16;

/// How many threads the pool has.
pub(crate) fn thread_count() -> usize {
    (cf::threads::cpu_count() * THREADS_PER_PROCESSOR).max(THREADS_MIN)
}

impl TransactionContext {
    /// Has a request run again from its start when the wait is over.
    pub(crate) fn restart(&self, wait: Wait, request: OwnedRequest) {
        let resumed = match wait {
            Wait::Pool => Err(request),
            Wait::Record(key) => self.waits.park(&key, request),
        };
        if let Err(request) = resumed {
            self.pool.submit(request);
        }
    }

    /// Whether a request that has until `deadline` may go on; its reply goes to `sink`.
    pub(super) fn may_go_on(&self, request: &Request<'_>, deadline: Instant, sink: &dyn ReplySink) -> bool {
        let only_reads = request.info2 & info2::WRITE == 0;
        Instant::now() < deadline && !(only_reads && self.is_unheard(sink))
    }

    /// Whether nobody hears of what is read for `sink`.
    pub(super) fn is_unheard(&self, sink: &dyn ReplySink) -> bool {
        self.is_stopping() || sink.is_closed()
    }
}

/// What a thread of the pool does.
pub(crate) struct PoolWorker {
    executor: Executor,
}

impl PoolWorker {
    /// One that carries requests out by `executor`.
    pub(crate) fn new(executor: Executor) -> Self {
        PoolWorker { executor }
    }
}

impl Work<OwnedRequest> for PoolWorker {
    fn run(&mut self, request: OwnedRequest) {
        let mut reply = Vec::new();
        self.executor.execute_in_pool(&request, &mut reply);
        self.executor.finish(request.sink, reply);
        self.executor.measure(Instant::now());
    }
}

impl Executor {
    /// Carries out a request for one record that a service thread has given up. Its reply is appended to `out`.
    pub(super) fn execute_in_pool(&mut self, owned: &OwnedRequest, out: &mut Vec<u8>) {
        self.wake(owned.received);
        let context = Arc::clone(&self.context);
        // It was parsed before, and names a namespace and a record.
        let parsed = Request::parse(&owned.body).ok();
        let Some((request, namespace)) =
            parsed.as_ref().and_then(|request| Some((request, context.namespace_of(request)?)))
        else {
            return reply::write_header_only(out, &ReplyHeader::result(ResultCode::Parameter));
        };
        let deadline = owned.received + context.time_max(request);
        let may_go_on = || context.may_go_on(request, deadline, &*owned.sink);
        if !may_go_on() {
            namespace.metrics.count(Origin::Client, Operation::Tsvc, ResultCode::Timeout);
            return reply::write_header_only(out, &ReplyHeader::result(ResultCode::Timeout));
        }
        let budget = Budget::with_refill(PORTION_STEPS, &may_go_on);
        let place = Place::Pool { deadline };
        let step =
            self.workspace.execute_single(&context, namespace, request, (&budget, place), owned.now, out);
        assert!(matches!(step, Step::Done), "a request in the pool waits for nothing else");
    }

    /// Sends the reply of a request, once what it tells of is on disk.
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
