//! Queries: requests for many records. Basic queries send the records, by primary or secondary index, as a whole or
//! page by page; aggregations send values that a function computes from them; background queries change them.
//!
//! ```text
//! request      what a request asks for, checked
//! operations   what is to be done with the records
//! condition    the predicate on a secondary index
//! run          one query in one or several threads; threads, pace: those threads and the rate
//! walker       the work of one of these threads; walked: the partition it works on, reserved meanwhile
//! primary      a partition, walked by the primary index; secondary: by a secondary index
//! repeats      which rows of a record with several entries are sent
//! row          one record as a message
//! background   operations that change records
//! aggregate    stream functions that make values of records
//! job          a query as info commands show it
//! ```
//!
//! # Threads
//! Queries run in threads of their own, at most `query-threads-limit` together; a long one in up to
//! `single-query-threads`. A query reads one record at a time under its sprig's lock, shared, and never waits for the
//! client while it holds a lock. The partition it reads is reserved, except while it waits.
//!
//! # Locking
//! `jobs` is taken alone and briefly.

mod aggregate;
mod background;
mod condition;
mod job;
mod operations;
mod pace;
mod primary;
mod repeats;
mod request;
mod row;
mod run;
mod secondary;
#[cfg(test)]
mod tests;
mod threads;
mod walked;
mod walker;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use datamodel::Budget;
use parking_lot::Mutex;
use proto::ResultCode;
use proto::message::{Request, field};
use proto::reply::{self, ReplyHeader};

use crate::config::{Config, Engine};
use crate::metrics::{Latency, Unit};
use crate::namespace::Namespace;
use crate::security::Permit;
use crate::sindex::SecondaryIndexes;
use crate::storage::DiskCaller;
use crate::transaction::{ReplySink, StalledSenders, TransactionContext};

use job::{End, Job, JobKind};
pub(crate) use request::Query;
use run::{QueryRun, last_reply};
use threads::Threads;

/// How much lower the priority of long queries' threads is than that of service threads: about a tenth of the share.
const LONG_QUERY_NICENESS: i32 = 10;
/// Steps, of about a nanosecond each, between two checks whether a query being parsed is still wanted.
const PARSE_PORTION_STEPS: u64 = 10_000_000;
/// Up to this rate one thread is enough for a query.
const ONE_THREAD_RATE_MAX: u32 = 20_000;

/// Longest wait of a background query's client for the reply that it has begun.
const BEGUN_TIME_MAX: Duration = Duration::from_millis(250);
/// Maximum number of clients that may wait for this at a time. Others get the reply at once.
const BEGUN_THREADS_MAX: usize = 16;

/// Including threads that wait for their clients, there may be this many times `query-threads-limit` threads.
const STALLED_FACTOR: usize = 4;

/// Answers a query that is not started, with the reason.
pub(crate) fn refuse(out: &mut Vec<u8>, reason: ResultCode) {
    // The message is not marked as the last of many replies.
    reply::write_header_only(out, &ReplyHeader::result(reason));
}

/// The client and the user of a query.
pub(crate) struct Requester {
    /// Address of the client.
    pub(crate) address: SocketAddr,
    /// Ends the query when its user loses the right; `None` without access control.
    pub(crate) permit: Option<Permit>,
}

/// The queries of a server.
pub(crate) struct Queries {
    config: Arc<Config>,
    /// Processors that this process may use.
    cpu_count: usize,
    transactions: Arc<TransactionContext>,
    indexes: Arc<SecondaryIndexes>,
    is_stopping: Arc<AtomicBool>,
    long_threads: Arc<Threads>,
    short_threads: Arc<Threads>,
    /// Threads that wait for the ends of background queries.
    begun_threads: Arc<Threads>,
    /// Counts threads that wait for their clients; others may run in their place.
    pub(crate) stalled: Arc<StalledSenders>,
    /// The last number given to a query without one.
    last_id: AtomicU32,
    jobs: Mutex<Jobs>,
}

/// The long queries, oldest first.
#[derive(Default)]
struct Jobs {
    active: Vec<Arc<Job>>,
    /// At most `query-max-done`.
    done: VecDeque<Arc<Job>>,
}

impl Queries {
    pub(crate) fn new(
        config: Arc<Config>,
        transactions: Arc<TransactionContext>,
        indexes: Arc<SecondaryIndexes>,
    ) -> Self {
        Queries {
            config,
            cpu_count: cf::threads::cpu_count(),
            transactions,
            indexes,
            is_stopping: Arc::default(),
            long_threads: Arc::new(Threads::new("query", LONG_QUERY_NICENESS)),
            short_threads: Arc::new(Threads::new("short-query", 0)),
            begun_threads: Arc::new(Threads::new("query-begun", 0)),
            last_id: AtomicU32::new(0),
            stalled: Arc::default(),
            jobs: Mutex::default(),
        }
    }

    /// Parses and checks a query request of `namespace`, and charges its rate to the quota of `requester`; `body` is
    /// the message that it was parsed from.
    ///
    /// # Errors
    /// The client's result instead, unless the budget is exhausted.
    pub(crate) fn parse(
        &self,
        request: &Request<'_>,
        body: &[u8],
        namespace: &Arc<Namespace>,
        requester: &mut Requester,
        budget: &Budget<'_>,
    ) -> Result<Query, ResultCode> {
        if request.has_field(field::UDF_FILE) && self.config.service.disable_udf_execution.get() {
            return Err(ResultCode::Forbidden);
        }
        let next_id = || u64::from(self.last_id.fetch_add(1, Ordering::Relaxed).wrapping_add(1));
        let query = Query::from_request(request, body, namespace, &self.indexes, next_id, budget)?;
        if let Some(permit) = &mut requester.permit {
            permit.reserve(query.records_per_second)?;
        }
        Ok(query)
    }

    /// Passes the query in the message `body` to a thread that parses and starts it, because its filter or region is
    /// too large for a service thread.
    ///
    /// # Errors
    /// `Forbidden` at the limit of threads.
    pub(crate) fn parse_and_start(
        self: &Arc<Self>,
        body: Box<[u8]>,
        namespace: Arc<Namespace>,
        mut requester: Requester,
        sink: Arc<dyn ReplySink>,
    ) -> Result<(), ResultCode> {
        let (queries, started) = (Arc::clone(self), Instant::now());
        let task = Box::new(move || {
            let parsed = Request::parse(&body).map_err(|_| ResultCode::Parameter);
            let time_max = parsed.as_ref().ok().and_then(|request| request::short_time(request, &namespace));
            let may_go_on = || {
                let is_late = time_max.is_some_and(|limit| started.elapsed() > limit);
                !is_late && !queries.is_stopping.load(Ordering::Relaxed) && !sink.is_closed()
            };
            let budget = Budget::with_refill(PARSE_PORTION_STEPS, &may_go_on);
            let mut parse = |request| queries.parse(&request, &body, &namespace, &mut requester, &budget);
            let query = parsed.and_then(|request| budget.check(parse(request)));
            if let Err(result) = query.and_then(|query| queries.start(query, requester, Arc::clone(&sink))) {
                let mut refusal = Vec::new();
                reply::write_header_only(&mut refusal, &ReplyHeader::last(result));
                sink.finish(refusal);
            }
        });
        let limit = self.short_threads.at_work() + self.threads_left();
        if self.short_threads.try_spawn(limit, task) { Ok(()) } else { Err(ResultCode::Forbidden) }
    }

    /// The whole answer to `query` of `client`, if its namespace answers short queries inline and the query takes no
    /// longer than a service thread may take.
    ///
    /// # Errors
    /// The query, to be [started](Self::start): nothing has changed.
    pub(crate) fn answer_inline(&self, query: Box<Query>, client: SocketAddr) -> Result<Vec<u8>, Box<Query>> {
        if !query.is_short() || !query.namespace.config().params.inline_short_queries.get() {
            return Err(query);
        }
        let (namespace, started) = (Arc::clone(&query.namespace), Instant::now());
        let job = Arc::new(Job::new(&query, client));
        let transactions = Arc::clone(&self.transactions);
        let ends = (Arc::clone(&self.stalled), Arc::clone(&self.is_stopping));
        let run = QueryRun::new(*query, Arc::clone(&job), None, None, transactions, ends);
        let answer = run.answer_inline()?;
        self.count_end(&namespace, &job, End::Complete, started);
        Ok(answer)
    }

    /// Starts `query` of `requester`. Its replies, including the last one, go to `sink`.
    ///
    /// # Errors
    /// `Forbidden` at the limit of threads, `Parameter` if a query with its number exists; then `sink` gets nothing.
    pub(crate) fn start(
        self: &Arc<Self>,
        query: Query,
        requester: Requester,
        sink: Arc<dyn ReplySink>,
    ) -> Result<(), ResultCode> {
        let is_full = self.threads_left() == 0 || self.has_its_share(&query);
        if is_full || self.is_stopping.load(Ordering::Acquire) {
            if self.at_work() >= self.threads_max() {
                self.stalled.want_one();
            }
            cf::warning_limited!(
                Query,
                "cannot start a query: as many threads as query-threads-limit allows are at work"
            );
            return Err(ResultCode::Forbidden);
        }
        let Requester { address, permit } = requester;
        let job = self.enter(&query, address)?;
        let thread_count = self.thread_count(&query);
        // The client of a background query is only told that it has begun.
        let (own_sink, at_start) = if query.has_client() { (Some(sink), None) } else { (None, Some(sink)) };
        let (transactions, is_stopping) = (Arc::clone(&self.transactions), Arc::clone(&self.is_stopping));
        let ends = (Arc::clone(&self.stalled), is_stopping);
        let run = Arc::new(QueryRun::new(query, Arc::clone(&job), own_sink, permit, transactions, ends));
        if !self.spawn(&run) {
            self.leave(&job, false);
            return Err(ResultCode::Forbidden);
        }
        if let Some(sink) = at_start {
            self.tell_begun(&run, sink);
        }
        for _ in 1..thread_count {
            // Threads that run in the place of waiting ones are for other queries.
            let is_full = self.at_work() >= self.config.service.query_threads_limit.get() as usize;
            if is_full || !run.has_parts_left() || !run.join_in() {
                break;
            }
            if !self.spawn(&run) {
                // The other threads may have left meanwhile.
                if let Some(end) = run.leave() {
                    self.end(&run, end);
                }
                break;
            }
        }
        Ok(())
    }

    /// Tells the client of a background query that it has begun, as soon as the query has ended, or after
    /// [`BEGUN_TIME_MAX`]. So a client that changes few records in the background finds them changed.
    fn tell_begun(&self, run: &Arc<QueryRun>, sink: Arc<dyn ReplySink>) {
        let (own, told) = (Arc::clone(run), Arc::clone(&sink));
        let wait = Box::new(move || {
            own.await_end(BEGUN_TIME_MAX);
            told.finish(last_reply(End::Complete));
        });
        if !self.begun_threads.try_spawn(BEGUN_THREADS_MAX, wait) {
            sink.finish(last_reply(End::Complete));
        }
    }

    /// Number of threads at work, including those that wait for their clients.
    fn at_work(&self) -> usize {
        self.long_threads.at_work() + self.short_threads.at_work()
    }

    /// Maximum number of threads that may ever exist.
    fn threads_max(&self) -> usize {
        (self.config.service.query_threads_limit.get() as usize).saturating_mul(STALLED_FACTOR)
    }

    /// Number of further threads that may be at work.
    fn threads_left(&self) -> usize {
        let waiting = self.stalled.count() + self.transactions.disk_watch.hanging(DiskCaller::Queries);
        let limit = self.config.service.query_threads_limit.get() as usize + waiting;
        limit.min(self.threads_max()).saturating_sub(self.at_work())
    }

    /// Whether `query` gets no thread, because its disk does not answer and queries already use half of their
    /// threads. The other half is for other namespaces.
    fn has_its_share(&self, query: &Query) -> bool {
        let share = (self.config.service.query_threads_limit.get() as usize).div_ceil(2);
        query.namespace.storage.is_stuck() && self.at_work() >= share
    }

    /// Number of threads for a query.
    fn thread_count(&self, query: &Query) -> usize {
        let is_slow = query.records_per_second != 0 && query.records_per_second <= ONE_THREAD_RATE_MAX;
        if query.is_short() || is_slow {
            return 1;
        }
        let config = query.namespace.config();
        let limit = config.params.single_query_threads.get() as usize;
        // A thread that only reads memory needs a processor all the time. Threads beyond the number of processors would
        // make other clients wait longer.
        let only_reads_memory = query.has_client() && config.storage.engine != Engine::Device;
        let useful = if only_reads_memory { self.cpu_count } else { usize::MAX };
        limit.min(useful).min(query.parts.len())
    }

    /// Starts a thread on a query, which has already counted it; returns whether one is available.
    fn spawn(self: &Arc<Self>, run: &Arc<QueryRun>) -> bool {
        let threads = if run.query.is_short() { &self.short_threads } else { &self.long_threads };
        let limit = threads.at_work() + self.threads_left();
        let (queries, own) = (Arc::clone(self), Arc::clone(run));
        threads.try_spawn(limit, Box::new(move || queries.run_thread(&own)))
    }

    /// The body of one thread of a query.
    fn run_thread(&self, run: &Arc<QueryRun>) {
        let walk = AssertUnwindSafe(|| {
            cf::fault_point!("query");
            run.run_thread()
        });
        // A panic is a bug of ours. It must not leave the client waiting and the query active for ever.
        let ended = catch_unwind(walk).unwrap_or_else(|_| {
            cf::critical!(Query, "a query failed on an internal error");
            run.end_with(End::Failed);
            run.leave()
        });
        if let Some(end) = ended {
            self.end(run, end);
        }
    }

    /// Ends a query; the last message goes to its client.
    fn end(&self, run: &QueryRun, end: End) {
        let (job, namespace) = (&run.job, &run.query.namespace);
        job.count_last_message(end);
        job.end(end);
        self.count_end(namespace, job, end, run.started);
        self.leave(job, true);
        run.finish(end);
    }

    /// Counts a query that began at `started` and has ended.
    fn count_end(&self, namespace: &Namespace, job: &Job, end: End, started: Instant) {
        namespace.metrics.add(end.counter(job.sort), 1);
        if job.sort.kind == JobKind::ShortBasic && end == End::Complete {
            let latency = if job.sort.is_secondary { Latency::SiQuery } else { Latency::PiQuery };
            let unit = Unit::configured(&self.config);
            namespace.metrics.latency(latency).add(unit, started.elapsed(), 1);
            let rows = job.records_sent.load(Ordering::Relaxed);
            namespace.metrics.query_rows[usize::from(job.sort.is_secondary)].add_size(rows);
        }
    }

    /// Adds the query to the jobs.
    fn enter(&self, query: &Query, client: SocketAddr) -> Result<Arc<Job>, ResultCode> {
        let job = Arc::new(Job::new(query, client));
        if query.is_short() {
            return Ok(job);
        }
        let mut jobs = self.jobs.lock();
        if jobs.active.iter().chain(&jobs.done).any(|other| other.id == job.id) {
            cf::warning_limited!(Query, "a query with the number {} exists already", job.id);
            return Err(ResultCode::Parameter);
        }
        jobs.active.push(Arc::clone(&job));
        Ok(job)
    }

    /// Removes the query of `job` from the running ones; it is kept among the finished ones if it ever ran.
    fn leave(&self, job: &Arc<Job>, ran: bool) {
        let max_done = self.config.service.query_max_done.get() as usize;
        let mut jobs = self.jobs.lock();
        let before = jobs.active.len();
        jobs.active.retain(|active| !Arc::ptr_eq(active, job));
        if ran && jobs.active.len() < before {
            jobs.done.push_back(Arc::clone(job));
        }
        jobs.limit_done(max_done);
    }

    /// Drops finished queries beyond `query-max-done`.
    pub(crate) fn limit_done(&self) {
        let max_done = self.config.service.query_max_done.get() as usize;
        self.jobs.lock().limit_done(max_done);
    }

    /// Number of running long queries.
    pub(crate) fn long_count(&self) -> usize {
        self.jobs.lock().active.len()
    }

    /// All jobs, newest first, running ones before finished ones.
    pub(crate) fn jobs(&self) -> Vec<Arc<Job>> {
        let jobs = self.jobs.lock();
        jobs.active.iter().rev().chain(jobs.done.iter().rev()).cloned().collect()
    }

    /// The query with number `id`, running or finished.
    pub(crate) fn job(&self, id: u64) -> Option<Arc<Job>> {
        self.jobs().into_iter().find(|job| job.id == id)
    }

    /// Asks the running query with number `id` to end; `false` if there is none.
    pub(crate) fn abort(&self, id: u64) -> bool {
        let jobs = self.jobs.lock();
        let job = jobs.active.iter().find(|job| job.id == id);
        job.inspect(|job| job.is_aborted.store(true, Ordering::Relaxed)).is_some()
    }

    /// Asks all long queries to end; returns their number.
    pub(crate) fn abort_all(&self) -> usize {
        let jobs = self.jobs.lock();
        jobs.active.iter().for_each(|job| job.is_aborted.store(true, Ordering::Relaxed));
        jobs.active.len()
    }

    /// Asks all queries to end, and lets none start.
    pub(crate) fn begin_stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
    }

    /// Ends all queries and waits for their threads, until `deadline` at most. No query starts afterwards. Returns
    /// the names of the threads that still run.
    pub(crate) fn stop_until(&self, deadline: Instant) -> Vec<String> {
        self.begin_stop();
        let threads = [&self.long_threads, &self.short_threads, &self.begun_threads];
        threads.iter().flat_map(|threads| threads.stop_until(deadline)).collect()
    }
}

impl Jobs {
    fn limit_done(&mut self, max_done: usize) {
        while self.done.len() > max_done {
            self.done.pop_front();
        }
    }
}
